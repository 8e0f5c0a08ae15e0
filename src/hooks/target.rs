//! Where the events of a rule go, as it is configured. What sends them is in the file of each sink.

use super::courier::Pace;
use super::http::HttpTarget;
use super::lambda::LambdaTarget;
use super::nats::NatsTarget;
use super::reach::Reach;

/// Where the events of a rule go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// What takes them.
    pub sink: Sink,
    /// How it is reached.
    pub reach: Reach,
    /// How requests follow each other.
    pub pace: Pace,
}

/// What takes events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sink {
    /// An endpoint that takes POSTs.
    Http(HttpTarget),
    /// A function, by its name.
    Lambda(LambdaTarget),
    /// A subject of a NATS server.
    Nats(NatsTarget),
}

impl Sink {
    /// Bytes of events in one batch, unless somebody knows better.
    pub fn batch_bytes_max(&self) -> u64 {
        match self {
            Sink::Http(_) => 1 << 20,
            // What AWS takes of an event that it queues was 256 KiB for long, its frame included.
            Sink::Lambda(_) => 240 << 10,
            // A server takes 1 MiB with headers and frame, unless it is told otherwise.
            Sink::Nats(_) => 960 << 10,
        }
    }
}
