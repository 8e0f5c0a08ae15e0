//! How long events are kept: segments go as a whole, the oldest first.

use std::collections::{BTreeMap, HashSet};

use super::recovery::Known;
use super::sealing::Stage;
use super::{Journal, SegmentId};

impl Journal {
    /// Bytes of the segments that this journal is to remove.
    pub(super) fn disk_bytes(&self) -> u64 {
        let own = self.segments.iter().filter(|(id, _)| self.is_own(**id));
        own.map(|(_, known)| known.bytes).sum()
    }

    fn is_own(&self, id: SegmentId) -> bool {
        id.shard % self.shards == self.shard
    }

    /// Drops the oldest segments, as far as they are too old or there are too many bytes, on disk or of the index.
    pub(super) fn drop_old(&mut self) {
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
