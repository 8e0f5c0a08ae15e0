//! What homes have told of channels and nobody hears yet, since an event before it is not as safe as its
//! namespace asks for: frames, confirmations, answers, events for rules.
//!
//! It goes out in the order in which it was told, and all at once when the disk has what it waits for: so of one
//! channel no more may wait than its subscribers can be sent at once. What was told of an event that the
//! journal gives up is told as if that had not happened.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use super::durable::Keeping;
use super::hooks::HookOutbox;
use super::mail::Outbox;
use super::{Mail, Shard};
use crate::ably::{Ack, ChannelSerial, ErrorCode, ErrorInfo, RuleEvent};
use crate::base::{Level, LogLine};
use crate::channel::ChannelKey;
use crate::channel::broadcast::Broadcast;
use crate::channel::home::HomeChannel;
use crate::channel::log::Link;
use crate::journal::{GivenUp, Safety};

/// Mail and events that wait for the disk, at most; publishes to channels that are kept are refused then.
const OWED_MAX: usize = 65_536;

/// Of `lag_bytes_max`, what a channel's subscribers may be sent in one turn because the disk has caught up, or
/// the channel is loaded: beyond it they would be cut off for a lag that is none of theirs. Frames are longer
/// than the events in them, and a subscriber may be behind already.
const BURST_DIVISOR: u32 = 2;

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

impl Owed {
    /// Tells it.
    fn tell(self, outboxes: &mut [Outbox], hooks: &mut HookOutbox) {
        match self {
            Owed::Mail(to, mail) | Owed::View(to, mail, _) => {
                outboxes[usize::from(to)].push_back(mail);
            }
            Owed::Event(event) => hooks.push(event),
        }
    }
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

/// Sends what a subscriber's shard is told of an event: now, or where it has to wait.
pub(super) fn send(outboxes: &mut [Outbox], owed: &mut Option<OwedQueue<'_>>, to: u16, mail: Mail) {
    match owed {
        None => outboxes[usize::from(to)].push_back(mail),
        Some(owed) => owed.push_mail(to, mail),
    }
}

impl OwedQueue<'_> {
    /// The same for what waits, and holds whatever becomes of that: presence is not kept.
    pub fn for_presence(self, is_presence: bool) -> Self {
        OwedQueue { of: if is_presence { 0 } else { self.of }, ..self }
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

/// See the module text.
#[derive(Default)]
pub(super) struct Owing {
    /// Channels of which an event is not as safe as it is to be.
    awaited: HashMap<ChannelKey, Awaited>,
    /// By [`Safety`]: what waits, in the order in which it was told.
    queues: [VecDeque<Waiting>; 2],
    /// By [`Safety`]: up to where what has waited was let go.
    settled: [u64; 2],
}

impl Owing {
    /// What is told of the channel from here on is told of this event, which it waits for if it is to have
    /// some `safety`.
    pub fn append(&mut self, key: &ChannelKey, number: u64, safety: Option<Safety>) {
        let Some(safety) = safety else {
            // The namespace may have asked for more before: then this waits for what has.
            return self.awaited.get_mut(key).into_iter().for_each(|it| it.newest = number);
        };
        let awaited = self.awaited.entry(key.clone()).or_insert_with(|| Awaited::new(safety));
        // What waits for less safety is let go first. What waits for more is not overtaken, although the
        // namespace may ask for less by now.
        awaited.safety = safety.max(awaited.safety);
        (awaited.until, awaited.newest) = (number, number);
    }

    /// Where what is told of the channel has to wait, if it has to.
    pub fn of(&mut self, key: &ChannelKey) -> Option<OwedQueue<'_>> {
        if self.awaited.is_empty() {
            return None;
        }
        let awaited = self.awaited.get_mut(key)?;
        let queue = &mut self.queues[awaited.safety as usize];
        // What was told of another channel before may wait for longer; the queue keeps its order.
        let last = queue.back().map_or(0, |last| last.until);
        awaited.until = awaited.until.max(last);
        let of = awaited.newest;
        Some(OwedQueue { queue, awaited, of })
    }

    /// The same for what subscribers are sent of an event.
    pub fn of_event(&mut self, home: &HomeChannel, event: &Broadcast) -> Option<OwedQueue<'_>> {
        let owed = self.of(home.key())?.for_presence(event.is_presence());
        if !home.subscribers().is_empty() {
            let bytes = event.size_bytes();
            owed.awaited.unheard.push_back((owed.awaited.until, bytes));
            owed.awaited.unheard_bytes += bytes;
        }
        Some(owed)
    }

    /// Whether another event of the channel may wait for the disk, if it has to: of the channel no more waits
    /// than subscribers may be sent at once.
    pub fn has_room(&self, key: &ChannelKey, burst_bytes_max: u64) -> bool {
        let awaited = self.awaited.get(key);
        awaited.is_none_or(|it| it.unheard_bytes < burst_bytes_max && !self.is_full())
    }

    /// Whether as much waits as may.
    pub fn is_full(&self) -> bool {
        self.queues.iter().map(VecDeque::len).sum::<usize>() >= OWED_MAX
    }
}

impl Shard {
    /// Sends what a home tells of a channel, now or once it may be known.
    pub(super) fn post_of(&mut self, key: &ChannelKey, to: u16, mail: Mail) {
        match self.homes.keeping.as_mut().and_then(|keeping| keeping.owing.of(key)) {
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
        let queue = &mut keeping.owing.queues[Safety::Written as usize];
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
        match self.homes.keeping.as_mut().and_then(|keeping| keeping.owing.of(key)) {
            Some(mut owed) => owed.push(Owed::View(to, mail, Box::new(question()))),
            None => self.post(usize::from(to), mail),
        }
    }

    /// Bytes that a channel's subscribers may be sent at once, about.
    pub(super) fn burst_bytes_max(&self) -> u64 {
        u64::from(self.config.lag_bytes_max / BURST_DIVISOR)
    }

    /// Lets go what has waited for what the disk has now.
    pub(super) fn let_go(&mut self) {
        let Some(keeping) = &mut self.homes.keeping else { return };
        let Keeping { journal, owing: Owing { awaited, queues, settled }, .. } = &mut **keeping;
        for safety in [Safety::Written, Safety::Synced] {
            let progress = journal.progress(safety);
            if std::mem::replace(&mut settled[safety as usize], progress) == progress {
                continue;
            }
            let queue = &mut queues[safety as usize];
            while let Some(waiting) = queue.pop_front_if(|waiting| waiting.until <= progress) {
                waiting.owed.tell(&mut self.outboxes, &mut self.hooks);
            }
            awaited.retain(|_, it| {
                if it.safety == safety {
                    it.settle(progress);
                }
                it.safety != safety || it.until > progress
            });
        }
    }

    /// Has channels forget what the journal has given up, and lets go of all that has waited: publishers
    /// of what was given up are refused, others hear nothing of it.
    pub(super) fn take_back(&mut self) {
        let Some(keeping) = &mut self.homes.keeping else { return };
        let Some(given_up) = keeping.journal.take_given_up() else { return };
        let events = given_up.len();
        let numbers: HashSet<u64> = given_up.iter().map(|it| it.number).collect();
        // Nothing is waited for that is neither told nor given up.
        keeping.owing.awaited.clear();
        let queues = &mut keeping.owing.queues;
        let waiting: Vec<Waiting> = queues.iter_mut().flat_map(std::mem::take).collect();
        // By channel, the first event.
        let mut channels: BTreeMap<Arc<str>, ChannelSerial> = BTreeMap::new();
        for GivenUp { channel, serial, .. } in given_up {
            channels.entry(channel).or_insert(serial);
        }
        for (channel, from) in channels {
            let key = ChannelKey::of_text(&channel);
            if self.homes.take_back(self.now, &key, from) {
                self.load_again(&key);
            }
        }
        let mut to_answer_again = Vec::new();
        for Waiting { of, owed, .. } in waiting {
            match owed {
                owed if !numbers.contains(&of) => owed.tell(&mut self.outboxes, &mut self.hooks),
                Owed::Event(_) => {}
                Owed::View(to, _, question) => to_answer_again.push((to, *question)),
                Owed::Mail(to, Mail::Published { transport, request, result: Ok(_) }) => {
                    let text = "the disk is full or fails, so this could not be kept and is not \
                                published; try again later";
                    let result = Err(ErrorInfo::new(ErrorCode::BUSY, text));
                    self.post(to.into(), Mail::Published { transport, request, result });
                }
                Owed::Mail(to, mail) => self.post(to.into(), mail.without_frame()),
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
}
