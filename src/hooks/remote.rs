//! The daemon's control socket, for commands: one request, one connection. As HTTP/1.0, an answer ends with
//! its connection, also one that is a stream.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::Context;
use serde_json::Value;

/// Bytes of an answer.
const ANSWER_BYTES_MAX: u64 = 256 << 20;

/// Asks for something, or has it done.
///
/// # Errors
/// The daemon cannot be reached, or refuses.
pub fn ask(socket: &Path, method: &str, target: &str) -> anyhow::Result<Value> {
    let mut body = Vec::new();
    open(socket, method, target)?.take(ANSWER_BYTES_MAX).read_to_end(&mut body)?;
    serde_json::from_slice(&body).context("the daemon's answer is no JSON")
}

/// Has `on_event` called with each event of a stream, until the daemon ends it.
///
/// # Errors
/// As [`ask`], and those of `on_event`.
pub fn follow(
    socket: &Path,
    target: &str,
    mut on_event: impl FnMut(Value) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    for line in open(socket, "GET", target)?.lines() {
        if let Some(data) = line?.strip_prefix("data: ") {
            on_event(serde_json::from_str(data).context("an event is no JSON")?)?;
        }
    }
    anyhow::bail!("the daemon has ended the stream")
}

/// The content of an answer, once it is known to be one.
fn open(socket: &Path, method: &str, target: &str) -> anyhow::Result<BufReader<UnixStream>> {
    let mut stream = UnixStream::connect(socket).with_context(|| {
        let path = socket.display();
        format!("no daemon can be reached through {path}; say --socket PATH or --config FILE")
    })?;
    let request =
        format!("{method} {target} HTTP/1.0\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let status: u16 = line.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    while line != "\r\n" {
        line.clear();
        anyhow::ensure!(reader.read_line(&mut line)? > 0, "the daemon's answer is cut short");
    }
    if (200..300).contains(&status) {
        return Ok(reader);
    }
    let mut body = Vec::new();
    reader.take(ANSWER_BYTES_MAX).read_to_end(&mut body)?;
    let said: Value = serde_json::from_slice(&body).unwrap_or_default();
    match said["message"].as_str() {
        Some(message) => anyhow::bail!("{message}"),
        None => anyhow::bail!("the daemon answers {status}"),
    }
}

/// A path with a query; a value that is not there is left out.
pub fn target(path: &str, query: &[(&str, Option<&str>)]) -> String {
    let given = query.iter().filter_map(|(name, value)| Some((name, (*value)?)));
    let query: Vec<String> =
        given.map(|(name, value)| format!("{name}={}", escape(value))).collect();
    if query.is_empty() { path.to_owned() } else { format!("{path}?{}", query.join("&")) }
}

/// For one segment of a path, or a value of a query.
pub fn escape(text: &str) -> String {
    let escaped = text.bytes().map(|byte| match byte {
        b if b.is_ascii_alphanumeric() || b"-_.~".contains(&b) => char::from(b).to_string(),
        b => format!("%{b:02X}"),
    });
    escaped.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_is_escaped() {
        let query = [("rule", Some("a b&c")), ("id", None), ("limit", Some("5"))];
        assert_eq!(target("/hooks/dead", &query), "/hooks/dead?rule=a%20b%26c&limit=5");
        assert_eq!(target("/hooks/rules", &[]), "/hooks/rules");
    }
}
