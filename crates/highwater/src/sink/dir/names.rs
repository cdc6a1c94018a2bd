//! Names of parts, whole and staged, and the directory that they are in.

use super::Shape;
use highwater_store::{Epoch, Execution};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::Path;

/// Where parts are written, in the directory that they go to.
pub(super) const STAGING: &str = ".highwater";

/// What a whole part is called.
pub(super) fn part(shape: &Shape, epoch: Epoch, slot: u16, number: u32) -> String {
    let packed = match shape.pack {
        super::Pack::Plain => "",
        super::Pack::Gzip => ".gz",
        super::Pack::Zstd => ".zst",
    };
    format!("{}-{:012}-{slot:03}-{number:03}.{}{packed}", shape.prefix, epoch.0, shape.extension)
}

/// The last epoch of a whole part of this slot; `None` for all that is none.
fn part_epoch(shape: &Shape, slot: u16, name: &OsStr) -> Option<Epoch> {
    let rest = name.to_str()?.strip_prefix(&shape.prefix)?.strip_prefix('-')?;
    let (numbers, _) = rest.split_once('.')?;
    let all: Vec<&str> = numbers.split('-').collect();
    let digits = |text: &&str, least| text.len() >= least && text.bytes().all(|byte| byte.is_ascii_digit());
    match all[..] {
        [epoch, of, number] if digits(&epoch, 12) && digits(&of, 3) && digits(&number, 3) => {
            (of.parse() == Ok(slot)).then(|| epoch.parse().map(Epoch).ok())?
        }
        _ => None,
    }
}

/// What a staged part is called.
pub(super) fn staged(execution: Execution, slot: u16, number: u64) -> String {
    format!("staged-{}-{slot}-{number}", execution.0)
}

fn is_staged(slot: u16, name: &OsStr) -> bool {
    let all: Vec<&str> = name.to_str().unwrap_or_default().split('-').collect();
    matches!(all[..], ["staged", _, of, _] if of.parse() == Ok(slot))
}

/// Names in a directory; none if it is not there.
fn list(dir: &Path) -> io::Result<Vec<std::ffi::OsString>> {
    match fs::read_dir(dir) {
        Ok(entries) => entries.map(|entry| entry.map(|entry| entry.file_name())).collect(),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Whole parts of a slot, with their epochs.
pub(super) fn parts(dir: &Path, shape: &Shape, slot: u16) -> io::Result<Vec<(String, Epoch)>> {
    let names = list(dir)?.into_iter();
    Ok(names.filter_map(|name| Some((name.to_str()?.to_owned(), part_epoch(shape, slot, &name)?))).collect())
}

/// Staged parts of a slot.
pub(super) fn staged_parts(dir: &Path, slot: u16) -> io::Result<Vec<String>> {
    let names = list(&dir.join(STAGING))?.into_iter().filter(|name| is_staged(slot, name));
    Ok(names.map(|name| name.to_string_lossy().into_owned()).collect())
}

/// Makes what has happened to the names in a directory durable.
pub(super) fn sync(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::super::Pack;
    use super::*;
    use std::time::Duration;

    #[test]
    fn names_tell_their_epoch_and_slot_and_foreign_ones_tell_nothing() {
        let shape =
            Shape { prefix: "part".into(), extension: "csv", pack: Pack::Zstd, bytes_max: 1, age_max: Duration::ZERO };
        let name = part(&shape, Epoch(42), 3, 7);
        assert_eq!(name, "part-000000000042-003-007.csv.zst");
        let of = |slot, name: &str| part_epoch(&shape, slot, OsStr::new(name));
        assert_eq!(of(3, &name), Some(Epoch(42)));
        assert_eq!(of(4, &name), None, "another slot has it");
        assert_eq!(of(3, &part(&shape, Epoch(u64::MAX), 3, 7)), Some(Epoch(u64::MAX)));
        for foreign in ["part-1-2-3.csv", "part.csv", "other-000000000042-003-007.csv", "part-000000000042-003.csv", ""]
        {
            assert_eq!(of(3, foreign), None, "{foreign}");
        }
        let name = staged(Execution(5), 3, 11);
        assert!(is_staged(3, OsStr::new(&name)) && !is_staged(5, OsStr::new(&name)));
        assert!(!is_staged(3, OsStr::new("lock-3")));
    }
}
