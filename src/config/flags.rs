//! The flags of `ringcast serve`; what they say wins over files and environment.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;

use crate::config::layers::{KEYS_VARIABLE, Origins, Sources};
use crate::config::sections::SHARDS_MAX;
use crate::config::{ApiKey, Config, cores};

/// Flags of `ringcast serve`.
#[derive(Args, Clone, Debug)]
pub struct ServeFlags {
    /// Configuration file (TOML); beside ringcast.toml the files ringcast.d/*.toml are read too
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Any key of the file, such as limits.head_timeout=5s; may be given several times
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    settings: Vec<String>,
    /// Address and port to listen on [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: Option<SocketAddr>,
    /// CPUs to run on, such as 0,1 or 0-3 [default: all but one where there are more than two]
    #[arg(long, value_name = "LIST", value_parser = CoreList::parse)]
    cores: Option<CoreList>,
    /// Shards, each with its own connections; more than cores share cores [default: one per core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=SHARDS_MAX as i64))]
    pub shards: Option<u16>,
    /// API key that clients may use, for everything; may be given several times
    #[arg(long = "key", value_name = "appId.keyId:secret")]
    pub keys: Vec<ApiKey>,
}

/// Flags of `ringcast sandbox`.
#[derive(Args, Debug)]
pub struct SandboxFlags {
    /// Address and port to listen on [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: Option<SocketAddr>,
    /// CPUs to run on, such as 0,1 or 0-3 [default: all but one where there are more than two]
    #[arg(long, value_name = "LIST", value_parser = CoreList::parse)]
    cores: Option<CoreList>,
    /// Shards, each with its own connections; more than cores share cores [default: one per core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=SHARDS_MAX as i64))]
    pub shards: Option<u16>,
}

impl SandboxFlags {
    /// The defaults with what the flags change: no apps but those that clients make.
    pub fn into_config(self) -> Config {
        let mut config = Config { sandbox: true, ..Config::default() };
        config.place(self.listen, self.cores, self.shards);
        config
    }
}

impl Config {
    fn place(&mut self, listen: Option<SocketAddr>, cores: Option<CoreList>, shards: Option<u16>) {
        self.listen = listen.or(self.listen);
        if let Some(CoreList(cores)) = cores {
            self.cores = Some(cores);
        }
        if let Some(shards) = shards {
            self.shards = Some(usize::from(shards));
        }
    }
}

/// A list of its own type, because clap takes a `Vec` for an option that repeats.
#[derive(Clone, Debug)]
struct CoreList(Vec<usize>);

impl CoreList {
    fn parse(list: &str) -> Result<CoreList, String> {
        cores::parse(list).map(CoreList)
    }
}

impl ServeFlags {
    /// The configuration that these flags come to, as a file; with the place of what is not a default.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn effective(self) -> anyhow::Result<String> {
        let (mut config, mut origins) = self.resolve()?;
        let (cores, shards) = config.placement()?;
        for (name, is_set) in
            [("server.cores", config.cores.is_some()), ("server.shards", config.shards.is_some())]
        {
            if !is_set {
                origins.values.insert(name.into(), "of this machine".into());
            }
        }
        (config.cores, config.shards) = (Some(cores), Some(shards));
        Ok(config.to_text(&origins))
    }

    /// The defaults with what file, directory, environment and flags change, in this order.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn into_config(self) -> anyhow::Result<Config> {
        self.resolve().map(|(config, _)| config)
    }

    fn resolve(self) -> anyhow::Result<(Config, Origins)> {
        let sources = Sources::gather(self.config.as_deref(), std::env::vars_os(), &self.settings)?;
        let (mut config, mut origins) = Config::from_sources(&sources)?;
        config.file_directories = sources.file_directories()?;
        let flags = [
            (self.listen.is_some(), "listen"),
            (self.cores.is_some(), "cores"),
            (self.shards.is_some(), "shards"),
        ];
        for (_, flag) in flags.iter().filter(|(is_given, _)| *is_given) {
            origins.values.insert(format!("server.{flag}"), format!("--{flag}"));
        }
        config.place(self.listen, self.cores, self.shards);
        let (keys, origin) = match std::env::var(KEYS_VARIABLE) {
            _ if !self.keys.is_empty() => (self.keys, "--key"),
            Ok(list) => (keys_of(&list).with_context(|| KEYS_VARIABLE)?, KEYS_VARIABLE),
            Err(_) => (vec![], ""),
        };
        if !keys.is_empty() {
            origins.keys = vec![origin.into(); keys.len()];
            config.keys = keys;
        }
        Ok((config, origins))
    }
}

/// Keys with space between them.
fn keys_of(list: &str) -> anyhow::Result<Vec<ApiKey>> {
    list.split_ascii_whitespace().map(|key| key.parse().map_err(anyhow::Error::msg)).collect()
}
