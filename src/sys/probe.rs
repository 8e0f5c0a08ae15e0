//! What the running kernel lacks, found out before the first client connects.

use io_uring::{IoUring, Probe, opcode};

/// The operations that the socket ring is made of, each with the kernel release that brought it.
const OPERATIONS: &[(u8, &str, &str)] = &[
    (opcode::AcceptMulti::CODE, "accept into direct descriptors", "5.19"),
    (opcode::RecvMulti::CODE, "multishot receive", "6.0"),
    (opcode::Send::CODE, "send", "5.6"),
    (opcode::AsyncCancel2::CODE, "cancel by descriptor", "5.19"),
    (opcode::Shutdown::CODE, "shutdown", "5.11"),
    (opcode::Close::CODE, "close of direct descriptors", "5.15"),
];

/// Says, in a sentence an operator can act on, why the socket ring cannot run here; `None`: it can.
pub fn missing() -> Option<String> {
    let ring: IoUring = match IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .setup_submit_all()
        .build(8)
    {
        Ok(ring) => ring,
        Err(error) => return Some(explain_setup(&error)),
    };
    let mut probe = Probe::new();
    if let Err(error) = ring.submitter().register_probe(&mut probe) {
        return Some(format!("the kernel does not say which io_uring operations it has: {error}"));
    }
    let lacking: Vec<String> = OPERATIONS
        .iter()
        .filter(|(code, _, _)| !probe.is_supported(*code))
        .map(|(_, name, release)| format!("{name} (Linux {release})"))
        .collect();
    (!lacking.is_empty()).then(|| format!("the kernel lacks: {}", lacking.join(", ")))
}

fn explain_setup(error: &std::io::Error) -> String {
    let reason = match error.raw_os_error() {
        Some(libc::EPERM) => {
            "io_uring is switched off: set sysctl kernel.io_uring_disabled=0, \
             or allow io_uring_setup in the container's seccomp profile"
        }
        Some(libc::ENOSYS) => "the kernel was built without io_uring",
        Some(libc::EINVAL) => "the kernel is older than 6.1, which brought deferred task runs",
        Some(libc::ENOMEM) => "locked memory is exhausted: raise LimitMEMLOCK",
        _ => "io_uring_setup failed",
    };
    format!("{reason} ({error})")
}
