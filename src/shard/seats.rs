//! How many realtime transports an address and a key may have, over all shards; and how many other sockets an
//! address may have on one.
//!
//! A hash of the address, or of the key's name, picks the shard that counts it: its home. Whoever wants to become
//! a realtime transport is asked for there and takes a *seat*, at the home of the address first and then at that
//! of the key, before it is told anything; when it ends its shard gives the seat back. Where there is no bound
//! nobody is asked. Nothing can be left over: a shard that ends takes the process with it.
//!
//! What has no seat, such as a client that sends no request, is counted by its own shard alone.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;

use super::admission::SeatError;
use super::transport::{Opened, Stage};
use super::{Mail, ReturnAddress, Shard};
use crate::ably::{Answer, ErrorInfo, Key};
use crate::base::{AddressBlock, SpreadMap};
use crate::channel::log::TransportRef;
use crate::connection::Opening;
use crate::http::Request;
use crate::ws::{CloseCode, Window};

/// Sockets without a seat that an address may have on one shard beside as many as its seats: those of clients
/// that are about to take one, or to be refused it, and their requests.
const SEATLESS_SPARE: u32 = 16;

/// Transports that one turn looks at after the bounds have changed.
const LOOKS_PER_TURN: u32 = 4096;

/// Transports of which one turn asks where they come from.
const STRANGERS_PER_TURN: usize = 256;

/// Who is counted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Holder {
    /// Clients of one address.
    Address(AddressBlock),
    /// Clients of one key or its tokens.
    Key(Arc<str>),
}

impl Holder {
    /// The shard that counts it. Hashed as names of channels are: whoever can choose addresses can aim at a shard,
    /// but not make a hash table degenerate.
    fn home(&self, shards: usize) -> usize {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        (hasher.finish() % shards as u64) as usize
    }
}

/// What a transport wants to take: at least one of them, each with how many there may be.
#[derive(Debug)]
pub struct Seat {
    /// Of its address.
    pub address: Option<(AddressBlock, u32)>,
    /// Of its key.
    pub key: Option<(Arc<str>, u32)>,
    /// Whether it resumes a connection. That may still have its seat for a moment, so there is room for one more.
    pub resumes: bool,
}

impl Seat {
    fn address(&self) -> Option<Holder> {
        self.address.map(|(block, _)| Holder::Address(block))
    }

    fn key(&self) -> Option<Holder> {
        self.key.as_ref().map(|(name, _)| Holder::Key(Arc::clone(name)))
    }
}

/// What a shard counts for all of them. Bounded by the transports of all shards: who has none is not there.
#[derive(Default)]
pub(super) struct Seats {
    taken: SpreadMap<Holder, u32>,
}

impl Seats {
    /// Takes one more, if there are fewer than `max`.
    fn take(&mut self, holder: Holder, max: u32) -> bool {
        let taken = self.taken.get(&holder).copied().unwrap_or(0);
        let is_free = taken < max;
        if is_free {
            *self.taken.get_or_insert_with(holder, |_| 0) += 1;
        }
        is_free
    }

    fn give_back(&mut self, holder: &Holder) {
        let taken = self.taken.get_mut(holder).expect("was taken");
        *taken -= 1;
        if *taken == 0 {
            self.taken.remove(holder);
        }
    }

    /// How many holders have seats.
    pub(super) fn holders(&self) -> usize {
        self.taken.len()
    }
}

/// A number for an address that sockets of a shard have, so that a transport keeps four bytes of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct AddressId(u32);

impl AddressId {
    /// An address that is not known, or not counted.
    pub const NONE: AddressId = AddressId(0);
    /// A proxy, which says itself whose request it passes on.
    const PROXY: AddressId = AddressId(1);
    const FIRST: u32 = 2;

    fn place(self) -> Option<usize> {
        self.0.checked_sub(AddressId::FIRST).map(|place| place as usize)
    }
}

/// What a transport has taken, as bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Taken(u8);

impl Taken {
    const ADDRESS: u8 = 1;
    const KEY: u8 = 2;

    fn has(self, bit: u8) -> bool {
        self.0 & bit != 0
    }
}

struct Known {
    block: AddressBlock,
    /// Sockets that have it.
    sockets: u32,
    /// Of them, those without a seat.
    seatless: u32,
}

/// The addresses of a shard's sockets, as far as they are counted. Those that no socket has any more are gone.
#[derive(Default)]
pub(super) struct Addresses {
    by_block: HashMap<AddressBlock, AddressId>,
    /// By [`AddressId::place`]; `None`: free.
    known: Vec<Option<Known>>,
    free: Vec<u32>,
}

impl Addresses {
    fn block(&self, id: AddressId) -> Option<AddressBlock> {
        let known = self.known[id.place()?].as_ref();
        Some(known.expect("a socket has it").block)
    }

    /// One more socket of `block`.
    fn add(&mut self, block: AddressBlock) -> AddressId {
        let Addresses { by_block, known, free } = self;
        let id = *by_block.entry(block).or_insert_with(|| {
            let place = free.pop().unwrap_or_else(|| {
                known.push(None);
                known.len() as u32 - 1
            });
            known[place as usize] = Some(Known { block, sockets: 0, seatless: 0 });
            AddressId(place + AddressId::FIRST)
        });
        self.at(id).expect("has a place").sockets += 1;
        id
    }

    /// One socket less.
    fn remove(&mut self, id: AddressId) {
        let Some(known) = self.at(id) else { return };
        known.sockets -= 1;
        if known.sockets > 0 {
            return;
        }
        debug_assert_eq!(known.seatless, 0, "those are sockets too");
        let block = known.block;
        self.by_block.remove(&block);
        let place = id.place().expect("seen above");
        self.known[place] = None;
        self.free.push(place as u32);
        if self.by_block.is_empty() {
            *self = Addresses::default();
        }
    }

    fn at(&mut self, id: AddressId) -> Option<&mut Known> {
        let place = id.place()?;
        Some(self.known[place].as_mut().expect("a socket has it"))
    }

    /// How many there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.by_block.len()
    }
}

impl Shard {
    /// Whether [`handle_accept`](Self::handle_accept) is to be told where clients come from.
    pub fn wants_addresses(&self) -> bool {
        self.config.admission.connections_per_address_max > 0
    }

    /// A client has connected from `peer`, who is not known as a proxy's or as one that is not counted. One of
    /// too many is closed without a word: it has asked nothing yet.
    pub(super) fn note_peer(&mut self, index: u32, peer: IpAddr) {
        let admission = &self.config.admission;
        let max = admission.connections_per_address_max;
        if max == 0 || admission.uncounted.contains(peer) {
            return;
        }
        let transport = &mut self.transports[index as usize];
        if admission.trusted_proxies.contains(peer) {
            transport.address = AddressId::PROXY;
            return;
        }
        transport.address = self.addresses.add(peer.into());
        let known = self.addresses.at(transport.address).expect("added");
        known.seatless += 1;
        if known.seatless > max.saturating_add(SEATLESS_SPARE) {
            self.counters.refused.sockets += 1;
            self.close(index);
        }
    }

    /// A client that was accepted when addresses did not count comes from `peer`, it was found out. What it is
    /// by now is counted, whatever the bound; of one that came through a proxy it is not known any more for whom.
    pub fn handle_peer(&mut self, index: u32, peer: IpAddr) {
        let transport = &self.transports[index as usize];
        if transport.address != AddressId::NONE {
            return;
        }
        match &transport.stage {
            Stage::Free | Stage::Closing | Stage::Leaving(_) | Stage::Echo(_) => {}
            Stage::Http(_) | Stage::Opening(_) => self.note_peer(index, peer),
            Stage::Realtime(..) | Stage::Events(_) => {
                let admission = &self.config.admission;
                if self.wants_addresses()
                    && !admission.uncounted.contains(peer)
                    && !admission.trusted_proxies.contains(peer)
                {
                    self.hold_address(index, peer.into());
                }
            }
        }
    }

    /// Has the realtime transport at `index` count for its address, if that is known and it does not yet: it has
    /// come, or has asked for its seat, when addresses had no bound.
    pub(super) fn count_address(&mut self, index: u32) {
        let transport = &self.transports[index as usize];
        if !self.wants_addresses() || transport.taken.has(Taken::ADDRESS) {
            return;
        }
        let Some(block) = self.addresses.block(transport.address) else { return };
        self.forget_peer(index);
        self.hold_address(index, block);
    }

    /// The realtime transport at `index` is counted as one of `block`, whatever the bound.
    fn hold_address(&mut self, index: u32, block: AddressBlock) {
        let address = self.addresses.add(block);
        let transport = &mut self.transports[index as usize];
        transport.address = address;
        transport.taken.0 |= Taken::ADDRESS;
        self.hold_seat(Holder::Address(block));
    }

    /// The socket at `index`, which has no seat any more, is gone.
    pub(super) fn forget_peer(&mut self, index: u32) {
        let transport = &mut self.transports[index as usize];
        let id = std::mem::take(&mut transport.address);
        if let Some(known) = self.addresses.at(id) {
            known.seatless -= 1;
            self.addresses.remove(id);
        }
    }

    /// Whose request it is, as far as that is counted.
    pub(super) fn client_of(&self, index: u32, request: &Request) -> Option<AddressBlock> {
        let id = self.transports[index as usize].address;
        if id != AddressId::PROXY {
            return self.addresses.block(id);
        }
        let admission = &self.config.admission;
        let is_trusted = |address| admission.trusted_proxies.contains(address);
        let client = admission.forwarded_header.client(request, is_trusted)?;
        (!admission.uncounted.contains(client)).then(|| client.into())
    }

    /// What somebody has to take before it becomes a realtime transport; `None`: nothing is counted.
    fn seat_for(&self, client: Option<AddressBlock>, key: &Key, resumes: bool) -> Option<Seat> {
        let admission = &self.config.admission;
        let address = client.map(|block| (block, admission.connections_per_address_max));
        let address = address.filter(|(_, max)| *max > 0);
        let key_max = key.connections_max().unwrap_or(admission.connections_per_key_max);
        let key = (key_max > 0).then(|| (key.shared_name(), key_max));
        (address.is_some() || key.is_some()).then_some(Seat { address, key, resumes })
    }

    /// Begins the connection of a transport that has become a WebSocket, once it has its seat.
    pub(super) fn seat_connection(
        &mut self,
        index: u32,
        opening: Opening,
        window: Option<Window>,
        client: Option<AddressBlock>,
    ) {
        let resumes = opening.resumes().is_some();
        let seat = self.seat_for(client, opening.principal().key(), resumes);
        let Some(seat) = seat else { return self.open_connection(index, opening, window) };
        let early = Vec::new();
        let opened = Box::new(Opened { opening, window, early });
        self.transports[index as usize].stage = Stage::Opening(opened);
        self.ask_for_seat(index, 0, seat);
    }

    /// What a stream of events that `key` opens has to take first.
    pub(super) fn seat_for_events(
        &self,
        index: u32,
        client: Option<AddressBlock>,
        key: &Key,
    ) -> Option<Seat> {
        let has_one = self.transports[index as usize].taken != Taken::default();
        self.seat_for(client, key, false).filter(|_| !has_one)
    }

    /// Asks for a seat; answered as `request`.
    pub(super) fn ask_for_seat(&mut self, index: u32, request: u64, seat: Seat) {
        let reply_to = self.return_address(index, request);
        let first = seat.address().or_else(|| seat.key()).expect("something is counted");
        let home = first.home(self.shards);
        if let Some(error) = self.congestion_of(home) {
            return self.refuse_seat(reply_to.transport, request, &error);
        }
        let has_address = false;
        self.post(home, Mail::TakeSeat { reply_to, seat: Box::new(seat), has_address });
    }

    /// Somebody wants a seat that is counted here; with `has_address` it has that of its address.
    pub(super) fn handle_take_seat(
        &mut self,
        reply_to: ReturnAddress,
        seat: Box<Seat>,
        has_address: bool,
    ) {
        let spare = u32::from(seat.resumes);
        let mut refusal = None;
        match (&seat.address, &seat.key) {
            (Some((block, max)), key) if !has_address => {
                if !self.seats.take(Holder::Address(*block), max.saturating_add(spare)) {
                    refusal = Some(SeatError::Address { block: *block, max: *max });
                } else if key.is_some() {
                    let home = seat.key().expect("seen above").home(self.shards);
                    return self.post(home, Mail::TakeSeat { reply_to, seat, has_address: true });
                }
            }
            (_, Some((name, max))) => {
                if !self.seats.take(Holder::Key(Arc::clone(name)), max.saturating_add(spare)) {
                    refusal = Some(SeatError::Key { name: Arc::clone(name), max: *max });
                    if let Some(address) = seat.address() {
                        self.give_back(address);
                    }
                }
            }
            (_, None) => unreachable!("something is counted"),
        }
        let ReturnAddress { shard, transport, request } = reply_to;
        let result = refusal.map_or(Ok(()), Err);
        self.post(usize::from(shard), Mail::SeatTaken { transport, request, seat, result });
    }

    /// Somebody has a seat that is counted here, whatever the bound.
    pub(super) fn handle_hold_seat(&mut self, holder: Holder) {
        self.seats.take(holder, u32::MAX);
    }

    /// Somebody gives back a seat that is counted here.
    pub(super) fn handle_give_back_seat(&mut self, holder: &Holder) {
        self.seats.give_back(holder);
    }

    fn give_back(&mut self, holder: Holder) {
        let home = holder.home(self.shards);
        self.post(home, Mail::GiveBackSeat(holder));
    }

    /// The homes have answered.
    pub(super) fn handle_seat_taken(
        &mut self,
        to: TransportRef,
        request: u64,
        seat: &Seat,
        result: Result<(), SeatError>,
    ) {
        let error = match result {
            Ok(()) => return self.sit_down(to, request, seat),
            Err(error) => error,
        };
        match &error {
            SeatError::Address { .. } => self.counters.refused.address += 1,
            SeatError::Key { .. } => self.counters.refused.key += 1,
        }
        self.refuse_seat(to, request, &error.into());
    }

    fn sit_down(&mut self, to: TransportRef, request: u64, seat: &Seat) {
        let index = to.index;
        let transport = self.transports.get(index as usize);
        let waits = transport.filter(|transport| transport.generation == to.generation);
        let waits = waits.is_some_and(|transport| match &transport.stage {
            Stage::Opening(_) => true,
            _ => transport.is_waiting(),
        });
        if !waits {
            // It did not last.
            seat.address().into_iter().chain(seat.key()).for_each(|holder| self.give_back(holder));
            return;
        }
        let mut taken = Taken::default();
        if let Some((block, _)) = seat.address {
            self.forget_peer(index);
            taken.0 |= Taken::ADDRESS;
            self.transports[index as usize].address = self.addresses.add(block);
        }
        if seat.key.is_some() {
            taken.0 |= Taken::KEY;
        }
        self.transports[index as usize].taken = taken;
        match self.take_opening(to) {
            Some(Opened { opening, window, mut early }) => {
                self.open_connection(index, opening, window);
                if !early.is_empty() {
                    self.handle_bytes(index, &mut early);
                }
            }
            None => self.handle_answer(to, request, Ok(Answer::Admitted)),
        }
    }

    /// Tells whoever has asked for a seat that there is none. One that resumes tries again by itself, and may
    /// find one; a new one has failed.
    fn refuse_seat(&mut self, to: TransportRef, request: u64, error: &ErrorInfo) {
        let Some(Opened { opening, .. }) = self.take_opening(to) else {
            return self.handle_answer(to, request, Err(error.clone()));
        };
        let lane = self.transports[to.index as usize].lane();
        let is_busy = error.status >= 500;
        if opening.resumes().is_some() || is_busy {
            opening.put_off(error, lane);
        } else {
            opening.refuse(error, lane);
        }
        let code = if is_busy { CloseCode::Again } else { CloseCode::Normal };
        self.close_websocket(to.index, code, super::Ending::Linger);
    }

    /// Gives back what the transport has taken: it is one no more.
    pub(super) fn leave_seat(&mut self, index: u32) {
        let transport = &mut self.transports[index as usize];
        let taken = std::mem::take(&mut transport.taken);
        if taken.has(Taken::ADDRESS) {
            let id = std::mem::take(&mut transport.address);
            let block = self.addresses.block(id).expect("has the address of its seat");
            self.addresses.remove(id);
            self.give_back(Holder::Address(block));
        }
        if taken.has(Taken::KEY) {
            let key = self.transports[index as usize].key().expect("has the key of its seat");
            let holder = Holder::Key(key.shared_name());
            self.give_back(holder);
        }
    }

    /// A connection goes on under another key than `before`: it counts as that one's, whatever the bound.
    pub(super) fn change_seat(&mut self, index: u32, before: &Arc<Key>) {
        let transport = &self.transports[index as usize];
        let Some(key) = transport.key().filter(|_| transport.taken.has(Taken::KEY)) else { return };
        if key.name() != before.name() {
            let holder = Holder::Key(key.shared_name());
            self.hold_seat(holder);
            self.give_back(Holder::Key(before.shared_name()));
        }
    }

    fn hold_seat(&mut self, holder: Holder) {
        let home = holder.home(self.shards);
        self.post(home, Mail::HoldSeat(holder));
    }

    /// Has connections count that came when their keys or addresses had no bound, some each turn.
    pub(super) fn count_unseated(&mut self) {
        let Some(next) = self.unseated_from else { return };
        let count = self.transports.len() as u32;
        let end = count.min(next.saturating_add(LOOKS_PER_TURN));
        let learns = self.wants_addresses();
        let mut index = next;
        while index < end && self.strangers.len() < STRANGERS_PER_TURN {
            self.count_unseated_at(index);
            let transport = &self.transports[index as usize];
            if learns && transport.address == AddressId::NONE {
                self.strangers.push_back(index);
            } else if transport.peek_connection().is_some() {
                self.count_address(index);
            }
            index += 1;
        }
        self.unseated_from = (index < count).then_some(index);
    }

    /// Has the connection at `index` count for its key, if that has a bound by now.
    pub(super) fn count_unseated_at(&mut self, index: u32) {
        let transport = &self.transports[index as usize];
        let Some(connection) = transport.peek_connection() else { return };
        if transport.taken.has(Taken::KEY) {
            return;
        }
        // As it is now: the connection has the key as it was.
        let Ok(key) = self.directory.key(connection.principal().key().name()) else { return };
        if self.seat_for(None, key, false).is_some() {
            let holder = Holder::Key(key.shared_name());
            self.transports[index as usize].taken.0 |= Taken::KEY;
            self.hold_seat(holder);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seats_are_taken_up_to_the_bound_and_holders_without_any_are_forgotten() {
        let mut seats = Seats::default();
        let key = |name: &str| Holder::Key(name.into());
        assert!((0..3).all(|_| seats.take(key("a"), 3)));
        assert!(!seats.take(key("a"), 3) && seats.take(key("b"), 3));
        seats.give_back(&key("a"));
        assert!(seats.take(key("a"), 3) && !seats.take(key("a"), 3));
        (0..3).for_each(|_| seats.give_back(&key("a")));
        assert_eq!(seats.holders(), 1);
    }

    #[test]
    fn addresses_live_as_long_as_their_sockets() {
        let mut addresses = Addresses::default();
        let block = |n: u8| AddressBlock::from(IpAddr::from([127, 0, 0, n]));
        let [one, two] = [1, 2].map(|n| addresses.add(block(n)));
        assert_eq!(addresses.add(block(1)), one);
        assert_eq!((addresses.block(one), addresses.block(two)), (Some(block(1)), Some(block(2))));
        addresses.remove(one);
        assert_eq!(addresses.len(), 2);
        addresses.remove(one);
        assert_eq!((addresses.len(), addresses.add(block(3))), (1, one));
        [one, two].into_iter().for_each(|id| addresses.remove(id));
        assert_eq!((addresses.len(), addresses.known.capacity()), (0, 0));
        addresses.remove(AddressId::NONE);
        assert_eq!(addresses.block(AddressId::PROXY), None);
    }
}
