//! Protocol messages to clients (3.1, 3.2). Absent fields are left out, except where SDKs trip over
//! that: `msgSerial` 0 and `count` of an ACK or NACK are always there.

use std::time::Duration;

use super::writer::{MapWriter, write_map, write_null, write_str};
use super::{Action, ChannelSerial, ErrorInfo, Format, Params, Position, Publication};

/// What a publisher is told: ids and serials of what it published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishResult {
    /// Id of the publication.
    pub message_id: Box<str>,
    /// One for each message; `None` for one that was not published.
    pub serials: Vec<Option<Box<str>>>,
}

impl PublishResult {
    /// What a client is told whose members have changed: nothing has a serial.
    pub fn of_presence() -> PublishResult {
        PublishResult { message_id: "".into(), serials: Vec::new() }
    }

    /// What the publisher of `publication` is told.
    pub fn of(publication: &Publication) -> PublishResult {
        let serial = publication.channel_serial;
        let positions = 0..publication.messages.len() as u32;
        PublishResult::of_positions(
            &publication.id,
            positions.map(|index| Position { serial, index }),
        )
    }

    /// What the publisher is told of a publication called `id` whose parts are at `positions`.
    pub fn of_positions(id: &str, positions: impl Iterator<Item = Position>) -> PublishResult {
        let serials = positions.map(|position| Some(position.to_string().into()));
        PublishResult { message_id: id.into(), serials: serials.collect() }
    }
}

/// What CONNECTED says of the connection (CD1).
#[derive(Clone, Copy, Debug)]
pub struct ConnectionDetails<'a> {
    /// The identity; `*` when it may take any.
    pub client_id: Option<&'a str>,
    /// Secret; what resumes the connection.
    pub connection_key: &'a str,
    /// Bytes of one publish.
    pub max_message_size: u64,
    /// Bytes of one frame.
    pub max_frame_size: u64,
    /// Protocol messages a second; advisory.
    pub max_inbound_rate: u64,
    /// How long the connection outlives its transport.
    pub connection_state_ttl: Duration,
    /// Longest silence that is promised.
    pub max_idle_interval: Duration,
}

/// One protocol message to a client, other than MESSAGE.
#[derive(Clone, Copy, Debug)]
pub enum Outbound<'a> {
    /// A sign of life, or the answer to the ping `id`.
    Heartbeat {
        /// Of the ping.
        id: Option<&'a str>,
    },
    /// Publishes have succeeded.
    Ack {
        /// Of the first one.
        msg_serial: u64,
        /// Of each, in order; the protocol messages covered are as many.
        results: &'a [PublishResult],
    },
    /// A publish has failed.
    Nack {
        /// Which one.
        msg_serial: u64,
        /// Why.
        error: &'a ErrorInfo,
    },
    /// The connection is open.
    Connected {
        /// Public id.
        connection_id: &'a str,
        /// Everything else.
        details: ConnectionDetails<'a>,
        /// Why it is not the one that was to be resumed.
        error: Option<&'a ErrorInfo>,
    },
    /// The client shall send a new token (RTN22).
    Auth,
    /// The transport ends; the client shall connect again.
    Disconnected {
        /// Why.
        error: Option<&'a ErrorInfo>,
    },
    /// The connection has ended, as the client wished.
    Closed,
    /// The connection, or one channel, has failed.
    Error {
        /// The channel, possibly `""`; `None`: the connection.
        channel: Option<&'a str>,
        /// Why.
        error: &'a ErrorInfo,
    },
    /// Attached.
    Attached {
        /// As the client wrote it.
        channel: &'a str,
        /// Where the stream begins.
        channel_serial: &'a ChannelSerial,
        /// Modes and status bits.
        flags: u64,
        /// Those that have an effect.
        params: &'a Params,
        /// Why continuity was lost.
        error: Option<&'a ErrorInfo>,
    },
    /// Detached.
    Detached {
        /// As the client wrote it.
        channel: &'a str,
        /// Why, if the client did not ask for it.
        error: Option<&'a ErrorInfo>,
    },
}

impl Outbound<'_> {
    fn action(&self) -> Action {
        match self {
            Outbound::Heartbeat { .. } => Action::Heartbeat,
            Outbound::Ack { .. } => Action::Ack,
            Outbound::Nack { .. } => Action::Nack,
            Outbound::Connected { .. } => Action::Connected,
            Outbound::Auth => Action::Auth,
            Outbound::Disconnected { .. } => Action::Disconnected,
            Outbound::Closed => Action::Closed,
            Outbound::Error { .. } => Action::Error,
            Outbound::Attached { .. } => Action::Attached,
            Outbound::Detached { .. } => Action::Detached,
        }
    }
}

/// Appends `message`.
pub fn encode(format: Format, message: &Outbound<'_>, out: &mut Vec<u8>) {
    let mut error_of = None;
    write_map(format, out, |map| {
        map.uint("action", message.action().number());
        match message {
            Outbound::Heartbeat { id } => map.opt_str("id", *id),
            Outbound::Ack { msg_serial, results } => {
                map.uint("msgSerial", *msg_serial);
                map.uint("count", results.len() as u64);
                map.array("res", results.iter(), |result, out| {
                    write_map(format, out, |map| write_serials(map, format, result));
                });
            }
            Outbound::Nack { msg_serial, error } => {
                map.uint("msgSerial", *msg_serial);
                map.uint("count", 1);
                error_of = Some(*error);
            }
            Outbound::Connected { connection_id, details, error } => {
                map.str("connectionId", connection_id);
                // Deprecated, and still read by old SDKs.
                map.str("connectionKey", details.connection_key);
                map.map("connectionDetails", |map| {
                    map.opt_str("clientId", details.client_id);
                    map.str("connectionKey", details.connection_key);
                    map.uint("maxMessageSize", details.max_message_size);
                    map.uint("maxFrameSize", details.max_frame_size);
                    map.uint("maxInboundRate", details.max_inbound_rate);
                    map.uint("connectionStateTtl", details.connection_state_ttl.as_millis() as u64);
                    map.uint("maxIdleInterval", details.max_idle_interval.as_millis() as u64);
                });
                error_of = *error;
            }
            Outbound::Disconnected { error } => error_of = *error,
            Outbound::Auth | Outbound::Closed => {}
            Outbound::Error { channel, error } => {
                map.opt_str("channel", *channel);
                error_of = Some(*error);
            }
            Outbound::Attached { channel, channel_serial, flags, params, error } => {
                map.str("channel", channel);
                map.str("channelSerial", &channel_serial.to_string());
                map.uint("flags", *flags);
                if !params.is_empty() {
                    map.map("params", |map| {
                        params.iter().for_each(|(key, value)| map.str(key, value));
                    });
                }
                error_of = *error;
            }
            Outbound::Detached { channel, error } => {
                map.str("channel", channel);
                error_of = *error;
            }
        }
        if let Some(error) = error_of {
            map.map("error", |map| error.write(map));
        }
    });
}

/// Writes the field `serials` of a result; null stands for a message that was not published.
pub(super) fn write_serials(map: &mut MapWriter<'_>, format: Format, result: &PublishResult) {
    map.array("serials", result.serials.iter(), |serial, out| match serial {
        Some(serial) => write_str(format, out, serial),
        None => write_null(format, out),
    });
}
