//! Stores of collections of every layout that was ever written open, and their runs go on where they ended.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

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

/// The program of the example: `cargo test` builds it before this test.
fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent().and_then(Path::parent).unwrap().join("examples/cart_collections")
}

/// What runs have to say that go on after line 8, one line each.
const AFTER: [&str; 3] = [
    r#"[{"user_id":"b","paid_order_ids":[4]},-1]"#,
    r#"[{"user_id":"b","paid_order_ids":[3]},1]"#,
    r#"[{"user_id":"a","paid_order_ids":[1]},-1]"#,
];

#[test]
fn every_store_of_collections_that_was_ever_written_opens_and_goes_on() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let stores = fs::read_dir(root.join("tests/collections/stores")).unwrap().map(|entry| entry.unwrap().path());
    let stores: Vec<PathBuf> = stores.filter(|path| path.is_dir()).collect();
    assert!(stores.len() >= 4, "the golden stores are lost");
    let all = fs::read_to_string(root.join("data/cart-collections.json")).unwrap();
    let last = r#"{"user_id":"a","type":"refund","order_id":1}"#;
    let lines: Vec<&str> = all.lines().skip(8).chain([last]).collect();
    for store in stores {
        for workers in [1, 2, 3] {
            let dir = tempfile::tempdir().unwrap();
            let bed = dir.path().join("bed");
            copy(&store, &bed);
            for (number, (line, after)) in lines.iter().zip(AFTER).enumerate() {
                let before = fs::read_to_string(bed.join("out.json")).unwrap();
                let input = fs::read_to_string(bed.join("in.json")).unwrap();
                fs::write(bed.join("in.json"), input + line + "\n").unwrap();
                let mut command = Command::new(program());
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
