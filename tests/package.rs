//! The package as an operator meets it: installed into a root of its own, run by hand, reloaded under clients,
//! stopped, removed and purged; and what else `systemd/packaging/` has.
#![allow(clippy::disallowed_methods, reason = "a test may read clocks and wait")]

mod daemon;

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use daemon::{Daemon, PATIENCE, repository};
use serde_json::Value;
use tungstenite::protocol::WebSocketConfig;
use tungstenite::{Message, WebSocket};

const RINGCAST: &str = env!("CARGO_BIN_EXE_ringcast");

/// Clients that stay connected while the package's daemon reloads, where the limit on files allows it.
const CLIENTS: usize = 5000;

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

fn build() -> PathBuf {
    let profile = Path::new(RINGCAST).parent().and_then(Path::file_name).expect("target/PROFILE");
    let mut program = Command::new(repository().join("systemd/packaging/build-deb"));
    let profile = profile.to_str().expect("profiles have plain names");
    let said = succeed(program.args(["--no-build", profile, "--fast"]));
    let deb = said.lines().rev().find(|line| line.ends_with(".deb"));
    PathBuf::from(deb.unwrap_or_else(|| panic!("names the package: {said}")))
}

#[test]
#[ignore = "takes cargo-deb"]
fn the_package_is_installed_run_reloaded_under_clients_stopped_and_purged_without_a_trace() {
    let deb = build();
    let root = Root::new();
    let before = root.files();
    root.dpkg(&["-i", deb.to_str().expect("a path in UTF-8")]);
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
        program.args(["--listen", "127.0.0.1:0", "--shards", "2"]);
        program
    };
    let plan = succeed(&mut ringcast("check"));
    assert!(plan.contains("keys 1") && plan.contains("bytes of connections"), "{plan}");

    // A second key that changes while clients of the first stay.
    let beside = root.path("etc/ringcast/ringcast.d");
    fs::create_dir_all(&beside).expect("ours");
    let other = |secret: &str| {
        let table = format!("[[keys]]\nkey = \"app.other:{secret}\"\n");
        fs::write(beside.join("other.toml"), table).expect("ours");
    };
    other("before");
    let mut daemon = Daemon::spawn(&mut ringcast("serve"));
    let mut clients: Vec<_> = (0..clients()).map(|_| subscribe(&daemon, key)).collect();
    assert_eq!(publish(&daemon, key, 1), 201);
    assert_eq!(publish(&daemon, "app.other:before", 2), 201);
    other("after");
    daemon.signal("HUP");
    let start = Instant::now();
    while publish(&daemon, "app.other:after", 3) != 201 {
        assert!(start.elapsed() < PATIENCE, "the new secret is not taken");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(publish(&daemon, "app.other:before", 4), 401);
    assert_eq!(publish(&daemon, key, 5), 201);
    for client in &mut clients {
        let heard: Vec<u64> = (0..4).map(|_| data(client)).collect();
        assert_eq!(heard, [1, 2, 3, 5], "nothing is lost over the reload");
    }
    daemon.signal("TERM");
    for client in &mut clients {
        let message = next(client).expect("is told before it is cut");
        assert_eq!((&message["action"], &message["error"]["code"]), (&6.into(), &50320.into()));
    }
    assert_eq!(daemon.wait().code(), Some(0));
    drop(clients);

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
    let build = || fs::read(build()).expect("was just built");
    assert!(build() == build(), "two packages of one source differ");
}

fn clients() -> usize {
    let limits = fs::read_to_string("/proc/self/limits").expect("there is a /proc");
    let files =
        limits.lines().find_map(|line| line.strip_prefix("Max open files")).expect("is there");
    let soft = files.split_ascii_whitespace().next().and_then(|soft| soft.parse::<usize>().ok());
    soft.map_or(CLIENTS, |soft| CLIENTS.min(soft / 2))
}

fn subscribe(daemon: &Daemon, key: &str) -> WebSocket<TcpStream> {
    let key = key.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
    let url = format!("ws://{}/?key={key}&v=6", daemon.address);
    let sizes = WebSocketConfig::default().read_buffer_size(1024).write_buffer_size(0);
    let (mut socket, _) =
        tungstenite::client::client_with_config(url, daemon.connect(), Some(sizes))
            .expect("upgraded");
    socket.send(Message::text(r#"{"action":10,"channel":"room"}"#)).expect("the daemon reads");
    while next(&mut socket).expect("attached")["action"] != 11 {}
    socket
}

/// The next protocol message that is not a heartbeat; `None` at the end.
fn next(socket: &mut WebSocket<TcpStream>) -> Option<Value> {
    loop {
        match socket.read() {
            Ok(Message::Text(text)) => {
                let message: Value = serde_json::from_str(&text).expect("payloads are JSON");
                if message["action"] != 0 {
                    return Some(message);
                }
            }
            Ok(_) => {}
            Err(_) => return None,
        }
    }
}

fn data(socket: &mut WebSocket<TcpStream>) -> u64 {
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
    for refused in ["bpf", "ptrace", "mount", "kexec_load", "init_module", "unshare", "keyctl"] {
        assert!(!names.contains(&refused.into()), "{refused}");
    }
    let mut program = Command::new("python3");
    program.args(["-c", CONFINED]).arg(&profile).arg(RINGCAST);
    program.args(["serve", "--listen", "127.0.0.1:0", "--key", "app.key:hush", "--shards", "2"]);
    let mut daemon = Daemon::spawn(&mut program);
    let mut client = subscribe(&daemon, "app.key:hush");
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
