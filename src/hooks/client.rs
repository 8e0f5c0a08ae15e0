//! What sends the parcels of one rule: one file for each kind of sink beside this one. What comes back
//! is an outcome; bodies are not kept.

use bytes::Bytes;

use super::answer::{Answer, Reply};
use super::courier::Parcel;
use super::http::HttpClient;
use super::lambda::LambdaClient;
use super::nats::NatsClient;
use super::target::{Sink, Target};

/// Sends the parcels of one rule.
pub enum Client {
    /// To an HTTP endpoint.
    Http(HttpClient),
    /// To a function.
    Lambda(LambdaClient),
    /// To a subject.
    Nats(Box<NatsClient>),
}

impl Client {
    /// A client with connections of its own, which it makes when they are needed.
    ///
    /// # Errors
    /// The target is malformed, or an address that the rule must not reach.
    pub fn new(target: &Target) -> anyhow::Result<Client> {
        match &target.sink {
            Sink::Http(http) => Ok(Client::Http(HttpClient::new(&target.reach, http)?)),
            Sink::Lambda(lambda) => Ok(Client::Lambda(LambdaClient::new(&target.reach, lambda)?)),
            Sink::Nats(nats) => Ok(Client::Nats(Box::new(NatsClient::new(&target.reach, nats)?))),
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
