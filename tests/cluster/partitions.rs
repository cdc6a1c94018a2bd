//! Sources and sinks over processes: each partition has one reader, each file one writer, each dead letter one line.

use crate::bed::{Bed, Running, carts};
use crate::{INPUTS, bed, children, strike, wait_until};
use rustix::process::{Pid, Signal};
use std::collections::BTreeSet;

/// Names of the files in the bed that a process has open.
fn open_files(bed: &Bed, pid: Pid) -> BTreeSet<String> {
    let Ok(fds) = std::fs::read_dir(format!("/proc/{}/fd", pid.as_raw_nonzero())) else { return BTreeSet::new() };
    let root = std::fs::canonicalize(bed.path(".")).unwrap();
    let links = fds.filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok());
    links.filter_map(|link| Some(link.strip_prefix(&root).ok()?.to_str()?.to_owned())).collect()
}

/// Eight pipes over so many processes: each has one reader, each process as many as any other, and one process has the
/// output. Then all are fed, and the answer is whole.
#[test]
fn partitions_are_read_once_and_evenly_whatever_the_number_of_processes() {
    let names: Vec<String> = (0..8).map(|at| format!("in-{at}")).collect();
    for n in [4, 2, 8] {
        let bed = Bed::new();
        names.iter().for_each(|name| bed.fifo(name));
        let program = Running::start(&mut bed.cart(&format!("{} --output out -n {n} -w 1 -s 5ms", names.join(" "))));
        let mut writers: Vec<_> = names
            .iter()
            .map(|name| std::fs::File::options().read(true).write(true).open(bed.path(name)).unwrap())
            .collect();
        let readers = |name: &String| {
            let of = |pid: &Pid| open_files(&bed, *pid).contains(name);
            children(&program).iter().filter(|pid| of(pid)).count()
        };
        wait_until("every pipe has a reader", || names.iter().all(|name| readers(name) > 0));
        wait_until("the output is open", || readers(&"out".to_owned()) > 0);
        for pid in children(&program) {
            let has = open_files(&bed, pid);
            assert_eq!(names.iter().filter(|name| has.contains(*name)).count(), 8 / n, "-n {n}: {has:?}");
        }
        names.iter().for_each(|name| assert_eq!(readers(name), 1, "-n {n}: {name}"));
        assert_eq!(readers(&"out".to_owned()), 1, "one file has one writer");
        let mut all = crate::oracle::Oracle::new();
        for (at, mut writer) in writers.drain(..).enumerate() {
            let text = carts(100, at as u64 + 1);
            std::io::Write::write_all(&mut writer, &text).unwrap();
            all.read(&names[at], &text);
        }
        program.end().code(0);
        let checked = crate::oracle::output::Output::new().check_finished(&all, bed.read("out"));
        checked.unwrap_or_else(|wrong| panic!("-n {n}: {wrong}"));
    }
}

#[test]
fn b3_over_processes_every_dead_letter_is_written_once_whoever_is_killed() {
    let bed = bed(4_000);
    for input in INPUTS {
        let text = bed.text(input);
        let mut lines: Vec<String> = text.lines().map(|line| format!("{line}\n")).collect();
        for at in (0..40).rev() {
            lines.insert(at * 100, format!("bad {input} {at}\n"));
        }
        bed.write(input, lines.concat());
    }
    let policy = "--on-error dead-letter --dead-letter letters";
    for (n, w) in [(3, 1), (2, 2), (4, 1)] {
        let line = format!("a.json b.json c.json --output out -r store -s 2ms -n {n} -w {w} --restart 0 {policy}");
        let before = bed.read("letters").len();
        let program = Running::start(&mut bed.cart(&line));
        wait_until("letters", || bed.read("letters").len() > before || children(&program).is_empty());
        let all = children(&program);
        if let Some(pid) = all.get(n / 2) {
            strike(*pid, Signal::KILL);
        }
        program.end();
    }
    bed.run_cart(&format!("a.json b.json c.json --output out -r store -n 2 -w 1 {policy}")).code(0);
    let letters = bed.text("letters");
    let mut seen = BTreeSet::new();
    for letter in letters.lines() {
        let letter: serde_json::Value = serde_json::from_str(letter).unwrap();
        assert!(seen.insert((letter["source"].to_string(), letter["line"].to_string())), "twice: {letter}");
    }
    assert_eq!(seen.len(), 120, "{letters}");
    bed.check_finished(&INPUTS);
}

/// Files that appear while processes run, and while one of them is killed and comes back: each is read by one process,
/// once, whatever the numbers of processes and workers are from then on.
#[test]
fn files_that_appear_are_read_once_whichever_process_sees_them_first() {
    const LINES: usize = 50;
    let bed = Bed::new();
    std::fs::create_dir(bed.path("in")).unwrap();
    let put = |file: usize| {
        let text: String = (0..LINES).map(|number| format!("{file} {number}\n")).collect();
        bed.write(&format!("in/{file}.part"), text);
        std::fs::rename(bed.path(&format!("in/{file}.part")), bed.path(&format!("in/{file}.txt"))).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(5));
    };
    let lines = || bed.read("out").iter().filter(|byte| **byte == b'\n').count();
    let (mut files, mut kills) = (0..300, 0);
    let mut there = 0;
    for (n, w) in [(2, 2), (3, 1), (1, 2), (4, 1)] {
        let line = format!("in/*.txt --growing -r store --output out -s 5ms -n {n} -w {w}");
        let program = Running::start(&mut bed.command(&crate::bed::example("reader"), &line));
        for round in 0..2 {
            files.by_ref().take(25).for_each(put);
            there += 25 * LINES;
            if n > 1 && round == 1 {
                wait_until("the processes are there", || children(&program).len() == n);
                kills += usize::from(lines() < there);
                strike(children(&program)[n - 1], Signal::KILL);
            }
            wait_until("all lines", || lines() >= there);
        }
        program.signal(Signal::TERM);
        program.end().died_of(Signal::TERM);
    }
    assert!(kills > 0, "no kill came while there was more to read");
    let mut next = std::collections::BTreeMap::new();
    for line in bed.text("out").lines() {
        let (file, number) = line.split_once(' ').expect("a line of ours");
        let due = next.entry(file.to_owned()).or_insert(0);
        assert_eq!(number.parse(), Ok(*due), "file {file}");
        *due += 1;
    }
    assert!(next.len() == there / LINES && next.values().all(|lines| *lines == LINES), "{next:?}");
}
