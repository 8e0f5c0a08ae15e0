//! All rules: those of the configuration, which are changed there, and those that were made while the
//! daemon runs. Whoever keeps the book asks it for the next one, puts that into effect, and keeps it then.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::reach::Authorities;
use super::secret::SigningKey;
use super::spec::{self, Faults, OPTIONS};
use super::{HookRule, HooksConfig};
use crate::ably::Directory;

/// Rules of one app.
pub const RULES_PER_APP_MAX: usize = 100;

/// The version of payloads (15.1).
const VERSION: &str = "1.2";

/// The version of the file that made rules are kept in.
const FILE_VERSION: u64 = 1;

/// What is asked about rules.
#[derive(Debug)]
pub enum RuleRequest {
    /// All of an app.
    List,
    /// One.
    Get(String),
    /// Make one.
    Create(Value),
    /// Change one: fields that are given take the place of those before.
    Patch(String, Value),
    /// Remove one.
    Delete(String),
}

/// Why it is not as was asked for; in the terms of HTTP and of the Control API.
#[derive(Debug, PartialEq)]
pub struct RuleError {
    /// HTTP status.
    pub status: u16,
    /// Ably's code.
    pub code: u32,
    /// What to say.
    pub message: String,
    /// What is wrong, by field.
    pub details: Option<Faults>,
}

impl RuleError {
    /// With the general code of `status`.
    pub fn new(status: u16, message: impl Into<String>) -> RuleError {
        let code = u32::from(status) * 100;
        RuleError { status, code, message: message.into(), details: None }
    }

    fn invalid(faults: Faults) -> RuleError {
        let first = faults.iter().next().map(|(path, why)| format!("{path} {}", why[0]));
        let message = format!("invalid rule: {}", first.unwrap_or_default());
        RuleError { details: Some(faults), ..RuleError::new(422, message) }
    }
}

/// An answer: the rule, a list of them, or nothing.
pub type RuleAnswer = Result<Option<Value>, RuleError>;

/// A rule that was made while the daemon ran.
#[derive(Clone)]
struct Made {
    app_id: Box<str>,
    spec: Map<String, Value>,
    created_ms: u64,
    modified_ms: u64,
    /// As it acts; or why it cannot, because its app or key is gone.
    hook: Result<HookRule, String>,
}

/// See the module text.
#[derive(Clone)]
pub struct Book {
    apps: Vec<Box<str>>,
    keys: Vec<SigningKey>,
    /// Authorities that made rules trust.
    ca: Option<Authorities>,
    configured: Vec<HookRule>,
    configured_ms: u64,
    /// By id.
    made: BTreeMap<Box<str>, Made>,
    has_file: bool,
}

impl Book {
    /// The book of what is configured. `has_file`: made rules outlive the process.
    pub fn new(config: HooksConfig, directory: &Directory, now_ms: u64) -> Book {
        let mut book = Book {
            apps: Vec::new(),
            keys: Vec::new(),
            ca: None,
            configured: Vec::new(),
            configured_ms: now_ms,
            made: BTreeMap::new(),
            has_file: config.state_dir.is_some(),
        };
        book.configure(config, directory, now_ms);
        book
    }

    /// Has this configuration take the place of the one before. Returns what made rules it takes out of
    /// effect, and why.
    ///
    /// # Errors
    /// Two rules have one id.
    pub fn reconfigure(
        &mut self,
        config: HooksConfig,
        directory: &Directory,
        now_ms: u64,
    ) -> anyhow::Result<Vec<String>> {
        self.configure(config, directory, now_ms);
        self.reread()
    }

    fn configure(&mut self, config: HooksConfig, directory: &Directory, now_ms: u64) {
        self.apps = directory.app_ids().map(Box::from).collect();
        self.keys = config.keys;
        self.ca = config.ca;
        let before = std::mem::replace(&mut self.configured, config.rules);
        for hook in &mut self.configured {
            let before = before.iter().find(|before| before.rule.id == hook.rule.id);
            continue_rule(hook, before);
        }
        self.configured_ms = now_ms;
    }

    /// Adds the rules that were kept in a file.
    ///
    /// # Errors
    /// It is no such file, or has an id of the configuration.
    pub fn restore(&mut self, file: &[u8]) -> anyhow::Result<Vec<String>> {
        let file: Value = serde_json::from_slice(file)?;
        anyhow::ensure!(file["version"] == FILE_VERSION, "its version is not known");
        let rules = file["rules"].as_array();
        for kept in rules.ok_or_else(|| anyhow::anyhow!("it has no list `rules`"))? {
            let text = |name: &str| kept[name].as_str();
            let (Some(id), Some(app_id), Some(spec)) =
                (text("id"), text("appId"), kept["spec"].as_object())
            else {
                anyhow::bail!("a rule in it has no `id`, `appId` or `spec`");
            };
            let made = Made {
                app_id: app_id.into(),
                spec: spec.clone(),
                created_ms: kept["created"].as_u64().unwrap_or(0),
                modified_ms: kept["modified"].as_u64().unwrap_or(0),
                hook: Err("not read yet".into()),
            };
            self.made.insert(id.into(), made);
        }
        self.reread()
    }

    /// The made rules as a file.
    pub fn to_file(&self) -> Vec<u8> {
        let rules: Vec<Value> = self
            .made
            .iter()
            .map(|(id, made)| {
                json!({
                    "id": id, "appId": made.app_id, "created": made.created_ms,
                    "modified": made.modified_ms, "spec": made.spec,
                })
            })
            .collect();
        let file = json!({ "version": FILE_VERSION, "rules": rules });
        let mut bytes = serde_json::to_vec_pretty(&file).expect("maps with string keys");
        bytes.push(b'\n');
        bytes
    }

    /// Everything that acts.
    pub fn hooks(&self) -> Vec<HookRule> {
        let made = self.made.values().filter_map(|made| made.hook.as_ref().ok());
        self.configured.iter().chain(made).cloned().collect()
    }

    /// Finds out again what made rules come to: an app or a key may have gone or come.
    fn reread(&mut self) -> anyhow::Result<Vec<String>> {
        let mut out_of_effect = Vec::new();
        let Book { apps, keys, ca, configured, made, .. } = self;
        for (id, made) in made {
            if configured.iter().any(|hook| *hook.rule.id == **id) {
                anyhow::bail!("the rule `{id}` is configured, and was made over the API as well");
            }
            let was_well = made.hook.is_ok();
            let read = match apps.contains(&made.app_id) {
                true => spec::read(id, &made.app_id, &made.spec, keys, ca.as_ref())
                    .map_err(|faults| RuleError::invalid(faults).message),
                false => Err("its app is gone".to_owned()),
            };
            match (&read, &made.hook) {
                // Its clients and what waits are as they were.
                (Ok(new), Ok(old)) if new.target == old.target => {}
                _ => made.hook = continued(read, &made.hook),
            }
            if let (Err(why), true) = (&made.hook, was_well || made.created_ms > 0) {
                out_of_effect.push(format!("{id}: {why}"));
            }
        }
        Ok(out_of_effect)
    }

    /// Answers, with the book as it is to be then, if it changes.
    ///
    /// # Errors
    /// Why it is not done.
    pub fn answer(
        &self,
        app_id: &str,
        request: &RuleRequest,
        now_ms: u64,
        next_id: impl FnMut() -> String,
    ) -> Result<(Option<Value>, Option<Book>), RuleError> {
        if !self.apps.iter().any(|known| **known == *app_id) {
            return Err(RuleError::new(404, format!("there is no app `{app_id}`")));
        }
        match request {
            RuleRequest::List => {
                let configured = self.configured.iter().filter(|hook| *hook.rule.app_id == *app_id);
                let configured = configured.map(|hook| self.show_configured(hook));
                let made = self.made.iter().filter(|(_, made)| *made.app_id == *app_id);
                let made = made.map(|(id, made)| self.show_made(id, made));
                Ok((Some(configured.chain(made).collect()), None))
            }
            RuleRequest::Get(id) => Ok((Some(self.show(app_id, id)?), None)),
            RuleRequest::Create(spec) => self.create(app_id, spec, now_ms, next_id),
            RuleRequest::Patch(id, change) => {
                let mut made = self.find_made(app_id, id)?.clone();
                patch(&mut made.spec, change)?;
                let read = self.read(id, app_id, &made.spec)?;
                made.hook = continued(Ok(read), &made.hook);
                made.modified_ms = now_ms;
                let shown = self.show_made(id, &made);
                let mut next = self.clone();
                next.made.insert(id.as_str().into(), made);
                Ok((Some(shown), Some(next)))
            }
            RuleRequest::Delete(id) => {
                self.find_made(app_id, id)?;
                let mut next = self.clone();
                next.made.remove(id.as_str());
                Ok((None, Some(next)))
            }
        }
    }

    fn create(
        &self,
        app_id: &str,
        spec: &Value,
        now_ms: u64,
        mut next_id: impl FnMut() -> String,
    ) -> Result<(Option<Value>, Option<Book>), RuleError> {
        let Value::Object(spec) = spec else {
            return Err(RuleError::new(400, "the body is no JSON object"));
        };
        let configured = self.configured.iter().filter(|hook| *hook.rule.app_id == *app_id).count();
        let made = self.made.values().filter(|made| *made.app_id == *app_id).count();
        if configured + made >= RULES_PER_APP_MAX {
            let text = format!("the app has {RULES_PER_APP_MAX} rules; delete one");
            return Err(RuleError::new(422, text));
        }
        let is_known = |id: &str| {
            self.made.contains_key(id) || self.configured.iter().any(|hook| *hook.rule.id == *id)
        };
        let mut id = next_id();
        while is_known(&id) {
            id = next_id();
        }
        let hook = Ok(self.read(&id, app_id, spec)?);
        let (created_ms, modified_ms, spec) = (now_ms, now_ms, spec.clone());
        let made = Made { app_id: app_id.into(), spec, created_ms, modified_ms, hook };
        let shown = self.show_made(&id, &made);
        let mut next = self.clone();
        next.made.insert(id.into(), made);
        Ok((Some(shown), Some(next)))
    }

    fn read(
        &self,
        id: &str,
        app_id: &str,
        spec: &Map<String, Value>,
    ) -> Result<HookRule, RuleError> {
        spec::read(id, app_id, spec, &self.keys, self.ca.as_ref()).map_err(RuleError::invalid)
    }

    fn find_made(&self, app_id: &str, id: &str) -> Result<&Made, RuleError> {
        match self.made.get(id).filter(|made| *made.app_id == *app_id) {
            Some(made) => Ok(made),
            None if self.find_configured(app_id, id).is_some() => {
                let text = format!("the rule `{id}` is in the configuration file: change it there");
                Err(RuleError::new(409, text))
            }
            None => Err(no_such_rule(id)),
        }
    }

    fn find_configured(&self, app_id: &str, id: &str) -> Option<&HookRule> {
        let is_it = |hook: &&HookRule| *hook.rule.id == *id && *hook.rule.app_id == *app_id;
        self.configured.iter().find(is_it)
    }

    fn show(&self, app_id: &str, id: &str) -> Result<Value, RuleError> {
        if let Some(hook) = self.find_configured(app_id, id) {
            return Ok(self.show_configured(hook));
        }
        let made = self.made.get(id).filter(|made| *made.app_id == *app_id);
        made.map(|made| self.show_made(id, made)).ok_or_else(|| no_such_rule(id))
    }

    fn show_configured(&self, hook: &HookRule) -> Value {
        let mut shown = spec::show(hook);
        shown[OPTIONS]["origin"] = "file".into();
        let (id, app_id) = (&hook.rule.id, &hook.rule.app_id);
        complete(shown, id, app_id, self.configured_ms, self.configured_ms)
    }

    fn show_made(&self, id: &str, made: &Made) -> Value {
        let mut shown = made.spec.clone();
        shown.entry("status").or_insert_with(|| "enabled".into());
        // Who may invoke a function is not told again, as Ably does not.
        let secret = shown.get_mut("target").and_then(|target| target.get_mut("authentication"));
        if let Some(Value::Object(authentication)) = secret {
            authentication.remove("secretAccessKey");
        }
        if let Some(Value::Object(target)) = shown.get_mut("target") {
            target.remove("password");
            target.remove("token");
        }
        let options = shown.entry(OPTIONS).or_insert_with(|| json!({}));
        options["origin"] = "api".into();
        options["isKept"] = self.has_file.into();
        if let Err(why) = &made.hook {
            options["fault"] = why.as_str().into();
        }
        complete(shown, id, &made.app_id, made.created_ms, made.modified_ms)
    }
}

fn no_such_rule(id: &str) -> RuleError {
    RuleError::new(404, format!("there is no rule `{id}`"))
}

fn complete(
    mut shown: Map<String, Value>,
    id: &str,
    app_id: &str,
    created_ms: u64,
    modified_ms: u64,
) -> Value {
    let common = json!({
        "id": id,
        "appId": app_id,
        "version": VERSION,
        "created": created_ms,
        "modified": modified_ms,
        "_links": { "self": format!("/apps/{app_id}/rules/{id}") },
    });
    if let Value::Object(common) = common {
        shown.extend(common);
    }
    Value::Object(shown)
}

/// Puts what is given in `change` in place of what was there; in the objects of a rule field by field, and
/// null takes a field away.
fn patch(spec: &mut Map<String, Value>, change: &Value) -> Result<(), RuleError> {
    let Value::Object(change) = change else {
        return Err(RuleError::new(400, "the body is no JSON object"));
    };
    for (name, value) in change {
        if name == "ruleType" && spec.get(name) != Some(value) {
            let why = vec!["cannot be changed: make another rule".to_owned()];
            return Err(RuleError::invalid(Faults::from([(name.clone(), why)])));
        }
        match (spec.get_mut(name), value) {
            (_, Value::Null) => drop(spec.remove(name)),
            (Some(Value::Object(before)), Value::Object(fields)) => {
                for (name, value) in fields {
                    match value {
                        Value::Null => drop(before.remove(name)),
                        value => drop(before.insert(name.clone(), value.clone())),
                    }
                }
            }
            _ => drop(spec.insert(name.clone(), value.clone())),
        }
    }
    Ok(())
}

/// The rule as it is now, going on where it was before.
fn continued(
    now: Result<HookRule, String>,
    before: &Result<HookRule, String>,
) -> Result<HookRule, String> {
    let mut hook = now?;
    continue_rule(&mut hook, before.as_ref().ok());
    Ok(hook)
}

/// Has a rule that was just read go on where `before` ends.
fn continue_rule(hook: &mut HookRule, before: Option<&HookRule>) {
    // One that others hold already has begun by itself.
    if let (Some(before), Some(rule)) = (before, Arc::get_mut(&mut hook.rule)) {
        rule.continue_from(&before.rule);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ably::{ApiKey, Capability};

    fn book() -> Book {
        let key: ApiKey = "app.key:hush".parse().expect("a key");
        let directory = Directory::of_keys([(key, Capability::all())]);
        Book::new(HooksConfig::default(), &directory, 1)
    }

    fn spec() -> Value {
        json!({
            "ruleType": "http", "requestMode": "single",
            "source": { "channelFilter": "", "type": "channel.message" },
            "target": { "url": "https://example.com/", "format": "json",
                        "headers": [{ "name": "x-a", "value": "b" }] },
        })
    }

    fn ask(book: &mut Book, request: &RuleRequest) -> RuleAnswer {
        let mut number = 0;
        let next_id = || {
            number += 1;
            format!("rule{number}")
        };
        let (answer, next) = book.answer("app", request, 7, next_id)?;
        if let Some(next) = next {
            *book = next;
        }
        Ok(answer)
    }

    #[test]
    fn a_rule_is_made_read_changed_and_removed() {
        let mut book = book();
        let made = ask(&mut book, &RuleRequest::Create(spec())).expect("made").expect("shown");
        assert_eq!((&made["id"], &made["appId"]), (&json!("rule1"), &json!("app")));
        assert_eq!((&made["version"], &made["status"]), (&json!("1.2"), &json!("enabled")));
        assert_eq!((&made["created"], &made["modified"]), (&json!(7), &json!(7)));
        assert_eq!(made["target"], spec()["target"]);
        let second = ask(&mut book, &RuleRequest::Create(spec())).expect("made").expect("shown");
        assert_eq!(second["id"], "rule2");
        let change = json!({ "status": "disabled", "target": { "url": "https://example.org/" } });
        let request = RuleRequest::Patch("rule1".into(), change);
        let changed = ask(&mut book, &request).expect("changed").expect("shown");
        assert_eq!(changed["target"]["url"], "https://example.org/");
        assert_eq!(changed["target"]["headers"], made["target"]["headers"]);
        let enabled: Vec<bool> = book.hooks().iter().map(|hook| hook.is_enabled).collect();
        assert_eq!(enabled, [false, true]);
        let list = ask(&mut book, &RuleRequest::List).expect("a list").expect("shown");
        assert_eq!(list.as_array().map(Vec::len), Some(2));
        assert_eq!(ask(&mut book, &RuleRequest::Delete("rule1".into())), Ok(None));
        let gone = ask(&mut book, &RuleRequest::Get("rule1".into())).expect_err("gone");
        assert_eq!((gone.status, gone.code), (404, 40400));
    }

    #[test]
    fn what_cannot_be_is_refused_and_changes_nothing() {
        let mut book = book();
        ask(&mut book, &RuleRequest::Create(spec())).expect("made");
        let patch = |change: Value| RuleRequest::Patch("rule1".into(), change);
        for (request, status) in [
            (RuleRequest::Create(json!([])), 400),
            (RuleRequest::Create(json!({})), 422),
            (patch(json!(1)), 400),
            (patch(json!({ "target": { "url": null } })), 422),
            (patch(json!({ "ruleType": "aws/lambda" })), 422),
            (patch(json!({ "source": { "channelFilter": "(" } })), 422),
            (RuleRequest::Patch("other".into(), json!({})), 404),
            (RuleRequest::Delete("other".into()), 404),
        ] {
            let error = ask(&mut book, &request).expect_err("is refused");
            assert_eq!(error.status, status, "{request:?}");
        }
        let error = book.answer("other", &RuleRequest::List, 7, String::new).err().expect("none");
        assert_eq!(error.status, 404);
        let shown = ask(&mut book, &RuleRequest::Get("rule1".into())).expect("is there");
        assert_eq!(shown.expect("shown")["target"], spec()["target"]);
    }

    #[test]
    fn an_app_has_a_hundred_rules() {
        let mut book = book();
        for number in 0..RULES_PER_APP_MAX {
            let next_id = || format!("r{number}");
            let made = book.answer("app", &RuleRequest::Create(spec()), 7, next_id);
            book = made.expect("has room").1.expect("has changed");
        }
        let error = ask(&mut book, &RuleRequest::Create(spec())).expect_err("is full");
        assert_eq!(error.status, 422);
    }

    #[test]
    fn rules_are_kept_in_a_file_and_stay_there_while_their_key_is_gone() {
        let mut book = book();
        let mut signed = spec();
        signed["target"]["signingKeyId"] = "key".into();
        let config = HooksConfig {
            ca: None,
            keys: vec![SigningKey {
                name: "app.key".into(),
                secret: super::super::Secret::new("hush"),
            }],
            ..HooksConfig::default()
        };
        let key: ApiKey = "app.key:hush".parse().expect("a key");
        let directory = Directory::of_keys([(key, Capability::all())]);
        book.reconfigure(config.clone(), &directory, 3).expect("no two of one id");
        ask(&mut book, &RuleRequest::Create(signed)).expect("made");
        let file = book.to_file();
        let mut again = Book::new(config.clone(), &directory, 9);
        assert!(again.restore(&file).expect("can be read").is_empty());
        assert_eq!(again.to_file(), file);
        assert_eq!(again.hooks().len(), 1);
        let faults = again.reconfigure(HooksConfig::default(), &directory, 9).expect("reads");
        assert_eq!((faults.len(), again.hooks().len()), (1, 0));
        let shown = ask(&mut again, &RuleRequest::Get("rule1".into())).expect("is there");
        assert!(shown.expect("shown")["ringcast"]["fault"].is_string());
        again.reconfigure(config, &directory, 9).expect("reads");
        assert_eq!(again.hooks().len(), 1);
        assert!(again.restore(b"{}").is_err());
    }
}
