//! Delivery of events to the endpoints of rules, on one thread beside the data cores. Cores hand over
//! batches of encoded events and never wait; everything that can be slow happens here.
//!
//! | file | what |
//! | --- | --- |
//! | `mod.rs` | what it needs to know, and its start |
//! | `thread.rs` | the thread: events in, requests out, one loop |
//! | `control.rs` | what others may ask of it while it runs |
//! | `line.rs` | what one rule sends next, across its changes |
//! | `courier.rs` | the same for events of one encoding |
//! | `book.rs` | all rules: those configured, and those made while the daemon runs |
//! | `spec.rs` | one of those as JSON |
//! | `target.rs` | where events go, as configured |
//! | `reach.rs`, `secret.rs` | how it is reached, and with what secrets |
//! | `guard.rs` | whether a rule feeds itself |
//! | `attempts.rs` | what was sent lately, and what came of it |
//! | `report.rs` | how each rule fares |
//! | `client.rs` | one request, whatever takes it |
//! | `request.rs`, `answer.rs` | what that holds, and what comes back |
//! | `exchange.rs` | one exchange over HTTP |
//! | `gate.rs` | questions before a publish |
//! | `http.rs`, `lambda.rs`, `nats.rs` | what takes it |
//! | `aws/` | signatures of requests to AWS, and credentials for them |
//! | `address.rs` | which addresses may be reached |
//! | `spool.rs` | events in files |
//! | `command.rs` | what an operator can do with them |
#![allow(clippy::disallowed_methods, reason = "a thread of its own, with clocks of its own")]

mod address;
mod answer;
mod attempts;
mod aws;
mod book;
mod client;
pub mod command;
mod control;
mod courier;
mod exchange;
mod gate;
mod guard;
mod http;
mod lambda;
mod line;
mod nats;
#[cfg(test)]
mod outage;
mod reach;
mod report;
mod request;
mod secret;
mod spec;
pub mod spool;
mod target;
mod thread;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::sync::{mpsc, oneshot};

pub use self::address::check_url;
pub use self::attempts::Attempt;
pub use self::aws::{
    AccessKey, AssumedRole, AwsAccess, CredentialSource, is_region, region_of_url,
};
pub use self::book::{Book, RULES_PER_APP_MAX, RuleAnswer, RuleError, RuleRequest};
pub use self::command::Selection;
pub use self::control::{Followed, Follower, HookControl, HookError};
pub use self::courier::{Pace, Reason};
pub use self::guard::LoopGuard;
pub use self::http::HttpTarget;
pub use self::lambda::{FunctionName, Invocation, LambdaTarget, parse_qualifier};
pub use self::nats::{NatsLogin, NatsTarget, SubjectTemplate, check_server};
pub use self::reach::{Authorities, Reach, Tls};
pub use self::report::{RuleSummary, render as render_metrics};
pub use self::secret::{Secret, SigningKey};
pub use self::target::{Sink, Target};
use self::thread::HookThread;
use crate::ably::{Answered, Inquiry, Rule, RuleEvent, Rules};

/// Batches of events, one from each turn of a core, that may wait for the thread.
const BATCHES_MAX: usize = 256;

/// How long the daemon's end waits for deliveries.
const GRACE: Duration = Duration::from_secs(2);

/// Directory of the spool below the state directory.
const SPOOL_DIRECTORY: &str = "hooks";

/// A rule and where its events go.
#[derive(Clone, Debug)]
pub struct HookRule {
    /// What cores know of it.
    pub rule: Arc<Rule>,
    /// What they do not.
    pub target: Target,
    /// Whether cores are to know of it, and what waits is sent.
    pub is_enabled: bool,
    /// What happens if it feeds itself.
    pub loop_guard: LoopGuard,
}

/// All that the thread needs to know.
#[derive(Clone, Debug, Default)]
pub struct HooksConfig {
    /// The rules.
    pub rules: Vec<HookRule>,
    /// Keys that rules which are made while the daemon runs may sign with.
    pub keys: Vec<SigningKey>,
    /// Authorities that those rules trust.
    pub ca: Option<Authorities>,
    /// Where events survive the process; without it they wait in memory.
    pub state_dir: Option<PathBuf>,
}

impl HooksConfig {
    /// What cores need to know.
    pub fn rules(&self) -> Rules {
        rules_of(&self.rules)
    }
}

/// What cores need to know of these rules: those that are enabled.
pub fn rules_of(hooks: &[HookRule]) -> Rules {
    let enabled = hooks.iter().filter(|hook| hook.is_enabled);
    Rules::new(enabled.map(|hook| Arc::clone(&hook.rule)))
}

/// The directory of the spool below `state_dir`.
pub fn spool_directory(state_dir: &Path) -> PathBuf {
    state_dir.join(SPOOL_DIRECTORY)
}

/// What a core hands over at once.
#[derive(Debug, Default)]
pub struct HookMail {
    /// What has happened, in order.
    pub events: Vec<RuleEvent>,
    /// What is to be asked, in order.
    pub inquiries: Vec<Inquiry>,
}

/// What tells one core of answers to its questions, and does not wait.
pub type VerdictSender = Box<dyn FnMut(Vec<Answered>) + Send>;

/// A core's end of the thread.
#[derive(Clone, Debug)]
pub struct HookSender(mpsc::Sender<HookMail>);

impl HookSender {
    /// Hands over what `take` returns, if the thread has room for it; `take` is not called otherwise.
    /// Never waits.
    pub fn try_send(&self, take: impl FnOnce() -> HookMail) -> bool {
        match self.0.try_reserve() {
            Ok(place) => {
                place.send(take());
                true
            }
            Err(_) => false,
        }
    }
}

/// The thread, seen from those who start it.
#[derive(Debug)]
pub struct Hooks {
    sender: HookSender,
    control: HookControl,
    end: oneshot::Sender<()>,
    ended: std::sync::mpsc::Receiver<Option<String>>,
}

impl Hooks {
    /// Starts the thread, on one of `cpus` if there are any; `log` takes lines and does not wait,
    /// `verdicts` are by shard.
    ///
    /// # Errors
    /// A target cannot be used, or the spool not be opened.
    pub fn start(
        config: HooksConfig,
        cpus: &[usize],
        verdicts: Vec<VerdictSender>,
        log: impl FnMut(String) + Send + 'static,
    ) -> anyhow::Result<Hooks> {
        let spool = config.state_dir.as_deref().map(spool_directory);
        let work = HookThread::new(config, verdicts, Box::new(log))?;
        let (control, ears) = control::channel(spool);
        let (sender, events) = mpsc::channel(BATCHES_MAX);
        let cpu = cpus.first().copied();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            // Names are resolved on them.
            .max_blocking_threads(4)
            .build()
            .context("cannot start the thread that delivers events")?;
        let (end, is_to_end) = oneshot::channel();
        let (has_ended, ended) = std::sync::mpsc::channel();
        let run = move || {
            if let Some(id) = cpu {
                // Where it cannot be, the scheduler finds it a place.
                core_affinity::set_for_current(core_affinity::CoreId { id });
            }
            let last_words = runtime.block_on(work.run(events, ears, is_to_end));
            // A name that is being resolved holds nothing up.
            runtime.shutdown_background();
            // Nobody may wait for it any more.
            let _ = has_ended.send(last_words);
        };
        std::thread::Builder::new()
            .name("hooks".into())
            .spawn(run)
            .context("cannot start the thread that delivers events")?;
        Ok(Hooks { sender: HookSender(sender), control, end, ended })
    }

    /// An end for one core.
    pub fn sender(&self) -> HookSender {
        self.sender.clone()
    }

    /// What can be asked of it.
    pub fn control(&self) -> HookControl {
        self.control.clone()
    }

    /// Waits until everything was delivered that cores have handed over, [`GRACE`] at most; returns what
    /// the operator should know.
    pub fn finish(self) -> Option<String> {
        let Hooks { end, ended, .. } = self;
        end.send(()).ok()?;
        ended.recv_timeout(GRACE + Duration::from_secs(1)).ok().flatten()
    }
}

/// Ids of events start here: far beyond those of earlier starts.
fn first_id(unix_ms: u64) -> u64 {
    unix_ms << 20
}
