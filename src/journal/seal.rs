//! What lies behind the records of a segment that is full: where the events of each channel are in it, so
//! that the next start does not have to read them all. Several records of channels, and a last one that says
//! where those begin.
//!
//! Nothing depends on it: where a bit of it is not what was written, the segment is read as if there were none.

use super::index::{Part, Run};
use super::segment::{After, Header, KIND_INDEX, KIND_SEAL, SegmentId, awaits_of, flags_of};
use crate::ably::{ChannelSerial, SeriesId};
use crate::base::record::{
    HEAD_BYTES, Records, read_array, read_bytes, read_u32, read_u64, write_bytes, write_record,
};

/// Channels of one record; so many are written down in one go.
pub(super) const CHANNELS_MAX: usize = 512;

const FLAG_AFTER: u8 = 1;
const FLAG_IN_USE: u8 = 2;
const FLAG_ENDED: u8 = 4;

/// Bytes of one [`Run`].
const RUN_BYTES: usize = 18;

/// The last record of a segment that is sealed: all that is to be known of it beside its channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seal {
    /// Where the records of channels begin, and those of the log end.
    pub at: u32,
    pub after: Option<After>,
    /// Whether the last record says that everything is written; `None`: there is none.
    pub has_ended: Option<bool>,
    /// The latest time of a serial.
    pub last_ms: u64,
    pub events: u32,
}

impl Seal {
    /// Of the record.
    pub const BYTES: usize = HEAD_BYTES + 4 + 1 + 8 + 4 + 8 + 8 + 4;

    pub fn write(&self, salt: u32, out: &mut Vec<u8>) {
        let begin = out.len();
        write_record(out, salt, KIND_SEAL, |out| {
            let mut flags = 0;
            let mut set = |flag, is_set| flags |= if is_set { flag } else { 0 };
            set(FLAG_AFTER, self.after.is_some());
            set(FLAG_IN_USE, self.has_ended.is_some());
            set(FLAG_ENDED, self.has_ended == Some(true));
            let after = self.after.unwrap_or(After { previous: None, reached_ms: 0 });
            out.extend_from_slice(&self.at.to_le_bytes());
            out.push(flags);
            after.encode(out);
            out.extend_from_slice(&self.last_ms.to_le_bytes());
            out.extend_from_slice(&self.events.to_le_bytes());
        });
        debug_assert_eq!(out.len() - begin, Self::BYTES);
    }

    pub(super) fn decode(mut from: &[u8]) -> Option<Seal> {
        let at = read_u32(&mut from)?;
        let [flags] = read_array(&mut from)?;
        let has = |flag| flags & flag != 0;
        let after = After::decode(&mut from)?;
        Some(Seal {
            at,
            after: has(FLAG_AFTER).then_some(after),
            has_ended: has(FLAG_IN_USE).then_some(has(FLAG_ENDED)),
            last_ms: read_u64(&mut from)?,
            events: read_u32(&mut from)?,
        })
    }

    /// What the last bytes of a file of `bytes` are, if they are a seal.
    pub fn of_file(header: &Header, tail: &[u8], bytes: u64) -> Option<Seal> {
        let mut records = Records::new(header.salt, tail);
        let (KIND_SEAL, content) = records.next()? else { return None };
        let seal = Seal::decode(content)?;
        let room = bytes.checked_sub(Self::BYTES as u64)?;
        (records.rest().is_empty() && u64::from(seal.at) <= room).then_some(seal)
    }
}

/// Writes down where events of some channels lie; of nothing if there are none.
pub(super) fn write_parts<'a>(
    salt: u32,
    parts: impl Iterator<Item = (&'a str, &'a Part)>,
    out: &mut Vec<u8>,
) {
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return;
    }
    let write_serial = |out: &mut Vec<u8>, serial: &ChannelSerial| {
        out.extend_from_slice(&serial.time_ms().to_le_bytes());
        out.extend_from_slice(&serial.counter().to_le_bytes());
    };
    write_record(out, salt, KIND_INDEX, |out| {
        for (channel, part) in parts {
            write_bytes(out, channel.as_bytes());
            out.push(flags_of(part.awaits));
            write_serial(out, &part.last);
            out.extend_from_slice(&(part.runs.len() as u32).to_le_bytes());
            for run in &part.runs {
                out.extend_from_slice(&run.from.to_le_bytes());
                out.extend_from_slice(&run.to.to_le_bytes());
                write_serial(out, &run.first);
            }
        }
    });
}

/// What was written down of all channels; `data` is what lies from [`Seal::at`] on. `None`: it is not what was
/// written, all of it.
pub(super) fn read_parts<'a>(
    segment: SegmentId,
    header: &Header,
    seal: &Seal,
    data: &'a [u8],
) -> Option<Vec<(&'a str, Part)>> {
    let mut parts = Vec::new();
    let mut records = Records::new(header.salt, data);
    loop {
        match records.next()? {
            (KIND_INDEX, mut content) => {
                while !content.is_empty() {
                    parts.push(read_part(segment, header.series, seal.at, &mut content)?);
                }
            }
            (KIND_SEAL, _) if records.rest().is_empty() => return Some(parts),
            _ => return None,
        }
    }
}

fn read_part<'a>(
    segment: SegmentId,
    series: SeriesId,
    end: u32,
    from: &mut &'a [u8],
) -> Option<(&'a str, Part)> {
    let read_serial = |from: &mut &[u8]| {
        let (time_ms, counter) = (read_u64(from)?, u16::from_le_bytes(read_array(from)?));
        ChannelSerial::from_parts(time_ms, counter, series)
    };
    let channel = std::str::from_utf8(read_bytes(from)?).ok()?;
    let [flags] = read_array(from)?;
    let last = read_serial(from)?;
    let count = read_u32(from)? as usize;
    if count == 0 || count > from.len() / RUN_BYTES {
        return None;
    }
    let mut runs: Vec<Run> = Vec::with_capacity(count);
    for _ in 0..count {
        let run = Run { from: read_u32(from)?, to: read_u32(from)?, first: read_serial(from)? };
        let is_behind = runs.last().is_none_or(|before| before.to <= run.from);
        if !is_behind || run.from >= run.to || run.to > end {
            return None;
        }
        runs.push(run);
    }
    Some((channel, Part { segment, last, awaits: awaits_of(flags), runs }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::Safety;

    fn serial(time_ms: u64) -> ChannelSerial {
        ChannelSerial::from_parts(time_ms, 7, SeriesId::new([7; 10])).expect("a counter")
    }

    fn sealed() -> (Header, Seal, Vec<(&'static str, Part)>, Vec<u8>) {
        let series = SeriesId::new([7; 10]);
        let header = Header { series, salt: 99, created_ms: 5, before: Some(1), beginning: None };
        let segment = SegmentId { shard: 0, number: 3 };
        let run = |from| Run { from, to: from + 20, first: serial(from.into()) };
        let part = |from: u32| Part {
            segment,
            last: serial(u64::from(from) + 100),
            awaits: Some(if from == 100 { Safety::Written } else { Safety::Synced }),
            runs: vec![run(from), run(from + 50)],
        };
        let parts = vec![("app:room", part(100)), ("app:other", part(121))];
        let after = Some(After { previous: Some((2, 4000)), reached_ms: 77 });
        let seal = Seal { at: 200, after, has_ended: Some(false), last_ms: 221, events: 4 };
        let mut out = Vec::new();
        for (channel, part) in &parts {
            write_parts(99, [(*channel, part)].into_iter(), &mut out);
        }
        seal.write(99, &mut out);
        (header, seal, parts, out)
    }

    fn read(data: &[u8]) -> Option<(Seal, Vec<(&str, Part)>)> {
        let (header, ..) = sealed();
        let bytes = 200 + data.len() as u64;
        let tail = &data[data.len().checked_sub(Seal::BYTES)?..];
        let seal = Seal::of_file(&header, tail, bytes)?;
        let parts = read_parts(SegmentId { shard: 0, number: 3 }, &header, &seal, data)?;
        Some((seal, parts))
    }

    #[test]
    fn what_was_written_down_is_read_and_nothing_else() {
        let (_, seal, parts, data) = sealed();
        assert_eq!(read(&data), Some((seal, parts)));
        for end in 0..data.len() {
            assert_eq!(read(&data[..end]), None, "{end}");
        }
        for bit in 0..data.len() * 8 {
            let mut flipped = data.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(read(&flipped), None, "{bit}");
        }
        assert_eq!(read(&[&data[..], &[0]].concat()), None);
    }

    #[test]
    fn places_that_cannot_be_are_refused() {
        let (header, seal, parts, _) = sealed();
        let made_up = [(0, 20, 10, 30), (20, 10, 30, 40), (5, 5, 6, 7), (0, 20, 190, 201)];
        for (from, to, from_2, to_2) in made_up {
            let mut part = parts[0].1.clone();
            (part.runs[0].from, part.runs[0].to) = (from, to);
            (part.runs[1].from, part.runs[1].to) = (from_2, to_2);
            let mut out = Vec::new();
            write_parts(99, [("app:room", &part)].into_iter(), &mut out);
            seal.write(99, &mut out);
            assert_eq!(read_parts(part.segment, &header, &seal, &out), None, "{part:?}");
        }
    }
}
