//! What comes over a stream of events, taken apart: the head of a response, chunks, events.

use serde_json::Value;

/// One thing that comes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Item {
    /// The head of a response that is a stream.
    Head,
    /// The code of a response that is no stream.
    Refusal(u64),
    /// All messages of one publication, and its id.
    Messages(Vec<Value>, Option<String>),
    /// Members, and the id of that.
    Presence(Option<String>),
    /// Where the stream is.
    Position(String),
    /// What is wrong.
    Error(u64),
    /// A sign of life.
    Silence,
    /// The stream is over.
    End,
}

/// One event as it is written.
#[derive(Default)]
struct Written {
    id: Option<String>,
    event: Option<String>,
    data: Option<String>,
}

/// See the module text.
#[derive(Debug, Default)]
pub(super) struct Reader {
    has_lines: bool,
    status: Option<u16>,
    bytes: Vec<u8>,
}

impl Reader {
    /// A reader of a stream whose events are lines of JSON, if it `has_lines`.
    pub fn new(has_lines: bool) -> Reader {
        Reader { has_lines, ..Reader::default() }
    }

    /// What is complete with these bytes.
    ///
    /// # Errors
    /// It is not what a client would understand.
    pub fn read(&mut self, bytes: &[u8]) -> Result<Vec<Item>, String> {
        self.bytes.extend_from_slice(bytes);
        let mut items = Vec::new();
        if self.status.is_none() {
            let Some(end) = self.bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
                return Ok(items);
            };
            let head = String::from_utf8_lossy(&self.bytes[..end]).into_owned();
            let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
            let status: u16 = status.ok_or_else(|| format!("no status: {head}"))?;
            if status != 200 {
                let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
                let length: usize = length.and_then(|it| it.parse().ok()).unwrap_or_default();
                let Some(body) = self.bytes.get(end + 4..end + 4 + length) else {
                    return Ok(items);
                };
                let body: Value = serde_json::from_slice(body).map_err(|it| it.to_string())?;
                items.push(Item::Refusal(body["error"]["code"].as_u64().unwrap_or_default()));
            } else {
                items.push(Item::Head);
            }
            self.status = Some(status);
            self.bytes.drain(..end + 4);
        }
        while self.status == Some(200)
            && let Some(chunk) = self.next_chunk()?
        {
            match chunk.is_empty() {
                true => items.push(Item::End),
                false => self.read_chunk(&chunk, &mut items)?,
            }
        }
        Ok(items)
    }

    fn next_chunk(&mut self) -> Result<Option<String>, String> {
        let Some(end) = self.bytes.windows(2).position(|two| two == b"\r\n") else {
            return Ok(None);
        };
        let size = std::str::from_utf8(&self.bytes[..end]).ok();
        let size = size.and_then(|size| usize::from_str_radix(size, 16).ok());
        let size = size.ok_or_else(|| {
            format!("no size of a chunk: {}", String::from_utf8_lossy(&self.bytes[..end]))
        })?;
        let first = end + 2;
        let Some(chunk) = self.bytes.get(first..first + size + 2) else { return Ok(None) };
        let Some(chunk) = chunk.strip_suffix(b"\r\n") else {
            return Err("a chunk that does not end where it should".into());
        };
        let chunk = String::from_utf8(chunk.to_vec()).map_err(|error| error.to_string())?;
        self.bytes.drain(..first + size + 2);
        Ok(Some(chunk))
    }

    /// Events of one chunk, which has all of a publication.
    fn read_chunk(&self, chunk: &str, items: &mut Vec<Item>) -> Result<(), String> {
        let separator = if self.has_lines { "\n" } else { "\n\n" };
        let mut messages = Vec::new();
        let Some(events) = chunk.strip_suffix(separator) else {
            return Err(format!("an event that does not end: {chunk}"));
        };
        for text in events.split(separator) {
            let Written { id, event, data } = match self.has_lines {
                true if text.is_empty() => Written::default(),
                true => of_line(text)?,
                false => of_fields(text)?,
            };
            let data = data.map(|data| serde_json::from_str(&data).map_err(|it| it.to_string()));
            let data: Value = data.transpose()?.unwrap_or_default();
            let is_last = id.is_some();
            match (event.as_deref(), id) {
                (None, None) => items.push(Item::Silence),
                (None, Some(id)) => items.push(Item::Position(id)),
                (Some("message"), id) => {
                    messages.push(data);
                    if is_last {
                        items.push(Item::Messages(std::mem::take(&mut messages), id));
                    }
                }
                (Some("presence"), id) => items.push(Item::Presence(id)),
                (Some("error"), None) => {
                    items.push(Item::Error(data["code"].as_u64().unwrap_or_default()));
                }
                (Some(event), id) => return Err(format!("an event {event} with id {id:?}")),
            }
        }
        if !messages.is_empty() {
            items.push(Item::Messages(messages, None));
        }
        Ok(())
    }
}

fn of_line(text: &str) -> Result<Written, String> {
    let line: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let text = |name: &str| line[name].as_str().map(str::to_owned);
    let data = (!line["data"].is_null()).then(|| line["data"].to_string());
    Ok(Written { id: text("id"), event: text("event"), data })
}

fn of_fields(text: &str) -> Result<Written, String> {
    let mut written = Written::default();
    for line in text.split('\n').filter(|line| !line.starts_with(':')) {
        let (name, value) = line.split_once(": ").ok_or_else(|| format!("no field: {line}"))?;
        let field = match name {
            "id" => &mut written.id,
            "event" => &mut written.event,
            "data" => &mut written.data,
            _ => return Err(format!("an unknown field: {line}")),
        };
        *field = match field.take() {
            Some(before) => Some(format!("{before}\n{value}")),
            None => Some(value.to_owned()),
        };
    }
    Ok(written)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn events_are_the_same_in_both_framings_and_however_they_are_split() {
        let chunk = |text: &str| format!("{:x}\r\n{text}\r\n", text.len());
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        let fields = [
            "id: 7\n\n",
            "event: message\ndata: {\"a\":1}\n\nid: 8\nevent: message\ndata: {\"a\":2}\n\n",
            ":keepalive\n\n",
            "event: error\ndata: {\"code\":40142}\n\n",
            "",
        ];
        let lines = [
            "{\"id\":\"7\"}\n",
            "{\"event\":\"message\",\"data\":{\"a\":1}}\n{\"id\":\"8\",\"event\":\"message\",\"data\":{\"a\":2}}\n",
            "\n",
            "{\"event\":\"error\",\"data\":{\"code\":40142}}\n",
            "",
        ];
        for (has_lines, chunks) in [(false, fields), (true, lines)] {
            let stream: String = chunks.into_iter().map(chunk).collect();
            let stream = format!("{head}{stream}");
            let mut reader = Reader::new(has_lines);
            let items: Vec<Item> =
                stream.as_bytes().iter().flat_map(|byte| reader.read(&[*byte]).unwrap()).collect();
            let messages = vec![json!({"a": 1}), json!({"a": 2})];
            assert_eq!(
                items,
                [
                    Item::Head,
                    Item::Position("7".into()),
                    Item::Messages(messages, Some("8".into())),
                    Item::Silence,
                    Item::Error(40142),
                    Item::End,
                ]
            );
        }
    }
}
