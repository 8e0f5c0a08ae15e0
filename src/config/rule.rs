//! Rules as they are configured: which events go where. The keys of each sink are in `sink.rs`.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use toml::de::DeValue;

use crate::ably::{
    ChannelFilter, Format, Gate, OnFailure, QuestionShape, RequestShape, Rule, RuleSource, WhenFull,
};
use crate::config::key::{self, ApiKey};
use crate::config::reader::{ConfigError, Section};
use crate::config::sink;
use crate::config::units::{self, KIB, MIB};
use crate::hooks::{
    Authorities, HookRule, Invocation, LoopGuard, Pace, Reach, Secret, SigningKey, Sink, Target,
};

/// One table `[[apps.rules]]` or `[[rules]]`.
#[derive(Clone, Debug, PartialEq)]
pub struct RuleConfig {
    /// Unique among all rules.
    pub id: String,
    /// The app whose channels it is for.
    pub app: String,
    /// What it is about.
    pub source: RuleSource,
    /// Which channels.
    pub filter: ChannelFilter,
    /// What a request carries.
    pub shape: RequestShape,
    /// How it is encoded.
    pub format: Format,
    /// What happens to events that find no room.
    pub when_full: WhenFull,
    /// Bytes that may wait.
    pub waiting_bytes_max: usize,
    /// Whether and how it is asked before a publish.
    pub gate: Option<Gate>,
    /// Name of the key that signs.
    pub signing_key: Option<String>,
    /// Whether it is in effect.
    pub is_enabled: bool,
    /// What happens if it feeds itself.
    pub loop_guard: LoopGuard,
    /// Where it goes, without the key that signs.
    pub target: Target,
}

const MODES: [(&str, bool); 2] = [("single", false), ("batch", true)];
const STATUSES: [(&str, bool); 2] = [("enabled", true), ("disabled", false)];
const FORMATS: [(&str, Format); 2] = [("json", Format::Json), ("msgpack", Format::MsgPack)];
const WHEN_FULL: [(&str, WhenFull); 2] =
    [("drop-oldest", WhenFull::DropOldest), ("refuse", WhenFull::Refuse)];
const INVOCATIONS: [(&str, bool); 2] = [("after-publish", false), ("before-publish", true)];
const ON_FAILURE: [(&str, OnFailure); 2] =
    [("reject", OnFailure::Reject), ("publish", OnFailure::Publish)];
const ON_THROTTLE: [(&str, bool); 2] = [("retry", true), ("fail", false)];
const QUESTIONS: [(&str, QuestionShape); 2] =
    [("messages", QuestionShape::Messages), ("chat", QuestionShape::Chat)];

/// Keys that mean something only where a rule is told of what was published.
const AFTER_PUBLISH_KEYS: [&str; 11] = [
    "loop_guard",
    "mode",
    "format",
    "enveloped",
    "requests_per_second_max",
    "batch_events_max",
    "batch_bytes_max",
    "batch_interval",
    "retry_for",
    "when_full",
    "waiting_bytes_max",
];

/// Keys that mean something only where it is asked before.
const BEFORE_PUBLISH_KEYS: [&str; 4] = ["on_failure", "on_throttle", "retries_max", "question"];

impl RuleConfig {
    /// Reads a table; `app` is that of the table around it.
    pub(super) fn read(mut section: Section, app: Option<&str>) -> Result<RuleConfig, ConfigError> {
        let (mut id, mut own_app) = (String::new(), String::new());
        section.read("id", &mut id, id_text)?;
        if app.is_none() {
            section.read("app", &mut own_app, id_text)?;
        }
        let mut is_enabled = true;
        section.read("status", &mut is_enabled, units::one_of(&STATUSES))?;
        let mut loop_guard = LoopGuard::default();
        section.read("loop_guard", &mut loop_guard, units::one_of(&LoopGuard::NAMES))?;
        let mut source = RuleSource::Message;
        section.read("source", &mut source, units::one_of(&RuleSource::NAMES))?;
        let mut filter = None;
        section.read("channel", &mut filter, |value| {
            let filter = ChannelFilter::compile(units::text(value)?);
            filter.map(Some).map_err(|error| error.to_string())
        })?;
        let mut allow_private = false;
        section.read("allow_private", &mut allow_private, units::boolean)?;
        let sink = sink::read(&mut section, allow_private)?;
        let tls = sink::read_tls(&mut section)?;
        let (mut is_batch, mut enveloped) = (false, true);
        section.read("mode", &mut is_batch, units::one_of(&MODES))?;
        let mut format = Format::Json;
        section.read("format", &mut format, units::one_of(&FORMATS))?;
        section.read("enveloped", &mut enveloped, units::boolean)?;
        let shape = match (is_batch, enveloped) {
            (false, true) => RequestShape::Enveloped,
            (false, false) => RequestShape::Bare,
            (true, _) if matches!(&sink, Some(Sink::Nats(nats)) if !nats.subject.is_without_channel()) =>
            {
                return Err(
                    section.error("mode", "is \"single\" where the subject has a {channel}")
                );
            }
            (true, false) => {
                return Err(section.error("enveloped", "is true where `mode` is \"batch\""));
            }
            (true, true) => RequestShape::Batch,
        };
        let mut signing_key = None;
        section.read("signing_key", &mut signing_key, |value| {
            units::text(value).map(|name| Some(name.to_owned()))
        })?;
        if signing_key.is_some() && !matches!(sink, Some(Sink::Http(_))) {
            return Err(section.error("signing_key", "wants a `url`"));
        }
        if matches!(sink, Some(Sink::Lambda(_))) && format != Format::Json {
            return Err(section.error("format", "is \"json\" for a function"));
        }
        let mut is_asked = false;
        section.read("invocation", &mut is_asked, units::one_of(&INVOCATIONS))?;
        check_invocation(&section, is_asked, source, sink.as_ref())?;
        let mut timeout = Duration::from_secs(if is_asked { 5 } else { 10 });
        let longest = if is_asked { "10s" } else { "5m" };
        section.read("timeout", &mut timeout, units::duration("100ms"..=longest))?;
        let mut pace = Pace {
            concurrency: if is_asked { 1 } else { 25 },
            requests_per_second_max: 0,
            batch_events_max: 1000,
            batch_bytes_max: sink.as_ref().map_or(0, Sink::batch_bytes_max),
            batch_interval: Duration::from_secs(1),
            retry_for: Duration::from_secs(86_400),
        };
        section.read("concurrency", &mut pace.concurrency, units::count(1..=1000))?;
        let rate = units::count(0..=100_000);
        section.read("requests_per_second_max", &mut pace.requests_per_second_max, rate)?;
        let events = units::count(1..=10_000);
        section.read("batch_events_max", &mut pace.batch_events_max, events)?;
        let bytes = units::bytes(KIB..=64 * MIB);
        section.read("batch_bytes_max", &mut pace.batch_bytes_max, bytes)?;
        let interval = units::duration("10ms"..="1m");
        section.read("batch_interval", &mut pace.batch_interval, interval)?;
        section.read("retry_for", &mut pace.retry_for, units::duration("1s"..="168h"))?;
        let mut when_full = WhenFull::DropOldest;
        section.read("when_full", &mut when_full, units::one_of(&WHEN_FULL))?;
        let mut waiting_bytes_max = 64 * MIB;
        let bytes = units::bytes(64 * KIB..=16 * 1024 * MIB);
        section.read("waiting_bytes_max", &mut waiting_bytes_max, bytes)?;
        let mut gate = Gate {
            on_failure: OnFailure::Reject,
            timeout,
            concurrency: pace.concurrency,
            retries_max: 3,
            retries_throttled: true,
            shape: QuestionShape::Messages,
        };
        section.read("on_failure", &mut gate.on_failure, units::one_of(&ON_FAILURE))?;
        section.read("on_throttle", &mut gate.retries_throttled, units::one_of(&ON_THROTTLE))?;
        let mut retries_max = gate.retries_max as usize;
        section.read("retries_max", &mut retries_max, units::count(0..=10))?;
        gate.retries_max = retries_max as u32;
        section.read("question", &mut gate.shape, units::one_of(&QUESTIONS))?;
        section.finish()?;
        let app = app.map_or(own_app, str::to_owned);
        for (key, is_missing) in [
            ("id", id.is_empty()),
            ("app", app.is_empty()),
            ("url", sink.is_none()),
            ("channel", filter.is_none()),
        ] {
            if is_missing {
                return Err(section.error(key, "is missing"));
            }
        }
        let filter = filter.expect("looked at above");
        let sink = sink.expect("looked at above");
        let reach = Reach { allow_private, timeout, tls };
        let target = Target { sink, reach, pace };
        Ok(RuleConfig {
            id,
            app,
            source,
            filter,
            shape,
            format,
            when_full,
            waiting_bytes_max,
            gate: is_asked.then_some(gate),
            signing_key,
            is_enabled,
            loop_guard,
            target,
        })
    }

    /// The rule, as those see it who act on it; without authorities of its own it trusts those of `ca`.
    ///
    /// # Errors
    /// The key that it signs with is none of `keys`.
    pub(super) fn to_hook(
        &self,
        keys: &[ApiKey],
        ca: Option<&Authorities>,
    ) -> anyhow::Result<HookRule> {
        let find = |name: &String| {
            let key = keys.iter().find(|key| key.name() == *name);
            let key = key.with_context(|| {
                format!("the rule `{}` signs with `{name}`, which is no key here", self.id)
            })?;
            let (name, secret) = (key.name().into(), Secret::new(&key.secret));
            anyhow::Ok(SigningKey { name, secret })
        };
        let signing_key = self.signing_key.as_ref().map(find).transpose()?;
        let rule = Rule::new(
            &self.id,
            &self.app,
            self.source,
            self.filter.clone(),
            self.shape,
            self.format,
            self.when_full,
            self.waiting_bytes_max as u64,
        );
        let rule = match self.gate {
            Some(gate) => rule.with_gate(gate),
            None => rule,
        };
        let mut target = self.target.clone();
        target.reach.tls.ca = target.reach.tls.ca.or_else(|| ca.cloned());
        if let Sink::Http(http) = &mut target.sink {
            http.signing_key = signing_key;
        }
        Ok(HookRule {
            rule: Arc::new(rule),
            target,
            is_enabled: self.is_enabled,
            loop_guard: self.loop_guard,
        })
    }
}

/// Refuses what does not go with being asked before a publish, or with being told of it.
fn check_invocation(
    section: &Section,
    is_asked: bool,
    source: RuleSource,
    sink: Option<&Sink>,
) -> Result<(), ConfigError> {
    if !is_asked {
        let key = BEFORE_PUBLISH_KEYS.into_iter().find(|key| section.has(key));
        let why = "wants `invocation = \"before-publish\"`";
        return key.map_or(Ok(()), |key| Err(section.error(key, why)));
    }
    let why = "has no place where `invocation` is \"before-publish\"";
    if let Some(key) = AFTER_PUBLISH_KEYS.into_iter().find(|key| section.has(key)) {
        return Err(section.error(key, why));
    }
    if source != RuleSource::Message {
        let why = "is \"channel.message\" where `invocation` is \"before-publish\"";
        return Err(section.error("source", why));
    }
    match sink {
        Some(Sink::Nats(_)) => Err(section.error("nats", why)),
        Some(Sink::Lambda(lambda)) if lambda.invocation == Invocation::Event => {
            let why = "wants `invocation = \"request-response\"` to be asked before a publish";
            Err(section.error("lambda", why))
        }
        Some(Sink::Lambda(_) | Sink::Http(_)) | None => Ok(()),
    }
}

fn id_text(value: &DeValue) -> Result<String, String> {
    match units::text(value)? {
        text if key::is_id(text) => Ok(text.to_owned()),
        _ => Err("wants letters, digits, `-` and `_`".into()),
    }
}
