//! Rules that are asked before a publish: what they were asked, what they have decided, and whether that is
//! what became of the publish.
//!
//! What a rule lets pass is known by tag and name: a message that takes the place of another carries the same
//! tag, and is named after the question. So each rule of a channel has to be asked about what the one before
//! it has let pass, and what anybody is shown has to be what the last one has let pass.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value;

use super::{Oracle, publish_of};
use crate::ably::{ErrorCode, Gate, Inquiry, OnFailure, Rule, WhenFull};
use crate::sim::helper::{Decision, mark};

/// The code of a publish that a rule has refused, or not decided about.
const REJECTED: u64 = ErrorCode::REJECTED_BY_RULE.0 as u64;

/// The code of a publish for which a rule has no room.
const NO_ROOM: u64 = ErrorCode::TOO_MANY_EVENTS_WAITING.0 as u64;

/// A message as a rule is asked about it: its tag, and its name if a rule has replaced it.
type Asked = (String, Option<String>);

/// A question that is open.
#[derive(Debug)]
struct Question {
    /// Which of the rules.
    rule: usize,
    channel: String,
    messages: Vec<Asked>,
}

/// See the module text.
#[derive(Debug, Default)]
pub struct Gates {
    /// All rules of the run, in the order in which they are asked.
    pub rules: Vec<Arc<Rule>>,
    /// Whether lines are so short that publishes may be refused for that.
    are_lines_short: bool,
    open: BTreeMap<u64, Question>,
    /// What each of the rules has let pass.
    passed: BTreeSet<(usize, Asked)>,
    /// Codes with which a tag was refused.
    refused: BTreeMap<String, BTreeSet<u64>>,
    /// Rules that were not there for all, by channel: some publishes share the fate of the one that waited.
    absent: BTreeSet<(usize, String)>,
    /// As what each tag was shown.
    shown: BTreeMap<String, BTreeSet<Option<String>>>,
}

/// Publishes of one channel that may wait and that no run reaches.
const LINE_LONG: usize = 1000;

impl Gates {
    /// Rules of a run, and how many publishes of a channel may wait for them.
    pub fn new(rules: Vec<Arc<Rule>>, line_max: usize) -> Gates {
        Gates { rules, are_lines_short: line_max < LINE_LONG, ..Gates::default() }
    }

    fn gate(&self, rule: usize) -> &Gate {
        self.rules[rule].gate.as_ref().expect("it is asked")
    }

    /// The rules that are asked about a channel, the last one first.
    fn of(&self, channel: &str) -> Vec<usize> {
        let is_asked = |at: &usize| {
            let rule = &self.rules[*at];
            rule.gate.is_some() && rule.filter.matches(channel)
        };
        (0..self.rules.len()).rev().filter(is_asked).collect()
    }

    /// Whether all these rules, the last one first, have let a message pass as this.
    fn have_passed(&self, rules: &[usize], channel: &str, message: &Asked) -> bool {
        let Some((&last, before)) = rules.split_first() else { return message.1.is_none() };
        let may_be_unasked = self.gate(last).on_failure == OnFailure::Publish
            && self.absent.contains(&(last, channel.to_owned()));
        self.passed.contains(&(last, message.clone()))
            || may_be_unasked && self.have_passed(before, channel, message)
    }

    /// Whether a publish may be told `code`, as far as rules are the reason.
    fn may_refuse(&self, channel: &str, tags: &[String], code: u64) -> bool {
        let gates = self.of(channel);
        if code == NO_ROOM {
            let refuses = |rule: &Arc<Rule>| {
                rule.gate.is_none()
                    && rule.when_full == WhenFull::Refuse
                    && rule.filter.matches(channel)
            };
            return !gates.is_empty() && self.are_lines_short || self.rules.iter().any(refuses);
        }
        let is_absent = |rule: &usize| {
            self.gate(*rule).on_failure == OnFailure::Reject
                && self.absent.contains(&(*rule, channel.to_owned()))
        };
        tags.iter().any(|tag| self.refused.get(tag).is_some_and(|codes| codes.contains(&code)))
            || code == REJECTED && gates.iter().any(is_absent)
    }
}

impl Oracle {
    /// A rule was asked.
    pub fn ask(&mut self, number: u64, inquiry: &Inquiry) {
        let body: Value = serde_json::from_slice(&inquiry.body).unwrap_or_default();
        let channel = body["channel"].as_str().unwrap_or_default().to_owned();
        let rule = self.gates.rules.iter().position(|rule| rule.id == inquiry.rule.id);
        let rule = rule.filter(|_| body["ruleId"] == *inquiry.rule.id);
        let Some(rule) = rule.filter(|rule| self.gates.of(&channel).contains(rule)) else {
            return self.find("question", format!("no rule is to be asked {body}"));
        };
        let mut messages = Vec::new();
        for message in body["messages"].as_array().into_iter().flatten() {
            let tag = match self.payload(&channel, message) {
                Some(payload) if message["action"] == 0 => payload.tag,
                _ => message["version"]["description"].as_str().map(str::to_owned),
            };
            let name = message["name"].as_str().map(str::to_owned);
            messages.push((tag.unwrap_or_default(), name));
        }
        let publish = messages.first().and_then(|(tag, _)| publish_of(tag));
        let publish = publish.and_then(|number| self.publishes.get(number));
        let tags: Vec<&String> = messages.iter().map(|(tag, _)| tag).collect();
        let is_whole =
            publish.is_some_and(|it| it.channel == channel && tags.into_iter().eq(&it.tags));
        if !is_whole {
            return self.find("question", format!("nobody has published {body}"));
        }
        let before: Vec<usize> =
            self.gates.of(&channel).into_iter().filter(|it| *it < rule).collect();
        let has_passed = |message: &Asked| self.gates.have_passed(&before, &channel, message);
        if !messages.iter().all(has_passed) {
            self.find("question", format!("not what was left by the rule before: {body}"));
        }
        let is_beside = |it: &&Question| it.rule == rule && it.channel == channel;
        let beside = self.gates.open.values().filter(is_beside).count();
        if beside >= self.gates.gate(rule).concurrency {
            self.find("question", format!("{beside} are open, and {body}"));
        }
        self.gates.open.insert(number, Question { rule, channel, messages });
    }

    /// A shard was told what was decided about a question.
    pub fn decide(&mut self, number: u64, decision: Decision) {
        let Some(question) = self.gates.open.remove(&number) else { return };
        let Question { rule, channel, messages } = question;
        let is_absent = matches!(decision, Decision::Unreachable | Decision::Silence);
        if is_absent {
            self.gates.absent.insert((rule, channel));
        }
        let on_failure = self.gates.gate(rule).on_failure;
        for (tag, name) in messages {
            let passed = match (decision, on_failure) {
                (Decision::Replace, _) => Some(mark(number)),
                (Decision::Reject(code), _) => {
                    self.gates.refused.entry(tag).or_default().insert(code);
                    continue;
                }
                (Decision::Accept, _) | (_, OnFailure::Publish) => name,
                (_, OnFailure::Reject) => {
                    self.gates.refused.entry(tag).or_default().insert(REJECTED);
                    continue;
                }
            };
            self.gates.passed.insert((rule, (tag, passed)));
        }
    }

    /// A shard waits no longer for the answer to a question.
    pub fn give_up_question(&mut self, number: u64) {
        self.decide(number, Decision::Silence);
    }

    /// Rules cannot be asked just now: publishes may have their fate without a question.
    pub fn cannot_ask(&mut self) {
        let channels: BTreeSet<&String> = self.publishes.iter().map(|it| &it.channel).collect();
        for channel in channels {
            let absent = self.gates.of(channel).into_iter().map(|rule| (rule, channel.clone()));
            self.gates.absent.extend(absent);
        }
    }

    /// Questions that are open end with the daemon.
    pub(super) fn forget_questions(&mut self) {
        self.gates.open.clear();
    }

    /// Somebody was shown a message.
    pub(super) fn note_name(&mut self, channel: &str, tag: &str, message: &Value) {
        if !self.gates.of(channel).is_empty() {
            let name = message["name"].as_str().map(str::to_owned);
            self.gates.shown.entry(tag.to_owned()).or_default().insert(name);
        }
    }

    /// Holds what became of publishes against what was decided.
    pub(super) fn judge_gates(&mut self) {
        let mut found = Vec::new();
        for (channel, order) in &self.orders {
            let gates = self.gates.of(channel);
            for tag in order.values().flat_map(|event| &event.tags).filter(|_| !gates.is_empty()) {
                found.extend(self.judge_passed(&gates, channel, tag));
            }
        }
        for publish in &self.publishes {
            let super::Publish { channel, tags, attempts, outcomes, .. } = publish;
            let codes = || outcomes.iter().filter_map(|outcome| outcome.as_ref().err().copied());
            for code in codes() {
                let is_of_rule = code == NO_ROOM || (REJECTED..REJECTED + 10).contains(&code);
                if is_of_rule && !self.gates.may_refuse(channel, tags, code) {
                    found.push(format!("no rule refuses {tags:?} in {channel} with {code}"));
                }
            }
            let refused = tags.first().and_then(|tag| self.gates.refused.get(tag));
            let is_told = |codes: &BTreeSet<u64>| {
                outcomes.iter().all(|outcome| match outcome {
                    Ok(_) => false,
                    Err(code) => codes.contains(code) || *code == super::UNKNOWN_OUTCOME,
                })
            };
            if *attempts == 1 && refused.is_some_and(|codes| !is_told(codes)) {
                found.push(format!("{tags:?} are refused, {refused:?}, and that is {outcomes:?}"));
            }
        }
        for text in found {
            self.find("gate", text);
        }
    }

    fn judge_passed(&self, gates: &[usize], channel: &str, tag: &str) -> Option<String> {
        let Gates { passed, shown, .. } = &self.gates;
        let has_passed =
            |name: Option<String>| self.gates.have_passed(gates, channel, &(tag.to_owned(), name));
        let Some(names) = shown.get(tag) else {
            // Only told by an ACK: under any name.
            let mut known = passed.iter().filter(|(_, message)| message.0 == tag);
            let has_passed =
                has_passed(None) || known.any(|(_, message)| has_passed(message.1.clone()));
            return (!has_passed).then(|| format!("{tag} in {channel} was not let pass"));
        };
        let attempts = publish_of(tag).map_or(0, |number| self.publishes[number].attempts);
        if attempts <= 1 && names.len() > 1 {
            return Some(format!("{tag} in {channel} is {names:?}"));
        }
        let wrong = names.iter().find(|name| !has_passed((*name).clone()))?;
        Some(format!("{tag} in {channel} was not let pass as {wrong:?}"))
    }
}
