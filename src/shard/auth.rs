//! Tokens of connections: their end, the next one, and what that one changes (2.10).

use std::sync::Arc;

use super::Shard;
use super::attach::AskedBy;
use super::transport::Stage;
use crate::ably::{ChannelName, ChannelParams, ErrorCode, ErrorInfo, Operation};

impl Shard {
    /// A connection begins at `index` or goes on there: its token counts from now on. What has changed
    /// since that was read counts too, and so does the time that has passed.
    pub(super) fn begin_token(&mut self, index: u32) {
        if self.has_good_token(index) {
            self.watch(index);
            self.enforce_on(index);
        }
    }

    /// Whether the connection of `index` may act now: the wheel, which ends it when its token ends, is
    /// coarse. If not, it has ended.
    pub(super) fn has_good_token(&mut self, index: u32) -> bool {
        let Some(connection) = self.transports[index as usize].connection() else { return false };
        let end = connection.principal().token().and_then(|token| token.end(self.now.unix_ms));
        if let Some(error) = &end {
            self.disconnect(index, error);
        }
        end.is_none()
    }

    /// Ends the connection of `index` if the directory has no place for it.
    pub(super) fn enforce_on(&mut self, index: u32) {
        let Some(connection) = self.transports[index as usize].connection() else { return };
        if self.directory.app(connection.app_id()).is_none() {
            let text = "the app was deleted";
            self.fail(index, &ErrorInfo::new(ErrorCode::FORBIDDEN, text));
        } else if !self.directory.has_key_of(connection.principal()) {
            // Whoever has a token can get another, made with another key (RTN15h2).
            if connection.principal().token().is_some() {
                let text = "the key that the token was made with is not valid any more";
                self.disconnect(index, &ErrorInfo::new(ErrorCode::TOKEN_REVOKED, text));
            } else {
                let text = "the key is not valid any more";
                self.fail(index, &ErrorInfo::new(ErrorCode::INVALID_CREDENTIALS, text));
            }
        } else if let Some(revoked) = self.directory.with_revocation(connection.principal()) {
            connection.revoke(Arc::new(revoked), self.now);
            if self.check_token(index) {
                self.watch(index);
            }
        }
    }

    /// Looks whether the token of `index` has ended or is to be renewed. Returns whether the
    /// transport goes on.
    pub(super) fn check_token(&mut self, index: u32) -> bool {
        let now = self.now;
        if self.is_events(index) {
            self.check_events(index);
            return self.is_events(index);
        }
        let Some((connection, lane)) = self.transports[index as usize].speak() else {
            return false;
        };
        let result = connection.check_token(now, lane);
        self.set_ready(index);
        if let Err(error) = &result {
            self.disconnect(index, error);
        }
        result.is_ok()
    }

    /// A client has sent a new token.
    pub(super) fn reauthenticate(&mut self, index: u32, token: &str) {
        let principal = self.directory.authenticate_token(token, self.now.unix_ms);
        let Some((connection, lane)) = self.transports[index as usize].speak() else { return };
        let config = &self.config.connection;
        let key = Arc::clone(connection.principal().key());
        let result = principal
            .and_then(|principal| connection.reauthenticate(config, self.now, &principal, lane));
        match result {
            Ok(()) => {
                self.change_seat(index, &key);
                self.regrant_attachments(index);
                self.watch(index);
            }
            Err(error) if error.is_token_error() => self.disconnect(index, &error),
            Err(error) => self.fail(index, &error),
        }
    }

    /// Gives the attachments of `index` what its capability permits now, and takes what it does not
    /// permit any more (RTC8a1).
    fn regrant_attachments(&mut self, index: u32) {
        let Some(connection) = self.transports[index as usize].connection() else { return };
        for stream in connection.streams().collect::<Vec<u32>>() {
            let Stage::Realtime(_, connection) = &self.transports[index as usize].stage else {
                return;
            };
            let stream_name = &self.streams.at(stream).name;
            let display_name = stream_name.display_name.clone();
            let base = stream_name.channel.name();
            let name = ChannelName::parse(&display_name).expect("was attached under it");
            let principal = connection.principal();
            let modes = connection.modes(stream).expect("attached");
            let (capability, resource) = (principal.capability(), name.resource());
            let granted = modes.regranted_by(capability, &resource);
            let params = connection.params(stream).cloned().unwrap_or_default();
            let mut read = ChannelParams::read(&params).expect("were read before");
            let had_occupancy = read.occupancy.is_some();
            read.occupancy.take_if(|_| !capability.allows(&resource, Operation::ChannelMetadata));
            let denial = match principal.enter(base) {
                Err(error) => Some(error),
                Ok(()) if granted.is_empty() => {
                    let text = "the new token permits nothing on this channel";
                    Some(ErrorInfo::new(ErrorCode::CAPABILITY_DENIED, text))
                }
                Ok(()) => None,
            };
            if let Some(error) = denial {
                self.leave_stream(index, stream);
                if let Some((connection, lane)) = self.transports[index as usize].speak() {
                    connection.refuse_channel(&display_name, &error, lane);
                }
            } else if granted != modes || read.occupancy.is_some() != had_occupancy {
                let params = read.echoed(&params, granted);
                self.attach(index, &name, granted, &read, params, AskedBy::Token);
            }
        }
        self.withdraw_forbidden_members(index);
    }
}
