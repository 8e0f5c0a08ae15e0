//! What has become of a channel's messages since they were published: later versions, annotations (8, 9).
//!
//! A message belongs to the history from its first version on. When the history drops that, everything
//! here about the message goes with it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::HISTORY_PAGE_BYTES_MAX;
use super::summary::Summary;
use crate::ably::{
    Annotation, AnnotationPage, AnnotationsPublication, ChannelSerial, Data, Direction, ErrorInfo,
    HistoryItem, HistoryPage, HistoryQuery, Message, MessageAction, Mutation, Position,
    Publication, Revision, Version,
};
use crate::base::Now;

/// Bytes of memory that a message takes here beside what it keeps, about.
const ENTRY_BYTES: u64 = 256;

/// Pause between two summaries of one message, in milliseconds.
pub const SUMMARY_PAUSE_MS: u64 = 1000;

/// A change that has its place in the order.
#[derive(Clone, Debug)]
pub struct Revised {
    /// The new version, complete.
    pub version: Arc<Publication>,
    /// Of an append: the same with nothing but what was appended.
    pub increment: Option<Arc<Publication>>,
    /// Of the newest version that was sent complete to all: increments make sense to those who have it.
    pub whole: ChannelSerial,
    /// The append before it, if it takes its place.
    pub replaced: Option<ChannelSerial>,
}

/// Whether the newest summary of a message has been told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Telling {
    /// It has, a while ago.
    #[default]
    Told,
    /// It has, just now: the next one waits.
    Resting,
    /// It waits until the pause is over.
    Due,
}

#[derive(Default)]
struct Annotated {
    /// Oldest first.
    events: VecDeque<(Arc<AnnotationsPublication>, usize)>,
    summary: Summary,
    telling: Telling,
    /// Of the summary that was told last.
    told: Option<ChannelSerial>,
}

/// One message that was changed or annotated.
#[derive(Default)]
struct Entry {
    /// The versions behind the first one, oldest first.
    versions: Vec<Arc<Publication>>,
    /// Whether the last of them came of appends alone, and so is replaced by the next append.
    is_run: bool,
    /// Of the newest version that is no append; none: the first.
    whole: Option<ChannelSerial>,
    annotated: Option<Box<Annotated>>,
}

impl Entry {
    /// The latest version with its summary.
    fn shown(&self, first: First<'_>) -> Message {
        let latest = self.versions.last().map_or(first.message(), |latest| &latest.messages[0]);
        let Some(annotated) = &self.annotated else { return latest.clone() };
        let summary = Some(annotated.summary.to_json());
        let revision = match &latest.revision {
            Some(revision) => Revision { summary, ..Revision::clone(revision) },
            None => Revision {
                action: MessageAction::Create,
                message: first.position(),
                created_ms: first.publication.timestamp_ms,
                connection_id: first.publication.connection_id.clone(),
                version: first.version(),
                summary,
            },
        };
        Message { revision: Some(Box::new(revision)), ..latest.clone() }
    }
}

/// See the module text.
#[derive(Default)]
pub struct Revisions {
    entries: HashMap<Position, Entry>,
    /// Every annotation, oldest first.
    annotations: VecDeque<Arc<AnnotationsPublication>>,
    /// Of annotations and summaries; versions are the history's.
    bytes: u64,
}

/// The first version of a message: the publication that it came in, and where in it.
#[derive(Clone, Copy)]
pub struct First<'a> {
    /// Holds no later version.
    pub publication: &'a Arc<Publication>,
    /// Below the number of its messages.
    pub index: usize,
}

impl First<'_> {
    fn message(&self) -> &Message {
        &self.publication.messages[self.index]
    }

    fn position(&self) -> Position {
        self.publication.position(self.index)
    }

    fn version(&self) -> Version {
        Version {
            serial: self.position(),
            timestamp_ms: self.publication.timestamp_ms,
            client_id: None,
            description: None,
            metadata: None,
        }
    }
}

impl Revisions {
    /// Bytes that are held here and not in the history.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Makes the next version of the message that begins with `first`; `serial` makes its place in the
    /// order.
    ///
    /// # Errors
    /// Those of [`Mutation::apply`]; nothing has changed then.
    pub fn revise(
        &mut self,
        now: Now,
        first: First<'_>,
        mutation: &Mutation,
        serial: impl FnOnce() -> ChannelSerial,
    ) -> Result<Revised, ErrorInfo> {
        let known = self.entries.get(&first.position());
        let latest = known.and_then(|entry| entry.versions.last());
        let latest_message = latest.map_or(first.message(), |latest| &latest.messages[0]);
        let creator = first.message().client_id.as_deref();
        let mut message = mutation.apply(latest_message, creator)?;
        let before = latest_message.revision.as_ref().map(|before| &before.version);
        let before_ms = before.map_or(first.publication.timestamp_ms, |known| known.timestamp_ms);
        let serial = serial();
        let is_append = mutation.action() == MessageAction::Append;
        let annotated = known.and_then(|entry| entry.annotated.as_ref());
        let revision = Revision {
            action: if is_append { MessageAction::Update } else { mutation.action() },
            message: first.position(),
            created_ms: first.publication.timestamp_ms,
            connection_id: first.publication.connection_id.clone(),
            version: mutation.version(
                Position { serial, index: 0 },
                // Strictly later, although two changes may come within one millisecond.
                now.unix_ms.max(before_ms + 1),
            ),
            summary: annotated.map(|annotated| annotated.summary.to_json()),
        };
        let publication = |message| {
            Arc::new(Publication {
                channel_serial: serial,
                id: mutation.id().into(),
                connection_id: mutation.connection_id().map(Box::from),
                timestamp_ms: now.unix_ms,
                messages: vec![message],
            })
        };
        let increment = mutation.increment().map(|data| {
            let encoding = if data == Data::None { None } else { message.encoding.clone() };
            let revision = Revision { action: MessageAction::Append, ..revision.clone() };
            publication(Message {
                data,
                encoding,
                revision: Some(Box::new(revision)),
                ..Message::clone(&message)
            })
        });
        message.revision = Some(Box::new(revision));
        let version = publication(message);
        let bytes = &mut self.bytes;
        let entry = self.entries.entry(first.position()).or_insert_with(|| {
            *bytes += ENTRY_BYTES;
            Entry::default()
        });
        // Who wants no echo and comes back is not sent its own: what others have appended stays.
        let connection_id = version.connection_id.as_ref();
        let replaced = entry.versions.pop_if(|last| {
            let loses_none =
                connection_id.is_none() || last.connection_id.as_ref() == connection_id;
            is_append && entry.is_run && loses_none
        });
        entry.is_run = is_append;
        if !is_append {
            entry.whole = Some(serial);
        }
        let whole = entry.whole.unwrap_or(first.publication.channel_serial);
        entry.versions.push(Arc::clone(&version));
        let replaced = replaced.map(|replaced| replaced.channel_serial);
        Ok(Revised { version, increment, whole, replaced })
    }

    /// Takes back a version of the message that begins with `first`, as it was made by an earlier start of
    /// the daemon.
    pub fn restore(
        &mut self,
        first: First<'_>,
        version: &Arc<Publication>,
        replaced: Option<ChannelSerial>,
    ) {
        let bytes = &mut self.bytes;
        let entry = self.entries.entry(first.position()).or_insert_with(|| {
            *bytes += ENTRY_BYTES;
            Entry::default()
        });
        entry.versions.pop_if(|last| replaced == Some(last.channel_serial));
        entry.is_run = replaced.is_some();
        if replaced.is_none() {
            entry.whole = Some(version.channel_serial);
        }
        entry.versions.push(Arc::clone(version));
    }

    /// Whether `annotation` of an existing message may be added.
    ///
    /// # Errors
    /// Those of [`Summary::check`].
    pub fn check(&self, annotation: &Annotation) -> Result<(), ErrorInfo> {
        let entry = self.entries.get(&annotation.message);
        let annotated = entry.and_then(|entry| entry.annotated.as_ref());
        annotated.map_or(Ok(()), |annotated| annotated.summary.check(annotation))
    }

    /// Adds annotations of messages that exist. Returns the messages whose summary is to be told now.
    pub fn annotate(&mut self, publication: &Arc<AnnotationsPublication>) -> Vec<Position> {
        self.bytes += publication.size_bytes();
        self.annotations.push_back(Arc::clone(publication));
        let mut to_tell = Vec::new();
        for (index, annotation) in publication.annotations.iter().enumerate() {
            let bytes = &mut self.bytes;
            let entry = self.entries.entry(annotation.message).or_insert_with(|| {
                *bytes += ENTRY_BYTES;
                Entry::default()
            });
            let annotated = entry.annotated.get_or_insert_default();
            annotated.events.push_back((Arc::clone(publication), index));
            let before_bytes = annotated.summary.size_bytes();
            let has_changed = annotated.summary.apply(annotation);
            *bytes = *bytes + annotated.summary.size_bytes() - before_bytes;
            if has_changed {
                match annotated.telling {
                    Telling::Told if !to_tell.contains(&annotation.message) => {
                        to_tell.push(annotation.message);
                    }
                    Telling::Told => {}
                    Telling::Resting | Telling::Due => annotated.telling = Telling::Due,
                }
            }
        }
        to_tell
    }

    /// The summary of `first` as it is told to subscribers, and the one before it, which nobody needs
    /// any more. A pause begins that [`pause_over`](Self::pause_over) ends.
    pub fn tell_summary(
        &mut self,
        now: Now,
        first: First<'_>,
        serial: ChannelSerial,
    ) -> Option<(Arc<Publication>, Option<ChannelSerial>)> {
        let entry = self.entries.get_mut(&first.position())?;
        let latest = entry.versions.last().map_or(first.message(), |latest| &latest.messages[0]);
        let version = latest.revision.as_ref().map(|revision| revision.version.clone());
        let annotated = entry.annotated.as_mut()?;
        let revision = Revision {
            action: MessageAction::Summary,
            message: first.position(),
            created_ms: first.publication.timestamp_ms,
            connection_id: first.publication.connection_id.clone(),
            version: version.unwrap_or_else(|| first.version()),
            summary: Some(annotated.summary.to_json()),
        };
        let message = Message {
            id: Some(format!("{serial}:0").into()),
            // Subscribers that listen for a name hear of its summaries too.
            name: latest.name.clone(),
            revision: Some(Box::new(revision)),
            ..Message::default()
        };
        let publication = Arc::new(Publication {
            channel_serial: serial,
            id: serial.to_string().into(),
            connection_id: None,
            timestamp_ms: now.unix_ms,
            messages: vec![message],
        });
        annotated.telling = Telling::Resting;
        Some((publication, annotated.told.replace(serial)))
    }

    /// Begins a pause although the summary has not been told; returns whether there is one.
    pub fn postpone_summary(&mut self, message: Position) -> bool {
        let entry = self.entries.get_mut(&message);
        let annotated = entry.and_then(|entry| entry.annotated.as_mut());
        annotated.map(|annotated| annotated.telling = Telling::Due).is_some()
    }

    /// The pause after a summary is over; returns whether the next one is due.
    pub fn pause_over(&mut self, message: Position) -> bool {
        let entry = self.entries.get_mut(&message);
        let Some(annotated) = entry.and_then(|entry| entry.annotated.as_mut()) else {
            return false;
        };
        let is_due = annotated.telling == Telling::Due;
        annotated.telling = Telling::Told;
        is_due
    }

    /// What the history shows of the message that begins with `first`, in its place.
    pub fn latest(&self, first: First<'_>) -> HistoryItem {
        let Some(entry) = self.entries.get(&first.position()) else {
            return HistoryItem { publication: Arc::clone(first.publication), index: first.index };
        };
        let publication = match (&entry.annotated, entry.versions.last()) {
            (None, Some(latest)) => Arc::clone(latest),
            _ => with_messages(first.publication, vec![entry.shown(first)]),
        };
        HistoryItem { publication, index: 0 }
    }

    /// A publication of first versions with each message as the history shows it.
    pub fn shown(&self, publication: &Arc<Publication>) -> Arc<Publication> {
        let firsts = || (0..publication.messages.len()).map(|index| First { publication, index });
        let entry = |first: First<'_>| self.entries.get(&first.position());
        if firsts().all(|first| entry(first).is_none()) {
            return Arc::clone(publication);
        }
        let messages = firsts().map(|first| match entry(first) {
            Some(entry) => entry.shown(first),
            None => first.message().clone(),
        });
        with_messages(publication, messages.collect())
    }

    /// Some versions of the message that begins with `first`; `after` of the query is a version.
    pub fn versions(&self, first: First<'_>, query: &HistoryQuery) -> HistoryPage {
        let later = self.entries.get(&first.position()).map_or(&[][..], |entry| &entry.versions);
        let first_item =
            HistoryItem { publication: Arc::clone(first.publication), index: first.index };
        let items = std::iter::once((first.position(), first_item)).chain(later.iter().map(
            |publication| {
                let serial = Position { serial: publication.channel_serial, index: 0 };
                (serial, HistoryItem { publication: Arc::clone(publication), index: 0 })
            },
        ));
        let mut items: Vec<(Position, HistoryItem)> = items.collect();
        if query.direction == Direction::Backwards {
            items.reverse();
        }
        let bytes_of = |item: &HistoryItem| item.publication.messages[item.index].size_bytes();
        let (items, next) = page(items.into_iter(), bytes_of, query);
        HistoryPage { items, next }
    }

    /// Some annotations of a message; `after` of the query is an annotation.
    pub fn annotations(&self, message: Position, query: &HistoryQuery) -> AnnotationPage {
        let entry = self.entries.get(&message);
        let Some(annotated) = entry.and_then(|entry| entry.annotated.as_ref()) else {
            return AnnotationPage::default();
        };
        let events = annotated.events.iter().map(|(publication, index)| {
            (publication.position(*index), (Arc::clone(publication), *index))
        });
        let bytes_of = |(publication, index): &(Arc<AnnotationsPublication>, usize)| {
            publication.annotations[*index].size_bytes()
        };
        let (items, next) = match query.direction {
            Direction::Forwards => page(events, bytes_of, query),
            Direction::Backwards => page(events.rev(), bytes_of, query),
        };
        AnnotationPage { items, next }
    }

    /// JSON text of what `client_id` has contributed to the summary of a message.
    pub fn client_summary(&self, message: Position, client_id: &str) -> Arc<str> {
        let entry = self.entries.get(&message);
        match entry.and_then(|entry| entry.annotated.as_ref()) {
            Some(annotated) => annotated.summary.of_client(client_id),
            None => "{}".into(),
        }
    }

    /// The annotations behind `serial`, oldest first.
    pub fn annotations_since(
        &self,
        serial: &ChannelSerial,
    ) -> impl Iterator<Item = &Arc<AnnotationsPublication>> {
        let first = self.annotations.partition_point(|known| known.channel_serial <= *serial);
        self.annotations.range(first..)
    }

    /// Forgets the messages that `publication` was the first version of.
    pub fn forget(&mut self, publication: &Publication) {
        if self.entries.is_empty() || publication.messages[0].revision.is_some() {
            return;
        }
        for index in 0..publication.messages.len() {
            let Some(entry) = self.entries.remove(&publication.position(index)) else { continue };
            let summary_bytes = entry.annotated.map_or(0, |known| known.summary.size_bytes());
            self.bytes -= ENTRY_BYTES + summary_bytes;
        }
    }

    /// The oldest annotations: their serial, and when they were made.
    pub fn oldest_annotations(&self) -> Option<(ChannelSerial, u64)> {
        self.annotations.front().map(|oldest| (oldest.channel_serial, oldest.timestamp_ms))
    }

    /// When those annotations were made in the middle of what is held.
    pub fn middle_annotations_ms(&self) -> Option<u64> {
        super::middle(&self.annotations).map(|annotations| annotations.timestamp_ms)
    }

    /// Forgets the oldest annotations; what they have added to summaries stays.
    pub fn forget_oldest_annotations(&mut self) {
        let Some(oldest) = self.annotations.pop_front() else { return };
        self.bytes -= oldest.size_bytes();
        for annotation in &oldest.annotations {
            let entry = self.entries.get_mut(&annotation.message);
            if let Some(annotated) = entry.and_then(|entry| entry.annotated.as_mut()) {
                annotated.events.pop_front_if(|(first, _)| Arc::ptr_eq(first, &oldest));
            }
        }
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.annotations.is_empty()
    }
}

/// The same publication of other messages.
fn with_messages(publication: &Publication, messages: Vec<Message>) -> Arc<Publication> {
    let Publication { channel_serial, id, connection_id, timestamp_ms, .. } = publication;
    Arc::new(Publication {
        channel_serial: *channel_serial,
        id: id.clone(),
        connection_id: connection_id.clone(),
        timestamp_ms: *timestamp_ms,
        messages,
    })
}

/// Cuts a page out of items that come in the order that was asked for, each with its place.
fn page<Item>(
    items: impl Iterator<Item = (Position, Item)>,
    bytes_of: impl Fn(&Item) -> u64,
    query: &HistoryQuery,
) -> (Vec<Item>, Option<Position>) {
    let is_behind = |place: &Position| {
        query.after.is_none_or(|after| match query.direction {
            Direction::Forwards => *place > after,
            Direction::Backwards => *place < after,
        })
    };
    let (mut paged, mut bytes, mut last) = (Vec::new(), 0, None);
    for (place, item) in items.filter(|(place, _)| is_behind(place)) {
        if paged.len() == query.limit || bytes > HISTORY_PAGE_BYTES_MAX {
            return (paged, last);
        }
        bytes += bytes_of(&item);
        paged.push(item);
        last = Some(place);
    }
    (paged, None)
}
