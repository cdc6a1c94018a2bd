//! The examples of what goes out: each run as its header says, and what it must print.

#[path = "faults/bed.rs"]
#[expect(dead_code, reason = "the matrix uses all of it")]
mod bed;
#[expect(dead_code, reason = "the kill drill uses all of it")]
mod oracle;

use bed::{Bed, Ended, Running, example};

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
