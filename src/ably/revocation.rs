//! Revoked tokens: which ones, from when on (12.8).

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::json::JsonValue;
use super::msgpack::MsgPackValue;
use super::value::{Node, Value};
use super::writer::{write_array, write_map};
use super::{Directory, ErrorCode, ErrorInfo, Format, Identity, Principal};

/// Targets of one request.
const TARGETS_MAX: usize = 100;

/// Targets of one key whose tokens may still be in use.
const REVOCATIONS_MAX: usize = 16_384;

/// How far back `issuedBefore` may lie: no token that can be revoked is older.
const ISSUED_BEFORE_MAX_MS: u64 = 60 * 60 * 1000;

/// What clients get to renew their tokens when they are allowed a margin: a little over 30 s.
const REAUTH_MARGIN_MS: u64 = 30_100;

/// What tokens have in common that are revoked together; written `type:value`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// Tokens for this clientId.
    ClientId(Arc<str>),
    /// Tokens with this claim `x-ably-revocation-key`.
    RevocationKey(Arc<str>),
    /// Tokens whose capability has this resource, written exactly so.
    Channel(Arc<str>),
}

impl FromStr for Target {
    type Err = ErrorInfo;

    fn from_str(text: &str) -> Result<Target, ErrorInfo> {
        match text.split_once(':') {
            Some((_, "")) => {}
            Some(("clientId", value)) => return Ok(Target::ClientId(value.into())),
            Some(("revocationKey", value)) => return Ok(Target::RevocationKey(value.into())),
            Some(("channel", value)) => return Ok(Target::Channel(value.into())),
            _ => {}
        }
        let text = "a target reads clientId:, revocationKey: or channel: and a value";
        Err(ErrorInfo::new(ErrorCode::BAD_REQUEST, text))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::ClientId(value) => write!(f, "clientId:{value}"),
            Target::RevocationKey(value) => write!(f, "revocationKey:{value}"),
            Target::Channel(value) => write!(f, "channel:{value}"),
        }
    }
}

/// Which tokens of a target are revoked, and from when on; all in milliseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Revoked {
    issued_before_ms: u64,
    applies_at_ms: u64,
}

impl Revoked {
    /// Whether `other` adds nothing to this at `now_ms`: its tokens are among those of this, which applies
    /// as soon or already.
    fn covers(&self, other: &Revoked, now_ms: u64) -> bool {
        self.issued_before_ms >= other.issued_before_ms
            && self.applies_at_ms <= other.applies_at_ms.max(now_ms)
    }
}

/// What is revoked of one key: of each target, what no other covers. That is one that applies, and those
/// with a margin that goes on.
#[derive(Clone, Debug, Default)]
pub(super) struct Revocations(HashMap<Target, Vec<Revoked>>);

impl Revocations {
    /// From when on the token of `principal` is revoked, if it is.
    pub(super) fn revoked_ms(&self, principal: &Principal) -> Option<u64> {
        let token = principal.token()?;
        let client_id = match principal.identity() {
            Identity::Client(id) if !token.is_wildcard => Some(&**id),
            Identity::Client(_) | Identity::Wildcard => Some("*"),
            Identity::Anonymous => None,
        };
        let channels = principal.capability().resources().map(|name| Target::Channel(name.into()));
        let targets = channels
            .chain(client_id.map(|id| Target::ClientId(id.into())))
            .chain(token.revocation_key.as_deref().map(|key| Target::RevocationKey(key.into())));
        let applying = targets.filter_map(|target| self.0.get(&target)).flatten();
        let applying = applying.filter(|revoked| token.issued_ms < revoked.issued_before_ms);
        applying.map(|revoked| revoked.applies_at_ms).min()
    }
}

/// A request to revoke tokens of one key.
#[derive(Clone, Debug)]
pub struct Revocation {
    /// As they were written; those that cannot be read are told so.
    targets: Vec<(Box<str>, Result<Target, ErrorInfo>)>,
    revoked: Revoked,
    asked_ms: u64,
}

impl Revocation {
    /// Reads a body.
    ///
    /// # Errors
    /// 40001: it cannot be read; 40000: there is no target or there are too many; 40003: the time is
    /// not one that tokens could be revoked by.
    pub fn decode(format: Format, body: &[u8], now_ms: u64) -> Result<Revocation, ErrorInfo> {
        let revocation = match format {
            Format::Json => JsonValue::parse(body).ok().map(|body| Revocation::read(body, now_ms)),
            Format::MsgPack => {
                MsgPackValue::parse(body).ok().map(|body| Revocation::read(body, now_ms))
            }
        };
        revocation.unwrap_or_else(|| {
            Err(ErrorInfo::new(ErrorCode::INVALID_BODY, "this is no revocation of tokens"))
        })
    }

    fn read<'a>(body: impl Value<'a>, now_ms: u64) -> Result<Revocation, ErrorInfo> {
        let refuse = |code, text: &'static str| Err(ErrorInfo::new(code, text));
        let (mut targets, mut issued_before_ms, mut has_margin) = (Vec::new(), now_ms, false);
        for (name, value) in body.entries() {
            match (&*name, value.node()) {
                (_, Node::Null) => {}
                ("targets", _) => {
                    for item in value.items().take(TARGETS_MAX + 1) {
                        let text = item.str().map_or_else(|| item.to_json(), Box::from);
                        targets.push((text.clone(), text.parse()));
                    }
                }
                ("issuedBefore", _) => match value.uint() {
                    Some(ms) => issued_before_ms = ms,
                    None => {
                        return refuse(ErrorCode::INVALID_PARAMETER, "issuedBefore is no time");
                    }
                },
                ("allowReauthMargin", Node::Bool(allows)) => has_margin = allows,
                _ => {}
            }
        }
        if targets.is_empty() || targets.len() > TARGETS_MAX {
            return refuse(ErrorCode::BAD_REQUEST, "there have to be 1 to 100 targets");
        }
        if issued_before_ms > now_ms || now_ms - issued_before_ms > ISSUED_BEFORE_MAX_MS {
            return refuse(
                ErrorCode::INVALID_PARAMETER,
                "issuedBefore is not within the hour before now",
            );
        }
        let applies_at_ms = if has_margin { now_ms + REAUTH_MARGIN_MS } else { now_ms };
        Ok(Revocation {
            targets,
            revoked: Revoked { issued_before_ms, applies_at_ms },
            asked_ms: now_ms,
        })
    }

    /// What is revoked of a key behind this.
    pub(super) fn apply(&self, before: &Revocations) -> Result<Revocations, ErrorInfo> {
        let mut after = before.clone();
        // Tokens that these concern have expired by now.
        let forgotten_ms = self.revoked.applies_at_ms.saturating_sub(2 * ISSUED_BEFORE_MAX_MS);
        after.0.retain(|_, known| {
            known.retain(|revoked| revoked.issued_before_ms > forgotten_ms);
            !known.is_empty()
        });
        for target in self.targets.iter().filter_map(|(_, target)| target.as_ref().ok()) {
            // What applied already goes on to apply, and younger tokens have the margin they were told of.
            let (known, now_ms) = (after.0.entry(target.clone()).or_default(), self.asked_ms);
            known.retain(|revoked| !self.revoked.covers(revoked, now_ms));
            let applying = known.iter().filter(|revoked| revoked.applies_at_ms <= now_ms);
            if let Some(widest) = applying.max_by_key(|it| it.issued_before_ms).copied() {
                known.retain(|revoked| *revoked == widest || !widest.covers(revoked, now_ms));
            }
            if !known.iter().any(|revoked| revoked.covers(&self.revoked, now_ms)) {
                known.push(self.revoked);
            }
        }
        if after.0.values().map(Vec::len).sum::<usize>() > REVOCATIONS_MAX {
            let text = "too many revocations of one key within two hours";
            return Err(ErrorInfo::new(ErrorCode::REQUEST_RATE_EXCEEDED, text));
        }
        Ok(after)
    }

    /// What the whole request is told before version 3 when some of it has failed.
    pub fn partial_failure() -> ErrorInfo {
        ErrorInfo::new(ErrorCode::BATCH_ERROR, "some of the batch has failed")
    }

    /// Targets that cannot be read.
    pub fn failure_count(&self) -> usize {
        self.targets.iter().filter(|(_, target)| target.is_err()).count()
    }

    /// The results: one for each target, in order; with a summary around them since version 3 (2.3).
    pub fn encode_results(&self, format: Format, has_summary: bool) -> Vec<u8> {
        let mut out = Vec::new();
        let write = |item: &_, out: &mut Vec<u8>| self.write_result(format, item, out);
        if !has_summary && self.failure_count() == 0 {
            write_array(format, &mut out, self.targets.iter(), write);
            return out;
        }
        if !has_summary {
            write_map(format, &mut out, |map| {
                map.map("error", |map| Revocation::partial_failure().write(map));
                map.array("batchResponse", self.targets.iter(), write);
            });
            return out;
        }
        write_map(format, &mut out, |map| {
            map.uint("successCount", (self.targets.len() - self.failure_count()) as u64);
            map.uint("failureCount", self.failure_count() as u64);
            map.array("results", self.targets.iter(), write);
        });
        out
    }

    fn write_result(
        &self,
        format: Format,
        (text, target): &(Box<str>, Result<Target, ErrorInfo>),
        out: &mut Vec<u8>,
    ) {
        write_map(format, out, |map| {
            map.str("target", text);
            match target {
                Ok(_) => {
                    map.uint("issuedBefore", self.revoked.issued_before_ms);
                    map.uint("appliesAt", self.revoked.applies_at_ms);
                }
                Err(error) => map.map("error", |map| error.write(map)),
            }
        });
    }
}

impl Directory {
    /// `principal` with what has been revoked of its token since it was read; `None`: nothing.
    pub fn with_revocation(&self, principal: &Principal) -> Option<Principal> {
        let revoked_ms = self.revoked_ms(principal)?;
        let known_ms = principal.token()?.revoked_ms;
        (known_ms != Some(revoked_ms)).then(|| principal.clone().revoked_by(revoked_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{AppSpec, KeySpec, TokenRequest};
    use super::*;

    const NOW_MS: u64 = 1_700_000_000_000;

    fn directory() -> Directory {
        let key = |name: &str| {
            let api_key = format!("app.{name}:secret").parse().expect("a key");
            KeySpec::new(api_key, r#"{"*":["*"]}"#, true).expect("valid")
        };
        let keys = vec![key("one"), key("two")];
        Directory::new([AppSpec { id: "app".into(), keys, ..AppSpec::default() }])
    }

    fn token(key: &str, body: &str, now_ms: u64) -> String {
        let request = TokenRequest::decode(Format::Json, body.as_bytes()).expect("JSON");
        let grant = request.check(directory().key(key).expect("known"), now_ms).expect("granted");
        grant.issue(now_ms, [0; 12]).token().to_owned()
    }

    fn revoke(directory: &Directory, key: &str, body: &str, now_ms: u64) -> Directory {
        let revocation = Revocation::decode(Format::Json, body.as_bytes(), now_ms).expect(body);
        directory.with_revocation_of(key, &revocation).expect("there is room")
    }

    #[test]
    fn tokens_of_a_target_are_revoked_and_no_others() {
        let bob = token("app.one", r#"{"clientId":"bob"}"#, NOW_MS);
        let eve = token("app.one", r#"{"clientId":"eve"}"#, NOW_MS);
        let room = token("app.one", r#"{"capability":"{\"room:*\":[\"*\"]}"}"#, NOW_MS);
        let other_key = token("app.two", r#"{"clientId":"bob"}"#, NOW_MS);
        let later = token("app.one", r#"{"clientId":"bob"}"#, NOW_MS + 10);
        let targets = r#"{"targets":["clientId:bob","channel:room:*"]}"#;
        let directory = revoke(&directory(), "app.one", targets, NOW_MS + 10);
        let code = |token: &str| {
            let error = directory.authenticate_token(token, NOW_MS + 20).err();
            error.map(|error| (error.code.0, error.status))
        };
        assert_eq!(code(&bob), Some((40141, 401)));
        assert_eq!(code(&room), Some((40141, 401)));
        for token in [&eve, &other_key, &later] {
            assert_eq!(code(token), None);
        }
    }

    #[test]
    fn with_a_margin_a_token_goes_on_for_half_a_minute() {
        let bob = token("app.one", r#"{"clientId":"bob"}"#, NOW_MS);
        let body = r#"{"targets":["clientId:bob"],"allowReauthMargin":true}"#;
        let before = directory();
        let principal = before.authenticate_token(&bob, NOW_MS).expect("valid");
        let after = revoke(&before, "app.one", body, NOW_MS + 10);
        let revoked = after.with_revocation(&principal).expect("revoked");
        let ends_ms = NOW_MS + 10 + REAUTH_MARGIN_MS;
        assert_eq!(revoked.token().expect("a token").ends_ms(), ends_ms);
        assert!(after.with_revocation(&revoked).is_none());
        assert!(after.authenticate_token(&bob, ends_ms - 1).is_ok());
        let error = after.authenticate_token(&bob, ends_ms).expect_err("revoked");
        assert_eq!(error.code, ErrorCode::TOKEN_REVOKED);
    }

    #[test]
    fn a_margin_holds_although_older_tokens_of_the_target_are_revoked_already() {
        let directory = directory();
        let token_of = |now_ms| token("app.one", r#"{"keyName":"app.one","clientId":"a"}"#, now_ms);
        let (old, young) = (token_of(NOW_MS), token_of(NOW_MS + 10));
        let at_once = r#"{"targets":["clientId:a"]}"#;
        let with_margin = r#"{"targets":["clientId:a"],"allowReauthMargin":true}"#;
        let directory = revoke(&directory, "app.one", at_once, NOW_MS + 5);
        let directory = revoke(&directory, "app.one", with_margin, NOW_MS + 20);
        let is_good = |token: &str, now_ms| directory.authenticate_token(token, now_ms).is_ok();
        assert!(!is_good(&old, NOW_MS + 20));
        assert!(is_good(&young, NOW_MS + 20));
        assert!(is_good(&young, NOW_MS + 20 + 30_000));
        assert!(!is_good(&young, NOW_MS + 20 + REAUTH_MARGIN_MS));
        // One at once ends the margins of those before it, and is all there is to know.
        let directory = revoke(&directory, "app.one", at_once, NOW_MS + 30);
        assert!(directory.authenticate_token(&young, NOW_MS + 30).is_err());
    }

    #[test]
    fn of_one_target_only_margins_that_go_on_add_up() {
        let body = |margin| format!(r#"{{"targets":["clientId:a"],"allowReauthMargin":{margin}}}"#);
        let mut revocations = Revocations::default();
        let mut counts = Vec::new();
        for (at_ms, margin) in [(0, false), (9, false), (10, true), (20, true), (60_000, true)] {
            let now_ms = NOW_MS + at_ms;
            let body = body(margin);
            let revocation = Revocation::decode(Format::Json, body.as_bytes(), now_ms);
            revocations = revocation.expect("valid").apply(&revocations).expect("there is room");
            counts.extend(revocations.0.values().map(Vec::len));
        }
        assert_eq!(counts, [1, 1, 2, 3, 2]);
        let at_once = Revocation::decode(Format::Json, body(false).as_bytes(), NOW_MS + 60_001);
        let all = at_once.expect("valid").apply(&revocations).expect("there is room");
        assert_eq!(all.0.values().map(Vec::len).sum::<usize>(), 1);
    }

    #[test]
    fn results_are_in_the_order_of_the_targets() {
        let body = r#"{"targets":["clientId:a","colour:red","revocationKey:r"],
            "issuedBefore":1699998800000}"#;
        let revocation = Revocation::decode(Format::Json, body.as_bytes(), NOW_MS).expect("read");
        let json = |has_summary| -> serde_json::Value {
            let results = revocation.encode_results(Format::Json, has_summary);
            serde_json::from_slice(&results).expect("JSON")
        };
        let results = json(true);
        assert_eq!((&results["successCount"], &results["failureCount"]), (&2.into(), &1.into()));
        let result = &results["results"][0];
        assert_eq!(result["target"], "clientId:a");
        assert_eq!(result["issuedBefore"], 1_699_998_800_000u64);
        assert_eq!(result["appliesAt"], NOW_MS);
        assert_eq!(results["results"][1]["error"]["statusCode"], 400);
        let legacy = json(false);
        assert_eq!(legacy["error"]["code"], 40020);
        assert_eq!(legacy["batchResponse"][2]["target"], "revocationKey:r");
    }

    #[test]
    fn requests_that_revoke_nothing_are_refused() {
        let code = |body: &str| {
            Revocation::decode(Format::Json, body.as_bytes(), NOW_MS).expect_err(body).code.0
        };
        assert_eq!(code("{"), 40001);
        assert_eq!(code("[]"), 40000);
        assert_eq!(code(r#"{"targets":[]}"#), 40000);
        let many = vec!["\"clientId:a\""; TARGETS_MAX + 1].join(",");
        assert_eq!(code(&format!(r#"{{"targets":[{many}]}}"#)), 40000);
        for time in ["1700000000001", "1699996399999", "\"now\"", "-1"] {
            let body = format!(r#"{{"targets":["clientId:a"],"issuedBefore":{time}}}"#);
            assert_eq!(code(&body), 40003, "{time}");
        }
    }

    #[test]
    fn revocations_are_bounded_and_forgotten_when_their_tokens_have_expired() {
        let targets = |from: usize, count: usize| {
            let targets = (from..from + count).map(|at| format!("\"clientId:{at}\""));
            format!("{{\"targets\":[{}]}}", targets.collect::<Vec<_>>().join(","))
        };
        let mut revocations = Revocations::default();
        let decode = |body: &str, now_ms| {
            Revocation::decode(Format::Json, body.as_bytes(), now_ms).expect("valid")
        };
        for at in 0..REVOCATIONS_MAX / TARGETS_MAX {
            let revocation = decode(&targets(at * TARGETS_MAX, TARGETS_MAX), NOW_MS);
            revocations = revocation.apply(&revocations).expect("there is room");
        }
        let more = targets(REVOCATIONS_MAX, TARGETS_MAX);
        let error = decode(&more, NOW_MS).apply(&revocations).expect_err("full");
        assert_eq!((error.code.0, error.status), (42918, 429));
        let later = decode(&more, NOW_MS + 3 * ISSUED_BEFORE_MAX_MS);
        assert_eq!(later.apply(&revocations).expect("there is room").0.len(), TARGETS_MAX);
    }
}
