//! One client: what its protocol messages may do, what it was promised, what it is told.
//!
//! A *connection* is Ably's. It reads payloads and writes whole WebSocket frames into the lane of its
//! transport; what concerns channels it returns as a [`Command`] for its shard.

mod acks;
mod attachments;
mod auth;
mod key;
mod open;
mod rates;

use std::sync::Arc;
use std::time::Duration;

use self::acks::{Ack, Acks};
use self::attachments::Attachments;
use self::rates::Rates;
use crate::ably::{
    self, Accepted, Action, ChannelName, ChannelParams, ChannelSerial, ErrorCode, ErrorInfo,
    Filter, Format, Modes, Operation, Outbound, Params, PresenceRequest, Principal,
    ProtocolMessage, PublishResult, Publisher, Since, flags,
};
use crate::base::Now;
use crate::ws::{Data, FrameBuilder, OpCode};

pub use self::acks::Outcome;
pub use self::key::{ConnectionId, ConnectionKey, Place};
pub use self::open::{Opening, Refused};

/// Bytes of publishes whose ACK is owed to one connection; one that has more under way is read no further until
/// half of them have theirs. Publishing one at a time goes on whatever its size.
const PUBLISH_BYTES_IN_FLIGHT_MAX: u64 = 1 << 20;

/// Limits of one connection; each bounds memory or time.
#[derive(Clone, Debug)]
pub struct ConnectionConfig {
    /// Bytes of one publish (4.4); sent as `maxMessageSize` (CD2c).
    pub message_bytes_max: u32,
    /// Bytes of one payload; sent as `maxFrameSize` (CD2d).
    pub frame_bytes_max: u32,
    /// Longest silence towards the client before a HEARTBEAT; sent as `maxIdleInterval` (CD2h).
    pub idle_interval: Duration,
    /// How long state outlives its transport; sent as `connectionStateTtl` (CD2f).
    pub state_ttl: Duration,
    /// Channels that one connection may be attached to.
    pub channels_max: u32,
    /// How long members stay after their connection was lost, unless its client says otherwise with the
    /// transport param `remainPresentFor`.
    pub remain_present: Duration,
    /// Publishes whose ACK is owed; a client that has as many under way is read no further until half of
    /// them have theirs.
    pub publishes_in_flight_max: usize,
    /// Protocol messages that a client may send in a second; one more ends the connection. 0: no bound.
    pub payloads_per_second_max: u32,
    /// Messages, presence messages and annotations that it may publish in a second; more are refused. 0:
    /// no bound.
    pub messages_per_second_max: u32,
    /// Bytes of control frames that may wait for a client that does not read.
    pub lane_bytes_max: usize,
}

impl Default for ConnectionConfig {
    fn default() -> ConnectionConfig {
        ConnectionConfig {
            message_bytes_max: 64 << 10,
            frame_bytes_max: 512 << 10,
            idle_interval: Duration::from_secs(15),
            state_ttl: Duration::from_secs(120),
            channels_max: 200,
            remain_present: Duration::from_secs(15),
            publishes_in_flight_max: 8192,
            payloads_per_second_max: 0,
            messages_per_second_max: 0,
            lane_bytes_max: 1 << 20,
        }
    }
}

/// What the shard has to do for a client.
#[derive(Debug)]
pub enum Command {
    /// Nothing; the answer, if one was due, is in the lane.
    None,
    /// Attach to a channel; answered with [`Connection::attached`] or [`Connection::refuse_channel`].
    Attach {
        /// The channel.
        name: ChannelName,
        /// What the attachment may do; never empty.
        modes: Modes,
        /// What else was asked for and is granted.
        read: ChannelParams,
        /// The same as it is to be echoed.
        params: Params,
        /// From where on it is wanted.
        since: Since,
    },
    /// Detach from a channel; answered with [`Connection::detached`].
    Detach {
        /// The channel.
        name: ChannelName,
    },
    /// Find out who holds this token, and tell [`Connection::reauthenticate`].
    Authenticate {
        /// The token.
        token: Box<str>,
    },
    /// Publish; the outcome goes to [`Connection::resolve`].
    Publish {
        /// The client's number for it.
        msg_serial: u64,
        /// The channel.
        name: ChannelName,
        /// What was checked.
        accepted: Accepted,
    },
    /// Members enter, change or leave; the outcome goes to [`Connection::resolve`].
    Presence {
        /// The client's number for it.
        msg_serial: u64,
        /// The channel.
        name: ChannelName,
        /// What was checked.
        request: PresenceRequest,
    },
    /// Send a SYNC.
    Sync {
        /// The channel.
        name: ChannelName,
    },
    /// The client has said goodbye and was answered; connection and transport may go.
    Close,
    /// The client lets go of the transport, and may resume the connection.
    Disconnect,
}

fn len_of<T>(list: &Option<Vec<T>>) -> usize {
    list.as_ref().map_or(0, Vec::len)
}

/// See the module text.
pub struct Connection {
    key: ConnectionKey,
    principal: Arc<Principal>,
    format: Format,
    /// Whether the client hears its own messages (RTN2b).
    wants_echo: bool,
    /// Whether silence is broken by HEARTBEAT, or by WebSocket pings (RTN23b).
    wants_heartbeats: bool,
    /// Whether the client will be asked for a new token before this one ends.
    asks_for_token: bool,
    /// Smallest msgSerial that was not seen yet.
    next_msg_serial: u64,
    /// `None` while no publish is under way or remembered.
    acks: Option<Box<Acks>>,
    attachments: Attachments,
    rates: Rates,
    /// Transports that it has had, this one included.
    transport_count: u32,
    /// When it began, in seconds since the daemon did.
    began_s: u32,
    /// How long its members stay after it has lost its transport, in milliseconds.
    remain_present_ms: u32,
    /// Channels, without qualifier, in which it may have members. Bounded by what it is attached to:
    /// one enters by way of an attachment, and leaves with it.
    /// `None`: in none, as mostly.
    entered: Option<Box<Entered>>,
}

/// Channels that a connection has entered, each once.
#[derive(Default)]
struct Entered(Vec<Box<str>>);

impl Connection {
    /// Public id.
    pub fn id(&self) -> ConnectionId {
        self.key.id
    }

    /// What its holder resumes it with.
    pub fn key(&self) -> &ConnectionKey {
        &self.key
    }

    /// Who speaks over it.
    pub fn principal(&self) -> &Arc<Principal> {
        &self.principal
    }

    /// Which app it belongs to.
    pub fn app_id(&self) -> &str {
        self.principal.app_id()
    }

    /// How long it has been there, in seconds; longer than its transport if it was resumed.
    pub fn age_s(&self, now: Now) -> u64 {
        (now.mono_ms / 1000).saturating_sub(self.began_s.into())
    }

    /// The format of its frames.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Whether it hears its own messages.
    pub fn wants_echo(&self) -> bool {
        self.wants_echo
    }

    /// Handles one payload; answers are appended to `lane`.
    ///
    /// # Errors
    /// What the client did ends the connection.
    pub fn handle_payload(
        &mut self,
        config: &ConnectionConfig,
        now: Now,
        payload: &[u8],
        lane: &mut Vec<u8>,
    ) -> Result<Command, ErrorInfo> {
        self.rates.count_payload(config, now)?;
        let message = ably::decode(self.format, payload)?;
        let bytes = payload.len() as u32;
        match message.action {
            Action::Heartbeat => {
                if let Some(id) = message.id {
                    self.tell(&Outbound::Heartbeat { id: Some(&*id) }, lane);
                }
                Ok(Command::None)
            }
            Action::Attach => Ok(self.handle_attach(message, lane)),
            Action::Detach => {
                Ok(self.about_channel(&message, lane, |name| Command::Detach { name }))
            }
            Action::Message | Action::Annotation => {
                self.handle_publish(config, message, bytes, lane)
            }
            Action::Presence => self.handle_presence(config, message, bytes, lane),
            Action::Sync => Ok(self.about_channel(&message, lane, |name| Command::Sync { name })),
            Action::Object => {
                let text = "objects are not served yet";
                let error = ErrorInfo::new(ErrorCode::UNSUPPORTED_FEATURE, text);
                if let Some(msg_serial) = self.begin(&message, bytes, lane) {
                    self.resolve(msg_serial, Err(error), lane);
                }
                Ok(Command::None)
            }
            Action::Auth => match message.access_token {
                Some(token) => Ok(Command::Authenticate { token }),
                None => {
                    let text = "there is no token in this AUTH";
                    Err(ErrorInfo::new(ErrorCode::INVALID_CREDENTIALS, text))
                }
            },
            Action::Close => {
                self.tell(&Outbound::Closed, lane);
                Ok(Command::Close)
            }
            Action::Disconnect => Ok(Command::Disconnect),
            // Sent by servers only, or by nobody: ignored, so that newer clients work (RTF1).
            _ => Ok(Command::None),
        }
    }

    fn handle_attach(&mut self, message: ProtocolMessage, lane: &mut Vec<u8>) -> Command {
        let channel = message.channel.clone().unwrap_or_default();
        self.accept_attach(message).unwrap_or_else(|error| {
            self.refuse_channel(&channel, &error, lane);
            Command::None
        })
    }

    /// Checks an ATTACH.
    fn accept_attach(&self, message: ProtocolMessage) -> Result<Command, ErrorInfo> {
        let name = ChannelName::parse(message.channel.as_deref().unwrap_or_default())?;
        self.principal.enter(name.base())?;
        if let Some(filter) = name.filter() {
            Filter::compile(filter)?;
        }
        let capability = self.principal.capability();
        let resource = name.resource();
        let params = if name.params().is_empty() { message.params } else { name.params() };
        let mut read = ChannelParams::read(&params)?;
        if !capability.allows(&resource, Operation::ChannelMetadata) {
            read.occupancy = None;
        }
        let mut requested = Modes::requested(message.flags, &params);
        if name.is_read_only() {
            requested = requested.only(Modes::SUBSCRIBE);
            read = ChannelParams { echo: read.echo, ..ChannelParams::default() };
        }
        let modes = requested.granted_by(capability, &resource);
        if modes.is_empty() {
            let text = "the capability permits none of the requested modes";
            return Err(ErrorInfo::new(ErrorCode::CAPABILITY_DENIED, text));
        }
        let since = match (message.channel_serial, read.rewind) {
            (Some(serial), _) => Since::Serial(serial),
            (None, Some(rewind)) if message.flags & flags::ATTACH_RESUME == 0 => {
                Since::Rewind { rewind, limit: read.rewind_limit }
            }
            (None, _) => Since::Head,
        };
        let params = read.echoed(&params, modes);
        Ok(Command::Attach { name, modes, read, params, since })
    }

    /// What is asked about the channel that `message` names; a name that is none is refused.
    fn about_channel(
        &self,
        message: &ProtocolMessage,
        lane: &mut Vec<u8>,
        command: impl FnOnce(ChannelName) -> Command,
    ) -> Command {
        let requested_name = message.channel.as_deref().unwrap_or_default();
        ChannelName::parse(requested_name).map_or_else(
            |error| {
                self.refuse_channel(requested_name, &error, lane);
                Command::None
            },
            command,
        )
    }

    fn handle_publish(
        &mut self,
        config: &ConnectionConfig,
        message: ProtocolMessage,
        bytes: u32,
        lane: &mut Vec<u8>,
    ) -> Result<Command, ErrorInfo> {
        let Some(msg_serial) = self.begin(&message, bytes, lane) else {
            return Ok(Command::None);
        };
        let count = len_of(&message.messages) + len_of(&message.annotations);
        let admitted = self.rates.count_messages(config, count);
        match admitted.and_then(|()| self.accept(config, msg_serial, message)) {
            Ok((name, accepted)) => Ok(Command::Publish { msg_serial, name, accepted }),
            Err(error) => {
                self.resolve(msg_serial, Err(error), lane);
                Ok(Command::None)
            }
        }
    }

    fn handle_presence(
        &mut self,
        config: &ConnectionConfig,
        message: ProtocolMessage,
        bytes: u32,
        lane: &mut Vec<u8>,
    ) -> Result<Command, ErrorInfo> {
        let Some(msg_serial) = self.begin(&message, bytes, lane) else {
            return Ok(Command::None);
        };
        let admitted = self.rates.count_messages(config, len_of(&message.presence));
        let accepted = admitted.and_then(|()| self.accept_presence(config, msg_serial, message));
        let outcome = match accepted {
            Ok((name, Some(request))) => {
                return Ok(Command::Presence { msg_serial, name, request });
            }
            Ok((_, None)) => Ok(PublishResult::of_presence()),
            Err(error) => Err(error),
        };
        self.resolve(msg_serial, outcome, lane);
        Ok(Command::None)
    }

    /// Notes that the client waits for an ACK. `None`: this was published before, and the ACK is told
    /// again if that was on another transport.
    fn begin(&mut self, message: &ProtocolMessage, bytes: u32, lane: &mut Vec<u8>) -> Option<u64> {
        // JSON clients may leave out a zero.
        let msg_serial = message.msg_serial.unwrap_or_default();
        if msg_serial < self.next_msg_serial {
            if let Some(ack) = self.acks.as_mut().and_then(|acks| acks.resend(msg_serial)) {
                self.tell_ack(&ack, lane);
            }
            return None;
        }
        self.next_msg_serial = msg_serial + 1;
        self.acks.get_or_insert_default().begin(msg_serial, bytes);
        Some(msg_serial)
    }

    /// Whether it has as many publishes under way as it may have: nothing more is to be read from it.
    pub fn is_ahead(&self, config: &ConnectionConfig) -> bool {
        let Some(acks) = &self.acks else { return false };
        acks.pending() >= config.publishes_in_flight_max
            || acks.pending_bytes() >= PUBLISH_BYTES_IN_FLIGHT_MAX
    }

    /// Whether it has so few under way that it is to be read again.
    pub fn is_behind(&self, config: &ConnectionConfig) -> bool {
        let Some(acks) = &self.acks else { return true };
        acks.pending() <= config.publishes_in_flight_max / 2
            && acks.pending_bytes() <= PUBLISH_BYTES_IN_FLIGHT_MAX / 2
    }

    /// Checks a publish.
    fn accept(
        &self,
        config: &ConnectionConfig,
        msg_serial: u64,
        message: ProtocolMessage,
    ) -> Result<(ChannelName, Accepted), ErrorInfo> {
        let name =
            ChannelName::parse(message.channel.as_deref().unwrap_or_default())?.writable()?;
        self.principal.enter(name.base())?;
        let publisher = Publisher {
            id: format!("{}:{msg_serial}", self.id()),
            connection_id: Some(self.key.id.as_str()),
            identity: self.principal.identity(),
            capability: self.principal.capability(),
            has_mutable_messages: self.principal.app().namespace(name.base()).mutable_messages,
        };
        let bytes_max = config.message_bytes_max.into();
        let ProtocolMessage { action, messages, annotations, params, .. } = message;
        let accepted = if action == Action::Annotation {
            let base = name.base();
            let checked =
                ably::validate_annotations(base, annotations, None, &publisher, bytes_max)?;
            Accepted::Annotations(Box::new(checked))
        } else {
            let checked = ably::validate(name.base(), messages, &params, &publisher, bytes_max)?;
            checked.claimed(self.principal.user_claim(name.base()))
        };
        Ok((name, accepted))
    }

    /// Checks what is to become of members.
    fn accept_presence(
        &self,
        config: &ConnectionConfig,
        msg_serial: u64,
        message: ProtocolMessage,
    ) -> Result<(ChannelName, Option<PresenceRequest>), ErrorInfo> {
        let name =
            ChannelName::parse(message.channel.as_deref().unwrap_or_default())?.writable()?;
        self.principal.enter(name.base())?;
        let publisher = Publisher {
            id: format!("{}:{msg_serial}", self.id()),
            connection_id: Some(self.key.id.as_str()),
            identity: self.principal.identity(),
            capability: self.principal.capability(),
            has_mutable_messages: false,
        };
        let bytes_max = config.message_bytes_max.into();
        let request = PresenceRequest::check(name.base(), message.presence, &publisher, bytes_max)?;
        Ok((name, request))
    }

    /// Transports that it has had, this one included.
    pub fn transport_count(&self) -> u32 {
        self.transport_count
    }

    /// How long its members stay after it has lost its transport.
    pub fn remain_present(&self) -> Duration {
        Duration::from_millis(self.remain_present_ms.into())
    }

    /// Notes that it may have members in `channel`.
    pub fn enter(&mut self, channel: &str) {
        if !self.has_entered(channel) {
            let entered = self.entered.get_or_insert_default();
            entered.0.reserve_exact(1);
            entered.0.push(channel.into());
        }
    }

    /// Whether it may have members in `channel`.
    pub fn has_entered(&self, channel: &str) -> bool {
        self.entered().any(|known| known == channel)
    }

    /// Channels in which it may have members.
    pub fn entered(&self) -> impl Iterator<Item = &str> {
        self.entered.iter().flat_map(|entered| entered.0.iter()).map(|channel| &**channel)
    }

    /// Notes that it has no members any more in those channels that `leaves` names; returns which.
    pub fn leave(&mut self, leaves: impl Fn(&str) -> bool) -> Vec<Box<str>> {
        let Some(entered) = self.entered.take() else { return Vec::new() };
        let (left, stays): (Vec<_>, Vec<_>) =
            entered.0.into_iter().partition(|channel| leaves(channel));
        self.entered = (!stays.is_empty()).then(|| Box::new(Entered(stays)));
        left
    }

    /// What [`Command::Publish`] or [`Command::Presence`] asked for has ended; its ACK follows when its turn comes.
    pub fn resolve(&mut self, msg_serial: u64, outcome: Outcome, lane: &mut Vec<u8>) {
        let Some(acks) = &mut self.acks else { return };
        acks.resolve(msg_serial, outcome);
        while let Some(ack) = self.acks.as_mut().and_then(|acks| acks.next()) {
            self.tell_ack(&ack, lane);
        }
    }

    /// Publishes whose outcome is not known.
    pub fn pending_publishes(&self) -> usize {
        self.acks.as_ref().map_or(0, |acks| acks.pending())
    }

    /// Forgets outcomes that were told before the last `interval`.
    pub fn forget_outcomes(&mut self, interval: u64) {
        if let Some(acks) = &mut self.acks {
            acks.forget(interval);
            if acks.is_empty() {
                self.acks = None;
            }
        }
    }

    fn tell_ack(&self, ack: &Ack, lane: &mut Vec<u8>) {
        match ack {
            Ack::Ack(msg_serial, results) => {
                self.tell(&Outbound::Ack { msg_serial: *msg_serial, results }, lane);
            }
            Ack::Nack(msg_serial, error) => {
                self.tell(&Outbound::Nack { msg_serial: *msg_serial, error }, lane);
            }
        }
    }

    /// Tells the client that it is attached; `error` says why continuity was lost.
    pub fn attached(
        &self,
        channel: &str,
        serial: &ChannelSerial,
        flags: u64,
        params: &Params,
        error: Option<&ErrorInfo>,
        lane: &mut Vec<u8>,
    ) {
        let attached = Outbound::Attached { channel, channel_serial: serial, flags, params, error };
        self.tell(&attached, lane);
    }

    /// Tells the client that it is detached; with an `error` it did not ask for that, and tries again
    /// after a while (RTL13).
    pub fn detached(&self, channel: &str, error: Option<&ErrorInfo>, lane: &mut Vec<u8>) {
        self.tell(&Outbound::Detached { channel, error }, lane);
    }

    /// Tells the client that something about one channel was refused; the connection goes on.
    pub fn refuse_channel(&self, channel: &str, error: &ErrorInfo, lane: &mut Vec<u8>) {
        self.tell(&Outbound::Error { channel: Some(channel), error }, lane);
    }

    /// Tells the client that it shall connect again and resume.
    pub fn disconnected(&self, error: &ErrorInfo, lane: &mut Vec<u8>) {
        self.tell(&Outbound::Disconnected { error: Some(error) }, lane);
    }

    /// Tells the client that the connection has failed for good.
    pub fn failed(&self, error: &ErrorInfo, lane: &mut Vec<u8>) {
        self.tell(&Outbound::Error { channel: None, error }, lane);
    }

    /// Breaks a silence, in the way that the client can see.
    pub fn heartbeat(&self, lane: &mut Vec<u8>) {
        if self.wants_heartbeats {
            self.tell(&Outbound::Heartbeat { id: None }, lane);
        } else {
            lane.extend_from_slice(&crate::ws::ping_frame(b""));
        }
    }

    /// Channels attached to.
    pub fn attachment_count(&self) -> usize {
        self.attachments.len()
    }

    /// What the attachment to a stream may do; `None`: there is none.
    pub fn modes(&self, stream: u32) -> Option<Modes> {
        self.attachments.modes(stream)
    }

    /// Changes what an attachment may do.
    pub fn set_modes(&mut self, stream: u32, modes: Modes) {
        self.attachments.set_modes(stream, modes);
    }

    /// The params of an attachment as ATTACHED repeats them; `None`: there are none.
    pub fn params(&self, stream: u32) -> Option<&Params> {
        self.attachments.params(stream)
    }

    /// Changes the params of an attachment.
    pub fn set_params(&mut self, stream: u32, params: Params) {
        self.attachments.set_params(stream, params);
    }

    /// Up to where the client of an attachment was told last that something may be missing, if it is sent deltas.
    pub fn cut(&self, stream: u32) -> Option<ChannelSerial> {
        self.attachments.cut(stream)
    }

    /// Notes that it is told so; for attachments that are sent deltas, which they ask for by a param.
    pub fn set_cut(&mut self, stream: u32, serial: ChannelSerial) {
        self.attachments.set_cut(stream, serial);
    }

    /// The cursor of the attachment to a stream, if it subscribes.
    pub fn cursor(&self, stream: u32) -> Option<u32> {
        self.attachments.cursor(stream)
    }

    /// Whether the attachment to a stream waits for what goes before the stream.
    pub fn is_joining(&self, stream: u32) -> bool {
        self.attachments.is_joining(stream)
    }

    /// Notes the attachment's cursor, or that it is sent nothing.
    pub fn set_cursor(&mut self, stream: u32, cursor: Option<u32>) {
        self.attachments.set_cursor(stream, cursor);
    }

    /// Has an attachment wait again for what goes before the stream; its cursor is forgotten.
    pub fn rejoin(&mut self, stream: u32) {
        self.attachments.rejoin(stream);
    }

    /// Notes an attachment that waits for what goes before the stream.
    pub fn attach(&mut self, stream: u32, modes: Modes) {
        self.attachments.add(stream, modes);
    }

    /// Forgets an attachment and returns its cursor; `None`: there was no attachment.
    pub fn detach(&mut self, stream: u32) -> Option<Option<u32>> {
        self.attachments.remove(stream)
    }

    /// The streams that it is attached to.
    pub fn streams(&self) -> impl Iterator<Item = u32> {
        self.attachments.streams()
    }

    /// Stream and cursor of its attachments that have one.
    pub fn cursors(&self) -> impl Iterator<Item = (u32, u32)> {
        self.attachments.cursors()
    }

    /// Some stream that it is attached to.
    pub fn any_stream(&self) -> Option<u32> {
        self.attachments.any_stream()
    }

    /// Goes round its attachments: stream and cursor of the next one, `None` if that has no cursor.
    pub fn next_cursor(&mut self) -> Option<(u32, u32)> {
        self.attachments.next_cursor()
    }

    /// Appends one protocol message, as a frame.
    fn tell(&self, message: &Outbound<'_>, lane: &mut Vec<u8>) {
        tell(self.format, message, lane);
    }
}

/// Appends one protocol message, as a frame.
fn tell(format: Format, message: &Outbound<'_>, lane: &mut Vec<u8>) {
    let opcode = match format {
        Format::Json => OpCode::Data(Data::Text),
        Format::MsgPack => OpCode::Data(Data::Binary),
    };
    let mut frame = FrameBuilder::with_capacity(opcode, 512);
    ably::encode(format, message, frame.payload());
    lane.extend_from_slice(&frame.finish());
}
