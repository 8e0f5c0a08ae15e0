//! Memory that the kernel reads while we append to it.
//!
//! A [`Chunk`] only ever grows at its end and never moves, so the bytes that a send in flight points
//! to cannot change under it. Sockets share a chunk by reference count; nothing is copied for one.

use std::cell::{Cell, UnsafeCell};
use std::mem::MaybeUninit;
use std::rc::Rc;

use bytes::Bytes;

enum Store {
    /// A frame that came from the core that encoded it; full from the start.
    Shared(Bytes),
    /// Frames that arrived together, laid out one behind the other.
    Own(Box<[UnsafeCell<MaybeUninit<u8>>]>),
}

/// An append-only run of bytes of fixed capacity, below 4 GiB.
pub struct Chunk {
    store: Store,
    len: Cell<u32>,
}

impl Chunk {
    /// A chunk that holds exactly `bytes` and takes no more.
    pub fn shared(bytes: Bytes) -> Rc<Chunk> {
        let len = u32::try_from(bytes.len()).expect("frames are bounded far below 4 GiB");
        Rc::new(Chunk { store: Store::Shared(bytes), len: Cell::new(len) })
    }

    /// An empty chunk with room for `capacity` bytes.
    pub fn with_capacity(capacity: u32) -> Rc<Chunk> {
        let mut cells = Vec::new();
        cells.resize_with(capacity as usize, || UnsafeCell::new(MaybeUninit::uninit()));
        Rc::new(Chunk { store: Store::Own(cells.into_boxed_slice()), len: Cell::new(0) })
    }

    /// Bytes written so far.
    pub fn len(&self) -> u32 {
        self.len.get()
    }

    /// Whether nothing was written yet.
    pub fn is_empty(&self) -> bool {
        self.len.get() == 0
    }

    /// Bytes that [`append`](Self::append) can still take.
    pub fn room(&self) -> u32 {
        match &self.store {
            Store::Shared(_) => 0,
            Store::Own(cells) => cells.len() as u32 - self.len.get(),
        }
    }

    /// Appends `bytes`; the caller has made sure that they fit into [`room`](Self::room).
    pub fn append(&self, bytes: &[u8]) {
        assert!(bytes.len() <= self.room() as usize, "appended past a chunk's capacity");
        let Store::Own(cells) = &self.store else { return };
        let at = self.len.get() as usize;
        let target = cells[at..at + bytes.len()].as_ptr().cast::<u8>().cast_mut();
        // SAFETY: the target lies inside `cells`, behind `len`, where no reader looks yet; the cells
        // are `UnsafeCell`, so writing through a shared reference is allowed, and `Rc` keeps this to
        // one thread. `bytes` cannot overlap: safe code never sees the part behind `len`.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), target, bytes.len()) };
        self.len.set((at + bytes.len()) as u32);
    }

    /// The bytes of `start..end`, which must have been written.
    pub fn bytes(&self, start: u32, end: u32) -> &[u8] {
        assert!(start <= end && end <= self.len.get(), "read past a chunk's end");
        match &self.store {
            Store::Shared(bytes) => &bytes[start as usize..end as usize],
            Store::Own(cells) => {
                let cells = &cells[start as usize..end as usize];
                // SAFETY: bytes below `len` are initialised and are never written again.
                unsafe { std::slice::from_raw_parts(cells.as_ptr().cast::<u8>(), cells.len()) }
            }
        }
    }
}

/// A range of a chunk on its way to a socket; keeps the chunk alive until the kernel is done with it.
pub struct SendBuf {
    chunk: Rc<Chunk>,
    start: u32,
    end: u32,
    sent: u32,
}

impl SendBuf {
    /// The bytes `start..end` of `chunk`; panics when they were not written yet or are none.
    pub fn new(chunk: &Rc<Chunk>, start: u32, end: u32) -> SendBuf {
        assert!(start < end && end <= chunk.len(), "a send needs bytes that were written");
        SendBuf { chunk: Rc::clone(chunk), start, end, sent: 0 }
    }

    /// All of `bytes`, which must not be empty.
    pub fn whole(bytes: Bytes) -> SendBuf {
        let chunk = Chunk::shared(bytes);
        let end = chunk.len();
        SendBuf::new(&chunk, 0, end)
    }

    /// Bytes of the whole range, never zero.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> u32 {
        self.end - self.start
    }

    /// What the kernel has not taken yet.
    pub fn unsent(&self) -> &[u8] {
        self.chunk.bytes(self.start + self.sent, self.end)
    }

    /// Notes that the kernel took `sent` more bytes, and returns how many are left.
    pub fn advance(&mut self, sent: u32) -> u32 {
        self.sent += sent;
        assert!(self.sent <= self.len(), "the kernel sent more than was given to it");
        self.len() - self.sent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_send_sees_its_bytes_while_the_chunk_grows() {
        let chunk = Chunk::with_capacity(8);
        chunk.append(b"abc");
        let mut send = SendBuf::new(&chunk, 1, 3);
        chunk.append(b"defgh");
        assert_eq!(send.unsent(), b"bc");
        assert_eq!(chunk.bytes(0, 8), b"abcdefgh");
        assert_eq!(chunk.room(), 0);
        assert_eq!((send.advance(1), send.unsent(), send.len()), (1, &b"c"[..], 2));
    }

    #[test]
    fn a_shared_chunk_is_full() {
        let chunk = Chunk::shared(Bytes::from_static(b"frame"));
        assert_eq!((chunk.len(), chunk.room()), (5, 0));
        assert_eq!(SendBuf::new(&chunk, 0, 5).advance(5), 0);
    }

    #[test]
    #[should_panic(expected = "past a chunk's capacity")]
    fn appending_past_the_capacity_is_our_own_mistake() {
        Chunk::with_capacity(2).append(b"abc");
    }
}
