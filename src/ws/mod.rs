//! RFC 6455, the server's side: handshake, frames in, frames out; and RFC 7692. No I/O.
//!
//! Owns what a byte on a WebSocket means. Knows nothing of HTTP beyond the header values that it is
//! handed, and nothing of what a payload says.

mod decoder;
mod deflate;
mod encoder;
pub mod handshake;
mod header;
mod mask;

pub use decoder::{DecodeError, Decoder, Event};
pub use deflate::{Deflater, Window};
pub use encoder::{FrameBuilder, close_frame, deflated, ping_frame, pong_frame};
pub use tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};
