//! Notices a rule that feeds itself: whose endpoint publishes, for every event that it is sent, another one
//! on the same channel. Time comes in as an argument.
//!
//! Two things have to come together. **Descent**: an event that was published by REST while a delivery of
//! its channel was under way may be that delivery's child. [`DESCENT_MAX`] of them in a row are suspicious;
//! any other event ends the row, in particular whatever a connected client publishes, so people are above
//! suspicion. **Silence**: whoever publishes steadily may come that far by chance, but goes on when
//! nothing is delivered. So the rule's deliveries are held for a moment, [`ROUNDS`] times: it feeds itself
//! if each time nothing more comes until they go on, and something does then. A suspicion that proves wrong
//! is over with the first event that comes, and doubles what the next one takes.

use std::collections::HashMap;
use std::time::Duration;

use crate::base::Now;

/// Events in a row, each of which may be a delivery's child, after which a rule is looked at.
const DESCENT_MAX: u32 = 100;

/// What a suspicion takes at most, however many were wrong.
const SUSPICION_MAX: u32 = 1 << 20;

/// Times that silence has to prove it.
const ROUNDS: u32 = 3;

/// Bounds of one silence: several times what has lain between two events.
const HOLD_MIN_MS: u64 = 1000;
const HOLD_MAX_MS: u64 = 10_000;
const HOLD_INTERVALS: u64 = 4;

/// How long an endpoint that answers before it has done its work may still publish for that delivery.
const AFTERMATH: Duration = Duration::from_secs(1);

/// Channels whose descent is remembered; of more nothing is.
const CHANNELS_MAX: usize = 10_000;

/// What happens to a rule that feeds itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LoopGuard {
    /// The log says so.
    #[default]
    Warn,
    /// It says so, and nothing is sent until the rule is changed or the daemon starts again.
    Pause,
    /// Nobody looks.
    Off,
}

impl LoopGuard {
    /// Each with its name in configuration.
    pub const NAMES: [(&str, LoopGuard); 3] =
        [("warn", LoopGuard::Warn), ("pause", LoopGuard::Pause), ("off", LoopGuard::Off)];
}

/// Deliveries of one channel.
struct Flight {
    /// How many in a row may be children.
    descent: u32,
    /// When the first of them came.
    began_ms: u64,
    is_under_way: bool,
    /// Until when an event may still be its child.
    until_ms: u64,
}

/// An experiment.
struct Probe {
    channel: Box<str>,
    hold_ms: u64,
    rounds: u32,
    stage: Stage,
}

impl Probe {
    fn is_released(&self) -> bool {
        matches!(self.stage, Stage::Released { .. })
    }
}

enum Stage {
    /// Deliveries are held, and those under way end.
    Settling,
    /// Nothing is under way; nothing may come until then.
    Silent { until_ms: u64 },
    /// They go on, and something has to come before that.
    Released { until_ms: u64 },
}

/// See the module text; one for each rule.
pub struct Guard {
    flights: HashMap<Box<str>, Flight>,
    probe: Option<Probe>,
    /// How many in a row the next suspicion takes.
    suspicion: u32,
    /// It feeds itself; nothing more is to be found out.
    is_looping: bool,
}

impl Default for Guard {
    fn default() -> Guard {
        let suspicion = DESCENT_MAX;
        Guard { flights: HashMap::new(), probe: None, suspicion, is_looping: false }
    }
}

impl Guard {
    /// Whether nothing is to be sent for the moment.
    pub fn is_holding(&self) -> bool {
        self.probe.as_ref().is_some_and(|probe| !probe.is_released())
    }

    /// Whether the rule was found to feed itself.
    pub fn is_looping(&self) -> bool {
        self.is_looping
    }

    /// An event has come. `is_rest`: no connection has published it.
    pub fn handle_event(&mut self, now: Now, channel: &str, is_rest: bool) {
        let Some(flight) = self.flights.get_mut(channel) else {
            return self.handle_orphan(channel, is_rest);
        };
        if !is_rest || !(flight.is_under_way || now.mono_ms < flight.until_ms) {
            flight.descent = 0;
            return self.handle_orphan(channel, is_rest);
        }
        if flight.descent == 0 {
            flight.began_ms = now.mono_ms;
        }
        flight.descent = flight.descent.saturating_add(1);
        let each_ms = (now.mono_ms - flight.began_ms) / u64::from(flight.descent);
        let is_suspicious = flight.descent >= self.suspicion && !self.is_looping;
        match &mut self.probe {
            Some(probe) if *probe.channel == *channel && probe.is_released() => {
                match probe.rounds >= ROUNDS {
                    true => (self.probe, self.is_looping) = (None, true),
                    false => probe.stage = Stage::Settling,
                }
            }
            // What is late is not held against anybody.
            Some(_) => {}
            None if is_suspicious => {
                let hold_ms = (HOLD_INTERVALS * each_ms).clamp(HOLD_MIN_MS, HOLD_MAX_MS);
                let (channel, stage) = (channel.into(), Stage::Settling);
                self.probe = Some(Probe { channel, hold_ms, rounds: 0, stage });
            }
            None => {}
        }
    }

    /// An event has come that is nobody's child. In a silence it clears who was suspected.
    fn handle_orphan(&mut self, channel: &str, is_rest: bool) {
        let is_silent = |probe: &Probe| {
            *probe.channel == *channel && matches!(probe.stage, Stage::Silent { .. })
        };
        if is_rest && self.probe.as_ref().is_some_and(is_silent) {
            self.probe = None;
            self.suspicion = self.suspicion.saturating_mul(2).min(SUSPICION_MAX);
        }
    }

    /// A delivery begins that has events of `channel`.
    pub fn handle_sent(&mut self, now: Now, channel: &str) {
        if let Some(flight) = self.flights.get_mut(channel) {
            flight.is_under_way = true;
            return;
        }
        if self.flights.len() >= CHANNELS_MAX {
            self.flights.retain(|_, flight| flight.is_under_way || flight.until_ms > now.mono_ms);
        }
        if self.flights.len() < CHANNELS_MAX {
            let flight = Flight { descent: 0, began_ms: 0, is_under_way: true, until_ms: 0 };
            self.flights.insert(channel.into(), flight);
        }
    }

    /// It has ended. `works_on`: the endpoint has not done its work yet, perhaps.
    pub fn handle_ended(&mut self, now: Now, channel: &str, works_on: bool) {
        let Some(flight) = self.flights.get_mut(channel) else { return };
        flight.is_under_way = false;
        flight.until_ms = now.mono_ms + if works_on { AFTERMATH.as_millis() as u64 } else { 0 };
        // Its children, if there are any, have come already.
        let is_probed = self.probe.as_ref().is_some_and(|probe| *probe.channel == *channel);
        if flight.descent == 0 && !works_on && !is_probed {
            self.flights.remove(channel);
        }
    }

    /// Goes on with an experiment. `in_flight`: requests of the rule under way. True once, when the rule is
    /// found to feed itself.
    pub fn poll(&mut self, now: Now, in_flight: usize, has_told: &mut bool) -> bool {
        if let Some(probe) = &mut self.probe {
            let hold_ms = probe.hold_ms;
            match probe.stage {
                Stage::Settling if in_flight == 0 => {
                    let late_ms = self.flights.get(&probe.channel).map_or(0, |of| of.until_ms);
                    let from_ms = late_ms.max(now.mono_ms);
                    probe.stage = Stage::Silent { until_ms: from_ms + hold_ms };
                }
                Stage::Silent { until_ms } if now.mono_ms >= until_ms => {
                    probe.rounds += 1;
                    probe.stage = Stage::Released { until_ms: now.mono_ms + HOLD_MAX_MS + hold_ms };
                }
                // It has come to its end by itself.
                Stage::Released { until_ms } if now.mono_ms >= until_ms => self.probe = None,
                Stage::Settling | Stage::Silent { .. } | Stage::Released { .. } => {}
            }
        }
        self.is_looping && !std::mem::replace(has_told, self.is_looping)
    }

    /// When [`poll`](Self::poll) has something to do again, on the monotonic clock.
    pub fn next_timeout(&self) -> Option<u64> {
        match self.probe.as_ref()?.stage {
            // The end of a request wakes whoever asks.
            Stage::Settling => None,
            Stage::Silent { until_ms } | Stage::Released { until_ms } => Some(until_ms),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A rule with one channel, whose endpoint takes `work_ms` for an event.
    struct Desk {
        guard: Guard,
        now: Now,
        waiting: u64,
        has_told: bool,
        loops: u32,
        held_ms: u64,
    }

    impl Desk {
        fn new() -> Desk {
            let now = Now { mono_ms: 1_000, unix_ms: 1_700_000_000_000 };
            let guard = Guard::default();
            Desk { guard, now, waiting: 0, has_told: false, loops: 0, held_ms: 0 }
        }

        fn pass(&mut self, ms: u64) {
            self.now.mono_ms += ms;
        }

        fn arrive(&mut self, is_rest: bool) {
            self.guard.handle_event(self.now, "c", is_rest);
            self.waiting += 1;
        }

        fn poll(&mut self, in_flight: usize) {
            let looping = self.guard.poll(self.now, in_flight, &mut self.has_told);
            self.loops += u32::from(looping);
        }

        /// Delivers the first that waits, unless that is held; `during` says how many come meanwhile, one
        /// after another.
        fn deliver(&mut self, work_ms: u64, works_on: bool, during: impl Fn(u64) -> bool) {
            self.poll(0);
            if self.guard.is_holding() || self.waiting == 0 {
                self.pass(10);
                self.held_ms += 10;
                return;
            }
            self.waiting -= 1;
            self.guard.handle_sent(self.now, "c");
            for ms in 0..work_ms {
                if during(self.now.mono_ms + ms) {
                    self.arrive(true);
                }
            }
            self.pass(work_ms);
            self.guard.handle_ended(self.now, "c", works_on);
        }
    }

    #[test]
    fn an_endpoint_that_publishes_another_event_for_each_is_found_once() {
        for children in [1, 2] {
            let mut desk = Desk::new();
            desk.arrive(false);
            for _ in 0..20_000 {
                let first_ms = desk.now.mono_ms;
                desk.deliver(20, false, |ms| ms < first_ms + children);
            }
            assert_eq!((desk.loops, desk.guard.is_looping()), (1, true), "{children}");
            assert!(!desk.guard.is_holding(), "nothing more is to be found out");
        }
    }

    #[test]
    fn one_that_answers_first_and_publishes_then_is_found_too() {
        let mut desk = Desk::new();
        desk.arrive(false);
        for _ in 0..20_000 {
            let before = desk.waiting;
            desk.deliver(5, true, |_| false);
            if desk.waiting < before {
                desk.pass(50);
                desk.arrive(true);
            }
        }
        assert_eq!(desk.loops, 1);
    }

    #[test]
    fn whoever_publishes_over_a_connection_is_never_suspected() {
        let mut desk = Desk::new();
        for _ in 0..5_000 {
            desk.arrive(false);
            desk.deliver(20, false, |_| false);
        }
        assert_eq!((desk.loops, desk.held_ms), (0, 0));
    }

    #[test]
    fn steady_publishers_by_rest_are_cleared_by_the_first_event_of_a_silence() {
        for period_ms in [3, 19, 20, 21, 50, 1000] {
            let mut desk = Desk::new();
            let mut next_ms = desk.now.mono_ms;
            for _ in 0..200_000 {
                while next_ms <= desk.now.mono_ms {
                    desk.arrive(true);
                    next_ms += period_ms;
                }
                let from_ms = next_ms;
                let is_due = |ms: u64| ms >= from_ms && (ms - from_ms).is_multiple_of(period_ms);
                let before_ms = desk.now.mono_ms;
                desk.deliver(20, false, is_due);
                if desk.now.mono_ms > before_ms + 10 {
                    while next_ms < desk.now.mono_ms {
                        next_ms += period_ms;
                    }
                }
            }
            assert_eq!(desk.loops, 0, "{period_ms} ms");
        }
    }

    #[test]
    fn what_ends_by_itself_is_no_loop() {
        let mut desk = Desk::new();
        desk.arrive(false);
        let last = 150;
        for number in 0..2_000 {
            let first_ms = desk.now.mono_ms;
            desk.deliver(20, false, |ms| ms == first_ms && number < last);
        }
        assert_eq!((desk.loops, desk.guard.is_holding()), (0, false));
    }
}
