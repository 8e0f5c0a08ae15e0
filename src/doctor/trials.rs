//! What can only be found out by trying: whether a port can be had, whether a directory can be written.
//! Each trial undoes itself.

use std::fs;
use std::io::{Error, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use super::Finding;
use super::Severity;
use super::facts::Facts;
use crate::server::ServerConfig;
use crate::sys::host;
use crate::sys::listener::Listener;

/// A socket that listens, as `/proc/net/tcp` has it.
#[derive(Debug, PartialEq, Eq)]
struct Listening {
    address: SocketAddr,
    inode: u64,
}

/// Whether the daemon could listen where it is to.
pub(super) fn ports(config: &ServerConfig, facts: &Facts) -> Vec<Finding> {
    // Inherited sockets take the place of the addresses.
    if std::env::var_os("LISTEN_FDS").is_some() {
        return vec![Finding::ok("port", "sockets are inherited")];
    }
    let addresses = config
        .listen
        .into_iter()
        .chain(config.tls.as_ref().and_then(|tls| tls.listen))
        .chain(config.admin.listen);
    addresses.map(|address| port(address, config, facts)).collect()
}

fn port(address: SocketAddr, config: &ServerConfig, facts: &Facts) -> Finding {
    let check = "port";
    let others: Vec<Listening> = listening();
    let is_same = |other: &&Listening| {
        let any = other.address.ip().is_unspecified() || address.ip().is_unspecified();
        let same_ip = other.address.ip() == address.ip();
        address.port() != 0 && other.address.port() == address.port() && (any || same_ip)
    };
    let other = others.iter().find(is_same);
    let owner = other.and_then(|other| owner(other.inode));
    let by =
        owner.as_ref().map_or_else(String::new, |(pid, name)| format!(" by {name} (pid {pid})"));
    let find = format!("ss -ltnp 'sport = :{}'", address.port());
    let outcome = Listener::bind(address, &config.listener);
    match (outcome, other) {
        (Ok(_), None) => Finding::ok(check, format!("{address} is free")),
        (Ok(_), Some(_)) => {
            let is_ours = owner.is_some_and(|(_, name)| name == "ringcast");
            let severity = if is_ours { Severity::Note } else { Severity::Warning };
            Finding::new(
                severity,
                check,
                format!("{address} is taken{by}, which shares it (SO_REUSEPORT)"),
                "a second daemon of the same user gets some of the clients, and neither knows of the \
                 other's channels",
                &[&find, "stop the other one first"],
            )
        }
        (Err(error), other) => refused(address, &error, other.is_some(), &by, &find, facts),
    }
}

fn refused(
    address: SocketAddr,
    error: &Error,
    is_taken: bool,
    by: &str,
    find: &str,
    facts: &Facts,
) -> Finding {
    let check = "port";
    match error.kind() {
        ErrorKind::AddrInUse => Finding::error(
            check,
            format!("{address} is taken{}", if is_taken { by } else { "" }),
            "one process at a time can listen on it",
            &[find, "ringcast serve --listen ADDR:PORT    # another one"],
        ),
        ErrorKind::AddrNotAvailable => Finding::error(
            check,
            format!("{} is no address of this host", address.ip()),
            "a socket can only be bound to an address that some interface has",
            &[
                "ip -brief address",
                "ringcast serve --listen 0.0.0.0:PORT    # all of them",
                "sysctl -w net.ipv4.ip_nonlocal_bind=1    # for one that comes later, such as keepalived's",
            ],
        ),
        ErrorKind::PermissionDenied => {
            let first = facts.unprivileged_port_start.unwrap_or(1024);
            let lacks = if facts.may_bind_low {
                "a policy forbids it"
            } else {
                "CAP_NET_BIND_SERVICE is missing"
            };
            Finding::error(
                check,
                format!("{address} may not be listened on: {lacks}"),
                &format!("ports below {first} are for who has the capability"),
                &[
                    "systemctl edit ringcast    # [Service] AmbientCapabilities=CAP_NET_BIND_SERVICE",
                    "setcap cap_net_bind_service=+ep /usr/bin/ringcast",
                    "ringcast serve --listen 127.0.0.1:8080    # behind a proxy",
                ],
            )
        }
        _ => {
            let what = format!("cannot listen on {address}: {error}");
            Finding::error(check, what, "clients are served there", &[find])
        }
    }
}

/// All sockets that listen for TCP.
fn listening() -> Vec<Listening> {
    ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok())
        .flat_map(|table| table.lines().filter_map(parse).collect::<Vec<_>>())
        .collect()
}

/// A line of the table, if its socket listens.
fn parse(line: &str) -> Option<Listening> {
    let mut cells = line.split_ascii_whitespace();
    let (ip, port) = cells.nth(1)?.split_once(':')?;
    if cells.nth(1)? != "0A" {
        return None;
    }
    let inode = cells.nth(5)?.parse().ok()?;
    // Words of 32 bits, each in the order of the host.
    let word = |at: usize| u32::from_str_radix(ip.get(at..at + 8)?, 16).ok().map(u32::to_ne_bytes);
    let ip: IpAddr = match ip.len() {
        8 => Ipv4Addr::from(word(0)?).into(),
        32 => {
            let words = [word(0)?, word(8)?, word(16)?, word(24)?];
            let bytes: [u8; 16] = words.concat().try_into().ok()?;
            Ipv6Addr::from(bytes).into()
        }
        _ => return None,
    };
    let port = u16::from_str_radix(port, 16).ok()?;
    Some(Listening { address: SocketAddr::new(ip, port), inode })
}

/// The process that has the socket open, as far as this user may see.
fn owner(inode: u64) -> Option<(u32, String)> {
    let wanted = format!("socket:[{inode}]");
    for process in fs::read_dir("/proc").ok()?.filter_map(Result::ok) {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let Ok(files) = fs::read_dir(process.path().join("fd")) else { continue };
        let has_it = files.filter_map(Result::ok).any(|file| {
            fs::read_link(file.path()).is_ok_and(|target| target.as_os_str() == wanted.as_str())
        });
        if has_it {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some((pid, name.trim().into()));
        }
    }
    None
}

/// Whether what outlives the process can be written, and by a clock that has not been set back.
pub(super) fn state_dir(directory: &Path) -> Finding {
    let check = "state_dir";
    let name = directory.display();
    let why = "what outlives the process is written there; the daemon makes it if it may";
    let make = format!("install -d -m 700 -o USER {name}");
    let remedies =
        [make.as_str(), "systemctl edit ringcast    # [Service] StateDirectory=ringcast"];
    let existing = directory.ancestors().find(|path| path.exists());
    let Some(existing) = existing.filter(|path| path.is_dir()) else {
        return Finding::error(check, format!("{name} is no directory"), why, &remedies);
    };
    let trial = existing.join(format!(".ringcast-doctor-{}", std::process::id()));
    let written = fs::write(&trial, "").and_then(|()| fs::metadata(&trial)?.modified());
    let _ = fs::remove_file(&trial);
    let now = match written {
        Ok(now) => now,
        Err(error) => {
            let what = format!("{} cannot be written: {error}", existing.display());
            return Finding::error(check, what, why, &remedies);
        }
    };
    let newest = fs::read_dir(directory).ok().and_then(|entries| {
        entries.filter_map(|entry| entry.ok()?.metadata().ok()?.modified().ok()).max()
    });
    match newest.and_then(|newest| newest.duration_since(now).ok()) {
        Some(ahead) if ahead.as_secs() > 0 => Finding::warning(
            "clock",
            format!("files in {name} are {} s ahead of it: it was set back", ahead.as_secs()),
            "serials begin with the time of day; clients that resume with one from the future lose continuity",
            &["timedatectl status", "wait until the clock has caught up"],
        ),
        _ if existing == directory => Finding::ok(check, format!("{name} can be written")),
        _ => Finding::ok(check, format!("{name} can be made in {}", existing.display())),
    }
}

/// Bytes that the message log at `root` has or could take; `None`: not known.
pub(super) fn disk_room(root: &Path) -> Option<u64> {
    let existing = root.ancestors().find(|path| path.exists())?;
    let free = host::free_bytes(existing).ok()?;
    // A directory for each shard, and nothing below those.
    let files = |directory: &Path| fs::read_dir(directory).into_iter().flatten().flatten();
    let own = files(root).flat_map(|shard| files(&shard.path()));
    let own: u64 = own.filter_map(|file| file.metadata().ok()).map(|meta| meta.len()).sum();
    Some(free + own)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn lines_of_the_table_are_read() {
        let line = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  0 0 4242 1 0";
        let address = "127.0.0.1:8080".parse().expect("an address");
        if cfg!(target_endian = "little") {
            assert_eq!(parse(line), Some(Listening { address, inode: 4242 }));
        }
        assert_eq!(parse(&line.replace(" 0A ", " 01 ")), None);
        assert_eq!(parse("  sl  local_address rem_address   st"), None);
        assert_eq!(parse(""), None);
    }

    #[test]
    fn who_listens_is_found() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(taken) = TcpListener::bind(address) else { continue };
            let address = taken.local_addr().expect("it is bound");
            let found = listening().into_iter().find(|other| other.address == address);
            let (pid, _) = owner(found.expect("it listens").inode).expect("it is ours");
            assert_eq!(pid, std::process::id());
        }
    }

    #[test]
    fn a_directory_is_tried_and_left_as_it_was() {
        let base = std::env::temp_dir().join(format!("ringcast-doctor-{}", std::process::id()));
        fs::create_dir_all(&base).expect("the temporary directory can be written");
        assert_eq!(state_dir(&base).severity, Severity::Ok);
        let inside = state_dir(&base.join("a/b"));
        assert_eq!(inside.severity, Severity::Ok);
        assert!(inside.what.contains("can be made in"), "{inside:?}");
        fs::write(base.join("file"), "").expect("as above");
        assert_eq!(state_dir(&base.join("file")).severity, Severity::Error);
        let file = fs::File::options().write(true).open(base.join("file")).expect("made above");
        let modified = file.metadata().and_then(|data| data.modified()).expect("has a time");
        file.set_modified(modified + std::time::Duration::from_secs(3600)).expect("it is ours");
        let back = state_dir(&base);
        assert_eq!((back.severity, back.check), (Severity::Warning, "clock"));
        assert_eq!(fs::read_dir(&base).expect("made above").count(), 1, "nothing is left");
        fs::remove_dir_all(base).expect("made above");
    }
}
