//! Rules that change while the daemon runs, with endpoints that are real sockets.
#![allow(clippy::disallowed_methods, reason = "a test may read clocks and wait")]

mod daemon;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, mpsc};

use daemon::{Daemon, PATIENCE};
use serde_json::{Value, json};

/// A directory that goes with its test.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Place {
        let name = format!("ringcast-rules-{}-{name}", std::process::id());
        let place = Place(std::env::temp_dir().join(name));
        let _ = std::fs::remove_dir_all(&place.0);
        std::fs::create_dir_all(&place.0).expect("the temporary directory can be written");
        place
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What an endpoint was sent.
struct Received {
    /// Request line and headers.
    head: String,
    body: String,
}

/// An endpoint that keeps what it is sent.
struct Endpoint {
    address: SocketAddr,
    status: Arc<AtomicU16>,
    received: mpsc::Receiver<Received>,
}

impl Endpoint {
    fn new() -> Endpoint {
        Endpoint::with(|| ())
    }

    /// An endpoint that does some `work` before it answers.
    fn with(work: impl Fn() + Send + Sync + 'static) -> Endpoint {
        let work = Arc::new(work);
        let listener = TcpListener::bind("127.0.0.1:0").expect("there are free ports");
        let address = listener.local_addr().expect("it is bound");
        let status = Arc::new(AtomicU16::new(200));
        let (sender, received) = mpsc::channel();
        let answers = Arc::clone(&status);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (sender, answers) = (sender.clone(), Arc::clone(&answers));
                let work = Arc::clone(&work);
                std::thread::spawn(move || serve(stream, &sender, &answers, &*work));
            }
        });
        Endpoint { address, status, received }
    }

    fn url(&self) -> String {
        format!("http://{}/take?token=hush", self.address)
    }

    fn next(&self) -> Received {
        self.received.recv_timeout(PATIENCE).expect("the endpoint is sent something")
    }
}

fn serve(stream: TcpStream, sender: &mpsc::Sender<Received>, status: &AtomicU16, work: &dyn Fn()) {
    let mut reader = BufReader::new(stream);
    loop {
        let (mut head, mut length) = (String::new(), 0);
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().expect("a number");
            }
            if line == "\r\n" {
                break;
            }
            head += &line;
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).expect("a whole body");
        work();
        let status = status.load(Ordering::Relaxed);
        let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n");
        if reader.get_mut().write_all(answer.as_bytes()).is_err() {
            return;
        }
        let body = String::from_utf8(body).expect("these bodies are JSON");
        let _ = sender.send(Received { head, body });
    }
}

/// Publishes `data` by REST and expects that it is accepted.
fn publish(daemon: &Daemon, channel: &str, data: &str) {
    publish_at(daemon.address, channel, data);
}

fn publish_at(address: SocketAddr, channel: &str, data: &str) {
    let body = format!(r#"{{"name":"n","data":"{data}"}}"#);
    let request = format!(
        "POST /channels/{channel}/messages?key=app.key:hush HTTP/1.1\r\nHost: h\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    let mut stream = TcpStream::connect(address).expect("the daemon accepts");
    stream.set_read_timeout(Some(PATIENCE)).expect("the timeout is not zero");
    stream.write_all(request.as_bytes()).expect("the daemon reads");
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    assert!(answer.starts_with("HTTP/1.1 201 "), "{answer}");
}

fn rule(id: &str, channel: &str, endpoint: &Endpoint) -> String {
    let url = endpoint.url();
    format!(
        "[[rules]]\nid = \"{id}\"\napp = \"app\"\nchannel = \"{channel}\"\nurl = \"{url}\"\n\
         allow_private = true\n"
    )
}

/// Sends events to `channel` until `endpoint` is sent one: a signal says nothing of when it has been heard.
fn publish_until_received(daemon: &Daemon, channel: &str, endpoint: &Endpoint) -> Received {
    let start = std::time::Instant::now();
    loop {
        publish(daemon, channel, "probe");
        let soon = std::time::Duration::from_millis(100);
        if let Ok(received) = endpoint.received.recv_timeout(soon) {
            return received;
        }
        assert!(start.elapsed() < PATIENCE, "nothing arrives");
    }
}

#[test]
fn a_reload_adds_changes_and_removes_rules_and_what_waits_goes_where_they_lead() {
    let place = Place::new("reload");
    let file = place.file("ringcast.toml");
    let write = |rules: &str| {
        let text =
            format!("[server]\nstate_dir = \"state\"\n[[keys]]\nkey = \"app.key:hush\"\n{rules}");
        std::fs::write(&file, text).expect("the temporary directory can be written");
    };
    write("");
    let config = file.to_str().expect("a path in UTF-8");
    let daemon = Daemon::start_with(&["--config", config, "--shards", "3"]);
    let (one, two) = (Endpoint::new(), Endpoint::new());
    publish(&daemon, "room", "before there was a rule");

    write(&rule("r", "^room", &one));
    daemon.signal("HUP");
    let first = publish_until_received(&daemon, "room", &one);
    assert!(first.body.contains(r#""data":"probe""#), "{}", first.body);
    assert!(first.body.contains(r#""ruleId":"r""#), "{}", first.body);
    assert!(first.head.starts_with("POST /take?token=hush HTTP/1.1\r\n"), "{}", first.head);

    // What the one endpoint has no use for waits, and goes to the other in its order.
    one.status.store(503, Ordering::Relaxed);
    publish(&daemon, "room", "waits");
    while !one.next().body.contains("waits") {}
    publish(&daemon, "room", "waits behind it");
    write(&rule("r", "^room", &two).replace("allow_private", "mode = \"batch\"\nallow_private"));
    daemon.signal("HUP");
    let moved = [two.next(), two.next()].map(|received| received.body);
    assert!(moved[0].contains(r#""data":"waits""#), "{}", moved[0]);
    assert!(moved[1].contains("waits behind it"), "{}", moved[1]);
    let batch = publish_until_received(&daemon, "room", &two).body;
    assert!(batch.starts_with(r#"{"items":["#), "{batch}");

    // What waits of a rule that goes is a dead letter.
    two.status.store(503, Ordering::Relaxed);
    publish(&daemon, "room", "too late");
    while !two.next().body.contains("too late") {}
    write("");
    daemon.signal("HUP");
    let dead = |mut enough: Box<dyn FnMut(&str) -> bool>| {
        let start = std::time::Instant::now();
        loop {
            let output = std::process::Command::new(env!("CARGO_BIN_EXE_ringcast"))
                .args(["hooks", "dead", "--config", config])
                .output()
                .expect("the command runs");
            let text = String::from_utf8(output.stdout).expect("JSON");
            if enough(&text) {
                return text;
            }
            assert!(start.elapsed() < PATIENCE, "{text}");
        }
    };
    let letters = dead(Box::new(|text| text.contains("too late")));
    assert!(letters.contains("the rule is gone"), "{letters}");
    publish(&daemon, "room", "after there was a rule");
}

/// Asks the daemon behind a control socket; returns status and body.
fn control(socket: &Path, request: &str, body: Option<&Value>) -> (u16, Value) {
    let mut stream = UnixStream::connect(socket).expect("the daemon accepts");
    stream.set_read_timeout(Some(PATIENCE)).expect("the timeout is not zero");
    let body = body.map(Value::to_string).unwrap_or_default();
    let text = format!(
        "{request} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(text.as_bytes()).expect("the daemon reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it closes behind its answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).expect("a status line").parse().expect("a number");
    (status, serde_json::from_str(body).unwrap_or_default())
}

#[test]
fn a_rule_is_made_changed_disabled_and_deleted_over_the_api_and_survives_a_restart() {
    let place = Place::new("api");
    let (one, two) = (Endpoint::new(), Endpoint::new());
    let file = place.file("ringcast.toml");
    let configured = rule("configured", "^configured", &one);
    let text = format!(
        "[server]\nstate_dir = \"state\"\n[admin]\nsocket = \"control.sock\"\n\
         [[keys]]\nkey = \"app.key:hush\"\n{configured}"
    );
    std::fs::write(&file, text).expect("the temporary directory can be written");
    let flags = ["--config", file.to_str().expect("a path in UTF-8"), "--shards", "3"];
    let mut daemon = Daemon::start_with(&flags);
    let socket = place.file("control.sock");
    let spec = |url: String| {
        json!({
            "ruleType": "http", "requestMode": "single",
            "source": { "channelFilter": "^room", "type": "channel.message" },
            "target": { "url": url, "format": "json", "signingKeyId": "key",
                        "headers": [{ "name": "x-secret", "value": "hush" }] },
            "ringcast": { "allowPrivate": true },
        })
    };

    let (status, made) = control(&socket, "POST /apps/app/rules", Some(&spec(one.url())));
    assert_eq!(status, 201, "{made}");
    let id = made["id"].as_str().expect("an id").to_owned();
    let path = format!("/apps/app/rules/{id}");
    publish(&daemon, "room", "first");
    let first = one.next();
    assert!(first.body.contains(&format!(r#""ruleId":"{id}""#)), "{}", first.body);
    assert!(first.head.contains("x-secret: hush\r\n"), "{}", first.head);
    assert!(first.head.contains("x-ably-signature: "), "{}", first.head);

    // What waits goes to where the rule leads now.
    one.status.store(503, Ordering::Relaxed);
    publish(&daemon, "room", "second");
    while !one.next().body.contains("second") {}
    let change = json!({ "target": { "url": two.url() } });
    let (status, changed) = control(&socket, &format!("PATCH {path}"), Some(&change));
    assert_eq!((status, &changed["target"]["url"]), (200, &json!(two.url())), "{changed}");
    assert!(two.next().body.contains("second"));

    let disable = json!({ "status": "disabled" });
    assert_eq!(control(&socket, &format!("PATCH {path}"), Some(&disable)).0, 200);
    publish(&daemon, "room", "while it was disabled");
    let enable = json!({ "status": "enabled" });
    assert_eq!(control(&socket, &format!("PATCH {path}"), Some(&enable)).0, 200);
    publish(&daemon, "room", "third");
    assert!(two.next().body.contains("third"), "nothing was sent while it was disabled");

    for (request, body, status, code) in [
        ("GET /apps/app/rules/none".to_owned(), None, 404, 40400),
        ("GET /apps/none/rules".to_owned(), None, 404, 40400),
        ("DELETE /apps/app/rules/configured".to_owned(), None, 409, 40900),
        (format!("PATCH {path}"), Some(json!({ "target": { "url": "ftp://a/" } })), 422, 42200),
        ("POST /apps/app/rules".to_owned(), Some(json!({ "ruleType": "kafka" })), 422, 42200),
    ] {
        let (found, error) = control(&socket, &request, body.as_ref());
        let codes = (found, error["statusCode"].as_u64(), error["code"].as_u64());
        assert_eq!(codes, (status, Some(status.into()), Some(code)), "{request}: {error}");
        assert!(error["href"].is_string(), "{error}");
        assert_eq!(status == 422, error["details"].is_object(), "{error}");
    }
    let (_, list) = control(&socket, "GET /apps/app/rules", None);
    let ids: Vec<_> = list.as_array().expect("a list").iter().map(|rule| &rule["id"]).collect();
    assert_eq!(ids, [&json!("configured"), &json!(id)]);
    let mode = std::fs::metadata(place.file("state/rules.json")).expect("is kept").permissions();
    assert_eq!(mode.mode() & 0o777, 0o600);

    daemon.signal("TERM");
    assert_eq!(daemon.wait().code(), Some(0));
    let daemon = Daemon::start_with(&flags);
    publish(&daemon, "room", "after a restart");
    assert!(two.next().body.contains("after a restart"));
    let (_, kept) = control(&socket, &format!("GET {path}"), None);
    assert_eq!((&kept["created"], &kept["target"]), (&made["created"], &changed["target"]));
    assert_eq!(control(&socket, &format!("DELETE {path}"), None).0, 204);
    assert_eq!(control(&socket, &format!("GET {path}"), None).0, 404);
    publish(&daemon, "room", "after it was deleted");
    publish(&daemon, "configured", "last");
    one.status.store(200, Ordering::Relaxed);
    assert!(one.next().body.contains("last"));
    assert!(two.received.try_recv().is_err(), "nothing comes of a rule that is gone");
}

/// A daemon with a control socket and a state directory, and what commands need to reach it.
struct Inspected {
    daemon: Daemon,
    socket: PathBuf,
    config: String,
}

impl Inspected {
    fn start(place: &Place) -> Inspected {
        let file = place.file("ringcast.toml");
        let text = "[server]\nstate_dir = \"state\"\n[admin]\nsocket = \"control.sock\"\n\
                    [[keys]]\nkey = \"app.key:hush\"\n";
        std::fs::write(&file, text).expect("the temporary directory can be written");
        let config = file.to_str().expect("a path in UTF-8").to_owned();
        let daemon = Daemon::start_with(&["--config", &config, "--shards", "2"]);
        Inspected { daemon, socket: place.file("control.sock"), config }
    }

    /// Makes a rule for all channels; returns its id.
    fn make_rule(&self, url: &str, more: Value) -> String {
        let mut spec = json!({
            "ruleType": "http", "requestMode": "single",
            "source": { "channelFilter": "", "type": "channel.message" },
            "target": { "url": url, "format": "json",
                        "headers": [{ "name": "x-secret", "value": "hush-hush" }] },
            "ringcast": { "allowPrivate": true },
        });
        for (name, value) in more.as_object().expect("an object") {
            spec["ringcast"][name] = value.clone();
        }
        let (status, made) = control(&self.socket, "POST /apps/app/rules", Some(&spec));
        assert_eq!(status, 201, "{made}");
        made["id"].as_str().expect("an id").to_owned()
    }

    fn get(&self, path: &str) -> Value {
        let (status, answer) = control(&self.socket, &format!("GET {path}"), None);
        assert_eq!(status, 200, "{path}: {answer}");
        answer
    }

    /// The rule `id`, once `is_so`.
    fn rule_when(&self, id: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        let start = std::time::Instant::now();
        loop {
            let rules = self.get("/hooks/rules");
            let rule = rules.as_array().expect("a list").iter().find(|rule| rule["rule"] == id);
            let rule = rule.unwrap_or_else(|| panic!("{id} is not in {rules}")).clone();
            if is_so(&rule) {
                return rule;
            }
            assert!(start.elapsed() < 3 * PATIENCE, "{rule}");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    /// What `ringcast hooks` says, one value a line.
    fn hooks(&self, arguments: &[&str]) -> Vec<Value> {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_ringcast"))
            .args(["hooks", "--json", "--config", &self.config])
            .args(arguments)
            .output()
            .expect("the command runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{arguments:?}: {said}");
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }
}

/// All metrics, as text.
fn metrics(socket: &Path) -> String {
    let mut stream = UnixStream::connect(socket).expect("the daemon accepts");
    stream.write_all(b"GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n").expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it closes behind its answer");
    answer
}

#[test]
fn every_attempt_is_seen_and_what_was_given_up_can_be_sent_again() {
    let place = Place::new("inspect");
    let endpoint = Endpoint::new();
    let inspected = Inspected::start(&place);
    let id = inspected.make_rule(&endpoint.url(), json!({}));
    let mut tail = std::process::Command::new(env!("CARGO_BIN_EXE_ringcast"))
        .args(["hooks", "--json", "tail", "--socket"])
        .arg(&inspected.socket)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("the command runs");
    let mut followed = BufReader::new(tail.stdout.take().expect("piped")).lines();
    // What is followed begins when the stream does.
    let start = std::time::Instant::now();
    let mut published = 0;
    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || {
        while let Some(Ok(line)) = followed.next() {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    let first = loop {
        publish(&inspected.daemon, "room", "hello");
        published += 1;
        endpoint.next();
        if let Ok(line) = lines.recv_timeout(std::time::Duration::from_millis(100)) {
            break line;
        }
        assert!(start.elapsed() < PATIENCE, "nothing is followed");
    };
    let _ = tail.kill();
    let _ = tail.wait();
    let first: Value = serde_json::from_str(&first).expect("JSON");
    assert_eq!((&first["rule"], &first["outcome"]), (&json!(id), &json!("delivered")));

    endpoint.status.store(404, Ordering::Relaxed);
    publish(&inspected.daemon, "room", "refused");
    endpoint.next();
    let rule = inspected.rule_when(&id, |rule| rule["dead"] == 1);
    assert_eq!((&rule["delivered"], &rule["failed"]), (&json!(published), &json!(1)));
    assert_eq!(rule["lastFailure"]["note"], "status 404");
    let attempts = inspected.get(&format!("/hooks/attempts?rule={id}&limit=1"));
    let attempt = &attempts[0];
    assert_eq!((&attempt["status"], &attempt["outcome"]), (&json!(404), &json!("refused")));
    let url = attempt["request"]["url"].as_str().expect("a URL");
    assert!(url.ends_with("/take"), "{url}");
    assert!(attempt["request"]["body"].as_str().expect("text").contains("refused"));
    assert!(!attempts.to_string().contains("hush"), "{attempts}");
    let after = attempt["id"].as_u64().expect("a number");
    assert_eq!(inspected.get(&format!("/hooks/attempts?after={after}")), json!([]));

    // The command reads the files, and asks the daemon where it has none.
    let dead = inspected.hooks(&["dead"]);
    assert_eq!(dead.len(), 1);
    assert_eq!(inspected.get("/hooks/dead"), json!(dead));
    let dead_id = dead[0]["id"].as_u64().expect("a number").to_string();
    assert_eq!(inspected.hooks(&["show", &dead_id]), dead);
    endpoint.status.store(200, Ordering::Relaxed);
    let replayed = inspected.hooks(&["replay", "--id", &dead_id]);
    assert_eq!(replayed, [json!({ "replayed": 1 })]);
    assert!(endpoint.next().body.contains("refused"));
    assert!(inspected.hooks(&["dead"]).is_empty());

    let tried = inspected.hooks(&["test", &id, "--channel", "trial"]);
    assert_eq!((&tried[0]["status"], &tried[0]["outcome"]), (&json!(200), &json!("delivered")));
    let received = endpoint.next();
    assert!(received.body.contains(r#""channel":"trial""#), "{}", received.body);
    assert!(received.head.contains("x-secret: hush-hush"), "{}", received.head);

    endpoint.status.store(503, Ordering::Relaxed);
    publish(&inspected.daemon, "room", "waits");
    endpoint.next();
    let rule = inspected.rule_when(&id, |rule| rule["failed"] == 2);
    assert_eq!(rule["waiting"], 1);
    let waiting = inspected.get("/hooks/events");
    assert!(waiting[0]["body"].as_str().expect("text").contains("waits"), "{waiting}");
    let attempts = inspected.get(&format!("/hooks/attempts?rule={id}&limit=1"));
    assert_eq!(attempts[0]["outcome"], "retry");
    assert!(attempts[0]["nextTry"].as_u64() > attempts[0]["time"].as_u64(), "{attempts}");
}

#[test]
fn a_rule_that_feeds_itself_is_noticed_and_paused_where_that_is_wanted() {
    let place = Place::new("loop");
    let inspected = Inspected::start(&place);
    let address = inspected.daemon.address;
    let feeds = Endpoint::with(move || publish_at(address, "room", "again"));
    let id = inspected.make_rule(&feeds.url(), json!({ "loopGuard": "pause" }));
    publish(&inspected.daemon, "room", "the first of many");
    let rule = inspected.rule_when(&id, |rule| rule["state"] == "paused");
    assert_eq!((&rule["isLooping"], &rule["loops"]), (&json!(true), &json!(1)));
    let waiting = inspected.rule_when(&id, |rule| rule["inFlight"] == 0);
    assert_eq!(waiting["waiting"], 1, "the next one waits: {waiting}");
    let metrics = metrics(&inspected.socket);
    assert!(metrics.contains(&format!("ringcast_hook_loops_total{{rule=\"{id}\"}} 1\n")));

    // It goes on, as it was told to, once somebody has changed it.
    let delivered = rule["delivered"].as_u64().expect("a number");
    let change = json!({ "ringcast": { "loopGuard": "off" } });
    let (status, _) =
        control(&inspected.socket, &format!("PATCH /apps/app/rules/{id}"), Some(&change));
    assert_eq!(status, 200);
    let goes_on = |rule: &Value| rule["delivered"].as_u64() > Some(delivered + 10);
    assert_eq!(inspected.rule_when(&id, goes_on)["isLooping"], false);
}
