//! How fast a line of publishes goes on that were decided together, when a rule does not answer, say: a
//! portion at a time, and the next one when the channel's subscribers have taken most of it. All at once would
//! be more than any of them may lag behind, however quickly it reads.
//!
//! The home asks every subscribed stream for room, behind the portion's frames, and goes on when all have
//! answered. Somebody who does not read holds the line up for [`PATIENCE_MS`] a portion, until its lag is
//! beyond the bound.

use std::collections::BTreeMap;

use super::{Mail, Shard};
use crate::channel::ChannelKey;
use crate::channel::home::{HomeChannel, StreamRef};

/// Longest pause between two portions, in milliseconds.
const PATIENCE_MS: u64 = 100;

/// Portions that a subscriber may lag behind before it is cut off, about.
const PORTIONS_PER_LAG: u32 = 8;

/// What was published of one channel's line lately.
#[derive(Default)]
struct Pace {
    /// Bytes of this portion, about.
    bytes: u64,
    /// Streams that were asked for room and have not answered; none: it was not asked yet.
    missing: usize,
    /// Tells this question from earlier ones.
    number: u64,
    /// When it goes on without the answers.
    until_ms: u64,
}

/// A home waits for room in one stream here.
struct Wanted {
    home: u16,
    channel: ChannelKey,
    stream: StreamRef,
    number: u64,
    /// When the home does not wait any more.
    until_ms: u64,
}

/// See the module text.
#[derive(Default)]
pub(super) struct Pacing {
    /// Of lines that went on in this turn, and of those that wait.
    paces: BTreeMap<ChannelKey, Pace>,
    next_number: u64,
    /// By index of the stream; the latest question of each.
    wanted: BTreeMap<u32, Wanted>,
}

impl Pacing {
    /// When there is something to do. Room in a stream is looked for as often as can be, since nobody tells of
    /// it.
    pub fn next_ms(&self, now_ms: u64) -> Option<u64> {
        if !self.wanted.is_empty() {
            return Some(now_ms);
        }
        let waiting = self.paces.values().filter(|pace| pace.missing > 0);
        waiting.map(|pace| pace.until_ms).min()
    }

    /// Whether a channel's line waits for room.
    pub fn holds(&self, key: &ChannelKey) -> bool {
        self.paces.get(key).is_some_and(|pace| pace.missing > 0)
    }

    /// So many bytes more were published of a channel's line.
    pub fn note(&mut self, key: &ChannelKey, bytes: u64) {
        match self.paces.get_mut(key) {
            Some(pace) => pace.bytes += bytes,
            None => drop(self.paces.insert(key.clone(), Pace { bytes, ..Pace::default() })),
        }
    }

    /// The turn is over: those that do not wait begin another portion.
    pub fn end_turn(&mut self) {
        self.paces.retain(|_, pace| pace.missing > 0);
    }
}

impl Shard {
    fn portion_bytes(&self) -> u64 {
        u64::from(self.config.lag_bytes_max / PORTIONS_PER_LAG)
    }

    /// Whether more of a channel's line, of which some is decided, may be published now. If this portion is
    /// full, subscribers are asked for room.
    pub(super) fn has_room(&mut self, key: &ChannelKey) -> bool {
        let portion_bytes = self.portion_bytes();
        let Some(pace) = self.pacing.paces.get_mut(key) else { return true };
        if pace.missing > 0 || pace.bytes < portion_bytes {
            return pace.missing == 0;
        }
        let subscribers = self.homes.get(key).map_or(&[][..], HomeChannel::subscribers);
        let streams: Vec<(u16, StreamRef)> =
            subscribers.iter().map(|subscriber| (subscriber.shard, subscriber.stream)).collect();
        if streams.is_empty() {
            self.pacing.paces.remove(key);
            return true;
        }
        let number = self.pacing.next_number;
        self.pacing.next_number += 1;
        pace.missing = streams.len();
        pace.number = number;
        pace.until_ms = self.now.mono_ms + PATIENCE_MS;
        for (shard, stream) in streams {
            // Behind the frames, also where those wait for the disk.
            self.post_of(key, shard, Mail::WantRoom { channel: key.clone(), stream, number });
        }
        false
    }

    /// A home wants to know when a stream has room for more.
    pub(super) fn handle_want_room(
        &mut self,
        home: u16,
        channel: ChannelKey,
        stream: StreamRef,
        number: u64,
    ) {
        let until_ms = self.now.mono_ms + PATIENCE_MS;
        let wanted = Wanted { home, channel, stream, number, until_ms };
        self.pacing.wanted.insert(stream.index, wanted);
    }

    /// Tells homes of streams that have room, or have gone.
    pub(super) fn tell_room(&mut self) {
        if self.pacing.wanted.is_empty() {
            return;
        }
        let (now_ms, portion_bytes) = (self.now.mono_ms, self.portion_bytes());
        let streams = &mut self.streams;
        let has_room = |_: &u32, wanted: &mut Wanted| {
            wanted.until_ms <= now_ms
                || streams.resolve(wanted.stream).is_none_or(|stream| {
                    !stream.is_staged && stream.log.held_bytes() <= portion_bytes
                })
        };
        let with_room: Vec<Wanted> =
            self.pacing.wanted.extract_if(.., has_room).map(|(_, wanted)| wanted).collect();
        for Wanted { home, channel, number, .. } in with_room {
            self.post(usize::from(home), Mail::Room { channel, number });
        }
    }

    /// A stream has room.
    pub(super) fn handle_room(&mut self, key: &ChannelKey, number: u64) {
        let Some(pace) = self.pacing.paces.get_mut(key) else { return };
        // It may have gone on without this answer.
        if pace.number != number || pace.missing == 0 {
            return;
        }
        pace.missing -= 1;
        if pace.missing == 0 {
            self.go_on_with_line(key);
        }
    }

    /// Goes on with lines that have waited for room for long enough.
    pub(super) fn expire_paces(&mut self) {
        let now_ms = self.now.mono_ms;
        let is_over = |pace: &Pace| pace.missing > 0 && pace.until_ms <= now_ms;
        let paces = self.pacing.paces.iter().filter(|(_, pace)| is_over(pace));
        let keys: Vec<ChannelKey> = paces.map(|(key, _)| key.clone()).collect();
        for key in keys {
            self.go_on_with_line(&key);
        }
    }

    fn go_on_with_line(&mut self, key: &ChannelKey) {
        self.pacing.paces.remove(key);
        self.advance_line(key);
    }
}
