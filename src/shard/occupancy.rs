//! Occupancy (6.9): every shard counts its attachments by stream and tells the channel's home once a
//! turn; the home adds up, and tells the subscribers that asked.

use bytes::Bytes;

use super::encode::frame;
use super::{Mail, Shard};
use crate::ably::{self, Category, Format, Metrics, Modes, RuleSource};
use crate::channel::ChannelKey;
use crate::channel::home::{HomeChannel, StreamRef};
use crate::channel::log::Link;

/// How long a change waits for others before it is told, unless it is to or from zero; milliseconds.
const DEBOUNCE_MS: u64 = 5000;

impl Shard {
    /// Notes that an attachment to a stream has `before` given way to `after`; `None`: there was, or is,
    /// none.
    pub(super) fn count_attachment(
        &mut self,
        stream_index: u32,
        before: Option<Modes>,
        after: Option<Modes>,
    ) {
        if before == after {
            return;
        }
        let stream = self.streams.at(stream_index);
        if let Some(modes) = after {
            stream.metrics.add(&Metrics::of_attachment(modes));
        }
        if let Some(modes) = before {
            stream.metrics.subtract(&Metrics::of_attachment(modes));
        }
        if !stream.is_uncounted {
            stream.is_uncounted = true;
            self.uncounted.push(stream_index);
        }
    }

    /// Tells the homes of what has changed this turn.
    pub(super) fn report_counts(&mut self) {
        for index in std::mem::take(&mut self.uncounted) {
            // Streams that are gone were taken from the count when they were unsubscribed.
            let Some((stream, reference)) = self.streams.get_with_reference(index) else {
                continue;
            };
            if !std::mem::take(&mut stream.is_uncounted) {
                continue;
            }
            let (channel, metrics) = (stream.name.channel.clone(), stream.metrics);
            let home = channel.home(self.shards);
            self.post(home, Mail::Counts { channel, stream: reference, metrics });
        }
    }

    /// A shard has counted the attachments to one of its streams.
    pub(super) fn handle_counts(
        &mut self,
        shard: u16,
        channel: &ChannelKey,
        stream: StreamRef,
        metrics: Metrics,
    ) {
        if let Some(home) = self.homes.get_mut(channel) {
            home.count(shard, stream, metrics);
            self.occupancy_changed(channel);
        }
    }

    /// The numbers of a channel may have changed: tells so now or later, if somebody has asked.
    pub(super) fn occupancy_changed(&mut self, channel: &ChannelKey) {
        let now_ms = self.now.mono_ms;
        let is_hooked = self.is_told(channel, RuleSource::Occupancy);
        let Some(home) = self.homes.get_mut(channel) else { return };
        let metrics = home.occupancy();
        let told_rules = is_hooked.then(|| home.told_rules());
        let told = home.watch().map(|watch| watch.told);
        let is_at_once =
            |told: &Option<Metrics>| told.is_some_and(|told| metrics.crosses_zero(&told));
        let (subscribers_now, rules_now) = (is_at_once(&told), is_at_once(&told_rules));
        // What is told at once does not wait as well.
        let waits = |told: Option<Metrics>, is_now: bool| {
            !is_now && told.is_some_and(|told| told != metrics)
        };
        let waits = waits(told, subscribers_now) || waits(told_rules, rules_now);
        if waits && !home.set_occupancy_due(true) {
            self.occupancy_due.push_back((now_ms + DEBOUNCE_MS, channel.clone()));
        }
        if subscribers_now {
            self.tell_occupancy(channel);
        }
        if rules_now {
            self.hook_occupancy(channel);
        }
    }

    /// Tells of the changes that have waited long enough.
    pub(super) fn tell_due_occupancy(&mut self) {
        let now_ms = self.now.mono_ms;
        while let Some((_, channel)) = self.occupancy_due.pop_front_if(|(due, _)| *due <= now_ms) {
            if let Some(home) = self.homes.get_mut(&channel) {
                home.set_occupancy_due(false);
                self.tell_occupancy(&channel);
                self.hook_occupancy(&channel);
            }
        }
    }

    /// Sends the numbers to every subscriber that wants one which has changed.
    fn tell_occupancy(&mut self, channel: &ChannelKey) {
        let now_ms = self.now.unix_ms;
        let Some(home) = self.homes.get_mut(channel) else { return };
        let metrics = home.occupancy();
        let Some(watch) = home.watch() else { return };
        let told = std::mem::replace(&mut watch.told, metrics);
        let (serial, has_members) = (home.last_serial(), home.has_members());
        let mut frames: Vec<((Format, &str, Category), Bytes)> = Vec::new();
        let mut letters = Vec::new();
        for subscriber in home.subscribers() {
            let Some(category) = subscriber.view.occupancy else { continue };
            if !metrics.differs(&told, category) {
                continue;
            }
            let key = (subscriber.format, &*subscriber.display_name, category);
            let known = frames.iter().find(|(known, _)| *known == key);
            let frame = known.map(|(_, frame)| frame.clone()).unwrap_or_else(|| {
                let frame = occupancy_frame(home, key, now_ms);
                frames.push((key, frame.clone()));
                frame
            });
            // It becomes what clients apply the next delta to, and cannot be that for all of them.
            let mail = Mail::Frame {
                stream: subscriber.stream,
                serial,
                publisher: None,
                has_members,
                frame: Some(frame),
                link: Link::Break,
            };
            letters.push((subscriber.shard, mail));
        }
        for (shard, mail) in letters {
            self.post_of(channel, shard, mail);
        }
    }
}

/// The complete WebSocket frame of an occupancy event with the numbers as they are.
pub(super) fn occupancy_frame(
    home: &HomeChannel,
    (format, display_name, category): (Format, &str, Category),
    now_ms: u64,
) -> Bytes {
    let metrics = home.occupancy();
    let id = format!("occupancy:{}:{now_ms}", home.last_serial());
    let write = |out: &mut Vec<u8>| {
        ably::encode_occupancy(format, display_name, &id, now_ms, &metrics.to_json(category), out);
    };
    frame(format, 0, write)
}
