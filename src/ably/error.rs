//! Error codes and `ErrorInfo` (3.7, 18). Codes are ably-common's, `protocol/errors.json`.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use super::value::DecodeError;
use super::writer::MapWriter;

/// A code of Ably's register; [`ErrorCode::status`] is the HTTP status it usually goes with.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ErrorCode(pub u32);

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal;)*) => {
        impl ErrorCode {
            $($(#[$doc])* pub const $name: ErrorCode = ErrorCode($code);)*
        }
    };
}

codes! {
    /// A request that no other code describes.
    BAD_REQUEST = 40000;
    /// The body cannot be read.
    INVALID_BODY = 40001;
    /// A query or body parameter has a value that is not allowed.
    INVALID_PARAMETER = 40003;
    /// A key or token that cannot be read.
    INVALID_CREDENTIAL = 40005;
    /// A connectionId or connectionKey that is not the publisher's.
    INVALID_CONNECTION_ID = 40006;
    /// A publish or body above its size limit.
    MESSAGE_TOO_LARGE = 40009;
    /// A channel name that 6.1 does not allow.
    INVALID_CHANNEL_NAME = 40010;
    /// A clientId that the credentials do not permit, or that is empty, `*` or no string.
    INVALID_CLIENT_ID = 40012;
    /// `data` or `encoding` of a type that cannot be sent.
    INVALID_DATA = 40013;
    /// A message name that is no string.
    INVALID_NAME = 40016;
    /// A protocol version that is not served.
    UNSUPPORTED_VERSION = 40017;
    /// A batch of an old client, part of which failed.
    BATCH_FAILED = 40020;
    /// A feature that is not served here.
    UNSUPPORTED_FEATURE = 40021;
    /// Message ids that break the rule for arrays (5.2).
    INVALID_MESSAGE_IDS = 40031;
    /// `extras` that are no object, have nested headers or keys only the server may set.
    INVALID_EXTRAS = 40032;
    /// More messages in one publish than allowed.
    TOO_MANY_MESSAGES = 40034;
    /// A rule's channel filter that is no regular expression which can be searched in linear time.
    INVALID_CHANNEL_FILTER = 40035;
    /// The publish param `_forceNack` was given.
    FORCED_NACK = 40099;
    /// A rule that is asked before a publish has refused it, or could not be asked.
    REJECTED_BY_RULE = 42211;
    /// No or wrong credentials.
    INVALID_CREDENTIALS = 40101;
    /// Credentials that do not fit the connection or the clientId.
    INCOMPATIBLE_CREDENTIALS = 40102;
    /// Basic authentication over a plain transport.
    BASIC_WITHOUT_TLS = 40103;
    /// The timestamp of a token request is too far from the server's time.
    TIMESTAMP_NOT_CURRENT = 40104;
    /// The nonce of a token request was used before.
    NONCE_REPLAYED = 40105;
    /// More connections of the account, which is a key here, than allowed.
    TOO_MANY_CONNECTIONS = 40111;
    /// More connections of the client's address than allowed.
    CONNECTION_BLOCKED = 40150;
    /// The key is another one than the one that it takes.
    KEY_MISMATCH = 40133;
    /// Batch requests before version 3: some of it has failed.
    BATCH_ERROR = 40020;
    /// A token was used where the key itself is needed.
    KEY_REQUIRED = 40162;
    /// Tokens of the key cannot be revoked.
    NOT_REVOCABLE = 40163;
    /// A token that is not valid, for no more special reason.
    TOKEN_ERROR = 40140;
    /// A revoked token.
    TOKEN_REVOKED = 40141;
    /// An expired token.
    TOKEN_EXPIRED = 40142;
    /// A token that is not known.
    TOKEN_UNRECOGNISED = 40143;
    /// A JWT that cannot be read.
    INVALID_JWT = 40144;
    /// An Ably token that cannot be read.
    INVALID_TOKEN = 40145;
    /// The capability does not permit the operation.
    CAPABILITY_DENIED = 40160;
    /// The namespace wants an identified client.
    IDENTIFIED_CLIENT_REQUIRED = 40161;
    /// The attachment was made without the mode that the operation needs.
    MODE_NOT_GRANTED = 40165;
    /// The capability permits changes of own messages only, and the client is nobody.
    OWN_NEEDS_IDENTITY = 40166;
    /// The credentials are in order but the operation is forbidden.
    FORBIDDEN = 40300;
    /// The namespace wants TLS.
    TLS_REQUIRED = 40311;
    /// Unknown app, key, message or route.
    NOT_FOUND = 40400;
    /// An HTTP method that the route does not have.
    METHOD_NOT_ALLOWED = 40500;
    /// More inbound messages per connection than allowed; the publish is refused.
    CONNECTION_RATE_EXCEEDED = 42911;
    /// More publishes per channel than allowed.
    CHANNEL_RATE_EXCEEDED = 42913;
    /// More requests than can be remembered.
    REQUEST_RATE_EXCEEDED = 42918;
    /// More protocol messages per connection than allowed; the connection fails.
    FLOODING = 42924;
    /// A fault of the server.
    INTERNAL = 50000;
    /// The server did not finish in time.
    TIMEOUT = 50003;
    /// The server is too busy.
    BUSY = 50004;
    /// The server is draining; connect elsewhere or again.
    DRAINING = 50320;
    /// The transport was lost or given up.
    DISCONNECTED = 80003;
    /// More events of a rule wait for their delivery than may wait.
    TOO_MANY_EVENTS_WAITING = 70003;
    /// The connection cannot be resumed with these credentials.
    RESUME_DENIED = 80011;
    /// A frame that breaks the protocol.
    PROTOCOL_ERROR = 80013;
    /// The operation came over a transport that a newer one has replaced.
    TRANSPORT_SUPERSEDED = 80016;
    /// The connection is closed.
    CONNECTION_CLOSED = 80017;
    /// The connection cannot be resumed: its key is malformed, unknown or too old.
    CONNECTION_EXPIRED = 80018;
    /// Continuity of a channel was lost because the client fell behind.
    CONTINUITY_LOST_BY_RATE = 80020;
    /// Connections are being created too fast.
    CONNECTION_CREATION_RATE = 80021;
    /// The channel is in a state that does not allow the operation.
    CHANNEL_STATE = 90001;
    /// The channelSerial's messages are no longer there.
    HISTORY_EXPIRED = 90003;
    /// More messages were missed than one replay may hold.
    HISTORY_LIMIT = 90004;
    /// The channelSerial is of another site or an earlier start.
    UNKNOWN_SERIES = 90005;
    /// The attach point of `untilAttach` is not known.
    UNKNOWN_ATTACH_POINT = 90008;
    /// More channels on the connection, or in the batch, than allowed.
    TOO_MANY_CHANNELS = 90010;
    /// Channels are being created too fast, or more are open than may be.
    CHANNEL_CREATION_RATE = 90021;
    /// Presence of a client without clientId.
    PRESENCE_WITHOUT_CLIENT_ID = 91000;
    /// Presence on a channel that is not attached.
    PRESENCE_CHANNEL_STATE = 91001;
    /// More presence members on the channel than allowed.
    TOO_MANY_MEMBERS = 91003;
    /// More presence data on the channel than allowed.
    TOO_MUCH_PRESENCE_DATA = 91006;
    /// The server lost a presence membership.
    MEMBERSHIP_LOST = 91007;
    /// Messages of this channel cannot be updated or deleted.
    MUTATION_NOT_ENABLED = 93002;
}

impl ErrorCode {
    /// The HTTP status that goes with the code unless a section says otherwise.
    pub fn status(self) -> u16 {
        match self.0 {
            40009 => 413,
            40110..=40120 | 40150 | 40151 => 403,
            50003 | 50004 | 50300..=50399 | 80003 => 503,
            40000..=59999 => (self.0 / 100) as u16,
            70003 => 503,
            80016 | 80022 => 410,
            80021 | 90021 => 429,
            90001..=90005 => 404,
            91007 => 500,
            _ => 400,
        }
    }
}

impl fmt::Debug for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What went wrong, as clients see it (TI1). SDKs need all three fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorInfo {
    /// Ably's code.
    pub code: ErrorCode,
    /// HTTP status, also on a WebSocket.
    pub status: u16,
    /// For the developer who reads the log; never a payload, key or token.
    pub message: Cow<'static, str>,
    /// JSON text of an object with more to know, which a rule has given for the publisher.
    pub detail: Option<Arc<str>>,
}

impl ErrorInfo {
    /// An error with the status that usually goes with its code.
    pub fn new(code: ErrorCode, message: impl Into<Cow<'static, str>>) -> ErrorInfo {
        ErrorInfo { code, status: code.status(), message: message.into(), detail: None }
    }

    /// The same error under another HTTP status.
    pub fn with_status(self, status: u16) -> ErrorInfo {
        ErrorInfo { status, ..self }
    }

    /// Whether a client answers it by renewing its token (2.4).
    pub fn is_token_error(&self) -> bool {
        self.status == 401 && (40140..40150).contains(&self.code.0)
    }

    pub(super) fn write(&self, map: &mut MapWriter<'_>) {
        map.str("message", &self.message);
        map.uint("code", self.code.0.into());
        map.uint("statusCode", self.status.into());
        map.str("href", &format!("https://help.ably.io/error/{}", self.code.0));
        if let Some(detail) = &self.detail {
            map.json("detail", detail);
        }
    }
}

impl fmt::Display for ErrorInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}/{})", self.message, self.code.0, self.status)
    }
}

impl std::error::Error for ErrorInfo {}

/// A refusal, as the answer of whoever checks.
pub(super) fn refuse<T>(code: ErrorCode, message: &'static str) -> Result<T, ErrorInfo> {
    Err(ErrorInfo::new(code, message))
}

impl From<DecodeError> for ErrorInfo {
    fn from(error: DecodeError) -> ErrorInfo {
        let message = match error {
            DecodeError::Malformed => "malformed protocol message",
            DecodeError::TooDeep => "protocol message nested too deep",
            DecodeError::NotAnObject => "protocol message is not an object",
            DecodeError::InvalidMsgSerial => "msgSerial is not an integer from 0 to 2^53",
        };
        ErrorInfo::new(ErrorCode::PROTOCOL_ERROR, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_knows_its_status() {
        for (code, status) in [
            (ErrorCode::BAD_REQUEST, 400),
            (ErrorCode::MESSAGE_TOO_LARGE, 413),
            (ErrorCode::INVALID_CREDENTIALS, 401),
            (ErrorCode::TOO_MANY_CONNECTIONS, 403),
            (ErrorCode::CAPABILITY_DENIED, 401),
            (ErrorCode::NOT_FOUND, 404),
            (ErrorCode::METHOD_NOT_ALLOWED, 405),
            (ErrorCode::CHANNEL_RATE_EXCEEDED, 429),
            (ErrorCode::INTERNAL, 500),
            (ErrorCode::BUSY, 503),
            (ErrorCode::DRAINING, 503),
            (ErrorCode::CONNECTION_EXPIRED, 400),
            (ErrorCode::TRANSPORT_SUPERSEDED, 410),
            (ErrorCode::HISTORY_EXPIRED, 404),
            (ErrorCode::TOO_MANY_CHANNELS, 400),
        ] {
            assert_eq!(code.status(), status, "{code:?}");
        }
    }

    #[test]
    fn only_40140_to_40149_ask_for_a_new_token() {
        assert!(ErrorInfo::new(ErrorCode::TOKEN_EXPIRED, "").is_token_error());
        assert!(ErrorInfo::new(ErrorCode::TOKEN_ERROR, "").is_token_error());
        assert!(!ErrorInfo::new(ErrorCode::CAPABILITY_DENIED, "").is_token_error());
        assert!(!ErrorInfo::new(ErrorCode::INVALID_CREDENTIALS, "").is_token_error());
    }
}
