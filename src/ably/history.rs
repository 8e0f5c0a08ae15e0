//! What can be asked of a channel's history, and the answer (13.6).

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::{ChannelSerial, Publication, SerialError};

/// In which direction history is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Newest first.
    Backwards,
    /// Oldest first.
    Forwards,
}

/// A place in the channel's order: a publication and an index there. As text, `<channelSerial>:<index>`,
/// it is the serial of a message, a version or an annotation (3.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// Serial of the publication.
    pub serial: ChannelSerial,
    /// Index of the message in it.
    pub index: u32,
}

impl fmt::Display for Position {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{:03}", self.serial, self.index)
    }
}

impl FromStr for Position {
    type Err = SerialError;

    fn from_str(text: &str) -> Result<Position, SerialError> {
        let (serial, index) = text.rsplit_once(':').ok_or(SerialError)?;
        let is_number = !index.is_empty() && index.bytes().all(|byte| byte.is_ascii_digit());
        let index = index.parse().ok().filter(|_| is_number).ok_or(SerialError)?;
        Ok(Position { serial: serial.parse()?, index })
    }
}

/// Which messages to read; bounds are inclusive.
#[derive(Clone, Debug)]
pub struct HistoryQuery {
    /// Not before this time, in milliseconds since the Unix epoch.
    pub start_ms: Option<u64>,
    /// Not after this time.
    pub end_ms: Option<u64>,
    /// Order of the answer.
    pub direction: Direction,
    /// Messages per page, 1 to 1,000.
    pub limit: usize,
    /// Not after this point: where the asking client attached.
    pub until: Option<ChannelSerial>,
    /// The last message of the page before, in the direction of reading.
    pub after: Option<Position>,
}

/// One message of a page.
#[derive(Clone, Debug)]
pub struct HistoryItem {
    /// Shared with the history itself.
    pub publication: Arc<Publication>,
    /// Which of its messages.
    pub index: usize,
}

/// An answer to a [`HistoryQuery`].
#[derive(Clone, Debug, Default)]
pub struct HistoryPage {
    /// In the order that was asked for.
    pub items: Vec<HistoryItem>,
    /// Where the next page goes on, if there is one.
    pub next: Option<Position>,
}
