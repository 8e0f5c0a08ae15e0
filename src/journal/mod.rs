//! The journal: events of channels that outlive the process, on the disk of one shard.
//!
//! No I/O here. Events are appended to a batch; [`Journal::poll_command`] says what is to be written,
//! synchronised, read and removed, and [`Journal::handle_done`] takes how it went. One write is under way
//! at a time, and everything that is appended meanwhile goes into the next one. Segments are files of
//! one start of the daemon and one shard, only appended to and removed as a whole. The next segment is
//! made, with its space reserved, while the one before has room left, so that a full disk is noticed
//! before anything that was accepted needs the space.
//!
//! What cannot be written is kept, and written to another segment once that can be made; until then
//! [`Journal::check`] refuses. What somebody waits for is not kept for longer than [`UNCERTAIN_MS_MAX`]:
//! then it is given up, so that those who wait can be told.

mod index;
mod recovery;
mod seal;
mod segment;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use self::index::{Extent, Index, Note};
use self::recovery::{Known, Past};
use self::seal::Seal;
use self::segment::{After, Header, events_of, write_end};
use crate::ably::{ChannelSerial, Direction, SeriesId};
use crate::base::Now;

pub use self::index::Query;
pub use self::recovery::{Added, Damage, DamageKind, Recovered, Recovery};
#[cfg(test)]
pub(crate) use self::segment::last_event;
pub use self::segment::{BootId, Event, SegmentId, Stored};

/// Bytes of one write, unless one event is longer.
const WRITE_BYTES_MAX: usize = 1 << 20;

/// Reads under way at once.
const READS_MAX: usize = 4;

/// Queries that wait for their answers, at most.
const QUERIES_MAX: usize = 1024;

/// Pause before what has failed is tried again, in milliseconds.
const RETRY_MS: u64 = 1000;

/// How long somebody may wait for an event after writing or synchronising it has failed, in milliseconds;
/// with the next try behind that, [`RETRY_MS`] later at most, it is given up. A disk that does not answer
/// at all is not one that fails: what it has been given may yet be written, and is waited for.
const UNCERTAIN_MS_MAX: u64 = 3000;

/// Pause between two looks for segments that are too old, in milliseconds.
const SWEEP_MS: u64 = 1000;

/// No such file.
const ENOENT: i32 = 2;

/// What a shard keeps on disk, and how much waits for that; each bounds memory, disk or time.
#[derive(Clone, Debug)]
pub struct JournalConfig {
    /// Bytes of one file, about.
    pub segment_bytes: u32,
    /// Bytes of events that are not written yet, or not synchronised where that is waited for; less than
    /// a segment.
    pub waiting_bytes_max: u64,
    /// Age at which an event is dropped.
    pub retention: Duration,
    /// Bytes of all files of a shard; beyond it the oldest are dropped.
    pub bytes_max: u64,
    /// Bytes of memory for where events lie, beside the names of channels; beyond it the oldest files are
    /// dropped.
    pub index_bytes_max: u64,
}

impl Default for JournalConfig {
    fn default() -> JournalConfig {
        JournalConfig {
            segment_bytes: 16 << 20,
            waiting_bytes_max: 8 << 20,
            retention: Duration::from_secs(24 * 60 * 60),
            bytes_max: 1 << 30,
            index_bytes_max: 128 << 20,
        }
    }
}

/// How safe an event has to be before anybody hears of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Safety {
    /// The kernel has it: it survives the process.
    Written,
    /// The disk has it: it survives the host.
    Synced,
}

/// What is to be done with files. `Create`, `Write` and `Sync` of one journal come one at a time each; but a
/// `Write` that seals a segment may come beside one with events, of another segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Make the file, reserve space for it, and begin it with these bytes; lasting when done.
    Create {
        /// The file.
        segment: SegmentId,
        /// What it begins with.
        header: Bytes,
        /// Bytes to reserve, where that can be done.
        reserve_bytes: u64,
    },
    /// Write all of the bytes.
    Write {
        /// The file.
        segment: SegmentId,
        /// Where.
        offset: u64,
        /// What.
        bytes: Bytes,
    },
    /// Have the disk take what was written.
    Sync {
        /// The file.
        segment: SegmentId,
    },
    /// Shorten the file: what lies behind could not be written as a whole, and the next start is not to
    /// find parts of it.
    Cut {
        /// The file.
        segment: SegmentId,
        /// Bytes that stay.
        bytes: u64,
    },
    /// Remove the file.
    Remove {
        /// The file.
        segment: SegmentId,
    },
    /// Read part of the file.
    Read {
        /// Names the read.
        query: u64,
        /// The file.
        segment: SegmentId,
        /// From which byte on.
        offset: u64,
        /// How many.
        length: usize,
    },
}

/// How a [`Command`] went; errors are those of the kernel, by number.
#[derive(Clone, Debug)]
pub enum Done {
    /// [`Command::Create`].
    Created(SegmentId, Result<(), i32>),
    /// [`Command::Write`].
    Written(SegmentId, Result<(), i32>),
    /// [`Command::Sync`].
    Synced(SegmentId, Result<(), i32>),
    /// [`Command::Cut`].
    Cut(SegmentId, Result<(), i32>),
    /// [`Command::Remove`].
    Removed(SegmentId, Result<(), i32>),
    /// [`Command::Read`]; fewer bytes where the file ends.
    Read(u64, Result<Vec<u8>, i32>),
}

/// Why nothing more is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The disk is full or fails.
    Failing,
    /// As much waits to be written as may.
    Behind,
}

/// What has come of a query.
#[derive(Debug)]
pub struct Answer {
    /// Which.
    pub query: u64,
    /// What was found, oldest first.
    pub events: Vec<Stored>,
    /// Whether there is nothing else that the query wants.
    pub is_complete: bool,
    /// Whether some may be missing that should be there.
    pub is_damaged: bool,
}

/// An event that will not be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GivenUp {
    /// Its number.
    pub number: u64,
    /// App and name of its channel. Everything behind it that is not kept is given up with it.
    pub channel: Arc<str>,
    /// Its place in the channel's order.
    pub serial: ChannelSerial,
}

/// Something for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Writing fails with this error from now on.
    Failing(i32),
    /// It does not any more.
    Recovered,
    /// A segment cannot be read, with an error or because it is not what was written.
    Unreadable(SegmentId, Option<i32>),
    /// A segment cannot be removed.
    Unremovable(SegmentId, i32),
}

/// How much there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JournalGauges {
    /// Bytes of the files.
    pub disk_bytes: u64,
    /// Bytes that wait to be kept.
    pub waiting_bytes: u64,
    /// Entries of the index.
    pub index_entries: u64,
    /// 1 while writing fails.
    pub failing: u64,
}

/// What was counted since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JournalCounters {
    /// Events appended.
    pub events: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Writes; each takes all events that have waited.
    pub writes: u64,
    /// Synchronisations.
    pub syncs: u64,
    /// Writes, synchronisations and files made that have failed.
    pub failures: u64,
    /// Events that were given up.
    pub given_up: u64,
    /// Bytes read.
    pub read_bytes: u64,
}

/// The segment that is being filled, or the next one.
#[derive(Clone, Copy)]
struct Open {
    id: SegmentId,
    is_made: bool,
}

/// Events that are written together.
struct Batch {
    segment: SegmentId,
    offset: u32,
    bytes: BytesMut,
    /// Bytes at the beginning that belong to the segment, not to events.
    lead: usize,
    /// What those say.
    previous: Option<(u64, u32)>,
    /// Number of the last event before it.
    before: u64,
    /// Number of the last event in it.
    up_to: u64,
    /// Places within the batch, without its lead.
    notes: Vec<Note>,
    /// Of the same events: their numbers, and what somebody waits for.
    awaits: Vec<(u64, Option<Safety>)>,
    wants_sync: bool,
}

impl Batch {
    /// Takes out the events that `takes` wants, given with their numbers; returns them.
    fn take_out(
        &mut self,
        mut takes: impl FnMut(&Note, u64, Option<Safety>) -> bool,
    ) -> Vec<GivenUp> {
        let mut taken = Vec::new();
        let bytes = std::mem::take(&mut self.bytes);
        self.bytes.extend_from_slice(&bytes[..self.lead]);
        let events = &bytes[self.lead..];
        let awaits = std::mem::take(&mut self.awaits);
        for (mut note, (number, awaits)) in std::mem::take(&mut self.notes).into_iter().zip(awaits)
        {
            if takes(&note, number, awaits) {
                taken.push(GivenUp { number, channel: note.channel, serial: note.serial });
                continue;
            }
            let from = (self.bytes.len() - self.lead) as u32;
            self.bytes.extend_from_slice(&events[note.from as usize..note.to as usize]);
            (note.from, note.to) = (from, from + (note.to - note.from));
            self.notes.push(note);
            self.awaits.push((number, awaits));
        }
        taken
    }
}

/// A segment that is full, on the way to its seal.
struct Sealing {
    segment: SegmentId,
    after: After,
    /// Channels that are written down.
    channels: usize,
    bytes: Vec<u8>,
    /// Of the same, once it is being written.
    length: u64,
    stage: Stage,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Its channels are being written down.
    Listing,
    /// It is to be written.
    Listed,
    /// It is being written.
    Writing,
}

/// What was written and waits for a synchronisation.
struct Unsynced {
    batch: Batch,
    /// The same bytes, frozen for the write.
    bytes: Bytes,
}

/// A query that is being answered.
struct Reading {
    query: Query,
    /// What is yet to be read.
    plan: VecDeque<Extent>,
    /// Events that have to be written before.
    behind: u64,
    /// In the order of reading; the events of each piece oldest first.
    pieces: Vec<Vec<Stored>>,
    messages: u32,
    bytes: u64,
    is_damaged: bool,
}

/// See the module text.
pub struct Journal {
    config: JournalConfig,
    shard: u16,
    /// Segments of these shards are for this one to remove.
    shards: u16,
    series: SeriesId,
    salt: u32,
    next_number: u64,
    segments: BTreeMap<SegmentId, Known>,
    current: Option<Open>,
    /// Bytes of the current segment that have a use.
    filled: u32,
    spare: Option<Open>,
    /// What is to be made, in this order: a burst may need the next segment before one is made.
    to_make: VecDeque<SegmentId>,
    /// Whether one is being made.
    is_making: bool,
    /// The segment before the current one, and how much of it counts.
    previous: Option<(u64, u32)>,
    /// What the current one begins with.
    after: After,
    header_bytes: u32,
    /// While something fails: when it is tried again.
    failing: Option<u64>,
    /// While events that were appended before a failure are not kept: since when, and up to which one.
    uncertain: Option<(u64, u64)>,
    /// In order; `None`: that was not needed lately.
    given_up: Option<Vec<GivenUp>>,
    /// Ends of segments that could not be written as a whole.
    to_cut: VecDeque<(SegmentId, u64)>,
    /// Whether nothing more goes to the current segment.
    is_stopped: bool,
    batches: VecDeque<Batch>,
    /// The bytes that are being written, of the first batch.
    writing: Option<Bytes>,
    unsynced: VecDeque<Unsynced>,
    /// The segment that is being synchronised, and up to which event.
    syncing: Option<(SegmentId, u64)>,
    /// Segments that are full, to be synchronised although nobody waits for that.
    full: VecDeque<SegmentId>,
    /// The same, to be sealed once everything in them is as safe as it is to be.
    to_seal: VecDeque<(SegmentId, After)>,
    sealing: Option<Sealing>,
    to_remove: VecDeque<SegmentId>,
    appended: u64,
    written: u64,
    /// As far as [`written`](Self::written) has ever come: so far somebody was told that it is.
    told_written: u64,
    synced: u64,
    waiting_bytes: u64,
    /// Whether the last record says that everything is written.
    has_ended: bool,
    /// The first event behind such a record, until it is synchronised: should the host end before, the record
    /// would say of it that it has never been.
    undoes_end: Option<u64>,
    /// Whether segments are to be ready although nothing was appended yet.
    is_wanted: bool,
    index: Index,
    past: Arc<Past>,
    floor_ms: u64,
    reached_ms: u64,
    swept_ms: u64,
    now: Now,
    queries: BTreeMap<u64, Reading>,
    next_query: u64,
    /// Queries with something to read that is not being read.
    to_read: BTreeSet<u64>,
    reads: usize,
    answers: VecDeque<Answer>,
    notices: VecDeque<Notice>,
    counters: JournalCounters,
}

impl Journal {
    /// The journal of shard `shard` of `shards`, which goes on behind what was recovered. `series` and
    /// `salt` are unique to this start.
    pub fn new(
        config: JournalConfig,
        (shard, shards): (u16, u16),
        (series, salt): (SeriesId, u32),
        recovered: Recovered,
        now: Now,
    ) -> Journal {
        let Recovered { index, segments, past } = recovered;
        let own = || segments.range(SegmentId::all_of(shard));
        let last = own().next_back();
        // What is lost was as late, at most: later starts are to know it too.
        let reached_ms = own().map(|(_, known)| known.last_ms).fold(past.floor_ms, u64::max);
        let header_bytes = Header::BYTES as u32;
        Journal {
            config,
            shard,
            shards,
            series,
            salt,
            next_number: last.map_or(0, |(id, _)| id.number + 1),
            segments,
            current: None,
            filled: 0,
            spare: None,
            to_make: VecDeque::new(),
            is_making: false,
            previous: None,
            after: After { previous: None, reached_ms: 0 },
            header_bytes,
            failing: None,
            uncertain: None,
            given_up: None,
            to_cut: VecDeque::new(),
            is_stopped: false,
            batches: VecDeque::new(),
            writing: None,
            unsynced: VecDeque::new(),
            syncing: None,
            full: VecDeque::new(),
            to_seal: VecDeque::new(),
            sealing: None,
            to_remove: VecDeque::new(),
            appended: 0,
            written: 0,
            told_written: 0,
            synced: 0,
            waiting_bytes: 0,
            has_ended: false,
            undoes_end: None,
            is_wanted: false,
            index,
            floor_ms: past.floor_ms,
            reached_ms,
            past,
            swept_ms: 0,
            now,
            queries: BTreeMap::new(),
            next_query: 0,
            to_read: BTreeSet::new(),
            reads: 0,
            answers: VecDeque::new(),
            notices: VecDeque::new(),
            counters: JournalCounters::default(),
        }
    }

    /// Leaves out the numbers up to this one: files are there that could not be read.
    pub fn number_from(&mut self, number: u64) {
        self.next_number = self.next_number.max(number);
    }

    /// Has a segment ready from now on, or not; what it is needed for may come any time.
    pub fn set_wanted(&mut self, is_wanted: bool) {
        self.is_wanted = is_wanted;
    }

    /// Sets the time, forgets what is too old and tries again what has failed.
    pub fn handle_timeout(&mut self, now: Now) {
        self.now = now;
        if self.failing.is_some_and(|retry_ms| retry_ms <= now.mono_ms) {
            self.failing = Some(now.mono_ms + RETRY_MS);
            self.try_again();
        }
        if now.mono_ms >= self.swept_ms + SWEEP_MS {
            self.swept_ms = now.mono_ms;
            self.drop_old();
            self.index.go_on();
        }
        self.go_on_sealing();
        self.make_ready();
    }

    /// When [`handle_timeout`](Self::handle_timeout) wants to be called, on the monotonic clock.
    pub fn next_timeout_ms(&self) -> Option<u64> {
        let sweep = (!self.segments.is_empty()).then_some(self.swept_ms + SWEEP_MS);
        let is_listing = self.sealing.as_ref().is_some_and(|it| it.stage == Stage::Listing);
        let listing = is_listing.then_some(self.now.mono_ms);
        [sweep, self.failing, listing].into_iter().flatten().min()
    }

    /// Whether another event is taken.
    ///
    /// # Errors
    /// Writing fails, or is behind.
    pub fn check(&self) -> Result<(), Refusal> {
        if self.failing.is_some() || self.uncertain.is_some() {
            return Err(Refusal::Failing);
        }
        if self.waiting_bytes >= self.config.waiting_bytes_max {
            return Err(Refusal::Behind);
        }
        Ok(())
    }

    /// Whether so much waits to be written that those who publish are better slowed down.
    pub fn is_behind(&self) -> bool {
        self.waiting_bytes >= self.config.waiting_bytes_max / 4
    }

    /// Appends an event and returns its number. It is kept as is asked for once
    /// [`progress`](Self::progress) has reached that.
    pub fn append(&mut self, event: &Event<'_>) -> u64 {
        self.appended += 1;
        self.counters.events += 1;
        if std::mem::take(&mut self.has_ended) {
            self.undoes_end.get_or_insert(self.appended);
        }
        let at = self.begin_record(event.body.len() + event.channel.len());
        let up_to = self.appended;
        self.reached_ms = self.reached_ms.max(event.serial.time_ms());
        let batch = self.batches.back_mut().expect("begun above");
        let from = batch.bytes.len();
        let mut record = Vec::with_capacity(event.body.len() + 128);
        event.write(self.salt, &mut record);
        batch.bytes.extend_from_slice(&record);
        batch.up_to = up_to;
        batch.wants_sync |= event.awaits == Some(Safety::Synced) || self.undoes_end.is_some();
        batch.awaits.push((up_to, event.awaits));
        let note_from = (from - batch.lead) as u32;
        batch.notes.push(Note {
            channel: event.channel.into(),
            serial: event.serial,
            from: note_from,
            to: note_from + record.len() as u32,
            awaits: event.awaits,
        });
        self.filled = at + record.len() as u32;
        self.waiting_bytes += record.len() as u64;
        up_to
    }

    /// Finds the batch for a record of about `bytes`, perhaps in another segment; returns how far that
    /// one is filled.
    fn begin_record(&mut self, bytes: usize) -> u32 {
        let is_full = self.filled as usize + bytes > self.config.segment_bytes as usize
            && self.filled > self.header_bytes + 64;
        if self.current.is_none() || is_full {
            self.next_segment();
        }
        let segment = self.current.expect("chosen above").id;
        let is_open = |batch: &Batch| {
            batch.segment == segment
                && batch.bytes.len() < WRITE_BYTES_MAX
                && !batch.bytes.is_empty()
        };
        let is_writing_last = self.writing.is_some() && self.batches.len() == 1;
        if is_writing_last || !self.batches.back().is_some_and(is_open) {
            let offset = self.filled;
            self.batches.push_back(Batch {
                segment,
                offset,
                bytes: BytesMut::new(),
                lead: 0,
                previous: None,
                before: self.appended - 1,
                up_to: self.appended,
                notes: Vec::new(),
                awaits: Vec::new(),
                wants_sync: false,
            });
        }
        self.filled
    }

    /// Takes the next segment into use.
    fn next_segment(&mut self) {
        if let Some(Open { id, is_made }) = self.current.take() {
            self.previous = Some((id.number, self.filled));
            self.to_seal.push_back((id, self.after));
            if is_made {
                self.full.push_back(id);
            }
        }
        let next = self.spare.take().unwrap_or_else(|| {
            let id = SegmentId { shard: self.shard, number: self.next_number };
            self.next_number += 1;
            self.to_make.push_back(id);
            Open { id, is_made: false }
        });
        self.current = Some(next);
        let mut lead = Vec::new();
        self.after = After { previous: self.previous, reached_ms: self.reached_ms };
        self.after.write(self.salt, &mut lead);
        self.filled = self.header_bytes + lead.len() as u32;
        self.batches.push_back(Batch {
            segment: next.id,
            offset: self.header_bytes,
            lead: lead.len(),
            previous: self.previous,
            bytes: BytesMut::from(&lead[..]),
            before: self.written,
            // Until there is an event in it.
            up_to: self.written,
            notes: Vec::new(),
            awaits: Vec::new(),
            wants_sync: false,
        });
    }

    /// Has a segment made before it is needed.
    fn make_ready(&mut self) {
        if self.failing.is_some() || self.is_to_make() || self.spare.is_some() {
            return;
        }
        let is_needed = match &self.current {
            None => self.is_wanted,
            Some(current) => current.is_made && self.filled >= self.config.segment_bytes / 2,
        };
        if is_needed {
            self.make_spare();
        }
    }

    /// Whether a segment is being made, or is to be.
    fn is_to_make(&self) -> bool {
        self.is_making || !self.to_make.is_empty()
    }

    fn make_spare(&mut self) {
        let id = SegmentId { shard: self.shard, number: self.next_number };
        self.next_number += 1;
        self.to_make.push_back(id);
        self.spare = Some(Open { id, is_made: false });
    }

    /// The number of the last event that is kept like this. Of those that nobody wants synchronised,
    /// nothing is waited for.
    pub fn progress(&self, safety: Safety) -> u64 {
        match (safety, self.undoes_end) {
            (Safety::Written, None) => self.written,
            (Safety::Written, Some(first)) => self.written.min(first - 1),
            (Safety::Synced, _) => match self.unsynced.front() {
                None => self.written,
                Some(_) => self.synced,
            },
        }
    }

    /// Whether everything that was appended is written.
    pub fn is_written(&self) -> bool {
        self.written == self.appended
    }

    /// Notes, when all is written, that nothing comes behind, and returns whether that is on disk: then
    /// the next start knows that nothing is missing. What is appended nevertheless undoes it.
    pub fn end(&mut self) -> bool {
        // A file that says nothing is one whose start was killed before it wrote: the next start takes it for
        // incomplete. A disk that fails leaves it so.
        if self.current.is_none() && (self.spare.is_none() || self.failing.is_some()) {
            return true;
        }
        if !self.has_ended && self.is_written() && self.batches.is_empty() && self.failing.is_none()
        {
            self.has_ended = true;
            self.appended += 1;
            let at = self.begin_record(0);
            let mut record = Vec::new();
            write_end(self.salt, &mut record);
            let batch = self.batches.back_mut().expect("begun above");
            batch.bytes.extend_from_slice(&record);
            batch.up_to = self.appended;
            batch.wants_sync = true;
            self.filled = at + record.len() as u32;
            self.waiting_bytes += record.len() as u64;
        }
        self.has_ended && self.is_written() && self.unsynced.is_empty()
    }

    /// Whether `series` is of a start of which something is kept here, or of this one.
    pub fn knows(&self, series: SeriesId) -> bool {
        series == self.series || self.past.series.contains(&series)
    }

    /// The series of all starts of which something is kept.
    pub fn series(&self) -> impl Iterator<Item = SeriesId> {
        self.past.series.iter().copied().chain([self.series])
    }

    /// Whether anything is kept of a channel.
    pub fn has(&self, channel: &str) -> bool {
        self.index.has(channel)
    }

    /// The serial behind which nothing of a channel is missing, as far as is known. What was waited for before
    /// its events were told is what is noted of the latest, or what is waited for now, if that is less.
    pub fn floor(&self, channel: &str, awaits: Option<Safety>) -> ChannelSerial {
        let awaits = self.index.newest(channel).map_or(awaits, |(_, noted)| noted.min(awaits));
        let may_lack_ms = match awaits {
            None => self.past.unawaited_floor_ms,
            Some(Safety::Written) => self.past.unsynced_floor_ms,
            Some(Safety::Synced) => 0,
        };
        ChannelSerial::last_within(self.floor_ms.max(may_lack_ms), self.series)
    }

    /// The newest event of a channel that is written.
    pub fn newest(&self, channel: &str) -> Option<ChannelSerial> {
        self.index.newest(channel).map(|(serial, _)| serial)
    }

    /// Asks for events. The answer comes through [`poll_answer`](Self::poll_answer) under the number that
    /// is returned. `None`: too many have asked.
    pub fn read(&mut self, query: Query) -> Option<u64> {
        if self.queries.len() >= QUERIES_MAX {
            return None;
        }
        let number = self.next_query;
        self.next_query += 1;
        // What is not written yet is not in the index either.
        let of_channel = |batch: &Batch| {
            batch.notes.iter().any(|note| *note.channel == *query.channel).then_some(batch.up_to)
        };
        let behind = self.batches.iter().rev().find_map(of_channel).unwrap_or(0);
        let reading = Reading {
            plan: self.index.plan(&query),
            query,
            behind,
            pieces: Vec::new(),
            messages: 0,
            bytes: 0,
            is_damaged: false,
        };
        self.queries.insert(number, reading);
        self.to_read.insert(number);
        Some(number)
    }

    /// What was given up since this was asked last, in order; nobody waits for anything that is not among it
    /// then. `None`: nothing had to be.
    pub fn take_given_up(&mut self) -> Option<Vec<GivenUp>> {
        self.given_up.take()
    }

    /// The number of the newest event.
    pub fn appended(&self) -> u64 {
        self.appended
    }

    /// The next answer to a query.
    pub fn poll_answer(&mut self) -> Option<Answer> {
        self.answers.pop_front()
    }

    /// The next thing to tell whoever runs the daemon.
    pub fn poll_notice(&mut self) -> Option<Notice> {
        self.notices.pop_front()
    }

    /// How much there is.
    pub fn gauges(&self) -> JournalGauges {
        JournalGauges {
            disk_bytes: self.disk_bytes(),
            waiting_bytes: self.waiting_bytes,
            index_entries: self.index.len() as u64,
            failing: self.failing.is_some().into(),
        }
    }

    /// What was counted.
    pub fn counters(&self) -> JournalCounters {
        self.counters
    }

    /// Bytes of the segments that this journal is to remove.
    fn disk_bytes(&self) -> u64 {
        let own = self.segments.iter().filter(|(id, _)| self.is_own(**id));
        own.map(|(_, known)| known.bytes).sum()
    }

    fn is_own(&self, id: SegmentId) -> bool {
        id.shard % self.shards == self.shard
    }

    /// The next thing to be done with files.
    pub fn poll_command(&mut self) -> Option<Command> {
        if !self.is_making
            && let Some(segment) = self.to_make.pop_front()
        {
            self.is_making = true;
            let header = Header {
                series: self.series,
                salt: self.salt,
                created_ms: self.now.unix_ms,
                before: self.used_before(segment),
                beginning: Some(self.past.beginning),
            };
            let reserve_bytes = self.config.segment_bytes.into();
            return Some(Command::Create {
                segment,
                header: header.encode().into(),
                reserve_bytes,
            });
        }
        if self.writing.is_none()
            && !self.is_stopped
            && let Some(batch) = self.batches.front_mut()
            && self.segments.contains_key(&batch.segment)
        {
            let bytes = std::mem::take(&mut batch.bytes).freeze();
            self.writing = Some(bytes.clone());
            let (segment, offset) = (batch.segment, batch.offset.into());
            return Some(Command::Write { segment, offset, bytes });
        }
        if self.failing.is_none()
            && let Some(sealing) = self.sealing.as_mut().filter(|it| it.stage == Stage::Listed)
        {
            sealing.stage = Stage::Writing;
            let bytes: Bytes = std::mem::take(&mut sealing.bytes).into();
            sealing.length = bytes.len() as u64;
            let (segment, offset) = (sealing.segment, self.segments[&sealing.segment].bytes);
            return Some(Command::Write { segment, offset, bytes });
        }
        if self.syncing.is_none() && !self.is_stopped {
            if let Some(segment) = self.full.pop_front() {
                self.syncing = Some((segment, 0));
                return Some(Command::Sync { segment });
            }
            if let Some(first) = self.unsynced.front() {
                let segment = first.batch.segment;
                let same = self.unsynced.iter().take_while(|it| it.batch.segment == segment);
                let up_to = same.last().expect("the first").batch.up_to;
                self.syncing = Some((segment, up_to));
                return Some(Command::Sync { segment });
            }
        }
        if let Some((segment, bytes)) = self.to_cut.pop_front() {
            return Some(Command::Cut { segment, bytes });
        }
        if let Some(segment) = self.to_remove.pop_front() {
            return Some(Command::Remove { segment });
        }
        self.poll_read()
    }

    fn poll_read(&mut self) -> Option<Command> {
        while self.reads < READS_MAX {
            let written = self.written;
            let ready = |number: &&u64| self.queries[*number].behind <= written;
            let number = *self.to_read.iter().find(ready)?;
            self.to_read.remove(&number);
            let reading = self.queries.get_mut(&number).expect("it waits to be read");
            if std::mem::take(&mut reading.behind) > 0 {
                reading.plan = self.index.plan(&reading.query);
            }
            let Some(extent) = reading.plan.pop_front() else {
                self.answer(number);
                continue;
            };
            self.reads += 1;
            let Extent { segment, from, to } = extent;
            reading.plan.push_front(extent);
            let length = (to - from) as usize;
            return Some(Command::Read { query: number, segment, offset: from.into(), length });
        }
        None
    }

    /// Takes how a command went.
    pub fn handle_done(&mut self, done: Done) {
        match done {
            Done::Created(segment, result) => self.handle_created(segment, result),
            Done::Written(segment, result) => {
                match self.sealing.take_if(|it| it.segment == segment && it.stage == Stage::Writing)
                {
                    Some(sealing) => self.handle_sealed(&sealing, result),
                    None => self.handle_written(segment, result),
                }
            }
            Done::Synced(segment, result) => self.handle_synced(segment, result),
            Done::Cut(_, result) => self.counters.failures += u64::from(result.is_err()),
            Done::Removed(segment, Err(errno)) if errno != ENOENT => {
                self.notices.push_back(Notice::Unremovable(segment, errno));
            }
            Done::Removed(..) => {}
            Done::Read(query, result) => self.handle_read(query, result),
        }
        self.go_on_sealing();
        self.make_ready();
    }

    /// The latest segment before this one that is in use or was.
    fn used_before(&self, segment: SegmentId) -> Option<u64> {
        let is_used = |(id, known): &(&SegmentId, &Known)| {
            known.is_used
                || self.current.is_some_and(|current| current.id == **id)
                || self.batches.iter().any(|batch| batch.segment == **id)
        };
        let before = self.segments.range(segment.before());
        before.rev().find(is_used).map(|(id, _)| id.number)
    }

    /// Writes down what the seal of a full segment says; some channels at a time.
    fn go_on_sealing(&mut self) {
        if self.sealing.is_none() {
            let Some((segment, after)) = self.to_seal.front().copied() else { return };
            if self.is_waited_for(segment) {
                return;
            }
            self.to_seal.pop_front();
            let (channels, bytes, length, stage) = (0, Vec::new(), 0, Stage::Listing);
            self.sealing = Some(Sealing { segment, after, channels, bytes, length, stage });
        }
        let sealing = self.sealing.as_mut().expect("begun above");
        if sealing.stage != Stage::Listing {
            return;
        }
        let known = self.segments.get(&sealing.segment).filter(|known| known.events > 0);
        // Where it would save little, or there is nothing any more that it is about.
        let Some(known) = known.filter(|known| sealing.bytes.len() as u64 <= known.bytes / 2)
        else {
            self.sealing = None;
            return;
        };
        let (segment, count) = (sealing.segment, seal::CHANNELS_MAX);
        if let Some(parts) = self.index.parts_of(segment, sealing.channels, count) {
            seal::write_parts(self.salt, parts, &mut sealing.bytes);
            sealing.channels += count;
            return;
        }
        let seal = Seal {
            at: known.bytes as u32,
            after: Some(sealing.after),
            has_ended: Some(false),
            last_ms: known.last_ms,
            events: known.events,
        };
        seal.write(self.salt, &mut sealing.bytes);
        sealing.stage = Stage::Listed;
    }

    /// Without its seal a segment is read as a whole when the daemon starts, and that is all.
    fn handle_sealed(&mut self, sealing: &Sealing, result: Result<(), i32>) {
        let known = self.segments.get_mut(&sealing.segment).expect("it stays meanwhile");
        if result.is_ok() {
            known.bytes += sealing.length;
            self.counters.written_bytes += sealing.length;
        } else {
            self.counters.failures += 1;
            self.to_cut.push_back((sealing.segment, known.bytes));
        }
    }

    /// Whether something of a segment is yet to be written or synchronised.
    fn is_waited_for(&self, segment: SegmentId) -> bool {
        self.batches.iter().any(|batch| batch.segment == segment)
            || self.unsynced.iter().any(|it| it.batch.segment == segment)
            || self.syncing.is_some_and(|(syncing, _)| syncing == segment)
            || self.full.contains(&segment)
    }

    fn handle_created(&mut self, segment: SegmentId, result: Result<(), i32>) {
        self.is_making = false;
        let is_spare = self.spare.is_some_and(|spare| spare.id == segment);
        match result {
            Ok(()) => {
                let open = if is_spare { &mut self.spare } else { &mut self.current };
                match open.as_mut().filter(|open| open.id == segment) {
                    Some(open) => open.is_made = true,
                    // More than it has room for was appended meanwhile.
                    None => self.full.push_back(segment),
                }
                let key = (self.series, self.salt);
                let (bytes, created_ms) = (self.header_bytes.into(), self.now.unix_ms);
                let (last_ms, events, is_used) = (0, 0, false);
                let known = Known { bytes, created_ms, last_ms, events, is_used, key };
                self.segments.insert(segment, known);
                if self.batches.is_empty() {
                    self.recover();
                }
            }
            Err(errno) => {
                // Perhaps it was made and could not be begun.
                self.to_remove.push_back(segment);
                if is_spare {
                    self.spare = None;
                } else {
                    self.stop();
                }
                self.fail(errno);
            }
        }
    }

    fn handle_written(&mut self, segment: SegmentId, result: Result<(), i32>) {
        let bytes = self.writing.take().expect("one write is under way");
        if let Err(errno) = result {
            let batch = self.batches.front_mut().expect("it is being written");
            batch.bytes = BytesMut::from(&bytes[..]);
            self.to_cut.push_back((segment, batch.offset.into()));
            self.stop();
            return self.fail(errno);
        }
        let batch = self.batches.pop_front().expect("it was being written");
        debug_assert_eq!(batch.segment, segment);
        self.counters.writes += 1;
        self.counters.written_bytes += bytes.len() as u64;
        self.written = self.written.max(batch.up_to);
        self.told_written = self.told_written.max(self.written);
        let known = self.segments.get_mut(&segment).expect("it is written to");
        known.bytes = u64::from(batch.offset) + bytes.len() as u64;
        known.events += batch.notes.len() as u32;
        known.is_used = true;
        let base = batch.offset + batch.lead as u32;
        for note in &batch.notes {
            known.last_ms = known.last_ms.max(note.serial.time_ms());
            let placed = Note { from: base + note.from, to: base + note.to, ..note.clone() };
            self.index.note(segment, &placed);
        }
        // One behind another is kept as long: if that has to be written again, all behind it is.
        if batch.wants_sync || !self.unsynced.is_empty() {
            self.unsynced.push_back(Unsynced { batch, bytes });
        } else {
            self.waiting_bytes -= (bytes.len() - batch.lead) as u64;
        }
        self.recover();
    }

    fn handle_synced(&mut self, segment: SegmentId, result: Result<(), i32>) {
        let (_, up_to) = self.syncing.take().expect("one is under way");
        if let Err(errno) = result {
            // What the kernel has of it is not to be relied on any more.
            self.stop();
            return self.fail(errno);
        }
        self.counters.syncs += 1;
        while let Some(done) =
            self.unsynced.pop_front_if(|it| it.batch.segment == segment && it.batch.up_to <= up_to)
        {
            self.waiting_bytes -= (done.bytes.len() - done.batch.lead) as u64;
            self.synced = self.synced.max(done.batch.up_to);
        }
        self.undoes_end.take_if(|first| *first <= self.synced);
        if self.uncertain.is_some() {
            self.recover();
        }
    }

    /// Nothing more goes to the current segment, and what is not kept may not be for long.
    fn stop(&mut self) {
        self.is_stopped = true;
        self.uncertain.get_or_insert((self.now.mono_ms, self.appended));
    }

    fn fail(&mut self, errno: i32) {
        self.counters.failures += 1;
        if self.failing.is_none() {
            self.notices.push_back(Notice::Failing(errno));
        }
        self.failing = Some(self.now.mono_ms + RETRY_MS);
    }

    /// Something was written, or can be.
    fn recover(&mut self) {
        let kept = self.written.min(self.progress(Safety::Synced));
        self.uncertain.take_if(|(_, up_to)| *up_to <= kept);
        if !self.is_stopped && self.uncertain.is_none() && self.failing.take().is_some() {
            self.notices.push_back(Notice::Recovered);
        }
    }

    /// Tries again what has failed.
    fn try_again(&mut self) {
        if self.writing.is_some() || self.syncing.is_some() || self.is_to_make() {
            return;
        }
        if !self.is_stopped {
            // It was the next segment that could not be made.
            if self.spare.is_none() {
                self.make_spare();
            }
            return;
        }
        self.is_stopped = false;
        let now_ms = self.now.mono_ms;
        let is_too_long = |(since_ms, _)| now_ms >= since_ms + UNCERTAIN_MS_MAX;
        self.rehome(self.uncertain.is_some_and(is_too_long));
    }

    /// Has everything that is not as safe as it should be written to another segment, or `gives_up` what
    /// of that somebody waits for.
    fn rehome(&mut self, gives_up: bool) {
        let unsynced = std::mem::take(&mut self.unsynced);
        let mut cut = None;
        for Unsynced { batch, .. } in &unsynced {
            if cut.replace(batch.segment) != Some(batch.segment) {
                self.index.cut(batch.segment, batch.offset);
            }
        }
        let unsynced = unsynced.into_iter();
        let mut lost: VecDeque<Batch> = unsynced
            .map(|Unsynced { batch, bytes }| Batch { bytes: BytesMut::from(&bytes[..]), ..batch })
            .collect();
        lost.append(&mut self.batches);
        self.to_seal.retain(|(id, _)| lost.iter().all(|batch| batch.segment != *id));
        let current = self.current.take().filter(|open| open.is_made);
        match (lost.front(), current) {
            // Nothing before it in its segment counts, nor the segment itself.
            (Some(first), _) if first.lead > 0 => self.previous = first.previous,
            (Some(first), _) => self.previous = Some((first.segment.number, first.offset)),
            (None, Some(open)) => self.previous = Some((open.id.number, self.filled)),
            // One that was never made.
            (None, None) => {}
        }
        if let Some(first) = lost.front() {
            self.written = self.written.min(first.before);
        }
        if gives_up {
            self.give_up(&mut lost);
        }
        self.next_segment();
        let segment = self.current.expect("chosen above").id;
        for mut batch in lost {
            let _ = batch.bytes.split_to(batch.lead);
            if batch.bytes.is_empty() {
                // Nothing is waited for any more up to here.
                let before = self.batches.back_mut().expect("a segment begins with one");
                before.up_to = before.up_to.max(batch.up_to);
                continue;
            }
            let length = batch.bytes.len() as u32;
            (batch.segment, batch.offset) = (segment, self.filled);
            (batch.lead, batch.previous) = (0, None);
            // What it supersedes is known as long as it is itself.
            if let Some(lead) = self.batches.pop_back_if(|last| last.lead == last.bytes.len()) {
                (batch.offset, batch.lead, batch.previous) =
                    (lead.offset, lead.lead, lead.previous);
                batch.bytes = [lead.bytes, batch.bytes].concat()[..].into();
            }
            self.filled += length;
            self.batches.push_back(batch);
        }
        debug_assert!(self.batches.iter().is_sorted_by_key(|batch| batch.up_to));
    }

    /// Takes out of `lost` what somebody waits for and was not told of, and what lies behind it in the
    /// order of the same channel.
    fn give_up(&mut self, lost: &mut VecDeque<Batch>) {
        // By channel, the first.
        let mut channels: HashMap<Arc<str>, ChannelSerial> = HashMap::new();
        let told_written = self.told_written;
        self.has_ended = false;
        self.given_up.get_or_insert_default();
        for batch in lost {
            let events_bytes = batch.bytes.len() - batch.lead;
            let taken = batch.take_out(|note, number, awaits| {
                let is_awaited = match awaits {
                    // The kernel had it, and so it was confirmed.
                    Some(Safety::Written) => number > told_written,
                    Some(Safety::Synced) => true,
                    None => false,
                };
                if is_awaited {
                    channels.entry(Arc::clone(&note.channel)).or_insert(note.serial);
                }
                channels.contains_key(&note.channel)
            });
            batch.wants_sync = batch.awaits.iter().any(|it| it.1 == Some(Safety::Synced));
            self.waiting_bytes -= (events_bytes - (batch.bytes.len() - batch.lead)) as u64;
            self.counters.given_up += taken.len() as u64;
            self.given_up.get_or_insert_default().extend(taken);
        }
        // Those who read such a channel wait for nothing of this, and are not told of it.
        for reading in self.queries.values_mut() {
            let Some(first) = channels.get(&reading.query.channel) else { continue };
            let until = &mut reading.query.until;
            *until = Some(until.map_or(first.preceding(), |until| until.min(first.preceding())));
            for piece in &mut reading.pieces {
                piece.retain(|event| event.serial < *first);
            }
            if std::mem::take(&mut reading.behind) > 0 {
                reading.plan = self.index.plan(&reading.query);
            }
        }
    }

    fn handle_read(&mut self, number: u64, result: Result<Vec<u8>, i32>) {
        self.reads -= 1;
        let reading = self.queries.get_mut(&number).expect("it is being read");
        let extent = reading.plan.pop_front().expect("the first is being read");
        let (events, is_damaged) = match (result, self.segments.get(&extent.segment)) {
            (Ok(data), Some(known)) => {
                self.counters.read_bytes += data.len() as u64;
                let is_short = data.len() < (extent.to - extent.from) as usize;
                let (events, is_damaged) = events_of(&reading.query.channel, known.key, data);
                if is_damaged || is_short {
                    self.notices.push_back(Notice::Unreadable(extent.segment, None));
                }
                (events, is_damaged || is_short)
            }
            (Err(errno), Some(_)) if errno != ENOENT => {
                self.notices.push_back(Notice::Unreadable(extent.segment, Some(errno)));
                (Vec::new(), true)
            }
            // Removed meanwhile, by this journal or the one that owns it.
            (Ok(_) | Err(_), _) => (Vec::new(), true),
        };
        reading.is_damaged |= is_damaged;
        let query = &reading.query;
        let wanted = events.into_iter().filter(|it| query.wants(&it.serial, it.timestamp_ms));
        let piece: Vec<Stored> = wanted.collect();
        let messages = piece.iter().map(|event| event.messages);
        reading.messages = messages.fold(reading.messages, u32::saturating_add);
        reading.bytes += piece.iter().map(|event| event.body.len() as u64).sum::<u64>();
        reading.pieces.push(piece);
        let is_enough = reading.messages >= query.messages_max || reading.bytes >= query.bytes_max;
        if reading.plan.is_empty() || is_enough {
            self.answer(number);
        } else {
            self.to_read.insert(number);
        }
    }

    fn answer(&mut self, number: u64) {
        let reading = self.queries.remove(&number).expect("it is answered once");
        let Reading { query, plan, mut pieces, is_damaged, .. } = reading;
        if query.direction == Direction::Backwards {
            pieces.reverse();
        }
        let events = pieces.into_iter().flatten().collect();
        self.answers.push_back(Answer {
            query: number,
            events,
            is_complete: plan.is_empty(),
            is_damaged,
        });
    }

    /// Drops the oldest segments, as far as they are too old or there are too many bytes, on disk or of the index.
    fn drop_old(&mut self) {
        let oldest_ms = self.now.unix_ms.saturating_sub(self.config.retention.as_millis() as u64);
        let mut bytes = self.disk_bytes();
        let in_use = [self.current, self.spare].map(|open| open.map(|open| open.id));
        let sealing = self.sealing.as_ref().filter(|it| it.stage == Stage::Writing);
        let sealing = sealing.map(|it| it.segment);
        let is_in_use = |id: SegmentId| {
            in_use.contains(&Some(id)) || sealing == Some(id) || self.is_waited_for(id)
        };
        // Oldest first, whichever shard wrote them, and those of one shard in their order, whatever the clock
        // did: then what is left of a channel has no gap, and a segment that is missing has not gone with age.
        let mut own: Vec<(u64, SegmentId, Known)> = Vec::new();
        for (id, known) in self.segments.iter().filter(|(id, _)| self.is_own(**id)) {
            let before = own.last().filter(|(_, before, _)| before.shard == id.shard);
            let before_ms = before.map_or(0, |(before_ms, ..)| *before_ms);
            let last_ms = known.last_ms.max(known.created_ms).max(before_ms);
            own.push((last_ms, *id, *known));
        }
        let is_own = |shard| self.is_own(SegmentId { shard, number: 0 });
        let mut index_bytes = self.index.bytes_of_shards(is_own);
        debug_assert_eq!(
            index_bytes,
            own.iter().map(|(_, id, _)| self.index.bytes_of(*id)).sum::<u64>()
        );
        own.sort_unstable_by_key(|(last_ms, id, _)| (*last_ms, *id));
        let (mut dropped, mut stays) = (Vec::new(), HashSet::new());
        for (last_ms, id, known) in own {
            let fits = bytes <= self.config.bytes_max && index_bytes <= self.config.index_bytes_max;
            if last_ms >= oldest_ms && fits {
                break;
            }
            if stays.contains(&id.shard) || is_in_use(id) {
                stays.insert(id.shard);
                continue;
            }
            bytes -= known.bytes;
            index_bytes -= self.index.bytes_of(id);
            dropped.push((id, known.last_ms));
        }
        if dropped.is_empty() {
            return;
        }
        // What was never used does not tell how late those before it were, so it goes with them.
        let last: BTreeMap<u16, SegmentId> =
            dropped.iter().map(|(id, _)| (id.shard, *id)).collect();
        for last in last.into_values() {
            let behind = self.segments.range(last.and_behind()).skip(1);
            let unused = behind.take_while(|(id, known)| !known.is_used && !is_in_use(**id));
            dropped.extend(unused.map(|(id, known)| (*id, known.last_ms)));
        }
        for (id, last_ms) in dropped {
            self.floor_ms = self.floor_ms.max(last_ms);
            self.segments.remove(&id);
            self.sealing.take_if(|it| it.segment == id);
            self.index.forget(id);
            self.to_remove.push_back(id);
        }
        if self.current.is_none()
            && !self.segments.range(SegmentId::all_of(self.shard)).any(|(_, known)| known.is_used)
        {
            // So that the next start learns it from the one of this start.
            self.end();
        }
    }
}
