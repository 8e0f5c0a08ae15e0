//! Where the events of a rule go, as it is configured. What sends them is in the file of each sink.

use std::fmt;
use std::path::Path;
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

/// Whom connections over TLS trust, and how they show who we are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// Certificates of authorities that are trusted as the system's are, as PEM.
    pub ca: Option<Box<str>>,
    /// Our own certificate with its key, both as PEM.
    pub identity: Option<Secret>,
}

impl Tls {
    /// Reads a file of authorities.
    ///
    /// # Errors
    /// It cannot be read, or holds no certificate.
    pub fn read_ca(path: &Path) -> Result<Box<str>, String> {
        let text = read(path)?;
        match reqwest::Certificate::from_pem_bundle(text.as_bytes()) {
            Ok(found) if !found.is_empty() => Ok(text.into()),
            _ => Err(format!("{} holds no certificate in PEM", path.display())),
        }
    }

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
