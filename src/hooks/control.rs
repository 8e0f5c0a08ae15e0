//! What others may ask of the thread while it runs. Those who ask wait for the answer, so they are never
//! cores.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use serde_json::Value;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, mpsc, oneshot};

use super::HookRule;
use super::attempts::Attempt;
use super::command::{self, Selection};
use super::report::RuleSummary;

/// Questions and orders that may wait for the thread; who comes with one more waits.
const COMMANDS_MAX: usize = 64;

/// Attempts that may wait for one who follows them; of more he is told how many there were.
const FOLLOWED_MAX: usize = 256;

/// Why a question has no answer.
#[derive(Debug)]
pub enum HookError {
    /// What it is about is not there.
    NotFound(String),
    /// It cannot be done.
    Invalid(String),
    /// Doing it has failed.
    Failed(String),
    /// The daemon ends.
    Ended,
}

/// Which entries are wanted: of this rule, behind this id, so many.
pub(super) struct Page {
    pub rule: Option<String>,
    pub after: u64,
    pub limit: usize,
}

impl Page {
    fn is_of(&self, rule_id: &str) -> bool {
        self.rule.as_ref().is_none_or(|rule| **rule == *rule_id)
    }

    /// The part of `entries`, which are oldest first, that is wanted.
    pub fn of<T>(
        &self,
        entries: impl Iterator<Item = (u64, T)>,
        rule_id: fn(&T) -> &str,
    ) -> Vec<T> {
        let is_wanted = |(id, entry): &(u64, T)| *id > self.after && self.is_of(rule_id(entry));
        let wanted = entries.filter(is_wanted).take(self.limit);
        wanted.map(|(_, entry)| entry).collect()
    }
}

/// What the thread is asked, with the way back.
pub(super) enum Command {
    /// Take rules that are new or have changed.
    Set(Vec<HookRule>, oneshot::Sender<anyhow::Result<()>>),
    /// Forget all rules but those with these ids.
    Retain(Vec<Box<str>>, oneshot::Sender<()>),
    /// How do all rules fare?
    Summary(oneshot::Sender<Vec<RuleSummary>>),
    /// What was tried?
    Attempts(Page, oneshot::Sender<Vec<Arc<Attempt>>>),
    /// What waits?
    Waiting(Page, oneshot::Sender<Vec<Value>>),
    /// Have dead letters wait again.
    Replay(Selection, oneshot::Sender<Result<usize, HookError>>),
    /// Try a rule with an event that nobody has published, of this channel.
    Test(String, String, oneshot::Sender<Result<Attempt, HookError>>),
}

/// See the module text.
#[derive(Clone, Debug)]
pub struct HookControl {
    commands: mpsc::Sender<Command>,
    attempts: broadcast::Sender<Arc<Attempt>>,
    /// Where dead letters are, if they are kept.
    spool: Option<PathBuf>,
}

/// The thread's end.
pub(super) struct Ears {
    pub commands: mpsc::Receiver<Command>,
    /// Where it tells of attempts.
    pub attempts: broadcast::Sender<Arc<Attempt>>,
}

pub(super) fn channel(spool: Option<PathBuf>) -> (HookControl, Ears) {
    let (sender, commands) = mpsc::channel(COMMANDS_MAX);
    let (attempts, _) = broadcast::channel(FOLLOWED_MAX);
    let ears = Ears { commands, attempts: attempts.clone() };
    (HookControl { commands: sender, attempts, spool }, ears)
}

/// Somebody who is told of attempts as they end.
pub struct Follower(broadcast::Receiver<Arc<Attempt>>);

/// What a follower is told.
pub enum Followed {
    /// One more.
    Attempt(Arc<Attempt>),
    /// So many have come too fast.
    Missed(u64),
}

impl Follower {
    /// The next one; `None` once the daemon ends.
    pub async fn next(&mut self) -> Option<Followed> {
        match self.0.recv().await {
            Ok(attempt) => Some(Followed::Attempt(attempt)),
            Err(RecvError::Lagged(count)) => Some(Followed::Missed(count)),
            Err(RecvError::Closed) => None,
        }
    }
}

impl HookControl {
    /// Has rules take effect that are new or have changed; what waits of those goes on under the new
    /// target. Rules that are not among them stay.
    ///
    /// # Errors
    /// A rule cannot be used; nothing has changed then.
    pub fn set(&self, rules: Vec<HookRule>) -> anyhow::Result<()> {
        self.ask(|answer| Command::Set(rules, answer))?
    }

    /// Forgets all rules but those with these ids; their events are given up.
    ///
    /// # Errors
    /// The daemon ends.
    pub fn retain(&self, ids: Vec<Box<str>>) -> anyhow::Result<()> {
        self.ask(|answer| Command::Retain(ids, answer))
    }

    fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> anyhow::Result<T> {
        let (sender, answer) = oneshot::channel();
        let ends = || "deliveries have ended";
        self.commands.blocking_send(command(sender)).ok().with_context(ends)?;
        answer.blocking_recv().ok().with_context(ends)
    }

    /// How all rules fare.
    ///
    /// # Errors
    /// The daemon ends.
    pub async fn summary(&self) -> Result<Vec<RuleSummary>, HookError> {
        self.wait(Command::Summary).await
    }

    /// The latest attempts of a rule, or of all, behind `after`; oldest first.
    ///
    /// # Errors
    /// The daemon ends.
    pub async fn attempts(
        &self,
        rule: Option<String>,
        after: u64,
        limit: usize,
    ) -> Result<Vec<Arc<Attempt>>, HookError> {
        let page = Page { rule, after, limit };
        self.wait(|answer| Command::Attempts(page, answer)).await
    }

    /// Attempts from now on.
    pub fn follow(&self) -> Follower {
        Follower(self.attempts.subscribe())
    }

    /// Events of a rule, or of all, that wait; oldest first.
    ///
    /// # Errors
    /// The daemon ends.
    pub async fn waiting(
        &self,
        rule: Option<String>,
        after: u64,
        limit: usize,
    ) -> Result<Vec<Value>, HookError> {
        let page = Page { rule, after, limit };
        self.wait(|answer| Command::Waiting(page, answer)).await
    }

    /// Dead letters of a rule, or of all; oldest first.
    ///
    /// # Errors
    /// They are not kept, or cannot be read.
    pub async fn dead(
        &self,
        rule: Option<String>,
        after: u64,
        limit: usize,
    ) -> Result<Vec<Value>, HookError> {
        let page = Page { rule, after, limit };
        let directory = self.spool.clone().ok_or_else(not_kept)?;
        let read = tokio::task::spawn_blocking(move || command::dead(&directory));
        let letters = read.await.map_err(|_| HookError::Ended)?;
        let letters = letters.map_err(|error| HookError::Failed(error.to_string()))?;
        let of_rule = |letter: &Value| letter["id"].as_u64().unwrap_or(0);
        let entries = letters.into_iter().map(|letter| (of_rule(&letter).max(1), letter));
        Ok(page.of(entries, |letter| letter["rule"].as_str().unwrap_or_default()))
    }

    /// Has dead letters wait again; returns how many.
    ///
    /// # Errors
    /// They are not kept, none is as selected, or they cannot be written.
    pub async fn replay(&self, selection: Selection) -> Result<usize, HookError> {
        self.wait(|answer| Command::Replay(selection, answer)).await?
    }

    /// Sends an event that nobody has published through the sink of a rule, and returns what came of it.
    ///
    /// # Errors
    /// There is no such rule, or it is asked before a publish.
    pub async fn test(&self, rule: String, channel: String) -> Result<Attempt, HookError> {
        self.wait(|answer| Command::Test(rule, channel, answer)).await?
    }

    async fn wait<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, HookError> {
        let (sender, answer) = oneshot::channel();
        self.commands.send(command(sender)).await.map_err(|_| HookError::Ended)?;
        answer.await.map_err(|_| HookError::Ended)
    }
}

/// Without a state directory dead letters are counted and gone.
pub(super) fn not_kept() -> HookError {
    HookError::NotFound("dead letters are not kept: there is no `server.state_dir`".into())
}
