//! From the sections of the file, and of what lies over it, to the configuration.

use crate::admin::SocketPlace;
use crate::base::Level;
use crate::config::bounds::BUSY_POLL_US_MAX;
use crate::config::layers::{Origins, Sources};
use crate::config::reader::{ConfigError, Section};
use crate::config::units::{self, KIB, MIB};
use crate::config::{AppConfig, Config, CoreConfig, RuleConfig, cores, key};
use crate::http::ForwardedHeader;
use crate::server::LogFormat;

/// Levels of the log.
pub(super) const LEVELS: &[(&str, Level)] =
    &[("error", Level::Error), ("warn", Level::Warn), ("info", Level::Info)];

/// In which header proxies say whose requests they pass on.
pub(super) const FORWARDED_HEADERS: &[(&str, ForwardedHeader)] = &[
    ("x-forwarded-for", ForwardedHeader::XForwardedFor),
    ("forwarded", ForwardedHeader::Forwarded),
];

/// How the log looks.
pub(super) const LOG_FORMATS: &[(&str, LogFormat)] =
    &[("auto", LogFormat::Auto), ("logfmt", LogFormat::Logfmt), ("json", LogFormat::Json)];

/// Shards of one daemon; their mesh has the square of this many mailboxes.
pub(super) const SHARDS_MAX: usize = 256;

impl Config {
    /// The configuration that the layers come to, and where each value is from.
    pub(super) fn from_sources(sources: &Sources) -> Result<(Config, Origins), ConfigError> {
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
        let key = key::read(section)?;
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
}
