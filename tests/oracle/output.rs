//! Compares an output file with what the oracle says, per user, line by line, byte by byte.
//!
//! [`Output`] remembers what it has compared, so that a file which is looked at after every crash costs
//! only its new lines; whatever was rewritten is compared again. It accepts a torn line at the very end
//! of a file that is not finished, and nothing else that is not due.

use super::Oracle;
use std::collections::HashMap;
use std::fmt;

/// How an output differs from what is due. All zero: it does not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wrong {
    /// Lines that are due before another that is there (of a finished output: all that are due).
    pub lost: u64,
    /// Lines that are there again.
    pub doubled: u64,
    /// Lines that are due nowhere.
    pub invented: u64,
    /// Lines that stand before one of the same user that is due earlier.
    pub out_of_order: u64,
    /// One of them, to start looking from.
    pub example: String,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Wrong { lost, doubled, invented, out_of_order, example } = self;
        write!(f, "lost {lost}, doubled {doubled}, invented {invented}, out of order {out_of_order}; {example}")
    }
}

/// An output file as it was when last compared.
#[derive(Default)]
pub struct Output {
    bytes: Vec<u8>,
    /// User and length of each whole line in `bytes`.
    lines: Vec<(usize, usize)>,
    /// By user: name as JSON text, and how many of its lines are in `lines`.
    users: Vec<(Vec<u8>, usize)>,
    numbers: HashMap<Vec<u8>, usize>,
}

impl Output {
    /// Nothing compared yet.
    pub fn new() -> Self {
        Output::default()
    }

    /// Whole lines in the file when last compared.
    pub fn lines(&self) -> u64 {
        self.lines.len() as u64
    }

    /// The file when last compared.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Compares the file after a crash: for every user a prefix of what is due. The last line of the
    /// file may be torn: it is not committed, and the next run cuts it off.
    pub fn check_prefix(&mut self, oracle: &Oracle, now: Vec<u8>) -> Result<(), Wrong> {
        let torn = now.len() - whole(&now);
        self.take(oracle, now)?;
        if torn == 0 { Ok(()) } else { self.check_torn(oracle, torn) }
    }

    /// Compares the file after a run that ended by itself: everything that is due, nothing else.
    pub fn check_finished(&mut self, oracle: &Oracle, now: Vec<u8>) -> Result<(), Wrong> {
        let torn = now.len() - whole(&now);
        self.take(oracle, now)?;
        if torn == 0 && self.lines() == oracle.lines_due() {
            return Ok(()); // every line is its user's next, and there are as many as are due
        }
        let example = format!("{torn} bytes after the last line end; {} lines of {}", self.lines(), oracle.lines_due());
        Err(Wrong {
            lost: oracle.lines_due() - self.lines(),
            invented: u64::from(torn > 0),
            example,
            ..Wrong::default()
        })
    }

    /// Compares the part of `oracle`'s users only: everything that is due to them is there. (What is
    /// there beyond that is for [`Output::check_prefix`].)
    pub fn check_contains(&self, oracle: &Oracle) -> Result<(), Wrong> {
        let mut wrong = Wrong::default();
        for (user, due) in &oracle.due {
            let seen = self.numbers.get(user).map_or(0, |&number| self.users[number].1);
            if seen < due.len() {
                wrong.lost += (due.len() - seen) as u64;
                wrong.example = format!("user {}: {seen} lines of {}", String::from_utf8_lossy(user), due.len());
            }
        }
        if wrong.lost == 0 { Ok(()) } else { Err(wrong) }
    }

    fn take(&mut self, oracle: &Oracle, now: Vec<u8>) -> Result<(), Wrong> {
        let same = same_prefix(&self.bytes, &now);
        let mut end: usize = self.lines.iter().map(|line| line.1).sum();
        while end > same {
            let (user, bytes) = self.lines.pop().expect("the lines add up to `end`");
            self.users[user].1 -= 1;
            end -= bytes;
        }
        for line in now[end..whole(&now)].split_inclusive(|&byte| byte == b'\n') {
            let user = self.number_of(line);
            let (name, seen) = &mut self.users[user];
            if oracle.due.get(name).and_then(|due| due.get(*seen)).is_none_or(|due| due != line) {
                return Err(count(oracle, &now));
            }
            *seen += 1;
            self.lines.push((user, line.len()));
        }
        self.bytes = now;
        Ok(())
    }

    fn number_of(&mut self, line: &[u8]) -> usize {
        let name = user_of(line);
        if let Some(&number) = self.numbers.get(name) {
            return number;
        }
        self.users.push((name.to_vec(), 0));
        self.numbers.insert(name.to_vec(), self.users.len() - 1);
        self.users.len() - 1
    }

    /// A torn line must be the beginning of somebody's next line.
    fn check_torn(&self, oracle: &Oracle, torn: usize) -> Result<(), Wrong> {
        let tail = &self.bytes[self.bytes.len() - torn..];
        let fits = oracle.due.iter().any(|(user, due)| {
            let seen = self.numbers.get(user).map_or(0, |&number| self.users[number].1);
            due.get(seen).is_some_and(|line| line.starts_with(tail))
        });
        let example = format!("the torn end {:?} begins no line that is due", String::from_utf8_lossy(tail));
        if fits { Ok(()) } else { Err(Wrong { invented: 1, example, ..Wrong::default() }) }
    }
}

/// Bytes up to and with the last line end.
fn whole(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1)
}

/// How many bytes two files have in common at their beginning.
fn same_prefix(a: &[u8], b: &[u8]) -> usize {
    const BLOCK: usize = 16 * 1024; // slices compare fast, single bytes do not
    let shorter = a.len().min(b.len());
    let mut same = 0;
    while same + BLOCK <= shorter && a[same..same + BLOCK] == b[same..same + BLOCK] {
        same += BLOCK;
    }
    same + a[same..shorter].iter().zip(&b[same..shorter]).take_while(|(x, y)| x == y).count()
}

/// The user id of an output line, as JSON text; empty if it is no output line.
fn user_of(line: &[u8]) -> &[u8] {
    let Some(rest) = line.strip_prefix(b"{\"user_id\":\"") else { return b"" };
    let mut at = 0;
    while let Some(&byte) = rest.get(at) {
        match byte {
            b'\\' => at += 2,
            b'"' => return &line[11..at + 13],
            _ => at += 1,
        }
    }
    b""
}

/// Counts, slowly, what is wrong; only called when something is.
fn count(oracle: &Oracle, now: &[u8]) -> Wrong {
    let mut wrong = Wrong::default();
    let mut places: HashMap<&[u8], Vec<usize>> = HashMap::new();
    for (number, line) in now[..whole(now)].split_inclusive(|&byte| byte == b'\n').enumerate() {
        let user = user_of(line);
        let place = oracle.due.get(user).and_then(|due| due.iter().position(|due| due == line));
        let seen = places.entry(user).or_default();
        let before = (wrong.doubled, wrong.invented, wrong.out_of_order);
        match place {
            None => wrong.invented += 1,
            Some(place) if seen.contains(&place) => wrong.doubled += 1,
            Some(place) => {
                wrong.out_of_order += u64::from(seen.iter().any(|&earlier| earlier > place));
                seen.push(place);
            }
        }
        if wrong.example.is_empty() && before != (wrong.doubled, wrong.invented, wrong.out_of_order) {
            wrong.example = format!("output line {}: {}", number + 1, String::from_utf8_lossy(line).trim_end());
        }
    }
    for (user, seen) in places {
        let last = seen.iter().max().map_or(0, |&place| place + 1);
        wrong.lost += (last - seen.len()) as u64;
        if wrong.example.is_empty() && last != seen.len() {
            wrong.example = format!("user {}: {} lines of the first {last}", String::from_utf8_lossy(user), seen.len());
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    const INPUT: &[u8] = b"{\"user_id\": \"a\", \"type\": \"order\", \"order_id\": 1}
{\"user_id\": \"q\\\"\", \"type\": \"order\", \"order_id\": 2}
{\"user_id\": \"a\", \"type\": \"payment\", \"order_id\": 1}
{\"user_id\": \"a\", \"type\": \"order\", \"order_id\": 3}
";
    const A1: &str = "{\"user_id\":\"a\",\"paid_order_ids\":[],\"unpaid_order_ids\":[1]}\n";
    const A2: &str = "{\"user_id\":\"a\",\"paid_order_ids\":[1],\"unpaid_order_ids\":[]}\n";
    const A3: &str = "{\"user_id\":\"a\",\"paid_order_ids\":[1],\"unpaid_order_ids\":[3]}\n";
    const Q1: &str = "{\"user_id\":\"q\\\"\",\"paid_order_ids\":[],\"unpaid_order_ids\":[2]}\n";

    fn oracle() -> Oracle {
        let mut oracle = Oracle::new();
        assert_eq!(oracle.read("in", INPUT), []);
        oracle
    }

    fn prefix(lines: &[&str]) -> Result<(), Wrong> {
        Output::new().check_prefix(&oracle(), lines.concat().into_bytes())
    }

    fn numbers(wrong: &Wrong) -> [u64; 4] {
        [wrong.lost, wrong.doubled, wrong.invented, wrong.out_of_order]
    }

    #[test]
    fn users_may_be_mixed_in_any_way_but_not_the_lines_of_one() {
        assert_eq!(prefix(&[A1, A2, Q1, A3]), Ok(()));
        assert_eq!(prefix(&[Q1, A1, A2, A3]), Ok(()));
        assert_eq!(prefix(&[A1, Q1]), Ok(()));
        assert_eq!(numbers(&prefix(&[A2, A1]).expect_err("swapped")), [0, 0, 0, 1]);
        assert_eq!(numbers(&prefix(&[A1, A3]).expect_err("a hole")), [1, 0, 0, 0]);
        assert_eq!(numbers(&prefix(&[A1, Q1, A1]).expect_err("twice")), [0, 1, 0, 0]);
        assert_eq!(numbers(&prefix(&[A1, "nonsense\n"]).expect_err("no line of ours")), [0, 0, 1, 0]);
    }

    #[test]
    fn a_torn_line_is_right_only_at_the_end_and_only_if_it_is_due() {
        assert_eq!(prefix(&[A1, &A2[..20]]), Ok(()));
        assert!(prefix(&[A1, &A2[..40], A2]).is_err());
        assert!(prefix(&[A1, &A3[..57]]).is_err());
        let mut output = Output::new();
        assert!(output.check_finished(&oracle(), [A1, A2, Q1, &A3[..9]].concat().into_bytes()).is_err());
    }

    #[test]
    fn what_was_cut_and_rewritten_is_compared_again() {
        let (oracle, mut output) = (oracle(), Output::new());
        output.check_prefix(&oracle, [A1, A2, Q1].concat().into_bytes()).expect("a prefix");
        output.check_prefix(&oracle, [A1, Q1, A2].concat().into_bytes()).expect("a prefix, in another order");
        let wrong = output.check_prefix(&oracle, [A1, Q1, A3].concat().into_bytes()).expect_err("A2 is gone");
        assert_eq!(numbers(&wrong), [1, 0, 0, 0]);
        let wrong = output.check_finished(&oracle, [A1, Q1, A2].concat().into_bytes()).expect_err("A3 is due");
        assert_eq!(numbers(&wrong), [1, 0, 0, 0]);
        output.check_finished(&oracle, [A1, Q1, A2, A3].concat().into_bytes()).expect("all of it");
    }

    #[test]
    fn what_must_be_there_by_now_is_missed() {
        let mut early = Oracle::new();
        early.read("in", &INPUT[..INPUT.len() / 2]);
        let mut output = Output::new();
        output.check_prefix(&oracle(), A1.into()).expect("a prefix");
        assert_eq!(numbers(&output.check_contains(&early).expect_err("Q1 is due")), [1, 0, 0, 0]);
        output.check_prefix(&oracle(), [A1, Q1].concat().into_bytes()).expect("a prefix");
        output.check_contains(&early).expect("both are there");
    }
}
