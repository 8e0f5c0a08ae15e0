//! The token of a connection: when it ends, when the client is asked for another, what another one
//! changes (2.10).

use std::sync::Arc;

use super::{Connection, ConnectionConfig};
use crate::ably::{ErrorInfo, Outbound, Principal};
use crate::base::Now;

/// How long before its end a client is asked for a new token.
const RENEWAL_MARGIN_MS: u64 = 30_000;

/// How long a token is used before another one is asked for, however soon it ends: a client that makes
/// short tokens is not to be asked all the time.
const USE_MIN_MS: u64 = 5_000;

/// A token with less time left than this when it comes is left to end.
const RENEWAL_MIN_MS: u64 = 5_500;

impl Connection {
    /// Decides whether the client will be asked for a new token.
    pub(super) fn plan_renewal(&mut self, now: Now) {
        let left_ms = |ends_ms: u64| ends_ms.saturating_sub(now.unix_ms);
        let token = self.principal.token();
        self.asks_for_token = token.is_some_and(|token| left_ms(token.ends_ms()) >= RENEWAL_MIN_MS);
    }

    /// When the client is to be asked for a new token: some time before the end of this one, in
    /// milliseconds since the Unix epoch.
    fn renewal_ms(&self) -> Option<u64> {
        let token = self.principal.token().filter(|_| self.asks_for_token)?;
        if token.revoked_ms.is_some() {
            return Some(0);
        }
        let from_ms = token.expires_ms.saturating_sub(RENEWAL_MARGIN_MS);
        Some(from_ms.max(token.issued_ms + USE_MIN_MS))
    }

    /// When [`check_token`](Self::check_token) has something to do next, in milliseconds since the Unix
    /// epoch.
    pub fn token_deadline_ms(&self) -> Option<u64> {
        let ends_ms = self.principal.token()?.ends_ms();
        Some(self.renewal_ms().map_or(ends_ms, |renewal_ms| renewal_ms.min(ends_ms)))
    }

    /// Asks the client for a new token when it is time to.
    ///
    /// # Errors
    /// The token has ended, and so does the transport: 40142 or 40141.
    pub fn check_token(&mut self, now: Now, lane: &mut Vec<u8>) -> Result<(), ErrorInfo> {
        if let Some(error) = self.principal.token().and_then(|token| token.end(now.unix_ms)) {
            return Err(error);
        }
        if self.renewal_ms().is_some_and(|renewal_ms| renewal_ms <= now.unix_ms) {
            self.asks_for_token = false;
            self.tell(&Outbound::Auth, lane);
        }
        Ok(())
    }

    /// The client has sent a token and this is its holder: CONNECTED is the answer (RTC8a). What the
    /// attachments may do is for the shard to look at.
    ///
    /// # Errors
    /// 40102: the token is not for this connection; it fails.
    pub fn reauthenticate(
        &mut self,
        config: &ConnectionConfig,
        now: Now,
        principal: &Arc<Principal>,
        lane: &mut Vec<u8>,
    ) -> Result<(), ErrorInfo> {
        let before = self.principal.token().cloned();
        self.principal = self.principal.succeeded_by(principal)?;
        // Who sends the same token again has no other: asking again would go on for ever.
        if before.as_ref() != self.principal.token() {
            self.plan_renewal(now);
        }
        self.connected(config, None, lane);
        Ok(())
    }

    /// Its token will be revoked, or is: `principal` is the same with that known.
    pub fn revoke(&mut self, principal: Arc<Principal>, now: Now) {
        self.principal = principal;
        self.plan_renewal(now);
    }
}
