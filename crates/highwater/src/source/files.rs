//! The bytes of one input: a file, a compressed one, a pipe or stdin.
//!
//! Nothing is opened that is not read at the moment: a million small files need one descriptor at a time.

use crate::error::SourceError;
use crate::source::ReadOptions;
use crate::source::packed::Packed;
use rustix::fs::{Access, access};
use std::fs::{self, File, FileType, Metadata};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::thread;

/// Name of stdin.
pub(super) const STDIN: &str = "-";

/// Bytes that the reader of a pipe takes at a time, and how many such pieces it may be ahead.
const PIPE_BYTES: usize = 64 << 10;
const PIPE_PIECES: usize = 4;

/// Refuses what cannot be read; answers the metadata of a regular file, and nothing for a pipe.
pub(super) fn check(name: &str, options: &ReadOptions) -> Result<Option<Metadata>, SourceError> {
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

pub(super) fn unrecoverable(name: &str) -> String {
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
