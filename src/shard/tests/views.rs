//! Attachments that see a channel in their own way: deltas, filters, params.

use data_encoding::BASE64;

use super::super::streams::STREAMS_PER_CHANNEL_MAX;
use super::*;
use crate::ably::vcdiff::decoder::decode;

/// A client of ably-js's kind: it applies deltas to what it was sent last, and checks where they say
/// they start from.
#[derive(Default)]
struct Subscriber {
    /// Id of the last message, and its payload.
    last: Option<(String, Vec<u8>)>,
    serial: Option<String>,
    data: Vec<String>,
    /// Messages that came as deltas.
    deltas: usize,
}

impl Subscriber {
    /// Takes what has come for `channel`.
    fn take(&mut self, messages: &[Value], channel: &str) {
        for message in messages.iter().filter(|message| message["channel"] == channel) {
            if let Some(serial) = message["channelSerial"].as_str() {
                self.serial = Some(serial.into());
            }
            for message in message["messages"].as_array().into_iter().flatten() {
                self.take_message(message);
            }
        }
    }

    fn take_message(&mut self, message: &Value) {
        let text = message["data"].as_str().expect("text in JSON");
        let payload = match message["extras"]["delta"].as_object() {
            None => text.as_bytes().to_vec(),
            Some(delta) => {
                self.deltas += 1;
                let (id, base) = self.last.as_ref().expect("a delta follows a message");
                assert_eq!((&delta["from"], &delta["format"]), (&json!(id), &json!("vcdiff")));
                assert_eq!(message["encoding"], "utf-8/vcdiff/base64");
                let delta = BASE64.decode(text.as_bytes()).expect("base64");
                decode(base, &delta).expect("a delta of what was sent last")
            }
        };
        self.data.push(String::from_utf8(payload.clone()).expect("text"));
        self.last = Some((message["id"].as_str().expect("every message has one").into(), payload));
    }
}

/// A payload like the one before it, told apart by its number.
fn data_of(number: usize) -> String {
    format!(r#"{{"status":"as it was","number":{number},"colour":"unchanged"}}"#)
}

fn expected(numbers: std::ops::Range<usize>) -> Vec<String> {
    numbers.map(data_of).collect()
}

fn attach_delta(host: &mut Host, client: usize, serial: Option<&str>) {
    let mut attach = json!({"action": 10, "channel": "room", "params": {"delta": "vcdiff"}});
    if let Some(serial) = serial {
        attach["channelSerial"] = json!(serial);
    }
    host.send(client, &attach);
}

#[test]
fn all_messages_but_the_first_come_as_deltas() {
    let mut host = Host::new(2, 1);
    let (publisher, client, plain) =
        (host.connect(0, ""), host.connect(1, ""), host.connect(1, ""));
    host.attach(plain, "room");
    attach_delta(&mut host, client, None);
    host.settle();
    let attached = host.messages(client).pop().expect("answered");
    assert_eq!(attached["params"], json!({"delta": "vcdiff"}));
    for number in 0..5 {
        host.publish(publisher, number as u64, "room", &data_of(number));
    }
    host.settle();
    let mut subscriber = Subscriber::default();
    subscriber.take(&host.messages(client), "room");
    assert_eq!((subscriber.data, subscriber.deltas), (expected(0..5), 4));
    assert_eq!(host.data(plain, "room"), expected(0..5));
}

#[test]
fn whoever_comes_later_gets_its_first_message_in_full_and_then_the_same_deltas() {
    let mut host = Host::new(1, 2);
    let publisher = host.connect(0, "");
    let clients = [host.connect(0, ""), host.connect(0, "")];
    let mut subscribers = [Subscriber::default(), Subscriber::default()];
    attach_delta(&mut host, clients[0], None);
    for number in 0..3 {
        host.publish(publisher, number as u64, "room", &data_of(number));
    }
    host.settle();
    attach_delta(&mut host, clients[1], None);
    for number in 3..6 {
        host.publish(publisher, number as u64, "room", &data_of(number));
    }
    host.settle();
    for (client, subscriber) in clients.iter().zip(&mut subscribers) {
        subscriber.take(&host.messages(*client), "room");
    }
    let [first, second] = subscribers;
    assert_eq!((first.data, first.deltas), (expected(0..6), 5));
    assert_eq!((second.data, second.deltas), (expected(3..6), 2));
}

#[test]
fn a_client_that_could_not_decode_gets_everything_again_from_where_it_says() {
    for seed in 1..=20 {
        let mut host = Host::new(3, seed);
        let (publisher, client) = (host.connect(0, ""), host.connect(1, ""));
        attach_delta(&mut host, client, None);
        host.settle();
        let mut subscriber = Subscriber::default();
        for number in 0..2 {
            host.publish(publisher, number as u64, "room", &data_of(number));
        }
        host.settle();
        subscriber.take(&host.messages(client), "room");
        assert_eq!(subscriber.deltas, 1);
        // The third is not understood, and neither it nor what follows is kept.
        host.publish(publisher, 2, "room", &data_of(2));
        for _ in 0..host.below(60) {
            host.step();
        }
        host.publish(publisher, 3, "room", &data_of(3));
        attach_delta(&mut host, client, subscriber.serial.as_deref());
        for _ in 0..host.below(60) {
            host.step();
        }
        host.publish(publisher, 4, "room", &data_of(4));
        host.settle();
        let messages = host.messages(client);
        let attached = messages.iter().position(|message| message["action"] == 11);
        let attached = attached.expect("answered");
        let flags = messages[attached]["flags"].as_u64().unwrap();
        assert_eq!(flags & 4, 4, "RESUMED");
        subscriber.take(&messages[attached..], "room");
        assert_eq!(subscriber.data, expected(0..5), "seed={seed}");
        // The first that came again was in full, all others were not: one before, and two since. What
        // had not left when the client asked goes on from what it has.
        let is_repeated = messages[..attached].iter().any(|message| message["action"] == 15);
        let deltas = subscriber.deltas;
        assert!(deltas == 3 || deltas == 4 && !is_repeated, "seed={seed} {deltas}");
    }
}

#[test]
fn a_client_that_could_not_decode_is_not_answered_by_what_it_asked_before() {
    for seed in 1..=20 {
        let mut host = Host::new(2, seed);
        let (publisher, client) = (host.connect(0, "&clientId=ann"), host.connect(1, ""));
        host.attach(publisher, "room");
        let enter = json!({"action": 14, "channel": "room", "msgSerial": 0,
                           "presence": [{"action": 2}]});
        host.send(publisher, &enter);
        host.settle();
        attach_delta(&mut host, client, None);
        host.settle();
        let mut subscriber = Subscriber::default();
        for number in 0..2 {
            host.publish(publisher, number as u64 + 1, "room", &data_of(number));
        }
        host.settle();
        subscriber.take(&host.messages(client), "room");
        host.publish(publisher, 3, "room", &data_of(2));
        host.settle();
        host.messages(client);
        // The home is asked for the members, and has not answered.
        attach_delta(&mut host, client, None);
        attach_delta(&mut host, client, subscriber.serial.as_deref());
        host.settle();
        let messages = host.messages(client);
        let attached: Vec<_> = messages.iter().filter(|it| it["action"] == 11).collect();
        assert_eq!(attached.len(), 2, "seed={seed}");
        for attached in attached {
            assert_eq!(attached["flags"].as_u64().unwrap() & 4, 4, "RESUMED, seed={seed}");
        }
        subscriber.take(&messages, "room");
        assert_eq!(subscriber.data, expected(0..3), "seed={seed}");
    }
}

#[test]
fn other_options_do_not_bring_again_what_is_on_its_way() {
    const PUBLISH: u64 = 1 << 17;
    const SUBSCRIBE: u64 = 1 << 18;
    for seed in 1..=20 {
        let mut host = Host::new(2, seed);
        let (publisher, client) = (host.connect(0, ""), host.connect(1, ""));
        let attach = |flags: u64, rewind: &str, serial: &Option<String>| {
            let params = json!({"delta": "vcdiff", "rewind": rewind});
            json!({"action": 10, "channel": "room", "flags": flags | 1 << 5,
                                "params": params, "channelSerial": serial})
        };
        host.messages(client);
        host.send(client, &attach(SUBSCRIBE, "1", &None));
        host.settle();
        let mut subscriber = Subscriber::default();
        let options = [(SUBSCRIBE | PUBLISH, "1"), (SUBSCRIBE, "1"), (SUBSCRIBE, "2")];
        for (number, (flags, rewind)) in options.into_iter().enumerate() {
            host.publish(publisher, 2 * number as u64, "room", &data_of(2 * number));
            host.settle();
            subscriber.take(&host.messages(client), "room");
            // Sent by the server while the client says where it has come to.
            host.publish(publisher, 2 * number as u64 + 1, "room", &data_of(2 * number + 1));
            host.settle();
            host.send(client, &attach(flags, rewind, &subscriber.serial));
            host.settle();
        }
        subscriber.take(&host.messages(client), "room");
        assert_eq!(subscriber.data, expected(0..6), "seed={seed}");
        assert_eq!(subscriber.deltas, 5, "seed={seed}");
    }
}

#[test]
fn deltas_make_sense_to_everybody_whatever_the_order_of_things() {
    for seed in 1..=60 {
        let mut host = Host::new(3, seed);
        let publisher = host.connect(0, "");
        // The first does not hear itself and publishes as well.
        let queries = ["&echo=false", "", "", ""];
        let clients: Vec<usize> =
            queries.iter().enumerate().map(|(at, query)| host.connect(at % 3, query)).collect();
        let mut subscribers: Vec<Subscriber> = clients.iter().map(|_| Default::default()).collect();
        let (mut own_serial, mut foreign, mut all) = (0, Vec::new(), Vec::new());
        for number in 0..40 {
            let (at, data) = (host.below(clients.len()), data_of(number));
            match host.below(4) {
                // What it was sent on the old attachment is sorted out from what comes on the new one.
                0 => {
                    host.settle();
                    let messages = host.messages(clients[at]);
                    subscribers[at].take(&messages, "room");
                    let serial = subscribers[at].serial.clone();
                    attach_delta(&mut host, clients[at], serial.as_deref());
                    subscribers[at].last = subscribers[at].last.take();
                }
                1 => {
                    host.publish(clients[0], own_serial, "room", &data);
                    own_serial += 1;
                    all.push(data);
                }
                _ => {
                    host.publish(publisher, foreign.len() as u64, "room", &data);
                    foreign.push(data.clone());
                    all.push(data);
                }
            }
            for _ in 0..host.below(30) {
                host.step();
            }
        }
        host.settle();
        for (at, subscriber) in subscribers.iter_mut().enumerate() {
            subscriber.take(&host.messages(clients[at]), "room");
            let expected = if at == 0 { &foreign } else { &all };
            // From when it first attached on, and in the order that the home has given.
            for pair in subscriber.data.windows(2) {
                assert_ne!(pair[0], pair[1], "seed={seed}");
            }
            assert!(subscriber.data.iter().all(|data| expected.contains(data)), "seed={seed}");
        }
        let longest = subscribers[1..].iter().map(|subscriber| &subscriber.data);
        let longest = longest.max_by_key(|data| data.len()).expect("three");
        for subscriber in &subscribers[1..] {
            let tail = &longest[longest.len() - subscriber.data.len()..];
            assert_eq!(subscriber.data, tail, "seed={seed}");
        }
    }
}

#[test]
fn several_messages_of_one_publish_build_on_each_other() {
    let mut host = Host::new(1, 4);
    let (publisher, client) = (host.connect(0, ""), host.connect(0, ""));
    attach_delta(&mut host, client, None);
    let mut subscriber = Subscriber::default();
    for msg_serial in 0..2 {
        let messages: Vec<Value> =
            (0..3).map(|at| json!({"data": data_of(3 * msg_serial + at)})).collect();
        let publish =
            json!({"action": 15, "msgSerial": msg_serial, "channel": "room", "messages": messages});
        host.send(publisher, &publish);
    }
    host.settle();
    subscriber.take(&host.messages(client), "room");
    assert_eq!((subscriber.data, subscriber.deltas), (expected(0..6), 5));
}

#[test]
fn a_message_without_a_usable_payload_breaks_the_chain_and_the_next_mends_it() {
    let mut host = Host::new(1, 4);
    let (publisher, client) = (host.connect(0, ""), host.connect(0, ""));
    attach_delta(&mut host, client, None);
    let payloads = [json!(data_of(0)), Value::Null, json!(data_of(2)), json!(data_of(3))];
    for (msg_serial, data) in payloads.iter().enumerate() {
        let messages = json!([{"data": data, "extras": {"headers": {"n": 1}}}]);
        let publish =
            json!({"action": 15, "msgSerial": msg_serial, "channel": "room", "messages": messages});
        host.send(publisher, &publish);
    }
    host.settle();
    let messages = host.messages(client);
    let messages = messages.iter().filter(|message| message["action"] == 15);
    let messages: Vec<_> = messages.map(|message| &message["messages"][0]).collect();
    let deltas: Vec<_> =
        messages.iter().map(|message| !message["extras"]["delta"].is_null()).collect();
    assert_eq!(deltas, [false, false, false, true]);
    assert!(messages.iter().all(|message| message["extras"]["headers"]["n"] == 1));
}

fn filtered(expression: &str) -> String {
    format!("[filter={}]room", BASE64.encode(expression.as_bytes()))
}

/// What of several messages in one publish arrives on `channel`: their indexes.
fn indexes(host: &mut Host, client: usize, channel: &str) -> Vec<Vec<u64>> {
    let messages = host.messages(client);
    let of_channel =
        messages.iter().filter(|message| message["action"] == 15 && message["channel"] == channel);
    let index = |message: &Value| {
        let serial = message["serial"].as_str().expect("always there");
        serial.rsplit_once(':').unwrap().1.parse::<u64>().unwrap()
    };
    of_channel
        .map(|message| message["messages"].as_array().unwrap().iter().map(index).collect())
        .collect()
}

#[test]
fn a_derived_channel_has_the_messages_that_pass_its_filter() {
    let mut host = Host::new(2, 6);
    let (publisher, client) = (host.connect(0, ""), host.connect(1, ""));
    let (red, blue) = (filtered("headers.colour == 'red'"), filtered("headers.colour == 'blue'"));
    let attached = host.attach(client, &red);
    // Nothing but a subscription.
    assert_eq!(attached["flags"], 1 << 18);
    host.attach(client, &blue);
    host.attach(client, "room");
    for (msg_serial, colours) in
        [&["red", "blue", "red"][..], &["blue"], &["green"]].iter().enumerate()
    {
        let messages: Vec<Value> = colours
            .iter()
            .map(|colour| json!({"data": "x", "extras": {"headers": {"colour": colour}}}))
            .collect();
        let publish =
            json!({"action": 15, "msgSerial": msg_serial, "channel": "room", "messages": messages});
        host.send(publisher, &publish);
    }
    host.settle();
    let received = host.messages(client);
    let count = |channel: &str| {
        let of_channel = received.iter().filter(|message| message["channel"] == channel);
        of_channel.filter(|message| message["action"] == 15).count()
    };
    assert_eq!((count(&red), count(&blue), count("room")), (1, 2, 3));
    let reader = host.connect(0, "");
    host.messages(reader);
    host.send(
        reader,
        &json!({"action": 10, "channel": red, "channelSerial": attached["channelSerial"]}),
    );
    host.settle();
    // The places in the publish are those of the channel itself.
    assert_eq!(indexes(&mut host, reader, &red), [[0, 2]]);
}

#[test]
fn a_derived_channel_refuses_what_it_cannot_do() {
    let mut host = Host::new(2, 6);
    let client = host.connect(0, "");
    host.messages(client);
    for (channel, code) in [
        (filtered("name =="), 40000),
        (filtered("headers.*"), 40000),
        ("[filter=%%%]room".into(), 40010),
        ("[meta]nothing".into(), 40010),
    ] {
        host.send(client, &json!({"action": 10, "channel": channel}));
        host.settle();
        let answer = host.messages(client).pop().expect("answered");
        assert_eq!((&answer["action"], &answer["error"]["code"]), (&json!(9), &json!(code)));
        assert_eq!(answer["channel"], json!(channel));
    }
    host.publish(client, 0, &filtered("name == 'a'"), "x");
    host.settle();
    let answer = host.messages(client).pop().expect("answered");
    assert_eq!((&answer["action"], &answer["error"]["code"]), (&json!(2), &json!(40010)));
}

#[test]
fn one_filter_more_than_a_channel_applies_is_refused_and_those_in_use_go_on() {
    let mut host = Host::new(2, 8);
    let (client, other) = (host.connect(0, ""), host.connect(1, ""));
    for number in 0..crate::channel::home::FILTERS_MAX {
        host.send(
            client,
            &json!({"action": 10, "channel": filtered(&format!("name == 'n{number}'"))}),
        );
    }
    host.settle();
    host.messages(client);
    host.messages(other);
    host.attach(other, &filtered("name == 'n7'"));
    let more = filtered("name == 'more'");
    host.send(other, &json!({"action": 10, "channel": more}));
    host.settle();
    let answer = host.messages(other).pop().expect("answered");
    assert_eq!((&answer["action"], &answer["error"]["code"]), (&json!(9), &json!(90010)));
    host.send(client, &json!({"action": 12, "channel": filtered("name == 'n3'")}));
    host.settle();
    host.attach(other, &more);
}

#[test]
fn one_name_more_than_a_shard_has_for_a_channel_is_refused_and_its_own_name_is_not() {
    let mut host = Host::new(2, 9);
    let (client, other) = (host.connect(0, ""), host.connect(1, ""));
    for number in 0..STREAMS_PER_CHANNEL_MAX {
        host.send(client, &json!({"action": 10, "channel": format!("[?x={number}]room")}));
    }
    host.settle();
    let answers = host.messages(client);
    let attached = answers.iter().filter(|answer| answer["action"] == 11);
    assert_eq!(attached.count(), STREAMS_PER_CHANNEL_MAX);
    let mails =
        |host: &Host| host.shards[0].outboxes.iter().map(|outbox| outbox.len()).sum::<usize>();
    for (channel, params) in
        [("[?x=more]room", json!({})), ("room", json!({"occupancy": "metrics"}))]
    {
        host.send(client, &json!({"action": 10, "channel": channel, "params": params}));
        assert_eq!(mails(&host), 0, "nothing is asked of the home");
        host.settle();
        let answer = host.messages(client).pop().expect("answered");
        assert_eq!((&answer["action"], &answer["channel"]), (&json!(9), &json!(channel)));
        assert_eq!(answer["error"]["code"], 90010);
    }
    // What others do does not keep anybody from the channel itself, and the bound is each shard's own.
    host.attach(client, "room");
    host.messages(other);
    host.attach(other, "[?x=more]room");
    host.send(client, &json!({"action": 12, "channel": "[?x=3]room"}));
    host.send(client, &json!({"action": 12, "channel": "room"}));
    host.settle();
    host.messages(client);
    host.attach(client, "[?x=more]room");
    host.publish(other, 0, "room", "x");
    host.settle();
    assert_eq!(host.data(client, "[?x=more]room"), ["x"]);
}

#[test]
fn echo_is_a_matter_of_the_attachment() {
    let mut host = Host::new(2, 3);
    let client = host.connect(0, "");
    host.attach(client, "loud");
    let quiet = json!({"action": 10, "channel": "quiet", "params": {"echo": "false"}});
    host.send(client, &quiet);
    host.settle();
    let attached = host.messages(client).pop().expect("answered");
    assert_eq!(attached["params"], json!({"echo": "false"}));
    host.publish(client, 0, "loud", "x");
    host.publish(client, 1, "quiet", "x");
    host.settle();
    let messages = host.messages(client);
    let heard = messages.iter().filter(|message| message["action"] == 15);
    assert!(heard.map(|message| &message["channel"]).eq([&json!("loud")]));
    // Changed on the way.
    host.attach(client, "quiet");
    host.publish(client, 2, "quiet", "heard");
    host.settle();
    assert_eq!(host.data(client, "quiet"), ["heard"]);
}

#[test]
fn what_is_published_for_a_connection_over_rest_is_its_own() {
    let mut host = Host::new(2, 3);
    let (quiet, other) = (host.connect(0, "&echo=false"), host.connect(1, ""));
    let key = host.messages(quiet).remove(0)["connectionDetails"]["connectionKey"].clone();
    host.attach(quiet, "room");
    host.attach(other, "room");
    for (body, shard) in
        [(json!({"data": "own", "connectionKey": key}), 1), (json!({"data": "x"}), 0)]
    {
        let line = format!("POST /channels/room/messages?key={KEY}");
        let json = "Content-Type: application/json\r\n";
        let (status, answer) =
            super::apps::request(&mut host, shard, &line, json, &body.to_string());
        assert_eq!(status, 201, "{answer}");
    }
    assert_eq!(host.data(quiet, "room"), ["x"]);
    assert_eq!(host.data(other, "room"), ["own", "x"]);
}

/// The numbers of the occupancy events that have come for `channel`.
fn occupancy(host: &mut Host, client: usize, channel: &str) -> Vec<Value> {
    let messages = host.messages(client);
    let of_channel = messages.iter().filter(|message| message["channel"] == channel);
    let events =
        of_channel.flat_map(|message| message["messages"].as_array().into_iter().flatten());
    let events = events.filter(|event| event["name"] == "[meta]occupancy");
    events
        .map(|event| {
            assert_eq!(event["encoding"], "json");
            let data: Value = serde_json::from_str(event["data"].as_str().unwrap()).expect("JSON");
            data["metrics"].clone()
        })
        .collect()
}

#[test]
fn occupancy_is_told_on_attach_at_once_around_zero_and_otherwise_after_a_while() {
    for seed in 1..=10 {
        let mut host = Host::new(3, seed);
        let watcher = host.connect(0, "");
        let others = [host.connect(1, ""), host.connect(2, ""), host.connect(1, "")];
        let subscribe = json!({"action": 10, "channel": "room", "flags": 1 << 18});
        let mut watch = subscribe.clone();
        watch["params"] = json!({"occupancy": "metrics"});
        host.messages(watcher);
        host.send(watcher, &watch);
        host.settle();
        let told = occupancy(&mut host, watcher, "room");
        let last = told.last().expect("told right after the attach");
        assert_eq!(last["connections"], 1);
        assert_eq!((&last["subscribers"], &last["publishers"]), (&json!(1), &json!(0)));
        assert_eq!(last.as_object().unwrap().len(), 8);
        // One more of what there is already has to wait.
        host.send(others[0], &subscribe);
        host.settle();
        assert!(occupancy(&mut host, watcher, "room").is_empty());
        host.send(others[1], &subscribe);
        host.settle();
        host.pass(Duration::from_secs(6));
        host.settle();
        let told = occupancy(&mut host, watcher, "room");
        assert_eq!(told.len(), 1, "seed={seed}");
        assert_eq!((&told[0]["connections"], &told[0]["subscribers"]), (&json!(3), &json!(3)));
        // The first publisher does not.
        host.attach(others[2], "room");
        let told = occupancy(&mut host, watcher, "room");
        assert_eq!((&told[0]["publishers"], &told[0]["connections"]), (&json!(1), &json!(4)));
        host.send(others[2], &json!({"action": 12, "channel": "room"}));
        host.settle();
        let told = occupancy(&mut host, watcher, "room");
        assert_eq!((&told[0]["publishers"], &told[0]["connections"]), (&json!(0), &json!(3)));
    }
}

#[test]
fn one_category_of_occupancy_is_told_when_that_changes() {
    let mut host = Host::new(2, 3);
    let (watcher, other) = (host.connect(0, ""), host.connect(1, ""));
    let params = json!({"occupancy": "metrics.publishers"});
    host.messages(watcher);
    host.send(
        watcher,
        &json!({"action": 10, "channel": "room", "flags": 1 << 18, "params": params}),
    );
    host.settle();
    assert_eq!(occupancy(&mut host, watcher, "room"), [json!({"publishers": 0})]);
    host.send(other, &json!({"action": 10, "channel": "room", "flags": 1 << 18}));
    host.settle();
    host.pass(Duration::from_secs(6));
    host.settle();
    assert!(occupancy(&mut host, watcher, "room").is_empty());
    host.send(other, &json!({"action": 10, "channel": "room", "flags": 1 << 17 | 1 << 18}));
    host.settle();
    assert_eq!(occupancy(&mut host, watcher, "room"), [json!({"publishers": 1})]);
}

#[test]
fn channels_count_their_attachments_whether_or_not_somebody_asks() {
    let mut host = Host::new(2, 3);
    let clients: Vec<usize> = (0..6).map(|at| host.connect(at % 2, "")).collect();
    for &client in &clients {
        host.attach(client, "room");
    }
    host.send(clients[0], &json!({"action": 10, "channel": "room", "flags": 1 << 18}));
    host.send(clients[1], &json!({"action": 12, "channel": "room"}));
    host.settle();
    let key = ChannelKey::new("app", "room");
    let home = key.home(2);
    let metrics = host.shards[home].homes.get_mut(&key).expect("open").occupancy();
    let numbers: Vec<u32> = metrics.named().map(|(_, number)| number).collect();
    assert_eq!(numbers, [5, 4, 5, 4, 0, 4, 0, 0]);
    for &client in &clients {
        host.send(client, &json!({"action": 7}));
    }
    host.settle();
    let home = host.shards[home].homes.get_mut(&key).expect("kept for a while");
    assert_eq!(home.occupancy(), Metrics::default());
}

#[test]
fn deltas_go_on_in_full_behind_an_occupancy_event() {
    let mut host = Host::new(1, 3);
    let (client, publisher) = (host.connect(0, ""), host.connect(0, ""));
    let params = json!({"occupancy": "metrics", "delta": "vcdiff"});
    let attach = json!({"action": 10, "channel": "room", "flags": 1 << 18, "params": params});
    host.send(client, &attach);
    host.settle();
    host.messages(client);
    for number in 0..2 {
        host.publish(publisher, number, "room", &data_of(number as usize));
    }
    host.settle();
    // The first that may publish while attached is told of at once.
    host.attach(publisher, "room");
    for number in 2..4 {
        host.publish(publisher, number, "room", &data_of(number as usize));
    }
    host.settle();
    let messages = host.messages(client);
    let messages = messages.iter().filter(|message| message["action"] == 15);
    let kinds: Vec<&str> = messages
        .map(|message| &message["messages"][0])
        .map(|message| match message["extras"]["delta"].is_object() {
            true => "delta",
            false if message["name"] == "[meta]occupancy" => "occupancy",
            false => "full",
        })
        .collect();
    assert_eq!(kinds, ["full", "delta", "occupancy", "full", "delta"]);
}

#[test]
fn of_two_attaches_that_wait_the_second_is_void_when_the_first_cannot_be_answered() {
    let config = ShardConfig { mail_max: 1, ..ShardConfig::default() };
    let mut host = Host::with_config(2, 3, config);
    let (client, other) = (host.connect(0, ""), host.connect(0, ""));
    host.messages(client);
    let mut names = (0..).map(|number| format!("room{number}"));
    let room = names.find(|name| ChannelKey::new("app", name).home(2) == 1).expect("one of many");
    let attach = json!({"action": 10, "channel": room, "params": {"rewind": "1"}});
    host.send(client, &attach);
    host.send(client, &attach);
    host.send(other, &json!({"action": 10, "channel": room}));
    let subscribe = host.shards[0].poll_mail(1).expect("asked");
    host.shards[1].handle_mail(0, subscribe);
    // Something else is on its way to the home, which is all that may be.
    host.publish(other, 0, &room, "x");
    let gauges = host.shards[0].gauges();
    assert!(gauges.mail_waiting == 1 && gauges.mail_waiting_bytes > 0, "{gauges:?}");
    let subscribed = host.shards[1].poll_mail(0).expect("answered");
    host.shards[0].handle_mail(1, subscribed);
    host.settle();
    let answers = host.messages(client);
    let actions: Vec<&Value> = answers.iter().map(|answer| &answer["action"]).collect();
    assert_eq!(actions, [&json!(13)], "{answers:?}");
    assert_eq!(answers[0]["error"]["code"], 50004);
    host.attach(client, &room);
}
