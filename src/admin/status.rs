//! How the daemon is doing, as a value: what `ringcast status` and `top`, the page and scripts read.

use serde::{Deserialize, Serialize};

use crate::shard::Refusals;

/// In a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// Every core turns.
    Serving,
    /// Not all shards have had their first turn.
    Starting,
    /// Clients are sent away.
    Draining,
    /// A core stands still.
    Stalled,
}

/// All of it. Rates are over the time between a shard's last two reports, a second or less.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Of the daemon.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// Seconds since its start.
    pub uptime_s: u64,
    /// In a word.
    pub health: Health,
    /// In a sentence, as the service manager hears it.
    pub summary: String,
    /// The last reload, if there was one.
    pub last_reload: Option<LastReload>,
    /// What clients that speak TLS are shown, the default first; empty without TLS.
    #[serde(default)]
    pub certificates: Vec<CertificateStatus>,
    /// By shard.
    pub shards: Vec<ShardStatus>,
}

/// A certificate in use.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CertificateStatus {
    /// Host names and addresses that it is for.
    pub names: Vec<String>,
    /// What its authority calls it, in hexadecimal.
    pub serial: String,
    /// The end of its validity.
    pub not_after: String,
    /// What somebody has to see to soon.
    pub warning: Option<String>,
}

/// When and how a reload went.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LastReload {
    /// Seconds since then.
    pub ago_s: u64,
    /// How it went.
    #[serde(flatten)]
    pub outcome: ReloadOutcome,
}

/// How a reload went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadOutcome {
    /// Why nothing was changed; `None`: the file is in effect on all cores.
    pub error: Option<String>,
    /// Keys that have changed and that only a restart brings into effect.
    pub needs_restart: Vec<String>,
}

impl ReloadOutcome {
    /// Nothing was changed, for this reason.
    pub fn refused(error: String) -> ReloadOutcome {
        ReloadOutcome { error: Some(error), needs_restart: Vec::new() }
    }
}

/// One shard.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ShardStatus {
    /// Its number.
    pub shard: usize,
    /// The CPU that it is pinned to.
    pub core: usize,
    /// Part of its time that it was not asleep, 0 to 1.
    pub load: f64,
    /// Realtime connections with a transport.
    pub connections: u64,
    /// Open sockets.
    pub transports: u64,
    /// Sockets that it accepts at most.
    pub transports_max: u64,
    /// Connections that may be resumed.
    pub dormant_connections: u64,
    /// Channels at home here.
    pub channels: u64,
    /// Channels, formats and views with subscribers here.
    pub streams: u64,
    /// Sends of channel frames a second.
    pub sends_per_s: f64,
    /// Publications a second that were ordered here.
    pub publications_per_s: f64,
    /// Bytes a second that the kernel has taken.
    pub sent_bytes_per_s: f64,
    /// Completions and submissions that have waited in its rings at the start of a turn, at most, in the
    /// last second.
    pub ring_depth: u64,
    /// Mail from other shards that one turn has taken in, at most, in the last second.
    pub mesh_depth: u64,
    /// Mail to other shards that has found no room.
    pub mail_waiting: u64,
    /// Subscribers disconnected because they lagged, since the start.
    pub slow_consumers: u64,
    /// Clients that were not let in, since the start.
    pub refused: Refusals,
    /// Milliseconds since it was last seen to turn.
    pub standstill_ms: u64,
    /// Whether that is too long.
    pub is_stalled: bool,
    /// Times since the start that it was.
    pub stalls: u64,
}
