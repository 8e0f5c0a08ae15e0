//! A host as shards see one, without a kernel: sockets are byte queues, the mesh is a table of bounded
//! queues, the clock stands still until it is told.
//!
//! [`Host::turn`] does for one shard what a turn of the pump does, in the same order. What a kernel may
//! do in one way or another is drawn: how much of what a client has sent arrives at once, how many sends
//! fit into the ring, when a send ends, when a slot is free again, how much mail comes over in a turn.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::helper::Helper;
use super::{Disk, Random};
use crate::ably::{Directory, RuleEvent, Verdict};
use crate::base::{Entropy, Now};
use crate::channel::ChannelKey;
use crate::journal::{Command, Journal, JournalConfig};
use crate::shard::{Mail, Shard, ShardConfig};
use crate::sys::SendBuf;

/// What the kernel says of a send to a peer that has gone.
const EPIPE: i32 = 32;

/// Shards, their clients' sockets, and what is between them.
pub struct Host {
    /// The shards as they ship.
    pub shards: Vec<Shard>,
    /// Every socket that there ever was.
    pub clients: Vec<Client>,
    /// Both clocks.
    pub now: Now,
    /// Clients that do not read: their sends never end.
    pub stalled: Vec<usize>,
    /// Events for rules, as they were handed over.
    pub hooks: Vec<RuleEvent>,
    /// Whether events for rules are taken from the shards, or stay there.
    pub takes_hooks: bool,
    /// Who takes events and questions of rules, if there is somebody.
    pub helper: Option<Helper>,
    /// The one source of chance.
    pub random: Random,
    /// Where channels are kept, if there is a place.
    pub disk: Option<Disk>,
    /// What is to be done there, with the shard that wants it.
    pub disk_commands: Vec<(usize, Command)>,
    /// Whether the disk does nothing.
    pub is_disk_stalled: bool,
    /// Mail that each shard has sent to each other and that has not arrived.
    mesh: Vec<Vec<VecDeque<Mail>>>,
    /// How much of it there may be in each of these queues.
    mesh_entries: usize,
    /// Which client is at which index of each shard.
    slots: Vec<Vec<Option<usize>>>,
    /// What is done to mail on its way; see [`Tamper`].
    tamper: Option<Tamper>,
}

/// Spoils mail between two shards: what it returns arrives in the place of what was sent. For tests of
/// those who are to notice.
pub type Tamper = Box<dyn FnMut(&mut Random, Mail) -> Vec<Mail>>;

/// Spoils a disk between two starts.
pub type Spoil = Box<dyn FnMut(&mut Random, &mut Disk)>;

/// Spoils what a shard is told that has asked a rule.
pub type Doubt = Box<dyn FnMut(&mut Random, Verdict) -> Verdict>;

/// How often a rule is told of an event.
pub type Retold = fn(&mut Random) -> usize;

/// What is done to a run, for tests of those who are to notice.
#[derive(Default)]
pub struct Sabotage {
    /// To mail between shards.
    pub tamper: Option<Tamper>,
    /// To what a start finds.
    pub disk: Option<Spoil>,
    /// To answers of rules.
    pub doubt: Option<Doubt>,
    /// To events for rules.
    pub retold: Option<Retold>,
}

/// One client's socket.
pub struct Client {
    /// The shard that has accepted it.
    pub shard: usize,
    /// Its index there.
    pub index: u32,
    /// Where it comes from, if that is anywhere.
    peer: Option<IpAddr>,
    /// What has arrived at the client, and it has not read.
    pub received: Vec<u8>,
    /// WebSocket pings that were read and not answered.
    pub pings: usize,
    /// The daemon has closed it, and the slot is free again.
    pub is_closed: bool,
    /// What the client has sent and has not arrived.
    under_way: Vec<u8>,
    /// The client has closed its side, behind `under_way`; told once.
    end: End,
    sending: Option<SendBuf>,
    /// The shard does not read it just now.
    is_held: bool,
    /// How the last send went, until the shard hears of it.
    sent: Option<Result<u32, i32>>,
    /// The shard has given it up, and hears of nothing but the end.
    is_closing: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
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
    /// A host of some shards that all have `directory`; what happens on it follows from `seed`.
    pub fn with_directory(
        shards: usize,
        seed: u64,
        config: ShardConfig,
        directory: Directory,
    ) -> Host {
        let now = Now { mono_ms: 0, unix_ms: 1_800_000_000_000 };
        Host::at(now, shards, seed, config, directory)
    }

    fn at(now: Now, shards: usize, seed: u64, config: ShardConfig, directory: Directory) -> Host {
        let directory = Arc::new(directory);
        let shard = |id| {
            let mut random = Random::new(seed ^ (id as u64 + 1) << 32);
            let entropy = Entropy::new(move |page| {
                for eight in page.chunks_exact_mut(8) {
                    eight.copy_from_slice(&random.draw().to_le_bytes());
                }
            });
            Shard::new(config.clone(), Arc::clone(&directory), id, shards, entropy, now)
        };
        let queues = || (0..shards).map(|_| VecDeque::new()).collect();
        Host {
            shards: (0..shards).map(shard).collect(),
            clients: Vec::new(),
            now,
            stalled: Vec::new(),
            hooks: Vec::new(),
            takes_hooks: false,
            helper: None,
            random: Random::new(seed),
            disk: None,
            disk_commands: Vec::new(),
            is_disk_stalled: false,
            mesh: (0..shards).map(|_| queues()).collect(),
            mesh_entries: usize::MAX,
            slots: vec![Vec::new(); shards],
            tamper: None,
        }
    }

    /// Bounds the mail under way from one shard to another.
    #[must_use]
    pub fn with_mesh_entries(self, mesh_entries: usize) -> Host {
        Host { mesh_entries, ..self }
    }

    /// Has the shards, which have done nothing yet, keep channels on `disk`; `salt` tells starts apart.
    #[must_use]
    pub fn with_disk(mut self, disk: Disk, config: &JournalConfig, salt: u32) -> Host {
        self.keep_on(disk, config, salt);
        self
    }

    /// The same.
    pub fn keep_on(&mut self, mut disk: Disk, config: &JournalConfig, salt: u32) {
        let count = self.shards.len();
        let recovered = disk.recover(count, ChannelKey::home_of, self.now);
        let shards = std::mem::take(&mut self.shards).into_iter().zip(recovered).enumerate();
        let with_journal = |(id, (mut shard, recovered)): (usize, (Shard, _))| {
            shard.begin_turn(self.now);
            let ids = (id as u16, count as u16);
            let key = (shard.series(), salt);
            let mut journal = Journal::new(config.clone(), ids, key, recovered, self.now);
            journal.number_from(disk.next_number(id as u16));
            shard.with_journal(journal)
        };
        self.shards = shards.map(with_journal).collect();
        self.disk = Some(disk);
    }

    /// The process ends, whatever it is doing: what it had in memory and under way is gone, and every
    /// transport with it. What is left is its disk, where anything that was to be done there is done, or
    /// in part, or not.
    pub fn kill(&mut self) {
        for client in 0..self.clients.len() {
            // What the kernel has taken goes out.
            if !self.stalled.contains(&client) && self.random.chance(2) {
                self.move_bytes(client, true);
            }
            let client = &mut self.clients[client];
            client.is_closed = true;
            (client.sending, client.sent) = (None, None);
            client.under_way.clear();
        }
        self.stalled.clear();
        self.is_disk_stalled = false;
        if let Some(helper) = &mut self.helper {
            helper.end();
        }
        while !self.disk_commands.is_empty() {
            let next = self.random.below(self.disk_commands.len());
            let (_, command) = self.disk_commands.swap_remove(next);
            let disk = self.disk.as_mut().expect("it was to do something");
            disk.tear(command, &mut |bound| self.random.below(bound as usize) as u64);
        }
        self.shards.clear();
    }

    /// Starts again after [`kill`](Self::kill), with as many shards as it may have by now; from `seed`
    /// follows what this start is known by.
    pub fn start(&mut self, shards: usize, seed: u64, config: ShardConfig, directory: Directory) {
        assert!(self.shards.is_empty(), "it has ended");
        let Host { shards, mesh, slots, .. } = Host::at(self.now, shards, seed, config, directory);
        (self.shards, self.mesh, self.slots) = (shards, mesh, slots);
    }

    /// Has mail spoilt on its way.
    #[must_use]
    pub fn with_tamper(self, tamper: Tamper) -> Host {
        Host { tamper: Some(tamper), ..self }
    }

    /// What the serials of each shard end with.
    pub fn series(&self) -> Vec<String> {
        let text = |shard: &Shard| String::from_utf8_lossy(&shard.series().bytes()).into_owned();
        self.shards.iter().map(text).collect()
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        self.random.below(bound)
    }

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

    /// One turn of one shard, as the pump makes it.
    pub fn turn(&mut self, id: usize) {
        self.shards[id].begin_turn(self.now);
        self.deliver_verdicts(id);
        self.reap(id);
        self.deliver_mail(id);
        let shard = &mut self.shards[id];
        shard.handle_timeout();
        shard.settle();
        self.collect_mail(id);
        self.turn_disk(id);
        let shard = &mut self.shards[id];
        if self.takes_hooks && shard.has_hooks() {
            self.hooks.append(&mut shard.take_hooks());
        }
        self.hand_over_hooks(id);
        self.collect_reading(id);
        while let Some(index) = self.shards[id].poll_stranger() {
            let client = self.slots[id][index as usize].expect("it is open");
            if let Some(peer) = self.clients[client].peer {
                self.shards[id].handle_peer(index, peer);
            }
        }
        self.collect_sends(id);
        self.collect_closes(id);
        while self.shards[id].poll_log().is_some() {}
    }

    /// Tells a shard what rules have answered.
    fn deliver_verdicts(&mut self, id: usize) {
        let Some(helper) = &mut self.helper else { return };
        helper.work(self.now);
        for answered in helper.answers(self.now, id) {
            self.shards[id].handle_verdict(answered);
        }
    }

    /// Hands over what a shard has for rules, if there is room.
    fn hand_over_hooks(&mut self, id: usize) {
        let Some(helper) = &mut self.helper else { return };
        helper.expire(self.now, id);
        let shard = &mut self.shards[id];
        let has_some = shard.has_hooks() || shard.has_inquiries();
        if has_some && helper.has_room(self.now, id) {
            helper.take(self.now, shard.take_hooks(), shard.take_inquiries());
        }
    }

    /// Takes what a shard wants to have done with its files, and does something of what is to be done.
    fn turn_disk(&mut self, id: usize) {
        let Some(disk) = &mut self.disk else { return };
        while let Some(command) = self.shards[id].poll_journal() {
            self.disk_commands.push((id, command));
        }
        if !self.is_disk_stalled && !self.disk_commands.is_empty() {
            let next = self.random.below(self.disk_commands.len());
            let (shard, command) = self.disk_commands.swap_remove(next);
            self.shards[shard].handle_journal(disk.execute(command));
            // A channel that was waited for may have asked: that is handed over in the turn in which it is.
            self.hand_over_hooks(shard);
        }
    }

    /// What has happened to the sockets of a shard since its last turn, in any order.
    fn reap(&mut self, id: usize) {
        let count = self.slots[id].len();
        let first = if count > 0 { self.random.below(count) } else { 0 };
        for slot in (first..count).chain(0..first) {
            let Some(number) = self.slots[id][slot] else { continue };
            let index = slot as u32;
            let client = &mut self.clients[number];
            if client.is_closing {
                // The operations in flight end first.
                if self.random.chance(2) {
                    client.is_closed = true;
                    (client.sending, client.sent) = (None, None);
                    self.slots[id][slot] = None;
                    self.shards[id].handle_closed(index);
                }
                continue;
            }
            let is_sent_first = self.random.chance(2);
            if is_sent_first && let Some(result) = client.sent.take() {
                self.shards[id].handle_sent(index, result);
            }
            let client = &mut self.clients[number];
            match client.under_way.len() {
                _ if client.is_held => {}
                0 if client.end == End::Due => {
                    client.end = End::Told;
                    self.shards[id].handle_receive_end(index);
                }
                0 => {}
                _ if self.random.chance(4) => {}
                len => {
                    let is_all = self.random.chance(2);
                    let count = if is_all { len } else { 1 + self.random.below(len) };
                    let rest = client.under_way.split_off(count);
                    let mut arrived = std::mem::replace(&mut client.under_way, rest);
                    self.shards[id].handle_bytes(index, &mut arrived);
                }
            }
            if !is_sent_first && let Some(result) = self.clients[number].sent.take() {
                self.shards[id].handle_sent(index, result);
            }
        }
    }

    fn collect_reading(&mut self, id: usize) {
        while let Some((index, reads)) = self.shards[id].poll_reading() {
            if let Some(number) = self.slots[id][index as usize] {
                self.clients[number].is_held = !reads;
            }
        }
    }

    fn deliver_mail(&mut self, id: usize) {
        for from in 0..self.shards.len() {
            let waiting = self.mesh[from][id].len();
            let count =
                if self.random.chance(2) { waiting } else { self.random.below(waiting + 1) };
            for mail in self.mesh[from][id].drain(..count) {
                self.shards[id].handle_mail(from, mail);
            }
        }
    }

    fn collect_mail(&mut self, id: usize) {
        for to in (0..self.shards.len()).filter(|&to| to != id) {
            while let Some(mail) = self.shards[id].poll_mail(to) {
                let queue = &mut self.mesh[id][to];
                if queue.len() >= self.mesh_entries {
                    self.shards[id].return_mail(to, mail);
                    break;
                }
                match &mut self.tamper {
                    Some(tamper) => queue.extend(tamper(&mut self.random, mail)),
                    None => queue.push_back(mail),
                }
            }
        }
    }

    /// As many sends as the ring takes.
    fn collect_sends(&mut self, id: usize) {
        for _ in 0..self.random.below(8) {
            let Some((index, bytes)) = self.shards[id].poll_transmit() else { break };
            let client =
                self.slots[id][index as usize].expect("sends are to sockets that are open");
            let client = &mut self.clients[client];
            assert!(client.sending.is_none() && client.sent.is_none(), "one send at a time");
            assert!(!client.is_closing, "nothing is sent to a socket that is closing");
            // Nobody is there any more, which the shard has not heard yet.
            match client.end {
                End::No => client.sending = Some(bytes),
                End::Due | End::Told => client.sent = Some(Err(EPIPE)),
            }
        }
    }

    fn collect_closes(&mut self, id: usize) {
        while self.shards[id].poll_shut_down().is_some() {}
        while let Some(index) = self.shards[id].poll_close() {
            let client = self.slots[id][index as usize].expect("what is closed is open");
            let client = &mut self.clients[client];
            assert!(!client.is_closing, "closed once");
            client.is_closing = true;
            client.under_way.clear();
        }
    }

    /// Some of what is being sent to a client arrives; true when that was all of it.
    fn move_bytes(&mut self, client: usize, is_part: bool) -> bool {
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

    /// A turn of some shard, and some bytes to some client.
    pub fn step(&mut self) {
        let id = self.random.below(self.shards.len());
        self.turn(id);
        self.flow();
    }

    /// Whether no mail is under way between the shards, and nothing waits for a disk.
    pub fn is_mail_at_rest(&self) -> bool {
        self.mesh.iter().flatten().all(VecDeque::is_empty)
            && self.disk_commands.is_empty()
            && self.shards.iter().all(|shard| shard.gauges().mail_waiting == 0)
    }

    /// Whether nothing is under way between the shards, to a disk that works, or to or from a client that
    /// reads.
    pub fn is_quiet(&self) -> bool {
        let is_quiet = |(number, client): (usize, &Client)| {
            client.is_closed
                || (client.under_way.is_empty()
                    && client.sent.is_none()
                    && client.end != End::Due
                    && !client.is_closing
                    && (client.sending.is_none() || self.stalled.contains(&number)))
        };
        self.mesh.iter().flatten().all(VecDeque::is_empty)
            && (self.disk_commands.is_empty() || self.is_disk_stalled)
            && self.helper.as_ref().is_none_or(|helper| helper.is_quiet(self.now))
            && self.clients.iter().enumerate().all(is_quiet)
            && self.shards.iter().all(|shard| shard.gauges().mail_waiting == 0)
    }

    /// Lets time go by.
    pub fn pass(&mut self, time: Duration) {
        self.now.mono_ms += time.as_millis() as u64;
        self.now.unix_ms += time.as_millis() as u64;
    }
}
