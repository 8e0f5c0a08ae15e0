//! What earlier starts of the daemon have left behind.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::convert::Infallible;
use std::sync::Arc;

use super::index::{Index, Part, Run};
use super::seal::{self, Seal};
use super::segment::{After, Beginning, BootId, Found, Header, SegmentId, scan};
use crate::ably::SeriesId;

/// A segment that is there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    /// Of the file, without space that was reserved.
    pub bytes: u64,
    pub created_ms: u64,
    /// The latest time of a serial in it.
    pub last_ms: u64,
    pub events: u32,
    /// Whether anything was ever written to it, and is whole.
    pub is_used: bool,
    pub key: (SeriesId, u32),
}

/// What all journals of the daemon know of earlier starts.
#[derive(Debug, Default)]
pub(super) struct Past {
    /// Their serials are understood.
    pub series: Vec<SeriesId>,
    /// Serials up to this time may be of events that are gone.
    pub floor_ms: u64,
    /// The same for channels whose events were to be written and not synchronised.
    pub unsynced_floor_ms: u64,
    /// The same for channels whose events nobody waited for.
    pub unawaited_floor_ms: u64,
    /// Whether the latest start came to its end with the host, and not in good order.
    pub has_host_ended: bool,
    /// Of this start.
    pub beginning: Beginning,
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
    /// It is not there, although one before it is. The same as damage to all that it held.
    Missing,
}

/// What [`Recovery::add_file`] has found.
#[derive(Debug, PartialEq, Eq)]
pub enum Added {
    /// Nothing at all: it was being made when the end came.
    Nothing,
    /// It was sealed, and no more of it was read than what that says.
    Sealed,
    /// It had to be read as a whole.
    Read {
        /// From which byte on the file is to have what else, and to end with that, so that the next start needs
        /// not do it again.
        seal: Option<(u64, Vec<u8>)>,
    },
}

/// What a segment holds.
struct Contents {
    header: Header,
    bytes: u64,
    seal: Seal,
}

/// One shard's part of what was found.
pub struct Recovered {
    pub(super) index: Index,
    pub(super) segments: BTreeMap<SegmentId, Known>,
    pub(super) past: Arc<Past>,
}

impl Recovered {
    /// Whether the host has ended meanwhile and may have taken what was written and not synchronised.
    pub fn has_host_ended(&self) -> bool {
        self.past.has_host_ended
    }
}

/// Reads segments one after the other, and then is what the shards begin with.
pub struct Recovery {
    boot: BootId,
    indexes: Vec<Index>,
    /// The shard that a channel is at home on.
    home: fn(&str, usize) -> usize,
    segments: BTreeMap<SegmentId, Known>,
    afters: HashMap<SegmentId, After>,
    /// Segments that later ones have come after.
    wanted: BTreeSet<SegmentId>,
    /// Everything in them was written again.
    superseded: HashSet<SegmentId>,
    damage: Vec<Damage>,
    /// Those whose header is gone, and with it all that they hold.
    lost: Vec<SegmentId>,
    /// Those that were being made when the end came, so that nothing was ever in them.
    unmade: BTreeSet<SegmentId>,
    /// By shard that wrote.
    starts: BTreeMap<u16, Vec<Start>>,
    floor_ms: u64,
    events: u64,
}

/// One start of the daemon, as far as one shard's files tell.
struct Start {
    series: SeriesId,
    /// When its first file was made, if it does not tell when it began.
    began_ms: u64,
    beginning: Option<Beginning>,
    /// The latest time that is known of it: of a serial, or when a file was made.
    latest_ms: u64,
    /// Whether nothing is missing at the end of its latest segment in use.
    is_complete: bool,
}

impl Start {
    /// The starts of the daemon that are known to have come behind it, and to have synchronised all that it left
    /// before they told anything to anybody: when they began, and on which boot. `next` is of the same shard.
    fn followers<'a>(
        &'a self,
        next: Option<&'a Start>,
        all: &'a [Beginning],
    ) -> impl Iterator<Item = (u64, BootId)> + 'a {
        // The daemon may have had fewer shards then.
        let later = all.iter().filter(|it| self.beginning.is_some_and(|own| it.at_ms > own.at_ms));
        let next = next.map(|next| (next.began_ms, next.boot()));
        next.into_iter().chain(later.map(|it| (it.at_ms, it.boot)))
    }

    fn boot(&self) -> BootId {
        self.beginning.map_or(BootId::UNKNOWN, |it| it.boot)
    }
}

impl Recovery {
    /// Nothing read yet, for a daemon of so many shards, on a host in the time of `boot`.
    pub fn new(shards: usize, home: fn(&str, usize) -> usize, boot: BootId) -> Recovery {
        Recovery {
            boot,
            indexes: (0..shards).map(|_| Index::default()).collect(),
            home,
            segments: BTreeMap::new(),
            afters: HashMap::new(),
            wanted: BTreeSet::new(),
            superseded: HashSet::new(),
            damage: Vec::new(),
            lost: Vec::new(),
            unmade: BTreeSet::new(),
            starts: BTreeMap::new(),
            floor_ms: 0,
            events: 0,
        }
    }

    /// Takes a segment in; those of a shard in the order of their numbers.
    pub fn add(&mut self, id: SegmentId, data: &[u8]) {
        let read = |at: u64, count: usize| {
            let rest = &data[(at as usize).min(data.len())..];
            Ok::<_, Infallible>(rest[..count.min(rest.len())].to_vec())
        };
        let Ok(_) = self.add_file(id, data.len() as u64, read);
    }

    /// The same with a file of so many bytes, of which `read` gives some: from which on, and how many. As few are
    /// read as can be.
    ///
    /// # Errors
    /// Those of `read`.
    pub fn add_file<E>(
        &mut self,
        id: SegmentId,
        bytes: u64,
        mut read: impl FnMut(u64, usize) -> Result<Vec<u8>, E>,
    ) -> Result<Added, E> {
        let head = read(0, Header::BYTES)?;
        let tail_at = bytes.saturating_sub(Seal::BYTES as u64);
        if let Some((header, _)) = Header::of_file(&head)
            && let Some(seal) = Seal::of_file(&header, &read(tail_at, Seal::BYTES)?, bytes)
            && seal.after.is_none_or(|after| after.is_before(id))
        {
            let data = read(seal.at.into(), (bytes - u64::from(seal.at)) as usize)?;
            if let Some(parts) = seal::read_parts(id, &header, &seal, &data) {
                parts.into_iter().for_each(|(channel, part)| self.add_part(channel, part));
                self.take_in(id, &Contents { header, bytes, seal });
                return Ok(Added::Sealed);
            }
        }
        let data = read(0, bytes as usize)?;
        Ok(match data.iter().any(|&byte| byte != 0) {
            true => Added::Read { seal: self.add_read(id, &data) },
            false => {
                self.unmade.insert(id);
                Added::Nothing
            }
        })
    }

    /// Takes a segment in that was read as a whole; returns what seals it, unless it is damaged or was never
    /// used.
    fn add_read(&mut self, id: SegmentId, data: &[u8]) -> Option<(u64, Vec<u8>)> {
        let mut found = Seal { at: 0, after: None, has_ended: None, last_ms: 0, events: 0 };
        let (mut damage, mut corrupt_since) = (Vec::new(), None);
        let mut parts: Vec<(&str, Part)> = Vec::new();
        let mut numbers: HashMap<&str, usize> = HashMap::new();
        let mut floor_ms = 0;
        let header = scan(data, |it| match it {
            Found::After(after) => {
                found.has_ended = Some(false);
                if after.is_before(id) {
                    found.after = Some(after);
                }
            }
            Found::Event(event, from, to) => {
                let place = Run { from, to, first: event.serial };
                match numbers.get(event.channel) {
                    Some(&number) => drop(parts[number].1.note(place, event.awaits)),
                    None => {
                        numbers.insert(event.channel, parts.len());
                        parts.push((event.channel, Part::new(id, place, event.awaits)));
                    }
                }
                found.events += 1;
                found.last_ms = found.last_ms.max(event.serial.time_ms());
                found.has_ended = Some(false);
                if corrupt_since.take().is_some() {
                    floor_ms = floor_ms.max(event.serial.time_ms());
                }
            }
            Found::End => found.has_ended = Some(true),
            Found::Seal(seal) => {
                // What was damaged of it is no loss.
                damage.retain(|damage: &Damage| damage.from < seal.at);
                corrupt_since.take_if(|from| *from >= seal.at);
            }
            Found::Corrupt { from, .. } => {
                damage.push(Damage { segment: id, from, kind: DamageKind::Corrupt });
                corrupt_since.get_or_insert(from);
            }
            Found::Torn { from } => {
                damage.push(Damage { segment: id, from, kind: DamageKind::Torn });
                found.has_ended = Some(false);
            }
        });
        let Some((header, end)) = header else {
            self.damage.push(Damage { segment: id, from: 0, kind: DamageKind::Corrupt });
            // A file without a beginning: made when the end came, or worse. Kept for whoever looks.
            match data.iter().skip(Header::BYTES).any(|&byte| byte != 0) {
                true => self.lost.push(id),
                false => drop(self.unmade.insert(id)),
            }
            return None;
        };
        if corrupt_since.is_some() {
            // No event behind it says how late it is; whatever comes later is.
            floor_ms = u64::MAX;
        }
        self.floor_ms = self.floor_ms.max(floor_ms);
        found.at = end;
        let is_whole = damage.is_empty() && found.has_ended.is_some();
        let seal = is_whole.then(|| {
            let mut out = Vec::new();
            for parts in parts.chunks(seal::CHANNELS_MAX) {
                let parts = parts.iter().map(|(channel, part)| (*channel, part));
                seal::write_parts(header.salt, parts, &mut out);
            }
            found.write(header.salt, &mut out);
            (u64::from(end), out)
        });
        self.damage.extend(damage);
        parts.into_iter().for_each(|(channel, part)| self.add_part(channel, part));
        self.take_in(id, &Contents { header, bytes: end.into(), seal: found });
        seal.filter(|(at, seal)| seal.len() as u64 <= at / 2)
    }

    fn add_part(&mut self, channel: &str, part: Part) {
        let home = (self.home)(channel, self.indexes.len());
        self.indexes[home].add(channel, part);
    }

    /// Takes in what a segment says of itself, its channels aside.
    fn take_in(&mut self, id: SegmentId, contents: &Contents) {
        let Contents { header, bytes, seal } = contents;
        let Header { series, salt, created_ms, before, beginning } = *header;
        let Seal { after, has_ended, last_ms, events, .. } = *seal;
        self.events += u64::from(events);
        // One whose first record was torn tells as little as one that has none.
        let (is_used, key) = (after.is_some() || events > 0, (series, salt));
        self.segments
            .insert(id, Known { bytes: *bytes, created_ms, last_ms, events, is_used, key });
        let before = before.filter(|before| *before < id.number);
        let before = before.or(after.and_then(|after| after.previous).map(|(number, _)| number));
        self.wanted.extend(before.map(|number| SegmentId { number, ..id }));
        if let Some(after) = after {
            self.supersede(id, series, &after);
            self.afters.insert(id, after);
        }
        let starts = self.starts.entry(id.shard).or_default();
        let latest_ms = last_ms.max(created_ms);
        match starts.last_mut() {
            Some(start) if start.series == series => {
                // One that was made and not used says nothing.
                start.is_complete = has_ended.unwrap_or(start.is_complete);
                start.latest_ms = start.latest_ms.max(latest_ms);
            }
            // Unless it says so itself: what nobody waits for may have been told of and not written yet.
            _ => starts.push(Start {
                series,
                began_ms: beginning.map_or(created_ms, |it| it.at_ms),
                beginning,
                latest_ms,
                is_complete: has_ended == Some(true),
            }),
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

    /// Notes segments that are not there, although one before them is: they have not gone with age.
    fn find_missing(&mut self) {
        let there: BTreeSet<SegmentId> = self.segments.keys().chain(&self.lost).copied().collect();
        for segment in self.wanted.difference(&there).copied() {
            if there.range(segment.before()).next().is_none() {
                continue;
            }
            // One without a beginning was noted already.
            if !self.damage.iter().any(|damage| damage.segment == segment) {
                self.damage.push(Damage { segment, from: 0, kind: DamageKind::Missing });
            }
            self.lost.push(segment);
        }
    }

    /// What the shards begin with, and what there was to find: events, and damage.
    pub fn finish(mut self, now_ms: u64) -> (Vec<Recovered>, u64, Vec<Damage>) {
        let mut past = Past { floor_ms: self.floor_ms.min(now_ms), ..Past::default() };
        for (id, after) in &self.afters {
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
        self.find_missing();
        // What comes next of that shard says how late something may have been.
        let reached_by = |lost: &SegmentId| {
            let next = self.segments.range(lost.and_behind()).find_map(|(id, known)| {
                Some(self.afters.get(id)?.reached_ms.max(known.created_ms))
            });
            next.unwrap_or(u64::MAX).min(now_ms)
        };
        for lost in &self.lost {
            past.floor_ms = past.floor_ms.max(reached_by(lost));
        }
        let beginnings = self.starts.values().flatten().filter_map(|start| start.beginning);
        let beginnings: Vec<Beginning> = beginnings.collect();
        past.beginning = Beginning { boot: self.boot, at_ms: now_ms };
        for (&shard, starts) in &self.starts {
            // What lay before the oldest is gone, unless that is the first of all that were ever made.
            let is_first = |id: &SegmentId| {
                let unmade = self.unmade.range(id.before());
                unmade.filter(|it| !self.wanted.contains(it)).count() as u64 == id.number
            };
            let oldest = self
                .segments
                .range(SegmentId::all_of(shard))
                .next()
                .filter(|(id, _)| !is_first(id));
            if let Some((id, known)) = oldest {
                let reached_ms = match self.afters.get(id) {
                    Some(after) => after.reached_ms,
                    // It was never used, but one before it was.
                    None if self.wanted.range(id.before()).next().is_some() => reached_by(id),
                    None => known.created_ms,
                };
                past.floor_ms = past.floor_ms.max(reached_ms);
            }
            past.series.extend(starts.iter().map(|start| start.series));
            for (at, start) in starts.iter().enumerate().filter(|(_, start)| !start.is_complete) {
                let followers = || start.followers(starts.get(at + 1), &beginnings);
                let next_ms = followers().map(|(at_ms, _)| at_ms).min();
                // The clock may have gone back since.
                let end_ms = next_ms.unwrap_or(now_ms).saturating_sub(1).max(start.latest_ms);
                past.unawaited_floor_ms = past.unawaited_floor_ms.max(end_ms);
                let boots = followers().map(|(_, boot)| boot).chain([self.boot]);
                if !{ boots }.any(|boot| boot.is_surely(start.boot())) {
                    past.unsynced_floor_ms = past.unsynced_floor_ms.max(end_ms);
                    past.has_host_ended |= next_ms.is_none();
                }
            }
        }
        let past = Arc::new(past);
        let recovered = self.indexes.into_iter().map(|mut index| {
            index.sort();
            Recovered { index, segments: self.segments.clone(), past: Arc::clone(&past) }
        });
        (recovered.collect(), self.events, self.damage)
    }
}
