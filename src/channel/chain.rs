//! Deltas of one channel: which message the next one starts from.

use std::sync::Arc;

use crate::ably::vcdiff::Encoder;
use crate::ably::{Delta, Message, Publication};

/// The message that every subscriber with deltas was sent last; kept while there are such subscribers.
/// It starts out unknown, and the first message is sent in full.
#[derive(Default)]
pub struct Chain {
    subscribers: u32,
    /// Its last message is the base.
    last: Option<Arc<Publication>>,
}

impl Chain {
    /// Counts a subscriber with deltas.
    pub fn add_subscriber(&mut self) {
        self.subscribers += 1;
    }

    /// Forgets one; true when it was the last, and nothing is worth keeping.
    pub fn remove_subscriber(&mut self) -> bool {
        self.subscribers -= 1;
        self.subscribers == 0
    }

    /// What went out last has reached nobody: the next message is sent in full.
    pub fn forget_base(&mut self) {
        self.last = None;
    }

    /// The messages of `publication`, which goes out now, as deltas where they are smaller.
    pub fn next(
        &mut self,
        encoder: &mut Encoder,
        publication: &Arc<Publication>,
    ) -> Vec<Option<Delta>> {
        let base = self.last.as_ref().and_then(|last| last.messages.last());
        let deltas = deltas(encoder, base, publication);
        self.last = Some(Arc::clone(publication));
        deltas
    }

    /// Whether somebody who was sent everything up to `replayed` has the base. Before the first
    /// message goes out it becomes that; `is_head` tells that nothing was published since.
    pub fn joins(&mut self, replayed: &Arc<Publication>, is_head: bool) -> bool {
        if self.last.is_none() && is_head {
            self.last = Some(Arc::clone(replayed));
        }
        let serial = self.last.as_ref().map(|last| last.channel_serial);
        serial == Some(replayed.channel_serial)
    }
}

/// The messages of `publication` as deltas where they are smaller: the first starts from `base`, each
/// other from the one before it.
pub fn deltas(
    encoder: &mut Encoder,
    base: Option<&Message>,
    publication: &Publication,
) -> Vec<Option<Delta>> {
    let bases = std::iter::once(base);
    let bases = bases.chain(publication.messages.iter().map(Some));
    let pairs = bases.zip(&publication.messages);
    pairs.map(|(base, message)| Delta::between(encoder, base?, message)).collect()
}
