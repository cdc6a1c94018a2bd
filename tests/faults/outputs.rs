//! E4 to E7: outputs whose reader goes, that are cut, full, no files, or watched over a crash.

use crate::bed::{Bed, Running, carts, says};
use rustix::process::Signal;
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;

/// `cart_join | head -1`: exit 141, not a word, and the epoch is not committed.
#[test]
fn e4_a_closed_stdout_ends_it_quietly() {
    for workers in [1, 4] {
        let bed = Bed::new();
        bed.write("in.json", carts(4000, 4));
        let mut command = bed.cart(&format!("in.json -r st -w {workers} -s 1h"));
        let (reader, writer) = std::io::pipe().unwrap();
        let run = Running::start_with_stdout(command.stdout(writer));
        drop(command); // and with it our end of the pipe
        let mut first = String::new();
        let mut reader = BufReader::new(reader);
        reader.read_line(&mut first).unwrap();
        drop(reader);
        assert!(first.starts_with("{\"user_id\":"), "{first}");
        let ended = run.end();
        assert_eq!(ended.code(141), "", "nobody is there to be told");
        // Nothing of it was committed: all lines come again.
        let ended = bed.run_cart("in.json -r st -w 2");
        ended.code(0);
        assert_eq!(ended.records(), 4000);
        assert_eq!(ended.text().lines().count(), 4000);
    }
}

#[test]
fn e5_an_output_that_was_cut_or_deleted_is_refused() {
    for cut in [Some(0), Some(100), None] {
        let bed = Bed::new();
        bed.write("in.json", carts(200, 5));
        bed.run_cart("in.json --output out -r st -w 2").code(0);
        let whole = bed.read("out");
        match cut {
            Some(bytes) => bed.write("out", &whole[..bytes]),
            None => fs::remove_file(bed.path("out")).unwrap(),
        }
        bed.append("in.json", carts(50, 55));
        for workers in [1, 3] {
            let ended = bed.run_cart(&format!("in.json --output out -r st -w {workers}"));
            let (has, needs) = (cut.unwrap_or(0), whole.len());
            says(
                ended.code(78),
                &[&format!("output out has {has} bytes, but {needs} are committed"), "--rewind-sink out"],
            );
            assert_eq!(bed.read("out"), whole[..has], "it is not touched");
            assert_eq!(bed.path("out").exists(), cut.is_some());
        }
        // Put back, it goes on as if nothing had been.
        bed.write("out", &whole);
        bed.run_cart("in.json --output out -r st -w 2").code(0);
        assert!(bed.read("out").starts_with(&whole));
        bed.check_finished(&["in.json"]);
    }
}

/// What somebody appended to the output is behind what is committed, and is cut away like any torn epoch.
#[test]
fn e5_what_was_appended_by_others_is_cut_away() {
    let bed = Bed::new();
    bed.write("in.json", carts(200, 5));
    bed.run_cart("in.json --output out -r st").code(0);
    bed.append("out", "scribbled\n");
    bed.append("in.json", carts(50, 55));
    bed.run_cart("in.json --output out -r st -w 2").code(0);
    bed.check_finished(&["in.json"]);
}

#[test]
fn e6_a_full_device_is_an_error_and_not_success() {
    for (line, workers) in [("", 1), ("", 4), ("-r st", 2)] {
        let bed = Bed::new();
        bed.write("in.json", carts(300, 6));
        let ended = bed.run_cart(&format!("in.json --output /dev/full {line} -w {workers}"));
        says(ended.code(74), &["cannot write output /dev/full", "o space left", "[exit 74]"]);
        // As stdout it is the same.
        let full = File::options().write(true).open("/dev/full").unwrap();
        let run = Running::start_with_stdout(bed.cart("in.json").stdout(Stdio::from(full)));
        says(run.end().code(74), &["cannot write output -", "o space left"]);
        // Nothing that was not written is committed.
        let ended = bed.run_cart(&format!("in.json --output out {line}"));
        ended.code(0);
        bed.check_finished(&["in.json"]);
    }
}

/// A pipe, and a terminal by way of `script`, get every line.
#[test]
fn e6_a_pipe_and_a_terminal_get_every_line() {
    let bed = Bed::new();
    bed.write("in.json", carts(500, 7));
    bed.fifo("pipe");
    let run = Running::start(&mut bed.cart("in.json --output pipe -w 3 -r st -s 5ms"));
    let mut read = Vec::new();
    File::open(bed.path("pipe")).unwrap().read_to_end(&mut read).unwrap();
    run.end().code(0);
    bed.write("out", read);
    bed.check_finished(&["in.json"]);
    let program = crate::bed::example("cart_join");
    let mut script = crate::bed::command("script");
    script.current_dir(bed.path("")).args(["-qec", &format!("{} in.json -q", program.display()), "/dev/null"]);
    let ended = Running::start(script.stdin(Stdio::null())).end();
    ended.code(0);
    bed.write("out", ended.text().replace("\r\n", "\n").replace("\r\u{1b}[K", ""));
    bed.check_finished(&["in.json"]);
}

/// Whoever follows the output over a crash may see lines that are cut and written again: the same ones, per key.
#[test]
fn e7_lines_seen_before_a_crash_come_again_the_same() {
    let bed = Bed::new();
    bed.write("in.json", carts(20_000, 7));
    let mut cut = 0;
    for (workers, interval) in [(2, "300ms"), (3, "300ms"), (1, "1ms"), (4, "100ms")] {
        let mut run =
            Running::start(&mut bed.cart(&format!("in.json --output out -r st -s {interval} -w {workers} -vv")));
        run.wait_for("flow started");
        let before = bed.read("out").len();
        let start = std::time::Instant::now();
        while bed.read("out").len() < before + 50_000 && !run.has_ended() {
            assert!(start.elapsed() < crate::bed::HANG, "the output does not grow");
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        if run.has_ended() {
            run.end().code(0);
            break;
        }
        run.kill().died_of(Signal::KILL);
        let seen = bed.text("out");
        // The next run cuts back to what is committed, and stops at once.
        bed.write("stop.json", "no JSON\n");
        bed.run_cart("in.json stop.json --output out -r st -s 1h -w 1").code(65);
        cut += usize::from(bed.read("out").len() < seen.len());
        bed.write("stop.json", "");
        check_same_per_key(&seen, bed.text("out").as_str());
    }
    bed.run_cart("in.json stop.json --output out -r st -w 2").code(0);
    bed.check_finished(&["in.json"]);
    eprintln!("{cut} crashes had lines to cut");
}

/// Per key, one of the two begins with the other.
fn check_same_per_key(seen: &str, now: &str) {
    let by_key = |text: &str| {
        let mut lines: HashMap<String, Vec<String>> = HashMap::new();
        for line in text.lines().filter(|line| line.ends_with('}')) {
            let key = line.split("\",\"paid").next().unwrap_or_default();
            lines.entry(key.to_owned()).or_default().push(line.to_owned());
        }
        lines
    };
    let now = by_key(now);
    for (key, lines) in by_key(seen) {
        let same = now.get(&key).map_or(0, |now| now.iter().zip(&lines).take_while(|(a, b)| a == b).count());
        let shorter = now.get(&key).map_or(0, Vec::len).min(lines.len());
        assert_eq!(same, shorter, "{key} has other lines than were seen");
    }
}
