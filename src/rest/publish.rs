//! Publishes on one channel (13.5).

use data_encoding::BASE64URL_NOPAD;

use super::reply::{essence, media_type};
use super::{Ask, Call, Outcome};
use crate::ably::{self, Answer, Draft, ErrorCode, ErrorInfo, Format, Params, Publisher};
use crate::http::{Request, form_pairs};

/// Random bytes behind the ids of messages that come without one.
const ID_BYTES: usize = 9;

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
        id: BASE64URL_NOPAD.encode(&call.entropy.bytes::<ID_BYTES>()),
        connection_id: None,
        identity: principal.identity(),
        capability: principal.capability(),
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
fn read_drafts(request: &Request) -> Result<Vec<Draft>, ErrorInfo> {
    let body = request.body();
    match request.header("Content-Type") {
        None => ably::decode_publish(Format::Json, body),
        Some(content_type) if essence(content_type).eq_ignore_ascii_case(FORM) => {
            ably::decode_publish(Format::Json, &form_as_json(body)?)
        }
        Some(content_type) => match media_type(content_type) {
            Some(format) => ably::decode_publish(format, body),
            None => {
                let message = "a publish is application/json or application/x-msgpack";
                Err(ErrorInfo::new(ErrorCode::INVALID_BODY, message))
            }
        },
    }
}

/// One message whose fields are a form's.
fn form_as_json(body: &[u8]) -> Result<Vec<u8>, ErrorInfo> {
    let text = std::str::from_utf8(body)
        .map_err(|_| ErrorInfo::new(ErrorCode::INVALID_BODY, "the form is not UTF-8"))?;
    let fields: serde_json::Map<_, _> =
        form_pairs(text).map(|(name, value)| (name.into_owned(), value.into())).collect();
    Ok(serde_json::Value::Object(fields).to_string().into_bytes())
}
