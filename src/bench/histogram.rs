//! Latencies in buckets whose width grows with the value: within 1.6 % of it.

/// Linear buckets per power of two.
const STEPS: u64 = 64;

/// Counts of values in microseconds.
#[derive(Clone, Default)]
pub(super) struct Histogram {
    counts: Vec<u64>,
    total: u64,
    max: u64,
}

fn bucket(value: u64) -> usize {
    let shift = (value / STEPS).checked_ilog2().map_or(0, |log| log + 1);
    (u64::from(shift) * STEPS + (value >> shift)) as usize
}

/// The largest value of a bucket.
fn upper(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    let mut shift = 0;
    // Bucket numbers of one shift lie in `shift * STEPS .. (shift + 1) * STEPS`, shifted by the halves
    // that smaller shifts have covered; the search is short and only done for reports.
    while shift < 64 {
        let low = shift * STEPS + if shift == 0 { 0 } else { STEPS / 2 };
        let high = shift * STEPS + STEPS;
        if (low..high).contains(&bucket) {
            return ((bucket - shift * STEPS + 1) << shift) - 1;
        }
        shift += 1;
    }
    u64::MAX
}

impl Histogram {
    pub fn record(&mut self, value: u64) {
        let at = bucket(value);
        if self.counts.len() <= at {
            self.counts.resize(at + 1, 0);
        }
        self.counts[at] += 1;
        self.total += 1;
        self.max = self.max.max(value);
    }

    pub fn add(&mut self, other: &Histogram) {
        if self.counts.len() < other.counts.len() {
            self.counts.resize(other.counts.len(), 0);
        }
        for (count, other) in self.counts.iter_mut().zip(&other.counts) {
            *count += other;
        }
        self.total += other.total;
        self.max = self.max.max(other.max);
    }

    /// The value that `share` of all values do not exceed; 0 when there are none.
    pub fn quantile(&self, share: f64) -> u64 {
        let rank = (self.total as f64 * share).ceil() as u64;
        let mut seen = 0;
        for (at, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank && *count > 0 {
                return upper(at).min(self.max);
            }
        }
        self.max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_within_its_bucket_and_near_its_upper_end() {
        for value in (0..10_000).chain([65_535, 65_536, 1_000_000, 123_456_789]) {
            let upper = upper(bucket(value));
            assert!(upper >= value, "{value} {upper}");
            assert!(upper - value <= value / (STEPS / 2) + 1, "{value} {upper}");
        }
    }

    #[test]
    fn quantiles_are_what_they_say() {
        let mut histogram = Histogram::default();
        (1..=1000).for_each(|value| histogram.record(value));
        assert!((490..=520).contains(&histogram.quantile(0.5)));
        assert!((980..=1000).contains(&histogram.quantile(0.99)));
        assert_eq!(histogram.quantile(1.0), 1000);
    }
}
