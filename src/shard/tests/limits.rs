//! What clients may do in a second, and where they may come from.

use super::*;

fn host(change: impl FnOnce(&mut ShardConfig)) -> Host {
    let mut config = ShardConfig::default();
    change(&mut config);
    Host::with_config(2, 6, config)
}

/// Action, msgSerial and error code of what a client was told.
fn told(host: &mut Host, client: usize) -> Vec<(u64, Option<u64>, Option<u64>)> {
    let messages = host.messages(client);
    let number = |value: &Value| value.as_u64();
    messages
        .iter()
        .map(|told| {
            let action = number(&told["action"]).expect("each has one");
            (action, number(&told["msgSerial"]), number(&told["error"]["code"]))
        })
        .collect()
}

#[test]
fn messages_beyond_the_rate_are_refused_and_the_connection_goes_on() {
    let mut host = host(|config| config.connection.messages_per_second_max = 3);
    let client = host.connect(0, "");
    host.pass(Duration::from_secs(1));
    host.step();
    host.settle();
    host.messages(client);
    let three = json!([{"data": "a"}, {"data": "b"}, {"data": "c"}]);
    host.send(client, &json!({"action": 15, "msgSerial": 0, "channel": "room", "messages": three}));
    host.publish(client, 1, "room", "one too many");
    host.settle();
    assert_eq!(told(&mut host, client), [(1, Some(0), None), (2, Some(1), Some(42911))]);
    host.pass(Duration::from_secs(1));
    host.settle();
    host.publish(client, 2, "room", "in the next second");
    host.settle();
    assert_eq!(told(&mut host, client), [(1, Some(2), None)]);
}

#[test]
fn protocol_messages_beyond_the_rate_end_the_connection() {
    let mut host = host(|config| config.connection.payloads_per_second_max = 5);
    let client = host.connect(0, "");
    host.pass(Duration::from_secs(1));
    host.settle();
    host.messages(client);
    for _ in 0..6 {
        host.send(client, &json!({"action": 0, "id": "ping"}));
    }
    host.settle();
    let told = told(&mut host, client);
    let (last, before) = told.split_last().expect("answered");
    assert_eq!(*last, (9, None, Some(42924)));
    assert_eq!(before, [(0, None, None); 5]);
}

#[test]
fn connects_beyond_the_rate_are_told_to_try_again() {
    let mut host = host(|config| config.connects_per_second_max = 2);
    let clients: Vec<usize> = (0..4).map(|_| host.connect(0, "")).collect();
    let actions = clients.iter().map(|&client| told(&mut host, client)[0]);
    let connected = (4, None, None);
    let put_off = (6, None, Some(80021));
    assert!(actions.collect::<Vec<_>>().iter().eq([&connected, &connected, &put_off, &put_off]));
    assert_eq!(host.shards[0].counters().connects_refused, 2);
    host.pass(Duration::from_millis(500));
    host.settle();
    let client = host.connect(0, "");
    assert_eq!(told(&mut host, client)[0], connected);
}

#[test]
fn pages_of_other_origins_are_refused_before_anything_else() {
    let mut host = host(|config| config.origins = vec!["https://example.com".into()]);
    for (origin, upgrade, expected) in [
        ("Origin: https://example.com\r\n", false, "HTTP/1.1 200 "),
        ("Origin: HTTPS://EXAMPLE.COM\r\n", false, "HTTP/1.1 200 "),
        ("", false, "HTTP/1.1 200 "),
        ("Origin: https://example.com.evil.org\r\n", false, "HTTP/1.1 403 "),
        ("Origin: null\r\n", true, "HTTP/1.1 403 "),
        ("Origin: https://example.com\r\n", true, "HTTP/1.1 101 "),
    ] {
        let client = host.accept(0);
        let (path, rest) = match upgrade {
            true => (
                format!("/?key={KEY}"),
                "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                 Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
            ),
            false => ("/time".to_owned(), ""),
        };
        let request = format!("GET {path} HTTP/1.1\r\nHost: h\r\n{origin}{rest}\r\n");
        host.write(client, request.as_bytes());
        host.settle();
        let answer = String::from_utf8_lossy(&host.clients[client].received).into_owned();
        assert!(answer.starts_with(expected), "{origin}{answer}");
        let is_readable = answer.contains("Access-Control-Allow-Origin");
        assert!(!answer.starts_with("HTTP/1.1 403 ") || !is_readable, "{answer}");
    }
}

#[test]
fn a_request_that_comes_byte_by_byte_has_a_bound_and_one_that_goes_on_has_its_time() {
    let mut host = host(|config| config.head_timeout = Duration::from_secs(10));
    let (head, body) = (host.accept(0), host.accept(0));
    host.write(
        body,
        b"POST /channels/room/messages HTTP/1.1\r\nHost: h\r\nContent-Length: 900\r\n\r\n",
    );
    for second in 1..=70 {
        for client in [head, body] {
            if !host.clients[client].is_closed {
                host.write(client, b"X");
            }
        }
        host.pass(Duration::from_secs(1));
        host.settle_quickly();
        let closed = [head, body].map(|client| host.clients[client].is_closed);
        match second {
            ..10 => assert_eq!(closed, [false, false], "{second}"),
            16..60 => assert_eq!(closed, [true, false], "{second}"),
            66.. => assert_eq!(closed, [true, true], "{second}"),
            _ => {}
        }
    }
}

#[test]
fn a_transport_that_is_used_again_and_again_is_not_late() {
    let mut host = host(|config| config.head_timeout = Duration::from_secs(10));
    let client = host.accept(0);
    // The next request always has begun.
    host.write(client, b"GET /time HTTP/1.1\r\n");
    for _ in 0..200 {
        host.write(client, b"Host: h\r\n\r\nGET /time HTTP/1.1\r\n");
        host.pass(Duration::from_secs(1));
        host.settle_quickly();
        assert!(!host.clients[client].is_closed);
    }
}
