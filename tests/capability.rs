//! Who may do what: credentials with every kind of capability against every operation, on the daemon as it
//! runs. What has to come of it is worked out here, from the rules of Ably's documentation (patterns,
//! operations, intersection) and not from the daemon's code.

mod daemon;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

use daemon::Daemon;
use data_encoding::BASE64;
use serde_json::{Value, json};
use tungstenite::{Message, WebSocket};

/// Operations by resource.
type Capability = Vec<(&'static str, Vec<&'static str>)>;

/// Resources of capabilities.
const PATTERNS: [&str; 11] = [
    "*",
    "foo",
    "foo:*",
    "foo:*:baz",
    "foo*",
    "bar",
    "[meta]*",
    "[*]*",
    "[*]foo",
    "[filter]foo",
    "m:*",
];

/// Operations of capabilities, one set at a time.
const OPERATIONS: [&[&str]; 12] = [
    &["publish"],
    &["subscribe"],
    &["presence"],
    &["history"],
    &["channel-metadata"],
    &["stats"],
    &["message-update-any"],
    &["message-delete-any"],
    &["annotation-publish"],
    &["annotation-subscribe"],
    &["subscribe", "publish", "presence"],
    &["*"],
];

/// Channels that everything is tried on; those under `m` have messages that can change.
const CHANNELS: [&str; 9] =
    ["foo", "foo:a", "foo:a:b", "foo:a:baz", "foo:a:b:baz", "foo*", "foobar", "bar", "m:x"];

/// Channels that can only be subscribed to, with the resource that they are to a capability.
const READ_ONLY: [(&str, &str); 3] = [
    ("[meta]channel.lifecycle", "[meta]channel.lifecycle"),
    ("[filter=bmFtZQ==]foo", "[filter]foo"),
    ("[filter=bmFtZQ==]bar", "[filter]bar"),
];

/// A qualifier, without brackets, and segments.
fn split(resource: &str) -> (Option<&str>, Vec<&str>) {
    match resource.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((qualifier, rest)) => (Some(qualifier), rest.split(':').collect()),
        None => (None, resource.split(':').collect()),
    }
}

/// Whether a pattern of a capability is for a resource.
fn matches(pattern: &str, resource: &str) -> bool {
    let ((of_pattern, segments), (of_resource, parts)) = (split(pattern), split(resource));
    let is_qualified = match (of_pattern, of_resource) {
        (Some("*"), _) => true,
        (pattern, resource) => pattern == resource,
    };
    let last = segments.len() - 1;
    let is_open = segments[last] == "*";
    let has_length = match is_open {
        true => parts.len() > last,
        false => parts.len() == segments.len(),
    };
    let is_alike = |(segment, part): (&&str, &&str)| *segment == "*" || segment == part;
    is_qualified && has_length && segments.iter().zip(&parts).all(is_alike)
}

fn permits(capability: &Capability, resource: &str, operation: &str) -> bool {
    capability.iter().any(|(pattern, operations)| {
        matches(pattern, resource) && (operations.contains(&operation) || operations.contains(&"*"))
    })
}

/// Whether both permit it, which is what a token does that asks its key for a capability.
fn both(capabilities: &[Capability], resource: &str, operation: &str) -> bool {
    capabilities.iter().all(|capability| permits(capability, resource, operation))
}

/// The bits of ATTACHED's flags that an ATTACH for nothing in particular gets.
fn modes(capabilities: &[Capability], resource: &str, is_read_only: bool) -> u64 {
    let may = |operation| both(capabilities, resource, operation);
    let changes =
        ["message-update-own", "message-update-any", "message-delete-own", "message-delete-any"];
    let publishes = may("publish") || changes.iter().any(|change| may(change));
    let granted = [
        (1 << 16, may("presence") && !is_read_only),
        (1 << 17, publishes && !is_read_only),
        (1 << 18, may("subscribe")),
        (1 << 19, may("subscribe") && !is_read_only),
        (1 << 21, may("annotation-publish") && !is_read_only),
    ];
    granted.iter().filter(|(_, is_granted)| *is_granted).map(|(bit, _)| bit).sum()
}

fn text(capability: &Capability) -> String {
    let entries = capability.iter().map(|(name, operations)| ((*name).into(), json!(operations)));
    Value::Object(entries.collect()).to_string()
}

/// Whoever tries: how it says who it is, and what all of these capabilities permit together.
struct Credential {
    /// In a query.
    query: String,
    capabilities: Vec<Capability>,
    name: String,
}

/// One connection that serves request after request.
struct Http {
    stream: BufReader<TcpStream>,
}

impl Http {
    fn new(daemon: &Daemon) -> Http {
        Http { stream: BufReader::new(daemon.connect()) }
    }

    fn send(&mut self, line: &str, headers: &str, body: &str) -> (u16, Value) {
        let length = body.len();
        let request = format!(
            "{line} HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n{headers}\
             Content-Length: {length}\r\n\r\n{body}"
        );
        self.stream.get_mut().write_all(request.as_bytes()).expect("the daemon reads");
        let (mut status, mut length) = (0, 0);
        loop {
            let mut line = String::new();
            self.stream.read_line(&mut line).expect("the daemon answers");
            let line = line.trim_end();
            if line.is_empty() {
                break;
            }
            if let Some(rest) = line.strip_prefix("HTTP/1.1 ") {
                status = rest[..3].parse().expect("a status");
            }
            if let Some(text) = line.strip_prefix("Content-Length: ") {
                length = text.parse().expect("a length");
            }
            // A stream of events: it goes on for ever.
            if line == "Transfer-Encoding: chunked" {
                return (status, Value::Null);
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).expect("the rest of the answer");
        (status, serde_json::from_slice(&body).unwrap_or_default())
    }
}

fn channel_path(channel: &str) -> String {
    channel.replace('*', "%2A").replace(':', "%3A").replace('[', "%5B").replace(']', "%5D")
}

/// What the daemon did that it should not have, or did not that it should.
#[derive(Default)]
struct Verdict {
    tried: usize,
    wrong: Vec<String>,
}

impl Verdict {
    /// Notes an attempt; `allowed` is the status of one that may.
    fn note(&mut self, who: &Credential, what: &str, expected: bool, status: u16, body: &Value) {
        self.tried += 1;
        let code = body["error"]["code"].as_u64();
        let is_right = match expected {
            true => (200..300).contains(&status),
            false => (status, code) == (401, Some(40160)),
        };
        if !is_right {
            let may = if expected { "may" } else { "may not" };
            self.wrong.push(format!("{} {may} {what}: {status} {body}", who.name));
        }
    }

    fn check(&mut self, who: &Credential, what: &str, expected: &Value, got: &Value) {
        self.tried += 1;
        if expected != got {
            self.wrong.push(format!("{} {what}: {got}, not {expected}", who.name));
        }
    }
}

/// Everything that can be asked for over HTTP.
fn over_http(daemon: &Daemon, who: &Credential, changeable: &str, verdict: &mut Verdict) {
    let mut http = Http::new(daemon);
    let (query, may) =
        (&who.query, |channel: &str, operation: &str| both(&who.capabilities, channel, operation));
    let mut attempt = |expected: bool, line: &str, body: &str| {
        let sign = if line.contains('?') { '&' } else { '?' };
        let (status, answer) = http.send(&format!("{line}{sign}{query}"), "", body);
        verdict.note(who, line, expected, status, &answer);
    };
    for channel in CHANNELS {
        let path = channel_path(channel);
        let is_seen = may(channel, "subscribe") || may(channel, "presence");
        attempt(
            may(channel, "publish"),
            &format!("POST /channels/{path}/messages"),
            r#"{"data":"x"}"#,
        );
        attempt(may(channel, "history"), &format!("GET /channels/{path}/messages"), "");
        attempt(may(channel, "history"), &format!("GET /channels/{path}/presence/history"), "");
        attempt(is_seen, &format!("GET /channels/{path}/presence"), "");
        attempt(may(channel, "channel-metadata"), &format!("GET /channels/{path}"), "");
    }
    let path = format!("/channels/m%3Ax/messages/{changeable}");
    let history = may("m:x", "history");
    attempt(may("m:x", "message-update-any"), &format!("PATCH {path}"), r#"{"data":"y"}"#);
    attempt(
        may("m:x", "message-update-any"),
        &format!("PATCH {path}"),
        r#"{"action":5,"data":"y"}"#,
    );
    attempt(history, &format!("GET {path}"), "");
    attempt(history, &format!("GET {path}/versions"), "");
    attempt(history, &format!("GET {path}/annotations"), "");
    let annotation = r#"[{"type":"a:total.v1"}]"#;
    attempt(may("m:x", "annotation-publish"), &format!("POST {path}/annotations"), annotation);
    attempt(may("m:x", "subscribe"), &format!("GET {path}/client-summary?forClientId=x"), "");
    attempt(may("*", "channel-metadata"), "GET /channels", "");
    attempt(may("*", "stats"), "GET /stats", "");
    attempt(true, "GET /time", "");
    // In a batch each channel stands for itself.
    let channels = CHANNELS.join(",").replace('*', "%2A");
    let line = format!("GET /presence?channels={channels}&{query}");
    let (_, answer) = http.send(&line, "", "");
    let results = answer["results"].as_array().cloned().unwrap_or_default();
    for (channel, result) in CHANNELS.iter().zip(&results) {
        let expected = may(channel, "subscribe") || may(channel, "presence");
        let what = format!("presence of {channel} in a batch");
        let code = if expected { Value::Null } else { json!(40160) };
        verdict.check(who, &what, &code, &result["error"]["code"]);
    }
    verdict.check(who, "batch presence", &json!(CHANNELS.len()), &json!(results.len()));
    for channel in CHANNELS {
        let expected = may(channel, "publish");
        let body = json!({"channels": [channel], "messages": {"data": "x"}}).to_string();
        let (_, answer) = http.send(&format!("POST /messages?{query}"), "", &body);
        let code = &answer[0]["results"][0]["error"]["code"];
        let code = if code.is_null() { &answer["results"][0]["error"]["code"] } else { code };
        let expected = if expected { Value::Null } else { json!(40160) };
        verdict.check(who, &format!("publish to {channel} in a batch"), &expected, code);
    }
    // Each stream of events takes its transport with it.
    for channel in CHANNELS {
        let line = format!("GET /sse?channels={}&{query}", channel.replace('*', "%2A"));
        let (status, answer) = Http::new(daemon).send(&line, "", "");
        verdict.note(who, &line, may(channel, "subscribe"), status, &answer);
    }
}

fn receive(socket: &mut WebSocket<TcpStream>) -> Value {
    loop {
        match socket.read().expect("the daemon speaks") {
            Message::Text(text) => {
                let message: Value = serde_json::from_str(&text).expect("JSON");
                // What comes because others are there is no answer.
                if matches!(message["action"].as_u64(), Some(0 | 14 | 15 | 16 | 21)) {
                    continue;
                }
                return message;
            }
            Message::Ping(_) | Message::Pong(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

/// Everything that can be asked for over a WebSocket.
fn over_websocket(daemon: &Daemon, who: &Credential, verdict: &mut Verdict) {
    let url = format!("ws://{}/?v=6&{}", daemon.address, who.query);
    let (mut socket, _) = tungstenite::client(url, daemon.connect()).expect("upgraded");
    let mut ask = |message: Value| {
        socket.send(Message::text(message.to_string())).expect("the daemon reads");
        receive(&mut socket)
    };
    let connected = ask(json!({"action": 0}));
    assert_eq!(connected["action"], 4, "{} {connected}", who.name);
    let mut msg_serial = 0;
    let resources = CHANNELS.map(|channel| (channel, channel, false));
    let read_only = READ_ONLY.map(|(channel, resource)| (channel, resource, true));
    for (channel, resource, is_read_only) in resources.into_iter().chain(read_only) {
        let may = |operation| both(&who.capabilities, resource, operation) && !is_read_only;
        // Before it is attached the capability alone decides.
        let mut publish = |is_allowed: bool, verdict: &mut Verdict| {
            let messages = json!([{"data": "x"}]);
            let answer = ask(json!({"action": 15, "msgSerial": msg_serial, "channel": channel,
                                    "messages": messages}));
            msg_serial += 1;
            let expected = if is_allowed { json!(1) } else { json!(2) };
            verdict.check(who, &format!("publishes to {channel}"), &expected, &answer["action"]);
        };
        publish(may("publish"), verdict);
        let expected = modes(&who.capabilities, resource, is_read_only);
        let attached = ask(json!({"action": 10, "channel": channel}));
        let what = format!("attaches to {channel}");
        match expected {
            0 => {
                let got = json!([attached["action"], attached["error"]["code"]]);
                verdict.check(who, &what, &json!([9, 40160]), &got);
            }
            _ => {
                let flags = attached["flags"].as_u64().unwrap_or_default() & 0xffff_0000;
                let got = json!([attached["action"], flags]);
                verdict.check(who, &what, &json!([11, expected]), &got);
            }
        }
        let mut publish = |is_allowed: bool, verdict: &mut Verdict| {
            let answer = ask(json!({"action": 14, "msgSerial": msg_serial, "channel": channel,
                                    "presence": [{"action": 2, "clientId": "c"}]}));
            msg_serial += 1;
            let expected = if is_allowed { json!(1) } else { json!(2) };
            verdict.check(who, &format!("enters {channel}"), &expected, &answer["action"]);
        };
        publish(may("presence"), verdict);
    }
}

/// Each kind of capability, and some of two entries.
fn capabilities() -> Vec<Capability> {
    let mut all: Vec<Capability> = Vec::new();
    for pattern in PATTERNS {
        for operations in OPERATIONS {
            all.push(vec![(pattern, operations.to_vec())]);
        }
    }
    for (at, pattern) in PATTERNS.iter().enumerate() {
        let (other, more) =
            (PATTERNS[(at + 4) % PATTERNS.len()], OPERATIONS[at % OPERATIONS.len()]);
        let less = OPERATIONS[(at + 5) % OPERATIONS.len()];
        all.push(vec![(pattern, more.to_vec()), (other, less.to_vec())]);
    }
    all
}

fn key_name(at: usize) -> String {
    format!("app.k{at}")
}

/// A token that asks the key of number `at` for `capability`; `None`: nothing is left of it.
fn token(daemon: &Daemon, at: usize, capability: &Capability) -> Option<String> {
    let name = key_name(at);
    let body =
        json!({"keyName": name, "capability": text(capability), "clientId": "*"}).to_string();
    let authorization = BASE64.encode(format!("{name}:secret").as_bytes());
    let headers = format!("Authorization: Basic {authorization}\r\n");
    let line = format!("POST /keys/{name}/requestToken");
    let (status, answer) = Http::new(daemon).send(&line, &headers, &body);
    if status == 401 {
        assert_eq!(answer["error"]["code"], 40160, "{answer}");
        return None;
    }
    assert_eq!(status, 201, "{answer}");
    Some(answer["token"].as_str().expect("a token").to_owned())
}

#[test]
fn nobody_may_more_or_less_than_its_credential_says() {
    let capabilities = capabilities();
    let directory =
        std::env::temp_dir().join(format!("ringcast-capability-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory for the configuration");
    let path = directory.join("ringcast.toml");
    let mut config = String::from(
        "[[keys]]\nkey = \"app.all:secret\"\n\n[[apps]]\nid = \"app\"\n\n[[apps.namespaces]]\nid = \"m\"\n\
         mutable_messages = true\n\n",
    );
    for (at, capability) in capabilities.iter().enumerate() {
        let _ = writeln!(config, "[[keys]]\nkey = \"{}:secret\"\n[keys.capability]", key_name(at));
        // Two entries of one name are one.
        let mut seen = BTreeSet::new();
        for (pattern, operations) in capability.iter().filter(|(name, _)| seen.insert(*name)) {
            let _ = writeln!(config, "{pattern:?} = {}", json!(operations));
        }
    }
    std::fs::write(&path, config).expect("written");
    let daemon = Daemon::start_with(&["--config", path.to_str().expect("UTF-8"), "--shards", "2"]);
    let publish = r#"{"data":"a","clientId":"owner"}"#;
    let (_, published) =
        Http::new(&daemon).send("POST /channels/m%3Ax/messages?key=app.all:secret", "", publish);
    let changeable = published["serials"][0].as_str().expect("a serial");
    let changeable = changeable.replace('@', "%40").replace(':', "%3A");

    let mut verdict = Verdict::default();
    for (at, capability) in capabilities.iter().enumerate() {
        // A key; a token of a key that may do everything; or one that asks for more than its key has.
        let asked = &capabilities[(at * 7 + 3) % capabilities.len()];
        let who = match at % 3 {
            0 => Some((format!("key={}:secret", key_name(at)), vec![capability.clone()])),
            1 => {
                let everything = vec![("[*]*", vec!["*"])];
                let all = capabilities.iter().position(|known| *known == everything);
                let token = token(&daemon, all.expect("among them"), capability);
                Some((format!("accessToken={}", token.expect("some")), vec![capability.clone()]))
            }
            _ => token(&daemon, at, asked).map(|token| {
                (format!("accessToken={token}"), vec![capability.clone(), asked.clone()])
            }),
        };
        let Some((query, capabilities)) = who else { continue };
        let texts: Vec<String> = capabilities.iter().map(text).collect();
        let who = Credential { query, capabilities, name: texts.join(" and ") };
        over_http(&daemon, &who, &changeable, &mut verdict);
        over_websocket(&daemon, &who, &mut verdict);
    }
    let _ = std::fs::remove_dir_all(&directory);
    let Verdict { tried, wrong } = verdict;
    println!("{tried} attempts");
    assert!(tried > 8_000, "{tried}");
    let first: Vec<&String> = wrong.iter().take(30).collect();
    assert!(wrong.is_empty(), "{} of {tried} are wrong: {first:#?}", wrong.len());
}

#[test]
fn patterns_are_for_what_the_documentation_says() {
    for (pattern, resource, expected) in [
        ("*", "foo", true),
        ("*", "foo:a", true),
        ("*", "[meta]x", false),
        ("foo:*", "foo:a:b", true),
        ("foo:*", "foo", false),
        ("foo:*:baz", "foo:bar:baz", true),
        ("foo:*:baz", "foo:a:b:baz", false),
        ("foo*", "foobar", false),
        ("[meta]*", "[meta]x", true),
        ("[meta]*", "x", false),
        ("[*]*", "x", true),
        ("[*]foo", "[filter]foo", true),
    ] {
        assert_eq!(matches(pattern, resource), expected, "{pattern} {resource}");
    }
}
