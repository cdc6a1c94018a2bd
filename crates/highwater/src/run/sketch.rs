//! `graph`: the steps of a flow and how they hang together, written down without running it.
//!
//! The closure builds the flow on one worker that never takes a step. Nothing is read, opened or locked, so input that is
//! missing does not matter; what is wrong with the flow itself is reported as at a start. How the steps hang together is
//! taken from what Timely says it has built, so it is the truth, whatever the operators are.

use super::config::Config;
use crate::data::StepError;
use crate::error::{BuildError, RunError};
use crate::flow::Flow;
use crate::graph::{DEAD_LETTERS, Graph, GraphParts, Settings};
use crate::helpers::Helpers;
use crate::route::Router;
use crate::shared::Shared;
use crate::sink::dead_letters;
use highwater_store::Epoch;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::rc::Rc;
use std::sync::Arc;
use timely::logging::{TimelyEvent, TimelyEventBuilder};

/// How a sketch is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    Mermaid,
    Json,
}

/// The steps of a flow, and which goes into which.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Sketch {
    flow: String,
    /// Name and kind, in the order in which the flow has them.
    steps: Vec<(String, &'static str)>,
    edges: BTreeSet<(usize, usize)>,
}

/// What Timely has built: names of operators by their number, and channels between these.
#[derive(Default)]
struct Built {
    operators: BTreeMap<usize, String>,
    channels: BTreeSet<(usize, usize)>,
}

/// Builds the flow and answers its sketch.
pub(super) fn sketch(
    config: &Config,
    build: impl Fn(&Flow<'_>) -> Result<(), StepError> + Send + Sync + 'static,
) -> Result<Sketch, RunError> {
    let shared = Arc::new(Shared::new(Epoch(0), config.epoch_interval, config.on_error, false));
    let settings = Arc::new(Settings { sketch: true, ..config.settings() });
    let router = Router::new(config.key_groups, 1);
    let (meters, flow) = (shared.clone(), config.flow.clone());
    let (errors, built) = timely::execute::execute_directly(move |worker| {
        let built = Rc::new(RefCell::new(Built::default()));
        let log = built.clone();
        if let Some(mut register) = worker.log_register() {
            register.insert::<TimelyEventBuilder, _>("timely", move |_, events| {
                let mut built = log.borrow_mut();
                for (_, event) in events.iter_mut().flat_map(|events| events.drain(..)) {
                    built.note(event);
                }
            });
        }
        let errors = worker.dataflow(|scope| {
            let parts = GraphParts {
                shared,
                settings,
                listings: Arc::default(),
                helpers: Helpers::NONE,
                worker: 0,
                router,
                workers: 1,
                rows: None,
                positions: Arc::default(),
                states: Default::default(),
            };
            let graph = Graph::new(scope, parts);
            if let Err(error) = build(&Flow::new(graph.clone())) {
                graph.declared.borrow_mut().errors.push(BuildError::Flow(error.to_string()));
            }
            dead_letters(&graph);
            graph.check_evolutions();
            let mut declared = graph.declared.borrow_mut();
            std::mem::take(&mut declared.errors)
        });
        if let Some(mut register) = worker.log_register() {
            register.flush();
        }
        for dataflow in worker.installed_dataflows() {
            worker.drop_dataflow(dataflow);
        }
        if let Some(mut register) = worker.log_register() {
            register.remove("timely");
        }
        let built = std::mem::take(&mut *built.borrow_mut());
        (errors, built)
    });
    if !errors.is_empty() {
        return Err(RunError::Build(errors));
    }
    let mut metered = meters.meters.all();
    metered.sort_by_key(|metered| metered.order);
    let steps: Vec<_> = metered.into_iter().map(|metered| (metered.step, metered.kind)).collect();
    let edges = built.edges(&steps);
    Ok(Sketch { flow, steps, edges })
}

impl Built {
    fn note(&mut self, event: TimelyEvent) {
        match event {
            // The dataflow itself has an address of one number, its operators of two, and what is in a loop more.
            TimelyEvent::Operates(operator) => {
                if let [_, number] = operator.addr[..] {
                    self.operators.insert(number, operator.name);
                }
            }
            TimelyEvent::Channels(channel) if channel.scope_addr.len() == 1 => {
                self.channels.insert((channel.source.0, channel.target.0));
            }
            _ => {}
        }
    }

    /// Which step goes into which: operators that are no step are passed through.
    fn edges(&self, steps: &[(String, &'static str)]) -> BTreeSet<(usize, usize)> {
        let step_of = |operator: &usize| {
            let name = self.operators.get(operator)?;
            steps.iter().position(|(step, _)| step == name)
        };
        let mut edges = BTreeSet::new();
        for (source, _) in &self.channels {
            let Some(from) = step_of(source) else { continue };
            let (mut open, mut seen) = (vec![*source], BTreeSet::new());
            while let Some(at) = open.pop() {
                for (_, target) in self.channels.range((at, 0)..=(at, usize::MAX)) {
                    match step_of(target) {
                        Some(to) if to == from => {}
                        Some(to) => {
                            edges.insert((from, to));
                        }
                        None if seen.insert(*target) => open.push(*target),
                        None => {}
                    }
                }
            }
        }
        edges
    }
}

impl Sketch {
    pub(super) fn text(&self, format: Format) -> String {
        match format {
            Format::Mermaid => self.mermaid(),
            Format::Json => self.json(),
        }
    }

    fn mermaid(&self) -> String {
        let mut text = "flowchart LR\n".to_owned();
        for (number, (step, kind)) in self.steps.iter().enumerate() {
            let name = shown(step);
            let _ = match *kind {
                "source" => writeln!(text, "    s{number}([\"{name}\"])"),
                "sink" => writeln!(text, "    s{number}[/\"{name}\"/]"),
                "state" | "raw" => writeln!(text, "    s{number}[(\"{name}\")]"),
                _ => writeln!(text, "    s{number}[\"{name}\"]"),
            };
        }
        for (from, to) in &self.edges {
            // What is set aside goes another way than what goes on.
            let arrow = if self.steps[*to].0 == DEAD_LETTERS { "-.->" } else { "-->" };
            let _ = writeln!(text, "    s{from} {arrow} s{to}");
        }
        text
    }

    fn json(&self) -> String {
        let step = |(name, kind): &(String, &str)| serde_json::json!({ "name": name, "kind": kind });
        let name = |number: usize| &self.steps[number].0;
        let edge = |(from, to): &(usize, usize)| serde_json::json!({ "from": name(*from), "to": name(*to) });
        let (steps, edges): (Vec<_>, Vec<_>) =
            (self.steps.iter().map(step).collect(), self.edges.iter().map(edge).collect());
        format!("{}\n", serde_json::json!({ "flow": self.flow, "steps": steps, "edges": edges }))
    }
}

/// A name within quotes of Mermaid, where nothing but letters, digits and a few marks means itself.
fn shown(name: &str) -> String {
    let mut shown = String::new();
    for c in name.chars() {
        match c {
            c if c.is_alphanumeric() || " ._-/:()".contains(c) => shown.push(c),
            c => drop(write!(shown, "#{};", u32::from(c))),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_breaks_out_of_its_quotes() {
        assert_eq!(shown("a.b_c-1 (é)"), "a.b_c-1 (é)");
        assert_eq!(shown("\"]<script>\n#"), "#34;#93;#60;script#62;#10;#35;");
    }
}
