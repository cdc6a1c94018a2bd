//! Frames on a control connection: a length, and so many bytes of MessagePack. A length beyond the limit is refused
//! before a byte of it is read.

use serde::{Serialize, de::DeserializeOwned};
use std::io::{self, ErrorKind, Read, Write};

/// The longest frame once a peer is trusted: rows travel in frames of about a mebibyte, a single row may be longer.
pub(super) const FRAME_BYTES_MAX: usize = 1 << 30;
/// Bytes that are read at most at once: memory grows with what has come, not with what is announced.
const STEP: usize = 64 << 10;

pub(super) fn encode<T: Serialize>(value: &T) -> io::Result<Vec<u8>> {
    rmp_serde::to_vec(value).map_err(io::Error::other)
}

pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<T> {
    rmp_serde::from_slice(bytes).map_err(|error| io::Error::new(ErrorKind::InvalidData, error.to_string()))
}

/// Writes a frame in one piece.
pub(super) fn write_frame(to: &mut impl Write, body: &[u8]) -> io::Result<()> {
    let length = u32::try_from(body.len()).map_err(|_| io::Error::other("a frame of over 4 GiB"))?;
    let mut frame = Vec::with_capacity(body.len() + 4);
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(body);
    to.write_all(&frame)?;
    to.flush()
}

/// Reads a frame of at most `max` bytes.
pub(super) fn read_frame(from: &mut impl Read, max: usize) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length) as usize;
    if length > max {
        let what = format!("a frame of {length} bytes is announced, {max} are allowed");
        return Err(io::Error::new(ErrorKind::InvalidData, what));
    }
    let mut body = Vec::with_capacity(length.min(STEP));
    while body.len() < length {
        let at = body.len();
        body.resize(length.min(at + STEP), 0);
        from.read_exact(&mut body[at..])?;
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn frames_come_back_and_long_ones_are_refused_unread() {
        let mut bytes = Vec::new();
        write_frame(&mut bytes, &[7; 100_000]).unwrap();
        assert_eq!(read_frame(&mut &bytes[..], 100_000).unwrap(), [7; 100_000]);
        let refused = read_frame(&mut &bytes[..4], 99_999).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidData, "before it looks for the body");
        assert_eq!(read_frame(&mut &bytes[..500], 100_000).unwrap_err().kind(), ErrorKind::UnexpectedEof);
    }

    proptest! {
        /// Whatever comes is a frame, an error, or the end; never a panic.
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(body) = read_frame(&mut &bytes[..], 4096) {
                let _ = decode::<crate::cluster::message::Message>(&body);
            }
            let _ = decode::<crate::cluster::message::Message>(&bytes);
            let _ = decode::<crate::cluster::handshake::Hello>(&bytes);
        }
    }
}
