//! `[tls]`: files and choices, to what handshakes are made with.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::config::reader::{ConfigError, Section};
use crate::config::rule::one_of;
use crate::config::units;
use crate::server::TlsConfig;
use crate::tls::{Acceptor, ClientAuth, Identity, IdentityError, MinVersion};

const CLIENT_AUTH: [(&str, ClientAuth); 3] = [
    ("off", ClientAuth::Off),
    ("optional", ClientAuth::Optional),
    ("required", ClientAuth::Required),
];

const MIN_VERSION: [(&str, MinVersion); 2] =
    [("1.2", MinVersion::Tls12), ("1.3", MinVersion::Tls13)];

/// TLS on a listener of its own. The files are read when they are needed, and again at each reload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsSettings {
    /// Where all shards listen for it; `None`: nowhere, unless a socket is handed over.
    pub listen: Option<SocketAddr>,
    /// The certificate, and those between it and a root; PEM.
    pub certificate_file: Option<PathBuf>,
    /// Its private key; PEM.
    pub key_file: Option<PathBuf>,
    /// Authorities whose clients come in; PEM.
    pub client_ca_file: Option<PathBuf>,
    /// Whether clients show certificates.
    pub client_auth: ClientAuth,
    /// The oldest version that is spoken.
    pub min_version: MinVersion,
}

impl TlsSettings {
    pub(super) fn read(&mut self, mut section: Section) -> Result<(), ConfigError> {
        section.read("listen", &mut self.listen, units::address_or_off)?;
        for (key, file) in [
            ("certificate_file", &mut self.certificate_file),
            ("key_file", &mut self.key_file),
            ("client_ca_file", &mut self.client_ca_file),
        ] {
            let directory = section.directory();
            section.read(key, file, |value| {
                units::secret_path(&directory, units::text(value)?).map(Some)
            })?;
        }
        section.read("client_auth", &mut self.client_auth, one_of(&CLIENT_AUTH))?;
        section.read("min_version", &mut self.min_version, one_of(&MIN_VERSION))?;
        section.finish()
    }

    /// The words for `client_auth` and `min_version`, as they stand in a file.
    pub(super) fn words(&self) -> [&'static str; 2] {
        fn word<T: PartialEq>(words: &[(&'static str, T)], value: &T) -> &'static str {
            let found = words.iter().find(|(_, of)| of == value);
            found.expect("every value has its word").0
        }
        [word(&CLIENT_AUTH, &self.client_auth), word(&MIN_VERSION, &self.min_version)]
    }

    /// Reads the files; `None` where there is no TLS.
    ///
    /// # Errors
    /// A file is not named or cannot be read, holds nothing of use, or certificate and key do not belong
    /// together.
    pub fn to_acceptor(&self) -> anyhow::Result<Option<Acceptor>> {
        let (certificate, key) = match (&self.certificate_file, &self.key_file) {
            (Some(certificate), Some(key)) => (certificate, key),
            (None, None) if self.listen.is_none() => return Ok(None),
            (None, _) => bail!("`tls.certificate_file`: is missing"),
            (_, None) => bail!("`tls.key_file`: is missing"),
        };
        let certificate_pem = read("certificate_file", certificate)?;
        let key_pem = read("key_file", key)?;
        let client_ca = match self.client_auth {
            ClientAuth::Off => None,
            ClientAuth::Optional | ClientAuth::Required => self.client_ca_file.as_deref(),
        };
        if self.client_auth != ClientAuth::Off && client_ca.is_none() {
            bail!("`tls.client_ca_file`: is missing");
        }
        let client_ca_pem = client_ca.map(|path| read("client_ca_file", path)).transpose()?;
        let identity = Identity {
            certificate_pem: &certificate_pem,
            key_pem: &key_pem,
            client_ca_pem: client_ca_pem.as_deref().unwrap_or_default(),
            client_auth: self.client_auth,
            min_version: self.min_version,
        };
        match Acceptor::new(&identity) {
            Ok(acceptor) => Ok(Some(acceptor)),
            Err(error) => {
                let (name, path) = match &error {
                    IdentityError::Certificate(_) => ("certificate_file", certificate.as_path()),
                    IdentityError::Key(_) => ("key_file", key.as_path()),
                    IdentityError::ClientCa(_) => ("client_ca_file", client_ca.unwrap_or(key)),
                };
                bail!("`tls.{name}`: {}: {error}", path.display())
            }
        }
    }

    /// The same, with where to listen.
    ///
    /// # Errors
    /// As [`to_acceptor`](Self::to_acceptor).
    pub(super) fn to_server(&self) -> anyhow::Result<Option<TlsConfig>> {
        let acceptor = self.to_acceptor()?;
        Ok(acceptor.map(|acceptor| TlsConfig { listen: self.listen, acceptor }))
    }
}

fn read(name: &str, path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("`tls.{name}`: cannot read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    #[test]
    fn files_that_are_missing_are_named() {
        let refusal = |text: &str| {
            let config = Config::parse("/nowhere/r.toml", text).expect("is a configuration");
            format!("{:#}", config.tls.to_acceptor().expect_err("has no files"))
        };
        let listen = "[tls]\nlisten = \"127.0.0.1:0\"\n";
        assert_eq!(refusal(listen), "`tls.certificate_file`: is missing");
        let certificate = format!("{listen}certificate_file = \"c.pem\"\n");
        assert_eq!(refusal(&certificate), "`tls.key_file`: is missing");
        assert_eq!(
            refusal(&format!("{certificate}key_file = \"k.pem\"")),
            "`tls.certificate_file`: cannot read /nowhere/c.pem: No such file or directory (os error 2)"
        );
        assert!(Config::default().tls.to_acceptor().expect("wants nothing").is_none());
    }
}
