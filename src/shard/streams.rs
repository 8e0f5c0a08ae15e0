//! The streams of one shard: for each channel, name, format and view with local subscribers its frame
//! log, who is attached, and whether the home has said yet where it begins.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::ably::{ChannelSerial, Format, Metrics, Params, Position, Since};
use crate::channel::ChannelKey;
use crate::channel::home::StreamRef;
use crate::channel::log::FrameLog;
use crate::channel::view::View;

/// What attachments call a channel, and in which format they speak of it. Subscribers that named the
/// channel differently, `[?rewind=1]room` instead of `room`, see that name in their frames and so need
/// frames of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StreamName {
    pub channel: ChannelKey,
    pub display_name: Arc<str>,
    pub format: Format,
}

impl StreamName {
    /// Whether it is the channel's own name, without a qualifier.
    fn is_plain(&self) -> bool {
        *self.display_name == *self.channel.name()
    }
}

/// Streams of one channel on one shard, beside those that always have room. Each name is encoded by
/// itself at every publish, and each view may be, so whoever makes up names would make others pay.
pub(super) const STREAMS_PER_CHANNEL_MAX: usize = 64;

/// An ATTACH that is not answered yet.
pub(super) struct WaitingAttach {
    /// The transport.
    pub index: u32,
    /// What the answer echoes.
    pub params: Params,
    /// From where on the client wants the channel.
    pub since: Since,
    /// Whether it is sent what its own connection publishes.
    pub echo: bool,
    /// Whether something that it was owed is kept from it, which the answer has to say.
    pub is_cut: bool,
}

/// Messages whose last whole delivery a stream remembers; of those that it forgets it sends the whole
/// once more.
const WHOLES_MAX: usize = 64;

/// Messages that a stream was sent as a whole although everybody else got an increment, oldest first.
#[derive(Default)]
pub(super) struct Wholes(VecDeque<(Position, ChannelSerial)>);

impl Wholes {
    /// Whether everybody who has joined by `joined` can make sense of an increment of `message`, which
    /// all streams were sent as a whole at `whole`.
    pub fn makes_sense(
        &self,
        message: Position,
        whole: ChannelSerial,
        joined: Option<ChannelSerial>,
    ) -> bool {
        let own = self.0.iter().find(|(known, _)| *known == message).map(|(_, at)| *at);
        joined.is_none_or(|joined| joined < own.map_or(whole, |own| own.max(whole)))
    }

    /// Notes that the stream is sent `message` as a whole at `serial`.
    pub fn note(&mut self, message: Position, serial: ChannelSerial) {
        self.0.retain(|(known, _)| *known != message);
        if self.0.len() == WHOLES_MAX {
            self.0.pop_front();
        }
        self.0.push_back((message, serial));
    }
}

pub(super) struct Stream {
    pub name: StreamName,
    pub view: View,
    pub log: FrameLog,
    /// Of the last event of the channel, whether or not it was wanted here; `None` until the home has
    /// answered.
    pub serial: Option<ChannelSerial>,
    /// What `serial` was when somebody joined last.
    pub joined: Option<ChannelSerial>,
    /// What late joiners were sent of messages that are appended to.
    pub wholes: Wholes,
    /// Whether the channel had presence members after that event.
    pub has_members: bool,
    /// Attachments, with and without a cursor.
    pub attachments: u32,
    /// How many of them there are of each kind.
    pub metrics: Metrics,
    /// Whether the home is yet to be told of them.
    pub is_uncounted: bool,
    /// ATTACHes that wait until the home has said where the stream begins, or behind one of the same
    /// transport that it was asked about.
    pub waiting: Vec<WaitingAttach>,
    /// ATTACHes that wait for the past or the members, by the number under which they were asked for.
    pub joining: Vec<(u32, WaitingAttach)>,
    /// Whether frames were staged this turn.
    pub is_staged: bool,
    /// Whether it waits in the shard's queue of rounds.
    pub in_rounds: bool,
    /// Since when, on the clock for what is measured.
    pub round_began_us: u32,
}

impl Stream {
    /// Whether the home was asked about a transport and has not answered.
    pub fn is_asked_by(&self, index: u32) -> bool {
        self.joining.iter().any(|(_, request)| request.index == index)
    }

    /// The ATTACHes of a transport that are not answered yet, oldest first.
    pub fn take_requests(&mut self, index: u32) -> Vec<WaitingAttach> {
        let joining = self.joining.extract_if(.., |(_, request)| request.index == index);
        let mut requests: Vec<_> = joining.map(|(_, request)| request).collect();
        requests.extend(self.waiting.extract_if(.., |request| request.index == index));
        requests
    }
}

/// Streams by index, with a look-up by channel. An index is used again with another generation.
#[derive(Default)]
pub(super) struct Streams {
    slots: Vec<(u32, Option<Stream>)>,
    free: Vec<u32>,
    /// A channel has as many streams as it has names, formats and views; usually one.
    by_channel: HashMap<ChannelKey, Vec<u32>>,
    /// Numbers of joins.
    joins: u32,
}

impl Streams {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// All streams of that name, whatever their view.
    pub fn named(&self, name: &StreamName) -> impl Iterator<Item = u32> {
        let of_channel = self.by_channel.get(&name.channel).map_or(&[][..], Vec::as_slice);
        of_channel.iter().copied().filter(move |&index| self.peek(index).name == *name)
    }

    /// The stream of that name with that view.
    pub fn find(&self, name: &StreamName, view: &View) -> Option<u32> {
        self.named(name).find(|&index| self.peek(index).view == *view)
    }

    /// Whether there may be another stream. What is usual always has room, whatever others have taken:
    /// there are few views of a channel under its own name that are not about occupancy.
    pub fn has_room(&self, name: &StreamName, view: &View) -> bool {
        let count = self.by_channel.get(&name.channel).map_or(0, Vec::len);
        count < STREAMS_PER_CHANNEL_MAX || (name.is_plain() && view.occupancy.is_none())
    }

    /// Adds a stream that the home does not know yet.
    pub fn insert(&mut self, name: StreamName, view: View) -> StreamRef {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push((0, None));
            self.slots.len() as u32 - 1
        });
        self.by_channel.entry(name.channel.clone()).or_default().push(index);
        let has_deltas = view.delta;
        let stream = Stream {
            name,
            view,
            log: FrameLog::new(has_deltas),
            serial: None,
            joined: None,
            wholes: Wholes::default(),
            has_members: false,
            attachments: 0,
            metrics: Metrics::default(),
            is_uncounted: false,
            waiting: Vec::new(),
            joining: Vec::new(),
            is_staged: false,
            in_rounds: false,
            round_began_us: 0,
        };
        let (generation, slot) = &mut self.slots[index as usize];
        *slot = Some(stream);
        StreamRef { index, generation: *generation }
    }

    /// Forgets a stream; frames that are still on their way to it find nobody.
    pub fn remove(&mut self, index: u32) -> (StreamRef, StreamName) {
        let (generation, slot) = &mut self.slots[index as usize];
        let stream = slot.take().expect("removed once");
        let reference = StreamRef { index, generation: *generation };
        *generation = generation.wrapping_add(1);
        let of_channel = self.by_channel.get_mut(&stream.name.channel);
        let of_channel = of_channel.expect("inserted with its channel");
        of_channel.retain(|&known| known != index);
        if of_channel.is_empty() {
            self.by_channel.remove(&stream.name.channel);
        }
        self.free.push(index);
        (reference, stream.name)
    }

    /// A number that no join has that is still waited for.
    pub fn next_join(&mut self) -> u32 {
        self.joins = self.joins.wrapping_add(1);
        self.joins
    }

    /// The stream at `index`, unless it was removed.
    pub fn get(&self, index: u32) -> Option<&Stream> {
        self.slots.get(index as usize)?.1.as_ref()
    }

    pub fn get_mut(&mut self, index: u32) -> Option<&mut Stream> {
        self.slots.get_mut(index as usize)?.1.as_mut()
    }

    /// The stream at `index`, unless it was removed, and what other shards call it.
    pub fn get_with_reference(&mut self, index: u32) -> Option<(&mut Stream, StreamRef)> {
        let (generation, slot) = self.slots.get_mut(index as usize)?;
        Some((slot.as_mut()?, StreamRef { index, generation: *generation }))
    }

    /// The stream at `index`, which is known to exist, to look at.
    pub fn peek(&self, index: u32) -> &Stream {
        let (_, slot) = &self.slots[index as usize];
        slot.as_ref().expect("attachments name streams that exist")
    }

    /// The stream that another shard means, unless it was removed meanwhile.
    pub fn resolve(&mut self, reference: StreamRef) -> Option<&mut Stream> {
        let (generation, slot) = self.slots.get_mut(reference.index as usize)?;
        if *generation == reference.generation { slot.as_mut() } else { None }
    }

    /// What other shards call the stream at `index`.
    pub fn reference(&self, index: u32) -> StreamRef {
        StreamRef { index, generation: self.slots[index as usize].0 }
    }

    /// The stream at `index`, which is known to exist.
    pub fn at(&mut self, index: u32) -> &mut Stream {
        self.get_mut(index).expect("attachments name streams that exist")
    }
}
