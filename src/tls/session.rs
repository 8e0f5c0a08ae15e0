//! One client's session: records in, records out.
//!
//! A session that idles holds what rustls needs for two directions, and no buffer of ours: bytes are
//! decrypted where they came, and only the beginning of a record whose end has not come is kept.

use std::mem::take;

use rustls::HandshakeKind;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, EncryptError, UnbufferedStatus,
};

use super::Acceptor;
use crate::http::{HttpError, Response};

/// Bytes of plaintext in one record, at most (RFC 8446 §5.1).
pub const RECORD_BYTES_MAX: usize = 16 << 10;

/// What a record has beside its plaintext, at most: header, explicit nonce, type and tag.
const RECORD_OVERHEAD: usize = 32;

/// Bytes of a client that wait for the rest of their record or message. A whole record is 18 KiB, and the
/// longest message that anybody needs is a client's certificate chain.
pub const INCOMING_BYTES_MAX: usize = 32 << 10;

/// Steps of rustls that one call may take without using up a byte: a mistake of ours must not spin.
const STEPS_MAX: u32 = 64;

/// Content type of a handshake record (RFC 8446 §5.1), with which every client begins.
const HANDSHAKE: u8 = 22;

/// Why a session has ended before it was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The client speaks HTTP without TLS.
    PlainHttp,
    /// The client speaks something else.
    NotTls,
    /// No version, suite, group or protocol is common.
    Incompatible,
    /// The client has shown no certificate, or a bad one.
    ClientCertificate,
    /// The client has refused us, our certificate for example.
    Refused,
    /// The client has broken the protocol, or a record was changed on its way.
    Protocol,
}

/// What a session has told with the bytes that came last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct News {
    /// The handshake is over; whether it went on from a ticket.
    pub established: Option<bool>,
    /// The client sends nothing more.
    pub has_ended: bool,
}

/// See the module text.
pub struct Session {
    connection: UnbufferedServerConnection,
    /// The beginning of a record or handshake message.
    incoming: Vec<u8>,
    /// Records of the handshake, alerts: what goes out before anything else.
    outgoing: Vec<u8>,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Nothing has come.
    New,
    Handshake,
    Established,
    /// The client sends nothing more, but may be sent something.
    Ended,
    /// Nothing goes to and fro any more, and rustls is not to be asked again.
    Failed,
}

impl Session {
    /// A session that waits for its client to begin.
    pub fn new(acceptor: &Acceptor) -> Session {
        let connection = UnbufferedServerConnection::new(acceptor.config().clone());
        Session {
            connection: connection.expect("fails for fragment sizes only, which we leave alone"),
            incoming: Vec::new(),
            outgoing: Vec::new(),
            stage: Stage::New,
        }
    }

    /// Keeps `bytes` of a handshake for a later [`handle_bytes`](Self::handle_bytes), for that is when it
    /// takes time. False: it has to be now, since there is no handshake or no room.
    #[must_use]
    pub fn hold(&mut self, bytes: &[u8]) -> bool {
        let fits = self.incoming.len() + bytes.len() <= INCOMING_BYTES_MAX;
        let holds = fits && matches!(self.stage, Stage::New | Stage::Handshake);
        if holds {
            self.incoming.extend_from_slice(bytes);
        }
        holds
    }

    /// Takes in what the client has sent; `bytes` are decrypted in place and what they say is appended to
    /// `plaintext`. Afterwards there may be something to [send](Self::take_outgoing), an alert too when
    /// this fails.
    ///
    /// # Errors
    /// The session is over. Nothing more is taken in.
    pub fn handle_bytes(
        &mut self,
        bytes: &mut [u8],
        plaintext: &mut Vec<u8>,
    ) -> Result<News, Failure> {
        if matches!(self.stage, Stage::Ended | Stage::Failed) {
            return Ok(News::default());
        }
        let mut held = take(&mut self.incoming);
        if held.is_empty() {
            let (used, outcome) = self.process(bytes, plaintext);
            self.incoming.extend_from_slice(&bytes[used..]);
            return self.settle(outcome);
        }
        held.extend_from_slice(bytes);
        let (used, outcome) = self.process(&mut held, plaintext);
        if used < held.len() {
            held.drain(..used);
            self.incoming = held;
        }
        self.settle(outcome)
    }

    fn settle(&mut self, outcome: Result<News, Failure>) -> Result<News, Failure> {
        let outcome = match outcome {
            // More than one record or message, and no end of it.
            Ok(_) if self.incoming.len() > INCOMING_BYTES_MAX => Err(Failure::Protocol),
            outcome => outcome,
        };
        let ended = match outcome {
            Ok(news) => news.has_ended.then_some(Stage::Ended),
            Err(_) => Some(Stage::Failed),
        };
        if let Some(stage) = ended {
            self.stage = stage;
            self.incoming = Vec::new();
        }
        outcome
    }

    /// Has rustls work through `bytes`; returns how many of them are done with.
    fn process(
        &mut self,
        bytes: &mut [u8],
        plaintext: &mut Vec<u8>,
    ) -> (usize, Result<News, Failure>) {
        let mut news = News::default();
        if self.stage == Stage::New {
            match bytes.first() {
                None => return (0, Ok(news)),
                Some(&HANDSHAKE) => self.stage = Stage::Handshake,
                Some(b'A'..=b'Z') => {
                    self.outgoing = plain_answer();
                    return (bytes.len(), Err(Failure::PlainHttp));
                }
                Some(_) => return (bytes.len(), Err(Failure::NotTls)),
            }
        }
        let mut used = 0;
        let mut idle_steps = 0;
        while idle_steps < STEPS_MAX {
            let status = self.connection.process_tls_records(&mut bytes[used..]);
            let UnbufferedStatus { mut discard, state } = status;
            let mut is_done = false;
            match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(Ok(record)) = traffic.next_record() {
                        discard += record.discard;
                        plaintext.extend_from_slice(record.payload);
                    }
                }
                Ok(ConnectionState::EncodeTlsData(data)) => encode(&mut self.outgoing, data),
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::PeerClosed) => news.has_ended = true,
                Ok(ConnectionState::Closed) => {
                    news.has_ended = true;
                    is_done = true;
                }
                // More has to come first. Data ahead of the handshake is not allowed to anybody.
                Ok(_) => is_done = true,
                Err(error) => {
                    self.take_alerts();
                    return (used, Err(class_of(&error)));
                }
            }
            used += discard;
            idle_steps = if discard > 0 { 0 } else { idle_steps + 1 };
            if is_done {
                break;
            }
        }
        if idle_steps >= STEPS_MAX {
            return (used, Err(Failure::Protocol));
        }
        if self.stage == Stage::Handshake && !self.connection.is_handshaking() {
            self.stage = Stage::Established;
            let kind = self.connection.handshake_kind();
            news.established = Some(kind == Some(HandshakeKind::Resumed));
        }
        (used, Ok(news))
    }

    /// Takes what rustls has to say after an error, and no step more: it may not look at bytes again.
    fn take_alerts(&mut self) {
        while self.connection.wants_write() {
            match self.connection.process_tls_records(&mut []).state {
                Ok(ConnectionState::EncodeTlsData(data)) => encode(&mut self.outgoing, data),
                _ => break,
            }
        }
    }

    /// Appends records with all of `plaintext` to `ciphertext`. Only once the session is established.
    ///
    /// # Errors
    /// The keys are used up, which in TLS 1.2 they are after many billions of records.
    pub fn encrypt(&mut self, plaintext: &[u8], ciphertext: &mut Vec<u8>) -> Result<(), Failure> {
        if self.stage == Stage::Failed {
            return Err(Failure::Protocol);
        }
        let records = plaintext.len().div_ceil(RECORD_BYTES_MAX);
        ciphertext.reserve(plaintext.len() + records * RECORD_OVERHEAD);
        let mut failure = Failure::Protocol;
        for _ in 0..STEPS_MAX {
            // Bytes of a record that has not come whole stay where they are; none is used up here.
            match self.connection.process_tls_records(&mut self.incoming).state {
                Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                    let mut outcome = Ok(());
                    append(ciphertext, |room| match traffic.encrypt(plaintext, room) {
                        Ok(len) => Ok(len),
                        Err(EncryptError::InsufficientSize(size)) => Err(size.required_size),
                        Err(EncryptError::EncryptExhausted) => {
                            outcome = Err(Failure::Protocol);
                            Ok(0)
                        }
                    });
                    return outcome;
                }
                // New keys, say, which have their place before what is encrypted with them.
                Ok(ConnectionState::EncodeTlsData(data)) => encode(ciphertext, data),
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(_) => break,
                Err(error) => {
                    failure = class_of(&error);
                    break;
                }
            }
        }
        self.stage = Stage::Failed;
        Err(failure)
    }

    /// Adds to what [goes out](Self::take_outgoing) that nothing will follow.
    pub fn close_notify(&mut self) {
        if self.stage != Stage::Failed
            && let Ok(ConnectionState::WriteTraffic(mut traffic)) =
                self.connection.process_tls_records(&mut self.incoming).state
        {
            append(&mut self.outgoing, |room| match traffic.queue_close_notify(room) {
                Ok(len) => Ok(len),
                Err(EncryptError::InsufficientSize(size)) => Err(size.required_size),
                Err(EncryptError::EncryptExhausted) => Ok(0),
            });
        }
    }

    /// Bytes that wait for the rest of their record or message.
    pub fn held_bytes(&self) -> usize {
        self.incoming.len()
    }

    /// Whether there is something to send that nobody has asked for.
    pub fn has_outgoing(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// What is to be sent next, before anything that is encrypted later.
    pub fn take_outgoing(&mut self) -> Vec<u8> {
        take(&mut self.outgoing)
    }
}

fn encode(target: &mut Vec<u8>, mut data: EncodeTlsData<'_, ServerConnectionData>) {
    append(target, |room| match data.encode(room) {
        Ok(len) => Ok(len),
        Err(EncodeError::InsufficientSize(size)) => Err(size.required_size),
        Err(EncodeError::AlreadyEncoded) => unreachable!("encoded once"),
    });
}

/// Has `write` append to `target`; on `Err` it is given the room that it asks for.
fn append(target: &mut Vec<u8>, mut write: impl FnMut(&mut [u8]) -> Result<usize, usize>) {
    let end = target.len();
    target.resize(target.capacity(), 0);
    let len = match write(&mut target[end..]) {
        Ok(len) => len,
        Err(required) => {
            target.resize(end + required, 0);
            write(&mut target[end..]).expect("has the room that it asked for")
        }
    };
    target.truncate(end + len);
}

/// Which failure an error of rustls is.
fn class_of(error: &rustls::Error) -> Failure {
    use rustls::Error::{
        AlertReceived, InvalidCertificate, NoApplicationProtocol, NoCertificatesPresented,
        PeerIncompatible,
    };
    match error {
        PeerIncompatible(_) | NoApplicationProtocol => Failure::Incompatible,
        NoCertificatesPresented | InvalidCertificate(_) => Failure::ClientCertificate,
        AlertReceived(_) => Failure::Refused,
        _ => Failure::Protocol,
    }
}

/// For a client that has forgotten the `s` of `https` or `wss`.
fn plain_answer() -> Vec<u8> {
    let message = "this port speaks TLS: use https:// or wss://\n";
    Response::to_error(&HttpError { status: 400, message }).to_vec()
}
