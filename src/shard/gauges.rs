//! How much a shard holds, in numbers that are at hand: whoever asks holds nothing up.

use super::Shard;
use crate::journal::JournalGauges;

/// What one shard holds now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gauges {
    /// Open sockets, of whatever kind.
    pub transports: u64,
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
    /// Publishes that wait for the answer of a rule.
    pub publishes_waiting: u64,
}

impl Shard {
    /// What it holds now.
    pub fn gauges(&self) -> Gauges {
        Gauges {
            transports: u64::from(self.open_transports),
            connections: self.connections,
            dormant_connections: self.dormant.len() as u64,
            streams: self.streams.len() as u64,
            channels: self.homes.len() as u64,
            history_bytes: self.homes.history_bytes(),
            publishes_waiting: self.gates.waiting() as u64,
            journal: self.journal_gauges(),
            mail_waiting: self.outboxes.iter().map(|outbox| outbox.len() as u64).sum(),
        }
    }
}
