//! A store is looked over, its past read, and its backup taken and put back, with a whole program on it.
#![allow(clippy::unwrap_used, reason = "a test that unwraps says what it expects")]

use highwater_store::{Epoch, OpenOptions, Store, StoreError};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The program of the example: `cargo test` builds it before this test; `cargo test --test backup` alone does not.
fn cart_join() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let built = test.parent().and_then(Path::parent).unwrap().join("examples/cart_join");
    assert!(built.is_file(), "{} is missing: `cargo build --examples` builds it", built.display());
    built
}

/// A directory with an input.
struct Bed(tempfile::TempDir);

impl Bed {
    fn new(events: usize) -> Bed {
        let bed = Bed(tempfile::Builder::new().prefix("highwater-backup-").tempdir().unwrap());
        fs::write(bed.path("in.json"), events_of(events)).unwrap();
        bed
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn run(&self, line: &str) -> Output {
        let mut command = Command::new(cart_join());
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("HIGHWATER_")) {
            command.env_remove(name);
        }
        command.current_dir(self.0.path()).args(line.split_whitespace()).output().unwrap()
    }

    /// Runs, and ends with this code; what was said is answered, stdout first.
    fn ends(&self, line: &str, code: i32) -> String {
        let ended = self.run(line);
        let said = format!("{}{}", String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
        assert_eq!(ended.status.code(), Some(code), "{line}: {said}");
        assert!(!said.contains("panicked"), "{line}: {said}");
        said
    }

    fn store(&self, name: &str) -> Store {
        let mut options = OpenOptions::new("cart_join");
        options.dir = Some(self.path(name));
        // A process that another test just starts has a copy of every open file for a moment, locked ones too.
        for _ in 0..500 {
            match Store::open(options.clone()) {
                Err(StoreError::Locked { .. }) => std::thread::sleep(std::time::Duration::from_millis(20)),
                opened => return opened.unwrap(),
            }
        }
        panic!("{name} stays locked")
    }
}

fn events_of(count: usize) -> String {
    let line = |i: usize| {
        // Every fifth event pays for the order of this user that lies 28 events back.
        let (user, pays) = (i % 7, i % 5 == 4 && i >= 28);
        let (kind, order) = if pays { ("payment", i - 28) } else { ("order", i) };
        format!("{{\"user_id\":\"u{user}\",\"type\":\"{kind}\",\"order_id\":{order}}}\n")
    };
    (0..count).map(line).collect()
}

type Rows = BTreeMap<(String, Vec<u8>), Vec<u8>>;

/// States and positions of inputs at an epoch; where outputs ended depends on the cut of epochs.
fn rows_at(store: &Store, epoch: Epoch) -> Rows {
    let mut rows = Rows::new();
    let mut take = |row: highwater_store::Row<'_>| {
        if ["joiner", "events"].contains(&row.step) {
            rows.insert((row.step.to_owned(), row.key.to_vec()), row.value.to_vec());
        }
    };
    store.rows_at(epoch, &mut take).unwrap();
    rows
}

/// Bytes of all files below a directory.
fn files(dir: &Path, found: &mut BTreeMap<PathBuf, Vec<u8>>) {
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        match entry.path() {
            path if path.is_dir() => files(&path, found),
            path => drop(found.insert(path.clone(), fs::read(&path).unwrap())),
        }
    }
}

fn bytes_of(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    files(dir, &mut found);
    found
}

/// A good store is told at a glance, a damaged one shard by shard, one in use by its holder; nothing is changed.
#[test]
fn verify_names_all_that_is_wrong_and_changes_nothing() {
    let bed = Bed::new(400);
    bed.ends("in.json --output out.json -r st --store log -w 3 -s 0 --history 50", 0);
    let before = bytes_of(&bed.path("st"));
    let said = bed.ends("verify -r st", 0);
    assert!(
        said.contains("on log") && said.ends_with("good\n") && said.contains("step \"joiner\" (state): 7 rows"),
        "{said}"
    );
    let json: serde_json::Value = serde_json::from_str(&bed.ends("-r st verify --json", 0)).unwrap();
    assert_eq!((&json["ok"], json["shards"].as_array().unwrap().len()), (&true.into(), 3));
    let (from, resume) = (json["kept_from"].as_u64().unwrap(), json["resume"].as_u64().unwrap());
    assert!(resume >= 400 && from <= resume - 50, "{from} to {resume}");
    assert_eq!(bytes_of(&bed.path("st")), before);

    let held = bed.store("st");
    let said = bed.ends("verify -r st", 75);
    assert!(said.contains(&format!("in use by process {}", std::process::id())), "{said}");
    drop(held);

    let mut flipped = 0;
    for (path, bytes) in before.iter().filter(|(path, _)| path.to_string_lossy().contains("segment")) {
        let at = bytes.windows(6).position(|window| window == b"joiner" || window == b"unpaid");
        let Some(at) = at else { continue };
        let mut bytes = bytes.clone();
        bytes[at] ^= 4;
        fs::write(path, bytes).unwrap();
        flipped += 1;
    }
    assert!(flipped > 1, "{flipped} shards have something to damage");
    let damaged = bytes_of(&bed.path("st"));
    let said = bed.ends("verify -r st", 78);
    assert!(said.contains(&format!("damaged: {flipped} faults")) && said.contains("restore a backup"), "{said}");
    let json = bed.run("verify -r st --json");
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!((&json["ok"], json["faults"].as_array().unwrap().len()), (&false.into(), flipped));
    assert_eq!(bytes_of(&bed.path("st")), damaged);
    assert!(bed.ends("verify -r nothing", 66).contains("no recovery store"));
    assert!(bed.ends("verify", 64).contains("-r DIR"));
    assert!(!bed.path("nothing").exists());
}

/// Every kept epoch is what a run that ended there has, also after a rescale; a longer run drops what is too old.
#[test]
fn every_kept_epoch_is_what_a_run_that_ended_there_has() {
    let bed = Bed::new(90);
    bed.ends("in.json --output out.json -r st --store log -s 0 --history 60", 0);
    fs::write(bed.path("in.json"), events_of(120)).unwrap();
    // Another number of workers, and no word of the history: it stays as it was.
    bed.ends("in.json --output out.json -r st -w 3 -s 0", 0);
    let store = bed.store("st");
    let (from, resume) = store.kept().into_inner();
    assert!(resume.0 >= 120 && from.0 > 0 && from.0 <= resume.0 - 60, "{from} to {resume}");
    let mut compared = 0;
    for epoch in (from.0..=resume.0).step_by(9) {
        let kept = rows_at(&store, Epoch(epoch));
        // With an epoch for every record the number of records read is in the position of the input.
        let read = (1..=120).find(|count| {
            let bytes = events_of(*count).len().to_be_bytes();
            kept.iter().any(|((step, _), value)| step == "events" && contains(value, &bytes))
        });
        let Some(read) = read else { continue };
        let alone = Bed::new(read);
        alone.ends("in.json --output out.json -r st --store log -s 0", 0);
        let then = alone.store("st");
        let states = |rows: Rows| rows.into_iter().filter(|((step, _), _)| step == "joiner").collect::<Rows>();
        assert_eq!(states(kept), states(rows_at(&then, then.resume())), "epoch {epoch}, {read} records");
        compared += 1;
    }
    assert!(compared > 5, "{compared} epochs could be compared");
    assert!(store.rows_at(Epoch(from.0 - 1), &mut |_| ()).is_err());
    drop(store);
    bed.ends("in.json --output out.json -r st -w 2 -s 0 --history 0", 0);
    assert_eq!(bed.store("st").kept().into_inner().0, resume);
}

/// Whether a position in MessagePack has this number: in two, four or eight bytes, as it fits.
fn contains(value: &[u8], number: &[u8; 8]) -> bool {
    let number = &number[6..];
    value.windows(3).any(|window| window[0] == 0xcd && window[1..] == *number)
}

/// The lines of each user, in their order.
fn by_user(output: &Path) -> BTreeMap<String, Vec<String>> {
    let mut users = BTreeMap::<String, Vec<String>>::new();
    for line in fs::read_to_string(output).unwrap().lines() {
        let user = line.split('"').nth(3).unwrap().to_owned();
        users.entry(user).or_default().push(line.to_owned());
    }
    users
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// A store written with sled is exported and put into SQLite and into segments, with other workers; each goes on, and what
/// comes out is what the store that was never moved gives.
#[test]
fn a_moved_store_resumes_to_the_same_output() {
    let bed = Bed::new(600);
    bed.ends("in.json --output out.json -r st -w 2 -s 5ms --history 1000", 0);
    let said = bed.ends("-r st state export file --with-history", 0);
    assert!(said.starts_with("file: "), "{said}");
    assert_eq!(mode(&bed.path("file")), 0o600);
    let half = fs::read(bed.path("out.json")).unwrap();
    fs::write(bed.path("in.json"), events_of(1000)).unwrap();
    bed.ends("in.json --output out.json -r st -w 3 -s 5ms", 0);
    let whole = by_user(&bed.path("out.json"));
    assert_eq!(whole.values().map(Vec::len).sum::<usize>(), 1000);
    for (backend, workers) in [("sqlite", 3), ("log", 1)] {
        let said = bed.ends(&format!("state import file -r {backend} --store {backend} -w {workers} --json"), 0);
        let json: serde_json::Value = serde_json::from_str(&said).unwrap();
        assert_eq!((json["backend"].as_str(), json["shards"].as_u64()), (Some(backend), Some(workers)));
        assert!(json["kept_from"].as_u64() < json["resume"].as_u64(), "{json}");
        assert_eq!((mode(&bed.path(backend)), mode(&bed.path(backend).join("manifest"))), (0o700, 0o600));
        assert!(bed.ends(&format!("verify -r {backend}"), 0).ends_with("good\n"));
        fs::write(bed.path("out.json"), &half).unwrap();
        let said = bed.ends(&format!("in.json --output out.json -r {backend} -w 2 -s 5ms"), 0);
        assert!(said.contains("400 records"), "{said}");
        assert_eq!(by_user(&bed.path("out.json")), whole, "{backend}");
    }
    // Through a pipe, it is the same; and what is there already is left alone.
    let piped = bed.run("state export - -r log --with-history");
    fs::write(bed.path("piped"), piped.stdout).unwrap();
    bed.ends("state import piped -r other --store log", 0);
    assert!(bed.ends("state import piped -r other --store log", 73).contains("other is there already"));
    let past = |name: &str| {
        let store = bed.store(name);
        let (from, to) = store.kept().into_inner();
        (from.0..=to.0).map(|epoch| rows_at(&store, Epoch(epoch))).collect::<Vec<_>>()
    };
    assert!(past("other").len() > 2);
    assert_eq!(past("other"), past("log"));
}

/// What a store holds can be read by people, at every kept epoch.
#[test]
fn states_are_listed_and_printed() {
    // The past is cut at commits, and a short run may have a single one: about a thousand epochs can be on their way.
    let bed = Bed::new(4_000);
    bed.ends("in.json --output out.json -r st --store log -s 0 --history 20", 0);
    let said = bed.ends("state ls -r st", 0);
    assert!(said.contains("joiner (state): 7 rows"), "{said}");
    let last = bed.ends("state get joiner u3 -r st", 0);
    let json: serde_json::Value = serde_json::from_str(&last).unwrap();
    assert_eq!(json["key"], "u3");
    assert!(json["state"]["unpaid_order_ids"].as_array().is_some_and(|orders| !orders.is_empty()), "{last}");
    let epoch = bed.store("st").resume().0 - 14;
    let before = bed.ends(&format!("state get joiner u3 -r st --at {epoch}"), 0);
    assert!(before.len() < last.len(), "{before} {last}");
    assert_eq!(bed.ends("state get joiner -r st", 0).lines().count(), 7);
    assert!(bed.ends("state get joyner -r st", 64).contains("there are"));
    assert!(bed.ends("state get joiner -r st --at 2", 78).contains("does not keep epoch 2"));
    assert!(bed.ends("state ls -r nothing", 66).contains("no recovery store"));
    assert!(!bed.path("nothing").exists());
}

/// Flips, cuts and foreign files: refused with their place, and nothing is made. A store in use is not exported.
#[test]
fn what_is_no_whole_export_makes_no_store() {
    let bed = Bed::new(100);
    bed.ends("in.json --output out.json -r st --store log -w 2", 0);
    bed.ends("state export file -r st", 0);
    let bytes = fs::read(bed.path("file")).unwrap();
    for at in (0..bytes.len()).step_by(bytes.len() / 12) {
        let mut bad = bytes.clone();
        bad[at] ^= 32;
        fs::write(bed.path("bad"), &bad).unwrap();
        assert!(bed.ends("state import bad -r new", 78).contains("nothing was made"));
        fs::write(bed.path("bad"), &bytes[..at]).unwrap();
        assert!(bed.ends("state import bad -r new", 78).contains("nothing was made"));
    }
    assert!(bed.ends("state import in.json -r new", 78).contains("not an export"));
    assert!(bed.ends("state import nothing -r new", 66).contains("no export"));
    assert!(!bed.path("new").exists() && !bed.path("new.importing").exists());
    let _held = bed.store("st");
    assert!(bed.ends("state export other -r st", 75).contains("in use by process"));
    assert!(!bed.path("other").exists() && !bed.path("other.part").exists());
}

/// C13: an old backup is put back while the output has what came after it: refused, until the output is to be cut back to
/// the backup; the same for a directory that was copied with `cp`. Then all is written once.
#[test]
fn c13_an_old_backup_is_refused_while_the_output_is_ahead() {
    for way in ["import", "copy"] {
        let bed = Bed::new(300);
        bed.ends("in.json --output out.json -r st --store log -w 2", 0);
        let ends = fs::metadata(bed.path("out.json")).unwrap().len();
        match way {
            "import" => drop(bed.ends("state export file -r st", 0)),
            _ => copy(&bed.path("st"), &bed.path("old")),
        }
        fs::write(bed.path("in.json"), events_of(500)).unwrap();
        bed.ends("in.json --output out.json -r st", 0);
        let whole = by_user(&bed.path("out.json"));
        let after = fs::metadata(bed.path("out.json")).unwrap().len();
        if way == "import" {
            bed.ends("state import file -r old --store log", 0);
        }
        for _ in 0..2 {
            let said = bed.ends("in.json --output out.json -r old", 78);
            assert!(said.contains(&format!("{} bytes follow", after - ends)), "{said}");
            assert!(said.contains("--rewind-sink out"), "{said}");
            assert_eq!(fs::metadata(bed.path("out.json")).unwrap().len(), after, "it is left alone");
        }
        let said = bed.ends("in.json --output out.json -r old --rewind-sink out", 0);
        assert!(said.contains("200 records"), "{said}");
        assert_eq!(by_user(&bed.path("out.json")), whole, "{way}");
        bed.ends("in.json --output out.json -r old", 0);
    }
}

/// Copies a directory as `cp -a` does.
fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    fs::set_permissions(to, fs::Permissions::from_mode(0o700)).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        match entry.path() {
            path if path.is_dir() => copy(&path, &to.join(entry.file_name())),
            path => drop(fs::copy(path, to.join(entry.file_name())).unwrap()),
        }
    }
}

/// An import that is killed leaves no store at its place, and none that opens; the next one succeeds.
#[test]
fn a_killed_import_leaves_nothing_that_opens() {
    let bed = Bed::new(2000);
    bed.ends("in.json --output out.json -r st --store log -s 0 --history 10000", 0);
    bed.ends("state export file -r st --with-history", 0);
    let mut killed = 0;
    for wait in [1, 3, 6, 10, 15, 22, 30, 45, 60, 90] {
        let mut import = Command::new(cart_join())
            .current_dir(bed.0.path())
            .args("state import file -r new --store sled -w 4".split(' '))
            .spawn()
            .unwrap();
        std::thread::sleep(std::time::Duration::from_millis(wait));
        import.kill().unwrap();
        import.wait().unwrap();
        match bed.path("new").exists() {
            true => {
                assert!(bed.ends("verify -r new", 0).ends_with("good\n"));
                fs::remove_dir_all(bed.path("new")).unwrap();
            }
            false => killed += 1,
        }
    }
    assert!(killed > 0, "none was killed in time");
    bed.ends("state import file -r new --store sled -w 4", 0);
    assert!(!bed.path("new.importing").exists());
    assert_eq!(bed.store("new").kept(), bed.store("st").kept());
}
