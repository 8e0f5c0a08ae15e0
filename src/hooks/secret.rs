//! What is configured and never shown, and what requests are signed with.

use std::fmt;

use data_encoding::BASE64;
use hmac::{Hmac, Mac};
use sha2::Sha256;

/// Text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Box<str>);

impl Secret {
    /// Hides `text`.
    pub fn new(text: &str) -> Secret {
        Secret(text.into())
    }

    /// The text, for the one place that sends it or signs with it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("...")
    }
}

/// What requests are signed with (15.6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SigningKey {
    /// `appId.keyId`.
    pub name: Box<str>,
    /// Never logged.
    pub secret: Secret,
}

impl SigningKey {
    /// What `X-Ably-Signature` says of a body (15.6).
    pub fn sign(&self, body: &[u8]) -> String {
        let mac = Hmac::<Sha256>::new_from_slice(self.secret.reveal().as_bytes());
        let mac = mac.expect("HMAC takes keys of any length").chain_update(body);
        BASE64.encode(&mac.finalize().into_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_what_others_compute() {
        // From openssl: printf '{"items":[]}' | openssl dgst -sha256 -hmac secret -binary | base64
        let key = SigningKey { name: "app.key".into(), secret: Secret::new("secret") };
        assert_eq!(key.sign(br#"{"items":[]}"#), "VG7phuhMZ8ubMWF9x6TFoO6EEA8OcgVmAEp85CWHv7E=");
    }
}
