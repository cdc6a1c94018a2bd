//! B12, B14, B16: input that is not what was read before, cannot be read, or is strange but right.

use crate::bed::{Bed, Running, carts, command, example, says};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

/// A store that has read `lines` lines of `in.json`.
fn has_read(lines: usize) -> Bed {
    let bed = Bed::new();
    bed.write("in.json", carts(lines, 12));
    bed.run_cart("in.json --output out -r st -w 2").code(0);
    bed
}

/// Refused before a record is read, with nothing touched; then taken from its start, if it is asked for.
#[track_caller]
fn check_refused(bed: &Bed, reasons: &[&str], accepted: usize) {
    let before = bed.read("out");
    for workers in [1, 3] {
        let ended = bed.run_cart(&format!("in.json --output out -r st -w {workers} --on-error skip"));
        says(ended.code(78), &["in.json is not the file of epoch", "--accept-new-input", "[exit 78]"]);
        says(&ended.stderr, reasons);
        assert_eq!(bed.read("out"), before);
    }
    let ended = bed.run_cart("in.json --output out -r st -w 2 --accept-new-input --on-error skip");
    ended.code(0);
    assert_eq!(ended.records(), accepted as u64);
    assert!(bed.read("out").starts_with(&before));
    // Once taken it is the file.
    assert_eq!(bed.run_cart("in.json --output out -r st").records(), 0);
}

#[test]
fn b12_a_file_that_shrank_is_refused() {
    let bed = has_read(500);
    let text = bed.read("in.json");
    let cut = text.len() - text.split_inclusive(|byte| *byte == b'\n').next_back().unwrap().len();
    bed.write("in.json", &text[..cut]);
    check_refused(&bed, &["bytes shorter than the stored offset"], 499);
}

#[test]
fn b12_a_file_with_other_content_is_refused() {
    let bed = has_read(500);
    let mut text = bed.read("in.json");
    let last = text.len() - 3;
    text[last] ^= 1; // one digit, in place, same size
    bed.write("in.json", &text);
    check_refused(&bed, &["bytes before byte", "differ"], 500);
}

/// Rotation: the file was moved away, and another, longer one has its name.
#[test]
fn b12_a_rotated_file_is_refused() {
    let bed = has_read(500);
    fs::rename(bed.path("in.json"), bed.path("in.json.1")).unwrap();
    bed.write("in.json", carts(700, 13));
    check_refused(&bed, &["bytes before byte", "differ"], 700);
}

/// Editors and backups give a file another inode; its content says that it is the same.
#[test]
fn b12_a_copy_with_the_same_content_is_the_same_file() {
    let bed = has_read(500);
    fs::copy(bed.path("in.json"), bed.path("copy")).unwrap();
    fs::rename(bed.path("copy"), bed.path("in.json")).unwrap();
    bed.append("in.json", carts(30, 14));
    let ended = bed.run_cart("in.json --output out -r st -w 3");
    ended.code(0);
    assert_eq!(ended.records(), 30);
    bed.check_finished(&["in.json"]);
}

/// Input that is not there is an error that names it, never an empty input with exit 0.
#[test]
fn b14_input_that_cannot_be_read_is_named() {
    let bed = Bed::with_transcript();
    fs::create_dir(bed.path("dir")).unwrap();
    bed.fifo("pipe");
    std::os::unix::fs::symlink("nowhere", bed.path("dangling")).unwrap();
    let cases = [
        ("missing.json", 66, "missing.json"),
        ("in.json missing.json", 66, "missing.json"),
        ("dir", 66, "dir/*"),
        ("none*.json", 66, "matches no file"),
        ("dangling", 66, "dangling"),
        ("in.json/x", 66, "in.json/x"),
        // A pipe cannot be read again after a crash.
        ("pipe", 64, "pipe cannot be read again"),
        ("-", 64, "stdin cannot be read again"),
        ("in.json ./in.json", 65, "in.json line 6"),
    ];
    for (input, code, name) in cases {
        let ended = bed.run_cart(&format!("{input} --output out -r st -w 2"));
        says(ended.code(code), &[name]);
        if code != 65 {
            assert!(!bed.path("out").exists(), "{input}: nothing is made before a record can be read");
        }
    }
    // One file under two names would be read twice.
    fs::hard_link(bed.path("in.json"), bed.path("link.json")).unwrap();
    says(bed.run_cart("in.json link.json --output out -r st").code(64), &["in.json and link.json are one file"]);
}

/// Root may read everything, so the program is started as nobody where these tests run as root.
#[test]
fn b14_input_without_permission_is_named() {
    let bed = Bed::with_transcript();
    fs::set_permissions(bed.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(bed.path("in.json"), fs::Permissions::from_mode(0o000)).unwrap();
    // The program may lie where nobody may look.
    fs::copy(example("cart_join"), bed.path("program")).unwrap();
    let mut run = match rustix::process::geteuid().is_root() {
        true => {
            let mut nobody = command("setpriv");
            nobody.args(["--reuid=65534", "--clear-groups"]).arg(bed.path("program"));
            nobody
        }
        false => command(bed.path("program")),
    };
    let ended = Running::start(run.current_dir(bed.path("")).arg("in.json")).end();
    says(ended.code(66), &["cannot read in.json", "ermission denied"]);
}

/// A disk that fails in the middle of a file: here a file whose bytes cannot be read.
#[test]
fn b14_a_file_that_cannot_be_read_on_is_named_with_its_byte() {
    let bed = Bed::new();
    bed.write("in.json", carts(10, 1));
    for workers in [1, 2] {
        let ended = bed.run_cart(&format!("in.json /proc/self/mem --output out -w {workers}"));
        says(ended.code(74), &["cannot read /proc/self/mem at byte 0", "[exit 74]"]);
    }
}

/// Empty files, empty keys, files of one byte.
#[test]
fn b16_empty_files_empty_keys_and_tiny_files_work() {
    let bed = Bed::new();
    bed.write("empty.json", "");
    let ended = bed.run_cart("empty.json --output out -r st -w 2");
    ended.code(0);
    assert_eq!((ended.records(), bed.read("out").len()), (0, 0));
    bed.append("empty.json", "\n");
    assert_eq!(bed.run_cart("empty.json --output out -r st").records(), 0);
    bed.append("empty.json", "{\"user_id\": \"\", \"type\": \"order\", \"order_id\": 1}\n");
    bed.run_cart("empty.json --output out -r st -w 3").code(0);
    assert_eq!(bed.text("out"), "{\"user_id\":\"\",\"paid_order_ids\":[],\"unpaid_order_ids\":[1]}\n");
    bed.append("empty.json", "{\"user_id\": \"\", \"type\": \"payment\", \"order_id\": 1}\n");
    bed.run_cart("empty.json --output out -r st -w 8").code(0);
    bed.check_finished(&["empty.json"]);
    bed.write("byte.json", "7");
    says(bed.run_cart("byte.json").code(65), &["byte.json line 1, byte 0: incomplete last line"]);
}

/// Very many files: no descriptor, little memory and no thread for each. What keys cost is measured by `highwater-bench memory`.
#[test]
fn b16_very_many_tiny_files_work() {
    let files = if crate::bed::long() { 1_000_000 } else { 3_000 };
    let users = 60_000;
    // A million take a start half a minute where nothing else is on.
    let patience = if crate::bed::long() { 10 * crate::bed::HANG } else { crate::bed::HANG };
    let bed = Bed::new();
    fs::create_dir(bed.path("many")).unwrap();
    for file in 0..files {
        let line = format!("{{\"user_id\": \"u{}\", \"type\": \"order\", \"order_id\": {file}}}\n", file % users);
        bed.write(&format!("many/{file}.json"), line);
    }
    for (workers, records) in [(3, files), (2, 0)] {
        let line = format!("many/*.json --output out -r st -w {workers}");
        let mut run = Running::start(&mut bed.cart(&line));
        let (start, mut descriptors) = (Instant::now(), 0);
        while !run.has_ended() {
            assert!(start.elapsed() < patience, "hangs: {line}");
            descriptors = descriptors.max(fs::read_dir(format!("/proc/{}/fd", run.pid())).map_or(0, Iterator::count));
            std::thread::sleep(Duration::from_millis(2));
        }
        let ended = run.end();
        ended.code(0);
        assert_eq!(ended.records(), records);
        eprintln!("{files} files, -w {workers}: {descriptors} descriptors, {} MB", ended.rss_kib >> 10);
        assert!(descriptors < 256, "{descriptors} descriptors");
        assert!(ended.rss_kib < 300 << 10, "{} KiB", ended.rss_kib);
    }
    assert_eq!(bed.text("out").lines().count() as u64, files);
    // Positions share rows of the store: those of files that grow have their own from then on, and one that is gone is missed.
    let grown = ["7", "70", "700"];
    for number in grown {
        let line = format!("{{\"user_id\": \"u{number}\", \"type\": \"payment\", \"order_id\": {number}}}\n");
        bed.append(&format!("many/{number}.json"), line);
    }
    for (workers, records) in [(4, grown.len() as u64), (1, 0)] {
        let line = format!("many/*.json --output out -r st -w {workers}");
        let ended = Running::start(&mut bed.cart(&line)).end_within(patience);
        ended.code(0);
        assert_eq!(ended.records(), records);
    }
    assert_eq!(bed.text("out").lines().count() as u64, files + grown.len() as u64);
    fs::remove_file(bed.path("many/71.json")).unwrap();
    let ended = Running::start(&mut bed.cart("many/*.json --output out -r st")).end_within(patience);
    says(ended.code(78), &["many/71.json"]);
}
