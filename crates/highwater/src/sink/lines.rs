//! Items as lines of one output: a file, a pipe, or stdout.
//!
//! An item is exactly one line, or an error of that item: a line break inside would make two
//! records of one. Workers encode; the writer (`output.rs`) only moves bytes.

use crate::data::StepError;
use crate::sink::content::Content;
use crate::sink::output::{LineBlock, LineWriter, SpareBuffers};
use crate::sink::{Sink, Slot};
use crate::source::{JsonLines, Lines, path_name};
use std::path::{Path, PathBuf};

/// Where lines go: a path, or stdout (`-`, or no path at all).
///
/// Made from a path or an `Option` of one: `&str`, `PathBuf`, `&Option<PathBuf>` and so on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Target(Option<PathBuf>);

impl Target {
    fn at(path: &Path) -> Self {
        Target((path.as_os_str() != "-").then(|| path.to_owned()))
    }

    /// The identity of the output in a recovery store.
    pub(super) fn name(&self) -> String {
        let Some(path) = &self.0 else { return "-".to_owned() };
        path_name(path).unwrap_or_else(|_| path.to_string_lossy().into_owned())
    }
}

macro_rules! target_from {
    ($($path:ty),*) => {$(
        impl From<$path> for Target {
            fn from(path: $path) -> Self {
                Target::at(path.as_ref())
            }
        }
    )*};
}
target_from!(&str, &String, String, &Path, PathBuf, &PathBuf);

impl<P: AsRef<Path>> From<Option<P>> for Target {
    fn from(path: Option<P>) -> Self {
        path.map(|path| Target::at(path.as_ref())).unwrap_or_default()
    }
}

impl<P: AsRef<Path>> From<&Option<P>> for Target {
    fn from(path: &Option<P>) -> Self {
        path.as_ref().map(|path| Target::at(path.as_ref())).unwrap_or_default()
    }
}

impl JsonLines {
    /// Writes each item as one line of JSON.
    ///
    /// Into a file exactly once: on resume it is cut back to what is committed. Into stdout, a pipe
    /// or a device at least once, in whole lines: what followed the last commit is written again.
    pub fn to(target: impl Into<Target>) -> LineSink<JsonLines> {
        LineSink::new(JsonLines::new(), target)
    }
}

impl Lines {
    /// Writes each item as one line, as `Display` shows it. An item with a line break in it is an error.
    ///
    /// Into a file exactly once: on resume it is cut back to what is committed. Into stdout, a pipe
    /// or a device at least once, in whole lines: what followed the last commit is written again.
    pub fn to(target: impl Into<Target>) -> LineSink<Lines> {
        LineSink::new(Lines, target)
    }
}

/// Writes items as lines, in the format `F`.
#[derive(Clone, Debug)]
pub struct LineSink<F> {
    content: F,
    target: Target,
    /// Buffers of blocks that are written, to be filled again.
    spare: SpareBuffers,
}

impl<F> LineSink<F> {
    pub(super) fn new(content: F, target: impl Into<Target>) -> Self {
        LineSink { content, target: target.into(), spare: SpareBuffers::default() }
    }
}

impl<T, F: Content<T>> Sink<T> for LineSink<F> {
    type Block = LineBlock;
    type Writer = LineWriter;

    fn output(&self) -> String {
        self.target.name()
    }

    fn encode(&mut self, item: T, block: &mut LineBlock) -> Result<(), StepError> {
        // A new block gets a buffer that has been used before, if there is one.
        if block.lines.capacity() == 0 {
            block.lines = self.spare.take();
        }
        block.item(&mut self.content, item)
    }

    fn writer(&self, Slot { output, .. }: &Slot) -> LineWriter {
        let spare = self.spare.clone();
        match &self.target.0 {
            // A path that is not UTF-8 cannot be had from its name.
            Some(path) if self.target.name() == *output => LineWriter::new(output, Some(path.clone()), spare),
            _ if output == "-" => LineWriter::new(output, None, spare),
            _ => LineWriter::new(output, Some(PathBuf::from(output)), spare),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn encoded<T, S: Sink<T, Block = LineBlock>>(mut sink: S, items: Vec<T>) -> Vec<Result<String, String>> {
        let one = |item| {
            let mut block = LineBlock::of(b"before\n");
            let result = sink.encode(item, &mut block).map_err(|error| error.to_string());
            let text = String::from_utf8(block.lines).unwrap();
            let line = text.strip_prefix("before\n").expect("what was there stays").to_owned();
            assert!(result.is_ok() || line.is_empty(), "nothing is left of an item that failed");
            result.map(|()| line)
        };
        items.into_iter().map(one).collect()
    }

    #[test]
    fn an_item_is_one_line_or_an_error() {
        assert_eq!(
            encoded(JsonLines::to("-"), vec!["a\nb", "\u{2028}"]),
            [Ok("\"a\\nb\"\n".into()), Ok("\"\u{2028}\"\n".into())]
        );
        assert_eq!(encoded(Lines::to("-"), vec![1.5, 2.0]), [Ok("1.5\n".into()), Ok("2\n".into())]);
        let broken = encoded(Lines::to("-"), vec!["a\nb", "", "c"]);
        assert_eq!(broken[0], Err("it has a line break at byte 1, and would become two lines".into()));
        assert_eq!(broken[1..], [Ok("\n".into()), Ok("c\n".into())]);
        let no_json = BTreeMap::from([((1, 2), 3)]);
        assert!(encoded(JsonLines::to("-"), vec![no_json])[0].as_ref().is_err_and(|text| text.contains("key")));
    }

    #[test]
    fn targets_are_made_of_all_that_names_a_place() {
        let path = PathBuf::from("./out//x.json");
        let names = [
            Target::from(&path),
            Target::from(path.clone()),
            Target::from(path.as_path()),
            Target::from("out/x.json"),
            Target::from(&"out/./x.json".to_owned()),
            Target::from(&Some(path.clone())),
            Target::from(Some(path)),
            Target::from(Some("out/x.json")),
        ];
        assert!(names.iter().all(|target| target.name() == "out/x.json"), "one file has one name: {names:?}");
        let stdout = [Target::from("-"), Target::from(None::<PathBuf>), Target::from(&None::<PathBuf>)];
        assert!(stdout.iter().all(|target| target.0.is_none() && target.name() == "-"));
        assert_eq!(Target::from("./-").name(), "./-", "a file that is called so is no stdout");
    }

    #[test]
    fn a_block_travels_as_bytes() {
        let block = LineBlock::of(&[0xff; 300]);
        let bytes = rmp_serde::to_vec(&block).unwrap();
        assert!(bytes.len() < 310, "{}", bytes.len());
        assert_eq!(rmp_serde::from_slice::<LineBlock>(&bytes).unwrap(), block);
    }
}
