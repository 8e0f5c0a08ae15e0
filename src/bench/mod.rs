//! The load generator behind `ringcast bench`: connects subscribers, publishes, checks order, gaps and
//! duplicates of every delivery, and says what it cost the server.
//!
//! It runs beside the daemon as a process of its own. With `floor` it measures a server that speaks no
//! protocol at all (`benches/floor.rs`), so that the daemon can be held against what the kernel costs.
#![allow(clippy::disallowed_methods, reason = "a client of its own: it reads clocks and waits")]

mod histogram;
mod proc;
mod publisher;
mod subscribers;

use std::io::{IsTerminal, Write};
use std::net::SocketAddrV4;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail, ensure};
use bytes::Bytes;
use clap::Args;
use serde::Serialize;

use self::histogram::Histogram;
use self::proc::Reading;
use self::publisher::Publisher;
use self::subscribers::{Part, Shared, WINDOW};
use crate::sys::host;
use crate::tls::Trust;

/// Direct descriptors that a ring's table has beside those of its subscribers.
const TABLE_RESERVE: u32 = 64;

/// How long nobody may be attached, or nothing delivered, before the run is given up.
const STUCK: Duration = Duration::from_secs(30);

/// Measure fan-out: N subscribers of one channel, messages published, every delivery checked
#[derive(Args, Clone, Debug)]
pub struct BenchArgs {
    /// Where the server listens
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:8080")]
    server: SocketAddrV4,
    /// Where subscribers connect with TLS, one handshake each; who publishes stays with --server
    #[arg(long, value_name = "ADDR:PORT", requires = "tls_ca", conflicts_with = "floor")]
    tls: Option<SocketAddrV4>,
    /// Authority (PEM) that has signed the certificate, which has to name that address
    #[arg(long, value_name = "FILE", requires = "tls")]
    tls_ca: Option<PathBuf>,
    /// Key to connect with
    #[arg(long, value_name = "appId.keyId:secret", default_value = "")]
    key: String,
    /// Connections that attach to the channel
    #[arg(long, value_name = "N", default_value_t = 1000)]
    subscribers: u32,
    /// Messages to publish
    #[arg(long, value_name = "N", default_value_t = 100)]
    messages: u64,
    /// Messages under way at a time: the next is published when the oldest has reached everybody
    #[arg(long, value_name = "N", default_value_t = 1)]
    outstanding: u64,
    /// Publish at this many messages a second instead, whatever was delivered
    #[arg(long, value_name = "N")]
    rate: Option<u64>,
    /// Bytes of a message's data, at least 10
    #[arg(long, value_name = "BYTES", default_value_t = 128)]
    size: usize,
    /// The channel
    #[arg(long, value_name = "NAME", default_value = "bench")]
    channel: String,
    /// Subscribers in a hundred that stop reading once they are attached
    #[arg(long, value_name = "PERCENT", default_value_t = 0)]
    stall_percent: u32,
    /// Seconds to hold the connections without traffic, and measure, before the first message
    #[arg(long, value_name = "SECONDS", default_value_t = 1)]
    idle: u64,
    /// Process whose CPU time and memory are the server's
    #[arg(long, value_name = "PID")]
    pid: u32,
    /// End the server afterwards (SIGTERM), and check that everybody is told so before the connection ends
    #[arg(long, conflicts_with = "floor")]
    drain: bool,
    /// The server is benches/floor.rs; messages are bytes to its port plus one
    #[arg(long)]
    floor: bool,
    /// Writes the report to this file as well, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// What was measured; times in microseconds unless named otherwise.
#[derive(Debug, Serialize)]
struct Report {
    tls: bool,
    subscribers: u32,
    stalled: u32,
    messages: u64,
    outstanding: u64,
    rate: Option<u64>,
    frame_bytes: u64,
    connects_per_second: f64,
    server_us_per_connect: f64,
    resident_bytes_per_connection: f64,
    resident_bytes: u64,
    idle_core_percent: f64,
    seconds: f64,
    deliveries: u64,
    deliveries_per_second: f64,
    server_us_per_delivery: f64,
    busy_us_per_delivery: f64,
    first_us_p50: u64,
    last_us_p50: u64,
    last_us_max: u64,
    latency_us_p50: u64,
    latency_us_p99: u64,
    latency_us_p999: u64,
    drain: Option<Drained>,
}

/// How the server ended.
#[derive(Clone, Copy, Debug, Serialize)]
struct Drained {
    /// From the signal to when a tenth, half and all of the subscribers that read were told.
    told_us_p10: u64,
    told_us_p50: u64,
    told_us_max: u64,
    /// CPU of the server from the signal on, by subscriber.
    server_us_per_subscriber: f64,
    /// From the signal to the end of the process.
    ended_us: u64,
}

/// Runs one measurement and prints it.
///
/// # Errors
/// The server cannot be reached or refuses, or a delivery was wrong: missing, repeated or out of order.
pub fn run(args: &BenchArgs) -> anyhow::Result<()> {
    ensure!(args.size >= 10, "--size has to hold the ten digits of a message's number");
    ensure!((1..=1024).contains(&args.outstanding), "--outstanding is 1 to 1024");
    ensure!(args.stall_percent < 100, "somebody has to read");
    let before = Reading::take(args.pid)?;
    let shared = Arc::new(Shared::new());
    let parts = parts(args)?;
    let publisher_thread = thread::current();
    let threads: Vec<_> = parts
        .iter()
        .cloned()
        .map(|part| {
            let (shared, publisher) = (Arc::clone(&shared), publisher_thread.clone());
            let name = format!("part-{}", part.first);
            let run = move || subscribers::run(&part, &shared, &publisher);
            thread::Builder::new().name(name).spawn(run)
        })
        .collect::<Result<_, _>>()?;
    let running = || threads.iter().all(|thread| !thread.is_finished());

    let connecting = Instant::now();
    let mut progress = Progress::default();
    let mut attached = (0, connecting);
    while attached.0 < args.subscribers && running() {
        thread::sleep(Duration::from_millis(5));
        let count = shared.attached.load(Ordering::Relaxed);
        if count > attached.0 {
            attached = (count, Instant::now());
        }
        if attached.1.elapsed() > STUCK {
            bail!("{count} subscribers are attached, and none more within {} s", STUCK.as_secs());
        }
        progress.show("attached", count.into());
    }
    let connect_seconds = connecting.elapsed().as_secs_f64();
    let connected = Reading::take(args.pid)?;
    // Allocators and kernel threads come to rest.
    thread::sleep(Duration::from_secs(1));
    let idle_before = Reading::take(args.pid)?;
    thread::sleep(Duration::from_secs(args.idle));
    let idle_after = Reading::take(args.pid)?;

    let mut publisher = Publisher::connect(args)?;
    let start = Reading::take(args.pid)?;
    let publishing = Instant::now();
    if running() {
        publish(args, &shared, parts.len(), &mut publisher, &mut progress, &running)?;
    }
    let seconds = publishing.elapsed().as_secs_f64();
    let end = Reading::take(args.pid)?;
    let reading = args.subscribers - parts.iter().map(|part| part.stalled).sum::<u32>();
    let has_drained = args.drain && running();
    let mut drained = match has_drained {
        true => Some(drain(args, &shared, reading, &mut progress)?),
        false => None,
    };
    progress.clear();

    shared.messages.store(args.messages, Ordering::Relaxed);
    let (mut latency, mut told) = (Histogram::default(), Histogram::default());
    let failed = !has_drained && !running();
    if !has_drained {
        publisher.nudge(args.messages)?;
    }
    for thread in threads {
        if failed && !thread.is_finished() {
            // Another part has failed and says why; this one waits for messages that do not come.
            continue;
        }
        let outcome = thread.join().expect("no part panics")?;
        latency.add(&outcome.latency);
        told.add(&outcome.told);
    }
    if let Some(drained) = &mut drained {
        drained.told_us_p10 = told.quantile(0.1);
        drained.told_us_p50 = told.quantile(0.5);
        drained.told_us_max = told.quantile(1.0);
    }

    let deliveries = u64::from(reading) * args.messages;
    ensure!(shared.delivered.load(Ordering::Relaxed) >= deliveries, "deliveries are missing");
    let subscribers = f64::from(args.subscribers);
    let (mut first, mut last) = (Histogram::default(), Histogram::default());
    for at in 0..(args.messages as usize).min(WINDOW) {
        let sent_us = shared.sent_us[at].load(Ordering::Relaxed);
        first.record(shared.first_us[at].load(Ordering::Relaxed).saturating_sub(sent_us));
        last.record(shared.last_us[at].load(Ordering::Relaxed).saturating_sub(sent_us));
    }
    let report = Report {
        tls: args.tls.is_some(),
        subscribers: args.subscribers,
        stalled: args.subscribers - reading,
        messages: args.messages,
        outstanding: args.outstanding,
        rate: args.rate,
        frame_bytes: shared.frame_bytes.load(Ordering::Relaxed),
        connects_per_second: subscribers / connect_seconds,
        server_us_per_connect: connected.process_us_since(&before) / subscribers,
        resident_bytes_per_connection: idle_after
            .resident_bytes
            .saturating_sub(before.resident_bytes) as f64
            / subscribers,
        resident_bytes: end.resident_bytes,
        idle_core_percent: idle_after.process_us_since(&idle_before) / args.idle as f64 / 1e4,
        seconds,
        deliveries,
        deliveries_per_second: deliveries as f64 / seconds,
        server_us_per_delivery: end.process_us_since(&start) / deliveries as f64,
        busy_us_per_delivery: end.busy_us_since(&start) / deliveries as f64,
        first_us_p50: first.quantile(0.5),
        last_us_p50: last.quantile(0.5),
        last_us_max: last.quantile(1.0),
        latency_us_p50: latency.quantile(0.5),
        latency_us_p99: latency.quantile(0.99),
        latency_us_p999: latency.quantile(0.999),
        drain: drained,
    };
    report.print()?;
    if let Some(path) = &args.json {
        let json = serde_json::to_string_pretty(&report)?;
        std::fs::write(path, json + "\n").with_context(|| path.display().to_string())?;
    }
    Ok(())
}

/// Publishes all messages, keeping the window or the rate.
fn publish(
    args: &BenchArgs,
    shared: &Shared,
    parts: usize,
    publisher: &mut Publisher,
    progress: &mut Progress,
    running: &impl Fn() -> bool,
) -> anyhow::Result<()> {
    let remaining = |message: u64| &shared.remaining[message as usize % WINDOW];
    let begun = Instant::now();
    let (mut published, mut delivered) = (0, 0);
    let mut moved = Instant::now();
    while delivered < args.messages {
        let due = match args.rate {
            None => delivered + args.outstanding,
            Some(rate) => (begun.elapsed().as_micros() as u64 * rate / 1_000_000 + 1)
                .min(delivered + WINDOW as u64 - 1),
        };
        while published < due.min(args.messages) {
            let at = published as usize % WINDOW;
            shared.first_us[at].store(u64::MAX, Ordering::Relaxed);
            shared.last_us[at].store(0, Ordering::Relaxed);
            remaining(published).store(parts, Ordering::Release);
            shared.sent_us[at].store(shared.now_us(), Ordering::Relaxed);
            publisher.publish(published)?;
            published += 1;
        }
        while delivered < published && remaining(delivered).load(Ordering::Acquire) == 0 {
            delivered += 1;
            moved = Instant::now();
        }
        if delivered < published || args.rate.is_some() {
            thread::park_timeout(Duration::from_millis(if args.rate.is_some() { 1 } else { 20 }));
        }
        if !running() || moved.elapsed() > STUCK {
            break;
        }
        progress.show("delivered", delivered);
    }
    if delivered < args.messages && running() {
        bail!("message {delivered} has not reached everybody within {} s", STUCK.as_secs());
    }
    Ok(())
}

/// Ends the server and waits until it has gone. When subscribers were told is known to their threads.
fn drain(
    args: &BenchArgs,
    shared: &Shared,
    reading: u32,
    progress: &mut Progress,
) -> anyhow::Result<Drained> {
    let start = Reading::take(args.pid)?;
    let mut last = start;
    let begun = Instant::now();
    shared.drain_us.store(shared.now_us(), Ordering::Release);
    let signal = Command::new("sh").arg("-c").arg(format!("kill -TERM {}", args.pid)).status();
    ensure!(signal.context("sh")?.success(), "process {} cannot be told to end", args.pid);
    let (mut told, mut moved) = (0, Instant::now());
    // One that has ended and that nobody has waited for has no memory left.
    while let Ok(now) = Reading::take(args.pid)
        && now.resident_bytes > 0
    {
        last = now;
        let count = shared.told.load(Ordering::Relaxed);
        if count > told {
            (told, moved) = (count, Instant::now());
        }
        if moved.elapsed() > STUCK {
            bail!("{told} of {reading} were told, and none more within {} s", STUCK.as_secs());
        }
        progress.show("told", told.into());
        thread::sleep(Duration::from_millis(20));
    }
    Ok(Drained {
        told_us_p10: 0,
        told_us_p50: 0,
        told_us_max: 0,
        server_us_per_subscriber: last.process_us_since(&start) / f64::from(args.subscribers),
        ended_us: begun.elapsed().as_micros() as u64,
    })
}

/// Shares the subscribers out: as few threads as the limit on direct descriptors allows.
fn parts(args: &BenchArgs) -> anyhow::Result<Vec<Part>> {
    let table_max = host::open_files().soft.unwrap_or(u64::MAX);
    let table_max = u32::try_from(table_max).unwrap_or(u32::MAX);
    let per_part = table_max.saturating_sub(TABLE_RESERVE).min(32_768);
    ensure!(per_part > 0, "the limit on open files is too low");
    let count = args.subscribers.div_ceil(per_part).max(1);
    let upgrade = Bytes::from(format!(
        "GET /?v=6&format=json&heartbeats=true&key={} HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\n\
         Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: cmluZ2Nhc3QgYmVuY2ggMQ==\r\n\r\n",
        args.key, args.server
    ));
    let attach = format!("{{\"action\":10,\"channel\":\"{}\",\"flags\":262144}}", args.channel);
    let trust = args.tls_ca.as_ref().map(|path| {
        let pem = std::fs::read(path).with_context(|| path.display().to_string())?;
        let trust = Trust::new(&pem).map_err(|why| anyhow!("{}: {why}", path.display()))?;
        anyhow::Ok(trust.without_tickets())
    });
    let trust = trust.transpose()?;
    let attach = (!args.floor).then(|| publisher::masked_text(attach.as_bytes()));
    let mut first = 0;
    Ok((0..count)
        .map(|index| {
            let part_count = args.subscribers / count + u32::from(index < args.subscribers % count);
            let part = Part {
                server: args.tls.unwrap_or(args.server),
                trust: trust.clone(),
                upgrade: upgrade.clone(),
                attach: attach.clone(),
                count: part_count,
                first,
                stalled: part_count * args.stall_percent / 100,
            };
            first += part_count;
            part
        })
        .collect())
}

/// A line that counts, where a person watches.
#[derive(Default)]
struct Progress {
    shown: Option<Instant>,
}

impl Progress {
    fn show(&mut self, what: &str, count: u64) {
        let is_due = self.shown.is_none_or(|shown| shown.elapsed() > Duration::from_millis(200));
        let mut out = std::io::stderr();
        if is_due && out.is_terminal() {
            self.shown = Some(Instant::now());
            // Nobody misses a progress line.
            let _ = write!(out, "\r\x1b[K{count} {what}");
        }
    }

    fn clear(&self) {
        if self.shown.is_some() {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

impl Report {
    fn print(&self) -> std::io::Result<()> {
        let mut out = std::io::stdout().lock();
        let mut row = |name: &str, value: String| writeln!(out, "{name:<34}{value:>16}");
        row("TLS", if self.tls { "yes" } else { "no" }.into())?;
        row("subscribers", self.subscribers.to_string())?;
        row("of them not reading", self.stalled.to_string())?;
        row("messages", self.messages.to_string())?;
        row("frame, bytes", self.frame_bytes.to_string())?;
        row("connects/s", format!("{:.0}", self.connects_per_second))?;
        row("server CPU/connect, us", format!("{:.1}", self.server_us_per_connect))?;
        row(
            "server memory/connection, bytes",
            format!("{:.0}", self.resident_bytes_per_connection),
        )?;
        row("idle server, % of a core", format!("{:.2}", self.idle_core_percent))?;
        row("deliveries/s", format!("{:.0}", self.deliveries_per_second))?;
        row("server CPU/delivery, us", format!("{:.3}", self.server_us_per_delivery))?;
        row("busy core/delivery, us", format!("{:.3}", self.busy_us_per_delivery))?;
        row("publish to first p50, us", self.first_us_p50.to_string())?;
        row("publish to last p50, us", self.last_us_p50.to_string())?;
        row("publish to last max, us", self.last_us_max.to_string())?;
        row("delivery p50, us", self.latency_us_p50.to_string())?;
        row("delivery p99, us", self.latency_us_p99.to_string())?;
        row("delivery p99.9, us", self.latency_us_p999.to_string())?;
        let Some(drained) = &self.drain else { return Ok(()) };
        let seconds = |us: u64| format!("{:.2}", us as f64 / 1e6);
        row("SIGTERM to a tenth told, s", seconds(drained.told_us_p10))?;
        row("SIGTERM to half told, s", seconds(drained.told_us_p50))?;
        row("SIGTERM to all told, s", seconds(drained.told_us_max))?;
        row("SIGTERM to the server's end, s", seconds(drained.ended_us))?;
        row("server CPU/subscriber gone, us", format!("{:.1}", drained.server_us_per_subscriber))
    }
}
