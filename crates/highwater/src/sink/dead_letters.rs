//! The file of dead letters: a sink like any other, behind all steps that set something aside.
//!
//! A letter of an item says which input its epoch has, as far as it is read by then. The file is private
//! (mode 0600): it holds what people have sent.

use super::driver::{Pace, put, restore_earlier};
use super::lines::Target;
use super::output::{LineBlock, LineWriter, SpareBuffers};
use super::{Sink, Slot};
use crate::data::StepError;
use crate::error::BuildError;
use crate::graph::{DEAD_LETTERS, Graph};
use crate::letter::Letter;
use crate::shared::Shared;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use timely::dataflow::operators::Concatenate;

/// Puts the file of dead letters behind all steps, if anything can get there, or has in an earlier run.
/// Called when the flow is built.
pub(crate) fn dead_letters(graph: &Rc<Graph<'_>>) {
    let wanted = graph.sets_aside();
    match &graph.settings.dead_letters {
        Some(path) if wanted || graph.positions.had(DEAD_LETTERS) => {
            let closings = graph.declared.borrow().closings.clone();
            let letters = graph.scope.concatenate(closings);
            let sink = DeadLetters { target: path.into(), shared: graph.shared.clone() };
            put(graph, letters, DEAD_LETTERS, sink, Pace::Epochs);
        }
        None if wanted => {
            let reason = "a step sets records aside, and no file is named for them: --dead-letter FILE".to_owned();
            graph.declared.borrow_mut().errors.push(BuildError::Config(reason));
        }
        None if graph.positions.had(DEAD_LETTERS) => {
            // What an earlier run wrote and did not commit is read again, and skipped or refused now.
            let sink = DeadLetters { target: Target::default(), shared: graph.shared.clone() };
            restore_earlier(graph, DEAD_LETTERS, &sink);
        }
        _ => {}
    }
}

/// Writes letters.
struct DeadLetters {
    target: Target,
    shared: Arc<Shared>,
}

impl Sink<Letter> for DeadLetters {
    type Block = LineBlock;
    type Writer = LineWriter;

    fn output(&self) -> String {
        self.target.name()
    }

    fn encode(&mut self, mut letter: Letter, block: &mut LineBlock) -> Result<(), StepError> {
        if let Some(epoch) = letter.lacks_input {
            letter.add_input(&self.shared.ranges_of(epoch));
        }
        block.line(false, |line| {
            line.extend_from_slice(letter.json.as_bytes());
            Ok(())
        })
    }

    fn writer(&self, of: &Slot) -> LineWriter {
        LineWriter::new(&of.output, Some(PathBuf::from(&of.output)), SpareBuffers::default()).private()
    }
}
