//! The configuration as text: what `ringcast config` prints, and what a reload compares. Keys and apps are
//! named in comments only, for their secrets are to be seen nowhere.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use crate::admin::SocketPlace;
use crate::config::layers::Origins;
use crate::config::sections::{FORWARDED_HEADERS, LEVELS, LOG_FORMATS};
use crate::config::{Config, reference, units};

/// One key of the file with the value that it has, as TOML.
struct Entry {
    section: &'static str,
    key: &'static str,
    value: String,
}

/// Keys that a reload puts into effect, beside those of apps, keys, rules and TLS.
const RELOADED: [&str; 9] = [
    "server.trusted_proxies",
    "server.forwarded_header",
    "limits.channels_per_connection_max",
    "limits.messages_per_second_max",
    "limits.payloads_per_second_max",
    "limits.connects_per_second_max",
    "limits.connections_per_address_max",
    "limits.connections_per_key_max",
    "limits.uncounted_addresses",
];

impl Entry {
    fn name(&self) -> String {
        format!("{}.{}", self.section, self.key)
    }
}

fn text(value: impl std::fmt::Display) -> String {
    format!("{:?}", value.to_string())
}

fn duration(value: Duration) -> String {
    text(units::show_duration(value))
}

fn bytes(value: usize) -> String {
    let shown = units::show_bytes(value);
    if shown.ends_with('B') { text(shown) } else { shown }
}

/// The word that stands for `value`.
fn word_of<T: PartialEq>(words: &[(&'static str, T)], value: T) -> &'static str {
    let found = words.iter().find(|(_, known)| *known == value);
    found.expect("every value has a word").0
}

impl Config {
    /// Every key but those of keys and apps, in the order of the reference. What depends on the machine
    /// and was not set is not there.
    fn entries(&self) -> Vec<Entry> {
        let mut entries = Vec::new();
        let mut section = "server";
        let mut add = |section, key, value| entries.push(Entry { section, key, value });
        add(section, "listen", self.listen.map_or_else(|| text("off"), text));
        if let Some(cores) = &self.cores {
            add(section, "cores", format!("{cores:?}"));
        }
        if let Some(shards) = self.shards {
            add(section, "shards", shards.to_string());
        }
        if let Some(state_dir) = &self.state_dir {
            add(section, "state_dir", text(state_dir.display()));
        }
        add(section, "origins", format!("{:?}", self.origins));
        add(section, "trusted_proxies", format!("{:?}", self.trusted_proxies));
        let header = word_of(FORWARDED_HEADERS, self.forwarded_header);
        add(section, "forwarded_header", text(header));
        add(section, "drain_window", duration(self.drain_window));
        add(section, "landlock", self.landlock.to_string());
        section = "socket";
        let (ring, listener) = (&self.ring, &self.listener);
        add(section, "connections_max", self.connections_max.to_string());
        add(section, "ring_entries", ring.ring_entries.to_string());
        add(section, "table_entries", ring.table_entries.to_string());
        add(section, "receive_buffers", ring.receive_buffers.to_string());
        add(section, "receive_buffer_bytes", bytes(ring.receive_buffer_bytes as usize));
        add(section, "send_buffer_bytes", bytes(listener.send_buffer_bytes as usize));
        add(section, "notsent_lowat_bytes", bytes(listener.notsent_lowat_bytes as usize));
        add(section, "backlog", listener.backlog.to_string());
        add(section, "busy_poll_us", self.busy_poll_us.to_string());
        section = "tls";
        let tls = &self.tls;
        add(section, "listen", tls.listen.map_or_else(|| text("off"), text));
        for (key, file) in [
            ("certificate_file", &tls.certificate_file),
            ("key_file", &tls.key_file),
            ("client_ca_file", &tls.client_ca_file),
        ] {
            if let Some(file) = file {
                add(section, key, text(file.display()));
            }
        }
        let [client_auth, min_version] = tls.words();
        add(section, "client_auth", text(client_auth));
        add(section, "min_version", text(min_version));
        section = "websocket";
        add(section, "deflate", self.deflate.to_string());
        add(section, "deflate_bytes_min", bytes(self.deflate_bytes_min));
        section = "limits";
        let limits = &self.limits;
        add(section, "message_bytes_max", bytes(limits.message_bytes_max));
        add(section, "frame_bytes_max", bytes(limits.frame_bytes_max));
        add(section, "outbound_lag_bytes_max", bytes(limits.outbound_lag_bytes_max));
        add(section, "outbound_lag_max", duration(limits.outbound_lag_max));
        let channels = limits.channels_per_connection_max;
        add(section, "channels_per_connection_max", channels.to_string());
        add(section, "publishes_in_flight_max", limits.publishes_in_flight_max.to_string());
        add(section, "messages_per_second_max", limits.messages_per_second_max.to_string());
        add(section, "payloads_per_second_max", limits.payloads_per_second_max.to_string());
        add(section, "connects_per_second_max", limits.connects_per_second_max.to_string());
        let address_max = limits.connections_per_address_max;
        add(section, "connections_per_address_max", address_max.to_string());
        add(section, "connections_per_key_max", limits.connections_per_key_max.to_string());
        add(section, "uncounted_addresses", format!("{:?}", limits.uncounted_addresses));
        add(section, "presence_bytes_max", bytes(limits.presence_bytes_max));
        if let Some(max) = limits.channels_max {
            add(section, "channels_max", max.to_string());
        }
        add(section, "head_timeout", duration(limits.head_timeout));
        add(section, "mesh_entries", limits.mesh_entries.to_string());
        section = "connection";
        add(section, "idle_interval", duration(self.connection.idle_interval));
        add(section, "state_ttl", duration(self.connection.state_ttl));
        add(section, "remain_present", duration(self.connection.remain_present));
        section = "history";
        add(section, "retention", duration(self.history.retention));
        add(section, "channel_bytes_max", bytes(self.history.channel_bytes_max));
        add(section, "shard_bytes_max", bytes(self.history.shard_bytes_max));
        section = "log";
        add(section, "retention", duration(self.log.retention));
        add(section, "shard_bytes_max", bytes(self.log.shard_bytes_max));
        add(section, "waiting_bytes_max", bytes(self.log.waiting_bytes_max));
        add(section, "index_bytes_max", bytes(self.log.index_bytes_max));
        section = "admin";
        add(section, "listen", self.admin.listen.map_or_else(|| text("off"), text));
        let socket = match &self.admin.socket {
            SocketPlace::Auto => text("auto"),
            SocketPlace::Off => text("off"),
            SocketPlace::At(path) => text(path.display()),
        };
        add(section, "socket", socket);
        if let Some(path) = &self.admin_token_file {
            add(section, "token_file", text(path.display()));
        }
        section = "hooks";
        if let Some(path) = &self.hooks_ca_file {
            add(section, "ca_file", text(path.display()));
        }
        section = "logging";
        add(section, "level", text(word_of(LEVELS, self.logging.level)));
        add(section, "format", text(word_of(LOG_FORMATS, self.logging.format)));
        section = "test";
        add(section, "echo", self.echo.to_string());
        add(section, "stall", self.stall.to_string());
        entries
    }

    /// The whole configuration as a file. `origins` says, by `section.key`, what is not a default and
    /// where it is from.
    pub(super) fn to_text(&self, origins: &Origins) -> String {
        let mut text = String::new();
        let mut section = "";
        for entry in self.entries() {
            if entry.section != section {
                let gap = if section.is_empty() { "" } else { "\n" };
                section = entry.section;
                let _ = writeln!(text, "{gap}[{section}]");
            }
            let _ = write!(text, "{} = {}", entry.key, entry.value);
            let _ = match origins.values.get(&entry.name()) {
                Some(origin) => writeln!(text, " # {origin}"),
                None => writeln!(text),
            };
        }
        let place = |places: &[String], index: usize| {
            places.get(index).map_or_else(String::new, |place| format!(", {place}"))
        };
        for (i, pair) in self.tls.certificates.iter().enumerate() {
            let place = origins.certificates.get(i);
            let place = place.map_or_else(String::new, |place| format!(" # {place}"));
            let _ = writeln!(text, "\n[[tls.certificates]]{place}");
            for (key, file) in
                [("certificate_file", &pair.certificate_file), ("key_file", &pair.key_file)]
            {
                let _ = writeln!(text, "{key} = {:?}", file.display().to_string());
            }
        }
        for core in &self.core_overrides {
            let _ = write!(text, "\n# [[cores]] CPU {}, {}", core.cpu, core.place);
        }
        for (i, key) in self.keys.iter().enumerate() {
            let (name, place) = (key.name(), place(&origins.keys, i));
            let _ = write!(text, "\n# [[keys]] {name}{place}, its secret is not shown");
        }
        for (i, app) in self.apps.iter().enumerate() {
            let _ = write!(text, "\n# [[apps]] {}{}", app.id, place(&origins.apps, i));
        }
        for (i, rule) in self.rules.iter().enumerate() {
            let (id, app, place) = (&rule.id, &rule.app, place(&origins.rules, i));
            let status = if rule.is_enabled { "" } else { ", disabled" };
            let _ = write!(text, "\n# [[rules]] {id} of {app}{place}{status}");
        }
        if !text.ends_with('\n') {
            text.push('\n');
        }
        text
    }

    /// The file that changes nothing: each key with its default.
    pub fn default_text() -> String {
        Config::default().to_text(&Origins::default())
    }

    /// What the reference says of the keys whose names begin with `prefix`; `None`: there are none.
    pub fn reference_text(prefix: &str) -> Option<String> {
        reference::text(prefix)
    }

    /// `ringcast.toml.5`: the reference as a manual page.
    pub fn manual_page() -> String {
        reference::manual_page()
    }

    /// Keys of the file that `next` has with other values, and that a reload does not reach.
    pub fn needs_restart(&self, next: &Config) -> Vec<String> {
        let values = |config: &Config| -> BTreeMap<String, String> {
            config.entries().into_iter().map(|entry| (entry.name(), entry.value)).collect()
        };
        let (before, after) = (values(self), values(next));
        let names: std::collections::BTreeSet<_> = before.keys().chain(after.keys()).collect();
        let is_other = |name: &&String| {
            // Of TLS only the address stays as it was.
            let is_of_tls = name.starts_with("tls.") && *name != "tls.listen";
            let is_reloaded = is_of_tls || RELOADED.contains(&name.as_str());
            !is_reloaded && before.get(*name) != after.get(*name)
        };
        let mut changed: Vec<String> = names.into_iter().filter(is_other).cloned().collect();
        if format!("{:?}", self.core_overrides) != format!("{:?}", next.core_overrides) {
            changed.push("cores".into());
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::layers::Sources;

    /// Keys that are shown only where they are set.
    const NO_DEFAULT: [&str; 9] = [
        "cores",
        "shards",
        "channels_max",
        "state_dir",
        "certificate_file",
        "key_file",
        "client_ca_file",
        "token_file",
        "ca_file",
    ];

    #[test]
    fn the_default_text_is_a_file_that_changes_nothing_and_has_every_key() {
        let text = Config::default_text();
        let config = Config::parse("default.toml", &text).expect("is a configuration");
        assert_eq!(format!("{config:?}"), format!("{:?}", Config::default()));
        let reference = include_str!("../../docs/configuration.md");
        let example = reference.split("```toml\n").nth(1).expect("opens with the whole file");
        let example = example.split("```").next().expect("split yields at least one part");
        let mut in_list = false;
        let mut section = "";
        for line in example.lines() {
            in_list = (in_list && !line.starts_with('[')) || line.starts_with("[[");
            section = line.strip_prefix('[').map_or(section, |name| name.trim_end_matches(']'));
            let Some((key, _)) = line.split_once(" = ").filter(|_| !in_list) else { continue };
            let has = Config::default()
                .entries()
                .iter()
                .any(|entry| (entry.section, entry.key) == (section, key));
            assert!(has || NO_DEFAULT.contains(&key), "{section}.{key} is not shown");
        }
    }

    #[test]
    fn a_shown_configuration_reads_back_as_it_was() {
        let file = "[server]\nlisten = \"[::1]:80\"\ncores = \"0-2\"\nshards = 3\n\
                    origins = [\"https://a.b\"]\ndrain_window = \"1500ms\"\n\
                    [socket]\nsend_buffer_bytes = 5000\n[admin]\nlisten = \"127.0.0.1:9\"\n\
                    [test]\necho = true\n[[tls.certificates]]\n\
                    certificate_file = \"/a/c.pem\"\nkey_file = \"/a/k.pem\"\n";
        let sources = Sources::of_file("r.toml", file);
        let (config, origins) = Config::from_sources(&sources).expect("is a configuration");
        let text = config.to_text(&origins);
        assert!(text.contains("\n[[tls.certificates]] # r.toml:13\n"), "{text}");
        let again = Config::parse("again.toml", &text).expect("is a configuration");
        assert_eq!(format!("{again:?}"), format!("{config:?}"));
        let changed = config.needs_restart(&Config::default());
        let names = ["admin.listen", "server.cores", "server.drain_window", "server.listen"];
        assert_eq!(changed[..4], names);
        assert!(config.needs_restart(&again).is_empty());
    }

    #[test]
    fn limits_that_a_reload_puts_into_effect_need_no_restart() {
        let file = "[server]\ntrusted_proxies = [\"10.0.0.0/8\"]\nforwarded_header = \"forwarded\"\n\
                    [limits]\nchannels_per_connection_max = 3\nmessages_per_second_max = 4\n\
                    payloads_per_second_max = 5\nconnects_per_second_max = 6\n\
                    connections_per_address_max = 7\nconnections_per_key_max = 8\n\
                    uncounted_addresses = [\"192.0.2.1\", \"2001:db8::/32\"]\n";
        let config = Config::parse("r.toml", file).expect("is a configuration");
        assert!(Config::default().needs_restart(&config).is_empty());
        let again = Config::parse("again.toml", &config.to_text(&Origins::default()));
        assert_eq!(format!("{:?}", again.expect("is a configuration")), format!("{config:?}"));
        let limits = config.changeable_limits();
        assert_eq!((limits.channels_max, limits.messages_per_second_max), (3, 4));
        assert_eq!(limits.payloads_per_second_max, 5);
        assert_eq!(limits.admission.connects_per_second_max, 6);
        assert_eq!(limits.admission.connections_per_address_max, 7);
        assert_eq!(limits.admission.connections_per_key_max, 8);
    }

    #[test]
    fn rules_are_shown_with_their_places() {
        let file = "[[rules]]\nid = \"last\"\napp = \"b\"\nchannel = \"\"\nurl = \"https://x.example/hush\"\n\
                    status = \"disabled\"\n[[apps]]\nid = \"a\"\n[[apps.rules]]\nid = \"first\"\n\
                    channel = \"\"\nurl = \"https://x.example/\"\nheaders = { secret = \"hush\" }\n";
        let sources = Sources::of_file("r.toml", file);
        let (config, origins) = Config::from_sources(&sources).expect("valid");
        let text = config.to_text(&origins);
        let end = "\n# [[apps]] a, r.toml:7\n# [[rules]] first of a, r.toml:9\n\
                   # [[rules]] last of b, r.toml:1, disabled\n";
        assert!(text.ends_with(end), "{text}");
        assert!(!text.contains("hush"), "{text}");
    }

    #[test]
    fn secrets_are_not_shown() {
        let config = Config::parse("r.toml", "[[keys]]\nkey = \"app.key:hush\"").expect("valid");
        let text = config.to_text(&Origins::default());
        assert!(text.contains("app.key") && !text.contains("hush"), "{text}");
    }
}
