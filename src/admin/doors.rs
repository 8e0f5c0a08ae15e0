//! The sockets: who may connect, how many at once, and for how long one that does nothing.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net as unix;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_io_timeout::TimeoutStream;
use tower_service::Service;

use super::Doors;
use crate::sys::rusage;

/// Clients of one door; more wait in the listener's queue.
const CLIENTS_MAX: usize = 64;

/// Clients of one door that are sent events for as long as they stay.
const STREAMS_MAX: usize = 16;

/// Time for the head of a request, and between two requests.
const HEAD_TIME_MAX: Duration = Duration::from_secs(10);

/// How long a client may take nothing of what it is sent.
const WRITE_TIME_MAX: Duration = Duration::from_secs(10);

/// Bytes of a head, and of what is read at once.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// How long accepting rests after it has failed, for want of files, say.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Who may open the control socket: the daemon's user and group. Others of the group are told why they
/// are refused.
const SOCKET_MODE: u32 = 0o660;

/// The way that a client has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Door {
    /// The control socket; whether its other end belongs to root or to our own user.
    Control { is_ours: bool },
    /// A loopback address.
    Local,
    /// Another address.
    Remote,
}

/// What is known of a client, for every request.
#[derive(Clone, Debug)]
pub(super) struct Client {
    pub door: Door,
    /// Places for streams of events behind the same door.
    pub streams: Arc<Semaphore>,
}

/// A unix socket with a name in the file system, which it loses in the end.
#[derive(Debug)]
pub struct ControlSocket {
    listener: unix::UnixListener,
    path: PathBuf,
}

impl ControlSocket {
    /// Makes the socket at `path`. One that nobody listens to any more is replaced.
    ///
    /// # Errors
    /// Another daemon listens there, or it cannot be made.
    pub fn bind(path: &Path) -> anyhow::Result<ControlSocket> {
        let context = || format!("cannot make the control socket {}", path.display());
        if unix::UnixStream::connect(path).is_ok() {
            anyhow::bail!("another daemon listens at {}", path.display());
        }
        let is_socket = |metadata: std::fs::Metadata| metadata.file_type().is_socket();
        if std::fs::symlink_metadata(path).is_ok_and(is_socket) {
            std::fs::remove_file(path).with_context(context)?;
        }
        let listener = unix::UnixListener::bind(path).with_context(context)?;
        let mode = std::fs::Permissions::from_mode(SOCKET_MODE);
        std::fs::set_permissions(path, mode).with_context(context)?;
        Ok(ControlSocket { listener, path: path.into() })
    }
}

/// The name of a control socket, which ends with this.
#[derive(Debug)]
pub(super) struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Somebody may have removed it already.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// The doors in use.
pub(super) struct OpenDoors {
    tcp: Option<(TcpListener, SocketAddr)>,
    control: Option<UnixListener>,
    /// Until somebody takes it.
    pub(super) file: Option<SocketFile>,
}

/// Takes the sockets into use; called on the runtime.
pub(super) fn open(doors: Doors) -> io::Result<OpenDoors> {
    let mut open = OpenDoors { tcp: None, control: None, file: None };
    if let Some(listener) = doors.tcp {
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        open.tcp = Some((TcpListener::from_std(listener)?, address));
    }
    if let Some(ControlSocket { listener, path }) = doors.control {
        open.file = Some(SocketFile(path));
        listener.set_nonblocking(true)?;
        open.control = Some(UnixListener::from_std(listener)?);
    }
    Ok(open)
}

impl OpenDoors {
    /// Serves clients for ever.
    pub(super) async fn serve(self, router: &Router) {
        let tcp = async {
            let Some((listener, address)) = self.tcp else { return };
            let door = if address.ip().is_loopback() { Door::Local } else { Door::Remote };
            let places = Places::new();
            loop {
                let place = places.take().await;
                match listener.accept().await {
                    Ok((stream, _)) => places.serve(place, door, stream, router),
                    Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
                }
            }
        };
        let control = async {
            let Some(listener) = self.control else { return };
            let own = rusage::user_id();
            let places = Places::new();
            loop {
                let place = places.take().await;
                match listener.accept().await {
                    Ok((stream, _)) => {
                        let is_ours =
                            stream.peer_cred().is_ok_and(|peer| [0, own].contains(&peer.uid()));
                        places.serve(place, Door::Control { is_ours }, stream, router);
                    }
                    Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
                }
            }
        };
        tokio::join!(tcp, control);
    }
}

/// What one door has room for: who comes through one is not shut out by those at the other.
struct Places {
    clients: Arc<Semaphore>,
    streams: Arc<Semaphore>,
}

impl Places {
    fn new() -> Places {
        Places {
            clients: Arc::new(Semaphore::new(CLIENTS_MAX)),
            streams: Arc::new(Semaphore::new(STREAMS_MAX)),
        }
    }

    async fn take(&self) -> OwnedSemaphorePermit {
        self.clients.clone().acquire_owned().await.expect("never closed")
    }

    /// Serves one client on a task of its own.
    fn serve<S>(&self, place: OwnedSemaphorePermit, door: Door, stream: S, router: &Router)
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(WRITE_TIME_MAX));
        let client = Client { door, streams: Arc::clone(&self.streams) };
        let router = router.clone();
        let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
            let mut request: Request = request.map(Body::new);
            request.extensions_mut().insert(client.clone());
            // A router is always ready.
            router.clone().call(request)
        });
        tokio::spawn(async move {
            let mut http = http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME_MAX);
            http.max_buf_size(HEAD_BYTES_MAX);
            // A client that goes in the middle of something is nobody's fault here.
            let _ = http.serve_connection(TokioIo::new(Box::pin(stream)), service).await;
            drop(place);
        });
    }
}
