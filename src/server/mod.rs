//! The daemon around the shards: one pinned executor per shard, its listener and socket ring, the
//! mesh between them. The only async code, and the only module that names glommio.
//!
//! A task here waits and copies; what the bytes mean is decided in [`shard`](crate::shard).
#![allow(clippy::disallowed_methods, reason = "the layer that reads clocks and starts threads")]

mod bell;
mod journal;
mod journald;
mod log;
mod mesh;
mod metrics;
mod monitor;
mod orders;
mod process;
mod pump;
mod rules;
mod sandbox;
mod systemd;
mod tls;

use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use glommio::{ExecutorJoinHandle, LocalExecutorBuilder, Placement};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;

use crate::ably::Directory;
use crate::admin::{self, AdminConfig, ControlSocket, Doors, Question};
use crate::base::{Entropy, Level, LogLine};
use crate::hooks::{Hooks, HooksConfig, VerdictSender};
use crate::journal::{BootId, Journal, JournalConfig};
use crate::server::bell::Bell;
use crate::server::journal::JournalFiles;
use crate::server::mesh::Mesh;
use crate::server::monitor::Monitor;
use crate::server::orders::News;
use crate::server::pump::{Listeners, Pump};
pub use crate::server::sandbox::FileAccess;
use crate::server::systemd::Notifier;
use crate::shard::{Limits, Shard, ShardConfig};
use crate::sys::listener::{Listener, ListenerConfig};
use crate::sys::{SocketRingConfig, host, probe};
use crate::tls::Acceptor;

pub use self::log::{LogConfig, LogFormat};

/// What `ringcast serve` needs to know; each part belongs to the layer that acts on it.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Where all shards listen for clients that speak plainly, unless the service manager has handed over
    /// sockets; `None`: only then.
    pub listen: Option<SocketAddr>,
    /// Where operators and collectors come in.
    pub admin: AdminConfig,
    /// Where all shards listen for clients that speak TLS, and what handshakes are made with.
    pub tls: Option<TlsConfig>,
    /// What the log says, and how.
    pub log: LogConfig,
    /// Over how much time clients are sent away when the daemon ends.
    pub drain_window: Duration,
    /// CPUs that shards are pinned to, in turn when there are more shards than CPUs.
    pub cores: Vec<usize>,
    /// Shards, from 1.
    pub shards: usize,
    /// Mail between two shards that may wait in the mesh.
    pub mesh_entries: usize,
    /// Connections that one shard holds; more than one ring's table is spread over several rings.
    pub connections_max: u32,
    /// Options of client sockets.
    pub listener: ListenerConfig,
    /// Sizes of each socket ring; `table_entries` is what one ring may hold.
    pub ring: SocketRingConfig,
    /// What may be opened once the daemon runs; `None`: anything.
    pub files: Option<FileAccess>,
    /// Microseconds for which a shard that has nothing to do looks for work before it sleeps.
    pub busy_poll_us: u32,
    /// What is different for the shards on some CPUs.
    pub core_overrides: Vec<CoreOverride>,
    /// Has the last shard stand still when SIGUSR1 comes.
    pub stall: bool,
    /// What a shard may hold and for how long.
    pub shard: ShardConfig,
    /// Where messages of persisted channels are kept and how many; none: they are not.
    pub journal: Option<(PathBuf, JournalConfig)>,
    /// Rules, and where their events go.
    pub hooks: HooksConfig,
    /// CPUs for everything but shards; may be none.
    pub helper_cores: Vec<usize>,
}

/// What is different for the shards on one CPU; `None` is as everywhere.
#[derive(Clone, Debug, Default)]
pub struct CoreOverride {
    /// The CPU.
    pub cpu: usize,
    /// Connections that one shard holds.
    pub connections_max: Option<u32>,
    /// As in [`SocketRingConfig`].
    pub ring_entries: Option<u32>,
    /// As in [`SocketRingConfig`].
    pub table_entries: Option<u32>,
    /// As in [`SocketRingConfig`].
    pub receive_buffers: Option<u16>,
    /// As in [`SocketRingConfig`].
    pub receive_buffer_bytes: Option<u32>,
    /// Microseconds of looking for work before sleep.
    pub busy_poll_us: Option<u32>,
}

impl ServerConfig {
    /// The configuration of shards on `cpu`, whose process may open `open_files_max` files.
    pub fn on_core(&self, cpu: usize, open_files_max: u64) -> ServerConfig {
        let mut config = self.clone();
        if let Some(core) = self.core_overrides.iter().find(|core| core.cpu == cpu) {
            let ring = &mut config.ring;
            config.connections_max = core.connections_max.unwrap_or(config.connections_max);
            ring.ring_entries = core.ring_entries.unwrap_or(ring.ring_entries);
            ring.table_entries = core.table_entries.unwrap_or(ring.table_entries);
            ring.receive_buffers = core.receive_buffers.unwrap_or(ring.receive_buffers);
            ring.receive_buffer_bytes =
                core.receive_buffer_bytes.unwrap_or(ring.receive_buffer_bytes);
            config.busy_poll_us = core.busy_poll_us.unwrap_or(config.busy_poll_us);
        }
        let table_max = u32::try_from(open_files_max).unwrap_or(u32::MAX);
        // No larger than needed: one ring is better than two.
        let wanted = config.connections_max.saturating_add(pump::ACCEPT_RESERVE_MAX);
        config.ring.table_entries = config.ring.table_entries.min(table_max).min(wanted);
        config
    }

    /// The configuration of each shard.
    pub fn of_shards(&self, open_files_max: u64) -> impl Iterator<Item = ServerConfig> {
        let cores = self.cores.iter().cycle().take(self.shards);
        cores.map(move |&cpu| self.on_core(cpu, open_files_max))
    }

    /// Bytes that all shards lock.
    pub fn locked_bytes(&self, open_files_max: u64, kernel_release: &str) -> u64 {
        let queue_bytes = self.locked_queue_bytes(open_files_max, kernel_release);
        LOCKED_BYTES_PER_SHARD * self.shards as u64 + queue_bytes
    }

    /// Bytes of queues of rings that all shards lock beside [`LOCKED_BYTES_PER_SHARD`], where the kernel of this
    /// release counts those.
    pub fn locked_queue_bytes(&self, open_files_max: u64, kernel_release: &str) -> u64 {
        if !host::counts_rings_as_locked(kernel_release) {
            return 0;
        }
        let shards = self.of_shards(open_files_max);
        let sockets =
            |shard: &ServerConfig| u64::from(shard.ring_count()) * shard.ring.queue_bytes();
        shards.map(|shard| sockets(&shard) + EXECUTOR_QUEUE_BYTES).sum()
    }

    /// Socket rings of one shard, once [`on_core`](Self::on_core) has fitted it to the host.
    pub fn ring_count(&self) -> u32 {
        self.connections_max.div_ceil(pump::accept_max(&self.ring))
    }
}

/// Bytes that the executor of one shard locks: each of its three rings registers memory for files.
pub const LOCKED_BYTES_PER_SHARD: u64 = 3 * IO_MEMORY_BYTES as u64;

/// Memory for files of one ring of an executor. Kept small because locked memory is limited on many hosts.
const IO_MEMORY_BYTES: usize = 256 << 10;

/// Bytes of the queues of these three rings, in whole pages.
const EXECUTOR_QUEUE_BYTES: u64 = 3 * (16 << 10);

/// TLS on a listener of its own.
#[derive(Clone, Debug)]
pub struct TlsConfig {
    /// Where all shards listen for it, unless the service manager has handed over sockets; `None`: only
    /// then.
    pub listen: Option<SocketAddr>,
    /// What handshakes are made with, until a reload.
    pub acceptor: Acceptor,
}

/// Name of an inherited socket that is not for clients.
const ADMIN: &str = "admin";

/// Name of inherited sockets for clients that speak TLS.
const TLS: &str = "tls";

/// Reads the configuration again.
pub type Reload = Box<dyn FnMut() -> anyhow::Result<Reloaded>>;

/// What was read.
pub struct Reloaded {
    /// Its apps, which take the place of those before.
    pub directory: Directory,
    /// Its rules, in the same way.
    pub hooks: HooksConfig,
    /// What the next handshakes are made with, where there is TLS.
    pub acceptor: Option<Acceptor>,
    /// Bounds of each shard that may change.
    pub limits: Limits,
    /// Keys that have changed and that only a restart brings into effect.
    pub needs_restart: Vec<String>,
}

/// Where the daemon can be reached.
#[derive(Clone, Debug)]
pub struct Addresses {
    /// By clients that speak plainly, if there is that.
    pub clients: Option<SocketAddr>,
    /// By clients that speak TLS, if there is that.
    pub tls: Option<SocketAddr>,
    /// By collectors and browsers, if they have a door.
    pub admin: Option<SocketAddr>,
    /// By commands on this host, if they have one.
    pub control: Option<PathBuf>,
}

/// A shard's thread, to wait for its end.
type ShardThread = ExecutorJoinHandle<io::Result<()>>;

/// Runs the daemon until it is told to end, by SIGTERM or SIGINT, and all clients were sent away.
/// `on_ready` is called with the addresses once every shard serves; `reload` on SIGHUP.
///
/// # Errors
/// The address cannot be bound, the kernel lacks what the socket ring needs, or a shard has ended.
pub fn run(
    config: ServerConfig,
    directory: Arc<Directory>,
    reload: Option<Reload>,
    on_ready: impl FnOnce(Addresses),
) -> anyhow::Result<()> {
    if let Err(lack) = probe::look() {
        anyhow::bail!("the socket ring cannot run here: {lack}");
    }
    let open_files_max = host::open_files().soft.unwrap_or(u64::MAX);
    check_locked_memory(&config, open_files_max)?;
    // What executors register with the kernel counts as locked by whole pages, and the allocator asks for huge
    // ones: 256 KiB would count as two or four MiB, which eats up what many hosts allow before a shard runs.
    host::allow_huge_pages(false);
    let on_ready = |addresses| {
        host::allow_huge_pages(true);
        on_ready(addresses);
    };
    let mut config = config;
    let Sockets { plain, tls, admin } = sockets(&config)?;
    // Before files are confined: it is in none of the directories that are for the daemon.
    let boot = host::boot_id().map(BootId);
    // Before the first thread: each is confined as the one that starts it. Not before the sockets: who has a
    // port that is taken can be seen only from outside.
    let confined = config.files.as_ref().map(sandbox::confine);
    let mut log = log::spawn(config.log);
    match confined {
        Some(Ok(enforced)) => {
            let line = LogLine::new(Level::Info, "files are confined");
            log.line(line.with("landlock", enforced));
        }
        Some(Err(error)) => {
            let line = LogLine::new(Level::Warn, "files are not confined");
            log.line(line.with("landlock", error));
        }
        None => {}
    }
    let notifier = Notifier::from_environment().unwrap_or_else(|error| {
        log.line(LogLine::new(Level::Warn, "NOTIFY_SOCKET cannot be reached").with("error", error));
        Notifier::none()
    });
    let watchdog = systemd::watchdog();
    let runtime_directory = std::env::var("RUNTIME_DIRECTORY").ok();
    let control = config.admin.socket.path(runtime_directory.as_deref());
    let addresses = Addresses {
        clients: plain.first().map(Listener::address),
        tls: tls.first().map(Listener::address),
        admin: admin.as_ref().map(TcpListener::local_addr).transpose()?,
        control: control.clone(),
    };
    let control = control.map(|path| ControlSocket::bind(&path)).transpose()?;
    let doors = Doors { tcp: admin, control };
    let acceptor = config.tls.as_ref().map(|tls| tls.acceptor.clone());
    for facts in acceptor.iter().flat_map(Acceptor::facts) {
        log.line(monitor::certificate_line(facts, "certificate loaded"));
    }

    let mut lines = Vec::with_capacity(config.shards);
    let mut verdicts: Vec<VerdictSender> = Vec::with_capacity(config.shards);
    for _ in 0..config.shards {
        let (orders, mut verdict_sender, receiver) = orders::line()?;
        lines.push((orders, receiver));
        verdicts.push(Box::new(move |answered| verdict_sender.send(answered)));
    }
    let mut hooks_config = std::mem::take(&mut config.hooks);
    let book = rules::open_book(&hooks_config, &directory, &mut log)?;
    hooks_config.rules = book.hooks();
    let directory = Arc::new(directory.with_rules(hooks_config.rules()));
    let state_dir = hooks_config.state_dir.clone();
    let mut hooks_log = log.clone();
    let hooks = Hooks::start(hooks_config, &config.helper_cores, verdicts, move |words| {
        hooks_log.line(LogLine::new(Level::Warn, "rules").with("detail", words));
    })?;
    let found = config.journal.as_ref().map(|(root, _)| {
        let now = pump::Clock::start().read();
        journal::find(root, config.shards, boot, now, &mut log)
            .map_err(|error| anyhow::anyhow!("the message log {}: {error}", root.display()))
    });
    let mut found = found.transpose()?;
    let mut journals = found.as_mut().map(|found| std::mem::take(&mut found.shards).into_iter());
    let mesh = Mesh::new(config.shards, config.mesh_entries);
    let (sender, news) = orders::news();
    let keeper = rules::spawn(book, state_dir, hooks.control(), sender.clone(), log.clone())?;
    let asked = sender.clone();
    let rules = keeper.clone();
    let ask = Box::new(move |question| match question {
        Question::Rules(app_id, request, reply) => {
            rules.try_send(rules::Request::Rules(app_id, request, reply)).is_ok()
        }
        question => asked.try_send(News::Asked(question)).is_ok(),
    });
    let token = config.admin.token.take();
    let (shards, helpers) = (config.shards, &config.helper_cores);
    let _admin = admin::spawn(doors, token, shards, helpers, ask, hooks.control())?;
    forward_signals(sender.clone(), config.stall)?;
    let mut threads = Vec::with_capacity(config.shards);
    let mut orders = Vec::with_capacity(config.shards);
    let mut cpus = Vec::with_capacity(config.shards);
    let (mut plain, mut tls) = (plain.into_iter(), tls.into_iter());
    for (id, line) in lines.into_iter().enumerate() {
        let listeners = Listeners { plain: plain.next(), tls: tls.next().zip(acceptor.clone()) };
        let cpu = config.cores[id % config.cores.len()];
        let config = config.on_core(cpu, open_files_max);
        let (directory, mesh) = (Arc::clone(&directory), mesh.clone());
        let (log, news) = (log.clone(), sender.clone());
        let hooks = hooks.sender();
        let journal = journals.as_mut().and_then(Iterator::next);
        let (order_sender, order_receiver) = line;
        let thread = LocalExecutorBuilder::new(Placement::Fixed(cpu))
            .name(&format!("shard-{id}"))
            // Files and timers only; sockets have a ring of their own.
            .io_memory(IO_MEMORY_BYTES)
            .ring_depth(64)
            .spawn(move || async move {
                let _end = EndOfShard { shard: id, news: news.clone() };
                let clock = pump::Clock::start();
                let entropy = Entropy::new(|page| {
                    getrandom::fill(page).expect("the kernel has random bytes after boot");
                });
                let shards = config.shards;
                let now = clock.read();
                let mut shard =
                    Shard::new(config.shard.clone(), directory, id, shards, entropy, now);
                let bell = Rc::new(Bell::default());
                let mut files = None;
                if let (Some((root, journal)), Some((recovered, next_number))) =
                    (&config.journal, journal)
                {
                    let mut salt = [0; 4];
                    getrandom::fill(&mut salt).expect("the kernel has random bytes after boot");
                    let key = (shard.series(), u32::from_ne_bytes(salt));
                    let place = (id as u16, shards as u16);
                    let mut journal = Journal::new(journal.clone(), place, key, recovered, now);
                    journal.number_from(next_number);
                    shard = shard.with_journal(journal);
                    files = Some(JournalFiles::new(root, &bell));
                }
                let mesh = mesh.join(id, &bell).await?;
                let line = pump::Line {
                    shard: id,
                    orders: order_receiver.open(&bell)?,
                    news,
                    hooks,
                    files,
                    log,
                    clock,
                    report_interval: monitor::report_interval(watchdog),
                };
                Pump::new(&config, shard, listeners, mesh, bell, line).await?.run().await
            })
            .map_err(|error| anyhow::anyhow!("cannot start shard {id} on CPU {cpu}: {error}"))?;
        threads.push(thread);
        orders.push(order_sender);
        cpus.push(cpu);
    }
    let drain_window = config.drain_window;
    let monitor_log = log.clone();
    let monitor = Monitor {
        news,
        orders,
        threads,
        cpus,
        notifier,
        watchdog,
        drain_window,
        reload,
        keeper,
        acceptor,
        log: monitor_log,
    };
    let outcome = monitor.run(|| on_ready(addresses));
    log.flush();
    outcome?;
    if let Some(words) = hooks.finish() {
        // Not through the log, whose thread ends with the process. Nowhere to complain to when it fails.
        let _ = writeln!(io::stderr().lock(), "{words}");
    }
    Ok(())
}

/// What is enough for most hosts to be allowed to lock.
const LOCKED_BYTES_ENOUGH: u64 = 128 << 20;

/// Says at once what is missing: an executor that cannot lock its memory would end without a word, and a shard tries
/// for a while to make a ring.
fn check_locked_memory(config: &ServerConfig, open_files_max: u64) -> anyhow::Result<()> {
    let needed = config.locked_bytes(open_files_max, &host::kernel_release());
    let Some(max) = host::locked_memory().soft.filter(|max| *max < needed) else { return Ok(()) };
    if host::may_lock_all() {
        return Ok(());
    }
    let enough = LOCKED_BYTES_ENOUGH.max(needed.next_power_of_two());
    let shards = config.shards;
    anyhow::bail!(
        "{shards} shards lock {} KiB of memory for io_uring, and RLIMIT_MEMLOCK allows {} KiB. Raise it: \
         LimitMEMLOCK={}M in the unit, `ulimit -l {}` in the shell, `podman run --ulimit memlock={enough}`; or \
         have fewer shards, or a smaller socket.connections_max",
        needed.div_ceil(1024),
        max / 1024,
        enough >> 20,
        enough >> 10,
    )
}

/// What the daemon listens on.
struct Sockets {
    /// By shard; none where everybody speaks TLS.
    plain: Vec<Listener>,
    /// By shard; none where there is no TLS.
    tls: Vec<Listener>,
    admin: Option<TcpListener>,
}

/// One listener for each shard and kind of client, and the one of the admin; all before the first
/// connection is accepted: the kernel spreads connections over those that exist.
///
/// Inherited sockets called `admin` are for the admin, those called `tls` for clients that speak it, all
/// others for clients that do not.
fn sockets(config: &ServerConfig) -> anyhow::Result<Sockets> {
    let inherited = systemd::inherited().map_err(anyhow::Error::msg)?;
    let (mut plain, mut tls) = (Vec::new(), Vec::new());
    let mut admin = None;
    for (fd, name) in inherited {
        let listener = Listener::inherit(fd, &config.listener)
            .map_err(|error| anyhow::anyhow!("inherited socket {fd} `{name}`: {error}"))?;
        match name.as_str() {
            ADMIN => admin = Some(TcpListener::from(listener.into_fd())),
            TLS => tls.push(listener),
            _ => plain.push(listener),
        }
    }
    if let (None, Some(address)) = (&admin, config.admin.listen) {
        let listener = TcpListener::bind(address)
            .map_err(|error| anyhow::anyhow!("cannot listen on {address}: {error}"))?;
        admin = Some(listener);
    }
    if let Some(address) = admin.as_ref().map(TcpListener::local_addr).transpose()?
        && !address.ip().is_loopback()
        && config.admin.token.is_none()
    {
        anyhow::bail!("the admin listens on {address} with an `admin.token_file` only");
    }
    if config.tls.is_none() && !tls.is_empty() {
        anyhow::bail!("a socket `tls` was handed over, but [tls] names no certificate");
    }
    let tls_listen = config.tls.as_ref().and_then(|tls| tls.listen);
    let plain = for_each_shard(config, plain, config.listen)?;
    let tls = for_each_shard(config, tls, tls_listen)?;
    if plain.is_empty() && tls.is_empty() {
        anyhow::bail!(
            "nobody could connect: no socket for clients was handed over, and no address is configured"
        );
    }
    Ok(Sockets { plain, tls, admin })
}

/// Deals out inherited sockets in turn, or binds `address`, if there is one, for each shard; port 0 becomes
/// a real port with the first. Where there are fewer sockets than shards, several shards accept from one
/// queue: the kernel wakes one of them for each connection, which is as fair as their idle time.
fn for_each_shard(
    config: &ServerConfig,
    mut inherited: Vec<Listener>,
    address: Option<SocketAddr>,
) -> anyhow::Result<Vec<Listener>> {
    if inherited.len() > config.shards {
        let (sockets, shards) = (inherited.len(), config.shards);
        anyhow::bail!("{sockets} sockets were handed over to {shards} shards: some would be deaf");
    }
    if !inherited.is_empty() {
        for id in inherited.len()..config.shards {
            inherited.push(inherited[id % inherited.len()].share()?);
        }
        return Ok(inherited);
    }
    let Some(mut address) = address else { return Ok(Vec::new()) };
    let mut listeners = Vec::with_capacity(config.shards);
    for _ in 0..config.shards {
        let listener = Listener::bind(address, &config.listener)
            .map_err(|error| anyhow::anyhow!("cannot listen on {address}: {error}"))?;
        address = listener.address();
        listeners.push(listener);
    }
    Ok(listeners)
}

/// Has a thread of its own hand signals to the monitor.
fn forward_signals(news: SyncSender<News>, stall: bool) -> anyhow::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    // A file as long as it may be is an error of the write, as a full disk is. Without a handler the
    // signal that goes with it ends the process.
    signal_hook::flag::register(libc::SIGXFSZ, Arc::default())?;
    if stall {
        signals.add_signal(SIGUSR1)?;
    }
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        for signal in signals.forever() {
            if news.send(News::Signal(signal)).is_err() {
                break;
            }
        }
    })?;
    Ok(())
}

/// Tells the monitor when a shard's thread ends, however it does.
struct EndOfShard {
    shard: usize,
    news: SyncSender<News>,
}

impl Drop for EndOfShard {
    fn drop(&mut self) {
        // It may wait for room: the shard has nothing else to do any more. The monitor may have ended.
        let _ = self.news.send(News::Ended { shard: self.shard });
    }
}
