//! The body of a publish (13.5).

use std::sync::Arc;

use data_encoding::BASE64URL_NOPAD;

use super::reply::{essence, media_type};
use super::{Context, authenticate};
use crate::ably::{
    self, Accepted, ChannelName, ErrorCode, ErrorInfo, Format, Params, Principal, Publisher,
};
use crate::base::Entropy;
use crate::http::{Request, form_pairs};

/// Random bytes behind the ids of messages that come without one.
const ID_BYTES: usize = 9;

const FORM: &str = "application/x-www-form-urlencoded";

/// Checks what `request` publishes on the channel called `name`.
pub(super) fn accept(
    context: &Context<'_>,
    entropy: &mut Entropy,
    request: &Request,
    name: &str,
) -> Result<(Arc<Principal>, ChannelName, Accepted), ErrorInfo> {
    let principal = authenticate(request, context.directory, context.now)?;
    let channel = ChannelName::parse(name)?;
    principal.enter(channel.base())?;
    let drafts = match request.header("Content-Type") {
        None => ably::decode_publish(Format::Json, request.body())?,
        Some(content_type) if essence(content_type).eq_ignore_ascii_case(FORM) => {
            ably::decode_publish(Format::Json, &form_as_json(request.body())?)?
        }
        Some(content_type) => match media_type(content_type) {
            Some(format) => ably::decode_publish(format, request.body())?,
            None => {
                let message = "a publish is application/json or application/x-msgpack";
                return Err(ErrorInfo::new(ErrorCode::INVALID_BODY, message));
            }
        },
    };
    let params: Params =
        request.query_params().map(|(name, value)| (name.into(), value.into())).collect();
    let publisher = Publisher {
        id: BASE64URL_NOPAD.encode(&entropy.bytes::<ID_BYTES>()),
        connection_id: None,
        identity: principal.identity(),
        capability: principal.capability(),
    };
    let bytes_max = context.message_bytes_max.into();
    let accepted = ably::validate(channel.base(), Some(drafts), &params, &publisher, bytes_max)?;
    Ok((principal, channel, accepted))
}

/// One message whose fields are a form's.
fn form_as_json(body: &[u8]) -> Result<Vec<u8>, ErrorInfo> {
    let text = std::str::from_utf8(body)
        .map_err(|_| ErrorInfo::new(ErrorCode::INVALID_BODY, "the form is not UTF-8"))?;
    let fields: serde_json::Map<_, _> =
        form_pairs(text).map(|(name, value)| (name.into_owned(), value.into())).collect();
    Ok(serde_json::Value::Object(fields).to_string().into_bytes())
}
