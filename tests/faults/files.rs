//! B1 to B15 for CSV and compressed files; B13, B15: files that grow, appear, vanish and are renamed.

use crate::bed::{Bed, Ended, HANG, Running, example, says};
use rustix::process::Signal;
use std::fs;
use std::io::Write;
use std::time::{Duration, Instant};

fn reader(bed: &Bed, line: &str) -> Running {
    Running::start(&mut bed.command(&example("reader"), line))
}

fn read(bed: &Bed, line: &str) -> Ended {
    reader(bed, line).end()
}

/// A program that reads for ever has written all of this, in any order.
#[track_caller]
fn until(bed: &Bed, run: &mut Running, lines: &[&str]) {
    let start = Instant::now();
    loop {
        let text = bed.text("out");
        let mut there: Vec<&str> = text.lines().collect();
        there.sort_unstable();
        let mut due = lines.to_vec();
        due.sort_unstable();
        if there == due {
            return;
        }
        assert!(start.elapsed() < HANG && !run.has_ended(), "{there:?} is not {due:?}: {}", run.said());
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn stop(run: Running) {
    run.signal(Signal::TERM);
    run.end().died_of(Signal::TERM);
}

pub fn gzip(text: impl AsRef<[u8]>) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(text.as_ref()).unwrap();
    encoder.finish().unwrap()
}

fn zstd(text: impl AsRef<[u8]>) -> Vec<u8> {
    zstd::stream::encode_all(text.as_ref(), 1).unwrap()
}

#[test]
fn b1_a_bad_row_of_csv_stops_it_at_its_line_and_byte() {
    let bed = Bed::new();
    bed.write("in.csv", "key,text\n1,\"a\nb\"\n2\n3,c\n");
    for workers in [1, 2] {
        let line = format!("in.csv --csv -r st --output out -w {workers}");
        says(read(&bed, &line).code(65), &["in.csv line 4, byte 17: 1 fields, and the header has 2", "[exit 65]"]);
        assert_eq!(bed.text("out"), "1 a\\nb\n");
    }
    bed.write("in.csv", "key,text\n1,\"a\nb\"\nx,d\n3,c\n");
    says(read(&bed, "in.csv --csv -r st --output out").code(65), &["line 4, byte 17: column \"key\": invalid digit"]);
    bed.write("in.csv", "key,text\n1,\"a\nb\"\n2,d\n3,c\n");
    read(&bed, "in.csv --csv -r st --output out -w 3").code(0);
    assert_eq!(bed.text("out"), "1 a\\nb\n2 d\n3 c\n");
    // Other columns: the rows before would have been others too.
    bed.write("in.csv", "text,key\n1,\"a\nb\"\n2,d\n3,c\n4,e\n");
    says(read(&bed, "in.csv --csv -r st --output out").code(78), &["differ", "--accept-new-input"]);
}

#[test]
fn b5_an_incomplete_last_row_of_csv_is_bad_and_read_whole_later() {
    let bed = Bed::new();
    bed.write("in.csv", "key,text\n1,a\n2,\"b\n");
    says(read(&bed, "in.csv --csv -r st --output out").code(65), &["line 3, byte 13: incomplete last line"]);
    bed.append("in.csv", "c\"\n3,d");
    read(&bed, "in.csv --csv -r st --output out -w 2").code(0);
    bed.append("in.csv", "\n4,e\n");
    read(&bed, "in.csv --csv -r st --output out").code(0);
    assert_eq!(bed.text("out"), "1 a\n2 b\\nc\n3 d\n4 e\n");
}

#[test]
fn b6_b7_strange_bytes_and_blank_lines_in_csv_are_data_or_bad_or_nothing() {
    let bed = Bed::new();
    bed.write("in.csv", b"\xef\xbb\xbfkey,text\r\n\r\n1,\"a \"\"b\"\"\r\n\"\r\n\n2,\xff\n3,\0 \xe2\x80\xa8\n");
    let ended = read(&bed, "in.csv --csv -r st --output out --on-error skip");
    says(ended.code(0), &["field 2 is not UTF-8"]);
    assert_eq!(bed.text("out"), "1 a \\\"b\\\"\\r\\n\n3 \\0 \\u{2028}\n");
}

#[test]
fn b8_a_quote_that_is_never_closed_is_refused_at_the_limit() {
    let bed = Bed::new();
    bed.write("in.csv", format!("key,text\n1,a\n2,\"{}\n4,d\n", "b,\n".repeat(100_000)));
    let line = "in.csv --csv -r st --output out --max-line 64KiB";
    says(read(&bed, line).code(65), &["line 3, byte 13: longer than 65536 bytes"]);
    // What is behind the limit is no part of it any more: rows, of which only the last is whole.
    let ended = read(&bed, &format!("{line} --on-error skip"));
    ended.code(0);
    assert_eq!(bed.text("out"), "1 a\n4 d\n");
}

#[test]
fn b12_compressed_and_csv_files_that_are_others_are_refused() {
    for (name, pack) in [("in.gz", gzip as fn(String) -> Vec<u8>), ("in.zst", zstd), ("in.csv", String::into_bytes)] {
        let csv = if name == "in.csv" { "--csv" } else { "" };
        let text = |mark: &str| format!("key,text\n{}", format!("1,{mark}\n").repeat(1000));
        let bed = Bed::new();
        bed.write(name, pack(text("a")));
        let line = format!("{name} {csv} -r st --output out");
        read(&bed, &line).code(0);
        let before = bed.read("out");
        let cases = [(text("b"), "differ"), (text("a")[..2000].to_owned(), "bytes shorter than the stored offset")];
        for (other, says_so) in cases {
            bed.write(name, pack(other));
            says(read(&bed, &line).code(78), &[name, "is not the file of epoch", says_so, "--accept-new-input"]);
            assert_eq!(bed.read("out"), before);
        }
        // The same text, packed otherwise, and more behind it: the same file.
        bed.write(name, [pack(text("a")[..1000].to_owned()), pack(format!("{}2,c\n", &text("a")[1000..]))].concat());
        read(&bed, &format!("{line} -w 2")).code(0);
        let row = if csv.is_empty() { "2,c\n" } else { "2 c\n" };
        assert_eq!(bed.read("out"), [&before, row.as_bytes()].concat());
    }
}

#[test]
fn b14_a_damaged_member_in_the_middle_is_named_and_read_on_when_it_is_mended() {
    for (name, pack) in [("in.gz", gzip as fn(String) -> Vec<u8>), ("in.zst", zstd)] {
        let bed = Bed::new();
        let members: Vec<Vec<u8>> =
            (0..3).map(|number| pack((0..1000).map(|line| format!("{number} {line}\n")).collect())).collect();
        let mut damaged = members.clone();
        damaged[1][0] ^= 0xff;
        bed.write(name, damaged.concat());
        for workers in [1, 2] {
            let ended = read(&bed, &format!("{name} -r st --output out -w {workers}"));
            says(ended.code(74), &[&format!("cannot read {name} at byte 5890"), "damaged", "[exit 74]"]);
            assert_eq!(bed.text("out").lines().count(), 1000, "what was before it is kept");
        }
        // Cut in its last member.
        let whole = members.concat();
        bed.write(name, &whole[..whole.len() - 5]);
        says(read(&bed, &format!("{name} -r st --output out")).code(74), &["ends in its midst"]);
        bed.write(name, whole);
        read(&bed, &format!("{name} -r st --output out -w 2")).code(0);
        let all: String = (0..3).flat_map(|number| (0..1000).map(move |line| format!("{number} {line}\n"))).collect();
        assert_eq!(bed.text("out"), all);
    }
}

#[test]
fn b14_what_expands_without_end_is_refused() {
    let bed = Bed::new();
    bed.write("in.gz", gzip("0\n".repeat(100_000)));
    let ended = read(&bed, "in.gz -r st --output out --expand 100000");
    says(ended.code(74), &["in.gz", "expands to more than 100000 bytes", "expanding_to"]);
    read(&bed, "in.gz -r st --output out --expand 200000").code(0);
    assert_eq!(bed.text("out").lines().count(), 100_000);
}

#[test]
fn b13_what_is_appended_while_it_runs_or_later_is_read_once() {
    let bed = Bed::new();
    bed.write("a.txt", "1\n");
    let mut run = reader(&bed, "a.txt --follow -r st --output out -s 10ms");
    until(&bed, &mut run, &["1"]);
    bed.append("a.txt", "2\n3");
    until(&bed, &mut run, &["1", "2"]);
    bed.append("a.txt", "\n");
    until(&bed, &mut run, &["1", "2", "3"]);
    stop(run);
    bed.append("a.txt", "4\n5");
    let mut run = reader(&bed, "a.txt --follow -r st --output out -w 2");
    until(&bed, &mut run, &["1", "2", "3", "4"]);
    stop(run);
    // And without following, the last line is one, whole or not.
    for _ in 0..2 {
        read(&bed, "a.txt -r st --output out -w 3").code(0);
        assert_eq!(bed.text("out"), "1\n2\n3\n4\n5\n");
    }
}

#[test]
fn b15_new_files_start_at_their_start_and_lost_ones_are_refused() {
    let bed = Bed::new();
    fs::create_dir(bed.path("in")).unwrap();
    let line = "in/*.txt --growing -r st --output out -s 10ms";
    // There need not be any yet; but where they shall come there must be a directory.
    let mut run = reader(&bed, line);
    bed.write("in/a.txt", "a\n");
    until(&bed, &mut run, &["a"]);
    bed.write("in/b.tmp", "b\nb2");
    fs::rename(bed.path("in/b.tmp"), bed.path("in/b.txt")).unwrap();
    until(&bed, &mut run, &["a", "b", "b2"]);
    stop(run);
    bed.write("in/c.txt", "c\n");
    let mut run = reader(&bed, &format!("{line} -w 3"));
    until(&bed, &mut run, &["a", "b", "b2", "c"]);
    stop(run);
    for (from, to) in [("in/b.txt", "in/renamed.txt"), ("in/renamed.txt", "elsewhere")] {
        fs::rename(bed.path(from), bed.path(to)).unwrap();
        let lost = read(&bed, &format!("{line} -w 2"));
        says(
            lost.code(78),
            &["in/b.txt was read up to line 2", "not among the inputs", "--accept-new-input", "[exit 78]"],
        );
        assert_eq!(bed.text("out").lines().count(), 4);
    }
    let mut run = reader(&bed, &format!("{line} --accept-new-input"));
    bed.write("in/d.txt", "d\n");
    until(&bed, &mut run, &["a", "b", "b2", "c", "d"]);
    stop(run);
    says(read(&bed, "on/*.txt --growing").code(66), &["the pattern matches no file"]);
}

#[test]
fn b15_a_followed_file_that_cannot_be_found_again_is_refused() {
    let bed = Bed::new();
    fs::create_dir(bed.path("in")).unwrap();
    bed.write("in/a.txt", "a\n");
    let line = "in/*.txt --follow -r st --output out -s 10ms";
    let mut run = reader(&bed, line);
    until(&bed, &mut run, &["a"]);
    stop(run);
    // Between the two steps of a rotation its name is nobody's, and that is no loss.
    fs::rename(bed.path("in/a.txt"), bed.path("in/a.txt.1")).unwrap();
    let mut run = reader(&bed, line);
    bed.append("in/a.txt.1", "b\n");
    until(&bed, &mut run, &["a", "b"]);
    stop(run);
    fs::remove_file(bed.path("in/a.txt.1")).unwrap();
    says(read(&bed, line).code(78), &["in/a.txt", "--accept-new-input"]);
    bed.write("in/a.txt", "c\n");
    says(read(&bed, line).code(78), &["in/a.txt is not the file of epoch", "neither it nor what rotation has made"]);
    let mut run = reader(&bed, &format!("{line} --accept-new-input"));
    until(&bed, &mut run, &["a", "b", "c"]);
    stop(run);
    bed.fifo("in/pipe.txt");
    says(read(&bed, "in/*.txt --follow").code(64), &["in/pipe.txt is a pipe"]);
}

/// A hundred files that are followed and say nothing.
#[test]
fn d6_following_quiet_files_uses_less_than_two_percent_of_a_core() {
    let bed = Bed::new();
    fs::create_dir(bed.path("in")).unwrap();
    (0..100).for_each(|number| bed.write(&format!("in/{number}.log"), format!("{number}\n")));
    let mut run = reader(&bed, "in/*.log --follow --output out -w 4");
    let lines: Vec<String> = (0..100).map(|number| number.to_string()).collect();
    until(&bed, &mut run, &lines.iter().map(String::as_str).collect::<Vec<_>>());
    std::thread::sleep(Duration::from_secs(2));
    let (before, start) = (run.cpu(), Instant::now());
    std::thread::sleep(Duration::from_secs(if crate::bed::long() { 60 } else { 4 }));
    let (used, over) = (run.cpu() - before, start.elapsed());
    let percent = 100.0 * used.as_secs_f64() / over.as_secs_f64();
    let most = if cfg!(debug_assertions) { 8.0 } else { 2.0 };
    eprintln!("following 100 quiet files: {percent:.2} % of a core");
    assert!(percent < most, "{percent:.2} % of a core: {used:?} in {over:?}");
    stop(run);
}
