//! What clients say over WebSockets, and what the shard does for them.

use std::ops::ControlFlow;

use super::attach::AskedBy;
use super::streams::StreamName;
use super::transport::{Ending, Stage, Transport};
use super::{CHECK_MAX, Mail, Shard};
use crate::ably::{Accepted, Answer, ChannelName, ErrorCode, ErrorInfo, Modes, PublishResult};
use crate::channel::ChannelKey;
use crate::channel::log::TransportRef;
use crate::connection::Command;
use crate::ws::{self, CloseCode, Data, Event, FrameBuilder, OpCode};

/// Idle intervals without a sign of life, not even a pong, after which a client counts as gone.
const SILENT_INTERVALS_MAX: u32 = 3;

/// Outcomes of publishes are remembered for at least this long after they were told, for a client that
/// resumes and sends again; it takes an idle interval and ten seconds to find a transport dead.
const FORGET_INTERVAL_MS: u64 = 30_000;

impl Shard {
    /// Bytes of a realtime connection, or of a WebSocket that is leaving.
    pub(super) fn handle_realtime_bytes(&mut self, index: u32, bytes: &mut [u8]) {
        let stage = &mut self.transports[index as usize].stage;
        let (Stage::Realtime(decoder, _) | Stage::Leaving(Some(decoder))) = stage else {
            return;
        };
        // An attach asks the one in its place whether messages may be compressed.
        let in_its_place = ws::Decoder::new().inflating(decoder.window());
        let mut decoder = std::mem::replace(decoder, in_its_place);
        let payload_bytes_max = self.config.frame_bytes_max as usize;
        let result = decoder.handle_bytes(bytes, payload_bytes_max, &mut |event| {
            let transport = &mut self.transports[index as usize];
            match (&transport.stage, &event) {
                (Stage::Realtime(..), _) => self.handle_event(index, event),
                // Both have said close: the server ends the socket (RFC 6455 §7.1.1), and browsers
                // wait for that.
                (Stage::Leaving(_), Event::Close { .. }) => transport.ending = Ending::Close,
                (Stage::Leaving(_), _) => {}
                _ => return ControlFlow::Break(()),
            }
            ControlFlow::Continue(())
        });
        match &mut self.transports[index as usize].stage {
            Stage::Realtime(place, _) => {
                *place = decoder;
                if let Err(error) = result {
                    self.close_websocket(index, error.close_code(), Ending::Linger);
                }
            }
            Stage::Leaving(place) => *place = Some(decoder),
            _ => {}
        }
        self.set_ready(index);
    }

    fn handle_event(&mut self, index: u32, event: Event<'_>) {
        match event {
            Event::Text(text) => self.take_payload(index, text.as_bytes()),
            Event::Binary(bytes) => self.take_payload(index, bytes),
            Event::Ping(payload) => {
                let lane = self.transports[index as usize].lane();
                lane.extend_from_slice(&ws::pong_frame(payload));
                self.bound_lane(index);
            }
            Event::Pong(_) => {}
            Event::Close { .. } => self.close_websocket(index, CloseCode::Normal, Ending::Close),
        }
    }

    fn take_payload(&mut self, index: u32, payload: &[u8]) {
        match self.held.has(index) {
            true => self.hold_payload(index, payload),
            false => self.handle_payload(index, payload),
        }
    }

    pub(super) fn handle_payload(&mut self, index: u32, payload: &[u8]) {
        let transport = &mut self.transports[index as usize];
        let Some((connection, lane)) = transport.speak() else { return };
        match connection.handle_payload(&self.config.connection, self.now, payload, lane) {
            Ok(Command::None) => {}
            Ok(Command::Attach { name, modes, read, params, since }) => {
                self.attach(index, &name, modes, &read, params, AskedBy::Client(since));
            }
            Ok(Command::Authenticate { token }) => self.reauthenticate(index, &token),
            Ok(Command::Detach { name }) => self.detach(index, &name),
            Ok(Command::Publish { msg_serial, name, accepted }) => {
                self.publish(index, msg_serial, &name, accepted);
                self.hold_if_ahead(index);
            }
            Ok(Command::Presence { msg_serial, name, request }) => {
                self.change_members(index, msg_serial, &name, request);
                self.hold_if_ahead(index);
            }
            Ok(Command::Sync { name }) => self.request_sync(index, &name),
            Ok(Command::Close) => {
                self.end_connection(index);
                self.close_websocket(index, CloseCode::Normal, Ending::Linger);
            }
            Ok(Command::Disconnect) => {
                self.close_websocket(index, CloseCode::Normal, Ending::Linger);
            }
            Err(error) => self.fail(index, &error),
        }
        self.bound_lane(index);
    }

    /// A client that asks and asks and does not read the answers is a slow consumer as well.
    pub(super) fn bound_lane(&mut self, index: u32) {
        let transport = &self.transports[index as usize];
        let is_over = transport.lane_bytes() > self.config.connection.lane_bytes_max;
        if is_over && matches!(transport.stage, Stage::Realtime(..)) {
            self.cut_slow_consumer(index);
        }
    }

    fn publish(&mut self, index: u32, msg_serial: u64, name: &ChannelName, accepted: Accepted) {
        let (StreamName { channel, .. }, attached) = self.attachment_to(index, name);
        let modes = attached.and_then(|stream| self.modes(index, stream));
        let (needed, text) = match &accepted {
            Accepted::Messages(_) | Accepted::Mutation(_) => {
                (Modes::PUBLISH, "the channel was attached without the mode PUBLISH")
            }
            Accepted::Annotations(_) => (
                Modes::ANNOTATION_PUBLISH,
                "the channel was attached without the mode ANNOTATION_PUBLISH",
            ),
        };
        let error = if modes.is_some_and(|modes| !modes.contains(needed)) {
            Some(ErrorInfo::new(ErrorCode::MODE_NOT_GRANTED, text))
        } else {
            self.congestion(&channel)
        };
        if let Some(error) = error {
            return self.resolve(index, msg_serial, Err(error));
        }
        let home = channel.home(self.shards);
        let reply_to = self.return_address(index, msg_serial);
        self.publish_timer.begin(reply_to, self.clock_us);
        self.post(home, Mail::Publish { reply_to, channel, accepted });
    }

    /// Why nothing more can be asked of a channel's home just now.
    pub(super) fn congestion(&self, channel: &ChannelKey) -> Option<ErrorInfo> {
        self.congestion_of(channel.home(self.shards))
    }

    /// Why nothing more can be asked of a shard just now.
    pub(super) fn congestion_of(&self, shard: usize) -> Option<ErrorInfo> {
        let is_full =
            shard != usize::from(self.id) && self.outboxes[shard].is_full(self.config.mail_max);
        is_full
            .then(|| ErrorInfo::new(ErrorCode::BUSY, "a core that this takes is behind; try again"))
    }

    /// The home has answered a publish of a connection or of an HTTP request.
    pub(super) fn handle_published(
        &mut self,
        to: TransportRef,
        request: u64,
        result: Result<PublishResult, ErrorInfo>,
    ) {
        if let Some(took_us) = self.publish_timer.end(to, request, self.clock_us) {
            self.histograms.publish_us.observe(took_us);
        }
        let transport = self.transports.get(to.index as usize);
        match transport.filter(|transport| transport.generation == to.generation) {
            Some(Transport { stage: Stage::Realtime(..), .. }) => {
                self.resolve(to.index, request, result);
            }
            Some(Transport { stage: Stage::Http(_), .. }) => {
                self.handle_answer(to, request, result.map(Answer::Published));
            }
            // Whoever asked has gone, but may come back.
            Some(_) | None => self.resolve_dormant(to, request, result),
        }
    }

    pub(super) fn resolve(
        &mut self,
        index: u32,
        msg_serial: u64,
        outcome: Result<PublishResult, ErrorInfo>,
    ) {
        if let Some((connection, lane)) = self.transports[index as usize].speak() {
            connection.resolve(msg_serial, outcome, lane);
            self.set_ready(index);
            self.release_if_behind(index);
        }
    }

    /// Has the client connect again: the transport goes, the connection may be resumed.
    pub(super) fn disconnect(&mut self, index: u32, error: &ErrorInfo) {
        self.end_events(index, error);
        if let Some((connection, lane)) = self.transports[index as usize].speak() {
            connection.disconnected(error, lane);
            self.close_websocket(index, CloseCode::Normal, Ending::Linger);
        }
    }

    /// The connection has failed and is not to be tried again.
    pub(super) fn fail(&mut self, index: u32, error: &ErrorInfo) {
        self.end_events(index, error);
        if let Some((connection, lane)) = self.transports[index as usize].speak() {
            connection.failed(error, lane);
            self.end_connection(index);
            self.close_websocket(index, CloseCode::Normal, Ending::Linger);
        }
    }

    /// Says goodbye on the WebSocket level.
    pub(super) fn close_websocket(&mut self, index: u32, code: CloseCode, ending: Ending) {
        let lane = self.transports[index as usize].lane();
        lane.extend_from_slice(&ws::close_frame(code, ""));
        self.leave(index, ending);
    }

    /// Breaks a silence towards the client, and looks for one from it.
    pub(super) fn check_silence(&mut self, index: u32) {
        let idle_interval = self.config.connection.idle_interval;
        let now_ms = self.now.mono_ms;
        let is_held = self.held.has(index);
        let transport = &mut self.transports[index as usize];
        if is_held {
            // It is we who do not listen.
            transport.received_ms = now_ms;
        }
        if let Some(connection) = transport.connection() {
            connection.forget_outcomes(now_ms / FORGET_INTERVAL_MS);
        }
        let since = |then_ms: u64| std::time::Duration::from_millis(now_ms.saturating_sub(then_ms));
        if since(transport.received_ms) > idle_interval * SILENT_INTERVALS_MAX {
            return self.close(index);
        }
        // Early rather than late: the next look may be that far away.
        let is_silent = since(transport.sent_ms) + CHECK_MAX >= idle_interval;
        // Whatever was sent meanwhile: a client that only listens says nothing unless it is asked.
        let is_unheard = since(transport.received_ms) > idle_interval;
        if (is_silent || is_unheard)
            && let Some((connection, lane)) = transport.speak()
        {
            if is_silent {
                connection.heartbeat(lane);
            }
            if is_unheard {
                lane.extend_from_slice(&ws::ping_frame(b""));
            }
            self.set_ready(index);
        }
    }

    /// Bytes of a conformance test. What comes back is compressed as what subscribers are sent.
    pub(super) fn handle_echo_bytes(&mut self, index: u32, bytes: &mut [u8]) {
        let Some((decoder, lane)) = self.transports[index as usize].echo() else { return };
        let (window, deflating) = (decoder.window(), &mut self.homes.deflating);
        let mut ending = None;
        let payload_bytes_max = self.config.frame_bytes_max as usize;
        let result = decoder.handle_bytes(bytes, payload_bytes_max, &mut |event| {
            let (opcode, payload) = match event {
                Event::Text(text) => (Data::Text, text.as_bytes()),
                Event::Binary(bytes) => (Data::Binary, bytes),
                Event::Ping(payload) => {
                    lane.extend_from_slice(&ws::pong_frame(payload));
                    return ControlFlow::Continue(());
                }
                Event::Pong(_) => return ControlFlow::Continue(()),
                Event::Close { code, .. } => {
                    let code = code.map_or(CloseCode::Normal, CloseCode::from);
                    ending = Some((code, Ending::Close));
                    return ControlFlow::Break(());
                }
            };
            let mut frame = FrameBuilder::with_capacity(OpCode::Data(opcode), payload.len());
            frame.payload().extend_from_slice(payload);
            let mut frame = frame.finish();
            if let Some(window) = window {
                frame = deflating.deflate(&frame, window);
            }
            lane.extend_from_slice(&frame);
            ControlFlow::Continue(())
        });
        if let Err(error) = result {
            ending = Some((error.close_code(), Ending::Linger));
        }
        // Whoever does not read what it is sent back gets no more of it.
        let is_over = self.transports[index as usize].lane_bytes()
            > self.config.connection.lane_bytes_max + payload_bytes_max;
        if is_over {
            ending = ending.or(Some((CloseCode::Policy, Ending::Linger)));
        }
        if let Some((code, ending)) = ending {
            self.close_websocket(index, code, ending);
        }
        self.set_ready(index);
    }
}
