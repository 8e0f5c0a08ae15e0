//! Replays that a home has made lately: when a core or a network comes back, thousands of clients ask
//! for the same stretch of a channel within moments, and it is encoded once for all of them.

use std::collections::VecDeque;

use bytes::Bytes;

use super::encode::Joining;
use crate::ably::{ChannelSerial, ErrorInfo, Since};
use crate::channel::ChannelKey;

/// Replays that are remembered, of all channels of a shard; beyond it the oldest is made again.
const REPLAYS_MAX: usize = 8;

/// How long they are remembered, in milliseconds: so long they may hold what the history does not hold any more.
const REPLAYS_MS: u64 = 1000;

/// What a joining attachment gets of the past, finished.
#[derive(Clone, Debug)]
pub(super) struct Replayed {
    /// The attach point.
    pub serial: ChannelSerial,
    /// Whether nothing is missing since the point that the client named.
    pub resumed: bool,
    /// Why something is.
    pub error: Option<ErrorInfo>,
    /// Whether the next message may come as a delta.
    pub has_base: bool,
    /// Complete frames, shared.
    pub frames: Vec<Bytes>,
}

/// See the module text.
#[derive(Default)]
pub(super) struct Replays {
    /// Oldest first, each with what was asked for and the head of the channel then.
    made: VecDeque<(ChannelKey, Joining, ChannelSerial, Replayed)>,
    /// Until when the oldest is remembered, and with it all.
    until_ms: u64,
}

impl Replays {
    /// Whether [`find`](Self::find) finds it.
    pub fn has(&self, channel: &ChannelKey, joining: &Joining, head: ChannelSerial) -> bool {
        let mut made = self.made.iter();
        made.any(|(of, asked, then, _)| *then == head && asked == joining && of == channel)
    }

    /// What `joining` gets, if that was made for another since the channel's newest event, `head`.
    pub fn find(
        &self,
        channel: &ChannelKey,
        joining: &Joining,
        head: ChannelSerial,
    ) -> Option<Replayed> {
        let is_it = |(of, asked, then, _): &&(ChannelKey, Joining, ChannelSerial, Replayed)| {
            *then == head && asked == joining && of == channel
        };
        self.made.iter().find(is_it).map(|(.., replayed)| replayed.clone())
    }

    /// Remembers what was made, if others may ask for the same: they name a serial, and nobody's own
    /// messages were left out of it.
    pub fn remember(
        &mut self,
        now_ms: u64,
        channel: &ChannelKey,
        joining: &Joining,
        head: ChannelSerial,
        replayed: &Replayed,
    ) {
        let is_common = matches!(joining.since, Since::Serial(_)) && joining.skip.is_none();
        if !is_common || replayed.frames.is_empty() {
            return;
        }
        if self.made.is_empty() {
            self.until_ms = now_ms + REPLAYS_MS;
        }
        if self.made.len() == REPLAYS_MAX {
            self.made.pop_front();
        }
        self.made.push_back((channel.clone(), joining.clone(), head, replayed.clone()));
    }

    /// Forgets all when their time is over.
    pub fn forget_old(&mut self, now_ms: u64) {
        if self.next_ms().is_some_and(|until_ms| until_ms <= now_ms) {
            self.clear();
        }
    }

    /// When that is so, on the monotonic clock.
    pub fn next_ms(&self) -> Option<u64> {
        (!self.made.is_empty()).then_some(self.until_ms)
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.made.clear();
    }
}
