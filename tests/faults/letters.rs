//! B3: records that are set aside, each once, with all they need to come back; and how they do.

use crate::bed::{Bed, Running, carts, says};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;

const FLAWS: &str = "FAIL HERE\n{\"user_id\": \"x\", \"type\": \"payment\", \"order_id\": 77}\n";

fn letters(bed: &Bed) -> Vec<Value> {
    bed.text("letters").lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn b3_a_bad_record_is_set_aside_with_all_it_needs_to_come_back() {
    let bed = Bed::with_transcript();
    bed.append("in.json", b"{\"user_id\": \"\xff\", \"type\": \"order\", \"order_id\": 1}\n");
    bed.append("in.json", "{\"user_id\": \"a\", \"type\": \"payment\", \"order_id\": 77}\n");
    let ended = bed.run_cart("in.json --output out -r st --on-error dead-letter --dead-letter letters");
    says(ended.code(0), &["bad record set aside: in.json line 6, byte 247", "in this run: 3"]);
    bed.check_finished(&["in.json"]);
    let mode = bed.path("letters").metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "letters hold what people have sent");
    let all = letters(&bed);
    let of = |step: &str| all.iter().filter(|letter| letter["step"] == step).collect::<Vec<_>>();
    let records = of("events");
    assert_eq!((records[0]["raw"].as_str(), records[0]["error"].as_str()), (Some("FAIL HERE"), Some("not JSON")));
    assert_eq!(
        (&records[0]["source"], &records[0]["line"], &records[0]["offset"]),
        (&json!("in.json"), &json!(6), &json!(247))
    );
    assert!(records[1]["raw_hex"].as_str().unwrap().starts_with("7b22757365725f6964223a2022ff"));
    let item = of("joiner")[0];
    assert_eq!((&item["key"], &item["item"]), (&json!("a"), &json!(["payment", 77])));
    assert!(item["error"].as_str().unwrap().contains("77") && item["epoch"].as_u64() > Some(0), "{item}");
    assert_eq!(item["input"][0]["source"], "in.json");
    assert_eq!((records.len(), all.len()), (2, 3));
}

/// The file of letters hears of an epoch at its end: no source may wait for it within a long one.
#[test]
fn b3_dead_letters_do_not_slow_down_a_long_epoch() {
    let bed = Bed::new();
    bed.write("in.json", [carts(4_000, 9), FLAWS.as_bytes().to_vec()].concat());
    let line = "in.json --output out -s 1h --on-error dead-letter --dead-letter letters";
    for store in ["", " -r st"] {
        let ended = bed.run_cart(&format!("{line}{store} -w 2"));
        ended.code(0);
        assert!(ended.records() >= 4_000 && letters(&bed).len() == 2, "{}", ended.stderr);
        bed.check_finished(&["in.json"]);
        for made in ["out", "letters"] {
            std::fs::remove_file(bed.path(made)).unwrap();
        }
    }
}

#[test]
fn b3_every_letter_is_written_once_across_kills() {
    let bed = Bed::new();
    let mut text = Vec::new();
    for (at, line) in carts(20_000, 3).split_inclusive(|byte| *byte == b'\n').enumerate() {
        if at % 50 == 0 {
            text.extend_from_slice(FLAWS.as_bytes());
        }
        text.extend_from_slice(line);
    }
    bed.write("in.json", text);
    let line = "in.json --output out -r st -s 1ms --on-error dead-letter --dead-letter letters -vv";
    for workers in [2, 3, 1] {
        let mut run = Running::start(&mut bed.cart(&format!("{line} -w {workers}")));
        run.wait_for("committed");
        run.wait_for("committed");
        run.kill();
    }
    bed.run_cart(&format!("{line} -w 4")).code(0);
    bed.check_finished(&["in.json"]);
    let all = letters(&bed);
    let places: BTreeSet<u64> = all.iter().filter_map(|letter| letter["line"].as_u64()).collect();
    let records = all.iter().filter(|letter| letter["step"] == "events").count();
    assert_eq!((records, places.len(), all.len()), (400, 400, 800));
    // What was set aside and not committed is cut away even by a run that sets nothing aside.
    bed.append("letters", "half a let");
    bed.run_cart("in.json --output out -r st --on-error skip").code(0);
    assert_eq!(letters(&bed).len(), 800);
}

#[test]
fn b3_mended_letters_come_in_again_once() {
    let bed = Bed::with_transcript();
    bed.append("in.json", "{\"user_id\": \"a\", \"type\": \"payment\", \"order_id\": 77}\n");
    let usual = "in.json --output out -r st --on-error dead-letter --dead-letter letters";
    bed.run_cart(usual).code(0);
    let before = bed.text("out");
    let mended = bed.text("letters").replace("FAIL HERE", r#"{\"user_id\":\"a\",\"type\":\"order\",\"order_id\":9}"#);
    bed.write("mended", mended);
    for workers in [2, 1, 3] {
        bed.run_cart(&format!("dead-letter retry mended {usual} -w {workers}")).code(0);
        // The payment is refused once more, and is a letter once more; the order came in.
        let row = "{\"user_id\":\"a\",\"paid_order_ids\":[2,1],\"unpaid_order_ids\":[9]}\n";
        assert_eq!(bed.text("out"), format!("{before}{row}"), "-w {workers}");
        assert_eq!(letters(&bed).len(), 3);
    }
    // Without it, the store still knows what it has read.
    bed.run_cart(usual).code(0);
    bed.append("mended", bed.text("letters").lines().nth(1).unwrap().replace("77", "9") + "\n");
    bed.run_cart(&format!("{usual} --retry mended")).code(0);
    assert!(bed.text("out").ends_with("{\"user_id\":\"a\",\"paid_order_ids\":[2,1,9],\"unpaid_order_ids\":[]}\n"));
}

#[test]
fn b3_letters_that_cannot_come_in_are_refused_before_a_record_is_read() {
    let bed = Bed::with_transcript();
    let refused = |line: &str, says_what: &str| {
        let ended = bed.run_cart(line);
        says(ended.code(64), &[says_what]);
        assert!(!bed.path("st").join("manifest").exists() && bed.text("out").is_empty(), "{line}");
    };
    refused("in.json -r st --output out --on-error dead-letter", "--dead-letter FILE");
    bed.write("mended", "{\"step\": \"joiner\", \"key\": \"a\", \"item\": [\"order\", 1]}\nno letter\n");
    refused("dead-letter retry mended in.json -r st --output out", "line 2 is no dead letter");
    bed.write("mended", "{\"step\": \"out of this\", \"raw\": \"x\"}\n");
    refused("dead-letter retry mended in.json -r st --output out", "line 1 is of step \"out of this\"");
    let both = "dead-letter retry mended in.json -r st --output out --on-error dead-letter --dead-letter ./mended";
    refused(both, "copy it first");
    bed.write("mended", "{\"step\": \"joiner\", \"key\": 7, \"item\": [\"order\", 1]}\n");
    let ended = bed.run_cart("dead-letter retry mended in.json -r st --output out");
    says(ended.code(65), &["joiner#retry", "the key of the letter does not fit its step"]);
}
