//! From where on an attachment is sent a channel (6.3).

use super::Rewind;

/// A point in the channel's order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Since {
    /// From now on.
    Head,
    /// From behind this channelSerial, as the client wrote it (6.6).
    Serial(Box<str>),
    /// Some of the recent past first (6.5).
    Rewind {
        /// How much.
        rewind: Rewind,
        /// Messages at most, when it is a span.
        limit: u32,
    },
}
