//! A client as Ably's SDKs are: it connects, resumes with its connectionKey, attaches again with the
//! channelSerial it has, and sends again, under the same msgSerial, what it has seen no ACK of. What it is
//! told it passes on to the oracle.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde_json::{Value, json};

use super::credentials::{self, permits};
use super::frame;
use super::host::Host;
use super::members::Members;
use super::oracle::{Event, Oracle};
use super::report::Report;

/// Status bits of ATTACHED.
const RESUMED: u64 = 4;
const HAS_BACKLOG: u64 = 2;

/// The mode without which no messages come.
const SUBSCRIBE: u64 = 1 << 18;

/// How long a client waits for an answer before it gives its transport up (2.12).
const REQUEST_TIMEOUT_MS: u64 = 10_000;

/// How often the daemon speaks, at least (2.5), in milliseconds.
const IDLE_MS: u64 = 15_000;

/// How long a channel waits that was refused for now.
const RETRY_MS: u64 = 1_000;

/// What everybody in a run shares.
pub struct Scene<'a> {
    /// The daemon.
    pub host: &'a mut Host,
    /// The judge.
    pub oracle: &'a mut Oracle,
    /// What is counted.
    pub report: &'a mut Report,
}

/// Where a client stands with its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// Without a transport, until then.
    Down {
        /// When it tries again.
        until_ms: u64,
    },
    /// It waits for CONNECTED.
    Opening,
    /// Connected.
    Up,
    /// Closed or failed for good.
    Ended,
}

/// Where a client stands with a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stand {
    /// It has sent ATTACH.
    Attaching,
    /// ATTACHED has come.
    Attached,
    /// It has sent DETACH.
    Detaching,
    /// Refused for now.
    Suspended {
        /// When it tries again.
        until_ms: u64,
    },
    /// Refused for good.
    Failed,
}

/// A channel of a client.
#[derive(Debug)]
pub struct Channel {
    /// Where it stands.
    pub stand: Stand,
    /// Without qualifier.
    base: String,
    /// Whether ATTACHED has come over the present transport.
    is_open: bool,
    /// What the next ATTACH names.
    serial: Option<String>,
    /// What the last ATTACH named.
    asked: Option<String>,
    /// Messages that its qualifier rewinds.
    rewind: Option<usize>,
    /// The continuity that goes on.
    pub segment: Option<usize>,
    modes: u64,
    /// Who is present.
    pub members: Members,
    /// What it is in the channel itself.
    pub entered: Option<Entered>,
}

/// A client's own membership of a channel.
#[derive(Debug)]
pub struct Entered {
    data: String,
    /// The msgSerial of an ENTER that was not acknowledged.
    pending: Option<u64>,
    /// Whether one was.
    was_acked: bool,
    /// One was refused behind one that was not: the daemon may have it or not.
    pub is_uncertain: bool,
}

/// A protocol message that waits for its ACK.
#[derive(Debug)]
struct Pending {
    msg_serial: u64,
    /// The number of the publish; none: presence.
    publish: Option<usize>,
    /// The connection that has sent it.
    sent_by: Option<String>,
    frame: Value,
}

/// See the module text.
#[derive(Debug)]
pub struct Sdk {
    number: usize,
    /// What its credential permits.
    pub grant: usize,
    /// What it permits once the AUTH under way is accepted.
    next_grant: Option<usize>,
    by_token: bool,
    /// Whom it says it is.
    pub client_id: Option<&'static str>,
    echo: bool,
    /// Where it stands.
    pub link: Link,
    socket: usize,
    is_upgraded: bool,
    heard_ms: u64,
    began_ms: u64,
    connection_id: Option<String>,
    connection_key: Option<String>,
    /// The key that this transport wants to resume.
    resumes: bool,
    msg_serial: u64,
    pending: VecDeque<Pending>,
    /// By name as the client writes it.
    pub channels: BTreeMap<String, Channel>,
    /// Where it may be a member although it has let go of one of several attachments, or its LEAVE was
    /// refused: channel and connection, with the msgSerial of the first LEAVE that would be the end of it.
    pub lingers: BTreeMap<(String, String), u64>,
    /// Whether its tokens last.
    pub is_calm: bool,
}

/// The name without qualifier, and what that rewinds.
fn parse_name(name: &str) -> (String, Option<usize>) {
    match name.strip_prefix("[?rewind=").and_then(|rest| rest.split_once(']')) {
        Some((count, base)) => (base.to_owned(), count.parse().ok()),
        None => (name.to_owned(), None),
    }
}

impl Sdk {
    /// A client that has not connected yet.
    pub fn new(
        number: usize,
        grant: usize,
        by_token: bool,
        client_id: Option<&'static str>,
        echo: bool,
    ) -> Sdk {
        Sdk {
            number,
            grant,
            next_grant: None,
            by_token,
            client_id,
            echo,
            link: Link::Down { until_ms: 0 },
            socket: usize::MAX,
            is_upgraded: false,
            heard_ms: 0,
            began_ms: 0,
            connection_id: None,
            connection_key: None,
            resumes: false,
            msg_serial: 0,
            pending: VecDeque::new(),
            channels: BTreeMap::new(),
            lingers: BTreeMap::new(),
            is_calm: false,
        }
    }

    /// Its socket, if it has one.
    pub fn socket(&self) -> Option<usize> {
        matches!(self.link, Link::Opening | Link::Up).then_some(self.socket)
    }

    /// Whether it waits for nothing.
    pub fn is_settled(&self) -> bool {
        let is_calm = |channel: &Channel| match channel.stand {
            Stand::Attached => channel.members.residual.is_none(),
            Stand::Failed => true,
            Stand::Attaching | Stand::Detaching | Stand::Suspended { .. } => false,
        };
        self.link == Link::Ended
            || self.link == Link::Up
                && self.pending.is_empty()
                && self.next_grant.is_none()
                && self.channels.values().all(is_calm)
    }

    /// What it waits for, for somebody who looks for a fault.
    pub fn state(&self) -> String {
        let channels: Vec<_> = self
            .channels
            .iter()
            .map(|(name, channel)| {
                format!("{name}: {:?} {:?}", channel.stand, channel.members.residual)
            })
            .collect();
        let pending: Vec<u64> = self.pending.iter().map(|pending| pending.msg_serial).collect();
        format!("{:?} pending {pending:?} auth {:?} {channels:?}", self.link, self.next_grant)
    }

    /// Its connectionId, while it has one.
    pub fn connection_id(&self) -> Option<&str> {
        self.connection_id.as_deref()
    }

    fn token(&self, scene: &mut Scene<'_>, grant: usize) -> String {
        let ttl = if self.is_calm { 3600 } else { *scene.host.random.one_of(&[3, 10, 40, 600]) };
        let now_ms = scene.host.now.unix_ms;
        credentials::token(grant, self.client_id, now_ms, Duration::from_secs(ttl))
    }

    /// Opens a transport to `shard`.
    pub fn connect(&mut self, scene: &mut Scene<'_>, shard: usize) {
        let mut query = match self.by_token {
            true => format!("accessToken={}", self.token(scene, self.grant)),
            false => format!("key={}", credentials::key(self.grant)),
        };
        if let Some(client_id) = self.client_id.filter(|_| !self.by_token) {
            query += &format!("&clientId={client_id}");
        }
        if !self.echo {
            query += "&echo=false";
        }
        self.resumes = self.connection_key.is_some();
        if let Some(key) = &self.connection_key {
            query += &format!("&resume={key}");
        }
        let request = format!(
            "GET /?v=6&{query} HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        self.socket = scene.host.accept(shard);
        scene.host.post(self.socket, request.as_bytes());
        self.link = Link::Opening;
        self.is_upgraded = false;
        self.next_grant = None;
        let now_ms = scene.host.now.mono_ms;
        (self.heard_ms, self.began_ms) = (now_ms, now_ms);
        for channel in self.channels.values_mut() {
            channel.is_open = false;
        }
        scene.report.transports += 1;
    }

    fn send(&self, scene: &mut Scene<'_>, message: &Value) {
        let sent = frame::masked(frame::TEXT, message.to_string().as_bytes());
        scene.host.post(self.socket, &sent);
        scene.report.trace(|| format!("{} > {message}", self.number));
    }

    /// Loses its transport without a word, or lets go of it.
    pub fn lose(&mut self, scene: &mut Scene<'_>, is_cut: bool) {
        if self.socket().is_none() {
            return;
        }
        scene.report.trace(|| format!("{} loses its transport", self.number));
        scene.report.drops += 1;
        match is_cut {
            true => scene.host.cut(self.socket),
            false => scene.host.hang_up(self.socket),
        }
        self.wait(scene);
    }

    fn wait(&mut self, scene: &mut Scene<'_>) {
        scene.host.stalled.retain(|&client| client != self.socket);
        let pause_ms = *scene.host.random.one_of(&[0, 0, 0, 5, 900, 20_000]);
        self.link = Link::Down { until_ms: scene.host.now.mono_ms + pause_ms };
    }

    fn end(&mut self, scene: &mut Scene<'_>) {
        self.link = Link::Ended;
        scene.host.stalled.retain(|&client| client != self.socket);
        for pending in std::mem::take(&mut self.pending) {
            if let Some(publish) = pending.publish {
                scene.oracle.give_up(publish);
            }
        }
    }

    /// Says goodbye.
    pub fn close(&mut self, scene: &mut Scene<'_>) {
        if self.link == Link::Up {
            self.send(scene, &json!({"action": 7}));
            scene.host.hang_up(self.socket);
        }
        if self.link != Link::Ended {
            self.lose(scene, false);
            self.end(scene);
        }
    }

    /// Attaches to a channel, or lets go of it.
    pub fn attach(&mut self, scene: &mut Scene<'_>, name: &str) {
        if self.link != Link::Up {
            return;
        }
        if !self.channels.contains_key(name) {
            let (base, rewind) = parse_name(name);
            let channel = Channel {
                stand: Stand::Attaching,
                base,
                is_open: false,
                serial: None,
                asked: None,
                rewind,
                segment: None,
                modes: 0,
                members: Members::default(),
                entered: None,
            };
            self.channels.insert(name.to_owned(), channel);
        }
        let stand = self.channels[name].stand;
        if stand != Stand::Failed && stand != Stand::Detaching {
            self.send_attach(scene, name);
        }
    }

    fn send_attach(&mut self, scene: &mut Scene<'_>, name: &str) {
        let channel = self.channels.get_mut(name).expect("known to the caller");
        let mut attach = json!({"action": 10, "channel": name});
        if channel.stand != Stand::Attached {
            channel.stand = Stand::Attaching;
        }
        channel.asked = channel.serial.clone();
        if let Some(serial) = &channel.serial {
            attach["channelSerial"] = serial.as_str().into();
        }
        self.send(scene, &attach);
    }

    /// Lets go of a channel.
    pub fn detach(&mut self, scene: &mut Scene<'_>, name: &str) {
        if self.link != Link::Up {
            return;
        }
        if let Some(channel) = self.channels.get_mut(name)
            && channel.stand == Stand::Attached
        {
            channel.stand = Stand::Detaching;
            if channel.entered.take().is_some() {
                let base = channel.base.clone();
                self.linger(base);
            }
            self.send(scene, &json!({"action": 12, "channel": name}));
        }
    }

    fn linger(&mut self, base: String) {
        let own = self.channels.values().filter(|channel| channel.base == base).count();
        if let Some(id) = self.connection_id.clone().filter(|_| own > 1) {
            self.lingers.insert((base, id), self.msg_serial);
        }
    }

    /// Publishes what the oracle calls `publish`.
    pub fn publish(&mut self, scene: &mut Scene<'_>, name: &str, publish: usize, id: Option<&str>) {
        let padding = *scene.host.random.one_of(&[0, 0, 10, 200, 2000]);
        let tags = &scene.oracle.publishes[publish].tags;
        let message = |(index, tag): (usize, &String)| {
            let mut message = json!({"data": format!("{tag} {}", "x".repeat(padding))});
            if let Some(id) = id {
                message["id"] = match tags.len() {
                    1 => id.into(),
                    _ => format!("{id}:{index}").into(),
                };
            }
            message
        };
        let messages: Vec<Value> = tags.iter().enumerate().map(message).collect();
        let frame = json!({"action": 15, "channel": name, "messages": messages});
        self.submit(scene, Some(publish), frame);
        scene.report.publishes += 1;
    }

    /// Enters a channel that it is attached to, or changes what it is there.
    pub fn enter(&mut self, scene: &mut Scene<'_>, name: &str) {
        let msg_serial = self.msg_serial;
        let Some(channel) = self.channels.get_mut(name) else { return };
        let can = permits(self.grant, &channel.base, "presence") && self.client_id.is_some();
        // Under a name of its own, so that one LEAVE is the end of it.
        let is_plain = *channel.base == *name;
        if self.link == Link::Up && channel.stand == Stand::Attached && can && is_plain {
            let data = format!("{} {msg_serial}", self.number);
            let before = channel.entered.take();
            channel.entered = Some(Entered {
                data: data.clone(),
                pending: Some(msg_serial),
                was_acked: before.is_some_and(|before| before.was_acked || before.is_uncertain),
                is_uncertain: false,
            });
            let presence = json!([{"action": 2, "data": data}]);
            let frame = json!({"action": 14, "channel": name, "presence": presence});
            self.submit(scene, None, frame);
        }
    }

    /// Leaves a channel.
    pub fn leave(&mut self, scene: &mut Scene<'_>, name: &str) {
        let Some(channel) = self.channels.get_mut(name) else { return };
        if self.link == Link::Up && channel.entered.take().is_some() {
            let presence = json!([{"action": 3}]);
            let frame = json!({"action": 14, "channel": name, "presence": presence});
            self.submit(scene, None, frame);
        }
    }

    fn submit(&mut self, scene: &mut Scene<'_>, publish: Option<usize>, mut frame: Value) {
        let msg_serial = self.msg_serial;
        self.msg_serial += 1;
        frame["msgSerial"] = msg_serial.into();
        let mut pending = Pending { msg_serial, publish, sent_by: None, frame };
        if self.link == Link::Up {
            self.send_pending(scene, &mut pending);
        }
        self.pending.push_back(pending);
    }

    fn send_pending(&self, scene: &mut Scene<'_>, pending: &mut Pending) {
        self.send(scene, &pending.frame);
        if pending.sent_by != self.connection_id {
            pending.sent_by.clone_from(&self.connection_id);
            if let Some(publish) = pending.publish {
                scene.oracle.attempt(publish);
            }
        }
    }

    /// Sends another token, with what another grant permits.
    pub fn authenticate(&mut self, scene: &mut Scene<'_>, grant: usize) {
        if self.link == Link::Up && self.by_token && self.next_grant.is_none() {
            let token = self.token(scene, grant);
            self.next_grant = Some(grant);
            self.send(scene, &json!({"action": 17, "auth": {"accessToken": token}}));
        }
    }

    /// Asks who is present.
    pub fn sync(&mut self, scene: &mut Scene<'_>, name: &str) {
        let can = self.channels.get(name).is_some_and(|channel| {
            channel.stand == Stand::Attached && channel.modes & (1 << 19) != 0
        });
        if self.link == Link::Up && can {
            self.send(scene, &json!({"action": 16, "channel": name}));
        }
    }

    /// Reads what has arrived, and does what is due.
    pub fn advance(&mut self, scene: &mut Scene<'_>) {
        if self.socket().is_some() {
            self.read(scene);
        }
        let now_ms = scene.host.now.mono_ms;
        if self.socket().is_some() {
            let is_stalled = scene.host.stalled.contains(&self.socket);
            let is_silent = now_ms > self.heard_ms + IDLE_MS + REQUEST_TIMEOUT_MS;
            let is_late = self.link == Link::Opening && now_ms > self.began_ms + REQUEST_TIMEOUT_MS;
            if !scene.host.clients[self.socket].is_open() || (is_silent || is_late) && !is_stalled {
                self.lose(scene, false);
            }
        }
        if self.link == Link::Up {
            let due = |channel: &Channel| match channel.stand {
                Stand::Suspended { until_ms } => until_ms <= now_ms,
                _ => false,
            };
            let due = self.channels.iter().filter(|(_, channel)| due(channel));
            for name in due.map(|(name, _)| name.clone()).collect::<Vec<_>>() {
                self.send_attach(scene, &name);
            }
        }
    }

    fn read(&mut self, scene: &mut Scene<'_>) {
        let received = std::mem::take(&mut scene.host.clients[self.socket].received);
        if received.is_empty() {
            return;
        }
        let mut rest = &received[..];
        if !self.is_upgraded {
            let Some(end) = rest.windows(4).position(|four| four == b"\r\n\r\n") else {
                scene.host.clients[self.socket].received = received;
                return;
            };
            if !rest.starts_with(b"HTTP/1.1 101 ") {
                let text = String::from_utf8_lossy(&rest[..end]).into_owned();
                scene.oracle.find("handshake", text);
            }
            self.is_upgraded = true;
            rest = &rest[end + 4..];
        }
        self.heard_ms = scene.host.now.mono_ms;
        let socket = self.socket;
        while let Some((opcode, payload, tail)) = frame::split(rest) {
            rest = tail;
            match opcode {
                frame::TEXT => match serde_json::from_slice::<Value>(payload) {
                    Ok(message) => {
                        scene.report.hash(payload);
                        scene.report.trace(|| format!("{} < {message}", self.number));
                        self.take(scene, &message);
                    }
                    Err(error) => scene.oracle.find("wire", format!("{error}")),
                },
                frame::PING => scene.host.post(socket, &frame::masked(frame::PONG, payload)),
                frame::CLOSE => self.lose(scene, false),
                _ => scene.oracle.find("wire", format!("a frame with opcode {opcode}")),
            }
            if self.socket() != Some(socket) {
                return;
            }
        }
        scene.host.clients[socket].received = rest.to_vec();
    }

    fn take(&mut self, scene: &mut Scene<'_>, message: &Value) {
        let action = message["action"].as_u64();
        if self.link == Link::Opening && !matches!(action, Some(4 | 6 | 9)) {
            scene.oracle.find("wire", format!("before CONNECTED: {message}"));
        }
        match action {
            Some(0) => {}
            Some(1 | 2) => self.take_ack(scene, message),
            Some(4) => self.connected(scene, message),
            Some(6) => self.lose(scene, false),
            Some(8) => self.end(scene),
            Some(9) if message["channel"].is_null() => {
                scene.host.hang_up(self.socket);
                self.end(scene);
            }
            Some(17) => self.authenticate(scene, self.grant),
            Some(_) => self.take_for_channel(scene, message),
            None => scene.oracle.find("wire", format!("without action: {message}")),
        }
    }

    fn connected(&mut self, scene: &mut Scene<'_>, message: &Value) {
        let id = message["connectionId"].as_str().unwrap_or_default().to_owned();
        let key = message["connectionDetails"]["connectionKey"].as_str().map(str::to_owned);
        let has_error = !message["error"].is_null();
        if self.link == Link::Up {
            // The answer to AUTH.
            self.grant = self.next_grant.take().unwrap_or(self.grant);
            for channel in self.channels.values_mut() {
                // RTC8a1: the membership goes with the permission.
                if !permits(self.grant, &channel.base, "presence") {
                    channel.entered = None;
                }
            }
            if self.connection_id.as_ref() != Some(&id) {
                scene.oracle.find("resume", format!("AUTH has changed the connection: {message}"));
            }
            self.connection_key = key;
            return;
        }
        self.link = Link::Up;
        scene.report.connects += 1;
        let is_same = self.connection_id.as_ref() == Some(&id);
        if self.resumes && is_same == has_error {
            scene.oracle.find("resume", format!("neither resumed nor refused: {message}"));
        }
        if self.resumes && is_same && self.connection_key == key {
            scene.oracle.find("resume", format!("the key has stayed the same: {message}"));
        }
        scene.report.resumes += u64::from(self.resumes && is_same);
        self.connection_id = Some(id);
        self.connection_key = key;
        if !is_same {
            // RTN15c7: numbering begins anew.
            self.msg_serial = 0;
            for pending in &mut self.pending {
                let before = std::mem::replace(&mut pending.msg_serial, self.msg_serial);
                pending.frame["msgSerial"] = self.msg_serial.into();
                self.msg_serial += 1;
                if pending.publish.is_none() {
                    let entered = self.channels.values_mut().filter_map(|it| it.entered.as_mut());
                    for entered in entered.filter(|it| it.pending == Some(before)) {
                        entered.pending = Some(pending.msg_serial);
                    }
                }
            }
        }
        let attaches_first = scene.host.random.chance(2);
        if attaches_first {
            self.attach_again(scene);
        }
        for mut pending in std::mem::take(&mut self.pending) {
            // RTN19a: an ENTER without ACK is sent again even if its channel was let go of since.
            let name = pending.frame["channel"].as_str().unwrap_or_default();
            let is_enter = pending.frame["presence"][0]["action"] == 2;
            if is_enter && self.channels.get(name).is_none_or(|channel| channel.entered.is_none()) {
                let member = self.connection_id.clone().map(|id| (name.to_owned(), id));
                self.lingers.extend(member.map(|member| (member, pending.msg_serial + 1)));
            }
            self.send_pending(scene, &mut pending);
            self.pending.push_back(pending);
        }
        if !attaches_first {
            self.attach_again(scene);
        }
    }

    /// On a new transport all channels are attached anew.
    fn attach_again(&mut self, scene: &mut Scene<'_>) {
        for name in self.channels.keys().cloned().collect::<Vec<_>>() {
            match self.channels[&name].stand {
                Stand::Failed => {}
                Stand::Detaching => self.send(scene, &json!({"action": 12, "channel": name})),
                Stand::Attached | Stand::Attaching | Stand::Suspended { .. } => {
                    self.channels.get_mut(&name).expect("listed").stand = Stand::Attaching;
                    self.send_attach(scene, &name);
                }
            }
        }
    }

    fn take_ack(&mut self, scene: &mut Scene<'_>, message: &Value) {
        let first = message["msgSerial"].as_u64();
        let count = message["count"].as_u64().unwrap_or_default();
        let (Some(first), 1..) = (first, count) else {
            return scene.oracle.find("ack", format!("no count, no serial: {message}"));
        };
        for index in 0..count {
            let Some(pending) =
                self.pending.pop_front_if(|known| known.msg_serial == first + index)
            else {
                let waits = self.pending.front().map(|pending| pending.msg_serial);
                let text = format!("client {} waits for {waits:?}: {message}", self.number);
                return scene.oracle.find("ack", text);
            };
            let outcome = match message["action"].as_u64() {
                Some(1) => {
                    let serials = &message["res"][index as usize]["serials"];
                    let serials = serials.as_array().into_iter().flatten();
                    Ok(serials.filter_map(|serial| serial.as_str().map(str::to_owned)).collect())
                }
                _ => Err(message["error"]["code"].as_u64().unwrap_or_default()),
            };
            scene.report.refused += u64::from(outcome.is_err());
            match pending.publish {
                Some(publish) => {
                    let can =
                        permits(self.grant, scene.oracle.publishes[publish].channel(), "publish");
                    if outcome.is_ok() && !can && self.next_grant.is_none() && !self.by_token {
                        let text = format!("client {} may not publish: {message}", self.number);
                        scene.oracle.find("authorisation", text);
                    }
                    scene.oracle.told(publish, outcome, self.connection_id.as_deref());
                }
                None => {
                    let name = pending.frame["channel"].as_str().unwrap_or_default();
                    let is_leave = pending.frame["presence"][0]["action"] == 3;
                    if let Some(id) = self.connection_id.clone().filter(|_| is_leave) {
                        let member = (name.to_owned(), id);
                        let until = self.lingers.get(&member).copied().unwrap_or_default();
                        match outcome {
                            // It may have entered again behind this LEAVE.
                            Ok(_) if until > pending.msg_serial => None,
                            Ok(_) => self.lingers.remove(&member),
                            Err(_) => {
                                self.lingers.insert(member, until.max(pending.msg_serial + 1))
                            }
                        };
                    }
                    if let Some(channel) = self.channels.get_mut(name)
                        && let Some(entered) = &mut channel.entered
                    {
                        let is_last = entered.pending == Some(pending.msg_serial);
                        entered.pending = entered.pending.filter(|_| !is_last);
                        match outcome {
                            Ok(_) if is_leave => {}
                            Ok(_) => {
                                entered.was_acked = true;
                            }
                            Err(_) if entered.was_acked => entered.is_uncertain = true,
                            Err(_) if is_last => channel.entered = None,
                            Err(_) => {}
                        }
                    }
                }
            }
        }
    }

    fn take_for_channel(&mut self, scene: &mut Scene<'_>, message: &Value) {
        let action = message["action"].as_u64().unwrap_or_default();
        let name = message["channel"].as_str().unwrap_or_default().to_owned();
        let Some(channel) = self.channels.get_mut(&name) else {
            let text = format!("client {} has not asked for {message}", self.number);
            return scene.oracle.find("authorisation", text);
        };
        let serial = message["channelSerial"].as_str();
        let now_ms = scene.host.now.mono_ms;
        match action {
            9 => {
                (channel.stand, channel.segment, channel.is_open) = (Stand::Failed, None, false);
                channel.entered = None;
            }
            11 => self.attached(scene, &name, message),
            13 if message["error"].is_null() => {
                // An ERROR may have crossed with DETACH.
                if !matches!(channel.stand, Stand::Detaching | Stand::Failed) {
                    let text = format!("client {} has not asked for {message}", self.number);
                    scene.oracle.find("detach", text);
                }
                self.channels.remove(&name);
            }
            // RTL5: an ATTACH before it is refused for now; the answer to DETACH follows.
            13 if channel.stand == Stand::Detaching => channel.is_open = false,
            13 => {
                // Refused for now, or taken away: it attaches again, from where it was.
                channel.is_open = false;
                channel.stand = Stand::Suspended { until_ms: now_ms + RETRY_MS };
            }
            14..=16 => {
                if !channel.is_open {
                    let text = format!("client {} is not attached: {message}", self.number);
                    return scene.oracle.find("attach", text);
                }
                if action != 16 && serial.is_some() {
                    channel.serial = serial.map(str::to_owned);
                }
                match action {
                    15 => self.take_message(scene, &name, message),
                    _ => self.take_presence(scene, &name, message),
                }
            }
            _ => scene.oracle.find("wire", format!("client {}: {message}", self.number)),
        }
    }

    fn attached(&mut self, scene: &mut Scene<'_>, name: &str, message: &Value) {
        let (number, echo, id) = (self.number, self.echo, self.connection_id.clone());
        let channel = self.channels.get_mut(name).expect("known to the caller");
        let flags = message["flags"].as_u64().unwrap_or_default();
        let Some(serial) = message["channelSerial"].as_str() else {
            return scene.oracle.find("attach", format!("without channelSerial: {message}"));
        };
        let is_resumed = flags & RESUMED != 0;
        if channel.stand == Stand::Detaching {
            // RTL5k: it crosses with DETACH, whose answer follows.
            return;
        }
        let is_first = !std::mem::replace(&mut channel.is_open, true);
        channel.stand = Stand::Attached;
        channel.modes = flags;
        if channel.base.starts_with("vip:") && self.by_token && self.client_id.is_none() {
            let text = format!("client {number} is anonymous: {message}");
            scene.oracle.find("authorisation", text);
        }
        let may_subscribe = permits(self.grant, &channel.base, "subscribe")
            || self.next_grant.is_some_and(|grant| permits(grant, &channel.base, "subscribe"));
        if flags & SUBSCRIBE != 0 && !may_subscribe {
            let text = format!("client {number} may not subscribe: {message}");
            scene.oracle.find("authorisation", text);
        }
        if flags & SUBSCRIBE == 0 {
            channel.segment = None;
        } else if let Some(segment) = channel.segment.filter(|_| is_resumed) {
            // Nothing is missing behind what the client named.
            if channel.asked.as_deref().is_some_and(|asked| serial < asked) {
                let text = format!("client {number} asked for {:?}: {message}", channel.asked);
                scene.oracle.find("resume", text);
            }
            if !echo && let Some(id) = &id {
                scene.oracle.skip(segment, id);
            }
        } else {
            if is_first && is_resumed && channel.asked.is_none() {
                let text = format!("client {number} has nothing to resume: {message}");
                scene.oracle.find("resume", text);
            }
            let asks = channel.asked.is_some() && !is_resumed;
            if asks && message["error"].is_null() {
                let text = format!("client {number} is not told why: {message}");
                scene.oracle.find("discontinuity", text);
            }
            scene.report.discontinuities += u64::from(asks);
            let rewinds = channel.rewind.is_some() && flags & HAS_BACKLOG != 0;
            let segment = scene.oracle.begin_segment(number, &channel.base, serial, rewinds);
            if !echo && let Some(id) = &id {
                scene.oracle.skip(segment, id);
            }
            channel.segment = Some(segment);
        }
        // RTL15b.
        channel.serial = Some(serial.to_owned());
        channel.members.take(message);
        self.enter_again(scene, name);
    }

    /// RTP17: members enter again on each ATTACHED, under their ids where the connection is the same.
    fn enter_again(&mut self, scene: &mut Scene<'_>, name: &str) {
        let msg_serial = self.msg_serial;
        let channel = self.channels.get_mut(name).expect("known to the caller");
        let Some(entered) = &mut channel.entered else { return };
        // What is sent again is acknowledged as what it was, which may have lapsed since.
        entered.is_uncertain |= entered.pending.is_some();
        if entered.pending.is_none() {
            entered.pending = Some(msg_serial);
            let presence = json!([{"action": 2, "data": entered.data}]);
            let frame = json!({"action": 14, "channel": name, "presence": presence});
            self.submit(scene, None, frame);
        }
    }

    fn take_message(&mut self, scene: &mut Scene<'_>, name: &str, message: &Value) {
        let channel = &self.channels[name];
        let publisher = message["connectionId"].as_str();
        let mut tags = Vec::new();
        for message in message["messages"].as_array().into_iter().flatten() {
            let data = message["data"].as_str().unwrap_or_default();
            tags.push(data.split(' ').next().unwrap_or_default().to_owned());
        }
        let may = |grant| permits(grant, &channel.base, "subscribe");
        if !may(self.grant) && !self.next_grant.is_some_and(may) {
            let text = format!("client {} may not subscribe: {message}", self.number);
            scene.oracle.find("authorisation", text);
        }
        if !self.echo && publisher.is_some() && publisher == self.connection_id.as_deref() {
            let text = format!("client {} wants no echo: {message}", self.number);
            scene.oracle.find("echo", text);
        }
        let Some(serial) = message["channelSerial"].as_str() else {
            return scene.oracle.find("wire", format!("without channelSerial: {message}"));
        };
        let publisher = publisher.map(str::to_owned);
        scene.oracle.show(&channel.base, serial, Event { publisher, tags });
        scene.report.deliveries += 1;
        match channel.segment {
            Some(segment) => scene.oracle.receive(segment, serial),
            // An ATTACHED with other modes has crossed with DETACH.
            None if channel.stand == Stand::Detaching => {}
            None => {
                let text = format!("client {} does not subscribe: {message}", self.number);
                scene.oracle.find("authorisation", text);
            }
        }
    }

    fn take_presence(&mut self, scene: &mut Scene<'_>, name: &str, message: &Value) {
        let channel = self.channels.get_mut(name).expect("known to the caller");
        let own = self.connection_id.as_deref();
        let is_own = |member: &Value| member["connectionId"].as_str() == own;
        let members = message["presence"].as_array();
        let is_own = members.is_some_and(|members| members.iter().all(is_own));
        let may = |grant| permits(grant, &channel.base, "subscribe");
        if !may(self.grant) && !self.next_grant.is_some_and(may) && !is_own {
            let text = format!("client {} may not know who is present: {message}", self.number);
            scene.oracle.find("authorisation", text);
        }
        channel.members.take(message);
        scene.report.deliveries += 1;
    }
}
