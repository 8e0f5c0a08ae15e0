//! API keys as they are configured.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use data_encoding::BASE64URL_NOPAD;
use toml::de::DeValue;

use crate::ably::KeySpec;
use crate::config::advice::advise;
use crate::config::bounds::CONNECTIONS_MAX;
use crate::config::reader::{ConfigError, Section};
use crate::config::units;

/// What a key may be allowed to do; `*` is all of it.
const OPERATIONS: [&str; 18] = [
    "*",
    "annotation-publish",
    "annotation-subscribe",
    "channel-metadata",
    "history",
    "message-delete-any",
    "message-delete-own",
    "message-update-any",
    "message-update-own",
    "object-publish",
    "object-subscribe",
    "presence",
    "privileged-headers",
    "publish",
    "push-admin",
    "push-subscribe",
    "stats",
    "subscribe",
];

/// `appId.keyId:secret`, and what it may do.
#[derive(Clone)]
pub struct ApiKey {
    /// The application; keys of one application see the same channels.
    pub app: String,
    /// Names the key within its application.
    pub id: String,
    /// Never logged.
    pub secret: String,
    /// Operations for each channel pattern; everything unless configured.
    pub capability: BTreeMap<String, Vec<String>>,
    /// Whether its tokens can be revoked; they live for an hour at most then.
    pub revocable_tokens: bool,
    /// Connections that it may have, with those of its tokens; `None`: as many as any key.
    pub connections_max: Option<u32>,
}

impl ApiKey {
    /// Makes a key for a daemon that was started without one, from random bytes.
    pub fn from_random(bytes: &[u8; 24]) -> ApiKey {
        let secret = BASE64URL_NOPAD.encode(bytes);
        let (app, id) = ("local".into(), "made".into());
        ApiKey {
            app,
            id,
            secret,
            capability: everything(),
            revocable_tokens: false,
            connections_max: None,
        }
    }

    /// The key as shards check it.
    ///
    /// # Errors
    /// The capability is refused by the protocol layer.
    pub fn to_spec(&self) -> anyhow::Result<KeySpec> {
        let capability = serde_json::to_string(&self.capability)?;
        let api_key = self.to_secret_string().parse()?;
        let spec = KeySpec::new(api_key, &capability, self.revocable_tokens)?;
        Ok(spec.with_connections_max(self.connections_max))
    }

    /// `appId.keyId`, which is no secret.
    pub fn name(&self) -> String {
        format!("{}.{}", self.app, self.id)
    }

    /// `appId.keyId:secret`, as clients write it.
    pub fn to_secret_string(&self) -> String {
        format!("{}.{}:{}", self.app, self.id, self.secret)
    }
}

impl FromStr for ApiKey {
    type Err = String;

    fn from_str(text: &str) -> Result<ApiKey, String> {
        parse(text)
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_struct("ApiKey")
            .field("name", &self.name())
            .field("capability", &self.capability)
            .field("revocable_tokens", &self.revocable_tokens)
            .finish_non_exhaustive()
    }
}

/// Parses `appId.keyId:secret`; it gets every capability. The refusal does not show the text.
pub(super) fn parse(text: &str) -> Result<ApiKey, String> {
    let is_secret = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
    match text.split_once(':').and_then(|(name, secret)| Some((name.split_once('.')?, secret))) {
        Some(((app, id), secret)) if is_id(app) && is_id(id) && is_secret(secret) => Ok(ApiKey {
            app: app.into(),
            id: id.into(),
            secret: secret.into(),
            capability: everything(),
            revocable_tokens: false,
            connections_max: None,
        }),
        _ => Err("wants appId.keyId:secret".into()),
    }
}

/// Whether `text` can name an app, or a key within its app.
pub(super) fn is_id(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
}

/// Reads `{ "pattern" = ["operation", ..], .. }`.
pub(super) fn capability(value: &DeValue) -> Result<BTreeMap<String, Vec<String>>, String> {
    let wanted =
        || r#"wants operations for channels, such as { "news:*" = ["subscribe"] }"#.to_owned();
    let mut capability = BTreeMap::new();
    for (pattern, operations) in value.as_table().filter(|t| !t.is_empty()).ok_or_else(wanted)? {
        let operations = operations.get_ref().as_array().ok_or_else(wanted)?;
        let operations: Option<Vec<&str>> =
            operations.iter().map(|operation| operation.get_ref().as_str()).collect();
        let operations = operations.filter(|list| !list.is_empty()).ok_or_else(wanted)?;
        if let Some(unknown) = operations.iter().find(|word| !OPERATIONS.contains(word)) {
            return Err(format!("unknown operation `{unknown}`; {}", advise(unknown, &OPERATIONS)));
        }
        if operations.len() > 1 && operations.contains(&"*") {
            return Err("`*` is already everything: it stands alone".into());
        }
        let operations = operations.into_iter().map(str::to_owned).collect();
        capability.insert(pattern.get_ref().to_string(), operations);
    }
    Ok(capability)
}

fn everything() -> BTreeMap<String, Vec<String>> {
    BTreeMap::from([("[*]*".into(), vec!["*".into()])])
}

/// Reads a key from its section, or from where that says that it is.
pub(super) fn read(mut section: Section) -> Result<ApiKey, ConfigError> {
    let directory = section.directory();
    let mut given = Vec::new();
    let mut inline = None;
    section.read("key", &mut inline, |value| parse(units::text(value)?).map(Some))?;
    given.extend(inline);
    let mut from_file = None;
    section.read("key_file", &mut from_file, |value| {
        let path = units::secret_path(&directory, units::text(value)?)?;
        let text = std::fs::read_to_string(&path)
            .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        parse(text.trim()).map(Some).map_err(|why| format!("in {}: {why}", path.display()))
    })?;
    given.extend(from_file);
    let mut from_variable = None;
    section.read("key_env", &mut from_variable, |value| {
        let name = units::text(value)?;
        let text = std::env::var(name).map_err(|_| format!("the variable `{name}` is not set"))?;
        parse(text.trim()).map(Some).map_err(|why| format!("in the variable {name}: {why}"))
    })?;
    given.extend(from_variable);
    let mut capability = BTreeMap::new();
    section.read("capability", &mut capability, self::capability)?;
    let mut revocable_tokens = false;
    section.read("revocable_tokens", &mut revocable_tokens, units::boolean)?;
    let mut connections_max = None;
    section.read("connections_max", &mut connections_max, |value| {
        units::count(0..=CONNECTIONS_MAX)(value).map(Some)
    })?;
    section.finish()?;
    let mut key = match given.len() {
        0 => return Err(section.error("key", "is missing, and so are `key_file` and `key_env`")),
        1 => given.remove(0),
        _ => {
            let why = "is there more than once: keep one of `key`, `key_file` and `key_env`";
            return Err(section.error("key", why));
        }
    };
    if !capability.is_empty() {
        key.capability = capability;
    }
    key.revocable_tokens = revocable_tokens;
    key.connections_max = connections_max;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_need_an_app_an_id_and_a_secret() {
        let key = parse("app.key-1:s3cr:t/+=").unwrap();
        assert_eq!((key.app.as_str(), key.id.as_str()), ("app", "key-1"));
        assert_eq!(key.secret, "s3cr:t/+=");
        assert_eq!(key.to_secret_string(), "app.key-1:s3cr:t/+=");
        for text in
            ["", "app", "app.key", "app.key:", ".key:s", "app.:s", "a b.c:d", "app:s.k", "a.b:c d"]
        {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_made_key_is_a_key() {
        let made = ApiKey::from_random(&[0xff; 24]);
        assert_eq!(parse(&made.to_secret_string()).unwrap().name(), "local.made");
    }
}
