//! What a request asks of a channel's home or of the shards, and what they answer (13).

use std::sync::Arc;

use super::{
    AnnotationPage, HistoryItem, HistoryPage, HistoryQuery, Identity, IntervalTally, MembersPage,
    MembersQuery, Metrics, Position, PresenceHistoryPage, PublishResult, StatsQuery,
};

/// What is asked of one channel's home.
#[derive(Clone, Debug)]
pub enum Question {
    /// How many are attached and present.
    Status,
    /// One page of its history.
    History(HistoryQuery),
    /// A message in its latest version.
    Message(Position),
    /// One page of the versions of a message; only `direction`, `limit` and `after` count.
    Versions(Position, HistoryQuery),
    /// One page of the annotations of a message; only `direction`, `limit` and `after` count.
    Annotations(Position, HistoryQuery),
    /// What a client has contributed to the summary of a message.
    ClientSummary(Position, Box<str>),
    /// One page of its presence members.
    Members(MembersQuery),
    /// One page of its presence history.
    PresenceHistory(HistoryQuery),
}

/// What is asked of every shard about an app.
#[derive(Clone, Debug)]
pub enum Survey {
    /// Which channels are active.
    Channels(ChannelsQuery),
    /// What was counted.
    Stats(StatsQuery),
}

/// The answer to a [`Question`], a [`Survey`] or a publish.
#[derive(Clone, Debug)]
pub enum Answer {
    /// A publish succeeded.
    Published(PublishResult),
    /// Every shard has the changed directory.
    Changed,
    /// A nonce was not used before, and is from now on.
    FreshNonce,
    /// There is room for one more realtime transport.
    Admitted,
    /// To [`Question::History`] and [`Question::Versions`].
    History(HistoryPage),
    /// To [`Question::Message`].
    Message(HistoryItem),
    /// To [`Question::Annotations`].
    Annotations(AnnotationPage),
    /// JSON text, to [`Question::ClientSummary`].
    Json(Arc<str>),
    /// The connection that a connectionKey is of.
    Connection {
        /// Its public id.
        id: Box<str>,
        /// Who it is.
        identity: Identity,
    },
    /// To [`Question::Members`].
    Members(MembersPage),
    /// To [`Question::PresenceHistory`].
    PresenceHistory(PresenceHistoryPage),
    /// To [`Question::Status`].
    Status(Metrics),
    /// To [`Survey::Channels`]: in the order of their names, one more than a page has if there are as
    /// many.
    Channels(Vec<ListedChannel>),
    /// To [`Survey::Stats`]: intervals in the order that was asked for, as many likewise.
    Stats(Vec<IntervalTally>),
}

/// An active channel and how many are attached and present there.
pub type ListedChannel = (Box<str>, Metrics);

/// Which of an app's active channels to name (13.7), in the order of their names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelsQuery {
    /// How the names begin.
    pub prefix: Box<str>,
    /// The last name of the page before.
    pub after: Option<Box<str>>,
    /// Names per page, 1 to 1,000.
    pub limit: usize,
}

/// Puts together the channels that the shards have: one page, and the last name of it if more follow.
pub fn merge_channels(
    query: &ChannelsQuery,
    parts: impl IntoIterator<Item = Vec<ListedChannel>>,
) -> (Vec<ListedChannel>, Option<Box<str>>) {
    let mut page: Vec<ListedChannel> = parts.into_iter().flatten().collect();
    page.sort_unstable_by(|(name, _), (other, _)| name.cmp(other));
    let has_more = page.len() > query.limit;
    page.truncate(query.limit);
    let next = page.last().filter(|_| has_more).map(|(name, _)| name.clone());
    (page, next)
}
