//! Rules that are asked before a publish (15.9): what they are asked, how their answer is read, and what
//! it makes of the publish.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::checks::check_encoding;
use super::extras::{USER_CLAIM, check_shape_of_extras, extras_entry, with_entry};
use super::json::JsonValue;
use super::message::write_data;
use super::rule::{ENVELOPE_BYTES, SITE, skips};
use super::value::{Field, Node, Value};
use super::writer::{MapWriter, write_map};
use super::{
    Accepted, Data, Draft, ErrorCode, ErrorInfo, Format, MESSAGES_MAX, Message, MessageAction,
    Mutation, Rule,
};

/// Bytes of what a rule says of a rejection, for the publisher.
const DETAIL_BYTES_MAX: usize = 4096;

/// Bytes of the reason for a rejection.
const REASON_BYTES_MAX: usize = 512;

/// What chat SDKs call their messages.
const CHAT_MESSAGE: &str = "chat.message";

/// What the names of chat SDKs' channels have behind that of the room.
const CHAT_CHANNEL: &str = "::$chat";

/// In extras: whatever clients and rules tell each other.
const HEADERS: &str = "headers";

/// In extras: what takes a permission of its own.
const PRIVILEGED: &str = "privileged";

/// What becomes of a publish when a rule cannot be asked, or its answer not be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// It is refused.
    Reject,
    /// It is published as it is.
    Publish,
}

/// What a rule is asked with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuestionShape {
    /// The messages in wire form.
    Messages,
    /// Text, metadata and headers of one chat message; for what is none, as above.
    Chat,
}

/// How a rule is asked before a publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gate {
    /// What happens without an answer.
    pub on_failure: OnFailure,
    /// For one answer, with all repetitions of the question.
    pub timeout: Duration,
    /// Questions about one channel that may be under way.
    pub concurrency: usize,
    /// How often a question is repeated.
    pub retries_max: u32,
    /// Whether it is repeated when it was asked too often.
    pub retries_throttled: bool,
    /// What is asked.
    pub shape: QuestionShape,
}

/// One question, on its way to its rule.
#[derive(Clone, Debug)]
pub struct Inquiry {
    /// The rule.
    pub rule: Arc<Rule>,
    /// The shard that asks.
    pub shard: u16,
    /// Its number for the question.
    pub number: u64,
    /// What the question is about.
    pub channel: Box<str>,
    /// JSON.
    pub body: Bytes,
}

/// What a rule has decided about a publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may be published.
    Accept,
    /// These take the place of its messages.
    Replace(Vec<Replacement>),
    /// Its publisher is told this.
    Reject(ErrorInfo),
    /// There is an answer and no decision; why, in few words.
    Failed(&'static str),
    /// There is no answer; why, in few words.
    Unanswered(&'static str),
}

/// An inquiry's number and what has come of it.
pub type Answered = (u64, Verdict);

/// What a rule wants published instead of one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Replacement {
    /// A message in wire form.
    Message(Box<Draft>),
    /// The three parts of a chat message.
    Chat {
        /// Not empty.
        text: Box<str>,
        /// JSON text of an object.
        metadata: Box<str>,
        /// JSON text of an object.
        headers: Option<Box<str>>,
    },
}

impl Gate {
    /// The question about a publish.
    pub fn question(
        &self,
        rule: &Rule,
        channel: &str,
        timestamp_ms: u64,
        accepted: &Accepted,
    ) -> Bytes {
        let mut body = Vec::with_capacity(accepted.size_bytes() as usize + ENVELOPE_BYTES);
        let chat = match self.shape {
            QuestionShape::Chat => chat_parts(accepted),
            QuestionShape::Messages => None,
        };
        write_map(Format::Json, &mut body, |map| {
            map.str("source", rule.source.name());
            map.str("appId", &rule.app_id);
            map.str("channel", channel);
            map.str("site", SITE);
            map.str("ruleId", &rule.id);
            map.str("invocationMode", "BEFORE_PUBLISH");
            map.uint("timestamp", timestamp_ms);
            match chat {
                Some(chat) => {
                    let room = channel.split_once(CHAT_CHANNEL).map_or(channel, |(room, _)| room);
                    map.str("room", room);
                    map.map("message", |map| chat.write(map));
                }
                None => write_accepted(map, timestamp_ms, accepted),
            }
        });
        body.into()
    }
}

/// Writes what is to be published, as subscribers would get it, without the place that it does not have.
fn write_accepted(map: &mut MapWriter<'_>, timestamp_ms: u64, accepted: &Accepted) {
    let write = |map: &mut MapWriter<'_>, message: &Message, connection_id: Option<&str>| {
        map.opt_str("id", message.id.as_deref());
        map.opt_str("connectionId", connection_id);
        map.uint("timestamp", timestamp_ms);
        map.opt_str("clientId", message.client_id.as_deref());
        map.opt_str("name", message.name.as_deref());
        write_data(map, Format::Json, &message.data, message.encoding.as_deref());
        if let Some(extras) = &message.extras {
            map.json("extras", extras);
        }
    };
    match accepted {
        Accepted::Messages(messages) => {
            map.array("messages", messages.messages.iter(), |message, out| {
                write_map(Format::Json, out, |map| {
                    write(map, message, messages.connection_id.as_deref());
                    map.uint("action", MessageAction::Create as u64);
                });
            });
        }
        Accepted::Mutation(mutation) => {
            map.array("messages", std::iter::once(mutation), |mutation, out| {
                write_map(Format::Json, out, |map| {
                    write(map, &mutation.patch, mutation.connection_id());
                    map.uint("action", mutation.action() as u64);
                    map.str("serial", &mutation.message().to_string());
                    map.map("version", |map| write_operation(map, mutation));
                });
            });
        }
        Accepted::Annotations(_) => unreachable!("no rule is asked about annotations"),
    }
}

/// Writes who changes a message, and why.
fn write_operation(map: &mut MapWriter<'_>, mutation: &Mutation) {
    map.opt_str("clientId", mutation.operator.as_deref());
    map.opt_str("description", mutation.description.as_deref());
    if let Some(metadata) = &mutation.metadata {
        map.json("metadata", metadata);
    }
}

/// What chat SDKs put into a message.
struct ChatParts<'a> {
    client_id: Option<&'a str>,
    data: JsonValue<'a>,
    extras: Option<&'a str>,
    /// The change, where it is none that creates.
    mutation: Option<&'a Mutation>,
}

impl ChatParts<'_> {
    fn write(&self, map: &mut MapWriter<'_>) {
        map.opt_str("clientId", self.client_id);
        for name in ["text", "metadata"] {
            if let Some((_, value)) = self.data.entries().find(|(key, _)| key == name) {
                map.json(name, &value.to_json());
            }
        }
        for name in [HEADERS, USER_CLAIM] {
            if let Some(value) = self.extras.and_then(|extras| extras_entry(extras, name)) {
                map.json(name, &value.to_json());
            }
        }
        if let Some(mutation) = self.mutation {
            map.uint("action", mutation.action() as u64);
            map.str("serial", &mutation.message().to_string());
            map.map("version", |map| write_operation(map, mutation));
        }
    }
}

/// The parts of what is to be published, if it is one chat message.
fn chat_parts(accepted: &Accepted) -> Option<ChatParts<'_>> {
    let (message, client_id, mutation) = match accepted {
        Accepted::Messages(messages) => match &messages.messages[..] {
            [message] => (message, message.client_id.as_deref(), None),
            _ => return None,
        },
        Accepted::Mutation(mutation) => {
            (&mutation.patch, mutation.operator.as_deref(), Some(&**mutation))
        }
        Accepted::Annotations(_) => return None,
    };
    // A change that leaves the name is of whatever it was.
    let is_chat = match &message.name {
        Some(name) => **name == *CHAT_MESSAGE,
        None => mutation.is_some(),
    };
    let (Data::Text(data), Some("json")) = (&message.data, message.encoding.as_deref()) else {
        return None;
    };
    // A client may call anything JSON.
    let data = JsonValue::parse(data.as_bytes()).ok().filter(|_| is_chat)?;
    let is_text = |(key, value): (_, JsonValue<'_>)| key == "text" && value.str().is_some();
    let extras = message.extras.as_deref();
    data.entries().any(is_text).then_some(ChatParts { client_id, data, extras, mutation })
}

/// Reads the answer to a question.
///
/// # Errors
/// Why it is none.
pub fn read_verdict(body: &[u8]) -> Result<Verdict, &'static str> {
    let answer = JsonValue::parse(body).ok().filter(|answer| answer.node() == Node::Map);
    let answer = answer.ok_or("the answer is no JSON object")?;
    let (mut action, mut message, mut messages) = (None, None, None);
    let (mut code, mut reason, mut detail) = (None, None, None);
    for (key, value) in answer.entries().filter(|(_, value)| value.node() != Node::Null) {
        match &*key {
            "action" => action = value.str(),
            "message" => message = Some(value),
            "messages" => messages = Some(value),
            "code" => code = Some(value),
            "reason" => reason = Some(value),
            "rejectionDetail" => detail = Some(value),
            _ => {}
        }
    }
    match action.as_deref() {
        Some("accept") => match (messages, message) {
            (None, None) => Ok(Verdict::Accept),
            (Some(messages), None) if messages.node() == Node::Array => {
                if messages.items().nth(MESSAGES_MAX).is_some() {
                    return Err("the answer has more than 1000 messages");
                }
                let read = messages.items().map(read_replacement).collect::<Result<_, _>>()?;
                Ok(Verdict::Replace(read))
            }
            (None, Some(message)) => Ok(Verdict::Replace(vec![read_replacement(message)?])),
            _ => Err("the answer wants an array `messages` or an object `message`"),
        },
        Some("reject") => {
            let mut error =
                ErrorInfo::new(ErrorCode::REJECTED_BY_RULE, "rejected by a rule of the channel");
            if let Some(code) = code {
                // What is wrong with credentials makes clients get new ones; that is not for a rule.
                let codes = code.uint().filter(|code| (40_000..50_000).contains(code));
                let code = codes.filter(|code| !(40_100..40_200).contains(code));
                let code = code.ok_or("the answer's code is no number that a rule may use")?;
                error.code = ErrorCode(code as u32);
                error.status = error.code.status();
            }
            if let Some(reason) = reason {
                let reason = reason.str().filter(|text| text.len() <= REASON_BYTES_MAX);
                let reason = reason.ok_or("the answer's reason is no string of 512 bytes")?;
                error.message = reason.into_owned().into();
            }
            if let Some(detail) = detail {
                let is_flat = detail.entries().all(|(_, value)| value.str().is_some());
                let text = detail.to_json();
                if detail.node() != Node::Map || !is_flat || text.len() > DETAIL_BYTES_MAX {
                    return Err(
                        "the answer's rejectionDetail is no object of strings of 4096 bytes",
                    );
                }
                error.detail = Some(text.into());
            }
            Ok(Verdict::Reject(error))
        }
        _ => Err("the answer's action is neither accept nor reject"),
    }
}

fn read_replacement(message: JsonValue<'_>) -> Result<Replacement, &'static str> {
    if message.node() != Node::Map {
        return Err("a message of the answer is no object");
    }
    let entry = |name: &str| {
        let mut entries = message.entries();
        entries.find(|(key, value)| key == name && value.node() != Node::Null).map(|(_, v)| v)
    };
    let (Some(text), None) = (entry("text"), entry("data")) else {
        return Ok(Replacement::Message(Box::new(Draft::read(message))));
    };
    let text = text.str().filter(|text| !text.is_empty());
    let text = text.ok_or("a message's text is no string, or empty")?;
    let object = |name: &str| match entry(name) {
        Some(value) if value.node() == Node::Map => Ok(Some(value.to_json())),
        Some(_) => Err("a message's metadata or headers are no object"),
        None => Ok(None),
    };
    let metadata = object("metadata")?.unwrap_or_else(|| "{}".into());
    Ok(Replacement::Chat { text: text.into(), metadata, headers: object(HEADERS)? })
}

impl Accepted {
    /// Whether a rule has nothing to say about it: it is about annotations, or all of it skips the rule.
    pub fn passes(&self, rule: &Rule) -> bool {
        match self {
            Accepted::Messages(messages) => {
                messages.messages.iter().all(|message| skips(message, &rule.id))
            }
            Accepted::Mutation(mutation) => skips(&mutation.patch, &rule.id),
            Accepted::Annotations(_) => true,
        }
    }

    /// What is published instead, of `bytes_max` bytes at most: name, data and extras are the rule's. Who
    /// published, under which ids, and what the server knows of that stays.
    ///
    /// # Errors
    /// Why that cannot be published.
    pub fn replaced(
        mut self,
        replacements: Vec<Replacement>,
        bytes_max: u64,
    ) -> Result<Accepted, &'static str> {
        // With what the server has added it may be larger than its publisher could make it.
        let bytes_max = bytes_max.max(self.charged_bytes());
        match &mut self {
            Accepted::Messages(messages) => {
                if messages.messages.len() != replacements.len() {
                    return Err("the answer has another number of messages than the publish");
                }
                let connection_id = messages.connection_id.as_deref();
                for (message, replacement) in messages.messages.iter_mut().zip(replacements) {
                    if let Replacement::Message(draft) = &replacement
                        && (draft.action != 0 || draft.serial.is_some())
                    {
                        return Err("a message of the answer is another than was asked about");
                    }
                    replace(message, replacement, connection_id)?;
                }
            }
            Accepted::Mutation(mutation) => {
                let mut replacements = replacements.into_iter();
                let (Some(replacement), None) = (replacements.next(), replacements.next()) else {
                    return Err("the answer has another number of messages than the publish");
                };
                if let Replacement::Message(draft) = &replacement {
                    let serial = mutation.message().to_string();
                    let is_other = draft.action != 0 && draft.action != mutation.action() as u64;
                    if is_other || !is_same(draft.serial.as_ref(), Some(&serial)) {
                        return Err("a message of the answer is another than was asked about");
                    }
                }
                let connection_id = mutation.connection_id().map(Box::<str>::from);
                replace(&mut mutation.patch, replacement, connection_id.as_deref())?;
            }
            Accepted::Annotations(_) => return Err("annotations cannot be replaced"),
        }
        match self.charged_bytes() <= bytes_max {
            true => Ok(self),
            false => Err("the messages of the answer are larger than a publish may be"),
        }
    }
}

/// Whether `given`, if it is, says what is known.
fn is_same(given: Option<&Field>, known: Option<&str>) -> bool {
    match given {
        None => true,
        Some(Field::Text(text)) => Some(&**text) == known,
        Some(Field::NotText) => false,
    }
}

fn replace(
    message: &mut Message,
    replacement: Replacement,
    connection_id: Option<&str>,
) -> Result<(), &'static str> {
    let entry = |name: &str| {
        let extras = message.extras.as_deref();
        extras.and_then(|extras| extras_entry(extras, name)).map(|value| value.to_json())
    };
    match replacement {
        Replacement::Chat { text, metadata, headers } => {
            let mut data = Vec::new();
            write_map(Format::Json, &mut data, |map| {
                map.str("text", &text);
                map.json("metadata", &metadata);
            });
            let data = String::from_utf8(data).expect("JSON is text");
            (message.data, message.encoding) = (Data::Text(data.into()), Some("json".into()));
            message.extras = with_entry(message.extras.take(), HEADERS, headers.as_deref());
            if let Some(extras) = &message.extras {
                check_shape_of_extras(extras).map_err(|_| "a message's headers nest")?;
            }
        }
        Replacement::Message(draft) => {
            let is_its_own = is_same(draft.id.as_ref(), message.id.as_deref())
                && is_same(draft.client_id.as_ref(), message.client_id.as_deref())
                && is_same(draft.connection_id.as_ref(), connection_id)
                && draft.connection_key.is_none();
            if !is_its_own {
                return Err("an answer cannot change id, clientId or connectionId of a message");
            }
            check_encoding(draft.encoding.as_deref(), draft.has_bad_encoding)
                .map_err(|_| "a message of the answer has no valid encoding")?;
            let name = match draft.name {
                Some(Field::NotText) => return Err("a message's name is no string"),
                Some(Field::Text(name)) => Some(name),
                None => None,
            };
            let mut extras = draft.extras;
            if let Some(extras) = &extras {
                check_shape_of_extras(extras).map_err(|_| "a message's extras are not valid")?;
                if extras_entry(extras, "delta").is_some() {
                    return Err("extras.delta is set by the server only");
                }
            }
            for name in [USER_CLAIM, PRIVILEGED] {
                extras = with_entry(extras, name, entry(name).as_deref());
            }
            (message.name, message.extras) = (name, extras);
            (message.data, message.encoding) = (draft.data, draft.encoding);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value as Json, json};

    use super::*;
    use crate::ably::{
        Capability, ChannelFilter, Identity, Params, Publisher, RequestShape, RuleSource, WhenFull,
        decode, validate,
    };

    const GATE: Gate = Gate {
        on_failure: OnFailure::Reject,
        timeout: Duration::from_secs(5),
        concurrency: 1,
        retries_max: 3,
        retries_throttled: true,
        shape: QuestionShape::Messages,
    };

    fn rule(shape: QuestionShape) -> Rule {
        let filter = ChannelFilter::compile("").expect("a filter");
        let (source, full) = (RuleSource::Message, WhenFull::DropOldest);
        let request = RequestShape::Enveloped;
        Rule::new("ask", "app", source, filter, request, Format::Json, full, 4096)
            .with_gate(Gate { shape, ..GATE })
    }

    fn accept(messages: &Json) -> Accepted {
        let payload = json!({ "action": 15, "messages": messages }).to_string();
        let drafts = decode(Format::Json, payload.as_bytes()).expect("well-formed").messages;
        let publisher = Publisher {
            id: "conn:7".into(),
            connection_id: Some("conn"),
            identity: &Identity::Client("ann".into()),
            capability: &Capability::all(),
            has_mutable_messages: true,
        };
        let accepted = validate("room", drafts, &Params::default(), &publisher, 65_536);
        accepted.expect("valid").claimed(Some("moderator"))
    }

    fn question(shape: QuestionShape, channel: &str, accepted: &Accepted) -> Json {
        let rule = rule(shape);
        let gate = rule.gate.expect("it has one");
        let body = gate.question(&rule, channel, 1_700_000_000_000, accepted);
        serde_json::from_slice(&body).expect("JSON")
    }

    fn replaced(accepted: Accepted, answer: &Json) -> Result<Json, &'static str> {
        let verdict = read_verdict(answer.to_string().as_bytes())?;
        let Verdict::Replace(messages) = verdict else { panic!("{verdict:?}") };
        let accepted = accepted.replaced(messages, 200)?;
        Ok(question(QuestionShape::Messages, "room", &accepted)["messages"].clone())
    }

    const SERIAL: &str = "01826232498871-002@loc0abcdef:003";

    #[test]
    fn a_question_has_the_messages_as_subscribers_would_get_them() {
        let accepted = accept(&json!([{"name": "said", "data": {"a": 1}}, {"data": "hi"}]));
        let asked = question(QuestionShape::Messages, "room", &accepted);
        assert_eq!(
            (&asked["source"], &asked["ruleId"]),
            (&json!("channel.message"), &json!("ask"))
        );
        assert_eq!(asked["invocationMode"], "BEFORE_PUBLISH");
        assert_eq!((&asked["channel"], &asked["appId"]), (&json!("room"), &json!("app")));
        let expected = json!({
            "id": "conn:7:0", "connectionId": "conn", "timestamp": 1_700_000_000_000_u64,
            "clientId": "ann", "name": "said", "data": r#"{"a":1}"#, "encoding": "json",
            "extras": {"userClaim": "moderator"}, "action": 0,
        });
        assert_eq!(asked["messages"][0], expected);
        assert_eq!(asked["messages"][1]["data"], "hi");
        let change = json!([{"action": 2, "serial": SERIAL, "version": {"description": "rude"}}]);
        let asked = question(QuestionShape::Messages, "room", &accept(&change));
        let [change] = &asked["messages"].as_array().expect("an array")[..] else { panic!() };
        assert_eq!((&change["action"], &change["serial"]), (&json!(2), &json!(SERIAL)));
        assert_eq!(change["version"], json!({"clientId": "ann", "description": "rude"}));
    }

    #[test]
    fn a_chat_message_is_asked_about_by_its_parts_and_everything_else_as_it_is() {
        let chat = json!([{"name": "chat.message", "data": {"text": "hi", "metadata": {"m": 1}},
            "extras": {"headers": {"h": "x"}}}]);
        let asked = question(QuestionShape::Chat, "room::$chat", &accept(&chat));
        assert_eq!(asked["room"], "room");
        let expected = json!({"clientId": "ann", "text": "hi", "metadata": {"m": 1},
            "headers": {"h": "x"}, "userClaim": "moderator"});
        assert_eq!(asked["message"], expected);
        assert_eq!(asked["messages"], Json::Null);
        let change = json!([{"action": 1, "serial": SERIAL, "data": {"text": "ho"}}]);
        let asked = question(QuestionShape::Chat, "room", &accept(&change));
        assert_eq!(
            (&asked["message"]["text"], &asked["message"]["action"]),
            (&json!("ho"), &json!(1))
        );
        for other in [
            json!([{"name": "said", "data": {"text": "hi"}}]),
            json!([{"name": "chat.message", "data": "hi"}]),
            json!([{"name": "chat.message", "data": "{", "encoding": "json"}]),
            json!([{"name": "chat.message", "data": {"text": 1}}]),
            json!([chat[0], chat[0]]),
        ] {
            let asked = question(QuestionShape::Chat, "room", &accept(&other));
            assert!(asked["messages"].is_array() && asked["message"].is_null(), "{other}");
        }
    }

    #[test]
    fn an_answer_accepts_replaces_or_rejects_and_anything_else_is_none() {
        let read = |answer: &Json| read_verdict(answer.to_string().as_bytes());
        assert_eq!(read(&json!({"action": "accept"})), Ok(Verdict::Accept));
        assert_eq!(read(&json!({"action": "accept", "message": null})), Ok(Verdict::Accept));
        let Ok(Verdict::Reject(plain)) = read(&json!({"action": "reject"})) else { panic!() };
        assert_eq!((plain.code.0, plain.status, plain.detail), (42211, 422, None));
        let rejection = json!({"action": "reject", "code": 42213, "reason": "rude",
            "rejectionDetail": {"word": "darn"}});
        let Ok(Verdict::Reject(error)) = read(&rejection) else { panic!() };
        assert_eq!((error.code.0, error.status, &*error.message), (42213, 422, "rude"));
        assert_eq!(error.detail.as_deref(), Some(r#"{"word":"darn"}"#));
        for wrong in [
            json!([]),
            json!({}),
            json!({"action": "maybe"}),
            json!({"action": "reject", "code": 40142}),
            json!({"action": "reject", "code": "rude"}),
            json!({"action": "reject", "reason": "x".repeat(513)}),
            json!({"action": "reject", "rejectionDetail": {"deep": {}}}),
            json!({"action": "reject", "rejectionDetail": {"long": "x".repeat(4096)}}),
            json!({"action": "accept", "message": "hi"}),
            json!({"action": "accept", "messages": {"data": "hi"}}),
            json!({"action": "accept", "messages": [1]}),
            json!({"action": "accept", "message": {"text": ""}}),
            json!({"action": "accept", "message": {"text": "a", "headers": 1}}),
            json!({"action": "accept", "messages": vec![json!({}); 1001]}),
        ] {
            assert!(read(&wrong).is_err(), "{wrong}");
        }
        assert!(read_verdict(b"").is_err());
    }

    #[test]
    fn a_replacement_is_the_rules_but_for_who_published_it() {
        let original = || accept(&json!([{"name": "said", "data": "darn", "extras": {"a": 1}}]));
        let answer = json!({"action": "accept", "messages": [{"name": "said", "data": "****"}]});
        let messages = replaced(original(), &answer).expect("valid");
        let expected = json!([{
            "id": "conn:7:0", "connectionId": "conn", "timestamp": 1_700_000_000_000_u64,
            "clientId": "ann", "name": "said", "data": "****",
            "extras": {"userClaim": "moderator"}, "action": 0,
        }]);
        assert_eq!(messages, expected);
        // What it was asked about may come back, and what only the server says stays what it was.
        let echo = json!({"id": "conn:7:0", "clientId": "ann", "connectionId": "conn", "action": 0,
            "data": "AA==", "encoding": "base64",
            "extras": {"userClaim": "admin", "privileged": {"skipRule": "*"}}});
        let answer = json!({"action": "accept", "message": echo});
        let messages = replaced(original(), &answer).expect("valid");
        assert_eq!(messages[0]["extras"], json!({"userClaim": "moderator"}));
        assert_eq!(
            (&messages[0]["data"], &messages[0]["encoding"]),
            (&json!("AA=="), &json!("base64"))
        );
        for wrong in [
            json!({"clientId": "bob"}),
            json!({"id": "mine"}),
            json!({"connectionId": "other"}),
            json!({"connectionKey": "key"}),
            json!({"name": 1}),
            json!({"encoding": 1}),
            json!({"extras": 1}),
            json!({"extras": {"headers": {"deep": {}}}}),
            json!({"extras": {"delta": {}}}),
            json!({"action": 1}),
            json!({"serial": SERIAL}),
            json!({"data": "x".repeat(201)}),
        ] {
            let answer = json!({"action": "accept", "messages": [wrong]});
            assert!(replaced(original(), &answer).is_err(), "{wrong}");
        }
        for count in [0, 2] {
            let answer = json!({"action": "accept", "messages": vec![json!({"data": "a"}); count]});
            assert!(replaced(original(), &answer).is_err(), "{count}");
        }
    }

    #[test]
    fn a_chat_replacement_takes_the_place_of_text_metadata_and_headers() {
        let original = accept(
            &json!([{"name": "chat.message", "data": {"text": "darn", "metadata": {"m": 1}},
            "extras": {"headers": {"h": "x"}, "ref": 1}}]),
        );
        let answer =
            json!({"action": "accept", "message": {"text": "****", "headers": {"masked": true}}});
        let messages = replaced(original, &answer).expect("valid");
        assert_eq!(messages[0]["name"], "chat.message");
        assert_eq!(messages[0]["data"], r#"{"text":"****","metadata":{}}"#);
        let extras = json!({"ref": 1, "userClaim": "moderator", "headers": {"masked": true}});
        assert_eq!(messages[0]["extras"], extras);
    }

    #[test]
    fn a_change_is_replaced_as_the_same_change() {
        let original = || accept(&json!([{"action": 5, "serial": SERIAL, "data": "darn"}]));
        for same in
            [json!({"data": "****"}), json!({"data": "****", "action": 5, "serial": SERIAL})]
        {
            let answer = json!({"action": "accept", "messages": [same]});
            let messages = replaced(original(), &answer).expect("valid");
            assert_eq!((&messages[0]["action"], &messages[0]["data"]), (&json!(5), &json!("****")));
        }
        for other in [json!({"action": 1}), json!({"serial": "other"})] {
            let answer = json!({"action": "accept", "messages": [other]});
            assert!(replaced(original(), &answer).is_err(), "{other}");
        }
    }
}
