//! Configured apps that change while the daemon runs.

use super::*;
use crate::ably::{ChannelFilter, RequestShape, Rule, RuleSource, Rules, WhenFull};

fn directory(keys: &[&str]) -> Directory {
    let key = |text: &&str| {
        let api_key: ApiKey = text.parse().expect("well-formed");
        KeySpec::new(api_key, &Capability::all().to_string(), false).expect("valid")
    };
    let keys = keys.iter().map(key).collect();
    Directory::new([AppSpec { id: "app".into(), keys, ..AppSpec::default() }])
}

impl Host {
    fn reload(&mut self, keys: &[&str]) {
        self.shards[0].reload(7, &directory(keys));
        self.settle();
        assert_eq!(self.shards[0].take_installed(), [7], "all shards have confirmed");
    }
}

#[test]
fn connections_whose_key_remains_go_on_and_new_keys_are_known_everywhere() {
    let mut host = Host::new(3, 8);
    let clients = [host.connect(0, ""), host.connect(1, ""), host.connect(2, "")];
    for client in clients {
        host.attach(client, "room");
    }
    host.reload(&[KEY, "app.new:secret"]);
    host.publish(clients[0], 0, "room", "still here");
    host.settle();
    for client in clients {
        assert_eq!(host.data(client, "room"), ["still here"]);
    }
    for shard in 0..3 {
        let client = host.accept(shard);
        let request = "GET /channels/x/messages?key=app.new:secret HTTP/1.1\r\nHost: h\r\n\r\n";
        host.write(client, request.as_bytes());
        host.settle();
        assert!(host.clients[client].received.starts_with(b"HTTP/1.1 200 "), "shard {shard}");
    }
}

#[test]
fn connections_whose_key_is_gone_or_has_another_secret_end_on_every_shard() {
    for keys in [&["app.other:secret"][..], &["app.key:changed"][..]] {
        let mut host = Host::new(2, 12);
        let clients = [host.connect(0, ""), host.connect(1, "")];
        host.reload(keys);
        for client in clients {
            let last = host.messages(client).pop().expect("told");
            assert_eq!((&last["action"], &last["error"]["code"]), (&json!(9), &json!(40101)));
        }
        let refused = host.connect(0, "");
        assert_eq!(host.messages(refused)[0]["action"], 9);
    }
}

/// A rule for all channels that `filter` finds.
fn rule(id: &str, filter: &str) -> Arc<Rule> {
    let filter = ChannelFilter::compile(filter).expect("a filter");
    let (source, shape) = (RuleSource::Message, RequestShape::Enveloped);
    let full = WhenFull::DropOldest;
    Arc::new(Rule::new(id, "app", source, filter, shape, Format::Json, full, 1 << 20))
}

#[test]
fn channels_that_are_open_have_other_rules_with_their_next_event() {
    let mut host = Host::new(3, 8);
    let client = host.connect(1, "");
    host.attach(client, "room");
    let events = |host: &mut Host, serial: u64| {
        host.publish(client, serial, "room", "hello");
        host.settle();
        let taken = host.shards.iter_mut().flat_map(|shard| shard.take_hooks());
        taken.map(|event| event.rule().id.to_string()).collect::<Vec<_>>()
    };
    assert!(events(&mut host, 0).is_empty());
    for (serial, rules, expected) in [
        (1, vec![rule("one", "^ro"), rule("other", "^other")], vec!["one"]),
        (2, vec![rule("one", "^ro"), rule("two", "")], vec!["one", "two"]),
        (3, vec![rule("one", "^other")], vec![]),
        (4, vec![], vec![]),
    ] {
        host.set_rules(Rules::new(rules));
        assert_eq!(events(&mut host, serial), expected);
    }
}
