//! RFC 6455, the server's side: handshake, frames in, frames out. No I/O and no extensions.
//!
//! Owns what a byte on a WebSocket means. Knows nothing of HTTP beyond the header values that it is
//! handed, and nothing of what a payload says.

mod decoder;
mod encoder;
pub mod handshake;
mod header;
mod mask;

pub use decoder::{DecodeError, Decoder, Event};
pub use encoder::{FrameBuilder, close_frame, ping_frame, pong_frame};
pub use tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};
