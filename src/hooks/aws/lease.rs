//! A key for a while.

use std::time::{Duration, SystemTime};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::access::AccessKey;

/// A key, and how long it is good for.
#[derive(Clone, Debug)]
pub struct Lease {
    /// Signs.
    pub key: AccessKey,
    /// `None`: until somebody changes it.
    pub expires: Option<SystemTime>,
}

impl Lease {
    /// One that nothing ends but a change of what it was read from.
    pub fn lasting(key: AccessKey) -> Lease {
        Lease { key, expires: None }
    }

    /// Whether it is good for at least `margin` from `now`.
    pub fn is_good(&self, now: SystemTime, margin: Duration) -> bool {
        self.expires.is_none_or(|expires| expires > now + margin)
    }
}

/// A time as AWS writes it, such as `2026-01-31T12:00:00Z`.
pub fn read_time(text: &str) -> Option<SystemTime> {
    OffsetDateTime::parse(text, &Rfc3339).ok().map(SystemTime::from)
}
