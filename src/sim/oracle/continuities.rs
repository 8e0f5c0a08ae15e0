//! What attachments are sent, from where their continuity begins to where it ends, and whether that is all.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::ops::Bound;

use super::ephemeral::Pause;
use super::starts::Gone;
use super::{Event, Oracle, SOMEBODY};

/// An attachment from where its continuity begins to where it ends.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) client: usize,
    pub(super) channel: String,
    /// What lies behind this is part of it.
    pub(super) start: String,
    /// Serials below `start` that a rewind has brought, counted.
    pub(super) rewound: usize,
    pub(super) rewinds: bool,
    /// Whether its client was told that what a rewind has brought is not all that there was.
    pub(super) is_told: bool,
    pub(super) received: Vec<String>,
    /// The start of the daemon over which it goes on.
    pub(super) over: u32,
    /// Those of them that can be understood by themselves.
    pub(super) whole: BTreeSet<String>,
    /// Up to where it is known to be complete; `None`: to the last that was received.
    pub(super) complete_to: Option<String>,
    /// Up to where its client was told that it has been sent everything.
    pub(super) placed: Option<String>,
    /// Own connections whose messages it is not sent.
    pub(super) skips: Vec<String>,
    /// Where it was interrupted.
    pub(super) pauses: Vec<Pause>,
    /// The one of the same attachment before, whose client was told of a gap and was attached all the time.
    pub(super) follows: Option<usize>,
}

impl Oracle {
    /// An attachment begins behind `start`; returns the number of its continuity. `is_told` says that what a
    /// rewind brings is not all.
    pub fn begin_segment(
        &mut self,
        client: usize,
        channel: &str,
        start: &str,
        rewinds: bool,
        is_told: bool,
    ) -> usize {
        self.segments.push(Segment {
            client,
            channel: channel.to_owned(),
            start: start.to_owned(),
            rewound: 0,
            rewinds,
            is_told,
            received: Vec::new(),
            over: self.start,
            whole: BTreeSet::new(),
            complete_to: None,
            placed: None,
            skips: Vec::new(),
            pauses: Vec::new(),
            follows: None,
        });
        self.segments.len() - 1
    }

    /// It is that of an attachment which had `before`, and has not been let go of since.
    pub fn follow(&mut self, segment: usize, before: usize) {
        self.segments[segment].follows = Some(before);
    }

    /// From now on it is not sent what this connection publishes.
    pub fn skip(&mut self, segment: usize, connection: &str) {
        let skips = &mut self.segments[segment].skips;
        if !skips.iter().any(|known| known == connection) {
            skips.push(connection.to_owned());
        }
    }

    /// An attachment was sent a publication.
    pub fn receive(&mut self, segment: usize, serial: &str, is_whole: bool) {
        if is_whole {
            self.segments[segment].whole.insert(serial.to_owned());
        }
        let Segment { client, channel, start, rewound, rewinds, received, placed, .. } =
            &mut self.segments[segment];
        let is_rewound = *rewinds && *serial <= **start;
        let after = received.last().filter(|_| !is_rewound || *rewound > 0);
        let is_in_order = match after {
            Some(last) => **last < *serial,
            None => is_rewound || **start < *serial,
        };
        let is_in_order = is_in_order && placed.as_deref().is_none_or(|placed| placed < serial);
        if is_in_order {
            *rewound += usize::from(is_rewound);
            received.push(serial.to_owned());
            self.judge_replay(segment, serial);
        } else {
            let text =
                format!("client {client} {channel}: {serial} behind {received:?} from {start}");
            self.find("order", text);
        }
    }

    /// The client of an attachment is told that it has been sent everything up to `serial`.
    pub fn place(&mut self, segment: usize, serial: &str) {
        let placed = &mut self.segments[segment].placed;
        *placed = placed.take().max(Some(serial.to_owned()));
    }

    /// The run ends, and this attachment has been sent everything.
    pub fn complete(&mut self, segment: usize) {
        self.segments[segment].complete_to = Some("~".to_owned());
    }

    /// It has been sent everything up to that time.
    pub fn complete_to(&mut self, segment: usize, now_ms: u64) {
        self.segments[segment].complete_to = Some(super::end_of(now_ms));
    }

    pub(super) fn judge_segments(&mut self) {
        for at in 0..self.segments.len() {
            self.judge_segment(at);
        }
    }

    fn judge_segment(&mut self, at: usize) {
        let segment = &self.segments[at];
        let first = match segment.rewound {
            0 => Bound::Excluded(segment.start.clone()),
            _ => Bound::Included(segment.received[0].clone()),
        };
        let told = segment.received.last().max(segment.placed.as_ref());
        let Some(end) = segment.complete_to.as_ref().max(told).cloned() else { return };
        if segment.rewound == 0 && end <= segment.start {
            return; // its end came before its beginning
        }
        let Some(order) = self.orders.get(&segment.channel) else { return };
        let is_sent = |event: &Event| {
            let Segment { skips, .. } = segment;
            event.publisher.as_ref().is_none_or(|publisher| {
                !skips.contains(publisher) && (publisher != SOMEBODY || skips.is_empty())
            })
        };
        let expected: Vec<&String> = order
            .range((first, Bound::Included(end.clone())))
            .filter(|(serial, event)| {
                let Segment { channel, received, start, is_told, .. } = segment;
                let may_be_missing = match self.fate(channel, serial) {
                    Some(Gone::Silently) => true,
                    Some(Gone::Noticed) => *is_told && *serial <= start,
                    None => self.is_passed(channel, serial, at),
                };
                let is_forgotten = self.is_forgotten(segment, serial, event);
                let is_due = is_sent(event) && !may_be_missing && !is_forgotten;
                received.contains(serial)
                    || is_due && !self.is_collapsed(segment, &end, serial, event)
            })
            .map(|(serial, _)| serial)
            .collect();
        if expected.into_iter().eq(&segment.received) {
            return;
        }
        let mut text = format!("client {} {}", segment.client, segment.channel);
        for (serial, event) in
            order.range::<String, _>((Bound::Excluded(&segment.start), Bound::Unbounded))
        {
            let is_received = segment.received.contains(serial);
            if !is_received && is_sent(event) {
                let _ = write!(text, " misses {serial} {:?}", event.tags);
            }
        }
        let _ = write!(text, "; from {} it has {:?}", segment.start, segment.received);
        let kind = if segment.complete_to.is_some() { "gap or end" } else { "gap" };
        self.find(kind, text);
    }
}
