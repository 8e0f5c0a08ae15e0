//! The keeper of the rules: a thread that makes every change of them, one after another, and may wait
//! while it does. A rule leads somewhere before a core knows of it, and is forgotten by the cores before
//! what waits of it is given up.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, SyncSender};

use super::Reloaded;
use super::orders::News;
use crate::ably::Directory;
use crate::admin::{ReloadOutcome, Reply};
use crate::hooks::{HookControl, HookRule, rules_of};

/// Changes that may wait for the keeper; one more is refused.
const REQUESTS_MAX: usize = 64;

/// What the keeper is asked for.
pub(super) enum Request {
    /// Have what was configured take the place of what was configured before; answered with
    /// [`News::Reloaded`].
    Reload(Box<Reloaded>, Option<Reply<ReloadOutcome>>),
}

/// Where the keeper is reached.
pub(super) type KeeperSender = SyncSender<Request>;

/// Starts the keeper of `rules`, which are in effect.
pub(super) fn spawn(
    rules: Vec<HookRule>,
    hooks: HookControl,
    news: SyncSender<News>,
) -> io::Result<KeeperSender> {
    let (sender, requests) = mpsc::sync_channel(REQUESTS_MAX);
    let keeper = Keeper { requests, news, hooks, rules };
    std::thread::Builder::new().name("rules".into()).spawn(move || keeper.run())?;
    Ok(sender)
}

struct Keeper {
    requests: Receiver<Request>,
    news: SyncSender<News>,
    hooks: HookControl,
    /// All that are in effect.
    rules: Vec<HookRule>,
}

impl Keeper {
    /// Runs until nobody can ask any more.
    fn run(mut self) {
        while let Ok(request) = self.requests.recv() {
            match request {
                Request::Reload(reloaded, asker) => {
                    let Reloaded { directory, rules, needs_restart } = *reloaded;
                    let outcome = match self.install(rules, Some(directory)) {
                        Ok(()) => ReloadOutcome { error: None, needs_restart },
                        Err(error) => ReloadOutcome::refused(format!("{error:#}")),
                    };
                    // The monitor may have ended.
                    let _ = self.news.send(News::Reloaded(outcome, asker));
                }
            }
        }
    }

    /// Puts `rules` into effect everywhere, and returns when they are.
    fn install(
        &mut self,
        mut rules: Vec<HookRule>,
        directory: Option<Directory>,
    ) -> anyhow::Result<()> {
        for hook in &mut rules {
            let before = self.rules.iter().find(|before| before.rule.id == hook.rule.id);
            // One that is shared already is the one that was there before.
            if let (Some(before), Some(rule)) = (before, Arc::get_mut(&mut hook.rule)) {
                rule.continue_from(&before.rule);
            }
        }
        self.hooks.set(rules.clone())?;
        let snapshot = rules_of(&rules);
        let directory = directory.map(|directory| Arc::new(directory.with_rules(snapshot.clone())));
        let (done, installed) = mpsc::sync_channel(1);
        let ends = || anyhow::anyhow!("the daemon ends");
        self.news.send(News::Install { directory, rules: snapshot, done }).map_err(|_| ends())?;
        installed.recv().map_err(|_| ends())?;
        self.hooks.retain(rules.iter().map(|hook| hook.rule.id.clone()).collect())?;
        self.rules = rules;
        Ok(())
    }
}
