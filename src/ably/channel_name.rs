//! Channel names and their qualifiers (6.1, 6.2).

use std::borrow::Cow;

use data_encoding::{BASE64, BASE64_NOPAD};

use super::{ErrorCode, ErrorInfo, Params};

/// Longest channel name, with its qualifier, in bytes.
pub const CHANNEL_NAME_BYTES_MAX: usize = 2048;

/// Metachannels that can be attached to (6.11). The first two have events.
const METACHANNELS: [&str; 7] = [
    "channel.lifecycle",
    "connection.lifecycle",
    "log",
    "log:push",
    "stats:minute",
    "clientEvents:connections",
    "clientEvents:apiRequests",
];

/// A valid channel name, as the client wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelName {
    text: Box<str>,
    /// Where the name begins, behind the qualifier.
    base_start: u16,
    /// Where the params begin, behind the `?` of the qualifier; 0: there are none.
    params_start: u16,
    kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Plain,
    /// With the JMESPath that messages have to pass.
    Derived(Box<str>),
    /// With the whole name of the channel, as it would be without params.
    Meta(Box<str>),
}

impl ChannelName {
    /// Checks `text`.
    ///
    /// # Errors
    /// 40010: empty, too long, a first character or line break that is not allowed, or a qualifier
    /// that is not served.
    pub fn parse(text: &str) -> Result<ChannelName, ErrorInfo> {
        if text.len() > CHANNEL_NAME_BYTES_MAX {
            return invalid("the channel name is longer than 2048 bytes");
        }
        let Some(inner) = text.strip_prefix('[') else {
            check_base(text)?;
            let text = text.into();
            return Ok(ChannelName { text, base_start: 0, params_start: 0, kind: Kind::Plain });
        };
        let Some((inner, base)) = inner.split_once(']') else {
            return invalid("the channel's qualifier has no end");
        };
        check_base(base)?;
        let (qualifier, params) = match inner.split_once('?') {
            Some((qualifier, params)) => (qualifier, Some(params)),
            None => (inner, None),
        };
        let kind = match (qualifier, params) {
            ("", Some(_)) => Kind::Plain,
            ("meta", _) if METACHANNELS.contains(&base) => {
                Kind::Meta(format!("[meta]{base}").into())
            }
            ("meta", _) => return invalid("there is no such metachannel"),
            _ => match qualifier.strip_prefix("filter=") {
                Some(filter) => Kind::Derived(decode_filter(filter)?),
                None => return invalid("this channel qualifier is not served"),
            },
        };
        let params_start = params.map_or(0, |_| "[".len() + qualifier.len() + "?".len());
        Ok(ChannelName {
            text: text.into(),
            base_start: (text.len() - base.len()) as u16,
            params_start: params_start as u16,
            kind,
        })
    }

    /// As the client wrote it, and as every frame to the client repeats it.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The channel itself: without params, and without the filter that a derived channel applies to it.
    pub fn base(&self) -> &str {
        match &self.kind {
            Kind::Plain | Kind::Derived(_) => &self.text[usize::from(self.base_start)..],
            Kind::Meta(name) => name,
        }
    }

    /// What a capability has to name (12.4).
    pub fn resource(&self) -> Cow<'_, str> {
        match &self.kind {
            Kind::Plain | Kind::Meta(_) => self.base().into(),
            Kind::Derived(_) => format!("[filter]{}", self.base()).into(),
        }
    }

    /// The params of the qualifier; usually none.
    pub fn params(&self) -> Params {
        if self.params_start == 0 {
            return Params::default();
        }
        let end = usize::from(self.base_start) - "]".len();
        let query = &self.text[usize::from(self.params_start)..end];
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.map(|(key, value)| (key.into(), value.into())).collect()
    }

    /// The JMESPath that a derived channel applies to messages, not checked yet (6.10).
    pub fn filter(&self) -> Option<&str> {
        match &self.kind {
            Kind::Derived(filter) => Some(filter),
            Kind::Plain | Kind::Meta(_) => None,
        }
    }

    /// Whether nothing but a subscription is possible: derived channels and metachannels are read.
    pub fn is_read_only(&self) -> bool {
        self.kind != Kind::Plain
    }

    /// Refuses what changes a channel, where that is read only.
    ///
    /// # Errors
    /// 40010.
    pub fn writable(self) -> Result<ChannelName, ErrorInfo> {
        match self.is_read_only() {
            false => Ok(self),
            true => invalid("derived channels and metachannels can only be subscribed to"),
        }
    }
}

fn invalid<T>(why: &'static str) -> Result<T, ErrorInfo> {
    Err(ErrorInfo::new(ErrorCode::INVALID_CHANNEL_NAME, why))
}

/// Checks what stands behind the qualifier.
fn check_base(base: &str) -> Result<(), ErrorInfo> {
    let is_line_break =
        |c| matches!(c, '\n' | '\x0b' | '\x0c' | '\r' | '\u{85}' | '\u{2028}' | '\u{2029}');
    match base.chars().next() {
        None => invalid("the channel name is empty"),
        Some(':' | ',') => invalid("a channel name cannot begin with : or ,"),
        Some('[') => invalid("a channel has one qualifier at most"),
        Some(first) if first.is_whitespace() => {
            invalid("a channel name cannot begin with white space")
        }
        Some(_) if base.contains(is_line_break) => {
            invalid("a channel name cannot contain line breaks")
        }
        Some(_) => Ok(()),
    }
}

/// The text of a filter, which is base64 of UTF-8; SDKs pad it, people forget to.
fn decode_filter(text: &str) -> Result<Box<str>, ErrorInfo> {
    let bytes = BASE64.decode(text.as_bytes()).or_else(|_| BASE64_NOPAD.decode(text.as_bytes()));
    match bytes.map(String::from_utf8) {
        Ok(Ok(filter)) => Ok(filter.into()),
        _ => invalid("the channel's filter is not base64 of UTF-8"),
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
            assert_eq!(parsed.resource(), name);
            assert!(parsed.params().is_empty());
            assert!(parsed.writable().is_ok());
        }
    }

    #[test]
    fn params_belong_to_the_qualifier_and_not_to_the_channel() {
        let name = ChannelName::parse("[?rewind=1&x=y]room").expect("legal");
        assert_eq!((name.base(), &*name.resource()), ("room", "room"));
        assert_eq!(name.params().get("rewind"), Some("1"));
        assert_eq!(name.params().get("x"), Some("y"));
    }

    #[test]
    fn a_derived_channel_is_a_filter_before_a_channel() {
        let filter = "name == `\"filtered\"` && headers.number == `26095`";
        let encoded = BASE64.encode(filter.as_bytes());
        for (text, params) in [
            (format!("[filter={encoded}]room"), 0),
            (format!("[filter={}]room", encoded.trim_end_matches('=')), 0),
            (format!("[filter={encoded}?rewind=1]room"), 1),
        ] {
            let name = ChannelName::parse(&text).expect("legal");
            assert_eq!((name.as_str(), name.base()), (&*text, "room"));
            assert_eq!((name.filter(), &*name.resource()), (Some(filter), "[filter]room"));
            assert_eq!(name.params().iter().count(), params);
            let error = name.writable().expect_err("derived");
            assert_eq!(error.code, ErrorCode::INVALID_CHANNEL_NAME);
        }
    }

    #[test]
    fn a_metachannel_is_a_channel_of_its_own() {
        for text in ["[meta]channel.lifecycle", "[meta?rewind=1]channel.lifecycle"] {
            let name = ChannelName::parse(text).expect("legal");
            assert_eq!((name.as_str(), name.base()), (text, "[meta]channel.lifecycle"));
            assert_eq!((name.filter(), &*name.resource()), (None, "[meta]channel.lifecycle"));
            assert!(name.writable().is_err());
        }
    }

    #[test]
    fn illegal_names_are_refused() {
        let long = "x".repeat(CHANNEL_NAME_BYTES_MAX + 1);
        for name in [
            "",
            ":a",
            ",a",
            " a",
            "a\nb",
            "[?rewind=1]",
            "[?open",
            "[]a",
            "[?a=1][?b=2]c",
            "[meta]",
            "[meta]other",
            "[queue]a",
            "[product:a/b]c",
            "[filter=]",
            "[filter=a b]c",
            "[filter=/w==]a",
            &long,
        ] {
            let error = ChannelName::parse(name).expect_err(name);
            assert_eq!(error.code, ErrorCode::INVALID_CHANNEL_NAME, "{name}");
        }
    }
}
