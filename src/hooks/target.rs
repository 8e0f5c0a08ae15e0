//! Where the events of a rule go, as it is configured. What sends them is in the file of each sink.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::courier::Pace;
use super::http::HttpTarget;
use super::lambda::LambdaTarget;
use super::nats::NatsTarget;

/// Text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Box<str>);

impl Secret {
    /// Hides `text`.
    pub fn new(text: &str) -> Secret {
        Secret(text.into())
    }

    /// The text, for the one place that sends it or signs with it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("...")
    }
}

/// What requests are signed with (15.6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SigningKey {
    /// `appId.keyId`.
    pub name: Box<str>,
    /// Never logged.
    pub secret: Secret,
}

/// Where the events of a rule go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// What takes them.
    pub sink: Sink,
    /// Whether addresses that are not public may be reached.
    pub allow_private: bool,
    /// For one request with its answer.
    pub timeout: Duration,
    /// How requests follow each other.
    pub pace: Pace,
    /// Beyond what the system trusts.
    pub tls: Tls,
}

/// What takes events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sink {
    /// An endpoint that takes POSTs.
    Http(HttpTarget),
    /// A function, by its name.
    Lambda(LambdaTarget),
    /// A subject of a NATS server.
    Nats(NatsTarget),
}

impl Sink {
    /// Bytes of events in one batch, unless somebody knows better.
    pub fn batch_bytes_max(&self) -> u64 {
        match self {
            Sink::Http(_) => 1 << 20,
            // What AWS takes of an event that it queues was 256 KiB for long, its frame included.
            Sink::Lambda(_) => 240 << 10,
            // A server takes 1 MiB with headers and frame, unless it is told otherwise.
            Sink::Nats(_) => 960 << 10,
        }
    }
}

/// Whom connections over TLS trust, and how they show who we are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// Authorities that are trusted as the system's are.
    pub ca: Option<Authorities>,
    /// Our own certificate with its key, both as PEM.
    pub identity: Option<Secret>,
}

/// Certificates of authorities.
#[derive(Clone, PartialEq, Eq)]
pub struct Authorities {
    /// Where they are from.
    pub path: PathBuf,
    pem: Box<str>,
}

impl Authorities {
    /// Reads a file of certificates.
    ///
    /// # Errors
    /// It cannot be read, or holds none.
    pub fn read(path: &Path) -> Result<Authorities, String> {
        let pem = read(path)?;
        match reqwest::Certificate::from_pem_bundle(pem.as_bytes()) {
            Ok(found) if !found.is_empty() => {
                Ok(Authorities { path: path.into(), pem: pem.into() })
            }
            _ => Err(format!("{} holds no certificate in PEM", path.display())),
        }
    }

    /// The certificates.
    pub fn as_pem(&self) -> &[u8] {
        self.pem.as_bytes()
    }
}

impl fmt::Debug for Authorities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.fmt(f)
    }
}

impl Tls {
    /// Reads a certificate, with the others that lead to its authority if there are any, and its key.
    ///
    /// # Errors
    /// A file cannot be read, or they do not make a pair.
    pub fn read_identity(certificate: &Path, key: &Path) -> Result<Secret, String> {
        let text = format!("{}\n{}", read(certificate)?, read(key)?);
        match reqwest::Identity::from_pem(text.as_bytes()) {
            Ok(_) => Ok(Secret::new(&text)),
            Err(_) => Err(format!(
                "{} and {} are no certificate and key in PEM",
                certificate.display(),
                key.display()
            )),
        }
    }
}

fn read(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path)
        .map_err(|error| format!("cannot read {}: {error}", path.display()))
}
