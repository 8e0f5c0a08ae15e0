//! Both formats of the wire, as a client reads and writes them. What a client handles is JSON in either case:
//! bytes are base64 there, and say so in their encoding, which is what JSON clients are sent for the same
//! message. So the two can be compared.

use data_encoding::BASE64;
use serde_json::{Map, Value};

use super::frame;

/// The transformation that bytes need on JSON.
const BASE64_STEP: &str = "base64";

/// How a client speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wire {
    /// JSON in text frames.
    #[default]
    Json,
    /// MessagePack in binary frames.
    MsgPack,
}

impl Wire {
    /// What its frames and bodies are called in a header.
    pub fn media_type(self) -> &'static str {
        match self {
            Wire::Json => "application/json",
            Wire::MsgPack => "application/x-msgpack",
        }
    }

    /// The opcode of its frames.
    pub fn opcode(self) -> u8 {
        match self {
            Wire::Json => frame::TEXT,
            Wire::MsgPack => frame::BINARY,
        }
    }

    /// The bytes that say `value`.
    pub fn encode(self, value: &Value) -> Vec<u8> {
        match self {
            Wire::Json => value.to_string().into_bytes(),
            Wire::MsgPack => {
                let mut bytes = Vec::new();
                rmpv::encode::write_value(&mut bytes, &packed(value)).expect("a Vec takes all");
                bytes
            }
        }
    }

    /// What `bytes` say.
    ///
    /// # Errors
    /// They are not one whole value, or not one that a client would know what to do with.
    pub fn decode(self, mut bytes: &[u8]) -> Result<Value, String> {
        match self {
            Wire::Json => serde_json::from_slice(bytes).map_err(|error| error.to_string()),
            Wire::MsgPack => {
                let value =
                    rmpv::decode::read_value(&mut bytes).map_err(|error| error.to_string())?;
                match bytes {
                    [] => unpacked(value),
                    rest => Err(format!("{} bytes behind the value", rest.len())),
                }
            }
        }
    }
}

/// The encoding without the step that only JSON needs; `None`: it does not end with that.
fn without_base64(encoding: &str) -> Option<&str> {
    let rest = encoding.strip_suffix(BASE64_STEP)?;
    if rest.is_empty() { Some("") } else { rest.strip_suffix('/') }
}

fn packed(value: &Value) -> rmpv::Value {
    match value {
        Value::Null => rmpv::Value::Nil,
        Value::Bool(value) => (*value).into(),
        Value::Number(number) => match (number.as_u64(), number.as_i64()) {
            (Some(number), _) => number.into(),
            (None, Some(number)) => number.into(),
            (None, None) => number.as_f64().unwrap_or_default().into(),
        },
        Value::String(text) => text.as_str().into(),
        Value::Array(items) => rmpv::Value::Array(items.iter().map(packed).collect()),
        Value::Object(entries) => packed_map(entries),
    }
}

fn packed_map(entries: &Map<String, Value>) -> rmpv::Value {
    let encoding = entries.get("encoding").and_then(Value::as_str).and_then(without_base64);
    let data = entries.get("data").and_then(Value::as_str).filter(|_| encoding.is_some());
    let data = data.and_then(|data| BASE64.decode(data.as_bytes()).ok());
    let mut packed_entries: Vec<(rmpv::Value, rmpv::Value)> = Vec::new();
    for (name, value) in entries {
        let value = match (name.as_str(), &data, encoding) {
            ("data", Some(bytes), _) => rmpv::Value::Binary(bytes.clone()),
            ("encoding", Some(_), Some("")) => continue,
            ("encoding", Some(_), Some(rest)) => rest.into(),
            _ => packed(value),
        };
        packed_entries.push((name.as_str().into(), value));
    }
    rmpv::Value::Map(packed_entries)
}

fn unpacked(value: rmpv::Value) -> Result<Value, String> {
    Ok(match value {
        rmpv::Value::Nil => Value::Null,
        rmpv::Value::Boolean(value) => value.into(),
        rmpv::Value::Integer(number) => match (number.as_u64(), number.as_i64()) {
            (Some(number), _) => number.into(),
            (None, Some(number)) => number.into(),
            (None, None) => return Err(format!("the integer {number}")),
        },
        rmpv::Value::F32(number) => number.into(),
        rmpv::Value::F64(number) => number.into(),
        rmpv::Value::String(text) => match text.into_str() {
            Some(text) => text.into(),
            None => return Err("a string that is not UTF-8".into()),
        },
        rmpv::Value::Array(items) => {
            Value::Array(items.into_iter().map(unpacked).collect::<Result<_, _>>()?)
        }
        rmpv::Value::Map(entries) => unpacked_map(entries)?,
        other @ (rmpv::Value::Binary(_) | rmpv::Value::Ext(..)) => {
            return Err(format!("{other} where no bytes belong"));
        }
    })
}

fn unpacked_map(entries: Vec<(rmpv::Value, rmpv::Value)>) -> Result<Value, String> {
    let mut map = Map::new();
    let mut has_bytes = false;
    for (name, value) in entries {
        let Some(name) = name.as_str() else { return Err(format!("the key {name}")) };
        let value = match value {
            rmpv::Value::Binary(bytes) if name == "data" => {
                has_bytes = true;
                BASE64.encode(&bytes).into()
            }
            value => unpacked(value)?,
        };
        if map.insert(name.to_owned(), value).is_some() {
            return Err(format!("{name} twice"));
        }
    }
    let encoding = map.get("encoding").and_then(Value::as_str).unwrap_or_default();
    if without_base64(encoding).is_some() {
        return Err(format!("the encoding {encoding}, which is for JSON alone"));
    }
    if has_bytes {
        let encoding = match encoding {
            "" => BASE64_STEP.to_owned(),
            encoding => format!("{encoding}/{BASE64_STEP}"),
        };
        map.insert("encoding".into(), encoding.into());
    }
    Ok(Value::Object(map))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn bytes_are_bytes_in_one_format_and_base64_in_the_other() {
        let value = json!({
            "action": 15, "msgSerial": 0, "messages": [
                {"data": "aGk=", "encoding": "base64"},
                {"data": "aGk=", "encoding": "utf-8/base64", "id": "x"},
                {"data": "aGk=", "encoding": "json"},
            ],
        });
        for wire in [Wire::Json, Wire::MsgPack] {
            assert_eq!(wire.decode(&wire.encode(&value)), Ok(value.clone()), "{wire:?}");
        }
        let bytes = Wire::MsgPack.encode(&json!({"data": "aGk=", "encoding": "base64"}));
        assert_eq!(bytes, b"\x81\xa4data\xc4\x02hi");
    }

    #[test]
    fn what_belongs_to_the_other_format_is_refused() {
        assert!(Wire::MsgPack.decode(b"\x81\xa8encoding\xa6base64").is_err());
        assert!(Wire::MsgPack.decode(b"\x81\xa4name\xc4\x02hi").is_err());
        assert!(Wire::MsgPack.decode(b"\x81\xa4name\xa2hi\xc0").is_err());
        assert!(Wire::Json.decode(b"\x81\xa4name\xa2hi").is_err());
    }
}
