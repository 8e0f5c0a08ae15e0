//! permessage-deflate (RFC 7692) without context: each message is compressed by itself. So one compressed
//! frame serves all who have agreed to the same window, and no transport holds one.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::decoder::DecodeError;

/// The extension's name.
const NAME: &str = "permessage-deflate";

/// What a sync flush ends with; messages are sent without it (§7.2.1).
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];

/// How far back what is compressed for a client may refer. Two are enough: whoever asks for less than the
/// larger may be sent what needs still less (§7.1.2.1), and each costs a frame of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Window {
    /// 32 KiB, all that there is.
    Large,
    /// 512 bytes, the least that the compressor can do.
    Small,
}

impl Window {
    /// How many there are.
    pub const COUNT: usize = 2;

    /// The logarithm of its size.
    const fn bits(self) -> u8 {
        match self {
            Self::Large => 15,
            Self::Small => 9,
        }
    }

    /// The larger one of those within `bits`, the largest that a client can do.
    fn within(bits: &str) -> Option<Window> {
        match bits {
            "15" => Some(Self::Large),
            "9" | "10" | "11" | "12" | "13" | "14" => Some(Self::Small),
            // 8 may be asked for, but cannot be done.
            _ => None,
        }
    }
}

/// What is compressed is short and waited for.
const LEVEL: Compression = Compression::new(1);

/// Bytes that go out beside those that say what went in, or fewer.
const SPARE_BYTES: usize = 64;

/// Least bytes by which the room for what is inflated grows.
const STEP_BYTES: usize = 512;

/// The answer to the first of the `offers` (`Sec-WebSocket-Extensions`) that can be agreed to, and the window
/// agreed upon.
pub fn agree(offers: &str) -> Option<(String, Window)> {
    offers.split(',').find_map(agree_to)
}

fn agree_to(offer: &str) -> Option<(String, Window)> {
    let mut parts = offer.split(';').map(str::trim);
    if !parts.next()?.eq_ignore_ascii_case(NAME) {
        return None;
    }
    let mut answer = format!("{NAME}; server_no_context_takeover; client_no_context_takeover");
    let mut window = Window::Large;
    let mut seen = Vec::new();
    for part in parts {
        let (name, value) = match part.split_once('=') {
            Some((name, value)) => (name.trim(), Some(value.trim().trim_matches('"'))),
            None => (part, None),
        };
        // Twice, or unknown, or with a wrong value: the offer is declined as a whole (§7.1).
        if seen.contains(&name) {
            return None;
        }
        seen.push(name);
        let is_window = |bits: &str| matches!(bits, "8" | "9") || is_two_digits(bits);
        match (name, value) {
            ("server_no_context_takeover" | "client_no_context_takeover", None) => {}
            // How far the client looks back is its own business: a message is inflated as a whole.
            ("client_max_window_bits", None) => {}
            ("client_max_window_bits", Some(bits)) if is_window(bits) => {}
            ("server_max_window_bits", Some(bits)) => {
                window = Window::within(bits)?;
                answer += &format!("; server_max_window_bits={}", window.bits());
            }
            _ => return None,
        }
    }
    Some((answer, window))
}

fn is_two_digits(bits: &str) -> bool {
    matches!(bits, "10" | "11" | "12" | "13" | "14" | "15")
}

/// Compresses messages; kept for its memory, which is a quarter of a megabyte.
pub struct Deflater {
    window: Window,
    compress: Compress,
}

impl Deflater {
    /// One whose messages refer back within `window`.
    pub fn new(window: Window) -> Deflater {
        let compress = Compress::new_with_window_bits(LEVEL, false, window.bits());
        Deflater { window, compress }
    }

    /// The payload that says `payload` in fewer bytes; `None` if there is no such.
    pub fn deflate(&mut self, payload: &[u8]) -> Option<Vec<u8>> {
        self.compress.reset();
        // Room for the worst, nine bits for a byte: what did not fit would stay behind, and a reset does not
        // free the place that it takes.
        let mut out = Vec::with_capacity(payload.len() + payload.len() / 8 + SPARE_BYTES);
        let status = self.compress.compress_vec(payload, &mut out, FlushCompress::Sync);
        let is_all = matches!(status, Ok(Status::Ok)) && out.len() < out.capacity();
        if !is_all || self.compress.total_in() < payload.len() as u64 {
            *self = Deflater::new(self.window);
            return None;
        }
        let is_whole = out.ends_with(&TAIL);
        out.truncate(out.len().saturating_sub(TAIL.len()));
        // What is longer than its source is of no use.
        (is_whole && out.len() < payload.len()).then_some(out)
    }
}

/// What the compressed `payload` of a message says. Room for it grows as it comes, up to `bytes_max`.
///
/// # Errors
/// It is not compressed, or is more than `bytes_max` bytes.
pub(super) fn inflate(payload: &[u8], bytes_max: usize) -> Result<Vec<u8>, DecodeError> {
    let broken = DecodeError::Protocol("compressed data that cannot be inflated");
    let mut inflater = Decompress::new(false);
    let mut out = Vec::new();
    for mut part in [payload, &TAIL] {
        loop {
            if out.len() == out.capacity() {
                let room = (bytes_max + 1 - out.len()).min(out.len().max(STEP_BYTES));
                out.reserve_exact(room);
            }
            let before = (inflater.total_in(), out.len());
            let status = inflater.decompress_vec(part, &mut out, FlushDecompress::Sync);
            let used = (inflater.total_in() - before.0) as usize;
            part = &part[used..];
            if out.len() > bytes_max {
                return Err(DecodeError::TooBig { payload_bytes_max: bytes_max });
            }
            match status {
                // A last block, behind which nothing is of any meaning.
                Ok(Status::StreamEnd) => return Ok(out),
                Ok(Status::Ok | Status::BufError) => {}
                Err(_) => return Err(broken),
            }
            let has_room = out.len() < out.capacity();
            if part.is_empty() && has_room {
                break;
            }
            if used == 0 && out.len() == before.1 && has_room {
                return Err(broken);
            }
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offers_are_agreed_to_as_the_rfc_has_it() {
        let plain = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
        for offer in [
            "permessage-deflate",
            "permessage-deflate; client_max_window_bits",
            "permessage-deflate; client_max_window_bits=10; server_no_context_takeover",
            "x-webkit-deflate-frame, permessage-deflate",
            "permessage-deflate; server_max_window_bits=8, permessage-deflate",
            "Permessage-Deflate ; client_max_window_bits=\"15\"",
        ] {
            assert_eq!(agree(offer), Some((plain.to_owned(), Window::Large)), "{offer}");
        }
        for (bits, agreed, window) in [
            ("15", "15", Window::Large),
            ("\"14\"", "9", Window::Small),
            ("10", "9", Window::Small),
            ("9", "9", Window::Small),
        ] {
            let offer = format!("permessage-deflate; server_max_window_bits={bits}");
            let answer = format!("{plain}; server_max_window_bits={agreed}");
            assert_eq!(agree(&offer), Some((answer, window)), "{offer}");
        }
        for offer in [
            "",
            "deflate",
            "permessage-deflate; server_max_window_bits",
            "permessage-deflate; server_max_window_bits=8",
            "permessage-deflate; server_max_window_bits=16",
            "permessage-deflate; server_max_window_bits=09",
            "permessage-deflate; client_max_window_bits=7",
            "permessage-deflate; client_max_window_bits=16",
            "permessage-deflate; server_no_context_takeover=1",
            "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
            "permessage-deflate; unknown",
        ] {
            assert_eq!(agree(offer), None, "{offer}");
        }
    }

    #[test]
    fn the_samples_of_the_rfc_are_read() {
        // §7.2.3.1, .3, .4 and .5
        let samples: [&[u8]; 4] = [
            &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00],
            &[0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00],
            &[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00],
            &[0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00],
        ];
        for sample in samples {
            assert_eq!(inflate(sample, 5).as_deref(), Ok(&b"Hello"[..]), "{sample:x?}");
        }
        assert_eq!(inflate(&[0], 0).as_deref(), Ok(&b""[..]));
    }

    #[test]
    fn what_is_deflated_is_inflated_again_and_a_deflater_remembers_nothing() {
        let mut deflater = Deflater::new(Window::Large);
        let text = "{\"name\":\"temperature\",\"data\":21.5},".repeat(40);
        let once = deflater.deflate(text.as_bytes()).expect("repeats itself");
        assert!(once.len() < text.len() / 10, "{} of {}", once.len(), text.len());
        for len in [20, 100, 1000, 40_000, 600_000] {
            let payload: Vec<u8> = (0..len).map(|i: usize| (i / 7 % 23) as u8).collect();
            let deflated = deflater.deflate(&payload).expect("repeats itself");
            assert_eq!(inflate(&deflated, len).as_deref(), Ok(&payload[..]));
        }
        assert_eq!(deflater.deflate(text.as_bytes()).as_deref(), Some(&once[..]));
        let mut seed = 1u32;
        let mut random = || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 24) as u8
        };
        let noise: Vec<u8> = (0..1000).map(|_| random()).collect();
        assert_eq!(deflater.deflate(&noise), None, "would only grow");
        // Whatever it was given, what comes next is as if it were the first.
        for len in [60_000, 65_536, 200_000, 1 << 20] {
            assert!(deflater.deflate(&noise.repeat(1 + len / 1000)[..len]).is_some());
            let noise: Vec<u8> = (0..len).map(|_| random()).collect();
            assert_eq!(deflater.deflate(&noise), None);
            assert_eq!(deflater.deflate(text.as_bytes()).as_deref(), Some(&once[..]));
        }
    }

    #[test]
    fn a_client_with_a_small_window_can_inflate_what_is_deflated_within_it() {
        let mut seed = 3u32;
        let mut random = move |bound: u32| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            ((seed >> 8) % bound) as usize
        };
        let (mut large, mut small) = (Deflater::new(Window::Large), Deflater::new(Window::Small));
        // Repeats from nearby, from just within and beyond the window, and from far away.
        for distance in [30, 200, 250, 400, 511, 512, 513, 600, 5000] {
            let mut payload: Vec<u8> = (0..distance).map(|_| random(256) as u8).collect();
            for _ in 0..200 {
                let from = payload.len() - distance;
                let len = (4 + random(60)).min(distance);
                payload.extend_from_within(from..from + len);
                payload.push(random(256) as u8);
            }
            let of_small = small.deflate(&payload);
            let inflated =
                of_small.as_deref().map(|deflated| inflate_within(Window::Small, deflated));
            assert!(inflated.is_none_or(|inflated| inflated == payload), "{distance}");
            assert!(of_small.is_some() || distance > 250, "{distance} is within the window");
            if distance > 600 {
                assert!(large.deflate(&payload).is_some(), "the larger looks that far back");
            }
        }
    }

    /// What a client inflates that has no more than `window`.
    fn inflate_within(window: Window, deflated: &[u8]) -> Vec<u8> {
        let mut inflater = Decompress::new_with_window_bits(false, window.bits());
        let mut inflated = Vec::new();
        // Little room at a time: what is not in `out` any more has to be in the window.
        for mut part in [deflated, &TAIL] {
            loop {
                let mut out = Vec::with_capacity(64);
                let before = inflater.total_in();
                let status = inflater.decompress_vec(part, &mut out, FlushDecompress::Sync);
                assert!(status.is_ok(), "{status:?} after {} bytes", inflated.len());
                part = &part[(inflater.total_in() - before) as usize..];
                inflated.extend_from_slice(&out);
                if part.is_empty() && out.len() < 64 {
                    break;
                }
            }
        }
        inflated
    }

    #[test]
    fn a_bomb_is_stopped_before_it_has_its_room() {
        let bomb =
            Deflater::new(Window::Large).deflate(&vec![0; 8 << 20]).expect("nothing but zeros");
        assert!(bomb.len() < 128 << 10, "{}", bomb.len());
        let bytes_max = 100_000;
        let error = inflate(&bomb, bytes_max);
        assert_eq!(error, Err(DecodeError::TooBig { payload_bytes_max: bytes_max }));
        assert_eq!(inflate(&bomb, 8 << 20).map(|out| out.len()), Ok(8 << 20));
    }

    #[test]
    fn noise_is_an_error_or_a_message_and_ends() {
        let mut seed = 7u32;
        for len in 0..600usize {
            let noise: Vec<u8> = (0..len)
                .map(|_| {
                    seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (seed >> 24) as u8
                })
                .collect();
            if let Ok(out) = inflate(&noise, 10_000) {
                assert!(out.len() <= 10_000);
            }
        }
    }
}
