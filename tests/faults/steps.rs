//! C9: steps that were renamed, removed, added, re-ordered, or named twice.

use crate::bed::{Bed, says};

/// A store whose flow had the steps `first` and `second`, and counted `a` twice in each.
fn counted() -> Bed {
    let bed = Bed::new();
    bed.write("in", "a x\na x\n");
    bed.run_faulty("in --output out -r st -w 2 --steps first,second").code(0);
    assert_eq!(bed.text("out"), "a x 1 1\na x 2 2\n");
    bed.append("in", "a y\n");
    bed
}

fn last_line(bed: &Bed) -> String {
    bed.text("out").lines().last().unwrap_or_default().to_owned()
}

#[test]
fn c9_a_renamed_or_removed_step_is_refused_and_its_state_dropped_only_when_asked() {
    for (steps, orphan, dropped) in [("first,third", "second", "a y 3 1"), ("first", "second", "a y 3")] {
        let bed = counted();
        let before = bed.text("out");
        let line = format!("in --output out -r st -w 3 --steps {steps}");
        for _ in 0..2 {
            let ended = bed.run_faulty(&line);
            says(ended.code(78), &[&format!("\"{orphan}\""), &format!("--drop-state {orphan}"), "[exit 78]"]);
            assert!(!ended.stderr.contains("\"first\""), "{}", ended.stderr);
            assert_eq!(bed.text("out"), before, "nothing is touched");
        }
        bed.run_faulty(&format!("{line} --drop-state {orphan}")).code(0);
        assert_eq!(last_line(&bed), dropped);
        // What is dropped stays dropped, and the option is not needed again.
        bed.append("in", "a z\n");
        bed.run_faulty(&line).code(0);
        assert!(last_line(&bed).starts_with("a z 4"));
    }
}

#[test]
fn c8_a_changed_state_type_is_refused_until_it_is_said_what_shall_become_of_it() {
    let bed = counted();
    let before = bed.text("out");
    let line = "in --output out -r st -w 3 --steps first,second --float";
    for _ in 0..2 {
        let ended = bed.run_faulty(line);
        let parts =
            ["\"first\"", "count was u64 and is f64", "--accept-shape first", "--drop-state first", "[exit 78]"];
        says(ended.code(78), &parts);
        assert_eq!(bed.text("out"), before, "nothing is touched");
    }
    bed.run_faulty(&format!("{line} --accept-shape first --drop-state second")).code(0);
    assert_eq!(last_line(&bed), "a y 3 1");
    bed.append("in", "a z\n");
    bed.run_faulty(&format!("{line} --rename-step second=third").replace("second --float", "third --float")).code(0);
    assert_eq!(last_line(&bed), "a z 4 2");
}

#[test]
fn c9_an_added_step_starts_empty_and_the_order_has_no_effect() {
    let bed = counted();
    bed.run_faulty("in --output out -r st --steps second,between,first").code(0);
    assert_eq!(last_line(&bed), "a y 3 1 3");
}

#[test]
fn c9_two_steps_of_one_name_are_refused_when_the_flow_is_built() {
    let bed = counted();
    let before = bed.text("out");
    for taken in ["first,first", "first,second,out", "lines,first,second"] {
        let ended = bed.run_faulty(&format!("in --output out -r st -w 2 --steps {taken}"));
        says(ended.code(64), &["the flow cannot be built", "two steps are named", "Nothing was read or written"]);
        assert_eq!(bed.text("out"), before);
    }
    // All mistakes at once, not one a run.
    let ended = bed.run_faulty("in --output out --steps first,first,out");
    says(ended.code(64), &["\"first\"", "\"out\""]);
}
