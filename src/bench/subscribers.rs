//! The subscribers: one thread and one socket ring for each part of them. They check what they are
//! sent: every message, once, in order.

use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::thread::Thread;
use std::time::Instant;

use anyhow::bail;
use bytes::Bytes;
use memchr::memmem;

use super::histogram::Histogram;
use crate::sys::{Event, SendBuf, Slot, SocketRing, SocketRingConfig};
use crate::tls::{Client, Trust};

/// Messages whose times and counts are kept; more are never under way.
pub(super) const WINDOW: usize = 4096;

/// Connects under way at a time, per thread: bounds the server's accept queue.
const CONNECTING_MAX: u32 = 128;

/// Connections from one source address. The kernel gives out some 14,000 ports of one parity first,
/// and looks at nearly all of them for each connection once most are taken.
const PER_ADDRESS: u32 = 5_000;

/// What the subscribers and the publisher share.
pub(super) struct Shared {
    pub started: Instant,
    /// By message: when it was published, in microseconds since the start.
    pub sent_us: Vec<AtomicU64>,
    /// By message: threads that have not delivered it to all of their subscribers.
    pub remaining: Vec<AtomicUsize>,
    /// By message: when its first and last delivery came, in microseconds since the start.
    pub first_us: Vec<AtomicU64>,
    pub last_us: Vec<AtomicU64>,
    /// Subscribers that are attached.
    pub attached: AtomicU32,
    /// Frames delivered.
    pub delivered: AtomicU64,
    /// Bytes of one delivered frame, as far as seen.
    pub frame_bytes: AtomicU64,
    /// Subscribers that have lost their connection.
    pub lost: AtomicU32,
    /// Messages after which the threads end; set once that is known.
    pub messages: AtomicU64,
    /// When the server was told to end, in microseconds since the start; the greatest number: it was not.
    pub drain_us: AtomicU64,
    /// Subscribers that were told since that they are to go.
    pub told: AtomicU32,
}

impl Shared {
    pub fn new() -> Shared {
        fn zeroed<T: Default>() -> Vec<T> {
            (0..WINDOW).map(|_| T::default()).collect()
        }
        Shared {
            started: Instant::now(),
            sent_us: zeroed(),
            remaining: zeroed(),
            first_us: zeroed(),
            last_us: zeroed(),
            attached: AtomicU32::new(0),
            delivered: AtomicU64::new(0),
            frame_bytes: AtomicU64::new(0),
            lost: AtomicU32::new(0),
            messages: AtomicU64::new(u64::MAX),
            drain_us: AtomicU64::new(u64::MAX),
            told: AtomicU32::new(0),
        }
    }

    pub fn now_us(&self) -> u64 {
        self.started.elapsed().as_micros() as u64
    }
}

/// What one thread of subscribers does.
#[derive(Clone)]
pub(super) struct Part {
    pub server: SocketAddrV4,
    /// Whom clients trust, who speak TLS then.
    pub trust: Option<Trust>,
    pub upgrade: Bytes,
    /// A masked ATTACH frame; `None` against the floor, which sends nothing but what is published.
    pub attach: Option<Bytes>,
    /// Subscribers of this checker.
    pub count: u32,
    /// Number of the first of them, for its source address.
    pub first: u32,
    /// How many of them stop reading once they are attached.
    pub stalled: u32,
}

/// First bytes of a ping and of a close frame.
const PING: u8 = 0x89;
const CLOSE: u8 = 0x88;

/// What one part has measured, in microseconds.
pub(super) struct Outcome {
    /// From a publish to each delivery.
    pub latency: Histogram,
    /// From the end of the server's service to when each subscriber was told.
    pub told: Histogram,
}

/// How far one subscriber is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// In the handshake of TLS.
    Greeting,
    Upgrading,
    /// Upgraded and asked to attach.
    Attaching,
    Attached,
    Stalled,
    /// Told that the server goes away.
    Told,
    Gone,
}

struct Subscriber {
    stage: Stage,
    tls: Option<Box<Client>>,
    /// The message that has to come next.
    next: u32,
    /// The beginning of a frame whose end has not come.
    partial: Vec<u8>,
}

struct Checker<'a> {
    part: &'a Part,
    shared: &'a Shared,
    publisher: &'a Thread,
    subscribers: Vec<Subscriber>,
    /// By message: subscribers of this thread that have it.
    counts: Vec<u32>,
    latency: Histogram,
    told: Histogram,
    /// Subscribers that read and have not been told to go, or have not gone.
    staying: u32,
    /// Subscribers whose connection the server has closed.
    closing: Vec<u32>,
    wrong: Option<String>,
    /// Subscribers that owe a pong.
    pinged: Vec<u32>,
    data: memmem::Finder<'static>,
}

/// Runs one part until all messages were delivered to it, or all its subscribers were sent away.
pub(super) fn run(
    part: &Part,
    shared: &Arc<Shared>,
    publisher: &Thread,
) -> anyhow::Result<Outcome> {
    let mut ring = SocketRing::for_clients(&SocketRingConfig {
        ring_entries: 4096,
        table_entries: part.count.max(16),
        receive_buffers: 1024,
        receive_buffer_bytes: 8192,
    })?;
    let mut checker = Checker {
        part,
        shared,
        publisher,
        subscribers: Vec::new(),
        counts: vec![0; WINDOW],
        latency: Histogram::default(),
        told: Histogram::default(),
        staying: part.count - part.stalled,
        closing: Vec::new(),
        wrong: None,
        pinged: Vec::new(),
        data: memmem::Finder::new(b"\"data\":\""),
    };
    let pong = Bytes::from_static(&[0x8a, 0x80, 0, 0, 0, 0]);
    let mut connecting = 0;
    let mut sends: Vec<(u32, Bytes)> = Vec::new();
    let mut receives: Vec<u32> = Vec::new();
    let mut stalls: Vec<u32> = Vec::new();
    let mut plaintext = Vec::new();
    loop {
        while connecting < CONNECTING_MAX && (checker.subscribers.len() as u32) < part.count {
            let slot = checker.subscribers.len() as u32;
            let address = Ipv4Addr::from(0x7f00_0002 + (part.first + slot) / PER_ADDRESS);
            ring.connect(Slot(slot), SocketAddrV4::new(address, 0), part.server);
            let tls = part
                .trust
                .as_ref()
                .map(|trust| Box::new(Client::new(trust, IpAddr::V4(*part.server.ip()))));
            let stage = if tls.is_some() { Stage::Greeting } else { Stage::Upgrading };
            let partial = Vec::new();
            checker.subscribers.push(Subscriber { stage, tls, next: 0, partial });
            connecting += 1;
        }
        ring.submit_and_wait()?;
        let now_us = shared.now_us();
        let mut failed = None;
        ring.reap(4096, |event| match event {
            Event::Connected(slot, 0) => {
                // With TLS its hello goes first.
                let is_plain = part.trust.is_none();
                let bytes = if is_plain { part.upgrade.clone() } else { Bytes::new() };
                sends.push((slot.0, bytes));
                receives.push(slot.0);
            }
            Event::Connected(_, errno) => failed = Some(errno),
            Event::Received(slot, bytes) => {
                let before = checker.subscribers[slot.0 as usize].stage;
                let has_outgoing = checker.handle_received(now_us, slot.0, bytes, &mut plaintext);
                let after = checker.subscribers[slot.0 as usize].stage;
                if before != after {
                    match after {
                        Stage::Upgrading => sends.push((slot.0, part.upgrade.clone())),
                        Stage::Attaching => {
                            sends.push((slot.0, part.attach.clone().expect("the floor has none")));
                        }
                        Stage::Attached => connecting -= 1,
                        Stage::Stalled => {
                            connecting -= 1;
                            stalls.push(slot.0);
                        }
                        Stage::Greeting | Stage::Told | Stage::Gone => {}
                    }
                } else if has_outgoing {
                    sends.push((slot.0, Bytes::new()));
                }
            }
            Event::ReceiveEnded(slot, _) | Event::Sent(slot, Err(_)) => checker.lose(slot.0),
            Event::Closed(slot) => checker.lose(slot.0),
            Event::Sent(..) | Event::Peer(..) => {}
            Event::Accepted(..) | Event::AcceptStopped(..) => unreachable!("nobody connects to us"),
        });
        if let Some(errno) = failed {
            bail!("connect failed: {}", std::io::Error::from_raw_os_error(errno));
        }
        if let Some(wrong) = checker.wrong {
            bail!("{wrong}");
        }
        // Sent one at a time: a ping comes when nothing was said for long.
        sends.extend(checker.pinged.drain(..).map(|slot| (slot, pong.clone())));
        for (slot, bytes) in sends.drain(..) {
            let bytes = match &mut checker.subscribers[slot as usize].tls {
                None => bytes,
                Some(client) => {
                    client.send(&bytes);
                    client.take_outgoing().into()
                }
            };
            ring.send(Slot(slot), SendBuf::whole(bytes));
        }
        receives.drain(..).for_each(|slot| ring.start_receive(Slot(slot)));
        stalls.drain(..).for_each(|slot| ring.pause_receive(Slot(slot)));
        checker.closing.drain(..).for_each(|slot| ring.close(Slot(slot)));
        if checker.staying == 0 && checker.is_draining() {
            let Checker { latency, told, .. } = checker;
            return Ok(Outcome { latency, told });
        }
        let messages = shared.messages.load(Ordering::Relaxed);
        if messages != u64::MAX && checker.is_done(messages) {
            let Checker { latency, told, .. } = checker;
            return Ok(Outcome { latency, told });
        }
    }
}

impl Checker<'_> {
    fn is_done(&self, messages: u64) -> bool {
        let done = |subscriber: &Subscriber| {
            subscriber.stage != Stage::Attached || u64::from(subscriber.next) >= messages
        };
        self.subscribers.iter().all(done)
    }

    fn is_draining(&self) -> bool {
        self.shared.drain_us.load(Ordering::Acquire) != u64::MAX
    }

    fn lose(&mut self, index: u32) {
        let subscriber = &mut self.subscribers[index as usize];
        match subscriber.stage {
            // What becomes of those that do not read is the server's decision.
            Stage::Stalled | Stage::Gone => {}
            Stage::Told => self.staying -= 1,
            Stage::Attached => {
                self.shared.lost.fetch_add(1, Ordering::Relaxed);
                self.wrong = Some("a subscriber that reads was disconnected".into());
            }
            Stage::Greeting | Stage::Upgrading | Stage::Attaching => {
                self.wrong = Some("a connection was closed before it was attached".into());
            }
        }
        subscriber.stage = Stage::Gone;
    }

    /// Handles what has come, in TLS or plainly. Returns whether TLS has something to send by itself.
    fn handle_received(
        &mut self,
        now_us: u64,
        index: u32,
        bytes: &[u8],
        plaintext: &mut Vec<u8>,
    ) -> bool {
        let subscriber = &mut self.subscribers[index as usize];
        let Some(client) = &mut subscriber.tls else {
            self.handle_bytes(now_us, index, bytes);
            return false;
        };
        plaintext.clear();
        if let Err(error) = client.handle_bytes(bytes, plaintext) {
            self.wrong = Some(error);
            return false;
        }
        let has_outgoing = client.has_outgoing();
        if subscriber.stage == Stage::Greeting && client.is_resumed().is_some() {
            subscriber.stage = Stage::Upgrading;
        }
        if !plaintext.is_empty() {
            self.handle_bytes(now_us, index, plaintext);
        }
        has_outgoing
    }

    fn handle_bytes(&mut self, now_us: u64, index: u32, bytes: &[u8]) {
        let mut whole = std::mem::take(&mut self.subscribers[index as usize].partial);
        if whole.is_empty() {
            let used = self.handle_frames(now_us, index, bytes);
            self.subscribers[index as usize].partial.extend_from_slice(&bytes[used..]);
        } else {
            whole.extend_from_slice(bytes);
            let used = self.handle_frames(now_us, index, &whole);
            whole.drain(..used);
            self.subscribers[index as usize].partial = whole;
        }
    }

    /// Handles whole frames and returns how many bytes they had.
    fn handle_frames(&mut self, now_us: u64, index: u32, bytes: &[u8]) -> usize {
        let mut at = 0;
        if self.subscribers[index as usize].stage == Stage::Upgrading {
            let Some(end) = memmem::find(bytes, b"\r\n\r\n") else { return 0 };
            if !bytes.starts_with(b"HTTP/1.1 101") {
                self.wrong = Some(String::from_utf8_lossy(&bytes[..end]).into_owned());
            }
            at = end + 4;
            match self.part.attach {
                Some(_) => self.subscribers[index as usize].stage = Stage::Attaching,
                None => self.set_attached(index),
            }
        }
        while let Some((header, payload)) = frame_extent(&bytes[at..]) {
            let Some(frame) = bytes.get(at..at + header + payload) else { break };
            self.handle_frame(now_us, index, frame, header);
            at += frame.len();
        }
        at
    }

    fn set_attached(&mut self, index: u32) {
        let is_stalled = index < self.part.stalled;
        self.subscribers[index as usize].stage =
            if is_stalled { Stage::Stalled } else { Stage::Attached };
        self.shared.attached.fetch_add(1, Ordering::Relaxed);
    }

    fn handle_frame(&mut self, now_us: u64, index: u32, frame: &[u8], header: usize) {
        if frame[0] == PING {
            self.pinged.push(index);
            return;
        }
        if frame[0] == CLOSE && self.subscribers[index as usize].stage == Stage::Told {
            self.closing.push(index);
            return;
        }
        let payload = &frame[header..];
        match self.subscribers[index as usize].stage {
            Stage::Attaching => {
                if payload.starts_with(b"{\"action\":11,") {
                    self.set_attached(index);
                } else if payload.starts_with(b"{\"action\":9") {
                    self.wrong = Some(String::from_utf8_lossy(payload).into_owned());
                }
            }
            Stage::Attached => {
                let next = self.subscribers[index as usize].next;
                let message = match self.part.attach {
                    None => Some(next),
                    Some(_) => self.data.find(payload).and_then(|at| {
                        let digits = payload.get(at + 8..at + 18)?;
                        std::str::from_utf8(digits).ok()?.parse().ok()
                    }),
                };
                // Heartbeats carry no data, and neither does the end.
                let Some(message) = message else { return self.note_end(now_us, index, payload) };
                if message != next {
                    self.wrong = Some(format!("message {message} came where {next} was due"));
                }
                self.subscribers[index as usize].next = next + 1;
                self.note_delivery(now_us, next as usize % WINDOW, frame.len());
            }
            Stage::Greeting | Stage::Upgrading | Stage::Stalled | Stage::Told | Stage::Gone => {}
        }
    }

    /// A subscriber was told to go, perhaps, because the server goes away.
    fn note_end(&mut self, now_us: u64, index: u32, payload: &[u8]) {
        if !payload.starts_with(b"{\"action\":6") || !self.is_draining() {
            return;
        }
        if memmem::find(payload, b"\"code\":50320").is_none() {
            self.wrong = Some(String::from_utf8_lossy(payload).into_owned());
        }
        self.subscribers[index as usize].stage = Stage::Told;
        self.told.record(now_us.saturating_sub(self.shared.drain_us.load(Ordering::Relaxed)));
        self.shared.told.fetch_add(1, Ordering::Relaxed);
    }

    fn note_delivery(&mut self, now_us: u64, at: usize, frame_bytes: usize) {
        self.latency.record(now_us.saturating_sub(self.shared.sent_us[at].load(Ordering::Relaxed)));
        self.counts[at] += 1;
        if self.counts[at] == 1 {
            self.shared.first_us[at].fetch_min(now_us, Ordering::Relaxed);
            self.shared.frame_bytes.store(frame_bytes as u64, Ordering::Relaxed);
        }
        if self.counts[at] == self.part.count - self.part.stalled {
            self.shared.delivered.fetch_add(u64::from(self.counts[at]), Ordering::Relaxed);
            self.shared.last_us[at].fetch_max(now_us, Ordering::Relaxed);
            self.counts[at] = 0;
            if self.shared.remaining[at].fetch_sub(1, Ordering::AcqRel) == 1 {
                self.publisher.unpark();
            }
        }
    }
}

/// Lengths of header and payload of the server's frame that `bytes` starts with.
fn frame_extent(bytes: &[u8]) -> Option<(usize, usize)> {
    match *bytes.get(1)? {
        126 => Some((4, usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?)))),
        127 => Some((10, u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?) as usize)),
        len => Some((2, usize::from(len))),
    }
}
