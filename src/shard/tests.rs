//! Shards on the simulator's host: what a test does is written out, and everything else that can happen
//! in any order is ordered by a seed.

mod presence;
mod session;

use std::collections::HashMap;

use serde_json::{Value, json};

mod views;

use super::*;
use crate::ably::{
    ApiKey, AppSpec, Capability, ChannelName, ChannelParams, Format, KeySpec, Modes, Namespace,
    Rules, Since,
};
use crate::channel::view::View;
use crate::connection::Connection;
use crate::sim::{Host, frame};
use crate::ws::{self, CloseCode};

mod apps;
mod auth;
mod drain;
mod durable;
mod events;
mod gate;
mod hooks;
mod lifecycle;
mod limits;
mod mutable;
mod reload;

const KEY: &str = "app.key:secret";

impl Host {
    fn new(shards: usize, seed: u64) -> Host {
        Host::with_config(shards, seed, ShardConfig::default())
    }

    fn with_config(shards: usize, seed: u64, config: ShardConfig) -> Host {
        let mutable =
            Namespace { id: "mutable".into(), mutable_messages: true, ..Namespace::default() };
        Host::with_namespaces(shards, seed, config, vec![mutable])
    }

    fn with_namespaces(
        shards: usize,
        seed: u64,
        config: ShardConfig,
        namespaces: Vec<Namespace>,
    ) -> Host {
        let api_key: ApiKey = KEY.parse().expect("well-formed");
        let key = KeySpec::new(api_key, &Capability::all().to_string(), false).expect("valid");
        let app = AppSpec { id: "app".into(), keys: vec![key], namespaces, ..AppSpec::default() };
        Host::with_directory(shards, seed, config, Directory::new([app]))
    }

    /// Has all shards take these rules.
    fn set_rules(&mut self, rules: Rules) {
        self.shards[0].replace_rules(3, rules);
        self.settle();
        assert_eq!(self.shards[0].take_installed(), [3], "all shards have confirmed");
    }

    /// Connects a client to `shard` and returns its number; its first frame is CONNECTED.
    fn connect(&mut self, shard: usize, query: &str) -> usize {
        let client = self.request(
            shard,
            &format!(
                "GET /?key={KEY}&v=6{query} HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\n\
                 Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                 Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            ),
        );
        self.settle();
        let received = &mut self.clients[client].received;
        let end = received.windows(4).position(|four| four == b"\r\n\r\n").expect("upgraded") + 4;
        received.drain(..end);
        client
    }

    fn send(&mut self, client: usize, message: &Value) {
        let sent = frame::masked(frame::TEXT, message.to_string().as_bytes());
        self.write(client, &sent);
    }

    /// Steps long enough for everything that was begun to end.
    fn settle(&mut self) {
        for _ in 0..200 * self.shards.len() * (self.clients.len() + 1) {
            self.step();
        }
    }

    /// The same for a host of which little is expected.
    fn settle_quickly(&mut self) {
        for _ in 0..20 * self.shards.len() {
            self.step();
        }
    }

    /// The protocol messages that a client has received, and forgets; part of one stays.
    fn messages(&mut self, client: usize) -> Vec<Value> {
        let received = std::mem::take(&mut self.clients[client].received);
        let mut rest = &received[..];
        let mut messages = Vec::new();
        while let Some((opcode, payload, tail)) = frame::split(rest) {
            match opcode {
                frame::TEXT => messages.push(serde_json::from_slice(payload).expect("whole JSON")),
                frame::PING => self.clients[client].pings += 1,
                _ => {}
            }
            rest = tail;
        }
        self.clients[client].received = rest.to_vec();
        messages
    }

    /// Sends the pongs that a client owes, as any WebSocket library does, and returns their number.
    fn answer_pings(&mut self, client: usize) -> usize {
        let pings = std::mem::take(&mut self.clients[client].pings);
        for _ in 0..pings {
            self.write(client, &frame::masked(frame::PONG, b""));
        }
        pings
    }

    fn attach(&mut self, client: usize, channel: &str) -> Value {
        self.send(client, &json!({"action": 10, "channel": channel}));
        self.settle();
        let messages = self.messages(client);
        let answer = messages.into_iter().find(|message| message["action"] == 11);
        let answer = answer.expect("answered");
        assert_eq!(answer["channel"], channel);
        answer
    }

    fn publish(&mut self, client: usize, msg_serial: u64, channel: &str, data: &str) {
        let messages = json!([{ "data": data }]);
        self.send(
            client,
            &json!({"action": 15, "msgSerial": msg_serial, "channel": channel, "messages": messages}),
        );
    }

    /// The data of the messages of `channel` that a client has received.
    fn data(&mut self, client: usize, channel: &str) -> Vec<String> {
        let messages = self.messages(client);
        let of_channel = messages
            .iter()
            .filter(|message| message["action"] == 15 && message["channel"] == channel);
        of_channel.map(|message| message["messages"][0]["data"].as_str().unwrap().into()).collect()
    }
}

#[test]
fn every_subscriber_on_every_shard_gets_every_message_once_and_in_order() {
    for seed in 1..=20 {
        let mut host = Host::new(3, seed);
        let publishers: Vec<usize> = (0..3).map(|shard| host.connect(shard, "")).collect();
        let subscribers: Vec<usize> = (0..9).map(|client| host.connect(client % 3, "")).collect();
        for &client in &subscribers {
            host.attach(client, "room");
            host.attach(client, "other");
        }
        let mut sent: HashMap<usize, Vec<String>> = HashMap::new();
        for msg_serial in 0..20 {
            for &client in &publishers {
                let data = format!("{client}/{msg_serial}");
                let channel = ["room", "other"][msg_serial as usize % 2];
                host.publish(client, msg_serial, channel, &data);
                if channel == "room" {
                    sent.entry(client).or_default().push(data);
                }
                for _ in 0..host.below(30) {
                    host.step();
                }
            }
        }
        host.settle();
        let order = host.data(subscribers[0], "room");
        for &client in &subscribers[1..] {
            assert_eq!(host.data(client, "room"), order, "seed={seed}");
        }
        for (client, sent) in sent {
            let prefix = format!("{client}/");
            let of_client = order.iter().filter(|data| data.starts_with(&prefix));
            assert!(of_client.eq(&sent), "seed={seed}");
        }
        for &client in &publishers {
            let acks = host.messages(client);
            let acked: u64 = acks
                .iter()
                .filter(|ack| ack["action"] == 1)
                .map(|ack| ack["count"].as_u64().unwrap())
                .sum();
            assert_eq!(acked, 20, "seed={seed}");
        }
    }
}

#[test]
fn acks_come_in_the_order_of_msg_serial_although_homes_answer_in_any() {
    for seed in 1..=20 {
        let mut host = Host::new(4, seed);
        let client = host.connect(0, "");
        host.messages(client);
        for msg_serial in 0..30 {
            host.publish(client, msg_serial, &format!("channel-{}", msg_serial % 7), "x");
        }
        host.settle();
        let mut next = 0;
        for ack in host.messages(client) {
            assert_eq!((&ack["action"], ack["msgSerial"].as_u64()), (&json!(1), Some(next)));
            let count = ack["count"].as_u64().unwrap();
            assert_eq!(ack["res"].as_array().unwrap().len() as u64, count);
            next += count;
        }
        assert_eq!(next, 30, "seed={seed}");
    }
}

#[test]
fn a_stalled_subscriber_is_cut_and_the_others_miss_nothing() {
    let config = ShardConfig { lag_bytes_max: 4096, ..ShardConfig::default() };
    let mut host = Host::with_config(2, 7, config);
    let publisher = host.connect(0, "");
    let clients: Vec<usize> = (0..4).map(|client| host.connect(client % 2, "")).collect();
    for &client in &clients {
        host.attach(client, "room");
    }
    host.stalled.push(clients[1]);
    for msg_serial in 0..100 {
        host.publish(publisher, msg_serial, "room", &format!("{msg_serial:0100}"));
        for _ in 0..40 {
            host.step();
        }
    }
    host.settle();
    for &client in [&clients[0], &clients[2], &clients[3]] {
        assert_eq!(host.data(client, "room").len(), 100);
    }
    let slow: u64 = host.shards.iter().map(|shard| shard.counters().slow_consumers).sum();
    assert_eq!(slow, 1);
    host.pass(LINGER + CHECK_MAX);
    host.settle();
    assert!(host.clients[clients[1]].is_closed);
}

#[test]
fn a_slow_consumer_that_reads_again_learns_why_it_was_cut() {
    let config = ShardConfig { lag_bytes_max: 1024, ..ShardConfig::default() };
    let mut host = Host::with_config(1, 3, config);
    let client = host.connect(0, "");
    host.attach(client, "room");
    host.stalled.push(client);
    let publisher = host.connect(0, "");
    for msg_serial in 0..20 {
        host.publish(publisher, msg_serial, "room", &format!("{msg_serial:0100}"));
        host.settle();
    }
    host.stalled.clear();
    host.settle();
    let last = host.messages(client).pop().expect("told");
    assert_eq!((&last["action"], &last["error"]["code"]), (&json!(6), &json!(80020)));
}

#[test]
fn with_echo_off_a_client_hears_everybody_but_itself() {
    let mut host = Host::new(2, 5);
    let clients =
        [host.connect(0, "&echo=false"), host.connect(1, "&echo=false"), host.connect(0, "")];
    for client in clients {
        host.attach(client, "room");
    }
    for msg_serial in 0..10 {
        for client in clients {
            host.publish(client, msg_serial, "room", &client.to_string());
        }
    }
    host.settle();
    for (at, expected) in [(0, 20), (1, 20), (2, 30)] {
        let data = host.data(clients[at], "room");
        assert_eq!(data.len(), expected);
        assert_eq!(data.contains(&clients[at].to_string()), at == 2);
    }
}

#[test]
fn a_detached_client_hears_nothing_more_and_may_attach_again() {
    let mut host = Host::new(2, 11);
    let (client, publisher) = (host.connect(0, ""), host.connect(1, ""));
    host.attach(client, "room");
    host.publish(publisher, 0, "room", "first");
    host.settle();
    assert_eq!(host.data(client, "room"), ["first"]);
    host.send(client, &json!({"action": 12, "channel": "room"}));
    host.settle();
    assert_eq!(host.messages(client)[0]["action"], 13);
    host.publish(publisher, 1, "room", "unheard");
    host.settle();
    assert!(host.data(client, "room").is_empty());
    host.attach(client, "room");
    host.publish(publisher, 2, "room", "second");
    host.settle();
    assert_eq!(host.data(client, "room"), ["second"]);
}

#[test]
fn silence_is_broken_by_heartbeats_and_a_silent_client_is_given_up() {
    let mut host = Host::new(1, 2);
    let client = host.connect(0, "&heartbeats=true");
    host.messages(client);
    let mut heartbeats = 0;
    for _ in 0..8 {
        host.pass(Duration::from_secs(5));
        host.settle();
        heartbeats += host.messages(client).iter().filter(|message| message["action"] == 0).count();
    }
    assert!((2..=4).contains(&heartbeats), "{heartbeats} in 40 s");
    assert!(!host.clients[client].is_closed);
    for _ in 0..4 {
        host.pass(Duration::from_secs(5));
        host.settle();
    }
    assert!(host.clients[client].is_closed);
}

#[test]
fn a_client_that_closes_is_let_go_once_both_have_sent_their_close_frame() {
    let mut host = Host::new(1, 17);
    let (early, late, never) = (host.connect(0, ""), host.connect(0, ""), host.connect(0, ""));
    let close_frame = [0x88, 0x82, 1, 2, 3, 4, 0x03 ^ 1, 0xe8 ^ 2];
    for client in [early, late, never] {
        host.messages(client);
        host.send(client, &json!({"action": 7}));
    }
    // It may follow at once, or once the server's own close frame has arrived.
    host.write(early, &close_frame);
    host.settle();
    for client in [early, late, never] {
        assert!(host.clients[client].received.ends_with(&ws::close_frame(CloseCode::Normal, "")));
        assert_eq!(host.messages(client).pop().expect("told")["action"], 8);
        assert_eq!(host.clients[client].is_closed, client == early);
    }
    host.write(late, &close_frame);
    host.settle();
    assert!(host.clients[late].is_closed);
    assert!(!host.clients[never].is_closed);
    host.pass(LINGER);
    host.settle();
    assert!(host.clients[never].is_closed);
}

#[test]
fn a_client_that_only_listens_to_a_busy_channel_is_pinged_and_kept() {
    let mut host = Host::new(1, 4);
    let (listener, publisher) = (host.connect(0, ""), host.connect(0, ""));
    host.attach(listener, "room");
    let mut pongs = 0;
    for second in 0..120 {
        host.publish(publisher, second, "room", "tick");
        host.pass(Duration::from_secs(1));
        host.settle();
        assert_eq!(host.data(listener, "room"), ["tick"], "second {second}");
        pongs += host.answer_pings(listener);
    }
    assert!(!host.clients[listener].is_closed);
    // One for each idle interval, which the wheel looks at every five seconds.
    assert!((5..=8).contains(&pongs), "{pongs} in 120 s");
}

#[test]
fn a_listener_that_answers_no_ping_is_given_up_although_its_channel_is_busy() {
    let mut host = Host::new(1, 6);
    let (listener, publisher) = (host.connect(0, ""), host.connect(0, ""));
    host.attach(listener, "room");
    for second in 0..60 {
        host.publish(publisher, second, "room", "tick");
        host.pass(Duration::from_secs(1));
        host.settle();
    }
    assert!(host.clients[listener].is_closed);
    assert!(!host.clients[publisher].is_closed);
}

#[test]
fn who_comes_first_after_a_pause_of_the_machine_is_looked_at_too() {
    let mut host = Host::new(1, 7);
    let before = host.connect(0, "");
    // Longer than a turn of the wheel, which lags when the first bytes are read.
    host.pass(Duration::from_secs(60));
    let now = host.now;
    host.shards[0].begin_turn(now);
    let first = host.connect(0, "");
    for _ in 0..60 {
        host.pass(Duration::from_secs(1));
        host.settle();
    }
    for client in [before, first] {
        assert!(host.clients[client].is_closed, "silent for a minute");
    }
}

#[test]
fn channels_that_come_and_go_do_not_pile_up() {
    let mut host = Host::new(1, 8);
    for number in 0..100_000 {
        let key = ChannelKey::new("app", &format!("short-{number}"));
        host.shards[0].homes.open(host.now, key);
    }
    host.shards[0].settle();
    host.pass(Duration::from_secs(1));
    // A turn forgets some of them, and the next one follows at once.
    for _ in 0..98 {
        assert!(host.shards[0].next_timeout().is_some_and(|next_ms| next_ms <= host.now.mono_ms));
        host.shards[0].begin_turn(host.now);
        host.shards[0].handle_timeout();
    }
    assert_eq!(host.shards[0].gauges().channels, 0);
}

#[test]
fn a_transport_is_small_while_it_idles() {
    // Beside the transport: a boxed connection, its boxed attachment and a cursor.
    let bytes = size_of::<Transport>() + size_of::<Connection>() + 12 + 16;
    assert!(bytes <= 264, "{bytes} bytes");
    // The next larger piece that the allocator hands out has 160.
    assert!(size_of::<Connection>() <= 128);
}

/// An ATTACH with more than a name; returns the ATTACHED, and the data that came with it.
fn attach_with(host: &mut Host, client: usize, attach: Value) -> (Value, Vec<String>) {
    host.send(client, &attach);
    host.settle();
    let messages = host.messages(client);
    let attached = messages.iter().find(|message| message["action"] == 11).expect("answered");
    let data = messages.iter().filter(|message| message["action"] == 15);
    let data = data.map(|message| message["messages"][0]["data"].as_str().unwrap().to_owned());
    (attached.clone(), data.collect())
}

#[test]
fn who_comes_back_with_a_serial_gets_what_it_missed_once_and_in_order() {
    for seed in 1..=30 {
        let mut host = Host::new(3, seed);
        let publisher = host.connect(0, "");
        let client = host.connect(1, "");
        let since = host.attach(client, "room")["channelSerial"].clone();
        for msg_serial in 0..10 {
            host.publish(publisher, msg_serial, "room", &msg_serial.to_string());
        }
        host.settle();
        let again = host.connect(2, "");
        host.messages(again);
        let attach = json!({"action": 10, "channel": "room", "channelSerial": since});
        host.send(again, &attach);
        for msg_serial in 10..20 {
            host.publish(publisher, msg_serial, "room", &msg_serial.to_string());
            host.step();
        }
        host.settle();
        let messages = host.messages(again);
        let flags = messages[0]["flags"].as_u64().unwrap();
        assert_eq!(flags & 6, 6, "RESUMED and HAS_BACKLOG: {}", messages[0]);
        assert_eq!(messages[0]["channelSerial"], since);
        let data = messages[1..].iter().map(|message| &message["messages"][0]["data"]);
        let expected: Vec<Value> = (0..20).map(|data| json!(data.to_string())).collect();
        assert!(data.eq(&expected), "seed={seed}");
    }
}

#[test]
fn a_gap_that_cannot_be_filled_is_announced_and_not_half_filled() {
    let config = ShardConfig { replay_bytes_max: 2000, ..ShardConfig::default() };
    let mut host = Host::with_config(2, 9, config);
    let (publisher, client) = (host.connect(0, ""), host.connect(1, ""));
    let since = host.attach(client, "room")["channelSerial"].clone();
    for msg_serial in 0..30 {
        host.publish(publisher, msg_serial, "room", &format!("{msg_serial:0100}"));
    }
    host.settle();
    for (serial, code) in [
        (since, 90004),
        (json!("01700000000123-001@series0000"), 90005),
        (json!("no serial"), 90005),
    ] {
        let again = host.connect(1, "");
        let attach = json!({"action": 10, "channel": "room", "channelSerial": serial});
        let (attached, data) = attach_with(&mut host, again, attach);
        assert_eq!(attached["error"]["code"], code);
        assert_eq!(attached["flags"].as_u64().unwrap() & 6, 0);
        assert!(data.is_empty());
    }
    host.pass(Duration::from_secs(125));
    host.settle();
    let (again, publisher) = (host.connect(1, ""), host.connect(0, ""));
    let old = host.attach(again, "room")["channelSerial"].clone();
    host.publish(publisher, 0, "room", "x");
    host.settle();
    host.pass(Duration::from_secs(125));
    host.settle();
    let late = host.connect(0, "");
    let attach = json!({"action": 10, "channel": "room", "channelSerial": old});
    let (attached, _) = attach_with(&mut host, late, attach);
    assert_eq!(attached["error"]["code"], 90003);
}

#[test]
fn other_modes_change_the_view_without_a_gap_or_a_duplicate() {
    const PUBLISH: u64 = 1 << 17;
    const SUBSCRIBE: u64 = 1 << 18;
    const ANNOTATIONS: u64 = 1 << 22;
    for seed in 1..=40 {
        let mut host = Host::new(2, seed);
        let (publisher, client) = (host.connect(0, ""), host.connect(1, ""));
        host.attach(client, "room");
        let mut modes = [SUBSCRIBE, SUBSCRIBE | ANNOTATIONS, SUBSCRIBE | PUBLISH].iter().cycle();
        for msg_serial in 0..60 {
            host.publish(publisher, msg_serial, "room", &msg_serial.to_string());
            if msg_serial % 5 == 0 {
                let flags = modes.next().unwrap();
                host.send(client, &json!({"action": 10, "channel": "room", "flags": flags}));
            }
            for _ in 0..host.below(6) {
                host.step();
            }
        }
        host.settle();
        let messages = host.messages(client);
        let attached: Vec<_> = messages.iter().filter(|message| message["action"] == 11).collect();
        assert_eq!(attached.len(), 12, "seed={seed}");
        assert!(attached.iter().all(|attached| attached["flags"].as_u64().unwrap() & 4 != 0));
        let data = messages.iter().filter(|message| message["action"] == 15);
        let data = data.map(|message| message["messages"][0]["data"].as_str().unwrap());
        let expected: Vec<String> = (0..60).map(|data| data.to_string()).collect();
        assert!(data.eq(&expected), "seed={seed}");
    }
}

#[test]
fn attached_names_no_serial_that_its_client_was_not_sent() {
    // The same again, and another view.
    for flags in [0, 1 << 18] {
        let mut host = Host::new(2, 6);
        let (publisher, client) = (host.connect(0, ""), host.connect(1, ""));
        host.attach(client, "room");
        host.stalled.push(client);
        for msg_serial in 0..4 {
            host.publish(publisher, msg_serial, "room", "x");
            host.settle();
        }
        host.send(client, &json!({"action": 10, "channel": "room", "flags": flags}));
        host.settle();
        host.stalled.clear();
        host.settle();
        let messages = host.messages(client);
        let actions: Vec<u64> = messages.iter().filter_map(|it| it["action"].as_u64()).collect();
        assert_eq!(actions, [15, 15, 15, 15, 11]);
        assert_eq!(messages[3]["channelSerial"], messages[4]["channelSerial"]);
    }
}

#[test]
fn a_rewind_replays_the_last_messages_and_then_goes_on() {
    for seed in 1..=10 {
        let mut host = Host::new(2, seed);
        let publisher = host.connect(0, "");
        for msg_serial in 0..10 {
            host.publish(publisher, msg_serial, "room", &msg_serial.to_string());
        }
        host.settle();
        for (rewind, first, code) in
            [("3", 7, Value::Null), ("1m", 0, Value::Null), ("0", 10, Value::Null)]
        {
            let client = host.connect(1, "");
            let attach = json!({"action": 10, "channel": "room", "params": {"rewind": rewind}});
            let (attached, data) = attach_with(&mut host, client, attach);
            assert_eq!(attached["params"]["rewind"], rewind);
            assert_eq!(attached["error"]["code"], code);
            assert_eq!(attached["flags"].as_u64().unwrap() & 2 != 0, first < 10);
            let expected: Vec<String> = (first..10).map(|data| data.to_string()).collect();
            assert_eq!(data, expected, "seed={seed} rewind={rewind}");
        }
        let client = host.connect(1, "");
        let params = json!({"rewind": "1m", "rewindLimit": 4});
        let attach = json!({"action": 10, "channel": "room", "params": params});
        let (attached, data) = attach_with(&mut host, client, attach);
        assert_eq!((attached["error"]["code"].as_u64(), data.len()), (Some(90004), 4));
        host.publish(publisher, 10, "room", "live");
        host.settle();
        assert_eq!(host.data(client, "room"), ["live"]);
        let wrong = json!({"action": 10, "channel": "room", "params": {"rewind": "soon"}});
        let other = host.connect(0, "");
        host.messages(other);
        host.send(other, &wrong);
        host.settle();
        let error = host.messages(other).pop().expect("answered");
        assert_eq!((&error["action"], &error["error"]["code"]), (&json!(9), &json!(40000)));
    }
}

#[test]
fn a_message_is_published_once_whether_alone_or_in_an_array() {
    let mut host = Host::new(2, 21);
    let (client, subscriber) = (host.connect(0, ""), host.connect(1, ""));
    host.messages(client);
    host.attach(subscriber, "room");
    let mut serials: HashMap<&str, Value> = HashMap::new();
    let mut heard = Vec::new();
    for (msg_serial, ids) in [
        &["a:0", "a:1", "a:2"][..],
        &["a:1"],
        &["a:0"],
        &["a:3"],
        // Not what an array would call it.
        &["a:01"],
        &["b:1"],
        &["b:0", "b:1", "b:2"],
        &["b:2"],
        &["b:0", "b:1"],
        &["c:0"],
        &["c:0", "c:1"],
        &["c:0", "c:1", "c:2"],
        &["plain"],
        &["plain"],
    ]
    .into_iter()
    .enumerate()
    {
        let messages: Vec<Value> = ids.iter().map(|id| json!({"id": id, "data": id})).collect();
        let publish =
            json!({"action": 15, "msgSerial": msg_serial, "channel": "room", "messages": messages});
        host.send(client, &publish);
        host.settle();
        let ack = host.messages(client).pop().expect("answered");
        assert_eq!(ack["action"], 1, "{ids:?}");
        // Everything has the serial with which it was delivered.
        for message in host.messages(subscriber) {
            for message in message["messages"].as_array().expect("some") {
                heard.push(message["id"].as_str().expect("an id").to_owned());
                let id = ids.iter().find(|id| message["id"] == **id).expect("of this publish");
                assert!(serials.insert(id, message["serial"].clone()).is_none());
            }
        }
        let told: Vec<&Value> = ids.iter().map(|id| &serials[id]).collect();
        assert_eq!(ack["res"][0]["serials"], json!(told), "{ids:?}");
    }
    let expected =
        ["a:0", "a:1", "a:2", "a:3", "a:01", "b:1", "b:0", "b:2", "c:0", "c:1", "c:2", "plain"];
    assert_eq!(heard, expected);
}

impl Host {
    /// The client's socket is gone, without a word.
    fn drop_transport(&mut self, client: usize) {
        let (shard, index) = (self.clients[client].shard, self.clients[client].index);
        self.shards[shard].handle_receive_end(index);
    }

    /// Connects with `resume`, and returns the client with what it was told first.
    fn resume(&mut self, shard: usize, key: &Value) -> (usize, Value) {
        let client = self.connect(shard, &format!("&resume={}", key.as_str().expect("a key")));
        let connected = self.messages(client).remove(0);
        assert_eq!(connected["action"], 4);
        (client, connected)
    }
}

#[test]
fn a_connection_is_resumed_on_any_shard_and_under_a_new_key_each_time() {
    let mut host = Host::new(3, 4);
    let client = host.connect(0, "");
    let first = host.messages(client).remove(0);
    host.drop_transport(client);
    host.settle();
    let mut key = first["connectionDetails"]["connectionKey"].clone();
    for shard in [0, 2, 1, 1] {
        let (client, connected) = host.resume(shard, &key);
        assert_eq!(connected["connectionId"], first["connectionId"]);
        assert!(connected.get("error").is_none());
        assert_ne!(connected["connectionDetails"]["connectionKey"], key);
        // Once used, a key is worth nothing.
        let (_, refused) = host.resume(shard, &key);
        assert_eq!(refused["error"]["code"], 80018);
        assert_ne!(refused["connectionId"], first["connectionId"]);
        key = connected["connectionDetails"]["connectionKey"].clone();
        host.drop_transport(client);
    }
    host.pass(Duration::from_secs(121));
    host.settle();
    let (_, expired) = host.resume(0, &key);
    assert_eq!(expired["error"]["code"], 80018);
}

#[test]
fn the_newer_transport_wins_and_a_closed_connection_cannot_be_resumed() {
    let mut host = Host::new(2, 8);
    let old = host.connect(0, "");
    let first = host.messages(old).remove(0);
    let (new, connected) = host.resume(1, &first["connectionDetails"]["connectionKey"]);
    assert_eq!(connected["connectionId"], first["connectionId"]);
    host.pass(LINGER);
    host.settle();
    assert!(host.clients[old].is_closed && !host.clients[new].is_closed);
    host.send(new, &json!({"action": 7}));
    host.settle();
    assert_eq!(host.messages(new).pop().expect("answered")["action"], 8);
    let (_, refused) = host.resume(0, &connected["connectionDetails"]["connectionKey"]);
    assert_eq!(refused["error"]["code"], 80018);
    let (_, refused) = host.resume(0, &json!("_____!ablyjs_test_fake-key____"));
    assert_eq!(refused["error"]["code"], 80018);
}

#[test]
fn what_was_published_before_a_loss_and_sent_again_after_it_is_published_once() {
    for seed in 1..=40 {
        let mut host = Host::new(3, seed);
        let subscriber = host.connect(2, "");
        host.attach(subscriber, "room");
        let mut client = host.connect(0, "");
        let connected = host.messages(client).remove(0);
        let mut key = connected["connectionDetails"]["connectionKey"].clone();
        let mut acked = 0;
        for msg_serial in 0..30 {
            host.publish(client, msg_serial, "room", &msg_serial.to_string());
            for _ in 0..host.below(12) {
                host.step();
            }
            if msg_serial % 7 != 3 {
                continue;
            }
            host.drop_transport(client);
            let shard = host.below(3);
            let (again, connected) = host.resume(shard, &key);
            assert!(connected.get("error").is_none(), "seed={seed} {connected}");
            key = connected["connectionDetails"]["connectionKey"].clone();
            client = again;
            // It has read no ACK of the lost transport, so it sends all of that again.
            for msg_serial in acked..=msg_serial {
                host.publish(client, msg_serial, "room", &msg_serial.to_string());
            }
            host.settle();
            let mut told = Vec::new();
            for ack in host.messages(client) {
                assert_eq!(ack["action"], 1, "seed={seed} {ack}");
                let first = ack["msgSerial"].as_u64().expect("always there");
                told.extend(first..first + ack["count"].as_u64().expect("always there"));
            }
            assert!(told.iter().copied().eq(acked..=msg_serial), "seed={seed} {told:?}");
            acked = msg_serial + 1;
        }
        host.settle();
        let expected: Vec<String> = (0..30).map(|data| data.to_string()).collect();
        assert_eq!(host.data(subscriber, "room"), expected, "seed={seed}");
    }
}

#[test]
fn those_who_missed_the_same_are_sent_one_encoding_of_it() {
    let mut host = Host::new(2, 12);
    let publisher = host.connect(0, "");
    let names = (0..).map(|number| format!("room-{number}"));
    let is_at_home = |name: &String| ChannelKey::new("app", name).home(2) == 0;
    let name = names.into_iter().find(is_at_home).expect("names go on for ever");
    let since = host.attach(publisher, &name)["channelSerial"].as_str().unwrap().to_owned();
    let joining = Joining {
        display_name: name.as_str().into(),
        format: Format::Json,
        view: View::of(
            &ChannelName::parse(&name).expect("legal"),
            Modes::DEFAULT,
            &ChannelParams::default(),
        ),
        since: Since::Serial(since.into()),
        skip: None,
    };
    let replay = |host: &mut Host| {
        let transport = TransportRef { index: 0, generation: 1 };
        let reply_to = ReturnAddress { shard: 1, transport, request: 0 };
        host.shards[0].handle_join(reply_to, ChannelKey::new("app", &name), &joining);
        let Some(Mail::Joined { joined, .. }) = host.shards[0].outboxes[1].pop_front() else {
            panic!("a join is answered")
        };
        assert!(joined.resumed && joined.frames.len() == 1);
        (joined.frames[0].as_ptr(), joined.frames[0].len())
    };
    host.publish(publisher, 0, &name, "one");
    host.settle();
    let first = replay(&mut host);
    assert_eq!(replay(&mut host), first, "shared");
    host.publish(publisher, 1, &name, "two");
    host.settle();
    let second = replay(&mut host);
    assert!(second.1 > first.1, "what is new is not left out");
    host.pass(Duration::from_secs(2));
    host.settle();
    assert_eq!(replay(&mut host).1, second.1);
}

#[test]
fn a_connection_grows_older_over_all_its_transports() {
    let mut host = Host::new(2, 4);
    let first = host.connect(0, "");
    let connected = host.messages(first).remove(0);
    let key = connected["connectionDetails"]["connectionKey"].as_str().expect("has one");
    host.pass(Duration::from_secs(20));
    host.settle();
    let resumed = host.connect(1, &format!("&resume={key}"));
    assert_eq!(host.messages(resumed)[0]["connectionId"], connected["connectionId"]);
    host.connect(1, "");
    host.pass(Duration::from_secs(10));
    host.settle();
    let query = ConnectionsQuery { order: ConnectionOrder::Age, ..ConnectionsQuery::default() };
    let rows = host.shards[1].list_connections(&query).rows;
    let mut ages: Vec<u64> = rows.iter().map(|row| row.rank(query.order)).collect();
    ages.sort_unstable();
    assert_eq!(ages, [10, 30]);
}
