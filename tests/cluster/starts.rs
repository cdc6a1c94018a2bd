//! Starts that cannot be: peers that do not come, come twice, are of another shape, or are left from an earlier run.

use crate::bed::{Running, says};
use crate::{INPUTS, bed, children, hosts, no_panic_text, ports, strike, wait_until};
use fastrand::Rng;
use rustix::process::Signal;
use std::net::TcpListener;
use std::time::Duration;

const LINE: &str = "a.json b.json c.json --output out -r store";

#[test]
fn f5_a_process_of_another_shape_is_refused_and_both_values_are_named() {
    let bed = bed(10);
    // Options of process 0 and 1, the program of 1, and what both say.
    for (zero, one, program, both) in [
        ("-w 1", "-w 2", "cart_join", "-w is 1 at process 0 and 2 at process 1"),
        ("-s 1s", "-s 2s", "cart_join", "-s is 1s at process 0 and 2s at process 1"),
        ("", "", "word_count", "flow is cart_join at process 0 and word_count at process 1"),
        ("--on-error skip", "", "cart_join", "--on-error is Skip at process 0 and Fail at process 1"),
    ] {
        let hosts = hosts(2);
        let line = |p: usize, options: &str| {
            format!("a.json --output out -r store --hosts {hosts} -p {p} {options} --join-timeout 3s --restart 0")
        };
        let first = Running::start(&mut bed.cart(&line(0, zero)));
        let second = Running::start(&mut bed.command(&crate::bed::example(program), &line(1, one))).end();
        says(second.code(78), &[both]);
        says(first.end().code(75), &[both, "--join-timeout"]);
        assert!(!bed.path("out").exists(), "nothing was touched");
    }
    // Another -n: the host lists differ in length.
    let three = ports(3);
    let line = |p: usize, n: usize| {
        let hosts = three[..n].join(",");
        format!("a.json --output out -r store --hosts {hosts} -p {p} --join-timeout 3s --restart 0")
    };
    let first = Running::start(&mut bed.cart(&line(0, 2)));
    says(bed.run_cart(&line(1, 3)).code(78), &["-n is 2 at process 0 and 3 at process 1"]);
    first.end().code(75);
}

#[test]
fn f5_two_with_one_index_and_hosts_in_another_order_are_refused() {
    let bed = bed(10);
    let three = ports(3);
    let line = |p: usize, hosts: &str| format!("{LINE} --hosts {hosts} -p {p} --join-timeout 4s --restart 0");
    let all = three.join(",");
    let mut zero = Running::start(&mut bed.cart(&line(0, &all)));
    let mut one = Running::start(&mut bed.cart(&line(1, &all)));
    wait_until("process 1 has joined process 0", || connected(&one, &three[0]));
    // At another place, so that both can listen.
    let twice = [three[0].clone(), ports(1).remove(0), three[2].clone()].join(",");
    let second = bed.run_cart(&line(1, &twice));
    let said = second.code(78);
    says(said, &["two were started with the index 1"]);
    no_panic_text(said);
    zero.signal(Signal::TERM);
    one.signal(Signal::TERM);
    assert!(!zero.has_ended() || !one.has_ended());
    no_panic_text(&zero.end().stderr);
    no_panic_text(&one.end().stderr);
    // Hosts in another order: whoever is reached is not who was meant.
    let swapped = [three[1].clone(), three[0].clone()].join(",");
    let zero = Running::start(&mut bed.cart(&line(0, &three[..2].join(","))));
    says(bed.run_cart(&line(1, &swapped)).code(75), &["did not join"]);
    zero.end().code(75);
}

/// Whether a process has a connection to that address.
fn connected(program: &Running, to: &str) -> bool {
    let port: u16 = to.rsplit(':').next().unwrap().parse().unwrap();
    let text = std::fs::read_to_string(format!("/proc/{}/net/tcp", program.pid())).unwrap_or_default();
    let wanted = format!(":{port:04X} ");
    // Two connections: one for control, one for data; each is seen from both ends. 01: established.
    text.lines().filter(|line| line.contains(&wanted) && line.contains(" 01 ")).count() >= 4
}

#[test]
fn f4_f9_who_never_comes_ends_the_start_and_a_taken_port_is_named() {
    let bed = bed(10);
    let line = format!("a.json --hosts {} -p 0 --join-timeout 1s", hosts(2));
    says(bed.run_cart(&line).code(75), &["process 1", "did not join in 1s"]);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let line = format!("a.json --hosts {},localhost:1 -p 0", taken.local_addr().unwrap());
    says(bed.run_cart(&line).code(74), &["cannot listen"]);
    says(bed.run_cart("a.json --hosts 10.0.0.1:9,10.0.0.2:9 -p 0").code(64), &["--cluster-key-file"]);
    let key = bed.path("key");
    bed.write("key", "0123456789abcdef");
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let named = "a.json --hosts no.such.host.invalid:9,10.0.0.2:9 -p 0 --cluster-key-file key --insecure-plaintext";
    says(bed.run_cart(named).code(74), &["no.such.host.invalid:9"]);
}

#[test]
fn f4_one_that_comes_late_is_awaited_and_named_meanwhile() {
    let bed = bed(100);
    let hosts = hosts(2);
    let line = |p: usize| format!("{LINE} --hosts {hosts} -p {p} --restart 0");
    // The last first: it looks for the others.
    let mut one = Running::start(&mut bed.cart(&line(1)));
    one.wait_for("waiting for process 0");
    let zero = Running::start(&mut bed.cart(&line(0)));
    zero.end().code(0);
    one.end().code(0);
    bed.check_finished(&INPUTS);
}

#[test]
fn f9_ipv6_addresses_work() {
    let Ok(probe) = TcpListener::bind("[::1]:0") else {
        eprintln!("SKIPPED: this machine has no IPv6");
        return;
    };
    let other = TcpListener::bind("[::1]:0").unwrap();
    let hosts = format!("{},{}", probe.local_addr().unwrap(), other.local_addr().unwrap());
    drop((probe, other));
    let bed = bed(100);
    let line = |p: usize| format!("{LINE} --hosts {hosts} -p {p} --restart 0");
    let (zero, one) = (Running::start(&mut bed.cart(&line(0))), Running::start(&mut bed.cart(&line(1))));
    zero.end().code(0);
    one.end().code(0);
    bed.check_finished(&INPUTS);
}

/// Killed again and again before the first epoch is committed, with some of the processes not there yet.
#[test]
fn f6_a_crash_before_all_are_there_skips_nothing() {
    let bed = bed(1_000);
    let mut rng = Rng::with_seed(6);
    let mut struck = 0;
    for _ in 0..10 {
        let line = format!("{LINE} -s 5ms -n {} -w {} --restart 0", rng.usize(2..5), rng.usize(1..3));
        let program = Running::start(&mut bed.cart(&line));
        wait_until("a process", || !children(&program).is_empty());
        std::thread::sleep(Duration::from_micros(rng.u64(..120_000)));
        let all = children(&program);
        if !all.is_empty() {
            strike(all[rng.usize(..all.len())], Signal::KILL);
            struck += u32::from(bed.read("out").is_empty());
        }
        no_panic_text(&program.end().stderr);
        bed.check_prefix(&INPUTS);
    }
    assert!(struck >= 2, "{struck} kills before anything was written");
    bed.run_cart(&format!("{LINE} -n 3 -w 1")).code(0);
    bed.check_finished(&INPUTS);
}

#[test]
fn f7_a_process_of_an_earlier_run_keeps_the_next_one_out_until_it_is_gone() {
    let bed = bed(40_000);
    let first = hosts(2);
    let line = |hosts: &str, p: usize| {
        format!("{LINE} -s 20ms --hosts {hosts} -p {p} --peer-timeout 2s --join-timeout 20s --restart 0")
    };
    let zero = Running::start(&mut bed.cart(&line(&first, 0)));
    let left = Running::start(&mut bed.cart(&line(&first, 1)));
    wait_until("output", || !bed.read("out").is_empty());
    left.signal(Signal::STOP);
    zero.end_within(Duration::from_secs(20)).code(75);
    let second = hosts(2);
    let (zero, one) =
        (Running::start(&mut bed.cart(&line(&second, 0))), Running::start(&mut bed.cart(&line(&second, 1))));
    let said = zero.end();
    says(said.code(75), &["is in use by process"]);
    one.end().code(75);
    left.signal(Signal::CONT);
    no_panic_text(left.end_within(Duration::from_secs(20)).code(75));
    bed.check_prefix(&INPUTS);
    bed.run_cart(&format!("{LINE} -n 2 -w 2")).code(0);
    bed.check_finished(&INPUTS);
}

#[test]
fn f10_a_recovery_directory_that_is_not_shared_is_refused() {
    let bed = bed(100);
    let hosts = hosts(2);
    let line =
        |p: usize| format!("a.json b.json c.json --output out -r store-of-{p} --hosts {hosts} -p {p} --restart 0");
    let (zero, one) = (Running::start(&mut bed.cart(&line(0))), Running::start(&mut bed.cart(&line(1))));
    let ends = [zero.end(), one.end()];
    for ended in &ends {
        says(ended.code(78), &["store-of-1"]);
        no_panic_text(&ended.stderr);
    }
    assert!(bed.read("out").is_empty());
}
