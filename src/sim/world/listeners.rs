//! Clients that listen over HTTP: what happens to them, and when they come back.

use super::World;
use crate::sim::credentials::MUTABLE;
use crate::sim::listener::Listener;
use crate::sim::sdk::{Link, Scene};

/// The number by which findings call the first listener, among clients.
const FIRST_LISTENER: usize = 100;

impl World {
    /// The run has listeners, if it is to.
    pub(super) fn begin_listeners(&mut self) {
        let count = self.repertoire.listeners();
        let mut bases = self.bases.to_vec();
        bases.extend(self.repertoire.has_changes.then_some(MUTABLE));
        let listener =
            |at| self.with_scene(|scene| Listener::new(FIRST_LISTENER + at, scene, &bases));
        self.listeners = (0..count).map(listener).collect();
    }

    /// Something happens to one of them, now and then.
    pub(super) fn disturb_listeners(&mut self) {
        let count = self.listeners.len();
        let random = &mut self.repertoire.random;
        if count == 0 || !random.chance(6) {
            return;
        }
        let (who, act) = (random.below(count), random.below(4));
        match act {
            0 => self.host.stalled.extend(self.listeners[who].socket()),
            act => self.with_listener(who, |listener, scene| listener.lose(scene, act > 1)),
        }
    }

    fn with_listener(&mut self, at: usize, act: impl FnOnce(&mut Listener, &mut Scene<'_>)) {
        let World { host, oracle, report, repertoire, listeners, .. } = self;
        act(&mut listeners[at], &mut Scene { host, oracle, report, repertoire });
    }

    /// They read what has come.
    pub(super) fn hear_listeners(&mut self) {
        for who in 0..self.listeners.len() {
            self.with_listener(who, Listener::advance);
        }
    }

    /// They read, and those come back whose time it is.
    pub(super) fn advance_listeners(&mut self) {
        self.hear_listeners();
        let now_ms = self.host.now.mono_ms;
        for who in 0..self.listeners.len() {
            let link = self.listeners[who].link;
            if matches!(link, Link::Down { until_ms } if until_ms <= now_ms) {
                let open: Vec<usize> =
                    (0..self.drained.len()).filter(|&id| !self.drained[id]).collect();
                let shard = *self.repertoire.random.one_of(&open);
                self.with_listener(who, |listener, scene| listener.connect(scene, shard));
            }
        }
    }

    /// They have been sent everything.
    pub(super) fn complete_listeners(&mut self) {
        for segment in self.listeners.iter().flat_map(Listener::segments) {
            self.oracle.complete(segment);
        }
    }

    /// They go, and do not come back.
    pub(super) fn dismiss_listeners(&mut self) {
        for who in 0..self.listeners.len() {
            self.with_listener(who, |listener, scene| {
                listener.lose(scene, false);
                listener.link = Link::Ended;
            });
        }
    }
}
