//! JSON values in place. `serde_json` decides once what is JSON; after that a value's end is found by
//! its brackets and quotes alone, so that text is passed on exactly as it was sent.

use std::borrow::Cow;

use memchr::{memchr, memchr2};
use serde::Deserializer;
use serde::de::{self, Visitor};
use serde_json::value::RawValue;

use super::primitives;
use super::value::{DEPTH_MAX, DecodeError, Node, Value, integral};

/// The text of one JSON value, without white space around it.
#[derive(Clone, Copy, Debug)]
pub(super) struct JsonValue<'a>(&'a str);

impl<'a> JsonValue<'a> {
    pub(super) fn parse(payload: &'a [u8]) -> Result<JsonValue<'a>, DecodeError> {
        let raw: &RawValue = serde_json::from_slice(payload).map_err(|_| DecodeError::Malformed)?;
        let (_, depth) = value_extent(raw.get());
        if depth > DEPTH_MAX {
            return Err(DecodeError::TooDeep);
        }
        Ok(JsonValue(raw.get()))
    }

    /// A value whose text was written by [`Value::write_json`].
    pub(super) fn of_validated(text: &'a str) -> JsonValue<'a> {
        JsonValue(text)
    }

    /// Appends the value as MessagePack. Integers that need more than 64 bits become floats.
    pub(super) fn write_msgpack(self, out: &mut Vec<u8>) {
        match self.node() {
            Node::Null | Node::Ext => primitives::write_nil(out),
            Node::Bool(value) => primitives::write_bool(out, value),
            Node::Number => {
                if let Ok(value) = self.0.parse::<u64>() {
                    primitives::write_uint(out, value);
                } else if let Ok(value) = self.0.parse::<i64>() {
                    primitives::write_int(out, value);
                } else {
                    primitives::write_float(out, self.0.parse().unwrap_or(f64::NAN));
                }
            }
            Node::Str(text) => primitives::write_str(out, &text),
            Node::Bin(bytes) => primitives::write_bin(out, bytes),
            Node::Array => {
                primitives::write_array_len(out, self.items().count());
                self.items().for_each(|item| item.write_msgpack(out));
            }
            Node::Map => {
                primitives::write_map_len(out, self.entries().count());
                for (key, value) in self.entries() {
                    primitives::write_str(out, &key);
                    value.write_msgpack(out);
                }
            }
        }
    }

    /// What follows `bracket`, the opening one; empty if the value has another.
    fn inside(self, bracket: char) -> &'a str {
        self.0.strip_prefix(bracket).unwrap_or("").trim_ascii_start()
    }
}

impl<'a> Value<'a> for JsonValue<'a> {
    fn node(self) -> Node<'a> {
        match self.0.as_bytes().first() {
            Some(b'"') => Node::Str(unescape(self.0)),
            Some(b'{') => Node::Map,
            Some(b'[') => Node::Array,
            Some(b't') => Node::Bool(true),
            Some(b'f') => Node::Bool(false),
            Some(b'-' | b'0'..=b'9') => Node::Number,
            _ => Node::Null,
        }
    }

    fn uint(self) -> Option<u64> {
        match self.node() {
            Node::Number => self.0.parse().ok().or_else(|| self.0.parse().ok().and_then(integral)),
            _ => None,
        }
    }

    fn items(self) -> impl Iterator<Item = JsonValue<'a>> {
        Values { rest: self.inside('[') }
    }

    fn entries(self) -> impl Iterator<Item = (Cow<'a, str>, JsonValue<'a>)> {
        let mut values = Values { rest: self.inside('{') };
        std::iter::from_fn(move || {
            let key = values.next()?;
            Some((unescape(key.0), values.next()?))
        })
    }

    fn write_json(self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.0.as_bytes());
    }
}

/// The values inside brackets, keys counted as values.
struct Values<'a> {
    rest: &'a str,
}

impl<'a> Iterator for Values<'a> {
    type Item = JsonValue<'a>;

    fn next(&mut self) -> Option<JsonValue<'a>> {
        if self.rest.is_empty() || self.rest.starts_with([']', '}']) {
            return None;
        }
        let (value, rest) = self.rest.split_at(value_extent(self.rest).0);
        let rest = rest.trim_ascii_start();
        self.rest = rest.strip_prefix([',', ':']).unwrap_or(rest).trim_ascii_start();
        Some(JsonValue(value))
    }
}

/// Length in bytes and depth of the value that valid JSON `text` starts with.
fn value_extent(text: &str) -> (usize, usize) {
    let bytes = text.as_bytes();
    let (mut at, mut depth, mut depth_max) = (0, 0usize, 0);
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'"' => at += string_len(&bytes[at..]),
            b'{' | b'[' => {
                depth += 1;
                depth_max = depth_max.max(depth);
                at += 1;
            }
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                at += 1;
            }
            _ if depth > 0 => {
                at += 1;
                continue;
            }
            // A number, `true`, `false` or `null`: to the next delimiter.
            _ => {
                let scalar =
                    |byte: &&u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
                at += bytes[at..].iter().take_while(scalar).count();
                return (at, depth_max);
            }
        }
        if depth == 0 {
            break;
        }
    }
    (at.min(bytes.len()), depth_max)
}

/// Length of the quoted string that `bytes` starts with.
fn string_len(bytes: &[u8]) -> usize {
    let mut at = 1;
    while let Some(found) = bytes.get(at..).and_then(|rest| memchr2(b'"', b'\\', rest)) {
        at += found;
        if bytes[at] == b'"' {
            return at + 1;
        }
        at += 2;
    }
    bytes.len()
}

/// The value of a quoted string. A lone surrogate, which UTF-8 cannot hold, is replaced.
fn unescape(quoted: &str) -> Cow<'_, str> {
    let inner = quoted.get(1..quoted.len().saturating_sub(1)).unwrap_or("");
    if memchr(b'\\', inner.as_bytes()).is_none() {
        return Cow::Borrowed(inner);
    }
    struct Lossy;
    impl Visitor<'_> for Lossy {
        type Value = String;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a string")
        }

        fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<String, E> {
            Ok(String::from_utf8_lossy(bytes).into_owned())
        }
    }
    // Asked for bytes, serde_json lets lone surrogates through.
    let unescaped = serde_json::Deserializer::from_str(quoted).deserialize_bytes(Lossy);
    unescaped.map_or(Cow::Borrowed(inner), Cow::Owned)
}
