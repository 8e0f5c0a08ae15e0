//! How much a client has sent in the second that goes on (17).

use super::ConnectionConfig;
use crate::ably::{ErrorCode, ErrorInfo};
use crate::base::Now;

/// Counts by whole seconds: twelve bytes a connection, at the price that up to twice the rate passes
/// around the end of a second.
#[derive(Debug, Default)]
pub(super) struct Rates {
    second: u32,
    payloads: u32,
    messages: u32,
}

impl Rates {
    /// Counts a protocol message, of whatever kind.
    ///
    /// # Errors
    /// 42924: there were too many; the connection ends.
    pub fn count_payload(&mut self, config: &ConnectionConfig, now: Now) -> Result<(), ErrorInfo> {
        let second = (now.mono_ms / 1000) as u32;
        if second != self.second {
            *self = Rates { second, ..Rates::default() };
        }
        self.payloads = self.payloads.saturating_add(1);
        let max = config.payloads_per_second_max;
        if max > 0 && self.payloads > max {
            let text = format!("more than {max} protocol messages in a second");
            return Err(ErrorInfo::new(ErrorCode::FLOODING, text));
        }
        Ok(())
    }

    /// Counts what one of them wants to publish; what is refused counts as well.
    ///
    /// # Errors
    /// 42911: there were too many; the publish is refused, the connection goes on.
    pub fn count_messages(
        &mut self,
        config: &ConnectionConfig,
        count: usize,
    ) -> Result<(), ErrorInfo> {
        self.messages = self.messages.saturating_add(u32::try_from(count).unwrap_or(u32::MAX));
        let max = config.messages_per_second_max;
        if max > 0 && self.messages > max {
            let text = format!("more than {max} messages in a second on one connection");
            return Err(ErrorInfo::new(ErrorCode::CONNECTION_RATE_EXCEEDED, text));
        }
        Ok(())
    }
}
