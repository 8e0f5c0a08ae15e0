//! Who asks: credentials, and the identity that a request claims (12.1, 12.7).

use std::sync::Arc;

use data_encoding::BASE64;

use crate::ably::{self, ApiKey, Directory, ErrorCode, ErrorInfo, Principal};
use crate::base::Now;
use crate::http::Request;

/// Finds out who sends `request`, over REST or to open a WebSocket.
///
/// # Errors
/// There are no credentials that are known, or the clientId is not to be had with them.
pub fn authenticate(
    request: &Request,
    directory: &Directory,
    _now: Now,
) -> Result<Arc<Principal>, ErrorInfo> {
    let principal = directory.authenticate(&api_key(request)?)?;
    principal.claim(claimed_client_id(request)?.as_deref())
}

/// The key that `request` presents; the header wins over the query.
fn api_key(request: &Request) -> Result<ApiKey, ErrorInfo> {
    let refused = |message| Err(ErrorInfo::new(ErrorCode::INVALID_CREDENTIALS, message));
    // Outside 40140 to 40149, or a client would renew its token and try again, for ever.
    const NO_TOKENS: &str = "token authentication is not served, use an API key";
    if let Some(authorization) = request.header("Authorization") {
        let (scheme, credentials) = authorization.split_once(' ').unwrap_or((authorization, ""));
        return match scheme {
            _ if scheme.eq_ignore_ascii_case("Basic") => ably::decode_basic(credentials.trim()),
            _ if scheme.eq_ignore_ascii_case("Bearer") => refused(NO_TOKENS),
            _ => refused("unknown authorization scheme"),
        };
    }
    if let Some(key) = request.query_param("key") {
        return key.parse();
    }
    match ["accessToken", "access_token"].iter().any(|name| request.query_param(name).is_some()) {
        true => refused(NO_TOKENS),
        false => refused("no credentials given"),
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
