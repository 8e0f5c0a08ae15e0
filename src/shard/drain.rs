//! The end of a shard: its clients are sent away one after another, spread over a window, so that they
//! do not all come back somewhere at once. Whoever goes gets what it is owed first.

use std::collections::VecDeque;
use std::time::Duration;

use super::Shard;
use super::transport::{Ending, Stage};
use crate::ably::{ErrorCode, ErrorInfo};
use crate::channel::log::TransportRef;
use crate::sys::SendBuf;
use crate::ws::{self, CloseCode};

/// Time from the end of the window to that of everything: what is still open then is cut.
pub const DRAIN_GRACE: Duration = Duration::from_secs(4);

/// Transports sent away each second at least, however long the window is: so few are no herd.
const RATE_MIN: u64 = 100;

/// Time between two steps.
const STEP_MS: u64 = 10;

/// Indexes that one step looks at, so that no turn is held up.
const LOOKS_PER_STEP: usize = 4096;

/// How long a client that waits for ACKs is waited for.
const ACKS_GRACE_MS: u64 = 500;

/// How long a request that has begun is waited for.
const REQUEST_GRACE_MS: u64 = 3000;

/// A drain that is under way.
pub(super) struct Drain {
    started_ms: u64,
    window_ms: u64,
    /// Transports that were open at the start.
    total: u64,
    /// How many of them were looked at.
    seen: u64,
    /// The next index to look at.
    next: u32,
    /// Whether each index was looked at once; from then on newcomers are looked for.
    is_sweeping: bool,
    /// Whoever had something under way, and until when it is waited for. In no order.
    late: VecDeque<(u64, TransportRef)>,
    step_ms: u64,
}

impl Shard {
    /// Sends all clients away, spread over `window`; whoever makes the shard's sockets accepts no more.
    /// A second call changes nothing.
    pub fn begin_drain(&mut self, window: Duration) {
        if self.drain.is_some() {
            return;
        }
        let total = u64::from(self.open_transports);
        let window_ms = (window.as_millis() as u64).min(total * 1000 / RATE_MIN);
        let now_ms = self.now.mono_ms;
        self.drain = Some(Box::new(Drain {
            started_ms: now_ms,
            window_ms,
            total,
            seen: 0,
            next: 0,
            is_sweeping: false,
            late: VecDeque::new(),
            step_ms: now_ms,
        }));
    }

    /// Whether a drain was begun.
    pub fn is_draining(&self) -> bool {
        self.drain.is_some()
    }

    /// Whether a drain has left no transport open, everything is written that is to be, and what rules are to
    /// be told is handed over.
    pub fn is_drained(&self) -> bool {
        let is_empty = self.open_transports == 0 && !self.has_hooks();
        self.is_draining() && is_empty && self.has_ended_journal()
    }

    /// Transports that a drain has not come to yet, or waits for.
    pub(super) fn unsent_away(&self) -> u64 {
        let Some(drain) = &self.drain else { return 0 };
        let unseen = if drain.is_sweeping { 0 } else { drain.total - drain.seen };
        // Some may have gone by themselves.
        (unseen + drain.late.len() as u64).min(self.open_transports.into())
    }

    /// When the drain wants to go on.
    pub(super) fn next_drain_ms(&self) -> Option<u64> {
        self.drain.as_ref().filter(|_| self.open_transports > 0).map(|drain| drain.step_ms)
    }

    /// Sends away whose turn it is. Called when the frames of the turn are laid out, so that they are
    /// among what is owed.
    pub(super) fn advance_drain(&mut self) {
        let now_ms = self.now.mono_ms;
        let Some(mut drain) = self.drain.take_if(|drain| drain.step_ms <= now_ms) else { return };
        drain.step_ms = now_ms + STEP_MS;
        for _ in 0..drain.late.len().min(LOOKS_PER_STEP) {
            let (until_ms, late) = drain.late.pop_front().expect("counted");
            let transport = &self.transports[late.index as usize];
            if transport.generation == late.generation
                && self.send_away(late.index, now_ms >= until_ms).is_some()
            {
                drain.late.push_back((until_ms, late));
            }
        }
        let elapsed_ms = now_ms - drain.started_ms;
        let due = match drain.window_ms {
            0 => drain.total,
            window_ms => (drain.total * elapsed_ms).div_ceil(window_ms),
        };
        let is_over = elapsed_ms >= drain.window_ms + DRAIN_GRACE.as_millis() as u64;
        for _ in 0..LOOKS_PER_STEP {
            if !drain.is_sweeping && drain.seen >= due && drain.seen < drain.total {
                break;
            }
            if drain.next as usize >= self.transports.len() {
                drain.next = 0;
                if drain.is_sweeping {
                    break;
                }
                drain.is_sweeping = true;
            }
            let index = drain.next;
            let Some(transport) = self.transports.get(index as usize) else { break };
            drain.next += 1;
            let address = transport.address(index);
            if !drain.is_sweeping && !matches!(transport.stage, Stage::Free) {
                drain.seen += 1;
            }
            let grace_ms = self.send_away(index, is_over);
            if let Some(grace_ms) = grace_ms.filter(|_| !drain.is_sweeping) {
                drain.late.push_back((now_ms + grace_ms, address));
            }
        }
        self.drain = Some(drain);
    }

    /// Sends away whoever is at `index`, if it is at a good place to stop, or in any case when
    /// `is_forced`. `Some`: it is not, and may be waited for that many milliseconds.
    fn send_away(&mut self, index: u32, is_forced: bool) -> Option<u64> {
        let transport = &mut self.transports[index as usize];
        match &transport.stage {
            Stage::Free | Stage::Closing => {}
            Stage::Leaving(_) if is_forced => self.close(index),
            Stage::Leaving(_) => {}
            Stage::Http(http) => {
                let is_quiet =
                    http.waiting.is_none() && http.parser.is_empty() && transport.is_settled();
                if !is_quiet && !is_forced {
                    return Some(REQUEST_GRACE_MS);
                }
                self.close(index);
            }
            Stage::Opening(_) if !is_forced => return Some(REQUEST_GRACE_MS),
            Stage::Opening(_) => self.close(index),
            Stage::Echo(_) => self.close_websocket(index, CloseCode::Away, Ending::Linger),
            Stage::Realtime(_, connection) => {
                if connection.pending_publishes() > 0 && !is_forced {
                    // A rule may have to be asked first.
                    let is_long = self.homes.rules().have_gates();
                    return Some(if is_long { REQUEST_GRACE_MS } else { ACKS_GRACE_MS });
                }
                self.farewell(index);
            }
            Stage::Events(_) => self.farewell(index),
        }
        None
    }

    /// DISCONNECTED behind everything that the client is owed (RTN15h).
    fn farewell(&mut self, index: u32) {
        let error = ErrorInfo::new(ErrorCode::DRAINING, "the server is going away; connect again");
        let transport = &mut self.transports[index as usize];
        let mut goodbye = Vec::new();
        if let Some((connection, _)) = transport.speak() {
            connection.disconnected(&error, &mut goodbye);
            goodbye.extend_from_slice(&ws::close_frame(CloseCode::Away, ""));
        } else if let Some((events, _)) = transport.events() {
            events.write_end(&error, &mut goodbye);
        }
        let Some(connection) = transport.connection() else { return };
        let streams: Vec<u32> = connection.streams().collect();
        let mut rest = Vec::new();
        for stream in streams {
            let transport = &mut self.transports[index as usize];
            rest.extend(transport.take_backlog_of(stream));
            rest.extend(self.unsent_of(index, stream));
        }
        rest.push(SendBuf::whole(goodbye.into()));
        self.leave(index, Ending::Linger);
        // Of no stream: nothing takes it back.
        self.transports[index as usize].push_backlog(u32::MAX, false, rest);
        self.set_ready(index);
    }
}
