//! Events of channels at home here, on their way to the endpoints of rules.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Shard;
use crate::ably::{
    ErrorCode, ErrorInfo, Rule, RuleEvent, RuleSource, WhenFull, lifecycle_event, message_events,
    occupancy_event, presence_events,
};
use crate::channel::ChannelKey;
use crate::channel::broadcast::Broadcast;
use crate::channel::home::HomeChannel;

/// Events that wait to be handed over, at most. They do so for a turn, unless delivery stands still.
const EVENTS_MAX: usize = 16_384;

/// Bytes of events that wait to be handed over, about.
const EVENTS_BYTES_MAX: u64 = 16 << 20;

/// Events that wait to be handed over to whoever delivers them, oldest first.
#[derive(Default)]
pub(super) struct HookOutbox {
    events: VecDeque<RuleEvent>,
    bytes: u64,
}

impl HookOutbox {
    fn is_full(&self) -> bool {
        self.events.len() >= EVENTS_MAX || self.bytes >= EVENTS_BYTES_MAX
    }

    /// Takes an event. Where there is no room, the oldest goes that may be dropped; there may be none, as
    /// a rule that refuses has been asked before.
    pub fn push(&mut self, event: RuleEvent) {
        if self.is_full() {
            let may_go = |event: &RuleEvent| event.rule().when_full == WhenFull::DropOldest;
            if let Some(at) = self.events.iter().position(may_go) {
                let dropped = self.events.remove(at).expect("found there");
                self.bytes -= dropped.size_bytes();
                dropped.rule().count_dropped();
            } else if may_go(&event) {
                event.rule().count_dropped();
                return;
            }
        }
        self.bytes += event.size_bytes();
        self.events.push_back(event);
    }
}

impl Shard {
    /// Whether events wait to be handed over.
    pub fn has_hooks(&self) -> bool {
        !self.hooks.events.is_empty()
    }

    /// All events that wait to be handed over, in order.
    pub fn take_hooks(&mut self) -> Vec<RuleEvent> {
        self.hooks.bytes = 0;
        std::mem::take(&mut self.hooks.events).into()
    }

    /// Whether the rules of a channel take another event of this kind. Events are refused before they have
    /// a place in the order.
    pub(super) fn check_rules(
        &mut self,
        key: &ChannelKey,
        source: RuleSource,
    ) -> Result<(), ErrorInfo> {
        if self.homes.rules().are_without(source) {
            return Ok(());
        }
        let is_outbox_full = self.hooks.is_full();
        let is_in_the_way = |rule: &Arc<Rule>| {
            rule.is_told_of(source)
                && rule.when_full == WhenFull::Refuse
                && (rule.is_full() || is_outbox_full)
        };
        let full = match self.homes.rules_of(key) {
            Some(rules) => rules.iter().any(is_in_the_way),
            None => {
                let rules = self.homes.rules().of_channel(key.app_id(), key.name());
                rules.iter().any(is_in_the_way)
            }
        };
        if full {
            let text = "a rule of this channel has as many events waiting as it may have";
            return Err(ErrorInfo::new(ErrorCode::TOO_MANY_EVENTS_WAITING, text));
        }
        Ok(())
    }

    /// Has the rules of the event's channel told of it.
    pub(super) fn hook(&mut self, key: &ChannelKey, event: &Broadcast) {
        let mut keeping = self.homes.keeping.take();
        let owed = keeping.as_mut().and_then(|keeping| keeping.owing.of(key));
        let mut owed = owed.map(|owed| owed.for_presence(event.is_presence()));
        let rules = self.homes.rules_of(key).unwrap_or_default();
        let (outbox, channel) = (&mut self.hooks, key.name());
        let mut push = |event| match &mut owed {
            None => outbox.push(event),
            Some(owed) => owed.push_event(event),
        };
        for rule in rules.iter().filter(|rule| rule.gate.is_none()) {
            match (rule.source, event) {
                (RuleSource::Message, Broadcast::Messages(publication)) => {
                    message_events(rule, channel, publication, &mut push);
                }
                (RuleSource::Presence, Broadcast::Presence(events)) => {
                    presence_events(rule, channel, events, &mut push);
                }
                (
                    RuleSource::Message
                    | RuleSource::Presence
                    | RuleSource::Lifecycle
                    | RuleSource::Occupancy,
                    _,
                ) => {}
            }
        }
        self.homes.keeping = keeping;
    }

    /// Whether a rule of a channel that is open is told of `source`.
    pub(super) fn is_told(&mut self, key: &ChannelKey, source: RuleSource) -> bool {
        if self.homes.rules().are_without(source) {
            return false;
        }
        let rules = self.homes.rules_of(key).unwrap_or_default();
        rules.iter().any(|rule| rule.is_told_of(source))
    }

    /// Has rules told the numbers of a channel, if they have changed since the last time.
    pub(super) fn hook_occupancy(&mut self, key: &ChannelKey) {
        if !self.is_told(key, RuleSource::Occupancy) {
            return;
        }
        let metrics = self.homes.get_mut(key).and_then(HomeChannel::tell_rules);
        let (Some(metrics), Some(rules)) = (metrics, self.homes.rules_of(key)) else { return };
        for rule in rules.iter().filter(|rule| rule.is_told_of(RuleSource::Occupancy)) {
            let event = occupancy_event(rule, key.name(), self.now.unix_ms, &metrics);
            self.hooks.push(event);
        }
    }

    /// Has rules told that a channel has become active, or inactive.
    pub(super) fn hook_lifecycle(&mut self, key: &ChannelKey, is_active: bool) {
        let rules = self.homes.rules();
        if rules.are_without(RuleSource::Lifecycle) {
            return;
        }
        for rule in &rules.of_channel(key.app_id(), key.name()) {
            if rule.is_told_of(RuleSource::Lifecycle) {
                let event = lifecycle_event(rule, key.name(), self.now.unix_ms, is_active);
                self.hooks.push(event);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::ably::{ChannelFilter, ContentType, Format, RequestShape};

    fn rule(when_full: WhenFull) -> Arc<Rule> {
        let filter = ChannelFilter::compile("").expect("a filter");
        let (source, shape) = (RuleSource::Message, RequestShape::Enveloped);
        Arc::new(Rule::new("r", "app", source, filter, shape, Format::Json, when_full, 1 << 40))
    }

    fn event(rule: &Arc<Rule>, number: u64, bytes: usize) -> RuleEvent {
        let body = Bytes::from(vec![0; bytes]);
        RuleEvent::new(Arc::clone(rule), "room", number, ContentType::Json, body, Vec::new())
    }

    #[test]
    fn a_full_outbox_drops_the_oldest_that_may_go() {
        let (lossy, lossless) = (rule(WhenFull::DropOldest), rule(WhenFull::Refuse));
        let mut outbox = HookOutbox::default();
        outbox.push(event(&lossless, 0, 1));
        for number in 1..=40 {
            outbox.push(event(&lossy, number, 1 << 20));
        }
        assert!(outbox.bytes < EVENTS_BYTES_MAX + (2 << 20), "{}", outbox.bytes);
        let numbers: Vec<u64> = outbox.events.iter().map(|event| event.timestamp_ms).collect();
        assert_eq!((numbers[0], numbers.last()), (0, Some(&40)));
        assert!(numbers.is_sorted());
        let sum: u64 = outbox.events.iter().map(RuleEvent::size_bytes).sum();
        assert_eq!(outbox.bytes, sum);
        assert_eq!(lossy.count_dropped() as usize, 41 - (numbers.len() - 1));
        for number in 0..=EVENTS_MAX as u64 {
            outbox.push(event(&lossless, number, 1));
        }
        // Nothing of the one is left, and nothing of the other was dropped.
        assert_eq!(lossless.count_dropped(), 1);
    }
}
