//! The pump: turns the socket rings of one shard for as long as there is work, then sleeps.
//!
//! A turn is: take what has completed, run the shard, send what is owed. Turns follow each other
//! through the executor's reactor, so that mail, timers and files get their share.

use std::io;
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant, SystemTime};

use futures_lite::future;
use glommio::timer::Timer;

use super::ServerConfig;
use super::bell::{self, Bell};
use super::journal::JournalFiles;
use super::log::Log;
use super::mesh::MeshEnds;
use super::orders::{Installs, News, Order, Orders, Report};
use super::tls::TlsSockets;
use crate::admin::{ShardQuestion, Watcher};
use crate::base::{Level, LogLine, Now};
use crate::hooks::{HookMail, HookSender};
use crate::shard::Shard;
use crate::sys::listener::Listener;
use crate::sys::{DOORS, Door, Event, EventFd, Slot, SocketRing, SocketRingConfig};
use crate::tls::Acceptor;

/// Completions taken and sends submitted in one turn: bounds the time between two looks at the mail.
const BATCH: usize = 512;

/// Where clients come in who speak plainly, and those who speak TLS.
const PLAIN_DOOR: Door = Door(0);
const TLS_DOOR: Door = Door(1);

/// What a shard accepts clients from.
pub(super) struct Listeners {
    /// For those who speak plainly.
    pub plain: Option<Listener>,
    /// For those who speak TLS, and what their handshakes are made with.
    pub tls: Option<(Listener, Acceptor)>,
}

/// Slots that a ring keeps free, at most: a multishot accept runs ahead of its cancellation, by as many
/// connections as wait, and the kernel drops one that finds no slot. Small tables keep an eighth free.
pub(super) const ACCEPT_RESERVE_MAX: u32 = 1024;

/// Sockets up to which a ring accepts.
pub(super) fn accept_max(ring: &SocketRingConfig) -> u32 {
    ring.table_entries - (ring.table_entries / 8).min(ACCEPT_RESERVE_MAX)
}

/// Time between two reports of a shard whose clients are sent away, at most.
const DRAIN_REPORT_INTERVAL: Duration = Duration::from_millis(100);

/// How long accepting rests after it has failed, for want of memory or files, say.
const ACCEPT_PAUSE_MS: u64 = 100;

/// Pause before a ring is made again for which there was no memory; each further one is twice as long, up
/// to where it is given up.
const RING_PAUSE_FIRST: Duration = Duration::from_millis(10);
const RING_PAUSE_MAX: Duration = Duration::from_secs(3);

/// How soon mail is tried again that the mesh had no room for.
const MESH_RETRY: Duration = Duration::from_micros(200);

/// Longest sleep; timers of the shard usually end it earlier.
const SLEEP_MAX: Duration = Duration::from_secs(1);

/// The clocks of one shard.
pub(super) struct Clock {
    started: Instant,
}

impl Clock {
    pub(super) fn start() -> Clock {
        Clock { started: Instant::now() }
    }

    /// Both clocks; read once per turn.
    pub(super) fn read(&self) -> Now {
        self.read_at(Instant::now())
    }

    /// The same for an instant that was just now.
    fn read_at(&self, instant: Instant) -> Now {
        let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let mono_ms = instant.duration_since(self.started).as_millis() as u64;
        Now { mono_ms, unix_ms: unix.as_millis() as u64 }
    }

    /// Microseconds since the start, for what is measured; wraps around.
    fn micros_at(&self, instant: Instant) -> u32 {
        instant.duration_since(self.started).as_micros() as u32
    }
}

/// What connects a shard with the rest of the process.
pub(super) struct Line {
    /// Of this shard.
    pub shard: usize,
    pub orders: Orders,
    pub news: SyncSender<News>,
    /// Where events for rules go.
    pub hooks: HookSender,
    /// The files of the message log, if there is one.
    pub files: Option<JournalFiles>,
    pub log: Log,
    pub clock: Clock,
    /// Time between two reports.
    pub report_interval: Duration,
}

pub(super) struct Pump {
    shard: Shard,
    /// One or more: a ring's table of direct descriptors is limited by `RLIMIT_NOFILE`.
    rings: Vec<SocketRing>,
    table_entries: u32,
    /// Sockets up to which a ring accepts.
    accept_max: u32,
    connections_max: u32,
    /// For how long turns go on that find nothing to do.
    busy_poll: Duration,
    /// By door; `None`: there is none, or no more clients are accepted.
    listeners: [Option<Listener>; DOORS],
    tls: TlsSockets,
    mesh: MeshEnds,
    bell: Rc<Bell>,
    line: Line,
    report: Report,
    report_at_ms: u64,
    is_ready: bool,
    installs: Installs,
    has_told_drained: bool,
    /// Why it could not be found out where a client comes from.
    unlearnt: Option<i32>,
    /// Whether that was told since the last reload.
    has_told_unlearnt: bool,
    /// Who watches publications, by the number that the shard knows them under.
    watchers: Vec<(u64, Watcher)>,
    /// After a failed accept the next one waits until then, so that a lasting failure does not spin.
    accept_after_ms: u64,
}

impl Pump {
    pub(super) async fn new(
        config: &ServerConfig,
        shard: Shard,
        listeners: Listeners,
        mesh: MeshEnds,
        bell: Rc<Bell>,
        mut line: Line,
    ) -> io::Result<Pump> {
        let table_entries = config.ring.table_entries;
        let accept_max = accept_max(&config.ring);
        let mut rings = Vec::new();
        for _ in 0..config.ring_count() {
            let mut ring = make_ring(&config.ring, &mut line).await?;
            let eventfd = EventFd::new()?;
            ring.register_eventfd(&eventfd)?;
            let rung = Rc::clone(&bell);
            bell::watch(&eventfd, move || rung.ring())?;
            rings.push(ring);
        }
        let mut tls = TlsSockets::default();
        let tls_listener = listeners.tls.map(|(listener, acceptor)| {
            tls.set_acceptor(acceptor);
            listener
        });
        Ok(Pump {
            shard,
            rings,
            table_entries,
            accept_max,
            connections_max: config.connections_max,
            busy_poll: Duration::from_micros(config.busy_poll_us.into()),
            listeners: [listeners.plain, tls_listener],
            tls,
            mesh,
            bell,
            line,
            report: Report { transports_max: config.connections_max.into(), ..Report::default() },
            report_at_ms: 0,
            is_ready: false,
            installs: Installs::default(),
            has_told_drained: false,
            unlearnt: None,
            has_told_unlearnt: false,
            watchers: Vec::new(),
            accept_after_ms: 0,
        })
    }

    /// Runs until a ring or the mesh fails, which only a fault of ours or of the host can cause.
    pub(super) async fn run(mut self) -> io::Result<()> {
        let mut spins_until = None;
        loop {
            let (busy, mail_waits) = self.turn()?;
            if busy {
                spins_until = None;
            }
            if busy || self.spins(&mut spins_until) {
                // A timer that is due already: one pass through the reactor and back.
                Timer::new(Duration::ZERO).await;
                continue;
            }
            self.rings.iter_mut().for_each(SocketRing::arm_wakeup);
            // What completed before the rings were armed has rung no bell.
            if !self.rings.iter_mut().any(SocketRing::has_work) {
                self.report.sleeps += 1;
                let longest = if mail_waits { MESH_RETRY } else { self.sleep() };
                let timer = async {
                    Timer::new(longest).await;
                };
                let asleep = Instant::now();
                future::or(self.bell.wait(), timer).await;
                self.report.slept += asleep.elapsed();
            }
            self.rings.iter_mut().for_each(SocketRing::disarm_wakeup);
        }
    }

    /// Whether a turn without work is followed by another at once: what comes then is served without the
    /// time that waking up takes, for the price of a core that is not idle.
    fn spins(&self, until: &mut Option<Instant>) -> bool {
        if self.busy_poll.is_zero() {
            return false;
        }
        let now = Instant::now();
        now < *until.get_or_insert(now + self.busy_poll)
    }

    fn sleep(&self) -> Duration {
        let now_ms = self.line.clock.read().mono_ms;
        let due = self.shard.next_timeout().unwrap_or(u64::MAX).min(self.report_at_ms);
        Duration::from_millis(due.saturating_sub(now_ms)).clamp(Duration::from_millis(1), SLEEP_MAX)
    }

    /// One turn. The first answer is whether another should follow at once, the second whether mail
    /// is left that the mesh had no room for.
    fn turn(&mut self) -> io::Result<(bool, bool)> {
        let began = Instant::now();
        let now = self.line.clock.read_at(began);
        self.shard.begin_turn(now);
        self.shard.set_clock_us(self.line.clock.micros_at(began));
        self.report.turns += 1;
        let depth: usize = self.rings.iter_mut().map(SocketRing::depth).sum();
        self.report.ring_depth = self.report.ring_depth.max(depth as u64);
        let mut busy = false;
        while let Some(order) = self.line.orders.poll() {
            match order {
                Order::Drain(window) => self.shard.begin_drain(window),
                Order::Reload(number, directory) => self.shard.reload(number, &directory),
                Order::Rules(number, rules) => self.shard.replace_rules(number, rules),
                Order::Verdicts(answered) => {
                    answered.into_iter().for_each(|answered| self.shard.handle_verdict(answered));
                }
                Order::Accept(number, acceptor) => {
                    self.tls.set_acceptor(acceptor);
                    self.installs.note(number);
                }
                Order::Limit(number, limits) => {
                    self.shard.set_limits(&limits);
                    self.has_told_unlearnt = false;
                    self.installs.note(number);
                }
                Order::Asked(question) => self.answer(question),
                Order::Stall => loop {
                    std::thread::park();
                },
            }
            busy = true;
        }
        for index in 0..self.rings.len() {
            // Completions of last turn's sends lie ready; others wait for us to let the kernel post.
            self.rings[index].submit_if_needed()?;
            busy |= self.reap(now, index) > 0;
        }
        busy |= self.tls.shake_hands(&mut self.shard);
        let mail = self.mesh.deliver_to(&mut self.shard);
        self.report.mesh_depth = self.report.mesh_depth.max(mail as u64);
        busy |= mail > 0;
        if let Some(files) = &self.line.files {
            busy |= files.deliver_to(&mut self.shard);
        }
        self.shard.handle_timeout();
        self.shard.settle();
        let mail_waits = self.mesh.collect_from(&mut self.shard)? | self.hand_over_hooks();
        if let Some(files) = &self.line.files {
            files.collect_from(&mut self.shard);
        }
        self.pause_and_resume();
        self.learn_peers();
        busy |= self.send();
        self.close();
        self.accept(now);
        for ring in &mut self.rings {
            ring.submit_if_needed()?;
        }
        while let Some(line) = self.shard.poll_log() {
            self.line.log.line(line);
        }
        self.show_tapped();
        if now.mono_ms >= self.report_at_ms {
            self.forget_watchers();
        }
        self.report.turn_us.observe(began.elapsed().as_micros() as u64);
        self.tell(now);
        busy |= self.rings.iter_mut().any(SocketRing::has_work);
        Ok((busy, mail_waits))
    }

    /// Stops reading from clients that are too far ahead, and reads from others again.
    fn pause_and_resume(&mut self) {
        while let Some((transport, reads)) = self.shard.poll_reading() {
            let (ring, slot) = self.place(transport);
            match reads {
                true => self.rings[ring].resume_receive(slot),
                false => self.rings[ring].pause_receive(slot),
            }
        }
    }

    /// Has the rings find out where clients come from that were let in before that counted.
    fn learn_peers(&mut self) {
        while let Some(transport) = self.shard.poll_stranger() {
            let (ring, slot) = self.place(transport);
            if !self.rings[ring].learn_peer(slot) {
                self.unlearnt = Some(libc::ENOSYS);
            }
        }
        if let Some(errno) = self.unlearnt.take()
            && !std::mem::replace(&mut self.has_told_unlearnt, true)
        {
            let text = "clients that came before addresses were counted are not counted";
            let line = LogLine::new(Level::Warn, text).with("shard", self.line.shard);
            self.line.log.line(line.with("error", io::Error::from_raw_os_error(errno)));
        }
    }

    /// Hands over what is for rules. True when some is left.
    fn hand_over_hooks(&mut self) -> bool {
        let shard = &mut self.shard;
        let has_some = shard.has_hooks() || shard.has_inquiries();
        let take = || HookMail { events: shard.take_hooks(), inquiries: shard.take_inquiries() };
        has_some && !self.line.hooks.try_send(take)
    }

    /// Tells the shard what has completed on one ring.
    fn reap(&mut self, now: Now, ring_index: usize) -> usize {
        let (shard, tls) = (&mut self.shard, &mut self.tls);
        let accept_after_ms = &mut self.accept_after_ms;
        let report = &mut self.report;
        let (log, id) = (&mut self.line.log, self.line.shard);
        let unlearnt = &mut self.unlearnt;
        let first = ring_index as u32 * self.table_entries;
        let mut accepted = Vec::new();
        let count = self.rings[ring_index].reap(BATCH, |event| match event {
            Event::Accepted(slot, door, peer) => {
                shard.handle_accept(first + slot.0, peer);
                if door == TLS_DOOR {
                    tls.handle_accept(first + slot.0);
                }
                accepted.push(slot);
            }
            // Stopped by us, or the multishot has run out.
            Event::AcceptStopped(_, 0 | libc::ECANCELED) => {}
            Event::AcceptStopped(_, errno) => {
                *accept_after_ms = now.mono_ms + ACCEPT_PAUSE_MS;
                report.accept_failures += 1;
                let error = io::Error::from_raw_os_error(errno);
                let line = LogLine::new(Level::Error, "accept failed").with("error", error);
                log.line(line.with("shard", id));
            }
            Event::Received(slot, bytes) => {
                report.received_bytes += bytes.len() as u64;
                if !tls.handle_bytes(shard, first + slot.0, bytes) {
                    shard.handle_bytes(first + slot.0, bytes);
                }
            }
            Event::ReceiveEnded(slot, _) => tls.handle_receive_end(shard, first + slot.0),
            Event::Sent(slot, result) => {
                report.sent_bytes += u64::from(result.unwrap_or(0));
                if !tls.handle_sent(shard, first + slot.0, result) {
                    shard.handle_sent(first + slot.0, result);
                }
            }
            Event::Closed(slot) => shard.handle_closed(first + slot.0),
            Event::Peer(slot, Ok(peer)) => shard.handle_peer(first + slot.0, peer),
            // It has gone meanwhile.
            Event::Peer(_, Err(libc::ENOTCONN)) => {}
            Event::Peer(_, Err(errno)) => *unlearnt = Some(errno),
            Event::Connected(..) => unreachable!("the daemon connects to nobody through its rings"),
        });
        for slot in accepted {
            self.rings[ring_index].start_receive(slot);
        }
        count
    }

    /// Submits up to a batch of sends. True when there may be more.
    fn send(&mut self) -> bool {
        // What has come in or was sent this turn; a batch bounds it too.
        self.send_ciphertext();
        let mut count = 0;
        while count < BATCH
            && let Some((transport, bytes)) = self.shard.poll_transmit()
        {
            match self.tls.transmit(transport, bytes) {
                Ok(()) => self.send_ciphertext(),
                Err(bytes) => {
                    let (ring, slot) = self.place(transport);
                    self.rings[ring].send(slot, bytes);
                }
            }
            count += 1;
        }
        if count > 0 {
            self.report.turn_sends.observe(count as u64);
        }
        count == BATCH
    }

    /// Tells an operator what the shard holds.
    fn answer(&mut self, question: ShardQuestion) {
        match question {
            ShardQuestion::Connections(query, reply) => {
                reply.send(self.shard.list_connections(&query));
            }
            ShardQuestion::Channels(query, reply) => reply.send(self.shard.list_channels(&query)),
            ShardQuestion::Tail(filter, watcher, reply) => {
                let id = self.shard.add_tap(filter);
                self.watchers.extend(id.map(|id| (id, watcher)));
                reply.send(id.is_some());
            }
        }
    }

    /// Hands over publications to whoever watches; what finds no room is counted.
    fn show_tapped(&mut self) {
        while let Some((id, event)) = self.shard.poll_tapped() {
            let watcher = self.watchers.iter().find(|(of, _)| *of == id);
            let Some((_, watcher)) = watcher else { continue };
            // Those before it were to be told with it.
            let count = 1 + event.dropped;
            if !watcher.show(event) {
                self.shard.drop_tapped(id, count);
            }
        }
    }

    /// Forgets who does not watch any more.
    fn forget_watchers(&mut self) {
        let shard = &mut self.shard;
        self.watchers.retain(|(id, watcher)| {
            if watcher.has_gone() {
                shard.remove_tap(*id);
            }
            !watcher.has_gone()
        });
    }

    fn send_ciphertext(&mut self) {
        while let Some((transport, bytes)) = self.tls.poll_send(&mut self.shard) {
            let (ring, slot) = self.place(transport);
            self.rings[ring].send(slot, bytes);
        }
    }

    fn close(&mut self) {
        while let Some(transport) = self.shard.poll_shut_down() {
            if !self.tls.shut_down(transport) {
                let (ring, slot) = self.place(transport);
                self.rings[ring].shut_down_write(slot);
            }
        }
        self.send_ciphertext();
        while let Some(transport) = self.tls.poll_shut_down() {
            let (ring, slot) = self.place(transport);
            self.rings[ring].shut_down_write(slot);
        }
        while let Some(transport) = self.shard.poll_close() {
            let (ring, slot) = self.place(transport);
            if let Some(bytes) = self.tls.close(transport) {
                self.rings[ring].send(slot, bytes);
            }
            self.rings[ring].close(slot);
        }
    }

    /// Keeps one accept armed for each door, on the first ring that has room, and none when all are full.
    fn accept(&mut self, now: Now) {
        for door in [PLAIN_DOOR, TLS_DOOR] {
            self.accept_at(now, door);
        }
    }

    fn accept_at(&mut self, now: Now, door: Door) {
        let Some(listener) = &self.listeners[usize::from(door.0)] else { return };
        let accepting = self.rings.iter().position(|ring| ring.is_accepting(door));
        if self.shard.is_draining() {
            match accepting {
                Some(index) => self.rings[index].stop_accept(door),
                // From here on the kernel refuses, unless the socket is not ours alone.
                None => self.listeners[usize::from(door.0)] = None,
            }
            return;
        }
        let learns = self.shard.wants_addresses();
        let open: u32 = self.rings.iter().map(SocketRing::open_slots).sum();
        let has_room = |ring: &SocketRing| ring.open_slots() < self.accept_max;
        match accepting {
            Some(index) if open >= self.connections_max || !has_room(&self.rings[index]) => {
                self.rings[index].stop_accept(door);
            }
            // A reload has changed what is to be known of them; it goes on in the other way.
            Some(index) if self.rings[index].learns_addresses(door) != learns => {
                self.rings[index].stop_accept(door);
            }
            Some(_) => {}
            None if open < self.connections_max && now.mono_ms >= self.accept_after_ms => {
                if let Some(index) = self.rings.iter().position(has_room) {
                    self.rings[index].start_accept(door, listener.as_raw_fd(), learns);
                }
            }
            None => {}
        }
    }

    /// Tells the monitor what it is to know.
    fn tell(&mut self, now: Now) {
        let Line { shard: id, news, report_interval, .. } = &self.line;
        if !self.is_ready {
            self.is_ready = news.try_send(News::Ready).is_ok();
        }
        self.shard.take_installed().into_iter().for_each(|number| self.installs.note(number));
        self.installs.tell(news);
        if now.mono_ms >= self.report_at_ms {
            // How many were left is told to the operator if the end comes before theirs.
            let interval = match self.shard.is_draining() {
                true => DRAIN_REPORT_INTERVAL.min(*report_interval),
                false => *report_interval,
            };
            self.report_at_ms = now.mono_ms + interval.as_millis() as u64;
            self.report.at = Duration::from_millis(now.mono_ms);
            self.report.histograms = self.shard.histograms();
            self.report.counters = self.shard.counters();
            self.report.gauges = self.shard.gauges();
            self.report.tls = self.tls.counters;
            let report = Box::new(self.report);
            (self.report.ring_depth, self.report.mesh_depth) = (0, 0);
            // One that finds no room is left out: the next one says the same with later numbers.
            let _ = news.try_send(News::Report { shard: *id, report });
        }
        let is_drained = self.listeners.iter().all(Option::is_none) && self.shard.is_drained();
        if is_drained && !self.has_told_drained {
            self.has_told_drained = news.try_send(News::Drained).is_ok();
        }
    }

    fn place(&self, transport: u32) -> (usize, Slot) {
        ((transport / self.table_entries) as usize, Slot(transport % self.table_entries))
    }
}

/// Makes a ring. Where the kernel takes its pages from (6.18 does so by the batch, and waits for none), there
/// may be too few at hand while files fill the memory, however much of it could be had a moment later.
async fn make_ring(config: &SocketRingConfig, line: &mut Line) -> io::Result<SocketRing> {
    let mut pause = RING_PAUSE_FIRST;
    loop {
        match SocketRing::new(config) {
            Err(error) if error.raw_os_error() == Some(libc::ENOMEM) && pause < RING_PAUSE_MAX => {
                let text = "no memory at hand for a socket ring; it is tried again";
                let told = LogLine::new(Level::Info, text).with("shard", line.shard);
                line.log.line(told.with("in_ms", pause.as_millis()));
                Timer::new(pause).await;
                pause *= 2;
            }
            made => return made,
        }
    }
}
