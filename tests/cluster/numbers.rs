//! Any numbers of processes and workers give one answer, side by side, at any interval, and idle they cost nothing.

use crate::bed::{Bed, HANG, Running, carts, long};
use crate::{INPUTS, bed, children, no_panic_text, number, wait_until};
use rustix::process::Signal;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// `HIGHWATER_EVENTS=1000000` in a release build for the long form.
#[test]
fn d1_any_numbers_of_processes_and_workers_give_the_same_answer() {
    let events = number("HIGHWATER_EVENTS", 1_200) as usize;
    let bed = bed(events / 3);
    for n in 1..=4 {
        for w in 1..=4 {
            let (out, start) = (format!("out-{n}-{w}"), Instant::now());
            let line = format!("a.json b.json c.json --output {out} -r store-{n}-{w} -s 200ms -n {n} -w {w}");
            no_panic_text(bed.run_cart(&line).code(0));
            eprintln!("-n {n} -w {w}: {:?}", start.elapsed());
            std::fs::rename(bed.path(&out), bed.path("out")).unwrap();
            bed.check_finished(&INPUTS);
        }
    }
}

#[test]
fn two_clusters_on_one_machine_at_once_do_not_meet() {
    let (one, other) = (bed(3_000), Bed::new());
    for input in INPUTS {
        other.write(input, carts(3_000, 77));
    }
    other.write("b.json", carts(3_000, 78));
    other.write("c.json", carts(3_000, 79));
    let line = "a.json b.json c.json --output out -r store -s 5ms -n 3 -w 1";
    let (first, second) = (Running::start(&mut one.cart(line)), Running::start(&mut other.cart(line)));
    no_panic_text(first.end().code(0));
    no_panic_text(second.end().code(0));
    one.check_finished(&INPUTS);
    other.check_finished(&INPUTS);
}

#[test]
fn d4_epochs_of_one_record_and_of_ten_milliseconds_work_over_processes() {
    for (interval, lines) in [("0", 400), ("10ms", 4_000)] {
        let bed = bed(if long() { lines * 10 } else { lines });
        let start = Instant::now();
        let line = format!("a.json b.json c.json --output out -r store -s {interval} -n 2 -w 1");
        let ended = bed.run_cart(&line);
        let said = ended.code(0);
        let took = start.elapsed();
        let end = said.lines().find(|line| line.contains("end of input")).unwrap();
        let epochs = end.split("epoch=").nth(1).unwrap_or_else(|| panic!("{end}"));
        let epochs: String = epochs.chars().take_while(char::is_ascii_digit).collect();
        let epochs: u64 = epochs.parse().unwrap();
        eprintln!("-s {interval}: {epochs} epochs in {took:?}, {:.0} a second", epochs as f64 / took.as_secs_f64());
        assert!(interval != "0" || epochs >= lines as u64, "{end}");
        bed.check_finished(&INPUTS);
    }
}

/// Four processes of two workers, a stdin that says nothing, ten-millisecond epochs.
#[test]
fn d6_an_idle_cluster_uses_less_than_four_percent_of_a_core() {
    let bed = Bed::new();
    bed.write("in.json", carts(100, 1));
    let mut command = bed.cart("- in.json --output out -n 4 -w 2 -s 10ms");
    let mut run = Running::start(command.stdin(Stdio::piped()));
    let quiet = run.stdin();
    wait_until("the file is read", || bed.read("out").iter().filter(|byte| **byte == b'\n').count() == 100);
    std::thread::sleep(Duration::from_millis(500));
    let cpu = || -> u64 {
        let pids = children(&run).into_iter().map(|pid| pid.as_raw_nonzero().get() as u32).chain([run.pid()]);
        let ticks = pids.map(|pid| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
            let fields: Vec<u64> =
                stat.rsplit(')').next().unwrap().split_whitespace().filter_map(|field| field.parse().ok()).collect();
            // The first field of all is a letter.
            fields[10] + fields[11]
        });
        ticks.sum()
    };
    assert_eq!(children(&run).len(), 4);
    let (before, start) = (cpu(), Instant::now());
    std::thread::sleep(Duration::from_secs(if long() { 60 } else { 5 }));
    let (used, over) = (Duration::from_millis((cpu() - before) * 10), start.elapsed());
    let percent = 100.0 * used.as_secs_f64() / over.as_secs_f64();
    eprintln!("idle, five processes in all: {percent:.2} % of a core");
    // The same few hundred looks a second cost twice as much where nothing is optimised.
    let most = if cfg!(debug_assertions) { 10.0 } else { 4.0 };
    assert!(percent < most, "{percent:.2} % of a core while idle: {used:?} in {over:?}");
    drop(quiet);
    run.signal(Signal::TERM);
    run.end_within(HANG);
}
