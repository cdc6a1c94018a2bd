//! `docs/faults.md` and the tests know each other: no row without a test, no test without a row.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The rows that the project has promised to test.
const ROWS: &str = "A1 A2 A4 A5 A6 A7 A8 A9 A10 A11 B1 B2 B3 B4 B5 B6 B7 B8 B9 B10 B11 B12 B13 B14 B15 B16 \
                    C2 C8 C9 C10 C11 C12 D1 D3 D4 D5 D6 E1 E2 E3 E4 E5 E6 E7 A3 A13 C3 C4 C5 C6 C7 C13 C14 C15 C16 C17";

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// `file.rs::test` wherever it stands in backquotes, as a path from the root.
fn named(text: &str) -> BTreeSet<(String, String)> {
    let quoted = text.split('`').skip(1).step_by(2).filter_map(|code| code.split_once("::"));
    let full = |file: &str| if file.contains('/') { file.to_owned() } else { format!("tests/faults/{file}") };
    quoted.map(|(file, test)| (full(file), test.to_owned())).collect()
}

#[test]
fn the_table_names_every_row_and_every_test() {
    let table = fs::read_to_string(root("docs/faults.md")).unwrap();
    for row in ROWS.split_whitespace() {
        let line = table.lines().find(|line| line.starts_with(&format!("| {row} |")));
        let line = line.unwrap_or_else(|| panic!("row {row} is not in docs/faults.md"));
        assert!(!named(line).is_empty(), "row {row} names no test");
    }
    let named = named(&table);
    for (file, test) in &named {
        let text = fs::read_to_string(root(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        assert!(text.contains(&format!("fn {test}(")), "there is no {test} in {file}");
    }
    for entry in fs::read_dir(root("tests/faults")).unwrap() {
        let path = entry.unwrap().path();
        let file = format!("tests/faults/{}", path.file_name().unwrap().to_string_lossy());
        let text = fs::read_to_string(path).unwrap();
        for part in text.split("#[test]\nfn ").skip(1) {
            let test = part.split('(').next().unwrap().to_owned();
            let row = test.split('_').next().unwrap().to_uppercase();
            let in_row = ROWS.split_whitespace().any(|known| known == row);
            assert!(!in_row || named.contains(&(file.clone(), test.clone())), "{test} is not in docs/faults.md");
        }
    }
}
