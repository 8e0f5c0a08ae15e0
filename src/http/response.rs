//! Responses as bytes, with the headers that let browsers read them.

use bytes::Bytes;

use super::{HttpError, Request};

/// What of a request its response depends on, kept while the answer is being found.
#[derive(Clone, Debug, Default)]
pub struct ReplyTo {
    keep_alive: bool,
    is_head: bool,
    origin: Option<Box<str>>,
    requested_headers: Option<Box<str>>,
}

impl ReplyTo {
    /// Notes down what `request` says about its response.
    pub fn new(request: &Request) -> Self {
        let boxed = |name| request.header(name).map(Box::from);
        Self {
            keep_alive: request.keep_alive(),
            is_head: request.method() == "HEAD",
            origin: boxed("Origin"),
            requested_headers: boxed("Access-Control-Request-Headers"),
        }
    }

    /// For a stream on which no request could be told apart: the response closes it.
    pub fn unreadable_request() -> Self {
        Self::default()
    }

    /// The same, but the response is the transport's last.
    pub fn closing(self) -> Self {
        Self { keep_alive: false, ..self }
    }

    /// The same, but a browser is not to show the response to the page.
    pub fn without_origin(self) -> Self {
        Self { origin: None, ..self }
    }

    /// Whether the transport lasts beyond the response.
    pub fn keep_alive(&self) -> bool {
        self.keep_alive
    }
}

/// A response under construction.
#[derive(Debug)]
pub struct Response {
    status: u16,
    bytes: Vec<u8>,
}

impl Response {
    /// Begins a response; `status` is 200 to 599.
    pub fn new(status: u16) -> Self {
        let mut bytes = Vec::with_capacity(512);
        bytes.extend_from_slice(format!("HTTP/1.1 {status} {}\r\n", reason(status)).as_bytes());
        Self { status, bytes }
    }

    /// The plain answer to a request that could not be read.
    pub fn to_error(error: &HttpError) -> Bytes {
        Self::new(error.status)
            .header("Content-Type", "text/plain")
            .finish(&ReplyTo::unreadable_request(), error.message.as_bytes())
    }

    /// Adds a header. `value` may come from a peer: what could end the line, or is not printable
    /// ASCII, becomes `?`.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.extend_from_slice(b": ");
        self.bytes.extend(value.chars().map(|c| match c {
            ' '..='~' => c as u8,
            _ => b'?',
        }));
        self.bytes.extend_from_slice(b"\r\n");
        self
    }

    /// Adds what a browser wants to see before it hands a response to a page of another origin
    /// (Fetch standard, CORS). The SDKs send credentials, with which `*` would not do.
    fn cors(self, to: &ReplyTo) -> Self {
        let Some(origin) = &to.origin else { return self };
        let response = self
            .header("Access-Control-Allow-Origin", origin)
            .header("Access-Control-Allow-Credentials", "true")
            .header(
                "Access-Control-Expose-Headers",
                "Link, Content-Type, X-Ably-Errorcode, X-Ably-Errormessage, X-Ably-ServerId",
            )
            .header("Vary", "Origin");
        match &to.requested_headers {
            Some(requested) => response.header("Access-Control-Allow-Headers", requested),
            None => response,
        }
    }

    /// The answer to a preflight request, for every route.
    pub fn preflight(to: &ReplyTo) -> Bytes {
        Self::new(204)
            .header("Allow", METHODS)
            .header("Access-Control-Allow-Methods", METHODS)
            .header("Access-Control-Max-Age", "86400")
            .finish(to, b"")
    }

    /// The head of a response whose content follows in chunks, for as long as the transport lasts.
    pub fn finish_stream(self, to: &ReplyTo) -> Bytes {
        let response = self
            .cors(to)
            .header("Cache-Control", "no-cache")
            // What a proxy would collect, its client would not see.
            .header("X-Accel-Buffering", "no")
            .header("Connection", "close")
            .header("Transfer-Encoding", "chunked");
        let mut bytes = response.bytes;
        bytes.extend_from_slice(b"\r\n");
        Bytes::from(bytes)
    }

    /// The whole response, as it goes onto the wire.
    pub fn finish(self, to: &ReplyTo, body: &[u8]) -> Bytes {
        let mut response = self.cors(to);
        if !to.keep_alive {
            response = response.header("Connection", "close");
        }
        // RFC 9110 §8.6: no length on what cannot have content.
        if response.status == 204 {
            assert!(body.is_empty(), "204 has no content");
        } else {
            let mut length = itoa::Buffer::new();
            response = response.header("Content-Length", length.format(body.len()));
        }
        let mut bytes = response.bytes;
        bytes.extend_from_slice(b"\r\n");
        if !to.is_head {
            bytes.extend_from_slice(body);
        }
        Bytes::from(bytes)
    }
}

/// What ends a content of chunks.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// Appends one chunk (RFC 9112 §7.1) of what `fill` appends; none if that is nothing.
pub fn write_chunk(out: &mut Vec<u8>, fill: impl FnOnce(&mut Vec<u8>)) {
    /// Digits enough for every size; leading zeros are allowed.
    const HEAD_BYTES: usize = "01234567\r\n".len();
    let start = out.len();
    out.extend_from_slice(&[b'0'; HEAD_BYTES]);
    fill(out);
    let chunk_bytes = out.len() - start - HEAD_BYTES;
    if chunk_bytes == 0 {
        return out.truncate(start);
    }
    assert!(u32::try_from(chunk_bytes).is_ok(), "a chunk's size has eight digits");
    let head = format!("{chunk_bytes:08x}\r\n");
    out[start..start + HEAD_BYTES].copy_from_slice(head.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// The status of a whole response that this module made.
pub fn status_of(response: &[u8]) -> u16 {
    let digits = response.strip_prefix(b"HTTP/1.1 ").and_then(|rest| rest.first_chunk::<3>());
    let digits = digits.expect("responses begin with their status");
    digits.iter().fold(0, |status, digit| status * 10 + u16::from(digit - b'0'))
}

const METHODS: &str = "GET, POST, PUT, PATCH, DELETE, OPTIONS";

/// The reason phrase of a status we send (RFC 9110 §15); clients ignore it, people read it.
fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        204 => "No Content",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        409 => "Conflict",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        417 => "Expectation Failed",
        422 => "Unprocessable Content",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::super::request::tests::request;
    use super::*;

    fn text(bytes: Bytes) -> String {
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    #[test]
    fn a_response_reads_as_expected() {
        let to = ReplyTo::new(&request("GET / HTTP/1.1\r\nHost: h\r\n\r\n"));
        let response = Response::new(200).header("Content-Type", "application/json");
        assert_eq!(
            text(response.finish(&to, b"[1]")),
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 3\r\n\r\n[1]"
        );
    }

    #[test]
    fn head_gets_the_length_without_the_body() {
        let to = ReplyTo::new(&request("HEAD / HTTP/1.0\r\n\r\n"));
        assert_eq!(
            text(Response::new(200).finish(&to, b"body")),
            "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 4\r\n\r\n"
        );
    }

    #[test]
    fn an_origin_is_reflected_and_nothing_breaks_out_of_a_header() {
        let to = ReplyTo::new(&request(
            "OPTIONS / HTTP/1.1\r\nHost: h\r\nOrigin: https://a.example\r\n\
             Access-Control-Request-Headers: authorization, x-ably-version\r\n\r\n",
        ));
        let preflight = text(Response::preflight(&to));
        assert!(preflight.starts_with("HTTP/1.1 204 No Content\r\n"));
        for header in [
            "Access-Control-Allow-Origin: https://a.example\r\n",
            "Access-Control-Allow-Credentials: true\r\n",
            "Access-Control-Allow-Methods: GET, POST, PUT, PATCH, DELETE, OPTIONS\r\n",
            "Access-Control-Allow-Headers: authorization, x-ably-version\r\n",
        ] {
            assert!(preflight.contains(header), "{header}{preflight}");
        }
        assert!(!preflight.contains("Content-Length"));
        assert_eq!(status_of(&Response::new(413).finish(&to, b"")), 413);
        let injected = text(Response::new(200).header("A", "b\r\nC: dé").finish(&to, b""));
        assert!(injected.contains("\r\nA: b??C: d?\r\n"));
    }

    #[test]
    fn a_stream_is_a_head_and_chunks() {
        let to = ReplyTo::new(&request("GET / HTTP/1.1\r\nHost: h\r\nOrigin: o\r\n\r\n"));
        let head = text(Response::new(200).finish_stream(&to));
        assert!(head.contains("\r\nTransfer-Encoding: chunked\r\n"), "{head}");
        assert!(head.contains("\r\nAccess-Control-Allow-Origin: o\r\n"), "{head}");
        assert!(head.ends_with("\r\n\r\n") && !head.contains("Content-Length"), "{head}");
        let mut out = b"x".to_vec();
        write_chunk(&mut out, |out| out.extend_from_slice(b"seventeen letters"));
        write_chunk(&mut out, |_| {});
        assert_eq!(out, b"x00000011\r\nseventeen letters\r\n");
    }

    #[test]
    fn an_unreadable_request_is_answered_and_closed() {
        let response = text(Response::to_error(&HttpError::new(431, "request head too large")));
        assert!(response.starts_with("HTTP/1.1 431 Request Header Fields Too Large\r\n"));
        assert!(response.contains("\r\nConnection: close\r\n"));
        assert!(response.ends_with("\r\n\r\nrequest head too large"));
    }
}
