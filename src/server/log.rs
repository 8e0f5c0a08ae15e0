//! The log: shards hand over lines and never wait; a thread of its own writes them.

use std::io::{self, Write};
use std::path::Path;
use std::sync::mpsc::{self, SyncSender};
use std::time::{Duration, SystemTime};

use serde_json::{Map, Value};

use super::journald::{self, Journal};
use crate::base::{Level, LogLine};

/// Lines that may wait for the writer; what comes when it is full is dropped and counted.
const LINES_MAX: usize = 1024;

/// How long the end of the daemon waits for the log.
const FLUSH_TIME_MAX: Duration = Duration::from_millis(500);

/// What is written, and how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogConfig {
    /// What matters less is left out.
    pub level: Level,
    /// How a line looks.
    pub format: LogFormat,
}

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// Fields of the journal where standard error is a stream of that, logfmt elsewhere.
    #[default]
    Auto,
    /// logfmt on standard error.
    Logfmt,
    /// An object a line, on standard error.
    Json,
}

/// A shard's end of the log, or the monitor's.
#[derive(Clone)]
pub(super) struct Log {
    lines: SyncSender<Item>,
    level: Level,
    dropped: u64,
}

/// What the writer is sent.
enum Item {
    Line(LogLine),
    /// Everything before this was written once it is dropped.
    End(#[expect(dead_code, reason = "to be dropped")] SyncSender<()>),
}

/// Starts the thread that writes.
pub(super) fn spawn(config: LogConfig) -> Log {
    let (lines, received) = mpsc::sync_channel::<Item>(LINES_MAX);
    let stream = std::env::var("JOURNAL_STREAM").ok();
    let journal = match config.format {
        LogFormat::Auto => Journal::connect(Path::new(journald::SOCKET), stream.as_deref()),
        LogFormat::Logfmt | LogFormat::Json => None,
    };
    std::thread::Builder::new()
        .name("log".into())
        .spawn(move || {
            for item in received {
                let Item::Line(line) = item else { continue };
                let is_written =
                    journal.as_ref().is_some_and(|journal| journal.write(&line).is_ok());
                if !is_written {
                    let text = render(&line, config.format, stream.is_some(), SystemTime::now());
                    // Nowhere to complain to when standard error is gone.
                    let _ = writeln!(io::stderr().lock(), "{text}");
                }
            }
        })
        .expect("a thread can be started before any client has connected");
    Log { lines, level: config.level, dropped: 0 }
}

/// A line for standard error. A journal behind that knows the time by itself and takes the priority from the
/// front of a line (sd-daemon(3)).
fn render(line: &LogLine, format: LogFormat, for_journal: bool, now: SystemTime) -> String {
    let unix = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    match format {
        LogFormat::Json => {
            let mut object = Map::new();
            object.insert("ts".into(), (unix.as_millis() as u64 as f64 / 1e3).into());
            object.insert("level".into(), line.level().name().into());
            object.insert("msg".into(), line.text().into());
            for (name, value) in line.fields() {
                object.insert(name.into(), value.into());
            }
            Value::Object(object).to_string()
        }
        LogFormat::Auto if for_journal => format!("<{}>{}", line.level().priority(), line.logfmt()),
        LogFormat::Auto | LogFormat::Logfmt => {
            format!("ts={}.{:03} {}", unix.as_secs(), unix.subsec_millis(), line.logfmt())
        }
    }
}

impl Log {
    /// Writes `line`, some time, if it matters enough.
    pub(super) fn line(&mut self, line: LogLine) {
        if line.level() > self.level {
            return;
        }
        if self.lines.try_send(Item::Line(line)).is_err() {
            self.dropped += 1;
        } else if self.dropped > 0 {
            let note = LogLine::new(Level::Warn, "lines were not logged: the log was behind");
            if self.lines.try_send(Item::Line(note.with("count", self.dropped))).is_ok() {
                self.dropped = 0;
            }
        }
    }

    /// Waits until what was handed over is written, but not for ever: standard error may be stuck. For
    /// the end of the daemon.
    pub(super) fn flush(&self) {
        let (end, is_written) = mpsc::sync_channel(1);
        if self.lines.try_send(Item::End(end)).is_ok() {
            // Ends when the writer drops its side.
            let _ = is_written.recv_timeout(FLUSH_TIME_MAX);
        }
    }

    /// The same for a line without fields.
    pub(super) fn say(&mut self, level: Level, text: &'static str) {
        self.line(LogLine::new(level, text));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_its_time_its_priority_or_is_an_object() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_millis(1_790_000_000_012);
        let line = LogLine::new(Level::Warn, "two words").with("shard", 1).with("error", "a\"b");
        let render = |format, for_journal| render(&line, format, for_journal, now);
        let logfmt = r#"level=warn msg="two words" shard=1 error="a\"b""#;
        assert_eq!(render(LogFormat::Auto, false), format!("ts=1790000000.012 {logfmt}"));
        assert_eq!(render(LogFormat::Auto, true), format!("<4>{logfmt}"));
        assert_eq!(render(LogFormat::Logfmt, true), format!("ts=1790000000.012 {logfmt}"));
        let json: Value = serde_json::from_str(&render(LogFormat::Json, true)).expect("an object");
        let expected = serde_json::json!({
            "ts": 1_790_000_000.012, "level": "warn", "msg": "two words", "shard": "1", "error": "a\"b"
        });
        assert_eq!(json, expected);
    }

    #[test]
    fn what_matters_less_is_left_out() {
        let (lines, received) = mpsc::sync_channel(8);
        let mut log = Log { lines, level: Level::Warn, dropped: 0 };
        log.say(Level::Info, "left out");
        log.say(Level::Warn, "written");
        log.say(Level::Error, "written too");
        drop(log);
        let said = received.iter().map(|item| match item {
            Item::Line(line) => line.text(),
            Item::End(_) => unreachable!("nobody has flushed"),
        });
        assert_eq!(said.collect::<Vec<_>>(), ["written", "written too"]);
    }
}
