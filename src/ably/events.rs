//! Server-sent events and lines of JSON: what those are sent who listen over HTTP (14).

use std::borrow::Cow;

use data_encoding::BASE64;

use super::message::write_event;
use super::presence::write_presence_event;
use super::writer::{MapWriter, write_map};
use super::{Data, ErrorInfo, Format, PresenceEvents, Publication};

/// How events are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventFraming {
    /// `text/event-stream`, as EventSource reads it.
    ServerSent,
    /// One JSON object a line: `{"id","event","data"}`.
    Lines,
}

/// How a stream of events is written; all streams of one shape share their events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EventShape {
    /// How events are told apart.
    pub framing: EventFraming,
    /// Whether an event is the whole message, or only its data.
    pub is_enveloped: bool,
    /// Whether each publication tells where to go on behind it: its channelSerial. A stream of several
    /// channels has no one serial; it is told its position apart from the events.
    pub has_ids: bool,
}

impl EventShape {
    /// The media type of the stream.
    pub fn content_type(self) -> &'static str {
        match self.framing {
            EventFraming::ServerSent => "text/event-stream",
            EventFraming::Lines => "application/x-ndjson",
        }
    }

    /// Appends the messages of `publication`, or `part` of them by index, as events of `channel`.
    pub fn write_messages(
        self,
        channel: &str,
        publication: &Publication,
        part: Option<&[usize]>,
        out: &mut Vec<u8>,
    ) {
        let all: Vec<usize>;
        let indices = match part {
            Some(part) => part,
            None => {
                all = (0..publication.messages.len()).collect();
                &all
            }
        };
        let serial = publication.channel_serial.to_string();
        let events = indices.iter().map(|&index| {
            let message = &publication.messages[index];
            match self.is_enveloped {
                true => json_text(|map| write_event(map, channel, publication, index)),
                false => bare(&message.data),
            }
        });
        self.write_events("message", &serial, events, out);
    }

    /// Appends presence events of `channel`.
    pub fn write_presence(self, channel: &str, events: &PresenceEvents, out: &mut Vec<u8>) {
        let serial = events.channel_serial.to_string();
        let events = events.messages.iter().map(|message| match self.is_enveloped {
            true => json_text(|map| write_presence_event(map, channel, message)),
            false => bare(&message.data),
        });
        self.write_events("presence", &serial, events, out);
    }

    /// Appends events whose data these are. Whoever goes on behind `serial` has had all of them, so it
    /// is the id of the last one.
    fn write_events<'a>(
        self,
        event: &str,
        serial: &str,
        data: impl ExactSizeIterator<Item = Cow<'a, str>>,
        out: &mut Vec<u8>,
    ) {
        let count = data.len();
        for (index, data) in data.enumerate() {
            let id = (self.has_ids && index + 1 == count).then_some(serial);
            self.write(id, Some(event), Some((&data, self.is_enveloped)), out);
        }
    }

    /// Appends the position that everything written so far has led to.
    pub fn write_position(self, id: &str, out: &mut Vec<u8>) {
        self.write(Some(id), None, None, out);
    }

    /// Appends an error.
    pub fn write_error(self, error: &ErrorInfo, out: &mut Vec<u8>) {
        let text = json_text(|map| error.write(map));
        self.write(None, Some("error"), Some((&text, true)), out);
    }

    /// Appends a sign of life, as an event if the client wants to see it.
    pub fn write_keepalive(self, is_event: bool, out: &mut Vec<u8>) {
        match (is_event, self.framing) {
            (true, _) => self.write(None, Some("heartbeat"), Some(("", false)), out),
            (false, EventFraming::ServerSent) => out.extend_from_slice(b":keepalive\n\n"),
            (false, EventFraming::Lines) => out.push(b'\n'),
        }
    }

    /// Appends one event; its data is text, or the text of JSON.
    fn write(
        self,
        id: Option<&str>,
        event: Option<&str>,
        data: Option<(&str, bool)>,
        out: &mut Vec<u8>,
    ) {
        match self.framing {
            EventFraming::ServerSent => {
                let mut field = |name: &str, value: &str| {
                    for part in [name, ": ", value, "\n"] {
                        out.extend_from_slice(part.as_bytes());
                    }
                };
                if let Some(id) = id {
                    field("id", id);
                }
                if let Some(event) = event {
                    field("event", event);
                }
                if let Some((data, _)) = data {
                    let unified = match data.contains('\r') {
                        true => data.replace("\r\n", "\n").replace('\r', "\n").into(),
                        false => Cow::Borrowed(data),
                    };
                    unified.split('\n').for_each(|line| field("data", line));
                }
            }
            EventFraming::Lines => write_map(Format::Json, out, |map| {
                map.opt_str("id", id);
                map.opt_str("event", event);
                match data {
                    None => {}
                    Some((text, true)) => map.json("data", text),
                    Some((text, false)) => map.str("data", text),
                }
            }),
        }
        out.push(b'\n');
    }
}

/// The JSON text of an object.
fn json_text(fill: impl FnOnce(&mut MapWriter<'_>)) -> Cow<'static, str> {
    let mut text = Vec::new();
    write_map(Format::Json, &mut text, fill);
    Cow::Owned(String::from_utf8(text).expect("JSON text is written from strings"))
}

/// Data without its message: text as it is, bytes in base64.
fn bare(data: &Data) -> Cow<'_, str> {
    match data {
        Data::None => "".into(),
        Data::Text(text) | Data::Scalar(text) => Cow::Borrowed(text),
        Data::Binary(bytes) => BASE64.encode(bytes).into(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::ably::{ErrorCode, Message, SerialClock, SeriesId};

    fn publication(data: &[Data]) -> Publication {
        let serial = SerialClock::new(SeriesId::new([7; 10])).next(1_700_000_000_123);
        let message = |(index, data): (usize, &Data)| Message {
            id: Some(format!("id:{index}").into()),
            name: Some("n".into()),
            data: data.clone(),
            ..Message::default()
        };
        Publication {
            channel_serial: serial,
            id: "id".into(),
            connection_id: None,
            timestamp_ms: 1_700_000_000_123,
            messages: data.iter().enumerate().map(message).collect(),
        }
    }

    fn shape(framing: EventFraming, is_enveloped: bool) -> EventShape {
        EventShape { framing, is_enveloped, has_ids: true }
    }

    fn written(shape: EventShape, data: &[Data], part: Option<&[usize]>) -> String {
        let mut out = Vec::new();
        shape.write_messages("room", &publication(data), part, &mut out);
        String::from_utf8(out).expect("UTF-8")
    }

    fn text(text: &str) -> Data {
        Data::Text(text.into())
    }

    #[test]
    fn an_enveloped_event_is_the_whole_message_with_its_channel() {
        let shape = shape(EventFraming::ServerSent, true);
        let event = written(shape, &[text("one\ntwo")], None);
        let lines: Vec<&str> = event.lines().collect();
        assert!(lines[0].starts_with("id: 01700000000123-000@"), "{event}");
        assert_eq!(lines[1], "event: message");
        let data: Value = serde_json::from_str(&lines[2]["data: ".len()..]).expect("JSON");
        assert_eq!((&data["channel"], &data["data"]), (&json!("room"), &json!("one\ntwo")));
        assert_eq!(
            (&data["id"], &data["timestamp"]),
            (&json!("id:0"), &json!(1_700_000_000_123u64))
        );
        assert!(event.ends_with("}\n\n"), "{event}");
    }

    #[test]
    fn bare_data_is_as_many_lines_as_it_has() {
        let shape = EventShape { has_ids: false, ..shape(EventFraming::ServerSent, false) };
        let event = written(shape, &[text("one\r\ntwo\rthree\n")], None);
        assert_eq!(event, "event: message\ndata: one\ndata: two\ndata: three\ndata: \n\n");
        assert_eq!(written(shape, &[Data::None], None), "event: message\ndata: \n\n");
        let bytes = Data::Binary(vec![0, 255].into());
        assert_eq!(written(shape, &[bytes], None), "event: message\ndata: AP8=\n\n");
    }

    #[test]
    fn only_the_last_message_of_a_publication_has_its_serial() {
        let shape = shape(EventFraming::ServerSent, false);
        let data = [text("a"), text("b"), text("c")];
        let events = written(shape, &data, None);
        assert_eq!(events.matches("id: ").count(), 1);
        let (before, _) = events.split_once("id: ").expect("one");
        assert_eq!(before.matches("event: ").count(), 2);
        let part = written(shape, &data, Some(&[0, 1]));
        assert!(part.contains("data: a") && !part.contains("data: c"), "{part}");
        assert_eq!(part.matches("id: ").count(), 1);
    }

    #[test]
    fn lines_are_objects() {
        let enveloped = shape(EventFraming::Lines, true);
        let line: Value =
            serde_json::from_str(&written(enveloped, &[text("x")], None)).expect("one line");
        assert_eq!((&line["event"], &line["data"]["data"]), (&json!("message"), &json!("x")));
        assert!(line["id"].is_string());
        let bare = shape(EventFraming::Lines, false);
        let line: Value =
            serde_json::from_str(&written(bare, &[text("x")], None)).expect("one line");
        assert_eq!(line["data"], "x");
    }

    #[test]
    fn errors_positions_and_signs_of_life_have_their_forms() {
        let sse = shape(EventFraming::ServerSent, true);
        let lines = shape(EventFraming::Lines, true);
        let told = |write: &dyn Fn(&mut Vec<u8>)| {
            let mut out = Vec::new();
            write(&mut out);
            String::from_utf8(out).expect("UTF-8")
        };
        let error = ErrorInfo::new(ErrorCode::TOKEN_EXPIRED, "expired");
        let event = told(&|out| sse.write_error(&error, out));
        assert!(event.starts_with("event: error\ndata: {\"message\":\"expired\",\"code\":40142,"));
        assert_eq!(told(&|out| sse.write_position("p", out)), "id: p\n\n");
        assert_eq!(told(&|out| lines.write_position("p", out)), "{\"id\":\"p\"}\n");
        assert_eq!(told(&|out| sse.write_keepalive(false, out)), ":keepalive\n\n");
        assert_eq!(told(&|out| lines.write_keepalive(false, out)), "\n");
        let heartbeat = told(&|out| sse.write_keepalive(true, out));
        assert_eq!(heartbeat, "event: heartbeat\ndata: \n\n");
    }
}
