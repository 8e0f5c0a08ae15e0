//! One line of the log as a value: cores make them, a thread of `server` writes them. A level, a text that is
//! always the same for the same event, and fields. Never a payload, a key or a token.

use std::fmt::{Display, Write};

/// How much attention a line wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Somebody has to do something.
    Error,
    /// Somebody may want to know why.
    Warn,
    /// What the daemon does.
    #[default]
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
    text: &'static str,
    fields: Vec<(&'static str, String)>,
}

impl LogLine {
    /// A line that says `text`.
    pub fn new(level: Level, text: &'static str) -> LogLine {
        LogLine { level, text, fields: Vec::new() }
    }

    /// Adds a field.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Display) -> LogLine {
        self.fields.push((name, value.to_string()));
        self
    }

    /// How much attention it wants.
    pub fn level(&self) -> Level {
        self.level
    }

    /// What has happened.
    pub fn text(&self) -> &'static str {
        self.text
    }

    /// What goes with it.
    pub fn fields(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.fields.iter().map(|(name, value)| (*name, value.as_str()))
    }

    /// As logfmt: `level=warn msg="slow consumer cut" connection=x`.
    pub fn logfmt(&self) -> String {
        let mut out = format!("level={}", self.level.name());
        write_field(&mut out, "msg", self.text);
        self.fields().for_each(|(name, value)| write_field(&mut out, name, value));
        out
    }

    /// For a reader who knows the level: `slow consumer cut connection=x`.
    pub fn sentence(&self) -> String {
        let mut out = self.text.to_owned();
        self.fields().for_each(|(name, value)| write_field(&mut out, name, value));
        out
    }
}

/// What would break the line is quoted.
fn write_field(out: &mut String, name: &str, value: &str) {
    let is_plain = |c: char| c.is_ascii_graphic() && c != '"' && c != '=' && c != '\\';
    let _ = match value.is_empty() || !value.chars().all(is_plain) {
        true => write!(out, " {name}={value:?}"),
        false => write!(out, " {name}={value}"),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_cannot_end_their_field_or_line() {
        let line =
            LogLine::new(Level::Warn, "two words").with("plain", 7).with("odd", "a=\"b\"\nc");
        assert_eq!(line.logfmt(), r#"level=warn msg="two words" plain=7 odd="a=\"b\"\nc""#);
        assert_eq!(line.sentence(), r#"two words plain=7 odd="a=\"b\"\nc""#);
        let line = LogLine::new(Level::Info, "word").with("empty", "");
        assert_eq!(line.logfmt(), r#"level=info msg=word empty="""#);
        assert!(Level::Error < Level::Warn && Level::Warn < Level::Info);
    }
}
