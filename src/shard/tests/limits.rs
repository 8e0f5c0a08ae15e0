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
    let mut host = host(|config| config.admission.connects_per_second_max = 2);
    let clients: Vec<usize> = (0..4).map(|_| host.connect(0, "")).collect();
    let actions = clients.iter().map(|&client| told(&mut host, client)[0]);
    let connected = (4, None, None);
    let put_off = (6, None, Some(80021));
    assert!(actions.collect::<Vec<_>>().iter().eq([&connected, &connected, &put_off, &put_off]));
    assert_eq!(host.shards[0].counters().refused.rate, 2);
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

/// Connects a client at `peer` to `shard`, with more headers and query; its first message is left to be read.
fn connect_from(host: &mut Host, shard: usize, peer: &str, headers: &str, query: &str) -> usize {
    let client = host.accept_from(shard, Some(peer.parse().expect("an address")));
    let request = format!(
        "GET /?key={KEY}&v=6{query} HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\n\
         Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n{headers}\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    host.write(client, request.as_bytes());
    host.settle();
    let received = &mut host.clients[client].received;
    let end = received.windows(4).position(|four| four == b"\r\n\r\n").expect("upgraded") + 4;
    received.drain(..end);
    client
}

/// Action and error code of the first thing that a client was told.
fn first(host: &mut Host, client: usize) -> (u64, Option<u64>) {
    let (action, _, code) = told(host, client)[0];
    (action, code)
}

const CONNECTED: (u64, Option<u64>) = (4, None);

fn close(host: &mut Host, client: usize) {
    host.send(client, &json!({"action": 7}));
    host.settle();
    host.hang_up(client);
    host.settle();
}

/// How many holders of seats there are, and addresses of sockets.
fn counted(host: &Host) -> (usize, usize) {
    let seats = host.shards.iter().map(|shard| shard.seats.holders()).sum();
    (seats, host.shards.iter().map(|shard| shard.addresses.len()).sum())
}

#[test]
fn an_address_has_so_many_connections_on_all_shards_together() {
    for seed in 0..10 {
        let config = ShardConfig::default();
        let mut host = Host::with_config(3, seed, config);
        let mut limits = ShardConfig::default().limits();
        limits.admission.connections_per_address_max = 4;
        limits.admission.uncounted.add("198.51.100.0/24").expect("a network");
        host.shards.iter_mut().for_each(|shard| shard.set_limits(&limits));
        let clients: Vec<usize> =
            (0..5).map(|n| connect_from(&mut host, n % 3, "192.0.2.1", "", "")).collect();
        for &client in &clients[..4] {
            assert_eq!(first(&mut host, client), CONNECTED, "seed={seed}");
        }
        let refused = host.messages(clients[4]).remove(0);
        assert_eq!((&refused["action"], &refused["error"]["code"]), (&json!(9), &json!(40150)));
        assert_eq!(refused["error"]["statusCode"], 403);
        let reason = host.shards.iter().map(|shard| shard.counters().refused.address);
        assert_eq!(reason.sum::<u64>(), 1);
        // Others are others, and who is not counted has no bound.
        let other = connect_from(&mut host, 0, "192.0.2.2", "", "");
        assert_eq!(first(&mut host, other), CONNECTED);
        for shard in [0, 1, 2, 0, 1, 2] {
            let uncounted = connect_from(&mut host, shard, "198.51.100.7", "", "");
            assert_eq!(first(&mut host, uncounted), CONNECTED);
        }
        close(&mut host, clients[2]);
        let again = connect_from(&mut host, 1, "::ffff:192.0.2.1", "", "");
        assert_eq!(first(&mut host, again), CONNECTED, "seed={seed}");
        let one_more = connect_from(&mut host, 2, "192.0.2.1", "", "");
        assert_eq!(first(&mut host, one_more), (9, Some(40150)), "seed={seed}");
        for client in 0..host.clients.len() {
            if !host.clients[client].is_closed {
                host.hang_up(client);
            }
        }
        host.settle();
        assert_eq!(counted(&host), (0, 0), "seed={seed}: nothing is kept of who is gone");
    }
}

#[test]
fn clients_that_came_before_their_address_had_a_bound_count() {
    for seed in 0..10 {
        let mut host = Host::with_config(3, seed, ShardConfig::default());
        let peer = "192.0.2.1";
        let before: Vec<usize> = (0..3).map(|n| connect_from(&mut host, n, peer, "", "")).collect();
        let events = host.accept_from(0, Some(peer.parse().expect("an address")));
        let request = format!("GET /sse?channels=a&key={KEY} HTTP/1.1\r\nHost: h\r\n\r\n");
        host.write(events, request.as_bytes());
        host.settle();
        // One that has asked for nothing yet, and some that are somewhere on their way.
        let late = host.accept_from(1, Some(peer.parse().expect("an address")));
        let upgrade = format!(
            "GET /?key={KEY} HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        let on_its_way = host.accept_from(2, Some(peer.parse().expect("an address")));
        host.write(on_its_way, upgrade.as_bytes());
        for _ in 0..host.below(6) {
            host.step();
        }
        let mut limits = ShardConfig::default().limits();
        limits.admission.connections_per_address_max = 6;
        limits.admission.uncounted.add("198.51.100.0/24").expect("a network");
        for id in 0..3 {
            host.shards[id].set_limits(&limits);
            host.step();
        }
        host.settle();
        assert_eq!(counted(&host).0, 1, "seed={seed}: one address");
        host.write(late, upgrade.as_bytes());
        host.settle();
        assert!(host.clients[late].received.starts_with(b"HTTP/1.1 101 "), "seed={seed}");
        let one_more = connect_from(&mut host, 0, peer, "", "");
        assert_eq!(first(&mut host, one_more), (9, Some(40150)), "seed={seed}");
        let other = connect_from(&mut host, 0, "192.0.2.2", "", "");
        assert_eq!(first(&mut host, other), CONNECTED, "seed={seed}");
        // A seat that is given back is somebody else's, whoever has it.
        close(&mut host, before[1]);
        let again = connect_from(&mut host, 1, peer, "", "");
        assert_eq!(first(&mut host, again), CONNECTED, "seed={seed}");
        // Off and on again: those that came meanwhile count, nobody counts twice.
        limits.admission.connections_per_address_max = 0;
        host.shards.iter_mut().for_each(|shard| shard.set_limits(&limits));
        host.settle();
        let meanwhile = connect_from(&mut host, 2, peer, "", "");
        assert_eq!(first(&mut host, meanwhile), CONNECTED, "seed={seed}");
        limits.admission.connections_per_address_max = 8;
        host.shards.iter_mut().for_each(|shard| shard.set_limits(&limits));
        host.settle();
        let eighth = connect_from(&mut host, 2, peer, "", "");
        assert_eq!(first(&mut host, eighth), CONNECTED, "seed={seed}");
        let ninth = connect_from(&mut host, 2, peer, "", "");
        assert_eq!(first(&mut host, ninth), (9, Some(40150)), "seed={seed}");
        for client in 0..host.clients.len() {
            if !host.clients[client].is_closed {
                host.hang_up(client);
            }
        }
        host.settle();
        assert_eq!(counted(&host), (0, 0), "seed={seed}: nothing is kept of who is gone");
    }
}

#[test]
fn a_key_has_so_many_connections_and_those_that_were_there_count() {
    for seed in 0..10 {
        let mut host = Host::with_config(3, seed, ShardConfig::default());
        let before: Vec<usize> = (0..2).map(|shard| host.connect(shard, "")).collect();
        let mut limits = ShardConfig::default().limits();
        limits.admission.connections_per_key_max = 3;
        host.shards.iter_mut().for_each(|shard| shard.set_limits(&limits));
        host.settle();
        let third = host.connect(2, "");
        assert_eq!(first(&mut host, third), CONNECTED);
        let refused = host.connect(0, "");
        let message = host.messages(refused).remove(0);
        assert_eq!((&message["action"], &message["error"]["code"]), (&json!(9), &json!(40111)));
        assert_eq!(message["error"]["statusCode"], 403);
        host.hang_up(before[0]);
        host.settle();
        let next = host.connect(0, "");
        assert_eq!(first(&mut host, next), CONNECTED, "seed={seed}");
        // Without a bound nobody is asked any more, and seats that were taken are given back.
        host.shards.iter_mut().for_each(|shard| shard.set_limits(&ShardConfig::default().limits()));
        let free: Vec<usize> = (0..5).map(|n| host.connect(n % 3, "")).collect();
        assert!(free.iter().all(|&client| first(&mut host, client) == CONNECTED));
        [before[1], third, next].into_iter().for_each(|client| host.hang_up(client));
        host.settle();
        assert_eq!(counted(&host), (0, 0), "seed={seed}");
    }
}

#[test]
fn a_key_may_have_a_bound_of_its_own_that_a_reload_brings() {
    let mut host = Host::new(2, 6);
    let before: Vec<usize> = (0..2).map(|shard| host.connect(shard, "")).collect();
    let key = |text: &str, connections_max| {
        let api_key: ApiKey = text.parse().expect("well-formed");
        let key = KeySpec::new(api_key, &Capability::all().to_string(), false).expect("valid");
        key.with_connections_max(connections_max)
    };
    let reload = |host: &mut Host, connections_max| {
        let keys = vec![key(KEY, connections_max), key("app.other:secret", None)];
        let app = AppSpec { id: "app".into(), keys, ..AppSpec::default() };
        host.shards[0].reload(7, &Directory::new([app]));
        host.settle();
        assert_eq!(host.shards[0].take_installed(), [7], "all shards have confirmed");
    };
    reload(&mut host, Some(2));
    let third = host.connect(0, "");
    assert_eq!(first(&mut host, third), (9, Some(40111)));
    reload(&mut host, Some(3));
    let third = host.connect(0, "");
    assert_eq!(first(&mut host, third), CONNECTED);
    // 0 is none, also where other keys have one.
    let mut limits = ShardConfig::default().limits();
    limits.admission.connections_per_key_max = 1;
    host.shards.iter_mut().for_each(|shard| shard.set_limits(&limits));
    reload(&mut host, Some(0));
    let fourth = host.connect(1, "");
    assert_eq!(first(&mut host, fourth), CONNECTED);
    [before[0], before[1], third, fourth].into_iter().for_each(|client| host.hang_up(client));
    host.settle();
    assert_eq!(counted(&host), (0, 0));
}

#[test]
fn who_resumes_takes_its_own_seat_and_who_finds_none_tries_again() {
    for seed in 0..20 {
        let mut config = ShardConfig::default();
        config.admission.connections_per_key_max = 1;
        let mut host = Host::with_config(2, seed, config);
        let client = host.connect(0, "");
        let connected = host.messages(client).remove(0);
        let key = connected["connectionDetails"]["connectionKey"].as_str().expect("has one");
        // Its transport is not known to be lost.
        let resumed = host.connect(1, &format!("&resume={key}"));
        let message = host.messages(resumed).remove(0);
        assert_eq!(message["connectionId"], connected["connectionId"], "seed={seed}");
        let key = message["connectionDetails"]["connectionKey"].as_str().expect("has one");
        host.hang_up(resumed);
        host.settle();
        let other = host.connect(0, "");
        assert_eq!(first(&mut host, other), CONNECTED, "seed={seed}");
        // There is room for one that resumes beside it, and for no two.
        let beside = host.connect(1, &format!("&resume={key}"));
        let message = host.messages(beside).remove(0);
        assert_eq!(message["connectionId"], connected["connectionId"], "seed={seed}");
        let key = message["connectionDetails"]["connectionKey"].as_str().expect("has one");
        host.hang_up(beside);
        host.settle();
        let fresh = host.connect(1, "");
        assert_eq!(first(&mut host, fresh), (9, Some(40111)), "seed={seed}");
        let beside = host.connect(0, &format!("&resume={key}"));
        assert_eq!(first(&mut host, beside), CONNECTED);
        let unknown = host.connect(0, &format!("&resume={key}"));
        assert_eq!(first(&mut host, unknown), (6, Some(40111)), "seed={seed}");
    }
}

#[test]
fn whoever_does_not_last_until_it_has_its_seat_leaves_none_behind() {
    for seed in 0..50 {
        let mut config = ShardConfig::default();
        config.admission.connections_per_key_max = 100;
        config.admission.connections_per_address_max = 100;
        let mut host = Host::with_config(3, seed, config);
        for n in 0..8 {
            let peer = format!("192.0.2.{}", n % 3).parse().expect("an address");
            let client = host.accept_from(n % 3, Some(peer));
            let events = format!("GET /sse?channels=a&key={KEY} HTTP/1.1\r\nHost: h\r\n\r\n");
            let socket = format!(
                "GET /?key={KEY} HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                 Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            );
            host.write(client, if n % 2 == 0 { &events } else { &socket }.as_bytes());
            for _ in 0..host.below(12) {
                host.step();
            }
            host.hang_up(client);
        }
        host.settle();
        host.pass(LINGER);
        host.settle();
        assert_eq!(counted(&host), (0, 0), "seed={seed}");
    }
}

#[test]
fn behind_a_proxy_that_is_trusted_clients_are_counted_by_what_it_says() {
    let mut config = ShardConfig::default();
    config.admission.connections_per_address_max = 1;
    config.admission.trusted_proxies.add("10.0.0.0/8").expect("a network");
    let mut host = Host::with_config(2, 3, config);
    let mut connect = |peer: &str, forwarded_for: &str| {
        let headers = format!("X-Forwarded-For: {forwarded_for}\r\n");
        let client = connect_from(&mut host, 0, peer, &headers, "");
        first(&mut host, client)
    };
    assert_eq!(connect("10.0.0.1", "192.0.2.1"), CONNECTED);
    assert_eq!(connect("10.0.0.2", "192.0.2.1"), (9, Some(40150)));
    assert_eq!(connect("10.0.0.1", "192.0.2.1, 192.0.2.2"), CONNECTED);
    assert_eq!(connect("10.0.0.1", "198.51.100.1, 192.0.2.2, 10.0.0.7"), (9, Some(40150)));
    // What is said by others is not believed.
    assert_eq!(connect("203.0.113.5", "192.0.2.77"), CONNECTED);
    assert_eq!(connect("203.0.113.5", "192.0.2.78"), (9, Some(40150)));
    // Who says nothing that can be understood is not counted.
    assert_eq!(connect("10.0.0.1", "unknown"), CONNECTED);
    assert_eq!(connect("10.0.0.1", "unknown"), CONNECTED);
}

#[test]
fn streams_of_events_take_seats_as_well() {
    let mut config = ShardConfig::default();
    config.admission.connections_per_key_max = 2;
    let mut host = Host::with_config(2, 9, config);
    let socket = host.connect(0, "");
    assert_eq!(first(&mut host, socket), CONNECTED);
    let listen = |host: &mut Host| {
        let request = format!("GET /sse?channels=a&key={KEY} HTTP/1.1\r\nHost: h\r\n\r\n");
        let client = host.request(1, &request);
        host.settle();
        (client, String::from_utf8_lossy(&host.clients[client].received).into_owned())
    };
    let (stream, answer) = listen(&mut host);
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let (_, answer) = listen(&mut host);
    assert!(answer.starts_with("HTTP/1.1 403 ") && answer.contains("40111"), "{answer}");
    assert!(answer.contains("X-Ably-Errorcode: 40111"), "{answer}");
    host.hang_up(stream);
    host.settle();
    assert!(listen(&mut host).1.starts_with("HTTP/1.1 200 "));
}

#[test]
fn sockets_that_ask_for_nothing_are_bounded_on_each_shard() {
    let mut config = ShardConfig::default();
    config.admission.connections_per_address_max = 4;
    let mut host = Host::with_config(1, 4, config);
    let peer = Some("2001:db8::1".parse().expect("an address"));
    let sockets: Vec<usize> = (0..25).map(|_| host.accept_from(0, peer)).collect();
    host.settle();
    let closed = sockets.iter().filter(|&&client| host.clients[client].is_closed).count();
    assert_eq!(closed, 5);
    assert_eq!(host.shards[0].counters().refused.sockets, 5);
    let neighbour = host.accept_from(0, Some("2001:db8:0:1::1".parse().expect("an address")));
    host.settle();
    assert!(!host.clients[neighbour].is_closed);
    // Who has a seat is none of them.
    host.pass(Duration::from_secs(20));
    host.settle();
    assert_eq!(counted(&host), (0, 0));
}

#[test]
fn bounds_of_a_connection_change_while_it_goes_on() {
    let mut host = Host::new(1, 5);
    let client = host.connect(0, "");
    host.attach(client, "one");
    let mut limits = ShardConfig::default().limits();
    (limits.channels_max, limits.messages_per_second_max) = (1, 1);
    host.shards[0].set_limits(&limits);
    host.pass(Duration::from_secs(1));
    host.settle();
    host.messages(client);
    host.send(client, &json!({"action": 10, "channel": "two"}));
    host.publish(client, 0, "one", "first");
    host.publish(client, 1, "one", "second");
    host.settle();
    let codes: Vec<_> = told(&mut host, client).into_iter().filter_map(|told| told.2).collect();
    assert_eq!(codes, [90010, 42911]);
}

#[test]
fn beyond_as_many_channels_as_may_be_open_no_other_is_opened() {
    let mut host = host(|config| {
        config.channels_max = 3;
        config.history.retention = Duration::from_secs(5);
        config.connection.state_ttl = Duration::from_secs(5);
    });
    let client = host.connect(0, "");
    let at_home = |shard: usize, from: usize| {
        let names = (from..).map(|number| format!("room-{number}"));
        names.filter(move |name| ChannelKey::new("app", name).home(2) == shard)
    };
    let names: Vec<String> = at_home(1, 0).take(5).collect();
    host.settle();
    host.messages(client);
    for (number, name) in names.iter().enumerate() {
        host.publish(client, number as u64, name, "x");
    }
    host.settle();
    let accepted = |number| (1, Some(number), None);
    let refused = |number| (2, Some(number), Some(90021));
    let expected = [accepted(0), accepted(1), accepted(2), refused(3), refused(4)];
    assert_eq!(told(&mut host, client), expected);
    // Those that are open go on, other shards have room of their own, and the room is given back.
    host.publish(client, 5, &names[0], "y");
    host.settle();
    host.publish(client, 6, &at_home(0, 0).next().expect("there are such"), "y");
    host.settle();
    assert_eq!(told(&mut host, client), [accepted(5), accepted(6)]);
    let attach = |host: &mut Host, name: &str| {
        host.send(client, &json!({"action": 10, "channel": name}));
        host.settle();
        told(host, client).last().map(|(action, _, code)| (*action, *code))
    };
    assert_eq!(attach(&mut host, &names[3]), Some((9, Some(90021))));
    assert_eq!(attach(&mut host, &names[2]), Some((11, None)));
    for _ in 0..10 {
        host.pass(Duration::from_secs(1));
        host.settle();
    }
    host.messages(client);
    assert_eq!(attach(&mut host, &names[3]), Some((11, None)));
}
