//! How a connection begins: what the upgrade request says, and the answer as the first frame.

use std::sync::Arc;

use data_encoding::BASE64URL_NOPAD;

use super::{Connection, ConnectionConfig, ConnectionId, tell};
use crate::ably::{ConnectionDetails, ErrorCode, ErrorInfo, Format, Identity, Outbound, Principal};
use crate::base::Entropy;
use crate::http::Request;

/// The oldest protocol version that is served: channel serials carry continuity since then (2.3).
const VERSION_MIN: f32 = 2.0;

/// Why a transport never became a connection. The upgrade is completed all the same, as clients
/// cannot see an HTTP error; the error is the first and last frame.
pub struct Refused {
    format: Format,
    error: ErrorInfo,
}

impl Refused {
    /// Appends the ERROR that says why.
    pub fn tell(&self, lane: &mut Vec<u8>) {
        tell(self.format, &Outbound::Error { channel: None, error: &self.error }, lane);
    }
}

impl Connection {
    /// Opens a connection as `request` asks for it, and appends CONNECTED to `lane`.
    ///
    /// # Errors
    /// The credentials or the protocol version are refused.
    pub fn open(
        config: &ConnectionConfig,
        principal: Result<Arc<Principal>, ErrorInfo>,
        entropy: &mut Entropy,
        request: &Request,
        lane: &mut Vec<u8>,
    ) -> Result<Connection, Refused> {
        let format = match request.query_param("format").as_deref() {
            Some("msgpack") => Format::MsgPack,
            _ => Format::Json,
        };
        let connection = Connection::admit(principal, entropy, request, format)
            .map_err(|error| Refused { format, error })?;
        connection.connected(config, request, lane);
        Ok(connection)
    }

    fn admit(
        principal: Result<Arc<Principal>, ErrorInfo>,
        entropy: &mut Entropy,
        request: &Request,
        format: Format,
    ) -> Result<Connection, ErrorInfo> {
        let version = request.query_param("v");
        let version = version.as_deref().or_else(|| request.header("x-ably-version"));
        if version.and_then(|text| text.parse::<f32>().ok()).is_some_and(|v| v < VERSION_MIN) {
            let text = "this protocol version is not served; the oldest is 2";
            return Err(ErrorInfo::new(ErrorCode::UNSUPPORTED_VERSION, text));
        }
        let principal = principal?;
        let flag = |name: &str| request.query_param(name).as_deref() != Some("false");
        Ok(Connection {
            id: ConnectionId::new(entropy.bytes()),
            secret: entropy.bytes(),
            principal,
            format,
            wants_echo: flag("echo"),
            wants_heartbeats: flag("heartbeats"),
            next_msg_serial: 0,
            acks: None,
            attachments: super::Attachments::default(),
        })
    }

    fn connected(&self, config: &ConnectionConfig, request: &Request, lane: &mut Vec<u8>) {
        let connection_key = format!("{}!{}", self.id, BASE64URL_NOPAD.encode(&self.secret));
        let client_id = match self.principal.identity() {
            Identity::Anonymous => None,
            Identity::Client(id) => Some(&**id),
            Identity::Wildcard => Some("*"),
        };
        // Connections do not outlive their transports yet: whoever resumes gets a new one, and is
        // told that it is new (RTN15c7).
        let resumes = ["resume", "recover"].iter().any(|name| request.query_param(name).is_some());
        let error = resumes.then(|| {
            let text = "the connection is not known here; this is a new one";
            ErrorInfo::new(ErrorCode::CONNECTION_EXPIRED, text)
        });
        let details = ConnectionDetails {
            client_id,
            connection_key: &connection_key,
            max_message_size: config.message_bytes_max.into(),
            max_frame_size: config.frame_bytes_max.into(),
            max_inbound_rate: 1000,
            connection_state_ttl: config.state_ttl,
            max_idle_interval: config.idle_interval,
        };
        let id = self.id;
        let connected =
            Outbound::Connected { connection_id: id.as_str(), details, error: error.as_ref() };
        self.tell(&connected, lane);
    }
}
