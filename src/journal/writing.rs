//! From events to files: batches, one segment after the other, writes and synchronisations.

use bytes::{Bytes, BytesMut};

use super::index::Note;
use super::recovery::Known;
use super::segment::After;
use super::{Journal, Safety, SegmentId};

/// Bytes of one write, unless one event is longer.
const WRITE_BYTES_MAX: usize = 1 << 20;

/// The segment that is being filled, or the next one.
#[derive(Clone, Copy)]
pub(super) struct Open {
    pub id: SegmentId,
    pub is_made: bool,
}

/// Events that are written together.
pub(super) struct Batch {
    pub segment: SegmentId,
    pub offset: u32,
    pub bytes: BytesMut,
    /// Bytes at the beginning that belong to the segment, not to events.
    pub lead: usize,
    /// What those say.
    pub previous: Option<(u64, u32)>,
    /// Number of the last event before it.
    pub before: u64,
    /// Number of the last event in it.
    pub up_to: u64,
    /// Places within the batch, without its lead.
    pub notes: Vec<Note>,
    /// Of the same events: their numbers, and what somebody waits for.
    pub awaits: Vec<(u64, Option<Safety>)>,
    pub wants_sync: bool,
}

/// What was written and waits for a synchronisation.
pub(super) struct Unsynced {
    pub batch: Batch,
    /// The same bytes, frozen for the write.
    pub bytes: Bytes,
}

impl Journal {
    /// Finds the batch for a record of about `bytes`, perhaps in another segment; returns how far that
    /// one is filled.
    pub(super) fn begin_record(&mut self, bytes: usize) -> u32 {
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
    pub(super) fn next_segment(&mut self) {
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
    pub(super) fn make_ready(&mut self) {
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
    pub(super) fn is_to_make(&self) -> bool {
        self.is_making || !self.to_make.is_empty()
    }

    pub(super) fn make_spare(&mut self) {
        let id = SegmentId { shard: self.shard, number: self.next_number };
        self.next_number += 1;
        self.to_make.push_back(id);
        self.spare = Some(Open { id, is_made: false });
    }

    pub(super) fn handle_created(&mut self, segment: SegmentId, result: Result<(), i32>) {
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

    pub(super) fn handle_written(&mut self, segment: SegmentId, result: Result<(), i32>) {
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

    pub(super) fn handle_synced(&mut self, segment: SegmentId, result: Result<(), i32>) {
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
}
