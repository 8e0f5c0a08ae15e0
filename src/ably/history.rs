//! What can be asked of a channel's history, and the answer (13.6).

use std::sync::Arc;

use super::{ChannelSerial, Publication};

/// In which direction history is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Newest first.
    Backwards,
    /// Oldest first.
    Forwards,
}

/// A message's place in the channel: its publication and its index there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Serial of the publication.
    pub serial: ChannelSerial,
    /// Index of the message in it.
    pub index: u32,
}

/// Which messages to read; bounds are inclusive.
#[derive(Clone, Debug)]
pub struct HistoryQuery {
    /// Not before this time, in milliseconds since the Unix epoch.
    pub start_ms: Option<u64>,
    /// Not after this time.
    pub end_ms: Option<u64>,
    /// Order of the answer.
    pub direction: Direction,
    /// Messages per page, 1 to 1,000.
    pub limit: usize,
    /// Not after this point: where the asking client attached.
    pub until: Option<ChannelSerial>,
    /// The last message of the page before, in the direction of reading.
    pub after: Option<Position>,
}

/// One message of a page.
#[derive(Clone, Debug)]
pub struct HistoryItem {
    /// Shared with the history itself.
    pub publication: Arc<Publication>,
    /// Which of its messages.
    pub index: usize,
}

/// An answer to a [`HistoryQuery`].
#[derive(Clone, Debug, Default)]
pub struct HistoryPage {
    /// In the order that was asked for.
    pub items: Vec<HistoryItem>,
    /// Where the next page goes on, if there is one.
    pub next: Option<Position>,
}
