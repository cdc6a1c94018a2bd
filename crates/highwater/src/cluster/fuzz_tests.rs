//! Whatever bytes come on any connection: an answer or a refusal, never a panic, never much memory.
//!
//! Bytes are drawn at random or made of right ones: flipped, cut, doubled, with lengths blown up. `HIGHWATER_FUZZ=1000000`
//! for so many inputs of each kind, `HIGHWATER_FUZZ_SEED` for others.

use super::data::Check;
use super::frame::{FRAME_BYTES_MAX, decode, encode, read_frame, write_frame};
use super::handshake::{DEADLINE, Hello, Identity, Purpose, Side};
use super::key::Key;
use super::message::{Begin, Built, ClockState, Ended, Fault, Message, RestoredRow};
use super::socket::Socket;
use crate::clock::now;
use highwater_store::Epoch;
use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// Numbers from a seed.
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    /// Nonsense, or something right that was tampered with.
    fn bytes(&mut self, right: &[Vec<u8>]) -> Vec<u8> {
        if self.below(8) == 0 {
            let length = self.below(300);
            return (0..length).map(|_| self.next() as u8).collect();
        }
        let mut bytes = right[self.below(right.len())].clone();
        for _ in 0..self.below(4) {
            let at = self.below(bytes.len());
            match self.below(6) {
                0 if !bytes.is_empty() => bytes[at] ^= 1 << self.below(8),
                1 if !bytes.is_empty() => bytes[at] = self.next() as u8,
                2 => bytes.truncate(at),
                3 => bytes.extend_from_within(at..),
                4 => bytes.extend_from_slice(&right[self.below(right.len())]),
                _ => {
                    // Lengths that are beyond all bounds, wherever a length may stand.
                    let end = bytes.len().min(at + 8);
                    bytes[at.min(end)..end].fill([0xff, 0x7f, 0xdf, 0xc6, 0xdd][self.below(5)]);
                }
            }
        }
        bytes
    }
}

/// Highest resident memory of this process so far.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    peak.and_then(|text| text.trim().trim_end_matches(" kB").parse().ok()).unwrap_or_default()
}

/// Feeds so many inputs; more memory than a few frames is a fault.
fn feed(right: &[Vec<u8>], mut eat: impl FnMut(&[u8])) {
    let (inputs, seed) = (number("HIGHWATER_FUZZ", 2_000), number("HIGHWATER_FUZZ_SEED", 1));
    let before = peak_kib();
    for input in 0..inputs {
        let bytes = Draw(seed ^ input.wrapping_mul(0xA24B_AED4_963E_E407)).bytes(right);
        eat(&bytes);
    }
    let grown = peak_kib() - before;
    assert!(grown < 64 << 10, "{grown} KiB for {inputs} inputs, seed {seed}");
}

fn hello(process: usize) -> Hello {
    Hello {
        process,
        processes: 2,
        identity: Identity(vec![("flow".into(), "carts".into()), ("-w".into(), "2".into())]),
        purpose: Purpose::Data,
        session: Some(7),
        keyed: true,
        nonce: [3; 32],
    }
}

/// What a peer with another key would say.
fn handshakes() -> Vec<Vec<u8>> {
    let mut right = b"HWCL\x00\x01".to_vec();
    write_frame(&mut right, &encode(&hello(1)).unwrap()).unwrap();
    write_frame(&mut right, &[5; 32]).unwrap();
    vec![right, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(), b"\x16\x03\x01\x02\x00\x01\x00".to_vec()]
}

#[test]
fn no_bytes_get_through_a_handshake_without_the_key() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key");
    std::fs::write(&path, "0123456789abcdef").unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let key = Key::read(&path).unwrap();
    let start = now();
    let mut slowest = start.elapsed();
    feed(&handshakes(), |bytes| {
        for accepts in [true, false] {
            let (left, mut right) = UnixStream::pair().unwrap();
            right.write_all(bytes).unwrap();
            right.shutdown(Shutdown::Write).unwrap();
            let (mut socket, began) = (Socket::Unix(left), now());
            let side = Side { key: &key, hello: hello(usize::from(!accepts)) };
            let refused = match accepts {
                true => side.accept(&mut socket, |_| panic!("nobody has the key")).err(),
                false => side.connect(&mut socket, 1).err(),
            };
            assert!(refused.is_some(), "{bytes:?}");
            slowest = slowest.max(began.elapsed());
        }
    });
    assert!(slowest < DEADLINE, "{slowest:?}: whoever has said all is answered at once");
}

#[test]
fn no_bytes_on_a_control_connection_panic_or_take_much_memory() {
    let rows = vec![RestoredRow { worker: Some(0), step: "joiner".into(), key: vec![1; 9], value: vec![2; 40] }];
    let fault = Fault { process: 1, epoch: Some(Epoch(7)), what: "it failed".into(), exit: 65 };
    let begin = Begin {
        store: Some(1),
        resume: Epoch(4),
        key_groups: 128,
        claims: vec!["out".into()],
        steps: vec!["joiner".into()],
        copied: false,
    };
    let built =
        Built { steps: vec![("a".into(), "source".into())], claims: Vec::new(), listings: vec![("a".into(), 3, 9)] };
    let messages = [
        Message::Beat(ClockState { epoch: 9, latest: 1 << 40 }),
        Message::Stop,
        Message::Fail(fault),
        Message::Ended(Ended::default()),
        Message::Begin(begin),
        Message::Rows(rows),
        Message::Built(built),
        Message::Run,
    ];
    let framed = |message: &Message| {
        let mut bytes = Vec::new();
        write_frame(&mut bytes, &encode(message).unwrap()).unwrap();
        bytes
    };
    let right: Vec<Vec<u8>> = messages.iter().map(framed).collect();
    feed(&right, |mut bytes| {
        // As the reader of a connection does: until it ends, or makes no sense.
        while let Ok(frame) = read_frame(&mut bytes, FRAME_BYTES_MAX) {
            match decode::<Message>(&frame) {
                Ok(Message::Beat(state)) => assert!(!state.is_sane() || state.epoch <= crate::time::EPOCH_MAX.0),
                Ok(_) => {}
                Err(_) => break,
            }
        }
    });
}

#[test]
fn no_bytes_on_a_data_connection_reach_timely_unless_they_fit() {
    let message = |source: u64, lower: u64, upper: u64, length: usize| {
        let header = [7, source, lower, upper, length as u64, 1];
        let mut bytes: Vec<u8> = header.iter().flat_map(|field: &u64| field.to_be_bytes()).collect();
        bytes.resize(bytes.len() + length, 9);
        bytes
    };
    let right = [message(0, 2, 4, 100), message(1, 3, 4, 48), message(1, 2, 3, 0)];
    feed(&right, |bytes| {
        let mut check = Check::between(0, 2, 2..4);
        let all = check.see(bytes);
        // However it is cut, the verdict is the same.
        let mut other = Check::between(0, 2, 2..4);
        let cut = bytes.chunks(7).try_for_each(|piece| other.see(piece));
        assert_eq!(all, cut, "{bytes:?}");
    });
}
