//! What goes wrong, and what an operator does meanwhile.

use std::time::Duration;

use super::World;
use crate::sim::credentials::GRANTS_COUNT;
use crate::sim::disk::EIO;

impl World {
    /// The disk stalls, goes on, or fails once.
    fn disk_fault(&mut self) {
        match self.below(3) {
            0 => self.host.is_disk_stalled = true,
            1 => self.host.is_disk_stalled = false,
            _ => self.host.disk.iter_mut().for_each(|disk| disk.errors.push_back(Some(EIO))),
        }
    }

    /// Something goes wrong.
    pub(super) fn fault(&mut self) {
        if self.host.disk.is_some() && self.chance(4) {
            return self.disk_fault();
        }
        let who = self.below(self.sdks.len());
        match self.below(16) {
            0..=5 => self.with_sdk(who, |sdk, scene| sdk.lose(scene, true)),
            6 => self.with_sdk(who, |sdk, scene| sdk.lose(scene, false)),
            7..=8 => self.host.stalled.extend(self.sdks[who].socket()),
            9..=10 => self.host.stalled.clear(),
            11 => {
                let time_ms = *self.host.random.one_of(&[130, 900, 5_000, 16_000, 31_000, 130_000]);
                self.host.pass(Duration::from_millis(time_ms));
            }
            12 if !self.calls.is_empty() => {
                let at = self.below(self.calls.len());
                let call = self.calls.swap_remove(at);
                self.with_scene(|scene| call.lose(scene));
            }
            13 if self.plan.has_reloads => self.reload(),
            14 if self.plan.has_drain => self.drain(),
            15 if self.chance(4) => self.with_sdk(who, |sdk, scene| sdk.close(scene)),
            _ => self.with_sdk(who, |sdk, scene| sdk.lose(scene, true)),
        }
    }

    /// The configuration is read again: a key has gone, or is back.
    pub(super) fn reload(&mut self) {
        self.lost_key = match self.lost_key {
            Some(_) => None,
            None => Some(1 + self.below(GRANTS_COUNT - 1)),
        };
        let lost = self.lost_key;
        let directory = self.directory();
        self.host.shards[0].reload(0, &directory);
        self.report.trace(|| format!("reload without key {lost:?}"));
    }

    /// A shard sends its clients away; one at least goes on.
    fn drain(&mut self) {
        let shard = self.below(self.drained.len());
        let others = self.drained.iter().enumerate().filter(|(id, done)| *id != shard && !**done);
        if others.count() > 0 && !self.drained[shard] {
            let window = Duration::from_millis(*self.host.random.one_of(&[0, 50, 2_000]));
            self.drained[shard] = true;
            self.host.shards[shard].begin_turn(self.host.now);
            self.host.shards[shard].begin_drain(window);
            self.report.trace(|| format!("drain of shard {shard}"));
        }
    }
}
