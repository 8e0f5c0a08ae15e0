//! Channels that outlive the process.

use super::apps::request;
use super::*;
use crate::ably::Ack;
use crate::journal::JournalConfig;
use crate::sim::{Disk, EIO};

/// A host whose channels are kept on `disk`; `start` tells starts apart. Channels called `kept:..` are
/// confirmed when written, `safe:..` when synchronised, `loose:..` at once; messages of `changing:..` can
/// be changed.
fn host_with(
    config: ShardConfig,
    shards: usize,
    seed: u64,
    (disk, start): (Disk, u8),
    unix_ms: u64,
) -> Host {
    let namespace =
        |id: &str, ack| Namespace { id: id.into(), persisted: true, ack, ..Namespace::default() };
    let namespaces = vec![
        namespace("kept", Ack::Written),
        namespace("safe", Ack::Fsynced),
        namespace("loose", Ack::Memory),
        Namespace { mutable_messages: true, ..namespace("changing", Ack::Written) },
    ];
    let seed = seed + 1_000_003 * u64::from(start);
    let mut host = Host::with_namespaces(shards, seed, config, namespaces);
    host.now.unix_ms = unix_ms;
    let journal =
        JournalConfig { segment_bytes: 8192, waiting_bytes_max: 6000, ..JournalConfig::default() };
    host.with_disk(disk, &journal, seed as u32)
}

fn host(shards: usize, seed: u64, disk: Disk, start: u8) -> Host {
    let unix_ms = 1_800_000_000_000 + 10_000 * u64::from(start);
    host_with(ShardConfig::default(), shards, seed, (disk, start), unix_ms)
}

impl Host {
    /// The process is killed; what is left.
    fn into_disk(mut self) -> Disk {
        self.kill();
        self.disk.take().expect("it had one")
    }

    fn acks(&mut self, client: usize) -> usize {
        let messages = self.messages(client);
        messages.iter().filter(|message| message["action"] == 1).count()
    }

    /// The data of a page of history, and of those that follow.
    fn history(&mut self, channel: &str, direction: &str, limit: usize) -> Vec<String> {
        let path = format!("/channels/{channel}/messages");
        let mut query = format!("direction={direction}&limit={limit}");
        let mut data = Vec::new();
        for _ in 0..1000 {
            let line = format!("GET {path}?key={KEY}&{query}");
            let (status, page, link) = request_page(self, &line);
            assert_eq!(status, 200, "{page}");
            let page = page.as_array().expect("a page");
            data.extend(page.iter().map(|item| item["data"].as_str().expect("text").to_owned()));
            match link {
                Some(next) => query = next,
                None => return data,
            }
        }
        panic!("there is no end to it")
    }

    /// Attaches with a serial; the answer, and the data that came behind it.
    fn attach_from(
        &mut self,
        client: usize,
        channel: &str,
        serial: &Value,
    ) -> (Value, Vec<String>) {
        self.send(client, &json!({"action": 10, "channel": channel, "channelSerial": serial}));
        self.settle();
        let mut messages = self.messages(client);
        let at = messages.iter().position(|it| it["action"] == 11).expect("answered");
        let answer = messages.remove(at);
        let data = messages.iter().filter(|it| it["action"] == 15);
        (answer, data.map(|it| it["messages"][0]["data"].as_str().unwrap().into()).collect())
    }
}

/// A page, and the query of the next one.
fn request_page(host: &mut Host, line: &str) -> (u64, Value, Option<String>) {
    let client = apps::send_request(host, 0, line, "", "");
    host.settle();
    let received = std::mem::take(&mut host.clients[client].received);
    let text = String::from_utf8(received).expect("text");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    let next = head.lines().find(|line| line.contains("rel=\"next\""));
    let next = next.and_then(|line| Some(line.split_once('?')?.1.split_once('>')?.0.to_owned()));
    let status = head.split(' ').nth(1).expect("a status").parse().expect("a number");
    (status, serde_json::from_str(body).expect("JSON"), next)
}

fn is_resumed(attached: &Value) -> bool {
    attached["flags"].as_u64().expect("flags") & 4 != 0
}

fn numbers(range: std::ops::RangeInclusive<u64>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

#[test]
fn nobody_hears_of_what_is_not_kept_yet_and_other_channels_go_on() {
    for (channel, waits) in [("kept:a", true), ("safe:a", true), ("loose:a", false), ("b", false)] {
        let mut host = host(2, 5, Disk::default(), 1);
        let (publisher, subscriber) = (host.connect(0, ""), host.connect(1, ""));
        host.attach(subscriber, channel);
        host.attach(subscriber, "other");
        host.messages(publisher);
        host.settle();
        host.is_disk_stalled = true;
        host.publish(publisher, 0, channel, "hello");
        host.settle();
        assert_eq!(host.data(subscriber, channel).is_empty(), waits, "{channel}");
        assert_eq!(host.acks(publisher), usize::from(!waits), "{channel}");
        let late = host.connect(0, "");
        host.messages(late);
        host.send(late, &json!({"action": 10, "channel": channel}));
        host.publish(late, 0, "other", "still");
        host.settle();
        assert_eq!(host.data(subscriber, "other"), ["still"]);
        host.is_disk_stalled = false;
        host.settle();
        assert_eq!(host.acks(publisher), usize::from(waits), "{channel}");
        assert_eq!(host.data(subscriber, channel).len(), usize::from(waits), "{channel}");
        let of_late = host.messages(late);
        assert_eq!(of_late.iter().filter(|it| it["action"] == 11).count(), 1, "{channel}");
    }
}

#[test]
fn after_a_kill_history_is_whole_and_subscribers_go_on_where_they_were() {
    for seed in 1..=6 {
        let shards = 1 + seed as usize % 3;
        let mut first = host(shards, seed, Disk::default(), 1);
        let (publisher, subscriber) = (first.connect(0, ""), first.connect(shards - 1, ""));
        let attached = first.attach(subscriber, "kept:room");
        for number in 1..=30u64 {
            first.publish(publisher, number - 1, "kept:room", &number.to_string());
        }
        first.settle();
        let messages = first.messages(subscriber);
        let serials: Vec<Value> = std::iter::once(&attached)
            .chain(messages.iter().filter(|it| it["action"] == 15))
            .map(|it| it["channelSerial"].clone())
            .collect();
        assert_eq!(serials.len(), 31, "seed={seed}");
        // Another number of shards: channels are at home elsewhere.
        let mut second = host(1 + (seed as usize + 1) % 3, seed, first.into_disk(), 2);
        assert_eq!(second.history("kept:room", "forwards", 7), numbers(1..=30), "seed={seed}");
        let mut backwards = numbers(1..=30);
        backwards.reverse();
        assert_eq!(second.history("kept:room", "backwards", 7), backwards, "seed={seed}");
        for (received, serial) in serials.iter().enumerate().step_by(5) {
            let client = second.connect(0, "");
            let (attached, data) = second.attach_from(client, "kept:room", serial);
            assert!(is_resumed(&attached), "seed={seed} {attached}");
            assert_eq!(data, numbers(received as u64 + 1..=30), "seed={seed}");
        }
        let publisher = second.connect(0, "");
        let subscriber = second.connect(0, "");
        second.attach_from(subscriber, "kept:room", &serials[30]);
        second.publish(publisher, 0, "kept:room", "31");
        second.settle();
        assert_eq!(second.data(subscriber, "kept:room"), ["31"]);
        // What begins anew is after everything that was.
        let mut third = host(shards, seed, second.into_disk(), 3);
        assert_eq!(third.history("kept:room", "forwards", 100), numbers(1..=31), "seed={seed}");
        let client = third.connect(0, "");
        let (attached, data) = third.attach_from(client, "kept:room", &serials[2]);
        assert!(is_resumed(&attached), "seed={seed}");
        assert_eq!(data, numbers(3..=31), "seed={seed}");
        let (attached, _) = third.attach_from(client, "kept:never", &serials[2]);
        assert!(is_resumed(&attached), "nothing of it was ever confirmed");
        let (attached, _) = third.attach_from(client, "other", &serials[2]);
        assert_eq!((is_resumed(&attached), &attached["error"]["code"]), (false, &json!(90005)));
    }
}

#[test]
fn a_loose_channel_goes_on_after_a_clean_end_only() {
    for is_clean in [true, false] {
        let mut first = host(1, 4, Disk::default(), 1);
        let (publisher, subscriber) = (first.connect(0, ""), first.connect(0, ""));
        let attached = first.attach(subscriber, "loose:room");
        first.publish(publisher, 0, "loose:room", "1");
        first.settle();
        if is_clean {
            first.shards[0].begin_drain(Duration::ZERO);
            first.settle();
            for _ in 0..10 {
                first.pass(Duration::from_millis(500));
                first.settle();
            }
            assert!(first.shards[0].is_drained());
        }
        let mut second = host(1, 4, first.into_disk(), 2);
        let client = second.connect(0, "");
        let (again, data) = second.attach_from(client, "loose:room", &attached["channelSerial"]);
        assert_eq!(is_resumed(&again), is_clean);
        assert_eq!(data.len(), usize::from(is_clean));
        assert_eq!(again["error"].is_null(), is_clean);
        assert_eq!(second.history("loose:room", "forwards", 10), ["1"]);
    }
}

#[test]
fn memory_that_drops_what_was_read_back_forgets_no_gap() {
    let mut config = ShardConfig::default();
    config.history.channel_bytes_max = 4000;
    let unix_ms = 1_800_000_000_000;
    let mut first = host_with(config.clone(), 1, 4, (Disk::default(), 1), unix_ms);
    let (publisher, subscriber) = (first.connect(0, ""), first.connect(0, ""));
    first.attach(subscriber, "loose:room");
    for number in 0..30u64 {
        first.publish(publisher, number, "loose:room", &number.to_string());
        first.settle_quickly();
    }
    first.settle();
    let messages = first.messages(subscriber);
    let messages = messages.iter().filter(|it| it["action"] == 15);
    let serials: Vec<Value> = messages.map(|it| it["channelSerial"].clone()).collect();
    assert_eq!(serials.len(), 30);
    let mut second = host_with(config, 1, 4, (first.into_disk(), 2), unix_ms + 10_000);
    let publisher = second.connect(0, "");
    for number in 0..10u64 {
        second.publish(publisher, number, "loose:room", "next");
        second.settle();
        second.pass(Duration::from_millis(20));
    }
    for serial in serials {
        let client = second.connect(0, "");
        let (attached, _) = second.attach_from(client, "loose:room", &serial);
        assert_eq!((is_resumed(&attached), &attached["error"]["code"]), (false, &json!(90003)));
    }
}

#[test]
fn a_rewind_across_what_an_end_may_have_taken_says_so() {
    for (channel, code) in [("kept:room", Value::Null), ("loose:room", json!(90003))] {
        let mut first = host(1, 4, Disk::default(), 1);
        let publisher = first.connect(0, "");
        for number in 1..=3u64 {
            first.publish(publisher, number - 1, channel, &number.to_string());
        }
        first.settle();
        let mut second = host(1, 4, first.into_disk(), 2);
        let publisher = second.connect(0, "");
        second.pass(Duration::from_millis(20));
        second.publish(publisher, 0, channel, "4");
        second.settle();
        for (rewind, code) in [("50", &code), ("1", &Value::Null)] {
            let client = second.connect(0, "");
            let params = json!({ "rewind": rewind });
            second.send(client, &json!({"action": 10, "channel": channel, "params": params}));
            second.settle();
            let attached = second.messages(client).into_iter().find(|it| it["action"] == 11);
            let attached = attached.expect("answered");
            assert_eq!(attached["error"]["code"], *code, "{channel} {rewind}");
        }
    }
}

#[test]
fn what_memory_has_no_room_for_is_read_from_disk() {
    let mut config = ShardConfig::default();
    config.history.channel_bytes_max = 4000;
    let mut host = host_with(config, 2, 9, (Disk::default(), 1), 1_800_000_000_000);
    let (publisher, subscriber) = (host.connect(0, ""), host.connect(1, ""));
    let first = host.attach(subscriber, "kept:room")["channelSerial"].clone();
    for number in 1..=100u64 {
        host.publish(publisher, number - 1, "kept:room", &number.to_string());
        host.settle_quickly();
    }
    host.settle();
    assert!(host.shards.iter().map(|shard| shard.homes.history_bytes()).sum::<u64>() < 5000);
    assert_eq!(host.history("kept:room", "forwards", 9), numbers(1..=100));
    let mut backwards = numbers(1..=100);
    backwards.reverse();
    assert_eq!(host.history("kept:room", "backwards", 9), backwards);
    let clients: Vec<usize> = (0..4).map(|client| host.connect(client % 2, "")).collect();
    // What memory holds moves on while they wait for the disk.
    host.is_disk_stalled = true;
    for &client in &clients {
        let asked = json!({"action": 10, "channel": "kept:room", "channelSerial": first});
        host.send(client, &asked);
    }
    host.settle_quickly();
    host.publish(publisher, 100, "kept:room", "101");
    host.settle_quickly();
    host.is_disk_stalled = false;
    host.settle();
    for client in clients {
        let messages = host.messages(client);
        let attached = messages.iter().find(|it| it["action"] == 11).expect("attached");
        assert!(is_resumed(attached));
        let data = messages.iter().filter(|it| it["action"] == 15);
        let data: Vec<_> = data.map(|it| it["messages"][0]["data"].as_str().unwrap()).collect();
        assert_eq!(data, numbers(1..=101));
    }
    let rewinding = host.connect(0, "");
    let params = json!({ "rewind": "50" });
    host.send(rewinding, &json!({"action": 10, "channel": "kept:room", "params": params}));
    host.settle();
    assert_eq!(host.data(rewinding, "kept:room"), numbers(52..=101));
}

#[test]
fn a_rewind_ends_at_a_message_that_it_has_no_room_for() {
    let mut config = ShardConfig { replay_bytes_max: 1 << 10, ..ShardConfig::default() };
    config.history.channel_bytes_max = 3 << 10;
    let mut host = host_with(config, 2, 4, (Disk::default(), 1), 1_800_000_000_000);
    let publisher = host.connect(0, "");
    let large = "x".repeat(1500);
    let published = ["1", "2", &large, "4", &large, "6"];
    for (msg_serial, data) in (0..).zip(published) {
        host.publish(publisher, msg_serial, "kept:room", data);
        host.settle_quickly();
    }
    host.settle();
    // Memory holds the last ones; the first are found on disk, behind what was left out.
    let rewinding = host.connect(1, "");
    let params = json!({ "rewind": "50" });
    host.send(rewinding, &json!({"action": 10, "channel": "kept:room", "params": params}));
    host.settle();
    assert_eq!(host.data(rewinding, "kept:room"), ["6"]);
}

#[test]
fn an_attach_that_waits_for_the_disk_is_not_overtaken_by_the_next() {
    let mut config = ShardConfig::default();
    config.history.channel_bytes_max = 4000;
    let mut host = host_with(config, 2, 9, (Disk::default(), 1), 1_800_000_000_000);
    let (publisher, subscriber) = (host.connect(0, ""), host.connect(1, ""));
    let first = host.attach(subscriber, "kept:room")["channelSerial"].clone();
    for number in 1..=40u64 {
        host.publish(publisher, number - 1, "kept:room", &number.to_string());
        host.settle_quickly();
    }
    for client in [host.connect(0, ""), host.connect(1, "")] {
        let asked = json!({"action": 10, "channel": "kept:room", "channelSerial": first});
        host.send(client, &asked);
        host.send(client, &asked);
        host.settle();
        let messages = host.messages(client);
        let attached: Vec<_> = messages.iter().filter(|it| it["action"] == 11).collect();
        assert_eq!(attached.len(), 2);
        assert!(attached.iter().all(|attached| is_resumed(attached)), "{attached:?}");
        let data = messages.iter().filter(|it| it["action"] == 15);
        let data: Vec<_> = data.map(|it| it["messages"][0]["data"].as_str().unwrap()).collect();
        assert_eq!(data, numbers(1..=40));
    }
}

#[test]
fn a_full_disk_refuses_with_a_code_and_nothing_else_stops() {
    let mut host = host(1, 6, Disk::default(), 1);
    let (publisher, subscriber) = (host.connect(0, ""), host.connect(0, ""));
    host.attach(subscriber, "safe:room");
    host.attach(subscriber, "other");
    host.settle();
    host.messages(publisher);
    host.disk.as_mut().expect("has one").full = true;
    let mut accepted = Vec::new();
    let mut refused = 0;
    for number in 0..200u64 {
        host.publish(publisher, number, "safe:room", &number.to_string());
        host.settle_quickly();
        host.settle_quickly();
        for answer in host.messages(publisher) {
            match answer["action"].as_u64() {
                Some(1) => accepted.push(number.to_string()),
                Some(2) => {
                    refused += 1;
                    assert_eq!(answer["error"]["code"], 50004, "{answer}");
                    assert_eq!(answer["error"]["statusCode"], 503, "{answer}");
                }
                _ => {}
            }
        }
    }
    assert!(refused > 100 && accepted.len() > 10, "{refused} {}", accepted.len());
    host.publish(publisher, 200, "other", "goes on");
    host.settle();
    assert_eq!(host.data(subscriber, "other").len(), 1);
    assert_eq!(host.history("safe:room", "forwards", 100), accepted);
    host.disk.as_mut().expect("has one").full = false;
    host.pass(Duration::from_millis(1100));
    host.settle();
    host.publish(publisher, 201, "safe:room", "again");
    host.settle();
    assert_eq!(host.acks(publisher), 2);
    accepted.push("again".into());
    assert_eq!(host.history("safe:room", "forwards", 100), accepted);
}

#[test]
fn a_publish_that_cannot_be_kept_is_refused_in_time_and_nobody_has_heard_of_it() {
    for channel in ["kept:room", "safe:room", "changing:room"] {
        let mut host = host(2, 11, Disk::default(), 1);
        let (publisher, subscriber) = (host.connect(0, ""), host.connect(1, ""));
        host.attach(subscriber, channel);
        host.attach(subscriber, "other");
        host.messages(publisher);
        host.publish(publisher, 0, channel, "kept");
        host.settle();
        assert_eq!((host.acks(publisher), host.data(subscriber, channel).len()), (1, 1));
        host.disk.as_mut().expect("has one").errors = vec![Some(EIO); 1000].into();
        // With an id of its own, which is not used up by this.
        let own = json!([{ "id": "own:0", "data": "lost" }]);
        let publish = json!({"action": 15, "msgSerial": 1, "channel": channel, "messages": own});
        host.send(publisher, &publish);
        host.publish(publisher, 2, channel, "lost too");
        host.settle();
        assert!(host.messages(publisher).is_empty(), "not known yet");
        // Who comes now is shown what is kept, once that is known.
        let late = host.connect(1, "");
        host.messages(late);
        let params = json!({ "rewind": "10" });
        host.send(late, &json!({"action": 10, "channel": channel, "params": params}));
        host.settle();
        for _ in 0..4 {
            host.pass(Duration::from_secs(1));
            host.settle();
        }
        let refused = host.messages(publisher);
        assert_eq!(refused.len(), 2, "{channel} {refused:?}");
        for refused in refused {
            assert_eq!((&refused["action"], &refused["error"]["code"]), (&json!(2), &json!(50004)));
        }
        assert!(host.data(subscriber, channel).is_empty());
        host.publish(publisher, 3, "other", "goes on");
        host.settle();
        assert_eq!(host.data(subscriber, "other"), ["goes on"]);
        assert_eq!(host.acks(publisher), 1);
        assert_eq!(host.data(late, channel), ["kept"], "{channel}");
        host.disk.as_mut().expect("has one").errors.clear();
        host.pass(Duration::from_millis(1100));
        host.settle();
        assert_eq!(host.history(channel, "forwards", 10), ["kept"]);
        let publish = json!({"action": 15, "msgSerial": 4, "channel": channel, "messages": own});
        host.send(publisher, &publish);
        host.settle();
        assert_eq!(host.acks(publisher), 1);
        assert_eq!(host.data(subscriber, channel), ["lost"]);
        let mut next = self::host(1, 11, host.into_disk(), 2);
        assert_eq!(next.history(channel, "forwards", 10), ["kept", "lost"]);
    }
}

#[test]
fn whoever_publishes_faster_than_the_disk_is_read_no_further() {
    let mut config = ShardConfig::default();
    config.connection.publishes_in_flight_max = 8;
    let mut host = host_with(config, 2, 12, (Disk::default(), 1), 1_800_000_000_000);
    let publisher = host.connect(0, "");
    host.messages(publisher);
    host.settle();
    host.is_disk_stalled = true;
    for number in 1..=40u64 {
        host.publish(publisher, number - 1, "kept:room", &number.to_string());
        host.settle_quickly();
    }
    // A client that goes meanwhile leaves nothing behind.
    let gone = host.connect(0, "");
    for number in 0..40u64 {
        host.publish(gone, number, "kept:gone", "x");
    }
    host.cut(gone);
    host.settle_quickly();
    let held: u64 = host.shards.iter().map(|shard| shard.journal_gauges().waiting_bytes).sum();
    assert!(host.messages(publisher).is_empty());
    // Longer than a client may be silent.
    host.pass(Duration::from_secs(60));
    host.settle_quickly();
    let waiting: u64 = host.shards.iter().map(|shard| shard.journal_gauges().waiting_bytes).sum();
    assert_eq!(held, waiting, "nothing more is taken");
    host.is_disk_stalled = false;
    host.settle();
    let answers = host.messages(publisher);
    let acked: u64 =
        answers.iter().filter(|it| it["action"] == 1).map(|it| it["count"].as_u64().unwrap()).sum();
    assert_eq!(acked, 40, "{answers:?}");
    assert!(answers.iter().all(|it| it["action"] != 2 && it["action"] != 9), "{answers:?}");
    host.publish(publisher, 40, "kept:room", "41");
    host.settle();
    assert_eq!(host.acks(publisher), 1);
    assert_eq!(host.history("kept:room", "forwards", 50), numbers(1..=41));
}

/// With room for a lag of 4 KiB.
fn narrow_host(disk: Disk, start: u8) -> Host {
    let config = ShardConfig { lag_bytes_max: 4096, ..ShardConfig::default() };
    let unix_ms = 1_800_000_000_000 + 10_000 * u64::from(start);
    host_with(config, 2, 21, (disk, start), unix_ms)
}

impl Host {
    /// Publishes `count` messages of 300 bytes, those behind the first ephemeral or not, and has the disk go
    /// on; how many were refused since it was behind.
    fn publish_many(&mut self, client: usize, channel: &str, count: u64, ephemeral: bool) -> u64 {
        for number in 0..count {
            let extras = json!({"ephemeral": ephemeral && number > 0});
            let messages = json!([{"data": "x".repeat(300), "extras": extras}]);
            let publish = json!({"action": 15, "channel": channel, "msgSerial": number,
                "messages": messages});
            self.send(client, &publish);
            self.settle_quickly();
        }
        self.is_disk_stalled = false;
        self.settle();
        let answers = self.messages(client);
        let refused = answers.iter().filter(|it| it["action"] == 2).map(|it| {
            assert_eq!(it["error"]["code"], 50004, "{it}");
            it["count"].as_u64().expect("a number")
        });
        refused.sum()
    }
}

#[test]
fn a_disk_that_catches_up_cuts_no_subscriber_off() {
    // What is ephemeral waits for what is kept, and counts too.
    for ephemeral in [false, true] {
        let mut host = narrow_host(Disk::default(), 1);
        let (publisher, subscriber) = (host.connect(0, ""), host.connect(1, ""));
        host.attach(subscriber, "kept:room");
        host.messages(publisher);
        host.settle();
        host.is_disk_stalled = true;
        let refused = host.publish_many(publisher, "kept:room", 40, ephemeral);
        assert!((20..40).contains(&refused), "{refused}");
        assert_eq!(host.data(subscriber, "kept:room").len() as u64, 40 - refused);
        host.publish(publisher, 40, "kept:room", "goes on");
        host.settle();
        assert_eq!(host.data(subscriber, "kept:room"), ["goes on"]);
    }
}

#[test]
fn a_disk_that_is_behind_refuses_nothing_for_want_of_subscribers() {
    let mut host = narrow_host(Disk::default(), 1);
    let publisher = host.connect(0, "");
    host.messages(publisher);
    host.settle();
    host.is_disk_stalled = true;
    assert_eq!(host.publish_many(publisher, "kept:room", 10, false), 0);
}

/// The second start of a narrow host, with a message in `loose:room` that is not in memory.
fn host_with_a_past() -> Host {
    let mut host = narrow_host(Disk::default(), 1);
    let publisher = host.connect(0, "");
    host.publish(publisher, 0, "loose:room", "before");
    host.settle();
    narrow_host(host.into_disk(), 2)
}

#[test]
fn what_waits_for_a_channel_to_be_loaded_cuts_no_subscriber_off() {
    let mut host = host_with_a_past();
    let (publisher, subscriber) = (host.connect(0, ""), host.connect(1, ""));
    host.messages(publisher);
    host.messages(subscriber);
    host.is_disk_stalled = true;
    host.send(subscriber, &json!({"action": 10, "channel": "loose:room"}));
    host.settle_quickly();
    let refused = host.publish_many(publisher, "loose:room", 40, false);
    assert!((20..40).contains(&refused), "{refused}");
    let received = host.messages(subscriber);
    let received = received.iter().filter(|it| it["action"] == 15).count() as u64;
    assert_eq!(received, 40 - refused);
}

#[test]
fn the_first_publish_that_waits_for_its_channel_counts() {
    let mut host = host_with_a_past();
    let publisher = host.connect(0, "");
    host.messages(publisher);
    host.is_disk_stalled = true;
    // As much as may wait, and one more.
    host.publish(publisher, 0, "loose:room", &"x".repeat(2048));
    host.publish(publisher, 1, "loose:room", "y");
    host.settle_quickly();
    host.is_disk_stalled = false;
    host.settle();
    let answers = host.messages(publisher);
    let told: Vec<_> = answers.iter().map(|it| (&it["action"], &it["error"]["code"])).collect();
    assert_eq!(told, [(&json!(1), &Value::Null), (&json!(2), &json!(50004))]);
}

#[test]
fn a_loose_channel_is_confirmed_at_the_pace_of_a_disk_that_is_behind() {
    let mut host = host(1, 13, Disk::default(), 1);
    let (publisher, subscriber) = (host.connect(0, ""), host.connect(0, ""));
    host.attach(subscriber, "loose:room");
    host.messages(publisher);
    host.settle();
    host.is_disk_stalled = true;
    for number in 1..=20u64 {
        host.publish(publisher, number - 1, "loose:room", &number.to_string());
        host.settle_quickly();
    }
    assert_eq!(host.data(subscriber, "loose:room"), numbers(1..=20), "they wait for nothing");
    let acked = host.acks(publisher);
    assert!((5..19).contains(&acked), "{acked}");
    host.is_disk_stalled = false;
    host.settle();
    assert!(host.acks(publisher) > 0);
    assert_eq!(host.shards[0].journal_gauges().waiting_bytes, 0);
}

#[test]
fn a_publish_that_is_repeated_after_a_kill_is_not_published_again() {
    let mut first = host(2, 3, Disk::default(), 1);
    let body = r#"[{"id":"own:0","data":"a"},{"id":"own:1","data":"b"}]"#;
    let line = format!("POST /channels/kept:room/messages?key={KEY}");
    let (status, before) = request(&mut first, 0, &line, "", body);
    assert_eq!(status, 201, "{before}");
    let mut second = host(2, 3, first.into_disk(), 2);
    let (status, after) = request(&mut second, 1, &line, "", body);
    assert_eq!((status, after), (201, before));
    assert_eq!(second.history("kept:room", "forwards", 10), ["a", "b"]);
    second.pass(Duration::from_secs(130));
    second.settle();
    let mut third = host(2, 3, second.into_disk(), 14);
    request(&mut third, 1, &line, "", body);
    assert_eq!(third.history("kept:room", "forwards", 10), ["a", "b", "a", "b"]);
}

#[test]
fn ids_of_what_is_left_of_a_damaged_channel_are_known() {
    let mut first = host(2, 3, Disk::default(), 1);
    let line = format!("POST /channels/kept:room/messages?key={KEY}");
    let bodies = [r#"{"id":"own","data":"left"}"#, r#"{"id":"other","data":"unreadable"}"#];
    let before = bodies.map(|body| request(&mut first, 0, &line, "", body));
    assert_eq!(request(&mut first, 0, &line, "", r#"{"data":"behind"}"#).0, 201);
    let mut disk = first.into_disk();
    let text = b"unreadable";
    let place = |file: &[u8]| file.windows(text.len()).position(|bytes| bytes == text);
    let found = disk.files.values_mut().find_map(|file| Some((place(file)?, file)));
    let (at, file) = found.expect("it was written");
    file[at] ^= 1;
    let mut second = host(2, 3, disk, 2);
    let [left, unreadable] = bodies.map(|body| request(&mut second, 1, &line, "", body));
    assert_eq!(left, before[0]);
    assert!(unreadable.0 == 201 && unreadable != before[1], "{unreadable:?}");
    assert_eq!(second.history("kept:room", "forwards", 10), ["left", "behind", "unreadable"]);
}

#[test]
fn changed_and_annotated_messages_are_what_they_were() {
    let mut first = host(1, 8, Disk::default(), 1);
    let post = |host: &mut Host, method: &str, path: &str, body: &str| {
        let line = format!("{method} /channels/changing:room/messages{path}?key={KEY}");
        let (status, answer) = request(host, 0, &line, "", body);
        assert!(status < 300, "{line} {answer}");
        answer
    };
    let created = post(&mut first, "POST", "", r#"{"data":"one"}"#);
    let serial = created["serials"][0].as_str().expect("a serial").to_owned();
    post(&mut first, "PATCH", &format!("/{serial}"), r#"{"action":1,"data":"two"}"#);
    for more in ["+", "-"] {
        let body = format!(r#"{{"action":5,"data":"{more}"}}"#);
        post(&mut first, "PATCH", &format!("/{serial}"), &body);
    }
    let annotation = r#"[{"type":"a:total.v1"}]"#;
    post(&mut first, "POST", &format!("/{serial}/annotations"), annotation);
    let ask = |host: &mut Host, path: &str| {
        let line = format!("GET /channels/changing:room/messages{path}?key={KEY}");
        request(host, 0, &line, "", "").1
    };
    let paths = [
        String::new(),
        format!("/{serial}"),
        format!("/{serial}/versions"),
        format!("/{serial}/annotations"),
    ];
    let before: Vec<Value> = paths.iter().map(|path| ask(&mut first, path)).collect();
    assert_eq!(before[0][0]["data"], "two+-");
    let mut second = host(1, 8, first.into_disk(), 2);
    for (path, before) in paths.iter().zip(before) {
        assert_eq!(ask(&mut second, path), before, "{path}");
    }
    post(&mut second, "PATCH", &format!("/{serial}"), r#"{"action":5,"data":"!"}"#);
    assert_eq!(ask(&mut second, "")[0]["data"], "two+-!");
}

/// Publishers, subscribers and a disk that may fail; the process is killed at random moments. Whatever
/// was confirmed is in the history once and in order, and whoever goes on from its serial gets each of
/// them once.
#[test]
fn kills_at_random_moments_lose_nothing_that_was_confirmed() {
    for seed in 1..=30 {
        let channel = ["kept:room", "safe:room"][seed as usize % 2];
        let mut disk = Disk::default();
        let (mut confirmed, mut received) = (Vec::<String>::new(), Vec::<String>::new());
        let mut serial: Option<Value> = None;
        let mut number = 0;
        for start in 1..=4 {
            let mut config = ShardConfig::default();
            config.history.channel_bytes_max = 3000;
            let unix_ms = 1_800_000_000_000 + 10_000 * u64::from(start);
            let shards = 1 + (seed as usize + usize::from(start)) % 2;
            let mut host = host_with(config, shards, seed, (disk, start), unix_ms);
            let (publisher, subscriber) = (host.connect(0, ""), host.connect(shards - 1, ""));
            host.messages(publisher);
            host.messages(subscriber);
            let ask = match &serial {
                None => json!({"action": 10, "channel": channel}),
                Some(serial) => json!({"action": 10, "channel": channel, "channelSerial": serial}),
            };
            host.send(subscriber, &ask);
            let has_errors = host.below(3) == 0;
            let (mut msg_serial, mut sent, mut acked) = (0, Vec::new(), 0);
            let steps = 200 + host.below(1500);
            for step in 0..steps {
                if step % 7 == 0 && start < 4 {
                    number += 1;
                    host.publish(publisher, msg_serial, channel, &number.to_string());
                    msg_serial += 1;
                    sent.push(number.to_string());
                }
                if step % 50 == 0 {
                    host.pass(Duration::from_millis(300));
                }
                if has_errors && host.below(10) == 0 {
                    host.disk.as_mut().expect("has one").errors = [Some(EIO)].into();
                }
                host.step();
            }
            if start == 4 {
                host.settle();
            }
            for message in host.messages(publisher) {
                let count = message["count"].as_u64().unwrap_or(0) as usize;
                match message["action"].as_u64() {
                    Some(1) => confirmed.extend(sent[acked..acked + count].iter().cloned()),
                    Some(2) => assert_eq!(message["error"]["code"], 50004, "seed={seed}"),
                    _ => continue,
                }
                acked += count;
            }
            for message in host.messages(subscriber) {
                match message["action"].as_u64() {
                    Some(11) if serial.is_some() => {
                        assert!(is_resumed(&message), "seed={seed} start={start} {message}");
                    }
                    Some(15) => {
                        let data = message["messages"][0]["data"].as_str().expect("text");
                        received.push(data.to_owned());
                    }
                    Some(11) => {}
                    _ => continue,
                }
                serial = Some(message["channelSerial"].clone());
            }
            if start == 4 {
                let history = host.history(channel, "forwards", 40);
                let missing: Vec<_> = confirmed.iter().filter(|it| !history.contains(it)).collect();
                assert!(missing.is_empty(), "seed={seed} {missing:?}");
                let as_numbers = |all: &[String]| -> Vec<u64> {
                    all.iter().map(|it| it.parse().expect("a number")).collect()
                };
                assert!(as_numbers(&history).is_sorted_by(|one, other| one < other), "seed={seed}");
                // It may have begun later than the channel, and then has everything.
                let from = history.iter().position(|it| Some(it) == received.first());
                let from = from.unwrap_or(history.len());
                assert_eq!(received, history[from..], "seed={seed}");
            }
            disk = host.into_disk();
        }
        assert!(!confirmed.is_empty(), "seed={seed}");
    }
}

#[test]
fn a_place_that_a_client_was_told_of_is_not_taken_back() {
    let mut host = host(2, 16, Disk::default(), 1);
    let (publisher, early) = (host.connect(0, ""), host.connect(1, ""));
    let start = host.attach(early, "kept:room")["channelSerial"].clone();
    host.disk.as_mut().expect("has one").errors = vec![Some(EIO); 1000].into();
    host.publish(publisher, 0, "kept:room", "lost");
    host.settle();
    // Its answer waits for the disk, and then says how far the order has come.
    let late = host.connect(1, "");
    host.messages(late);
    host.send(late, &json!({"action": 10, "channel": "kept:room", "params": {"rewind": "1"}}));
    host.settle();
    for _ in 0..4 {
        host.pass(Duration::from_secs(1));
        host.settle();
    }
    let attached = host.messages(late).pop().expect("answered");
    let told = attached["channelSerial"].as_str().expect("a serial").to_owned();
    assert!(attached["action"] == 11 && told.as_str() > start.as_str().unwrap(), "{attached}");
    for client in [late, early] {
        host.send(client, &json!({"action": 10, "channel": "kept:room", "channelSerial": told}));
        host.settle();
        let again = host.messages(client).pop().expect("answered");
        assert_eq!((&again["action"], &again["channelSerial"]), (&json!(11), &json!(told)));
        assert_eq!(again["flags"].as_u64().unwrap() & 4, 4, "RESUMED");
    }
}

#[test]
fn what_a_client_asks_for_while_a_channel_is_loaded_has_a_bound() {
    let mut host = host_with_a_past();
    let (hasty, patient) = (host.connect(0, ""), host.connect(1, ""));
    host.messages(hasty);
    host.messages(patient);
    host.is_disk_stalled = true;
    for _ in 0..64 {
        host.send(hasty, &json!({"action": 10, "channel": "loose:room"}));
    }
    host.send(patient, &json!({"action": 10, "channel": "loose:room"}));
    for _ in 0..500 {
        host.send(patient, &json!({"action": 16, "channel": "loose:room"}));
    }
    host.settle_quickly();
    let keeping = host.shards.iter().filter_map(|shard| shard.homes.keeping.as_ref());
    let waiting: usize = keeping.map(|keeping| keeping.reading.mail_count).sum();
    assert!(waiting < 10, "{waiting}");
    assert!(host.messages(hasty).is_empty());
    host.send(hasty, &json!({"action": 10, "channel": "loose:room"}));
    host.settle_quickly();
    assert_eq!(host.messages(hasty)[0]["error"]["code"], 42924);
    host.is_disk_stalled = false;
    host.settle();
    let answers = host.messages(patient);
    let told = |action: u64| answers.iter().filter(|it| it["action"] == action).count();
    assert_eq!((told(11), told(16)), (1, 1), "{answers:?}");
}
