//! C2, C10, C11, C12, D3: full disks, two runs at once, stores of others, and numbers at their end.

use crate::bed::{Bed, Running, TRANSCRIPT, carts, command, example, says};
use highwater_store::{Epoch, OpenOptions, Rows, StartPlan, Store};
use rustix::process::Signal;
use std::fs;
use std::process::Command;

/// Runs a script where it may mount: as root, or as the root of a user namespace of its own.
fn with_mounts(script: &str) -> Option<Command> {
    let ways: [&[&str]; 2] = [&["--mount"], &["--user", "--map-root-user", "--mount"]];
    let works = |way: &&&[&str]| {
        let probe = command("unshare").args(**way).args(["sh", "-c", "mount -t tmpfs none /mnt"]).output();
        probe.is_ok_and(|output| output.status.success())
    };
    let way = ways.iter().find(works)?;
    let mut run = command("unshare");
    run.args(*way).args(["sh", "-c", script]);
    Some(run)
}

/// The output's disk is full: exit 74 with path and bytes free; then there is space, and no line is torn or lost.
#[test]
fn c2_a_full_disk_under_the_output_loses_nothing() {
    let bed = Bed::new();
    bed.write("in.json", carts(8_000, 2));
    let script = "set -e; mkdir disk; mount -t tmpfs -o size=256k none disk
        run() { \"$0\" in.json --output disk/out -r st -s 20ms -w \"$1\"; }
        if run 2; then echo 'the disk was not full'; exit 1; else echo \"ended with $?\" >&2; fi
        if run 3; then exit 1; else echo \"ended again with $?\" >&2; fi
        cp disk/out torn
        mount -o remount,size=64m disk
        run 4
        cp disk/out out";
    let Some(mut script) = with_mounts(script) else {
        eprintln!("SKIPPED (1 of the matrix): c2 needs to mount a small disk, and may not here");
        return;
    };
    let ended = Running::start(script.current_dir(bed.path("")).arg(example("cart_join"))).end();
    says(ended.code(0), &["ended with 74", "ended again with 74", "cannot write output disk/out", "bytes free"]);
    says(&ended.stderr, &["Free some space and start again", "go on with: "]);
    assert!(bed.read("torn").len() > 100_000, "it wrote until the disk was full");
    bed.check_finished(&["in.json"]);
}

/// The disk of a directory of parts is full: exit 74; then there is space, and nothing is torn, lost or doubled.
#[test]
fn c2_a_full_disk_under_a_directory_of_parts_loses_nothing() {
    let bed = Bed::new();
    let lines = |key: u32| (0..400).map(move |number| format!("key-{key} {number}\n"));
    bed.write("in", (0..40).flat_map(lines).collect::<String>());
    let script = "set -e; mkdir disk; mount -t tmpfs -o size=256k none disk
        run() { \"$0\" in -r st --output disk --parts-only --dead-letter letters -s 20ms -w \"$1\"; }
        if run 2; then echo 'the disk was not full'; exit 1; else echo \"ended with $?\" >&2; fi
        if run 3; then exit 1; else echo \"ended again with $?\" >&2; fi
        mkdir seen; cp disk/parts/part-* seen 2>/dev/null || true
        mount -o remount,size=64m disk
        run 4
        cp -r disk/parts parts";
    let Some(mut script) = with_mounts(script) else {
        eprintln!("SKIPPED (1 of the matrix): c2 needs to mount a small disk, and may not here");
        return;
    };
    let ended = Running::start(script.current_dir(bed.path("")).arg(example("every_sink"))).end();
    says(ended.code(0), &["ended with 74", "ended again with 74", "cannot write output disk/parts", "bytes free"]);
    says(&ended.stderr, &["Free some space and start again", "go on with: "]);
    let parts = |dir: &str| {
        let names = fs::read_dir(bed.path(dir)).unwrap().map(|entry| entry.unwrap().path());
        let mut names: Vec<_> = names.filter(|path| path.is_file()).collect();
        names.sort();
        names
    };
    let read = |dir: &str| parts(dir).iter().map(|path| fs::read_to_string(path).unwrap()).collect::<String>();
    assert!(read("seen").lines().all(|line| line.ends_with('}')), "what was seen was whole");
    let all = read("parts");
    for seen in parts("seen") {
        assert_eq!(fs::read(&seen).unwrap(), fs::read(bed.path("parts").join(seen.file_name().unwrap())).unwrap());
    }
    let mut rows: Vec<(String, u64)> = Vec::new();
    for line in all.lines() {
        let row: serde_json::Value = serde_json::from_str(line).unwrap();
        rows.push((row["key"].as_str().unwrap().to_owned(), row["nth"].as_u64().unwrap()));
    }
    rows.sort();
    let expected = (0..40).flat_map(|key| (1..=400).map(move |nth| (format!("key-{key}"), nth)));
    let mut expected: Vec<_> = expected.collect();
    expected.sort();
    assert_eq!(rows, expected, "every row once");
}

#[test]
fn c10_a_second_run_on_one_store_is_refused_and_a_killed_one_is_no_obstacle() {
    let bed = Bed::new();
    bed.write("in", "a x\na sleep\n");
    let mut first = Running::start(&mut bed.faulty("in --output out -r st -s 0"));
    first.wait_for("fault: sleep");
    let before = bed.text("out");
    for _ in 0..2 {
        let second = bed.run_faulty("in --output other -r st -w 2");
        says(second.code(75), &["st is in use by process", &first.pid().to_string(), "since 20", "[exit 75]"]);
        assert!(!bed.path("other").exists());
    }
    assert_eq!(bed.text("out"), before);
    assert!(!first.has_ended(), "the first run has not noticed anything");
    first.kill().died_of(Signal::KILL);
    bed.write("in", "a x\na awake\n");
    bed.run_faulty("in --output out -r st -w 2").code(0);
    assert_eq!(bed.text("out"), "a x 1\na awake 2\n");
}

#[test]
fn c11_two_runs_never_write_one_output() {
    for (mine, other) in [("-r st", "-r other"), ("-r st", ""), ("", "-r other"), ("", "")] {
        let bed = Bed::new();
        bed.write("in", "a x\na sleep\n");
        let mut first = Running::start(&mut bed.faulty(&format!("in --output out {mine} -s 0")));
        first.wait_for("fault: sleep");
        bed.write("more", "b x\n");
        let second = bed.run_faulty(&format!("more --output ./out {other}"));
        says(second.code(75), &["output out is in use by another run", "[exit 75]"]);
        assert!(!first.has_ended());
        first.kill().died_of(Signal::KILL);
        assert!(!bed.text("out").contains('b'), "{}", bed.text("out"));
    }
}

#[test]
fn c12_the_store_of_another_program_is_refused() {
    let bed = Bed::with_transcript();
    bed.run_cart("in.json --output out -r st --on-error skip").code(0);
    let before = bed.read("out");
    bed.write("in", "a x\n");
    for line in ["in -r st", "in --output out -r st -w 4", "in.json -r st"] {
        let ended = bed.run_faulty(line);
        says(ended.code(78), &["st belongs to flow \"cart_join\", this is flow \"faulty\"", "--fresh", "[exit 78]"]);
        assert_eq!((bed.read("out"), ended.stdout.len()), (before.clone(), 0));
    }
    // It is still the store that it was.
    assert_eq!(bed.run_cart("in.json --output out -r st -w 2").records(), 0);
}

#[test]
fn c12_other_input_is_refused() {
    let bed = Bed::with_transcript();
    bed.run_cart("in.json --output out -r st --on-error skip").code(0);
    let before = bed.read("out");
    bed.write("other.json", TRANSCRIPT);
    let ended = bed.run_cart("other.json --output out -r st --on-error skip");
    says(ended.code(78), &["in.json was read up to line", "not among the inputs any more", "--accept-new-input"]);
    assert_eq!(bed.read("out"), before);
    // Together with the old input it is a new partition, which starts at 0.
    let ended = bed.run_cart("in.json other.json --output out -r st -w 2 --on-error skip");
    ended.code(0);
    assert_eq!(ended.records(), 7, "{}", ended.stderr);
}

/// The output of another store is not continued, cut or overwritten.
#[test]
fn c12_an_output_that_is_not_of_this_store_is_refused() {
    let bed = Bed::with_transcript();
    bed.write("out", "precious\n");
    for _ in 0..2 {
        let ended = bed.run_cart("in.json --output out -r st");
        says(ended.code(78), &["output out exists, has 9 bytes, and does not belong", "--rewind-sink out"]);
        assert_eq!(bed.text("out"), "precious\n");
    }
}

/// A store whose last epoch is `last`.
fn store_at(bed: &Bed, last: u64) {
    let mut options = OpenOptions::new("cart_join");
    options.dir = Some(bed.path("st"));
    let plan = StartPlan { shards: 1, ..StartPlan::default() };
    let mut started = Store::open(options).unwrap().start(plan).unwrap();
    started.shards[0].append(Epoch(1), Epoch(last), &Rows::new(), false).unwrap();
    started.shards[0].sync().unwrap();
    started.guard.first_commit(Epoch(last)).unwrap();
}

/// Numbers that are used up are refused before a record is read; they never begin again at 0.
#[test]
fn d3_a_store_at_the_end_of_its_epochs_is_refused() {
    for (last, fits) in [(41, true), (1 << 40, true), (Epoch::MAX.0 - 1, false), (Epoch::MAX.0, false)] {
        let bed = Bed::with_transcript();
        store_at(&bed, last);
        for workers in [1, 2] {
            let line = format!("in.json --output out -r st -w {workers} -s 0 --on-error skip");
            let ended = bed.run_cart(&line);
            if fits {
                ended.code(0);
                bed.check_finished(&["in.json"]);
            } else {
                assert!(matches!(ended.status.code(), Some(64 | 78)), "{}: {}", ended.status, ended.stderr);
                says(&ended.stderr, &[&format!("epoch {last}"), "epoch"]);
                assert_eq!(bed.read("out"), b"");
            }
        }
    }
}
