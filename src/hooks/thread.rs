//! The thread itself: events in, requests out, one loop.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;

use super::client::{Answer, Client};
use super::control::Command;
use super::courier::{Entry, Finished, Outcome, Parcel};
use super::gate;
use super::line::Line;
use super::spool::Spool;
use super::{
    BATCHES_MAX, GRACE, HookMail, HookRule, HooksConfig, Target, VerdictSender, first_id,
    spool_directory,
};
use crate::ably::{Answered, Inquiry, Rule, RuleEvent, Verdict, WhenFull};
use crate::base::Now;

/// Pause between two lines in the log about one rule.
const LOG_INTERVAL_MS: u64 = 10_000;

/// One rule here.
struct Route {
    rule: Arc<Rule>,
    target: Target,
    /// Whether its events are sent; otherwise they wait.
    is_enabled: bool,
    line: Line,
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

/// Which route, counted from the first; an answer that comes for one that is gone finds nothing.
type RouteNumber = u64;

pub(super) struct HookThread {
    /// In the order in which they came.
    routes: BTreeMap<RouteNumber, Route>,
    /// By rule id.
    numbers: HashMap<Box<str>, RouteNumber>,
    next_number: RouteNumber,
    spool: Option<Spool>,
    next_id: u64,
    /// By shard.
    verdicts: Vec<VerdictSender>,
    log: Box<dyn FnMut(String) + Send>,
    started: Instant,
    spool_failed_ms: Option<u64>,
}

/// Requests under way: the route, what was sent and what came back.
type Requests = JoinSet<(RouteNumber, Parcel, Answer)>;

/// Questions under way. Cores bound them: each has as many as publishes wait there.
type Questions = JoinSet<gate::Outcome>;

impl HookThread {
    pub(super) fn new(
        config: HooksConfig,
        verdicts: Vec<VerdictSender>,
        log: Box<dyn FnMut(String) + Send>,
    ) -> anyhow::Result<HookThread> {
        let mut thread = HookThread {
            routes: BTreeMap::new(),
            numbers: HashMap::new(),
            next_number: 0,
            spool: None,
            next_id: 0,
            verdicts,
            log,
            started: Instant::now(),
            spool_failed_ms: None,
        };
        thread.set_rules(config.rules)?;
        let now = thread.now();
        thread.next_id = first_id(now.unix_ms);
        if let Some(state_dir) = &config.state_dir {
            thread.open_spool(&spool_directory(state_dir))?;
        }
        Ok(thread)
    }

    /// Takes rules that are new or have changed; those that are not among them stay as they are. What
    /// waits of a rule that has changed goes on to where it leads now.
    ///
    /// # Errors
    /// One cannot be used; nothing has changed then.
    fn set_rules(&mut self, rules: Vec<HookRule>) -> anyhow::Result<()> {
        let mut clients = Vec::with_capacity(rules.len());
        for HookRule { rule, target, .. } in &rules {
            let known = self.numbers.get(&rule.id).map(|number| &self.routes[number]);
            let client = match known.filter(|route| route.target == *target) {
                // Its connections are still good.
                Some(route) => Arc::clone(&route.client),
                None => Client::new(target)
                    .map(Arc::new)
                    .with_context(|| format!("the rule `{}` cannot be used", rule.id))?,
            };
            clients.push(client);
        }
        for (hook, client) in rules.into_iter().zip(clients) {
            let HookRule { rule, target, is_enabled } = hook;
            match self.numbers.get(&rule.id) {
                Some(number) => {
                    let route = self.routes.get_mut(number).expect("numbered routes are there");
                    route.line.set_pace(target.pace);
                    (route.rule, route.target, route.client) = (rule, target, client);
                    route.is_enabled = is_enabled;
                }
                None => {
                    let mut seed = [0; 8];
                    getrandom::fill(&mut seed)?;
                    self.numbers.insert(rule.id.clone(), self.next_number);
                    let route = Route {
                        line: Line::new(target.pace, u64::from_le_bytes(seed)),
                        rule,
                        target,
                        is_enabled,
                        client,
                        given_up: 0,
                        failure: None,
                        was_broken: false,
                        logged_ms: None,
                        places: Arc::new(Semaphore::new(gate::QUESTIONS_MAX)),
                        undecided: 0,
                        undecided_logged_ms: None,
                    };
                    self.routes.insert(self.next_number, route);
                    self.next_number += 1;
                }
            }
        }
        self.bound_spool();
        Ok(())
    }

    /// Forgets all rules but those with these ids; what waits of them is given up.
    fn retain_rules(&mut self, ids: &[Box<str>]) {
        let now = self.now();
        let known = self.numbers.keys().cloned();
        let gone: Vec<Box<str>> = known.filter(|id| !ids.contains(id)).collect();
        for id in gone {
            let number = self.numbers.remove(&id).expect("listed above");
            let mut route = self.routes.remove(&number).expect("numbered routes are there");
            let mut count = 0;
            // Requests under way end first; then they are looked at once more.
            while let Some(Finished { entry, .. }) = route.line.drop_oldest() {
                self.bury_orphan(now, &entry);
                count += 1;
            }
            if count > 0 {
                (self.log)(format!("rule {id}: is gone, events given up={count}"));
            }
        }
        self.bound_spool();
    }

    /// What waits fits into the spool; the rest is what has been delivered from the same files.
    fn bound_spool(&mut self) {
        let bytes_max = self.spool_bytes_max();
        if let Some(spool) = &mut self.spool {
            spool.set_bytes_max(bytes_max);
        }
    }

    fn spool_bytes_max(&self) -> u64 {
        self.routes.values().map(|route| 2 * route.rule.bytes_max).sum()
    }

    fn open_spool(&mut self, directory: &Path) -> anyhow::Result<()> {
        let (mut spool, found) = Spool::open(directory, self.spool_bytes_max())
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
            match self.numbers.get(&stored.rule_id) {
                Some(number) => {
                    let route = self.routes.get_mut(number).expect("numbered routes are there");
                    let event = Arc::new(stored.into_event(&route.rule));
                    route.line.push(now, Entry { id, event });
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
    pub(super) async fn run(
        mut self,
        mut mail: mpsc::Receiver<HookMail>,
        mut commands: mpsc::Receiver<Command>,
        mut end: oneshot::Receiver<()>,
    ) -> Option<String> {
        let mut requests = Requests::new();
        let mut questions = Questions::new();
        let mut ends_ms = None;
        loop {
            let now = self.now();
            let routes = self.routes.values();
            let can_go = routes.clone().filter(|route| route.is_enabled);
            let is_done =
                mail.is_empty() && can_go.map(|route| route.line.len()).sum::<usize>() == 0;
            if ends_ms.is_some_and(|ends_ms| is_done || now.mono_ms >= ends_ms) {
                let waiting: usize = routes.map(|route| route.line.len()).sum();
                let fate = if self.spool.is_some() { "wait in the spool" } else { "are lost" };
                let words = format!("events that were not delivered {fate}: {waiting}");
                return (waiting > 0).then_some(words);
            }
            self.send(now, &mut requests);
            let next = |route: &Route| route.line.next_timeout(now, !route.is_enabled);
            let due = self.routes.values().filter_map(next).chain(ends_ms).min();
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
                Some(command) = commands.recv() => self.obey(command),
                Some(ended) = requests.join_next() => {
                    let (number, parcel, answer) = ended.expect("requests are not cancelled");
                    self.handle_answer(number, parcel, answer);
                }
                () = tokio::time::sleep(Duration::from_millis(pause)) => {}
            }
        }
    }

    /// Does what somebody outside wants. Whoever asked may have gone.
    fn obey(&mut self, command: Command) {
        match command {
            Command::Set(rules, done) => {
                let _ = done.send(self.set_rules(rules));
            }
            Command::Retain(ids, done) => {
                self.retain_rules(&ids);
                let _ = done.send(());
            }
        }
    }

    /// Starts what may be sent now, and gives up what is too old.
    fn send(&mut self, now: Now, requests: &mut Requests) {
        let mut expired = Vec::new();
        for (&number, route) in &mut self.routes {
            let old = route.line.expire(now);
            if !old.is_empty() {
                expired.push((number, old));
            }
            if !route.is_enabled {
                continue;
            }
            while let Some(parcel) = route.line.poll_parcel(now) {
                let client = Arc::clone(&route.client);
                requests.spawn(async move {
                    let answer = client.send(&parcel).await;
                    (number, parcel, answer)
                });
            }
        }
        for (number, old) in expired {
            self.finish(now, number, old);
        }
    }

    /// Asks what cores want to know.
    fn ask(&mut self, inquiries: Vec<Inquiry>, questions: &mut Questions) {
        for inquiry in inquiries {
            match self.numbers.get(&inquiry.rule.id) {
                Some(number) => {
                    let Route { client, places, .. } = &self.routes[number];
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
                && let Some(&number) = self.numbers.get(&inquiry.rule.id)
            {
                self.note_undecided(now, number, &failure);
            }
            answered[usize::from(inquiry.shard)].push((inquiry.number, verdict));
        }
        for (send, answered) in self.verdicts.iter_mut().zip(answered) {
            if !answered.is_empty() {
                send(answered);
            }
        }
    }

    fn note_undecided(&mut self, now: Now, number: RouteNumber, failure: &str) {
        let Some(route) = self.routes.get_mut(&number) else { return };
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
        let mut orphans = 0;
        for (id, event) in (first..).zip(events) {
            let entry = Entry { id, event: Arc::new(event) };
            match self.numbers.get(&entry.event.rule().id) {
                Some(number) => {
                    let route = self.routes.get_mut(number).expect("numbered routes are there");
                    route.line.push(now, entry);
                }
                // The rule has gone while the event was on its way.
                None => {
                    self.bury_orphan(now, &entry);
                    orphans += 1;
                }
            }
        }
        if orphans > 0 {
            (self.log)(format!("events of rules that are gone, given up={orphans}"));
        }
        let numbers: Vec<RouteNumber> = self.routes.keys().copied().collect();
        for number in numbers {
            let mut dropped = Vec::new();
            let route = self.routes.get_mut(&number).expect("listed above");
            while route.rule.when_full == WhenFull::DropOldest && route.rule.is_full() {
                match route.line.drop_oldest() {
                    Some(finished) => {
                        route.rule.count_dropped();
                        dropped.push(finished.entry.id);
                        route.given_up += 1;
                    }
                    None => break,
                }
            }
            self.forget(now, &dropped);
            self.report(now, number);
        }
    }

    fn handle_answer(&mut self, number: RouteNumber, parcel: Parcel, answer: Answer) {
        let now = self.now();
        let Some(route) = self.routes.get_mut(&number) else {
            for entry in &parcel.entries {
                match answer.outcome {
                    Outcome::Delivered => self.forget(now, &[entry.id]),
                    Outcome::Refused | Outcome::Failed { .. } => self.bury_orphan(now, entry),
                }
            }
            return;
        };
        let (finished, _) = route.line.handle_outcome(now, parcel, answer.outcome);
        if finished.is_empty() || finished.iter().any(|finished| finished.given_up.is_some()) {
            route.failure = Some(answer.note);
        }
        self.finish(now, number, finished);
        self.report(now, number);
    }

    /// Takes events off the spool that have come to something.
    fn finish(&mut self, now: Now, number: RouteNumber, finished: Vec<Finished>) {
        if finished.is_empty() {
            return;
        }
        let mut given_up_count = 0;
        for Finished { entry, given_up } in &finished {
            if given_up.is_none() {
                continue;
            }
            given_up_count += 1;
            if let Some(spool) = &mut self.spool {
                let buried = spool.bury(now.unix_ms, *given_up, &entry.event);
                self.note_spool(now, buried);
            }
        }
        if let Some(route) = self.routes.get_mut(&number) {
            route.given_up += given_up_count;
        }
        let ids: Vec<u64> = finished.iter().map(|finished| finished.entry.id).collect();
        self.forget(now, &ids);
    }

    /// Gives up an event whose rule is gone.
    fn bury_orphan(&mut self, now: Now, entry: &Entry) {
        if let Some(spool) = &mut self.spool {
            let buried = spool.bury(now.unix_ms, None, &entry.event);
            self.note_spool(now, buried);
        }
        self.forget(now, &[entry.id]);
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
    fn report(&mut self, now: Now, number: RouteNumber) {
        let Some(route) = self.routes.get_mut(&number) else { return };
        let is_broken = route.line.is_broken();
        let is_due = route.logged_ms.is_none_or(|ms| now.mono_ms >= ms + LOG_INTERVAL_MS);
        let (id, waiting) = (&route.rule.id, route.line.len());
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
