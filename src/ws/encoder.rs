//! Frames to a client: unmasked and unfragmented, so that one encoding serves every subscriber.

use bytes::Bytes;
use tungstenite::protocol::frame::FrameHeader;

use super::header::CONTROL_BYTES_MAX;
use super::{CloseCode, Control, Deflater, OpCode};

/// Longest header of a server frame, in bytes.
const HEADROOM_BYTES: usize = 10;
/// Longest reason that fits a close frame, in bytes.
const REASON_BYTES_MAX: usize = CONTROL_BYTES_MAX - size_of::<u16>();

/// Builds one frame around a payload that is written once, where it will be sent from: the header
/// goes into headroom left in front.
#[derive(Debug)]
pub struct FrameBuilder {
    opcode: OpCode,
    buffer: Vec<u8>,
}

impl FrameBuilder {
    /// A frame with room for `payload_bytes` before it has to grow.
    pub fn with_capacity(opcode: OpCode, payload_bytes: usize) -> Self {
        let mut buffer = Vec::with_capacity(HEADROOM_BYTES + payload_bytes);
        buffer.resize(HEADROOM_BYTES, 0);
        Self { opcode, buffer }
    }

    /// Where to append the payload. What is there already must stay.
    pub fn payload(&mut self) -> &mut Vec<u8> {
        &mut self.buffer
    }

    /// The frame, header and payload.
    pub fn finish(mut self) -> Bytes {
        let payload_bytes =
            self.buffer.len().checked_sub(HEADROOM_BYTES).expect("only appended to");
        let header = FrameHeader { opcode: self.opcode, ..FrameHeader::default() };
        let start = HEADROOM_BYTES - header.len(payload_bytes as u64);
        header
            .format(payload_bytes as u64, &mut &mut self.buffer[start..HEADROOM_BYTES])
            .expect("the headroom fits every header");
        Bytes::from(self.buffer).slice(start..)
    }
}

/// The same message in fewer bytes (RFC 7692), if its payload has `bytes_min` bytes at least and gets shorter.
/// `frame` is one that a [`FrameBuilder`] made.
pub fn deflated(frame: &[u8], bytes_min: usize, deflater: &mut Deflater) -> Option<Bytes> {
    let header_bytes = match frame[1] {
        126 => 4,
        127 => 10,
        _ => 2,
    };
    let payload = &frame[header_bytes..];
    if payload.len() < bytes_min {
        return None;
    }
    let deflated = deflater.deflate(payload)?;
    let header =
        FrameHeader { opcode: OpCode::from(frame[0] & 0x0f), rsv1: true, ..FrameHeader::default() };
    let mut bytes = Vec::with_capacity(HEADROOM_BYTES + deflated.len());
    header.format(deflated.len() as u64, &mut bytes).expect("writes into memory");
    bytes.extend_from_slice(&deflated);
    Some(bytes.into())
}

/// A ping; `payload` is at most 125 bytes.
pub fn ping_frame(payload: &[u8]) -> Bytes {
    control_frame(Control::Ping, &[payload])
}

/// The answer to a ping with `payload`, which is at most 125 bytes.
pub fn pong_frame(payload: &[u8]) -> Bytes {
    control_frame(Control::Pong, &[payload])
}

/// A close frame; a reason over 123 bytes is cut at a character's end.
pub fn close_frame(code: CloseCode, reason: &str) -> Bytes {
    let reason = &reason[..reason.floor_char_boundary(REASON_BYTES_MAX)];
    control_frame(Control::Close, &[&u16::from(code).to_be_bytes(), reason.as_bytes()])
}

fn control_frame(control: Control, payload: &[&[u8]]) -> Bytes {
    let payload_bytes = payload.iter().map(|part| part.len()).sum();
    assert!(payload_bytes <= CONTROL_BYTES_MAX, "control frame over 125 bytes");
    let mut frame = FrameBuilder::with_capacity(OpCode::Control(control), payload_bytes);
    payload.iter().for_each(|part| frame.payload().extend_from_slice(part));
    frame.finish()
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Read, Write};
    use std::ops::ControlFlow;

    use tungstenite::protocol::Role;
    use tungstenite::{Message, WebSocket};

    use super::super::{Data, Decoder, Event};
    use super::*;

    /// A client's stream: it reads what the server sent and keeps what the client writes.
    struct Stream {
        from_server: Cursor<Vec<u8>>,
        to_server: Vec<u8>,
    }

    impl Read for Stream {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            self.from_server.read(buffer)
        }
    }

    impl Write for Stream {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.to_server.write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn client(from_server: &[Bytes]) -> WebSocket<Stream> {
        let stream =
            Stream { from_server: Cursor::new(from_server.concat()), to_server: Vec::new() };
        WebSocket::from_raw_socket(stream, Role::Client, None)
    }

    fn text_frame(text: &str) -> Bytes {
        let mut frame = FrameBuilder::with_capacity(OpCode::Data(Data::Text), 0);
        frame.payload().extend_from_slice(text.as_bytes());
        frame.finish()
    }

    #[test]
    fn tungstenite_reads_what_we_send() {
        let long = "x".repeat(70_000);
        let texts = ["", "hello", &long[..125], &long[..126], &long[..65_535], &long];
        let mut frames: Vec<Bytes> = texts.iter().map(|text| text_frame(text)).collect();
        frames.push(pong_frame(b"pong"));
        frames.push(close_frame(CloseCode::Away, "bye"));
        let mut client = client(&frames);
        for text in texts {
            assert_eq!(client.read().unwrap(), Message::text(text));
        }
        assert_eq!(client.read().unwrap(), Message::Pong("pong".into()));
        let Message::Close(Some(close)) = client.read().unwrap() else { panic!("not a close") };
        assert_eq!((close.code, close.reason.as_str()), (CloseCode::Away, "bye"));
    }

    #[test]
    fn we_read_what_tungstenite_sends() {
        let long = "y".repeat(70_000);
        let mut client = client(&[]);
        client.send(Message::text("hello")).unwrap();
        client.send(Message::binary(long.clone())).unwrap();
        client.send(Message::Ping("ping".into())).unwrap();
        client.close(None).unwrap();
        let mut seen = Vec::new();
        let mut decoder = Decoder::new();
        for chunk in client.get_mut().to_server.chunks_mut(1000) {
            let mut on_event = |event: Event<'_>| {
                seen.push(match event {
                    Event::Text(text) => text.to_owned(),
                    Event::Binary(bytes) => format!("{} bytes", bytes.len()),
                    other => format!("{other:?}"),
                });
                ControlFlow::Continue(())
            };
            decoder.handle_bytes(chunk, 1 << 20, &mut on_event).unwrap();
        }
        let ping = format!("{:?}", Event::Ping(b"ping"));
        let close = format!("{:?}", Event::Close { code: None, reason: "" });
        assert_eq!(seen, ["hello", "70000 bytes", &ping, &close]);
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let frame = close_frame(CloseCode::Protocol, &"é".repeat(100));
        assert_eq!(frame[1], 2 + 122);
        assert!(std::str::from_utf8(&frame[4..]).is_ok());
    }
}
