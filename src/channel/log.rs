//! The frame log: what a core still owes the subscribers of one channel, and how far each of them is.
//!
//! A subscriber is a [`Cursor`] into the log, not a queue: a backlog costs a number. Frames lie
//! contiguously where they arrived together or while somebody was behind, so that load turns into
//! larger sends by itself. A chunk of the log is freed when the last cursor has passed it; a log that
//! everybody has read to its end holds nothing.
//!
//! This file does not know connections: it names transports by index and leaves it to its owner to
//! know which of them have a send in flight.

use std::collections::VecDeque;
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

/// Where one subscriber stands. 16 bytes, in a dense array that a round of sends walks in order.
#[derive(Clone, Copy, Debug)]
struct Cursor {
    /// Offset of the next byte to send, counted from the start of the log's life.
    position: u64,
    transport: u32,
    /// 0: gets every frame. Else its own generation plus one: frames that it published are skipped.
    skip_own: u32,
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

/// Where a frame ends and who published it, for subscribers that do not want their own.
struct Mark {
    end: u64,
    publisher: Option<TransportRef>,
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
        bytes: SendBuf,
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
    /// Frames of this turn, not laid out yet.
    staged: Vec<(Bytes, Option<TransportRef>)>,
    /// Offset behind the last frame that was laid out.
    end: u64,
    /// Where the round of sends stands, and how many cursors it has yet to visit.
    round_at: u32,
    round_left: u32,
}

impl FrameLog {
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

    /// Adds a subscriber that gets every frame staged from now on. With `skip_own`, frames published
    /// by `transport` itself are left out. Returns the index of its cursor.
    ///
    /// Frames staged earlier in this turn are laid out first, so that they are not for it.
    pub fn attach(&mut self, transport: TransportRef, skip_own: bool) -> u32 {
        self.commit();
        let index = self.cursors.len() as u32;
        let skip_own = if skip_own { transport.generation.wrapping_add(1).max(1) } else { 0 };
        self.cursors.push(Cursor { position: self.end, transport: transport.index, skip_own });
        index
    }

    /// Removes the cursor at `index`. The last cursor takes its place; its transport is returned when
    /// there was one to move.
    pub fn detach(&mut self, index: u32) -> Option<u32> {
        let cursor = self.cursors.swap_remove(index as usize);
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
    pub fn stage(&mut self, frame: Bytes, publisher: Option<TransportRef>) -> bool {
        self.staged.push((frame, publisher));
        self.staged.len() == 1
    }

    /// Lays out the staged frames and starts a round of sends over all cursors.
    pub fn commit(&mut self) {
        let staged = std::mem::take(&mut self.staged);
        if staged.is_empty() || self.cursors.is_empty() {
            return;
        }
        let mut bytes_left: usize = staged.iter().map(|(frame, _)| frame.len()).sum();
        for (frame, publisher) in &staged {
            self.lay_out(frame, bytes_left);
            bytes_left -= frame.len();
            self.marks.push_back(Mark { end: self.end, publisher: *publisher });
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
                if let Some(bytes) = self.pending(index) {
                    return Some(Due::Send { transport: cursor.transport, cursor: index, bytes });
                }
            } else if self.end - cursor.position > lag_bytes_max {
                return Some(Due::Slow(cursor.transport));
            }
        }
        None
    }

    /// What the cursor at `index` is owed next: everything up to the end of its chunk, in whole frames.
    pub fn pending(&mut self, index: u32) -> Option<SendBuf> {
        let cursor = self.cursors[index as usize];
        if cursor.skip_own != 0 {
            self.skip_own_frames(index);
        }
        let position = self.cursors[index as usize].position;
        if position == self.end {
            return None;
        }
        let at = self.chunks.partition_point(|held| held.end() <= position);
        let held = &self.chunks[at];
        let mut end = held.end();
        if cursor.skip_own != 0 {
            end = end.min(self.next_own_frame(&cursor, position));
        }
        Some(SendBuf::new(&held.chunk, (position - held.start) as u32, (end - held.start) as u32))
    }

    /// Whether the cursor at `index` has not reached the end.
    pub fn is_behind(&self, index: u32) -> bool {
        self.cursors[index as usize].position < self.end
    }

    /// Moves the cursor at `index` past `bytes` that the kernel has taken.
    pub fn advance(&mut self, index: u32, bytes: u32) {
        let cursor = &mut self.cursors[index as usize];
        let from = cursor.position;
        cursor.position += u64::from(bytes);
        assert!(cursor.position <= self.end, "the kernel took more than the log holds");
        let to = cursor.position;
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

    fn is_own(cursor: &Cursor, mark: &Mark) -> bool {
        mark.publisher.is_some_and(|publisher| {
            publisher.index == cursor.transport
                && publisher.generation.wrapping_add(1).max(1) == cursor.skip_own
        })
    }

    fn skip_own_frames(&mut self, index: u32) {
        let cursor = self.cursors[index as usize];
        let first = self.marks.partition_point(|mark| mark.end <= cursor.position);
        let own = self.marks.iter().skip(first).take_while(|mark| Self::is_own(&cursor, mark));
        if let Some(last) = own.last() {
            // Only reached at a frame boundary: a send in flight keeps its transport from being idle.
            let bytes = last.end - cursor.position;
            self.advance(index, bytes as u32);
        }
    }

    /// Offset at which the next frame of the cursor's own begins, or `u64::MAX`.
    fn next_own_frame(&self, cursor: &Cursor, position: u64) -> u64 {
        let first = self.marks.partition_point(|mark| mark.end <= position);
        let mut start = position;
        for mark in self.marks.iter().skip(first) {
            if Self::is_own(cursor, mark) {
                return start;
            }
            start = mark.end;
        }
        u64::MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAG_BYTES_MAX: u64 = 1 << 20;

    fn transport(index: u32) -> TransportRef {
        TransportRef { index, generation: 7 }
    }

    fn frame(text: &str) -> Bytes {
        Bytes::copy_from_slice(text.as_bytes())
    }

    /// Runs the round to its end with all transports idle and completes every send at once.
    fn run_round(log: &mut FrameLog, received: &mut [String]) {
        while let Some(due) = log.next_due(LAG_BYTES_MAX, |_| true) {
            let Due::Send { transport: to, cursor, bytes } = due else {
                panic!("nobody lags here")
            };
            received[to as usize].push_str(std::str::from_utf8(bytes.unsent()).expect("ascii"));
            log.advance(cursor, bytes.len());
        }
    }

    #[test]
    fn frames_of_one_turn_go_out_in_one_send_and_are_freed_behind_the_last_cursor() {
        let mut log = FrameLog::default();
        for index in 0..3 {
            assert_eq!(log.attach(transport(index), false), index);
        }
        log.stage(frame("a"), None);
        log.stage(frame("b"), None);
        log.commit();
        let due = log.next_due(LAG_BYTES_MAX, |_| true);
        let Some(Due::Send { transport: 0, cursor: 0, bytes }) = due else { panic!() };
        assert_eq!(bytes.unsent(), b"ab");
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
        log.attach(transport(0), false);
        let published = frame("payload");
        log.stage(published.clone(), None);
        log.commit();
        let bytes = log.pending(0).expect("owed");
        assert_eq!(bytes.unsent().as_ptr(), published.as_ptr());
    }

    #[test]
    fn a_busy_transport_is_passed_by_and_gets_the_rest_in_one_send() {
        let mut log = FrameLog::default();
        log.attach(transport(0), false);
        log.stage(frame("one"), None);
        log.commit();
        let first = log.pending(0).expect("owed");
        for text in ["two", "three", "four"] {
            log.stage(frame(text), None);
            log.commit();
            assert!(log.next_due(LAG_BYTES_MAX, |_| false).is_none());
        }
        log.advance(0, first.unsent().len() as u32);
        // Room for what follows grows with what is owed: never more sends than turns.
        let mut rest = String::new();
        let mut sends = 0;
        while let Some(bytes) = log.pending(0) {
            rest.push_str(std::str::from_utf8(bytes.unsent()).expect("ascii"));
            log.advance(0, bytes.unsent().len() as u32);
            sends += 1;
        }
        assert_eq!(rest, "twothreefour");
        assert!(sends <= 2, "{sends} sends");
    }

    #[test]
    fn a_laggard_is_named_and_its_detach_frees_the_log() {
        let mut log = FrameLog::default();
        log.attach(transport(0), false);
        log.attach(transport(1), false);
        for _ in 0..10 {
            log.stage(frame("0123456789"), None);
            log.commit();
            while let Some(due) = log.next_due(50, |index| index == 1) {
                match due {
                    Due::Send { transport: 1, cursor, bytes } => log.advance(cursor, bytes.len()),
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
        log.attach(transport(0), true);
        log.attach(transport(1), false);
        let stranger = TransportRef { index: 0, generation: 8 };
        for (text, publisher) in [
            ("a", None),
            ("B", Some(transport(0))),
            ("c", Some(transport(1))),
            ("D", Some(transport(0))),
            ("E", Some(transport(0))),
            ("f", Some(stranger)),
        ] {
            log.stage(frame(text), publisher);
        }
        log.commit();
        let mut received = vec![String::new(); 2];
        run_round(&mut log, &mut received);
        while let Some(bytes) = log.pending(0) {
            received[0].push_str(std::str::from_utf8(bytes.unsent()).expect("ascii"));
            log.advance(0, bytes.unsent().len() as u32);
        }
        assert_eq!(received, ["acf", "aBcDEf"]);
        assert_eq!(log.held_bytes(), 0);
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
            let mut in_flight: Vec<Option<SendBuf>> = Vec::new();
            let mut published = 0;
            for _ in 0..400 {
                match next(10) {
                    0 if cursor.len() < 12 => {
                        let index = cursor.len() as u32;
                        cursor.push(Some(log.attach(transport(index), false)));
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
                        let text = format!("<{published}>");
                        published += 1;
                        for (at, expected) in cursor.iter().zip(&mut expected) {
                            if at.is_some() {
                                expected.push_str(&text);
                            }
                        }
                        log.stage(frame(&text), None);
                        if next(2) == 0 {
                            log.commit();
                        }
                    }
                    5..=7 => {
                        let busy: Vec<bool> = in_flight.iter().map(Option::is_some).collect();
                        let due = log.next_due(LAG_BYTES_MAX, |index| !busy[index as usize]);
                        if let Some(Due::Send { transport, bytes, .. }) = due {
                            in_flight[transport as usize] = Some(bytes);
                        }
                    }
                    _ if !cursor.is_empty() => {
                        let done = next(cursor.len() as u64) as usize;
                        let Some(bytes) = in_flight[done].take() else { continue };
                        let at = cursor[done].expect("busy transports stay attached here");
                        let taken = 1 + next(bytes.unsent().len() as u64) as usize;
                        let text = std::str::from_utf8(&bytes.unsent()[..taken]).expect("ascii");
                        received[done].push_str(text);
                        log.advance(at, taken as u32);
                        in_flight[done] = log.pending(at);
                    }
                    _ => {}
                }
            }
            log.commit();
            for (index, at) in cursor.iter().enumerate() {
                let Some(at) = *at else { continue };
                let mut bytes = in_flight[index].take().or_else(|| log.pending(at));
                while let Some(send) = bytes {
                    received[index].push_str(std::str::from_utf8(send.unsent()).expect("ascii"));
                    log.advance(at, send.unsent().len() as u32);
                    bytes = log.pending(at);
                }
            }
            assert_eq!(received, expected, "seed={seed}");
            assert_eq!(log.held_bytes(), 0, "seed={seed}");
        }
    }
}
