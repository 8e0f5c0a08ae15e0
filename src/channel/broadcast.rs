//! What a channel's home sends to subscribers: one event of the channel, with its place in the order.

use std::sync::Arc;

use crate::ably::{
    self, AnnotationsPublication, ChannelSerial, Format, PresenceEvents, Publication, Wants,
};

/// One event of a channel; each becomes one protocol message.
#[derive(Clone, Debug)]
pub enum Broadcast {
    /// MESSAGE.
    Messages(Arc<Publication>),
    /// ANNOTATION.
    Annotations(Arc<AnnotationsPublication>),
    /// PRESENCE.
    Presence(Arc<PresenceEvents>),
}

impl Broadcast {
    /// Whether it is about members.
    pub fn is_presence(&self) -> bool {
        matches!(self, Broadcast::Presence(_))
    }

    /// Who is sent it: attachments that want this kind.
    pub fn kind(&self) -> Wants {
        match self {
            Broadcast::Messages(_) => Wants::MESSAGES,
            Broadcast::Annotations(_) => Wants::ANNOTATIONS,
            Broadcast::Presence(_) => Wants::PRESENCE,
        }
    }

    /// Its place in the order.
    pub fn serial(&self) -> ChannelSerial {
        match self {
            Broadcast::Messages(publication) => publication.channel_serial,
            Broadcast::Annotations(publication) => publication.channel_serial,
            Broadcast::Presence(events) => events.channel_serial,
        }
    }

    /// The connection that is not sent it when it does not want its own: `echo=false` is about messages.
    pub fn connection_id(&self) -> Option<&str> {
        match self {
            Broadcast::Messages(publication) => publication.connection_id.as_deref(),
            Broadcast::Annotations(_) | Broadcast::Presence(_) => None,
        }
    }

    /// Bytes that it takes in memory, about; its encoding is larger by its envelope.
    pub fn size_bytes(&self) -> u64 {
        match self {
            Broadcast::Messages(publication) => publication.size_bytes(),
            Broadcast::Annotations(publication) => publication.size_bytes(),
            Broadcast::Presence(events) => events.size_bytes(),
        }
    }

    /// Appends its protocol message for subscribers that call the channel `display_name`.
    pub fn encode(&self, format: Format, display_name: &str, out: &mut Vec<u8>) {
        match self {
            Broadcast::Messages(publication) => {
                ably::encode_publication(format, display_name, publication, out);
            }
            Broadcast::Annotations(publication) => {
                ably::encode_annotations(format, display_name, publication, out);
            }
            Broadcast::Presence(events) => {
                ably::encode_presence(format, display_name, events, out);
            }
        }
    }
}
