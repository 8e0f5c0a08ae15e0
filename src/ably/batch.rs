//! Many channels in one request (13.8): what is asked, and the two shapes of what comes of it.

use super::inbound::read_drafts;
use super::json::JsonValue;
use super::msgpack::MsgPackValue;
use super::outbound::write_serials;
use super::presence::write_member;
use super::value::{Node, Value};
use super::writer::{MapWriter, write_array, write_map};
use super::{Draft, ErrorCode, ErrorInfo, Format, MembersPage, PublishResult};

/// Most channels that one batch may name, each counted once.
pub const BATCH_CHANNELS_MAX: usize = 100;

/// Most publishes, of one spec on one channel each, that one batch may come to.
pub const BATCH_PUBLISHES_MAX: usize = 1000;

/// The same messages for several channels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchSpec {
    /// Their names, as they were written.
    pub channels: Vec<Box<str>>,
    /// What to publish on each; `None` where an element was no object.
    pub drafts: Option<Vec<Draft>>,
}

/// Reads the body of a batch publish: one spec or an array.
///
/// # Errors
/// 40001: not one value of the format, or not specs. 40000: a spec without channels. 90010: more
/// channels or publishes than allowed.
pub fn decode_batch(format: Format, body: &[u8]) -> Result<Vec<BatchSpec>, ErrorInfo> {
    let specs = match format {
        Format::Json => JsonValue::parse(body).map(read_specs),
        Format::MsgPack => MsgPackValue::parse(body).map(read_specs),
    };
    let invalid = || {
        let text = "the body is no batch: {channels, messages} or an array of them";
        ErrorInfo::new(ErrorCode::INVALID_BODY, text)
    };
    let specs = specs.ok().flatten().ok_or_else(invalid)?;
    if specs.is_empty() || specs.iter().any(|spec| spec.channels.is_empty()) {
        let text = "a batch names at least one channel in each of its specs";
        return Err(ErrorInfo::new(ErrorCode::BAD_REQUEST, text));
    }
    let mut channels: Vec<&str> =
        specs.iter().flat_map(|spec| &spec.channels).map(|name| &**name).collect();
    let publishes = channels.len();
    channels.sort_unstable();
    channels.dedup();
    if channels.len() > BATCH_CHANNELS_MAX || publishes > BATCH_PUBLISHES_MAX {
        let text = "more than 100 channels, or 1000 publishes, in one batch";
        return Err(ErrorInfo::new(ErrorCode::TOO_MANY_CHANNELS, text));
    }
    Ok(specs)
}

fn read_specs<'a>(value: impl Value<'a>) -> Option<Vec<BatchSpec>> {
    match value.node() {
        Node::Map => read_spec(value).map(|spec| vec![spec]),
        // Each spec has a publish at least, so of too many just enough are read for that to show.
        Node::Array => value.items().take(BATCH_PUBLISHES_MAX + 1).map(read_spec).collect(),
        _ => None,
    }
}

fn read_spec<'a>(value: impl Value<'a>) -> Option<BatchSpec> {
    if value.node() != Node::Map {
        return None;
    }
    let (mut channels, mut drafts) = (None, Some(Vec::new()));
    for (key, value) in value.entries() {
        match &*key {
            "channels" | "channel" => channels = read_names(value),
            "messages" => drafts = read_drafts(value),
            _ => {}
        }
    }
    channels.map(|channels| BatchSpec { channels, drafts })
}

fn read_names<'a>(value: impl Value<'a>) -> Option<Vec<Box<str>>> {
    match value.node() {
        Node::Str(name) => Some(vec![name.into()]),
        Node::Array => value
            .items()
            .take(BATCH_PUBLISHES_MAX + 1)
            .map(|item| item.str().map(Box::from))
            .collect(),
        _ => None,
    }
}

/// What a batch did on one channel, or why it did not.
pub type BatchItem<T> = (Box<str>, Result<T, ErrorInfo>);

/// The body for a batch publish since protocol version 3: for each spec how its channels fared.
pub fn encode_batch_publish(format: Format, specs: &[Vec<BatchItem<PublishResult>>]) -> Vec<u8> {
    let mut out = Vec::new();
    write_array(format, &mut out, specs.iter(), |items, out| {
        write_map(format, out, |map| {
            write_counts(map, items);
            map.array("results", items.iter(), |item, out| {
                write_item(format, out, item, |map, result| {
                    map.str("messageId", &result.message_id);
                    write_serials(map, format, result);
                });
            });
        });
    });
    out
}

/// The body for a batch publish before protocol version 3, in which all specs are one list, and
/// whether something in it has failed.
pub fn encode_legacy_batch_publish(
    format: Format,
    specs: &[Vec<BatchItem<PublishResult>>],
) -> (Vec<u8>, Option<ErrorInfo>) {
    let items: Vec<_> = specs.iter().flatten().collect();
    encode_legacy(format, &items, |map, result| map.str("messageId", &result.message_id))
}

/// The body for a batch presence since protocol version 3.
pub fn encode_batch_presence(format: Format, items: &[BatchItem<MembersPage>]) -> Vec<u8> {
    let mut out = Vec::new();
    write_map(format, &mut out, |map| {
        write_counts(map, items);
        map.array("results", items.iter(), |item, out| {
            write_item(format, out, item, |map, page| write_members(map, format, page));
        });
    });
    out
}

/// The body for a batch presence before protocol version 3, and whether something in it has failed.
pub fn encode_legacy_batch_presence(
    format: Format,
    items: &[BatchItem<MembersPage>],
) -> (Vec<u8>, Option<ErrorInfo>) {
    let items: Vec<_> = items.iter().collect();
    encode_legacy(format, &items, |map, page| write_members(map, format, page))
}

fn write_members(map: &mut MapWriter<'_>, format: Format, page: &MembersPage) {
    map.array("presence", page.members.iter(), |member, out| write_member(format, member, out));
}

/// A list of `items`; with an error around it if one of them has failed.
fn encode_legacy<T>(
    format: Format,
    items: &[&BatchItem<T>],
    mut write: impl FnMut(&mut MapWriter<'_>, &T),
) -> (Vec<u8>, Option<ErrorInfo>) {
    let mut out = Vec::new();
    let mut write = |item: &&BatchItem<T>, out: &mut Vec<u8>| {
        write_item(format, out, item, &mut write);
    };
    if items.iter().all(|(_, result)| result.is_ok()) {
        write_array(format, &mut out, items.iter(), write);
        return (out, None);
    }
    let text = "the batch failed on some of its channels";
    let error = ErrorInfo::new(ErrorCode::BATCH_FAILED, text);
    write_map(format, &mut out, |map| {
        map.map("error", |map| error.write(map));
        map.array("batchResponse", items.iter(), &mut write);
    });
    (out, Some(error))
}

fn write_counts<T>(map: &mut MapWriter<'_>, items: &[BatchItem<T>]) {
    let failed = items.iter().filter(|(_, result)| result.is_err()).count();
    map.uint("successCount", (items.len() - failed) as u64);
    map.uint("failureCount", failed as u64);
}

fn write_item<T>(
    format: Format,
    out: &mut Vec<u8>,
    (channel, result): &BatchItem<T>,
    write: impl FnOnce(&mut MapWriter<'_>, &T),
) {
    write_map(format, out, |map| {
        map.str("channel", channel);
        match result {
            Ok(result) => write(map, result),
            Err(error) => map.map("error", |map| error.write(map)),
        }
    });
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn decode(body: &str) -> Result<Vec<BatchSpec>, u32> {
        decode_batch(Format::Json, body.as_bytes()).map_err(|error| error.code.0)
    }

    fn channels(spec: &BatchSpec) -> Vec<&str> {
        spec.channels.iter().map(|name| &**name).collect()
    }

    #[test]
    fn a_spec_or_an_array_of_specs_is_a_batch() {
        let one = decode(r#"{"channels":"a","messages":{"data":"x"}}"#).expect("a spec");
        assert_eq!((one.len(), channels(&one[0])), (1, vec!["a"]));
        assert_eq!(one[0].drafts.as_ref().map(Vec::len), Some(1));
        let body =
            r#"[{"channels":["a","b"],"messages":[{},{}]},{"channels":["c"],"messages":[1]}]"#;
        let two = decode(body).expect("specs");
        assert_eq!((two.len(), channels(&two[0])), (2, vec!["a", "b"]));
        assert_eq!(two[0].drafts.as_ref().map(Vec::len), Some(2));
        assert_eq!(two[1].drafts, None, "an element is no object");
    }

    #[test]
    fn what_is_no_batch_is_refused() {
        for body in ["", "{", "1", "[1]", "{}", r#"{"channels":[1]}"#, r#"{"channels":{}}"#] {
            assert_eq!(decode(body), Err(40001), "{body}");
        }
        for body in ["[]", r#"{"channels":[],"messages":{}}"#] {
            assert_eq!(decode(body), Err(40000), "{body}");
        }
    }

    #[test]
    fn channels_are_counted_once_and_bounded() {
        let spec = |names: &[String]| json!({ "channels": names, "messages": {} });
        let names: Vec<String> = (0..101).map(|index| format!("c{index}")).collect();
        assert!(decode(&spec(&names[..100]).to_string()).is_ok());
        assert_eq!(decode(&spec(&names).to_string()), Err(90010));
        let repeated = json!([spec(&names[..100]), spec(&names[..100])]);
        assert!(decode(&repeated.to_string()).is_ok());
        let many: Vec<Value> = (0..11).map(|_| spec(&names[..100])).collect();
        assert_eq!(decode(&json!(many).to_string()), Err(90010));
    }

    #[test]
    fn results_have_the_shape_of_their_protocol_version() {
        let published =
            PublishResult { message_id: "id".into(), serials: vec![Some("s:000".into()), None] };
        let denied = ErrorInfo::new(ErrorCode::CAPABILITY_DENIED, "no");
        let specs = [
            vec![("a".into(), Ok(published.clone())), ("b".into(), Err(denied))],
            vec![("c".into(), Ok(published))],
        ];
        let parse = |body: &[u8]| serde_json::from_slice::<Value>(body).expect("JSON");
        let body = parse(&encode_batch_publish(Format::Json, &specs));
        assert_eq!((&body[0]["successCount"], &body[0]["failureCount"]), (&json!(1), &json!(1)));
        let first = json!({"channel": "a", "messageId": "id", "serials": ["s:000", null]});
        assert_eq!(body[0]["results"][0], first);
        assert_eq!(body[0]["results"][1]["error"]["code"], 40160);
        assert_eq!(body[1]["results"].as_array().map(Vec::len), Some(1));

        let (body, error) = encode_legacy_batch_publish(Format::Json, &specs);
        assert_eq!(error.map(|error| (error.code.0, error.status)), Some((40020, 400)));
        let body = parse(&body);
        assert_eq!(body["error"]["code"], 40020);
        assert_eq!(body["batchResponse"][0], json!({"channel": "a", "messageId": "id"}));
        assert_eq!(body["batchResponse"][1]["error"]["code"], 40160);
        let (body, error) = encode_legacy_batch_publish(Format::Json, &specs[1..]);
        assert_eq!(error, None);
        assert_eq!(parse(&body), json!([{"channel": "c", "messageId": "id"}]));
    }
}
