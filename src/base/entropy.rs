//! Random bytes, fetched from the source in pages so that a connect costs no system call.

/// Bytes fetched at a time.
const PAGE_BYTES: usize = 4096;

/// Fills all of its argument with fresh random bytes.
type Refill = Box<dyn FnMut(&mut [u8])>;

/// A buffered source of random bytes; the simulator passes a seeded one.
pub struct Entropy {
    refill: Refill,
    page: Box<[u8; PAGE_BYTES]>,
    used_bytes: usize,
}

impl Entropy {
    /// `refill` fills its whole argument with fresh random bytes.
    pub fn new(refill: impl FnMut(&mut [u8]) + 'static) -> Entropy {
        let page = Box::new([0; PAGE_BYTES]);
        Entropy { refill: Box::new(refill), page, used_bytes: PAGE_BYTES }
    }

    /// `N` bytes that were never handed out before.
    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        const { assert!(N <= PAGE_BYTES) };
        if self.used_bytes + N > PAGE_BYTES {
            (self.refill)(&mut self.page[..]);
            self.used_bytes = 0;
        }
        let from = self.used_bytes;
        self.used_bytes += N;
        let used = &mut self.page[from..self.used_bytes];
        let bytes = (&*used).try_into().expect("the slice has N bytes");
        // What was handed out as a secret does not stay behind.
        used.fill(0);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_byte_is_handed_out_twice() {
        let mut next = 0u32;
        let mut entropy = Entropy::new(move |page| {
            for four in page.chunks_exact_mut(4) {
                four.copy_from_slice(&next.to_le_bytes());
                next += 1;
            }
        });
        let drawn: Vec<u32> = (0..5000).map(|_| u32::from_le_bytes(entropy.bytes())).collect();
        assert!(drawn.windows(2).all(|pair| pair[0] < pair[1]));
    }
}
