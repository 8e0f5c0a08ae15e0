//! Wakes the one task of this core that sleeps on it.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::task::{Poll, Waker};
use std::time::Duration;

use glommio::io::BufferedFile;
use glommio::timer::Timer;

use crate::sys::EventFd;

/// Pause after an eventfd could not be read.
const READ_RETRY: Duration = Duration::from_millis(100);

/// A flag that a task can sleep on; ringing it while nobody sleeps is remembered once.
#[derive(Default)]
pub(super) struct Bell {
    rung: Cell<bool>,
    sleeper: RefCell<Option<Waker>>,
}

impl Bell {
    pub(super) fn ring(&self) {
        self.rung.set(true);
        if let Some(sleeper) = self.sleeper.take() {
            sleeper.wake();
        }
    }

    /// Returns once the bell was rung since the last call.
    pub(super) async fn wait(&self) {
        poll_fn(|context| {
            if self.rung.replace(false) {
                return Poll::Ready(());
            }
            self.sleeper.replace(Some(context.waker().clone()));
            Poll::Pending
        })
        .await;
    }
}

/// Calls `signalled` on this core whenever `eventfd` was signalled by the kernel or another thread. A read that
/// fails may have taken a signal with it, so it counts as one: a shard that looks in vain is better than one
/// that nobody can wake any more.
pub(super) fn watch(eventfd: &EventFd, signalled: impl Fn() + 'static) -> io::Result<()> {
    let file: BufferedFile = eventfd.reader()?;
    glommio::spawn_local(async move {
        loop {
            if file.read_at(0, size_of::<u64>()).await.is_err() {
                Timer::new(READ_RETRY).await;
            }
            signalled();
        }
    })
    .detach();
    Ok(())
}
