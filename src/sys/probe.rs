//! What the running kernel lacks, found out before the first client connects.

use std::fmt;
use std::io;

use io_uring::{IoUring, Probe, opcode};

/// The operations that the socket ring is made of, each with the kernel release that brought it.
const OPERATIONS: &[(u8, &str, &str)] = &[
    (opcode::AcceptMulti::CODE, "accept into direct descriptors", "5.19"),
    (opcode::RecvMulti::CODE, "multishot receive", "6.0"),
    (opcode::Send::CODE, "send", "5.6"),
    (opcode::AsyncCancel::CODE, "cancel", "5.5"),
    (opcode::Shutdown::CODE, "shutdown", "5.11"),
    (opcode::Close::CODE, "close of direct descriptors", "5.15"),
];

/// Why the socket ring cannot run here; shown as a sentence that an operator can act on.
#[derive(Debug)]
pub enum Lack {
    /// Whoever asks for a ring is refused: by `kernel.io_uring_disabled` or a seccomp filter.
    Permission,
    /// The kernel was built without io_uring, or a filter says that it was.
    IoUring,
    /// The kernel has io_uring, but not as we use it.
    Age,
    /// No more memory may be locked.
    LockedMemory,
    /// Names of operations that are missing, each with the release that brought it.
    Operations(Vec<String>),
    /// Something else.
    Other(io::Error),
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Lack::Permission => f.write_str(
                "io_uring is switched off: set sysctl kernel.io_uring_disabled=0, \
                 or allow io_uring_setup in the container's seccomp profile",
            ),
            Lack::IoUring => f.write_str("the kernel was built without io_uring"),
            Lack::Age => {
                f.write_str("the kernel is older than 6.1, which brought deferred task runs")
            }
            Lack::LockedMemory => f.write_str("locked memory is exhausted: raise LimitMEMLOCK"),
            Lack::Operations(names) => write!(f, "the kernel lacks: {}", names.join(", ")),
            Lack::Other(error) => write!(f, "io_uring_setup failed: {error}"),
        }
    }
}

/// Finds out whether the socket ring can run here.
///
/// # Errors
/// It cannot, and why.
pub fn look() -> Result<(), Lack> {
    let ring: IoUring = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .setup_submit_all()
        .build(8)
        .map_err(|error| match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => Lack::Permission,
            Some(libc::ENOSYS) => Lack::IoUring,
            Some(libc::EINVAL) => Lack::Age,
            Some(libc::ENOMEM) => Lack::LockedMemory,
            _ => Lack::Other(error),
        })?;
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe).map_err(Lack::Other)?;
    let lacking: Vec<String> = OPERATIONS
        .iter()
        .filter(|(code, _, _)| !probe.is_supported(*code))
        .map(|(_, name, release)| format!("{name} (Linux {release})"))
        .collect();
    if lacking.is_empty() { Ok(()) } else { Err(Lack::Operations(lacking)) }
}
