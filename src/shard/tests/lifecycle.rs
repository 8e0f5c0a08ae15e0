//! What metachannels tell.

use super::apps::{connect_with, make_app, sandbox};
use super::*;

const CHANNELS: &str = "[meta]channel.lifecycle";
const CONNECTIONS: &str = "[meta]connection.lifecycle";

/// The events that have come on a metachannel: their names and data.
fn events(host: &mut Host, client: usize, metachannel: &str) -> Vec<(String, Value)> {
    let messages = host.messages(client);
    let of_channel = messages.iter().filter(|message| message["channel"] == metachannel);
    let of_channel = of_channel.filter(|message| message["action"] == 15);
    let events = of_channel.flat_map(|message| message["messages"].as_array().expect("some"));
    let events = events.map(|event| {
        assert_eq!(event["encoding"], "json");
        let data = event["data"].as_str().expect("JSON text");
        let name = event["name"].as_str().expect("named").to_owned();
        (name, serde_json::from_str(data).expect("valid JSON"))
    });
    events.collect()
}

fn named(events: &[(String, Value)], name: &str, key: &str, value: &Value) -> usize {
    events.iter().filter(|(known, data)| known == name && data[key] == *value).count()
}

#[test]
fn channels_that_open_and_close_on_any_shard_are_told_to_listeners_on_any_shard() {
    for seed in 1..=10 {
        let mut host = Host::new(3, seed);
        let listeners = [host.connect(0, ""), host.connect(2, "")];
        for &listener in &listeners {
            host.attach(listener, CHANNELS);
        }
        let client = host.connect(1, "");
        let names: Vec<String> = (0..5).map(|number| format!("room{number}")).collect();
        for name in &names {
            host.attach(client, name);
        }
        host.messages(client);
        host.send(client, &json!({"action": 7}));
        for _ in 0..25 {
            host.pass(Duration::from_secs(5));
            listeners.iter().for_each(|&listener| host.send(listener, &json!({"action": 0})));
            host.settle_quickly();
        }
        host.settle();
        let told = events(&mut host, listeners[0], CHANNELS);
        assert_eq!(told.len(), 10, "seed={seed} {told:?}");
        for name in &names {
            let at = |event| {
                told.iter().position(|(known, data)| known == event && data["name"] == **name)
            };
            let (opened, closed) =
                (at("channel.opened").expect("told"), at("channel.closed").expect("told"));
            assert!(opened < closed);
            let status = |at: usize| &told[at].1["status"];
            assert_eq!(
                (&status(opened)["isActive"], &status(closed)["isActive"]),
                (&json!(true), &json!(false))
            );
            assert_eq!(status(closed)["occupancy"]["metrics"]["connections"], 0);
            assert_eq!(told[opened].1["channelId"], **name);
        }
        assert_eq!(events(&mut host, listeners[1], CHANNELS), told, "seed={seed}");
    }
}

#[test]
fn connections_that_begin_and_end_are_told_and_those_that_are_lost_only_when_forgotten() {
    let mut host = Host::new(3, 4);
    let listener = host.connect(0, "");
    host.attach(listener, CONNECTIONS);
    let bob = host.connect(1, "&clientId=bob");
    let connected = host.messages(bob).remove(0);
    let key = connected["connectionDetails"]["connectionKey"].clone();
    host.settle();
    let told = events(&mut host, listener, CONNECTIONS);
    let expected = json!({"connectionId": connected["connectionId"], "clientId": "bob"});
    assert_eq!(told, [("connection.opened".to_owned(), expected.clone())]);
    // Lost, and gone on elsewhere: nothing to tell.
    host.drop_transport(bob);
    let bob = host.connect(2, &format!("&clientId=bob&resume={}", key.as_str().expect("a key")));
    let resumed = host.messages(bob).remove(0);
    assert_eq!(resumed["connectionId"], connected["connectionId"]);
    host.settle();
    assert!(events(&mut host, listener, CONNECTIONS).is_empty());
    let lost = host.connect(1, "");
    let lost_id = host.messages(lost).remove(0)["connectionId"].clone();
    host.drop_transport(lost);
    host.send(bob, &json!({"action": 7}));
    host.settle();
    let told = events(&mut host, listener, CONNECTIONS);
    assert_eq!(named(&told, "connection.opened", "connectionId", &lost_id), 1);
    assert_eq!(told.last(), Some(&("connection.closed".to_owned(), expected)));
    for _ in 0..25 {
        host.pass(Duration::from_secs(5));
        host.send(listener, &json!({"action": 0}));
        host.settle();
    }
    let told = events(&mut host, listener, CONNECTIONS);
    assert_eq!(told, [("connection.closed".to_owned(), json!({"connectionId": lost_id}))]);
}

#[test]
fn events_are_noted_only_for_apps_with_listeners_and_while_they_have_some() {
    let mut host = sandbox(3, 5);
    let (_, keys) = make_app(&mut host, 0, r#"{"keys":[{"capability":"{\"[*]*\":[\"*\"]}"}]}"#);
    // How many events a new connection on shard 1 makes, before they are sent.
    let noted = |host: &mut Host, key: &str| {
        let upgrade = "Host: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                       Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
        host.request(1, &format!("GET /?key={key}&v=6 HTTP/1.1\r\n{upgrade}\r\n\r\n"));
        let noted = host.shards[1].lifecycles.events.len();
        host.settle();
        noted
    };
    assert_eq!((noted(&mut host, KEY), noted(&mut host, &keys[0])), (0, 0));
    let listener = connect_with(&mut host, 0, &format!("key={}", keys[0]));
    host.messages(listener);
    host.attach(listener, CONNECTIONS);
    assert_eq!((noted(&mut host, KEY), noted(&mut host, &keys[0])), (0, 1));
    assert_eq!(events(&mut host, listener, CONNECTIONS).len(), 1);
    host.send(listener, &json!({"action": 12, "channel": CONNECTIONS}));
    host.settle();
    assert_eq!((noted(&mut host, KEY), noted(&mut host, &keys[0])), (0, 0));
    assert!(events(&mut host, listener, CONNECTIONS).is_empty());
}
