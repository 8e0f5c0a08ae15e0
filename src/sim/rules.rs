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
    let rule = |number: usize| {
        let gate = Gate {
            on_failure: *random.one_of(&[OnFailure::Reject, OnFailure::Publish]),
            timeout: Duration::from_millis(*random.one_of(&[100, 1_000, 5_000])),
            concurrency: *random.one_of(&[1, 1, 2, 5]),
            retries_max: 0,
            retries_throttled: false,
            shape: QuestionShape::Messages,
        };
        let (id, source, shape) =
            (format!("asked{number}"), RuleSource::Message, RequestShape::Enveloped);
        let (format, full) = (Format::Json, WhenFull::DropOldest);
        let rule = Rule::new(&id, APP, source, filter(random), shape, format, full, WIDE_BYTES);
        Arc::new(rule.with_gate(gate))
    };
    (0..count).map(rule).collect()
}

/// One or two rules that are told of publishes.
pub fn told(random: &mut Random) -> Vec<Arc<Rule>> {
    let count = 1 + random.below(2);
    let rule = |number: usize| {
        let (id, source) = (format!("told{number}"), RuleSource::Message);
        let shape = *random.one_of(&[RequestShape::Enveloped, RequestShape::Batch]);
        let format = *random.one_of(&[Format::Json, Format::MsgPack]);
        let (full, bytes_max) = match random.chance(2) {
            true => (WhenFull::Refuse, *random.one_of(&[1 << 10, 8 << 10])),
            false => (WhenFull::DropOldest, WIDE_BYTES),
        };
        let filter = filter(random);
        Arc::new(Rule::new(&id, APP, source, filter, shape, format, full, bytes_max))
    };
    (0..count).map(rule).collect()
}
