//! Rules in the form of Ably's Control API (15.1): JSON to what acts on them, and back. Everything that is
//! wrong with a rule is told at once, field by field.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::aws::{AccessKey, AssumedRole, AwsAccess, CredentialSource, is_region};
use super::http::HttpTarget;
use super::lambda::{FunctionName, Invocation, LambdaTarget, parse_qualifier};
use super::nats::{NatsLogin, NatsTarget, SubjectTemplate, check_server};
use super::reach::{Authorities, Reach, Tls};
use super::secret::{Secret, SigningKey};
use super::target::{Sink, Target};
use super::{HookRule, LoopGuard, Pace, check_url};
use crate::ably::{
    ChannelFilter, Format, Gate, OnFailure, QuestionShape, RequestShape, Rule, RuleSource, WhenFull,
};

/// The object beside those of the Control API, with what Ably's rules do not have.
pub const OPTIONS: &str = "ringcast";

/// Headers of one rule.
const HEADERS_MAX: usize = 64;

/// What is wrong, by the path of the field.
pub type Faults = BTreeMap<String, Vec<String>>;

/// What kind of target a rule has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Any URL.
    Http,
    /// A URL, enveloped JSON.
    Plain,
    /// What its service makes a URL of.
    Ifttt,
    Azure,
    Google,
    Lambda,
    Nats,
    HttpGate,
    LambdaGate,
}

const KINDS: [(&str, Kind); 10] = [
    ("http", Kind::Http),
    ("http/cloudflare-worker", Kind::Plain),
    ("http/zapier", Kind::Plain),
    ("http/ifttt", Kind::Ifttt),
    ("http/azure-function", Kind::Azure),
    ("http/google-cloud-function", Kind::Google),
    ("aws/lambda", Kind::Lambda),
    ("nats", Kind::Nats),
    ("http/before-publish", Kind::HttpGate),
    ("aws/lambda/before-publish", Kind::LambdaGate),
];

impl Kind {
    fn is_gate(self) -> bool {
        matches!(self, Kind::HttpGate | Kind::LambdaGate)
    }

    fn is_lambda(self) -> bool {
        matches!(self, Kind::Lambda | Kind::LambdaGate)
    }
}

const STATUSES: [(&str, bool); 2] = [("enabled", true), ("disabled", false)];
const MODES: [(&str, bool); 2] = [("single", false), ("batch", true)];
const FORMATS: [(&str, Format); 2] = [("json", Format::Json), ("msgpack", Format::MsgPack)];
const WHEN_FULL: [(&str, WhenFull); 2] =
    [("drop-oldest", WhenFull::DropOldest), ("refuse", WhenFull::Refuse)];
const FAILED_ACTIONS: [(&str, OnFailure); 2] =
    [("REJECT", OnFailure::Reject), ("PUBLISH", OnFailure::Publish)];
const THROTTLED_ACTIONS: [(&str, bool); 2] = [("RETRY", true), ("FAIL", false)];

/// Reads the rule `spec`, which is called `id`; `keys` are those that may sign, `ca` is trusted.
///
/// # Errors
/// Everything that is wrong with it.
pub fn read(
    id: &str,
    app_id: &str,
    spec: &Map<String, Value>,
    keys: &[SigningKey],
    ca: Option<&Authorities>,
) -> Result<HookRule, Faults> {
    let mut faults = Faults::new();
    let rule = Fields::new("", spec, &mut faults).rule(id, app_id, keys);
    match rule {
        Some(mut rule) if faults.is_empty() => {
            rule.target.reach.tls.ca = ca.cloned();
            Ok(rule)
        }
        _ => Err(faults),
    }
}

/// The fields of one object that have not been read.
struct Fields<'a> {
    path: String,
    left: BTreeMap<&'a str, &'a Value>,
    faults: &'a mut Faults,
}

impl<'a> Fields<'a> {
    fn new(path: &str, map: &'a Map<String, Value>, faults: &'a mut Faults) -> Fields<'a> {
        let left = map.iter().filter(|(_, value)| !value.is_null());
        let left = left.map(|(name, value)| (name.as_str(), value)).collect();
        Fields { path: path.to_owned(), left, faults }
    }

    fn fault(&mut self, name: &str, why: impl Into<String>) {
        let path = format!("{}{name}", self.path);
        self.faults.entry(path).or_default().push(why.into());
    }

    /// What `read` makes of a field; `None` if it is not there or wrong.
    fn opt<T>(
        &mut self,
        name: &str,
        read: impl FnOnce(&'a Value) -> Result<T, String>,
    ) -> Option<T> {
        let value = self.left.remove(name)?;
        read(value).map_err(|why| self.fault(name, why)).ok()
    }

    /// The same of a field that has to be there.
    fn need<T>(
        &mut self,
        name: &str,
        read: impl FnOnce(&'a Value) -> Result<T, String>,
    ) -> Option<T> {
        if !self.left.contains_key(name) {
            self.fault(name, "is missing");
        }
        self.opt(name, read)
    }

    /// Reads the object `name`; one that is not there is empty.
    fn object<T>(&mut self, name: &str, read: impl FnOnce(&mut Fields<'_>) -> T) -> T {
        let none = Map::new();
        let map = match self.left.remove(name) {
            None => &none,
            Some(Value::Object(map)) => map,
            Some(_) => {
                self.fault(name, "is no object");
                &none
            }
        };
        let path = format!("{}{name}.", self.path);
        let mut fields = Fields::new(&path, map, self.faults);
        let value = read(&mut fields);
        fields.finish();
        value
    }

    /// Finds fault with every field that is left.
    fn finish(&mut self) {
        for name in std::mem::take(&mut self.left).into_keys() {
            self.fault(name, "is not known here");
        }
    }

    fn rule(&mut self, id: &str, app_id: &str, keys: &[SigningKey]) -> Option<HookRule> {
        let is_enabled = self.opt("status", one_of(&STATUSES)).unwrap_or(true);
        let kind = self.need("ruleType", one_of(&KINDS));
        let is_gate = kind.is_some_and(Kind::is_gate);
        let mode = match is_gate {
            true => self.opt("requestMode", one_of(&MODES)),
            false => self.need("requestMode", one_of(&MODES)),
        };
        let is_batch = mode.unwrap_or(false);
        if is_gate && is_batch {
            self.fault("requestMode", "is \"single\" for a rule that is asked before a publish");
        }
        let (source, filter) = self.object("source", |source| {
            let filter = |value| {
                ChannelFilter::compile(text(value)?).map_err(|error| error.message.into_owned())
            };
            (source.need("type", one_of(&RuleSource::NAMES)), source.need("channelFilter", filter))
        });
        if is_gate && source.is_some_and(|source| source != RuleSource::Message) {
            self.fault("source.type", "is \"channel.message\" for a rule that is asked");
        }
        let options = self.object(OPTIONS, |options| Options::read(options, is_gate));
        let gate = self.object("beforePublishConfig", |config| match is_gate {
            true => Some(read_gate(config, &options)),
            false => None,
        });
        // What follows depends on it.
        let kind = match kind {
            Some(kind) => kind,
            None => {
                self.left.remove("target");
                self.finish();
                return None;
            }
        };
        let (sink, shape, format) = self
            .object("target", |target| read_target(target, kind, is_batch, &options, app_id, keys));
        self.finish();
        let rule = Rule::new(
            id,
            app_id,
            source?,
            filter?,
            shape,
            format,
            options.when_full,
            options.waiting_bytes_max,
        );
        let rule = match gate {
            Some(gate) => rule.with_gate(gate),
            None => rule,
        };
        let sink = sink?;
        let Options { allow_private, timeout, mut pace, batch_bytes_max, loop_guard, .. } = options;
        pace.batch_bytes_max = batch_bytes_max.unwrap_or(sink.batch_bytes_max());
        let reach = Reach { allow_private, timeout, tls: Tls::default() };
        let target = Target { sink, reach, pace };
        Some(HookRule { rule: Arc::new(rule), target, is_enabled, loop_guard })
    }
}

/// What Ably's rules do not have; the defaults and bounds are those of the configuration.
struct Options {
    allow_private: bool,
    timeout: Duration,
    pace: Pace,
    /// Depends on what takes the events, if it is not said.
    batch_bytes_max: Option<u64>,
    when_full: WhenFull,
    waiting_bytes_max: u64,
    loop_guard: LoopGuard,
}

impl Options {
    fn read(fields: &mut Fields<'_>, is_gate: bool) -> Options {
        let ms = Duration::from_millis;
        let longest_ms = if is_gate { 10_000 } else { 300_000 };
        let default_ms = if is_gate { 5_000 } else { 10_000 };
        let mut count = |name, min, max, default| {
            fields.opt(name, |value| number(value, min, max)).unwrap_or(default)
        };
        let timeout = ms(count("timeoutMs", 100, longest_ms, default_ms));
        let pace = Pace {
            concurrency: count("concurrency", 1, 1000, if is_gate { 1 } else { 25 }) as usize,
            requests_per_second_max: count("requestsPerSecondMax", 0, 100_000, 0) as usize,
            batch_events_max: count("batchEventsMax", 1, 10_000, 1000) as usize,
            batch_bytes_max: 0,
            batch_interval: ms(count("batchIntervalMs", 10, 60_000, 1000)),
            retry_for: ms(count("retryForMs", 1000, 168 * 3_600_000, 24 * 3_600_000)),
        };
        let waiting_bytes_max = count("waitingBytesMax", 64 << 10, 16 << 30, 64 << 20);
        let batch_bytes_max = |value| number(value, 1 << 10, 64 << 20);
        let batch_bytes_max = fields.opt("batchBytesMax", batch_bytes_max);
        let allow_private = fields.opt("allowPrivate", boolean).unwrap_or(false);
        let when_full = fields.opt("whenFull", one_of(&WHEN_FULL));
        let when_full = when_full.unwrap_or(WhenFull::DropOldest);
        let loop_guard = fields.opt("loopGuard", one_of(&LoopGuard::NAMES)).unwrap_or_default();
        Options {
            allow_private,
            timeout,
            pace,
            batch_bytes_max,
            when_full,
            waiting_bytes_max,
            loop_guard,
        }
    }
}

/// How a rule is asked (15.9).
fn read_gate(config: &mut Fields<'_>, options: &Options) -> Gate {
    let timeout_ms = config.opt("retryTimeout", |value| number(value, 100, 10_000));
    let timeout = timeout_ms.map_or(options.timeout, Duration::from_millis);
    let retries = config.opt("maxRetries", |value| number(value, 0, 10));
    let on_failure = config.opt("failedAction", one_of(&FAILED_ACTIONS));
    let throttled = config.opt("tooManyRequestsAction", one_of(&THROTTLED_ACTIONS));
    Gate {
        on_failure: on_failure.unwrap_or(OnFailure::Reject),
        timeout,
        concurrency: options.pace.concurrency,
        retries_max: retries.unwrap_or(3) as u32,
        retries_throttled: throttled.unwrap_or(true),
        shape: QuestionShape::Chat,
    }
}

fn read_target(
    target: &mut Fields<'_>,
    kind: Kind,
    is_batch: bool,
    options: &Options,
    app_id: &str,
    keys: &[SigningKey],
) -> (Option<Sink>, RequestShape, Format) {
    let has_envelope = !matches!(kind, Kind::Plain | Kind::Ifttt) && !kind.is_gate();
    let enveloped = if has_envelope { target.opt("enveloped", boolean) } else { None };
    let enveloped = enveloped.unwrap_or(kind != Kind::Ifttt);
    if is_batch && !enveloped {
        target.fault("enveloped", "is true where requestMode is \"batch\"");
    }
    let shape = match (is_batch, enveloped) {
        (true, _) => RequestShape::Batch,
        (false, true) => RequestShape::Enveloped,
        (false, false) => RequestShape::Bare,
    };
    let has_format = matches!(kind, Kind::Http | Kind::Azure | Kind::Google | Kind::Nats);
    let format = if has_format { target.opt("format", one_of(&FORMATS)) } else { None };
    let sink = match kind {
        Kind::Lambda | Kind::LambdaGate => read_lambda(target, kind).map(Sink::Lambda),
        Kind::Nats => read_nats(target, is_batch, options).map(Sink::Nats),
        Kind::Http | Kind::Plain | Kind::Ifttt | Kind::Azure | Kind::Google | Kind::HttpGate => {
            let url = match kind {
                Kind::Ifttt => read_ifttt(target),
                Kind::Azure => read_azure(target),
                Kind::Google => read_google(target),
                _ => target.need("url", |value| text(value).map(str::to_owned)),
            };
            let url = url.and_then(|url| {
                let checked = check_url(&url, options.allow_private);
                checked.map_err(|why| target.fault("url", say_option(&why))).ok()
            });
            let headers = if kind == Kind::Ifttt { None } else { read_headers(target) };
            let signing_key = if kind == Kind::Ifttt {
                None
            } else {
                target.opt("signingKeyId", |value| find_key(text(value)?, app_id, keys))
            };
            url.map(|url| {
                let (url, headers) = (url.to_string(), headers.unwrap_or_default());
                Sink::Http(HttpTarget { url, headers, signing_key, aws: None })
            })
        }
    };
    (sink, shape, format.unwrap_or(Format::Json))
}

/// What the configuration says `allow_private` to is another option here.
fn say_option(why: &str) -> String {
    why.replace("`allow_private = true`", "`ringcast.allowPrivate`")
}

fn read_ifttt(target: &mut Fields<'_>) -> Option<String> {
    let key = target.need("webhookKey", segment);
    let event = target.need("eventName", segment);
    Some(format!("https://maker.ifttt.com/trigger/{}/with/key/{}", event?, key?))
}

fn read_azure(target: &mut Fields<'_>) -> Option<String> {
    let app = target.need("azureAppId", label);
    let function = target.need("azureFunctionName", segment);
    Some(format!("https://{}.azurewebsites.net/api/{}", app?, function?))
}

fn read_google(target: &mut Fields<'_>) -> Option<String> {
    let region = target.need("region", label);
    let project = target.need("projectId", label);
    let function = target.need("functionName", segment);
    Some(format!("https://{}-{}.cloudfunctions.net/{}", region?, project?, function?))
}

fn read_lambda(target: &mut Fields<'_>, kind: Kind) -> Option<LambdaTarget> {
    let region = target.need("region", |value| match text(value)? {
        name if is_region(name) => Ok(name),
        name => Err(format!("`{name}` is no region, such as \"eu-west-1\"")),
    });
    let function = target.need("functionName", |value| FunctionName::parse(text(value)?));
    let own_qualifier = target.opt("qualifier", |value| parse_qualifier(text(value)?));
    if !target.left.contains_key("authentication") {
        target.fault("authentication", "is missing");
    }
    let (credentials, role) = target.object("authentication", |of| {
        let modes = [("credentials", false), ("assumeRole", true)];
        match of.opt("authenticationMode", one_of(&modes)).unwrap_or(false) {
            false => {
                let id = of.need("accessKeyId", text);
                let secret = of.need("secretAccessKey", text);
                let (id, secret) = (id.unwrap_or_default(), secret.unwrap_or_default());
                let (id, secret) = (id.into(), Secret::new(secret));
                (CredentialSource::Given(AccessKey { id, secret, session_token: None }), None)
            }
            true => {
                let arn = of.need("assumeRoleArn", |value| match text(value)? {
                    arn if arn.starts_with("arn:") && arn.contains(":role/") => Ok(arn),
                    _ => Err("wants the ARN of a role".into()),
                });
                let role = arn.map(|arn| AssumedRole { arn: arn.into(), external_id: None });
                (CredentialSource::Found, role)
            }
        }
    });
    let (function, qualifier) = function?;
    if qualifier.is_some() && own_qualifier.is_some() {
        target.fault("qualifier", "is in the function's name already");
    }
    let qualifier = own_qualifier.or(qualifier);
    let aws = AwsAccess { region: region?.into(), credentials, role, sts_endpoint: None };
    let invocation = match kind {
        Kind::LambdaGate => Invocation::RequestResponse,
        _ => Invocation::Event,
    };
    Some(LambdaTarget { function, qualifier, invocation, aws, endpoint: None })
}

fn read_nats(target: &mut Fields<'_>, is_batch: bool, options: &Options) -> Option<NatsTarget> {
    let servers = target.need("servers", |value| {
        let wanted = || "wants a list of 1 to 16 URLs".to_owned();
        let list = value.as_array().filter(|list| (1..=16).contains(&list.len()));
        let server = |value: &Value| {
            let checked = check_server(value.as_str().ok_or_else(wanted)?, options.allow_private);
            checked.map_err(|why| say_option(&why))
        };
        list.ok_or_else(wanted)?.iter().map(server).collect::<Result<Vec<_>, _>>()
    });
    let subject = target.need("subject", |value| SubjectTemplate::parse(text(value)?));
    if is_batch && subject.as_ref().is_some_and(|subject| !subject.is_without_channel()) {
        target.fault("subject", "has no {channel} where requestMode is \"batch\"");
    }
    let jetstream = target.opt("jetstream", boolean).unwrap_or(false);
    let headers = read_headers(target).unwrap_or_default();
    let token = target.opt("token", text);
    let (user, password) = (target.opt("user", text), target.opt("password", text));
    let login = match (token, user, password) {
        (None, None, None) => NatsLogin::None,
        (Some(token), None, None) => NatsLogin::Token(Secret::new(token)),
        (None, Some(user), Some(password)) => {
            NatsLogin::Password { user: user.into(), password: Secret::new(password) }
        }
        _ => {
            target.fault("user", "is one of `user` with `password`, and `token`");
            return None;
        }
    };
    Some(NatsTarget { servers: servers?, subject: subject?, jetstream, headers, login })
}

fn read_headers(target: &mut Fields<'_>) -> Option<Vec<(String, String)>> {
    target.opt("headers", |value| {
        let wanted = || "wants a list of objects with `name` and `value`".to_owned();
        let list = value.as_array().ok_or_else(wanted)?;
        if list.len() > HEADERS_MAX {
            return Err(format!("has more than {HEADERS_MAX} headers"));
        }
        let header = |value: &Value| {
            let of = |name: &str| value.get(name).and_then(Value::as_str).ok_or_else(wanted);
            let (name, value) = (of("name")?, of("value")?);
            let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
            if name.is_empty() || !name.bytes().all(is_token) {
                return Err(format!("`{name}` is no name of a header"));
            }
            if !value.bytes().all(|b| matches!(b, b'\t' | b' '..=b'~')) {
                return Err(format!("the value of `{name}` is not printable ASCII"));
            }
            Ok((name.to_lowercase(), value.to_owned()))
        };
        list.iter().map(header).collect()
    })
}

/// The key called `id`, or `appId.id`.
fn find_key(id: &str, app_id: &str, keys: &[SigningKey]) -> Result<SigningKey, String> {
    let name = if id.contains('.') { id.to_owned() } else { format!("{app_id}.{id}") };
    let is_of_app = name.split_once('.').is_some_and(|(app, _)| app == app_id);
    let found = keys.iter().find(|key| is_of_app && *key.name == *name);
    found.cloned().ok_or_else(|| format!("`{id}` is no key of this app"))
}

fn text(value: &Value) -> Result<&str, String> {
    value.as_str().ok_or_else(|| "wants a string".into())
}

fn boolean(value: &Value) -> Result<bool, String> {
    value.as_bool().ok_or_else(|| "wants true or false".into())
}

fn number(value: &Value, min: u64, max: u64) -> Result<u64, String> {
    let number = value.as_u64().filter(|number| (min..=max).contains(number));
    number.ok_or_else(|| format!("wants a number from {min} to {max}"))
}

/// One label of a host's name.
fn label(value: &Value) -> Result<&str, String> {
    let is_of_label = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    match text(value)? {
        name if (1..=63).contains(&name.len()) && name.bytes().all(is_of_label) => Ok(name),
        _ => Err("wants letters, digits and `-`".into()),
    }
}

/// One segment of a path.
fn segment(value: &Value) -> Result<&str, String> {
    let is_of_segment = |b: u8| b.is_ascii_alphanumeric() || b"-_.~".contains(&b);
    match text(value)? {
        name if (1..=255).contains(&name.len()) && name.bytes().all(is_of_segment) => Ok(name),
        _ => Err("wants letters, digits, `-`, `_`, `.` and `~`".into()),
    }
}

fn one_of<T: Copy>(words: &[(&str, T)]) -> impl FnOnce(&Value) -> Result<T, String> {
    move |value| {
        let found = text(value).ok().and_then(|text| words.iter().find(|(word, _)| *word == text));
        found.map(|(_, value)| *value).ok_or_else(|| {
            let known: Vec<String> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
            format!("wants one of {}", known.join(", "))
        })
    }
}

fn word_of<T: PartialEq>(words: &[(&'static str, T)], value: &T) -> &'static str {
    words.iter().find(|(_, known)| known == value).map_or("", |(word, _)| word)
}

/// A rule of the configuration in the same form, for reading.
pub fn show(hook: &HookRule) -> Map<String, Value> {
    let HookRule { rule, target, is_enabled, loop_guard } = hook;
    let kind = match (&target.sink, rule.gate) {
        (Sink::Http(_), None) => Kind::Http,
        (Sink::Http(_), Some(_)) => Kind::HttpGate,
        (Sink::Lambda(_), None) => Kind::Lambda,
        (Sink::Lambda(_), Some(_)) => Kind::LambdaGate,
        (Sink::Nats(_), _) => Kind::Nats,
    };
    let headers = |headers: &[(String, String)]| {
        let header = |(name, value): &(String, String)| json!({ "name": name, "value": value });
        headers.iter().map(header).collect::<Value>()
    };
    let mut shown = match &target.sink {
        Sink::Http(http) => {
            let key = http.signing_key.as_ref();
            let key = key.and_then(|key| key.name.split_once('.').map(|(_, id)| id));
            json!({ "url": http.url, "headers": headers(&http.headers), "signingKeyId": key })
        }
        Sink::Lambda(lambda) => {
            let authentication = match (&lambda.aws.role, &lambda.aws.credentials) {
                (Some(role), _) => {
                    json!({ "authenticationMode": "assumeRole", "assumeRoleArn": role.arn })
                }
                (None, CredentialSource::Given(key)) => {
                    json!({ "authenticationMode": "credentials", "accessKeyId": key.id })
                }
                (None, CredentialSource::Found | CredentialSource::File { .. }) => {
                    json!({ "authenticationMode": "credentials" })
                }
            };
            json!({
                "region": lambda.aws.region,
                "functionName": lambda.function.as_str(),
                "qualifier": lambda.qualifier,
                "authentication": authentication,
            })
        }
        Sink::Nats(nats) => json!({
            "servers": nats.servers,
            "subject": nats.subject.to_string(),
            "jetstream": nats.jetstream,
            "headers": headers(&nats.headers),
        }),
    };
    if !kind.is_gate() {
        shown["enveloped"] = (rule.shape != RequestShape::Bare).into();
        if !kind.is_lambda() {
            shown["format"] = word_of(&FORMATS, &rule.format).into();
        }
    }
    let is_batch = rule.shape == RequestShape::Batch;
    let ms = |duration: Duration| duration.as_millis() as u64;
    let pace = &target.pace;
    let mut spec = json!({
        "status": word_of(&STATUSES, is_enabled),
        "ruleType": word_of(&KINDS, &kind),
        "requestMode": word_of(&MODES, &is_batch),
        "source": {
            "channelFilter": rule.filter.as_str(),
            "type": word_of(&RuleSource::NAMES, &rule.source),
        },
        "target": shown,
        OPTIONS: {
            "allowPrivate": target.reach.allow_private,
            "timeoutMs": ms(target.reach.timeout),
            "concurrency": pace.concurrency,
            "requestsPerSecondMax": pace.requests_per_second_max,
            "batchEventsMax": pace.batch_events_max,
            "batchBytesMax": pace.batch_bytes_max,
            "batchIntervalMs": ms(pace.batch_interval),
            "retryForMs": ms(pace.retry_for),
            "whenFull": word_of(&WHEN_FULL, &rule.when_full),
            "waitingBytesMax": rule.bytes_max,
            "loopGuard": word_of(&LoopGuard::NAMES, loop_guard),
        },
    });
    if let Some(gate) = rule.gate {
        spec["beforePublishConfig"] = json!({
            "retryTimeout": ms(gate.timeout),
            "maxRetries": gate.retries_max,
            "failedAction": word_of(&FAILED_ACTIONS, &gate.on_failure),
            "tooManyRequestsAction": word_of(&THROTTLED_ACTIONS, &gate.retries_throttled),
        });
    }
    match spec {
        Value::Object(spec) => spec,
        _ => unreachable!("made as one"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> Vec<SigningKey> {
        let key = |name: &str| SigningKey { name: name.into(), secret: Secret::new("hush") };
        vec![key("app.key"), key("other.key")]
    }

    fn read_json(spec: Value) -> Result<HookRule, Faults> {
        let Value::Object(spec) = spec else { panic!("an object") };
        read("83IzAB", "app", &spec, &keys(), None)
    }

    fn http(target: Value) -> Value {
        json!({
            "ruleType": "http", "requestMode": "single",
            "source": { "channelFilter": "^chat:", "type": "channel.message" },
            "target": target,
        })
    }

    #[test]
    fn the_documented_rule_is_read_and_shown_as_it_was() {
        let spec = http(json!({
            "url": "https://example.com/hook", "format": "msgpack", "enveloped": true,
            "headers": [{ "name": "X-Secret", "value": "hush" }], "signingKeyId": "key",
        }));
        let hook = read_json(spec.clone()).expect("a rule");
        assert_eq!((hook.is_enabled, hook.rule.format), (true, Format::MsgPack));
        let Sink::Http(target) = &hook.target.sink else { panic!("has a URL") };
        assert_eq!(target.headers, [("x-secret".to_owned(), "hush".to_owned())]);
        assert_eq!(target.signing_key.as_ref().map(|key| &*key.name), Some("app.key"));
        let shown = show(&hook);
        assert_eq!(shown["source"], spec["source"]);
        assert_eq!(shown["target"]["url"], "https://example.com/hook");
        assert_eq!(shown["status"], "enabled");
        // What is shown is a rule again, the same one.
        let again = read_json(Value::Object(shown)).expect("a rule");
        assert_eq!(again.target, hook.target);
    }

    #[test]
    fn services_have_urls_that_their_names_make() {
        let mut spec = http(json!({ "webhookKey": "k-1", "eventName": "said" }));
        for (kind, target, url) in [
            (
                "http/ifttt",
                json!({ "webhookKey": "k-1", "eventName": "said" }),
                "https://maker.ifttt.com/trigger/said/with/key/k-1",
            ),
            (
                "http/azure-function",
                json!({ "azureAppId": "shop", "azureFunctionName": "mask" }),
                "https://shop.azurewebsites.net/api/mask",
            ),
            (
                "http/google-cloud-function",
                json!({ "region": "us-west1", "projectId": "p-1", "functionName": "mask" }),
                "https://us-west1-p-1.cloudfunctions.net/mask",
            ),
            ("http/zapier", json!({ "url": "https://example.com/z" }), "https://example.com/z"),
        ] {
            (spec["ruleType"], spec["target"]) = (kind.into(), target);
            let hook = read_json(spec.clone()).expect("a rule");
            let Sink::Http(target) = &hook.target.sink else { panic!("has a URL") };
            assert_eq!(target.url, url);
        }
    }

    #[test]
    fn everything_that_is_wrong_is_told_at_once() {
        let faults = read_json(json!({
            "status": "paused", "ruleType": "http", "requestMode": "batch", "colour": "red",
            "source": { "channelFilter": "(?=a)", "type": "channel.thing" },
            "target": {
                "url": "http://127.0.0.1/", "enveloped": false, "format": "xml",
                "headers": [{ "name": "a b", "value": "" }], "signingKeyId": "other.key",
            },
            "ringcast": { "timeoutMs": 1 },
        }));
        let faults = faults.expect_err("is refused");
        let paths: Vec<&str> = faults.keys().map(String::as_str).collect();
        assert_eq!(
            paths,
            [
                "colour",
                "ringcast.timeoutMs",
                "source.channelFilter",
                "source.type",
                "status",
                "target.enveloped",
                "target.format",
                "target.headers",
                "target.signingKeyId",
                "target.url"
            ]
        );
        let faults = read_json(json!({ "ruleType": "aws/sqs" })).expect_err("is refused");
        assert!(faults["ruleType"][0].starts_with("wants one of \"http\", "), "{faults:?}");
        let faults = read_json(http(json!({}))).expect_err("is refused");
        assert_eq!(faults["target.url"], ["is missing"]);
    }

    #[test]
    fn functions_and_gates_are_rules_too() {
        let lambda = json!({
            "region": "eu-west-1", "functionName": "mask",
            "authentication": { "authenticationMode": "credentials", "accessKeyId": "AKID",
                                "secretAccessKey": "hush" },
        });
        let mut spec = http(lambda);
        spec["ruleType"] = "aws/lambda".into();
        let hook = read_json(spec.clone()).expect("a rule");
        assert!(matches!(&hook.target.sink, Sink::Lambda(_)));
        assert!(!Value::Object(show(&hook)).to_string().contains("hush"));
        let mut spec = http(json!({ "url": "https://example.com/ask" }));
        spec["ruleType"] = "http/before-publish".into();
        spec["beforePublishConfig"] = json!({ "failedAction": "PUBLISH", "maxRetries": 2 });
        let gate = read_json(spec).expect("a rule").rule.gate.expect("asks");
        assert_eq!((gate.on_failure, gate.retries_max), (OnFailure::Publish, 2));
    }
}
