//! The main thread once the shards run: it hears from them, takes signals, tells the service manager how
//! things are, and ends the daemon. It may wait for files and locks; shards never wait for it.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError};
use std::time::{Duration, Instant, SystemTime};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::log::Log;
use super::metrics::{self, OfShard};
use super::orders::{Configured, News, Order, OrderSender, Report};
use super::process::Process;
use super::rules::{KeeperSender, Request};
use super::systemd::Notifier;
use super::{Reload, ShardThread};
use crate::ably::Rules;
use crate::admin::{
    CertificateStatus, Health, LastReload, Question, ReloadOutcome, Reply, ShardStatus, Status,
};
use crate::base::{Level, LogLine};
use crate::shard::{DRAIN_GRACE, Gauges};
use crate::sys::clock;
use crate::tls::{Acceptor, CertificateFacts};

/// Time between two reports of a shard, and between two looks at them, at most.
const REPORT_INTERVAL_MAX: Duration = Duration::from_secs(1);

/// A shard that has not turned for that long is said to stand still, where no watchdog says otherwise.
const STALL_MAX: Duration = Duration::from_secs(10);

/// Time that the drain may take beyond what the shards give themselves.
const EXIT_GRACE: Duration = Duration::from_secs(1);

/// How often shards report, if the manager's watchdog wants to hear from us within `watchdog`.
pub(super) fn report_interval(watchdog: Option<Duration>) -> Duration {
    watchdog.map_or(REPORT_INTERVAL_MAX, |watchdog| (watchdog / 4).min(REPORT_INTERVAL_MAX))
}

/// When each shard was last seen to turn.
struct Pulses {
    /// By shard: turns, and when that number was new.
    seen: Vec<(u64, Instant)>,
    stall_max: Duration,
}

impl Pulses {
    fn new(shards: usize, now: Instant, stall_max: Duration) -> Pulses {
        Pulses { seen: vec![(0, now); shards], stall_max }
    }

    fn note(&mut self, shard: usize, turns: u64, now: Instant) {
        if self.seen[shard].0 != turns {
            self.seen[shard] = (turns, now);
        }
    }

    /// How long a shard has not turned.
    fn still(&self, shard: usize, now: Instant) -> Duration {
        now.duration_since(self.seen[shard].1)
    }

    /// The shard that has stood still longest, if that is too long, and for how long it has.
    fn stalled(&self, now: Instant) -> Option<(usize, Duration)> {
        let since =
            |(shard, (_, then)): (usize, &(u64, Instant))| (shard, now.duration_since(*then));
        let longest = self.seen.iter().enumerate().map(since).max_by_key(|(_, since)| *since);
        longest.filter(|(_, since)| *since > self.stall_max)
    }
}

/// A drain that is under way.
struct Drain {
    /// When the daemon ends whatever is left.
    ends: Instant,
    /// Shards that still have clients.
    missing: usize,
}

pub(super) struct Monitor {
    pub news: Receiver<News>,
    pub orders: Vec<OrderSender>,
    pub threads: Vec<ShardThread>,
    /// CPU of each shard.
    pub cpus: Vec<usize>,
    pub notifier: Notifier,
    pub watchdog: Option<Duration>,
    pub drain_window: Duration,
    pub reload: Option<Reload>,
    /// Who puts into effect what was read.
    pub keeper: KeeperSender,
    /// What handshakes are made with, where there is TLS.
    pub acceptor: Option<Acceptor>,
    pub log: Log,
}

/// What shards are taking.
struct Installing {
    /// Orders that were not said to be carried out.
    missing: usize,
    /// Who waits for that.
    done: SyncSender<()>,
}

/// What changes while the monitor runs.
struct State {
    started: Instant,
    started_at: SystemTime,
    pulses: Pulses,
    reports: Vec<Report>,
    /// Those before, for rates.
    reports_before: Vec<Report>,
    /// Times that each shard was said to stand still.
    stalls: Vec<u64>,
    /// Shards that have not had their first turn.
    starting: usize,
    drain: Option<Drain>,
    /// Reloads that have begun and are not everywhere yet.
    reloads: u32,
    /// The last reload, when it was over.
    last_reload: Option<(Instant, ReloadOutcome)>,
    /// What shards were ordered to take and do not all have, by number.
    installing: HashMap<u64, Installing>,
    next_install: u64,
    /// Whether each shard was said to stand still and has not turned since.
    told_stalls: Vec<bool>,
    status: String,
}

impl State {
    /// The last reload is over. `asker` hears of it.
    fn note_reload(&mut self, outcome: ReloadOutcome, asker: Option<Reply<ReloadOutcome>>) {
        if let Some(asker) = asker {
            asker.send(outcome.clone());
        }
        self.last_reload = Some((Instant::now(), outcome));
    }
}

impl Monitor {
    /// Runs until the daemon is to end. `on_ready` is called once every shard serves.
    ///
    /// # Errors
    /// A shard has failed.
    pub(super) fn run(mut self, on_ready: impl FnOnce()) -> anyhow::Result<()> {
        let shards = self.orders.len();
        let interval = report_interval(self.watchdog);
        // Half of the manager's patience, so that what is told on the next look is in time.
        let stall_max = self.watchdog.map_or(STALL_MAX, |watchdog| watchdog / 2);
        let mut state = State {
            started: Instant::now(),
            started_at: SystemTime::now(),
            pulses: Pulses::new(shards, Instant::now(), stall_max),
            reports: vec![Report::default(); shards],
            reports_before: vec![Report::default(); shards],
            stalls: vec![0; shards],
            starting: shards,
            drain: None,
            reloads: 0,
            last_reload: None,
            installing: HashMap::new(),
            next_install: 0,
            told_stalls: vec![false; shards],
            status: String::new(),
        };
        let mut on_ready = Some(on_ready);
        let mut look_at = Instant::now() + interval;
        loop {
            let wake_at = state.drain.as_ref().map_or(look_at, |drain| drain.ends.min(look_at));
            let wait = wake_at.saturating_duration_since(Instant::now());
            match self.news.recv_timeout(wait) {
                Ok(News::Ready) => {
                    state.starting -= 1;
                    if state.starting == 0 {
                        on_ready.take().expect("each shard is ready once")();
                        self.notifier.send("READY=1");
                    }
                }
                Ok(News::Report { shard, report }) => {
                    state.pulses.note(shard, report.turns, Instant::now());
                    let before = std::mem::replace(&mut state.reports[shard], *report);
                    state.reports_before[shard] = before;
                }
                Ok(News::Install { rules, configured, done }) => {
                    let number = state.next_install;
                    state.next_install += 1;
                    let missing = self.install(number, rules, configured);
                    state.installing.insert(number, Installing { missing, done });
                }
                Ok(News::Installed(number)) => {
                    let installing = state.installing.get_mut(&number);
                    let installing = installing.expect("ordered, and told once for each order");
                    installing.missing -= 1;
                    if installing.missing == 0 {
                        // Whoever waited may have gone.
                        let _ = installing.done.try_send(());
                        state.installing.remove(&number);
                    }
                }
                Ok(News::Reloaded(outcome, asker)) => self.end_reload(&mut state, outcome, asker),
                Ok(News::Drained) => {
                    let drain = state.drain.as_mut().expect("drained when told to");
                    drain.missing -= 1;
                    if drain.missing == 0 {
                        self.log.say(Level::Info, "drained");
                        return Ok(());
                    }
                }
                Ok(News::Asked(Question::Metrics(reply))) => reply.send(self.render(&state)),
                // Goes to the keeper by itself.
                Ok(News::Asked(Question::Rules(..))) => {}
                Ok(News::Asked(Question::Status(reply))) => reply.send(self.status(&state)),
                Ok(News::Asked(Question::Reload(reply))) => {
                    self.reload(&mut state, Some(reply));
                }
                Ok(News::Asked(Question::OfShard(shard, question))) => {
                    self.orders[shard].ask(question);
                }
                Ok(News::Ended { shard }) => return self.end_of(shard),
                Ok(News::Signal(SIGHUP)) => self.reload(&mut state, None),
                Ok(News::Signal(SIGTERM | SIGINT)) if state.drain.is_some() => {
                    self.log.say(Level::Warn, "second signal: ended at once");
                    return Ok(());
                }
                Ok(News::Signal(SIGTERM | SIGINT)) => self.begin_drain(&mut state),
                Ok(News::Signal(_)) => {
                    self.orders.last_mut().expect("there is one").stall();
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => unreachable!("signals keep it open"),
            }
            let now = Instant::now();
            if now >= look_at {
                look_at = now + interval;
                self.look(&mut state, now);
            }
            if state.drain.as_ref().is_some_and(|drain| now >= drain.ends) {
                let sum = |gauge: fn(&Gauges) -> u64| -> u64 {
                    state.reports.iter().map(|report| gauge(&report.gauges)).sum()
                };
                // The kernel still sends what it has taken for those who are cut off.
                let line = LogLine::new(Level::Warn, "drain has met its bound");
                let line = line.with("cut_off", sum(|gauges| gauges.transports));
                self.log.line(line.with("untold", sum(|gauges| gauges.unsent_away)));
                return Ok(());
            }
        }
    }

    /// Looks whether every shard turns, and tells the manager.
    fn look(&mut self, state: &mut State, now: Instant) {
        let mut assignments = String::new();
        for (shard, &cpu) in self.cpus.iter().enumerate() {
            let still = state.pulses.still(shard, now);
            let is_stalled = still > state.pulses.stall_max;
            if is_stalled && !state.told_stalls[shard] {
                state.stalls[shard] += 1;
                let line = LogLine::new(Level::Error, "shard stands still");
                let line = line.with("shard", shard).with("core", cpu);
                self.log.line(line.with("for_ms", still.as_millis()));
            }
            state.told_stalls[shard] = is_stalled;
        }
        if state.pulses.stalled(now).is_none() && self.watchdog.is_some() {
            assignments += "WATCHDOG=1\n";
        }
        let status = self.summary(state, now);
        if let Some(drain) = &state.drain {
            let left = drain.ends.saturating_duration_since(now) + EXIT_GRACE;
            let _ = writeln!(assignments, "EXTEND_TIMEOUT_USEC={}", left.as_micros());
        }
        if status != state.status {
            let _ = writeln!(assignments, "STATUS={status}");
            state.status = status;
        }
        if !assignments.is_empty() {
            self.notifier.send(assignments.trim_end());
        }
    }

    /// How things are, in a sentence.
    fn summary(&self, state: &State, now: Instant) -> String {
        if let Some((shard, _)) = state.pulses.stalled(now) {
            return format!("shard {shard} on CPU {} stands still", self.cpus[shard]);
        }
        let sum = |gauge: fn(&Report) -> u64| state.reports.iter().map(gauge).sum::<u64>();
        let connections = sum(|report| report.gauges.connections);
        let channels = sum(|report| report.gauges.channels);
        let doing = if state.drain.is_some() { "draining" } else { "serving" };
        format!("{doing} {connections} connections, {channels} channels")
    }

    fn render(&self, state: &State) -> String {
        let now = Instant::now();
        let mut shards = Vec::with_capacity(state.reports.len());
        for (shard, report) in state.reports.iter().enumerate() {
            let still = state.pulses.still(shard, now);
            let stalls = state.stalls[shard];
            shards.push(OfShard { cpu: self.cpus[shard], report, still, stalls });
        }
        let certificates = self.acceptor.as_ref().map_or(&[][..], Acceptor::facts);
        let process = Process::read(state.started_at);
        metrics::render(&shards, state.drain.is_some(), certificates, &process)
    }

    fn status(&self, state: &State) -> Status {
        let now = Instant::now();
        let health = match state.pulses.stalled(now) {
            Some(_) => Health::Stalled,
            None if state.drain.is_some() => Health::Draining,
            None if state.starting > 0 => Health::Starting,
            None => Health::Serving,
        };
        let shards = (0..state.reports.len()).map(|shard| self.shard_status(state, shard, now));
        Status {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            uptime_s: now.duration_since(state.started).as_secs(),
            health,
            summary: self.summary(state, now),
            last_reload: state.last_reload.as_ref().map(|(then, outcome)| LastReload {
                ago_s: now.duration_since(*then).as_secs(),
                outcome: outcome.clone(),
            }),
            certificates: self.certificates(),
            shards: shards.collect(),
        }
    }

    /// Those that clients are shown, the first one first.
    fn certificates(&self) -> Vec<CertificateStatus> {
        let now_s = since_epoch_s();
        let facts = self.acceptor.iter().flat_map(Acceptor::facts);
        facts
            .map(|facts| CertificateStatus {
                names: facts.names.clone(),
                serial: facts.serial.clone(),
                not_after: facts.not_after.clone(),
                warning: facts.warning(now_s),
            })
            .collect()
    }

    fn shard_status(&self, state: &State, shard: usize, now: Instant) -> ShardStatus {
        let (report, before) = (&state.reports[shard], &state.reports_before[shard]);
        let seconds = match before.turns {
            0 => 0.0, // the first report is of the moments of the start
            _ => report.at.saturating_sub(before.at).as_secs_f64(),
        };
        let rate = |of: fn(&Report) -> u64| match seconds > 0.0 {
            true => (of(report) - of(before)) as f64 / seconds,
            false => 0.0,
        };
        let still = state.pulses.still(shard, now);
        // A shard that stands still reports nothing; what it did before says nothing of it now.
        let is_stalled = still > state.pulses.stall_max;
        let slept = report.slept.saturating_sub(before.slept).as_secs_f64();
        let load = if seconds > 0.0 { (1.0 - slept / seconds).clamp(0.0, 1.0) } else { 0.0 };
        ShardStatus {
            shard,
            core: self.cpus[shard],
            load: if is_stalled { 1.0 } else { load },
            connections: report.gauges.connections,
            transports: report.gauges.transports,
            transports_max: report.transports_max,
            dormant_connections: report.gauges.dormant_connections,
            channels: report.gauges.channels,
            streams: report.gauges.streams,
            sends_per_s: rate(|report| report.counters.stream_sends),
            publications_per_s: rate(|report| report.counters.published),
            sent_bytes_per_s: rate(|report| report.sent_bytes),
            ring_depth: report.ring_depth,
            mesh_depth: report.mesh_depth,
            mail_waiting: report.gauges.mail_waiting,
            slow_consumers: report.counters.slow_consumers,
            refused: report.counters.refused,
            standstill_ms: still.as_millis() as u64,
            is_stalled,
            stalls: state.stalls[shard],
        }
    }

    fn begin_drain(&mut self, state: &mut State) {
        let bound = self.drain_window + DRAIN_GRACE + EXIT_GRACE;
        let extend = (bound + EXIT_GRACE).as_micros();
        self.notifier.send(&format!("STOPPING=1\nSTATUS=draining\nEXTEND_TIMEOUT_USEC={extend}"));
        let line = LogLine::new(Level::Info, "draining");
        self.log.line(line.with("window_ms", self.drain_window.as_millis()));
        for orders in &mut self.orders {
            orders.send(Order::Drain(self.drain_window));
        }
        state.drain = Some(Drain { ends: Instant::now() + bound, missing: self.orders.len() });
    }

    /// Reads the configuration again. A bad one changes nothing. `asker` hears how it went.
    fn reload(&mut self, state: &mut State, asker: Option<Reply<ReloadOutcome>>) {
        let Some(reload) = &mut self.reload else {
            self.log.say(Level::Warn, "nothing to reload: there is no configuration file");
            let error = "there is no configuration file to read again".into();
            return state.note_reload(ReloadOutcome::refused(error), asker);
        };
        if state.drain.is_some() {
            return state.note_reload(ReloadOutcome::refused("the daemon is ending".into()), asker);
        }
        let monotonic_us = clock::monotonic_us();
        self.notifier.send(&format!("RELOADING=1\nMONOTONIC_USEC={monotonic_us}"));
        state.reloads += 1;
        let reloaded = match reload() {
            Ok(reloaded) => reloaded,
            Err(error) => {
                let outcome = ReloadOutcome::refused(format!("{error:#}"));
                return self.end_reload(state, outcome, asker);
            }
        };
        if !reloaded.needs_restart.is_empty() {
            let line = LogLine::new(Level::Warn, "changed keys need a restart");
            self.log.line(line.with("keys", reloaded.needs_restart.join(",")));
        }
        let request = Request::Reload(Box::new(reloaded), asker);
        if let Err(TrySendError::Full(request) | TrySendError::Disconnected(request)) =
            self.keeper.try_send(request)
        {
            let asker = match request {
                Request::Reload(_, asker) => asker,
                Request::Rules(..) => unreachable!("it was a reload"),
            };
            let outcome = ReloadOutcome::refused("too many changes are under way".into());
            self.end_reload(state, outcome, asker);
        }
    }

    /// Has all shards take these rules and what was configured. Returns how many orders that were.
    fn install(&mut self, number: u64, rules: Rules, configured: Option<Configured>) -> usize {
        let Some(Configured { directory, limits, acceptor }) = configured else {
            self.orders[0].send(Order::Rules(number, rules));
            return 1;
        };
        for orders in &mut self.orders {
            orders.send(Order::Limit(number, Arc::clone(&limits)));
        }
        let handshakes = self.replace_acceptor(number, acceptor);
        // Shard 0 hands it on, behind the limits that keys without their own are bounded by.
        self.orders[0].send(Order::Reload(number, directory));
        self.orders.len() + handshakes + 1
    }

    /// Has all shards make handshakes with `acceptor`, where there is TLS. Returns how many orders that were.
    fn replace_acceptor(&mut self, number: u64, acceptor: Option<Acceptor>) -> usize {
        let (Some(before), Some(acceptor)) = (&self.acceptor, acceptor) else { return 0 };
        // Clients that have a ticket need not notice.
        let acceptor = acceptor.succeeding(before);
        for facts in acceptor.facts().iter().filter(|facts| !before.facts().contains(facts)) {
            self.log.line(certificate_line(facts, "certificate replaced"));
        }
        for orders in &mut self.orders {
            orders.send(Order::Accept(number, acceptor.clone()));
        }
        self.acceptor = Some(acceptor);
        self.orders.len()
    }

    /// A reload is in effect everywhere, or has changed nothing. `asker` hears of it.
    fn end_reload(
        &mut self,
        state: &mut State,
        outcome: ReloadOutcome,
        asker: Option<Reply<ReloadOutcome>>,
    ) {
        match &outcome.error {
            None => self.log.say(Level::Info, "configuration reloaded"),
            Some(error) => {
                let line = LogLine::new(Level::Error, "configuration not reloaded");
                self.log.line(line.with("error", error));
            }
        }
        state.note_reload(outcome, asker);
        state.reloads -= 1;
        if state.reloads == 0 {
            self.notifier.send("READY=1");
        }
    }

    fn end_of(&mut self, shard: usize) -> anyhow::Result<()> {
        let thread = self.threads.swap_remove(shard);
        let outcome =
            thread.join().map_err(|error| anyhow::anyhow!("shard {shard} has failed: {error}"))?;
        outcome.map_err(|error| {
            let hint = match error.raw_os_error() {
                Some(libc::ENOMEM) => "; `ringcast doctor` says how much memory has to be locked",
                _ => "",
            };
            anyhow::anyhow!("shard {shard} has failed: {error}{hint}")
        })?;
        anyhow::bail!("shard {shard} has ended")
    }
}

fn since_epoch_s() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// What is said of a certificate that is taken into use, and whether somebody has to do something soon.
pub(super) fn certificate_line(facts: &CertificateFacts, text: &'static str) -> LogLine {
    let warning = facts.warning(since_epoch_s());
    let level = if warning.is_some() { Level::Warn } else { Level::Info };
    let line = LogLine::new(level, text).with("names", facts.names.join(","));
    let line = line.with("not_after", &facts.not_after).with("serial", &facts.serial);
    match warning {
        Some(warning) => line.with("warning", warning),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_stands_still_when_its_turns_do() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut pulses = Pulses::new(2, start, Duration::from_millis(500));
        pulses.note(0, 10, at(400));
        pulses.note(1, 10, at(400));
        assert_eq!(pulses.stalled(at(900)), None);
        pulses.note(0, 11, at(800));
        // It reports, but has made no turn.
        pulses.note(1, 10, at(800));
        assert_eq!(pulses.stalled(at(901)), Some((1, Duration::from_millis(501))));
        pulses.note(1, 11, at(910));
        assert_eq!(pulses.stalled(at(920)), None);
    }

    #[test]
    fn reports_are_frequent_enough_for_the_watchdog() {
        let ms = Duration::from_millis;
        assert_eq!(report_interval(None), ms(1000));
        assert_eq!(report_interval(Some(ms(30_000))), ms(1000));
        assert_eq!(report_interval(Some(ms(400))), ms(100));
    }
}
