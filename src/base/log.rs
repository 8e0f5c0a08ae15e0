//! One line of the log as a value: cores make them, a thread of `server` writes them. In logfmt: a level, a
//! text that is always the same for the same event, and fields. Never a payload, a key or a token.

use std::fmt::{Display, Write};

/// How much attention a line wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Somebody has to do something.
    Error,
    /// Somebody may want to know why.
    Warn,
    /// What the daemon does.
    Info,
}

impl Level {
    /// Its name in a line.
    pub fn name(self) -> &'static str {
        match self {
            Level::Error => "error",
            Level::Warn => "warn",
            Level::Info => "info",
        }
    }

    /// Its priority for syslog and journal (RFC 5424 §6.2.1).
    pub fn priority(self) -> u8 {
        match self {
            Level::Error => 3,
            Level::Warn => 4,
            Level::Info => 6,
        }
    }
}

/// See the module text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    level: Level,
    fields: String,
}

impl LogLine {
    /// A line that says `text`.
    pub fn new(level: Level, text: &'static str) -> LogLine {
        let fields = String::new();
        LogLine { level, fields }.with("msg", text)
    }

    /// Adds a field. What would break the line is quoted.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Display) -> LogLine {
        let value = value.to_string();
        let is_plain = |c: char| c.is_ascii_graphic() && c != '"' && c != '=' && c != '\\';
        if value.is_empty() || !value.chars().all(is_plain) {
            let _ = write!(self.fields, " {name}={value:?}");
        } else {
            let _ = write!(self.fields, " {name}={value}");
        }
        self
    }

    /// How much attention it wants.
    pub fn level(&self) -> Level {
        self.level
    }

    /// Text and fields: `msg="slow consumer cut" connection=x`.
    pub fn fields(&self) -> &str {
        &self.fields[1..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_cannot_end_their_field_or_line() {
        let line =
            LogLine::new(Level::Warn, "two words").with("plain", 7).with("odd", "a=\"b\"\nc");
        assert_eq!(line.fields(), r#"msg="two words" plain=7 odd="a=\"b\"\nc""#);
        assert_eq!(
            LogLine::new(Level::Info, "word").with("empty", "").fields(),
            r#"msg=word empty="""#
        );
    }
}
