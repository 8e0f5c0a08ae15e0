//! HTTP requests: read one after another, answered here or by a channel's home; and the upgrade.

use bytes::Bytes;

use super::transport::{Ending, HttpStage, Stage, Waiting};
use super::{Mail, Shard};
use crate::ably::{ErrorInfo, HistoryPage, PublishResult};
use crate::channel::ChannelKey;
use crate::channel::log::TransportRef;
use crate::connection::Connection;
use crate::http::{self, Progress, Request};
use crate::rest::{self, Outcome};
use crate::ws::{self, CloseCode};

/// Where Ably's realtime protocol is served; clients ask for `/?key=...`.
const REALTIME_PATH: &str = "/";

/// Where conformance tests find an echo, if the configuration has it.
const ECHO_PATH: &str = "/echo";

impl Shard {
    /// Bytes of a transport that speaks HTTP.
    pub(super) fn handle_http_bytes(&mut self, index: u32, bytes: &[u8]) {
        let Some(http) = self.http(index) else { return };
        match http.parser.handle_bytes(bytes) {
            Ok(()) => self.advance_http(index),
            Err(error) => self.refuse_http(index, &error),
        }
    }

    /// Handles requests until one has to wait for its answer.
    fn advance_http(&mut self, index: u32) {
        while let Some(http) = self.http(index).filter(|http| http.waiting.is_none()) {
            match http.parser.poll() {
                Ok(Progress::NeedMore) => break,
                Ok(Progress::Continue) => self.answer_bytes(index, http::CONTINUE),
                Ok(Progress::Request(request)) => self.handle_request(index, &request),
                Err(error) => {
                    self.refuse_http(index, &error);
                    break;
                }
            }
        }
    }

    fn handle_request(&mut self, index: u32, request: &Request) {
        if ws::handshake::is_requested(|name| request.header(name)) {
            return self.upgrade(index, request);
        }
        let context = rest::Context {
            now: self.now,
            directory: &self.directory,
            message_bytes_max: self.config.connection.message_bytes_max,
            // A shard that answers has its listener and its rings.
            is_ready: true,
        };
        match rest::handle(&context, &mut self.entropy, request) {
            Outcome::Reply(response) => self.answer(index, &response, request.keep_alive()),
            Outcome::Publish { app_id, channel, accepted, reply } => {
                let channel = ChannelKey::new(&app_id, channel.base());
                if let Some(error) = self.congestion(&channel) {
                    return self.answer(index, &reply.published(&Err(error)), request.keep_alive());
                }
                let reply_to = self.wait(index, Waiting::Publish(reply), request);
                let home = channel.home(self.shards);
                self.post(home, Mail::Publish { reply_to, channel, accepted });
            }
            Outcome::History { app_id, channel, query, reply } => {
                let channel = ChannelKey::new(&app_id, channel.base());
                if let Some(error) = self.congestion(&channel) {
                    return self.answer(index, &reply.error(&error), request.keep_alive());
                }
                let reply_to = self.wait(index, Waiting::History(reply), request);
                let home = channel.home(self.shards);
                self.post(home, Mail::History { reply_to, channel, query });
            }
        }
    }

    /// Notes that the request waits for a home, and under which number.
    fn wait(&mut self, index: u32, waiting: Waiting, request: &Request) -> super::ReturnAddress {
        let http = self.http(index).expect("requests come over HTTP");
        http.request += 1;
        http.waiting = Some((waiting, request.keep_alive()));
        let number = http.request;
        self.return_address(index, number)
    }

    /// The home has answered a publish.
    pub(super) fn answer_publish(
        &mut self,
        index: u32,
        request: u64,
        result: &Result<PublishResult, ErrorInfo>,
    ) {
        if let Some((Waiting::Publish(reply), keep_alive)) = self.take_waiting(index, request) {
            self.answer(index, &reply.published(result), keep_alive);
            self.advance_http(index);
        }
    }

    /// The home has read a page of history.
    pub(super) fn handle_history_page(
        &mut self,
        to: TransportRef,
        request: u64,
        page: &HistoryPage,
    ) {
        let index = to.index;
        let known = self.transports.get(index as usize).map(|transport| transport.generation);
        if known != Some(to.generation) {
            return;
        }
        if let Some((Waiting::History(reply), keep_alive)) = self.take_waiting(index, request) {
            let messages = page.items.iter().map(|item| (&*item.publication, item.index));
            let response = reply.page(messages, page.next.as_ref());
            self.answer(index, &response, keep_alive);
            self.advance_http(index);
        }
    }

    fn take_waiting(&mut self, index: u32, request: u64) -> Option<(Waiting, bool)> {
        let http = self.http(index)?;
        if http.request == request { http.waiting.take() } else { None }
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
    fn upgrade(&mut self, index: u32, request: &Request) {
        let is_echo = self.config.echo && request.path() == ECHO_PATH;
        if request.path() != REALTIME_PATH && !is_echo {
            return self.answer(index, &rest::not_found(request), request.keep_alive());
        }
        let handshake = match ws::handshake::accept(request.method(), |name| request.header(name)) {
            Ok(handshake) => handshake,
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
            transport.stage = Stage::Echo(ws::Decoder::new());
        } else {
            let principal = rest::authenticate(request, &self.directory, self.now);
            let config = &self.config.connection;
            let lane = transport.lane();
            match Connection::open(config, principal, &mut self.entropy, request, lane) {
                Ok(connection) => {
                    let connection = Box::new(connection);
                    transport.stage = Stage::Realtime(ws::Decoder::new(), connection);
                }
                Err(refused) => {
                    refused.tell(lane);
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
