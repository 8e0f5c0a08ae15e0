//! Rules: which events of which channels go to an HTTP endpoint, and what is sent there (15).
//!
//! An event is encoded once for its rule, on the channel's home; whoever delivers it copies bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use regex::Regex;

use super::extras::extras_entry;
use super::json::JsonValue;
use super::message::write_messages;
use super::presence::write_presences;
use super::value::{Node, Value};
use super::writer::{MapWriter, write_map};
use super::{
    Category, Data, ErrorCode, ErrorInfo, Format, Gate, Message, Metrics, PresenceAction,
    PresenceEvents, PresenceMessage, Publication,
};

/// Bytes of a channel filter.
pub const RULE_FILTER_BYTES_MAX: usize = 1024;

/// Bytes that a compiled filter may take.
const COMPILED_BYTES_MAX: usize = 1 << 20;

/// What envelopes name as the place where an event happened.
pub(super) const SITE: &str = "ringcast";

/// Bytes of an envelope beyond its messages, about; saves growing the body.
pub(super) const ENVELOPE_BYTES: usize = 512;

/// What a rule is about (15.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleSource {
    /// Publishes.
    Message,
    /// Members that enter, change and leave.
    Presence,
    /// Channels that become active or inactive.
    Lifecycle,
    /// How many are attached and present.
    Occupancy,
}

impl RuleSource {
    /// Each with its name in configuration and envelopes.
    pub const NAMES: [(&str, RuleSource); 4] = [
        ("channel.message", RuleSource::Message),
        ("channel.presence", RuleSource::Presence),
        ("channel.lifecycle", RuleSource::Lifecycle),
        ("channel.occupancy", RuleSource::Occupancy),
    ];

    pub(super) fn name(self) -> &'static str {
        let (name, _) = RuleSource::NAMES[self as usize];
        name
    }
}

/// What a request carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestShape {
    /// One event in an envelope (15.3).
    Enveloped,
    /// The data of one message (15.5).
    Bare,
    /// Many events (15.4).
    Batch,
}

/// What happens to events that a rule's spool has no room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    /// The oldest make room, and are counted.
    DropOldest,
    /// What would cause another is refused with 70003.
    Refuse,
}

/// Which channels a rule is for: a search in the whole name, in time linear in its length (15.1).
#[derive(Clone, Debug)]
pub struct ChannelFilter(Regex);

impl PartialEq for ChannelFilter {
    fn eq(&self, other: &ChannelFilter) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl ChannelFilter {
    /// Compiles `text`; an empty one is for all channels.
    ///
    /// # Errors
    /// 40035: it is no regular expression, or wants what cannot be searched for in linear time.
    pub fn compile(text: &str) -> Result<ChannelFilter, ErrorInfo> {
        let refuse = |why: String| Err(ErrorInfo::new(ErrorCode::INVALID_CHANNEL_FILTER, why));
        if text.len() > RULE_FILTER_BYTES_MAX {
            return refuse(format!("the filter is longer than {RULE_FILTER_BYTES_MAX} bytes"));
        }
        match regex::RegexBuilder::new(text).size_limit(COMPILED_BYTES_MAX).build() {
            Ok(regex) => Ok(ChannelFilter(regex)),
            // The last line says what is wrong, those before it draw an arrow.
            Err(error) => refuse(error.to_string().lines().last().unwrap_or_default().to_owned()),
        }
    }

    /// The text that it was compiled from.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// Whether the channel `name` is one of them.
    pub fn matches(&self, name: &str) -> bool {
        self.0.is_match(name)
    }
}

/// How much of a rule is under way; shared by the cores that add to it and the helper that takes away.
#[derive(Debug, Default)]
struct Load {
    bytes: AtomicU64,
    dropped: AtomicU64,
}

/// One rule, as far as cores have to know it.
#[derive(Debug)]
pub struct Rule {
    /// Unique; what envelopes and `skipRule` call it.
    pub id: Box<str>,
    /// The app whose channels it is for.
    pub app_id: Box<str>,
    /// What it is about.
    pub source: RuleSource,
    /// Which channels.
    pub filter: ChannelFilter,
    /// What a request carries.
    pub shape: RequestShape,
    /// How events are encoded, unless they are sent bare.
    pub format: Format,
    /// What happens to events beyond `bytes_max`.
    pub when_full: WhenFull,
    /// Bytes of events that may wait for their delivery.
    pub bytes_max: u64,
    /// Whether and how it is asked before a publish, instead of being told of it.
    pub gate: Option<Gate>,
    load: Arc<Load>,
}

impl Rule {
    /// A rule with nothing under way.
    #[expect(clippy::too_many_arguments, reason = "each is a field of its own")]
    pub fn new(
        id: &str,
        app_id: &str,
        source: RuleSource,
        filter: ChannelFilter,
        shape: RequestShape,
        format: Format,
        when_full: WhenFull,
        bytes_max: u64,
    ) -> Rule {
        let (id, app_id) = (id.into(), app_id.into());
        let (gate, load) = (None, Arc::default());
        Rule { id, app_id, source, filter, shape, format, when_full, bytes_max, gate, load }
    }

    /// The same rule, asked before a publish.
    #[must_use]
    pub fn with_gate(self, gate: Gate) -> Rule {
        Rule { gate: Some(gate), ..self }
    }

    /// Whether the channel `name` of the app is one of its own.
    fn is_for(&self, app_id: &str, name: &str) -> bool {
        *self.app_id == *app_id && self.filter.matches(name)
    }

    /// Whether it is told of `source`.
    pub fn is_told_of(&self, source: RuleSource) -> bool {
        self.source == source && self.gate.is_none()
    }

    /// Has the rule go on where `before` ends, which it takes the place of: what waits of that counts here.
    pub fn continue_from(&mut self, before: &Rule) {
        self.load = Arc::clone(&before.load);
    }

    /// The same rule for an event that was encoded when it had another shape or format.
    #[must_use]
    pub fn encoded_as(&self, shape: RequestShape, format: Format) -> Rule {
        Rule {
            id: self.id.clone(),
            app_id: self.app_id.clone(),
            source: self.source,
            filter: self.filter.clone(),
            shape,
            format,
            when_full: self.when_full,
            bytes_max: self.bytes_max,
            gate: self.gate,
            load: Arc::clone(&self.load),
        }
    }

    /// Bytes of its events that wait or are under way.
    pub fn waiting_bytes(&self) -> u64 {
        self.load.bytes.load(Ordering::Relaxed)
    }

    /// Events that were dropped since the start for want of room.
    pub fn dropped(&self) -> u64 {
        self.load.dropped.load(Ordering::Relaxed)
    }

    /// Whether as much waits as may wait.
    pub fn is_full(&self) -> bool {
        self.waiting_bytes() >= self.bytes_max
    }

    /// Notes that an event was dropped; returns how many were.
    pub fn count_dropped(&self) -> u64 {
        self.load.dropped.fetch_add(1, Ordering::Relaxed) + 1
    }
}

/// All rules, as one snapshot.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    all: Arc<[Arc<Rule>]>,
    /// Bits by source: whether any is told of it.
    told: u8,
    has_gates: bool,
}

impl Rules {
    /// These rules; their ids are distinct.
    pub fn new(rules: impl IntoIterator<Item = Arc<Rule>>) -> Rules {
        let all: Arc<[Arc<Rule>]> = rules.into_iter().collect();
        let told = |(_, source): (_, RuleSource)| {
            u8::from(all.iter().any(|rule| rule.is_told_of(source))) << source as u8
        };
        let told = RuleSource::NAMES.map(told).iter().fold(0, |all, bit| all | bit);
        let has_gates = all.iter().any(|rule| rule.gate.is_some());
        Rules { all, told, has_gates }
    }

    /// Those that are for the channel `name` of the app.
    pub fn of_channel(&self, app_id: &str, name: &str) -> Box<[Arc<Rule>]> {
        let is_for = |rule: &&Arc<Rule>| rule.is_for(app_id, name);
        self.all.iter().filter(is_for).cloned().collect()
    }

    /// Whether both are one snapshot.
    pub fn is_same(&self, other: &Rules) -> bool {
        Arc::ptr_eq(&self.all, &other.all)
    }

    /// Whether there are none about `source`.
    pub fn are_without(&self, source: RuleSource) -> bool {
        self.told & (1 << source as u8) == 0
    }

    /// Whether any is asked before a publish.
    pub fn have_gates(&self) -> bool {
        self.has_gates
    }

    /// The rule called `id`, if it is asked before a publish to the channel `name` of the app.
    pub fn gate(&self, id: &str, app_id: &str, name: &str) -> Option<&Arc<Rule>> {
        let is_it = |rule: &&Arc<Rule>| *rule.id == *id && rule.gate.is_some();
        self.all.iter().find(is_it).filter(|rule| rule.is_for(app_id, name))
    }
}

/// What the body of an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContentType {
    /// JSON.
    Json,
    /// MessagePack.
    MsgPack,
    /// A string.
    Text,
    /// Bytes.
    Bytes,
}

impl ContentType {
    /// By its number on disk.
    pub const ALL: [ContentType; 4] =
        [ContentType::Json, ContentType::MsgPack, ContentType::Text, ContentType::Bytes];

    /// The value of the header.
    pub fn name(self) -> &'static str {
        match self {
            ContentType::Json => "application/json",
            ContentType::MsgPack => "application/x-msgpack",
            ContentType::Text => "text/plain; charset=utf-8",
            ContentType::Bytes => "application/octet-stream",
        }
    }

    fn of(format: Format) -> ContentType {
        match format {
            Format::Json => ContentType::Json,
            Format::MsgPack => ContentType::MsgPack,
        }
    }
}

/// One event on its way to an endpoint. It counts in its rule's load for as long as it lives.
#[derive(Debug)]
pub struct RuleEvent {
    rule: Arc<Rule>,
    /// The channel's name; events of one channel keep their order.
    pub channel: Box<str>,
    /// When it happened, in milliseconds since the Unix epoch.
    pub timestamp_ms: u64,
    /// What the body is.
    pub content_type: ContentType,
    /// The whole body of a request, or one item of a batch.
    pub body: Bytes,
    /// Headers that say what a bare body does not.
    pub headers: Vec<(Box<str>, Box<str>)>,
    /// Whether it is a publish that no connection has made.
    pub is_rest: bool,
}

impl RuleEvent {
    /// An event of `rule`, which counts from now on.
    pub fn new(
        rule: Arc<Rule>,
        channel: &str,
        timestamp_ms: u64,
        content_type: ContentType,
        body: Bytes,
        headers: Vec<(Box<str>, Box<str>)>,
    ) -> RuleEvent {
        let channel = channel.into();
        let event =
            RuleEvent { rule, channel, timestamp_ms, content_type, body, headers, is_rest: false };
        event.rule.load.bytes.fetch_add(event.size_bytes(), Ordering::Relaxed);
        event
    }

    /// The rule that it is for.
    pub fn rule(&self) -> &Arc<Rule> {
        &self.rule
    }

    /// Bytes that it takes in memory, about. It does not change while the event lives.
    pub fn size_bytes(&self) -> u64 {
        let headers = self.headers.iter().map(|(name, value)| 32 + name.len() + value.len());
        let text = self.channel.len() + self.body.len() + headers.sum::<usize>();
        (size_of::<RuleEvent>() + text) as u64
    }
}

impl Drop for RuleEvent {
    fn drop(&mut self) {
        self.rule.load.bytes.fetch_sub(self.size_bytes(), Ordering::Relaxed);
    }
}

/// What `rule` is sent of a publication: one event, or one for each message of it where bodies are bare;
/// none if all its messages skip the rule.
pub fn message_events(
    rule: &Arc<Rule>,
    channel: &str,
    publication: &Publication,
    mut emit: impl FnMut(RuleEvent),
) {
    let is_rest = publication.connection_id.is_none();
    let mut emit = |mut event: RuleEvent| {
        event.is_rest = is_rest;
        emit(event);
    };
    let wanted = |index: &usize| !skips(&publication.messages[*index], &rule.id);
    let wanted: Vec<usize> = (0..publication.messages.len()).filter(wanted).collect();
    if rule.shape == RequestShape::Bare {
        for index in wanted {
            let message = &publication.messages[index];
            let mut headers = Headers::new(rule, channel);
            headers.add("x-ably-message-id", message.id.as_deref());
            headers.add("x-ably-message-timestamp", Some(&publication.timestamp_ms.to_string()));
            headers.add("x-ably-message-connection-id", publication.connection_id.as_deref());
            headers.add("x-ably-message-client-id", message.client_id.as_deref());
            headers.add("x-ably-message-name", message.name.as_deref());
            let payload = (&message.data, message.encoding.as_deref());
            emit(bare(rule, channel, publication.timestamp_ms, payload, headers));
        }
    } else if !wanted.is_empty() {
        let head = Head {
            channel,
            serial: Some(publication.channel_serial.to_string()),
            timestamp_ms: publication.timestamp_ms,
            batch_name: "channel.message",
        };
        emit(enveloped(rule, &head, publication.size_bytes(), |map, format| {
            map.append("messages", |out| {
                let messages = wanted.iter().map(|&index| (publication, index));
                write_messages(format, messages, out);
            });
        }));
    }
}

/// The same of presence events.
pub fn presence_events(
    rule: &Arc<Rule>,
    channel: &str,
    events: &PresenceEvents,
    mut emit: impl FnMut(RuleEvent),
) {
    if rule.shape == RequestShape::Bare {
        for message in &events.messages {
            let mut headers = Headers::new(rule, channel);
            headers.add("x-ably-message-id", message.id.as_deref());
            headers.add("x-ably-message-timestamp", Some(&message.timestamp_ms.to_string()));
            headers.add("x-ably-message-connection-id", Some(&message.connection_id));
            headers.add("x-ably-message-client-id", Some(&message.client_id));
            // The table of 15.5 has one name, its samples the other.
            let action = Some(action_name(message));
            headers.add("x-ably-message-name", action);
            headers.add("x-ably-message-action", action);
            let payload = (&message.data, message.encoding.as_deref());
            emit(bare(rule, channel, events.timestamp_ms, payload, headers));
        }
    } else {
        let head = Head {
            channel,
            serial: Some(events.channel_serial.to_string()),
            timestamp_ms: events.timestamp_ms,
            batch_name: "presence.message",
        };
        emit(enveloped(rule, &head, events.size_bytes(), |map, format| {
            map.append("presence", |out| {
                write_presences(format, events.messages.iter().map(|message| &**message), out);
            });
        }));
    }
}

/// What `rule` is sent of a channel that has become active, or inactive.
pub fn lifecycle_event(
    rule: &Arc<Rule>,
    channel: &str,
    timestamp_ms: u64,
    is_active: bool,
) -> RuleEvent {
    let name = if is_active { "channel.opened" } else { "channel.closed" };
    // Either way nobody is attached at that moment.
    status_event(rule, channel, timestamp_ms, name, is_active, &Metrics::default())
}

/// What `rule` is sent when the numbers of a channel have changed.
pub fn occupancy_event(
    rule: &Arc<Rule>,
    channel: &str,
    timestamp_ms: u64,
    metrics: &Metrics,
) -> RuleEvent {
    status_event(rule, channel, timestamp_ms, "channel.occupancy", true, metrics)
}

/// An event called `batch_name` that tells the status of a channel.
fn status_event(
    rule: &Arc<Rule>,
    channel: &str,
    timestamp_ms: u64,
    batch_name: &str,
    is_active: bool,
    metrics: &Metrics,
) -> RuleEvent {
    let occupancy = metrics.to_json(Category::All);
    let status = format!(r#"{{"isActive":{is_active},"occupancy":{occupancy}}}"#);
    if rule.shape == RequestShape::Bare {
        let body =
            format!(r#"{{"channelId":{},"name":{},"status":{status}}}"#, q(channel), q(channel));
        let headers = Headers::new(rule, channel).0;
        let body = body.into_bytes().into();
        let rule = Arc::clone(rule);
        return RuleEvent::new(rule, channel, timestamp_ms, ContentType::Json, body, headers);
    }
    let head = Head { channel, serial: None, timestamp_ms, batch_name };
    enveloped(rule, &head, 0, |map, _| {
        let fill = |map: &mut MapWriter<'_>| {
            map.str("name", channel);
            map.json("status", &status);
        };
        match rule.shape {
            RequestShape::Batch => fill(map),
            RequestShape::Enveloped | RequestShape::Bare => {
                map.str("name", batch_name);
                map.map("data", |map| {
                    map.str("channelId", channel);
                    fill(map);
                });
            }
        }
    })
}

fn q(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// What all envelopes begin with.
struct Head<'a> {
    channel: &'a str,
    serial: Option<String>,
    timestamp_ms: u64,
    /// What the event is called in a batch.
    batch_name: &'a str,
}

/// The event whose envelope `fill` completes; its parts take about `bytes`.
fn enveloped(
    rule: &Arc<Rule>,
    head: &Head<'_>,
    bytes: u64,
    fill: impl FnOnce(&mut MapWriter<'_>, Format),
) -> RuleEvent {
    let format = rule.format;
    let mut body = Vec::with_capacity(bytes as usize + ENVELOPE_BYTES);
    let Head { channel, serial, timestamp_ms, batch_name } = head;
    write_map(format, &mut body, |map| match rule.shape {
        RequestShape::Batch => {
            map.str("webhookId", &rule.id);
            map.str("source", rule.source.name());
            map.opt_str("serial", serial.as_deref());
            map.uint("timestamp", *timestamp_ms);
            map.str("name", batch_name);
            map.map("data", |map| {
                map.str("channelId", channel);
                map.str("site", SITE);
                fill(map, format);
            });
        }
        RequestShape::Enveloped | RequestShape::Bare => {
            map.str("source", rule.source.name());
            map.str("appId", &rule.app_id);
            map.str("channel", channel);
            map.str("site", SITE);
            map.str("ruleId", &rule.id);
            map.uint("timestamp", *timestamp_ms);
            fill(map, format);
        }
    });
    let content_type = ContentType::of(format);
    RuleEvent::new(Arc::clone(rule), channel, *timestamp_ms, content_type, body.into(), Vec::new())
}

/// The event whose body is `data` alone (15.5).
fn bare(
    rule: &Arc<Rule>,
    channel: &str,
    timestamp_ms: u64,
    (data, encoding): (&Data, Option<&str>),
    headers: Headers,
) -> RuleEvent {
    let (content_type, body) = match data {
        Data::None => (ContentType::Text, Bytes::new()),
        Data::Text(text) => {
            let is_json = encoding == Some("json");
            let content_type = if is_json { ContentType::Json } else { ContentType::Text };
            (content_type, Bytes::copy_from_slice(text.as_bytes()))
        }
        Data::Scalar(text) => (ContentType::Json, Bytes::copy_from_slice(text.as_bytes())),
        Data::Binary(bytes) => (ContentType::Bytes, bytes.clone()),
    };
    RuleEvent::new(Arc::clone(rule), channel, timestamp_ms, content_type, body, headers.0)
}

/// Headers of a bare body.
struct Headers(Vec<(Box<str>, Box<str>)>);

impl Headers {
    fn new(rule: &Rule, channel: &str) -> Headers {
        let mut headers = Headers(Vec::new());
        headers.add("x-ably-envelope-appid", Some(&rule.app_id));
        headers.add("x-ably-envelope-channel", Some(channel));
        headers.add("x-ably-envelope-rule-id", Some(&rule.id));
        headers.add("x-ably-envelope-site", Some(SITE));
        headers.add("x-ably-envelope-source", Some(rule.source.name()));
        headers
    }

    /// Adds one, unless there is nothing to say. Bytes that a header cannot carry are percent-encoded.
    fn add(&mut self, name: &str, value: Option<&str>) {
        let Some(value) = value else { return };
        let mut safe = String::with_capacity(value.len());
        for byte in value.bytes() {
            match byte {
                b' '..=b'~' => safe.push(byte.into()),
                _ => safe.push_str(&format!("%{byte:02X}")),
            }
        }
        self.0.push((name.into(), safe.into()));
    }
}

fn action_name(message: &PresenceMessage) -> &'static str {
    match message.action {
        PresenceAction::Enter => "enter",
        PresenceAction::Update => "update",
        PresenceAction::Leave => "leave",
        PresenceAction::Present => "present",
    }
}

/// Whether `extras.privileged.skipRule` keeps `message` from the rule (15.1). That its publisher may say
/// so was checked when it was accepted.
pub(super) fn skips(message: &Message, rule_id: &str) -> bool {
    let Some(extras) = message.extras.as_deref() else { return false };
    let Some(privileged) = extras_entry(extras, "privileged") else { return false };
    let skip = privileged.entries().find(|(name, _)| name == "skipRule");
    let names = |value: JsonValue<'_>| value.str().is_some_and(|id| id == "*" || id == rule_id);
    skip.is_some_and(|(_, value)| match value.node() {
        Node::Array => value.items().any(names),
        _ => names(value),
    })
}

/// The body of a request with the items of several events (15.4).
pub fn batch_body<'a>(
    format: Format,
    items: impl ExactSizeIterator<Item = &'a [u8]>,
) -> (ContentType, Bytes) {
    let mut body = Vec::new();
    write_map(format, &mut body, |map| {
        map.array("items", items, |item, out| out.extend_from_slice(item));
    });
    (ContentType::of(format), body.into())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value as Json, json};

    use super::*;
    use crate::ably::{SerialClock, SeriesId};

    fn rule(shape: RequestShape, format: Format) -> Arc<Rule> {
        let filter = ChannelFilter::compile("^chat:").expect("a filter");
        let (source, full) = (RuleSource::Message, WhenFull::Refuse);
        Arc::new(Rule::new("mask", "app", source, filter, shape, format, full, 4096))
    }

    fn publication(messages: Vec<Message>) -> Publication {
        Publication {
            channel_serial: SerialClock::new(SeriesId::new([1; 10])).next(1_700_000_000_000),
            id: "conn:1".into(),
            connection_id: Some("conn".into()),
            timestamp_ms: 1_700_000_000_000,
            messages,
        }
    }

    fn message(data: Data) -> Message {
        let id = Some("conn:1:0".into());
        Message { id, name: Some("said".into()), data, ..Message::default() }
    }

    fn events(rule: &Arc<Rule>, publication: &Publication) -> Vec<RuleEvent> {
        let mut events = Vec::new();
        message_events(rule, "chat:room", publication, |event| events.push(event));
        events
    }

    #[test]
    fn a_filter_searches_and_refuses_what_is_not_linear() {
        let matches = |filter: &str, name: &str| {
            ChannelFilter::compile(filter).expect("a filter").matches(name)
        };
        assert!(matches("", "anything"));
        assert!(matches("at:", "chat:room"));
        assert!(!matches("^at:", "chat:room"));
        for wrong in [r"(?=chat)", r"(a)\1", "(", &"a".repeat(2000), "(a{1000}){1000}"] {
            let error = ChannelFilter::compile(wrong).expect_err("is refused");
            assert_eq!((error.code.0, error.status), (40035, 400), "{wrong}");
        }
    }

    #[test]
    fn an_envelope_has_the_common_fields_and_the_messages_in_wire_form() {
        let binary = message(Data::Binary(Bytes::from_static(b"\x00\xff")));
        let published = publication(vec![message(Data::Text("hi".into())), binary]);
        let [event] = &events(&rule(RequestShape::Enveloped, Format::Json), &published)[..] else {
            panic!("one event for one publish");
        };
        let body: Json = serde_json::from_slice(&event.body).expect("JSON");
        assert_eq!(body["source"], "channel.message");
        assert_eq!((&body["appId"], &body["ruleId"]), (&json!("app"), &json!("mask")));
        assert_eq!((&body["channel"], &body["site"]), (&json!("chat:room"), &json!("ringcast")));
        assert_eq!(body["messages"][0]["data"], "hi");
        assert_eq!(body["messages"][0]["action"], 0);
        assert_eq!(body["messages"][0]["connectionId"], "conn");
        assert_eq!(body["messages"][0]["timestamp"], 1_700_000_000_000_u64);
        assert_eq!(
            (&body["messages"][1]["data"], &body["messages"][1]["encoding"]),
            (&json!("AP8="), &json!("base64"))
        );
        assert_eq!(event.content_type.name(), "application/json");
    }

    #[test]
    fn a_batch_is_its_items_in_either_format() {
        let published = publication(vec![message(Data::Text("hi".into()))]);
        for format in Format::ALL {
            let rule = rule(RequestShape::Batch, format);
            let mut events = events(&rule, &published);
            events.extend(super::tests::events(&rule, &published));
            let items: Vec<&[u8]> = events.iter().map(|event| &event.body[..]).collect();
            let (content_type, body) = batch_body(format, items.into_iter());
            let text = match format {
                Format::Json => String::from_utf8(body.to_vec()).expect("JSON"),
                // Its display is JSON for values such as these.
                Format::MsgPack => rmpv::decode::read_value(&mut &body[..]).unwrap().to_string(),
            };
            let body: Json = serde_json::from_str(&text).expect("JSON");
            assert_eq!(body["items"].as_array().map(Vec::len), Some(2));
            let item = &body["items"][1];
            assert_eq!(
                (&item["webhookId"], &item["name"]),
                (&json!("mask"), &json!("channel.message"))
            );
            assert_eq!(item["data"]["channelId"], "chat:room");
            assert_eq!(item["data"]["messages"][0]["data"], "hi");
            assert_eq!(content_type, ContentType::of(format));
        }
    }

    #[test]
    fn a_bare_body_is_the_data_and_headers_say_the_rest() {
        let json = Message { encoding: Some("json".into()), ..message(Data::Text("{}".into())) };
        let named =
            Message { name: Some("caf\u{e9}\n".into()), ..message(Data::Text("hi".into())) };
        let published = publication(vec![named, json, message(Data::Binary("b".into()))]);
        let events = events(&rule(RequestShape::Bare, Format::Json), &published);
        let seen: Vec<_> =
            events.iter().map(|event| (event.content_type, &event.body[..])).collect();
        assert_eq!(
            seen,
            [
                (ContentType::Text, &b"hi"[..]),
                (ContentType::Json, b"{}"),
                (ContentType::Bytes, b"b")
            ]
        );
        let header = |name: &str| {
            let found = events[0].headers.iter().find(|(known, _)| **known == *name);
            found.map(|(_, value)| &**value)
        };
        assert_eq!(header("x-ably-message-name"), Some("caf%C3%A9%0A"));
        assert_eq!(header("x-ably-envelope-channel"), Some("chat:room"));
        assert_eq!(header("x-ably-message-client-id"), None);
    }

    #[test]
    fn messages_that_skip_the_rule_are_left_out() {
        let with = |extras: &str| Message {
            extras: Some(extras.into()),
            ..message(Data::Text(extras.into()))
        };
        let skipped = [
            r#"{"privileged":{"skipRule":"*"}}"#,
            r#"{"privileged":{"skipRule":"mask"}}"#,
            r#"{"privileged":{"skipRule":["other","mask"]}}"#,
        ];
        let rule = rule(RequestShape::Enveloped, Format::Json);
        assert!(events(&rule, &publication(skipped.map(with).into())).is_empty());
        let some = vec![with(skipped[0]), with(r#"{"privileged":{"skipRule":["other"]}}"#)];
        let some = events(&rule, &publication(some));
        let body: Json = serde_json::from_slice(&some[0].body).expect("JSON");
        assert_eq!(body["messages"].as_array().map(Vec::len), Some(1));
    }

    #[test]
    fn an_event_counts_while_it_lives() {
        let rule = rule(RequestShape::Bare, Format::Json);
        let published = publication(vec![message(Data::Text("x".repeat(5000).into()))]);
        let waiting = events(&rule, &published);
        assert!(rule.is_full());
        drop(waiting);
        assert!(!rule.is_full());
        assert_eq!(rule.load.bytes.load(Ordering::Relaxed), 0);
    }
}
