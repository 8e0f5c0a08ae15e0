//! The log: shards hand over lines and never wait; a thread of its own writes them.

use std::io::Write;
use std::sync::mpsc::{self, SyncSender};
use std::time::{Duration, SystemTime};

use crate::base::{Level, LogLine};

/// Lines that may wait for the writer; what comes when it is full is dropped and counted.
const LINES_MAX: usize = 1024;

/// How long the end of the daemon waits for the log.
const FLUSH_TIME_MAX: Duration = Duration::from_millis(500);

/// A shard's end of the log, or the monitor's.
#[derive(Clone)]
pub(super) struct Log {
    lines: SyncSender<Item>,
    dropped: u64,
}

/// What the writer is sent.
enum Item {
    Line(LogLine),
    /// Everything before this was written once it is dropped.
    End(#[expect(dead_code, reason = "to be dropped")] SyncSender<()>),
}

/// Starts the thread that writes to standard error.
pub(super) fn spawn() -> Log {
    let (lines, received) = mpsc::sync_channel::<Item>(LINES_MAX);
    // The journal knows the time by itself and takes the priority from the front of a line
    // (sd-daemon(3)).
    let is_journal = std::env::var_os("JOURNAL_STREAM").is_some();
    std::thread::Builder::new()
        .name("log".into())
        .spawn(move || {
            for item in received {
                let Item::Line(line) = item else { continue };
                let (level, fields) = (line.level(), line.fields());
                let mut out = std::io::stderr().lock();
                // Nowhere to complain to when standard error is gone.
                let _ = if is_journal {
                    writeln!(out, "<{}>level={} {fields}", level.priority(), level.name())
                } else {
                    let now = SystemTime::now();
                    let unix = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                    let (seconds, millis) = (unix.as_secs(), unix.subsec_millis());
                    writeln!(out, "ts={seconds}.{millis:03} level={} {fields}", level.name())
                };
            }
        })
        .expect("a thread can be started before any client has connected");
    Log { lines, dropped: 0 }
}

impl Log {
    /// Writes `line`, some time.
    pub(super) fn line(&mut self, line: LogLine) {
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
