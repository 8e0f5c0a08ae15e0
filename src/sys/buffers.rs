//! The provided-buffer ring: one pool of receive buffers for all sockets of a ring.
//!
//! An idle socket holds no buffer; the kernel takes one when bytes arrive and we give it back as soon
//! as they were looked at.

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::{Submitter, types::BufRingEntry};

/// The one buffer group of a ring.
pub(super) const GROUP: u16 = 0;

/// Pages from the kernel, page-aligned and zeroed on first touch.
struct Pages {
    base: NonNull<u8>,
    len: usize,
}

impl Pages {
    fn map(len: usize) -> io::Result<Pages> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: an anonymous mapping at an address of the kernel's choice touches no memory of ours.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Pages { base: NonNull::new(base.cast()).expect("mmap never returns null"), len })
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: `base` and `len` are those of one successful mmap, unmapped once.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

/// `count` buffers of `buffer_bytes` each. Must outlive the ring it is registered with.
pub(super) struct BufferRing {
    entries: Pages,
    buffers: Pages,
    count: u16,
    buffer_bytes: u32,
    tail: u16,
}

impl BufferRing {
    /// Maps and registers the pool; `count` is a power of two up to 32,768.
    pub(super) fn register(
        submitter: &Submitter<'_>,
        count: u16,
        buffer_bytes: u32,
    ) -> io::Result<BufferRing> {
        assert!(count.is_power_of_two(), "the kernel wants a power of two");
        let entries = Pages::map(usize::from(count) * size_of::<BufRingEntry>())?;
        let buffers = Pages::map(usize::from(count) * buffer_bytes as usize)?;
        let address = entries.base.as_ptr() as u64;
        // SAFETY: the mapping is large enough for `count` entries, and the owner of this value drops
        // the ring first (see `SocketRing`), so it stays valid while registered.
        unsafe { submitter.register_buf_ring_with_flags(address, count, GROUP, 0)? };
        let mut ring = BufferRing { entries, buffers, count, buffer_bytes, tail: 0 };
        for id in 0..count {
            ring.recycle(id);
        }
        Ok(ring)
    }

    /// The first `len` bytes of buffer `id`, which the kernel has handed to us.
    pub(super) fn bytes(&mut self, id: u16, len: usize) -> &mut [u8] {
        assert!(id < self.count, "the kernel named a buffer that was never given to it");
        assert!(len <= self.buffer_bytes as usize, "the kernel wrote past a buffer");
        let offset = usize::from(id) * self.buffer_bytes as usize;
        // SAFETY: `offset` lies inside the mapping, as `id` is below `count`.
        let start = unsafe { self.buffers.base.as_ptr().add(offset) };
        // SAFETY: the range lies inside the mapping (asserted above), is initialised (anonymous pages
        // are zeroed), and the kernel does not write to it again until `recycle`.
        unsafe { std::slice::from_raw_parts_mut(start, len) }
    }

    /// Gives buffer `id` back to the kernel.
    pub(super) fn recycle(&mut self, id: u16) {
        let base = self.entries.base.as_ptr().cast::<BufRingEntry>();
        let index = usize::from(self.tail & (self.count - 1));
        // SAFETY: `index` is below `count`, the number of entries in the mapping.
        let entry = unsafe { base.add(index) };
        // SAFETY: the entry is initialised (zeroed) and ours to write until the tail covers it.
        let entry = unsafe { &mut *entry };
        let offset = usize::from(id) * self.buffer_bytes as usize;
        entry.set_addr(self.buffers.base.as_ptr() as u64 + offset as u64);
        entry.set_len(self.buffer_bytes);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: `base` is the start of a registered buffer ring.
        let tail = unsafe { BufRingEntry::tail(base) }.cast::<AtomicU16>();
        // SAFETY: the tail lies inside the first entry, is aligned for an `AtomicU16`, and is only
        // ever accessed atomically.
        let tail = unsafe { &*tail };
        // Release: the kernel must see the entry before it sees the tail that covers it.
        tail.store(self.tail, Ordering::Release);
    }
}
