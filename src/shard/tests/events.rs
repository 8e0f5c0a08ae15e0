//! Streams of events over HTTP, beside WebSockets on the same channels.

use super::*;

impl Host {
    /// A listener on `shard`; its head has come.
    fn listen(&mut self, shard: usize, query: &str) -> usize {
        let line = format!("GET /sse?key={KEY}&enveloped=false&{query} HTTP/1.1");
        let client = self.request(shard, &format!("{line}\r\nHost: h\r\n\r\n"));
        self.settle();
        client
    }

    /// What a listener has received without its framing, and forgets; part of a chunk too, since who asks
    /// is about to connect again or has waited for everything.
    fn heard_text(&mut self, client: usize) -> String {
        let received = std::mem::take(&mut self.clients[client].received);
        let text = String::from_utf8(received).expect("UTF-8");
        let mut rest = match text.split_once("\r\n\r\n") {
            Some((head, rest)) if head.starts_with("HTTP/1.1 200 ") => rest,
            _ => &text[..],
        };
        let mut content = String::new();
        while let Some((size, tail)) = rest.split_once("\r\n") {
            let size = usize::from_str_radix(size, 16).expect("a chunk's size");
            let Some((chunk, tail)) = tail.split_at_checked(size) else { break };
            let Some(tail) = tail.strip_prefix("\r\n") else { break };
            content += chunk;
            rest = tail;
        }
        content
    }

    /// The data of the messages that a listener has received, and the last id.
    fn heard_data(&mut self, client: usize) -> (Vec<String>, Option<String>) {
        let content = self.heard_text(client);
        let lines = |field| content.lines().filter_map(move |line| line.strip_prefix(field));
        (lines("data: ").map(str::to_owned).collect(), lines("id: ").next_back().map(str::to_owned))
    }
}

#[test]
fn listeners_and_websockets_on_every_shard_see_one_order() {
    for seed in 1..=10 {
        let mut host = Host::new(3, seed);
        let publishers: Vec<usize> = (0..3).map(|shard| host.connect(shard, "")).collect();
        let subscriber = host.connect(0, "");
        host.attach(subscriber, "room");
        let listeners: Vec<usize> =
            (0..6).map(|client| host.listen(client % 3, "channels=room")).collect();
        for msg_serial in 0..15 {
            for &client in &publishers {
                host.publish(client, msg_serial, "room", &format!("{client}/{msg_serial}"));
                for _ in 0..host.below(30) {
                    host.step();
                }
            }
        }
        host.settle();
        let order = host.data(subscriber, "room");
        assert_eq!(order.len(), 45);
        for listener in listeners {
            assert_eq!(host.heard_data(listener).0, order, "seed={seed}");
        }
    }
}

#[test]
fn a_listener_that_comes_after_a_message_hears_all_of_it_when_it_is_appended_to() {
    for seed in 1..=4 {
        let mut host = Host::new(2, seed);
        let publisher = host.connect(0, "");
        host.messages(publisher);
        host.publish(publisher, 0, "mutable:room", "one");
        host.settle();
        let ack = host.messages(publisher).pop().expect("an ACK");
        let serial = &ack["res"][0]["serials"][0];
        let listener = host.listen(1, "channels=mutable:room");
        for (msg_serial, data) in [(1, " two"), (2, " three")] {
            let append = json!({"action": 5, "serial": serial, "data": data});
            host.send(
                publisher,
                &json!({"action": 15, "msgSerial": msg_serial, "channel": "mutable:room", "messages": [append]}),
            );
            host.settle();
        }
        assert_eq!(host.heard_data(listener).0, ["one two", " three"], "seed={seed}");
    }
}

#[test]
fn a_listener_to_many_channels_that_comes_back_misses_nothing() {
    for seed in 1..=20 {
        let mut host = Host::new(3, seed);
        let publisher = host.connect(0, "");
        let names = ["a", "b", "c", "d"];
        let query = "channels=a,b,c,d";
        let (mut listener, mut id) = (host.listen(1, query), None);
        let mut heard = Vec::new();
        for msg_serial in 0..60 {
            let name = names[host.below(names.len())];
            host.publish(publisher, msg_serial, name, &msg_serial.to_string());
            for _ in 0..host.below(60) {
                host.step();
            }
            if host.below(8) == 0 {
                let (data, last) = host.heard_data(listener);
                heard.extend(data);
                id = last.or(id);
                let shard = host.below(3);
                let last = id.as_ref().map(|id| id.replace('%', "%25").replace('&', "%26"));
                let last = last.map(|id| format!("&lastEvent={id}")).unwrap_or_default();
                listener = host.listen(shard, &format!("{query}{last}"));
            }
        }
        host.settle();
        heard.extend(host.heard_data(listener).0);
        let mut numbers: Vec<u64> = heard.iter().map(|data| data.parse().unwrap()).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers, (0..60).collect::<Vec<u64>>(), "seed={seed}");
    }
}

#[test]
fn silence_is_broken_by_comments_or_by_events() {
    let mut host = Host::new(1, 3);
    let plain = host.listen(0, "channels=room");
    let eventful = host.listen(0, "channels=room&heartbeats=true");
    let (mut comments, mut heartbeats) = (0, 0);
    for _ in 0..12 {
        host.pass(Duration::from_secs(5));
        host.settle();
        comments += host.heard_text(plain).matches(":keepalive\n\n").count();
        heartbeats += host.heard_text(eventful).matches("event: heartbeat\n").count();
    }
    assert!((4..=6).contains(&comments), "{comments} in 60 s");
    assert_eq!(heartbeats, comments);
    assert!(!host.clients[plain].is_closed, "a listener may be silent for ever");
}

#[test]
fn a_stalled_listener_is_cut_and_may_go_on_where_it_was() {
    let config = ShardConfig { lag_bytes_max: 4096, ..ShardConfig::default() };
    let mut host = Host::with_config(2, 7, config);
    let publisher = host.connect(0, "");
    let (slow, quick) = (host.listen(1, "channels=room"), host.listen(1, "channels=room"));
    let (_, id) = host.heard_data(slow);
    host.stalled.push(slow);
    for msg_serial in 0..100 {
        host.publish(publisher, msg_serial, "room", &format!("{msg_serial:0100}"));
        for _ in 0..40 {
            host.step();
        }
    }
    host.settle();
    assert_eq!(host.heard_data(quick).0.len(), 100);
    let slow_consumers: u64 = host.shards.iter().map(|s| s.counters().slow_consumers).sum();
    assert_eq!(slow_consumers, 1);
    host.pass(LINGER + CHECK_MAX);
    host.settle();
    assert!(host.clients[slow].is_closed);
    let back = host.listen(0, &format!("channels=room&lastEvent={}", id.expect("at the start")));
    assert_eq!(host.heard_data(back).0.len(), 100);
}

#[test]
fn listeners_hear_who_comes_and_goes_and_may_go_on_behind_that() {
    let mut host = Host::new(2, 5);
    let member = host.connect(0, "&clientId=bob");
    host.attach(member, "room");
    let listener = host.listen(1, "channels=room");
    host.heard_text(listener);
    let enter = json!([{"action": 2, "data": "here"}]);
    host.send(member, &json!({"action": 14, "msgSerial": 0, "channel": "room", "presence": enter}));
    host.settle();
    let (data, id) = host.heard_data(listener);
    assert_eq!(data, ["here"]);
    host.publish(member, 1, "room", "hello");
    host.settle();
    // Members that are there already are no event: who comes back hears of what was published.
    let last = id.expect("presence has its place in the order");
    let back = host.listen(0, &format!("channels=room&lastEvent={last}"));
    assert_eq!(host.heard_data(back).0, ["hello"]);
}
