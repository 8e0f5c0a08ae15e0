//! Who asks: credentials, and the identity that a request claims (12.1, 12.7).

use std::borrow::Cow;
use std::sync::Arc;

use data_encoding::BASE64;

use crate::ably::{self, Directory, ErrorCode, ErrorInfo, Principal};
use crate::base::Now;
use crate::http::Request;

/// Finds out who sends `request`, over REST or to open a WebSocket.
///
/// # Errors
/// There are no credentials that are known, or the clientId is not to be had with them.
pub fn authenticate(
    request: &Request,
    directory: &Directory,
    now: Now,
) -> Result<Arc<Principal>, ErrorInfo> {
    let principal = match credentials(request)? {
        Credentials::Key(key) => Arc::clone(directory.authenticate(&key)?),
        Credentials::Token(token) => directory.authenticate_token(&token, now.unix_ms)?,
    };
    principal.claim(claimed_client_id(request)?.as_deref())
}

enum Credentials<'a> {
    Key(ably::ApiKey),
    Token(Cow<'a, str>),
}

/// What `request` presents; the header wins over the query, a key over a token.
fn credentials(request: &Request) -> Result<Credentials<'_>, ErrorInfo> {
    let refused = |message| Err(ErrorInfo::new(ErrorCode::INVALID_CREDENTIALS, message));
    if let Some(authorization) = request.header("Authorization") {
        let (scheme, text) = authorization.split_once(' ').unwrap_or((authorization, ""));
        return match scheme {
            _ if scheme.eq_ignore_ascii_case("Basic") => {
                ably::decode_basic(text.trim()).map(Credentials::Key)
            }
            _ if scheme.eq_ignore_ascii_case("Bearer") => Ok(Credentials::Token(bearer(text))),
            _ => refused("unknown authorization scheme"),
        };
    }
    if let Some(key) = request.query_param("key") {
        return key.parse().map(Credentials::Key);
    }
    let token = ["accessToken", "access_token"].iter().find_map(|name| request.query_param(name));
    match token {
        Some(token) => Ok(Credentials::Token(token)),
        None => refused("no credentials given"),
    }
}

/// The token in the credentials of `Authorization: Bearer`: SDKs send base64, others the token itself,
/// which contains what base64 does not.
fn bearer(text: &str) -> Cow<'_, str> {
    let text = text.trim();
    let decoded = BASE64.decode(text.as_bytes()).ok();
    match decoded.and_then(|bytes| String::from_utf8(bytes).ok()) {
        Some(token) => Cow::Owned(token),
        None => Cow::Borrowed(text),
    }
}

/// Who the request says that it acts for.
fn claimed_client_id(request: &Request) -> Result<Option<String>, ErrorInfo> {
    let Some(encoded) = request.header("X-Ably-ClientId") else {
        return Ok(request.query_param("clientId").map(|client_id| client_id.into_owned()));
    };
    let decoded = BASE64.decode(encoded.as_bytes()).ok();
    match decoded.and_then(|bytes| String::from_utf8(bytes).ok()) {
        Some(client_id) => Ok(Some(client_id)),
        None => {
            let message = "X-Ably-ClientId is not base64 of UTF-8";
            Err(ErrorInfo::new(ErrorCode::INVALID_CLIENT_ID, message))
        }
    }
}
