//! Answers: content negotiation, bodies, the headers that SDKs look for (13.1).

use bytes::Bytes;

use super::history;
use crate::ably::{
    self, ErrorCode, ErrorInfo, Format, HistoryQuery, Position, Publication, PublishResult,
};
use crate::http::{HttpError, ReplyTo, Request, Response};
use crate::ws::handshake::{HandshakeError, VERSION};

const JSON: &str = "application/json";
const MSGPACK: &str = "application/x-msgpack";

/// How to answer a request, kept while the answer is being found.
#[derive(Clone, Debug)]
pub(super) struct Reply {
    to: ReplyTo,
    format: Format,
}

impl Reply {
    /// `Accept` decides, then `?format=`, then it is JSON.
    pub(super) fn new(request: &Request) -> Self {
        let accepted = request.header("Accept").unwrap_or_default().split(',').find_map(media_type);
        let format = accepted.unwrap_or_else(|| match request.query_param("format").as_deref() {
            Some("msgpack") => Format::MsgPack,
            _ => Format::Json,
        });
        Self { to: ReplyTo::new(request), format }
    }

    pub(super) fn format(&self) -> Format {
        self.format
    }

    pub(super) fn preflight(&self) -> Bytes {
        Response::preflight(&self.to)
    }

    pub(super) fn text(&self, status: u16, text: &str) -> Bytes {
        Response::new(status).header("Content-Type", "text/plain").finish(&self.to, text.as_bytes())
    }

    pub(super) fn ok(&self, status: u16, body: &[u8]) -> Bytes {
        self.begin(status).finish(&self.to, body)
    }

    pub(super) fn error(&self, error: &ErrorInfo) -> Bytes {
        self.begin_error(error).finish(&self.to, &ably::encode_error(self.format, error))
    }

    pub(super) fn publish(self, channel: &str) -> PublishReply {
        PublishReply { reply: self, channel: channel.to_owned() }
    }

    pub(super) fn history(self, segment: &str, query: HistoryQuery) -> HistoryReply {
        HistoryReply { reply: self, segment: segment.to_owned(), query }
    }

    /// In a browser ably-js knows an Ably error by these headers alone.
    fn begin_error(&self, error: &ErrorInfo) -> Response {
        self.begin(error.status)
            .header("X-Ably-Errorcode", &error.code.0.to_string())
            .header("X-Ably-Errormessage", &error.message)
    }

    /// Node's ably-js compares the type literally, so it has no charset.
    fn begin(&self, status: u16) -> Response {
        let content_type = match self.format {
            Format::Json => JSON,
            Format::MsgPack => MSGPACK,
        };
        Response::new(status).header("Content-Type", content_type)
    }
}

/// A media type without its parameters.
pub(super) fn essence(value: &str) -> &str {
    value.split_once(';').map_or(value, |(essence, _)| essence).trim()
}

/// The format that a media type stands for, whatever its parameters.
pub(super) fn media_type(value: &str) -> Option<Format> {
    let essence = essence(value);
    if essence.eq_ignore_ascii_case(JSON) {
        Some(Format::Json)
    } else if essence.eq_ignore_ascii_case(MSGPACK) {
        Some(Format::MsgPack)
    } else {
        None
    }
}

/// The answer to a request that could not be read; the transport is closed behind it.
pub fn unreadable(error: &HttpError) -> Bytes {
    let code = match error.status {
        413 => ErrorCode::MESSAGE_TOO_LARGE,
        _ => ErrorCode::BAD_REQUEST,
    };
    let error = ErrorInfo::new(code, error.message).with_status(error.status);
    Reply { to: ReplyTo::unreadable_request(), format: Format::Json }.error(&error)
}

/// The answer to a request for what does not exist.
pub fn not_found(request: &Request) -> Bytes {
    Reply::new(request).error(&ErrorInfo::new(ErrorCode::NOT_FOUND, "no such resource"))
}

/// The answer to a request that asks for a WebSocket in the wrong way.
pub fn bad_handshake(request: &Request, error: &HandshakeError) -> Bytes {
    let reply = Reply::new(request);
    match error {
        HandshakeError::BadRequest(message) => {
            reply.error(&ErrorInfo::new(ErrorCode::BAD_REQUEST, *message))
        }
        HandshakeError::UnsupportedVersion => {
            let error = ErrorInfo::new(ErrorCode::BAD_REQUEST, "unsupported WebSocket version");
            let error = error.with_status(426);
            let response = reply.begin_error(&error).header("Sec-WebSocket-Version", VERSION);
            response.finish(&reply.to, &ably::encode_error(reply.format, &error))
        }
    }
}

/// Answers a publish once its outcome is known.
#[derive(Clone, Debug)]
pub struct PublishReply {
    reply: Reply,
    /// As it was asked for, with its qualifier.
    channel: String,
}

impl PublishReply {
    /// The response for `result`.
    pub fn published(&self, result: &Result<PublishResult, ErrorInfo>) -> Bytes {
        match result {
            Ok(result) => {
                let format = self.reply.format;
                self.reply.ok(201, &ably::encode_publish_result(format, &self.channel, result))
            }
            Err(error) => self.reply.error(error),
        }
    }
}

/// Answers a history request once the page is read.
#[derive(Clone, Debug)]
pub struct HistoryReply {
    reply: Reply,
    /// The last one of the request's path.
    segment: String,
    query: HistoryQuery,
}

impl HistoryReply {
    /// The response with `messages`, in the order that was asked for; each is a publication's, with
    /// its index there. `next` is the last of them, if more may follow.
    pub fn page<'a>(
        &self,
        messages: impl ExactSizeIterator<Item = (&'a Publication, usize)>,
        next: Option<&Position>,
    ) -> Bytes {
        let response = history::links(&self.segment, &self.query, next)
            .fold(self.reply.begin(200), |response, link| response.header("Link", &link));
        response.finish(&self.reply.to, &ably::encode_history(self.reply.format, messages))
    }

    /// The response when the history cannot be read.
    pub fn error(&self, error: &ErrorInfo) -> Bytes {
        self.reply.error(error)
    }
}
