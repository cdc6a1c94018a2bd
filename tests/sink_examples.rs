//! The examples of what goes out: each run as its header says, and what it must print.

#[path = "faults/bed.rs"]
#[expect(dead_code, reason = "the matrix uses all of it")]
mod bed;
#[path = "../examples/custom_sink.rs"]
mod custom_sink;
#[expect(dead_code, reason = "the kill drill uses all of it")]
mod oracle;

use bed::{Bed, Ended, Running, example};
use custom_sink::{Content, Document};
use std::cell::Cell;

fn run(bed: &Bed, name: &str, line: &str) -> Ended {
    Running::start(&mut bed.command(&example(name), line)).end()
}

#[test]
fn readings_that_are_none_are_set_aside_mended_and_fed_in_again_once() {
    let bed = Bed::new();
    bed.write("readings.txt", "attic 21.5\ncellar n/a\nattic 22.0\n");
    let usual = "readings.txt -r state --output out.txt --dead-letter bad.jsonl";
    run(&bed, "readings", usual).code(0);
    assert_eq!(bed.text("out.txt"), "attic: 21.5, warmest 21.5\nattic: 22, warmest 22\n");
    let letter = bed.text("bad.jsonl");
    let start = r#"{"step":"parse","error":"\"n/a\" is no number","epoch":1,"item":"cellar n/a","input":[{"#;
    assert!(letter.starts_with(start) && letter.lines().count() == 1, "{letter}");
    bed.write("mended.jsonl", letter.replace("cellar n/a", "cellar 9.5"));
    for workers in 1..3 {
        run(&bed, "readings", &format!("dead-letter retry mended.jsonl {usual} -w {workers}")).code(0);
        let all = "attic: 21.5, warmest 21.5\nattic: 22, warmest 22\ncellar: 9.5, warmest 9.5\n";
        assert_eq!(bed.text("out.txt"), all);
    }
}

#[test]
fn orders_into_sqlite_count_once() {
    let bed = Bed::new();
    let orders = [("ada", 950), ("bob", 300), ("ada", 50)];
    let lines = |orders: &[(&str, u32)]| {
        let line = |(user, cents): &(&str, u32)| format!("{{\"user\":\"{user}\",\"cents\":{cents}}}\n");
        orders.iter().map(line).collect::<String>()
    };
    bed.write("orders.jsonl", lines(&orders));
    run(&bed, "orders_into_sqlite", "orders.jsonl -r state --output orders.db").code(0);
    let totals = || {
        let database = rusqlite::Connection::open(bed.path("orders.db")).unwrap();
        let sql = "SELECT user || '|' || orders || '|' || cents FROM totals ORDER BY user";
        let mut statement = database.prepare(sql).unwrap();
        let rows = statement.query_map([], |row| row.get::<_, String>(0)).unwrap();
        rows.map(Result::unwrap).collect::<Vec<_>>()
    };
    assert_eq!(totals(), ["ada|2|1000", "bob|1|300"], "what its header says");
    bed.append("orders.jsonl", lines(&[("bob", 1)]));
    for workers in [3, 1] {
        run(&bed, "orders_into_sqlite", &format!("orders.jsonl -r state --output orders.db -w {workers}")).code(0);
        assert_eq!(totals(), ["ada|2|1000", "bob|2|301"]);
    }
}

#[test]
fn a_document_of_ones_own_shows_the_last_commit() {
    let bed = Bed::new();
    bed.write("readings.txt", "attic 21.5\ncellar 9.0\nattic 22.0\n");
    run(&bed, "custom_sink", "readings.txt -r state --output now.json").code(0);
    let values = r#""values":{"attic":"22.0","cellar":"9.0"}}"#;
    assert_eq!(bed.text("now.json"), format!("{{\"execution\":1,\"epoch\":1,{values}"), "what its header says");
    bed.append("readings.txt", "shed 3.0\n");
    run(&bed, "custom_sink", "readings.txt -r state --output now.json -w 3").code(0);
    assert!(bed.text("now.json").ends_with(r#""cellar":"9.0","shed":"3.0"}}"#), "{}", bed.text("now.json"));
    let foreign = run(&bed, "custom_sink", "readings.txt -r other --output now.json");
    assert!(foreign.code(78).contains("does not belong to this recovery store"), "{}", foreign.stderr);
}

#[test]
fn the_document_keeps_the_contract_that_it_was_written_from() {
    let dir = tempfile::tempdir().unwrap();
    let at = Cell::new(0);
    let path = || dir.path().join(at.get().to_string());
    let empty = || {
        at.set(at.get() + 1);
        Document(path())
    };
    let seen = |_: &Document| {
        let text = std::fs::read(path()).unwrap_or_default();
        let content: Content = serde_json::from_slice(&text).unwrap_or_default();
        content.values.into_iter().collect()
    };
    highwater::testing::check_sink(empty, |n| (format!("{n:03}"), n.to_string()), seen);
}

#[test]
fn a_flow_inside_a_tokio_program_gives_its_results_to_a_task() {
    let ended = run(&Bed::new(), "embed_in_tokio", "");
    ended.code(0);
    let mut lines: Vec<&str> = ended.text().lines().collect();
    assert_eq!(lines.pop(), Some("9 sums, committed"));
    let of = |name: &str| {
        let sums = lines.iter().filter_map(|line| line.strip_prefix(name));
        sums.map(|sum| sum.trim_start_matches(": ").parse().unwrap()).collect::<Vec<u64>>()
    };
    assert_eq!((of("ada"), of("bob"), of("eve")), (vec![3, 9, 18], vec![1, 5, 12], vec![2, 7, 15]));
}
