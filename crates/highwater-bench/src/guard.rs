//! Has anything become dearer? Counts instructions, which a busy machine changes by 2 % at most in these workloads
//! (long epochs with a store are not among them: what their idle threads do depends on time).
//!
//! Four small fixed workloads, each once under valgrind's callgrind, against counts that were kept before the change
//! with `--write`. More than [`TOLERANCE`] above a count fails; `--write` keeps the new ones, on purpose.
//! The counts hold for one release of the compiler: with another, or without valgrind, the guard says so
//! loudly and measures nothing.

use crate::contest::{input, place};
use crate::workload::{Generated, Workload};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// How much more a workload may take.
const TOLERANCE: f64 = 0.05;

/// Guards the instruction counts
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Guard {
    /// Where the counts are kept
    #[arg(long, default_value = "target/instructions.json")]
    counts: PathBuf,
    /// Keeps what is measured now
    #[arg(long)]
    write: bool,
}

/// What is kept.
#[derive(Serialize, Deserialize)]
struct Kept {
    toolchain: String,
    instructions: BTreeMap<String, u64>,
}

/// Name, events and options of each workload; those with a store end with `-r`.
const WORKLOADS: [(&str, u64, &[&str]); 4] = [
    ("limit", 20_000, &["limit"]),
    ("off", 20_000, &["cart"]),
    ("epoch per record, off", 3_000, &["cart", "-s", "0"]),
    ("epoch per record, log", 3_000, &["cart", "--store", "log", "-s", "0", "-r"]),
];

impl Guard {
    /// Measures and compares; returns the report.
    pub(crate) fn run(&self) -> Result<String, String> {
        let toolchain = told(Command::new("rustc").arg("--version"))?;
        let kept: Option<Kept> = match fs::read(&self.counts) {
            Ok(bytes) => Some(serde_json::from_slice(&bytes).map_err(|e| format!("{}: {e}", self.counts.display()))?),
            Err(_) if self.write => None,
            Err(error) => {
                return Err(format!(
                    "{}: {error}; keep the counts of the code before with --write",
                    self.counts.display()
                ));
            }
        };
        if let (Some(kept), false) = (&kept, self.write)
            && kept.toolchain != toolchain
        {
            return Ok(format!("SKIPPED: the counts are of {}, and this is {toolchain}", kept.toolchain));
        }
        if told(Command::new("valgrind").arg("--version")).is_err() {
            return Ok("SKIPPED: no valgrind here, so no instruction is counted".to_owned());
        }
        let dir = place(None)?;
        let mut now = BTreeMap::new();
        for (name, events, options) in WORKLOADS {
            let workload = Workload { events, users: 2_000, ..Workload::usual() };
            let generated = input(&workload, dir.path(), &name.replace([' ', ','], "-"))?;
            now.insert(name.to_owned(), count(&generated, dir.path(), options).map_err(|e| format!("{name}: {e}"))?);
        }
        let report = kept.as_ref().map(|kept| compare(&kept.instructions, &now));
        if self.write {
            let json = serde_json::to_string_pretty(&Kept { toolchain, instructions: now });
            let json = json.expect("strings and numbers always make JSON") + "\n";
            fs::write(&self.counts, json).map_err(|error| format!("{}: {error}", self.counts.display()))?;
            return Ok(format!(
                "kept in {}\n{}",
                self.counts.display(),
                report.map_or_else(String::new, |(text, _)| text)
            ));
        }
        match report {
            Some((text, true)) => Ok(text),
            Some((text, false)) => Err(format!(
                "a workload takes over {:.0} % more instructions than before:\n{text}If that is meant, keep the new \
                 counts with --write and say why in the commit.",
                TOLERANCE * 100.0
            )),
            None => Err("nothing to compare with".to_owned()),
        }
    }
}

/// The counts side by side, and whether none has grown too much.
fn compare(kept: &BTreeMap<String, u64>, now: &BTreeMap<String, u64>) -> (String, bool) {
    let mut text = "| workload | instructions kept | now | change |\n|---|---|---|---|\n".to_owned();
    let mut good = true;
    for (name, now) in now {
        let before = kept.get(name).copied().unwrap_or(0);
        let change = *now as f64 / before.max(1) as f64 - 1.0;
        good &= *now as f64 <= before as f64 * (1.0 + TOLERANCE);
        // Writing to a String cannot fail.
        let _ = writeln!(text, "| {name} | {before} | {now} | {:+.1} % |", change * 100.0);
    }
    (text, good)
}

/// Runs this program under callgrind; answers how many instructions all its threads took.
fn count(input: &Generated, dir: &Path, options: &[&str]) -> Result<u64, String> {
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
    let digest = crate::digest::of_file(&output).map_err(text)?;
    if digest != input.digest {
        return Err(format!("it has made {digest}, not {}", input.digest));
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
