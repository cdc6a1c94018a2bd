//! The contract of a source, checked; and a flow that reads netstrings.

use highwater::prelude::*;
use netstrings::Netstrings;
use std::path::Path;

/// Files with texts of all sorts, two of them with what is none.
fn files(dir: &Path) -> Vec<PathBuf> {
    let text = |text: &str| format!("{}:{text},", text.len()).into_bytes();
    let good: Vec<u8> = ["hello", "", "5:nested,", "two\nlines", "größer"].into_iter().flat_map(text).collect();
    let long: Vec<u8> = (0..40).flat_map(|length| text(&"x".repeat(length))).collect();
    let bad = [&good[..], b"x", &text("after a letter")[..], b"3:abcd", b"2:\xff\xfe,", &text("last")[..], b"9:half"];
    let contents = [("good", good.clone()), ("long", long), ("bad", bad.concat()), ("empty", Vec::new())];
    let file = |(name, bytes): (&str, Vec<u8>)| {
        let path = dir.join(name);
        std::fs::write(&path, bytes).expect("a file of the test");
        path
    };
    contents.map(file).to_vec()
}

#[test]
fn netstrings_keep_the_contract_of_a_source() {
    let dir = tempfile::tempdir().expect("a directory of the test");
    let files = files(dir.path());
    let shown = highwater::testing::conformance(move || Netstrings { files: files.clone() });
    assert_eq!((shown.partitions, shown.items), (4, 5 + 40 + 7));
    assert!(shown.bad >= 3 && shown.kills >= 3, "{shown:?}");
}

#[test]
fn a_flow_reads_them() {
    let dir = tempfile::tempdir().expect("a directory of the test");
    let files = files(dir.path())[..1].to_vec();
    let source = Netstrings { files };
    let texts =
        highwater::testing::run(move |flow| flow.source("texts", source.clone()).map(|text| text.to_uppercase()));
    assert_eq!(texts, ["HELLO", "", "5:NESTED,", "TWO\nLINES", "GRÖSSER"]);
}
