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
//! [`Journal::check`] refuses. What somebody waits for is not kept for longer than a few seconds: then it is
//! given up, so that those who wait can be told.
//!
//! | file | what |
//! | --- | --- |
//! | `mod.rs` | events in, commands out, how far it has come |
//! | `writing.rs` | batches, one segment after the other |
//! | `failure.rs` | what the disk does not take |
//! | `reading.rs` | queries |
//! | `retention.rs` | what is too old or too much |
//! | `sealing.rs` | full segments |
//! | `segment.rs` | the bytes of a segment |
//! | `seal.rs` | those of its seal |
//! | `index.rs` | where events lie |
//! | `recovery.rs` | what a start finds |

mod failure;
mod index;
mod reading;
mod recovery;
mod retention;
mod seal;
mod sealing;
mod segment;
#[cfg(test)]
mod tests;
mod writing;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use self::failure::RETRY_MS;
use self::index::{Index, Note};
use self::reading::Reading;
use self::recovery::{Known, Past};
use self::sealing::{Sealing, Stage};
use self::segment::{After, Header, write_end};
use self::writing::{Batch, Open, Unsynced};
use crate::ably::{ChannelSerial, SeriesId};
use crate::base::Now;

pub use self::index::Query;
pub use self::recovery::{Added, Damage, DamageKind, Recovered, Recovery};
#[cfg(test)]
pub(crate) use self::segment::last_event;
pub use self::segment::{BootId, Event, SegmentId, Stored};

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
}
