//! Going out: a socket that is made, bound and connected on the ring. For load generators and tests; a ring that
//! serves has given this up.

use std::net::SocketAddrV4;

use io_uring::types::{DestinationSlot, Fixed};
use io_uring::{opcode, squeue};

use super::{Slot, SlotState, SocketRing, op, user_data};

/// Entries of a connect before the connect itself.
const CONNECT_STEPS: usize = 3;

/// The kernel reads socket option values from here.
static ONE: libc::c_int = 1;

impl SocketRing {
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
}

fn sockaddr(address: SocketAddrV4) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: address.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from(*address.ip()).to_be() },
        sin_zero: [0; 8],
    }
}
