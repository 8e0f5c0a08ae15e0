//! The socket ring: one io_uring that carries every client socket of a shard.
//!
//! Sockets live in the ring's table of direct descriptors and take no file descriptor of the process;
//! a [`Slot`] is an index into that table. This file owns what the kernel borrows (receive buffers,
//! bytes of sends in flight) and the life of a slot. It does not know what the bytes mean.
//!
//! The life of a slot: [`Event::Accepted`] or [`Event::Connected`] opens it, then at most one receive
//! and one send are in flight. [`SocketRing::close`] cancels them, waits for their completions, closes
//! the descriptor and reports [`Event::Closed`]; nothing else is reported of a slot that is closing.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV4, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{self, Ordering};

use io_uring::Probe;
use io_uring::register::Restriction;
use io_uring::types::{DestinationSlot, Fd, Fixed};
use io_uring::{IoUring, cqueue, opcode, squeue};

use super::buffers::{self, BufferRing};
use super::{EventFd, SendBuf};

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

/// Entries of a connect before the connect itself.
const CONNECT_STEPS: usize = 3;

/// Flags of entries: a slot of the table, a buffer of the pool, and what chains of connects take.
const FLAGS: u8 = (1 << 0) | (1 << 2) | (1 << 5) | (1 << 6);

/// `IORING_REGISTER_EVENTFD`: the one registration that comes after the ring was made.
const REGISTER_EVENTFD: u8 = 4;

/// Ends of a receive after which there may be more.
const INTERRUPTED: i32 = -libc::EINTR;
const CANCELLED: i32 = -libc::ECANCELED;
const NO_BUFFERS: i32 = -libc::ENOBUFS;

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

/// Accepts that are armed at a door at once, where addresses are learnt: as many clients come in from one turn
/// to the next.
const ACCEPTS_AT_ONCE: u32 = 64;

/// How connections are being accepted at one door.
#[derive(Default)]
struct Accept {
    state: Accepting,
    /// Accepts of one client each that are armed; a multishot is none of them.
    singles: u32,
    /// Why they end.
    errno: i32,
    /// Where each of them has its client's address written. Made when first needed.
    peers: Box<[PeerName]>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Accepting {
    #[default]
    Stopped,
    /// With one accept for everybody, which does not say where they come from.
    Multishot,
    /// With one accept for each client, from this listener.
    Singles(RawFd),
    Stopping,
}

/// A `sockaddr_in` or `sockaddr_in6`: what they have in common, and the bytes of the rest.
#[repr(C, align(4))]
#[derive(Clone, Copy)]
struct PeerName {
    family: u16,
    rest: [u8; size_of::<libc::sockaddr_in6>() - 2],
    /// Bytes that the kernel may write, and then those that the address has.
    len: libc::socklen_t,
}

impl PeerName {
    const BYTES_MAX: libc::socklen_t = size_of::<libc::sockaddr_in6>() as libc::socklen_t;

    fn unwritten() -> PeerName {
        PeerName { family: 0, rest: [0; _], len: PeerName::BYTES_MAX }
    }

    /// The address that was written. A port of two bytes is before it, and what IPv6 calls the flow.
    fn address(&self) -> Option<IpAddr> {
        match (i32::from(self.family), &self.rest) {
            (libc::AF_INET, [_, _, a, b, c, d, ..]) => Some(Ipv4Addr::new(*a, *b, *c, *d).into()),
            (libc::AF_INET6, [_, _, _, _, _, _, address @ ..]) => {
                Some(Ipv6Addr::from(*address.first_chunk::<16>()?).into())
            }
            _ => None,
        }
    }
}

/// The kernel reads socket option values from here.
static ONE: libc::c_int = 1;

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

    /// Whether clients are accepted at `door`, or are until that has stopped.
    pub fn is_accepting(&self, door: Door) -> bool {
        self.accepts[usize::from(door.0)].state != Accepting::Stopped
    }

    /// Whether it learns where clients at `door` come from, who are being accepted.
    pub fn learns_addresses(&self, door: Door) -> bool {
        matches!(self.accepts[usize::from(door.0)].state, Accepting::Singles(_))
    }

    /// Sends that can still be queued before the next [`submit`](Self::submit).
    pub fn send_room(&mut self) -> usize {
        let queue = self.ring.submission();
        queue.capacity() - queue.len()
    }

    /// Accepts from `listener`, which is at `door`, into free slots until [`stop_accept`](Self::stop_accept)
    /// or [`Event::AcceptStopped`]. To learn addresses takes an entry for each client, as a multishot writes all
    /// of them to the same place; `listener` stays open until accepting has stopped.
    pub fn start_accept(&mut self, door: Door, listener: RawFd, learn_addresses: bool) {
        let accept = &mut self.accepts[usize::from(door.0)];
        assert!(accept.state == Accepting::Stopped, "one accept per door");
        if learn_addresses {
            accept.state = Accepting::Singles(listener);
            if accept.peers.is_empty() {
                accept.peers = vec![PeerName::unwritten(); ACCEPTS_AT_ONCE as usize].into();
            }
            accept.singles = ACCEPTS_AT_ONCE;
            (0..ACCEPTS_AT_ONCE).for_each(|number| self.push_single_accept(door, number, listener));
            return;
        }
        accept.state = Accepting::Multishot;
        let accept = opcode::AcceptMulti::new(Fd(listener)).allocate_file_index(true).build();
        self.push(accept.user_data(user_data(op::ACCEPT, Slot(door.0.into()))));
    }

    /// Arms accept `number` of those at `door` that learn an address.
    fn push_single_accept(&mut self, door: Door, number: u32, listener: RawFd) {
        let peer = &mut self.accepts[usize::from(door.0)].peers[number as usize];
        *peer = PeerName::unwritten();
        // The box that the name is in stays until the ring is gone, and is not moved.
        let name = (&raw mut *peer).cast::<libc::sockaddr>();
        let entry = opcode::Accept::new(Fd(listener), name, &raw mut peer.len)
            .file_index(Some(DestinationSlot::auto_target()))
            .build();
        let place = Slot(u32::from(door.0) * ACCEPTS_AT_ONCE + number);
        self.push(entry.user_data(user_data(op::ACCEPT_ONE, place)));
    }

    /// Cancels what is armed at `door`; [`Event::AcceptStopped`] with `ECANCELED` says when it has ended.
    pub fn stop_accept(&mut self, door: Door) {
        self.stop_accept_for(door, libc::ECANCELED);
    }

    fn stop_accept_for(&mut self, door: Door, errno: i32) {
        let accept = &mut self.accepts[usize::from(door.0)];
        let armed = match accept.state {
            Accepting::Stopped | Accepting::Stopping => return,
            Accepting::Multishot => {
                let door = u32::from(door.0);
                (op::ACCEPT, door..door + 1)
            }
            Accepting::Singles(_) => {
                let first = u32::from(door.0) * ACCEPTS_AT_ONCE;
                (op::ACCEPT_ONE, first..first + ACCEPTS_AT_ONCE)
            }
        };
        accept.state = Accepting::Stopping;
        accept.errno = errno;
        let (operation, places) = armed;
        places.for_each(|place| self.push_cancel(operation, Slot(place)));
    }

    /// Opens `slot` by connecting from `from` (port 0: any) to `to`; ends in [`Event::Connected`].
    pub fn connect(&mut self, slot: Slot, from: SocketAddrV4, to: SocketAddrV4) {
        self.open(slot, SlotState(SlotState::OPEN | SlotState::CONNECTING));
        // A link must not straddle two submissions. Before the addresses are kept: a submission forgets them.
        if self.send_room() < CONNECT_STEPS + 1 {
            self.submit_all();
        }
        let addresses = Box::new([sockaddr(from), sockaddr(to)]);
        let [from, to] = [0, 1].map(|i| (&raw const addresses[i]).cast::<libc::sockaddr>());
        self.connect_addresses.push(addresses);
        let target = DestinationSlot::try_from_slot_target(slot.0).expect("slots are below 2^31");
        let len = size_of::<libc::sockaddr_in>() as libc::socklen_t;
        let fd = Fixed(slot.0);
        let steps: [_; CONNECT_STEPS] = [
            opcode::Socket::new(libc::AF_INET, libc::SOCK_STREAM, 0)
                .file_index(Some(target))
                .build(),
            // Ports are then chosen at connect, per pair of addresses, instead of per address.
            opcode::SetSockOpt::new(
                fd,
                libc::IPPROTO_IP as u32,
                libc::IP_BIND_ADDRESS_NO_PORT as u32,
                (&raw const ONE).cast(),
                size_of::<libc::c_int>() as u32,
            )
            .build(),
            opcode::Bind::new(fd, from, len).build(),
        ];
        for step in steps {
            let flags = squeue::Flags::IO_LINK | squeue::Flags::SKIP_SUCCESS;
            self.push(step.flags(flags).user_data(user_data(op::CONNECT_STEP, slot)));
        }
        let connect = opcode::Connect::new(fd, to, len).build();
        self.push(connect.user_data(user_data(op::CONNECT, slot)));
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

    /// Arms a multishot receive; bytes come as [`Event::Received`] until [`Event::ReceiveEnded`].
    pub fn start_receive(&mut self, slot: Slot) {
        let state = &mut self.slots[slot.0 as usize];
        assert!(state.has(SlotState::OPEN), "receive needs an open slot");
        assert!(!state.has(SlotState::RECEIVING), "one receive per slot");
        state.0 |= SlotState::RECEIVING;
        let receive = opcode::RecvMulti::new(Fixed(slot.0), buffers::GROUP).build();
        self.push(receive.user_data(user_data(op::RECEIVE, slot)));
    }

    /// Leaves what arrives in the socket until [`resume_receive`](Self::resume_receive); what the kernel has
    /// taken out of it by then still comes.
    pub fn pause_receive(&mut self, slot: Slot) {
        let state = &mut self.slots[slot.0 as usize];
        if !state.has(SlotState::OPEN) || state.has(SlotState::CLOSING | SlotState::PAUSED) {
            return;
        }
        state.0 |= SlotState::PAUSED;
        if state.has(SlotState::RECEIVING) {
            self.push_cancel(op::RECEIVE, slot);
        }
    }

    /// Receives again.
    pub fn resume_receive(&mut self, slot: Slot) {
        let state = &mut self.slots[slot.0 as usize];
        if !state.has(SlotState::PAUSED) {
            return;
        }
        state.0 &= !SlotState::PAUSED;
        // Otherwise once what was cancelled has ended.
        if !state.has(SlotState::RECEIVING | SlotState::CLOSING) {
            self.start_receive(slot);
        }
    }

    /// Queues a send of all of `bytes`; ends in [`Event::Sent`].
    pub fn send(&mut self, slot: Slot, bytes: SendBuf) {
        let state = &mut self.slots[slot.0 as usize];
        assert!(
            state.0 & (SlotState::OPEN | SlotState::SENDING | SlotState::CLOSING)
                == SlotState::OPEN,
            "one send at a time, on an open slot"
        );
        state.0 |= SlotState::SENDING;
        self.push_send(slot, bytes);
    }

    fn push_send(&mut self, slot: Slot, bytes: SendBuf) {
        let slice = bytes.unsent();
        let send = opcode::Send::new(Fixed(slot.0), slice.as_ptr(), slice.len() as u32)
            .flags(libc::MSG_NOSIGNAL)
            .build()
            .user_data(user_data(op::SEND, slot));
        // Keeps the bytes where they are until the completion; a chunk never moves or changes them.
        self.sends[slot.0 as usize] = Some(bytes);
        self.push(send);
    }

    /// Tells the peer that nothing more will be sent; receiving goes on.
    pub fn shut_down_write(&mut self, slot: Slot) {
        let state = &mut self.slots[slot.0 as usize];
        let usable = SlotState::OPEN | SlotState::SHUTTING | SlotState::CLOSING;
        assert!(state.0 & usable == SlotState::OPEN, "shut down once, while open");
        state.0 |= SlotState::SHUTTING;
        let shutdown = opcode::Shutdown::new(Fixed(slot.0), libc::SHUT_WR).build();
        self.push(shutdown.user_data(user_data(op::SHUTDOWN, slot)));
    }

    /// Finds out where the client at `slot` comes from, who was accepted when nobody wanted to know; ends in
    /// [`Event::Peer`]. For a moment its socket is a descriptor of the process. False: it cannot be found out.
    pub fn learn_peer(&mut self, slot: Slot) -> bool {
        let state = &mut self.slots[slot.0 as usize];
        assert!(state.has(SlotState::OPEN), "only open slots have a peer");
        if !self.can_install || state.has(SlotState::CLOSING | SlotState::INSTALLING) {
            return self.can_install;
        }
        state.0 |= SlotState::INSTALLING;
        let install = opcode::FixedFdInstall::new(Fixed(slot.0), 0).build();
        self.push(install.user_data(user_data(op::INSTALL, slot)));
        true
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

    /// Signals `eventfd` when completions arrive while [`arm_wakeup`](Self::arm_wakeup) holds.
    pub fn register_eventfd(&mut self, eventfd: &EventFd) -> io::Result<()> {
        self.ring.submitter().register_eventfd(eventfd.as_raw_fd())?;
        self.disarm_wakeup();
        Ok(())
    }

    /// From now on completions signal the eventfd. Call [`has_work`](Self::has_work) afterwards and
    /// sleep only when it says no.
    pub fn arm_wakeup(&mut self) {
        self.ring.completion().enable_eventfd();
        // We write "armed" and then look for work; the kernel notes work and then looks for "armed". One of the
        // two has to see the other's note, which a release alone does not give on every processor.
        atomic::fence(Ordering::SeqCst);
    }

    /// While the owner is awake, a signal per completion would be wasted.
    pub fn disarm_wakeup(&mut self) {
        self.ring.completion().disable_eventfd();
    }

    /// Whether something is queued for the kernel or waits to be reaped.
    pub fn has_work(&mut self) -> bool {
        if !self.overflow.is_empty() || !self.ring.completion().is_empty() {
            return true;
        }
        let queue = self.ring.submission();
        !queue.is_empty() || queue.taskrun() || queue.cq_overflow()
    }

    /// Hands queued entries to the kernel and lets it post what has completed. Does not wait.
    ///
    /// # Errors
    /// Only for mistakes of ours (`EBADF`, `EINVAL`, ...): a full completion queue and interrupted
    /// calls mean "reap, then submit again" and are not errors.
    pub fn submit(&mut self) -> io::Result<()> {
        self.enter(0)
    }

    /// As [`submit`](Self::submit), but saves the call when nothing is queued on either side.
    pub fn submit_if_needed(&mut self) -> io::Result<()> {
        let queue = self.ring.submission();
        let needed = !queue.is_empty() || queue.taskrun() || queue.cq_overflow();
        drop(queue);
        if needed || !self.overflow.is_empty() { self.submit() } else { Ok(()) }
    }

    /// As [`submit`](Self::submit), but waits for at least one completion. For owners without an executor.
    pub fn submit_and_wait(&mut self) -> io::Result<()> {
        self.enter(1)
    }

    fn enter(&mut self, want: usize) -> io::Result<()> {
        loop {
            self.move_overflow();
            match self.ring.submitter().submit_and_wait(want) {
                Ok(_) => break,
                Err(error) => match error.raw_os_error() {
                    // Interrupted before anything was taken.
                    Some(libc::EINTR) => {}
                    // The completion queue is full, or memory is short: reap first. What was not
                    // taken stays queued.
                    Some(libc::EBUSY | libc::EAGAIN) => return Ok(()),
                    _ => return Err(error),
                },
            }
        }
        self.connect_addresses.clear();
        Ok(())
    }

    /// Completions that wait to be taken, and operations that wait to be submitted.
    pub fn depth(&mut self) -> usize {
        self.overflow.len() + self.ring.completion().len()
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

    fn handle_single_accept(
        &mut self,
        place: u32,
        result: i32,
        on_event: &mut impl FnMut(Event<'_>),
    ) {
        let door = Door((place / ACCEPTS_AT_ONCE) as u8);
        let number = place % ACCEPTS_AT_ONCE;
        let accept = &mut self.accepts[usize::from(door.0)];
        accept.singles -= 1;
        let address = accept.peers[number as usize].address();
        match u32::try_from(result) {
            Ok(index) => {
                if let Accepting::Singles(listener) = accept.state {
                    accept.singles += 1;
                    self.push_single_accept(door, number, listener);
                }
                self.open(Slot(index), SlotState(SlotState::OPEN));
                on_event(Event::Accepted(Slot(index), door, address));
            }
            // What one has met the others would meet as well.
            Err(_) => self.stop_accept_for(door, -result),
        }
        let accept = &mut self.accepts[usize::from(door.0)];
        if accept.singles == 0 {
            accept.state = Accepting::Stopped;
            on_event(Event::AcceptStopped(door, accept.errno));
        }
    }

    fn handle_send(&mut self, slot: Slot, result: i32, on_event: &mut impl FnMut(Event<'_>)) {
        let mut bytes = self.sends[slot.0 as usize].take().expect("kept until its completion");
        let closing = self.slots[slot.0 as usize].has(SlotState::CLOSING);
        match u32::try_from(result) {
            // The socket's buffer took a part; the rest waits in the kernel until there is room.
            Ok(sent) if bytes.advance(sent) > 0 && !closing => self.push_send(slot, bytes),
            outcome => {
                if self.ended(slot, SlotState::SENDING) {
                    on_event(Event::Sent(slot, outcome.map(|_| bytes.len()).map_err(|_| -result)));
                }
            }
        }
    }

    fn handle_receive(
        &mut self,
        slot: Slot,
        result: i32,
        flags: u32,
        on_event: &mut impl FnMut(Event<'_>),
    ) {
        if let Some(id) = cqueue::buffer_select(flags) {
            if result > 0 && !self.slots[slot.0 as usize].has(SlotState::CLOSING) {
                on_event(Event::Received(slot, self.buffers.bytes(id, result as usize)));
            }
            self.buffers.recycle(id);
        }
        if cqueue::more(flags) || !self.ended(slot, SlotState::RECEIVING) {
            return;
        }
        match result {
            // Out of buffers, paused and resumed since, or the kernel ended a long multishot: arm it anew.
            // By the time the entry is submitted the buffers of this batch have been given back.
            1.. | INTERRUPTED | CANCELLED | NO_BUFFERS => {
                if !self.slots[slot.0 as usize].has(SlotState::PAUSED) {
                    self.start_receive(slot);
                }
            }
            0 => on_event(Event::ReceiveEnded(slot, ReceiveEnd::Eof)),
            _ => on_event(Event::ReceiveEnded(slot, ReceiveEnd::Failed(-result))),
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

    fn push(&mut self, entry: squeue::Entry) {
        // Behind entries that wait already, so that operations on a slot keep their order.
        if !self.overflow.is_empty() || !self.try_push(&entry) {
            self.overflow.push_back(entry);
        }
    }

    fn try_push(&mut self, entry: &squeue::Entry) -> bool {
        // SAFETY: every entry that this file builds points to memory that outlives the operation:
        // bytes of sends are held in `sends` until their completion, addresses of connects until they
        // are submitted, `ONE` is static, receives use registered buffers.
        unsafe { self.ring.submission().push(entry) }.is_ok()
    }

    fn move_overflow(&mut self) {
        while let Some(entry) = self.overflow.pop_front() {
            if !self.try_push(&entry) {
                self.overflow.push_front(entry);
                return;
            }
        }
    }

    /// Empties the submission queue as far as the kernel lets us.
    fn submit_all(&mut self) {
        self.submit().expect("the kernel takes entries that it took before");
    }
}

/// The peer of the socket whose descriptor was installed with this `result`; the descriptor is given back.
fn peer_of(result: i32) -> Result<IpAddr, i32> {
    if result < 0 {
        return Err(-result);
    }
    // SAFETY: the kernel has just made it, for us alone.
    let socket = TcpStream::from(unsafe { OwnedFd::from_raw_fd(result) });
    let peer = socket.peer_addr().map(|peer| peer.ip());
    peer.map_err(|error| error.raw_os_error().unwrap_or(libc::ENOTCONN))
}

fn sockaddr(address: SocketAddrV4) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: address.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from(*address.ip()).to_be() },
        sin_zero: [0; 8],
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use bytes::Bytes;

    use super::*;
    use crate::sys::listener::{Listener, ListenerConfig};

    const CONFIG: SocketRingConfig = SocketRingConfig {
        ring_entries: 64,
        table_entries: 8,
        receive_buffers: 4,
        receive_buffer_bytes: 16,
    };

    const DOOR: Door = Door(0);

    fn listener() -> Listener {
        let config =
            ListenerConfig { send_buffer_bytes: 65_536, notsent_lowat_bytes: 16_384, backlog: 64 };
        Listener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), &config).expect("bind")
    }

    fn v4(listener: &Listener) -> SocketAddrV4 {
        SocketAddrV4::new(Ipv4Addr::LOCALHOST, listener.address().port())
    }

    /// What a ring has reported, without borrowed parts.
    #[derive(Default)]
    struct Log {
        accepted: Vec<Slot>,
        connected: Vec<(Slot, i32)>,
        received: Vec<u8>,
        ended: Vec<ReceiveEnd>,
        sent: Vec<Result<u32, i32>>,
        closed: Vec<Slot>,
        peers: Vec<Result<IpAddr, i32>>,
        accept_stopped: Vec<i32>,
    }

    impl Log {
        fn take(&mut self, event: Event<'_>) {
            match event {
                Event::Accepted(slot, ..) => self.accepted.push(slot),
                Event::AcceptStopped(_, errno) => self.accept_stopped.push(errno),
                Event::Connected(slot, errno) => self.connected.push((slot, errno)),
                Event::Received(_, bytes) => self.received.extend_from_slice(bytes),
                Event::ReceiveEnded(_, end) => self.ended.push(end),
                Event::Sent(_, result) => self.sent.push(result),
                Event::Closed(slot) => self.closed.push(slot),
                Event::Peer(_, peer) => self.peers.push(peer),
            }
        }
    }

    /// Turns `ring` until `done`; the ring waits in the kernel, so nothing depends on time.
    fn turn_until(ring: &mut SocketRing, log: &mut Log, done: impl Fn(&Log) -> bool) {
        while !done(log) {
            ring.submit_and_wait().expect("submit");
            ring.reap(64, |event| log.take(event));
        }
    }

    fn pair() -> (SocketRing, Slot, SocketRing, Slot) {
        let listener = listener();
        let mut server = SocketRing::new(&CONFIG).expect("ring");
        let mut client = SocketRing::for_clients(&CONFIG).expect("ring");
        server.start_accept(DOOR, listener.as_raw_fd(), false);
        let any = SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, 9), 0);
        client.connect(Slot(3), any, v4(&listener));
        let (mut server_log, mut client_log) = (Log::default(), Log::default());
        turn_until(&mut client, &mut client_log, |log| !log.connected.is_empty());
        assert_eq!(client_log.connected, [(Slot(3), 0)]);
        turn_until(&mut server, &mut server_log, |log| !log.accepted.is_empty());
        server.stop_accept(DOOR);
        turn_until(&mut server, &mut server_log, |log| !log.accept_stopped.is_empty());
        assert_eq!(server_log.accept_stopped, [libc::ECANCELED]);
        (server, server_log.accepted[0], client, Slot(3))
    }

    #[test]
    fn bytes_outnumber_the_receive_buffers_and_still_all_arrive() {
        let (mut server, at_server, mut client, at_client) = pair();
        let sent: Vec<u8> = (0..10_000u32).map(|i| i as u8).collect();
        client.send(at_client, SendBuf::whole(Bytes::from(sent.clone())));
        let (mut server_log, mut client_log) = (Log::default(), Log::default());
        turn_until(&mut client, &mut client_log, |log| !log.sent.is_empty());
        assert_eq!(client_log.sent, [Ok(10_000)]);
        server.start_receive(at_server);
        turn_until(&mut server, &mut server_log, |log| log.received.len() == 10_000);
        assert_eq!(server_log.received, sent);
    }

    #[test]
    fn closing_cancels_what_is_in_flight_and_frees_the_slot() {
        let (mut server, at_server, mut client, at_client) = pair();
        server.start_receive(at_server);
        // More than the socket buffers hold, to a peer that does not read: stays in flight.
        server.send(at_server, SendBuf::whole(Bytes::from(vec![0; 64 << 20])));
        server.submit().expect("submit");
        server.close(at_server);
        let mut log = Log::default();
        turn_until(&mut server, &mut log, |log| !log.closed.is_empty());
        assert_eq!((server.open_slots(), log.closed), (0, vec![at_server]));
        assert!(log.ended.is_empty(), "a closing slot is not reported");
        client.start_receive(at_client);
        let mut log = Log::default();
        turn_until(&mut client, &mut log, |log| !log.ended.is_empty());
    }

    #[test]
    fn closing_one_of_many_lets_the_others_go_on() {
        let listener = listener();
        let mut server = SocketRing::new(&CONFIG).expect("ring");
        let mut client = SocketRing::for_clients(&CONFIG).expect("ring");
        server.start_accept(DOOR, listener.as_raw_fd(), false);
        let any = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
        let (mut server_log, mut client_log) = (Log::default(), Log::default());
        for slot in 0..3 {
            client.connect(Slot(slot), any, v4(&listener));
            turn_until(&mut client, &mut client_log, |log| log.connected.len() > slot as usize);
            turn_until(&mut server, &mut server_log, |log| log.accepted.len() > slot as usize);
        }
        let accepted = std::mem::take(&mut server_log.accepted);
        for &slot in &accepted {
            server.start_receive(slot);
            server.send(slot, SendBuf::whole(Bytes::from(vec![0; 64 << 20])));
        }
        server.submit().expect("submit");
        server.close(accepted[1]);
        turn_until(&mut server, &mut server_log, |log| !log.closed.is_empty());
        assert_eq!((server.open_slots(), &server_log.closed), (2, &vec![accepted[1]]));
        for slot in [0, 2] {
            client.send(Slot(slot), SendBuf::whole(Bytes::from_static(b"x")));
        }
        turn_until(&mut client, &mut client_log, |log| log.sent.len() == 2);
        turn_until(&mut server, &mut server_log, |log| log.received.len() == 2);
        assert_eq!((server_log.sent, server_log.ended), (vec![], vec![]));
    }

    #[test]
    fn a_refused_connect_reports_the_errno_and_frees_the_slot() {
        let refused = v4(&listener());
        let mut client = SocketRing::for_clients(&CONFIG).expect("ring");
        client.connect(Slot(0), SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0), refused);
        let mut log = Log::default();
        turn_until(&mut client, &mut log, |log| !log.closed.is_empty());
        assert_eq!(log.connected, [(Slot(0), libc::ECONNREFUSED)]);
        assert_eq!(client.open_slots(), 0);
    }

    #[test]
    fn a_full_table_stops_the_accept_and_a_freed_slot_lets_it_go_on() {
        let listener = listener();
        let mut server = SocketRing::new(&CONFIG).expect("ring");
        let mut client = SocketRing::for_clients(&SocketRingConfig { table_entries: 32, ..CONFIG })
            .expect("ring");
        server.start_accept(DOOR, listener.as_raw_fd(), false);
        let any = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
        for slot in 0..9 {
            client.connect(Slot(slot), any, v4(&listener));
        }
        let (mut server_log, mut client_log) = (Log::default(), Log::default());
        turn_until(&mut client, &mut client_log, |log| log.connected.len() == 9);
        turn_until(&mut server, &mut server_log, |log| !log.accept_stopped.is_empty());
        assert_eq!(server_log.accepted.len(), 8);
        assert_eq!(server_log.accept_stopped, [libc::ENFILE]);
        assert!(!server.is_accepting(DOOR));
        server.close(server_log.accepted[0]);
        turn_until(&mut server, &mut server_log, |log| !log.closed.is_empty());
        server.start_accept(DOOR, listener.as_raw_fd(), false);
        client.connect(Slot(20), any, v4(&listener));
        turn_until(&mut client, &mut client_log, |log| log.connected.len() == 10);
        turn_until(&mut server, &mut server_log, |log| log.accepted.len() == 9);
    }

    #[test]
    fn each_client_is_told_with_its_door_and_doors_close_one_by_one() {
        let listeners = [listener(), listener()];
        let mut server = SocketRing::new(&CONFIG).expect("ring");
        let mut client = SocketRing::for_clients(&CONFIG).expect("ring");
        let any = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
        let mut accepted = Vec::new();
        let mut stopped = Vec::new();
        for (door, listener) in (0..).map(Door).zip(&listeners) {
            server.start_accept(door, listener.as_raw_fd(), false);
            client.connect(Slot(door.0.into()), any, v4(listener));
        }
        let mut log = Log::default();
        turn_until(&mut client, &mut log, |log| log.connected.len() == 2);
        while accepted.len() < 2 || stopped.is_empty() {
            server.submit_and_wait().expect("submit");
            server.reap(64, |event| match event {
                Event::Accepted(_, door, _) => accepted.push(door),
                Event::AcceptStopped(door, errno) => stopped.push((door, errno)),
                other => panic!("{other:?}"),
            });
            if accepted.len() == 2 {
                server.stop_accept(Door(1));
            }
        }
        accepted.sort_by_key(|door| door.0);
        assert_eq!(accepted, [Door(0), Door(1)]);
        assert_eq!(stopped, [(Door(1), libc::ECANCELED)]);
        assert!(server.is_accepting(Door(0)) && !server.is_accepting(Door(1)));
    }

    #[test]
    fn addresses_are_learnt_where_they_are_asked_for_and_accepting_changes_over_to_it() {
        let listener = listener();
        let sizes = SocketRingConfig { table_entries: 400, ..CONFIG };
        let mut server = SocketRing::new(&sizes).expect("ring");
        let mut client = SocketRing::for_clients(&sizes).expect("ring");
        let mut slots = (0..).map(Slot);
        for learns in [false, true, false, true] {
            server.start_accept(DOOR, listener.as_raw_fd(), learns);
            assert_eq!(server.learns_addresses(DOOR), learns);
            let (mut addresses, mut stopped) = (Vec::new(), None);
            // Together more than are armed at once, and no more than the backlog holds at a time.
            for lot in 0..2u8 {
                let mut log = Log::default();
                for host in 1..=40 {
                    let from = SocketAddrV4::new(Ipv4Addr::new(127, 0, lot, host), 0);
                    client.connect(slots.next().expect("endless"), from, v4(&listener));
                }
                turn_until(&mut client, &mut log, |log| log.connected.len() == 40);
                assert!(log.connected.iter().all(|(_, errno)| *errno == 0));
                while addresses.len() < 40 * (usize::from(lot) + 1) {
                    server.submit_and_wait().expect("submit");
                    server.reap(256, |event| match event {
                        Event::Accepted(_, _, address) => addresses.push(address),
                        other => panic!("{other:?}"),
                    });
                }
            }
            server.stop_accept(DOOR);
            while stopped.is_none() {
                server.submit_and_wait().expect("submit");
                server.reap(256, |event| match event {
                    Event::AcceptStopped(_, errno) => stopped = Some(errno),
                    other => panic!("{other:?}"),
                });
            }
            assert_eq!((stopped, server.is_accepting(DOOR)), (Some(libc::ECANCELED), false));
            let known: std::collections::BTreeSet<_> = addresses.iter().flatten().collect();
            assert_eq!(known.len(), if learns { 80 } else { 0 });
        }
    }

    #[test]
    fn the_address_of_a_client_can_be_learnt_later_and_the_socket_goes_on() {
        let (mut server, at_server, mut client, at_client) = pair();
        server.start_receive(at_server);
        if !server.learn_peer(at_server) {
            assert!(!server.can_install);
            return; // Linux before 6.8
        }
        let mut log = Log::default();
        turn_until(&mut server, &mut log, |log| !log.peers.is_empty());
        assert_eq!(log.peers, [Ok(Ipv4Addr::new(127, 0, 0, 9).into())]);
        client.send(at_client, SendBuf::whole(Bytes::from_static(b"x")));
        client.submit().expect("submit");
        turn_until(&mut server, &mut log, |log| log.received == b"x");
        // One that is closing is not reported, and its slot is free afterwards.
        assert!(server.learn_peer(at_server));
        server.close(at_server);
        turn_until(&mut server, &mut log, |log| !log.closed.is_empty());
        assert_eq!((server.open_slots(), log.peers.len()), (0, 1));
        let mut log = Log::default();
        client.start_receive(at_client);
        // No descriptor of it is left, or the client would not be told.
        turn_until(&mut client, &mut log, |log| !log.ended.is_empty());
    }

    #[test]
    fn a_name_that_the_kernel_has_written_is_an_address_of_either_kind() {
        let mut name = PeerName::unwritten();
        assert_eq!(name.address(), None);
        name.family = libc::AF_INET as u16;
        name.rest[2..6].copy_from_slice(&[192, 0, 2, 1]);
        assert_eq!(name.address(), Some(Ipv4Addr::new(192, 0, 2, 1).into()));
        name.family = libc::AF_INET6 as u16;
        let address = Ipv6Addr::new(0x2001, 0xdb8, 1, 2, 3, 4, 5, 6);
        name.rest[6..22].copy_from_slice(&address.octets());
        assert_eq!(name.address(), Some(address.into()));
    }

    #[test]
    fn more_operations_than_the_queue_holds_wait_their_turn() {
        let listener = listener();
        let sizes = SocketRingConfig { table_entries: 200, ..CONFIG };
        let mut server = SocketRing::new(&sizes).expect("ring");
        let mut client = SocketRing::for_clients(&sizes).expect("ring");
        server.start_accept(DOOR, listener.as_raw_fd(), false);
        let any = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
        let (mut server_log, mut client_log) = (Log::default(), Log::default());
        for slot in 0..200 {
            client.connect(Slot(slot), any, v4(&listener));
            turn_until(&mut client, &mut client_log, |log| log.connected.len() > slot as usize);
            turn_until(&mut server, &mut server_log, |log| log.accepted.len() > slot as usize);
        }
        // 200 sends and receives meet a submission queue of 64 entries.
        for &slot in &server_log.accepted {
            server.send(slot, SendBuf::whole(Bytes::from_static(b"x")));
            server.start_receive(slot);
        }
        turn_until(&mut server, &mut server_log, |log| log.sent.len() == 200);
        assert!(server_log.sent.iter().all(|sent| *sent == Ok(1)));
    }

    #[test]
    fn a_ring_that_serves_opens_nothing() {
        let mut ring = SocketRing::new(&CONFIG).expect("ring");
        for refused in [
            opcode::Nop::new().build(),
            opcode::Socket::new(libc::AF_INET, libc::SOCK_STREAM, 0).build(),
            opcode::OpenAt::new(Fd(libc::AT_FDCWD), c"/etc/hosts".as_ptr()).build(),
        ] {
            ring.push(refused);
            ring.ring.submit_and_wait(1).expect("submitted");
            let entry = ring.ring.completion().next().expect("has been waited for");
            assert_eq!(entry.result(), -libc::EACCES);
        }
        let again = ring.ring.submitter().register_files_sparse(8).expect_err("not any more");
        assert_eq!(again.raw_os_error(), Some(libc::EACCES));
    }

    #[test]
    fn a_send_larger_than_the_socket_buffer_ends_when_all_of_it_was_taken() {
        let (mut server, at_server, mut client, at_client) = pair();
        const BYTES: usize = 8 << 20;
        server.send(at_server, SendBuf::whole(Bytes::from(vec![7; BYTES])));
        server.submit().expect("submit");
        client.start_receive(at_client);
        let (mut server_log, mut client_log) = (Log::default(), Log::default());
        while client_log.received.len() < BYTES {
            client.submit().expect("submit");
            client.reap(64, |event| client_log.take(event));
            server.submit().expect("submit");
            server.reap(64, |event| server_log.take(event));
        }
        turn_until(&mut server, &mut server_log, |log| !log.sent.is_empty());
        assert_eq!(server_log.sent, [Ok(BYTES as u32)]);
        assert!(client_log.received.iter().all(|&byte| byte == 7));
    }
}
