//! What earlier starts of the daemon have left behind.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::index::{Index, Note};
use super::segment::{After, Found, Header, SegmentId, scan};
use crate::ably::SeriesId;

/// A segment that is there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    /// Of the file, without space that was reserved.
    pub bytes: u64,
    pub created_ms: u64,
    /// The latest time of a serial in it.
    pub last_ms: u64,
    pub key: (SeriesId, u32),
}

/// What all journals of the daemon know of earlier starts.
#[derive(Debug, Default)]
pub(super) struct Past {
    /// Their serials are understood.
    pub series: Vec<SeriesId>,
    /// Serials up to this time may be of events that are gone.
    pub floor_ms: u64,
    /// The same for channels whose events nobody waited for.
    pub unawaited_floor_ms: u64,
    /// The latest time of a serial.
    pub reached_ms: u64,
}

/// Damage to a segment that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub segment: SegmentId,
    /// From this byte on.
    pub from: u32,
    /// What it is.
    pub kind: DamageKind,
}

/// What can be wrong with a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DamageKind {
    /// It ends in the middle of a record, as an end of the process or the host leaves it. Nothing that
    /// was confirmed is in there.
    Torn,
    /// Something in the middle is not what was written. What is lost cannot be told: whoever goes on
    /// from before it hears that continuity is lost.
    Corrupt,
}

/// One shard's part of what was found.
pub struct Recovered {
    pub(super) index: Index,
    pub(super) segments: BTreeMap<SegmentId, Known>,
    pub(super) past: Arc<Past>,
}

/// Reads segments one after the other, and then is what the shards begin with.
pub struct Recovery {
    indexes: Vec<Index>,
    /// The shard that a channel is at home on.
    home: fn(&str, usize) -> usize,
    segments: BTreeMap<SegmentId, Known>,
    afters: HashMap<SegmentId, After>,
    /// Everything in them was written again.
    superseded: HashSet<SegmentId>,
    damage: Vec<Damage>,
    /// Those whose header is gone, and with it all that they hold.
    lost: Vec<SegmentId>,
    /// Whether nothing is missing at the end of the latest segment in use, by shard that wrote.
    series: BTreeMap<u16, Vec<Start>>,
    floor_ms: u64,
    events: u64,
}

/// One start of the daemon, as far as one shard's files tell.
struct Start {
    series: SeriesId,
    created_ms: u64,
    is_complete: bool,
}

impl Recovery {
    /// Nothing read yet, for a daemon of so many shards.
    pub fn new(shards: usize, home: fn(&str, usize) -> usize) -> Recovery {
        Recovery {
            indexes: (0..shards).map(|_| Index::default()).collect(),
            home,
            segments: BTreeMap::new(),
            afters: HashMap::new(),
            superseded: HashSet::new(),
            damage: Vec::new(),
            lost: Vec::new(),
            series: BTreeMap::new(),
            floor_ms: 0,
            events: 0,
        }
    }

    /// Takes a segment in; those of a shard in the order of their numbers.
    pub fn add(&mut self, id: SegmentId, data: &[u8]) {
        let shards = self.indexes.len();
        let (mut last_ms, mut has_ended) = (0, None);
        let (mut damage, mut after, mut corrupt_since) = (Vec::new(), None, None);
        let mut channels: HashMap<Box<str>, (usize, Arc<str>)> = HashMap::new();
        let header = scan(data, |found| match found {
            Found::After(found) => {
                has_ended = Some(false);
                // What lies before it cannot have come later.
                if found.previous.is_none_or(|(number, _)| number < id.number) {
                    after = Some(found);
                }
            }
            Found::Event(event, from, to) => {
                let serial = event.serial;
                let (home, channel) = channels
                    .entry(event.channel.into())
                    .or_insert_with(|| ((self.home)(event.channel, shards), event.channel.into()));
                let (channel, is_awaited) = (Arc::clone(channel), event.is_awaited);
                self.indexes[*home].note(id, &Note { channel, serial, from, to, is_awaited });
                self.events += 1;
                last_ms = last_ms.max(serial.time_ms());
                has_ended = Some(false);
                if corrupt_since.take().is_some() {
                    self.floor_ms = self.floor_ms.max(serial.time_ms());
                }
            }
            Found::End => has_ended = Some(true),
            Found::Corrupt { from, .. } => {
                damage.push(Damage { segment: id, from, kind: DamageKind::Corrupt });
                corrupt_since = Some(from);
            }
            Found::Torn { from } => {
                damage.push(Damage { segment: id, from, kind: DamageKind::Torn });
                has_ended = Some(false);
            }
        });
        let Some((Header { series, salt, created_ms }, end)) = header else {
            if data.iter().any(|&byte| byte != 0) {
                self.damage.push(Damage { segment: id, from: 0, kind: DamageKind::Corrupt });
            }
            // A file without a beginning: made when the end came, or worse. Kept for whoever looks.
            if data.iter().skip(Header::BYTES).any(|&byte| byte != 0) {
                self.lost.push(id);
            }
            return;
        };
        self.damage.extend(damage);
        if corrupt_since.is_some() {
            // No event behind it says how late it is; whatever comes later is.
            self.floor_ms = u64::MAX;
        }
        let bytes = end.into();
        self.segments.insert(id, Known { bytes, created_ms, last_ms, key: (series, salt) });
        if let Some(after) = after {
            self.supersede(id, series, &after);
            self.afters.insert(id, after);
        }
        let starts = self.series.entry(id.shard).or_default();
        match starts.last_mut() {
            Some(start) if start.series == series => {
                // One that was made and not used says nothing.
                start.is_complete = has_ended.unwrap_or(start.is_complete);
            }
            // Unless it says so itself: what nobody waits for may have been told of and not written yet.
            _ => starts.push(Start { series, created_ms, is_complete: has_ended == Some(true) }),
        }
    }

    /// Forgets what a segment holds again, because it was not sure to be kept where it was written first:
    /// everything of that start behind the end of the segment before it.
    fn supersede(&mut self, id: SegmentId, series: SeriesId, after: &After) {
        let start = after.previous.map_or(0, |(number, _)| number);
        let from = SegmentId { number: start, ..id };
        let earlier = self.segments.range(from..id).filter(|(_, known)| known.key.0 == series);
        let earlier: Vec<SegmentId> = earlier.map(|(earlier, _)| *earlier).collect();
        for earlier in earlier {
            let kept = after.previous.filter(|(number, _)| *number == earlier.number);
            let bytes = kept.map_or(0, |(_, bytes)| bytes);
            self.indexes.iter_mut().for_each(|index| index.cut(earlier, bytes));
            if kept.is_none() {
                self.superseded.insert(earlier);
                self.damage.retain(|damage| damage.segment != earlier);
            }
        }
    }

    /// What the shards begin with, and what there was to find: events, and damage.
    pub fn finish(mut self, now_ms: u64) -> (Vec<Recovered>, u64, Vec<Damage>) {
        let mut past = Past { floor_ms: self.floor_ms.min(now_ms), ..Past::default() };
        for (id, after) in &self.afters {
            past.reached_ms = past.reached_ms.max(after.reached_ms);
            let Some((number, bytes)) = after.previous else { continue };
            if self.superseded.contains(id) {
                continue;
            }
            let previous = SegmentId { number, ..*id };
            // What was written to it is not all there.
            if self.segments.get(&previous).is_some_and(|known| known.bytes < u64::from(bytes)) {
                past.floor_ms = past.floor_ms.max(after.reached_ms.min(now_ms));
                let torn = self.damage.iter_mut().find(|damage| damage.segment == previous);
                match torn {
                    Some(damage) => damage.kind = DamageKind::Corrupt,
                    None => self.damage.push(Damage {
                        segment: previous,
                        from: self.segments[&previous].bytes as u32,
                        kind: DamageKind::Corrupt,
                    }),
                }
            } else {
                // The end of a segment that was given up, whose records were written again.
                self.damage.retain(|damage| {
                    damage.segment != previous
                        || damage.kind != DamageKind::Torn
                        || damage.from < bytes
                });
            }
        }
        for lost in &self.lost {
            // What comes next of that shard says how late it may have been.
            let next = self.segments.range(lost..).next().filter(|(id, _)| id.shard == lost.shard);
            let reached_ms = next.map_or(u64::MAX, |(id, known)| {
                let after = self.afters.get(id).map_or(u64::MAX, |after| after.reached_ms);
                after.max(known.created_ms)
            });
            past.floor_ms = past.floor_ms.max(reached_ms.min(now_ms));
        }
        for (&shard, starts) in &self.series {
            let first = SegmentId::first_of(shard)..SegmentId::first_of(shard + 1);
            // What lay before the oldest is gone, unless that is the first of all.
            let oldest = self.segments.range(first).next().filter(|(id, _)| id.number > 0);
            if let Some((id, known)) = oldest {
                let reached_ms = self.afters.get(id).map(|after| after.reached_ms);
                past.floor_ms = past.floor_ms.max(reached_ms.unwrap_or(known.created_ms));
            }
            past.series.extend(starts.iter().map(|start| start.series));
            for (at, start) in starts.iter().enumerate().filter(|(_, start)| !start.is_complete) {
                // The clock may have gone back since.
                let end_ms = starts.get(at + 1).map_or(now_ms, |next| next.created_ms);
                past.unawaited_floor_ms = past.unawaited_floor_ms.max(end_ms.max(start.created_ms));
            }
        }
        let latest = self.segments.values().map(|known| known.last_ms).max().unwrap_or(0);
        past.reached_ms = past.reached_ms.max(latest);
        let past = Arc::new(past);
        let recovered = self.indexes.into_iter().map(|mut index| {
            index.sort();
            Recovered { index, segments: self.segments.clone(), past: Arc::clone(&past) }
        });
        (recovered.collect(), self.events, self.damage)
    }
}
