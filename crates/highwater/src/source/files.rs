//! Which inputs there are, and the bytes of one of them.
//!
//! An input is a file, a pattern of files, a pipe or `-` (stdin). Nothing is opened that is not
//! read at the moment: a million small files need one descriptor at a time. A directory, a missing
//! file and a pattern without a file are errors before a record is read, never an empty input.

use crate::error::SourceError;
use crate::source::ReadOptions;
use crate::source::packed::Packed;
use rustix::fs::{Access, access};
use std::collections::HashMap;
use std::fs::{self, File, FileType, Metadata};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::thread;

/// Name of stdin.
const STDIN: &str = "-";

/// Bytes that the reader of a pipe takes at a time, and how many such pieces it may be ahead.
const PIPE_BYTES: usize = 64 << 10;
const PIPE_PIECES: usize = 4;

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
    /// Names of all files that there are now, each once, in the order given; those of a pattern are sorted.
    ///
    /// One name given twice is one partition. One *file* under two names is refused: its lines would
    /// be read twice, and which name holds its position would depend on the command line.
    pub(crate) fn names(&self, options: &ReadOptions, watch: Watch) -> Result<Vec<String>, SourceError> {
        let mut listed = Listed { options, watch, names: Vec::new(), files: HashMap::new() };
        for input in &self.0 {
            expand(input, watch, |path, pattern| listed.take(path, pattern))?;
        }
        match self.0.is_empty() {
            true => Err(no_input("(no input)", io::Error::new(ErrorKind::InvalidInput, "no file is named"))),
            false => Ok(listed.names),
        }
    }

    /// Why these inputs cannot be read again from a position, if stdin is among them.
    pub(crate) fn unrecoverable(&self) -> Option<String> {
        self.0.iter().any(|path| path.as_os_str() == STDIN).then(|| unrecoverable(STDIN))
    }
}

/// What is listed so far.
struct Listed<'a> {
    options: &'a ReadOptions,
    watch: Watch,
    names: Vec<String>,
    /// By file, where its name stands in the list.
    files: HashMap<(u64, u64), u32>,
}

impl Listed<'_> {
    /// Adds what a path stands for, which was given or matches a pattern.
    fn take(&mut self, path: &Path, pattern: bool) -> Result<(), SourceError> {
        let Listed { options, watch, names, files } = self;
        let follow = *watch == Watch::Follow;
        let name = path_name(path).map_err(|source| no_input(path, source))?;
        let file = match check(&name, options) {
            Ok(file) => file,
            // What matched the pattern a moment ago.
            Err(error) if *watch != Watch::Once && pattern && is_gone(&error) => return Ok(()),
            // It is being rotated, or will come.
            Err(error) if follow && has_dir(path) && is_gone(&error) => {
                if !names.contains(&name) {
                    names.push(name);
                }
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let Some(file) = file else {
            if follow {
                let text = format!("{name} is a pipe: it is read as it comes, and not followed");
                return Err(SourceError::Unfit(text));
            }
            if !names.contains(&name) {
                names.push(name);
            }
            return Ok(());
        };
        if follow && Packed::is_packed(&name) {
            return Err(SourceError::Unfit(format!("{name} is compressed: it cannot be followed")));
        }
        match files.get(&(file.dev(), file.ino())).map(|known| &names[*known as usize]) {
            None => {
                let at = u32::try_from(names.len()).expect("memory ends before four thousand million names");
                files.insert((file.dev(), file.ino()), at);
                names.push(name);
            }
            Some(known) if *known == name => {}
            // A rotation between two looks: whichever name it has had, it is one file.
            Some(_) if follow && pattern => {}
            Some(known) => {
                let text = format!("inputs {known} and {name} are one file: name it once");
                return Err(SourceError::Unfit(text));
            }
        }
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
    let is_plain = |part: &Component<'_>| !part.as_os_str().to_string_lossy().contains(['*', '?', '[']);
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
    let text = input.to_str().filter(|text| text.contains(['*', '?', '[']));
    let Some(pattern) = text.filter(|_| fs::symlink_metadata(input).is_err()) else {
        return visit(input, false);
    };
    let as_in_a_shell =
        glob::MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: true };
    let wrong = |error: glob::PatternError| no_input(input, io::Error::new(ErrorKind::InvalidInput, error));
    let mut is_empty = true;
    for entry in glob::glob_with(pattern, as_in_a_shell).map_err(wrong)? {
        let path = entry.map_err(|error| {
            let path = error.path().to_owned();
            no_input(path, error.into())
        })?;
        if !path.is_dir() {
            is_empty = false;
            visit(&path, true)?;
        }
    }
    // Where more may come there need be none yet, but their directory, which a slip of the pen does not have.
    match is_empty && (watch == Watch::Once || !has_dir(input)) {
        true => Err(no_input(input, io::Error::new(ErrorKind::NotFound, "the pattern matches no file"))),
        false => Ok(()),
    }
}

/// Refuses what cannot be read; answers the metadata of a regular file, and nothing for a pipe.
fn check(name: &str, options: &ReadOptions) -> Result<Option<Metadata>, SourceError> {
    let stream = |name: &str| match options.recoverable {
        true => Err(SourceError::Unfit(unrecoverable(name))),
        false => Ok(None),
    };
    if name == STDIN {
        return stream(name);
    }
    let metadata = fs::metadata(name).map_err(|source| no_input(name, source))?;
    if metadata.is_dir() {
        let text = format!("it is a directory; name its files, as {name}/*");
        return Err(no_input(name, io::Error::new(ErrorKind::IsADirectory, text)));
    }
    access(name, Access::READ_OK).map_err(|error| no_input(name, error.into()))?;
    match is_stream(metadata.file_type()) {
        true => stream(name),
        false => Ok(Some(metadata)),
    }
}

fn is_stream(kind: FileType) -> bool {
    kind.is_fifo() || kind.is_char_device() || kind.is_socket()
}

fn unrecoverable(name: &str) -> String {
    let what = if name == STDIN { "stdin" } else { name };
    format!(
        "{what} cannot be read again after a crash, so it cannot be used with a recovery store: \
         write it to a file first, or run without -r"
    )
}

pub(crate) fn no_input(name: impl AsRef<Path>, source: io::Error) -> SourceError {
    SourceError::NoInput { name: name.as_ref().display().to_string(), source }
}

/// The bytes of one input.
#[derive(Debug)]
pub(crate) enum Input {
    /// A regular file.
    File(File),
    /// A regular file, compressed.
    Packed(Packed),
    /// A pipe: read by a thread of its own, so that waiting for it holds nobody up.
    Pipe(Pipe),
}

/// What a read found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// So many bytes, not 0.
    Bytes(usize),
    /// Nothing now.
    Nothing,
    /// The end.
    End,
}

impl Input {
    /// Opens an input by its name. A pipe is opened by its thread, since that waits for a writer.
    ///
    /// A compressed file may expand to `expanded_max` bytes.
    pub(crate) fn open(name: &str, expanded_max: Option<u64>) -> io::Result<Input> {
        if name == STDIN {
            return Ok(Input::Pipe(Pipe::read(|| Ok(io::stdin()))));
        }
        if is_stream(fs::metadata(name)?.file_type()) {
            let path = name.to_owned();
            return Ok(Input::Pipe(Pipe::read(move || File::open(path))));
        }
        let file = File::open(name)?;
        Ok(match Packed::is_packed(name) {
            true => Input::Packed(Packed::open(name, file, expanded_max)?),
            false => Input::File(file),
        })
    }

    /// Reads into `buffer`, which is not empty. Waits for a disk, but never for a writer.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<Found> {
        match self {
            Input::Pipe(pipe) => pipe.take(buffer),
            Input::Packed(packed) => Ok(match packed.read(buffer)? {
                0 => Found::End,
                bytes => Found::Bytes(bytes),
            }),
            Input::File(file) => loop {
                match file.read(buffer) {
                    Ok(0) => return Ok(Found::End),
                    Ok(bytes) => return Ok(Found::Bytes(bytes)),
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            },
        }
    }
}

/// A pipe, and the thread that reads it. The thread ends with the pipe, or at its next byte after this is dropped.
#[derive(Debug)]
pub(crate) struct Pipe {
    pieces: Receiver<io::Result<Vec<u8>>>,
    piece: Vec<u8>,
    taken: usize,
}

impl Pipe {
    fn read<R: Read>(open: impl FnOnce() -> io::Result<R> + Send + 'static) -> Pipe {
        let (sender, pieces) = sync_channel(PIPE_PIECES);
        thread::spawn(move || {
            let mut buffer = vec![0; PIPE_BYTES];
            let mut pipe = match open() {
                Ok(pipe) => pipe,
                Err(error) => return drop(sender.send(Err(error))),
            };
            loop {
                let piece = match pipe.read(&mut buffer) {
                    Ok(0) => return,
                    Ok(bytes) => Ok(buffer[..bytes].to_vec()),
                    Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                    Err(error) => Err(error),
                };
                let failed = piece.is_err();
                if sender.send(piece).is_err() || failed {
                    return;
                }
            }
        });
        Pipe { pieces, piece: Vec::new(), taken: 0 }
    }

    fn take(&mut self, buffer: &mut [u8]) -> io::Result<Found> {
        if self.taken == self.piece.len() {
            match self.pieces.try_recv() {
                Ok(piece) => (self.piece, self.taken) = (piece?, 0),
                Err(TryRecvError::Empty) => return Ok(Found::Nothing),
                Err(TryRecvError::Disconnected) => return Ok(Found::End),
            }
        }
        let rest = &self.piece[self.taken..];
        let bytes = rest.len().min(buffer.len());
        buffer[..bytes].copy_from_slice(&rest[..bytes]);
        self.taken += bytes;
        Ok(Found::Bytes(bytes))
    }
}

#[cfg(test)]
#[path = "files_tests.rs"]
mod tests;
