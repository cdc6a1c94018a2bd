//! Recovery directories of their own: each process writes to its own disk, and any numbers of processes start on what the
//! last ones have left.

use crate::bed::{Bed, Running, carts, says};
use crate::{INPUTS, bed, children, lives, no_panic_text, strike, wait_until};
use rustix::process::Signal;

const LINE: &str = "a.json b.json c.json --output out -r state/{process} -s 5ms";

/// What lies in a directory of a process, but for its lock and manifest.
fn shards(bed: &Bed, process: usize) -> usize {
    let Ok(all) = std::fs::read_dir(bed.path(&format!("state/{process}"))) else { return 0 };
    let generations = all.filter_map(|entry| Some(entry.ok()?.path()));
    let generations = generations.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("gen-"));
    generations.map(|path| std::fs::read_dir(path).unwrap().count()).sum()
}

/// Kills all once something is written; answers when they are gone.
fn cut_short(bed: &Bed, line: &str) {
    let before = bed.read("out").len();
    let program = Running::start(&mut bed.cart(line));
    wait_until("output", || bed.read("out").len() > before + 20_000);
    let all = children(&program);
    all.iter().for_each(|pid| strike(*pid, Signal::KILL));
    no_panic_text(&program.end().stderr);
    wait_until("all are gone", || all.iter().all(|pid| !lives(*pid)));
    bed.check_prefix(&INPUTS);
}

#[test]
fn rows_reach_their_new_owners_from_the_directories_of_processes_that_are_no_more() {
    let bed = bed(12_000);
    cut_short(&bed, &format!("{LINE} -n 4 -w 1 --restart 0"));
    for process in 0..4 {
        assert_eq!(shards(&bed, process), 1, "process {process} has its shard on its own disk");
    }
    cut_short(&bed, &format!("{LINE} -n 2 -w 2 --restart 0"));
    for input in INPUTS {
        bed.append(input, carts(100, 9).replace_user(input));
    }
    let ended = bed.run_cart(&format!("{LINE} -w 3"));
    says(ended.code(0), &["state/1", "holds nothing any more"]);
    assert_eq!((shards(&bed, 0), shards(&bed, 1), shards(&bed, 2), shards(&bed, 3)), (3, 0, 0, 0));
    bed.check_finished(&INPUTS);
    // What has nothing may go.
    for process in 1..4 {
        std::fs::remove_dir_all(bed.path(&format!("state/{process}"))).unwrap();
    }
    no_panic_text(bed.run_cart(&format!("{LINE} -n 3 -w 1")).code(0));
    bed.check_finished(&INPUTS);
}

trait OtherUsers {
    /// The same lines, of users that no other input has.
    fn replace_user(self, of: &str) -> Vec<u8>;
}

impl OtherUsers for Vec<u8> {
    fn replace_user(self, of: &str) -> Vec<u8> {
        let text = String::from_utf8(self).unwrap();
        text.replace("\"user_id\": \"", &format!("\"user_id\": \"more-{of}-")).into_bytes()
    }
}

#[test]
fn f10_shards_that_nobody_can_see_are_named_and_nothing_is_touched() {
    let bed = bed(12_000);
    cut_short(&bed, &format!("{LINE} -n 3 -w 1 --restart 0"));
    let out = bed.read("out");
    std::fs::rename(bed.path("state/1"), bed.path("away")).unwrap();
    for numbers in ["-n 3 -w 1", "-n 2 -w 1", "-w 2"] {
        let ended = bed.run_cart(&format!("{LINE} {numbers} --restart 0"));
        says(
            ended.code(78),
            &["lies in several directories", "shard 1, which lies in state/1 (process 1)", "not here"],
        );
        no_panic_text(&ended.stderr);
        assert!(bed.read("out") == out, "nothing was touched");
    }
    // A directory that has lost what it had is another matter.
    let _ = std::fs::remove_dir_all(bed.path("state/1"));
    std::fs::create_dir(bed.path("state/1")).unwrap();
    std::fs::copy(bed.path("away/manifest"), bed.path("state/1/manifest")).unwrap();
    let ended = bed.run_cart(&format!("{LINE} -n 3 -w 1 --restart 0"));
    says(ended.code(78), &["shard 1, which is gone from state/1"]);
    // Back again, all is well.
    std::fs::remove_dir_all(bed.path("state/1")).unwrap();
    std::fs::rename(bed.path("away"), bed.path("state/1")).unwrap();
    no_panic_text(bed.run_cart(&format!("{LINE} -n 2 -w 2")).code(0));
    bed.check_finished(&INPUTS);
}

/// Two copies of one directory, of which one would be written and the other be taken for it later.
#[test]
fn f10_a_copy_of_a_directory_is_noticed() {
    let bed = bed(3_000);
    no_panic_text(bed.run_cart(&format!("{LINE} -n 2 -w 1")).code(0));
    let copied = std::process::Command::new("cp").arg("-a").arg(bed.path("state/1")).arg(bed.path("state/5")).status();
    assert!(copied.unwrap().success());
    let ended = bed.run_cart(&format!("{LINE} -n 2 -w 1 --restart 0"));
    says(ended.code(78), &["both have shard 1"]);
    std::fs::remove_dir_all(bed.path("state/5")).unwrap();
    no_panic_text(bed.run_cart(&format!("{LINE} -n 3 -w 1")).code(0));
    bed.check_finished(&INPUTS);
}

#[test]
fn f10_one_directory_and_one_for_each_process_do_not_mix() {
    let bed = bed(100);
    let hosts = crate::hosts(2);
    let line =
        |p: usize, r: &str| format!("a.json --output out -r {r} --hosts {hosts} -p {p} --join-timeout 3s --restart 0");
    let zero = Running::start(&mut bed.cart(&line(0, "state/{process}")));
    says(bed.run_cart(&line(1, "state")).code(78), &["-r is one for each process at process 0 and given at process 1"]);
    zero.end().code(75);
    says(bed.run_cart("a.json -r {process}/{process}").code(64), &["may stand there once"]);
}
