//! HTTP requests: read one after another, answered here or by a channel's home; and the upgrade.

use std::sync::Arc;

use bytes::Bytes;

use super::dormant::unknown_key;
use super::registrar::REGISTRAR;
use super::seats::Seat;
use super::transport::{Ending, HttpStage, Stage};
use super::{Mail, Shard, nonces};
use crate::ably::{Answer, ErrorInfo, Survey};
use crate::base::AddressBlock;
use crate::channel::ChannelKey;
use crate::channel::log::TransportRef;
use crate::connection::{ConnectionKey, Opening};
use crate::http::{self, Progress, Request};
use crate::rest::{self, Account, Ask, EventsRequest, Inquiry, Outcome, Then};
use crate::ws::{self, CloseCode};

/// Where Ably's realtime protocol is served; clients ask for `/?key=...`.
const REALTIME_PATH: &str = "/";

/// Where conformance tests find an echo, if the configuration has it.
const ECHO_PATH: &str = "/echo";

/// A request whose answers are on their way.
pub(super) struct Waiting {
    /// The number of its first question; the others follow it.
    first: u64,
    /// By question; `None`: not answered yet.
    answers: Vec<Option<Result<Answer, ErrorInfo>>>,
    /// How many are not answered yet.
    missing: usize,
    then: Then,
    asker: Asker,
}

/// What is to be known of a request until it is answered.
struct Asker {
    /// For whom it is counted.
    account: Option<Account>,
    /// Whether the transport lasts beyond the response.
    keep_alive: bool,
}

impl Shard {
    /// Bytes of a transport that speaks HTTP.
    pub(super) fn handle_http_bytes(&mut self, index: u32, bytes: &[u8]) {
        let now_ms = self.now.mono_ms;
        let Some(http) = self.http(index) else { return };
        if http.parser.is_empty() {
            http.began_ms = now_ms;
        }
        match http.parser.handle_bytes(bytes) {
            Ok(()) => self.advance_http(index),
            Err(error) => self.refuse_http(index, &error),
        }
    }

    /// Handles requests until one has to wait for its answer, or the client for reading answers: as
    /// long as it does not, what it sends next stays in the parser, which has a bound.
    pub(super) fn advance_http(&mut self, index: u32) {
        let lane_bytes_max = self.config.connection.lane_bytes_max;
        let now_ms = self.now.mono_ms;
        while self.transports[index as usize].lane_bytes() <= lane_bytes_max
            && let Some(http) = self.http(index).filter(|http| http.waiting.is_none())
        {
            match http.parser.poll() {
                Ok(Progress::NeedMore) => break,
                Ok(Progress::Continue) => self.answer_bytes(index, http::CONTINUE),
                Ok(Progress::Request(mut request)) => {
                    http.began_ms = now_ms;
                    if self.is_draining() {
                        request.close_after();
                    }
                    self.handle_request(index, &request);
                }
                Err(error) => {
                    self.refuse_http(index, &error);
                    break;
                }
            }
        }
    }

    fn handle_request(&mut self, index: u32, request: &Request) {
        if !self.admits_origin(request.header("Origin")) {
            return self.answer(index, &rest::foreign_origin(request), request.keep_alive());
        }
        let client = self.client_of(index, request);
        if ws::handshake::is_requested(|name| request.header(name)) {
            return self.upgrade(index, request, client);
        }
        if let Some(http) = self.http(index) {
            http.client = client;
        }
        let context = rest::Context {
            now: self.now,
            directory: &self.directory,
            message_bytes_max: self.config.connection.message_bytes_max,
            is_sandbox: self.config.sandbox,
            // A shard that answers has its listener and its rings.
            is_ready: self.drain.is_none(),
        };
        let (account, outcome) = rest::handle(&context, &mut self.entropy, request);
        let asker = Asker { account, keep_alive: request.keep_alive() };
        self.carry_out(index, outcome, asker);
    }

    fn carry_out(&mut self, index: u32, outcome: Outcome, asker: Asker) {
        match outcome {
            Outcome::Reply(response) => {
                if let Some(account) = &asker.account {
                    let counter = account.counter(http::status_of(&response));
                    self.stats.of(&account.app_id, self.now.unix_ms).add(counter, 1);
                }
                self.answer(index, &response, asker.keep_alive);
            }
            Outcome::Ask(inquiry) => self.inquire(index, inquiry, asker),
            Outcome::Events(request) => {
                let client = self.http(index).and_then(|http| http.client);
                let key = request.principal.key();
                if let Some(seat) = self.seat_for_events(index, client, key) {
                    return self.seat_events(index, seat, request, asker);
                }
                if let Some(account) = &asker.account {
                    let tally = self.stats.of(&account.app_id, self.now.unix_ms);
                    tally.add(account.counter(200), 1);
                }
                self.open_events(index, *request);
            }
        }
    }

    /// Opens a stream of events once it has its seat.
    fn seat_events(&mut self, index: u32, seat: Seat, request: Box<EventsRequest>, asker: Asker) {
        let http = self.http(index).expect("requests come over HTTP");
        http.asked += 1;
        let first = http.asked;
        let then: Then = Box::new(|mut answers| match answers.pop().expect("one was asked for") {
            Ok(_) => Outcome::Events(request),
            Err(error) => Outcome::Reply(request.refuse(&error)),
        });
        http.waiting = Some(Waiting { first, answers: vec![None], missing: 1, then, asker });
        self.ask_for_seat(index, first, seat);
    }

    /// Sends the questions of a request to those who know.
    fn inquire(&mut self, index: u32, inquiry: Inquiry, asker: Asker) {
        let Inquiry { app_id, asks, then } = inquiry;
        let answers_to = |ask: &Ask| match ask {
            Ask::Shards(_) => self.shards,
            Ask::Publish { .. }
            | Ask::Home { .. }
            | Ask::Connection(_)
            | Ask::Nonce(_)
            | Ask::Change(_) => 1,
        };
        let missing = asks.iter().map(answers_to).sum();
        if missing == 0 {
            return self.carry_out(index, then(Vec::new()), asker);
        }
        let http = self.http(index).expect("requests come over HTTP");
        debug_assert!(http.waiting.is_none(), "one request is answered at a time");
        let mut number = http.asked + 1;
        http.asked += missing as u64;
        let answers = (0..missing).map(|_| None).collect();
        http.waiting = Some(Waiting { first: number, answers, missing, then, asker });
        for ask in asks {
            let reply_to = self.return_address(index, number);
            number += 1;
            let key = |channel: &str| ChannelKey::new(&app_id, channel);
            if let Some(error) = ask.channel().and_then(|channel| self.congestion(&key(channel))) {
                self.take_answer(index, reply_to.request, Err(error));
                continue;
            }
            let (to, mail) = match ask {
                Ask::Publish { channel, accepted } => {
                    let channel = key(&channel);
                    self.publish_timer.begin(reply_to, self.clock_us);
                    (channel.home(self.shards), Mail::Publish { reply_to, channel, accepted })
                }
                Ask::Home { channel, question } => {
                    let channel = key(&channel);
                    (channel.home(self.shards), Mail::Ask { reply_to, channel, question })
                }
                Ask::Nonce(nonce) => {
                    (nonces::home(nonce, self.shards), Mail::Nonce { reply_to, nonce })
                }
                Ask::Connection(key) => match key.parse::<ConnectionKey>() {
                    Ok(key) if usize::from(key.place.shard) < self.shards => {
                        let (to, app_id) = (key.place.shard.into(), app_id.as_str().into());
                        (to, Mail::FindConnection { reply_to, app_id, key })
                    }
                    _ => {
                        self.take_answer(index, reply_to.request, Err(unknown_key()));
                        continue;
                    }
                },
                Ask::Shards(survey) => {
                    let app_id: Arc<str> = app_id.as_str().into();
                    number = reply_to.request + self.shards as u64;
                    self.survey(index, reply_to.request, &app_id, &survey);
                    continue;
                }
                Ask::Change(change) => {
                    (REGISTRAR, Mail::Change { reply_to, change: Box::new(change) })
                }
            };
            self.post(to, mail);
        }
    }

    /// Somebody has answered a question of an HTTP request.
    pub(super) fn handle_answer(
        &mut self,
        to: TransportRef,
        number: u64,
        answer: Result<Answer, ErrorInfo>,
    ) {
        let index = to.index;
        let known = self.transports.get(index as usize).map(|transport| transport.generation);
        if known == Some(to.generation) {
            self.take_answer(index, number, answer);
            self.advance_http(index);
        }
    }

    /// Keeps one answer; with the last one the request goes on.
    fn take_answer(&mut self, index: u32, number: u64, answer: Result<Answer, ErrorInfo>) {
        let Some(http) = self.http(index) else { return };
        let Some(waiting) = http.waiting.as_mut() else { return };
        // An answer to an earlier request of the transport finds no place.
        let place = number.checked_sub(waiting.first).and_then(|part| {
            waiting.answers.get_mut(part as usize).filter(|place| place.is_none())
        });
        let Some(place) = place else { return };
        *place = Some(answer);
        waiting.missing -= 1;
        if waiting.missing == 0 {
            let Waiting { answers, then, asker, .. } = http.waiting.take().expect("seen above");
            let answers = answers.into_iter().map(|answer| answer.expect("none is missing"));
            self.carry_out(index, then(answers.collect()), asker);
        }
    }

    /// Asks every shard; the first answer has the number `first`.
    fn survey(&mut self, index: u32, first: u64, app_id: &Arc<str>, survey: &Survey) {
        for (shard, number) in (0..self.shards).zip(first..) {
            if let Some(error) = self.congestion_of(shard) {
                self.take_answer(index, number, Err(error));
                continue;
            }
            let reply_to = self.return_address(index, number);
            let (app_id, survey) = (Arc::clone(app_id), survey.clone());
            self.post(shard, Mail::Survey { reply_to, app_id, survey });
        }
    }

    /// Appends a response; the last one on a transport is followed by its end.
    fn answer(&mut self, index: u32, response: &Bytes, keep_alive: bool) {
        self.answer_bytes(index, response);
        if !keep_alive {
            self.leave(index, Ending::Close);
        }
    }

    fn answer_bytes(&mut self, index: u32, bytes: &[u8]) {
        self.transports[index as usize].lane().extend_from_slice(bytes);
        self.set_ready(index);
    }

    /// What came cannot be understood, and nothing behind it: answer and go.
    fn refuse_http(&mut self, index: u32, error: &http::HttpError) {
        self.answer_bytes(index, &rest::unreadable(error));
        self.leave(index, Ending::HalfClose);
    }

    /// Turns the transport into a WebSocket. Whatever is wrong with the credentials is told in the
    /// first frame: clients cannot see an HTTP error here (2.1).
    fn upgrade(&mut self, index: u32, request: &Request, client: Option<AddressBlock>) {
        let is_echo = self.config.echo && request.path() == ECHO_PATH;
        if request.path() != REALTIME_PATH && !is_echo {
            return self.answer(index, &rest::not_found(request), request.keep_alive());
        }
        let may_deflate = self.config.deflate_bytes_min.is_some();
        let header = |name: &str| request.header(name);
        let accepted = ws::handshake::accept(request.method(), may_deflate, header);
        let (handshake, window) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                return self.answer(
                    index,
                    &rest::bad_handshake(request, &error),
                    request.keep_alive(),
                );
            }
        };
        let Some(http) = self.http(index) else { return };
        let mut leftover = http.parser.take_leftover();
        self.answer_bytes(index, &handshake);
        let transport = &mut self.transports[index as usize];
        if is_echo {
            transport.stage = Stage::Echo(ws::Decoder::new().inflating(window));
        } else {
            let principal = rest::authenticate(request, &self.directory, self.now);
            match Opening::read(request, principal) {
                Ok(opening) => match self.admit_connect() {
                    Ok(()) => self.seat_connection(index, opening, window, client),
                    Err(error) => {
                        opening.put_off(&error, self.transports[index as usize].lane());
                        return self.close_websocket(index, CloseCode::Again, Ending::Linger);
                    }
                },
                Err(refused) => {
                    refused.tell(transport.lane());
                    return self.close_websocket(index, CloseCode::Normal, Ending::Linger);
                }
            }
        }
        if !leftover.is_empty() {
            self.handle_bytes(index, &mut leftover);
        }
    }

    fn http(&mut self, index: u32) -> Option<&mut HttpStage> {
        match &mut self.transports[index as usize].stage {
            Stage::Http(http) => Some(http),
            _ => None,
        }
    }
}
