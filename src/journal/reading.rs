//! Queries, and the reads that answer them.

use std::collections::VecDeque;

use super::index::{Extent, Query};
use super::segment::{Stored, events_of};
use super::writing::Batch;
use super::{Answer, Command, ENOENT, Journal, Notice};
use crate::ably::Direction;

/// Reads under way at once.
const READS_MAX: usize = 4;

/// Queries that wait for their answers, at most.
const QUERIES_MAX: usize = 1024;

/// A query that is being answered.
pub(super) struct Reading {
    pub query: Query,
    /// What is yet to be read.
    pub plan: VecDeque<Extent>,
    /// Events that have to be written before.
    pub behind: u64,
    /// In the order of reading; the events of each piece oldest first.
    pub pieces: Vec<Vec<Stored>>,
    pub messages: u32,
    pub bytes: u64,
    pub is_damaged: bool,
}

impl Journal {
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

    pub(super) fn poll_read(&mut self) -> Option<Command> {
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

    pub(super) fn handle_read(&mut self, number: u64, result: Result<Vec<u8>, i32>) {
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
}
