//! What a program's log says about where it is: recovering, running, committing, collecting.
//!
//! Reads the lines of `--log-format json -vv` one by one and keeps the little that the drill steers and
//! reports by. Lines it does not know are for people.

/// Something in the log that a strike can wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mark {
    /// The store is being opened.
    RecoveryStarted,
    /// Records are about to be read.
    FlowStarted,
    /// A shard has rows of an epoch in its file.
    Appended,
    /// A shard has synced an epoch.
    Durable,
    /// An epoch is durable everywhere.
    Committed,
    /// A shard has begun to copy live rows forward.
    GcBegin,
    /// It is done.
    GcEnd,
    /// Rows are being moved to another number of shards.
    RescaleBegin,
    /// They have been moved.
    RescaleEnd,
}

const MARKS: [(&str, Mark); 9] = [
    ("recovery started", Mark::RecoveryStarted),
    ("flow started", Mark::FlowStarted),
    ("appended", Mark::Appended),
    ("durable", Mark::Durable),
    ("committed", Mark::Committed),
    ("gc begin", Mark::GcBegin),
    ("gc end", Mark::GcEnd),
    ("rescale begin", Mark::RescaleBegin),
    ("rescale end", Mark::RescaleEnd),
];

/// The log so far.
#[derive(Clone, Debug, Default)]
pub struct Journal {
    counts: [u64; MARKS.len()],
    appended: Option<u64>,
    committed: Option<u64>,
    /// The last lines of ours that are no marks: what a person reads first after a failure.
    pub remarks: Vec<String>,
}

impl Journal {
    /// Takes one line in.
    pub fn read(&mut self, line: &str) {
        let message = text_after(line, "\"message\":\"").unwrap_or_default();
        let Some(at) = MARKS.iter().position(|(name, _)| *name == message) else {
            if line.contains("\"target\":\"sled") {
                return; // the backend's own log, thousands of lines a second
            }
            if self.remarks.len() == 40 {
                self.remarks.remove(0);
            }
            self.remarks.push(line.trim_end().to_owned());
            return;
        };
        self.counts[at] += 1;
        let epoch = number_after(line, "\"epoch\":");
        match MARKS[at].1 {
            Mark::Appended => self.appended = self.appended.max(epoch),
            Mark::Committed => self.committed = self.committed.max(epoch),
            _ => {}
        }
    }

    /// How often the log said it.
    pub fn count(&self, mark: Mark) -> u64 {
        self.counts[mark as usize]
    }

    /// The store was being opened and no record had been read.
    pub fn recovering(&self) -> bool {
        self.count(Mark::RecoveryStarted) > 0 && self.count(Mark::FlowStarted) == 0
    }

    /// There were rows in the files of an epoch that was not committed.
    pub fn uncommitted_rows(&self) -> bool {
        self.appended > self.committed
    }

    /// A shard was copying live rows forward.
    pub fn collecting(&self) -> bool {
        self.count(Mark::GcBegin) > self.count(Mark::GcEnd)
    }

    /// Rows were being moved to another number of shards.
    pub fn rescaling(&self) -> bool {
        self.count(Mark::RescaleBegin) > self.count(Mark::RescaleEnd)
    }

    /// How many records it says were skipped, over all runs.
    pub fn skipped(&self) -> Option<u64> {
        let said = self.remarks.iter().rev().find_map(|line| text_after(line, "over all runs on this store: "))?;
        said.replace(',', "").parse().ok()
    }

    /// Whether any of the last lines that are no marks contains `text`.
    pub fn remarked(&self, text: &str) -> bool {
        self.remarks.iter().any(|line| line.contains(text))
    }
}

fn text_after<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let rest = &line[line.find(name)? + name.len()..];
    rest.split('"').next()
}

fn number_after(line: &str, name: &str) -> Option<u64> {
    let rest = &line[line.find(name)? + name.len()..];
    rest[..rest.find(|c: char| !c.is_ascii_digit())?].parse().ok()
}

#[test]
fn the_journal_knows_what_is_on_disk_and_not_committed() {
    let line = |message: &str, epoch: u64| {
        format!("{{\"level\":\"DEBUG\",\"fields\":{{\"message\":\"{message}\",\"shard\":0,\"epoch\":{epoch}}}}}\n")
    };
    let mut journal = Journal::default();
    journal.read(&line("recovery started", 0));
    assert!(journal.recovering() && !journal.uncommitted_rows());
    journal.read(&line("flow started", 0));
    journal.read(&line("appended", 7));
    assert!(!journal.recovering() && journal.uncommitted_rows());
    journal.read(&line("committed", 7));
    assert!(!journal.uncommitted_rows());
    journal.read(&line("gc begin", 7));
    assert!(journal.collecting() && !journal.rescaling());
    journal.read("error: something went wrong\n");
    assert!(journal.remarked("went wrong") && !journal.remarked("committed"));
    assert_eq!(journal.count(Mark::Committed), 1);
}
