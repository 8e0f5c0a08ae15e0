//! Rules that are told of what happens on channels.

use super::*;
use crate::ably::{ChannelFilter, RequestShape, Rule, RuleSource, Rules, WhenFull};

fn host(shards: usize, seed: u64, source: RuleSource, shape: RequestShape) -> Host {
    let filter = ChannelFilter::compile("").expect("a filter");
    let rule =
        Rule::new("r", "app", source, filter, shape, Format::Json, WhenFull::DropOldest, 1 << 20);
    let mut host = Host::new(shards, seed);
    host.set_rules(Rules::new([Arc::new(rule)]));
    host
}

impl Host {
    /// The bodies of the events that were handed over since the last call.
    fn hooked(&mut self) -> Vec<Value> {
        let events = self.shards.iter_mut().flat_map(Shard::take_hooks);
        events.map(|event| serde_json::from_slice(&event.body).expect("JSON")).collect()
    }

    /// The numbers of the only event of that kind.
    fn occupancy_event(&mut self) -> Value {
        let mut events = self.hooked();
        let event = events.pop().expect("an event");
        assert!(events.is_empty(), "one event");
        assert_eq!(
            (&event["source"], &event["channel"]),
            (&json!("channel.occupancy"), &json!("room"))
        );
        assert_eq!(event["name"], "channel.occupancy");
        let data = &event["data"];
        assert_eq!(
            (&data["channelId"], &data["status"]["isActive"]),
            (&json!("room"), &json!(true))
        );
        data["status"]["occupancy"]["metrics"].clone()
    }
}

#[test]
fn occupancy_is_told_at_once_around_zero_and_otherwise_after_a_while() {
    for seed in 1..=10 {
        let mut host = host(3, seed, RuleSource::Occupancy, RequestShape::Enveloped);
        let clients: Vec<usize> = (0..3).map(|shard| host.connect(shard, "&clientId=me")).collect();
        let subscribe = json!({"action": 10, "channel": "room", "flags": 1 << 18});
        host.send(clients[0], &subscribe);
        host.settle();
        let told = host.occupancy_event();
        assert_eq!((&told["connections"], &told["subscribers"]), (&json!(1), &json!(1)), "{seed}");
        assert_eq!(told.as_object().expect("an object").len(), 8);
        host.send(clients[1], &subscribe);
        host.send(clients[2], &subscribe);
        host.settle();
        assert!(host.hooked().is_empty(), "it may go on changing, seed {seed}");
        host.pass(Duration::from_secs(6));
        host.settle();
        assert_eq!(host.occupancy_event()["connections"], 3);
        // Back to what was told: nothing to tell.
        host.send(clients[2], &json!({"action": 12, "channel": "room"}));
        host.settle();
        host.send(clients[2], &subscribe);
        host.settle();
        host.pass(Duration::from_secs(6));
        host.settle();
        assert!(host.hooked().is_empty());
        for client in &clients {
            host.send(*client, &json!({"action": 12, "channel": "room"}));
        }
        host.settle();
        let last = host.hooked().pop().expect("an event");
        assert_eq!(last["data"]["status"]["occupancy"]["metrics"]["connections"], 0);
    }
}

#[test]
fn members_count_and_a_listener_does_not_change_what_rules_are_told() {
    let mut host = host(2, 3, RuleSource::Occupancy, RequestShape::Batch);
    let (member, watcher) = (host.connect(0, "&clientId=ann"), host.connect(1, ""));
    host.attach(member, "room");
    host.hooked();
    host.send(
        member,
        &json!({"action": 14, "msgSerial": 0, "channel": "room", "presence": [{"action": 2}]}),
    );
    host.settle();
    let events = host.hooked();
    let [event] = &events[..] else { panic!("{events:?}") };
    assert_eq!(event["name"], "channel.occupancy");
    assert_eq!(event["data"]["status"]["occupancy"]["metrics"]["presenceMembers"], 1);
    // Somebody who asks begins with the numbers as they are; rules have not been told of that one yet.
    let params = json!({"occupancy": "metrics"});
    host.send(watcher, &json!({"action": 10, "channel": "room", "params": params}));
    host.settle();
    assert!(host.hooked().is_empty());
    host.pass(Duration::from_secs(6));
    host.settle();
    let events = host.hooked();
    let numbers = &events[0]["data"]["status"]["occupancy"]["metrics"];
    assert_eq!((events.len(), &numbers["connections"]), (1, &json!(2)));
}

#[test]
fn what_metachannels_tell_is_no_message_of_a_rule() {
    let mut host = host(1, 4, RuleSource::Message, RequestShape::Enveloped);
    let listener = host.connect(0, "");
    host.attach(listener, "[meta]channel.lifecycle");
    host.hooked();
    let client = host.connect(0, "");
    host.attach(client, "room");
    host.publish(client, 0, "room", "hello");
    host.settle();
    assert!(!host.data(listener, "[meta]channel.lifecycle").is_empty());
    let events = host.hooked();
    let channels: Vec<&str> =
        events.iter().map(|event| event["channel"].as_str().unwrap()).collect();
    assert_eq!(channels, ["room"]);
}
