//! Presence through whole shards: what a room full of clients makes of what it is sent.

use super::*;
use crate::sim::Members;

const ENTER: u64 = 2;
const LEAVE: u64 = 3;
const UPDATE: u64 = 4;

/// HAS_PRESENCE of an ATTACHED.
const HAS_PRESENCE: u64 = 1;

impl Host {
    /// Sends a PRESENCE with one member; `client_id` is left out if it is empty.
    fn present(
        &mut self,
        client: usize,
        msg_serial: u64,
        action: u64,
        client_id: &str,
        data: &str,
    ) {
        let mut member = json!({ "action": action, "data": data });
        if !client_id.is_empty() {
            member["clientId"] = client_id.into();
        }
        self.present_all(client, msg_serial, json!([member]));
    }

    fn present_all(&mut self, client: usize, msg_serial: u64, presence: Value) {
        let message = json!({
            "action": 14, "msgSerial": msg_serial, "channel": "room", "presence": presence,
        });
        self.send(client, &message);
    }

    /// Presence events that a client has received, and forgets: action, clientId, data, id.
    fn events(&mut self, client: usize) -> Vec<(u64, String, String, Value)> {
        self.settle();
        let messages = self.messages(client);
        let presence = messages.iter().filter(|message| message["action"] == 14);
        presence
            .flat_map(|message| message["presence"].as_array().expect("an array"))
            .map(|event| {
                let text = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
                let action = event["action"].as_u64().expect("a number");
                (action, text("clientId"), text("data"), event["id"].clone())
            })
            .collect()
    }

    /// The same without ids.
    fn heard(&mut self, client: usize) -> Vec<(u64, String, String)> {
        self.events(client).into_iter().map(|(action, who, data, _)| (action, who, data)).collect()
    }

    /// Code of the only NACK, or 0 for an ACK, that a client has received.
    fn acknowledged(&mut self, client: usize) -> u64 {
        self.settle();
        let messages = self.messages(client);
        let acks: Vec<_> = messages
            .iter()
            .filter(|message| matches!(message["action"].as_u64(), Some(1 | 2)))
            .collect();
        assert_eq!(acks.len(), 1, "{messages:?}");
        acks[0]["error"]["code"].as_u64().unwrap_or(0)
    }
}

fn heard(action: u64, client_id: &str, data: &str) -> (u64, String, String) {
    (action, client_id.to_owned(), data.to_owned())
}

#[test]
fn everybody_hears_who_enters_changes_and_leaves_and_later_clients_are_told_who_is_there() {
    for seed in 1..=10 {
        let mut host = Host::new(3, seed);
        let ann = host.connect(0, "&clientId=ann");
        let others = [host.connect(1, ""), host.connect(2, ""), host.connect(0, "&echo=false")];
        let attached = host.attach(ann, "room");
        assert_eq!(attached["flags"].as_u64().unwrap() & HAS_PRESENCE, 0);
        for client in others {
            host.attach(client, "room");
        }
        host.present(ann, 0, ENTER, "", "hello");
        host.present(ann, 1, UPDATE, "ann", "again");
        host.present(others[2], 0, ENTER, "bob", "bob's");
        host.settle();
        let messages = host.messages(ann);
        let acks = messages.iter().filter(|message| message["action"] == 1);
        assert_eq!(acks.map(|ack| ack["count"].as_u64().unwrap()).sum::<u64>(), 2, "seed={seed}");
        for client in others {
            let events = host.heard(client);
            let of_ann: Vec<_> =
                events.iter().filter(|(_, who, _)| who == "ann").cloned().collect();
            assert_eq!(of_ann, [heard(ENTER, "ann", "hello"), heard(UPDATE, "ann", "again")]);
            // Presence is heard by whoever it is of, echo or not.
            assert!(events.contains(&heard(ENTER, "bob", "bob's")), "seed={seed}");
        }
        let late = host.connect(1, "");
        host.messages(late);
        host.send(late, &json!({"action": 10, "channel": "room"}));
        host.settle();
        let messages = host.messages(late);
        assert_eq!(messages[0]["action"], 11);
        assert_eq!(messages[0]["flags"].as_u64().unwrap() & HAS_PRESENCE, HAS_PRESENCE);
        assert_eq!(messages[1]["action"], 16);
        assert_eq!(messages[1]["channelSerial"], "members:");
        let mut members: Vec<_> = messages[1]["presence"]
            .as_array()
            .unwrap()
            .iter()
            .map(|member| {
                assert_eq!(member["action"], 1);
                member["clientId"].as_str().unwrap()
            })
            .collect();
        members.sort_unstable();
        assert_eq!(members, ["ann", "bob"], "seed={seed}");
        host.present(ann, 2, LEAVE, "", "");
        for client in others {
            assert_eq!(host.heard(client), [heard(LEAVE, "ann", "")]);
        }
    }
}

#[test]
fn presence_needs_an_attachment_with_its_mode_and_a_client() {
    let mut host = Host::new(2, 3);
    let ann = host.connect(0, "&clientId=ann");
    host.messages(ann);
    host.present(ann, 0, ENTER, "", "");
    assert_eq!(host.acknowledged(ann), 91001);
    let flags = 1 << 17 | 1 << 19;
    host.send(ann, &json!({"action": 10, "channel": "room", "flags": flags}));
    host.settle();
    host.messages(ann);
    host.present(ann, 1, ENTER, "", "");
    assert_eq!(host.acknowledged(ann), 40165);
    host.attach(ann, "room");
    host.present(ann, 2, ENTER, "bob", "");
    assert_eq!(host.acknowledged(ann), 40012);
    host.present(ann, 3, ENTER, "", "");
    assert_eq!(host.acknowledged(ann), 0);
    let anybody = host.connect(1, "");
    host.attach(anybody, "room");
    host.present(anybody, 0, ENTER, "", "");
    assert_eq!(host.acknowledged(anybody), 91000);
    host.present(anybody, 1, 0, "x", "");
    assert_eq!(host.acknowledged(anybody), 0, "ABSENT is ignored, and acknowledged");
}

#[test]
fn presence_and_messages_are_acknowledged_in_one_order() {
    for seed in 1..=10 {
        let mut host = Host::new(3, seed);
        let client = host.connect(0, "");
        host.attach(client, "room");
        for msg_serial in 0..20 {
            match msg_serial % 3 {
                0 => host.present(client, msg_serial, ENTER, "ann", "x"),
                1 => host.publish(client, msg_serial, "elsewhere", "x"),
                _ => host.present(client, msg_serial, ENTER, "*", "x"),
            }
        }
        host.settle();
        let mut next = 0;
        for message in host.messages(client) {
            match message["action"].as_u64() {
                Some(1) => {
                    assert_eq!(message["msgSerial"], next);
                    let count = message["count"].as_u64().unwrap();
                    assert_eq!(message["res"].as_array().unwrap().len() as u64, count);
                    next += count;
                }
                Some(2) => {
                    assert_eq!((&message["msgSerial"], next % 3), (&json!(next), 2));
                    next += 1;
                }
                _ => {}
            }
        }
        assert_eq!(next, 20, "seed={seed}");
    }
}

#[test]
fn a_client_that_wants_no_presence_hears_of_its_own_members_alone() {
    let mut host = Host::new(2, 9);
    let (ann, bob) = (host.connect(0, "&clientId=ann"), host.connect(1, "&clientId=bob"));
    host.attach(bob, "room");
    host.present(bob, 0, ENTER, "", "");
    host.settle();
    // PRESENCE and SUBSCRIBE.
    host.send(ann, &json!({"action": 10, "channel": "room", "flags": 1 << 16 | 1 << 18}));
    host.settle();
    let messages = host.messages(ann);
    let attached = messages.last().expect("attached");
    assert_eq!((&attached["action"], attached["flags"].as_u64().unwrap() & 1), (&json!(11), 0));
    host.present(ann, 0, ENTER, "", "mine");
    host.present(bob, 1, UPDATE, "", "his");
    assert_eq!(host.heard(ann), [heard(ENTER, "ann", "mine")]);
    assert_eq!(host.heard(bob).len(), 3);
    host.publish(bob, 2, "room", "a message");
    host.settle();
    assert_eq!(host.data(ann, "room"), ["a message"]);
}

#[test]
fn whoever_detaches_closes_or_fails_leaves_at_once() {
    for (goodbye, how) in [
        (json!({"action": 12, "channel": "room"}), "detach"),
        (json!({"action": 7}), "close"),
        (json!({"action": 15, "channel": "room", "msgSerial": -1}), "protocol error"),
    ] {
        let mut host = Host::new(2, 5);
        let (client, other) = (host.connect(0, ""), host.connect(1, ""));
        host.attach(client, "room");
        host.attach(other, "room");
        let members = json!([
            {"action": 2, "clientId": "ann", "data": "a"}, {"action": 2, "clientId": "bob", "data": "b"},
        ]);
        host.present_all(client, 0, members);
        host.settle();
        host.messages(other);
        host.send(client, &goodbye);
        let left: Vec<_> = host.events(other);
        let expected = [("ann", "a"), ("bob", "b")]
            .map(|(who, data)| (LEAVE, who.to_owned(), data.to_owned(), Value::Null));
        assert_eq!(left, expected, "{how}");
    }
}

#[test]
fn a_second_attachment_to_the_channel_keeps_its_members() {
    let mut host = Host::new(2, 5);
    let (client, other) = (host.connect(0, "&clientId=ann"), host.connect(1, ""));
    host.attach(other, "room");
    host.attach(client, "room");
    host.attach(client, "[?rewind=1]room");
    host.present(client, 0, ENTER, "", "");
    assert_eq!(host.heard(other).len(), 1);
    host.send(client, &json!({"action": 12, "channel": "room"}));
    assert_eq!(host.heard(other), []);
    host.send(client, &json!({"action": 12, "channel": "[?rewind=1]room"}));
    assert_eq!(host.heard(other), [heard(LEAVE, "ann", "")]);
}

/// Connects `ann` to shard 0 and somebody to shard 1, both in the room; returns them and ann's key.
fn ann_is_present(host: &mut Host, query: &str) -> (usize, usize, Value) {
    let ann = host.connect(0, &format!("&clientId=ann{query}"));
    let key = host.messages(ann)[0]["connectionDetails"]["connectionKey"].clone();
    let other = host.connect(1, "");
    host.attach(ann, "room");
    host.attach(other, "room");
    host.present(ann, 0, ENTER, "", "hello");
    assert_eq!(host.heard(other), [heard(ENTER, "ann", "hello")]);
    (ann, other, key)
}

/// Ann comes back, and nothing was lost.
fn resume_ann(host: &mut Host, shard: usize, key: &Value) -> usize {
    let key = key.as_str().expect("a key");
    let client = host.connect(shard, &format!("&clientId=ann&resume={key}"));
    let connected = host.messages(client).remove(0);
    assert!(connected.get("error").is_none(), "{connected}");
    client
}

#[test]
fn a_lost_client_leaves_after_the_time_that_it_may_ask_for() {
    for (query, grace_ms) in [
        ("", 15_000),
        ("&remainPresentFor=3000", 3_000),
        ("&remainPresentFor=10", 1_000),
        ("&remainPresentFor=soon", 15_000),
        ("&remainPresentFor=99999999999", 120_000),
    ] {
        let mut host = Host::new(2, 8);
        let (ann, other, _) = ann_is_present(&mut host, query);
        host.drop_transport(ann);
        host.settle();
        let left_ms = host.now.mono_ms + grace_ms;
        while host.now.mono_ms + 1 < left_ms {
            let rest = Duration::from_millis((left_ms - host.now.mono_ms - 1).min(20_000));
            host.pass(rest);
            // Whoever stays shows that it is alive.
            host.send(other, &json!({"action": 0}));
            assert_eq!(host.heard(other), [], "{query}");
        }
        host.pass(Duration::from_millis(1));
        let next = host.shards.iter().filter_map(Shard::next_timeout).min();
        assert!(next.is_some_and(|next| next <= host.now.mono_ms), "somebody is to be woken");
        assert_eq!(host.events(other), [(LEAVE, "ann".into(), "hello".into(), Value::Null)]);
    }
}

#[test]
fn who_resumes_and_enters_again_was_never_away() {
    for seed in 1..=10 {
        let mut host = Host::new(3, seed);
        let (ann, other, key) = ann_is_present(&mut host, "");
        let events = host.messages(ann);
        let entered = events.iter().find(|message| message["action"] == 14).expect("told");
        let id = entered["presence"][0]["id"].clone();
        host.drop_transport(ann);
        host.pass(Duration::from_secs(10));
        let again = resume_ann(&mut host, 2, &key);
        host.send(again, &json!({"action": 10, "channel": "room"}));
        let member = json!({"action": 2, "id": id, "clientId": "ann", "data": "hello"});
        host.present_all(again, 1, json!([member]));
        assert_eq!(host.acknowledged(again), 0, "seed={seed}");
        host.pass(Duration::from_secs(10));
        assert_eq!(host.heard(other), [], "seed={seed}");
        host.drop_transport(again);
        host.settle();
        host.pass(Duration::from_secs(15));
        assert_eq!(host.heard(other), [heard(LEAVE, "ann", "hello")], "seed={seed}");
    }
}

#[test]
fn who_resumes_stays_where_it_attaches_again_and_leaves_where_it_does_not() {
    for (attaches, expected) in [(true, 0), (false, 1)] {
        let mut host = Host::new(3, 6);
        let (ann, other, key) = ann_is_present(&mut host, "");
        host.drop_transport(ann);
        let again = resume_ann(&mut host, 2, &key);
        if attaches {
            host.attach(again, "room");
        }
        host.settle();
        host.pass(Duration::from_secs(15));
        assert_eq!(host.heard(other).len(), expected);
    }
}

#[test]
fn a_connection_that_is_forgotten_leaves_at_once() {
    let config = ShardConfig { dormant_max: 1, ..ShardConfig::default() };
    let mut host = Host::with_config(2, 6, config);
    let (ann, other, _) = ann_is_present(&mut host, "");
    let stranger = host.connect(0, "");
    host.drop_transport(ann);
    host.drop_transport(stranger);
    assert_eq!(host.heard(other), [heard(LEAVE, "ann", "hello")]);
}

#[test]
fn a_large_room_is_told_in_pages_on_attach_and_on_request() {
    let mut host = Host::new(2, 4);
    let client = host.connect(0, "");
    host.attach(client, "room");
    for page in 0..4 {
        let members: Vec<Value> =
            (0..50).map(|at| json!({"action": 2, "clientId": format!("{page}-{at}")})).collect();
        host.present_all(client, page, members.into());
    }
    // The default of an app.
    host.present(client, 4, ENTER, "one more", "");
    host.settle();
    let nacks = host.messages(client).into_iter().filter(|message| message["action"] == 2);
    assert_eq!(nacks.map(|nack| nack["error"]["code"].clone()).collect::<Vec<_>>(), [91003]);
    let late = host.connect(1, "");
    host.messages(late);
    for request in
        [json!({"action": 10, "channel": "room"}), json!({"action": 16, "channel": "room"})]
    {
        host.send(late, &request);
        host.settle();
        let messages = host.messages(late);
        let pages: Vec<_> = messages.iter().filter(|message| message["action"] == 16).collect();
        let cursors: Vec<_> = pages.iter().map(|page| &page["channelSerial"]).collect();
        assert_eq!(cursors, ["members:0-0", "members:"]);
        let ids: std::collections::BTreeSet<&str> = pages
            .iter()
            .flat_map(|page| page["presence"].as_array().unwrap())
            .map(|member| member["id"].as_str().unwrap())
            .collect();
        assert_eq!(ids.len(), 200);
    }
}

#[test]
fn a_sync_is_answered_even_if_nobody_is_there_and_refused_where_nobody_listens() {
    let mut host = Host::new(2, 4);
    let client = host.connect(0, "");
    host.messages(client);
    host.send(client, &json!({"action": 16, "channel": "room"}));
    host.settle();
    let refused = host.messages(client).pop().expect("answered");
    assert_eq!((&refused["channel"], &refused["error"]["code"]), (&json!("room"), &json!(90001)));
    host.attach(client, "room");
    host.send(client, &json!({"action": 16, "channel": "room"}));
    host.settle();
    let sync = host.messages(client).pop().expect("answered");
    assert_eq!((&sync["action"], &sync["presence"]), (&json!(16), &json!([])));
    assert_eq!(sync["channelSerial"], "members:");
}

/// Whatever happens in whatever order: in the end all who are attached know the same members, and those
/// are the ones that the home has.
#[test]
fn all_clients_agree_on_who_is_present() {
    for seed in 1..=30 {
        let mut host = Host::new(3, seed);
        let mut rooms: HashMap<usize, Members> = HashMap::new();
        let mut serials: HashMap<usize, u64> = HashMap::new();
        let mut clients: Vec<usize> = Vec::new();
        for _ in 0..60 {
            match host.below(10) {
                0 | 1 if clients.len() < 8 => {
                    let shard = host.below(3);
                    let client = host.connect(shard, "");
                    host.messages(client);
                    host.send(client, &json!({"action": 10, "channel": "room"}));
                    clients.push(client);
                    rooms.insert(client, Members::default());
                    serials.insert(client, 0);
                }
                2 if !clients.is_empty() => {
                    let client = clients.swap_remove(host.below(clients.len()));
                    rooms.remove(&client);
                    match host.below(2) {
                        0 => host.drop_transport(client),
                        _ => host.send(client, &json!({"action": 7})),
                    }
                }
                3 => host.pass(Duration::from_secs(6)),
                4 if !clients.is_empty() => {
                    let client = clients[host.below(clients.len())];
                    let action = [10, 16][host.below(2)];
                    host.send(client, &json!({"action": action, "channel": "room"}));
                }
                5 if !clients.is_empty() => {
                    let client = clients[host.below(clients.len())];
                    host.send(client, &json!({"action": 12, "channel": "room"}));
                    host.send(client, &json!({"action": 10, "channel": "room"}));
                }
                _ if !clients.is_empty() => {
                    let client = clients[host.below(clients.len())];
                    let serial = serials.get_mut(&client).expect("connected");
                    let msg_serial = *serial;
                    *serial += 1;
                    let who = ["ann", "bob", "cleo"][host.below(3)];
                    let action = [ENTER, UPDATE, LEAVE][host.below(3)];
                    host.present(client, msg_serial, action, who, &msg_serial.to_string());
                }
                _ => {}
            }
            for _ in 0..host.below(60) {
                host.step();
            }
            for &client in &clients {
                let room = rooms.get_mut(&client).expect("connected");
                host.messages(client).iter().for_each(|message| room.take(message));
                host.answer_pings(client);
            }
        }
        host.settle();
        host.pass(Duration::from_secs(16));
        host.settle();
        for &client in &clients {
            let room = rooms.get_mut(&client).expect("connected");
            host.messages(client).iter().for_each(|message| room.take(message));
        }
        let witness = host.connect(0, "");
        host.messages(witness);
        host.send(witness, &json!({"action": 10, "channel": "room"}));
        host.settle();
        let mut expected = Members::default();
        host.messages(witness).iter().for_each(|message| expected.take(message));
        for &client in &clients {
            let room = &rooms[&client];
            assert!(room.residual.is_none(), "seed={seed}: a SYNC has not ended");
            assert_eq!(room.present, expected.present, "seed={seed}");
        }
    }
}

#[test]
fn who_asks_for_members_and_may_not_know_them_is_not_attached_any_more() {
    let mut host = Host::new(2, 3);
    let (client, other) = (host.connect(0, ""), host.connect(1, ""));
    host.messages(client);
    let publish_and_subscribe = (1 << 17) | (1 << 18);
    host.send(client, &json!({"action": 10, "channel": "room", "flags": publish_and_subscribe}));
    host.send(client, &json!({"action": 16, "channel": "room"}));
    host.settle();
    let actions: Vec<Value> =
        host.messages(client).iter().map(|message| message["action"].clone()).collect();
    assert_eq!(actions, [9], "the ERROR has overtaken the answer to ATTACH, which is void");
    host.publish(other, 0, "room", "unheard");
    host.settle();
    assert!(host.data(client, "room").is_empty());
}

#[test]
fn who_lets_go_of_a_channel_over_another_transport_leaves_it() {
    let mut host = Host::new(3, 6);
    let (ann, other, key) = ann_is_present(&mut host, "");
    host.drop_transport(ann);
    let again = resume_ann(&mut host, 2, &key);
    host.send(again, &json!({"action": 12, "channel": "room"}));
    host.settle();
    assert_eq!(host.heard(other), [heard(LEAVE, "ann", "hello")]);
}
