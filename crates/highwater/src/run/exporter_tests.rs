//! What the exporter answers, request by request; the process around it is in tests/metrics.rs.

use super::*;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

fn options(metrics: &str, token: Option<&std::path::Path>) -> Result<Option<Exporter>, String> {
    MetricsArgs { metrics: Some(metrics.to_owned()), metrics_token_file: token.map(Into::into) }.exporter()
}

fn exporter(metrics: &str) -> Exporter {
    options(metrics, None).unwrap().unwrap()
}

fn asked(exporter: &Exporter, request: &str) -> u16 {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut parsed = httparse::Request::new(&mut headers);
    assert!(parsed.parse(request.as_bytes()).unwrap().is_complete(), "{request}");
    exporter.judge(&parsed).status
}

#[test]
fn h1_a_port_alone_is_on_loopback() {
    assert!(MetricsArgs { metrics: None, metrics_token_file: None }.exporter().unwrap().is_none(), "off by default");
    assert_eq!(exporter("9100").addr, "127.0.0.1:9100".parse().unwrap());
    assert_eq!(exporter("[::1]:9100").addr, "[::1]:9100".parse().unwrap());
    for wrong in ["", "x", "127.0.0.1", "127.0.0.1:99999", "no such host:1"] {
        assert!(options(wrong, None).err().unwrap().contains("9100"), "{wrong}");
    }
}

#[test]
fn h2_other_machines_need_a_token_that_is_secret() {
    let refused = options("0.0.0.0:9100", None).err().unwrap();
    assert!(refused.contains("--metrics-token-file") && refused.contains("127.0.0.1:9100"), "{refused}");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    fs::write(&path, "0123456789abcdef\n").unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    assert!(options("0.0.0.0:9100", Some(&path)).err().unwrap().contains("0644"));
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    for at in ["0.0.0.0:9100", "127.0.0.1:9100"] {
        let exporter = options(at, Some(&path)).unwrap().unwrap();
        let with = |line: &str| asked(&exporter, &format!("GET /metrics HTTP/1.1\r\nHost: localhost\r\n{line}\r\n"));
        assert_eq!(with(""), 401);
        for wrong in ["Bearer 0123456789abcdeF", "Bearer ", "Basic 0123456789abcdef", "0123456789abcdef"] {
            assert_eq!(with(&format!("Authorization: {wrong}\r\n")), 401, "{wrong}");
        }
        let right = "Authorization: Bearer 0123456789abcdef\r\n";
        assert_eq!((with(right), with(&right.repeat(2))), (200, 401));
    }
    let alone = MetricsArgs { metrics: None, metrics_token_file: Some(path) };
    assert!(alone.exporter().is_err());
}

#[test]
fn h3_h4_a_page_in_a_browser_gets_nothing() {
    let local = exporter("9100");
    let of = |exporter: &Exporter, lines: &str| asked(exporter, &format!("GET /metrics HTTP/1.1\r\n{lines}\r\n"));
    for host in ["localhost", "LOCALHOST:9100", "127.0.0.1:9100", "[::1]:9100", "[::1]"] {
        assert_eq!(of(&local, &format!("Host: {host}\r\n")), 200, "{host}");
    }
    for host in ["evil.com", "localhost.evil.com", "127.0.0.1.nip.io:9100", "", "localhost:evil"] {
        assert_eq!(of(&local, &format!("Host: {host}\r\n")), 421, "{host}");
    }
    assert_eq!((of(&local, ""), of(&local, "Host: localhost\r\nHost: localhost\r\n")), (421, 421));
    assert_eq!(of(&exporter("127.0.0.2:9100"), "Host: 127.0.0.2:9100\r\n"), 200, "as it is configured");
    for line in ["Origin: http://evil.com", "Origin: null", "Sec-Fetch-Site: cross-site", "Sec-Fetch-Site: same-site"] {
        assert_eq!(of(&local, &format!("Host: localhost\r\n{line}\r\n")), 403, "{line}");
    }
    assert_eq!(of(&local, "Host: localhost\r\nSec-Fetch-Site: none\r\n"), 200);
}

#[test]
fn h5_get_and_head_of_one_path() {
    let local = exporter("9100");
    let of = |line: &str| asked(&local, &format!("{line} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
    assert_eq!((of("GET /metrics"), of("HEAD /metrics"), of("GET /metrics?a=b")), (200, 200, 200));
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "get"] {
        assert_eq!(of(&format!("{method} /metrics")), 405, "{method}");
    }
    for path in ["/", "/../../etc/passwd", "/metrics/..", "/metrics/../etc/passwd", "/%2e%2e/etc/passwd", "//metrics"] {
        assert_eq!(of(&format!("GET {path}")), 404, "{path}");
    }
}

#[test]
fn h7_an_answer_is_plain_text_that_no_page_may_use() {
    let text = Answer::OK.text("body");
    for header in ["nosniff", "default-src 'none'; frame-ancestors 'none'", "text/plain", "Content-Length: 4"] {
        assert!(text.contains(header), "{text}");
    }
    assert!(!text.contains("Access-Control-Allow-Origin") && text.ends_with("\r\n\r\nbody"));
    assert!(Answer { head: true, ..Answer::OK }.text("body").ends_with("\r\n\r\n"));
}
