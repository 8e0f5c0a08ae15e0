//! What is true across an end of the process or the host and the start behind it.
//!
//! What anybody was shown of a channel is kept as its level says: `written` loses nothing with the process,
//! `fsynced` nothing with the host, other channels may lose anything; and a disk that does not hold what was
//! written to it may lose that. What is gone may be missed by those alone who are told of a gap, with one
//! exception: a torn end of the log nobody can tell from what has never been.
//!
//! The other way round, what a disk that failed was to have cut off again may be there at the next start. Who
//! was further by then is not sent it.

use std::collections::{BTreeMap, BTreeSet};

use super::{Oracle, Segment};
use crate::ably::Ack;
use crate::sim::revocations::Revocations;

/// How much earlier than by the clock something may be taken for too old, in milliseconds.
const SLACK_MS: u64 = 5_000;

/// What clients are told that go on from a serial of a start that is not known.
const UNKNOWN_START: u64 = 90005;

/// What clients are told that cannot go on because of what is not kept.
const LOST_CODES: [u64; 2] = [90003, UNKNOWN_START];

/// How a start came to its end.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ending {
    /// The daemon was asked to stop and had the time to.
    pub is_orderly: bool,
    /// The host has ended as well, and with it what was not synchronised.
    pub is_of_host: bool,
    /// By now something on the disk is not what was written.
    pub is_damaged: bool,
    /// The disk has failed so that what was written may be gone, and what was refused there.
    pub is_unsure: bool,
    /// The first file of a shard could not be made, so that it looks as if one had gone that was in use.
    pub lacks_first: bool,
}

/// How an event has gone that somebody was shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gone {
    /// Whoever goes on from before it has to be told.
    Noticed,
    /// Nobody can know.
    Silently,
}

/// Of a serial: its time in milliseconds.
fn time_ms(serial: &str) -> u64 {
    serial[..14].parse().unwrap_or_default()
}

/// Of a serial: what tells which shard of which start has made it.
fn series_of(serial: &str) -> &str {
    serial.split_once('@').map_or("", |(_, series)| series)
}

impl Oracle {
    /// The daemon starts; serials made from now on end with one of these.
    pub fn begin_start(&mut self, series: Vec<String>) {
        for series in series {
            if self.series.insert(series.clone(), self.start).is_some() {
                self.find("serials", format!("{series} is of two starts"));
            }
        }
    }

    /// It has come to its end, and clients have read what they were sent.
    pub fn end_start(&mut self, ending: &Ending) {
        self.judge_segments();
        self.forget_questions();
        self.forget_ephemeral();
        self.start += 1;
        // They do not outlive the daemon.
        self.revocations = Revocations::default();
        let may_lack = ending.is_of_host || ending.is_damaged || ending.is_unsure;
        if may_lack || ending.lacks_first {
            self.whole_since = self.start;
        }
        for (channel, order) in &self.orders {
            if !self.levels.contains_key(channel.as_str()) {
                let gone = self.gone.entry(channel.clone()).or_default();
                gone.extend(order.keys().map(|serial| (serial.clone(), Gone::Noticed)));
            }
        }
        for publish in self.publishes.iter_mut().filter(|_| ending.is_unsure) {
            let is_kept = self.levels.contains_key(publish.channel.as_str());
            publish.is_uncertain |= is_kept && publish.outcomes.iter().any(Result::is_err);
        }
    }

    /// What is not kept on purpose is missed by nobody.
    pub(super) fn forget(&mut self, channel: String, serial: String) {
        self.gone.entry(channel).or_default().entry(serial).or_insert(Gone::Silently);
    }

    /// The start that has made a serial.
    pub(super) fn start_of(&self, serial: &str) -> Option<u32> {
        self.series.get(series_of(serial)).copied()
    }

    /// What has become of an event.
    pub(super) fn fate(&self, channel: &str, serial: &str) -> Option<Gone> {
        self.gone.get(channel)?.get(serial).copied()
    }

    /// Whether somebody may have been past an event when it came back.
    pub(super) fn is_passed(&self, channel: &str, serial: &str, segment: usize) -> bool {
        let began = self.come_back.get(channel).and_then(|known| known.get(serial));
        began.is_some_and(|began| segment < *began)
    }

    /// Whether ids that clients have chosen are known across starts: those of as many messages come back as
    /// memory has room for.
    pub(super) fn keeps_ids(&self) -> bool {
        self.start == 0 || self.retention_ms.is_some()
    }

    /// A continuity goes on over another transport.
    pub fn resume(&mut self, segment: usize) {
        let start = self.start;
        let segment = &mut self.segments[segment];
        if std::mem::replace(&mut segment.over, start) == start {
            return;
        }
        let is_kept = self.levels.contains_key(segment.channel.as_str());
        if !is_kept {
            let text = format!(
                "client {} goes on in {}, of which nothing is kept",
                segment.client, segment.channel
            );
            self.find("resume", text);
        }
    }

    /// A client was told with `code` that its continuity does not go on from `asked`: across a start that has
    /// lost nothing it has to.
    pub fn refuse_resume(&mut self, segment: usize, asked: &str, code: u64, now_ms: u64) {
        let Segment { client, channel, over, .. } = &self.segments[segment];
        let (Some(Ack::Written | Ack::Fsynced), Some(retention_ms)) =
            (self.levels.get(channel.as_str()), self.retention_ms)
        else {
            return;
        };
        let is_old = time_ms(asked) + retention_ms <= now_ms + SLACK_MS;
        // A start that was killed before it had kept anything is not known to the next.
        let is_known = self.levels.keys().any(|channel| {
            let order = self.orders.get(*channel).into_iter().flatten();
            order.into_iter().any(|(serial, _)| {
                series_of(serial) == series_of(asked) && self.fate(channel, serial).is_none()
            })
        });
        if code == UNKNOWN_START && !is_known {
            return;
        }
        // What a rewind has brought last may lie before a gap that it was told of.
        let since = self.start_of(asked).map_or(*over, |start| start.min(*over));
        if *over < self.start && since >= self.whole_since && !is_old && LOST_CODES.contains(&code)
        {
            let text = format!("client {client} is told {code} in {channel} and asked for {asked}");
            self.find("needless gap", text);
        }
    }

    /// Holds what the next start has of each channel against what anybody was shown before; what is older
    /// than `oldest_ms` may be gone in any case.
    pub fn take_stock(
        &mut self,
        kept: &BTreeMap<&str, BTreeSet<String>>,
        ending: &Ending,
        oldest_ms: u64,
    ) {
        // What lies behind all that is left of its start may have been torn for all that anybody knows.
        let mut latest: BTreeMap<&str, u64> = BTreeMap::new();
        for serial in kept.values().flatten() {
            let latest = latest.entry(series_of(serial)).or_default();
            *latest = time_ms(serial).max(*latest);
        }
        let mut found = Vec::new();
        for (channel, level) in &self.levels {
            let unheard = |serial: &&String| {
                self.orders.get(*channel).is_none_or(|order| !order.contains_key(*serial))
            };
            if ending.is_unsure {
                let back = kept[channel].iter().filter(unheard);
                let back = back.map(|serial| (serial.clone(), self.segments.len()));
                self.come_back.entry((*channel).to_owned()).or_default().extend(back);
            }
            let Some(order) = self.orders.get(*channel) else { continue };
            let may_be_gone = match level {
                Ack::Memory => !ending.is_orderly || ending.is_damaged,
                Ack::Written if ending.is_orderly => ending.is_damaged,
                Ack::Written => ending.is_of_host || ending.is_unsure || ending.is_damaged,
                Ack::Fsynced => ending.is_damaged,
            };
            let gone = self.gone.entry((*channel).to_owned()).or_default();
            for serial in order.keys().filter(|serial| !kept[channel].contains(*serial)) {
                let time_ms = time_ms(serial);
                let is_last = latest.get(series_of(serial)).is_none_or(|it| *it <= time_ms);
                let is_silent = match level {
                    Ack::Memory => ending.is_orderly && is_last,
                    // The next start sees that the host has ended.
                    Ack::Written => !ending.is_of_host && is_last,
                    Ack::Fsynced => is_last,
                };
                if let Some(fate) = gone.get_mut(serial) {
                    // What lay behind it and told of it may have been damaged since.
                    if ending.is_damaged && is_silent {
                        *fate = Gone::Silently;
                    }
                    continue;
                }
                if !may_be_gone && time_ms > oldest_ms {
                    let text = format!("{channel} {serial} {:?}, {ending:?}", order[serial]);
                    found.push(text);
                }
                let fate = if is_silent { Gone::Silently } else { Gone::Noticed };
                gone.insert(serial.clone(), fate);
            }
        }
        for text in found {
            self.find("lost", text);
        }
    }

    /// No start gives serials before those of an earlier one.
    pub(super) fn judge_starts(&mut self) {
        let mut found = Vec::new();
        for (channel, order) in &self.orders {
            let mut newest = 0;
            for serial in order.keys() {
                match self.start_of(serial) {
                    Some(start) if start >= newest => newest = start,
                    start => found.push(format!("{channel} {serial} is of {start:?}: {order:?}")),
                }
            }
        }
        for text in found {
            self.find("serials", text);
        }
    }
}
