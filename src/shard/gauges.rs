//! How much a shard holds and how long things take, in numbers that are at hand: whoever asks holds nothing
//! up.

use super::mail::Outbox;
use super::{ReturnAddress, Shard};
use crate::base::{Backlogs, Latencies, Sizes};
use crate::channel::log::TransportRef;
use crate::journal::JournalGauges;

/// What one shard holds now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gauges {
    /// Open sockets, of whatever kind.
    pub transports: u64,
    /// Of them, those that a drain has not sent away yet.
    pub unsent_away: u64,
    /// Realtime connections that have a transport.
    pub connections: u64,
    /// Realtime connections that have lost theirs and may be resumed.
    pub dormant_connections: u64,
    /// Streams: what local subscribers see of a channel, once for each format, name and view.
    pub streams: u64,
    /// Channels that are at home here.
    pub channels: u64,
    /// Bytes of these channels' histories.
    pub history_bytes: u64,
    /// What the message log holds.
    pub journal: JournalGauges,
    /// Mail that has found no room in the mesh yet.
    pub mail_waiting: u64,
    /// Bytes of messages in it.
    pub mail_waiting_bytes: u64,
    /// Publishes that wait for the answer of a rule.
    pub publishes_waiting: u64,
    /// Addresses and keys whose connections are counted here.
    pub seat_holders: u64,
}

/// How long things have taken and how large they were, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Histograms {
    /// From the arrival of a publish to its acknowledgement, in microseconds; of one at a time.
    pub publish_us: Latencies,
    /// From the arrival of frames on this core to the last send of them, for each round of sends.
    pub round_us: Latencies,
    /// Of each publication at home here.
    pub publication_bytes: Sizes,
    /// What subscribers were behind that were disconnected for it.
    pub slow_consumer_bytes: Backlogs,
}

/// A publish that has not come back for so long is not waited for any more, in microseconds.
const TIMED_MAX_US: u32 = 10_000_000;

/// Takes the time of one publish after another, so that none of them has to carry it along.
#[derive(Debug, Default)]
pub(super) struct PublishTimer {
    /// Whose publish, its number, and when it came.
    timed: Option<(TransportRef, u64, u32)>,
}

impl PublishTimer {
    pub fn begin(&mut self, of: ReturnAddress, clock_us: u32) {
        let is_free =
            self.timed.is_none_or(|(.., then)| clock_us.wrapping_sub(then) > TIMED_MAX_US);
        if is_free {
            self.timed = Some((of.transport, of.request, clock_us));
        }
    }

    /// How long it has taken, if it was this one.
    pub fn end(&mut self, transport: TransportRef, request: u64, clock_us: u32) -> Option<u64> {
        let is_it =
            |(of, number, _): &mut (TransportRef, u64, u32)| *of == transport && *number == request;
        let (.., then) = self.timed.take_if(is_it)?;
        Some(u64::from(clock_us.wrapping_sub(then)))
    }
}

impl Shard {
    /// How long things have taken.
    pub fn histograms(&self) -> Histograms {
        self.histograms
    }

    /// What it holds now.
    pub fn gauges(&self) -> Gauges {
        Gauges {
            transports: u64::from(self.open_transports),
            unsent_away: self.unsent_away(),
            connections: self.connections,
            dormant_connections: self.dormant.len() as u64,
            streams: self.streams.len() as u64,
            channels: self.homes.len() as u64,
            history_bytes: self.homes.history_bytes(),
            publishes_waiting: self.gates.waiting() as u64,
            seat_holders: self.seats.holders() as u64,
            journal: self.journal_gauges(),
            mail_waiting: self.outboxes.iter().map(|outbox| outbox.len() as u64).sum(),
            mail_waiting_bytes: self.outboxes.iter().map(Outbox::message_bytes).sum(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_publish_at_a_time_is_timed() {
        let mut timer = PublishTimer::default();
        let of = |index, request| ReturnAddress {
            shard: 0,
            transport: TransportRef { index, generation: 1 },
            request,
        };
        timer.begin(of(1, 7), u32::MAX - 9);
        timer.begin(of(2, 8), 0);
        assert_eq!(timer.end(of(2, 8).transport, 8, 5), None);
        assert_eq!(timer.end(of(1, 7).transport, 8, 5), None);
        assert_eq!(timer.end(of(1, 7).transport, 7, 5), Some(15));
        assert_eq!(timer.end(of(1, 7).transport, 7, 5), None);
        // One that never comes back is not waited for longer than that.
        timer.begin(of(1, 9), 100);
        timer.begin(of(2, 9), 101 + TIMED_MAX_US);
        assert_eq!(timer.end(of(2, 9).transport, 9, 103 + TIMED_MAX_US), Some(2));
    }
}
