//! The files of a journal: what a segment begins with, what its records hold, and what is found in one
//! after the process or the host has ended in whatever way.

use std::ops::{Range, RangeInclusive};

use bytes::Bytes;

use super::Safety;
use super::seal::Seal;
use crate::ably::{ChannelSerial, SeriesId};
use crate::base::record::{
    HEAD_BYTES, Records, read_array, read_bytes, read_u32, read_u64, write_bytes, write_record,
};

/// What a file of ours begins with, and the version of what follows. Another one is for what earlier versions
/// of the daemon could not read: they pass over what they do not know at the end of a record, and flags.
const MAGIC: [u8; 8] = *b"ringlog2";

/// The version whose headers do not tell which segment comes before.
const MAGIC_1: [u8; 8] = *b"ringlog1";

const KIND_HEADER: u8 = 1;
/// The segment is in use from here on.
const KIND_AFTER: u8 = 2;
const KIND_EVENT: u8 = 3;
/// The daemon has ended with everything written.
const KIND_END: u8 = 4;
/// Where events of some channels lie; behind all records of those above.
pub(super) const KIND_INDEX: u8 = 5;
/// The last one, see [`Seal`].
pub(super) const KIND_SEAL: u8 = 6;

/// Somebody waits for events to be kept.
const FLAG_AWAITED: u8 = 1;
/// To be written is enough for that. Where it is missing they were synchronised, or it was not noted which.
const FLAG_WRITTEN: u8 = 2;

/// How it is noted what somebody waits for.
pub(super) fn flags_of(awaits: Option<Safety>) -> u8 {
    match awaits {
        None => 0,
        Some(Safety::Written) => FLAG_AWAITED | FLAG_WRITTEN,
        Some(Safety::Synced) => FLAG_AWAITED,
    }
}

/// What was noted.
pub(super) fn awaits_of(flags: u8) -> Option<Safety> {
    let has = |flag| flags & flag != 0;
    has(FLAG_AWAITED).then_some(if has(FLAG_WRITTEN) { Safety::Written } else { Safety::Synced })
}

/// One file, by the shard that wrote it and its number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentId {
    /// Names the directory.
    pub shard: u16,
    /// Names the file; later ones have larger numbers.
    pub number: u64,
}

impl SegmentId {
    /// All of a shard.
    pub(super) fn all_of(shard: u16) -> RangeInclusive<SegmentId> {
        SegmentId { shard, number: 0 }..=SegmentId { shard, number: u64::MAX }
    }

    /// Those of its shard that come before it.
    pub(super) fn before(self) -> Range<SegmentId> {
        SegmentId { number: 0, ..self }..self
    }

    /// Itself and those of its shard that come behind it.
    pub(super) fn and_behind(self) -> RangeInclusive<SegmentId> {
        self..=SegmentId { number: u64::MAX, ..self }
    }
}

/// Names the time from one boot of the host to its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BootId(pub [u8; 16]);

impl BootId {
    /// Where it is not known.
    pub const UNKNOWN: BootId = BootId([0; 16]);

    /// Whether both are known to be the same.
    pub(super) fn is_surely(self, other: BootId) -> bool {
        self == other && self != BootId::UNKNOWN
    }
}

/// When a start of the daemon began, and on what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Beginning {
    pub boot: BootId,
    /// Before it told anything to anybody, in milliseconds since the Unix epoch.
    pub at_ms: u64,
}

/// What a segment begins with, written when it is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// The start of the daemon that wrote it.
    pub series: SeriesId,
    /// Checksums of its records start from this, so that what clients choose is no record by itself.
    pub salt: u32,
    /// When it was made, in milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// The latest segment before it, of this start or an earlier one, that was in use; it is there as long
    /// as one before that is.
    pub before: Option<u64>,
    /// Of that start; earlier versions of the daemon do not tell.
    pub beginning: Option<Beginning>,
}

impl Header {
    /// Of a header as it is written; earlier versions have less.
    pub const BYTES: usize = HEAD_BYTES + MAGIC.len() + 10 + 4 + 8 + 8 + 16 + 8;

    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        write_record(&mut out, 0, KIND_HEADER, |out| {
            out.extend_from_slice(&MAGIC);
            out.extend_from_slice(&self.series.bytes());
            out.extend_from_slice(&self.salt.to_le_bytes());
            out.extend_from_slice(&self.created_ms.to_le_bytes());
            out.extend_from_slice(&self.before.unwrap_or(u64::MAX).to_le_bytes());
            if let Some(Beginning { boot, at_ms }) = self.beginning {
                out.extend_from_slice(&boot.0);
                out.extend_from_slice(&at_ms.to_le_bytes());
            }
        });
        debug_assert!(self.beginning.is_none() || out.len() == Self::BYTES);
        out
    }

    /// The header that a file begins with, and where it ends.
    pub fn of_file(data: &[u8]) -> Option<(Header, usize)> {
        let mut head = Records::new(0, data);
        let (KIND_HEADER, content) = head.next()? else { return None };
        Some((Header::decode(content)?, head.at()))
    }

    fn decode(mut from: &[u8]) -> Option<Header> {
        let magic = read_array(&mut from)?;
        let series = SeriesId::from_bytes(read_array(&mut from)?)?;
        let (salt, created_ms) = (read_u32(&mut from)?, read_u64(&mut from)?);
        let before = match magic {
            MAGIC => Some(read_u64(&mut from)?).filter(|number| *number != u64::MAX),
            MAGIC_1 => None,
            _ => return None,
        };
        let mut beginning = || {
            let boot = BootId(read_array(&mut from)?);
            Some(Beginning { boot, at_ms: read_u64(&mut from)? })
        };
        let beginning = if magic == MAGIC { beginning() } else { None };
        Some(Header { series, salt, created_ms, before, beginning })
    }
}

/// Written when a segment comes into use: what lies before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct After {
    /// The segment before it of the same start, and how much of that counts.
    pub previous: Option<(u64, u32)>,
    /// The latest time of a serial in any segment before it.
    pub reached_ms: u64,
}

impl After {
    pub fn write(&self, salt: u32, out: &mut Vec<u8>) {
        write_record(out, salt, KIND_AFTER, |out| self.encode(out));
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        let (number, bytes) = self.previous.unwrap_or((u64::MAX, 0));
        out.extend_from_slice(&number.to_le_bytes());
        out.extend_from_slice(&bytes.to_le_bytes());
        out.extend_from_slice(&self.reached_ms.to_le_bytes());
    }

    /// Whether it can be of this segment: what lies before that cannot have come later.
    pub fn is_before(&self, id: SegmentId) -> bool {
        self.previous.is_none_or(|(number, _)| number < id.number)
    }

    pub fn decode(from: &mut &[u8]) -> Option<After> {
        let (number, bytes) = (read_u64(from)?, read_u32(from)?);
        let previous = (number != u64::MAX).then_some((number, bytes));
        Some(After { previous, reached_ms: read_u64(from)? })
    }
}

/// Notes that everything before is written and nothing comes behind, for now.
pub(super) fn write_end(salt: u32, out: &mut Vec<u8>) {
    write_record(out, salt, KIND_END, |_| {});
}

/// One event of a channel as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event<'a> {
    /// App and name.
    pub channel: &'a str,
    /// Its place in the channel's order.
    pub serial: ChannelSerial,
    /// When it happened, in milliseconds since the Unix epoch.
    pub timestamp_ms: u64,
    /// Messages that it adds to the history.
    pub messages: u32,
    /// What is waited for before it is told to anybody.
    pub awaits: Option<Safety>,
    /// What it is; not looked at here.
    pub body: &'a [u8],
}

impl<'a> Event<'a> {
    pub(super) fn write(&self, salt: u32, out: &mut Vec<u8>) {
        write_record(out, salt, KIND_EVENT, |out| {
            out.push(flags_of(self.awaits));
            write_bytes(out, self.channel.as_bytes());
            out.extend_from_slice(&self.serial.time_ms().to_le_bytes());
            out.extend_from_slice(&self.serial.counter().to_le_bytes());
            out.extend_from_slice(&self.timestamp_ms.to_le_bytes());
            out.extend_from_slice(&self.messages.to_le_bytes());
            out.extend_from_slice(self.body);
        });
    }

    fn decode(series: SeriesId, mut from: &'a [u8]) -> Option<Event<'a>> {
        let [flags] = read_array(&mut from)?;
        let channel = std::str::from_utf8(read_bytes(&mut from)?).ok()?;
        let (time_ms, counter) = (read_u64(&mut from)?, read_array(&mut from)?);
        let serial = ChannelSerial::from_parts(time_ms, u16::from_le_bytes(counter), series)?;
        let timestamp_ms = read_u64(&mut from)?;
        let messages = read_u32(&mut from)?;
        let awaits = awaits_of(flags);
        Some(Event { channel, serial, timestamp_ms, messages, awaits, body: from })
    }
}

/// What is found in a segment, in order.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found<'a> {
    After(After),
    /// An event, from and to which byte.
    Event(Event<'a>, u32, u32),
    End,
    /// Where the segment was sealed.
    Seal(Seal),
    /// Bytes between two records that are none.
    Corrupt {
        from: u32,
        to: u32,
    },
    /// Nothing more is found in what is left, although it is not empty.
    Torn {
        from: u32,
    },
}

/// Tells `take` what is in a segment; returns its header, and where the last of its records ends. `None`: it
/// is no segment, or that cannot be seen any more.
pub(super) fn scan<'a>(data: &'a [u8], mut take: impl FnMut(Found<'a>)) -> Option<(Header, u32)> {
    let (header, start) = Header::of_file(data)?;
    let mut records = Records::new(header.salt, &data[start..]);
    loop {
        let from = (start + records.at()) as u32;
        match records.next() {
            Some((KIND_AFTER, mut content)) => {
                After::decode(&mut content).into_iter().for_each(|after| take(Found::After(after)));
            }
            Some((KIND_EVENT, content)) => {
                let to = (start + records.at()) as u32;
                match Event::decode(header.series, content) {
                    Some(event) => take(Found::Event(event, from, to)),
                    None => take(Found::Corrupt { from, to }),
                }
            }
            Some((KIND_END, _)) => take(Found::End),
            Some((KIND_SEAL, content)) => {
                Seal::decode(content).into_iter().for_each(|seal| take(Found::Seal(seal)));
            }
            // What a seal is about, or of a later version.
            Some(_) => {}
            None => {
                // Space that was reserved and is not written to yet reads as zeros.
                if records.rest().iter().all(|&byte| byte == 0) {
                    return Some((header, from));
                }
                match records.next_whole() {
                    Some(at) => take(Found::Corrupt { from, to: (start + at) as u32 }),
                    None => {
                        take(Found::Torn { from });
                        return Some((header, from));
                    }
                }
            }
        }
    }
}

/// Where the last of its records begins, if that is an event: what a test takes away or writes once more.
#[cfg(test)]
pub(crate) fn last_event(data: &[u8]) -> Option<usize> {
    let mut last = None;
    scan(data, |found| {
        last = match found {
            Found::Event(_, from, _) => Some(from as usize),
            Found::After(_)
            | Found::End
            | Found::Seal(_)
            | Found::Corrupt { .. }
            | Found::Torn { .. } => None,
        };
    })?;
    last
}

/// An event that was read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its place in the channel's order.
    pub serial: ChannelSerial,
    /// When it happened, in milliseconds since the Unix epoch.
    pub timestamp_ms: u64,
    /// Messages that it adds to the history.
    pub messages: u32,
    /// What it is.
    pub body: Bytes,
}

/// The events of `channel` in part of a segment, in order. The second answer is whether some of it is no
/// record: then some may be missing.
pub(super) fn events_of(
    channel: &str,
    header: (SeriesId, u32),
    data: Vec<u8>,
) -> (Vec<Stored>, bool) {
    let (series, salt) = header;
    let data = Bytes::from(data);
    let mut records = Records::new(salt, &data);
    let (mut events, mut is_damaged) = (Vec::new(), false);
    loop {
        for (kind, content) in records.by_ref() {
            if kind != KIND_EVENT {
                continue;
            }
            match Event::decode(series, content) {
                Some(event) if event.channel == channel => events.push(Stored {
                    serial: event.serial,
                    timestamp_ms: event.timestamp_ms,
                    messages: event.messages,
                    body: data.slice_ref(event.body),
                }),
                Some(_) => {}
                None => is_damaged = true,
            }
        }
        if records.rest().is_empty() {
            return (events, is_damaged);
        }
        is_damaged = true;
        if records.next_whole().is_none() {
            return (events, is_damaged);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn serial(time_ms: u64) -> ChannelSerial {
        let series = SeriesId::new([7; 10]);
        ChannelSerial::from_parts(time_ms, 0, series).expect("a counter")
    }

    fn segment() -> (Header, Vec<u8>, Vec<usize>) {
        let header = Header {
            series: SeriesId::new([7; 10]),
            salt: 99,
            created_ms: 5,
            before: None,
            beginning: Some(Beginning { boot: BootId([3; 16]), at_ms: 4 }),
        };
        let mut out = header.encode();
        let mut ends = vec![out.len()];
        After { previous: Some((3, 77)), reached_ms: u64::MAX }.write(99, &mut out);
        ends.push(out.len());
        for time_ms in 1..=3 {
            let body = &[b'x'; 40][..];
            let serial = serial(time_ms);
            let channel = if time_ms == 2 { "app:other" } else { "app:room" };
            let timestamp_ms = time_ms + 10;
            let awaits = [None, Some(Safety::Written), Some(Safety::Synced)][time_ms as usize - 1];
            let event = Event { channel, serial, timestamp_ms, messages: 1, awaits, body };
            event.write(99, &mut out);
            ends.push(out.len());
        }
        write_end(99, &mut out);
        ends.push(out.len());
        (header, out, ends)
    }

    /// Numbers of whole records, and whether there was something corrupt or torn.
    fn seen(data: &[u8]) -> (Option<Header>, usize, usize, bool) {
        let (mut whole, mut corrupt, mut torn) = (0, 0, false);
        let header = scan(data, |found| match found {
            Found::After(_) | Found::Event(..) | Found::End | Found::Seal(_) => whole += 1,
            Found::Corrupt { .. } => corrupt += 1,
            Found::Torn { .. } => torn = true,
        });
        (header.map(|(header, _)| header), whole, corrupt, torn)
    }

    #[test]
    fn every_prefix_gives_what_is_whole_in_it_and_says_whether_it_is_torn() {
        let (header, data, ends) = segment();
        for end in 0..=data.len() {
            let whole = ends[1..].iter().filter(|&&at| at <= end).count();
            let expected = (end >= ends[0]).then_some(header);
            let is_torn = end >= ends[0] && !ends.contains(&end);
            assert_eq!(seen(&data[..end]), (expected, whole, 0, is_torn), "{end}");
            // The same in space that was reserved.
            let mut reserved = data[..end].to_vec();
            reserved.resize(data.len() + 100, 0);
            let (_, found, corrupt, _) = seen(&reserved);
            assert_eq!((found, corrupt), (whole, 0), "{end}");
        }
    }

    #[test]
    fn no_flipped_bit_is_served_and_records_behind_it_are_found() {
        let (_, data, ends) = segment();
        for bit in 0..data.len() * 8 {
            let mut flipped = data.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let (header, whole, corrupt, torn) = seen(&flipped);
            if bit / 8 < ends[0] {
                assert_eq!(header, None, "{bit}");
                continue;
            }
            assert_eq!(whole, ends.len() - 2, "{bit}");
            let is_last = bit / 8 >= ends[ends.len() - 2];
            assert_eq!((corrupt, torn), (usize::from(!is_last), is_last), "{bit}");
        }
    }

    #[test]
    fn noise_is_no_segment() {
        let (_, data, ends) = segment();
        let mut seed = 3u64;
        for round in 0..300 {
            let mut noise = if round % 2 == 0 { Vec::new() } else { data[..ends[0]].to_vec() };
            for _ in 0..round {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                noise.push((seed >> 56) as u8);
            }
            let (_, whole, ..) = seen(&noise);
            assert_eq!(whole, 0, "{round}");
        }
    }

    #[test]
    fn the_events_of_one_channel_are_read_back_as_they_were() {
        let (header, data, ends) = segment();
        let key = (header.series, header.salt);
        let (events, is_damaged) = events_of("app:room", key, data[ends[1]..ends[4]].to_vec());
        assert!(!is_damaged);
        let times: Vec<_> = events.iter().map(|event| event.serial).collect();
        assert_eq!(times, [serial(1), serial(3)]);
        assert_eq!((events[0].timestamp_ms, &events[0].body[..]), (11, &[b'x'; 40][..]));
        let mut damaged = data[ends[1]..ends[4]].to_vec();
        damaged[20] ^= 1;
        let (events, is_damaged) = events_of("app:room", key, damaged);
        assert!(is_damaged);
        assert_eq!(events.len(), 1);
    }
}
