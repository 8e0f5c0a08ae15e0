//! Bytes from a client become messages and control frames.
//!
//! A frame that is whole in the receive buffer is unmasked where it lies and handed out as a slice of
//! it. Only what is cut by a buffer's end or by fragmentation is gathered on the heap, for as long
//! as it is incomplete: an idle decoder holds nothing.

use std::fmt;
use std::mem;
use std::ops::ControlFlow;
use std::str;

use super::deflate::{Window, inflate};
use super::header::{self, CONTROL_BYTES_MAX, HEADER_BYTES_MAX, Header};
use super::mask::unmask;
use super::{CloseCode, Control, Data, OpCode};

/// What a client has sent, complete and unmasked.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A text message.
    Text(&'a str),
    /// A binary message.
    Binary(&'a [u8]),
    /// A ping of at most 125 bytes, to be answered by a pong with the same payload.
    Ping(&'a [u8]),
    /// A pong of at most 125 bytes, asked for or not.
    Pong(&'a [u8]),
    /// The closing handshake: nothing follows it, and a close frame is owed unless one was sent.
    Close {
        /// Absent if the frame was empty; otherwise a code that may appear on the wire.
        code: Option<CloseCode>,
        /// At most 123 bytes.
        reason: &'a str,
    },
}

/// Why a transport has to be failed (RFC 6455 §7.1.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// A frame breaks the rule that the text names.
    Protocol(&'static str),
    /// A text message or a close reason is not UTF-8.
    InvalidUtf8,
    /// A message announces more bytes than are allowed.
    TooBig {
        /// The bound that it breaks.
        payload_bytes_max: usize,
    },
}

impl DecodeError {
    /// The code to close with.
    pub fn close_code(&self) -> CloseCode {
        match self {
            Self::Protocol(_) => CloseCode::Protocol,
            Self::InvalidUtf8 => CloseCode::Invalid,
            Self::TooBig { .. } => CloseCode::Size,
        }
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Protocol(rule) => f.write_str(rule),
            Self::InvalidUtf8 => f.write_str("invalid UTF-8"),
            Self::TooBig { payload_bytes_max } => {
                write!(f, "message over {payload_bytes_max} bytes")
            }
        }
    }
}

impl std::error::Error for DecodeError {}

/// Decodes what one transport receives.
#[derive(Debug, Default)]
pub struct Decoder {
    /// Present only between the first and the last byte of something incomplete.
    partial: Option<Box<Partial>>,
    /// The window of what goes the other way, where it was agreed that messages may be compressed.
    window: Option<Window>,
    /// Set by a close frame, an error or a callback that broke off: nothing counts any more.
    has_ended: bool,
}

#[derive(Debug, Default)]
struct Partial {
    /// The start of a header, `header_len` bytes of it; empty while `frame` is set.
    header: [u8; HEADER_BYTES_MAX],
    header_len: usize,
    /// The frame whose payload is arriving.
    frame: Option<OpenFrame>,
    /// The payload so far of the control frame that is arriving.
    control: Vec<u8>,
    /// The data message that is arriving, which control frames may interrupt.
    message: Option<Message>,
}

#[derive(Debug)]
struct OpenFrame {
    is_final: bool,
    /// `None` for a frame of `Partial::message`.
    control: Option<Control>,
    /// Turned to fit the next byte.
    mask: [u8; 4],
    missing_bytes: usize,
}

#[derive(Debug)]
struct Message {
    is_text: bool,
    is_deflated: bool,
    /// Grows with what arrives, not with what is announced: a peer pays for memory with bytes.
    payload: Vec<u8>,
    /// In a text, the length of the prefix known to be UTF-8; what follows it is at most the start
    /// of one character.
    utf8_bytes: usize,
}

impl Decoder {
    /// A decoder for a transport whose handshake is complete.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same, where messages may come compressed if a `window` was agreed upon.
    #[must_use]
    pub fn inflating(self, window: Option<Window>) -> Self {
        Decoder { window, ..self }
    }

    /// The window of what the client is sent compressed, if messages may be.
    pub fn window(&self) -> Option<Window> {
        self.window
    }

    /// Decodes `bytes`, overwriting them, and calls `on_event` with all that they complete, in order.
    ///
    /// A message of more than `payload_bytes_max` bytes is an error as soon as it is announced, or that many
    /// bytes of it were inflated. Once
    /// this has returned an error, `on_event` has returned `Break`, or a close frame has come, further
    /// bytes are ignored.
    pub fn handle_bytes(
        &mut self,
        bytes: &mut [u8],
        payload_bytes_max: usize,
        on_event: &mut impl FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<(), DecodeError> {
        if self.has_ended {
            return Ok(());
        }
        let outcome = self.decode(bytes, payload_bytes_max, on_event);
        if !matches!(outcome, Ok(ControlFlow::Continue(()))) {
            self.has_ended = true;
            self.partial = None;
        } else if self.partial.as_ref().is_some_and(|partial| partial.is_idle()) {
            self.partial = None;
        }
        outcome.map(|_| ())
    }

    fn decode(
        &mut self,
        mut bytes: &mut [u8],
        payload_bytes_max: usize,
        on_event: &mut impl FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, DecodeError> {
        while !bytes.is_empty() {
            let (flow, used_bytes) = match &mut self.partial {
                Some(partial) if partial.frame.is_some() => {
                    partial.handle_payload(bytes, payload_bytes_max, on_event)?
                }
                Some(partial) if partial.header_len > 0 => {
                    let inflates = self.window.is_some();
                    let used_bytes = partial.handle_header(bytes, payload_bytes_max, inflates)?;
                    (ControlFlow::Continue(()), used_bytes)
                }
                Some(_) | None => self.handle_frame(bytes, payload_bytes_max, on_event)?,
            };
            if flow.is_break() {
                return Ok(flow);
            }
            bytes = &mut bytes[used_bytes..];
        }
        // An empty frame whose header ended the last buffer has no payload to wait for.
        match &mut self.partial {
            Some(partial) if partial.frame.as_ref().is_some_and(|f| f.missing_bytes == 0) => {
                Ok(partial.handle_payload(&mut [], payload_bytes_max, on_event)?.0)
            }
            Some(_) | None => Ok(ControlFlow::Continue(())),
        }
    }

    /// At a frame's start: hands out a whole one, or notes down what there is of it.
    fn handle_frame(
        &mut self,
        bytes: &mut [u8],
        payload_bytes_max: usize,
        on_event: &mut impl FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<(ControlFlow<()>, usize), DecodeError> {
        let Some((header, header_bytes)) = header::decode(bytes)? else {
            let partial = self.partial.get_or_insert_default();
            partial.header[..bytes.len()].copy_from_slice(bytes);
            partial.header_len = bytes.len();
            return Ok((ControlFlow::Continue(()), bytes.len()));
        };
        check_compression(&header, self.window.is_some())?;
        let message = self.partial.as_ref().and_then(|partial| partial.message.as_ref());
        let payload_bytes = check_sequence(&header, message, payload_bytes_max)?;
        let frame_bytes = header_bytes + payload_bytes;
        let is_message = header.is_final && message.is_none();
        let is_control = matches!(header.opcode, OpCode::Control(_));
        if (is_message || is_control) && frame_bytes <= bytes.len() {
            let payload = &mut bytes[header_bytes..frame_bytes];
            let mut mask = header.mask;
            unmask(payload, &mut mask);
            let flow = match header.opcode {
                OpCode::Control(control) => control_event(control, payload, on_event)?,
                OpCode::Data(data) if header.is_deflated => {
                    let inflated = inflate(payload, payload_bytes_max)?;
                    data_event(data == Data::Text, &inflated, on_event)?
                }
                OpCode::Data(data) => data_event(data == Data::Text, payload, on_event)?,
            };
            return Ok((flow, frame_bytes));
        }
        self.partial.get_or_insert_default().open(&header, payload_bytes);
        Ok((ControlFlow::Continue(()), header_bytes))
    }
}

impl Partial {
    fn is_idle(&self) -> bool {
        self.header_len == 0 && self.frame.is_none() && self.message.is_none()
    }

    /// Takes what is missing of the header; returns how many of `bytes` belong to it.
    fn handle_header(
        &mut self,
        bytes: &[u8],
        payload_bytes_max: usize,
        inflates: bool,
    ) -> Result<usize, DecodeError> {
        let known_bytes = self.header_len;
        let copied_bytes = bytes.len().min(HEADER_BYTES_MAX - known_bytes);
        self.header_len += copied_bytes;
        self.header[known_bytes..self.header_len].copy_from_slice(&bytes[..copied_bytes]);
        let Some((header, header_bytes)) = header::decode(&self.header[..self.header_len])? else {
            return Ok(copied_bytes);
        };
        self.header_len = 0;
        check_compression(&header, inflates)?;
        let payload_bytes = check_sequence(&header, self.message.as_ref(), payload_bytes_max)?;
        self.open(&header, payload_bytes);
        Ok(header_bytes - known_bytes)
    }

    /// Starts on a frame that `check_sequence` has let pass.
    fn open(&mut self, header: &Header, payload_bytes: usize) {
        let control = match header.opcode {
            OpCode::Control(control) => Some(control),
            OpCode::Data(data) => {
                self.message.get_or_insert_with(|| Message {
                    is_text: data == Data::Text,
                    is_deflated: header.is_deflated,
                    payload: Vec::new(),
                    utf8_bytes: 0,
                });
                None
            }
        };
        self.frame = Some(OpenFrame {
            is_final: header.is_final,
            control,
            mask: header.mask,
            missing_bytes: payload_bytes,
        });
    }

    /// Takes what is missing of the open frame's payload; returns how many of `bytes` belong to it.
    fn handle_payload(
        &mut self,
        bytes: &mut [u8],
        payload_bytes_max: usize,
        on_event: &mut impl FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<(ControlFlow<()>, usize), DecodeError> {
        let frame = self.frame.as_mut().expect("called with a frame open");
        let used_bytes = frame.missing_bytes.min(bytes.len());
        let chunk = &mut bytes[..used_bytes];
        unmask(chunk, &mut frame.mask);
        frame.missing_bytes -= used_bytes;
        let (is_complete, is_final, control) =
            (frame.missing_bytes == 0, frame.is_final, frame.control);
        if is_complete {
            self.frame = None;
        }
        let flow = if let Some(control) = control {
            self.control.extend_from_slice(chunk);
            if is_complete {
                control_event(control, &mem::take(&mut self.control), on_event)?
            } else {
                ControlFlow::Continue(())
            }
        } else {
            let message = self.message.as_mut().expect("a data frame opens its message");
            message.append(chunk)?;
            if is_complete && is_final {
                let mut message = self.message.take().expect("appended to just now");
                if message.is_deflated {
                    message.payload = inflate(&message.payload, payload_bytes_max)?;
                }
                data_event(message.is_text, &message.payload, on_event)?
            } else {
                ControlFlow::Continue(())
            }
        };
        Ok((flow, used_bytes))
    }
}

impl Message {
    /// Fails on the first byte that no text can contain, without waiting for the rest of it.
    fn append(&mut self, chunk: &[u8]) -> Result<(), DecodeError> {
        self.payload.extend_from_slice(chunk);
        // Of what is compressed nothing is known before its end.
        if self.is_text && !self.is_deflated {
            self.utf8_bytes += match str::from_utf8(&self.payload[self.utf8_bytes..]) {
                Ok(text) => text.len(),
                Err(error) if error.error_len().is_none() => error.valid_up_to(),
                Err(_) => return Err(DecodeError::InvalidUtf8),
            };
        }
        Ok(())
    }
}

/// Whether the frame may be compressed if it says that it is.
fn check_compression(header: &Header, inflates: bool) -> Result<(), DecodeError> {
    match header.is_deflated && !inflates {
        true => Err(DecodeError::Protocol("reserved bits set without an extension")),
        false => Ok(()),
    }
}

/// Checks `header` against the message that is open and the bound on messages, before a byte is
/// allocated for it. Returns the length of its payload.
fn check_sequence(
    header: &Header,
    message: Option<&Message>,
    payload_bytes_max: usize,
) -> Result<usize, DecodeError> {
    let (known_bytes, bytes_max) = match (header.opcode, message) {
        (OpCode::Control(_), _) => (0, CONTROL_BYTES_MAX),
        (OpCode::Data(Data::Continue), None) => {
            return Err(DecodeError::Protocol("continuation of nothing"));
        }
        (OpCode::Data(Data::Continue), Some(message)) => (message.payload.len(), payload_bytes_max),
        (OpCode::Data(_), Some(_)) => {
            return Err(DecodeError::Protocol("message inside a fragmented message"));
        }
        (OpCode::Data(_), None) => (0, payload_bytes_max),
    };
    usize::try_from(header.payload_bytes)
        .ok()
        .filter(|payload_bytes| *payload_bytes <= bytes_max.saturating_sub(known_bytes))
        .ok_or(DecodeError::TooBig { payload_bytes_max })
}

fn data_event(
    is_text: bool,
    payload: &[u8],
    on_event: &mut impl FnMut(Event<'_>) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, DecodeError> {
    let event = match is_text {
        true => Event::Text(str::from_utf8(payload).map_err(|_| DecodeError::InvalidUtf8)?),
        false => Event::Binary(payload),
    };
    Ok(on_event(event))
}

fn control_event(
    control: Control,
    payload: &[u8],
    on_event: &mut impl FnMut(Event<'_>) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, DecodeError> {
    match control {
        Control::Ping => Ok(on_event(Event::Ping(payload))),
        Control::Pong => Ok(on_event(Event::Pong(payload))),
        Control::Close => {
            // The callback's answer does not matter: nothing follows a close frame (§5.5.1).
            let _ = on_event(close_event(payload)?);
            Ok(ControlFlow::Break(()))
        }
        Control::Reserved(_) => unreachable!("the header's decoder refuses reserved opcodes"),
    }
}

fn close_event(payload: &[u8]) -> Result<Event<'_>, DecodeError> {
    let Some((code, reason)) = payload.split_first_chunk() else {
        return match payload {
            [] => Ok(Event::Close { code: None, reason: "" }),
            _ => Err(DecodeError::Protocol("half a close code")),
        };
    };
    let code = CloseCode::from(u16::from_be_bytes(*code));
    if !code.is_allowed() {
        return Err(DecodeError::Protocol("close code that may not be sent"));
    }
    let reason = str::from_utf8(reason).map_err(|_| DecodeError::InvalidUtf8)?;
    Ok(Event::Close { code: Some(code), reason })
}

#[cfg(test)]
mod tests {
    use super::super::Deflater;
    use super::super::header::DEFLATED_BIT;
    use super::*;

    const MAX: usize = 1 << 16;

    #[derive(Clone, Debug, PartialEq, Eq)]
    enum Seen {
        Text(String),
        Binary(Vec<u8>),
        Ping(Vec<u8>),
        Pong(Vec<u8>),
        Close(Option<u16>, String),
        Error(DecodeError),
    }

    fn text(text: &str) -> Seen {
        Seen::Text(text.to_owned())
    }

    fn feed(decoder: &mut Decoder, bytes: &[u8], seen: &mut Vec<Seen>) {
        let outcome = decoder.handle_bytes(&mut bytes.to_vec(), MAX, &mut |event| {
            seen.push(match event {
                Event::Text(text) => Seen::Text(text.to_owned()),
                Event::Binary(bytes) => Seen::Binary(bytes.to_vec()),
                Event::Ping(bytes) => Seen::Ping(bytes.to_vec()),
                Event::Pong(bytes) => Seen::Pong(bytes.to_vec()),
                Event::Close { code, reason } => {
                    Seen::Close(code.map(u16::from), reason.to_owned())
                }
            });
            ControlFlow::Continue(())
        });
        if let Err(error) = outcome {
            seen.push(Seen::Error(error));
        }
    }

    /// What `bytes` decode to: in one piece, split at each index, and byte by byte alike.
    fn decode(bytes: &[u8]) -> Vec<Seen> {
        let mut whole = Vec::new();
        feed(&mut Decoder::new(), bytes, &mut whole);
        for split in 0..=bytes.len() {
            let (mut decoder, mut seen) = (Decoder::new(), Vec::new());
            feed(&mut decoder, &bytes[..split], &mut seen);
            feed(&mut decoder, &bytes[split..], &mut seen);
            assert_eq!(seen, whole, "split={split}");
        }
        let (mut decoder, mut seen) = (Decoder::new(), Vec::new());
        for byte in bytes {
            feed(&mut decoder, &[*byte], &mut seen);
        }
        assert_eq!(seen, whole, "byte by byte");
        whole
    }

    #[test]
    fn compressed_messages_are_read_where_that_was_agreed_however_they_are_cut() {
        let long = "so it goes, ".repeat(100);
        let deflated =
            Deflater::new(Window::Large).deflate(long.as_bytes()).expect("repeats itself");
        let (first, rest) = deflated.split_at(deflated.len() / 2);
        let bytes = [
            frame(TEXT | DEFLATED_BIT, &deflated),
            frame(TEXT, b"as it is"),
            // Compressed as a whole, then cut; only its first frame says so.
            frame((TEXT & 0x0f) | DEFLATED_BIT, first),
            frame(0x89, b"ping"),
            frame(0x80, rest),
        ]
        .concat();
        let decode = |cut: usize, bytes: &[u8]| {
            let (mut decoder, mut seen) =
                (Decoder::new().inflating(Some(Window::Large)), Vec::new());
            bytes.chunks(cut).for_each(|piece| feed(&mut decoder, piece, &mut seen));
            seen
        };
        let ping = Seen::Ping(b"ping".to_vec());
        for cut in [1, 2, 3, 10, 1000] {
            let expected = [text(&long), text("as it is"), ping.clone(), text(&long)];
            assert_eq!(decode(cut, &bytes), expected, "cut={cut}");
        }
        // Not agreed to, on a continuation, on a ping.
        let mut seen = Vec::new();
        feed(&mut Decoder::new(), &frame(TEXT | DEFLATED_BIT, &deflated), &mut seen);
        assert!(matches!(seen[..], [Seen::Error(DecodeError::Protocol(_))]), "{seen:?}");
        for first in [0x80, 0x89] {
            let seen = decode(1000, &frame(first | DEFLATED_BIT, b""));
            assert!(matches!(seen[..], [Seen::Error(DecodeError::Protocol(_))]), "{seen:?}");
        }
        let bomb =
            Deflater::new(Window::Large).deflate(&vec![b'0'; MAX + 1]).expect("repeats itself");
        let too_big = Seen::Error(DecodeError::TooBig { payload_bytes_max: MAX });
        assert_eq!(decode(1000, &frame(TEXT | DEFLATED_BIT, &bomb)), [too_big]);
        let latin = Deflater::new(Window::Large).deflate(&[0xe9; 100]).expect("repeats itself");
        let invalid = Seen::Error(DecodeError::InvalidUtf8);
        assert_eq!(decode(1000, &frame(TEXT | DEFLATED_BIT, &latin)), [invalid]);
    }

    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        const MASK: [u8; 4] = [0x12, 0x34, 0x56, 0x78];
        let mut bytes = vec![first];
        match payload.len() {
            len @ 0..126 => bytes.push(0x80 | len as u8),
            len @ 126..65_536 => {
                bytes.push(0x80 | 126);
                bytes.extend((len as u16).to_be_bytes());
            }
            len => {
                bytes.push(0x80 | 127);
                bytes.extend((len as u64).to_be_bytes());
            }
        }
        bytes.extend(MASK);
        let start = bytes.len();
        bytes.extend(payload);
        unmask(&mut bytes[start..], &mut MASK.clone());
        bytes
    }

    const TEXT: u8 = 0x81;
    const BINARY: u8 = 0x82;
    const CLOSE: u8 = 0x88;
    const PING: u8 = 0x89;
    const PONG: u8 = 0x8A;
    const TEXT_OPEN: u8 = 0x01;
    const BINARY_OPEN: u8 = 0x02;
    const MORE: u8 = 0x00;
    const LAST: u8 = 0x80;

    #[test]
    fn a_decoder_is_small() {
        const { assert!(size_of::<Decoder>() <= 16) };
    }

    #[test]
    fn whole_frames_are_handed_out_where_they_lie() {
        let mut bytes = [frame(TEXT, b"hello"), frame(BINARY, b"\x00\xff")].concat();
        let range = bytes.as_ptr_range();
        let mut decoder = Decoder::new();
        let mut on_event = |event: Event<'_>| {
            let start = match event {
                Event::Text(text) => text.as_ptr(),
                Event::Binary(bytes) => bytes.as_ptr(),
                other => panic!("{other:?}"),
            };
            assert!(range.contains(&start));
            ControlFlow::Continue(())
        };
        decoder.handle_bytes(&mut bytes, MAX, &mut on_event).unwrap();
        assert!(decoder.partial.is_none());
    }

    #[test]
    fn messages_of_every_length_format_come_through() {
        for len in [0, 1, 125, 126, 127, 1000] {
            let payload = vec![0xAB; len];
            assert_eq!(decode(&frame(BINARY, &payload)), [Seen::Binary(payload)]);
        }
        let payload = vec![7; 65_536];
        let mut seen = Vec::new();
        feed(&mut Decoder::new(), &frame(BINARY, &payload), &mut seen);
        assert_eq!(seen, [Seen::Binary(payload)]);
    }

    #[test]
    fn control_frames_interrupt_a_fragmented_message_and_come_first() {
        let bytes = [
            frame(TEXT_OPEN, "κό".as_bytes()),
            frame(PING, b"p"),
            frame(MORE, b""),
            frame(PONG, b""),
            frame(LAST, "σμε".as_bytes()),
            frame(TEXT, b"next"),
        ];
        assert_eq!(
            decode(&bytes.concat()),
            [Seen::Ping(b"p".to_vec()), Seen::Pong(vec![]), text("κόσμε"), text("next")]
        );
    }

    #[test]
    fn a_character_may_be_cut_by_fragmentation() {
        let bytes = [frame(TEXT_OPEN, b"\xce"), frame(LAST, b"\xba")].concat();
        assert_eq!(decode(&bytes), [text("κ")]);
    }

    #[test]
    fn nothing_is_held_once_all_is_complete() {
        let bytes = [frame(TEXT_OPEN, b"a"), frame(PING, b"p"), frame(LAST, b"b")].concat();
        let (mut decoder, mut seen) = (Decoder::new(), Vec::new());
        for byte in &bytes {
            assert!(decoder.partial.is_some() || byte == &bytes[0]);
            feed(&mut decoder, &[*byte], &mut seen);
        }
        assert!(decoder.partial.is_none());
        assert_eq!(seen, [Seen::Ping(b"p".to_vec()), text("ab")]);
    }

    #[test]
    fn invalid_utf8_fails_on_the_byte_that_makes_it_so() {
        // Autobahn 6.4: U+110000 is wrong from its second byte on, whatever follows.
        let bytes = frame(TEXT, b"\xce\xba\xf4\x90\x80\x80\x65");
        let invalid_from = bytes.len() - 3;
        let (mut decoder, mut seen) = (Decoder::new(), Vec::new());
        feed(&mut decoder, &bytes[..invalid_from - 1], &mut seen);
        assert_eq!(seen, []);
        feed(&mut decoder, &bytes[invalid_from - 1..invalid_from], &mut seen);
        assert_eq!(seen, [Seen::Error(DecodeError::InvalidUtf8)]);
        feed(&mut decoder, &bytes[invalid_from..], &mut seen);
        assert_eq!(seen.len(), 1, "nothing counts after an error");
    }

    #[test]
    fn a_text_that_ends_inside_a_character_is_invalid() {
        assert_eq!(decode(&frame(TEXT, b"\xce")), [Seen::Error(DecodeError::InvalidUtf8)]);
        let bytes = [frame(TEXT_OPEN, b"\xce"), frame(LAST, b"")].concat();
        assert_eq!(decode(&bytes), [Seen::Error(DecodeError::InvalidUtf8)]);
    }

    #[test]
    fn close_frames_are_checked_and_end_the_stream() {
        let ok = |payload: &[u8]| decode(&[frame(CLOSE, payload), frame(TEXT, b"late")].concat());
        assert_eq!(ok(b""), [Seen::Close(None, String::new())]);
        assert_eq!(ok(b"\x03\xe8bye"), [Seen::Close(Some(1000), "bye".to_owned())]);
        assert!(matches!(ok(b"\x03")[..], [Seen::Error(DecodeError::Protocol(_))]));
        assert_eq!(ok(b"\x03\xe8\xce"), [Seen::Error(DecodeError::InvalidUtf8)]);
        for code in [1000, 1001, 1002, 1003, 1007, 1011, 1013, 3000, 3999, 4000, 4999] {
            assert_eq!(ok(&u16::to_be_bytes(code)), [Seen::Close(Some(code), String::new())]);
        }
        for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535] {
            let seen = ok(&u16::to_be_bytes(code));
            assert!(matches!(seen[..], [Seen::Error(DecodeError::Protocol(_))]), "code={code}");
        }
    }

    #[test]
    fn frames_out_of_sequence_are_refused() {
        for bytes in [
            frame(LAST, b"x"),
            [frame(TEXT_OPEN, b"a"), frame(TEXT, b"b")].concat(),
            [frame(BINARY_OPEN, b"a"), frame(BINARY_OPEN, b"b")].concat(),
        ] {
            assert!(matches!(decode(&bytes)[..], [Seen::Error(DecodeError::Protocol(_))]));
        }
    }

    #[test]
    fn a_message_over_the_bound_fails_when_announced() {
        let too_big = Seen::Error(DecodeError::TooBig { payload_bytes_max: MAX });
        let announced = frame(BINARY, &vec![0; MAX + 1]);
        assert_eq!(decode(&announced[..14]), std::slice::from_ref(&too_big));
        let fragments = [frame(BINARY_OPEN, &vec![0; MAX]), frame(LAST, b"x")].concat();
        let mut seen = Vec::new();
        feed(&mut Decoder::new(), &fragments, &mut seen);
        assert_eq!(seen, [too_big]);
    }

    #[test]
    fn memory_grows_with_what_arrives_not_with_what_is_announced() {
        let (mut decoder, mut seen) = (Decoder::new(), Vec::new());
        feed(&mut decoder, &frame(BINARY, &vec![0; MAX])[..24], &mut seen);
        let message = decoder.partial.expect("incomplete").message.expect("opened");
        assert!(message.payload.capacity() < 100);
    }

    #[test]
    fn breaking_off_ends_the_decoder() {
        let mut bytes = [frame(TEXT, b"a"), frame(TEXT, b"b")].concat();
        let (mut decoder, mut calls) = (Decoder::new(), 0);
        let mut on_event = |_: Event<'_>| {
            calls += 1;
            ControlFlow::Break(())
        };
        decoder.handle_bytes(&mut bytes.clone(), MAX, &mut on_event).unwrap();
        decoder.handle_bytes(&mut bytes, MAX, &mut on_event).unwrap();
        assert_eq!(calls, 1);
    }

    #[test]
    fn noise_decodes_alike_in_one_piece_and_in_many() {
        let mut state = 0x2545_F491_4F6C_DD1D_u64;
        let mut random = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        for _ in 0..2000 {
            let mut bytes = Vec::new();
            for _ in 0..random() % 6 {
                let first =
                    [TEXT, BINARY, CLOSE, PING, TEXT_OPEN, MORE, LAST][random() as usize % 7];
                let payload: Vec<u8> = (0..random() % 12)
                    .map(|_| b"ab\xce\xba\x03\xe8"[random() as usize % 6])
                    .collect();
                bytes.extend(frame(first, &payload));
            }
            for _ in 0..random() % 3 {
                if let Some(at) = (random() as usize).checked_rem(bytes.len()) {
                    bytes[at] = random() as u8;
                }
            }
            decode(&bytes);
        }
    }
}
