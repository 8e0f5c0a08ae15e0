//! HTTP/1.1, the server's side: bytes to requests, responses to bytes. No I/O.
//!
//! Owns framing, and is strict about it: what two parties could frame differently is refused, so that
//! no proxy in front can be made to see other requests than we do. Knows no routes.

mod body;
mod error;
mod forwarded;
mod head;
mod parser;
mod request;
mod response;
mod uri;

pub use error::HttpError;
pub use forwarded::ForwardedHeader;
pub use head::{HEAD_BYTES_MAX, HEADERS_MAX, TARGET_BYTES_MAX};
pub use parser::{CONTINUE, Progress, RequestParser};
pub use request::Request;
pub use response::{LAST_CHUNK, ReplyTo, Response, status_of, write_chunk};
pub use uri::{form_pairs, percent_encode};
