//! How connections to endpoints are made, whatever they are: where to, how long, with whose trust.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::secret::Secret;

/// How far the requests of a rule reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reach {
    /// Whether addresses that are not public may be reached.
    pub allow_private: bool,
    /// For one request with its answer.
    pub timeout: Duration,
    /// Beyond what the system trusts.
    pub tls: Tls,
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
