//! What a configuration takes of the host. An estimate, from bounds that are configured and sizes that were
//! measured: it says which order of magnitude to expect, and which limit is met first.

use std::fmt::Write;

use serde::Serialize;

use super::facts::Facts;
use crate::server::{LOCKED_BYTES_PER_SHARD, ServerConfig};
use crate::shard::BYTES_PER_CHANNEL;
use crate::tls::IDLE_SESSION_BYTES;

/// Bytes that the daemon holds for an idle connection, at most; docs/benchmarks.md.
const BYTES_PER_CONNECTION: u64 = 520;

/// An entry of a ring's table.
const TABLE_ENTRY_BYTES: u64 = 8;

/// Files that a shard opens: listener, rings of its executor, eventfds. Each further ring adds two.
const FILES_PER_SHARD: u64 = 15;
const FILES_PER_RING: u64 = 2;
/// Standard streams, log, signals, admin, and some for rules' requests.
const FILES_OF_PROCESS: u64 = 64;

/// One resource.
#[derive(Debug, Serialize)]
pub struct Row {
    /// The resource.
    pub resource: &'static str,
    /// What the daemon may take.
    pub takes: u64,
    /// The same in words, with what it is made of.
    #[serde(skip)]
    detail: String,
    /// What the host allows or has; `None`: not known, or no bound.
    pub allows: Option<u64>,
    #[serde(skip)]
    allows_detail: String,
}

/// What is known beside the server's configuration.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Beside {
    /// Bytes of events of rules that may wait.
    pub rules_bytes_max: u64,
    /// Whether any messages are kept on disk.
    pub has_persisted: bool,
    /// Bytes that are free there, or taken by them already; `None`: not known.
    pub disk_bytes: Option<u64>,
}

/// See the module text.
#[derive(Debug, Serialize)]
pub struct Plan {
    /// By resource.
    pub rows: Vec<Row>,
}

impl Plan {
    pub(super) fn new(config: &ServerConfig, beside: Beside, facts: &Facts) -> Plan {
        let files_max = facts.files.soft.unwrap_or(u64::MAX);
        let shards: Vec<ServerConfig> = config.of_shards(files_max).collect();
        let sum = |of: &dyn Fn(&ServerConfig) -> u64| shards.iter().map(of).sum::<u64>();
        let rings = sum(&|shard| shard.ring_count().into());
        let connections = sum(&|shard| shard.connections_max.into());
        let table_max = shards.iter().map(|shard| shard.ring.table_entries).max().unwrap_or(0);
        let ring_bytes = sum(&|shard| {
            let ring = &shard.ring;
            let buffers = u64::from(ring.receive_buffers) * u64::from(ring.receive_buffer_bytes);
            let table = u64::from(ring.table_entries) * TABLE_ENTRY_BYTES;
            u64::from(shard.ring_count()) * (ring.queue_bytes() + table + buffers)
        });
        let count = config.shards as u64;
        let memory = facts.memory_max_bytes.into_iter().chain(facts.memory_available_bytes).min();
        // The kernel doubles what it is asked for.
        let socket_bytes = 2 * u64::from(config.listener.send_buffer_bytes);
        let history = config.shard.history.shard_bytes_max;
        let channels = config.shard.channels_max as u64;
        let idle = connections * BYTES_PER_CONNECTION;
        let row = |resource, takes, detail: String, allows: Option<u64>, allows_detail: &str| Row {
            resource,
            takes,
            detail,
            allows,
            allows_detail: allows_detail.into(),
        };
        let mut rows = vec![
            row(
                "connections",
                connections,
                format!("{count} shards on CPUs {:?}, {rings} socket rings", config.cores),
                None,
                "",
            ),
            row(
                "sockets of a ring",
                table_max.into(),
                "its table; they take no files of the process".into(),
                facts.files.soft,
                "RLIMIT_NOFILE",
            ),
            row(
                "open files",
                FILES_OF_PROCESS
                    + FILES_PER_SHARD * count
                    + FILES_PER_RING * rings.saturating_sub(count),
                "listeners, rings, log, requests of rules".into(),
                facts.files.soft,
                "RLIMIT_NOFILE",
            ),
            row(
                "locked bytes",
                config.locked_bytes(files_max, &facts.kernel),
                match config.locked_queue_bytes(files_max, &facts.kernel) {
                    0 => format!("{} for each shard", size(LOCKED_BYTES_PER_SHARD)),
                    queues => format!(
                        "{} for each shard, {} of queues",
                        size(LOCKED_BYTES_PER_SHARD),
                        size(queues)
                    ),
                },
                facts.locked_bytes_max(),
                "RLIMIT_MEMLOCK",
            ),
            row(
                "bytes of rings",
                ring_bytes,
                "queues, tables, receive buffers".into(),
                memory,
                "memory",
            ),
            row(
                "bytes of connections",
                idle,
                format!("{BYTES_PER_CONNECTION} for each, idle, at the maximum"),
                memory,
                "memory",
            ),
            row(
                "bytes of history",
                history * count,
                format!("{} for each shard, at most", size(history)),
                memory,
                "memory",
            ),
            row(
                "bytes of channels",
                channels * count * BYTES_PER_CHANNEL,
                format!("{BYTES_PER_CHANNEL} for each of {channels} of a shard, at the maximum"),
                memory,
                "memory",
            ),
        ];
        if config.tls.is_some() {
            let takes = connections * IDLE_SESSION_BYTES;
            let detail =
                format!("{IDLE_SESSION_BYTES} for each connection, if all of them speak TLS");
            rows.push(row("bytes of TLS", takes, detail, memory, "memory"));
        }
        if let Some((_, journal)) = config.journal.as_ref().filter(|_| beside.has_persisted) {
            let detail = format!("the message log, {} for each shard", size(journal.bytes_max));
            let takes = journal.bytes_max * count;
            rows.push(row("bytes on disk", takes, detail, beside.disk_bytes, "free or its own"));
            let index = journal.index_bytes_max;
            let detail = format!("where its messages lie, {} for each shard at most", size(index));
            rows.push(row("bytes of the log", index * count, detail, memory, "memory"));
        }
        if beside.rules_bytes_max > 0 {
            let detail = "events of rules that wait, at most".into();
            rows.push(row("bytes of rules", beside.rules_bytes_max, detail, memory, "memory"));
        }
        rows.push(row(
            "bytes in the kernel",
            connections * socket_bytes,
            format!("{} for each connection, if all of them stop reading", size(socket_bytes)),
            facts.tcp_pressure_bytes,
            "tcp_mem",
        ));
        Plan { rows }
    }

    /// Bytes that the daemon itself may hold.
    pub(super) fn memory_bytes(&self) -> u64 {
        self.own_memory().map(|(row, _)| row.takes).sum()
    }

    /// What takes most of it, and the key that bounds it.
    pub(super) fn largest(&self) -> (&Row, &'static str) {
        self.own_memory().max_by_key(|(row, _)| row.takes).expect("some are always there")
    }

    fn own_memory(&self) -> impl Iterator<Item = (&Row, &'static str)> {
        const OWN: [(&str, &str); 7] = [
            ("bytes of rings", "socket.receive_buffers"),
            ("bytes of connections", "socket.connections_max"),
            ("bytes of TLS", "socket.connections_max"),
            ("bytes of history", "history.shard_bytes_max"),
            ("bytes of channels", "limits.channels_max"),
            ("bytes of rules", "rules.waiting_bytes_max"),
            ("bytes of the log", "log.index_bytes_max"),
        ];
        OWN.into_iter().filter_map(|(resource, key)| Some((self.find(resource)?, key)))
    }

    pub(super) fn row(&self, resource: &str) -> &Row {
        self.find(resource).expect("one that is always there")
    }

    pub(super) fn find(&self, resource: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.resource == resource)
    }

    /// A line for each resource.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for row in &self.rows {
            let show = |number: u64| match row.resource.contains("bytes") {
                true => size(number),
                false => number.to_string(),
            };
            let _ = write!(text, "{:<21} {:>10}  {}", row.resource, show(row.takes), row.detail);
            let _ = match row.allows {
                Some(allows) => {
                    let mark = if row.takes > allows { ", too little" } else { "" };
                    writeln!(text, " ({}: {}{mark})", row.allows_detail, show(allows))
                }
                None => writeln!(text),
            };
        }
        text
    }
}

/// Bytes, rounded to three digits.
pub(super) fn size(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = if value >= 100.0 || value.fract() == 0.0 { 0 } else { 1 };
    format!("{value:.digits$} {}", units[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_takes_what_the_documentation_says() {
        let text = include_str!("../../docs/architecture.md");
        let told = format!("An idle session is some {:.1} KB", IDLE_SESSION_BYTES as f64 / 1000.0);
        assert!(text.contains(&told), "{told}");
    }

    #[test]
    fn sizes_are_short() {
        for (bytes, shown) in
            [(0, "0 B"), (768 << 10, "768 KiB"), (3 << 19, "1.5 MiB"), (25 << 29, "12.5 GiB")]
        {
            assert_eq!(size(bytes), shown);
        }
    }
}
