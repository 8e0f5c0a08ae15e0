//! What every layer shares: time as a value, counts of values, addresses, lines of the log, records of files.

/// One reading of both clocks, taken once per turn by `server` and passed down as an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Now {
    /// Milliseconds of the monotonic clock since the daemon started; deadlines are made of these.
    pub mono_ms: u64,
    /// Milliseconds since the Unix epoch; what goes on the wire as a timestamp.
    pub unix_ms: u64,
}

mod address;
mod entropy;
mod histogram;
mod log;
pub mod record;
mod spread;
mod wheel;

pub use address::{AddressBlock, Networks};
pub use entropy::Entropy;
pub use histogram::{Backlogs, Batches, Histogram, Latencies, Sizes, TurnTimes};
pub use log::{Level, LogLine};
pub use spread::SpreadMap;
pub use wheel::Wheel;
