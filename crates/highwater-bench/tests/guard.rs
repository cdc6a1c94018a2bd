//! The instructions of small fixed workloads, against those that are kept in the repository.
#![allow(clippy::unwrap_used, reason = "a test that unwraps says what it expects")]

use std::path::Path;
use std::process::Command;

/// What is dearer than before by more than 5 % is so on purpose: `cargo run -p highwater-bench -- guard --write`.
#[test]
fn nothing_has_become_dearer_unnoticed() {
    let counts = Path::new(env!("CARGO_MANIFEST_DIR")).join("instructions.json");
    let mut guard = Command::new(env!("CARGO_BIN_EXE_highwater-bench"));
    let ended = guard.arg("guard").arg("--counts").arg(counts).output().unwrap();
    let (said, why) = (String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
    eprintln!("{said}");
    assert!(ended.status.success(), "{why}");
    assert!(said.contains("| off |") || said.starts_with("SKIPPED"), "{said}");
}
