//! A connector outside of this workspace, written from the docs alone: it builds against highwater as a dependency, and
//! passes the conformance test.

use std::path::Path;
use std::process::Command;

#[test]
fn a_connector_of_others_keeps_the_contract() {
    let package = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/outside");
    let tmp = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let mut cargo = Command::new(env!("CARGO"));
    // In the build directory of the workspace, from cargo 1.91 on: what both depend on is built once.
    cargo.env("CARGO_TARGET_DIR", tmp.join("outside"));
    cargo.env("CARGO_BUILD_BUILD_DIR", tmp.parent().expect("it lies in the target directory"));
    cargo.args(["test", "--locked", "--config", "profile.dev.debug=0"]).current_dir(package);
    let ran = cargo.output().expect("cargo runs, since it runs this test");
    let said = format!("{}{}", String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success(), "{said}");
    assert!(said.contains("test netstrings_keep_the_contract_of_a_source ... ok"), "{said}");
}
