//! How an attachment looks at a channel: what it is sent, and from where on.

use std::sync::Arc;

use crate::ably::{ChannelSerial, ErrorInfo, Modes, Publication, Wants};

/// What attachments are sent of a channel; those with equal views share one log of frames.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct View {
    /// Which kinds of events.
    pub wants: Wants,
}

impl View {
    /// What an attachment with `modes` sees.
    pub fn of(modes: Modes) -> View {
        View { wants: Wants::of(modes) }
    }
}

/// What a joining attachment gets of the past.
#[derive(Clone, Debug)]
pub struct Past {
    /// The attach point: everything behind it is sent, first `publications` and then what follows.
    pub serial: ChannelSerial,
    /// Whether nothing is missing since the point that the client named.
    pub resumed: bool,
    /// Why something is.
    pub error: Option<ErrorInfo>,
    /// To be replayed, oldest first.
    pub publications: Vec<Arc<Publication>>,
}
