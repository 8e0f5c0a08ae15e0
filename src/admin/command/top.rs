//! What each core is doing, a line for each, again and again.

use super::table::{Table, count};
use super::{Client, health, is_terminal, json_text, quiet, say};
use crate::admin::status::{ShardStatus, Status};

/// To the upper left, and nothing below.
const CLEAR: &str = "\x1b[H\x1b[J";

pub(super) fn run(client: &Client, once: bool, json: bool) -> anyhow::Result<()> {
    let clear = if is_terminal() && !once && !json { CLEAR } else { "" };
    client.stream("/status/stream", &[], |status: Status| {
        let text = match json {
            true => format!("{}\n", json_text(&status)?),
            false => format!("{clear}{}\n", screen(&status)),
        };
        say(&text).map(|()| !once).or_else(quiet)
    })
}

fn screen(status: &Status) -> String {
    let sum = |of: fn(&ShardStatus) -> f64| status.shards.iter().map(of).sum::<f64>();
    format!(
        "ringcast {}: {}, {}\n{} sends/s, {} publications/s, {} B/s\n\n{}",
        status.version,
        health(status.health),
        status.summary,
        count(sum(|shard| shard.sends_per_s) as u64),
        count(sum(|shard| shard.publications_per_s) as u64),
        count(sum(|shard| shard.sent_bytes_per_s) as u64),
        table(status),
    )
}

/// One line for each shard.
pub(super) fn table(status: &Status) -> String {
    let mut table = Table::new(&[
        "shard",
        "cpu",
        "load",
        "connections",
        "sends/s",
        "publications/s",
        "ring",
        "mesh",
        "mail",
        "slow",
        "stalls",
        "",
    ]);
    for shard in &status.shards {
        table.row([
            shard.shard.to_string(),
            shard.core.to_string(),
            format!("{:.0} %", shard.load * 100.0),
            count(shard.connections),
            count(shard.sends_per_s as u64),
            count(shard.publications_per_s as u64),
            count(shard.ring_depth),
            count(shard.mesh_depth),
            count(shard.mail_waiting),
            count(shard.slow_consumers),
            count(shard.stalls),
            match shard.is_stalled {
                true => format!("STANDS STILL for {} s", shard.standstill_ms / 1000),
                false => String::new(),
            },
        ]);
    }
    table.to_string()
}
