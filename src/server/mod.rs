//! The daemon around the shards: one pinned executor per shard, its listener and socket ring, the
//! mesh between them. The only async code, and the only module that names glommio.
//!
//! A task here waits and copies; what the bytes mean is decided in [`shard`](crate::shard).
#![allow(clippy::disallowed_methods, reason = "the layer that reads clocks and starts threads")]

mod bell;
mod log;
mod mesh;
mod pump;

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc;

use glommio::{LocalExecutorBuilder, Placement};

use crate::ably::Directory;
use crate::base::Entropy;
use crate::hooks::{self, HooksConfig};
use crate::server::bell::Bell;
use crate::server::mesh::Mesh;
use crate::server::pump::Pump;
use crate::shard::{Shard, ShardConfig};
use crate::sys::listener::{Listener, ListenerConfig};
use crate::sys::{SocketRingConfig, probe, rusage};

/// What `ringcast serve` needs to know; each part belongs to the layer that acts on it.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Where all shards listen.
    pub listen: SocketAddr,
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
    /// What a shard may hold and for how long.
    pub shard: ShardConfig,
    /// Rules, and where their events go; without rules there is no thread for them.
    pub hooks: HooksConfig,
    /// CPUs for everything but shards; may be none.
    pub helper_cores: Vec<usize>,
}

/// Runs the daemon until a shard fails. `on_ready` is called with the address once every shard listens.
///
/// # Errors
/// The address cannot be bound, the kernel lacks what the socket ring needs, or a shard has ended.
pub fn run(
    config: ServerConfig,
    directory: Arc<Directory>,
    on_ready: impl FnOnce(SocketAddr),
) -> anyhow::Result<()> {
    if let Some(reason) = probe::missing() {
        anyhow::bail!("the socket ring cannot run here: {reason}");
    }
    let table_max = u32::try_from(rusage::open_files_max()).unwrap_or(u32::MAX);
    let mut config = config;
    // No larger than needed: one ring is better than two.
    let wanted = config.connections_max.saturating_add(pump::ACCEPT_RESERVE_MAX);
    config.ring.table_entries = config.ring.table_entries.min(table_max).min(wanted);

    // All listeners stand before the first connection is accepted: the kernel spreads connections
    // over those that exist. Port 0 becomes a real port with the first.
    let mut listeners = Vec::with_capacity(config.shards);
    let mut address = config.listen;
    for _ in 0..config.shards {
        let listener = Listener::bind(address, &config.listener)
            .map_err(|error| anyhow::anyhow!("cannot listen on {address}: {error}"))?;
        address = listener.address();
        listeners.push(listener);
    }

    let log = log::spawn();
    config.shard.rules = config.hooks.rules();
    let hooks = match std::mem::take(&mut config.hooks) {
        hooks if hooks.rules.is_empty() => None,
        hooks => {
            let mut log = log.clone();
            Some(hooks::start(hooks, &config.helper_cores, move |line| log.line(line))?)
        }
    };
    let mesh = Mesh::new(config.shards, config.mesh_entries);
    let (ready, all_ready) = mpsc::channel();
    let mut executors = Vec::with_capacity(config.shards);
    for (id, listener) in listeners.into_iter().enumerate() {
        let cpu = config.cores[id % config.cores.len()];
        let (config, directory, mesh) = (config.clone(), Arc::clone(&directory), mesh.clone());
        let (log, ready, hooks) = (log.clone(), ready.clone(), hooks.clone());
        let executor = LocalExecutorBuilder::new(Placement::Fixed(cpu))
            .name(&format!("shard-{id}"))
            // Files and timers only; sockets have a ring of their own. Kept small because locked
            // memory is limited on many hosts.
            .io_memory(256 << 10)
            .ring_depth(64)
            .spawn(move || async move {
                let clock = pump::Clock::start();
                let entropy = Entropy::new(|page| {
                    getrandom::fill(page).expect("the kernel has random bytes after boot");
                });
                let shards = config.shards;
                let shard =
                    Shard::new(config.shard.clone(), directory, id, shards, entropy, clock.read());
                let bell = Rc::new(Bell::default());
                let mesh = mesh.join(id, &bell).await?;
                let pump = Pump::new(&config, shard, listener, mesh, bell, log, clock)?;
                // Whoever waits for the daemon may have gone; the shard runs on.
                let _ = ready.send(());
                pump.with_hooks(hooks).run().await
            })
            .map_err(|error| anyhow::anyhow!("cannot start shard {id} on CPU {cpu}: {error}"))?;
        executors.push(executor);
    }
    drop(ready);
    if all_ready.iter().take(config.shards).count() == config.shards {
        on_ready(address);
    }
    for (id, executor) in executors.into_iter().enumerate() {
        let outcome: std::io::Result<()> =
            executor.join().map_err(|error| anyhow::anyhow!("shard {id} has failed: {error}"))?;
        outcome.map_err(|error| anyhow::anyhow!("shard {id} has failed: {error}"))?;
    }
    Ok(())
}
