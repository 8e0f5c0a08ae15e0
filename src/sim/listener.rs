//! A client that listens over HTTP, as EventSource does: it is sent events of some channels and where it is
//! there, and when its transport is gone it asks for another from the last id that it was told.
//!
//! On a stream of one channel each publication has an id. A stream of several is told its position apart from
//! the events, and that it has been sent everything up to there; what has come behind it comes again.

mod reader;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;

use self::reader::{Item, Reader};
use super::credentials::{self, MUTABLE, permits};
use super::oracle::{Event, SOMEBODY, channel_serial, end_of, publish_of};
use super::revocations::Token;
use super::sdk::{Link, Scene};

/// How often the daemon speaks, at least, and how late that may come, in milliseconds.
const SILENCE_MS: u64 = 25_000;

/// Codes for who may not listen, and is not to ask again.
const DENIED: std::ops::Range<u64> = 40160..40170;

/// Codes of credentials that are no good any more, or not just now.
const UNAUTHORISED: std::ops::Range<u64> = 40100..40160;

/// The code of those among them whose token was revoked.
const REVOKED: u64 = 40141;

/// See the module text.
#[derive(Debug)]
pub struct Listener {
    /// By what findings call it.
    number: usize,
    grant: usize,
    by_token: bool,
    client_id: Option<&'static str>,
    token: Option<Token>,
    channels: Vec<&'static str>,
    rewinds: bool,
    /// Whether events are lines of JSON.
    has_lines: bool,
    /// Whether its tokens last.
    pub is_calm: bool,
    /// Where it stands.
    pub link: Link,
    socket: usize,
    reader: Reader,
    heard_ms: u64,
    /// What was published before it has asked for the present transport, as [`Scene::all_came_before_ms`] says.
    asked_ms: u64,
    /// The last id that it was told.
    last_id: Option<String>,
    /// What it asked for with the present transport.
    asked: Option<String>,
    /// An error that is the end of the stream, or says that something is missing: what follows tells.
    error: Option<u64>,
    /// Whether anything has come over the present transport that tells where it is.
    pub is_placed: bool,
    /// By channel: the continuity that goes on.
    segments: BTreeMap<&'static str, usize>,
}

impl Listener {
    /// A listener to some channels, not there yet.
    pub fn new(number: usize, scene: &mut Scene<'_>, bases: &[&'static str]) -> Listener {
        let random = &mut scene.repertoire.random;
        let mut channels: BTreeSet<&'static str> = BTreeSet::from([*random.one_of(bases)]);
        if random.chance(2) {
            channels.insert(bases[random.below(bases.len())]);
            channels.insert(bases[random.below(bases.len())]);
        }
        let grant = if random.chance(2) { 0 } else { random.below(credentials::GRANTS_COUNT) };
        // A rewind shows messages that change as they are by then, at the places of their changes.
        let rewinds = random.chance(4) && !channels.contains(MUTABLE);
        Listener {
            number,
            grant,
            by_token: random.chance(2),
            client_id: *random.one_of(&[Some("ann"), Some("bob"), None]),
            token: None,
            channels: channels.into_iter().collect(),
            rewinds,
            has_lines: random.chance(4),
            is_calm: false,
            link: Link::Down { until_ms: 0 },
            socket: usize::MAX,
            reader: Reader::default(),
            heard_ms: 0,
            asked_ms: 0,
            last_id: None,
            asked: None,
            error: None,
            is_placed: false,
            segments: BTreeMap::new(),
        }
    }

    /// Its socket, if it has one.
    pub fn socket(&self) -> Option<usize> {
        (self.link == Link::Up).then_some(self.socket)
    }

    /// Whether it waits for nothing.
    pub fn is_settled(&self) -> bool {
        self.link == Link::Ended || self.link == Link::Up && self.is_placed
    }

    /// Its continuities.
    pub fn segments(&self) -> impl Iterator<Item = usize> {
        self.segments.values().copied().filter(|_| self.link == Link::Up)
    }

    /// The token that it has, if that may be good still, or another.
    fn some_token(&mut self, scene: &mut Scene<'_>) -> &Token {
        let now_ms = scene.host.now.unix_ms;
        let is_good = |token: &Token| token.expires_ms > now_ms + 1000;
        let kept = self.token.take().filter(|token| !self.is_calm && is_good(token));
        let token = kept.unwrap_or_else(|| {
            let repertoire = &mut *scene.repertoire;
            // Those that can be revoked last an hour at most.
            let ttl = if self.is_calm { 3500 } else { *repertoire.random.one_of(&[3, 40, 600]) };
            let (grant, ttl) = (self.grant, Duration::from_secs(ttl));
            credentials::token(grant, self.client_id, now_ms, ttl, repertoire.has_revocations)
        });
        self.token.insert(token)
    }

    /// Asks `shard` for a stream.
    pub fn connect(&mut self, scene: &mut Scene<'_>, shard: usize) {
        let credential = match self.by_token {
            true => format!("accessToken={}", self.some_token(scene).text),
            false => format!("key={}", credentials::key(self.grant)),
        };
        let mut path = if self.has_lines { "/event-stream" } else { "/sse" }.to_owned();
        path += &format!("?v=3&{credential}&channels={}", self.channels.join(","));
        if self.rewinds {
            path += "&rewind=3";
        }
        let last = self.last_id.as_ref().map(|id| format!("Last-Event-ID: {id}\r\n"));
        let last = last.unwrap_or_default();
        let request = format!("GET {path} HTTP/1.1\r\nHost: h\r\n{last}\r\n");
        self.socket = scene.host.accept(shard);
        scene.host.post(self.socket, request.as_bytes());
        scene.report.trace(|| format!("{} listens to {:?}: {last:?}", self.number, self.channels));
        scene.report.transports += 1;
        self.link = Link::Up;
        (self.error, self.is_placed) = (None, false);
        (self.reader, self.asked) = (Reader::new(self.has_lines), self.last_id.clone());
        self.heard_ms = scene.host.now.mono_ms;
        self.asked_ms = scene.all_came_before_ms();
        if self.channels.len() > 1 {
            // What has come behind the position comes again.
            self.segments.clear();
        }
    }

    /// Loses its transport, or lets go of it.
    pub fn lose(&mut self, scene: &mut Scene<'_>, is_cut: bool) {
        if self.link != Link::Up {
            return;
        }
        scene.end_transport(self.number, self.socket, is_cut);
        let pause_ms = *scene.repertoire.random.one_of(&[0, 0, 5, 900, 20_000]);
        self.link = Link::Down { until_ms: scene.host.now.mono_ms + pause_ms };
    }

    /// Reads what has come.
    pub fn advance(&mut self, scene: &mut Scene<'_>) {
        if self.link != Link::Up {
            return;
        }
        let received = std::mem::take(&mut scene.host.clients[self.socket].received);
        if !received.is_empty() {
            self.heard_ms = scene.host.now.mono_ms;
            scene.report.hash(&received);
        }
        match self.reader.read(&received) {
            Ok(items) => {
                for item in items {
                    scene.report.trace(|| format!("{} hears {item:?}", self.number));
                    self.take(scene, item);
                }
            }
            Err(why) => {
                let text = format!("listener {}: {why}", self.number);
                scene.oracle.find("wire", text);
            }
        }
        if self.link != Link::Up {
            return;
        }
        let is_stalled = scene.host.stalled.contains(&self.socket);
        let is_silent = scene.host.now.mono_ms > self.heard_ms + SILENCE_MS;
        if !scene.host.clients[self.socket].is_open() || is_silent && !is_stalled {
            self.lose(scene, false);
        }
    }

    fn take(&mut self, scene: &mut Scene<'_>, item: Item) {
        match item {
            Item::Head => {
                if !self.may_listen() {
                    let text = format!("listener {} may not listen", self.number);
                    scene.oracle.find("authorisation", text);
                }
                scene.report.connects += 1;
            }
            Item::Refusal(code) => self.refused(scene, code),
            Item::Error(code) => {
                self.error = Some(code);
                scene.report.revoked += u64::from(code == REVOKED);
            }
            Item::End => {
                if self.error.take().is_some_and(|code| UNAUTHORISED.contains(&code)) {
                    self.token = None;
                }
                self.lose(scene, false);
            }
            Item::Silence => {}
            Item::Position(id) => self.take_position(scene, id),
            Item::Messages(messages, id) => self.take_messages(scene, &messages, id),
            Item::Presence(id) => self.last_id = id.or(self.last_id.take()),
        }
    }

    /// There is to be no stream.
    fn refused(&mut self, scene: &mut Scene<'_>, code: u64) {
        if UNAUTHORISED.contains(&code) {
            self.token = None;
        }
        self.lose(scene, false);
        if DENIED.contains(&code) {
            self.link = Link::Ended;
            if self.may_listen() {
                let text = format!("listener {} may listen, and is told {code}", self.number);
                scene.oracle.find("authorisation", text);
            }
        }
    }

    fn may_listen(&self) -> bool {
        let is_anonymous = self.by_token && self.client_id.is_none();
        let may = |channel: &&str| {
            permits(self.grant, channel, "subscribe")
                && !(is_anonymous && channel.starts_with("vip:"))
        };
        self.channels.iter().all(may)
    }

    /// What comes now says whether it goes on where it was.
    fn settle_place(&mut self, scene: &mut Scene<'_>) {
        let is_first = !std::mem::replace(&mut self.is_placed, true);
        let now_ms = scene.host.now.unix_ms;
        match self.error.take() {
            None if !is_first => {}
            None => {
                for segment in self.segments.values() {
                    scene.oracle.resume(*segment);
                    let until = end_of(now_ms);
                    scene.oracle.pause(*segment, Some(self.asked_ms), until);
                }
            }
            Some(code) => {
                if let ([channel], Some(asked)) = (&self.channels[..], &self.asked)
                    && let Some(segment) = self.segments.get(channel)
                {
                    scene.oracle.refuse_resume(*segment, asked, code, now_ms);
                }
                scene.report.discontinuities += 1;
                self.segments.clear();
                self.asked = None;
            }
        }
    }

    /// It is told where it is: it has been sent everything up to there.
    fn take_position(&mut self, scene: &mut Scene<'_>, id: String) {
        self.settle_place(scene);
        let places = self.places(&id);
        if places.len() != self.channels.len() {
            let text = format!("listener {} of {:?} is at {id}", self.number, self.channels);
            scene.oracle.find("wire", text);
        }
        for (channel, serial) in places {
            match self.segments.get(channel) {
                Some(segment) => scene.oracle.place(*segment, &serial),
                None => {
                    let segment =
                        scene.oracle.begin_segment(self.number, channel, &serial, false, false);
                    self.segments.insert(channel, segment);
                }
            }
        }
        self.last_id = Some(id);
    }

    /// The channelSerial of each channel in an id.
    fn places(&self, id: &str) -> Vec<(&'static str, String)> {
        if let [channel] = self.channels[..] {
            return vec![(channel, id.to_owned())];
        }
        let place = |part: &str| {
            let (name, serial) = part.split_once('=')?;
            let plain = |text: &str| text.replace("%3A", ":").replace("%40", "@");
            let name = plain(name);
            let channel = self.channels.iter().find(|channel| **channel == name)?;
            Some((*channel, plain(serial)))
        };
        id.split('&').filter_map(place).collect()
    }

    fn take_messages(&mut self, scene: &mut Scene<'_>, messages: &[Value], id: Option<String>) {
        self.settle_place(scene);
        let name = messages[0]["channel"].as_str().unwrap_or_default();
        let Some(&channel) = self.channels.iter().find(|channel| **channel == name) else {
            let text = format!("listener {} has not asked for {messages:?}", self.number);
            return scene.oracle.find("authorisation", text);
        };
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let serial = text(&messages[0]["version"]["serial"]).or(text(&messages[0]["serial"]));
        let serial = serial.unwrap_or_default();
        let serial = channel_serial(&serial);
        if self.channels.len() == 1 && id.as_deref() != Some(serial) {
            let text = format!("listener {} is told {id:?} with {messages:?}", self.number);
            scene.oracle.find("wire", text);
        }
        let publisher = match messages[0]["action"].as_u64() {
            Some(1..) => Some(SOMEBODY.to_owned()),
            _ => text(&messages[0]["connectionId"]),
        };
        let is_whole = messages.iter().all(|message| message["action"] != 5);
        let tags: Vec<String> =
            messages.iter().map(|message| scene.oracle.read(channel, message)).collect();
        let is_revoked = |publish| {
            self.token.as_ref().is_some_and(|token| scene.oracle.is_revoked(token, publish))
        };
        if tags.iter().filter_map(|tag| publish_of(tag)).any(is_revoked) {
            let text = format!("listener {} has no token any more: {messages:?}", self.number);
            scene.oracle.find("revoked", text);
        }
        scene.oracle.show(channel, serial, Event { publisher, tags });
        scene.report.deliveries += 1;
        let segment = match self.segments.get(channel) {
            Some(segment) => *segment,
            None => {
                let start = self.asked.as_deref().map(|id| self.places(id)).unwrap_or_default();
                let start = start.into_iter().find(|(of, _)| *of == channel);
                // Without a place it begins with what a rewind brings, or with the first that comes; an error that
                // says that some of a rewind is missing does not say of which channel.
                let (is_rewound, now_ms) = (start.is_none(), scene.host.now.unix_ms);
                let start = match start {
                    Some((_, start)) => start,
                    None => end_of(now_ms),
                };
                let segment = scene.oracle.begin_segment(
                    self.number,
                    channel,
                    &start,
                    is_rewound,
                    is_rewound,
                );
                let until = if is_rewound { start } else { end_of(now_ms) };
                scene.oracle.pause(segment, Some(self.asked_ms), until);
                *self.segments.entry(channel).or_insert(segment)
            }
        };
        scene.oracle.receive(segment, serial, is_whole);
        self.last_id = id.or(self.last_id.take());
    }
}
