//! Who judges a run. During it, everything is noted that a client was told; at its end, when all that was
//! accepted is known, it is held against the promise:
//!
//! - every subscriber was sent every message of its channel once, in the channel's one order, from where
//!   its continuity begins to where that was said to end or the run does;
//! - nobody was sent what its credential does not permit, or its own messages where it asked for none;
//! - what it was sent is what was published, in whatever format it is told;
//! - nothing that was published after the answer to a revocation gets to or comes from a token that it
//!   concerns;
//! - each change of a message is a part of that order, and what anybody is shown of the message is what came
//!   of those up to there;
//! - what was acknowledged is in the order, once, and under the serial that the ACK told; what was refused
//!   is not in it; what one connection has published is in the order in which it has done that;
//! - what rules have decided is what becomes of a publish, and they are told what every subscriber is.
//!
//! What a channel's order is, is put together from everything that anybody was shown of it.

mod ephemeral;
mod gates;
mod starts;
mod versions;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::ops::Bound;

use serde_json::Value;

use self::ephemeral::Pause;
pub use self::gates::Gates;
pub use self::starts::Ending;
use self::starts::Gone;
use self::versions::Shown;
pub use self::versions::{Action, Change};
use super::credentials::MUTABLE;
use super::payload::{self, Kind, Payload};
use super::revocations::{Revocations, Token};
use crate::ably::Ack;

/// Something that must not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Which part of the promise was broken.
    pub kind: &'static str,
    /// How.
    pub text: String,
}

/// One publication of a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The connection that published it; [`SOMEBODY`] while it is one of several that have tried.
    pub publisher: Option<String>,
    /// What it carries: one tag for each message.
    pub tags: Vec<String>,
}

/// What a client has asked to be published.
#[derive(Debug)]
pub struct Publish {
    channel: String,
    /// When the client wanted it.
    begun_ms: u64,
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
    has_id: bool,
    /// Connections and requests under which it was sent: as often it may be there, without an id.
    attempts: u32,
    /// Whether some attempt had an unknown end.
    is_uncertain: bool,
    /// The set of rules that all shards had when it began, and the last that there was when its publisher was
    /// told.
    rules_since: usize,
    rules_until: usize,
    /// What the client was told.
    outcomes: Vec<Result<Vec<String>, u64>>,
}

/// An attachment from where its continuity begins to where it ends.
#[derive(Debug)]
struct Segment {
    client: usize,
    channel: String,
    /// What lies behind this is part of it.
    start: String,
    /// Serials below `start` that a rewind has brought, counted.
    rewound: usize,
    rewinds: bool,
    /// Whether its client was told that what a rewind has brought is not all that there was.
    is_told: bool,
    received: Vec<String>,
    /// The start of the daemon over which it goes on.
    over: u32,
    /// Those of them that can be understood by themselves.
    whole: BTreeSet<String>,
    /// Up to where it is known to be complete; `None`: to the last that was received.
    complete_to: Option<String>,
    /// Up to where its client was told that it has been sent everything.
    placed: Option<String>,
    /// Own connections whose messages it is not sent.
    skips: Vec<String>,
    /// What lies behind the first of these and not behind the second its client has thrown away, and is told
    /// so at the end.
    lacks: Option<(String, String)>,
    /// Where it was interrupted.
    pauses: Vec<Pause>,
}

/// See the module text.
#[derive(Debug, Default)]
pub struct Oracle {
    /// What was found.
    pub findings: Vec<Finding>,
    /// By channel and serial.
    orders: BTreeMap<String, BTreeMap<String, Event>>,
    /// By connection and channel: the last serial that it was told of a publish.
    last_told: BTreeMap<(String, String), String>,
    /// By number.
    pub publishes: Vec<Publish>,
    /// Tokens that were revoked.
    pub revocations: Revocations,
    /// Serials of messages that can change.
    pub mutable: Vec<String>,
    /// What was shown of them.
    shown: BTreeSet<Shown>,
    /// What their history said at the end: channel, message, channelSerial of the version.
    latest: Vec<(String, String, String)>,
    segments: Vec<Segment>,
    /// How often the daemon has started before.
    start: u32,
    /// By the end of serials, the start that has made them.
    series: BTreeMap<String, u32>,
    /// Channels that are kept on disk, and how safe what is told of them is.
    pub levels: BTreeMap<&'static str, Ack>,
    /// How long it is kept, where nothing else bounds how far back somebody may go on.
    pub retention_ms: Option<u64>,
    /// The first start since which nothing can have been lost of what was written.
    whole_since: u32,
    /// Rules that are asked, and what they have decided.
    pub gates: Gates,
    /// What is not kept any more, by channel and serial.
    gone: BTreeMap<String, BTreeMap<String, Gone>>,
    /// What nobody had heard of and was there at a start although the disk had failed, by channel and serial;
    /// with how many continuities had begun before.
    come_back: BTreeMap<String, BTreeMap<String, usize>>,
}

/// Stands for one of several connections.
pub const SOMEBODY: &str = "somebody";

/// How long ids that clients choose are remembered (5.2).
const ID_WINDOW_MS: u64 = 120_000;

/// The code of a NACK that says that the outcome of a publish is not known any more.
const UNKNOWN_OUTCOME: u64 = 50000;

/// The number of the publish that a tag is of.
pub fn publish_of(tag: &str) -> Option<usize> {
    tag.strip_prefix('p')?.split_once('.')?.0.parse().ok()
}

/// The channelSerial in the serial of a message.
pub fn channel_serial(message_serial: &str) -> &str {
    message_serial.rsplit_once(':').map_or(message_serial, |(serial, _)| serial)
}

impl Oracle {
    /// Notes a finding.
    pub fn find(&mut self, kind: &'static str, text: String) {
        // One tells the story; a thousand that follow from it do not tell it better.
        if self.findings.len() < 20 {
            self.findings.push(Finding { kind, text });
        }
    }

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

    /// The tag of a message that somebody was shown, which has to be as it was published.
    pub fn read(&mut self, channel: &str, message: &Value) -> String {
        let Some(payload) = self.payload(channel, message) else {
            self.find("contents", format!("nobody has published {message}"));
            return String::new();
        };
        if channel == MUTABLE {
            return self.read_version(channel, message, payload);
        }
        let tag = payload.tag.unwrap_or_default();
        self.note_name(channel, &tag, message);
        tag
    }

    /// What a message of a channel carries, if that is what somebody has published there.
    fn payload(&self, channel: &str, message: &Value) -> Option<Payload> {
        let is_published = |payload: &Payload| {
            payload.tag.iter().chain(&payload.appended).all(|tag| {
                let publish = publish_of(tag).and_then(|number| self.publishes.get(number));
                let is_same = |it: &Publish| it.kind == payload.kind && it.channel == channel;
                publish.is_some_and(|it| is_same(it) && it.tags.contains(tag))
            })
        };
        payload::read(message).filter(is_published)
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

    /// Somebody was shown a publication.
    pub fn show(&mut self, channel: &str, serial: &str, event: Event) {
        let is_vague = |event: &Event| event.publisher.as_ref().is_none_or(|by| by == SOMEBODY);
        let order = self.orders.entry(channel.to_owned()).or_default();
        match order.get(serial) {
            None => {
                order.insert(serial.to_owned(), event);
            }
            Some(known) if *known == event => {}
            // A history does not say whose connection it was, nor does a REST publish.
            Some(known) if known.tags == event.tags && is_vague(&event) => {}
            Some(known) if known.tags == event.tags && is_vague(known) => {
                order.insert(serial.to_owned(), event);
            }
            Some(known) => {
                let text = format!("{channel} {serial} is {known:?} and {event:?}");
                self.find("one order", text);
            }
        }
    }

    /// An attachment begins behind `start`; returns the number of its continuity. `is_told` says that what a
    /// rewind brings is not all.
    pub fn begin_segment(
        &mut self,
        client: usize,
        channel: &str,
        start: &str,
        rewinds: bool,
        is_told: bool,
    ) -> usize {
        self.segments.push(Segment {
            client,
            channel: channel.to_owned(),
            start: start.to_owned(),
            rewound: 0,
            rewinds,
            is_told,
            received: Vec::new(),
            over: self.start,
            whole: BTreeSet::new(),
            complete_to: None,
            placed: None,
            skips: Vec::new(),
            lacks: None,
            pauses: Vec::new(),
        });
        self.segments.len() - 1
    }

    /// From now on it is not sent what this connection publishes.
    pub fn skip(&mut self, segment: usize, connection: &str) {
        let skips = &mut self.segments[segment].skips;
        if !skips.iter().any(|known| known == connection) {
            skips.push(connection.to_owned());
        }
    }

    /// A client that could not decode a delta, had thrown away what came behind `after` and waited for it to
    /// be sent again has gone on behind `to`, since it took the ATTACHED of a new token for its answer. That
    /// answer, which has come since, says that it cannot be sent again.
    pub fn lack(&mut self, segment: usize, after: String, to: String) {
        self.segments[segment].lacks = Some((after, to));
    }

    /// An attachment was sent a publication.
    pub fn receive(&mut self, segment: usize, serial: &str, is_whole: bool) {
        if is_whole {
            self.segments[segment].whole.insert(serial.to_owned());
        }
        let Segment { client, channel, start, rewound, rewinds, received, placed, .. } =
            &mut self.segments[segment];
        let is_rewound = *rewinds && *serial <= **start;
        let after = received.last().filter(|_| !is_rewound || *rewound > 0);
        let is_in_order = match after {
            Some(last) => **last < *serial,
            None => is_rewound || **start < *serial,
        };
        let is_in_order = is_in_order && placed.as_deref().is_none_or(|placed| placed < serial);
        if is_in_order {
            *rewound += usize::from(is_rewound);
            received.push(serial.to_owned());
            self.judge_replay(segment, serial);
        } else {
            let text =
                format!("client {client} {channel}: {serial} behind {received:?} from {start}");
            self.find("order", text);
        }
    }

    /// The client of an attachment is told that it has been sent everything up to `serial`.
    pub fn place(&mut self, segment: usize, serial: &str) {
        let placed = &mut self.segments[segment].placed;
        *placed = placed.take().max(Some(serial.to_owned()));
    }

    /// The run ends, and this attachment has been sent everything.
    pub fn complete(&mut self, segment: usize) {
        self.segments[segment].complete_to = Some("~".to_owned());
    }

    /// It has been sent everything up to that time.
    pub fn complete_to(&mut self, segment: usize, now_ms: u64) {
        self.segments[segment].complete_to = Some(format!("{now_ms:014}~"));
    }

    /// Holds everything against the promise.
    pub fn judge(&mut self) {
        self.judge_segments();
        self.judge_versions();
        self.judge_starts();
        self.judge_gates();
        let mut places: BTreeMap<&str, Vec<(&str, &str)>> = BTreeMap::new();
        for (channel, order) in &self.orders {
            for (serial, event) in order {
                for tag in &event.tags {
                    places.entry(tag).or_default().push((channel, serial));
                }
            }
        }
        let mut found = Vec::new();
        let keeps_ids = self.keeps_ids();
        for (number, publish) in self.publishes.iter().enumerate() {
            for (index, tag) in publish.tags.iter().enumerate() {
                let places = places.get(tag.as_str()).map_or(&[][..], Vec::as_slice);
                let start = |serial: &str| self.start_of(serial);
                let is_gone = |channel: &str, serial: &str| {
                    self.fate(channel, serial).is_some()
                        || !keeps_ids && start(serial) < places.last().and_then(|it| start(it.1))
                };
                publish.judge(number, index, places, is_gone, &mut found);
            }
        }
        for (kind, text) in found {
            self.find(kind, text);
        }
    }

    fn judge_segments(&mut self) {
        for at in 0..self.segments.len() {
            self.judge_segment(at);
        }
    }

    fn judge_segment(&mut self, at: usize) {
        let segment = &self.segments[at];
        let first = match segment.rewound {
            0 => Bound::Excluded(segment.start.clone()),
            _ => Bound::Included(segment.received[0].clone()),
        };
        let told = segment.received.last().max(segment.placed.as_ref());
        let Some(end) = segment.complete_to.as_ref().max(told).cloned() else { return };
        if segment.rewound == 0 && end <= segment.start {
            return; // its end came before its beginning
        }
        let Some(order) = self.orders.get(&segment.channel) else { return };
        let is_sent = |event: &Event| {
            let Segment { skips, .. } = segment;
            event.publisher.as_ref().is_none_or(|publisher| {
                !skips.contains(publisher) && (publisher != SOMEBODY || skips.is_empty())
            })
        };
        let expected: Vec<&String> = order
            .range((first, Bound::Included(end.clone())))
            .filter(|(serial, event)| {
                let Segment { channel, received, start, is_told, lacks, .. } = segment;
                let is_lacked =
                    lacks.as_ref().is_some_and(|(after, to)| after < *serial && *serial <= to);
                let may_be_missing = match self.fate(channel, serial) {
                    Some(Gone::Silently) => true,
                    Some(Gone::Noticed) => *is_told && *serial <= start,
                    None => self.is_passed(channel, serial, at),
                };
                let is_forgotten = self.is_forgotten(segment, serial, event);
                let is_due = is_sent(event) && !may_be_missing && !is_lacked && !is_forgotten;
                received.contains(serial)
                    || is_due && !self.is_collapsed(segment, &end, serial, event)
            })
            .map(|(serial, _)| serial)
            .collect();
        if expected.into_iter().eq(&segment.received) {
            return;
        }
        let mut text = format!("client {} {}", segment.client, segment.channel);
        for (serial, event) in
            order.range::<String, _>((Bound::Excluded(&segment.start), Bound::Unbounded))
        {
            let is_received = segment.received.contains(serial);
            if !is_received && is_sent(event) {
                let _ = write!(text, " misses {serial} {:?}", event.tags);
            }
        }
        let _ = write!(text, "; from {} it has {:?}", segment.start, segment.received);
        let kind = if segment.complete_to.is_some() { "gap or end" } else { "gap" };
        self.find(kind, text);
    }
}

impl Publish {
    /// Which channel it is for.
    pub fn channel(&self) -> &str {
        &self.channel
    }

    fn judge(
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
