//! A client as Ably's SDKs are: it connects, resumes with its connectionKey, attaches again with the
//! channelSerial it has, and sends again, under the same msgSerial, what it has seen no ACK of. What it is
//! told it passes on to the oracle.
//!
//! | file | what |
//! | --- | --- |
//! | `mod.rs` | its connection |
//! | `channel.rs` | what it attaches to, and what it is sent there |
//! | `delta.rs` | how it undoes deltas |
//! | `publish.rs` | what it publishes, and its ACKs |
//! | `presence.rs` | whom it enters as, and who else is there |

mod channel;
mod delta;
mod presence;
mod publish;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde_json::{Value, json};

pub use self::channel::{Channel, Stand};
use self::publish::Pending;
pub use self::publish::change_body;
use super::credentials::{self, permits};
use super::frame;
use super::host::Host;
use super::oracle::Oracle;
use super::repertoire::Repertoire;
use super::report::Report;
use super::revocations::Token;
use super::wire::Wire;

/// How long a client waits for an answer before it gives its transport up (2.12).
const REQUEST_TIMEOUT_MS: u64 = 10_000;

/// The codes of tokens that have ended in one way or the other (2.10).
const TOKEN_REVOKED: u64 = 40141;
const TOKEN_EXPIRED: u64 = 40142;

/// How often the daemon speaks, at least (2.5), in milliseconds.
const IDLE_MS: u64 = 15_000;

/// What everybody in a run shares.
pub struct Scene<'a> {
    /// The daemon.
    pub host: &'a mut Host,
    /// The judge.
    pub oracle: &'a mut Oracle,
    /// What is counted.
    pub report: &'a mut Report,
    /// What clients can do, and the chance of that.
    pub repertoire: &'a mut Repertoire,
}

impl Scene<'_> {
    /// What was published before that time, by the clock, has reached every shard, and does not come to a
    /// client as something new that asks for it now; 0: nobody can say that just now.
    pub fn all_came_before_ms(&self) -> u64 {
        if self.host.is_mail_at_rest() { self.host.now.unix_ms } else { 0 }
    }

    /// The transport of somebody, by number, is lost on the way or let go of.
    pub fn end_transport(&mut self, number: usize, socket: usize, is_cut: bool) {
        self.report.trace(|| format!("{number} loses its transport"));
        self.report.drops += 1;
        match is_cut {
            true => self.host.cut(socket),
            false => self.host.hang_up(socket),
        }
        self.host.stalled.retain(|&client| client != socket);
    }
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

#[derive(Debug)]
pub struct Sdk {
    number: usize,
    /// What its credential permits.
    pub grant: usize,
    /// What it permits once the AUTH under way is accepted.
    next_grant: Option<usize>,
    /// The token that it has.
    token: Option<Token>,
    /// That of the AUTH under way.
    next_token: Option<Token>,
    /// Whether its token was known to be revoked when this transport was opened.
    is_revoked: bool,
    by_token: bool,
    /// Whom it says it is.
    pub client_id: Option<&'static str>,
    echo: bool,
    wire: Wire,
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

impl Sdk {
    /// A client that has not connected yet.
    pub fn new(
        number: usize,
        grant: usize,
        by_token: bool,
        client_id: Option<&'static str>,
        echo: bool,
        wire: Wire,
    ) -> Sdk {
        Sdk {
            number,
            grant,
            next_grant: None,
            token: None,
            next_token: None,
            is_revoked: false,
            by_token,
            client_id,
            echo,
            wire,
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

    /// The token that its transport was opened with, or has been sent since.
    pub fn live_token(&self) -> Option<&Token> {
        self.token.as_ref().filter(|_| self.link == Link::Up && self.next_token.is_none())
    }

    /// Whether this publish began when the token was good for nothing any more.
    fn is_revoked_for(&self, scene: &Scene<'_>, publish: usize) -> bool {
        self.live_token().is_some_and(|token| scene.oracle.is_revoked(token, publish))
    }

    fn new_token(&self, scene: &mut Scene<'_>, grant: usize) -> Token {
        // Those that can be revoked last an hour at most, counted from the second they were made in.
        let ttl = if self.is_calm { 3500 } else { *scene.host.random.one_of(&[3, 10, 40, 600]) };
        let (client_id, now_ms) = (self.client_id, scene.host.now.unix_ms);
        let is_revocable = scene.repertoire.has_revocations;
        credentials::token(grant, client_id, now_ms, Duration::from_secs(ttl), is_revocable)
    }

    /// The token that it has, if that may be good still, or another.
    fn some_token(&mut self, scene: &mut Scene<'_>) -> &Token {
        let has_more = scene.repertoire.has_revocations;
        let keeps = has_more && scene.repertoire.random.chance(2);
        let now_ms = scene.host.now.unix_ms;
        let kept = self.token.take().filter(|token| {
            let is_good = !self.is_calm && token.expires_ms > now_ms + 1000;
            keeps && is_good && token.grant == self.grant
        });
        let token = kept.unwrap_or_else(|| self.new_token(scene, self.grant));
        self.token.insert(token)
    }

    /// Opens a transport to `shard`.
    pub fn connect(&mut self, scene: &mut Scene<'_>, shard: usize) {
        let mut query = match self.by_token {
            true => format!("accessToken={}", self.some_token(scene).text),
            false => format!("key={}", credentials::key(self.grant)),
        };
        if let Some(client_id) = self.client_id.filter(|_| !self.by_token) {
            query += &format!("&clientId={client_id}");
        }
        if !self.echo {
            query += "&echo=false";
        }
        if self.wire == Wire::MsgPack {
            query += "&format=msgpack";
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
        (self.next_grant, self.next_token) = (None, None);
        let unix_ms = scene.host.now.unix_ms;
        let since = |token| scene.oracle.revocations.since(token, unix_ms);
        self.is_revoked = self.token.as_ref().and_then(since).is_some();
        let now_ms = scene.host.now.mono_ms;
        (self.heard_ms, self.began_ms) = (now_ms, now_ms);
        for channel in self.channels.values_mut() {
            (channel.is_open, channel.asked_ms) = (false, None);
        }
        scene.report.transports += 1;
    }

    fn send(&self, scene: &mut Scene<'_>, message: &Value) {
        let sent = frame::masked(self.wire.opcode(), &self.wire.encode(message));
        scene.host.post(self.socket, &sent);
        scene.report.trace(|| format!("{} > {message}", self.number));
    }

    /// Loses its transport without a word, or lets go of it.
    pub fn lose(&mut self, scene: &mut Scene<'_>, is_cut: bool) {
        if self.socket().is_none() {
            return;
        }
        scene.end_transport(self.number, self.socket, is_cut);
        self.wait(scene);
    }

    fn wait(&mut self, scene: &mut Scene<'_>) {
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

    /// Sends another token, with what another grant permits.
    pub fn authenticate(&mut self, scene: &mut Scene<'_>, grant: usize) {
        if self.link == Link::Up && self.by_token && self.next_grant.is_none() {
            let token = self.new_token(scene, grant);
            self.next_grant = Some(grant);
            self.send(scene, &json!({"action": 17, "auth": {"accessToken": token.text}}));
            self.next_token = Some(token);
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
                opcode if opcode == self.wire.opcode() => match self.wire.decode(payload) {
                    Ok(message) => {
                        scene.report.hash(payload);
                        scene.report.trace(|| format!("{} < {message}", self.number));
                        self.take(scene, &message);
                    }
                    Err(error) => scene.oracle.find("wire", error),
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
            Some(6) => self.disconnected(scene, message),
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

    /// The daemon lets go of the transport, and says why.
    fn disconnected(&mut self, scene: &mut Scene<'_>, message: &Value) {
        let code = message["error"]["code"].as_u64();
        let now_ms = scene.host.now.unix_ms;
        let mut tokens = self.token.iter().chain(&self.next_token);
        let may_be_revoked = tokens.any(|it| scene.oracle.revocations.may_concern(it, now_ms));
        if code == Some(TOKEN_REVOKED) && !may_be_revoked {
            let text = format!("client {} has a good token: {message}", self.number);
            scene.oracle.find("revoked", text);
        }
        let is_said = matches!(code, Some(TOKEN_REVOKED | TOKEN_EXPIRED));
        if self.link == Link::Opening && self.is_revoked && !is_said {
            let text = format!("client {} is not told: {message}", self.number);
            scene.oracle.find("revoked", text);
        }
        if matches!(code, Some(40140..40150)) {
            self.token = None;
        }
        scene.report.revoked += u64::from(code == Some(TOKEN_REVOKED));
        self.lose(scene, false);
    }

    fn connected(&mut self, scene: &mut Scene<'_>, message: &Value) {
        let id = message["connectionId"].as_str().unwrap_or_default().to_owned();
        let key = message["connectionDetails"]["connectionKey"].as_str().map(str::to_owned);
        let has_error = !message["error"].is_null();
        if self.link == Link::Up {
            // The answer to AUTH.
            self.grant = self.next_grant.take().unwrap_or(self.grant);
            self.token = self.next_token.take().or(self.token.take());
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
        if self.is_revoked {
            let text = format!("client {} gets in: {message}", self.number);
            scene.oracle.find("revoked", text);
        }
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
}
