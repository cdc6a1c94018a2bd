//! B1 to B11: a bad record costs one record, at most a stop right before it, and never more.

use crate::bed::{Bed, HANG, Running, TRANSCRIPT, carts, says};
use rustix::process::Signal;
use std::fmt::Write;

/// The line by which `cart_join` is known; here with any user and order.
fn order(user: &str, id: u64) -> String {
    format!("{{\"user_id\": \"{user}\", \"type\": \"order\", \"order_id\": {id}}}\n")
}

fn carts_of(bed: &Bed) -> Vec<String> {
    let mut lines: Vec<String> = bed.text("out").lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

#[test]
fn b1_a_bad_line_stops_it_there_with_all_before_it_kept() {
    for (workers, interval) in [(1, "0"), (1, "1h"), (4, "1s"), (3, "0")] {
        let bed = Bed::with_transcript();
        let line = format!("in.json --output out -r st -w {workers} -s {interval}");
        let said = bed.run_cart(&line).code(65).to_owned();
        says(&said, &["error: bad record in step \"events\": in.json line 6, byte 247: not JSON (\"FAIL HERE\")"]);
        says(&said, &["Everything before it is kept", "the run resumes at line 6", "--on-error skip", "[exit 65]"]);
        says(&said, &["go on with: "]);
        let first = bed.text("out");
        assert_eq!(first.lines().count(), 5);
        // The cause is still there: the same place, and not a byte more or less.
        for workers in [2, 1] {
            let again = bed.run_cart(&format!("in.json --output out -r st -w {workers} -s {interval}"));
            says(again.code(65), &["in.json line 6, byte 247"]);
            assert_eq!(bed.text("out"), first);
        }
        // Edited away, into a new file as editors do.
        bed.write("edited", [&TRANSCRIPT[..247], &TRANSCRIPT[257..]].concat());
        std::fs::rename(bed.path("edited"), bed.path("in.json")).unwrap();
        let ended = bed.run_cart(&line);
        ended.code(0);
        assert_eq!(ended.records(), 2, "nothing before the failure is read again");
        assert!(bed.text("out").starts_with(&first));
        bed.check_finished(&["in.json"]);
    }
}

/// Skipped, counted, told a few times only; the count survives a kill.
#[test]
fn b2_skipped_records_are_counted_across_a_kill_and_told_at_the_end() {
    let bed = Bed::new();
    let mut text = Vec::new();
    for (number, line) in carts(18_000, 2).split_inclusive(|byte| *byte == b'\n').enumerate() {
        text.extend_from_slice(line);
        if number % 20 == 10 {
            text.extend_from_slice(b"no JSON\n");
        }
    }
    bed.write("in.json", text);
    let mut run = Running::start(&mut bed.cart("in.json --output out -r st -w 2 -s 1ms --on-error skip -vv"));
    run.wait_for("skipped=128");
    run.wait_for("committed");
    run.kill().died_of(Signal::KILL);
    let ended = bed.run_cart("in.json --output out -r st -w 3 -s 1ms --on-error skip");
    says(ended.code(0), &["bad records skipped, over all runs on this store: 900"]);
    assert!(ended.records() < 18_000, "the kill came before the first commit");
    bed.check_finished(&["in.json"]);
    // A run with nothing to do still knows.
    says(bed.run_cart("in.json --output out -r st").code(0), &["over all runs on this store: 900"]);
}

/// Nothing but bad lines: it ends, memory is flat, the log is a page.
#[test]
fn b4_a_million_bad_lines_end_with_a_short_log_and_little_memory() {
    let lines = if crate::bed::long() { 1_000_000 } else { 20_000 };
    let bed = Bed::new();
    bed.write("in.json", "{\"user_id\": 1}\n".repeat(lines));
    let run = Running::start(&mut bed.cart("in.json --output out -r st -w 2 --on-error skip"));
    let ended = run.end_within(10 * HANG); // a million take a while in a build that is not optimised
    says(ended.code(0), &["bad record skipped: in.json line 1, byte 0: "]);
    let count = ended.stderr.rsplit("over all runs on this store: ").next().unwrap().trim().replace(',', "");
    assert_eq!(count, lines.to_string());
    assert!(ended.stderr.lines().count() < 60, "{} lines of log", ended.stderr.lines().count());
    assert!(ended.rss_kib < 100 << 10, "{} KiB", ended.rss_kib);
    assert_eq!(bed.read("out"), b"");
}

/// At the end of a batch, a whole record without a newline is a record; its newline may come later.
#[test]
fn b5_a_last_line_without_newline_is_a_record_if_it_is_whole() {
    for late in ["", "\n", "\r\n"] {
        let bed = Bed::new();
        bed.write("in.json", order("a", 1).trim_end());
        bed.run_cart("in.json --output out -r st").code(0);
        assert_eq!(bed.text("out"), "{\"user_id\":\"a\",\"paid_order_ids\":[],\"unpaid_order_ids\":[1]}\n");
        bed.append("in.json", late);
        let ended = bed.run_cart("in.json --output out -r st -w 2");
        ended.code(0);
        assert_eq!(ended.records(), 0, "the same line is not read again with its newline");
        bed.append("in.json", format!("{}{}", if late.is_empty() { "\n" } else { "" }, order("a", 2)));
        bed.run_cart("in.json --output out -r st -w 3").code(0);
        bed.check_finished(&["in.json"]);
    }
}

/// An incomplete one is a bad record; when the rest has come, the whole line is read, once.
#[test]
fn b5_a_torn_last_line_stops_the_run_and_is_read_whole_later() {
    let bed = Bed::new();
    let whole = order("a", 1) + &order("a", 2);
    let torn = whole.len() - 7;
    bed.write("in.json", &whole[..torn]);
    for _ in 0..2 {
        let said = bed.run_cart("in.json --output out -r st -w 2").code(65).to_owned();
        says(&said, &["in.json line 2, byte 49: incomplete last line"]);
        assert_eq!(bed.text("out").lines().count(), 1);
    }
    bed.append("in.json", &whole[torn..]);
    let ended = bed.run_cart("in.json --output out -r st");
    ended.code(0);
    assert_eq!(ended.records(), 1);
    bed.check_finished(&["in.json"]);
}

/// The rest of a line whose beginning was skipped is no record of its own.
#[test]
fn b5_the_rest_of_a_skipped_torn_line_is_skipped_with_it() {
    let bed = Bed::new();
    let line = order("a", 1);
    bed.write("in.json", format!("{}{}", order("b", 9), &line[..20]));
    let ended = bed.run_cart("in.json --output out -r st --on-error skip");
    says(ended.code(0), &["incomplete last line", "over all runs on this store: 1"]);
    bed.append("in.json", format!("{}{}", order("c", 1), order("d", 2)));
    let ended = bed.run_cart("in.json --output out -r st --on-error skip");
    says(ended.code(0), &["over all runs on this store: 1"]);
    let users: Vec<_> = carts_of(&bed).iter().map(|line| line[12..13].to_owned()).collect();
    assert_eq!(users, ["b", "d"], "what was appended to the torn line belongs to it");
}

#[test]
fn b6_strange_bytes_are_data_or_a_bad_record_and_never_anything_else() {
    let bed = Bed::new();
    let mut input = b"\xef\xbb\xbf".to_vec();
    input.extend_from_slice(order("bom", 1).trim_end().as_bytes());
    input.extend_from_slice(b"\r\n");
    input.extend_from_slice(order("nul\\u0000\\u2028", 2).as_bytes());
    input.extend_from_slice(order("\u{2028}\u{85}\u{feff}", 3).as_bytes());
    input.extend_from_slice(b"{\"user_id\": \"\xff\", \"type\": \"order\", \"order_id\": 4}\n");
    input.extend_from_slice(b"{\"user_id\": \"\xed\xa0\x80\", \"type\": \"order\", \"order_id\": 5}\n");
    input.extend_from_slice(b"{\"user_id\": \"raw\0nul\", \"type\": \"order\", \"order_id\": 6}\n");
    input.extend_from_slice(b"{\"user_id\": \"half \\ud800\", \"type\": \"order\", \"order_id\": 7}\n");
    input.extend_from_slice(b"\0\n\x1b[2J\x07 not JSON\n");
    input.extend_from_slice(order("last", 8).as_bytes());
    bed.write("in.json", input);
    let ended = bed.run_cart("in.json --output out -r st -w 2 --on-error skip");
    says(ended.code(0), &["over all runs on this store: 6", "not UTF-8 at byte 13 of the line"]);
    assert!(ended.stderr.bytes().all(|byte| byte == b'\n' || !byte.is_ascii_control()), "{:?}", ended.stderr);
    let row = |user: &str, id| format!("{{\"user_id\":\"{user}\",\"paid_order_ids\":[],\"unpaid_order_ids\":[{id}]}}");
    let mut due = [row("bom", 1), row("nul\\u0000\u{2028}", 2), row("\u{2028}\u{85}\u{feff}", 3), row("last", 8)];
    due.sort();
    assert_eq!(carts_of(&bed), due);
}

/// A blank line is not the end of input, wherever it stands and whatever it is made of.
#[test]
fn b7_blank_lines_are_no_records_and_not_the_end() {
    let bed = Bed::new();
    let text = format!("\n\n{}\r\n \t \n{}\n\n\n{}\n \n", order("a", 1), order("a", 2), order("a", 3));
    bed.write("in.json", &text);
    let ended = bed.run_cart("in.json --output out -r st -w 2 -s 0");
    ended.code(0);
    assert_eq!(ended.records(), 3);
    bed.append("in.json", format!("\n{}FAIL\n", order("a", 4)));
    let lines = text.lines().count() + 3;
    says(bed.run_cart("in.json --output out -r st").code(65), &[&format!("in.json line {lines}, ")]);
    assert_eq!(bed.text("out").lines().count(), 4);
}

/// A line that never ends is refused with its place, and never held.
#[test]
fn b8_a_line_without_end_is_refused_in_little_memory() {
    let bytes: u64 = if crate::bed::long() { 1 << 30 } else { 200 << 20 };
    for (option, limit) in [("", 16 << 20), (" --max-line 64KiB", 64 << 10)] {
        let bed = Bed::new();
        bed.write("in.json", order("a", 1));
        let file = std::fs::OpenOptions::new().append(true).open(bed.path("in.json")).unwrap();
        file.set_len(bytes).unwrap(); // NULs as far as the eye can see, and no disk used
        let ended = bed.run_cart(&format!("in.json --output out -r st{option}"));
        says(ended.code(65), &["in.json line 2, byte 49: longer than", &limit.to_string(), "--max-line"]);
        assert!(ended.rss_kib < 100 << 10, "{} KiB", ended.rss_kib);
        // Stepped over, it costs time and nothing else.
        let ended = bed.run_cart(&format!("in.json --output out -r st --on-error skip{option}"));
        says(ended.code(0), &["over all runs on this store: 1"]);
        assert!(ended.rss_kib < 100 << 10, "{} KiB", ended.rss_kib);
        assert_eq!(bed.text("out").lines().count(), 1);
    }
}

#[test]
fn b9_json_nested_a_hundred_thousand_deep_is_a_bad_record() {
    let bed = Bed::new();
    let deep = |open: &str| open.repeat(100_000);
    bed.write(
        "in.json",
        format!(
            "{}{}\n{}\n{{\"user_id\":\"a\",\"type\":\"order\",\"order_id\":2,\"more\":{}{}}}\n{}",
            order("a", 1),
            deep("["),
            deep("{\"a\":"),
            deep("["),
            deep("]"), // whole JSON, and nobody reads that field
            order("a", 3)
        ),
    );
    says(bed.run_cart("in.json --output out -r st -w 2").code(65), &["in.json line 2, byte 49: not "]);
    let ended = bed.run_cart("in.json --output out -r st -w 2 --on-error skip");
    says(ended.code(0), &["nested deeper than", "over all runs on this store: 3"]);
    assert_eq!(
        bed.text("out").lines().last(),
        Some("{\"user_id\":\"a\",\"paid_order_ids\":[],\"unpaid_order_ids\":[1,3]}")
    );
}

/// Numbers never wrap, doubled and missing fields are bad records, fields that nobody asked for are passed over.
#[test]
fn b10_hostile_json_is_read_as_documented_or_is_a_bad_record() {
    let event = |id: &str| format!("{{\"user_id\":\"a\",\"type\":\"order\",\"order_id\":{id}}}");
    let good = [
        (event("18446744073709551615"), u64::MAX),
        (event("9223372036854775808"), 1 << 63),
        (event("0"), 0),
        ("{\"order_id\":7,\"more\":{\"order_id\":8},\"type\":\"order\",\"user_id\":\"a\"}".to_owned(), 7),
        ("{\"\\u0075ser_id\":\"\\u0061\",\"type\":\"order\",\"order_id\":9,\"\":null}".to_owned(), 9),
    ];
    let mut bad: Vec<String> = [
        "1e999",
        "1e3",
        "-0",
        "-0.0",
        "1.0",
        "1.5",
        "-1",
        "18446744073709551616",
        "1e-1",
        "\"1\"",
        "null",
        "true",
        "[1]",
        "{}",
        "01",
        "+1",
        "0x1",
        "NaN",
        "Infinity",
        "",
    ]
    .map(event)
    .to_vec();
    bad.extend(
        [
            "{\"user_id\":\"a\",\"type\":\"order\",\"order_id\":1,\"order_id\":2}",
            "{\"user_id\":\"a\",\"user_id\":\"b\",\"type\":\"order\",\"order_id\":1}",
            "{\"user_id\":\"a\",\"type\":\"order\"}",
            "{\"type\":\"order\",\"order_id\":1}",
            "{\"user_id\":null,\"type\":\"order\",\"order_id\":1}",
            "{\"user_id\":\"a\",\"type\":\"Order\",\"order_id\":1}",
            "{\"user_id\":\"a\",\"type\":{\"order\":null},\"order_id\":1",
            "{\"user_id\":\"a\",\"type\":\"order\",\"order_id\":1}{\"user_id\":\"a\",\"type\":\"order\",\"order_id\":1}",
            "null",
            "[]",
            "\"a\"",
        ]
        .map(str::to_owned),
    );
    let bed = Bed::new();
    let mut text = String::new();
    for at in 0..bad.len().max(good.len()) {
        for line in [bad.get(at), good.get(at).map(|(line, _)| line)].into_iter().flatten() {
            writeln!(text, "{line}").unwrap();
        }
    }
    bed.write("in.json", text);
    let ended = bed.run_cart("in.json --output out -r st --on-error skip");
    let skipped = format!("over all runs on this store: {}", bad.len());
    says(ended.code(0), &[&skipped]);
    let ids: Vec<String> = good.iter().map(|(_, id)| id.to_string()).collect();
    let all = format!("{{\"user_id\":\"a\",\"paid_order_ids\":[],\"unpaid_order_ids\":[{}]}}", ids.join(","));
    assert_eq!(bed.text("out").lines().last(), Some(all.as_str()));
    // Each by itself stops a run, at its line.
    for line in bad {
        let bed = Bed::new();
        bed.write("in.json", format!("{line}\n"));
        says(bed.run_cart("in.json").code(65), &["in.json line 1, byte 0: not "]);
    }
}

/// Whatever a cart refuses is an error of its record, not a panic; an order that comes twice is two orders.
#[test]
fn b11_events_out_of_place_are_refused_by_the_cart_and_cost_one_record() {
    let pay = |user: &str, id: u64| order(user, id).replace("\"order\"", "\"payment\"");
    let text =
        [pay("a", 1), order("a", 1), pay("a", 1), pay("a", 1), order("b", 2), order("b", 2), pay("b", 2)].concat();
    for (workers, interval) in [(1, "0"), (2, "1s"), (4, "0")] {
        let bed = Bed::new();
        bed.write("in.json", &text);
        let line = format!("in.json --output out -r st -w {workers} -s {interval}");
        let ended = bed.run_cart(&line);
        let said = ended.code(65);
        says(said, &["step \"joiner\" failed in epoch", "key \"a\"", "payment for order 1"]);
        assert!(!said.contains("panic"), "{said}");
        let ended = bed.run_cart(&format!("{line} --on-error skip"));
        says(ended.code(0), &["over all runs on this store: 2"]);
        assert!(bed.text("out").contains("{\"user_id\":\"b\",\"paid_order_ids\":[2],\"unpaid_order_ids\":[2]}\n"));
        bed.check_finished(&["in.json"]);
    }
}
