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

/// The tag of a message, and what kind it is; `None`: it is not what anybody has published.
pub fn read(message: &Value) -> Option<(String, Kind)> {
    let data = message["data"].as_str()?;
    match message["encoding"].as_str() {
        None => {
            // Without padding over REST.
            let (tag, padding) = data.split_once(' ').unwrap_or((data, ""));
            padding.bytes().all(|byte| byte == b'x').then(|| (tag.to_owned(), Kind::Text))
        }
        Some("base64") => {
            let bytes = BASE64.decode(data.as_bytes()).ok()?;
            let mut parts = bytes.splitn(3, |&byte| byte == b' ');
            let mut text = || std::str::from_utf8(parts.next()?).ok();
            let (tag, padding) = (text()?.to_owned(), text()?.parse::<usize>().ok()?);
            let fill = parts.next()?;
            let is_whole = fill.len() == padding && fill.iter().all(|&byte| byte == FILL);
            is_whole.then_some((tag, Kind::Bytes))
        }
        Some("json") => {
            let object: Value = serde_json::from_str(data).ok()?;
            let padding = object["padding"].as_u64()? as usize;
            let is_whole = object["fill"].as_str()? == "é".repeat(padding);
            is_whole.then(|| Some((object["tag"].as_str()?.to_owned(), Kind::Object)))?
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
                assert_eq!(read(&message), Some(("p1.0".into(), kind)), "{message}");
            }
            let mut other = kind.message("p1.0", 3);
            other["encoding"] = "utf-8".into();
            assert_eq!(read(&other), None, "{other}");
        }
        let mut short = Kind::Bytes.message("p1.0", 30);
        short["data"] = Kind::Bytes.message("p1.0", 3)["data"].clone();
        assert_eq!(read(&short), Some(("p1.0".into(), Kind::Bytes)));
        short["data"] = BASE64.encode(b"p1.0 30 \xfe\xfe\xfe").into();
        assert_eq!(read(&short), None);
        assert_eq!(read(&json!({"data": "p1.0 xxy"})), None);
    }
}
