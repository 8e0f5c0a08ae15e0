//! A complete request, and questions about it.

use std::borrow::Cow;
use std::str;

use bytes::Bytes;

use super::head::{Head, Span};
use super::uri::{decode_percent, form_pairs, form_value};

/// One request, head and body.
#[derive(Debug)]
pub struct Request {
    head_bytes: Bytes,
    head: Head,
    body: Bytes,
}

impl Request {
    pub(super) fn new(head_bytes: Bytes, head: Head, body: Bytes) -> Self {
        Self { head_bytes, head, body }
    }

    /// The method as sent; methods are case-sensitive.
    pub fn method(&self) -> &str {
        self.text(self.head.method).expect("a method is ASCII")
    }

    /// The target's path as sent, percent-encoded: begins with `/`, or is `*`.
    pub fn path(&self) -> &str {
        self.head.path.map_or("/", |path| self.text(path).expect("httparse gave it as text"))
    }

    /// The target's query as sent, without its `?`; empty if there is none.
    pub fn query(&self) -> &str {
        self.text(self.head.query).expect("httparse gave it as text")
    }

    /// The path's segments, each percent-decoded once, after it was split: an encoded slash is part
    /// of its segment. None for `/`. `None`: something in it does not decode to UTF-8.
    pub fn path_segments(&self) -> Option<Vec<Cow<'_, str>>> {
        match self.path().strip_prefix('/') {
            None | Some("") => Some(Vec::new()),
            Some(path) => path.split('/').map(decode_percent).collect(),
        }
    }

    /// The first value of query parameter `name`, decoded; what does not decode to UTF-8 counts as
    /// absent.
    pub fn query_param(&self, name: &str) -> Option<Cow<'_, str>> {
        form_value(self.query(), name)
    }

    /// All query parameters in order, decoded; those that do not decode to UTF-8 are left out.
    pub fn query_params(&self) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
        form_pairs(self.query())
    }

    /// The first header called `name`, in any case; one that is not UTF-8 counts as absent.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.values(name).next().and_then(|value| self.text(value))
    }

    /// All headers called `name`, in any case, as sent and in order.
    pub fn header_bytes(&self, name: &str) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.values(name).map(|value| &self.head_bytes[value.range()])
    }

    fn values(&self, name: &str) -> impl DoubleEndedIterator<Item = Span> {
        let is_it =
            move |found: Span| self.head_bytes[found.range()].eq_ignore_ascii_case(name.as_bytes());
        self.head.headers.iter().filter(move |(found, _)| is_it(*found)).map(|(_, value)| *value)
    }

    /// The body, with its transfer coding undone; empty if there is none.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// Whether the client may send another request on the transport after this one.
    pub fn keep_alive(&self) -> bool {
        self.head.keep_alive
    }

    /// Makes this the last request of its transport, whatever the client wants.
    pub fn close_after(&mut self) {
        self.head.keep_alive = false;
    }

    /// Whether the client reads a response in chunks; one of HTTP/1.0 does not.
    pub fn reads_chunks(&self) -> bool {
        self.head.reads_chunks
    }

    fn text(&self, span: Span) -> Option<&str> {
        str::from_utf8(&self.head_bytes[span.range()]).ok()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::{Progress, RequestParser};
    use super::*;

    /// Parses `bytes`, which are one request.
    pub(crate) fn request(bytes: impl AsRef<[u8]>) -> Request {
        let mut parser = RequestParser::new(1 << 20);
        parser.handle_bytes(bytes.as_ref()).unwrap();
        match parser.poll() {
            Ok(Progress::Request(request)) => request,
            other => panic!("{other:?}"),
        }
    }

    fn get(target: &str) -> Request {
        request(format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n"))
    }

    #[test]
    fn path_segments_are_decoded_once_after_splitting() {
        let segments = |target| get(target).path_segments().map(|all| all.join(" | "));
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(segments("/channels/a%2Fb/messages"), some("channels | a/b | messages"));
        assert_eq!(segments("/a%252Fb"), some("a%2Fb"));
        assert_eq!(segments("/caf%C3%A9+/"), some("café+ | "));
        assert_eq!(get("/").path_segments(), Some(vec![]));
        assert_eq!(segments("/%"), None);
        assert_eq!(segments("/%f"), None);
        assert_eq!(segments("/%zz"), None);
        assert_eq!(segments("/%+1"), None);
        assert_eq!(segments("/%ff"), None);
    }

    #[test]
    fn query_parameters_are_decoded_and_the_first_one_wins() {
        let request = get("/?a=1%262&b=x+y&&c&a=9&d=%ff&%65=5");
        let param = |name| request.query_param(name).map(Cow::into_owned);
        assert_eq!(param("a").as_deref(), Some("1&2"));
        assert_eq!(param("b").as_deref(), Some("x y"));
        assert_eq!(param("c").as_deref(), Some(""));
        assert_eq!(param("d"), None);
        assert_eq!(param("e").as_deref(), Some("5"));
        assert_eq!(param("f"), None);
    }

    #[test]
    fn headers_are_found_in_any_case() {
        let request =
            request(b"GET / HTTP/1.1\r\nHost: h\r\nX-A:  one \r\nx-a: two\r\nL: \xff\r\n\r\n");
        assert_eq!(request.header("x-a"), Some("one"));
        assert_eq!(request.header("HOST"), Some("h"));
        assert_eq!(request.header("l"), None);
        assert_eq!(request.header("absent"), None);
        assert_eq!(request.header_bytes("x-A").collect::<Vec<_>>(), [b"one", b"two"]);
        assert_eq!(request.header_bytes("l").collect::<Vec<_>>(), [b"\xff"]);
    }
}
