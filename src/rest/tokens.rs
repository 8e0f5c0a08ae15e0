//! Tokens over REST (12.2).

use std::borrow::Cow;
use std::sync::Arc;

use super::reply::media_type;
use super::{Ask, Call, Inquiry, Outcome};
use crate::ably::{Change, ErrorCode, ErrorInfo, Format, Key, Revocation, TokenRequest};

/// The first version whose batch answers come with a summary (2.3).
const SUMMARY_VERSION: f32 = 3.0;

/// Makes a token, for whoever has the key or a request that was signed with it.
pub(super) fn request(call: &mut Call<'_>) -> Result<Outcome, ErrorInfo> {
    let format = body_format(call)?;
    let key = Arc::clone(call.context.directory.key(call.path_param("key"))?);
    let request = TokenRequest::decode(format, call.request.body())?;
    if !request.is_signed() {
        let code = ErrorCode::INVALID_CREDENTIALS;
        require_key(call, &key, code, code)?;
    }
    call.app_id = Some(key.app().id().into());
    let now_ms = call.context.now.unix_ms;
    let grant = request.check(&key, now_ms)?;
    let random = call.entropy.bytes();
    let reply = call.reply.clone();
    let Some(nonce) = grant.nonce() else {
        let details = grant.issue(now_ms, random);
        return Ok(Outcome::Reply(reply.ok(201, &details.encode(reply.format()))));
    };
    Ok(Outcome::Ask(Inquiry {
        app_id: key.app().id().to_owned(),
        asks: vec![Ask::Nonce(nonce)],
        then: Box::new(move |mut answers| {
            Outcome::Reply(match answers.pop().expect("one for each question") {
                Ok(_) => {
                    let details = grant.issue(now_ms, random);
                    reply.ok(201, &details.encode(reply.format()))
                }
                Err(error) => reply.error(&error),
            })
        }),
    }))
}

/// Revokes tokens of a key (12.8).
pub(super) fn revoke(call: &mut Call<'_>) -> Result<Outcome, ErrorInfo> {
    let format = body_format(call)?;
    let key = Arc::clone(call.context.directory.key(call.path_param("key"))?);
    require_key(call, &key, ErrorCode::KEY_REQUIRED, ErrorCode::KEY_MISMATCH)?;
    if !key.has_revocable_tokens() {
        let text = "tokens of this key cannot be revoked";
        return Err(ErrorInfo::new(ErrorCode::NOT_REVOCABLE, text));
    }
    let now_ms = call.context.now.unix_ms;
    let revocation = Revocation::decode(format, call.request.body(), now_ms)?;
    let version = call.request.header("X-Ably-Version").map(Cow::Borrowed);
    let version = version.or_else(|| call.request.query_param("v"));
    let is_summed_up =
        version.and_then(|text| text.parse::<f32>().ok()).is_some_and(|v| v >= SUMMARY_VERSION);
    let reply = call.reply.clone();
    let results = revocation.encode_results(reply.format(), is_summed_up);
    let has_failed = !is_summed_up && revocation.failure_count() > 0;
    let change = Change::Revoke { key_name: key.name().into(), revocation };
    Ok(Outcome::Ask(Inquiry {
        app_id: key.app().id().to_owned(),
        asks: vec![Ask::Change(change)],
        then: Box::new(move |mut answers| {
            Outcome::Reply(match answers.pop().expect("one for each question") {
                Ok(_) if has_failed => {
                    let response = reply.begin_error(&Revocation::partial_failure());
                    reply.finish(response, &results)
                }
                Ok(_) => reply.ok(201, &results),
                Err(error) => reply.error(&error),
            })
        }),
    }))
}

/// The caller has to have `key` itself: a token is refused with `token`, another key with `other`.
fn require_key(
    call: &mut Call<'_>,
    key: &Key,
    token: ErrorCode,
    other: ErrorCode,
) -> Result<(), ErrorInfo> {
    let principal = call.authenticate()?;
    if principal.token().is_some() {
        return Err(ErrorInfo::new(token, "this takes the key itself, not a token"));
    }
    match principal.key().name() == key.name() {
        true => Ok(()),
        false => Err(ErrorInfo::new(other, "the credentials are another key's")),
    }
}

/// In which format the body came.
fn body_format(call: &Call<'_>) -> Result<Format, ErrorInfo> {
    let Some(content_type) = call.request.header("Content-Type") else { return Ok(Format::Json) };
    media_type(content_type).ok_or_else(|| {
        let text = "the body is application/json or application/x-msgpack";
        ErrorInfo::new(ErrorCode::INVALID_BODY, text)
    })
}
