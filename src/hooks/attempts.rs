//! The recent past of each rule: what was sent, what came back, and what that came to. For operators, and
//! bounded; secrets are not in it.

use std::collections::VecDeque;
use std::sync::Arc;

use data_encoding::BASE64;
use serde::Serialize;

use super::courier::Parcel;
use super::http::HttpTarget;
use super::request::{self, VERSION};
use super::target::{Sink, Target};
use crate::ably::ContentType;

/// Attempts of one rule that are remembered.
const ATTEMPTS_MAX: usize = 200;

/// Bytes of these, about.
const ATTEMPTS_BYTES_MAX: usize = 256 << 10;

/// Bytes of a body that are remembered.
const BODY_BYTES_MAX: usize = 2048;

/// Events and channels of a batch that are named.
const NAMED_MAX: usize = 50;

/// Bytes of a header's value that are remembered.
const HEADER_BYTES_MAX: usize = 256;

/// What stands for a value that is nobody's business.
const MASK: &str = "***";

/// Headers that say nothing secret, beside those with [`OPEN_PREFIX`].
const OPEN_HEADERS: [&str; 4] = ["content-type", "x-ably-version", "x-ably-key", "user-agent"];
const OPEN_PREFIXES: [&str; 2] = ["x-ably-envelope-", "x-ably-message-"];

/// One request, and what it came to.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Attempt {
    /// Counts attempts of all rules since the start.
    pub id: u64,
    /// When it began, in milliseconds since the Unix epoch.
    pub time: u64,
    /// Of the rule.
    pub rule: Box<str>,
    /// Of the rule's app.
    pub app: Box<str>,
    /// Whose events are in it, or what it is asked about; of a large batch the first.
    pub channels: Vec<Box<str>>,
    /// The events' numbers, as the spool has them; of a large batch the first. A question has none.
    pub events: Vec<u64>,
    /// How many there are; a question counts as one.
    pub event_count: usize,
    /// Counts attempts for the first of them, from 1.
    pub attempt: u32,
    /// What was sent.
    pub request: Sent,
    /// The status of the answer, if there was one.
    pub status: Option<u16>,
    /// A status, or what has failed; in words.
    pub note: String,
    /// Until the answer was there.
    pub latency_ms: u64,
    /// What it came to.
    pub outcome: Fate,
    /// When it is tried again, in milliseconds since the Unix epoch.
    pub next_try: Option<u64>,
}

/// What an attempt came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fate {
    /// 2xx.
    Delivered,
    /// It is tried again.
    Retry,
    /// The endpoint does not want it: a dead letter.
    Refused,
    /// It has failed, and there is no rule any more to try it again.
    GivenUp,
    /// A question: the publish may be.
    Accepted,
    /// A question: other messages are published instead.
    Replaced,
    /// A question: the publish is refused.
    Rejected,
    /// A question that nobody has decided, and that is not asked again: what then becomes of the publish
    /// the rule says (`on_failure`).
    Undecided,
}

/// What was sent, without what is secret.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Sent {
    /// Of HTTP; `INVOKE` for a function, `PUB` for a subject.
    pub method: &'static str,
    /// Without its query.
    pub url: String,
    /// With values that may be secret masked.
    pub headers: Vec<Header>,
    /// Length of the body.
    pub body_bytes: usize,
    /// The first of it, if that is text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// The first of it otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body_base64: Option<String>,
}

/// One header.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Header {
    /// In lower case.
    pub name: String,
    /// Or a mask.
    pub value: String,
}

impl Header {
    fn new(name: &str, value: &str) -> Header {
        let is_open = OPEN_HEADERS.contains(&name)
            || OPEN_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
        let value = if is_open { cut(value, HEADER_BYTES_MAX) } else { MASK };
        Header { name: name.to_owned(), value: value.to_owned() }
    }
}

impl Sent {
    /// What `target` is sent for `parcel`.
    pub(super) fn parcel(target: &Target, parcel: &Parcel) -> Sent {
        let (content_type, body) = request::body(parcel);
        Sent::new(target, content_type, &parcel.entries[0].event.headers, &body)
    }

    /// What `target` is asked; `body` is JSON.
    pub(super) fn question(target: &Target, body: &[u8]) -> Sent {
        Sent::new(target, ContentType::Json, &[], body)
    }

    fn new(
        target: &Target,
        content_type: ContentType,
        own: &[(Box<str>, Box<str>)],
        body: &[u8],
    ) -> Sent {
        let own = own.iter().map(|(name, value)| Header::new(name, value));
        let (method, url, mut headers) = match &target.sink {
            Sink::Http(http) => {
                ("POST", without_query(&http.url), http_headers(http, content_type))
            }
            Sink::Lambda(lambda) => {
                let function = format!("{}:{}", lambda.aws.region, lambda.function.as_str());
                ("INVOKE", function, Vec::new())
            }
            Sink::Nats(nats) => {
                let headers = nats.headers.iter().map(|(name, value)| Header::new(name, value));
                ("PUB", nats.servers.join(","), headers.collect())
            }
        };
        headers.extend(own);
        let first = &body[..body.len().min(BODY_BYTES_MAX)];
        let text = match std::str::from_utf8(first) {
            Ok(text) => Some(text),
            // The bound may lie within a character.
            Err(error) if error.error_len().is_none() => {
                std::str::from_utf8(&first[..error.valid_up_to()]).ok()
            }
            Err(_) => None,
        };
        let body_base64 = if text.is_none() { Some(BASE64.encode(first)) } else { None };
        let body_bytes = body.len();
        Sent { method, url, headers, body_bytes, body: text.map(str::to_owned), body_base64 }
    }
}

fn http_headers(http: &HttpTarget, content_type: ContentType) -> Vec<Header> {
    let mut headers = vec![Header::new("x-ably-version", VERSION)];
    if !http.headers.iter().any(|(name, _)| name == "content-type") {
        headers.push(Header::new("content-type", content_type.name()));
    }
    headers.extend(http.headers.iter().map(|(name, value)| Header::new(name, value)));
    if let Some(key) = &http.signing_key {
        headers.push(Header::new("x-ably-key", &key.name));
        headers.push(Header::new("x-ably-signature", ""));
    }
    headers
}

/// Without what may be secret in it.
pub fn without_query(url: &str) -> String {
    url.split(['?', '#']).next().unwrap_or_default().to_owned()
}

/// The beginning of `text`, in whole characters.
fn cut(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

/// The events and channels of a parcel, as far as they are named.
pub(super) fn names(parcel: &Parcel) -> (Vec<u64>, Vec<Box<str>>) {
    let entries = parcel.entries.iter();
    let events = entries.clone().take(NAMED_MAX).map(|entry| entry.id).collect();
    let mut channels: Vec<Box<str>> = Vec::new();
    for entry in entries {
        if channels.len() >= NAMED_MAX {
            break;
        }
        if !channels.contains(&entry.event.channel) {
            channels.push(entry.event.channel.clone());
        }
    }
    (events, channels)
}

/// The attempts of one rule, oldest first.
#[derive(Default)]
pub(super) struct AttemptLog {
    attempts: VecDeque<Arc<Attempt>>,
    bytes: usize,
}

impl AttemptLog {
    /// Takes one more; the oldest make room.
    pub(super) fn push(&mut self, attempt: Arc<Attempt>) {
        self.bytes += size_bytes(&attempt);
        self.attempts.push_back(attempt);
        while self.attempts.len() > ATTEMPTS_MAX || self.bytes > ATTEMPTS_BYTES_MAX {
            let Some(oldest) = self.attempts.pop_front() else { break };
            self.bytes -= size_bytes(&oldest);
        }
    }

    /// Those behind `after`, oldest first.
    pub(super) fn after(&self, after: u64) -> impl Iterator<Item = &Arc<Attempt>> {
        let from = self.attempts.partition_point(|attempt| attempt.id <= after);
        self.attempts.range(from..)
    }
}

fn size_bytes(attempt: &Attempt) -> usize {
    let Attempt { channels, events, request, note, .. } = attempt;
    let headers = request.headers.iter().map(|header| 48 + header.name.len() + header.value.len());
    let body = request.body.as_ref().or(request.body_base64.as_ref()).map_or(0, String::len);
    let channels = channels.iter().map(|channel| 16 + channel.len());
    let text = body + request.url.len() + note.len() + 8 * events.len();
    size_of::<Attempt>() + text + headers.sum::<usize>() + channels.sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(id: u64, body_bytes: usize) -> Arc<Attempt> {
        let body = Some("x".repeat(body_bytes.min(BODY_BYTES_MAX)));
        let request = Sent {
            method: "POST",
            url: "http://h/".into(),
            headers: Vec::new(),
            body_bytes,
            body,
            body_base64: None,
        };
        Arc::new(Attempt {
            id,
            time: 7,
            rule: "r".into(),
            app: "app".into(),
            channels: vec!["c".into()],
            events: vec![id],
            event_count: 1,
            attempt: 1,
            request,
            status: Some(200),
            note: "status 200".into(),
            latency_ms: 3,
            outcome: Fate::Delivered,
            next_try: None,
        })
    }

    #[test]
    fn the_past_is_bounded_in_number_and_in_bytes() {
        let mut log = AttemptLog::default();
        for id in 0..1000 {
            log.push(attempt(id, 1));
        }
        assert_eq!(log.after(0).count(), ATTEMPTS_MAX);
        assert!(log.after(990).map(|attempt| attempt.id).eq(991..1000));
        for id in 1000..2000 {
            log.push(attempt(id, 1 << 20));
        }
        assert!(log.bytes <= ATTEMPTS_BYTES_MAX, "{}", log.bytes);
        assert!((50..ATTEMPTS_MAX).contains(&log.after(0).count()));
        let sum: usize = log.after(0).map(|attempt| size_bytes(attempt)).sum();
        assert_eq!(log.bytes, sum);
    }

    #[test]
    fn what_may_be_secret_is_masked() {
        assert_eq!(without_query("https://h/p?token=hush#x"), "https://h/p");
        for (name, value, shown) in [
            ("authorization", "Basic hush", MASK),
            ("x-secret", "hush", MASK),
            ("x-ably-signature", "hush", MASK),
            ("content-type", "text/plain", "text/plain"),
            ("x-ably-message-name", "said", "said"),
        ] {
            assert_eq!(Header::new(name, value).value, shown, "{name}");
        }
        assert_eq!(cut("caf\u{e9}", 4), "caf");
    }
}
