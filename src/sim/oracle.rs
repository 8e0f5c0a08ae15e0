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

mod continuities;
mod ephemeral;
mod gates;
mod publishes;
mod starts;
mod versions;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use self::continuities::Segment;
pub use self::gates::Gates;
pub use self::publishes::Publish;
pub use self::starts::Ending;
use self::starts::Gone;
use self::versions::Shown;
pub use self::versions::{Action, Change};
use super::credentials::MUTABLE;
use super::payload::{self, Payload};
use super::revocations::Revocations;
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

/// The code of a NACK that says that the outcome of a publish is not known any more.
const UNKNOWN_OUTCOME: u64 = 50000;

/// The number of the publish that a tag is of.
pub fn publish_of(tag: &str) -> Option<usize> {
    tag.strip_prefix('p')?.split_once('.')?.0.parse().ok()
}

/// Behind every serial of this millisecond and before those of the next.
pub fn end_of(unix_ms: u64) -> String {
    format!("{unix_ms:014}~")
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
}
