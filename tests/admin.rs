//! The admin server of a running daemon through both its doors: who is let in, what is answered.
#![allow(clippy::disallowed_methods, reason = "a test may read clocks and wait")]

mod daemon;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use daemon::{Daemon, PATIENCE};
use serde_json::Value;

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// A directory of its own for a daemon's files; gone with the test.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Place {
        let path = std::env::temp_dir().join(format!("ringcast-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("the temporary directory can be written");
        std::fs::write(path.join("token"), format!("{TOKEN}\n")).expect("as above");
        Place(path)
    }

    fn write(&self, text: &str) -> String {
        let path = self.0.join("ringcast.toml");
        std::fs::write(&path, text).expect("the temporary directory can be written");
        path.to_str().expect("a path in UTF-8").into()
    }

    fn socket(&self) -> PathBuf {
        self.0.join("control.sock")
    }

    /// A daemon with both doors and a token.
    fn start(&self) -> Daemon {
        let config = self.write(&format!("{ADMIN}token_file = \"token\"\n"));
        Daemon::start_with(&["--shards", "2", "--key", "app.key:hush", "--config", &config])
    }
}

const ADMIN: &str =
    "[test]\nstall = true\n[admin]\nlisten = \"127.0.0.1:0\"\nsocket = \"control.sock\"\n";

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn admin_of(daemon: &Daemon) -> SocketAddr {
    let line = daemon.greeting.lines().find_map(|line| line.strip_prefix("metrics on http://"));
    let address = line.and_then(|rest| rest.strip_suffix("/metrics"));
    address.expect("`metrics on http://ADDR:PORT/metrics`").parse().expect("an address")
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

fn exchange(mut stream: impl Read + Write, request: &str, headers: &str) -> Answer {
    let (line, body) = request.split_once("\n\n").unwrap_or((request, ""));
    let host = if headers.contains("Host:") { "" } else { "Host: localhost\r\n" };
    let len = body.len();
    let text = format!(
        "{line} HTTP/1.1\r\n{host}{headers}Content-Length: {len}\r\nConnection: close\r\n\r\n{body}"
    );
    stream.write_all(text.as_bytes()).expect("the admin server reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it closes behind its answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).expect("a status line").parse().expect("a number");
    Answer { status, head: head.to_lowercase(), body: body.into() }
}

fn over_tcp(address: SocketAddr, request: &str, headers: &str) -> Answer {
    let stream = TcpStream::connect(address).expect("the admin server accepts");
    stream.set_read_timeout(Some(PATIENCE)).expect("the timeout is not zero");
    exchange(stream, request, headers)
}

fn over_socket(path: &Path, request: &str) -> Answer {
    let stream = UnixStream::connect(path).expect("the admin server accepts");
    stream.set_read_timeout(Some(PATIENCE)).expect("the timeout is not zero");
    exchange(stream, request, "")
}

#[test]
fn operators_come_by_the_socket_or_with_the_token_and_guests_read_numbers() {
    let place = Place::new("doors");
    let daemon = place.start();
    let tcp = admin_of(&daemon);
    let bearer = format!("Authorization: Bearer {TOKEN}\r\n");
    for path in ["/metrics", "/status"] {
        assert_eq!(over_tcp(tcp, &format!("GET {path}"), "").status, 200, "{path}");
        assert_eq!(over_socket(&place.socket(), &format!("GET {path}")).status, 200, "{path}");
    }
    let head = over_tcp(tcp, "HEAD /status", "");
    assert!(head.status == 200 && head.body.is_empty() && head.head.contains("content-length: "));
    assert_eq!(over_socket(&place.socket(), "POST /reload").status, 200);
    assert_eq!(over_tcp(tcp, "POST /reload", &bearer).status, 200);
    let stranger = over_tcp(tcp, "POST /reload", "");
    assert_eq!((stranger.status, stranger.json()["code"].as_u64()), (401, Some(40100)));
    assert!(stranger.head.contains("www-authenticate: bearer"), "{}", stranger.head);
    for wrong in ["Authorization: Bearer 0123456789abcdef\r\n", "Authorization: Basic eDp5\r\n"] {
        assert_eq!(over_tcp(tcp, "GET /metrics", wrong).status, 401, "{wrong}");
    }
    // Names that a page of another site could have made point here, and such pages themselves.
    for headers in [
        "Host: evil.example\r\n",
        "Host: localhost\r\nOrigin: http://evil.example\r\n",
        "Host: localhost\r\nSec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: cors\r\n",
    ] {
        assert_eq!(over_tcp(tcp, "GET /status", headers).status, 403, "{headers}");
    }
    let by_name = format!("Host: host.example\r\n{bearer}");
    assert_eq!(over_tcp(tcp, "GET /metrics", &by_name).status, 200);
    let metadata = std::fs::metadata(place.socket()).expect("it is there");
    assert_eq!(metadata.permissions().mode() & 0o777, 0o660);
    assert_eq!(metadata.uid(), std::fs::metadata(&place.0).expect("as above").uid());
    // What is not there, and what cannot be read.
    for (request, status) in
        [("GET /nothing", 404), ("DELETE /metrics", 405), ("POST /session\n\nnonsense", 415)]
    {
        let answer = over_tcp(tcp, request, "");
        assert_eq!(answer.status, status, "{request}: {}", answer.body);
    }
}

#[test]
fn a_browser_trades_the_token_for_a_session() {
    let place = Place::new("session");
    let daemon = place.start();
    let tcp = admin_of(&daemon);
    let form = "Content-Type: application/x-www-form-urlencoded\r\n";
    let login = over_tcp(tcp, "GET /login?to=/hooks", "");
    assert!(login.body.contains("action=\"/session?to=/hooks\""), "{}", login.body);
    assert!(login.head.contains("content-security-policy: default-src 'none'"), "{}", login.head);
    let wrong = over_tcp(tcp, "POST /session\n\ntoken=0123456789abcdefx", form);
    assert_eq!(wrong.status, 303);
    assert!(!wrong.head.contains("set-cookie"), "{}", wrong.head);
    let right = over_tcp(tcp, &format!("POST /session?to=/hooks\n\ntoken={TOKEN}"), form);
    assert!(right.status == 303 && right.head.contains("location: /hooks"), "{}", right.head);
    let cookie = right.head.split("set-cookie: ").nth(1).expect("a session");
    assert!(cookie.contains("httponly") && cookie.contains("samesite=strict"), "{cookie}");
    let cookie = format!("Cookie: {}\r\n", cookie.split(';').next().expect("name=value"));
    assert_eq!(over_tcp(tcp, "POST /reload", &cookie).status, 200);
    // A page of another site may make the browser send it, and is refused all the same.
    let other = format!("{cookie}Origin: http://localhost:1\r\n");
    assert_eq!(over_tcp(tcp, "POST /reload", &other).status, 403);
    assert_eq!(over_tcp(tcp, "DELETE /session", &cookie).status, 204);
    assert_eq!(over_tcp(tcp, "POST /reload", &cookie).status, 401);
}

#[test]
fn without_a_token_only_the_socket_has_operators() {
    let place = Place::new("notoken");
    let config = place.write(ADMIN);
    let daemon =
        Daemon::start_with(&["--shards", "1", "--key", "app.key:hush", "--config", &config]);
    let tcp = admin_of(&daemon);
    assert_eq!(over_tcp(tcp, "GET /status", "").status, 200);
    assert_eq!(over_tcp(tcp, "POST /reload", "").status, 403);
    assert_eq!(over_socket(&place.socket(), "POST /reload").status, 200);
    let other = Command::new(env!("CARGO_BIN_EXE_ringcast"))
        .args(["serve", "--listen", "127.0.0.1:0", "--key", "app.key:hush", "--config", &config])
        .output()
        .expect("the program can be started");
    let said = String::from_utf8_lossy(&other.stderr).into_owned();
    assert!(!other.status.success() && said.contains("another daemon listens"), "{said}");
    // One that was killed leaves its socket behind; the next daemon takes the name over.
    drop(daemon);
    assert!(place.socket().exists());
    let mut daemon =
        Daemon::start_with(&["--shards", "1", "--key", "app.key:hush", "--config", &config]);
    assert_eq!(over_socket(&place.socket(), "GET /status").status, 200);
    daemon.signal("TERM");
    daemon.wait();
    assert!(!place.socket().exists());
}

#[test]
fn a_reload_answers_when_it_is_in_effect_or_refused() {
    let place = Place::new("reload-admin");
    let with = |rest: &str| place.write(&format!("{ADMIN}token_file = \"token\"\n{rest}"));
    let config = with("[[keys]]\nkey = \"app.old:hush\"\n");
    let daemon = Daemon::start_with(&["--shards", "3", "--config", &config]);
    let status = |key: &str| {
        let response = daemon.exchange(&format!(
            "GET /channels/x/messages?key=app.{key}:hush HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
        ));
        response.split(' ').nth(1).expect("a status").to_owned()
    };
    with("[[keys]]\nkey = \"app.new:hush\"\n[socket]\nbacklog = 77\n");
    let done = over_socket(&place.socket(), "POST /reload");
    assert_eq!(done.status, 200, "{}", done.body);
    assert_eq!(done.json()["needs_restart"], serde_json::json!(["socket.backlog"]));
    for _ in 0..20 {
        assert_eq!(
            (status("old"), status("new")),
            ("401".into(), "200".into()),
            "at once, everywhere"
        );
    }
    with("[nonsense]\n");
    let refused = over_socket(&place.socket(), "POST /reload");
    assert_eq!(refused.status, 422);
    let error = refused.json()["error"].as_str().expect("a reason").to_owned();
    assert!(error.contains("unknown key `nonsense`"), "{error}");
    assert_eq!(status("new"), "200");
    let last = &over_socket(&place.socket(), "GET /status").json()["last_reload"];
    assert_eq!(last["error"].as_str(), Some(&*error));
}

/// The next event of a stream.
fn next_event(lines: &mut impl BufRead) -> Value {
    let start = Instant::now();
    loop {
        // Comments keep the stream alive, so reading alone does not give up.
        assert!(start.elapsed() < PATIENCE, "no event comes");
        let mut line = String::new();
        assert_ne!(lines.read_line(&mut line).expect("in time"), 0, "the stream has ended");
        if let Some(data) = line.strip_prefix("data: ") {
            return serde_json::from_str(data).expect("events are JSON");
        }
    }
}

fn open_stream(path: &Path, target: &str) -> BufReader<UnixStream> {
    let mut stream = UnixStream::connect(path).expect("the admin server accepts");
    stream.set_read_timeout(Some(PATIENCE)).expect("the timeout is not zero");
    let request = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("the admin server reads");
    BufReader::new(stream)
}

/// A stream that has begun: what happens from now on is in it.
fn begun_stream(path: &Path, target: &str) -> BufReader<UnixStream> {
    let mut stream = open_stream(path, target);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert_ne!(stream.read_line(&mut head).expect("a head"), 0, "{head}");
    }
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    stream
}

#[test]
fn streams_show_a_core_that_stands_still_and_are_bounded() {
    let place = Place::new("streams");
    let daemon = place.start();
    let mut first = open_stream(&place.socket(), "/status/stream");
    let status = next_event(&mut first);
    assert_eq!(status["health"], "serving");
    assert_eq!(status["shards"].as_array().map(Vec::len), Some(2));
    assert_eq!(status["shards"][1]["shard"], 1);
    let mut others: Vec<_> =
        (0..15).map(|_| open_stream(&place.socket(), "/status/stream")).collect();
    others.iter_mut().for_each(|stream| drop(next_event(stream)));
    let one_more = over_socket(&place.socket(), "GET /status/stream");
    assert_eq!((one_more.status, one_more.json()["code"].as_u64()), (503, Some(50300)));
    drop(others);
    daemon.signal("USR1");
    let start = Instant::now();
    loop {
        let status = next_event(&mut first);
        if status["health"] == "stalled" {
            assert_eq!(status["shards"][1]["is_stalled"], true);
            assert_eq!(status["shards"][0]["is_stalled"], false);
            break;
        }
        assert!(start.elapsed() < PATIENCE, "{status}");
    }
    // Others are served all the while, also when somebody never finishes a request.
    let mut silent = UnixStream::connect(place.socket()).expect("the admin server accepts");
    silent.write_all(b"GET ").expect("as above");
    assert_eq!(over_socket(&place.socket(), "GET /metrics").status, 200);
}

#[test]
fn an_address_that_others_reach_takes_a_token() {
    let place = Place::new("remote");
    let config = place.write("[admin]\nlisten = \"0.0.0.0:0\"\n");
    let refused = Command::new(env!("CARGO_BIN_EXE_ringcast"))
        .args(["check", "--config", &config])
        .output()
        .expect("the program can be started");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("ringcast.toml:2:10"), "{said}");
    // A short token is none.
    std::fs::write(place.0.join("token"), "short").expect("as above");
    let config = place.write("[admin]\ntoken_file = \"token\"\n");
    let refused = Command::new(env!("CARGO_BIN_EXE_ringcast"))
        .args(["check", "--config", &config])
        .output()
        .expect("the program can be started");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("16 characters"), "{said}");
    std::fs::write(place.0.join("token"), TOKEN).expect("as above");
    let config = place.write("[admin]\nlisten = \"0.0.0.0:0\"\ntoken_file = \"token\"\n");
    let daemon =
        Daemon::start_with(&["--shards", "1", "--key", "app.key:hush", "--config", &config]);
    let tcp = SocketAddr::from(([127, 0, 0, 1], admin_of(&daemon).port()));
    assert_eq!(over_tcp(tcp, "GET /metrics", "").status, 401);
    let browser = over_tcp(tcp, "GET /status", "Accept: text/html\r\n");
    assert!(browser.head.contains("location: /login?to=/status"), "{}", browser.head);
    assert_eq!(over_tcp(tcp, "GET /login", "").status, 200);
    let bearer = format!("Authorization: Bearer {TOKEN}\r\n");
    assert_eq!(over_tcp(tcp, "GET /metrics", &bearer).status, 200);
}

/// Somebody who listens to a channel, over server-sent events.
fn listen(daemon: &Daemon, channel: &str) -> BufReader<TcpStream> {
    let mut stream = daemon.connect();
    let request =
        format!("GET /sse?channels={channel}&v=3&key=app.key:hush HTTP/1.1\r\nHost: h\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("the daemon reads");
    let mut lines = BufReader::new(stream);
    let mut head = String::new();
    lines.read_line(&mut head).expect("the daemon answers");
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    lines
}

fn publish(daemon: &Daemon, channel: &str, data: &str) {
    let body = format!(r#"{{"name":"greeting","data":"{data}"}}"#);
    let answer = daemon.exchange(&format!(
        "POST /channels/{channel}/messages?key=app.key:hush HTTP/1.1\r\nHost: h\r\n\
         Connection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    ));
    assert!(answer.starts_with("HTTP/1.1 201 "), "{answer}");
}

/// Runs a command against the daemon in `place`: its exit code and what it says.
fn command(place: &Place, arguments: &[&str]) -> (i32, String, String) {
    let socket = place.socket();
    let output = Command::new(env!("CARGO_BIN_EXE_ringcast"))
        .args(arguments)
        .args(["--socket", socket.to_str().expect("a path in UTF-8")])
        .output()
        .expect("the program can be started");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (output.status.code().expect("it ends"), text(output.stdout), text(output.stderr))
}

fn json_of(place: &Place, arguments: &[&str]) -> Value {
    let arguments: Vec<&str> = arguments.iter().copied().chain(["--json"]).collect();
    let (code, said, error) = command(place, &arguments);
    assert_eq!(code, 0, "{arguments:?}: {error}");
    serde_json::from_str(said.lines().next().unwrap_or_default())
        .unwrap_or_else(|error| panic!("{arguments:?}: {error}: {said}"))
}

#[test]
fn commands_show_connections_and_channels_of_all_cores() {
    let place = Place::new("lists");
    let daemon = place.start();
    let _listeners: Vec<_> = (0..7).map(|_| listen(&daemon, "room:1")).collect();
    (0..30).for_each(|number| publish(&daemon, &format!("room:{number}"), "hush"));
    let start = Instant::now();
    let found = loop {
        let found = json_of(&place, &["connections", "--sort", "lag"]);
        if found["count"] == 7 {
            break found;
        }
        assert!(start.elapsed() < PATIENCE, "{found}");
    };
    let row = &found["connections"][6];
    assert_eq!((&row["app"], &row["key"]), (&"app".into(), &"app.key".into()));
    assert_eq!((&row["transport"], &row["channels"]), (&"events".into(), &1.into()));
    assert_eq!((&found["has_more"], &found["unanswered"]), (&false.into(), &Value::Array(vec![])));
    let few = json_of(&place, &["connections", "--limit", "3", "--app", "app"]);
    assert_eq!(few["connections"].as_array().map(Vec::len), Some(3));
    assert_eq!(few["has_more"], true);
    assert_eq!(json_of(&place, &["connections", "--app", "other"])["count"], 0);

    let found = json_of(&place, &["channels", "--prefix", "room:1"]);
    let rows = found["channels"].as_array().expect("a list");
    let names: Vec<_> = rows.iter().map(|row| row["channel"].as_str().expect("a name")).collect();
    assert_eq!(names.len(), 11, "{names:?}");
    assert!(names.is_sorted() && names.iter().all(|name| name.starts_with("room:1")), "{names:?}");
    assert_eq!(rows[0]["subscribers"], 7);
    let homes: std::collections::BTreeSet<_> =
        rows.iter().map(|row| row["shard"].as_u64().expect("a number")).collect();
    assert_eq!(homes.len(), 2, "of both shards");
    let few = json_of(&place, &["channels", "--app", "app", "--limit", "5"]);
    assert_eq!(
        (few["channels"].as_array().map(Vec::len), &few["has_more"]),
        (Some(5), &true.into())
    );

    let (code, text, _) = command(&place, &["connections"]);
    assert!(code == 0 && text.starts_with("connection "), "{text}");
    assert!(text.contains("app.key") && !text.contains("hush"), "{text}");
    let (_, text, _) = command(&place, &["channels", "--prefix", "room:29"]);
    assert_eq!(text.lines().count(), 2, "{text}");
    let (code, _, error) = command(&place, &["channels", "--limit", "0"]);
    assert!(code == 1 && error.contains("`limit` is from 1"), "{error}");
}

#[test]
fn tail_shows_what_channels_order_and_data_only_when_asked() {
    let place = Place::new("tail");
    let daemon = place.start();
    let mut all = begun_stream(&place.socket(), "/tail");
    let mut one = begun_stream(&place.socket(), "/tail?channel=two&data=true");
    for channel in ["one", "two", "three"] {
        publish(&daemon, channel, "payload");
    }
    let events: Vec<Value> = (0..3).map(|_| next_event(&mut all)).collect();
    for (event, channel) in events.iter().zip(["one", "two", "three"]) {
        assert_eq!((&event["kind"], &event["channel"]), (&"message".into(), &channel.into()));
        assert_eq!((&event["name"], &event["bytes"]), (&"greeting".into(), &15.into()));
        assert_eq!((&event["data"], &event["dropped"]), (&Value::Null, &0.into()));
        assert!(event["serial"].as_str().is_some_and(|serial| serial.contains('@')), "{event}");
    }
    let event = next_event(&mut one);
    assert_eq!((&event["channel"], &event["data"]), (&"two".into(), &"payload".into()));
    // As many as may watch do; once they have gone, others may.
    let mut more: Vec<_> = (0..14).map(|_| begun_stream(&place.socket(), "/tail")).collect();
    publish(&daemon, "one", "again");
    more.iter_mut().for_each(|stream| drop(next_event(stream)));
    assert_eq!(over_socket(&place.socket(), "GET /tail").status, 503);
    drop((all, one, more));
    let start = Instant::now();
    while over_socket_head(&place.socket(), "/tail") != 200 {
        assert!(start.elapsed() < PATIENCE, "places are not given back");
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    // The command prints the same as lines, until nobody reads them.
    let mut tail = Command::new(env!("CARGO_BIN_EXE_ringcast"))
        .args(["tail", "two", "--json", "--socket"])
        .arg(place.socket())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("the program can be started");
    let mut lines = BufReader::new(tail.stdout.take().expect("piped"));
    let publisher = std::thread::spawn(move || {
        for _ in 0..100 {
            publish(&daemon, "two", "payload");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        daemon
    });
    let mut line = String::new();
    lines.read_line(&mut line).expect("the command prints");
    let event: Value = serde_json::from_str(&line).expect("a line of JSON");
    assert_eq!((&event["channel"], &event["data"]), (&"two".into(), &Value::Null));
    drop(lines);
    assert!(tail.wait().expect("it ends").success());
    drop(publisher.join());
}

/// The status of an answer that has no end.
fn over_socket_head(path: &Path, target: &str) -> u16 {
    let mut line = String::new();
    open_stream(path, target).read_line(&mut line).expect("a status line");
    line.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a number")
}

#[test]
fn status_top_and_reload_say_how_it_goes_and_exit_accordingly() {
    let place = Place::new("status");
    let daemon = place.start();
    let (code, text, _) = command(&place, &["status"]);
    assert!(code == 0 && text.contains("health       serving"), "{text}");
    assert!(text.contains("connections  sends/s") && text.contains("last reload  none"), "{text}");
    assert_eq!(json_of(&place, &["status"])["pid"], daemon.pid());
    let (code, text, _) = command(&place, &["top", "--once"]);
    assert!(code == 0 && text.contains("sends/s"), "{text}");
    assert!(!text.contains('\x1b'), "no terminal, no control characters: {text:?}");
    assert_eq!(json_of(&place, &["top", "--once"])["shards"].as_array().map(Vec::len), Some(2));

    let (code, text, _) = command(&place, &["reload"]);
    assert_eq!((code, text.as_str()), (0, "in effect on all cores\n"));
    place.write(&format!("{ADMIN}token_file = \"token\"\n[limits]\nmesh_entries = 64\n"));
    let (code, text, _) = command(&place, &["reload"]);
    assert!(code == 0 && text.contains("after a restart: limits.mesh_entries"), "{text}");
    place.write("[limits]\nmesh_entries = 1\n");
    let (code, _, error) = command(&place, &["reload"]);
    assert!(code == 1 && error.contains("mesh_entries"), "{error}");
    let (code, text, _) = command(&place, &["reload", "--json"]);
    assert!(code == 1 && text.contains("\"error\":\""), "{text}");
    let (_, text, _) = command(&place, &["status"]);
    assert!(text.contains("ago, refused: "), "{text}");

    daemon.signal("USR1");
    let start = Instant::now();
    loop {
        let (code, text, _) = command(&place, &["status"]);
        if code == 3 {
            assert!(text.contains("health       stalled: shard 1 on CPU "), "{text}");
            assert!(text.contains("STANDS STILL for"), "{text}");
            break;
        }
        assert!(start.elapsed() < PATIENCE, "{text}");
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    let found = json_of(&place, &["connections"]);
    assert_eq!(found["unanswered"], serde_json::json!([1]), "the others answer");
    drop(daemon);
    let (code, _, error) = command(&place, &["status"]);
    assert!(code == 1 && error.contains("--socket PATH"), "{error}");
}

#[test]
fn the_log_has_the_form_that_is_asked_for_and_no_secret() {
    let place = Place::new("log");
    let log = place.0.join("log");
    let with = |rest: &str| {
        place.write(&format!("{ADMIN}token_file = \"token\"\n[logging]\nformat = \"json\"\n{rest}"))
    };
    let config = with("[[keys]]\nkey = \"app.key:hushhush\"\n");
    let file = std::fs::File::create(&log).expect("the temporary directory can be written");
    let mut program = Command::new(env!("CARGO_BIN_EXE_ringcast"));
    program.args(["serve", "--listen", "127.0.0.1:0", "--shards", "2", "--config", &config]);
    let mut daemon = Daemon::spawn(program.stderr(file));
    let bearer = format!("Authorization: Bearer {TOKEN}\r\n");
    assert_eq!(over_tcp(admin_of(&daemon), "POST /reload", &bearer).status, 200);
    let wrong = "Authorization: Bearer hushhushhushhush\r\n";
    assert_eq!(over_tcp(admin_of(&daemon), "POST /reload", wrong).status, 401);
    for rest in ["[[keys]]\nkey = \"app.key:hush hush\"\n", "[[keys]]\nkey = \"hushhush\"\n"] {
        with(rest);
        let refused = over_socket(&place.socket(), "POST /reload");
        assert!(refused.status == 422 && !refused.body.contains("hush"), "{}", refused.body);
    }
    let refused = daemon.exchange(
        "GET /channels/x/messages?key=app.key:hushhushing HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
    );
    assert!(refused.starts_with("HTTP/1.1 401 "), "{refused}");
    daemon.signal("TERM");
    daemon.wait();
    let said = std::fs::read_to_string(&log).expect("written");
    let lines: Vec<Value> =
        said.lines().map(|line| serde_json::from_str(line).expect("an object a line")).collect();
    let has = |text: &str, level: &str| {
        lines.iter().any(|line| line["msg"] == text && line["level"] == level)
    };
    assert!(has("configuration reloaded", "info") && has("drained", "info"), "{said}");
    assert!(has("configuration not reloaded", "error"), "{said}");
    assert!(!said.contains("hush") && !said.contains(TOKEN), "{said}");
}
