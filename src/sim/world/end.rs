//! The end of a run: the network works again, everybody gets to where it wants to be, and when that is judged
//! everybody leaves.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use super::{ROUNDS_MAX, World};
use crate::sim::credentials::permits;
use crate::sim::listener::Listener;
use crate::sim::rest::Call;
use crate::sim::sdk::{Link, Sdk, Stand};

/// How often the end waits for a while in which no transport is lost.
const CALM_TRIES_MAX: usize = 10;

impl World {
    /// The network works again, and everybody gets to where it wants to be; then it is judged, and
    /// everybody leaves.
    pub(super) fn end(&mut self) {
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
