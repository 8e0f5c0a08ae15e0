//! The recent past of one channel, in memory on its home core.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::HISTORY_PAGE_BYTES_MAX;
use super::revisions::{First, Revisions};
use crate::ably::{
    ChannelSerial, Direction, HistoryItem, HistoryPage, HistoryQuery, Position, Publication,
};

/// Bounds of the history in memory; each bounds memory or time.
#[derive(Clone, Debug)]
pub struct HistoryConfig {
    /// How long a publication is kept; at least the two minutes in which clients may resume.
    pub retention: Duration,
    /// The same in namespaces that are persisted, as far as the bytes below allow.
    pub persisted_retention: Duration,
    /// Bytes that one channel may hold.
    pub channel_bytes_max: u64,
    /// Bytes that all channels at home on one shard may hold together.
    pub shard_bytes_max: u64,
}

/// Publications in memory that are read from disk as well, with those before them: as many may be dropped
/// here while that takes its time.
const OVERLAP: usize = 256;

/// Publications in order, oldest first: messages, and the later versions of messages among them.
/// `bytes` is the sum of their sizes.
#[derive(Default)]
pub struct History {
    publications: VecDeque<Arc<Publication>>,
    bytes: u64,
}

impl History {
    /// Bytes held.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.publications.is_empty()
    }

    /// Appends the newest publication.
    pub fn push(&mut self, publication: Arc<Publication>) {
        self.bytes += publication.size_bytes();
        self.publications.push_back(publication);
    }

    /// The oldest publication: its serial, and when it was published.
    pub fn oldest(&self) -> Option<(ChannelSerial, u64)> {
        self.publications.front().map(|oldest| (oldest.channel_serial, oldest.timestamp_ms))
    }

    /// When the one was published in the middle of those that are held.
    pub fn middle_ms(&self) -> Option<u64> {
        super::middle(&self.publications).map(|publication| publication.timestamp_ms)
    }

    /// Gives back what it has had room for and does not need.
    pub fn release_room(&mut self) {
        super::release_room(&mut self.publications);
    }

    /// Drops the oldest publication.
    pub fn pop_oldest(&mut self) -> Option<Arc<Publication>> {
        let oldest = self.publications.pop_front()?;
        self.bytes -= oldest.size_bytes();
        Some(oldest)
    }

    /// Takes out what was published from `serial` on.
    pub fn cut(&mut self, serial: ChannelSerial) {
        while let Some(newest) =
            self.publications.pop_back_if(|newest| newest.channel_serial >= serial)
        {
            self.bytes -= newest.size_bytes();
        }
    }

    /// What was published behind `serial` and is still here, oldest first.
    pub fn since(&self, serial: &ChannelSerial) -> impl Iterator<Item = &Arc<Publication>> {
        let first = self.publications.partition_point(|known| known.channel_serial <= *serial);
        self.publications.range(first..)
    }

    /// The newest publications, oldest first: not before `oldest_ms`, as many as hold at least
    /// `messages_max` messages together, and no more than `bytes_max`. The second answer is whether a
    /// bound left out some that are young enough. Messages are in their latest versions.
    pub fn latest(
        &self,
        oldest_ms: u64,
        messages_max: u32,
        bytes_max: u64,
        revisions: Option<&Revisions>,
    ) -> (Vec<Arc<Publication>>, bool) {
        let (mut messages, mut bytes) = (0, 0);
        let mut latest = Vec::new();
        let mut is_cut = false;
        for publication in self.publications.iter().rev() {
            if publication.timestamp_ms < oldest_ms {
                break;
            }
            if publication.messages[0].revision.is_some() {
                continue;
            }
            let shown = match revisions {
                None => Arc::clone(publication),
                Some(revisions) => revisions.shown(publication),
            };
            bytes += shown.size_bytes();
            is_cut = messages >= messages_max as usize || bytes > bytes_max;
            if is_cut {
                break;
            }
            messages += publication.messages.len();
            latest.push(shown);
        }
        latest.reverse();
        (latest, is_cut)
    }

    /// Takes out a publication that a later one has replaced.
    pub fn remove(&mut self, serial: ChannelSerial) {
        let found = self.publications.binary_search_by_key(&serial, |known| known.channel_serial);
        // Not there: dropped already.
        let Ok(at) = found else { return };
        let removed = self.publications.remove(at).expect("found");
        self.bytes -= removed.size_bytes();
    }

    /// The message at `position`, if that is one and not a later version.
    pub fn find(&self, position: Position) -> Option<First<'_>> {
        let serial = position.serial;
        let found = self.publications.binary_search_by_key(&serial, |known| known.channel_serial);
        let publication = &self.publications[found.ok()?];
        let index = position.index as usize;
        let message = publication.messages.get(index)?;
        message.revision.is_none().then_some(First { publication, index })
    }

    /// The serial up to which to read what is kept elsewhere, and how many messages of it are here too.
    pub fn overlap(&self) -> Option<(ChannelSerial, u32)> {
        let count = self.publications.len().div_ceil(2).min(OVERLAP);
        let last = self.publications.range(..count).next_back()?;
        let messages = self.publications.range(..count).map(|it| it.messages.len() as u32).sum();
        Some((last.channel_serial, messages))
    }

    /// Messages in their first versions.
    pub fn message_count(&self) -> u32 {
        let firsts = self.publications.iter().filter(|it| it.messages[0].revision.is_none());
        firsts.map(|it| it.messages.len() as u32).sum()
    }

    /// Reads one page: each message once, where it was published, in its latest version.
    pub fn read(&self, query: &HistoryQuery, revisions: Option<&Revisions>) -> HistoryPage {
        let messages = self.publications.iter().flat_map(messages);
        match query.direction {
            Direction::Forwards => page(messages, query, revisions),
            Direction::Backwards => page(messages.rev(), query, revisions),
        }
    }

    /// The same with what lies before everything that is here; `is_cut` tells that there is more of it
    /// than this, where the query would go on. Nothing of it was changed.
    pub fn read_with(
        &self,
        older: &[Arc<Publication>],
        is_cut: bool,
        query: &HistoryQuery,
    ) -> HistoryPage {
        let older = older.iter().flat_map(messages);
        let newer = self.publications.iter().flat_map(messages);
        let mut page = match query.direction {
            Direction::Forwards if is_cut => page(older, query, None),
            Direction::Forwards => page(older.chain(newer), query, None),
            Direction::Backwards => page(newer.rev().chain(older.rev()), query, None),
        };
        if is_cut && page.next.is_none() {
            page.next = page.items.last().map(|last| last.publication.position(last.index));
        }
        page
    }
}

fn messages(publication: &Arc<Publication>) -> impl DoubleEndedIterator<Item = First<'_>> {
    (0..publication.messages.len()).map(move |index| First { publication, index })
}

fn page<'a>(
    messages: impl Iterator<Item = First<'a>>,
    query: &HistoryQuery,
    revisions: Option<&Revisions>,
) -> HistoryPage {
    let mut page = HistoryPage::default();
    let mut bytes = 0;
    for first @ First { publication, index } in messages {
        if publication.messages[index].revision.is_some() || !wanted(query, publication, index) {
            continue;
        }
        if page.items.len() == query.limit || bytes > HISTORY_PAGE_BYTES_MAX {
            page.next = page.items.last().map(|last| last.publication.position(last.index));
            break;
        }
        let item = match revisions {
            None => HistoryItem { publication: Arc::clone(publication), index },
            Some(revisions) => revisions.latest(first),
        };
        bytes += item.publication.messages[item.index].size_bytes();
        page.items.push(item);
    }
    page
}

fn wanted(query: &HistoryQuery, publication: &Publication, index: usize) -> bool {
    let time_ms = publication.timestamp_ms;
    let serial = &publication.channel_serial;
    let beyond = query.after.as_ref().is_none_or(|after| {
        let here = (serial, index as u32);
        match query.direction {
            Direction::Forwards => here > (&after.serial, after.index),
            Direction::Backwards => here < (&after.serial, after.index),
        }
    });
    beyond
        && query.start_ms.is_none_or(|start| time_ms >= start)
        && query.end_ms.is_none_or(|end| time_ms <= end)
        && query.until.as_ref().is_none_or(|until| serial <= until)
}
