//! Persisted channels on a real disk: the daemon is killed under load, and what was confirmed is there.
#![allow(clippy::disallowed_methods, reason = "a test may start threads and wait")]

mod daemon;

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use daemon::{Daemon, PATIENCE};
use serde_json::{Value, json};
use tungstenite::{Message, WebSocket};

const KEY: &str = "app.key:secret";

/// Publishes without their ACK.
const IN_FLIGHT: u64 = 32;

/// A directory with a configuration, gone with its test.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Place {
        let name = format!("ringcast-log-{}-{name}", std::process::id());
        let place = Place(std::env::temp_dir().join(name));
        let _ = fs::remove_dir_all(&place.0);
        fs::create_dir_all(&place.0).expect("can be made");
        let config = format!(
            "[server]\nstate_dir = \"state\"\nshards = 2\ndrain_window = \"0s\"\n\
             [[keys]]\nkey = \"{KEY}\"\n[[apps]]\nid = \"app\"\n\
             [[apps.namespaces]]\nid = \"kept\"\npersist = true\n\
             [[apps.namespaces]]\nid = \"safe\"\npersist = true\nack = \"fsynced\"\n"
        );
        fs::write(place.0.join("ringcast.toml"), config).expect("can be written");
        place
    }

    fn start(&self) -> Daemon {
        let log = fs::File::options().append(true).create(true).open(self.0.join("stderr"));
        let mut program = Command::new(env!("CARGO_BIN_EXE_ringcast"));
        // Relative paths, which are what they are wherever files are opened.
        program.current_dir(&self.0);
        program.args(["serve", "--listen", "127.0.0.1:0", "--config", "ringcast.toml"]);
        Daemon::spawn(program.stderr(Stdio::from(log.expect("can be opened"))))
    }

    fn stderr(&self) -> String {
        fs::read_to_string(self.0.join("stderr")).expect("can be read")
    }

    fn segments(&self) -> Vec<PathBuf> {
        let shards = fs::read_dir(self.0.join("state/log")).expect("is there");
        let shards = shards.map(|entry| entry.expect("can be read").path());
        let of_shard = |shard| fs::read_dir(shard).expect("is there");
        let files = shards.filter(|path| path.is_dir()).flat_map(of_shard);
        files.map(|entry| entry.expect("can be read").path()).collect()
    }

    /// Bytes that the files take on disk beyond what they hold.
    fn reserved(&self) -> u64 {
        let beyond = |path: PathBuf| {
            let file = fs::metadata(path).expect("is there");
            (file.blocks() * 512).saturating_sub(file.len())
        };
        self.segments().into_iter().map(beyond).sum()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A client over a WebSocket, in JSON.
struct Client(WebSocket<TcpStream>);

impl Client {
    fn connect(daemon: &Daemon) -> Client {
        let url = format!("ws://{}/?key={KEY}&format=json&v=6", daemon.address);
        let (socket, _) = tungstenite::client(url, daemon.connect()).expect("upgraded");
        let mut client = Client(socket);
        assert_eq!(client.next().expect("a greeting")["action"], 4);
        client
    }

    fn send(&mut self, message: &Value) -> bool {
        self.0.send(Message::text(message.to_string())).is_ok()
    }

    /// The next protocol message; `None`: the daemon is gone.
    fn next(&mut self) -> Option<Value> {
        loop {
            match self.0.read().ok()? {
                Message::Text(text) => return serde_json::from_str(&text).ok(),
                Message::Close(_) => return None,
                _ => {}
            }
        }
    }

    fn publish(&mut self, channel: &str, msg_serial: u64, data: &str) {
        let messages = json!([{ "data": data }]);
        let publish = json!({ "action": 15, "channel": channel, "msgSerial": msg_serial,
            "messages": messages });
        assert!(self.send(&publish));
    }

    /// What becomes of the next publish: its msgSerial, and the error if it is refused.
    fn outcome(&mut self) -> (u64, Option<Value>) {
        loop {
            let message = self.next().expect("the daemon lives");
            match message["action"].as_u64() {
                Some(1) => {
                    assert_eq!(message["count"], 1, "{message}");
                    return (message["msgSerial"].as_u64().expect("a number"), None);
                }
                Some(2) => {
                    let msg_serial = message["msgSerial"].as_u64().expect("a number");
                    return (msg_serial, Some(message["error"].clone()));
                }
                _ => {}
            }
        }
    }

    /// Attaches, and returns the answer.
    fn attach(&mut self, channel: &str, serial: Option<&Value>) -> Value {
        let mut attach = json!({ "action": 10, "channel": channel });
        if let Some(serial) = serial {
            attach["channelSerial"] = serial.clone();
        }
        assert!(self.send(&attach));
        let answer = self.next().expect("an answer");
        assert_eq!(answer["action"], 11, "{answer}");
        answer
    }

    /// Reads until so many publishes are confirmed.
    fn await_acks(&mut self, count: u64) {
        let mut acked = 0;
        while acked < count {
            let message = self.next().expect("the daemon lives");
            if message["action"] == 1 {
                acked += message["count"].as_u64().expect("a number");
            }
        }
    }
}

fn is_resumed(attached: &Value) -> bool {
    attached["flags"].as_u64().expect("flags") & 4 != 0
}

/// Publishes numbers from `next` on until the daemon is gone; returns those that were confirmed, and the
/// next one.
fn publish(mut client: Client, channel: &'static str, next: u64) -> JoinHandle<(Vec<u64>, u64)> {
    thread::spawn(move || {
        let (mut sent, mut acked) = (0, 0);
        loop {
            while sent < acked + IN_FLIGHT {
                let messages = json!([{ "data": (next + sent).to_string() }]);
                let publish = json!({ "action": 15, "channel": channel, "msgSerial": sent,
                    "messages": messages });
                if !client.send(&publish) {
                    break;
                }
                sent += 1;
            }
            match client.next() {
                Some(answer) if answer["action"] == 1 => {
                    assert_eq!(answer["msgSerial"], acked, "in order");
                    acked += answer["count"].as_u64().expect("a number");
                }
                Some(_) => {}
                None => return ((next..next + acked).collect(), next + sent),
            }
        }
    })
}

/// Takes what comes on the channel behind `serial` until the daemon is gone or `is_over`; returns the
/// numbers and the last serial.
fn subscribe(
    mut client: Client,
    channel: &'static str,
    serial: Option<Value>,
    is_over: impl Fn(u64) -> bool + Send + 'static,
    is_attached: Arc<AtomicBool>,
) -> JoinHandle<(Vec<u64>, Value)> {
    thread::spawn(move || {
        let attached = client.attach(channel, serial.as_ref());
        assert!(serial.is_none() || is_resumed(&attached), "{attached}");
        is_attached.store(true, Ordering::Release);
        let mut last = attached["channelSerial"].clone();
        let mut numbers = Vec::new();
        while let Some(message) = client.next() {
            if message["action"] != 15 {
                continue;
            }
            last = message["channelSerial"].clone();
            let messages = message["messages"].as_array().expect("messages").iter();
            let data = messages.map(|it| it["data"].as_str().expect("text"));
            numbers.extend(data.map(|text| text.parse::<u64>().expect("a number")));
            if numbers.last().is_some_and(|last| is_over(*last)) {
                break;
            }
        }
        (numbers, last)
    })
}

/// The numbers in the history of a channel, oldest first.
fn history(daemon: &Daemon, channel: &str) -> Vec<u64> {
    let mut query = "direction=forwards&limit=1000".to_owned();
    let mut numbers = Vec::new();
    loop {
        let response = daemon.exchange(&format!(
            "GET /channels/{channel}/messages?key={KEY}&{query} HTTP/1.1\r\nHost: localhost\r\n\
             Connection: close\r\n\r\n"
        ));
        let (head, body) = response.split_once("\r\n\r\n").expect("a response");
        assert!(head.starts_with("HTTP/1.1 200"), "{response}");
        let page: Vec<Value> = serde_json::from_str(body).expect("a page");
        let data = page.iter().map(|item| item["data"].as_str().expect("text"));
        numbers.extend(data.map(|text| text.parse::<u64>().expect("a number")));
        let next = head.lines().find(|line| line.contains("rel=\"next\""));
        match next.and_then(|line| Some(line.split_once('?')?.1.split_once('>')?.0)) {
            Some(next) => query = next.to_owned(),
            None => return numbers,
        }
    }
}

/// How often the daemon is killed: `RINGCAST_KILLS`, or a few times.
fn kills() -> u32 {
    std::env::var("RINGCAST_KILLS").map_or(5, |text| text.parse().expect("a number"))
}

fn killed_under_load(name: &str, channel: &'static str) {
    let place = Place::new(name);
    let (mut confirmed, mut received) = (Vec::new(), Vec::new());
    let (mut next, mut serial) = (0, None);
    let mut random = u64::from(std::process::id()) | 1;
    for _ in 0..kills() {
        let mut daemon = place.start();
        let is_attached = Arc::new(AtomicBool::new(false));
        let (client, flag) = (Client::connect(&daemon), Arc::clone(&is_attached));
        let subscriber = subscribe(client, channel, serial.take(), |_| false, flag);
        let start = Instant::now();
        while !is_attached.load(Ordering::Acquire) && !subscriber.is_finished() {
            assert!(start.elapsed() < PATIENCE, "not attached");
            thread::sleep(Duration::from_millis(1));
        }
        let publisher = publish(Client::connect(&daemon), channel, next);
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        thread::sleep(Duration::from_micros(random % 400_000));
        daemon.signal("KILL");
        daemon.wait();
        let (acked, following) = publisher.join().expect("the publisher is well");
        confirmed.extend(acked);
        next = following;
        let (numbers, last) = subscriber.join().expect("the subscriber is well");
        received.extend(numbers);
        serial = Some(last);
    }
    let daemon = place.start();
    let kept = history(&daemon, channel);
    assert!(kept.is_sorted_by(|one, other| one < other), "each once and in order");
    let missing: Vec<_> = confirmed.iter().filter(|it| kept.binary_search(it).is_err()).collect();
    assert!(missing.is_empty(), "confirmed and not there: {missing:?}");
    let end = *kept.last().expect("something was published");
    if received.last() != Some(&end) {
        let client = Client::connect(&daemon);
        let rest = subscribe(client, channel, serial, move |last| last == end, Arc::default());
        received.extend(rest.join().expect("the subscriber is well").0);
    }
    assert_eq!(received, kept, "each once and in order");
    // What earlier starts have reserved is free again: this one has two files of 16 MiB a shard.
    assert!(place.reserved() <= (2 * 2 * 16 + 4) << 20, "{} reserved", place.reserved());
    println!("{channel}: {} kills, {} confirmed, {} kept", kills(), confirmed.len(), kept.len());
}

#[test]
fn what_was_confirmed_as_written_survives_kills_under_load() {
    killed_under_load("written", "kept:room");
}

#[test]
fn what_was_confirmed_as_synchronised_survives_kills_under_load() {
    killed_under_load("fsynced", "safe:room");
}

/// Bounds the files of a running daemon; beyond that a write fails as on a full disk.
fn bound_files(daemon: &Daemon, bytes: &str) {
    let mut program = Command::new("prlimit");
    program.args(["--pid", &daemon.pid().to_string(), &format!("--fsize={bytes}:unlimited")]);
    assert!(program.status().expect("prlimit of util-linux is there").success());
}

#[test]
fn what_finds_no_room_on_disk_is_refused_in_time_and_everything_else_goes_on() {
    for channel in ["kept:room", "safe:room"] {
        let place = Place::new(&format!("full-{}", &channel[..4]));
        let mut daemon = place.start();
        let mut client = Client::connect(&daemon);
        let mut subscriber = Client::connect(&daemon);
        subscriber.attach(channel, None);
        subscriber.attach("other", None);
        client.publish(channel, 0, "0");
        assert_eq!(client.outcome(), (0, None));
        let mut number = 0;
        for _ in 0..20 {
            number += 1;
            client.publish(channel, number, &number.to_string());
            assert_eq!(client.outcome(), (number, None));
        }
        let mut kept: Vec<u64> = (0..=number).collect();
        bound_files(&daemon, "1");
        // These are accepted, and then there is no room for them.
        for lost in number + 1..=number + 5 {
            client.publish(channel, lost, &lost.to_string());
        }
        for _ in 0..5 {
            number += 1;
            let (of, error) = client.outcome();
            let error = error.expect("refused");
            assert_eq!(
                (of, &error["code"], &error["statusCode"]),
                (number, &json!(50004), &json!(503))
            );
        }
        // From now on at once.
        number += 1;
        client.publish(channel, number, "refused");
        assert_eq!(client.outcome().1.expect("refused")["code"], 50004);
        number += 1;
        client.publish("other", number, "goes on");
        assert_eq!(client.outcome(), (number, None));
        let mut received: Vec<u64> = Vec::new();
        loop {
            let message = subscriber.next().expect("the daemon lives");
            if message["action"] != 15 {
                continue;
            }
            if message["channel"] == "other" {
                break;
            }
            let data = message["messages"][0]["data"].as_str().expect("text");
            received.push(data.parse().expect("a number"));
        }
        assert_eq!(received, kept, "nobody hears of what was refused");
        bound_files(&daemon, "unlimited");
        let begin = Instant::now();
        loop {
            number += 1;
            client.publish(channel, number, &number.to_string());
            if client.outcome().1.is_none() {
                break;
            }
            assert!(begin.elapsed() < PATIENCE, "there is room again");
            thread::sleep(Duration::from_millis(50));
        }
        kept.push(number);
        daemon.signal("KILL");
        daemon.wait();
        let daemon = place.start();
        assert_eq!(history(&daemon, channel), kept);
        let log = place.stderr();
        // What was to be said while it was bounded went to a file as well.
        assert!(!log.contains("is damaged"), "{log}");
        assert!(log.contains("the message log is written again"), "{log}");
    }
}

#[test]
fn damage_on_disk_is_told_and_never_served() {
    let place = Place::new("damage");
    let mut daemon = place.start();
    let mut client = Client::connect(&daemon);
    let first = client.attach("kept:room", None)["channelSerial"].clone();
    for number in 0..100u64 {
        let messages = json!([{ "data": number.to_string() }]);
        let publish = json!({ "action": 15, "channel": "kept:room", "msgSerial": number,
            "messages": messages });
        assert!(client.send(&publish));
    }
    client.await_acks(100);
    daemon.signal("KILL");
    daemon.wait();
    let segment = place.segments().into_iter().filter(|path| path.extension().is_some());
    let segment = segment.max_by_key(|path| {
        let data = fs::read(path).expect("can be read");
        data.iter().filter(|&&byte| byte != 0).count()
    });
    let segment = segment.expect("one was written");
    let mut data = fs::read(&segment).expect("can be read");
    let end = data.iter().rposition(|&byte| byte != 0).expect("not empty");
    data[end / 2] ^= 0x20;
    fs::write(&segment, data).expect("can be written");

    let daemon = place.start();
    let kept = history(&daemon, "kept:room");
    assert!((98..100).contains(&kept.len()), "{}", kept.len());
    let attached = Client::connect(&daemon).attach("kept:room", Some(&first));
    assert!(!is_resumed(&attached), "{attached}");
    assert_eq!(attached["error"]["code"], 90003, "{attached}");
    let log = place.stderr();
    assert!(log.contains("the message log is damaged"), "{log}");
}

#[test]
fn a_file_that_is_gone_is_told() {
    let place = Place::new("gone");
    let mut serials = Vec::new();
    // Each start writes to a file of its own.
    for start in 0..3 {
        let mut daemon = place.start();
        let mut client = Client::connect(&daemon);
        serials.push(client.attach("kept:room", serials.last())["channelSerial"].clone());
        for number in 0..10 {
            client.publish("kept:room", number, &(70_000 + 1000 * start + number).to_string());
        }
        client.await_acks(10);
        daemon.signal("KILL");
        daemon.wait();
    }
    let daemon = place.start();
    assert_eq!(history(&daemon, "kept:room").len(), 30);
    let attached = Client::connect(&daemon).attach("kept:room", Some(&serials[0]));
    assert!(is_resumed(&attached), "{attached}");
    drop(daemon);
    let has = |path: &PathBuf, text: &str| {
        let data = fs::read(path).expect("can be read");
        data.windows(text.len()).any(|bytes| bytes == text.as_bytes())
    };
    let files: Vec<PathBuf> = place.segments();
    let second = files.iter().find(|path| path.is_file() && has(path, "71005"));
    fs::remove_file(second.expect("one of them")).expect("can be removed");

    let daemon = place.start();
    let kept = history(&daemon, "kept:room");
    assert_eq!(kept.len(), 20);
    let attached = Client::connect(&daemon).attach("kept:room", Some(&serials[0]));
    assert!(!is_resumed(&attached), "{attached}");
    assert_eq!(attached["error"]["code"], 90003, "{attached}");
    let log = place.stderr();
    assert!(log.contains("a file of the message log is gone"), "{log}");
}
