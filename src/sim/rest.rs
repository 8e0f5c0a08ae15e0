//! Requests over HTTP, one to a transport, and what their answers say.

use serde_json::{Value, json};

use super::credentials;
use super::oracle::{Event, channel_serial};
use super::sdk::Scene;

/// What was asked.
#[derive(Clone, Debug)]
pub enum Asked {
    /// To publish what the oracle calls that.
    Publish(usize),
    /// The history of a channel.
    History(String),
    /// Who is present in a channel.
    Presence,
}

/// A request under way.
#[derive(Debug)]
pub struct Call {
    socket: usize,
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
        let method = if body.is_some() { "POST" } else { "GET" };
        let body = body.map(Value::to_string).unwrap_or_default();
        let sign = if path.contains('?') { '&' } else { '?' };
        let key = credentials::key(0);
        let request = format!(
            "{method} {path}{sign}key={key} HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let socket = scene.host.accept(shard);
        scene.host.post(socket, request.as_bytes());
        Call { socket, asked }
    }

    /// Publishes what the oracle calls `publish`.
    pub fn publish(scene: &mut Scene<'_>, shard: usize, publish: usize, id: Option<&str>) -> Call {
        scene.oracle.attempt(publish);
        scene.report.publishes += 1;
        let channel = scene.oracle.publishes[publish].channel().to_owned();
        let tags = &scene.oracle.publishes[publish].tags;
        let messages: Vec<Value> = tags
            .iter()
            .enumerate()
            .map(|(index, tag)| match id {
                Some(id) => json!({"data": tag, "id": format!("{id}:{index}")}),
                None => json!({"data": tag}),
            })
            .collect();
        let path = format!("/channels/{channel}/messages");
        Call::send(scene, shard, Asked::Publish(publish), &path, Some(&json!(messages)))
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

    /// Gives up; whoever had asked does not learn what has become of it.
    pub fn lose(&self, scene: &mut Scene<'_>) {
        scene.host.cut(self.socket);
        scene.report.drops += 1;
        if let Asked::Publish(publish) = self.asked {
            scene.oracle.give_up(publish);
        }
    }

    /// The status and the body of the answer, once it is all there.
    pub fn poll(&mut self, scene: &mut Scene<'_>) -> Option<(u16, Value)> {
        let client = &scene.host.clients[self.socket];
        let answer = parse(&client.received);
        if answer.is_none() && !client.is_open() {
            if let Asked::Publish(publish) = self.asked {
                scene.oracle.give_up(publish);
            }
            return Some((0, Value::Null));
        }
        let (status, body) = answer?;
        let text = format!("{status} {body}");
        scene.report.hash(text.as_bytes());
        scene.report.trace(|| format!("REST {:?}: {text}", self.asked));
        scene.host.hang_up(self.socket);
        if let Asked::Publish(publish) = self.asked {
            let outcome = match status {
                201 => {
                    let serials = body["serials"].as_array().into_iter().flatten();
                    Ok(serials.filter_map(|serial| serial.as_str().map(str::to_owned)).collect())
                }
                _ => Err(body["error"]["code"].as_u64().unwrap_or_default()),
            };
            scene.report.refused += u64::from(outcome.is_err());
            scene.oracle.told(publish, outcome, None);
        }
        Some((status, body))
    }
}

/// Publications of a history, in its order.
pub fn publications(history: &Value) -> Vec<(String, Event)> {
    let mut publications: Vec<(String, Event)> = Vec::new();
    for message in history.as_array().into_iter().flatten() {
        let serial = channel_serial(message["serial"].as_str().unwrap_or_default());
        let data = message["data"].as_str().unwrap_or_default();
        let tag = data.split(' ').next().unwrap_or_default().to_owned();
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

fn parse(received: &[u8]) -> Option<(u16, Value)> {
    let end = received.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&received[..end]).ok()?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "))?;
    let body = received.get(end + 4..end + 4 + length.parse::<usize>().ok()?)?;
    Some((status, serde_json::from_slice(body).unwrap_or_default()))
}
