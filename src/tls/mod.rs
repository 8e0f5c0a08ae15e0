//! TLS without I/O: ciphertext comes in as bytes and goes out as bytes, what it carries does too.
//!
//! [`Acceptor`] is what all sessions share: the certificates, who may come in, the keys of tickets.
//! [`Session`] is one client; [`Client`] is the other side, for those who load the daemon. The cryptography and the protocol are rustls'; this module owns what is
//! kept between two receives, its bounds, and which failure is which.

mod acceptor;
mod client;
mod session;

pub use self::acceptor::{
    Acceptor, CertificateFacts, ClientAuth, Identity, IdentityError, MinVersion, PemPair,
};
pub use self::client::{Client, Trust};
pub use self::session::{Failure, INCOMING_BYTES_MAX, News, RECORD_BYTES_MAX, Session};

/// Bytes that an idle session takes beside its plain connection: what rustls and ring hold for the keys of both
/// directions, nearly all of it.
pub const IDLE_SESSION_BYTES: u64 = 4000;

#[cfg(test)]
mod tests;
