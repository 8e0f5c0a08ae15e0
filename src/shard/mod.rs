//! Everything that one core owns: its transports and connections, the streams that its clients
//! subscribe to, the channels that are at home here, the mail to other shards.
//!
//! No I/O: `server` calls `handle_*` with what has happened, then [`Shard::settle`], and carries out
//! what `poll_*` return. The parts, each an `impl Shard` of its own file:
//!
//! | file | what |
//! | --- | --- |
//! | `mod.rs` | transports from accept to close, the choice of the next send |
//! | `http.rs` | HTTP requests and the WebSocket handshake |
//! | `realtime.rs` | what a client's protocol messages ask for |
//! | `auth.rs` | tokens of connections: their end, the next one |
//! | `admission.rs` | who may come in |
//! | `seats.rs` | how many of an address or a key may |
//! | `attach.rs` | from ATTACH to a cursor in a stream, and back |
//! | `dormant.rs` | connections between two transports |
//! | `fanout.rs` | frames into the logs of streams |
//! | `encode.rs` | one frame for all who see the same |
//! | `events.rs` | streams of events over HTTP |
//! | `stats.rs` | what is counted for each app |
//! | `occupancy.rs` | how many attachments channels have |
//! | `lifecycle.rs` | what metachannels tell of channels and connections |
//! | `presence.rs` | what clients ask of their members, and what becomes of those with a connection |
//! | `homes.rs` | channels at home: opened, subscribed to, joined, asked |
//! | `publish.rs` | what is published to them, on its way to all subscribers |
//! | `members.rs` | who is present on them |
//! | `forget.rs` | when channels at home run out |
//! | `held.rs` | clients that publish faster than they are confirmed |
//! | `durable.rs` | channels that outlive the process |
//! | `owed.rs` | what they have told and nobody hears before it is safe on disk |
//! | `past.rs` | what is kept of them, on its way back |
//! | `replays.rs` | what was made lately for those who have missed something |
//! | `hooks.rs` | events on their way to the endpoints of rules |
//! | `gate.rs` | publishes that wait for the answer of a rule |
//! | `pace.rs` | how fast such publishes go on that were decided together |
//! | `registrar.rs` | changes of the directory |
//! | `gauges.rs` | how much it holds, how long things take |
//! | `inspect.rs` | what operators see of it |
//! | `drain.rs` | the end: clients are sent away at a pace |

mod admission;
mod attach;
mod auth;
mod dormant;
mod drain;
mod durable;
mod encode;
mod events;
mod fanout;
mod forget;
mod gate;
mod gauges;
mod held;
mod homes;
mod hooks;
mod http;
mod inspect;
mod lifecycle;
mod mail;
mod members;
mod nonces;
mod occupancy;
mod owed;
mod pace;
mod past;
mod presence;
mod publish;
mod realtime;
mod registrar;
mod replays;
mod seats;
mod stats;
mod streams;
mod transport;

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use self::admission::ConnectBucket;
pub use self::admission::{AdmissionConfig, Refusals, SeatError};
use self::dormant::DormantConnections;
use self::drain::Drain;
use self::encode::Joining;
use self::gate::Gates;
use self::gauges::PublishTimer;
use self::held::Held;
use self::homes::Homes;
use self::hooks::HookOutbox;
use self::inspect::Taps;
use self::lifecycle::Lifecycles;
use self::nonces::Nonces;
use self::pace::Pacing;
use self::registrar::{Enforcement, Registrar};
use self::seats::{Addresses, Seats};
pub use self::seats::{Holder, Seat};
use self::stats::Stats;
use self::streams::Streams;
use self::transport::{Ending, InFlight, Stage, Transport};
use crate::ably::{Directory, ErrorCode, ErrorInfo, Metrics, SeriesId};
use crate::base::{Entropy, Level, LogLine, Now, Wheel};
use crate::channel::ChannelKey;
use crate::channel::history::HistoryConfig;
use crate::channel::home::Subscriber;
use crate::channel::log::{Due, Owed, TransportRef};
use crate::connection::ConnectionConfig;
use crate::http::RequestParser;
use crate::journal::JournalCounters;
use crate::sys::SendBuf;

pub use self::drain::DRAIN_GRACE;
pub use self::gauges::{Gauges, Histograms};
pub use self::inspect::{
    ChannelRow, ChannelsPage, ChannelsQuery, ConnectionOrder, ConnectionRow, ConnectionsPage,
    ConnectionsQuery, TAPS_MAX, TapFilter, Tapped,
};
use self::mail::Outbox;
pub use self::mail::{Joined, Mail, ReturnAddress};

/// Bytes that an open channel with a subscriber takes, at most, beside its history; docs/configuration.md.
pub const BYTES_PER_CHANNEL: u64 = 1850;

/// Limits of one shard; each bounds memory or time.
#[derive(Clone, Debug)]
pub struct ShardConfig {
    /// Limits of one connection.
    pub connection: ConnectionConfig,
    /// Bounds of the history in memory.
    pub history: HistoryConfig,
    /// How long a client may take for a request head, however it comes, or stay silent; a body may take six
    /// times as long.
    pub head_timeout: Duration,
    /// Bytes of one HTTP body or WebSocket message.
    pub frame_bytes_max: u32,
    /// Bytes that a subscriber may lag behind its channel. What a full socket buffer holds comes on top;
    /// whoever makes this configuration has taken that off.
    pub lag_bytes_max: u32,
    /// Connections without a transport that are kept for their clients to come back; beyond it the
    /// oldest is forgotten.
    pub dormant_max: usize,
    /// Bytes of missed messages that are replayed to one attachment; one that missed more is told so.
    pub replay_bytes_max: u32,
    /// How long one send may take before its client counts as stalled.
    pub lag_max: Duration,
    /// Bytes of the presence members of one channel, their data and what goes with it.
    pub presence_bytes_max: u32,
    /// Channels that are open at home here; no other is opened beyond it.
    pub channels_max: usize,
    /// Mail that may wait for room in the mesh, per peer; beyond it, or 32 MiB of messages, publishes are
    /// refused.
    pub mail_max: usize,
    /// Publishes of one channel that may wait for the answers of rules; one more is refused.
    pub line_max: usize,
    /// Who may come in, and how many.
    pub admission: AdmissionConfig,
    /// Origins of the pages that may use the daemon; none: any page.
    pub origins: Vec<Box<str>>,
    /// Bytes from which on a message is compressed for those who understand it; `None`: nobody is offered
    /// that.
    pub deflate_bytes_min: Option<u32>,
    /// Serves `/echo`, for conformance tests.
    pub echo: bool,
    /// Lets clients make apps and delete them.
    pub sandbox: bool,
}

impl Default for ShardConfig {
    fn default() -> ShardConfig {
        ShardConfig {
            connection: ConnectionConfig::default(),
            history: HistoryConfig {
                retention: Duration::from_secs(120),
                persisted_retention: Duration::from_secs(24 * 60 * 60),
                channel_bytes_max: 4 << 20,
                shard_bytes_max: 64 << 20,
            },
            head_timeout: Duration::from_secs(10),
            frame_bytes_max: 512 << 10,
            lag_bytes_max: 1 << 20,
            dormant_max: 65_536,
            replay_bytes_max: 4 << 20,
            lag_max: Duration::from_secs(10),
            presence_bytes_max: 1 << 20,
            channels_max: 1_000_000,
            mail_max: 16_384,
            line_max: 1024,
            admission: AdmissionConfig::default(),
            origins: Vec::new(),
            deflate_bytes_min: None,
            echo: false,
            sandbox: false,
        }
    }
}

/// Of a [`ShardConfig`] what may change while the shard runs.
#[derive(Clone, Debug)]
pub struct Limits {
    /// As in [`ConnectionConfig`].
    pub channels_max: u32,
    /// As in [`ConnectionConfig`].
    pub messages_per_second_max: u32,
    /// As in [`ConnectionConfig`].
    pub payloads_per_second_max: u32,
    /// Who may come in, and how many.
    pub admission: AdmissionConfig,
}

impl ShardConfig {
    /// What of it may change.
    pub fn limits(&self) -> Limits {
        Limits {
            channels_max: self.connection.channels_max,
            messages_per_second_max: self.connection.messages_per_second_max,
            payloads_per_second_max: self.connection.payloads_per_second_max,
            admission: self.admission.clone(),
        }
    }
}

/// How long a closing peer gets to read what was sent last and to close its side.
const LINGER: Duration = Duration::from_secs(2);

/// A request with its body may take as many times as long as its head.
const REQUEST_TIMEOUTS: u32 = 6;

/// Longest time between two looks at a transport.
const CHECK_MAX: Duration = Duration::from_secs(5);

/// Lines for the log that may wait for `server`; more are dropped.
const LOG_LINES_MAX: usize = 64;

/// What the shard has counted since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Connections accepted.
    pub accepted: u64,
    /// Messages published at home here.
    pub published: u64,
    /// Sends of frames that ended well; one may carry several frames.
    pub stream_sends: u64,
    /// Subscribers that were disconnected because they lagged.
    pub slow_consumers: u64,
    /// Clients that were not let in.
    pub refused: Refusals,
    /// Of the message log.
    pub journal: JournalCounters,
    /// Questions that rules were asked before a publish.
    pub questions: u64,
    /// Questions that had no answer, or none that could be used.
    pub failed_questions: u64,
    /// Publishes that were refused by a rule, or for want of an answer.
    pub rejected_publishes: u64,
}

/// See the module text.
pub struct Shard {
    config: ShardConfig,
    directory: Arc<Directory>,
    id: u16,
    shards: usize,
    now: Now,
    entropy: Entropy,
    /// By index; the ring hands out the lowest free one, so the vector stays dense.
    transports: Vec<Transport>,
    /// Transports that may have something to send and nothing in flight.
    ready: VecDeque<u32>,
    /// Transports that the ring shall close.
    to_close: Vec<u32>,
    /// Transports on which nothing more will be sent, although they stay open for a while.
    to_shut_down: Vec<u32>,
    /// Transports that are leaving, by the time at which they are closed if they still are there.
    leaving: VecDeque<(u64, TransportRef)>,
    wheel: Wheel,
    /// Transports that the ring has not freed.
    open_transports: u32,
    /// Realtime connections with a transport.
    connections: u64,
    connects: ConnectBucket,
    addresses: Addresses,
    /// Of those that this shard is the home of.
    seats: Seats,
    /// The next transport to look at that may have no seat although it is counted by now; `None`: there is none.
    unseated_from: Option<u32>,
    /// Transports of which it is to be found out where they come from.
    strangers: VecDeque<u32>,
    /// `None`: clients are welcome.
    drain: Option<Box<Drain>>,
    streams: Streams,
    /// Streams with frames that were staged this turn.
    staged: Vec<u32>,
    /// Streams whose attachments have changed this turn.
    uncounted: Vec<u32>,
    /// Channels at home here whose occupancy is to be told, and when; each at most once.
    occupancy_due: VecDeque<(u64, ChannelKey)>,
    /// Streams with a round of sends under way.
    rounds: VecDeque<u32>,
    homes: Homes,
    hooks: HookOutbox,
    gates: Gates,
    pacing: Pacing,
    held: Held,
    stats: Stats,
    lifecycles: Lifecycles,
    dormant: DormantConnections,
    nonces: Nonces,
    registrar: Registrar,
    enforcement: Enforcement,
    /// Mail to each shard, oldest first; that to itself is delivered by [`Shard::settle`].
    outboxes: Vec<Outbox>,
    log: VecDeque<LogLine>,
    counters: Counters,
    histograms: Histograms,
    publish_timer: PublishTimer,
    /// The monotonic clock in microseconds, for what is measured and for nothing else; wraps around.
    clock_us: u32,
    taps: Taps,
}

impl Shard {
    /// Shard `id` of `shards`.
    pub fn new(
        config: ShardConfig,
        directory: Arc<Directory>,
        id: usize,
        shards: usize,
        mut entropy: Entropy,
        now: Now,
    ) -> Shard {
        let series = SeriesId::new(entropy.bytes());
        let (history, deflate_bytes_min) = (config.history.clone(), config.deflate_bytes_min);
        let homes = Homes::new(series, history, Arc::clone(&directory), deflate_bytes_min);
        Shard {
            nonces: Nonces::default(),
            registrar: Registrar::new(Arc::clone(&directory)),
            enforcement: Enforcement::default(),
            directory,
            id: u16::try_from(id).expect("a host has fewer CPUs"),
            shards,
            now,
            transports: Vec::new(),
            ready: VecDeque::new(),
            to_close: Vec::new(),
            to_shut_down: Vec::new(),
            leaving: VecDeque::new(),
            wheel: Wheel::new(now.mono_ms),
            open_transports: 0,
            connections: 0,
            connects: ConnectBucket::default(),
            addresses: Addresses::default(),
            seats: Seats::default(),
            unseated_from: None,
            strangers: VecDeque::new(),
            drain: None,
            streams: Streams::default(),
            staged: Vec::new(),
            uncounted: Vec::new(),
            occupancy_due: VecDeque::new(),
            rounds: VecDeque::new(),
            hooks: HookOutbox::default(),
            gates: Gates::default(),
            pacing: Pacing::default(),
            held: Held::default(),
            homes,
            stats: Stats::default(),
            lifecycles: Lifecycles::default(),
            dormant: DormantConnections::default(),
            outboxes: (0..shards).map(|_| Outbox::default()).collect(),
            log: VecDeque::new(),
            counters: Counters::default(),
            histograms: Histograms::default(),
            publish_timer: PublishTimer::default(),
            clock_us: (now.mono_ms * 1000) as u32,
            taps: Taps::default(),
            entropy,
            config,
        }
    }

    /// What was counted so far.
    pub fn counters(&self) -> Counters {
        Counters { journal: self.journal_counters(), ..self.counters }
    }

    /// Sets the time for everything until the next turn. Wall time never goes backwards here, since
    /// serials are made of it.
    pub fn begin_turn(&mut self, now: Now) {
        self.now = Now { unix_ms: now.unix_ms.max(self.now.unix_ms), ..now };
        self.clock_us = (now.mono_ms * 1000) as u32;
    }

    /// The same clock to the microsecond, for what is measured; may wrap around.
    pub fn set_clock_us(&mut self, clock_us: u32) {
        self.clock_us = clock_us;
    }

    /// From now on this is bounded like this. Connections go on, whatever they are more than; those of keys and
    /// addresses that had no bound are counted too, some each turn.
    pub fn set_limits(&mut self, limits: &Limits) {
        let Limits { channels_max, messages_per_second_max, payloads_per_second_max, .. } = *limits;
        let connection = &mut self.config.connection;
        connection.channels_max = channels_max;
        connection.messages_per_second_max = messages_per_second_max;
        connection.payloads_per_second_max = payloads_per_second_max;
        self.config.admission = limits.admission.clone();
        self.unseated_from = Some(0);
    }

    /// A client has connected at `index`, from `peer` if that is [wanted](Self::wants_addresses).
    pub fn handle_accept(&mut self, index: u32, peer: Option<IpAddr>) {
        self.counters.accepted += 1;
        self.open_transports += 1;
        while self.transports.len() <= index as usize {
            self.transports.push(Transport::unused());
        }
        let parser = RequestParser::new(self.config.frame_bytes_max);
        let transport = &mut self.transports[index as usize];
        transport.open(self.now.mono_ms, parser);
        self.watch(index);
        match peer {
            Some(peer) => self.note_peer(index, peer),
            // Let in by an accept that was armed before a reload.
            None if self.wants_addresses() => self.strangers.push_back(index),
            None => {}
        }
    }

    /// Bytes have arrived at `index`; they may be changed in place.
    pub fn handle_bytes(&mut self, index: u32, bytes: &mut [u8]) {
        let transport = &mut self.transports[index as usize];
        transport.received_ms = self.now.mono_ms;
        match transport.stage {
            Stage::Http(_) => self.handle_http_bytes(index, bytes),
            Stage::Realtime(..) => {
                // What comes too late for its token is read as from somebody who is leaving.
                self.has_good_token(index);
                self.handle_realtime_bytes(index, bytes)
            }
            Stage::Leaving(Some(_)) => self.handle_realtime_bytes(index, bytes),
            Stage::Echo(_) => self.handle_echo_bytes(index, bytes),
            Stage::Opening(_) => self.handle_early_bytes(index, bytes),
            // A listener has nothing to say.
            Stage::Events(_) => {}
            // Closing: completions of this turn that lay behind the one that made us close.
            Stage::Leaving(None) | Stage::Closing => {}
            Stage::Free => unreachable!("the ring reports open slots only"),
        }
    }

    /// The peer at `index` has closed its side, or the socket has failed.
    pub fn handle_receive_end(&mut self, index: u32) {
        let transport = &mut self.transports[index as usize];
        match &transport.stage {
            // Has closed only its own side, perhaps: what it asked for is answered first.
            Stage::Http(http) if http.waiting.is_some() || !transport.is_settled() => {
                transport.ending = Ending::Close;
                self.set_ready(index);
            }
            _ => self.close(index),
        }
    }

    /// The send at `index` has ended.
    pub fn handle_sent(&mut self, index: u32, result: Result<u32, i32>) {
        let transport = &mut self.transports[index as usize];
        let in_flight = std::mem::replace(&mut transport.in_flight, InFlight::Nothing);
        if result.is_err() {
            // The peer has gone; its receive says so too, whichever comes first.
            return self.close(index);
        }
        if let InFlight::Stream { stream, cursor, log_bytes } = in_flight {
            self.counters.stream_sends += 1;
            let log = &mut self.streams.at(stream).log;
            log.advance(cursor, log_bytes);
            // The common case ends here, without a look at the connection.
            if !log.is_behind(cursor) && !transport.has_more() {
                return;
            }
            self.events_moved(index);
        }
        // Requests may have waited for it.
        self.advance_http(index);
        self.set_ready(index);
    }

    /// The ring has freed `index`.
    pub fn handle_closed(&mut self, index: u32) {
        self.forget_peer(index);
        let transport = &mut self.transports[index as usize];
        transport.stage = Stage::Free;
        transport.in_flight = InFlight::Nothing;
        self.open_transports -= 1;
    }

    /// Looks at the transports and channels whose time has come.
    pub fn handle_timeout(&mut self) {
        while let Some(index) = self.wheel.pop_due(self.now.mono_ms) {
            let transport = &mut self.transports[index as usize];
            // One that was overtaken by an earlier one, behind which there is a later one.
            if transport.watched_until > self.wheel.last_tick() {
                continue;
            }
            transport.watched_until = 0;
            self.check(index);
        }
        let now_ms = self.now.mono_ms;
        while let Some((_, gone)) =
            self.leaving.pop_front_if(|(close_by_ms, _)| *close_by_ms <= now_ms)
        {
            let transport = &self.transports[gone.index as usize];
            if transport.generation == gone.generation
                && matches!(transport.stage, Stage::Leaving(_))
            {
                self.close(gone.index);
            }
        }
        self.expire_questions();
        self.expire_paces();
        self.expire_dormant();
        self.tell_summaries();
        self.withdraw_due_members();
        self.advance_journal();
        self.forget_due();
        self.tell_due_occupancy();
    }

    /// When [`handle_timeout`](Self::handle_timeout) wants to be called, on the monotonic clock.
    pub fn next_timeout(&self) -> Option<u64> {
        let leaving = self.leaving.front().map(|(close_by_ms, _)| *close_by_ms);
        if self.is_enforcing() || self.unseated_from.is_some() {
            return Some(self.now.mono_ms);
        }
        let others = [self.homes.next_timeout_ms(), self.dormant.next_ms(), self.next_drain_ms()];
        let question = self.gates.next_ms();
        let room = self.pacing.next_ms(self.now.mono_ms);
        let occupancy = self.occupancy_due.front().map(|(due_ms, _)| *due_ms);
        others
            .into_iter()
            .chain([self.wheel.next_ms(), leaving, occupancy, question, room])
            .flatten()
            .min()
    }

    /// Delivers mail to itself and lays out the frames of this turn, so that a round of sends finds
    /// everything that was published before it.
    pub fn settle(&mut self) {
        self.report_counts();
        self.tell_room();
        self.deliver_own_mail();
        if self.is_enforcing() {
            self.enforce_directory();
            self.deliver_own_mail();
        }
        self.count_unseated();
        self.count_channels();
        self.tell_lifecycles();
        self.deliver_own_mail();
        self.commit_staged();
        self.pacing.end_turn();
        self.advance_drain();
        if self.is_draining() && self.open_transports == 0 {
            self.end_journal();
        }
    }

    fn deliver_own_mail(&mut self) {
        loop {
            while let Some(mail) = self.outboxes[usize::from(self.id)].pop_front() {
                self.handle_mail(usize::from(self.id), mail);
            }
            if !self.advance_held() {
                break;
            }
        }
    }

    /// Mail has arrived from shard `from`.
    pub fn handle_mail(&mut self, from: usize, mail: Mail) {
        let from = from as u16;
        let mail = match &self.homes.keeping {
            None => mail,
            Some(_) => match self.wait_for_channel(from, mail) {
                Some(mail) => mail,
                None => return,
            },
        };
        match mail {
            Mail::Publish { reply_to, channel, accepted } => {
                self.handle_publish(reply_to, channel, accepted);
            }
            Mail::Published { transport, request, result } => {
                self.handle_published(transport, request, result);
            }
            Mail::Subscribe { channel, display_name, format, view, stream } => {
                let shard = from;
                let metrics = Metrics::default();
                let subscriber = Subscriber { shard, format, view, display_name, stream, metrics };
                self.handle_subscribe(channel, subscriber);
            }
            Mail::Subscribed { stream, serial, has_members } => {
                self.handle_subscribed(stream, serial, has_members);
            }
            Mail::Refused { stream, error } => self.handle_refused(stream, &error),
            Mail::Counts { channel, stream, metrics } => {
                self.handle_counts(from, &channel, stream, metrics);
            }
            Mail::Unsubscribe { channel, stream } => {
                self.handle_unsubscribe(from, &channel, stream);
            }
            Mail::Join { reply_to, channel, display_name, format, view, since, skip } => {
                let joining = Joining { display_name, format, view, since, skip };
                self.handle_join(reply_to, channel, &joining);
            }
            Mail::Joined { transport, request, joined } => {
                self.handle_joined(transport, request, *joined);
            }
            Mail::Resume { reply_to, key, principal } => {
                self.handle_resume(reply_to, &key, &principal);
            }
            Mail::Resumed { transport, result } => {
                self.handle_resumed(usize::from(from), transport, result);
            }
            Mail::GiveBack { connection } => self.handle_give_back(connection),
            Mail::ChangeMembers { reply_to, channel, change } => {
                self.handle_change_members(reply_to, &channel, *change);
            }
            Mail::MembersChanged { transport, request, result } => {
                self.handle_members_changed(transport, request, result);
            }
            Mail::Connection { channel, id, news } => self.handle_connection(&channel, id, news),
            Mail::Sync { transport, stream, channel, display_name, format } => {
                self.handle_sync(from, channel, (transport, stream), format, &display_name);
            }
            Mail::Synced { transport, stream, frames } => {
                self.handle_synced(transport, stream, frames);
            }
            Mail::Frame { stream, serial, publisher, has_members, frame, link } => {
                let frame = frame.map(|bytes| (bytes, link));
                self.handle_frame(stream, serial, publisher, has_members, frame);
            }
            Mail::Append(append) => self.handle_append(*append),
            Mail::WantRoom { channel, stream, number } => {
                self.handle_want_room(from, channel, stream, number);
            }
            Mail::Room { channel, number } => self.handle_room(&channel, number),
            Mail::Nonce { reply_to, nonce } => self.handle_nonce(reply_to, nonce),
            Mail::Change { reply_to, change } => self.handle_change(reply_to, &change),
            Mail::Directory { version, directory, enforce } => {
                self.handle_directory(version, directory, enforce);
            }
            Mail::DirectoryTaken { version } => self.handle_directory_taken(version),
            Mail::Fixture { channel, members } => self.handle_fixture(&channel, members),
            Mail::Listeners { app_id, kind, is_heard } => {
                self.handle_listeners(app_id, kind, is_heard);
            }
            Mail::Lifecycle { channel, events } => self.handle_lifecycle(&channel, &events),
            Mail::Ask { reply_to, channel, question } => {
                self.handle_ask(reply_to, &channel, &question);
            }
            Mail::FindConnection { reply_to, app_id, key } => {
                self.handle_find_connection(reply_to, &app_id, &key);
            }
            Mail::Survey { reply_to, app_id, survey } => {
                self.handle_survey(reply_to, &app_id, &survey);
            }
            Mail::TakeSeat { reply_to, seat, has_address } => {
                self.handle_take_seat(reply_to, seat, has_address);
            }
            Mail::SeatTaken { transport, request, seat, result } => {
                self.handle_seat_taken(transport, request, &seat, result);
            }
            Mail::HoldSeat(holder) => self.handle_hold_seat(holder),
            Mail::GiveBackSeat(holder) => self.handle_give_back_seat(&holder),
            Mail::Answer { transport, request, answer } => {
                self.handle_answer(transport, request, answer);
            }
        }
    }

    /// The next mail for shard `to`.
    pub fn poll_mail(&mut self, to: usize) -> Option<Mail> {
        self.outboxes[to].pop_front()
    }

    /// Takes back mail that the mesh had no room for; it stays first in line.
    pub fn return_mail(&mut self, to: usize, mail: Mail) {
        self.outboxes[to].push_front(mail);
    }

    /// The next send: a transport with nothing in flight, and bytes for it.
    pub fn poll_transmit(&mut self) -> Option<(u32, SendBuf)> {
        while let Some(index) = self.ready.pop_front() {
            self.transports[index as usize].is_ready = false;
            if let Some(bytes) = self.next_send(index) {
                return Some((index, bytes));
            }
        }
        let lag_bytes_max = u64::from(self.config.lag_bytes_max);
        while let Some(&stream_index) = self.rounds.front() {
            let transports = &self.transports;
            let due = self.streams.get_mut(stream_index).and_then(|stream| {
                stream.log.next_due(lag_bytes_max, |index| transports[index as usize].is_idle())
            });
            match due {
                Some(Due::Send { transport, cursor, owed: Owed { bytes, log_bytes } }) => {
                    let stream = stream_index;
                    self.note_send(transport, InFlight::Stream { stream, cursor, log_bytes });
                    return Some((transport, bytes));
                }
                Some(Due::Slow(index)) => self.cut_slow_consumer(index),
                None => {
                    self.rounds.pop_front();
                    if let Some(stream) = self.streams.get_mut(stream_index) {
                        stream.in_rounds = false;
                        let took_us = self.clock_us.wrapping_sub(stream.round_began_us);
                        self.histograms.round_us.observe(u64::from(took_us));
                    }
                }
            }
        }
        None
    }

    /// The next transport whose sending side is to be shut down.
    pub fn poll_shut_down(&mut self) -> Option<u32> {
        self.to_shut_down.pop()
    }

    /// The next transport to close.
    pub fn poll_close(&mut self) -> Option<u32> {
        self.to_close.pop()
    }

    /// The next open transport of which [`handle_peer`](Self::handle_peer) is to be told where it comes from.
    pub fn poll_stranger(&mut self) -> Option<u32> {
        let transports = &self.transports;
        let is_open =
            |index: u32| !matches!(transports[index as usize].stage, Stage::Free | Stage::Closing);
        std::iter::from_fn(|| self.strangers.pop_front()).find(|&index| is_open(index))
    }

    /// The next line for the log.
    pub fn poll_log(&mut self) -> Option<LogLine> {
        self.log.pop_front()
    }

    /// What `index` is owed next: its lane first, then its streams in turn.
    fn next_send(&mut self, index: u32) -> Option<SendBuf> {
        let transport = &mut self.transports[index as usize];
        if !transport.is_idle() {
            return None;
        }
        if let Some(bytes) = transport.take_lane() {
            self.note_send(index, InFlight::Unaccounted);
            return Some(bytes);
        }
        match transport.ending {
            Ending::Close if !transport.is_waiting() => {
                self.close(index);
                return None;
            }
            Ending::HalfClose => {
                transport.ending = Ending::Linger;
                self.to_shut_down.push(index);
            }
            Ending::No | Ending::Close | Ending::Linger => {}
        }
        if let Some(bytes) = transport.take_backlog() {
            self.note_send(index, InFlight::Unaccounted);
            return Some(bytes);
        }
        let connection = transport.connection()?;
        for _ in 0..connection.attachment_count() {
            let Some((stream, cursor)) = connection.next_cursor() else { continue };
            if let Some(Owed { bytes, log_bytes }) = self.streams.at(stream).log.pending(cursor) {
                self.note_send(index, InFlight::Stream { stream, cursor, log_bytes });
                return Some(bytes);
            }
        }
        let position = self.events_position(index)?;
        self.note_send(index, InFlight::Unaccounted);
        Some(position)
    }

    fn note_send(&mut self, index: u32, in_flight: InFlight) {
        let transport = &mut self.transports[index as usize];
        debug_assert_eq!(transport.in_flight, InFlight::Nothing);
        transport.in_flight = in_flight;
        transport.sent_ms = self.now.mono_ms;
    }

    /// Has [`poll_transmit`](Self::poll_transmit) look at `index`.
    fn set_ready(&mut self, index: u32) {
        let transport = &mut self.transports[index as usize];
        if !transport.is_ready && transport.is_idle() {
            transport.is_ready = true;
            self.ready.push_back(index);
        }
    }

    /// Puts `index` on the wheel, if it is not there or only for later.
    fn watch(&mut self, index: u32) {
        let check = CHECK_MAX.min(self.config.head_timeout).min(self.config.lag_max);
        let check = check.min(self.config.connection.idle_interval / 3);
        let transport = &mut self.transports[index as usize];
        let mut deadline_ms = self.now.mono_ms + check.as_millis() as u64;
        if let Some(token_ms) = transport.connection().and_then(|c| c.token_deadline_ms()) {
            let left_ms = token_ms.saturating_sub(self.now.unix_ms);
            deadline_ms = deadline_ms.min(self.now.mono_ms + left_ms);
        }
        let until = self.wheel.tick_of(deadline_ms);
        if transport.watched_until == 0 || until < transport.watched_until {
            transport.watched_until = until;
            self.wheel.insert(index, deadline_ms);
        }
    }

    /// Looks whether `index` has been silent, stalled or leaving for too long.
    fn check(&mut self, index: u32) {
        let now_ms = self.now.mono_ms;
        let transport = &mut self.transports[index as usize];
        let since = |then_ms: u64| Duration::from_millis(now_ms.saturating_sub(then_ms));
        let stalled = !transport.is_idle() && since(transport.sent_ms) > self.config.lag_max;
        match &transport.stage {
            Stage::Free | Stage::Leaving(_) | Stage::Closing => return,
            Stage::Http(_) if stalled => self.close(index),
            Stage::Http(http) => {
                let silent = since(transport.received_ms.max(transport.sent_ms));
                let head_timeout = self.config.head_timeout;
                // A byte now and then is no progress.
                let is_late = match http.parser.is_in_head() {
                    true => since(http.began_ms) > head_timeout,
                    false if http.parser.is_empty() => false,
                    false => since(http.began_ms) > head_timeout * REQUEST_TIMEOUTS,
                };
                if http.waiting.is_none() && (silent > head_timeout || is_late) {
                    self.close(index);
                }
            }
            Stage::Echo(_) | Stage::Opening(_) => {}
            Stage::Realtime(..) | Stage::Events(_) if stalled => self.cut_slow_consumer(index),
            Stage::Events(_) => self.check_events(index),
            Stage::Realtime(..) => {
                if self.check_token(index) {
                    self.check_silence(index);
                }
            }
        }
        self.watch(index);
    }

    /// A subscriber cannot keep up: it loses its subscriptions, is told so, and may resume.
    fn cut_slow_consumer(&mut self, index: u32) {
        self.counters.slow_consumers += 1;
        let lag_bytes = self.lag_bytes(&self.transports[index as usize]);
        self.histograms.slow_consumer_bytes.observe(lag_bytes);
        let error = ErrorInfo::new(
            ErrorCode::CONTINUITY_LOST_BY_RATE,
            "the client reads too slowly; what it has missed is in the history",
        );
        if let Some(connection) = self.transports[index as usize].connection() {
            let line = LogLine::new(Level::Warn, "slow consumer disconnected");
            let line = line.with("connection", connection.id()).with("lag_bytes", lag_bytes);
            self.log_line(line);
        }
        self.disconnect(index, &error);
    }

    /// Gives up the transport: nothing more is read or sent, and the ring closes it.
    fn close(&mut self, index: u32) {
        self.suspend(index);
        let transport = &mut self.transports[index as usize];
        if matches!(transport.stage, Stage::Free | Stage::Closing) {
            return;
        }
        transport.stage = Stage::Closing;
        self.to_shut_down.retain(|&other| other != index);
        self.transports[index as usize].drop_owed();
        self.to_close.push(index);
    }

    /// Stops listening to `index`; once its lane is sent it is closed as `ending` says.
    fn leave(&mut self, index: u32, ending: Ending) {
        self.suspend(index);
        let transport = &mut self.transports[index as usize];
        let decoder = match std::mem::replace(&mut transport.stage, Stage::Closing) {
            Stage::Leaving(decoder) => decoder,
            Stage::Echo(decoder) => Some(decoder),
            _ => None,
        };
        transport.stage = Stage::Leaving(decoder);
        transport.ending = ending;
        let close_by_ms = self.now.mono_ms + LINGER.as_millis() as u64;
        self.leaving.push_back((close_by_ms, transport.address(index)));
        self.set_ready(index);
    }

    /// Sends mail; that to itself is delivered in this turn.
    fn post(&mut self, to: usize, mail: Mail) {
        self.outboxes[to].push_back(mail);
    }

    fn log_line(&mut self, line: LogLine) {
        if self.log.len() < LOG_LINES_MAX {
            self.log.push_back(line.with("shard", self.id));
        }
    }
}

#[cfg(test)]
mod tests;
