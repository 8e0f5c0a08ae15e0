//! Whether a publish may be made, for realtime and REST alike (4.7), and what it becomes.

use super::annotation::{Annotation, Annotations};
use super::checks::{CHOSEN_ID_BYTES_MAX, check_encoding, check_ids};
use super::error::refuse;
use super::extras::{check_extras, is_ephemeral, with_user_claim};
use super::identity::{Identity, Publisher};
use super::inbound::{Draft, Params};
use super::revision::{Mutation, Mutator};
use super::value::Field;
use super::{ChannelSerial, ErrorCode, ErrorInfo, Message, Operation, Publication};

/// Most messages of one publish (17).
pub const MESSAGES_MAX: usize = 1000;

/// What was checked and waits for its place in the channel's order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// New messages.
    Messages(Messages),
    /// A change to a message.
    Mutation(Box<Mutation>),
    /// Annotations of messages.
    Annotations(Box<Annotations>),
}

impl Accepted {
    /// Whether a connection published it, which then may not want to hear it.
    pub fn is_from_connection(&self) -> bool {
        match self {
            Accepted::Messages(messages) => messages.connection_id.is_some(),
            Accepted::Mutation(mutation) => mutation.connection_id().is_some(),
            Accepted::Annotations(annotations) => annotations.is_from_connection(),
        }
    }

    /// Bytes as the size limit counts them (TM6).
    pub(super) fn charged_bytes(&self) -> u64 {
        match self {
            Accepted::Messages(messages) => messages.messages.iter().map(Message::size_bytes).sum(),
            Accepted::Mutation(mutation) => mutation.charged_bytes(),
            Accepted::Annotations(annotations) => {
                annotations.iter().map(Annotation::size_bytes).sum()
            }
        }
    }

    /// Bytes that it takes in memory, about.
    pub fn size_bytes(&self) -> u64 {
        let structs = match self {
            Accepted::Messages(messages) => size_of::<Message>() * messages.messages.len(),
            Accepted::Mutation(_) => size_of::<Mutation>(),
            Accepted::Annotations(annotations) => {
                size_of::<Annotation>() * annotations.iter().count()
            }
        };
        self.charged_bytes() + structs as u64
    }

    /// Adds what the publisher's token says of it (12.3). An operation on a message leaves that of who
    /// created it.
    pub fn claimed(mut self, user_claim: Option<&str>) -> Accepted {
        if let (Accepted::Messages(messages), Some(claim)) = (&mut self, user_claim) {
            let claim = serde_json::Value::from(claim).to_string();
            for message in &mut messages.messages {
                message.extras = with_user_claim(message.extras.take(), Some(&claim));
            }
        }
        self
    }
}

/// New messages that were checked and wait for their place in the channel's order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Messages {
    id: Box<str>,
    pub(super) connection_id: Option<Box<str>>,
    pub(super) messages: Vec<Message>,
    has_chosen_id: bool,
    is_ephemeral: bool,
}

impl Messages {
    /// What the server itself publishes; `id` is unique.
    pub fn of_server(id: &str, mut messages: Vec<Message>) -> Messages {
        for (index, message) in messages.iter_mut().enumerate() {
            message.id = Some(format!("{id}:{index}").into());
        }
        let (id, connection_id) = (id.into(), None);
        Messages { id, connection_id, messages, has_chosen_id: false, is_ephemeral: false }
    }

    /// The ids that the client chose, one for each message, by which repetitions are recognised (5.2);
    /// none if it chose none.
    pub fn chosen_ids(&self) -> impl Iterator<Item = &str> {
        let messages = self.messages.iter().filter(|_| self.has_chosen_id);
        messages.map(|message| message.id.as_deref().expect("every message has one"))
    }

    /// The same without those that `is_known` names by index, which are not all.
    pub fn without(mut self, is_known: impl Fn(usize) -> bool) -> Messages {
        let mut index = 0..;
        self.messages.retain(|_| !is_known(index.next().expect("endless")));
        self
    }

    /// Whether it is delivered and then forgotten (5.5).
    pub fn is_ephemeral(&self) -> bool {
        self.is_ephemeral
    }

    /// The same, not to be forgotten; for tests of those who are to notice.
    #[cfg(test)]
    pub fn kept(self) -> Messages {
        Messages { is_ephemeral: false, ..self }
    }

    /// Gives them their place.
    pub fn into_publication(self, channel_serial: ChannelSerial, timestamp_ms: u64) -> Publication {
        let Messages { id, connection_id, messages, .. } = self;
        Publication { channel_serial, id, connection_id, timestamp_ms, messages }
    }
}

/// Checks what `publisher` wants to publish on the channel `name`; `drafts` is `None` where an element
/// was no object.
///
/// # Errors
/// The codes of 4.7; the whole publish is refused.
pub fn validate(
    name: &str,
    drafts: Option<Vec<Draft>>,
    params: &Params,
    publisher: &Publisher<'_>,
    bytes_max: u64,
) -> Result<Accepted, ErrorInfo> {
    let mutates = drafts.iter().flatten().any(|draft| draft.action != 0);
    // A change needs another permission, and that depends on the change.
    if !mutates && !publisher.capability.allows(name, Operation::Publish) {
        return refuse(
            ErrorCode::CAPABILITY_DENIED,
            "the capability does not permit publishing here",
        );
    }
    if params.get("_forceNack").is_some() {
        return refuse(ErrorCode::FORCED_NACK, "refused, as was asked for");
    }
    let Some(mut drafts) = drafts else {
        return refuse(ErrorCode::BAD_REQUEST, "messages have to be objects");
    };
    if mutates {
        return mutation(name, &mut drafts, publisher, bytes_max);
    }
    if drafts.is_empty() {
        return refuse(ErrorCode::BAD_REQUEST, "there is no message to publish");
    }
    if drafts.len() > MESSAGES_MAX {
        return refuse(ErrorCode::TOO_MANY_MESSAGES, "more than 1000 messages in one publish");
    }
    let asked_ephemeral = params.get("ephemeral") == Some("true");
    let ephemeral: Vec<bool> = drafts
        .iter()
        .map(|draft| asked_ephemeral || is_ephemeral(draft.extras.as_deref()))
        .collect();
    if ephemeral.iter().any(|&is| is != ephemeral[0]) {
        return refuse(ErrorCode::BAD_REQUEST, "ephemeral and lasting messages in one publish");
    }
    let messages = drafts.into_iter().map(|draft| check(name, draft, publisher));
    let mut messages = messages.collect::<Result<Vec<Message>, ErrorInfo>>()?;
    let size_bytes: u64 = messages.iter().map(Message::size_bytes).sum();
    if size_bytes > bytes_max {
        let text = format!("the publish has {size_bytes} bytes, the limit is {bytes_max}");
        return Err(ErrorInfo::new(ErrorCode::MESSAGE_TOO_LARGE, text));
    }
    // After the size was taken: SDKs measure what they send, and they do not send an implied clientId.
    if let Identity::Client(own) = publisher.identity {
        messages.iter_mut().for_each(|message| message.client_id = Some(own.clone()));
    }
    let has_chosen_id = check_ids(messages.iter().map(|message| message.id.as_deref()))?;
    let id = match &messages[0].id {
        // `<base>:<index>`, or a single message's own id.
        Some(id) => id.strip_suffix(":0").unwrap_or(id).into(),
        None => {
            for (index, message) in messages.iter_mut().enumerate() {
                message.id = Some(format!("{}:{index}", publisher.id).into());
            }
            publisher.id.as_str().into()
        }
    };
    let connection_id = publisher.connection_id.map(Box::from);
    let is_ephemeral = ephemeral[0];
    Ok(Accepted::Messages(Messages { id, connection_id, messages, has_chosen_id, is_ephemeral }))
}

/// Checks a change to a message.
fn mutation(
    name: &str,
    drafts: &mut Vec<Draft>,
    publisher: &Publisher<'_>,
    bytes_max: u64,
) -> Result<Accepted, ErrorInfo> {
    let mutator = Mutator {
        id: &publisher.id,
        connection_id: publisher.connection_id,
        identity: publisher.identity,
        capability: publisher.capability,
        has_mutable_messages: publisher.has_mutable_messages,
        bytes_max,
    };
    let (Some(mut draft), true) = (drafts.pop(), drafts.is_empty()) else {
        return refuse(ErrorCode::BAD_REQUEST, "a change to a message comes alone");
    };
    // A client may send back the whole message as it got it; who it was, and what was said of that, is
    // not for it to say.
    (draft.id, draft.client_id, draft.connection_id) = (None, None, None);
    let patch = Draft {
        name: draft.name.take(),
        data: std::mem::take(&mut draft.data),
        encoding: draft.encoding.take(),
        has_bad_encoding: draft.has_bad_encoding,
        extras: with_user_claim(draft.extras.take(), None),
        ..Draft::default()
    };
    let patch = check(name, patch, publisher)?;
    let mutation = Mutation::check(name, &mut draft, patch, &mutator)?;
    Ok(Accepted::Mutation(Box::new(mutation)))
}

fn check(name: &str, draft: Draft, publisher: &Publisher<'_>) -> Result<Message, ErrorInfo> {
    let text = |field: Option<Field>, code, message| match field {
        None => Ok(None),
        Some(Field::Text(text)) => Ok(Some(text)),
        Some(Field::NotText) => refuse(code, message),
    };
    let id = text(draft.id, ErrorCode::INVALID_MESSAGE_IDS, "a message id is no string")?;
    let event = text(draft.name, ErrorCode::INVALID_NAME, "a message name is no string")?;
    if id.as_deref().is_some_and(|id| id.len() > CHOSEN_ID_BYTES_MAX) {
        return refuse(ErrorCode::INVALID_MESSAGE_IDS, "a message id is longer than 256 bytes");
    }
    check_encoding(draft.encoding.as_deref(), draft.has_bad_encoding)?;
    let code = ErrorCode::INVALID_CONNECTION_ID;
    let claimed = text(draft.connection_id, code, "a connectionId is no string")?;
    if claimed.is_some_and(|claimed| Some(&*claimed) != publisher.connection_id) {
        return refuse(code, "the connectionId is not that of the publisher");
    }
    if draft.connection_key.is_some() {
        return refuse(code, "a connectionKey is for a single publish over REST");
    }
    if let Some(extras) = &draft.extras {
        check_extras(name, extras, publisher)?;
    }
    Ok(Message {
        id: id.filter(|id| !id.is_empty()),
        name: event,
        data: draft.data,
        encoding: draft.encoding,
        client_id: publisher.identity.client_id(draft.client_id)?,
        extras: draft.extras,
        revision: None,
    })
}
