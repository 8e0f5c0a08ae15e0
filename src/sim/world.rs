//! One run: a host with narrow or wide bounds, some clients, and what happens to them, as a seed has it.

mod additions;

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use super::credentials::{self, GRANTS_COUNT, permits};
use super::disk::{Disk, EIO};
use super::host::{Host, Sabotage};
use super::listener::Listener;
use super::oracle::{Gates, Oracle};
use super::random::Random;
use super::repertoire::Repertoire;
use super::report::Report;
use super::rest::{Asked, Call, publications};
use super::sdk::{Link, Scene, Sdk, Stand};
use crate::ably::Rules;
use crate::channel::history::HistoryConfig;
use crate::connection::ConnectionConfig;
use crate::journal::JournalConfig;
use crate::shard::ShardConfig;

use self::kills::Kills;
use self::rules::Telling;

mod kills;
mod listeners;
mod rules;

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

/// How often the end waits for a while in which no transport is lost.
const CALM_TRIES_MAX: usize = 10;

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

    /// A client does what its application wants.
    fn work(&mut self) {
        let who = self.below(self.sdks.len());
        let name = *self.host.random.one_of(self.names);
        match self.below(20) {
            0..=4 => self.with_sdk(who, |sdk, scene| sdk.attach(scene, name)),
            5 => self.with_sdk(who, |sdk, scene| sdk.detach(scene, name)),
            6..=13 => self.publish(who),
            14 if self.plan.has_presence => {
                self.with_sdk(who, |sdk, scene| sdk.leave(scene, name));
            }
            15..=16 if self.plan.has_presence => {
                self.with_sdk(who, |sdk, scene| sdk.enter(scene, name));
            }
            17 if self.plan.has_presence => {
                self.with_sdk(who, |sdk, scene| sdk.sync(scene, name));
            }
            18 if self.plan.has_tokens => {
                let grant = self.below(self.repertoire.grants_count());
                self.with_sdk(who, |sdk, scene| sdk.authenticate(scene, grant));
            }
            _ if self.plan.has_rest => self.request(),
            _ => self.publish(who),
        }
    }

    fn some_base(&mut self) -> &'static str {
        self.bases[self.below(self.bases.len())]
    }

    fn choose_publish(&mut self) -> (usize, Option<String>) {
        // Somebody who is not sure whether it went well tries once more.
        if !self.ids.is_empty() && self.chance(6) {
            let (id, publish) = self.host.random.one_of(&self.ids).clone();
            return (publish, Some(id));
        }
        let channel = self.some_base();
        let count = 1 + self.below(4) / 3;
        let kind = self.repertoire.kind();
        let now_ms = self.host.now.unix_ms;
        let id = self.chance(4).then(|| format!("own{}", self.ids.len()));
        let publish = self.oracle.begin_publish(channel, count, kind, id.is_some(), now_ms);
        self.oracle.publishes[publish].is_ephemeral = self.repertoire.is_ephemeral();
        self.ids.extend(id.clone().map(|id| (id, publish)));
        (publish, id)
    }

    fn publish(&mut self, who: usize) {
        if self.sdks[who].link == Link::Ended {
            return;
        }
        let (publish, id) = self.choose_publish();
        let channel = self.oracle.publishes[publish].channel().to_owned();
        // REST and WebSockets name a single message differently; a pair they name alike.
        let id = id.map(|id| match self.oracle.publishes[publish].tags.len() {
            1 => format!("{id}:0"),
            _ => id,
        });
        self.with_sdk(who, |sdk, scene| sdk.publish(scene, &channel, publish, id.as_deref()));
    }

    fn request(&mut self) {
        let shard = self.some_shard();
        let channel = self.some_base();
        let call = match self.below(4) {
            0 => self.with_scene(|scene| Call::history(scene, shard, channel)),
            1 => self.with_scene(|scene| Call::presence(scene, shard, channel)),
            _ => {
                let (publish, id) = self.choose_publish();
                self.with_scene(|scene| Call::publish(scene, shard, publish, id.as_deref()))
            }
        };
        self.calls.push(call);
    }

    /// The disk stalls, goes on, or fails once.
    fn disk_fault(&mut self) {
        match self.below(3) {
            0 => self.host.is_disk_stalled = true,
            1 => self.host.is_disk_stalled = false,
            _ => self.host.disk.iter_mut().for_each(|disk| disk.errors.push_back(Some(EIO))),
        }
    }

    /// Something goes wrong.
    fn fault(&mut self) {
        if self.host.disk.is_some() && self.chance(4) {
            return self.disk_fault();
        }
        let who = self.below(self.sdks.len());
        match self.below(16) {
            0..=5 => self.with_sdk(who, |sdk, scene| sdk.lose(scene, true)),
            6 => self.with_sdk(who, |sdk, scene| sdk.lose(scene, false)),
            7..=8 => self.host.stalled.extend(self.sdks[who].socket()),
            9..=10 => self.host.stalled.clear(),
            11 => {
                let time_ms = *self.host.random.one_of(&[130, 900, 5_000, 16_000, 31_000, 130_000]);
                self.host.pass(Duration::from_millis(time_ms));
            }
            12 if !self.calls.is_empty() => {
                let at = self.below(self.calls.len());
                let call = self.calls.swap_remove(at);
                self.with_scene(|scene| call.lose(scene));
            }
            13 if self.plan.has_reloads => self.reload(),
            14 if self.plan.has_drain => self.drain(),
            15 if self.chance(4) => self.with_sdk(who, |sdk, scene| sdk.close(scene)),
            _ => self.with_sdk(who, |sdk, scene| sdk.lose(scene, true)),
        }
    }

    /// The configuration is read again: a key has gone, or is back.
    fn reload(&mut self) {
        self.lost_key = match self.lost_key {
            Some(_) => None,
            None => Some(1 + self.below(GRANTS_COUNT - 1)),
        };
        let lost = self.lost_key;
        let directory = self.directory();
        self.host.shards[0].reload(0, &directory);
        self.report.trace(|| format!("reload without key {lost:?}"));
    }

    /// A shard sends its clients away; one at least goes on.
    fn drain(&mut self) {
        let shard = self.below(self.drained.len());
        let others = self.drained.iter().enumerate().filter(|(id, done)| *id != shard && !**done);
        if others.count() > 0 && !self.drained[shard] {
            let window = Duration::from_millis(*self.host.random.one_of(&[0, 50, 2_000]));
            self.drained[shard] = true;
            self.host.shards[shard].begin_turn(self.host.now);
            self.host.shards[shard].begin_drain(window);
            self.report.trace(|| format!("drain of shard {shard}"));
        }
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

    /// The network works again, and everybody gets to where it wants to be; then it is judged, and
    /// everybody leaves.
    fn end(&mut self) {
        self.report.trace(|| "the end begins".into());
        self.host.stalled.clear();
        self.host.is_disk_stalled = false;
        self.host.helper.iter_mut().for_each(|helper| helper.is_stalled = false);
        for sdk in &mut self.sdks {
            sdk.is_calm = true;
        }
        self.listeners.iter_mut().for_each(|listener| listener.is_calm = true);
        if self.lost_key.is_some() {
            self.reload();
        }
        if !self.come_to_rest() {
            return;
        }
        // Members of those who are gone leave.
        self.pass_slowly(32, Duration::from_secs(4));
        // Where a transport is slow and is lost even now, they are given their time as well.
        for _ in 0..CALM_TRIES_MAX {
            let drops = self.report.drops;
            self.pass_slowly(8, Duration::from_secs(4));
            if !self.come_to_rest() {
                return;
            }
            if self.report.drops == drops {
                break;
            }
        }
        self.read_histories(self.bases);
        self.judge_presence();
        self.judge_revocations();
        self.judge_changes();
        for sdk in &self.sdks {
            for channel in sdk.channels.values().filter(|channel| channel.stand == Stand::Attached)
            {
                if let Some(segment) = channel.segment.filter(|_| sdk.link == Link::Up) {
                    self.oracle.complete(segment);
                }
            }
        }
        self.complete_told();
        self.complete_listeners();
        self.oracle.judge();
        if self.oracle.findings.is_empty() {
            self.leave();
        }
    }

    /// Takes in what the histories of channels show.
    fn read_histories(&mut self, bases: &[&str]) {
        let histories: Vec<Value> =
            bases.iter().map(|base| self.ask(base, Call::history)).collect();
        for (base, history) in bases.iter().zip(&histories) {
            self.take_history(base, history);
        }
    }

    /// Everybody gets to where it wants to be; false, and a finding, when that does not come about.
    fn come_to_rest(&mut self) -> bool {
        let is_at_rest = |world: &World| {
            world.sdks.iter().all(Sdk::is_settled)
                && world.listeners.iter().all(Listener::is_settled)
                && world.calls.is_empty()
        };
        if self.settle(is_at_rest) {
            return true;
        }
        let states: Vec<String> = self.sdks.iter().map(Sdk::state).collect();
        let text = format!("{states:#?}, calls {:?}, {:?}", self.calls, self.listeners);
        self.oracle.find("does not settle", text);
        false
    }

    /// Time goes by, and everybody stays awake.
    fn pass_slowly(&mut self, times: usize, time: Duration) {
        for _ in 0..times {
            self.host.pass(time);
            for _ in 0..4 * self.drained.len() {
                self.step();
            }
            for who in 0..self.sdks.len() {
                self.advance(who);
            }
        }
    }

    /// Turns until `is_done` and nothing is under way; false when that does not come about.
    fn settle(&mut self, is_done: impl Fn(&World) -> bool) -> bool {
        // What a shard has yet to send cannot be seen from here.
        let mut calm_rounds = 0;
        for round in 0..ROUNDS_MAX {
            for _ in 0..2 * self.drained.len() {
                self.step();
            }
            for who in 0..self.sdks.len() {
                self.advance(who);
            }
            if self.host.is_quiet() {
                let is_done = is_done(self);
                calm_rounds = if is_done { calm_rounds + 1 } else { 0 };
                if calm_rounds == 12 {
                    return true;
                }
                if is_done {
                    continue;
                }
                self.host.pass(Duration::from_millis(if round < 200 { 20 } else { 500 }));
            }
        }
        false
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

    /// Everybody knows the same members, and those are there who think so.
    fn judge_presence(&mut self) {
        for &base in self.bases {
            let answer = self.ask(base, Call::presence);
            let member = |member: &Value| {
                let text = |name: &str| member[name].as_str().unwrap_or_default().to_owned();
                ((text("connectionId"), text("clientId")), text("data"))
            };
            let home: BTreeMap<_, _> =
                answer.as_array().into_iter().flatten().map(member).collect();
            let mut expected = BTreeMap::new();
            let mut found = Vec::new();
            for (who, sdk) in self.sdks.iter().enumerate().filter(|(_, sdk)| sdk.link == Link::Up) {
                for (name, channel) in &sdk.channels {
                    let is_of = name == base || name.ends_with(&format!("]{base}"));
                    if !is_of || channel.stand != Stand::Attached {
                        continue;
                    }
                    if let (Some(entered), Some(id), Some(client_id)) =
                        (&channel.entered, sdk.connection_id(), sdk.client_id)
                    {
                        let key = (id.to_owned(), client_id.to_owned());
                        expected.insert(key, !entered.is_uncertain);
                    }
                    if permits(sdk.grant, base, "subscribe") {
                        let known: BTreeMap<_, _> =
                            channel.members.present.values().map(member).collect();
                        if known != home {
                            found.push(format!("client {who} {name}: {known:?}, not {home:?}"));
                        }
                    }
                }
            }
            for (key, data) in &home {
                let linger = (base.to_owned(), key.0.clone());
                let lingers = self.sdks.iter().any(|sdk| sdk.lingers.contains_key(&linger));
                if !expected.contains_key(key) && !lingers {
                    found.push(format!("{base}: {key:?} {data} is there and should not be"));
                }
            }
            for (key, _) in expected.iter().filter(|(_, is_certain)| **is_certain) {
                if !home.contains_key(key) {
                    found.push(format!("{base}: {key:?} should be there: {home:?}"));
                }
            }
            for text in found {
                self.oracle.find("presence", text);
            }
        }
    }

    /// Everybody leaves, time goes by, and nothing is left.
    fn leave(&mut self) {
        for who in 0..self.sdks.len() {
            match self.chance(2) {
                true => self.with_sdk(who, |sdk, scene| sdk.close(scene)),
                false => self.with_sdk(who, |sdk, scene| {
                    sdk.lose(scene, true);
                    sdk.link = Link::Ended;
                }),
            }
        }
        self.dismiss_listeners();
        self.pass_slowly(10, Duration::from_secs(1));
        self.pass_slowly(40, Duration::from_secs(20));
        let mut found = Vec::new();
        for (id, shard) in self.host.shards.iter().enumerate() {
            let gauges = shard.gauges();
            let left = [
                ("transports", gauges.transports),
                ("connections", gauges.connections),
                ("dormant connections", gauges.dormant_connections),
                ("streams", gauges.streams),
                ("channels", gauges.channels),
                ("bytes of history", gauges.history_bytes),
                ("mail", gauges.mail_waiting),
            ];
            for (what, count) in left.into_iter().filter(|(_, count)| *count > 0) {
                found.push(format!("shard {id} holds {count} {what}"));
            }
        }
        for text in found {
            self.oracle.find("left behind", text);
        }
    }
}
