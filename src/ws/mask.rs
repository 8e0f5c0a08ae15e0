//! Client masks (RFC 6455 §5.3).

/// Unmasks `bytes` in place and turns `mask` so that it fits the byte that follows them.
pub fn unmask(bytes: &mut [u8], mask: &mut [u8; 4]) {
    // Eight bytes at a time without alignment: the compiler makes wide vector code of this loop.
    let [a, b, c, d] = *mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, tail) = bytes.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, mask) in tail.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
    mask.rotate_left(tail.len() % 4);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_and_split_agrees_with_the_rfc() {
        const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
        for length in 0..40 {
            let plain: Vec<u8> = (0..length).collect();
            let masked: Vec<u8> = plain.iter().enumerate().map(|(i, b)| b ^ MASK[i % 4]).collect();
            for split in 0..=plain.len() {
                let (mut bytes, mut mask) = (masked.clone(), MASK);
                let (first, second) = bytes.split_at_mut(split);
                unmask(first, &mut mask);
                unmask(second, &mut mask);
                assert_eq!(bytes, plain, "length={length} split={split}");
            }
        }
    }
}
