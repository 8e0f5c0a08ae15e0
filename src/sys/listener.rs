//! Listening sockets: one per ring, all on one address, the kernel spreads connections over them.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use socket2::{Domain, Protocol, Socket, Type};

/// Options of client sockets. Accepted sockets inherit them from the listener, so that no call per
/// connection is needed.
#[derive(Clone, Debug)]
pub struct ListenerConfig {
    /// `SO_SNDBUF` in bytes (the kernel doubles it); what one stalled reader can pin in the kernel.
    pub send_buffer_bytes: u32,
    /// `TCP_NOTSENT_LOWAT` in bytes: beyond this much unsent data the socket counts as not writable.
    pub notsent_lowat_bytes: u32,
    /// Length of the queue of connections that wait for accept; `net.core.somaxconn` caps it.
    pub backlog: u16,
}

/// A bound and listening socket, with its real address when port 0 was asked for.
pub struct Listener {
    socket: Socket,
    address: SocketAddr,
}

impl Listener {
    /// Binds with `SO_REUSEPORT`, so that every ring can have a listener of its own.
    pub fn bind(address: SocketAddr, config: &ListenerConfig) -> io::Result<Listener> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        set_client_options(&socket, config)?;
        socket.bind(&address.into())?;
        socket.listen(i32::from(config.backlog))?;
        let address = socket.local_addr()?.as_socket().expect("bound to an internet address");
        Ok(Listener { socket, address })
    }

    /// Takes over a socket that somebody else has bound and that listens already. `fd` is closed: its
    /// number is not to be used again.
    ///
    /// # Errors
    /// The descriptor is no listening TCP socket, or an option is refused.
    pub fn inherit(fd: RawFd, config: &ListenerConfig) -> io::Result<Listener> {
        // SAFETY: kept only for the call, which fails for a number that is no open descriptor.
        let own = unsafe { BorrowedFd::borrow_raw(fd) }.try_clone_to_owned()?;
        // SAFETY: it is open, as was just seen, and whoever calls gives it up.
        drop(unsafe { OwnedFd::from_raw_fd(fd) });
        let socket = Socket::from(own);
        let refused = |text| io::Error::new(io::ErrorKind::InvalidInput, text);
        if socket.r#type()? != Type::STREAM {
            return Err(refused("it is no stream socket"));
        }
        let Some(address) = socket.local_addr()?.as_socket() else {
            return Err(refused("it is bound to no internet address"));
        };
        if !socket.is_listener()? {
            return Err(refused("it does not listen; a socket unit wants Accept=no"));
        }
        // A ring waits by itself; a socket that must not wait would have every accept fail.
        socket.set_nonblocking(false)?;
        set_client_options(&socket, config)?;
        socket.listen(i32::from(config.backlog))?;
        Ok(Listener { socket, address })
    }

    /// A second descriptor of the same socket, with the same queue of clients.
    pub fn share(&self) -> io::Result<Listener> {
        Ok(Listener { socket: self.socket.try_clone()?, address: self.address })
    }

    /// The address it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Turns it into a plain descriptor.
    pub fn into_fd(self) -> OwnedFd {
        self.socket.into()
    }
}

impl AsRawFd for Listener {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

fn set_client_options(socket: &Socket, config: &ListenerConfig) -> io::Result<()> {
    // A publish is one small write per client; Nagle would hold it for the client's delayed ACK.
    socket.set_tcp_nodelay(true)?;
    socket.set_send_buffer_size(config.send_buffer_bytes as usize)?;
    set_notsent_lowat(socket, config.notsent_lowat_bytes)
}

fn set_notsent_lowat(socket: &Socket, bytes: u32) -> io::Result<()> {
    let value = (&raw const bytes).cast::<libc::c_void>();
    let len = size_of::<u32>() as libc::socklen_t;
    let (level, name) = (libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT);
    // SAFETY: `bytes` outlives the call, and the kernel reads exactly `len` bytes of it.
    match unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, value, len) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
