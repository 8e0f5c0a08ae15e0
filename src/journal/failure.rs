//! What becomes of events when the disk does not take them: they are kept and written elsewhere, or given up when
//! somebody has waited for them for too long.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::BytesMut;

use super::index::Note;
use super::writing::{Batch, Unsynced};
use super::{GivenUp, Journal, Notice, Safety};
use crate::ably::ChannelSerial;

/// Pause before what has failed is tried again, in milliseconds.
pub(super) const RETRY_MS: u64 = 1000;

/// How long somebody may wait for an event after writing or synchronising it has failed, in milliseconds;
/// with the next try behind that, [`RETRY_MS`] later at most, it is given up. A disk that does not answer
/// at all is not one that fails: what it has been given may yet be written, and is waited for.
pub(super) const UNCERTAIN_MS_MAX: u64 = 3000;

impl Journal {
    /// Nothing more goes to the current segment, and what is not kept may not be for long.
    pub(super) fn stop(&mut self) {
        self.is_stopped = true;
        self.uncertain.get_or_insert((self.now.mono_ms, self.appended));
    }

    pub(super) fn fail(&mut self, errno: i32) {
        self.counters.failures += 1;
        if self.failing.is_none() {
            self.notices.push_back(Notice::Failing(errno));
        }
        self.failing = Some(self.now.mono_ms + RETRY_MS);
    }

    /// Something was written, or can be.
    pub(super) fn recover(&mut self) {
        let kept = self.written.min(self.progress(Safety::Synced));
        self.uncertain.take_if(|(_, up_to)| *up_to <= kept);
        if !self.is_stopped && self.uncertain.is_none() && self.failing.take().is_some() {
            self.notices.push_back(Notice::Recovered);
        }
    }

    /// Tries again what has failed.
    pub(super) fn try_again(&mut self) {
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
