//! What messages carry: each says what it is and how much there is of it, so whoever reads one sees whether it
//! is what was published.

use data_encoding::BASE64;
use serde_json::{Value, json};

/// What kind of data a message has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// A string.
    #[default]
    Text,
    /// Bytes that are no text.
    Bytes,
    /// An object, which SDKs send as its text.
    Object,
}

/// What bytes are filled with; not UTF-8.
const FILL: u8 = 0xfe;

impl Kind {
    /// A message that carries `tag`, and more of no meaning.
    pub fn message(self, tag: &str, padding: usize) -> Value {
        match self {
            Kind::Text => json!({"data": format!("{tag} {}", "x".repeat(padding))}),
            Kind::Bytes => {
                let mut bytes = format!("{tag} {padding} ").into_bytes();
                bytes.resize(bytes.len() + padding, FILL);
                json!({"data": BASE64.encode(&bytes), "encoding": "base64"})
            }
            Kind::Object => {
                let object = json!({"tag": tag, "padding": padding, "fill": "é".repeat(padding)});
                json!({"data": object.to_string(), "encoding": "json"})
            }
        }
    }
}

/// Has a message say that it is delivered and forgotten.
pub fn make_ephemeral(message: &mut Value) {
    message["extras"] = json!({"ephemeral": true});
}

/// What is appended to a text.
pub fn increment(tag: &str) -> String {
    format!("+{tag}")
}

/// What a message was found to carry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload {
    /// The tag that it began with; none: it is only what was appended.
    pub tag: Option<String>,
    /// What kind it is.
    pub kind: Kind,
    /// Tags that were appended.
    pub appended: Vec<String>,
}

/// What a message carries; `None`: it is not what anybody has published.
pub fn read(message: &Value) -> Option<Payload> {
    let data = message["data"].as_str()?;
    let whole = |tag: &str, kind| Payload { tag: Some(tag.into()), kind, appended: Vec::new() };
    match message["encoding"].as_str() {
        None => {
            let mut parts = data.split('+');
            let first = parts.next()?;
            // Without padding over REST.
            let (tag, padding) = first.split_once(' ').unwrap_or((first, ""));
            padding.bytes().all(|byte| byte == b'x').then(|| Payload {
                tag: Some(tag.to_owned()).filter(|tag| !tag.is_empty()),
                kind: Kind::Text,
                appended: parts.map(str::to_owned).collect(),
            })
        }
        Some("base64") => {
            let bytes = BASE64.decode(data.as_bytes()).ok()?;
            let mut parts = bytes.splitn(3, |&byte| byte == b' ');
            let mut text = || std::str::from_utf8(parts.next()?).ok();
            let (tag, padding) = (text()?.to_owned(), text()?.parse::<usize>().ok()?);
            let fill = parts.next()?;
            let is_whole = fill.len() == padding && fill.iter().all(|&byte| byte == FILL);
            is_whole.then(|| whole(&tag, Kind::Bytes))
        }
        Some("json") => {
            let object: Value = serde_json::from_str(data).ok()?;
            let padding = object["padding"].as_u64()? as usize;
            let is_whole = object["fill"].as_str()? == "é".repeat(padding);
            is_whole.then(|| Some(whole(object["tag"].as_str()?, Kind::Object)))?
        }
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_whole_is_read_and_what_is_not_is_refused() {
        for kind in [Kind::Text, Kind::Bytes, Kind::Object] {
            for padding in [0, 3] {
                let message = kind.message("p1.0", padding);
                let payload = read(&message).expect("whole");
                assert_eq!((payload.tag.as_deref(), payload.kind), (Some("p1.0"), kind));
                assert!(payload.appended.is_empty());
            }
            let mut other = kind.message("p1.0", 3);
            other["encoding"] = "utf-8".into();
            assert_eq!(read(&other), None, "{other}");
        }
        let data = BASE64.encode(b"p1.0 30 \xfe\xfe\xfe");
        assert_eq!(read(&json!({"data": data, "encoding": "base64"})), None);
        let payload = read(&json!({"data": format!("p1.0 xx{}", increment("p2.0"))}));
        assert_eq!(payload.expect("whole").appended, ["p2.0"]);
        let payload = read(&json!({"data": increment("p2.0")})).expect("an increment");
        assert_eq!((payload.tag, payload.appended), (None, vec!["p2.0".to_owned()]));
        assert_eq!(read(&json!({"data": "p1.0 xxy"})), None);
    }
}
