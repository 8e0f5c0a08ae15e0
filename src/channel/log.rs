//! The frame log: what a core still owes the subscribers of one channel, and how far each of them is.
//!
//! A subscriber is a [`Cursor`] into the log, not a queue: a backlog costs a number. Frames lie
//! contiguously where they arrived together or while somebody was behind, so that load turns into
//! larger sends by itself. A chunk of the log is freed when the last cursor has passed it; a log that
//! everybody has read to its end holds nothing.
//!
//! This file does not know connections: it names transports by index and leaves it to its owner to
//! know which of them have a send in flight.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use bytes::Bytes;

use crate::sys::{Chunk, SendBuf};

/// Upper bound of one send that carries several frames, in bytes. A control frame waits for at most
/// one send, so this bounds its delay; a single larger frame is sent whole.
pub const SEND_BYTES_MAX: usize = 64 * 1024;

/// Frames from this size on are never copied to lie next to others.
const COPY_BYTES_MAX: usize = 16 * 1024;

/// A transport of this core, by index, and which use of that index it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TransportRef {
    /// Index into the shard's transports.
    pub index: u32,
    /// Counts the uses of the index, so that a late answer does not reach the next one.
    pub generation: u32,
}

/// A connection as whoever has published, by its public id. Not its transport: that may be another one by
/// the time that its message comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublisherId([u8; 12]);

impl PublisherId {
    /// Of the connection with that id; `None`: no connection has such an id.
    pub fn of(connection_id: &str) -> Option<PublisherId> {
        connection_id.as_bytes().try_into().ok().map(PublisherId)
    }

    /// What two of them seldom have in common.
    fn digest(self) -> u32 {
        self.0.as_chunks().0.iter().fold(0, |digest, word| digest ^ u32::from_le_bytes(*word))
    }
}

/// Where one subscriber stands. 16 bytes, in a dense array that a round of sends walks in order.
#[derive(Clone, Copy, Debug)]
struct Cursor {
    /// Offset of the next byte to send, counted from the start of the log's life.
    position: u64,
    transport: u32,
    /// What sets it apart; 0: nothing, it gets every frame as it lies in the log.
    special: Special,
}

/// Two reasons for a cursor to get other frames than most, in four bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Special(u32);

impl Special {
    /// It lacks the message before its position, so that no delta makes sense to it.
    const WITHOUT_BASE: u32 = 1 << 31;

    /// For a subscriber that is not sent what `publisher` publishes; its digest, cut to what fits, is kept
    /// in the lower bits, and is never 0 there.
    fn skipping(publisher: PublisherId) -> Special {
        Special(publisher.digest() % (Special::WITHOUT_BASE - 1) + 1)
    }

    fn is_none(self) -> bool {
        self.0 == 0
    }

    fn lacks_base(self) -> bool {
        self.0 & Special::WITHOUT_BASE != 0
    }

    fn with_base(self, has_base: bool) -> Special {
        let skipping = self.0 & !Special::WITHOUT_BASE;
        Special(if has_base { skipping } else { skipping | Special::WITHOUT_BASE })
    }

    /// Whether it may be what `publisher` publishes that is left out.
    fn may_skip(self, publisher: PublisherId) -> bool {
        self.with_base(true) == Special::skipping(publisher)
    }
}

/// A chunk of the log and its place in it.
struct Held {
    chunk: Rc<Chunk>,
    start: u64,
    /// Cursors that have not passed the end of this chunk.
    behind: u32,
}

impl Held {
    fn end(&self) -> u64 {
        self.start + u64::from(self.chunk.len())
    }
}

/// What a frame means to subscribers that are sent deltas; others make no difference.
#[derive(Clone, Debug, Default)]
pub enum Link {
    /// No message: deltas go on as if it were not there.
    #[default]
    None,
    /// Messages that can be decoded by themselves.
    Full,
    /// A message that starts from the one before it. Whoever does not have that gets this frame
    /// instead, which holds the same in full.
    Delta(Box<Bytes>),
    /// No delta can follow it: whoever has passed it needs the next one in full.
    Break,
}

/// A frame for everybody who is attached.
#[derive(Clone, Debug)]
pub struct Frame {
    /// A complete WebSocket frame, shared by all who get it.
    pub bytes: Bytes,
    /// Who published what is in it, when that is a connection.
    pub publisher: Option<PublisherId>,
    /// Its place among deltas.
    pub link: Link,
}

/// Where a frame ends and what may set it apart for a cursor.
struct Mark {
    end: u64,
    publisher: Option<PublisherId>,
    link: Link,
}

/// What a cursor is owed next.
pub struct Owed {
    /// The bytes to send.
    pub bytes: SendBuf,
    /// Bytes of the log that they stand for; differs where a frame is sent in its full form.
    pub log_bytes: u32,
}

/// What a round of sends has come upon.
pub enum Due {
    /// These bytes go to that transport.
    Send {
        /// The transport.
        transport: u32,
        /// Index of its cursor.
        cursor: u32,
        /// What it is owed.
        owed: Owed,
    },
    /// The transport with this index lags by more than the bound.
    Slow(u32),
}

/// See the module text.
#[derive(Default)]
pub struct FrameLog {
    chunks: VecDeque<Held>,
    marks: VecDeque<Mark>,
    cursors: Vec<Cursor>,
    /// By transport: subscribers that are not sent what they publish themselves, by whole ids.
    own: BTreeMap<u32, PublisherId>,
    /// Frames of this turn, not laid out yet.
    staged: Vec<Frame>,
    /// Whether messages may come as deltas.
    has_deltas: bool,
    /// Whether there ever was a [`Link::Break`] among them.
    has_breaks: bool,
    /// Offset behind the last frame that was laid out.
    end: u64,
    /// Where the round of sends stands, and how many cursors it has yet to visit.
    round_at: u32,
    round_left: u32,
}

impl FrameLog {
    /// A log for subscribers that are sent deltas, or not.
    pub fn new(has_deltas: bool) -> FrameLog {
        FrameLog { has_deltas, ..FrameLog::default() }
    }

    /// Subscribers.
    pub fn len(&self) -> usize {
        self.cursors.len()
    }

    /// Whether nobody subscribes.
    pub fn is_empty(&self) -> bool {
        self.cursors.is_empty()
    }

    /// Bytes that the log holds.
    pub fn held_bytes(&self) -> u64 {
        self.chunks.front().map_or(0, |first| self.end - first.start)
    }

    /// Adds a subscriber that gets every frame staged from now on, other than those that `own` has
    /// published, if that is given. `has_base` tells whether it has the message that a delta would start
    /// from. Returns the index of its cursor.
    ///
    /// Frames staged earlier in this turn are laid out first, so that they are not for it.
    pub fn attach(&mut self, transport: u32, own: Option<PublisherId>, has_base: bool) -> u32 {
        self.commit();
        let index = self.cursors.len() as u32;
        let special = Special::default().with_base(has_base || !self.has_deltas);
        self.cursors.push(Cursor { position: self.end, transport, special });
        self.skip_own(index, own);
        index
    }

    /// From the cursor's position on, leaves out frames that `own` has published; `None`: leaves out none.
    pub fn skip_own(&mut self, index: u32, own: Option<PublisherId>) {
        let Cursor { transport, special, .. } = &mut self.cursors[index as usize];
        match own {
            Some(own) => drop(self.own.insert(*transport, own)),
            None => drop(self.own.remove(transport)),
        }
        *special = own.map(Special::skipping).unwrap_or_default().with_base(!special.lacks_base());
    }

    /// Has the cursor at `index` get its next message in full.
    pub fn lose_base(&mut self, index: u32) {
        let special = &mut self.cursors[index as usize].special;
        *special = special.with_base(!self.has_deltas);
    }

    /// Removes the cursor at `index`. The last cursor takes its place; its transport is returned when
    /// there was one to move.
    pub fn detach(&mut self, index: u32) -> Option<u32> {
        let cursor = self.cursors.swap_remove(index as usize);
        if !cursor.special.is_none() {
            self.own.remove(&cursor.transport);
        }
        for held in self.chunks.iter_mut().rev().take_while(|held| held.end() > cursor.position) {
            held.behind -= 1;
        }
        self.free_passed();
        if self.round_left > 0 {
            // The moved cursor may have jumped over the round.
            self.round_left = self.cursors.len() as u32;
        }
        self.cursors.get(index as usize).map(|moved| moved.transport)
    }

    /// Takes a frame for everybody who is attached now; it is laid out at the next
    /// [`commit`](Self::commit). True when it is the first of this turn.
    pub fn stage(&mut self, frame: Frame) -> bool {
        self.has_breaks |= self.has_deltas && matches!(frame.link, Link::Break);
        self.staged.push(frame);
        self.staged.len() == 1
    }

    /// Lays out the staged frames and starts a round of sends over all cursors.
    pub fn commit(&mut self) {
        let staged = std::mem::take(&mut self.staged);
        if staged.is_empty() || self.cursors.is_empty() {
            return;
        }
        let mut bytes_left: usize = staged.iter().map(|frame| frame.bytes.len()).sum();
        for Frame { bytes, publisher, link } in staged {
            self.lay_out(&bytes, bytes_left);
            bytes_left -= bytes.len();
            self.marks.push_back(Mark { end: self.end, publisher, link });
        }
        self.round_left = self.cursors.len() as u32;
    }

    /// Puts `frame` behind the last one; `bytes_left` counts it and what follows in this turn.
    fn lay_out(&mut self, frame: &Bytes, bytes_left: usize) {
        let everybody = self.cursors.len() as u32;
        let frame_len = frame.len() as u64;
        match self.chunks.back_mut() {
            Some(last) if last.chunk.room() as usize >= frame.len() => {
                last.chunk.append(frame);
                last.behind = everybody;
            }
            _ => {
                // What comes next is likely as much as those in front still owe.
                let wanted = (bytes_left + self.held_bytes() as usize).min(SEND_BYTES_MAX);
                let chunk = if frame.len() >= wanted || frame.len() >= COPY_BYTES_MAX {
                    Chunk::shared(frame.clone())
                } else {
                    let chunk = Chunk::with_capacity(wanted as u32);
                    chunk.append(frame);
                    chunk
                };
                self.chunks.push_back(Held { chunk, start: self.end, behind: everybody });
            }
        }
        self.end += frame_len;
    }

    /// Whether a round of sends is under way.
    pub fn in_round(&self) -> bool {
        self.round_left > 0
    }

    /// Goes on with the round: the next cursor with something to send on a transport that is `idle`,
    /// or one that lags by more than `lag_bytes_max`. `None`: the round is over. Busy transports are
    /// passed by, their completion asks [`pending`](Self::pending) for the rest.
    pub fn next_due(&mut self, lag_bytes_max: u64, idle: impl Fn(u32) -> bool) -> Option<Due> {
        while self.round_left > 0 {
            self.round_left -= 1;
            if self.round_at as usize >= self.cursors.len() {
                self.round_at = 0;
            }
            let index = self.round_at;
            let Some(&cursor) = self.cursors.get(index as usize) else {
                self.round_left = 0;
                return None;
            };
            self.round_at += 1;
            if idle(cursor.transport) {
                if let Some(owed) = self.pending(index) {
                    return Some(Due::Send { transport: cursor.transport, cursor: index, owed });
                }
            } else if self.end - cursor.position > lag_bytes_max {
                return Some(Due::Slow(cursor.transport));
            }
        }
        None
    }

    /// What the cursor at `index` is owed next: everything up to the end of its chunk, in whole frames,
    /// or up to a frame that it gets in another form or not at all.
    pub fn pending(&mut self, index: u32) -> Option<Owed> {
        let is_special = !self.cursors[index as usize].special.is_none() || self.has_breaks;
        if is_special {
            self.skip_own_frames(index);
        }
        let cursor = self.cursors[index as usize];
        let position = cursor.position;
        if position == self.end {
            return None;
        }
        let at = self.chunks.partition_point(|held| held.end() <= position);
        let held = &self.chunks[at];
        let mut end = held.end();
        if is_special && let Some((start, mark)) = self.next_exception(&cursor) {
            if let Link::Delta(full) = &mark.link
                && start == position
            {
                let log_bytes = (mark.end - position) as u32;
                return Some(Owed { bytes: SendBuf::whole((**full).clone()), log_bytes });
            }
            end = end.min(start);
        }
        let bytes =
            SendBuf::new(&held.chunk, (position - held.start) as u32, (end - held.start) as u32);
        Some(Owed { log_bytes: bytes.len(), bytes })
    }

    /// Whether the cursor at `index` has not reached the end.
    pub fn is_behind(&self, index: u32) -> bool {
        self.cursors[index as usize].position < self.end
    }

    /// Bytes of the log that the cursor at `index` has not passed.
    pub fn lag_bytes(&self, index: u32) -> u64 {
        self.end - self.cursors[index as usize].position
    }

    /// Moves the cursor at `index` past `log_bytes` for which the kernel has taken what was owed.
    pub fn advance(&mut self, index: u32, log_bytes: u32) {
        let cursor = &mut self.cursors[index as usize];
        let from = cursor.position;
        cursor.position += u64::from(log_bytes);
        assert!(cursor.position <= self.end, "the kernel took more than the log holds");
        let to = cursor.position;
        if cursor.special.lacks_base() || self.has_breaks {
            let first = self.marks.partition_point(|mark| mark.end <= from);
            let passed = self.marks.iter().skip(first).take_while(|mark| mark.end <= to);
            let last = passed.filter(|mark| !matches!(mark.link, Link::None)).last();
            if let Some(mark) = last {
                let special = &mut self.cursors[index as usize].special;
                *special = special.with_base(!matches!(mark.link, Link::Break));
            }
        }
        let mut passed = false;
        for held in &mut self.chunks {
            let end = held.end();
            if end > to {
                break;
            }
            if end > from {
                held.behind -= 1;
                passed |= held.behind == 0;
            }
        }
        if passed {
            self.free_passed();
        }
    }

    fn free_passed(&mut self) {
        while self.chunks.pop_front_if(|held| held.behind == 0).is_some() {}
        let start = self.chunks.front().map_or(self.end, |first| first.start);
        while self.marks.pop_front_if(|mark| mark.end <= start).is_some() {}
    }

    fn is_own(&self, cursor: &Cursor, mark: &Mark) -> bool {
        mark.publisher.is_some_and(|publisher| {
            cursor.special.may_skip(publisher)
                && self.own.get(&cursor.transport) == Some(&publisher)
        })
    }

    fn skip_own_frames(&mut self, index: u32) {
        let cursor = self.cursors[index as usize];
        let first = self.marks.partition_point(|mark| mark.end <= cursor.position);
        let own = self.marks.iter().skip(first).take_while(|mark| self.is_own(&cursor, mark));
        if let Some(last) = own.last() {
            // Only reached at a frame boundary: a send in flight keeps its transport from being idle.
            let bytes = last.end - cursor.position;
            self.advance(index, bytes as u32);
            // What comes next may start from what was skipped.
            self.lose_base(index);
        }
    }

    /// The next frame that the cursor does not get as it lies in the log, and where that begins.
    fn next_exception(&self, cursor: &Cursor) -> Option<(u64, &Mark)> {
        let first = self.marks.partition_point(|mark| mark.end <= cursor.position);
        let mut start = cursor.position;
        let mut lacks_base = cursor.special.lacks_base();
        for mark in self.marks.iter().skip(first) {
            match mark.link {
                _ if self.is_own(cursor, mark) => return Some((start, mark)),
                Link::Delta(_) if lacks_base => return Some((start, mark)),
                Link::Full => lacks_base = false,
                Link::Break => lacks_base = true,
                Link::Delta(_) | Link::None => {}
            }
            start = mark.end;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAG_BYTES_MAX: u64 = 1 << 20;

    fn publisher(number: u32) -> PublisherId {
        PublisherId::of(&format!("{number:012}")).expect("as long as ids are")
    }

    fn frame(text: &str) -> Frame {
        Frame { bytes: Bytes::copy_from_slice(text.as_bytes()), publisher: None, link: Link::None }
    }

    fn frame_by(text: &str, publisher: Option<PublisherId>) -> Frame {
        Frame { publisher, ..frame(text) }
    }

    fn linked(text: &str, link: Link) -> Frame {
        Frame { link, ..frame(text) }
    }

    fn delta(text: &str, full: &'static str) -> Frame {
        linked(text, Link::Delta(Box::new(Bytes::from_static(full.as_bytes()))))
    }

    fn text(owed: &Owed) -> &str {
        std::str::from_utf8(owed.bytes.unsent()).expect("ascii")
    }

    /// Runs the round to its end with all transports idle and completes every send at once.
    fn run_round(log: &mut FrameLog, received: &mut [String]) {
        while let Some(due) = log.next_due(LAG_BYTES_MAX, |_| true) {
            let Due::Send { transport: to, cursor, owed } = due else { panic!("nobody lags here") };
            received[to as usize].push_str(text(&owed));
            log.advance(cursor, owed.log_bytes);
        }
    }

    #[test]
    fn frames_of_one_turn_go_out_in_one_send_and_are_freed_behind_the_last_cursor() {
        let mut log = FrameLog::default();
        for index in 0..3 {
            assert_eq!(log.attach(index, None, false), index);
        }
        log.stage(frame("a"));
        log.stage(frame("b"));
        log.commit();
        let due = log.next_due(LAG_BYTES_MAX, |_| true);
        let Some(Due::Send { transport: 0, cursor: 0, owed }) = due else { panic!() };
        assert_eq!(text(&owed), "ab");
        log.advance(0, 2);
        assert_eq!(log.held_bytes(), 2);
        let mut received = vec![String::new(); 3];
        run_round(&mut log, &mut received);
        assert_eq!(received, ["", "ab", "ab"]);
        assert_eq!(log.held_bytes(), 0);
    }

    #[test]
    fn a_single_frame_is_shared_and_not_copied() {
        let mut log = FrameLog::default();
        log.attach(0, None, false);
        let published = frame("payload");
        log.stage(published.clone());
        log.commit();
        let owed = log.pending(0).expect("owed");
        assert_eq!(owed.bytes.unsent().as_ptr(), published.bytes.as_ptr());
    }

    #[test]
    fn a_busy_transport_is_passed_by_and_gets_the_rest_in_one_send() {
        let mut log = FrameLog::default();
        log.attach(0, None, false);
        log.stage(frame("one"));
        log.commit();
        let first = log.pending(0).expect("owed");
        for text in ["two", "three", "four"] {
            log.stage(frame(text));
            log.commit();
            assert!(log.next_due(LAG_BYTES_MAX, |_| false).is_none());
        }
        log.advance(0, first.log_bytes);
        // Room for what follows grows with what is owed: never more sends than turns.
        let mut rest = String::new();
        let mut sends = 0;
        while let Some(owed) = log.pending(0) {
            rest.push_str(text(&owed));
            log.advance(0, owed.log_bytes);
            sends += 1;
        }
        assert_eq!(rest, "twothreefour");
        assert!(sends <= 2, "{sends} sends");
    }

    #[test]
    fn a_laggard_is_named_and_its_detach_frees_the_log() {
        let mut log = FrameLog::default();
        log.attach(0, None, false);
        log.attach(1, None, false);
        for _ in 0..10 {
            log.stage(frame("0123456789"));
            log.commit();
            while let Some(due) = log.next_due(50, |index| index == 1) {
                match due {
                    Due::Send { transport: 1, cursor, owed } => log.advance(cursor, owed.log_bytes),
                    Due::Send { transport, .. } => panic!("{transport} is busy"),
                    Due::Slow(index) => assert_eq!(index, 0),
                }
            }
        }
        assert_eq!(log.held_bytes(), 100);
        assert_eq!(log.detach(0), Some(1));
        assert_eq!(log.held_bytes(), 0);
    }

    #[test]
    fn own_frames_are_skipped_and_nothing_else_is() {
        let mut log = FrameLog::default();
        log.attach(0, Some(publisher(0)), false);
        log.attach(1, None, false);
        // Its digest is the same.
        let stranger = PublisherId::of("0000aaaaaaaa").expect("as long as ids are");
        assert_eq!(stranger.digest(), publisher(0).digest());
        for (text, publisher) in [
            ("a", None),
            ("B", Some(publisher(0))),
            ("c", Some(publisher(1))),
            ("D", Some(publisher(0))),
            ("E", Some(publisher(0))),
            ("f", Some(stranger)),
        ] {
            log.stage(frame_by(text, publisher));
        }
        log.commit();
        let mut received = vec![String::new(); 2];
        run_round(&mut log, &mut received);
        while let Some(owed) = log.pending(0) {
            received[0].push_str(text(&owed));
            log.advance(0, owed.log_bytes);
        }
        assert_eq!(received, ["acf", "aBcDEf"]);
        assert_eq!(log.held_bytes(), 0);
    }

    #[test]
    fn who_lacks_the_base_of_a_delta_gets_it_in_full() {
        let mut log = FrameLog::new(true);
        let everything = |log: &mut FrameLog, cursor| {
            let mut received = String::new();
            while let Some(owed) = log.pending(cursor) {
                received.push_str(text(&owed));
                log.advance(cursor, owed.log_bytes);
            }
            received
        };
        log.attach(0, None, false);
        log.stage(linked("1", Link::Full));
        log.stage(delta("d2", "2"));
        log.attach(1, None, false);
        log.attach(2, None, true);
        log.stage(frame("presence"));
        log.stage(delta("d3", "3"));
        log.stage(delta("d4", "4"));
        log.commit();
        assert_eq!(everything(&mut log, 0), "1d2presenced3d4");
        assert_eq!(everything(&mut log, 1), "presence3d4");
        assert_eq!(everything(&mut log, 2), "presenced3d4");
        assert_eq!(log.held_bytes(), 0);
    }

    #[test]
    fn behind_a_break_everybody_gets_the_next_delta_in_full() {
        let mut log = FrameLog::new(true);
        log.attach(0, None, false);
        log.attach(1, None, false);
        log.stage(linked("1", Link::Full));
        log.stage(delta("d2", "2"));
        log.stage(linked("!", Link::Break));
        log.stage(delta("d3", "3"));
        log.stage(delta("d4", "4"));
        log.commit();
        let mut received = vec![String::new(); 2];
        run_round(&mut log, &mut received);
        for cursor in 0..2 {
            while let Some(owed) = log.pending(cursor) {
                received[cursor as usize].push_str(text(&owed));
                log.advance(cursor, owed.log_bytes);
            }
        }
        assert_eq!(received, ["1d2!3d4", "1d2!3d4"]);
    }

    #[test]
    fn without_deltas_nobody_lacks_anything() {
        let mut log = FrameLog::new(false);
        log.attach(0, None, false);
        assert!(log.cursors[0].special.is_none());
    }

    /// The model: a client that applies a delta to a message it does not have last is broken.
    #[test]
    fn every_delta_that_is_sent_follows_its_base() {
        for seed in 1..300u64 {
            let mut random = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let mut next = move |below: u64| {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                random % below
            };
            let mut log = FrameLog::new(true);
            // By transport: the number of the message it received last, and all numbers.
            let mut received: Vec<Vec<u64>> = Vec::new();
            let mut attached_at = Vec::new();
            let mut own: Vec<u64> = Vec::new();
            let mut published = 0u64;
            for _ in 0..200 {
                match next(8) {
                    0 if received.len() < 6 => {
                        let index = received.len() as u32;
                        // Transport 0 does not want its own.
                        log.attach(index, (index == 0).then(|| publisher(0)), false);
                        received.push(Vec::new());
                        attached_at.push(published);
                    }
                    1..=4 => {
                        let (by_own, is_full) = (next(3) == 0, next(4) == 0);
                        let link = match is_full {
                            true => Link::Full,
                            false => Link::Delta(Box::new(format!("{published} ").into())),
                        };
                        let text =
                            if is_full { published.to_string() } else { format!("d{published}") };
                        let publisher = by_own.then(|| self::publisher(0));
                        log.stage(Frame { publisher, ..linked(&format!("{text} "), link) });
                        if by_own {
                            own.push(published);
                        }
                        published += 1;
                        if next(2) == 0 {
                            log.stage(frame("- "));
                        }
                        log.commit();
                    }
                    _ => {
                        let Some(reader) = next(6).checked_rem(received.len() as u64) else {
                            continue;
                        };
                        let Some(owed) = log.pending(reader as u32) else { continue };
                        for word in text(&owed).split_whitespace().filter(|word| *word != "-") {
                            let number: u64 =
                                word.trim_start_matches('d').parse().expect("a number");
                            let last = received[reader as usize].last();
                            if word.starts_with('d') {
                                assert_eq!(last.map(|last| last + 1), Some(number), "seed={seed}");
                            }
                            received[reader as usize].push(number);
                        }
                        log.advance(reader as u32, owed.log_bytes);
                    }
                }
            }
            for (index, received) in received.iter().enumerate() {
                let expected = (attached_at[index]..published)
                    .filter(|number| index != 0 || !own.contains(number))
                    .take(received.len());
                assert!(expected.eq(received.iter().copied()), "seed={seed}");
            }
        }
    }

    /// The model: every subscriber has a plain queue of its own.
    #[test]
    fn random_schedules_deliver_every_frame_once_and_in_order() {
        for seed in 0..300u64 {
            let mut random = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
            let mut next = move |below: u64| {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                random % below
            };
            let mut log = FrameLog::default();
            let mut expected: Vec<String> = Vec::new();
            let mut received: Vec<String> = Vec::new();
            // By transport: its cursor, and what is in flight.
            let mut cursor: Vec<Option<u32>> = Vec::new();
            let mut in_flight: Vec<Option<Owed>> = Vec::new();
            let mut published = 0;
            for _ in 0..400 {
                match next(10) {
                    0 if cursor.len() < 12 => {
                        let index = cursor.len() as u32;
                        cursor.push(Some(log.attach(index, None, false)));
                        in_flight.push(None);
                        expected.push(String::new());
                        received.push(String::new());
                    }
                    1 if !cursor.is_empty() => {
                        let victim = next(cursor.len() as u64) as usize;
                        if in_flight[victim].is_none()
                            && let Some(at) = cursor[victim].take()
                        {
                            expected[victim] = received[victim].clone();
                            if let Some(moved) = log.detach(at) {
                                cursor[moved as usize] = Some(at);
                            }
                        }
                    }
                    2..=4 => {
                        let published_text = format!("<{published}>");
                        published += 1;
                        for (at, expected) in cursor.iter().zip(&mut expected) {
                            if at.is_some() {
                                expected.push_str(&published_text);
                            }
                        }
                        log.stage(frame(&published_text));
                        if next(2) == 0 {
                            log.commit();
                        }
                    }
                    5..=7 => {
                        let busy: Vec<bool> = in_flight.iter().map(Option::is_some).collect();
                        let due = log.next_due(LAG_BYTES_MAX, |index| !busy[index as usize]);
                        if let Some(Due::Send { transport, owed, .. }) = due {
                            in_flight[transport as usize] = Some(owed);
                        }
                    }
                    _ if !cursor.is_empty() => {
                        let done = next(cursor.len() as u64) as usize;
                        let Some(owed) = in_flight[done].take() else { continue };
                        let at = cursor[done].expect("busy transports stay attached here");
                        let taken = 1 + next(owed.log_bytes.into()) as usize;
                        received[done].push_str(&text(&owed)[..taken]);
                        log.advance(at, taken as u32);
                        in_flight[done] = log.pending(at);
                    }
                    _ => {}
                }
            }
            log.commit();
            for (index, at) in cursor.iter().enumerate() {
                let Some(at) = *at else { continue };
                let mut owed = in_flight[index].take().or_else(|| log.pending(at));
                while let Some(send) = owed {
                    received[index].push_str(text(&send));
                    log.advance(at, send.log_bytes);
                    owed = log.pending(at);
                }
            }
            assert_eq!(received, expected, "seed={seed}");
            assert_eq!(log.held_bytes(), 0, "seed={seed}");
        }
    }
}
