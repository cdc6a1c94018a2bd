//! `--metrics ADDR`: the metrics of this process over HTTP, for Prometheus, and nothing else.
//!
//! Off unless asked for, and then on loopback only, unless whoever asks has to show a token. It answers GET and HEAD of
//! `/metrics`; no path of a request goes anywhere else. It has counts and names of steps, no record, key, path or
//! argument. It runs beside the flow, on threads of its own, with few of them, short requests and short deadlines: a slow
//! or hostile client waits, the flow does not. A port that is taken is a warning.

use crate::clock::now;
use crate::cluster::Key;
use clap::Args;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

/// The longest request.
const REQUEST_BYTES_MAX: usize = 8 << 10;
/// The most headers of one.
const HEADERS_MAX: usize = 64;
/// Clients that are served at once; others are turned away.
const CLIENTS_MAX: usize = 8;
/// How long a client may take, to ask and to take the answer.
const DEADLINE: Duration = Duration::from_secs(5);
/// How often histograms are put in order, if nobody asks for them.
const UPKEEP: Duration = Duration::from_secs(5);
/// Upper ends of the buckets of histograms, in seconds.
const BUCKETS: [f64; 14] = [0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0];

/// The options.
#[derive(Args, Debug)]
#[group(skip)]
pub(super) struct MetricsArgs {
    /// Serve metrics for Prometheus, as 9100 (on loopback) or HOST:9100; process I of several takes the Ith port after it
    #[arg(long, env = "HIGHWATER_METRICS", value_name = "ADDR")]
    metrics: Option<String>,

    /// Who asks must show this token (Authorization: Bearer); needed beyond loopback; only its owner may read the file
    #[arg(long, env = "HIGHWATER_METRICS_TOKEN_FILE", value_name = "FILE")]
    metrics_token_file: Option<PathBuf>,
}

/// Where metrics are served, and to whom.
#[derive(Clone)]
pub(crate) struct Exporter {
    addr: SocketAddr,
    /// The name that stands in the option: what a client may call this host.
    name: Option<String>,
    token: Option<Key>,
}

impl fmt::Debug for Exporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the token.
        f.debug_struct("Exporter").field("addr", &self.addr).finish_non_exhaustive()
    }
}

impl MetricsArgs {
    /// Where to serve, if anywhere; says what cannot be.
    pub(super) fn exporter(self) -> Result<Option<Exporter>, String> {
        let Some(text) = self.metrics else {
            return match self.metrics_token_file {
                Some(_) => Err("--metrics-token-file is for --metrics ADDR, which is not given".to_owned()),
                None => Ok(None),
            };
        };
        let (addr, name) = address(&text)?;
        let token = self.metrics_token_file.map(|path| Key::read(&path)).transpose()?;
        if !addr.ip().is_loopback() && token.is_none() {
            return Err(format!(
                "--metrics {text} is open to other machines: say who may ask with --metrics-token-file FILE, or use \
                 127.0.0.1:{}",
                addr.port()
            ));
        }
        Ok(Some(Exporter { addr, name, token }))
    }
}

/// A port, or a host and a port.
fn address(text: &str) -> Result<(SocketAddr, Option<String>), String> {
    if let Ok(port) = text.parse() {
        return Ok((SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port), None));
    }
    let wrong = |what: &dyn fmt::Display| format!("--metrics {text:?}: {what}; write it as 9100 or 127.0.0.1:9100");
    let mut addrs = text.to_socket_addrs().map_err(|error| wrong(&error))?;
    let addr = addrs.next().ok_or_else(|| wrong(&"no such host"))?;
    let name = text.rsplit_once(':').map(|(name, _)| name.to_ascii_lowercase());
    Ok((addr, name))
}

impl Exporter {
    /// Serves, beside the flow, until the process ends. What cannot be served is a warning.
    pub(super) fn start(mut self, process: usize) {
        let shift = u16::try_from(process).unwrap_or(u16::MAX);
        self.addr.set_port(if self.addr.port() == 0 { 0 } else { self.addr.port().saturating_add(shift) });
        let listener = match TcpListener::bind(self.addr) {
            Ok(listener) => listener,
            Err(error) => return tracing::warn!("no metrics on {}: {error}; the flow runs", self.addr),
        };
        let recorder = match PrometheusBuilder::new().set_buckets(&BUCKETS) {
            Ok(builder) => builder.build_recorder(),
            Err(error) => return tracing::warn!("no metrics: {error}"),
        };
        let handle = recorder.handle();
        if metrics::set_global_recorder(recorder).is_err() {
            return tracing::warn!("no metrics on {}: the program has a recorder of its own", self.addr);
        }
        if let Ok(addr) = listener.local_addr() {
            tracing::info!("metrics on http://{addr}/metrics");
        }
        let upkeep = handle.clone();
        let keep = move || {
            loop {
                std::thread::sleep(UPKEEP);
                upkeep.run_upkeep();
            }
        };
        let serve = move || self.serve(&listener, &handle);
        let start = |name: &str, work: Box<dyn FnOnce() + Send>| {
            if let Err(error) = std::thread::Builder::new().name(name.to_owned()).spawn(work) {
                tracing::warn!("no metrics: {error}; the flow runs");
            }
        };
        start("metrics-upkeep", Box::new(keep));
        start("metrics", Box::new(serve));
    }

    fn serve(self, listener: &TcpListener, handle: &PrometheusHandle) {
        let (this, serving) = (Arc::new(self), Arc::new(AtomicUsize::new(0)));
        loop {
            let client = match listener.accept() {
                Ok((client, _)) => client,
                // Out of descriptors, or a client that has gone: the flow may have the processor meanwhile.
                Err(_) => {
                    std::thread::sleep(Duration::from_millis(50));
                    continue;
                }
            };
            if serving.fetch_add(1, SeqCst) >= CLIENTS_MAX {
                serving.fetch_sub(1, SeqCst);
                drop(client);
                continue;
            }
            let (this, handle, served) = (this.clone(), handle.clone(), serving.clone());
            let work = move || {
                // Whatever became of the client.
                let _ = this.answer(client, &handle);
                served.fetch_sub(1, SeqCst);
            };
            if std::thread::Builder::new().name("metrics-client".to_owned()).spawn(work).is_err() {
                serving.fetch_sub(1, SeqCst);
            }
        }
    }

    /// Reads one request and answers it.
    fn answer(&self, mut client: TcpStream, handle: &PrometheusHandle) -> io::Result<()> {
        let until = now() + DEADLINE;
        let mut request = Vec::new();
        let answer = loop {
            let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
            let mut parsed = httparse::Request::new(&mut headers);
            match parsed.parse(&request) {
                Ok(httparse::Status::Complete(_)) => break self.judge(&parsed),
                Err(_) => break Answer::BAD,
                Ok(httparse::Status::Partial) if request.len() >= REQUEST_BYTES_MAX => break Answer::TOO_LARGE,
                Ok(httparse::Status::Partial) => {}
            }
            client.set_read_timeout(Some(left(until)?))?;
            let mut more = [0; 1024];
            match client.read(&mut more)? {
                0 => return Ok(()),
                bytes => request.extend_from_slice(&more[..bytes]),
            }
        };
        let body = if answer.status == 200 { handle.render() } else { format!("{}\n", answer.reason) };
        let text = answer.text(&body);
        let mut rest = text.as_bytes();
        while !rest.is_empty() {
            client.set_write_timeout(Some(left(until)?))?;
            match client.write(rest)? {
                0 => return Ok(()),
                bytes => rest = &rest[bytes..],
            }
        }
        client.shutdown(std::net::Shutdown::Write)?;
        // What the client is still sending is read away for a moment: a reset could take the answer from it.
        let mut sink = [0; 1024];
        client.set_read_timeout(Some(Duration::from_millis(100)))?;
        while client.read(&mut sink)? > 0 && now() < until {}
        Ok(())
    }

    /// What a request is answered.
    fn judge(&self, request: &httparse::Request<'_, '_>) -> Answer {
        let head = request.method == Some("HEAD");
        let header = |name: &str| {
            let mut all = request.headers.iter().filter(|header| header.name.eq_ignore_ascii_case(name));
            let first = all.next().map(|header| header.value);
            // Said twice is not said.
            if all.next().is_some() { Some(&b"?"[..]) } else { first }
        };
        let path = request.path.unwrap_or_default();
        let path = path.split('?').next().unwrap_or_default();
        let answer = if request.method != Some("GET") && !head {
            Answer::METHOD
        } else if !self.is_called(header("Host")) {
            Answer::HOST
        } else if header("Origin").is_some() || header("Sec-Fetch-Site").is_some_and(is_foreign) {
            Answer::ORIGIN
        } else if !self.may_ask(header("Authorization")) {
            Answer::TOKEN
        } else if path != "/metrics" {
            Answer::NOT_HERE
        } else {
            Answer::OK
        };
        Answer { head, ..answer }
    }

    /// Whether this is what this host is called. A page in somebody's browser may make its own name mean this address.
    fn is_called(&self, host: Option<&[u8]>) -> bool {
        // Who shows the token is no such page.
        if self.token.is_some() && !self.addr.ip().is_loopback() {
            return host.is_some();
        }
        let Some(host) = host.and_then(|host| str::from_utf8(host).ok()) else { return false };
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
            _ => host,
        };
        let name = name.to_ascii_lowercase();
        matches!(name.as_str(), "localhost" | "127.0.0.1" | "[::1]") || Some(&name) == self.name.as_ref()
    }

    fn may_ask(&self, authorization: Option<&[u8]>) -> bool {
        let Some(token) = &self.token else { return true };
        authorization.and_then(|text| text.strip_prefix(b"Bearer ")).is_some_and(|shown| token.is(shown))
    }
}

fn is_foreign(site: &[u8]) -> bool {
    !matches!(site, b"same-origin" | b"none")
}

/// The time that is left, or an error.
fn left(until: Instant) -> io::Result<Duration> {
    let left = until.saturating_duration_since(now());
    if left.is_zero() { Err(ErrorKind::TimedOut.into()) } else { Ok(left) }
}

/// What a request is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Answer {
    status: u16,
    reason: &'static str,
    head: bool,
}

impl Answer {
    const OK: Answer = Answer::new(200, "OK");
    const BAD: Answer = Answer::new(400, "Bad Request");
    const TOKEN: Answer = Answer::new(401, "Unauthorized");
    const ORIGIN: Answer = Answer::new(403, "Forbidden");
    const NOT_HERE: Answer = Answer::new(404, "Not Found");
    const METHOD: Answer = Answer::new(405, "Method Not Allowed");
    const HOST: Answer = Answer::new(421, "Misdirected Request");
    const TOO_LARGE: Answer = Answer::new(431, "Request Header Fields Too Large");

    const fn new(status: u16, reason: &'static str) -> Answer {
        Answer { status, reason, head: false }
    }

    /// The whole answer.
    fn text(self, body: &str) -> String {
        let Answer { status, reason, head } = self;
        let also = match status {
            401 => "WWW-Authenticate: Bearer\r\n",
            405 => "Allow: GET, HEAD\r\n",
            _ => "",
        };
        format!(
            "HTTP/1.1 {status} {reason}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: \
             {}\r\nConnection: close\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n\
             Content-Security-Policy: default-src 'none'; frame-ancestors 'none'\r\n{also}\r\n{}",
            body.len(),
            if head { "" } else { body }
        )
    }
}

#[cfg(test)]
#[path = "exporter_tests.rs"]
mod tests;
