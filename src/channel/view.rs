//! How an attachment looks at a channel: what it is sent, and from where on.

use super::broadcast::Broadcast;
use crate::ably::{ChannelSerial, ErrorInfo, Modes, Params, Wants};

/// What attachments are sent of a channel; those with equal views share one log of frames.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct View {
    /// Which kinds of events.
    pub wants: Wants,
    /// Whether a message that was appended to comes as a whole (6.5, `appendMode`).
    pub whole_appends: bool,
}

impl View {
    /// What an attachment with `modes` and `params` sees.
    pub fn of(modes: Modes, params: &Params) -> View {
        let whole_appends = params.get("appendMode") == Some("full");
        View { wants: Wants::of(modes), whole_appends }
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
