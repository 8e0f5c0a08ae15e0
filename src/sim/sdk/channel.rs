//! Channels of a client: attaching, letting go, and what it is sent there.

use serde_json::{Value, json};

use super::delta::{self, Base};
use super::presence::Entered;
use super::{Link, Scene, Sdk};
use crate::sim::credentials::{MUTABLE, permits};
use crate::sim::members::Members;
use crate::sim::oracle::{Action, Event, end_of, publish_of};

/// Status bits of ATTACHED.
const RESUMED: u64 = 4;
const HAS_BACKLOG: u64 = 2;

/// The first bit of the flags that is a mode.
const MODES_FROM: u32 = 16;

/// The mode without which no messages come.
const SUBSCRIBE: u64 = 1 << 18;

/// How long a channel waits that was refused for now.
const RETRY_MS: u64 = 1_000;

/// Of an ATTACHED that says that messages are missing: among those that a rewind brings, if it brings any.
const HISTORY_EXPIRED: u64 = 90003;

/// Of one that another token has brought, and that may have messages missing before it.
const CUT: u64 = 80020;

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
    pub(super) base: String,
    /// Whether ATTACHED has come over the present transport.
    pub(super) is_open: bool,
    /// What the next ATTACH names.
    pub(super) serial: Option<String>,
    /// What the last ATTACH named.
    asked: Option<String>,
    /// What was published before the first was sent that has no answer, as [`Scene::all_came_before_ms`] says.
    pub(super) asked_ms: Option<u64>,
    /// What that said of the ATTACH with which what it is sent over the present transport begins.
    since_ms: Option<u64>,
    /// Messages that its qualifier rewinds.
    rewind: Option<usize>,
    /// Whether that asks for deltas.
    wants_deltas: bool,
    /// What the next delta starts from.
    delta_base: Option<Base>,
    /// Whether the client has lost that, and cannot decode the next delta.
    has_lost_base: bool,
    /// Whether it waits for ATTACHED since it could not decode one (RTL18).
    recovers: bool,
    /// The continuity that goes on.
    pub segment: Option<usize>,
    pub(super) modes: u64,
    /// Who is present.
    pub members: Members,
    /// What it is in the channel itself.
    pub entered: Option<Entered>,
    /// Whether it was a member until it let go of the channel.
    was_entered: bool,
}

/// The name without qualifier, and what that rewinds.
fn parse_name(name: &str) -> (String, Option<usize>) {
    match name.strip_prefix("[?rewind=").and_then(|rest| rest.split_once(']')) {
        Some((count, base)) => (base.to_owned(), count.parse().ok()),
        None => (name.strip_prefix("[?delta=vcdiff]").unwrap_or(name).to_owned(), None),
    }
}

impl Sdk {
    /// Attaches to a channel, or lets go of it.
    pub fn attach(&mut self, scene: &mut Scene<'_>, name: &str) {
        if self.link != Link::Up {
            return;
        }
        let is_new = !self.channels.contains_key(name);
        if is_new {
            let (base, rewind) = parse_name(name);
            let wants_deltas = name.starts_with("[?delta=vcdiff]");
            let channel = Channel {
                stand: Stand::Attaching,
                base,
                is_open: false,
                serial: None,
                asked: None,
                asked_ms: None,
                since_ms: None,
                rewind,
                wants_deltas,
                delta_base: None,
                has_lost_base: false,
                recovers: false,
                segment: None,
                modes: 0,
                members: Members::default(),
                entered: None,
                was_entered: false,
            };
            self.channels.insert(name.to_owned(), channel);
        }
        let Channel { stand, wants_deltas, .. } = self.channels[name];
        // Who asks again for deltas from where it was could not decode one (RTL18).
        let is_asked = wants_deltas && matches!(stand, Stand::Attaching | Stand::Attached);
        let is_asked = is_asked && !is_new;
        if stand != Stand::Failed && stand != Stand::Detaching && !is_asked {
            self.send_attach(scene, name);
        }
    }

    pub(super) fn send_attach(&mut self, scene: &mut Scene<'_>, name: &str) {
        let channel = self.channels.get_mut(name).expect("known to the caller");
        let mut attach = json!({"action": 10, "channel": name});
        if channel.stand != Stand::Attached {
            channel.stand = Stand::Attaching;
        }
        channel.asked = channel.serial.clone();
        channel.asked_ms.get_or_insert(scene.all_came_before_ms());
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
            channel.was_entered = channel.entered.take().is_some();
            if channel.was_entered {
                let base = channel.base.clone();
                self.linger(base);
            }
            self.send(scene, &json!({"action": 12, "channel": name}));
        }
    }

    /// On a new transport all channels are attached anew.
    pub(super) fn attach_again(&mut self, scene: &mut Scene<'_>) {
        for name in self.channels.keys().cloned().collect::<Vec<_>>() {
            match self.channels[&name].stand {
                Stand::Failed => {}
                Stand::Detaching => {
                    // Behind an ATTACH under another name, which came later over the last transport.
                    if self.channels[&name].was_entered {
                        self.linger(self.channels[&name].base.clone());
                    }
                    self.send(scene, &json!({"action": 12, "channel": name}));
                }
                Stand::Attached | Stand::Attaching | Stand::Suspended { .. } => {
                    self.channels.get_mut(&name).expect("listed").stand = Stand::Attaching;
                    self.send_attach(scene, &name);
                }
            }
        }
    }

    pub(super) fn take_for_channel(&mut self, scene: &mut Scene<'_>, message: &Value) {
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
                if channel.recovers && action == 15 {
                    // RTL18b: it is sent again.
                    return;
                }
                let before = channel.serial.clone();
                if action != 16 && serial.is_some() && !channel.recovers {
                    channel.serial = serial.map(str::to_owned);
                }
                if action == 15 && channel.has_lost_base && delta::starts_from_another(message) {
                    channel.serial = before;
                    return self.recover(scene, &name);
                }
                match action {
                    15 => self.take_message(scene, &name, message),
                    _ => self.take_presence(scene, &name, message),
                }
            }
            _ => scene.oracle.find("wire", format!("client {}: {message}", self.number)),
        }
    }

    /// Loses what the next delta starts from.
    pub fn lose_base(&mut self, name: &str) {
        if let Some(channel) = self.channels.get_mut(name)
            && channel.delta_base.take().is_some()
        {
            channel.has_lost_base = true;
        }
    }

    /// RTL18: a delta could not be decoded; it attaches again, from where it was.
    fn recover(&mut self, scene: &mut Scene<'_>, name: &str) {
        let channel = self.channels.get_mut(name).expect("known to the caller");
        (channel.recovers, channel.has_lost_base) = (true, false);
        if channel.stand != Stand::Detaching {
            channel.stand = Stand::Attaching;
            self.send_attach(scene, name);
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
        let has_other_modes = flags >> MODES_FROM != channel.modes >> MODES_FROM;
        let asked_ms = channel.asked_ms.take();
        // Other modes come with a new token or where it has asked again: it was attached before, too, and what
        // was on its way to it still comes. One that it sends meanwhile for its base may cross with that.
        if is_first || channel.recovers && !has_other_modes {
            channel.since_ms = asked_ms;
        }
        let since_ms = channel.since_ms;
        let was_away = is_first || channel.recovers || has_other_modes;
        if is_first || !is_resumed || channel.recovers {
            (channel.delta_base, channel.has_lost_base) = (None, false);
        }
        let recovers = std::mem::take(&mut channel.recovers);
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
            scene.oracle.resume(segment);
            if was_away {
                let until = end_of(scene.host.now.unix_ms);
                scene.oracle.pause(segment, since_ms, until);
            }
            // It comes behind all that it says has been sent; who waits for its base has thrown some of that away.
            if !recovers {
                scene.oracle.place(segment, serial);
            }
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
            if asks && let (Some(segment), Some(asked)) = (channel.segment, &channel.asked) {
                let code = message["error"]["code"].as_u64().unwrap_or_default();
                scene.oracle.refuse_resume(segment, asked, code, scene.host.now.unix_ms);
            }
            scene.report.discontinuities += u64::from(asks);
            let rewinds = channel.rewind.is_some() && flags & HAS_BACKLOG != 0;
            let code = message["error"]["code"].as_u64();
            let is_told = code == Some(HISTORY_EXPIRED);
            let segment =
                scene.oracle.begin_segment(number, &channel.base, serial, rewinds, is_told);
            // A new view of a channel may join it behind what is forgotten.
            let until = match is_resumed || code == Some(CUT) {
                true => end_of(scene.host.now.unix_ms),
                false => serial.to_owned(),
            };
            scene.oracle.pause(segment, since_ms, until);
            if let Some(before) = channel.segment.filter(|_| !is_first) {
                scene.oracle.follow(segment, before);
            }
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
    fn take_message(&mut self, scene: &mut Scene<'_>, name: &str, message: &Value) {
        let channel = self.channels.get_mut(name).expect("known to the caller");
        // Of a change the id alone tells.
        let id = message["id"].as_str().filter(|_| channel.base == MUTABLE);
        let by_id = id.and_then(|id| Some(id.split_once(':')?.0));
        let publisher = message["connectionId"].as_str().or(by_id);
        let (mut tags, mut is_whole) = (Vec::new(), true);
        for message in message["messages"].as_array().into_iter().flatten() {
            let whole = match channel.wants_deltas {
                true => delta::whole(&mut channel.delta_base, message),
                false => Ok((message.clone(), false)),
            };
            match whole {
                Ok((whole, is_delta)) => {
                    channel.has_lost_base = false;
                    tags.push(scene.oracle.read(&channel.base, &whole));
                    scene.report.deltas += u64::from(is_delta);
                }
                Err(why) => {
                    let text = format!("client {} {name}: {why}: {message}", self.number);
                    return scene.oracle.find("delta", text);
                }
            }
            is_whole &= message["action"] != Action::Append.number();
        }
        let channel = &self.channels[name];
        let mut publishes = tags.iter().filter_map(|tag| publish_of(tag));
        if publishes.any(|publish| self.is_revoked_for(scene, publish)) {
            let text = format!("client {} has no token any more: {message}", self.number);
            scene.oracle.find("revoked", text);
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
            Some(segment) => scene.oracle.receive(segment, serial, is_whole),
            // An ATTACHED with other modes has crossed with DETACH.
            None if channel.stand == Stand::Detaching => {}
            None => {
                let text = format!("client {} does not subscribe: {message}", self.number);
                scene.oracle.find("authorisation", text);
            }
        }
    }
}
