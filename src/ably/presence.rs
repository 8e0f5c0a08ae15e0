//! Presence (4.2, 7): what clients may ask for, what a channel keeps of it, and how members and events
//! are written down.

use std::sync::Arc;

use super::checks::{CHOSEN_ID_BYTES_MAX, check_encoding};
use super::error::refuse;
use super::extras::check_extras;
use super::message::write_data;
use super::value::Field;
use super::writer::{MapWriter, write_array, write_map};
use super::{
    Action, ChannelSerial, Data, Direction, Draft, ErrorCode, ErrorInfo, FixtureMember, Format,
    HistoryQuery, Identity, MESSAGES_MAX, Operation, Position, Publisher,
};

/// What a member does, or that it is there (TP2). What is ABSENT is never sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PresenceAction {
    /// It is a member: SYNC and REST.
    Present = 1,
    /// It has become one.
    Enter = 2,
    /// It is none any more.
    Leave = 3,
    /// It has new data.
    Update = 4,
}

/// A member that a client claims to have never seen: ignored (7.1).
const ABSENT: u64 = 0;

/// What a client wants of one member, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PresenceChange {
    /// Enter, update or leave.
    pub action: PresenceAction,
    /// `<connectionId>:<msgSerial>:<index>`, or what the client chose.
    pub id: Box<str>,
    /// Whether the client chose it: then it may be a repetition (7.5).
    pub has_chosen_id: bool,
    /// Never empty, never `*`.
    pub client_id: Box<str>,
    /// The payload, in the form that `encoding` tells.
    pub data: Data,
    /// As for a message.
    pub encoding: Option<Box<str>>,
    /// JSON text of an object.
    pub extras: Option<Box<str>>,
}

/// One PRESENCE of a client that was checked and waits for its place in the channel's order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PresenceRequest {
    /// Id of the protocol message, `<connectionId>:<msgSerial>`.
    pub id: Box<str>,
    /// Whose members they are.
    pub connection_id: Box<str>,
    /// At least one; all of them happen or none does.
    pub changes: Vec<PresenceChange>,
}

/// Stands for the connection of members that have none.
const FIXTURES: &str = "fixtures";

impl PresenceRequest {
    /// Has members enter that stand without a connection.
    pub fn of_fixtures(members: Vec<FixtureMember>) -> PresenceRequest {
        let id = format!("{FIXTURES}:0");
        let changes = members.into_iter().enumerate().map(|(index, member)| PresenceChange {
            action: PresenceAction::Enter,
            id: format!("{id}:{index}").into(),
            has_chosen_id: false,
            client_id: member.client_id,
            data: member.data,
            encoding: member.encoding,
            extras: None,
        });
        let changes = changes.collect();
        PresenceRequest { id: id.into(), connection_id: FIXTURES.into(), changes }
    }

    /// Checks what `publisher`, a connection, wants on the channel `name`; `drafts` is `None` where an
    /// element was no object. `None`: there is nothing to do.
    ///
    /// # Errors
    /// The codes of 7.1 and, for data, encoding, extras and size, of 4.7; the whole request is refused.
    pub fn check(
        name: &str,
        drafts: Option<Vec<Draft>>,
        publisher: &Publisher<'_>,
        bytes_max: u64,
    ) -> Result<Option<PresenceRequest>, ErrorInfo> {
        if !publisher.capability.allows(name, Operation::Presence) {
            return refuse(
                ErrorCode::CAPABILITY_DENIED,
                "the capability does not permit presence here",
            );
        }
        let Some(drafts) = drafts else {
            return refuse(ErrorCode::BAD_REQUEST, "presence messages have to be objects");
        };
        if drafts.is_empty() {
            return refuse(ErrorCode::BAD_REQUEST, "there is no presence message");
        }
        if drafts.len() > MESSAGES_MAX {
            return refuse(
                ErrorCode::TOO_MANY_MESSAGES,
                "more than 1000 presence messages at once",
            );
        }
        let mut changes = Vec::with_capacity(drafts.len());
        let mut size_bytes = 0;
        for (index, draft) in drafts.into_iter().enumerate() {
            // As with messages, what the client did not send is not measured.
            if matches!(draft.client_id, Some(Field::Text(_))) {
                size_bytes += field_bytes(&draft.client_id);
            }
            size_bytes +=
                draft.data.size_bytes() + draft.extras.as_deref().map_or(0, str::len) as u64;
            changes.extend(check(name, draft, index, publisher)?);
        }
        if size_bytes > bytes_max {
            let text =
                format!("the presence messages have {size_bytes} bytes, the limit is {bytes_max}");
            return Err(ErrorInfo::new(ErrorCode::MESSAGE_TOO_LARGE, text));
        }
        let connection_id = publisher.connection_id.expect("only connections are present").into();
        let id = publisher.id.as_str().into();
        Ok((!changes.is_empty()).then_some(PresenceRequest { id, connection_id, changes }))
    }
}

fn field_bytes(field: &Option<Field>) -> u64 {
    match field {
        Some(Field::Text(text)) => text.len() as u64,
        Some(Field::NotText) | None => 0,
    }
}

fn check(
    name: &str,
    draft: Draft,
    index: usize,
    publisher: &Publisher<'_>,
) -> Result<Option<PresenceChange>, ErrorInfo> {
    let client_id = client_id(draft.client_id, publisher.identity)?;
    let action = match draft.action {
        ABSENT => return Ok(None),
        // Some SDKs enter again as what the member is to them.
        1 | 2 => PresenceAction::Enter,
        3 => PresenceAction::Leave,
        4 => PresenceAction::Update,
        _ => return refuse(ErrorCode::BAD_REQUEST, "unknown presence action"),
    };
    let chosen_id = match draft.id {
        None => None,
        Some(Field::Text(id)) if id.is_empty() => None,
        Some(Field::Text(id)) if id.len() <= CHOSEN_ID_BYTES_MAX => Some(id),
        Some(_) => {
            let text = "a presence id is a string of at most 256 bytes";
            return refuse(ErrorCode::INVALID_MESSAGE_IDS, text);
        }
    };
    check_encoding(draft.encoding.as_deref(), draft.has_bad_encoding)?;
    match draft.connection_id {
        Some(Field::Text(claimed)) if Some(&*claimed) == publisher.connection_id => {}
        None => {}
        Some(_) => {
            let text = "the connectionId is not that of the connection";
            return refuse(ErrorCode::INVALID_CONNECTION_ID, text);
        }
    }
    if let Some(extras) = &draft.extras {
        check_extras(name, extras, publisher)?;
    }
    Ok(Some(PresenceChange {
        action,
        has_chosen_id: chosen_id.is_some(),
        id: chosen_id.unwrap_or_else(|| format!("{}:{index}", publisher.id).into()),
        client_id,
        data: draft.data,
        encoding: draft.encoding,
        extras: draft.extras,
    }))
}

/// Who a member is (12.7): as claimed, else who the connection is.
fn client_id(claimed: Option<Field>, identity: &Identity) -> Result<Box<str>, ErrorInfo> {
    match (identity.client_id(claimed)?, identity) {
        (Some(claimed), _) => Ok(claimed),
        (None, Identity::Client(own)) => Ok(own.clone()),
        (None, Identity::Wildcard | Identity::Anonymous) => {
            let code = ErrorCode::PRESENCE_WITHOUT_CLIENT_ID;
            refuse(code, "a member needs a clientId, and the connection has none")
        }
    }
}

/// What is known of one member since something happened to it; also that event itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PresenceMessage {
    /// What happened.
    pub action: PresenceAction,
    /// `None` for what the server made up, so that clients compare it by its time (RTP2b1).
    pub id: Option<Box<str>>,
    /// With `client_id` what tells members apart (TP3h).
    pub connection_id: Box<str>,
    /// See `connection_id`.
    pub client_id: Box<str>,
    /// The payload, in the form that `encoding` tells.
    pub data: Data,
    /// As for a message.
    pub encoding: Option<Box<str>>,
    /// JSON text of an object.
    pub extras: Option<Box<str>>,
    /// When it happened, in milliseconds since the Unix epoch.
    pub timestamp_ms: u64,
}

impl PresenceMessage {
    /// Bytes that it takes in memory, about.
    pub fn size_bytes(&self) -> u64 {
        let texts = [&self.id, &self.encoding, &self.extras].into_iter().flatten();
        let texts = texts.chain([&self.connection_id, &self.client_id]);
        size_of::<PresenceMessage>() as u64
            + texts.map(|text| text.len() as u64).sum::<u64>()
            + self.data.size_bytes()
    }

    /// Whether the newer of two events of one member is `id`, as clients decide it (RTP2b2): by
    /// msgSerial and index. `None` unless both ids are of the member's connection.
    pub fn is_older_than(&self, id: &str) -> Option<bool> {
        let place = |id: &str| {
            let (serial, index) =
                id.strip_prefix(&*self.connection_id)?.strip_prefix(':')?.split_once(':')?;
            Some((serial.parse::<u64>().ok()?, index.parse::<u64>().ok()?))
        };
        Some(place(self.id.as_deref()?)? < place(id)?)
    }
}

/// Events that happened together: one PRESENCE protocol message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PresenceEvents {
    /// Their place in the channel's order.
    pub channel_serial: ChannelSerial,
    /// Of the request; none for what the server made up.
    pub id: Option<Box<str>>,
    /// When they were accepted, in milliseconds since the Unix epoch.
    pub timestamp_ms: u64,
    /// At least one.
    pub messages: Vec<Arc<PresenceMessage>>,
}

impl PresenceEvents {
    /// Bytes that they take in memory, about.
    pub fn size_bytes(&self) -> u64 {
        let messages = self.messages.iter().map(|message| message.size_bytes());
        size_of::<PresenceEvents>() as u64 + messages.sum::<u64>()
    }
}

/// Appends the PRESENCE that delivers `events` on `channel`.
pub fn encode_presence(format: Format, channel: &str, events: &PresenceEvents, out: &mut Vec<u8>) {
    write_map(format, out, |map| {
        map.uint("action", Action::Presence.number());
        map.opt_str("id", events.id.as_deref());
        map.str("channel", channel);
        map.str("channelSerial", &events.channel_serial.to_string());
        map.uint("timestamp", events.timestamp_ms);
        map.array("presence", events.messages.iter(), |message, out| {
            write_map(format, out, |map| write_presence(map, format, message.action, message));
        });
    });
}

/// Appends a SYNC of `channel` with some of its members. `cursor` is what the next one begins with,
/// empty in the last.
pub fn encode_sync<'a>(
    format: Format,
    channel: &str,
    cursor: &str,
    members: impl ExactSizeIterator<Item = &'a PresenceMessage>,
    out: &mut Vec<u8>,
) {
    write_map(format, out, |map| {
        map.uint("action", Action::Sync.number());
        map.str("channel", channel);
        // Always the same: clients use it to see that another sync has begun, and what they are sent
        // of another one is never wrong. So pages can be kept encoded.
        map.str("channelSerial", &format!("members:{cursor}"));
        map.array("presence", members, |member, out| write_member(format, member, out));
    });
}

/// The body of a page of members (13.6).
pub fn encode_members<'a>(
    format: Format,
    members: impl ExactSizeIterator<Item = &'a PresenceMessage>,
) -> Vec<u8> {
    let mut out = Vec::new();
    write_array(format, &mut out, members, |member, out| write_member(format, member, out));
    out
}

/// The body of a page of presence history (13.6).
pub fn encode_presence_history<'a>(
    format: Format,
    events: impl ExactSizeIterator<Item = &'a PresenceMessage>,
) -> Vec<u8> {
    let mut out = Vec::new();
    write_presences(format, events, &mut out);
    out
}

/// Appends an array of events, each complete by itself.
pub(super) fn write_presences<'a>(
    format: Format,
    events: impl ExactSizeIterator<Item = &'a PresenceMessage>,
    out: &mut Vec<u8>,
) {
    write_array(format, out, events, |event, out| {
        write_map(format, out, |map| write_presence(map, format, event.action, event));
    });
}

/// A member as SYNC and REST have it.
pub(super) fn write_member(format: Format, member: &PresenceMessage, out: &mut Vec<u8>) {
    write_map(format, out, |map| write_presence(map, format, PresenceAction::Present, member));
}

/// Writes one event of presence on `channel`, in JSON.
pub(super) fn write_presence_event(
    map: &mut MapWriter<'_>,
    channel: &str,
    message: &PresenceMessage,
) {
    map.str("channel", channel);
    write_presence(map, Format::Json, message.action, message);
}

/// Complete by itself: nothing is left for a client to inherit from the protocol message (3.1).
fn write_presence(
    map: &mut MapWriter<'_>,
    format: Format,
    action: PresenceAction,
    message: &PresenceMessage,
) {
    map.uint("action", action as u64);
    map.opt_str("id", message.id.as_deref());
    map.str("connectionId", &message.connection_id);
    map.str("clientId", &message.client_id);
    map.uint("timestamp", message.timestamp_ms);
    write_data(map, format, &message.data, message.encoding.as_deref());
    if let Some(extras) = &message.extras {
        map.json("extras", extras);
    }
}

/// Which members to read (13.6).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MembersQuery {
    /// Only with this clientId.
    pub client_id: Option<Box<str>>,
    /// Only of this connection.
    pub connection_id: Option<Box<str>>,
    /// Members per page.
    pub limit: usize,
    /// The last member of the page before: connectionId and clientId.
    pub after: Option<(Box<str>, Box<str>)>,
}

impl MembersQuery {
    /// Every member, in one page.
    pub fn all() -> MembersQuery {
        MembersQuery { limit: usize::MAX, ..MembersQuery::default() }
    }
}

/// An answer to a [`MembersQuery`].
#[derive(Clone, Debug, Default)]
pub struct MembersPage {
    /// By connectionId and clientId.
    pub members: Vec<Arc<PresenceMessage>>,
    /// Whether there are more behind the last of these.
    pub has_more: bool,
}

/// A page of presence history.
#[derive(Clone, Debug, Default)]
pub struct PresenceHistoryPage {
    /// In the order that was asked for.
    pub events: Vec<Arc<PresenceMessage>>,
    /// Where the next page goes on, if there is one.
    pub next: Option<Position>,
}

impl PresenceHistoryPage {
    /// Reads one page of `history`, which is oldest first. It ends early beyond `bytes_max`.
    pub fn read<'a>(
        history: impl DoubleEndedIterator<Item = &'a Arc<PresenceEvents>>,
        query: &HistoryQuery,
        bytes_max: u64,
    ) -> PresenceHistoryPage {
        let places = history.flat_map(|events| {
            events.messages.iter().enumerate().map(move |(index, message)| {
                (Position { serial: events.channel_serial, index: index as u32 }, events, message)
            })
        });
        match query.direction {
            Direction::Forwards => PresenceHistoryPage::fill(places, query, bytes_max),
            Direction::Backwards => PresenceHistoryPage::fill(places.rev(), query, bytes_max),
        }
    }

    fn fill<'a>(
        places: impl Iterator<Item = (Position, &'a Arc<PresenceEvents>, &'a Arc<PresenceMessage>)>,
        query: &HistoryQuery,
        bytes_max: u64,
    ) -> PresenceHistoryPage {
        let mut page = PresenceHistoryPage::default();
        let mut bytes = 0;
        let mut last = None;
        for (at, events, message) in places {
            let time_ms = events.timestamp_ms;
            let is_wanted = query.after.as_ref().is_none_or(|after| match query.direction {
                Direction::Forwards => at > *after,
                Direction::Backwards => at < *after,
            }) && query.start_ms.is_none_or(|start| time_ms >= start)
                && query.end_ms.is_none_or(|end| time_ms <= end)
                && query.until.as_ref().is_none_or(|until| at.serial <= *until);
            if !is_wanted {
                continue;
            }
            if page.events.len() == query.limit || bytes > bytes_max {
                page.next = last;
                break;
            }
            bytes += message.size_bytes();
            page.events.push(Arc::clone(message));
            last = Some(at);
        }
        page
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::tests::{parsed, payload};
    use super::super::{Capability, decode};
    use super::*;

    const BYTES_MAX: u64 = 65536;

    /// What becomes of a PRESENCE with these members, sent by `conn` as its message 7.
    fn check_as(
        identity: &Identity,
        format: Format,
        presence: &Value,
    ) -> Result<Option<PresenceRequest>, ErrorInfo> {
        let pm = json!({ "action": 14, "channel": "room", "msgSerial": 7, "presence": presence });
        let message = decode(format, &payload(format, &pm)).expect("decodable");
        assert_eq!(message.action, Action::Presence);
        let capability = Capability::parse(r#"{"room":["presence"]}"#).expect("valid");
        let publisher = Publisher {
            id: "conn:7".to_owned(),
            connection_id: Some("conn"),
            identity,
            capability: &capability,
            has_mutable_messages: false,
        };
        PresenceRequest::check("room", message.presence, &publisher, BYTES_MAX)
    }

    fn code_as(identity: &Identity, presence: &Value) -> u32 {
        let codes = Format::ALL
            .map(|format| check_as(identity, format, presence).expect_err("refused").code.0);
        assert_eq!(codes[0], codes[1]);
        codes[0]
    }

    #[test]
    fn a_request_is_read_from_both_formats_and_stamped() {
        let alice = Identity::Client("alice".into());
        for format in Format::ALL {
            let presence = json!([
                { "action": 2, "data": { "a": 1 }, "extras": { "headers": { "k": "v" } } },
                { "action": 4, "clientId": "alice", "data": "x", "encoding": "utf-8" },
                { "action": 3, "id": "conn:3:1" },
                { "action": 1 },
                { "action": 0 },
                { "action": 0, "clientId": "alice" },
            ]);
            let request = check_as(&alice, format, &presence).expect("accepted").expect("work");
            assert_eq!((&*request.id, &*request.connection_id), ("conn:7", "conn"));
            let change = |action, id: &str, data, encoding: Option<&str>, extras: Option<&str>| {
                PresenceChange {
                    action,
                    id: id.into(),
                    has_chosen_id: id == "conn:3:1",
                    client_id: "alice".into(),
                    data,
                    encoding: encoding.map(Box::from),
                    extras: extras.map(Box::from),
                }
            };
            let text = |text: &str| Data::Text(text.into());
            let headers = r#"{"headers":{"k":"v"}}"#;
            assert_eq!(
                request.changes,
                [
                    change(
                        PresenceAction::Enter,
                        "conn:7:0",
                        text(r#"{"a":1}"#),
                        Some("json"),
                        Some(headers)
                    ),
                    change(PresenceAction::Update, "conn:7:1", text("x"), Some("utf-8"), None),
                    change(PresenceAction::Leave, "conn:3:1", Data::None, None, None),
                    // PRESENT enters, ABSENT is nothing.
                    change(PresenceAction::Enter, "conn:7:3", Data::None, None, None),
                ]
            );
            assert_eq!(check_as(&alice, format, &json!([{ "action": 0 }])), Ok(None));
        }
    }

    #[test]
    fn who_a_member_is_has_to_be_permitted() {
        let (alice, anybody) = (Identity::Client("alice".into()), Identity::Wildcard);
        let bob = json!([{ "action": 2, "clientId": "bob" }]);
        let nobody = json!([{ "action": 2 }]);
        assert_eq!(code_as(&alice, &bob), 40012);
        assert_eq!(code_as(&Identity::Anonymous, &bob), 40012);
        assert_eq!(code_as(&Identity::Anonymous, &nobody), 91000);
        assert_eq!(code_as(&anybody, &nobody), 91000);
        for wrong in [json!("*"), json!(""), json!(7)] {
            assert_eq!(code_as(&anybody, &json!([{ "action": 2, "clientId": wrong }])), 40012);
        }
        let request = check_as(&anybody, Format::Json, &bob).expect("accepted").expect("work");
        assert_eq!(&*request.changes[0].client_id, "bob");
    }

    #[test]
    fn what_cannot_be_is_refused_as_a_whole() {
        let alice = Identity::Client("alice".into());
        for (member, code) in [
            (json!({ "action": 5 }), 40000),
            (json!({ "action": "enter" }), 40000),
            (json!("alice"), 40000),
            (json!({ "action": 2, "id": 7 }), 40031),
            (json!({ "action": 2, "id": "x".repeat(257) }), 40031),
            (json!({ "action": 2, "encoding": 7 }), 40013),
            (json!({ "action": 2, "connectionId": "other" }), 40006),
            (json!({ "action": 2, "extras": [] }), 40032),
            (json!({ "action": 2, "data": "x".repeat(65537) }), 40009),
        ] {
            let good = json!({ "action": 2 });
            assert_eq!(code_as(&alice, &json!([good, member])), code, "{member:.80}");
        }
        assert_eq!(code_as(&alice, &json!([])), 40000);
        assert_eq!(code_as(&alice, &json!(vec![json!({ "action": 2 }); 1001])), 40034);
        let whole = json!([{ "action": 2, "data": "x".repeat(65536) }]);
        assert!(check_as(&alice, Format::Json, &whole).is_ok());
        let publisher = Publisher {
            id: "conn:7".to_owned(),
            connection_id: Some("conn"),
            identity: &alice,
            capability: &Capability::parse(r#"{"room":["subscribe"]}"#).expect("valid"),
            has_mutable_messages: false,
        };
        let refused = PresenceRequest::check("room", Some(Vec::new()), &publisher, BYTES_MAX);
        assert_eq!(refused.expect_err("refused").code, ErrorCode::CAPABILITY_DENIED);
    }

    fn member(id: Option<&str>, data: Data) -> Arc<PresenceMessage> {
        Arc::new(PresenceMessage {
            action: PresenceAction::Update,
            id: id.map(Box::from),
            connection_id: "conn".into(),
            client_id: "alice".into(),
            data,
            encoding: Some("cipher+aes-128-cbc".into()),
            extras: Some(r#"{"headers":{"k":9007199254740993}}"#.into()),
            timestamp_ms: 1_826_232_498_871,
        })
    }

    #[test]
    fn events_and_members_are_complete_in_both_formats() {
        let bytes = || Data::Binary(vec![0, 255].into());
        for (format, data, encoding) in [
            (Format::Json, json!("AP8="), "cipher+aes-128-cbc/base64"),
            (Format::MsgPack, json!({ "bin": "AP8=" }), "cipher+aes-128-cbc"),
        ] {
            let shown = |action: u64| {
                json!({
                    "action": action, "id": "conn:7:0", "connectionId": "conn",
                    "clientId": "alice", "timestamp": 1_826_232_498_871u64, "data": data,
                    "encoding": encoding, "extras": { "headers": { "k": 9007199254740993u64 } },
                })
            };
            let message = member(Some("conn:7:0"), bytes());
            let events = PresenceEvents {
                channel_serial: "01826232498871-002@loc0abcdef".parse().expect("well-formed"),
                id: Some("conn:7".into()),
                timestamp_ms: 1_826_232_498_871,
                messages: vec![Arc::clone(&message)],
            };
            let mut out = Vec::new();
            encode_presence(format, "room", &events, &mut out);
            let expected = json!({
                "action": 14, "id": "conn:7", "channel": "room",
                "channelSerial": "01826232498871-002@loc0abcdef",
                "timestamp": 1_826_232_498_871u64, "presence": [shown(4)],
            });
            assert_eq!(parsed(format, &out), expected);

            let mut out = Vec::new();
            encode_sync(format, "room", "1", [&*message].into_iter(), &mut out);
            let expected = json!({
                "action": 16, "channel": "room", "channelSerial": "members:1",
                "presence": [shown(1)],
            });
            assert_eq!(parsed(format, &out), expected);

            let out = encode_members(format, [&*message].into_iter());
            assert_eq!(parsed(format, &out), json!([shown(1)]));
            let out = encode_presence_history(format, [&*message].into_iter());
            assert_eq!(parsed(format, &out), json!([shown(4)]));
        }
    }

    #[test]
    fn what_the_server_made_up_has_no_id_anywhere() {
        let events = PresenceEvents {
            channel_serial: "01826232498871-002@loc0abcdef".parse().expect("well-formed"),
            id: None,
            timestamp_ms: 1_826_232_498_871,
            messages: vec![member(None, Data::None)],
        };
        let mut out = Vec::new();
        encode_presence(Format::Json, "room", &events, &mut out);
        let shown = parsed(Format::Json, &out);
        assert_eq!(shown.get("id"), None);
        assert_eq!(shown["presence"][0].get("id"), None);
        assert_eq!(shown["presence"][0]["connectionId"], "conn");
    }

    #[test]
    fn ids_are_ordered_as_clients_order_them() {
        let known = member(Some("conn:7:1"), Data::None);
        for (id, older) in [
            ("conn:7:2", Some(true)),
            ("conn:10:0", Some(true)),
            ("conn:7:1", Some(false)),
            ("conn:7:0", Some(false)),
            ("conn:6:9", Some(false)),
            ("other:8:0", None),
            ("connection:8:0", None),
            ("conn:8", None),
            ("conn:x:0", None),
        ] {
            assert_eq!(known.is_older_than(id), older, "{id}");
        }
        assert_eq!(member(None, Data::None).is_older_than("conn:8:0"), None);
    }
}
