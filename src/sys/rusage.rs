//! What the process is and what it has used so far.

/// User and system CPU time of all threads of this process, in microseconds.
pub fn process_cpu_us() -> u64 {
    // SAFETY: all-zero bytes are a valid `rusage`.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: `usage` is a valid place for the kernel to write one `rusage` to.
    let rc = unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) };
    assert_eq!(rc, 0, "getrusage of oneself cannot fail");
    let micros = |time: libc::timeval| time.tv_sec as u64 * 1_000_000 + time.tv_usec as u64;
    micros(usage.ru_utime) + micros(usage.ru_stime)
}

/// The limit on open files, which is also the limit on direct descriptors of one ring.
pub fn open_files_max() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid place for the kernel to write one `rlimit` to.
    let rc = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    assert_eq!(rc, 0, "getrlimit of a known resource cannot fail");
    limit.rlim_cur
}

/// The user that the process acts as.
pub fn user_id() -> u32 {
    // SAFETY: touches no memory and cannot fail.
    unsafe { libc::geteuid() }
}
