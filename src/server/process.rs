//! What the kernel says of this process, for the metrics that all processes have.

use std::fs;
use std::time::SystemTime;

use crate::sys::{host, rusage};

/// See the module text.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Process {
    /// CPU time of all threads, in seconds.
    pub cpu_seconds: f64,
    /// Memory that is not swapped out, in bytes.
    pub resident_bytes: u64,
    /// Open descriptors; sockets of clients are not among them.
    pub open_fds: u64,
    /// Descriptors that may be open; the largest number where there is no limit.
    pub max_fds: u64,
    /// When it started, in seconds since the Unix epoch.
    pub start_seconds: f64,
}

impl Process {
    /// Reads them. What `/proc` does not tell is 0.
    pub(super) fn read(started: SystemTime) -> Process {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let resident_kib = status.lines().find_map(|line| {
            line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok()
        });
        let since_epoch = started.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Process {
            cpu_seconds: rusage::process_cpu_us() as f64 / 1e6,
            resident_bytes: resident_kib.unwrap_or(0) * 1024,
            // The directory itself is open while it is read.
            open_fds: fs::read_dir("/proc/self/fd").map_or(0, |fds| fds.count() as u64 - 1),
            max_fds: host::open_files().soft.unwrap_or(u64::MAX),
            start_seconds: since_epoch.as_secs_f64(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells_all_of_it() {
        let file = fs::File::open("/dev/null").expect("is everywhere");
        let before = Process::read(SystemTime::now());
        assert!(before.resident_bytes > 1 << 20 && before.cpu_seconds > 0.0, "{before:?}");
        assert!(before.start_seconds > 1.6e9 && before.max_fds >= before.open_fds, "{before:?}");
        assert!(before.open_fds >= 4, "{before:?}");
        drop(file);
    }
}
