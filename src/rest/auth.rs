//! Who asks: credentials, and the identity that a request claims (12.1, 12.7).

use std::sync::Arc;

use data_encoding::BASE64;

use crate::ably::{self, ApiKey, ErrorCode, ErrorInfo, Identity, Key, KeyRing};
use crate::http::Request;

/// Finds out who sends `request`, over REST or to open a WebSocket.
///
/// # Errors
/// There are no credentials that are known, or the clientId is not to be had with them.
pub fn authenticate(request: &Request, keys: &KeyRing) -> Result<(Arc<Key>, Identity), ErrorInfo> {
    let key = keys.authenticate(&api_key(request)?)?;
    Ok((key, identity(request)?))
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

/// Whom a key's holder acts for, as the request says.
fn identity(request: &Request) -> Result<Identity, ErrorInfo> {
    let client_id = match request.header("X-Ably-ClientId") {
        Some(encoded) => {
            let decoded = BASE64.decode(encoded.as_bytes()).ok();
            Some(decoded.and_then(|bytes| String::from_utf8(bytes).ok()).ok_or_else(|| {
                let message = "X-Ably-ClientId is not base64 of UTF-8";
                ErrorInfo::new(ErrorCode::INVALID_CLIENT_ID, message)
            })?)
        }
        None => request.query_param("clientId").map(|client_id| client_id.into_owned()),
    };
    Identity::of_key(client_id.as_deref())
}
