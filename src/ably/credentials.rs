//! API keys as clients present them (12.1).

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE64;
use subtle::ConstantTimeEq;

use super::{ErrorCode, ErrorInfo};

/// `appId.keyId:secret`.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey {
    app_id: Box<str>,
    key_id: Box<str>,
    secret: Box<str>,
}

impl ApiKey {
    /// The app.
    pub fn app_id(&self) -> &str {
        &self.app_id
    }

    /// `appId.keyId`, which is no secret.
    pub fn name(&self) -> String {
        format!("{}.{}", self.app_id, self.key_id)
    }

    pub(super) fn key_id(&self) -> &str {
        &self.key_id
    }

    pub(super) fn secret(&self) -> &str {
        &self.secret
    }

    /// Whether both have one secret; the time this takes says nothing about where they differ.
    pub fn has_secret_of(&self, other: &ApiKey) -> bool {
        self.secret.as_bytes().ct_eq(other.secret.as_bytes()).into()
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:...", self.name())
    }
}

impl FromStr for ApiKey {
    type Err = ErrorInfo;

    fn from_str(text: &str) -> Result<ApiKey, ErrorInfo> {
        let unreadable =
            || ErrorInfo::new(ErrorCode::INVALID_CREDENTIALS, "a key reads appId.keyId:secret");
        let (name, secret) = text.split_once(':').ok_or_else(unreadable)?;
        let (app_id, key_id) = name.split_once('.').ok_or_else(unreadable)?;
        let is_id = |id: &str| {
            !id.is_empty() && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b))
        };
        if !is_id(app_id) || !is_id(key_id) || secret.is_empty() {
            return Err(unreadable());
        }
        Ok(ApiKey { app_id: app_id.into(), key_id: key_id.into(), secret: secret.into() })
    }
}

/// The key in the credentials of `Authorization: Basic`.
///
/// # Errors
/// 40101 when they are not the base64 of a key.
pub fn decode_basic(credentials: &str) -> Result<ApiKey, ErrorInfo> {
    let decoded = BASE64.decode(credentials.as_bytes()).ok();
    match decoded.and_then(|bytes| String::from_utf8(bytes).ok()) {
        Some(text) => text.parse(),
        None => {
            let text = "Basic credentials are not base64 of a key";
            Err(ErrorInfo::new(ErrorCode::INVALID_CREDENTIALS, text))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_and_its_secret_is_not_shown() {
        let key: ApiKey = "app.key:se:cret".parse().expect("well-formed");
        assert_eq!((key.app_id(), key.name().as_str()), ("app", "app.key"));
        assert!(!format!("{key:?}").contains("cret"));
        assert_eq!(decode_basic(&BASE64.encode(b"app.key:se:cret")), Ok(key));
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for text in ["", "app", "app.key", "app:secret", ".key:s", "app.:s", "a.b:", "a b.c:d"] {
            assert_eq!(text.parse::<ApiKey>().map_err(|e| e.code.0), Err(40101), "{text}");
        }
    }
}
