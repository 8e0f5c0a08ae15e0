//! The streams of one shard: for each channel, name, format and view with local subscribers its frame
//! log, who is attached, and whether the home has said yet where it begins.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::sync::Arc;

use crate::ably::{ChannelSerial, Format, Metrics, Params, Position, Since};
use crate::base::SpreadMap;
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

/// ATTACHes of one transport to one stream that may wait for their answers; one more ends its connection. An
/// SDK has one, or two when it is given another token.
pub(super) const ATTACHES_WAITING_MAX: usize = 64;

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
    /// Whether something may be missing before the answer, which has to say so: another token does not permit what
    /// was owed, or the client waits for it to be sent again and takes this answer for that to a later ATTACH.
    pub is_cut: bool,
}

/// ATTACHes of one stream that are not answered yet, by transport and number. When all clients come back at once
/// they all wait here, so none of them is searched for.
#[derive(Default)]
pub(super) struct Requests(BTreeMap<(u32, u32), WaitingAttach>);

impl Requests {
    /// `number` puts those of one transport in order.
    pub fn insert(&mut self, number: u32, request: WaitingAttach) {
        self.0.insert((request.index, number), request);
    }

    pub fn remove(&mut self, index: u32, number: u32) -> Option<WaitingAttach> {
        self.0.remove(&(index, number))
    }

    /// Whether a transport has one here.
    pub fn has(&self, index: u32) -> bool {
        self.first(index).is_some()
    }

    /// How many a transport has here.
    fn count(&self, index: u32) -> usize {
        self.of(index).count()
    }

    /// Takes out those of a transport, oldest first.
    pub fn take(&mut self, index: u32) -> Vec<WaitingAttach> {
        std::iter::from_fn(|| self.0.remove(&self.first(index)?)).collect()
    }

    /// Takes out all of them.
    pub fn take_all(&mut self) -> impl Iterator<Item = WaitingAttach> + use<> {
        std::mem::take(&mut self.0).into_values()
    }

    fn first(&self, index: u32) -> Option<(u32, u32)> {
        self.of(index).next()
    }

    fn of(&self, index: u32) -> impl Iterator<Item = (u32, u32)> {
        self.0.range((index, 0)..=(index, u32::MAX)).map(|(key, _)| *key)
    }
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
    /// Tells it from the others that have had its index.
    generation: u32,
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
    pub waiting: Requests,
    /// ATTACHes that wait for the past or the members, by the number under which those were asked for.
    pub joining: Requests,
    /// Transports for which the home was asked for the members.
    pub syncing: BTreeSet<u32>,
    /// Whether frames were staged this turn.
    pub is_staged: bool,
    /// Whether it waits in the shard's queue of rounds.
    pub in_rounds: bool,
    /// Since when, on the clock for what is measured.
    pub round_began_us: u32,
}

impl Stream {
    /// Whether a transport may send another ATTACH before those that it has sent are answered.
    pub fn takes_attach(&self, index: u32) -> bool {
        self.waiting.count(index) + self.joining.count(index) < ATTACHES_WAITING_MAX
    }

    /// The ATTACHes of a transport that are not answered yet, oldest first.
    pub fn take_requests(&mut self, index: u32) -> Vec<WaitingAttach> {
        let mut requests = self.joining.take(index);
        requests.extend(self.waiting.take(index));
        requests
    }
}

/// Free slots behind the last stream that go with it, at most: so that giving them back takes no time.
const DROPPED_SLOTS_MAX: usize = 64;

/// Slots for which there always may be room.
const SLOTS_MIN: usize = 1024;

/// Streams by index, with a look-up by channel. An index is used again with another generation, the lowest
/// first, so that the slots behind the last stream can go.
#[derive(Default)]
pub(super) struct Streams {
    slots: Vec<Option<Box<Stream>>>,
    len: usize,
    /// Slots without a stream, and slots that have gone since.
    free: BinaryHeap<Reverse<u32>>,
    /// A channel has as many streams as it has names, formats and views; usually one.
    by_channel: SpreadMap<ChannelKey, Vec<u32>>,
    /// Of the stream that was inserted last.
    generation: u32,
    /// Numbers of requests.
    requests: u32,
}

impl Streams {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
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
        let index = match self.free.pop() {
            Some(Reverse(index)) if (index as usize) < self.slots.len() => index,
            _ => {
                // The lowest of them has gone, and so have all.
                self.free = BinaryHeap::new();
                self.slots.push(None);
                self.slots.len() as u32 - 1
            }
        };
        self.by_channel.get_or_insert_with(name.channel.clone(), |_| Vec::new()).push(index);
        self.len += 1;
        self.generation = self.generation.wrapping_add(1);
        let (generation, has_deltas) = (self.generation, view.delta);
        self.slots[index as usize] = Some(Box::new(Stream {
            generation,
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
            waiting: Requests::default(),
            joining: Requests::default(),
            syncing: BTreeSet::new(),
            is_staged: false,
            in_rounds: false,
            round_began_us: 0,
        }));
        StreamRef { index, generation }
    }

    /// Forgets a stream; frames that are still on their way to it find nobody.
    pub fn remove(&mut self, index: u32) -> (StreamRef, StreamName) {
        let stream = self.slots[index as usize].take().expect("removed once");
        self.len -= 1;
        let of_channel = self.by_channel.get_mut(&stream.name.channel);
        let of_channel = of_channel.expect("inserted with its channel");
        of_channel.retain(|&known| known != index);
        if of_channel.is_empty() {
            self.by_channel.remove(&stream.name.channel);
        }
        self.free.push(Reverse(index));
        let mut dropped = 0;
        while dropped < DROPPED_SLOTS_MAX && self.slots.pop_if(|slot| slot.is_none()).is_some() {
            dropped += 1;
        }
        if self.slots.capacity() > SLOTS_MIN && self.slots.len() < self.slots.capacity() / 8 {
            self.slots.shrink_to((2 * self.slots.len()).max(SLOTS_MIN / 2));
        }
        if self.slots.is_empty() {
            self.free = BinaryHeap::new();
        }
        (StreamRef { index, generation: stream.generation }, stream.name)
    }

    /// A number that no join has that is still waited for.
    pub fn next_request(&mut self) -> u32 {
        self.requests = self.requests.wrapping_add(1);
        self.requests
    }

    /// The stream at `index`, unless it was removed.
    pub fn get(&self, index: u32) -> Option<&Stream> {
        self.slots.get(index as usize)?.as_deref()
    }

    pub fn get_mut(&mut self, index: u32) -> Option<&mut Stream> {
        self.slots.get_mut(index as usize)?.as_deref_mut()
    }

    /// The stream at `index`, unless it was removed, and what other shards call it.
    pub fn get_with_reference(&mut self, index: u32) -> Option<(&mut Stream, StreamRef)> {
        let stream = self.get_mut(index)?;
        let generation = stream.generation;
        Some((stream, StreamRef { index, generation }))
    }

    /// The stream at `index`, which is known to exist, to look at.
    pub fn peek(&self, index: u32) -> &Stream {
        self.get(index).expect("attachments name streams that exist")
    }

    /// The stream that another shard means, unless it was removed meanwhile.
    pub fn resolve(&mut self, reference: StreamRef) -> Option<&mut Stream> {
        self.get_mut(reference.index).filter(|stream| stream.generation == reference.generation)
    }

    /// What other shards call the stream at `index`.
    pub fn reference(&self, index: u32) -> StreamRef {
        StreamRef { index, generation: self.peek(index).generation }
    }

    /// The stream at `index`, which is known to exist.
    pub fn at(&mut self, index: u32) -> &mut Stream {
        self.get_mut(index).expect("attachments name streams that exist")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ably::{ChannelName, ChannelParams, Modes};

    fn view() -> View {
        let name = ChannelName::parse("room").expect("it is a name");
        View::of(&name, Modes::SUBSCRIBE, &ChannelParams::default())
    }

    fn name(number: usize) -> StreamName {
        let channel = ChannelKey::new("app", &format!("c{number}"));
        StreamName { display_name: channel.name().into(), channel, format: Format::Json }
    }

    #[test]
    fn requests_of_a_transport_are_taken_in_the_order_in_which_they_came() {
        let request = |index, number: usize| WaitingAttach {
            index,
            params: Params::default(),
            since: Since::Serial(number.to_string().into()),
            echo: true,
            is_cut: false,
        };
        let since = |requests: Vec<WaitingAttach>| -> Vec<_> {
            requests.into_iter().map(|request| (request.index, request.since)).collect()
        };
        let mut requests = Requests::default();
        for (number, index) in [7, 0, 7, u32::MAX, 7].into_iter().enumerate() {
            requests.insert(number as u32, request(index, number));
        }
        assert_eq!(requests.remove(7, 1).map(|request| request.index), None);
        assert_eq!(requests.remove(0, 1).map(|request| request.index), Some(0));
        assert!(requests.has(7) && requests.has(u32::MAX) && !requests.has(0));
        let of = |index, number: u32| (index, Since::Serial(number.to_string().into()));
        assert_eq!(since(requests.take(7)), [of(7, 0), of(7, 2), of(7, 4)]);
        assert_eq!(since(requests.take(7)), []);
        assert_eq!(since(requests.take_all().collect()), [of(u32::MAX, 3)]);
        assert!(!requests.has(u32::MAX));
    }

    #[test]
    fn slots_are_given_back_and_late_frames_find_nobody() {
        let mut streams = Streams::default();
        let add = |streams: &mut Streams, number| streams.insert(name(number), view());
        let all: Vec<_> = (0..20_000).map(|number| add(&mut streams, number)).collect();
        let peak = streams.slots.capacity();
        // From the front, so that nothing can go before the last one does.
        for reference in &all[..19_999] {
            assert_eq!(streams.remove(reference.index).0, *reference);
        }
        assert_eq!((streams.len(), streams.slots.capacity()), (1, peak));
        // The lowest place is taken first, by a stream that is another than the one before.
        let again = add(&mut streams, 0);
        assert_eq!(again.index, 0);
        assert!(streams.resolve(all[0]).is_none() && streams.resolve(again).is_some());
        streams.remove(all[19_999].index);
        // What is behind the last one goes little by little.
        for number in 1..400 {
            let reference = add(&mut streams, number);
            streams.remove(reference.index);
        }
        assert!(streams.slots.capacity() <= SLOTS_MIN, "{}", streams.slots.capacity());
        assert!(streams.resolve(again).is_some());
        // Behind slots that have gone new ones begin, each index in use once.
        let more: Vec<_> = (1..3000).map(|number| add(&mut streams, number).index).collect();
        let expected: Vec<u32> = (1..3000).collect();
        assert_eq!(more, expected);
        assert_eq!(streams.len(), 3000);
    }
}
