//! Events of channels at home here that outlive the process: on their way to the disk, and back.
//!
//! A home that has given an event its place goes on at once. What it tells of the channel from then on,
//! to whomever, waits here until the event is as safe as its namespace asks for: frames, confirmations,
//! answers, events for rules. So nobody ever learns of an event that the next start will not know of, and
//! what waits goes out in the order in which it was told. Other channels are not concerned.
//!
//! An event that the journal gives up has not happened: its publisher is told so, nobody else has heard of
//! it, and its channel forgets it.
//!
//! A channel of which something is kept is loaded when it is first asked for: the newest of its events
//! come back into memory, while the mail for it waits. What lies further back is read for those who need
//! it.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use super::encode::Joining;
use super::{Mail, ReturnAddress, Shard};
use crate::ably::{
    Ack, Answer, ChannelSerial, Counter, Direction, Directory, ErrorCode, ErrorInfo, HistoryItem,
    HistoryPage, HistoryQuery, MESSAGES_MAX, Publication, Question, RuleEvent, SeriesId, Since,
};
use crate::base::{Level, LogLine, Now};
use crate::channel::ChannelKey;
use crate::channel::history::History;
use crate::channel::home::{Durable, HomeChannel, Older, OlderWanted};
use crate::channel::kept::Kept;
use crate::channel::log::Link;
use crate::journal::{
    self, Command, Done, Event, GivenUp, Journal, JournalCounters, JournalGauges, Notice, Query,
    Refusal, Safety, Stored,
};

/// Mail and events that wait for the disk, at most; publishes to channels that are kept are refused then.
const OWED_MAX: usize = 65_536;

/// Mail that waits for channels to be loaded; beyond it they begin without what is kept of them in
/// memory, and it is read when somebody needs it.
const LOADING_MAIL_MAX: usize = 65_536;

/// Of `lag_bytes_max`, what a channel's subscribers may be sent in one turn because the disk has caught up, or
/// the channel is loaded: beyond it they would be cut off for a lag that is none of theirs. Frames are longer
/// than the events in them, and a subscriber may be behind already.
const BURST_DIVISOR: u32 = 2;

/// Who waits for the same part of a channel's past, at most.
const READERS_MAX: usize = 65_536;

/// Bytes that are read for one page of history.
const PAGE_BYTES_MAX: u64 = 2 << 20;

/// Why an event is refused that would have to wait for the disk with too many others.
pub(super) const DISK_IS_BEHIND: &str =
    "the disk is behind with what is to be kept of this channel; try again";

/// What a home has told and nobody hears yet.
struct Waiting {
    /// The event that it waits for, by its number.
    until: u64,
    /// The newest event of the channel that it may tell of; 0: it tells of none.
    of: u64,
    owed: Owed,
}

enum Owed {
    Mail(u16, Mail),
    /// An answer that shows the channel as it was then, and what it is the answer to.
    View(u16, Mail, Box<Mail>),
    Event(RuleEvent),
}

/// A channel of which an event is not as safe as it is to be.
struct Awaited {
    safety: Safety,
    /// The event that is waited for, by its number: the channel's newest, or one behind it.
    until: u64,
    newest: u64,
    /// What subscribers have not heard of: bytes of each event, with what it waits for.
    unheard: VecDeque<(u64, u64)>,
    unheard_bytes: u64,
}

impl Awaited {
    fn new(safety: Safety) -> Awaited {
        Awaited { safety, until: 0, newest: 0, unheard: VecDeque::new(), unheard_bytes: 0 }
    }

    /// What waits for this event and those before is told.
    fn settle(&mut self, progress: u64) {
        while let Some((_, bytes)) = self.unheard.pop_front_if(|(until, _)| *until <= progress) {
            self.unheard_bytes -= bytes;
        }
    }
}

/// Where what is told of one channel waits.
pub(super) struct OwedQueue<'a> {
    queue: &'a mut VecDeque<Waiting>,
    awaited: &'a mut Awaited,
    of: u64,
}

impl OwedQueue<'_> {
    /// The same for what waits, and holds whatever becomes of that: presence is not kept.
    pub fn for_presence(self, is_presence: bool) -> Self {
        OwedQueue { of: if is_presence { 0 } else { self.of }, ..self }
    }

    /// An event of about so many bytes is told to subscribers.
    pub fn count(&mut self, bytes: u64) {
        self.awaited.unheard.push_back((self.awaited.until, bytes));
        self.awaited.unheard_bytes += bytes;
    }

    pub fn push_mail(&mut self, to: u16, mail: Mail) {
        self.push(Owed::Mail(to, mail));
    }

    pub fn push_event(&mut self, event: RuleEvent) {
        self.push(Owed::Event(event));
    }

    fn push(&mut self, owed: Owed) {
        self.queue.push_back(Waiting { until: self.awaited.until, of: self.of, owed });
    }
}

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

/// The journal of this shard, and who waits for it.
pub(super) struct Keeping {
    journal: Journal,
    series: Arc<[SeriesId]>,
    /// Channels of which an event is not as safe as it is to be, with its number.
    awaited: HashMap<ChannelKey, Awaited>,
    /// By [`Safety`]: what waits, in the order in which it was told.
    owed: [VecDeque<Waiting>; 2],
    queries: HashMap<u64, Purpose>,
    readers: usize,
    /// Channels that are being loaded.
    loading: HashMap<ChannelKey, Loading>,
    loading_mail: usize,
    /// Whether any namespace is kept.
    has_persisted: bool,
    has_ended: bool,
    /// By [`Safety`]: up to where what has waited was let go.
    settled: [u64; 2],
}

impl Keeping {
    fn new(journal: Journal) -> Keeping {
        Keeping {
            series: journal.series().collect(),
            journal,
            awaited: HashMap::new(),
            owed: Default::default(),
            queries: HashMap::new(),
            readers: 0,
            loading: HashMap::new(),
            loading_mail: 0,
            has_persisted: false,
            has_ended: false,
            settled: [0; 2],
        }
    }

    /// Where what is told of the channel has to wait, if it has to.
    pub fn owed_of(&mut self, key: &ChannelKey) -> Option<OwedQueue<'_>> {
        if self.awaited.is_empty() {
            return None;
        }
        let awaited = self.awaited.get_mut(key)?;
        let queue = &mut self.owed[awaited.safety as usize];
        // What was told of another channel before may wait for longer; the queue keeps its order.
        let last = queue.back().map_or(0, |last| last.until);
        awaited.until = awaited.until.max(last);
        let of = awaited.newest;
        Some(OwedQueue { queue, awaited, of })
    }

    /// Whether another event of the channel may wait for the disk, if it has to: of the channel no more waits
    /// than subscribers may be sent at once.
    pub fn has_room(&self, key: &ChannelKey, burst_bytes_max: u64) -> bool {
        let awaited = self.awaited.get(key);
        awaited.is_none_or(|it| it.unheard_bytes < burst_bytes_max && self.owed_count() < OWED_MAX)
    }

    /// Has a channel that begins go on where what is kept of it ends; what happened before `oldest_ms` is
    /// too old.
    pub fn begin(&self, now: Now, home: HomeChannel, ack: Ack, oldest_ms: u64) -> HomeChannel {
        let key = home.key().as_str();
        let (floor, newest) = (self.journal.floor(key, awaits(ack)), self.journal.newest(key));
        let floor = floor.max(ChannelSerial::last_within(oldest_ms, floor.series()));
        let durable = Durable { series: Arc::clone(&self.series), floor };
        home.with_durable(now, durable, newest)
    }

    /// Whether channels may be forgotten whose events are kept: all of those can be read.
    pub fn may_forget(&self) -> bool {
        self.journal.is_written()
    }

    /// As in [`Journal::next_timeout_ms`].
    pub fn next_timeout_ms(&self) -> Option<u64> {
        self.journal.next_timeout_ms()
    }

    /// Takes another directory.
    pub fn set_directory(&mut self, directory: &Directory) {
        self.has_persisted = directory.has_persisted();
        self.journal.set_wanted(self.has_persisted);
    }

    /// Whether any namespace is kept.
    pub fn has_persisted(&self) -> bool {
        self.has_persisted
    }

    /// Channels that are being read before they are open.
    pub fn loading_count(&self) -> usize {
        self.loading.len()
    }

    fn owed_count(&self) -> usize {
        self.owed.iter().map(VecDeque::len).sum()
    }
}

impl Shard {
    /// What the serials made here end with; unique to this start of the daemon and this shard.
    pub fn series(&self) -> SeriesId {
        self.homes.series
    }

    /// Has the shard keep channels of persisted namespaces in `journal`.
    #[must_use]
    pub fn with_journal(mut self, journal: Journal) -> Shard {
        let mut keeping = Keeping::new(journal);
        keeping.set_directory(&self.directory);
        self.homes.keeping = Some(Box::new(keeping));
        self
    }

    /// The next thing to be done with the files of the journal.
    pub fn poll_journal(&mut self) -> Option<Command> {
        self.homes.keeping.as_mut()?.journal.poll_command()
    }

    /// Something was done with the files of the journal.
    pub fn handle_journal(&mut self, done: Done) {
        let keeping = self.homes.keeping.as_mut().expect("it has asked for it");
        keeping.journal.handle_done(done);
        self.settle_journal();
    }

    /// Lets the journal know the time.
    pub(super) fn advance_journal(&mut self) {
        let Some(keeping) = &mut self.homes.keeping else { return };
        keeping.journal.handle_timeout(self.now);
        self.settle_journal();
    }

    /// Has everything written that is not, and notes that nothing is missing.
    pub(super) fn end_journal(&mut self) {
        if let Some(keeping) = &mut self.homes.keeping {
            keeping.has_ended = keeping.journal.end();
        }
    }

    /// Whether everything is written and nothing came behind.
    pub(super) fn has_ended_journal(&self) -> bool {
        self.homes.keeping.as_ref().is_none_or(|keeping| keeping.has_ended)
    }

    /// How much the journal holds.
    pub(super) fn journal_gauges(&self) -> JournalGauges {
        self.homes.keeping.as_ref().map(|keeping| keeping.journal.gauges()).unwrap_or_default()
    }

    /// What the journal has counted.
    pub(super) fn journal_counters(&self) -> JournalCounters {
        self.homes.keeping.as_ref().map(|keeping| keeping.journal.counters()).unwrap_or_default()
    }

    /// Lets go what has waited, answers those who have asked, and tells the log.
    fn settle_journal(&mut self) {
        let Some(keeping) = &mut self.homes.keeping else { return };
        for safety in [Safety::Written, Safety::Synced] {
            let progress = keeping.journal.progress(safety);
            if std::mem::replace(&mut keeping.settled[safety as usize], progress) == progress {
                continue;
            }
            let owed = &mut keeping.owed[safety as usize];
            while let Some(waiting) = owed.pop_front_if(|waiting| waiting.until <= progress) {
                match waiting.owed {
                    Owed::Mail(to, mail) | Owed::View(to, mail, _) => {
                        self.outboxes[usize::from(to)].push_back(mail);
                    }
                    Owed::Event(event) => self.hooks.push(event),
                }
            }
            keeping.awaited.retain(|_, it| {
                if it.safety == safety {
                    it.settle(progress);
                }
                it.safety != safety || it.until > progress
            });
        }
        self.take_back();
        while let Some(keeping) = &mut self.homes.keeping
            && let Some(answer) = keeping.journal.poll_answer()
        {
            self.handle_kept(answer);
        }
        while let Some(keeping) = &mut self.homes.keeping
            && let Some(notice) = keeping.journal.poll_notice()
        {
            self.log_line(line_of(notice));
        }
    }

    /// Has channels forget what the journal has given up, and lets go of all that has waited: publishers
    /// of what was given up are refused, others hear nothing of it.
    fn take_back(&mut self) {
        let Some(keeping) = &mut self.homes.keeping else { return };
        let Some(given_up) = keeping.journal.take_given_up() else { return };
        let events = given_up.len();
        let numbers: HashSet<u64> = given_up.iter().map(|it| it.number).collect();
        // Nothing is waited for that is neither told nor given up.
        keeping.awaited.clear();
        let waiting: Vec<Waiting> = keeping.owed.iter_mut().flat_map(std::mem::take).collect();
        // By channel, the first event.
        let mut channels: BTreeMap<Arc<str>, ChannelSerial> = BTreeMap::new();
        for GivenUp { channel, serial, .. } in given_up {
            channels.entry(channel).or_insert(serial);
        }
        for (channel, from) in channels {
            let key = ChannelKey::of_text(&channel);
            if self.homes.take_back(self.now, &key, from)
                && !self.homes.keeping.as_ref().is_some_and(|it| it.loading.contains_key(&key))
                && let Some(keeping) = self.load(&key)
            {
                keeping.loading.insert(key, Loading::default());
            }
        }
        let mut to_answer_again = Vec::new();
        for Waiting { of, owed, .. } in waiting {
            let is_given_up = numbers.contains(&of);
            match owed {
                Owed::Event(event) if !is_given_up => self.hooks.push(event),
                Owed::Event(_) if is_given_up => {}
                Owed::Mail(to, mail @ (Mail::Frame { .. } | Mail::Append(_))) if is_given_up => {
                    self.post(to.into(), mail.without_frame());
                }
                Owed::View(to, _, question) if is_given_up => {
                    to_answer_again.push((to, *question));
                }
                Owed::Mail(to, Mail::Published { transport, request, result: Ok(_) })
                    if is_given_up =>
                {
                    let text = "the disk is full or fails, so this could not be kept and is not \
                                published; try again later";
                    let result = Err(ErrorInfo::new(ErrorCode::BUSY, text));
                    self.post(to.into(), Mail::Published { transport, request, result });
                }
                Owed::Mail(to, mail) | Owed::View(to, mail, _) => self.post(to.into(), mail),
                Owed::Event(event) => self.hooks.push(event),
            }
        }
        // What they are shown now is behind everything that was told before.
        for (to, question) in to_answer_again {
            self.handle_mail(to.into(), question);
        }
        if events > 0 {
            let text =
                "the message log could not be written for too long: publishes were taken back";
            self.log_line(LogLine::new(Level::Error, text).with("events", events));
        }
    }

    /// Sends what a home tells of a channel, now or once it may be known.
    pub(super) fn post_of(&mut self, key: &ChannelKey, to: u16, mail: Mail) {
        match self.homes.keeping.as_mut().and_then(|keeping| keeping.owed_of(key)) {
            Some(owed) => {
                let is_outcome = matches!(mail, Mail::Published { .. });
                owed.for_presence(!is_outcome).push_mail(to, mail);
            }
            None if matches!(mail, Mail::Published { result: Ok(_), .. }) => {
                self.post_outcome(key, to, mail);
            }
            None => self.post(usize::from(to), mail),
        }
    }

    /// Confirms a publish that nobody has to wait for; but the publisher does while the disk is behind, so that
    /// it is no faster than that.
    fn post_outcome(&mut self, key: &ChannelKey, to: u16, mail: Mail) {
        let is_slow = self.homes.keeping.as_ref().is_some_and(|it| it.journal.is_behind());
        if !is_slow || self.homes.ack(key) != Some(Ack::Memory) {
            return self.post(usize::from(to), mail);
        }
        let keeping = self.homes.keeping.as_mut().expect("it is behind");
        let queue = &mut keeping.owed[Safety::Written as usize];
        let last = queue.back().map_or(0, |last| last.until);
        let until = last.max(keeping.journal.appended());
        // All may be written, and wait to be synchronised alone: then nothing more comes to let it go.
        if until <= keeping.journal.progress(Safety::Written) {
            return self.post(usize::from(to), mail);
        }
        queue.push_back(Waiting { until, of: 0, owed: Owed::Mail(to, mail) });
    }

    /// The same for an answer that shows what the channel holds; `question` has it made again.
    pub(super) fn post_view_of(
        &mut self,
        key: &ChannelKey,
        to: u16,
        mail: Mail,
        question: impl FnOnce() -> Mail,
    ) {
        match self.homes.keeping.as_mut().and_then(|keeping| keeping.owed_of(key)) {
            Some(mut owed) => owed.push(Owed::View(to, mail, Box::new(question()))),
            None => self.post(usize::from(to), mail),
        }
    }

    /// Bytes that a channel's subscribers may be sent at once, about.
    pub(super) fn burst_bytes_max(&self) -> u64 {
        u64::from(self.config.lag_bytes_max / BURST_DIVISOR)
    }

    /// Whether another event of the channel can be kept, if it is to be. Asked before it has a place in the
    /// order.
    pub(super) fn check_journal(&self, key: &ChannelKey) -> Result<(), ErrorInfo> {
        let Some(keeping) = &self.homes.keeping else { return Ok(()) };
        if self.homes.ack(key).is_none() {
            return Ok(());
        }
        let text = match keeping.journal.check() {
            Ok(()) if keeping.owed_count() < OWED_MAX => return Ok(()),
            Ok(()) | Err(Refusal::Behind) => DISK_IS_BEHIND,
            Err(Refusal::Failing) => {
                "this channel's messages are kept on disk, which is full or fails; try again later"
            }
        };
        Err(ErrorInfo::new(ErrorCode::BUSY, text))
    }

    /// Keeps an event that has its place in the order now. What is told of the channel from here on waits
    /// for it, as its namespace asks for.
    pub(super) fn keep(&mut self, key: &ChannelKey, kept: impl FnOnce() -> Kept) {
        let Some(ack) = self.homes.ack(key) else { return };
        let Some(keeping) = &mut self.homes.keeping else { return };
        let kept = kept();
        let mut body = Vec::new();
        kept.encode(&mut body);
        let tally = self.stats.of(key.app_id(), self.now.unix_ms);
        tally.add(Counter::PersistedMessages, kept.messages().into());
        tally.add(Counter::PersistedMessageBytes, body.len() as u64);
        let event = Event {
            channel: key.as_str(),
            serial: kept.serial(),
            timestamp_ms: kept.timestamp_ms(),
            messages: kept.messages(),
            awaits: awaits(ack),
            body: &body,
        };
        let number = keeping.journal.append(&event);
        keeping.has_ended = false;
        let Some(safety) = event.awaits else {
            // The namespace may have asked for more before: then this waits for what has.
            keeping.awaited.get_mut(key).into_iter().for_each(|it| it.newest = number);
            return;
        };
        let awaited = keeping.awaited.entry(key.clone()).or_insert_with(|| Awaited::new(safety));
        // What waits for less safety is let go first. What waits for more is not overtaken, although the
        // namespace may ask for less by now.
        awaited.safety = safety.max(awaited.safety);
        (awaited.until, awaited.newest) = (number, number);
    }

    /// Has mail wait for the channel that it is for, if that is not loaded; otherwise gives it back.
    pub(super) fn wait_for_channel(&mut self, from: u16, mail: Mail) -> Option<Mail> {
        let burst_bytes_max = self.burst_bytes_max();
        let keeping = self.homes.keeping.as_mut().filter(|keeping| keeping.has_persisted);
        let (Some(keeping), Some((key, opens))) = (keeping, mail.channel_at_home()) else {
            return Some(mail);
        };
        if let Some(loading) = keeping.loading.get_mut(key) {
            if let Mail::Publish { reply_to, accepted, .. } = &mail {
                if loading.publish_bytes >= burst_bytes_max {
                    let ReturnAddress { shard, transport, request } = *reply_to;
                    let result = Err(ErrorInfo::new(ErrorCode::BUSY, DISK_IS_BEHIND));
                    self.post(shard.into(), Mail::Published { transport, request, result });
                    return None;
                }
                loading.publish_bytes += accepted.size_bytes();
            }
            keeping.loading_mail += 1;
            loading.mail.push((from, mail));
            return None;
        }
        if !opens
            || !keeping.journal.has(key.as_str())
            || keeping.loading_mail >= LOADING_MAIL_MAX
            || self.homes.get(key).is_some()
            || self.homes.ack(key).is_none()
        {
            return Some(mail);
        }
        // Reading its history does not open a channel, unless that takes what only memory has.
        let is_history = matches!(&mail, Mail::Ask { question: Question::History(_), .. });
        if is_history && !self.homes.has_mutable_messages(key) {
            return Some(mail);
        }
        if !self.homes.has_room(key, self.config.channels_max) {
            return Some(mail);
        }
        let key = key.clone();
        match self.load(&key) {
            Some(keeping) => {
                keeping.loading_mail += 1;
                let loading = Loading { mail: vec![(from, mail)], publish_bytes: 0 };
                keeping.loading.insert(key, loading);
                None
            }
            None => Some(mail),
        }
    }

    /// Has the newest of a channel's events read back; mail for it is to wait for them. `None`: too many
    /// are being read.
    fn load(&mut self, key: &ChannelKey) -> Option<&mut Keeping> {
        let bytes_max = self.config.history.channel_bytes_max;
        let oldest_ms = self.now.unix_ms.saturating_sub(self.homes.persisted_ms());
        let keeping = self.homes.keeping.as_mut()?;
        let (start_ms, direction) = (oldest_ms, Direction::Backwards);
        let all = Query::all_of(key.as_str().into());
        let query = Query { start_ms, direction, bytes_max, ..all };
        let number = keeping.journal.read(query)?;
        keeping.queries.insert(number, Purpose::Load(key.clone()));
        Some(keeping)
    }

    /// The journal has answered.
    fn handle_kept(&mut self, answer: journal::Answer) {
        let journal::Answer { query, events, is_complete, is_damaged } = answer;
        let keeping = self.homes.keeping.as_mut().expect("it has answered");
        let purpose = keeping.queries.remove(&query).expect("every query has its purpose");
        let count = events.len();
        let events: Vec<Kept> = events.into_iter().filter_map(decode).collect();
        let is_damaged = is_damaged || events.len() < count;
        match purpose {
            Purpose::Load(key) => {
                let waiting = keeping.loading.remove(&key).expect("it was being loaded").mail;
                keeping.loading_mail -= waiting.len();
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
                keeping.readers -= readers.len();
                self.raise_floor(&key);
                // Continuity is not to be had across damage, and then there is nothing to replay.
                let older = Older { events, until, is_cut: !is_complete || is_damaged };
                for reply_to in readers {
                    let older = (!is_damaged).then_some(&older);
                    self.join_with(reply_to, &key, &joining, older);
                }
            }
            Purpose::History { key, query, until, reply_to } => {
                keeping.readers -= 1;
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
        if keeping.readers >= READERS_MAX {
            return false;
        }
        let same = keeping.queries.values_mut().find_map(|purpose| match purpose {
            Purpose::Join { key: of, joining: known, readers, .. }
                if of == key && **known == *joining =>
            {
                Some(readers)
            }
            Purpose::Join { .. } | Purpose::Load(_) | Purpose::History { .. } => None,
        });
        if let Some(readers) = same {
            readers.push(reply_to);
            keeping.readers += 1;
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
        keeping.readers += 1;
        let (key, joining) = (key.clone(), Box::new(joining.clone()));
        let readers = vec![reply_to];
        keeping.queries.insert(number, Purpose::Join { key, joining, until, readers });
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
        if keeping.readers >= READERS_MAX {
            return self.refuse_history(reply_to);
        }
        let Some(number) = keeping.journal.read(wanted) else {
            return self.refuse_history(reply_to);
        };
        keeping.readers += 1;
        let (key, query) = (key.clone(), query.clone());
        keeping.queries.insert(number, Purpose::History { key, query, until, reply_to });
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
            bytes_max: PAGE_BYTES_MAX,
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
    /// Of what a stream is told, nothing but its place: the order goes on behind it, also where it has not
    /// happened, and a client may have been told of that place already.
    fn without_frame(self) -> Mail {
        let (stream, serial, has_members) = match &self {
            Mail::Frame { stream, serial, has_members, .. } => (*stream, *serial, *has_members),
            Mail::Append(append) => (append.stream, append.serial, append.has_members),
            _ => return self,
        };
        let (publisher, frame, link) = (None, None, Link::None);
        Mail::Frame { stream, serial, publisher, has_members, frame, link }
    }

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

/// What a namespace that asks for it waits for.
fn awaits(ack: Ack) -> Option<Safety> {
    match ack {
        Ack::Memory => None,
        Ack::Written => Some(Safety::Written),
        Ack::Fsynced => Some(Safety::Synced),
    }
}

fn decode(stored: Stored) -> Option<Kept> {
    Kept::decode(stored.serial, stored.timestamp_ms, &stored.body)
}

fn line_of(notice: Notice) -> LogLine {
    let error = |errno| std::io::Error::from_raw_os_error(errno);
    let name = |segment: journal::SegmentId| format!("{}/{}", segment.shard, segment.number);
    match notice {
        Notice::Failing(errno) => {
            let text =
                "the message log cannot be written: publishes to persisted channels are refused";
            LogLine::new(Level::Error, text).with("error", error(errno))
        }
        Notice::Recovered => LogLine::new(Level::Warn, "the message log is written again"),
        Notice::Unreadable(segment, errno) => {
            let line = LogLine::new(Level::Error, "part of the message log cannot be read");
            let line = line.with("segment", name(segment));
            match errno {
                Some(errno) => line.with("error", error(errno)),
                None => line.with("error", "it is not what was written"),
            }
        }
        Notice::Unremovable(segment, errno) => {
            let line = LogLine::new(Level::Warn, "a segment of the message log cannot be removed");
            line.with("segment", name(segment)).with("error", error(errno))
        }
    }
}
