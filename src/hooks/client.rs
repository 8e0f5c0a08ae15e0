//! What sends the parcels of one rule: one file for each kind of sink beside this one, and what they
//! have in common. What comes back is an outcome; bodies are not kept.

use bytes::Bytes;

use super::courier::{Outcome, Parcel};
use super::gate::Reply;
use super::http::HttpClient;
use super::lambda::LambdaClient;
use super::nats::NatsClient;
use super::target::{Sink, Target};
use crate::ably::{ContentType, RequestShape, batch_body};

/// The version of the form of requests (15.3).
pub const VERSION: &str = "1.2";

/// Sends the parcels of one rule.
pub enum Client {
    /// To an HTTP endpoint.
    Http(HttpClient),
    /// To a function.
    Lambda(LambdaClient),
    /// To a subject.
    Nats(Box<NatsClient>),
}

/// What is said of a request that did not go well.
pub struct Answer {
    /// What it means.
    pub outcome: Outcome,
    /// For the log: a status, or what has failed.
    pub note: String,
    /// Of HTTP, if there was one.
    pub status: Option<u16>,
}

impl Answer {
    /// Nothing came back that says more.
    pub fn failed(note: String) -> Answer {
        Answer { outcome: Outcome::Failed { retry_after: None }, note, status: None }
    }
}

impl Client {
    /// A client with connections of its own, which it makes when they are needed.
    ///
    /// # Errors
    /// The target is malformed, or an address that the rule must not reach.
    pub fn new(target: &Target) -> anyhow::Result<Client> {
        match &target.sink {
            Sink::Http(http) => Ok(Client::Http(HttpClient::new(target, http)?)),
            Sink::Lambda(lambda) => Ok(Client::Lambda(LambdaClient::new(target, lambda)?)),
            Sink::Nats(nats) => Ok(Client::Nats(Box::new(NatsClient::new(target, nats)?))),
        }
    }

    /// Sends one parcel.
    pub async fn send(&self, parcel: &Parcel) -> Answer {
        match self {
            Client::Http(client) => client.send(parcel).await,
            Client::Lambda(client) => client.send(parcel).await,
            Client::Nats(client) => client.send(parcel).await,
        }
    }

    /// Asks one question, which is JSON.
    ///
    /// # Errors
    /// Why nothing came back; for the log.
    pub async fn ask(&self, question: Bytes) -> Result<Reply, String> {
        match self {
            Client::Http(client) => client.ask(question).await,
            Client::Lambda(client) => client.ask(question).await,
            Client::Nats(_) => Err("a subject cannot be asked".into()),
        }
    }
}

/// The body of the request for a parcel, and what it is.
pub fn body(parcel: &Parcel) -> (ContentType, Bytes) {
    let first = &parcel.entries[0].event;
    match parcel.shape() {
        RequestShape::Batch => {
            let items = parcel.entries.iter().map(|entry| &entry.event.body[..]);
            batch_body(first.rule().format, items)
        }
        RequestShape::Enveloped | RequestShape::Bare => (first.content_type, first.body.clone()),
    }
}
