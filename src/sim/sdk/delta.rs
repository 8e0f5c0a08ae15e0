//! Deltas, as a client makes messages of them again (10).

use data_encoding::BASE64;
use serde_json::Value;

use crate::ably::vcdiff::decoder;

/// The message that came before.
#[derive(Debug)]
pub(super) struct Base {
    id: String,
    payload: Vec<u8>,
}

/// Whether a protocol message begins with a delta, so that what came before it is needed.
pub(super) fn starts_from_another(message: &Value) -> bool {
    message["messages"][0]["extras"]["delta"].is_object()
}

/// `message` in full, which is the base of the next one; and whether it was a delta.
///
/// # Errors
/// A client could not decode it.
pub(super) fn whole(base: &mut Option<Base>, message: &Value) -> Result<(Value, bool), String> {
    let before = base.take();
    let mut steps: Vec<&str> =
        message["encoding"].as_str().unwrap_or_default().split('/').collect();
    let data = message["data"].as_str().unwrap_or_default();
    let has_bytes = steps.pop_if(|step| *step == "base64").is_some();
    let data = match has_bytes {
        true => BASE64.decode(data.as_bytes()).map_err(|error| error.to_string())?,
        false => data.as_bytes().to_vec(),
    };
    let is_delta = steps.pop_if(|step| *step == "vcdiff").is_some();
    let delta = &message["extras"]["delta"];
    if is_delta != delta.is_object() {
        return Err("extras and encoding do not agree whether it is one".into());
    }
    let mut message = message.clone();
    let mut payload = data;
    if is_delta {
        let Some(before) = before else { return Err("nothing has come before it".into()) };
        if delta["from"] != before.id {
            return Err(format!("it starts from {}, not {}", delta["from"], before.id));
        }
        let decoded = decoder::decode(&before.payload, &payload);
        payload = decoded.ok_or_else(|| "it does not decode".to_owned())?;
        let is_text = steps.pop_if(|step| *step == "utf-8").is_some();
        message["data"] = match is_text {
            true => String::from_utf8(payload.clone()).map_err(|error| error.to_string())?.into(),
            false => BASE64.encode(&payload).into(),
        };
        steps.retain(|step| !step.is_empty());
        steps.extend((!is_text).then_some("base64"));
        message["encoding"] = match steps.join("/") {
            none if none.is_empty() => Value::Null,
            encoding => encoding.into(),
        };
        message["extras"] = Value::Null;
    }
    let id = message["id"].as_str().unwrap_or_default().to_owned();
    *base = Some(Base { id, payload });
    Ok((message, is_delta))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::ably::vcdiff::Encoder;

    #[test]
    fn a_delta_is_what_it_was_made_of_or_an_error() {
        let text = |last: &str| format!("{}{last}", "some words that stay ".repeat(5));
        let full = json!({"id": "a:0", "data": text("one")});
        let delta = Encoder::default().encode(text("one").as_bytes(), text("two").as_bytes());
        let delta = BASE64.encode(&delta.expect("smaller"));
        let extras = json!({"delta": {"from": "a:0", "format": "vcdiff"}});
        let second = json!({
            "id": "b:0", "data": delta, "encoding": "utf-8/vcdiff/base64", "extras": extras,
        });
        assert!(whole(&mut None, &second).is_err());
        let mut base = None;
        assert!(!whole(&mut base, &full).expect("full").1);
        let (message, is_delta) = whole(&mut base, &second).expect("decodes");
        assert!(is_delta);
        assert_eq!((&message["data"], &message["encoding"]), (&json!(text("two")), &Value::Null));
        // That is the base now, and no longer what came before.
        assert!(whole(&mut base, &second).is_err());
    }
}
