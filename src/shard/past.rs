//! What is kept of channels, on its way back from the disk.
//!
//! A channel of which something is kept is loaded when it is first asked for: the newest of its events come
//! back into memory, while the mail for it waits. What lies further back is read for those who need it.

use std::collections::HashMap;
use std::sync::Arc;

use super::durable::awaits;
use super::encode::Joining;
use super::owed::DISK_IS_BEHIND;
use super::{Mail, ReturnAddress, Shard};
use crate::ably::{
    Answer, ChannelSerial, Counter, Direction, ErrorCode, ErrorInfo, HistoryItem, HistoryPage,
    HistoryQuery, MESSAGES_MAX, Publication, Question, Since,
};
use crate::channel::history::History;
use crate::channel::home::{HomeChannel, Older, OlderWanted};
use crate::channel::kept::Kept;
use crate::channel::{ChannelKey, HISTORY_PAGE_BYTES_MAX};
use crate::journal::{self, Query, Stored};

/// Mail that waits for channels to be loaded; beyond it they begin without what is kept of them in
/// memory, and it is read when somebody needs it.
const LOADING_MAIL_MAX: usize = 65_536;

/// Who waits for the same part of a channel's past, at most.
const READERS_MAX: usize = 65_536;

/// What waits for a channel to be loaded.
#[derive(Default)]
struct Loading {
    /// With whom it is from.
    mail: Vec<(u16, Mail)>,
    /// Of the publishes among it.
    publish_bytes: u64,
}

/// What a query to the journal is for.
enum Purpose {
    /// A channel begins.
    Load(ChannelKey),
    /// Somebody has missed something.
    Join {
        key: ChannelKey,
        joining: Box<Joining>,
        until: ChannelSerial,
        readers: Vec<ReturnAddress>,
    },
    /// Somebody reads the history.
    History {
        key: ChannelKey,
        query: HistoryQuery,
        until: Option<ChannelSerial>,
        reply_to: ReturnAddress,
    },
}

/// See the module text.
#[derive(Default)]
pub(super) struct Reading {
    queries: HashMap<u64, Purpose>,
    /// Who waits for an answer.
    readers: usize,
    loading: HashMap<ChannelKey, Loading>,
    /// Mail that waits, of all channels.
    pub(super) mail_count: usize,
}

impl Reading {
    /// Channels that are being loaded.
    pub fn loading_count(&self) -> usize {
        self.loading.len()
    }
}

impl Shard {
    /// Has mail wait for the channel that it is for, if that is not loaded; otherwise gives it back.
    pub(super) fn wait_for_channel(&mut self, from: u16, mail: Mail) -> Option<Mail> {
        let keeping = self.homes.keeping.as_ref().filter(|keeping| keeping.has_persisted());
        let (Some(keeping), Some((key, opens))) = (keeping, mail.channel_at_home()) else {
            return Some(mail);
        };
        let has_to_wait = keeping.reading.loading.contains_key(key)
            || opens && self.is_to_be_loaded(key, &mail) && self.load(key);
        if !has_to_wait {
            return Some(mail);
        }
        let burst_bytes_max = self.burst_bytes_max();
        let reading = &mut self.homes.keeping.as_mut().expect("asked above").reading;
        let loading = reading.loading.get_mut(key).expect("it is being loaded");
        if let Mail::Publish { reply_to, accepted, .. } = &mail {
            if loading.publish_bytes >= burst_bytes_max {
                let ReturnAddress { shard, transport, request } = *reply_to;
                let result = Err(ErrorInfo::new(ErrorCode::BUSY, DISK_IS_BEHIND));
                self.post(shard.into(), Mail::Published { transport, request, result });
                return None;
            }
            loading.publish_bytes += accepted.size_bytes();
        }
        reading.mail_count += 1;
        loading.mail.push((from, mail));
        None
    }

    /// Whether something is kept of a channel that has to be in memory before this mail is taken, and that there
    /// is room for.
    fn is_to_be_loaded(&self, key: &ChannelKey, mail: &Mail) -> bool {
        let Some(keeping) = &self.homes.keeping else { return false };
        if !keeping.journal.has(key.as_str())
            || keeping.reading.mail_count >= LOADING_MAIL_MAX
            || self.homes.get(key).is_some()
            || self.homes.ack(key).is_none()
        {
            return false;
        }
        // Reading its history does not open a channel, unless that takes what only memory has.
        let is_history = matches!(mail, Mail::Ask { question: Question::History(_), .. });
        (!is_history || self.homes.has_mutable_messages(key))
            && self.homes.has_room(key, self.config.channels_max)
    }

    /// Has the newest of a channel's events read back; mail for it waits for them from now on. False: too many
    /// are being read.
    fn load(&mut self, key: &ChannelKey) -> bool {
        let bytes_max = self.config.history.channel_bytes_max;
        let oldest_ms = self.now.unix_ms.saturating_sub(self.homes.persisted_ms());
        let Some(keeping) = &mut self.homes.keeping else { return false };
        let (start_ms, direction) = (oldest_ms, Direction::Backwards);
        let all = Query::all_of(key.as_str().into());
        let query = Query { start_ms, direction, bytes_max, ..all };
        let Some(number) = keeping.journal.read(query) else { return false };
        keeping.reading.queries.insert(number, Purpose::Load(key.clone()));
        keeping.reading.loading.insert(key.clone(), Loading::default());
        true
    }

    /// Has what is left of a channel loaded once more.
    pub(super) fn load_again(&mut self, key: &ChannelKey) {
        let keeping = self.homes.keeping.as_ref();
        if !keeping.is_some_and(|keeping| keeping.reading.loading.contains_key(key)) {
            self.load(key);
        }
    }

    /// The journal has answered.
    pub(super) fn handle_kept(&mut self, answer: journal::Answer) {
        let journal::Answer { query, events, is_complete, is_damaged } = answer;
        let keeping = self.homes.keeping.as_mut().expect("it has answered");
        let purpose = keeping.reading.queries.remove(&query).expect("every query has its purpose");
        let count = events.len();
        let events: Vec<Kept> = events.into_iter().filter_map(decode).collect();
        let is_damaged = is_damaged || events.len() < count;
        match purpose {
            Purpose::Load(key) => {
                let waiting =
                    keeping.reading.loading.remove(&key).expect("it was being loaded").mail;
                keeping.reading.mail_count -= waiting.len();
                let home = self.homes.open(self.now, key.clone());
                // Where something is missing, what is in memory begins with what comes now, and all before
                // is read by those who need it, who then hear of the damage. What is left is not published twice.
                if home.has_nothing() {
                    let now = self.now;
                    self.homes.change(now, &key, |home| match is_damaged {
                        true => home.restore_ids(now, events),
                        false => home.restore(now, events, is_complete),
                    });
                }
                for (from, mail) in waiting {
                    self.handle_mail(usize::from(from), mail);
                }
            }
            Purpose::Join { key, joining, until, readers } => {
                keeping.reading.readers -= readers.len();
                self.raise_floor(&key);
                // Continuity is not to be had across damage, and then there is nothing to replay.
                let older = Older { events, until, is_cut: !is_complete || is_damaged };
                for reply_to in readers {
                    let older = (!is_damaged).then_some(&older);
                    self.join_with(reply_to, &key, &joining, older);
                }
            }
            Purpose::History { key, query, until, reply_to } => {
                keeping.reading.readers -= 1;
                let from = self.homes.get(&key).map(HomeChannel::memory_from);
                if let (Some(from), Some(until)) = (from, until)
                    && from > until
                    && self.read_history(reply_to, &key, &query)
                {
                    // Memory has dropped more than was read; now there is more to read.
                    return;
                }
                let publications = |event| match event {
                    Kept::Messages(publication, _) => Some(publication)
                        .filter(|it| from.is_none_or(|from| it.channel_serial <= from)),
                    Kept::Version { .. } | Kept::Annotations(..) => None,
                };
                let older: Vec<Arc<Publication>> =
                    events.into_iter().filter_map(publications).collect();
                let page = match self.homes.get(&key) {
                    Some(home) => home.read_history_with(&older, !is_complete, &query),
                    None => History::default().read_with(&older, !is_complete, &query),
                };
                self.answer_history(reply_to, &key, &query, page);
            }
        }
    }

    /// Has a join wait for what it needs from disk. False: it needs nothing, or cannot have it.
    pub(super) fn read_for_join(
        &mut self,
        reply_to: ReturnAddress,
        key: &ChannelKey,
        joining: &Joining,
    ) -> bool {
        if self.homes.keeping.is_none() || self.homes.has_replay(key, joining) {
            return false;
        }
        // What was changed is shown as memory has it.
        if matches!(joining.since, Since::Rewind { .. }) && self.homes.has_mutable_messages(key) {
            return false;
        }
        self.raise_floor(key);
        let home = self.homes.get(key).expect("opened by the caller");
        let Some(wanted) = home.older_wanted(self.now, &joining.since) else { return false };
        let bytes_max = self.config.replay_bytes_max.into();
        let keeping = self.homes.keeping.as_mut().expect("asked above");
        if keeping.reading.readers >= READERS_MAX {
            return false;
        }
        let same = keeping.reading.queries.values_mut().find_map(|purpose| match purpose {
            Purpose::Join { key: of, joining: known, readers, .. }
                if of == key && **known == *joining =>
            {
                Some(readers)
            }
            Purpose::Join { .. } | Purpose::Load(_) | Purpose::History { .. } => None,
        });
        if let Some(readers) = same {
            readers.push(reply_to);
            keeping.reading.readers += 1;
            return true;
        }
        let OlderWanted { after, until, start_ms, messages_max } = wanted;
        let query = Query {
            channel: key.as_str().into(),
            after,
            until: Some(until),
            start_ms,
            end_ms: u64::MAX,
            direction: if after.is_some() { Direction::Forwards } else { Direction::Backwards },
            messages_max,
            bytes_max,
        };
        let Some(number) = keeping.journal.read(query) else { return false };
        keeping.reading.readers += 1;
        let (key, joining) = (key.clone(), Box::new(joining.clone()));
        let readers = vec![reply_to];
        keeping.reading.queries.insert(number, Purpose::Join { key, joining, until, readers });
        true
    }

    /// Has an open channel know what of it the journal has dropped by now.
    fn raise_floor(&mut self, key: &ChannelKey) {
        let awaits = self.homes.ack(key).and_then(awaits);
        let Some(keeping) = &self.homes.keeping else { return };
        let floor = keeping.journal.floor(key.as_str(), awaits);
        if let Some(home) = self.homes.get_mut(key) {
            home.raise_floor(floor);
        }
    }

    /// Has a page of history wait for what it needs from disk. False: it needs nothing.
    pub(super) fn read_history(
        &mut self,
        reply_to: ReturnAddress,
        key: &ChannelKey,
        query: &HistoryQuery,
    ) -> bool {
        let Some(wanted) = self.history_wanted(key, query) else { return false };
        let until = self.homes.get(key).map(|home| home.older_until().0);
        let keeping = self.homes.keeping.as_mut().expect("it wants something");
        if keeping.reading.readers >= READERS_MAX {
            return self.refuse_history(reply_to);
        }
        let Some(number) = keeping.journal.read(wanted) else {
            return self.refuse_history(reply_to);
        };
        keeping.reading.readers += 1;
        let (key, query) = (key.clone(), query.clone());
        keeping.reading.queries.insert(number, Purpose::History { key, query, until, reply_to });
        true
    }

    fn refuse_history(&mut self, reply_to: ReturnAddress) -> bool {
        let text = "as many read what is kept on disk as may at once; try again";
        let answer = Err(ErrorInfo::new(ErrorCode::BUSY, text));
        let ReturnAddress { shard, transport, request } = reply_to;
        self.post(usize::from(shard), Mail::Answer { transport, request, answer });
        true
    }

    /// What a page of history needs from disk.
    fn history_wanted(&self, key: &ChannelKey, query: &HistoryQuery) -> Option<Query> {
        let keeping = self.homes.keeping.as_ref()?;
        self.homes.ack(key)?;
        // Whoever changes a message has it in memory; what was changed is not looked for on disk.
        if !keeping.journal.has(key.as_str()) || self.homes.has_mutable_messages(key) {
            return None;
        }
        let home = self.homes.get(key);
        let memory_from = home.map(HomeChannel::memory_from);
        let after = query.after.map(|after| after.serial);
        let (behind, mut until) = match query.direction {
            Direction::Forwards => {
                let is_in_memory = |from: ChannelSerial| {
                    after.is_some_and(|after| after > from)
                        || query.start_ms.is_some_and(|start_ms| start_ms > from.time_ms())
                };
                if memory_from.is_some_and(is_in_memory) {
                    return None;
                }
                (after.map(|after| after.preceding()), query.until)
            }
            Direction::Backwards => {
                if home.is_some_and(|home| home.read_history(query).next.is_some()) {
                    return None;
                }
                (None, [query.until, after].into_iter().flatten().min())
            }
        };
        let older_until = home.map(HomeChannel::older_until);
        until = [until, older_until.map(|(until, _)| until)].into_iter().flatten().min();
        let overlap = older_until.map_or(0, |(_, messages)| messages);
        let oldest_ms = self.now.unix_ms.saturating_sub(self.homes.persisted_ms());
        // Of the publication that the page before ended in, some may be left.
        let partly = if after.is_some() { MESSAGES_MAX as u32 } else { 0 };
        Some(Query {
            channel: key.as_str().into(),
            after: behind,
            until,
            start_ms: query.start_ms.unwrap_or(0).max(oldest_ms),
            end_ms: query.end_ms.unwrap_or(u64::MAX),
            direction: query.direction,
            messages_max: query.limit as u32 + 1 + partly + overlap,
            bytes_max: HISTORY_PAGE_BYTES_MAX,
        })
    }

    /// Answers a question for history.
    pub(super) fn answer_history(
        &mut self,
        reply_to: ReturnAddress,
        key: &ChannelKey,
        query: &HistoryQuery,
        page: HistoryPage,
    ) {
        let size = |item: &HistoryItem| item.publication.messages[item.index].size_bytes();
        let tally = self.stats.of(key.app_id(), self.now.unix_ms);
        tally.add(Counter::OutboundRestMessages, page.items.len() as u64);
        let bytes = page.items.iter().map(size).sum();
        tally.add(Counter::OutboundRestMessageBytes, bytes);
        let ReturnAddress { shard, transport, request } = reply_to;
        let answer = Ok(Answer::History(page));
        self.post_view_of(key, shard, Mail::Answer { transport, request, answer }, || Mail::Ask {
            reply_to,
            channel: key.clone(),
            question: Question::History(query.clone()),
        });
    }
}

impl Mail {
    /// The channel at home with its reader that the mail is for, and whether that has to know its past to
    /// take it.
    fn channel_at_home(&self) -> Option<(&ChannelKey, bool)> {
        match self {
            Mail::Publish { channel, .. }
            | Mail::Subscribe { channel, .. }
            | Mail::Join { channel, .. }
            | Mail::ChangeMembers { channel, .. }
            | Mail::Sync { channel, .. }
            | Mail::Fixture { channel, .. } => Some((channel, true)),
            Mail::Ask { channel, question, .. } => Some((
                channel,
                match question {
                    Question::Message(_)
                    | Question::Versions(..)
                    | Question::Annotations(..)
                    | Question::ClientSummary(..)
                    | Question::History(_) => true,
                    Question::Status | Question::Members(_) | Question::PresenceHistory(_) => false,
                },
            )),
            Mail::Counts { channel, .. }
            | Mail::Unsubscribe { channel, .. }
            | Mail::Connection { channel, .. }
            | Mail::Lifecycle { channel, .. } => Some((channel, false)),
            Mail::Published { .. }
            | Mail::Subscribed { .. }
            | Mail::Refused { .. }
            | Mail::Joined { .. }
            | Mail::Resume { .. }
            | Mail::Resumed { .. }
            | Mail::GiveBack { .. }
            | Mail::MembersChanged { .. }
            | Mail::Synced { .. }
            | Mail::Frame { .. }
            | Mail::Append(_)
            | Mail::WantRoom { .. }
            | Mail::Room { .. }
            | Mail::Nonce { .. }
            | Mail::Change { .. }
            | Mail::Directory { .. }
            | Mail::DirectoryTaken { .. }
            | Mail::Listeners { .. }
            | Mail::FindConnection { .. }
            | Mail::Survey { .. }
            | Mail::TakeSeat { .. }
            | Mail::SeatTaken { .. }
            | Mail::HoldSeat(_)
            | Mail::GiveBackSeat(_)
            | Mail::Answer { .. } => None,
        }
    }
}

fn decode(stored: Stored) -> Option<Kept> {
    Kept::decode(stored.serial, stored.timestamp_ms, &stored.body)
}
