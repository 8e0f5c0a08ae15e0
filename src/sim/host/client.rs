//! Clients' sockets, and the network between them and the shards.

use std::net::IpAddr;

use super::{EPIPE, Host};
use crate::sys::SendBuf;

/// One client's socket.
pub struct Client {
    /// The shard that has accepted it.
    pub shard: usize,
    /// Its index there.
    pub index: u32,
    /// Where it comes from, if that is anywhere.
    pub(super) peer: Option<IpAddr>,
    /// What has arrived at the client, and it has not read.
    pub received: Vec<u8>,
    /// WebSocket pings that were read and not answered.
    pub pings: usize,
    /// The daemon has closed it, and the slot is free again.
    pub is_closed: bool,
    /// What the client has sent and has not arrived.
    pub(super) under_way: Vec<u8>,
    /// The client has closed its side, behind `under_way`; told once.
    pub(super) end: End,
    pub(super) sending: Option<SendBuf>,
    /// The shard does not read it just now.
    pub(super) is_held: bool,
    /// How the last send went, until the shard hears of it.
    pub(super) sent: Option<Result<u32, i32>>,
    /// The shard has given it up, and hears of nothing but the end.
    pub(super) is_closing: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    No,
    Due,
    Told,
}

impl Client {
    /// Whether the client can still be sent something.
    pub fn is_open(&self) -> bool {
        !self.is_closed && !self.is_closing && self.end == End::No
    }
}

impl Host {
    /// A client connects to `shard`; returns its number. Like the ring, it takes the lowest free index.
    pub fn accept(&mut self, shard: usize) -> usize {
        self.accept_from(shard, None)
    }

    /// The same for a client at an address.
    pub fn accept_from(&mut self, shard: usize, peer: Option<IpAddr>) -> usize {
        let slots = &mut self.slots[shard];
        let index = slots.iter().position(Option::is_none).unwrap_or_else(|| {
            slots.push(None);
            slots.len() - 1
        });
        let client = self.clients.len();
        slots[index] = Some(client);
        let index = index as u32;
        self.clients.push(Client {
            shard,
            index,
            peer,
            received: Vec::new(),
            pings: 0,
            is_closed: false,
            under_way: Vec::new(),
            end: End::No,
            sending: None,
            is_held: false,
            sent: None,
            is_closing: false,
        });
        self.shards[shard].begin_turn(self.now);
        let is_told = self.shards[shard].wants_addresses();
        self.shards[shard].handle_accept(index, peer.filter(|_| is_told));
        client
    }

    /// A client that sends `request` to `shard`, where it arrives at once; returns its number.
    pub fn request(&mut self, shard: usize, request: &str) -> usize {
        let client = self.accept(shard);
        self.write(client, request.as_bytes());
        client
    }

    /// Bytes from a client that arrive at once, split at random places.
    pub fn write(&mut self, client: usize, bytes: &[u8]) {
        let (shard, index) = (self.clients[client].shard, self.clients[client].index);
        let mut rest = bytes.to_vec();
        while !rest.is_empty() {
            let tail = rest.split_off(1 + self.random.below(rest.len()));
            self.shards[shard].handle_bytes(index, &mut rest);
            rest = tail;
        }
    }

    /// Bytes from a client, which arrive with the turns of its shard.
    pub fn post(&mut self, client: usize, bytes: &[u8]) {
        let client = &mut self.clients[client];
        if client.is_open() {
            client.under_way.extend_from_slice(bytes);
        }
    }

    /// The client closes its side, behind what it has sent.
    pub fn hang_up(&mut self, client: usize) {
        let client = &mut self.clients[client];
        if client.end == End::No {
            client.end = End::Due;
        }
    }

    /// The way to the client is lost: of what was under way, in both directions, some arrives.
    pub fn cut(&mut self, client: usize) {
        let kept = self.random.below(self.clients[client].under_way.len() + 1);
        self.clients[client].under_way.truncate(kept);
        self.hang_up(client);
        if self.clients[client].sending.is_some() {
            if self.random.chance(2) {
                self.move_bytes(client, true);
            }
            let client = &mut self.clients[client];
            if let Some(bytes) = client.sending.take() {
                // What the socket buffer took counts as sent, whether or not anybody reads it.
                client.sent =
                    Some(if self.random.chance(2) { Ok(bytes.len()) } else { Err(EPIPE) });
            }
        }
    }

    /// Spoils what a client has sent and has not arrived: some of its bytes are others.
    pub fn scramble(&mut self, client: usize) {
        let len = self.clients[client].under_way.len();
        if len > 0 {
            let at = self.random.below(len);
            self.clients[client].under_way[at] ^= 1 << self.random.below(8);
        }
    }

    /// Some of what is being sent to a client arrives; true when that was all of it.
    pub(super) fn move_bytes(&mut self, client: usize, is_part: bool) -> bool {
        let client = &mut self.clients[client];
        let Some(bytes) = &mut client.sending else { return false };
        let unsent = bytes.unsent();
        let count = if is_part { 1 + self.random.below(unsent.len()) } else { unsent.len() };
        client.received.extend_from_slice(&unsent[..count]);
        if bytes.advance(count as u32) > 0 {
            return false;
        }
        client.sent = Some(Ok(bytes.len()));
        client.sending = None;
        true
    }

    /// Some bytes move towards one of the clients that read, whichever.
    pub fn flow(&mut self) {
        let sending = |(number, client): &(usize, &Client)| {
            client.sending.is_some() && !client.is_closing && !self.stalled.contains(number)
        };
        let sending: Vec<usize> =
            self.clients.iter().enumerate().filter(sending).map(|(number, _)| number).collect();
        if !sending.is_empty() {
            let client = *self.random.one_of(&sending);
            let is_part = self.random.chance(4);
            self.move_bytes(client, is_part);
        }
    }
}
