//! What routes ask of the rest of the process. A question goes out without waiting and carries the place for
//! its answer; whoever answers need not be async and never waits for a client.

use std::time::Duration;

use axum::http::StatusCode;
use tokio::sync::{mpsc, oneshot};

use crate::hooks::{RuleAnswer, RuleRequest};

use super::reply::Refusal;
use super::status::{ReloadOutcome, Status};
use crate::shard::{
    ChannelsPage, ChannelsQuery, ConnectionsPage, ConnectionsQuery, TapFilter, Tapped,
};

/// How long an answer may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// The same of what touches files and every core.
pub(super) const CHANGE_PATIENCE: Duration = Duration::from_secs(25);

/// What is asked.
pub enum Question {
    /// All metrics, in the text format of Prometheus.
    Metrics(Reply<String>),
    /// How the daemon is doing.
    Status(Reply<Status>),
    /// Of this app's rules; answered when a change is in effect on all cores.
    Rules(String, RuleRequest, Reply<RuleAnswer>),
    /// Read the configuration again; answered when it is in effect on all cores, or refused.
    Reload(Reply<ReloadOutcome>),
    /// What one shard knows.
    OfShard(usize, ShardQuestion),
}

/// What a shard is asked; it answers in its next turn.
pub enum ShardQuestion {
    /// One page of its connections.
    Connections(ConnectionsQuery, Reply<ConnectionsPage>),
    /// One page of the channels at home there.
    Channels(ChannelsQuery, Reply<ChannelsPage>),
    /// Show publications of channels at home there; answered with whether there is room for it.
    Tail(TapFilter, Watcher, Reply<bool>),
}

#[cfg(test)]
impl ShardQuestion {
    /// One for tests, and whether whoever asks it hears that it was dropped.
    pub fn for_test() -> (ShardQuestion, impl FnMut() -> bool) {
        let (sender, mut receiver) = oneshot::channel();
        let query = ChannelsQuery { app: None, prefix: "".into(), after: None };
        let is_refused =
            move || matches!(receiver.try_recv(), Err(oneshot::error::TryRecvError::Closed));
        (ShardQuestion::Channels(query, Reply(sender)), is_refused)
    }
}

/// A shard's end of a line to whoever watches publications.
#[derive(Clone, Debug)]
pub struct Watcher(mpsc::Sender<Tapped>);

impl Watcher {
    /// The line; `room` is for events that were not read yet.
    pub(super) fn new(room: usize) -> (Watcher, mpsc::Receiver<Tapped>) {
        let (sender, receiver) = mpsc::channel(room);
        (Watcher(sender), receiver)
    }

    /// Shows an event; false when there is no room for it or nobody watches any more. Never waits.
    pub fn show(&self, event: Tapped) -> bool {
        self.0.try_send(event).is_ok()
    }

    /// Whether nobody watches any more.
    pub fn has_gone(&self) -> bool {
        self.0.is_closed()
    }
}

/// The place for an answer.
#[derive(Debug)]
pub struct Reply<T>(oneshot::Sender<T>);

impl<T> Reply<T> {
    /// Answers. Whoever has asked may have gone.
    pub fn send(self, answer: T) {
        let _ = self.0.send(answer);
    }
}

/// Has `put` send a question with the place for its answer, and waits for that. `put` says whether there
/// was room for the question.
pub(super) async fn ask<T>(
    patience: Duration,
    put: impl FnOnce(Reply<T>) -> bool,
) -> Result<T, Refusal> {
    let (sender, receiver) = oneshot::channel();
    if !put(Reply(sender)) {
        return Err(behind());
    }
    match tokio::time::timeout(patience, receiver).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(_)) => Err(behind()),
        Err(_) => {
            let text = format!("no answer within {} s", patience.as_secs());
            Err(Refusal::new(StatusCode::GATEWAY_TIMEOUT, text))
        }
    }
}

fn behind() -> Refusal {
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "the daemon is behind; ask again")
}
