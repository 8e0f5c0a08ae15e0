//! The streams of one shard: for each channel, name and format with local subscribers its frame log,
//! who is attached, and whether the home has said yet where it begins.

use std::collections::HashMap;
use std::sync::Arc;

use crate::ably::{ChannelSerial, Format, Params};
use crate::channel::ChannelKey;
use crate::channel::home::StreamRef;
use crate::channel::log::FrameLog;

/// What tells streams apart. Subscribers that named the channel differently, `[?rewind=1]room`
/// instead of `room`, see that name in their frames and so need frames of their own.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct StreamKey {
    pub channel: ChannelKey,
    pub display_name: Arc<str>,
    pub format: Format,
}

/// An ATTACH that is not answered yet.
pub(super) struct WaitingAttach {
    /// The transport.
    pub index: u32,
    /// What the answer echoes.
    pub params: Params,
    /// Up to where the client has the channel, if it was attached before.
    pub channel_serial: Option<Box<str>>,
}

pub(super) struct Stream {
    pub key: StreamKey,
    pub log: FrameLog,
    /// Of the last publication that was laid into the log; `None` until the home has answered.
    pub serial: Option<ChannelSerial>,
    /// Attachments, with and without a cursor.
    pub attachments: u32,
    /// ATTACHes that wait for the home's answer.
    pub waiting: Vec<WaitingAttach>,
    /// Whether frames were staged this turn.
    pub is_staged: bool,
    /// Whether it waits in the shard's queue of rounds.
    pub in_rounds: bool,
}

/// Streams by index, with a look-up by key. An index is used again with another generation.
#[derive(Default)]
pub(super) struct Streams {
    slots: Vec<(u32, Option<Stream>)>,
    free: Vec<u32>,
    by_key: HashMap<StreamKey, u32>,
}

impl Streams {
    pub fn find(&self, key: &StreamKey) -> Option<u32> {
        self.by_key.get(key).copied()
    }

    /// Adds a stream that the home does not know yet.
    pub fn insert(&mut self, key: StreamKey) -> StreamRef {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push((0, None));
            self.slots.len() as u32 - 1
        });
        self.by_key.insert(key.clone(), index);
        let stream = Stream {
            key,
            log: FrameLog::default(),
            serial: None,
            attachments: 0,
            waiting: Vec::new(),
            is_staged: false,
            in_rounds: false,
        };
        let (generation, slot) = &mut self.slots[index as usize];
        *slot = Some(stream);
        StreamRef { index, generation: *generation }
    }

    /// Forgets a stream; frames that are still on their way to it find nobody.
    pub fn remove(&mut self, index: u32) -> (StreamRef, StreamKey) {
        let (generation, slot) = &mut self.slots[index as usize];
        let stream = slot.take().expect("removed once");
        let reference = StreamRef { index, generation: *generation };
        *generation = generation.wrapping_add(1);
        self.by_key.remove(&stream.key);
        self.free.push(index);
        (reference, stream.key)
    }

    /// The stream at `index`, unless it was removed.
    pub fn get_mut(&mut self, index: u32) -> Option<&mut Stream> {
        self.slots.get_mut(index as usize)?.1.as_mut()
    }

    /// The stream that another shard means, unless it was removed meanwhile.
    pub fn resolve(&mut self, reference: StreamRef) -> Option<&mut Stream> {
        let (generation, slot) = self.slots.get_mut(reference.index as usize)?;
        if *generation == reference.generation { slot.as_mut() } else { None }
    }

    /// The stream at `index`, which is known to exist.
    pub fn at(&mut self, index: u32) -> &mut Stream {
        self.get_mut(index).expect("attachments name streams that exist")
    }
}
