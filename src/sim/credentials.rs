//! Who the simulated clients are and what each may do: said once as data, turned into keys and tokens for
//! the daemon, and judged here by rules written a second time.

use std::collections::BTreeMap;
use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use hmac::{Hmac, Mac};
use serde_json::{Map, Value, json};
use sha2::Sha256;

use super::revocations::{self, Token};
use crate::ably::{Ack, ApiKey, AppSpec, Directory, KeySpec, Namespace};

/// The app of all clients.
pub const APP: &str = "app";

/// The secret of every key.
const SECRET: &str = "secret";

/// What a credential permits: operations by channel.
type Grant = &'static [(&'static str, &'static [&'static str])];

/// A key for each; tokens are made with the first.
const GRANTS: [Grant; 8] = [
    &[("*", &["*"])],
    &[("a", &["subscribe", "publish", "history"]), ("b", &["subscribe"])],
    &[("a", &["publish"]), ("b", &["publish", "subscribe", "presence"])],
    &[("*", &["subscribe"])],
    &[("vip:*", &["*"]), ("a", &["presence", "subscribe"]), ("b", &["publish"])],
    &[("a", &["publish", "subscribe", "presence"]), ("vip:x", &["subscribe", "publish"])],
    &[("mut:*", &["publish", "subscribe", "message-update-own", "message-delete-own"])],
    &[("mut:m", &["subscribe", "message-update-any"]), ("a", &["publish", "subscribe"])],
];

/// How many there are where no message can change.
pub const GRANTS_COUNT: usize = 6;

/// How many there are of all.
pub const ALL_GRANTS_COUNT: usize = GRANTS.len();

/// The channel whose messages can change.
pub const MUTABLE: &str = "mut:m";

/// Whether the grant of that number permits `operation` on a channel without qualifier.
pub fn permits(grant: usize, channel: &str, operation: &str) -> bool {
    let matches = |pattern: &str| match pattern.strip_suffix(":*") {
        _ if pattern == "*" => true,
        Some(namespace) => {
            channel.strip_prefix(namespace).is_some_and(|rest| rest.starts_with(':'))
        }
        None => pattern == channel,
    };
    GRANTS[grant].iter().any(|(pattern, operations)| {
        matches(pattern) && operations.iter().any(|known| [operation, "*"].contains(known))
    })
}

fn capability(grant: usize) -> String {
    let entries =
        GRANTS[grant].iter().map(|(name, operations)| ((*name).into(), json!(operations)));
    Value::Object(entries.collect::<Map<_, _>>()).to_string()
}

/// The API key for a grant.
pub fn key(grant: usize) -> String {
    format!("{}:{SECRET}", key_name(grant))
}

/// That key without its secret.
pub fn key_name(grant: usize) -> String {
    format!("{APP}.k{grant}")
}

/// Whether the grant of that number has an entry that is written so.
pub fn names(grant: usize, pattern: &str) -> bool {
    GRANTS[grant].iter().any(|(known, _)| *known == pattern)
}

/// A token for a grant, which can be revoked by that if `is_revocable`.
pub fn token(
    grant: usize,
    client_id: Option<&'static str>,
    now_ms: u64,
    ttl: Duration,
    is_revocable: bool,
) -> Token {
    let part = |value: Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    let ends_ms = now_ms + ttl.as_millis() as u64;
    let mut claims = json!({
        "iat": now_ms / 1000,
        "exp": ends_ms as f64 / 1000.0,
        "x-ably-capability": capability(grant),
    });
    if is_revocable {
        claims["x-ably-revocation-key"] = revocations::revocation_key(grant).into();
    }
    if let Some(client_id) = client_id {
        claims["x-ably-clientId"] = client_id.into();
    }
    let header = part(json!({"alg": "HS256", "typ": "JWT", "kid": format!("{APP}.k0")}));
    let signed = format!("{header}.{}", part(claims));
    let mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).expect("keys have any length");
    let signature = mac.chain_update(&signed).finalize().into_bytes();
    let text = format!("{signed}.{}", BASE64URL_NOPAD.encode(&signature));
    // As the claim has it, in whole seconds.
    let issued_ms = now_ms / 1000 * 1000;
    Token { text, grant, client_id, issued_ms, expires_ms: ends_ms }
}

/// The app with the keys of those grants that `has_key` names.
pub fn directory(is_revocable: bool, has_key: impl Fn(usize) -> bool) -> Directory {
    let spec = |grant| {
        let key: ApiKey = key(grant).parse().expect("well-formed");
        KeySpec::new(key, &capability(grant), is_revocable).expect("valid")
    };
    let keys = (0..GRANTS.len()).filter(|&grant| has_key(grant)).map(spec).collect();
    let namespaces = vec![
        Namespace { id: "vip".into(), authenticated: true, ..Namespace::default() },
        Namespace { id: "kept".into(), persisted: true, ..Namespace::default() },
        Namespace { id: "safe".into(), persisted: true, ack: Ack::Fsynced, ..Namespace::default() },
        Namespace { id: "loose".into(), persisted: true, ack: Ack::Memory, ..Namespace::default() },
        Namespace { id: "mut".into(), mutable_messages: true, ..Namespace::default() },
    ];
    Directory::new([AppSpec { id: APP.into(), keys, namespaces, ..AppSpec::default() }])
}

/// The channels among these that are kept on disk, where there is one, and how safe they are.
pub fn levels(channels: &[&'static str]) -> BTreeMap<&'static str, Ack> {
    let directory = directory(false, |_| true);
    let app = directory.app(APP).expect("it is the only one");
    let level = |channel: &&'static str| {
        let namespace = app.namespace(channel);
        namespace.persisted.then_some((*channel, namespace.ack))
    };
    channels.iter().filter_map(level).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grants_say_what_they_look_like() {
        assert!(permits(0, "vip:x", "presence") && permits(3, "b", "subscribe"));
        assert!(!permits(3, "b", "publish") && !permits(1, "c", "subscribe"));
        assert!(permits(4, "vip:x", "history") && !permits(4, "vip", "history"));
    }
}
