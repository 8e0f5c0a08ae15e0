//! What holds where nothing is configured.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::admin::AdminConfig;
use crate::base::Networks;
use crate::config::units::{KIB, MIB};
use crate::config::{Config, ConnectionTimes, HistoryBounds, Limits, LogBounds, TlsSettings};
use crate::http::ForwardedHeader;
use crate::server::LogConfig;
use crate::sys::SocketRingConfig;
use crate::sys::listener::ListenerConfig;

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
