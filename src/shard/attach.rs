//! Attaching: from ATTACH to the cursor of an attachment in its stream, and the way back.
//!
//! An ATTACH goes through at most three steps. A stream that is new on this shard asks the home where
//! it begins ([`Mail::Subscribe`]). If the client wants the past, or there are members to tell of, the
//! home is asked for those ([`Mail::Join`]); they wait in the transport's backlog and are sent before
//! the stream. Then the attachment gets its cursor. Most attachments need only the last step.

use std::sync::Arc;

use super::mail::Joined;
use super::streams::{StreamName, WaitingAttach};
use super::transport::{InFlight, Stage};
use super::{Mail, ReturnAddress, Shard};
use crate::ably::{
    ChannelName, ChannelParams, ChannelSerial, ErrorCode, ErrorInfo, Modes, Params, Since, Wants,
    flags,
};
use crate::channel::ChannelKey;
use crate::channel::home::StreamRef;
use crate::channel::log::{PublisherId, TransportRef};
use crate::channel::view::View;
use crate::sys::SendBuf;

/// What an ATTACHED says beside the modes that were granted.
struct Confirmation<'a> {
    serial: ChannelSerial,
    /// Status bits (3.3).
    status: u64,
    params: &'a Params,
    error: Option<&'a ErrorInfo>,
    /// Whether continuity ends here, see [`WaitingAttach::is_cut`].
    is_cut: bool,
}

/// Who asks for an attachment.
pub(super) enum AskedBy {
    /// Its client, by ATTACH, from there on.
    Client(Since),
    /// Another token of its connection.
    Token,
}

/// The error of an ATTACHED behind which something may be missing.
fn cut() -> ErrorInfo {
    let text = "another token has changed the attachment: what was on its way may be missing";
    ErrorInfo::new(ErrorCode::CONTINUITY_LOST_BY_RATE, text)
}

impl Shard {
    pub(super) fn attach(
        &mut self,
        index: u32,
        name: &ChannelName,
        modes: Modes,
        read: &ChannelParams,
        params: Params,
        asked_by: AskedBy,
    ) {
        let (stream_name, attached) = self.attachment_to(index, name);
        if attached.is_some_and(|stream| !self.streams.at(stream).takes_attach(index)) {
            let text = "too many ATTACHes of a channel without waiting for their answers";
            return self.fail(index, &ErrorInfo::new(ErrorCode::FLOODING, text));
        }
        self.keep_members(index, name.base());
        let window = self.transports[index as usize].window();
        let view = View { window, ..View::of(name, modes, read) };
        let (resource, name) = (name.resource(), stream_name);
        let connection = self.transports[index as usize].connection();
        let connection = connection.expect("only connections attach");
        let echo = read.echo && connection.wants_echo();
        // Of what it has been sent so far; another token may permit less of that.
        let before = attached.and_then(|stream| connection.modes(stream)).unwrap_or_default();
        let may_see = Wants::of(before.granted_by(connection.principal().capability(), &resource));
        let is_denied = !may_see.contains(Wants::of(before));
        let (since, is_cut) = match asked_by {
            AskedBy::Client(since) => (since, is_denied),
            // A client that could not decode a delta takes any ATTACHED for the answer to its ATTACH, which may
            // be under way, and goes on from there (RTL18): this one must not say that nothing is missing.
            AskedBy::Token => {
                let before = attached.map(|stream| &self.streams.peek(stream).view);
                (Since::Head, is_denied || view.delta || before.is_some_and(|view| view.delta))
            }
        };
        let request = WaitingAttach { index, params, since, echo, is_cut };
        match attached {
            None if self.has_all_channels(index) => {
                let text = "the connection is attached to as many channels as it may be";
                let error = ErrorInfo::new(ErrorCode::TOO_MANY_CHANNELS, text);
                if let Some((connection, lane)) = self.transports[index as usize].speak() {
                    connection.refuse_channel(&name.display_name, &error, lane);
                }
            }
            None => {
                if let Some(stream) = self.join_stream(index, name, view, modes) {
                    self.set_params(index, stream, &request.params);
                    self.settle_attach(stream, request);
                }
            }
            Some(stream) if self.streams.at(stream).view == view => {
                // A client that could not decode asks for the same again; one that asks for something
                // else is only behind by what is on its way to it.
                let is_repeated = self.has_modes_and_params(index, stream, modes, &request.params);
                self.set_modes(index, stream, modes);
                self.set_params(index, stream, &request.params);
                let mut before = Vec::new();
                if view.delta
                    && is_repeated
                    && !self.is_joining(index, stream)
                    && self.is_behind_stream(&request.since, stream)
                    && !self.is_before_cut(index, stream, &request.since)
                {
                    // What was asked for before it goes back is asked again behind it: that answer would
                    // be taken for this one, and say that nothing is resumed.
                    before = self.streams.at(stream).take_requests(index);
                    self.rejoin(index, stream);
                }
                self.settle_attach(stream, request);
                self.settle_attaches(index, stream, before);
            }
            Some(stream) => self.change_view(index, stream, view, modes, request, is_denied),
        }
    }

    /// Whether a client asks for messages that it was sent already.
    fn is_behind_stream(&mut self, since: &Since, stream: u32) -> bool {
        match (since, self.streams.at(stream).serial) {
            (Since::Serial(known), Some(serial)) => **known != *serial.to_string(),
            _ => false,
        }
    }

    /// Whether a client asks for messages of which it was told that they may be missing. It had asked before it
    /// heard that and has gone on from there, so that what it was sent since would come twice. Who asks later names
    /// a later serial: the first message behind the cut is sent in full.
    fn is_before_cut(&self, index: u32, stream: u32, since: &Since) -> bool {
        let connection = self.transports[index as usize].peek_connection();
        let cut = connection.expect("only connections attach").cut(stream);
        let (Some(cut), Since::Serial(known)) = (cut, since) else { return false };
        known.parse::<ChannelSerial>().is_ok_and(|known| known < cut)
    }

    /// Takes an attachment back to before its cursor: its client could not decode a delta, has thrown
    /// away what followed, and wants it again (RTL18c). The cursor comes back behind the replay.
    fn rejoin(&mut self, index: u32, stream: u32) {
        let transport = &mut self.transports[index as usize];
        let connection = transport.connection().expect("only connections attach");
        if let Some(cursor) = connection.cursor(stream) {
            connection.rejoin(stream);
            drop(transport.take_backlog_of(stream));
            self.drop_cursor(index, stream, cursor);
        }
    }

    fn has_all_channels(&mut self, index: u32) -> bool {
        let connection = self.transports[index as usize].connection();
        let count = connection.expect("only connections attach").attachment_count();
        count >= self.config.connection.channels_max as usize
    }

    /// Another view of a channel that goes on without a gap: what the old stream still owes is sent
    /// first, and the new one joined behind that (RTL16a).
    fn change_view(
        &mut self,
        index: u32,
        old: u32,
        view: View,
        modes: Modes,
        request: WaitingAttach,
        is_denied: bool,
    ) {
        let is_joining = self.is_joining(index, old);
        let stream = self.streams.at(old);
        let (name, serial) = (stream.name.clone(), stream.serial);
        let mut requests = stream.take_requests(index);
        requests.push(request);
        let mut rest = self.transports[index as usize].take_backlog_of(old);
        if is_denied {
            // Its client may not see all of what it is owed any more, and is told that something is
            // missing: it goes on from now.
            rest.clear();
            (requests[0].since, requests[0].is_cut) = (Since::Head, true);
        } else if !is_joining {
            // While it was joining, what was asked first still says from where on.
            let serial = serial.expect("known before the first attachment is complete");
            requests[0].since = Since::Serial(serial.to_string().into());
            rest.extend(self.unsent_of(index, old));
        }
        self.leave_stream(index, old);
        if let Some(stream) = self.join_stream(index, name, view, modes) {
            self.set_params(index, stream, &requests.last().expect("pushed above").params);
            self.transports[index as usize].push_backlog(stream, false, rest);
            self.set_ready(index);
            self.settle_attaches(index, stream, requests);
        }
    }

    /// What the attachment to a stream is owed and nobody has begun to send.
    pub(super) fn unsent_of(&mut self, index: u32, stream_index: u32) -> Vec<SendBuf> {
        let transport = &mut self.transports[index as usize];
        let connection = transport.connection().expect("only connections attach");
        let Some(cursor) = connection.cursor(stream_index) else { return Vec::new() };
        let log = &mut self.streams.at(stream_index).log;
        log.commit();
        let transport = &mut self.transports[index as usize];
        if let InFlight::Stream { stream, log_bytes, .. } = transport.in_flight
            && stream == stream_index
        {
            // Counted now; its completion has nothing left to count.
            transport.in_flight = InFlight::Unaccounted;
            log.advance(cursor, log_bytes);
        }
        let mut rest = Vec::new();
        while let Some(owed) = log.pending(cursor) {
            log.advance(cursor, owed.log_bytes);
            rest.push(owed.bytes);
        }
        rest
    }

    /// Notes an attachment to the stream of that name and view; `None`, and the client is told, when
    /// that takes a new stream and the channel has enough of them or its home is behind.
    pub(super) fn join_stream(
        &mut self,
        index: u32,
        name: StreamName,
        view: View,
        modes: Modes,
    ) -> Option<u32> {
        let stream = match self.streams.find(&name, &view) {
            Some(stream) => stream,
            None if !self.streams.has_room(&name, &view) => {
                let text = "the channel has as many different names and views here as it may have";
                let error = ErrorInfo::new(ErrorCode::TOO_MANY_CHANNELS, text);
                self.fail_attach(index, &name, &error);
                return None;
            }
            // A stream that exists asks nothing of the home.
            None => match self.congestion(&name.channel) {
                Some(error) => {
                    self.refuse_attach(index, &name.display_name, &error);
                    return None;
                }
                None => self.open_stream(name, view),
            },
        };
        let transport = &mut self.transports[index as usize];
        let connection = transport.connection().expect("only connections attach");
        connection.attach(stream, modes);
        transport.has_many = connection.attachment_count() > 1;
        self.streams.at(stream).attachments += 1;
        self.count_attachment(stream, None, Some(modes));
        Some(stream)
    }

    fn settle_attaches(&mut self, index: u32, stream: u32, requests: Vec<WaitingAttach>) {
        for request in requests {
            // One that cannot be answered has taken the attachment with it.
            if self.modes(index, stream).is_some() {
                self.settle_attach(stream, request);
            }
        }
    }

    fn open_stream(&mut self, name: StreamName, view: View) -> u32 {
        let StreamName { channel, display_name, format } = name.clone();
        let stream = self.streams.insert(name, view.clone());
        let home = channel.home(self.shards);
        self.post(home, Mail::Subscribe { channel, display_name, format, view, stream });
        stream.index
    }

    /// The home has said where a stream begins.
    pub(super) fn handle_subscribed(
        &mut self,
        reference: StreamRef,
        serial: ChannelSerial,
        has_members: bool,
    ) {
        let Some(stream) = self.streams.resolve(reference) else { return };
        stream.serial = Some(serial);
        stream.has_members = has_members;
        for request in stream.waiting.take_all() {
            // One that cannot be answered takes its attachment with it, and perhaps the stream.
            if self.streams.resolve(reference).is_some()
                && self.modes(request.index, reference.index).is_some()
            {
                self.settle_attach(reference.index, request);
            }
        }
    }

    /// The home does not take a stream: none of its attachments has come about.
    pub(super) fn handle_refused(&mut self, reference: StreamRef, error: &ErrorInfo) {
        let Some(stream) = self.streams.resolve(reference) else { return };
        let display_name = Arc::clone(&stream.name.display_name);
        let waiting = stream.waiting.take_all();
        for WaitingAttach { index, .. } in waiting {
            // The last one takes the stream with it; a second ATTACH has lost its attachment already.
            if self.streams.resolve(reference).is_some() {
                self.leave_stream(index, reference.index);
            }
            if let Some((connection, lane)) = self.transports[index as usize].speak() {
                connection.refuse_channel(&display_name, error, lane);
                self.set_ready(index);
            } else {
                self.end_events(index, error);
            }
        }
    }

    /// Answers an ATTACH, or asks the home for what the answer needs.
    pub(super) fn settle_attach(&mut self, stream_index: u32, request: WaitingAttach) {
        let index = request.index;
        let is_joining = self.is_joining(index, stream_index);
        let number = self.streams.next_request();
        let stream = self.streams.at(stream_index);
        let is_asked_about = stream.joining.has(index);
        let serial = match stream.serial {
            // The answer that says from where on may have to wait for the disk, and is not overtaken.
            Some(serial) if !(is_joining && is_asked_about) => serial,
            _ => return stream.waiting.insert(number, request),
        };
        let resumes = match &request.since {
            _ if !is_joining => true,
            Since::Head | Since::Rewind { .. } => false,
            Since::Serial(text) => **text == *serial.to_string(),
        };
        let wants_past = is_joining && !resumes && request.since != Since::Head;
        let wants_members = stream.has_members && stream.view.wants_members();
        let wants_occupancy = is_joining && stream.view.occupancy.is_some();
        if wants_past || wants_members || wants_occupancy || is_asked_about {
            return self.ask_to_join(stream_index, number, request);
        }
        if is_joining {
            self.complete_attachment(index, stream_index, request.echo, false);
        } else {
            self.set_echo(index, stream_index, request.echo);
        }
        let status = if resumes { flags::RESUMED } else { 0 };
        let WaitingAttach { params, is_cut, .. } = &request;
        let confirmation = Confirmation { serial, status, params, error: None, is_cut: *is_cut };
        self.confirm_attach(index, stream_index, &confirmation);
    }

    fn ask_to_join(&mut self, stream_index: u32, number: u32, request: WaitingAttach) {
        let index = request.index;
        let stream = self.streams.at(stream_index);
        let StreamName { channel, display_name, format } = stream.name.clone();
        let view = stream.view.clone();
        if let Some(error) = self.congestion(&channel) {
            self.leave_stream(index, stream_index);
            return self.refuse_attach(index, &display_name, &error);
        }
        if view.occupancy.is_some() {
            // So that the client is counted in what it is told.
            self.report_counts();
        }
        // The first ATTACH says from where on; those behind it ask for the members alone.
        let is_joining = self.is_joining(index, stream_index);
        let since = if is_joining { request.since.clone() } else { Since::Head };
        let connection = self.transports[index as usize].connection();
        let connection = connection.expect("only connections attach");
        let skip = (!request.echo).then(|| connection.id());
        self.streams.at(stream_index).joining.insert(number, request);
        let reply_to =
            self.return_address(index, u64::from(stream_index) << 32 | u64::from(number));
        let home = channel.home(self.shards);
        self.post(home, Mail::Join { reply_to, channel, display_name, format, view, since, skip });
    }

    /// The home has answered a join. Everything that it sends later is behind the answer.
    pub(super) fn handle_joined(&mut self, to: TransportRef, request: u64, joined: Joined) {
        let (stream_index, number) = ((request >> 32) as u32, request as u32);
        let Some(stream) = self.streams.get_mut(stream_index) else { return };
        // Not there when the client has detached meanwhile.
        let Some(request) = stream.joining.remove(to.index, number) else { return };
        stream.has_members = joined.has_members;
        let wants_members = stream.view.wants_members();
        let index = request.index;
        let mut status = 0;
        if self.is_joining(index, stream_index) {
            self.complete_attachment(index, stream_index, request.echo, joined.has_base);
            if joined.resumed {
                status |= flags::RESUMED;
            }
            if joined.has_backlog {
                status |= flags::HAS_BACKLOG;
            }
        } else {
            self.set_echo(index, stream_index, request.echo);
            status |= flags::RESUMED;
        }
        if joined.has_members && wants_members {
            status |= flags::HAS_PRESENCE;
        }
        let confirmation = Confirmation {
            serial: joined.serial,
            status,
            params: &request.params,
            error: joined.error.as_ref(),
            is_cut: request.is_cut,
        };
        self.confirm_attach(index, stream_index, &confirmation);
        let has_sync = joined.has_members && wants_members;
        let frames = joined.frames.into_iter().map(SendBuf::whole);
        self.transports[index as usize].push_backlog(stream_index, has_sync, frames);
        if let Some(stream) = self.streams.get_mut(stream_index) {
            let behind = stream.waiting.take(index);
            self.settle_attaches(index, stream_index, behind);
        }
    }

    /// The attachment is sent what the stream gets from now on. `has_base` tells whether it was sent the
    /// message that the next delta starts from.
    fn complete_attachment(&mut self, index: u32, stream_index: u32, echo: bool, has_base: bool) {
        let connection = self.transports[index as usize].connection();
        let connection = connection.expect("only connections attach");
        let own = PublisherId::of(connection.id().as_str()).filter(|_| !echo);
        let stream = self.streams.at(stream_index);
        let wants_any = !stream.view.wants.is_empty();
        stream.joined = stream.serial;
        let cursor = wants_any.then(|| stream.log.attach(index, own, has_base));
        connection.set_cursor(stream_index, cursor);
    }

    /// Changes whether the attachment is sent what its own connection publishes from now on.
    fn set_echo(&mut self, index: u32, stream_index: u32, echo: bool) {
        let connection = self.transports[index as usize].connection();
        let connection = connection.expect("only connections attach");
        let own = PublisherId::of(connection.id().as_str()).filter(|_| !echo);
        if let Some(cursor) = connection.cursor(stream_index) {
            self.streams.at(stream_index).log.skip_own(cursor, own);
        }
    }

    /// Answers an ATTACH. The answer names a serial from which its client goes on when it comes back, so
    /// it does not overtake what the attachment is owed: that would be missing then.
    fn confirm_attach(&mut self, index: u32, stream_index: u32, with: &Confirmation<'_>) {
        let owed = self.unsent_of(index, stream_index);
        let Some((connection, _)) = self.transports[index as usize].speak() else {
            let has_backlog = with.status & flags::HAS_BACKLOG != 0;
            return self.events_attached(index, &with.serial, has_backlog, with.error);
        };
        let stream = self.streams.at(stream_index);
        let mut status = with.status;
        if with.is_cut {
            status &= !flags::RESUMED;
            if stream.view.delta {
                connection.set_cut(stream_index, with.serial);
                if let Some(cursor) = connection.cursor(stream_index) {
                    stream.log.lose_base(cursor);
                }
            }
        }
        let cut = with.is_cut.then(cut);
        let error = with.error.or(cut.as_ref());
        let modes = connection.modes(stream_index).expect("attached");
        let (name, flags) = (&stream.name.display_name, modes.bits() | status);
        let mut attached = Vec::new();
        connection.attached(name, &with.serial, flags, with.params, error, &mut attached);
        let transport = &mut self.transports[index as usize];
        if owed.is_empty() && !transport.has_backlog_of(stream_index) {
            transport.lane().extend_from_slice(&attached);
        } else {
            let attached = SendBuf::whole(attached.into());
            transport.push_backlog(stream_index, false, owed.into_iter().chain([attached]));
        }
        self.set_ready(index);
    }

    /// The client may try again after a while (RTL13b).
    pub(super) fn refuse_attach(&mut self, index: u32, display_name: &str, error: &ErrorInfo) {
        if let Some((connection, lane)) = self.transports[index as usize].speak() {
            connection.detached(display_name, Some(error), lane);
            self.set_ready(index);
        } else {
            self.end_events(index, error);
        }
    }

    /// There is no attachment, and nothing but another ATTACH will change that (RTL14).
    fn fail_attach(&mut self, index: u32, name: &StreamName, error: &ErrorInfo) {
        if let Some((connection, lane)) = self.transports[index as usize].speak() {
            connection.refuse_channel(&name.display_name, error, lane);
            self.set_ready(index);
            // There was one, perhaps, until it asked for something else.
            self.leave_with_attachment(index, name.channel.name());
        } else {
            self.end_events(index, error);
        }
    }

    pub(super) fn detach(&mut self, index: u32, name: &ChannelName) {
        let (_, attached) = self.attachment_to(index, name);
        if let Some(stream) = attached {
            self.leave_stream(index, stream);
        }
        // Also of one that was attached over an earlier transport, and lets go of that.
        self.leave_with_attachment(index, name.base());
        if let Some((connection, lane)) = self.transports[index as usize].speak() {
            connection.detached(name.as_str(), None, lane);
        }
    }

    /// Ends the attachment of `index` to a stream, if there is one.
    pub(super) fn leave_stream(&mut self, index: u32, stream_index: u32) {
        let transport = &mut self.transports[index as usize];
        drop(transport.take_backlog_of(stream_index));
        let Some(connection) = transport.connection() else { return };
        let modes = connection.modes(stream_index);
        let Some(cursor) = connection.detach(stream_index) else { return };
        if let Some(cursor) = cursor {
            self.drop_cursor(index, stream_index, cursor);
        }
        self.count_attachment(stream_index, modes, None);
        let stream = self.streams.at(stream_index);
        drop(stream.take_requests(index));
        stream.syncing.remove(&index);
        stream.attachments -= 1;
        if stream.attachments == 0 {
            let (stream, name) = self.streams.remove(stream_index);
            let home = name.channel.home(self.shards);
            self.post(home, Mail::Unsubscribe { channel: name.channel, stream });
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

    /// Takes a cursor out of a log. A send of it that is in flight ends by itself.
    fn drop_cursor(&mut self, index: u32, stream_index: u32, cursor: u32) {
        let transport = &mut self.transports[index as usize];
        if matches!(transport.in_flight, InFlight::Stream { stream, .. } if stream == stream_index)
        {
            transport.in_flight = InFlight::Unaccounted;
        }
        let Some(moved) = self.streams.at(stream_index).log.detach(cursor) else { return };
        let moved = &mut self.transports[moved as usize];
        if let InFlight::Stream { stream, cursor: in_flight, .. } = &mut moved.in_flight
            && *stream == stream_index
        {
            *in_flight = cursor;
        }
        let connection = moved.connection().expect("cursors belong to connections");
        connection.set_cursor(stream_index, Some(cursor));
    }

    /// What the connection of `index` calls a channel, and the stream through which it is attached.
    pub(super) fn attachment_to(
        &self,
        index: u32,
        name: &ChannelName,
    ) -> (StreamName, Option<u32>) {
        let Stage::Realtime(_, connection) = &self.transports[index as usize].stage else {
            unreachable!("asked for connections only")
        };
        let name = StreamName {
            channel: ChannelKey::new(connection.app_id(), name.base()),
            display_name: name.as_str().into(),
            format: connection.format(),
        };
        let mut named = self.streams.named(&name);
        let attached = named.find(|&stream| connection.modes(stream).is_some());
        drop(named);
        (name, attached)
    }

    pub(super) fn modes(&self, index: u32, stream: u32) -> Option<Modes> {
        self.transports[index as usize].peek_connection()?.modes(stream)
    }

    fn set_modes(&mut self, index: u32, stream: u32, modes: Modes) {
        let connection = self.transports[index as usize].connection();
        let connection = connection.expect("only connections attach");
        let before = connection.modes(stream);
        connection.set_modes(stream, modes);
        self.count_attachment(stream, before, Some(modes));
    }

    /// Whether this is what the attachment to a stream asked for before.
    fn has_modes_and_params(&self, index: u32, stream: u32, modes: Modes, params: &Params) -> bool {
        let connection = self.transports[index as usize].peek_connection();
        let connection = connection.expect("only connections attach");
        let known = connection.params(stream).cloned().unwrap_or_default();
        connection.modes(stream) == Some(modes) && known == *params
    }

    fn set_params(&mut self, index: u32, stream: u32, params: &Params) {
        let connection = self.transports[index as usize].connection();
        connection.expect("only connections attach").set_params(stream, params.clone());
    }

    pub(super) fn is_joining(&self, index: u32, stream: u32) -> bool {
        let connection = self.transports[index as usize].peek_connection();
        connection.is_some_and(|connection| connection.is_joining(stream))
    }

    pub(super) fn return_address(&self, index: u32, request: u64) -> ReturnAddress {
        let transport = self.transports[index as usize].address(index);
        ReturnAddress { shard: self.id, transport, request }
    }
}
