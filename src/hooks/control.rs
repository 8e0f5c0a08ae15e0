//! What others may ask of the thread while it runs. Those who ask wait for the answer, so they are never
//! cores.

use anyhow::Context;
use tokio::sync::{mpsc, oneshot};

use super::HookRule;

/// Questions and orders that may wait for the thread; who comes with one more waits.
const COMMANDS_MAX: usize = 64;

/// What the thread is asked, with the way back.
pub(super) enum Command {
    /// Take rules that are new or have changed.
    Set(Vec<HookRule>, oneshot::Sender<anyhow::Result<()>>),
    /// Forget all rules but those with these ids.
    Retain(Vec<Box<str>>, oneshot::Sender<()>),
}

/// See the module text.
#[derive(Clone, Debug)]
pub struct HookControl(mpsc::Sender<Command>);

pub(super) fn channel() -> (HookControl, mpsc::Receiver<Command>) {
    let (sender, receiver) = mpsc::channel(COMMANDS_MAX);
    (HookControl(sender), receiver)
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
        self.0.blocking_send(command(sender)).ok().with_context(ends)?;
        answer.blocking_recv().ok().with_context(ends)
    }
}
