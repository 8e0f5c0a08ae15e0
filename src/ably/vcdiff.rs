//! VCDIFF (RFC 3284): one message's payload as the difference to the one before (10).
//!
//! What is written is plain: the default code table, no secondary compression, no checksum, one
//! window whose source segment is the whole base. Copies are taken from the base only. Time is linear
//! in both sizes whatever they hold: a position of the target is compared with at most
//! [`CANDIDATES_MAX`] places, and what the longest comparison found is then passed over.
//!
//! The crates that encode the format bind C or C++, or look at what peers wrote through raw pointers.

/// Bytes of the largest base that a delta is made against.
pub const BASE_BYTES_MAX: usize = 64 << 10;

/// Bytes of the largest payload that a delta is made of.
pub const TARGET_BYTES_MAX: usize = 64 << 10;

/// Places in the base that one position of the target is compared with.
const CANDIDATES_MAX: usize = 4;

/// Bytes that have to be equal at once to be worth a copy; also the shortest copy with a code of its
/// own (§5.6).
const COPY_MIN: usize = 4;

/// "VCD" with the high bits set, version 0, and no indicator (§4.1).
const FILE_HEADER: [u8; 5] = [0xd6, 0xc3, 0xc4, 0x00, 0x00];

/// Window indicator: there is a source segment (§4.2).
const VCD_SOURCE: u8 = 0x01;

/// Codes of the default table (§5.6): ADD of a size that follows; from 2 on those of 1 to 17 bytes.
const ADD: u8 = 1;
const ADD_SIZES: usize = 17;
/// COPY of a size that follows, address mode 0; each mode has 16 codes, the others for 4 to 18 bytes.
const COPY: u8 = 19;
const COPY_CODES: u8 = 16;
const COPY_SIZES: usize = 18;
/// ADD of 1 to 4 bytes and COPY of 4 to 6 in one code; each mode from 0 to 5 has 12 of them.
const ADD_COPY: u8 = 163;
const ADD_COPY_CODES: u8 = 12;
const ADD_COPY_ADD_MAX: usize = 4;
const ADD_COPY_COPY_MAX: usize = 6;

/// Address modes (§5.3): absolute, back from here, and beyond one of the last addresses.
const MODE_SELF: u8 = 0;
const MODE_HERE: u8 = 1;
const MODE_NEAR: u8 = 2;
const NEAR_SIZE: usize = 4;

const _: () = {
    assert!(COPY + (MODE_NEAR + NEAR_SIZE as u8) * COPY_CODES <= ADD_COPY);
    assert!(BASE_BYTES_MAX < u32::MAX as usize);
};

/// Makes deltas; keeps its tables from one to the next.
#[derive(Default)]
pub struct Encoder {
    /// By hash of four bytes: one more than the last place of the base where they stand; 0: nowhere.
    heads: Vec<u32>,
    /// By place in the base: the place before with the same hash, in the same form.
    previous: Vec<u32>,
}

/// The three sections of a window (§4.3), while they are written.
#[derive(Default)]
struct Sections {
    data: Vec<u8>,
    instructions: Vec<u8>,
    addresses: Vec<u8>,
    near: [usize; NEAR_SIZE],
    next_near: usize,
}

impl Encoder {
    /// `target` as the difference to `base`; `None` when that is no smaller than `target` itself, or
    /// either is too large to try.
    pub fn encode(&mut self, base: &[u8], target: &[u8]) -> Option<Vec<u8>> {
        if base.is_empty() || base.len() > BASE_BYTES_MAX || target.len() > TARGET_BYTES_MAX {
            return None;
        }
        self.index(base);
        let mut sections = Sections::default();
        // What is added before the next copy begins at `added`.
        let (mut at, mut added) = (0, 0);
        // How far the base is ahead of the target where the last copy was made.
        let mut shift = 0;
        while at + COPY_MIN <= target.len() {
            let Some((address, len)) = self.longest_match(base, target, at, shift) else {
                at += 1;
                continue;
            };
            sections.add_and_copy(&target[added..at], address, len, base.len() + at);
            shift = address as isize - at as isize;
            at += len;
            added = at;
            if sections.len() >= target.len() {
                return None;
            }
        }
        sections.add(&target[added..]);
        let delta = sections.finish(base.len(), target.len());
        (delta.len() < target.len()).then_some(delta)
    }

    fn index(&mut self, base: &[u8]) {
        let heads = base.len().next_power_of_two().max(256);
        self.heads.clear();
        self.heads.resize(heads, 0);
        self.previous.clear();
        self.previous.resize(base.len(), 0);
        for (place, four) in base.array_windows::<COPY_MIN>().enumerate() {
            let head = &mut self.heads[hash(*four) & (heads - 1)];
            self.previous[place] = *head;
            *head = place as u32 + 1;
        }
    }

    /// Where in `base` the bytes at `at` stand, in as long a run as a few tries find.
    fn longest_match(
        &self,
        base: &[u8],
        target: &[u8],
        at: usize,
        shift: isize,
    ) -> Option<(usize, usize)> {
        let wanted = &target[at..];
        let four = *wanted.first_chunk::<COPY_MIN>()?;
        // Where the base goes on if the two differ in a few bytes only.
        let expected = at.checked_add_signed(shift).filter(|place| *place < base.len());
        let mut link = self.heads[hash(four) & (self.heads.len() - 1)];
        let chained = std::iter::from_fn(|| {
            let place = (link as usize).checked_sub(1)?;
            link = self.previous[place];
            Some(place)
        });
        let mut best: Option<(usize, usize)> = None;
        for place in expected.into_iter().chain(chained).take(CANDIDATES_MAX) {
            let len = common_len(&base[place..], wanted);
            if len >= COPY_MIN && best.is_none_or(|(_, best)| len > best) {
                best = Some((place, len));
            }
        }
        best
    }
}

/// Spreads four bytes over the low bits of the result.
fn hash(four: [u8; COPY_MIN]) -> usize {
    // Knuth's multiplicative hash; the high half of the product depends on all four bytes.
    (u32::from_le_bytes(four).wrapping_mul(0x9E37_79B1) >> 16) as usize
}

/// Bytes that both begin with.
fn common_len(one: &[u8], other: &[u8]) -> usize {
    one.iter().zip(other).take_while(|(one, other)| one == other).count()
}

impl Sections {
    fn len(&self) -> usize {
        self.data.len() + self.instructions.len() + self.addresses.len()
    }

    /// Bytes that are in the target only.
    fn add(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.data.extend_from_slice(bytes);
        if bytes.len() <= ADD_SIZES {
            self.instructions.push(ADD + bytes.len() as u8);
        } else {
            self.instructions.push(ADD);
            write_integer(&mut self.instructions, bytes.len());
        }
    }

    /// `bytes`, then `len` bytes of the base from `address`. `here` counts base and target so far.
    fn add_and_copy(&mut self, bytes: &[u8], address: usize, len: usize, here: usize) {
        let mode = self.write_address(address, here);
        if (1..=ADD_COPY_ADD_MAX).contains(&bytes.len()) && len <= ADD_COPY_COPY_MAX {
            self.data.extend_from_slice(bytes);
            let sizes = (bytes.len() - 1) * 3 + (len - COPY_MIN);
            self.instructions.push(ADD_COPY + mode * ADD_COPY_CODES + sizes as u8);
            return;
        }
        self.add(bytes);
        let code = COPY + mode * COPY_CODES;
        if len <= COPY_SIZES {
            self.instructions.push(code + (len - COPY_MIN + 1) as u8);
        } else {
            self.instructions.push(code);
            write_integer(&mut self.instructions, len);
        }
    }

    /// Writes an address in the mode that takes least, and returns the mode.
    fn write_address(&mut self, address: usize, here: usize) -> u8 {
        let mut best = (MODE_SELF, address);
        let near = self.near.iter().zip(MODE_NEAR..);
        let near = near.filter_map(|(near, mode)| Some((mode, address.checked_sub(*near)?)));
        for (mode, value) in std::iter::once((MODE_HERE, here - address)).chain(near) {
            if value < best.1 {
                best = (mode, value);
            }
        }
        self.near[self.next_near] = address;
        self.next_near = (self.next_near + 1) % NEAR_SIZE;
        let (mode, value) = best;
        write_integer(&mut self.addresses, value);
        mode
    }

    fn finish(self, base_len: usize, target_len: usize) -> Vec<u8> {
        let mut window = Vec::with_capacity(self.len() + 16);
        write_integer(&mut window, target_len);
        // No section is compressed (§4.3).
        window.push(0);
        for section in [&self.data, &self.instructions, &self.addresses] {
            write_integer(&mut window, section.len());
        }
        for section in [&self.data, &self.instructions, &self.addresses] {
            window.extend_from_slice(section);
        }
        let mut delta = Vec::with_capacity(FILE_HEADER.len() + window.len() + 8);
        delta.extend_from_slice(&FILE_HEADER);
        delta.push(VCD_SOURCE);
        write_integer(&mut delta, base_len);
        // The segment begins where the base does.
        write_integer(&mut delta, 0);
        write_integer(&mut delta, window.len());
        delta.extend_from_slice(&window);
        delta
    }
}

/// Appends an integer: seven bits a byte, highest first, the high bit set in all but the last (§2).
fn write_integer(out: &mut Vec<u8>, value: usize) {
    let groups = (usize::BITS - value.leading_zeros()).div_ceil(7).max(1);
    for group in (0..groups).rev() {
        let more = if group > 0 { 0x80 } else { 0 };
        out.push((value >> (7 * group)) as u8 & 0x7f | more);
    }
}

/// Reads what the encoder has written, for those who do not believe it.
#[cfg(any(test, feature = "sim"))]
pub mod decoder {
    /// A decoder straight from the RFC, with the code table built as §5.6 lists it, and nothing
    /// shared with the encoder. `None`: not a delta of `base`.
    pub fn decode(base: &[u8], delta: &[u8]) -> Option<Vec<u8>> {
        let mut rest = delta.strip_prefix(&[0xd6, 0xc3, 0xc4, 0, 0])?;
        let mut target = Vec::new();
        while !rest.is_empty() {
            let indicator = byte(&mut rest)?;
            let segment = if indicator == 1 {
                let len = integer(&mut rest)?;
                let start = integer(&mut rest)?;
                base.get(start..start.checked_add(len)?)?
            } else {
                return None;
            };
            let window_len = integer(&mut rest)?;
            let mut window = take(&mut rest, window_len)?;
            let target_len = integer(&mut window)?;
            if byte(&mut window)? != 0 || target_len > 1 << 20 {
                return None;
            }
            let lens = [integer(&mut window)?, integer(&mut window)?, integer(&mut window)?];
            let mut data = take(&mut window, lens[0])?;
            let mut instructions = take(&mut window, lens[1])?;
            let mut addresses = take(&mut window, lens[2])?;
            if !window.is_empty() {
                return None;
            }
            let table = code_table();
            let (mut near, mut next_near, mut same) = ([0; 4], 0, vec![0; 3 * 256]);
            let mut made: Vec<u8> = Vec::new();
            while let Some(code) = byte(&mut instructions) {
                for (kind, size, mode) in table[usize::from(code)] {
                    if kind == 0 {
                        continue;
                    }
                    let size = if size == 0 { integer(&mut instructions)? } else { size };
                    if made.len() + size > target_len {
                        return None;
                    }
                    match kind {
                        1 => made.extend_from_slice(take(&mut data, size)?),
                        2 => made.resize(made.len() + size, byte(&mut data)?),
                        _ => {
                            let here = segment.len() + made.len();
                            let address = match mode {
                                0 => integer(&mut addresses)?,
                                1 => here.checked_sub(integer(&mut addresses)?)?,
                                2..=5 => near[mode - 2] + integer(&mut addresses)?,
                                _ => same[(mode - 6) * 256 + usize::from(byte(&mut addresses)?)],
                            };
                            near[next_near] = address;
                            next_near = (next_near + 1) % 4;
                            same[address % (3 * 256)] = address;
                            for from in address..address + size {
                                let byte = match from.checked_sub(segment.len()) {
                                    None => segment[from],
                                    Some(own) => *made.get(own)?,
                                };
                                made.push(byte);
                            }
                        }
                    }
                }
            }
            if made.len() != target_len || !data.is_empty() || !addresses.is_empty() {
                return None;
            }
            target.extend(made);
        }
        Some(target)
    }

    /// By code: two instructions of kind (1 ADD, 2 RUN, 3 COPY), size and mode.
    fn code_table() -> Vec<[(u8, usize, usize); 2]> {
        const NOOP: (u8, usize, usize) = (0, 0, 0);
        let mut table = vec![[(2, 0, 0), NOOP]];
        table.extend((0..=17).map(|size| [(1, size, 0), NOOP]));
        for mode in 0..=8 {
            table.push([(3, 0, mode), NOOP]);
            table.extend((4..=18).map(|size| [(3, size, mode), NOOP]));
        }
        for mode in 0..=5 {
            for add in 1..=4 {
                table.extend((4..=6).map(|copy| [(1, add, 0), (3, copy, mode)]));
            }
        }
        for mode in 6..=8 {
            table.extend((1..=4).map(|add| [(1, add, 0), (3, 4, mode)]));
        }
        table.extend((0..=8).map(|mode| [(3, 4, mode), (1, 1, 0)]));
        assert_eq!(table.len(), 256);
        table
    }

    fn byte(rest: &mut &[u8]) -> Option<u8> {
        rest.split_off_first().copied()
    }

    fn take<'a>(rest: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
        rest.split_off(..len)
    }

    pub(super) fn integer(rest: &mut &[u8]) -> Option<usize> {
        let mut value = 0usize;
        for _ in 0..5 {
            let byte = byte(rest)?;
            value = value << 7 | usize::from(byte & 0x7f);
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::decoder::{decode, integer};
    use super::*;

    struct Random(u64);

    impl Random {
        fn below(&mut self, bound: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 % bound as u64) as usize
        }

        fn bytes(&mut self, len: usize, letters: usize) -> Vec<u8> {
            (0..len).map(|_| self.below(letters) as u8).collect()
        }
    }

    #[test]
    fn small_json_that_changes_a_little_is_smaller_as_a_delta() {
        let versions = [
            r#"{"foo":"bar","count":1,"status":"active"}"#,
            r#"{"foo":"bar","count":2,"status":"active"}"#,
            r#"{"foo":"bar","count":2,"status":"inactive"}"#,
            r#"{"foo":"bar","count":3,"status":"inactive"}"#,
            r#"{"foo":"bar","count":3,"status":"active"}"#,
        ];
        let mut encoder = Encoder::default();
        for pair in versions.array_windows::<2>() {
            let [base, target] = pair.map(str::as_bytes);
            let delta = encoder.encode(base, target).expect("alike");
            assert!(delta.len() <= 28, "{} bytes", delta.len());
            assert_eq!(decode(base, &delta).as_deref(), Some(target));
            assert_eq!(encoder.encode(target, target).map(|delta| delta.len()), Some(17));
        }
    }

    #[test]
    fn what_has_nothing_in_common_is_sent_whole() {
        let mut random = Random(1);
        let mut encoder = Encoder::default();
        let [one, other] = [0, 1].map(|_| random.bytes(1024, 256));
        assert_eq!(encoder.encode(&one, &other), None);
        assert_eq!(encoder.encode(b"", &one), None);
        assert_eq!(encoder.encode(&one, b""), None);
        assert_eq!(encoder.encode(&one, &one[..16]), None);
    }

    #[test]
    fn what_is_too_large_is_sent_whole() {
        let mut encoder = Encoder::default();
        let large = vec![b'a'; BASE_BYTES_MAX + 1];
        assert!(encoder.encode(&large[1..], &large[1..]).is_some());
        assert_eq!(encoder.encode(&large, b"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"), None);
        assert_eq!(encoder.encode(b"aaaaaaaaaaaa", &vec![b'a'; TARGET_BYTES_MAX + 1]), None);
    }

    #[test]
    fn every_delta_gives_its_target_back() {
        let mut encoder = Encoder::default();
        let mut made = 0;
        for seed in 1..=3000 {
            let mut random = Random(seed * 0x9E37_79B9);
            let letters = [2, 4, 30, 256][random.below(4)];
            let len = [20, 60, 300, 5000][random.below(4)];
            let base = random.bytes(len, letters);
            let mut target = base.clone();
            for _ in 0..1 + random.below(6) {
                let at = random.below(target.len().max(1));
                let end = (at + random.below(30)).min(target.len());
                let patch_len = random.below(40);
                let patch = match random.below(3) {
                    0 => random.bytes(patch_len, letters),
                    1 => Vec::new(),
                    // Moved from elsewhere.
                    _ => {
                        let from = random.below(base.len());
                        base[from..(from + patch_len).min(base.len())].to_vec()
                    }
                };
                target.splice(at.min(end)..end, patch);
            }
            if let Some(delta) = encoder.encode(&base, &target) {
                made += 1;
                assert!(delta.len() < target.len(), "seed={seed}");
                assert_eq!(decode(&base, &delta), Some(target), "seed={seed}");
            }
        }
        assert!(made > 1500, "{made}");
    }

    #[test]
    fn each_prefix_of_a_target_comes_back() {
        let base: Vec<u8> = (0..40).flat_map(|n: u32| format!("item {n}, ").into_bytes()).collect();
        let target: Vec<u8> =
            (0..40).flat_map(|n: u32| format!("item {}, ", n * 7 % 40).into_bytes()).collect();
        let mut encoder = Encoder::default();
        for end in 0..=target.len() {
            if let Some(delta) = encoder.encode(&base, &target[..end]) {
                assert_eq!(decode(&base, &delta).as_deref(), Some(&target[..end]));
                // Nothing in it is superfluous.
                for cut in 0..delta.len() {
                    assert_eq!(decode(&base, &delta[..cut]).filter(|made| !made.is_empty()), None);
                }
            }
        }
    }

    #[test]
    fn addresses_and_sizes_take_as_many_bytes_as_they_need() {
        for (value, bytes) in [
            (0, &[0][..]),
            (127, &[0x7f]),
            (128, &[0x81, 0]),
            // The RFC's own example (§2).
            (123_456_789, &[0xba, 0xef, 0x9a, 0x15]),
        ] {
            let mut out = Vec::new();
            write_integer(&mut out, value);
            assert_eq!(out, bytes);
            assert_eq!(integer(&mut &out[..]), Some(value));
        }
    }

    /// Inputs that make the tables degenerate cost a bounded number of comparisons, not more.
    #[test]
    fn hostile_inputs_come_back_as_well() {
        let size = BASE_BYTES_MAX;
        let same = vec![b'a'; size];
        let period: Vec<u8> = (0..size).map(|at| b"abcd"[at % 4]).collect();
        let nearly: Vec<u8> = (0..size).map(|at| if at % 7 == 6 { b'b' } else { b'a' }).collect();
        let mut encoder = Encoder::default();
        for base in [&same, &period, &nearly] {
            for target in [&same, &period, &nearly] {
                if let Some(delta) = encoder.encode(base, target) {
                    assert_eq!(decode(base, &delta).as_ref(), Some(target));
                }
            }
        }
    }
}
