//! What an operator can do with the spool: see what waits, see what was given up, have it sent again.

use std::io::{self, Write};
use std::path::Path;
use std::time::SystemTime;

use data_encoding::BASE64;
use serde_json::{Value, json};

use super::courier::Reason;
use super::spool::{self, Spool, Stored};

/// Writes the events that wait, one JSON object a line, oldest first.
///
/// # Errors
/// The spool cannot be read, or `out` takes nothing.
pub fn list(directory: &Path, out: &mut impl Write) -> io::Result<()> {
    for event in spool::waiting(directory)?.into_values() {
        writeln!(out, "{}", show(&event))?;
    }
    Ok(())
}

/// Writes the dead letters in the same way, with when and why they were given up.
///
/// # Errors
/// As [`list`].
pub fn dead(directory: &Path, out: &mut impl Write) -> io::Result<()> {
    for letter in spool::dead_letters(directory)? {
        let mut shown = show(&letter.event);
        shown["givenUpAt"] = letter.given_up_ms.into();
        shown["reason"] = match letter.reason {
            Some(Reason::Refused) => "refused by the endpoint",
            Some(Reason::Expired) => "too old",
            Some(Reason::Dropped) => "no room",
            None => "the rule is gone",
        }
        .into();
        writeln!(out, "{shown}")?;
    }
    Ok(())
}

/// Has the dead letters wait again; a daemon that is started then sends them. Returns how many.
///
/// # Errors
/// The spool cannot be read or written, or a daemon has it open.
pub fn replay(directory: &Path) -> io::Result<usize> {
    let (mut spool, found) = Spool::open(directory, u64::MAX)?;
    let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let now_ms = unix.as_millis() as u64;
    let after_all = found.events.keys().next_back().map_or(0, |last| last + 1);
    spool.revive(after_all.max(super::first_id(now_ms)), now_ms)
}

fn show(event: &Stored) -> Value {
    let mut shown = json!({
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
        assert_eq!((&show(&event)["body"], &show(&event)["rule"]), (&json!("{}"), &json!("r")));
        event.body = Bytes::from_static(b"\xff");
        assert_eq!(show(&event)["bodyBase64"], "/w==");
    }
}
