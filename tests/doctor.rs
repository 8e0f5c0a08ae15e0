//! `ringcast doctor` on hosts that lack something: each obstacle is made for real, by a limit, a filter, a
//! socket or a file, and has to be found, and `serve` has to fail with the same words.
#![allow(clippy::disallowed_methods, reason = "a test may wait")]

mod daemon;

use std::net::TcpListener;
use std::process::{Command, Output};

use serde_json::Value;

const RINGCAST: &str = env!("CARGO_BIN_EXE_ringcast");

/// Runs the rest of its arguments where a filter answers io_uring_setup(2) with an errno, as the profiles of
/// containers do.
const FILTERED: &str = r#"
import ctypes, os, platform, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
setup, errno = 425, int(sys.argv[1])
code = struct.pack("HBBI", 0x20, 0, 0, 0)            # load the number of the call
code += struct.pack("HBBI", 0x15, 0, 1, setup)       # is it io_uring_setup?
code += struct.pack("HBBI", 0x06, 0, 0, 0x50000 | errno)
code += struct.pack("HBBI", 0x06, 0, 0, 0x7fff0000)  # everything else is allowed
buffer = ctypes.create_string_buffer(code)
class Program(ctypes.Structure):
    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_void_p)]
program = Program(len(code) // 8, ctypes.addressof(buffer))
assert libc.prctl(38, 1, 0, 0, 0) == 0               # PR_SET_NO_NEW_PRIVS
assert libc.prctl(22, 2, ctypes.byref(program), 0, 0) == 0, ctypes.get_errno()
os.execv(sys.argv[2], sys.argv[2:])
"#;

fn filtered(errno: i32, arguments: &[&str]) -> Output {
    let mut program = Command::new("python3");
    program.args(["-c", FILTERED, &errno.to_string(), RINGCAST]).args(arguments);
    program.output().expect("python3 is here")
}

/// Runs ringcast under limits that a shell sets, without the right to ignore them.
fn limited(limits: &str, arguments: &[&str]) -> Output {
    let script = format!("{limits} && exec \"$0\" \"$@\"");
    let mut program = Command::new("sh");
    if may_lock_all() {
        program = Command::new("setpriv");
        program.args(["--bounding-set=-ipc_lock", "--inh-caps=-ipc_lock", "sh"]);
    }
    program.args(["-c", &script, RINGCAST]).args(arguments).output().expect("sh is here")
}

fn may_lock_all() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").expect("there is a /proc");
    let set = status.lines().find_map(|line| line.strip_prefix("CapEff:")).expect("is there");
    u64::from_str_radix(set.trim(), 16).expect("a number") & (1 << 14) != 0
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

/// The finding of `check`, from what `doctor --json` said.
fn finding(output: &Output, check: &str) -> Value {
    let report: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(output)));
    let findings = report["findings"].as_array().expect("a list");
    let found = findings.iter().filter(|finding| finding["check"] == check);
    found.max_by_key(|finding| finding["severity"] == "error").expect("was checked").clone()
}

#[test]
fn a_host_that_runs_the_daemon_has_no_errors() {
    let output = Command::new(RINGCAST)
        .args(["doctor", "--listen", "127.0.0.1:0", "--json"])
        .output()
        .expect("the program can be started");
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(finding(&output, "io_uring")["severity"], "ok");
    let report: Value = serde_json::from_slice(&output.stdout).expect("is JSON");
    let plan = report["plan"]["rows"].as_array().expect("a list");
    assert!(plan.iter().any(|row| row["resource"] == "connections"), "{report}");
}

#[test]
fn a_filter_that_refuses_io_uring_is_found() {
    for (errno, what) in [
        (libc::EPERM, "a seccomp filter refuses io_uring_setup"),
        (libc::ENOSYS, "or a filter says so"),
    ] {
        let output = filtered(errno, &["doctor", "--listen", "127.0.0.1:0", "--json"]);
        assert_eq!(output.status.code(), Some(1), "{}", text(&output));
        let finding = finding(&output, "io_uring");
        assert_eq!(finding["severity"], "error");
        assert!(finding["what"].as_str().expect("words").contains(what), "{finding}");
        assert!(finding["remedies"].as_array().is_some_and(|list| !list.is_empty()), "{finding}");
        let output = filtered(errno, &["serve", "--listen", "127.0.0.1:0", "--key", "a.b:c"]);
        assert!(!output.status.success());
        assert!(text(&output).contains(what), "{}", text(&output));
    }
}

#[test]
fn limits_that_are_too_low_are_found() {
    let arguments = ["--listen", "127.0.0.1:0", "--shards", "3"];
    let doctor = [&["doctor", "--json"][..], &arguments].concat();
    let output = limited("ulimit -n 70", &doctor);
    let files = finding(&output, "open files");
    assert_eq!(files["severity"], "error", "{files}");
    assert!(files["what"].as_str().expect("words").contains("70 are allowed"), "{files}");
    assert_eq!(output.status.code(), Some(1));
    let output = limited("ulimit -n 10000", &doctor);
    let tables = finding(&output, "sockets of a ring");
    assert_eq!(tables["severity"], "note", "{tables}");
    // Which of its two ways of counting the kernel uses is its own business: the ring may find out first.
    let output = limited("ulimit -l 256", &doctor);
    let locked = finding(&output, "locked memory");
    assert_eq!(locked["severity"], "error", "{locked}");
    assert!(locked["what"].as_str().expect("words").contains("256 KiB are allowed"), "{locked}");
    let serve = [&["serve", "--key", "a.b:c"][..], &arguments].concat();
    let output = limited("ulimit -l 256", &serve);
    assert!(!output.status.success());
    assert!(text(&output).contains("LimitMEMLOCK=128M"), "{}", text(&output));
}

#[test]
fn a_start_that_lacks_locked_memory_says_so_at_once_and_how_to_raise_it() {
    // Enough for the executors, 768 KiB each, and not for the queues of rings as well, where these count.
    for (limit, has_to_be_refused) in [("ulimit -l 2200", true), ("ulimit -l 2400", false)] {
        let arguments = ["--listen", "127.0.0.1:0", "--shards", "3"];
        let doctor = [&["doctor", "--json"][..], &arguments].concat();
        let is_refused = finding(&limited(limit, &doctor), "locked memory")["severity"] == "error";
        if !has_to_be_refused && !is_refused {
            eprintln!("skipped: this kernel does not count queues of rings as locked");
            continue;
        }
        assert!(is_refused);
        let serve = [&["serve", "--key", "a.b:c"][..], &arguments].concat();
        let output = limited(limit, &serve);
        let said = text(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        for part in ["RLIMIT_MEMLOCK allows", "LimitMEMLOCK=", "ulimit -l ", "podman run --ulimit"]
        {
            assert!(said.contains(part), "{part}: {said}");
        }
        assert!(!said.contains("tried again"), "{said}");
    }
}

#[test]
fn a_port_that_is_taken_is_found_with_who_has_it() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("there are free ports");
    let address = taken.local_addr().expect("it is bound").to_string();
    let who = format!("(pid {})", std::process::id());
    let output = Command::new(RINGCAST)
        .args(["doctor", "--listen", &address])
        .output()
        .expect("the program can be started");
    let said = text(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(&format!("{address} is taken")) && said.contains(&who), "{said}");
    let output = Command::new(RINGCAST)
        .args(["serve", "--key", "a.b:c", "--listen", &address])
        .output()
        .expect("the program can be started");
    assert!(text(&output).contains(&who), "{}", text(&output));
    let output = Command::new(RINGCAST)
        .args(["doctor", "--listen", "192.0.2.1:8080"])
        .output()
        .expect("the program can be started");
    let said = text(&output);
    assert!(said.contains("192.0.2.1 is no address of this host"), "{said}");
}

#[test]
fn a_second_daemon_on_the_same_port_is_a_note_about_the_first() {
    let daemon = daemon::Daemon::start_with(&["--key", "app.key:hush"]);
    let output = Command::new(RINGCAST)
        .args(["doctor", "--listen", &daemon.address.to_string()])
        .output()
        .expect("the program can be started");
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    assert!(said.contains(&format!("by ringcast (pid {})", daemon.pid())), "{said}");
}

#[test]
fn a_configuration_that_cannot_be_honoured_is_a_finding_among_others() {
    let output = Command::new(RINGCAST)
        .args(["doctor", "--json", "--set", "limits.head_timeout=9"])
        .output()
        .expect("the program can be started");
    assert_eq!(output.status.code(), Some(1));
    let found = finding(&output, "configuration");
    assert!(found["what"].as_str().expect("words").contains("head_timeout"), "{found}");
    assert_eq!(finding(&output, "io_uring")["severity"], "ok");
    let output = Command::new(RINGCAST)
        .args(["doctor", "--json", "--cores", "60000"])
        .output()
        .expect("the program can be started");
    let found = finding(&output, "placement");
    assert!(found["what"].as_str().expect("words").contains("CPU 60000"), "{found}");
    let nowhere = ["doctor", "--json", "--set", "server.state_dir=/proc/ringcast"];
    let output = Command::new(RINGCAST).args(nowhere).output().expect("as above");
    assert_eq!(finding(&output, "state_dir")["severity"], "error", "{}", text(&output));
}
