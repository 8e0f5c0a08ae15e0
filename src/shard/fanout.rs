//! Streams: who is attached to what on this core, and the way of a frame from the home into the logs.

use std::sync::Arc;

use bytes::Bytes;

use super::streams::{Stream, StreamKey, WaitingAttach};
use super::transport::InFlight;
use super::{Mail, Shard};
use crate::ably::{ChannelSerial, Modes};
use crate::channel::home::StreamRef;
use crate::channel::log::TransportRef;

impl Shard {
    /// Attaches a transport to the stream of `key`. Its ATTACHED is sent now, or when the home has said
    /// where the stream begins.
    pub(super) fn join_stream(
        &mut self,
        index: u32,
        key: StreamKey,
        modes: Modes,
        request: WaitingAttach,
    ) {
        let stream_index = self.streams.find(&key).unwrap_or_else(|| self.open_stream(key));
        let transport = &mut self.transports[index as usize];
        let connection = transport.connection().expect("only connections attach");
        connection.attach(stream_index, None, modes);
        transport.has_many = connection.attachment_count() > 1;
        self.set_attachment_modes(index, stream_index, modes);
        let stream = self.streams.at(stream_index);
        stream.attachments += 1;
        if stream.serial.is_some() {
            self.confirm_attach(stream_index, request, 0);
        } else {
            stream.waiting.push(request);
        }
    }

    /// Gives an attachment its modes, and a cursor exactly if it subscribes.
    pub(super) fn set_attachment_modes(&mut self, index: u32, stream_index: u32, modes: Modes) {
        let address = self.transports[index as usize].address(index);
        let connection = self.transports[index as usize].connection();
        let connection = connection.expect("only connections attach");
        connection.set_modes(stream_index, modes);
        let subscribes = modes.contains(Modes::SUBSCRIBE);
        match connection.cursor(stream_index) {
            None if subscribes => {
                let skip_own = !connection.wants_echo();
                let cursor = self.streams.at(stream_index).log.attach(address, skip_own);
                connection.set_cursor(stream_index, Some(cursor));
            }
            Some(cursor) if !subscribes => {
                connection.set_cursor(stream_index, None);
                self.drop_cursor(index, stream_index, cursor);
            }
            _ => {}
        }
    }

    /// Takes a cursor out of a log. A send of it that is in flight ends by itself.
    fn drop_cursor(&mut self, index: u32, stream_index: u32, cursor: u32) {
        let transport = &mut self.transports[index as usize];
        if transport.in_flight == (InFlight::Stream { stream: stream_index, cursor }) {
            transport.in_flight = InFlight::Unaccounted;
        }
        let Some(moved) = self.streams.at(stream_index).log.detach(cursor) else { return };
        let moved = &mut self.transports[moved as usize];
        if let InFlight::Stream { stream, cursor: in_flight } = &mut moved.in_flight
            && *stream == stream_index
        {
            *in_flight = cursor;
        }
        let connection = moved.connection().expect("cursors belong to connections");
        connection.set_cursor(stream_index, Some(cursor));
    }

    fn open_stream(&mut self, key: StreamKey) -> u32 {
        let (channel, format) = (key.channel.clone(), key.format);
        let display_name = Arc::clone(&key.display_name);
        let stream = self.streams.insert(key);
        let home = channel.home(self.shards);
        self.post(home, Mail::Subscribe { channel, display_name, format, stream });
        stream.index
    }

    /// Ends the attachment of `index` to a stream, if there is one.
    pub(super) fn leave_stream(&mut self, index: u32, stream_index: u32) {
        let Some(connection) = self.transports[index as usize].connection() else { return };
        let Some(cursor) = connection.detach(stream_index) else { return };
        if let Some(cursor) = cursor {
            self.drop_cursor(index, stream_index, cursor);
        }
        let stream = self.streams.at(stream_index);
        stream.waiting.retain(|waiting| waiting.index != index);
        stream.attachments -= 1;
        if stream.attachments == 0 {
            let (stream, key) = self.streams.remove(stream_index);
            let home = key.channel.home(self.shards);
            self.post(home, Mail::Unsubscribe { channel: key.channel, stream });
        }
    }

    /// Ends all attachments of `index`.
    pub(super) fn leave_streams(&mut self, index: u32) {
        while let Some(stream) = self.transports[index as usize]
            .connection()
            .and_then(|connection| connection.any_stream())
        {
            self.leave_stream(index, stream);
        }
    }

    /// The home has said where a stream begins.
    pub(super) fn handle_subscribed(&mut self, reference: StreamRef, serial: ChannelSerial) {
        let Some(stream) = self.streams.resolve(reference) else { return };
        stream.serial = Some(serial);
        for request in std::mem::take(&mut stream.waiting) {
            self.confirm_attach(reference.index, request, 0);
        }
    }

    /// One publication has come from its home.
    pub(super) fn handle_frame(
        &mut self,
        reference: StreamRef,
        serial: ChannelSerial,
        publisher: Option<(u16, TransportRef)>,
        frame: Bytes,
    ) {
        let own_id = self.id;
        let Some(stream) = self.streams.resolve(reference) else { return };
        stream.serial = Some(serial);
        let publisher = publisher.filter(|(shard, _)| *shard == own_id).map(|(_, at)| at);
        stream.log.stage(frame, publisher);
        if !stream.is_staged {
            stream.is_staged = true;
            self.staged.push(reference.index);
        }
    }

    /// Lays out what came this turn and starts rounds of sends.
    pub(super) fn commit_staged(&mut self) {
        for index in self.staged.drain(..) {
            let Some(stream) = self.streams.get_mut(index) else { continue };
            let Stream { log, is_staged, in_rounds, .. } = stream;
            *is_staged = false;
            log.commit();
            if log.in_round() && !*in_rounds {
                *in_rounds = true;
                self.rounds.push_back(index);
            }
        }
    }
}
