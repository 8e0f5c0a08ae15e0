//! The sockets of one shard that speak TLS. They stand between the ring, which carries ciphertext, and the
//! shard, which sees plaintext and does not know of them.
//!
//! What the shard owes a client stays where it is, in the log that all subscribers share, until the ring is
//! free to send; then one record's worth of it is encrypted into a buffer that lives until it is sent. So a
//! client that does not read holds 16 KiB of ciphertext at most, and how far it is behind is counted by its
//! cursor as everybody's is.

use std::collections::VecDeque;
use std::mem::take;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::shard::Shard;
use crate::sys::SendBuf;
use crate::tls::{Acceptor, Failure, RECORD_BYTES_MAX, Session};

/// Time for handshakes in one turn, about what a batch of sends takes: many who come at once are let in
/// between deliveries, not before them. One handshake, of up to a millisecond, always fits.
const HANDSHAKES_MAX: Duration = Duration::from_millis(2);

/// Reasons for which handshakes and sessions fail, as the metrics name them.
pub(super) const FAILURES: [&str; 7] = [
    "plain_http",
    "not_tls",
    "incompatible",
    "client_certificate",
    "refused",
    "protocol",
    "abandoned",
];

/// What was counted since the start.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct TlsCounters {
    /// Handshakes that have ended well.
    pub handshakes: u64,
    /// Of them, those that a ticket has shortened.
    pub resumed: u64,
    /// Sessions that have not ended well, by reason: [`FAILURES`].
    pub failures: [u64; FAILURES.len()],
}

impl TlsCounters {
    fn fail(&mut self, failure: Failure) {
        let index = match failure {
            Failure::PlainHttp => 0,
            Failure::NotTls => 1,
            Failure::Incompatible => 2,
            Failure::ClientCertificate => 3,
            Failure::Refused => 4,
            Failure::Protocol => 5,
        };
        self.failures[index] += 1;
    }

    fn abandon(&mut self) {
        self.failures[6] += 1;
    }
}

struct TlsSocket {
    session: Session,
    /// What the shard has given to send, with as much marked sent as the kernel has taken.
    owed: Option<SendBuf>,
    /// Bytes of `owed` that are in flight, encrypted; 0 when only records of the session are.
    in_flight: Option<u32>,
    ending: Ending,
    /// Whether the handshake is over: the shard knows nothing of a client before.
    is_open: bool,
    /// Whether it waits in the queue of handshakes.
    is_queued: bool,
}

/// What follows once everything is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    No,
    /// The client is told that nothing follows.
    Notify,
    /// The sending side is shut down.
    ShutDown,
    Done,
}

#[derive(Default)]
pub(super) struct TlsSockets {
    /// Of those who come next.
    acceptor: Option<Acceptor>,
    /// By transport. Empty as long as nobody has spoken TLS, so plain sockets pay one comparison.
    sockets: Vec<Option<Box<TlsSocket>>>,
    /// Transports with something to do for their handshake.
    handshakes: VecDeque<u32>,
    /// Transports that may have something to send, or an end to make.
    ready: VecDeque<u32>,
    to_shut_down: Vec<u32>,
    /// What was decrypted last; kept for its memory.
    plaintext: Vec<u8>,
    pub counters: TlsCounters,
}

impl TlsSockets {
    /// From now on handshakes are made with `acceptor`.
    pub(super) fn set_acceptor(&mut self, acceptor: Acceptor) {
        self.acceptor = Some(acceptor);
    }

    /// A client that will speak TLS has connected.
    pub(super) fn handle_accept(&mut self, transport: u32) {
        let acceptor = self.acceptor.as_ref().expect("a listener for TLS has an acceptor");
        let index = transport as usize;
        if self.sockets.len() <= index {
            self.sockets.resize_with(index + 1, || None);
        }
        self.sockets[index] = Some(Box::new(TlsSocket {
            session: Session::new(acceptor),
            owed: None,
            in_flight: None,
            ending: Ending::No,
            is_open: false,
            is_queued: false,
        }));
    }

    /// Bytes have arrived. False: `transport` speaks no TLS, and they were not touched.
    pub(super) fn handle_bytes(
        &mut self,
        shard: &mut Shard,
        transport: u32,
        bytes: &mut [u8],
    ) -> bool {
        let Some(socket) = self.socket(transport) else { return false };
        if !socket.session.hold(bytes) {
            self.take_in(shard, transport, bytes);
        } else if !socket.is_queued {
            socket.is_queued = true;
            self.handshakes.push_back(transport);
        }
        true
    }

    /// Goes on with handshakes for a while. True when more of them wait.
    pub(super) fn shake_hands(&mut self, shard: &mut Shard) -> bool {
        if self.handshakes.is_empty() {
            return false;
        }
        let begun = Instant::now();
        while let Some(transport) = self.handshakes.pop_front() {
            // The transport may be another's by now, or nobody's.
            if self.socket(transport).is_some_and(|socket| take(&mut socket.is_queued)) {
                self.take_in(shard, transport, &mut []);
            }
            if begun.elapsed() >= HANDSHAKES_MAX {
                break;
            }
        }
        !self.handshakes.is_empty()
    }

    fn take_in(&mut self, shard: &mut Shard, transport: u32, bytes: &mut [u8]) {
        let Some(Some(socket)) = self.sockets.get_mut(transport as usize) else { return };
        self.plaintext.clear();
        let outcome = socket.session.handle_bytes(bytes, &mut self.plaintext);
        if let Ok(news) = outcome
            && let Some(is_resumed) = news.established
        {
            socket.is_open = true;
            self.counters.handshakes += 1;
            self.counters.resumed += u64::from(is_resumed);
        }
        if !self.plaintext.is_empty() {
            shard.handle_bytes(transport, &mut self.plaintext);
        }
        let has_ended = match outcome {
            Ok(news) => {
                if news.has_ended && !socket.is_open {
                    self.counters.abandon();
                }
                news.has_ended
            }
            Err(failure) => {
                self.counters.fail(failure);
                true
            }
        };
        if has_ended && socket.is_open {
            shard.handle_receive_end(transport);
        } else if has_ended {
            // It is told why, and has until the shard misses its request to go by itself: a close at
            // once would take back what it was told.
            socket.ending = Ending::ShutDown;
        }
        if has_ended || socket.session.has_outgoing() {
            self.ready.push_back(transport);
        }
    }

    /// The client has closed its side, or the socket has failed.
    pub(super) fn handle_receive_end(&mut self, shard: &mut Shard, transport: u32) {
        if let Some(Some(socket)) = self.sockets.get_mut(transport as usize)
            && !socket.is_open
            && socket.ending == Ending::No
        {
            self.counters.abandon();
        }
        shard.handle_receive_end(transport);
    }

    /// A send has ended. False: `transport` speaks no TLS.
    pub(super) fn handle_sent(
        &mut self,
        shard: &mut Shard,
        transport: u32,
        result: Result<u32, i32>,
    ) -> bool {
        let Some(socket) = self.socket(transport) else { return false };
        let sent = socket.in_flight.take().expect("a send ends that was begun");
        match (result, &mut socket.owed) {
            (Ok(_), Some(owed)) => {
                if owed.advance(sent) == 0 {
                    let len = owed.len();
                    socket.owed = None;
                    shard.handle_sent(transport, Ok(len));
                }
            }
            (Ok(_), None) => {}
            (Err(errno), Some(_)) => {
                socket.owed = None;
                shard.handle_sent(transport, Err(errno));
            }
            // The shard is waiting for nothing; its client has gone all the same.
            (Err(_), None) => shard.handle_receive_end(transport),
        }
        self.ready.push_back(transport);
        true
    }

    /// Takes what the shard wants sent.
    ///
    /// # Errors
    /// `transport` speaks no TLS: the bytes go out as they are.
    pub(super) fn transmit(&mut self, transport: u32, bytes: SendBuf) -> Result<(), SendBuf> {
        let Some(socket) = self.socket(transport) else { return Err(bytes) };
        socket.owed = Some(bytes);
        self.ready.push_back(transport);
        Ok(())
    }

    /// The next send: a transport with nothing in flight, and ciphertext for it.
    pub(super) fn poll_send(&mut self, shard: &mut Shard) -> Option<(u32, SendBuf)> {
        while let Some(transport) = self.ready.pop_front() {
            let Some(Some(socket)) = self.sockets.get_mut(transport as usize) else { continue };
            match socket.next_send() {
                Ok(Some(bytes)) => return Some((transport, bytes)),
                Ok(None) if socket.ending == Ending::ShutDown && socket.in_flight.is_none() => {
                    socket.ending = Ending::Done;
                    self.to_shut_down.push(transport);
                }
                Ok(None) => {}
                Err(failure) => {
                    self.counters.fail(failure);
                    socket.owed = None;
                    shard.handle_sent(transport, Err(libc::EPROTO));
                }
            }
        }
        None
    }

    /// Has the client told that nothing follows, and its sending side shut down behind that. False:
    /// `transport` speaks no TLS.
    pub(super) fn shut_down(&mut self, transport: u32) -> bool {
        let Some(socket) = self.socket(transport) else { return false };
        if socket.ending == Ending::No {
            socket.ending = Ending::Notify;
            self.ready.push_back(transport);
        }
        true
    }

    /// The next transport whose sending side is to be shut down.
    pub(super) fn poll_shut_down(&mut self) -> Option<u32> {
        self.to_shut_down.pop()
    }

    /// Gives up `transport`, which is about to be closed. Returns what is sent right before that, if nothing
    /// is in flight: a client that has been sent a part of something must not be told that this is all.
    pub(super) fn close(&mut self, transport: u32) -> Option<SendBuf> {
        let mut socket = self.sockets.get_mut(transport as usize)?.take()?;
        if socket.in_flight.is_some() || socket.owed.is_some() || socket.ending == Ending::Done {
            return None;
        }
        if socket.is_open && matches!(socket.ending, Ending::No | Ending::Notify) {
            socket.session.close_notify();
        }
        let last = socket.session.take_outgoing();
        (!last.is_empty()).then(|| SendBuf::whole(Bytes::from(last)))
    }

    fn socket(&mut self, transport: u32) -> Option<&mut TlsSocket> {
        self.sockets.get_mut(transport as usize)?.as_deref_mut()
    }
}

impl TlsSocket {
    /// What goes out next: what the session has to say, and a record of what is owed.
    fn next_send(&mut self) -> Result<Option<SendBuf>, Failure> {
        if self.in_flight.is_some() || self.ending == Ending::Done {
            return Ok(None);
        }
        let mut ciphertext = self.session.take_outgoing();
        let mut sent = 0;
        let mut is_last = true;
        if let Some(owed) = &self.owed {
            let unsent = owed.unsent();
            let piece = &unsent[..unsent.len().min(RECORD_BYTES_MAX)];
            self.session.encrypt(piece, &mut ciphertext)?;
            sent = piece.len() as u32;
            is_last = piece.len() == unsent.len();
        }
        if is_last && self.ending == Ending::Notify {
            self.session.close_notify();
            ciphertext.append(&mut self.session.take_outgoing());
            self.ending = Ending::ShutDown;
        }
        if ciphertext.is_empty() {
            return Ok(None);
        }
        self.in_flight = Some(sent);
        Ok(Some(SendBuf::whole(Bytes::from(ciphertext))))
    }
}
