//! A channel on its home core: the one place that gives its publications their order.
//!
//! What those are told of its past who join is in `past.rs`; how it goes on after a restart, or without what
//! could not be kept, in `restore.rs`.

mod ids;
mod past;
mod restore;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use self::ids::{Ids, Used};
use super::ChannelKey;
use super::chain::Chain;
use super::history::History;
use super::presence::{Members, Presence, PresenceConfig};
use super::revisions::{Revised, Revisions};
use super::view::View;
use crate::ably::{
    Annotations, AnnotationsPublication, ChannelSerial, ErrorInfo, Filter, Format, Messages,
    Metric, Metrics, Mutation, Position, PresenceEvents, PresenceMessage, PresenceRequest,
    Publication, PublishResult, Rule, SerialClock, SeriesId, Subject, no_such_message,
};
use crate::base::Now;

pub use self::past::{Older, OlderWanted};
pub use self::restore::Durable;

/// Distinct filters that one channel applies to every message; the attach that brings one more is
/// refused.
pub const FILTERS_MAX: usize = 64;

/// A subscribing core's name for the frames of one channel in one format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamRef {
    /// Index into the core's streams.
    pub index: u32,
    /// Counts the uses of the index, so that a late frame does not reach the next one.
    pub generation: u32,
}

/// A core that wants this channel's frames.
#[derive(Clone, Debug)]
pub struct Subscriber {
    /// The shard.
    pub shard: u16,
    /// In which format.
    pub format: Format,
    /// What of the channel it is sent.
    pub view: View,
    /// What its clients call the channel.
    pub display_name: Arc<str>,
    /// What it calls them.
    pub stream: StreamRef,
    /// Its attachments, as it has last counted them.
    pub metrics: Metrics,
}

/// What subscribers to occupancy were told; kept while there are any.
pub struct Watch {
    subscribers: u32,
    /// The numbers last told.
    pub told: Metrics,
}

/// What became of a publish that was accepted.
pub enum Published {
    /// It is in the channel's order now and is to be delivered.
    New(Arc<Publication>),
    /// What of it was not published before is, and is to be delivered; this is the result of all of it.
    Partly(Arc<Publication>, PublishResult),
    /// It was published before, with this result; nothing is delivered.
    Repeated(PublishResult),
}

/// What became of annotations that were accepted.
pub enum Annotated {
    /// They are in the channel's order now and are to be delivered.
    New {
        /// To be delivered.
        publication: Arc<AnnotationsPublication>,
        /// The messages whose summaries are to be told behind it.
        to_tell: Vec<Position>,
    },
    /// They were published before, with this result; nothing is delivered.
    Repeated(PublishResult),
}

/// See the module text.
pub struct HomeChannel {
    key: ChannelKey,
    /// Those that are told of its events; most channels have none.
    rules: Box<[Arc<Rule>]>,
    /// Counts changes of the rules, up to the one that it knows of.
    rules_version: u32,
    clock: SerialClock,
    /// Of the newest publication, or of the channel's beginning.
    last_serial: ChannelSerial,
    history: History,
    /// How long what happens here is kept.
    retention: Duration,
    /// Of the newest event that was kept and is not any more: what lies behind it is all here.
    dropped: Option<ChannelSerial>,
    subscribers: Vec<Subscriber>,
    /// What has become of the messages; `None` while nothing has.
    revisions: Option<Box<Revisions>>,
    /// What was published lately under ids that clients chose.
    ids: Ids,
    /// Where the order begins: nothing is known of what lies before it.
    first_serial: ChannelSerial,
    /// Until when somebody may come back and ask for what was missed, on the monotonic clock.
    kept_until_ms: u64,
    /// The attachments of all subscribers.
    attached: Metrics,
    /// While somebody wants to hear of occupancy.
    watch: Option<Box<Watch>>,
    /// The numbers that rules about occupancy were told last; `None` before the first time.
    told_rules: Option<Box<Metrics>>,
    /// Whether a change of occupancy waits to be told; also when nobody wants to hear of it any more, so
    /// that a channel waits once.
    is_occupancy_due: bool,
    /// The tick in which it is looked at next, whether something of it has run out; 0: none.
    look: u32,
    /// While there are subscribers with deltas.
    chain: Option<Box<Chain>>,
    /// The distinct filters of subscribers, with how many have them.
    filters: Vec<(Arc<str>, Filter, u32)>,
    /// Most channels have no members, and never had.
    presence: Option<Box<Presence>>,
    /// Of a channel whose events outlive the process.
    durable: Option<Box<Durable>>,
}

impl HomeChannel {
    /// A channel that begins now and keeps its past for `retention`. `series` is unique to this start
    /// of the daemon.
    pub fn new(now: Now, key: ChannelKey, series: SeriesId, retention: Duration) -> HomeChannel {
        let mut clock = SerialClock::new(series);
        let first_serial = clock.next(now.unix_ms);
        HomeChannel {
            key,
            rules: Box::default(),
            rules_version: 0,
            clock,
            last_serial: first_serial,
            first_serial,
            kept_until_ms: 0,
            attached: Metrics::default(),
            watch: None,
            told_rules: None,
            is_occupancy_due: false,
            look: 0,
            chain: None,
            filters: Vec::new(),
            history: History::default(),
            retention,
            dropped: None,
            revisions: None,
            subscribers: Vec::new(),
            ids: Ids::default(),
            presence: None,
            durable: None,
        }
    }

    /// The rules that are told of the channel's events. It `find`s them where they have changed since it
    /// was asked last; `version` counts changes from 1.
    pub fn rules(
        &mut self,
        version: u32,
        find: impl FnOnce(&ChannelKey) -> Box<[Arc<Rule>]>,
    ) -> &[Arc<Rule>] {
        if self.rules_version != version {
            self.rules_version = version;
            self.rules = find(&self.key);
        }
        &self.rules
    }

    /// Which channel this is.
    pub fn key(&self) -> &ChannelKey {
        &self.key
    }

    /// Of the newest publication, or of the channel's beginning.
    pub fn last_serial(&self) -> ChannelSerial {
        self.last_serial
    }

    /// Who gets the frames.
    pub fn subscribers(&self) -> &[Subscriber] {
        &self.subscribers
    }

    /// Whether anybody is present.
    pub fn has_members(&self) -> bool {
        self.presence.as_ref().is_some_and(|presence| !presence.members.is_empty())
    }

    /// Bytes of history, with that of presence and with what has become of the messages.
    pub fn history_bytes(&self) -> u64 {
        let presence_bytes = self.presence.as_ref().map_or(0, |known| known.history.bytes());
        let revisions_bytes = self.revisions.as_ref().map_or(0, |known| known.bytes());
        self.history.bytes() + presence_bytes + revisions_bytes
    }

    /// Gives messages their place in the order. `trim` has been called this turn.
    pub fn publish(&mut self, now: Now, messages: Messages) -> Published {
        let ids: Vec<Box<str>> = messages.chosen_ids().map(Box::from).collect();
        let before: Vec<_> = ids.iter().map(|id| self.ids.published(id)).collect();
        if before.iter().any(Option::is_some) {
            return self.publish_again(now, messages, ids, &before);
        }
        let publication = self.publish_new(now, messages);
        if let Some(id) = ids.into_iter().next() {
            let count = publication.messages.len();
            let used = Used::new(publication.position(0), count, &publication.id);
            self.ids.remember(now, id, used);
        }
        Published::New(publication)
    }

    /// Whether all these messages were published before, so that doing so again changes nothing.
    pub fn has_published(&self, messages: &Messages) -> bool {
        let mut ids = messages.chosen_ids().peekable();
        ids.peek().is_some() && ids.all(|id| self.ids.published(id).is_some())
    }

    fn publish_new(&mut self, now: Now, messages: Messages) -> Arc<Publication> {
        let ephemeral = messages.is_ephemeral();
        let serial = self.next_serial(now);
        let publication = Arc::new(messages.into_publication(serial, now.unix_ms));
        if !ephemeral {
            self.history.push(Arc::clone(&publication));
        }
        publication
    }

    /// The same for messages of which some were published before, as `before` says: the others are
    /// published, each to be recognised by itself.
    fn publish_again(
        &mut self,
        now: Now,
        messages: Messages,
        ids: Vec<Box<str>>,
        before: &[Option<(Position, Box<str>)>],
    ) -> Published {
        let (_, publication_id) = before.iter().flatten().next().expect("some were");
        let mut positions: Vec<_> =
            before.iter().map(|known| known.as_ref().map(|at| at.0)).collect();
        let mut publication = None;
        if positions.iter().any(Option::is_none) {
            let new = self.publish_new(now, messages.without(|index| before[index].is_some()));
            let unknown = positions.iter_mut().zip(ids).filter(|(position, _)| position.is_none());
            for ((position, id), index) in unknown.zip(0..) {
                let own = new.position(index);
                *position = Some(own);
                self.ids.remember(now, id, Used::new(own, 1, &new.id));
            }
            publication = Some(new);
        }
        let result = PublishResult::of_positions(publication_id, positions.into_iter().flatten());
        match publication {
            Some(publication) => Published::Partly(publication, result),
            None => Published::Repeated(result),
        }
    }

    /// Gives a change to a message its place in the order.
    ///
    /// # Errors
    /// 40400: there is no such message; those of [`Mutation::apply`].
    pub fn revise(&mut self, now: Now, mutation: &Mutation) -> Result<Revised, ErrorInfo> {
        let first = self.history.find(mutation.message()).ok_or_else(no_such_message)?;
        let (clock, last_serial) = (&mut self.clock, &mut self.last_serial);
        let serial = || {
            *last_serial = clock.next(now.unix_ms);
            *last_serial
        };
        let revisions = self.revisions.get_or_insert_default();
        let revised = revisions.revise(now, first, mutation, serial)?;
        if let Some(replaced) = revised.replaced {
            self.history.remove(replaced);
        }
        self.history.push(Arc::clone(&revised.version));
        Ok(revised)
    }

    /// Gives annotations their place in the order.
    ///
    /// # Errors
    /// 40400: there is no such message; 40000: one has as many annotations as it may have.
    pub fn annotate(&mut self, now: Now, annotations: Annotations) -> Result<Annotated, ErrorInfo> {
        let chosen_id = annotations.chosen_id().map(Ids::of_annotation);
        if let Some(before) = chosen_id.as_deref().and_then(|id| self.ids.result(id)) {
            return Ok(Annotated::Repeated(before));
        }
        for annotation in annotations.iter() {
            self.history.find(annotation.message).ok_or_else(no_such_message)?;
            self.revisions.as_ref().map_or(Ok(()), |revisions| revisions.check(annotation))?;
        }
        let serial = self.next_serial(now);
        let publication = Arc::new(annotations.into_publication(serial, now.unix_ms));
        let to_tell = self.revisions.get_or_insert_default().annotate(&publication);
        if let Some(id) = chosen_id {
            let count = publication.annotations.len();
            let used = Used::new(publication.position(0), count, &publication.id);
            self.ids.remember(now, id, used);
        }
        Ok(Annotated::New { publication, to_tell })
    }

    /// Gives the summary of a message its place in the order; `None`: the message is gone. Until
    /// [`summary_pause_over`](Self::summary_pause_over) no other is to be told.
    pub fn tell_summary(&mut self, now: Now, message: Position) -> Option<Arc<Publication>> {
        self.revisions.as_ref()?;
        self.history.find(message)?;
        let serial = self.next_serial(now);
        let first = self.history.find(message)?;
        let (summary, replaced) = self.revisions.as_mut()?.tell_summary(now, first, serial)?;
        if let Some(replaced) = replaced {
            self.history.remove(replaced);
        }
        self.history.push(Arc::clone(&summary));
        Some(summary)
    }

    /// Lets the summary of a message wait until a pause is over; returns whether there is one.
    pub fn postpone_summary(&mut self, message: Position) -> bool {
        self.revisions.as_mut().is_some_and(|revisions| revisions.postpone_summary(message))
    }

    /// The pause after a message's summary is over; returns whether the next one is due.
    pub fn summary_pause_over(&mut self, message: Position) -> bool {
        self.revisions.as_mut().is_some_and(|revisions| revisions.pause_over(message))
    }

    fn next_serial(&mut self, now: Now) -> ChannelSerial {
        self.last_serial = self.clock.next(now.unix_ms);
        self.last_serial
    }

    /// Does what a client wants of its members, heard over its `transport_count`th transport; returns
    /// what others are to hear of it.
    ///
    /// # Errors
    /// As [`Members::apply`].
    pub fn change_members(
        &mut self,
        now: Now,
        config: &PresenceConfig,
        request: PresenceRequest,
        transport_count: u32,
    ) -> Result<Option<Arc<PresenceEvents>>, ErrorInfo> {
        let id = request.id.clone();
        let members = &mut self.presence.get_or_insert_default().members;
        let messages = members.apply(now, config, request, transport_count)?;
        Ok((!messages.is_empty()).then(|| self.order_presence(now, Some(id), messages)))
    }

    /// The members do what [`Members::withdraw`] and its like say; returns what others are to hear.
    pub fn withdraw_members(
        &mut self,
        now: Now,
        withdraw: impl FnOnce(&mut Members) -> Vec<Vec<Arc<PresenceMessage>>>,
    ) -> Vec<Arc<PresenceEvents>> {
        let Some(presence) = &mut self.presence else { return Vec::new() };
        let parts = withdraw(&mut presence.members).into_iter();
        parts.map(|messages| self.order_presence(now, None, messages)).collect()
    }

    /// Gives presence events their place in the order.
    fn order_presence(
        &mut self,
        now: Now,
        id: Option<Box<str>>,
        messages: Vec<Arc<PresenceMessage>>,
    ) -> Arc<PresenceEvents> {
        let channel_serial = self.next_serial(now);
        let timestamp_ms = now.unix_ms;
        let events = Arc::new(PresenceEvents { channel_serial, id, timestamp_ms, messages });
        let presence = self.presence.as_mut().expect("events come from members");
        presence.history.push(Arc::clone(&events));
        events
    }

    /// Who is present, if anybody is or was lately.
    pub fn presence(&self) -> Option<&Presence> {
        self.presence.as_deref()
    }

    /// When the first of those members leave that were lost, on the monotonic clock.
    pub fn next_leave_ms(&self) -> Option<u64> {
        self.presence.as_ref().and_then(|presence| presence.members.next_leave_ms())
    }

    /// As [`Members::sync`].
    pub fn sync(
        &mut self,
        format: Format,
        display_name: &Arc<str>,
        frame: impl Fn(u64, &dyn Fn(&mut Vec<u8>)) -> Bytes,
    ) -> Vec<Bytes> {
        match &mut self.presence {
            Some(presence) => presence.members.sync(format, display_name, frame),
            None => Members::default().sync(format, display_name, frame),
        }
    }

    /// Adds a subscribing stream; frames of what is published from now on are for it.
    pub fn subscribe(&mut self, subscriber: Subscriber) {
        if subscriber.view.occupancy.is_some() {
            let told = self.occupancy();
            let watch = self.watch.get_or_insert_with(|| Box::new(Watch { subscribers: 0, told }));
            watch.subscribers += 1;
        }
        if subscriber.view.delta {
            self.chain.get_or_insert_default().add_subscriber();
        }
        if let Some(text) = &subscriber.view.filter {
            match self.filters.iter_mut().find(|(known, ..)| known == text) {
                Some((_, _, count)) => *count += 1,
                None => {
                    let filter = Filter::compile(text).expect("views have filters that compile");
                    self.filters.push((Arc::clone(text), filter, 1));
                }
            }
        }
        self.subscribers.push(subscriber);
    }

    /// Removes the stream that `shard` calls `stream`. The channel is kept for `keep`, so that whoever
    /// comes back finds its order going on. Returns whether it was the last stream.
    pub fn unsubscribe(&mut self, now: Now, shard: u16, stream: StreamRef, keep: Duration) -> bool {
        let is_it = |known: &Subscriber| (known.shard, known.stream) == (shard, stream);
        let Some(at) = self.subscribers.iter().position(is_it) else { return false };
        let Subscriber { view, metrics, .. } = self.subscribers.remove(at);
        self.attached.subtract(&metrics);
        if view.occupancy.is_some() {
            self.watch.take_if(|watch| {
                watch.subscribers -= 1;
                watch.subscribers == 0
            });
        }
        self.kept_until_ms = now.mono_ms + keep.as_millis() as u64;
        if view.delta {
            self.chain.take_if(|chain| chain.remove_subscriber());
        }
        if let Some(text) = view.filter {
            let known = self.filters.iter().position(|(known, ..)| *known == text);
            let known = known.expect("counted when it subscribed");
            self.filters[known].2 -= 1;
            if self.filters[known].2 == 0 {
                self.filters.swap_remove(known);
            }
        }
        self.subscribers.is_empty()
    }

    /// Notes the attachments that `shard` has to the stream.
    pub fn count(&mut self, shard: u16, stream: StreamRef, metrics: Metrics) {
        let is_it = |known: &&mut Subscriber| (known.shard, known.stream) == (shard, stream);
        // Not there when the home did not take it.
        let Some(subscriber) = self.subscribers.iter_mut().find(is_it) else { return };
        self.attached.add(&metrics);
        self.attached.subtract(&std::mem::replace(&mut subscriber.metrics, metrics));
    }

    /// How many attachments and members there are; right whether or not somebody asks (CHM2).
    pub fn occupancy(&self) -> Metrics {
        let mut metrics = self.attached;
        let members = self.presence.as_ref().map_or(0, |presence| presence.members.len());
        metrics.set(Metric::PresenceMembers, members as u32);
        metrics
    }

    /// What subscribers to occupancy were told, while there are any.
    pub fn watch(&mut self) -> Option<&mut Watch> {
        self.watch.as_deref_mut()
    }

    /// The numbers that rules about occupancy were told last: zeros, before they were told any.
    pub fn told_rules(&self) -> Metrics {
        self.told_rules.as_deref().copied().unwrap_or_default()
    }

    /// Notes what rules about occupancy are told, and returns the numbers; `None`: they know them.
    pub fn tell_rules(&mut self) -> Option<Metrics> {
        let metrics = self.occupancy();
        if metrics == self.told_rules() {
            return None;
        }
        **self.told_rules.get_or_insert_default() = metrics;
        Some(metrics)
    }

    /// Notes whether a change of occupancy waits to be told, and returns whether one did.
    pub fn set_occupancy_due(&mut self, is_due: bool) -> bool {
        std::mem::replace(&mut self.is_occupancy_due, is_due)
    }

    /// The chain of deltas, while somebody subscribes to them.
    pub fn chain(&mut self) -> Option<&mut Chain> {
        self.chain.as_deref_mut()
    }

    /// Which messages of `publication` pass each filter in use.
    pub fn select(&self, publication: &Publication) -> Vec<(Arc<str>, Vec<usize>)> {
        if self.filters.is_empty() {
            return Vec::new();
        }
        let subjects: Vec<_> = publication.messages.iter().map(Subject::of).collect();
        let filters = self.filters.iter();
        filters.map(|(text, filter, _)| (Arc::clone(text), passing(filter, &subjects))).collect()
    }

    /// Which messages of `publication` pass `filter`, which a subscriber has.
    pub fn passing(&self, filter: &str, publication: &Publication) -> Vec<usize> {
        let known = self.filters.iter().find(|(text, ..)| **text == *filter);
        let (_, filter, _) = known.expect("the filters of subscribers are compiled");
        passing(filter, &publication.messages.iter().map(Subject::of).collect::<Vec<_>>())
    }

    /// Whether another filter may be subscribed to, or this one is in use already.
    pub fn takes_filter(&self, text: &str) -> bool {
        self.filters.len() < FILTERS_MAX || self.filters.iter().any(|(known, ..)| **known == *text)
    }

    /// Keeps the past for `retention` from now on.
    pub fn set_retention(&mut self, retention: Duration) {
        self.retention = retention;
    }

    /// Forgets what is too old, and the oldest publications beyond `bytes_max`.
    pub fn trim(&mut self, now: Now, bytes_max: u64) {
        let oldest_ms = now.unix_ms.saturating_sub(self.retention.as_millis() as u64);
        if let Some(presence) = &mut self.presence {
            // Where it is tight, presence takes no more than half, so that messages keep theirs for
            // those who resume.
            let revisions_bytes = self.revisions.as_ref().map_or(0, |known| known.bytes());
            let unused_bytes = bytes_max.saturating_sub(self.history.bytes() + revisions_bytes);
            presence.history.trim(oldest_ms, unused_bytes.max(bytes_max / 2));
            if presence.is_empty() {
                self.presence = None;
            }
        }
        while let Some((serial, is_annotation, at_ms)) = self.oldest_event() {
            if at_ms >= oldest_ms && self.history_bytes() <= bytes_max {
                break;
            }
            // What is not kept may reach further than what memory has held.
            self.dropped = self.dropped.max(Some(serial));
            if is_annotation {
                let revisions = self.revisions.as_mut().expect("it has annotations");
                revisions.forget_oldest_annotations();
            } else if let Some(dropped) = self.history.pop_oldest()
                && let Some(revisions) = &mut self.revisions
            {
                revisions.forget(&dropped);
            }
        }
        self.revisions.take_if(|revisions| revisions.is_empty());
        self.ids.trim(now);
    }

    /// When something of it can be forgotten, or all of it, if nothing happens until then, on the monotonic clock;
    /// `None`: never. Of what is kept that is when about half is too old: so events are looked at a few times each,
    /// and not much is kept for longer than it is to be.
    pub fn next_due_ms(&self, now: Now) -> Option<u64> {
        let left_ms = |until_ms: u64| now.mono_ms + (until_ms + 1).saturating_sub(now.unix_ms);
        let presence = self.presence.as_ref();
        let revisions = self.revisions.as_ref();
        let kept = [
            self.history.middle_ms(),
            presence.and_then(|presence| presence.history.middle_ms()),
            revisions.and_then(|revisions| revisions.middle_annotations_ms()),
        ];
        let retention_ms = self.retention.as_millis() as u64;
        let kept = kept.into_iter().flatten().map(|at_ms| left_ms(at_ms + retention_ms));
        if let Some(due_ms) = kept.chain(self.ids.middle_ms()).min() {
            return Some(due_ms);
        }
        let is_in_use = !self.subscribers.is_empty() || self.has_members();
        (!is_in_use).then(|| self.kept_until_ms.max(left_ms(self.last_serial.time_ms())))
    }

    /// The tick in which it is looked at next, of whoever does that; 0: none.
    pub fn look(&self) -> u32 {
        self.look
    }

    /// Notes when it is looked at next.
    pub fn set_look(&mut self, tick: u32) {
        self.look = tick;
    }

    /// Gives back what it has had room for and does not need.
    pub fn release_room(&mut self) {
        self.history.release_room();
        if let Some(presence) = &mut self.presence {
            presence.history.release_room();
        }
        self.ids.release_room();
    }

    /// Whether nothing would be lost by forgetting the channel. One that is opened again begins with the
    /// serials of its time, which has to lie behind those that were used.
    pub fn is_idle(&self, now: Now) -> bool {
        self.last_serial.time_ms() < now.unix_ms
            && self.subscribers.is_empty()
            && self.history.is_empty()
            && self.ids.is_empty()
            && self.presence.is_none()
            && self.revisions.is_none()
            && self.kept_until_ms <= now.mono_ms
    }

    /// Of what is kept, the oldest: its serial, whether it is an annotation, and when it was made.
    fn oldest_event(&self) -> Option<(ChannelSerial, bool, u64)> {
        let message = self.history.oldest().map(|(serial, at_ms)| (serial, false, at_ms));
        let annotations = self.revisions.as_ref().and_then(|it| it.oldest_annotations());
        let annotation = annotations.map(|(serial, at_ms)| (serial, true, at_ms));
        message.into_iter().chain(annotation).min()
    }
}

/// The indexes of those that pass.
fn passing(filter: &Filter, subjects: &[Subject]) -> Vec<usize> {
    let passing = subjects.iter().enumerate().filter(|(_, subject)| filter.passes(subject));
    passing.map(|(index, _)| index).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ably::{
        Data, Direction, HistoryQuery, Identity, Params, PresenceAction, PresenceChange,
    };

    #[test]
    fn a_channel_is_not_forgotten_within_the_time_of_its_last_serial() {
        let key = ChannelKey::new("app", "room");
        let mut home = HomeChannel::new(NOW, key, SeriesId::new([7; 10]), RETENTION);
        let later = |ms| Now { unix_ms: NOW.unix_ms + ms, ..NOW };
        assert!(!home.is_idle(NOW) && home.is_idle(later(1)));
        // More than a millisecond has room for: the last ones are of the next.
        for _ in 0..1_500 {
            home.next_serial(NOW);
        }
        assert!(!home.is_idle(later(1)) && home.is_idle(later(2)));
    }

    const RETENTION: Duration = Duration::from_secs(120);
    const NOW: Now = Now { mono_ms: 5_000, unix_ms: 1_700_000_000_000 };

    fn count(home: &HomeChannel) -> (usize, usize) {
        let query = HistoryQuery {
            start_ms: None,
            end_ms: None,
            direction: Direction::Forwards,
            limit: 1_000,
            until: None,
            after: None,
        };
        let presence = home.presence().map(|presence| presence.history.read(&query).events.len());
        (home.read_history(&query).items.len(), presence.unwrap_or(0))
    }

    #[test]
    fn presence_history_takes_what_messages_leave_and_half_where_it_is_tight() {
        let bounds = PresenceConfig { members_max: 10, bytes_max: 1 << 20 };
        let key = ChannelKey::new("app", "room");
        let mut home = HomeChannel::new(NOW, key, SeriesId::new([7; 10]), RETENTION);
        for serial in 0..20 {
            let change = PresenceChange {
                action: PresenceAction::Enter,
                id: format!("conn:{serial}:0").into(),
                has_chosen_id: false,
                client_id: "ann".into(),
                data: Data::Text("x".repeat(1_000).into()),
                encoding: None,
                extras: None,
            };
            let request = PresenceRequest {
                id: format!("conn:{serial}").into(),
                connection_id: "conn".into(),
                changes: vec![change],
            };
            home.change_members(NOW, &bounds, request, 1).expect("within bounds");
        }
        home.trim(NOW, home.history_bytes());
        assert_eq!(count(&home), (0, 20), "nothing is over its bound");
        let identity = Identity::Wildcard;
        let capability = crate::ably::Capability::all();
        for serial in 0..20 {
            let publisher = crate::ably::Publisher {
                id: format!("other:{serial}"),
                connection_id: None,
                identity: &identity,
                capability: &capability,
                has_mutable_messages: false,
            };
            let draft = crate::ably::Draft {
                data: Data::Text("x".repeat(1_000).into()),
                ..crate::ably::Draft::default()
            };
            let accepted = crate::ably::validate(
                "room",
                Some(vec![draft]),
                &Params::default(),
                &publisher,
                65_536,
            );
            let crate::ably::Accepted::Messages(messages) = accepted.expect("valid") else {
                panic!("a message is created")
            };
            home.publish(NOW, messages);
        }
        home.trim(NOW, home.history_bytes());
        assert_eq!(count(&home), (20, 20));
        let half = home.history_bytes() / 2;
        home.trim(NOW, half);
        let (messages, presence) = count(&home);
        assert!(home.history_bytes() <= half);
        assert!((9..=11).contains(&messages) && (9..=11).contains(&presence));
        // Time ends all of it but the member.
        let later = Now { unix_ms: NOW.unix_ms + 121_000, ..NOW };
        home.trim(later, 1 << 20);
        assert_eq!(count(&home), (0, 0));
        assert!(home.has_members() && !home.is_idle(later));
    }
}
