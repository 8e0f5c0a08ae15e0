//! Publishes on one channel (13.5).

use std::sync::Arc;

use super::reply::{Reply, essence, media_type};
use super::{Ask, Call, Inquiry, Outcome};
use crate::ably::{
    self, Answer, ChannelName, Draft, ErrorCode, ErrorInfo, Field, Format, Identity, Params,
    Principal, Publisher,
};
use crate::http::{Request, form_pairs};

/// Random bytes behind the ids of messages that come without one.
pub(super) const ID_BYTES: usize = 9;

const FORM: &str = "application/x-www-form-urlencoded";

/// Publishes one message or an array of them.
pub(super) fn post(call: &mut Call<'_>) -> Result<Outcome, ErrorInfo> {
    let principal = call.authenticate()?;
    let channel = call.channel()?.writable()?;
    principal.enter(channel.base())?;
    let mut drafts = read_drafts(call.request)?;
    let connection_key = connection_key(call.request, &mut drafts)?;
    let publish = Publish {
        id: call.fresh_id::<ID_BYTES>(),
        params: call
            .request
            .query_params()
            .map(|(name, value)| (name.into(), value.into()))
            .collect(),
        bytes_max: call.context.message_bytes_max.into(),
        // As it was asked for, with its qualifier.
        asked_for: call.path_param("channel").to_owned(),
        reply: call.reply.clone(),
        principal,
        channel,
        drafts,
    };
    let Some(connection_key) = connection_key else { return publish.ask(None) };
    let app_id = publish.principal.app_id().to_owned();
    let then = move |mut answers: Vec<Result<Answer, ErrorInfo>>| {
        let reply = publish.reply.clone();
        let outcome = match answers.pop().expect("one for each question") {
            Ok(Answer::Connection { id, identity }) => publish.ask(Some((&id, &identity))),
            Ok(other) => unreachable!("a connection was asked for, not {other:?}"),
            Err(error) => Err(error),
        };
        outcome.unwrap_or_else(|error| Outcome::Reply(reply.error(&error)))
    };
    let asks = vec![Ask::Connection(connection_key)];
    Ok(Outcome::Ask(Inquiry { app_id, asks, then: Box::new(then) }))
}

/// A publish that is ready but for whom it is made.
struct Publish {
    principal: Arc<Principal>,
    channel: ChannelName,
    asked_for: String,
    drafts: Vec<Draft>,
    params: Params,
    id: String,
    bytes_max: u64,
    reply: Reply,
}

impl Publish {
    /// Has the home publish, possibly for a connection, whose id and identity these are.
    fn ask(self, connection: Option<(&str, &Identity)>) -> Result<Outcome, ErrorInfo> {
        let Publish { principal, channel, asked_for, drafts, params, id, bytes_max, reply } = self;
        // What is published for a connection has to become both.
        let identity = match (connection, principal.identity()) {
            (Some((_, connected)), Identity::Client(own)) => {
                connected.claim(Some(own)).map_err(|_| {
                    let text = "the connection is of another client than the credentials";
                    ErrorInfo::new(ErrorCode::INVALID_CLIENT_ID, text)
                })?
            }
            (Some((_, connected)), Identity::Wildcard) => connected.clone(),
            (_, own) => own.clone(),
        };
        let publisher = Publisher {
            id,
            connection_id: connection.map(|(id, _)| id),
            identity: &identity,
            capability: principal.capability(),
            has_mutable_messages: principal.app().namespace(channel.base()).mutable_messages,
        };
        let accepted =
            ably::validate(channel.base(), Some(drafts), &params, &publisher, bytes_max)?;
        let accepted = accepted.claimed(principal.user_claim(channel.base()));
        let then = move |mut answers: Vec<Result<Answer, ErrorInfo>>| {
            let answer = answers.pop().expect("one for each question");
            Outcome::Reply(match answer {
                Ok(Answer::Published(result)) => {
                    let format = reply.format();
                    reply.ok(201, &ably::encode_publish_result(format, &asked_for, &result))
                }
                Ok(other) => unreachable!("a publish was asked for, not {other:?}"),
                Err(error) => reply.error(&error),
            })
        };
        Ok(Outcome::Ask(Inquiry {
            app_id: principal.app_id().to_owned(),
            asks: vec![Ask::Publish { channel: channel.base().into(), accepted }],
            then: Box::new(then),
        }))
    }
}

/// The key of the connection that this is published for (5.6, TM2h), taken out of the messages.
///
/// # Errors
/// 40006: the messages name more than one, or something that is no string.
fn connection_key(request: &Request, drafts: &mut [Draft]) -> Result<Option<Box<str>>, ErrorInfo> {
    let of_request = request.header("X-Ably-ConnectionKey").map(Box::from);
    let mut key = of_request.or_else(|| request.query_param("connectionKey").map(Box::from));
    for draft in drafts {
        match draft.connection_key.take() {
            None => {}
            Some(Field::Text(own)) if key.as_ref().is_none_or(|key| *key == own) => key = Some(own),
            Some(_) => {
                let text = "the messages are not all for one connectionKey";
                return Err(ErrorInfo::new(ErrorCode::INVALID_CONNECTION_ID, text));
            }
        }
    }
    Ok(key)
}

/// The messages of the body.
pub(super) fn read_drafts(request: &Request) -> Result<Vec<Draft>, ErrorInfo> {
    let content_type = request.header("Content-Type");
    if content_type.is_some_and(|value| essence(value).eq_ignore_ascii_case(FORM)) {
        return ably::decode_publish(Format::Json, &form_as_json(request.body())?);
    }
    ably::decode_publish(body_format(request)?, request.body())
}

/// The format of the body, which is JSON unless the request says otherwise.
///
/// # Errors
/// 40001: it says something that no publish is.
pub(super) fn body_format(request: &Request) -> Result<Format, ErrorInfo> {
    request.header("Content-Type").map_or(Ok(Format::Json), |content_type| {
        media_type(content_type).ok_or_else(|| {
            let message = "a publish is application/json or application/x-msgpack";
            ErrorInfo::new(ErrorCode::INVALID_BODY, message)
        })
    })
}

/// One message whose fields are a form's.
fn form_as_json(body: &[u8]) -> Result<Vec<u8>, ErrorInfo> {
    let text = std::str::from_utf8(body)
        .map_err(|_| ErrorInfo::new(ErrorCode::INVALID_BODY, "the form is not UTF-8"))?;
    let fields: serde_json::Map<_, _> =
        form_pairs(text).map(|(name, value)| (name.into_owned(), value.into())).collect();
    Ok(serde_json::Value::Object(fields).to_string().into_bytes())
}
