//! Status, metrics and graph of real programs: what they tell, to whom, and that nobody who asks slows the flow.

#[path = "faults/bed.rs"]
#[expect(dead_code, reason = "the matrix uses all of it")]
mod bed;
#[expect(dead_code, reason = "the kill drill uses all of it")]
mod oracle;

use bed::{Bed, Running, carts, example};
use highwater::prelude::*;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{ChildStdin, Stdio};
use std::time::{Duration, Instant};

/// A cart join that goes on until it is told to stop, with metrics at a free port; and the port.
fn serving(bed: &Bed) -> (Running, ChildStdin, String) {
    let mut run = Running::start(bed.cart("- --output out -s 10ms -v --metrics 127.0.0.1:0").stdin(Stdio::piped()));
    let line = run.wait_for("metrics on http://127.0.0.1:");
    let addr = line.split("http://").nth(1).and_then(|rest| rest.split('/').next()).expect("it names its address");
    let (stdin, addr) = (run.stdin(), addr.to_owned());
    (run, stdin, addr)
}

/// Sends bytes, and answers what came back until the connection was closed.
fn exchange(addr: &str, request: &[u8]) -> String {
    let mut client = TcpStream::connect(addr).expect("it listens");
    client.set_read_timeout(Some(Duration::from_secs(30))).expect("a time-out can be set");
    // It may answer and close before it has seen all.
    let _ = client.write_all(request);
    let mut answer = Vec::new();
    let _ = client.read_to_end(&mut answer);
    String::from_utf8(answer).expect("it answers in UTF-8")
}

fn get(addr: &str) -> String {
    exchange(addr, format!("GET /metrics HTTP/1.1\r\nHost: {addr}\r\n\r\n").as_bytes())
}

/// The value of a line of the answer.
fn value(answer: &str, start: &str) -> Option<f64> {
    answer.lines().find_map(|line| line.strip_prefix(start)?.trim().parse().ok())
}

/// Asks until the answer says so.
fn wait_until(addr: &str, what: impl Fn(&str) -> bool) -> String {
    let begun = Instant::now();
    loop {
        let answer = get(addr);
        if what(&answer) {
            return answer;
        }
        assert!(begun.elapsed() < bed::HANG, "it never says so: {answer}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// H1, H5, H6, H7 on the wire, with a key that must not be seen: `canary`.
#[test]
fn h6_metrics_have_counts_and_steps_and_nothing_of_a_record() {
    let bed = Bed::new();
    let (run, mut stdin, addr) = serving(&bed);
    let line = "{\"user_id\": \"canary\", \"type\": \"order\", \"order_id\": 1}\n";
    stdin.write_all(line.repeat(3).as_bytes()).unwrap();
    let flow = "{flow=\"cart_join\"";
    let answer = wait_until(&addr, |text| value(text, &format!("highwater_records_total{flow}}}")) == Some(3.0));
    let answer = match value(&answer, &format!("highwater_step_keys{flow},step=\"joiner\"}}")) {
        Some(1.0) => answer,
        _ => {
            wait_until(&addr, |text| value(text, &format!("highwater_step_keys{flow},step=\"joiner\"}}")) == Some(1.0))
        }
    };
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert_eq!(value(&answer, &format!("highwater_step_items_in_total{flow},step=\"joiner\"}}")), Some(3.0));
    assert!(value(&answer, &format!("highwater_bytes_total{flow}}}")) >= Some(line.len() as f64), "{answer}");
    assert!(answer.contains("# TYPE highwater_tick_seconds histogram"), "{answer}");
    for secret in ["canary", "order_id", &*bed.path("out").display().to_string(), "Access-Control"] {
        assert!(!answer.contains(secret), "{secret} in {answer}");
    }
    let head = exchange(&addr, b"HEAD /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200") && head.ends_with("\r\n\r\n"), "{head}");
    for (request, status) in [
        ("POST /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx", 405),
        ("GET /metrics HTTP/1.1\r\nHost: evil.com\r\n\r\n", 421),
        ("GET /../../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        ("GET /metrics HTTP/1.1\r\nHost: localhost\r\nOrigin: http://evil.com\r\n\r\n", 403),
        ("\0\0\0\0\r\n\r\n", 400),
    ] {
        let answer = exchange(&addr, request.as_bytes());
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request:?}: {answer}");
        assert!(!answer.contains("highwater_") && !answer.contains("root:"), "{answer}");
    }
    drop(stdin);
    run.end().code(0);
}

/// H8: silent clients, endless headers and a crowd; the flow goes on as if nobody were there.
#[test]
fn h8_slow_and_hostile_clients_never_slow_the_flow() {
    let bed = Bed::new();
    let (run, mut stdin, addr) = serving(&bed);
    let crowd: Vec<TcpStream> = (0..200).filter_map(|_| TcpStream::connect(&addr).ok()).collect();
    assert!(crowd.len() > 100, "only {} came", crowd.len());
    let mut endless = TcpStream::connect(&addr).unwrap();
    let hose = std::thread::spawn(move || {
        let _ = endless.write_all(b"GET /metrics HTTP/1.1\r\nX: ");
        (0..4096).take_while(|_| endless.write_all(&[b'x'; 4096]).is_ok()).count()
    });
    stdin.write_all(&carts(20_000, 7)).unwrap();
    drop(stdin);
    run.end().code(0);
    bed.write("in.json", carts(20_000, 7));
    bed.check_finished(&["in.json"]);
    assert!(hose.join().unwrap() < 4096, "a header of 16 MB was read to its end");
    drop(crowd);
}

/// H8: after the crowd has gone, or its time is over, others are served.
#[test]
fn h8_who_is_silent_is_sent_away() {
    let bed = Bed::new();
    let (run, stdin, addr) = serving(&bed);
    let mut silent = TcpStream::connect(&addr).unwrap();
    silent.set_read_timeout(Some(bed::HANG)).unwrap();
    silent.write_all(b"GET /met").unwrap();
    assert!(get(&addr).starts_with("HTTP/1.1 200"), "beside a silent one");
    let mut rest = Vec::new();
    assert_eq!(silent.read_to_end(&mut rest).unwrap_or(0), 0, "it is sent away without an answer");
    let long = format!("GET /metrics HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "x".repeat(20_000));
    let answer = exchange(&addr, long.as_bytes());
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
    drop(stdin);
    run.end().code(0);
}

#[test]
fn h8_a_taken_port_is_a_warning_and_the_flow_runs() {
    let bed = Bed::with_transcript();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let ended = bed.run_cart(&format!("in.json --output out --on-error skip --metrics {port}"));
    bed::says(ended.code(0), &[&format!("no metrics on 127.0.0.1:{port}"), "the flow runs"]);
    bed.check_finished(&["in.json"]);
}

#[test]
fn h2_beyond_loopback_it_needs_a_token() {
    let bed = Bed::with_transcript();
    let ended = bed.run_cart("in.json --output out --metrics 0.0.0.0:0");
    bed::says(ended.code(64), &["--metrics-token-file"]);
    assert!(!bed.path("out").exists(), "nothing was made");
}

/// The graph of the cart join and of the readings, without their input.
#[test]
fn graph_writes_the_flow_down_and_runs_nothing() {
    let bed = Bed::new();
    let graph = |program: &str, line: &str| {
        let output = bed.command(&example(program), line).output().unwrap();
        assert!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let mermaid = graph("cart_join", "graph missing.json --output out");
    assert!(mermaid.starts_with("flowchart LR\n    s0([\"events\"])\n    s1[\"key_into at examples/cart_join.rs:"));
    for line in [
        "    s2[(\"joiner\")]\n",
        "    s4[/\"out\"/]\n",
        "    s0 --> s1\n    s1 --> s2\n    s2 --> s3\n    s3 --> s4\n",
    ] {
        assert!(mermaid.contains(line), "{line:?} in {mermaid}");
    }
    let json: serde_json::Value = serde_json::from_str(&graph("readings", "graph --json --dead-letter bad")).unwrap();
    assert_eq!(json["flow"], "readings");
    let kinds: Vec<(&str, &str)> = json["steps"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| (step["name"].as_str().unwrap(), step["kind"].as_str().unwrap()))
        .collect();
    for step in
        [("readings", "source"), ("parse", "checked"), ("warmest", "state"), ("out", "sink"), ("#dead-letters", "sink")]
    {
        assert!(kinds.contains(&step), "{step:?} in {kinds:?}");
    }
    let edge =
        |from: &str, to: &str| json["edges"].as_array().unwrap().contains(&serde_json::json!({"from": from, "to": to}));
    assert!(edge("readings", "parse") && edge("parse", "warmest") && edge("parse", "#dead-letters"), "{json}");
    assert!(!edge("out", "parse") && !edge("readings", "warmest"), "{json}");
    assert_eq!(std::fs::read_dir(bed.path("")).unwrap().count(), 0, "nothing was made");
    // What needs its arguments to be run does not need them here; what is wrong with the flow is said.
    assert!(graph("raw_running_total", "graph").contains("[(\"total\")]"));
    let ended = Running::start(&mut bed.command(&example("readings"), "graph --json")).end();
    bed::says(ended.code(64), &["--dead-letter FILE"]);
}

/// A status while the flow runs, from another thread, and at its end; over two workers.
#[test]
fn a_status_tells_of_every_step_while_the_flow_runs() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = Config::new("status");
    config.workers = 2;
    config.recovery = Some(dir.path().join("store"));
    config.epoch_interval = Duration::from_millis(5);
    config.on_error = OnError::Skip;
    let (status, out) = (config.status.clone(), dir.path().join("out"));
    let asked = config.status.clone();
    let summary = highwater::run(config, (), move |flow: &Flow<'_>, _: &()| {
        let asked = asked.clone();
        flow.source("numbers", list(0..1000u64))
            .try_map("small", |n| if n < 900 { Ok(n) } else { Err(format!("{n} is large")) })
            .inspect(move |n| {
                if *n == 500 {
                    let now = asked.now().expect("the flow runs");
                    assert_eq!((now.workers, now.execution), (2, Some(1)));
                    assert!(now.records > 0 && now.steps.iter().any(|step| step.name == "sum"), "{now:?}");
                }
            })
            .key_by(|n| n % 10)
            .stateful_map(
                "sum",
                || 0,
                |sum, n| {
                    *sum += n;
                    *sum
                },
            )
            .into_stream()
            .sink("out", JsonLines::to(&out));
    })
    .unwrap();
    let last = status.now().unwrap();
    assert_eq!(last.steps, summary.status.steps);
    assert_eq!((last.records, last.skipped, last.in_flight, last.stashed), (1000, 100, 0, 0));
    assert_eq!((last.committed_epoch, last.snapshot_rows), (summary.committed.0, summary.rows));
    assert!(last.sync_us > 0 && last.frontier_epoch > 0 && last.snapshot_bytes > 0, "{last:?}");
    let step = |name: &str| last.steps.iter().find(|step| step.name == name).unwrap();
    let (numbers, small, sum, sink) = (step("numbers"), step("small"), step("sum"), step("out"));
    assert_eq!((numbers.kind.as_str(), numbers.items_out, numbers.partitions), ("source", 1000, 1));
    assert_eq!((numbers.partitions_ended, numbers.positions.len()), (1, 0));
    assert_eq!((small.items_in, small.items_out, small.skipped), (1000, 900, 100));
    assert_eq!((sum.items_in, sum.items_out, sum.keys), (900, 900, 10));
    assert_eq!(sum.items_by_worker.iter().sum::<u64>(), 900);
    assert!(sum.items_by_worker.iter().all(|items| *items > 0), "both workers own keys: {sum:?}");
    assert_eq!((sink.items_in, sink.items_out), (900, 900));
    assert!(sink.flushed_epoch.is_some());
    let text = serde_json::to_string(&last).unwrap();
    assert_eq!(serde_json::from_str::<highwater::status::Status>(&text).unwrap(), last);
}
