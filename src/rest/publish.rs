//! Publishes on one channel (13.5).

use super::reply::{essence, media_type};
use super::{Ask, Call, Outcome};
use crate::ably::{self, Answer, Draft, ErrorCode, ErrorInfo, Format, Params, Publisher};
use crate::http::{Request, form_pairs};

/// Random bytes behind the ids of messages that come without one.
pub(super) const ID_BYTES: usize = 9;

const FORM: &str = "application/x-www-form-urlencoded";

/// Publishes one message or an array of them.
pub(super) fn post(call: &mut Call<'_>) -> Result<Outcome, ErrorInfo> {
    let principal = call.authenticate()?;
    let channel = call.channel()?;
    principal.enter(channel.base())?;
    let drafts = read_drafts(call.request)?;
    let params: Params =
        call.request.query_params().map(|(name, value)| (name.into(), value.into())).collect();
    let publisher = Publisher {
        id: call.fresh_id::<ID_BYTES>(),
        connection_id: None,
        identity: principal.identity(),
        capability: principal.capability(),
        has_mutable_messages: principal.app().namespace(channel.base()).mutable_messages,
    };
    let bytes_max = call.context.message_bytes_max.into();
    let accepted = ably::validate(channel.base(), Some(drafts), &params, &publisher, bytes_max)?;
    // As it was asked for, with its qualifier.
    let asked_for = call.path_param("channel").to_owned();
    let ask = Ask::Publish { channel: channel.base().into(), accepted };
    Ok(call.ask(principal.app_id(), ask, move |reply, answer| {
        let Answer::Published(result) = answer else { unreachable!("a publish was asked for") };
        reply.ok(201, &ably::encode_publish_result(reply.format(), &asked_for, &result))
    }))
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
