//! What an SDK keeps of the members of a channel (RTP2, RTP18, RTP19).

use std::collections::BTreeMap;

use serde_json::Value;

/// Who a member is: connectionId and clientId.
pub type MemberKey = (String, String);

/// ATTACHED says with this flag that a SYNC follows.
const HAS_PRESENCE: u64 = 1;

/// The members of one channel, as its client knows them.
#[derive(Debug, Default)]
pub struct Members {
    /// Those who are present.
    pub present: BTreeMap<MemberKey, Value>,
    /// Members that the SYNC under way has not told of; `None`: there is none under way.
    pub residual: Option<Vec<MemberKey>>,
}

impl Members {
    /// Takes in one protocol message of the channel.
    pub fn take(&mut self, message: &Value) {
        let action = message["action"].as_u64();
        match action {
            Some(11) if message["flags"].as_u64().unwrap_or_default() & HAS_PRESENCE == 0 => {
                *self = Members::default();
            }
            Some(11 | 16) if self.residual.is_none() => {
                self.residual = Some(self.present.keys().cloned().collect());
            }
            Some(_) | None => {}
        }
        for member in message["presence"].as_array().into_iter().flatten() {
            self.apply(member);
        }
        let cursor = message["channelSerial"].as_str().unwrap_or_default();
        if action == Some(16) && cursor.ends_with(':') {
            for gone in self.residual.take().unwrap_or_default() {
                self.present.remove(&gone);
            }
        }
    }

    fn apply(&mut self, member: &Value) {
        let text = |name: &str| member[name].as_str().expect("a string").to_owned();
        let key = (text("connectionId"), text("clientId"));
        if let Some(residual) = &mut self.residual {
            residual.retain(|known| *known != key);
        }
        let place = |value: &Value| -> Option<(u64, u64)> {
            let id = value["id"].as_str()?.strip_prefix(&key.0)?;
            let (serial, index) = id.strip_prefix(':')?.split_once(':')?;
            Some((serial.parse().ok()?, index.parse().ok()?))
        };
        if let Some(known) = self.present.get(&key) {
            let is_newer = match (place(known), place(member)) {
                (Some(known), Some(new)) => new > known,
                _ => member["timestamp"].as_u64() >= known["timestamp"].as_u64(),
            };
            if !is_newer {
                return;
            }
        }
        if member["action"] == 3 {
            self.present.remove(&key);
        } else {
            let mut member = member.clone();
            member["action"] = 1.into();
            self.present.insert(key, member);
        }
    }
}
