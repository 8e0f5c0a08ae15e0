//! Channel serials (3.6): what a channel's order is written down as.

use std::fmt;
use std::str::FromStr;

/// Counts up to here fit the three digits that keep serials in lexicographic order.
const COUNTER_MAX: u16 = 999;

/// Unique to one start of the daemon and one shard, so that no serial is ever used again.
/// Ten letters and digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeriesId([u8; 10]);

impl SeriesId {
    /// Makes an id of random bytes.
    pub fn new(random: [u8; 10]) -> SeriesId {
        const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
        SeriesId(random.map(|byte| ALPHABET[usize::from(byte) % ALPHABET.len()]))
    }

    /// As it is written down.
    pub fn bytes(self) -> [u8; 10] {
        self.0
    }

    /// Reads what was written down; `None`: that is no id.
    pub fn from_bytes(bytes: [u8; 10]) -> Option<SeriesId> {
        bytes.iter().all(u8::is_ascii_alphanumeric).then_some(SeriesId(bytes))
    }
}

/// `<14-digit ms>-<3-digit counter>@<series>`: strictly increasing on one channel, as text too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChannelSerial {
    time_ms: u64,
    counter: u16,
    series: SeriesId,
}

impl ChannelSerial {
    /// Whose serial it is: one start of the daemon, one shard.
    pub fn series(&self) -> SeriesId {
        self.series
    }

    /// Made of this time, in milliseconds since the Unix epoch, or of one that was there before it.
    pub fn time_ms(&self) -> u64 {
        self.time_ms
    }

    /// Counts within a millisecond.
    pub fn counter(&self) -> u16 {
        self.counter
    }

    /// The serial with these parts; `None`: the counter is none.
    pub fn from_parts(time_ms: u64, counter: u16, series: SeriesId) -> Option<ChannelSerial> {
        (counter <= COUNTER_MAX).then_some(ChannelSerial { time_ms, counter, series })
    }

    /// A serial that no other of its series within `time_ms` lies behind.
    pub fn last_within(time_ms: u64, series: SeriesId) -> ChannelSerial {
        ChannelSerial { time_ms, counter: COUNTER_MAX, series }
    }

    /// A serial that lies before this one and behind all others before it.
    pub fn preceding(&self) -> ChannelSerial {
        match self.counter.checked_sub(1) {
            Some(counter) => ChannelSerial { counter, ..*self },
            None => ChannelSerial::last_within(self.time_ms.saturating_sub(1), self.series),
        }
    }
}

impl fmt::Display for ChannelSerial {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let series = std::str::from_utf8(&self.series.0).expect("letters and digits");
        write!(formatter, "{:014}-{:03}@{series}", self.time_ms, self.counter)
    }
}

/// The text is no serial of this daemon's making.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SerialError;

impl fmt::Display for SerialError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("not a channel serial")
    }
}

impl std::error::Error for SerialError {}

impl FromStr for ChannelSerial {
    type Err = SerialError;

    fn from_str(text: &str) -> Result<ChannelSerial, SerialError> {
        let (time_ms, rest) = text.split_once('-').ok_or(SerialError)?;
        let (counter, series) = rest.split_once('@').ok_or(SerialError)?;
        let digits =
            |text: &str, len| text.len() == len && text.bytes().all(|b| b.is_ascii_digit());
        let series: [u8; 10] = series.as_bytes().try_into().map_err(|_| SerialError)?;
        if !digits(time_ms, 14)
            || !digits(counter, 3)
            || !series.iter().all(u8::is_ascii_alphanumeric)
        {
            return Err(SerialError);
        }
        Ok(ChannelSerial {
            time_ms: time_ms.parse().map_err(|_| SerialError)?,
            counter: counter.parse().map_err(|_| SerialError)?,
            series: SeriesId(series),
        })
    }
}

/// Makes the serials of one channel.
#[derive(Clone, Copy, Debug)]
pub struct SerialClock {
    last: ChannelSerial,
}

impl SerialClock {
    /// A clock that has made no serial yet.
    pub fn new(series: SeriesId) -> SerialClock {
        SerialClock { last: ChannelSerial { time_ms: 0, counter: 0, series } }
    }

    /// A clock whose serials lie behind `last`, which an earlier start of the daemon has made.
    pub fn behind(series: SeriesId, last: ChannelSerial) -> SerialClock {
        SerialClock { last: ChannelSerial { series, ..last } }
    }

    /// The next serial: of `now_ms` if that is later than the last one, else just behind the last.
    pub fn next(&mut self, now_ms: u64) -> ChannelSerial {
        let last = &mut self.last;
        if now_ms > last.time_ms {
            (last.time_ms, last.counter) = (now_ms, 0);
        } else if last.counter < COUNTER_MAX {
            last.counter += 1;
        } else {
            (last.time_ms, last.counter) = (last.time_ms + 1, 0);
        }
        *last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serials_increase_as_values_and_as_text_whatever_the_clock_does() {
        let mut clock = SerialClock::new(SeriesId::new([7; 10]));
        let mut last = clock.next(1_700_000_000_000);
        for step in 0..5000u64 {
            let now_ms = 1_700_000_000_000 + step % 3 - 1;
            let next = clock.next(now_ms);
            assert!(next > last && next.to_string() > last.to_string());
            last = next;
        }
    }

    #[test]
    fn a_serial_is_read_back_and_nothing_else_is() {
        let serial = SerialClock::new(SeriesId::new(*b"0123456789")).next(1_700_000_000_000);
        let text = serial.to_string();
        assert_eq!(text.parse(), Ok(serial));
        for end in 0..text.len() {
            assert_eq!(text[..end].parse::<ChannelSerial>(), Err(SerialError), "{}", &text[..end]);
        }
        for wrong in ["", "+1700000000000-000@0000000000", "01700000000000-000@00000-0000"] {
            assert_eq!(wrong.parse::<ChannelSerial>(), Err(SerialError));
        }
    }
}
