//! The seals of segments that are full: what is in them, so that the next start need not read them.

use super::seal::{self, Seal};
use super::segment::After;
use super::{Journal, SegmentId};

/// A segment that is full, on the way to its seal.
pub(super) struct Sealing {
    pub segment: SegmentId,
    pub after: After,
    /// Channels that are written down.
    pub channels: usize,
    pub bytes: Vec<u8>,
    /// Of the same, once it is being written.
    pub length: u64,
    pub stage: Stage,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Its channels are being written down.
    Listing,
    /// It is to be written.
    Listed,
    /// It is being written.
    Writing,
}

impl Journal {
    /// Writes down what the seal of a full segment says; some channels at a time.
    pub(super) fn go_on_sealing(&mut self) {
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
    pub(super) fn handle_sealed(&mut self, sealing: &Sealing, result: Result<(), i32>) {
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
    pub(super) fn is_waited_for(&self, segment: SegmentId) -> bool {
        self.batches.iter().any(|batch| batch.segment == segment)
            || self.unsynced.iter().any(|it| it.batch.segment == segment)
            || self.syncing.is_some_and(|(syncing, _)| syncing == segment)
            || self.full.contains(&segment)
    }
}
