//! The spool: events that wait for their delivery, in files that outlive the process.
//!
//! Segments are only appended to. A record is its length, its checksum (CRC-32), its kind and its
//! content; a record that an end of the process has torn is where reading a segment ends. Each start
//! begins a new segment. A segment goes once nothing in it waits any more and none before it is left;
//! where that takes too long, what still waits in the oldest is copied behind the newest.
//!
//! What was written has reached the kernel: it survives the process, whatever ends it, and not
//! necessarily a loss of power.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::courier::Reason;
use crate::ably::{ContentType, Format, RequestShape, Rule, RuleEvent};
use crate::base::record::{
    HEAD_BYTES, Records, read_bytes, read_text, read_u32, read_u64, write_bytes, write_record,
};

/// Bytes after which the next segment begins.
const SEGMENT_BYTES_MAX: u64 = 16 << 20;

/// Bytes of dead letters after which the file before is forgotten.
const DEAD_BYTES_MAX: u64 = 16 << 20;

/// Nobody chooses what lies behind a damaged record here, so checksums need none.
const SALT: u32 = 0;

/// Shapes by their number on disk.
const SHAPES: [Option<RequestShape>; 4] =
    [None, Some(RequestShape::Enveloped), Some(RequestShape::Bare), Some(RequestShape::Batch)];

const KIND_EVENT: u8 = 1;
const KIND_FINISHED: u8 = 2;
const KIND_DEAD: u8 = 3;
/// The same with the event's id in front.
const KIND_DEAD_WITH_ID: u8 = 4;

/// An event as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Of its rule.
    pub rule_id: Box<str>,
    /// As in [`RuleEvent`], and so are the others.
    pub channel: Box<str>,
    /// When it happened.
    pub timestamp_ms: u64,
    /// What of a request the body is; `None`: written by a version that did not say.
    pub shape: Option<RequestShape>,
    /// What the body is.
    pub content_type: ContentType,
    /// The body.
    pub body: Bytes,
    /// Headers.
    pub headers: Vec<(Box<str>, Box<str>)>,
}

impl Stored {
    /// What is kept of `event`.
    pub fn of(event: &RuleEvent) -> Stored {
        Stored {
            rule_id: event.rule().id.clone(),
            channel: event.channel.clone(),
            timestamp_ms: event.timestamp_ms,
            shape: Some(event.rule().shape),
            content_type: event.content_type,
            body: event.body.clone(),
            headers: event.headers.clone(),
        }
    }

    /// The event again, of `rule`, but encoded as it was.
    pub fn into_event(self, rule: &Arc<Rule>) -> RuleEvent {
        let shape = self.shape.unwrap_or(rule.shape);
        let format = match self.content_type {
            ContentType::Json => Format::Json,
            ContentType::MsgPack => Format::MsgPack,
            ContentType::Text | ContentType::Bytes => rule.format,
        };
        let rule = match (shape, format) == (rule.shape, rule.format) {
            true => Arc::clone(rule),
            false => Arc::new(rule.encoded_as(shape, format)),
        };
        let Stored { channel, timestamp_ms, content_type, body, headers, .. } = self;
        RuleEvent::new(rule, &channel, timestamp_ms, content_type, body, headers)
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.timestamp_ms.to_le_bytes());
        let shape = SHAPES.iter().position(|known| *known == self.shape);
        let shape = shape.expect("every shape has its number") as u8;
        out.push(self.content_type as u8 | shape << 4);
        write_bytes(out, self.rule_id.as_bytes());
        write_bytes(out, self.channel.as_bytes());
        out.extend_from_slice(&(self.headers.len() as u32).to_le_bytes());
        for (name, value) in &self.headers {
            write_bytes(out, name.as_bytes());
            write_bytes(out, value.as_bytes());
        }
        write_bytes(out, &self.body);
    }

    fn read(from: &mut &[u8]) -> Option<Stored> {
        let timestamp_ms = read_u64(from)?;
        let (&[kinds], rest) = from.split_first_chunk()?;
        *from = rest;
        let content_type = *ContentType::ALL.get(usize::from(kinds & 0xf))?;
        let shape = *SHAPES.get(usize::from(kinds >> 4))?;
        let (rule_id, channel) = (read_text(from)?, read_text(from)?);
        let count = read_u32(from)?;
        let headers = (0..count).map(|_| Some((read_text(from)?, read_text(from)?)));
        let headers = headers.collect::<Option<_>>()?;
        let body = Bytes::copy_from_slice(read_bytes(from)?);
        Some(Stored { rule_id, channel, timestamp_ms, shape, content_type, body, headers })
    }
}

/// An event that was given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// As the event had it; 0 in files of versions that did not write it.
    pub id: u64,
    /// When, in milliseconds since the Unix epoch.
    pub given_up_ms: u64,
    /// Why.
    pub reason: Option<Reason>,
    /// What.
    pub event: Stored,
}

/// One file of records.
struct Segment {
    number: u64,
    bytes: u64,
    /// Events in it that wait.
    live: usize,
    /// Bytes of those.
    live_bytes: u64,
}

impl Segment {
    fn new(number: u64) -> Segment {
        Segment { number, bytes: 0, live: 0, live_bytes: 0 }
    }
}

/// Where an event is that waits.
#[derive(Clone, Copy)]
struct Place {
    segment: u64,
    bytes: u64,
}

/// See the module text.
pub struct Spool {
    directory: PathBuf,
    /// Oldest first; the last one is written to.
    segments: VecDeque<Segment>,
    file: File,
    /// The place of each event that waits.
    places: HashMap<u64, Place>,
    bytes_max: u64,
    /// Held while the spool is open, so that no other process opens it.
    _lock: File,
}

/// What was found when a spool was opened.
pub struct Found {
    /// Events that wait, oldest first, with their ids.
    pub events: BTreeMap<u64, Stored>,
    /// Segments that end in the middle of a record.
    pub torn: usize,
}

impl Spool {
    /// Opens the spool in `directory`, which is made if it is not there. Beyond `bytes_max` the oldest
    /// segment is copied, so that it can go.
    ///
    /// # Errors
    /// The files cannot be read or made, or another process has the spool open.
    pub fn open(directory: &Path, bytes_max: u64) -> io::Result<(Spool, Found)> {
        fs::create_dir_all(directory)?;
        let lock = File::create(directory.join("lock"))?;
        lock.try_lock().map_err(|error| match error {
            fs::TryLockError::WouldBlock => io::Error::other("another process has it open"),
            fs::TryLockError::Error(error) => error,
        })?;
        let mut found = Found { events: BTreeMap::new(), torn: 0 };
        let mut places: HashMap<u64, Place> = HashMap::new();
        let mut segments = VecDeque::new();
        for number in numbers(directory)? {
            let data = fs::read(path(directory, number))?;
            let mut records = Records::new(SALT, &data);
            for (kind, content) in &mut records {
                read_record(kind, content, |record| match record {
                    Record::Event(id, event) => {
                        found.events.insert(id, event);
                        let bytes = (content.len() + HEAD_BYTES) as u64;
                        places.insert(id, Place { segment: number, bytes });
                    }
                    Record::Finished(id) => {
                        found.events.remove(&id);
                        places.remove(&id);
                    }
                });
            }
            found.torn += usize::from(!records.rest().is_empty());
            segments.push_back(Segment { bytes: data.len() as u64, ..Segment::new(number) });
        }
        for place in places.values() {
            let at = segments.binary_search_by_key(&place.segment, |segment| segment.number);
            let segment = &mut segments[at.expect("events are found in segments")];
            segment.live += 1;
            segment.live_bytes += place.bytes;
        }
        let number = segments.back().map_or(0, |last| last.number + 1);
        let file = create(directory, number)?;
        segments.push_back(Segment::new(number));
        let directory = directory.to_owned();
        let mut spool = Spool { directory, segments, file, places, bytes_max, _lock: lock };
        spool.clean()?;
        Ok((spool, found))
    }

    /// Has another bound count from now on.
    pub fn set_bytes_max(&mut self, bytes_max: u64) {
        self.bytes_max = bytes_max;
    }

    /// Appends events with their ids, in one write.
    ///
    /// # Errors
    /// They could not be written; some may be there after a restart nevertheless.
    pub fn append<'a>(
        &mut self,
        events: impl IntoIterator<Item = (u64, &'a RuleEvent)>,
    ) -> io::Result<()> {
        let stored = events.into_iter().map(|(id, event)| (id, Stored::of(event)));
        self.append_stored(stored)
    }

    fn append_stored(&mut self, events: impl IntoIterator<Item = (u64, Stored)>) -> io::Result<()> {
        let mut out = Vec::new();
        let mut written = Vec::new();
        for (id, event) in events {
            let at = out.len();
            write_record(&mut out, SALT, KIND_EVENT, |out| {
                out.extend_from_slice(&id.to_le_bytes());
                event.write(out);
            });
            written.push((id, (out.len() - at) as u64));
        }
        self.write(&out)?;
        let segment = self.segments.back_mut().expect("one is written to");
        for (id, bytes) in written {
            self.places.insert(id, Place { segment: segment.number, bytes });
            segment.live += 1;
            segment.live_bytes += bytes;
        }
        Ok(())
    }

    /// Notes that events wait no more.
    ///
    /// # Errors
    /// That could not be written, or an old segment not be removed; they may be sent again after a restart.
    pub fn finish(&mut self, ids: &[u64]) -> io::Result<()> {
        let ids: Vec<u64> = ids.iter().copied().filter(|id| self.places.contains_key(id)).collect();
        if ids.is_empty() {
            return Ok(());
        }
        let mut out = Vec::new();
        write_record(&mut out, SALT, KIND_FINISHED, |out| {
            ids.iter().for_each(|id| out.extend_from_slice(&id.to_le_bytes()));
        });
        self.write(&out)?;
        for id in ids {
            let place = self.places.remove(&id).expect("filtered above");
            let at = self.segments.binary_search_by_key(&place.segment, |known| known.number);
            let segment = &mut self.segments[at.expect("segments with events are kept")];
            segment.live -= 1;
            segment.live_bytes -= place.bytes;
        }
        self.clean()
    }

    /// Keeps an event that was given up where [`dead_letters`] finds it.
    ///
    /// # Errors
    /// It could not be written.
    pub fn bury(
        &mut self,
        now_ms: u64,
        reason: Option<Reason>,
        id: u64,
        event: &RuleEvent,
    ) -> io::Result<()> {
        bury(&self.directory, now_ms, reason, id, &Stored::of(event))
    }

    /// The same of an event that was found in the spool and has no rule.
    ///
    /// # Errors
    /// As [`bury`](Self::bury).
    pub fn bury_stored(&mut self, now_ms: u64, id: u64, event: &Stored) -> io::Result<()> {
        bury(&self.directory, now_ms, None, id, event)
    }

    /// Has those dead letters wait for their delivery again that `is_wanted` finds, as if they had happened
    /// now; `next_id` is larger than all ids so far. Returns them with their new ids.
    ///
    /// # Errors
    /// They cannot be read or written.
    pub fn revive(
        &mut self,
        next_id: u64,
        now_ms: u64,
        is_wanted: impl Fn(&DeadLetter) -> bool,
    ) -> io::Result<Vec<(u64, Stored)>> {
        let letters = dead_letters(&self.directory)?;
        let (wanted, others): (Vec<_>, Vec<_>) = letters.into_iter().partition(is_wanted);
        let again = |letter: DeadLetter| Stored { timestamp_ms: now_ms, ..letter.event };
        let events: Vec<_> = (next_id..).zip(wanted.into_iter().map(again)).collect();
        if events.is_empty() {
            return Ok(events);
        }
        self.append_stored(events.iter().cloned())?;
        // An end in between leaves some twice, and none out.
        let [old, new] = DEAD_FILES.map(|name| self.directory.join(name));
        let rest = self.directory.join("dead.rest");
        let mut out = Vec::new();
        others.iter().for_each(|letter| write_letter(&mut out, letter));
        fs::write(&rest, out)?;
        fs::rename(&rest, &new)?;
        match fs::remove_file(old) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(events),
        }
    }

    fn write(&mut self, data: &[u8]) -> io::Result<()> {
        if self.segments.back().expect("one is written to").bytes >= SEGMENT_BYTES_MAX {
            self.begin_segment()?;
        }
        if let Err(error) = self.file.write_all(data) {
            // Behind a torn record nothing would be read.
            self.begin_segment()?;
            return Err(error);
        }
        self.segments.back_mut().expect("one is written to").bytes += data.len() as u64;
        Ok(())
    }

    fn begin_segment(&mut self) -> io::Result<()> {
        let number = self.segments.back().expect("one is written to").number + 1;
        self.file = create(&self.directory, number)?;
        self.segments.push_back(Segment::new(number));
        Ok(())
    }

    /// Removes the oldest segments, as far as nothing in them waits; makes the next one such a segment
    /// where the files are too large and most of them is of no use any more.
    fn clean(&mut self) -> io::Result<()> {
        self.remove_finished()?;
        let sum = |bytes: fn(&Segment) -> u64| self.segments.iter().map(bytes).sum::<u64>();
        let (all, live) = (sum(|segment| segment.bytes), sum(|segment| segment.live_bytes));
        if all <= self.bytes_max || live > all / 2 || self.segments.len() < 3 {
            return Ok(());
        }
        let oldest = self.segments[0].number;
        let data = fs::read(path(&self.directory, oldest))?;
        let mut waiting = Vec::new();
        for (kind, content) in Records::new(SALT, &data) {
            read_record(kind, content, |record| match record {
                Record::Event(id, event)
                    if self.places.get(&id).is_some_and(|place| place.segment == oldest) =>
                {
                    waiting.push((id, event));
                }
                Record::Event(..) | Record::Finished(_) => {}
            });
        }
        self.append_stored(waiting)?;
        self.segments[0].live = 0;
        self.segments[0].live_bytes = 0;
        self.remove_finished()
    }

    fn remove_finished(&mut self) -> io::Result<()> {
        while self.segments.len() > 1 && self.segments[0].live == 0 {
            fs::remove_file(path(&self.directory, self.segments[0].number))?;
            self.segments.pop_front();
        }
        Ok(())
    }
}

/// The dead letters in `directory`, oldest first; also while a daemon has the spool open.
///
/// # Errors
/// They cannot be read.
pub fn dead_letters(directory: &Path) -> io::Result<Vec<DeadLetter>> {
    let mut letters = Vec::new();
    for name in DEAD_FILES {
        let data = match fs::read(directory.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            data => data?,
        };
        for (kind, mut content) in Records::new(SALT, &data) {
            let id = match kind {
                KIND_DEAD => Some(0),
                KIND_DEAD_WITH_ID => read_u64(&mut content),
                _ => None,
            };
            letters.extend(id.and_then(|id| read_letter(id, &mut content)));
        }
    }
    Ok(letters)
}

/// The events in `directory` that wait, oldest first; also while a daemon has the spool open.
///
/// # Errors
/// They cannot be read.
pub fn waiting(directory: &Path) -> io::Result<BTreeMap<u64, Stored>> {
    let mut events = BTreeMap::new();
    for number in numbers(directory)? {
        let data = match fs::read(path(directory, number)) {
            // Went in the meantime: nothing in it has waited.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            data => data?,
        };
        for (kind, content) in Records::new(SALT, &data) {
            read_record(kind, content, |record| match record {
                Record::Event(id, event) => drop(events.insert(id, event)),
                Record::Finished(id) => drop(events.remove(&id)),
            });
        }
    }
    Ok(events)
}

/// The older one first.
const DEAD_FILES: [&str; 2] = ["dead.old", "dead"];

fn bury(
    directory: &Path,
    now_ms: u64,
    reason: Option<Reason>,
    id: u64,
    event: &Stored,
) -> io::Result<()> {
    let [old, new] = DEAD_FILES.map(|name| directory.join(name));
    if fs::metadata(&new).is_ok_and(|file| file.len() >= DEAD_BYTES_MAX) {
        fs::rename(&new, old)?;
    }
    let mut out = Vec::new();
    let letter = DeadLetter { id, given_up_ms: now_ms, reason, event: event.clone() };
    write_letter(&mut out, &letter);
    OpenOptions::new().create(true).append(true).open(new)?.write_all(&out)
}

fn write_letter(out: &mut Vec<u8>, letter: &DeadLetter) {
    write_record(out, SALT, KIND_DEAD_WITH_ID, |out| {
        out.extend_from_slice(&letter.id.to_le_bytes());
        out.extend_from_slice(&letter.given_up_ms.to_le_bytes());
        let known = REASONS.iter().position(|known| *known == letter.reason);
        out.push(known.expect("every reason has its number") as u8);
        letter.event.write(out);
    });
}

/// By their number on disk.
const REASONS: [Option<Reason>; 4] =
    [None, Some(Reason::Refused), Some(Reason::Expired), Some(Reason::Dropped)];

fn read_letter(id: u64, from: &mut &[u8]) -> Option<DeadLetter> {
    let given_up_ms = read_u64(from)?;
    let (&[reason], rest) = from.split_first_chunk()?;
    *from = rest;
    let reason = *REASONS.get(usize::from(reason))?;
    Some(DeadLetter { id, given_up_ms, reason, event: Stored::read(from)? })
}

/// Numbers of the segments that are there, in order.
fn numbers(directory: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        let number: Option<u64> =
            name.to_str().and_then(|name| name.strip_suffix(".segment")?.parse().ok());
        numbers.extend(number);
    }
    numbers.sort_unstable();
    Ok(numbers)
}

fn path(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("{number:010}.segment"))
}

fn create(directory: &Path, number: u64) -> io::Result<File> {
    OpenOptions::new().append(true).create_new(true).open(path(directory, number))
}

enum Record {
    Event(u64, Stored),
    Finished(u64),
}

/// Tells `take` what is in a record of a segment. One of another kind, or of a later version, is nothing.
fn read_record(kind: u8, mut content: &[u8], mut take: impl FnMut(Record)) {
    match kind {
        KIND_EVENT => {
            let id = read_u64(&mut content);
            if let (Some(id), Some(event)) = (id, Stored::read(&mut content)) {
                take(Record::Event(id, event));
            }
        }
        KIND_FINISHED => {
            while let Some(id) = read_u64(&mut content) {
                take(Record::Finished(id));
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ably::{ChannelFilter, RuleSource, WhenFull};

    /// A directory that goes with its test.
    struct Home(PathBuf);

    impl Home {
        fn new(name: &str) -> Home {
            let name = format!("ringcast-spool-{}-{name}", std::process::id());
            let place = Home(std::env::temp_dir().join(name));
            let _ = fs::remove_dir_all(&place.0);
            place
        }

        fn open(&self, bytes_max: u64) -> (Spool, Found) {
            Spool::open(&self.0, bytes_max).expect("can be opened")
        }

        fn bytes(&self) -> u64 {
            let files = fs::read_dir(&self.0).expect("is there");
            files.map(|file| file.unwrap().metadata().unwrap().len()).sum()
        }
    }

    impl Drop for Home {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn event(channel: &str, bytes: usize) -> RuleEvent {
        let filter = ChannelFilter::compile("").expect("a filter");
        let (source, shape) = (RuleSource::Message, RequestShape::Enveloped);
        let format = Format::Json;
        let full = WhenFull::DropOldest;
        let rule = Rule::new("r", "app", source, filter, shape, format, full, 1 << 40);
        let headers = vec![("x-name".into(), "value".into())];
        let body = Bytes::from(vec![b'x'; bytes]);
        RuleEvent::new(Arc::new(rule), channel, 7, ContentType::Text, body, headers)
    }

    fn ids(found: &Found) -> Vec<u64> {
        found.events.keys().copied().collect()
    }

    #[test]
    fn what_was_not_finished_is_found_again_as_it_was() {
        let place = Home::new("found");
        {
            let (mut spool, found) = place.open(1 << 30);
            assert!(found.events.is_empty());
            let events = [event("a", 3), event("caf\u{e9}", 0), event("c", 9)];
            spool.append((10..).zip(&events)).expect("writes");
            spool.finish(&[10]).expect("writes");
            assert!(Spool::open(&place.0, 0).is_err(), "one process at a time");
        }
        let (mut spool, found) = place.open(1 << 30);
        assert_eq!((ids(&found), found.torn), (vec![11, 12], 0));
        assert_eq!(found.events[&11], Stored::of(&event("caf\u{e9}", 0)));
        assert_eq!(waiting(&place.0).expect("can be read"), found.events);
        spool.finish(&[11, 12]).expect("writes");
        drop(spool);
        let (_spool, found) = place.open(1 << 30);
        assert!(found.events.is_empty());
    }

    #[test]
    fn a_torn_record_ends_its_segment_and_harms_no_other() {
        let place = Home::new("torn");
        {
            let (mut spool, _) = place.open(1 << 30);
            spool.append([(1, &event("a", 40))]).expect("writes");
            spool.append([(2, &event("a", 40))]).expect("writes");
        }
        let file = path(&place.0, 0);
        let whole = fs::read(&file).expect("is there");
        for end in 0..whole.len() {
            fs::write(&file, &whole[..end]).expect("writes");
            let _ = fs::remove_file(path(&place.0, 1));
            let (_spool, found) = place.open(1 << 30);
            let expected: &[u64] = if end < whole.len() / 2 { &[] } else { &[1] };
            assert_eq!(ids(&found), expected, "{end}");
            assert_eq!(found.torn, usize::from(end % (whole.len() / 2) != 0), "{end}");
        }
        let mut flipped = whole.clone();
        flipped[whole.len() / 2 + 30] ^= 1;
        fs::write(&file, &flipped).expect("writes");
        let (mut spool, found) = place.open(1 << 30);
        assert_eq!(ids(&found), [1]);
        spool.append([(3, &event("a", 1))]).expect("writes");
        drop(spool);
        let (_spool, found) = place.open(1 << 30);
        assert_eq!(ids(&found), [1, 3]);
    }

    #[test]
    fn one_old_event_does_not_keep_the_files_of_all_later_ones() {
        let place = Home::new("compact");
        let (mut spool, _) = place.open(64 << 20);
        spool.append([(1, &event("old", 100))]).expect("writes");
        let large = event("a", 4 << 20);
        for id in 2..80 {
            spool.append([(id, &large)]).expect("writes");
            spool.finish(&[id]).expect("writes");
        }
        assert!(place.bytes() < 100 << 20, "{}", place.bytes());
        drop(spool);
        let (mut spool, found) = place.open(64 << 20);
        assert_eq!(ids(&found), [1]);
        spool.finish(&[1]).expect("writes");
        drop(spool);
        let (_spool, found) = place.open(64 << 20);
        assert!(found.events.is_empty());
        assert!(place.bytes() < 100, "{}", place.bytes());
    }

    #[test]
    fn more_than_the_bound_waits_without_being_copied_over_and_over() {
        let place = Home::new("large");
        let (mut spool, _) = place.open(1);
        let large = event("a", 4 << 20);
        for id in 1..=20 {
            spool.append([(id, &large)]).expect("writes");
        }
        let before = place.bytes();
        spool.finish(&[1]).expect("writes");
        assert!(place.bytes() < before + 100, "{} after {before}", place.bytes());
        drop(spool);
        let (_spool, found) = place.open(1);
        assert_eq!(ids(&found), (2..=20).collect::<Vec<_>>());
    }

    #[test]
    fn dead_letters_are_listed_and_can_be_revived() {
        let place = Home::new("dead");
        let (mut spool, _) = place.open(1 << 30);
        spool.bury(70, Some(Reason::Expired), 1, &event("a", 1)).expect("writes");
        spool.bury(80, None, 2, &event("b", 1)).expect("writes");
        let letters = dead_letters(&place.0).expect("can be read");
        assert_eq!((letters[0].given_up_ms, letters[0].reason), (70, Some(Reason::Expired)));
        assert_eq!((&*letters[1].event.channel, letters[1].reason), ("b", None));
        assert_eq!(letters.iter().map(|letter| letter.id).collect::<Vec<_>>(), [1, 2]);
        let revived = spool.revive(5, 90, |letter| letter.id == 2).expect("writes");
        assert_eq!((revived.len(), revived[0].0, &*revived[0].1.channel), (1, 5, "b"));
        assert_eq!(dead_letters(&place.0).expect("can be read"), letters[..1]);
        assert_eq!(spool.revive(6, 90, |_| true).expect("writes").len(), 1);
        assert!(dead_letters(&place.0).expect("can be read").is_empty());
        drop(spool);
        let (_spool, found) = place.open(1 << 30);
        assert_eq!(ids(&found), [5, 6]);
        assert_eq!(found.events[&5].timestamp_ms, 90);
    }
}
