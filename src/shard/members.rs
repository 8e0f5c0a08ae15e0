//! The members of channels that are at home here.

use std::sync::Arc;

use bytes::Bytes;

use super::encode::{encode_event, sync};
use super::mail::{ConnectionNews, MembersChange};
use super::{Mail, ReturnAddress, Shard};
use crate::ably::{ErrorInfo, FixtureMember, Format, PresenceMessage, PresenceRequest, RuleSource};
use crate::base::{Level, LogLine};
use crate::channel::ChannelKey;
use crate::channel::broadcast::Broadcast;
use crate::channel::home::{HomeChannel, StreamRef};
use crate::channel::log::TransportRef;
use crate::channel::presence::{Members, PresenceConfig};
use crate::connection::ConnectionId;

/// Members whose connections were lost and that leave in one turn, about.
const LEAVES_PER_TURN: usize = 1000;

impl Shard {
    /// A client wants something of its members on a channel that is at home here.
    pub(super) fn handle_change_members(
        &mut self,
        reply_to: ReturnAddress,
        channel: &ChannelKey,
        change: MembersChange,
    ) {
        let result = self.change_members_here(channel, change);
        let ReturnAddress { shard, transport, request } = reply_to;
        self.post_of(channel, shard, Mail::MembersChanged { transport, request, result });
    }

    fn change_members_here(
        &mut self,
        channel: &ChannelKey,
        change: MembersChange,
    ) -> Result<Option<Bytes>, ErrorInfo> {
        self.check_room(channel)?;
        self.check_subscribers(channel)?;
        self.check_rules(channel, RuleSource::Presence)?;
        let MembersChange { request, transport_count, members_max, own } = change;
        let config = PresenceConfig {
            members_max: members_max as usize,
            bytes_max: self.config.presence_bytes_max.into(),
        };
        let now = self.now;
        let events = self.homes.change(now, channel, |home| {
            home.change_members(now, &config, request, transport_count)
        })?;
        let Some(events) = events else { return Ok(None) };
        let event = Broadcast::Presence(events);
        self.broadcast(channel, &event);
        Ok(own.map(|(format, display_name)| encode_event(&event, format, &display_name)))
    }

    /// Members without a connection are there from the beginning of a channel, and never leave.
    pub(super) fn handle_fixture(&mut self, channel: &ChannelKey, members: Vec<FixtureMember>) {
        let request = PresenceRequest::of_fixtures(members);
        let config = PresenceConfig {
            members_max: usize::MAX, // of an app that is made with them
            bytes_max: self.config.presence_bytes_max.into(),
        };
        let now = self.now;
        let entered =
            self.homes.change(now, channel, |home| home.change_members(now, &config, request, 0));
        match entered {
            Ok(Some(events)) => self.broadcast(channel, &Broadcast::Presence(events)),
            Ok(None) => {}
            Err(error) => {
                let line = LogLine::new(Level::Warn, "members of a sandbox app were left out");
                self.log_line(line.with("error", error));
            }
        }
    }

    /// Something has become of a connection that may have members on a channel that is at home here.
    pub(super) fn handle_connection(
        &mut self,
        channel: &ChannelKey,
        id: ConnectionId,
        news: ConnectionNews,
    ) {
        if !self.homes.get(channel).is_some_and(HomeChannel::has_members) {
            return;
        }
        let (now, id) = (self.now, id.as_str());
        self.withdraw_members(channel, |members| match news {
            ConnectionNews::Heard { transport_count } => {
                members.heard_of(id, transport_count);
                Vec::new()
            }
            ConnectionNews::Lost { transport_count, remain_present } => {
                let leave_at_ms = now.mono_ms + remain_present.as_millis() as u64;
                members.lose(id, transport_count, leave_at_ms);
                Vec::new()
            }
            ConnectionNews::Gone => members.withdraw(now, id),
        });
    }

    /// Members leave whose connections were lost and have not come back.
    pub(super) fn withdraw_due_members(&mut self) {
        let mut left = 0;
        while left < LEAVES_PER_TURN
            && let Some((leave_at_ms, channel)) = self.homes.leaving.first()
            && *leave_at_ms <= self.now.mono_ms
        {
            let (now, channel) = (self.now, channel.clone());
            left += self.withdraw_members(&channel, |members| {
                members.withdraw_due(now, LEAVES_PER_TURN - left)
            });
        }
    }

    /// Has members leave and tells it; returns how many. It is not refused when a subscribing core is
    /// behind: there are never more leaves than members were let in.
    fn withdraw_members(
        &mut self,
        channel: &ChannelKey,
        withdraw: impl FnOnce(&mut Members) -> Vec<Vec<Arc<PresenceMessage>>>,
    ) -> usize {
        let now = self.now;
        let parts = self.homes.change(now, channel, |home| home.withdraw_members(now, withdraw));
        let count = parts.iter().map(|events| events.messages.len()).sum();
        for events in parts {
            self.broadcast(channel, &Broadcast::Presence(events));
        }
        count
    }

    /// A client wants to know who is present on a channel that is at home here.
    pub(super) fn handle_sync(
        &mut self,
        shard: u16,
        channel: ChannelKey,
        to: (TransportRef, StreamRef),
        format: Format,
        display_name: &Arc<str>,
    ) {
        let (transport, stream) = to;
        let frames = sync(self.homes.open(self.now, channel.clone()), format, display_name);
        self.post_of(&channel, shard, Mail::Synced { transport, stream, frames });
    }
}
