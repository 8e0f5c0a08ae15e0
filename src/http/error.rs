//! Why a request cannot be served, before anyone has looked at what it asks for.

use std::fmt;

/// A request that breaks the protocol or a bound. The stream behind it cannot be framed any more:
/// answer it and close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HttpError {
    /// The status to answer, 400 to 599.
    pub status: u16,
    /// What is wrong, for the answer's body.
    pub message: &'static str,
}

impl HttpError {
    pub(super) const fn new(status: u16, message: &'static str) -> Self {
        Self { status, message }
    }

    pub(super) const fn bad_request(message: &'static str) -> Self {
        Self::new(400, message)
    }
}

impl fmt::Display for HttpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.status, self.message)
    }
}

impl std::error::Error for HttpError {}
