//! Messages as the difference to the one before (10).

use serde::de::IgnoredAny;

use super::vcdiff::Encoder;
use super::{Data, Message};

/// What a message is delivered as instead of its payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delta {
    /// Id of the message whose payload it is a difference to.
    pub from: Box<str>,
    /// VCDIFF.
    pub bytes: Vec<u8>,
}

impl Delta {
    /// `message` as the difference to `base`, the message delivered before it; `None` when that would
    /// be no smaller, or when a client could not be sure of having either.
    pub fn between(encoder: &mut Encoder, base: &Message, message: &Message) -> Option<Delta> {
        let delta = encoder.encode(payload(base)?, payload(message)?)?;
        Some(Delta { from: base.id.clone()?, bytes: delta })
    }

    /// The `encoding` of `message` when it is delivered as a delta, without a last `base64`.
    pub(super) fn encoding(message: &Message) -> String {
        // A delta is bytes and gives bytes back: text has to be told to become text again.
        let steps = match (&message.data, message.encoding.as_deref()) {
            (Data::Text(_), Some(encoding)) => [encoding, "utf-8", "vcdiff"].join("/"),
            (Data::Text(_), None) => "utf-8/vcdiff".into(),
            (_, Some(encoding)) => [encoding, "vcdiff"].join("/"),
            (_, None) => "vcdiff".into(),
        };
        debug_assert!(payload(message).is_some());
        steps
    }

    /// The `extras` of `message` when it is delivered as a delta: its own, and where that starts from.
    pub(super) fn extras(&self, message: &Message) -> String {
        let from = serde_json::to_string(&*self.from).expect("strings are always JSON");
        let delta = format!(r#""delta":{{"from":{from},"format":"vcdiff"}}"#);
        let own = message.extras.as_deref().unwrap_or("{}").trim_ascii();
        let own = own.strip_prefix('{').expect("extras are checked to be an object");
        match own.trim_ascii_start() {
            "}" => format!("{{{delta}}}"),
            entries => format!("{{{delta},{entries}"),
        }
    }
}

/// The bytes of a payload that every client keeps as a base: those that come out of decoding without a
/// doubt. Clients keep none of a payload that they fail to decode, as of one they have no key for,
/// and would apply the next delta to something else.
fn payload(message: &Message) -> Option<&[u8]> {
    let is_json = |bytes: &[u8]| serde_json::from_slice::<IgnoredAny>(bytes).is_ok();
    let encoding = message.encoding.as_deref();
    match &message.data {
        Data::Text(text) => match encoding {
            None => Some(text.as_bytes()),
            Some("json") => Some(text.as_bytes()).filter(|bytes| is_json(bytes)),
            Some(_) => None,
        },
        Data::Binary(bytes) => match encoding {
            None => Some(bytes),
            Some("utf-8") => Some(&**bytes).filter(|bytes| std::str::from_utf8(bytes).is_ok()),
            Some("json/utf-8") => Some(&**bytes).filter(|bytes| is_json(bytes)),
            Some(_) => None,
        },
        Data::None | Data::Scalar(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(data: Data, encoding: Option<&str>) -> Message {
        let encoding = encoding.map(Box::from);
        Message { id: Some("c:1:0".into()), data, encoding, ..Message::default() }
    }

    fn text(text: &str, encoding: Option<&str>) -> Message {
        message(Data::Text(text.into()), encoding)
    }

    const LONG: &str = r#"{"a":"the same in both, and long enough","b":1}"#;

    #[test]
    fn a_delta_says_how_to_become_what_the_message_was() {
        let mut encoder = Encoder::default();
        let bytes = |encoding| message(Data::Binary(LONG.as_bytes().into()), encoding);
        for (base, message, encoding) in [
            (text(LONG, None), text(LONG, None), "utf-8/vcdiff"),
            (text(LONG, Some("json")), text(LONG, Some("json")), "json/utf-8/vcdiff"),
            (bytes(None), bytes(None), "vcdiff"),
            (bytes(None), bytes(Some("utf-8")), "utf-8/vcdiff"),
            // What the base was decoded to does not matter, only its bytes do.
            (text(LONG, None), bytes(Some("json/utf-8")), "json/utf-8/vcdiff"),
        ] {
            let delta = Delta::between(&mut encoder, &base, &message).expect("the same bytes");
            assert_eq!(&*delta.from, "c:1:0");
            assert_eq!(Delta::encoding(&message), encoding);
        }
    }

    #[test]
    fn what_a_client_may_fail_to_decode_is_neither_base_nor_delta() {
        let mut encoder = Encoder::default();
        let good = text(LONG, None);
        let binary = |encoding| message(Data::Binary(LONG.as_bytes().into()), Some(encoding));
        let broken =
            message(Data::Binary([LONG.as_bytes(), b"\xff"].concat().into()), Some("utf-8"));
        for odd in [
            text(&LONG[1..], Some("json")),
            text(LONG, Some("utf-8")),
            text(LONG, Some("base64")),
            text(LONG, Some("utf-8/vcdiff")),
            binary("cipher+aes-256-cbc"),
            binary("vcdiff"),
            broken,
            message(Data::Scalar("1".into()), None),
            message(Data::None, None),
        ] {
            assert_eq!(Delta::between(&mut encoder, &good, &odd), None, "{odd:?}");
            assert_eq!(Delta::between(&mut encoder, &odd, &good), None, "{odd:?}");
        }
    }

    #[test]
    fn where_a_delta_starts_from_joins_the_messages_own_extras() {
        let delta = Delta { from: "a\"b:0".into(), bytes: Vec::new() };
        let with = |extras: Option<&str>| {
            delta.extras(&Message { extras: extras.map(Box::from), ..Message::default() })
        };
        let alone = r#"{"delta":{"from":"a\"b:0","format":"vcdiff"}}"#;
        assert_eq!(with(None), alone);
        assert_eq!(with(Some("{}")), alone);
        assert_eq!(with(Some(" { } ")), alone);
        assert_eq!(
            with(Some(r#"{ "headers":{"n":1} }"#)),
            r#"{"delta":{"from":"a\"b:0","format":"vcdiff"},"headers":{"n":1} }"#
        );
    }
}
