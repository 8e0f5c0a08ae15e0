//! Rules of a run: some are asked before a publish, others are told of it.

use std::sync::Arc;
use std::time::Duration;

use super::Random;
use super::credentials::APP;
use crate::ably::{
    ChannelFilter, Format, Gate, OnFailure, QuestionShape, RequestShape, Rule, RuleSource, WhenFull,
};

/// Which channels a rule is for.
const FILTERS: [&str; 4] = ["^a$", "^(a|kept:k)$", "^(b|vip:x|safe:s|loose:l|mut:m)$", ""];

/// Bytes of events that may wait where nothing is to be refused for want of room.
const WIDE_BYTES: u64 = 1 << 30;

fn filter(random: &mut Random) -> ChannelFilter {
    ChannelFilter::compile(random.one_of::<&str>(&FILTERS)).expect("a filter")
}

/// One or two rules that are asked before a publish.
pub fn asked(random: &mut Random) -> Vec<Arc<Rule>> {
    let count = 1 + random.below(2);
    (0..count).map(|number| Arc::new(that_asks(random, &format!("asked{number}")))).collect()
}

/// One or two rules that are told of publishes.
pub fn told(random: &mut Random) -> Vec<Arc<Rule>> {
    let count = 1 + random.below(2);
    (0..count).map(|number| Arc::new(that_is_told(random, &format!("told{number}")))).collect()
}

/// The rules after a change: there is one more, which may have been there before, or one less, or one is
/// another under the same name. Those that stay are the same.
pub fn changed(random: &mut Random, rules: &[Arc<Rule>]) -> Vec<Arc<Rule>> {
    let mut rules = rules.to_vec();
    let act = if rules.is_empty() { 0 } else { random.below(5) };
    let id = format!("made{}", random.below(3));
    if act == 0 && !rules.iter().any(|rule| *rule.id == *id) {
        let rule = some(random, &id);
        rules.insert(random.below(rules.len() + 1), Arc::new(rule));
        return rules;
    }
    let at = random.below(rules.len());
    if act == 1 {
        rules.remove(at);
        return rules;
    }
    let before = Arc::clone(&rules[at]);
    let mut rule = match (random.chance(4), before.gate) {
        (true, _) => some(random, &before.id),
        (false, Some(_)) => that_asks(random, &before.id),
        (false, None) => that_is_told(random, &before.id),
    };
    if !random.chance(3) {
        rule.filter = before.filter.clone();
    }
    rule.continue_from(&before);
    rules[at] = Arc::new(rule);
    rules
}

fn some(random: &mut Random, id: &str) -> Rule {
    if random.chance(2) { that_asks(random, id) } else { that_is_told(random, id) }
}

fn that_asks(random: &mut Random, id: &str) -> Rule {
    let gate = Gate {
        on_failure: *random.one_of(&[OnFailure::Reject, OnFailure::Publish]),
        timeout: Duration::from_millis(*random.one_of(&[100, 1_000, 5_000])),
        concurrency: *random.one_of(&[1, 1, 2, 5]),
        retries_max: 0,
        retries_throttled: false,
        shape: QuestionShape::Messages,
    };
    let (source, shape) = (RuleSource::Message, RequestShape::Enveloped);
    let (format, full) = (Format::Json, WhenFull::DropOldest);
    Rule::new(id, APP, source, filter(random), shape, format, full, WIDE_BYTES).with_gate(gate)
}

fn that_is_told(random: &mut Random, id: &str) -> Rule {
    let shape = *random.one_of(&[RequestShape::Enveloped, RequestShape::Batch]);
    let format = *random.one_of(&[Format::Json, Format::MsgPack]);
    let (full, bytes_max) = match random.chance(2) {
        true => (WhenFull::Refuse, *random.one_of(&[1 << 10, 8 << 10])),
        false => (WhenFull::DropOldest, WIDE_BYTES),
    };
    Rule::new(id, APP, RuleSource::Message, filter(random), shape, format, full, bytes_max)
}
