//! What rules are told, which is judged as what any subscriber is sent, and what they decide.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::Value;

use super::World;
use crate::ably::{ContentType, Directory, Rule, Rules};
use crate::sim::credentials::{self, MUTABLE};
use crate::sim::helper::{Helper, News};
use crate::sim::oracle::{Event, Oracle, SOMEBODY, channel_serial, end_of};
use crate::sim::random::Random;
use crate::sim::rules;
use crate::sim::sabotage::{Doubt, Retold};
use crate::sim::wire::Wire;

/// What tells the helper's chance from that of the run.
const SALT: u64 = 0x0be5_1de5_7e11_7a1e;

/// The number by which findings call the first rule, among clients.
const FIRST_RULE: usize = 1000;

/// What a rule is told of a channel, from when it was to be told of it to when that has ended.
pub(super) struct Telling {
    rule: Box<str>,
    channel: Box<str>,
    /// By what findings call the rule.
    number: usize,
    /// When shards began to hear of it, and when all had.
    begins_ms: u64,
    begun_ms: Option<u64>,
    /// The same of its end.
    ends_ms: Option<u64>,
    ended_ms: Option<u64>,
    /// The continuity, once it is known where that begins.
    segment: Option<usize>,
}

/// What rules are told: the place of each among them, its id, and a channel.
type Told = (usize, Box<str>, Box<str>);

impl Telling {
    fn new((at, rule, channel): Told, begins_ms: u64) -> Telling {
        let number = FIRST_RULE + at;
        let (begun_ms, ends_ms, ended_ms, segment) = (None, None, None, None);
        Telling { rule, channel, number, begins_ms, begun_ms, ends_ms, ended_ms, segment }
    }

    /// Whether that of an event belongs to it.
    fn has(&self, rule: &str, channel: &str, serial: &str) -> bool {
        let is_of = *self.rule == *rule && *self.channel == *channel;
        let at_ms = serial.get(..14).and_then(|time| time.parse().ok()).unwrap_or_default();
        is_of && self.begins_ms <= at_ms && self.ended_ms.is_none_or(|ended_ms| at_ms <= ended_ms)
    }

    fn begin(&mut self, oracle: &mut Oracle, start: &str) -> usize {
        let segment = oracle.begin_segment(self.number, &self.channel, start, false, false);
        oracle.leave_out_ephemeral(segment);
        *self.segment.insert(segment)
    }

    /// The continuity to which an event belongs. It begins with the first if that was published before all
    /// shards had heard of the rule; from then on nothing may be missing.
    fn segment_at(&mut self, oracle: &mut Oracle, serial: &str) -> usize {
        if let Some(segment) = self.segment {
            return segment;
        }
        let all = self.begun_ms.map(end_of);
        // Less than that one, and more than any before it.
        let before = &serial[..serial.len() - 1];
        let start = all.filter(|all| **all < *serial).unwrap_or_else(|| before.to_owned());
        self.begin(oracle, &start)
    }
}

impl World {
    /// The configuration without the key that was taken out of it.
    pub(super) fn directory(&self) -> Directory {
        let lost = self.lost_key;
        let is_revocable = self.repertoire.has_revocations;
        let directory = credentials::directory(is_revocable, |grant| Some(grant) != lost);
        directory.with_rules(Rules::new(self.oracle.gates.rules().iter().cloned()))
    }

    /// The run has somebody who delivers to rules, if it has rules.
    pub(super) fn begin_rules(&mut self, doubt: Option<Doubt>, retold: Option<Retold>) {
        let rules = self.oracle.gates.rules();
        if !rules.is_empty() {
            let random = Random::new(self.report.seed ^ SALT);
            self.host.helper = Some(Helper::new(random, rules, doubt, retold));
        }
    }

    /// What rules are to be told.
    fn told_by(&self, rules: &[Arc<Rule>]) -> Vec<Told> {
        let mut told = Vec::new();
        for (at, rule) in rules.iter().enumerate() {
            let is_told = |channel: &&str| rule.gate.is_none() && rule.filter.matches(channel);
            let channels = self.bases.iter().copied().chain([MUTABLE]).filter(is_told);
            told.extend(channels.map(|channel| (at, rule.id.clone(), channel.into())));
        }
        told
    }

    /// Each rule is told of all that is published from now on in each of its channels.
    pub(super) fn begin_told(&mut self) {
        let now_ms = self.host.now.unix_ms;
        let start = format!("{now_ms:014}");
        let latest = self.oracle.gates.latest();
        (self.coming, self.oracle.gates.installed) = (None, latest);
        let told = self.told_by(self.oracle.gates.rules());
        let begin = |told: Told| {
            let mut telling = Telling::new(told, now_ms);
            telling.begun_ms = Some(now_ms);
            telling.begin(&mut self.oracle, &start);
            telling
        };
        self.tellings = told.into_iter().map(begin).collect();
    }

    /// Shards begin to hear of other rules, now and then; of one change after another, as the keeper of the
    /// rules has it.
    pub(super) fn change_rules(&mut self) {
        let now_ms = self.host.now.unix_ms;
        let is_free = self.coming.is_none() && self.installed_ms < now_ms;
        if !self.repertoire.changes_rules() || !is_free {
            return;
        }
        let before = self.oracle.gates.rules().to_vec();
        let rules = rules::changed(&mut self.repertoire.random, &before);
        if let Some(helper) = &mut self.host.helper {
            helper.expect(&rules);
        }
        let is_other = |telling: &&mut Telling| telling.ends_ms.is_none();
        let told = self.told_by(&rules);
        let pairs: BTreeSet<_> = told.iter().map(|(_, rule, channel)| (rule, channel)).collect();
        for telling in self.tellings.iter_mut().filter(is_other) {
            if !pairs.contains(&(&telling.rule, &telling.channel)) {
                telling.ends_ms = Some(now_ms);
            }
        }
        for (at, rule, channel) in told {
            let goes_on = self
                .tellings
                .iter()
                .any(|it| it.ends_ms.is_none() && it.rule == rule && it.channel == channel);
            if !goes_on {
                self.tellings.push(Telling::new((at, rule, channel), now_ms));
            }
        }
        let text = format!("rules: {rules:?}");
        let number = self.oracle.gates.change(rules.clone());
        self.host.shards[0].replace_rules(number as u64, Rules::new(rules));
        self.coming = Some(number);
        self.report.trace(|| text);
    }

    /// Whether all shards have the rules that they were to hear of.
    pub(super) fn hear_of_rules(&mut self) {
        let Some(coming) = self.coming else { return };
        if !self.host.shards[0].take_installed().contains(&(coming as u64)) {
            return;
        }
        let now_ms = self.host.now.unix_ms;
        (self.coming, self.installed_ms, self.oracle.gates.installed) = (None, now_ms, coming);
        for telling in &mut self.tellings {
            telling.begun_ms.get_or_insert(now_ms);
            telling.ended_ms = telling.ended_ms.or(telling.ends_ms.map(|_| now_ms));
        }
    }

    /// Nothing that has happened is kept from the rules any more.
    pub(super) fn complete_told(&mut self) {
        if self.host.shards.iter().any(|shard| shard.has_hooks()) {
            return;
        }
        let now_ms = self.host.now.unix_ms;
        for telling in &mut self.tellings {
            let until_ms = telling.ends_ms.map_or(now_ms, |ends_ms| ends_ms - 1);
            if let Some(begun_ms) = telling.begun_ms.filter(|begun_ms| *begun_ms <= until_ms)
                && telling.segment.is_none()
            {
                telling.begin(&mut self.oracle, &end_of(begun_ms));
            }
            if let Some(segment) = telling.segment {
                self.oracle.complete_to(segment, until_ms);
            }
        }
    }

    /// What the helper has done since the last turn.
    pub(super) fn hear_news(&mut self) {
        let Some(helper) = &mut self.host.helper else { return };
        for news in helper.take_news() {
            self.report.trace(|| news.to_string());
            match news {
                News::Asked(number, inquiry) => self.oracle.ask(number, &inquiry),
                News::Decided(number, decision) => self.oracle.decide(number, decision),
                News::GivenUp(number) => self.oracle.give_up_question(number),
                News::Away => self.oracle.cannot_ask(),
                News::Told { rule, channel, content_type, body } => {
                    self.hear_event(&rule, &channel, content_type, &body);
                }
            }
        }
    }

    fn hear_event(&mut self, rule: &str, channel: &str, content_type: ContentType, body: &[u8]) {
        let wire = match content_type {
            ContentType::MsgPack => Wire::MsgPack,
            ContentType::Json | ContentType::Text | ContentType::Bytes => Wire::Json,
        };
        let body = match wire.decode(body) {
            Ok(body) => body,
            Err(why) => return self.oracle.find("wire", format!("{rule} of {channel}: {why}")),
        };
        // One of a batch has what happened in an entry of its own.
        let data = if body["data"].is_object() { &body["data"] } else { &body };
        let messages = data["messages"].as_array().map_or(&[][..], Vec::as_slice);
        let [first, ..] = messages else {
            return self.oracle.find("told", format!("{rule} is told nothing: {body}"));
        };
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let serial = match text(&first["version"]["serial"]) {
            none if none.is_empty() => text(&first["serial"]),
            version => version,
        };
        // Of a change that is the connection which has made the message.
        let publisher = match first["action"].as_u64() {
            Some(1..) => Some(SOMEBODY.to_owned()),
            _ => first["connectionId"].as_str().map(str::to_owned),
        };
        let tags: Vec<String> =
            messages.iter().map(|message| self.oracle.read(channel, message)).collect();
        if tags.iter().any(|tag| self.oracle.is_ephemeral(tag)) {
            self.oracle.find("ephemeral", format!("{rule} is told {body}"));
        }
        let serial = channel_serial(&serial);
        self.oracle.show(channel, serial, Event { publisher, tags });
        let mut tellings = self.tellings.iter_mut().rev();
        let Some(telling) = tellings.find(|telling| telling.has(rule, channel, serial)) else {
            return self.oracle.find("told", format!("{rule} is not to be told {body}"));
        };
        let segment = telling.segment_at(&mut self.oracle, serial);
        self.oracle.receive(segment, serial, false);
    }
}
