//! The chunked coding (RFC 9112 §7.1), undone in place.

use bytes::BytesMut;

use super::HttpError;

/// Longest line with a chunk's size and extensions, in bytes.
const SIZE_LINE_BYTES_MAX: usize = 256;
/// Longest trailer section, in bytes; trailers are dropped.
const TRAILER_BYTES_MAX: usize = 8 * 1024;

/// Where in a chunked body the decoder is. The buffer holds the head, then the body so far up to
/// `body_end`, and from there on what is not decoded yet.
#[derive(Debug)]
pub(super) struct ChunkedBody {
    body_start: usize,
    body_end: usize,
    state: State,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Size,
    Data { missing_bytes: usize },
    DataEnd,
    Trailer { left_bytes: usize },
    Complete,
}

impl ChunkedBody {
    /// A body that starts at `body_start` of the buffer.
    pub(super) fn new(body_start: usize) -> Self {
        Self { body_start, body_end: body_start, state: State::Size }
    }

    /// Decodes what `buffer` holds. Returns the body's end in it once it is complete; what follows
    /// there belongs to the next request.
    pub(super) fn decode(
        &mut self,
        buffer: &mut BytesMut,
        body_bytes_max: usize,
    ) -> Result<Option<usize>, HttpError> {
        let mut read = self.body_end;
        while self.step(buffer, &mut read, body_bytes_max)? {}
        // Close the gap that framing has left, so that it never adds up.
        buffer.copy_within(read.., self.body_end);
        buffer.truncate(buffer.len() - (read - self.body_end));
        Ok(matches!(self.state, State::Complete).then_some(self.body_end))
    }

    /// One step on; `false` if that takes bytes which are not there, or none at all.
    fn step(
        &mut self,
        buffer: &mut BytesMut,
        read: &mut usize,
        body_bytes_max: usize,
    ) -> Result<bool, HttpError> {
        match self.state {
            State::Size => {
                let Some(line) = line(&buffer[*read..], SIZE_LINE_BYTES_MAX)? else {
                    return Ok(false);
                };
                let chunk_bytes = chunk_size(line)?;
                *read += line.len();
                if chunk_bytes > (body_bytes_max - (self.body_end - self.body_start)) as u64 {
                    return Err(HttpError::new(413, "body too large"));
                }
                self.state = match chunk_bytes as usize {
                    0 => State::Trailer { left_bytes: TRAILER_BYTES_MAX },
                    missing_bytes => State::Data { missing_bytes },
                };
            }
            State::Data { missing_bytes: 0 } => self.state = State::DataEnd,
            State::Data { missing_bytes } => {
                let moved_bytes = missing_bytes.min(buffer.len() - *read);
                buffer.copy_within(*read..*read + moved_bytes, self.body_end);
                self.body_end += moved_bytes;
                *read += moved_bytes;
                self.state = State::Data { missing_bytes: missing_bytes - moved_bytes };
                return Ok(moved_bytes > 0);
            }
            State::DataEnd => match &buffer[*read..] {
                [b'\r', b'\n', ..] => {
                    *read += 2;
                    self.state = State::Size;
                }
                [] | [b'\r'] => return Ok(false),
                _ => return Err(HttpError::bad_request("chunk longer than its size")),
            },
            State::Trailer { left_bytes } => {
                let Some(line) = line(&buffer[*read..], left_bytes)? else { return Ok(false) };
                *read += line.len();
                self.state = match line {
                    b"\r\n" => State::Complete,
                    _ => State::Trailer { left_bytes: left_bytes - line.len() },
                };
            }
            State::Complete => return Ok(false),
        }
        Ok(true)
    }
}

/// The first line of `bytes` with its CRLF, or `None` if it is not complete.
fn line(bytes: &[u8], bytes_max: usize) -> Result<Option<&[u8]>, HttpError> {
    let Some(end) = memchr::memchr(b'\n', &bytes[..bytes.len().min(bytes_max)]) else {
        return match bytes.len() < bytes_max {
            true => Ok(None),
            false => Err(HttpError::bad_request("chunk framing too long")),
        };
    };
    let line = &bytes[..=end];
    match line.strip_suffix(b"\r\n") {
        Some(text) if memchr::memchr(b'\r', text).is_none() => Ok(Some(line)),
        _ => Err(HttpError::bad_request("CR or LF alone in chunk framing")),
    }
}

fn chunk_size(line: &[u8]) -> Result<u64, HttpError> {
    // Without the first test, httparse would read a line with no digit at all as the last chunk.
    match httparse::parse_chunk_size(line) {
        Ok(httparse::Status::Complete((_, size))) if line[0].is_ascii_hexdigit() => Ok(size),
        _ => Err(HttpError::bad_request("malformed chunk size")),
    }
}
