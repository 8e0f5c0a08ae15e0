//! Messages in their one stored form (4.1, 4.5), and publications, which are what a channel orders.

use bytes::Bytes;
use data_encoding::BASE64;

use super::serial::ChannelSerial;
use super::value::{Node, Value};
use super::writer::{MapWriter, write_array, write_map};
use super::{Action, Delta, Format, MessageAction, Position, Revision};

/// What a message carries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Data {
    /// Nothing.
    #[default]
    None,
    /// A string.
    Text(Box<str>),
    /// Bytes; base64 on JSON transports.
    Binary(Bytes),
    /// A bare number or boolean, as its JSON text.
    Scalar(Box<str>),
}

impl Data {
    /// Bytes as the size limit counts them (TM6).
    pub fn size_bytes(&self) -> u64 {
        match self {
            Data::None => 0,
            Data::Text(text) | Data::Scalar(text) => text.len() as u64,
            Data::Binary(bytes) => bytes.len() as u64,
        }
    }
}

/// One message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// Unique; set on everything that was accepted (TM2a).
    pub id: Option<Box<str>>,
    /// Event name.
    pub name: Option<Box<str>>,
    /// The payload, in the form that `encoding` tells.
    pub data: Data,
    /// Transformations that the payload has been through, without a last `base64`.
    pub encoding: Option<Box<str>>,
    /// Who says to have sent it; checked.
    pub client_id: Option<Box<str>>,
    /// JSON text of an object.
    pub extras: Option<Box<str>>,
    /// What only later versions and summaries have.
    pub revision: Option<Box<Revision>>,
}

impl Message {
    /// Bytes as the size limit counts them (TM6).
    pub fn size_bytes(&self) -> u64 {
        let text = |text: &Option<Box<str>>| text.as_deref().map_or(0, str::len) as u64;
        text(&self.name) + text(&self.client_id) + text(&self.extras) + self.data.size_bytes()
    }
}

/// Takes the payload in the form in which it is kept: without a last `base64` (4.5).
pub(super) fn stored<'a>(data: impl Value<'a>, encoding: Option<&str>) -> (Data, Option<Box<str>>) {
    let with = |step: &str| match encoding {
        Some(encoding) if !encoding.is_empty() => format!("{encoding}/{step}").into_boxed_str(),
        _ => step.into(),
    };
    let kept = encoding.filter(|encoding| !encoding.is_empty()).map(Box::from);
    match data.node() {
        Node::Null | Node::Ext => (Data::None, kept),
        Node::Bool(_) | Node::Number => (Data::Scalar(data.to_json()), kept),
        Node::Bin(bytes) => (Data::Binary(Bytes::copy_from_slice(bytes)), kept),
        Node::Array | Node::Map => (Data::Text(data.to_json()), Some(with("json"))),
        Node::Str(text) => {
            let rest = kept.as_deref().and_then(|kept| match kept.rsplit_once('/') {
                Some((rest, "base64")) => Some(Some(rest)),
                None if kept == "base64" => Some(None),
                _ => None,
            });
            let decoded = rest.and_then(|_| BASE64.decode(text.as_bytes()).ok());
            match decoded {
                Some(bytes) => (Data::Binary(bytes.into()), rest.flatten().map(Box::from)),
                // Not what it says to be: nobody's loss if it is passed on as it came.
                None => (Data::Text(text.into()), kept),
            }
        }
    }
}

/// One accepted publish in its channel's order; delivered as one protocol message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publication {
    /// Its place in the order.
    pub channel_serial: ChannelSerial,
    /// Id of the protocol message: the messages' ids without their index, where there is a common one.
    pub id: Box<str>,
    /// Of the publishing connection; none over REST.
    pub connection_id: Option<Box<str>>,
    /// When it was accepted, in milliseconds since the Unix epoch.
    pub timestamp_ms: u64,
    /// At least one.
    pub messages: Vec<Message>,
}

impl Publication {
    /// Bytes that it takes in memory, about.
    pub fn size_bytes(&self) -> u64 {
        let messages = self.messages.iter().map(|message| {
            let text = |text: &Option<Box<str>>| text.as_deref().map_or(0, str::len) as u64;
            let id = text(&message.id) + text(&message.encoding);
            let revision = message.revision.as_deref().map_or(0, Revision::size_bytes);
            size_of::<Message>() as u64 + id + message.size_bytes() + revision
        });
        size_of::<Publication>() as u64 + messages.sum::<u64>()
    }

    /// Which message the one at `index` is, or is a version of (TM2r).
    pub fn position(&self, index: usize) -> Position {
        match &self.messages[index].revision {
            Some(revision) => revision.message,
            None => Position { serial: self.channel_serial, index: index as u32 },
        }
    }
}

/// Appends the MESSAGE protocol message that delivers `publication` on `channel` (3.4).
pub fn encode_publication(
    format: Format,
    channel: &str,
    publication: &Publication,
    out: &mut Vec<u8>,
) {
    let whole = (0..publication.messages.len()).map(|index| (index, None));
    encode_part(format, channel, publication, whole, out);
}

/// The same with some of its messages only, by index and in order, each as a delta where there is one.
pub fn encode_part<'a>(
    format: Format,
    channel: &str,
    publication: &Publication,
    part: impl ExactSizeIterator<Item = (usize, Option<&'a Delta>)>,
    out: &mut Vec<u8>,
) {
    write_map(format, out, |map| {
        map.uint("action", Action::Message.number());
        map.str("id", &publication.id);
        map.str("channel", channel);
        map.str("channelSerial", &publication.channel_serial.to_string());
        map.uint("timestamp", publication.timestamp_ms);
        // Messages inherit this and the timestamp. Later versions are still their creator's, which may
        // have had no connection: beside them each says so itself.
        let is_plain = publication.messages.iter().all(|message| message.revision.is_none());
        map.opt_str("connectionId", publication.connection_id.as_deref().filter(|_| is_plain));
        map.array("messages", part, |(index, delta), out| {
            write_map(format, out, |map| {
                if !is_plain {
                    write_origin(map, publication, index);
                }
                write_message(map, format, publication, index, delta);
            });
        });
    });
}

/// Writes one message as an event of `channel`: complete by itself, in JSON.
pub(super) fn write_event(
    map: &mut MapWriter<'_>,
    channel: &str,
    publication: &Publication,
    index: usize,
) {
    map.str("channel", channel);
    map.opt_str("connectionId", publication.connection_id.as_deref());
    map.uint("timestamp", publication.timestamp_ms);
    write_message(map, Format::Json, publication, index, None);
}

/// Appends one message as history has it: complete by itself.
pub fn encode_message(format: Format, publication: &Publication, index: usize, out: &mut Vec<u8>) {
    write_map(format, out, |map| {
        write_origin(map, publication, index);
        write_message(map, format, publication, index, None);
    });
}

/// Writes where a message came from, and when.
fn write_origin(map: &mut MapWriter<'_>, publication: &Publication, index: usize) {
    let (connection_id, created_ms) = match &publication.messages[index].revision {
        Some(revision) => (&revision.connection_id, revision.created_ms),
        None => (&publication.connection_id, publication.timestamp_ms),
    };
    map.opt_str("connectionId", connection_id.as_deref());
    map.uint("timestamp", created_ms);
}

fn write_message(
    map: &mut MapWriter<'_>,
    format: Format,
    publication: &Publication,
    index: usize,
    delta: Option<&Delta>,
) {
    let message = &publication.messages[index];
    let serial = publication.position(index).to_string();
    map.opt_str("id", message.id.as_deref());
    map.opt_str("name", message.name.as_deref());
    map.opt_str("clientId", message.client_id.as_deref());
    match delta {
        None => {
            write_data(map, format, &message.data, message.encoding.as_deref());
            if let Some(extras) = &message.extras {
                map.json("extras", extras);
            }
        }
        Some(delta) => {
            write_bytes(map, format, &delta.bytes, Some(&Delta::encoding(message)));
            map.json("extras", &delta.extras(message));
        }
    }
    let Some(revision) = &message.revision else {
        // Written although it is zero: SDKs do not fill it in.
        map.uint("action", MessageAction::Create as u64);
        map.str("serial", &serial);
        map.map("version", |version| {
            version.str("serial", &serial);
            version.uint("timestamp", publication.timestamp_ms);
        });
        return;
    };
    let Revision { action, version, summary, .. } = &**revision;
    map.uint("action", *action as u64);
    map.str("serial", &serial);
    map.map("version", |map| {
        map.str("serial", &version.serial.to_string());
        map.uint("timestamp", version.timestamp_ms);
        map.opt_str("clientId", version.client_id.as_deref());
        map.opt_str("description", version.description.as_deref());
        if let Some(metadata) = &version.metadata {
            map.json("metadata", metadata);
        }
    });
    if let Some(summary) = summary {
        map.map("annotations", |map| map.json("summary", summary));
    }
}

/// Writes `data` and `encoding`, as they are in `format`.
pub(super) fn write_data(
    map: &mut MapWriter<'_>,
    format: Format,
    data: &Data,
    encoding: Option<&str>,
) {
    match data {
        Data::None => {}
        Data::Text(text) => map.str("data", text),
        Data::Scalar(text) => map.json("data", text),
        Data::Binary(bytes) => return write_bytes(map, format, bytes, encoding),
    }
    map.opt_str("encoding", encoding);
}

fn write_bytes(map: &mut MapWriter<'_>, format: Format, bytes: &[u8], encoding: Option<&str>) {
    map.bin("data", bytes);
    match (format, encoding) {
        (Format::MsgPack, _) => map.opt_str("encoding", encoding),
        (Format::Json, Some(encoding)) => map.str("encoding", &format!("{encoding}/base64")),
        (Format::Json, None) => map.str("encoding", "base64"),
    }
}

/// Appends an array of messages from history.
pub(super) fn write_messages<'a>(
    format: Format,
    messages: impl ExactSizeIterator<Item = (&'a Publication, usize)>,
    out: &mut Vec<u8>,
) {
    write_array(format, out, messages, |(publication, index), out| {
        encode_message(format, publication, index, out);
    });
}
