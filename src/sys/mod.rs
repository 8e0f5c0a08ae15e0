//! System calls behind safe functions; the only module that may say `unsafe`.
//!
//! [`ring`] is the socket ring that carries all client traffic, [`chunk`] the memory that sends read
//! from, [`listener`] makes the sockets that rings accept from, [`probe`] finds out what the kernel lacks,
//! [`host`] what the process may have.
#![allow(unsafe_code)]

mod buffers;
pub mod chunk;
pub mod clock;
mod eventfd;
pub mod host;
pub mod listener;
pub mod probe;
pub mod ring;
pub mod rusage;

pub use chunk::{Chunk, SendBuf};
pub use eventfd::EventFd;
pub use ring::{DOORS, Door, Event, ReceiveEnd, Slot, SocketRing, SocketRingConfig};
