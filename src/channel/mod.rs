//! One channel. On its home core: order, serials, history, who subscribes. On a core with
//! subscribers: the frame log that they read from.

pub mod broadcast;
pub mod chain;
pub mod history;
pub mod home;
pub mod kept;
pub mod log;
pub mod presence;
pub mod revisions;
pub mod summary;
pub mod view;

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

/// Bytes after which a page of a channel's past ends early: a longer answer would hold up its connection.
pub const HISTORY_PAGE_BYTES_MAX: u64 = 2 << 20;

/// A channel of an app; apps do not see each other's channels. Cheap to clone and to send.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelKey(Arc<str>);

impl ChannelKey {
    /// Parts the app from the name; no app id contains it.
    const SEPARATOR: char = ':';

    /// The channel `name` (without qualifier) of the app.
    pub fn new(app_id: &str, name: &str) -> ChannelKey {
        debug_assert!(!app_id.contains(Self::SEPARATOR));
        ChannelKey(format!("{app_id}{}{name}", Self::SEPARATOR).into())
    }

    /// The channel that [`as_str`](Self::as_str) writes like this.
    pub fn of_text(text: &Arc<str>) -> ChannelKey {
        debug_assert!(text.contains(Self::SEPARATOR));
        ChannelKey(Arc::clone(text))
    }

    /// App and name, as they are written where both count.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The shard of `shards` that gives the channel called `key`, as [`as_str`](Self::as_str) writes it,
    /// its order.
    pub fn home_of(key: &str, shards: usize) -> usize {
        // SipHash with fixed keys: a client can aim channels at one shard, as it can by publishing
        // to one channel, but cannot make our hash tables degenerate: those are keyed.
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        (hasher.finish() % shards as u64) as usize
    }

    /// Whether it is a channel of the app.
    pub fn is_of(&self, app_id: &str) -> bool {
        self.0.strip_prefix(app_id).is_some_and(|rest| rest.starts_with(Self::SEPARATOR))
    }

    /// The app.
    pub fn app_id(&self) -> &str {
        self.0.split_once(Self::SEPARATOR).expect("made with a separator").0
    }

    /// The name without qualifier.
    pub fn name(&self) -> &str {
        self.0.split_once(Self::SEPARATOR).expect("made with a separator").1
    }

    /// The shard that gives this channel its order; the same on every shard, below `shards`.
    pub fn home(&self, shards: usize) -> usize {
        ChannelKey::home_of(&self.0, shards)
    }
}

/// Entries for which a queue always may have room.
const ROOM_MIN: usize = 16;

/// What is in the middle of a queue: about half comes before it.
fn middle<T>(queue: &VecDeque<T>) -> Option<&T> {
    queue.get(queue.len().checked_sub(1)? / 2)
}

/// Gives back what a queue has room for and has not needed lately.
fn release_room<T>(queue: &mut VecDeque<T>) {
    if queue.capacity() > ROOM_MIN && queue.len() < queue.capacity() / 8 {
        queue.shrink_to(2 * queue.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn apps_do_not_share_channels_and_names_may_hold_colons() {
        let key = ChannelKey::new("app", "chat:room:1");
        assert_eq!(key.name(), "chat:room:1");
        assert_ne!(key, ChannelKey::new("other", "chat:room:1"));
    }

    #[test]
    fn channels_spread_over_the_shards() {
        let mut counts = [0; 4];
        for index in 0..1000 {
            counts[ChannelKey::new("app", &format!("c{index}")).home(4)] += 1;
        }
        assert!(counts.iter().all(|&count| count > 150), "{counts:?}");
    }
}
