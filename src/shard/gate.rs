//! Publishes that wait for the answer of a rule (15.9), on their channel's home.
//!
//! Those of one channel stand in a line and go on in the order in which they came: what is decided waits
//! for those before it. Channels whose rules are only told of things have no line. What was decided together
//! is published in portions (`pace.rs`).

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use super::{Mail, ReturnAddress, Shard};
use crate::ably::{
    Accepted, Answered, ErrorCode, ErrorInfo, Gate, Inquiry, OnFailure, Rule, Rules, Verdict,
};
use crate::channel::ChannelKey;
use crate::channel::home::HomeChannel;

/// Publishes that wait in all lines of a shard.
const SHARD_WAITING_MAX: usize = 16_384;

/// Their bytes, about.
const SHARD_WAITING_BYTES_MAX: u64 = 16 << 20;

/// How far a publish has come.
enum Stage {
    /// The first of its rules is to be asked.
    Waits,
    /// It was asked, under this number.
    Asked(u64),
    /// All of it was published before, so nobody needs to be asked, if that is still known when it is first in
    /// line.
    Repeated,
    /// It is published, or refused, when it is first in line.
    Decided(Result<(), ErrorInfo>),
}

/// One publish that waits.
struct Held {
    reply_to: ReturnAddress,
    accepted: Accepted,
    bytes: u64,
    /// When it came, on the monotonic clock.
    since_ms: u64,
    /// Rules that it has not passed yet, the next one first.
    rules: VecDeque<Arc<Rule>>,
    stage: Stage,
}

/// See the module text.
#[derive(Default)]
pub(super) struct Gates {
    /// By channel; none is empty.
    lines: HashMap<ChannelKey, VecDeque<Held>>,
    /// Which channel each question under way is about, and when it is given up.
    asked: HashMap<u64, (ChannelKey, u64)>,
    /// The same times, each with the number of its question.
    deadlines: BTreeSet<(u64, u64)>,
    /// Questions that wait to be handed over.
    inquiries: Vec<Inquiry>,
    next_number: u64,
    waiting: usize,
    bytes: u64,
}

impl Gates {
    /// When the next question is given up.
    pub fn next_ms(&self) -> Option<u64> {
        self.deadlines.first().map(|(at_ms, _)| *at_ms)
    }

    /// Publishes that wait.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// The first in a channel's line, if it is decided; `home` is that of the channel.
    fn take_first(&mut self, key: &ChannelKey, home: Option<&HomeChannel>) -> Option<Held> {
        let line = self.lines.get_mut(key)?;
        if let Some(first) = line.front_mut() {
            first.recall(home);
        }
        let held = line.pop_front_if(|held| matches!(held.stage, Stage::Decided(_)))?;
        if line.is_empty() {
            self.lines.remove(key);
        }
        self.waiting -= 1;
        self.bytes -= held.bytes;
        Some(held)
    }

    /// Whether the first in a channel's line waits for no rule.
    fn may_go(&self, key: &ChannelKey) -> bool {
        self.lines.get(key).and_then(VecDeque::front).is_some_and(Held::may_go)
    }
}

impl Held {
    /// The rule whose turn it is, as it is now; `None`: it is gone, or is for other channels.
    fn rule<'a>(&self, rules: &'a Rules, key: &ChannelKey) -> Option<&'a Arc<Rule>> {
        rules.gate(&self.rules[0].id, key.app_id(), key.name())
    }

    /// It is first in line. What it repeats may be forgotten by now, and it is new: then it is to be asked about.
    fn recall(&mut self, home: Option<&HomeChannel>) {
        if let Stage::Repeated = self.stage {
            match has_published(home, &self.accepted) {
                true => self.stage = Stage::Decided(Ok(())),
                false => self.go_on(),
            }
        }
    }

    /// The next rule has let it pass.
    fn pass(&mut self) {
        self.rules.pop_front();
        self.go_on();
    }

    /// It waits for the next rule, or for nothing.
    fn go_on(&mut self) {
        self.stage = match self.rules.is_empty() {
            true => Stage::Decided(Ok(())),
            false => Stage::Waits,
        };
    }

    /// Whether it waits for no rule, as far as is known.
    fn may_go(&self) -> bool {
        matches!(self.stage, Stage::Decided(_) | Stage::Repeated)
    }

    /// The next rule has not decided; `why` is for the publisher.
    fn fail(&mut self, gate: &Gate, why: &'static str) {
        match gate.on_failure {
            OnFailure::Publish => self.pass(),
            OnFailure::Reject => {
                let error = ErrorInfo::new(ErrorCode::REJECTED_BY_RULE, why);
                self.stage = Stage::Decided(Err(error));
            }
        }
    }
}

impl Shard {
    /// Has a publish wait, if a rule is to be asked about it or others of its channel wait; otherwise gives
    /// it back.
    ///
    /// # Errors
    /// 70003: as many wait as may.
    pub(super) fn hold(
        &mut self,
        reply_to: ReturnAddress,
        key: &ChannelKey,
        accepted: Accepted,
    ) -> Result<Option<Accepted>, ErrorInfo> {
        if !self.homes.rules().have_gates() && self.gates.waiting == 0 {
            return Ok(Some(accepted));
        }
        let rules = self.rules_to_ask(key, &accepted);
        let is_repeated = has_published(self.homes.get(key), &accepted);
        let line = self.gates.lines.get(key).map_or(0, VecDeque::len);
        if (rules.is_empty() || is_repeated) && line == 0 {
            return Ok(Some(accepted));
        }
        if line >= self.config.line_max
            || self.gates.waiting >= SHARD_WAITING_MAX
            || self.gates.bytes >= SHARD_WAITING_BYTES_MAX
        {
            let text = "as many publishes wait for the answer of a rule as may wait; try again";
            return Err(ErrorInfo::new(ErrorCode::TOO_MANY_EVENTS_WAITING, text));
        }
        let stage = match rules.is_empty() {
            true => Stage::Decided(Ok(())),
            false if is_repeated => Stage::Repeated,
            false => Stage::Waits,
        };
        let bytes = accepted.size_bytes();
        self.gates.waiting += 1;
        self.gates.bytes += bytes;
        let since_ms = self.now.mono_ms;
        let held = Held { reply_to, accepted, bytes, since_ms, rules, stage };
        self.gates.lines.entry(key.clone()).or_default().push_back(held);
        self.advance_line(key);
        Ok(None)
    }

    /// The rules that have a say in a publish, in the order of their configuration.
    fn rules_to_ask(&mut self, key: &ChannelKey, accepted: &Accepted) -> VecDeque<Arc<Rule>> {
        let is_asked = |rule: &&Arc<Rule>| rule.gate.is_some() && !accepted.passes(rule);
        if let Some(rules) = self.homes.rules_of(key) {
            return rules.iter().filter(is_asked).cloned().collect();
        }
        let rules = self.homes.rules().of_channel(key.app_id(), key.name());
        rules.iter().filter(is_asked).cloned().collect()
    }

    /// Publishes what is decided at the front of a channel's line, as far as subscribers have room for it, and
    /// asks about what is next.
    pub(super) fn advance_line(&mut self, key: &ChannelKey) {
        loop {
            while self.gates.may_go(key)
                && self.has_room(key)
                && let Some(held) = self.gates.take_first(key, self.homes.get(key))
            {
                let Held { reply_to, accepted, stage, .. } = held;
                let Stage::Decided(decision) = stage else { unreachable!("taken when decided") };
                let result = match decision {
                    Ok(()) => {
                        self.pacing.note(key, accepted.size_bytes());
                        self.publish_here(key, accepted)
                    }
                    Err(error) => {
                        self.counters.rejected_publishes += 1;
                        Err(error)
                    }
                };
                let ReturnAddress { shard, transport, request } = reply_to;
                self.post_of(key, shard, Mail::Published { transport, request, result });
            }
            if !self.ask_next(key) || self.pacing.holds(key) {
                break;
            }
        }
    }

    /// Asks about those who wait near the front of a line; true if that has decided about the first.
    fn ask_next(&mut self, key: &ChannelKey) -> bool {
        let now = self.now;
        let home = self.homes.get(key);
        let Some(line) = self.gates.lines.get_mut(key) else { return false };
        for (at, held) in line.iter_mut().enumerate() {
            while let Stage::Waits = held.stage {
                // It may have been changed since, or removed, or have other channels.
                let Some(rule) = held.rule(self.homes.rules(), key) else {
                    held.pass();
                    continue;
                };
                let gate = rule.gate.expect("found as one");
                if at >= gate.concurrency {
                    return line[0].may_go();
                }
                // The first of two that are the same may have been published meanwhile.
                if has_published(home, &held.accepted) {
                    held.stage = Stage::Repeated;
                    continue;
                }
                let number = self.gates.next_number;
                self.gates.next_number += 1;
                held.rules[0] = Arc::clone(rule);
                held.stage = Stage::Asked(number);
                let at_ms = now.mono_ms + gate.timeout.as_millis() as u64;
                self.gates.asked.insert(number, (key.clone(), at_ms));
                self.gates.deadlines.insert((at_ms, number));
                let body = gate.question(rule, key.name(), now.unix_ms, &held.accepted);
                let (rule, channel) = (Arc::clone(rule), key.name().into());
                self.gates.inquiries.push(Inquiry { rule, shard: self.id, number, channel, body });
                self.counters.questions += 1;
            }
        }
        line[0].may_go()
    }

    /// A rule has answered, or will not.
    pub fn handle_verdict(&mut self, (number, verdict): Answered) {
        // Too late: it was given up before.
        let Some((key, at_ms)) = self.gates.asked.remove(&number) else { return };
        self.gates.deadlines.remove(&(at_ms, number));
        let line = self.gates.lines.get_mut(&key).expect("lines of questions exist");
        let is_it = |held: &&mut Held| matches!(held.stage, Stage::Asked(own) if own == number);
        let held = line.iter_mut().find(is_it).expect("what was asked about waits");
        let rule = Arc::clone(&held.rules[0]);
        let gate = rule.gate.expect("it was asked");
        let bytes_max = self.config.connection.message_bytes_max.into();
        let is_answered = !matches!(verdict, Verdict::Unanswered(_));
        let failure = match verdict {
            Verdict::Accept => {
                held.pass();
                None
            }
            Verdict::Reject(error) => {
                held.stage = Stage::Decided(Err(error));
                None
            }
            Verdict::Replace(messages) => {
                match held.accepted.clone().replaced(messages, bytes_max) {
                    Ok(accepted) => {
                        held.accepted = accepted;
                        held.pass();
                        None
                    }
                    Err(why) => Some(why),
                }
            }
            Verdict::Failed(why) | Verdict::Unanswered(why) => Some(why),
        };
        if let Some(why) = failure {
            held.fail(&gate, why);
            self.counters.failed_questions += 1;
            // Nobody seems to be there: whoever has waited as long as an answer may take is not kept waiting
            // for the next one that does not come.
            let is_over = |held: &&mut Held| {
                matches!(held.stage, Stage::Waits)
                    && !is_answered
                    && *held.rules[0].id == *rule.id
                    && held.since_ms + gate.timeout.as_millis() as u64 <= self.now.mono_ms
            };
            line.iter_mut().filter(is_over).for_each(|held| held.fail(&gate, why));
        }
        self.advance_line(&key);
    }

    /// Gives up questions that have had their time, those among them that nobody has taken yet.
    pub(super) fn expire_questions(&mut self) {
        if self.gates.next_ms().is_none_or(|at_ms| at_ms > self.now.mono_ms) {
            return;
        }
        while let Some(&(at_ms, number)) = self.gates.deadlines.first()
            && at_ms <= self.now.mono_ms
        {
            let why = "a rule of the channel has not answered in time";
            self.handle_verdict((number, Verdict::Unanswered(why)));
        }
        let Gates { inquiries, asked, .. } = &mut self.gates;
        inquiries.retain(|inquiry| asked.contains_key(&inquiry.number));
    }

    /// Rules have changed: what waits for the answer of one that is gone, or is for other channels now, waits
    /// no more.
    pub(super) fn forget_gone_gates(&mut self) {
        let rules = self.homes.rules();
        let mut numbers = Vec::new();
        for (key, line) in &self.gates.lines {
            numbers.extend(line.iter().filter_map(|held| match held.stage {
                Stage::Asked(number) => held.rule(rules, key).is_none().then_some(number),
                Stage::Waits | Stage::Repeated | Stage::Decided(_) => None,
            }));
        }
        numbers.sort_unstable();
        for number in numbers {
            self.handle_verdict((number, Verdict::Accept));
        }
    }

    /// All questions that wait to be handed over, in order.
    pub fn take_inquiries(&mut self) -> Vec<Inquiry> {
        std::mem::take(&mut self.gates.inquiries)
    }

    /// Whether some wait.
    pub fn has_inquiries(&self) -> bool {
        !self.gates.inquiries.is_empty()
    }
}

/// Whether all of a publish was published before, so that it changes nothing.
fn has_published(home: Option<&HomeChannel>, accepted: &Accepted) -> bool {
    match accepted {
        Accepted::Messages(messages) => home.is_some_and(|home| home.has_published(messages)),
        Accepted::Mutation(_) | Accepted::Annotations(_) => false,
    }
}
