//! Who may come in: connections per second, and pages of which origins.

use super::Shard;
use crate::ably::{ErrorCode, ErrorInfo};
use crate::base::Now;

/// A bucket of connects that fills with time: as many as a second brings may come at once.
#[derive(Default)]
pub(super) struct ConnectBucket {
    /// In thousandths of a connect.
    held: u64,
    filled_ms: Option<u64>,
}

impl ConnectBucket {
    /// Takes one connect, if there is one. `per_second_max` of 0 is no bound.
    fn take(&mut self, per_second_max: u32, now: Now) -> bool {
        let rate = u64::from(per_second_max);
        if rate == 0 {
            return true;
        }
        let full = rate * 1000;
        let since_ms = self.filled_ms.map_or(1000, |then| now.mono_ms.saturating_sub(then));
        self.filled_ms = Some(now.mono_ms);
        self.held = full.min(self.held + rate.saturating_mul(since_ms));
        let is_held = self.held >= 1000;
        if is_held {
            self.held -= 1000;
        }
        is_held
    }
}

impl Shard {
    /// Whether one more realtime transport may begin now.
    ///
    /// # Errors
    /// 80021: there were too many; clients try again by themselves.
    pub(super) fn admit_connect(&mut self) -> Result<(), ErrorInfo> {
        if self.connects.take(self.config.connects_per_second_max, self.now) {
            return Ok(());
        }
        self.counters.connects_refused += 1;
        let text = "connections are being made too fast; try again";
        Err(ErrorInfo::new(ErrorCode::CONNECTION_CREATION_RATE, text))
    }

    /// Whether pages of `origin` may use the daemon (RFC 6454 §6.2). Whoever is no browser says none.
    pub(super) fn admits_origin(&self, origin: Option<&str>) -> bool {
        let Some(origin) = origin else { return true };
        let allowed = &self.config.origins;
        allowed.is_empty() || allowed.iter().any(|known| known.eq_ignore_ascii_case(origin))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_what_a_second_brings_at_once_and_then_at_its_rate() {
        let mut bucket = ConnectBucket::default();
        let mut taken = |mono_ms| {
            let now = Now { mono_ms, unix_ms: 0 };
            (0..100).filter(|_| bucket.take(20, now)).count()
        };
        assert_eq!(taken(5_000), 20);
        assert_eq!(taken(5_000), 0);
        assert_eq!(taken(5_125), 2);
        assert_eq!(taken(5_150), 1, "halves add up");
        assert_eq!(taken(60_000), 20);
    }

    #[test]
    fn without_a_bound_everybody_may_connect() {
        let mut bucket = ConnectBucket::default();
        assert!((0..100_000).all(|_| bucket.take(0, Now { mono_ms: 0, unix_ms: 0 })));
    }
}
