//! What must stand in the file of dead letters: every bad record once, with all it needs to come back.

use crate::oracle::Bad;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Letters that are due, each with how often.
#[derive(Default)]
pub struct Letters {
    due: BTreeMap<String, u64>,
}

impl Letters {
    /// A bad record has come into the input: `line` is what stands there, with its end.
    pub fn expect(&mut self, file: &str, bad: Bad, line: &[u8]) {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let letter = match bad.refused_by_cart {
            true => {
                let event: Value = serde_json::from_slice(line).unwrap_or_default();
                json!(["joiner", event["user_id"], ["payment", event["order_id"]]])
            }
            false => json!(["events", file, bad.line, bad.byte, line]),
        };
        *self.due.entry(letter.to_string()).or_default() += 1;
    }

    /// Whether every whole letter of the file is due, and none stands there more often than it is; if `all`, whether
    /// none is missing and none torn.
    pub fn check(&self, text: &[u8], all: bool) -> Result<(), String> {
        let mut seen: BTreeMap<String, u64> = BTreeMap::new();
        for line in text.split_inclusive(|byte| *byte == b'\n') {
            if !line.ends_with(b"\n") {
                match all {
                    true => return Err("the last dead letter is torn".to_owned()),
                    false => break,
                }
            }
            let letter = what_it_is_of(line).ok_or_else(|| format!("no letter: {}", String::from_utf8_lossy(line)))?;
            let count = seen.entry(letter).or_default();
            *count += 1;
        }
        for (letter, count) in &seen {
            match self.due.get(letter) {
                None => return Err(format!("a dead letter of nothing bad: {letter}")),
                Some(due) if due < count => return Err(format!("a doubled dead letter, {count} for {due}: {letter}")),
                Some(_) => {}
            }
        }
        match all.then(|| self.due.iter().find(|(letter, due)| seen.get(*letter) != Some(due))).flatten() {
            None => Ok(()),
            Some((letter, _)) => Err(format!("a lost dead letter: {letter}")),
        }
    }
}

/// The record that a letter is of, as [`Letters::expect`] names it.
fn what_it_is_of(line: &[u8]) -> Option<String> {
    let letter: Value = serde_json::from_slice(line).ok()?;
    if letter["step"] == "joiner" {
        return Some(json!(["joiner", letter["key"], letter["item"]]).to_string());
    }
    let raw = match (letter["raw"].as_str(), letter["raw_hex"].as_str()) {
        (Some(raw), None) => raw.as_bytes().to_vec(),
        (None, Some(digits)) => {
            let digit = |at: usize| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok();
            (0..digits.len()).step_by(2).map(digit).collect::<Option<_>>()?
        }
        _ => return None,
    };
    Some(json!([letter["step"], letter["source"], letter["line"], letter["offset"], raw]).to_string())
}

#[test]
fn a_lost_a_doubled_and_an_invented_letter_are_seen() {
    let mut letters = Letters::default();
    let bad = |line, byte| Bad { line, byte, bytes: 2, refused_by_cart: false };
    letters.expect("in", bad(1, 0), b"x\n");
    letters.expect("in", bad(2, 2), b"\xff\n");
    let paid = b"{\"user_id\":\"a\",\"type\":\"payment\",\"order_id\":7}\n";
    letters.expect("in", Bad { refused_by_cart: true, ..bad(3, 4) }, paid);
    let text = [
        &b"{\"step\":\"events\",\"source\":\"in\",\"line\":1,\"offset\":0,\"raw\":\"x\"}\n"[..],
        b"{\"step\":\"events\",\"source\":\"in\",\"line\":2,\"offset\":2,\"raw_hex\":\"ff\"}\n",
        b"{\"step\":\"joiner\",\"key\":\"a\",\"item\":[\"payment\",7]}\n",
    ];
    assert_eq!(letters.check(&text.concat(), true), Ok(()));
    let wrong = |text: &[&[u8]], all| letters.check(&text.concat(), all).expect_err("it is wrong");
    assert!(wrong(&text[1..], true).contains("lost"));
    assert_eq!(letters.check(text[1], false), Ok(()));
    assert!(wrong(&[text[0], text[0]], false).contains("doubled"));
    assert!(
        wrong(&[b"{\"step\":\"events\",\"source\":\"in\",\"line\":9,\"offset\":0,\"raw\":\"x\"}\n"], false)
            .contains("nothing bad")
    );
    assert!(wrong(&[text[0], text[1], &text[2][..9]], true).contains("torn"));
    assert!(wrong(&[b"{}\n"], false).contains("no letter"));
}
