//! What operators, collectors and browsers ask of a running daemon: HTTP on one thread beside the cores.
//! Two doors, a TCP address and a unix socket, lead to the same routes. No shard hears of a client here; a
//! route asks those who know and waits for the answer, for a bounded time.
//!
//! | file | what |
//! | --- | --- |
//! | `mod.rs` | the thread and what it is told at its start |
//! | `routes.rs` | the table: one line for each route |
//! | `hooks.rs` | deliveries of rules |
//! | `rules.rs` | rules while the daemon runs |
//! | `access.rs` | who may do what: tokens, sessions, pages of other sites |
//! | `doors.rs` | the sockets: how many clients, for how long |
//! | `inspect.rs` | connections, channels and publications, gathered from the shards |
//! | `question.rs` | what is asked of the rest of the process, and how |
//! | `reply.rs` | answers: JSON, pages, streams of events, refusals |
//! | `status.rs` | how the daemon is doing, as a value |
//! | `command/` | `ringcast status` and its like, which come in through the socket |
//! | `page/` | what browsers get |
#![allow(clippy::disallowed_methods, reason = "a thread of its own, with clocks of its own")]

mod access;
pub mod command;
mod doors;
mod hooks;
mod inspect;
mod question;
mod reply;
mod routes;
mod rules;
mod status;

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;

pub use self::access::{TOKEN_BYTES_MIN, Token};
pub use self::doors::ControlSocket;
pub use self::inspect::{Channels, Connections};
pub use self::question::{Question, Reply, ShardQuestion, Watcher};
pub use self::status::{CertificateStatus, Health, LastReload, ReloadOutcome, ShardStatus, Status};

use self::access::Sessions;
use self::doors::SocketFile;
use self::reply::Refusal;
use crate::hooks::HookControl;

/// Where a control socket is made below the runtime directory that the service manager gives.
const SOCKET_NAME: &str = "control.sock";

/// What the admin server needs to know.
#[derive(Clone, Debug, Default)]
pub struct AdminConfig {
    /// TCP address; without it there is none.
    pub listen: Option<SocketAddr>,
    /// Where the control socket is.
    pub socket: SocketPlace,
    /// What an operator shows who comes over TCP.
    pub token: Option<Token>,
}

/// Where the control socket is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum SocketPlace {
    /// In the service manager's runtime directory, if there is one.
    #[default]
    Auto,
    /// Nowhere.
    Off,
    /// At this path.
    At(PathBuf),
}

impl SocketPlace {
    /// The path of the socket. `runtime_directory` is what the manager says, several with colons between
    /// them.
    pub fn path(&self, runtime_directory: Option<&str>) -> Option<PathBuf> {
        match self {
            SocketPlace::At(path) => Some(path.clone()),
            SocketPlace::Off => None,
            SocketPlace::Auto => {
                let first = runtime_directory?.split(':').next().filter(|path| !path.is_empty());
                first.map(|directory| Path::new(directory).join(SOCKET_NAME))
            }
        }
    }
}

/// The sockets; both may be missing.
#[derive(Debug, Default)]
pub struct Doors {
    /// For collectors and browsers.
    pub tcp: Option<TcpListener>,
    /// For commands on this host.
    pub control: Option<ControlSocket>,
}

/// Puts a question to whoever answers them; false when there is no room for it now. Never waits.
pub type Ask = Box<dyn Fn(Question) -> bool + Send + Sync>;

/// What routes share.
#[derive(Clone)]
struct Admin(Arc<Inner>);

struct Inner {
    token: Option<Token>,
    sessions: Sessions,
    shards: usize,
    ask: Ask,
    hooks: HookControl,
}

impl Admin {
    /// Asks the monitor. `question` names what is asked, such as [`Question::Metrics`].
    async fn ask<T>(&self, question: impl FnOnce(Reply<T>) -> Question) -> Result<T, Refusal> {
        question::ask(question::PATIENCE, |reply| (self.0.ask)(question(reply))).await
    }
}

/// The thread, seen from those who start it; with it goes the name of the control socket.
#[derive(Debug)]
pub struct AdminThread {
    _file: Option<SocketFile>,
}

/// Starts the thread behind `doors` of a daemon with so many shards, on one of `cpus` if there are any.
///
/// # Errors
/// The thread or what it needs cannot be made.
pub fn spawn(
    doors: Doors,
    token: Option<Token>,
    shards: usize,
    cpus: &[usize],
    ask: Ask,
    hooks: HookControl,
) -> anyhow::Result<AdminThread> {
    let sessions = Sessions::default();
    let admin = Admin(Arc::new(Inner { token, sessions, shards, ask, hooks }));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the admin thread")?;
    let mut doors = {
        let _guard = runtime.enter();
        doors::open(doors)?
    };
    let thread = AdminThread { _file: doors.file.take() };
    let cpu = cpus.first().copied();
    let run = move || {
        if let Some(id) = cpu {
            // Where it cannot be, the scheduler finds it a place.
            core_affinity::set_for_current(core_affinity::CoreId { id });
        }
        runtime.block_on(doors.serve(&routes::router(admin)));
    };
    let builder = std::thread::Builder::new().name("admin".into());
    builder.spawn(run).context("cannot start the admin thread")?;
    Ok(thread)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_control_socket_is_where_it_was_put_or_where_the_manager_says() {
        let path =
            |place: SocketPlace, directory| place.path(directory).map(PathBuf::into_os_string);
        let at = SocketPlace::At("/a/b".into());
        assert_eq!(path(at, Some("/run/x")), Some("/a/b".into()));
        assert_eq!(path(SocketPlace::Off, Some("/run/x")), None);
        let auto = Some("/run/x/control.sock".into());
        assert_eq!(path(SocketPlace::Auto, Some("/run/x:/run/y")), auto);
        assert_eq!(path(SocketPlace::Auto, Some("")), None);
        assert_eq!(path(SocketPlace::Auto, None), None);
    }
}
