//! Compressed files, by their names: `.gz` is gzip, `.zst` and `.zstd` are Zstandard. Several members or frames in one
//! file are one text.
//!
//! Positions are those of the text. To go on in its midst the file is unpacked again from its start: quick, but not
//! free. What is damaged is found where the checksum of its member stands, behind it: some of its text may have been
//! read by then. A file may not expand without limit.

use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Read};

/// What a file may expand to at most, unless it is told: so many times its size, and this much in any case.
const RATIO_MAX: u64 = 256;
const EXPANDED_MIN: u64 = 1 << 30;

/// Bytes read and thrown away at a time.
const SKIP_BYTES: usize = 64 << 10;

/// A compressed file, being unpacked.
pub(crate) struct Packed {
    reader: Box<dyn Read>,
    given: u64,
    expanded_max: u64,
}

impl std::fmt::Debug for Packed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Packed").field("given", &self.given).finish_non_exhaustive()
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Gzip,
    Zstd,
}

fn kind(name: &str) -> Option<Kind> {
    let (stem, extension) = name.rsplit_once('.')?;
    match extension {
        _ if stem.is_empty() || stem.ends_with('/') => None,
        "gz" => Some(Kind::Gzip),
        "zst" | "zstd" => Some(Kind::Zstd),
        _ => None,
    }
}

impl Packed {
    /// Whether a file of this name is compressed.
    pub(crate) fn is_packed(name: &str) -> bool {
        kind(name).is_some()
    }

    /// The text of `file`, which has a name of a compressed one.
    pub(crate) fn open(name: &str, file: File, expanded_max: Option<u64>) -> io::Result<Packed> {
        let bytes = file.metadata()?.len();
        let expanded_max = expanded_max.unwrap_or_else(|| bytes.saturating_mul(RATIO_MAX).max(EXPANDED_MIN));
        let reader: Box<dyn Read> = match kind(name) {
            // An empty file is no member, and nothing is missing.
            _ if bytes == 0 => Box::new(io::empty()),
            Some(Kind::Gzip) => Box::new(flate2::bufread::MultiGzDecoder::new(BufReader::new(file))),
            Some(Kind::Zstd) => Box::new(zstd::stream::read::Decoder::new(file)?),
            None => Box::new(file),
        };
        Ok(Packed { reader, given: 0, expanded_max })
    }

    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.reader.read(buffer) {
                Ok(bytes) => {
                    self.given += bytes as u64;
                    return if self.given > self.expanded_max { Err(self.too_much()) } else { Ok(bytes) };
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                    return Err(io::Error::new(error.kind(), "the compressed data ends in its midst"));
                }
                Err(error) => {
                    return Err(io::Error::new(error.kind(), format!("the compressed data is damaged: {error}")));
                }
            }
        }
    }

    fn too_much(&self) -> io::Error {
        let text = format!(
            "it expands to more than {} bytes: if that is right, say so with expanding_to()",
            self.expanded_max
        );
        io::Error::new(ErrorKind::FileTooLarge, text)
    }

    /// Passes over so many bytes; answers how many there were.
    pub(crate) fn skip(&mut self, bytes: u64) -> io::Result<u64> {
        let mut buffer = vec![0; SKIP_BYTES];
        let mut left = bytes;
        while left > 0 {
            let most = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            match self.read(&mut buffer[..most])? {
                0 => break,
                read => left -= read as u64,
            }
        }
        Ok(bytes - left)
    }

    /// Fills a buffer; answers how many bytes are missing.
    pub(crate) fn fill(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.read(&mut buffer[filled..])? {
                0 => break,
                read => filled += read,
            }
        }
        Ok(buffer.len() - filled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(text: &[u8]) -> Vec<u8> {
        zstd::stream::encode_all(text, 1).unwrap()
    }

    fn packed(name: &str, bytes: &[u8], expanded_max: Option<u64>) -> Packed {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        Packed::open(name, File::open(path).unwrap(), expanded_max).unwrap()
    }

    fn text(mut packed: Packed) -> io::Result<Vec<u8>> {
        let mut text = Vec::new();
        let mut buffer = [0; 1000];
        loop {
            match packed.read(&mut buffer)? {
                0 => return Ok(text),
                bytes => text.extend_from_slice(&buffer[..bytes]),
            }
        }
    }

    #[test]
    fn names_tell_what_is_compressed() {
        assert!(Packed::is_packed("a/b.json.gz") && Packed::is_packed("b.zst") && Packed::is_packed("b.zstd"));
        assert!(!Packed::is_packed("a.gz/b") && !Packed::is_packed("a/.gz") && !Packed::is_packed("gz"));
    }

    #[test]
    fn members_in_one_file_are_one_text() {
        for (name, pack) in [("a.gz", gzip as fn(&[u8]) -> Vec<u8>), ("a.zst", zstd)] {
            let bytes = [pack(b"one\n"), pack(b""), pack(&b"two\n".repeat(10_000))].concat();
            let whole = [&b"one\n"[..], &b"two\n".repeat(10_000)].concat();
            assert_eq!(text(packed(name, &bytes, None)).unwrap(), whole);
            assert_eq!(text(packed(name, b"", None)).unwrap(), b"");
            let mut at = packed(name, &bytes, None);
            assert_eq!(at.skip(8).unwrap(), 8);
            let mut next = [0; 4];
            assert_eq!((at.fill(&mut next).unwrap(), &next), (0, b"two\n"));
            assert_eq!(at.skip(1 << 20).unwrap(), 39_992);
        }
    }

    #[test]
    fn what_is_cut_or_damaged_or_too_much_is_an_error_and_never_the_end() {
        for (name, pack) in [("a.gz", gzip as fn(&[u8]) -> Vec<u8>), ("a.zst", zstd)] {
            let whole = pack(&b"some text that is long enough\n".repeat(100));
            let cut = text(packed(name, &whole[..whole.len() - 3], None)).unwrap_err();
            assert!(cut.to_string().contains("ends in its midst"), "{name}: {cut}");
            let damaged = [&whole[..], b"no member at all, but long enough to be one"].concat();
            let damaged = text(packed(name, &damaged, None)).unwrap_err();
            assert!(damaged.to_string().contains("damaged"), "{name}: {damaged}");
            let bomb = text(packed(name, &pack(&vec![0; 100_000]), Some(99_999))).unwrap_err();
            assert!(bomb.to_string().contains("more than 99999 bytes"), "{name}: {bomb}");
        }
    }
}
