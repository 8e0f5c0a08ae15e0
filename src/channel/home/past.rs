//! What of a channel's past those are sent who join it or read its history, from memory and from what is kept
//! elsewhere.

use std::collections::VecDeque;
use std::sync::Arc;

use super::{Durable, HomeChannel};
use crate::ably::{
    AnnotationPage, ChannelSerial, ErrorCode, ErrorInfo, HistoryItem, HistoryPage, HistoryQuery,
    Position, Publication, Rewind, SeriesId, Since,
};
use crate::base::Now;
use crate::channel::broadcast::Broadcast;
use crate::channel::kept::Kept;
use crate::channel::revisions::Revisions;
use crate::channel::view::Past;

/// Events that are kept and lie before those in memory.
#[derive(Debug)]
pub struct Older {
    /// Oldest first.
    pub events: Vec<Kept>,
    /// Up to this one; some of them may be in memory as well.
    pub until: ChannelSerial,
    /// Whether there are others that were asked for.
    pub is_cut: bool,
}

/// Which of the events before those in memory somebody needs who joins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OlderWanted {
    /// Those behind this serial; `None`: the newest.
    pub after: Option<ChannelSerial>,
    /// Up to this one.
    pub until: ChannelSerial,
    /// Not before this time, in milliseconds since the Unix epoch.
    pub start_ms: u64,
    /// Messages at most, of the newest.
    pub messages_max: u32,
}

impl HomeChannel {
    /// What lies behind it is all here; of a channel whose events outlive the process, what lies before it
    /// may be kept elsewhere.
    fn kept_from(&self) -> ChannelSerial {
        self.dropped.unwrap_or(self.first_serial)
    }

    /// Whether something behind `serial` may be gone that neither memory nor what is kept elsewhere vouches for.
    fn may_miss_behind(&self, serial: ChannelSerial) -> bool {
        let floor = self.durable.as_ref().map(|durable| durable.floor);
        floor.is_some_and(|floor| serial < floor && serial < self.kept_from())
    }

    /// What of its events lies behind it is in memory.
    pub fn memory_from(&self) -> ChannelSerial {
        let oldest = self.history.oldest().map(|(serial, _)| serial.preceding());
        oldest.into_iter().chain([self.kept_from()]).min().expect("one at least")
    }

    /// Up to which serial what is kept elsewhere is to be read, and how many messages of that are in memory
    /// too: some of it, since memory may drop them before the answer is there.
    pub fn older_until(&self) -> (ChannelSerial, u32) {
        let from = self.memory_from();
        self.history.overlap().filter(|(serial, _)| *serial > from).unwrap_or((from, 0))
    }

    /// What somebody who joins `since` some point needs that is kept elsewhere.
    pub fn older_wanted(&self, now: Now, since: &Since) -> Option<OlderWanted> {
        let durable = self.durable.as_ref()?;
        let from = self.memory_from();
        if from <= durable.floor {
            return None;
        }
        let (until, overlap) = self.older_until();
        let all = OlderWanted { after: None, until, start_ms: 0, messages_max: u32::MAX };
        match since {
            Since::Head => None,
            Since::Serial(text) => {
                let serial: ChannelSerial = text.parse().ok()?;
                let is_kept = serial >= durable.floor && serial < from;
                (is_kept && durable.series.contains(&serial.series()))
                    .then_some(OlderWanted { after: Some(serial), ..all })
            }
            Since::Rewind { rewind: Rewind::Count(count), .. } => {
                let missing = count.saturating_sub(self.history.message_count());
                let messages_max = missing.saturating_add(overlap);
                (missing > 0).then_some(OlderWanted { messages_max, ..all })
            }
            Since::Rewind { rewind: Rewind::Span(span), limit } => {
                let start_ms = now.unix_ms.saturating_sub(span.as_millis() as u64);
                (from.time_ms() >= start_ms).then_some(OlderWanted {
                    start_ms,
                    messages_max: limit.saturating_add(1).saturating_add(overlap),
                    ..all
                })
            }
        }
    }

    /// What somebody who joins `since` some point is sent of the past, at most `bytes_max` of it; a
    /// continuity that cannot be kept is given up as a whole (6.6). `older` is what was
    /// [wanted](Self::older_wanted) of what is kept elsewhere.
    pub fn past(&self, now: Now, since: &Since, bytes_max: u64, older: Option<&Older>) -> Past {
        let head = self.last_serial;
        let nothing = Past { serial: head, resumed: false, error: None, events: Vec::new() };
        match since {
            Since::Head => nothing,
            Since::Rewind { rewind, limit } => {
                let latest = |oldest_ms, messages_max| {
                    let revisions = self.revisions.as_deref();
                    self.history.latest(oldest_ms, messages_max, bytes_max, revisions)
                };
                let (oldest_ms, messages_max) = match rewind {
                    Rewind::Count(count) => (0, *count),
                    Rewind::Span(span) => {
                        (now.unix_ms.saturating_sub(span.as_millis() as u64), *limit)
                    }
                };
                let (publications, mut is_cut) = latest(oldest_ms, messages_max);
                let mut publications: VecDeque<Arc<Publication>> = publications.into();
                let from = self.memory_from();
                // Where a bound has left something out, nothing older follows: that would be a gap.
                if let Some(older) = older.filter(|older| !is_cut && older.until >= from) {
                    is_cut = prepend(&mut publications, older, from, messages_max, bytes_max);
                }
                let text = "the time to rewind holds more messages than are replayed";
                let error = (is_cut && matches!(rewind, Rewind::Span(_)))
                    .then(|| ErrorInfo::new(ErrorCode::HISTORY_LIMIT, text));
                let oldest = publications.front().map(|publication| publication.channel_serial);
                let text = "messages among those that follow are kept no longer";
                let error = error.or_else(|| {
                    let may_miss = oldest.is_some_and(|oldest| self.may_miss_behind(oldest));
                    may_miss.then(|| ErrorInfo::new(ErrorCode::HISTORY_EXPIRED, text))
                });
                let events = publications.into_iter().map(Broadcast::Messages).collect();
                Past { error, events, ..nothing }
            }
            Since::Serial(text) => match self.missed(text, bytes_max, older) {
                Ok((serial, events)) => Past { serial, resumed: true, error: None, events },
                Err(error) => Past { error: Some(error), ..nothing },
            },
        }
    }

    /// Everything behind the serial that a client names, and that serial. Of a message that was changed
    /// these are its versions as they came, but a run of appends is one.
    fn missed(
        &self,
        text: &str,
        bytes_max: u64,
        older: Option<&Older>,
    ) -> Result<(ChannelSerial, Vec<Broadcast>), ErrorInfo> {
        let lost = |code, text: &'static str| Err(ErrorInfo::new(code, text));
        let serial = match text.parse::<ChannelSerial>() {
            Ok(serial) if self.knows(serial.series()) => serial,
            _ => return lost(ErrorCode::UNKNOWN_SERIES, "the channelSerial is not of this server"),
        };
        let from = self.memory_from();
        let older = older.filter(|older| {
            let is_kept = self.durable.as_ref().is_some_and(|durable| serial >= durable.floor);
            is_kept && older.until >= from && !older.is_cut
        });
        if (serial < self.kept_from() && older.is_none()) || serial > self.last_serial {
            let text = "messages were missed that are kept no longer";
            return lost(ErrorCode::HISTORY_EXPIRED, text);
        }
        let before = |older: &Older| older.events.partition_point(|it| it.serial() <= from);
        let mut events =
            older.map_or(Vec::new(), |older| broadcasts(&older.events[..before(older)]));
        events.extend(self.history.since(&serial).map(Arc::clone).map(Broadcast::Messages));
        if let Some(revisions) = &self.revisions {
            let annotations = revisions.annotations_since(&serial).map(Arc::clone);
            events.extend(annotations.map(Broadcast::Annotations));
            events.sort_by_key(Broadcast::serial);
        }
        if events.iter().map(Broadcast::size_bytes).sum::<u64>() > bytes_max {
            let text = "more messages were missed than can be replayed";
            return lost(ErrorCode::HISTORY_LIMIT, text);
        }
        Ok((serial, events))
    }

    fn knows(&self, series: SeriesId) -> bool {
        let is_earlier = |durable: &Durable| durable.series.contains(&series);
        series == self.last_serial.series() || self.durable.as_deref().is_some_and(is_earlier)
    }

    /// Reads one page of history that begins, or ends, with publications that are kept elsewhere; see
    /// [`History::read_with`].
    pub fn read_history_with(
        &self,
        older: &[Arc<Publication>],
        is_cut: bool,
        query: &HistoryQuery,
    ) -> HistoryPage {
        self.history.read_with(older, is_cut, query)
    }

    /// Reads one page of history. What is too old counts until it is trimmed.
    pub fn read_history(&self, query: &HistoryQuery) -> HistoryPage {
        self.history.read(query, self.revisions.as_deref())
    }

    /// A message in its latest version.
    pub fn message(&self, message: Position) -> Option<HistoryItem> {
        let first = self.history.find(message)?;
        Some(match &self.revisions {
            None => HistoryItem { publication: Arc::clone(first.publication), index: first.index },
            Some(revisions) => revisions.latest(first),
        })
    }

    /// Some versions of a message; of the query, `direction`, `limit` and `after` count.
    pub fn versions(&self, message: Position, query: &HistoryQuery) -> Option<HistoryPage> {
        let first = self.history.find(message)?;
        match &self.revisions {
            None => Some(Revisions::default().versions(first, query)),
            Some(revisions) => Some(revisions.versions(first, query)),
        }
    }

    /// Some annotations of a message; of the query, `direction`, `limit` and `after` count.
    pub fn annotations(&self, message: Position, query: &HistoryQuery) -> Option<AnnotationPage> {
        self.history.find(message)?;
        let revisions = self.revisions.as_ref();
        Some(revisions.map(|known| known.annotations(message, query)).unwrap_or_default())
    }

    /// JSON text of what a client has contributed to a message's summary.
    pub fn client_summary(&self, message: Position, client_id: &str) -> Option<Arc<str>> {
        self.history.find(message)?;
        let revisions = self.revisions.as_ref();
        Some(revisions.map_or_else(|| "{}".into(), |it| it.client_summary(message, client_id)))
    }
}

/// What was kept, as it was told. Of a run of appends that is the last one.
fn broadcasts(events: &[Kept]) -> Vec<Broadcast> {
    let mut told: Vec<Broadcast> = Vec::with_capacity(events.len());
    for event in events {
        let event = match event {
            Kept::Messages(publication, _) => Broadcast::Messages(Arc::clone(publication)),
            Kept::Version { version, replaced } => {
                if let Some(replaced) = replaced
                    && let Ok(at) = told.binary_search_by_key(replaced, Broadcast::serial)
                {
                    told.remove(at);
                }
                Broadcast::Messages(Arc::clone(version))
            }
            Kept::Annotations(publication, _) => Broadcast::Annotations(Arc::clone(publication)),
        };
        told.push(event);
    }
    told
}

/// Puts older messages before those of a rewind, which lie behind `memory_from`, within its bounds; returns
/// whether some had to be left out.
fn prepend(
    publications: &mut VecDeque<Arc<Publication>>,
    older: &Older,
    memory_from: ChannelSerial,
    messages_max: u32,
    bytes_max: u64,
) -> bool {
    let mut messages: usize = publications.iter().map(|it| it.messages.len()).sum();
    let mut bytes: u64 = publications.iter().map(|it| it.size_bytes()).sum();
    let before = older.events.partition_point(|event| event.serial() <= memory_from);
    for event in older.events[..before].iter().rev() {
        let Kept::Messages(publication, _) = event else { continue };
        bytes += publication.size_bytes();
        if messages >= messages_max as usize || bytes > bytes_max {
            return true;
        }
        messages += publication.messages.len();
        publications.push_front(Arc::clone(publication));
    }
    older.is_cut
}
