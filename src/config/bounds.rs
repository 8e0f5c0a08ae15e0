//! What bounds memory and time: what clients can make the daemon hold, and how much of the past is kept.

use std::time::Duration;

use crate::base::Networks;
use crate::config::reader::{ConfigError, Section};
use crate::config::units::{self, KIB, MIB};
use crate::journal::JournalConfig;
use crate::sys::listener::ListenerConfig;

/// Bounds on what clients can make the daemon hold; each bounds memory or time.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of one publish, counted as Ably counts them; sent as `maxMessageSize` (CD2c).
    pub message_bytes_max: usize,
    /// Bytes of one WebSocket message or request body; sent as `maxFrameSize` (CD2d).
    pub frame_bytes_max: usize,
    /// Bytes that a connection may lag behind, the kernel's included, before it counts as slow.
    pub outbound_lag_bytes_max: usize,
    /// Age of the oldest byte that a connection has not taken, before it counts as slow.
    pub outbound_lag_max: Duration,
    /// Channels that one connection may be attached to.
    pub channels_per_connection_max: usize,
    /// Publishes of one connection that may wait for their ACK; reading stops until one returns.
    pub publishes_in_flight_max: usize,
    /// Messages that one connection may publish in a second; 0: no bound.
    pub messages_per_second_max: usize,
    /// Protocol messages that one connection may send in a second; 0: no bound.
    pub payloads_per_second_max: usize,
    /// Realtime transports that may begin in a second on one shard; 0: no bound.
    pub connects_per_second_max: usize,
    /// Realtime transports that one address may have; 0: no bound.
    pub connections_per_address_max: usize,
    /// Realtime transports that one key may have; 0: no bound.
    pub connections_per_key_max: usize,
    /// Addresses that have no bound.
    pub uncounted_addresses: Networks,
    /// Bytes of the presence members of one channel, their data and what goes with it.
    pub presence_bytes_max: usize,
    /// Channels that are open on one shard; `None`: as many as a part of the memory holds.
    pub channels_max: Option<usize>,
    /// How long a client may take to send a whole request head.
    pub head_timeout: Duration,
    /// Entries of the mailbox from each shard to each other.
    pub mesh_entries: usize,
}

/// Times that clients are told when they connect.
#[derive(Clone, Debug)]
pub struct ConnectionTimes {
    /// Longest silence towards a client before a HEARTBEAT; sent as `maxIdleInterval` (CD2h).
    pub idle_interval: Duration,
    /// How long a connection outlives its transport; sent as `connectionStateTtl` (CD2f).
    pub state_ttl: Duration,
    /// How long presence members stay after their connection was lost, unless a client says otherwise.
    pub remain_present: Duration,
}

/// How much of each channel's past is kept in memory, for history and resume.
#[derive(Clone, Debug)]
pub struct HistoryBounds {
    /// Age at which a message is dropped.
    pub retention: Duration,
    /// Bytes of one channel's past.
    pub channel_bytes_max: usize,
    /// Bytes of the past of all channels that one shard is home of.
    pub shard_bytes_max: usize,
}

/// How much of persisted channels is kept on disk.
#[derive(Clone, Debug)]
pub struct LogBounds {
    /// Age at which a message is dropped.
    pub retention: Duration,
    /// Bytes of the messages of all channels that one shard is home of.
    pub shard_bytes_max: usize,
    /// Bytes that may wait for the disk, of one shard.
    pub waiting_bytes_max: usize,
    /// Bytes of memory for where the messages lie, of one shard.
    pub index_bytes_max: usize,
}

/// Connections that an address or a key may be allowed; more than a host holds.
pub(super) const CONNECTIONS_MAX: usize = 100_000_000;

/// Longest spin: beyond that a core that spins saves nothing against one that never sleeps.
pub(super) const BUSY_POLL_US_MAX: usize = 100_000;

impl Limits {
    /// What is left of `outbound_lag_bytes_max` for the daemon's own memory: a client that is behind
    /// has a full socket buffer too, and the kernel doubles its size. One frame has to fit in any case.
    pub(super) fn lag_bytes_max(&self, listener: &ListenerConfig) -> u32 {
        let kernel_bytes = 2 * listener.send_buffer_bytes as usize;
        let own_bytes = self.outbound_lag_bytes_max.saturating_sub(kernel_bytes);
        own_bytes.max(self.frame_bytes_max) as u32
    }

    pub(super) fn read(&mut self, mut section: Section) -> Result<(), ConfigError> {
        let bytes = units::bytes(KIB..=16 * MIB);
        section.read("message_bytes_max", &mut self.message_bytes_max, bytes)?;
        let bytes = units::bytes(KIB..=64 * MIB);
        section.read("frame_bytes_max", &mut self.frame_bytes_max, bytes)?;
        let bytes = units::bytes(64 * KIB..=1024 * MIB);
        section.read("outbound_lag_bytes_max", &mut self.outbound_lag_bytes_max, bytes)?;
        let seconds = units::duration("1s"..="10m");
        section.read("outbound_lag_max", &mut self.outbound_lag_max, seconds)?;
        let channels = units::count(1..=100_000);
        section.read(
            "channels_per_connection_max",
            &mut self.channels_per_connection_max,
            channels,
        )?;
        let publishes = units::count(1..=65_536);
        section.read("publishes_in_flight_max", &mut self.publishes_in_flight_max, publishes)?;
        let rate = || units::count(0..=1_000_000);
        section.read("messages_per_second_max", &mut self.messages_per_second_max, rate())?;
        section.read("payloads_per_second_max", &mut self.payloads_per_second_max, rate())?;
        section.read("connects_per_second_max", &mut self.connects_per_second_max, rate())?;
        let (address_max, key_max) =
            (&mut self.connections_per_address_max, &mut self.connections_per_key_max);
        section.read(
            "connections_per_address_max",
            address_max,
            units::count(0..=CONNECTIONS_MAX),
        )?;
        section.read("connections_per_key_max", key_max, units::count(0..=CONNECTIONS_MAX))?;
        section.read("uncounted_addresses", &mut self.uncounted_addresses, units::networks)?;
        let presence = units::bytes(64 * KIB..=1024 * MIB);
        section.read("presence_bytes_max", &mut self.presence_bytes_max, presence)?;
        let count = units::count(1..=100_000_000);
        section.read("channels_max", &mut self.channels_max, |value| count(value).map(Some))?;
        section.read("head_timeout", &mut self.head_timeout, units::duration("1s"..="5m"))?;
        section.read("mesh_entries", &mut self.mesh_entries, units::count(16..=65_536))?;
        if self.frame_bytes_max < self.message_bytes_max {
            return Err(section.error("frame_bytes_max", "is smaller than message_bytes_max"));
        }
        if self.outbound_lag_bytes_max < self.frame_bytes_max {
            let why = "is smaller than frame_bytes_max: one message would make everybody slow";
            return Err(section.error("outbound_lag_bytes_max", why));
        }
        section.finish()
    }
}

impl ConnectionTimes {
    pub(super) fn read(&mut self, mut section: Section) -> Result<(), ConfigError> {
        section.read("idle_interval", &mut self.idle_interval, units::duration("1s"..="10m"))?;
        section.read("state_ttl", &mut self.state_ttl, units::duration("1s"..="1h"))?;
        section.read("remain_present", &mut self.remain_present, units::duration("1s"..="1h"))?;
        section.finish()
    }
}

impl LogBounds {
    pub(super) fn read(&mut self, mut section: Section) -> Result<(), ConfigError> {
        section.read("retention", &mut self.retention, units::duration("1m"..="8760h"))?;
        let bytes = units::bytes(64 * MIB..=16 * 1024 * 1024 * MIB);
        section.read("shard_bytes_max", &mut self.shard_bytes_max, bytes)?;
        let bytes = units::bytes(64 * KIB..=8 * MIB);
        section.read("waiting_bytes_max", &mut self.waiting_bytes_max, bytes)?;
        let bytes = units::bytes(16 * MIB..=1024 * 1024 * MIB);
        section.read("index_bytes_max", &mut self.index_bytes_max, bytes)?;
        section.finish()
    }

    pub(super) fn to_journal(&self) -> JournalConfig {
        JournalConfig {
            retention: self.retention,
            bytes_max: self.shard_bytes_max as u64,
            waiting_bytes_max: self.waiting_bytes_max as u64,
            index_bytes_max: self.index_bytes_max as u64,
            ..JournalConfig::default()
        }
    }
}

impl HistoryBounds {
    pub(super) fn read(&mut self, mut section: Section) -> Result<(), ConfigError> {
        section.read("retention", &mut self.retention, units::duration("1s"..="24h"))?;
        let bytes = units::bytes(64 * KIB..=64 * 1024 * MIB);
        section.read("channel_bytes_max", &mut self.channel_bytes_max, bytes)?;
        let bytes = units::bytes(64 * KIB..=64 * 1024 * MIB);
        section.read("shard_bytes_max", &mut self.shard_bytes_max, bytes)?;
        if self.shard_bytes_max < self.channel_bytes_max {
            return Err(section.error("shard_bytes_max", "is smaller than channel_bytes_max"));
        }
        section.finish()
    }
}
