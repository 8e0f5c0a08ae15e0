//! A host as shards see one, without a kernel: sockets are byte queues, the mesh is a table of bounded
//! queues, the clock stands still until it is told.
//!
//! [`Host::turn`] does for one shard what a turn of the pump does, in the same order. What a kernel may
//! do in one way or another is drawn: how much of what a client has sent arrives at once, how many sends
//! fit into the ring, when a send ends, when a slot is free again, how much mail comes over in a turn.

mod client;
mod turn;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

pub use self::client::Client;
use self::client::End;
use super::helper::Helper;
use super::sabotage::Tamper;
use super::{Disk, Random};
use crate::ably::{Directory, RuleEvent};
use crate::base::{Entropy, Now};
use crate::channel::ChannelKey;
use crate::journal::{Command, Journal, JournalConfig};
use crate::shard::{Mail, Shard, ShardConfig};

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
