//! Ids that clients have chosen for what they publish, remembered for a while, so that a publish that is
//! repeated is recognised (RSL1k).

use std::collections::{HashMap, VecDeque};

use crate::ably::{ChannelSerial, Position, PublishResult};
use crate::base::Now;
use crate::channel::{middle, release_room};

/// Ids that one channel remembers; beyond it the oldest is forgotten.
const IDS_MAX: usize = 65_536;

/// How long an id is remembered (5.2), in milliseconds.
const ID_WINDOW_MS: u64 = 120_000;

/// Parts the ids of annotations from those of messages.
const ANNOTATION: &str = "annotation ";

/// What an id was used for: enough to answer a repetition.
pub(super) struct Used {
    /// The place of the first message, or annotation, and how many there are.
    first: Position,
    count: u32,
    publication_id: Box<str>,
}

impl Used {
    /// For `count` messages of a publication, or annotations, from `first` on.
    pub fn new(first: Position, count: usize, publication_id: &str) -> Used {
        Used { first, count: count as u32, publication_id: publication_id.into() }
    }

    fn positions(&self) -> impl Iterator<Item = Position> {
        let Position { serial, index: first } = self.first;
        (first..first + self.count).map(move |index| Position { serial, index })
    }
}

/// See the module text.
#[derive(Default)]
pub(super) struct Ids {
    /// An array is found under the id of its first message.
    used: HashMap<Box<str>, Used>,
    /// The same ids with the time until which they count, oldest first.
    until_ms: VecDeque<(u64, Box<str>)>,
}

impl Ids {
    /// Under which the id of an annotation is remembered.
    pub fn of_annotation(id: &str) -> Box<str> {
        format!("{ANNOTATION}{id}").into()
    }

    /// Remembers an id that is used now.
    pub fn remember(&mut self, now: Now, id: Box<str>, used: Used) {
        self.remember_until(now.mono_ms + ID_WINDOW_MS, id, used);
    }

    /// Remembers an id that was used at `at_ms` since the Unix epoch, for what is left of its time.
    pub fn remember_since(&mut self, now: Now, at_ms: u64, id: Box<str>, used: Used) {
        let age_ms = now.unix_ms.saturating_sub(at_ms);
        if let Some(left_ms) = ID_WINDOW_MS.checked_sub(age_ms) {
            self.remember_until(now.mono_ms + left_ms, id, used);
        }
    }

    fn remember_until(&mut self, until_ms: u64, id: Box<str>, used: Used) {
        if self.used.len() == IDS_MAX {
            self.forget_oldest();
        }
        self.used.insert(id.clone(), used);
        self.until_ms.push_back((until_ms, id));
    }

    /// Where the message with an id was published, alone or in an array, and the id of that publication.
    pub fn published(&self, id: &str) -> Option<(Position, Box<str>)> {
        let in_array = || {
            let (base, index) = id.rsplit_once(':')?;
            let used = self.used.get(&*format!("{base}:0"))?;
            let position = used.positions().nth(index.parse().ok()?)?;
            (position.index.to_string() == index).then_some((position, used))
        };
        let alone = self.used.get(id).map(|used| (used.first, used));
        let (position, used) = alone.or_else(in_array)?;
        Some((position, used.publication_id.clone()))
    }

    /// What came of the publish with an id.
    pub fn result(&self, id: &str) -> Option<PublishResult> {
        let used = self.used.get(id)?;
        Some(PublishResult::of_positions(&used.publication_id, used.positions()))
    }

    /// Forgets the ids of what got its place from `serial` on.
    pub fn forget_from(&mut self, serial: ChannelSerial) {
        self.used.retain(|_, used| used.first.serial < serial);
        self.until_ms.retain(|(_, id)| self.used.contains_key(id));
    }

    /// Forgets those of which the time is over.
    pub fn trim(&mut self, now: Now) {
        while self.until_ms.front().is_some_and(|(until_ms, _)| *until_ms <= now.mono_ms) {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((_, id)) = self.until_ms.pop_front() {
            self.used.remove(&id);
        }
    }

    /// Whether none is remembered.
    pub fn is_empty(&self) -> bool {
        self.used.is_empty()
    }

    /// When the time of half of them is over, on the monotonic clock; `None`: there are none.
    pub fn middle_ms(&self) -> Option<u64> {
        middle(&self.until_ms).map(|(until_ms, _)| *until_ms)
    }

    /// Gives back what it has had room for and does not need.
    pub fn release_room(&mut self) {
        release_room(&mut self.until_ms);
        if self.used.is_empty() {
            self.used = HashMap::new();
        }
    }
}
