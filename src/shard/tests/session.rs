//! Whole sessions at random: clients that do what they may, what they may not, and half of either, over
//! several shards with narrow bounds. A seed tells the story; what has to be true of every story is
//! checked at its end.

use super::*;
use crate::connection::ConnectionConfig;

/// Names of channels, each of which some clients attach to in several ways.
const CHANNELS: [&str; 8] = [
    "room",
    "mutable:room",
    "[?rewind=2]room",
    "[?delta=vcdiff]room",
    "[filter=bmFtZSA9PSAnYSc=]room", // name == 'a'
    "[meta]connection.lifecycle",
    "[filter=!]room",
    "",
];

/// What a client has asked of one channel, and has been told.
#[derive(Default)]
struct Asked {
    /// ATTACHes since the last DETACH.
    attaches: usize,
    detaches: usize,
    /// DETACHED without error.
    detached: usize,
    /// ATTACHED, ERROR or DETACHED with error since the last plain DETACHED.
    answers: usize,
    /// The newest channelSerial of the attachment that goes on.
    last: Option<String>,
}

struct Story {
    host: Host,
    seed: u64,
    /// WebSockets with what their transports have asked; others have been given up.
    asked: Vec<(usize, HashMap<String, Asked>)>,
    /// msgSerial by client.
    msg_serials: HashMap<usize, u64>,
    /// connectionKeys that were told.
    keys: Vec<String>,
    /// channelSerials that were told.
    serials: Vec<String>,
}

impl Story {
    fn new(seed: u64) -> Story {
        let config = ShardConfig {
            connection: ConnectionConfig {
                channels_max: 4,
                publishes_in_flight_max: 32,
                lane_bytes_max: 64 << 10,
                state_ttl: Duration::from_secs(30),
                ..ConnectionConfig::default()
            },
            history: HistoryConfig {
                retention: Duration::from_secs(20),
                persisted_retention: Duration::from_secs(40),
                channel_bytes_max: 16 << 10,
                shard_bytes_max: 32 << 10,
            },
            lag_bytes_max: 8 << 10,
            replay_bytes_max: 4 << 10,
            presence_bytes_max: 4 << 10,
            mail_max: 1 + (seed % 40) as usize,
            dormant_max: 4,
            sandbox: true,
            echo: true,
            ..ShardConfig::default()
        };
        let host = Host::with_config(1 + (seed % 3) as usize, seed, config);
        let (asked, msg_serials) = (Vec::new(), HashMap::new());
        Story { host, seed, asked, msg_serials, keys: Vec::new(), serials: Vec::new() }
    }

    fn one_of<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.host.below(of.len())].clone()
    }

    fn chance(&mut self, one_in: usize) -> bool {
        self.host.below(one_in) == 0
    }

    fn connect(&mut self) {
        let mut query = String::from("&clientId=me");
        if self.chance(3) {
            query = self
                .one_of(&["", "&clientId=*", "&echo=false", "&v=1", "&remainPresentFor=0"])
                .into();
        }
        if self.chance(2) && !self.keys.is_empty() {
            let mut key = self.one_of(&self.keys.clone());
            if self.chance(5) {
                key.replace_range(0..1, "-");
            }
            query += &format!("&resume={key}");
        }
        let shard = self.host.below(self.host.shards.len());
        let client = self.host.request(
            shard,
            &format!(
                "GET /?key={KEY}&v=6{query} HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\n\
                 Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                 Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            ),
        );
        self.asked.push((client, HashMap::new()));
    }

    fn request(&mut self) {
        let serial =
            if self.serials.is_empty() { "x".into() } else { self.one_of(&self.serials.clone()) };
        let path = self.one_of(&[
            "GET /time",
            "GET /channels",
            "GET /channels/room",
            "GET /channels/room/messages?limit=1",
            "GET /channels/mutable:room/messages?direction=forwards",
            "GET /channels/room/presence",
            "GET /channels/room/presence/history",
            "GET /presence?channels=room,mutable:room",
            "GET /stats?direction=forwards&end=1&cursor=9",
            "GET /stats?start=9&cursor=1",
            "GET /stats",
            "POST /channels/room/messages",
            "POST /messages",
            "POST /apps",
            "DELETE /apps/none",
            "PATCH /channels/mutable:room/messages/S:000",
            "GET /channels/mutable:room/messages/S:000/versions",
            "POST /channels/mutable:room/messages/S:000/annotations",
            "GET /sse?channels=room,mutable:room&lastEvent=room=S",
            "GET /sse?channel=room&rewind=3",
            "GET /event-stream?channels=room",
            "POST /keys/app.key/requestToken",
            "GET /%",
            "PUT /time",
        ]);
        let body = self.one_of(&[
            "",
            r#"{"data":"rest"}"#,
            r#"[{"id":"own","data":1}]"#,
            r#"{"action":5,"data":"+"}"#,
            r#"{"channels":["room","b"],"messages":{"data":"x"}}"#,
            "{",
            r#"[{"type":"a:total.v1"}]"#,
            r#"{"keyName":"app.key","timestamp":1}"#,
        ]);
        let (method, path) = path.split_once(' ').expect("both");
        let path = path.replace('S', &serial);
        let mut text = String::new();
        for _ in 0..=self.host.below(3) {
            text += &format!(
                "{method} {path} HTTP/1.1\r\nHost: h\r\nAuthorization: Basic YXBwLmtleTpzZWNyZXQ=\r\n\
                 Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
        }
        let shard = self.host.below(self.host.shards.len());
        self.host.request(shard, &text);
    }

    fn attach(&mut self, at: usize) {
        let channel = self.one_of(&CHANNELS);
        let mut attach = json!({"action": 10, "channel": channel});
        if self.chance(3) {
            attach["flags"] =
                json!(self.one_of(&[1u64 << 18, 1 << 16, 1 << 17 | 1 << 18, u64::MAX >> 12, 32]));
        }
        if self.chance(3) {
            attach["params"] = self.one_of(&[
                json!({"rewind": "3"}),
                json!({"rewind": "1m", "rewindLimit": 2}),
                json!({"rewind": "x"}),
                json!({"delta": "vcdiff"}),
                json!({"occupancy": "metrics"}),
                json!({"modes": "presence"}),
                json!({"echo": "false"}),
                json!({"appendMode": "full"}),
                json!({"modes": "none", "rewind": 1}),
            ]);
        }
        if self.chance(3) && !self.serials.is_empty() {
            attach["channelSerial"] = json!(self.one_of(&self.serials.clone()));
        }
        let (client, asked) = &mut self.asked[at];
        asked.entry(channel.into()).or_default().attaches += 1;
        self.host.send(*client, &attach);
    }

    fn detach(&mut self, at: usize) {
        let channel = self.one_of(&CHANNELS);
        let (client, asked) = &mut self.asked[at];
        let of = asked.entry(channel.into()).or_default();
        // What is no name is refused, also to those who let go of it.
        if !matches!(channel, "" | "[filter=!]room") {
            (of.attaches, of.detaches) = (0, of.detaches + 1);
        }
        self.host.send(*client, &json!({"action": 12, "channel": channel}));
    }

    /// Something that takes a msgSerial.
    fn publish(&mut self, client: usize) {
        let msg_serial = self.msg_serials.entry(client).or_default();
        *msg_serial += 1;
        let mut msg_serial = *msg_serial;
        if self.chance(12) {
            msg_serial = self.one_of(&[0, 1, msg_serial + 5, u64::MAX, 1 << 53]);
        }
        let channel = self.one_of(&CHANNELS[..4]);
        let serial =
            if self.serials.is_empty() { "x".into() } else { self.one_of(&self.serials.clone()) };
        let serial = format!("{serial}:000");
        let long = "x".repeat(self.host.below(3000));
        let (action, key, items) = self.one_of(&[
            (15, "messages", json!([{"data": long, "name": "a"}])),
            (15, "messages", json!([{"data": {"a": long}}, {"data": 1}])),
            (15, "messages", json!([{"id": "own", "data": "x"}])),
            (15, "messages", json!([])),
            (15, "messages", json!([{"action": 1, "serial": serial, "data": "new"}])),
            (15, "messages", json!([{"action": 2, "serial": serial}])),
            (15, "messages", json!([{"action": 5, "serial": serial, "data": "+"}])),
            (15, "messages", json!([1])),
            (
                21,
                "annotations",
                json!([{"messageSerial": serial, "type": "a:distinct.v1", "name": "n"}]),
            ),
            (
                21,
                "annotations",
                json!([{"messageSerial": serial, "type": "a:total.v1", "action": 1}]),
            ),
            (21, "annotations", json!([{"messageSerial": serial, "type": "b:total.v1"}])),
            (14, "presence", json!([{"action": 2, "data": long}])),
            (
                14,
                "presence",
                json!([{"action": 2, "clientId": "c1"}, {"action": 4, "clientId": "c1"}]),
            ),
            (14, "presence", json!([{"action": 3}])),
            (14, "presence", json!([{"action": 9}])),
            (20, "state", json!([{}])),
        ]);
        let message =
            json!({"action": action, "msgSerial": msg_serial, "channel": channel, key: items});
        self.host.send(client, &message);
    }

    fn act(&mut self) {
        let clients = &self.host.clients;
        self.asked.retain(|(client, _)| !clients[*client].is_closed);
        let count = self.asked.len();
        let what = if count == 0 { 0 } else { self.host.below(40) };
        let at = self.host.below(count.max(1));
        let client = self.asked.get(at).map_or(0, |(client, _)| *client);
        match what {
            0..=2 if count < 8 => self.connect(),
            3..=10 => self.attach(at),
            11..=12 => self.detach(at),
            13..=24 => self.publish(client),
            25..=27 => self.request(),
            28 => {
                self.asked.swap_remove(at);
                self.host.drop_transport(client);
            }
            // Once more does no harm: it stalls until all of them go on.
            29 => self.host.stalled.push(client),
            30 => self.host.stalled.clear(),
            31 => {
                let time = self.one_of(&[1, 130, 900, 5000, 16_000, 31_000]);
                self.host.pass(Duration::from_millis(time));
            }
            32..=33 => {
                let channel = self.one_of(&CHANNELS);
                self.host.send(client, &json!({"action": 16, "channel": channel}));
            }
            34 => {
                let message = self.one_of(&[
                    json!({"action": 7}),
                    json!({"action": 5}),
                    json!({"action": 17, "auth": {"accessToken": "a.b.c"}}),
                    json!({"action": 99}),
                    json!([]),
                    json!({"action": 4}),
                ]);
                self.host.send(client, &message);
            }
            35 => self.host.send(client, &json!({"action": 0, "id": "sign"})),
            36 => {
                let noise = self.one_of(&[
                    &[0x89, 0x80, 1, 2, 3, 4][..],
                    &[0x88, 0x80, 0, 0, 0, 0],
                    &[0xff; 8],
                ]);
                self.host.write(client, noise);
            }
            _ => {}
        }
        for _ in 0..self.host.below(12) {
            self.host.step();
        }
        if self.chance(8) {
            self.read();
        }
    }

    /// Reads what has arrived, and checks that it is in order.
    fn read(&mut self) {
        let clients: Vec<usize> = self.asked.iter().map(|(client, _)| *client).collect();
        for (at, client) in clients.into_iter().enumerate() {
            let received = &mut self.host.clients[client].received;
            if received.starts_with(b"HTTP") {
                let end = received.windows(4).position(|four| four == b"\r\n\r\n");
                let Some(end) = end else { continue };
                received.drain(..end + 4);
            }
            for message in self.host.messages(client) {
                self.note(at, &message);
            }
            if !self.host.clients[client].is_closed {
                self.host.answer_pings(client);
            }
        }
    }

    fn note(&mut self, at: usize, message: &Value) {
        let seed = self.seed;
        if let Some(key) = message["connectionDetails"]["connectionKey"].as_str() {
            self.keys.push(key.into());
        }
        let serial = message["channelSerial"].as_str().filter(|serial| serial.contains('@'));
        if let Some(serial) = serial {
            self.serials.push(serial.into());
        }
        let Some(channel) = message["channel"].as_str() else { return };
        let of = self.asked[at].1.entry(channel.into()).or_default();
        let has_error = !message["error"].is_null();
        match (message["action"].as_u64(), serial) {
            (Some(11), Some(serial)) => {
                of.answers += 1;
                let is_resumed = message["flags"].as_u64().is_some_and(|flags| flags & 4 != 0);
                if !is_resumed || of.last.as_deref().is_some_and(|last| serial < last) {
                    of.last = None;
                }
            }
            (Some(13), _) if !has_error => {
                (of.detached, of.answers, of.last) = (of.detached + 1, 0, None);
            }
            (Some(9 | 13), _) => (of.answers, of.last) = (of.answers + 1, None),
            (Some(15 | 21), Some(serial)) => {
                let in_order = of.last.as_deref().is_none_or(|last| last < serial);
                assert!(in_order, "seed={seed} {:?} {message}", of.last);
                of.last = Some(serial.into());
            }
            _ => {}
        }
    }

    /// Everybody reads, and time goes on until nothing is left to say.
    fn end(mut self) {
        let seed = self.seed;
        self.host.stalled.clear();
        self.host.settle();
        self.read();
        for (client, asked) in &self.asked {
            let at = &self.host.clients[*client];
            let (shard, index, is_closed) = (at.shard, at.index, at.is_closed);
            let stage = &self.host.shards[shard].transports[index as usize].stage;
            if is_closed || !matches!(stage, Stage::Realtime(..)) {
                continue;
            }
            for (channel, asked) in asked {
                assert_eq!(asked.detached, asked.detaches, "seed={seed} client={client} {channel}");
                let is_answered = asked.attaches == 0 || asked.answers > 0;
                assert!(is_answered, "seed={seed} client={client} {channel}");
            }
        }
        for shard in &mut self.host.shards {
            for index in 0..shard.transports.len() as u32 {
                let transport = &mut shard.transports[index as usize];
                assert!(transport.is_idle(), "seed={seed} {index} is sent something for ever");
                let owed = transport.lane_bytes() > 0 || transport.take_backlog().is_some();
                assert!(!owed, "seed={seed} {index} is owed something and not served");
                let Some(connection) = transport.connection() else { continue };
                for stream in connection.streams().collect::<Vec<u32>>() {
                    let Some(cursor) = connection.cursor(stream) else { continue };
                    let is_behind = shard.streams.at(stream).log.is_behind(cursor);
                    assert!(!is_behind, "seed={seed} {index} is behind and not served");
                }
            }
            for index in 0..shard.streams.len() as u32 * 2 {
                let held = shard.streams.get_mut(index).map_or(0, |stream| stream.log.held_bytes());
                assert_eq!(held, 0, "seed={seed} stream={index}: everybody has read");
            }
        }
        for client in 0..self.host.clients.len() {
            if !self.host.clients[client].is_closed {
                self.host.drop_transport(client);
            }
        }
        for _ in 0..40 {
            self.host.pass(Duration::from_secs(5));
            self.host.settle_quickly();
        }
        for shard in &self.host.shards {
            let left = (shard.streams.len(), shard.dormant.len(), shard.connections);
            assert_eq!(left, (0, 0, 0), "seed={seed}");
            let own = shard.homes.len();
            assert_eq!((own, shard.homes.history_bytes()), (0, 0), "seed={seed}");
        }
    }
}

/// Stories from `first` on, as many as `RINGCAST_STORIES` says.
#[test]
fn whatever_clients_do_the_others_are_served_and_nothing_is_left_behind() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let first = number("RINGCAST_FIRST_STORY").unwrap_or(1);
    let count = number("RINGCAST_STORIES").unwrap_or(40);
    for seed in first..first + count {
        let mut story = Story::new(seed);
        for _ in 0..150 {
            story.act();
        }
        story.end();
    }
}
