//! Starts the built daemon on a free port and stops it when the test is over.
#![allow(dead_code, reason = "each test uses a part of it")]
#![allow(clippy::disallowed_methods, reason = "a test may start threads")]

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Long enough for a debug build on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A running daemon.
pub struct Daemon {
    process: Child,
    /// Where it listens.
    pub address: SocketAddr,
    /// What it has written to standard output before it was ready.
    pub greeting: String,
}

impl Daemon {
    /// Starts `ringcast serve` with three shards and the keys of `tests/sdk/ringcast.toml`.
    pub fn start() -> Daemon {
        let config = repository().join("tests/sdk/ringcast.toml");
        let config = config.to_str().expect("the repository has a path in UTF-8");
        Daemon::start_with(&["--config", config, "--shards", "3"])
    }

    /// Starts `ringcast serve` with `flags` on a free port and waits until it is ready.
    pub fn start_with(flags: &[&str]) -> Daemon {
        Daemon::run("serve", flags)
    }

    /// Starts `ringcast sandbox` with three shards on a free port and waits until it is ready.
    pub fn sandbox() -> Daemon {
        Daemon::run("sandbox", &["--shards", "3"])
    }

    fn run(command: &str, flags: &[&str]) -> Daemon {
        let mut program = Command::new(env!("CARGO_BIN_EXE_ringcast"));
        program.args([command, "--listen", "127.0.0.1:0"]).args(flags);
        Daemon::spawn(&mut program)
    }

    /// Starts `program`, which becomes the daemon, and waits until it is ready.
    pub fn spawn(program: &mut Command) -> Daemon {
        let process = program.stdout(Stdio::piped()).spawn().expect("the daemon can be started");
        let unknown = SocketAddr::from(([0, 0, 0, 0], 0));
        // From here on it is stopped whatever happens.
        let mut daemon = Daemon { process, address: unknown, greeting: String::new() };
        let lines = daemon.lines();
        while daemon.address == unknown {
            let Ok(line) = lines.recv_timeout(PATIENCE) else {
                panic!("the daemon is not ready; so far it said: {}", daemon.greeting)
            };
            daemon.greeting += &format!("{line}\n");
            if let Some(rest) = line.strip_prefix("listening on ") {
                let address = rest.split(' ').next().unwrap_or_default();
                daemon.address = address.parse().expect("`listening on ADDR:PORT shards=N`");
            }
        }
        while let Ok(line) = lines.recv_timeout(Duration::from_millis(100)) {
            daemon.greeting += &format!("{line}\n");
        }
        daemon
    }

    /// Its output, read to the end, so that it never writes into a pipe that nobody empties.
    fn lines(&mut self) -> mpsc::Receiver<String> {
        let output = self.process.stdout.take().expect("piped at the start, taken once");
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        lines
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Sends it a signal, such as `TERM`.
    pub fn signal(&self, name: &str) {
        let command = format!("kill -{name} {}", self.pid());
        run(Command::new("sh").args(["-c", &command]));
    }

    /// Waits until it has ended by itself.
    pub fn wait(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.process.try_wait().expect("it is ours") {
                return status;
            }
            assert!(start.elapsed() < PATIENCE, "the daemon goes on and on");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Sends `request` as it is and returns all that comes until the daemon closes.
    pub fn exchange(&self, request: &str) -> String {
        let mut stream = self.connect();
        stream.write_all(request.as_bytes()).expect("the daemon reads");
        let mut response = Vec::new();
        let end = stream.read_to_end(&mut response);
        let response = String::from_utf8_lossy(&response).into_owned();
        // A reset after the response is as good as an orderly end, but an end there must be.
        let is_open = end.is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
        assert!(!is_open, "{request:?} leaves the connection open after {response:?}");
        response
    }

    /// Opens a connection whose reads give up after [`PATIENCE`].
    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).expect("the daemon accepts");
        stream.set_read_timeout(Some(PATIENCE)).expect("the timeout is not zero");
        stream
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The root of the repository.
pub fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Runs `command` and fails the test unless it succeeds.
pub fn run(command: &mut Command) {
    let status = command.status().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(status.success(), "{command:?}: {status}");
}
