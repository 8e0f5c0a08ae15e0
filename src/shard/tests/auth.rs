//! Tokens: made over REST, used on any shard, renewed in band, ended by time and by revocation.

use data_encoding::{BASE64, BASE64URL_NOPAD};

use super::apps::{
    answer, ask_to_connect, connect_with, make_app, only_message, pass_over_upgrade, request,
    sandbox, send_request,
};
use super::*;

/// A sandbox with one app: a key for everything, one that subscribes, one with revocable tokens.
fn host(seed: u64) -> (Host, Vec<String>) {
    let mut host = sandbox(3, seed);
    let keys = r#"{"keys":[{},{"capability":"{\"a\":[\"subscribe\"],\"b\":[\"*\"]}"},
        {"revocableTokens":true}],"namespaces":[{"id":"members","authenticated":true}]}"#;
    let (_, keys) = make_app(&mut host, 0, keys);
    (host, keys)
}

fn basic(key: &str) -> String {
    format!("Authorization: Basic {}\r\n", BASE64.encode(key.as_bytes()))
}

fn name(key: &str) -> &str {
    key.split_once(':').expect("a key").0
}

fn token_details(host: &mut Host, shard: usize, key: &str, body: &Value) -> Value {
    let line = format!("POST /keys/{}/requestToken", name(key));
    let (status, details) = request(host, shard, &line, &basic(key), &body.to_string());
    assert_eq!(status, 201, "{details}");
    details
}

fn token(host: &mut Host, key: &str, body: &Value) -> String {
    token_details(host, 1, key, body)["token"].as_str().expect("a token").to_owned()
}

fn code(answer: &(u16, Value)) -> (u16, u64) {
    (answer.0, answer.1["error"]["code"].as_u64().expect("an error"))
}

/// The actions and error codes that a client has received.
fn received(host: &mut Host, client: usize) -> Vec<(u64, Option<u64>)> {
    let of = |message: &Value| {
        let action = message["action"].as_u64().expect("a number");
        (action, message["error"]["code"].as_u64())
    };
    host.messages(client).iter().map(of).filter(|(action, _)| *action != 0).collect()
}

#[test]
fn a_token_is_good_on_every_shard_for_what_it_says() {
    let (mut host, keys) = host(1);
    let asked = json!({"clientId": "bob", "ttl": 5000, "capability": r#"{"room":["subscribe"]}"#});
    let details = token_details(&mut host, 0, &keys[0], &asked);
    assert_eq!(details["capability"], r#"{"room":["subscribe"]}"#);
    assert_eq!(
        (&details["clientId"], details["keyName"].as_str()),
        (&json!("bob"), Some(name(&keys[0])))
    );
    assert_eq!(details["expires"].as_u64(), details["issued"].as_u64().map(|issued| issued + 5000));
    let token = details["token"].as_str().expect("a token").to_owned();
    for shard in 0..3 {
        for query in ["accessToken", "access_token"] {
            let client = connect_with(&mut host, shard, &format!("{query}={token}"));
            let connected = host.messages(client).remove(0);
            assert_eq!(connected["connectionDetails"]["clientId"], "bob");
        }
        let history = |host: &mut Host, channel: &str, bearer: &str| {
            let line = format!("GET /channels/{channel}/messages");
            code(&request(host, shard, &line, &format!("Authorization: Bearer {bearer}\r\n"), ""))
        };
        for bearer in [token.clone(), BASE64.encode(token.as_bytes())] {
            assert_eq!(history(&mut host, "room", &bearer), (401, 40160));
        }
        assert_eq!(history(&mut host, "room", "nonsense"), (401, 40145));
    }
    let stranger = connect_with(&mut host, 0, &format!("accessToken={token}&clientId=eve"));
    assert_eq!(only_message(&mut host, stranger), (9, Some(40102)));
}

#[test]
fn a_signed_request_is_good_for_one_token_whichever_shards_it_is_sent_to() {
    let (mut host, keys) = host(2);
    let (key_name, secret) = keys[0].split_once(':').expect("a key");
    let now_ms = host.now.unix_ms;
    let text = format!("{key_name}\n\n\n\n{now_ms}\n0123456789abcdef\n");
    let mac = {
        use hmac::Mac;
        let mac = hmac::Hmac::<sha2::Sha256>::new_from_slice(secret.as_bytes());
        mac.expect("any length").chain_update(text).finalize().into_bytes()
    };
    let body = json!({"keyName": key_name, "timestamp": now_ms, "nonce": "0123456789abcdef",
                      "mac": BASE64.encode(&mac)})
    .to_string();
    let line = format!("POST /keys/{key_name}/requestToken");
    let clients: Vec<usize> =
        (0..3).map(|shard| send_request(&mut host, shard, &line, "", &body)).collect();
    host.settle();
    let mut statuses: Vec<u16> =
        clients.iter().map(|&client| answer(&mut host, client).0).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [201, 401, 401]);
    let again = request(&mut host, 1, &line, "", &body);
    assert_eq!(code(&again), (401, 40105));
}

#[test]
fn who_may_not_have_a_token_is_told_why() {
    let (mut host, keys) = host(3);
    let line = format!("POST /keys/{}/requestToken", name(&keys[0]));
    let mut ask = |line: &str, headers: &str| code(&request(&mut host, 1, line, headers, "{}"));
    assert_eq!(ask(&line, ""), (401, 40101));
    assert_eq!(ask(&line, &basic(&keys[1])), (401, 40101));
    assert_eq!(ask("POST /keys/no.key/requestToken", &basic(&keys[0])), (404, 40400));
    let unknown = format!("POST /keys/{}x/requestToken", name(&keys[0]));
    assert_eq!(ask(&unknown, &basic(&keys[0])), (401, 40400));
    assert_eq!(
        ask(&line, &format!("{}Content-Type: text/plain\r\n", basic(&keys[0]))),
        (400, 40001)
    );
}

#[test]
fn a_short_token_ends_without_warning_and_a_longer_one_with() {
    let (mut host, keys) = host(4);
    let short = token(&mut host, &keys[0], &json!({"ttl": 1500}));
    let long = token(&mut host, &keys[0], &json!({"ttl": 60_000}));
    let short = connect_with(&mut host, 0, &format!("accessToken={short}"));
    let long = connect_with(&mut host, 1, &format!("accessToken={long}"));
    assert_eq!(only_message(&mut host, short), (4, None));
    assert_eq!(only_message(&mut host, long), (4, None));
    let mut seen = (Vec::new(), Vec::new());
    for tenth in 0..620 {
        host.pass(Duration::from_millis(100));
        if tenth % 100 == 0 {
            host.send(long, &json!({"action": 0}));
        }
        for shard in 0..3 {
            let now = host.now;
            host.shards[shard].begin_turn(now);
            host.shards[shard].handle_timeout();
        }
        host.settle_quickly();
        let at = |list: &mut Vec<_>, messages: Vec<_>| {
            list.extend(messages.into_iter().map(|message| (message, (tenth + 1) * 100)));
        };
        at(&mut seen.0, received(&mut host, short));
        at(&mut seen.1, received(&mut host, long));
    }
    let [((6, Some(40142)), ended_ms)] = seen.0[..] else { panic!("{:?}", seen.0) };
    assert!((1500..1900).contains(&ended_ms), "{ended_ms}");
    let [((17, None), asked_ms), ((6, Some(40142)), ended_ms)] = seen.1[..] else {
        panic!("{:?}", seen.1)
    };
    assert!((30_000..30_400).contains(&asked_ms), "{asked_ms}");
    assert!((60_000..60_400).contains(&ended_ms), "{ended_ms}");
}

#[test]
fn what_comes_after_the_end_of_a_token_is_not_done() {
    let (mut host, keys) = host(12);
    let key = keys[0].clone();
    let connect = |host: &mut Host, ttl_ms: u64| {
        let token = token(host, &key, &json!({"ttl": ttl_ms}));
        let client = connect_with(host, 0, &format!("accessToken={token}"));
        let connected = host.messages(client).pop().expect("CONNECTED");
        (client, connected["connectionKey"].as_str().expect("a key").to_owned(), token)
    };
    // Sooner than the wheel has turned.
    let (late, ..) = connect(&mut host, 1000);
    host.pass(Duration::from_millis(1001));
    let now = host.now;
    host.shards[0].begin_turn(now);
    host.publish(late, 0, "room", "late");
    host.settle();
    assert_eq!(received(&mut host, late), [(6, Some(40142))]);

    // While its connection is looked for on another shard.
    let (client, resumes, token) = connect(&mut host, 1000);
    host.hang_up(client);
    host.settle();
    let again = ask_to_connect(&mut host, 1, &format!("accessToken={token}&resume={resumes}"));
    host.pass(Duration::from_millis(1001));
    host.settle();
    pass_over_upgrade(&mut host, again);
    assert_eq!(received(&mut host, again), [(4, None), (6, Some(40142))]);
}

#[test]
fn a_new_token_keeps_the_connection_and_changes_what_it_may_do() {
    let (mut host, keys) = host(5);
    let wide = token(&mut host, &keys[1], &json!({"clientId": "bob"}));
    let narrow = json!({"clientId": "bob", "capability": r#"{"b":["subscribe"]}"#});
    let narrow = token(&mut host, &keys[1], &narrow);
    let client = connect_with(&mut host, 2, &format!("accessToken={wide}"));
    let id = host.messages(client)[0]["connectionId"].clone();
    host.attach(client, "a");
    host.attach(client, "b");
    let auth = |token: &str| json!({"action": 17, "auth": {"accessToken": token}});
    host.send(client, &auth(&narrow));
    host.settle();
    let answers = host.messages(client);
    assert_eq!((&answers[0]["action"], &answers[0]["connectionId"]), (&json!(4), &id));
    let of_channel = |channel: &str| {
        let of = answers.iter().filter(|answer| answer["channel"] == channel);
        of.map(|answer| (answer["action"].as_u64(), answer["error"]["code"].as_u64()))
            .collect::<Vec<_>>()
    };
    assert_eq!(of_channel("a"), [(Some(9), Some(40160))]);
    assert_eq!(of_channel("b"), [(Some(11), None)]);
    host.publish(client, 0, "b", "not any more");
    host.settle();
    assert_eq!(received(&mut host, client), [(2, Some(40160))]);
    // It still hears what it may.
    let key = format!("key={}", keys[0]);
    let publisher = connect_with(&mut host, 0, &key);
    for channel in ["a", "b"] {
        host.publish(publisher, u64::from(channel == "b"), channel, channel);
    }
    host.settle();
    assert_eq!(host.data(client, "b"), ["b"]);
    host.send(client, &auth(&wide));
    host.settle();
    // What it had asked for when it attached is granted now.
    assert_eq!(received(&mut host, client), [(4, None), (11, None)]);
    host.publish(client, 1, "b", "again");
    host.settle();
    assert!(received(&mut host, client).contains(&(1, None)));
    assert_eq!(host.attach(client, "a")["action"], 11);
}

/// Sends AUTH with a token for what `capability` says, and returns what is said of channels then.
fn authenticate(host: &mut Host, client: usize, key: &str, capability: &Value) -> Vec<Value> {
    let token = token(host, key, &json!({"capability": capability.to_string()}));
    host.messages(client);
    host.send(client, &json!({"action": 17, "auth": {"accessToken": token}}));
    host.settle();
    host.messages(client).into_iter().filter(|answer| answer["channel"] == "room").collect()
}

#[test]
fn an_attachment_keeps_its_params_through_another_token() {
    let (mut host, keys) = host(12);
    let client = connect_with(&mut host, 0, &format!("key={}", keys[0]));
    let publisher = connect_with(&mut host, 1, &format!("key={}", keys[0]));
    let params = json!({"modes": "publish,subscribe", "rewind": "1", "delta": "vcdiff"});
    // The next token comes before the first answer.
    let narrow = token(&mut host, &keys[0], &json!({"capability": r#"{"room":["subscribe"]}"#}));
    host.messages(client);
    host.send(client, &json!({"action": 10, "channel": "room", "params": params}));
    host.send(client, &json!({"action": 17, "auth": {"accessToken": narrow}}));
    host.settle();
    let answers = host.messages(client);
    let attached = answers.iter().rfind(|answer| answer["action"] == 11).expect("answered");
    let expected = json!({"modes": "subscribe", "rewind": "1", "delta": "vcdiff"});
    assert_eq!((&attached["params"], &attached["flags"]), (&expected, &json!(1 << 18)));
    assert_eq!(attached["error"]["code"], 80020);
    let wide = json!({"room": ["subscribe", "publish"]});
    let told = authenticate(&mut host, client, &keys[0], &wide);
    assert_eq!((told.len(), &told[0]["action"], &told[0]["params"]), (1, &json!(11), &params));
    for number in 0..2 {
        host.publish(publisher, number, "room", "the same text again and again");
    }
    host.settle();
    let last = host.messages(client).pop().expect("two messages");
    assert_eq!(last["messages"][0]["extras"]["delta"]["format"], "vcdiff");
    // Attached again without params it has none.
    host.attach(client, "room");
    let told = authenticate(&mut host, client, &keys[0], &json!({"room": ["subscribe"]}));
    assert_eq!((told.len(), &told[0]["action"], &told[0]["params"]), (1, &json!(11), &Value::Null));
}

/// A client of ably-js's kind that is sent deltas: while it waits to be sent again what it could not decode it drops
/// everything, and the next ATTACHED, whatever that answers, ends the wait.
#[derive(Default)]
struct Decoder {
    is_waiting: bool,
    /// Id of the message that the next delta has to start from.
    base: Value,
    heard: Vec<String>,
    /// How many it had heard when it was told that something may be missing.
    told: Vec<usize>,
    serial: Value,
}

impl Decoder {
    fn take(&mut self, messages: &[Value]) {
        for message in messages {
            match message["action"].as_u64() {
                Some(11) => {
                    self.is_waiting = false;
                    if message["flags"].as_u64().expect("flags") & 4 == 0 {
                        assert_eq!(message["error"]["code"], 80020);
                        self.told.push(self.heard.len());
                    }
                }
                Some(15) if !self.is_waiting => {
                    let content = &message["messages"][0];
                    let delta = &content["extras"]["delta"];
                    assert!(delta.is_null() || delta["from"] == self.base, "{message}");
                    (self.base, self.serial) =
                        (content["id"].clone(), message["channelSerial"].clone());
                    self.heard.push(content["name"].as_str().expect("a name").into());
                }
                _ => {}
            }
        }
    }
}

#[test]
fn who_waits_for_a_message_again_is_told_when_the_attached_of_a_token_comes_first() {
    let (narrow, wide) = (json!({"room": ["subscribe"]}), json!({"room": ["*"]}));
    // The same view, and another one: whoever asked for annotations is sent them.
    let tokens = [(1 << 17 | 1 << 18, &wide, &narrow), (1 << 18 | 1 << 22, &narrow, &wide)];
    for (flags, first, second) in tokens {
        for data in ["", "the same text again and again, of which a delta leaves little"] {
            let (mut host, keys) = host(15);
            let client = connect_with(&mut host, 0, &format!("key={}", keys[0]));
            let publisher = connect_with(&mut host, 1, &format!("key={}", keys[0]));
            authenticate(&mut host, client, &keys[0], first);
            let attach = |serial: &Value| {
                json!({"action": 10, "channel": "room", "flags": flags, "channelSerial": serial,
                       "params": {"delta": "vcdiff"}})
            };
            host.send(client, &attach(&Value::Null));
            host.settle();
            host.messages(client);
            let publish = |host: &mut Host, number: u64| {
                let message =
                    json!({"name": number.to_string(), "data": format!("{data}{number}")});
                host.send(
                    publisher,
                    &json!({"action": 15, "msgSerial": number, "channel": "room",
                            "messages": [message]}),
                );
                host.settle();
            };
            let mut decoder = Decoder::default();
            (0..2).for_each(|number| publish(&mut host, number));
            decoder.take(&host.messages(client));
            // The third it cannot decode. Its ATTACH is under way for a while.
            publish(&mut host, 2);
            host.messages(client);
            decoder.is_waiting = true;
            let asked = decoder.serial.clone();
            decoder.take(&authenticate(&mut host, client, &keys[0], second));
            publish(&mut host, 3);
            host.send(client, &attach(&asked));
            host.settle();
            publish(&mut host, 4);
            decoder.take(&host.messages(client));
            assert_eq!((decoder.heard.join(" ").as_str(), &*decoder.told), ("0 1 3 4", &[2][..]));
            // What it cannot decode behind that it is sent again.
            publish(&mut host, 5);
            host.messages(client);
            host.send(client, &attach(&decoder.serial));
            host.settle();
            decoder.take(&host.messages(client));
            assert_eq!(
                (decoder.heard.last().map(String::as_str), decoder.told.len()),
                (Some("5"), 1)
            );
        }
    }
}

#[test]
fn occupancy_ends_with_the_permission_to_see_it() {
    let (mut host, keys) = host(13);
    let client = connect_with(&mut host, 0, &format!("key={}", keys[0]));
    let other = connect_with(&mut host, 1, &format!("key={}", keys[0]));
    let params = json!({"occupancy": "metrics", "echo": "false"});
    let attach = json!({"action": 10, "channel": "room", "flags": 1 << 18, "params": params});
    host.send(client, &attach);
    host.settle();
    let same = json!({"room": ["subscribe", "channel-metadata"]});
    assert_eq!(authenticate(&mut host, client, &keys[0], &same), [] as [Value; 0]);
    let told = authenticate(&mut host, client, &keys[0], &json!({"room": ["subscribe"]}));
    assert_eq!((told.len(), &told[0]["action"]), (1, &json!(11)));
    assert_eq!(told[0]["params"], json!({"echo": "false"}));
    host.messages(other);
    host.attach(other, "room");
    host.publish(other, 0, "room", "still heard");
    host.settle();
    assert_eq!(host.data(client, "room"), ["still heard"]);
}

#[test]
fn what_a_token_claims_of_its_holder_goes_with_its_messages() {
    let (mut host, keys) = host(14);
    let (key_name, secret) = keys[0].split_once(':').expect("a key");
    let part = |value: Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    let now = host.now.unix_ms / 1000;
    let header = json!({"alg": "HS256", "typ": "JWT", "kid": key_name});
    let claims = json!({"iat": now, "exp": now + 60, "ably.channel.chat:*": "it's \"me\""});
    let signed = format!("{}.{}", part(header), part(claims));
    let mac = {
        use hmac::Mac;
        let mac = hmac::Hmac::<sha2::Sha256>::new_from_slice(secret.as_bytes());
        mac.expect("any length").chain_update(&signed).finalize().into_bytes()
    };
    let token = format!("{signed}.{}", BASE64URL_NOPAD.encode(&mac));
    let (client, other) = (
        connect_with(&mut host, 0, &format!("accessToken={token}")),
        connect_with(&mut host, 1, &format!("key={}", keys[0])),
    );
    host.messages(other);
    host.attach(other, "chat:1");
    host.attach(other, "other");
    let publish = |msg_serial: u64, channel: &str, extras: Value| {
        let messages = json!([{"data": "x", "extras": extras}]);
        json!({"action": 15, "msgSerial": msg_serial, "channel": channel, "messages": messages})
    };
    host.send(client, &publish(0, "chat:1", Value::Null));
    host.send(client, &publish(1, "chat:1", json!({"headers": {"a": 1}})));
    host.send(client, &publish(2, "other", Value::Null));
    host.send(other, &publish(0, "chat:1", Value::Null));
    let bearer = format!("Authorization: Bearer {token}\r\n");
    request(&mut host, 2, "POST /channels/chat:1/messages", &bearer, r#"{"name":"rest"}"#);
    let batch = r#"{"channels":["chat:1"],"messages":{"name":"batch"}}"#;
    request(&mut host, 2, "POST /messages", &bearer, batch);
    let messages = host.messages(other);
    let messages = messages.iter().filter(|message| message["action"] == 15);
    let mut extras: Vec<String> =
        messages.map(|message| message["messages"][0]["extras"].to_string()).collect();
    extras.sort();
    let claimed = r#"{"userClaim":"it's \"me\""}"#;
    let both = r#"{"headers":{"a":1},"userClaim":"it's \"me\""}"#;
    assert_eq!(extras, ["null", "null", both, claimed, claimed, claimed]);
    host.messages(client);
    host.send(client, &publish(3, "other", json!({"userClaim": "forged"})));
    host.settle();
    assert_eq!(received(&mut host, client), [(2, Some(40032))]);
}

#[test]
fn a_token_that_is_not_for_the_connection_ends_it() {
    for (asked, expected) in
        [(json!({"clientId": "eve"}), (9, Some(40102))), (json!({}), (9, Some(40102)))]
    {
        let (mut host, keys) = host(6);
        let own = token(&mut host, &keys[0], &json!({"clientId": "bob"}));
        let other = token(&mut host, &keys[0], &asked);
        let client = connect_with(&mut host, 0, &format!("accessToken={own}"));
        host.messages(client);
        host.send(client, &json!({"action": 17, "auth": {"accessToken": other}}));
        host.settle();
        assert_eq!(received(&mut host, client), [expected]);
    }
    let (mut host, keys) = host(7);
    let client = connect_with(&mut host, 0, &format!("key={}", keys[0]));
    host.messages(client);
    host.send(client, &json!({"action": 17}));
    host.settle();
    assert_eq!(received(&mut host, client), [(9, Some(40101))]);
}

#[test]
fn anonymous_clients_stay_out_of_namespaces_for_members() {
    let (mut host, keys) = host(8);
    let anonymous = token(&mut host, &keys[0], &json!({}));
    let client = connect_with(&mut host, 0, &format!("accessToken={anonymous}"));
    host.messages(client);
    host.send(client, &json!({"action": 10, "channel": "members:1"}));
    host.publish(client, 0, "members:1", "x");
    host.settle();
    assert_eq!(received(&mut host, client), [(9, Some(40161)), (2, Some(40161))]);
    let bearer = format!("Authorization: Bearer {anonymous}\r\n");
    let publish = request(&mut host, 1, "POST /channels/members:1/messages", &bearer, "{}");
    assert_eq!(code(&publish), (401, 40161));
}

fn revoke(host: &mut Host, shard: usize, key: &str, body: &Value) -> (u16, Value) {
    let line = format!("POST /keys/{}/revokeTokens?v=3", name(key));
    request(host, shard, &line, &basic(key), &body.to_string())
}

#[test]
fn revoked_connections_end_on_every_shard_and_their_tokens_are_worth_nothing() {
    let (mut host, keys) = host(9);
    let key = keys[2].clone();
    let bob = token(&mut host, &key, &json!({"clientId": "bob"}));
    let eve = token(&mut host, &key, &json!({"clientId": "eve"}));
    let bobs: Vec<usize> =
        (0..6).map(|at| connect_with(&mut host, at % 3, &format!("accessToken={bob}"))).collect();
    let other = connect_with(&mut host, 1, &format!("accessToken={eve}"));
    for &client in bobs.iter().chain([&other]) {
        host.messages(client);
    }
    host.pass(Duration::from_millis(10));
    host.settle();
    let (status, results) =
        revoke(&mut host, 2, &key, &json!({"targets": ["clientId:bob", "colour:red"]}));
    assert_eq!((status, &results["successCount"]), (201, &json!(1)));
    for &client in &bobs {
        assert_eq!(received(&mut host, client), [(6, Some(40141))]);
    }
    assert!(received(&mut host, other).is_empty());
    for shard in 0..3 {
        let late = connect_with(&mut host, shard, &format!("accessToken={bob}"));
        assert_eq!(only_message(&mut host, late), (9, Some(40141)));
    }
}

#[test]
fn with_a_margin_clients_are_asked_first() {
    let (mut host, keys) = host(10);
    let key = keys[2].clone();
    let bob = token(&mut host, &key, &json!({"clientId": "bob"}));
    let renews = connect_with(&mut host, 0, &format!("accessToken={bob}"));
    let sleeps = connect_with(&mut host, 1, &format!("accessToken={bob}"));
    for client in [renews, sleeps] {
        host.messages(client);
    }
    host.pass(Duration::from_millis(10));
    host.settle();
    let body = json!({"targets": ["clientId:bob"], "allowReauthMargin": true});
    let requested_ms = host.now.unix_ms;
    let (_, results) = revoke(&mut host, 2, &key, &body);
    assert!(results["results"][0]["appliesAt"].as_u64().expect("a time") > requested_ms + 30_000);
    for client in [renews, sleeps] {
        assert_eq!(received(&mut host, client), [(17, None)]);
    }
    let fresh = token(&mut host, &key, &json!({"clientId": "bob"}));
    host.send(renews, &json!({"action": 17, "auth": {"accessToken": fresh}}));
    host.settle();
    assert_eq!(received(&mut host, renews), [(4, None)]);
    for _ in 0..8 {
        host.pass(Duration::from_secs(4));
        host.settle();
    }
    assert!(received(&mut host, renews).is_empty());
    assert_eq!(received(&mut host, sleeps), [(6, Some(40141))]);
}

#[test]
fn who_may_not_revoke_is_told_why() {
    let (mut host, keys) = host(11);
    let revocable = keys[2].clone();
    let bob = token(&mut host, &revocable, &json!({"clientId": "bob"}));
    let body = json!({"targets": ["clientId:bob"]}).to_string();
    let line = |key: &str| format!("POST /keys/{}/revokeTokens", name(key));
    let bearer = format!("Authorization: Bearer {bob}\r\n");
    let mut ask = |line: &str, headers: &str| code(&request(&mut host, 0, line, headers, &body));
    assert_eq!(ask(&line(&revocable), &bearer), (401, 40162));
    assert_eq!(ask(&line(&revocable), &basic(&keys[0])), (401, 40133));
    assert_eq!(ask(&line(&keys[0]), &basic(&keys[0])), (401, 40163));
}

#[test]
fn a_listener_is_told_that_its_token_has_ended() {
    let (mut host, keys) = host(9);
    let token = token(&mut host, &keys[0], &json!({"ttl": 30_000}));
    let target = format!("/sse?channels=a&accessToken={token}");
    let listener = host.request(1, &format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n"));
    host.settle();
    let heard = |host: &mut Host| {
        let received = std::mem::take(&mut host.clients[listener].received);
        String::from_utf8(received).expect("UTF-8")
    };
    assert!(heard(&mut host).starts_with("HTTP/1.1 200 "));
    for _ in 0..7 {
        host.pass(Duration::from_secs(5));
        host.settle();
    }
    let last = heard(&mut host);
    assert!(last.contains("event: error\ndata: ") && last.contains("\"code\":40142"), "{last}");
    assert!(last.ends_with("\r\n0\r\n\r\n"), "{last}");
    host.pass(LINGER);
    host.settle();
    assert!(host.clients[listener].is_closed);
}

#[test]
fn what_a_new_token_does_not_permit_is_not_sent_although_it_was_owed() {
    let (mut host, keys) = host(9);
    let asked = |capability: &str| json!({"clientId": "bob", "capability": capability});
    let first = token(&mut host, &keys[0], &asked(r#"{"room":["*"]}"#));
    let client = connect_with(&mut host, 1, &format!("accessToken={first}"));
    host.send(client, &json!({"action": 10, "channel": "room"}));
    host.settle();
    host.messages(client);
    let publisher = connect_with(&mut host, 0, &format!("key={}", keys[0]));
    host.stalled.push(client);
    for msg_serial in 0..5 {
        host.publish(publisher, msg_serial, "room", "secret");
        host.settle();
    }
    let second = token(&mut host, &keys[0], &asked(r#"{"room":["publish"]}"#));
    host.send(client, &json!({"action": 17, "auth": {"accessToken": second}}));
    host.settle();
    host.stalled.clear();
    host.settle();
    let received = received(&mut host, client);
    let answer = received.iter().position(|(action, _)| *action == 4).expect("answered");
    assert!(received[answer..].iter().all(|(action, _)| *action != 15), "{received:?}");
    assert!(received[answer..].iter().any(|(action, _)| *action == 11), "{received:?}");
}
