//! What a service and its manager tell each other: sd_notify(3), sd_watchdog_enabled(3) and
//! sd_listen_fds(3). Everything is optional: without a manager nothing is sent and nothing inherited.

use std::ffi::OsStr;
use std::io;
use std::os::fd::RawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The first inherited descriptor (`SD_LISTEN_FDS_START`).
const LISTEN_FDS_START: RawFd = 3;

/// Inherited descriptors, at most.
const LISTEN_FDS_MAX: RawFd = 1024;

/// Where the manager wants to hear of us.
pub(super) struct Notifier(Option<UnixDatagram>);

impl Notifier {
    /// Connects to the socket that `NOTIFY_SOCKET` names, if there is one.
    pub(super) fn from_environment() -> io::Result<Notifier> {
        match std::env::var_os("NOTIFY_SOCKET") {
            Some(name) if !name.is_empty() => {
                Notifier::connect(&name).map(|socket| Notifier(Some(socket)))
            }
            _ => Ok(Notifier(None)),
        }
    }

    /// For whoever has no manager.
    pub(super) fn none() -> Notifier {
        Notifier(None)
    }

    /// A name is a path, or `@` and the rest of an abstract name.
    fn connect(name: &OsStr) -> io::Result<UnixDatagram> {
        let address = match name.as_bytes() {
            [b'@', rest @ ..] => SocketAddr::from_abstract_name(rest)?,
            _ => SocketAddr::from_pathname(name)?,
        };
        let socket = UnixDatagram::unbound()?;
        socket.connect_addr(&address)?;
        // A manager that does not read must not hold us up.
        socket.set_nonblocking(true)?;
        Ok(socket)
    }

    /// Sends assignments such as `READY=1`, one a line. A manager that does not listen is no reason to
    /// stop serving.
    pub(super) fn send(&self, assignments: &str) {
        if let Some(socket) = &self.0 {
            let _ = socket.send(assignments.as_bytes());
        }
    }
}

/// How often the manager wants to hear `WATCHDOG=1` at least; `None`: it does not.
pub(super) fn watchdog() -> Option<Duration> {
    let variable = |name| std::env::var(name).ok();
    watchdog_of(std::process::id(), variable("WATCHDOG_PID"), variable("WATCHDOG_USEC"))
}

fn watchdog_of(pid: u32, of: Option<String>, usec: Option<String>) -> Option<Duration> {
    if of.is_some_and(|of| of.parse() != Ok(pid)) {
        return None;
    }
    let usec = usec?.parse().ok().filter(|usec| *usec > 0)?;
    Some(Duration::from_micros(usec))
}

/// Descriptors that the manager has opened for us, with their names.
///
/// # Errors
/// The variables that say so contradict each other.
pub(super) fn inherited() -> Result<Vec<(RawFd, String)>, String> {
    let variable = |name| std::env::var(name).ok();
    inherited_by(
        std::process::id(),
        variable("LISTEN_PID").as_deref(),
        variable("LISTEN_FDS").as_deref(),
        variable("LISTEN_FDNAMES").as_deref(),
    )
}

fn inherited_by(
    pid: u32,
    listen_pid: Option<&str>,
    listen_fds: Option<&str>,
    names: Option<&str>,
) -> Result<Vec<(RawFd, String)>, String> {
    let (Some(listen_pid), Some(listen_fds)) = (listen_pid, listen_fds) else { return Ok(vec![]) };
    let listen_pid: u32 =
        listen_pid.parse().map_err(|_| format!("LISTEN_PID={listen_pid} is no process id"))?;
    if listen_pid != pid {
        return Ok(vec![]); // meant for a parent that has left its environment to us
    }
    let count: RawFd = listen_fds
        .parse()
        .ok()
        .filter(|count| (0..=LISTEN_FDS_MAX).contains(count))
        .ok_or_else(|| format!("LISTEN_FDS={listen_fds} is not from 0 to {LISTEN_FDS_MAX}"))?;
    let names: Vec<&str> = match names {
        Some(names) => names.split(':').collect(),
        None => vec!["unknown"; count as usize],
    };
    if names.len() != count as usize && count > 0 {
        return Err(format!("LISTEN_FDNAMES names {} sockets of {count}", names.len()));
    }
    Ok((LISTEN_FDS_START..)
        .zip(names)
        .map(|(fd, name)| (fd, name.to_owned()))
        .take(count as usize)
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notifications_reach_a_path_and_an_abstract_name() {
        let path = std::env::temp_dir().join(format!("ringcast-notify-{}", std::process::id()));
        let abstract_name = format!("ringcast-notify-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&abstract_name).expect("a short name");
        for (name, manager) in [
            (path.as_os_str().to_owned(), UnixDatagram::bind(&path).expect("writable")),
            (
                format!("@{abstract_name}").into(),
                UnixDatagram::bind_addr(&address).expect("nobody else has it"),
            ),
        ] {
            let notifier = Notifier(Some(Notifier::connect(&name).expect("somebody listens")));
            notifier.send("READY=1\nSTATUS=serving");
            let mut datagram = [0; 64];
            let len = manager.recv(&mut datagram).expect("was sent");
            assert_eq!(&datagram[..len], b"READY=1\nSTATUS=serving");
            drop(manager);
            notifier.send("WATCHDOG=1"); // nobody hears it, and nothing happens
        }
        std::fs::remove_file(path).expect("made above");
        assert!(Notifier::connect(OsStr::new("/no/such/socket")).is_err());
    }

    #[test]
    fn the_watchdog_is_for_the_process_that_it_names() {
        let of = |pid: Option<&str>, usec: Option<&str>| {
            watchdog_of(7, pid.map(Into::into), usec.map(Into::into))
        };
        assert_eq!(of(Some("7"), Some("30000000")), Some(Duration::from_secs(30)));
        assert_eq!(of(None, Some("500000")), Some(Duration::from_millis(500)));
        for (pid, usec) in [
            (Some("8"), Some("30000000")),
            (Some("x"), Some("30000000")),
            (None, Some("0")),
            (None, Some("soon")),
            (None, None),
        ] {
            assert_eq!(of(pid, usec), None, "{pid:?} {usec:?}");
        }
    }

    #[test]
    fn sockets_are_inherited_with_their_names_or_refused_with_the_reason() {
        let of = |fds, names| inherited_by(7, Some("7"), Some(fds), names);
        let named = vec![(3, "http".to_owned()), (4, "admin".to_owned())];
        assert_eq!(of("2", Some("http:admin")), Ok(named));
        assert_eq!(of("1", None), Ok(vec![(3, "unknown".to_owned())]));
        assert_eq!(of("0", Some("")), Ok(vec![]));
        assert_eq!(inherited_by(7, Some("8"), Some("2"), None), Ok(vec![]));
        assert_eq!(inherited_by(7, None, Some("2"), None), Ok(vec![]));
        for (fds, names) in [("2", Some("http")), ("-1", None), ("many", None), ("100000", None)] {
            assert!(of(fds, names).is_err(), "{fds} {names:?}");
        }
        assert!(inherited_by(7, Some("me"), Some("1"), None).is_err());
    }
}
