//! A channel whose events outlive the process: how it goes on after a restart, and without what could not be
//! kept.

use std::sync::Arc;

use super::HomeChannel;
use super::ids::{Ids, Used};
use crate::ably::{ChannelSerial, Publication, SerialClock, SeriesId};
use crate::base::Now;
use crate::channel::history::History;
use crate::channel::kept::{ChosenIds, Kept};

/// What is known of events of a channel that outlive the process.
#[derive(Clone, Debug)]
pub struct Durable {
    /// The starts of the daemon whose serials are understood.
    pub series: Arc<[SeriesId]>,
    /// What lies before it is gone.
    pub floor: ChannelSerial,
}

impl HomeChannel {
    /// A channel that begins again: its order goes on behind `newest`, the newest of its events that are
    /// kept elsewhere.
    #[must_use]
    pub fn with_durable(
        mut self,
        now: Now,
        durable: Durable,
        newest: Option<ChannelSerial>,
    ) -> HomeChannel {
        if let Some(newest) = newest {
            self.clock = SerialClock::behind(self.last_serial.series(), newest);
            self.first_serial = self.clock.next(now.unix_ms);
            self.last_serial = self.first_serial;
        }
        self.dropped = newest.into_iter().chain([durable.floor]).max();
        self.durable = Some(Box::new(durable));
        self
    }

    /// Takes the newest of its events back that are kept elsewhere, oldest first; `is_complete` tells that
    /// these are all. Nothing has happened since it began again.
    pub fn restore(&mut self, now: Now, events: Vec<Kept>, is_complete: bool) {
        let (Some(first), Some(durable)) = (events.first(), &self.durable) else { return };
        let first = first.serial().preceding();
        self.dropped = Some(if is_complete { durable.floor } else { first.max(durable.floor) });
        for event in events {
            match event {
                Kept::Messages(publication, ids) => {
                    self.remember_restored(now, &publication, ids);
                    self.history.push(publication);
                }
                Kept::Version { version, replaced } => {
                    if let Some(replaced) = replaced {
                        self.history.remove(replaced);
                    }
                    if let Some(first) = self.history.find(version.position(0)) {
                        let revisions = self.revisions.get_or_insert_default();
                        revisions.restore(first, &version, replaced);
                    }
                    self.history.push(version);
                }
                Kept::Annotations(publication, has_chosen_id) => {
                    let messages = publication.annotations.iter().map(|it| it.message);
                    if !{ messages }.all(|message| self.history.find(message).is_some()) {
                        continue;
                    }
                    self.revisions.get_or_insert_default().annotate(&publication);
                    let id = publication.annotations[0].id.as_deref();
                    if let Some(id) = id.filter(|_| has_chosen_id) {
                        let count = publication.annotations.len();
                        let used = Used::new(publication.position(0), count, &publication.id);
                        let id = Ids::of_annotation(id);
                        self.ids.remember_since(now, publication.timestamp_ms, id, used);
                    }
                }
            }
        }
    }

    /// Remembers the ids that clients chose of events that are kept elsewhere and can be read, where others
    /// beside them cannot, so that none of these is published twice.
    pub fn restore_ids(&mut self, now: Now, events: Vec<Kept>) {
        for event in events {
            if let Kept::Messages(publication, ids) = event {
                self.remember_restored(now, &publication, ids);
            }
        }
    }

    /// Forgets what has got its place from `serial` on: it has not happened, and nobody was told of it. The
    /// order goes on behind it all the same. True: what has become of messages cannot be told apart from
    /// that, and nothing of the past is in memory any more; it is to be [restored](Self::restore).
    pub fn take_back(&mut self, serial: ChannelSerial) -> bool {
        self.history.cut(serial);
        if let Some(chain) = &mut self.chain {
            chain.forget_base();
        }
        let has_changed = self.revisions.take().is_some();
        if has_changed {
            self.history = History::default();
            self.ids = Ids::default();
            self.dropped = Some(serial.preceding());
        } else {
            self.ids.forget_from(serial);
        }
        has_changed
    }

    /// Whether nothing of its past is in memory.
    pub fn has_nothing(&self) -> bool {
        self.history.is_empty() && self.revisions.is_none()
    }

    fn remember_restored(&mut self, now: Now, publication: &Publication, ids: ChosenIds) {
        let (at_ms, id) = (publication.timestamp_ms, &publication.id);
        let count = publication.messages.len();
        let together = match ids {
            ChosenIds::None => return,
            ChosenIds::First => count,
            ChosenIds::Each => 1,
        };
        for (index, message) in publication.messages.iter().enumerate().step_by(together) {
            if let Some(own) = &message.id {
                let used = Used::new(publication.position(index), together, id);
                self.ids.remember_since(now, at_ms, own.clone(), used);
            }
        }
    }

    /// Whether its events outlive the process.
    pub fn is_durable(&self) -> bool {
        self.durable.is_some()
    }

    /// Notes that nothing is kept elsewhere any more of what lies before `floor`.
    pub fn raise_floor(&mut self, floor: ChannelSerial) {
        if let Some(durable) = &mut self.durable {
            durable.floor = durable.floor.max(floor);
        }
    }
}
