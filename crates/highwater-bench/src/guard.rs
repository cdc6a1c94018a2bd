//! Has anything become dearer? Counts instructions, where a busy machine would lie about time.
//!
//! Six small fixed workloads, each under valgrind's callgrind, against the counts in `instructions.json`, which are part of
//! the repository. More than [`TOLERANCE`] above a count fails; `--write` keeps the new ones, on purpose. Counts hold for
//! one release of the compiler, one kind of processor (libraries choose their code by it) and one profile: for another, or
//! without valgrind, the guard says so loudly and measures nothing. All workloads but the first have an epoch for every
//! record: what longer epochs do depends on time, since sources measure how much they read at once. So do the threads of
//! sled (4 % more or less), and it is not among them. The others repeat to two per cent.

use crate::contest::{input, place, processor};
use crate::differential::added_up;
use crate::digest::{Digest, of_file};
use crate::measure;
use crate::workload::{Generated, Workload};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

/// How much more a workload may take.
const TOLERANCE: f64 = 0.05;
/// One that takes more is counted again so often, and the least counts: threads that wait take some, too.
const COUNTS: usize = 3;

/// Guards the instruction counts
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Guard {
    /// Where the counts are kept
    #[arg(long, default_value = "crates/highwater-bench/instructions.json")]
    counts: PathBuf,
    /// Keeps what is measured now
    #[arg(long)]
    write: bool,
}

/// What is kept: instructions by workload, for each build and processor that was counted.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
struct Kept(BTreeMap<String, BTreeMap<String, u64>>);

/// Events of each workload.
const EVENTS: u64 = 300;
/// Name and options of each workload; those with a store end with `-r`.
const WORKLOADS: [(&str, &[&str]); 6] = [
    ("plain loop", &["limit"]),
    ("off", &["cart", "-s", "0"]),
    ("log", &["cart", "--store", "log", "-s", "0", "-r"]),
    ("sqlite", &["cart", "--store", "sqlite", "-s", "0", "-r"]),
    ("collections, off", &["collections", "-s", "0"]),
    ("collections, log", &["collections", "--store", "log", "-s", "0", "-r"]),
];
/// Workloads that are counted at once.
const AT_ONCE: usize = 2;

impl Guard {
    /// Measures and compares; returns the report.
    pub(crate) fn run(&self) -> Result<String, String> {
        let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
        let toolchain = told(Command::new("rustc").arg("--version"))?;
        let build = format!("{toolchain}, {}, {profile}", processor());
        let at = |error: String| format!("{}: {error}", self.counts.display());
        let mut kept: Kept = match fs::read(&self.counts) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| at(error.to_string()))?,
            Err(error) if error.kind() == ErrorKind::NotFound && self.write => Kept::default(),
            Err(error) => return Err(at(error.to_string())),
        };
        let before = kept.0.get(&build);
        if before.is_none() && !self.write {
            return Ok(format!("SKIPPED: no counts are kept of {build}; keep some with --write"));
        }
        if told(Command::new("valgrind").arg("--version")).is_err() {
            return Ok("SKIPPED: no valgrind here, so no instruction is counted".to_owned());
        }
        let dir = place(None)?;
        let generated = input(&Workload { events: EVENTS, users: 100, ..Workload::usual() }, dir.path(), "events")?;
        let collection = by_hand(&generated, dir.path())?;
        let mut now = BTreeMap::new();
        for some in WORKLOADS.chunks(AT_ONCE) {
            let counted = std::thread::scope(|scope| {
                let count = |(name, options): &(&'static str, &'static [&'static str])| {
                    let (name, options, generated, dir) = (*name, *options, &generated, dir.path().join(name));
                    let good = before.and_then(|before| before.get(name)).map_or(0, |before| most(*before));
                    scope.spawn(move || Ok((name.to_owned(), least((generated, collection), &dir, options, good)?)))
                };
                let counts: Vec<_> = some.iter().map(count).collect();
                let joined = counts.into_iter().map(|count| count.join().expect("counting does not panic"));
                joined.collect::<Result<Vec<_>, String>>()
            })?;
            now.extend(counted);
        }
        let (text, good) = compare(before.unwrap_or(&BTreeMap::new()), &now);
        if self.write {
            kept.0.retain(|build, _| build.starts_with(&toolchain));
            kept.0.insert(build, now);
            let json = serde_json::to_string_pretty(&kept).expect("strings and numbers always make JSON") + "\n";
            fs::write(&self.counts, json).map_err(|error| at(error.to_string()))?;
            return Ok(format!("kept in {}\n{text}", self.counts.display()));
        }
        if good {
            return Ok(text);
        }
        Err(format!(
            "a workload takes over {:.0} % more instructions than before:\n{text}If that is meant, keep the new counts \
             with --write and say why in the commit.",
            TOLERANCE * 100.0
        ))
    }
}

/// The most that a workload may take.
fn most(before: u64) -> u64 {
    (before as f64 * (1.0 + TOLERANCE)) as u64
}

/// The counts side by side, and whether none has grown too much.
fn compare(kept: &BTreeMap<String, u64>, now: &BTreeMap<String, u64>) -> (String, bool) {
    let mut text = "| workload | instructions kept | now | change |\n|---|---|---|---|\n".to_owned();
    let mut good = true;
    for (name, now) in now {
        let before = kept.get(name).copied();
        good &= before.is_some_and(|before| *now <= most(before));
        let change = before.map_or("new".to_owned(), |b| format!("{:+.1} %", (*now as f64 / b as f64 - 1.0) * 100.0));
        // Writing to a String cannot fail.
        let _ = writeln!(text, "| {name} | {} | {now} | {change} |", before.unwrap_or_default());
    }
    (text, good)
}

/// Counts until a count is good, or often enough; answers the least.
fn least(input: (&Generated, Digest), dir: &Path, options: &[&str], good: u64) -> Result<u64, String> {
    fs::create_dir(dir).map_err(|error| error.to_string())?;
    let mut least = u64::MAX;
    for _ in 0..COUNTS {
        least = least.min(count(input, dir, options).map_err(|error| format!("{options:?}: {error}"))?);
        if least <= good {
            break;
        }
    }
    Ok(least)
}

/// The collection that Differential by hand makes of the same input.
fn by_hand(input: &Generated, dir: &Path) -> Result<Digest, String> {
    let text = |error: std::io::Error| error.to_string();
    let output = dir.join("by-hand");
    let mut command = Command::new(std::env::current_exe().map_err(text)?);
    measure::run(command.arg("differential-by-hand").args(&input.files).arg("--output").arg(&output))?;
    added_up(&output).map_err(text)
}

/// Runs this program under callgrind; answers how many instructions all its threads took. Its output must be right.
fn count((input, collection): (&Generated, Digest), dir: &Path, options: &[&str]) -> Result<u64, String> {
    let text = |error: std::io::Error| error.to_string();
    let (output, store) = (dir.join("output"), dir.join("store"));
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
    command.arg(std::env::current_exe().map_err(text)?).arg(options[0]).args(&input.files).arg("--output").arg(&output);
    command.args(&options[1..]);
    let recovers = options.last() == Some(&"-r");
    if recovers {
        command.arg(&store);
    }
    let ran = command.output().map_err(text)?;
    let said = String::from_utf8_lossy(&ran.stderr);
    if !ran.status.success() {
        return Err(format!("{}: {said}", ran.status));
    }
    // The changes of a collection depend on where epochs end; what they add up to does not.
    let (found, right) = match options[0] {
        "collections" => (added_up(&output), collection),
        _ => (of_file(&output), input.digest),
    };
    let found = found.map_err(text)?;
    if found != right {
        return Err(format!("it has made {found}, not {right}"));
    }
    fs::remove_file(&output).map_err(text)?;
    if recovers {
        fs::remove_dir_all(&store).map_err(text)?;
    }
    counted(&said).ok_or_else(|| format!("valgrind counted nothing: {said}"))
}

/// The count in what callgrind says: `==7== Collected : 123`.
fn counted(said: &str) -> Option<u64> {
    said.lines().find_map(|line| line.split_once("Collected : ")?.1.trim().parse().ok())
}

/// The first line that a command says.
fn told(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().next().unwrap_or_default().trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_grew_too_much_fails() {
        let counts = |off, on| BTreeMap::from([("off".to_owned(), off), ("on".to_owned(), on)]);
        assert!(compare(&counts(1000, 1000), &counts(1050, 10)).1);
        let (text, good) = compare(&counts(1000, 1000), &counts(1051, 1000));
        assert!(!good && text.contains("| off | 1000 | 1051 | +5.1 % |"), "{text}");
        let unknown = BTreeMap::from([("new".to_owned(), 7)]);
        assert!(!compare(&counts(1, 1), &unknown).1, "a workload without a count is not let through");
    }

    #[test]
    fn the_count_is_read_from_what_valgrind_says() {
        assert_eq!(counted("==1== \n==1== Events    : Ir\n==1== Collected : 8839\n"), Some(8839));
        assert_eq!(counted("nothing"), None);
    }
}
