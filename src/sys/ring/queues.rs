//! The two queues that are shared with the kernel: how entries get into one and when the other is looked at, asleep
//! or awake.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::{self, Ordering};

use io_uring::squeue;

use super::SocketRing;
use crate::sys::EventFd;

impl SocketRing {
    /// Sends that can still be queued before the next [`submit`](Self::submit).
    pub fn send_room(&mut self) -> usize {
        let queue = self.ring.submission();
        queue.capacity() - queue.len()
    }

    /// Signals `eventfd` when completions arrive while [`arm_wakeup`](Self::arm_wakeup) holds.
    pub fn register_eventfd(&mut self, eventfd: &EventFd) -> io::Result<()> {
        self.ring.submitter().register_eventfd(eventfd.as_raw_fd())?;
        self.disarm_wakeup();
        Ok(())
    }

    /// From now on completions signal the eventfd. Call [`has_work`](Self::has_work) afterwards and
    /// sleep only when it says no.
    pub fn arm_wakeup(&mut self) {
        self.ring.completion().enable_eventfd();
        // We write "armed" and then look for work; the kernel notes work and then looks for "armed". One of the
        // two has to see the other's note, which a release alone does not give on every processor.
        atomic::fence(Ordering::SeqCst);
    }

    /// While the owner is awake, a signal per completion would be wasted.
    pub fn disarm_wakeup(&mut self) {
        self.ring.completion().disable_eventfd();
    }

    /// Whether something is queued for the kernel or waits to be reaped.
    pub fn has_work(&mut self) -> bool {
        if !self.overflow.is_empty() || !self.ring.completion().is_empty() {
            return true;
        }
        let queue = self.ring.submission();
        !queue.is_empty() || queue.taskrun() || queue.cq_overflow()
    }

    /// Hands queued entries to the kernel and lets it post what has completed. Does not wait.
    ///
    /// # Errors
    /// Only for mistakes of ours (`EBADF`, `EINVAL`, ...): a full completion queue and interrupted
    /// calls mean "reap, then submit again" and are not errors.
    pub fn submit(&mut self) -> io::Result<()> {
        self.enter(0)
    }

    /// As [`submit`](Self::submit), but saves the call when nothing is queued on either side.
    pub fn submit_if_needed(&mut self) -> io::Result<()> {
        let queue = self.ring.submission();
        let needed = !queue.is_empty() || queue.taskrun() || queue.cq_overflow();
        drop(queue);
        if needed || !self.overflow.is_empty() { self.submit() } else { Ok(()) }
    }

    /// As [`submit`](Self::submit), but waits for at least one completion. For owners without an executor.
    pub fn submit_and_wait(&mut self) -> io::Result<()> {
        self.enter(1)
    }

    fn enter(&mut self, want: usize) -> io::Result<()> {
        loop {
            self.move_overflow();
            match self.ring.submitter().submit_and_wait(want) {
                Ok(_) => break,
                Err(error) => match error.raw_os_error() {
                    // Interrupted before anything was taken.
                    Some(libc::EINTR) => {}
                    // The completion queue is full, or memory is short: reap first. What was not
                    // taken stays queued.
                    Some(libc::EBUSY | libc::EAGAIN) => return Ok(()),
                    _ => return Err(error),
                },
            }
        }
        self.connect_addresses.clear();
        Ok(())
    }

    /// Completions that wait to be taken, and operations that wait to be submitted.
    pub fn depth(&mut self) -> usize {
        self.overflow.len() + self.ring.completion().len()
    }

    pub(super) fn push(&mut self, entry: squeue::Entry) {
        // Behind entries that wait already, so that operations on a slot keep their order.
        if !self.overflow.is_empty() || !self.try_push(&entry) {
            self.overflow.push_back(entry);
        }
    }

    fn try_push(&mut self, entry: &squeue::Entry) -> bool {
        // SAFETY: every entry that the ring builds points to memory that outlives the operation:
        // bytes of sends are held in `sends` until their completion, addresses of connects until they
        // are submitted, `ONE` is static, receives use registered buffers.
        unsafe { self.ring.submission().push(entry) }.is_ok()
    }

    fn move_overflow(&mut self) {
        while let Some(entry) = self.overflow.pop_front() {
            if !self.try_push(&entry) {
                self.overflow.push_front(entry);
                return;
            }
        }
    }

    /// Empties the submission queue as far as the kernel lets us.
    pub(super) fn submit_all(&mut self) {
        self.submit().expect("the kernel takes entries that it took before");
    }
}
