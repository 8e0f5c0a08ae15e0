//! The socket ring: one io_uring that carries every client socket of a shard.
//!
//! Sockets live in the ring's table of direct descriptors and take no file descriptor of the process;
//! a [`Slot`] is an index into that table. The ring owns what the kernel borrows (receive buffers,
//! bytes of sends in flight) and the life of a slot. It does not know what the bytes mean.
//!
//! The life of a slot: [`Event::Accepted`] or [`Event::Connected`] opens it, then at most one receive
//! and one send are in flight. [`SocketRing::close`] cancels them, waits for their completions, closes
//! the descriptor and reports [`Event::Closed`]; nothing else is reported of a slot that is closing.
//!
//! | file | what |
//! | --- | --- |
//! | `ring.rs` | the ring, the life of a slot, what completions mean |
//! | `ring/queues.rs` | entries in, completions out, sleep and wake |
//! | `ring/accept.rs` | clients that come in, and where from |
//! | `ring/connect.rs` | sockets that connect |
//! | `ring/transfer.rs` | bytes in and out |

mod accept;
mod connect;
mod queues;
#[cfg(test)]
mod tests;
mod transfer;

use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;

use io_uring::register::Restriction;
use io_uring::types::Fixed;
use io_uring::{IoUring, Probe, cqueue, opcode, squeue};

use self::accept::{Accept, Accepting, peer_of};
use super::SendBuf;
use super::buffers::BufferRing;

/// Index into a ring's table of direct descriptors, below its `table_entries`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(pub u32);

/// Which of the sockets that a ring accepts from, below [`DOORS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Door(pub u8);

/// Sockets that a ring accepts from at a time.
pub const DOORS: usize = 2;

/// Sizes of one ring; each bounds memory.
#[derive(Clone, Debug)]
pub struct SocketRingConfig {
    /// Submission queue entries, a power of two; also the largest batch of sends. 64 to 32,768.
    pub ring_entries: u32,
    /// Direct descriptors, so sockets; at most `RLIMIT_NOFILE` per ring.
    pub table_entries: u32,
    /// Receive buffers shared by all sockets of the ring, a power of two up to 32,768.
    pub receive_buffers: u16,
    /// Bytes of one receive buffer.
    pub receive_buffer_bytes: u32,
}

/// Bytes of an entry of the submission queue with its index, and of one of the completion queue (io_uring_setup(2)).
const SUBMISSION_BYTES: u64 = 64 + 4;
const COMPLETION_BYTES: u64 = 16;

/// Entries of the completion queue for each of the submission queue: every queued send can complete at once, beside
/// receives that nobody asked for.
const COMPLETIONS_PER_SUBMISSION: u32 = 4;

impl SocketRingConfig {
    /// Bytes of the queues of one ring.
    pub fn queue_bytes(&self) -> u64 {
        let completions = COMPLETION_BYTES * u64::from(COMPLETIONS_PER_SUBMISSION);
        u64::from(self.ring_entries) * (SUBMISSION_BYTES + completions)
    }
}

/// Why a receive ended for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReceiveEnd {
    /// The peer closed its side.
    Eof,
    /// The socket failed with this errno.
    Failed(i32),
}

/// What has happened on the ring.
#[derive(Debug)]
pub enum Event<'a> {
    /// A client connected at a door, from this address if addresses are learnt there; its slot is open and
    /// nothing is armed on it yet.
    Accepted(Slot, Door, Option<IpAddr>),
    /// Accepting at a door stopped with this errno; [`SocketRing::start_accept`] resumes it.
    AcceptStopped(Door, i32),
    /// A connect that [`SocketRing::connect`] began has ended: 0 or an errno, after which the slot is closed.
    Connected(Slot, i32),
    /// Bytes arrived. They may be changed in place; the buffer goes back to the kernel afterwards.
    Received(Slot, &'a mut [u8]),
    /// No more bytes will arrive.
    ReceiveEnded(Slot, ReceiveEnd),
    /// A send ended: the kernel took all its bytes, of which this is the number, or an errno.
    Sent(Slot, Result<u32, i32>),
    /// Where a client comes from, or the errno of what was done to find out.
    Peer(Slot, Result<IpAddr, i32>),
    /// The slot is free for reuse.
    Closed(Slot),
}

/// What a completion belongs to; the high byte of `user_data`, the slot is the low half. An accept has the
/// door in the slot's place, one that learns an address also which of the door's it is.
mod op {
    pub const ACCEPT: u64 = 1;
    pub const RECEIVE: u64 = 2;
    pub const SEND: u64 = 3;
    pub const CANCEL: u64 = 4;
    pub const CLOSE: u64 = 5;
    pub const CONNECT_STEP: u64 = 6;
    pub const CONNECT: u64 = 7;
    pub const SHUTDOWN: u64 = 8;
    pub const ACCEPT_ONE: u64 = 9;
    pub const INSTALL: u64 = 10;
}

const fn user_data(op: u64, slot: Slot) -> u64 {
    op << 56 | slot.0 as u64
}

/// What a ring that serves clients does, and nothing else.
const SERVING: [u8; 6] = [
    opcode::AcceptMulti::CODE,
    opcode::RecvMulti::CODE,
    opcode::Send::CODE,
    opcode::AsyncCancel::CODE,
    opcode::Shutdown::CODE,
    opcode::Close::CODE,
];

/// What it takes to be a client.
const CONNECTING: [u8; 4] =
    [opcode::Socket::CODE, opcode::SetSockOpt::CODE, opcode::Bind::CODE, opcode::Connect::CODE];

/// Flags of entries: a slot of the table, a buffer of the pool, and what chains of connects take.
const FLAGS: u8 = (1 << 0) | (1 << 2) | (1 << 5) | (1 << 6);

/// `IORING_REGISTER_EVENTFD`: the one registration that comes after the ring was made.
const REGISTER_EVENTFD: u8 = 4;

/// What is in flight on a slot, as bits.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct SlotState(u8);

impl SlotState {
    const OPEN: u8 = 1;
    const RECEIVING: u8 = 2;
    const SENDING: u8 = 4;
    const CONNECTING: u8 = 8;
    const CLOSING: u8 = 16;
    const SHUTTING: u8 = 32;
    /// Nothing is to be received just now.
    const PAUSED: u8 = 64;
    const INSTALLING: u8 = 128;
    const IN_FLIGHT: u8 =
        Self::RECEIVING | Self::SENDING | Self::CONNECTING | Self::SHUTTING | Self::INSTALLING;
    /// What waits for the peer, and as what it was submitted. The others end by themselves.
    const CANCELLABLE: [(u8, u64); 3] = [
        (Self::RECEIVING, op::RECEIVE),
        (Self::SENDING, op::SEND),
        (Self::CONNECTING, op::CONNECT),
    ];

    fn has(self, bits: u8) -> bool {
        self.0 & bits != 0
    }
}

/// See the module text. Used from the thread that made it only.
pub struct SocketRing {
    // Field order is drop order: the ring goes first, so that the kernel lets go of the memory below.
    ring: IoUring,
    buffers: BufferRing,
    table_entries: u32,
    /// By slot: the bytes that a send in flight reads. As long as the highest slot that was ever
    /// used: the kernel hands out the lowest free one.
    sends: Vec<Option<SendBuf>>,
    slots: Vec<SlotState>,
    /// Entries that found the submission queue full; at most a few per slot, as each slot has at
    /// most one receive, one send, a cancel of each and one close under way.
    overflow: VecDeque<squeue::Entry>,
    /// Addresses that queued connects point to; the kernel copies them when it takes the entry.
    #[allow(clippy::vec_box, reason = "entries point to the addresses, so they may not move")]
    connect_addresses: Vec<Box<[libc::sockaddr_in; 2]>>,
    open_slots: u32,
    /// Whether the kernel gives a descriptor for what is in the table.
    can_install: bool,
    /// By door.
    accepts: [Accept; DOORS],
}

impl SocketRing {
    /// Makes a ring for the calling thread, to accept clients with. Before it can be used, all that serving
    /// does not take is given up for good: it opens no file and no socket, and registers nothing more.
    ///
    /// # Errors
    /// `EPERM` or `ENOSYS` where io_uring is switched off, `EINVAL` on kernels without deferred task
    /// runs (before 6.1), `EMFILE` when `table_entries` exceeds `RLIMIT_NOFILE`, `ENOMEM`.
    pub fn new(config: &SocketRingConfig) -> io::Result<SocketRing> {
        SocketRing::restricted_to(&SERVING, config)
    }

    /// As [`new`](Self::new), to [`connect`](Self::connect) with as well.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn for_clients(config: &SocketRingConfig) -> io::Result<SocketRing> {
        SocketRing::restricted_to(&[&SERVING[..], &CONNECTING[..]].concat(), config)
    }

    fn restricted_to(operations: &[u8], config: &SocketRingConfig) -> io::Result<SocketRing> {
        let ring: IoUring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_r_disabled()
            .setup_cqsize(config.ring_entries * COMPLETIONS_PER_SUBMISSION)
            .dontfork()
            .build(config.ring_entries)?;
        let mut submitter = ring.submitter();
        submitter.register_files_sparse(config.table_entries)?;
        let buffers =
            BufferRing::register(&submitter, config.receive_buffers, config.receive_buffer_bytes)?;
        // Only saves the kernel a descriptor look-up per call; kernels before 5.18 lack it.
        let _ = submitter.register_ring_fd();
        // Since Linux 6.8; kernels before refuse to be told of what they do not know.
        let mut probe = Probe::new();
        submitter.register_probe(&mut probe)?;
        let can_install = probe.is_supported(opcode::FixedFdInstall::CODE);
        let operations =
            operations.iter().chain(can_install.then_some(&opcode::FixedFdInstall::CODE));
        let mut restrictions: Vec<Restriction> =
            operations.map(|operation| Restriction::sqe_op(*operation)).collect();
        restrictions.push(Restriction::sqe_flags_allowed(FLAGS));
        restrictions.push(Restriction::register_op(REGISTER_EVENTFD));
        submitter.register_restrictions(&mut restrictions)?;
        submitter.register_enable_rings()?;
        Ok(SocketRing {
            ring,
            buffers,
            table_entries: config.table_entries,
            sends: Vec::new(),
            slots: Vec::new(),
            overflow: VecDeque::new(),
            connect_addresses: Vec::new(),
            open_slots: 0,
            can_install,
            accepts: std::array::from_fn(|_| Accept::default()),
        })
    }

    /// Slots that are not free.
    pub fn open_slots(&self) -> u32 {
        self.open_slots
    }

    /// Size of the table.
    pub fn table_entries(&self) -> u32 {
        self.table_entries
    }

    fn open(&mut self, slot: Slot, state: SlotState) {
        assert!(slot.0 < self.table_entries, "slots are below the table's size");
        if self.slots.len() <= slot.0 as usize {
            self.slots.resize(slot.0 as usize + 1, SlotState::default());
            self.sends.resize_with(slot.0 as usize + 1, || None);
        }
        let free = std::mem::replace(&mut self.slots[slot.0 as usize], state);
        assert!(free == SlotState::default(), "a slot is opened when it is free");
        self.open_slots += 1;
    }

    /// Cancels what is in flight on `slot` and closes it; ends in [`Event::Closed`].
    pub fn close(&mut self, slot: Slot) {
        let state = &mut self.slots[slot.0 as usize];
        assert!(state.has(SlotState::OPEN), "close needs an open slot");
        if state.has(SlotState::CLOSING) {
            return;
        }
        state.0 |= SlotState::CLOSING;
        let state = *state;
        if !state.has(SlotState::IN_FLIGHT) {
            return self.push_close(slot);
        }
        for (bit, operation) in SlotState::CANCELLABLE {
            if state.has(bit) {
                self.push_cancel(operation, slot);
            }
        }
    }

    /// Cancels one operation, of which it is told as of any that ends. Always by its name: to find what
    /// belongs to a descriptor the kernel looks at every operation that is armed on the ring, so that closing
    /// all sockets would take as many looks as their number squared.
    fn push_cancel(&mut self, operation: u64, place: Slot) {
        let cancel = opcode::AsyncCancel::new(user_data(operation, place)).build();
        self.push(cancel.user_data(user_data(op::CANCEL, place)));
    }

    /// Takes what has completed and reports it, at most `max` completions. Returns how many there were.
    pub fn reap(&mut self, max: usize, mut on_event: impl FnMut(Event<'_>)) -> usize {
        for count in 0..max {
            let Some(entry) = self.ring.completion().next() else { return count };
            self.handle_completion(&entry, &mut on_event);
        }
        max
    }

    fn handle_completion(&mut self, entry: &cqueue::Entry, on_event: &mut impl FnMut(Event<'_>)) {
        let slot = Slot(entry.user_data() as u32);
        let result = entry.result();
        match entry.user_data() >> 56 {
            op::SEND => self.handle_send(slot, result, on_event),
            op::RECEIVE => self.handle_receive(slot, result, entry.flags(), on_event),
            op::ACCEPT => {
                let door = Door(slot.0 as u8);
                if let Ok(index) = u32::try_from(result) {
                    self.open(Slot(index), SlotState(SlotState::OPEN));
                    on_event(Event::Accepted(Slot(index), door, None));
                }
                if !cqueue::more(entry.flags()) {
                    self.accepts[usize::from(door.0)].state = Accepting::Stopped;
                    on_event(Event::AcceptStopped(door, if result < 0 { -result } else { 0 }));
                }
            }
            op::ACCEPT_ONE => self.handle_single_accept(slot.0, result, on_event),
            op::CLOSE => {
                self.slots[slot.0 as usize] = SlotState::default();
                self.open_slots -= 1;
                on_event(Event::Closed(slot));
            }
            op::CONNECT => {
                if self.ended(slot, SlotState::CONNECTING) {
                    on_event(Event::Connected(slot, -result.min(0)));
                    if result < 0 {
                        self.close(slot);
                    }
                }
            }
            op::SHUTDOWN => {
                self.ended(slot, SlotState::SHUTTING);
            }
            op::INSTALL => {
                let peer = peer_of(result);
                if self.ended(slot, SlotState::INSTALLING) {
                    on_event(Event::Peer(slot, peer));
                }
            }
            // A failed step fails the connect that is linked behind it; a cancel finds its target or
            // the target has just completed by itself.
            op::CONNECT_STEP | op::CANCEL => {}
            other => unreachable!("no such operation was submitted: {other}"),
        }
    }

    /// Notes that an operation on `slot` has ended. False when the slot is closing, so that nobody
    /// is to be told; the last operation to end then starts the close.
    fn ended(&mut self, slot: Slot, bit: u8) -> bool {
        let state = &mut self.slots[slot.0 as usize];
        assert!(state.has(bit), "a completion for an operation that was not in flight");
        state.0 &= !bit;
        if !state.has(SlotState::CLOSING) {
            return true;
        }
        if !state.has(SlotState::IN_FLIGHT) {
            self.push_close(slot);
        }
        false
    }

    fn push_close(&mut self, slot: Slot) {
        let close = opcode::Close::new(Fixed(slot.0)).build();
        self.push(close.user_data(user_data(op::CLOSE, slot)));
    }
}
