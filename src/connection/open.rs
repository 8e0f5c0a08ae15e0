//! How a transport gets its connection: what the upgrade request says, a new connection or one that
//! had another transport before, and CONNECTED as the first frame.

use std::sync::Arc;
use std::time::Duration;

use super::rates::Rates;
use super::{Connection, ConnectionConfig, ConnectionId, ConnectionKey, Place, tell};
use crate::ably::{ConnectionDetails, ErrorCode, ErrorInfo, Format, Identity, Outbound, Principal};
use crate::base::{Entropy, Now};
use crate::http::Request;

/// The oldest protocol version that is served: channel serials carry continuity since then (2.3).
const VERSION_MIN: f32 = 2.0;

/// Shortest time that members stay after their connection was lost (7.6).
const REMAIN_PRESENT_MIN: Duration = Duration::from_secs(1);

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

/// What a client asks for when it opens a transport (2.1).
pub struct Opening {
    principal: Arc<Principal>,
    format: Format,
    wants_echo: bool,
    wants_heartbeats: bool,
    resumes: Option<Result<ConnectionKey, ErrorInfo>>,
    /// How long members shall stay after the transport was lost, in milliseconds.
    remain_present_ms: Option<u64>,
}

impl Opening {
    /// Reads the upgrade request of a client that presented the credentials of `principal`.
    ///
    /// # Errors
    /// The credentials or the protocol version are refused.
    pub fn read(
        request: &Request,
        principal: Result<Arc<Principal>, ErrorInfo>,
    ) -> Result<Opening, Refused> {
        let format = match request.query_param("format").as_deref() {
            Some("msgpack") => Format::MsgPack,
            _ => Format::Json,
        };
        let refuse = |error| Refused { format, error };
        let version = request.query_param("v");
        let version = version.as_deref().or_else(|| request.header("x-ably-version"));
        if version.and_then(|text| text.parse::<f32>().ok()).is_some_and(|v| v < VERSION_MIN) {
            let text = "this protocol version is not served; the oldest is 2";
            return Err(refuse(ErrorInfo::new(ErrorCode::UNSUPPORTED_VERSION, text)));
        }
        let principal = principal.map_err(refuse)?;
        let flag = |name: &str| request.query_param(name).as_deref() != Some("false");
        let resumes = ["resume", "recover"].iter().find_map(|name| request.query_param(name));
        let resumes = resumes.map(|key| {
            key.parse().map_err(|_| {
                ErrorInfo::new(ErrorCode::CONNECTION_EXPIRED, "unknown connection key")
            })
        });
        let (wants_echo, wants_heartbeats) = (flag("echo"), flag("heartbeats"));
        // What is no number is no wish.
        let remain_present_ms = request.query_param("remainPresentFor");
        let remain_present_ms = remain_present_ms.and_then(|text| text.parse().ok());
        Ok(Opening { principal, format, wants_echo, wants_heartbeats, resumes, remain_present_ms })
    }

    /// Tells the client to try again later.
    pub fn put_off(&self, error: &ErrorInfo, lane: &mut Vec<u8>) {
        tell(self.format, &Outbound::Disconnected { error: Some(error) }, lane);
    }

    /// Tells the client that it is not let in.
    pub fn refuse(&self, error: &ErrorInfo, lane: &mut Vec<u8>) {
        tell(self.format, &Outbound::Error { channel: None, error }, lane);
    }

    /// Who opens the transport.
    pub fn principal(&self) -> &Arc<Principal> {
        &self.principal
    }

    /// The connection that is to go on, or why it cannot (RTN15b, RTN16k).
    pub fn resumes(&self) -> Option<&Result<ConnectionKey, ErrorInfo>> {
        self.resumes.as_ref()
    }

    /// A new connection at `place`, and its CONNECTED; `error` says why it is not the one that was to
    /// be resumed.
    pub fn begin(
        self,
        config: &ConnectionConfig,
        now: Now,
        entropy: &mut Entropy,
        place: Place,
        error: Option<&ErrorInfo>,
        lane: &mut Vec<u8>,
    ) -> Connection {
        let id = ConnectionId::random(entropy);
        let mut connection = Connection {
            key: ConnectionKey::random(id, place, entropy),
            principal: self.principal,
            format: self.format,
            wants_echo: self.wants_echo,
            wants_heartbeats: self.wants_heartbeats,
            asks_for_token: false,
            next_msg_serial: 0,
            acks: None,
            attachments: super::Attachments::default(),
            rates: Rates::default(),
            transport_count: 1,
            began_s: (now.mono_ms / 1000) as u32,
            remain_present_ms: remain_present_ms(config, self.remain_present_ms),
            entered: None,
        };
        connection.plan_renewal(now);
        connection.connected(config, error, lane);
        connection
    }

    /// Has `connection` go on at `place`, under a new key, and appends its CONNECTED.
    pub fn resume(
        self,
        connection: &mut Connection,
        config: &ConnectionConfig,
        now: Now,
        entropy: &mut Entropy,
        place: Place,
        lane: &mut Vec<u8>,
    ) {
        connection.key = ConnectionKey::random(connection.id(), place, entropy);
        connection.principal = self.principal;
        connection.format = self.format;
        connection.wants_echo = self.wants_echo;
        connection.wants_heartbeats = self.wants_heartbeats;
        connection.transport_count += 1;
        connection.remain_present_ms = remain_present_ms(config, self.remain_present_ms);
        if connection.next_msg_serial > 0 {
            connection.acks.get_or_insert_default().expect_resends(connection.next_msg_serial);
        }
        connection.plan_renewal(now);
        connection.connected(config, None, lane);
    }
}

impl Connection {
    /// Somebody who listens over HTTP and never says a word.
    pub fn listener(
        principal: Arc<Principal>,
        now: Now,
        entropy: &mut Entropy,
        place: Place,
    ) -> Connection {
        let id = ConnectionId::random(entropy);
        Connection {
            key: ConnectionKey::random(id, place, entropy),
            principal,
            format: Format::Json,
            wants_echo: true,
            wants_heartbeats: false,
            asks_for_token: false,
            next_msg_serial: 0,
            acks: None,
            attachments: super::Attachments::default(),
            rates: Rates::default(),
            transport_count: 1,
            began_s: (now.mono_ms / 1000) as u32,
            remain_present_ms: 0,
            entered: None,
        }
    }

    /// Whether the holder of `key` and of the credentials of `principal` may have it.
    ///
    /// # Errors
    /// 80018: the key is another; 80011: the credentials are of another app or client.
    pub fn admits(&self, key: &ConnectionKey, principal: &Principal) -> Result<(), ErrorInfo> {
        if !self.key.is(key) {
            let text = "the connection key is not the latest one";
            return Err(ErrorInfo::new(ErrorCode::CONNECTION_EXPIRED, text));
        }
        let same_app = self.app_id() == principal.app_id();
        if !same_app || self.principal.identity() != principal.identity() {
            let text = "the connection belongs to another app or client";
            return Err(ErrorInfo::new(ErrorCode::RESUME_DENIED, text));
        }
        Ok(())
    }

    /// Appends CONNECTED.
    pub fn connected(
        &self,
        config: &ConnectionConfig,
        error: Option<&ErrorInfo>,
        lane: &mut Vec<u8>,
    ) {
        let connection_key = self.key.to_string();
        let client_id = match self.principal.identity() {
            Identity::Anonymous => None,
            Identity::Client(id) => Some(&**id),
            Identity::Wildcard => Some("*"),
        };
        let details = ConnectionDetails {
            client_id,
            connection_key: &connection_key,
            max_message_size: config.message_bytes_max.into(),
            max_frame_size: config.frame_bytes_max.into(),
            max_inbound_rate: 1000,
            connection_state_ttl: config.state_ttl,
            max_idle_interval: config.idle_interval,
        };
        let id = self.id();
        self.tell(&Outbound::Connected { connection_id: id.as_str(), details, error }, lane);
    }
}

/// How long members stay: as the client wishes, but not less than a change of network takes, and not
/// longer than the connection can come back.
fn remain_present_ms(config: &ConnectionConfig, wished_ms: Option<u64>) -> u32 {
    let granted = wished_ms.map_or(config.remain_present, |wished_ms| {
        let longest = config.state_ttl.max(REMAIN_PRESENT_MIN);
        Duration::from_millis(wished_ms).clamp(REMAIN_PRESENT_MIN, longest)
    });
    granted.as_millis() as u32
}
