//! Subscriptions over HTTP: server-sent events, and JSON line by line (14).

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use super::pages::invalid_param;
use super::reply::{Reply, essence};
use super::{Call, Outcome};
use crate::ably::{
    ChannelName, ChannelParams, ErrorCode, ErrorInfo, EventFraming, EventShape, Filter, Operation,
    Principal, Rewind, Since,
};
use crate::http::{form_pairs, percent_encode};

/// Channels of one stream, at most (17).
const CHANNELS_MAX: usize = 200;

/// A stream of events that somebody has asked for and may have.
pub struct EventsRequest {
    /// Who listens.
    pub principal: Arc<Principal>,
    /// Where, each from where on; at least one.
    pub channels: Vec<(ChannelName, ChannelParams, Since)>,
    /// How the events are written.
    pub shape: EventShape,
    /// Whether signs of life are events.
    pub wants_heartbeats: bool,
    /// The head of the response, as it goes onto the wire.
    pub head: Bytes,
    reply: Reply,
}

impl EventsRequest {
    /// The answer to one that may not have it after all.
    pub fn refuse(&self, error: &ErrorInfo) -> Bytes {
        self.reply.error(error)
    }
}

/// `GET /sse`: always server-sent events.
pub(super) fn server_sent(call: &mut Call<'_>) -> Result<Outcome, ErrorInfo> {
    open(call, EventFraming::ServerSent)
}

/// `GET /event-stream`: server-sent events for who accepts them, else JSON line by line.
pub(super) fn stream(call: &mut Call<'_>) -> Result<Outcome, ErrorInfo> {
    let accept = call.request.header("Accept").unwrap_or_default();
    let is_server_sent = accept.split(',').any(|kind| essence(kind) == "text/event-stream");
    let framing = if is_server_sent { EventFraming::ServerSent } else { EventFraming::Lines };
    open(call, framing)
}

fn open(call: &mut Call<'_>, framing: EventFraming) -> Result<Outcome, ErrorInfo> {
    if call.request.method() != "GET" {
        return Err(ErrorInfo::new(ErrorCode::METHOD_NOT_ALLOWED, "method not allowed"));
    }
    if !call.request.reads_chunks() {
        let text = "a stream of events takes HTTP/1.1";
        return Err(ErrorInfo::new(ErrorCode::BAD_REQUEST, text));
    }
    let principal = call.authenticate()?;
    let flag = |name: &str| call.request.query_param(name).map(|value| value != "false");
    let rewind = call.request.query_param("rewind").map(|text| Rewind::parse(&text)).transpose();
    let rewind = rewind.map_err(|_| invalid_param("rewind"))?;
    let names = channels(call)?;
    let last = last_event(call);
    let mut channels = Vec::with_capacity(names.len());
    for name in names {
        principal.enter(name.base())?;
        principal.permit(&name.resource(), Operation::Subscribe)?;
        if let Some(filter) = name.filter() {
            Filter::compile(filter)?;
        }
        let params = ChannelParams::read(&name.params())?;
        let rewind = params.rewind.or(rewind);
        let since = match (last.of(name.as_str()), rewind) {
            (Some(serial), _) => Since::Serial(serial),
            (None, Some(rewind)) => Since::Rewind { rewind, limit: params.rewind_limit },
            (None, None) => Since::Head,
        };
        channels.push((name, params, since));
    }
    let shape = EventShape {
        framing,
        is_enveloped: flag("enveloped").unwrap_or(true),
        has_ids: channels.len() == 1,
    };
    Ok(Outcome::Events(Box::new(EventsRequest {
        principal,
        channels,
        shape,
        wants_heartbeats: flag("heartbeats").unwrap_or(false),
        head: call.reply.stream(shape.content_type()),
        reply: call.reply.clone(),
    })))
}

/// The channels that the request names, each once.
fn channels(call: &Call<'_>) -> Result<Vec<ChannelName>, ErrorInfo> {
    let separator = call.request.query_param("separator");
    let separator = separator.as_deref().filter(|text| !text.is_empty()).unwrap_or(",");
    let listed = ["channels", "channel"].iter().find_map(|name| call.request.query_param(name));
    let mut names: Vec<ChannelName> = Vec::new();
    for text in listed.as_deref().unwrap_or_default().split(separator).filter(|t| !t.is_empty()) {
        let name = ChannelName::parse(text)?;
        if names.contains(&name) {
            continue;
        }
        if names.len() == CHANNELS_MAX {
            let text = "more channels than one stream may have";
            return Err(ErrorInfo::new(ErrorCode::TOO_MANY_CHANNELS, text));
        }
        names.push(name);
    }
    match names.is_empty() {
        true => Err(ErrorInfo::new(ErrorCode::BAD_REQUEST, "the request names no channel")),
        false => Ok(names),
    }
}

/// Up to where a client has its channels, as the last id that it was told says.
enum LastEvent {
    Unknown,
    /// A channelSerial: that of the only channel.
    One(Box<str>),
    /// A channelSerial for each channel.
    Each(HashMap<Box<str>, Box<str>>),
}

impl LastEvent {
    fn of(&self, channel: &str) -> Option<Box<str>> {
        match self {
            LastEvent::Unknown => None,
            LastEvent::One(serial) => Some(serial.clone()),
            LastEvent::Each(serials) => serials.get(channel).cloned(),
        }
    }
}

fn last_event(call: &Call<'_>) -> LastEvent {
    let header = call.request.header("Last-Event-ID").map(Into::into);
    let last = header.or_else(|| call.request.query_param("lastEvent"));
    match last.as_deref() {
        None | Some("") => LastEvent::Unknown,
        Some(id) if id.contains('=') => LastEvent::Each(
            form_pairs(id).map(|(name, serial)| (name.into(), serial.into())).collect(),
        ),
        Some(id) => LastEvent::One(id.into()),
    }
}

/// The id of a position in several channels, whose names and channelSerials these are.
pub fn position_id<'a>(serials: impl Iterator<Item = (&'a str, String)>) -> String {
    let each = serials
        .map(|(name, serial)| format!("{}={}", percent_encode(name), percent_encode(&serial)));
    each.collect::<Vec<_>>().join("&")
}
