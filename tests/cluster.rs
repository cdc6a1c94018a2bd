//! Many processes, one answer, and no hang: the cluster under kills, stops, bad records and strangers.
//!
//! Real programs on Unix sockets (`-n N` alone) and on loopback ports (`--hosts`). `HIGHWATER_DRILL_KILLS=500` for the
//! long drill, `HIGHWATER_DRILL_SEED` to draw the same again.

#[allow(dead_code, reason = "shared with the tests of the fault matrix, which use all of it")]
#[path = "faults/bed.rs"]
mod bed;
#[allow(dead_code, reason = "shared with the kill drill, which uses all of it")]
mod oracle;

use bed::{Bed, Running, carts, says};
use fastrand::Rng;
use rustix::process::{Pid, Signal, kill_process};
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

const INPUTS: [&str; 3] = ["a.json", "b.json", "c.json"];

fn bed(lines: usize) -> Bed {
    let bed = Bed::new();
    for (seed, input) in INPUTS.into_iter().enumerate() {
        bed.write(input, carts(lines, seed as u64 + 1));
    }
    bed
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// The processes that a program has started.
fn children(program: &Running) -> Vec<Pid> {
    let pid = program.pid();
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect()
}

#[track_caller]
fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < bed::HANG, "{what}: never");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Ports that were free just now.
fn hosts(count: usize) -> String {
    let free: Vec<TcpListener> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    free.iter().map(|port| port.local_addr().unwrap().to_string()).collect::<Vec<_>>().join(",")
}

fn no_panic_text(said: &str) {
    assert!(!said.contains("panicked at") && !said.contains("RUST_BACKTRACE"), "{said}");
}

#[test]
fn f1_killed_and_started_with_other_numbers_no_line_is_lost_or_doubled() {
    let (kills, seed) = (number("HIGHWATER_DRILL_KILLS", 8), number("HIGHWATER_DRILL_SEED", 1));
    let mut rng = Rng::with_seed(seed);
    let mut struck = 0;
    while struck < kills {
        let bed = bed(6_000);
        for _ in 0..8 {
            let (n, w) = (rng.usize(1..=4), rng.usize(1..=3));
            let line = format!("a.json b.json c.json --output out -r store -s 5ms -n {n} -w {w} --restart 0");
            let program = Running::start(&mut bed.cart(&line));
            let before = bed.read("out").len();
            let grown = rng.usize(0..200_000);
            let start = Instant::now();
            let mut program = program;
            while bed.read("out").len() < before + grown && !program.has_ended() && start.elapsed() < bed::HANG {
                std::thread::sleep(Duration::from_millis(5));
            }
            let all = children(&program);
            if all.len() == n && n > 1 {
                let one = rng.usize(..n);
                let some = if rng.u32(..100) < 70 { &all[one..=one] } else { &all[..] };
                for pid in some {
                    // It may have come to its end just now.
                    let _ = kill_process(*pid, Signal::KILL);
                }
                struck += 1;
                let ended = program.end_within(Duration::from_secs(8));
                no_panic_text(&ended.stderr);
            } else {
                no_panic_text(&program.kill().stderr);
            }
            bed.check_prefix(&INPUTS);
        }
        bed.run_cart("a.json b.json c.json --output out -r store -n 2 -w 2").code(0);
        bed.check_finished(&INPUTS);
    }
    eprintln!("{struck} strikes, seed {seed}");
}

#[test]
fn f1_a_process_that_is_killed_is_started_again_and_nobody_helps() {
    let bed = bed(40_000);
    let line = "a.json b.json c.json --output out -r store -s 20ms -n 4 -w 1";
    let program = Running::start(&mut bed.cart(line));
    wait_until("output", || !bed.read("out").is_empty());
    let victim = children(&program)[2];
    kill_process(victim, Signal::KILL).unwrap();
    let ended = program.end();
    let said = ended.code(0);
    says(said, &["was killed", "starting again after epoch", "is lost: it ended, or was killed"]);
    no_panic_text(said);
    eprintln!("{}", said.lines().find(|line| line.contains("going on")).unwrap_or("it was over before"));
    bed.check_finished(&INPUTS);
}

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
fn f8_strangers_on_the_port_hold_up_nobody_and_the_true_peers_join() {
    let bed = bed(500);
    let hosts = hosts(2);
    let line = |p: usize| format!("a.json b.json c.json --output out -r store --hosts {hosts} -p {p} --restart 0");
    let mut zero = Running::start(&mut bed.cart(&line(0)));
    let at = hosts.split(',').next().unwrap().to_owned();
    wait_until("a listener", || TcpStream::connect(&at).is_ok());
    let mut silent = Vec::new();
    for _ in 0..40 {
        silent.push(TcpStream::connect(&at).unwrap());
        let mut http = TcpStream::connect(&at).unwrap();
        let _ = http.write_all(b"GET / HT");
        let mut long = TcpStream::connect(&at).unwrap();
        let _ = long.write_all(b"HWCL\x00\x01\xff\xff\xff\xff");
        drop(TcpStream::connect(&at));
    }
    zero.wait_for("does not speak this protocol");
    let one = Running::start(&mut bed.cart(&line(1)));
    one.end().code(0);
    let ended = zero.end();
    no_panic_text(ended.code(0));
    assert!(ended.rss_kib < 200 << 10, "{} KiB", ended.rss_kib);
    bed.check_finished(&INPUTS);
    drop(silent);
}

#[test]
fn f5_a_process_of_another_shape_is_refused_and_both_values_are_named() {
    let bed = bed(10);
    let hosts = hosts(2);
    let line = |p: usize, w: usize| {
        format!("a.json --output out -r store --hosts {hosts} -p {p} -w {w} --join-timeout 4s --restart 0")
    };
    let zero = Running::start(&mut bed.cart(&line(0, 1)));
    let one = bed.run_cart(&line(1, 2));
    says(one.code(78), &["-w is 1 at process 0 and 2 at process 1"]);
    says(zero.end().code(75), &["-w is 1 at process 0 and 2 at process 1", "--join-timeout"]);
    assert!(!bed.path("out").exists(), "nothing was touched");
}

#[test]
fn f4_f9_who_never_comes_ends_the_start_and_a_taken_port_is_named() {
    let bed = bed(10);
    let line = format!("a.json --hosts {} -p 0 --join-timeout 1s", hosts(2));
    says(bed.run_cart(&line).code(75), &["process 1", "did not join in 1s"]);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let line = format!("a.json --hosts {},localhost:1 -p 0", taken.local_addr().unwrap());
    says(bed.run_cart(&line).code(74), &["cannot listen"]);
    says(bed.run_cart("a.json --hosts 10.0.0.1:9,10.0.0.2:9 -p 0").code(64), &["--cluster-key-file"]);
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
