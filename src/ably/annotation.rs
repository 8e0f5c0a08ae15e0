//! Annotations of messages (9): what clients may say, and how it is delivered.

use std::borrow::Cow;
use std::sync::Arc;

use super::checks::{CHOSEN_ID_BYTES_MAX, check_encoding, check_ids};
use super::error::refuse;
use super::extras::check_extras;
use super::message::{stored, write_data};
use super::revision::{no_such_message, not_mutable};
use super::value::{Field, Node, Value};
use super::writer::{MapWriter, write_array, write_map};
use super::{
    Action, ChannelSerial, Data, ErrorCode, ErrorInfo, Format, Identity, MESSAGES_MAX, Operation,
    Position, PublishResult, Publisher,
};

/// Bytes of an annotation's type, and of its name: each is repeated in every summary of its message.
const NAME_BYTES_MAX: usize = 256;

/// Largest count that one annotation may add.
const COUNT_MAX: u64 = u32::MAX as u64;

/// An annotation as a client sent it: decoded, not checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AnnotationDraft {
    /// Client-chosen id.
    pub id: Option<Field>,
    /// 0 or absent: create, 1: delete.
    pub action: u64,
    /// The message to annotate.
    pub message_serial: Option<Field>,
    /// What it is, and how it adds up.
    pub kind: Option<Field>,
    /// What it says.
    pub name: Option<Field>,
    /// How often it says so; `u64::MAX` for what is no integer from 0.
    pub count: Option<u64>,
    /// Claimed clientId.
    pub client_id: Option<Field>,
    /// The payload in stored form.
    pub data: Data,
    /// Its encoding in stored form.
    pub encoding: Option<Box<str>>,
    /// Whether `encoding` was something other than a string.
    pub has_bad_encoding: bool,
    /// JSON text of whatever value it was.
    pub extras: Option<Box<str>>,
}

impl AnnotationDraft {
    fn read<'a>(annotation: impl Value<'a>) -> AnnotationDraft {
        let mut draft = AnnotationDraft::default();
        let mut data = None;
        let mut encoding: Option<Cow<'_, str>> = None;
        for (key, value) in annotation.entries() {
            if value.node() == Node::Null {
                continue;
            }
            match &*key {
                "id" => draft.id = Field::read(value),
                "action" => draft.action = value.uint().unwrap_or(u64::MAX),
                "messageSerial" => draft.message_serial = Field::read(value),
                "type" => draft.kind = Field::read(value),
                "name" => draft.name = Field::read(value),
                "count" => draft.count = Some(value.uint().unwrap_or(u64::MAX)),
                "clientId" => draft.client_id = Field::read(value),
                "data" => data = Some(value),
                "encoding" => {
                    encoding = value.str();
                    draft.has_bad_encoding = encoding.is_none();
                }
                "extras" => draft.extras = Some(value.to_json()),
                _ => {}
            }
        }
        if let Some(data) = data {
            (draft.data, draft.encoding) = stored(data, encoding.as_deref());
        }
        draft
    }
}

/// Reads one annotation or an array of them; `None` where an element is no object. Of too many just
/// enough are read to see that.
pub(super) fn read_annotation_drafts<'a>(value: impl Value<'a>) -> Option<Vec<AnnotationDraft>> {
    match value.node() {
        Node::Map => Some(vec![AnnotationDraft::read(value)]),
        Node::Array => value
            .items()
            .take(MESSAGES_MAX + 1)
            .map(|item| (item.node() == Node::Map).then(|| AnnotationDraft::read(item)))
            .collect(),
        _ => None,
    }
}

/// How annotations of one type add up: the end of the type says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aggregation {
    /// Their number.
    Total,
    /// Clients, each once.
    Flag,
    /// Clients by name; a client may be under many.
    Distinct,
    /// Clients by name; a client is under one.
    Unique,
    /// Counts by name and client.
    Multiple,
}

impl Aggregation {
    /// How annotations of the type `kind` add up; `None`: they do not.
    pub fn of(kind: &str) -> Option<Aggregation> {
        match kind.rsplit_once(':')?.1 {
            "total.v1" => Some(Aggregation::Total),
            "flag.v1" => Some(Aggregation::Flag),
            "distinct.v1" => Some(Aggregation::Distinct),
            "unique.v1" => Some(Aggregation::Unique),
            "multiple.v1" => Some(Aggregation::Multiple),
            _ => None,
        }
    }

    /// Whether it counts clients, so that anonymous ones cannot take part.
    pub fn is_for_identified(self) -> bool {
        match self {
            Aggregation::Flag | Aggregation::Distinct | Aggregation::Unique => true,
            Aggregation::Total | Aggregation::Multiple => false,
        }
    }

    /// Whether annotations are told apart by their names.
    pub fn is_by_name(self) -> bool {
        match self {
            Aggregation::Distinct | Aggregation::Unique | Aggregation::Multiple => true,
            Aggregation::Total | Aggregation::Flag => false,
        }
    }
}

/// What an annotation does (TAN2b).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnnotationAction {
    /// Adds to the message's summary.
    Create = 0,
    /// Takes from it what the same client has added.
    Delete = 1,
}

/// One annotation (TAN2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Annotation {
    /// Unique.
    pub id: Option<Box<str>>,
    /// What it does.
    pub action: AnnotationAction,
    /// The message that it annotates.
    pub message: Position,
    /// `<namespace>:<aggregation>`, or anything that does not add up.
    pub kind: Box<str>,
    /// What it says.
    pub name: Option<Box<str>>,
    /// How often it says so.
    pub count: Option<u64>,
    /// Who says so; checked.
    pub client_id: Option<Box<str>>,
    /// A payload that is not summarised, in the form that `encoding` tells.
    pub data: Data,
    /// Transformations that the payload has been through, without a last `base64`.
    pub encoding: Option<Box<str>>,
    /// JSON text of an object.
    pub extras: Option<Box<str>>,
}

impl Annotation {
    /// Bytes as the size limit counts them.
    pub fn size_bytes(&self) -> u64 {
        let text = |text: &Option<Box<str>>| text.as_deref().map_or(0, str::len) as u64;
        let texts = [&self.name, &self.client_id, &self.extras];
        self.kind.len() as u64 + texts.map(text).iter().sum::<u64>() + self.data.size_bytes()
    }
}

/// Annotations that were checked and wait for their place in the channel's order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Annotations {
    id: Box<str>,
    connection_id: Option<Box<str>>,
    annotations: Vec<Annotation>,
    has_chosen_id: bool,
}

impl Annotations {
    /// The id that the client chose, under which a repetition is recognised (RSAN1c4).
    pub fn chosen_id(&self) -> Option<&str> {
        self.has_chosen_id.then(|| self.annotations[0].id.as_deref().expect("every one has one"))
    }

    /// Whether a connection published them.
    pub fn is_from_connection(&self) -> bool {
        self.connection_id.is_some()
    }

    /// Each of them; at least one.
    pub fn iter(&self) -> impl Iterator<Item = &Annotation> {
        self.annotations.iter()
    }

    /// Gives them their place.
    pub fn into_publication(
        self,
        channel_serial: ChannelSerial,
        timestamp_ms: u64,
    ) -> AnnotationsPublication {
        let Annotations { id, connection_id, annotations, .. } = self;
        AnnotationsPublication { channel_serial, id, connection_id, timestamp_ms, annotations }
    }
}

/// Annotations in their channel's order; delivered as one protocol message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnnotationsPublication {
    /// Their place in the order.
    pub channel_serial: ChannelSerial,
    /// Id of the protocol message.
    pub id: Box<str>,
    /// Of the publishing connection; none over REST.
    pub connection_id: Option<Box<str>>,
    /// When they were accepted, in milliseconds since the Unix epoch.
    pub timestamp_ms: u64,
    /// At least one.
    pub annotations: Vec<Annotation>,
}

impl AnnotationsPublication {
    /// Bytes that it takes in memory, about.
    pub fn size_bytes(&self) -> u64 {
        let annotations = self.annotations.iter().map(|annotation| {
            let id = annotation.id.as_deref().map_or(0, str::len) as u64;
            size_of::<Annotation>() as u64 + id + annotation.size_bytes()
        });
        size_of::<AnnotationsPublication>() as u64 + annotations.sum::<u64>()
    }

    /// What the publisher is told.
    pub fn result(&self) -> PublishResult {
        let positions = (0..self.annotations.len()).map(|index| self.position(index));
        PublishResult::of_positions(&self.id, positions)
    }

    /// Serial of the annotation at `index`.
    pub fn position(&self, index: usize) -> Position {
        Position { serial: self.channel_serial, index: index as u32 }
    }
}

/// Some annotations of one message.
#[derive(Clone, Debug, Default)]
pub struct AnnotationPage {
    /// Each with its index in its publication, in the order that was asked for.
    pub items: Vec<(Arc<AnnotationsPublication>, usize)>,
    /// Where the next page goes on, if there is one.
    pub next: Option<Position>,
}

/// Checks what `publisher` wants to annotate on the channel `name`; `drafts` is `None` where an element
/// was no object, `message` the message that a request's path names.
///
/// # Errors
/// 40160: not permitted; 93002: not on this channel; 40003: it cannot be asked for like this; 40161,
/// 40012: not by this client; 40400: it cannot be a message of this server; 40009, 40034: too much.
pub fn validate_annotations(
    name: &str,
    drafts: Option<Vec<AnnotationDraft>>,
    message: Option<Position>,
    publisher: &Publisher<'_>,
    bytes_max: u64,
) -> Result<Annotations, ErrorInfo> {
    if !publisher.capability.allows(name, Operation::AnnotationPublish) {
        let text = "the capability does not permit annotating messages here";
        return refuse(ErrorCode::CAPABILITY_DENIED, text);
    }
    if !publisher.has_mutable_messages {
        return Err(not_mutable());
    }
    let Some(drafts) = drafts else {
        return refuse(ErrorCode::BAD_REQUEST, "annotations have to be objects");
    };
    if drafts.is_empty() {
        return refuse(ErrorCode::BAD_REQUEST, "there is no annotation to publish");
    }
    if drafts.len() > MESSAGES_MAX {
        return refuse(ErrorCode::TOO_MANY_MESSAGES, "more than 1000 annotations in one publish");
    }
    let annotations = drafts.into_iter().map(|draft| check(name, draft, message, publisher));
    let mut annotations = annotations.collect::<Result<Vec<Annotation>, ErrorInfo>>()?;
    let size_bytes: u64 = annotations.iter().map(Annotation::size_bytes).sum();
    if size_bytes > bytes_max {
        let text = format!("the publish has {size_bytes} bytes, the limit is {bytes_max}");
        return Err(ErrorInfo::new(ErrorCode::MESSAGE_TOO_LARGE, text));
    }
    let has_chosen_id = check_ids(annotations.iter().map(|annotation| annotation.id.as_deref()))?;
    let id = match &annotations[0].id {
        Some(id) => id.strip_suffix(":0").unwrap_or(id).into(),
        None => {
            for (index, annotation) in annotations.iter_mut().enumerate() {
                annotation.id = Some(format!("{}:{index}", publisher.id).into());
            }
            publisher.id.as_str().into()
        }
    };
    let connection_id = publisher.connection_id.map(Box::from);
    Ok(Annotations { id, connection_id, annotations, has_chosen_id })
}

fn check(
    name: &str,
    draft: AnnotationDraft,
    message: Option<Position>,
    publisher: &Publisher<'_>,
) -> Result<Annotation, ErrorInfo> {
    let invalid = ErrorCode::INVALID_PARAMETER;
    let text = |field: Option<Field>, code, message| match field {
        None => Ok(None),
        Some(Field::Text(text)) if text.len() <= NAME_BYTES_MAX => Ok(Some(text)),
        Some(_) => refuse(code, message),
    };
    let action = match draft.action {
        0 => AnnotationAction::Create,
        1 => AnnotationAction::Delete,
        _ => return refuse(invalid, "an annotation is created or deleted"),
    };
    let kind = text(draft.kind, invalid, "an annotation's type is a string of at most 256 bytes")?;
    let Some(kind) = kind.filter(|kind| !kind.is_empty()) else {
        return refuse(invalid, "an annotation needs a type");
    };
    let code = ErrorCode::INVALID_NAME;
    let event = text(draft.name, code, "an annotation's name is a string of at most 256 bytes")?;
    let event = event.filter(|event| !event.is_empty());
    let aggregation = Aggregation::of(&kind);
    // Whoever takes back may leave the name out and so take back all.
    let needs_name = aggregation.is_some_and(Aggregation::is_by_name);
    if needs_name && event.is_none() && action == AnnotationAction::Create {
        return refuse(invalid, "an annotation of this type needs a name");
    }
    if draft.count.is_some_and(|count| count > COUNT_MAX) {
        return refuse(invalid, "an annotation's count is an integer from 0 to 4294967295");
    }
    check_encoding(draft.encoding.as_deref(), draft.has_bad_encoding)?;
    let id = match draft.id {
        None => None,
        Some(Field::Text(id)) if id.len() <= CHOSEN_ID_BYTES_MAX => {
            Some(id).filter(|id| !id.is_empty())
        }
        Some(_) => {
            let text = "an annotation's id is a string of at most 256 bytes";
            return refuse(ErrorCode::INVALID_MESSAGE_IDS, text);
        }
    };
    if let Some(extras) = &draft.extras {
        check_extras(name, extras, publisher)?;
    }
    let claimed = publisher.identity.client_id(draft.client_id)?;
    let client_id = match publisher.identity {
        Identity::Client(own) => Some(own.clone()),
        Identity::Anonymous | Identity::Wildcard => claimed,
    };
    if aggregation.is_some_and(Aggregation::is_for_identified) && client_id.is_none() {
        let text = "annotations of this type are for identified clients only";
        return refuse(ErrorCode::IDENTIFIED_CLIENT_REQUIRED, text);
    }
    let named = match draft.message_serial {
        Some(Field::Text(serial)) if !serial.is_empty() => {
            Some(serial.parse::<Position>().map_err(|_| no_such_message())?)
        }
        Some(Field::NotText) => return refuse(invalid, "a messageSerial is a string"),
        Some(Field::Text(_)) | None => None,
    };
    let annotated = match (message, named) {
        (None, None) => return refuse(invalid, "the message to annotate has no serial"),
        (Some(message), Some(named)) if message != named => {
            return refuse(invalid, "path and body name different messages");
        }
        (Some(message), _) | (None, Some(message)) => message,
    };
    Ok(Annotation {
        id,
        action,
        message: annotated,
        kind,
        name: event,
        count: draft.count,
        client_id,
        data: draft.data,
        encoding: draft.encoding,
        extras: draft.extras,
    })
}

/// Appends the ANNOTATION protocol message that delivers `publication` on `channel`.
pub fn encode_annotations(
    format: Format,
    channel: &str,
    publication: &AnnotationsPublication,
    out: &mut Vec<u8>,
) {
    write_map(format, out, |map| {
        map.uint("action", Action::Annotation.number());
        map.str("id", &publication.id);
        map.str("channel", channel);
        map.str("channelSerial", &publication.channel_serial.to_string());
        map.opt_str("connectionId", publication.connection_id.as_deref());
        map.uint("timestamp", publication.timestamp_ms);
        map.array("annotations", 0..publication.annotations.len(), |index, out| {
            write_map(format, out, |map| write_annotation(map, format, publication, index));
        });
    });
}

/// Appends an array of annotations, each complete by itself.
pub(super) fn write_annotations<'a>(
    format: Format,
    annotations: impl ExactSizeIterator<Item = (&'a AnnotationsPublication, usize)>,
    out: &mut Vec<u8>,
) {
    write_array(format, out, annotations, |(publication, index), out| {
        write_map(format, out, |map| {
            map.opt_str("connectionId", publication.connection_id.as_deref());
            map.uint("timestamp", publication.timestamp_ms);
            write_annotation(map, format, publication, index);
        });
    });
}

fn write_annotation(
    map: &mut MapWriter<'_>,
    format: Format,
    publication: &AnnotationsPublication,
    index: usize,
) {
    let annotation = &publication.annotations[index];
    map.opt_str("id", annotation.id.as_deref());
    map.uint("action", annotation.action as u64);
    map.str("serial", &publication.position(index).to_string());
    map.str("messageSerial", &annotation.message.to_string());
    map.str("type", &annotation.kind);
    map.opt_str("name", annotation.name.as_deref());
    if let Some(count) = annotation.count {
        map.uint("count", count);
    }
    map.opt_str("clientId", annotation.client_id.as_deref());
    write_data(map, format, &annotation.data, annotation.encoding.as_deref());
    if let Some(extras) = &annotation.extras {
        map.json("extras", extras);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::ably::{Capability, decode};

    const SERIAL: &str = "01826232498871-002@loc0abcdef:003";
    const KIND: &str = "reaction:distinct.v1";

    fn annotate_as(
        identity: &Identity,
        operations: &str,
        is_mutable: bool,
        annotations: &Value,
    ) -> Result<Annotations, ErrorInfo> {
        let message = json!({ "action": 21, "annotations": annotations }).to_string();
        let message = decode(Format::Json, message.as_bytes()).expect("well-formed");
        let publisher = Publisher {
            id: "conn:7".into(),
            connection_id: Some("conn"),
            identity,
            capability: &Capability::parse(&json!({ "*": [operations] }).to_string()).unwrap(),
            has_mutable_messages: is_mutable,
        };
        validate_annotations("room", message.annotations, None, &publisher, 1000)
    }

    fn annotate(annotations: &Value) -> Result<Annotations, ErrorInfo> {
        annotate_as(&Identity::Client("alice".into()), "annotation-publish", true, annotations)
    }

    #[test]
    fn an_annotation_is_delivered_with_all_its_fields() {
        let sent = json!([{ "messageSerial": SERIAL, "type": "rating:multiple.v1", "name": "stars",
            "count": 4, "data": { "a": 1 }, "extras": { "b": 2 }, "id": "chosen" }]);
        let annotations = annotate(&sent).expect("allowed");
        assert_eq!(annotations.chosen_id(), Some("chosen"));
        let serial: Position = SERIAL.parse().expect("a serial");
        let publication = annotations.into_publication(serial.serial, 5);
        let annotation = json!({ "id": "chosen", "action": 0, "messageSerial": SERIAL,
            "serial": "01826232498871-002@loc0abcdef:000", "type": "rating:multiple.v1",
            "name": "stars", "count": 4, "clientId": "alice", "data": "{\"a\":1}",
            "encoding": "json", "extras": { "b": 2 } });
        let mut out = Vec::new();
        encode_annotations(Format::Json, "room", &publication, &mut out);
        assert_eq!(
            serde_json::from_slice::<Value>(&out).expect("JSON"),
            json!({ "action": 21, "id": "chosen", "channel": "room", "connectionId": "conn",
                "channelSerial": "01826232498871-002@loc0abcdef", "timestamp": 5,
                "annotations": [annotation] })
        );
        let mut out = Vec::new();
        write_annotations(Format::MsgPack, [(&publication, 0)].into_iter(), &mut out);
        let listed = rmpv::decode::read_value(&mut &out[..]).expect("MessagePack");
        assert_eq!(listed[0]["timestamp"].as_u64(), Some(5));
        assert_eq!(listed[0]["connectionId"].as_str(), Some("conn"));
        assert_eq!(listed[0]["messageSerial"].as_str(), Some(SERIAL));
    }

    #[test]
    fn annotations_without_ids_get_those_of_their_protocol_message() {
        let one = json!({ "messageSerial": SERIAL, "type": KIND, "name": "n" });
        let annotations = annotate(&json!([one, one])).expect("allowed");
        assert_eq!(annotations.chosen_id(), None);
        let ids: Vec<_> = annotations.iter().map(|one| one.id.as_deref().unwrap()).collect();
        assert_eq!(ids, ["conn:7:0", "conn:7:1"]);
    }

    #[test]
    fn what_breaks_a_rule_is_refused_with_its_code() {
        let with = |field: &str, value: Value| {
            let mut annotation = json!({ "messageSerial": SERIAL, "type": KIND, "name": "n" });
            annotation[field] = value;
            json!([annotation])
        };
        for (annotations, code) in [
            (json!([]), 40000),
            (json!(["x"]), 40000),
            (with("messageSerial", Value::Null), 40003),
            (with("messageSerial", json!(1)), 40003),
            (with("messageSerial", json!("elsewhere")), 40400),
            (with("type", Value::Null), 40003),
            (with("type", json!("x".repeat(257))), 40003),
            (with("name", json!(1)), 40016),
            (with("name", json!("x".repeat(257))), 40016),
            (with("name", json!("")), 40003),
            (with("action", json!(2)), 40003),
            (with("count", json!(-1)), 40003),
            (with("count", json!(4_294_967_296u64)), 40003),
            (with("clientId", json!("bob")), 40012),
            (with("encoding", json!(1)), 40013),
            (with("extras", json!(1)), 40032),
            (with("id", json!(1)), 40031),
            (with("data", json!("x".repeat(1000))), 40009),
        ] {
            let error = annotate(&annotations).expect_err("against a rule");
            assert_eq!(error.code.0, code, "{annotations}");
        }
        let good = with("count", json!(1));
        let alice = Identity::Client("alice".into());
        let code =
            |result: Result<Annotations, ErrorInfo>| result.map_err(|error| error.code.0).err();
        assert_eq!(code(annotate_as(&alice, "publish", true, &good)), Some(40160));
        assert_eq!(code(annotate_as(&alice, "annotation-publish", false, &good)), Some(93002));
    }

    #[test]
    fn types_that_count_clients_are_for_identified_ones() {
        let anonymous = |kind: &str| {
            let annotations = json!([{ "messageSerial": SERIAL, "type": kind, "name": "n" }]);
            let result =
                annotate_as(&Identity::Anonymous, "annotation-publish", true, &annotations);
            result.map_err(|error| (error.code.0, error.status)).err()
        };
        for kind in ["a:flag.v1", "a:distinct.v1", "a:unique.v1"] {
            assert_eq!(anonymous(kind), Some((40161, 401)), "{kind}");
        }
        for kind in ["a:total.v1", "a:multiple.v1", "com.example.raw"] {
            assert_eq!(anonymous(kind), None, "{kind}");
        }
    }

    #[test]
    fn path_and_body_name_the_same_message() {
        let publisher = Publisher {
            id: "x".into(),
            connection_id: None,
            identity: &Identity::Wildcard,
            capability: &Capability::all(),
            has_mutable_messages: true,
        };
        let in_path: Position = SERIAL.parse().expect("a serial");
        let check = |serial: Option<&str>, in_path| {
            let serial = serial.map(|serial| Field::Text(serial.into()));
            let kind = Some(Field::Text("a:total.v1".into()));
            let draft =
                AnnotationDraft { message_serial: serial, kind, ..AnnotationDraft::default() };
            let drafts = Some(vec![draft]);
            let result = validate_annotations("room", drafts, in_path, &publisher, 1000);
            result.map_err(|error| error.code.0).err()
        };
        assert_eq!(check(Some(SERIAL), Some(in_path)), None);
        assert_eq!(check(None, Some(in_path)), None);
        assert_eq!(check(None, None), Some(40003));
        assert_eq!(check(Some(SERIAL), Some(Position { index: 0, ..in_path })), Some(40003));
    }
}
