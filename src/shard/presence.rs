//! What a client asks of its members, and what becomes of those when its connection does something
//! else. The members themselves are at the channel's home.

use std::sync::Arc;

use bytes::Bytes;

use super::mail::{ConnectionNews, MembersChange};
use super::streams::StreamName;
use super::{Mail, Shard};
use crate::ably::{
    ChannelName, ErrorCode, ErrorInfo, Modes, Operation, PresenceAction, PresenceRequest,
    PublishResult,
};
use crate::channel::ChannelKey;
use crate::channel::home::StreamRef;
use crate::channel::log::TransportRef;
use crate::connection::{Connection, ConnectionId};
use crate::sys::SendBuf;

impl Shard {
    /// Members enter, change or leave.
    pub(super) fn change_members(
        &mut self,
        index: u32,
        msg_serial: u64,
        name: &ChannelName,
        request: PresenceRequest,
    ) {
        let (StreamName { channel, display_name, format }, attached) =
            self.attachment_to(index, name);
        let modes = attached.and_then(|stream| self.modes(index, stream));
        let denied = "the channel was attached without the mode PRESENCE";
        let allowed =
            require_mode(modes, Modes::PRESENCE, ErrorCode::PRESENCE_CHANNEL_STATE, denied);
        if let Some(error) = allowed.err().or_else(|| self.congestion(&channel)) {
            return self.resolve(index, msg_serial, Err(error));
        }
        let connection = self.transports[index as usize].connection();
        let connection = connection.expect("only connections have members");
        if request.changes.iter().any(|change| change.action != PresenceAction::Leave) {
            connection.enter(name.base());
        }
        let transport_count = connection.transport_count();
        let members_max = connection.principal().app().limits().presence_members_max;
        let is_told = modes.is_some_and(|modes| modes.contains(Modes::PRESENCE_SUBSCRIBE));
        let own = (!is_told).then_some((format, display_name));
        let change = Box::new(MembersChange { request, transport_count, members_max, own });
        let home = channel.home(self.shards);
        let reply_to = self.return_address(index, msg_serial);
        self.post(home, Mail::ChangeMembers { reply_to, channel, change });
    }

    /// The home has answered what a connection wanted of its members.
    pub(super) fn handle_members_changed(
        &mut self,
        to: TransportRef,
        msg_serial: u64,
        result: Result<Option<Bytes>, ErrorInfo>,
    ) {
        if let Ok(Some(frame)) = &result
            && let Some(transport) = self.transports.get_mut(to.index as usize)
            && transport.generation == to.generation
            && transport.connection().is_some()
        {
            transport.lane().extend_from_slice(frame);
            self.bound_lane(to.index);
        }
        self.handle_published(to, msg_serial, result.map(|_| PublishResult::of_presence()));
    }

    /// A client wants to be told all members.
    pub(super) fn request_sync(&mut self, index: u32, name: &ChannelName) {
        let (StreamName { channel, display_name, format }, attached) =
            self.attachment_to(index, name);
        let modes = attached.and_then(|stream| self.modes(index, stream));
        let denied = "the channel was attached without the mode PRESENCE_SUBSCRIBE";
        let allowed =
            require_mode(modes, Modes::PRESENCE_SUBSCRIBE, ErrorCode::CHANNEL_STATE, denied);
        if let Err(error) = allowed {
            // The client takes its channel for failed, so that nothing more may come of it.
            if let Some(stream) = attached {
                self.leave_stream(index, stream);
                self.leave_with_attachment(index, name.base());
            }
            if let Some((connection, lane)) = self.transports[index as usize].speak() {
                connection.refuse_channel(name.as_str(), &error, lane);
            }
            return;
        }
        let stream = attached.expect("it has modes");
        if let Some(error) = self.congestion(&channel) {
            // It attaches again after a while, and is told the members then (RTL13).
            self.leave_stream(index, stream);
            return self.refuse_attach(index, &display_name, &error);
        }
        // One that was asked for before is not there yet and will do: its client is sent what happens meanwhile.
        if !self.streams.at(stream).syncing.insert(index) {
            return;
        }
        let stream = self.streams.reference(stream);
        let transport = self.transports[index as usize].address(index);
        let home = channel.home(self.shards);
        self.post(home, Mail::Sync { transport, stream, channel, display_name, format });
    }

    /// The home has told the members that a client wanted to know.
    pub(super) fn handle_synced(
        &mut self,
        to: TransportRef,
        reference: StreamRef,
        frames: Vec<Bytes>,
    ) {
        let known = self.transports.get(to.index as usize).map(|transport| transport.generation);
        if known != Some(to.generation) || self.streams.resolve(reference).is_none() {
            return;
        }
        // Nothing is lost where a SYNC is under way or about to begin: that one ends with what was
        // true later than the request, but for events that are sent behind it. So a client cannot
        // pile up what it does not read.
        let stream = reference.index;
        self.streams.at(stream).syncing.remove(&to.index);
        let is_attached =
            self.modes(to.index, stream).is_some() && !self.is_joining(to.index, stream);
        let transport = &mut self.transports[to.index as usize];
        if is_attached && !transport.has_sync_of(stream) {
            transport.push_backlog(stream, true, frames.into_iter().map(SendBuf::whole));
            self.set_ready(to.index);
        }
    }

    /// A connection attaches to a channel again in which it has members: they stay.
    pub(super) fn keep_members(&mut self, index: u32, channel: &str) {
        let Some(connection) = self.transports[index as usize].connection() else { return };
        if connection.has_entered(channel) {
            let transport_count = connection.transport_count();
            let (app_id, id) = (connection.app_id().to_owned(), connection.id());
            self.tell_home(&app_id, channel, id, ConnectionNews::Heard { transport_count });
        }
    }

    /// The transport is gone: the connection's members leave, unless it comes back in time.
    pub(super) fn lose_members(&mut self, index: u32) {
        let Some(connection) = self.transports[index as usize].connection() else { return };
        let news = ConnectionNews::Lost {
            transport_count: connection.transport_count(),
            remain_present: connection.remain_present(),
        };
        let entered: Vec<Box<str>> = connection.entered().map(Box::from).collect();
        let (app_id, id) = (connection.app_id().to_owned(), connection.id());
        for channel in entered {
            self.tell_home(&app_id, &channel, id, news);
        }
    }

    /// An attachment to `channel` has ended: the members leave with the last one.
    pub(super) fn leave_with_attachment(&mut self, index: u32, channel: &str) {
        let Some(connection) = self.transports[index as usize].connection() else { return };
        let key = ChannelKey::new(connection.app_id(), channel);
        let streams: Vec<u32> = connection.streams().collect();
        if streams.iter().any(|&stream| self.streams.at(stream).name.channel == key) {
            return;
        }
        let connection = self.transports[index as usize].connection().expect("still there");
        let (app_id, id) = (connection.app_id().to_owned(), connection.id());
        for channel in connection.leave(|entered| entered == channel) {
            self.tell_home(&app_id, &channel, id, ConnectionNews::Gone);
        }
    }

    /// The connection may have no members any more in the channels that `leaves` names: they leave now.
    pub(super) fn withdraw_members_of(
        &mut self,
        connection: &mut Connection,
        leaves: impl Fn(&str) -> bool,
    ) {
        let id = connection.id();
        for channel in connection.leave(leaves) {
            self.tell_home(connection.app_id(), &channel, id, ConnectionNews::Gone);
        }
    }

    /// The members of a transport's connection leave the channels in which it may have none any more.
    pub(super) fn withdraw_forbidden_members(&mut self, index: u32) {
        let Some(connection) = self.transports[index as usize].connection() else { return };
        let (id, principal) = (connection.id(), Arc::clone(connection.principal()));
        let is_forbidden =
            |channel: &str| !principal.capability().allows(channel, Operation::Presence);
        for channel in connection.leave(is_forbidden) {
            self.tell_home(principal.app_id(), &channel, id, ConnectionNews::Gone);
        }
    }

    fn tell_home(&mut self, app_id: &str, channel: &str, id: ConnectionId, news: ConnectionNews) {
        let channel = ChannelKey::new(app_id, channel);
        let home = channel.home(self.shards);
        self.post(home, Mail::Connection { channel, id, news });
    }
}

/// Whether an attachment has the mode that something takes; `modes` is `None` where there is no
/// attachment.
///
/// # Errors
/// `detached`, or 40165 with `denied`.
fn require_mode(
    modes: Option<Modes>,
    mode: Modes,
    detached: ErrorCode,
    denied: &'static str,
) -> Result<(), ErrorInfo> {
    match modes {
        None => Err(ErrorInfo::new(detached, "the channel is not attached")),
        Some(modes) if !modes.contains(mode) => {
            Err(ErrorInfo::new(ErrorCode::MODE_NOT_GRANTED, denied))
        }
        Some(_) => Ok(()),
    }
}
