//! What of a channel outlives the process, as bytes: its messages, their later versions, annotations.
//! Whatever follows from these is made again from them: summaries, which ids were used.

use std::sync::Arc;

use bytes::Bytes;

use crate::ably::{
    Annotation, AnnotationAction, AnnotationsPublication, ChannelSerial, Data, Message,
    MessageAction, Position, Publication, Revision, SeriesId, Version,
};
use crate::base::record::{read_array, read_bytes, read_text, read_u32, read_u64, write_bytes};

/// Whether repetitions are to be recognised by ids that the client chose, and by which (5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChosenIds {
    /// It chose none.
    None,
    /// By that of the first message, for all of them.
    First,
    /// Each by its own.
    Each,
}

impl ChosenIds {
    const ALL: [ChosenIds; 3] = [ChosenIds::None, ChosenIds::First, ChosenIds::Each];
}

/// See the module text.
#[derive(Clone, Debug)]
pub enum Kept {
    /// New messages.
    Messages(Arc<Publication>, ChosenIds),
    /// A later version of a message.
    Version {
        /// The version, complete.
        version: Arc<Publication>,
        /// The version before it, if it takes its place.
        replaced: Option<ChannelSerial>,
    },
    /// Annotations, and whether the client chose the id of the first.
    Annotations(Arc<AnnotationsPublication>, bool),
}

const KIND_MESSAGES: u8 = 1;
const KIND_VERSION: u8 = 2;
const KIND_ANNOTATIONS: u8 = 3;

const DATA_NONE: u8 = 0;
const DATA_TEXT: u8 = 1;
const DATA_BINARY: u8 = 2;
const DATA_SCALAR: u8 = 3;

impl Kept {
    /// Its place in the channel's order.
    pub fn serial(&self) -> ChannelSerial {
        match self {
            Kept::Messages(publication, _) | Kept::Version { version: publication, .. } => {
                publication.channel_serial
            }
            Kept::Annotations(publication, _) => publication.channel_serial,
        }
    }

    /// When it happened, in milliseconds since the Unix epoch.
    pub fn timestamp_ms(&self) -> u64 {
        match self {
            Kept::Messages(publication, _) | Kept::Version { version: publication, .. } => {
                publication.timestamp_ms
            }
            Kept::Annotations(publication, _) => publication.timestamp_ms,
        }
    }

    /// Messages that it adds to the history.
    pub fn messages(&self) -> u32 {
        match self {
            Kept::Messages(publication, _) => publication.messages.len() as u32,
            Kept::Version { .. } | Kept::Annotations(..) => 0,
        }
    }

    /// Appends it without its serial and its time.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Kept::Messages(publication, ids) => {
                out.push(KIND_MESSAGES);
                out.push(*ids as u8);
                write_publication(publication, out);
            }
            Kept::Version { version, replaced } => {
                out.push(KIND_VERSION);
                write_option(replaced.as_ref(), out, write_serial);
                write_publication(version, out);
            }
            Kept::Annotations(publication, has_chosen_id) => {
                out.push(KIND_ANNOTATIONS);
                out.push((*has_chosen_id).into());
                write_bytes(out, publication.id.as_bytes());
                write_text(publication.connection_id.as_deref(), out);
                out.extend_from_slice(&(publication.annotations.len() as u32).to_le_bytes());
                publication.annotations.iter().for_each(|it| write_annotation(it, out));
            }
        }
    }

    /// What [`encode`](Self::encode) has written, with its serial and time; `None`: that it has not, or a
    /// later version has.
    pub fn decode(channel_serial: ChannelSerial, timestamp_ms: u64, body: &Bytes) -> Option<Kept> {
        let from = &mut &body[..];
        let publication = |from: &mut &[u8]| {
            let (id, connection_id) = (read_text(from)?, read_option(from, read_text)?);
            let count = read_u32(from)?;
            let messages = (0..count).map(|_| read_message(from, body)).collect::<Option<_>>()?;
            let it = Publication { channel_serial, id, connection_id, timestamp_ms, messages };
            (!it.messages.is_empty()).then(|| Arc::new(it))
        };
        let [kind] = read_array(from)?;
        match kind {
            KIND_MESSAGES => {
                let [ids] = read_array(from)?;
                let ids = *ChosenIds::ALL.get(usize::from(ids))?;
                Some(Kept::Messages(publication(from)?, ids))
            }
            KIND_VERSION => {
                let replaced = read_option(from, read_serial)?;
                let version = publication(from)?;
                version.messages[0]
                    .revision
                    .is_some()
                    .then_some(Kept::Version { version, replaced })
            }
            KIND_ANNOTATIONS => {
                let [has_chosen_id] = read_array(from)?;
                let (id, connection_id) = (read_text(from)?, read_option(from, read_text)?);
                let count = read_u32(from)?;
                let annotations =
                    (0..count).map(|_| read_annotation(from, body)).collect::<Option<_>>()?;
                let it = AnnotationsPublication {
                    channel_serial,
                    id,
                    connection_id,
                    timestamp_ms,
                    annotations,
                };
                Some(Kept::Annotations(Arc::new(it), has_chosen_id != 0))
            }
            _ => None,
        }
    }
}

fn write_publication(publication: &Publication, out: &mut Vec<u8>) {
    write_bytes(out, publication.id.as_bytes());
    write_text(publication.connection_id.as_deref(), out);
    out.extend_from_slice(&(publication.messages.len() as u32).to_le_bytes());
    publication.messages.iter().for_each(|message| write_message(message, out));
}

fn write_message(message: &Message, out: &mut Vec<u8>) {
    let Message { id, name, data, encoding, client_id, extras, revision } = message;
    for text in [id, name, encoding, client_id, extras] {
        write_text(text.as_deref(), out);
    }
    write_data(data, out);
    write_option(revision.as_deref(), out, |revision, out| {
        let Revision { action, message, created_ms, connection_id, version, summary } = revision;
        out.push(*action as u8);
        write_position(message, out);
        out.extend_from_slice(&created_ms.to_le_bytes());
        write_text(connection_id.as_deref(), out);
        let Version { serial, timestamp_ms, client_id, description, metadata } = version;
        write_position(serial, out);
        out.extend_from_slice(&timestamp_ms.to_le_bytes());
        for text in [client_id, description, metadata] {
            write_text(text.as_deref(), out);
        }
        write_text(summary.as_deref(), out);
    });
}

fn read_message(from: &mut &[u8], body: &Bytes) -> Option<Message> {
    Some(Message {
        id: read_option(from, read_text)?,
        name: read_option(from, read_text)?,
        encoding: read_option(from, read_text)?,
        client_id: read_option(from, read_text)?,
        extras: read_option(from, read_text)?,
        data: read_data(from, body)?,
        revision: read_option(from, read_revision)?.map(Box::new),
    })
}

fn read_revision(from: &mut &[u8]) -> Option<Revision> {
    let [action] = read_array(from)?;
    let action = match action {
        0 => MessageAction::Create,
        1 => MessageAction::Update,
        2 => MessageAction::Delete,
        4 => MessageAction::Summary,
        5 => MessageAction::Append,
        _ => return None,
    };
    Some(Revision {
        action,
        message: read_position(from)?,
        created_ms: read_u64(from)?,
        connection_id: read_option(from, read_text)?,
        version: Version {
            serial: read_position(from)?,
            timestamp_ms: read_u64(from)?,
            client_id: read_option(from, read_text)?,
            description: read_option(from, read_text)?,
            metadata: read_option(from, read_text)?,
        },
        summary: read_option(from, read_text)?.map(Arc::from),
    })
}

fn write_annotation(annotation: &Annotation, out: &mut Vec<u8>) {
    let Annotation { id, action, message, kind, name, count, client_id, data, encoding, extras } =
        annotation;
    out.push(*action as u8);
    write_position(message, out);
    write_bytes(out, kind.as_bytes());
    for text in [id, name, client_id, encoding, extras] {
        write_text(text.as_deref(), out);
    }
    write_option(count.as_ref(), out, |count, out| out.extend_from_slice(&count.to_le_bytes()));
    write_data(data, out);
}

fn read_annotation(from: &mut &[u8], body: &Bytes) -> Option<Annotation> {
    let [action] = read_array(from)?;
    let action = match action {
        0 => AnnotationAction::Create,
        1 => AnnotationAction::Delete,
        _ => return None,
    };
    Some(Annotation {
        action,
        message: read_position(from)?,
        kind: read_text(from)?,
        id: read_option(from, read_text)?,
        name: read_option(from, read_text)?,
        client_id: read_option(from, read_text)?,
        encoding: read_option(from, read_text)?,
        extras: read_option(from, read_text)?,
        count: read_option(from, read_u64)?,
        data: read_data(from, body)?,
    })
}

fn write_data(data: &Data, out: &mut Vec<u8>) {
    let (kind, bytes): (u8, &[u8]) = match data {
        Data::None => (DATA_NONE, &[]),
        Data::Text(text) => (DATA_TEXT, text.as_bytes()),
        Data::Binary(bytes) => (DATA_BINARY, bytes),
        Data::Scalar(text) => (DATA_SCALAR, text.as_bytes()),
    };
    out.push(kind);
    write_bytes(out, bytes);
}

fn read_data(from: &mut &[u8], body: &Bytes) -> Option<Data> {
    let [kind] = read_array(from)?;
    Some(match kind {
        DATA_NONE => read_bytes(from).map(|_| Data::None)?,
        DATA_TEXT => Data::Text(read_text(from)?),
        DATA_BINARY => Data::Binary(body.slice_ref(read_bytes(from)?)),
        DATA_SCALAR => Data::Scalar(read_text(from)?),
        _ => return None,
    })
}

fn write_serial(serial: &ChannelSerial, out: &mut Vec<u8>) {
    out.extend_from_slice(&serial.time_ms().to_le_bytes());
    out.extend_from_slice(&serial.counter().to_le_bytes());
    out.extend_from_slice(&serial.series().bytes());
}

fn read_serial(from: &mut &[u8]) -> Option<ChannelSerial> {
    let (time_ms, counter) = (read_u64(from)?, u16::from_le_bytes(read_array(from)?));
    ChannelSerial::from_parts(time_ms, counter, SeriesId::from_bytes(read_array(from)?)?)
}

fn write_position(position: &Position, out: &mut Vec<u8>) {
    write_serial(&position.serial, out);
    out.extend_from_slice(&position.index.to_le_bytes());
}

fn read_position(from: &mut &[u8]) -> Option<Position> {
    Some(Position { serial: read_serial(from)?, index: read_u32(from)? })
}

fn write_text(text: Option<&str>, out: &mut Vec<u8>) {
    write_option(text, out, |text, out| write_bytes(out, text.as_bytes()));
}

fn write_option<T>(it: Option<T>, out: &mut Vec<u8>, write: impl FnOnce(T, &mut Vec<u8>)) {
    out.push(it.is_some().into());
    if let Some(it) = it {
        write(it, out);
    }
}

/// The outer answer is whether it could be read, the inner whether it is there.
fn read_option<T>(
    from: &mut &[u8],
    read: impl FnOnce(&mut &[u8]) -> Option<T>,
) -> Option<Option<T>> {
    match read_array(from)? {
        [0] => Some(None),
        [1] => read(from).map(Some),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn serial(time_ms: u64) -> ChannelSerial {
        ChannelSerial::from_parts(time_ms, 7, SeriesId::new([3; 10])).expect("a counter")
    }

    fn text(text: &str) -> Option<Box<str>> {
        Some(text.into())
    }

    fn examples() -> Vec<Kept> {
        let position = Position { serial: serial(4), index: 2 };
        let plain = Message {
            id: text("a:0"),
            data: Data::Binary(Bytes::from_static(b"\0\x01")),
            ..Message::default()
        };
        let full = Message {
            id: text("b"),
            name: text("caf\u{e9}"),
            data: Data::Text("{}".into()),
            encoding: text("json"),
            client_id: text("ann"),
            extras: text(r#"{"a":1}"#),
            revision: Some(Box::new(Revision {
                action: MessageAction::Update,
                message: position,
                created_ms: 5,
                connection_id: None,
                version: Version {
                    serial: Position { serial: serial(6), index: 0 },
                    timestamp_ms: 8,
                    client_id: text("bob"),
                    description: None,
                    metadata: text("{}"),
                },
                summary: Some("{}".into()),
            })),
        };
        let publication = |messages: Vec<Message>| {
            Arc::new(Publication {
                channel_serial: serial(9),
                id: "conn:1".into(),
                connection_id: text("conn"),
                timestamp_ms: 10,
                messages,
            })
        };
        let annotation = Annotation {
            id: text("x"),
            action: AnnotationAction::Delete,
            message: position,
            kind: "stars:multiple.v1".into(),
            name: text("five"),
            count: Some(5),
            client_id: text("ann"),
            data: Data::Scalar("true".into()),
            encoding: None,
            extras: None,
        };
        let annotations = AnnotationsPublication {
            channel_serial: serial(9),
            id: "conn:2".into(),
            connection_id: None,
            timestamp_ms: 10,
            annotations: vec![annotation],
        };
        let none = Message { data: Data::None, ..Message::default() };
        vec![
            Kept::Messages(publication(vec![plain, none]), ChosenIds::First),
            Kept::Version { version: publication(vec![full]), replaced: Some(serial(8)) },
            Kept::Annotations(Arc::new(annotations), true),
        ]
    }

    fn encoded(kept: &Kept) -> Bytes {
        let mut out = Vec::new();
        kept.encode(&mut out);
        out.into()
    }

    #[test]
    fn what_was_kept_is_read_back_as_it_was() {
        for kept in examples() {
            let body = encoded(&kept);
            let read = Kept::decode(kept.serial(), kept.timestamp_ms(), &body).expect("ours");
            assert_eq!(format!("{read:?}"), format!("{kept:?}"));
        }
    }

    #[test]
    fn no_prefix_and_no_noise_is_read_as_something() {
        let mut seed = 5u64;
        for kept in examples() {
            let body = encoded(&kept);
            for end in 0..body.len() {
                let read = Kept::decode(kept.serial(), 10, &body.slice(..end));
                assert!(read.is_none(), "{end}: {read:?}");
            }
            // Whatever it says, it does not panic.
            for at in 0..body.len() {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let mut noise = body.to_vec();
                noise[at] = (seed >> 56) as u8;
                let _ = Kept::decode(kept.serial(), 10, &noise.into());
            }
        }
    }
}
