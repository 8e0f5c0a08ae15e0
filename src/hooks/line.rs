//! What one rule sends next, also while the rule changes: events that were encoded as the rule had it
//! before go first, each kind by a courier of its own.

use std::collections::VecDeque;

use super::courier::{Courier, Entry, Finished, Outcome, Pace, Parcel};
use crate::ably::{Format, RequestShape, RuleEvent};
use crate::base::Now;

/// What decides which events can share a request.
type Encoding = (RequestShape, Option<Format>);

fn encoding(event: &RuleEvent) -> Encoding {
    let rule = event.rule();
    // Events that are alone in their request say themselves what they are.
    let format = (rule.shape == RequestShape::Batch).then_some(rule.format);
    (rule.shape, format)
}

/// See the module text. Only the first courier sends; it goes when it is done.
pub struct Line {
    couriers: VecDeque<(Encoding, Courier)>,
    pace: Pace,
    random: u64,
}

impl Line {
    /// A line without events. `seed` spreads the pauses.
    pub fn new(pace: Pace, seed: u64) -> Line {
        Line { couriers: VecDeque::new(), pace, random: seed }
    }

    /// Has everything from now on follow another pace.
    pub fn set_pace(&mut self, pace: Pace) {
        self.pace = pace;
        self.couriers.iter_mut().for_each(|(_, courier)| courier.set_pace(pace));
    }

    /// Events that wait or are under way.
    pub fn len(&self) -> usize {
        self.couriers.iter().map(|(_, courier)| courier.len()).sum()
    }

    /// Requests under way.
    pub fn in_flight(&self) -> usize {
        self.first().map_or(0, Courier::in_flight)
    }

    /// The events that wait or are under way, in the order in which they go.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.couriers.iter().flat_map(|(_, courier)| courier.entries())
    }

    /// Whether so much has failed that one request at a time tries the endpoint.
    pub fn is_broken(&self) -> bool {
        self.first().is_some_and(Courier::is_broken)
    }

    /// Takes an event; its id is larger than all before.
    pub fn push(&mut self, now: Now, entry: Entry) {
        let encoding = encoding(&entry.event);
        self.settle();
        match self.couriers.back_mut() {
            Some((of, courier)) if *of == encoding => courier.push(now, entry),
            // One that has nothing to do is kept for what it knows of the endpoint, unless it cannot serve.
            last => {
                if last.is_some_and(|(_, courier)| courier.len() == 0) {
                    self.couriers.pop_back();
                }
                self.random = self.random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
                let mut courier = Courier::new(encoding.0, self.pace, self.random);
                courier.push(now, entry);
                self.couriers.push_back((encoding, courier));
            }
        }
    }

    /// The next request. Ask until there is none, after every other call.
    pub fn poll_parcel(&mut self, now: Now) -> Option<Parcel> {
        self.settle();
        self.first_mut()?.poll_parcel(now)
    }

    /// As [`Courier::next_timeout`]; `is_held`: nothing is sent, whatever waits.
    pub fn next_timeout(&self, now: Now, is_held: bool) -> Option<u64> {
        let send = self.first().filter(|_| !is_held).and_then(|first| first.next_send_ms());
        let expiry = self.couriers.iter().filter_map(|(_, courier)| courier.next_expiry_ms(now));
        send.into_iter().chain(expiry).min()
    }

    /// A request has ended. Returns what its events have come to, and when they are sent again.
    pub fn handle_outcome(
        &mut self,
        now: Now,
        parcel: Parcel,
        outcome: Outcome,
    ) -> (Vec<Finished>, Option<u64>) {
        let first = self.first_mut().expect("a courier with requests under way is the first");
        first.handle_outcome(now, parcel, outcome)
    }

    /// Gives up what is too old, a bounded number at a time.
    pub fn expire(&mut self, now: Now) -> Vec<Finished> {
        self.couriers.iter_mut().flat_map(|(_, courier)| courier.expire(now)).collect()
    }

    /// Gives up the oldest event that is not under way.
    pub fn drop_oldest(&mut self) -> Option<Finished> {
        self.couriers.iter_mut().find_map(|(_, courier)| courier.drop_oldest())
    }

    fn first(&self) -> Option<&Courier> {
        self.couriers.front().map(|(_, courier)| courier)
    }

    fn first_mut(&mut self) -> Option<&mut Courier> {
        self.couriers.front_mut().map(|(_, courier)| courier)
    }

    /// Lets the next courier send where the first is done.
    fn settle(&mut self) {
        while self.couriers.len() > 1 && self.couriers[0].1.len() == 0 {
            self.couriers.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use bytes::Bytes;

    use super::*;
    use crate::ably::{ChannelFilter, ContentType, Rule, RuleSource, WhenFull};

    const PACE: Pace = Pace {
        concurrency: 3,
        requests_per_second_max: 0,
        batch_events_max: 10,
        batch_bytes_max: 1 << 20,
        batch_interval: Duration::from_secs(1),
        retry_for: Duration::from_secs(600),
    };
    const NOW: Now = Now { mono_ms: 1_000, unix_ms: 1_700_000_000_000 };

    fn entry(id: u64, shape: RequestShape, channel: &str) -> Entry {
        let filter = ChannelFilter::compile("").expect("a filter");
        let (source, full) = (RuleSource::Message, WhenFull::DropOldest);
        let rule = Rule::new("r", "app", source, filter, shape, Format::Json, full, 1 << 20);
        let body = Bytes::from_static(b"{}");
        let (rule, at_ms) = (Arc::new(rule), NOW.unix_ms);
        let event = RuleEvent::new(rule, channel, at_ms, ContentType::Json, body, Vec::new());
        Entry { id, event: Arc::new(event) }
    }

    fn ids(parcel: &Parcel) -> Vec<u64> {
        parcel.entries.iter().map(|entry| entry.id).collect()
    }

    #[test]
    fn what_was_encoded_before_a_change_goes_first_and_as_it_is() {
        let mut line = Line::new(PACE, 7);
        line.push(NOW, entry(1, RequestShape::Enveloped, "a"));
        line.push(NOW, entry(2, RequestShape::Enveloped, "a"));
        line.push(NOW, entry(3, RequestShape::Batch, "a"));
        line.push(NOW, entry(4, RequestShape::Batch, "b"));
        let first = line.poll_parcel(NOW).expect("something waits");
        assert_eq!(ids(&first), [1]);
        assert!(line.poll_parcel(NOW).is_none(), "the batch waits behind all of them");
        line.handle_outcome(NOW, first, Outcome::Delivered);
        let second = line.poll_parcel(NOW).expect("something waits");
        assert_eq!(ids(&second), [2]);
        line.handle_outcome(NOW, second, Outcome::Delivered);
        let third = line.poll_parcel(NOW).expect("something waits");
        assert_eq!(ids(&third), [3, 4]);
        line.handle_outcome(NOW, third, Outcome::Delivered);
        assert_eq!((line.len(), line.couriers.len()), (0, 1));
    }

    #[test]
    fn a_line_that_is_held_still_gives_up_what_is_too_old() {
        let mut line = Line::new(PACE, 7);
        line.push(NOW, entry(1, RequestShape::Enveloped, "a"));
        line.push(NOW, entry(2, RequestShape::Batch, "a"));
        let later = Now { mono_ms: NOW.mono_ms + 600_000, unix_ms: NOW.unix_ms + 600_000 };
        assert_eq!(line.next_timeout(NOW, true), Some(later.mono_ms));
        assert!(line.next_timeout(NOW, false) < Some(later.mono_ms));
        let expired: Vec<u64> = line.expire(later).iter().map(|gone| gone.entry.id).collect();
        assert_eq!((expired, line.len()), (vec![1, 2], 0));
    }
}
