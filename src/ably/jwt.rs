//! JSON Web Tokens as far as Ably uses them: HS256 with the name of the key as `kid` (12.3).

use data_encoding::BASE64URL_NOPAD;
use hmac::{Hmac, Mac};
use serde_json::{Map, Value};
use sha2::Sha256;

use super::{ErrorCode, ErrorInfo};

/// An object of a token: its header or its claims.
pub(super) type Object = Map<String, Value>;

/// A token that was taken apart and not verified.
pub(super) struct Jwt<'a> {
    pub header: Object,
    /// `None`: they are encrypted.
    pub claims: Option<Object>,
    /// Header and claims as they were signed.
    signed: &'a str,
    signature: Vec<u8>,
}

fn malformed(why: &'static str) -> ErrorInfo {
    ErrorInfo::new(ErrorCode::INVALID_JWT, why)
}

/// HMAC-SHA256 with the characters of `secret` as the key.
fn mac(secret: &str, text: &str) -> Hmac<Sha256> {
    let mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes());
    mac.expect("HMAC takes keys of any length").chain_update(text)
}

/// The HMAC-SHA256 of `text`.
pub(super) fn sign(secret: &str, text: &str) -> Vec<u8> {
    mac(secret, text).finalize().into_bytes().to_vec()
}

/// Whether `signature` is the HMAC-SHA256 of `text`, in constant time.
pub(super) fn is_signed(secret: &str, text: &str, signature: &[u8]) -> bool {
    mac(secret, text).verify_slice(signature).is_ok()
}

/// Makes a token of JSON texts.
pub(super) fn encode(header: &Value, claims: &Value, secret: &str) -> String {
    let part = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    let signed = format!("{}.{}", part(header), part(claims));
    let signature = BASE64URL_NOPAD.encode(&sign(secret, &signed));
    format!("{signed}.{signature}")
}

impl<'a> Jwt<'a> {
    /// Takes `text` apart: three parts are a signed token, five an encrypted one.
    ///
    /// # Errors
    /// 40145: it is neither; 40144: a part of it cannot be read.
    pub fn parse(text: &'a str) -> Result<Jwt<'a>, ErrorInfo> {
        let parts: Vec<&str> = text.splitn(6, '.').collect();
        let (header, claims, signature) = match parts[..] {
            [header, claims, signature] => (header, Some(claims), signature),
            [header, _, _, _, tag] => (header, None, tag),
            _ => {
                let why = "the token has not the form of one";
                return Err(ErrorInfo::new(ErrorCode::INVALID_TOKEN, why));
            }
        };
        let decode = |part: &str, why| {
            BASE64URL_NOPAD
                .decode(part.trim_end_matches('=').as_bytes())
                .map_err(|_| malformed(why))
        };
        let object = |part: &str, why| {
            serde_json::from_slice::<Object>(&decode(part, why)?).map_err(|_| malformed(why))
        };
        let signed_bytes = text.len() - signature.len() - ".".len();
        Ok(Jwt {
            header: object(header, "the header of the JWT cannot be read")?,
            claims: claims
                .map(|claims| object(claims, "the claims of the JWT cannot be read"))
                .transpose()?,
            signed: &text[..signed_bytes],
            signature: decode(signature, "the signature of the JWT cannot be read")?,
        })
    }

    /// Whether it was signed with `secret`, in constant time.
    pub fn is_signed_with(&self, secret: &str) -> bool {
        is_signed(secret, self.signed, &self.signature)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The example of <https://jwt.io>, signed there.
    const GOLDEN: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.\
        eyJzdWIiOiIxMjM0NTY3ODkwIiwibmFtZSI6IkpvaG4gRG9lIiwiaWF0IjoxNTE2MjM5MDIyfQ.\
        SflKxwRJSMeKKF2QT4fwpMeJf36POk6yJV_adQssw5c";

    #[test]
    fn a_token_of_somebody_else_is_read_and_verified() {
        let jwt = Jwt::parse(GOLDEN).expect("well-formed");
        assert_eq!(jwt.header["alg"], "HS256");
        assert_eq!(jwt.claims.as_ref().expect("in clear")["iat"], 1_516_239_022);
        assert!(jwt.is_signed_with("your-256-bit-secret"));
        assert!(!jwt.is_signed_with("your-256-bit-secret "));
    }

    #[test]
    fn what_is_made_can_be_read_and_no_bit_of_it_may_change() {
        let made = encode(&json!({"kid": "a.b"}), &json!({"exp": 1}), "secret");
        assert!(Jwt::parse(&made).expect("well-formed").is_signed_with("secret"));
        for at in 0..made.len() {
            let mut bytes = made.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(bytes).expect("ASCII");
            let is_valid = Jwt::parse(&changed).is_ok_and(|jwt| jwt.is_signed_with("secret"));
            assert!(!is_valid, "changed at {at}");
        }
        for end in 0..made.len() {
            let is_valid = Jwt::parse(&made[..end]).is_ok_and(|jwt| jwt.is_signed_with("secret"));
            assert!(!is_valid, "cut at {end}");
        }
    }

    #[test]
    fn what_is_no_token_has_its_own_error() {
        let code = |text: &str| Jwt::parse(text).err().map(|error| error.code.0);
        for text in ["", "app.token", "a.b.c.d", "a.b.c.d.e.f"] {
            assert_eq!(code(text), Some(40145), "{text}");
        }
        for text in ["..", "!.e30.", "e30.!.", "e30.e30.!", "W10.e30.", "e30.MQ.", "IA.e30."] {
            assert_eq!(code(text), Some(40144), "{text}");
        }
        let encrypted = Jwt::parse("e30.x.y.z.").expect("five parts");
        assert!(encrypted.claims.is_none());
    }
}
