//! `ringcast status` and its like: they come in through the control socket of a daemon on this host, ask, and
//! print. A person reads tables, a script says `--json`.

mod client;
mod table;
mod top;

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;

pub use self::client::{Client, Query, escape};
use self::table::{Table, ago, count};
use super::inspect::{Channels, Connections};
use super::status::{Health, ReloadOutcome, ShardStatus, Status};
use crate::shard::{Refusals, Tapped};

/// The runtime directory that the unit has made, where the socket is when nothing says otherwise.
pub const RUNTIME_DIRECTORY: &str = "/run/ringcast";

/// `status`: the daemon answers, but not every core serves.
const NOT_SERVING: u8 = 3;

/// How to reach the daemon, and how to print.
#[derive(Args, Clone, Debug)]
pub struct ControlFlags {
    /// Control socket of the daemon [default: `admin.socket` of --config, or /run/ringcast/control.sock]
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Configuration file (TOML) of the daemon, for its `admin.socket`
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What to ask a running daemon.
#[derive(Subcommand, Clone, Debug)]
pub enum ControlCommand {
    /// How a running daemon is doing; exits with 3 unless every core serves
    Status {
        /// Where and how.
        #[command(flatten)]
        flags: ControlFlags,
    },
    /// What each core is doing, once a second
    Top {
        /// Print it once
        #[arg(long)]
        once: bool,
        /// Where and how.
        #[command(flatten)]
        flags: ControlFlags,
    },
    /// List connections
    Connections {
        /// Only those of this app
        #[arg(long)]
        app: Option<String>,
        /// How many, at most
        #[arg(long, default_value_t = 50)]
        limit: usize,
        /// Those first that are behind by most bytes (lag), whose send is under way longest (stall), or that
        /// have been there longest (age)
        #[arg(long)]
        sort: Option<Sort>,
        /// Where and how.
        #[command(flatten)]
        flags: ControlFlags,
    },
    /// List channels, by app and name
    Channels {
        /// Only those of this app
        #[arg(long)]
        app: Option<String>,
        /// Only those whose names begin like this
        #[arg(long, default_value = "")]
        prefix: String,
        /// How many, at most
        #[arg(long, default_value_t = 50)]
        limit: usize,
        /// Where and how.
        #[command(flatten)]
        flags: ControlFlags,
    },
    /// Show messages, presence and annotations as channels put them in order, without their data
    Tail {
        /// Only of this channel
        channel: Option<String>,
        /// Only of this app
        #[arg(long)]
        app: Option<String>,
        /// Show their data too
        #[arg(long)]
        data: bool,
        /// Where and how.
        #[command(flatten)]
        flags: ControlFlags,
    },
    /// Have the daemon read its configuration again; returns when it is in effect on all cores
    Reload {
        /// Where and how.
        #[command(flatten)]
        flags: ControlFlags,
    },
}

/// What connections are sorted by.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Sort {
    /// Bytes that they are behind.
    Lag,
    /// How long their send has been under way.
    Stall,
    /// How long they have been there.
    Age,
}

impl ControlCommand {
    /// Where and how.
    pub fn flags(&self) -> &ControlFlags {
        match self {
            ControlCommand::Status { flags }
            | ControlCommand::Top { flags, .. }
            | ControlCommand::Connections { flags, .. }
            | ControlCommand::Channels { flags, .. }
            | ControlCommand::Tail { flags, .. }
            | ControlCommand::Reload { flags } => flags,
        }
    }
}

/// Runs one command against the daemon whose socket is at `socket`; returns the exit code.
///
/// # Errors
/// The daemon cannot be reached, or refuses.
pub fn run(command: &ControlCommand, socket: &Path) -> anyhow::Result<u8> {
    let client = &Client::new(socket)?;
    let json = command.flags().json;
    match command {
        ControlCommand::Status { .. } => status(client, json),
        ControlCommand::Top { once, .. } => top::run(client, *once, json).map(|()| 0),
        ControlCommand::Connections { app, limit, sort, .. } => {
            let sort = sort.map(|sort| match sort {
                Sort::Lag => "lag",
                Sort::Stall => "stall",
                Sort::Age => "age",
            });
            let limit = limit.to_string();
            let query = [("app", app.as_deref()), ("limit", Some(limit.as_str())), ("sort", sort)];
            let found: Connections = client.get("/connections", &query)?;
            print(json, &found, || show_connections(&found))
        }
        ControlCommand::Channels { app, prefix, limit, .. } => {
            let limit = limit.to_string();
            let query = [
                ("app", app.as_deref()),
                ("prefix", Some(prefix.as_str())),
                ("limit", Some(limit.as_str())),
            ];
            let found: Channels = client.get("/channels", &query)?;
            print(json, &found, || show_channels(&found))
        }
        ControlCommand::Tail { channel, app, data, .. } => {
            let data = if *data { "true" } else { "false" };
            let query =
                [("app", app.as_deref()), ("channel", channel.as_deref()), ("data", Some(data))];
            client.stream("/tail", &query, |event: Tapped| {
                match json {
                    true => say(&format!("{}\n", json_text(&event)?)),
                    false => say(&show_tapped(&event)),
                }
                .map(|()| true)
                .or_else(quiet)
            })?;
            Ok(0)
        }
        ControlCommand::Reload { .. } => reload(client, json),
    }
}

fn status(client: &Client, json: bool) -> anyhow::Result<u8> {
    let status: Status = client.get("/status", &[])?;
    print(json, &status, || show_status(&status))?;
    Ok(if status.health == Health::Serving { 0 } else { NOT_SERVING })
}

fn reload(client: &Client, json: bool) -> anyhow::Result<u8> {
    let outcome: ReloadOutcome = client.try_post("/reload")?;
    if json {
        say(&format!("{}\n", json_text(&outcome)?))?;
    }
    match outcome.error {
        Some(error) if !json => anyhow::bail!("nothing was changed: {error}"),
        Some(_) => return Ok(1),
        None if json => {}
        None => {
            say("in effect on all cores\n")?;
            if !outcome.needs_restart.is_empty() {
                let keys = outcome.needs_restart.join(", ");
                say(&format!("changed, but in effect only after a restart: {keys}\n"))?;
            }
        }
    }
    Ok(0)
}

fn print(json: bool, value: &impl Serialize, show: impl FnOnce() -> String) -> anyhow::Result<u8> {
    let text = if json { format!("{}\n", json_text(value)?) } else { show() };
    say(&text)?;
    Ok(0)
}

fn json_text(value: &impl Serialize) -> anyhow::Result<String> {
    Ok(serde_json::to_string(value)?)
}

fn say(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush())
}

/// Whoever reads may stop, as `head` does; that ends a stream, and is no mistake.
fn quiet(error: io::Error) -> anyhow::Result<bool> {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Ok(false),
        _ => Err(error.into()),
    }
}

fn is_terminal() -> bool {
    io::stdout().is_terminal()
}

fn health(health: Health) -> &'static str {
    match health {
        Health::Serving => "serving",
        Health::Starting => "starting",
        Health::Draining => "draining",
        Health::Stalled => "stalled",
    }
}

fn show_status(status: &Status) -> String {
    let sum = |of: fn(&ShardStatus) -> u64| status.shards.iter().map(of).sum::<u64>();
    let mut text = format!(
        "ringcast {}, process {}, up {}\nhealth       {}: {}\nconnections  {} ({} may be resumed)\n\
         channels     {}\n",
        status.version,
        status.pid,
        ago(status.uptime_s),
        health(status.health),
        status.summary,
        count(sum(|shard| shard.connections)),
        count(sum(|shard| shard.dormant_connections)),
        count(sum(|shard| shard.channels)),
    );
    let refusals = status.shards.iter().map(|shard| shard.refused);
    text += &format!("refused      {}\n", refusals.fold(Refusals::default(), Refusals::plus));
    text += "last reload  ";
    match &status.last_reload {
        None => text += "none\n",
        Some(reload) => {
            let how = match &reload.outcome.error {
                Some(error) => format!("refused: {error}"),
                None if reload.outcome.needs_restart.is_empty() => "in effect".into(),
                None => format!("in effect, but {}", reload.outcome.needs_restart.join(", ")),
            };
            text += &format!("{} ago, {how}\n", ago(reload.ago_s));
        }
    }
    for certificate in &status.certificates {
        let (names, until) = (certificate.names.join(", "), &certificate.not_after);
        let warning = certificate.warning.as_ref().map(|warning| format!("; warning: {warning}"));
        text += &format!("certificate  {names}, until {until}{}\n", warning.unwrap_or_default());
    }
    text + "\n" + &top::table(status)
}

fn show_connections(found: &Connections) -> String {
    let mut table = Table::new(&[
        "connection",
        "shard",
        "key",
        "client",
        "over",
        "channels",
        "lag",
        "for",
        "silent",
        "age",
    ]);
    for row in &found.connections {
        table.row([
            row.id.clone(),
            row.shard.to_string(),
            row.key.clone(),
            row.client_id.clone().unwrap_or_else(|| "-".into()),
            format!("{}/{}", row.transport, row.format),
            row.channels.to_string(),
            count(row.lag_bytes) + " B",
            format!("{} ms", row.lag_ms),
            format!("{} s", row.silent_ms / 1000),
            ago(row.age_s),
        ]);
    }
    table.to_string() + &rest(found.has_more, &found.unanswered)
}

fn show_channels(found: &Channels) -> String {
    let mut table = Table::new(&[
        "app",
        "channel",
        "home",
        "attached",
        "subscribers",
        "publishers",
        "members",
        "history",
        "last",
    ]);
    for row in &found.channels {
        table.row([
            row.app.clone(),
            row.channel.clone(),
            row.shard.to_string(),
            row.connections.to_string(),
            row.subscribers.to_string(),
            row.publishers.to_string(),
            row.members.to_string(),
            count(row.history_bytes) + " B",
            row.last_serial.clone(),
        ]);
    }
    table.to_string() + &rest(found.has_more, &found.unanswered)
}

/// What a list does not show.
fn rest(has_more: bool, unanswered: &[usize]) -> String {
    let mut text = String::new();
    if has_more {
        text += "there are more; say --limit\n";
    }
    for shard in unanswered {
        text += &format!("shard {shard} did not answer\n");
    }
    text
}

fn show_tapped(event: &Tapped) -> String {
    let mut text = String::new();
    if event.dropped > 0 {
        text += &format!("... {} left out\n", event.dropped);
    }
    let or_dash = |text: &Option<String>| text.as_deref().unwrap_or("-").escape_debug().to_string();
    text += &format!(
        "{} {} {}/{} name={} client={} id={} {} B",
        event.serial,
        event.kind,
        event.app,
        event.channel.escape_debug(),
        or_dash(&event.name),
        or_dash(&event.client_id),
        or_dash(&event.id),
        event.bytes,
    );
    if let Some(data) = &event.data {
        text += &format!(" {}", data.escape_debug());
    }
    text + "\n"
}
