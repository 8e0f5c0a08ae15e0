//! The opening handshake (RFC 6455 §4.2), given the request's headers one by one.

use data_encoding::BASE64;
use tungstenite::handshake::derive_accept_key;

use super::deflate::{self, Window};

/// The one version that there is (RFC 6455 §4.4).
pub const VERSION: &str = "13";
/// Length of the nonce behind `Sec-WebSocket-Key`.
const NONCE_BYTES: usize = 16;

/// Why a request does not open a WebSocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeError {
    /// The client asked for something else, or wrongly; answer 400 with this text.
    BadRequest(&'static str),
    /// Answer 426 with [`VERSION`] as `Sec-WebSocket-Version` (§4.4).
    UnsupportedVersion,
}

/// Whether a request asks for a WebSocket at all. `header` looks a header up by its name.
pub fn is_requested<'a>(header: impl Fn(&str) -> Option<&'a str>) -> bool {
    has_token(header("Upgrade"), "websocket")
}

/// Checks the request and returns the whole response, after which the stream is frames, and the window of
/// messages that are compressed then, if they may be. `method` is the request's, `header` looks a header up by its name. No subprotocol
/// is agreed to, and no extension but permessage-deflate, where `may_deflate` says so.
pub fn accept<'a>(
    method: &str,
    may_deflate: bool,
    header: impl Fn(&str) -> Option<&'a str>,
) -> Result<(Vec<u8>, Option<Window>), HandshakeError> {
    if method != "GET" {
        return Err(HandshakeError::BadRequest("a WebSocket is opened by GET"));
    }
    if !is_requested(&header) {
        return Err(HandshakeError::BadRequest("Upgrade does not name websocket"));
    }
    if !has_token(header("Connection"), "upgrade") {
        return Err(HandshakeError::BadRequest("Connection does not name Upgrade"));
    }
    if header("Sec-WebSocket-Version") != Some(VERSION) {
        return Err(HandshakeError::UnsupportedVersion);
    }
    let key = header("Sec-WebSocket-Key").unwrap_or_default().as_bytes();
    if !BASE64.decode(key).is_ok_and(|nonce| nonce.len() == NONCE_BYTES) {
        return Err(HandshakeError::BadRequest("Sec-WebSocket-Key is not 16 bytes in base64"));
    }
    let accept = derive_accept_key(key);
    let offers = header("Sec-WebSocket-Extensions").filter(|_| may_deflate);
    let (agreed, window) = offers.and_then(deflate::agree).unzip();
    let extensions = agreed.map(|agreed| format!("Sec-WebSocket-Extensions: {agreed}\r\n"));
    let response = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n{}\r\n",
        extensions.unwrap_or_default()
    );
    Ok((response.into_bytes(), window))
}

/// Whether the comma-separated list `value` names `token`, in any case.
fn has_token(value: Option<&str>, token: &str) -> bool {
    value.is_some_and(|value| value.split(',').any(|item| item.trim().eq_ignore_ascii_case(token)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: [(&str, &str); 4] = [
        ("Upgrade", "websocket"),
        ("Connection", "keep-alive, Upgrade"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];

    fn accept_with(name: &str, value: Option<&'static str>) -> Result<Vec<u8>, HandshakeError> {
        accept_deflating(false, name, value).map(|(response, _)| response)
    }

    fn accept_deflating(
        may_deflate: bool,
        name: &str,
        value: Option<&'static str>,
    ) -> Result<(Vec<u8>, Option<Window>), HandshakeError> {
        accept("GET", may_deflate, |asked| match asked == name {
            true => value,
            false => GOOD.iter().find(|(name, _)| *name == asked).map(|(_, value)| *value),
        })
    }

    #[test]
    fn the_sample_key_of_the_rfc_gets_its_answer() {
        let response = String::from_utf8(accept_with("", None).unwrap()).unwrap();
        assert!(response.starts_with("HTTP/1.1 101 "));
        assert!(response.contains("\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"));
        assert!(response.ends_with("\r\n\r\n"));
    }

    #[test]
    fn each_header_is_needed() {
        for (name, _) in GOOD {
            assert!(accept_with(name, None).is_err(), "without {name}");
        }
        assert!(accept_with("Upgrade", Some("h2c")).is_err());
        assert!(accept_with("Sec-WebSocket-Key", Some("c2hvcnQ=")).is_err());
        assert_eq!(
            accept_with("Sec-WebSocket-Version", Some("8")),
            Err(HandshakeError::UnsupportedVersion)
        );
        assert!(accept("POST", false, |_| None).is_err());
    }

    #[test]
    fn compression_is_agreed_to_where_it_is_offered_and_allowed() {
        let name = "Sec-WebSocket-Extensions";
        let answer = |may_deflate, offer| {
            let (response, window) = accept_deflating(may_deflate, name, offer).unwrap();
            let response = String::from_utf8(response).unwrap();
            assert_eq!(response.contains(name), window.is_some(), "{response}");
            window
        };
        let offer = "permessage-deflate; client_max_window_bits";
        assert_eq!(answer(true, Some(offer)), Some(Window::Large));
        let offer = "permessage-deflate; server_max_window_bits=10";
        assert_eq!(answer(true, Some(offer)), Some(Window::Small));
        assert_eq!(answer(true, None), None);
        assert_eq!(answer(true, Some("unknown")), None);
        assert_eq!(answer(false, Some("permessage-deflate")), None);
    }

    #[test]
    fn tungstenite_accepts_our_answer() {
        use tungstenite::handshake::client::generate_request;
        let request = "ws://localhost/".parse::<tungstenite::http::Uri>().unwrap();
        let request = tungstenite::client::IntoClientRequest::into_client_request(request).unwrap();
        let (bytes, key) = generate_request(request).unwrap();
        let head = String::from_utf8(bytes).unwrap();
        let header = |name: &str| {
            head.lines()
                .filter_map(|line| line.split_once(": "))
                .find(|(found, _)| found.eq_ignore_ascii_case(name))
                .map(|(_, value)| value)
        };
        let (response, _) = accept("GET", false, header).unwrap();
        let response = String::from_utf8(response).unwrap();
        assert!(response.contains(&derive_accept_key(key.as_bytes())));
    }
}
