//! How runs end: bad records and panics, agreed stops, processes that are stopped or left behind.

use crate::bed::{Bed, Running, says};
use crate::{INPUTS, bed, children, hosts, no_panic_text, wait_until};
use rustix::process::{Signal, kill_process};
use std::time::Duration;

#[test]
fn a7_a_bad_record_or_a_panic_in_one_ends_all_and_each_names_it() {
    let bed = bed(2_000);
    bed.append("b.json", "FAIL HERE\n");
    let ended = bed.run_cart("a.json b.json c.json --output out -r store -s 5ms -n 3");
    let said = ended.code(65);
    says(said, &["[1] error: bad record", "[0] error: process 1 failed: bad record", "[2] error: process 1 failed"]);
    let epochs = said.lines().filter(|line| line.contains("error: ")).map(|line| {
        let at = line.find("epoch ").unwrap_or_else(|| panic!("{line}"));
        line[at + 6..].split(|c: char| !c.is_ascii_digit()).next().unwrap().to_owned()
    });
    let epochs: Vec<String> = epochs.collect();
    assert!(epochs.len() == 3 && epochs.windows(2).all(|two| two[0] == two[1]), "{epochs:?}: {said}");
    assert!(!said.contains("starting again"), "{said}");
    bed.check_prefix(&INPUTS);

    let bed = Bed::new();
    bed.write("in", "a 1\nb 2\nc panic\n");
    let ended = bed.run_faulty("in --output out -r store -n 3");
    let said = ended.code(70);
    says(said, &["fault: panic", "error: panic in step \"tally\"", "failed: panic in step \"tally\""]);
    no_panic_text(said);
    assert!(!said.contains("starting again"), "a panic only comes again: {said}");
}

#[test]
fn a10_asked_to_stop_at_one_process_all_drain_at_one_epoch() {
    let bed = bed(40_000);
    let line = "a.json b.json c.json --output out -r store -s 20ms -n 3 -w 1";
    let program = Running::start(&mut bed.cart(line));
    wait_until("output", || !bed.read("out").is_empty());
    let one = children(&program)[1];
    kill_process(one, Signal::TERM).unwrap();
    let ended = program.end();
    assert!(ended.stderr.contains("stopped: ") && !ended.stderr.contains("error"), "{}", ended.stderr);
    let first = ended.records();
    let rest = bed.run_cart(&line.replace("-n 3", "-n 2 -w 2").replace(" -w 1", ""));
    rest.code(0);
    assert_eq!(first + rest.records(), 120_000, "nothing is read twice");
    bed.check_finished(&INPUTS);
}

#[test]
fn f2_a12_a_stopped_process_counts_as_lost_and_one_that_goes_on_in_time_does_not() {
    let bed = bed(40_000);
    let hosts = hosts(2);
    let line = |p: usize| {
        format!("a.json b.json c.json --output out -r store -s 20ms --hosts {hosts} -p {p} --peer-timeout 2s")
    };
    let (zero, one) = (Running::start(&mut bed.cart(&line(0))), Running::start(&mut bed.cart(&line(1))));
    wait_until("output", || !bed.read("out").is_empty());
    one.signal(Signal::STOP);
    std::thread::sleep(Duration::from_millis(500));
    one.signal(Signal::CONT);
    let before = bed.read("out").len();
    wait_until("more output", || bed.read("out").len() > before);
    one.signal(Signal::STOP);
    let ended = zero.end_within(Duration::from_secs(12));
    says(ended.code(75), &["process 1", "is lost", "--peer-timeout"]);
    one.signal(Signal::CONT);
    no_panic_text(one.end_within(Duration::from_secs(12)).code(75));
    bed.check_prefix(&INPUTS);
    bed.run_cart("a.json b.json c.json --output out -r store").code(0);
    bed.check_finished(&INPUTS);
}
