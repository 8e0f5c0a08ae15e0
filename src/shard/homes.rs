//! The channels that are at home on this shard, and what other shards ask of them.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::mail::Joined;
use super::{Mail, ReturnAddress, Shard};
use crate::ably::{
    Accepted, Answer, ErrorCode, ErrorInfo, Format, Messages, Publication, PublishResult, Question,
    SeriesId, Since, Wants,
};
use crate::base::Now;
use crate::channel::ChannelKey;
use crate::channel::broadcast::Broadcast;
use crate::channel::history::HistoryConfig;
use crate::channel::home::{HomeChannel, Published, StreamRef, Subscriber};
use crate::channel::log::{SEND_BYTES_MAX, TransportRef};
use crate::channel::view::{Past, View};
use crate::connection::ConnectionId;
use crate::ws::{Data, FrameBuilder, OpCode};

/// Pause between two sweeps over the channels, in milliseconds.
const SWEEP_MS: u64 = 1000;

/// Channels that one sweep looks at, so that it never holds up a turn.
const SWEEP_CHANNELS: usize = 4096;

/// Bytes of an encoded message beyond its data, about; saves growing the frame.
const ENVELOPE_BYTES: usize = 320;

/// Channels by key; each lives until nobody subscribes and its history has run out.
pub(super) struct Homes {
    channels: HashMap<ChannelKey, HomeChannel>,
    /// Every channel once, in the order in which they are looked at.
    sweep_order: VecDeque<ChannelKey>,
    swept_ms: u64,
    /// Sum of the channels' histories.
    history_bytes: u64,
    config: HistoryConfig,
    series: SeriesId,
}

impl Homes {
    pub fn new(series: SeriesId, config: HistoryConfig) -> Homes {
        Homes {
            channels: HashMap::new(),
            sweep_order: VecDeque::new(),
            swept_ms: 0,
            history_bytes: 0,
            config,
            series,
        }
    }

    /// When the next sweep is due, if there is something to sweep.
    pub fn next_sweep_ms(&self) -> Option<u64> {
        (!self.channels.is_empty()).then(|| self.swept_ms + SWEEP_MS)
    }

    fn open(&mut self, now: Now, key: ChannelKey) -> &mut HomeChannel {
        let (series, sweep_order) = (self.series, &mut self.sweep_order);
        self.channels.entry(key.clone()).or_insert_with(|| {
            sweep_order.push_back(key.clone());
            HomeChannel::new(now, key, series)
        })
    }

    /// Publishes, and keeps the history within its bounds.
    fn publish(&mut self, now: Now, key: ChannelKey, messages: Messages) -> Published {
        let total_bytes = self.history_bytes;
        let config = self.config.clone();
        let channel = self.open(now, key);
        let before_bytes = channel.history_bytes();
        let published = channel.publish(now, messages);
        // What all channels hold together beyond the bound is taken from the one that grows.
        let added_bytes = channel.history_bytes() - before_bytes;
        let over_bytes = (total_bytes + added_bytes).saturating_sub(config.shard_bytes_max);
        let own_max = channel.history_bytes().saturating_sub(over_bytes);
        channel.trim(now, &config, own_max.min(config.channel_bytes_max));
        self.history_bytes = total_bytes - before_bytes + channel.history_bytes();
        published
    }

    /// Forgets what has run out, some channels at a time.
    fn sweep(&mut self, now: Now) {
        if now.mono_ms < self.swept_ms + SWEEP_MS {
            return;
        }
        self.swept_ms = now.mono_ms;
        for _ in 0..SWEEP_CHANNELS.min(self.sweep_order.len()) {
            let key = self.sweep_order.pop_front().expect("counted above");
            let channel = self.channels.get_mut(&key).expect("swept channels exist");
            let before_bytes = channel.history_bytes();
            channel.trim(now, &self.config, self.config.channel_bytes_max);
            self.history_bytes -= before_bytes - channel.history_bytes();
            if channel.is_idle(now) {
                self.channels.remove(&key);
            } else {
                self.sweep_order.push_back(key);
            }
        }
    }
}

/// Who joins a subscribed stream, and from where on.
pub(super) struct Joining {
    pub display_name: Arc<str>,
    pub format: Format,
    pub view: View,
    pub since: Since,
    /// The connection whose own messages are left out.
    pub skip: Option<ConnectionId>,
}

/// One encoding for each format and name in use, made when the first subscriber wants it.
struct EncodedOnce<'a> {
    event: &'a Broadcast,
    frames: Vec<(Format, Arc<str>, Bytes)>,
}

impl EncodedOnce<'_> {
    fn frame(&mut self, subscriber: &Subscriber) -> Bytes {
        let known = self.frames.iter().find(|(format, name, _)| {
            *format == subscriber.format && *name == subscriber.display_name
        });
        if let Some((_, _, frame)) = known {
            return frame.clone();
        }
        let frame = encode(self.event, subscriber.format, &subscriber.display_name);
        let name = Arc::clone(&subscriber.display_name);
        self.frames.push((subscriber.format, name, frame.clone()));
        frame
    }
}

/// The complete WebSocket frame of an event.
fn encode(event: &Broadcast, format: Format, display_name: &str) -> Bytes {
    let opcode = match format {
        Format::Json => OpCode::Data(Data::Text),
        Format::MsgPack => OpCode::Data(Data::Binary),
    };
    let capacity = event.size_bytes() as usize + ENVELOPE_BYTES;
    let mut frame = FrameBuilder::with_capacity(opcode, capacity);
    event.encode(format, display_name, frame.payload());
    frame.finish()
}

/// The frames of what a joining attachment has missed, laid together into pieces of one send each.
fn encode_replay(missed: &[Arc<Publication>], joining: &Joining) -> Vec<Bytes> {
    let skip = joining.skip.as_ref().map(ConnectionId::as_str);
    let mut pieces = Vec::new();
    let mut piece = BytesMut::new();
    for publication in missed {
        if skip.is_some() && publication.connection_id.as_deref() == skip {
            continue;
        }
        let event = Broadcast::Messages(Arc::clone(publication));
        let frame = encode(&event, joining.format, &joining.display_name);
        if !piece.is_empty() && piece.len() + frame.len() > SEND_BYTES_MAX {
            pieces.push(piece.split().freeze());
        }
        piece.extend_from_slice(&frame);
    }
    if !piece.is_empty() {
        pieces.push(piece.freeze());
    }
    pieces
}

impl Shard {
    /// A publish for a channel that is at home here.
    pub(super) fn handle_publish(
        &mut self,
        reply_to: ReturnAddress,
        channel: ChannelKey,
        accepted: Accepted,
    ) {
        let result = self.publish_here(reply_to, channel, accepted);
        let ReturnAddress { shard, transport, request } = reply_to;
        self.post(usize::from(shard), Mail::Published { transport, request, result });
    }

    fn publish_here(
        &mut self,
        reply_to: ReturnAddress,
        key: ChannelKey,
        accepted: Accepted,
    ) -> Result<PublishResult, ErrorInfo> {
        // Refused before it has a place in the order: a frame that exists is never dropped.
        let subscribers = self.homes.channels.get(&key).map_or(&[][..], HomeChannel::subscribers);
        let congested = |subscriber: &Subscriber| {
            subscriber.shard != self.id
                && self.outboxes[usize::from(subscriber.shard)].len() >= self.config.mail_max
        };
        if subscribers.iter().any(congested) {
            let text = "a core that subscribes to this channel is behind; try again";
            return Err(ErrorInfo::new(ErrorCode::BUSY, text));
        }
        let from_connection = accepted.is_from_connection();
        let Accepted::Messages(messages) = accepted else {
            let text = "messages of this channel cannot be changed or annotated";
            return Err(ErrorInfo::new(ErrorCode::MUTATION_NOT_ENABLED, text));
        };
        let publication = match self.homes.publish(self.now, key.clone(), messages) {
            Published::New(publication) => publication,
            Published::Repeated(publication) => return Ok(PublishResult::of(&publication)),
        };
        self.counters.published += publication.messages.len() as u64;
        let publisher = from_connection.then_some((reply_to.shard, reply_to.transport));
        let result = PublishResult::of(&publication);
        self.broadcast(&key, &Broadcast::Messages(publication), publisher);
        Ok(result)
    }

    /// Sends an event of a channel that is at home here to all streams; those that do not want it
    /// learn its serial alone.
    pub(super) fn broadcast(
        &mut self,
        key: &ChannelKey,
        event: &Broadcast,
        publisher: Option<(u16, TransportRef)>,
    ) {
        let Some(home) = self.homes.channels.get(key) else { return };
        let (kind, serial, has_members) = (event.kind(), event.serial(), home.has_members());
        let mut encoded = EncodedOnce { event, frames: Vec::new() };
        for subscriber in home.subscribers() {
            let is_wanted = subscriber.view.wants.contains(kind);
            let frame = is_wanted.then(|| encoded.frame(subscriber));
            let stream = subscriber.stream;
            self.outboxes[usize::from(subscriber.shard)].push_back(Mail::Frame {
                stream,
                serial,
                publisher,
                has_members,
                frame,
            });
        }
    }

    /// Another shard, or this one, has subscribers for a channel that is at home here.
    pub(super) fn handle_subscribe(&mut self, channel: ChannelKey, subscriber: Subscriber) {
        let (shard, stream) = (subscriber.shard, subscriber.stream);
        let home = self.homes.open(self.now, channel);
        home.subscribe(subscriber);
        let (serial, has_members) = (home.last_serial(), home.has_members());
        self.post(usize::from(shard), Mail::Subscribed { stream, serial, has_members });
    }

    /// An attachment wants what it has missed, and who is present.
    pub(super) fn handle_join(
        &mut self,
        reply_to: ReturnAddress,
        channel: ChannelKey,
        joining: &Joining,
    ) {
        let home = self.homes.open(self.now, channel);
        let Past { serial, resumed, error, publications } =
            home.past(self.now, &joining.since, self.config.replay_bytes_max.into());
        let missed = match joining.view.wants.contains(Wants::MESSAGES) {
            true => &publications[..],
            false => &[],
        };
        let frames = encode_replay(missed, joining);
        let joined = Joined {
            serial,
            resumed,
            error,
            has_backlog: !frames.is_empty(),
            has_members: home.has_members(),
            frames,
        };
        let ReturnAddress { shard, transport, request } = reply_to;
        let joined = Box::new(joined);
        self.post(usize::from(shard), Mail::Joined { transport, request, joined });
    }

    /// A shard has no subscribers left for a stream.
    pub(super) fn handle_unsubscribe(
        &mut self,
        shard: u16,
        channel: &ChannelKey,
        stream: StreamRef,
    ) {
        let keep = self.config.connection.state_ttl;
        if let Some(home) = self.homes.channels.get_mut(channel) {
            home.unsubscribe(self.now, shard, stream, keep);
        }
    }

    /// Somebody asks about a channel that is at home here.
    pub(super) fn handle_ask(
        &mut self,
        reply_to: ReturnAddress,
        channel: &ChannelKey,
        question: &Question,
    ) {
        // Not opened by asking: a channel that was never used has no history and no members.
        let home = self.homes.channels.get(channel);
        let answer = Ok(match question {
            Question::History(query) => {
                Answer::History(home.map(|home| home.read_history(query)).unwrap_or_default())
            }
        });
        let ReturnAddress { shard, transport, request } = reply_to;
        self.post(usize::from(shard), Mail::Answer { transport, request, answer });
    }

    pub(super) fn sweep_homes(&mut self) {
        self.homes.sweep(self.now);
    }
}
