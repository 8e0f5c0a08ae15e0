//! One socket as its shard sees it: who speaks over it, what is owed to it, when it was last heard.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use super::events::EventStream;
use super::http::Waiting;
use super::seats::{AddressId, Taken};
use crate::ably::Key;
use crate::base::AddressBlock;
use crate::channel::log::TransportRef;
use crate::connection::{Connection, Opening};
use crate::http::RequestParser;
use crate::sys::SendBuf;
use crate::ws::{self, Window};

/// What a send in flight carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InFlight {
    /// Nothing is in flight.
    Nothing,
    /// Bytes of the lane, or frames of a stream that the transport has left meanwhile.
    Unaccounted,
    /// Frames of a stream; the transport's cursor there moves when they were taken. All is kept
    /// here so that a completion has no need to look into the connection.
    Stream { stream: u32, cursor: u32, log_bytes: u32 },
}

/// Who speaks over the transport.
pub(super) enum Stage {
    /// The index is not in use.
    Free,
    /// HTTP requests, one after another. Boxed, since most transports are WebSockets soon.
    Http(Box<HttpStage>),
    /// A WebSocket whose seat or connection is looked for.
    Opening(Box<Opened>),
    /// Ably's realtime protocol.
    Realtime(ws::Decoder, Box<Connection>),
    /// Events over HTTP; what comes is dropped.
    Events(Box<EventStream>),
    /// Sends back what comes; conformance tests only.
    Echo(ws::Decoder),
    /// What is owed is still sent, what comes is dropped. A WebSocket keeps its decoder: the peer's
    /// close frame ends the wait for it.
    Leaving(Option<ws::Decoder>),
    /// The ring is closing it.
    Closing,
}

/// A transport whose seat or connection is looked for.
pub(super) struct Opened {
    pub opening: Opening,
    /// The window of messages that are compressed on the transport, if they may be.
    pub window: Option<Window>,
    /// What the client has sent meanwhile.
    pub early: Vec<u8>,
}

/// A transport that speaks HTTP.
pub(super) struct HttpStage {
    pub parser: RequestParser,
    /// When the first byte of the next request came, or the last request was complete.
    pub began_ms: u64,
    /// The request whose answers are on their way.
    pub waiting: Option<Waiting>,
    /// Counts questions, so that an answer finds its own.
    pub asked: u64,
    /// Whose request it is, if that is counted.
    pub client: Option<AddressBlock>,
}

/// What follows once the lane is empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// The transport goes on.
    No,
    /// Closed at once: the peer has said all it wanted to.
    Close,
    /// Closed when the peer closes or after a grace, so that it reads what was sent last.
    Linger,
    /// The same, but the peer is shown the end of what is sent: it may not close before it sees that.
    HalfClose,
}

/// Frames for one transport alone: what its attachments missed, and who is present.
type Backlog = VecDeque<Owing>;

/// A piece of a backlog.
struct Owing {
    /// The stream that it belongs to.
    stream: u32,
    /// Whether it is part of a SYNC, or stands behind or before one.
    has_sync: bool,
    piece: SendBuf,
}

pub(super) struct Transport {
    pub generation: u32,
    pub in_flight: InFlight,
    pub stage: Stage,
    pub ending: Ending,
    /// Whether it waits in the shard's queue of transports that may have something to send.
    pub is_ready: bool,
    /// Whether more than one attachment may have something to send.
    pub has_many: bool,
    /// What it has taken of what is counted over all shards.
    pub taken: Taken,
    /// Where it comes from, if that is counted; with a seat, whose that is.
    pub address: AddressId,
    /// When the timer wheel hands it out, in its ticks; 0: never. The entry may stem from
    /// an earlier use of the index.
    pub watched_until: u32,
    /// Control frames and HTTP responses: they overtake streams between two sends.
    lane: Vec<u8>,
    /// What an attachment is owed before its stream goes on. `None` while there is nothing.
    backlog: Option<Box<Backlog>>,
    /// When the send in flight began, or the last one did.
    pub sent_ms: u64,
    pub received_ms: u64,
}

impl Transport {
    pub fn unused() -> Transport {
        Transport {
            generation: 0,
            in_flight: InFlight::Nothing,
            stage: Stage::Free,
            ending: Ending::No,
            is_ready: false,
            has_many: false,
            taken: Taken::default(),
            address: AddressId::NONE,
            watched_until: 0,
            lane: Vec::new(),
            backlog: None,
            sent_ms: 0,
            received_ms: 0,
        }
    }

    /// Begins another use of the index.
    pub fn open(&mut self, now_ms: u64, parser: RequestParser) {
        assert!(matches!(self.stage, Stage::Free), "the ring hands out free slots only");
        *self = Transport {
            generation: self.generation.wrapping_add(1),
            stage: Stage::Http(Box::new(HttpStage {
                parser,
                began_ms: now_ms,
                waiting: None,
                asked: 0,
                client: None,
            })),
            watched_until: self.watched_until,
            is_ready: self.is_ready,
            sent_ms: now_ms,
            received_ms: now_ms,
            ..Transport::unused()
        };
    }

    pub fn address(&self, index: u32) -> TransportRef {
        TransportRef { index, generation: self.generation }
    }

    pub fn is_idle(&self) -> bool {
        self.in_flight == InFlight::Nothing
    }

    /// Whether nothing is owed to it and nothing in flight.
    pub fn is_settled(&self) -> bool {
        self.is_idle() && self.lane.is_empty()
    }

    /// Whether a request on it waits for its answer.
    pub fn is_waiting(&self) -> bool {
        matches!(&self.stage, Stage::Http(http) if http.waiting.is_some())
    }

    /// Bytes in the lane.
    pub fn lane_bytes(&self) -> usize {
        self.lane.len()
    }

    /// Bytes in lane and backlog.
    pub fn owed_bytes(&self) -> u64 {
        let backlog = self.backlog.iter().flat_map(|backlog| backlog.iter());
        let backlog_bytes: u64 = backlog.map(|owing| u64::from(owing.piece.len())).sum();
        self.lane.len() as u64 + backlog_bytes
    }

    /// Where control frames and responses are appended.
    pub fn lane(&mut self) -> &mut Vec<u8> {
        &mut self.lane
    }

    /// Everything in the lane, as one send.
    pub fn take_lane(&mut self) -> Option<SendBuf> {
        let lane = std::mem::take(&mut self.lane);
        (!lane.is_empty()).then(|| SendBuf::whole(Bytes::from(lane)))
    }

    /// Whether anything is owed to it beyond what its one cursor, if it has one, is behind.
    pub fn has_more(&self) -> bool {
        self.has_many || !self.lane.is_empty() || self.backlog.is_some()
    }

    /// Adds to what the attachment to `stream` is owed before the stream goes on; `has_sync` tells whether
    /// a SYNC is among it.
    pub fn push_backlog(
        &mut self,
        stream: u32,
        has_sync: bool,
        pieces: impl IntoIterator<Item = SendBuf>,
    ) {
        let mut pieces = pieces.into_iter().peekable();
        if pieces.peek().is_some() {
            let backlog = self.backlog.get_or_insert_default();
            backlog.extend(pieces.map(|piece| Owing { stream, has_sync, piece }));
        }
    }

    /// Whether the attachment to `stream` is owed something before its stream goes on.
    pub fn has_backlog_of(&self, stream: u32) -> bool {
        self.backlog_of(stream).next().is_some()
    }

    /// Whether the attachment to `stream` is about to be sent a SYNC.
    pub fn has_sync_of(&self, stream: u32) -> bool {
        self.backlog_of(stream).any(|owing| owing.has_sync)
    }

    fn backlog_of(&self, stream: u32) -> impl Iterator<Item = &Owing> {
        let all = self.backlog.iter().flat_map(|backlog| backlog.iter());
        all.filter(move |owing| owing.stream == stream)
    }

    /// The next piece of the backlog.
    pub fn take_backlog(&mut self) -> Option<SendBuf> {
        let backlog = self.backlog.as_mut()?;
        let piece = backlog.pop_front().map(|owing| owing.piece);
        if backlog.is_empty() {
            self.backlog = None;
        }
        piece
    }

    /// Takes out what the attachment to `stream` is owed.
    pub fn take_backlog_of(&mut self, stream: u32) -> Vec<SendBuf> {
        let Some(backlog) = &mut self.backlog else { return Vec::new() };
        let (of_stream, others): (Backlog, Backlog) =
            std::mem::take(&mut **backlog).into_iter().partition(|owing| owing.stream == stream);
        self.backlog = (!others.is_empty()).then(|| Box::new(others));
        of_stream.into_iter().map(|owing| owing.piece).collect()
    }

    /// Drops everything that it is owed beside its streams: it is being closed, and its place in the queue
    /// of those that have something to send may come up later than its end.
    pub fn drop_owed(&mut self) {
        self.lane = Vec::new();
        self.backlog = None;
    }

    /// The connection, and the lane that it speaks into.
    pub fn speak(&mut self) -> Option<(&mut Connection, &mut Vec<u8>)> {
        match &mut self.stage {
            Stage::Realtime(_, connection) => Some((connection, &mut self.lane)),
            _ => None,
        }
    }

    /// The decoder of an echo, and the lane that the echo goes into.
    pub fn echo(&mut self) -> Option<(&mut ws::Decoder, &mut Vec<u8>)> {
        match &mut self.stage {
            Stage::Echo(decoder) => Some((decoder, &mut self.lane)),
            _ => None,
        }
    }

    pub fn connection(&mut self) -> Option<&mut Connection> {
        match &mut self.stage {
            Stage::Realtime(_, connection) => Some(connection),
            Stage::Events(stream) => Some(&mut stream.connection),
            _ => None,
        }
    }

    /// The window of what it is sent compressed, if it was agreed that messages may be.
    pub fn window(&self) -> Option<Window> {
        match &self.stage {
            Stage::Realtime(decoder, _) => decoder.window(),
            _ => None,
        }
    }

    /// The events that it is a stream of, and the lane that goes with them.
    pub fn events(&mut self) -> Option<(&mut EventStream, &mut Vec<u8>)> {
        match &mut self.stage {
            Stage::Events(stream) => Some((stream, &mut self.lane)),
            _ => None,
        }
    }

    /// The key of whoever speaks over it, or is about to.
    pub fn key(&self) -> Option<&Arc<Key>> {
        let principal = match &self.stage {
            Stage::Opening(opened) => opened.opening.principal(),
            _ => self.peek_connection()?.principal(),
        };
        Some(principal.key())
    }

    /// The connection, to look at.
    pub fn peek_connection(&self) -> Option<&Connection> {
        match &self.stage {
            Stage::Realtime(_, connection) => Some(connection),
            Stage::Events(stream) => Some(&stream.connection),
            _ => None,
        }
    }
}
