//! What the host grants this process, and how its clock is doing.

use std::ffi::CString;
use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use libc::c_int;

/// Bits of capabilities (capabilities(7)).
const CAP_NET_BIND_SERVICE: u32 = 10;
const CAP_IPC_LOCK: u32 = 14;

/// Whether the process may lock any amount of memory.
pub fn may_lock_all() -> bool {
    has_capability(CAP_IPC_LOCK)
}

/// Whether the process may listen on every port.
pub fn may_bind_low() -> bool {
    has_capability(CAP_NET_BIND_SERVICE)
}

fn has_capability(bit: u32) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let set = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let set = set.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    set.is_some_and(|set| set & (1 << bit) != 0)
}

/// The kernel's release, such as `6.14.2-1`; empty: it does not say.
pub fn kernel_release() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    release.trim().into()
}

/// Whether a kernel of this release counts the queues of rings as locked memory: 6.14 and later do.
pub fn counts_rings_as_locked(release: &str) -> bool {
    let mut numbers = release.split(['.', '-', '+']).map_while(|word| word.parse().ok());
    let version: (u32, u32) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    version >= (6, 14)
}

/// What the kernel calls the time since it was booted; another each time. Where the service manager hides that, it
/// says so itself, in `BOOT_ID`. `None`: nobody says.
pub fn boot_id() -> Option<[u8; 16]> {
    let by_kernel = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok();
    let text = by_kernel.or_else(|| std::env::var("BOOT_ID").ok())?;
    let digits = u128::from_str_radix(&text.trim().replace('-', ""), 16).ok()?;
    Some(digits.to_be_bytes())
}

/// A resource limit: what holds, and what the process may raise it to. `None`: no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// What holds.
    pub soft: Option<u64>,
    /// What it may be raised to.
    pub hard: Option<u64>,
}

/// Open files, and entries of one ring's table of sockets.
pub fn open_files() -> Limit {
    limit(libc::RLIMIT_NOFILE)
}

/// Bytes that may be locked in memory. Whoever has `CAP_IPC_LOCK` is not held to it.
pub fn locked_memory() -> Limit {
    limit(libc::RLIMIT_MEMLOCK)
}

/// Lets the kernel back memory that this process touches from now on by huge pages, as far as the host allows
/// it, or keeps it from that. Where the kernel cannot be told, nothing changes.
pub fn allow_huge_pages(allowed: bool) {
    let disable = libc::c_ulong::from(!allowed);
    let unused: libc::c_ulong = 0;
    // SAFETY: takes numbers and touches no memory of ours.
    unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, disable, unused, unused, unused) };
}

fn limit(resource: libc::__rlimit_resource_t) -> Limit {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid place for the kernel to write one `rlimit` to.
    let rc = unsafe { libc::getrlimit(resource, &raw mut limit) };
    assert_eq!(rc, 0, "getrlimit of a known resource cannot fail");
    let value = |value| (value != libc::RLIM_INFINITY).then_some(value);
    Limit { soft: value(limit.rlim_cur), hard: value(limit.rlim_max) }
}

/// Bytes that this process may still write to the file system of `path`.
///
/// # Errors
/// There is nothing at `path`, or it cannot be reached.
pub fn free_bytes(path: &Path) -> io::Result<u64> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut stat = MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: `path` ends with a zero byte, and `stat` is a place for one `statvfs`.
    if unsafe { libc::statvfs(path.as_ptr(), stat.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has succeeded, so the kernel's answer is there.
    let stat = unsafe { stat.assume_init() };
    Ok(stat.f_bavail * stat.f_frsize)
}

/// Bytes of a page of memory.
pub fn page_bytes() -> u64 {
    // SAFETY: takes a number and returns a number.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(bytes).expect("every host has pages")
}

/// Bytes of memory that the process may ever have: the host's, or fewer where its cgroup has fewer; `None`: the
/// host does not say. Asks the kernel itself, since /proc/meminfo is not there where the service manager hides it.
pub fn memory_bytes() -> Option<u64> {
    let mut facts = MaybeUninit::<libc::sysinfo>::uninit();
    // SAFETY: `facts` is a place for one `sysinfo`.
    let has_answered = unsafe { libc::sysinfo(facts.as_mut_ptr()) } == 0;
    // SAFETY: the call has succeeded, so the kernel's answer is there.
    let facts = has_answered.then(|| unsafe { facts.assume_init() })?;
    let total = facts.totalram * u64::from(facts.mem_unit);
    memory_max_bytes().into_iter().chain([total]).min()
}

/// Bytes of memory that cgroups grant; `None`: any number.
pub fn memory_max_bytes() -> Option<u64> {
    least_of_cgroups("memory.max", |text| text.trim().parse().ok())
}

/// The least that the files `name` of the process's cgroup and those around it say (cgroups(7), version 2).
pub fn least_of_cgroups<T: PartialOrd>(name: &str, parse: impl Fn(&str) -> Option<T>) -> Option<T> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = groups.lines().find_map(|line| line.strip_prefix("0::/"))?.to_owned();
    let root = Path::new("/sys/fs/cgroup");
    let leaf = root.join(path);
    let limits = leaf.ancestors().take_while(|path| path.starts_with(root));
    let limits = limits.filter_map(|path| parse(&fs::read_to_string(path.join(name)).ok()?));
    limits.reduce(|a, b| if b < a { b } else { a })
}

/// Whether something keeps the clock right; `None`: the kernel does not say.
pub fn is_clock_synchronised() -> Option<bool> {
    // SAFETY: all-zero bytes are a valid `timex`, and ask for nothing to be changed.
    let mut timex: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: `timex` is a valid place for the kernel to read and write one.
    let state: c_int = unsafe { libc::adjtimex(&raw mut timex) };
    (state >= 0).then_some(state != libc::TIME_ERROR && timex.status & libc::STA_UNSYNC == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_answers() {
        assert!(page_bytes().is_power_of_two());
        let files = open_files();
        assert!(files.soft.unwrap_or(u64::MAX) <= files.hard.unwrap_or(u64::MAX));
        let _ = is_clock_synchronised();
        assert!(memory_bytes().is_some_and(|bytes| bytes > 1 << 20));
        assert!(free_bytes(Path::new("/")).is_ok());
        assert!(free_bytes(Path::new("/nowhere")).is_err());
    }
}
