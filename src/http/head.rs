//! The head of a request: `httparse` finds its parts, this file decides what they mean for framing
//! (RFC 9112 §6) and whether the connection lasts.

use std::ops::Range;

use super::HttpError;

/// Longest request head, in bytes, with its last empty line.
pub const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Longest request target, in bytes.
pub const TARGET_BYTES_MAX: usize = 8 * 1024;
/// Most headers in one request.
pub const HEADERS_MAX: usize = 64;

/// A range of the head's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    start: u16,
    end: u16,
}

impl Span {
    /// Where `part`, which is a slice of `head`, lies in it.
    fn of(part: &[u8], head: &[u8]) -> Self {
        const { assert!(HEAD_BYTES_MAX <= u16::MAX as usize) };
        let start = part.as_ptr().addr() - head.as_ptr().addr();
        debug_assert!(start + part.len() <= head.len());
        Self { start: start as u16, end: (start + part.len()) as u16 }
    }

    pub(super) fn range(self) -> Range<usize> {
        usize::from(self.start)..usize::from(self.end)
    }
}

/// How the body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    Length { body_bytes: usize },
    Chunked,
}

#[derive(Debug)]
pub(super) struct Head {
    pub method: Span,
    /// As sent, or `/` if the target has none.
    pub path: Option<Span>,
    /// Without its `?`.
    pub query: Span,
    pub headers: Vec<(Span, Span)>,
    pub framing: Framing,
    pub keep_alive: bool,
    pub expects_continue: bool,
    /// Whether the client reads chunks: one of HTTP/1.0 does not.
    pub reads_chunks: bool,
}

/// Parses a complete head, which ends with an empty line. `body_bytes_max` bounds what it may announce.
pub(super) fn parse(head: &[u8], body_bytes_max: usize) -> Result<Head, HttpError> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    let status = request.parse(head).map_err(|error| match error {
        httparse::Error::TooManyHeaders => HttpError::new(431, "too many headers"),
        httparse::Error::Version => HttpError::new(505, "only HTTP/1.0 and HTTP/1.1 are spoken"),
        _ => HttpError::bad_request("malformed request head"),
    })?;
    if status.is_partial() {
        return Err(HttpError::bad_request("malformed request head"));
    }
    let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version)
    else {
        return Err(HttpError::bad_request("malformed request head"));
    };
    let is_1_0 = minor == 0;
    if target.len() > TARGET_BYTES_MAX {
        return Err(HttpError::new(414, "request target too long"));
    }
    let headers = &*request.headers;
    let values = |name: &'static str| {
        headers.iter().filter(move |h| h.name.eq_ignore_ascii_case(name)).map(|h| h.value)
    };
    match (values("Host").count(), is_1_0) {
        (1, _) | (0, true) => {}
        _ => return Err(HttpError::bad_request("one Host header is needed")),
    }
    let (path, query) = split_target(target)?;
    let expectation = values("Expect").next();
    if expectation.is_some_and(|value| !value.eq_ignore_ascii_case(b"100-continue")) {
        return Err(HttpError::new(417, "unknown expectation"));
    }
    let connection_has = |token: &[u8]| {
        values("Connection")
            .flat_map(|value| value.split(|byte| *byte == b','))
            .any(|item| item.trim_ascii().eq_ignore_ascii_case(token))
    };
    Ok(Head {
        method: Span::of(method.as_bytes(), head),
        path: path.map(|path| Span::of(path.as_bytes(), head)),
        query: Span::of(query.as_bytes(), head),
        framing: framing(
            values("Transfer-Encoding"),
            values("Content-Length"),
            is_1_0,
            body_bytes_max,
        )?,
        keep_alive: !connection_has(b"close") && (!is_1_0 || connection_has(b"keep-alive")),
        expects_continue: expectation.is_some() && !is_1_0,
        reads_chunks: !is_1_0,
        headers: headers
            .iter()
            .map(|h| (Span::of(h.name.as_bytes(), head), Span::of(h.value, head)))
            .collect(),
    })
}

/// Splits a target of any form (RFC 9112 §3.2) into its path and query. `None`: the path is empty.
fn split_target(target: &str) -> Result<(Option<&str>, &str), HttpError> {
    let origin_form = match target.split_once("://") {
        Some((scheme, rest)) if scheme.bytes().all(|byte| byte.is_ascii_alphanumeric()) => {
            &rest[rest.find(['/', '?']).unwrap_or(rest.len())..]
        }
        _ => target,
    };
    let (path, query) = match origin_form.split_once('?') {
        Some(parts) => parts,
        None => (origin_form, &origin_form[origin_form.len()..]),
    };
    match path {
        "" => Ok((None, query)),
        "*" => Ok((Some(path), query)),
        _ if path.starts_with('/') => Ok((Some(path), query)),
        _ => Err(HttpError::bad_request("malformed request target")),
    }
}

/// RFC 9112 §6.1 and §6.3, refusing whatever a proxy might read differently.
fn framing<'a>(
    mut transfer_encodings: impl Iterator<Item = &'a [u8]>,
    mut content_lengths: impl Iterator<Item = &'a [u8]>,
    is_1_0: bool,
    body_bytes_max: usize,
) -> Result<Framing, HttpError> {
    let (encoding, length) = (transfer_encodings.next(), content_lengths.next());
    if content_lengths.next().is_some() {
        return Err(HttpError::bad_request("more than one Content-Length"));
    }
    match (encoding, length) {
        (None, None) => Ok(Framing::Length { body_bytes: 0 }),
        (None, Some(digits)) => {
            let body_bytes = decimal(digits)?;
            match usize::try_from(body_bytes) {
                Ok(body_bytes) if body_bytes <= body_bytes_max => {
                    Ok(Framing::Length { body_bytes })
                }
                _ => Err(HttpError::new(413, "body too large")),
            }
        }
        (Some(_), Some(_)) => {
            Err(HttpError::bad_request("both Transfer-Encoding and Content-Length"))
        }
        (Some(_), None) if is_1_0 => {
            Err(HttpError::bad_request("Transfer-Encoding in an HTTP/1.0 request"))
        }
        (Some(encoding), None)
            if encoding.eq_ignore_ascii_case(b"chunked") && transfer_encodings.next().is_none() =>
        {
            Ok(Framing::Chunked)
        }
        (Some(_), None) => Err(HttpError::new(501, "unknown transfer encoding")),
    }
}

/// A Content-Length: digits only. One too large for `u64` counts as the largest.
fn decimal(digits: &[u8]) -> Result<u64, HttpError> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(HttpError::bad_request("malformed Content-Length"));
    }
    Ok(digits.iter().fold(0_u64, |value, digit| {
        value.saturating_mul(10).saturating_add(u64::from(digit - b'0'))
    }))
}
