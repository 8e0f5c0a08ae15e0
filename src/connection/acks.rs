//! Acknowledgements of one connection: in the order of msgSerial, each exactly once (RTN7).

use std::collections::VecDeque;

use crate::ably::{ErrorInfo, PublishResult};

/// How a publish went.
pub type Outcome = Result<PublishResult, ErrorInfo>;

/// Publishes whose outcome is not known or not told yet. Homes answer in any order, so an outcome
/// waits here until those before it are known.
#[derive(Default)]
pub struct Acks {
    pending: VecDeque<(u64, Option<Outcome>)>,
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
    pub fn len(&self) -> usize {
        self.pending.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// Notes a publish; `msg_serial` is larger than any before.
    pub fn begin(&mut self, msg_serial: u64) {
        debug_assert!(self.pending.back().is_none_or(|(last, _)| *last < msg_serial));
        self.pending.push_back((msg_serial, None));
    }

    /// Notes how the publish went.
    pub fn resolve(&mut self, msg_serial: u64, outcome: Outcome) {
        let at = self.pending.binary_search_by_key(&msg_serial, |(serial, _)| *serial);
        let at = at.expect("homes answer what was begun, once");
        self.pending[at].1 = Some(outcome);
    }

    /// The next acknowledgement; successes in a row are told together.
    pub fn next(&mut self) -> Option<Ack> {
        let known = |entry: &mut (u64, Option<Outcome>)| entry.1.is_some();
        let (first, outcome) = self.pending.pop_front_if(known)?;
        match outcome.expect("known") {
            Err(error) => Some(Ack::Nack(first, error)),
            Ok(result) => {
                let mut results = vec![result];
                while let Some((_, outcome)) = self.pending.pop_front_if(|(serial, outcome)| {
                    *serial == first + results.len() as u64 && matches!(outcome, Some(Ok(_)))
                }) {
                    results.extend(outcome.and_then(Result::ok));
                }
                Some(Ack::Ack(first, results))
            }
        }
    }
}
