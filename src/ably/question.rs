//! What a request asks of a channel's home or of the shards, and what they answer (13).

use std::sync::Arc;

use super::{AnnotationPage, HistoryItem, HistoryPage, HistoryQuery, Position, PublishResult};

/// What is asked of one channel's home.
#[derive(Clone, Debug)]
pub enum Question {
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
    /// To [`Question::History`] and [`Question::Versions`].
    History(HistoryPage),
    /// To [`Question::Message`].
    Message(HistoryItem),
    /// To [`Question::Annotations`].
    Annotations(AnnotationPage),
    /// JSON text, to [`Question::ClientSummary`].
    Json(Arc<str>),
}
