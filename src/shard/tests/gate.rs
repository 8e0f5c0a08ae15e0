//! Rules that are asked before a publish.

use super::*;
use crate::ably::{
    ChannelFilter, Gate, Inquiry, OnFailure, QuestionShape, RequestShape, Rule, RuleSource, Rules,
    Verdict, WhenFull, read_verdict,
};

const GATE: Gate = Gate {
    on_failure: OnFailure::Reject,
    timeout: Duration::from_secs(5),
    concurrency: 1,
    retries_max: 0,
    retries_throttled: false,
    shape: QuestionShape::Messages,
};

fn rule(id: &str, gate: Gate) -> Arc<Rule> {
    rule_for("^(gated|mutable):", id, gate)
}

fn rule_for(filter: &str, id: &str, gate: Gate) -> Arc<Rule> {
    let filter = ChannelFilter::compile(filter).expect("a filter");
    let (source, shape) = (RuleSource::Message, RequestShape::Enveloped);
    let (format, full) = (Format::Json, WhenFull::DropOldest);
    Arc::new(Rule::new(id, "app", source, filter, shape, format, full, 1 << 20).with_gate(gate))
}

fn host(shards: usize, seed: u64, gates: &[Gate]) -> Host {
    let rules = gates.iter().zip(["a", "b"]).map(|(gate, id)| rule(id, *gate));
    let mut host = Host::new(shards, seed);
    host.set_rules(Rules::new(rules));
    host
}

impl Host {
    /// Questions that were handed over since the last call.
    fn inquiries(&mut self) -> Vec<Inquiry> {
        self.shards.iter_mut().flat_map(Shard::take_inquiries).collect()
    }

    /// The one question that was handed over.
    fn inquiry(&mut self) -> Inquiry {
        let mut inquiries = self.inquiries();
        let inquiry = inquiries.pop().expect("a question");
        assert!(inquiries.is_empty(), "one question");
        inquiry
    }

    fn answer(&mut self, inquiry: &Inquiry, answer: &Value) {
        let verdict = read_verdict(answer.to_string().as_bytes()).unwrap_or_else(Verdict::Failed);
        self.shards[usize::from(inquiry.shard)].handle_verdict((inquiry.number, verdict));
        self.settle();
    }

    /// What a client was told of its publishes: msgSerial, and code and detail of an error.
    fn outcomes(&mut self, client: usize) -> Vec<(u64, Option<u64>, Value)> {
        let messages = self.messages(client);
        let outcomes = messages.iter().filter(|told| told["action"] == 1 || told["action"] == 2);
        let each = outcomes.flat_map(|told| {
            let first = told["msgSerial"].as_u64().expect("each has one");
            let error = (told["error"]["code"].as_u64(), told["error"]["detail"].clone());
            let count = told["count"].as_u64().expect("each has one");
            (first..first + count).map(move |serial| (serial, error.0, error.1.clone()))
        });
        each.collect()
    }
}

/// The data of the first message that is asked about.
fn asked(inquiry: &Inquiry) -> String {
    let body: Value = serde_json::from_slice(&inquiry.body).expect("JSON");
    body["messages"][0]["data"].as_str().unwrap_or_default().to_owned()
}

fn accept() -> Value {
    json!({"action": "accept"})
}

#[test]
fn a_publish_waits_for_its_answer_and_is_replaced_rejected_or_let_through() {
    for seed in 1..8 {
        let mut host = host(3, seed, &[GATE]);
        let (publisher, subscriber) = (host.connect(0, ""), host.connect(1, ""));
        host.attach(subscriber, "gated:room");
        host.messages(publisher);
        for (serial, data) in ["plain", "darn", "rude", "held"].into_iter().enumerate() {
            host.publish(publisher, serial as u64, "gated:room", data);
        }
        host.settle();
        assert_eq!(host.outcomes(publisher), []);
        assert_eq!(host.data(subscriber, "gated:room"), [""; 0]);
        let answers = [
            ("plain", accept()),
            ("darn", json!({"action": "accept", "messages": [{"data": "****"}]})),
            (
                "rude",
                json!({"action": "reject", "code": 42213, "rejectionDetail": {"word": "rude"}}),
            ),
        ];
        for (data, answer) in answers {
            let inquiry = host.inquiry();
            assert_eq!(asked(&inquiry), data, "one at a time");
            host.answer(&inquiry, &answer);
        }
        let told = host.outcomes(publisher);
        let detail = json!({"word": "rude"});
        let none = Value::Null;
        assert_eq!(
            told,
            [(0, None, none.clone()), (1, None, none), (2, Some(42213), detail)],
            "seed {seed}"
        );
        assert_eq!(host.data(subscriber, "gated:room"), ["plain", "****"]);
        let last = host.inquiry();
        host.answer(&last, &accept());
        // An answer counts once.
        host.answer(&last, &accept());
        assert_eq!(host.data(subscriber, "gated:room"), ["held"]);
    }
}

#[test]
fn without_an_answer_the_rule_says_what_happens() {
    for (on_failure, published) in [(OnFailure::Reject, false), (OnFailure::Publish, true)] {
        let mut host = host(2, 3, &[Gate { on_failure, ..GATE }]);
        let (publisher, subscriber) = (host.connect(0, ""), host.connect(1, ""));
        host.attach(subscriber, "gated:room");
        host.messages(publisher);
        for serial in 0..20 {
            host.publish(publisher, serial, "gated:room", &serial.to_string());
        }
        host.settle();
        let late = host.inquiry();
        host.pass(Duration::from_secs(4));
        host.publish(publisher, 20, "gated:room", "later");
        host.settle();
        assert_eq!(host.outcomes(publisher), []);
        // Those who have waited as long as an answer may take share the fate of the first.
        host.pass(Duration::from_secs(1));
        host.settle();
        let told = host.outcomes(publisher);
        let serials: Vec<u64> = told.iter().map(|(serial, ..)| *serial).collect();
        assert_eq!(serials, (0..20).collect::<Vec<_>>());
        let code = (!published).then_some(42211);
        assert!(told.iter().all(|(_, error, _)| *error == code), "{told:?}");
        let expected: Vec<String> = (0..20).map(|serial| serial.to_string()).collect();
        let data = host.data(subscriber, "gated:room");
        assert_eq!(data, if published { expected } else { vec![] });
        host.answer(&late, &json!({"action": "reject"}));
        let next = host.inquiry();
        assert_eq!(asked(&next), "later");
        host.answer(&next, &accept());
        assert_eq!(host.outcomes(publisher), [(20, None, Value::Null)]);
        let counters = host.shards.iter().map(Shard::counters);
        assert_eq!(counters.map(|counters| counters.failed_questions).sum::<u64>(), 1);
        assert!(host.shards.iter().all(|shard| shard.gauges().publishes_waiting == 0));
    }
}

#[test]
fn who_has_waited_long_for_a_rule_that_answers_is_asked_about_all_the_same() {
    let mut host = host(1, 16, &[GATE]);
    let publisher = host.connect(0, "");
    host.messages(publisher);
    for serial in 0..3 {
        host.publish(publisher, serial, "gated:room", &serial.to_string());
    }
    host.settle();
    for expected in ["0", "1", "2"] {
        host.pass(Duration::from_secs(4));
        host.settle();
        let inquiry = host.inquiry();
        assert_eq!(asked(&inquiry), expected);
        let answer = if expected == "1" { json!("what?") } else { accept() };
        host.answer(&inquiry, &answer);
    }
    let told = host.outcomes(publisher).into_iter().map(|(_, code, _)| code);
    assert_eq!(told.collect::<Vec<_>>(), [None, Some(42211), None]);
}

#[test]
fn what_cannot_be_published_is_no_answer() {
    let mut host = host(1, 4, &[Gate { on_failure: OnFailure::Publish, ..GATE }]);
    let (publisher, subscriber) = (host.connect(0, ""), host.connect(0, ""));
    host.attach(subscriber, "gated:room");
    let answers = [
        json!({"action": "accept", "messages": [{"data": "x", "clientId": "somebody"}]}),
        json!({"action": "accept", "messages": [{"data": "x".repeat(65_537)}]}),
        json!({"action": "accept", "messages": []}),
        json!({"action": "perhaps"}),
    ];
    for (serial, answer) in answers.iter().enumerate() {
        host.publish(publisher, serial as u64, "gated:room", "as it was");
        host.settle();
        let inquiry = host.inquiry();
        host.answer(&inquiry, answer);
        assert_eq!(host.data(subscriber, "gated:room"), ["as it was"], "{answer}");
    }
}

#[test]
fn channels_do_not_wait_for_each_other_and_each_keeps_its_order() {
    for seed in 1..12 {
        let concurrency = 1 + seed as usize % 4;
        let mut host = host(3, seed, &[Gate { concurrency, ..GATE }]);
        let publishers: Vec<usize> = (0..3).map(|shard| host.connect(shard, "")).collect();
        let subscriber = host.connect(seed as usize % 3, "");
        let channels = ["gated:a", "gated:b", "free"];
        for channel in channels {
            host.attach(subscriber, channel);
        }
        let mut expected = vec![vec![]; 3];
        for number in 0..30 {
            for (of, channel) in channels.iter().enumerate() {
                // One publisher a channel, so that there is an order to keep.
                let data = format!("{channel} {number}");
                let serial = number;
                host.publish(publishers[of], serial, channel, &data);
                let is_rejected = of < 2 && number % 7 == 3;
                if !is_rejected {
                    expected[of].push(data);
                }
            }
            host.step();
        }
        host.settle();
        assert_eq!(host.data(subscriber, "free").len(), 30, "nobody asks about them");
        expected.pop();
        let mut open = host.inquiries();
        let under_way = |open: &[Inquiry], channel: &str| {
            open.iter().filter(|inquiry| *inquiry.channel == *channel).count()
        };
        let mut seen = vec![vec![]; 2];
        while !open.is_empty() {
            for channel in ["gated:a", "gated:b"] {
                assert!(under_way(&open, channel) <= concurrency, "seed {seed}");
            }
            let at = host.below(open.len());
            let inquiry = open.swap_remove(at);
            let number: u64 = asked(&inquiry).rsplit_once(' ').unwrap().1.parse().unwrap();
            let verdict = if number % 7 == 3 { json!({"action": "reject"}) } else { accept() };
            host.answer(&inquiry, &verdict);
            open.extend(host.inquiries());
            for message in host.messages(subscriber) {
                let of = channels.iter().position(|channel| message["channel"] == **channel);
                let Some(messages) = message["messages"].as_array() else { continue };
                let data =
                    messages.iter().map(|message| message["data"].as_str().unwrap().to_owned());
                seen[of.unwrap()].extend(data);
            }
        }
        assert_eq!(seen, expected, "seed {seed}");
        for publisher in &publishers[..2] {
            let outcomes = host.outcomes(*publisher);
            assert!(outcomes.iter().map(|(serial, ..)| *serial).eq(0..30), "seed {seed}");
            let rejected = outcomes.iter().filter(|(_, error, _)| error.is_some());
            assert!(rejected.map(|(serial, ..)| serial % 7).all(|rest| rest == 3));
        }
    }
}

#[test]
fn several_rules_are_asked_one_after_the_other_and_each_sees_what_the_one_before_has_made() {
    let mut host = host(2, 5, &[GATE, GATE]);
    let (publisher, subscriber) = (host.connect(0, ""), host.connect(1, ""));
    host.attach(subscriber, "gated:room");
    host.messages(publisher);
    host.publish(publisher, 0, "gated:room", "one");
    host.settle();
    let first = host.inquiry();
    assert_eq!((&*first.rule.id, asked(&first).as_str()), ("a", "one"));
    host.answer(&first, &json!({"action": "accept", "message": {"data": "two"}}));
    let second = host.inquiry();
    assert_eq!((&*second.rule.id, asked(&second).as_str()), ("b", "two"));
    assert_eq!(host.outcomes(publisher), []);
    host.answer(&second, &json!({"action": "accept", "message": {"data": "three"}}));
    assert_eq!(host.outcomes(publisher).len(), 1);
    assert_eq!(host.data(subscriber, "gated:room"), ["three"]);
}

#[test]
fn a_repetition_is_asked_about_once_and_published_once() {
    let mut host = host(2, 6, &[GATE]);
    let (publisher, subscriber) = (host.connect(0, ""), host.connect(1, ""));
    host.attach(subscriber, "gated:room");
    host.messages(publisher);
    for serial in 0..3 {
        let message = json!({"id": "chosen", "data": "once"});
        host.send(
            publisher,
            &json!({"action": 15, "msgSerial": serial, "channel": "gated:room", "messages": [message]}),
        );
    }
    host.settle();
    let inquiry = host.inquiry();
    host.answer(&inquiry, &json!({"action": "accept", "message": {"data": "changed"}}));
    assert_eq!(host.outcomes(publisher).len(), 3);
    assert_eq!(host.data(subscriber, "gated:room"), ["changed"]);
    assert_eq!(host.inquiries().len(), 0);
}

#[test]
fn a_repetition_of_what_was_forgotten_while_it_waited_is_asked_about() {
    let mut host = host(2, 6, &[Gate { timeout: Duration::from_secs(300), ..GATE }]);
    let (publisher, subscriber) = (host.connect(0, ""), host.connect(1, ""));
    host.attach(subscriber, "gated:room");
    host.messages(publisher);
    let send = |host: &mut Host, serial: u64, id: &str, data: &str| {
        let message = json!({"id": id, "data": data});
        host.send(
            publisher,
            &json!({"action": 15, "msgSerial": serial, "channel": "gated:room", "messages": [message]}),
        );
        host.settle();
    };
    let pass = |host: &mut Host, tens: u32| {
        for _ in 0..tens {
            host.pass(Duration::from_secs(10));
            for client in [publisher, subscriber] {
                host.send(client, &json!({"action": 0}));
            }
            host.settle();
        }
    };
    send(&mut host, 0, "chosen", "good");
    let inquiry = host.inquiry();
    host.answer(&inquiry, &accept());
    pass(&mut host, 10);
    send(&mut host, 1, "other", "in the way");
    let in_the_way = host.inquiry();
    send(&mut host, 2, "chosen", "bad");
    // What was published under the id is not kept any more when its turn comes.
    pass(&mut host, 6);
    host.answer(&in_the_way, &accept());
    let inquiry = host.inquiry();
    assert_eq!(asked(&inquiry), "bad");
    host.answer(&inquiry, &json!({"action": "reject"}));
    assert_eq!(host.data(subscriber, "gated:room"), ["good", "in the way"]);
    let codes: Vec<_> = host.outcomes(publisher).into_iter().map(|(_, code, _)| code).collect();
    assert_eq!(codes, [None, None, Some(42211)]);
}

#[test]
fn what_skips_the_rule_is_not_asked_about_but_waits_in_line() {
    let mut host = host(1, 7, &[GATE]);
    let (publisher, subscriber) = (host.connect(0, ""), host.connect(0, ""));
    host.attach(subscriber, "gated:room");
    let skipping = |serial: u64, data: &str| {
        let extras = json!({"privileged": {"skipRule": "a"}});
        json!({"action": 15, "msgSerial": serial, "channel": "gated:room",
            "messages": [{"data": data, "extras": extras}]})
    };
    host.send(publisher, &skipping(0, "first"));
    host.settle();
    assert_eq!(host.data(subscriber, "gated:room"), ["first"]);
    host.publish(publisher, 1, "gated:room", "asked");
    host.send(publisher, &skipping(2, "last"));
    host.settle();
    assert_eq!(host.data(subscriber, "gated:room"), [""; 0]);
    let inquiry = host.inquiry();
    host.answer(&inquiry, &accept());
    assert_eq!(host.data(subscriber, "gated:room"), ["asked", "last"]);
    assert_eq!(host.inquiries().len(), 0);
}

#[test]
fn changes_of_messages_are_asked_about_and_annotations_keep_their_place() {
    let mut host = host(2, 8, &[GATE]);
    let (publisher, subscriber) = (host.connect(0, ""), host.connect(1, ""));
    host.attach(subscriber, "mutable:room");
    host.messages(publisher);
    host.publish(publisher, 0, "mutable:room", "hello");
    host.settle();
    let inquiry = host.inquiry();
    host.answer(&inquiry, &accept());
    let ack = host.messages(publisher).pop().expect("an ACK");
    let serial = &ack["res"][0]["serials"][0];
    let change = json!({"action": 1, "serial": serial, "data": "darn"});
    host.send(
        publisher,
        &json!({"action": 15, "msgSerial": 1, "channel": "mutable:room", "messages": [change]}),
    );
    let annotation = json!({"action": 0, "messageSerial": serial, "type": "like:total.v1"});
    host.send(
        publisher,
        &json!({"action": 21, "msgSerial": 2, "channel": "mutable:room", "annotations": [annotation]}),
    );
    host.settle();
    host.messages(subscriber);
    let inquiry = host.inquiry();
    let body: Value = serde_json::from_slice(&inquiry.body).expect("JSON");
    assert_eq!(
        (&body["messages"][0]["action"], &body["messages"][0]["serial"]),
        (&json!(1), serial)
    );
    host.answer(&inquiry, &json!({"action": "accept", "messages": [{"data": "****"}]}));
    let messages = host.messages(subscriber);
    assert_eq!(
        (&messages[0]["messages"][0]["data"], &messages[0]["messages"][0]["action"]),
        (&json!("****"), &json!(1))
    );
    assert_eq!(messages[1]["messages"][0]["action"], 4, "the summary comes behind it");
    assert_eq!(host.outcomes(publisher).len(), 2);
}

#[test]
fn publishers_over_rest_wait_too_and_a_publisher_that_leaves_is_published_all_the_same() {
    let mut host = host(2, 9, &[GATE]);
    let (publisher, subscriber) = (host.connect(0, ""), host.connect(1, ""));
    host.attach(subscriber, "gated:room");
    let body = json!({"data": "over REST"}).to_string();
    let request = |body: &str| {
        format!(
            "POST /channels/gated%3Aroom/messages?key={KEY} HTTP/1.1\r\nHost: h\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let client = host.request(1, &request(&body));
    host.settle();
    assert!(host.clients[client].received.is_empty());
    let inquiry = host.inquiry();
    let rejection = json!({"action": "reject", "rejectionDetail": {"why": "because"}});
    host.answer(&inquiry, &rejection);
    let answer = String::from_utf8(host.clients[client].received.clone()).expect("text");
    assert!(answer.starts_with("HTTP/1.1 422 "), "{answer}");
    assert!(answer.contains(r#""code":42211"#), "{answer}");
    assert!(answer.contains(r#""detail":{"why":"because"}"#), "{answer}");
    host.publish(publisher, 0, "gated:room", "goodbye");
    host.settle();
    host.drop_transport(publisher);
    host.settle();
    let inquiry = host.inquiry();
    host.answer(&inquiry, &accept());
    assert_eq!(host.data(subscriber, "gated:room"), ["goodbye"]);
}

#[test]
fn a_client_that_resumes_learns_what_became_of_what_it_had_sent() {
    let mut host = host(2, 10, &[GATE]);
    let publisher = host.connect(0, "");
    let subscriber = host.connect(1, "");
    host.attach(subscriber, "gated:room");
    let connected = host.messages(publisher).remove(0);
    let key = connected["connectionDetails"]["connectionKey"].clone();
    host.publish(publisher, 0, "gated:room", "held");
    host.settle();
    let inquiry = host.inquiry();
    host.drop_transport(publisher);
    host.settle();
    let text = key.as_str().expect("a key").to_owned();
    let request = format!(
        "GET /?key={KEY}&v=6&resume={text} HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\n\
         Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    let back = host.request(1, &request);
    host.settle();
    host.answer(&inquiry, &accept());
    host.publish(back, 0, "gated:room", "held");
    host.settle();
    assert_eq!(host.data(subscriber, "gated:room"), ["held"], "published once");
    assert_eq!(host.inquiries().len(), 0);
}

#[test]
fn a_line_is_bounded_and_whoever_comes_beyond_is_told() {
    let mut config = ShardConfig::default();
    config.connection.publishes_in_flight_max = 4096;
    let mut host = Host::with_config(1, 11, config);
    host.set_rules(Rules::new([rule("a", GATE)]));
    let publisher = host.connect(0, "");
    host.messages(publisher);
    for serial in 0..1030 {
        host.publish(publisher, serial, "gated:room", "x");
    }
    host.settle();
    assert_eq!(host.shards[0].gauges().publishes_waiting, 1024);
    assert_eq!(host.outcomes(publisher), [], "those before them are not decided");
    host.pass(Duration::from_secs(5));
    host.settle();
    let codes = host.outcomes(publisher).into_iter().map(|(_, code, _)| code.expect("an error"));
    let codes: Vec<u64> = codes.collect();
    assert_eq!((codes.len(), codes[0], codes[1023], codes[1024]), (1030, 42211, 42211, 70003));
}

/// Bytes that a subscriber may lag behind, and publishes in a line of many times as much.
const LAG_BYTES: u32 = 4096;
const LONG_LINE: u64 = 400;

/// A host with a long line on `gated:room`, its publisher, and a subscriber on each shard.
fn host_with_long_line(shards: usize, seed: u64, gate: Gate) -> (Host, usize, Vec<usize>) {
    let mut config = ShardConfig { lag_bytes_max: LAG_BYTES, ..ShardConfig::default() };
    config.connection.publishes_in_flight_max = 4096;
    let mut host = Host::with_config(shards, seed, config);
    host.set_rules(Rules::new([rule("a", gate)]));
    let publisher = host.connect(0, "");
    let subscribers: Vec<usize> = (0..shards).map(|shard| host.connect(shard, "")).collect();
    for &subscriber in &subscribers {
        host.attach(subscriber, "gated:room");
    }
    for serial in 0..LONG_LINE {
        host.publish(publisher, serial, "gated:room", &format!("{serial:0100}"));
    }
    host.settle();
    (host, publisher, subscribers)
}

impl Host {
    fn publishes_waiting(&self) -> u64 {
        self.shards.iter().map(|shard| shard.gauges().publishes_waiting).sum()
    }

    fn slow_consumers(&self) -> u64 {
        self.shards.iter().map(|shard| shard.counters().slow_consumers).sum()
    }

    /// Steps until no publish waits for a rule, without any time passing.
    fn settle_line(&mut self) {
        for _ in 0..100 {
            self.settle();
            if self.publishes_waiting() == 0 {
                return self.settle();
            }
        }
        panic!("{} publishes still wait", self.publishes_waiting());
    }
}

#[test]
fn a_long_line_that_is_let_go_at_once_is_not_too_much_for_those_who_read() {
    for seed in 1..12 {
        let gate = Gate { on_failure: OnFailure::Publish, ..GATE };
        let shards = 1 + seed as usize % 3;
        let (mut host, publisher, subscribers) = host_with_long_line(shards, seed, gate);
        host.pass(GATE.timeout);
        while host.publishes_waiting() == LONG_LINE {
            host.step();
        }
        assert!(host.publishes_waiting() > LONG_LINE / 2, "seed {seed}: a portion at a time");
        // What comes now waits behind, whether a rule is asked about it or not.
        let extras = json!({"privileged": {"skipRule": "a"}});
        host.send(
            publisher,
            &json!({"action": 15, "msgSerial": LONG_LINE, "channel": "gated:room",
                "messages": [{"data": "last", "extras": extras}]}),
        );
        host.settle_line();
        let mut expected: Vec<String> = (0..LONG_LINE).map(|at| format!("{at:0100}")).collect();
        expected.push("last".to_owned());
        for subscriber in subscribers {
            assert_eq!(host.data(subscriber, "gated:room"), expected, "seed {seed}");
        }
        assert_eq!(host.slow_consumers(), 0, "seed {seed}");
        let outcomes = host.outcomes(publisher).into_iter().map(|(serial, code, _)| (serial, code));
        assert!(outcomes.eq((0..=LONG_LINE).map(|serial| (serial, None))), "seed {seed}");
    }
}

#[test]
fn answers_that_come_all_at_once_are_not_too_much_for_those_who_read() {
    for seed in 1..8 {
        let gate = Gate { concurrency: LONG_LINE as usize, ..GATE };
        let (mut host, _, subscribers) = host_with_long_line(2, seed, gate);
        for inquiry in host.inquiries().into_iter().rev() {
            let shard = &mut host.shards[usize::from(inquiry.shard)];
            shard.handle_verdict((inquiry.number, Verdict::Accept));
        }
        host.settle_line();
        let expected: Vec<String> = (0..LONG_LINE).map(|at| format!("{at:0100}")).collect();
        for subscriber in subscribers {
            assert_eq!(host.data(subscriber, "gated:room"), expected, "seed {seed}");
        }
        assert_eq!(host.slow_consumers(), 0, "seed {seed}");
    }
}

#[test]
fn who_does_not_read_holds_a_line_up_for_a_while_and_is_cut_off() {
    for seed in 1..8 {
        let gate = Gate { on_failure: OnFailure::Publish, ..GATE };
        let (mut host, _, subscribers) = host_with_long_line(2, seed, gate);
        host.stalled.push(subscribers[0]);
        host.pass(GATE.timeout);
        host.settle();
        assert!(host.publishes_waiting() > LONG_LINE / 2, "seed {seed}: it is waited for");
        for _ in 0..20 {
            host.pass(Duration::from_millis(100));
            host.settle();
        }
        host.settle_line();
        assert_eq!(host.slow_consumers(), 1, "seed {seed}");
        let data = host.data(subscribers[1], "gated:room");
        assert_eq!(data.len() as u64, LONG_LINE, "seed {seed}");
        assert!(data.is_sorted(), "seed {seed}");
    }
}

#[test]
fn questions_that_nobody_takes_do_not_pile_up() {
    let mut host = host(1, 14, &[GATE]);
    let publisher = host.connect(0, "");
    host.messages(publisher);
    for serial in 0..100 {
        host.publish(publisher, serial, "gated:room", "x");
        host.pass(Duration::from_secs(6));
        host.settle_quickly();
    }
    assert!(host.inquiries().len() <= 1);
}

#[test]
fn what_is_ephemeral_is_asked_about_and_stays_so() {
    let mut host = host(1, 15, &[GATE]);
    let (publisher, subscriber) = (host.connect(0, ""), host.connect(0, ""));
    host.attach(subscriber, "gated:room");
    let message = json!({"data": "darn", "extras": {"ephemeral": true}});
    host.send(
        publisher,
        &json!({"action": 15, "msgSerial": 0, "channel": "gated:room", "messages": [message]}),
    );
    host.settle();
    let inquiry = host.inquiry();
    host.answer(&inquiry, &json!({"action": "accept", "messages": [{"data": "****"}]}));
    assert_eq!(host.data(subscriber, "gated:room"), ["****"]);
    let late = host.connect(0, "");
    host.messages(late);
    host.send(late, &json!({"action": 10, "channel": "gated:room", "params": {"rewind": "5"}}));
    host.settle();
    assert_eq!(host.data(late, "gated:room"), [""; 0], "it is not kept");
}

#[test]
fn a_drain_waits_for_answers_and_tells_them() {
    let mut host = host(2, 12, &[GATE]);
    let publisher = host.connect(0, "");
    host.messages(publisher);
    host.publish(publisher, 0, "gated:room", "held");
    host.settle();
    let inquiry = host.inquiry();
    host.shards.iter_mut().for_each(|shard| shard.begin_drain(Duration::ZERO));
    host.pass(Duration::from_secs(1));
    host.settle();
    assert!(!host.clients[publisher].is_closed);
    host.answer(&inquiry, &accept());
    for _ in 0..4 {
        host.pass(Duration::from_millis(10));
        host.settle();
    }
    let told: Vec<u64> =
        host.messages(publisher).iter().map(|m| m["action"].as_u64().unwrap()).collect();
    assert_eq!(told, [1, 6], "an ACK, then DISCONNECTED");
}

/// A host on which "one" and "two" wait in `gated:room`; with their publisher, and who is attached.
fn host_with_two_waiting(seed: u64, gates: &[Gate]) -> (Host, usize, usize) {
    let mut host = host(1, seed, gates);
    let (publisher, subscriber) = (host.connect(0, ""), host.connect(0, ""));
    host.attach(subscriber, "gated:room");
    host.publish(publisher, 0, "gated:room", "one");
    host.publish(publisher, 1, "gated:room", "two");
    host.settle();
    (host, publisher, subscriber)
}

#[test]
fn a_rule_that_is_gone_is_not_waited_for() {
    let (mut host, publisher, subscriber) = host_with_two_waiting(13, &[GATE]);
    let inquiry = host.inquiry();
    host.set_rules(Rules::default());
    assert_eq!(host.data(subscriber, "gated:room"), ["one", "two"]);
    // Too late.
    host.answer(&inquiry, &json!({"action": "reject"}));
    assert_eq!(host.outcomes(publisher).len(), 2);
    assert_eq!(host.inquiries().len(), 0);
}

#[test]
fn a_rule_that_is_for_other_channels_now_is_not_waited_for() {
    for on_failure in [OnFailure::Reject, OnFailure::Publish] {
        let (mut host, publisher, subscriber) = host_with_two_waiting(16, &[GATE, GATE]);
        let inquiry = host.inquiry();
        // It stays in the order of those that it was one of, and has no say in what was asked before.
        let moved = rule_for("^mutable:", "a", Gate { on_failure, ..GATE });
        host.set_rules(Rules::new([moved, rule("b", GATE)]));
        host.settle();
        for data in ["one", "two"] {
            let next = host.inquiry();
            assert_eq!((&*next.rule.id, &*asked(&next)), ("b", data));
            host.answer(&next, &accept());
        }
        assert_eq!(host.data(subscriber, "gated:room"), ["one", "two"]);
        // Too late.
        host.answer(&inquiry, &json!({"action": "reject"}));
        assert_eq!(host.inquiries().len(), 0);
        assert_eq!(host.outcomes(publisher).len(), 2);
    }
}
