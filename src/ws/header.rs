//! The header of one client frame (RFC 6455 §5.2). Says what one frame may look like by itself;
//! what may follow what is the decoder's business.

use super::decoder::DecodeError;
use super::{Data, OpCode};

const FINAL_BIT: u8 = 0x80;
const RESERVED_BITS: u8 = 0x30;
/// Set on the first frame of a compressed message (RFC 7692 §6).
pub(super) const DEFLATED_BIT: u8 = 0x40;
const OPCODE_BITS: u8 = 0x0F;
const MASK_BIT: u8 = 0x80;
const LENGTH_BITS: u8 = 0x7F;
const LENGTH_IS_U16: u8 = 126;
const LENGTH_IS_U64: u8 = 127;
/// The shortest payloads whose lengths are written like that (§5.2).
const U16_PAYLOAD_BYTES_MIN: u64 = 126;
const U64_PAYLOAD_BYTES_MIN: u64 = 1 << 16;

/// Longest header of a client frame, in bytes.
pub const HEADER_BYTES_MAX: usize = 14;
/// Longest payload of a control frame, in bytes (§5.5).
pub const CONTROL_BYTES_MAX: usize = 125;

/// A frame's header that is valid by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Whether this is the last frame of its message; always so for a control frame.
    pub is_final: bool,
    /// Whether its message is compressed; never so for a control frame or a continuation.
    pub is_deflated: bool,
    /// Never a reserved one.
    pub opcode: OpCode,
    /// The client's mask.
    pub mask: [u8; 4],
    /// Length as announced, below 2^63; at most [`CONTROL_BYTES_MAX`] for a control frame.
    pub payload_bytes: u64,
}

/// Decodes a client's frame header; returns it with its length in bytes.
/// `Ok(None)`: the header is not complete yet.
pub fn decode(bytes: &[u8]) -> Result<Option<(Header, usize)>, DecodeError> {
    let Some((&[first, second], rest)) = bytes.split_first_chunk() else { return Ok(None) };
    if first & RESERVED_BITS != 0 {
        return Err(DecodeError::Protocol("reserved bits set without an extension"));
    }
    let opcode = OpCode::from(first & OPCODE_BITS);
    let is_final = first & FINAL_BIT != 0;
    let is_deflated = first & DEFLATED_BIT != 0;
    let short_length = second & LENGTH_BITS;
    match opcode {
        OpCode::Data(Data::Reserved(_)) | OpCode::Control(super::Control::Reserved(_)) => {
            return Err(DecodeError::Protocol("reserved opcode"));
        }
        OpCode::Control(_) | OpCode::Data(Data::Continue) if is_deflated => {
            return Err(DecodeError::Protocol("compression begins with a message"));
        }
        OpCode::Control(_) if !is_final => {
            return Err(DecodeError::Protocol("fragmented control frame"));
        }
        OpCode::Control(_) if usize::from(short_length) > CONTROL_BYTES_MAX => {
            return Err(DecodeError::Protocol("control frame over 125 bytes"));
        }
        OpCode::Control(_) | OpCode::Data(_) => {}
    }
    if second & MASK_BIT == 0 {
        return Err(DecodeError::Protocol("unmasked frame")); // §5.1: a server must close on one
    }
    let (payload_bytes, shortest, rest) = match short_length {
        LENGTH_IS_U16 => {
            let Some((length, rest)) = rest.split_first_chunk() else { return Ok(None) };
            (u64::from(u16::from_be_bytes(*length)), U16_PAYLOAD_BYTES_MIN, rest)
        }
        LENGTH_IS_U64 => {
            let Some((length, rest)) = rest.split_first_chunk() else { return Ok(None) };
            (u64::from_be_bytes(*length), U64_PAYLOAD_BYTES_MIN, rest)
        }
        length => (u64::from(length), 0, rest),
    };
    if payload_bytes < shortest {
        return Err(DecodeError::Protocol("payload length not in its shortest form"));
    }
    if payload_bytes > i64::MAX as u64 {
        return Err(DecodeError::Protocol("payload length over 63 bits"));
    }
    let Some((&mask, rest)) = rest.split_first_chunk() else { return Ok(None) };
    let header = Header { is_final, is_deflated, opcode, mask, payload_bytes };
    Ok(Some((header, bytes.len() - rest.len())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tungstenite::protocol::frame::FrameHeader;

    #[test]
    fn decodes_what_tungstenite_formats_and_waits_at_every_prefix() {
        for payload_bytes in [0, 1, 125, 126, 65_535, 65_536, i64::MAX as u64] {
            let theirs = FrameHeader {
                opcode: OpCode::Data(Data::Binary),
                mask: Some([1, 2, 3, 4]),
                ..FrameHeader::default()
            };
            let mut bytes = Vec::new();
            theirs.format(payload_bytes, &mut bytes).unwrap();
            for end in 0..bytes.len() {
                assert_eq!(decode(&bytes[..end]), Ok(None), "prefix of {end} bytes");
            }
            let ours = Header {
                is_final: true,
                is_deflated: false,
                opcode: theirs.opcode,
                mask: [1, 2, 3, 4],
                payload_bytes,
            };
            assert_eq!(decode(&bytes), Ok(Some((ours, bytes.len()))));
        }
    }

    #[test]
    fn refuses_lengths_that_are_longer_than_they_need_be() {
        for (length, is_valid) in [(0, false), (125, false), (126, true), (u16::MAX, true)] {
            let bytes = [&[0x82, 0xFE][..], &length.to_be_bytes(), &[1, 2, 3, 4]].concat();
            assert_eq!(decode(&bytes).is_ok(), is_valid, "{length} in 16 bits");
        }
        for (length, is_valid) in [(0, false), (65_535, false), (65_536, true), (1 << 63, false)] {
            let bytes = [&[0x82, 0xFF][..], &u64::to_be_bytes(length), &[1, 2, 3, 4]].concat();
            assert_eq!(decode(&bytes).is_ok(), is_valid, "{length} in 64 bits");
        }
    }

    #[test]
    fn refuses_by_the_first_two_bytes() {
        let refused: [(&[u8; 2], &str); 7] = [
            (&[0x81, 0x00], "unmasked"),
            (&[0xA1, 0x80], "RSV2"),
            (&[0x83, 0x80], "reserved data opcode"),
            (&[0x8B, 0x80], "reserved control opcode"),
            (&[0x09, 0x80], "fragmented ping"),
            (&[0x89, 0xFE], "ping with a 16 bit length"),
            (&[0x88, 0xFF], "close with a 64 bit length"),
        ];
        for (bytes, what) in refused {
            assert!(matches!(decode(bytes), Err(DecodeError::Protocol(_))), "{what}");
        }
    }
}
