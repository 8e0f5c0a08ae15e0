//! Later versions of a message: what a client may ask to be changed, and what the message is then (8).

use std::sync::Arc;

use super::error::refuse;
use super::extras::{USER_CLAIM, extras_entry, with_user_claim};
use super::value::{Field, Value as _};
use super::{
    Capability, Data, Draft, ErrorCode, ErrorInfo, Identity, Message, Operation, Position,
};

/// What a message tells its subscribers (TM5). A message that is neither a later version nor a summary
/// creates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageAction {
    /// There is a new message.
    Create = 0,
    /// The message is to be replaced by this one.
    Update = 1,
    /// The message is deleted; it may still carry what the deleter left of it.
    Delete = 2,
    /// The message's annotations have changed.
    Summary = 4,
    /// The message's data goes on with this.
    Append = 5,
}

/// One version of a message (TM2s).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// Its place in the channel's order.
    pub serial: Position,
    /// When it was made, in milliseconds since the Unix epoch; later than any version before.
    pub timestamp_ms: u64,
    /// Who made it.
    pub client_id: Option<Box<str>>,
    /// Why, in the maker's words.
    pub description: Option<Box<str>>,
    /// JSON text of an object.
    pub metadata: Option<Box<str>>,
}

/// What a message carries that is no plain first version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revision {
    /// What the message tells.
    pub action: MessageAction,
    /// The message that it is a version of; its own name for good (TM2r).
    pub message: Position,
    /// When that was published, in milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// The connection that published that; none over REST.
    pub connection_id: Option<Box<str>>,
    /// Which version it is.
    pub version: Version,
    /// JSON text of the summary of the annotations, if there are any (TM8).
    pub summary: Option<Arc<str>>,
}

impl Revision {
    /// Bytes that it takes in memory, about.
    pub fn size_bytes(&self) -> u64 {
        let text = |text: &Option<Box<str>>| text.as_deref().map_or(0, str::len);
        let Version { client_id, description, metadata, .. } = &self.version;
        let summary = self.summary.as_deref().map_or(0, str::len);
        let texts = text(client_id) + text(description) + text(metadata) + summary;
        (size_of::<Revision>() + texts) as u64
    }
}

/// A change to a message that was checked as far as that is possible away from its channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mutation {
    id: Box<str>,
    connection_id: Option<Box<str>>,
    message: Position,
    pub(super) action: MessageAction,
    pub(super) patch: Message,
    pub(super) operator: Option<Box<str>>,
    pub(super) description: Option<Box<str>>,
    pub(super) metadata: Option<Box<str>>,
    /// Whether only the message's creator may do it, and the operator has to be that.
    only_own: bool,
    pub(super) bytes_max: u64,
}

/// Who wants to change a message, and by what right.
pub(super) struct Mutator<'a> {
    pub id: &'a str,
    pub connection_id: Option<&'a str>,
    pub identity: &'a Identity,
    pub capability: &'a Capability,
    pub has_mutable_messages: bool,
    pub bytes_max: u64,
}

impl Mutation {
    /// Checks what `draft`, whose action is not 0, wants to have changed on the channel `name`; `patch`
    /// is what it carries, checked like a publish.
    ///
    /// # Errors
    /// 40003: it cannot be asked for like this; 40012, 40160, 40166: not by this client; 93002: not on
    /// this channel; 40009: too large; 40400: it cannot be a message of this server.
    pub(super) fn check(
        name: &str,
        draft: &mut Draft,
        patch: Message,
        mutator: &Mutator<'_>,
    ) -> Result<Mutation, ErrorInfo> {
        let (action, any, own) = match draft.action {
            1 => (MessageAction::Update, Operation::MessageUpdateAny, Operation::MessageUpdateOwn),
            2 => (MessageAction::Delete, Operation::MessageDeleteAny, Operation::MessageDeleteOwn),
            5 => (MessageAction::Append, Operation::MessageUpdateAny, Operation::MessageUpdateOwn),
            _ => {
                let text = "clients may create, update, delete and append to messages only";
                return refuse(ErrorCode::INVALID_PARAMETER, text);
            }
        };
        let allows = |operation| mutator.capability.allows(name, operation);
        let only_own = !allows(any);
        if only_own && !allows(own) {
            let text = "the capability does not permit this change of messages here";
            return refuse(ErrorCode::CAPABILITY_DENIED, text);
        }
        if !mutator.has_mutable_messages {
            return Err(not_mutable());
        }
        let version = draft.version.take().unwrap_or_default();
        if version.is_malformed {
            let text = "version is an object with strings clientId and description, and an object metadata";
            return refuse(ErrorCode::INVALID_PARAMETER, text);
        }
        let asserted = mutator.identity.client_id(version.client_id)?;
        let operator = match mutator.identity {
            Identity::Client(own) => Some(own.clone()),
            Identity::Anonymous | Identity::Wildcard => asserted,
        };
        if only_own && operator.is_none() {
            let text = "only identified clients can change their own messages";
            return refuse(ErrorCode::OWN_NEEDS_IDENTITY, text);
        }
        let message = match draft.serial.take() {
            Some(Field::Text(serial)) if !serial.is_empty() => serial,
            _ => {
                return refuse(ErrorCode::INVALID_PARAMETER, "the message to change has no serial");
            }
        };
        let Ok(message) = message.parse() else { return Err(no_such_message()) };
        let mutation = Mutation {
            id: mutator.id.into(),
            connection_id: mutator.connection_id.map(Box::from),
            message,
            action,
            patch,
            operator,
            description: version.description,
            metadata: version.metadata,
            only_own,
            bytes_max: mutator.bytes_max,
        };
        let size_bytes = mutation.charged_bytes();
        if size_bytes > mutator.bytes_max {
            return Err(too_large(size_bytes, mutator.bytes_max));
        }
        Ok(mutation)
    }

    /// The message to be changed.
    pub fn message(&self) -> Position {
        self.message
    }

    /// What is to be done with it.
    pub fn action(&self) -> MessageAction {
        self.action
    }

    /// Id of the publication that it becomes.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The connection that asked for it; none over REST.
    pub fn connection_id(&self) -> Option<&str> {
        self.connection_id.as_deref()
    }

    /// Bytes as the size limit counts them (TM6).
    pub(super) fn charged_bytes(&self) -> u64 {
        self.patch.size_bytes() + self.words_bytes()
    }

    /// The data of an append alone; `None` for any other change.
    pub fn increment(&self) -> Option<Data> {
        (self.action == MessageAction::Append).then(|| self.patch.data.clone())
    }

    /// What becomes of the version `latest` of the message that `creator` published; fields that the
    /// change does not name stay.
    ///
    /// # Errors
    /// 40160: it is not the operator's; 40013: it cannot be appended to; 40009: it would be too large.
    pub fn apply(&self, latest: &Message, creator: Option<&str>) -> Result<Message, ErrorInfo> {
        if self.only_own && creator != self.operator.as_deref() {
            let text = "the capability permits changes of own messages only";
            return refuse(ErrorCode::CAPABILITY_DENIED, text);
        }
        let Message { name, data, encoding, extras, .. } = &self.patch;
        let mut message = Message { revision: None, ..latest.clone() };
        if name.is_some() {
            message.name.clone_from(name);
        }
        if extras.is_some() {
            let known = message.extras.as_deref().and_then(|known| extras_entry(known, USER_CLAIM));
            let user_claim = known.map(|claim| claim.to_json());
            message.extras = with_user_claim(extras.clone(), user_claim.as_deref());
        }
        if *data != Data::None {
            if self.action == MessageAction::Append && message.data != Data::None {
                append(&mut message, data, encoding.as_deref())?;
            } else {
                (message.data, message.encoding) = (data.clone(), encoding.clone());
            }
        }
        let size_bytes = message.size_bytes();
        if size_bytes > self.bytes_max {
            return Err(too_large(size_bytes, self.bytes_max));
        }
        Ok(message)
    }

    /// The version that it makes.
    pub fn version(&self, serial: Position, timestamp_ms: u64) -> Version {
        Version {
            serial,
            timestamp_ms,
            client_id: self.operator.clone(),
            description: self.description.clone(),
            metadata: self.metadata.clone(),
        }
    }

    fn words_bytes(&self) -> u64 {
        let words = [&self.description, &self.metadata];
        words.iter().map(|text| text.as_deref().map_or(0, str::len) as u64).sum()
    }
}

/// The answer to whoever names a message that is not there, or not any more.
pub fn no_such_message() -> ErrorInfo {
    ErrorInfo::new(ErrorCode::NOT_FOUND, "there is no such message, or it is kept no longer")
}

/// The answer to whoever changes or annotates a message of a channel that has not enabled it.
pub(super) fn not_mutable() -> ErrorInfo {
    let text = "messages of this channel cannot be changed or annotated";
    ErrorInfo::new(ErrorCode::MUTATION_NOT_ENABLED, text)
}

fn too_large(size_bytes: u64, bytes_max: u64) -> ErrorInfo {
    let text = format!("the message would have {size_bytes} bytes, the limit is {bytes_max}");
    ErrorInfo::new(ErrorCode::MESSAGE_TOO_LARGE, text)
}

/// Lets the data go on. Text and bytes can be continued; what was encoded as a whole, JSON or
/// ciphertext, would not decode any more.
fn append(message: &mut Message, data: &Data, encoding: Option<&str>) -> Result<(), ErrorInfo> {
    let is_plain = matches!(encoding, None | Some("utf-8"));
    if !is_plain || message.encoding.as_deref() != encoding {
        let text = "only plain text and plain bytes can be appended, each to its like";
        return refuse(ErrorCode::INVALID_DATA, text);
    }
    match (&mut message.data, data) {
        (Data::Text(text), Data::Text(more)) => {
            let mut longer = String::from(std::mem::take(text));
            longer.push_str(more);
            *text = longer.into();
        }
        (Data::Binary(bytes), Data::Binary(more)) => {
            *bytes = [&**bytes, &**more].concat().into();
        }
        _ => {
            let text = "text can be appended to text, and bytes to bytes";
            return refuse(ErrorCode::INVALID_DATA, text);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::ably::{Accepted, Format, Params, Publication, Publisher, decode, validate};
    use crate::ably::{encode_message, encode_publication};

    const SERIAL: &str = "01826232498871-002@loc0abcdef:003";

    /// What becomes of these messages on a channel whose messages are mutable.
    fn accept(
        identity: &Identity,
        capability: &str,
        messages: &Value,
        is_mutable: bool,
    ) -> Result<Accepted, ErrorInfo> {
        let message = json!({ "action": 15, "messages": messages }).to_string();
        let message = decode(Format::Json, message.as_bytes()).expect("well-formed");
        let publisher = Publisher {
            id: "conn:7".into(),
            connection_id: Some("conn"),
            identity,
            capability: &Capability::parse(capability).expect("valid"),
            has_mutable_messages: is_mutable,
        };
        validate("room", message.messages, &Params::default(), &publisher, 100)
    }

    fn mutation_as(
        identity: &Identity,
        operations: &str,
        draft: &Value,
    ) -> Result<Mutation, ErrorInfo> {
        let capability = json!({ "room": operations.split(' ').collect::<Vec<_>>() });
        match accept(identity, &capability.to_string(), &json!([draft]), true)? {
            Accepted::Mutation(mutation) => Ok(*mutation),
            other => panic!("{other:?}"),
        }
    }

    fn mutation(draft: &Value) -> Result<Mutation, ErrorInfo> {
        mutation_as(&Identity::Wildcard, "message-update-any message-delete-any", draft)
    }

    fn created() -> Message {
        Message {
            id: Some("author:0:0".into()),
            name: Some("event".into()),
            data: Data::Text("Hello".into()),
            client_id: Some("author".into()),
            extras: Some(r#"{"headers":{"a":1}}"#.into()),
            ..Message::default()
        }
    }

    fn applied(draft: &Value, to: &Message) -> Result<Message, u32> {
        let mutation = mutation(draft).map_err(|error| error.code.0)?;
        mutation.apply(to, Some("author")).map_err(|error| error.code.0)
    }

    #[test]
    fn a_change_leaves_what_was_claimed_of_the_creator() {
        let extras = |text: &str| Some(Box::<str>::from(text));
        let claimed = Message { extras: extras(r#"{"userClaim":"x"}"#), ..created() };
        for (given, expected) in [
            (json!(null), r#"{"userClaim":"x"}"#),
            (json!({ "userClaim": "x" }), r#"{"userClaim":"x"}"#),
            (json!({ "userClaim": "forged", "b": 2 }), r#"{"b":2,"userClaim":"x"}"#),
        ] {
            let update = json!({ "action": 1, "serial": SERIAL, "data": "y", "extras": given });
            let updated = applied(&update, &claimed).expect("allowed");
            assert_eq!(updated.extras, extras(expected));
        }
        let update = json!({ "action": 1, "serial": SERIAL, "extras": { "userClaim": "forged" } });
        assert_eq!(applied(&update, &created()).expect("allowed").extras, extras("{}"));
    }

    #[test]
    fn fields_that_a_change_names_are_replaced_and_the_others_stay() {
        let update = json!({ "action": 1, "serial": SERIAL, "data": { "a": 1 } });
        let updated = applied(&update, &created()).expect("allowed");
        assert_eq!(updated.data, Data::Text(r#"{"a":1}"#.into()));
        assert_eq!(updated.encoding.as_deref(), Some("json"));
        assert_eq!(Message { data: created().data, encoding: None, ..updated }, created());
        let rename = json!({ "action": 1, "serial": SERIAL, "name": "n", "extras": { "b": 2 } });
        let renamed = applied(&rename, &created()).expect("allowed");
        assert_eq!(renamed.name.as_deref(), Some("n"));
        assert_eq!(renamed.extras.as_deref(), Some(r#"{"b":2}"#));
        assert_eq!(renamed.data, created().data);
        let deleted = applied(&json!({ "action": 2, "serial": SERIAL }), &created());
        assert_eq!(deleted, Ok(created()));
    }

    #[test]
    fn text_goes_on_with_text_and_bytes_with_bytes() {
        let text = |data: &str| Message { data: Data::Text(data.into()), ..created() };
        let bytes = |data: &'static [u8]| Message { data: Data::Binary(data.into()), ..created() };
        let append = |data: Value, encoding: Value| json!({ "action": 5, "serial": SERIAL, "data": data, "encoding": encoding });
        let world = append(json!(" World"), Value::Null);
        assert_eq!(applied(&world, &created()), Ok(text("Hello World")));
        let two = append(json!("AgM="), json!("base64"));
        assert_eq!(applied(&two, &bytes(&[1])), Ok(bytes(&[1, 2, 3])));
        let empty = Message { data: Data::None, ..created() };
        assert_eq!(applied(&world, &empty), Ok(text(" World")));
        let nothing = json!({ "action": 5, "serial": SERIAL });
        assert_eq!(applied(&nothing, &created()), Ok(created()));
        let json = Message { encoding: Some("json".into()), ..text("{}") };
        let cipher = "cipher+aes-128-cbc";
        let encrypted = Message { encoding: Some(cipher.into()), ..bytes(&[1]) };
        for (append, message) in [
            (&world, &json),
            (&world, &bytes(&[1])),
            (&two, &created()),
            (&append(json!({}), Value::Null), &json),
            (&append(json!("AgM="), json!(format!("{cipher}/base64"))), &encrypted),
            (&append(json!(1), Value::Null), &created()),
        ] {
            assert_eq!(applied(append, message), Err(40013), "{append}");
        }
    }

    #[test]
    fn a_message_stays_within_the_limit_however_often_it_is_appended_to() {
        let append = json!({ "action": 5, "serial": SERIAL, "data": "x".repeat(60) });
        // name 5, clientId 6, extras 19
        let once = applied(&append, &Message { data: Data::None, ..created() }).expect("fits");
        assert_eq!(applied(&append, &once), Err(40009));
        let words = json!({ "action": 1, "serial": SERIAL, "data": "x",
            "version": { "description": "y".repeat(100) } });
        assert_eq!(applied(&words, &created()), Err(40009));
    }

    #[test]
    fn what_cannot_be_asked_for_is_refused_with_its_code() {
        let any = r#"{"*":["*"]}"#;
        for (messages, code) in [
            (json!([{ "action": 1 }]), 40003),
            (json!([{ "action": 1, "serial": "" }]), 40003),
            (json!([{ "action": 1, "serial": 1 }]), 40003),
            (json!([{ "action": 3, "serial": SERIAL }]), 40003),
            (json!([{ "action": 4, "serial": SERIAL }]), 40003),
            (json!([{ "action": "update", "serial": SERIAL }]), 40003),
            (json!([{ "action": 1, "serial": SERIAL, "version": 1 }]), 40003),
            (json!([{ "action": 1, "serial": SERIAL, "version": { "description": 1 } }]), 40003),
            (json!([{ "action": 1, "serial": SERIAL, "version": { "metadata": "x" } }]), 40003),
            (json!([{ "action": 1, "serial": SERIAL, "version": { "clientId": "*" } }]), 40012),
            (json!([{ "action": 1, "serial": SERIAL, "name": 1 }]), 40016),
            (json!([{ "action": 1, "serial": SERIAL, "extras": 1 }]), 40032),
            (json!([{ "action": 1, "serial": SERIAL, "encoding": 1 }]), 40013),
            (json!([{ "action": 1, "serial": SERIAL }, {}]), 40000),
            (json!([{}, { "action": 2, "serial": SERIAL }]), 40000),
            (json!([{ "action": 1, "serial": "somewhere-else" }]), 40400),
        ] {
            let error = accept(&Identity::Wildcard, any, &messages, true).expect_err("refused");
            assert_eq!(error.code.0, code, "{messages}");
        }
        let update = json!([{ "action": 1, "serial": SERIAL }]);
        let error = accept(&Identity::Wildcard, any, &update, false).expect_err("not mutable");
        assert_eq!((error.code.0, error.status), (93002, 400));
    }

    #[test]
    fn each_change_needs_its_own_operation() {
        for (operations, allowed) in [
            ("publish", vec![]),
            ("message-update-any", vec![1, 5]),
            ("message-update-own", vec![1, 5]),
            ("message-delete-any", vec![2]),
            ("message-delete-own", vec![2]),
            ("*", vec![1, 2, 5]),
        ] {
            for action in [1, 2, 5] {
                let draft = json!({ "action": action, "serial": SERIAL });
                let identity = Identity::Client("author".into());
                let code = mutation_as(&identity, operations, &draft).map_err(|error| error.code.0);
                let expected = if allowed.contains(&action) { None } else { Some(40160) };
                assert_eq!(code.err(), expected, "{operations} {action}");
            }
        }
    }

    #[test]
    fn own_means_the_same_client_id() {
        let own = "message-update-own";
        let update = |version: Value| json!({ "action": 1, "serial": SERIAL, "version": version });
        let by = |identity: &Identity, draft: &Value| -> Result<(), u32> {
            let mutation = mutation_as(identity, own, draft).map_err(|error| error.code.0)?;
            mutation.apply(&created(), Some("author")).map_err(|error| error.code.0)?;
            Ok(())
        };
        let client = |name: &str| Identity::Client(name.into());
        assert_eq!(by(&client("author"), &update(Value::Null)), Ok(()));
        assert_eq!(by(&client("other"), &update(Value::Null)), Err(40160));
        assert_eq!(by(&client("other"), &update(json!({ "clientId": "author" }))), Err(40012));
        assert_eq!(by(&Identity::Anonymous, &update(Value::Null)), Err(40166));
        assert_eq!(by(&Identity::Anonymous, &update(json!({ "clientId": "author" }))), Err(40012));
        assert_eq!(by(&Identity::Wildcard, &update(Value::Null)), Err(40166));
        assert_eq!(by(&Identity::Wildcard, &update(json!({ "clientId": "author" }))), Ok(()));
        let of_nobody = mutation_as(&client("author"), own, &update(Value::Null)).expect("checked");
        assert!(of_nobody.apply(&Message { client_id: None, ..created() }, None).is_err());
    }

    #[test]
    fn a_client_may_send_back_the_message_that_it_got() {
        let draft = json!({ "action": 1, "serial": SERIAL, "id": "author:0:0", "name": "event",
            "clientId": "author", "connectionId": "elsewhere", "timestamp": 5, "data": "new",
            "annotations": { "summary": {} }, "version": { "serial": SERIAL, "timestamp": 5 } });
        let identity = Identity::Client("editor".into());
        let mutation = mutation_as(&identity, "message-update-any", &draft).expect("allowed");
        let updated = mutation.apply(&created(), Some("author")).expect("allowed");
        assert_eq!(updated, Message { data: Data::Text("new".into()), ..created() });
        let version = mutation.version(SERIAL.parse().expect("a serial"), 6);
        assert_eq!(version.client_id.as_deref(), Some("editor"));
    }

    #[test]
    fn a_later_version_is_its_creators_and_tells_who_changed_it() {
        let message: Position = SERIAL.parse().expect("a serial");
        let revision = Revision {
            action: MessageAction::Delete,
            message,
            created_ms: 5,
            connection_id: None,
            version: Version {
                serial: Position { index: 0, ..message },
                timestamp_ms: 7,
                client_id: Some("editor".into()),
                description: Some("why".into()),
                metadata: Some(r#"{"k":"v"}"#.into()),
            },
            summary: Some(r#"{"a:total.v1":{"total":1}}"#.into()),
        };
        let publication = Publication {
            channel_serial: message.serial,
            id: "conn:7".into(),
            connection_id: Some("conn".into()),
            timestamp_ms: 7,
            messages: vec![Message { revision: Some(Box::new(revision)), ..created() }],
        };
        let expected = json!({ "id": "author:0:0", "name": "event", "data": "Hello",
            "clientId": "author", "extras": { "headers": { "a": 1 } }, "timestamp": 5,
            "action": 2, "serial": SERIAL,
            "version": { "serial": "01826232498871-002@loc0abcdef:000", "timestamp": 7,
                "clientId": "editor", "description": "why", "metadata": { "k": "v" } },
            "annotations": { "summary": { "a:total.v1": { "total": 1 } } } });
        let value = |bytes: Vec<u8>| serde_json::from_slice::<Value>(&bytes).expect("JSON");
        let mut out = Vec::new();
        encode_message(Format::Json, &publication, 0, &mut out);
        assert_eq!(value(std::mem::take(&mut out)), expected);
        encode_publication(Format::Json, "room", &publication, &mut out);
        assert_eq!(
            value(out),
            json!({ "action": 15, "id": "conn:7", "channel": "room", "timestamp": 7,
                "channelSerial": "01826232498871-002@loc0abcdef", "messages": [expected] })
        );
    }
}
