//! What the layers below take from the configuration: the server and its shards, apps, rules, the admin.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::ably::{AppSpec, Directory};
use crate::admin::{AdminConfig, Token};
use crate::channel::history::HistoryConfig;
use crate::config::{ApiKey, Config, CoreConfig, cores};
use crate::connection::ConnectionConfig;
use crate::hooks::{Authorities, HooksConfig, Secret, SigningKey};
use crate::server::{FileAccess, ServerConfig};
use crate::shard::{self, AdmissionConfig, BYTES_PER_CHANNEL, ShardConfig};
use crate::sys::host;

impl Config {
    /// The CPUs that shards are pinned to, and how many shards there are.
    ///
    /// # Errors
    /// A configured CPU is not one that this process may run on.
    pub fn placement(&self) -> anyhow::Result<(Vec<usize>, usize)> {
        let cores = cores::resolve(self.cores.as_deref(), &cores::allowed())?;
        let shards = self.shards.unwrap_or(cores.len());
        let in_use = &cores[..cores.len().min(shards)];
        for core in &self.core_overrides {
            if !in_use.contains(&core.cpu) {
                let CoreConfig { cpu, place, .. } = core;
                anyhow::bail!(
                    "{place}: `cores.cpu`: no shard runs on CPU {cpu}; they run on {in_use:?}"
                );
            }
        }
        Ok((cores, shards))
    }

    /// Every app that has a key or a table of its own.
    ///
    /// # Errors
    /// A capability is refused by the protocol layer, or there is no place for a namespace that is kept.
    pub fn directory(&self) -> anyhow::Result<Directory> {
        let mut apps: BTreeMap<&str, AppSpec> =
            self.apps.iter().map(|app| (&*app.id, app.to_spec())).collect();
        for app in &self.apps {
            let kept = app.namespaces.iter().find(|namespace| namespace.persisted);
            if let (Some(namespace), None) = (kept, &self.state_dir) {
                let (app, id) = (&app.id, &namespace.id);
                anyhow::bail!(
                    "`apps.namespaces.persist` of `{id}` of the app `{app}` wants a `server.state_dir`"
                );
            }
        }
        for key in &self.keys {
            let id: Box<str> = key.app.as_str().into();
            let app = apps.entry(&key.app).or_insert_with(|| AppSpec { id, ..AppSpec::default() });
            app.keys.push(key.to_spec()?);
        }
        Ok(Directory::new(apps.into_values()))
    }

    /// The rules, as those see them who act on them.
    ///
    /// # Errors
    /// A rule signs with a key that is not there, or authorities cannot be read.
    pub fn hooks(&self) -> anyhow::Result<HooksConfig> {
        let ca = self.hooks_ca_file.as_deref().map(Authorities::read).transpose();
        let ca = ca.map_err(|why| anyhow::anyhow!("`hooks.ca_file`: {why}"))?;
        let rules = self.rules.iter().map(|rule| rule.to_hook(&self.keys, ca.as_ref()));
        let rules = rules.collect::<anyhow::Result<_>>()?;
        let key = |key: &ApiKey| {
            let (name, secret) = (key.name().into(), Secret::new(&key.secret));
            SigningKey { name, secret }
        };
        let keys = self.keys.iter().map(key).collect();
        Ok(HooksConfig { rules, keys, ca, state_dir: self.state_dir.clone() })
    }

    /// The admin server's part, with its token.
    ///
    /// # Errors
    /// The token cannot be read, or is none.
    pub fn admin(&self) -> anyhow::Result<AdminConfig> {
        let read = |path: &PathBuf| {
            let text = std::fs::read_to_string(path).map_err(|error| error.to_string());
            let token = text.and_then(|text| Token::parse(&text));
            token.map_err(|why| anyhow::anyhow!("`admin.token_file`: {}: {why}", path.display()))
        };
        let token = self.admin_token_file.as_ref().map(read).transpose()?;
        Ok(AdminConfig { token, ..self.admin.clone() })
    }

    /// What shards take over from a reload, beside apps and rules.
    pub fn changeable_limits(&self) -> shard::Limits {
        let limits = &self.limits;
        let admission = AdmissionConfig {
            connects_per_second_max: limits.connects_per_second_max as u32,
            connections_per_address_max: limits.connections_per_address_max as u32,
            connections_per_key_max: limits.connections_per_key_max as u32,
            uncounted: limits.uncounted_addresses.clone(),
            trusted_proxies: self.trusted_proxies.clone(),
            forwarded_header: self.forwarded_header,
        };
        shard::Limits {
            channels_max: limits.channels_per_connection_max as u32,
            messages_per_second_max: limits.messages_per_second_max as u32,
            payloads_per_second_max: limits.payloads_per_second_max as u32,
            admission,
        }
    }

    /// What the running daemon opens on its own behalf.
    fn file_access(&self) -> FileAccess {
        let runtime_directory = std::env::var("RUNTIME_DIRECTORY").ok();
        let control = self.admin.socket.path(runtime_directory.as_deref());
        let control = control.and_then(|path| path.parent().map(Path::to_path_buf));
        let state_dir = self.state_dir.clone();
        FileAccess { read: self.file_directories.clone(), state_dir, control }
    }

    /// Looks whether anybody could connect.
    ///
    /// # Errors
    /// There is no listener, and the service manager has handed over none.
    pub fn check_listeners(&self) -> anyhow::Result<()> {
        let is_deaf = self.listen.is_none() && self.tls.listen.is_none();
        if is_deaf && std::env::var_os("LISTEN_FDS").is_none() {
            anyhow::bail!(
                "nobody could connect: `server.listen` and `tls.listen` are both \"off\""
            );
        }
        Ok(())
    }

    /// Takes the configuration apart: for the server, and the apps for all its shards.
    ///
    /// # Errors
    /// There is no listener, or a configured CPU is not one that this process may run on.
    pub fn into_server(self) -> anyhow::Result<(ServerConfig, Directory)> {
        self.check_listeners()?;
        let (cores, shards) = self.placement()?;
        let directory = self.directory()?;
        let hooks = self.hooks()?;
        let admin = self.admin()?;
        let tls = self.tls.to_server()?;
        let files = self.landlock.then(|| self.file_access());
        // Fewer shards than CPUs leave some to whatever is not a shard.
        let in_use = &cores[..cores.len().min(shards)];
        let helper_cores = cores::allowed().into_iter().filter(|cpu| !in_use.contains(cpu));
        let helper_cores = helper_cores.collect();
        let changeable = self.changeable_limits();
        let limits = self.limits;
        let connection = ConnectionConfig {
            message_bytes_max: limits.message_bytes_max as u32,
            frame_bytes_max: limits.frame_bytes_max as u32,
            idle_interval: self.connection.idle_interval,
            state_ttl: self.connection.state_ttl,
            remain_present: self.connection.remain_present,
            channels_max: changeable.channels_max,
            publishes_in_flight_max: limits.publishes_in_flight_max,
            payloads_per_second_max: changeable.payloads_per_second_max,
            messages_per_second_max: changeable.messages_per_second_max,
            ..ConnectionConfig::default()
        };
        let history = HistoryConfig {
            retention: self.history.retention,
            channel_bytes_max: self.history.channel_bytes_max as u64,
            shard_bytes_max: self.history.shard_bytes_max as u64,
            persisted_retention: self.log.retention,
        };
        let journal = self.state_dir.as_ref().map(|at| (at.join("log"), self.log.to_journal()));
        let shard = ShardConfig {
            connection,
            history,
            head_timeout: limits.head_timeout,
            frame_bytes_max: limits.frame_bytes_max as u32,
            lag_bytes_max: limits.lag_bytes_max(&self.listener),
            lag_max: limits.outbound_lag_max,
            presence_bytes_max: limits.presence_bytes_max as u32,
            channels_max: limits
                .channels_max
                .unwrap_or_else(|| channels_for(host::memory_bytes(), shards)),
            admission: changeable.admission,
            origins: self.origins,
            deflate_bytes_min: self.deflate.then_some(self.deflate_bytes_min as u32),
            echo: self.echo,
            sandbox: self.sandbox,
            ..ShardConfig::default()
        };
        let server = ServerConfig {
            listen: self.listen,
            admin,
            tls,
            log: self.logging,
            drain_window: self.drain_window,
            cores,
            shards,
            mesh_entries: limits.mesh_entries,
            core_overrides: self
                .core_overrides
                .into_iter()
                .map(CoreConfig::into_override)
                .collect(),
            connections_max: self.connections_max,
            listener: self.listener,
            ring: self.ring,
            files,
            busy_poll_us: self.busy_poll_us,
            stall: self.stall,
            shard,
            journal,
            hooks,
            helper_cores,
        };
        Ok((server, directory))
    }
}

/// Channels that a shard may have open where nothing is configured and there is memory enough.
const CHANNELS_MAX: u64 = 1_000_000;

/// Of the memory, the part that open channels may take where nothing is configured: 1 in this many.
const CHANNELS_PART: u64 = 4;

/// The default of `limits.channels_max`: whoever may open channels cannot use up the memory of a small host.
fn channels_for(memory_bytes: Option<u64>, shards: usize) -> usize {
    let fit = memory_bytes.map(|bytes| bytes / CHANNELS_PART / BYTES_PER_CHANNEL / shards as u64);
    fit.unwrap_or(CHANNELS_MAX).clamp(1, CHANNELS_MAX) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_take_a_part_of_the_memory_and_what_is_configured_counts() {
        for (gib, shards, channels) in [(2, 2, 145_100), (1, 1, 145_100), (64, 2, 1_000_000)] {
            assert_eq!(channels_for(Some(gib << 30), shards), channels);
        }
        assert_eq!((channels_for(None, 256), channels_for(Some(1), 256)), (1_000_000, 1));
        let text = "[[keys]]\nkey = \"a.b:c\"\n[limits]\nchannels_max = 7\n";
        let (server, _) = Config::parse("r.toml", text).unwrap().into_server().unwrap();
        assert_eq!(server.shard.channels_max, 7);
    }
}
