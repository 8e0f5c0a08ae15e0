//! Events of channels at home here that outlive the process.
//!
//! A home that has given an event its place goes on at once. What it tells of the channel from then on, to
//! whomever, waits until the event is as safe as its namespace asks for (`owed.rs`): so nobody ever learns of
//! an event that the next start will not know of. Other channels are not concerned. How events come back,
//! when their channel is asked for again, is in `past.rs`.
//!
//! An event that the journal gives up has not happened: its publisher is told so, nobody else has heard of
//! it, and its channel forgets it.

use std::sync::Arc;

use super::Shard;
use super::owed::{DISK_IS_BEHIND, Owing};
use super::past::Reading;
use crate::ably::{Ack, ChannelSerial, Counter, Directory, ErrorCode, ErrorInfo, SeriesId};
use crate::base::{Level, LogLine, Now};
use crate::channel::ChannelKey;
use crate::channel::home::{Durable, HomeChannel};
use crate::channel::kept::Kept;
use crate::journal::{
    self, Command, Done, Event, Journal, JournalCounters, JournalGauges, Notice, Refusal, Safety,
};

/// The journal of this shard, and who waits for it.
pub(super) struct Keeping {
    pub journal: Journal,
    /// Who waits for events to be written.
    pub owing: Owing,
    /// Who waits for events to be read.
    pub reading: Reading,
    series: Arc<[SeriesId]>,
    /// Whether any namespace is kept.
    has_persisted: bool,
    has_ended: bool,
}

impl Keeping {
    fn new(journal: Journal) -> Keeping {
        Keeping {
            series: journal.series().collect(),
            journal,
            owing: Owing::default(),
            reading: Reading::default(),
            has_persisted: false,
            has_ended: false,
        }
    }

    /// Has a channel that begins go on where what is kept of it ends; what happened before `oldest_ms` is
    /// too old.
    pub fn begin(&self, now: Now, home: HomeChannel, ack: Ack, oldest_ms: u64) -> HomeChannel {
        let key = home.key().as_str();
        let (floor, newest) = (self.journal.floor(key, awaits(ack)), self.journal.newest(key));
        let floor = floor.max(ChannelSerial::last_within(oldest_ms, floor.series()));
        let durable = Durable { series: Arc::clone(&self.series), floor };
        home.with_durable(now, durable, newest)
    }

    /// Whether channels may be forgotten whose events are kept: all of those can be read.
    pub fn may_forget(&self) -> bool {
        self.journal.is_written()
    }

    /// As in [`Journal::next_timeout_ms`].
    pub fn next_timeout_ms(&self) -> Option<u64> {
        self.journal.next_timeout_ms()
    }

    /// Takes another directory.
    pub fn set_directory(&mut self, directory: &Directory) {
        self.has_persisted = directory.has_persisted();
        self.journal.set_wanted(self.has_persisted);
    }

    /// Whether any namespace is kept.
    pub fn has_persisted(&self) -> bool {
        self.has_persisted
    }
}

impl Shard {
    /// What the serials made here end with; unique to this start of the daemon and this shard.
    pub fn series(&self) -> SeriesId {
        self.homes.series
    }

    /// Has the shard keep channels of persisted namespaces in `journal`.
    #[must_use]
    pub fn with_journal(mut self, journal: Journal) -> Shard {
        let mut keeping = Keeping::new(journal);
        keeping.set_directory(&self.directory);
        self.homes.keeping = Some(Box::new(keeping));
        self
    }

    /// The next thing to be done with the files of the journal.
    pub fn poll_journal(&mut self) -> Option<Command> {
        self.homes.keeping.as_mut()?.journal.poll_command()
    }

    /// Something was done with the files of the journal.
    pub fn handle_journal(&mut self, done: Done) {
        let keeping = self.homes.keeping.as_mut().expect("it has asked for it");
        keeping.journal.handle_done(done);
        self.settle_journal();
    }

    /// Lets the journal know the time.
    pub(super) fn advance_journal(&mut self) {
        let Some(keeping) = &mut self.homes.keeping else { return };
        keeping.journal.handle_timeout(self.now);
        self.settle_journal();
    }

    /// Has everything written that is not, and notes that nothing is missing.
    pub(super) fn end_journal(&mut self) {
        if let Some(keeping) = &mut self.homes.keeping {
            keeping.has_ended = keeping.journal.end();
        }
    }

    /// Whether everything is written and nothing came behind.
    pub(super) fn has_ended_journal(&self) -> bool {
        self.homes.keeping.as_ref().is_none_or(|keeping| keeping.has_ended)
    }

    /// How much the journal holds.
    pub(super) fn journal_gauges(&self) -> JournalGauges {
        self.homes.keeping.as_ref().map(|keeping| keeping.journal.gauges()).unwrap_or_default()
    }

    /// What the journal has counted.
    pub(super) fn journal_counters(&self) -> JournalCounters {
        self.homes.keeping.as_ref().map(|keeping| keeping.journal.counters()).unwrap_or_default()
    }

    /// Lets go what has waited, answers those who have asked, and tells the log.
    fn settle_journal(&mut self) {
        self.let_go();
        self.take_back();
        while let Some(keeping) = &mut self.homes.keeping
            && let Some(answer) = keeping.journal.poll_answer()
        {
            self.handle_kept(answer);
        }
        while let Some(keeping) = &mut self.homes.keeping
            && let Some(notice) = keeping.journal.poll_notice()
        {
            self.log_line(line_of(notice));
        }
    }

    /// Whether another event of the channel can be kept, if it is to be. Asked before it has a place in the
    /// order.
    pub(super) fn check_journal(&self, key: &ChannelKey) -> Result<(), ErrorInfo> {
        let Some(keeping) = &self.homes.keeping else { return Ok(()) };
        if self.homes.ack(key).is_none() {
            return Ok(());
        }
        let text = match keeping.journal.check() {
            Ok(()) if !keeping.owing.is_full() => return Ok(()),
            Ok(()) | Err(Refusal::Behind) => DISK_IS_BEHIND,
            Err(Refusal::Failing) => {
                "this channel's messages are kept on disk, which is full or fails; try again later"
            }
        };
        Err(ErrorInfo::new(ErrorCode::BUSY, text))
    }

    /// Keeps an event that has its place in the order now. What is told of the channel from here on waits
    /// for it, as its namespace asks for.
    pub(super) fn keep(&mut self, key: &ChannelKey, kept: impl FnOnce() -> Kept) {
        let Some(ack) = self.homes.ack(key) else { return };
        let Some(keeping) = &mut self.homes.keeping else { return };
        let kept = kept();
        let mut body = Vec::new();
        kept.encode(&mut body);
        let tally = self.stats.of(key.app_id(), self.now.unix_ms);
        tally.add(Counter::PersistedMessages, kept.messages().into());
        tally.add(Counter::PersistedMessageBytes, body.len() as u64);
        let event = Event {
            channel: key.as_str(),
            serial: kept.serial(),
            timestamp_ms: kept.timestamp_ms(),
            messages: kept.messages(),
            awaits: awaits(ack),
            body: &body,
        };
        let number = keeping.journal.append(&event);
        keeping.has_ended = false;
        keeping.owing.append(key, number, event.awaits);
    }
}

/// What a namespace that asks for it waits for.
pub(super) fn awaits(ack: Ack) -> Option<Safety> {
    match ack {
        Ack::Memory => None,
        Ack::Written => Some(Safety::Written),
        Ack::Fsynced => Some(Safety::Synced),
    }
}

fn line_of(notice: Notice) -> LogLine {
    let error = |errno| std::io::Error::from_raw_os_error(errno);
    let name = |segment: journal::SegmentId| format!("{}/{}", segment.shard, segment.number);
    match notice {
        Notice::Failing(errno) => {
            let text =
                "the message log cannot be written: publishes to persisted channels are refused";
            LogLine::new(Level::Error, text).with("error", error(errno))
        }
        Notice::Recovered => LogLine::new(Level::Warn, "the message log is written again"),
        Notice::Unreadable(segment, errno) => {
            let line = LogLine::new(Level::Error, "part of the message log cannot be read");
            let line = line.with("segment", name(segment));
            match errno {
                Some(errno) => line.with("error", error(errno)),
                None => line.with("error", "it is not what was written"),
            }
        }
        Notice::Unremovable(segment, errno) => {
            let line = LogLine::new(Level::Warn, "a segment of the message log cannot be removed");
            line.with("segment", name(segment)).with("error", error(errno))
        }
    }
}
