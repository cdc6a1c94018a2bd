//! Stores of every format that was ever written open, and their runs go on where they ended.
#![allow(clippy::unwrap_used, reason = "a test that unwraps says what it expects")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

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

fn stores() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stores");
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()).collect()
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

/// The program of the example: `cargo test` builds it before this test.
fn cart_join() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent().and_then(Path::parent).unwrap().join("examples/cart_join")
}

#[test]
fn every_store_that_was_ever_written_opens_and_goes_on() {
    let stores = stores();
    assert!(stores.len() >= 4, "the golden stores are lost");
    for store in stores {
        for workers in ["1", "2", "3"] {
            let dir = tempfile::tempdir().unwrap();
            let bed = dir.path().join("bed");
            copy(&store, &bed);
            let before = fs::read_to_string(bed.join("out.json")).unwrap();
            assert_eq!(before.lines().count(), 5);
            let mut command = std::process::Command::new(cart_join());
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
