//! What shards write to each other.

use std::sync::Arc;

use bytes::Bytes;

use crate::ably::{Accepted, Answer, ChannelSerial, ErrorInfo, Format, PublishResult, Question};
use crate::channel::ChannelKey;
use crate::channel::home::StreamRef;
use crate::channel::log::TransportRef;

/// Who waits for an answer: a transport of some shard, and which of its requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReturnAddress {
    /// The shard that holds the transport.
    pub shard: u16,
    /// The transport there.
    pub transport: TransportRef,
    /// The transport's own number for the request.
    pub request: u64,
}

/// One letter. Mail between two shards arrives in the order in which it was sent; everything else
/// that the protocol promises of order rests on that.
pub enum Mail {
    /// To the home: publish this; answered with [`Mail::Published`].
    Publish {
        /// Where the answer goes.
        reply_to: ReturnAddress,
        /// The channel, of which the reader is the home.
        channel: ChannelKey,
        /// What was checked by the shard that received it.
        accepted: Accepted,
    },
    /// From the home: how a publish went.
    Published {
        /// The transport that asked.
        transport: TransportRef,
        /// Its number for the request.
        request: u64,
        /// Ids and serials, or why it was refused.
        result: Result<PublishResult, ErrorInfo>,
    },
    /// To the home: the sender has subscribers of this channel; answered with [`Mail::Subscribed`].
    Subscribe {
        /// The channel.
        channel: ChannelKey,
        /// What its subscribers call it, and find in the frames.
        display_name: Arc<str>,
        /// In which format the frames shall come.
        format: Format,
        /// What the sender calls the stream of these frames.
        stream: StreamRef,
    },
    /// From the home: every publication behind `serial` will follow as [`Mail::Frame`].
    Subscribed {
        /// The stream that was asked for.
        stream: StreamRef,
        /// Of the last publication that is not part of it.
        serial: ChannelSerial,
    },
    /// To the home: nobody listens to this stream any more.
    Unsubscribe {
        /// The channel.
        channel: ChannelKey,
        /// The stream that ends.
        stream: StreamRef,
    },
    /// From the home: one publication, encoded.
    Frame {
        /// The stream it belongs to.
        stream: StreamRef,
        /// Of the publication.
        serial: ChannelSerial,
        /// Who published it, when that was a connection.
        publisher: Option<(u16, TransportRef)>,
        /// One complete WebSocket frame, shared by all who get it.
        frame: Bytes,
    },
    /// To the home: a question that changes nothing; answered with [`Mail::Answer`].
    Ask {
        /// Where the answer goes.
        reply_to: ReturnAddress,
        /// The channel, of which the reader is the home.
        channel: ChannelKey,
        /// What is asked.
        question: Question,
    },
    /// The answer to [`Mail::Ask`].
    Answer {
        /// The transport that asked.
        transport: TransportRef,
        /// Its number for the question.
        request: u64,
        /// What is so, or why that cannot be said.
        answer: Result<Answer, ErrorInfo>,
    },
}
