//! The daemon as a service manager sees it: notifications over a real datagram socket, the watchdog,
//! inherited sockets, the end; and the units in `systemd/`.
#![allow(clippy::disallowed_methods, reason = "a test may read clocks and wait")]

mod daemon;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use daemon::{Daemon, PATIENCE, repository};

/// A service manager's end of the notification socket.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Manager {
    fn new(name: &str) -> Manager {
        let path = std::env::temp_dir().join(format!("ringcast-{name}-{}", std::process::id()));
        let socket = UnixDatagram::bind(&path).expect("the temporary directory can be written");
        socket.set_read_timeout(Some(PATIENCE)).expect("the timeout is not zero");
        Manager { socket, path }
    }

    /// Starts a daemon that tells this manager, as `NotifyAccess=main` has it.
    fn start(&self, watchdog: Option<Duration>, flags: &[&str]) -> Daemon {
        let mut program = Command::new(env!("CARGO_BIN_EXE_ringcast"));
        program.args(["serve", "--listen", "127.0.0.1:0", "--key", "app.key:hush"]).args(flags);
        program.env("NOTIFY_SOCKET", &self.path);
        if let Some(watchdog) = watchdog {
            program.env("WATCHDOG_USEC", watchdog.as_micros().to_string());
        }
        Daemon::spawn(&mut program)
    }

    /// The next notification; several assignments are lines of one.
    fn next(&self) -> String {
        let mut datagram = [0; 4096];
        let len = self.socket.recv(&mut datagram).expect("the daemon has something to say");
        String::from_utf8(datagram[..len].to_vec()).expect("notifications are UTF-8")
    }

    /// Skips notifications up to the first with the assignment `wanted` in it.
    fn wait_for(&self, wanted: &str) -> String {
        loop {
            let said = self.next();
            if said.lines().any(|line| line.starts_with(wanted)) {
                return said;
            }
        }
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn config_file(name: &str, text: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("ringcast-{name}-{}.toml", std::process::id()));
    std::fs::write(&path, text).expect("the temporary directory can be written");
    path
}

#[test]
fn the_manager_hears_that_it_is_ready_alive_and_going() {
    let manager = Manager::new("notify");
    let mut daemon = manager.start(Some(Duration::from_millis(400)), &["--shards", "3"]);
    manager.wait_for("READY=1");
    manager.wait_for("STATUS=serving 0 connections, 0 channels");
    let start = Instant::now();
    for _ in 0..5 {
        manager.wait_for("WATCHDOG=1");
    }
    assert!(start.elapsed() < Duration::from_secs(2), "fed five times within five intervals");
    daemon.signal("TERM");
    let said = manager.wait_for("STOPPING=1");
    assert!(said.contains("\nEXTEND_TIMEOUT_USEC="), "{said}");
    assert_eq!(daemon.wait().code(), Some(0));
}

#[test]
fn a_shard_that_stands_still_is_named_and_the_watchdog_goes_hungry() {
    let manager = Manager::new("stall");
    let path = config_file("stall", "[test]\nstall = true\n");
    let config = path.to_str().expect("a path in UTF-8");
    let watchdog = Duration::from_millis(800);
    let daemon = manager.start(Some(watchdog), &["--shards", "2", "--config", config]);
    manager.wait_for("WATCHDOG=1");
    daemon.signal("USR1");
    let stalled = Instant::now();
    let mut fed = Instant::now();
    loop {
        let said = manager.next();
        if said.starts_with("WATCHDOG=1") {
            fed = Instant::now();
        }
        if said.starts_with("STATUS=shard 1 on CPU ") {
            assert!(said.ends_with("stands still"), "{said}");
            break;
        }
        assert!(stalled.elapsed() < PATIENCE);
    }
    assert!(fed - stalled < watchdog, "fed {:?} after the stall", fed - stalled);
    manager.socket.set_read_timeout(Some(2 * watchdog)).expect("not zero");
    let mut datagram = [0; 4096];
    assert!(manager.socket.recv(&mut datagram).is_err(), "nothing more is said while it lasts");
    std::fs::remove_file(path).expect("made above");
}

#[test]
fn without_a_watchdog_none_is_fed() {
    let manager = Manager::new("nodog");
    let mut daemon = manager.start(None, &[]);
    manager.wait_for("STATUS=");
    daemon.signal("INT");
    loop {
        let said = manager.next();
        assert!(!said.contains("WATCHDOG"), "{said}");
        if said.contains("STOPPING=1") {
            break;
        }
    }
    assert_eq!(daemon.wait().code(), Some(0));
}

#[test]
fn reload_takes_new_keys_and_drops_old_ones_and_a_bad_file_changes_nothing() {
    let path = config_file("reload", "[[keys]]\nkey = \"app.old:hush\"\n");
    let config = path.to_str().expect("a path in UTF-8");
    let manager = Manager::new("reload");
    let mut program = Command::new(env!("CARGO_BIN_EXE_ringcast"));
    program.args(["serve", "--listen", "127.0.0.1:0", "--shards", "3", "--config", config]);
    program.env("NOTIFY_SOCKET", &manager.path);
    let daemon = Daemon::spawn(&mut program);
    manager.wait_for("READY=1");
    let status = |key: &str| {
        let response = daemon.exchange(&format!(
            "GET /channels/x/messages?key=app.{key}:hush HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
        ));
        response.split(' ').nth(1).expect("a status").to_owned()
    };
    assert_eq!((status("old"), status("new")), ("200".into(), "401".into()));
    std::fs::write(&path, "[[keys]]\nkey = \"app.new:hush\"\n").expect("as above");
    daemon.signal("HUP");
    let said = manager.wait_for("RELOADING=1");
    assert!(said.contains("\nMONOTONIC_USEC="), "{said}");
    manager.wait_for("READY=1");
    assert_eq!((status("old"), status("new")), ("401".into(), "200".into()));
    std::fs::write(&path, "[[keys]]\nkey = \"app.old:hush\"\n[nonsense]\n").expect("as above");
    daemon.signal("HUP");
    manager.wait_for("RELOADING=1");
    manager.wait_for("READY=1");
    assert_eq!((status("old"), status("new")), ("401".into(), "200".into()));
    std::fs::remove_file(path).expect("made above");
}

#[test]
fn a_reload_that_bounds_addresses_counts_who_is_there_already() {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("Linux");
    let mut parts = release.split('.').map_while(|part| part.parse::<u32>().ok());
    let version = (parts.next().expect("a number"), parts.next().unwrap_or(0));
    let keys = "[[keys]]\nkey = \"app.key:hush\"\n";
    let path = config_file("bounded", keys);
    let config = path.to_str().expect("a path in UTF-8");
    let manager = Manager::new("bounded");
    let mut program = Command::new(env!("CARGO_BIN_EXE_ringcast"));
    program.args(["serve", "--listen", "127.0.0.1:0", "--shards", "2", "--config", config]);
    program.env("NOTIFY_SOCKET", &manager.path);
    let daemon = Daemon::spawn(&mut program);
    manager.wait_for("READY=1");
    let mut clients: Vec<_> = (0..6).map(|_| subscribe(&daemon)).collect();
    let bounded = format!("{keys}[limits]\nconnections_per_address_max = 6\n");
    std::fs::write(&path, bounded).expect("as above");
    daemon.signal("HUP");
    manager.wait_for("RELOADING=1");
    manager.wait_for("READY=1");
    let connect = || {
        let url = format!("ws://{}/?key=app.key:hush&v=6", daemon.address);
        let (mut socket, _) = tungstenite::client(url, daemon.connect()).expect("upgraded");
        let first = next(&mut socket).expect("told something");
        (first["action"].clone(), first["error"]["code"].clone(), socket)
    };
    if version < (6, 8) {
        assert_eq!(connect().0, 4, "only who comes from now on is counted");
    } else {
        // They are counted some turns after the limit holds.
        let began = Instant::now();
        let refused = loop {
            let (action, code, mut socket) = connect();
            if action == 9 {
                break code;
            }
            socket.close(None).expect("the daemon reads");
            while next(&mut socket).is_some() {}
            assert!(began.elapsed() < PATIENCE, "one more than the bound is let in");
        };
        assert_eq!(refused, 40150);
        let mut last = clients.pop().expect("there are six");
        last.close(None).expect("the daemon reads");
        while next(&mut last).is_some() {}
        // Its seat is given back a moment later.
        while connect().0 != 4 {
            assert!(began.elapsed() < PATIENCE, "a seat that is free is not given");
        }
    }
    // All others go on.
    for socket in &mut clients {
        socket.send(tungstenite::Message::text(r#"{"action":0,"id":"p"}"#)).expect("open");
        assert_eq!(next(socket).expect("answered")["action"], 0);
    }
    std::fs::remove_file(path).expect("made above");
}

#[test]
fn a_drain_tells_everybody_that_the_load_generator_has_brought() {
    let mut daemon = Daemon::start_with(&["--key", "app.key:hush", "--shards", "2"]);
    let output = Command::new(env!("CARGO_BIN_EXE_ringcast"))
        .args(["bench", "--key", "app.key:hush", "--subscribers", "60", "--stall-percent", "10"])
        .args(["--messages", "3", "--idle", "1", "--drain"])
        .args(["--server", &daemon.address.to_string(), "--pid", &daemon.pid().to_string()])
        .output()
        .expect("was built with this test");
    let said =
        String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned();
    assert!(output.status.success() && said.contains("SIGTERM to all told"), "{said}");
    assert_eq!(daemon.wait().code(), Some(0));
}

#[test]
fn an_inherited_socket_is_shared_by_all_shards_and_one_called_admin_has_the_metrics() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("there are free ports");
    // As a manager hands it over; the address in the configuration does not count.
    listener.set_nonblocking(true).expect("it is open");
    let address = listener.local_addr().expect("it is bound");
    let admin = TcpListener::bind("127.0.0.1:0").expect("there are free ports");
    let admin_address = admin.local_addr().expect("it is bound");
    let binary = env!("CARGO_BIN_EXE_ringcast");
    let script = format!(
        "exec 3<&0 4<&2 </dev/null 2>/dev/null; \
         LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=ringcast.socket:admin exec \
         {binary} serve --listen 127.0.0.1:1 --shards 3 --key app.key:hush"
    );
    let mut program = Command::new("sh");
    program.args(["-c", &script]).stdin(Stdio::from(OwnedFd::from(listener)));
    program.stderr(Stdio::from(OwnedFd::from(admin)));
    let mut daemon = Daemon::spawn(&mut program);
    drop(program); // it has the socket too
    assert_eq!((daemon.address, admin_of(&daemon)), (address, admin_address));
    for _ in 0..30 {
        let answer =
            daemon.exchange("GET /readyz HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
    let metrics = ask_admin(
        admin_address,
        "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    );
    assert!(metrics.contains("ringcast_build_info"), "{metrics}");
    daemon.signal("TERM");
    assert_eq!(daemon.wait().code(), Some(0));
}

#[test]
fn a_second_signal_ends_the_daemon_at_once() {
    let mut daemon = Daemon::start_with(&["--key", "app.key:hush"]);
    let mut stream = daemon.connect();
    // A request that never ends would hold the drain up for seconds.
    stream.write_all(b"GET /time HTTP/1.1\r\n").expect("the daemon reads");
    std::thread::sleep(Duration::from_millis(200));
    daemon.signal("TERM");
    std::thread::sleep(Duration::from_millis(300));
    let start = Instant::now();
    daemon.signal("TERM");
    assert_eq!(daemon.wait().code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(1), "took {:?}", start.elapsed());
    let _ = stream.read(&mut [0; 64]);
}

#[test]
fn the_units_are_as_closed_as_a_network_daemon_can_be() {
    let Ok(version) = Command::new("systemd-analyze").arg("--version").output() else {
        eprintln!("systemd-analyze is not here: not checked");
        return;
    };
    assert!(version.status.success());
    let directory = std::env::temp_dir().join(format!("ringcast-units-{}", std::process::id()));
    let drop_ins = directory.join("ringcast.service.d");
    let from = repository().join("systemd");
    let unit = directory.join("ringcast.service");
    for (drop_in, tenths) in [
        (None, 15),
        (Some("https.conf"), 18),
        (Some("high-port.conf"), 14),
        (Some("socket.conf"), 6),
        (Some("cpus.conf"), 15),
        (Some("numa.conf"), 15),
    ] {
        std::fs::create_dir_all(&drop_ins).expect("the temporary directory can be written");
        std::fs::copy(from.join("ringcast.service"), &unit).expect("the unit is there");
        if let Some(name) = drop_in {
            let example = from.join("drop-ins").join(name);
            std::fs::copy(example, drop_ins.join(name)).expect("the example is there");
        }
        let output = Command::new("systemd-analyze")
            .args(["security", "--offline=true", "--no-pager", &format!("--threshold={tenths}")])
            .arg(&unit)
            .output()
            .expect("it was there just now");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
        std::fs::remove_dir_all(&directory).expect("made above");
    }
}

#[test]
fn the_units_are_understood_by_systemd() {
    let directory = std::env::temp_dir().join(format!("ringcast-verify-{}", std::process::id()));
    let drop_ins = directory.join("ringcast.service.d");
    std::fs::create_dir_all(&drop_ins).expect("the temporary directory can be written");
    let from = repository().join("systemd");
    for unit in ["ringcast.service", "ringcast.socket", "ringcast.slice"] {
        let text = std::fs::read_to_string(from.join(unit)).expect("the unit is there");
        // Programs have to exist.
        let text = text.replace("/usr/bin/ringcast", env!("CARGO_BIN_EXE_ringcast"));
        std::fs::write(directory.join(unit), text).expect("as above");
    }
    for drop_in in std::fs::read_dir(from.join("drop-ins")).expect("the examples are there") {
        let path = drop_in.expect("as above").path();
        std::fs::copy(&path, drop_ins.join(path.file_name().expect("a file"))).expect("as above");
    }
    let verify = Command::new("systemd-analyze")
        .args(["verify", "--man=no", "--recursive-errors=no"])
        .args(
            ["ringcast.service", "ringcast.socket", "ringcast.slice"]
                .map(|unit| directory.join(unit)),
        )
        .output();
    let Ok(output) = verify else {
        eprintln!("systemd-analyze is not here: not checked");
        return;
    };
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && !said.contains("ringcast"), "{said}");
    for (tool, flags, file) in [
        ("systemd-sysusers", &["--dry-run"][..], "sysusers.d/ringcast.conf"),
        ("systemd-tmpfiles", &["--create", "--root"], "tmpfiles.d/ringcast.conf"),
    ] {
        let root = directory.join("root");
        std::fs::create_dir_all(root.join("etc")).expect("as above");
        let mut program = Command::new(tool);
        program.args(flags);
        if flags.contains(&"--root") {
            program.arg(&root);
        }
        let output = program.arg(from.join(file)).output().expect("comes with systemd-analyze");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!said.contains(file) && !said.contains("Unknown"), "{tool}: {said}");
    }
    std::fs::remove_dir_all(&directory).expect("made above");
}

/// What a subscriber has received until it was sent away.
struct Heard {
    data: Vec<u64>,
    end: serde_json::Value,
}

fn subscribe(daemon: &Daemon) -> tungstenite::WebSocket<TcpStream> {
    let url = format!("ws://{}/?key=app.key:hush&v=6", daemon.address);
    let (mut socket, _) = tungstenite::client(url, daemon.connect()).expect("upgraded");
    let attach = r#"{"action":10,"channel":"room"}"#;
    socket.send(tungstenite::Message::text(attach)).expect("the daemon reads");
    loop {
        if next(&mut socket).expect("attached")["action"] == 11 {
            return socket;
        }
    }
}

/// The next protocol message; `None` at the end.
fn next(socket: &mut tungstenite::WebSocket<TcpStream>) -> Option<serde_json::Value> {
    loop {
        match socket.read() {
            Ok(tungstenite::Message::Text(text)) => {
                return Some(serde_json::from_str(&text).expect("payloads are JSON"));
            }
            Ok(_) => {}
            Err(_) => return None,
        }
    }
}

fn hear(mut socket: tungstenite::WebSocket<TcpStream>) -> Heard {
    let mut data = Vec::new();
    loop {
        let message = next(&mut socket).expect("sent away in good order");
        match message["action"].as_u64() {
            Some(15) => {
                let text = message["messages"][0]["data"].as_str().expect("a string");
                data.push(text.parse().expect("a number"));
            }
            Some(6) => {
                assert!(next(&mut socket).is_none(), "nothing follows");
                return Heard { data, end: message["error"].clone() };
            }
            _ => {}
        }
    }
}

#[test]
fn nothing_that_was_acknowledged_is_lost_to_subscribers_when_the_daemon_drains() {
    let mut daemon = Daemon::start_with(&["--shards", "3", "--key", "app.key:hush"]);
    let subscribers: Vec<_> = (0..30).map(|_| subscribe(&daemon)).collect();
    let hearers: Vec<_> =
        subscribers.into_iter().map(|socket| std::thread::spawn(move || hear(socket))).collect();
    let acked = Arc::new(AtomicU64::new(0));
    let publisher = std::thread::spawn({
        let (acked, mut stream) = (Arc::clone(&acked), daemon.connect());
        move || {
            for number in 0.. {
                let body = format!(r#"{{"data":"{number}"}}"#);
                let request = format!(
                    "POST /channels/room/messages?key=app.key:hush HTTP/1.1\r\nHost: h\r\n\
                     Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                    body.len()
                );
                let mut answer = [0; 4096];
                let sent = stream.write_all(request.as_bytes());
                match sent.and_then(|()| stream.read(&mut answer)) {
                    Ok(len) if answer[..len].starts_with(b"HTTP/1.1 201 ") => {
                        acked.store(number + 1, Ordering::SeqCst);
                    }
                    _ => return,
                }
            }
        }
    });
    while acked.load(Ordering::SeqCst) < 200 {
        std::thread::sleep(Duration::from_millis(1));
    }
    daemon.signal("TERM");
    // Counted before the daemon has heard of the signal, so nobody was sent away yet.
    let acked_before = 200;
    for hearer in hearers {
        let Heard { data, end } = hearer.join().expect("heard everything");
        assert!(data.len() as u64 >= acked_before, "{} of {acked_before}", data.len());
        assert!(data.iter().copied().eq(0..data.len() as u64), "in order, without a gap");
        assert_eq!((&end["code"], &end["statusCode"]), (&50320.into(), &503.into()));
    }
    publisher.join().expect("ends with the daemon");
    assert_eq!(daemon.wait().code(), Some(0));
}

/// What the admin listener answers.
fn ask_admin(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("the admin listener accepts");
    stream.set_read_timeout(Some(PATIENCE)).expect("the timeout is not zero");
    stream.write_all(request.as_bytes()).expect("the admin listener reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it closes behind its answer");
    answer
}

fn admin_of(daemon: &Daemon) -> SocketAddr {
    let line = daemon.greeting.lines().find_map(|line| line.strip_prefix("metrics on http://"));
    let address = line.and_then(|rest| rest.strip_suffix("/metrics"));
    address.expect("`metrics on http://ADDR:PORT/metrics`").parse().expect("an address")
}

#[test]
fn metrics_count_what_clients_do_on_each_core() {
    let path = config_file("metrics", "[admin]\nlisten = \"127.0.0.1:0\"\n");
    let config = path.to_str().expect("a path in UTF-8");
    let daemon =
        Daemon::start_with(&["--shards", "3", "--key", "app.key:hush", "--config", config]);
    let admin = admin_of(&daemon);
    let subscribers: Vec<_> = (0..7).map(|_| subscribe(&daemon)).collect();
    let scrape = || {
        ask_admin(admin, "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    };
    let sum = |text: &str, name: &str| {
        let samples = text.lines().filter_map(|line| line.strip_prefix(name)?.split_once("} "));
        let values = samples.map(|(_, value)| value.parse::<f64>().expect("a number"));
        values.fold((0, 0.0), |(count, sum), value| (count + 1, sum + value))
    };
    let start = Instant::now();
    let text = loop {
        let text = scrape();
        if sum(&text, "ringcast_connections{").1 == 7.0 {
            break text;
        }
        assert!(start.elapsed() < PATIENCE, "{text}");
        std::thread::sleep(Duration::from_millis(50));
    };
    assert!(text.starts_with("HTTP/1.1 200 ") && text.contains("text/plain; version=0.0.4"));
    assert!(text.contains(r#"core=""#) && text.contains(r#"shard="2""#), "{text}");
    assert_eq!(sum(&text, "ringcast_turns_total{").0, 3);
    assert!(sum(&text, "ringcast_received_bytes_total{").1 > 7.0 * 100.0);
    assert!(sum(&text, "ringcast_sent_bytes_total{").1 > 7.0 * 100.0);
    assert!(sum(&text, "ringcast_sleep_seconds_total{").1 > 0.0);
    // The admin is not for clients, nor the other way round.
    let not_found =
        ask_admin(admin, "GET /time HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    assert!(not_found.starts_with("HTTP/1.1 404 "), "{not_found}");
    let unreadable = ask_admin(admin, "GET / HTTP/1.1\r\nno header\r\n\r\n");
    assert!(unreadable.starts_with("HTTP/1.1 400 "), "{unreadable}");
    let metrics = "GET /metrics HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
    assert!(daemon.exchange(metrics).starts_with("HTTP/1.1 404 "));
    // Somebody who never finishes a request is given up.
    let mut silent = TcpStream::connect(admin).expect("the admin listener accepts");
    silent.write_all(b"GET ").expect("as above");
    assert!(scrape().starts_with("HTTP/1.1 200 "));
    drop(subscribers);
    std::fs::remove_file(path).expect("made above");
}

#[test]
fn a_shard_that_polls_turns_while_it_has_nothing_to_do_and_serves_all_the_same() {
    let path = config_file("poll", "[admin]\nlisten = \"127.0.0.1:0\"\n");
    let config = path.to_str().expect("a path in UTF-8");
    let poll = ["--set", "socket.busy_poll_us=100000", "--key", "app.key:hush"];
    let mut daemon = Daemon::start_with(&[&poll[..], &["--config", config]].concat());
    let admin = admin_of(&daemon);
    let start = Instant::now();
    // An idle shard that sleeps turns a few times a second.
    loop {
        let answer = daemon.exchange("GET /time HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        let text = ask_admin(
            admin,
            "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        );
        let turns = text.lines().filter_map(|line| {
            line.strip_prefix("ringcast_turns_total{")?.split_once("} ")?.1.parse::<f64>().ok()
        });
        if turns.fold(0.0, f64::max) > 5000.0 {
            break;
        }
        assert!(start.elapsed() < PATIENCE, "{text}");
        std::thread::sleep(Duration::from_millis(20));
    }
    daemon.signal("TERM");
    assert_eq!(daemon.wait().code(), Some(0));
    std::fs::remove_file(path).expect("made above");
}

#[test]
fn the_running_daemon_opens_no_file_that_it_was_not_configured_to() {
    let base = std::env::temp_dir().join(format!("ringcast-confined-{}", std::process::id()));
    let (inside, outside) = (base.join("inside"), base.join("outside"));
    for directory in [&inside, &outside] {
        std::fs::create_dir_all(directory).expect("the temporary directory can be written");
        std::fs::write(directory.join("new.key"), "app.new:hush").expect("as above");
    }
    let config = inside.join("ringcast.toml");
    let write = |key: &str| {
        // As editors do: the file is another one afterwards.
        let next = inside.join("ringcast.toml.new");
        std::fs::write(&next, format!("[[keys]]\n{key}\n")).expect("as above");
        std::fs::rename(&next, &config).expect("as above");
    };
    for is_confined in [true, false] {
        write("key = \"app.old:hush\"");
        let manager = Manager::new(&format!("landlock-{is_confined}"));
        let mut program = Command::new(env!("CARGO_BIN_EXE_ringcast"));
        program
            .args(["serve", "--listen", "127.0.0.1:0", "--shards", "2", "--config"])
            .arg(&config);
        program.arg("--set").arg(format!("server.landlock={is_confined}"));
        program.arg("--set").arg(format!("server.state_dir={}", base.join("state").display()));
        program.env("NOTIFY_SOCKET", &manager.path);
        let daemon = Daemon::spawn(&mut program);
        manager.wait_for("READY=1");
        let status = || {
            let request = "GET /channels/x/messages?key=app.new:hush HTTP/1.1\r\nHost: h\r\n\
                           Connection: close\r\n\r\n";
            daemon.exchange(request).split(' ').nth(1).expect("a status").to_owned()
        };
        let reload = |key: &str| {
            write(key);
            daemon.signal("HUP");
            manager.wait_for("RELOADING=1");
            manager.wait_for("READY=1");
        };
        reload(&format!("key_file = \"{}\"", outside.join("new.key").display()));
        assert_eq!(status(), if is_confined { "401" } else { "200" });
        reload("key_file = \"new.key\"");
        assert_eq!(status(), "200", "what is beside the configuration can be read");
        let process = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid()));
        let process = process.expect("it runs");
        let line = format!("NoNewPrivs:\t{}", u8::from(is_confined));
        assert!(process.lines().any(|found| found == line), "{process}");
    }
    std::fs::remove_dir_all(base).expect("made above");
}
