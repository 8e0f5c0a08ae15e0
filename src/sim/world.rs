//! One run: a host with narrow or wide bounds, some clients, and what happens to them, as a seed has it.

mod additions;
mod end;
mod faults;
mod kills;
mod listeners;
mod rules;
mod wishes;

use std::time::Duration;

use serde_json::Value;

use self::kills::Kills;
use self::rules::Telling;
use super::credentials;
use super::disk::Disk;
use super::host::Host;
use super::listener::Listener;
use super::oracle::{Gates, Oracle};
use super::random::Random;
use super::repertoire::Repertoire;
use super::report::Report;
use super::rest::{Asked, Call, publications};
use super::sabotage::Sabotage;
use super::sdk::{Link, Scene, Sdk};
use crate::ably::Rules;
use crate::channel::history::HistoryConfig;
use crate::connection::ConnectionConfig;
use crate::journal::JournalConfig;
use crate::shard::ShardConfig;

/// Channels without qualifier.
const BASES: [&str; 4] = ["a", "b", "vip:x", "kept:k"];

/// What clients call them.
const NAMES: [&str; 6] = ["a", "b", "vip:x", "kept:k", "[?rewind=3]a", "[?rewind=3]kept:k"];

/// The same where the daemon is killed: channels of each level.
const KEPT_BASES: [&str; 5] = ["a", "b", "kept:k", "safe:s", "loose:l"];

/// What clients call those.
const KEPT_NAMES: [&str; 7] =
    ["a", "b", "kept:k", "safe:s", "loose:l", "[?rewind=3]kept:k", "[?rewind=3]safe:s"];

/// Whom clients say they are.
const CLIENT_IDS: [Option<&str>; 4] = [Some("ann"), Some("bob"), Some("cleo"), None];

/// Rounds until nothing is left to be done, at the end of a run; a round without progress takes time.
const ROUNDS_MAX: usize = 3000;

/// What a run is like.
struct Plan {
    acts: usize,
    clients: usize,
    /// One in so many acts is a fault of the network.
    fault_one_in: usize,
    /// Turns between two acts, at most.
    steps: usize,
    has_presence: bool,
    has_tokens: bool,
    has_rest: bool,
    has_reloads: bool,
    has_drain: bool,
}

struct World {
    host: Host,
    oracle: Oracle,
    report: Report,
    plan: Plan,
    sdks: Vec<Sdk>,
    listeners: Vec<Listener>,
    calls: Vec<Call>,
    bases: &'static [&'static str],
    names: &'static [&'static str],
    config: ShardConfig,
    journal: JournalConfig,
    kills: Kills,
    /// Ids that clients chose, with what they stand for.
    ids: Vec<(String, usize)>,
    /// Shards that take no more clients.
    drained: Vec<bool>,
    /// The key that was taken out of the configuration, if one was.
    lost_key: Option<usize>,
    repertoire: Repertoire,
    /// What rules are told.
    tellings: Vec<Telling>,
    /// The set of rules that shards begin to hear of, and when the last one had reached all.
    coming: Option<usize>,
    installed_ms: u64,
}

/// Runs the story of `seed`.
pub fn run(seed: u64, sabotage: Sabotage, is_traced: bool) -> Report {
    let mut world = World::new(seed, sabotage, is_traced);
    for act in 0..world.plan.acts {
        if world.kills.is_due(act) {
            world.end_start();
        }
        world.act();
        if !world.oracle.findings.is_empty() {
            break;
        }
    }
    if world.oracle.findings.is_empty() {
        world.end();
    }
    world.report.findings = std::mem::take(&mut world.oracle.findings);
    world.report
}

impl World {
    fn new(seed: u64, sabotage: Sabotage, is_traced: bool) -> World {
        let Sabotage { tamper, disk: spoil, doubt, retold } = sabotage;
        let mut random = Random::new(!seed);
        let mut repertoire = Repertoire::new(seed);
        let is_narrow = random.chance(2);
        let rules = repertoire.rules();
        let mut bounds = |narrow: &[u64], wide: u64| match is_narrow {
            true => *random.one_of(narrow),
            false => wide,
        };
        let config = ShardConfig {
            connection: ConnectionConfig {
                state_ttl: Duration::from_secs(bounds(&[5, 30, 120], 120)),
                lane_bytes_max: bounds(&[8 << 10, 64 << 10], 1 << 20) as usize,
                ..ConnectionConfig::default()
            },
            history: HistoryConfig {
                retention: Duration::from_secs(bounds(&[4, 20, 120], 120)),
                persisted_retention: Duration::from_secs(bounds(&[40, 600], 600)),
                channel_bytes_max: bounds(&[1 << 10, 8 << 10, 64 << 10], 4 << 20),
                shard_bytes_max: bounds(&[4 << 10, 64 << 10], 64 << 20),
            },
            lag_bytes_max: bounds(&[1 << 10, 4 << 10, 64 << 10], 1 << 20) as u32,
            replay_bytes_max: bounds(&[1 << 10, 8 << 10, 1 << 20], 4 << 20) as u32,
            mail_max: bounds(&[4, 10, 40], 16_384) as usize,
            dormant_max: bounds(&[1, 3, 1000], 65_536) as usize,
            line_max: repertoire.line_max(is_narrow),
            ..ShardConfig::default()
        };
        let wide = JournalConfig {
            retention: config.history.persisted_retention,
            ..JournalConfig::default()
        };
        let journal = match is_narrow {
            true => JournalConfig { segment_bytes: 8 << 10, waiting_bytes_max: 6 << 10, ..wide },
            false => wide,
        };
        let mesh_entries = bounds(&[2, 5, 100], 1024) as usize;
        let mut plan = Plan {
            acts: 40 + random.below(160),
            clients: 2 + random.below(6),
            fault_one_in: *random.one_of(&[3, 8, 20, 100]),
            steps: *random.one_of(&[2, 6, 12, 40]),
            has_presence: random.chance(2),
            has_tokens: random.chance(2),
            has_rest: random.chance(2),
            has_reloads: random.chance(6),
            has_drain: random.chance(6),
        };
        let shards = 1 + random.below(4);
        let directory = credentials::directory(repertoire.has_revocations, |_| true)
            .with_rules(Rules::new(rules.iter().cloned()));
        let mut host = Host::with_directory(shards, seed, config.clone(), directory)
            .with_mesh_entries(mesh_entries);
        if let Some(tamper) = tamper {
            host = host.with_tamper(tamper);
        }
        let sdk = |number| {
            let by_token = plan.has_tokens && random.chance(2);
            // Half of them may do everything, so that there is something to see.
            let grants_count = repertoire.grants_count();
            let grant = if random.chance(2) { 0 } else { random.below(grants_count) };
            let client_id = *random.one_of(&CLIENT_IDS);
            let echo = !random.chance(4);
            Sdk::new(number, grant, by_token, client_id, echo, repertoire.wire())
        };
        let sdks = (0..plan.clients).map(sdk).collect();
        let has_disk = random.chance(4);
        let kills = Kills::new(seed, &mut plan.acts, spoil);
        let (mut bases, mut names) = (&BASES[..], &NAMES[..]);
        if kills.is_any() {
            (bases, names) = (&KEPT_BASES[..], &KEPT_NAMES[..]);
        }
        let mut oracle = Oracle::default();
        if kills.has_disk.unwrap_or(has_disk) {
            host.keep_on(Disk::default(), &journal, seed as u32);
            oracle.levels = credentials::levels(bases);
            let retention_ms = config.history.persisted_retention.as_millis() as u64;
            oracle.retention_ms = (!is_narrow).then_some(retention_ms);
        }
        oracle.begin_start(host.series());
        oracle.gates = Gates::new(rules, config.line_max);
        let mut world = World {
            host,
            oracle,
            report: Report::new(seed, is_traced),
            plan,
            sdks,
            listeners: Vec::new(),
            calls: Vec::new(),
            bases,
            names,
            config,
            journal,
            kills,
            ids: Vec::new(),
            drained: vec![false; shards],
            lost_key: None,
            repertoire,
            tellings: Vec::new(),
            coming: None,
            installed_ms: 0,
        };
        world.begin_rules(doubt, retold);
        world.begin_told();
        world.begin_listeners();
        world
    }

    fn below(&mut self, bound: usize) -> usize {
        self.host.random.below(bound)
    }

    fn chance(&mut self, one_in: usize) -> bool {
        self.host.random.chance(one_in)
    }

    /// A shard that takes clients.
    fn some_shard(&mut self) -> usize {
        let open: Vec<usize> = (0..self.drained.len()).filter(|&id| !self.drained[id]).collect();
        open[self.below(open.len())]
    }

    fn with_sdk<T>(&mut self, at: usize, act: impl FnOnce(&mut Sdk, &mut Scene<'_>) -> T) -> T {
        let World { host, oracle, report, repertoire, sdks, .. } = self;
        act(&mut sdks[at], &mut Scene { host, oracle, report, repertoire })
    }

    fn with_scene<T>(&mut self, act: impl FnOnce(&mut Scene<'_>) -> T) -> T {
        let World { host, oracle, report, repertoire, .. } = self;
        act(&mut Scene { host, oracle, report, repertoire })
    }

    /// Something happens, and then time and turns go by.
    fn act(&mut self) {
        let fault_one_in = self.plan.fault_one_in;
        match self.chance(fault_one_in) {
            true => self.fault(),
            false => self.work(),
        }
        self.act_more();
        for _ in 0..self.host.random.below(self.plan.steps + 1) {
            self.step();
        }
        if self.chance(3) {
            let time_ms = *self.host.random.one_of(&[1, 1, 3, 10, 40]);
            self.host.pass(Duration::from_millis(time_ms));
        }
        let who = self.below(self.sdks.len());
        self.advance(who);
    }

    fn step(&mut self) {
        self.host.step();
        self.report.turns += 1;
        self.hear_news();
        self.hear_of_rules();
    }

    /// A client reads, and connects again if it is time.
    fn advance(&mut self, who: usize) {
        self.with_sdk(who, Sdk::advance);
        let now_ms = self.host.now.mono_ms;
        let is_due = matches!(self.sdks[who].link, Link::Down { until_ms } if until_ms <= now_ms);
        if is_due {
            let shard = self.some_shard();
            self.with_sdk(who, |sdk, scene| sdk.connect(scene, shard));
        }
        self.advance_listeners();
        self.poll_calls();
    }

    fn poll_calls(&mut self) {
        for mut call in std::mem::take(&mut self.calls) {
            let answer = self.with_scene(|scene| call.poll(scene));
            match answer {
                None => self.calls.push(call),
                Some((status, body)) => self.take_answer(&call.asked, status, &body),
            }
        }
    }

    /// What a history shows is part of the order.
    fn take_answer(&mut self, asked: &Asked, status: u16, body: &Value) {
        if let (Asked::History(channel), 200) = (asked, status) {
            self.take_history(channel, body);
        }
    }

    fn take_history(&mut self, channel: &str, body: &Value) {
        let shown = publications(&mut self.oracle, channel, body);
        if !shown.iter().map(|(serial, _)| serial).is_sorted() {
            self.oracle.find("history", format!("{channel} is not in order: {body}"));
        }
        for (serial, event) in shown {
            self.oracle.show(channel, &serial, event);
        }
    }

    /// The answer to a request that nothing disturbs.
    fn ask(
        &mut self,
        channel: &str,
        call: impl FnOnce(&mut Scene<'_>, usize, &str) -> Call,
    ) -> Value {
        let shard = self.some_shard();
        let mut call = self.with_scene(|scene| call(scene, shard, channel));
        for _ in 0..ROUNDS_MAX {
            self.step();
            match self.with_scene(|scene| call.poll(scene)) {
                Some((200, body)) => return body,
                Some((status, body)) => {
                    self.oracle.find("request", format!("{:?}: {status} {body}", call.asked));
                    return Value::Null;
                }
                None => {}
            }
        }
        self.oracle.find("request", format!("{:?} is not answered", call.asked));
        Value::Null
    }
}
