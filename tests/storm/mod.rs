//! A program of the examples, killed again and again on one growing input file, with other workers each time.
//!
//! Smaller than `tests/drill`, and for any example that reads `in` and writes `out`: the caller says how the input
//! grows, what must hold of an output whose run was killed, and what of one whose run has ended.

#[path = "../faults/bed.rs"]
#[expect(dead_code, reason = "the matrix uses all of it")]
pub mod bed;

use bed::{Bed, Running, example};
use fastrand::Rng;
use rustix::process::Signal;
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

/// What is drilled.
pub struct Storm<G, K, E> {
    /// The example.
    pub program: &'static str,
    /// Kills, so many in all; `HIGHWATER_DRILL_KILLS` overrides it.
    pub kills: u64,
    /// Appends about so many lines.
    pub grow: G,
    /// Checks what a kill has left: input so far, output.
    pub killed: K,
    /// Checks what a run has left that has read everything.
    pub ended: E,
}

impl<G, K, E> Storm<G, K, E>
where
    G: FnMut(&mut Rng, usize) -> String,
    K: FnMut(&str, &str),
    E: FnMut(&str, &str),
{
    /// Runs the drill; panics with the seed when something is wrong.
    pub fn rage(mut self) {
        let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
        let seed = number("HIGHWATER_DRILL_SEED").unwrap_or_else(|| fastrand::u64(..1 << 32));
        let kills = number("HIGHWATER_DRILL_KILLS").unwrap_or(self.kills);
        eprintln!("{}: HIGHWATER_DRILL_SEED={seed}", self.program);
        let mut rng = Rng::with_seed(seed);
        let bed = Bed::new();
        let mut input = (self.grow)(&mut rng, 200);
        bed.write("in", &input);
        // Kills that struck a run in its midst, and those of them after it had written something of its own.
        let (mut hit, mut hit_late, mut ended) = (0, 0, 0);
        while hit < kills {
            let more = (self.grow)(&mut rng, 1500);
            bed.append("in", &more);
            input.push_str(&more);
            let (workers, interval) = (rng.usize(1..5), ["0", "1ms", "5ms", "30ms"][rng.usize(..4)]);
            let line = format!("in -r store --output out -q -w {workers} -s {interval}");
            // Asked for and not read: an output of megabytes takes longer to read than the run to end.
            let written = || std::fs::metadata(bed.path("out")).map_or(0, |file| file.len());
            let before = written();
            let mut running = Running::start(&mut bed.command(&example(self.program), &line));
            let late = rng.u32(..4) > 0;
            while late && !running.has_ended() && written() <= before {
                std::thread::sleep(Duration::from_millis(1));
            }
            // What has written may be through in a moment: short waits come as often as long ones.
            let longest = if late { 1 << rng.u32(4..16) } else { 60_000 };
            std::thread::sleep(Duration::from_micros(rng.u64(..longest)));
            // One that has ended, and was seen to, cannot be killed.
            let end = if running.has_ended() { running.end() } else { running.kill() };
            let output = String::from_utf8_lossy(&bed.read("out")).into_owned();
            if end.status.signal() == Some(Signal::KILL.as_raw()) {
                (self.killed)(&input, &output);
                hit += 1;
                hit_late += u64::from(written() > before);
            } else {
                assert_eq!(end.status.code(), Some(0), "{line}: {}", end.stderr);
                (self.ended)(&input, &output);
                ended += 1;
            }
        }
        assert!(hit_late * 4 >= hit, "of {hit} kills only {hit_late} struck a run that was writing");
        for workers in [3, 1] {
            let line = format!("in -r store --output out -q -w {workers}");
            Running::start(&mut bed.command(&example(self.program), &line)).end().code(0);
            (self.ended)(&input, &bed.text("out"));
        }
        eprintln!("{}: {hit} kills, {hit_late} while it wrote, {ended} ends of input", self.program);
    }
}

/// The whole lines of a text: a kill may have torn the last.
pub fn whole_lines(text: &str) -> impl Iterator<Item = &str> {
    text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'))
}
