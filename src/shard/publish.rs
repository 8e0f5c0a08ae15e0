//! From a publish to a channel at home here to the mail for everybody who subscribes to it.
//!
//! Whatever could stop an event is asked before it has its place in the order: a frame that exists is never
//! dropped.

use std::sync::Arc;

use super::encode::EncodedOnce;
use super::homes::Homes;
use super::mail::Append;
use super::owed::{self, DISK_IS_BEHIND};
use super::{Mail, ReturnAddress, Shard};
use crate::ably::{
    Accepted, Annotations, Counter, ErrorCode, ErrorInfo, Message, Messages, Metric, Metrics,
    Mutation, Position, PresenceMessage, Publication, PublishResult, RuleSource, no_such_message,
};
use crate::channel::ChannelKey;
use crate::channel::broadcast::Broadcast;
use crate::channel::home::{Annotated, HomeChannel, Published, Subscriber};
use crate::channel::kept::{ChosenIds, Kept};
use crate::channel::log::{Link, PublisherId};
use crate::channel::revisions::{Revised, SUMMARY_PAUSE_MS};

impl Shard {
    /// A publish for a channel that is at home here.
    pub(super) fn handle_publish(
        &mut self,
        reply_to: ReturnAddress,
        channel: ChannelKey,
        accepted: Accepted,
    ) {
        let key = channel;
        let result = match self.hold(reply_to, &key, accepted) {
            Ok(Some(accepted)) => self.publish_here(&key, accepted),
            Ok(None) => return,
            Err(error) => Err(error),
        };
        let ReturnAddress { shard, transport, request } = reply_to;
        self.post_of(&key, shard, Mail::Published { transport, request, result });
    }

    /// Publishes what no rule has to be asked about any more.
    pub(super) fn publish_here(
        &mut self,
        key: &ChannelKey,
        accepted: Accepted,
    ) -> Result<PublishResult, ErrorInfo> {
        self.check_room(key)?;
        self.check_subscribers(key)?;
        self.check_rules(key, RuleSource::Message)?;
        if !matches!(&accepted, Accepted::Messages(messages) if messages.is_ephemeral()) {
            self.check_journal(key)?;
        }
        match accepted {
            Accepted::Messages(messages) => Ok(self.publish_messages(key, messages)),
            Accepted::Mutation(mutation) => self.publish_mutation(key, &mutation),
            Accepted::Annotations(annotations) => self.publish_annotations(key, *annotations),
        }
    }

    fn publish_messages(&mut self, key: &ChannelKey, messages: Messages) -> PublishResult {
        let is_ephemeral = messages.is_ephemeral();
        let has_chosen_ids = messages.chosen_ids().next().is_some();
        let now = self.now;
        let published = self.homes.change(now, key, |home| home.publish(now, messages));
        let (publication, result, ids) = match published {
            Published::New(publication) => {
                let result = PublishResult::of(&publication);
                let ids = if has_chosen_ids { ChosenIds::First } else { ChosenIds::None };
                (publication, result, ids)
            }
            Published::Partly(publication, result) => (publication, result, ChosenIds::Each),
            Published::Repeated(result) => return result,
        };
        self.count_publication(key, &publication);
        if !is_ephemeral {
            self.keep(key, || Kept::Messages(Arc::clone(&publication), ids));
        }
        let event = Broadcast::Messages(publication);
        match is_ephemeral {
            true => self.broadcast_to_streams(key, &event),
            false => self.broadcast(key, &event),
        }
        result
    }

    fn publish_mutation(
        &mut self,
        key: &ChannelKey,
        mutation: &Mutation,
    ) -> Result<PublishResult, ErrorInfo> {
        let now = self.now;
        let revised = self.homes.change_known(now, key, |home| home.revise(now, mutation));
        let revised = revised.ok_or_else(no_such_message)??;
        self.count_publication(key, &revised.version);
        let result = PublishResult::of(&revised.version);
        let (version, replaced) = (Arc::clone(&revised.version), revised.replaced);
        self.keep(key, || Kept::Version { version, replaced });
        self.broadcast_revision(key, &revised);
        Ok(result)
    }

    fn publish_annotations(
        &mut self,
        key: &ChannelKey,
        annotations: Annotations,
    ) -> Result<PublishResult, ErrorInfo> {
        let has_chosen_id = annotations.chosen_id().is_some();
        let now = self.now;
        let annotated = self.homes.change_known(now, key, |home| home.annotate(now, annotations));
        let (publication, to_tell) = match annotated.ok_or_else(no_such_message)?? {
            Annotated::New { publication, to_tell } => (publication, to_tell),
            Annotated::Repeated(result) => return Ok(result),
        };
        let result = publication.result();
        self.keep(key, || Kept::Annotations(Arc::clone(&publication), has_chosen_id));
        self.broadcast(key, &Broadcast::Annotations(publication));
        for message in to_tell {
            self.tell_summary(key, message);
        }
        Ok(result)
    }

    /// Tells a message's summary, and lets the next one wait. This one waits, too, while a core is
    /// behind.
    fn tell_summary(&mut self, key: &ChannelKey, message: Position) {
        let now = self.now;
        let is_congested = self.check_subscribers(key).is_err();
        let summary = self.homes.change_known(now, key, |home| match is_congested {
            true => home.postpone_summary(message).then_some(None),
            false => home.tell_summary(now, message).map(Some),
        });
        // The message may be gone, or its channel.
        let Some(summary) = summary.flatten() else { return };
        let until_ms = now.mono_ms + SUMMARY_PAUSE_MS;
        self.homes.pause_summary(until_ms, key.clone(), message);
        if let Some(summary) = summary {
            self.broadcast(key, &Broadcast::Messages(summary));
        }
    }

    /// Tells the summaries that had to wait.
    pub(super) fn tell_summaries(&mut self) {
        while let Some((key, message)) = self.homes.pop_summary_pause(self.now.mono_ms) {
            let Some(home) = self.homes.get_mut(&key) else { continue };
            if home.summary_pause_over(message) {
                self.tell_summary(&key, message);
            }
        }
    }

    /// Sends a new version of a message to all streams; of an append those get the whole message who
    /// have asked for that, and the others learn from the stream which of both they need.
    fn broadcast_revision(&mut self, key: &ChannelKey, revised: &Revised) {
        let whole = Broadcast::Messages(Arc::clone(&revised.version));
        let Some(increment) = &revised.increment else {
            return self.broadcast(key, &whole);
        };
        if !self.taps.is_empty() {
            self.tap(key, &whole);
        }
        let Homes { channels, encoder, deflating, keeping, .. } = &mut self.homes;
        let Some(home) = channels.get_mut(key) else { return };
        let mut owed = keeping.as_mut().and_then(|keeping| keeping.owing.of_event(home, &whole));
        let increment = Broadcast::Messages(Arc::clone(increment));
        let (serial, has_members) = (whole.serial(), home.has_members());
        let publisher = whole.connection_id().and_then(PublisherId::of);
        let mut wholes = EncodedOnce::new(&whole, home, encoder);
        let mut increments = EncodedOnce::without_deltas(&increment, home);
        for subscriber in home.subscribers() {
            let Subscriber { view, stream, shard, .. } = subscriber;
            let stream = *stream;
            let increment =
                if view.whole_appends { None } else { increments.frame(subscriber, deflating) };
            let mail = match increment {
                Some((frame, _)) => Mail::Append(Box::new(Append {
                    stream,
                    serial,
                    publisher,
                    has_members,
                    frame,
                    version: Arc::clone(&revised.version),
                    whole: revised.whole,
                })),
                // Nothing of it is for those who want increments and get none.
                None => {
                    let frame = wholes.frame(subscriber, deflating).filter(|_| view.whole_appends);
                    let (frame, link) = frame.unzip();
                    let link: Link = link.unwrap_or_default();
                    Mail::Frame { stream, serial, publisher, has_members, frame, link }
                }
            };
            owed::send(&mut self.outboxes, &mut owed, *shard, mail);
        }
        let occupancy = home.occupancy();
        self.count_deliveries(key, &increment, &occupancy);
        self.hook(key, &increment);
    }

    /// Whether every core that subscribes to the channel keeps up, and the disk that it waits for. Events are
    /// refused before they have a place in the order: a frame that exists is never dropped.
    pub(super) fn check_subscribers(&self, key: &ChannelKey) -> Result<(), ErrorInfo> {
        let subscribers = self.homes.get(key).map_or(&[][..], HomeChannel::subscribers);
        let congested = |subscriber: &Subscriber| {
            subscriber.shard != self.id
                && self.outboxes[usize::from(subscriber.shard)].is_full(self.config.mail_max)
        };
        if subscribers.iter().any(congested) {
            let text = "a core that subscribes to this channel is behind; try again";
            return Err(ErrorInfo::new(ErrorCode::BUSY, text));
        }
        let burst_bytes_max = self.burst_bytes_max();
        let keeping = self.homes.keeping.as_ref();
        if keeping.is_some_and(|keeping| !keeping.owing.has_room(key, burst_bytes_max)) {
            return Err(ErrorInfo::new(ErrorCode::BUSY, DISK_IS_BEHIND));
        }
        Ok(())
    }

    /// Whether the channel is open or may be.
    pub(super) fn check_room(&self, key: &ChannelKey) -> Result<(), ErrorInfo> {
        if self.homes.has_room(key, self.config.channels_max) {
            return Ok(());
        }
        let text = "as many channels are open as may be; try again when others have ended";
        Err(ErrorInfo::new(ErrorCode::CHANNEL_CREATION_RATE, text))
    }

    /// Sends an event of a channel that is at home here to all streams, and to its rules.
    pub(super) fn broadcast(&mut self, key: &ChannelKey, event: &Broadcast) {
        self.broadcast_to_streams(key, event);
        self.hook(key, event);
    }

    /// Sends an event to all streams; those that do not want it learn its serial alone.
    pub(super) fn broadcast_to_streams(&mut self, key: &ChannelKey, event: &Broadcast) {
        if !self.taps.is_empty() {
            self.tap(key, event);
        }
        let Homes { channels, encoder, deflating, keeping, .. } = &mut self.homes;
        let Some(home) = channels.get_mut(key) else { return };
        let mut owed = keeping.as_mut().and_then(|keeping| keeping.owing.of_event(home, event));
        let (serial, has_members) = (event.serial(), home.has_members());
        let publisher = event.connection_id().and_then(PublisherId::of);
        let mut encoded = EncodedOnce::new(event, home, encoder);
        for subscriber in home.subscribers() {
            let (frame, link) = encoded.frame(subscriber, deflating).unzip();
            let (stream, link) = (subscriber.stream, link.unwrap_or_default());
            let mail = Mail::Frame { stream, serial, publisher, has_members, frame, link };
            owed::send(&mut self.outboxes, &mut owed, subscriber.shard, mail);
        }
        let occupancy = home.occupancy();
        self.count_deliveries(key, event, &occupancy);
        if let Broadcast::Presence(_) = event {
            self.occupancy_changed(key);
        }
    }

    /// Counts what was published at home here.
    fn count_publication(&mut self, key: &ChannelKey, publication: &Publication) {
        let messages = publication.messages.len() as u64;
        let bytes: u64 = publication.messages.iter().map(Message::size_bytes).sum();
        let (count, data) = match publication.connection_id {
            Some(_) => (Counter::InboundRealtimeMessages, Counter::InboundRealtimeMessageBytes),
            None => (Counter::InboundRestMessages, Counter::InboundRestMessageBytes),
        };
        let tally = self.stats.of(key.app_id(), self.now.unix_ms);
        tally.add(count, messages);
        tally.add(data, bytes);
        self.counters.published += messages;
        self.histograms.publication_bytes.observe(bytes);
    }

    /// Counts what an event comes to when it has reached all who were attached when it got its place.
    fn count_deliveries(&mut self, key: &ChannelKey, event: &Broadcast, occupancy: &Metrics) {
        let tally = self.stats.of(key.app_id(), self.now.unix_ms);
        match event {
            Broadcast::Messages(publication) => {
                let subscribers = u64::from(occupancy.get(Metric::Subscribers));
                let bytes: u64 = publication.messages.iter().map(Message::size_bytes).sum();
                let messages = publication.messages.len() as u64;
                tally.add(Counter::OutboundRealtimeMessages, messages * subscribers);
                tally.add(Counter::OutboundRealtimeMessageBytes, bytes * subscribers);
            }
            Broadcast::Presence(events) => {
                let subscribers = u64::from(occupancy.get(Metric::PresenceSubscribers));
                let size = |message: &Arc<PresenceMessage>| message.data.size_bytes();
                let bytes: u64 = events.messages.iter().map(size).sum();
                let messages = events.messages.len() as u64;
                // What the server made up nobody has sent.
                if events.id.is_some() {
                    tally.add(Counter::InboundRealtimePresence, messages);
                    tally.add(Counter::InboundRealtimePresenceBytes, bytes);
                }
                tally.add(Counter::OutboundRealtimePresence, messages * subscribers);
                tally.add(Counter::OutboundRealtimePresenceBytes, bytes * subscribers);
            }
            // Not among what is told.
            Broadcast::Annotations(_) => {}
        }
    }
}
