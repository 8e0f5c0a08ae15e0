//! What the monitor has shards do, and what they tell it. Channels both ways: no shard ever waits for
//! the monitor, and no memory is shared.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, Write};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::time::Duration;

use super::bell::{self, Bell};
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

/// Orders that may wait for a shard, also for one that stands still. There are fewer: the keeper has a change
/// carried out everywhere before it begins the next, which takes three at most, and the daemon ends once.
const ORDERS_MAX: usize = 16;

/// Questions of operators that may wait for a shard; whoever asks one more is told to ask again.
const QUESTIONS_MAX: usize = 64;

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

/// Orders with a number that a shard has carried out, until the monitor has room to hear of it: whoever has
/// ordered them waits for each. There are as many as that one has given, a few at most.
#[derive(Default)]
pub(super) struct Installs(Vec<u64>);

impl Installs {
    /// One more is carried out.
    pub(super) fn note(&mut self, number: u64) {
        self.0.push(number);
    }

    /// Tells the monitor, as far as there is room now.
    pub(super) fn tell(&mut self, news: &SyncSender<News>) {
        self.0.retain(|&number| news.try_send(News::Installed(number)).is_err());
    }
}

/// The monitor's end of the line to one shard.
pub(super) struct OrderSender {
    orders: SyncSender<Order>,
    questions: SyncSender<ShardQuestion>,
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
    questions: Receiver<ShardQuestion>,
    verdicts: Receiver<Vec<Answered>>,
    wake: EventFd,
}

/// A line to one shard.
pub(super) fn line() -> io::Result<(OrderSender, VerdictSender, OrderReceiver)> {
    let (sender, orders) = mpsc::sync_channel(ORDERS_MAX);
    let (question_sender, questions) = mpsc::sync_channel(QUESTIONS_MAX);
    let (verdict_sender, verdicts) = mpsc::sync_channel(VERDICTS_MAX);
    let wake = EventFd::new()?;
    Ok((
        OrderSender { orders: sender, questions: question_sender, wake: wake.reader()? },
        VerdictSender { verdicts: verdict_sender, wake: wake.reader()? },
        OrderReceiver { orders, questions, verdicts, wake },
    ))
}

impl OrderSender {
    /// Tells the shard, which takes it up in its next turn.
    pub(super) fn send(&mut self, order: Order) {
        match self.orders.try_send(order) {
            Ok(()) => self.wake(),
            // A shard that has ended needs no orders; its end is news of its own.
            Err(TrySendError::Disconnected(_)) => {}
            Err(TrySendError::Full(_)) => panic!("one change at a time, and one end"),
        }
    }

    /// Asks the shard, which answers in its next turn. A question that finds no room is dropped, by which
    /// whoever has asked it is told.
    pub(super) fn ask(&mut self, question: ShardQuestion) {
        if self.questions.try_send(question).is_ok() {
            self.wake();
        }
    }

    /// Has the shard stand still; one that does already needs no more.
    pub(super) fn stall(&mut self) {
        if self.orders.try_send(Order::Stall).is_ok() {
            self.wake();
        }
    }

    fn wake(&mut self) {
        let _ = self.wake.write_all(&1u64.to_ne_bytes());
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
    questions: Receiver<ShardQuestion>,
    verdicts: Receiver<Vec<Answered>>,
    /// Whether there may be some: a turn without orders looks at no more than this.
    arrived: Rc<Cell<bool>>,
}

impl OrderReceiver {
    /// Takes it into use on this core; orders ring `bell`.
    pub(super) fn open(self, bell: &Rc<Bell>) -> io::Result<Orders> {
        let (orders, wake, signalled) = self.split(bell);
        bell::watch(&wake, signalled)?;
        Ok(orders)
    }

    /// The orders, and what is to be done whenever the eventfd was signalled.
    fn split(self, bell: &Rc<Bell>) -> (Orders, EventFd, impl Fn() + 'static) {
        let OrderReceiver { orders, questions, verdicts, wake } = self;
        let arrived = Rc::new(Cell::new(false));
        let (flag, bell) = (Rc::clone(&arrived), Rc::clone(bell));
        let signalled = move || {
            flag.set(true);
            bell.ring();
        };
        (Orders { orders, questions, verdicts, arrived }, wake, signalled)
    }
}

impl Orders {
    /// The next order.
    pub(super) fn poll(&self) -> Option<Order> {
        if !self.arrived.get() {
            return None;
        }
        let verdicts = || self.verdicts.try_recv().ok().map(Order::Verdicts);
        let questions = || self.questions.try_recv().ok().map(Order::Asked);
        let order = self.orders.try_recv().ok().or_else(verdicts).or_else(questions);
        self.arrived.set(order.is_some());
        order
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::task::{Context, Wake, Waker};

    use super::*;

    #[test]
    fn what_is_installed_is_told_once_although_there_was_no_room() {
        let (sender, news) = mpsc::sync_channel(2);
        sender.try_send(News::Ready).expect("there is room");
        let mut installs = Installs::default();
        [7, 7, 8].into_iter().for_each(|number| installs.note(number));
        installs.tell(&sender);
        let mut told = Vec::new();
        for _ in 0..3 {
            for item in news.try_iter() {
                if let News::Installed(number) = item {
                    told.push(number);
                }
            }
            installs.tell(&sender);
        }
        assert_eq!(told, [7, 7, 8]);
    }

    /// Every way in which choices can fall, one after another.
    #[derive(Default)]
    struct Choices {
        /// What was chosen in this way, and of how many.
        taken: Vec<(usize, usize)>,
        at: usize,
    }

    impl Choices {
        fn choose(&mut self, among: usize) -> usize {
            if self.at == self.taken.len() {
                self.taken.push((0, among));
            }
            self.at += 1;
            self.taken[self.at - 1].0
        }

        /// Goes on to the next way. False: there is none.
        fn next(&mut self) -> bool {
            self.at = 0;
            while let Some((chosen, among)) = self.taken.pop() {
                if chosen + 1 < among {
                    self.taken.push((chosen + 1, among));
                    return true;
                }
            }
            false
        }
    }

    /// A task that was woken.
    #[derive(Default)]
    struct Woken(AtomicBool);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    /// Where the shard is: looking for orders, about to look again after others on its core, about to sleep, or
    /// asleep.
    #[derive(Clone, Copy, PartialEq, Eq)]
    enum Shard {
        Turns,
        Yields,
        LiesDown,
        Sleeps,
    }

    #[test]
    fn questions_beyond_the_bound_are_refused_and_orders_are_taken_beside_them() {
        let (mut orders, _, receiver) = line().expect("there is an eventfd");
        let (inbox, _eventfd, signalled) = receiver.split(&Rc::new(Bell::default()));
        let mut asked = Vec::new();
        for number in 0..QUESTIONS_MAX + 10 {
            let (question, mut is_refused) = ShardQuestion::for_test();
            orders.ask(question);
            assert_eq!(is_refused(), number >= QUESTIONS_MAX);
            asked.push(is_refused);
        }
        for _ in 0..ORDERS_MAX {
            orders.send(Order::Drain(Duration::ZERO));
        }
        // Of these the last finds no room, and needs none.
        orders.stall();
        signalled();
        for _ in 0..ORDERS_MAX {
            assert!(matches!(inbox.poll(), Some(Order::Drain(_))));
        }
        for is_refused in &mut asked[..QUESTIONS_MAX] {
            assert!(!is_refused());
            assert!(matches!(inbox.poll(), Some(Order::Asked(_))));
        }
        assert!(inbox.poll().is_none());
    }

    /// Has the monitor, which asks questions too, and the hooks thread send `sent` orders, verdicts and
    /// questions to a shard, one step of somebody after another: a push, a signal, a read of the eventfd, a
    /// look. Returns how many have arrived once nobody can go on. With `pushes_first` each pushes before it
    /// signals.
    fn run(choices: &mut Choices, sent: [usize; 3], pushes_first: bool) -> usize {
        let (orders, verdicts, receiver) = line().expect("there is an eventfd");
        let bell = Rc::new(Bell::default());
        let (inbox, _eventfd, signalled) = receiver.split(&bell);
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        // Of each sender: steps that it has made, two for each thing sent.
        let mut steps = [0; 3];
        let mut counter = 0_u64;
        let mut has_read = false;
        let mut shard = Shard::Turns;
        let mut was_busy = false;
        let mut arrived = 0;
        loop {
            let can_send = |who: usize| steps[who] < 2 * sent[who];
            // Other tasks of the core run only when the shard's has let them.
            let can_signal = has_read && matches!(shard, Shard::Yields | Shard::Sleeps);
            let can_turn = shard != Shard::Sleeps || woken.0.load(Ordering::Relaxed);
            let can_read = counter > 0 && !has_read;
            let can = [can_send(0), can_send(1), can_send(2), can_read, can_signal, can_turn];
            let able: Vec<usize> = (0..can.len()).filter(|&who| can[who]).collect();
            if able.is_empty() {
                return arrived;
            }
            match able[choices.choose(able.len())] {
                who @ 0..3 => {
                    let is_push = (steps[who] % 2 == 0) == pushes_first;
                    steps[who] += 1;
                    match (is_push, who) {
                        (false, _) => counter += 1,
                        (true, 0) => {
                            let order = Order::Drain(Duration::ZERO);
                            orders.orders.try_send(order).expect("there is room");
                        }
                        (true, 1) => {
                            verdicts.verdicts.try_send(Vec::new()).expect("there is room");
                        }
                        (true, _) => {
                            let (question, _) = ShardQuestion::for_test();
                            orders.questions.try_send(question).expect("there is room");
                        }
                    }
                }
                3 => (counter, has_read) = (0, true),
                4 => {
                    has_read = false;
                    signalled();
                }
                _ => match shard {
                    Shard::Turns if inbox.poll().is_some() => {
                        arrived += 1;
                        was_busy = true;
                    }
                    Shard::Turns if std::mem::take(&mut was_busy) => shard = Shard::Yields,
                    Shard::Turns => shard = Shard::LiesDown,
                    Shard::Yields => shard = Shard::Turns,
                    Shard::LiesDown | Shard::Sleeps => {
                        woken.0.store(false, Ordering::Relaxed);
                        let waits = pin!(bell.wait());
                        let is_rung = waits.poll(&mut Context::from_waker(&waker)).is_ready();
                        shard = if is_rung { Shard::Turns } else { Shard::Sleeps };
                    }
                },
            }
        }
    }

    /// In how many ways all arrived, and in how many not.
    fn search(sent: [usize; 3], pushes_first: bool) -> (usize, usize) {
        let (mut choices, mut whole, mut short) = (Choices::default(), 0, 0);
        loop {
            match run(&mut choices, sent, pushes_first) == sent.iter().sum::<usize>() {
                true => whole += 1,
                false => short += 1,
            }
            if !choices.next() {
                return (whole, short);
            }
        }
    }

    #[test]
    fn no_order_is_left_with_a_shard_asleep_however_the_steps_of_the_threads_fall() {
        for sent in [[1, 0, 0], [0, 1, 0], [0, 0, 1], [2, 0, 0], [1, 1, 0], [1, 0, 1], [0, 1, 1]] {
            let (whole, short) = search(sent, true);
            assert!(whole > 5 && short == 0, "{sent:?}: {whole} arrive, {short} do not");
        }
        let (_, short) = search([1, 0, 0], false);
        assert!(short > 0, "the search finds what a signal before the push loses");
    }
}
