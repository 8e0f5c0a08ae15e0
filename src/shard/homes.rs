//! The channels that are at home on this shard, and what other shards ask of them.

use std::collections::{BTreeSet, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use super::durable::Keeping;
use super::encode::{Deflating, Joining, Replay, sync};
use super::forget::{self, Forgetting};
use super::mail::Joined;
use super::occupancy::occupancy_frame;
use super::replays::{Replayed, Replays};
use super::{Mail, ReturnAddress, Shard, inspect};
use crate::ably::vcdiff::Encoder;
use crate::ably::{
    Ack, Answer, ChannelSerial, ChannelsQuery, Directory, ErrorCode, ErrorInfo, ListedChannel,
    Position, Question, Rule, Rules, SeriesId, Survey, no_such_message,
};
use crate::base::{Now, SpreadMap};
use crate::channel::ChannelKey;
use crate::channel::history::HistoryConfig;
use crate::channel::home::{HomeChannel, Older, StreamRef, Subscriber};
use crate::channel::view::Past;

/// Channels by key; each lives until nobody subscribes and its history has run out.
pub(super) struct Homes {
    pub channels: SpreadMap<ChannelKey, Box<HomeChannel>>,
    /// The same channels in the order of their keys.
    pub keys: BTreeSet<ChannelKey>,
    /// Channels that have become active, or were forgotten, and are not counted yet.
    pub changes: Vec<(ChannelKey, bool)>,
    /// Channels with members that are to leave, by the time of the first.
    pub leaving: BTreeSet<(u64, ChannelKey)>,
    pub forgetting: Forgetting,
    /// Sum of the channels' histories.
    pub history_bytes: u64,
    pub config: HistoryConfig,
    /// Says which channels are kept longer.
    pub directory: Arc<Directory>,
    pub series: SeriesId,
    /// Makes the deltas of all channels.
    pub encoder: Encoder,
    pub deflating: Deflating,
    /// Counts changes of the rules, from 1.
    pub rules_version: u32,
    pub replays: Replays,
    /// Messages whose summary was told within the last pause, with the end of that, oldest first. Each
    /// is in it once and is kept in a history, so there are no more than that has room for.
    summary_pauses: VecDeque<(u64, ChannelKey, Position)>,
    /// Where channels are kept that outlive the process, if there is a place.
    pub keeping: Option<Box<Keeping>>,
}

impl Homes {
    pub fn new(
        series: SeriesId,
        config: HistoryConfig,
        directory: Arc<Directory>,
        deflate_bytes_min: Option<u32>,
    ) -> Homes {
        Homes {
            channels: SpreadMap::default(),
            keys: BTreeSet::new(),
            changes: Vec::new(),
            leaving: BTreeSet::new(),
            forgetting: Forgetting::default(),
            history_bytes: 0,
            config,
            directory,
            series,
            encoder: Encoder::default(),
            deflating: Deflating::new(deflate_bytes_min),
            rules_version: 1,
            replays: Replays::default(),
            summary_pauses: VecDeque::new(),
            keeping: None,
        }
    }

    /// How long what is persisted is kept, in milliseconds.
    pub fn persisted_ms(&self) -> u64 {
        self.config.persisted_retention.as_millis() as u64
    }

    /// How the events of a channel are kept on disk; `None`: they are not.
    pub fn ack(&self, key: &ChannelKey) -> Option<Ack> {
        ack(self.keeping.as_deref(), &self.directory, key)
    }

    /// Whether messages of the channel can be changed.
    pub fn has_mutable_messages(&self, key: &ChannelKey) -> bool {
        let app = self.directory.app(key.app_id());
        app.is_some_and(|app| app.namespace(key.name()).mutable_messages)
    }

    /// Whether what a join gets was made for another already.
    pub fn has_replay(&self, key: &ChannelKey, joining: &Joining) -> bool {
        let head = self.get(key).map(HomeChannel::last_serial);
        head.is_some_and(|head| self.replays.has(key, joining, head))
    }

    /// Channels that are at home here.
    pub fn len(&self) -> usize {
        self.channels.len()
    }

    /// Bytes of all their histories.
    pub fn history_bytes(&self) -> u64 {
        self.history_bytes
    }

    /// When there is something to do: something runs out, members leave, a summary has waited.
    pub fn next_timeout_ms(&self) -> Option<u64> {
        let forget = [self.forgetting.next_ms(), self.replays.next_ms()];
        let leave = self.leaving.first().map(|(leave_at_ms, _)| *leave_at_ms);
        let summary = self.summary_pauses.front().map(|(until_ms, ..)| *until_ms);
        let keeping = self.keeping.as_ref().and_then(|keeping| keeping.next_timeout_ms());
        forget.into_iter().chain([leave, summary, keeping]).flatten().min()
    }

    /// The channels from where `query` begins.
    pub fn keys_from(&self, query: &inspect::ChannelsQuery) -> impl Iterator<Item = &ChannelKey> {
        let from = match (&query.after, &query.app) {
            (Some(after), _) => Bound::Excluded(after.clone()),
            (None, Some(app_id)) => Bound::Included(ChannelKey::new(app_id, &query.prefix)),
            (None, None) => Bound::Unbounded,
        };
        self.keys.range((from, Bound::Unbounded))
    }

    /// A channel that is open.
    pub fn get(&self, key: &ChannelKey) -> Option<&HomeChannel> {
        self.channels.get(key).map(|channel| &**channel)
    }

    /// A channel that is open.
    pub fn get_mut(&mut self, key: &ChannelKey) -> Option<&mut HomeChannel> {
        self.channels.get_mut(key).map(|channel| &mut **channel)
    }

    /// All rules.
    pub fn rules(&self) -> &Rules {
        self.directory.rules()
    }

    /// The rules that a channel has now; `None`: the channel is not open.
    pub fn rules_of(&mut self, key: &ChannelKey) -> Option<&[Arc<Rule>]> {
        let Homes { channels, directory, rules_version, .. } = self;
        let find = |key: &ChannelKey| directory.rules().of_channel(key.app_id(), key.name());
        Some(channels.get_mut(key)?.rules(*rules_version, find))
    }

    /// Whether a channel is open, or may be where so many are at most; one that is being loaded counts.
    pub fn has_room(&self, key: &ChannelKey, channels_max: usize) -> bool {
        let loading = self.keeping.as_ref().map_or(0, |keeping| keeping.reading.loading_count());
        self.channels.len() + loading < channels_max || self.channels.get(key).is_some()
    }

    /// The channel, which begins now if it is not open.
    pub fn open(&mut self, now: Now, key: ChannelKey) -> &mut HomeChannel {
        let (series, keys, changes) = (self.series, &mut self.keys, &mut self.changes);
        let (config, directory) = (&self.config, &self.directory);
        let keeping = self.keeping.as_deref();
        self.channels.get_or_insert_with(key, |key| {
            keys.insert(key.clone());
            changes.push((key.clone(), true));
            let retention = retention(config, directory, key);
            let ack = ack(keeping, directory, key);
            let home = HomeChannel::new(now, key.clone(), series, retention);
            Box::new(match (keeping, ack) {
                (Some(keeping), Some(ack)) => {
                    let age_ms = config.persisted_retention.as_millis() as u64;
                    let oldest_ms = now.unix_ms.saturating_sub(age_ms);
                    keeping.begin(now, home, ack, oldest_ms)
                }
                _ => home,
            })
        })
    }

    /// Changes a channel, and keeps its history within bounds.
    pub fn change<T>(
        &mut self,
        now: Now,
        key: &ChannelKey,
        change: impl FnOnce(&mut HomeChannel) -> T,
    ) -> T {
        let total_bytes = self.history_bytes;
        let HistoryConfig { channel_bytes_max, shard_bytes_max, .. } = self.config;
        let channel = self.open(now, key.clone());
        let others_bytes = total_bytes - channel.history_bytes();
        let leave_before = channel.next_leave_ms();
        let changed = change(channel);
        // What all channels hold together beyond the bound is taken from the one that grows.
        let own_max = shard_bytes_max.saturating_sub(others_bytes);
        channel.trim(now, own_max.min(channel_bytes_max));
        let leave_after = channel.next_leave_ms();
        let look = forget::plan_look(now, channel);
        self.history_bytes = others_bytes + channel.history_bytes();
        if let Some(tick) = look {
            self.forgetting.put(tick, key.clone());
        }
        if leave_before != leave_after {
            leave_before.map(|at_ms| self.leaving.remove(&(at_ms, key.clone())));
            leave_after.map(|at_ms| self.leaving.insert((at_ms, key.clone())));
        }
        changed
    }

    /// Has a channel forget what was given up of it; true when the rest is to be loaded.
    pub fn take_back(&mut self, now: Now, key: &ChannelKey, serial: ChannelSerial) -> bool {
        // Made of what is forgotten.
        self.replays.clear();
        let is_to_load = self.change_known(now, key, |home| home.take_back(serial));
        // What would have kept it is gone.
        self.hasten(now, key);
        is_to_load.unwrap_or_default()
    }

    /// The same for a channel that may not exist; `None`: it does not.
    pub fn change_known<T>(
        &mut self,
        now: Now,
        key: &ChannelKey,
        change: impl FnOnce(&mut HomeChannel) -> T,
    ) -> Option<T> {
        self.channels.get(key).is_some().then(|| self.change(now, key, change))
    }

    /// Lets the next summary of a message wait until a time on the monotonic clock.
    pub fn pause_summary(&mut self, until_ms: u64, key: ChannelKey, message: Position) {
        self.summary_pauses.push_back((until_ms, key, message));
    }

    /// The next pause that is over: of which channel, and of which message.
    pub fn pop_summary_pause(&mut self, now_ms: u64) -> Option<(ChannelKey, Position)> {
        let (_, key, message) =
            self.summary_pauses.pop_front_if(|(until_ms, ..)| *until_ms <= now_ms)?;
        Some((key, message))
    }

    /// What somebody who joins a channel that is open gets of its past.
    fn replay(
        &mut self,
        now: Now,
        channel: &ChannelKey,
        joining: &Joining,
        bytes_max: u64,
        older: Option<&Older>,
    ) -> Replayed {
        let Homes { channels, encoder, replays, .. } = self;
        let home = channels.get_mut(channel).expect("opened by the caller");
        let head = home.last_serial();
        if let Some(replayed) = replays.find(channel, joining, head) {
            return replayed;
        }
        let Past { serial, resumed, error, events } =
            home.past(now, &joining.since, bytes_max, older);
        let Replay { pieces: frames, last } = Replay::new(&events, joining, home, encoder);
        let is_head = last.is_some_and(|last| last.channel_serial == head);
        let chain = home.chain();
        let has_base =
            last.is_some_and(|last| chain.is_some_and(|chain| chain.joins(last, is_head)));
        let replayed = Replayed { serial, resumed, error, has_base, frames };
        replays.remember(now.mono_ms, channel, joining, head, &replayed);
        replayed
    }

    /// Active channels of an app, one more than a page has if there are as many.
    fn list(&self, app_id: &str, query: &ChannelsQuery) -> Vec<ListedChannel> {
        let from = match query.after.as_deref().filter(|after| **after >= *query.prefix) {
            Some(after) => Bound::Excluded(ChannelKey::new(app_id, after)),
            None => Bound::Included(ChannelKey::new(app_id, &query.prefix)),
        };
        let keys = self.keys.range((from, Bound::Unbounded));
        let wanted =
            keys.take_while(|key| key.is_of(app_id) && key.name().starts_with(&*query.prefix));
        let listed = wanted.take(query.limit + 1);
        let occupancy = |key| self.get(key).expect("listed channels exist").occupancy();
        listed.map(|key| (key.name().into(), occupancy(key))).collect()
    }
}

/// How long the past of a channel is kept.
pub(super) fn retention(
    config: &HistoryConfig,
    directory: &Directory,
    key: &ChannelKey,
) -> Duration {
    let app = directory.app(key.app_id());
    match app.is_some_and(|app| app.namespace(key.name()).persisted) {
        true => config.persisted_retention,
        false => config.retention,
    }
}

/// How the events of a channel are kept on disk; `None`: they are not. Metachannels never are.
fn ack(keeping: Option<&Keeping>, directory: &Directory, key: &ChannelKey) -> Option<Ack> {
    if !keeping?.has_persisted() || key.name().starts_with('[') {
        return None;
    }
    let namespace = directory.app(key.app_id())?.namespace(key.name());
    namespace.persisted.then_some(namespace.ack)
}

impl Shard {
    /// Another shard, or this one, has subscribers for a channel that is at home here.
    pub(super) fn handle_subscribe(&mut self, channel: ChannelKey, subscriber: Subscriber) {
        let (shard, stream) = (subscriber.shard, subscriber.stream);
        if let Err(error) = self.check_room(&channel) {
            return self.post_of(&channel, shard, Mail::Refused { stream, error });
        }
        let home = self.homes.open(self.now, channel.clone());
        if subscriber.view.filter.as_ref().is_some_and(|filter| !home.takes_filter(filter)) {
            let text = "the channel has as many different filters as it may have";
            let error = ErrorInfo::new(ErrorCode::TOO_MANY_CHANNELS, text);
            return self.post_of(&channel, shard, Mail::Refused { stream, error });
        }
        home.subscribe(subscriber);
        let is_first = home.subscribers().len() == 1;
        let (serial, has_members) = (home.last_serial(), home.has_members());
        if is_first {
            self.listeners_changed(&channel, true);
        }
        self.post_of(&channel, shard, Mail::Subscribed { stream, serial, has_members });
    }

    /// An attachment wants what it has missed, and who is present.
    pub(super) fn handle_join(
        &mut self,
        reply_to: ReturnAddress,
        channel: ChannelKey,
        joining: &Joining,
    ) {
        self.homes.open(self.now, channel.clone());
        self.homes.trim(self.now, &channel);
        if !self.read_for_join(reply_to, &channel, joining) {
            self.join_with(reply_to, &channel, joining, None);
        }
    }

    /// The same with what was read for it.
    pub(super) fn join_with(
        &mut self,
        reply_to: ReturnAddress,
        channel: &ChannelKey,
        joining: &Joining,
        older: Option<&Older>,
    ) {
        self.homes.open(self.now, channel.clone());
        let bytes_max = self.config.replay_bytes_max.into();
        let Replayed { serial, resumed, error, has_base, mut frames } =
            self.homes.replay(self.now, channel, joining, bytes_max, older);
        let home = self.homes.get_mut(channel).expect("opened above");
        let has_backlog = !frames.is_empty();
        if let Some(category) = joining.view.occupancy {
            let key = (joining.format, &*joining.display_name, category);
            frames.insert(0, occupancy_frame(home, key, self.now.unix_ms));
        }
        let has_members = home.has_members();
        if has_members && joining.view.wants_members() {
            frames.extend(sync(home, joining.format, &joining.display_name));
        }
        let joined = Joined { serial, resumed, error, has_backlog, has_members, has_base, frames };
        let ReturnAddress { shard, transport, request } = reply_to;
        let joined = Box::new(joined);
        self.post_view_of(channel, shard, Mail::Joined { transport, request, joined }, || {
            let Joining { display_name, format, view, since, skip } = joining.clone();
            let channel = channel.clone();
            Mail::Join { reply_to, channel, display_name, format, view, since, skip }
        });
    }

    /// A shard has no subscribers left for a stream.
    pub(super) fn handle_unsubscribe(
        &mut self,
        shard: u16,
        channel: &ChannelKey,
        stream: StreamRef,
    ) {
        let keep = self.config.connection.state_ttl;
        if let Some(home) = self.homes.channels.get_mut(channel) {
            let was_last = home.unsubscribe(self.now, shard, stream, keep);
            self.homes.note(self.now, channel);
            if was_last {
                self.listeners_changed(channel, false);
            }
            self.occupancy_changed(channel);
        }
    }

    /// Somebody asks about a channel that is at home here.
    pub(super) fn handle_ask(
        &mut self,
        reply_to: ReturnAddress,
        channel: &ChannelKey,
        question: &Question,
    ) {
        self.homes.trim(self.now, channel);
        // Not opened by asking: a channel that was never used has no history and no members.
        let home = self.homes.get(channel);
        let answer = match question {
            Question::Status => {
                Ok(Answer::Status(home.map(HomeChannel::occupancy).unwrap_or_default()))
            }
            Question::History(query) => {
                if self.read_history(reply_to, channel, query) {
                    return;
                }
                let home = self.homes.get(channel);
                let page = home.map(|home| home.read_history(query)).unwrap_or_default();
                return self.answer_history(reply_to, channel, query, page);
            }
            Question::Message(message) => {
                let item = home.and_then(|home| home.message(*message));
                item.map(Answer::Message).ok_or_else(no_such_message)
            }
            Question::Versions(message, query) => {
                let page = home.and_then(|home| home.versions(*message, query));
                page.map(Answer::History).ok_or_else(no_such_message)
            }
            Question::Annotations(message, query) => {
                let page = home.and_then(|home| home.annotations(*message, query));
                page.map(Answer::Annotations).ok_or_else(no_such_message)
            }
            Question::ClientSummary(message, client_id) => {
                let summary = home.and_then(|home| home.client_summary(*message, client_id));
                summary.map(Answer::Json).ok_or_else(no_such_message)
            }
            Question::Members(query) => {
                let presence = home.and_then(HomeChannel::presence);
                let page = presence.map(|presence| presence.members.read(query));
                Ok(Answer::Members(page.unwrap_or_default()))
            }
            Question::PresenceHistory(query) => {
                let presence = home.and_then(HomeChannel::presence);
                let page = presence.map(|presence| presence.history.read(query));
                Ok(Answer::PresenceHistory(page.unwrap_or_default()))
            }
        };
        let ReturnAddress { shard, transport, request } = reply_to;
        self.post_view_of(channel, shard, Mail::Answer { transport, request, answer }, || {
            Mail::Ask { reply_to, channel: channel.clone(), question: question.clone() }
        });
    }

    /// Counts the channels that have come and gone.
    pub(super) fn count_channels(&mut self) {
        let now_ms = self.now.unix_ms;
        for (key, is_active) in std::mem::take(&mut self.homes.changes) {
            match is_active {
                true => {
                    self.homes.note(self.now, &key);
                    self.stats.channel_opened(key.app_id(), now_ms);
                }
                false => self.stats.channel_closed(key.app_id(), now_ms),
            }
            self.hook_lifecycle(&key, is_active);
            self.lifecycles.note_channel(&key, is_active, self.homes.get(&key));
        }
    }

    /// Somebody asks what this shard knows of an app.
    pub(super) fn handle_survey(&mut self, reply_to: ReturnAddress, app_id: &str, survey: &Survey) {
        let answer = Ok(match survey {
            Survey::Channels(query) => Answer::Channels(self.homes.list(app_id, query)),
            Survey::Stats(query) => Answer::Stats(self.stats.read(app_id, self.now.unix_ms, query)),
        });
        let ReturnAddress { shard, transport, request } = reply_to;
        self.post(usize::from(shard), Mail::Answer { transport, request, answer });
    }
}
