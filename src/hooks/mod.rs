//! Delivery of events to the endpoints of rules, on one thread beside the data cores. Cores hand over
//! batches of encoded events and never wait; everything that can be slow happens here.
//!
//! | file | what |
//! | --- | --- |
//! | `mod.rs` | the thread: events in, requests out, one loop |
//! | `courier.rs` | what one rule sends next |
//! | `target.rs` | where events go, as configured |
//! | `client.rs` | one request, whatever takes it |
//! | `gate.rs` | questions before a publish |
//! | `http.rs`, `lambda.rs`, `nats.rs` | what takes it |
//! | `aws/` | signatures of requests to AWS, and credentials for them |
//! | `address.rs` | which addresses may be reached |
//! | `spool.rs` | events in files |
//! | `command.rs` | what an operator can do with them |
#![allow(clippy::disallowed_methods, reason = "a thread of its own, with clocks of its own")]

mod address;
mod aws;
mod client;
pub mod command;
mod courier;
mod gate;
mod http;
mod lambda;
mod nats;
mod spool;
mod target;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;

pub use self::address::check_url;
pub use self::aws::{
    AccessKey, AssumedRole, AwsAccess, CredentialSource, is_region, region_of_url,
};
use self::client::{Answer, Client};
use self::courier::{Courier, Entry, Finished, Parcel};
pub use self::courier::{Pace, Reason};
pub use self::http::HttpTarget;
pub use self::lambda::{FunctionName, Invocation, LambdaTarget, parse_qualifier};
pub use self::nats::{NatsLogin, NatsTarget, SubjectTemplate, check_server};
use self::spool::Spool;
pub use self::target::{Secret, SigningKey, Sink, Target, Tls};
use crate::ably::{Answered, Inquiry, Rule, RuleEvent, Rules, Verdict, WhenFull};
use crate::base::Now;

/// Batches of events, one from each turn of a core, that may wait for the thread.
const BATCHES_MAX: usize = 256;

/// Pause between two lines in the log about one rule.
const LOG_INTERVAL_MS: u64 = 10_000;

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
}

/// All that the thread needs to know.
#[derive(Clone, Debug, Default)]
pub struct HooksConfig {
    /// The rules.
    pub rules: Vec<HookRule>,
    /// Where events survive the process; without it they wait in memory.
    pub state_dir: Option<PathBuf>,
}

impl HooksConfig {
    /// What cores need to know.
    pub fn rules(&self) -> Rules {
        Rules::new(self.rules.iter().map(|hook| Arc::clone(&hook.rule)))
    }
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
        let work = HookThread::new(config, verdicts, Box::new(log))?;
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
            let last_words = runtime.block_on(work.run(events, is_to_end));
            // A name that is being resolved holds nothing up.
            runtime.shutdown_background();
            // Nobody may wait for it any more.
            let _ = has_ended.send(last_words);
        };
        thread::Builder::new()
            .name("hooks".into())
            .spawn(run)
            .context("cannot start the thread that delivers events")?;
        Ok(Hooks { sender: HookSender(sender), end, ended })
    }

    /// An end for one core.
    pub fn sender(&self) -> HookSender {
        self.sender.clone()
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

/// One rule here.
struct Route {
    rule: Arc<Rule>,
    courier: Courier,
    client: Arc<Client>,
    /// Given up since the last line about it.
    given_up: u64,
    /// What the last request that failed was answered.
    failure: Option<String>,
    was_broken: bool,
    logged_ms: Option<u64>,
    /// Questions that may be under way.
    places: Arc<Semaphore>,
    /// Questions without a decision since the last line about them.
    undecided: u64,
    undecided_logged_ms: Option<u64>,
}

struct HookThread {
    routes: Vec<Route>,
    /// By rule id.
    indexes: HashMap<Box<str>, usize>,
    spool: Option<Spool>,
    next_id: u64,
    /// By shard.
    verdicts: Vec<VerdictSender>,
    log: Box<dyn FnMut(String) + Send>,
    started: Instant,
    spool_failed_ms: Option<u64>,
}

/// Requests under way: the route, what was sent and what came back.
type Requests = JoinSet<(usize, Parcel, Answer)>;

/// Questions under way. Cores bound them: each has as many as publishes wait there.
type Questions = JoinSet<gate::Outcome>;

impl HookThread {
    fn new(
        config: HooksConfig,
        verdicts: Vec<VerdictSender>,
        log: Box<dyn FnMut(String) + Send>,
    ) -> anyhow::Result<HookThread> {
        let mut routes = Vec::new();
        let mut indexes = HashMap::new();
        for HookRule { rule, target } in config.rules {
            let client = Client::new(&target, rule.shape)
                .with_context(|| format!("the rule `{}` cannot be used", rule.id))?;
            let mut seed = [0; 8];
            getrandom::fill(&mut seed)?;
            let courier = Courier::new(rule.shape, target.pace, u64::from_le_bytes(seed));
            indexes.insert(rule.id.clone(), routes.len());
            routes.push(Route {
                rule,
                courier,
                client: Arc::new(client),
                given_up: 0,
                failure: None,
                was_broken: false,
                logged_ms: None,
                places: Arc::new(Semaphore::new(gate::QUESTIONS_MAX)),
                undecided: 0,
                undecided_logged_ms: None,
            });
        }
        let mut thread = HookThread {
            routes,
            indexes,
            spool: None,
            next_id: 0,
            verdicts,
            log,
            started: Instant::now(),
            spool_failed_ms: None,
        };
        let now = thread.now();
        thread.next_id = first_id(now.unix_ms);
        if let Some(state_dir) = &config.state_dir {
            thread.open_spool(&spool_directory(state_dir))?;
        }
        Ok(thread)
    }

    fn open_spool(&mut self, directory: &Path) -> anyhow::Result<()> {
        // What waits fits into it; the rest is what has been delivered from the same files.
        let bytes_max = self.routes.iter().map(|route| 2 * route.rule.bytes_max).sum::<u64>();
        let (mut spool, found) = Spool::open(directory, bytes_max)
            .with_context(|| format!("cannot open the spool {}", directory.display()))?;
        if found.torn > 0 {
            (self.log)(format!(
                "spool: {} segments end in the middle of a record, which is left out",
                found.torn
            ));
        }
        let now = self.now();
        if let Some(last) = found.events.keys().next_back() {
            self.next_id = self.next_id.max(last + 1);
        }
        let (mut waiting, mut orphans) = (0, Vec::new());
        for (id, stored) in found.events {
            match self.indexes.get(&stored.rule_id) {
                Some(&index) => {
                    let route = &mut self.routes[index];
                    let event = RuleEvent::new(
                        Arc::clone(&route.rule),
                        &stored.channel,
                        stored.timestamp_ms,
                        stored.content_type,
                        stored.body,
                        stored.headers,
                    );
                    route.courier.push(now, Entry { id, event: Arc::new(event) });
                    waiting += 1;
                }
                None => {
                    spool.bury_stored(now.unix_ms, &stored)?;
                    orphans.push(id);
                }
            }
        }
        spool.finish(&orphans)?;
        if waiting > 0 || !orphans.is_empty() {
            (self.log)(format!(
                "spool: {waiting} events wait, {} were of rules that are gone",
                orphans.len()
            ));
        }
        self.spool = Some(spool);
        Ok(())
    }

    fn now(&self) -> Now {
        let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Now { mono_ms: self.started.elapsed().as_millis() as u64, unix_ms: unix.as_millis() as u64 }
    }

    /// Runs until `end`, and a moment longer if something waits; returns what is to be said then.
    async fn run(
        mut self,
        mut mail: mpsc::Receiver<HookMail>,
        mut end: oneshot::Receiver<()>,
    ) -> Option<String> {
        let mut requests = Requests::new();
        let mut questions = Questions::new();
        let mut ends_ms = None;
        loop {
            let now = self.now();
            let waiting: usize = self.routes.iter().map(|route| route.courier.len()).sum();
            let is_done = waiting == 0 && mail.is_empty();
            if ends_ms.is_some_and(|ends_ms| is_done || now.mono_ms >= ends_ms) {
                let fate = if self.spool.is_some() { "wait in the spool" } else { "are lost" };
                let words = format!("events that were not delivered {fate}: {waiting}");
                return (waiting > 0).then_some(words);
            }
            self.send(now, &mut requests);
            let due = self.routes.iter().filter_map(|route| route.courier.next_timeout(now));
            let due = due.chain(ends_ms).min();
            let pause = due.map_or(3_600_000, |due_ms| due_ms.saturating_sub(now.mono_ms).max(1));
            tokio::select! {
                _ = &mut end, if ends_ms.is_none() => {
                    ends_ms = Some(now.mono_ms + GRACE.as_millis() as u64);
                }
                Some(HookMail { mut events, mut inquiries }) = mail.recv() => {
                    // What else has come in the meantime is written with it.
                    for _ in 0..BATCHES_MAX {
                        let Ok(more) = mail.try_recv() else { break };
                        events.extend(more.events);
                        inquiries.extend(more.inquiries);
                    }
                    self.take(events);
                    self.ask(inquiries, &mut questions);
                }
                Some(first) = questions.join_next() => {
                    let others = std::iter::from_fn(|| questions.try_join_next());
                    let ended = std::iter::once(first).chain(others);
                    let outcomes = ended.map(|ended| ended.expect("questions are not cancelled"));
                    self.tell(outcomes.collect());
                }
                Some(ended) = requests.join_next() => {
                    let (index, parcel, answer) = ended.expect("requests are not cancelled");
                    self.handle_answer(index, parcel, answer);
                }
                () = tokio::time::sleep(Duration::from_millis(pause)) => {}
            }
        }
    }

    /// Starts what may be sent now, and gives up what is too old.
    fn send(&mut self, now: Now, requests: &mut Requests) {
        for index in 0..self.routes.len() {
            let expired = self.routes[index].courier.expire(now);
            self.finish(now, index, expired);
            while let Some(parcel) = self.routes[index].courier.poll_parcel(now) {
                let client = Arc::clone(&self.routes[index].client);
                requests.spawn(async move {
                    let answer = client.send(&parcel).await;
                    (index, parcel, answer)
                });
            }
        }
    }

    /// Asks what cores want to know.
    fn ask(&mut self, inquiries: Vec<Inquiry>, questions: &mut Questions) {
        for inquiry in inquiries {
            match self.indexes.get(&inquiry.rule.id) {
                Some(&index) => {
                    let Route { client, places, .. } = &self.routes[index];
                    questions.spawn(gate::ask(Arc::clone(client), Arc::clone(places), inquiry));
                }
                None => {
                    let verdict = Verdict::Failed("a rule of the channel cannot be asked any more");
                    self.tell(vec![gate::Outcome { inquiry, verdict, failure: None }]);
                }
            }
        }
    }

    /// Tells cores what has come of their questions.
    fn tell(&mut self, outcomes: Vec<gate::Outcome>) {
        let now = self.now();
        let mut answered: Vec<Vec<Answered>> = self.verdicts.iter().map(|_| Vec::new()).collect();
        for gate::Outcome { inquiry, verdict, failure } in outcomes {
            if let Some(failure) = failure
                && let Some(&index) = self.indexes.get(&inquiry.rule.id)
            {
                self.note_undecided(now, index, &failure);
            }
            answered[usize::from(inquiry.shard)].push((inquiry.number, verdict));
        }
        for (send, answered) in self.verdicts.iter_mut().zip(answered) {
            if !answered.is_empty() {
                send(answered);
            }
        }
    }

    fn note_undecided(&mut self, now: Now, index: usize, failure: &str) {
        let route = &mut self.routes[index];
        route.undecided += 1;
        if route.undecided_logged_ms.is_none_or(|ms| now.mono_ms >= ms + LOG_INTERVAL_MS) {
            let (id, count) = (&route.rule.id, std::mem::take(&mut route.undecided));
            (self.log)(format!("rule {id}: questions without a decision={count} last: {failure}"));
            route.undecided_logged_ms = Some(now.mono_ms);
        }
    }

    /// Takes events from cores: to disk first, then to their couriers.
    fn take(&mut self, events: Vec<RuleEvent>) {
        let now = self.now();
        let first = self.next_id;
        self.next_id += events.len() as u64;
        if let Some(spool) = &mut self.spool {
            let written = spool.append((first..).zip(&events));
            self.note_spool(now, written);
        }
        for (id, event) in (first..).zip(events) {
            let Some(&index) = self.indexes.get(&event.rule().id) else { continue };
            let entry = Entry { id, event: Arc::new(event) };
            self.routes[index].courier.push(now, entry);
        }
        for index in 0..self.routes.len() {
            let mut dropped = Vec::new();
            let route = &mut self.routes[index];
            while route.rule.when_full == WhenFull::DropOldest && route.rule.is_full() {
                match route.courier.drop_oldest() {
                    Some(finished) => {
                        route.rule.count_dropped();
                        dropped.push(finished.entry.id);
                        route.given_up += 1;
                    }
                    None => break,
                }
            }
            self.forget(now, &dropped);
            self.report(now, index);
        }
    }

    fn handle_answer(&mut self, index: usize, parcel: Parcel, answer: Answer) {
        let now = self.now();
        let route = &mut self.routes[index];
        let finished = route.courier.handle_outcome(now, parcel, answer.outcome);
        if finished.is_empty() || finished.iter().any(|finished| finished.given_up.is_some()) {
            route.failure = Some(answer.note);
        }
        self.finish(now, index, finished);
        self.report(now, index);
    }

    /// Takes events off the spool that have come to something.
    fn finish(&mut self, now: Now, index: usize, finished: Vec<Finished>) {
        if finished.is_empty() {
            return;
        }
        for Finished { entry, given_up } in &finished {
            if given_up.is_none() {
                continue;
            }
            self.routes[index].given_up += 1;
            if let Some(spool) = &mut self.spool {
                let buried = spool.bury(now.unix_ms, *given_up, &entry.event);
                self.note_spool(now, buried);
            }
        }
        let ids: Vec<u64> = finished.iter().map(|finished| finished.entry.id).collect();
        self.forget(now, &ids);
    }

    fn forget(&mut self, now: Now, ids: &[u64]) {
        if let Some(spool) = &mut self.spool {
            let written = spool.finish(ids);
            self.note_spool(now, written);
        }
    }

    /// Events are delivered from memory even where the disk fails.
    fn note_spool(&mut self, now: Now, written: std::io::Result<()>) {
        let is_due = |last: Option<u64>| last.is_none_or(|ms| now.mono_ms >= ms + LOG_INTERVAL_MS);
        if let Err(error) = written
            && is_due(self.spool_failed_ms)
        {
            self.spool_failed_ms = Some(now.mono_ms);
            (self.log)(format!("spool cannot be written, events wait in memory alone: {error}"));
        }
    }

    /// Says how a rule fares: when its endpoint fails or answers again, and what was given up.
    fn report(&mut self, now: Now, index: usize) {
        let route = &mut self.routes[index];
        let is_broken = route.courier.is_broken();
        let is_due = route.logged_ms.is_none_or(|ms| now.mono_ms >= ms + LOG_INTERVAL_MS);
        let (id, waiting) = (&route.rule.id, route.courier.len());
        if is_broken != route.was_broken {
            let failure = route.failure.as_deref().unwrap_or_default();
            (self.log)(match is_broken {
                true => format!("rule {id}: endpoint fails ({failure}) waiting={waiting}"),
                false => format!("rule {id}: endpoint answers again waiting={waiting}"),
            });
            route.was_broken = is_broken;
        }
        if route.given_up > 0 && is_due {
            let failure = route.failure.as_deref().unwrap_or("none failed");
            let given_up = route.given_up;
            (self.log)(format!(
                "rule {id}: events given up={given_up} waiting={waiting} last answer: {failure}"
            ));
            route.given_up = 0;
            route.logged_ms = Some(now.mono_ms);
        }
    }
}
