//! Bytes of an open slot: what is received in the buffers that all share, and what is sent from memory that stays
//! where it is until the kernel has taken it.

use io_uring::types::Fixed;
use io_uring::{cqueue, opcode};

use super::{Event, ReceiveEnd, Slot, SlotState, SocketRing, op, user_data};
use crate::sys::SendBuf;
use crate::sys::buffers;

/// Ends of a receive after which there may be more.
const INTERRUPTED: i32 = -libc::EINTR;
const CANCELLED: i32 = -libc::ECANCELED;
const NO_BUFFERS: i32 = -libc::ENOBUFS;

impl SocketRing {
    /// Arms a multishot receive; bytes come as [`Event::Received`] until [`Event::ReceiveEnded`].
    pub fn start_receive(&mut self, slot: Slot) {
        let state = &mut self.slots[slot.0 as usize];
        assert!(state.has(SlotState::OPEN), "receive needs an open slot");
        assert!(!state.has(SlotState::RECEIVING), "one receive per slot");
        state.0 |= SlotState::RECEIVING;
        let receive = opcode::RecvMulti::new(Fixed(slot.0), buffers::GROUP).build();
        self.push(receive.user_data(user_data(op::RECEIVE, slot)));
    }

    /// Leaves what arrives in the socket until [`resume_receive`](Self::resume_receive); what the kernel has
    /// taken out of it by then still comes.
    pub fn pause_receive(&mut self, slot: Slot) {
        let state = &mut self.slots[slot.0 as usize];
        if !state.has(SlotState::OPEN) || state.has(SlotState::CLOSING | SlotState::PAUSED) {
            return;
        }
        state.0 |= SlotState::PAUSED;
        if state.has(SlotState::RECEIVING) {
            self.push_cancel(op::RECEIVE, slot);
        }
    }

    /// Receives again.
    pub fn resume_receive(&mut self, slot: Slot) {
        let state = &mut self.slots[slot.0 as usize];
        if !state.has(SlotState::PAUSED) {
            return;
        }
        state.0 &= !SlotState::PAUSED;
        // Otherwise once what was cancelled has ended.
        if !state.has(SlotState::RECEIVING | SlotState::CLOSING) {
            self.start_receive(slot);
        }
    }

    /// Queues a send of all of `bytes`; ends in [`Event::Sent`].
    pub fn send(&mut self, slot: Slot, bytes: SendBuf) {
        let state = &mut self.slots[slot.0 as usize];
        assert!(
            state.0 & (SlotState::OPEN | SlotState::SENDING | SlotState::CLOSING)
                == SlotState::OPEN,
            "one send at a time, on an open slot"
        );
        state.0 |= SlotState::SENDING;
        self.push_send(slot, bytes);
    }

    fn push_send(&mut self, slot: Slot, bytes: SendBuf) {
        let slice = bytes.unsent();
        let send = opcode::Send::new(Fixed(slot.0), slice.as_ptr(), slice.len() as u32)
            .flags(libc::MSG_NOSIGNAL)
            .build()
            .user_data(user_data(op::SEND, slot));
        // Keeps the bytes where they are until the completion; a chunk never moves or changes them.
        self.sends[slot.0 as usize] = Some(bytes);
        self.push(send);
    }

    /// Tells the peer that nothing more will be sent; receiving goes on.
    pub fn shut_down_write(&mut self, slot: Slot) {
        let state = &mut self.slots[slot.0 as usize];
        let usable = SlotState::OPEN | SlotState::SHUTTING | SlotState::CLOSING;
        assert!(state.0 & usable == SlotState::OPEN, "shut down once, while open");
        state.0 |= SlotState::SHUTTING;
        let shutdown = opcode::Shutdown::new(Fixed(slot.0), libc::SHUT_WR).build();
        self.push(shutdown.user_data(user_data(op::SHUTDOWN, slot)));
    }

    pub(super) fn handle_send(
        &mut self,
        slot: Slot,
        result: i32,
        on_event: &mut impl FnMut(Event<'_>),
    ) {
        let mut bytes = self.sends[slot.0 as usize].take().expect("kept until its completion");
        let closing = self.slots[slot.0 as usize].has(SlotState::CLOSING);
        match u32::try_from(result) {
            // The socket's buffer took a part; the rest waits in the kernel until there is room.
            Ok(sent) if bytes.advance(sent) > 0 && !closing => self.push_send(slot, bytes),
            outcome => {
                if self.ended(slot, SlotState::SENDING) {
                    on_event(Event::Sent(slot, outcome.map(|_| bytes.len()).map_err(|_| -result)));
                }
            }
        }
    }

    pub(super) fn handle_receive(
        &mut self,
        slot: Slot,
        result: i32,
        flags: u32,
        on_event: &mut impl FnMut(Event<'_>),
    ) {
        if let Some(id) = cqueue::buffer_select(flags) {
            if result > 0 && !self.slots[slot.0 as usize].has(SlotState::CLOSING) {
                on_event(Event::Received(slot, self.buffers.bytes(id, result as usize)));
            }
            self.buffers.recycle(id);
        }
        if cqueue::more(flags) || !self.ended(slot, SlotState::RECEIVING) {
            return;
        }
        match result {
            // Out of buffers, paused and resumed since, or the kernel ended a long multishot: arm it anew.
            // By the time the entry is submitted the buffers of this batch have been given back.
            1.. | INTERRUPTED | CANCELLED | NO_BUFFERS => {
                if !self.slots[slot.0 as usize].has(SlotState::PAUSED) {
                    self.start_receive(slot);
                }
            }
            0 => on_event(Event::ReceiveEnded(slot, ReceiveEnd::Eof)),
            _ => on_event(Event::ReceiveEnded(slot, ReceiveEnd::Failed(-result))),
        }
    }
}
