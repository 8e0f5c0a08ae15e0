//! What a request asks of a channel's home or of the shards, and what they answer (13).

use super::{
    HistoryPage, HistoryQuery, MembersPage, MembersQuery, PresenceHistoryPage, PublishResult,
};

/// What is asked of one channel's home.
#[derive(Clone, Debug)]
pub enum Question {
    /// One page of its history.
    History(HistoryQuery),
    /// One page of its presence members.
    Members(MembersQuery),
    /// One page of its presence history.
    PresenceHistory(HistoryQuery),
}

/// The answer to a [`Question`] or to a publish.
#[derive(Clone, Debug)]
pub enum Answer {
    /// A publish succeeded.
    Published(PublishResult),
    /// Every shard has the changed directory.
    Changed,
    /// To [`Question::History`].
    History(HistoryPage),
    /// To [`Question::Members`].
    Members(MembersPage),
    /// To [`Question::PresenceHistory`].
    PresenceHistory(PresenceHistoryPage),
}
