//! Where the events of each channel lie. Sparse: one entry for all events of a channel that begin in the
//! same block of a segment.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use super::Safety;
use super::segment::SegmentId;
use crate::ably::{ChannelSerial, Direction};

/// Events of a channel that begin in the same stretch of this many bytes share an entry.
const BLOCK_BYTES: u32 = 16 << 10;

/// Bytes of one read, unless one entry is longer.
const READ_BYTES_MAX: u32 = 256 << 10;

/// Channels whose entries of a removed segment are forgotten in one go.
const FORGET_CHANNELS: usize = 1024;

/// Events of one channel in one block, and what lies between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub from: u32,
    pub to: u32,
    /// Of the first of them.
    pub first: ChannelSerial,
}

/// Events of one channel in one segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub segment: SegmentId,
    pub last: ChannelSerial,
    /// For its last event.
    pub awaits: Option<Safety>,
    /// At least one, in order.
    pub runs: Vec<Run>,
}

impl Part {
    fn first(&self) -> ChannelSerial {
        self.runs[0].first
    }

    /// Of the first event that is noted.
    pub fn new(segment: SegmentId, place: Run, awaits: Option<Safety>) -> Part {
        Part { segment, last: place.first, awaits, runs: vec![place] }
    }

    /// Notes an event behind the others; true if that takes another run.
    pub fn note(&mut self, place: Run, awaits: Option<Safety>) -> bool {
        (self.last, self.awaits) = (place.first, awaits);
        let last = self.runs.last_mut().expect("at least one");
        if last.from / BLOCK_BYTES == place.from / BLOCK_BYTES {
            last.to = place.to;
            return false;
        }
        self.runs.push(place);
        true
    }
}

/// A stretch of a segment to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    pub segment: SegmentId,
    pub from: u32,
    pub to: u32,
}

/// An event's place, to be noted once it is written.
#[derive(Clone, Debug)]
pub(super) struct Note {
    pub channel: Arc<str>,
    pub serial: ChannelSerial,
    pub from: u32,
    pub to: u32,
    pub awaits: Option<Safety>,
}

/// Which events of a channel to read; bounds in time are inclusive.
#[derive(Clone, Debug)]
pub struct Query {
    /// App and name.
    pub channel: Arc<str>,
    /// Behind this one.
    pub after: Option<ChannelSerial>,
    /// Up to this one.
    pub until: Option<ChannelSerial>,
    /// Not before this time, in milliseconds since the Unix epoch.
    pub start_ms: u64,
    /// Not after this time.
    pub end_ms: u64,
    /// At which end to begin.
    pub direction: Direction,
    /// As many events as add this many messages to the history, or a few more.
    pub messages_max: u32,
    /// As many bytes, or a few more.
    pub bytes_max: u64,
}

impl Query {
    /// Everything that is kept of a channel.
    pub fn all_of(channel: Arc<str>) -> Query {
        Query {
            channel,
            after: None,
            until: None,
            start_ms: 0,
            end_ms: u64::MAX,
            direction: Direction::Forwards,
            messages_max: u32::MAX,
            bytes_max: u64::MAX,
        }
    }

    pub(super) fn wants(&self, serial: &ChannelSerial, timestamp_ms: u64) -> bool {
        self.after.is_none_or(|after| *serial > after)
            && self.until.is_none_or(|until| *serial <= until)
            && (self.start_ms..=self.end_ms).contains(&timestamp_ms)
    }

    /// Whether there may be something wanted from `first` on and before `behind`. Serials run ahead of
    /// the clock at most, so one tells the earliest time of what lies behind it only.
    fn may_want(&self, first: &ChannelSerial, behind: Option<&ChannelSerial>) -> bool {
        let is_passed = |behind: &ChannelSerial| {
            self.after.is_some_and(|after| *behind <= after) || behind.time_ms() < self.start_ms
        };
        !behind.is_some_and(is_passed) && self.until.is_none_or(|until| *first <= until)
    }
}

/// What there is of a segment.
#[derive(Default)]
struct Held {
    /// Those that have events in it.
    channels: Vec<Arc<str>>,
    /// Of all of these.
    runs: usize,
}

impl Held {
    /// What it takes, beside the names.
    fn bytes(&self) -> usize {
        self.channels.len() * (size_of::<Part>() + size_of::<Arc<str>>())
            + self.runs * size_of::<Run>()
    }
}

/// See the module text.
#[derive(Default)]
pub(super) struct Index {
    channels: HashMap<Arc<str>, VecDeque<Part>>,
    of_segments: HashMap<SegmentId, Held>,
    /// Of all segments of a shard, the sum of what they take.
    bytes_of_shards: BTreeMap<u16, usize>,
    /// Of segments that are gone, with channels that may still have entries of it.
    forgetting: VecDeque<(SegmentId, Vec<Arc<str>>)>,
    runs: usize,
}

impl Index {
    /// Whether anything is kept of a channel.
    pub fn has(&self, channel: &str) -> bool {
        self.channels.contains_key(channel)
    }

    /// Entries, for the one who wants to know what it takes.
    pub fn len(&self) -> usize {
        self.runs
    }

    /// Bytes that the entries of a segment take, about.
    pub fn bytes_of(&self, segment: SegmentId) -> u64 {
        self.of_segments.get(&segment).map_or(0, Held::bytes) as u64
    }

    /// The same of all segments of the shards that are wanted.
    pub fn bytes_of_shards(&self, is_wanted: impl Fn(u16) -> bool) -> u64 {
        let wanted = self.bytes_of_shards.iter().filter(|(shard, _)| is_wanted(**shard));
        wanted.map(|(_, bytes)| *bytes as u64).sum()
    }

    /// Notes that a segment holds more.
    fn hold(&mut self, segment: SegmentId, channel: Option<Arc<str>>, runs: usize) {
        let held = self.of_segments.entry(segment).or_default();
        let before = held.bytes();
        held.channels.extend(channel);
        held.runs += runs;
        *self.bytes_of_shards.entry(segment.shard).or_default() += held.bytes() - before;
        self.runs += runs;
    }

    /// The newest event of a channel, and what was waited for before it was told.
    pub fn newest(&self, channel: &str) -> Option<(ChannelSerial, Option<Safety>)> {
        let last = self.channels.get(channel)?.back()?;
        Some((last.last, last.awaits))
    }

    /// Notes an event that lies behind all others of its channel.
    pub fn note(&mut self, segment: SegmentId, note: &Note) {
        let Note { channel, serial, from, to, awaits } = note;
        let place = Run { from: *from, to: *to, first: *serial };
        let last = self.channels.get_mut(channel).and_then(VecDeque::back_mut);
        match last.filter(|part| part.segment == segment) {
            Some(part) => {
                if part.note(place, *awaits) {
                    self.hold(segment, None, 1);
                }
            }
            None => self.add(channel, Part::new(segment, place, *awaits)),
        }
    }

    /// Takes in what a segment holds of a channel, behind what is there of that.
    pub fn add(&mut self, channel: &str, part: Part) {
        let channel = match self.channels.get_key_value(channel) {
            Some((known, _)) => Arc::clone(known),
            None => channel.into(),
        };
        let (segment, runs) = (part.segment, part.runs.len());
        // Many channels have events in one segment alone.
        let parts = self.channels.entry(Arc::clone(&channel));
        let parts = parts.or_insert_with(|| VecDeque::with_capacity(1));
        if parts.back().is_some_and(|last| last.segment == segment) {
            // Of a seal that somebody made up.
            return;
        }
        parts.push_back(part);
        self.hold(segment, Some(channel), runs);
    }

    /// What there is of `count` channels in a segment, of which so many are passed over. `None`: there are no
    /// more.
    pub fn parts_of(
        &self,
        segment: SegmentId,
        passed: usize,
        count: usize,
    ) -> Option<impl Iterator<Item = (&str, &Part)>> {
        let channels = &self.of_segments.get(&segment)?.channels;
        let channels = channels.get(passed..).filter(|it| !it.is_empty())?;
        Some(channels.iter().take(count).filter_map(move |channel| {
            let parts = self.channels.get(channel)?.iter();
            Some((&**channel, parts.rev().find(|part| part.segment == segment)?))
        }))
    }

    /// Puts the parts of each channel in order, after those of several shards were noted one shard after
    /// the other.
    pub fn sort(&mut self) {
        for parts in self.channels.values_mut() {
            parts.make_contiguous().sort_by_key(Part::first);
        }
    }

    /// Forgets what was noted from byte `from` of a segment on, because it is written again elsewhere.
    pub fn cut(&mut self, segment: SegmentId, from: u32) {
        let Some(held) = self.of_segments.get_mut(&segment) else { return };
        let before_bytes = held.bytes();
        for channel in &held.channels {
            let Some(parts) = self.channels.get_mut(channel) else { continue };
            let Some(at) = parts.iter().rposition(|part| part.segment == segment) else { continue };
            let part = &mut parts[at];
            let before = part.runs.len();
            part.runs.retain(|run| run.from < from);
            self.runs -= before - part.runs.len();
            held.runs -= before - part.runs.len();
            match part.runs.last_mut() {
                Some(run) => run.to = run.to.min(from),
                None => drop(parts.remove(at)),
            }
            if parts.is_empty() {
                self.channels.remove(channel);
            }
        }
        let gone_bytes = before_bytes - held.bytes();
        self.give_back(segment, gone_bytes);
    }

    fn give_back(&mut self, segment: SegmentId, bytes: usize) {
        let of_shard = self.bytes_of_shards.get_mut(&segment.shard).expect("it holds something");
        *of_shard -= bytes;
        if *of_shard == 0 {
            self.bytes_of_shards.remove(&segment.shard);
        }
    }

    /// Forgets a segment that is gone; some channels at a time, see [`go_on`](Self::go_on).
    pub fn forget(&mut self, segment: SegmentId) {
        if let Some(held) = self.of_segments.remove(&segment) {
            self.give_back(segment, held.bytes());
            self.forgetting.push_back((segment, held.channels));
        }
    }

    /// Goes on forgetting. True when there is more.
    pub fn go_on(&mut self) -> bool {
        let Some((segment, channels)) = self.forgetting.front_mut() else { return false };
        let rest = channels.split_off(channels.len().saturating_sub(FORGET_CHANNELS));
        for channel in rest {
            let Some(parts) = self.channels.get_mut(&channel) else { continue };
            let gone = parts.iter().filter(|part| part.segment == *segment);
            self.runs -= gone.map(|part| part.runs.len()).sum::<usize>();
            parts.retain(|part| part.segment != *segment);
            if parts.is_empty() {
                self.channels.remove(&channel);
            }
        }
        if channels.is_empty() {
            self.forgetting.pop_front();
        }
        !self.forgetting.is_empty()
    }

    /// What has to be read for a query, in the order of reading.
    pub fn plan(&self, query: &Query) -> VecDeque<Extent> {
        let mut plan: VecDeque<Extent> = VecDeque::new();
        let Some(parts) = self.channels.get(&query.channel) else { return plan };
        for (at, part) in parts.iter().enumerate() {
            let behind = parts.get(at + 1).map(Part::first);
            if query.after.is_some_and(|after| part.last <= after) {
                continue;
            }
            for (at, run) in part.runs.iter().enumerate() {
                let behind = part.runs.get(at + 1).map(|next| next.first).or(behind);
                if !query.may_want(&run.first, behind.as_ref()) {
                    continue;
                }
                let segment = part.segment;
                match plan.back_mut() {
                    Some(last)
                        if last.segment == segment
                            && run.from.saturating_sub(last.to) <= BLOCK_BYTES
                            && run.to - last.from <= READ_BYTES_MAX =>
                    {
                        last.to = run.to;
                    }
                    _ => plan.push_back(Extent { segment, from: run.from, to: run.to }),
                }
            }
        }
        if query.direction == Direction::Backwards {
            plan.make_contiguous().reverse();
        }
        plan
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ably::SeriesId;

    fn serial(time_ms: u64) -> ChannelSerial {
        ChannelSerial::from_parts(time_ms, 0, SeriesId::new([1; 10])).expect("a counter")
    }

    fn segment(number: u64) -> SegmentId {
        SegmentId { shard: 0, number }
    }

    fn query(after: Option<u64>, until: Option<u64>, direction: Direction) -> Query {
        let (after, until) = (after.map(serial), until.map(serial));
        Query { after, until, direction, ..Query::all_of("a".into()) }
    }

    /// Three segments with an event of `a` every 1000 bytes and one of `b` behind each.
    fn index() -> (Index, Vec<(SegmentId, Note)>) {
        let mut index = Index::default();
        let mut notes = Vec::new();
        for number in 0..3 {
            for at in 0..100u32 {
                for (channel, offset) in [("a", 0), ("b", 500)] {
                    let from = at * 1000 + offset;
                    let serial = serial(1 + number * 100 + u64::from(at));
                    let channel = channel.into();
                    let awaits = Some(Safety::Written);
                    let note = Note { channel, serial, from, to: from + 500, awaits };
                    index.note(segment(number), &note);
                    notes.push((segment(number), note));
                }
            }
        }
        (index, notes)
    }

    /// The times of all events of `a` that lie in a plan.
    fn times(plan: &VecDeque<Extent>, notes: &[(SegmentId, Note)]) -> Vec<u64> {
        let within = plan.iter().flat_map(|extent| {
            notes.iter().filter(move |(segment, note)| {
                let is_in = note.from >= extent.from && note.to <= extent.to;
                *segment == extent.segment && is_in && &*note.channel == "a"
            })
        });
        within.map(|(_, note)| note.serial.time_ms()).collect()
    }

    #[test]
    fn a_plan_holds_all_that_is_wanted_and_little_else() {
        let (index, notes) = index();
        assert!(index.len() < 50, "{}", index.len());
        let bytes = index.bytes_of(segment(0)) as usize;
        assert_eq!(3 * (bytes - 2 * (size_of::<Part>() + 16)), index.len() * size_of::<Run>());
        for (after, until) in [(None, None), (Some(0), Some(300)), (Some(150), Some(160))] {
            let plan = index.plan(&query(after, until, Direction::Forwards));
            let times = times(&plan, &notes);
            let wanted = after.unwrap_or(0) + 1..=until.unwrap_or(300);
            assert!(wanted.clone().all(|time| times.contains(&time)), "{after:?} {until:?}");
            assert!(times.is_sorted());
            let count = wanted.count();
            assert!(times.len() <= count + 40, "{} for {count}", times.len());
            let mut reversed = index.plan(&query(after, until, Direction::Backwards));
            reversed.make_contiguous().reverse();
            assert_eq!(reversed, plan);
        }
        assert!(index.plan(&query(Some(300), None, Direction::Forwards)).is_empty());
    }

    #[test]
    fn a_removed_segment_is_forgotten_and_a_cut_one_from_there_on() {
        let (mut index, notes) = index();
        index.forget(segment(0));
        while index.go_on() {}
        let all = query(None, None, Direction::Forwards);
        assert_eq!(times(&index.plan(&all), &notes), (101..=300).collect::<Vec<_>>());
        let cut = 40_000;
        index.cut(segment(2), cut);
        assert_eq!(times(&index.plan(&all), &notes), (101..=240).collect::<Vec<_>>());
        let behind = notes.iter().find(|(id, note)| *id == segment(2) && note.from >= cut);
        index.note(segment(3), &behind.expect("it was cut").1);
        assert_eq!(index.newest("a").map(|(serial, _)| serial), Some(serial(241)));
        for number in [1, 2, 3] {
            index.forget(segment(number));
        }
        while index.go_on() {}
        assert!(!index.has("a") && !index.has("b"));
        assert_eq!((index.len(), index.bytes_of(segment(2))), (0, 0));
    }

    #[test]
    fn the_sum_of_a_shard_is_that_of_its_segments() {
        let mut index = Index::default();
        let own = |number| SegmentId { shard: 1, number };
        let agrees = |index: &Index| {
            let sum = |name: fn(u64) -> SegmentId| (0..3).map(|at| index.bytes_of(name(at))).sum();
            let sums: [u64; 2] = [sum(segment), sum(|number| SegmentId { shard: 1, number })];
            let kept = [0, 1].map(|shard| index.bytes_of_shards(|it| it == shard));
            assert_eq!(kept, sums);
            assert_eq!(index.bytes_of_shards(|_| true), sums[0] + sums[1]);
        };
        for (number, at) in (0..3).flat_map(|number| (0..50).map(move |at| (number, at))) {
            for (channel, id) in [("a", segment(number)), ("b", own(number)), ("c", own(number))] {
                let (from, serial) = (at * 1000, serial(1 + number * 100 + u64::from(at)));
                let channel = channel.into();
                index.note(id, &Note { channel, serial, from, to: from + 500, awaits: None });
            }
            agrees(&index);
        }
        index.cut(own(2), 20_000);
        agrees(&index);
        index.cut(segment(2), 0);
        agrees(&index);
        for id in (0..3).flat_map(|number| [segment(number), own(number)]) {
            index.forget(id);
            agrees(&index);
        }
        while index.go_on() {}
        assert_eq!((index.len(), index.bytes_of_shards(|_| true)), (0, 0));
    }
}
