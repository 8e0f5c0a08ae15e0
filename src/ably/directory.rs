//! The apps of a daemon: their keys, their namespaces, their limits. One immutable snapshot for all
//! shards; a change makes the next one.

use std::collections::HashMap;
use std::sync::Arc;

use super::capability::CapabilityError;
use super::revocation::Revocations;
use super::{ApiKey, Capability, ErrorCode, ErrorInfo, Principal, Revocation, Rules, StatsFixture};

/// What a confirmation of a publish to a persisted channel says, and what everybody can rely on who hears
/// of the message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ack {
    /// It has its place in the order; it is written soon.
    Memory,
    /// It survives the process.
    #[default]
    Written,
    /// It survives the host.
    Fsynced,
}

/// What the channels under one name obey (6.8).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Namespace {
    /// The first segment of the channels' names, or a whole name.
    pub id: Box<str>,
    /// Messages and presence events are kept longer than the default; messages also on disk, where there
    /// is one.
    pub persisted: bool,
    /// When publishes are confirmed, if they are kept on disk.
    pub ack: Ack,
    /// The last message is kept for `rewind=1`.
    pub persist_last: bool,
    /// Messages can be updated, deleted, appended to and annotated.
    pub mutable_messages: bool,
    /// `extras.push` and push subscriptions are allowed.
    pub push_enabled: bool,
    /// Clients have to be identified; anonymous ones are refused with 40161.
    pub authenticated: bool,
    /// Plain transports are refused.
    pub tls_only: bool,
}

/// Bounds of one app; each bounds memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppLimits {
    /// Presence members of one channel; one more is refused with 91003.
    pub presence_members_max: u32,
}

impl Default for AppLimits {
    fn default() -> AppLimits {
        AppLimits { presence_members_max: 200 }
    }
}

/// An application: what its channels obey. Apps do not see each other's channels.
#[derive(Debug)]
pub struct App {
    id: Box<str>,
    limits: AppLimits,
    namespaces: Vec<Namespace>,
    /// What a channel obeys that no namespace is for.
    plain: Namespace,
}

impl App {
    /// The first part of its keys' names.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its bounds.
    pub fn limits(&self) -> &AppLimits {
        &self.limits
    }

    /// Its namespaces, as they were configured.
    pub fn namespaces(&self) -> &[Namespace] {
        &self.namespaces
    }

    /// What the channel called `name` obeys: the namespace called as the text before its first `:`, or
    /// as the whole name. A `[qualifier]` in front does not count.
    pub fn namespace(&self, name: &str) -> &Namespace {
        let base = match name.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((_, base)) => base,
            None => name,
        };
        let id = base.split_once(':').map_or(base, |(id, _)| id);
        self.namespaces.iter().find(|namespace| *namespace.id == *id).unwrap_or(&self.plain)
    }
}

/// One key of an app, and what it permits.
#[derive(Debug)]
pub struct Key {
    app: Arc<App>,
    api_key: ApiKey,
    name: Arc<str>,
    capability: Arc<Capability>,
    capability_text: Box<str>,
    has_revocable_tokens: bool,
    connections_max: Option<u32>,
}

impl Key {
    /// The app whose channels it opens.
    pub fn app(&self) -> &Arc<App> {
        &self.app
    }

    /// `appId.keyId`, which is no secret.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The same, to keep.
    pub fn shared_name(&self) -> Arc<str> {
        Arc::clone(&self.name)
    }

    /// Connections that it may have, with those of its tokens; `None`: as many as any key. 0: no bound.
    pub fn connections_max(&self) -> Option<u32> {
        self.connections_max
    }

    /// What its holder may do.
    pub fn capability(&self) -> &Arc<Capability> {
        &self.capability
    }

    /// The same, as the text that was configured; tokens that ask for nothing less are told it.
    pub fn capability_text(&self) -> &str {
        &self.capability_text
    }

    /// The secret, with which tokens and token requests are signed.
    pub(super) fn secret(&self) -> &str {
        self.api_key.secret()
    }

    /// Whether its tokens can be revoked; they live for an hour at most then.
    pub fn has_revocable_tokens(&self) -> bool {
        self.has_revocable_tokens
    }
}

/// A key as it is configured.
#[derive(Clone, Debug)]
pub struct KeySpec {
    api_key: ApiKey,
    capability: Capability,
    capability_text: Box<str>,
    has_revocable_tokens: bool,
    connections_max: Option<u32>,
}

impl KeySpec {
    /// The key `api_key`, which permits what the JSON `capability_text` says. Operations that are not
    /// known here are kept and permit nothing.
    ///
    /// # Errors
    /// The text is no capability.
    pub fn new(
        api_key: ApiKey,
        capability_text: &str,
        has_revocable_tokens: bool,
    ) -> Result<KeySpec, CapabilityError> {
        let capability = Capability::parse_lenient(capability_text)?;
        Ok(KeySpec {
            api_key,
            capability,
            capability_text: capability_text.into(),
            has_revocable_tokens,
            connections_max: None,
        })
    }

    /// The same key with a bound of its own on its connections.
    #[must_use]
    pub fn with_connections_max(self, connections_max: Option<u32>) -> KeySpec {
        KeySpec { connections_max, ..self }
    }

    /// The key.
    pub fn api_key(&self) -> &ApiKey {
        &self.api_key
    }

    /// What it permits, as text.
    pub fn capability_text(&self) -> &str {
        &self.capability_text
    }

    /// Whether its tokens can be revoked.
    pub fn has_revocable_tokens(&self) -> bool {
        self.has_revocable_tokens
    }
}

/// An app as it is configured.
#[derive(Clone, Debug, Default)]
pub struct AppSpec {
    /// The first part of its keys' names.
    pub id: Box<str>,
    /// Its keys; those of other apps have no place here.
    pub keys: Vec<KeySpec>,
    /// Its namespaces; of two with one id the first counts.
    pub namespaces: Vec<Namespace>,
    /// Its bounds.
    pub limits: AppLimits,
}

/// All apps of the daemon. Cheap to ask; a change copies the tables, not what they hold.
#[derive(Clone, Debug, Default)]
pub struct Directory {
    apps: HashMap<Box<str>, Arc<App>>,
    /// By key name: the holder of the key who claims no clientId.
    keys: HashMap<Box<str>, Arc<Principal>>,
    /// By app: numbers that a test suite has posted, as they came.
    stats: HashMap<Box<str>, Arc<Vec<StatsFixture>>>,
    /// By key name: which of its tokens are worth nothing.
    revocations: HashMap<Box<str>, Arc<Revocations>>,
    /// Which channels' events go to endpoints.
    rules: Rules,
}

impl Directory {
    /// The directory of these apps; of two with one id the last counts.
    pub fn new(apps: impl IntoIterator<Item = AppSpec>) -> Directory {
        let mut directory = Directory::default();
        apps.into_iter().for_each(|app| directory.add(app));
        directory
    }

    /// A directory of these keys and nothing else, for tests and the smallest configuration.
    pub fn of_keys(keys: impl IntoIterator<Item = (ApiKey, Capability)>) -> Directory {
        let mut apps: HashMap<Box<str>, AppSpec> = HashMap::new();
        for (api_key, capability) in keys {
            let id: Box<str> = api_key.app_id().into();
            let app =
                apps.entry(id.clone()).or_insert_with(|| AppSpec { id, ..AppSpec::default() });
            let capability_text = capability.to_string().into();
            app.keys.push(KeySpec {
                api_key,
                capability,
                capability_text,
                has_revocable_tokens: false,
                connections_max: None,
            });
        }
        Directory::new(apps.into_values())
    }

    /// The same with one app more, or another in its place.
    #[must_use]
    pub fn with_app(&self, app: AppSpec) -> Directory {
        let mut directory = self.without_app(&app.id);
        directory.add(app);
        directory
    }

    /// The same without the app `id`.
    #[must_use]
    pub fn without_app(&self, id: &str) -> Directory {
        let mut directory = self.clone();
        if directory.apps.remove(id).is_some() {
            directory.keys.retain(|_, principal| principal.app_id() != id);
            directory.stats.remove(id);
            directory.revocations.retain(|key_name, _| app_id_of(key_name) != id);
        }
        directory
    }

    /// The same with more numbers of the app `id`.
    #[must_use]
    pub fn with_stats(&self, id: &str, stats: &[StatsFixture]) -> Directory {
        let mut directory = self.clone();
        let all = directory.stats.entry(id.into()).or_default();
        Arc::make_mut(all).extend_from_slice(stats);
        directory
    }

    /// The same with tokens of the key called `key_name` revoked.
    ///
    /// # Errors
    /// 42918: there are as many revocations of the key as can be kept.
    pub fn with_revocation_of(
        &self,
        key_name: &str,
        revocation: &Revocation,
    ) -> Result<Directory, ErrorInfo> {
        let none = Revocations::default();
        let before = self.revocations.get(key_name).map_or(&none, |revocations| revocations);
        let after = Arc::new(revocation.apply(before)?);
        let mut directory = self.clone();
        directory.revocations.insert(key_name.into(), after);
        Ok(directory)
    }

    /// The same with these rules in place of those before.
    #[must_use]
    pub fn with_rules(&self, rules: Rules) -> Directory {
        Directory { rules, ..self.clone() }
    }

    /// Which channels' events go to endpoints.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// From when on the token of `principal` is revoked, if it is.
    pub(super) fn revoked_ms(&self, principal: &Principal) -> Option<u64> {
        self.revocations.get(principal.key().name())?.revoked_ms(principal)
    }

    /// The apps, keys and rules of `configured`, with what was revoked and posted here for those that remain.
    #[must_use]
    pub fn reconfigured(&self, configured: &Directory) -> Directory {
        let mut directory = configured.clone();
        let stats = self.stats.iter().filter(|(id, _)| configured.apps.contains_key(*id));
        directory.stats.extend(stats.map(|(id, stats)| (id.clone(), Arc::clone(stats))));
        let revoked =
            self.revocations.iter().filter(|(name, _)| configured.keys.contains_key(*name));
        directory.revocations.extend(revoked.map(|(name, of)| (name.clone(), Arc::clone(of))));
        directory
    }

    /// Whether the key by which `principal` has come is still there, with the same secret.
    pub fn has_key_of(&self, principal: &Principal) -> bool {
        let before = principal.key();
        let now = self.keys.get(before.name()).map(|holder| holder.key());
        now.is_some_and(|key| {
            Arc::ptr_eq(key, before) || key.api_key.has_secret_of(&before.api_key)
        })
    }

    fn add(&mut self, spec: AppSpec) {
        let AppSpec { id, keys, namespaces, limits } = spec;
        let plain = Namespace::default();
        let app = Arc::new(App { id: id.clone(), limits, namespaces, plain });
        for key in keys {
            let KeySpec {
                api_key,
                capability,
                capability_text,
                has_revocable_tokens,
                connections_max,
            } = key;
            assert_eq!(api_key.app_id(), &*id, "an app has keys of its own only");
            let name: Box<str> = api_key.name().into();
            let key = Key {
                app: Arc::clone(&app),
                api_key,
                name: name.as_ref().into(),
                capability: Arc::new(capability),
                capability_text,
                has_revocable_tokens,
                connections_max,
            };
            self.keys.insert(name, Arc::new(Principal::of_key(Arc::new(key))));
        }
        self.apps.insert(id, app);
    }

    /// Ids of all apps.
    pub fn app_ids(&self) -> impl Iterator<Item = &str> {
        self.apps.keys().map(|id| &**id)
    }

    /// How many apps there are.
    pub fn app_count(&self) -> usize {
        self.apps.len()
    }

    /// Whether the messages of any channel are kept longer than the default.
    pub fn has_persisted(&self) -> bool {
        self.apps.values().any(|app| app.namespaces.iter().any(|namespace| namespace.persisted))
    }

    /// Whether every app has the namespaces that it has had, if any: channels may be there before their app is.
    pub fn has_namespaces_of(&self, before: &Directory) -> bool {
        self.apps.iter().all(|(id, app)| match before.apps.get(id) {
            Some(known) => Arc::ptr_eq(known, app) || known.namespaces == app.namespaces,
            None => app.namespaces.is_empty(),
        })
    }

    /// The app `id`.
    pub fn app(&self, id: &str) -> Option<&Arc<App>> {
        self.apps.get(id)
    }

    /// What test suites have posted as the numbers of the app `id`, in the order of arrival.
    pub fn stats(&self, id: &str) -> &[StatsFixture] {
        self.stats.get(id).map_or(&[], |stats| stats)
    }

    /// The key called `name`.
    ///
    /// # Errors
    /// 40400: the app, or its key, is not known.
    pub fn key(&self, name: &str) -> Result<&Arc<Key>, ErrorInfo> {
        self.holder(name, ErrorCode::NOT_FOUND).map(|principal| principal.key())
    }

    /// Whoever holds the key that `presented` is, found in constant time as far as the secret goes.
    ///
    /// # Errors
    /// The app is not known or the secret is wrong (40101), or the app has no such key (40400).
    pub fn authenticate(&self, presented: &ApiKey) -> Result<&Arc<Principal>, ErrorInfo> {
        // Only a token's key name is answered with 404 where there is no such app.
        let principal = self.holder(&presented.name(), ErrorCode::INVALID_CREDENTIALS)?;
        if principal.key().api_key.has_secret_of(presented) {
            Ok(principal)
        } else {
            Err(ErrorInfo::new(ErrorCode::INVALID_CREDENTIALS, "invalid key secret"))
        }
    }

    fn holder(&self, key_name: &str, no_app: ErrorCode) -> Result<&Arc<Principal>, ErrorInfo> {
        self.keys.get(key_name).ok_or_else(|| {
            // Over REST an unknown key of a known app is 401 with the code of 404 (2.4).
            match self.apps.contains_key(app_id_of(key_name)) {
                true => ErrorInfo::new(ErrorCode::NOT_FOUND, "no such key").with_status(401),
                false => ErrorInfo::new(no_app, "no such app"),
            }
        })
    }
}

fn app_id_of(key_name: &str) -> &str {
    key_name.split_once('.').map_or(key_name, |(app_id, _)| app_id)
}

#[cfg(test)]
mod tests {
    use super::super::Format;
    use super::*;

    fn key(text: &str) -> KeySpec {
        KeySpec::new(text.parse().expect("a key"), r#"{"*":["*"]}"#, false).expect("a capability")
    }

    fn app(id: &str) -> AppSpec {
        let namespace = |id: &str| Namespace { id: id.into(), ..Namespace::default() };
        AppSpec {
            id: id.into(),
            keys: vec![key(&format!("{id}.key:secret"))],
            namespaces: vec![
                Namespace { persisted: true, ..namespace("chat") },
                Namespace { authenticated: true, ..namespace("members") },
            ],
            limits: AppLimits::default(),
        }
    }

    fn code(directory: &Directory, key: &str) -> Option<(u32, u16)> {
        let refusal = directory.authenticate(&key.parse().expect("well-formed")).err();
        refusal.map(|error| (error.code.0, error.status))
    }

    #[test]
    fn a_key_opens_its_own_app_and_no_other() {
        let directory = Directory::new([app("one"), app("two")]);
        assert_eq!(code(&directory, "one.key:secret"), None);
        assert_eq!(code(&directory, "one.key:wrong"), Some((40101, 401)));
        assert_eq!(code(&directory, "one.other:secret"), Some((40400, 401)));
        assert_eq!(code(&directory, "three.key:secret"), Some((40101, 401)));
        let token_key = directory.key("three.key").map_err(|error| (error.code.0, error.status));
        assert_eq!(token_key.err(), Some((40400, 404)));
    }

    #[test]
    fn a_changed_directory_leaves_the_one_before_as_it_was() {
        let before = Directory::new([app("one")]);
        let after = before.with_app(app("two")).without_app("one");
        assert_eq!((before.app_count(), after.app_count()), (1, 1));
        assert_eq!(code(&before, "one.key:secret"), None);
        assert_eq!(code(&after, "one.key:secret"), Some((40101, 401)));
        assert_eq!(code(&after, "two.key:secret"), None);
    }

    #[test]
    fn a_reconfigured_directory_keeps_revocations_of_keys_that_remain() {
        let body = br#"{"targets":["clientId:bob"]}"#;
        let revocation = Revocation::decode(Format::Json, body, 1_000_000).expect("well-formed");
        let before = Directory::new([app("one"), app("two")]);
        let before = before.with_revocation_of("one.key", &revocation).expect("has room");
        let before = before.with_revocation_of("two.key", &revocation).expect("has room");
        let after = before.reconfigured(&Directory::new([app("one"), app("three")]));
        assert_eq!(after.revocations.keys().map(|name| &**name).collect::<Vec<_>>(), ["one.key"]);
        assert_eq!(code(&after, "three.key:secret"), None);
        assert_eq!(code(&after, "two.key:secret"), Some((40101, 401)));
        let holder = |key: &str| {
            let key = key.parse().expect("well-formed");
            Arc::clone(before.authenticate(&key).expect("is there"))
        };
        assert!(after.has_key_of(&holder("one.key:secret")));
        assert!(!after.has_key_of(&holder("two.key:secret")));
        let changed = AppSpec { keys: vec![key("one.key:other")], ..app("one") };
        assert!(!before.with_app(changed).has_key_of(&holder("one.key:secret")));
    }

    #[test]
    fn a_namespace_is_the_first_segment_or_the_whole_name() {
        let directory = Directory::new([app("one")]);
        let app = directory.app("one").expect("was added");
        for (name, persisted) in [
            ("chat", true),
            ("chat:room", true),
            ("chat:room:1", true),
            ("[meta]chat:room", true),
            ("chatter", false),
            ("room:chat", false),
            ("", false),
        ] {
            assert_eq!(app.namespace(name).persisted, persisted, "{name}");
        }
    }

    #[test]
    fn a_key_keeps_what_it_does_not_understand() {
        let text = r#"{ "a":["publish","paint"] }"#;
        let key = KeySpec::new("a.b:c".parse().expect("a key"), text, true).expect("lenient");
        let spec = AppSpec { id: "a".into(), keys: vec![key], ..AppSpec::default() };
        let directory = Directory::new([spec]);
        let key = directory.key("a.b").expect("was added");
        assert_eq!(key.capability_text(), text);
        assert_eq!(key.capability().to_string(), r#"{"a":["paint","publish"]}"#);
        assert!(key.has_revocable_tokens());
    }
}
