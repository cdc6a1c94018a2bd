//! Strangers, impostors and liars on the port of a cluster, at its start and while it starts again: no panic, no hang,
//! little memory, and the true peers join.

use crate::bed::{Bed, Running, example, says};
use crate::{INPUTS, bed, children, no_panic_text, peak_kib, ports, wait_until};
use rustix::process::{Signal, kill_process};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const MEMORY_MAX_KIB: u64 = 200 << 10;

/// A cluster of two with a key, and what plays foul with its first port.
struct Port {
    bed: Bed,
    hosts: Vec<String>,
}

impl Port {
    fn new() -> Port {
        let bed = bed(30_000);
        for (name, key) in [("key", "0123456789abcdef-right"), ("wrong-key", "0123456789abcdef-wrong")] {
            bed.write(name, key);
            std::fs::set_permissions(bed.path(name), PermissionsExt::from_mode(0o600)).unwrap();
        }
        Port { bed, hosts: ports(2) }
    }

    /// Options of a process of this cluster; `hosts` as it knows them.
    fn line(&self, p: usize, hosts: &[String], more: &str) -> String {
        let hosts = hosts.join(",");
        format!(
            "a.json b.json c.json --output out -r store -s 20ms --hosts {hosts} -p {p} --cluster-key-file key {more}"
        )
    }

    fn member(&self, p: usize, more: &str) -> Running {
        Running::start(&mut self.bed.cart(&self.line(p, &self.hosts, more)))
    }

    fn connect(&self) -> TcpStream {
        let mut tries = 0;
        loop {
            match TcpStream::connect(&self.hosts[0]) {
                Ok(stream) => return stream,
                Err(error) => assert!(tries < 9_000, "nobody listens: {error}"),
            }
            tries += 1;
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// What comes back on a connection until it is closed, at most for a while.
    fn answer(mut stream: TcpStream) -> Vec<u8> {
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut bytes = Vec::new();
        let ended = stream.read_to_end(&mut bytes);
        assert!(
            ended.is_ok() || ended.unwrap_err().kind() == std::io::ErrorKind::ConnectionReset,
            "it is kept waiting"
        );
        bytes
    }

    /// The cases without a proxy, one after the other; answers the connections that stay open and silent.
    fn attack(&self, replay: &[u8]) -> Vec<TcpStream> {
        // 1: eight bytes of HTTP. 2: connect and close. 3: connect and wait.
        let mut http = self.connect();
        http.write_all(b"GET / HT").unwrap();
        Port::answer(http);
        drop(self.connect());
        let mut silent = vec![self.connect()];
        // 4: the right index with the wrong key, and with none.
        for (key, said) in [("wrong-key", "another key"), ("none", "it has a key")] {
            let line = self.line(1, &self.hosts, "--join-timeout 1s --restart 0");
            let line = line.replace(
                "--cluster-key-file key",
                &if key == "none" { String::new() } else { format!("--cluster-key-file {key}") },
            );
            let ended = self.bed.run_cart(&line);
            says(ended.code(75), &[said]);
        }
        // 5: a handshake that was right once, again.
        assert!(replay.len() > 100, "a handshake was recorded");
        let mut again = self.connect();
        again.write_all(replay).unwrap();
        Port::answer(again);
        // 6: another version.
        let mut version = self.connect();
        version.write_all(b"HWCL\x00\x63\x00\x00\x00\x00").unwrap();
        Port::answer(version);
        // 7, 8, 9: other processes, workers, flow; with the right key.
        let three: Vec<String> = self.hosts.iter().cloned().chain(ports(1)).collect();
        for (hosts, more, program, said) in [
            (&three[..], "", "cart_join", "-n is 2 at process 0 and 3 at process 1"),
            (&three[..2], "-w 3", "cart_join", "-w is 1 at process 0 and 3 at process 1"),
            (&three[..2], "", "word_count", "flow is cart_join at process 0 and word_count at process 1"),
        ] {
            let line = self.line(1, hosts, &format!("{more} --restart 0"));
            let ended = Running::start(&mut self.bed.command(&example(program), &line)).end();
            says(ended.code(78), &[said]);
        }
        // 10: a length beyond all bounds before anything is known of the sender.
        let mut long = self.connect();
        long.write_all(b"HWCL\x00\x01\xff\xff\xff\xff").unwrap();
        Port::answer(long);
        // 12: a thousand connections at once, which say nothing.
        silent.extend((0..1_000).map(|_| self.connect()));
        silent
    }
}

/// What a proxy does with what process 1 sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Foul {
    /// Nothing; it remembers the first handshake.
    Record,
    /// After the handshake of the data connection it goes on with this header of a message.
    Header([u64; 6]),
    /// After the handshake of the control connection it goes on with this length of a frame.
    Frame(u32),
}

/// Stands between process 1 and process 0. A handshake covers who may join: what is sent afterwards, anybody on the way
/// can change.
struct Proxy {
    at: String,
    recorded: Arc<Mutex<Vec<u8>>>,
    struck: Arc<AtomicBool>,
}

impl Proxy {
    fn new(to: String, foul: Foul) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap().to_string();
        let (recorded, struck) = (Arc::<Mutex<Vec<u8>>>::default(), Arc::new(AtomicBool::new(false)));
        let (record, strike) = (recorded.clone(), struck.clone());
        let welcomed = Arc::new(AtomicUsize::new(0));
        std::thread::spawn(move || {
            for from in listener.incoming() {
                let (Ok(from), Ok(to)) = (from, TcpStream::connect(&to)) else { continue };
                let (record, strike, welcomed) = (record.clone(), strike.clone(), welcomed.clone());
                let (mut back, mut there) = (to.try_clone().unwrap(), from.try_clone().unwrap());
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut back, &mut there);
                    let _ = there.shutdown(Shutdown::Both);
                });
                std::thread::spawn(move || pass(from, to, foul, &record, &strike, &welcomed));
            }
        });
        Proxy { at, recorded, struck }
    }
}

/// Hands on what process 1 says: two frames of a handshake, then what the foul play is.
fn pass(
    mut from: TcpStream,
    mut to: TcpStream,
    foul: Foul,
    record: &Mutex<Vec<u8>>,
    struck: &AtomicBool,
    welcomed: &AtomicUsize,
) -> Option<()> {
    let mut said = vec![0; 6];
    from.read_exact(&mut said).ok()?;
    for _ in 0..2 {
        let mut length = [0; 4];
        from.read_exact(&mut length).ok()?;
        let mut body = vec![0; u32::from_be_bytes(length) as usize];
        // The second frame comes once the other side has answered the first.
        said.extend(length);
        to.write_all(&said).ok()?;
        from.read_exact(&mut body).ok()?;
        to.write_all(&body).ok()?;
        let mut whole = record.lock().unwrap();
        if welcomed.load(SeqCst) == 0 {
            whole.extend(&said);
            whole.extend(&body);
        }
        said.clear();
    }
    let mut first = [0; 1];
    // Whoever is not welcome says nothing more.
    from.read_exact(&mut first).ok()?;
    let number = welcomed.fetch_add(1, SeqCst);
    match foul {
        Foul::Frame(length) if number == 0 => {
            struck.store(true, SeqCst);
            to.write_all(&length.to_be_bytes()).ok()?;
        }
        Foul::Header(fields) if number == 1 => {
            struck.store(true, SeqCst);
            let header: Vec<u8> = fields.iter().flat_map(|field| field.to_be_bytes()).collect();
            to.write_all(&header).ok()?;
            // And as much of the body as it takes.
            let body = [0; 64 << 10];
            while to.write_all(&body).is_ok() {}
        }
        _ => to.write_all(&first).ok()?,
    }
    std::io::copy(&mut from, &mut to).ok()?;
    let _ = to.shutdown(Shutdown::Both);
    Some(())
}

#[test]
fn f8_twelve_hostile_cases_on_the_port_hold_up_nobody_and_the_true_peers_join() {
    // A handshake of the very same cluster, heard on the way: in a run of its own, so that it is whole and was right.
    let port = Port::new();
    let replay = {
        let earlier = Port::new();
        let proxy = Proxy::new(earlier.hosts[0].clone(), Foul::Record);
        let zero = earlier.member(0, "--restart 0");
        let through = [proxy.at.clone(), earlier.hosts[1].clone()];
        let one = Running::start(&mut earlier.bed.cart(&earlier.line(1, &through, "--restart 0")));
        zero.end().code(0);
        one.end().code(0);
        std::mem::take(&mut *proxy.recorded.lock().unwrap())
    };

    // Process 0 is looked after: it comes again when process 1 dies.
    let mut zero = port.member(0, "--restart 5");
    let silent = port.attack(&replay);
    zero.wait_for("does not speak this protocol");
    let mut peak = children(&zero).iter().map(|pid| peak_kib(pid.as_raw_nonzero().get() as u32)).max().unwrap();

    // The true peer joins all the same, and the run runs.
    let one = port.member(1, "--restart 0");
    wait_until("output", || !port.bed.read("out").is_empty());
    drop(silent);

    // Killed, it takes process 0 with it, which starts again: the same once more during that restart.
    let first = children(&zero)[0];
    one.signal(Signal::KILL);
    one.end();
    wait_until("process 0 has started again", || children(&zero).first().is_some_and(|pid| *pid != first));
    let silent = port.attack(&replay);
    peak = peak.max(children(&zero).iter().map(|pid| peak_kib(pid.as_raw_nonzero().get() as u32)).max().unwrap());
    let one = port.member(1, "--restart 0");
    no_panic_text(one.end().code(0));
    let ended = zero.end();
    no_panic_text(ended.code(0));
    drop(silent);
    eprintln!("process 0 took {peak} KiB");
    assert!(peak < MEMORY_MAX_KIB, "{peak} KiB");
    port.bed.check_finished(&INPUTS);
}

/// What a peer sends that has proved itself, or what somebody on the way makes of it, ends the run with a reason.
#[test]
fn f8_a_liar_among_the_peers_ends_the_run_with_a_reason_and_nothing_else() {
    for (foul, said) in [
        (Foul::Header([0, 1, 0, 1, 1 << 40, 0]), "announced a message of 1099511627776 bytes"),
        (Foul::Header([0, 1, 7, 8, 100, 0]), "for workers 7 to 8, here are 0 to 1"),
        (Foul::Header([0, 9, 0, 1, 100, 0]), "as worker 9, which is not one of its own"),
        (Foul::Frame(u32::MAX), "what it sent makes no sense"),
    ] {
        let port = Port::new();
        let proxy = Proxy::new(port.hosts[0].clone(), foul);
        let zero = port.member(0, "--restart 0");
        let through = [proxy.at.clone(), port.hosts[1].clone()];
        let one = Running::start(&mut port.bed.cart(&port.line(1, &through, "--restart 0")));
        let ended = zero.end_within(Duration::from_secs(30));
        says(ended.code(75), &["process 1", said]);
        no_panic_text(&ended.stderr);
        assert!(proxy.struck.load(SeqCst) && ended.rss_kib < MEMORY_MAX_KIB, "{foul:?}: {} KiB", ended.rss_kib);
        no_panic_text(one.end_within(Duration::from_secs(30)).code(75));
        // Without the liar it goes on.
        port.bed.run_cart("a.json b.json c.json --output out -r store -s 20ms -n 2").code(0);
        port.bed.check_finished(&INPUTS);
    }
}

/// A process that stops another's start is named: whoever was killed while others were awaited.
#[test]
fn f1_one_that_is_killed_while_others_are_awaited_may_come_again() {
    let bed = bed(500);
    let hosts = ports(3).join(",");
    let line = |p: usize| format!("a.json b.json c.json --output out -r store --hosts {hosts} -p {p} --restart 3");
    let (zero, mut one) = (Running::start(&mut bed.cart(&line(0))), Running::start(&mut bed.cart(&line(1))));
    wait_until("process 1", || !children(&one).is_empty());
    std::thread::sleep(Duration::from_millis(300));
    kill_process(children(&one)[0], Signal::KILL).unwrap();
    one.wait_for("starting again");
    let two = Running::start(&mut bed.cart(&line(2)));
    for program in [zero, one, two] {
        no_panic_text(program.end().code(0));
    }
    bed.check_finished(&INPUTS);
}
