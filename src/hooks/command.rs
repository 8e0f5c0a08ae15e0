//! What an operator can do with the spool: see what waits, see what was given up, have it sent again.

use std::io;
use std::path::Path;
use std::time::SystemTime;

use data_encoding::BASE64;
use serde_json::{Value, json};

use super::courier::Reason;
use super::spool::{self, DeadLetter, Spool, Stored};

/// Which dead letters.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// The one with this id.
    pub id: Option<u64>,
    /// Those of this rule.
    pub rule: Option<String>,
}

impl Selection {
    pub(super) fn has(&self, letter: &DeadLetter) -> bool {
        self.id.is_none_or(|id| letter.id == id)
            && self.rule.as_ref().is_none_or(|rule| **rule == *letter.event.rule_id)
    }
}

/// The events that wait, oldest first.
///
/// # Errors
/// The spool cannot be read.
pub fn waiting(directory: &Path) -> io::Result<Vec<Value>> {
    Ok(spool::waiting(directory)?.iter().map(|(id, event)| show(*id, event)).collect())
}

/// The dead letters, with when and why they were given up.
///
/// # Errors
/// As [`waiting`].
pub fn dead(directory: &Path) -> io::Result<Vec<Value>> {
    Ok(spool::dead_letters(directory)?.iter().map(show_dead).collect())
}

/// Has dead letters wait again; a daemon that is started then sends them. Returns how many.
///
/// # Errors
/// The spool cannot be read or written, or a daemon has it open.
pub fn replay(directory: &Path, selection: &Selection) -> io::Result<usize> {
    let (mut spool, found) = Spool::open(directory, u64::MAX)?;
    let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let now_ms = unix.as_millis() as u64;
    let after_all = found.events.keys().next_back().map_or(0, |last| last + 1);
    let next_id = after_all.max(super::first_id(now_ms));
    Ok(spool.revive(next_id, now_ms, |letter| selection.has(letter))?.len())
}

pub(super) fn show_dead(letter: &DeadLetter) -> Value {
    let mut shown = show(letter.id, &letter.event);
    shown["givenUpAt"] = letter.given_up_ms.into();
    shown["reason"] = match letter.reason {
        Some(Reason::Refused) => "refused by the endpoint",
        Some(Reason::Expired) => "too old",
        Some(Reason::Dropped) => "no room",
        None => "the rule is gone",
    }
    .into();
    shown
}

pub(super) fn show(id: u64, event: &Stored) -> Value {
    let mut shown = json!({
        "id": id,
        "rule": event.rule_id,
        "channel": event.channel,
        "timestamp": event.timestamp_ms,
        "contentType": event.content_type.name(),
    });
    match std::str::from_utf8(&event.body) {
        Ok(text) => shown["body"] = text.into(),
        Err(_) => shown["bodyBase64"] = BASE64.encode(&event.body).into(),
    }
    shown
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::ably::ContentType;

    #[test]
    fn a_body_is_shown_as_text_or_as_base64() {
        let mut event = Stored {
            rule_id: "r".into(),
            channel: "room".into(),
            timestamp_ms: 7,
            shape: None,
            content_type: ContentType::Json,
            body: Bytes::from_static(b"{}"),
            headers: Vec::new(),
        };
        let shown = show(3, &event);
        assert_eq!((&shown["body"], &shown["rule"]), (&json!("{}"), &json!("r")));
        assert_eq!(shown["id"], 3);
        event.body = Bytes::from_static(b"\xff");
        assert_eq!(show(3, &event)["bodyBase64"], "/w==");
    }
}
