//! Killed anywhere, with other workers each time, every sort of sink has every row once: parts in a directory,
//! CSV, SQLite, dead letters. Whoever lists the directory meanwhile sees whole committed parts and nothing else.
//!
//! `HIGHWATER_DRILL_KILLS=300` for the long one, `HIGHWATER_DRILL_SEED` to draw the same input and moments again.

#[path = "faults/bed.rs"]
#[expect(dead_code, reason = "the matrix uses all of it")]
mod bed;
#[expect(dead_code, reason = "the kill drill uses all of it")]
mod oracle;

use bed::{Bed, Running, example};
use fastrand::Rng;
use rusqlite::{Connection, OpenFlags};
use rustix::process::Signal;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Numbers by key, in order.
type Rows = BTreeMap<String, Vec<i64>>;

/// What has been fed in.
#[derive(Default)]
struct Input {
    rows: Rows,
    bad: u64,
}

impl Input {
    /// About so many lines more.
    fn grow(&mut self, rng: &mut Rng, lines: usize) -> String {
        let mut text = String::new();
        for _ in 0..lines {
            if rng.u32(..40) == 0 {
                text.push_str(&format!("bad {} x\n", self.bad));
                self.bad += 1;
                continue;
            }
            // Keys that JSON, CSV and SQL must quote.
            let number = rng.u32(..60);
            let key = match number % 6 {
                0 => format!("a \"{number}\", b"),
                1 => format!("it's {number}"),
                2 => format!("schlüssel-{number}"),
                _ => format!("key-{number}"),
            };
            let value = rng.i64(-999..999);
            text.push_str(&format!("{key} {value}\n"));
            self.rows.entry(key).or_default().push(value);
        }
        text
    }

    /// Of each key `rows` has a prefix, or all.
    fn check(&self, what: &str, rows: &Rows, all: bool) {
        for (key, numbers) in rows {
            let expected = self.rows.get(key).unwrap_or_else(|| panic!("{what} has the key {key:?}, nobody else has"));
            assert!(expected.starts_with(numbers), "{what}: {key:?} has {numbers:?}, not {expected:?}");
        }
        if all {
            assert_eq!(rows, &self.rows, "{what} lacks something");
        }
    }
}

/// Length and rows of a part: key, place among those of the key, number.
type Part = (u64, Vec<(String, u64, i64)>);

/// A reader of the directory: every part that it has ever seen, as it was.
#[derive(Default)]
struct Reader {
    parts: HashMap<String, Part>,
    looks: u64,
}

impl Reader {
    /// Looks at what is there now.
    fn look(&mut self, dir: &PathBuf) {
        let Ok(entries) = fs::read_dir(dir) else { return };
        self.looks += 1;
        for entry in entries {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            if name == ".highwater" {
                continue;
            }
            let length = entry.metadata().unwrap().len();
            if let Some((known, _)) = self.parts.get(&name) {
                assert_eq!(*known, length, "{name} has changed under its reader");
                continue;
            }
            let text = fs::read_to_string(entry.path()).unwrap();
            assert!(text.ends_with('\n'), "{name} is not whole: {text:?}");
            let row = |line: &str| {
                let row: serde_json::Value =
                    serde_json::from_str(line).unwrap_or_else(|e| panic!("{name}: {line}: {e}"));
                (row["key"].as_str().unwrap().to_owned(), row["nth"].as_u64().unwrap(), row["number"].as_i64().unwrap())
            };
            self.parts.insert(name.clone(), (length, text.lines().map(row).collect()));
        }
    }

    /// All rows, in the order of the parts' names. Nothing that was ever seen has gone or come twice.
    fn rows(&self, dir: &PathBuf) -> Rows {
        let there: BTreeSet<String> =
            fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        let mut names: Vec<&String> = self.parts.keys().collect();
        names.sort();
        let mut rows = Rows::new();
        for name in names {
            assert!(there.contains(name), "{name} is gone");
            for (key, nth, number) in &self.parts[name].1 {
                let numbers = rows.entry(key.clone()).or_default();
                numbers.push(*number);
                assert_eq!(numbers.len() as u64, *nth, "{name}: {key:?} is lost, doubled or out of order");
            }
        }
        rows
    }
}

fn add(rows: &mut Rows, what: &str, key: String, nth: u64, number: i64) {
    let numbers = rows.entry(key.clone()).or_default();
    numbers.push(number);
    assert_eq!(numbers.len() as u64, nth, "{what}: {key:?} is lost, doubled or out of order");
}

fn sqlite(bed: &Bed) -> Rows {
    let mut rows = Rows::new();
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE;
    let Ok(database) = Connection::open_with_flags(bed.path("rows.db"), flags) else { return rows };
    let Ok(mut statement) = database.prepare("SELECT key, nth, number FROM rows ORDER BY rowid") else { return rows };
    let mut found = statement.query([]).unwrap();
    while let Some(row) = found.next().unwrap() {
        let nth: i64 = row.get(1).unwrap();
        add(&mut rows, "sqlite", row.get(0).unwrap(), nth.try_into().unwrap(), row.get(2).unwrap());
    }
    rows
}

/// A kill may have torn the last row.
fn csv(bed: &Bed) -> Rows {
    let text = bed.read("rows.csv");
    let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    let mut rows = Rows::new();
    let mut reader = csv::Reader::from_reader(&text[..whole]);
    for row in reader.deserialize() {
        let (key, nth, number): (String, u64, i64) = row.unwrap();
        add(&mut rows, "csv", key, nth, number);
    }
    assert!(rows.is_empty() || text.starts_with(b"key,nth,number\n"));
    rows
}

/// Numbers of the bad lines that are set aside.
fn letters(bed: &Bed) -> Vec<u64> {
    let text = String::from_utf8(bed.read("letters")).unwrap();
    let whole = text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
    let number = |line: &str| {
        let letter: serde_json::Value = serde_json::from_str(line).unwrap();
        letter["item"].as_str().unwrap().split(' ').nth(1).unwrap().parse().unwrap()
    };
    whole.map(number).collect()
}

#[test]
fn killed_anywhere_every_sink_has_every_row_once() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seed = number("HIGHWATER_DRILL_SEED").unwrap_or_else(|| fastrand::u64(..1 << 32));
    let kills = number("HIGHWATER_DRILL_KILLS").unwrap_or(12);
    eprintln!("HIGHWATER_DRILL_SEED={seed}");
    let mut rng = Rng::with_seed(seed);
    let bed = Bed::new();
    let (mut input, mut reader) = (Input::default(), Reader::default());
    let parts = bed.path("parts");
    // Kills that struck a run in its midst, and those of them after it had shown something of its own.
    let (mut hit, mut hit_late, mut ended) = (0, 0, 0);
    let start = Instant::now();
    while hit < kills {
        bed.append("in", input.grow(&mut rng, 400));
        let (workers, interval) = (rng.usize(1..9), ["0", "1ms", "5ms", "30ms"][rng.usize(..4)]);
        let line = format!("in -r st --output . --dead-letter letters -q -w {workers} -s {interval}");
        let before = reader.parts.len();
        let mut running = Running::start(&mut bed.command(&example("every_sink"), &line));
        let late = rng.u32(..4) > 0;
        while late && !running.has_ended() && reader.parts.len() == before {
            reader.look(&parts);
            std::thread::sleep(Duration::from_millis(1));
        }
        let strike = Instant::now() + Duration::from_micros(rng.u64(..80_000));
        while Instant::now() < strike {
            reader.look(&parts);
            std::thread::sleep(Duration::from_micros(500));
        }
        let end = if running.has_ended() { running.end() } else { running.kill() };
        reader.look(&parts);
        let all = end.status.signal() != Some(Signal::KILL.as_raw());
        if all {
            assert_eq!(end.status.code(), Some(0), "{line}: {}", end.stderr);
            ended += 1;
        } else {
            hit += 1;
            hit_late += u64::from(reader.parts.len() > before);
        }
        check(&bed, &input, &reader, all);
    }
    assert!(hit_late * 4 >= hit, "of {hit} kills only {hit_late} struck a run that was writing");
    for workers in [3, 1] {
        let line = format!("in -r st --output . --dead-letter letters -q -w {workers}");
        Running::start(&mut bed.command(&example("every_sink"), &line)).end().code(0);
        reader.look(&parts);
        check(&bed, &input, &reader, true);
    }
    let rows: usize = input.rows.values().map(Vec::len).sum();
    eprintln!(
        "{hit} kills, {hit_late} of them after it had shown something, {ended} ends of input, in {:.0} s; {rows} rows in \
         each of 3 sinks and {} dead letters: 0 lost, 0 doubled; {} parts, {} looks at the directory",
        start.elapsed().as_secs_f64(),
        input.bad,
        reader.parts.len(),
        reader.looks
    );
}

fn check(bed: &Bed, input: &Input, reader: &Reader, all: bool) {
    if bed.path("parts").exists() {
        input.check("the directory", &reader.rows(&bed.path("parts")), all);
    }
    input.check("sqlite", &sqlite(bed), all);
    input.check("csv", &csv(bed), all);
    let letters = letters(bed);
    let once: BTreeSet<u64> = letters.iter().copied().collect();
    assert_eq!(once.len(), letters.len(), "a letter is doubled: {letters:?}");
    assert!(once.last().is_none_or(|last| *last < input.bad));
    assert!(!all || once.len() as u64 == input.bad, "of {} letters there are {}", input.bad, once.len());
}
