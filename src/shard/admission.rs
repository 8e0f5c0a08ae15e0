//! Who may come in: connections per second, and pages of which origins. How many of an address or a key, that is
//! `seats.rs`.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Shard;
use crate::ably::{ErrorCode, ErrorInfo};
use crate::base::{AddressBlock, Networks, Now};
use crate::http::ForwardedHeader;

/// Who may come in, and how many.
#[derive(Clone, Debug, Default)]
pub struct AdmissionConfig {
    /// Realtime transports that may begin in a second on this shard; more are told to try again. 0: no bound.
    pub connects_per_second_max: u32,
    /// Realtime transports that one address may have on all shards together; one more is refused. 0: no bound.
    pub connections_per_address_max: u32,
    /// The same for one key and its tokens, unless the key has a bound of its own. 0: no bound.
    pub connections_per_key_max: u32,
    /// Where clients come from whose address is not counted.
    pub uncounted: Networks,
    /// Where proxies are that say whose requests they pass on.
    pub trusted_proxies: Networks,
    /// How they say it.
    pub forwarded_header: ForwardedHeader,
}

/// Why somebody does not become a realtime transport.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SeatError {
    /// Its address has as many as it may.
    Address {
        /// Which.
        block: AddressBlock,
        /// How many that is.
        max: u32,
    },
    /// Its key has.
    Key {
        /// Which.
        name: Arc<str>,
        /// How many that is.
        max: u32,
    },
}

impl From<SeatError> for ErrorInfo {
    fn from(error: SeatError) -> ErrorInfo {
        match error {
            SeatError::Address { block, max } => {
                let text = format!("{block} has {max} connections, as many as an address may");
                ErrorInfo::new(ErrorCode::CONNECTION_BLOCKED, text)
            }
            SeatError::Key { name, max } => {
                let text = format!("the key {name} has {max} connections, as many as it may");
                ErrorInfo::new(ErrorCode::TOO_MANY_CONNECTIONS, text)
            }
        }
    }
}

/// Clients that were not let in, by what kept them out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusals {
    /// Too many in a second; they are told to try again.
    pub rate: u64,
    /// Too many of their address.
    pub address: u64,
    /// Too many of their key.
    pub key: u64,
    /// Too many of their address that were not realtime transports; closed without a word.
    pub sockets: u64,
}

impl Refusals {
    /// Those of two shards.
    #[must_use]
    pub fn plus(self, other: Refusals) -> Refusals {
        Refusals {
            rate: self.rate + other.rate,
            address: self.address + other.address,
            key: self.key + other.key,
            sockets: self.sockets + other.sockets,
        }
    }
}

impl fmt::Display for Refusals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Refusals { rate, address, key, sockets } = self;
        match rate + address + key + sockets {
            0 => f.write_str("none"),
            all => write!(
                f,
                "{all}: by rate {rate}, address {address} and {sockets} sockets, key {key}"
            ),
        }
    }
}

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
        if self.connects.take(self.config.admission.connects_per_second_max, self.now) {
            return Ok(());
        }
        self.counters.refused.rate += 1;
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
    fn no_time_of_any_length_has_more_connects_than_it_brings_and_a_second_s_worth() {
        for seed in 1..=60u64 {
            let mut state = seed;
            let mut below = |bound: u64| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 33) % bound
            };
            let rate = 1 + below(50);
            let (mut bucket, mut mono_ms, mut admitted) = (ConnectBucket::default(), 0, Vec::new());
            for _ in 0..400 {
                mono_ms += below(40) * below(3);
                // Who comes after others have stayed away for as long as one connect takes is let in.
                let last_ms = bucket.filled_ms;
                let is_in = bucket.take(rate as u32, Now { mono_ms, unix_ms: 0 });
                let is_rested = last_ms.is_none_or(|then| (mono_ms - then) * rate >= 1000);
                assert!(is_in || !is_rested, "seed={seed}");
                if is_in {
                    admitted.push(mono_ms);
                }
            }
            for (first, from_ms) in admitted.iter().enumerate() {
                for (last, to_ms) in admitted.iter().enumerate().skip(first) {
                    let count = (last - first + 1) as u64;
                    assert!(count <= rate + (to_ms - from_ms) * rate / 1000, "seed={seed}");
                }
            }
        }
    }

    #[test]
    fn without_a_bound_everybody_may_connect() {
        let mut bucket = ConnectBucket::default();
        assert!((0..100_000).all(|_| bucket.take(0, Now { mono_ms: 0, unix_ms: 0 })));
    }
}
