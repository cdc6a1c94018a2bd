//! A wall clock that jumps about, in every process: epochs go by the monotonic clock, and nothing notices.

use crate::bed::{Running, command};
use crate::{INPUTS, bed, no_panic_text};
use std::path::PathBuf;

/// Steps an hour back, ten years on, and to where it was: each reading of the wall clock another way.
const SHIM: &str = r#"
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
static int calls;
static long step(void) {
    int call = __atomic_add_fetch(&calls, 1, __ATOMIC_SEQ_CST);
    if (call == 3 && getenv("CLOCK_STEPPED")) { (void)!write(2, "fault: the wall clock steps\n", 28); }
    switch (call % 3) { case 0: return -3600; case 1: return 315360000; default: return 0; }
}
int clock_gettime(clockid_t id, struct timespec *at) {
    int result = syscall(SYS_clock_gettime, id, at);
    if (result == 0 && id == CLOCK_REALTIME) { at->tv_sec += step(); }
    return result;
}
time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at) { *at = now.tv_sec; }
    return now.tv_sec;
}
int gettimeofday(struct timeval *at, void *zone) {
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    at->tv_sec = now.tv_sec;
    at->tv_usec = now.tv_nsec / 1000;
    return 0;
}
"#;

/// The library that lies about the time, if there is a compiler.
fn shim(dir: PathBuf) -> Option<PathBuf> {
    let (source, library) = (dir.join("steps.c"), dir.join("steps.so"));
    std::fs::write(&source, SHIM).unwrap();
    let made = command("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source).status();
    made.is_ok_and(|status| status.success()).then_some(library)
}

#[test]
fn d2_a_wall_clock_that_jumps_back_and_forth_changes_nothing() {
    let bed = bed(3_000);
    let Some(library) = shim(bed.path(".")).filter(|_| cfg!(target_os = "linux")) else {
        eprintln!("SKIPPED: no C compiler (cc) to build a clock that lies");
        return;
    };
    for (line, restart) in [("-n 3 -w 1", false), ("-w 3", true)] {
        let line = format!("a.json b.json c.json --output out -r store -s 5ms {line} -vv");
        let mut command = bed.cart(&line);
        let program = Running::start(command.env("LD_PRELOAD", &library).env("CLOCK_STEPPED", "1"));
        let ended = program.end();
        let said = ended.code(0);
        assert!(said.contains("fault: the wall clock steps"), "it did not step: {said}");
        no_panic_text(said);
        assert!(restart || ended.records() == 9_000, "{said}");
    }
    bed.check_finished(&INPUTS);
}
