//! What shards write to each other.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::admission::SeatError;
use super::seats::{Holder, Seat};
use crate::ably::{
    Accepted, Answer, Change, ChannelSerial, Directory, ErrorInfo, FixtureMember, Format,
    Lifecycle, LifecycleEvent, Metrics, PresenceRequest, Principal, Publication, PublishResult,
    Question, Since, Survey,
};
use crate::channel::ChannelKey;
use crate::channel::home::StreamRef;
use crate::channel::log::{Link, PublisherId, TransportRef};
use crate::channel::view::View;
use crate::connection::{Connection, ConnectionId, ConnectionKey};

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

/// What a joining attachment is sent before the stream goes on.
#[derive(Debug)]
pub struct Joined {
    /// The attach point.
    pub serial: ChannelSerial,
    /// Whether nothing is missing since the point that the client named.
    pub resumed: bool,
    /// Why something is.
    pub error: Option<ErrorInfo>,
    /// Whether messages are among `frames`.
    pub has_backlog: bool,
    /// Whether the channel has presence members; the SYNC is among `frames`.
    pub has_members: bool,
    /// Whether the last message of `frames` is the one that the stream's next delta starts from.
    pub has_base: bool,
    /// Complete WebSocket frames, oldest first, several to a piece.
    pub frames: Vec<Bytes>,
}

/// An append to a message, for a stream that takes increments where they make sense.
pub struct Append {
    /// The stream it belongs to.
    pub stream: StreamRef,
    /// Its place in the order.
    pub serial: ChannelSerial,
    /// Who published it, when that was a connection.
    pub publisher: Option<PublisherId>,
    /// Whether the channel has presence members now.
    pub has_members: bool,
    /// The increment as one complete WebSocket frame, shared by all who get it.
    pub frame: Bytes,
    /// The message as a whole, for those who joined too late for the increment.
    pub version: Arc<Publication>,
    /// Of the newest version that everybody was sent as a whole.
    pub whole: ChannelSerial,
}

/// What a client wants of its members on one channel.
#[derive(Debug)]
pub struct MembersChange {
    /// What was checked by the shard that received it.
    pub request: PresenceRequest,
    /// Over which of the connection's transports it came, counted from the first.
    pub transport_count: u32,
    /// Members that a channel of the app may have.
    pub members_max: u32,
    /// How the client, which is not sent presence otherwise, is told of its own members (RTP17a).
    pub own: Option<(Format, Arc<str>)>,
}

/// What has become of a connection with members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionNews {
    /// It was heard over this transport, counted from its first.
    Heard {
        /// Which.
        transport_count: u32,
    },
    /// It has lost this transport.
    Lost {
        /// Which.
        transport_count: u32,
        /// How long its members stay.
        remain_present: Duration,
    },
    /// It has closed, failed or left the channel.
    Gone,
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
        /// What of the channel is wanted.
        view: View,
        /// What the sender calls the stream of these frames.
        stream: StreamRef,
    },
    /// From the home: everything behind `serial` will follow as [`Mail::Frame`].
    Subscribed {
        /// The stream that was asked for.
        stream: StreamRef,
        /// Whether the channel has presence members.
        has_members: bool,
        /// Of the last publication that is not part of it.
        serial: ChannelSerial,
    },
    /// From the home: it takes no such subscriber.
    Refused {
        /// The stream that was asked for.
        stream: StreamRef,
        /// Why.
        error: ErrorInfo,
    },
    /// To the home: what attachments there are to a subscribed stream.
    Counts {
        /// The channel.
        channel: ChannelKey,
        /// The stream.
        stream: StreamRef,
        /// How many of each kind.
        metrics: Metrics,
    },
    /// To the home: nobody listens to this stream any more.
    Unsubscribe {
        /// The channel.
        channel: ChannelKey,
        /// The stream that ends.
        stream: StreamRef,
    },
    /// To the home: an attachment to a subscribed stream needs the past, or the members; answered with
    /// [`Mail::Joined`].
    Join {
        /// Where the answer goes.
        reply_to: ReturnAddress,
        /// The channel.
        channel: ChannelKey,
        /// What its subscriber calls it.
        display_name: Arc<str>,
        /// In which format the frames shall come.
        format: Format,
        /// What of the channel is wanted.
        view: View,
        /// From where on.
        since: Since,
        /// The connection whose own messages are left out.
        skip: Option<ConnectionId>,
    },
    /// From the home: what a joining attachment is sent before the stream goes on.
    Joined {
        /// The transport that asked.
        transport: TransportRef,
        /// Its number for the request.
        request: u64,
        /// The answer.
        joined: Box<Joined>,
    },
    /// To the shard that has the connection, as its key says: hand it over; answered with
    /// [`Mail::Resumed`].
    Resume {
        /// The transport that wants it.
        reply_to: ReturnAddress,
        /// What the client presented.
        key: ConnectionKey,
        /// Who the client is.
        principal: Arc<Principal>,
    },
    /// The connection that was asked for, or why it cannot be had.
    Resumed {
        /// The transport that asked.
        transport: TransportRef,
        /// No publish of it is under way.
        result: Result<Box<Connection>, ErrorInfo>,
    },
    /// The transport that had asked is gone: the connection is to be kept for its next try.
    GiveBack {
        /// As it was handed over.
        connection: Box<Connection>,
    },
    /// To the home: members enter, change or leave; answered with [`Mail::MembersChanged`].
    ChangeMembers {
        /// Where the answer goes.
        reply_to: ReturnAddress,
        /// The channel.
        channel: ChannelKey,
        /// What to do.
        change: Box<MembersChange>,
    },
    /// From the home: how that went.
    MembersChanged {
        /// The transport that asked.
        transport: TransportRef,
        /// Its number for the request.
        request: u64,
        /// The event as a frame, if it was asked for and there is one; or why it was refused.
        result: Result<Option<Bytes>, ErrorInfo>,
    },
    /// To the home: of a connection that may have members on the channel.
    Connection {
        /// The channel.
        channel: ChannelKey,
        /// Which.
        id: ConnectionId,
        /// What there is to know.
        news: ConnectionNews,
    },
    /// To the home: a client wants to know all members; answered with [`Mail::Synced`].
    Sync {
        /// The transport that asks.
        transport: TransportRef,
        /// The stream through which it is attached.
        stream: StreamRef,
        /// The channel.
        channel: ChannelKey,
        /// What the client calls it.
        display_name: Arc<str>,
        /// In which format the frames shall come.
        format: Format,
    },
    /// From the home: the members of a channel.
    Synced {
        /// The transport that asked.
        transport: TransportRef,
        /// The stream through which it was attached.
        stream: StreamRef,
        /// Complete WebSocket frames, at least one.
        frames: Vec<Bytes>,
    },
    /// From the home: one event of the channel.
    Frame {
        /// The stream it belongs to.
        stream: StreamRef,
        /// Its place in the order.
        serial: ChannelSerial,
        /// Who published it, when that was a connection.
        publisher: Option<PublisherId>,
        /// Whether the channel has presence members now.
        has_members: bool,
        /// One complete WebSocket frame, shared by all who get it; none if the stream does not want
        /// this kind of event.
        frame: Option<Bytes>,
        /// Its place among deltas.
        link: Link,
    },
    /// From the home: one append to a message; boxed, since it is rare and would make all mail larger.
    Append(Box<Append>),
    /// From the home, behind frames of the stream: more waits until there is room for it; answered with
    /// [`Mail::Room`].
    WantRoom {
        /// The channel.
        channel: ChannelKey,
        /// The stream that is to have room.
        stream: StreamRef,
        /// The home's own number for the question.
        number: u64,
    },
    /// To the home: a stream of the channel has room.
    Room {
        /// The channel.
        channel: ChannelKey,
        /// Of the question.
        number: u64,
    },
    /// To the shard that remembers a nonce: note it; answered with [`Mail::Answer`].
    Nonce {
        /// Where the answer goes.
        reply_to: ReturnAddress,
        /// Digest of key name and nonce.
        nonce: [u8; 16],
    },
    /// To the registrar: change the directory; answered with [`Mail::Answer`] once every shard has it.
    Change {
        /// Where the answer goes.
        reply_to: ReturnAddress,
        /// What to change.
        change: Box<Change>,
    },
    /// From the registrar: take this directory; answered with [`Mail::DirectoryTaken`].
    Directory {
        /// Counts changes.
        version: u64,
        /// The apps from now on.
        directory: Arc<Directory>,
        /// Whether there may be connections that have no place in it.
        enforce: bool,
    },
    /// To the registrar: the sender has this change, and has ended what had to end.
    DirectoryTaken {
        /// Of the change.
        version: u64,
    },
    /// To the home: members that stand without a connection, in a channel of an app that is being made.
    Fixture {
        /// The channel, of which the reader is the home.
        channel: ChannelKey,
        /// In order.
        members: Vec<FixtureMember>,
    },
    /// From the home of a metachannel: somebody listens to it, or nobody does any more.
    Listeners {
        /// Whose metachannel.
        app_id: Box<str>,
        /// Which.
        kind: Lifecycle,
        /// Whether there are listeners now.
        is_heard: bool,
    },
    /// To the home of a metachannel: what it is to tell.
    Lifecycle {
        /// The metachannel.
        channel: ChannelKey,
        /// In order, at least one.
        events: Vec<LifecycleEvent>,
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
    /// To the shard that a connection key names: whose connection is it? Answered with [`Mail::Answer`].
    FindConnection {
        /// Where the answer goes.
        reply_to: ReturnAddress,
        /// The app that the connection has to be of.
        app_id: Arc<str>,
        /// The key.
        key: ConnectionKey,
    },
    /// To a shard: its part of what is known of an app; answered with [`Mail::Answer`].
    Survey {
        /// Where the answer goes.
        reply_to: ReturnAddress,
        /// The app.
        app_id: Arc<str>,
        /// What is asked.
        survey: Survey,
    },
    /// To the home of an address, or of a key: somebody wants to become a realtime transport; answered with
    /// [`Mail::SeatTaken`], by that of the key if both are counted.
    TakeSeat {
        /// Where the answer goes.
        reply_to: ReturnAddress,
        /// What is counted.
        seat: Box<Seat>,
        /// Whether that of the address is taken.
        has_address: bool,
    },
    /// Whether there was one.
    SeatTaken {
        /// The transport that asked.
        transport: TransportRef,
        /// Its number for the question.
        request: u64,
        /// What was asked for; nothing of it is taken if there was an error.
        seat: Box<Seat>,
        /// Which bound was met.
        result: Result<(), SeatError>,
    },
    /// To the home of an address, or of a key: it has one transport more, which was not asked for.
    HoldSeat(Holder),
    /// To the home of an address, or of a key: it has one transport less.
    GiveBackSeat(Holder),
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

impl Mail {
    /// Bytes of messages in it, about.
    fn message_bytes(&self) -> u64 {
        match self {
            Mail::Publish { accepted, .. } => accepted.size_bytes(),
            Mail::Frame { frame: Some(frame), .. } => frame.len() as u64,
            Mail::Append(append) => append.frame.len() as u64,
            _ => 0,
        }
    }
}

/// Bytes of messages in the mail that waits for one shard; beyond it publishes are refused, as beyond
/// [`ShardConfig::mail_max`](super::ShardConfig::mail_max).
const OUTBOX_BYTES_MAX: u64 = 32 << 20;

/// The mail that waits for one shard, oldest first.
#[derive(Default)]
pub(super) struct Outbox {
    mail: VecDeque<Mail>,
    message_bytes: u64,
}

impl Outbox {
    /// How much waits.
    pub fn len(&self) -> usize {
        self.mail.len()
    }

    /// Bytes of messages in it, about.
    pub fn message_bytes(&self) -> u64 {
        self.message_bytes
    }

    /// Whether nothing that can be refused is to be added.
    pub fn is_full(&self, mail_max: usize) -> bool {
        self.mail.len() >= mail_max || self.message_bytes >= OUTBOX_BYTES_MAX
    }

    /// Adds the newest.
    pub fn push_back(&mut self, mail: Mail) {
        self.message_bytes += mail.message_bytes();
        self.mail.push_back(mail);
    }

    /// Takes back the oldest.
    pub fn push_front(&mut self, mail: Mail) {
        self.message_bytes += mail.message_bytes();
        self.mail.push_front(mail);
    }

    /// Hands out the oldest.
    pub fn pop_front(&mut self) -> Option<Mail> {
        let mail = self.mail.pop_front()?;
        self.message_bytes -= mail.message_bytes();
        Some(mail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ably::{SerialClock, SeriesId};

    #[test]
    fn an_outbox_is_full_by_number_or_by_bytes() {
        let serial = SerialClock::new(SeriesId::new([0; 10])).next(1);
        let mail = |bytes: usize| Mail::Frame {
            stream: StreamRef { index: 0, generation: 0 },
            serial,
            publisher: None,
            has_members: false,
            frame: Some(Bytes::from(vec![0; bytes])),
            link: Link::default(),
        };
        let mut outbox = Outbox::default();
        outbox.push_back(mail(1 << 20));
        assert!(!outbox.is_full(2));
        outbox.push_back(mail(10));
        assert!(outbox.is_full(2) && !outbox.is_full(3));
        (0..31).for_each(|_| outbox.push_back(mail(1 << 20)));
        assert!(outbox.is_full(usize::MAX));
        let oldest = outbox.pop_front().expect("the first");
        assert!(!outbox.is_full(usize::MAX));
        outbox.push_front(oldest);
        assert!(outbox.is_full(usize::MAX));
        while outbox.pop_front().is_some() {}
        assert_eq!((outbox.len(), outbox.message_bytes), (0, 0));
    }
}
