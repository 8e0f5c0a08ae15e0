//! Protocol messages from clients (3.1, 3.2).

use std::borrow::Cow;

use super::annotation::{AnnotationDraft, read_annotation_drafts};
use super::message::stored;
use super::value::{DecodeError, Field, Node, Value};
use super::{Data, Format, MESSAGES_MAX, json, msgpack};

/// Largest msgSerial: up to here all clients can count, and so can what adds to it here.
const MSG_SERIAL_MAX: u64 = 1 << 53;

/// Most params of one protocol message; more are ignored.
pub const PARAMS_MAX: usize = 64;

macro_rules! actions {
    ($($(#[$doc:meta])* $name:ident = $number:literal,)*) => {
        /// What a protocol message is for (TR2).
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Action {
            $($(#[$doc])* $name,)*
            /// A number that no version known here uses; ignored (RTF1).
            Unknown,
        }

        impl Action {
            fn from_number(number: u64) -> Action {
                match number {
                    $($number => Action::$name,)*
                    _ => Action::Unknown,
                }
            }

            /// The number on the wire; what is unknown is never sent.
            pub fn number(self) -> u64 {
                match self {
                    $(Action::$name => $number,)*
                    Action::Unknown => unreachable!("never sent"),
                }
            }
        }
    };
}

actions! {
    /// Ping, pong, or a sign of life.
    Heartbeat = 0,
    /// Publishes succeeded.
    Ack = 1,
    /// Publishes failed.
    Nack = 2,
    /// Unused.
    Connect = 3,
    /// The connection is open.
    Connected = 4,
    /// The client lets go of the transport.
    Disconnect = 5,
    /// The server lets go of the transport.
    Disconnected = 6,
    /// The client closes the connection.
    Close = 7,
    /// The connection is closed.
    Closed = 8,
    /// A connection or channel has failed.
    Error = 9,
    /// Attach to a channel.
    Attach = 10,
    /// Attached to a channel.
    Attached = 11,
    /// Detach from a channel.
    Detach = 12,
    /// Detached from a channel.
    Detached = 13,
    /// Presence events.
    Presence = 14,
    /// Messages.
    Message = 15,
    /// Presence members.
    Sync = 16,
    /// New credentials, or the wish for them.
    Auth = 17,
    /// Deprecated.
    Activate = 18,
    /// LiveObjects operations.
    Object = 19,
    /// LiveObjects state.
    ObjectSync = 20,
    /// Annotations.
    Annotation = 21,
}

/// Params of a channel or a publish. Values are strings whatever they were sent as.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Params(Vec<(Box<str>, Box<str>)>);

impl Params {
    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.iter().find(|(name, _)| *name == key).map(|(_, value)| value)
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (&**key, &**value))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<(Box<str>, Box<str>)> for Params {
    fn from_iter<Pairs: IntoIterator<Item = (Box<str>, Box<str>)>>(pairs: Pairs) -> Params {
        Params(pairs.into_iter().take(PARAMS_MAX).collect())
    }
}

/// A message or presence message as a client sent it: decoded, not checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Draft {
    /// Client-chosen id.
    pub id: Option<Field>,
    /// Event name.
    pub name: Option<Field>,
    /// The payload in stored form.
    pub data: Data,
    /// Its encoding in stored form.
    pub encoding: Option<Box<str>>,
    /// Whether `encoding` was something other than a string.
    pub has_bad_encoding: bool,
    /// Claimed clientId.
    pub client_id: Option<Field>,
    /// Claimed connectionId.
    pub connection_id: Option<Field>,
    /// The connection to publish for, over REST (5.6).
    pub connection_key: Option<Field>,
    /// JSON text of whatever value it was.
    pub extras: Option<Box<str>>,
    /// Of a message, 0 or absent: create; others change or delete what `serial` names. Of a presence
    /// message: see [`PresenceAction`](super::PresenceAction).
    pub action: u64,
    /// The message to be changed.
    pub serial: Option<Field>,
    /// Who changes it, and why.
    pub version: Option<Box<VersionDraft>>,
}

/// What a client says of a change (TM2s): decoded, not checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VersionDraft {
    /// Claimed clientId.
    pub client_id: Option<Field>,
    /// Why.
    pub description: Option<Box<str>>,
    /// JSON text of an object.
    pub metadata: Option<Box<str>>,
    /// Whether it, or one of its fields, was of a wrong type.
    pub is_malformed: bool,
}

impl VersionDraft {
    fn read<'a>(version: impl Value<'a>) -> VersionDraft {
        let is_malformed = version.node() != Node::Map;
        let mut draft = VersionDraft { is_malformed, ..VersionDraft::default() };
        for (key, value) in version.entries() {
            match (&*key, value.node()) {
                (_, Node::Null) => {}
                ("clientId", _) => draft.client_id = Field::read(value),
                ("description", Node::Str(text)) => draft.description = Some(text.into()),
                ("metadata", Node::Map) => draft.metadata = Some(value.to_json()),
                ("description" | "metadata", _) => draft.is_malformed = true,
                _ => {}
            }
        }
        draft
    }
}

impl Draft {
    pub(super) fn read<'a>(message: impl Value<'a>) -> Draft {
        let mut draft = Draft::default();
        let mut data = None;
        let mut encoding: Option<Cow<'_, str>> = None;
        for (key, value) in message.entries() {
            match &*key {
                "id" => draft.id = Field::read(value),
                "name" => draft.name = Field::read(value),
                "data" => data = Some(value),
                "encoding" => {
                    encoding = value.str();
                    draft.has_bad_encoding = encoding.is_none() && value.node() != Node::Null;
                }
                "clientId" => draft.client_id = Field::read(value),
                "connectionId" => draft.connection_id = Field::read(value),
                "connectionKey" => draft.connection_key = Field::read(value),
                "extras" if value.node() != Node::Null => draft.extras = Some(value.to_json()),
                "action" if value.node() != Node::Null => {
                    draft.action = value.uint().unwrap_or(u64::MAX);
                }
                "serial" => draft.serial = Field::read(value),
                "version" if value.node() != Node::Null => {
                    draft.version = Some(Box::new(VersionDraft::read(value)));
                }
                _ => {}
            }
        }
        let encoding = encoding.as_deref();
        (draft.data, draft.encoding) = match data {
            Some(data) => stored(data, encoding),
            None => (Data::None, encoding.filter(|text| !text.is_empty()).map(Box::from)),
        };
        draft
    }
}

/// Reads one message or an array of them; `None` where an element is no object. Of too many just
/// enough are read for [`validate`](super::validate) to see that: a draft is far larger than `{}`.
pub(super) fn read_drafts<'a>(value: impl Value<'a>) -> Option<Vec<Draft>> {
    match value.node() {
        Node::Map => Some(vec![Draft::read(value)]),
        Node::Array => value
            .items()
            .take(MESSAGES_MAX + 1)
            .map(|item| (item.node() == Node::Map).then(|| Draft::read(item)))
            .collect(),
        _ => None,
    }
}

/// One protocol message from a client. Fields that only servers send are not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProtocolMessage {
    /// What it is for.
    pub action: Action,
    /// HEARTBEAT: id of the ping.
    pub id: Option<Box<str>>,
    /// The channel, with its qualifier.
    pub channel: Option<Box<str>>,
    /// ATTACH: up to where the client has the channel.
    pub channel_serial: Option<Box<str>>,
    /// The client's number for what it publishes.
    pub msg_serial: Option<u64>,
    /// Bits of 3.3.
    pub flags: u64,
    /// Of the channel or the publish.
    pub params: Params,
    /// AUTH: the new token.
    pub access_token: Option<Box<str>>,
    /// MESSAGE: what to publish; `None` where an element was no object.
    pub messages: Option<Vec<Draft>>,
    /// ANNOTATION: what to publish; `None` where an element was no object.
    pub annotations: Option<Vec<AnnotationDraft>>,
    /// PRESENCE: who enters, changes or leaves; `None` where an element was no object.
    pub presence: Option<Vec<Draft>>,
}

/// Decodes one payload.
///
/// # Errors
/// It is not one object of the format, or nests too deep, or has an unusable msgSerial. Unknown fields
/// and fields of a wrong type are ignored; what that means is decided where they are needed.
pub fn decode(format: Format, payload: &[u8]) -> Result<ProtocolMessage, DecodeError> {
    match format {
        Format::Json => read(json::JsonValue::parse(payload)?),
        Format::MsgPack => read(msgpack::MsgPackValue::parse(payload)?),
    }
}

fn read<'a>(value: impl Value<'a>) -> Result<ProtocolMessage, DecodeError> {
    if value.node() != Node::Map {
        return Err(DecodeError::NotAnObject);
    }
    let mut message = ProtocolMessage {
        action: Action::Heartbeat,
        id: None,
        channel: None,
        channel_serial: None,
        msg_serial: None,
        flags: 0,
        params: Params::default(),
        access_token: None,
        messages: Some(Vec::new()),
        annotations: Some(Vec::new()),
        presence: Some(Vec::new()),
    };
    let text = |value: Option<Cow<'_, str>>| value.map(Box::<str>::from);
    for (key, value) in value.entries() {
        // A field may be null instead of absent (3.1).
        if value.node() == Node::Null {
            continue;
        }
        match &*key {
            "action" => message.action = value.uint().map_or(Action::Unknown, Action::from_number),
            "id" => message.id = text(value.str()),
            "channel" => message.channel = text(value.str()),
            "channelSerial" => message.channel_serial = text(value.str()),
            "msgSerial" => {
                let msg_serial = value.uint().filter(|serial| *serial <= MSG_SERIAL_MAX);
                message.msg_serial = Some(msg_serial.ok_or(DecodeError::InvalidMsgSerial)?);
            }
            "flags" => message.flags = value.uint().unwrap_or_default(),
            "params" => message.params = read_params(value),
            "auth" => {
                let token = value.entries().find(|(key, _)| key == "accessToken");
                message.access_token = text(token.and_then(|(_, token)| token.str()));
            }
            "messages" => message.messages = read_drafts(value),
            "annotations" => message.annotations = read_annotation_drafts(value),
            "presence" => message.presence = read_drafts(value),
            _ => {}
        }
    }
    Ok(message)
}

fn read_params<'a>(params: impl Value<'a>) -> Params {
    let pairs = params.entries().filter_map(|(key, value)| match value.node() {
        Node::Str(text) => Some((key.into(), text.into())),
        // SDKs send numbers and booleans here; they mean their text.
        Node::Number | Node::Bool(_) => Some((key.into(), value.to_json())),
        _ => None,
    });
    pairs.collect()
}
