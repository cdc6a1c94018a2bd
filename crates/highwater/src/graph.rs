//! The flow under construction on one worker: steps so far, restored rows in, snapshots out.

use crate::error::{BuildError, RunError};
use crate::restored::{PackedRows, RestoredPositions, RestoredStates};
use crate::route::Router;
use crate::shared::Shared;
use crate::snapshot::{SnapshotRows, StepIndex};
use crate::time::Time;
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use timely::dataflow::operators::probe::Handle as ProbeHandle;
use timely::dataflow::{Scope, StreamVec};

/// A stream that never carries anything: its frontier says how far an operator is.
pub(crate) type Signal<'s> = StreamVec<'s, Time, ()>;

/// A row that its worker does not own: a position, on its way to the owner of its key group.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct Change {
    pub(crate) step: StepIndex,
    pub(crate) key: Vec<u8>,
    pub(crate) value: Vec<u8>,
}

/// What a step keeps in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StepKind {
    Source,
    State,
    Sink,
    Count,
}

impl StepKind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            StepKind::Source => "source",
            StepKind::State => "state",
            StepKind::Sink => "sink",
            StepKind::Count => "count",
        }
    }
}

/// What the operator of a run has set that steps must know.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) line_bytes_max: usize,
    pub(crate) accept_new_input: bool,
    pub(crate) rewind_sinks: Vec<String>,
}

/// Partitions of each source, listed once for all workers; `None` if that failed.
pub(crate) type Listings = Mutex<HashMap<String, Option<Vec<String>>>>;

/// Work that waits for the start: nothing outside may change before.
pub(crate) type OnStart = Box<dyn FnOnce() -> Result<Option<JoinHandle<()>>, RunError>>;

/// The flow under construction on one worker.
pub(crate) struct Graph<'s> {
    pub(crate) scope: Scope<'s, Time>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) settings: Arc<Settings>,
    pub(crate) listings: Arc<Listings>,
    pub(crate) worker: usize,
    pub(crate) workers: usize,
    pub(crate) router: Router,
    /// Where snapshots go; absent without recovery.
    pub(crate) rows: Option<SnapshotRows>,
    pub(crate) positions: Arc<RestoredPositions>,
    /// How far the whole flow has worked off its input: what flow control looks at.
    pub(crate) processed: ProbeHandle<Time>,
    pub(crate) declared: RefCell<Declared<'s>>,
    states: RefCell<RestoredStates>,
}

/// What steps have told the graph.
#[derive(Default)]
pub(crate) struct Declared<'s> {
    pub(crate) steps: Vec<(String, StepKind)>,
    pub(crate) errors: Vec<BuildError>,
    /// Reasons to refuse the start that are not the flow's fault.
    pub(crate) refusals: Vec<RunError>,
    pub(crate) claims: Vec<String>,
    pub(crate) on_start: Vec<OnStart>,
    /// Frontiers behind the rows of every step.
    pub(crate) closings: Vec<Signal<'s>>,
    /// Rows on their way to their owners.
    pub(crate) changes: Vec<StreamVec<'s, Time, Change>>,
    /// Frontiers behind the work of every step.
    pub(crate) ends: Vec<Signal<'s>>,
}

impl Declared<'_> {
    /// Whether `name` is what highwater calls the count of skipped items of a step.
    fn is_count_of_a_step(&self, name: &str, kind: StepKind) -> bool {
        let step = name.strip_suffix("#skipped");
        kind == StepKind::Count && step.is_some_and(|step| self.steps.iter().any(|(other, _)| other == step))
    }
}

/// What a graph is made of, beside the scope.
pub(crate) struct GraphParts {
    pub(crate) shared: Arc<Shared>,
    pub(crate) settings: Arc<Settings>,
    pub(crate) listings: Arc<Listings>,
    pub(crate) worker: usize,
    pub(crate) router: Router,
    pub(crate) workers: usize,
    pub(crate) rows: Option<SnapshotRows>,
    pub(crate) positions: Arc<RestoredPositions>,
    pub(crate) states: RestoredStates,
}

impl<'s> Graph<'s> {
    pub(crate) fn new(scope: Scope<'s, Time>, parts: GraphParts) -> Rc<Graph<'s>> {
        Rc::new(Graph {
            scope,
            shared: parts.shared,
            settings: parts.settings,
            listings: parts.listings,
            worker: parts.worker,
            workers: parts.workers,
            router: parts.router,
            rows: parts.rows,
            positions: parts.positions,
            processed: ProbeHandle::new(),
            declared: RefCell::default(),
            states: RefCell::new(parts.states),
        })
    }

    /// Takes a step name; a taken or unusable one is reported with all other building errors.
    pub(crate) fn declare(&self, step: &str, kind: StepKind) -> StepIndex {
        let mut declared = self.declared.borrow_mut();
        let owned = || step.to_owned();
        if step.is_empty() || step.len() > 128 {
            let reason = "must have 1 to 128 bytes".to_owned();
            declared.errors.push(BuildError::StepName { step: owned(), reason });
        } else if step.contains('#') && !declared.is_count_of_a_step(step, kind) {
            let reason = "'#' is kept for names that highwater makes".to_owned();
            declared.errors.push(BuildError::StepName { step: owned(), reason });
        } else if declared.steps.iter().any(|(other, _)| other == step) {
            declared.errors.push(BuildError::DuplicateStep { step: owned() });
        }
        let index = u16::try_from(declared.steps.len()).expect("a flow of 65,536 steps is refused by memory first");
        declared.steps.push((owned(), kind));
        StepIndex(index)
    }

    /// The states that this worker restores for `step`. Each step takes its own, once.
    pub(crate) fn take_states(&self, step: &str) -> PackedRows {
        self.states.borrow_mut().0.remove(step).unwrap_or_default()
    }

    /// Refuses the start.
    pub(crate) fn refuse(&self, error: RunError) {
        self.declared.borrow_mut().refusals.push(error);
    }
}
