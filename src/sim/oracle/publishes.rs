//! What clients have asked to be published, what they were told of that, and whether it is true.

use std::collections::BTreeSet;

use super::versions::{Action, Change};
use super::{Event, Oracle, SOMEBODY, UNKNOWN_OUTCOME, channel_serial, publish_of};
use crate::sim::credentials::MUTABLE;
use crate::sim::payload::Kind;
use crate::sim::revocations::Token;

/// How long ids that clients choose are remembered (5.2).
const ID_WINDOW_MS: u64 = 120_000;

/// What a client has asked to be published.
#[derive(Debug)]
pub struct Publish {
    pub(super) channel: String,
    /// When the client wanted it.
    pub(super) begun_ms: u64,
    /// What it does to a message that there is; none: it makes one.
    pub change: Option<Change>,
    /// Who has tried: clientIds, where there was one.
    pub authors: BTreeSet<Option<&'static str>>,
    /// What its messages carry.
    pub tags: Vec<String>,
    /// What kind of data that is.
    pub kind: Kind,
    /// Whether it is delivered to those who are there, and forgotten.
    pub is_ephemeral: bool,
    /// Whether the client has chosen ids, so that nothing of it is ever published twice.
    pub(super) has_id: bool,
    /// Connections and requests under which it was sent: as often it may be there, without an id.
    pub(super) attempts: u32,
    /// Whether some attempt had an unknown end.
    pub(super) is_uncertain: bool,
    /// The set of rules that all shards had when it began, and the last that there was when its publisher was
    /// told.
    pub(super) rules_since: usize,
    pub(super) rules_until: usize,
    /// What the client was told.
    pub(super) outcomes: Vec<Result<Vec<String>, u64>>,
}

impl Oracle {
    /// Somebody wants these tags published on a channel; returns the number of the publish.
    pub fn begin_publish(
        &mut self,
        channel: &str,
        count: usize,
        kind: Kind,
        has_id: bool,
        now_ms: u64,
    ) -> usize {
        let number = self.publishes.len();
        let tags = (0..count).map(|index| format!("p{number}.{index}")).collect();
        self.publishes.push(Publish {
            channel: channel.to_owned(),
            begun_ms: now_ms,
            change: None,
            authors: BTreeSet::new(),
            tags,
            kind,
            is_ephemeral: false,
            has_id,
            attempts: 0,
            is_uncertain: false,
            rules_since: self.gates.installed,
            rules_until: 0,
            outcomes: Vec::new(),
        });
        number
    }

    /// Whether a token was good for nothing when this publish began.
    pub fn is_revoked(&self, token: &Token, publish: usize) -> bool {
        let begun_ms = self.publishes[publish].begun_ms;
        self.revocations.since(token, begun_ms).is_some_and(|since| since <= publish)
    }

    /// Somebody wants a message to change; returns the number of that publish, as of any other.
    pub fn begin_change(&mut self, action: Action, target: &str, now_ms: u64) -> usize {
        let number = self.begin_publish(MUTABLE, 1, Kind::Text, false, now_ms);
        self.publishes[number].change = Some(Change { action, target: target.to_owned() });
        number
    }

    /// It is sent by another connection or request than before.
    pub fn attempt(&mut self, publish: usize, author: Option<&'static str>) {
        self.publishes[publish].attempts += 1;
        self.publishes[publish].authors.insert(author);
    }

    /// Whose message that is, if it is certain.
    pub fn author_of(&self, message: &str) -> Option<Option<&'static str>> {
        let event = self.orders.get(MUTABLE)?.get(channel_serial(message))?;
        let authors = &self.publishes[publish_of(event.tags.first()?)?].authors;
        authors.first().copied().filter(|_| authors.len() == 1)
    }

    /// Nobody will tell what became of an attempt.
    pub fn give_up(&mut self, publish: usize) {
        self.publishes[publish].is_uncertain = true;
    }

    /// The client was told how it went: the serials of its messages, or a code.
    pub fn told(&mut self, publish: usize, outcome: Result<Vec<String>, u64>, by: Option<&str>) {
        let Publish { channel, tags, .. } = &self.publishes[publish];
        if let Ok(serials) = &outcome {
            let (channel, tags) = (channel.clone(), tags.clone());
            let own: Vec<&str> = serials.iter().map(|serial| channel_serial(serial)).collect();
            if serials.len() != tags.len() {
                let text =
                    format!("{} serials for {} messages of p{publish}", serials.len(), tags.len());
                self.find("ack", text);
            } else if own.iter().all(|serial| *serial == own[0]) {
                let is_sure = self.publishes[publish].attempts <= 1;
                let by = if is_sure { by } else { Some(SOMEBODY) };
                let event = Event { publisher: by.map(str::to_owned), tags };
                self.show(&channel, own[0], event);
                // Of ids the first publish counts.
                if let Some(by) = by.filter(|_| is_sure && !self.publishes[publish].has_id) {
                    self.judge_turn(by, &channel, own[0]);
                }
                if channel == MUTABLE && self.publishes[publish].change.is_none() {
                    self.mutable.extend(serials.iter().cloned());
                }
            }
        }
        self.publishes[publish].rules_until = self.gates.latest();
        self.publishes[publish].outcomes.push(outcome);
    }

    /// A connection's publishes are in the order in which it has made them.
    fn judge_turn(&mut self, connection: &str, channel: &str, serial: &str) {
        let of = (connection.to_owned(), channel.to_owned());
        let last = self.last_told.insert(of, serial.to_owned());
        if let Some(last) = last.filter(|last| **last >= *serial) {
            let text = format!("{connection} is told {serial} in {channel} behind {last}");
            self.find("turn", text);
        }
    }
}

impl Publish {
    /// Which channel it is for.
    pub fn channel(&self) -> &str {
        &self.channel
    }

    pub(super) fn judge(
        &self,
        number: usize,
        index: usize,
        places: &[(&str, &str)],
        is_gone: impl Fn(&str, &str) -> bool,
        found: &mut Vec<(&'static str, String)>,
    ) {
        if let Some((channel, _)) = places.iter().find(|(channel, _)| *channel != self.channel) {
            found.push(("one order", format!("p{number} for {} is in {channel}", self.channel)));
        }
        let time_ms = |(_, serial): &(&str, &str)| serial[..14].parse::<u64>().unwrap_or_default();
        let is_again = |pair: &[(&str, &str)]| time_ms(&pair[1]) < time_ms(&pair[0]) + ID_WINDOW_MS;
        // An id is known as long as what was published under it is kept.
        let known = places.iter().filter(|(channel, serial)| !is_gone(channel, serial));
        let known: Vec<(&str, &str)> = known.copied().collect();
        let is_often = match self.has_id {
            true => known.windows(2).any(is_again),
            false => places.len() > self.attempts as usize,
        };
        if is_often {
            found.push(("duplicate", format!("p{number} is there as {places:?}")));
        }
        for outcome in &self.outcomes {
            match outcome {
                Ok(serials) => {
                    let told = channel_serial(&serials[index.min(serials.len() - 1)]);
                    let is_there = places.iter().any(|(_, serial)| *serial == told);
                    if !is_there {
                        found.push(("ack", format!("p{number} was told {told}, is at {places:?}")));
                    }
                }
                Err(UNKNOWN_OUTCOME) => {}
                // Only this attempt was refused.
                Err(_) if self.attempts > 1 || self.is_uncertain => {}
                Err(code) if !places.is_empty() => {
                    found.push((
                        "nack",
                        format!("p{number} was refused, {code}, and is {places:?}"),
                    ));
                }
                Err(_) => {}
            }
        }
    }
}
