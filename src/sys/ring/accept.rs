//! Coming in: the doors of a ring, and where clients come from.
//!
//! A multishot takes in everybody and says of nobody where they are; who wants to know has one accept armed for
//! each client.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpStream};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use io_uring::opcode;
use io_uring::types::{DestinationSlot, Fd, Fixed};

use super::{Door, Event, Slot, SlotState, SocketRing, op, user_data};

/// Accepts that are armed at a door at once, where addresses are learnt: as many clients come in from one turn
/// to the next.
const ACCEPTS_AT_ONCE: u32 = 64;

/// How connections are being accepted at one door.
#[derive(Default)]
pub(super) struct Accept {
    pub(super) state: Accepting,
    /// Accepts of one client each that are armed; a multishot is none of them.
    singles: u32,
    /// Why they end.
    errno: i32,
    /// Where each of them has its client's address written. Made when first needed.
    peers: Box<[PeerName]>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Accepting {
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

impl SocketRing {
    /// Whether clients are accepted at `door`, or are until that has stopped.
    pub fn is_accepting(&self, door: Door) -> bool {
        self.accepts[usize::from(door.0)].state != Accepting::Stopped
    }

    /// Whether it learns where clients at `door` come from, who are being accepted.
    pub fn learns_addresses(&self, door: Door) -> bool {
        matches!(self.accepts[usize::from(door.0)].state, Accepting::Singles(_))
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

    pub(super) fn handle_single_accept(
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
}

/// The peer of the socket whose descriptor was installed with this `result`; the descriptor is given back.
pub(super) fn peer_of(result: i32) -> Result<IpAddr, i32> {
    if result < 0 {
        return Err(-result);
    }
    // SAFETY: the kernel has just made it, for us alone.
    let socket = TcpStream::from(unsafe { OwnedFd::from_raw_fd(result) });
    let peer = socket.peer_addr().map(|peer| peer.ip());
    peer.map_err(|error| error.raw_os_error().unwrap_or(libc::ENOTCONN))
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
