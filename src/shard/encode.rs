//! What a home sends to subscribers, encoded: one frame for all who see the same.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::ably::vcdiff::Encoder;
use crate::ably::{self, Delta, EventShape, Format, Publication, Since};
use crate::channel::broadcast::Broadcast;
use crate::channel::chain::deltas;
use crate::channel::home::{HomeChannel, Subscriber};
use crate::channel::log::{Link, SEND_BYTES_MAX};
use crate::channel::view::View;
use crate::connection::ConnectionId;
use crate::http;
use crate::ws::{self, Data, Deflater, FrameBuilder, OpCode, Window};

/// Bytes of an encoded message beyond its data, about; saves growing the frame.
const ENVELOPE_BYTES: usize = 320;

/// Bytes of one replay that become deltas; what is behind them is sent in full. These deltas are made
/// for one client, which may ask again and again, so they must not hold up a core.
const REPLAY_DELTA_BYTES_MAX: u64 = 256 << 10;

/// Compresses frames for those who have agreed to that.
pub(super) struct Deflating {
    /// Bytes of a payload from which on it is worth it.
    bytes_min: usize,
    /// Each made when the first frame is compressed within its window.
    deflaters: [Option<Box<Deflater>>; Window::COUNT],
}

impl Deflating {
    pub fn new(bytes_min: Option<u32>) -> Deflating {
        Deflating {
            bytes_min: bytes_min.unwrap_or_default() as usize,
            deflaters: Default::default(),
        }
    }

    /// The same frame, or one that says the same in fewer bytes.
    pub fn deflate(&mut self, frame: &Bytes, window: Window) -> Bytes {
        let deflater = &mut self.deflaters[window as usize];
        let deflater = deflater.get_or_insert_with(|| Box::new(Deflater::new(window)));
        ws::deflated(frame, self.bytes_min, deflater).unwrap_or_else(|| frame.clone())
    }
}

/// One encoding of an event for each format and name in use, made when the first subscriber wants it.
/// A name with a filter has a frame of its own, and so do those who are sent deltas.
pub(super) struct EncodedOnce<'a> {
    event: &'a Broadcast,
    /// By message; empty without subscribers to deltas.
    deltas: Vec<Option<Delta>>,
    /// The messages that pass each filter in use.
    passing: Vec<(Arc<str>, Vec<usize>)>,
    frames: Vec<Encoded>,
}

struct Encoded {
    format: Format,
    display_name: Arc<str>,
    has_deltas: bool,
    events: Option<EventShape>,
    window: Option<Window>,
    frame: Bytes,
}

impl<'a> EncodedOnce<'a> {
    pub fn new(event: &'a Broadcast, home: &mut HomeChannel, encoder: &mut Encoder) -> Self {
        let (deltas, passing) = match event {
            Broadcast::Messages(publication) => {
                let chain = home.chain();
                let deltas = chain.map(|chain| chain.next(encoder, publication));
                (deltas.unwrap_or_default(), home.select(publication))
            }
            Broadcast::Annotations(_) | Broadcast::Presence(_) => Default::default(),
        };
        EncodedOnce { event, deltas, passing, frames: Vec::new() }
    }

    /// The same for an event that subscribers to deltas are not sent.
    pub fn without_deltas(event: &'a Broadcast, home: &HomeChannel) -> Self {
        let passing = match event {
            Broadcast::Messages(publication) => home.select(publication),
            Broadcast::Annotations(_) | Broadcast::Presence(_) => Vec::new(),
        };
        EncodedOnce { event, deltas: Vec::new(), passing, frames: Vec::new() }
    }

    /// The frame for `subscriber`, and its place among deltas; none if nothing of the event is for it.
    pub fn frame(
        &mut self,
        subscriber: &Subscriber,
        deflating: &mut Deflating,
    ) -> Option<(Bytes, Link)> {
        let Subscriber { view, .. } = subscriber;
        if !view.wants.contains(self.event.kind()) {
            return None;
        }
        match self.event {
            Broadcast::Messages(publication) => self.messages(subscriber, publication, deflating),
            Broadcast::Annotations(_) | Broadcast::Presence(_) => {
                let (event, Subscriber { format, display_name, .. }) = (self.event, subscriber);
                let encode = || encode_for(view, event, *format, display_name);
                Some((self.once(subscriber, false, deflating, encode), Link::None))
            }
        }
    }

    fn messages(
        &mut self,
        subscriber: &Subscriber,
        publication: &Publication,
        deflating: &mut Deflating,
    ) -> Option<(Bytes, Link)> {
        let Subscriber { view, .. } = subscriber;
        if let Some(filter) = &view.filter {
            let passing = self.passing.iter().find(|(known, _)| known == filter);
            let (_, passing) = passing.expect("the filters of subscribers are applied");
            if passing.is_empty() {
                return None;
            }
            let passing = passing.clone();
            let frame = self.part(subscriber, publication, Some(&passing), false, deflating);
            return Some((frame, Link::None));
        }
        let full = self.part(subscriber, publication, None, false, deflating);
        if !view.delta {
            return Some((full, Link::None));
        }
        match self.deltas.first() {
            // Decodable by itself, whatever else is in it.
            Some(None) if self.deltas.iter().any(Option::is_some) => {
                Some((self.part(subscriber, publication, None, true, deflating), Link::Full))
            }
            Some(Some(_)) => {
                let frame = self.part(subscriber, publication, None, true, deflating);
                Some((frame, Link::Delta(Box::new(full))))
            }
            Some(None) | None => Some((full, Link::Full)),
        }
    }

    /// The frame of some messages, or all of them, encoded once.
    fn part(
        &mut self,
        subscriber: &Subscriber,
        publication: &Publication,
        part: Option<&[usize]>,
        has_deltas: bool,
        deflating: &mut Deflating,
    ) -> Bytes {
        let Subscriber { format, display_name, view, .. } = subscriber;
        let deltas = if has_deltas { std::mem::take(&mut self.deltas) } else { Vec::new() };
        let event = self.event;
        let encode = || match view.events {
            Some(shape) => encode_http_event(event, shape, display_name, part),
            None => encode(publication, *format, display_name, part, &deltas),
        };
        let frame = self.once(subscriber, has_deltas, deflating, encode);
        if has_deltas {
            self.deltas = deltas;
        }
        frame
    }

    /// The frame for all with the format, name and shape of `subscriber`; `encode` makes it for the
    /// first, and who wants it compressed shares what the others are sent.
    fn once(
        &mut self,
        subscriber: &Subscriber,
        has_deltas: bool,
        deflating: &mut Deflating,
        encode: impl FnOnce() -> Bytes,
    ) -> Bytes {
        let window = subscriber.view.window;
        if let Some(frame) = self.known(subscriber, has_deltas, window) {
            return frame;
        }
        let plain = self.known(subscriber, has_deltas, None);
        let plain = plain.unwrap_or_else(|| self.keep(subscriber, has_deltas, None, encode()));
        let Some(agreed) = window else { return plain };
        self.keep(subscriber, has_deltas, window, deflating.deflate(&plain, agreed))
    }

    fn known(
        &self,
        subscriber: &Subscriber,
        has_deltas: bool,
        window: Option<Window>,
    ) -> Option<Bytes> {
        let Subscriber { format, display_name, view, .. } = subscriber;
        let known = self.frames.iter().find(|known| {
            known.format == *format
                && known.has_deltas == has_deltas
                && known.events == view.events
                && known.window == window
                && known.display_name == *display_name
        });
        known.map(|known| known.frame.clone())
    }

    fn keep(
        &mut self,
        subscriber: &Subscriber,
        has_deltas: bool,
        window: Option<Window>,
        frame: Bytes,
    ) -> Bytes {
        let display_name = Arc::clone(&subscriber.display_name);
        let (format, events) = (subscriber.format, subscriber.view.events);
        self.frames.push(Encoded {
            format,
            display_name,
            has_deltas,
            events,
            window,
            frame: frame.clone(),
        });
        frame
    }
}

/// The complete WebSocket frame of some messages of a publication, or of all.
fn encode(
    publication: &Publication,
    format: Format,
    display_name: &str,
    part: Option<&[usize]>,
    deltas: &[Option<Delta>],
) -> Bytes {
    let with_delta = |index| (index, deltas.get(index).and_then(Option::as_ref));
    frame(format, publication.size_bytes(), |out| match part {
        None => {
            let all = (0..publication.messages.len()).map(with_delta);
            ably::encode_part(format, display_name, publication, all, out);
        }
        Some(part) => {
            let part = part.iter().copied().map(with_delta);
            ably::encode_part(format, display_name, publication, part, out);
        }
    })
}

/// All of an event as those get it who look at its channel so: a WebSocket frame, or a chunk.
pub(super) fn encode_for(
    view: &View,
    event: &Broadcast,
    format: Format,
    display_name: &str,
) -> Bytes {
    match view.events {
        Some(shape) => encode_http_event(event, shape, display_name, None),
        None => encode_event(event, format, display_name),
    }
}

/// The complete WebSocket frame of an event.
pub(super) fn encode_event(event: &Broadcast, format: Format, display_name: &str) -> Bytes {
    frame(format, event.size_bytes(), |out| event.encode(format, display_name, out))
}

/// The complete WebSocket frame of what `write` appends, which holds about `bytes`.
pub(super) fn frame(format: Format, bytes: u64, write: impl FnOnce(&mut Vec<u8>)) -> Bytes {
    let opcode = match format {
        Format::Json => OpCode::Data(Data::Text),
        Format::MsgPack => OpCode::Data(Data::Binary),
    };
    let mut frame = FrameBuilder::with_capacity(opcode, bytes as usize + ENVELOPE_BYTES);
    write(frame.payload());
    frame.finish()
}

/// An event for those who listen over HTTP, as one chunk of their streams; of messages those in `part`,
/// or all.
fn encode_http_event(
    event: &Broadcast,
    shape: EventShape,
    display_name: &str,
    part: Option<&[usize]>,
) -> Bytes {
    let mut chunk = Vec::with_capacity(event.size_bytes() as usize + ENVELOPE_BYTES);
    http::write_chunk(&mut chunk, |out| match event {
        Broadcast::Messages(publication) => {
            shape.write_messages(display_name, publication, part, out);
        }
        Broadcast::Presence(events) => shape.write_presence(display_name, events, out),
        Broadcast::Annotations(_) => unreachable!("listeners have no mode for annotations"),
    });
    chunk.into()
}

/// The frames of a SYNC with all members of a channel, at least one frame.
pub(super) fn sync(home: &mut HomeChannel, format: Format, display_name: &Arc<str>) -> Vec<Bytes> {
    home.sync(format, display_name, |bytes, write| frame(format, bytes, write))
}

/// Who joins a subscribed stream, and from where on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Joining {
    pub display_name: Arc<str>,
    pub format: Format,
    pub view: View,
    pub since: Since,
    /// The connection whose own messages are left out.
    pub skip: Option<ConnectionId>,
}

/// What a joining attachment has missed.
pub(super) struct Replay<'a> {
    /// Complete frames, laid together into pieces of one send each.
    pub pieces: Vec<Bytes>,
    /// What went into them last.
    pub last: Option<&'a Arc<Publication>>,
}

impl<'a> Replay<'a> {
    pub fn new(
        missed: &'a [Broadcast],
        joining: &Joining,
        home: &HomeChannel,
        encoder: &mut Encoder,
    ) -> Replay<'a> {
        let Joining { display_name, format, view, .. } = joining;
        let skip = joining.skip.as_ref().map(ConnectionId::as_str);
        // Who looks back at what it never had is sent it in full (10).
        let has_deltas = view.delta && matches!(joining.since, Since::Serial(_));
        let mut delta_bytes_left = if has_deltas { REPLAY_DELTA_BYTES_MAX } else { 0 };
        let mut replay = Replay { pieces: Vec::new(), last: None };
        let mut piece = BytesMut::new();
        for event in missed {
            let is_own = skip.is_some() && event.connection_id() == skip;
            if is_own || !view.wants.contains(event.kind()) {
                continue;
            }
            let frame = match event {
                Broadcast::Messages(publication) => {
                    let part = view.filter.as_ref().map(|filter| home.passing(filter, publication));
                    if part.as_ref().is_some_and(Vec::is_empty) {
                        continue;
                    }
                    let base = replay.last.and_then(|last| last.messages.last());
                    let deltas = match delta_bytes_left.checked_sub(publication.size_bytes()) {
                        Some(bytes_left) => {
                            delta_bytes_left = bytes_left;
                            deltas(encoder, base, publication)
                        }
                        None => Vec::new(),
                    };
                    replay.last = Some(publication);
                    match view.events {
                        Some(shape) => {
                            encode_http_event(event, shape, display_name, part.as_deref())
                        }
                        None => {
                            encode(publication, *format, display_name, part.as_deref(), &deltas)
                        }
                    }
                }
                Broadcast::Annotations(_) | Broadcast::Presence(_) => {
                    encode_for(view, event, *format, display_name)
                }
            };
            if !piece.is_empty() && piece.len() + frame.len() > SEND_BYTES_MAX {
                replay.pieces.push(piece.split().freeze());
            }
            piece.extend_from_slice(&frame);
        }
        if !piece.is_empty() {
            replay.pieces.push(piece.freeze());
        }
        replay
    }
}
