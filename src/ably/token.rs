//! Tokens: requests for them, how they are made and read again (12.2, 12.3). They carry everything
//! that they stand for, signed with the key's secret, so any core can read them, also after a restart.

use std::sync::Arc;

use data_encoding::{BASE64, BASE64URL_NOPAD};
use serde_json::{Value as Json, json};
use sha2::{Digest, Sha256};

use super::error::refuse;
use super::json::JsonValue;
use super::jwt::{self, Jwt, Object};
use super::msgpack::MsgPackValue;
use super::value::{Node, Value};
use super::writer::write_map;
use super::{
    Capability, CapabilityError, Directory, ErrorCode, ErrorInfo, Format, Identity, Key, Principal,
    Token,
};

/// Bytes of a token that is read at all; SDKs accept as many (12.1).
const TOKEN_BYTES_MAX: usize = 128 << 10;

/// Bytes of the capability that a token may be asked for: the token has to fit into a request's head.
const CAPABILITY_BYTES_MAX: usize = 4 << 10;

/// Milliseconds that a token lives unless it is asked for another time.
const TTL_DEFAULT_MS: u64 = 60 * 60 * 1000;

/// Milliseconds that a token may live.
const TTL_MAX_MS: u64 = 24 * 60 * 60 * 1000;

/// The same for tokens that can be revoked.
const TTL_REVOCABLE_MAX_MS: u64 = 60 * 60 * 1000;

/// Milliseconds that the clock of whoever signs may differ from ours.
pub const CLOCK_WINDOW_MS: u64 = 2 * 60 * 1000;

/// Names of Ably's claims.
const CAPABILITY: &str = "x-ably-capability";
const CLIENT_ID: &str = "x-ably-clientId";
const REVOCATION_KEY: &str = "x-ably-revocation-key";
const EMBEDDED: &str = "x-ably-token";

/// What names of claims begin with that are for the messages of the holder.
const CHANNEL_CLAIM: &str = "ably.channel.";

/// Bytes of one of those; it goes with every message.
const USER_CLAIM_BYTES_MAX: usize = 1024;

fn invalid_capability(error: CapabilityError) -> ErrorInfo {
    ErrorInfo::new(ErrorCode::BAD_REQUEST, format!("invalid capability: {error}"))
}

fn ttl_max_ms(key: &Key) -> u64 {
    if key.has_revocable_tokens() { TTL_REVOCABLE_MAX_MS } else { TTL_MAX_MS }
}

/// A request for a token as it came: texts, since they are signed as they are (12.2).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenRequest {
    key_name: Option<Box<str>>,
    ttl: Option<Box<str>>,
    capability: Option<Box<str>>,
    client_id: Option<Box<str>>,
    timestamp: Option<Box<str>>,
    nonce: Option<Box<str>>,
    mac: Option<Box<str>>,
}

/// What was found in order and only has to be made.
#[derive(Clone, Debug)]
pub struct TokenGrant {
    key: Arc<Key>,
    ttl_ms: u64,
    /// `None`: everything that the key may.
    capability: Option<Box<str>>,
    client_id: Option<Box<str>>,
    /// By what the request is known should it come again; `None`: it was not signed.
    nonce: Option<[u8; 16]>,
}

/// What whoever asked for a token is told (TD1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenDetails {
    token: String,
    key_name: Box<str>,
    issued_ms: u64,
    expires_ms: u64,
    capability: Box<str>,
    client_id: Option<Box<str>>,
}

impl TokenRequest {
    /// Reads a body.
    ///
    /// # Errors
    /// 40001: it is not one object of the format.
    pub fn decode(format: Format, body: &[u8]) -> Result<TokenRequest, ErrorInfo> {
        let request = match format {
            Format::Json => JsonValue::parse(body).ok().and_then(TokenRequest::read),
            Format::MsgPack => MsgPackValue::parse(body).ok().and_then(TokenRequest::read),
        };
        request.ok_or_else(|| ErrorInfo::new(ErrorCode::INVALID_BODY, "this is no token request"))
    }

    fn read<'a>(value: impl Value<'a>) -> Option<TokenRequest> {
        if value.node() != Node::Map {
            return None;
        }
        let mut request = TokenRequest::default();
        for (name, value) in value.entries() {
            // Numbers are signed in decimal, and relays make strings of them.
            let text = match value.node() {
                Node::Null => continue,
                Node::Str(text) => text.into(),
                _ => value.uint().map_or_else(|| value.to_json(), |uint| uint.to_string().into()),
            };
            let field = match &*name {
                "keyName" => &mut request.key_name,
                "ttl" => &mut request.ttl,
                "capability" => &mut request.capability,
                "clientId" => &mut request.client_id,
                "timestamp" => &mut request.timestamp,
                "nonce" => &mut request.nonce,
                "mac" => &mut request.mac,
                _ => continue,
            };
            *field = Some(text);
        }
        Some(request)
    }

    /// Whether it is signed; otherwise the sender has to have the key itself.
    pub fn is_signed(&self) -> bool {
        self.mac.is_some()
    }

    /// Checks it against the key that its path names.
    ///
    /// # Errors
    /// The codes of 12.2. A nonce that was seen before is for the caller to find.
    pub fn check(&self, key: &Arc<Key>, now_ms: u64) -> Result<TokenGrant, ErrorInfo> {
        if self.key_name.as_deref().is_some_and(|name| name != key.name()) {
            let text = "the request names another key than its path";
            return refuse(ErrorCode::INVALID_CREDENTIALS, text);
        }
        let nonce = self.mac.as_deref().map(|mac| self.check_mac(key, mac)).transpose()?;
        if let Some(timestamp) = &self.timestamp {
            let timestamp_ms = timestamp.parse::<u64>();
            if timestamp_ms.is_ok_and(|then| then.abs_diff(now_ms) > CLOCK_WINDOW_MS) {
                return refuse(ErrorCode::TIMESTAMP_NOT_CURRENT, "the timestamp is not current");
            }
        }
        let ttl_ms = match self.ttl.as_deref() {
            None | Some("" | "0") => TTL_DEFAULT_MS,
            Some(ttl) => match ttl.parse() {
                Ok(ttl_ms) if ttl_ms <= ttl_max_ms(key) => ttl_ms,
                Ok(_) => return refuse(ErrorCode::INVALID_PARAMETER, "the ttl is too long"),
                Err(_) => return refuse(ErrorCode::INVALID_PARAMETER, "invalid ttl"),
            },
        };
        if self.client_id.as_deref() == Some("") {
            return refuse(ErrorCode::INVALID_CLIENT_ID, "the clientId cannot be empty");
        }
        let capability = match self.capability.as_deref() {
            None | Some("") => None,
            Some(text) if text.len() > CAPABILITY_BYTES_MAX => {
                return refuse(ErrorCode::BAD_REQUEST, "the capability is longer than 4 KiB");
            }
            Some(text) => {
                let asked = Capability::parse(text).map_err(invalid_capability)?;
                Some(narrow(key, &asked)?.to_string().into())
            }
        };
        let client_id = self.client_id.clone();
        Ok(TokenGrant { key: Arc::clone(key), ttl_ms, capability, client_id, nonce })
    }

    /// Returns by what the request is known should it come again.
    fn check_mac(&self, key: &Key, mac: &str) -> Result<[u8; 16], ErrorInfo> {
        let field = |field: &Option<Box<str>>| field.as_deref().unwrap_or_default().to_owned();
        let mut text = String::new();
        for line in [
            key.name().to_owned(),
            field(&self.ttl),
            field(&self.capability),
            field(&self.client_id),
            field(&self.timestamp),
            field(&self.nonce),
        ] {
            text += &line;
            text.push('\n');
        }
        let mac = BASE64.decode(mac.as_bytes()).unwrap_or_default();
        if !jwt::is_signed(key.secret(), &text, &mac) {
            return refuse(ErrorCode::INVALID_CREDENTIALS, "the mac is not that of the request");
        }
        let is_number = self.timestamp.as_deref().is_some_and(|text| text.parse::<u64>().is_ok());
        if !is_number {
            return refuse(ErrorCode::BAD_REQUEST, "a signed request needs a timestamp");
        }
        let Some(nonce) = self.nonce.as_deref().filter(|nonce| !nonce.is_empty()) else {
            return refuse(ErrorCode::BAD_REQUEST, "a signed request needs a nonce");
        };
        let digest = Sha256::digest(format!("{}\n{nonce}", key.name()));
        Ok(*digest.first_chunk().expect("a digest has 32 bytes"))
    }
}

/// What the key permits of what was asked for.
fn narrow(key: &Key, asked: &Capability) -> Result<Capability, ErrorInfo> {
    let granted = key.capability().intersection(asked);
    if granted.is_empty() {
        let text = "the key permits nothing of the capability that was asked for";
        return refuse(ErrorCode::CAPABILITY_DENIED, text);
    }
    Ok(granted)
}

/// Milliseconds as JWTs count: seconds, with a fraction where there is one. Exact until the year 2255.
fn numeric_date(ms: u64) -> Json {
    if ms.is_multiple_of(1000) { json!(ms / 1000) } else { json!(ms as f64 / 1000.0) }
}

fn from_numeric_date(value: &Json) -> Option<u64> {
    let seconds = value.as_f64()?;
    (0.0..=1e11).contains(&seconds).then(|| (seconds * 1000.0).round() as u64)
}

impl TokenGrant {
    /// By what the request is known should it come again; `None`: it was not signed.
    pub fn nonce(&self) -> Option<[u8; 16]> {
        self.nonce
    }

    /// Makes the token; `random` tells it from all others.
    pub fn issue(&self, now_ms: u64, random: [u8; 12]) -> TokenDetails {
        let (issued_ms, expires_ms) = (now_ms, now_ms + self.ttl_ms);
        let header = json!({"typ": "JWT", "alg": "HS256", "kid": self.key.name()});
        let mut claims = json!({
            "iat": numeric_date(issued_ms),
            "exp": numeric_date(expires_ms),
            "jti": BASE64URL_NOPAD.encode(&random),
        });
        if let Some(capability) = &self.capability {
            claims[CAPABILITY] = json!(capability);
        }
        if let Some(client_id) = &self.client_id {
            claims[CLIENT_ID] = json!(client_id);
        }
        TokenDetails {
            token: jwt::encode(&header, &claims, self.key.secret()),
            key_name: self.key.name().into(),
            issued_ms,
            expires_ms,
            capability: self
                .capability
                .clone()
                .unwrap_or_else(|| self.key.capability_text().into()),
            client_id: self.client_id.clone(),
        }
    }
}

impl TokenDetails {
    /// The token itself; a secret.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// The body that tells of it.
    pub fn encode(&self, format: Format) -> Vec<u8> {
        let mut out = Vec::new();
        write_map(format, &mut out, |map| {
            map.str("token", &self.token);
            map.str("keyName", &self.key_name);
            map.uint("issued", self.issued_ms);
            map.uint("expires", self.expires_ms);
            map.str("capability", &self.capability);
            map.opt_str("clientId", self.client_id.as_deref());
        });
        out
    }
}

impl Directory {
    /// Whoever holds `token`, and claims no clientId.
    ///
    /// # Errors
    /// The codes of 12.3: 40142 when it has expired, others when it cannot be read or verified.
    pub fn authenticate_token(
        &self,
        token: &str,
        now_ms: u64,
    ) -> Result<Arc<Principal>, ErrorInfo> {
        let principal = self.read_token(token, now_ms, true)?;
        let principal = match self.revoked_ms(&principal) {
            Some(revoked_ms) => principal.revoked_by(revoked_ms),
            None => principal,
        };
        match principal.token().and_then(|token| token.end(now_ms)) {
            Some(error) => Err(error),
            None => Ok(Arc::new(principal)),
        }
    }

    fn read_token(
        &self,
        token: &str,
        now_ms: u64,
        may_embed: bool,
    ) -> Result<Principal, ErrorInfo> {
        if token.len() > TOKEN_BYTES_MAX {
            return refuse(ErrorCode::INVALID_TOKEN, "the token is longer than 128 KiB");
        }
        let jwt = Jwt::parse(token)?;
        let in_claims = jwt.claims.as_ref().and_then(|claims| claims.get(EMBEDDED));
        if let Some(embedded) = jwt.header.get(EMBEDDED).or(in_claims) {
            let Some(embedded) = embedded.as_str().filter(|_| may_embed) else {
                return refuse(ErrorCode::INVALID_JWT, "the embedded token cannot be read");
            };
            // Whoever has that may make any envelope around it, so nothing of the envelope is
            // verified; it can only shorten the token's life.
            let inner = self.read_token(embedded, now_ms, false)?;
            let outer_ms = jwt.claims.as_ref().and_then(|claims| claims.get("exp"));
            return match outer_ms.and_then(from_numeric_date) {
                Some(outer_ms) => Ok(inner.expiring_by(outer_ms)),
                None => Ok(inner),
            };
        }
        let Some(claims) = &jwt.claims else {
            return refuse(ErrorCode::INVALID_JWT, "an encrypted JWT has to embed a token");
        };
        if jwt.header.get("alg").and_then(Json::as_str) != Some("HS256") {
            return refuse(ErrorCode::INVALID_JWT, "a JWT is signed with HS256");
        }
        let Some(key_name) = jwt.header.get("kid").and_then(Json::as_str) else {
            return refuse(ErrorCode::INVALID_JWT, "a JWT names its key as `kid`");
        };
        let key = self.key(key_name)?;
        if !jwt.is_signed_with(key.secret()) {
            return refuse(ErrorCode::INVALID_CREDENTIALS, "the JWT is not signed with its key");
        }
        read_claims(key, claims, now_ms)
    }
}

fn read_claims(key: &Arc<Key>, claims: &Object, now_ms: u64) -> Result<Principal, ErrorInfo> {
    // No new token of the same maker would be better, so these are not 401.
    let unfit =
        |why: &'static str| Err(ErrorInfo::new(ErrorCode::INVALID_JWT, why).with_status(400));
    let date = |name| claims.get(name).and_then(from_numeric_date);
    let Some(issued_ms) = date("iat") else {
        return unfit("a JWT needs `iat`, in seconds");
    };
    let Some(expires_ms) = date("exp") else {
        return unfit("a JWT needs `exp`, in seconds");
    };
    if issued_ms > now_ms + CLOCK_WINDOW_MS {
        return unfit("the JWT was issued in the future");
    }
    if expires_ms.saturating_sub(issued_ms) > ttl_max_ms(key) {
        return unfit("the JWT lives too long");
    }
    let capability = match claims.get(CAPABILITY) {
        None | Some(Json::Null) => Arc::clone(key.capability()),
        Some(claim) => {
            let text = claim.as_str().map_or_else(|| claim.to_string(), str::to_owned);
            let asked = Capability::parse(&text).map_err(invalid_capability)?;
            Arc::new(narrow(key, &asked)?)
        }
    };
    let identity = match claims.get(CLIENT_ID) {
        None | Some(Json::Null) => Identity::Anonymous,
        Some(Json::String(text)) if text == "*" => Identity::Wildcard,
        Some(Json::String(text)) if !text.is_empty() => Identity::Client(text.as_str().into()),
        Some(_) => {
            return refuse(ErrorCode::INVALID_CLIENT_ID, "the clientId of the JWT is no clientId");
        }
    };
    let revocation_key = claims.get(REVOCATION_KEY).and_then(Json::as_str).map(Box::from);
    let mut user_claims: Vec<(Box<str>, Box<str>)> = Vec::new();
    for (name, value) in claims {
        let Some(pattern) = name.strip_prefix(CHANNEL_CLAIM) else { continue };
        match value {
            Json::String(claim) if claim.len() <= USER_CLAIM_BYTES_MAX => {
                user_claims.push((pattern.into(), claim.as_str().into()));
            }
            _ => return unfit("a user claim of the JWT is no string of at most 1024 bytes"),
        }
    }
    user_claims.sort_by_key(|(pattern, _)| std::cmp::Reverse(pattern.len()));
    let token = Token {
        issued_ms,
        expires_ms,
        revoked_ms: None,
        is_wildcard: identity == Identity::Wildcard,
        revocation_key,
        user_claims: user_claims.into(),
    };
    Ok(Principal::of_token(Arc::clone(key), capability, identity, token))
}

#[cfg(test)]
mod tests {
    use super::super::{AppSpec, KeySpec, Operation};
    use super::*;

    const NOW_MS: u64 = 1_700_000_000_500;

    /// Made and signed by ably-js 2.28 with `app.key:secret-é`.
    const PLAIN: &str = r#"{"keyName":"app.key","timestamp":1700000000000,
        "nonce":"1234567890123456","mac":"ZM7bRMyobKw7FwQR1UagVXBe87EbFYGkIurd5OVbFSU="}"#;
    const FULL: &str = r#"{"keyName":"app.key","timestamp":1700000000000,"nonce":"1234567890123456",
        "ttl":123,"clientId":"bob é","capability":"{\"a\":[\"*\"],\"b\":[\"publish\",\"subscribe\"]}",
        "mac":"12jSFcSR4LLUDMrMlnFTXCNeJVFxqP/SVC9nISHVm74="}"#;

    fn directory() -> Directory {
        let key = |text: &str, capability: &str, is_revocable: bool| {
            KeySpec::new(text.parse().expect("a key"), capability, is_revocable).expect("valid")
        };
        let keys = vec![
            key("app.key:secret-é", r#"{"*":["*"]}"#, false),
            key("app.sub:hush", r#"{ "news:*":["subscribe"], "a":["history"] }"#, false),
            key("app.short:hush", r#"{"*":["*"]}"#, true),
        ];
        Directory::new([AppSpec { id: "app".into(), keys, ..AppSpec::default() }])
    }

    fn check(key: &str, body: &str) -> Result<TokenGrant, ErrorInfo> {
        let request = TokenRequest::decode(Format::Json, body.as_bytes())?;
        request.check(directory().key(key).expect("known"), NOW_MS)
    }

    fn code(key: &str, body: &str) -> (u32, u16) {
        let error = check(key, body).expect_err(body);
        (error.code.0, error.status)
    }

    #[test]
    fn requests_that_an_sdk_has_signed_are_granted() {
        let details = check("app.key", PLAIN).expect("signed").issue(NOW_MS, [1; 12]);
        assert_eq!((details.issued_ms, details.expires_ms), (NOW_MS, NOW_MS + 3_600_000));
        assert_eq!((&*details.capability, details.client_id), (r#"{"*":["*"]}"#, None));
        let details = check("app.key", FULL).expect("signed").issue(NOW_MS, [1; 12]);
        assert_eq!(details.expires_ms - details.issued_ms, 123);
        assert_eq!(&*details.capability, r#"{"a":["*"],"b":["publish","subscribe"]}"#);
        assert_eq!(details.client_id.as_deref(), Some("bob é"));
    }

    #[test]
    fn relays_may_make_strings_of_numbers_and_msgpack_is_read_too() {
        let strings = FULL
            .replace(r#""ttl":123"#, r#""ttl":"123""#)
            .replace("1700000000000", r#""1700000000000""#);
        assert_eq!(check("app.key", &strings).expect("signed").ttl_ms, 123);
        let value: Json = serde_json::from_str(FULL).expect("JSON");
        let mut body = vec![0x87];
        for (name, value) in value.as_object().expect("an object") {
            rmp::encode::write_str(&mut body, name).expect("a vector");
            match value.as_u64() {
                Some(number) => rmp::encode::write_f64(&mut body, number as f64),
                None => rmp::encode::write_str(&mut body, value.as_str().expect("a string")),
            }
            .expect("a vector");
        }
        let decoded = TokenRequest::decode(Format::MsgPack, &body).expect("one map");
        assert_eq!(Ok(decoded), TokenRequest::decode(Format::Json, FULL.as_bytes()));
    }

    #[test]
    fn a_signature_is_for_every_field_and_the_key() {
        for (from, to) in [
            ("123,", "124,"),
            ("bob", "eve"),
            ("subscribe", "history"),
            ("1700000000000", "1700000000001"),
            ("1234567890123456", "1234567890123457"),
            ("12jS", "12jT"),
            ("12jSFcSR4LLUDMrMlnFTXCNeJVFxqP/SVC9nISHVm74=", "12345"),
        ] {
            assert!(FULL.contains(from));
            assert_eq!(code("app.key", &FULL.replacen(from, to, 1)), (40101, 401), "{from}");
        }
        assert_eq!(code("app.short", FULL), (40101, 401));
        let renamed = FULL.replace("app.key", "app.short");
        assert_eq!(code("app.short", &renamed), (40101, 401));
    }

    #[test]
    fn requests_that_cannot_be_granted_have_their_codes() {
        for (body, expected) in [
            (r#"{"ttl":-1}"#, (40003, 400)),
            (r#"{"ttl":"notanumber"}"#, (40003, 400)),
            (r#"{"ttl":1.5}"#, (40003, 400)),
            (r#"{"ttl":86400001}"#, (40003, 400)),
            (r#"{"ttl":99999999999999999999}"#, (40003, 400)),
            (r#"{"clientId":""}"#, (40012, 400)),
            (r#"{"capability":"x"}"#, (40000, 400)),
            (r#"{"capability":"{\"a\":[]}"}"#, (40000, 400)),
            (r#"{"capability":"{\"a\":[\"publish_\"]}"}"#, (40000, 400)),
            (r#"{"timestamp":1699999800000}"#, (40104, 401)),
            (r#"{"timestamp":"1700000200000"}"#, (40104, 401)),
            (r#"{"keyName":"app.sub"}"#, (40101, 401)),
            (r#"{"mac":""}"#, (40101, 401)),
            ("[]", (40001, 400)),
            ("", (40001, 400)),
        ] {
            assert_eq!(code("app.key", body), expected, "{body}");
        }
        assert_eq!(code("app.sub", r#"{"capability":"{\"b\":[\"*\"]}"}"#), (40160, 401));
        assert_eq!(code("app.short", r#"{"ttl":3600001}"#), (40003, 400));
        for body in ["{}", r#"{"ttl":0}"#, r#"{"ttl":""}"#, r#"{"ttl":"0","nonce":null}"#] {
            assert_eq!(check("app.key", body).expect(body).ttl_ms, TTL_DEFAULT_MS);
        }
    }

    #[test]
    fn a_capability_is_the_keys_own_text_unless_less_was_asked_for() {
        let granted = |body: &str| check("app.sub", body).expect(body).issue(NOW_MS, [0; 12]);
        let whole = granted("{}");
        assert_eq!(&*whole.capability, r#"{ "news:*":["subscribe"], "a":["history"] }"#);
        let less = granted(r#"{"capability":"{\"news:x\":[\"*\"],\"b\":[\"publish\"]}"}"#);
        assert_eq!(&*less.capability, r#"{"news:x":["subscribe"]}"#);
        let principal = directory().authenticate_token(&less.token, NOW_MS).expect("valid");
        assert!(principal.capability().allows("news:x", Operation::Subscribe));
        assert!(!principal.capability().allows("news:y", Operation::Subscribe));
    }

    #[test]
    fn a_token_lives_to_the_millisecond_and_is_like_no_other() {
        let grant = check("app.key", r#"{"ttl":1,"clientId":"bob"}"#).expect("granted");
        let (one, other) = (grant.issue(NOW_MS, [1; 12]), grant.issue(NOW_MS, [2; 12]));
        assert_ne!(one.token, other.token);
        let directory = directory();
        let principal = directory.authenticate_token(&one.token, NOW_MS).expect("valid");
        assert_eq!(principal.identity(), &Identity::Client("bob".into()));
        assert_eq!(principal.token().expect("a token").expires_ms, NOW_MS + 1);
        let error = directory.authenticate_token(&one.token, NOW_MS + 1).expect_err("expired");
        assert_eq!((error.code, error.status), (ErrorCode::TOKEN_EXPIRED, 401));
    }

    fn jwt(header: Json, claims: Json) -> Result<Arc<Principal>, ErrorInfo> {
        directory().authenticate_token(&jwt::encode(&header, &claims, "secret-é"), NOW_MS)
    }

    fn header() -> Json {
        json!({"alg": "HS256", "typ": "JWT", "kid": "app.key"})
    }

    #[test]
    fn a_jwt_of_a_customer_carries_what_ably_claims() {
        let principal = jwt(
            header(),
            json!({"iat": 1_700_000_000, "exp": 1_700_000_060.25, "x-ably-clientId": "*",
                   "x-ably-capability": r#"{"a":["subscribe"]}"#, "x-ably-revocation-key": "r"}),
        )
        .expect("valid");
        let token = principal.token().expect("a token");
        assert_eq!((token.issued_ms, token.expires_ms), (1_700_000_000_000, 1_700_000_060_250));
        assert_eq!(token.revocation_key.as_deref(), Some("r"));
        assert_eq!(principal.identity(), &Identity::Wildcard);
        assert_eq!(principal.capability().to_string(), r#"{"a":["subscribe"]}"#);
        let plain = jwt(header(), json!({"iat": 1_700_000_000, "exp": 1_700_000_060}));
        assert_eq!(plain.expect("valid").identity(), &Identity::Anonymous);
    }

    #[test]
    fn of_several_user_claims_that_of_the_longest_pattern_counts() {
        let claims = json!({"iat": 1_700_000_000, "exp": 1_700_000_060, "ably.channel.chat:*": "user",
                            "ably.channel.chat:staff": "host", "ably.channel.*": "guest"});
        let principal = jwt(header(), claims).expect("valid");
        for (name, claim) in [("chat:staff", "host"), ("chat:a:b", "user"), ("other", "guest")] {
            assert_eq!(principal.user_claim(name), Some(claim));
        }
        assert_eq!(principal.user_claim("[meta]log"), None);
        let plain = jwt(header(), json!({"iat": 1_700_000_000, "exp": 1_700_000_060}));
        assert_eq!(plain.expect("valid").user_claim("other"), None);
    }

    #[test]
    fn jwts_that_are_no_good_have_their_codes() {
        let good = || json!({"iat": 1_700_000_000, "exp": 1_700_000_060});
        let with = |name: &str, value: Json| {
            let mut claims = good();
            claims[name] = value;
            claims
        };
        let with_header = |name: &str, value: Json| {
            let mut header = header();
            header[name] = value;
            header
        };
        for (header, claims, expected) in [
            (with_header("alg", json!("none")), good(), (40144, 401)),
            (with_header("alg", json!("RS256")), good(), (40144, 401)),
            (with_header("kid", json!(1)), good(), (40144, 401)),
            (with_header("kid", json!("invalid.invalid")), good(), (40400, 404)),
            (with_header("kid", json!("app.invalid")), good(), (40400, 401)),
            (with_header("kid", json!("app.sub")), good(), (40101, 401)),
            (header(), with("iat", json!(null)), (40144, 400)),
            (header(), with("exp", json!("soon")), (40144, 400)),
            (header(), with("iat", json!(1_700_000_200)), (40144, 400)),
            (header(), with("exp", json!(1_700_086_401)), (40144, 400)),
            (header(), with("exp", json!(1_700_000_000.5)), (40142, 401)),
            (header(), with("x-ably-capability", json!("x")), (40000, 400)),
            (header(), with("x-ably-clientId", json!("")), (40012, 400)),
            (header(), with("x-ably-clientId", json!(1)), (40012, 400)),
            (header(), with("x-ably-token", json!(1)), (40144, 401)),
            (header(), with("ably.channel.a", json!(1)), (40144, 400)),
            (header(), with("ably.channel.a", json!("x".repeat(1025))), (40144, 400)),
        ] {
            let error = jwt(header.clone(), claims.clone()).expect_err("no good");
            assert_eq!((error.code.0, error.status), expected, "{header} {claims}");
        }
        assert!(jwt(header(), good()).is_ok());
    }

    #[test]
    fn an_embedded_token_counts_and_its_envelope_can_only_shorten_it() {
        let inner = check("app.key", r#"{"clientId":"bob"}"#).expect("granted");
        let inner = inner.issue(NOW_MS, [1; 12]).token;
        let envelope = |exp: u64, token: &str| json!({"exp": exp, "x-ably-token": token});
        for (exp, expires_ms) in
            [(1_700_000_060, 1_700_000_060_000), (1_800_000_000, NOW_MS + 3_600_000)]
        {
            let principal = jwt(json!({}), envelope(exp, &inner)).expect("valid");
            assert_eq!(principal.identity(), &Identity::Client("bob".into()));
            assert_eq!(principal.token().expect("a token").expires_ms, expires_ms);
        }
        let past = jwt(json!({}), envelope(1_700_000_000, &inner)).expect_err("ended");
        assert_eq!(past.code, ErrorCode::TOKEN_EXPIRED);
        assert!(jwt(json!({"x-ably-token": inner}), json!({})).is_ok());
        let part = BASE64URL_NOPAD.encode(json!({"x-ably-token": inner}).to_string().as_bytes());
        let encrypted = format!("{part}.a.b.c.dA");
        assert!(directory().authenticate_token(&encrypted, NOW_MS).is_ok());
        // Once is enough.
        let twice = jwt::encode(&json!({}), &envelope(1_800_000_000, &inner), "x");
        assert!(jwt(json!({}), envelope(1_800_000_000, &twice)).is_err());
    }
}
