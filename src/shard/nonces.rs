//! Nonces of token requests, so that each request is good for one token (12.2).

use std::collections::{HashSet, VecDeque};

use crate::ably::{CLOCK_WINDOW_MS, ErrorCode, ErrorInfo};

/// Nonces that one shard remembers: about 1,000 a second. 10 MB when full.
const NONCES_MAX: usize = 1 << 18;

/// How long one is remembered. A request is good from one clock window before its timestamp until one
/// behind it.
const REMEMBERED_MS: u64 = 2 * CLOCK_WINDOW_MS + 1000;

/// Digests of key name and nonce.
#[derive(Default)]
pub(super) struct Nonces {
    known: HashSet<[u8; 16]>,
    /// Oldest first, each with the time at which it is forgotten.
    until: VecDeque<(u64, [u8; 16])>,
}

impl Nonces {
    /// Notes `nonce`.
    ///
    /// # Errors
    /// 40105: it was used before; 42918: there is no room to remember it.
    pub fn take(&mut self, now_ms: u64, nonce: [u8; 16]) -> Result<(), ErrorInfo> {
        while let Some((_, old)) = self.until.pop_front_if(|(until, _)| *until <= now_ms) {
            self.known.remove(&old);
        }
        if self.known.contains(&nonce) {
            let text = "the nonce was used before";
            return Err(ErrorInfo::new(ErrorCode::NONCE_REPLAYED, text));
        }
        if self.known.len() >= NONCES_MAX {
            let text = "too many token requests; try again later";
            return Err(ErrorInfo::new(ErrorCode::REQUEST_RATE_EXCEEDED, text));
        }
        self.known.insert(nonce);
        self.until.push_back((now_ms + REMEMBERED_MS, nonce));
        Ok(())
    }
}

/// The shard that remembers `nonce`.
pub(super) fn home(nonce: [u8; 16], shards: usize) -> usize {
    let [low, ..] = nonce;
    usize::from(low) % shards
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nonce_is_good_once_while_its_request_could_be_good() {
        let mut nonces = Nonces::default();
        let code = |result: Result<(), ErrorInfo>| result.err().map(|error| error.code.0);
        assert_eq!(code(nonces.take(0, [1; 16])), None);
        assert_eq!(code(nonces.take(0, [2; 16])), None);
        assert_eq!(code(nonces.take(2 * CLOCK_WINDOW_MS, [1; 16])), Some(40105));
        assert_eq!(code(nonces.take(REMEMBERED_MS, [1; 16])), None);
        assert_eq!(nonces.known.len(), 1);
    }

    #[test]
    fn what_cannot_be_remembered_is_refused() {
        let mut nonces = Nonces::default();
        for at in 0..NONCES_MAX as u128 {
            nonces.take(0, at.to_be_bytes()).expect("there is room");
        }
        let error = nonces.take(0, [0xff; 16]).expect_err("full");
        assert_eq!((error.code.0, error.status), (42918, 429));
        assert!(nonces.take(REMEMBERED_MS, [0xff; 16]).is_ok());
    }
}
