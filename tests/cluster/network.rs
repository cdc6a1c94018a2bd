//! Slow, lossy and cut lines between machines, made of network namespaces. Skipped, loudly, without root or `ip`.

use crate::bed::{Bed, HANG, Running, command, example, says};
use crate::{INPUTS, bed, no_panic_text, wait_until};
use rustix::process::Signal;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Carries packets between two namespaces, each with a device of its own, and does with them what it is told on stdin:
/// `DELAY_MS LOSS_PERCENT`. (Not every kernel has netem.)
const CARRIER: &str = r#"
import ctypes, fcntl, heapq, os, random, select, struct, sys, time
libc = ctypes.CDLL(None, use_errno=True)
def device(space):
    if libc.setns(os.open("/var/run/netns/" + space, os.O_RDONLY), 0x40000000) != 0:
        sys.exit("setns: " + os.strerror(ctypes.get_errno()))
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tun, 0x400454CA, struct.pack("16sH22x", b"hw", 0x1001))
    return tun
a, b = device(sys.argv[1]), device(sys.argv[2])
print("ready", flush=True)
delay, loss, waiting, number, said = 0.0, 0.0, [], 0, ""
while True:
    left = max(0, waiting[0][0] - time.monotonic()) if waiting else None
    for fd in select.select([a, b, 0], [], [], left)[0]:
        if fd == 0:
            heard = os.read(0, 4096).decode()
            if not heard:
                sys.exit(0)
            *lines, said = (said + heard).split("\n")
            for line in lines:
                delay, loss = [float(part) for part in line.split()]
            continue
        for _ in range(64):
            try:
                packet = os.read(fd, 65536)
            except OSError:
                break
            number += 1
            if random.random() * 100 >= loss:
                heapq.heappush(waiting, (time.monotonic() + delay / 1000, number, b if fd == a else a, packet))
    while waiting and waiting[0][0] <= time.monotonic():
        _, _, to, packet = heapq.heappop(waiting)
        try:
            os.write(to, packet)
        except OSError:
            pass
"#;

/// Two machines and the line between them.
struct Wire {
    name: String,
    subnet: u32,
    carrier: Option<Child>,
}

impl Wire {
    /// `None`, and a word of why, where that cannot be.
    fn new() -> Option<Wire> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = std::process::id() * 8 + COUNT.fetch_add(1, Relaxed);
        let mut wire = Wire { name: format!("hw{number}"), subnet: number, carrier: None };
        let made = wire.make();
        if let Err(what) = &made {
            eprintln!("SKIPPED: no network namespaces here ({what}): they need root, `ip`, /dev/net/tun and python3");
        }
        made.ok().map(|()| wire)
    }

    fn make(&mut self) -> Result<(), String> {
        let name = self.name.clone();
        for side in 0..2 {
            ip(&format!("netns add {name}-{side}"))?;
        }
        let mut python = command("python3");
        python.args(["-c", CARRIER]).args((0..2).map(|side| format!("{name}-{side}")));
        let started = python.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let carrier = self.carrier.insert(started.map_err(|error| format!("python3: {error}"))?);
        let mut said = String::new();
        let _ = BufReader::new(carrier.stdout.as_mut().unwrap()).read_line(&mut said);
        if said != "ready\n" {
            let _ = carrier.stderr.as_mut().unwrap().read_to_string(&mut said);
            return Err(said.lines().last().unwrap_or("it says nothing").to_owned());
        }
        // What it says from now on is for whoever reads the test's output.
        let mut errors = carrier.stderr.take().unwrap();
        std::thread::spawn(move || std::io::copy(&mut errors, &mut std::io::stderr()));
        for side in 0..2 {
            ip(&format!("-n {name}-{side} addr add {}/24 dev hw", self.address(side)))?;
            ip(&format!("-n {name}-{side} link set hw up"))?;
            ip(&format!("-n {name}-{side} link set lo up"))?;
        }
        Ok(())
    }

    fn address(&self, side: u32) -> String {
        format!("10.{}.{}.{}", 64 + self.subnet / 250 % 128, self.subnet % 250, side + 1)
    }

    /// What becomes of packets, in both directions.
    fn shape(&mut self, delay_ms: u32, loss_percent: u32) {
        let stdin = self.carrier.as_mut().and_then(|carrier| carrier.stdin.as_mut()).unwrap();
        writeln!(stdin, "{delay_ms} {loss_percent}").unwrap();
    }

    fn member(&self, bed: &Bed, p: u32, more: &str) -> Running {
        let hosts = format!("{}:2101,{}:2101", self.address(0), self.address(1));
        let line = format!(
            "netns exec {}-{p} {} a.json b.json c.json --output out -r store --hosts {hosts} -p {p} --restart 0 \
             --cluster-key-file key --insecure-plaintext {more}",
            self.name,
            example("cart_join").display()
        );
        Running::start(&mut bed.command("ip".as_ref(), &line))
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if let Some(carrier) = &mut self.carrier {
            let _ = carrier.kill();
            let _ = carrier.wait();
        }
        for side in 0..2 {
            let _ = ip(&format!("netns del {}-{side}", self.name));
        }
    }
}

fn ip(line: &str) -> Result<(), String> {
    let done = command("ip").args(line.split_whitespace()).output();
    let done = done.map_err(|error| format!("ip: {error}"))?;
    match done.status.success() {
        true => Ok(()),
        false => Err(format!("ip {line}: {}", String::from_utf8_lossy(&done.stderr).trim())),
    }
}

fn bed_with_key(lines: usize) -> Bed {
    let bed = bed(lines);
    bed.write("key", "0123456789abcdef");
    std::fs::set_permissions(bed.path("key"), PermissionsExt::from_mode(0o600)).unwrap();
    // Both ends must find the program built, or the first builds while the second waits.
    drop(command(example("cart_join")));
    bed
}

#[test]
fn f3_a_slow_and_lossy_line_changes_nothing_but_time() {
    let Some(mut wire) = Wire::new() else { return };
    wire.shape(300, 5);
    let bed = bed_with_key(400);
    let start = Instant::now();
    let (zero, one) = (wire.member(&bed, 0, "-s 1s"), wire.member(&bed, 1, "-s 1s"));
    no_panic_text(zero.end_within(2 * HANG).code(0));
    no_panic_text(one.end_within(2 * HANG).code(0));
    eprintln!("300 ms and 5 % loss each way: {:?}", start.elapsed());
    bed.check_finished(&INPUTS);
}

#[test]
fn f3_a_cut_of_five_seconds_heals() {
    let Some(mut wire) = Wire::new() else { return };
    let bed = bed_with_key(60_000);
    let (zero, one) = (wire.member(&bed, 0, "-s 20ms"), wire.member(&bed, 1, "-s 20ms"));
    wait_until("output", || !bed.read("out").is_empty());
    wire.shape(0, 100);
    std::thread::sleep(Duration::from_millis(700));
    let cut = bed.read("out").len();
    std::thread::sleep(Duration::from_millis(4_300));
    assert!(bed.read("out").len() < cut + (4 << 20), "nothing was cut");
    let before = bed.read("out").len();
    wire.shape(0, 0);
    let start = Instant::now();
    wait_until("it goes on", || bed.read("out").len() > before);
    eprintln!("it went on {:?} after the cut had healed", start.elapsed());
    no_panic_text(zero.end().code(0));
    no_panic_text(one.end().code(0));
    bed.check_finished(&INPUTS);
}

/// Also what a machine without power looks like: nothing says good-bye.
#[test]
fn f3_a_cut_for_ever_ends_both_sides_with_reasons() {
    let Some(mut wire) = Wire::new() else { return };
    let bed = bed_with_key(60_000);
    let more = "-s 20ms --peer-timeout 4s";
    let (zero, one) = (wire.member(&bed, 0, more), wire.member(&bed, 1, more));
    wait_until("output", || !bed.read("out").is_empty());
    wire.shape(0, 100);
    let start = Instant::now();
    for (program, other) in [(zero, "process 1"), (one, "process 0")] {
        let ended = program.end_within(Duration::from_secs(20));
        let said = ended.code(75);
        says(said, &[other, "is lost"]);
        no_panic_text(said);
    }
    eprintln!("both had ended {:?} after the cut (--peer-timeout 4s)", start.elapsed());
    wire.shape(0, 0);
    bed.check_prefix(&INPUTS);
    let (zero, one) = (wire.member(&bed, 0, more), wire.member(&bed, 1, more));
    no_panic_text(zero.end().code(0));
    no_panic_text(one.end().code(0));
    bed.check_finished(&INPUTS);
}

/// A machine that loses power while others are awaited may come again, though its connections never said good-bye.
#[test]
fn f3_a_machine_that_is_gone_without_a_word_during_a_start_ends_the_start_or_is_replaced() {
    let Some(mut wire) = Wire::new() else { return };
    let bed = bed_with_key(500);
    let more = "--peer-timeout 3s --join-timeout 40s";
    let mut zero = wire.member(&bed, 0, more);
    let one = wire.member(&bed, 1, more);
    // Cut before they meet, or as they do; the peer dies in the dark.
    wire.shape(0, 100);
    std::thread::sleep(Duration::from_millis(500));
    one.signal(Signal::KILL);
    drop(one);
    wire.shape(0, 0);
    let mut ends = Vec::new();
    while ends.len() < 8 {
        let one = wire.member(&bed, 1, more);
        let ended = one.end();
        no_panic_text(&ended.stderr);
        if ended.status.success() {
            break;
        }
        assert_eq!(ended.status.code(), Some(75), "it may come again: {}", ended.stderr);
        ends.push(ended.stderr);
        if zero.has_ended() {
            no_panic_text(zero.end().code(75));
            zero = wire.member(&bed, 0, more);
        }
    }
    no_panic_text(zero.end().code(0));
    bed.check_finished(&INPUTS);
}
