//! The log: shards hand over lines and never wait; a thread of its own writes them.

use std::io::Write;
use std::sync::mpsc::{self, SyncSender};

/// Lines that may wait for the writer; what comes when it is full is dropped and counted.
const LINES_MAX: usize = 1024;

/// A shard's end of the log.
#[derive(Clone)]
pub(super) struct Log {
    lines: SyncSender<String>,
    dropped: u64,
}

/// Starts the thread that writes to standard error.
pub(super) fn spawn() -> Log {
    let (lines, received) = mpsc::sync_channel::<String>(LINES_MAX);
    std::thread::Builder::new()
        .name("log".into())
        .spawn(move || {
            for line in received {
                // Nowhere to complain to when standard error is gone.
                let _ = writeln!(std::io::stderr().lock(), "{line}");
            }
        })
        .expect("a thread can be started before any client has connected");
    Log { lines, dropped: 0 }
}

impl Log {
    /// Writes `line`, some time.
    pub(super) fn line(&mut self, line: String) {
        if self.lines.try_send(line).is_err() {
            self.dropped += 1;
        } else if self.dropped > 0 {
            let note = format!("{} lines were not logged: the log was behind", self.dropped);
            if self.lines.try_send(note).is_ok() {
                self.dropped = 0;
            }
        }
    }
}
