//! Apps that come and go while shards run.

use super::*;

/// A request to `shard`, whose answer is in what the returned client receives.
pub(super) fn send_request(
    host: &mut Host,
    shard: usize,
    line: &str,
    headers: &str,
    body: &str,
) -> usize {
    let length = body.len();
    let head =
        format!("{line} HTTP/1.1\r\nHost: h:80\r\nContent-Length: {length}\r\n{headers}\r\n");
    host.request(shard, &(head + body))
}

/// Status and body of the only answer that `client` has received; null without a body.
pub(super) fn answer(host: &mut Host, client: usize) -> (u16, Value) {
    let received = std::mem::take(&mut host.clients[client].received);
    let text = String::from_utf8(received).expect("JSON");
    let (head, body) = text.split_once("\r\n\r\n").expect("an answer has come");
    (head[9..12].parse().expect("a status"), serde_json::from_str(body).unwrap_or_default())
}

pub(super) fn request(
    host: &mut Host,
    shard: usize,
    line: &str,
    headers: &str,
    body: &str,
) -> (u16, Value) {
    let client = send_request(host, shard, line, headers, body);
    host.settle();
    answer(host, client)
}

#[test]
fn requests_of_a_client_that_does_not_read_wait_until_it_does() {
    let config = ShardConfig {
        connection: crate::connection::ConnectionConfig {
            lane_bytes_max: 4096,
            ..crate::connection::ConnectionConfig::default()
        },
        ..ShardConfig::default()
    };
    let mut host = Host::with_config(1, 1, config);
    let request = "GET /time HTTP/1.1\r\nHost: h\r\n\r\n";
    let client = host.request(0, request);
    host.stalled.push(client);
    for _ in 0..100 {
        host.write(client, request.repeat(10).as_bytes());
        host.step();
        let lane_bytes = host.shards[0].transports[0].lane_bytes();
        assert!(lane_bytes < 4096 + 1024, "{lane_bytes} bytes");
    }
    host.stalled.clear();
    for _ in 0..100 {
        host.settle();
    }
    let text = String::from_utf8(host.clients[client].received.clone()).expect("text");
    assert_eq!(text.matches("HTTP/1.1 200 OK").count(), 1001);
}

#[test]
fn an_echo_to_a_client_that_does_not_read_has_an_end() {
    let mut config = ShardConfig { echo: true, frame_bytes_max: 4096, ..ShardConfig::default() };
    config.connection.lane_bytes_max = 4096;
    let mut host = Host::with_config(1, 1, config);
    let client = host.request(
        0,
        "GET /echo HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    );
    host.stalled.push(client);
    for _ in 0..20 {
        host.send(client, &json!("x".repeat(1000)));
        host.step();
    }
    assert!(matches!(host.shards[0].transports[0].stage, Stage::Leaving(_)));
    assert!(host.shards[0].transports[0].lane_bytes() < 10_000);
}

/// Connects with the credentials in `query`; what the first frames are is not looked at.
pub(super) fn connect_with(host: &mut Host, shard: usize, query: &str) -> usize {
    let client = ask_to_connect(host, shard, query);
    host.settle();
    pass_over_upgrade(host, client);
    client
}

/// A request for a WebSocket.
pub(super) fn ask_to_connect(host: &mut Host, shard: usize, query: &str) -> usize {
    host.request(
        shard,
        &format!(
            "GET /?{query} HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        ),
    )
}

/// The answer to that, which is no frame.
pub(super) fn pass_over_upgrade(host: &mut Host, client: usize) {
    let received = &mut host.clients[client].received;
    let end = received.windows(4).position(|four| four == b"\r\n\r\n").expect("upgraded") + 4;
    received.drain(..end);
}

/// Code of the error, in the only message that `client` has received.
pub(super) fn only_message(host: &mut Host, client: usize) -> (u64, Option<u64>) {
    let messages = host.messages(client);
    assert_eq!(messages.len(), 1, "{messages:?}");
    let action = messages[0]["action"].as_u64().expect("a number");
    (action, messages[0]["error"]["code"].as_u64())
}

pub(super) fn sandbox(shards: usize, seed: u64) -> Host {
    Host::with_config(shards, seed, ShardConfig { sandbox: true, ..ShardConfig::default() })
}

/// Makes an app and returns its id and the keys that it was told.
pub(super) fn make_app(host: &mut Host, shard: usize, body: &str) -> (String, Vec<String>) {
    let (status, app) = request(host, shard, "POST /apps", "", body);
    assert_eq!(status, 201, "{app}");
    let keys = app["keys"].as_array().expect("keys").iter();
    let keys = keys.map(|key| key["keyStr"].as_str().expect("a key").to_owned()).collect();
    (app["appId"].as_str().expect("an id").to_owned(), keys)
}

#[test]
fn once_an_app_is_told_of_every_shard_knows_it_and_apps_do_not_hear_each_other() {
    for seed in 1..=10 {
        let mut host = sandbox(3, seed);
        let (_, one) = make_app(&mut host, 1, r#"{"keys":[{}]}"#);
        let (_, two) = make_app(&mut host, 2, r#"{"keys":[{}]}"#);
        let listener = connect_with(&mut host, 2, &format!("key={}", one[0]));
        let stranger = connect_with(&mut host, 1, &format!("key={}", two[0]));
        let publisher = connect_with(&mut host, 0, &format!("key={}", one[0]));
        for client in [listener, stranger, publisher] {
            assert_eq!(only_message(&mut host, client), (4, None), "seed={seed}");
        }
        host.attach(listener, "room");
        host.attach(stranger, "room");
        host.publish(publisher, 0, "room", "hello");
        host.settle();
        assert_eq!(host.data(listener, "room"), ["hello"], "seed={seed}");
        assert!(host.data(stranger, "room").is_empty(), "seed={seed}");
    }
}

#[test]
fn an_app_is_answered_for_only_when_every_shard_has_it() {
    let mut host = sandbox(3, 1);
    let client = send_request(&mut host, 0, "POST /apps", "", r#"{"keys":[{}]}"#);
    // Shard 2 gets no turn and no mail.
    for _ in 0..50 {
        for id in 0..2 {
            host.shards[id].settle();
            while let Some(mail) = host.shards[id].poll_mail(1 - id) {
                host.shards[1 - id].handle_mail(id, mail);
            }
        }
    }
    assert!(host.shards[0].poll_transmit().is_none());
    host.settle();
    assert_eq!(answer(&mut host, client).0, 201);
}

#[test]
fn the_connections_of_a_deleted_app_end_on_every_shard_and_no_others() {
    let mut host = sandbox(3, 4);
    let (id, keys) = make_app(&mut host, 0, r#"{"keys":[{}]}"#);
    let gone: Vec<usize> =
        (0..6).map(|at| connect_with(&mut host, at % 3, &format!("key={}", keys[0]))).collect();
    let stays = host.connect(1, "");
    for &client in gone.iter().chain([&stays]) {
        host.messages(client);
    }
    let basic = |key: &str| {
        let encoded = data_encoding::BASE64.encode(key.as_bytes());
        format!("Authorization: Basic {encoded}\r\n")
    };
    let line = format!("DELETE /apps/{id}");
    assert_eq!(request(&mut host, 1, &line, "", "").0, 401);
    assert_eq!(request(&mut host, 1, &line, &basic(KEY), "").0, 401);
    assert_eq!(request(&mut host, 1, &line, &basic(&keys[0]), "").0, 204);
    for client in gone {
        assert_eq!(only_message(&mut host, client), (9, Some(40300)));
    }
    assert!(host.messages(stays).is_empty());
    let late = connect_with(&mut host, 2, &format!("key={}", keys[0]));
    assert_eq!(only_message(&mut host, late), (9, Some(40101)));
}

#[test]
fn what_is_published_in_a_persisted_namespace_outlives_the_rest() {
    let mut host = sandbox(2, 21);
    let namespaces = r#"{"keys":[{}],"namespaces":[{"id":"kept","persisted":true}]}"#;
    let (_, keys) = make_app(&mut host, 0, namespaces);
    let published = |host: &mut Host, channel: &str| {
        let line = format!("GET /channels/{channel}/messages?key={}", keys[0]);
        request(host, 1, &line, "", "").1.as_array().expect("messages").len()
    };
    for channel in ["kept:room", "kept", "room"] {
        let line = format!("POST /channels/{channel}/messages?key={}", keys[0]);
        assert_eq!(request(&mut host, 0, &line, "", r#"{"data":"x"}"#).0, 201);
        assert_eq!(published(&mut host, channel), 1);
    }
    host.pass(Duration::from_secs(600));
    host.settle();
    for (channel, count) in [("kept:room", 1), ("kept", 1), ("room", 0)] {
        assert_eq!(published(&mut host, channel), count, "{channel}");
    }
    host.pass(Duration::from_secs(24 * 60 * 60));
    host.settle();
    assert_eq!(published(&mut host, "kept"), 0);
}

#[test]
fn the_numbers_that_a_suite_posts_are_on_every_shard() {
    let mut host = sandbox(2, 9);
    let (id, keys) = make_app(&mut host, 0, r#"{"keys":[{}]}"#);
    let line = format!("POST /stats?key={}", keys[0]);
    let stats = r#"[{"intervalId":"2026-02-03:15:03"},{"intervalId":"2026-02-03:15:04"}]"#;
    assert_eq!(request(&mut host, 1, &line, "", stats), (201, json!([])));
    for shard in &host.shards {
        assert_eq!(shard.directory.stats(&id).len(), 2);
    }
}

#[test]
fn there_is_no_sandbox_unless_it_is_asked_for() {
    let mut host = Host::new(1, 1);
    assert_eq!(request(&mut host, 0, "POST /apps", "", "{}").0, 404);
    assert_eq!(request(&mut host, 0, "DELETE /apps/app", "", "").0, 404);
    assert_eq!(request(&mut host, 0, "POST /stats", "", "[]").0, 404);
}

#[test]
fn nothing_is_left_of_a_deleted_app_but_what_others_have_stays() {
    let mut host = sandbox(2, 3);
    let channels = r#"[{"name":"team","presence":[{"clientId":"a"},{"clientId":"b"}]}]"#;
    let body = format!(r#"{{"keys":[{{}}],"channels":{channels}}}"#);
    let (id, keys) = make_app(&mut host, 0, &body);
    let (_, others) = make_app(&mut host, 1, &body);
    let client = connect_with(&mut host, 1, &format!("key={}", keys[0]));
    host.attach(client, "room");
    host.publish(client, 0, "room", "hello");
    host.settle();
    let members = |host: &mut Host, key: &str| {
        let line = format!("GET /channels/team/presence?key={key}");
        request(host, 0, &line, "", "").1.as_array().map(Vec::len)
    };
    assert_eq!(members(&mut host, &keys[0]), Some(2));
    let line = format!("DELETE /apps/{id}?key={}", keys[0]);
    assert_eq!(request(&mut host, 1, &line, "", "").0, 204);
    for _ in 0..4 {
        host.pass(Duration::from_secs(1));
        host.settle();
    }
    for shard in &host.shards {
        assert!(!shard.homes.has_channels_of(&id));
    }
    assert_eq!(members(&mut host, &others[0]), Some(2));
}
