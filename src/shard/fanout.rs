//! The way of a frame from its home into the logs of this shard's streams.

use bytes::Bytes;

use super::Shard;
use super::encode::encode_for;
use super::mail::Append;
use super::streams::Stream;
use crate::ably::ChannelSerial;
use crate::channel::broadcast::Broadcast;
use crate::channel::home::StreamRef;
use crate::channel::log::{Frame, Link, PublisherId};

impl Shard {
    /// One event of a channel has come from its home.
    pub(super) fn handle_frame(
        &mut self,
        reference: StreamRef,
        serial: ChannelSerial,
        publisher: Option<PublisherId>,
        has_members: bool,
        frame: Option<(Bytes, Link)>,
    ) {
        let Some(stream) = self.streams.resolve(reference) else { return };
        stream.serial = Some(serial);
        stream.has_members = has_members;
        let Some((bytes, link)) = frame else { return };
        stream.log.stage(Frame { bytes, publisher, link });
        if !stream.is_staged {
            stream.is_staged = true;
            self.staged.push(reference.index);
        }
    }

    /// An append to a message has come from its home. If somebody has joined since the stream last had
    /// the message as a whole, it is sent as a whole again: an increment says nothing to the newcomer,
    /// and to the others the whole says the same.
    pub(super) fn handle_append(&mut self, append: Append) {
        let Append { stream: reference, serial, publisher, has_members, frame, version, whole } =
            append;
        let Some(stream) = self.streams.resolve(reference) else { return };
        let message = version.position(0);
        let frame = match stream.wholes.makes_sense(message, whole, stream.joined) {
            true => frame,
            false => {
                stream.wholes.note(message, serial);
                let (view, name) = (&stream.view, &stream.name);
                let whole = Broadcast::Messages(version);
                encode_for(view, &whole, name.format, &name.display_name)
            }
        };
        self.handle_frame(reference, serial, publisher, has_members, Some((frame, Link::None)));
    }

    /// Lays out what came this turn and starts rounds of sends.
    pub(super) fn commit_staged(&mut self) {
        let clock_us = self.clock_us;
        for index in self.staged.drain(..) {
            let Some(stream) = self.streams.get_mut(index) else { continue };
            let Stream { log, is_staged, in_rounds, round_began_us, .. } = stream;
            *is_staged = false;
            log.commit();
            if log.in_round() && !*in_rounds {
                *in_rounds = true;
                *round_began_us = clock_us;
                self.rounds.push_back(index);
            }
        }
    }
}
