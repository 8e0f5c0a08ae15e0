//! Records in files that are only appended to: length, checksum, kind, content. What an end of the
//! process has torn, or a disk has changed, is told from what was written.

/// Bytes of one record; more cannot be one of ours.
const RECORD_BYTES_MAX: usize = 128 << 20;

/// Length, checksum and kind: what a record takes beside its content.
pub const HEAD_BYTES: usize = 9;

/// Bytes that [`Records::next_whole`] checks at most before it gives up.
const SEARCH_BYTES_MAX: usize = 64 << 20;

/// Appends a record whose content `fill` writes. The checksum (CRC-32) starts from `salt`, so that bytes
/// which somebody else chose are no record unless they know it.
pub fn write_record(out: &mut Vec<u8>, salt: u32, kind: u8, fill: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.extend_from_slice(&[0; HEAD_BYTES - 1]);
    out.push(kind);
    fill(out);
    let record = &out[at + HEAD_BYTES - 1..];
    let (length, checksum) = (record.len() as u32, checksum(salt, record));
    out[at..at + 4].copy_from_slice(&length.to_le_bytes());
    out[at + 4..at + 8].copy_from_slice(&checksum.to_le_bytes());
}

fn checksum(salt: u32, record: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(salt);
    hasher.update(record);
    hasher.finalize()
}

/// The whole records at the beginning of some bytes, each with its kind and content; what is left is torn,
/// or was changed.
pub struct Records<'a> {
    salt: u32,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Records<'a> {
    /// The records in `bytes` that were written with `salt`.
    pub fn new(salt: u32, bytes: &'a [u8]) -> Records<'a> {
        Records { salt, bytes, at: 0 }
    }

    /// Where the next record begins.
    pub fn at(&self) -> usize {
        self.at
    }

    /// What no record was found in.
    pub fn rest(&self) -> &'a [u8] {
        &self.bytes[self.at..]
    }

    /// Goes on behind what is no record, where the next whole one begins. `None`: there is none, or it
    /// was not found in reasonable time.
    pub fn next_whole(&mut self) -> Option<usize> {
        let mut left = SEARCH_BYTES_MAX;
        for at in self.at + 1..self.bytes.len().saturating_sub(HEAD_BYTES - 1) {
            let Some(length) = length_at(self.bytes, at) else { continue };
            left = left.checked_sub(length)?;
            if self.record_at(at).is_some() {
                self.at = at;
                return Some(at);
            }
        }
        None
    }

    fn record_at(&self, at: usize) -> Option<&'a [u8]> {
        let length = length_at(self.bytes, at)?;
        let known = u32::from_le_bytes(*self.bytes[at + 4..].first_chunk()?);
        let record = &self.bytes[at + 8..at + 8 + length];
        (checksum(self.salt, record) == known).then_some(record)
    }
}

/// The length of the record that may begin at `at`, if it fits in there.
fn length_at(bytes: &[u8], at: usize) -> Option<usize> {
    let rest = bytes.get(at..)?;
    let length = u32::from_le_bytes(*rest.first_chunk()?) as usize;
    let fits = (1..=RECORD_BYTES_MAX).contains(&length) && rest.len() >= 8 + length;
    fits.then_some(length)
}

impl<'a> Iterator for Records<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let record = self.record_at(self.at)?;
        self.at += 8 + record.len();
        record.split_first().map(|(kind, content)| (*kind, content))
    }
}

/// Appends bytes with their length.
pub fn write_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    out.extend_from_slice(bytes);
}

/// Takes from the front what [`write_bytes`] has written.
pub fn read_bytes<'a>(from: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = read_u32(from)? as usize;
    let (bytes, rest) = from.split_at_checked(length)?;
    *from = rest;
    Some(bytes)
}

/// The same, if it is text.
pub fn read_text(from: &mut &[u8]) -> Option<Box<str>> {
    Some(std::str::from_utf8(read_bytes(from)?).ok()?.into())
}

/// Takes `N` bytes from the front.
pub fn read_array<const N: usize>(from: &mut &[u8]) -> Option<[u8; N]> {
    let (bytes, rest) = from.split_first_chunk()?;
    *from = rest;
    Some(*bytes)
}

/// Takes a number from the front.
pub fn read_u32(from: &mut &[u8]) -> Option<u32> {
    read_array(from).map(u32::from_le_bytes)
}

/// Takes a number from the front.
pub fn read_u64(from: &mut &[u8]) -> Option<u64> {
    read_array(from).map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> Vec<u8> {
        let mut bytes = Vec::new();
        for kind in 1..=3 {
            write_record(&mut bytes, 7, kind, |out| out.extend_from_slice(&[kind; 20]));
        }
        bytes
    }

    fn kinds(bytes: &[u8]) -> Vec<u8> {
        Records::new(7, bytes).map(|(kind, _)| kind).collect()
    }

    #[test]
    fn every_prefix_holds_the_records_that_are_whole_in_it() {
        let bytes = three();
        let one = bytes.len() / 3;
        for end in 0..=bytes.len() {
            let expected: Vec<u8> = (1..=(end / one) as u8).collect();
            assert_eq!(kinds(&bytes[..end]), expected, "{end}");
        }
        assert_eq!(Records::new(8, &bytes).count(), 0, "of another salt");
    }

    #[test]
    fn every_flipped_bit_is_seen_and_what_lies_behind_is_found() {
        let bytes = three();
        let one = bytes.len() / 3;
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let damaged = bit / 8 / one;
            let mut records = Records::new(7, &flipped);
            assert_eq!(records.by_ref().count(), damaged, "{bit}");
            let next = (damaged < 2).then_some((damaged + 1) * one);
            assert_eq!(records.next_whole(), next, "{bit}");
            assert_eq!(records.count(), 2 - damaged, "{bit}");
        }
    }

    #[test]
    fn noise_is_no_record() {
        let mut seed = 1u64;
        for _ in 0..2000 {
            let mut noise = [0u8; 64];
            for byte in &mut noise {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                *byte = (seed >> 56) as u8;
            }
            noise[1..4].fill(0);
            let mut records = Records::new(7, &noise);
            assert_eq!((records.next(), records.next_whole()), (None, None));
        }
    }
}
