//! Channel params (6.5): what an ATTACH asks for beyond its modes.

use std::time::Duration;

use super::occupancy::Category;
use super::{ErrorCode, ErrorInfo, Modes, Params};

/// Most messages that a rewind replays (17).
pub const REWIND_MESSAGES_MAX: u32 = 100;

/// How much of the recent past an attachment wants before what is live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rewind {
    /// The last messages, at most [`REWIND_MESSAGES_MAX`].
    Count(u32),
    /// What was published since then, as far back as the channel keeps it.
    Span(Duration),
}

impl Rewind {
    /// Reads `N`, `Ns` (seconds) or `Nm` (minutes).
    ///
    /// # Errors
    /// 40000: anything else.
    pub fn parse(text: &str) -> Result<Rewind, ErrorInfo> {
        let digits = text.trim_end_matches(['s', 'm']);
        let unit = &text[digits.len()..];
        match (number(digits), unit) {
            (Some(count), "") => Ok(Rewind::Count(count.min(REWIND_MESSAGES_MAX))),
            (Some(seconds), "s") => Ok(Rewind::Span(Duration::from_secs(seconds.into()))),
            (Some(minutes), "m") => Ok(Rewind::Span(Duration::from_secs(60 * u64::from(minutes)))),
            _ => refuse("rewind is a number of messages, seconds (15s) or minutes (2m)"),
        }
    }
}

/// What the params of an ATTACH ask for, read once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelParams {
    /// Where to begin, if not now.
    pub rewind: Option<Rewind>,
    /// Messages that a [`Rewind::Span`] replays at most; 1 to [`REWIND_MESSAGES_MAX`].
    pub rewind_limit: u32,
    /// Whether messages may come as deltas (10).
    pub delta: bool,
    /// Which occupancy events are wanted (6.9).
    pub occupancy: Option<Category>,
    /// Whether the attachment hears what its connection publishes.
    pub echo: bool,
    /// Whether appends come as full updates.
    pub append_full: bool,
}

impl Default for ChannelParams {
    fn default() -> ChannelParams {
        ChannelParams {
            rewind: None,
            rewind_limit: REWIND_MESSAGES_MAX,
            delta: false,
            occupancy: None,
            echo: true,
            append_full: false,
        }
    }
}

impl ChannelParams {
    /// Reads the params of an ATTACH. Values that mean nothing here are as good as absent.
    ///
    /// # Errors
    /// 40000: a `rewind` or `rewindLimit` that cannot be read.
    pub fn read(params: &Params) -> Result<ChannelParams, ErrorInfo> {
        let mut read = ChannelParams::default();
        for (key, value) in params.iter() {
            match key {
                "rewind" => read.rewind = Some(Rewind::parse(value)?),
                "rewindLimit" => match number(value) {
                    Some(limit @ 1..) => read.rewind_limit = limit.min(REWIND_MESSAGES_MAX),
                    _ => return refuse("rewindLimit is a number of messages, at least 1"),
                },
                "delta" => read.delta = value == "vcdiff",
                "occupancy" => read.occupancy = Category::parse(value),
                "echo" => read.echo = value != "false",
                "appendMode" => read.append_full = value == "full",
                _ => {}
            }
        }
        Ok(read)
    }

    /// Those of `asked` that have an effect, as ATTACHED repeats them: in one order, with `modes` as
    /// they were granted (6.3).
    pub fn echoed(&self, asked: &Params, modes: Modes) -> Params {
        let mut echoed: Vec<(Box<str>, Box<str>)> = Vec::new();
        if asked.get("modes").is_some() {
            echoed.push(("modes".into(), modes.names().into()));
        }
        for (key, has_effect) in [
            ("rewind", self.rewind.is_some()),
            ("rewindLimit", matches!(self.rewind, Some(Rewind::Span(_)))),
            ("delta", self.delta),
            ("occupancy", self.occupancy.is_some()),
            ("echo", matches!(asked.get("echo"), Some("true" | "false"))),
            ("appendMode", self.append_full),
        ] {
            if let Some(value) = asked.get(key).filter(|_| has_effect) {
                echoed.push((key.into(), value.into()));
            }
        }
        echoed.into_iter().collect()
    }
}

/// `text` as a decimal number; no sign, no space, and no longer than a number is: it is kept.
fn number(text: &str) -> Option<u32> {
    const DIGITS_MAX: usize = 10;
    let is_decimal = text.len() <= DIGITS_MAX && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| is_decimal)
}

fn refuse<T>(message: &'static str) -> Result<T, ErrorInfo> {
    Err(ErrorInfo::new(ErrorCode::BAD_REQUEST, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(pairs: &[(&str, &str)]) -> Params {
        pairs.iter().map(|&(key, value)| (key.into(), value.into())).collect()
    }

    #[test]
    fn a_rewind_is_a_count_or_a_span() {
        assert_eq!(Rewind::parse("1"), Ok(Rewind::Count(1)));
        assert_eq!(Rewind::parse("5000"), Ok(Rewind::Count(REWIND_MESSAGES_MAX)));
        assert_eq!(Rewind::parse("15s"), Ok(Rewind::Span(Duration::from_secs(15))));
        assert_eq!(Rewind::parse("2m"), Ok(Rewind::Span(Duration::from_secs(120))));
        assert_eq!(
            Rewind::parse("4294967295m"),
            Ok(Rewind::Span(Duration::from_secs(60 * u64::from(u32::MAX))))
        );
        for wrong in [
            "",
            "s",
            "m",
            "-1",
            "+1",
            "1.5",
            "1h",
            "1sm",
            "1 s",
            "4294967296",
            "00000000001",
            "ten",
        ] {
            let error = Rewind::parse(wrong).expect_err(wrong);
            assert_eq!((error.code, error.status), (ErrorCode::BAD_REQUEST, 400));
        }
    }

    #[test]
    fn params_that_mean_nothing_are_neither_obeyed_nor_repeated() {
        let asked = params(&[
            ("nonexistent", "foo"),
            ("delta", "xdelta"),
            ("occupancy", "everything"),
            ("appendMode", "delta"),
            ("echo", "perhaps"),
            ("rewindLimit", "5"),
        ]);
        let read = ChannelParams::read(&asked).expect("no rewind in it");
        assert_eq!(read, ChannelParams { rewind_limit: 5, ..ChannelParams::default() });
        assert!(read.echoed(&asked, Modes::DEFAULT).is_empty());
    }

    #[test]
    fn params_with_an_effect_are_repeated_in_one_order() {
        let asked = params(&[
            ("appendMode", "full"),
            ("rewindLimit", "5"),
            ("echo", "false"),
            ("delta", "vcdiff"),
            ("occupancy", "metrics.publishers"),
            ("rewind", "2m"),
            ("modes", "SUBSCRIBE"),
        ]);
        let read = ChannelParams::read(&asked).expect("valid");
        assert_eq!(
            read,
            ChannelParams {
                rewind: Some(Rewind::Span(Duration::from_secs(120))),
                rewind_limit: 5,
                delta: true,
                occupancy: Category::parse("metrics.publishers"),
                echo: false,
                append_full: true,
            }
        );
        let echoed = read.echoed(&asked, Modes::SUBSCRIBE);
        let expected = params(&[
            ("modes", "subscribe"),
            ("rewind", "2m"),
            ("rewindLimit", "5"),
            ("delta", "vcdiff"),
            ("occupancy", "metrics.publishers"),
            ("echo", "false"),
            ("appendMode", "full"),
        ]);
        assert_eq!(echoed, expected);
    }

    #[test]
    fn an_unreadable_rewind_refuses_the_attach() {
        for pair in [("rewind", "soon"), ("rewindLimit", "0"), ("rewindLimit", "few")] {
            let error = ChannelParams::read(&params(&[pair])).expect_err("unreadable");
            assert_eq!(error.code, ErrorCode::BAD_REQUEST);
        }
    }
}
