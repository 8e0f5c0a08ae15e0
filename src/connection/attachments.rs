//! The channels that one connection is attached to.

use crate::ably::{ChannelSerial, Modes, Params};

/// One connection on one channel. 12 bytes: most connections have one, and there are very many.
#[derive(Clone, Copy, Debug)]
struct Attachment {
    /// Index of the shard's stream.
    stream: u32,
    /// Index of the cursor in the stream's log, or one of the two below.
    cursor: u32,
    modes: Modes,
}

/// Attached, and sent nothing.
const NO_CURSOR: u32 = u32::MAX;

/// Not attached yet: the home was asked what goes before the stream.
const JOINING: u32 = u32::MAX - 1;

impl Attachment {
    fn cursor(&self) -> Option<u32> {
        (self.cursor < JOINING).then_some(self.cursor)
    }
}

/// See the module text. Bounded by its owner.
#[derive(Debug, Default)]
pub(super) struct Attachments {
    // Exactly as large as needed: an attachment changes rarely and is kept long.
    list: Box<[Attachment]>,
    /// Whose turn it is to send.
    turn: u32,
    /// Params of those that have some; few do.
    params: Option<Box<KeptParams>>,
}

/// One of each stream; at least one.
#[derive(Debug)]
struct KeptParams(Vec<Kept>);

/// What few attachments have.
#[derive(Debug)]
struct Kept {
    stream: u32,
    /// Not empty.
    params: Params,
    /// Up to where its client was told last that something may be missing, if it is sent deltas.
    cut: Option<ChannelSerial>,
}

impl Attachments {
    pub fn len(&self) -> usize {
        self.list.len()
    }

    pub fn modes(&self, stream: u32) -> Option<Modes> {
        self.find(stream).map(|attachment| attachment.modes)
    }

    pub fn set_modes(&mut self, stream: u32, modes: Modes) {
        let attachment = self.find_mut(stream);
        attachment.expect("only of streams that it is attached to").modes = modes;
    }

    fn kept(&self, stream: u32) -> Option<&Kept> {
        let KeptParams(kept) = self.params.as_deref()?;
        kept.iter().find(|kept| kept.stream == stream)
    }

    pub fn params(&self, stream: u32) -> Option<&Params> {
        self.kept(stream).map(|kept| &kept.params)
    }

    pub fn cut(&self, stream: u32) -> Option<ChannelSerial> {
        self.kept(stream)?.cut
    }

    pub fn set_cut(&mut self, stream: u32, serial: ChannelSerial) {
        let mut all = self.params.iter_mut().flat_map(|kept| &mut kept.0);
        let kept = all.find(|kept| kept.stream == stream);
        kept.expect("deltas are asked for by a param").cut = Some(serial);
    }

    pub fn set_params(&mut self, stream: u32, params: Params) {
        let cut = self.cut(stream);
        self.forget_params(stream);
        if !params.is_empty() {
            let KeptParams(kept) =
                &mut **self.params.get_or_insert_with(|| Box::new(KeptParams(Vec::new())));
            kept.reserve_exact(1);
            kept.push(Kept { stream, params, cut });
        }
    }

    fn forget_params(&mut self, stream: u32) {
        self.params.take_if(|kept| {
            kept.0.retain(|kept| kept.stream != stream);
            kept.0.is_empty()
        });
    }

    pub fn is_joining(&self, stream: u32) -> bool {
        self.find(stream).is_some_and(|attachment| attachment.cursor == JOINING)
    }

    pub fn cursor(&self, stream: u32) -> Option<u32> {
        self.find(stream).and_then(Attachment::cursor)
    }

    pub fn set_cursor(&mut self, stream: u32, cursor: Option<u32>) {
        let attachment = self.find_mut(stream);
        attachment.expect("only of streams that it is attached to").cursor =
            cursor.unwrap_or(NO_CURSOR);
    }

    pub fn rejoin(&mut self, stream: u32) {
        let attachment = self.find_mut(stream);
        attachment.expect("only of streams that it is attached to").cursor = JOINING;
    }

    pub fn add(&mut self, stream: u32, modes: Modes) {
        let mut list = std::mem::take(&mut self.list).into_vec();
        list.reserve_exact(1);
        list.push(Attachment { stream, cursor: JOINING, modes });
        self.list = list.into_boxed_slice();
    }

    /// Returns the cursor, if the attachment existed and had one.
    pub fn remove(&mut self, stream: u32) -> Option<Option<u32>> {
        let at = self.list.iter().position(|attachment| attachment.stream == stream)?;
        let mut list = std::mem::take(&mut self.list).into_vec();
        let removed = list.swap_remove(at);
        self.list = list.into_boxed_slice();
        self.forget_params(stream);
        Some(removed.cursor())
    }

    pub fn streams(&self) -> impl Iterator<Item = u32> {
        self.list.iter().map(|attachment| attachment.stream)
    }

    /// Stream and cursor of those that have one.
    pub fn cursors(&self) -> impl Iterator<Item = (u32, u32)> {
        self.list.iter().filter_map(|attachment| Some((attachment.stream, attachment.cursor()?)))
    }

    pub fn any_stream(&self) -> Option<u32> {
        self.list.last().map(|attachment| attachment.stream)
    }

    /// Goes round all attachments: stream and cursor of the next one, `None` if that has no cursor.
    pub fn next_cursor(&mut self) -> Option<(u32, u32)> {
        let turn = self.turn as usize % self.list.len().max(1);
        self.turn = (turn + 1) as u32;
        let attachment = self.list.get(turn)?;
        Some((attachment.stream, attachment.cursor()?))
    }

    fn find(&self, stream: u32) -> Option<&Attachment> {
        self.list.iter().find(|attachment| attachment.stream == stream)
    }

    fn find_mut(&mut self, stream: u32) -> Option<&mut Attachment> {
        self.list.iter_mut().find(|attachment| attachment.stream == stream)
    }
}
