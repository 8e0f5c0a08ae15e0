//! What a request asks of a channel's home or of the shards, and what they answer (13).

use super::{HistoryPage, HistoryQuery, PublishResult};

/// What is asked of one channel's home.
#[derive(Clone, Debug)]
pub enum Question {
    /// One page of its history.
    History(HistoryQuery),
}

/// The answer to a [`Question`] or to a publish.
#[derive(Clone, Debug)]
pub enum Answer {
    /// A publish succeeded.
    Published(PublishResult),
    /// Every shard has the changed directory.
    Changed,
    /// A nonce was not used before, and is from now on.
    FreshNonce,
    /// To [`Question::History`].
    History(HistoryPage),
}
