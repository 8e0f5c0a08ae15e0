//! Connections that outlive their transports: they lie here until the client comes back, to this shard
//! or another, or their time is over (RTN15, RTN16).

use std::collections::{HashMap, VecDeque};

use super::transport::{Ending, Opened, Stage};
use super::{Mail, ReturnAddress, Shard};
use crate::ably::{Answer, ErrorCode, ErrorInfo, Principal, PublishResult};
use crate::channel::log::TransportRef;
use crate::connection::{Connection, ConnectionId, ConnectionKey, Opening, Place};
use crate::ws::{self, CloseCode, Window};

/// Bytes that a client may send before its connection was found.
const EARLY_BYTES_MAX: usize = 16 << 10;

/// A connection without a transport.
struct Dormant {
    connection: Box<Connection>,
    /// Which transport it had: homes answer to that.
    last: TransportRef,
    /// When it is forgotten, on the monotonic clock.
    expires_ms: u64,
    /// Who wants it as soon as the outcome of all its publishes is known.
    taker: Option<ReturnAddress>,
}

/// See the module text.
#[derive(Default)]
pub(super) struct DormantConnections {
    by_id: HashMap<ConnectionId, Dormant>,
    /// In the order in which they expire; ids that are not there any more are passed over.
    order: VecDeque<(u64, ConnectionId)>,
    /// Those with publishes under way.
    publishing: HashMap<TransportRef, ConnectionId>,
}

impl DormantConnections {
    /// When the next one expires, at the earliest.
    pub fn next_ms(&self) -> Option<u64> {
        self.order.front().map(|(expires_ms, _)| *expires_ms)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    fn remove(&mut self, id: ConnectionId) -> Option<Dormant> {
        let dormant = self.by_id.remove(&id)?;
        self.publishing.remove(&dormant.last);
        Some(dormant)
    }
}

/// The error for a connection that one cannot publish for.
pub(super) fn unknown_key() -> ErrorInfo {
    let text = "the connectionKey is of no connection that is live or can be resumed";
    ErrorInfo::new(ErrorCode::INVALID_CONNECTION_ID, text)
}

impl Shard {
    /// Parts a transport from its connection, which may be resumed.
    pub(super) fn suspend(&mut self, index: u32) {
        let last = self.transports[index as usize].address(index);
        self.lose_members(index);
        if let Some(connection) = self.part(index) {
            self.keep_dormant(connection, last);
        }
    }

    /// Ends the connection of a transport for good.
    pub(super) fn end_connection(&mut self, index: u32) {
        if let Some(mut connection) = self.part(index) {
            self.lifecycles.note_connection(&connection, false);
            self.withdraw_members_of(&mut connection, |_| true);
        }
    }

    /// Takes the connection from a transport, without its attachments.
    fn part(&mut self, index: u32) -> Option<Box<Connection>> {
        self.leave_streams(index);
        self.leave_seat(index);
        self.forget_held(index);
        let stage = &mut self.transports[index as usize].stage;
        match std::mem::replace(stage, Stage::Leaving(None)) {
            Stage::Realtime(decoder, connection) => {
                *stage = Stage::Leaving(Some(decoder));
                self.connections -= 1;
                self.stats.connection_closed(connection.app_id(), self.now.unix_ms);
                Some(connection)
            }
            // It comes back as another one, from where it was.
            Stage::Events(stream) => {
                self.stats.connection_closed(stream.connection.app_id(), self.now.unix_ms);
                self.lifecycles.note_connection(&stream.connection, false);
                None
            }
            other => {
                *stage = other;
                None
            }
        }
    }

    fn keep_dormant(&mut self, connection: Box<Connection>, last: TransportRef) {
        let ttl_ms = self.config.connection.state_ttl.as_millis() as u64;
        let expires_ms = self.now.mono_ms + ttl_ms;
        let id = connection.id();
        if self.dormant.by_id.len() >= self.config.dormant_max {
            // Whoever it was gets a new connection, and is told so.
            while let Some((_, oldest)) = self.dormant.order.pop_front() {
                if self.forget_dormant(oldest) {
                    break;
                }
            }
        }
        let DormantConnections { by_id, order, .. } = &mut self.dormant;
        if order.len() >= 2 * self.config.dormant_max {
            // Most are of connections that were resumed since.
            order.retain(|(expires_ms, id)| {
                by_id.get(id).is_some_and(|dormant| dormant.expires_ms == *expires_ms)
            });
        }
        if connection.pending_publishes() > 0 {
            self.dormant.publishing.insert(last, id);
        }
        self.dormant.order.push_back((expires_ms, id));
        self.dormant.by_id.insert(id, Dormant { connection, last, expires_ms, taker: None });
    }

    /// True when it was there.
    fn forget_dormant(&mut self, id: ConnectionId) -> bool {
        let Some(mut dormant) = self.dormant.remove(id) else { return false };
        self.lifecycles.note_connection(&dormant.connection, false);
        self.withdraw_members_of(&mut dormant.connection, |_| true);
        if let Some(taker) = dormant.taker {
            self.refuse_resume(taker, "the connection has expired");
        }
        true
    }

    /// Forgets connections whose time is over.
    pub(super) fn expire_dormant(&mut self) {
        let now_ms = self.now.mono_ms;
        while let Some((_, id)) =
            self.dormant.order.pop_front_if(|(expires_ms, _)| *expires_ms <= now_ms)
        {
            // It may have been resumed and lost again since.
            if self.dormant.by_id.get(&id).is_some_and(|dormant| dormant.expires_ms <= now_ms) {
                self.forget_dormant(id);
            }
        }
    }

    /// A home has answered a publish of a transport that is gone.
    pub(super) fn resolve_dormant(
        &mut self,
        transport: TransportRef,
        msg_serial: u64,
        outcome: Result<PublishResult, ErrorInfo>,
    ) {
        let Some(&id) = self.dormant.publishing.get(&transport) else { return };
        let dormant = self.dormant.by_id.get_mut(&id).expect("publishing ones are dormant");
        // Nobody reads this; who resumes sends again what it saw no ACK of.
        dormant.connection.resolve(msg_serial, outcome, &mut Vec::new());
        if dormant.connection.pending_publishes() > 0 {
            return;
        }
        self.dormant.publishing.remove(&transport);
        if let Some(taker) = dormant.taker.take() {
            self.hand_over(id, taker);
        }
    }

    /// A transport of some shard wants the connection that `key` names, which should be here.
    pub(super) fn handle_resume(
        &mut self,
        reply_to: ReturnAddress,
        key: &ConnectionKey,
        principal: &Principal,
    ) {
        let known = match self.dormant.by_id.get(&key.id) {
            Some(dormant) => Some(&*dormant.connection),
            None => self.live_connection(key),
        };
        let admitted = match known {
            Some(connection) => connection.admits(key, principal),
            None => {
                let text = "the connection is not known; it was closed or has expired";
                Err(ErrorInfo::new(ErrorCode::CONNECTION_EXPIRED, text))
            }
        };
        if let Err(error) = admitted {
            return self.answer_resume(reply_to, Err(error));
        }
        if !self.dormant.by_id.contains_key(&key.id) {
            // The new transport wins; whatever the old one still brings has no effect (2.9).
            self.suspend(key.place.transport);
            self.close_websocket(key.place.transport, CloseCode::Normal, Ending::Linger);
        }
        let dormant = self.dormant.by_id.get_mut(&key.id).expect("seen or suspended above");
        let before = dormant.taker.replace(reply_to);
        let is_quiet = dormant.connection.pending_publishes() == 0;
        if let Some(before) = before {
            self.refuse_resume(before, "the connection was resumed elsewhere");
        }
        if is_quiet {
            self.hand_over(key.id, reply_to);
        }
    }

    /// Somebody publishes over REST for the connection that `key` names, which should be here (5.6).
    pub(super) fn handle_find_connection(
        &mut self,
        reply_to: ReturnAddress,
        app_id: &str,
        key: &ConnectionKey,
    ) {
        let known = match self.dormant.by_id.get(&key.id) {
            Some(dormant) => Some(&*dormant.connection),
            None => self.live_connection(key),
        };
        let found = known.filter(|known| known.key().is(key) && known.app_id() == app_id);
        let answer = match found {
            Some(connection) => Ok(Answer::Connection {
                id: connection.id().as_str().into(),
                identity: connection.principal().identity().clone(),
            }),
            None => Err(unknown_key()),
        };
        let ReturnAddress { shard, transport, request } = reply_to;
        self.post(usize::from(shard), Mail::Answer { transport, request, answer });
    }

    /// The connection of a transport of this shard, if `key` is of it.
    pub(super) fn live_connection(&self, key: &ConnectionKey) -> Option<&Connection> {
        match &self.transports.get(key.place.transport as usize)?.stage {
            Stage::Realtime(_, connection) if connection.id() == key.id => Some(connection),
            _ => None,
        }
    }

    fn hand_over(&mut self, id: ConnectionId, taker: ReturnAddress) {
        let dormant = self.dormant.remove(id).expect("known to the caller");
        self.answer_resume(taker, Ok(dormant.connection));
    }

    fn refuse_resume(&mut self, taker: ReturnAddress, text: &'static str) {
        let error = ErrorInfo::new(ErrorCode::CONNECTION_EXPIRED, text);
        self.answer_resume(taker, Err(error));
    }

    fn answer_resume(&mut self, taker: ReturnAddress, result: Result<Box<Connection>, ErrorInfo>) {
        let ReturnAddress { shard, transport, .. } = taker;
        self.post(usize::from(shard), Mail::Resumed { transport, result });
    }

    /// Begins the connection of a transport that has become a WebSocket: a new one, or one that has to
    /// be looked for.
    pub(super) fn open_connection(&mut self, index: u32, opening: Opening, window: Option<Window>) {
        match opening.resumes().cloned() {
            Some(Ok(key)) if usize::from(key.place.shard) < self.shards => {
                let principal = opening.principal().clone();
                let reply_to = self.return_address(index, 0);
                self.transports[index as usize].stage =
                    Stage::Opening(Box::new(Opened { opening, window, early: Vec::new() }));
                let owner = usize::from(key.place.shard);
                self.post(owner, Mail::Resume { reply_to, key, principal });
            }
            Some(Ok(_)) => {
                let text = "the connection key names no shard of this daemon";
                let error = ErrorInfo::new(ErrorCode::CONNECTION_EXPIRED, text);
                self.begin_connection(index, opening, window, Some(&error));
            }
            Some(Err(error)) => self.begin_connection(index, opening, window, Some(&error)),
            None => self.begin_connection(index, opening, window, None),
        }
    }

    fn begin_connection(
        &mut self,
        index: u32,
        opening: Opening,
        window: Option<Window>,
        error: Option<&ErrorInfo>,
    ) {
        let place = Place { shard: self.id, transport: index };
        let transport = &mut self.transports[index as usize];
        let (config, entropy) = (&self.config.connection, &mut self.entropy);
        let connection = opening.begin(config, self.now, entropy, place, error, transport.lane());
        self.connections += 1;
        self.stats.connection_opened(connection.app_id(), self.now.unix_ms);
        self.lifecycles.note_connection(&connection, true);
        let decoder = ws::Decoder::new().inflating(window);
        transport.stage = Stage::Realtime(decoder, Box::new(connection));
        self.set_ready(index);
        self.begin_token(index);
        self.count_address(index);
    }

    /// The shard that has the connection has answered.
    pub(super) fn handle_resumed(
        &mut self,
        from: usize,
        to: TransportRef,
        result: Result<Box<Connection>, ErrorInfo>,
    ) {
        let index = to.index;
        let Some(Opened { opening, window, mut early }) = self.take_opening(to) else {
            // The transport did not last; whoever tries again comes with the same key.
            if let Ok(connection) = result {
                self.post(from, Mail::GiveBack { connection });
            }
            return;
        };
        match result {
            Ok(mut connection) => {
                let place = Place { shard: self.id, transport: index };
                let transport = &mut self.transports[index as usize];
                let (config, entropy) = (&self.config.connection, &mut self.entropy);
                opening.resume(&mut connection, config, self.now, entropy, place, transport.lane());
                self.connections += 1;
                self.stats.connection_resumed(connection.app_id(), self.now.unix_ms);
                let decoder = ws::Decoder::new().inflating(window);
                transport.stage = Stage::Realtime(decoder, connection);
                self.set_ready(index);
                self.begin_token(index);
                self.count_address(index);
            }
            Err(error) => self.begin_connection(index, opening, window, Some(&error)),
        }
        if !early.is_empty() {
            self.handle_bytes(index, &mut early);
        }
    }

    pub(super) fn take_opening(&mut self, at: TransportRef) -> Option<Opened> {
        let transport = self.transports.get_mut(at.index as usize)?;
        if transport.generation != at.generation {
            return None;
        }
        match std::mem::replace(&mut transport.stage, Stage::Leaving(None)) {
            Stage::Opening(opened) => Some(*opened),
            other => {
                transport.stage = other;
                None
            }
        }
    }

    /// A connection comes back that nobody has taken.
    pub(super) fn handle_give_back(&mut self, connection: Box<Connection>) {
        let index = connection.key().place.transport;
        // No publish is under way, so no answer will look for the transport.
        self.keep_dormant(connection, TransportRef { index, generation: 0 });
    }

    /// Bytes of a client that does not wait for CONNECTED.
    pub(super) fn handle_early_bytes(&mut self, index: u32, bytes: &[u8]) {
        if let Stage::Opening(opened) = &mut self.transports[index as usize].stage {
            opened.early.extend_from_slice(bytes);
            if opened.early.len() > EARLY_BYTES_MAX {
                self.close_websocket(index, CloseCode::Policy, Ending::Linger);
            }
        }
    }
}
