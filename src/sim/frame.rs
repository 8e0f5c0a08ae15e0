//! WebSocket frames as a client writes and reads them: small code of its own, so that the daemon's is not
//! asked whether it is right.

/// A text frame's opcode.
pub const TEXT: u8 = 1;

/// A binary frame's opcode.
pub const BINARY: u8 = 2;

/// A close frame's opcode.
pub const CLOSE: u8 = 8;

/// A ping frame's opcode.
pub const PING: u8 = 9;

/// A pong frame's opcode.
pub const PONG: u8 = 10;

/// One whole frame of a client.
pub fn masked(opcode: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
    let mut frame = vec![0x80 | opcode];
    match payload.len() {
        len @ 0..126 => frame.push(0x80 | len as u8),
        len @ 126..0x1_0000 => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&(len as u16).to_be_bytes());
        }
        len => {
            frame.push(0x80 | 127);
            frame.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(&MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// The first frame of what a client has received: opcode, payload, and what follows it. `None`: it is not
/// all there yet. Servers neither mask nor, here, fragment.
pub fn split(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[first, second], rest) = bytes.split_first_chunk()?;
    assert_eq!((first & 0xf0, second & 0x80), (0x80, 0), "a whole frame, unmasked");
    let (len, rest) = match second {
        126 => {
            let (len, rest) = rest.split_first_chunk()?;
            (u64::from(u16::from_be_bytes(*len)), rest)
        }
        127 => {
            let (len, rest) = rest.split_first_chunk()?;
            (u64::from_be_bytes(*len), rest)
        }
        len => (len.into(), rest),
    };
    let (payload, rest) = rest.split_at_checked(usize::try_from(len).ok()?)?;
    Some((first & 0x0f, payload, rest))
}
