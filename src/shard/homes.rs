//! The channels that are at home on this shard, and what other shards ask of them.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::mail::{Append, Joined};
use super::streams::Stream;
use super::{Mail, ReturnAddress, Shard};
use crate::ably::{
    Accepted, Answer, ErrorCode, ErrorInfo, Format, Position, PublishResult, Question, SeriesId,
    Since, no_such_message,
};
use crate::base::Now;
use crate::channel::ChannelKey;
use crate::channel::broadcast::Broadcast;
use crate::channel::history::HistoryConfig;
use crate::channel::home::{Annotated, HomeChannel, Published, StreamRef, Subscriber};
use crate::channel::log::{SEND_BYTES_MAX, TransportRef};
use crate::channel::revisions::{Revised, SUMMARY_PAUSE_MS};
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
    /// Messages whose summary was told within the last pause, with the end of that, oldest first. Each
    /// is in it once and is kept in a history, so there are no more than that has room for.
    summary_pauses: VecDeque<(u64, ChannelKey, Position)>,
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
            summary_pauses: VecDeque::new(),
        }
    }

    /// When the next sweep or the next summary is due, if there is something to sweep.
    pub fn next_timeout_ms(&self) -> Option<u64> {
        let sweep_ms = (!self.channels.is_empty()).then(|| self.swept_ms + SWEEP_MS);
        let summary_ms = self.summary_pauses.front().map(|(until_ms, ..)| *until_ms);
        sweep_ms.into_iter().chain(summary_ms).min()
    }

    fn open(&mut self, now: Now, key: ChannelKey) -> &mut HomeChannel {
        let (series, sweep_order) = (self.series, &mut self.sweep_order);
        self.channels.entry(key.clone()).or_insert_with(|| {
            sweep_order.push_back(key.clone());
            HomeChannel::new(now, key, series)
        })
    }

    /// Changes a channel, and keeps the history within its bounds; `None`: it does not exist.
    fn change<R>(
        &mut self,
        now: Now,
        key: &ChannelKey,
        change: impl FnOnce(&mut HomeChannel) -> R,
    ) -> Option<R> {
        let channel = self.channels.get_mut(key)?;
        let others_bytes = self.history_bytes - channel.history_bytes();
        let result = change(channel);
        // What all channels hold together beyond the bound is taken from the one that grows.
        let own_max = self.config.shard_bytes_max.saturating_sub(others_bytes);
        channel.trim(now, &self.config, own_max.min(self.config.channel_bytes_max));
        self.history_bytes = others_bytes + channel.history_bytes();
        Some(result)
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
fn encode_replay(missed: &[Broadcast], joining: &Joining) -> Vec<Bytes> {
    let skip = joining.skip.as_ref().map(ConnectionId::as_str);
    let mut pieces = Vec::new();
    let mut piece = BytesMut::new();
    for event in missed {
        let is_own = skip.is_some() && event.connection_id() == skip;
        if is_own || !joining.view.wants.contains(event.kind()) {
            continue;
        }
        let frame = encode(event, joining.format, &joining.display_name);
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
        if self.is_congested(&key) {
            let text = "a core that subscribes to this channel is behind; try again";
            return Err(ErrorInfo::new(ErrorCode::BUSY, text));
        }
        let publisher =
            accepted.is_from_connection().then_some((reply_to.shard, reply_to.transport));
        let now = self.now;
        match accepted {
            Accepted::Messages(messages) => {
                self.homes.open(now, key.clone());
                let published = self.homes.change(now, &key, |home| home.publish(now, messages));
                let publication = match published.expect("opened") {
                    Published::New(publication) => publication,
                    Published::Repeated(result) => return Ok(result),
                };
                self.counters.published += publication.messages.len() as u64;
                let result = PublishResult::of(&publication);
                self.broadcast(&key, &Broadcast::Messages(publication), publisher);
                Ok(result)
            }
            Accepted::Mutation(mutation) => {
                let revised = self.homes.change(now, &key, |home| home.revise(now, &mutation));
                let revised = revised.ok_or_else(no_such_message)??;
                self.counters.published += 1;
                let result = PublishResult::of(&revised.version);
                self.broadcast_revision(&key, &revised, publisher);
                Ok(result)
            }
            Accepted::Annotations(annotations) => {
                let annotated =
                    self.homes.change(now, &key, |home| home.annotate(now, *annotations));
                let (publication, to_tell) = match annotated.ok_or_else(no_such_message)?? {
                    Annotated::New { publication, to_tell } => (publication, to_tell),
                    Annotated::Repeated(result) => return Ok(result),
                };
                let result = publication.result();
                self.broadcast(&key, &Broadcast::Annotations(publication), publisher);
                for message in to_tell {
                    self.tell_summary(&key, message);
                }
                Ok(result)
            }
        }
    }

    /// Whether some core that subscribes to the channel has no room for more mail.
    fn is_congested(&self, key: &ChannelKey) -> bool {
        let subscribers = self.homes.channels.get(key).map_or(&[][..], HomeChannel::subscribers);
        subscribers.iter().any(|subscriber| {
            subscriber.shard != self.id
                && self.outboxes[usize::from(subscriber.shard)].len() >= self.config.mail_max
        })
    }

    /// Tells a message's summary, and lets the next one wait. This one waits, too, while a core is
    /// behind.
    fn tell_summary(&mut self, key: &ChannelKey, message: Position) {
        let now = self.now;
        let is_congested = self.is_congested(key);
        let summary = self.homes.change(now, key, |home| match is_congested {
            true => home.postpone_summary(message).then_some(None),
            false => home.tell_summary(now, message).map(Some),
        });
        // The message may be gone, or its channel.
        let Some(summary) = summary.flatten() else { return };
        let until_ms = now.mono_ms + SUMMARY_PAUSE_MS;
        self.homes.summary_pauses.push_back((until_ms, key.clone(), message));
        if let Some(summary) = summary {
            self.broadcast(key, &Broadcast::Messages(summary), None);
        }
    }

    /// Tells the summaries that had to wait.
    pub(super) fn tell_summaries(&mut self) {
        let now_ms = self.now.mono_ms;
        while let Some((_, key, message)) =
            self.homes.summary_pauses.pop_front_if(|(until_ms, ..)| *until_ms <= now_ms)
        {
            let Some(home) = self.homes.channels.get_mut(&key) else { continue };
            if home.summary_pause_over(message) {
                self.tell_summary(&key, message);
            }
        }
    }

    /// Sends a new version of a message to all streams; of an append those get the whole message who
    /// have asked for that, and the others learn from the stream which of both they need.
    fn broadcast_revision(
        &mut self,
        key: &ChannelKey,
        revised: &Revised,
        publisher: Option<(u16, TransportRef)>,
    ) {
        let whole = Broadcast::Messages(Arc::clone(&revised.version));
        let Some(increment) = &revised.increment else {
            return self.broadcast(key, &whole, publisher);
        };
        let Some(home) = self.homes.channels.get(key) else { return };
        let increment = Broadcast::Messages(Arc::clone(increment));
        let (kind, serial, has_members) = (whole.kind(), whole.serial(), home.has_members());
        let mut wholes = EncodedOnce { event: &whole, frames: Vec::new() };
        let mut increments = EncodedOnce { event: &increment, frames: Vec::new() };
        for subscriber in home.subscribers() {
            let stream = subscriber.stream;
            let is_wanted = subscriber.view.wants.contains(kind);
            let mail = if is_wanted && !subscriber.view.whole_appends {
                Mail::Append(Box::new(Append {
                    stream,
                    serial,
                    publisher,
                    has_members,
                    frame: increments.frame(subscriber),
                    version: Arc::clone(&revised.version),
                    whole: revised.whole,
                }))
            } else {
                let frame = is_wanted.then(|| wholes.frame(subscriber));
                Mail::Frame { stream, serial, publisher, has_members, frame }
            };
            self.outboxes[usize::from(subscriber.shard)].push_back(mail);
        }
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
        let Past { serial, resumed, error, events } =
            home.past(self.now, &joining.since, self.config.replay_bytes_max.into());
        let frames = encode_replay(&events, joining);
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
        let answer = match question {
            Question::History(query) => {
                Ok(Answer::History(home.map(|home| home.read_history(query)).unwrap_or_default()))
            }
            Question::Message(message) => {
                let item = home.and_then(|home| home.message(*message));
                item.map(Answer::Message).ok_or_else(no_such_message)
            }
            Question::Versions(message, query) => {
                let page = home.and_then(|home| home.versions(*message, query));
                page.map(Answer::History).ok_or_else(no_such_message)
            }
            Question::Annotations(message, query) => {
                let page = home.and_then(|home| home.annotations(*message, query));
                page.map(Answer::Annotations).ok_or_else(no_such_message)
            }
            Question::ClientSummary(message, client_id) => {
                let summary = home.and_then(|home| home.client_summary(*message, client_id));
                summary.map(Answer::Json).ok_or_else(no_such_message)
            }
        };
        let ReturnAddress { shard, transport, request } = reply_to;
        self.post(usize::from(shard), Mail::Answer { transport, request, answer });
    }

    /// The complete WebSocket frame of a message for a stream of this shard.
    pub(super) fn encode_for(stream: &Stream, event: &Broadcast) -> Bytes {
        encode(event, stream.name.format, &stream.name.display_name)
    }

    pub(super) fn sweep_homes(&mut self) {
        self.homes.sweep(self.now);
    }
}
