//! Channel names and their qualifiers (6.1, 6.2).

use super::{ErrorCode, ErrorInfo, Params};

/// Longest channel name, with its qualifier, in bytes.
pub const CHANNEL_NAME_BYTES_MAX: usize = 2048;

/// A valid channel name, as the client wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelName {
    text: Box<str>,
    /// Where the name begins, behind `[?params]`.
    base_start: u16,
}

impl ChannelName {
    /// Checks `text`.
    ///
    /// # Errors
    /// 40010: empty, too long, a first character or line break that is not allowed, or a qualifier
    /// that is not served.
    pub fn parse(text: &str) -> Result<ChannelName, ErrorInfo> {
        let invalid = |why: &'static str| ErrorInfo::new(ErrorCode::INVALID_CHANNEL_NAME, why);
        if text.len() > CHANNEL_NAME_BYTES_MAX {
            return Err(invalid("the channel name is longer than 2048 bytes"));
        }
        let base_start = match text.strip_prefix("[?") {
            Some(rest) => {
                let end = rest.find(']').ok_or(invalid("the channel's params have no end"))?;
                "[?".len() + end + "]".len()
            }
            None => 0,
        };
        let base = &text[base_start..];
        let is_line_break =
            |c| matches!(c, '\n' | '\x0b' | '\x0c' | '\r' | '\u{85}' | '\u{2028}' | '\u{2029}');
        match base.chars().next() {
            None => Err(invalid("the channel name is empty")),
            Some(':' | ',') => Err(invalid("a channel name cannot begin with : or ,")),
            Some('[') => Err(invalid("this channel qualifier is not served")),
            Some(first) if first.is_whitespace() => {
                Err(invalid("a channel name cannot begin with white space"))
            }
            Some(_) if base.contains(is_line_break) => {
                Err(invalid("a channel name cannot contain line breaks"))
            }
            Some(_) => Ok(ChannelName { text: text.into(), base_start: base_start as u16 }),
        }
    }

    /// As the client wrote it, and as every frame to the client repeats it.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The channel itself, without `[?params]`.
    pub fn base(&self) -> &str {
        &self.text[usize::from(self.base_start)..]
    }

    /// The params of the qualifier; usually none.
    pub fn params(&self) -> Params {
        let query = self.text[..usize::from(self.base_start)].strip_prefix("[?");
        let query = query.and_then(|query| query.strip_suffix(']')).unwrap_or_default();
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.map(|(key, value)| (key.into(), value.into())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_but_legal_names_are_taken_as_they_are() {
        for name in ["a", "a/b", "100%", "with space", "émoji 🎉", "chat:room:1", "a[b]", "?x"] {
            let parsed = ChannelName::parse(name).expect("legal");
            assert_eq!((parsed.as_str(), parsed.base()), (name, name));
        }
    }

    #[test]
    fn params_belong_to_the_qualifier_and_not_to_the_channel() {
        let name = ChannelName::parse("[?rewind=1&x=y]room").expect("legal");
        assert_eq!(name.base(), "room");
        assert_eq!(name.params().get("rewind"), Some("1"));
        assert_eq!(name.params().get("x"), Some("y"));
    }

    #[test]
    fn illegal_names_are_refused() {
        let long = "x".repeat(CHANNEL_NAME_BYTES_MAX + 1);
        for name in ["", ":a", ",a", " a", "a\nb", "[meta]log", "[?rewind=1]", "[?open", &long] {
            let error = ChannelName::parse(name).expect_err(name);
            assert_eq!(error.code, ErrorCode::INVALID_CHANNEL_NAME);
        }
    }
}
