//! One HTTP request and its answer: routes, credentials, parameters, the shape of responses (13).
//!
//! What only a channel's home can answer leaves as [`Outcome::Publish`] or [`Outcome::History`]; the
//! reply that goes with it turns the home's result into the response.

mod auth;
mod history;
mod publish;
mod reply;

use bytes::Bytes;

use crate::ably::{
    self, Accepted, ChannelName, Directory, ErrorCode, ErrorInfo, HistoryQuery, Operation,
};
use crate::base::{Entropy, Now};
use crate::http::Request;

pub use auth::authenticate;
use reply::Reply;
pub use reply::{HistoryReply, PublishReply, bad_handshake, not_found, unreadable};

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
    /// Whether a load balancer may send clients here.
    pub is_ready: bool,
}

/// What a request comes to.
#[derive(Debug)]
pub enum Outcome {
    /// This is the whole response.
    Reply(Bytes),
    /// Publish, then answer by `reply`.
    Publish {
        /// The app whose channel it is.
        app_id: String,
        /// Where to.
        channel: ChannelName,
        /// What to publish.
        accepted: Accepted,
        /// Makes the response of the result.
        reply: PublishReply,
    },
    /// Read history, then answer by `reply`.
    History {
        /// The app whose channel it is.
        app_id: String,
        /// Where from.
        channel: ChannelName,
        /// What to read.
        query: HistoryQuery,
        /// Makes the response of the page.
        reply: HistoryReply,
    },
}

/// Answers `request`, or says what has to be done for it. `entropy` makes the ids of messages that
/// come without one.
pub fn handle(context: &Context<'_>, entropy: &mut Entropy, request: &Request) -> Outcome {
    let reply = Reply::new(request);
    let outcome = route(context, entropy, request, &reply);
    outcome.unwrap_or_else(|error| Outcome::Reply(reply.error(&error)))
}

fn route(
    context: &Context<'_>,
    entropy: &mut Entropy,
    request: &Request,
    reply: &Reply,
) -> Result<Outcome, ErrorInfo> {
    let Some(segments) = request.path_segments() else {
        return Err(ErrorInfo::new(ErrorCode::BAD_REQUEST, "malformed path"));
    };
    let segments: Vec<&str> = segments.iter().map(AsRef::as_ref).collect();
    match (request.method(), &segments[..]) {
        // A preflight comes without credentials, whatever it asks for.
        ("OPTIONS", _) => Ok(Outcome::Reply(reply.preflight())),
        ("GET" | "HEAD", ["time"]) => {
            let time = ably::encode_time(reply.format(), context.now.unix_ms);
            Ok(Outcome::Reply(reply.ok(200, &time)))
        }
        ("GET" | "HEAD", ["livez"]) => Ok(Outcome::Reply(reply.text(200, "live"))),
        ("GET" | "HEAD", ["readyz"]) => Ok(Outcome::Reply(match context.is_ready {
            true => reply.text(200, "ready"),
            false => reply.text(503, "not ready"),
        })),
        ("POST", ["channels", name, "messages"]) => {
            let (principal, channel, accepted) = publish::accept(context, entropy, request, name)?;
            let app_id = principal.app_id().to_owned();
            let reply = reply.clone().publish(name);
            Ok(Outcome::Publish { app_id, channel, accepted, reply })
        }
        // ably-go asks for /history.
        ("GET" | "HEAD", ["channels", name, "messages" | "history"]) => {
            let principal = authenticate(request, context.directory, context.now)?;
            let channel = ChannelName::parse(name)?;
            principal.permit(channel.base(), Operation::History)?;
            let query = history::parse(request)?;
            let app_id = principal.app_id().to_owned();
            let reply = reply.clone().history(segments[2], query.clone());
            Ok(Outcome::History { app_id, channel, query, reply })
        }
        (_, ["time" | "livez" | "readyz"] | ["channels", _, "messages" | "history"]) => {
            Err(ErrorInfo::new(ErrorCode::METHOD_NOT_ALLOWED, "method not allowed"))
        }
        _ => Err(ErrorInfo::new(ErrorCode::NOT_FOUND, "no such resource")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ably::{ApiKey, Capability, Direction, Position, PublishResult};
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
        let context =
            Context { now: NOW, directory: &directory, message_bytes_max: 65_536, is_ready };
        let mut entropy = Entropy::new(|page| page.fill(7));
        handle(&context, &mut entropy, &parse(bytes))
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
        assert!(matches!(history("?key=app.all:secret", ""), Outcome::History { .. }));
        assert!(matches!(history("", BASIC), Outcome::History { .. }));
        assert!(matches!(history("?key=no.such:key", BASIC), Outcome::History { .. }));
        assert_eq!(error(history("?key=app.all:wrong", "")), (401, 40101));
        assert_eq!(error(history("?key=app.other:secret", "")), (401, 40400));
        assert_eq!(error(history("?key=other.all:secret", "")), (404, 40400));
        assert_eq!(error(history("?access_token=abc", "")), (401, 40101));
        assert_eq!(error(history("", "Authorization: Bearer abc\r\n")), (401, 40101));
        assert_eq!(error(history("", "Authorization: Digest\r\n")), (401, 40101));
    }

    #[test]
    fn the_capability_decides() {
        let body = r#"{"data":"x"}"#;
        let publish = outcome("POST /channels/a/messages?key=app.reader:secret", "", body);
        assert_eq!(error(publish), (401, 40160));
        let history = outcome("GET /channels/a/messages?key=app.reader:secret", "", "");
        assert!(matches!(history, Outcome::History { .. }));
    }

    #[test]
    fn a_channel_name_is_decoded_once_and_checked() {
        let outcome_of = |name: &str| outcome(&format!("GET /channels/{name}/history"), BASIC, "");
        let Outcome::History { channel, app_id, .. } = outcome_of("a%2Fb%2520") else { panic!() };
        assert_eq!((channel.base(), &app_id[..]), ("a/b%20", "app"));
        assert_eq!(error(outcome_of("")), (400, 40010));
        assert_eq!(error(outcome_of("%3Aa")), (400, 40010));
    }

    #[test]
    fn a_publish_is_read_by_its_content_type() {
        let publish = |content_type: &str, body: &[u8]| {
            let headers = format!("{BASIC}Content-Type: {content_type}\r\n");
            outcome("POST /channels/a/messages", &headers, body)
        };
        let accepted = |outcome| matches!(outcome, Outcome::Publish { .. });
        assert!(accepted(publish("application/json", br#"{"name":"n"}"#)));
        assert!(accepted(publish("application/json; charset=utf-8", br#"[{"data":"x"},{}]"#)));
        assert!(accepted(publish("application/x-msgpack", b"\x81\xa4name\xa1n")));
        assert!(accepted(publish("application/x-www-form-urlencoded", b"name=n&data=a+b")));
        assert_eq!(error(publish("text/html", b"x")), (400, 40001));
        assert_eq!(error(publish("application/json", b"{")), (400, 40001));
        assert_eq!(error(publish("application/json", b"[]")), (400, 40000));
    }

    #[test]
    fn a_publisher_learns_ids_and_serials_or_why_not() {
        let published = outcome("POST /channels/a%2Fb/messages", BASIC, br#"{"data":"x"}"#);
        let Outcome::Publish { reply, .. } = published else { panic!("{published:?}") };
        let serial = format!("{SERIAL}:000");
        let result = PublishResult { message_id: "id".into(), serials: vec![Some(serial.into())] };
        let response = text(&reply.published(&Ok(result)));
        assert!(response.starts_with("HTTP/1.1 201 "));
        let body =
            r#"{"channel":"a/b","messageId":"id","serials":["01700000000123-001@series0000:000"]}"#;
        assert!(response.ends_with(body), "{response}");
        let refused = reply.published(&Err(ErrorInfo::new(ErrorCode::CHANNEL_RATE_EXCEEDED, "")));
        assert_eq!(error(Outcome::Reply(refused)), (429, 42913));
    }

    #[test]
    fn a_client_id_is_claimed_by_header_or_query() {
        let publish = |query: &str, headers: &str| {
            let headers = format!("{BASIC}{headers}");
            outcome(&format!("POST /channels/a/messages{query}"), &headers, r#"{"data":"x"}"#)
        };
        assert!(matches!(publish("", "X-Ably-ClientId: Ym9i\r\n"), Outcome::Publish { .. }));
        assert!(matches!(publish("?clientId=bob", ""), Outcome::Publish { .. }));
        assert_eq!(error(publish("", "X-Ably-ClientId: bob\r\n")), (400, 40012));
        assert_eq!(error(publish("?clientId=*", "")), (400, 40012));
        assert_eq!(error(publish("?clientId=", "")), (400, 40012));
    }

    #[test]
    fn pages_are_linked_so_that_sdks_can_follow() {
        let get = |query: &str| outcome(&format!("GET /channels/a/history?{query}"), BASIC, "");
        let links = |query: &str, next: Option<&Position>| {
            let Outcome::History { query, reply, .. } = get(query) else { panic!("{query}") };
            let response = text(&reply.page(std::iter::empty(), next));
            let links = response.lines().filter_map(|line| line.strip_prefix("Link: "));
            (query, links.map(str::to_owned).collect::<Vec<_>>())
        };
        let last = Position { serial: SERIAL.parse().unwrap(), index: 2 };
        let (query, first_page) = links("limit=2&start=5&end=9&key=app.all:secret", Some(&last));
        assert_eq!((query.limit, query.start_ms, query.end_ms), (2, Some(5), Some(9)));
        let base = "./history?direction=backwards&limit=2&start=5&end=9";
        let next = format!("{base}&cursor=01700000000123-001%40series0000%3A2");
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
        let Outcome::History { query, .. } =
            get("direction=forwards&fromSerial=01700000000123-001%40series0000")
        else {
            panic!()
        };
        assert_eq!((query.direction, query.limit), (Direction::Forwards, 100));
        assert_eq!(query.until, SERIAL.parse().ok());
        let Outcome::History { query, .. } = get("start=1&end=1&limit=1000") else { panic!() };
        assert_eq!((query.direction, query.limit), (Direction::Backwards, 1000));
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
}
