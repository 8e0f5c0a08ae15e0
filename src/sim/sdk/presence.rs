//! A client as a member of its channels.

use serde_json::{Value, json};

use super::channel::Stand;
use super::publish::Pending;
use super::{Link, Scene, Sdk};
use crate::sim::credentials::permits;

/// A client's own membership of a channel.
#[derive(Debug)]
pub struct Entered {
    data: String,
    /// The msgSerial of an ENTER that was not acknowledged.
    pub(super) pending: Option<u64>,
    /// Whether one was.
    was_acked: bool,
    /// One was refused behind one that was not: the daemon may have it or not.
    pub is_uncertain: bool,
}

impl Sdk {
    pub(super) fn linger(&mut self, base: String) {
        let own = self.channels.values().filter(|channel| channel.base == base).count();
        if let Some(id) = self.connection_id.clone().filter(|_| own > 1) {
            self.lingers.insert((base, id), self.msg_serial);
        }
    }

    /// Enters a channel that it is attached to, or changes what it is there.
    pub fn enter(&mut self, scene: &mut Scene<'_>, name: &str) {
        let msg_serial = self.msg_serial;
        let Some(channel) = self.channels.get_mut(name) else { return };
        let can = permits(self.grant, &channel.base, "presence") && self.client_id.is_some();
        // Under a name of its own, so that one LEAVE is the end of it.
        let is_plain = *channel.base == *name;
        if self.link == Link::Up && channel.stand == Stand::Attached && can && is_plain {
            let data = format!("{} {msg_serial}", self.number);
            let before = channel.entered.take();
            channel.entered = Some(Entered {
                data: data.clone(),
                pending: Some(msg_serial),
                was_acked: before.is_some_and(|before| before.was_acked || before.is_uncertain),
                is_uncertain: false,
            });
            let presence = json!([{"action": 2, "data": data}]);
            let frame = json!({"action": 14, "channel": name, "presence": presence});
            self.submit(scene, None, frame);
        }
    }

    /// Leaves a channel.
    pub fn leave(&mut self, scene: &mut Scene<'_>, name: &str) {
        let Some(channel) = self.channels.get_mut(name) else { return };
        if self.link == Link::Up && channel.entered.take().is_some() {
            let presence = json!([{"action": 3}]);
            let frame = json!({"action": 14, "channel": name, "presence": presence});
            self.submit(scene, None, frame);
        }
    }

    /// Asks who is present.
    pub fn sync(&mut self, scene: &mut Scene<'_>, name: &str) {
        let can = self.channels.get(name).is_some_and(|channel| {
            channel.stand == Stand::Attached && channel.modes & (1 << 19) != 0
        });
        if self.link == Link::Up && can {
            self.send(scene, &json!({"action": 16, "channel": name}));
        }
    }

    /// RTP17: members enter again on each ATTACHED, under their ids where the connection is the same.
    pub(super) fn enter_again(&mut self, scene: &mut Scene<'_>, name: &str) {
        let msg_serial = self.msg_serial;
        let channel = self.channels.get_mut(name).expect("known to the caller");
        let Some(entered) = &mut channel.entered else { return };
        // What is sent again is acknowledged as what it was, which may have lapsed since.
        entered.is_uncertain |= entered.pending.is_some();
        if entered.pending.is_none() {
            entered.pending = Some(msg_serial);
            let presence = json!([{"action": 2, "data": entered.data}]);
            let frame = json!({"action": 14, "channel": name, "presence": presence});
            self.submit(scene, None, frame);
        }
    }

    pub(super) fn take_presence(&mut self, scene: &mut Scene<'_>, name: &str, message: &Value) {
        let channel = self.channels.get_mut(name).expect("known to the caller");
        let own = self.connection_id.as_deref();
        let is_own = |member: &Value| member["connectionId"].as_str() == own;
        let members = message["presence"].as_array();
        let is_own = members.is_some_and(|members| members.iter().all(is_own));
        let may = |grant| permits(grant, &channel.base, "subscribe");
        if !may(self.grant) && !self.next_grant.is_some_and(may) && !is_own {
            let text = format!("client {} may not know who is present: {message}", self.number);
            scene.oracle.find("authorisation", text);
        }
        channel.members.take(message);
        scene.report.deliveries += 1;
    }

    /// Whether the presence that it has sent was accepted.
    pub(super) fn told_of_presence(&mut self, pending: &Pending, is_ok: bool) {
        let name = pending.frame["channel"].as_str().unwrap_or_default();
        let is_leave = pending.frame["presence"][0]["action"] == 3;
        if let Some(id) = self.connection_id.clone().filter(|_| is_leave) {
            let member = (name.to_owned(), id);
            let until = self.lingers.get(&member).copied().unwrap_or_default();
            match is_ok {
                // It may have entered again behind this LEAVE.
                true if until > pending.msg_serial => None,
                true => self.lingers.remove(&member),
                false => self.lingers.insert(member, until.max(pending.msg_serial + 1)),
            };
        }
        if let Some(channel) = self.channels.get_mut(name)
            && let Some(entered) = &mut channel.entered
        {
            let is_last = entered.pending == Some(pending.msg_serial);
            entered.pending = entered.pending.filter(|_| !is_last);
            match is_ok {
                true if is_leave => {}
                true => entered.was_acked = true,
                false if entered.was_acked => entered.is_uncertain = true,
                false if is_last => channel.entered = None,
                false => {}
            }
        }
    }
}
