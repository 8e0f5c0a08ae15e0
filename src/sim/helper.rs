//! The helper thread of rules, and the functions behind it, as one party that takes its time: what shards hand
//! over waits in a queue with a bound, is looked at when the helper gets to it, and answered later, in any
//! order, too late, or never.
//!
//! What it does is told as [`News`], so that whoever judges a run knows what was decided. It ends with the
//! process, and what it knew with it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde_json::{Value, json};

use super::Random;
use super::credentials::MUTABLE;
use super::payload;
use super::sabotage::{Doubt, Retold};
use crate::ably::{
    Answered, ContentType, ErrorCode, Inquiry, Rule, RuleEvent, Verdict, read_verdict,
};
use crate::base::Now;

/// What the helper was seen to do.
#[derive(Debug)]
pub enum News {
    /// A shard has asked: the question's number, unique in a run.
    Asked(u64, Inquiry),
    /// A shard was told in time what was decided about a question.
    Decided(u64, Decision),
    /// A shard has given a question up.
    GivenUp(u64),
    /// It has taken nothing for so long that questions may be given up that it has not seen.
    Away,
    /// A rule was told of something.
    Told {
        /// Which.
        rule: Box<str>,
        /// Of which channel.
        channel: Box<str>,
        /// How the event is written.
        content_type: ContentType,
        /// The event.
        body: Vec<u8>,
    },
}

impl fmt::Display for News {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            News::Asked(number, inquiry) => {
                let body = String::from_utf8_lossy(&inquiry.body);
                write!(f, "shard {} asks q{number}: {body}", inquiry.shard)
            }
            News::Decided(number, decision) => write!(f, "q{number} is answered: {decision:?}"),
            News::GivenUp(number) => write!(f, "q{number} is given up"),
            News::Away => write!(f, "nobody asks"),
            News::Told { rule, channel, body, .. } => {
                write!(f, "{rule} is told of {channel}: {}", String::from_utf8_lossy(body))
            }
        }
    }
}

/// What a function decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The publish may go on as it is.
    Accept,
    /// Its messages are replaced; those that take their place are named after the question.
    Replace,
    /// It is refused with that code.
    Reject(u64),
    /// There is an answer, and it is none.
    Nonsense,
    /// There will be no answer, which is known.
    Unreachable,
    /// There is no answer.
    Silence,
}

/// What messages are named that have taken the place of others.
pub fn mark(number: u64) -> String {
    format!("q{number}")
}

/// Codes that functions refuse with; the first is that of a refusal that names none.
const REJECTED: u64 = ErrorCode::REJECTED_BY_RULE.0 as u64;
const MODERATED: u64 = 42213;

struct Question {
    number: u64,
    inquiry: Inquiry,
    /// When the shard gives it up, on the monotonic clock.
    until_ms: u64,
    /// The answer, and when it comes; none: it was not looked at yet.
    answer: Option<(u64, Decision, Verdict)>,
    /// Whether the shard has given it up.
    is_late: bool,
}

/// See the module text.
pub struct Helper {
    random: Random,
    /// Batches that may wait to be looked at.
    batches_max: usize,
    batches: usize,
    /// Whether it looks at nothing.
    pub is_stalled: bool,
    /// How long an answer takes, at most.
    latency_max_ms: u64,
    questions: Vec<Question>,
    next_number: u64,
    /// Events on their way to their endpoints, and when they are there.
    events: Vec<(u64, RuleEvent)>,
    news: Vec<News>,
    /// By shard: since when it has no room for what that wants to hand over.
    full_since_ms: BTreeMap<usize, u64>,
    /// How long a shard waits for an answer, at least.
    timeout_ms: u64,
    /// What is done to verdicts and events; for tests of the judge.
    doubt: Option<Doubt>,
    retold: Option<Retold>,
}

impl Helper {
    /// A helper of these rules whose doings follow from `random`.
    pub fn new(
        mut random: Random,
        rules: &[Arc<Rule>],
        doubt: Option<Doubt>,
        retold: Option<Retold>,
    ) -> Helper {
        Helper {
            full_since_ms: BTreeMap::new(),
            timeout_ms: shortest_timeout_ms(rules).unwrap_or_default(),
            batches_max: *random.one_of(&[1, 3, 256]),
            batches: 0,
            is_stalled: false,
            latency_max_ms: *random.one_of(&[5, 300, 3_000]),
            questions: Vec::new(),
            next_number: 0,
            events: Vec::new(),
            news: Vec::new(),
            random,
            doubt,
            retold,
        }
    }

    /// There will be these rules too.
    pub fn expect(&mut self, rules: &[Arc<Rule>]) {
        if let Some(timeout_ms) = shortest_timeout_ms(rules) {
            self.timeout_ms = self.timeout_ms.min(timeout_ms);
        }
    }

    /// It ends with the process.
    pub fn end(&mut self) {
        self.questions.clear();
        self.events.clear();
        self.full_since_ms.clear();
        (self.batches, self.is_stalled) = (0, false);
    }

    /// What it has done since the last call.
    pub fn take_news(&mut self) -> Vec<News> {
        std::mem::take(&mut self.news)
    }

    /// Whether it takes something of a shard, which then hands over all that it has.
    pub fn has_room(&mut self, now: Now, shard: usize) -> bool {
        if self.batches < self.batches_max {
            self.full_since_ms.remove(&shard);
            return true;
        }
        self.full_since_ms.entry(shard).or_insert(now.mono_ms);
        false
    }

    /// Takes what a shard hands over.
    pub fn take(&mut self, now: Now, events: Vec<RuleEvent>, inquiries: Vec<Inquiry>) {
        self.batches += 1;
        for event in events {
            let times = self.retold.map_or(1, |retold| retold(&mut self.random));
            for _ in 0..times {
                self.news.push(News::Told {
                    rule: event.rule().id.clone(),
                    channel: event.channel.clone(),
                    content_type: event.content_type,
                    body: event.body.to_vec(),
                });
            }
            let due_ms = now.mono_ms + self.random.below(self.latency_max_ms as usize) as u64;
            self.events.push((due_ms, event));
        }
        for inquiry in inquiries {
            self.next_number += 1;
            let number = self.next_number;
            self.news.push(News::Asked(number, inquiry.clone()));
            let until_ms = until_ms(now, &inquiry);
            self.questions.push(Question {
                number,
                inquiry,
                until_ms,
                answer: None,
                is_late: false,
            });
        }
    }

    /// Looks at what it has taken, if it gets to that.
    pub fn work(&mut self, now: Now) {
        if self.is_stalled || self.random.chance(3) {
            return;
        }
        self.batches = 0;
        let Helper { questions, random, latency_max_ms, .. } = self;
        for question in questions.iter_mut().filter(|question| question.answer.is_none()) {
            let decision = decide(random, &question.inquiry);
            let verdict = verdict(random, question.number, decision, &question.inquiry);
            let due_ms = match decision {
                Decision::Silence => u64::MAX,
                _ => now.mono_ms + random.below(*latency_max_ms as usize) as u64,
            };
            question.answer = Some((due_ms, decision, verdict));
        }
        // Delivered, and with that forgotten.
        self.events.retain(|(due_ms, _)| *due_ms > now.mono_ms);
    }

    /// Answers for a shard that have come, in any order.
    pub fn answers(&mut self, now: Now, shard: usize) -> Vec<Answered> {
        let is_due = |question: &mut Question| {
            let due_ms = question.answer.as_ref().map(|(due_ms, ..)| *due_ms);
            usize::from(question.inquiry.shard) == shard
                && due_ms.is_some_and(|due_ms| due_ms <= now.mono_ms)
        };
        let mut due: Vec<Question> = self.questions.extract_if(.., is_due).collect();
        let mut answers = Vec::new();
        while !due.is_empty() {
            let question = due.swap_remove(self.random.below(due.len()));
            let (_, decision, mut verdict) = question.answer.expect("it is due");
            if !question.is_late {
                self.news.push(News::Decided(question.number, decision));
            }
            if let Some(doubt) = &mut self.doubt {
                verdict = doubt(&mut self.random, verdict);
            }
            answers.push((question.inquiry.number, verdict));
        }
        answers
    }

    /// A shard has had a turn: what it had asked too long ago it has given up.
    pub fn expire(&mut self, now: Now, shard: usize) {
        let full_since_ms = self.full_since_ms.get(&shard).copied();
        if full_since_ms.is_some_and(|since_ms| since_ms + self.timeout_ms <= now.mono_ms) {
            self.news.push(News::Away);
        }
        let of_shard = self.questions.iter_mut().filter(|question| {
            usize::from(question.inquiry.shard) == shard && question.until_ms <= now.mono_ms
        });
        for question in of_shard.filter(|question| !question.is_late) {
            question.is_late = true;
            self.news.push(News::GivenUp(question.number));
        }
        self.questions.retain(|question| {
            let is_silent = matches!(question.answer, Some((u64::MAX, ..)));
            !(question.is_late && is_silent)
        });
    }

    /// Whether it has nothing to do just now.
    pub fn is_quiet(&self, now: Now) -> bool {
        let is_due = |question: &Question| match &question.answer {
            None => true,
            Some((due_ms, ..)) => *due_ms <= now.mono_ms,
        };
        self.is_stalled || self.batches == 0 && !self.questions.iter().any(is_due)
    }
}

/// How long a shard waits for the answers of these rules, at least; `None`: none is asked.
fn shortest_timeout_ms(rules: &[Arc<Rule>]) -> Option<u64> {
    rules.iter().filter_map(|rule| Some(rule.gate?.timeout.as_millis() as u64)).min()
}

/// When the shard gives a question up, which says when it was asked.
fn until_ms(now: Now, inquiry: &Inquiry) -> u64 {
    let gate = inquiry.rule.gate.expect("it is asked");
    let body: Value = serde_json::from_slice(&inquiry.body).unwrap_or_default();
    let asked_ms = body["timestamp"].as_u64().unwrap_or_default();
    let since_ms = now.unix_ms.saturating_sub(asked_ms);
    now.mono_ms - since_ms.min(now.mono_ms) + gate.timeout.as_millis() as u64
}

fn decide(random: &mut Random, inquiry: &Inquiry) -> Decision {
    match random.below(16) {
        0..=8 => Decision::Accept,
        // The versions of a message are judged by their own texts.
        9..=11 if *inquiry.channel == *MUTABLE => Decision::Accept,
        9..=11 => Decision::Replace,
        12 => Decision::Reject(*random.one_of(&[REJECTED, MODERATED])),
        13 => Decision::Nonsense,
        14 => Decision::Unreachable,
        _ => Decision::Silence,
    }
}

/// What the helper makes of the function's answer.
fn verdict(random: &mut Random, number: u64, decision: Decision, inquiry: &Inquiry) -> Verdict {
    let answer = match decision {
        Decision::Accept => json!({"action": "accept"}),
        Decision::Replace => json!({"action": "accept", "messages": others(number, inquiry)}),
        Decision::Reject(REJECTED) => json!({"action": "reject"}),
        Decision::Reject(code) => json!({"action": "reject", "code": code, "reason": "be nice"}),
        // One that cannot be read, and one that cannot be published.
        Decision::Nonsense if random.chance(2) => json!({"action": "perhaps"}),
        Decision::Nonsense => {
            json!({"action": "accept", "messages": [{"data": "", "clientId": "nobody's"}]})
        }
        Decision::Unreachable | Decision::Silence => {
            return Verdict::Unanswered("the rule cannot be reached");
        }
    };
    read_verdict(answer.to_string().as_bytes()).unwrap_or_else(Verdict::Failed)
}

/// Messages that take the place of those that were asked about.
fn others(number: u64, inquiry: &Inquiry) -> Value {
    let body: Value = serde_json::from_slice(&inquiry.body).unwrap_or_default();
    let other = |message: &Value| {
        let payload = payload::read(message)?;
        let padding = if number.is_multiple_of(3) { 100 } else { 3 };
        let mut other = payload.kind.message(&payload.tag?, padding);
        other["name"] = mark(number).into();
        Some(other)
    };
    body["messages"].as_array().into_iter().flatten().filter_map(other).collect()
}
