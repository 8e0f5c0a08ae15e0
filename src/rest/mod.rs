//! One HTTP request and its answer: routes, credentials, parameters, the shape of responses (13).
//!
//! `routes.rs` is the table of endpoints; each family of them has a file of its own, in which an
//! endpoint reads from its checks to its response. What only others can answer leaves as
//! [`Outcome::Ask`], with the function that makes the response of their answers.

mod apps;
mod auth;
mod batch;
mod call;
mod channels;
mod events;
mod history;
mod messages;
mod pages;
mod presence;
mod publish;
mod reply;
mod routes;
mod service;
mod stats;
mod tokens;
mod unserved;

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::ably::{Accepted, Answer, Change, Counter, Directory, ErrorInfo, Question, Survey};
use crate::base::{Entropy, Now};
use crate::http::Request;

pub use auth::authenticate;
use call::Call;
pub use events::{EventsRequest, position_id};
pub use reply::{bad_handshake, foreign_origin, not_found, unreadable};

/// Largest body of a request, in bytes (17). Publishes have a lower bound of their own.
pub const BODY_BYTES_MAX: u32 = 512 * 1024;

/// What a request is answered from.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// The time of this turn.
    pub now: Now,
    /// The apps, and the keys that may be used.
    pub directory: &'a Directory,
    /// Bytes of one publish (4.4).
    pub message_bytes_max: u32,
    /// Whether clients may make apps.
    pub is_sandbox: bool,
    /// Whether a load balancer may send clients here.
    pub is_ready: bool,
}

/// What a request comes to.
pub enum Outcome {
    /// This is the whole response.
    Reply(Bytes),
    /// Others are to be asked first.
    Ask(Inquiry),
    /// From here on the transport is a stream of events.
    Events(Box<EventsRequest>),
}

/// Makes of the answers, which are in the order of the questions, what comes next.
pub type Then = Box<dyn FnOnce(Vec<Result<Answer, ErrorInfo>>) -> Outcome>;

/// What has to be asked before a request can be answered.
pub struct Inquiry {
    /// The app whose channels are meant.
    pub app_id: String,
    /// Possibly none.
    pub asks: Vec<Ask>,
    /// What follows the last answer.
    pub then: Then,
}

/// One thing to ask.
#[derive(Debug)]
pub enum Ask {
    /// Publish; answered with [`Answer::Published`].
    Publish {
        /// Where to; without qualifier.
        channel: Box<str>,
        /// What to publish.
        accepted: Accepted,
    },
    /// Something only the channel's home knows.
    Home {
        /// The channel; without qualifier.
        channel: Box<str>,
        /// What to ask there.
        question: Question,
    },
    /// Whether this was never used before; answered with [`Answer::FreshNonce`] or 40105.
    Nonce([u8; 16]),
    /// The connection that this connectionKey is of; answered with [`Answer::Connection`].
    Connection(Box<str>),
    /// Something of which every shard knows a part; there are as many answers.
    Shards(Survey),
    /// A change of the directory; answered with [`Answer::Changed`] once every shard has it.
    Change(Change),
}

impl Ask {
    /// The channel whose home is asked, if it is one.
    pub fn channel(&self) -> Option<&str> {
        match self {
            Ask::Publish { channel, .. } | Ask::Home { channel, .. } => Some(channel),
            Ask::Connection(_) | Ask::Shards(_) | Ask::Nonce(_) | Ask::Change(_) => None,
        }
    }
}

impl fmt::Debug for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Reply(response) => f.debug_tuple("Reply").field(response).finish(),
            Outcome::Ask(inquiry) => f.debug_tuple("Ask").field(&inquiry.asks).finish(),
            Outcome::Events(events) => f.debug_tuple("Events").field(&events.shape).finish(),
        }
    }
}

/// For whom a request is counted, and as what (16.1).
#[derive(Clone, Debug)]
pub struct Account {
    /// The app of whoever sent it.
    pub app_id: Arc<str>,
    is_token_request: bool,
}

impl Account {
    /// What a response of `status` counts as.
    pub fn counter(&self, status: u16) -> Counter {
        match (self.is_token_request, status) {
            (false, 0..400) => Counter::RequestsSucceeded,
            (false, 429) => Counter::RequestsRefused,
            (false, _) => Counter::RequestsFailed,
            (true, 0..400) => Counter::TokenRequestsSucceeded,
            (true, 429) => Counter::TokenRequestsRefused,
            (true, _) => Counter::TokenRequestsFailed,
        }
    }
}

/// Answers `request`, or says what has to be done for it; and for whom it is counted, if that came out.
/// `entropy` makes the ids of messages that come without one.
pub fn handle(
    context: &Context<'_>,
    entropy: &mut Entropy,
    request: &Request,
) -> (Option<Account>, Outcome) {
    routes::handle(context, entropy, request)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ably::{
        ApiKey, Capability, Data, Direction, ErrorCode, HistoryPage, HistoryQuery, Identity,
        MembersPage, Position, PresenceAction, PresenceHistoryPage, PresenceMessage, PublishResult,
    };
    use crate::http::{Progress, RequestParser};
    use crate::ws::handshake::HandshakeError;

    const NOW: Now = Now { mono_ms: 5, unix_ms: 1_700_000_000_123 };
    const SERIAL: &str = "01700000000123-001@series0000";

    fn directory() -> Directory {
        let key = |text: &str, capability: &str| {
            (text.parse::<ApiKey>().unwrap(), Capability::parse(capability).unwrap())
        };
        Directory::of_keys([
            key("app.all:secret", r#"{"*":["*"]}"#),
            key("app.reader:secret", r#"{"*":["history"]}"#),
        ])
    }

    fn parse(bytes: impl AsRef<[u8]>) -> Request {
        let mut parser = RequestParser::new(BODY_BYTES_MAX);
        parser.handle_bytes(bytes.as_ref()).unwrap();
        match parser.poll() {
            Ok(Progress::Request(request)) => request,
            other => panic!("{other:?}"),
        }
    }

    fn handle_if_ready(is_ready: bool, bytes: impl AsRef<[u8]>) -> Outcome {
        let directory = directory();
        let context = Context {
            now: NOW,
            directory: &directory,
            message_bytes_max: 65_536,
            is_sandbox: false,
            is_ready,
        };
        let mut entropy = Entropy::new(|page| page.fill(7));
        handle(&context, &mut entropy, &parse(bytes)).1
    }

    /// The outcome of a request with these headers, lines that each end in CRLF.
    fn outcome(line: &str, headers: &str, body: impl AsRef<[u8]>) -> Outcome {
        let body = body.as_ref();
        let length = body.len();
        let head =
            format!("{line} HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n{headers}\r\n");
        handle_if_ready(true, [head.as_bytes(), body].concat())
    }

    fn text(response: &Bytes) -> String {
        String::from_utf8_lossy(response).into_owned()
    }

    fn reply(line: &str, headers: &str) -> String {
        match outcome(line, headers, "") {
            Outcome::Reply(response) => text(&response),
            other => panic!("{line}: {other:?}"),
        }
    }

    fn error(outcome: Outcome) -> (u16, u32) {
        let Outcome::Reply(response) = outcome else { panic!("{outcome:?}") };
        let response = text(&response);
        let code = response.split("X-Ably-Errorcode: ").nth(1).expect(&response);
        (response[9..12].parse().unwrap(), code[..5].parse().unwrap())
    }

    /// What a history request asks for, and the rest of its way.
    fn history(outcome: Outcome) -> (Box<str>, HistoryQuery, Then) {
        let Outcome::Ask(mut inquiry) = outcome else { panic!("{outcome:?}") };
        match inquiry.asks.pop() {
            Some(Ask::Home { channel, question: Question::History(query) }) => {
                (channel, query, inquiry.then)
            }
            other => panic!("{other:?}"),
        }
    }

    fn is_ask(outcome: Outcome) -> bool {
        matches!(outcome, Outcome::Ask(_))
    }

    const BASIC: &str = "Authorization: Basic YXBwLmFsbDpzZWNyZXQ=\r\n"; // app.all:secret

    #[test]
    fn time_is_told_in_the_format_asked_for() {
        let json = reply("GET /time", "");
        assert!(json.contains("\r\nContent-Type: application/json\r\n"), "{json}");
        assert!(json.ends_with("\r\n\r\n[1700000000123]"), "{json}");
        let msgpack = "\r\nContent-Type: application/x-msgpack\r\n";
        assert!(reply("GET /time?format=msgpack", "Accept: */*\r\n").contains(msgpack));
        let accept = "Accept: text/html, application/x-msgpack;q=1, application/json\r\n";
        assert!(reply("GET /time", accept).contains(msgpack));
    }

    #[test]
    fn errors_are_json_whatever_is_accepted() {
        let response = reply("GET /nothing", "Accept: application/x-msgpack\r\n");
        assert!(response.contains("\r\nContent-Type: application/json\r\n"), "{response}");
        assert!(response.contains(r#"{"error":{"message":"#), "{response}");
    }

    #[test]
    fn health_is_plain() {
        assert!(reply("GET /livez", "").starts_with("HTTP/1.1 200 "));
        assert!(reply("GET /readyz", "").starts_with("HTTP/1.1 200 "));
        let unready = handle_if_ready(false, "GET /readyz HTTP/1.1\r\nHost: h\r\n\r\n");
        assert!(matches!(unready, Outcome::Reply(r) if text(&r).starts_with("HTTP/1.1 503 ")));
    }

    #[test]
    fn unknown_routes_and_methods_have_their_codes() {
        for line in ["GET /", "GET /comet/connect", "POST /push/publish", "GET /time/", "PUT /x"] {
            assert_eq!(error(outcome(line, "", "")), (404, 40400), "{line}");
        }
        // ably-js asks for just that.
        assert_eq!(error(outcome("GET /keys/app.all/requestToken", "", "")), (404, 40400));
        for line in ["POST /time", "DELETE /channels/a/messages", "POST /channels/a/history"] {
            assert_eq!(error(outcome(line, "", "")), (405, 40500), "{line}");
        }
        assert_eq!(error(outcome("GET /%zz", "", "")), (400, 40000));
    }

    #[test]
    fn a_preflight_needs_no_credentials_and_errors_can_be_read_by_browsers() {
        let origin = "Origin: http://page\r\n";
        assert!(reply("OPTIONS /channels/a/messages", origin).starts_with("HTTP/1.1 204 "));
        let denied = reply("GET /channels/a/messages", origin);
        assert!(denied.starts_with("HTTP/1.1 401 "));
        assert!(denied.contains("\r\nAccess-Control-Allow-Origin: http://page\r\n"));
        assert!(denied.contains("\r\nX-Ably-Errorcode: 40101\r\n"));
        assert!(denied.contains("\r\nX-Ably-Errormessage: no credentials given\r\n"));
    }

    #[test]
    fn credentials_are_checked() {
        let history = |query: &str, headers: &str| {
            outcome(&format!("GET /channels/a/messages{query}"), headers, "")
        };
        assert!(is_ask(history("?key=app.all:secret", "")));
        assert!(is_ask(history("", BASIC)));
        assert!(is_ask(history("?key=no.such:key", BASIC)));
        assert_eq!(error(history("?key=app.all:wrong", "")), (401, 40101));
        assert_eq!(error(history("?key=app.other:secret", "")), (401, 40400));
        assert_eq!(error(history("?key=other.all:secret", "")), (401, 40101));
        assert_eq!(error(history("?access_token=abc", "")), (401, 40145));
        assert_eq!(error(history("", "Authorization: Bearer abc\r\n")), (401, 40145));
        assert_eq!(error(history("", "Authorization: Digest\r\n")), (401, 40101));
    }

    #[test]
    fn the_capability_decides() {
        let body = r#"{"data":"x"}"#;
        let publish = outcome("POST /channels/a/messages?key=app.reader:secret", "", body);
        assert_eq!(error(publish), (401, 40160));
        let history = outcome("GET /channels/a/messages?key=app.reader:secret", "", "");
        assert!(is_ask(history));
    }

    #[test]
    fn a_channel_name_is_decoded_once_and_checked() {
        let outcome_of = |name: &str| outcome(&format!("GET /channels/{name}/history"), BASIC, "");
        let Outcome::Ask(inquiry) = outcome_of("a%2Fb%2520") else { panic!() };
        assert_eq!((inquiry.asks[0].channel(), &inquiry.app_id[..]), (Some("a/b%20"), "app"));
        assert_eq!(error(outcome_of("")), (400, 40010));
        assert_eq!(error(outcome_of("%3Aa")), (400, 40010));
    }

    #[test]
    fn a_publish_is_read_by_its_content_type() {
        let publish = |content_type: &str, body: &[u8]| {
            let headers = format!("{BASIC}Content-Type: {content_type}\r\n");
            outcome("POST /channels/a/messages", &headers, body)
        };
        assert!(is_ask(publish("application/json", br#"{"name":"n"}"#)));
        assert!(is_ask(publish("application/json; charset=utf-8", br#"[{"data":"x"},{}]"#)));
        assert!(is_ask(publish("application/x-msgpack", b"\x81\xa4name\xa1n")));
        assert!(is_ask(publish("application/x-www-form-urlencoded", b"name=n&data=a+b")));
        assert_eq!(error(publish("text/html", b"x")), (400, 40001));
        assert_eq!(error(publish("application/json", b"{")), (400, 40001));
        assert_eq!(error(publish("application/json", b"[]")), (400, 40000));
    }

    #[test]
    fn a_publisher_learns_ids_and_serials_or_why_not() {
        let published = |result| {
            let outcome = outcome("POST /channels/a%2Fb/messages", BASIC, br#"{"data":"x"}"#);
            let Outcome::Ask(inquiry) = outcome else { panic!("{outcome:?}") };
            (inquiry.then)(vec![result])
        };
        let serial = format!("{SERIAL}:000");
        let result = PublishResult { message_id: "id".into(), serials: vec![Some(serial.into())] };
        let Outcome::Reply(response) = published(Ok(Answer::Published(result))) else { panic!() };
        let response = text(&response);
        assert!(response.starts_with("HTTP/1.1 201 "));
        let body =
            r#"{"channel":"a/b","messageId":"id","serials":["01700000000123-001@series0000:000"]}"#;
        assert!(response.ends_with(body), "{response}");
        let refused = published(Err(ErrorInfo::new(ErrorCode::CHANNEL_RATE_EXCEEDED, "")));
        assert_eq!(error(refused), (429, 42913));
    }

    #[test]
    fn a_client_id_is_claimed_by_header_or_query() {
        let publish = |query: &str, headers: &str| {
            let headers = format!("{BASIC}{headers}");
            outcome(&format!("POST /channels/a/messages{query}"), &headers, r#"{"data":"x"}"#)
        };
        assert!(is_ask(publish("", "X-Ably-ClientId: Ym9i\r\n")));
        assert!(is_ask(publish("?clientId=bob", "")));
        assert_eq!(error(publish("", "X-Ably-ClientId: bob\r\n")), (400, 40012));
        assert_eq!(error(publish("?clientId=*", "")), (400, 40012));
        assert_eq!(error(publish("?clientId=", "")), (400, 40012));
    }

    #[test]
    fn pages_are_linked_so_that_sdks_can_follow() {
        let get = |query: &str| outcome(&format!("GET /channels/a/history?{query}"), BASIC, "");
        let links = |query: &str, next: Option<&Position>| {
            let (_, query, then) = history(get(query));
            let page = HistoryPage { items: Vec::new(), next: next.cloned() };
            let Outcome::Reply(response) = then(vec![Ok(Answer::History(page))]) else { panic!() };
            let response = text(&response);
            let links = response.lines().filter_map(|line| line.strip_prefix("Link: "));
            (query, links.map(str::to_owned).collect::<Vec<_>>())
        };
        let last = Position { serial: SERIAL.parse().unwrap(), index: 2 };
        let (query, first_page) = links("limit=2&start=5&end=9&key=app.all:secret", Some(&last));
        assert_eq!((query.limit, query.start_ms, query.end_ms), (2, Some(5), Some(9)));
        let base = "./history?direction=backwards&limit=2&start=5&end=9";
        let next = format!("{base}&cursor=01700000000123-001%40series0000%3A002");
        assert_eq!(
            first_page,
            [
                format!("<{base}>; rel=\"first\""),
                format!("<{base}>; rel=\"current\""),
                format!("<{next}>; rel=\"next\""),
            ]
        );
        let (query, last_page) = links(next.split_once('?').unwrap().1, None);
        assert_eq!(query.after, Some(last));
        assert_eq!(
            last_page,
            [format!("<{base}>; rel=\"first\""), format!("<{next}>; rel=\"current\"")]
        );
    }

    #[test]
    fn links_repeat_what_was_asked_for_and_no_secret() {
        let line = "GET /channels/a/messages?format=msgpack&key=app.all:secret&x=a,b";
        let (_, _, then) = history(outcome(line, "", ""));
        let Outcome::Reply(response) = then(vec![Ok(Answer::History(HistoryPage::default()))])
        else {
            panic!()
        };
        let first = "Link: <./messages?direction=backwards&limit=100&format=msgpack&x=a%2Cb>; \
                     rel=\"first\"\r\n";
        assert!(text(&response).contains(first), "{}", text(&response));
    }

    #[test]
    fn history_parameters_are_checked() {
        let get = |query: &str| outcome(&format!("GET /channels/a/messages?{query}"), BASIC, "");
        for query in [
            "limit=0",
            "limit=1001",
            "limit=x",
            "start=x",
            "start=2&end=1",
            "direction=up",
            "cursor=x",
            "cursor=:1",
        ] {
            assert_eq!(error(get(query)), (400, 40003), "{query}");
        }
        assert_eq!(error(get("from_serial=x")), (400, 90008));
        let (_, query, _) =
            history(get("direction=forwards&fromSerial=01700000000123-001%40series0000"));
        assert_eq!((query.direction, query.limit), (Direction::Forwards, 100));
        assert_eq!(query.until, SERIAL.parse().ok());
        let (_, query, _) = history(get("start=1&end=1&limit=1000"));
        assert_eq!((query.direction, query.limit), (Direction::Backwards, 1000));
    }

    #[test]
    fn members_are_filtered_and_linked() {
        let get = |query: &str| outcome(&format!("GET /channels/a/presence?{query}"), BASIC, "");
        let asked = |query: &str| {
            let Outcome::Ask(mut inquiry) = get(query) else { panic!() };
            match inquiry.asks.pop() {
                Some(Ask::Home { question: Question::Members(query), .. }) => (query, inquiry.then),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(error(get("limit=0")), (400, 40003));
        assert_eq!(error(get("cursor=x")), (400, 40003));
        let (query, then) = asked("clientId=a%3Ab&connectionId=conn&limit=1");
        let (client, connection) = (Some("a:b".into()), Some("conn".into()));
        assert_eq!((query.client_id, query.connection_id, query.limit), (client, connection, 1));
        let member = PresenceMessage {
            action: PresenceAction::Enter,
            id: Some("conn:0:0".into()),
            connection_id: "conn".into(),
            client_id: "a:b".into(),
            data: Data::None,
            encoding: None,
            extras: None,
            timestamp_ms: 5,
        };
        let page = MembersPage { members: vec![member.into()], has_more: true };
        let Outcome::Reply(response) = then(vec![Ok(Answer::Members(page))]) else { panic!() };
        let response = text(&response);
        let body = r#"[{"action":1,"id":"conn:0:0","connectionId":"conn","clientId":"a:b","timestamp":5}]"#;
        assert!(response.ends_with(body), "{response}");
        let next = "clientId=a%3Ab&connectionId=conn&cursor=conn%3Aa%3Ab";
        let link = format!("Link: <./presence?limit=1&{next}>; rel=\"next\"\r\n");
        assert!(response.contains(&link), "{response}");
        let (query, _) = asked(next);
        assert_eq!(query.after, Some(("conn".into(), "a:b".into())));
    }

    #[test]
    fn presence_history_is_history_of_another_kind() {
        let line = "GET /channels/a/presence/history?direction=forwards&limit=3";
        let Outcome::Ask(mut inquiry) = outcome(line, BASIC, "") else { panic!() };
        let Some(Ask::Home { question: Question::PresenceHistory(query), .. }) = inquiry.asks.pop()
        else {
            panic!()
        };
        assert_eq!((query.direction, query.limit), (Direction::Forwards, 3));
        let page = PresenceHistoryPage::default();
        let Outcome::Reply(response) = (inquiry.then)(vec![Ok(Answer::PresenceHistory(page))])
        else {
            panic!()
        };
        assert!(text(&response).contains("<./history?direction=forwards&limit=3>; rel=\"first\""));
    }

    #[test]
    fn what_could_not_be_read_is_an_ably_error_too() {
        let mut parser = RequestParser::new(10);
        parser.handle_bytes(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 11\r\n\r\n").unwrap();
        let response = unreadable(&parser.poll().unwrap_err());
        assert!(text(&response).contains("\r\nConnection: close\r\n"));
        assert_eq!(error(Outcome::Reply(response)), (413, 40009));
    }

    #[test]
    fn a_wrong_handshake_is_answered_over_http() {
        let request = parse("GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\n\r\n");
        let response = bad_handshake(&request, &HandshakeError::UnsupportedVersion);
        assert!(text(&response).starts_with("HTTP/1.1 426 "));
        assert!(text(&response).contains("\r\nSec-WebSocket-Version: 13\r\n"));
    }

    /// A batch that publishes `{}` on a, on b which no name may begin with, and on c.
    fn batch(line: &str, result: &Result<Answer, ErrorInfo>) -> (u16, serde_json::Value) {
        let body = r#"[{"channels":["a",":b"],"messages":{}},{"channels":"c","messages":[{}]}]"#;
        let Outcome::Ask(inquiry) = outcome(line, BASIC, body) else { panic!("{line}") };
        let channels: Vec<_> = inquiry.asks.iter().map(Ask::channel).collect();
        assert_eq!(channels, [Some("a"), Some("c")]);
        let Outcome::Reply(response) = (inquiry.then)(vec![result.clone(), result.clone()]) else {
            panic!("{line}")
        };
        let response = text(&response);
        let body = response.split_once("\r\n\r\n").unwrap().1;
        (response[9..12].parse().unwrap(), serde_json::from_str(body).unwrap())
    }

    #[test]
    fn a_batch_fares_differently_on_each_channel() {
        let result = PublishResult { message_id: "id".into(), serials: vec![None] };
        let (status, body) = batch("POST /messages", &Ok(Answer::Published(result.clone())));
        assert_eq!((status, &body[0]["successCount"]), (201, &1.into()));
        assert_eq!(body[0]["results"][0]["channel"], "a");
        assert_eq!(body[0]["results"][1]["error"]["code"], 40010);
        assert_eq!(body[1]["results"][0]["messageId"], "id");
        let busy = Err(ErrorInfo::new(ErrorCode::BUSY, ""));
        let (status, body) = batch("POST /messages?v=3", &busy);
        assert_eq!((status, &body[0]["failureCount"]), (201, &2.into()));
        let (status, body) = batch("POST /messages?v=1.2", &Ok(Answer::Published(result)));
        assert_eq!((status, &body["error"]["code"]), (400, &40020.into()));
        assert_eq!(body["batchResponse"].as_array().map(Vec::len), Some(3));
    }

    #[test]
    fn a_batch_that_is_refused_everywhere_asks_nobody() {
        let line = "POST /messages?key=app.reader:secret";
        let body = r#"{"channels":["a","b"],"messages":{}}"#;
        let Outcome::Ask(inquiry) = outcome(line, "", body) else { panic!() };
        assert!(inquiry.asks.is_empty());
        let Outcome::Reply(response) = (inquiry.then)(Vec::new()) else { panic!() };
        assert!(text(&response).contains(r#""successCount":0,"failureCount":2"#));
    }

    #[test]
    fn a_batch_tells_who_is_present_on_each_channel() {
        let get = |query: &str| outcome(&format!("GET /presence?{query}"), BASIC, "");
        assert_eq!(error(get("channels=")), (400, 40003));
        assert_eq!(error(get(&format!("channels={}", "a,".repeat(100)))), (400, 90010));
        for (query, status, successes) in
            [("channels=a,:b,c%3Bd&separator=%2C", 200, 2), ("channels=a,:b,c%3Bd&v=2", 400, 0)]
        {
            let Outcome::Ask(inquiry) = get(query) else { panic!() };
            let channels: Vec<_> = inquiry.asks.iter().map(Ask::channel).collect();
            assert_eq!(channels, [Some("a"), Some("c;d")]);
            let page = || Ok(Answer::Members(MembersPage::default()));
            let Outcome::Reply(response) = (inquiry.then)(vec![page(), page()]) else { panic!() };
            let response = text(&response);
            assert_eq!(response[9..12].parse::<u16>(), Ok(status));
            let body = response.split_once("\r\n\r\n").unwrap().1;
            let body: serde_json::Value = serde_json::from_str(body).unwrap();
            let results = if successes > 0 { &body["results"] } else { &body["batchResponse"] };
            let empty = serde_json::json!({ "channel": "c;d", "presence": [] });
            assert_eq!((&results[1]["error"]["code"], &results[2]), (&40010.into(), &empty));
            if successes > 0 {
                assert_eq!((&body["successCount"], &body["failureCount"]), (&2.into(), &1.into()));
            }
        }
        let Outcome::Ask(inquiry) = get("channels=a,b;c&separator=;") else { panic!() };
        let channels: Vec<_> = inquiry.asks.iter().map(Ask::channel).collect();
        assert_eq!(channels, [Some("a,b"), Some("c")]);
    }

    #[test]
    fn what_is_not_served_says_so() {
        for line in ["GET /push/channels", "POST /push/batch/publish", "GET /comet/connect"] {
            let Outcome::Reply(response) = outcome(line, "", "") else { panic!("{line}") };
            assert!(text(&response).contains("not served here"), "{line}");
        }
        for line in ["GET /channels/a/objects", "POST /channels/a/objects/root/x"] {
            assert_eq!(error(outcome(line, BASIC, "")), (400, 40021), "{line}");
        }
    }

    #[test]
    fn a_publish_for_a_connection_finds_it_first_and_becomes_both() {
        let publish = |headers: &str, body: &str, identity: Identity| {
            let headers = format!("{BASIC}{headers}");
            let outcome = outcome("POST /channels/a/messages", &headers, body);
            let Outcome::Ask(mut inquiry) = outcome else { return outcome };
            match inquiry.asks.pop() {
                Some(Ask::Connection(key)) => assert_eq!(&*key, "conn!key"),
                other => panic!("{other:?}"),
            }
            (inquiry.then)(vec![Ok(Answer::Connection { id: "conn".into(), identity })])
        };
        let for_key = r#"{"connectionKey":"conn!key","data":"x","clientId":"bob"}"#;
        let accepted = |outcome: Outcome| match outcome {
            Outcome::Ask(mut inquiry) => match inquiry.asks.pop() {
                Some(Ask::Publish { accepted, .. }) => accepted,
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        };
        let bob = || Identity::Client("bob".into());
        assert!(accepted(publish("", for_key, bob())).is_from_connection());
        assert!(accepted(publish("", for_key, Identity::Wildcard)).is_from_connection());
        let by_header = publish("X-Ably-ConnectionKey: conn!key\r\n", "{}", bob());
        assert!(accepted(by_header).is_from_connection());
        let alice = Identity::Client("alice".into());
        assert_eq!(error(publish("", for_key, alice)), (400, 40012));
        assert_eq!(error(publish("", for_key, Identity::Anonymous)), (400, 40012));
        let eve = "X-Ably-ClientId: ZXZl\r\n";
        let plain = r#"{"connectionKey":"conn!key"}"#;
        assert_eq!(error(publish(eve, plain, bob())), (400, 40012));
        let two = r#"[{"connectionKey":"conn!key"},{"connectionKey":"other!key"}]"#;
        assert_eq!(error(publish("", two, bob())), (400, 40006));
    }
}
