//! Files, environment and flags to the structs that the layers below define. A value that cannot be
//! honoured is refused with its place, its key and the allowed range; nothing is clamped in silence.
//!
//! `docs/configuration.md` is the reference of all keys; the program prints it, and tests hold it against
//! this module.
//!
//! | file | what |
//! | --- | --- |
//! | `mod.rs` | everything that can be told |
//! | `defaults.rs` | what holds where nothing is |
//! | `layers.rs`, `reader.rs`, `units.rs` | files, variables and flags; sections; values |
//! | `advice.rs` | what a word was probably meant to be |
//! | `sections.rs` | what each section sets |
//! | `bounds.rs` | sections of bounds |
//! | `app.rs`, `cores.rs`, `key.rs`, `rule.rs`, `sink.rs`, `tls.rs` | sections that there may be several of, and TLS |
//! | `flags.rs` | what the command line sets |
//! | `handover.rs` | what the layers below take |
//! | `reference.rs`, `show.rs` | what the program says of its keys and their values |

mod advice;
mod app;
mod bounds;
mod cores;
mod defaults;
mod flags;
mod handover;
mod key;
mod layers;
mod reader;
mod reference;
mod rule;
mod sections;
mod show;
mod sink;
#[cfg(test)]
mod tests;
mod tls;
mod units;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::admin::AdminConfig;
use crate::base::Networks;
pub use crate::config::app::AppConfig;
pub use crate::config::bounds::{ConnectionTimes, HistoryBounds, Limits, LogBounds};
pub use crate::config::cores::CoreConfig;
pub use crate::config::flags::{SandboxFlags, ServeFlags};
pub use crate::config::key::ApiKey;
use crate::config::layers::Sources;
pub use crate::config::reader::ConfigError;
pub use crate::config::rule::RuleConfig;
pub use crate::config::tls::TlsSettings;
use crate::http::ForwardedHeader;
use crate::server::LogConfig;
use crate::sys::SocketRingConfig;
use crate::sys::listener::ListenerConfig;

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
}
