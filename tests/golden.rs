//! Stores of every format that was ever written open, and their runs go on where they ended.
#![allow(clippy::unwrap_used, reason = "a test that unwraps says what it expects")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What must stand in the output in the end, in the order of users.
const CARTS: [&str; 7] = [
    r#"{"user_id":"a","paid_order_ids":[],"unpaid_order_ids":[1]}"#,
    r#"{"user_id":"a","paid_order_ids":[],"unpaid_order_ids":[1,2]}"#,
    r#"{"user_id":"a","paid_order_ids":[2],"unpaid_order_ids":[1]}"#,
    r#"{"user_id":"a","paid_order_ids":[2,1],"unpaid_order_ids":[]}"#,
    r#"{"user_id":"b","paid_order_ids":[],"unpaid_order_ids":[3]}"#,
    r#"{"user_id":"b","paid_order_ids":[],"unpaid_order_ids":[3,4]}"#,
    r#"{"user_id":"b","paid_order_ids":[4],"unpaid_order_ids":[3]}"#,
];

fn stores(dir: &str, least: usize) -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join(dir);
    let stores: Vec<PathBuf> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()).collect();
    assert!(stores.len() >= least, "the golden stores are lost");
    stores
}

/// Copies a directory, for its owner alone.
fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    fs::set_permissions(to, fs::Permissions::from_mode(0o700)).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            copy(&from, &to);
        } else {
            fs::copy(&from, &to).unwrap();
            fs::set_permissions(&to, fs::Permissions::from_mode(0o600)).unwrap();
        }
    }
}

/// An example: `cargo test` builds it before this test.
fn example(name: &str) -> Command {
    let test = std::env::current_exe().unwrap();
    Command::new(test.parent().and_then(Path::parent).unwrap().join("examples").join(name))
}

#[test]
fn every_store_that_was_ever_written_opens_and_goes_on() {
    for store in stores("tests/stores", 6) {
        for workers in ["1", "2", "3"] {
            let dir = tempfile::tempdir().unwrap();
            let bed = dir.path().join("bed");
            copy(&store, &bed);
            let before = fs::read_to_string(bed.join("out.json")).unwrap();
            assert_eq!(before.lines().count(), 5);
            let mut command = example("cart_join");
            command.current_dir(&bed).args(["in.json", "--output", "out.json", "-r", "store", "--on-error", "skip"]);
            let ended = command.args(["-w", workers]).output().unwrap();
            let said = String::from_utf8_lossy(&ended.stderr);
            assert!(ended.status.success(), "{} with -w {workers}: {said}", store.display());
            assert!(said.contains("2 records") || said.contains("3 records"), "only what is left is read: {said}");
            let after = fs::read_to_string(bed.join("out.json")).unwrap();
            assert!(after.starts_with(&before));
            let mut carts: Vec<&str> = after.lines().collect();
            carts.sort_by_key(|cart| cart.split(',').next());
            assert_eq!(carts, CARTS, "{} with -w {workers}", store.display());
        }
    }
}

/// What runs have to say that go on after line 8, one line each.
const PAID_AFTER: [&str; 3] = [
    r#"[{"user_id":"b","paid_order_ids":[4]},-1]"#,
    r#"[{"user_id":"b","paid_order_ids":[3]},1]"#,
    r#"[{"user_id":"a","paid_order_ids":[1]},-1]"#,
];

#[test]
fn every_store_of_collections_that_was_ever_written_opens_and_goes_on() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let all = fs::read_to_string(root.join("data/cart-collections.json")).unwrap();
    let last = r#"{"user_id":"a","type":"refund","order_id":1}"#;
    let lines: Vec<&str> = all.lines().skip(8).chain([last]).collect();
    for store in stores("tests/stores_of_collections", 5) {
        for workers in [1, 2, 3] {
            let dir = tempfile::tempdir().unwrap();
            let bed = dir.path().join("bed");
            copy(&store, &bed);
            for (number, (line, after)) in lines.iter().zip(PAID_AFTER).enumerate() {
                let before = fs::read_to_string(bed.join("out.json")).unwrap();
                let input = fs::read_to_string(bed.join("in.json")).unwrap();
                fs::write(bed.join("in.json"), input + line + "\n").unwrap();
                let mut command = example("cart_collections");
                command.current_dir(&bed).args(["in.json", "--output", "out.json", "-r", "store"]);
                let ended = command.args(["-w", &(workers + number).to_string()]).output().unwrap();
                let said = String::from_utf8_lossy(&ended.stderr);
                assert!(ended.status.success(), "{} with -w {workers}: {said}", store.display());
                let out = fs::read_to_string(bed.join("out.json")).unwrap();
                assert_eq!(out, format!("{before}{after}\n"), "{} with -w {workers}, run {number}", store.display());
            }
        }
    }
}

/// A store that has read files whole: what is appended to one, and a file that is new, are all that is read again.
#[test]
fn a_store_of_files_that_were_read_whole_goes_on() {
    for store in stores("tests/stores_of_files", 1) {
        for workers in ["1", "2", "3"] {
            let dir = tempfile::tempdir().unwrap();
            let bed = dir.path().join("bed");
            copy(&store, &bed);
            let before = fs::read_to_string(bed.join("out.json")).unwrap();
            let event =
                |user, kind, order| format!("{{\"user_id\":\"{user}\",\"type\":\"{kind}\",\"order_id\":{order}}}\n");
            let grown = fs::read_to_string(bed.join("in-a.json")).unwrap() + &event("a", "payment", 1);
            fs::write(bed.join("in-a.json"), grown).unwrap();
            fs::write(bed.join("in-d.json"), event("d", "order", 9)).unwrap();
            let mut command = example("cart_join");
            command.current_dir(&bed).args(["in-*.json", "--output", "out.json", "-r", "store", "-w", workers]);
            let ended = command.output().unwrap();
            let said = String::from_utf8_lossy(&ended.stderr);
            assert!(
                ended.status.success() && said.contains("2 records"),
                "{} with -w {workers}: {said}",
                store.display()
            );
            let after = fs::read_to_string(bed.join("out.json")).unwrap();
            let mut new: Vec<&str> = after.strip_prefix(&before).unwrap().lines().collect();
            new.sort_unstable();
            let carts = [
                r#"{"user_id":"a","paid_order_ids":[1],"unpaid_order_ids":[]}"#,
                r#"{"user_id":"d","paid_order_ids":[],"unpaid_order_ids":[9]}"#,
            ];
            assert_eq!(new, carts, "{} with -w {workers}", store.display());
        }
    }
}
