//! HTTP as bytes on a socket: what curl and browsers send, and what only an attacker sends.

mod daemon;

use std::io::{Read, Write};
use std::net::TcpStream;

use daemon::Daemon;
use serde_json::Value;

/// `app.all:everything` as `Authorization: Basic`.
const AUTHORIZATION: &str = "Authorization: Basic YXBwLmFsbDpldmVyeXRoaW5n";

/// Sends one request on a connection of its own; returns its status, its head and its body.
fn request(daemon: &Daemon, line: &str, headers: &[&str], body: &str) -> (u16, String, String) {
    let mut request = format!("{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
    for header in headers {
        request += &format!("{header}\r\n");
    }
    if !body.is_empty() {
        request += &format!("Content-Length: {}\r\n", body.len());
    }
    split(&daemon.exchange(&format!("{request}\r\n{body}")))
}

fn split(response: &str) -> (u16, String, String) {
    let (head, body) = response.split_once("\r\n\r\n").unwrap_or((response, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.unwrap_or_else(|| panic!("no response: {response:?}")), head.into(), body.into())
}

fn has_header(head: &str, name: &str, value: &str) -> bool {
    head.lines().filter_map(|line| line.split_once(':')).any(|(header, text)| {
        header.eq_ignore_ascii_case(name) && text.trim().eq_ignore_ascii_case(value)
    })
}

fn json(body: &str) -> Value {
    serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {body:?}"))
}

#[test]
fn health_and_time_need_no_credentials() {
    let daemon = Daemon::start();
    for path in ["/livez", "/readyz"] {
        assert_eq!(request(&daemon, &format!("GET {path}"), &[], "").0, 200, "{path}");
    }
    let (status, head, body) = request(&daemon, "GET /time", &[], "");
    assert_eq!(status, 200);
    assert!(has_header(&head, "content-type", "application/json"), "{head}");
    assert!(json(&body)[0].as_u64().is_some_and(|millis| millis > 1_700_000_000_000), "{body}");
    let (_, head, body) = request(&daemon, "GET /time", &["Accept: application/x-msgpack"], "");
    assert!(has_header(&head, "content-type", "application/x-msgpack"), "{head}");
    assert!(!body.is_empty());
}

#[test]
fn a_publish_is_in_the_history_that_follows() {
    let daemon = Daemon::start();
    let headers = [AUTHORIZATION, "Content-Type: application/json"];
    let publish = r#"[{"name":"n","data":"one"},{"data":{"two":2},"extras":{"headers":{"a":1}}}]"#;
    let (status, _, body) = request(&daemon, "POST /channels/a%2Fb/messages", &headers, publish);
    assert_eq!(status, 201, "{body}");
    let result = json(&body);
    assert_eq!(result["channel"], "a/b");
    assert_eq!(result["serials"].as_array().map(Vec::len), Some(2), "{body}");

    for path in ["messages", "history"] {
        let line = format!("GET /channels/a%2Fb/{path}?direction=forwards");
        let (status, _, body) = request(&daemon, &line, &[AUTHORIZATION], "");
        assert_eq!(status, 200, "{body}");
        let messages = json(&body);
        assert_eq!(messages[0]["data"], "one");
        assert_eq!(messages[0]["serial"], result["serials"][0]);
        assert_eq!(messages[1]["data"], r#"{"two":2}"#);
        assert_eq!(messages[1]["encoding"], "json");
        assert_eq!(messages[1]["extras"]["headers"]["a"], 1);
        assert_eq!(messages.as_array().map(Vec::len), Some(2));
    }
}

#[test]
fn pages_are_linked() {
    let daemon = Daemon::start();
    let headers = [AUTHORIZATION, "Content-Type: application/json"];
    for data in ["1", "2", "3"] {
        let publish = format!(r#"{{"data":"{data}"}}"#);
        assert_eq!(request(&daemon, "POST /channels/pages/messages", &headers, &publish).0, 201);
    }
    let mut target = "/channels/pages/messages?limit=2&direction=forwards".to_owned();
    let mut seen = Vec::new();
    for _ in 0..5 {
        let (status, head, body) = request(&daemon, &format!("GET {target}"), &[AUTHORIZATION], "");
        assert_eq!(status, 200, "{body}");
        let messages = json(&body);
        seen.extend(messages.as_array().expect("a list").iter().map(|m| m["data"].clone()));
        let Some(next) = head.lines().find(|line| line.ends_with(r#"rel="next""#)) else { break };
        // ably-js takes nothing but `./segment?query` here.
        let link = next.split_once("<./").and_then(|(_, rest)| rest.split_once('>'));
        target = format!("/channels/pages/{}", link.expect("a relative link").0);
    }
    assert_eq!(seen, ["1", "2", "3"]);
    let line = "GET /channels/pages/messages?limit=1001";
    let (status, _, body) = request(&daemon, line, &[AUTHORIZATION], "");
    assert_eq!((status, json(&body)["error"]["code"].as_u64()), (400, Some(40003)), "{body}");
}

#[test]
fn refusals_carry_ablys_codes_in_body_and_header() {
    let daemon = Daemon::start();
    let reader = "Authorization: Basic YXBwLm5ld3M6cmVhZGVy"; // app.news:reader
    let wrong = "Authorization: Basic YXBwLmFsbDp3cm9uZw=="; // app.all:wrong
    for (line, header, body, status, code) in [
        ("GET /channels/x/messages", "X-None: 1", "", 401, 40101),
        ("GET /channels/x/messages", wrong, "", 401, 40101),
        ("GET /channels/x/messages?key=app.none:s", "X-None: 1", "", 401, 40400),
        ("POST /channels/x/messages", reader, "{}", 401, 40160),
        ("GET /channels/news:a/messages", reader, "", 401, 40160),
        ("POST /channels/x/messages", AUTHORIZATION, "{", 400, 40001),
        ("POST /channels/x/messages", AUTHORIZATION, "[]", 400, 40000),
        ("POST /channels/:x/messages", AUTHORIZATION, "{}", 400, 40010),
        ("GET /no/such/thing", AUTHORIZATION, "", 404, 40400),
    ] {
        let headers = [header, "Content-Type: application/json"];
        let (got, head, body) = request(&daemon, line, &headers, body);
        assert_eq!(got, status, "{line}: {body}");
        let error = &json(&body)["error"];
        assert_eq!(error["code"], code, "{line}");
        assert_eq!(error["statusCode"], status, "{line}");
        assert!(error["message"].is_string(), "{line}");
        assert!(has_header(&head, "x-ably-errorcode", &code.to_string()), "{line}: {head}");
    }
}

#[test]
fn a_body_over_the_limit_is_refused_and_not_read() {
    let daemon = Daemon::start();
    let message = format!(r#"{{"data":"{}"}}"#, "x".repeat(70_000));
    let headers = [AUTHORIZATION, "Content-Type: application/json"];
    let (status, _, body) = request(&daemon, "POST /channels/x/messages", &headers, &message);
    assert_eq!((status, json(&body)["error"]["code"].as_u64()), (413, Some(40009)), "{body}");
    let head = format!(
        "POST /channels/x/messages HTTP/1.1\r\nHost: x\r\n{AUTHORIZATION}\r\n\
         Content-Length: 99999999999\r\n\r\n"
    );
    assert_eq!(split(&daemon.exchange(&head)).0, 413);
}

#[test]
fn one_connection_carries_many_requests_however_they_are_cut() {
    let daemon = Daemon::start();
    let one = "GET /time HTTP/1.1\r\nHost: x\r\n\r\n";
    let last = "GET /time HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let pipelined = daemon.exchange(&format!("{one}{one}{last}"));
    assert_eq!(pipelined.matches("HTTP/1.1 200 ").count(), 3, "{pipelined}");

    let mut stream = daemon.connect();
    for byte in last.bytes() {
        stream.write_all(&[byte]).expect("the daemon reads");
    }
    let mut response = String::new();
    stream.read_to_string(&mut response).expect("a whole response");
    assert!(response.starts_with("HTTP/1.1 200 "), "{response}");
}

#[test]
fn chunked_bodies_are_read() {
    let daemon = Daemon::start();
    let response = daemon.exchange(&format!(
        "POST /channels/chunks/messages HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{AUTHORIZATION}\r\n\
         Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n\
         5\r\n{{\"dat\r\nb;ext=1\r\na\":\"chunk\"}}\r\n0\r\n\r\n"
    ));
    // The second chunk is 11 bytes: `a":"chunk"}`.
    assert_eq!(split(&response).0, 201, "{response}");
}

/// Each of these two servers could cut into requests in two ways. None may reach the second one.
#[test]
fn ambiguous_requests_are_refused_and_the_connection_closed() {
    let daemon = &Daemon::start();
    let hidden = "GET /time HTTP/1.1\r\nHost: hidden\r\n\r\n";
    let framings = [
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 5",
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: 5, 6",
        "Content-Length: +5",
        "Content-Length: -5",
        "Content-Length: 0x5",
        "Content-Length: 5 5",
        "Content-Length: 99999999999999999999999999",
        "Content-Length : 5",
        " Content-Length: 5",
        "X: y\r\n Content-Length: 5",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer-Encoding:\u{b}chunked",
        "X: a\rb",
        "X: a\0b",
    ]
    .map(|headers| format!("{headers}\r\n\r\n0\r\n\r\n"));
    let chunks = ["g\r\n", "-1\r\n", "5\nabcde\r\n", "ffffffffffffffffff\r\n", "0x5\r\n", " 5\r\n"]
        .map(|chunk| format!("{AUTHORIZATION}\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}"));
    // Side by side, because the daemon gives each client time to read why it was refused.
    std::thread::scope(|scope| {
        for rest in framings.iter().chain(&chunks) {
            scope.spawn(move || {
                let head = "POST /channels/x/messages HTTP/1.1\r\nHost: x\r\n";
                let response = daemon.exchange(&format!("{head}{rest}{hidden}"));
                assert_eq!(response.matches("HTTP/1.1 ").count(), 1, "{rest:?}: {response}");
                assert!([400, 413, 501].contains(&split(&response).0), "{rest:?}: {response}");
            });
        }
    });
    // It has survived all of that.
    assert_eq!(request(daemon, "GET /readyz", &[], "").0, 200);
}

#[test]
fn heads_have_a_bound() {
    let daemon = Daemon::start();
    let long = format!("GET /time HTTP/1.1\r\nHost: x\r\nX-Long: {}\r\n\r\n", "x".repeat(100_000));
    assert!([400, 414, 431].contains(&split(&daemon.exchange(&long)).0));
    let many = format!("GET /time HTTP/1.1\r\nHost: x\r\n{}\r\n", "A: b\r\n".repeat(1000));
    assert!([400, 431].contains(&split(&daemon.exchange(&many)).0));
}

#[test]
fn browsers_may_call_from_any_origin() {
    let daemon = Daemon::start();
    let preflight = [
        "Origin: https://page.example",
        "Access-Control-Request-Method: POST",
        "Access-Control-Request-Headers: authorization,content-type,x-ably-version",
    ];
    let (status, head, _) = request(&daemon, "OPTIONS /channels/x/messages", &preflight, "");
    assert!([200, 204].contains(&status), "{head}");
    assert!(has_header(&head, "access-control-allow-origin", "https://page.example"), "{head}");
    assert!(has_header(&head, "access-control-allow-credentials", "true"), "{head}");
    let allowed = head.to_lowercase();
    for word in ["x-ably-version", "authorization", "content-type", "post"] {
        assert!(allowed.contains(word), "{word}: {head}");
    }
    for line in ["GET /time", "GET /channels/x/messages", "GET /no/such/thing"] {
        let (_, head, _) = request(&daemon, line, &["Origin: null"], "");
        assert!(has_header(&head, "access-control-allow-origin", "null"), "{line}: {head}");
        assert!(head.to_lowercase().contains("access-control-expose-headers"), "{line}: {head}");
    }
}

#[test]
fn an_upgrade_that_is_no_websocket_is_refused() {
    let daemon = Daemon::start();
    let response = daemon.exchange(
        "GET /?key=app.all:everything HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 12\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    );
    assert!([400, 426].contains(&split(&response).0), "{response}");
}

/// The `next` link of a page as a target, with what is in front of its last segment.
fn next_target(head: &str, parent: &str) -> Option<String> {
    let next = head.lines().find(|line| line.ends_with(r#"rel="next""#))?;
    let link = next.split_once("<./").and_then(|(_, rest)| rest.split_once('>'));
    Some(format!("{parent}/{}", link.expect("a relative link").0))
}

#[test]
fn a_batch_publishes_where_it_may_and_says_where_not() {
    let daemon = Daemon::start();
    let headers = [AUTHORIZATION, "Content-Type: application/json"];
    let batch = r#"[{"channels":["batch-a",":b","batch-c"],"messages":[{"data":"1"},{"data":"2"}]},
        {"channels":"batch-a","messages":{"data":"3"}}]"#;
    let (status, _, body) = request(&daemon, "POST /messages", &headers, batch);
    assert_eq!(status, 201, "{body}");
    let body = json(&body);
    assert_eq!((&body[0]["successCount"], &body[0]["failureCount"]), (&2.into(), &1.into()));
    assert_eq!(body[0]["results"][1]["error"]["code"], 40010);
    assert_eq!(body[0]["results"][2]["serials"].as_array().map(Vec::len), Some(2));
    assert_eq!(body[1]["results"][0]["channel"], "batch-a");
    for (channel, expected) in [("batch-a", vec!["1", "2", "3"]), ("batch-c", vec!["1", "2"])] {
        let line = format!("GET /channels/{channel}/messages?direction=forwards");
        let (_, _, body) = request(&daemon, &line, &[AUTHORIZATION], "");
        let body = json(&body);
        let data: Vec<_> = body.as_array().expect("a list").iter().map(|m| &m["data"]).collect();
        assert_eq!(data, expected, "{channel}");
    }
    let (status, head, body) = request(&daemon, "POST /messages?v=2", &headers, batch);
    assert_eq!(status, 400, "{body}");
    assert!(has_header(&head, "x-ably-errorcode", "40020"), "{head}");
    assert_eq!(json(&body)["batchResponse"].as_array().map(Vec::len), Some(4));
    let reader = ["Authorization: Basic YXBwLm5ld3M6cmVhZGVy"]; // app.news:reader
    let (status, _, body) = request(&daemon, "POST /messages", &reader, batch);
    assert_eq!((status, &json(&body)[0]["failureCount"]), (201, &3.into()));
}

#[test]
fn active_channels_are_listed_in_pages_from_all_cores() {
    let daemon = Daemon::start();
    let headers = [AUTHORIZATION, "Content-Type: application/json"];
    let names: Vec<String> = (0..25).map(|index| format!("list:{index:02}")).collect();
    for name in names.iter().map(String::as_str).chain(["other", "list"]) {
        let line = format!("POST /channels/{name}/messages");
        assert_eq!(request(&daemon, &line, &headers, r#"{"data":"x"}"#).0, 201);
    }
    let mut target = "/channels?limit=7&prefix=list:".to_owned();
    let mut pages = Vec::new();
    loop {
        let (status, head, body) = request(&daemon, &format!("GET {target}"), &[AUTHORIZATION], "");
        assert_eq!(status, 200, "{body}");
        pages.push(serde_json::from_str::<Vec<String>>(&body).expect("names"));
        let Some(next) = next_target(&head, "") else { break };
        target = next;
    }
    assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), [7, 7, 7, 4]);
    assert_eq!(pages.concat(), names);
    let (_, _, body) = request(&daemon, "GET /channels?limit=2", &[AUTHORIZATION], "");
    assert_eq!(body, r#"["list","list:00"]"#);
    // Of another app's channels nothing is seen.
    let (_, _, body) = request(&daemon, "GET /channels?key=other.all:elsewhere", &[], "");
    assert_eq!(body, "[]");
    let (status, _, body) = request(&daemon, "GET /channels?key=app.news:reader", &[], "");
    assert_eq!((status, &json(&body)["error"]["code"]), (401, &40160.into()));
    let (status, _, body) = request(&daemon, "GET /channels?by=x", &[AUTHORIZATION], "");
    assert_eq!((status, &json(&body)["error"]["code"]), (400, &40003.into()));
}

#[test]
fn stats_are_what_was_done() {
    let daemon = Daemon::start();
    let headers = [AUTHORIZATION, "Content-Type: application/json"];
    for channel in 0..10 {
        let line = format!("POST /channels/stats:{channel}/messages");
        let body = r#"[{"data":"12345"},{"data":"12345"}]"#;
        assert_eq!(request(&daemon, &line, &headers, body).0, 201);
        let line = format!("GET /channels/stats:{channel}/messages?limit=1");
        assert_eq!(request(&daemon, &line, &headers, "").0, 200);
    }
    for line in ["GET /channels/:x/messages", "GET /channels?limit=0"] {
        assert_eq!(request(&daemon, line, &headers, "").0, 400);
    }
    // The month, so that no minute can end in between.
    let (status, head, body) = request(&daemon, "GET /stats?unit=month", &[AUTHORIZATION], "");
    assert_eq!(status, 200, "{body}");
    assert!(
        head.contains("<./stats?unit=month&direction=backwards&limit=100>; rel=\"first\""),
        "{head}"
    );
    let stats = json(&body);
    let month = &stats[0];
    assert_eq!((&month["unit"], &month["appId"]), (&"month".into(), &"app".into()));
    assert!(month["inProgress"].as_str().is_some_and(|id| id.len() == "2026-02-03:15:03".len()));
    for (name, expected) in [
        ("messages.inbound.rest.messages.count", 20),
        ("messages.inbound.all.messages.data", 100),
        ("messages.outbound.rest.messages.count", 10),
        ("messages.all.all.count", 30),
        ("channels.opened", 10),
        ("apiRequests.all.succeeded", 20),
        ("apiRequests.all.failed", 2),
    ] {
        assert_eq!(month["entries"][name], expected, "{name}: {month}");
    }
    let (_, _, body) = request(&daemon, "GET /stats?unit=hour&v=2", &[AUTHORIZATION], "");
    assert_eq!(json(&body)[0]["inbound"]["rest"]["messages"]["count"], 20, "{body}");
    let (_, _, body) = request(&daemon, "GET /stats?key=other.all:elsewhere", &[], "");
    assert_eq!(body, "[]");
    for line in ["GET /stats?unit=year", "GET /stats?start=2&end=1", "GET /stats?end=x"] {
        let (status, _, body) = request(&daemon, line, &[AUTHORIZATION], "");
        assert_eq!((status, &json(&body)["error"]["code"]), (400, &40003.into()), "{line}");
    }
}

/// A stream of events, as curl would show it.
struct Events {
    stream: TcpStream,
    head: String,
    /// Received, and not taken apart yet: chunks, then the text in them.
    bytes: Vec<u8>,
    text: String,
    has_ended: bool,
}

impl Events {
    fn open(daemon: &Daemon, target: &str, headers: &[&str]) -> Events {
        let mut stream = daemon.connect();
        let mut request = format!("GET {target} HTTP/1.1\r\nHost: x\r\n");
        for header in headers {
            request += &format!("{header}\r\n");
        }
        stream.write_all(format!("{request}\r\n").as_bytes()).expect("the daemon reads");
        let mut events = Events {
            stream,
            head: String::new(),
            bytes: Vec::new(),
            text: String::new(),
            has_ended: false,
        };
        while events.head.is_empty() {
            events.receive();
            if let Some(end) = events.bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                let head = events.bytes.drain(..end + 4).collect();
                events.head = String::from_utf8(head).expect("a head is text");
            }
        }
        assert!(events.head.starts_with("HTTP/1.1 200 "), "{}", events.head);
        events
    }

    fn receive(&mut self) {
        let mut buffer = [0; 4096];
        let read = self.stream.read(&mut buffer).expect("something before patience ends");
        assert!(read > 0, "the stream has ended without its last chunk");
        self.bytes.extend_from_slice(&buffer[..read]);
    }

    fn dechunk(&mut self) {
        while let Some(end) = self.bytes.windows(2).position(|two| two == b"\r\n") {
            let size = std::str::from_utf8(&self.bytes[..end]).expect("a size");
            let size = usize::from_str_radix(size, 16).expect("a size in hex");
            if self.bytes.len() < end + 2 + size + 2 {
                return;
            }
            let chunk = self.bytes[end + 2..end + 2 + size].to_vec();
            self.text += std::str::from_utf8(&chunk).expect("UTF-8");
            assert_eq!(self.bytes[end + 2 + size..end + 4 + size], *b"\r\n");
            self.bytes.drain(..end + 4 + size);
            self.has_ended |= size == 0;
        }
    }

    /// The next block that an empty line ends, by field; comments are left out.
    fn next_block(&mut self) -> Vec<(String, String)> {
        loop {
            self.dechunk();
            if let Some((block, rest)) = self.text.split_once("\n\n") {
                let fields = block.lines().filter_map(|line| line.split_once(": "));
                let fields: Vec<_> = fields.map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
                self.text = rest.to_owned();
                if !fields.is_empty() {
                    return fields;
                }
            } else {
                self.receive();
            }
        }
    }

    /// The next event with data, and the last id up to there.
    fn next(&mut self, last_id: &mut String) -> (String, String) {
        loop {
            let block = self.next_block();
            let field =
                |name: &str| block.iter().find(|(key, _)| key == name).map(|(_, v)| v.clone());
            if let Some(id) = field("id") {
                *last_id = id;
            }
            if let (Some(event), Some(data)) = (field("event"), field("data")) {
                return (event, data);
            }
        }
    }

    /// The data of the next messages, in bare streams.
    fn data(&mut self, count: usize, last_id: &mut String) -> Vec<String> {
        let events = (0..count).map(|_| self.next(last_id));
        events
            .map(|(event, data)| if event == "message" { data } else { panic!("{event}: {data}") })
            .collect()
    }
}

fn publish(daemon: &Daemon, channel: &str, data: &str) {
    let headers = [AUTHORIZATION, "Content-Type: application/json"];
    let line = format!("POST /channels/{channel}/messages");
    let body = serde_json::json!({ "name": "n", "data": data }).to_string();
    assert_eq!(request(daemon, &line, &headers, &body).0, 201);
}

#[test]
fn events_go_on_where_the_client_was() {
    let daemon = Daemon::start();
    let target = "/sse?v=1.2&channel=sse-one&enveloped=false";
    let mut id = String::new();
    let mut events = Events::open(&daemon, target, &[AUTHORIZATION]);
    assert!(has_header(&events.head, "content-type", "text/event-stream"), "{}", events.head);
    // An id comes first, for whoever loses the stream before anything was published.
    let start = events.next_block();
    assert_eq!((start.len(), &start[0].0[..]), (1, "id"));
    publish(&daemon, "sse-one", "1");
    publish(&daemon, "sse-one", "2");
    assert_eq!(events.data(2, &mut id), ["1", "2"]);
    drop(events);
    publish(&daemon, "sse-one", "3");
    publish(&daemon, "sse-one", "4\n5");
    let last = format!("Last-Event-ID: {id}");
    let mut events = Events::open(&daemon, target, &[AUTHORIZATION, &last]);
    assert_eq!(events.data(2, &mut id), ["3", "4"], "the first of two lines");
    publish(&daemon, "sse-one", "6");
    assert_eq!(events.data(1, &mut id), ["6"]);
    let last = format!("Last-Event-ID: {}", start[0].1);
    let mut events = Events::open(&daemon, target, &[AUTHORIZATION, &last]);
    assert_eq!(events.data(5, &mut id), ["1", "2", "3", "4", "6"]);
    // An id that says nothing here costs continuity, and the client is told so.
    let mut events = Events::open(&daemon, &format!("{target}&lastEvent=lost"), &[AUTHORIZATION]);
    let (event, data) = events.next(&mut id);
    assert_eq!(event, "error", "{data}");
    publish(&daemon, "sse-one", "7");
    assert_eq!(events.data(1, &mut id), ["7"]);
}

#[test]
fn a_stream_of_several_channels_has_one_position() {
    let daemon = Daemon::start();
    let target = "/sse?channels=sse-a%7Csse-b%2Cx%7Csse-c&separator=%7C&enveloped=false";
    let mut id = String::new();
    let mut events = Events::open(&daemon, target, &[AUTHORIZATION]);
    let channels = ["sse-a", "sse-b%2Cx", "sse-c"];
    // Its position is known once it is attached to all of them.
    let start = events.next_block();
    assert_eq!(start[0].1.matches('=').count(), 3, "{start:?}");
    for (index, channel) in channels.iter().enumerate() {
        publish(&daemon, channel, &index.to_string());
        assert_eq!(events.data(1, &mut id), [index.to_string()]);
    }
    let position = events.next_block();
    assert_eq!((position.len(), &position[0].0[..]), (1, "id"));
    drop(events);
    for channel in channels {
        publish(&daemon, channel, &format!("missed {channel}"));
    }
    let last = format!("Last-Event-ID: {}", position[0].1);
    let mut events = Events::open(&daemon, target, &[AUTHORIZATION, &last]);
    let mut missed = events.data(3, &mut id);
    missed.sort();
    assert_eq!(missed, channels.map(|channel| format!("missed {channel}")));
    publish(&daemon, "sse-c", "live");
    assert_eq!(events.data(1, &mut id), ["live"]);
}

#[test]
fn events_come_in_the_shape_that_was_asked_for() {
    let daemon = Daemon::start();
    for data in ["1", "2", "3"] {
        publish(&daemon, "sse-shape", data);
    }
    let mut id = String::new();
    let target = "/event-stream?channels=sse-shape&rewind=2&key=app.all:everything";
    let accept = "Accept: text/event-stream";
    let mut events = Events::open(&daemon, target, &[accept, "Origin: https://page.example"]);
    let origin = ("access-control-allow-origin", "https://page.example");
    assert!(has_header(&events.head, origin.0, origin.1), "{}", events.head);
    for data in ["2", "3"] {
        let (event, text) = events.next(&mut id);
        let message = json(&text);
        assert_eq!(event, "message");
        assert_eq!((&message["channel"], &message["data"]), (&"sse-shape".into(), &data.into()));
        assert_eq!((&message["name"], &message["action"]), (&"n".into(), &0.into()));
    }
    let mut events = Events::open(&daemon, target, &[]);
    while events.text.lines().count() < 2 {
        events.receive();
        events.dechunk();
    }
    let first = json(events.text.lines().next().expect("two lines"));
    assert_eq!((&first["event"], &first["data"]["data"]), (&"message".into(), &"2".into()));
    let mut events = Events::open(&daemon, "/sse?channel=[?rewind=1]sse-shape", &[AUTHORIZATION]);
    let (_, text) = events.next(&mut id);
    assert_eq!(
        (&json(&text)["channel"], &json(&text)["data"]),
        (&"[?rewind=1]sse-shape".into(), &"3".into())
    );
}

#[test]
fn a_stream_that_cannot_be_is_an_ordinary_error() {
    let daemon = Daemon::start();
    let reader = "Authorization: Basic YXBwLm5ld3M6cmVhZGVy"; // app.news:reader
    for (line, header, status, code) in [
        ("GET /sse?channels=a", "X-None: 1", 401, 40101),
        ("GET /sse", AUTHORIZATION, 400, 40000),
        ("GET /sse?channels=:a", AUTHORIZATION, 400, 40010),
        ("GET /sse?channels=news:a,b", reader, 401, 40160),
        ("GET /sse?channels=a&rewind=x", AUTHORIZATION, 400, 40003),
        ("POST /sse?channels=a", AUTHORIZATION, 405, 40500),
        ("HEAD /event-stream?channels=a", AUTHORIZATION, 405, 40500),
    ] {
        let (got, head, _) = request(&daemon, line, &[header], "");
        assert_eq!(got, status, "{line}: {head}");
        assert!(has_header(&head, "x-ably-errorcode", &code.to_string()), "{line}: {head}");
    }
    let old = format!("GET /sse?channels=a HTTP/1.0\r\n{AUTHORIZATION}\r\n\r\n");
    assert_eq!(split(&daemon.exchange(&old)).0, 400);
}

#[test]
fn a_channel_tells_how_many_are_there() {
    let daemon = Daemon::start();
    let metrics = |channel: &str| {
        let (status, _, body) =
            request(&daemon, &format!("GET /channels/{channel}"), &[AUTHORIZATION], "");
        assert_eq!(status, 200, "{body}");
        let details = json(&body);
        assert_eq!((&details["channelId"], &details["name"]), (&channel.into(), &channel.into()));
        assert_eq!(details["status"]["isActive"], true);
        details["status"]["occupancy"]["metrics"].clone()
    };
    let nobody = metrics("status");
    let names = ["connections", "publishers", "subscribers", "presenceConnections"];
    let names = [&names[..], &["presenceMembers", "presenceSubscribers"]].concat();
    for name in names.iter().chain(&["objectPublishers", "objectSubscribers"]) {
        assert_eq!(nobody[name], 0, "{name}: {nobody}");
    }
    let mut events: Vec<Events> = (0..3)
        .map(|_| Events::open(&daemon, "/sse?channel=status&enveloped=false", &[AUTHORIZATION]))
        .collect();
    events.iter_mut().for_each(|events| drop(events.next_block()));
    let three = metrics("status");
    for (name, expected) in names.iter().zip([3, 0, 3, 0, 0, 3]) {
        assert_eq!(three[name], expected, "{name}: {three}");
    }
    publish(&daemon, "status", "x");
    let mut id = String::new();
    events.iter_mut().for_each(|events| assert_eq!(events.data(1, &mut id), ["x"]));
    let (_, _, body) = request(&daemon, "GET /stats?unit=month", &[AUTHORIZATION], "");
    let entries = &json(&body)[0]["entries"];
    for (name, expected) in [
        ("messages.outbound.realtime.messages.count", 3),
        ("connections.all.opened", 3),
        ("messages.inbound.rest.messages.count", 1),
    ] {
        assert_eq!(entries[name], expected, "{name}: {entries}");
    }
    for line in ["GET /channels?by=value&prefix=sta", "GET /channels?v=2&prefix=sta"] {
        let (_, _, body) = request(&daemon, line, &[AUTHORIZATION], "");
        let listed = json(&body);
        assert_eq!(listed[0]["name"], "status", "{line}: {body}");
        assert_eq!(listed[0]["status"]["occupancy"]["metrics"]["subscribers"], 3, "{body}");
    }
    let (status, _, body) = request(&daemon, "GET /channels/x?key=app.news:reader", &[], "");
    assert_eq!((status, &json(&body)["error"]["code"]), (401, &40160.into()));
}
