//! The package as an operator meets it: installed into a root of its own, run by hand, reloaded under clients,
//! stopped, removed and purged; and what else `systemd/packaging/` has.
#![allow(clippy::disallowed_methods, reason = "a test may read clocks and wait")]

mod daemon;
mod secure;

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use daemon::{Daemon, PATIENCE, repository};
use ringcast::tls::Trust;
use secure::{Authority, TlsStream, write_pair};
use serde_json::Value;
use tungstenite::protocol::WebSocketConfig;
use tungstenite::{Message, WebSocket};

const RINGCAST: &str = env!("CARGO_BIN_EXE_ringcast");

/// Clients that stay connected while the package's daemon reloads, where `PACKAGE_CLIENTS` says nothing
/// else: what two busy cores do in half a minute without optimisation.
const CLIENTS: usize = 1000;

const SHARDS: usize = 2;

/// Publishes that the clients hear before the reload, and after it, at least.
const PUBLISHES: u64 = 10;

/// Between two publishes, and two looks at who was sent away.
const PAUSE: Duration = Duration::from_millis(20);

/// Over which they are sent away.
const DRAIN_WINDOW: Duration = Duration::from_secs(4);

fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = text(&output);
    assert!(output.status.success(), "{command:?}: {said}");
    said
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

/// A root directory that dpkg takes for a host.
struct Root(PathBuf);

impl Root {
    fn new() -> Root {
        let root = std::env::temp_dir().join(format!("ringcast-root-{}", std::process::id()));
        for directory in
            ["var/lib/dpkg/info", "var/lib/dpkg/updates", "var/lib/dpkg/triggers", "etc"]
        {
            fs::create_dir_all(root.join(directory))
                .expect("the temporary directory can be written");
        }
        fs::write(root.join("var/lib/dpkg/status"), "").expect("as above");
        Root(root)
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.join(path)
    }

    fn dpkg(&self, arguments: &[&str]) -> String {
        let is_root = fs::metadata("/proc/self")
            .is_ok_and(|data| std::os::unix::fs::MetadataExt::uid(&data) == 0);
        let mut program = Command::new(if is_root { "dpkg" } else { "fakeroot" });
        if !is_root {
            program.arg("dpkg");
        }
        program.arg(format!("--root={}", self.0.display()));
        program.args(["--force-script-chrootless", "--force-not-root", "--force-depends"]);
        succeed(program.args(arguments))
    }

    /// Files and directories below it, without dpkg's own.
    fn files(&self) -> BTreeSet<PathBuf> {
        let mut files = BTreeSet::new();
        let mut directories = vec![self.0.clone()];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(directory).expect("can be read") {
                let path = entry.expect("can be read").path();
                if path.ends_with("var/lib/dpkg") {
                    continue;
                }
                if path.is_dir() {
                    directories.push(path.clone());
                }
                files.insert(path.strip_prefix(&self.0).expect("is below it").to_owned());
            }
        }
        files
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Packages are made in one place: one at a time.
static PACKING: Mutex<()> = Mutex::new(());

/// Packs what this test was built with, and returns the package.
fn build() -> Vec<u8> {
    let _packing = PACKING.lock().unwrap_or_else(PoisonError::into_inner);
    let profile = Path::new(RINGCAST).parent().and_then(Path::file_name).expect("target/PROFILE");
    let mut program = Command::new(repository().join("systemd/packaging/build-deb"));
    let profile = profile.to_str().expect("profiles have plain names");
    program.args(["--no-build", profile, "--fast"]);
    let said = succeed(program.env_remove("DEBEMAIL"));
    let deb = said.lines().rev().find(|line| line.ends_with(".deb"));
    fs::read(deb.unwrap_or_else(|| panic!("names the package: {said}"))).expect("was just built")
}

#[test]
#[ignore = "takes cargo-deb"]
fn the_package_is_installed_run_reloaded_under_clients_stopped_and_purged_without_a_trace() {
    let root = Root::new();
    let before = root.files();
    let deb = root.path("ringcast.deb");
    // One that is about to be shipped, perhaps, in place of what this test was built with.
    let package = std::env::var_os("PACKAGE_DEB");
    let is_ours = package.is_none();
    let package = package.map_or_else(build, |path| fs::read(path).expect("PACKAGE_DEB is a file"));
    fs::write(&deb, package).expect("ours");
    let packed = succeed(Command::new("dpkg-deb").arg("--field").arg(&deb));
    let maintainer = packed.lines().find_map(|line| line.strip_prefix("Maintainer: "));
    let maintainer = maintainer.expect("there is one");
    assert!(!is_ours || maintainer == "ringcast <root@localhost>", "{maintainer}");
    root.dpkg(&["-i", deb.to_str().expect("a path in UTF-8")]);
    fs::remove_file(&deb).expect("ours");
    let key = fs::read_to_string(root.path("etc/ringcast/key")).expect("made at installation");
    let key = key.trim();
    let mode = fs::metadata(root.path("etc/ringcast/key")).expect("is there").permissions();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode) & 0o777, 0o600);

    let binary = root.path("usr/bin/ringcast");
    let config = root.path("etc/ringcast/ringcast.toml");
    // As systemd hands the key over.
    let ringcast = |command: &str| {
        let mut program = Command::new(&binary);
        program.arg(command).arg("--config").arg(&config);
        program.env("CREDENTIALS_DIRECTORY", root.path("etc/ringcast"));
        program.args(["--listen", "127.0.0.1:0", "--shards", &SHARDS.to_string()]);
        program
    };
    let plan = succeed(&mut ringcast("check"));
    assert!(plan.contains("keys 1") && plan.contains("bytes of connections"), "{plan}");

    // A second key and the certificate change while clients of the first key stay.
    let beside = root.path("etc/ringcast/ringcast.d");
    fs::create_dir_all(&beside).expect("ours");
    let other = |secret: &str| {
        let table = format!("[[keys]]\nkey = \"app.other:{secret}\"\n");
        fs::write(beside.join("other.toml"), table).expect("ours");
    };
    let authority = Authority::new();
    let trust = authority.trust();
    let directory = root.path("etc/ringcast");
    let first_certificate = write_pair(&directory, &authority);
    let window = DRAIN_WINDOW.as_secs();
    // The clients answer no ping until they are read, and whoever is silent for long counts as gone.
    let table = format!(
        "[server]\ndrain_window = \"{window}s\"\n[connection]\nidle_interval = \"2m\"\n[tls]\nlisten = \"127.0.0.1:0\"\n\
         certificate_file = \"cert.pem\"\nkey_file = \"key.pem\"\n"
    );
    fs::write(beside.join("tls.toml"), table).expect("ours");
    other("before");
    let plan = succeed(&mut ringcast("check"));
    assert!(plan.contains("keys 2") && plan.contains("certificate"), "{plan}");
    // What the unit has systemd make.
    let runtime = root.path("run/ringcast");
    fs::create_dir_all(&runtime).expect("ours");
    let before_start = root.files();
    let mut daemon = Daemon::spawn(ringcast("serve").env("RUNTIME_DIRECTORY", &runtime));
    let secure = daemon.greeting.lines().find_map(|line| line.strip_prefix("TLS on "));
    let secure = secure.expect("`TLS on ADDR:PORT`").parse().expect("an address");
    let subscribe_to = |key: &str, is_secure: bool| {
        let stream = if is_secure {
            Stream::Tls(Box::new(connect_tls(secure, &trust)))
        } else {
            Stream::Plain(daemon.connect())
        };
        subscribe(stream, key)
    };

    let count = clients();
    let mut clients: Vec<_> = (0..count).map(|index| subscribe_to(key, index % 2 == 1)).collect();
    let mut of_other = subscribe_to("app.other:before", false);
    assert_eq!(publish(&daemon, "app.other:before", 0), 201);
    let accepted = AtomicU64::new(0);
    let last = std::thread::scope(|scope| {
        // Publishes go on all the time, with the key that stays.
        let (over, is_over) = mpsc::channel::<()>();
        let (daemon, accepted) = (&daemon, &accepted);
        let publisher = scope.spawn(move || {
            let mut last = 0;
            while is_over.recv_timeout(PAUSE) == Err(mpsc::RecvTimeoutError::Timeout) {
                last += 1;
                assert_eq!(publish(daemon, key, last), 201);
                accepted.store(last, Ordering::Relaxed);
            }
            last
        });
        let wait_for_more = || {
            let enough = accepted.load(Ordering::Relaxed) + PUBLISHES;
            while accepted.load(Ordering::Relaxed) < enough {
                assert!(!publisher.is_finished(), "a publish was refused");
                std::thread::sleep(PAUSE);
            }
        };
        wait_for_more();
        other("after");
        let renewed = write_pair(&directory, &authority);
        let mut reload = Command::new(&binary);
        // As the unit's ExecReload= does; it returns when every core has the new ones.
        succeed(reload.arg("reload").arg("--socket").arg(runtime.join("control.sock")));
        assert_eq!(publish(daemon, "app.other:before", 0), 401);
        assert_eq!(publish(daemon, "app.other:after", 0), 201);
        // One without a ticket, which would go on from the certificate before.
        let seen = connect_tls(secure, &authority.trust());
        assert_eq!(seen.client.server_certificate(), Some(&renewed[..]));
        while next(&mut of_other).is_ok_and(|message| message["action"] == 15) {}
        wait_for_more();
        drop(over);
        publisher.join().expect("each was accepted")
    });
    assert_eq!(publish(&daemon, key, last + 1), 201);
    for client in &mut clients {
        let mut heard = Vec::new();
        while heard.last() != Some(&(last + 1)) {
            heard.extend(Some(data(client)).filter(|number| *number != 0));
        }
        assert!(heard.iter().copied().eq(1..=last + 1), "once and in order: {heard:?}");
        if let Stream::Tls(stream) = client.get_ref() {
            assert_eq!(stream.client.server_certificate(), Some(&first_certificate[..]));
        }
        client.get_ref().socket().set_nonblocking(true).expect("a socket");
    }
    eprintln!("{count} clients have heard {last} publishes over a reload, each once and in order");

    let start = Instant::now();
    daemon.signal("TERM");
    let mut told = 0;
    while !clients.is_empty() {
        assert!(start.elapsed() < DRAIN_WINDOW + PATIENCE, "{} were not told", clients.len());
        clients.retain_mut(|client| match hear(client) {
            Heard::Nothing => true,
            Heard::Message(message) => {
                let outcome = (&message["action"], &message["error"]["code"]);
                assert_eq!(outcome, (&6.into(), &50320.into()), "{message}");
                told += 1;
                false
            }
            Heard::End(error) => panic!("one is cut before it is told: {error}"),
        });
        // Of no shard more than are due, and the one that is under way.
        let share = start.elapsed().as_secs_f64() / DRAIN_WINDOW.as_secs_f64();
        let due = (count as f64 * share) as usize + 2 * SHARDS;
        assert!(told <= due, "{told} of {count} were sent away where {due} are due");
        std::thread::sleep(PAUSE);
    }
    assert_eq!(daemon.wait().code(), Some(0));
    for address in [daemon.address, secure] {
        let error = TcpStream::connect(address).expect_err("nobody listens any more");
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    }
    assert_eq!(root.files(), before_start, "the daemon leaves no file behind");
    // systemd would.
    fs::remove_dir_all(root.path("run")).expect("ours");

    root.dpkg(&["--remove", "ringcast"]);
    assert!(!binary.exists() && config.exists(), "what was configured stays");
    root.dpkg(&["--purge", "ringcast"]);
    // A user is made with files for users, which others may need too.
    let made = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        ["passwd", "group", "shadow", "gshadow"].iter().any(|known| name.starts_with(known))
            || name == ".pwd.lock"
    };
    let left: BTreeSet<_> = root.files().into_iter().filter(|path| !made(path)).collect();
    let left: Vec<_> = left.difference(&before).collect();
    assert!(left.is_empty(), "{left:?}");
    let users = fs::read_to_string(root.path("etc/passwd")).unwrap_or_default();
    assert!(!users.contains("ringcast"), "{users}");
}

#[test]
#[ignore = "takes cargo-deb"]
fn a_package_that_is_built_again_is_the_same() {
    assert!(build() == build(), "two packages of one source differ");
}

fn clients() -> usize {
    std::env::var("PACKAGE_CLIENTS").map_or(CLIENTS, |text| text.parse().expect("a number"))
}

/// A client's end, one way or the other.
enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream>),
}

impl Stream {
    fn socket(&self) -> &TcpStream {
        match self {
            Stream::Plain(socket) => socket,
            Stream::Tls(stream) => &stream.socket,
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(socket) => socket.read(buffer),
            Stream::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(socket) => socket.write(bytes),
            Stream::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Stream::Plain(socket) => socket.flush(),
            Stream::Tls(stream) => stream.flush(),
        }
    }
}

fn connect_tls(address: SocketAddr, trust: &Trust) -> TlsStream {
    let socket = TcpStream::connect(address).expect("the daemon accepts");
    socket.set_read_timeout(Some(PATIENCE)).expect("the timeout is not zero");
    TlsStream::new(socket, trust).expect("the daemon is trusted")
}

type Socket = WebSocket<Stream>;

fn subscribe(stream: Stream, key: &str) -> Socket {
    let key = key.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
    let url = format!("ws://127.0.0.1/?key={key}&v=6");
    let sizes = WebSocketConfig::default().read_buffer_size(1024).write_buffer_size(0);
    let (mut socket, _) =
        tungstenite::client::client_with_config(url, stream, Some(sizes)).expect("upgraded");
    socket.send(Message::text(r#"{"action":10,"channel":"room"}"#)).expect("the daemon reads");
    while next(&mut socket).expect("attached")["action"] != 11 {}
    socket
}

enum Heard {
    Message(Value),
    /// Nothing yet, on a socket that does not wait.
    Nothing,
    End(tungstenite::Error),
}

/// The next protocol message that is not a heartbeat.
fn hear(socket: &mut Socket) -> Heard {
    loop {
        match socket.read() {
            Ok(Message::Text(text)) => {
                let message: Value = serde_json::from_str(&text).expect("payloads are JSON");
                if message["action"] != 0 {
                    return Heard::Message(message);
                }
            }
            Ok(_) => {}
            Err(tungstenite::Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => {
                return Heard::Nothing;
            }
            Err(error) => return Heard::End(error),
        }
    }
}

/// The same, waited for.
fn next(socket: &mut Socket) -> Result<Value, tungstenite::Error> {
    match hear(socket) {
        Heard::Message(message) => Ok(message),
        Heard::Nothing => panic!("nothing was heard within {PATIENCE:?}"),
        Heard::End(error) => Err(error),
    }
}

fn data(socket: &mut Socket) -> u64 {
    let message = next(socket).expect("still connected");
    assert_eq!(message["action"], 15, "{message}");
    message["messages"][0]["data"].as_str().expect("a string").parse().expect("a number")
}

/// The status that a publish of `number` is answered with.
fn publish(daemon: &Daemon, key: &str, number: u64) -> u16 {
    let body = format!(r#"{{"data":"{number}"}}"#);
    let credentials = data_encoding::BASE64.encode(key.as_bytes());
    let mut stream = daemon.connect();
    let request = format!(
        "POST /channels/room/messages HTTP/1.1\r\nHost: h\r\nAuthorization: Basic {credentials}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).expect("the daemon reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status")
}

#[test]
fn the_list_of_parts_has_every_crate_with_its_licence_and_no_crate_of_the_tests() {
    let output = Command::new(repository().join("systemd/packaging/sbom"))
        .current_dir(repository())
        .output()
        .expect("python3 is here");
    assert!(output.status.success(), "{}", text(&output));
    let list: Value = serde_json::from_slice(&output.stdout).expect("is JSON");
    assert_eq!((&list["bomFormat"], &list["specVersion"]), (&"CycloneDX".into(), &"1.5".into()));
    assert_eq!(list["metadata"]["component"]["name"], "ringcast");
    let parts = list["components"].as_array().expect("a list");
    let names: BTreeSet<&str> = parts.iter().filter_map(|part| part["name"].as_str()).collect();
    assert!(names.contains("io-uring") && names.contains("rustls"), "{names:?}");
    assert!(!names.contains("rmpv"), "is for tests only");
    for part in parts {
        let hash = part["hashes"][0]["content"].as_str().unwrap_or_default();
        assert_eq!(hash.len(), 64, "{part}");
        let licence = part["licenses"][0]["expression"].as_str().unwrap_or_default();
        assert!(
            !licence.is_empty() && licence != "NOASSERTION" && !licence.contains('/'),
            "{part}"
        );
    }
    let known: BTreeSet<_> = parts.iter().filter_map(|part| part["bom-ref"].as_str()).collect();
    for dependency in list["dependencies"].as_array().expect("a list") {
        for on in dependency["dependsOn"].as_array().expect("a list") {
            assert!(known.contains(on.as_str().unwrap_or_default()), "{on} is no part");
        }
    }
}

/// Runs a program under the profile in its first argument, as a runtime compiles it.
const CONFINED: &str = r##"
import ctypes, json, os, re, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
profile = json.load(open(sys.argv[1]))
header = next(path for path in (
    "/usr/include/x86_64-linux-gnu/asm/unistd_64.h", "/usr/include/asm/unistd_64.h",
    "/usr/include/aarch64-linux-gnu/asm/unistd.h", "/usr/include/asm-generic/unistd.h",
) if os.path.exists(path))
numbers = dict(re.findall(r"#define __NR_(\w+)\s+(\d+)", open(header).read()))
allowed = {int(numbers[name]) for rule in profile["syscalls"] for name in rule["names"] if name in numbers}
code = struct.pack("HBBI", 0x20, 0, 0, 0)
for number in sorted(allowed):
    code += struct.pack("HBBI", 0x15, 0, 1, number) + struct.pack("HBBI", 0x06, 0, 0, 0x7fff0000)
code += struct.pack("HBBI", 0x06, 0, 0, 0x50000 | profile["defaultErrnoRet"])
buffer = ctypes.create_string_buffer(code)
class Program(ctypes.Structure):
    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_void_p)]
program = Program(len(code) // 8, ctypes.addressof(buffer))
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, ctypes.byref(program), 0, 0) == 0, ctypes.get_errno()
os.execv(sys.argv[2], sys.argv[2:])
"##;

#[test]
fn the_daemon_serves_under_the_profile_for_containers() {
    let profile = repository().join("systemd/packaging/container/ringcast-seccomp.json");
    let text = fs::read_to_string(&profile).expect("is there");
    let rules: Value = serde_json::from_str(&text).expect("is JSON");
    assert_eq!(rules["defaultAction"], "SCMP_ACT_ERRNO");
    let names = rules["syscalls"][0]["names"].as_array().expect("a list");
    // What runc and crun still call when it is in force: they hand the standard streams to the user.
    for called in ["fchown", "fchownat", "setgroups", "setuid", "setgid", "capset", "execve"] {
        assert!(names.contains(&called.into()), "{called}");
    }
    for refused in ["bpf", "ptrace", "mount", "kexec_load", "init_module", "unshare", "keyctl"] {
        assert!(!names.contains(&refused.into()), "{refused}");
    }
    let mut program = Command::new("python3");
    program.args(["-c", CONFINED]).arg(&profile).arg(RINGCAST);
    program.args(["serve", "--listen", "127.0.0.1:0", "--key", "app.key:hush", "--shards", "2"]);
    let mut daemon = Daemon::spawn(&mut program);
    let mut client = subscribe(Stream::Plain(daemon.connect()), "app.key:hush");
    assert_eq!(publish(&daemon, "app.key:hush", 7), 201);
    assert_eq!(data(&mut client), 7);
    daemon.signal("TERM");
    assert_eq!(daemon.wait().code(), Some(0));
}

#[test]
fn scripts_of_the_package_can_be_read_by_their_shells() {
    let packaging = repository().join("systemd/packaging");
    for script in ["postinst", "prerm", "postrm"] {
        succeed(Command::new("sh").arg("-n").arg(packaging.join("debian").join(script)));
    }
    let scripts = ["debian/postinst", "debian/prerm", "debian/postrm", "build-deb"];
    let lint = Command::new("shellcheck").args(scripts).current_dir(packaging).output();
    match lint {
        Ok(output) => assert!(output.status.success(), "{}", text(&output)),
        Err(_) => eprintln!("shellcheck is not here: not checked"),
    }
}
