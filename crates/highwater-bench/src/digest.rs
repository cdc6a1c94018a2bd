//! Whether two outputs say the same, whatever the order of different users' lines.
//!
//! Per user the lines are hashed in a chain, so that order and number count; over users the ends of the
//! chains are summed, so that their order does not. Two outputs with one digest are equal per key.

use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// What an output comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Digest {
    pub(crate) lines: u64,
    pub(crate) sum: u64,
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x} over {} lines", self.sum, self.lines)
    }
}

/// Takes lines in, in the order of each user.
#[derive(Default)]
pub(crate) struct Digester {
    chains: HashMap<Vec<u8>, u64>,
    lines: u64,
}

impl Digester {
    /// One output line, with its line end.
    pub(crate) fn line(&mut self, line: &[u8]) {
        self.lines += 1;
        let user = user_of(line);
        if let Some(chain) = self.chains.get_mut(user) {
            *chain = xxh3_64_with_seed(line, *chain);
        } else {
            self.chains.insert(user.to_vec(), xxh3_64_with_seed(line, 0));
        }
    }

    /// The digest of all lines so far.
    pub(crate) fn digest(&self) -> Digest {
        let sum = self.chains.values().fold(0, |sum: u64, chain| sum.wrapping_add(*chain));
        Digest { lines: self.lines, sum }
    }
}

/// The digest of a file.
pub(crate) fn of_file(path: &Path) -> io::Result<Digest> {
    let (mut file, mut line) = (BufReader::with_capacity(1 << 20, File::open(path)?), Vec::new());
    let mut digester = Digester::default();
    while file.read_until(b'\n', &mut line)? > 0 {
        digester.line(&line);
        line.clear();
    }
    Ok(digester.digest())
}

/// The user id of an output line as it stands there; a line that has none is a user of its own.
fn user_of(line: &[u8]) -> &[u8] {
    let Some(rest) = line.strip_prefix(b"{\"user_id\":\"") else { return line };
    let mut at = 0;
    while let Some(&byte) = rest.get(at) {
        match byte {
            b'\\' => at += 2,
            b'"' => return &rest[..at],
            _ => at += 1,
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(lines: &[&str]) -> Digest {
        let mut digester = Digester::default();
        lines.iter().for_each(|line| digester.line(line.as_bytes()));
        digester.digest()
    }

    #[test]
    fn the_order_within_a_user_counts_and_no_other() {
        let (a1, a2, b) = ("{\"user_id\":\"a\",1}\n", "{\"user_id\":\"a\",2}\n", "{\"user_id\":\"\\\"a\",1}\n");
        assert_eq!(digest(&[a1, a2, b]), digest(&[b, a1, a2]));
        assert_ne!(digest(&[a1, a2, b]), digest(&[a2, a1, b]));
        assert_ne!(digest(&[a1, a2]), digest(&[a1, a2, b]));
        assert_ne!(digest(&[a1, a2, a2]), digest(&[a1, a2]));
    }
}
