//! The flow under construction on one worker: steps so far, restored rows in, snapshots out.

use crate::batch::Items;
use crate::error::{BuildError, RunError};
use crate::evolution::Evolution;
use crate::helpers::Helpers;
use crate::letter::Letter;
use crate::listing::Listing;
use crate::meter::Meter;
use crate::policy::OnError;
use crate::restored::{PackedRows, RestoredPositions, RestoredStates};
use crate::route::Router;
use crate::shared::Shared;
use crate::snapshot::{SnapshotRows, StepIndex};
use crate::time::Time;
use highwater_store::Epoch;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use timely::dataflow::operators::probe::Handle as ProbeHandle;
use timely::dataflow::{Scope, StreamVec};

/// A stream that never carries anything: its frontier says how far an operator is.
pub(crate) type Signal<'s> = StreamVec<'s, Time, ()>;

/// The stream behind the rows of a step: its frontier says which epochs are written, and it carries what the
/// step has set aside.
pub(crate) type Closing<'s> = Items<'s, Letter>;

/// A row that its worker does not own: a position, on its way to the owner of its key group.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct Change {
    pub(crate) step: StepIndex,
    pub(crate) key: Vec<u8>,
    /// `None` takes the row out of the store.
    pub(crate) value: Option<Vec<u8>>,
}

/// What a step keeps in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StepKind {
    Source,
    State,
    Sink,
    Count,
    /// The schema of a step's states.
    Schema,
}

impl StepKind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            StepKind::Source => "source",
            StepKind::State => "state",
            StepKind::Sink => "sink",
            StepKind::Count => "count",
            StepKind::Schema => "schema",
        }
    }
}

/// What the operator of a run has set that steps must know.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Name of the flow.
    pub(crate) flow: String,
    pub(crate) line_bytes_max: usize,
    pub(crate) state_bytes_max: usize,
    pub(crate) accept_new_input: bool,
    pub(crate) rewind_sinks: Vec<String>,
    pub(crate) accept_shapes: Vec<String>,
    /// Where dead letters go.
    pub(crate) dead_letters: Option<PathBuf>,
    /// Dead letters, mended, that are fed in again.
    pub(crate) retry: Option<PathBuf>,
    /// The flow is only written down: nothing may be listed, opened or locked.
    pub(crate) sketch: bool,
}

/// The step that writes dead letters.
pub(crate) const DEAD_LETTERS: &str = "#dead-letters";

/// Partitions of each source, listed by one worker for all; `None` if that failed.
pub(crate) type Listings = Mutex<HashMap<String, Option<Arc<Listing>>>>;

/// Work that waits for the start: nothing outside may change before.
pub(crate) type OnStart = Box<dyn FnOnce() -> Result<Option<JoinHandle<()>>, RunError>>;

/// Told, between two steps of the worker, up to which epoch all is committed: each time that it is more.
pub(crate) type OnCommit = Box<dyn FnMut(Epoch)>;

/// The flow under construction on one worker.
pub(crate) struct Graph<'s> {
    pub(crate) scope: Scope<'s, Time>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) settings: Arc<Settings>,
    pub(crate) listings: Arc<Listings>,
    /// Who may help this worker, and whom it may.
    pub(crate) helpers: Helpers,
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
    evolutions: RefCell<HashMap<String, Evolution>>,
    policies: RefCell<BTreeMap<String, Policy>>,
    /// What stands before the names of steps: the scopes that are being written down, each with its dot.
    prefix: RefCell<String>,
}

/// The error policy of one step.
#[derive(Default)]
struct Policy {
    now: Rc<Cell<OnError>>,
    /// The flow has chosen it.
    chosen: bool,
    /// There is such a step.
    used: bool,
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
    pub(crate) closings: Vec<Closing<'s>>,
    /// Rows on their way to their owners.
    pub(crate) changes: Vec<Items<'s, Change>>,
    /// Frontiers behind the work of every step.
    pub(crate) ends: Vec<Signal<'s>>,
    /// The same, of steps that hear of an epoch only at its end: flow control must not wait for them.
    pub(crate) late_ends: Vec<Signal<'s>>,
    /// Who wants to know on this worker what is committed everywhere.
    pub(crate) on_commit: Vec<OnCommit>,
}

impl Declared<'_> {
    /// Whether `name` is what highwater calls something beside a step: what it skipped, what comes again, the schema of its states, or
    /// the file of dead letters.
    fn is_ours(&self, name: &str, kind: StepKind) -> bool {
        let step = match kind {
            StepKind::Count => name.strip_suffix("#skipped"),
            StepKind::Source => name.strip_suffix("#retry"),
            StepKind::Schema => name.strip_suffix("#schema"),
            StepKind::Sink => return name == DEAD_LETTERS,
            StepKind::State => None,
        };
        step.is_some_and(|step| self.steps.iter().any(|(other, _)| other == step))
    }
}

/// What a graph is made of, beside the scope.
pub(crate) struct GraphParts {
    pub(crate) shared: Arc<Shared>,
    pub(crate) settings: Arc<Settings>,
    pub(crate) listings: Arc<Listings>,
    /// Who may help this worker, and whom it may.
    pub(crate) helpers: Helpers,
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
            helpers: parts.helpers,
            worker: parts.worker,
            workers: parts.workers,
            router: parts.router,
            rows: parts.rows,
            positions: parts.positions,
            processed: ProbeHandle::new(),
            declared: RefCell::default(),
            states: RefCell::new(parts.states),
            evolutions: RefCell::default(),
            policies: RefCell::default(),
            prefix: RefCell::default(),
        })
    }

    /// Writes down what `build` does within the scope `name`.
    pub(crate) fn within<R>(&self, name: &str, build: impl FnOnce() -> R) -> R {
        let whole = self.full(name);
        if name.is_empty() || name.contains('#') {
            let reason = "the name of a scope is not empty and has no '#'".to_owned();
            self.declared.borrow_mut().errors.push(BuildError::StepName { step: whole.clone(), reason });
        }
        let outside = self.prefix.replace(whole + ".");
        let built = build();
        self.prefix.replace(outside);
        built
    }

    /// The whole name of a step that is written down here. Names that highwater makes are whole.
    pub(crate) fn full(&self, step: &str) -> String {
        match step.contains('#') {
            true => step.to_owned(),
            false => format!("{}{step}", self.prefix.borrow()),
        }
    }

    /// Takes a step name; a taken or unusable one is reported with all other building errors.
    pub(crate) fn declare(&self, step: &str, kind: StepKind) -> StepIndex {
        let mut declared = self.declared.borrow_mut();
        let owned = || step.to_owned();
        if step.is_empty() || step.len() > 128 {
            let reason = "must have 1 to 128 bytes".to_owned();
            declared.errors.push(BuildError::StepName { step: owned(), reason });
        } else if step.contains('#') && !declared.is_ours(step, kind) {
            let reason = "'#' is kept for names that highwater makes".to_owned();
            declared.errors.push(BuildError::StepName { step: owned(), reason });
        } else if declared.steps.iter().any(|(other, _)| other == step) {
            declared.errors.push(BuildError::DuplicateStep { step: owned() });
        }
        let index = u16::try_from(declared.steps.len()).expect("a flow of 65,536 steps is refused by memory first");
        declared.steps.push((owned(), kind));
        StepIndex(index)
    }

    /// What counts for a step on this worker.
    pub(crate) fn meter(&self, step: &str, kind: &'static str) -> Meter {
        self.shared.meters.meter(step, kind, self.worker)
    }

    /// The error policy of a step that can refuse something, as it stands when the flow is built.
    pub(crate) fn policy(&self, step: &str) -> Rc<Cell<OnError>> {
        let policy = &mut *self.policies.borrow_mut();
        let policy = policy.entry(step.to_owned()).or_default();
        if !policy.chosen {
            policy.now.set(self.shared.on_error);
        }
        policy.used = true;
        policy.now.clone()
    }

    /// The flow chooses the policy of a step, before or after it names the step.
    pub(crate) fn choose_policy(&self, step: &str, on_error: OnError) {
        let policy = &mut *self.policies.borrow_mut();
        let policy = policy.entry(step.to_owned()).or_default();
        policy.now.set(on_error);
        policy.chosen = true;
    }

    /// Whether anything may become a dead letter. Called when the flow is built: a policy of no step is a mistake.
    pub(crate) fn sets_aside(&self) -> bool {
        for (step, policy) in &*self.policies.borrow() {
            if !policy.used {
                let reason = "on_error: the flow has no such step that can refuse anything".to_owned();
                self.declared.borrow_mut().errors.push(BuildError::Step { step: step.clone(), reason });
            }
        }
        self.policies.borrow().values().any(|policy| policy.used && policy.now.get() == OnError::DeadLetter)
    }

    /// The states that this worker restores for `step`. Each step takes its own, once.
    pub(crate) fn take_states(&self, step: &str) -> PackedRows {
        self.states.borrow_mut().0.remove(step).unwrap_or_default()
    }

    /// Notes how the states of a step that is yet to come are kept.
    pub(crate) fn evolve(&self, step: &str, note: impl FnOnce(&mut Evolution)) {
        note(self.evolutions.borrow_mut().entry(step.to_owned()).or_default());
    }

    /// How the states of `step` are kept. Each step takes its own, once.
    pub(crate) fn take_evolution(&self, step: &str) -> Evolution {
        self.evolutions.borrow_mut().remove(step).unwrap_or_default()
    }

    /// Says of which steps something was said that nobody took. Called when the flow is built.
    pub(crate) fn check_evolutions(&self) {
        for (step, _) in self.evolutions.borrow_mut().drain() {
            let reason = "a codec or migration was given for it, but no stateful step of this name follows".to_owned();
            self.declared.borrow_mut().errors.push(BuildError::Step { step, reason });
        }
    }

    /// Refuses the start.
    pub(crate) fn refuse(&self, error: RunError) {
        self.declared.borrow_mut().refusals.push(error);
    }
}
