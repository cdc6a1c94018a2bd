//! E1 and the endurance bars: a slow end makes a slow beginning, and memory stays flat.
//!
//! Short by default; `HIGHWATER_LONG=1` gives ten minutes and a gigabyte.

use crate::bed::{Bed, Running, carts, long, says};
use rustix::process::Signal;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::time::{Duration, Instant};

/// A reader of 1,000 lines a second: memory is flat, commits go on, and SIGTERM is obeyed while blocked.
#[test]
fn e1_a_slow_reader_slows_the_source_and_commits_go_on() {
    let seconds = if long() { 600 } else { 8 };
    let bed = Bed::new();
    // A thousand users, again and again: what is kept of them is a few megabytes, so what grows is a backlog.
    let thousand = carts(20_000, 1);
    for _ in 0..if long() { 100 } else { 15 } {
        bed.append("in.json", &thousand);
    }
    bed.fifo("pipe");
    let mut run = Running::start(&mut bed.cart("in.json --output pipe -r st -w 2 --stop-timeout 5s -vv"));
    let mut reader = BufReader::new(File::open(bed.path("pipe")).unwrap());
    let start = Instant::now();
    let (mut lines, mut text) = (0u64, String::new());
    let (mut commits, mut rss) = (Vec::new(), Vec::new());
    while start.elapsed() < Duration::from_secs(seconds) {
        text.clear();
        assert!(reader.read_line(&mut text).unwrap() > 0, "it ended: {}", run.said());
        lines += 1;
        let due = Duration::from_millis(lines);
        std::thread::sleep(due.saturating_sub(start.elapsed()));
        if lines % 500 == 0 {
            let count = run.said().matches(" committed epoch=").count();
            if commits.last().is_none_or(|(_, last)| *last < count) {
                commits.push((start.elapsed(), count));
            }
            rss.push(run.rss_kib());
        }
    }
    let [quarter, end] = [rss[rss.len() / 4], rss[rss.len() - 1]];
    eprintln!("slow reader: {lines} lines, {} commits, {quarter} KiB after a quarter, {end} KiB", commits.len());
    assert!(end < 100 << 10, "{end} KiB");
    let gaps = commits.windows(2).map(|pair| pair[1].0 - pair[0].0);
    let first = commits.first().unwrap_or_else(|| panic!("no commit in {seconds} s")).0;
    let last = start.elapsed() - commits.last().expect("there is a first").0;
    let longest = gaps.chain([first, last]).max().expect("there are two at least");
    assert!(longest < Duration::from_secs(60), "no commit for {longest:?}");
    // From now on nobody reads.
    std::thread::sleep(Duration::from_millis(300));
    run.signal(Signal::TERM);
    let asked = Instant::now();
    let ended = run.end();
    assert!(asked.elapsed() < Duration::from_secs(15), "it took {:?}", asked.elapsed());
    ended.died_of(Signal::TERM);
}

/// An epoch of an hour, a big input and a slow step: one epoch never holds more than what is on its way.
#[test]
fn e1_a_slow_step_in_an_endless_epoch_takes_little_memory() {
    let bytes = if long() { 1 << 30 } else { 48 << 20 };
    let bed = Bed::new();
    // Few lines, each of them long: a step of 1 ms a line is slow, and the test is not.
    let line = format!("key nap {}\n", "x".repeat(20_000));
    let count = bytes / line.len();
    let mut file = std::io::BufWriter::new(File::create(bed.path("in")).unwrap());
    for _ in 0..count {
        std::io::Write::write_all(&mut file, line.as_bytes()).unwrap();
    }
    drop(file);
    let ended = bed.run_faulty("in --output out -r st -w 2 -s 1h");
    ended.code(0);
    assert_eq!(ended.records(), count as u64);
    eprintln!("slow step: {} KiB", ended.rss_kib);
    assert!(ended.rss_kib < 150 << 10, "{} KiB", ended.rss_kib);
    says(&ended.stderr, &["end of input"]);
    assert!(bed.read("out").ends_with(format!(" {count}\n").as_bytes()));
}

/// One hot key whose state grows with every event: it ends the run with step, key and size, everything before it is kept,
/// and the run goes on exactly where more is allowed.
#[test]
fn c17_a_state_without_end_ends_the_run_and_not_the_machine() {
    let order = |id| format!("{{\"user_id\": \"hot\", \"type\": \"order\", \"order_id\": {id}}}\n");
    let input: String = (0..4_000).map(order).collect();
    let (calm, bed) = (Bed::new(), Bed::new());
    calm.append("in.json", &input);
    bed.append("in.json", &input);
    calm.run_cart("in.json --output out -r st").code(0);
    let line = "in.json --output out -r st -s 10ms -w 2";
    let ended = bed.run_cart(&format!("{line} --max-state-bytes 4KiB"));
    let parts = ["\"joiner\"", "hot", "bytes, more than the 4096 of --max-state-bytes", "[exit 65]"];
    says(ended.code(65), &parts);
    assert!(calm.text("out").starts_with(&bed.text("out")), "what is there is the beginning of the calm run's output");
    bed.run_cart(line).code(0);
    assert!(bed.text("out") == calm.text("out"), "with more allowed it goes on to the same end");
}
