//! Bytes from a client become requests.
//!
//! A request is copied once, out of the receive buffer, and owns that copy from then on: head and
//! body are slices of it. Between requests a parser holds nothing.

use bytes::{Buf, BytesMut};

use super::body::ChunkedBody;
use super::head::{self, Framing, HEAD_BYTES_MAX, Head};
use super::{HttpError, Request};

/// What to send when [`Progress::Continue`] asks for it (RFC 9110 §15.2.1).
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// Bytes beyond one request of the largest size that may wait while a request is being answered.
const PIPELINED_BYTES_MAX: usize = 64 * 1024;

/// Where a parser is with the request at hand.
#[derive(Debug)]
pub enum Progress {
    /// More bytes are needed, if only for a request to begin.
    NeedMore,
    /// The client waits for [`CONTINUE`] before it sends the body. Said once a request.
    Continue,
    /// A request is complete.
    Request(Request),
}

/// Parses what one transport receives, until it is closed or upgraded.
#[derive(Debug)]
pub struct RequestParser {
    /// Present only while bytes are held.
    partial: Option<Box<Partial>>,
    body_bytes_max: u32,
    /// Set by an error: framing is lost, nothing counts any more.
    has_failed: bool,
}

#[derive(Debug, Default)]
struct Partial {
    buffer: BytesMut,
    /// How much of `buffer` has been searched for the head's end.
    scanned_bytes: usize,
    /// Present once the head is complete, while the body is not.
    pending: Option<Pending>,
}

#[derive(Debug)]
struct Pending {
    head: Head,
    body_start: usize,
    body: Body,
    owes_continue: bool,
}

#[derive(Debug)]
enum Body {
    EndsAt(usize),
    Chunked(ChunkedBody),
}

impl RequestParser {
    /// A parser that refuses bodies of more than `body_bytes_max` bytes.
    pub fn new(body_bytes_max: u32) -> Self {
        Self { partial: None, body_bytes_max, has_failed: false }
    }

    /// Takes what a client has sent; call [`Self::poll`] next, unless a request is being answered.
    ///
    /// Fails with 413 when a client sends on and on without waiting for its answers.
    pub fn handle_bytes(&mut self, bytes: &[u8]) -> Result<(), HttpError> {
        if self.has_failed || bytes.is_empty() {
            return Ok(());
        }
        let held_bytes_max = HEAD_BYTES_MAX + self.body_bytes_max as usize + PIPELINED_BYTES_MAX;
        let partial = self.partial.get_or_insert_default();
        if partial.buffer.len() + bytes.len() > held_bytes_max {
            return Err(self.fail(HttpError::new(413, "too many requests in flight")));
        }
        partial.buffer.extend_from_slice(bytes);
        Ok(())
    }

    /// The next request, once it is complete. To be called again after each answer: a client may
    /// have sent the next request without waiting for it.
    ///
    /// After an error there are no more requests: answer it, and close.
    pub fn poll(&mut self) -> Result<Progress, HttpError> {
        let Some(partial) = &mut self.partial else { return Ok(Progress::NeedMore) };
        let progress = match partial.poll(self.body_bytes_max as usize) {
            Ok(progress) => progress,
            Err(error) => return Err(self.fail(error)),
        };
        if partial.buffer.is_empty() && partial.pending.is_none() {
            self.partial = None;
        }
        Ok(progress)
    }

    /// Whether the head of a next request has begun to come and is not complete.
    pub fn is_in_head(&self) -> bool {
        self.partial.as_ref().is_some_and(|partial| partial.pending.is_none())
    }

    /// Whether nothing of a next request has come.
    pub fn is_empty(&self) -> bool {
        self.partial.is_none()
    }

    /// Takes the bytes that follow the last request; after an upgrade they are the new protocol's.
    pub fn take_leftover(&mut self) -> BytesMut {
        self.partial.take().map(|partial| partial.buffer).unwrap_or_default()
    }

    fn fail(&mut self, error: HttpError) -> HttpError {
        self.has_failed = true;
        self.partial = None;
        error
    }
}

impl Partial {
    fn poll(&mut self, body_bytes_max: usize) -> Result<Progress, HttpError> {
        if self.pending.is_none() {
            let Some(body_start) = self.find_head_end()? else { return Ok(Progress::NeedMore) };
            let head = head::parse(&self.buffer[..body_start], body_bytes_max)?;
            self.pending = Some(Pending {
                owes_continue: head.expects_continue,
                body: match head.framing {
                    Framing::Length { body_bytes } => Body::EndsAt(body_start + body_bytes),
                    Framing::Chunked => Body::Chunked(ChunkedBody::new(body_start)),
                },
                body_start,
                head,
            });
        }
        let pending = self.pending.as_mut().expect("set above");
        let is_body_awaited = self.buffer.len() == pending.body_start;
        let body_end = match &mut pending.body {
            Body::EndsAt(end) => (*end <= self.buffer.len()).then_some(*end),
            Body::Chunked(body) => body.decode(&mut self.buffer, body_bytes_max)?,
        };
        let Some(body_end) = body_end else {
            // A client that has begun to send the body is not waiting (RFC 9110 §10.1.1).
            return match std::mem::take(&mut pending.owes_continue) && is_body_awaited {
                true => Ok(Progress::Continue),
                false => Ok(Progress::NeedMore),
            };
        };
        let pending = self.pending.take().expect("set above");
        self.scanned_bytes = 0;
        let mut head_bytes = self.buffer.split_to(body_end).freeze();
        let body = head_bytes.split_off(pending.body_start);
        Ok(Progress::Request(Request::new(head_bytes, pending.head, body)))
    }

    /// Looks for the empty line that ends a head, on from where the last search stopped.
    fn find_head_end(&mut self) -> Result<Option<usize>, HttpError> {
        while let Some(found) = memchr::memchr(b'\n', &self.buffer[self.scanned_bytes..]) {
            let end = self.scanned_bytes + found + 1;
            let Some(line) = self.buffer[self.scanned_bytes..end].strip_suffix(b"\r\n") else {
                return Err(HttpError::bad_request("LF without CR"));
            };
            if end > HEAD_BYTES_MAX {
                break;
            }
            if !line.is_empty() {
                self.scanned_bytes = end;
            } else if self.scanned_bytes == 0 {
                // An empty line before a request is to be ignored (RFC 9112 §2.2).
                self.buffer.advance(end);
            } else {
                return Ok(Some(end));
            }
        }
        match (self.buffer.len() > HEAD_BYTES_MAX, self.scanned_bytes) {
            (false, _) => Ok(None),
            (true, 0) => Err(HttpError::new(414, "request line too long")),
            (true, _) => Err(HttpError::new(431, "request head too large")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::head::{HEADERS_MAX, TARGET_BYTES_MAX};
    use super::*;

    const BODY_MAX: u32 = 1000;

    fn feed(parser: &mut RequestParser, bytes: &[u8], seen: &mut Vec<String>) {
        if let Err(error) = parser.handle_bytes(bytes) {
            seen.push(error.to_string());
        }
        loop {
            match parser.poll() {
                Ok(Progress::NeedMore) => return,
                Ok(Progress::Continue) => seen.push("continue".to_owned()),
                Ok(Progress::Request(request)) => seen.push(format!(
                    "{} {} {} {:?} {}",
                    request.method(),
                    request.path(),
                    request.query(),
                    std::str::from_utf8(request.body()).unwrap(),
                    if request.keep_alive() { "keep" } else { "close" },
                )),
                Err(error) => return seen.push(error.to_string()),
            }
        }
    }

    /// What `bytes` parse to: in one piece, split at each index, and byte by byte alike.
    fn parse(bytes: impl AsRef<[u8]>) -> Vec<String> {
        let bytes = bytes.as_ref();
        let mut whole = Vec::new();
        feed(&mut RequestParser::new(BODY_MAX), bytes, &mut whole);
        for split in 0..=bytes.len() {
            let (mut parser, mut seen) = (RequestParser::new(BODY_MAX), Vec::new());
            feed(&mut parser, &bytes[..split], &mut seen);
            feed(&mut parser, &bytes[split..], &mut seen);
            seen.retain(|seen| seen != "continue");
            assert_eq!(seen, whole, "split={split}");
        }
        let (mut parser, mut seen) = (RequestParser::new(BODY_MAX), Vec::new());
        for byte in bytes {
            feed(&mut parser, &[*byte], &mut seen);
        }
        seen.retain(|seen| seen != "continue");
        assert_eq!(seen, whole, "byte by byte");
        whole
    }

    fn post(headers: &str, body: &str) -> String {
        format!("POST /p HTTP/1.1\r\nHost: h\r\n{headers}\r\n{body}")
    }

    fn chunked(body: &str) -> Vec<String> {
        parse(post("Transfer-Encoding: chunked\r\n", body))
    }

    /// Asserts that what follows a refused request is not taken for a request.
    fn assert_refused(status: u16, request: impl AsRef<[u8]>) {
        let request = request.as_ref();
        let seen = parse([request, b"GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n"].concat());
        let text = String::from_utf8_lossy(request);
        assert!(matches!(&seen[..], [e] if e.starts_with(&status.to_string())), "{text}: {seen:?}");
    }

    #[test]
    fn a_parser_is_small_and_holds_nothing_between_requests() {
        const { assert!(size_of::<RequestParser>() <= 16) };
        let mut parser = RequestParser::new(BODY_MAX);
        parser.handle_bytes(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
        assert!(matches!(parser.poll(), Ok(Progress::Request(_))));
        assert!(parser.partial.is_none());
    }

    #[test]
    fn pipelined_requests_come_one_by_one() {
        let bytes = "GET /a?x=1 HTTP/1.1\r\nHost: h\r\n\r\n\
            POST /b HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello\
            \r\n\r\nGET /c HTTP/1.1\r\nhost:h\r\n\r\n";
        assert_eq!(
            parse(bytes),
            ["GET /a x=1 \"\" keep", "POST /b  \"hello\" close", "GET /c  \"\" keep"]
        );
    }

    #[test]
    fn http_1_0_closes_unless_asked_to_stay() {
        assert_eq!(parse("GET / HTTP/1.0\r\n\r\n"), ["GET /  \"\" close"]);
        let asked = "GET / HTTP/1.0\r\nConnection: TE, Keep-Alive\r\n\r\n";
        assert_eq!(parse(asked), ["GET /  \"\" keep"]);
    }

    #[test]
    fn targets_of_every_form_have_a_path() {
        let parse = |target: &str| parse(format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n"));
        assert_eq!(parse("http://h:80/a/b?c"), ["GET /a/b c \"\" keep"]);
        assert_eq!(parse("http://h?c"), ["GET / c \"\" keep"]);
        assert_eq!(parse("http://h"), ["GET /  \"\" keep"]);
        assert_eq!(parse("?c=http://x/"), ["GET / c=http://x/ \"\" keep"]);
        assert_eq!(parse("*"), ["GET *  \"\" keep"]);
        assert!(parse("a")[0].starts_with("400"));
    }

    #[test]
    fn chunked_bodies_are_put_together() {
        assert_eq!(chunked("5\r\nhello\r\n0\r\n\r\n"), ["POST /p  \"hello\" keep"]);
        let fancy = "3;ext=\"1\"\r\nhel\r\n02\r\nlo\r\n0\r\nTrailer: x\r\n\r\n";
        assert_eq!(chunked(fancy), ["POST /p  \"hello\" keep"]);
        assert_eq!(chunked("0\r\n\r\nGET / HTTP/1.0\r\n\r\n").len(), 2);
    }

    #[test]
    fn malformed_chunks_are_refused() {
        for body in [
            "\r\n\r\n",
            "x\r\n",
            "+1\r\na\r\n0\r\n\r\n",
            "0x1\r\na\r\n",
            "1\na\r\n0\r\n\r\n",
            "1;a\nb\r\nc\r\n",
            "1;a\rb\r\nc\r\n",
            "1\r\nab\r\n0\r\n\r\n",
            "11111111111111111\r\n",
            "0\r\nTrailer: x\n\r\n",
        ] {
            assert_refused(400, post("Transfer-Encoding: chunked\r\n", body));
        }
        let long = format!("1;{}\r\n", "e".repeat(300));
        assert_refused(400, post("Transfer-Encoding: chunked\r\n", &long));
        let trailers = format!("0\r\n{}\r\n", "T: x\r\n".repeat(2000));
        let mut seen = Vec::new();
        let request = post("Transfer-Encoding: chunked\r\n", &trailers);
        feed(&mut RequestParser::new(BODY_MAX), request.as_bytes(), &mut seen);
        assert_eq!(seen, ["400 chunk framing too long"]);
    }

    #[test]
    fn ambiguous_framing_is_refused() {
        let refused = |status, headers: &str| assert_refused(status, post(headers, "hello"));
        refused(400, "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n");
        refused(400, "Content-Length: 5\r\nContent-Length: 5\r\n");
        refused(400, "Content-Length: 5\r\nContent-Length: 6\r\n");
        refused(400, "Content-Length: 5, 5\r\n");
        refused(400, "Content-Length: +5\r\n");
        refused(400, "Content-Length: 0x5\r\n");
        refused(400, "Content-Length:\r\n");
        refused(400, "Content-Length : 5\r\n");
        refused(400, "X: a\r\n folded\r\n");
        refused(400, "X: a\nContent-Length: 5\r\n");
        refused(400, "X: a\rContent-Length: 5\r\n");
        refused(400, "X: a\0b\r\n");
        refused(400, "Host: other\r\n");
        refused(501, "Transfer-Encoding: gzip, chunked\r\n");
        refused(501, "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n");
        refused(501, "Transfer-Encoding: xchunked\r\n");
        refused(413, "Content-Length: 1001\r\n");
        refused(413, "Content-Length: 99999999999999999999999999\r\n");
        refused(417, "Expect: miracles\r\n");
        assert_refused(400, "GET / HTTP/1.1\r\n\r\n");
        assert_refused(400, "GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n");
        assert_refused(505, "GET / HTTP/2.0\r\nHost: h\r\n\r\n");
        assert_refused(400, "G\u{7f}T / HTTP/1.1\r\nHost: h\r\n\r\n");
    }

    #[test]
    fn chunks_over_the_bound_are_refused_when_announced() {
        assert_refused(413, post("Transfer-Encoding: chunked\r\n", "3e9\r\n"));
        let grows = format!("3e8\r\n{}\r\n1\r\n", "x".repeat(1000));
        assert_refused(413, post("Transfer-Encoding: chunked\r\n", &grows));
    }

    #[test]
    fn heads_have_bounds() {
        let parse = |request: String| {
            let mut seen = Vec::new();
            feed(&mut RequestParser::new(BODY_MAX), request.as_bytes(), &mut seen);
            seen
        };
        let path = "x".repeat(TARGET_BYTES_MAX);
        let long_target = parse(format!("GET /{path} HTTP/1.1\r\nHost: h\r\n\r\n"));
        assert_eq!(long_target, ["414 request target too long"]);
        let path = "x".repeat(HEAD_BYTES_MAX);
        assert_eq!(parse(format!("GET /{path}")), ["414 request line too long"]);
        assert_eq!(parse(post(&format!("X: {path}"), "")), ["431 request head too large"]);
        let many = parse(post(&"X: y\r\n".repeat(HEADERS_MAX), ""));
        assert_eq!(many, ["431 too many headers"]);
    }

    #[test]
    fn a_waiting_client_is_told_to_continue_once() {
        let (mut parser, mut seen) = (RequestParser::new(BODY_MAX), Vec::new());
        let head = post("Expect: 100-continue\r\nContent-Length: 2\r\n", "");
        feed(&mut parser, head.as_bytes(), &mut seen);
        assert_eq!(seen, ["continue"]);
        feed(&mut parser, b"h", &mut seen);
        feed(&mut parser, b"i", &mut seen);
        assert_eq!(seen, ["continue", "POST /p  \"hi\" keep"]);
    }

    #[test]
    fn bytes_behind_an_upgrade_are_left_over() {
        let mut parser = RequestParser::new(BODY_MAX);
        parser.handle_bytes(b"GET / HTTP/1.1\r\nHost: h\r\nUpgrade: x\r\n\r\nframes").unwrap();
        assert!(matches!(parser.poll(), Ok(Progress::Request(_))));
        assert_eq!(parser.take_leftover(), "frames");
        assert!(parser.partial.is_none());
    }

    #[test]
    fn a_client_cannot_queue_requests_without_end() {
        let mut parser = RequestParser::new(BODY_MAX);
        let outcome = (0..200).try_for_each(|_| parser.handle_bytes(&[b'x'; 1000]));
        assert_eq!(outcome.unwrap_err().status, 413);
        assert!(parser.partial.is_none());
        assert!(matches!(parser.poll(), Ok(Progress::NeedMore)));
    }

    #[test]
    fn noise_parses_alike_in_one_piece_and_in_many() {
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        let mut random = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as usize
        };
        let requests = [
            "GET /a HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(),
            post("Content-Length: 3\r\n", "abc"),
            post("Transfer-Encoding: chunked\r\n", "2\r\nab\r\n1\r\nc\r\n0\r\nT: x\r\n\r\n"),
        ];
        for _ in 0..1000 {
            let mut bytes = Vec::new();
            for _ in 0..1 + random() % 2 {
                bytes.extend_from_slice(requests[random() % 3].as_bytes());
            }
            for _ in 0..random() % 4 {
                let at = random() % bytes.len();
                bytes[at] = b"\r\n :;0a\xff"[random() % 8];
            }
            // The body is shown as text; where the noise struck the body, only survival counts.
            if std::str::from_utf8(&bytes).is_ok() {
                parse(bytes);
            } else {
                let mut parser = RequestParser::new(BODY_MAX);
                for byte in bytes {
                    let _ = parser.handle_bytes(&[byte]);
                    let _ = parser.poll();
                }
            }
        }
    }
}
