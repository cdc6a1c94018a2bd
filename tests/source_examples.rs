//! The examples of what comes in: each run as its header says, and what it must print.

#[path = "faults/bed.rs"]
#[expect(dead_code, reason = "the matrix uses all of it")]
mod bed;
#[path = "../examples/custom_source.rs"]
#[expect(dead_code, reason = "the program around it is run, not called")]
mod custom_source;
#[expect(dead_code, reason = "the kill drill uses all of it")]
mod oracle;

use bed::{Bed, HANG, Running, example, says};
use custom_source::Measurements;
use rustix::process::Signal;
use std::time::{Duration, Instant};

fn measurements(all: &[(u32, i32)]) -> Vec<u8> {
    all.iter().flat_map(|(sensor, value)| [sensor.to_be_bytes(), value.to_be_bytes()].concat()).collect()
}

#[test]
fn a_source_of_ones_own_stops_at_a_bad_record_and_goes_on() {
    let bed = Bed::new();
    bed.write("attic.bin", measurements(&[(1, 21_500), (2, 9_000), (1, 21_000), (0, 0), (1, 22_250)]));
    let line = "attic.bin -r state --output out.json";
    let stopped = Running::start(&mut bed.command(&example("custom_source"), line)).end();
    says(stopped.code(65), &["attic.bin item 3: the sensor failed", "[exit 65]"]);
    let first = "{\"sensor\":1,\"value\":21.5}\n{\"sensor\":2,\"value\":9.0}\n";
    assert_eq!(bed.text("out.json"), first);
    bed.append("attic.bin", measurements(&[(2, 8_000), (2, 10_000)]));
    bed.append("attic.bin", [0, 0, 0]); // one that is being written
    for workers in 1..3 {
        let line = format!("{line} -w {workers} --on-error skip");
        Running::start(&mut bed.command(&example("custom_source"), &line)).end().code(0);
        let mut lines: Vec<String> = bed.text("out.json").lines().skip(2).map(str::to_owned).collect();
        lines.sort();
        assert_eq!(lines, ["{\"sensor\":1,\"value\":22.25}", "{\"sensor\":2,\"value\":10.0}"]);
    }
    // The file of another day.
    bed.write("attic.bin", measurements(&[(1, 0)]));
    let refused = Running::start(&mut bed.command(&example("custom_source"), line)).end();
    says(refused.code(78), &["7 measurements were read, and it has 1", "--accept-new-input"]);
}

#[test]
fn a_source_of_ones_own_keeps_the_contract() {
    let bed = Bed::new();
    bed.write(
        "a.bin",
        measurements(&(1..40).map(|n| (n % 3, 1000 - 7 * i32::try_from(n).unwrap())).collect::<Vec<_>>()),
    );
    bed.write("b.bin", measurements(&[(9, 9)]));
    bed.write("c.bin", "");
    let files = ["a.bin", "b.bin", "c.bin"].map(|name| bed.path(name)).to_vec();
    let shown = highwater::testing::conformance(move || Measurements { files: files.clone() });
    assert_eq!((shown.partitions, shown.items, shown.bad), (3, 27, 13));
    assert!(shown.resumed >= 43 && shown.kills >= 3, "{shown:?}");
}

#[test]
fn a_log_is_followed_through_a_rotation_and_a_restart() {
    let bed = Bed::new();
    std::fs::create_dir(bed.path("logs")).unwrap();
    bed.write("logs/app.log", "info started\nwarn slow\ninfo half a li");
    let line = "logs/*.log -r state --output levels.txt -s 10ms";
    let mut out = String::new();
    let mut expect = |run: &mut Running, more: &[&str]| {
        more.iter().for_each(|line| out.push_str(&format!("{line}\n")));
        let start = Instant::now();
        while bed.text("levels.txt") != out {
            assert!(start.elapsed() < HANG && !run.has_ended(), "{:?} is not {out:?}", bed.text("levels.txt"));
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    let mut run = Running::start(&mut bed.command(&example("tail_log"), line));
    expect(&mut run, &["1 info started", "1 warn slow"]);
    bed.append("logs/app.log", "ne\n");
    expect(&mut run, &["2 info half a line"]);
    std::fs::rename(bed.path("logs/app.log"), bed.path("logs/app.log.1")).unwrap();
    bed.append("logs/app.log.1", "info last of the old one\n");
    bed.append("logs/app.log", "info first of the new one\n");
    expect(&mut run, &["3 info last of the old one", "4 info first of the new one"]);
    run.kill();
    bed.append("logs/app.log", "info while it was down\n");
    std::fs::rename(bed.path("logs/app.log"), bed.path("logs/app.log.2")).unwrap();
    bed.append("logs/app.log", "info since then\n");
    let mut run = Running::start(&mut bed.command(&example("tail_log"), &format!("{line} -w 2")));
    expect(&mut run, &["5 info while it was down", "6 info since then"]);
    bed.append("logs/other.log", "debug another one\n");
    expect(&mut run, &["1 debug another one"]);
    run.signal(Signal::TERM);
    run.end().died_of(Signal::TERM);
}
