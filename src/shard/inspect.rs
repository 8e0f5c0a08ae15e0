//! What an operator sees of a shard: its connections and channels, page by page so that no turn is held up,
//! and its publications as they happen.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::Shard;
use super::transport::{Stage, Transport};
use crate::ably::{Data, Format, Identity, Metric};
use crate::channel::ChannelKey;
use crate::channel::broadcast::Broadcast;

/// Connections, attachments or channels that one page looks at.
const LOOKS_PER_PAGE: usize = 512;

/// Rows of one page.
pub const ROWS_PER_PAGE: usize = 128;

/// Events that wait to be handed over to whoever watches; they do so for a turn.
const TAPPED_MAX: usize = 1024;

/// Whoever watches at once; one more is refused.
pub const TAPS_MAX: usize = 16;

/// Bytes of a payload that are shown.
const DATA_BYTES_MAX: usize = 4096;

/// Which connections come first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ConnectionOrder {
    /// In no order.
    #[default]
    None,
    /// Those that are behind by most bytes.
    Lag,
    /// Those whose send has been under way longest.
    Stall,
    /// Those that have been there longest.
    Age,
}

/// Which connections an operator wants to see.
#[derive(Clone, Debug, Default)]
pub struct ConnectionsQuery {
    /// Of this app only.
    pub app: Option<Box<str>>,
    /// Which of them, if there are more than fit.
    pub order: ConnectionOrder,
    /// From this transport on.
    pub from: u32,
}

/// A client that is connected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionRow {
    /// Public id.
    pub id: String,
    /// The shard that holds it.
    pub shard: u16,
    /// Its app.
    pub app: String,
    /// `appId.keyId`.
    pub key: String,
    /// Who it is, if its credentials say.
    pub client_id: Option<String>,
    /// `websocket`, or `events` for server-sent ones.
    pub transport: String,
    /// `json` or `msgpack`.
    pub format: String,
    /// Channels that it is attached to.
    pub channels: u64,
    /// Bytes that it is owed and that the kernel has not been given.
    pub lag_bytes: u64,
    /// Since when a send has been under way, in milliseconds.
    pub lag_ms: u64,
    /// Since when nothing was heard of it, in milliseconds.
    pub silent_ms: u64,
    /// Since when it has been there, in seconds, over all its transports.
    pub age_s: u64,
}

impl ConnectionRow {
    /// What it is sorted by, largest first.
    pub fn rank(&self, order: ConnectionOrder) -> u64 {
        match order {
            ConnectionOrder::None => 0,
            ConnectionOrder::Lag => self.lag_bytes,
            ConnectionOrder::Stall => self.lag_ms,
            ConnectionOrder::Age => self.age_s,
        }
    }
}

/// A part of the connections.
#[derive(Debug)]
pub struct ConnectionsPage {
    /// Those that were asked for.
    pub rows: Vec<ConnectionRow>,
    /// How many there were, rows or not.
    pub count: u64,
    /// Where the next page begins.
    pub next: Option<u32>,
}

/// Which channels an operator wants to see.
#[derive(Clone, Debug, Default)]
pub struct ChannelsQuery {
    /// Of this app only.
    pub app: Option<Box<str>>,
    /// Whose names begin like this.
    pub prefix: Box<str>,
    /// Behind this channel.
    pub after: Option<ChannelKey>,
}

/// A channel on its home shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelRow {
    /// Its name.
    pub channel: String,
    /// Its app.
    pub app: String,
    /// Its home.
    pub shard: u16,
    /// Attachments.
    pub connections: u32,
    /// Attachments that receive messages.
    pub subscribers: u32,
    /// Attachments that may publish.
    pub publishers: u32,
    /// Presence members.
    pub members: u32,
    /// Bytes of its past.
    pub history_bytes: u64,
    /// Of its newest publication, or of its beginning.
    pub last_serial: String,
}

/// A part of the channels, in the order of apps and names.
#[derive(Debug)]
pub struct ChannelsPage {
    /// Those that were asked for.
    pub rows: Vec<ChannelRow>,
    /// Behind which the next page begins.
    pub next: Option<ChannelKey>,
}

/// Which publications somebody watches.
#[derive(Clone, Debug, Default)]
pub struct TapFilter {
    /// Of this app only.
    pub app: Option<Box<str>>,
    /// Of this channel only.
    pub channel: Option<Box<str>>,
    /// With their payloads.
    pub with_data: bool,
}

/// One message, presence event or annotation that got its place in a channel's order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tapped {
    /// `message`, `presence` or `annotation`.
    pub kind: String,
    /// Its app.
    pub app: String,
    /// Its channel.
    pub channel: String,
    /// The home of that.
    pub shard: u16,
    /// Its place in the order.
    pub serial: String,
    /// Milliseconds since the Unix epoch.
    pub timestamp: u64,
    /// Its id.
    pub id: Option<String>,
    /// Its name, or the type of an annotation.
    pub name: Option<String>,
    /// Who says to have sent it.
    pub client_id: Option<String>,
    /// The connection that it came over.
    pub connection_id: Option<String>,
    /// What was done to the payload.
    pub encoding: Option<String>,
    /// As the size limit counts them.
    pub bytes: u64,
    /// The payload, if that is wanted; the first of it if it is large.
    pub data: Option<String>,
    /// Events that were left out just before it, because whoever watches was behind.
    pub dropped: u64,
}

struct Tap {
    id: u64,
    filter: TapFilter,
    dropped: u64,
}

/// Whoever watches, and what they are to see.
#[derive(Default)]
pub(super) struct Taps {
    taps: Vec<Tap>,
    next_id: u64,
    tapped: VecDeque<(u64, Tapped)>,
}

impl Taps {
    /// Whether anybody watches; the rest of the time a publication pays no more than this.
    pub fn is_empty(&self) -> bool {
        self.taps.is_empty()
    }
}

impl Shard {
    /// The connections from one transport on, up to a bounded number.
    pub fn list_connections(&self, query: &ConnectionsQuery) -> ConnectionsPage {
        let mut page = ConnectionsPage { rows: Vec::new(), count: 0, next: None };
        let mut looks = 0;
        for index in query.from..self.transports.len() as u32 {
            if looks >= LOOKS_PER_PAGE || page.rows.len() >= 2 * ROWS_PER_PAGE {
                page.next = Some(index);
                break;
            }
            looks += 1;
            let transport = &self.transports[index as usize];
            let Some(connection) = transport.peek_connection() else { continue };
            if query.app.as_deref().is_some_and(|app| app != connection.app_id()) {
                continue;
            }
            page.count += 1;
            looks += connection.attachment_count();
            page.rows.push(self.connection_row(transport));
        }
        if page.rows.len() > ROWS_PER_PAGE && query.order != ConnectionOrder::None {
            page.rows.sort_by_key(|row| std::cmp::Reverse(row.rank(query.order)));
            page.rows.truncate(ROWS_PER_PAGE);
        }
        page
    }

    fn connection_row(&self, transport: &Transport) -> ConnectionRow {
        let connection = transport.peek_connection().expect("the caller has seen it");
        let since = |then_ms: u64| self.now.mono_ms.saturating_sub(then_ms);
        let principal = connection.principal();
        ConnectionRow {
            id: connection.id().to_string(),
            shard: self.id,
            app: connection.app_id().into(),
            key: principal.key().name().into(),
            client_id: match principal.identity() {
                Identity::Client(client_id) => Some((&**client_id).into()),
                Identity::Anonymous | Identity::Wildcard => None,
            },
            transport: match transport.stage {
                Stage::Events(_) => "events".into(),
                _ => "websocket".into(),
            },
            format: match connection.format() {
                Format::Json => "json".into(),
                Format::MsgPack => "msgpack".into(),
            },
            channels: connection.attachment_count() as u64,
            lag_bytes: self.lag_bytes(transport),
            lag_ms: if transport.is_idle() { 0 } else { since(transport.sent_ms) },
            silent_ms: since(transport.received_ms),
            age_s: connection.age_s(self.now),
        }
    }

    /// What a transport is owed: its streams' frames behind its cursors, its backlog and its lane.
    pub(super) fn lag_bytes(&self, transport: &Transport) -> u64 {
        let cursors = transport.peek_connection().into_iter().flat_map(|c| c.cursors());
        let of_stream = |(stream, cursor): (u32, u32)| {
            self.streams.get(stream).map_or(0, |stream| stream.log.lag_bytes(cursor))
        };
        transport.owed_bytes() + cursors.map(of_stream).sum::<u64>()
    }

    /// The channels at home here, up to a bounded number.
    pub fn list_channels(&self, query: &ChannelsQuery) -> ChannelsPage {
        let mut page = ChannelsPage { rows: Vec::new(), next: None };
        let mut last = None;
        for (looks, key) in self.homes.keys_from(query).enumerate() {
            if query.app.as_deref().is_some_and(|app| !key.is_of(app)) {
                return page; // they are in the order of apps
            }
            if looks >= LOOKS_PER_PAGE || page.rows.len() >= ROWS_PER_PAGE {
                page.next = last;
                break;
            }
            last = Some(key.clone());
            if !key.name().starts_with(&*query.prefix) {
                if query.app.is_some() && key.name() > &*query.prefix {
                    return page; // and in that of their names
                }
                continue;
            }
            let Some(home) = self.homes.get(key) else { continue };
            let occupancy = home.occupancy();
            page.rows.push(ChannelRow {
                channel: key.name().into(),
                app: key.app_id().into(),
                shard: self.id,
                connections: occupancy.get(Metric::Connections),
                subscribers: occupancy.get(Metric::Subscribers),
                publishers: occupancy.get(Metric::Publishers),
                members: occupancy.get(Metric::PresenceMembers),
                history_bytes: home.history_bytes(),
                last_serial: home.last_serial().to_string(),
            });
        }
        page
    }

    /// Has [`poll_tapped`](Self::poll_tapped) show publications of channels at home here. `None`: as many
    /// watch as may.
    pub fn add_tap(&mut self, filter: TapFilter) -> Option<u64> {
        if self.taps.taps.len() >= TAPS_MAX {
            return None;
        }
        let id = self.taps.next_id;
        self.taps.next_id += 1;
        self.taps.taps.push(Tap { id, filter, dropped: 0 });
        Some(id)
    }

    /// Ends what [`add_tap`](Self::add_tap) has begun.
    pub fn remove_tap(&mut self, id: u64) {
        self.taps.taps.retain(|tap| tap.id != id);
        self.taps.tapped.retain(|(of, _)| *of != id);
    }

    /// Notes that so many events could not be shown to `id`, which is told with the next.
    pub fn drop_tapped(&mut self, id: u64, count: u64) {
        if let Some(tap) = self.taps.taps.iter_mut().find(|tap| tap.id == id) {
            tap.dropped += count;
        }
    }

    /// The next event to show, and to whom.
    pub fn poll_tapped(&mut self) -> Option<(u64, Tapped)> {
        self.taps.tapped.pop_front()
    }

    /// Shows an event of a channel at home here to those who watch it.
    pub(super) fn tap(&mut self, key: &ChannelKey, event: &Broadcast) {
        let Taps { taps, tapped, .. } = &mut self.taps;
        for tap in taps {
            let TapFilter { app, channel, with_data } = &tap.filter;
            if app.as_deref().is_some_and(|app| app != key.app_id())
                || channel.as_deref().is_some_and(|channel| channel != key.name())
            {
                continue;
            }
            show(key, self.id, event, *with_data, |mut shown| {
                if tapped.len() >= TAPPED_MAX {
                    tap.dropped += 1;
                    return;
                }
                shown.dropped = std::mem::take(&mut tap.dropped);
                tapped.push_back((tap.id, shown));
            });
        }
    }
}

/// Each message of `event` as an operator sees it.
fn show(
    key: &ChannelKey,
    shard: u16,
    event: &Broadcast,
    with_data: bool,
    mut take: impl FnMut(Tapped),
) {
    let text = |text: &Option<Box<str>>| text.as_deref().map(str::to_owned);
    let (kind, timestamp) = match event {
        Broadcast::Messages(publication) => ("message", publication.timestamp_ms),
        Broadcast::Annotations(publication) => ("annotation", publication.timestamp_ms),
        Broadcast::Presence(events) => ("presence", events.timestamp_ms),
    };
    let blank = Tapped {
        kind: kind.into(),
        app: key.app_id().into(),
        channel: key.name().into(),
        shard,
        serial: event.serial().to_string(),
        timestamp,
        id: None,
        name: None,
        client_id: None,
        connection_id: None,
        encoding: None,
        bytes: 0,
        data: None,
        dropped: 0,
    };
    match event {
        Broadcast::Messages(publication) => {
            for message in &publication.messages {
                take(Tapped {
                    id: text(&message.id),
                    name: text(&message.name),
                    client_id: text(&message.client_id),
                    connection_id: text(&publication.connection_id),
                    encoding: text(&message.encoding),
                    bytes: message.size_bytes(),
                    data: with_data.then(|| payload(&message.data)).flatten(),
                    ..blank.clone()
                });
            }
        }
        Broadcast::Annotations(publication) => {
            for annotation in &publication.annotations {
                take(Tapped {
                    id: text(&annotation.id),
                    name: Some((&*annotation.kind).into()),
                    client_id: text(&annotation.client_id),
                    bytes: annotation.size_bytes(),
                    ..blank.clone()
                });
            }
        }
        Broadcast::Presence(events) => {
            for member in &events.messages {
                take(Tapped {
                    id: text(&events.id),
                    name: Some(format!("{:?}", member.action).to_lowercase()),
                    client_id: Some((&*member.client_id).into()),
                    connection_id: Some((&*member.connection_id).into()),
                    bytes: member.data.size_bytes(),
                    encoding: text(&member.encoding),
                    data: with_data.then(|| payload(&member.data)).flatten(),
                    ..blank.clone()
                });
            }
        }
    }
}

/// The first of a payload, as text.
fn payload(data: &Data) -> Option<String> {
    match data {
        Data::None => None,
        Data::Text(text) | Data::Scalar(text) => {
            Some(text[..text.floor_char_boundary(DATA_BYTES_MAX)].into())
        }
        Data::Binary(bytes) => {
            let first = &bytes[..bytes.len().min(DATA_BYTES_MAX)];
            Some(data_encoding::BASE64.encode(first))
        }
    }
}
