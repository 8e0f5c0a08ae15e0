//! Messages that change: versions, appends, annotations, on several shards at once.

use super::*;

const ROOM: &str = "mutable:room";
const KIND: &str = "count:total.v1";

/// A client with the next msgSerial.
struct Author {
    client: usize,
    next: u64,
}

impl Author {
    fn connect(host: &mut Host, shard: usize) -> Author {
        let client = host.connect(shard, "&clientId=author");
        host.messages(client);
        Author { client, next: 0 }
    }

    fn send(&mut self, host: &mut Host, mut message: Value) {
        message["channel"] = ROOM.into();
        message["msgSerial"] = self.next.into();
        self.next += 1;
        host.send(self.client, &message);
    }

    fn message(&mut self, host: &mut Host, message: Value) {
        self.send(host, json!({ "action": 15, "messages": [message] }));
    }

    fn annotate(&mut self, host: &mut Host, serial: &Value, kind: &str) {
        let annotation = json!({ "messageSerial": serial, "type": kind });
        self.send(host, json!({ "action": 21, "annotations": [annotation] }));
    }

    /// Serials of the ACKs that have come, or codes of NACKs.
    fn outcomes(&mut self, host: &mut Host) -> Vec<Value> {
        host.settle();
        let mut outcomes = Vec::new();
        for message in host.messages(self.client) {
            match message["action"].as_u64() {
                Some(1) => {
                    let results = message["res"].as_array().expect("an ACK has results");
                    outcomes.extend(results.iter().map(|result| result["serials"][0].clone()));
                }
                Some(2) => outcomes.push(message["error"]["code"].clone()),
                _ => {}
            }
        }
        outcomes
    }

    /// Publishes a message and returns its serial.
    fn create(&mut self, host: &mut Host, data: &str) -> Value {
        self.message(host, json!({ "name": "event", "data": data }));
        self.outcomes(host).pop().expect("acknowledged")
    }
}

/// Action and data of the messages that a client has received, one for each protocol message.
fn seen(host: &mut Host, client: usize) -> Vec<(u64, Value)> {
    let messages = host.messages(client).into_iter().filter(|message| message["action"] == 15);
    let first = messages.map(|message| message["messages"][0].clone());
    first.map(|message| (message["action"].as_u64().unwrap(), message["data"].clone())).collect()
}

/// What the message is after all this, for somebody who starts with `text`.
fn added_up(text: Option<String>, seen: &[(u64, Value)]) -> Option<String> {
    seen.iter().fold(text, |text, (action, data)| {
        let data = data.as_str().expect("text");
        match (action, text) {
            (5, Some(text)) => Some(text + data),
            (5, None) => panic!("an increment of what was never seen"),
            _ => Some(data.to_owned()),
        }
    })
}

#[test]
fn everybody_sees_each_version_once_and_in_order() {
    for seed in 1..=10 {
        let mut host = Host::new(3, seed);
        let subscribers: Vec<usize> = (0..6).map(|client| host.connect(client % 3, "")).collect();
        for &client in &subscribers {
            host.attach(client, ROOM);
        }
        let mut author = Author::connect(&mut host, seed as usize % 3);
        let serial = author.create(&mut host, "one");
        author.message(&mut host, json!({ "action": 1, "serial": serial, "data": "two" }));
        author.message(&mut host, json!({ "data": "other" }));
        author.message(&mut host, json!({ "action": 2, "serial": serial }));
        let acked = author.outcomes(&mut host);
        assert!(acked.iter().is_sorted_by_key(|serial| serial.as_str()), "{acked:?}");
        let expected = [(0, "one"), (1, "two"), (0, "other"), (2, "two")];
        let expected = expected.map(|(action, data)| (action, json!(data)));
        for &client in &subscribers {
            assert_eq!(seen(&mut host, client), expected, "seed={seed}");
        }
    }
}

#[test]
fn each_version_is_later_than_the_one_before_within_a_millisecond_too() {
    let mut host = Host::new(1, 8);
    let mut author = Author::connect(&mut host, 0);
    let client = host.connect(0, "");
    host.attach(client, ROOM);
    let serial = author.create(&mut host, "x");
    for action in [1, 5, 5, 2, 1] {
        author.message(&mut host, json!({ "action": action, "serial": serial, "data": "x" }));
    }
    host.settle();
    let messages = host.messages(client);
    let first = messages[0]["messages"][0].clone();
    let versions = messages.iter().map(|message| &message["messages"][0]["version"]);
    let times: Vec<u64> = versions.map(|version| version["timestamp"].as_u64().unwrap()).collect();
    assert_eq!(times.len(), 6);
    assert!(times.is_sorted_by(|a, b| a < b), "{times:?}");
    for message in &messages[1..] {
        assert_eq!(message["messages"][0]["timestamp"], messages[0]["timestamp"]);
        assert_eq!(message["messages"][0]["serial"], serial);
        assert_eq!(message["messages"][0]["id"], first["id"]);
    }
}

#[test]
fn a_message_that_never_changes_pays_one_pointer() {
    use crate::ably::Message;
    let revision = size_of::<Option<Box<crate::ably::Revision>>>();
    assert_eq!(revision, size_of::<usize>());
    assert!(size_of::<Message>() <= 128, "{} bytes", size_of::<Message>());
}

#[test]
fn increments_add_up_to_the_same_for_everybody_whenever_they_joined() {
    let mut increments = 0;
    for seed in 1..=20 {
        let mut host = Host::new(3, seed);
        let mut author = Author::connect(&mut host, 0);
        let serial = author.create(&mut host, "0");
        let mut whole = "0".to_owned();
        let mut clients: Vec<(usize, Option<String>)> = Vec::new();
        for step in 1..12 {
            if host.below(2) == 0 {
                let shard = host.below(3);
                let client = host.connect(shard, "");
                let params = ["{}", r#"{"appendMode":"full"}"#][host.below(2)];
                let params: Value = serde_json::from_str(params).unwrap();
                let attach = json!({ "action": 10, "channel": ROOM, "params": params });
                attach_with(&mut host, client, attach);
                clients.push((client, None));
            }
            let data = format!(" {step}");
            author.message(&mut host, json!({ "action": 5, "serial": serial, "data": data }));
            host.settle();
            whole += &data;
            for (client, text) in &mut clients {
                let seen = seen(&mut host, *client);
                increments += seen.iter().filter(|(action, _)| *action == 5).count();
                *text = added_up(text.take(), &seen);
                assert_eq!(text.as_ref(), Some(&whole), "seed={seed}");
            }
        }
    }
    assert!(increments > 100, "almost nothing but wholes: {increments}");
}

#[test]
fn who_comes_back_gets_versions_as_they_came_and_a_run_of_appends_as_one() {
    let mut host = Host::new(2, 3);
    let mut author = Author::connect(&mut host, 0);
    let client = host.connect(1, "");
    let serial = host.attach(client, ROOM)["channelSerial"].clone();
    host.send(client, &json!({ "action": 12, "channel": ROOM }));
    host.settle();
    let message = author.create(&mut host, "a");
    author.message(&mut host, json!({ "action": 1, "serial": message, "data": "b" }));
    for data in ["c", "d"] {
        author.message(&mut host, json!({ "action": 5, "serial": message, "data": data }));
    }
    author.message(&mut host, json!({ "data": "other" }));
    author.message(&mut host, json!({ "action": 5, "serial": message, "data": "e" }));
    author.annotate(&mut host, &message, KIND);
    assert_eq!(author.outcomes(&mut host).len(), 6);
    host.messages(client);
    let attach = json!({ "action": 10, "channel": ROOM, "channelSerial": serial, "params":
        { "modes": "subscribe,annotation_subscribe" } });
    host.send(client, &attach);
    host.settle();
    let replayed: Vec<Value> = host
        .messages(client)
        .into_iter()
        .filter(|message| message["action"] != 11)
        .map(|message| match message["action"].as_u64() {
            Some(21) => message["annotations"][0]["type"].clone(),
            _ => json!([message["messages"][0]["action"], message["messages"][0]["data"]]),
        })
        .collect();
    let expected = json!([[0, "a"], [1, "b"], [0, "other"], [1, "bcde"], KIND, [4, null]]);
    assert_eq!(json!(replayed), expected);
}

#[test]
fn who_wants_no_echo_and_comes_back_gets_what_others_have_appended_before() {
    let mut host = Host::new(2, 3);
    let mut author = Author::connect(&mut host, 0);
    let client = host.connect(1, "&clientId=author&echo=false");
    let serial = host.attach(client, ROOM)["channelSerial"].clone();
    host.send(client, &json!({ "action": 12, "channel": ROOM }));
    host.settle();
    let message = author.create(&mut host, "a");
    author.message(&mut host, json!({ "action": 5, "serial": message, "data": "b" }));
    assert_eq!(author.outcomes(&mut host).len(), 1);
    host.messages(client);
    let mut quiet = Author { client, next: 0 };
    quiet.message(&mut host, json!({ "action": 5, "serial": message, "data": "c" }));
    assert_eq!(quiet.outcomes(&mut host).len(), 1);
    host.send(client, &json!({ "action": 10, "channel": ROOM, "channelSerial": serial }));
    host.settle();
    let replayed = host.messages(client).into_iter().filter(|message| message["action"] == 15);
    let replayed: Vec<Value> =
        replayed.map(|message| message["messages"][0]["data"].clone()).collect();
    assert_eq!(json!(replayed), json!(["a", "ab"]));
}

#[test]
fn a_summary_is_told_at_once_and_then_once_a_second_while_it_changes() {
    for seed in 1..=10 {
        let mut host = Host::new(2, seed);
        let mut author = Author::connect(&mut host, 0);
        let clients = [host.connect(0, ""), host.connect(1, "")];
        for client in clients {
            host.attach(client, ROOM);
        }
        let message = author.create(&mut host, "x");
        let totals = |host: &mut Host, client| -> Vec<Value> {
            let messages = host.messages(client).into_iter();
            let summaries = messages.filter(|message| message["messages"][0]["action"] == 4);
            summaries
                .map(|message| {
                    assert_eq!(message["messages"][0]["name"], "event");
                    message["messages"][0]["annotations"]["summary"][KIND]["total"].clone()
                })
                .collect()
        };
        for _ in 0..5 {
            author.annotate(&mut host, &message, KIND);
        }
        author.outcomes(&mut host);
        for _ in 0..3 {
            host.pass(Duration::from_millis(1000));
            host.settle();
        }
        author.annotate(&mut host, &message, KIND);
        author.annotate(&mut host, &message, "raw");
        host.settle();
        for client in clients {
            assert_eq!(totals(&mut host, client), [1, 5, 6], "seed={seed}");
        }
        author.annotate(&mut host, &message, KIND);
        host.settle();
        assert!(totals(&mut host, clients[0]).is_empty(), "within the pause");
        host.pass(Duration::from_millis(1000));
        host.settle();
        assert_eq!(totals(&mut host, clients[0]), [7]);
    }
}

#[test]
fn annotations_go_to_those_who_asked_for_them() {
    let mut host = Host::new(2, 9);
    let mut author = Author::connect(&mut host, 0);
    let (plain, watcher) = (host.connect(1, ""), host.connect(1, ""));
    host.attach(plain, ROOM);
    let modes = json!({ "modes": "annotation_subscribe" });
    let attach = json!({ "action": 10, "channel": ROOM, "params": modes });
    attach_with(&mut host, watcher, attach);
    let message = author.create(&mut host, "x");
    author.annotate(&mut host, &message, "com.example.raw");
    let acked = author.outcomes(&mut host);
    let actions = |host: &mut Host, client| -> Vec<Value> {
        host.messages(client).iter().map(|message| message["action"].clone()).collect()
    };
    assert_eq!(actions(&mut host, plain), [15]);
    let received = host.messages(watcher);
    assert_eq!(received.len(), 1);
    assert_eq!(received[0]["action"], 21);
    assert_eq!(received[0]["annotations"][0]["serial"], acked[0]);
    assert_eq!(received[0]["annotations"][0]["messageSerial"], message);
}

#[test]
fn a_message_can_be_changed_as_long_as_it_is_kept() {
    let mut config = ShardConfig::default();
    config.history.channel_bytes_max = 20_000;
    let mut host = Host::with_config(1, 4, config);
    let mut author = Author::connect(&mut host, 0);
    let first = author.create(&mut host, "first");
    let update = |serial: &Value| json!({ "action": 1, "serial": serial, "data": "x".repeat(500) });
    author.message(&mut host, update(&first));
    author.annotate(&mut host, &first, KIND);
    assert!(author.outcomes(&mut host).iter().all(Value::is_string));
    let second = author.create(&mut host, "second");
    // Appends replace each other, so that they do not fill the history.
    for _ in 0..200 {
        author.message(&mut host, json!({ "action": 5, "serial": second, "data": "12345" }));
    }
    author.message(&mut host, update(&first));
    assert!(author.outcomes(&mut host).iter().all(Value::is_string));
    // Updates do, until the message itself is dropped.
    for _ in 0..60 {
        author.message(&mut host, update(&second));
    }
    author.message(&mut host, update(&first));
    author.annotate(&mut host, &first, KIND);
    let outcomes = author.outcomes(&mut host);
    assert_eq!(outcomes[outcomes.len() - 2..], [json!(40400), json!(40400)]);
    assert!(outcomes.contains(&json!(40400)));
    let third = author.create(&mut host, "third");
    host.pass(Duration::from_secs(121));
    host.settle();
    let mut author = Author::connect(&mut host, 0);
    author.message(&mut host, update(&third));
    assert_eq!(author.outcomes(&mut host), [40400], "it was kept too long");
}

#[test]
fn without_the_mode_an_attached_client_changes_nothing() {
    let mut host = Host::new(1, 5);
    let mut author = Author::connect(&mut host, 0);
    let message = author.create(&mut host, "x");
    let client = author.client;
    let modes = json!({ "modes": "subscribe" });
    attach_with(&mut host, client, json!({ "action": 10, "channel": ROOM, "params": modes }));
    author.message(&mut host, json!({ "action": 1, "serial": message, "data": "y" }));
    author.annotate(&mut host, &message, KIND);
    assert_eq!(author.outcomes(&mut host), [40165, 40165]);
}

#[test]
fn annotations_are_heard_by_whoever_made_them_echo_or_not() {
    let mut host = Host::new(2, 5);
    let client = host.connect(0, "&clientId=author&echo=false");
    let params = json!({ "modes": "subscribe,publish,annotation_publish,annotation_subscribe" });
    host.send(client, &json!({"action": 10, "channel": ROOM, "params": params}));
    host.settle();
    host.messages(client);
    let mut author = Author { client, next: 0 };
    let serial = author.create(&mut host, "one");
    author.annotate(&mut host, &serial, KIND);
    host.settle();
    let heard = host.messages(client);
    assert!(heard.iter().any(|message| message["action"] == 21), "{heard:?}");
    let is_own = |message: &Value| message["messages"][0]["data"] == "one";
    assert!(!heard.iter().any(is_own), "{heard:?}");
}
