//! Ends of the process and the host, and starts on the disk that they leave.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::World;
use crate::journal::Command;
use crate::shard::Shard;
use crate::sim::disk::Disk;
use crate::sim::oracle::Ending;
use crate::sim::random::Random;
use crate::sim::rest::{Call, publications};
use crate::sim::sabotage::Spoil;
use crate::sim::sdk::Sdk;

/// Sets the chance of these apart from that of the rest of a run, so that a seed whose daemon is not killed
/// tells what it told before there were kills. With this number that is true of all seeds that had found
/// something before.
const STREAM: u64 = 192;

/// How long the daemon has to stop when it is asked to, and how often it is looked at meanwhile.
const STOP_TIME: Duration = Duration::from_secs(10);
const STOP_ROUNDS: u32 = 40;

/// How much longer a run is for each kill.
const ACTS: usize = 40;

/// What a run has of kills.
pub(super) struct Kills {
    random: Random,
    /// Before which acts, the next one last.
    acts: Vec<usize>,
    /// Whether the message log is on, where that is decided here.
    pub has_disk: Option<bool>,
    /// How often the daemon has started.
    starts: u32,
    /// What one of them was like; damage and an end of the host do not come together in one run, so that it
    /// can be said which of them has taken what is gone.
    is_damaged: bool,
    was_of_host: bool,
    spoil: Option<Spoil>,
}

impl Kills {
    /// Those of a seed, none for most; a run of so many `acts` becomes longer.
    pub fn new(seed: u64, acts: &mut usize, spoil: Option<Spoil>) -> Kills {
        let mut random = Random::new(seed ^ STREAM);
        let (mut at, mut has_disk) = (Vec::new(), None);
        if random.chance(6) {
            let count = 1 + random.below(3);
            *acts += ACTS * count;
            at.extend((0..count).map(|_| 5 + random.below(*acts - 5)));
            at.sort_unstable_by(|one, other| other.cmp(one));
            has_disk = Some(!random.chance(8));
        }
        Kills {
            random,
            acts: at,
            has_disk,
            starts: 1,
            is_damaged: false,
            was_of_host: false,
            spoil,
        }
    }

    /// Whether there are to be any.
    pub fn is_any(&self) -> bool {
        self.has_disk.is_some()
    }

    /// Whether the next comes before this act.
    pub fn is_due(&mut self, act: usize) -> bool {
        self.acts.pop_if(|next| *next <= act).is_some()
    }
}

impl World {
    /// The daemon is asked to stop, and its time to do so goes by; whether it was long enough.
    fn stop(&mut self) -> bool {
        for shard in &mut self.host.shards {
            shard.begin_turn(self.host.now);
            shard.begin_drain(Duration::ZERO);
        }
        for _ in 0..STOP_ROUNDS {
            for _ in 0..8 * self.drained.len() {
                self.step();
            }
            for who in 0..self.sdks.len() {
                self.with_sdk(who, Sdk::advance);
            }
            self.hear_listeners();
            self.poll_calls();
            if self.host.shards.iter().all(Shard::is_drained) && self.host.disk_commands.is_empty()
            {
                return true;
            }
            self.host.pass(STOP_TIME / STOP_ROUNDS);
        }
        false
    }

    /// The process is stopped or killed, or the whole host ends, and it starts again.
    pub(super) fn end_start(&mut self) {
        let is_orderly = self.kills.random.chance(6) && self.stop();
        let is_of_host = !is_orderly && self.kills.random.chance(3);
        let is_of_host = is_of_host && !self.kills.is_damaged;
        if is_orderly {
            self.complete_told();
        }
        let is_damaged = self.kills.random.chance(8) && !self.kills.was_of_host && !is_of_host;
        self.kills.is_damaged |= is_damaged;
        self.kills.was_of_host |= is_of_host;
        let has_cut =
            self.host.disk_commands.iter().any(|(_, it)| matches!(it, Command::Cut { .. }));
        self.host.kill();
        let mut disk = self.host.disk.take();
        let ending = Ending {
            is_orderly,
            is_of_host,
            is_damaged: self.kills.is_damaged,
            is_unsure: has_cut || disk.as_ref().is_some_and(|disk| disk.is_unsure),
            lacks_first: disk.as_ref().is_some_and(Disk::lacks_first),
        };
        self.report.kills += 1;
        self.report.trace(|| format!("the daemon ends: {ending:?}"));
        // Clients read what has still come, and lose their transports.
        for who in 0..self.sdks.len() {
            self.with_sdk(who, Sdk::advance);
        }
        self.hear_listeners();
        self.poll_calls();
        self.oracle.end_start(&ending);
        let Kills { random, spoil, .. } = &mut self.kills;
        if let Some(disk) = &mut disk {
            let mut below = |bound: u64| random.below(bound as usize) as u64;
            if is_of_host {
                disk.lose_power(&mut below);
            }
            if is_damaged {
                disk.damage(&mut below);
            }
            disk.is_unsure = false;
            disk.errors.clear();
            if let Some(spoil) = spoil {
                spoil(random, disk);
            }
        }
        let pause_ms = *random.one_of(&[1, 40, 900, 5_000, 31_000, 130_000]);
        self.host.pass(Duration::from_millis(pause_ms));
        let shards = match random.chance(2) {
            true => self.drained.len(),
            false => 1 + random.below(4),
        };
        let salt = self.report.seed as u32 ^ self.kills.starts << 24;
        self.kills.starts += 1;
        let seed = self.kills.random.draw();
        let directory = self.directory();
        self.host.start(shards, seed, self.config.clone(), directory);
        self.drained = vec![false; shards];
        self.oracle.begin_start(self.host.series());
        self.report.trace(|| format!("it starts with {shards} shards"));
        if let Some(disk) = disk {
            self.host.keep_on(disk, &self.journal, salt);
            self.take_stock(&ending);
        }
        self.begin_told();
    }

    /// What the new start has is read before anybody else comes.
    fn take_stock(&mut self, ending: &Ending) {
        let channels: Vec<&str> = self.oracle.levels.keys().copied().collect();
        let (mut kept, mut histories) = (BTreeMap::new(), Vec::new());
        for channel in channels {
            let history = self.ask(channel, Call::history);
            let shown = publications(&mut self.oracle, channel, &history);
            let serials: BTreeSet<String> = shown.iter().map(|(it, _)| it.clone()).collect();
            kept.insert(channel, serials);
            histories.push((channel, history));
        }
        let retention_ms = self.config.history.persisted_retention.as_millis() as u64;
        let oldest_ms = self.host.now.unix_ms.saturating_sub(retention_ms) + 1000;
        self.oracle.take_stock(&kept, ending, oldest_ms);
        for (channel, history) in histories {
            self.take_history(channel, &history);
        }
    }
}
