//! Requests over HTTP, one to a transport, and what their answers say.

use serde_json::{Value, json};

use super::credentials::{self, MUTABLE};
use super::oracle::{Event, Oracle, Publish, channel_serial};
use super::payload::{self, Kind};
use super::revocations::Target;
use super::sdk::{Scene, change_body};
use super::wire::Wire;

/// What holders of tokens get to renew them, at least (12.8).
const REAUTH_MARGIN_MS: u64 = 30_000;

/// What was asked.
#[derive(Clone, Debug)]
pub enum Asked {
    /// To publish what the oracle calls that.
    Publish(usize),
    /// To change a message, as the oracle has noted it.
    Change(usize),
    /// The history of a channel.
    History(String),
    /// Who is present in a channel.
    Presence,
    /// To revoke tokens: by what number that is known, and when it is to apply at the soonest.
    Revocation(usize, u64),
}

/// A request under way.
#[derive(Debug)]
pub struct Call {
    socket: usize,
    wire: Wire,
    /// What was asked.
    pub asked: Asked,
}

impl Call {
    /// Sends a request to `shard`; `body` is that of a POST.
    fn send(
        scene: &mut Scene<'_>,
        shard: usize,
        asked: Asked,
        path: &str,
        body: Option<&Value>,
    ) -> Call {
        let method = match (&asked, body) {
            (Asked::Change(_), _) => "PATCH",
            (_, Some(_)) => "POST",
            (_, None) => "GET",
        };
        let wire = scene.repertoire.wire();
        let body = body.map(|body| wire.encode(body)).unwrap_or_default();
        let sign = if path.contains('?') { '&' } else { '?' };
        let key = credentials::key(0);
        let accept = match wire {
            Wire::Json => String::new(),
            Wire::MsgPack => format!("Accept: {}\r\n", wire.media_type()),
        };
        let request = format!(
            "{method} {path}{sign}key={key} HTTP/1.1\r\nHost: h\r\n{accept}Content-Type: {}\r\n\
             Content-Length: {}\r\n\r\n",
            wire.media_type(),
            body.len()
        );
        let socket = scene.host.accept(shard);
        scene.host.post(socket, &[request.as_bytes(), &body].concat());
        Call { socket, wire, asked }
    }

    /// Publishes what the oracle calls `publish`.
    pub fn publish(scene: &mut Scene<'_>, shard: usize, publish: usize, id: Option<&str>) -> Call {
        scene.oracle.attempt(publish, None);
        scene.report.publishes += 1;
        let channel = scene.oracle.publishes[publish].channel().to_owned();
        let Publish { tags, kind, is_ephemeral, .. } = &scene.oracle.publishes[publish];
        let by_param = *is_ephemeral && scene.repertoire.random.chance(2);
        let messages: Vec<Value> = tags
            .iter()
            .enumerate()
            .map(|(index, tag)| {
                let mut message = match kind {
                    Kind::Text => json!({"data": tag}),
                    Kind::Bytes | Kind::Object => kind.message(tag, 10),
                };
                if let Some(id) = id {
                    message["id"] = format!("{id}:{index}").into();
                }
                if *is_ephemeral && !by_param {
                    payload::make_ephemeral(&mut message);
                }
                message
            })
            .collect();
        let param = if by_param { "?ephemeral=true" } else { "" };
        let path = format!("/channels/{channel}/messages{param}");
        Call::send(scene, shard, Asked::Publish(publish), &path, Some(&json!(messages)))
    }

    /// Changes a message.
    pub fn change(scene: &mut Scene<'_>, shard: usize, publish: usize) -> Call {
        scene.oracle.attempt(publish, None);
        scene.report.publishes += 1;
        let (target, body) = change_body(scene.oracle, publish);
        let path = format!("/channels/{MUTABLE}/messages/{target}");
        Call::send(scene, shard, Asked::Change(publish), &path, Some(&body))
    }

    /// Reads the history of a channel.
    pub fn history(scene: &mut Scene<'_>, shard: usize, channel: &str) -> Call {
        let path = format!("/channels/{channel}/messages?direction=forwards&limit=1000");
        Call::send(scene, shard, Asked::History(channel.into()), &path, None)
    }

    /// Asks who is present.
    pub fn presence(scene: &mut Scene<'_>, shard: usize, channel: &str) -> Call {
        let path = format!("/channels/{channel}/presence?limit=1000");
        Call::send(scene, shard, Asked::Presence, &path, None)
    }

    /// Has tokens revoked, which their holders get some time to renew if `has_margin`.
    pub fn revoke(scene: &mut Scene<'_>, shard: usize, target: Target, has_margin: bool) -> Call {
        let now_ms = scene.host.now.unix_ms;
        let applies_ms = if has_margin { now_ms + REAUTH_MARGIN_MS } else { now_ms };
        let number = scene.oracle.revocations.begin(target, applies_ms);
        let body = json!({"targets": [target.text()], "allowReauthMargin": has_margin});
        let path = format!("/keys/{}/revokeTokens?v=3", credentials::key_name(0));
        scene.report.trace(|| format!("revocation of {target:?}, margin {has_margin}"));
        Call::send(scene, shard, Asked::Revocation(number, applies_ms), &path, Some(&body))
    }

    /// Gives up; whoever had asked does not learn what has become of it.
    pub fn lose(&self, scene: &mut Scene<'_>) {
        scene.host.cut(self.socket);
        scene.report.drops += 1;
        if let Asked::Publish(publish) | Asked::Change(publish) = self.asked {
            scene.oracle.give_up(publish);
        }
    }

    /// The status and the body of the answer, once it is all there.
    pub fn poll(&mut self, scene: &mut Scene<'_>) -> Option<(u16, Value)> {
        let client = &scene.host.clients[self.socket];
        let answer = parse(self.wire, &client.received);
        if answer.is_none() && !client.is_open() {
            if let Asked::Publish(publish) | Asked::Change(publish) = self.asked {
                scene.oracle.give_up(publish);
            }
            return Some((0, Value::Null));
        }
        let (status, body) = answer?;
        let body = body.unwrap_or_else(|text| {
            scene.oracle.find("wire", text);
            Value::Null
        });
        let text = format!("{status} {body}");
        scene.report.hash(text.as_bytes());
        scene.report.trace(|| format!("REST {:?}: {text}", self.asked));
        scene.host.hang_up(self.socket);
        if let Asked::Publish(publish) | Asked::Change(publish) = self.asked {
            let outcome = match status {
                200 => Ok(body["versionSerial"].as_str().map(str::to_owned).into_iter().collect()),
                201 => {
                    let serials = body["serials"].as_array().into_iter().flatten();
                    Ok(serials.filter_map(|serial| serial.as_str().map(str::to_owned)).collect())
                }
                _ => Err(body["error"]["code"].as_u64().unwrap_or_default()),
            };
            scene.report.refused += u64::from(outcome.is_err());
            scene.oracle.told(publish, outcome, None);
        }
        if let (Asked::Revocation(number, soonest_ms), 201) = (&self.asked, status) {
            let result = &body["results"][0];
            let times_ms = (result["issuedBefore"].as_u64(), result["appliesAt"].as_u64());
            match times_ms {
                (Some(issued_before_ms), Some(applies_ms)) if applies_ms >= *soonest_ms => {
                    let publishes = scene.oracle.publishes.len();
                    let times_ms = (issued_before_ms, applies_ms);
                    scene.oracle.revocations.done(*number, times_ms, publishes);
                }
                _ => scene.oracle.find("revoked", format!("from {soonest_ms}: {body}")),
            }
        }
        Some((status, body))
    }
}

/// Publications of a history, in its order.
pub fn publications(oracle: &mut Oracle, channel: &str, history: &Value) -> Vec<(String, Event)> {
    let mut publications: Vec<(String, Event)> = Vec::new();
    for message in history.as_array().into_iter().flatten() {
        let serial = channel_serial(message["serial"].as_str().unwrap_or_default());
        let tag = oracle.read(channel, message);
        if oracle.is_ephemeral(&tag) {
            oracle.find("ephemeral", format!("{channel} has kept {message}"));
        }
        // The latest version, at the place of the first: that is another's tag.
        if message["action"].as_u64().unwrap_or_default() != 0 {
            continue;
        }
        match publications.last_mut() {
            Some((last, event)) if *last == serial => event.tags.push(tag),
            _ => {
                let publisher = message["connectionId"].as_str().map(str::to_owned);
                publications.push((serial.to_owned(), Event { publisher, tags: vec![tag] }));
            }
        }
    }
    publications
}

/// Status and body, once they are all there. An error is JSON whatever was asked for.
fn parse(wire: Wire, received: &[u8]) -> Option<(u16, Result<Value, String>)> {
    let end = received.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&received[..end]).ok()?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "))?;
    let body = received.get(end + 4..end + 4 + length.parse::<usize>().ok()?)?;
    let wire = if status < 400 { wire } else { Wire::Json };
    let content_type = format!("Content-Type: {}", wire.media_type());
    let body = match head.lines().any(|line| line == content_type) {
        true => wire.decode(body),
        false => Err(format!("not {content_type}: {head}")),
    };
    Some((status, body))
}
