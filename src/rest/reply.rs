//! Answers: content negotiation, bodies, the headers that SDKs look for (13.1).

use bytes::Bytes;

use crate::ably::{self, ErrorCode, ErrorInfo, Format};
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

    /// JSON whatever the request accepts: in a browser ably-js reads no error in another format, and
    /// every SDK reads this one.
    pub(super) fn error(&self, error: &ErrorInfo) -> Bytes {
        let json = Self { format: Format::Json, ..self.clone() };
        json.begin_error(error).finish(&json.to, &ably::encode_error(json.format, error))
    }

    /// The response that `begin` began.
    pub(super) fn finish(&self, response: Response, body: &[u8]) -> Bytes {
        response.finish(&self.to, body)
    }

    /// The head of a response that goes on for as long as the transport lasts.
    pub(super) fn stream(&self, content_type: &str) -> Bytes {
        Response::new(200).header("Content-Type", content_type).finish_stream(&self.to)
    }

    /// In a browser ably-js knows an Ably error by these headers alone.
    pub(super) fn begin_error(&self, error: &ErrorInfo) -> Response {
        self.begin(error.status)
            .header("X-Ably-Errorcode", &error.code.0.to_string())
            .header("X-Ably-Errormessage", &error.message)
    }

    /// Node's ably-js compares the type literally, so it has no charset.
    pub(super) fn begin(&self, status: u16) -> Response {
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

/// The answer to a page whose origin is not allowed; without the headers that would let it read more.
pub fn foreign_origin(request: &Request) -> Bytes {
    let error =
        ErrorInfo::new(ErrorCode::FORBIDDEN, "pages of this origin may not use this server");
    let reply = Reply { to: ReplyTo::new(request).without_origin(), format: Format::Json };
    reply.error(&error)
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
