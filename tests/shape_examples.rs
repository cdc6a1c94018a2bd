//! The examples of shape and logic: each run as its header says, and what it must print.

#[path = "faults/bed.rs"]
#[expect(dead_code, reason = "the matrix uses all of it")]
mod bed;
#[expect(dead_code, reason = "the kill drill uses all of it")]
mod oracle;

use bed::{Bed, Running, example};

#[test]
fn sessions_end_and_what_is_odd_goes_out_by_the_side() {
    for workers in [1, 4] {
        let bed = Bed::new();
        let line = format!("clicks.txt -r state --sessions sessions.txt --odd odd.txt -w {workers}");
        let run = || {
            Running::start(&mut bed.command(&example("sessions"), &line)).end().code(0);
        };
        bed.write("clicks.txt", "ann in\nann page\nbob page\n");
        run();
        assert_eq!(
            (bed.text("sessions.txt"), bed.text("odd.txt")),
            (String::new(), "bob: page before in\n".to_owned())
        );
        bed.append("clicks.txt", "ann page\nann out\nann out\n");
        run();
        assert_eq!(bed.text("sessions.txt"), "ann: 2 pages\n");
        assert_eq!(bed.text("odd.txt"), "bob: page before in\nann: out before in\n");
    }
}
