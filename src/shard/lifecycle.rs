//! What happens to channels and connections, told on the metachannels of their app (6.11).
//!
//! Only while somebody listens: the home of a metachannel tells every shard when its first subscriber
//! comes and its last one goes, and a shard notes events of apps with listeners alone. What happens
//! before that news arrives is not told. Events go to the metachannel's home once a turn and get their
//! place there like any publish.

use std::collections::HashSet;

use super::{Mail, Shard};
use crate::ably::{Identity, Lifecycle, LifecycleEvent, MESSAGES_MAX, Messages};
use crate::base::{Level, LogLine};
use crate::channel::ChannelKey;
use crate::channel::broadcast::Broadcast;
use crate::channel::home::{HomeChannel, Published};
use crate::connection::Connection;

/// Events of one publication.
const EVENTS_MAX: usize = 100;

const _: () = assert!(EVENTS_MAX <= MESSAGES_MAX, "a publication holds them");

/// See the module text.
#[derive(Default)]
pub(super) struct Lifecycles {
    /// Apps with listeners, by [`Lifecycle`].
    heard: [HashSet<Box<str>>; Lifecycle::ALL.len()],
    /// What has happened this turn, each with its metachannel.
    pub events: Vec<(ChannelKey, LifecycleEvent)>,
}

impl Lifecycles {
    fn is_heard(&self, app_id: &str, kind: Lifecycle) -> bool {
        self.heard[kind as usize].contains(app_id)
    }

    fn note(&mut self, app_id: &str, event: LifecycleEvent) {
        let metachannel = ChannelKey::new(app_id, event.kind().channel_name());
        self.events.push((metachannel, event));
    }

    /// A connection is opened, or is gone for good.
    pub fn note_connection(&mut self, connection: &Connection, is_open: bool) {
        let app_id = connection.app_id();
        if !self.is_heard(app_id, Lifecycle::Connections) {
            return;
        }
        let client_id = match connection.principal().identity() {
            Identity::Client(client_id) => Some(client_id.clone()),
            Identity::Anonymous | Identity::Wildcard => None,
        };
        let id = connection.id().as_str().into();
        self.note(app_id, LifecycleEvent::Connection { id, client_id, is_open });
    }

    /// A channel has become active at its home, or was forgotten there; `home` is it now, if it is there.
    pub fn note_channel(&mut self, key: &ChannelKey, is_active: bool, home: Option<&HomeChannel>) {
        // One would tell of itself, and of the others nobody asks.
        let is_metachannel = key.name().starts_with('[');
        if is_metachannel || !self.is_heard(key.app_id(), Lifecycle::Channels) {
            return;
        }
        let metrics = home.map(HomeChannel::occupancy).unwrap_or_default();
        let name = key.name().into();
        self.note(key.app_id(), LifecycleEvent::Channel { name, is_active, metrics });
    }
}

impl Shard {
    /// The home of a metachannel has got its first subscriber, or lost its last one: every shard is
    /// told.
    pub(super) fn listeners_changed(&mut self, channel: &ChannelKey, is_heard: bool) {
        let Some(kind) = Lifecycle::of(channel.name()) else { return };
        for to in 0..self.shards {
            self.post(to, Mail::Listeners { app_id: channel.app_id().into(), kind, is_heard });
        }
    }

    /// An app has listeners, or has none any more.
    pub(super) fn handle_listeners(&mut self, app_id: Box<str>, kind: Lifecycle, is_heard: bool) {
        let heard = &mut self.lifecycles.heard[kind as usize];
        match is_heard {
            true => heard.insert(app_id),
            false => heard.remove(&app_id),
        };
    }

    /// Sends what has happened this turn to the metachannels, each in the order in which it did.
    pub(super) fn tell_lifecycles(&mut self) {
        let mut noted = std::mem::take(&mut self.lifecycles.events);
        noted.sort_by(|(one, _), (other, _)| one.cmp(other));
        let mut left_out = 0;
        let of_channels = noted.chunk_by(|(one, _), (other, _)| one == other);
        for part in of_channels.flat_map(|of_channel| of_channel.chunks(EVENTS_MAX)) {
            let channel = part[0].0.clone();
            if self.congestion(&channel).is_some() {
                // Nobody waits who could be refused.
                left_out += part.len();
                continue;
            }
            let events = part.iter().map(|(_, event)| event.clone()).collect();
            self.post(channel.home(self.shards), Mail::Lifecycle { channel, events });
        }
        self.log_left_out(left_out);
    }

    /// Something has happened of which a metachannel that is at home here tells.
    pub(super) fn handle_lifecycle(&mut self, channel: &ChannelKey, events: &[LifecycleEvent]) {
        let now = self.now;
        let Some(home) = self.homes.get_mut(channel) else { return };
        // The last listener has gone meanwhile.
        if home.subscribers().is_empty() {
            return;
        }
        // As unique as the serials of the channel are.
        let id = format!("lifecycle:{}", home.last_serial());
        let messages = events.iter().map(LifecycleEvent::message).collect();
        if self.check_subscribers(channel).is_err() {
            return self.log_left_out(events.len());
        }
        let messages = Messages::of_server(&id, messages);
        let published = self.homes.change(now, channel, |home| home.publish(now, messages));
        if let Published::New(publication) = published {
            // Rules have sources of their own for it.
            self.broadcast_to_streams(channel, &Broadcast::Messages(publication));
        }
    }

    fn log_left_out(&mut self, count: usize) {
        if count > 0 {
            let line = LogLine::new(Level::Warn, "lifecycle events left out: a core is behind");
            self.log_line(line.with("count", count));
        }
    }
}
