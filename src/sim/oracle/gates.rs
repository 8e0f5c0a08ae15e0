//! Rules that are asked before a publish: what they were asked, what they have decided, and whether that is
//! what became of the publish.
//!
//! What a rule lets pass is known by tag and name: a message that takes the place of another carries the same
//! tag, and is named after the question. So each rule of a channel has to be asked about what the one before
//! it has let pass, and what anybody is shown has to be what the last one has let pass.
//!
//! Rules may change while publishes are under way, and shards hear of that one after another. A publish may
//! have met any set of rules between the last one that all shards had when it began and the last one that
//! there was when its publisher was told. The set that it comes under says whom it has to pass: a rule that
//! comes later does not ask about it, one that goes lets it pass, as does one that is for other channels then,
//! and one that is another asks as it is then.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::sync::Arc;

use serde_json::Value;

use super::{Oracle, Publish, publish_of};
use crate::ably::{ErrorCode, Gate, Inquiry, OnFailure, Rule, WhenFull};
use crate::sim::helper::{Decision, mark};

/// The code of a publish that a rule has refused, or not decided about.
const REJECTED: u64 = ErrorCode::REJECTED_BY_RULE.0 as u64;

/// The code of a publish for which a rule has no room.
const NO_ROOM: u64 = ErrorCode::TOO_MANY_EVENTS_WAITING.0 as u64;

/// A message as a rule is asked about it: its tag, and its name if a rule has replaced it.
type Asked = (String, Option<String>);

/// Sets of rules, by number.
type Sets = RangeInclusive<usize>;

/// A question that is open.
#[derive(Debug)]
struct Question {
    /// As it was when it asked.
    rule: Arc<Rule>,
    channel: String,
    messages: Vec<Asked>,
    /// The first set that it may have asked as one of.
    since: usize,
}

/// See the module text.
#[derive(Debug, Default)]
pub struct Gates {
    /// All sets of rules that the run has had, each in the order in which they are asked.
    sets: Vec<Vec<Arc<Rule>>>,
    /// The last set that all shards have.
    pub installed: usize,
    /// Whether lines are so short that publishes may be refused for that.
    are_lines_short: bool,
    open: BTreeMap<u64, Question>,
    /// What each rule has let pass.
    passed: BTreeSet<(Box<str>, Asked)>,
    /// Codes with which a tag was refused.
    refused: BTreeMap<String, BTreeSet<u64>>,
    /// The same by rules that may have been gone by then, so that nobody has heard of it.
    in_vain: BTreeMap<String, BTreeSet<u64>>,
    /// Rules that were not there for all, by channel, and whether that lets a publish pass: some share the
    /// fate of the one that waited.
    absent: BTreeSet<(Box<str>, String, bool)>,
    /// As what each tag was shown.
    shown: BTreeMap<String, BTreeSet<Option<String>>>,
}

/// Publishes of one channel that may wait and that no run reaches.
const LINE_LONG: usize = 1000;

fn gate(rule: &Rule) -> &Gate {
    rule.gate.as_ref().expect("it is asked")
}

fn lets_pass(rule: &Rule) -> bool {
    gate(rule).on_failure == OnFailure::Publish
}

impl Gates {
    /// Rules of a run, and how many publishes of a channel may wait for them.
    pub fn new(rules: Vec<Arc<Rule>>, line_max: usize) -> Gates {
        let are_lines_short = line_max < LINE_LONG;
        Gates { sets: vec![rules], are_lines_short, ..Gates::default() }
    }

    /// The number of the last set.
    pub fn latest(&self) -> usize {
        self.sets.len().saturating_sub(1)
    }

    /// The last set.
    pub fn rules(&self) -> &[Arc<Rule>] {
        self.sets.last().map_or(&[], Vec::as_slice)
    }

    /// Shards begin to hear of other rules; returns the number of that set.
    pub fn change(&mut self, rules: Vec<Arc<Rule>>) -> usize {
        self.sets.push(rules);
        self.latest()
    }

    /// The rules of a set that are asked about a channel, the last one first.
    fn chain(&self, set: usize, channel: &str) -> Vec<&Arc<Rule>> {
        let rules = self.sets.get(set).into_iter().flatten().rev();
        rules.filter(|rule| rule.gate.is_some() && rule.filter.matches(channel)).collect()
    }

    /// Whether any rule was ever asked about a channel.
    fn guard(&self, channel: &str) -> bool {
        (0..self.sets.len()).any(|set| !self.chain(set, channel).is_empty())
    }

    /// Whether some of these sets is without that rule as one that is asked about a channel.
    fn lack(&self, mut sets: Sets, channel: &str, id: &str) -> bool {
        sets.any(|set| !self.chain(set, channel).iter().any(|rule| *rule.id == *id))
    }

    /// The sets that a publish may have met.
    fn met_by(&self, publish: &Publish) -> Sets {
        let Publish { attempts, outcomes, is_uncertain, rules_since, rules_until, .. } = publish;
        let is_over = !is_uncertain && outcomes.len() >= *attempts as usize;
        *rules_since..=if is_over { *rules_until } else { self.latest() }
    }

    /// Whether all these rules, the last one first, have let a message pass as this, or were gone by then.
    fn have_passed(
        &self,
        rules: &[&Arc<Rule>],
        sets: &Sets,
        channel: &str,
        message: &Asked,
    ) -> bool {
        let Some((last, before)) = rules.split_first() else { return message.1.is_none() };
        let may_be_unasked = self.lack(sets.clone(), channel, &last.id)
            || self.absent.contains(&(last.id.clone(), channel.to_owned(), true));
        self.passed.contains(&(last.id.clone(), message.clone()))
            || may_be_unasked && self.have_passed(before, sets, channel, message)
    }

    /// Whether a message of a publish that may have met these sets has passed all rules that it had to, or
    /// those before `rule`.
    fn may_pass(&self, sets: &Sets, channel: &str, message: &Asked, rule: Option<&str>) -> bool {
        sets.clone().any(|came_under| {
            let mut chain = self.chain(came_under, channel);
            if let Some(rule) = rule {
                let Some(at) = chain.iter().position(|it| *it.id == *rule) else { return false };
                chain.drain(..=at);
            }
            self.have_passed(&chain, &(came_under..=*sets.end()), channel, message)
        })
    }

    /// Whether a publish may be told `code`, as far as rules are the reason.
    fn may_refuse(&self, sets: &Sets, channel: &str, tags: &[String], code: u64) -> bool {
        if code == NO_ROOM {
            let refuses = |rule: &Arc<Rule>| {
                rule.gate.is_none()
                    && rule.when_full == WhenFull::Refuse
                    && rule.filter.matches(channel)
            };
            // A line may outlive the rules for which it has formed.
            let has_line = |set| !self.chain(set, channel).is_empty();
            return self.are_lines_short && (0..=*sets.end()).any(has_line)
                || sets.clone().any(|set| self.sets[set].iter().any(refuses));
        }
        let is_absent =
            |rule: &Arc<Rule>| self.absent.contains(&(rule.id.clone(), channel.to_owned(), false));
        let has_absent = |set| self.chain(set, channel).into_iter().any(is_absent);
        let codes = |of: &BTreeMap<String, BTreeSet<u64>>, tag: &String| {
            of.get(tag).is_some_and(|codes| codes.contains(&code))
        };
        tags.iter().any(|tag| codes(&self.refused, tag) || codes(&self.in_vain, tag))
            || code == REJECTED && sets.clone().any(has_absent)
    }
}

impl Oracle {
    /// A rule was asked.
    pub fn ask(&mut self, number: u64, inquiry: &Inquiry) {
        let body: Value = serde_json::from_slice(&inquiry.body).unwrap_or_default();
        let channel = body["channel"].as_str().unwrap_or_default().to_owned();
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
        let is_whole = |it: &&Publish| it.channel == channel && tags.iter().copied().eq(&it.tags);
        let Some(publish) = publish.filter(is_whole) else {
            return self.find("question", format!("nobody has published {body}"));
        };
        let gates = &self.gates;
        let mut sets = publish.rules_since..=gates.latest();
        let rule = &inquiry.rule;
        let is_of =
            |set: &usize| gates.chain(*set, &channel).into_iter().any(|it| Arc::ptr_eq(it, rule));
        let since = sets.clone().find(is_of).filter(|_| body["ruleId"] == *rule.id);
        let has_to_pass = |set: usize| gates.chain(set, &channel).iter().any(|it| it.id == rule.id);
        let Some(since) = since.filter(|_| sets.any(has_to_pass)) else {
            return self.find("question", format!("no rule is to be asked {body}"));
        };
        let sets = publish.rules_since..=gates.latest();
        let has_passed = |message: &Asked| gates.may_pass(&sets, &channel, message, Some(&rule.id));
        let has_passed = messages.iter().all(has_passed);
        let is_beside = |it: &&Question| Arc::ptr_eq(&it.rule, rule) && it.channel == channel;
        let beside = gates.open.values().filter(is_beside).count();
        if !has_passed {
            self.find("question", format!("not what was left by the rule before: {body}"));
        }
        if beside >= gate(rule).concurrency {
            self.find("question", format!("{beside} are open, and {body}"));
        }
        let question = Question { rule: Arc::clone(rule), channel, messages, since };
        self.gates.open.insert(number, question);
    }

    /// A shard was told what was decided about a question.
    pub fn decide(&mut self, number: u64, decision: Decision) {
        let gates = &mut self.gates;
        let Some(question) = gates.open.remove(&number) else { return };
        let Question { rule, channel, messages, since } = question;
        let is_absent = matches!(decision, Decision::Unreachable | Decision::Silence);
        if is_absent {
            gates.absent.insert((rule.id.clone(), channel.clone(), lets_pass(&rule)));
        }
        // What it has asked passes when it goes, whatever it would have said.
        let refused = match gates.lack(since..=gates.latest(), &channel, &rule.id) {
            true => &mut gates.in_vain,
            false => &mut gates.refused,
        };
        for (tag, name) in messages {
            let passed = match (decision, gate(&rule).on_failure) {
                (Decision::Replace, _) => Some(mark(number)),
                (Decision::Reject(code), _) => {
                    refused.entry(tag).or_default().insert(code);
                    continue;
                }
                (Decision::Accept, _) | (_, OnFailure::Publish) => name,
                (_, OnFailure::Reject) => {
                    refused.entry(tag).or_default().insert(REJECTED);
                    continue;
                }
            };
            gates.passed.insert((rule.id.clone(), (tag, passed)));
        }
    }

    /// A shard waits no longer for the answer to a question.
    pub fn give_up_question(&mut self, number: u64) {
        self.decide(number, Decision::Silence);
    }

    /// Rules cannot be asked just now: publishes may have their fate without a question, from any rule as it
    /// was at some time.
    pub fn cannot_ask(&mut self) {
        let channels: BTreeSet<&String> = self.publishes.iter().map(|it| &it.channel).collect();
        let gates = &self.gates;
        let mut absent = Vec::new();
        for channel in channels {
            for rule in (0..gates.sets.len()).flat_map(|set| gates.chain(set, channel)) {
                absent.push((rule.id.clone(), channel.clone(), lets_pass(rule)));
            }
        }
        self.gates.absent.extend(absent);
    }

    /// Questions that are open end with the daemon.
    pub(super) fn forget_questions(&mut self) {
        self.gates.open.clear();
    }

    /// Somebody was shown a message.
    pub(super) fn note_name(&mut self, channel: &str, tag: &str, message: &Value) {
        if self.gates.guard(channel) {
            let name = message["name"].as_str().map(str::to_owned);
            self.gates.shown.entry(tag.to_owned()).or_default().insert(name);
        }
    }

    /// Holds what became of publishes against what was decided.
    pub(super) fn judge_gates(&mut self) {
        let mut found = Vec::new();
        for (channel, order) in &self.orders {
            let is_guarded = self.gates.guard(channel);
            for tag in order.values().flat_map(|event| &event.tags).filter(|_| is_guarded) {
                found.extend(self.judge_passed(channel, tag));
            }
        }
        for publish in &self.publishes {
            let Publish { channel, tags, attempts, outcomes, .. } = publish;
            let sets = self.gates.met_by(publish);
            let codes = || outcomes.iter().filter_map(|outcome| outcome.as_ref().err().copied());
            for code in codes() {
                let is_of_rule = code == NO_ROOM || (REJECTED..REJECTED + 10).contains(&code);
                if is_of_rule && !self.gates.may_refuse(&sets, channel, tags, code) {
                    found.push(format!("no rule refuses {tags:?} in {channel} with {code}"));
                }
            }
            let refused = tags.first().and_then(|tag| self.gates.refused.get(tag));
            let in_vain = tags.first().and_then(|tag| self.gates.in_vain.get(tag));
            let is_told = |codes: &BTreeSet<u64>| {
                outcomes.iter().all(|outcome| match outcome {
                    Ok(_) => false,
                    Err(code) => {
                        codes.contains(code)
                            || in_vain.is_some_and(|codes| codes.contains(code))
                            || *code == super::UNKNOWN_OUTCOME
                    }
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

    fn judge_passed(&self, channel: &str, tag: &str) -> Option<String> {
        let Gates { passed, shown, .. } = &self.gates;
        let publish = publish_of(tag).and_then(|number| self.publishes.get(number))?;
        let sets = self.gates.met_by(publish);
        let has_passed = |name: Option<String>| {
            self.gates.may_pass(&sets, channel, &(tag.to_owned(), name), None)
        };
        let Some(names) = shown.get(tag) else {
            // Only told by an ACK: under any name.
            let mut known = passed.iter().filter(|(_, message)| message.0 == tag);
            let has_passed =
                has_passed(None) || known.any(|(_, message)| has_passed(message.1.clone()));
            return (!has_passed).then(|| format!("{tag} in {channel} was not let pass"));
        };
        if publish.attempts <= 1 && names.len() > 1 {
            return Some(format!("{tag} in {channel} is {names:?}"));
        }
        let wrong = names.iter().find(|name| !has_passed((*name).clone()))?;
        Some(format!("{tag} in {channel} was not let pass as {wrong:?}"))
    }
}
