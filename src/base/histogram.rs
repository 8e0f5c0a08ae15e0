//! How often which values were seen, in buckets whose bounds are powers of two: finding one takes no loop, and
//! what counts is a plain array of its core.

/// Buckets with the upper bounds 2^FIRST, 2^(FIRST+1), ..; and one for all beyond the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Histogram<const FIRST: u32, const BUCKETS: usize> {
    counts: [u64; BUCKETS],
    beyond: u64,
    sum: u64,
}

/// Microseconds from 16 us to 2 s.
pub type TurnTimes = Histogram<4, 18>;

/// Microseconds from 64 us to 4 s.
pub type Latencies = Histogram<6, 17>;

/// From 1 to 512.
pub type Batches = Histogram<0, 10>;

/// Bytes from 16 B to 1 MiB.
pub type Sizes = Histogram<4, 17>;

/// Bytes from 4 KiB to 16 MiB.
pub type Backlogs = Histogram<12, 13>;

impl<const FIRST: u32, const BUCKETS: usize> Default for Histogram<FIRST, BUCKETS> {
    fn default() -> Self {
        Histogram { counts: [0; BUCKETS], beyond: 0, sum: 0 }
    }
}

impl<const FIRST: u32, const BUCKETS: usize> Histogram<FIRST, BUCKETS> {
    /// Counts one value.
    pub fn observe(&mut self, value: u64) {
        self.sum = self.sum.wrapping_add(value);
        // The exponent of the smallest power of two that is not below it.
        let exponent = u64::BITS - value.saturating_sub(1).leading_zeros();
        match self.counts.get_mut(exponent.saturating_sub(FIRST) as usize) {
            Some(count) => *count += 1,
            None => self.beyond += 1,
        }
    }

    /// Upper bounds, each with how many values were not above it.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64)> {
        let mut total = 0;
        self.counts.iter().zip(FIRST..).map(move |(count, exponent)| {
            total += count;
            (1 << exponent, total)
        })
    }

    /// How many values there were.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum::<u64>() + self.beyond
    }

    /// What they come to.
    pub fn sum(&self) -> u64 {
        self.sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_in_the_first_bucket_that_is_not_below_it() {
        for (value, bound) in [(0, 4), (1, 4), (4, 4), (5, 8), (8, 8), (9, 16), (16, 16)] {
            let mut histogram = Histogram::<2, 3>::default();
            histogram.observe(value);
            let first = histogram.buckets().find(|(_, count)| *count == 1).expect("counted");
            assert_eq!(first.0, bound, "{value}");
            assert_eq!((histogram.count(), histogram.sum()), (1, value));
        }
        let mut histogram = Histogram::<2, 3>::default();
        [3, 17, u64::MAX].into_iter().for_each(|value| histogram.observe(value));
        assert_eq!(histogram.buckets().last(), Some((16, 1)));
        assert_eq!(histogram.count(), 3);
    }
}
