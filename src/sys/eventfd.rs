//! The eventfd through which a sleeping executor learns of completions on the socket ring.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};

/// A counter that the kernel signals; a read of 8 bytes waits until it was.
pub struct EventFd(OwnedFd);

impl EventFd {
    /// Makes one with the counter at zero.
    pub fn new() -> io::Result<EventFd> {
        // SAFETY: eventfd takes no pointers; it returns a descriptor or -1.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` was just made and is owned by nobody else.
        Ok(EventFd(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// A second descriptor of the same eventfd, as the type of file that its reader works with.
    pub fn reader<File: FromRawFd>(&self) -> io::Result<File> {
        let fd = self.0.try_clone()?.into_raw_fd();
        // SAFETY: `fd` is open and was just given up by its only owner.
        Ok(unsafe { File::from_raw_fd(fd) })
    }
}

impl AsRawFd for EventFd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
