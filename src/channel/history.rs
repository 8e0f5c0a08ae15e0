//! The recent past of one channel, in memory on its home core.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::ably::{
    ChannelSerial, Direction, HistoryItem, HistoryPage, HistoryQuery, Position, Publication,
};

/// Bounds of the history in memory; each bounds memory or time.
#[derive(Clone, Debug)]
pub struct HistoryConfig {
    /// How long a publication is kept; at least the two minutes in which clients may resume.
    pub retention: Duration,
    /// Bytes that one channel may hold.
    pub channel_bytes_max: u64,
    /// Bytes that all channels at home on one shard may hold together.
    pub shard_bytes_max: u64,
}

/// Bytes of messages after which a page ends early; a longer answer would hold up its connection.
const PAGE_BYTES_MAX: u64 = 2 << 20;

/// Publications in order, oldest first. `bytes` is the sum of their sizes.
#[derive(Default)]
pub struct History {
    publications: VecDeque<Arc<Publication>>,
    bytes: u64,
    /// Of the newest publication that was dropped: what lies behind it is all here.
    dropped: Option<ChannelSerial>,
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

    /// Drops what was published before `oldest_ms`, and the oldest beyond `bytes_max`.
    pub fn trim(&mut self, oldest_ms: u64, bytes_max: u64) {
        while let Some(oldest) = self.publications.front() {
            if oldest.timestamp_ms >= oldest_ms && self.bytes <= bytes_max {
                return;
            }
            self.bytes -= oldest.size_bytes();
            self.dropped = Some(oldest.channel_serial);
            self.publications.pop_front();
        }
        debug_assert_eq!(self.bytes, 0);
    }

    /// Of the newest publication that is not here any more.
    pub fn dropped(&self) -> Option<ChannelSerial> {
        self.dropped
    }

    /// What was published behind `serial` and is still here, oldest first.
    pub fn since(&self, serial: &ChannelSerial) -> impl Iterator<Item = &Arc<Publication>> {
        let first = self.publications.partition_point(|known| known.channel_serial <= *serial);
        self.publications.range(first..)
    }

    /// The newest publications, oldest first: not before `oldest_ms`, as many as hold at least
    /// `messages_max` messages together, and no more than `bytes_max`. The second answer is whether a
    /// bound left out some that are young enough.
    pub fn latest(
        &self,
        oldest_ms: u64,
        messages_max: u32,
        bytes_max: u64,
    ) -> (Vec<Arc<Publication>>, bool) {
        let (mut messages, mut bytes) = (0, 0);
        let mut latest = Vec::new();
        let mut is_cut = false;
        for publication in self.publications.iter().rev() {
            if publication.timestamp_ms < oldest_ms {
                break;
            }
            bytes += publication.size_bytes();
            is_cut = messages >= messages_max as usize || bytes > bytes_max;
            if is_cut {
                break;
            }
            messages += publication.messages.len();
            latest.push(Arc::clone(publication));
        }
        latest.reverse();
        (latest, is_cut)
    }

    /// Reads one page.
    pub fn read(&self, query: &HistoryQuery) -> HistoryPage {
        let messages = self.publications.iter().flat_map(|publication| {
            (0..publication.messages.len()).map(move |index| (publication, index))
        });
        match query.direction {
            Direction::Forwards => page(messages, query),
            Direction::Backwards => page(messages.rev(), query),
        }
    }
}

fn page<'a>(
    messages: impl Iterator<Item = (&'a Arc<Publication>, usize)>,
    query: &HistoryQuery,
) -> HistoryPage {
    let mut page = HistoryPage::default();
    let mut bytes = 0;
    for (publication, index) in messages {
        if !wanted(query, publication, index) {
            continue;
        }
        if page.items.len() == query.limit || bytes > PAGE_BYTES_MAX {
            page.next = page.items.last().map(|last| Position {
                serial: last.publication.channel_serial,
                index: last.index as u32,
            });
            break;
        }
        bytes += publication.messages[index].size_bytes();
        page.items.push(HistoryItem { publication: Arc::clone(publication), index });
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
