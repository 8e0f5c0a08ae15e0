//! How an attachment looks at a channel: what it is sent, and from where on.

use std::sync::Arc;

use super::broadcast::Broadcast;
use crate::ably::{
    Category, ChannelName, ChannelParams, ChannelSerial, ErrorInfo, EventShape, Modes, Wants,
};
use crate::ws::Window;

/// What attachments are sent of a channel; those with equal views share one log of frames.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct View {
    /// Which kinds of events.
    pub wants: Wants,
    /// Whether messages may come as deltas (10).
    pub delta: bool,
    /// Which changes of occupancy (6.9).
    pub occupancy: Option<Category>,
    /// The expression that messages have to pass; known to compile (6.10).
    pub filter: Option<Arc<str>>,
    /// The shape of its events, if it listens over HTTP; else it is sent WebSocket frames.
    pub events: Option<EventShape>,
    /// Whether a message that was appended to comes as a whole (6.5): when that was asked for, and where
    /// the next delta starts from it.
    pub whole_appends: bool,
    /// Within which window its frames are compressed, if they are.
    pub window: Option<Window>,
}

impl View {
    /// What an attachment to `name` with these modes and params sees.
    pub fn of(name: &ChannelName, modes: Modes, params: &ChannelParams) -> View {
        let wants = Wants::of(modes);
        let has_messages = wants.contains(Wants::MESSAGES);
        View {
            wants,
            delta: params.delta && has_messages,
            occupancy: params.occupancy.filter(|_| has_messages),
            filter: name.filter().filter(|_| has_messages).map(Arc::from),
            events: None,
            whole_appends: (params.append_full || params.delta) && has_messages,
            window: None,
        }
    }
}

impl View {
    /// Whether it is told who is present when it begins; who listens over HTTP hears of changes alone.
    pub fn wants_members(&self) -> bool {
        self.wants.contains(Wants::PRESENCE) && self.events.is_none()
    }

    /// What somebody who listens over HTTP with these modes sees of `name`; messages come in full.
    pub fn of_events(name: &ChannelName, modes: Modes, shape: EventShape) -> View {
        let plain = View::of(name, modes, &ChannelParams::default());
        View { events: Some(shape), ..plain }
    }
}

/// What a joining attachment gets of the past.
#[derive(Clone, Debug)]
pub struct Past {
    /// The attach point: everything behind it is sent, first `events` and then what follows.
    pub serial: ChannelSerial,
    /// Whether nothing is missing since the point that the client named.
    pub resumed: bool,
    /// Why something is.
    pub error: Option<ErrorInfo>,
    /// To be replayed, oldest first.
    pub events: Vec<Broadcast>,
}
