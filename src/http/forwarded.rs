//! Whose request a proxy passes on: `X-Forwarded-For`, and `Forwarded` (RFC 7239).

use std::net::{IpAddr, SocketAddr};
use std::str;

use super::Request;

/// In which header proxies say whose request it is. Only one is looked at: what a proxy does not write itself it
/// passes on as the client has written it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ForwardedHeader {
    /// `X-Forwarded-For`: addresses with commas between them.
    #[default]
    XForwardedFor,
    /// `Forwarded`: elements with commas between them, of which `for=` is looked at.
    Forwarded,
}

impl ForwardedHeader {
    /// Whose request it is, as proxies say that `is_trusted` knows. Each adds to the end whom it got the
    /// request from, so the last that is no such proxy is the client; whatever stands before it, the client
    /// itself may have written. `None`: they do not say, or not in words that name an address.
    pub fn client(self, request: &Request, is_trusted: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
        let (name, read): (_, fn(&str) -> Option<IpAddr>) = match self {
            ForwardedHeader::XForwardedFor => ("X-Forwarded-For", address),
            ForwardedHeader::Forwarded => ("Forwarded", forwarded_for),
        };
        let mut first = None;
        let values = request.header_bytes(name).rev();
        for element in values.flat_map(|value| value.rsplit(|byte| *byte == b',')) {
            // Of what the client wrote itself, which may be anything, nothing is read before this one.
            let found = read(str::from_utf8(element).ok()?.trim())?;
            if !is_trusted(found) {
                return Some(found);
            }
            first = Some(found);
        }
        // Proxies alone: it is one of them that asks, the farthest.
        first
    }
}

/// `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1` or `[2001:db8::1]:80`.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    bare.parse().ok().or_else(with_port)
}

/// The address that an element of `Forwarded` names.
fn forwarded_for(element: &str) -> Option<IpAddr> {
    let node = element.split(';').find_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        name.trim().eq_ignore_ascii_case("for").then_some(value.trim())
    })?;
    address(node.strip_prefix('"').and_then(|node| node.strip_suffix('"')).unwrap_or(node))
}

#[cfg(test)]
mod tests {
    use super::super::request::tests::request;
    use super::*;

    fn client(header: ForwardedHeader, headers: impl AsRef<[u8]>) -> Option<String> {
        let head = [b"GET / HTTP/1.1\r\nHost: h\r\n", headers.as_ref(), b"\r\n"].concat();
        let request = request(head);
        let is_trusted = |address: IpAddr| address.to_string().starts_with("10.");
        header.client(&request, is_trusted).map(|address| address.to_string())
    }

    #[test]
    fn the_last_that_is_no_proxy_of_ours_is_the_client() {
        let x = |headers: &str| client(ForwardedHeader::XForwardedFor, headers);
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(x("X-Forwarded-For: 192.0.2.1\r\n"), some("192.0.2.1"));
        assert_eq!(x("x-forwarded-for: 198.51.100.9, 192.0.2.1,10.0.0.2\r\n"), some("192.0.2.1"));
        let several = "X-Forwarded-For: 198.51.100.9\r\nX-Forwarded-For: 192.0.2.1, 10.1.1.1\r\n";
        assert_eq!(x(several), some("192.0.2.1"));
        assert_eq!(x("X-Forwarded-For: 2001:db8::1\r\n"), some("2001:db8::1"));
        assert_eq!(x("X-Forwarded-For: [2001:db8::1]:443\r\n"), some("2001:db8::1"));
        assert_eq!(x("X-Forwarded-For: 192.0.2.1:443\r\n"), some("192.0.2.1"));
        assert_eq!(x("X-Forwarded-For: 10.0.0.9, 10.0.0.2\r\n"), some("10.0.0.9"));
        // Whatever the client wrote stands before what cannot be read, and is not believed.
        assert_eq!(x("X-Forwarded-For: 198.51.100.9, unknown\r\n"), None);
        assert_eq!(x("X-Forwarded-For: \r\n"), None);
        assert_eq!(x("Forwarded: for=192.0.2.1\r\n"), None);
        assert_eq!(x(""), None);
        let header = ForwardedHeader::XForwardedFor;
        assert_eq!(client(header, b"X-Forwarded-For: \xff, 192.0.2.1\r\n"), some("192.0.2.1"));
    }

    #[test]
    fn elements_of_forwarded_name_their_node() {
        let forwarded = |headers: &str| client(ForwardedHeader::Forwarded, headers);
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(forwarded("Forwarded: for=192.0.2.1;proto=https\r\n"), some("192.0.2.1"));
        assert_eq!(
            forwarded("Forwarded: for=198.51.100.9, proto=https;For=\"[2001:db8::1]:47\"\r\n"),
            some("2001:db8::1")
        );
        assert_eq!(forwarded("Forwarded: for=192.0.2.1, for=10.0.0.1\r\n"), some("192.0.2.1"));
        assert_eq!(forwarded("Forwarded: for=198.51.100.9, for=_hidden\r\n"), None);
        assert_eq!(forwarded("Forwarded: by=10.0.0.1\r\n"), None);
        assert_eq!(forwarded("X-Forwarded-For: 192.0.2.1\r\n"), None);
    }
}
