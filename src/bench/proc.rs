//! What the kernel says of a process and of the machine, from `/proc`.

use std::fs;

use anyhow::{Context, anyhow};

/// Readings of one process and of the whole machine at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Reading {
    /// CPU time of all threads of the process, in nanoseconds; kernel workers of its rings count.
    pub process_ns: u64,
    /// Time that the machine's cores were not idle, in ticks of 10 ms; softirq threads count.
    pub busy_ticks: u64,
    /// Resident memory of the process, in bytes.
    pub resident_bytes: u64,
}

/// Ticks of `/proc/stat` in a second; fixed by the kernel's interface.
pub(super) const TICKS_PER_SECOND: u64 = 100;

impl Reading {
    /// Reads process `pid` and the machine.
    pub fn take(pid: u32) -> anyhow::Result<Reading> {
        let mut process_ns = 0;
        let tasks = fs::read_dir(format!("/proc/{pid}/task"));
        for task in tasks.with_context(|| format!("no process {pid}"))? {
            // A thread that has ended meanwhile has taken its time with it.
            let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) else { continue };
            process_ns += text.split(' ').next().and_then(|ns| ns.parse::<u64>().ok()).unwrap_or(0);
        }
        let stat = fs::read_to_string("/proc/stat")?;
        let ticks: Vec<u64> = stat
            .lines()
            .next()
            .ok_or_else(|| anyhow!("/proc/stat is empty"))?
            .split_whitespace()
            .skip(1)
            .map_while(|field| field.parse().ok())
            .collect();
        // user nice system idle iowait irq softirq
        let [user, nice, system, _, _, irq, softirq, ..] = ticks[..] else {
            anyhow::bail!("/proc/stat has too few fields");
        };
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = resident.and_then(|text| text.trim().strip_suffix("kB"));
        let kib: u64 = kib.and_then(|kib| kib.trim().parse().ok()).unwrap_or(0);
        Ok(Reading {
            process_ns,
            busy_ticks: user + nice + system + irq + softirq,
            resident_bytes: kib * 1024,
        })
    }

    /// CPU time of the process since `earlier`, in microseconds.
    pub fn process_us_since(&self, earlier: &Reading) -> f64 {
        self.process_ns.saturating_sub(earlier.process_ns) as f64 / 1000.0
    }

    /// Busy time of the machine since `earlier`, in microseconds.
    pub fn busy_us_since(&self, earlier: &Reading) -> f64 {
        let ticks = self.busy_ticks.saturating_sub(earlier.busy_ticks);
        ticks as f64 * 1e6 / TICKS_PER_SECOND as f64
    }
}
