//! The test sandbox: apps that clients make and delete, as the SDKs' suites do (13.4).

use serde::Deserialize;
use serde_json::Value as Json;
use serde_json::value::RawValue;

use super::json::JsonValue;
use super::message::stored;
use super::writer::{MapWriter, write_map, write_str};
use super::{
    Ack, ApiKey, AppLimits, AppSpec, Capability, Data, ErrorCode, ErrorInfo, Format, KeySpec,
    Namespace,
};

/// Keys, namespaces or channels of one app, at most.
const PARTS_MAX: usize = 100;

/// Intervals of statistics that one app is given, at most.
pub const STATS_MAX: usize = 10_000;

/// A presence member that stands without a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FixtureMember {
    /// Who it is.
    pub client_id: Box<str>,
    /// What it has entered with, in stored form.
    pub data: Data,
    /// The encoding of that, in stored form.
    pub encoding: Option<Box<str>>,
}

/// A channel that an app is made with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FixtureChannel {
    /// Its name.
    pub name: Box<str>,
    /// Its members; each is there once.
    pub members: Vec<FixtureMember>,
}

/// An app that somebody has asked for.
#[derive(Clone, Debug)]
pub struct NewApp {
    /// The app itself.
    pub app: AppSpec,
    /// What its channels hold from the beginning.
    pub channels: Vec<FixtureChannel>,
}

/// Numbers of one interval, as a suite has posted them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatsFixture {
    /// Such as `2026-02-03:15:03`; its length says which unit.
    pub interval_id: Box<str>,
    /// JSON text of the whole object, nested as it came.
    pub json: Box<str>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Setup {
    keys: Vec<KeySetup>,
    namespaces: Vec<NamespaceSetup>,
    channels: Vec<ChannelSetup>,
    limits: LimitsSetup,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct KeySetup {
    capability: Option<Json>,
    revocable_tokens: bool,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct NamespaceSetup {
    id: String,
    persisted: bool,
    persist_last: bool,
    mutable_messages: bool,
    push_enabled: bool,
    authenticated: bool,
    tls_only: bool,
}

#[derive(Deserialize)]
struct ChannelSetup {
    name: String,
    #[serde(default)]
    presence: Vec<MemberSetup>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct MemberSetup {
    client_id: String,
    data: Option<Box<RawValue>>,
    encoding: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct LimitsSetup {
    presence: PresenceLimits,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct PresenceLimits {
    max_members: Option<u32>,
}

/// Reads the body of `POST /apps` (ably-common, `test-resources/test-app-setup.json`). `next_id` makes
/// an id that nobody else has, of ASCII letters and digits.
///
/// # Errors
/// 40001: it is not that; 40000: a capability or a channel in it cannot be.
pub fn decode_new_app(
    body: &[u8],
    mut next_id: impl FnMut() -> String,
) -> Result<NewApp, ErrorInfo> {
    let setup: Setup = match body {
        [] => Setup::default(),
        _ => serde_json::from_slice(body).map_err(|error| {
            ErrorInfo::new(ErrorCode::INVALID_BODY, format!("no app can be made of this: {error}"))
        })?,
    };
    let refuse = |text: String| ErrorInfo::new(ErrorCode::BAD_REQUEST, text);
    let parts = [setup.keys.len(), setup.namespaces.len(), setup.channels.len()];
    if parts.iter().any(|&count| count > PARTS_MAX) {
        let text = format!("an app has at most {PARTS_MAX} keys, namespaces or channels");
        return Err(refuse(text));
    }
    let id = next_id();
    let mut keys = Vec::new();
    for key in setup.keys {
        let capability = match key.capability {
            None | Some(Json::Null) => r#"{"*":["*"]}"#.to_owned(),
            Some(Json::String(text)) => text,
            Some(object) => object.to_string(),
        };
        let capability = Capability::parse_lenient(&capability)
            .map_err(|error| refuse(format!("a key's capability: {error}")))?;
        let api_key = format!("{id}.{}:{}{}", next_id(), next_id(), next_id());
        let api_key: ApiKey = api_key.parse()?;
        let spec = KeySpec::new(api_key, &capability.to_string(), key.revocable_tokens);
        keys.push(spec.expect("canonical text is a capability"));
    }
    let namespaces = setup.namespaces.into_iter().map(|namespace| Namespace {
        id: namespace.id.into(),
        persisted: namespace.persisted,
        ack: Ack::default(),
        persist_last: namespace.persist_last,
        mutable_messages: namespace.mutable_messages,
        push_enabled: namespace.push_enabled,
        authenticated: namespace.authenticated,
        tls_only: namespace.tls_only,
    });
    let mut limits = AppLimits::default();
    if let Some(members_max) = setup.limits.presence.max_members {
        limits.presence_members_max = members_max;
    }
    let channels = setup.channels.into_iter().map(|channel| {
        let name = super::ChannelName::parse(&channel.name)?;
        if channel.presence.len() > limits.presence_members_max as usize {
            return Err(refuse("a channel has more members than the app allows".into()));
        }
        let members = channel.presence.into_iter().map(member).collect::<Result<_, _>>()?;
        Ok(FixtureChannel { name: name.base().into(), members })
    });
    let channels = channels.collect::<Result<Vec<_>, ErrorInfo>>()?;
    let namespaces = namespaces.collect();
    Ok(NewApp { app: AppSpec { id: id.into(), keys, namespaces, limits }, channels })
}

fn member(setup: MemberSetup) -> Result<FixtureMember, ErrorInfo> {
    if setup.client_id.is_empty() || setup.client_id == "*" {
        let text = "a presence member needs a clientId";
        return Err(ErrorInfo::new(ErrorCode::INVALID_CLIENT_ID, text));
    }
    let encoding = setup.encoding.filter(|encoding| !encoding.is_empty());
    let (data, encoding) = match &setup.data {
        Some(data) => {
            let data = JsonValue::parse(data.get().as_bytes()).map_err(ErrorInfo::from)?;
            stored(data, encoding.as_deref())
        }
        None => (Data::None, encoding.map(Box::from)),
    };
    Ok(FixtureMember { client_id: setup.client_id.into(), data, encoding })
}

/// Reads the body of `POST /stats`: one interval or an array of them.
///
/// # Errors
/// 40001: it is not that.
pub fn decode_stats(body: &[u8]) -> Result<Vec<StatsFixture>, ErrorInfo> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Interval {
        interval_id: Box<str>,
    }
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Body {
        Many(Vec<Json>),
        One(Json),
    }
    let refuse = || ErrorInfo::new(ErrorCode::INVALID_BODY, "these are no statistics");
    let intervals = match serde_json::from_slice(body).map_err(|_| refuse())? {
        Body::Many(intervals) => intervals,
        Body::One(interval) => vec![interval],
    };
    let read = |interval: Json| {
        let json = interval.to_string().into();
        let Interval { interval_id } = serde_json::from_value(interval).map_err(|_| refuse())?;
        Ok(StatsFixture { interval_id, json })
    };
    intervals.into_iter().map(read).collect()
}

fn flag(map: &mut MapWriter<'_>, key: &str, is_set: bool) {
    map.json(key, if is_set { "true" } else { "false" });
}

/// The answer to `POST /apps`: everything that the suites look for, and where to find the daemon.
pub fn encode_new_app(format: Format, app: &AppSpec, host: &str, port: Option<u16>) -> Vec<u8> {
    let mut out = Vec::new();
    write_map(format, &mut out, |map| {
        map.str("appId", &app.id);
        map.str("id", &app.id);
        map.str("accountId", "sandbox");
        map.array("keys", app.keys.iter(), |key, out| {
            let (id, secret) = (key.api_key().key_id(), key.api_key().secret());
            let name = key.api_key().name();
            write_map(format, out, |map| {
                map.str("id", id);
                map.str("value", secret);
                map.str("keyName", &name);
                map.str("keySecret", secret);
                map.str("keyStr", &format!("{name}:{secret}"));
                map.str("capability", key.capability_text());
                flag(map, "revocableTokens", key.has_revocable_tokens());
                map.uint("expires", 0);
            });
        });
        map.array("namespaces", app.namespaces.iter(), |namespace, out| {
            write_map(format, out, |map| {
                map.str("id", &namespace.id);
                flag(map, "persisted", namespace.persisted);
                flag(map, "persistLast", namespace.persist_last);
                flag(map, "mutableMessages", namespace.mutable_messages);
                flag(map, "pushEnabled", namespace.push_enabled);
                flag(map, "authenticated", namespace.authenticated);
                flag(map, "tlsOnly", namespace.tls_only);
            });
        });
        map.array("connections", std::iter::empty::<&str>(), |id, out| write_str(format, out, id));
        map.str("endpoint", host);
        if let Some(port) = port {
            map.uint("port", port.into());
        }
        flag(map, "tls", false);
    });
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(body: &str) -> Result<NewApp, ErrorInfo> {
        let mut count = 0;
        decode_new_app(body.as_bytes(), || {
            count += 1;
            format!("id{count}")
        })
    }

    #[test]
    fn an_app_is_made_as_the_suites_ask_for_it() {
        let body = r#"{
            "limits": { "presence": { "maxMembers": 250 } },
            "keys": [{}, { "capability": "{ \"b\":[\"subscribe\",\"publish\"] }" },
                     { "revocableTokens": true }],
            "namespaces": [{ "id": "persisted", "persisted": true },
                           { "id": "mutable", "mutableMessages": true }],
            "channels": [{ "name": "persisted:fixtures", "presence": [
                { "clientId": "text", "data": "true" },
                { "clientId": "json", "data": "{\"a\":1}", "encoding": "json" },
                { "clientId": "bytes", "data": "AQI=", "encoding": "utf-8/cipher/base64" },
                { "clientId": "object", "data": { "a": 1 } },
                { "clientId": "nothing" }] }]
        }"#;
        let NewApp { app, channels } = decode(body).expect("the form of ably-common");
        assert_eq!((&*app.id, app.keys.len(), app.limits.presence_members_max), ("id1", 3, 250));
        assert_eq!(app.keys[1].capability_text(), r#"{"b":["publish","subscribe"]}"#);
        assert!(app.keys[2].has_revocable_tokens() && !app.keys[0].has_revocable_tokens());
        assert!(app.namespaces[0].persisted && app.namespaces[1].mutable_messages);
        let text = |text: &str| Data::Text(text.into());
        let members = channels[0].members.iter();
        let members: Vec<_> =
            members.map(|member| (member.data.clone(), member.encoding.as_deref())).collect();
        assert_eq!(
            members,
            [
                (text("true"), None),
                (text(r#"{"a":1}"#), Some("json")),
                (Data::Binary(vec![1, 2].into()), Some("utf-8/cipher")),
                (text(r#"{ "a": 1 }"#), Some("json")),
                (Data::None, None),
            ]
        );
        let answer = encode_new_app(Format::Json, &app, "127.0.0.1", Some(80));
        let answer: Json = serde_json::from_slice(&answer).expect("JSON");
        assert_eq!(answer["keys"][1]["keyStr"], "id1.id5:id6id7");
        assert_eq!(answer["keys"][1]["keyName"], "id1.id5");
        assert_eq!(answer["keys"][1]["keySecret"], "id6id7");
        assert_eq!(answer["keys"][0]["capability"], r#"{"*":["*"]}"#);
        assert_eq!(answer["namespaces"][1]["mutableMessages"], true);
        assert_eq!((&answer["port"], &answer["tls"]), (&80.into(), &false.into()));
    }

    #[test]
    fn what_is_no_app_is_refused() {
        let code = |body: &str| decode(body).expect_err(body).code.0;
        assert_eq!(code("["), 40001);
        assert_eq!(code(r#"{"keys":1}"#), 40001);
        assert_eq!(code(r#"{"keys":[{"capability":"x"}]}"#), 40000);
        assert_eq!(code(r#"{"channels":[{"name":":x"}]}"#), 40010);
        assert_eq!(code(r#"{"channels":[{"name":"x","presence":[{"clientId":""}]}]}"#), 40012);
        let members = r#"{"clientId":"a"},"#.repeat(2) + r#"{"clientId":"b"}"#;
        let limits = r#""limits":{"presence":{"maxMembers":2}}"#;
        let body = format!(r#"{{{limits},"channels":[{{"name":"x","presence":[{members}]}}]}}"#);
        assert_eq!(code(&body), 40000);
        assert_eq!(code(&format!(r#"{{"keys":[{}{{}}]}}"#, "{},".repeat(PARTS_MAX))), 40000);
        assert!(decode("").is_ok() && decode("{}").is_ok());
    }

    #[test]
    fn statistics_are_kept_as_they_came() {
        let one = r#"{"intervalId":"2026-02-03:15:03","inbound":{"all":{"count":1}}}"#;
        let stats = decode_stats(one.as_bytes()).expect("one interval");
        assert_eq!(&*stats[0].interval_id, "2026-02-03:15:03");
        assert!(stats[0].json.contains(r#""inbound":{"all":{"count":1}}"#));
        assert_eq!(decode_stats(format!("[{one},{one}]").as_bytes()).expect("two").len(), 2);
        for body in ["", "1", "[1]", "{}", r#"{"intervalId":1}"#] {
            assert_eq!(decode_stats(body.as_bytes()).expect_err(body).code.0, 40001);
        }
    }
}
