//! What rules are told, which is judged as what any subscriber is sent, and what they decide.

use serde_json::Value;

use super::World;
use crate::ably::{ContentType, Directory, Rules};
use crate::sim::credentials::{self, MUTABLE};
use crate::sim::helper::{Helper, News};
use crate::sim::host::{Doubt, Retold};
use crate::sim::oracle::{Event, SOMEBODY, channel_serial};
use crate::sim::random::Random;
use crate::sim::wire::Wire;

/// What tells the helper's chance from that of the run.
const SALT: u64 = 0x0be5_1de5_7e11_7a1e;

/// The number by which findings call the first rule, among clients.
const FIRST_RULE: usize = 1000;

impl World {
    /// The configuration without the key that was taken out of it.
    pub(super) fn directory(&self) -> Directory {
        let lost = self.lost_key;
        let is_revocable = self.repertoire.has_revocations;
        let directory = credentials::directory(is_revocable, |grant| Some(grant) != lost);
        directory.with_rules(Rules::new(self.oracle.gates.rules.iter().cloned()))
    }

    /// The run has somebody who delivers to rules, if it has rules.
    pub(super) fn begin_rules(&mut self, doubt: Option<Doubt>, retold: Option<Retold>) {
        let rules = &self.oracle.gates.rules;
        if !rules.is_empty() {
            let random = Random::new(self.report.seed ^ SALT);
            self.host.helper = Some(Helper::new(random, rules, doubt, retold));
        }
    }

    /// Each rule is told of all that is published from now on in each of its channels.
    pub(super) fn begin_told(&mut self) {
        let now_ms = self.host.now.unix_ms;
        let start = format!("{now_ms:014}");
        let mut told = Vec::new();
        for (at, rule) in self.oracle.gates.rules.iter().enumerate() {
            let is_told = |channel: &&str| rule.gate.is_none() && rule.filter.matches(channel);
            let channels = self.bases.iter().copied().chain([MUTABLE]).filter(is_told);
            told.extend(channels.map(|channel| (at, rule.id.clone(), channel)));
        }
        let begin = |(at, rule, channel): (usize, Box<str>, &'static str)| {
            let number = FIRST_RULE + at;
            let segment = self.oracle.begin_segment(number, channel, &start, false, false);
            ((rule, channel.into()), segment)
        };
        self.told = told.into_iter().map(begin).collect();
    }

    /// Nothing that has happened is kept from the rules any more.
    pub(super) fn complete_told(&mut self) {
        if self.host.shards.iter().any(|shard| shard.has_hooks()) {
            return;
        }
        let now_ms = self.host.now.unix_ms;
        for segment in self.told.values() {
            self.oracle.complete_to(*segment, now_ms);
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
                    self.hear_event(&(rule, channel), content_type, &body);
                }
            }
        }
    }

    fn hear_event(&mut self, of: &(Box<str>, Box<str>), content_type: ContentType, body: &[u8]) {
        let (rule, channel) = of;
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
        let (Some(&segment), [first, ..]) = (self.told.get(of), messages) else {
            return self.oracle.find("told", format!("{rule} is not to be told {body}"));
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
        let tags = messages.iter().map(|message| self.oracle.read(channel, message)).collect();
        let serial = channel_serial(&serial);
        self.oracle.show(channel, serial, Event { publisher, tags });
        self.oracle.receive(segment, serial, false);
    }
}
