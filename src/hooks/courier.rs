//! What one rule sends next: order, concurrency, retries, the breaker. Time and outcomes come in as
//! arguments, requests go out.
//!
//! Events stand in **lanes**: one for each channel, or one for all where requests are batches. A lane has
//! one request under way at most, so that its order is kept; what fails stays first in its lane.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::ably::{RequestShape, RuleEvent};
use crate::base::Now;

/// First pause after a failure; each further one is longer by [`BACKOFF_FACTOR`] (15.7).
const BACKOFF_FIRST_MS: f64 = 1000.0;
const BACKOFF_FACTOR: f64 = std::f64::consts::SQRT_2;
/// Longest pause, unless the endpoint asks for a longer one.
const BACKOFF_MAX_MS: f64 = 60_000.0;
/// Longest pause that an endpoint may ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);

/// Failures in a row, of all lanes together, after which one request at a time tries the endpoint.
const BREAKER_FAILURES: u32 = 5;

/// How far requests may run ahead of `requests_per_second_max`: the clock here counts milliseconds, and
/// whoever asks for the next request may be late.
const AHEAD_US: u64 = 10_000;

/// How a rule's events are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Requests under way; a batch is always one.
    pub concurrency: usize,
    /// Requests that begin in a second, evenly; 0: no bound.
    pub requests_per_second_max: usize,
    /// Events of one batch.
    pub batch_events_max: usize,
    /// Bytes of events in one batch; one larger event is sent alone.
    pub batch_bytes_max: u64,
    /// From one batch to the next, unless a whole one waits.
    pub batch_interval: Duration,
    /// Age at which an event is given up.
    pub retry_for: Duration,
}

/// An event with its place among all.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Counts events; later ones have larger numbers, also after a restart.
    pub id: u64,
    /// What to send.
    pub event: Arc<RuleEvent>,
}

/// Events for one request, oldest first; at least one.
#[derive(Debug)]
pub struct Parcel {
    lane: Arc<str>,
    /// Of one channel and alone, or of several for a batch.
    pub entries: Vec<Entry>,
    /// Counts requests with the first of them, from 1.
    pub attempt: u32,
}

impl Parcel {
    /// One event on its own, which no courier knows of.
    pub fn alone(entry: Entry) -> Parcel {
        Parcel { lane: Arc::from(""), entries: vec![entry], attempt: 1 }
    }

    /// How its events are sent. They say so themselves: their rule may have changed since.
    pub fn shape(&self) -> RequestShape {
        self.entries[0].event.rule().shape
    }
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// 2xx.
    Delivered,
    /// The endpoint does not want it and will not want it later: given up at once.
    Refused,
    /// To be tried again.
    Failed {
        /// How long the endpoint wants to be left alone.
        retry_after: Option<Duration>,
    },
}

/// Why an event was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The endpoint has answered that it does not want it.
    Refused,
    /// It could not be delivered in time.
    Expired,
    /// It had to make room for newer ones.
    Dropped,
}

/// What an event has come to.
#[derive(Debug)]
pub struct Finished {
    /// Which.
    pub entry: Entry,
    /// `None`: it was delivered.
    pub given_up: Option<Reason>,
}

#[derive(Default)]
struct Lane {
    entries: VecDeque<Entry>,
    /// How many of the first ones are under way.
    in_flight: usize,
    /// Failures of the first entry.
    failures: u32,
    /// When it is looked at again, if it waits for a time.
    waits_until_ms: Option<u64>,
}

/// See the module text.
pub struct Courier {
    shape: RequestShape,
    pace: Pace,
    lanes: HashMap<Arc<str>, Lane>,
    /// Lanes with something to send now.
    ready: VecDeque<Arc<str>>,
    /// Lanes that wait for a time on the monotonic clock.
    waiting: BTreeSet<(u64, Arc<str>)>,
    /// The lane of every event, oldest first.
    order: BTreeMap<u64, Arc<str>>,
    in_flight: usize,
    /// Failures in a row.
    failures: u32,
    /// Until when nothing is sent at all, for failures.
    closed_until_ms: u64,
    batch_sent_ms: Option<u64>,
    /// Where requests at the rate that is allowed would have got to, in microseconds (GCRA).
    paced_us: u64,
    random: u64,
}

impl Courier {
    /// A courier without events. `seed` spreads the pauses.
    pub fn new(shape: RequestShape, pace: Pace, seed: u64) -> Courier {
        Courier {
            shape,
            pace,
            lanes: HashMap::new(),
            ready: VecDeque::new(),
            waiting: BTreeSet::new(),
            order: BTreeMap::new(),
            in_flight: 0,
            failures: 0,
            closed_until_ms: 0,
            batch_sent_ms: None,
            paced_us: 0,
            random: seed | 1,
        }
    }

    /// Has everything from now on follow another pace.
    pub fn set_pace(&mut self, pace: Pace) {
        self.pace = pace;
    }

    /// Requests under way.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// The events that wait or are under way, oldest first.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.order.iter().filter_map(|(id, lane)| {
            let entries = &self.lanes[lane].entries;
            let at = entries.binary_search_by_key(id, |entry| entry.id).ok()?;
            Some(&entries[at])
        })
    }

    /// Requests that may be under way now.
    fn concurrency(&self) -> usize {
        match self.shape {
            RequestShape::Batch => 1,
            _ if self.is_broken() => 1,
            RequestShape::Enveloped | RequestShape::Bare => self.pace.concurrency,
        }
    }

    /// Events that wait or are under way.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether so much has failed that one request at a time tries the endpoint.
    pub fn is_broken(&self) -> bool {
        self.failures >= BREAKER_FAILURES
    }

    /// Takes an event; its id is larger than all before.
    pub fn push(&mut self, now: Now, entry: Entry) {
        let name = match self.shape {
            RequestShape::Batch => "",
            RequestShape::Enveloped | RequestShape::Bare => &*entry.event.channel,
        };
        let lane = match self.lanes.get_key_value(name) {
            Some((lane, _)) => Arc::clone(lane),
            None => Arc::from(name),
        };
        self.order.insert(entry.id, Arc::clone(&lane));
        let known = self.lanes.entry(Arc::clone(&lane)).or_default();
        known.entries.push_back(entry);
        let is_first = known.entries.len() == 1;
        // A batch that is complete need not wait for its interval.
        let is_complete = known.entries.len() == self.pace.batch_events_max
            && known.failures == 0
            && known.in_flight == 0;
        if is_first || (self.shape == RequestShape::Batch && is_complete) {
            self.schedule(now, &lane, None);
        }
    }

    /// The next request. Ask until there is none, after every other call.
    pub fn poll_parcel(&mut self, now: Now) -> Option<Parcel> {
        while let Some((at_ms, lane)) = self.waiting.first()
            && *at_ms <= now.mono_ms
        {
            let (at_ms, lane) = (*at_ms, Arc::clone(lane));
            self.waiting.remove(&(at_ms, Arc::clone(&lane)));
            self.lanes.get_mut(&lane).expect("waiting lanes exist").waits_until_ms = None;
            self.ready.push_back(lane);
        }
        if now.mono_ms < self.opens_ms() || self.in_flight >= self.concurrency() {
            return None;
        }
        while let Some(name) = self.ready.pop_front() {
            // One whose events have gone in the meantime, by age or for want of room.
            let Some(lane) = self.lanes.get_mut(&name) else { continue };
            // Or one that was noted twice, and has failed since.
            if lane.in_flight > 0 || lane.waits_until_ms.is_some() {
                continue;
            }
            let mut bytes = 0;
            let bytes_max = self.pace.batch_bytes_max;
            let fits = |entry: &&Entry| {
                bytes += entry.event.body.len() as u64;
                bytes <= bytes_max
            };
            let count = match self.shape {
                RequestShape::Batch => {
                    self.batch_sent_ms = Some(now.mono_ms);
                    let some = lane.entries.iter().take(self.pace.batch_events_max);
                    some.take_while(fits).count().max(1)
                }
                RequestShape::Enveloped | RequestShape::Bare => 1,
            };
            lane.in_flight = count;
            self.in_flight += 1;
            let rate = self.pace.requests_per_second_max as u64;
            if let Some(interval_us) = 1_000_000u64.checked_div(rate) {
                self.paced_us = self.paced_us.max(now.mono_ms * 1000) + interval_us;
            }
            let entries = lane.entries.iter().take(count).cloned().collect();
            let attempt = lane.failures.saturating_add(1);
            return Some(Parcel { lane: name, entries, attempt });
        }
        None
    }

    /// When [`poll_parcel`](Self::poll_parcel) has something to do again, on the monotonic clock.
    pub fn next_send_ms(&self) -> Option<u64> {
        match self.ready.is_empty() {
            false if self.in_flight < self.concurrency() => Some(self.opens_ms()),
            _ => self.waiting.first().map(|(at_ms, _)| (*at_ms).max(self.opens_ms())),
        }
    }

    /// When [`expire`](Self::expire) has something to do again, on the monotonic clock.
    pub fn next_expiry_ms(&self, now: Now) -> Option<u64> {
        let (lane, at) = self.oldest()?;
        let expires_ms =
            lane.entries[at].event.timestamp_ms + self.pace.retry_for.as_millis() as u64;
        Some(now.mono_ms + expires_ms.saturating_sub(now.unix_ms))
    }

    /// Until when nothing is sent: for failures, or because enough was.
    fn opens_ms(&self) -> u64 {
        let paced_ms = self.paced_us.saturating_sub(AHEAD_US).div_ceil(1000);
        self.closed_until_ms.max(paced_ms)
    }

    /// A request has ended. Returns what its events have come to; or, where they are sent again, when that
    /// is, on the monotonic clock.
    pub fn handle_outcome(
        &mut self,
        now: Now,
        parcel: Parcel,
        outcome: Outcome,
    ) -> (Vec<Finished>, Option<u64>) {
        let Parcel { lane: name, entries, .. } = parcel;
        self.in_flight -= 1;
        let lane = self.lanes.get_mut(&name).expect("lanes with requests under way exist");
        assert_eq!(lane.in_flight, entries.len(), "a lane has one request under way");
        lane.in_flight = 0;
        let given_up = match outcome {
            Outcome::Delivered => None,
            Outcome::Refused => Some(Reason::Refused),
            Outcome::Failed { retry_after } => {
                lane.failures = lane.failures.saturating_add(1);
                self.failures = self.failures.saturating_add(1);
                let (own, all) = (lane.failures, self.failures);
                if let Some(retry_after) = retry_after {
                    let pause_ms = retry_after.min(RETRY_AFTER_MAX).as_millis() as u64;
                    self.closed_until_ms = self.closed_until_ms.max(now.mono_ms + pause_ms);
                }
                if all >= BREAKER_FAILURES {
                    let pause_ms = self.pause_ms(all - BREAKER_FAILURES);
                    self.closed_until_ms = self.closed_until_ms.max(now.mono_ms + pause_ms);
                }
                let again_ms = now.mono_ms + self.pause_ms(own - 1);
                self.schedule(now, &name, Some(again_ms));
                return (Vec::new(), Some(again_ms.max(self.opens_ms())));
            }
        };
        // Also a refusal is a sign of life.
        self.failures = 0;
        lane.failures = 0;
        lane.entries.drain(..entries.len());
        for entry in &entries {
            self.order.remove(&entry.id);
        }
        if lane.entries.is_empty() {
            self.lanes.remove(&name);
        } else {
            self.schedule(now, &name, None);
        }
        (entries.into_iter().map(|entry| Finished { entry, given_up }).collect(), None)
    }

    /// Gives up what is too old, a bounded number at a time.
    pub fn expire(&mut self, now: Now) -> Vec<Finished> {
        const AT_ONCE_MAX: usize = 1000;
        let oldest_ms = now.unix_ms.saturating_sub(self.pace.retry_for.as_millis() as u64);
        let mut expired = Vec::new();
        while expired.len() < AT_ONCE_MAX
            && let Some((lane, at)) = self.oldest()
            && lane.entries[at].event.timestamp_ms <= oldest_ms
        {
            expired.extend(self.remove_oldest(Reason::Expired));
        }
        expired
    }

    /// Gives up the oldest event that is not under way.
    pub fn drop_oldest(&mut self) -> Option<Finished> {
        self.remove_oldest(Reason::Dropped)
    }

    /// The lane of the oldest event that is not under way, and its index there.
    fn oldest(&self) -> Option<(&Lane, usize)> {
        let lanes = self.order.iter().map(|(id, name)| (*id, &self.lanes[name]));
        // Only those under way are passed over, which are few.
        let mut waiting = lanes.filter_map(|(id, lane)| {
            let first = lane.entries.get(lane.in_flight)?;
            (first.id == id).then_some((lane, lane.in_flight))
        });
        waiting.next()
    }

    fn remove_oldest(&mut self, reason: Reason) -> Option<Finished> {
        let (lane, at) = self.oldest()?;
        let id = lane.entries[at].id;
        let name = self.order.remove(&id).expect("the oldest is in the order");
        let lane = self.lanes.get_mut(&name).expect("lanes of events exist");
        let entry = lane.entries.remove(at).expect("found there");
        if at == 0 {
            lane.failures = 0;
        }
        if lane.entries.is_empty() {
            if let Some(at_ms) = lane.waits_until_ms {
                self.waiting.remove(&(at_ms, Arc::clone(&name)));
            }
            self.lanes.remove(&name);
        }
        Some(Finished { entry, given_up: Some(reason) })
    }

    /// Has a lane looked at when its pause is over: `again_ms`, the batch interval, or now.
    fn schedule(&mut self, now: Now, name: &Arc<str>, again_ms: Option<u64>) {
        let lane = self.lanes.get_mut(name).expect("only lanes with events are scheduled");
        if let Some(at_ms) = lane.waits_until_ms.take() {
            self.waiting.remove(&(at_ms, Arc::clone(name)));
        }
        let interval = match self.shape {
            RequestShape::Batch if lane.entries.len() < self.pace.batch_events_max => {
                let interval_ms = self.pace.batch_interval.as_millis() as u64;
                self.batch_sent_ms.map(|sent_ms| sent_ms + interval_ms)
            }
            _ => None,
        };
        match again_ms.max(interval).filter(|at_ms| *at_ms > now.mono_ms) {
            Some(at_ms) => {
                lane.waits_until_ms = Some(at_ms);
                self.waiting.insert((at_ms, Arc::clone(name)));
            }
            None => self.ready.push_back(Arc::clone(name)),
        }
    }

    /// The pause after `before` earlier failures, shorter or longer by up to a fifth.
    fn pause_ms(&mut self, before: u32) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let spread = 0.8 + 0.4 * (self.random >> 11) as f64 / (1u64 << 53) as f64;
        let pause_ms = BACKOFF_FIRST_MS * BACKOFF_FACTOR.powi(before.min(64) as i32);
        (pause_ms.min(BACKOFF_MAX_MS) * spread) as u64
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::ably::{ChannelFilter, ContentType, Format, Rule, RuleSource, WhenFull};

    const PACE: Pace = Pace {
        concurrency: 3,
        requests_per_second_max: 0,
        batch_events_max: 4,
        batch_bytes_max: 1 << 20,
        batch_interval: Duration::from_secs(1),
        retry_for: Duration::from_secs(600),
    };

    struct Desk {
        courier: Courier,
        rule: Arc<Rule>,
        now: Now,
        next_id: u64,
    }

    impl Desk {
        fn new(shape: RequestShape) -> Desk {
            let filter = ChannelFilter::compile("").expect("a filter");
            let rule = Rule::new(
                "r",
                "app",
                RuleSource::Message,
                filter,
                shape,
                Format::Json,
                WhenFull::DropOldest,
                1 << 20,
            );
            let now = Now { mono_ms: 1_000, unix_ms: 1_700_000_000_000 };
            Desk { courier: Courier::new(shape, PACE, 7), rule: Arc::new(rule), now, next_id: 0 }
        }

        fn next_timeout(&self) -> Option<u64> {
            let (courier, now) = (&self.courier, self.now);
            courier.next_send_ms().into_iter().chain(courier.next_expiry_ms(now)).min()
        }

        fn push(&mut self, channel: &str) {
            let event = RuleEvent::new(
                Arc::clone(&self.rule),
                channel,
                self.now.unix_ms,
                ContentType::Json,
                Bytes::from_static(b"{}"),
                Vec::new(),
            );
            self.next_id += 1;
            let entry = Entry { id: self.next_id, event: Arc::new(event) };
            self.courier.push(self.now, entry);
        }

        fn parcels(&mut self) -> Vec<Parcel> {
            std::iter::from_fn(|| self.courier.poll_parcel(self.now)).collect()
        }

        fn pass(&mut self, ms: u64) {
            self.now.mono_ms += ms;
            self.now.unix_ms += ms;
        }

        fn end(&mut self, parcel: Parcel, outcome: Outcome) -> Vec<Finished> {
            self.courier.handle_outcome(self.now, parcel, outcome).0
        }
    }

    const FAILED: Outcome = Outcome::Failed { retry_after: None };

    fn ids(parcels: &[Parcel]) -> Vec<Vec<u64>> {
        let ids = |parcel: &Parcel| parcel.entries.iter().map(|entry| entry.id).collect();
        parcels.iter().map(ids).collect()
    }

    #[test]
    fn channels_go_side_by_side_and_each_keeps_its_order() {
        let mut desk = Desk::new(RequestShape::Enveloped);
        for channel in ["a", "a", "b", "c", "d"] {
            desk.push(channel);
        }
        let parcels = desk.parcels();
        assert_eq!(ids(&parcels), [[1], [3], [4]], "as many as the concurrency permits");
        let mut parcels = parcels.into_iter();
        assert_eq!(desk.end(parcels.next().unwrap(), Outcome::Delivered).len(), 1);
        assert_eq!(ids(&desk.parcels()), [[5]], "others have waited for longer");
        desk.end(parcels.next().unwrap(), Outcome::Delivered);
        assert_eq!(ids(&desk.parcels()), [[2]]);
        assert_eq!(desk.courier.len(), 3);
    }

    #[test]
    fn requests_keep_to_their_rate_whatever_the_concurrency() {
        let mut desk = Desk::new(RequestShape::Enveloped);
        desk.courier.pace.requests_per_second_max = 40;
        for index in 0..1000 {
            desk.push(&format!("c{index}"));
        }
        let (started_ms, mut sent) = (desk.now.mono_ms, 0);
        while desk.now.mono_ms < started_ms + 10_000 {
            for parcel in desk.parcels() {
                desk.end(parcel, Outcome::Delivered);
                sent += 1;
            }
            let at_ms = desk.next_timeout().expect("more waits");
            desk.pass(at_ms.checked_sub(desk.now.mono_ms).expect("in the future"));
        }
        assert!((400..=401).contains(&sent), "{sent} in ten seconds");
    }

    #[test]
    fn what_failed_is_sent_again_before_what_follows_it() {
        let mut desk = Desk::new(RequestShape::Enveloped);
        desk.push("a");
        desk.push("a");
        for _ in 0..3 {
            let parcel = desk.parcels().pop().expect("it is due");
            assert_eq!(parcel.entries[0].id, 1);
            assert!(desk.end(parcel, FAILED).is_empty());
            assert!(desk.parcels().is_empty(), "there is a pause");
            let at_ms = desk.next_timeout().expect("there is a next try");
            assert!((at_ms - desk.now.mono_ms) < 3_000);
            desk.pass(at_ms - desk.now.mono_ms);
        }
        let parcel = desk.parcels().pop().expect("it is due");
        assert_eq!(desk.end(parcel, Outcome::Delivered)[0].given_up, None);
        assert_eq!(ids(&desk.parcels()), [[2]]);
    }

    #[test]
    fn an_endpoint_that_is_down_is_tried_by_one_request_at_a_time() {
        let mut desk = Desk::new(RequestShape::Enveloped);
        for index in 0..10 {
            desk.push(&format!("c{index}"));
        }
        let mut failures = 0;
        while failures < 5 {
            for parcel in desk.parcels() {
                desk.end(parcel, FAILED);
                failures += 1;
            }
        }
        assert!(desk.courier.is_broken());
        let started_ms = desk.now.mono_ms;
        let mut tries = 0;
        while desk.now.mono_ms < started_ms + 600_000 {
            let at_ms = desk.next_timeout().expect("it is tried again");
            desk.pass((at_ms - desk.now.mono_ms).max(1));
            desk.courier.expire(desk.now);
            let mut parcels = desk.parcels();
            assert!(parcels.len() <= 1);
            if let Some(parcel) = parcels.pop() {
                desk.end(parcel, FAILED);
                tries += 1;
            }
        }
        assert!((15..40).contains(&tries), "{tries} tries in ten minutes");
    }

    #[test]
    fn nothing_is_lost_or_reordered_by_an_outage_of_ten_minutes() {
        let mut desk = Desk::new(RequestShape::Enveloped);
        desk.courier.pace.retry_for = Duration::from_secs(86_400);
        let mut delivered: Vec<u64> = Vec::new();
        for second in 0..900 {
            desk.push("a");
            for parcel in desk.parcels() {
                let outcome = if second < 600 { FAILED } else { Outcome::Delivered };
                let finished = desk.end(parcel, outcome);
                delivered.extend(finished.iter().map(|finished| finished.entry.id));
            }
            desk.pass(1_000);
        }
        while let Some(parcel) = desk.parcels().pop() {
            let finished = desk.end(parcel, Outcome::Delivered);
            delivered.extend(finished.iter().map(|finished| finished.entry.id));
        }
        assert_eq!(delivered, (1..=900).collect::<Vec<_>>());
        assert_eq!(desk.courier.len(), 0);
    }

    #[test]
    fn retry_after_is_honoured_for_the_whole_rule() {
        let mut desk = Desk::new(RequestShape::Enveloped);
        desk.push("a");
        let parcel = desk.parcels().pop().expect("it is due");
        desk.end(parcel, Outcome::Failed { retry_after: Some(Duration::from_secs(30)) });
        desk.push("b");
        desk.pass(29_999);
        assert!(desk.parcels().is_empty());
        assert_eq!(desk.next_timeout(), Some(desk.now.mono_ms + 1));
        desk.pass(1);
        assert_eq!(desk.parcels().len(), 2);
    }

    #[test]
    fn what_the_endpoint_refuses_is_given_up_and_the_next_follows() {
        let mut desk = Desk::new(RequestShape::Bare);
        desk.push("a");
        desk.push("a");
        let parcel = desk.parcels().pop().expect("it is due");
        let finished = desk.end(parcel, Outcome::Refused);
        assert_eq!(finished[0].given_up, Some(Reason::Refused));
        assert_eq!(ids(&desk.parcels()), [[2]]);
    }

    #[test]
    fn a_batch_takes_what_waits_once_an_interval_or_when_it_is_complete() {
        let mut desk = Desk::new(RequestShape::Batch);
        desk.push("a");
        let parcel = desk.parcels().pop().expect("the first goes at once");
        desk.push("b");
        desk.push("a");
        assert!(desk.parcels().is_empty(), "one request at a time");
        desk.end(parcel, Outcome::Delivered);
        assert!(desk.parcels().is_empty(), "the interval is not over");
        desk.pass(1_000);
        let parcel = desk.parcels().pop().expect("the interval is over");
        assert_eq!(ids(std::slice::from_ref(&parcel)), [[2, 3]]);
        // New events join the batch that is tried again.
        desk.push("a");
        desk.end(parcel, FAILED);
        desk.pass(1_300);
        let parcel = desk.parcels().pop().expect("the pause is over");
        assert_eq!(ids(std::slice::from_ref(&parcel)), [[2, 3, 4]]);
        desk.end(parcel, Outcome::Delivered);
        for _ in 0..5 {
            desk.push("a");
        }
        assert_eq!(ids(&desk.parcels()), [[5, 6, 7, 8]], "a complete one goes at once");
    }

    #[test]
    fn old_events_are_given_up_but_never_those_under_way() {
        let mut desk = Desk::new(RequestShape::Enveloped);
        desk.push("a");
        desk.push("a");
        desk.push("b");
        let parcels = desk.parcels();
        assert_eq!(ids(&parcels), [[1], [3]]);
        desk.pass(600_000);
        let expired = desk.courier.expire(desk.now);
        assert_eq!(expired.iter().map(|finished| finished.entry.id).collect::<Vec<_>>(), [2]);
        assert!(desk.courier.drop_oldest().is_none());
        for parcel in parcels {
            desk.end(parcel, FAILED);
        }
        assert_eq!(desk.courier.drop_oldest().expect("one waits").entry.id, 1);
        assert_eq!(desk.courier.expire(desk.now).len(), 1);
        assert_eq!((desk.courier.len(), desk.next_timeout()), (0, None));
        desk.push("a");
        assert_eq!(ids(&desk.parcels()), [[4]]);
    }
}
