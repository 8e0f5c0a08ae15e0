//! What a client publishes, and what it is told of that.

use serde_json::{Value, json};

use super::{Link, Scene, Sdk};
use crate::sim::credentials::{MUTABLE, permits};
use crate::sim::oracle::{Action, Change, Oracle, Publish};
use crate::sim::payload::{self, Kind};

#[derive(Debug)]
pub(super) struct Pending {
    pub(super) msg_serial: u64,
    /// The number of the publish; none: presence.
    pub(super) publish: Option<usize>,
    /// The connection that has sent it.
    sent_by: Option<String>,
    pub(super) frame: Value,
}

/// The message that a change is of, and what is sent of it.
pub fn change_body(oracle: &Oracle, publish: usize) -> (String, Value) {
    let Publish { tags, change, .. } = &oracle.publishes[publish];
    let Change { action, target } = change.as_ref().expect("a change");
    let mut message = match action {
        Action::Update => Kind::Text.message(&tags[0], 5),
        Action::Append => json!({"data": payload::increment(&tags[0])}),
        Action::Delete => json!({}),
    };
    message["action"] = action.number().into();
    message["version"] = json!({"description": tags[0]});
    (target.clone(), message)
}

impl Sdk {
    /// Publishes what the oracle calls `publish`.
    pub fn publish(&mut self, scene: &mut Scene<'_>, name: &str, publish: usize, id: Option<&str>) {
        let padding = *scene.host.random.one_of(&[0, 0, 10, 200, 2000]);
        let Publish { tags, kind, is_ephemeral, .. } = &scene.oracle.publishes[publish];
        // A param says it of all messages at once.
        let by_param = *is_ephemeral && scene.repertoire.random.chance(2);
        let message = |(index, tag): (usize, &String)| {
            let mut message = kind.message(tag, padding);
            if *is_ephemeral && !by_param {
                payload::make_ephemeral(&mut message);
            }
            if let Some(id) = id {
                message["id"] = match tags.len() {
                    1 => id.into(),
                    _ => format!("{id}:{index}").into(),
                };
            }
            message
        };
        let messages: Vec<Value> = tags.iter().enumerate().map(message).collect();
        let mut frame = json!({"action": 15, "channel": name, "messages": messages});
        if by_param {
            frame["params"] = json!({"ephemeral": "true"});
        }
        self.submit(scene, Some(publish), frame);
        scene.report.publishes += 1;
    }

    /// Changes a message, as the oracle has noted it.
    pub fn change(&mut self, scene: &mut Scene<'_>, publish: usize) {
        let (target, mut message) = change_body(scene.oracle, publish);
        message["serial"] = target.into();
        let frame = json!({"action": 15, "channel": MUTABLE, "messages": [message]});
        self.submit(scene, Some(publish), frame);
        scene.report.publishes += 1;
    }

    /// Whether it may publish that, if it is certain.
    fn may_publish(&self, scene: &Scene<'_>, publish: usize) -> Option<bool> {
        let Publish { change, .. } = &scene.oracle.publishes[publish];
        let channel = scene.oracle.publishes[publish].channel();
        let Some(change) = change else {
            let is_anonymous = self.client_id.is_none() && channel.starts_with("vip:");
            return (!is_anonymous).then(|| permits(self.grant, channel, "publish"));
        };
        let [any, own] = change.action.operations();
        if permits(self.grant, channel, any) {
            return Some(true);
        }
        if !permits(self.grant, channel, own) || self.client_id.is_none() {
            return Some(false);
        }
        let author = scene.oracle.author_of(&change.target)?;
        Some(author == self.client_id)
    }

    pub(super) fn submit(
        &mut self,
        scene: &mut Scene<'_>,
        publish: Option<usize>,
        mut frame: Value,
    ) {
        let msg_serial = self.msg_serial;
        self.msg_serial += 1;
        frame["msgSerial"] = msg_serial.into();
        let mut pending = Pending { msg_serial, publish, sent_by: None, frame };
        if self.link == Link::Up {
            self.send_pending(scene, &mut pending);
        }
        self.pending.push_back(pending);
    }

    pub(super) fn send_pending(&self, scene: &mut Scene<'_>, pending: &mut Pending) {
        self.send(scene, &pending.frame);
        if pending.sent_by != self.connection_id {
            pending.sent_by.clone_from(&self.connection_id);
            if let Some(publish) = pending.publish {
                scene.oracle.attempt(publish, self.client_id);
            }
        }
    }

    pub(super) fn take_ack(&mut self, scene: &mut Scene<'_>, message: &Value) {
        let first = message["msgSerial"].as_u64();
        let count = message["count"].as_u64().unwrap_or_default();
        let (Some(first), 1..) = (first, count) else {
            return scene.oracle.find("ack", format!("no count, no serial: {message}"));
        };
        for index in 0..count {
            let Some(pending) =
                self.pending.pop_front_if(|known| known.msg_serial == first + index)
            else {
                let waits = self.pending.front().map(|pending| pending.msg_serial);
                let text = format!("client {} waits for {waits:?}: {message}", self.number);
                return scene.oracle.find("ack", text);
            };
            let outcome = match message["action"].as_u64() {
                Some(1) => {
                    let serials = &message["res"][index as usize]["serials"];
                    let serials = serials.as_array().into_iter().flatten();
                    Ok(serials.filter_map(|serial| serial.as_str().map(str::to_owned)).collect())
                }
                _ => Err(message["error"]["code"].as_u64().unwrap_or_default()),
            };
            scene.report.refused += u64::from(outcome.is_err());
            match pending.publish {
                Some(publish) => self.told_of_publish(scene, publish, outcome, message),
                None => self.told_of_presence(&pending, outcome.is_ok()),
            }
        }
    }

    fn told_of_publish(
        &self,
        scene: &mut Scene<'_>,
        publish: usize,
        outcome: Result<Vec<String>, u64>,
        message: &Value,
    ) {
        // Whoever has tokens may have had another one meanwhile.
        if !self.by_token
            && self.next_grant.is_none()
            && let Some(can) = self.may_publish(scene, publish)
        {
            let is_denied = matches!(outcome, Err(40160..=40169));
            // What is not permitted may fail for another reason before that is known.
            if can && is_denied || !can && outcome.is_ok() {
                let may = if can { "may" } else { "may not" };
                let text = format!("client {} {may} publish: {message}", self.number);
                scene.oracle.find("authorisation", text);
            }
        }
        if outcome.is_ok() && self.is_revoked_for(scene, publish) {
            let text = format!("client {} publishes with a revoked token: {message}", self.number);
            scene.oracle.find("revoked", text);
        }
        scene.oracle.told(publish, outcome, self.connection_id.as_deref());
    }
}
