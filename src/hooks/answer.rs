//! What comes back to a request: to a parcel an outcome, to a question all of the answer.

use bytes::Bytes;

use super::courier::Outcome;

/// Bytes of the answer to a question; a longer one is none.
pub const REPLY_BYTES_MAX: usize = 1 << 20;

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

/// What came back to one question.
pub struct Reply {
    /// As of HTTP.
    pub status: u16,
    /// The whole body.
    pub body: Bytes,
}
