//! Messages that are delivered to those who are there, and forgotten: no history has them, and who comes back
//! is not sent what came while it was away.
//!
//! Until when it was away nobody can say exactly: the home has answered at some time between the request and
//! its answer. What is published meanwhile a client may be sent or not; what is published later it is. Of what
//! was published before it is sent what had not come to its shard yet, and nothing else.
//!
//! An attachment that goes on over one transport is never away, whatever else its client asks for there: of
//! what was published before its first ATTACH it is sent no more than that, and nothing twice, not even where
//! it is told of a gap.

use std::iter::successors;

use super::{Event, Oracle, Segment, publish_of};

/// A time for which a continuity was interrupted.
#[derive(Debug)]
pub(super) struct Pause {
    /// The last that had come before.
    after: String,
    /// What was published before is not sent again; none: nobody has asked.
    asked_ms: Option<u64>,
    /// Everything behind that comes again as it is published.
    until: String,
}

/// Of a serial: its time in milliseconds.
fn time_ms(serial: &str) -> u64 {
    serial.get(..14).and_then(|time| time.parse().ok()).unwrap_or_default()
}

impl Oracle {
    /// Whether a tag is of a publish that is to be forgotten.
    pub fn is_ephemeral(&self, tag: &str) -> bool {
        let publish = publish_of(tag).and_then(|number| self.publishes.get(number));
        publish.is_some_and(|publish| publish.is_ephemeral)
    }

    fn is_ephemeral_event(&self, event: &Event) -> bool {
        event.tags.iter().any(|tag| self.is_ephemeral(tag))
    }

    /// A continuity goes on, or begins, after its client was away. It is sent what is published behind `until`,
    /// and nothing that everybody had at `asked_ms`.
    pub fn pause(&mut self, segment: usize, asked_ms: Option<u64>, until: String) {
        let Segment { received, start, pauses, .. } = &mut self.segments[segment];
        let after = received.last().unwrap_or(start).clone();
        pauses.push(Pause { after, asked_ms, until });
    }

    /// Nothing that is to be forgotten is a part of a continuity.
    pub fn leave_out_ephemeral(&mut self, segment: usize) {
        let pause = Pause { after: String::new(), asked_ms: None, until: "~".into() };
        self.segments[segment].pauses.push(pause);
    }

    /// Whether an event is one that a continuity need not have, since its client may have been away.
    pub(super) fn is_forgotten(&self, segment: &Segment, serial: &str, event: &Event) -> bool {
        let Segment { start, rewound, pauses, .. } = segment;
        let was_away = |pause: &Pause| *pause.after < *serial && *serial <= *pause.until;
        let is_before = *rewound > 0 && *serial <= **start;
        (is_before || pauses.iter().any(was_away)) && self.is_ephemeral_event(event)
    }

    /// What an attachment is sent and is to be forgotten was not there before its client has asked, and was not
    /// sent to it before.
    pub(super) fn judge_replay(&mut self, segment: usize, serial: &str) {
        let Segment { client, channel, pauses, .. } = &self.segments[segment];
        let asked_ms = pauses.last().and_then(|pause| pause.asked_ms);
        // What waits for the disk comes when it is there.
        let is_kept = self.levels.contains_key(channel.as_str());
        let is_late = asked_ms.is_some_and(|asked_ms| time_ms(serial) < asked_ms && !is_kept);
        let event = self.orders.get(channel).and_then(|order| order.get(serial));
        let mut before = successors(Some(segment), |&at| self.segments[at].follows).skip(1);
        let is_again = before.any(|at| self.segments[at].received.iter().any(|it| it == serial));
        if (is_late || is_again) && event.is_some_and(|event| self.is_ephemeral_event(event)) {
            let text = format!("client {client} {channel} is sent {serial} again: {event:?}");
            self.find("ephemeral", text);
        }
    }

    /// The daemon ends, and nothing of these is kept.
    pub(super) fn forget_ephemeral(&mut self) {
        let mut forgotten = Vec::new();
        for (channel, order) in &self.orders {
            for (serial, _) in order.iter().filter(|(_, event)| self.is_ephemeral_event(event)) {
                forgotten.push((channel.clone(), serial.clone()));
            }
        }
        for (channel, serial) in forgotten {
            self.forget(channel, serial);
        }
    }
}
