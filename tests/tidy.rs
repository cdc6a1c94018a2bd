//! The house rules that a machine can check: floors, no cycles, headers, sizes, no path of a machine.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The modules of `crates/highwater/src`, from the ground up. A file imports only from below, or
/// from beside it within its own module. ARCHITECTURE.md draws the same.
const FLOORS: [&[&str]; 11] = [
    &["data", "names", "packs", "policy", "time"],
    &["clock", "codec", "error", "meter", "shape"],
    &["batch", "evolution", "letter", "restored", "route", "shared"],
    &["cluster", "guard", "helpers", "listing", "snapshot", "stash"],
    &["graph"],
    &["recovery", "stream"],
    &["source"],
    &["operator"],
    &["sink", "flow", "status"],
    &["run"],
    &["testing", "prelude", "lib"],
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn files(dir: &Path, extension: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, extension, found);
        } else if path.extension().is_some_and(|e| e == extension) {
            found.push(path);
        }
    }
}

fn rust_files() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for dir in ["crates", "examples", "tests"] {
        files(&root().join(dir), "rs", &mut found);
    }
    assert!(found.len() > 40, "the walk has lost its way");
    found
}

/// What stands before the tests of a file.
fn product_code(text: &str) -> &str {
    text.split("\n#[cfg(test)]").next().unwrap_or_default()
}

fn floor(module: &str) -> usize {
    FLOORS.iter().position(|floor| floor.contains(&module)).unwrap_or_else(|| panic!("{module} stands on no floor"))
}

/// `crate::a::b::{c, d::e}` as it stands in a `use`: the first two names after `crate`.
fn crate_uses(code: &str) -> Vec<(String, Option<String>)> {
    let uses = code.lines().filter(|line| line.starts_with("use crate::") || line.starts_with("pub use crate::"));
    let mut found = Vec::new();
    for line in uses {
        let path = line.split("crate::").nth(1).unwrap().trim_end_matches(';');
        let mut names = path.split("::");
        let module = names.next().unwrap().trim_matches(|c: char| !c.is_alphanumeric() && c != '_').to_owned();
        let below = names.next().filter(|n| n.starts_with(|c: char| c.is_lowercase())).map(str::to_owned);
        found.push((module, below));
    }
    found
}

#[test]
fn imports_go_down_only() {
    let src = root().join("crates/highwater/src");
    let mut all = Vec::new();
    files(&src, "rs", &mut all);
    for path in all {
        let module = path.strip_prefix(&src).unwrap().components().next().unwrap().as_os_str().to_string_lossy();
        let module = module.trim_end_matches(".rs").to_owned();
        // The prelude and lib.rs gather names from everywhere: they are the top floor.
        if floor(&module) == FLOORS.len() - 1 {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        for (used, _) in crate_uses(product_code(&text)) {
            if used.starts_with(char::is_uppercase) {
                panic!("{} imports crate::{used}: name the module", path.display());
            }
            let ok = used == module || floor(&used) < floor(&module);
            assert!(ok, "{} (floor {}) imports {used} (floor {})", path.display(), floor(&module), floor(&used));
        }
    }
}

/// Within a module directory, files must not import each other in a circle.
#[test]
fn no_file_imports_itself_in_the_end() {
    let src = root().join("crates/highwater/src");
    for module in ["cluster", "operator", "source", "sink", "recovery", "run"] {
        let mut edges: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let mut all = Vec::new();
        files(&src.join(module), "rs", &mut all);
        for path in all {
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            let text = fs::read_to_string(&path).unwrap();
            let uses = crate_uses(product_code(&text)).into_iter().filter(|(used, _)| used == module);
            edges.entry(name).or_default().extend(uses.filter_map(|(_, below)| below));
        }
        for start in edges.keys() {
            let mut seen = BTreeSet::new();
            let mut open: Vec<&String> = edges[start].iter().collect();
            while let Some(name) = open.pop() {
                assert_ne!(name, start, "crates/highwater/src/{module}/{start}.rs imports itself in the end");
                if seen.insert(name) {
                    open.extend(edges.get(name).into_iter().flatten());
                }
            }
        }
    }
}

#[test]
fn every_file_says_what_it_is_and_none_is_too_long() {
    for path in rust_files() {
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("//!"), "{} does not begin with what it is (//!)", path.display());
        assert!(text.lines().count() <= 500, "{} has over 500 lines", path.display());
    }
}

/// `highwater-store` knows no Timely and starts no thread; only the recovery module writes to a store.
#[test]
fn what_must_not_be_known_is_not_known() {
    let mut store = Vec::new();
    files(&root().join("crates/highwater-store/src"), "rs", &mut store);
    for path in store {
        let text = fs::read_to_string(&path).unwrap();
        let code = product_code(&text);
        assert!(!code.contains("timely::"), "{} knows timely", path.display());
        let test_only = path.components().any(|c| c.as_os_str() == "protocol");
        assert!(test_only || !code.contains("thread::spawn"), "{} starts a thread", path.display());
    }
    let src = root().join("crates/highwater/src");
    let mut engine = Vec::new();
    files(&src, "rs", &mut engine);
    for path in engine {
        let text = fs::read_to_string(&path).unwrap();
        let code = product_code(&text);
        let place = path.strip_prefix(&src).unwrap().to_string_lossy().into_owned();
        let only = |what: &str, owner: &[&str]| {
            assert!(!code.contains(what) || owner.contains(&place.as_str()), "{place} has {what:?}");
        };
        only("set_committed(", &["recovery/commit.rs", "shared.rs"]);
        only("shard.append(", &["recovery/write.rs"]);
        only("Instant::now()", &["clock.rs"]);
        only(".next_tick(", &["source/driver.rs", "clock.rs", "time.rs"]);
        only("step_or_park(", &["run/worker.rs"]);
        only("std::process::exit", &[]);
    }
}

/// Nothing that is kept names a place on one machine.
#[test]
fn no_path_of_a_machine_is_written_down() {
    let mut all = rust_files();
    for dir in ["crates", "data", "docs"] {
        if root().join(dir).is_dir() {
            files(&root().join(dir), "md", &mut all);
            files(&root().join(dir), "toml", &mut all);
        }
    }
    let needles = ["ho", "ro", "wo"].into_iter().zip(["me/", "ot/", "rk/"]).map(|(a, b)| format!("/{a}{b}"));
    let needles: Vec<String> = needles.collect();
    for path in all {
        let text = fs::read_to_string(&path).unwrap();
        for (number, line) in text.lines().enumerate() {
            let found = needles
                .iter()
                .find(|needle| line.contains(&format!(" {needle}")) || line.contains(&format!("\"{needle}")));
            assert!(found.is_none(), "{}:{}: {line}", path.display(), number + 1);
        }
    }
}

/// The book has every page, and no page leads to a file that is not there.
#[test]
fn every_page_is_in_the_book_and_every_link_leads_somewhere() {
    let docs = root().join("docs");
    let summary = fs::read_to_string(docs.join("SUMMARY.md")).unwrap();
    let mut pages = vec![root().join("README.md"), root().join("ARCHITECTURE.md")];
    files(&docs, "md", &mut pages);
    for page in pages {
        let name = page.file_name().unwrap().to_string_lossy().into_owned();
        let in_book = page.starts_with(&docs) && name != "SUMMARY.md";
        assert!(!in_book || summary.contains(&format!("({name})")), "SUMMARY.md lacks {name}");
        let text = fs::read_to_string(&page).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split_once(')').map(|(link, _)| link)) {
            let file = link.split('#').next().unwrap_or_default();
            if !file.is_empty() && !file.contains("://") {
                assert!(page.with_file_name(file).exists(), "{}: no {file}", page.display());
            }
        }
    }
}
