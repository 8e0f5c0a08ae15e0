//! Events as messages on subjects of a NATS server.

use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use async_nats::connection::State;
use async_nats::jetstream::context::PublishErrorKind as AckErrorKind;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::{self, Context};
use async_nats::rustls::pki_types::pem::PemObject;
use async_nats::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use async_nats::rustls::{ClientConfig, RootCertStore, crypto};
use async_nats::{
    ConnectOptions, Event, HeaderMap, HeaderName, HeaderValue, PublishErrorKind, ReconnectToServer,
    Request, RequestErrorKind, ServerAddr, Subject,
};
use tokio::sync::OnceCell;

use super::address::{check_url, is_public};
use super::answer::Answer;
use super::courier::{Outcome, Parcel};
use super::reach::{Authorities, Reach, Tls};
use super::request::{VERSION, body};
use super::secret::Secret;
use crate::ably::RequestShape;

/// A subject, and the server that has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NatsTarget {
    /// `nats://` or `tls://`; several are of one cluster.
    pub servers: Vec<String>,
    /// What each message is published on.
    pub subject: SubjectTemplate,
    /// Whether a stream has to confirm each message.
    pub jetstream: bool,
    /// Sent with every message.
    pub headers: Vec<(String, String)>,
    /// Who connects.
    pub login: NatsLogin,
}

/// How a NATS server knows us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NatsLogin {
    /// It does not, or by our certificate.
    None,
    /// By a word.
    Token(Secret),
    /// By name and password.
    Password {
        /// The name.
        user: Box<str>,
        /// What goes with it.
        password: Secret,
    },
    /// By the text of a `.creds` file.
    Credentials(Secret),
}

/// Longest time for one connection to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Publishes the parcels of one rule, over one connection. That is made when it is needed first, and again
/// whenever it breaks.
pub struct NatsClient {
    target: NatsTarget,
    servers: Vec<ServerAddr>,
    allow_private: bool,
    timeout: Duration,
    tls: ClientConfig,
    headers: HeaderMap,
    connection: OnceCell<Connection>,
}

struct Connection {
    client: async_nats::Client,
    jetstream: Option<Context>,
    /// A subject that nobody has, and that the server says so of.
    nobody: Subject,
    errors: Arc<Errors>,
}

/// What the server has refused. It says so without saying of what.
#[derive(Default)]
struct Errors {
    count: AtomicU64,
    last: Mutex<String>,
}

impl NatsClient {
    /// A client without a connection.
    ///
    /// # Errors
    /// A server's URL or a header is malformed, or certificates cannot be read.
    pub fn new(reach: &Reach, nats: &NatsTarget) -> anyhow::Result<NatsClient> {
        let mut servers = Vec::new();
        for server in &nats.servers {
            let server = check_server(server, reach.allow_private).map_err(anyhow::Error::msg)?;
            servers.push(server.parse().context("the URL of a server is malformed")?);
        }
        let mut headers = HeaderMap::new();
        headers.insert("x-ably-version", VERSION);
        for (name, value) in &nats.headers {
            let name: HeaderName = name.parse().context("a header's name is malformed")?;
            let value: HeaderValue = value.parse().context("a header's value is malformed")?;
            headers.insert(name, value);
        }
        Ok(NatsClient {
            target: nats.clone(),
            servers,
            allow_private: reach.allow_private,
            timeout: reach.timeout,
            tls: tls_config(&reach.tls)?,
            headers,
            connection: OnceCell::new(),
        })
    }

    /// Sends one parcel.
    pub async fn send(&self, parcel: &Parcel) -> Answer {
        match tokio::time::timeout(self.timeout, self.publish(parcel)).await {
            Ok(answer) => answer,
            Err(_) => Answer::failed("no answer in time".into()),
        }
    }

    async fn publish(&self, parcel: &Parcel) -> Answer {
        let connection = match self.connection.get_or_try_init(|| self.connect()).await {
            Ok(connection) => connection,
            Err(why) => return Answer::failed(why),
        };
        // What is handed over now would wait in the client, and be sent after it was given up here.
        if connection.client.connection_state() != State::Connected {
            return Answer::failed("the connection is lost".into());
        }
        let (content_type, body) = body(parcel);
        let mut headers = self.headers.clone();
        if headers.get("content-type").is_none() {
            headers.insert("content-type", content_type.name());
        }
        let first = &parcel.entries[0];
        for (name, value) in &first.event.headers {
            match (name.parse::<HeaderName>(), value.parse::<HeaderValue>()) {
                (Ok(name), Ok(value)) => headers.insert(name, value),
                _ => return refuse(parcel, format!("`{name}` is no header")),
            }
        }
        let rule = first.event.rule();
        let last = parcel.entries.last().expect("parcels are not empty");
        // The same when the same is sent again; a batch that has grown since is another one.
        let message_id = match first.id == last.id {
            true => format!("{}-{}", rule.id, first.id),
            false => format!("{}-{}-{}", rule.id, first.id, last.id),
        };
        headers.insert("Nats-Msg-Id", message_id);
        let subject = self.target.subject.fill(SubjectParts {
            app: &rule.app_id,
            channel: &first.event.channel,
            rule: &rule.id,
        });
        match &connection.jetstream {
            Some(jetstream) => {
                let message = PublishMessage::build().headers(headers).payload(body);
                let acked = match jetstream.send_publish(subject, message).await {
                    Ok(acked) => acked.await,
                    Err(error) => Err(error),
                };
                match acked {
                    Ok(_) => delivered(),
                    Err(error) if error.kind() == AckErrorKind::MaxPayloadExceeded => {
                        refuse(parcel, "larger than the server takes".into())
                    }
                    Err(error) if error.kind() == AckErrorKind::StreamNotFound => {
                        Answer::failed("no stream has the subject".into())
                    }
                    Err(error) => Answer::failed(error.to_string()),
                }
            }
            None => {
                let client = &connection.client;
                let before = connection.state();
                if let Err(error) = client.publish_with_headers(subject, headers, body).await {
                    return match error.kind() {
                        PublishErrorKind::MaxPayloadExceeded | PublishErrorKind::InvalidSubject => {
                            refuse(parcel, error.to_string())
                        }
                        PublishErrorKind::Send => Answer::failed(error.to_string()),
                    };
                }
                connection.confirm(before).await
            }
        }
    }

    async fn connect(&self) -> Result<Connection, String> {
        if !self.allow_private {
            let mut is_one_public = false;
            for server in &self.servers {
                is_one_public |= leads_to_public(server.clone()).await;
            }
            if !is_one_public {
                return Err(
                    "no server has a public address, and the rule says no `allow_private`".into()
                );
            }
        }
        let errors = Arc::new(Errors::default());
        let noted = Arc::clone(&errors);
        let mut options = ConnectOptions::new()
            .name(concat!("ringcast/", env!("CARGO_PKG_VERSION")))
            .connection_timeout(CONNECT_TIMEOUT)
            .request_timeout(Some(self.timeout))
            // Where to go is the configuration's business, not the server's.
            .ignore_discovered_servers()
            .tls_client_config(self.tls.clone())
            .event_callback(move |event| {
                if let Event::ServerError(error) = event {
                    noted.count.fetch_add(1, Ordering::Relaxed);
                    let mut last = noted.last.lock().unwrap_or_else(PoisonError::into_inner);
                    *last = error.to_string();
                }
                std::future::ready(())
            });
        if !self.allow_private {
            options = options.reconnect_to_server_callback(|servers, _| choose(servers));
        }
        options = match &self.target.login {
            NatsLogin::None => options,
            NatsLogin::Token(token) => options.token(token.reveal().to_owned()),
            NatsLogin::Password { user, password } => {
                options.user_and_password(user.to_string(), password.reveal().to_owned())
            }
            NatsLogin::Credentials(text) => match options.credentials(text.reveal()) {
                Ok(options) => options,
                Err(_) => return Err("`credentials_file` holds no credentials".into()),
            },
        };
        let client =
            options.connect(self.servers.clone()).await.map_err(|error| error.to_string())?;
        let jetstream = self.target.jetstream.then(|| {
            let builder = jetstream::ContextBuilder::new().timeout(self.timeout);
            builder.ack_timeout(self.timeout).build(client.clone())
        });
        let nobody = client.new_inbox().into();
        Ok(Connection { client, jetstream, nobody, errors })
    }
}

impl Connection {
    /// How often it was made, and what was refused: nothing was lost where neither has changed.
    fn state(&self) -> (u64, u64) {
        let connects = self.client.statistics().connects.load(Ordering::Relaxed);
        (connects, self.errors.count.load(Ordering::Relaxed))
    }

    /// Waits until the server has taken what was published since `before`. It does not say so of messages,
    /// but it takes what comes over one connection in order, and answers at once who asks nobody.
    async fn confirm(&self, before: (u64, u64)) -> Answer {
        match self.client.send_request(self.nobody.clone(), Request::new()).await {
            Ok(_) => {}
            Err(error) if error.kind() == RequestErrorKind::NoResponders => {}
            Err(error) => return Answer::failed(error.to_string()),
        }
        let (connects, errors) = self.state();
        if connects != before.0 {
            return Answer::failed("the connection was lost".into());
        }
        if errors != before.1 {
            // Of this message or of another that is under way; rather twice than not at all.
            let last = self.errors.last.lock().unwrap_or_else(PoisonError::into_inner);
            return Answer::failed(format!("the server says: {last}"));
        }
        delivered()
    }
}

/// What will never be taken. In a batch it must not take others with it.
fn refuse(parcel: &Parcel, note: String) -> Answer {
    match parcel.shape() {
        RequestShape::Batch => Answer::failed(note),
        RequestShape::Enveloped | RequestShape::Bare => {
            Answer { outcome: Outcome::Refused, note, status: None }
        }
    }
}

fn delivered() -> Answer {
    Answer { outcome: Outcome::Delivered, note: String::new(), status: None }
}

/// The server that is connected to next: one with a public address, that has failed least.
async fn choose(mut servers: Vec<async_nats::Server>) -> Option<ReconnectToServer> {
    servers.sort_by_key(|server| server.failed_attempts);
    loop {
        for server in &servers {
            if leads_to_public(server.addr.clone()).await {
                return Some(ReconnectToServer { addr: server.addr.clone(), delay: None });
            }
        }
        tokio::time::sleep(CONNECT_TIMEOUT).await;
    }
}

/// Whether a server has public addresses only.
async fn leads_to_public(server: ServerAddr) -> bool {
    if let Ok(address) = server.host().parse::<IpAddr>() {
        return is_public(address);
    }
    // A task of its own, since the library shares what it waits for between threads.
    let found = tokio::spawn(async move {
        let found = tokio::net::lookup_host((server.host(), server.port())).await;
        found.is_ok_and(|mut found| found.all(|found| is_public(found.ip())))
    });
    found.await.unwrap_or(false)
}

/// Trusts the system's authorities and those of the rule, and shows its certificate.
fn tls_config(tls: &Tls) -> anyhow::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    for certificate in
        CertificateDer::pem_slice_iter(tls.ca.as_ref().map_or(&[], Authorities::as_pem))
    {
        roots.add(certificate?)?;
    }
    let provider = Arc::new(crypto::ring::default_provider());
    let config =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let config = config.with_root_certificates(roots);
    Ok(match &tls.identity {
        Some(identity) => {
            let pem = identity.reveal().as_bytes();
            let chain = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>()?;
            config.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(pem)?)?
        }
        None => config.with_no_client_auth(),
    })
}

/// A subject in which `{app}`, `{channel}` and `{rule}` stand for what an event has there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubjectTemplate(Box<[Part]>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(Box<str>),
    App,
    Channel,
    Rule,
}

/// As it was given.
impl fmt::Display for SubjectTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|part| match part {
            Part::Text(text) => f.write_str(text),
            Part::App => f.write_str("{app}"),
            Part::Channel => f.write_str("{channel}"),
            Part::Rule => f.write_str("{rule}"),
        })
    }
}

/// What subjects of events are made from.
#[derive(Clone, Copy, Debug)]
pub struct SubjectParts<'a> {
    /// The app's id.
    pub app: &'a str,
    /// The channel's name.
    pub channel: &'a str,
    /// The rule's id.
    pub rule: &'a str,
}

/// Reads the URL of a server. A name in it is looked at when it is resolved.
///
/// # Errors
/// Why it is none, or none that may be reached.
pub fn check_server(text: &str, allow_private: bool) -> Result<String, String> {
    let as_http = match text.split_once("://") {
        Some(("nats" | "tls", rest)) => format!("http://{rest}"),
        _ => return Err(format!("`{text}`: wants nats:// or tls://")),
    };
    // Read as browsers read hosts, so that no spelling of an address passes for a name.
    let url = check_url(&as_http, allow_private)?;
    if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
        return Err(format!("`{text}`: wants a host and a port alone"));
    }
    Ok(text.to_owned())
}

/// Bytes of a template.
const SUBJECT_BYTES_MAX: usize = 256;

impl SubjectTemplate {
    /// Reads a template.
    ///
    /// # Errors
    /// It is no subject, or has a word in braces that means nothing.
    pub fn parse(text: &str) -> Result<SubjectTemplate, String> {
        if text.len() > SUBJECT_BYTES_MAX {
            return Err(format!("is longer than {SUBJECT_BYTES_MAX} bytes"));
        }
        let is_of_subject = |b: u8| b.is_ascii_graphic() && !matches!(b, b'*' | b'>');
        if text.split('.').any(str::is_empty) || !text.bytes().all(is_of_subject) {
            return Err(r#"wants a subject, such as "chat.{channel}""#.into());
        }
        if text.starts_with('$') {
            return Err("begins with `$`, which is for the server itself".into());
        }
        let (mut parts, mut rest) = (Vec::new(), text);
        while let Some((before, after)) = rest.split_once('{') {
            let Some((word, after)) = after.split_once('}') else {
                return Err("has a `{` without a `}`".into());
            };
            if !before.is_empty() {
                parts.push(Part::Text(before.into()));
            }
            parts.push(match word {
                "app" => Part::App,
                "channel" => Part::Channel,
                "rule" => Part::Rule,
                _ => {
                    return Err(format!(
                        "`{{{word}}}` is not one of {{app}}, {{channel}}, {{rule}}"
                    ));
                }
            });
            rest = after;
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.into()));
        }
        Ok(SubjectTemplate(parts.into()))
    }

    /// Whether events of several channels have one subject.
    pub fn is_without_channel(&self) -> bool {
        !self.0.contains(&Part::Channel)
    }

    /// The subject of one event.
    pub fn fill(&self, event: SubjectParts<'_>) -> String {
        let mut subject = String::new();
        for part in &self.0 {
            match part {
                Part::Text(text) => subject.push_str(text),
                Part::App => push_token(&mut subject, event.app),
                Part::Channel => push_token(&mut subject, event.channel),
                Part::Rule => push_token(&mut subject, event.rule),
            }
        }
        subject
    }
}

/// Adds `text` as one token: what would end a token, is a wildcard or cannot be printed is
/// percent-encoded, and so is `%`, so that names which differ have tokens which do.
fn push_token(subject: &mut String, text: &str) {
    for byte in text.bytes() {
        match byte {
            b'.' | b'*' | b'>' | b'%' => subject.push_str(&format!("%{byte:02X}")),
            b'!'..=b'~' => subject.push(byte.into()),
            _ => subject.push_str(&format!("%{byte:02X}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_is_one_token_of_a_subject() {
        let template = SubjectTemplate::parse("ringcast.{app}.{rule}-x.{channel}").expect("valid");
        assert_eq!(template.to_string(), "ringcast.{app}.{rule}-x.{channel}");
        let fill = |channel| template.fill(SubjectParts { app: "a", rule: "r", channel });
        for (channel, subject) in [
            ("chat:room", "ringcast.a.r-x.chat:room"),
            ("v1.2 *>%", "ringcast.a.r-x.v1%2E2%20%2A%3E%25"),
            ("é\r\n", "ringcast.a.r-x.%C3%A9%0D%0A"),
        ] {
            assert_eq!(fill(channel), subject);
        }
    }

    #[test]
    fn a_template_that_is_no_subject_is_refused() {
        for wrong in
            ["", "a..b", ".a", "a.", "a b", "a.*", "a.>", "a.{chanel}", "a.{app", "$SYS.x", "é"]
        {
            assert!(SubjectTemplate::parse(wrong).is_err(), "{wrong}");
        }
    }
}
