//! What the monitor has shards do, and what they tell it. Channels both ways: no shard ever waits for
//! the monitor, and no memory is shared.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, Write};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};
use std::time::Duration;

use glommio::io::BufferedFile;

use super::bell::Bell;
use super::tls::TlsCounters;
use crate::ably::{Answered, Directory, Rules};
use crate::admin::{Question, ReloadOutcome, Reply, ShardQuestion};
use crate::base::{Batches, TurnTimes};
use crate::shard::{Counters, Gauges, Histograms, Limits};
use crate::sys::EventFd;
use crate::tls::Acceptor;

/// News that may wait for the monitor; a report that finds no room is left out, and the next one says
/// the same with later numbers.
const NEWS_MAX: usize = 4096;

/// Batches of answers to a shard's questions that may wait for it; one that finds no room is left out, and
/// the shard gives its questions up when their time is over.
const VERDICTS_MAX: usize = 1024;

/// What a shard is told to do.
pub(super) enum Order {
    /// Accept nobody and send all clients away, spread over this time.
    Drain(Duration),
    /// Have this directory's apps and rules take the place of those that were configured; for shard 0. It
    /// is told by its number when all shards have them.
    Reload(u64, Arc<Directory>),
    /// The same of rules alone.
    Rules(u64, Rules),
    /// Go on with what rules were asked about.
    Verdicts(Vec<Answered>),
    /// Make the handshakes that begin from now on with this. It is told by its number when that is so.
    Accept(u64, Acceptor),
    /// Be bounded like this from now on. It is told by its number when that is so.
    Limit(u64, Arc<Limits>),
    /// Answer an operator.
    Asked(ShardQuestion),
    /// Stand still for ever, to see what that does; see `[test] stall`.
    Stall,
}

/// What a reload brings, beside rules.
pub(super) struct Configured {
    /// Apps and keys.
    pub directory: Arc<Directory>,
    /// Bounds of each shard.
    pub limits: Arc<Limits>,
    /// What handshakes are made with, where there is TLS.
    pub acceptor: Option<Acceptor>,
}

/// What the monitor hears.
pub(super) enum News {
    /// The shard serves: its first turn is over.
    Ready,
    /// Where the shard is; sent at intervals, so that silence means that it stands still.
    Report { shard: usize, report: Box<Report> },
    /// All shards have what was ordered with this number of one of them.
    Installed(u64),
    /// Somebody wants all shards to have these rules, and what else was configured, with the same rules in the
    /// directory.
    Install { rules: Rules, configured: Option<Configured>, done: SyncSender<()> },
    /// A reload has come to its end; with who asked for it.
    Reloaded(ReloadOutcome, Option<Reply<ReloadOutcome>>),
    /// The shard has no client left.
    Drained,
    /// The shard's thread is ending.
    Ended { shard: usize },
    /// Somebody at the admin server wants to know or to do something.
    Asked(Question),
    /// A signal has come.
    Signal(i32),
}

/// What one shard has done so far, and what it holds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Report {
    /// When it was made, on the shard's clock since its start.
    pub at: Duration,
    /// Turns since the start.
    pub turns: u64,
    /// Times it has gone to sleep since the start.
    pub sleeps: u64,
    /// Accepts that have failed since the start.
    pub accept_failures: u64,
    /// Time asleep since the start.
    pub slept: Duration,
    /// Bytes received since the start.
    pub received_bytes: u64,
    /// Bytes sent since the start.
    pub sent_bytes: u64,
    /// Sockets that the shard accepts.
    pub transports_max: u64,
    /// Of the shard.
    pub counters: Counters,
    /// Of the shard.
    pub gauges: Gauges,
    /// Of its clients that speak TLS.
    pub tls: TlsCounters,
    /// Of the shard.
    pub histograms: Histograms,
    /// How long turns took, in microseconds.
    pub turn_us: TurnTimes,
    /// Sends that turns have submitted, where there were some.
    pub turn_sends: Batches,
    /// Completions and submissions that have waited in the rings at the start of a turn, at most, since
    /// the report before.
    pub ring_depth: u64,
    /// Mail that one turn has taken in, at most, since the report before.
    pub mesh_depth: u64,
}

/// The channel of [`News`].
pub(super) fn news() -> (SyncSender<News>, Receiver<News>) {
    mpsc::sync_channel(NEWS_MAX)
}

/// The monitor's end of the line to one shard.
pub(super) struct OrderSender {
    orders: Sender<Order>,
    wake: File,
}

/// The end of whoever asks rules for one shard.
pub(super) struct VerdictSender {
    verdicts: SyncSender<Vec<Answered>>,
    wake: File,
}

/// The shard's end, on its way to the shard.
pub(super) struct OrderReceiver {
    orders: Receiver<Order>,
    verdicts: Receiver<Vec<Answered>>,
    wake: EventFd,
}

/// A line to one shard.
pub(super) fn line() -> io::Result<(OrderSender, VerdictSender, OrderReceiver)> {
    let (sender, orders) = mpsc::channel();
    let (verdict_sender, verdicts) = mpsc::sync_channel(VERDICTS_MAX);
    let wake = EventFd::new()?;
    Ok((
        OrderSender { orders: sender, wake: wake.reader()? },
        VerdictSender { verdicts: verdict_sender, wake: wake.reader()? },
        OrderReceiver { orders, verdicts, wake },
    ))
}

impl OrderSender {
    /// Tells the shard, which takes it up in its next turn.
    pub(super) fn send(&mut self, order: Order) {
        // A shard that has ended needs no orders; its end is news of its own.
        if self.orders.send(order).is_ok() {
            let _ = self.wake.write_all(&1u64.to_ne_bytes());
        }
    }
}

impl VerdictSender {
    /// Tells the shard, which takes it up in its next turn.
    pub(super) fn send(&mut self, answered: Vec<Answered>) {
        if self.verdicts.try_send(answered).is_ok() {
            let _ = self.wake.write_all(&1u64.to_ne_bytes());
        }
    }
}

/// The shard's end, in the shard.
pub(super) struct Orders {
    orders: Receiver<Order>,
    verdicts: Receiver<Vec<Answered>>,
    /// Whether there may be some: a turn without orders looks at no more than this.
    arrived: Rc<Cell<bool>>,
}

impl OrderReceiver {
    /// Takes it into use on this core; orders ring `bell`.
    pub(super) fn open(self, bell: &Rc<Bell>) -> io::Result<Orders> {
        let arrived = Rc::new(Cell::new(false));
        let file: BufferedFile = self.wake.reader()?;
        let (flag, bell) = (Rc::clone(&arrived), Rc::clone(bell));
        glommio::spawn_local(async move {
            while file.read_at(0, size_of::<u64>()).await.is_ok() {
                flag.set(true);
                bell.ring();
            }
        })
        .detach();
        Ok(Orders { orders: self.orders, verdicts: self.verdicts, arrived })
    }
}

impl Orders {
    /// The next order.
    pub(super) fn poll(&self) -> Option<Order> {
        if !self.arrived.get() {
            return None;
        }
        let verdicts = || self.verdicts.try_recv().ok().map(Order::Verdicts);
        let order = self.orders.try_recv().ok().or_else(verdicts);
        self.arrived.set(order.is_some());
        order
    }
}
