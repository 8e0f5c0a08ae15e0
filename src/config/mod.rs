//! Files, environment and flags to the structs that the layers below define. A value that cannot be
//! honoured is refused with its place, its key and the allowed range; nothing is clamped in silence.
//!
//! `docs/configuration.md` is the reference of all keys; the program prints it, and tests hold it against
//! this module.

mod advice;
mod app;
mod cores;
mod flags;
mod key;
mod layers;
mod reader;
mod reference;
mod rule;
mod show;
mod sink;
mod tls;
mod units;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::ably::{AppSpec, Directory};
use crate::admin::{AdminConfig, SocketPlace, Token};
use crate::base::{Level, Networks};
use crate::channel::history::HistoryConfig;
pub use crate::config::app::AppConfig;
pub use crate::config::cores::CoreConfig;
pub use crate::config::flags::{SandboxFlags, ServeFlags};
pub use crate::config::key::ApiKey;
use crate::config::layers::{Origins, Sources};
pub use crate::config::reader::ConfigError;
use crate::config::reader::Section;
pub use crate::config::rule::RuleConfig;
pub use crate::config::tls::TlsSettings;
use crate::config::units::{KIB, MIB};
use crate::connection::ConnectionConfig;
use crate::hooks::{Authorities, HooksConfig, Secret, SigningKey};
use crate::http::ForwardedHeader;
use crate::journal::JournalConfig;
use crate::server::{FileAccess, LogConfig, LogFormat, ServerConfig};
use crate::shard::{self, AdmissionConfig, BYTES_PER_CHANNEL, ShardConfig};
use crate::sys::listener::ListenerConfig;
use crate::sys::{SocketRingConfig, host};

/// Everything that `ringcast serve` can be told.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where all shards listen for clients that speak plainly; `None`: nowhere.
    pub listen: Option<SocketAddr>,
    /// CPUs to pin shards to; `None`: all but one where there are more than two, else all.
    pub cores: Option<Vec<usize>>,
    /// What is different on some of them.
    pub core_overrides: Vec<CoreConfig>,
    /// Shards; `None`: one per core. Above the number of cores they share cores, in turn.
    pub shards: Option<usize>,
    /// Where operators and collectors come in.
    pub admin: AdminConfig,
    /// What the log says, and how.
    pub logging: LogConfig,
    /// Where the admin's token is.
    pub admin_token_file: Option<PathBuf>,
    /// TLS on a listener of its own.
    pub tls: TlsSettings,
    /// Origins of the pages that may use the daemon; none: any page.
    pub origins: Vec<Box<str>>,
    /// Proxies that say whose requests they pass on.
    pub trusted_proxies: Networks,
    /// How they say it.
    pub forwarded_header: ForwardedHeader,
    /// Whether the running daemon may open only what it is configured to.
    pub landlock: bool,
    /// Directories of the configuration and of the files that it names.
    pub file_directories: Vec<PathBuf>,
    /// Over how much time clients are sent away when the daemon ends.
    pub drain_window: Duration,
    /// Connections that one shard holds.
    pub connections_max: u32,
    /// Sizes of each socket ring.
    pub ring: SocketRingConfig,
    /// Microseconds for which a shard that has nothing to do looks for work before it sleeps.
    pub busy_poll_us: u32,
    /// Options of client sockets.
    pub listener: ListenerConfig,
    /// Whether messages are compressed for those who ask for it.
    pub deflate: bool,
    /// Bytes from which on they are.
    pub deflate_bytes_min: usize,
    /// Bounds on what clients can make the daemon hold.
    pub limits: Limits,
    /// Times that clients are told when they connect.
    pub connection: ConnectionTimes,
    /// The recent past of each channel.
    pub history: HistoryBounds,
    /// The messages that outlive the process.
    pub log: LogBounds,
    /// Keys that clients may use, of all apps; none: nobody can connect.
    pub keys: Vec<ApiKey>,
    /// What the channels of apps obey. An app that has keys only need not be here.
    pub apps: Vec<AppConfig>,
    /// Which events go to which endpoints, of all apps.
    pub rules: Vec<RuleConfig>,
    /// Authorities that rules trust which name none of their own.
    pub hooks_ca_file: Option<PathBuf>,
    /// Where that is kept which outlives the process; without it there is no such thing.
    pub state_dir: Option<PathBuf>,
    /// Lets clients make apps and delete them: `ringcast sandbox`.
    pub sandbox: bool,
    /// Serves `/echo`, a WebSocket that returns what it is sent; for conformance tests only.
    pub echo: bool,
    /// Has the last shard stand still when SIGUSR1 comes; for tests of the watchdog only.
    pub stall: bool,
}

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

impl Default for Config {
    fn default() -> Config {
        Config {
            listen: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 8080))),
            cores: None,
            core_overrides: Vec::new(),
            shards: None,
            admin: AdminConfig::default(),
            logging: LogConfig::default(),
            admin_token_file: None,
            tls: TlsSettings::default(),
            origins: Vec::new(),
            trusted_proxies: Networks::default(),
            forwarded_header: ForwardedHeader::default(),
            landlock: true,
            file_directories: Vec::new(),
            drain_window: Duration::from_secs(10),
            connections_max: 65_536,
            ring: SocketRingConfig {
                ring_entries: 4096,
                table_entries: 1_000_000,
                receive_buffers: 512,
                receive_buffer_bytes: 4096,
            },
            busy_poll_us: 0,
            listener: ListenerConfig {
                send_buffer_bytes: 65_536,
                notsent_lowat_bytes: 16_384,
                backlog: 4096,
            },
            deflate: false,
            deflate_bytes_min: 256,
            limits: Limits {
                message_bytes_max: 64 * KIB,
                frame_bytes_max: 512 * KIB,
                outbound_lag_bytes_max: MIB,
                outbound_lag_max: Duration::from_secs(10),
                channels_per_connection_max: 200,
                publishes_in_flight_max: 1024,
                messages_per_second_max: 0,
                payloads_per_second_max: 0,
                connects_per_second_max: 0,
                connections_per_address_max: 0,
                connections_per_key_max: 0,
                uncounted_addresses: Networks::default(),
                presence_bytes_max: MIB,
                channels_max: None,
                head_timeout: Duration::from_secs(10),
                mesh_entries: 1024,
            },
            connection: ConnectionTimes {
                idle_interval: Duration::from_secs(15),
                state_ttl: Duration::from_secs(120),
                remain_present: Duration::from_secs(15),
            },
            history: HistoryBounds {
                retention: Duration::from_secs(120),
                channel_bytes_max: 4 * MIB,
                shard_bytes_max: 64 * MIB,
            },
            log: LogBounds {
                retention: Duration::from_secs(24 * 60 * 60),
                shard_bytes_max: 1024 * MIB,
                waiting_bytes_max: 8 * MIB,
                index_bytes_max: 128 * MIB,
            },
            keys: Vec::new(),
            apps: Vec::new(),
            rules: Vec::new(),
            hooks_ca_file: None,
            state_dir: None,
            sandbox: false,
            echo: false,
            stall: false,
        }
    }
}

impl Config {
    /// Reads the file at `path`, the directory beside it and the environment; key files that they name are
    /// read too.
    ///
    /// # Errors
    /// A file cannot be read, or a [`ConfigError`].
    pub fn load(path: &Path) -> anyhow::Result<Config> {
        let sources = Sources::gather(Some(path), std::env::vars_os(), &[])?;
        Ok(Config::from_sources(&sources)?.0)
    }

    /// Parses the text of the file called `file`. Key files are found relative to its directory.
    ///
    /// # Errors
    /// The first key, in the order of the reference, that is unknown or cannot be honoured.
    pub fn parse(file: &str, text: &str) -> Result<Config, ConfigError> {
        Config::from_sources(&Sources::of_file(file, text)).map(|(config, _)| config)
    }

    /// The configuration that the layers come to, and where each value is from.
    fn from_sources(sources: &Sources) -> Result<(Config, Origins), ConfigError> {
        let mut config = Config::default();
        let toml = sources.parse()?;
        let mut root = sources.root(&toml);
        config.read_server(root.section("server")?)?;
        config.read_socket(root.section("socket")?)?;
        for section in root.sections("cores")? {
            let at = section.place();
            let core = CoreConfig::read(section)?;
            if config.core_overrides.iter().any(|other| other.cpu == core.cpu) {
                return Err(at.error(format!("CPU {} is there twice", core.cpu)));
            }
            config.core_overrides.push(core);
        }
        config.tls.read(root.section("tls")?)?;
        let mut websocket = root.section("websocket")?;
        websocket.read("deflate", &mut config.deflate, units::boolean)?;
        let bytes = units::bytes(1..=MIB);
        websocket.read("deflate_bytes_min", &mut config.deflate_bytes_min, bytes)?;
        websocket.finish()?;
        config.limits.read(root.section("limits")?)?;
        config.connection.read(root.section("connection")?)?;
        config.history.read(root.section("history")?)?;
        config.log.read(root.section("log")?)?;
        for section in root.sections("keys")? {
            config.add_key(section, None)?;
        }
        for mut section in root.sections("apps")? {
            let at = section.place();
            let keys = section.sections("keys")?;
            let rules = section.sections("rules")?;
            let app = AppConfig::read(section)?;
            if config.apps.iter().any(|other| other.id == app.id) {
                return Err(at.error(format!("the app `{}` is there twice", app.id)));
            }
            for section in keys {
                config.add_key(section, Some(&app.id))?;
            }
            for section in rules {
                config.add_rule(section, Some(&app.id))?;
            }
            config.apps.push(app);
        }
        config.read_admin(root.section("admin")?)?;
        let mut hooks = root.section("hooks")?;
        let directory = hooks.directory();
        hooks.read("ca_file", &mut config.hooks_ca_file, |value| {
            units::text(value).map(|path| Some(directory.join(path)))
        })?;
        hooks.finish()?;
        let mut logging = root.section("logging")?;
        logging.read("level", &mut config.logging.level, units::one_of(LEVELS))?;
        logging.read("format", &mut config.logging.format, units::one_of(LOG_FORMATS))?;
        logging.finish()?;
        for section in root.sections("rules")? {
            config.add_rule(section, None)?;
        }
        let mut test = root.section("test")?;
        test.read("echo", &mut config.echo, units::boolean)?;
        test.read("stall", &mut config.stall, units::boolean)?;
        test.finish()?;
        root.finish()?;
        Ok((config, sources.origins(&toml)))
    }

    /// Reads a key; with an `app` it has to be one of that.
    fn add_key(&mut self, section: Section, app: Option<&str>) -> Result<(), ConfigError> {
        let at = section.place();
        let key = read_key(section)?;
        if app.is_some_and(|app| app != key.app) {
            return Err(at.error(format!("the key `{}` is of another app", key.name())));
        }
        if self.keys.iter().any(|other| other.name() == key.name()) {
            return Err(at.error(format!("the key `{}` is there twice", key.name())));
        }
        self.keys.push(key);
        Ok(())
    }

    fn add_rule(&mut self, section: Section, app: Option<&str>) -> Result<(), ConfigError> {
        let at = section.place();
        let rule = RuleConfig::read(section, app)?;
        if self.rules.iter().any(|other| other.id == rule.id) {
            return Err(at.error(format!("the rule `{}` is there twice", rule.id)));
        }
        self.rules.push(rule);
        Ok(())
    }

    fn read_admin(&mut self, mut section: Section) -> Result<(), ConfigError> {
        section.read("listen", &mut self.admin.listen, units::address_or_off)?;
        let directory = section.directory();
        section.read("socket", &mut self.admin.socket, |value| {
            units::text(value).map(|place| match place {
                "auto" => SocketPlace::Auto,
                "off" => SocketPlace::Off,
                path => SocketPlace::At(directory.join(path)),
            })
        })?;
        section.read("token_file", &mut self.admin_token_file, |value| {
            units::secret_path(&directory, units::text(value)?).map(Some)
        })?;
        if let Some(address) = self.admin.listen
            && !address.ip().is_loopback()
            && self.admin_token_file.is_none()
        {
            let why = format!("{address} can be reached from elsewhere, so it takes a token_file");
            return Err(section.error("listen", &why));
        }
        section.finish()
    }

    fn read_server(&mut self, mut section: Section) -> Result<(), ConfigError> {
        section.read("listen", &mut self.listen, units::address_or_off)?;
        section.read("cores", &mut self.cores, |value| cores::from_toml(value).map(Some))?;
        section.read("shards", &mut self.shards, |value| {
            units::count(1..=SHARDS_MAX)(value).map(Some)
        })?;
        let directory = section.directory();
        section.read("state_dir", &mut self.state_dir, |value| {
            units::text(value).map(|path| Some(directory.join(path)))
        })?;
        section.read("origins", &mut self.origins, units::origins)?;
        section.read("trusted_proxies", &mut self.trusted_proxies, units::networks)?;
        let header = units::one_of(FORWARDED_HEADERS);
        section.read("forwarded_header", &mut self.forwarded_header, header)?;
        section.read("drain_window", &mut self.drain_window, units::duration("0s"..="10m"))?;
        section.read("landlock", &mut self.landlock, units::boolean)?;
        section.finish()
    }

    fn read_socket(&mut self, mut section: Section) -> Result<(), ConfigError> {
        let (ring, listener) = (&mut self.ring, &mut self.listener);
        section.read("ring_entries", &mut ring.ring_entries, units::power_of_two(64..=32_768))?;
        section.read("table_entries", &mut ring.table_entries, units::count(16..=1_000_000))?;
        let connections = units::count(1..=1_000_000);
        section.read("connections_max", &mut self.connections_max, connections)?;
        let buffers = units::power_of_two(16..=32_768);
        section.read("receive_buffers", &mut ring.receive_buffers, buffers)?;
        let bytes = units::bytes(512..=64 * KIB);
        section.read("receive_buffer_bytes", &mut ring.receive_buffer_bytes, bytes)?;
        section.read("busy_poll_us", &mut self.busy_poll_us, units::count(0..=BUSY_POLL_US_MAX))?;
        let bytes = units::bytes(4 * KIB..=16 * MIB);
        section.read("send_buffer_bytes", &mut listener.send_buffer_bytes, bytes)?;
        let bytes = units::bytes(KIB..=16 * MIB);
        section.read("notsent_lowat_bytes", &mut listener.notsent_lowat_bytes, bytes)?;
        section.read("backlog", &mut listener.backlog, units::count(1..=65_535))?;
        section.finish()
    }

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
}

impl Config {
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

/// Levels of the log.
const LEVELS: &[(&str, Level)] =
    &[("error", Level::Error), ("warn", Level::Warn), ("info", Level::Info)];

/// In which header proxies say whose requests they pass on.
const FORWARDED_HEADERS: &[(&str, ForwardedHeader)] = &[
    ("x-forwarded-for", ForwardedHeader::XForwardedFor),
    ("forwarded", ForwardedHeader::Forwarded),
];

/// How the log looks.
const LOG_FORMATS: &[(&str, LogFormat)] =
    &[("auto", LogFormat::Auto), ("logfmt", LogFormat::Logfmt), ("json", LogFormat::Json)];

/// Shards of one daemon; their mesh has the square of this many mailboxes.
const SHARDS_MAX: usize = 256;

/// Connections that an address or a key may be allowed; more than a host holds.
const CONNECTIONS_MAX: usize = 100_000_000;

/// Longest spin: beyond that a core that spins saves nothing against one that never sleeps.
const BUSY_POLL_US_MAX: usize = 100_000;

impl Limits {
    /// What is left of `outbound_lag_bytes_max` for the daemon's own memory: a client that is behind
    /// has a full socket buffer too, and the kernel doubles its size. One frame has to fit in any case.
    fn lag_bytes_max(&self, listener: &ListenerConfig) -> u32 {
        let kernel_bytes = 2 * listener.send_buffer_bytes as usize;
        let own_bytes = self.outbound_lag_bytes_max.saturating_sub(kernel_bytes);
        own_bytes.max(self.frame_bytes_max) as u32
    }

    fn read(&mut self, mut section: Section) -> Result<(), ConfigError> {
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
    fn read(&mut self, mut section: Section) -> Result<(), ConfigError> {
        section.read("idle_interval", &mut self.idle_interval, units::duration("1s"..="10m"))?;
        section.read("state_ttl", &mut self.state_ttl, units::duration("1s"..="1h"))?;
        section.read("remain_present", &mut self.remain_present, units::duration("1s"..="1h"))?;
        section.finish()
    }
}

impl LogBounds {
    fn read(&mut self, mut section: Section) -> Result<(), ConfigError> {
        section.read("retention", &mut self.retention, units::duration("1m"..="8760h"))?;
        let bytes = units::bytes(64 * MIB..=16 * 1024 * 1024 * MIB);
        section.read("shard_bytes_max", &mut self.shard_bytes_max, bytes)?;
        let bytes = units::bytes(64 * KIB..=8 * MIB);
        section.read("waiting_bytes_max", &mut self.waiting_bytes_max, bytes)?;
        let bytes = units::bytes(16 * MIB..=1024 * 1024 * MIB);
        section.read("index_bytes_max", &mut self.index_bytes_max, bytes)?;
        section.finish()
    }

    fn to_journal(&self) -> JournalConfig {
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
    fn read(&mut self, mut section: Section) -> Result<(), ConfigError> {
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

fn read_key(mut section: Section) -> Result<ApiKey, ConfigError> {
    let directory = section.directory();
    let mut given = Vec::new();
    let mut inline = None;
    section.read("key", &mut inline, |value| key::parse(units::text(value)?).map(Some))?;
    given.extend(inline);
    let mut from_file = None;
    section.read("key_file", &mut from_file, |value| {
        let path = units::secret_path(&directory, units::text(value)?)?;
        let text = std::fs::read_to_string(&path)
            .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        key::parse(text.trim()).map(Some).map_err(|why| format!("in {}: {why}", path.display()))
    })?;
    given.extend(from_file);
    let mut from_variable = None;
    section.read("key_env", &mut from_variable, |value| {
        let name = units::text(value)?;
        let text = std::env::var(name).map_err(|_| format!("the variable `{name}` is not set"))?;
        key::parse(text.trim()).map(Some).map_err(|why| format!("in the variable {name}: {why}"))
    })?;
    given.extend(from_variable);
    let mut capability = BTreeMap::new();
    section.read("capability", &mut capability, key::capability)?;
    let mut revocable_tokens = false;
    section.read("revocable_tokens", &mut revocable_tokens, units::boolean)?;
    let mut connections_max = None;
    section.read("connections_max", &mut connections_max, |value| {
        units::count(0..=CONNECTIONS_MAX)(value).map(Some)
    })?;
    section.finish()?;
    let mut key = match given.len() {
        0 => return Err(section.error("key", "is missing, and so are `key_file` and `key_env`")),
        1 => given.remove(0),
        _ => {
            let why = "is there more than once: keep one of `key`, `key_file` and `key_env`";
            return Err(section.error("key", why));
        }
    };
    if !capability.is_empty() {
        key.capability = capability;
    }
    key.revocable_tokens = revocable_tokens;
    key.connections_max = connections_max;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ably::Ack;
    use crate::hooks::Sink;

    fn refusal(text: &str) -> String {
        Config::parse("r.toml", text).expect_err("must be refused").to_string()
    }

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

    #[test]
    fn cores_have_sizes_of_their_own() {
        let text =
            "[server]\nshards = 1\n[[cores]]\ncpu = 0\nring_entries = 128\nbusy_poll_us = 50\n";
        let config = Config::parse("r.toml", text).unwrap();
        assert_eq!(config.core_overrides[0].place, "r.toml:3");
        let of_core = config.core_overrides[0].clone().into_override();
        assert_eq!((of_core.ring_entries, of_core.busy_poll_us), (Some(128), Some(50)));
        assert_eq!(of_core.connections_max, None);
        for (text, expected) in [
            ("[[cores]]\nring_entries = 64", "1:1: `cores.cpu`: is missing"),
            ("[[cores]]\ncpu = 1\n[[cores]]\ncpu = 1", "3:1: `cores`: CPU 1 is there twice"),
            (
                "[[cores]]\ncpu = 1\nring_entries = 65",
                "3:16: `cores.ring_entries`: 65 is not a power of two from 64 to 32768",
            ),
            (
                "[[cores]]\ncpu = 1\nbacklog = 65",
                "3:1: unknown key `cores.backlog`; known here: `cpu`, `connections_max`, `ring_entries`, \
                 `table_entries`, `receive_buffers`, `receive_buffer_bytes`, `busy_poll_us`",
            ),
        ] {
            assert_eq!(refusal(text), format!("r.toml:{expected}"));
        }
        let nowhere = Config::parse("r.toml", "[[cores]]\ncpu = 60000").unwrap();
        let error = nowhere.placement().unwrap_err().to_string();
        assert!(error.starts_with("r.toml:1: `cores.cpu`: no shard runs on CPU 60000"), "{error}");
    }

    #[test]
    fn secrets_come_from_files_credentials_and_variables() {
        // The test runner's environment has these, and nobody may set one while threads run.
        let text = "[[keys]]\nkey_env = \"CARGO_PKG_NAME\"";
        let expected =
            "2:11: `keys.key_env`: in the variable CARGO_PKG_NAME: wants appId.keyId:secret";
        assert_eq!(refusal(text), format!("r.toml:{expected}"));
        let text = "[[keys]]\nkey_env = \"NO_SUCH_VARIABLE\"";
        let expected = "2:11: `keys.key_env`: the variable `NO_SUCH_VARIABLE` is not set";
        assert_eq!(refusal(text), format!("r.toml:{expected}"));
        let text = "[[keys]]\nkey = \"a.b:c\"\nkey_env = \"CARGO_PKG_NAME\"";
        assert!(refusal(text).contains("CARGO_PKG_NAME"));
        let path = units::secret_path_in(None, Path::new("/etc/x"), "credential:key");
        assert!(path.unwrap_err().contains("CREDENTIALS_DIRECTORY"));
        let credentials = Some("/run/c".into());
        for (text, expected) in
            [("credential:key", "/run/c/key"), ("a.key", "/etc/x/a.key"), ("/b.key", "/b.key")]
        {
            let path = units::secret_path_in(credentials.clone(), Path::new("/etc/x"), text);
            assert_eq!(path.unwrap(), Path::new(expected));
        }
        for name in ["credential:", "credential:../key", "credential:a/b"] {
            assert!(units::secret_path_in(credentials.clone(), Path::new(""), name).is_err());
        }
    }

    #[test]
    fn an_empty_file_is_the_default() {
        let config = Config::parse("r.toml", "").unwrap();
        assert_eq!(format!("{config:?}"), format!("{:?}", Config::default()));
    }

    #[test]
    fn a_full_socket_buffer_counts_as_lag_but_one_frame_fits_beside_it() {
        let lag_bytes_max = |text: &str| {
            let (server, _) = Config::parse("r.toml", text).unwrap().into_server().unwrap();
            server.shard.lag_bytes_max as usize
        };
        assert_eq!(lag_bytes_max(""), MIB - 128 * KIB);
        let large = "[socket]\nsend_buffer_bytes = \"2MiB\"";
        assert_eq!(lag_bytes_max(large), 512 * KIB);
    }

    #[test]
    fn the_reference_documents_every_key_with_its_default() {
        let reference = include_str!("../../docs/configuration.md");
        let example = reference.split("```toml\n").nth(1).expect("opens with the whole file");
        let example = example.split("```").next().expect("split yields at least one part");
        let mut config = Config::parse("configuration.md", example).unwrap();
        let default = Config::default();
        assert_eq!((config.keys.len(), config.apps.len()), (2, 1), "the examples");
        check_rule_defaults(&config.rules);
        (config.keys, config.apps, config.rules) = (vec![], vec![], vec![]);
        assert_eq!(config.state_dir.take(), Some(PathBuf::from("/var/lib/ringcast")));
        assert_eq!(config.admin_token_file.take(), Some(PathBuf::from("admin.token")));
        let TlsSettings { certificate_file, key_file, client_ca_file, certificates, .. } =
            &mut config.tls;
        assert_eq!(certificates.len(), 1, "the example");
        certificates.clear();
        for (file, path) in [
            (certificate_file, "tls/certificate.pem"),
            (key_file, "tls/key.pem"),
            (client_ca_file, "tls/clients.pem"),
        ] {
            assert_eq!(file.take(), Some(PathBuf::from(path)));
        }
        assert_eq!(config.hooks_ca_file.take(), Some(PathBuf::from("ca.pem")));
        // Their defaults depend on the machine.
        (config.cores, config.shards, config.limits.channels_max) = (None, None, None);
        assert_eq!(config.core_overrides.len(), 1, "the example");
        config.core_overrides.clear();
        assert_eq!(format!("{config:?}"), format!("{default:?}"));
        for key in example.lines().filter_map(|line| line.split_once(" = ")).map(|(key, _)| key) {
            let key = key.trim_start_matches("# ");
            assert!(reference.contains(&format!("| `{key}` |")), "`{key}` has no row in a table");
        }
    }

    fn check_rule_defaults(rules: &[RuleConfig]) {
        let least = "[[rules]]\nid = \"least\"\napp = \"shop\"\nchannel = \"^orders:\"\n\
                     url = \"https://example.com/orders\"";
        let least = Config::parse("r.toml", least).unwrap().rules.remove(0);
        let [full] = rules else { panic!("one example") };
        assert_eq!(full.signing_key.as_deref(), Some("shop.key"));
        let mut full = RuleConfig { signing_key: None, id: "least".into(), ..full.clone() };
        let Sink::Http(http) = &mut full.target.sink else { panic!("has a url") };
        assert_eq!(http.headers, [("x-secret".to_owned(), "hush".to_owned())]);
        http.headers.clear();
        assert_eq!(format!("{full:?}"), format!("{least:?}"));
    }

    #[test]
    fn rules_that_cannot_work_are_refused() {
        let rule = |more: &str| {
            let text = "[[rules]]\nid = \"r\"\napp = \"a\"\nchannel = \"\"";
            refusal(&format!("{text}\n{more}"))
        };
        for (more, expected) in [
            ("", "1:1: `rules.url`: is missing"),
            (
                "url = \"http://10.0.0.1/\"",
                "5:7: `rules.url`: 10.0.0.1 is not a public address; say `allow_private = true` if it is meant",
            ),
            ("url = \"ftp://example.com/\"", "5:7: `rules.url`: wants http:// or https://"),
            (
                "source = \"channel.mesage\"",
                "5:10: `rules.source`: `channel.mesage` is not known; did you mean `channel.message`?",
            ),
            (
                "url = \"https://example.com/\"\nmode = \"batch\"\nenveloped = false",
                "7:13: `rules.enveloped`: is true where `mode` is \"batch\"",
            ),
            (
                "headers = { \"a b\" = \"c\" }",
                "5:11: `rules.headers`: `a b` is no name of a header",
            ),
            (
                "url = \"https://example.com/\"\nclient_key_file = \"key.pem\"",
                "1:1: `rules.client_certificate_file`: is missing",
            ),
            (
                "ca_file = \"nowhere.pem\"",
                "5:11: `rules.ca_file`: cannot read nowhere.pem: No such file or directory (os error 2)",
            ),
            (
                "url = \"https://example.com/\"\nlambda = { function = \"f\" }",
                "6:10: `rules.lambda`: has no place beside another target: keep one of them",
            ),
            (
                "lambda = { function = \"f g\" }",
                "5:23: `rules.lambda.function`: wants the name of a function, or its ARN",
            ),
            ("lambda = { function = \"f\" }", "1:1: `rules.aws.region`: is missing"),
            (
                "lambda = { function = \"f\" }\naws = { region = \"eu-west-1\", external_id = \"x\" }",
                "6:7: `rules.aws.role_arn`: is missing",
            ),
            (
                "lambda = { function = \"f\" }\naws = { region = \"eu-west-1\" }\nformat = \"msgpack\"",
                "7:10: `rules.format`: is \"json\" for a function",
            ),
            (
                "nats = { servers = [\"nats://127.0.0.1\"], subject = \"x\" }",
                "5:20: `rules.nats.servers`: 127.0.0.1 is not a public address; say `allow_private = true` if it is meant",
            ),
            (
                "nats = { servers = [\"nats://example.com\"], subject = \"a.*\" }",
                "5:54: `rules.nats.subject`: wants a subject, such as \"chat.{channel}\"",
            ),
            (
                "nats = { servers = [\"nats://example.com\"], subject = \"a\" }\nsigning_key = \"a.b\"",
                "6:15: `rules.signing_key`: wants a `url`",
            ),
        ] {
            assert_eq!(rule(more), format!("r.toml:{expected}"));
        }
        let error = refusal("[[rules]]\nid = \"r\"\napp = \"a\"\nchannel = \"(?=x)\"");
        assert!(error.starts_with("r.toml:4:11: `rules.channel`: error: look-around"), "{error}");
        assert!(error.ends_with("(40035/400)"), "{error}");
    }

    #[test]
    fn functions_and_subjects_are_targets_and_hide_their_secrets() {
        let config = Config::parse(
            "r.toml",
            "[[rules]]\nid = \"f\"\napp = \"a\"\nchannel = \"\"\n\
             lambda = { function = \"arn:aws:lambda:eu-west-1:123456789012:function:mask:live\" }\n\
             aws = { access_key_id = \"AKID\", secret_access_key = \"hush\" }\n\
             [[rules]]\nid = \"n\"\napp = \"a\"\nchannel = \"\"\n\
             nats = { servers = [\"tls://example.com\"], subject = \"a.{channel}\", token = \"hush\" }",
        )
        .unwrap();
        let Sink::Lambda(lambda) = &config.rules[0].target.sink else { panic!("a function") };
        assert_eq!((&*lambda.aws.region, lambda.qualifier.as_deref()), ("eu-west-1", Some("live")));
        assert!(matches!(&config.rules[1].target.sink, Sink::Nats(nats) if !nats.jetstream));
        assert!(!format!("{config:?}").contains("hush"));
        assert_eq!(config.rules, config.clone().rules);
    }

    #[test]
    fn a_rule_signs_with_a_key_that_is_there() {
        let text = "[[apps]]\nid = \"a\"\n[[apps.rules]]\nid = \"r\"\nchannel = \"\"\n\
                    url = \"http://127.0.0.1/\"\nallow_private = true\nsigning_key = \"a.k\"\n";
        let error = Config::parse("r.toml", text).unwrap().hooks().unwrap_err().to_string();
        assert_eq!(error, "the rule `r` signs with `a.k`, which is no key here");
        let with_key = format!("{text}[[keys]]\nkey = \"a.k:hush\"\n");
        let hooks = Config::parse("r.toml", &with_key).unwrap().hooks().unwrap();
        assert_eq!(&*hooks.rules[0].rule.app_id, "a");
        assert!(!format!("{hooks:?}").contains("hush"));
    }

    #[test]
    fn unknown_keys_are_refused_with_place_and_suggestion() {
        assert_eq!(
            refusal("[server]\nlisten = \"127.0.0.1:1\"\nshard = 2\n"),
            "r.toml:3:1: unknown key `server.shard`; did you mean `shards`?"
        );
        assert_eq!(
            refusal("[sockets]\nbacklog = 1\n"),
            "r.toml:1:2: unknown key `sockets`; did you mean `socket`?"
        );
        assert_eq!(
            refusal("[test]\ncolour = true\n"),
            "r.toml:2:1: unknown key `test.colour`; known here: `echo`, `stall`"
        );
        assert_eq!(
            refusal("[[keys]]\nkey = \"a.b:c\"\ncapabilty = {}\n"),
            "r.toml:3:1: unknown key `keys.capabilty`; did you mean `capability`?"
        );
    }

    #[test]
    fn values_out_of_range_are_refused_with_the_range() {
        for (text, expected) in [
            ("[server]\nshards = 0", "2:10: `server.shards`: 0 is not from 1 to 256"),
            (
                "[socket]\nring_entries = 1000",
                "2:16: `socket.ring_entries`: 1000 is not a power of two from 64 to 32768",
            ),
            ("[socket]\nbacklog = \"many\"", "2:11: `socket.backlog`: wants an integer"),
            (
                "[limits]\nmessage_bytes_max = \"1GiB\"",
                "2:21: `limits.message_bytes_max`: 1GiB is not from 1KiB to 16MiB",
            ),
            (
                "[limits]\nmessage_bytes_max = \"64 kilo\"",
                "2:21: `limits.message_bytes_max`: wants bytes, such as 4096 or \"64KiB\"",
            ),
            (
                "[connection]\nidle_interval = 15",
                "2:17: `connection.idle_interval`: wants a duration, such as \"500ms\" or \"15s\"",
            ),
            (
                "[history]\nretention = \"25h\"",
                "2:13: `history.retention`: 25h is not from 1s to 24h",
            ),
            (
                "[log]\nwaiting_bytes_max = \"9MiB\"",
                "2:21: `log.waiting_bytes_max`: 9MiB is not from 64KiB to 8MiB",
            ),
            (
                "[server]\nlisten = \"localhost\"",
                "2:10: `server.listen`: wants \"off\" or an address and port, such as \"127.0.0.1:8080\"",
            ),
            (
                "[limits]\nframe_bytes_max = 4096",
                "2:19: `limits.frame_bytes_max`: is smaller than message_bytes_max",
            ),
            (
                "[server]\norigins = [\"https://a.b/c\"]",
                "2:11: `server.origins`: `https://a.b/c` is no origin; one has a scheme, a host and no path",
            ),
            (
                "[admin]\nlisten = \"0.0.0.0:1\"",
                "2:10: `admin.listen`: 0.0.0.0:1 can be reached from elsewhere, so it takes a token_file",
            ),
            ("server = 1", "1:10: `server`: wants a table"),
        ] {
            assert_eq!(refusal(text), format!("r.toml:{expected}"));
        }
    }

    #[test]
    fn text_that_is_not_toml_is_refused_with_its_place() {
        let error = refusal("[server]\nlisten = \n");
        assert!(error.starts_with("r.toml:2:"), "{error}");
    }

    #[test]
    fn no_prefix_of_a_file_panics() {
        let text = "[server]\ncores = [0, 1]\n[[keys]]\nkey = \"a.b:\u{e9}\"\n[limits]\nhead_timeout=\"9s\"\n";
        for end in (0..=text.len()).filter(|end| text.is_char_boundary(*end)) {
            let _ = Config::parse("r.toml", &text[..end]);
        }
    }

    #[test]
    fn keys_carry_their_capability_and_hide_their_secret() {
        let config = Config::parse(
            "r.toml",
            "[[keys]]\nkey = \"app.key:hush\"\n\
             [[keys]]\nkey = \"app.sub:hush\"\ncapability = { \"news:*\" = [\"subscribe\"] }",
        )
        .unwrap();
        assert_eq!(config.keys[0].capability["[*]*"], ["*"]);
        assert_eq!(config.keys[1].capability["news:*"], ["subscribe"]);
        assert!(!format!("{config:?}").contains("hush"));
    }

    #[test]
    fn keys_that_cannot_work_are_refused_without_showing_them() {
        let error = refusal("[[keys]]\nkey = \"hush\"");
        assert_eq!(error, "r.toml:2:7: `keys.key`: wants appId.keyId:secret");
        let error = refusal("[[keys]]\nkey = \"a.b:c\"\ncapability = { \"*\" = [\"publsh\"] }");
        assert_eq!(
            error,
            "r.toml:3:14: `keys.capability`: unknown operation `publsh`; did you mean `publish`?"
        );
        let error = refusal("[[keys]]\nkey = \"a.b:c\"\n[[keys]]\nkey = \"a.b:d\"");
        assert_eq!(error, "r.toml:3:1: `keys`: the key `a.b` is there twice");
        let error = refusal("[[keys]]\n");
        assert_eq!(
            error,
            "r.toml:1:1: `keys.key`: is missing, and so are `key_file` and `key_env`"
        );
    }

    #[test]
    fn apps_have_their_own_keys_and_rules() {
        let config = Config::parse(
            "r.toml",
            "[[keys]]\nkey = \"shop.all:hush\"\n\
             [[keys]]\nkey = \"plain.all:hush\"\n\
             [[apps]]\nid = \"shop\"\npresence_members_max = 50\n\
             [[apps.keys]]\nkey = \"shop.tokens:hush\"\nrevocable_tokens = true\n\
             [[apps.namespaces]]\nid = \"chat\"\nmutable_messages = true\n\
             [[apps.namespaces]]\nid = \"team\"\nidentified = true\n\
             [[apps]]\nid = \"empty\"\n",
        )
        .unwrap();
        let directory = config.directory().unwrap();
        assert_eq!(directory.app_count(), 3);
        let shop = directory.app("shop").expect("has a table");
        assert_eq!(shop.limits().presence_members_max, 50);
        assert!(shop.namespace("chat:room").mutable_messages);
        assert!(!shop.namespace("chat:room").authenticated);
        assert!(shop.namespace("team").authenticated);
        assert!(directory.key("shop.tokens").expect("is there").has_revocable_tokens());
        assert!(!directory.key("shop.all").expect("is there").has_revocable_tokens());
        assert!(directory.key("plain.all").is_ok());
    }

    #[test]
    fn a_namespace_that_is_kept_says_when_it_confirms_and_has_a_place() {
        let text = |namespace: &str| {
            format!("[[apps]]\nid = \"shop\"\n[[apps.namespaces]]\nid = \"a\"\n{namespace}")
        };
        let parse = |namespace: &str| Config::parse("r.toml", &text(namespace));
        for (ack, expected) in [
            ("", Ack::Written),
            ("ack = \"memory\"", Ack::Memory),
            ("ack = \"written\"", Ack::Written),
            ("ack = \"fsynced\"", Ack::Fsynced),
        ] {
            let mut config = parse(&format!("persist = true\n{ack}")).expect("valid");
            let error = config.directory().expect_err("without a place").to_string();
            assert!(error.contains("wants a `server.state_dir`"), "{error}");
            config.state_dir = Some("/var/lib/ringcast".into());
            let directory = config.directory().expect("with a place");
            let shop = directory.app("shop").expect("configured");
            let namespace = shop.namespace("a:room");
            assert_eq!((namespace.persisted, namespace.ack), (true, expected));
        }
        for (wrong, message) in [
            ("ack = \"written\"", "`apps.namespaces.ack`: goes with `persist = true`"),
            ("ack = \"disk\"", "`apps.namespaces.ack`: wants `memory`, `written` or `fsynced`"),
        ] {
            let error = parse(wrong).expect_err("against a rule").to_string();
            assert!(error.contains(message), "{error}");
        }
    }

    #[test]
    fn apps_that_cannot_work_are_refused() {
        for (text, expected) in [
            ("[[apps]]\n", "1:1: `apps.id`: is missing"),
            ("[[apps]]\nid = \"a.b\"", "2:6: `apps.id`: wants letters, digits, `-` and `_`"),
            (
                "[[apps]]\nid = \"a\"\n[[apps]]\nid = \"a\"",
                "3:1: `apps`: the app `a` is there twice",
            ),
            (
                "[[apps]]\nid = \"a\"\n[[apps.keys]]\nkey = \"b.c:d\"",
                "3:1: `apps.keys`: the key `b.c` is of another app",
            ),
            (
                "[[apps]]\nid = \"a\"\n[[apps.namespaces]]\nid = \"a:b\"",
                "4:6: `apps.namespaces.id`: wants a name without `:`",
            ),
            (
                "[[apps]]\nid = \"a\"\n[[apps.namespaces]]\nmutable = true",
                "4:1: unknown key `apps.namespaces.mutable`; known here: `id`, `mutable_messages`, `identified`, `persist`, `ack`",
            ),
            (
                "[[apps]]\nid = \"a\"\nnamespaces = 1",
                "3:14: `apps.namespaces`: wants tables: [[apps.namespaces]], once for each",
            ),
        ] {
            assert_eq!(refusal(text), format!("r.toml:{expected}"));
        }
    }
}
