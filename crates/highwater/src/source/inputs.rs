//! Which inputs there are: files, patterns of files, pipes, `-` (stdin).
//!
//! A directory, a missing file and a pattern without a file are errors before a record is read, never an empty input.

use crate::error::SourceError;
use crate::names::Names;
use crate::source::ReadOptions;
use crate::source::files::{STDIN, check, no_input, unrecoverable};
use crate::source::packed::Packed;
use crate::source::pattern::{SPECIAL, each_match};
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

/// What a source is told to read: paths, patterns (`logs/*.json`), `-` for stdin.
///
/// Made from one path or a list of them: `&str`, `&PathBuf`, `&[PathBuf]`, `&Vec<PathBuf>`, arrays.
#[derive(Clone, Debug, Default)]
pub struct Inputs(Vec<PathBuf>);

macro_rules! inputs_from_one {
    ($($path:ty),*) => {$(
        impl From<$path> for Inputs {
            fn from(path: $path) -> Self {
                Inputs(vec![PathBuf::from(path)])
            }
        }
    )*};
}
inputs_from_one!(&str, String, &String, &Path, PathBuf, &PathBuf);

macro_rules! inputs_from_many {
    ($([$($size:tt)*] $paths:ty),*) => {$(
        impl<P: AsRef<Path>, $($size)*> From<$paths> for Inputs {
            fn from(paths: $paths) -> Self {
                Inputs(paths.iter().map(|path| path.as_ref().to_owned()).collect())
            }
        }
    )*};
}
inputs_from_many!([] Vec<P>, [] &Vec<P>, [] &[P], [const N: usize] [P; N], [const N: usize] &[P; N]);

/// What becomes of files after the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Watch {
    /// Each is read to its end, and that is all.
    #[default]
    Once,
    /// The same, and files that appear later are read too.
    New,
    /// The same, and no file ever ends.
    Follow,
}

impl Inputs {
    /// Visits the names of all files that there are now, each once, in the order given; those of a pattern are sorted.
    ///
    /// One name given twice is one partition. One *file* under two names is refused: its lines would
    /// be read twice, and which name holds its position would depend on the command line.
    pub(crate) fn names(
        &self,
        options: &ReadOptions,
        watch: Watch,
        visit: &mut dyn FnMut(&str),
    ) -> Result<(), SourceError> {
        let mut listed = Listed { options, watch, names: Names::default(), files: Vec::new(), devices: Vec::new() };
        for input in &self.0 {
            expand(input, watch, |path, pattern| listed.take(path, pattern))?;
        }
        match self.0.is_empty() {
            true => Err(no_input("(no input)", io::Error::new(ErrorKind::InvalidInput, "no file is named"))),
            false => listed.each_once(visit),
        }
    }

    /// Why these inputs cannot be read again from a position, if stdin is among them.
    pub(crate) fn unrecoverable(&self) -> Option<String> {
        self.0.iter().any(|path| path.as_os_str() == STDIN).then(|| unrecoverable(STDIN))
    }
}

/// What is listed so far. Small, since there may be a million.
struct Listed<'a> {
    options: &'a ReadOptions,
    watch: Watch,
    names: Names,
    /// What is known of each.
    files: Vec<Known>,
    /// Devices that files lie on.
    devices: Vec<u64>,
}

/// Which file a name stands for.
#[derive(Clone, Copy)]
struct Known {
    inode: u64,
    /// Where its device stands in the list; `None` for what is no file, or not there yet.
    device: Option<u16>,
    /// Whether a pattern matched it.
    pattern: bool,
}

impl Listed<'_> {
    /// Adds what a path stands for, which was given or matches a pattern.
    fn take(&mut self, path: &Path, pattern: bool) -> Result<(), SourceError> {
        let follow = self.watch == Watch::Follow;
        let name = path_name(path).map_err(|source| no_input(path, source))?;
        let file = match check(&name, self.options) {
            Ok(file) => file,
            // What matched the pattern a moment ago.
            Err(error) if self.watch != Watch::Once && pattern && is_gone(&error) => return Ok(()),
            // It is being rotated, or will come.
            Err(error) if follow && has_dir(path) && is_gone(&error) => {
                self.add_no_file(&name);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let Some(file) = file else {
            if follow {
                let text = format!("{name} is a pipe: it is read as it comes, and not followed");
                return Err(SourceError::Unfit(text));
            }
            self.add_no_file(&name);
            return Ok(());
        };
        if follow && Packed::is_packed(&name) {
            return Err(SourceError::Unfit(format!("{name} is compressed: it cannot be followed")));
        }
        let device = self.devices.iter().position(|device| *device == file.dev()).unwrap_or_else(|| {
            self.devices.push(file.dev());
            self.devices.len() - 1
        });
        let device =
            u16::try_from(device).map_err(|_| SourceError::Unfit("inputs lie on 65,536 devices".to_owned()))?;
        self.files.push(Known { inode: file.ino(), device: Some(device), pattern });
        self.names.push(&name);
        Ok(())
    }

    fn add_no_file(&mut self, name: &str) {
        if !self.names.iter().any(|other| other == name) {
            self.names.push(name);
            self.files.push(Known { inode: 0, device: None, pattern: false });
        }
    }

    /// Visits the names, each once; two that stand for one file are refused.
    fn each_once(self, visit: &mut dyn FnMut(&str)) -> Result<(), SourceError> {
        let Listed { watch, names, files, .. } = self;
        let name = |number: u32| names.get(number as usize).expect("it is one of the list");
        let file = |number: &u32| files[*number as usize];
        let count = u32::try_from(files.len()).map_err(|_| SourceError::Unfit("there are 2^32 inputs".to_owned()))?;
        let mut order: Vec<u32> = (0..count).filter(|number| file(number).device.is_some()).collect();
        order.sort_unstable_by_key(|number| (file(number).device, file(number).inode, *number));
        let mut doubled = Vec::new();
        let is_same =
            |one: &u32, other: &u32| (file(one).device, file(one).inode) == (file(other).device, file(other).inode);
        for same in order.chunk_by(is_same) {
            let known = name(same[0]);
            for number in &same[1..] {
                let name = name(*number);
                // A rotation between two looks: whichever name it has had, it is one file.
                if name != known && !(watch == Watch::Follow && file(number).pattern) {
                    let text = format!("inputs {known} and {name} are one file: name it once");
                    return Err(SourceError::Unfit(text));
                }
                doubled.push(*number);
            }
        }
        // What was on its way when it was asked for first, and is there under a pattern: a file between two steps of a rotation.
        let absent = (0..count).filter(|number| file(number).device.is_none());
        doubled.extend(absent.filter(|number| (number + 1..count).any(|other| name(other) == name(*number))));
        doubled.sort_unstable();
        let once = |number: &u32| doubled.binary_search(number).is_err();
        (0..count).filter(once).for_each(|number| visit(name(number)));
        Ok(())
    }
}

/// A path without `.` and doubled slashes: the name by which a file is known to the store.
///
/// `..` stays, since what it means depends on links. `-` means stdin, so a file of that name stays `./-`.
pub(crate) fn path_name(path: &Path) -> io::Result<String> {
    let parts = path.components().filter(|part| *part != Component::CurDir);
    let name = parts.collect::<PathBuf>();
    let name = name.to_str().ok_or_else(|| io::Error::new(ErrorKind::InvalidInput, "its name is not UTF-8"))?;
    Ok(match name {
        "" => ".".to_owned(),
        STDIN if path.as_os_str() != STDIN => "./-".to_owned(),
        name => name.to_owned(),
    })
}

/// Whether an input was not there.
fn is_gone(error: &SourceError) -> bool {
    matches!(error, SourceError::NoInput { source, .. } if source.kind() == ErrorKind::NotFound)
}

/// Whether the directory of a path, up to where it becomes a pattern, is there.
fn has_dir(path: &Path) -> bool {
    let is_plain = |part: &Component<'_>| !part.as_os_str().to_string_lossy().contains(SPECIAL);
    let plain: PathBuf = path.parent().unwrap_or(Path::new("")).components().take_while(is_plain).collect();
    plain.as_os_str().is_empty() || plain.is_dir()
}

/// Visits the files that a path or pattern stands for, telling whether it is a pattern. A file whose name looks like one
/// is itself.
fn expand(
    input: &Path,
    watch: Watch,
    mut visit: impl FnMut(&Path, bool) -> Result<(), SourceError>,
) -> Result<(), SourceError> {
    let text = input.to_str().filter(|text| text.contains(SPECIAL));
    let Some(pattern) = text.filter(|_| fs::symlink_metadata(input).is_err()) else {
        return visit(input, false);
    };
    let mut is_empty = true;
    each_match(pattern, &mut |path| {
        if path.is_dir() {
            return Ok(());
        }
        is_empty = false;
        visit(path, true)
    })?;
    // Where more may come there need be none yet, but their directory, which a slip of the pen does not have.
    match is_empty && (watch == Watch::Once || !has_dir(input)) {
        true => Err(no_input(input, io::Error::new(ErrorKind::NotFound, "the pattern matches no file"))),
        false => Ok(()),
    }
}

#[cfg(test)]
#[path = "inputs_tests.rs"]
mod tests;
