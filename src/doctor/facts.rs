//! What the host is like: `/proc`, cgroups, limits. What cannot be read is not known, and is no finding.

use std::fs;

use crate::sys::host::{self, Limit};
use crate::sys::probe::{self, Lack};

/// See the module text.
#[derive(Debug)]
pub(super) struct Facts {
    pub kernel: String,
    pub io_uring: Result<(), Lack>,
    /// `kernel.io_uring_disabled`: 0 nobody, 1 all but a group, 2 everybody.
    pub io_uring_disabled: Option<u64>,
    /// Whether a seccomp filter stands between the process and the kernel.
    pub is_filtered: bool,
    pub may_lock_all: bool,
    pub may_bind_low: bool,
    pub locked: Limit,
    pub files: Limit,
    pub somaxconn: Option<u64>,
    pub netdev_max_backlog: Option<u64>,
    pub unprivileged_port_start: Option<u64>,
    /// Bytes of all TCP sockets together, at which the kernel begins to take back.
    pub tcp_pressure_bytes: Option<u64>,
    /// Whether the kernel's own TLS is built in or loaded.
    pub has_kernel_tls: Option<bool>,
    pub is_clock_synchronised: Option<bool>,
    /// CPUs' worth of time that cgroups grant.
    pub cpu_quota: Option<f64>,
    /// Bytes that could be used without swapping.
    pub memory_available_bytes: Option<u64>,
    /// Bytes that cgroups grant.
    pub memory_max_bytes: Option<u64>,
}

impl Facts {
    pub(super) fn gather() -> Facts {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let tcp_mem = fs::read_to_string("/proc/sys/net/ipv4/tcp_mem").unwrap_or_default();
        let pressure = tcp_mem.split_ascii_whitespace().nth(1).and_then(|pages| pages.parse().ok());
        Facts {
            kernel: host::kernel_release(),
            io_uring: probe::look(),
            io_uring_disabled: number("/proc/sys/kernel/io_uring_disabled"),
            is_filtered: field(&status, "Seccomp:") == Some("2"),
            may_lock_all: host::may_lock_all(),
            may_bind_low: host::may_bind_low(),
            locked: host::locked_memory(),
            files: host::open_files(),
            somaxconn: number("/proc/sys/net/core/somaxconn"),
            netdev_max_backlog: number("/proc/sys/net/core/netdev_max_backlog"),
            unprivileged_port_start: number("/proc/sys/net/ipv4/ip_unprivileged_port_start"),
            tcp_pressure_bytes: pressure.map(|pages: u64| pages * host::page_bytes()),
            has_kernel_tls: fs::read_to_string("/proc/sys/net/ipv4/tcp_available_ulp")
                .ok()
                .map(|names| names.split_ascii_whitespace().any(|name| name == "tls")),
            is_clock_synchronised: host::is_clock_synchronised(),
            cpu_quota: host::least_of_cgroups("cpu.max", cpu_quota),
            memory_available_bytes: field(&memory, "MemAvailable:")
                .and_then(|kib| kib.parse::<u64>().ok())
                .map(|kib| kib * 1024),
            memory_max_bytes: host::memory_max_bytes(),
        }
    }

    /// Bytes that the process may lock; `None`: as many as it likes.
    pub(super) fn locked_bytes_max(&self) -> Option<u64> {
        if self.may_lock_all { None } else { self.locked.soft }
    }
}

fn number(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The first word behind `name` in a file of lines `name value ..`.
fn field<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    text.lines().find_map(|line| line.strip_prefix(name))?.split_ascii_whitespace().next()
}

/// `150000 100000` is one and a half CPUs, `max 100000` any number.
fn cpu_quota(text: &str) -> Option<f64> {
    let (quota, period) = text.trim().split_once(' ')?;
    Some(quota.parse::<f64>().ok()? / period.parse::<f64>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotas_and_fields_are_read() {
        assert_eq!(cpu_quota("150000 100000\n"), Some(1.5));
        assert_eq!(cpu_quota("max 100000\n"), None);
        assert_eq!(cpu_quota(""), None);
        let status = "CapPrm:\t01\nCapEff:\t000001ffffffffff\nSeccomp:\t2\n";
        assert_eq!(field(status, "CapEff:"), Some("000001ffffffffff"));
        assert_eq!(field(status, "Seccomp:"), Some("2"));
        assert_eq!(field(status, "None:"), None);
    }

    #[test]
    fn this_host_can_be_looked_at() {
        let facts = Facts::gather();
        assert!(facts.io_uring.is_ok(), "{facts:?}");
        assert!(facts.memory_available_bytes.is_some_and(|bytes| bytes > 0), "{facts:?}");
    }
}
