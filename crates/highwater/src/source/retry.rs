//! Dead letters, mended, that come in again: beside every step that can refuse something stands a source
//! that reads the letters of that step.
//!
//! It is a source like any other, with a position in the store, so a letter comes in again exactly once,
//! whatever happens on the way. Letters of other steps are passed over like blank lines.

use crate::batch::Items;
use crate::data::Data;
use crate::error::{BuildError, excerpt};
use crate::graph::{Graph, StepKind};
use crate::letter::Content;
use crate::source::driver::source;
use crate::source::lines::{LineFormat, LineSource};
use std::cell::Cell;
use std::collections::HashSet;
use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::rc::Rc;

thread_local! {
    /// A source of letters is being put into the graph: it needs none beside itself.
    static WITHIN: Cell<bool> = const { Cell::new(false) };
}

/// What makes an item of a letter.
type Read<T> = Rc<dyn Fn(&Content) -> Result<T, String>>;

/// Letters of one step.
struct Letters<T> {
    step: Rc<str>,
    read: Read<T>,
}

impl<T> Clone for Letters<T> {
    fn clone(&self) -> Self {
        Letters { step: self.step.clone(), read: self.read.clone() }
    }
}

impl<T> fmt::Debug for Letters<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Letters").field("step", &self.step).finish_non_exhaustive()
    }
}

impl<T: Data> LineFormat for Letters<T> {
    type Item = T;

    fn parse(&mut self, line: &[u8]) -> Result<T, String> {
        (self.read)(&Content::read(line)?)
    }

    fn is_blank(&self, line: &[u8]) -> bool {
        // What is no letter at all has refused the start.
        Content::read(line).is_ok_and(|letter| *letter.step != *self.step) || line.trim_ascii().is_empty()
    }
}

/// The items of `step` that are fed in again; `None` if none are.
pub(crate) fn retried<'s, T: Data>(
    graph: &Rc<Graph<'s>>,
    step: &str,
    read: impl Fn(&Content) -> Result<T, String> + 'static,
) -> Option<Items<'s, T>> {
    if WITHIN.get() || step.starts_with('#') {
        return None;
    }
    let name = format!("{step}#retry");
    let Some(path) = &graph.settings.retry else {
        // An earlier run had it: what it has read stays known.
        if graph.positions.had(&name) {
            graph.declare(&name, StepKind::Source);
        }
        return None;
    };
    let format = Letters { step: step.into(), read: Rc::new(read) };
    WITHIN.set(true);
    let items = source(graph, &name, LineSource::new(format, path)).items;
    WITHIN.set(false);
    Some(items)
}

/// Checks every letter of a file against the steps of the flow, before a record is read.
pub(crate) fn check_letters(path: &Path, steps: &HashSet<&str>) -> Result<(), BuildError> {
    let refused = |reason: String| BuildError::Config(format!("dead letters {}: {reason}", path.display()));
    let file = File::open(path).map_err(|error| refused(format!("cannot be read: {error}")))?;
    let mut lines = BufReader::new(file);
    let mut line = Vec::new();
    for number in 1u64.. {
        line.clear();
        let bytes = lines.read_until(b'\n', &mut line).map_err(|error| refused(error.to_string()))?;
        if bytes == 0 {
            break;
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        let letter = Content::read(&line).map_err(|error| refused(format!("line {number} is {error}")))?;
        if !steps.contains(format!("{}#retry", letter.step).as_str()) {
            let step = excerpt(&letter.step);
            return Err(refused(format!("line {number} is of step \"{step}\", where nothing can be fed in")));
        }
    }
    Ok(())
}
