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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_second_has_more_than_its_rate_and_none_of_any_length_more_than_twice_that() {
        for seed in 1..=60u64 {
            let mut state = seed;
            let mut below = |bound: u64| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 33) % bound
            };
            let (payloads_max, messages_max) = (1 + below(20) as u32, 1 + below(40) as u32);
            let config = ConnectionConfig {
                payloads_per_second_max: payloads_max,
                messages_per_second_max: messages_max,
                ..ConnectionConfig::default()
            };
            let (mut rates, mut mono_ms) = (Rates::default(), below(5000));
            // When each was counted, with its messages, and what passed of it.
            let mut counted: Vec<(u64, u64, bool, bool)> = Vec::new();
            for _ in 0..300 {
                mono_ms += below(200) * below(2);
                let passes = rates.count_payload(&config, Now { mono_ms, unix_ms: 0 }).is_ok();
                let messages = below(6);
                let publishes = rates.count_messages(&config, messages as usize).is_ok();
                counted.push((mono_ms, messages, passes, publishes));
            }
            for &(from_ms, ..) in &counted {
                let within = |end_ms: u64| {
                    let all = counted.iter().filter(move |one| (from_ms..end_ms).contains(&one.0));
                    let payloads = all.clone().filter(|one| one.2).count() as u32;
                    (payloads, all.filter(|one| one.3).map(|one| one.1).sum::<u64>() as u32)
                };
                let (payloads, messages) = within((from_ms / 1000 + 1) * 1000);
                assert!(payloads <= payloads_max && messages <= messages_max, "seed={seed}");
                let (payloads, messages) = within(from_ms + 1000);
                assert!(
                    payloads <= 2 * payloads_max && messages <= 2 * messages_max,
                    "seed={seed}"
                );
            }
            // Nobody is refused who has kept to the rate.
            let mut sums = std::collections::BTreeMap::<u64, (u32, u64)>::new();
            for (mono_ms, messages, passes, publishes) in counted {
                let sum = sums.entry(mono_ms / 1000).or_default();
                *sum = (sum.0 + 1, sum.1 + messages);
                assert_eq!(passes, sum.0 <= payloads_max, "seed={seed}");
                assert_eq!(publishes, sum.1 <= u64::from(messages_max), "seed={seed}");
            }
        }
    }
}
