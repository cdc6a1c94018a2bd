//! What strangers, impostors and peers of other runs hear.

use super::*;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;

fn pair() -> (Socket, Socket) {
    let (one, other) = UnixStream::pair().unwrap();
    (Socket::Unix(one), Socket::Unix(other))
}

fn hello(process: usize) -> Hello {
    let identity = Identity(vec![("-w".into(), "2".into()), ("flow".into(), "carts".into())]);
    let nonce = [process as u8; 32];
    Hello { process, processes: 3, identity, purpose: Purpose::Control, session: Some(7), keyed: false, nonce }
}

fn key(text: &str) -> Key {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key");
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    Key::read(&path).unwrap()
}

/// What both sides make of it when process 1, as changed, connects to process 0.
fn meet(keys: [&Key; 2], change: impl FnOnce(&mut Hello)) -> (Result<Hello, Failed>, Result<Hello, Failed>) {
    let (mut left, mut right) = pair();
    let mut connector = hello(1);
    connector.keyed = keys[1].is_given();
    change(&mut connector);
    std::thread::scope(|threads| {
        let acceptor = threads.spawn(move || {
            let hello = Hello { keyed: keys[0].is_given(), ..hello(0) };
            let result = Side { key: keys[0], hello }.accept(&mut left, |_| Ok(()));
            drop(left);
            result
        });
        let connected = Side { key: keys[1], hello: connector }.connect(&mut right, 0);
        drop(right);
        (acceptor.join().unwrap(), connected)
    })
}

fn text(result: Result<Hello, Failed>) -> String {
    match result.unwrap_err() {
        Failed::Mismatch(what) => what,
        Failed::Stranger(what) => format!("stranger: {what}"),
        Failed::Later => "later".to_owned(),
    }
}

#[test]
fn peers_of_one_run_meet() {
    let none = Key::default();
    let (accepted, connected) = meet([&none, &none], |_| ());
    assert_eq!((accepted.unwrap().process, connected.unwrap().process), (1, 0));
    let key = key("0123456789abcdef");
    let (accepted, connected) = meet([&key, &key], |_| ());
    assert!(accepted.is_ok() && connected.is_ok());
}

#[test]
fn what_differs_is_named_on_both_sides_with_both_values() {
    let none = Key::default();
    let (accepted, connected) = meet([&none, &none], |hello| hello.identity.0[0].1 = "3".into());
    for said in [text(accepted), text(connected)] {
        assert!(said.contains("-w is 2 at process 0 and 3 at process 1"), "{said}");
    }
    let (accepted, connected) = meet([&none, &none], |hello| hello.processes = 4);
    for said in [text(accepted), text(connected)] {
        assert!(said.contains("-n is 3 at process 0 and 4 at process 1"), "{said}");
    }
    let (accepted, connected) = meet([&none, &none], |hello| hello.process = 0);
    for said in [text(accepted), text(connected)] {
        assert!(said.contains("two processes say"), "{said}");
    }
    let (accepted, connected) = meet([&none, &none], |hello| hello.identity.0[1].1 = "other\x1b[2J".into());
    for said in [text(accepted), text(connected)] {
        assert!(said.contains("flow is carts") && !said.contains('\x1b'), "{said}");
    }
}

#[test]
fn without_the_key_nobody_gets_in() {
    let (right, wrong) = (key("0123456789abcdef"), key("0123456789abcdeF"));
    for theirs in [&wrong, &Key::default()] {
        let (accepted, connected) = meet([&right, theirs], |_| ());
        assert!(text(accepted).contains("stranger"));
        assert!(text(connected).contains("stranger"));
    }
}

/// What was said in one handshake opens no other: the other side has drawn another number.
#[test]
fn a_replayed_handshake_is_refused() {
    let key = key("0123456789abcdef");
    let record = |nonce: u8, replay: Option<Vec<u8>>| {
        let (mut left, mut right) = pair();
        let key = &key;
        std::thread::scope(|threads| {
            let acceptor = threads.spawn(move || {
                let hello = Hello { keyed: true, nonce: [nonce; 32], ..hello(0) };
                Side { key, hello }.accept(&mut left, |_| Ok(()))
            });
            let mut said = Vec::new();
            match replay {
                Some(said) => right.write_all(&said).unwrap(),
                None => {
                    let side = Side { key, hello: Hello { keyed: true, ..hello(1) } };
                    let mut peer = Until { socket: &mut right, end: now() + DEADLINE };
                    let ours = side.say(&mut peer).unwrap();
                    let (theirs, _) = side.hear(&mut peer).unwrap();
                    let code = key.code(CONNECTOR, [&ours, &theirs]);
                    write_frame(&mut peer, &code).unwrap();
                    said.extend([&MAGIC[..], &VERSION.to_be_bytes()].concat());
                    write_frame(&mut said, &ours).unwrap();
                    write_frame(&mut said, &code).unwrap();
                }
            }
            (acceptor.join().unwrap(), said)
        })
    };
    let (accepted, said) = record(1, None);
    assert!(accepted.is_ok());
    assert!(text(record(2, Some(said)).0).contains("does not have the key"));
}

#[test]
fn strangers_are_dropped_whatever_they_send() {
    let mut long = [&MAGIC[..], &VERSION.to_be_bytes()].concat();
    long.extend(u32::MAX.to_be_bytes());
    let mut other = [&MAGIC[..], &9u16.to_be_bytes()].concat();
    other.extend([0; 8]);
    for (bytes, what) in [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], "does not speak this protocol"),
        (b"", "closed the connection"),
        (b"HW", "closed the connection"),
        (&long, "4294967295 bytes is announced"),
        (&other, "version 9"),
    ] {
        let (mut left, mut right) = pair();
        right.write_all(bytes).unwrap();
        right.shutdown(std::net::Shutdown::Write).unwrap();
        let side = Side { key: &Key::default(), hello: hello(0) };
        let said = text(side.accept(&mut left, |_| panic!("it is a stranger")));
        assert!(said.contains(what), "{said}");
    }
}
