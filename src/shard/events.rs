//! Streams of events over HTTP (14): attachments like those of a connection, to streams whose frames are
//! chunks of server-sent events. Encoded once at the home and delivered like any other frame.
//!
//! A client that comes back says where it was with the last id that it has seen. On a stream of one
//! channel every publication carries its channelSerial. Several channels have no common serial and their
//! events are shared with streams of other sets of channels, so such a stream is told its position by
//! itself: whenever it has been sent everything. What was sent behind that position is sent again.

use std::time::Duration;

use super::streams::{StreamName, WaitingAttach};
use super::transport::{Ending, Stage};
use super::{CHECK_MAX, Shard};
use crate::ably::{ChannelSerial, ErrorInfo, EventShape, Format, Modes, Params};
use crate::channel::ChannelKey;
use crate::channel::view::View;
use crate::connection::{Connection, Place};
use crate::http;
use crate::rest::{self, EventsRequest};
use crate::sys::SendBuf;

/// Longest silence (14).
const KEEPALIVE: Duration = Duration::from_secs(15);

/// One stream of events.
pub(super) struct EventStream {
    pub connection: Connection,
    shape: EventShape,
    wants_heartbeats: bool,
    /// Whether anything was sent since the client was told its position.
    has_moved: bool,
}

impl EventStream {
    /// Writes what is wrong, and the end of the response.
    pub fn write_end(&self, error: &ErrorInfo, out: &mut Vec<u8>) {
        http::write_chunk(out, |out| self.shape.write_error(error, out));
        out.extend_from_slice(http::LAST_CHUNK);
    }
}

impl Shard {
    /// Turns the transport of an HTTP request into a stream of events.
    pub(super) fn open_events(&mut self, index: u32, request: EventsRequest) {
        let EventsRequest { principal, channels, shape, wants_heartbeats, head, .. } = request;
        let place = Place { shard: self.id, transport: index };
        let connection = Connection::listener(principal, self.now, &mut self.entropy, place);
        self.stats.connection_opened(connection.app_id(), self.now.unix_ms);
        self.lifecycles.note_connection(&connection, true);
        let app_id = connection.app_id().to_owned();
        let modes = Modes::LISTENER;
        let stream = EventStream { connection, shape, wants_heartbeats, has_moved: true };
        let transport = &mut self.transports[index as usize];
        transport.stage = Stage::Events(Box::new(stream));
        transport.lane().extend_from_slice(&head);
        self.count_address(index);
        for (name, params, since) in channels {
            if !self.is_events(index) {
                // One that could not be joined has ended it.
                return;
            }
            let view = View::of_events(&name, modes, shape);
            let name = StreamName {
                channel: ChannelKey::new(&app_id, name.base()),
                display_name: name.as_str().into(),
                format: Format::Json,
            };
            let request = WaitingAttach {
                index,
                params: Params::default(),
                since,
                echo: params.echo,
                is_cut: false,
            };
            if let Some(stream) = self.join_stream(index, name, view, modes) {
                self.settle_attach(stream, request);
            }
        }
        self.set_ready(index);
    }

    /// An attachment of `index` is complete: a client that sees nothing else knows where it began.
    pub(super) fn events_attached(
        &mut self,
        index: u32,
        serial: &ChannelSerial,
        has_backlog: bool,
        error: Option<&ErrorInfo>,
    ) {
        let Some((stream, lane)) = self.transports[index as usize].events() else { return };
        let shape = stream.shape;
        if let Some(error) = error {
            http::write_chunk(lane, |out| shape.write_error(error, out));
        }
        // What is replayed ends with the same serial.
        if shape.has_ids && !has_backlog {
            let id = serial.to_string();
            http::write_chunk(lane, |out| shape.write_position(&id, out));
        }
        self.set_ready(index);
    }

    /// Where a stream of several channels is, if it has been sent everything and not told so.
    pub(super) fn events_position(&mut self, index: u32) -> Option<SendBuf> {
        let (stream, _) = self.transports[index as usize].events()?;
        if stream.shape.has_ids || !stream.has_moved {
            return None;
        }
        let attached: Vec<u32> = stream.connection.streams().collect();
        let is_joining = attached.iter().any(|&of| stream.connection.is_joining(of));
        let streams: Vec<_> = attached.iter().map(|&of| self.streams.peek(of)).collect();
        if is_joining || streams.iter().any(|of| of.is_staged) {
            return None;
        }
        let serials = streams.iter().map(|of| {
            let serial = of.serial.expect("known before the first attachment is complete");
            (&*of.name.display_name, serial.to_string())
        });
        let id = rest::position_id(serials);
        let (stream, _) = self.transports[index as usize].events()?;
        stream.has_moved = false;
        let mut chunk = Vec::new();
        let shape = stream.shape;
        http::write_chunk(&mut chunk, |out| shape.write_position(&id, out));
        Some(SendBuf::whole(chunk.into()))
    }

    /// Something of its channels is on its way to `index`.
    pub(super) fn events_moved(&mut self, index: u32) {
        if let Some((stream, _)) = self.transports[index as usize].events() {
            stream.has_moved = true;
        }
    }

    /// Breaks a silence, and looks whether the token has ended.
    pub(super) fn check_events(&mut self, index: u32) {
        let now = self.now;
        let transport = &mut self.transports[index as usize];
        let silent = Duration::from_millis(now.mono_ms.saturating_sub(transport.sent_ms));
        let Some((stream, lane)) = transport.events() else { return };
        // It cannot be asked for another token.
        if let Err(error) = stream.connection.check_token(now, &mut Vec::new()) {
            return self.end_events(index, &error);
        }
        if silent + CHECK_MAX >= KEEPALIVE {
            let (shape, is_event) = (stream.shape, stream.wants_heartbeats);
            http::write_chunk(lane, |out| shape.write_keepalive(is_event, out));
            self.set_ready(index);
        }
    }

    /// Tells the client of `index` what is wrong, and ends its stream.
    pub(super) fn end_events(&mut self, index: u32, error: &ErrorInfo) {
        let Some((stream, lane)) = self.transports[index as usize].events() else { return };
        stream.write_end(error, lane);
        self.leave(index, Ending::HalfClose);
    }

    /// Whether `index` is a stream of events.
    pub(super) fn is_events(&self, index: u32) -> bool {
        matches!(self.transports[index as usize].stage, Stage::Events(_))
    }
}
