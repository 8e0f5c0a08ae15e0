//! The thread itself: events in, requests out, one loop.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use tokio::sync::{Semaphore, broadcast, mpsc, oneshot};
use tokio::task::JoinSet;

use super::answer::Answer;
use super::attempts::{self, Attempt, AttemptLog, Fate, Sent};
use super::client::Client;
use super::command::{self, Selection};
use super::control::{self, Command, Ears, HookError, Page};
use super::courier::{Entry, Finished, Outcome, Parcel};
use super::gate;
use super::guard::{Guard, LoopGuard};
use super::line::Line;
use super::report::{LastFailure, RuleState, RuleSummary};
use super::spool::Spool;
use super::spool::Stored;
use super::target::Sink;
use super::{
    BATCHES_MAX, GRACE, HookMail, HookRule, HooksConfig, Target, VerdictSender, first_id,
    spool_directory,
};
use crate::ably::{
    Answered, Inquiry, Message, Publication, Rule, RuleEvent, RuleSource, SerialClock, SeriesId,
    Verdict, WhenFull, message_events,
};
use crate::base::Now;

/// Pause between two lines in the log about one rule.
const LOG_INTERVAL_MS: u64 = 10_000;

/// One rule here.
struct Route {
    rule: Arc<Rule>,
    target: Arc<Target>,
    /// Whether its events are sent; otherwise they wait.
    is_enabled: bool,
    loop_guard: LoopGuard,
    guard: Guard,
    has_told_loop: bool,
    log: AttemptLog,
    counts: Counts,
    last_failure: Option<LastFailure>,
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

/// What has become of a rule's events and requests.
#[derive(Default)]
struct Counts {
    delivered: u64,
    failed: u64,
    dead: u64,
    loops: u64,
}

impl Route {
    /// Whether it feeds itself and is not to do so.
    fn is_paused(&self) -> bool {
        self.loop_guard == LoopGuard::Pause && self.guard.is_looping()
    }

    /// Whether nothing is sent now, whatever waits.
    fn is_held(&self) -> bool {
        !self.is_enabled || self.is_paused() || self.guard.is_holding()
    }

    fn state(&self) -> RuleState {
        match (self.is_enabled, self.is_paused()) {
            (false, _) => RuleState::Disabled,
            (true, true) => RuleState::Paused,
            (true, false) => RuleState::Enabled,
        }
    }

    /// A request has failed, with an event or a question.
    fn note_failure(&mut self, time: u64, note: &str) {
        self.counts.failed += 1;
        self.last_failure = Some(LastFailure { time, note: note.to_owned() });
    }

    /// Takes an event that has happened, or was found in the spool.
    fn push(&mut self, now: Now, id: u64, event: Arc<RuleEvent>) {
        if self.loop_guard != LoopGuard::Off {
            self.guard.handle_event(now, &event.channel, event.is_rest);
        }
        self.line.push(now, Entry { id, event });
    }
}

/// The channels of a parcel, each once.
fn channels(parcel: &Parcel) -> HashSet<&str> {
    parcel.entries.iter().map(|entry| &*entry.event.channel).collect()
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
    /// Who follows attempts; made when the thread runs.
    followers: Option<broadcast::Sender<Arc<Attempt>>>,
    next_attempt: u64,
}

/// Requests under way: the route, what was sent and what came back.
type Requests = JoinSet<(RouteNumber, Parcel, Reported)>;

/// What was sent, and what came of it.
struct Reported {
    sent: Sent,
    answer: Answer,
    /// In milliseconds since the Unix epoch.
    began_ms: u64,
    latency: Duration,
}

/// Questions under way. Cores bound them: each has as many as publishes wait there.
type Questions = JoinSet<Ended>;

/// A question that has ended.
struct Ended {
    outcome: gate::Outcome,
    /// Whom it was put to; nobody if its rule was gone.
    target: Option<Arc<Target>>,
    /// When it was put, in milliseconds since the Unix epoch.
    put_ms: u64,
}

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
            followers: None,
            next_attempt: 1,
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
            let client = match known.filter(|route| *route.target == *target) {
                // Its connections are still good.
                Some(route) => Arc::clone(&route.client),
                None => Client::new(target)
                    .map(Arc::new)
                    .with_context(|| format!("the rule `{}` cannot be used", rule.id))?,
            };
            clients.push(client);
        }
        for (hook, client) in rules.into_iter().zip(clients) {
            let HookRule { rule, target, is_enabled, loop_guard } = hook;
            let target = Arc::new(target);
            match self.numbers.get(&rule.id) {
                Some(number) => {
                    let route = self.routes.get_mut(number).expect("numbered routes are there");
                    route.line.set_pace(target.pace);
                    let is_same = Arc::ptr_eq(&route.rule, &rule);
                    (route.rule, route.target, route.client) = (rule, target, client);
                    // One that was paused may have been put right.
                    if !is_same {
                        (route.guard, route.has_told_loop) = (Guard::default(), false);
                    }
                    (route.is_enabled, route.loop_guard) = (is_enabled, loop_guard);
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
                        loop_guard,
                        guard: Guard::default(),
                        has_told_loop: false,
                        log: AttemptLog::default(),
                        counts: Counts::default(),
                        last_failure: None,
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
                    route.push(now, id, event);
                    waiting += 1;
                }
                None => {
                    spool.bury_stored(now.unix_ms, id, &stored)?;
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
        ears: Ears,
        mut end: oneshot::Receiver<()>,
    ) -> Option<String> {
        let Ears { mut commands, attempts } = ears;
        self.followers = Some(attempts);
        let mut requests = Requests::new();
        let mut questions = Questions::new();
        let mut ends_ms = None;
        loop {
            let now = self.now();
            let routes = self.routes.values();
            let can_go = routes.clone().filter(|route| route.is_enabled && !route.is_paused());
            let is_done =
                mail.is_empty() && can_go.map(|route| route.line.len()).sum::<usize>() == 0;
            if ends_ms.is_some_and(|ends_ms| is_done || now.mono_ms >= ends_ms) {
                let waiting: usize = routes.map(|route| route.line.len()).sum();
                let fate = if self.spool.is_some() { "wait in the spool" } else { "are lost" };
                let words = format!("events that were not delivered {fate}: {waiting}");
                return (waiting > 0).then_some(words);
            }
            self.send(now, &mut requests);
            let next = |route: &Route| route.line.next_timeout(now, route.is_held());
            let due = self.routes.values().filter_map(next).chain(ends_ms);
            let probes = self.routes.values().filter_map(|route| route.guard.next_timeout());
            let due = due.chain(probes).min();
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
                    let ended = ended.map(|ended| ended.expect("questions are not cancelled"));
                    self.tell(ended.collect());
                }
                Some(command) = commands.recv() => self.obey(command),
                Some(ended) = requests.join_next() => {
                    let (number, parcel, reported) = ended.expect("requests are not cancelled");
                    self.handle_answer(number, parcel, reported);
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
            Command::Summary(answer) => {
                let _ = answer.send(self.routes.values().map(summary).collect());
            }
            Command::Attempts(page, answer) => {
                let _ = answer.send(self.attempts(page));
            }
            Command::Waiting(page, answer) => {
                let entries = self.routes.values().flat_map(|route| route.line.entries());
                let mut entries: Vec<_> = entries.map(|entry| (entry.id, &*entry.event)).collect();
                entries.sort_unstable_by_key(|(id, _)| *id);
                let wanted = entries.into_iter().map(|(id, event)| (id, (id, event)));
                let wanted = page.of(wanted, |(_, event)| &event.rule().id);
                let show = |(id, event): (u64, &RuleEvent)| command::show(id, &Stored::of(event));
                let _ = answer.send(wanted.into_iter().map(show).collect());
            }
            Command::Replay(selection, answer) => {
                let _ = answer.send(self.replay(&selection));
            }
            Command::Test(rule, channel, answer) => self.test(&rule, &channel, answer),
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
            if route.guard.poll(now, route.line.in_flight(), &mut route.has_told_loop) {
                route.counts.loops += 1;
                let what = match route.loop_guard {
                    LoopGuard::Pause => "it is paused until it is changed",
                    LoopGuard::Warn | LoopGuard::Off => {
                        "let it skip the rule, or use another channel"
                    }
                };
                let id = &route.rule.id;
                (self.log)(format!(
                    "rule {id}: feeds itself, each event that it is sent causes another; {what}"
                ));
            }
            while !route.is_held()
                && let Some(parcel) = route.line.poll_parcel(now)
            {
                if route.loop_guard != LoopGuard::Off {
                    for channel in channels(&parcel) {
                        route.guard.handle_sent(now, channel);
                    }
                }
                let (client, target) = (Arc::clone(&route.client), Arc::clone(&route.target));
                requests.spawn(async move {
                    let reported = send(&client, &target, &parcel, now.unix_ms).await;
                    (number, parcel, reported)
                });
            }
        }
        for (number, old) in expired {
            self.finish(now, number, old);
        }
    }

    /// Asks what cores want to know.
    fn ask(&mut self, inquiries: Vec<Inquiry>, questions: &mut Questions) {
        let put_ms = self.now().unix_ms;
        for inquiry in inquiries {
            match self.numbers.get(&inquiry.rule.id) {
                Some(number) => {
                    let Route { client, places, target, .. } = &self.routes[number];
                    let asking = gate::ask(Arc::clone(client), Arc::clone(places), inquiry);
                    let target = Some(Arc::clone(target));
                    questions.spawn(async move { Ended { outcome: asking.await, target, put_ms } });
                }
                None => {
                    let verdict = Verdict::Failed("a rule of the channel cannot be asked any more");
                    let outcome = gate::Outcome { inquiry, verdict, asked: Vec::new() };
                    self.tell(vec![Ended { outcome, target: None, put_ms }]);
                }
            }
        }
    }

    /// Tells cores what has come of their questions.
    fn tell(&mut self, ended: Vec<Ended>) {
        let now = self.now();
        let mut answered: Vec<Vec<Answered>> = self.verdicts.iter().map(|_| Vec::new()).collect();
        for Ended { outcome, target, put_ms } in ended {
            if let Some(failure) = outcome.failure()
                && let Some(&number) = self.numbers.get(&outcome.inquiry.rule.id)
            {
                self.note_undecided(now, number, failure);
            }
            if let Some(target) = target {
                self.note_asked(&outcome, &target, put_ms);
            }
            let gate::Outcome { inquiry, verdict, .. } = outcome;
            answered[usize::from(inquiry.shard)].push((inquiry.number, verdict));
        }
        for (send, answered) in self.verdicts.iter_mut().zip(answered) {
            if !answered.is_empty() {
                send(answered);
            }
        }
    }

    /// Remembers what was asked.
    fn note_asked(&mut self, outcome: &gate::Outcome, target: &Target, put_ms: u64) {
        let inquiry = &outcome.inquiry;
        let request = Sent::question(target, &inquiry.body);
        for (asked, attempt) in outcome.asked.iter().zip(1..) {
            let time = put_ms + asked.began.as_millis() as u64;
            let ended_ms = time + asked.latency.as_millis() as u64;
            let attempt = Arc::new(Attempt {
                id: self.next_attempt,
                time,
                rule: inquiry.rule.id.clone(),
                app: inquiry.rule.app_id.clone(),
                channels: vec![inquiry.channel.clone()],
                events: Vec::new(),
                event_count: 1,
                attempt,
                request: request.clone(),
                status: asked.status,
                note: asked.note.clone(),
                latency_ms: asked.latency.as_millis() as u64,
                outcome: asked.fate,
                next_try: asked.pause.map(|pause| ended_ms + pause.as_millis() as u64),
            });
            self.next_attempt += 1;
            let number = self.numbers.get(&inquiry.rule.id);
            if let Some(route) = number.and_then(|number| self.routes.get_mut(number)) {
                if matches!(asked.fate, Fate::Retry | Fate::Undecided) {
                    route.note_failure(ended_ms, &asked.note);
                }
                route.log.push(Arc::clone(&attempt));
            }
            self.tell_attempt(attempt);
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
            let event = Arc::new(event);
            match self.numbers.get(&event.rule().id) {
                Some(number) => {
                    let route = self.routes.get_mut(number).expect("numbered routes are there");
                    route.push(now, id, event);
                }
                // The rule has gone while the event was on its way.
                None => {
                    self.bury_orphan(now, &Entry { id, event });
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

    fn handle_answer(&mut self, number: RouteNumber, parcel: Parcel, reported: Reported) {
        let now = self.now();
        let Reported { sent, answer, began_ms, latency } = reported;
        let Answer { outcome, note, status } = answer;
        let mut attempt = self.attempt(&parcel, sent, began_ms, latency);
        (attempt.status, attempt.note) = (status, note);
        let Some(route) = self.routes.get_mut(&number) else {
            for entry in &parcel.entries {
                match outcome {
                    Outcome::Delivered => self.forget(now, &[entry.id]),
                    Outcome::Refused | Outcome::Failed { .. } => self.bury_orphan(now, entry),
                }
            }
            if outcome != Outcome::Delivered {
                attempt.outcome = Fate::GivenUp;
            }
            return self.tell_attempt(Arc::new(attempt));
        };
        if outcome != Outcome::Delivered {
            route.failure = Some(attempt.note.clone());
            route.note_failure(now.unix_ms, &attempt.note);
        }
        if route.loop_guard != LoopGuard::Off {
            let is_queue = matches!(route.target.sink, Sink::Lambda(_) | Sink::Nats(_));
            let works_on = is_queue || status == Some(202);
            for channel in channels(&parcel) {
                route.guard.handle_ended(now, channel, works_on);
            }
        }
        let (finished, again_ms) = route.line.handle_outcome(now, parcel, outcome);
        attempt.outcome = match outcome {
            Outcome::Delivered => Fate::Delivered,
            Outcome::Refused => Fate::Refused,
            Outcome::Failed { .. } => Fate::Retry,
        };
        attempt.next_try = again_ms.map(|at_ms| now.unix_ms + at_ms.saturating_sub(now.mono_ms));
        let attempt = Arc::new(attempt);
        route.log.push(Arc::clone(&attempt));
        self.tell_attempt(attempt);
        self.finish(now, number, finished);
        self.report(now, number);
    }

    /// An attempt of which nothing is known but what was sent.
    fn attempt(
        &mut self,
        parcel: &Parcel,
        sent: Sent,
        began_ms: u64,
        latency: Duration,
    ) -> Attempt {
        let id = self.next_attempt;
        self.next_attempt += 1;
        let (events, channels) = attempts::names(parcel);
        let rule = parcel.entries[0].event.rule();
        Attempt {
            id,
            time: began_ms,
            rule: rule.id.clone(),
            app: rule.app_id.clone(),
            channels,
            events,
            event_count: parcel.entries.len(),
            attempt: parcel.attempt,
            request: sent,
            status: None,
            note: String::new(),
            latency_ms: latency.as_millis() as u64,
            outcome: Fate::Delivered,
            next_try: None,
        }
    }

    fn tell_attempt(&self, attempt: Arc<Attempt>) {
        if let Some(followers) = &self.followers {
            // Mostly nobody follows.
            let _ = followers.send(attempt);
        }
    }

    /// The newest attempts that are wanted, oldest first.
    fn attempts(&self, page: Page) -> Vec<Arc<Attempt>> {
        let of_rule = |route: &&Route| page.rule.as_ref().is_none_or(|id| **id == *route.rule.id);
        let routes = self.routes.values().filter(of_rule);
        let mut attempts: Vec<Arc<Attempt>> =
            routes.flat_map(|route| route.log.after(page.after)).cloned().collect();
        attempts.sort_unstable_by_key(|attempt| attempt.id);
        attempts.split_off(attempts.len().saturating_sub(page.limit))
    }

    /// Has dead letters wait again, those of rules that are there.
    fn replay(&mut self, selection: &Selection) -> Result<usize, HookError> {
        let now = self.now();
        let HookThread { spool, numbers, next_id, .. } = self;
        let spool = spool.as_mut().ok_or_else(control::not_kept)?;
        let is_wanted = |letter: &super::spool::DeadLetter| {
            selection.has(letter) && numbers.contains_key(&letter.event.rule_id)
        };
        let revived = spool.revive(*next_id, now.unix_ms, is_wanted);
        let revived = revived.map_err(|error| HookError::Failed(error.to_string()))?;
        if revived.is_empty() && selection.id.is_some() {
            let text = "there is no such dead letter, or its rule is gone".to_owned();
            return Err(HookError::NotFound(text));
        }
        let count = revived.len();
        self.next_id += count as u64;
        for (id, stored) in revived {
            let number = self.numbers[&stored.rule_id];
            let route = self.routes.get_mut(&number).expect("numbered routes are there");
            let event = Arc::new(stored.into_event(&route.rule));
            route.push(now, id, event);
        }
        Ok(count)
    }

    /// Sends an event that nobody has published; it waits in no line and is in no spool.
    fn test(
        &mut self,
        rule_id: &str,
        channel: &str,
        reply: oneshot::Sender<Result<Attempt, HookError>>,
    ) {
        let now = self.now();
        let Some(route) = self.numbers.get(rule_id).map(|number| &self.routes[number]) else {
            let _ = reply.send(Err(HookError::NotFound(format!("there is no rule `{rule_id}`"))));
            return;
        };
        if route.rule.gate.is_some() || route.rule.source != RuleSource::Message {
            let text = "only rules that are told of messages can be tried";
            let _ = reply.send(Err(HookError::Invalid(text.into())));
            return;
        }
        let message = Message {
            id: Some("ringcast-test:0".into()),
            name: Some("test".into()),
            data: crate::ably::Data::Text("This is a test of the rule.".into()),
            ..Message::default()
        };
        let publication = Publication {
            channel_serial: SerialClock::new(SeriesId::new([0; 10])).next(now.unix_ms),
            id: "ringcast-test".into(),
            connection_id: None,
            timestamp_ms: now.unix_ms,
            messages: vec![message],
        };
        let (client, target) = (Arc::clone(&route.client), Arc::clone(&route.target));
        let mut events = Vec::new();
        message_events(&route.rule, channel, &publication, |event| events.push(event));
        let event = Arc::new(events.pop().expect("nothing of it skips the rule"));
        let parcel = Parcel::alone(Entry { id: 0, event });
        let empty = Sent::parcel(&target, &parcel);
        let mut attempt = self.attempt(&parcel, empty, now.unix_ms, Duration::ZERO);
        // Its end is bounded by the target's timeout.
        tokio::spawn(async move {
            let Reported { answer, latency, .. } = send(&client, &target, &parcel, 0).await;
            attempt.latency_ms = latency.as_millis() as u64;
            (attempt.status, attempt.note) = (answer.status, answer.note);
            attempt.outcome = match answer.outcome {
                Outcome::Delivered => Fate::Delivered,
                // Nobody tries it again.
                Outcome::Refused | Outcome::Failed { .. } => Fate::GivenUp,
            };
            let _ = reply.send(Ok(attempt));
        });
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
                let buried = spool.bury(now.unix_ms, *given_up, entry.id, &entry.event);
                self.note_spool(now, buried);
            }
        }
        if let Some(route) = self.routes.get_mut(&number) {
            route.given_up += given_up_count;
            route.counts.dead += given_up_count;
            route.counts.delivered += finished.len() as u64 - given_up_count;
        }
        let ids: Vec<u64> = finished.iter().map(|finished| finished.entry.id).collect();
        self.forget(now, &ids);
    }

    /// Gives up an event whose rule is gone.
    fn bury_orphan(&mut self, now: Now, entry: &Entry) {
        if let Some(spool) = &mut self.spool {
            let buried = spool.bury(now.unix_ms, None, entry.id, &entry.event);
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

/// Sends one parcel, and notes what and for how long.
async fn send(client: &Client, target: &Target, parcel: &Parcel, began_ms: u64) -> Reported {
    let sent = Sent::parcel(target, parcel);
    let began = Instant::now();
    let answer = client.send(parcel).await;
    Reported { sent, answer, began_ms, latency: began.elapsed() }
}

fn summary(route: &Route) -> RuleSummary {
    let rule = &route.rule;
    let target = match &route.target.sink {
        Sink::Http(http) => attempts::without_query(&http.url),
        Sink::Lambda(lambda) => lambda.function.as_str().to_owned(),
        Sink::Nats(nats) => nats.servers.join(","),
    };
    RuleSummary {
        rule: rule.id.clone(),
        app: rule.app_id.clone(),
        target,
        state: route.state(),
        is_gate: rule.gate.is_some(),
        waiting: route.line.len(),
        waiting_bytes: rule.waiting_bytes(),
        in_flight: route.line.in_flight(),
        is_broken: route.line.is_broken(),
        is_looping: route.guard.is_looping(),
        delivered: route.counts.delivered,
        failed: route.counts.failed,
        dead: route.counts.dead,
        dropped: rule.dropped(),
        loops: route.counts.loops,
        last_failure: route.last_failure.clone(),
    }
}
