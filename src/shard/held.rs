//! Clients that publish faster than what they publish is confirmed: they are read no further until they have
//! fewer publishes without ACK. Their own sockets slow them down then, and nobody else.
//!
//! What has come in already when reading stops waits here, a payload at a time, in order.

use std::collections::{HashMap, VecDeque};

use super::Shard;
use crate::ably::{ErrorCode, ErrorInfo};

/// Bytes of payloads that may wait, of all transports of a shard. A socket brings what its buffer in the
/// kernel holds before it is left alone; beyond this its connection is ended.
const HELD_BYTES_MAX: usize = 64 << 20;

/// What has come from one transport and waits.
#[derive(Default)]
struct HeldTransport {
    payloads: VecDeque<Box<[u8]>>,
    /// Whether it is in the list of those that may go on.
    is_due: bool,
}

/// See the module text.
#[derive(Default)]
pub(super) struct Held {
    transports: HashMap<u32, HeldTransport>,
    /// Those that may go on.
    due: Vec<u32>,
    bytes: usize,
    /// Whether a transport is to be read, in the order in which that was decided.
    to_tell: VecDeque<(u32, bool)>,
}

impl Held {
    /// Whether what comes from `index` has to wait.
    pub fn has(&self, index: u32) -> bool {
        !self.transports.is_empty() && self.transports.contains_key(&index)
    }
}

impl Shard {
    /// The next transport that is not to be read any more (false), or again (true).
    pub fn poll_reading(&mut self) -> Option<(u32, bool)> {
        self.held.to_tell.pop_front()
    }

    /// Reads `index` no further if it has as many publishes under way as it may have.
    pub(super) fn hold_if_ahead(&mut self, index: u32) {
        let config = &self.config.connection;
        let connection = self.transports[index as usize].connection();
        if connection.is_some_and(|connection| connection.is_ahead(config)) && !self.held.has(index)
        {
            self.held.transports.insert(index, HeldTransport::default());
            self.held.to_tell.push_back((index, false));
        }
    }

    /// Has a payload wait for its turn.
    pub(super) fn hold_payload(&mut self, index: u32, payload: &[u8]) {
        if self.held.bytes + payload.len() > HELD_BYTES_MAX {
            let text = "too many publishes without waiting for their ACKs";
            return self.fail(index, &ErrorInfo::new(ErrorCode::FLOODING, text));
        }
        let held = self.held.transports.get_mut(&index).expect("asked by the caller");
        held.payloads.push_back(payload.into());
        self.held.bytes += payload.len();
    }

    /// A publish of `index` has its outcome: perhaps it may go on.
    pub(super) fn release_if_behind(&mut self, index: u32) {
        if !self.held.has(index) {
            return;
        }
        let config = &self.config.connection;
        let connection = self.transports[index as usize].connection();
        let is_behind = connection.is_none_or(|connection| connection.is_behind(config));
        let held = self.held.transports.get_mut(&index).expect("seen above");
        if is_behind && !std::mem::replace(&mut held.is_due, true) {
            self.held.due.push(index);
        }
    }

    /// Reads `index` again, whose connection has ended or waits for another transport; what has waited is
    /// dropped: who resumes sends again what it saw no ACK of.
    pub(super) fn forget_held(&mut self, index: u32) {
        let Some(held) = self.held.transports.remove(&index) else { return };
        self.held.bytes -= held.payloads.iter().map(|payload| payload.len()).sum::<usize>();
        self.held.to_tell.push_back((index, true));
    }

    /// Goes on with transports that may. True when there was something.
    pub(super) fn advance_held(&mut self) -> bool {
        let due = std::mem::take(&mut self.held.due);
        let is_some = !due.is_empty();
        for index in due {
            self.advance_held_of(index);
        }
        is_some
    }

    fn advance_held_of(&mut self, index: u32) {
        loop {
            // It may have ended, and the index may be another's, who is as far ahead again.
            let Some(held) = self.held.transports.get_mut(&index) else { return };
            held.is_due = false;
            let config = &self.config.connection;
            let connection = self.transports[index as usize].connection();
            if connection.is_some_and(|connection| connection.is_ahead(config)) {
                return;
            }
            let Some(payload) = held.payloads.pop_front() else { break };
            self.held.bytes -= payload.len();
            self.handle_payload(index, &payload);
            self.set_ready(index);
        }
        self.held.transports.remove(&index);
        self.held.to_tell.push_back((index, true));
    }
}
