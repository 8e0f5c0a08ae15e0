//! Acknowledgements of one connection: in the order of msgSerial, each exactly once a transport (RTN7),
//! and once more for what is sent again after a resume (RTN19a2).

use std::collections::VecDeque;

use crate::ably::{ErrorCode, ErrorInfo, PublishResult};

/// How a publish went.
pub type Outcome = Result<PublishResult, ErrorInfo>;

/// Outcomes that are remembered after they were told; beyond it the oldest is forgotten.
const TOLD_MAX: usize = 1024;

/// Publishes whose outcome is not known or not told yet. Homes answer in any order, so an outcome
/// waits here until those before it are known. What was told is remembered for a while: the transport
/// may be lost before the client has read it.
#[derive(Default)]
pub struct Acks {
    pending: VecDeque<Pending>,
    /// Of all of them.
    pending_bytes: u64,
    /// Oldest first.
    told: VecDeque<(u64, Outcome)>,
    /// How many of `told`, counted from the back, are of the current interval.
    told_lately: usize,
    /// The interval that was current when something was forgotten last.
    interval: u64,
    /// What may be sent again on this transport: from the first to below the second.
    resends: (u64, u64),
}

/// A publish that was begun.
struct Pending {
    msg_serial: u64,
    /// What it came as.
    bytes: u32,
    /// Once it is known.
    outcome: Option<Outcome>,
}

/// What to tell the client next.
#[derive(Debug, PartialEq, Eq)]
pub enum Ack {
    /// These publishes succeeded: the first msgSerial and a result for it and each that follows.
    Ack(u64, Vec<PublishResult>),
    /// This publish failed.
    Nack(u64, ErrorInfo),
}

impl Acks {
    /// Publishes that were begun and not told of.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Bytes of the payloads that they came in.
    pub fn pending_bytes(&self) -> u64 {
        self.pending_bytes
    }

    /// Whether there is nothing to tell and nothing to remember.
    pub fn is_empty(&self) -> bool {
        let (first, end) = self.resends;
        self.pending.is_empty() && self.told.is_empty() && first >= end
    }

    /// Notes a publish that came in a payload of `bytes`; `msg_serial` is larger than any before. Clients
    /// send in order, so nothing is sent again behind it.
    pub fn begin(&mut self, msg_serial: u64, bytes: u32) {
        debug_assert!(self.pending.back().is_none_or(|last| last.msg_serial < msg_serial));
        self.resends = (0, 0);
        self.pending_bytes += u64::from(bytes);
        self.pending.push_back(Pending { msg_serial, bytes, outcome: None });
    }

    /// Notes how the publish went.
    pub fn resolve(&mut self, msg_serial: u64, outcome: Outcome) {
        let at = self.pending.binary_search_by_key(&msg_serial, |pending| pending.msg_serial);
        let at = at.expect("homes answer what was begun, once");
        self.pending[at].outcome = Some(outcome);
    }

    /// The next acknowledgement; successes in a row are told together.
    pub fn next(&mut self) -> Option<Ack> {
        let (first, outcome) = self.pop()?;
        match outcome {
            Err(error) => Some(Ack::Nack(first, error)),
            Ok(result) => {
                let mut results = vec![result];
                while self.pending.front().is_some_and(|pending| {
                    pending.msg_serial == first + results.len() as u64
                        && matches!(pending.outcome, Some(Ok(_)))
                }) {
                    results.extend(self.pop().and_then(|(_, outcome)| outcome.ok()));
                }
                Some(Ack::Ack(first, results))
            }
        }
    }

    /// Takes the next outcome that can be told, and remembers it.
    fn pop(&mut self) -> Option<(u64, Outcome)> {
        let known = |pending: &mut Pending| pending.outcome.is_some();
        let Pending { msg_serial, bytes, outcome } = self.pending.pop_front_if(known)?;
        self.pending_bytes -= u64::from(bytes);
        let outcome = outcome.expect("known");
        if self.told.len() == TOLD_MAX {
            self.told.pop_front();
        }
        self.told.push_back((msg_serial, outcome.clone()));
        self.told_lately = (self.told_lately + 1).min(TOLD_MAX);
        Some((msg_serial, outcome))
    }

    /// Forgets what was told before the last interval; `interval` counts them, and each is longer than
    /// it takes a client to find its transport dead.
    pub fn forget(&mut self, interval: u64) {
        if self.interval != interval {
            self.interval = interval;
            self.told.drain(..self.told.len() - self.told_lately);
            self.told_lately = 0;
        }
    }

    /// A new transport: what was begun on earlier ones, below `msg_serial`, may be sent again.
    pub fn expect_resends(&mut self, msg_serial: u64) {
        self.resends = (0, msg_serial);
    }

    /// What to answer to a msgSerial that was seen before; `None`: nothing, it was repeated on this
    /// transport.
    pub fn resend(&mut self, msg_serial: u64) -> Option<Ack> {
        let (first, end) = self.resends;
        if !(first..end).contains(&msg_serial) {
            return None;
        }
        self.resends = (msg_serial + 1, end);
        let told = self.told.binary_search_by_key(&msg_serial, |(serial, _)| *serial);
        Some(match told.map(|at| &self.told[at].1) {
            Ok(Ok(result)) => Ack::Ack(msg_serial, vec![result.clone()]),
            Ok(Err(error)) => Ack::Nack(msg_serial, error.clone()),
            Err(_) => {
                let text = "this was published before; how that went is not known any more";
                Ack::Nack(msg_serial, ErrorInfo::new(ErrorCode::INTERNAL, text))
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(serial: u64) -> PublishResult {
        let serials = vec![Some(format!("serial-{serial}").into())];
        PublishResult { message_id: "id".into(), serials }
    }

    fn told(from: u64, to: u64) -> Acks {
        let mut acks = Acks::default();
        for serial in from..to {
            acks.begin(serial, 1);
            acks.resolve(serial, Ok(result(serial)));
            assert_eq!(acks.next(), Some(Ack::Ack(serial, vec![result(serial)])));
        }
        acks
    }

    #[test]
    fn what_is_sent_again_after_a_resume_is_told_again_once() {
        let mut acks = told(0, 5);
        assert_eq!(acks.resend(3), None, "the same transport");
        acks.expect_resends(5);
        assert_eq!(acks.resend(3), Some(Ack::Ack(3, vec![result(3)])));
        assert_eq!(acks.resend(3), None);
        assert_eq!(acks.resend(4), Some(Ack::Ack(4, vec![result(4)])));
        assert_eq!(acks.resend(5), None);
    }

    #[test]
    fn what_may_be_sent_again_is_answered_although_how_it_went_is_forgotten() {
        let mut acks = told(0, 3);
        acks.expect_resends(3);
        for interval in 1..4 {
            acks.forget(interval);
        }
        assert!(!acks.is_empty(), "it would not be known that there is something to answer");
        assert!(matches!(acks.resend(0), Some(Ack::Nack(0, _))));
        acks.begin(3, 1);
        assert_eq!(acks.resend(1), None, "what is new comes behind what is sent again");
        acks.resolve(3, Ok(result(3)));
        assert!(acks.next().is_some());
        acks.forget(4);
        acks.forget(5);
        assert!(acks.is_empty());
    }

    #[test]
    fn outcomes_are_forgotten_by_count_and_by_time_and_never_made_up() {
        let mut acks = told(0, TOLD_MAX as u64 + 2);
        acks.expect_resends(TOLD_MAX as u64 + 2);
        assert!(matches!(acks.resend(1), Some(Ack::Nack(1, _))));
        assert!(matches!(acks.resend(2), Some(Ack::Ack(2, _))));
        acks.forget(1);
        assert!(matches!(acks.resend(3), Some(Ack::Ack(3, _))), "told in the last interval");
        acks.forget(2);
        assert!(matches!(acks.resend(4), Some(Ack::Nack(4, _))));
        assert!(acks.told.is_empty());
    }
}
