//! `[tls]`: files and choices, to what handshakes are made with.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::config::reader::{ConfigError, Section};
use crate::config::units;
use crate::server::TlsConfig;
use crate::tls::{Acceptor, ClientAuth, Identity, IdentityError, MinVersion, PemPair};

const CLIENT_AUTH: [(&str, ClientAuth); 3] = [
    ("off", ClientAuth::Off),
    ("optional", ClientAuth::Optional),
    ("required", ClientAuth::Required),
];

const MIN_VERSION: [(&str, MinVersion); 2] =
    [("1.2", MinVersion::Tls12), ("1.3", MinVersion::Tls13)];

/// Names that a daemon serves have certificates by the dozen at most; each is read at every reload.
const CERTIFICATES_MAX: usize = 1000;

/// A certificate for other names than the first is for, and its key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PairFiles {
    /// The certificate, and those between it and a root; PEM.
    pub certificate_file: PathBuf,
    /// Its private key; PEM.
    pub key_file: PathBuf,
}

/// TLS on a listener of its own. The files are read when they are needed, and again at each reload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsSettings {
    /// Where all shards listen for it; `None`: nowhere, unless a socket is handed over.
    pub listen: Option<SocketAddr>,
    /// The certificate, and those between it and a root; PEM.
    pub certificate_file: Option<PathBuf>,
    /// Its private key; PEM.
    pub key_file: Option<PathBuf>,
    /// More certificates, each shown to whoever asks for one of its names.
    pub certificates: Vec<PairFiles>,
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
        let pairs = section.sections("certificates")?;
        if pairs.len() > CERTIFICATES_MAX {
            let why = format!("there are more than {CERTIFICATES_MAX}");
            return Err(section.error("certificates", &why));
        }
        self.certificates = pairs.into_iter().map(read_pair).collect::<Result<_, _>>()?;
        section.read("client_auth", &mut self.client_auth, units::one_of(&CLIENT_AUTH))?;
        section.read("min_version", &mut self.min_version, units::one_of(&MIN_VERSION))?;
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
            (None, None) if self.listen.is_none() && self.certificates.is_empty() => {
                return Ok(None);
            }
            (None, _) => bail!("`tls.certificate_file`: is missing"),
            (_, None) => bail!("`tls.key_file`: is missing"),
        };
        let first = std::iter::once((certificate.as_path(), key.as_path()));
        let others = self.certificates.iter();
        let others = others.map(|pair| (pair.certificate_file.as_path(), pair.key_file.as_path()));
        let files: Vec<(&Path, &Path)> = first.chain(others).collect();
        let names = |index: usize| match index {
            0 => ["certificate_file", "key_file"],
            _ => ["certificates.certificate_file", "certificates.key_file"],
        };
        let mut texts = Vec::with_capacity(files.len());
        for (index, (certificate, key)) in files.iter().enumerate() {
            let [certificate_name, key_name] = names(index);
            texts.push((read(certificate_name, certificate)?, read(key_name, key)?));
        }
        let pairs =
            texts.iter().map(|(certificate_pem, key_pem)| PemPair { certificate_pem, key_pem });
        let pairs: Vec<_> = pairs.collect();
        let client_ca = match self.client_auth {
            ClientAuth::Off => None,
            ClientAuth::Optional | ClientAuth::Required => self.client_ca_file.as_deref(),
        };
        if self.client_auth != ClientAuth::Off && client_ca.is_none() {
            bail!("`tls.client_ca_file`: is missing");
        }
        let client_ca_pem = client_ca.map(|path| read("client_ca_file", path)).transpose()?;
        let identity = Identity {
            pairs: &pairs,
            client_ca_pem: client_ca_pem.as_deref().unwrap_or_default(),
            client_auth: self.client_auth,
            min_version: self.min_version,
        };
        match Acceptor::new(&identity) {
            Ok(acceptor) => Ok(Some(acceptor)),
            Err(error) => {
                let (name, path) = match &error {
                    IdentityError::Certificate(index, _) => (names(*index)[0], files[*index].0),
                    IdentityError::Key(index, _) => (names(*index)[1], files[*index].1),
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

/// One of `[[tls.certificates]]`.
fn read_pair(mut section: Section) -> Result<PairFiles, ConfigError> {
    let directory = section.directory();
    let mut files = [const { None }; 2];
    for (key, file) in ["certificate_file", "key_file"].into_iter().zip(&mut files) {
        section.read(key, file, |value| {
            units::secret_path(&directory, units::text(value)?).map(Some)
        })?;
    }
    section.finish()?;
    let [certificate_file, key_file] = files;
    let missing = |key: &str| section.error(key, "is missing");
    Ok(PairFiles {
        certificate_file: certificate_file.ok_or_else(|| missing("certificate_file"))?,
        key_file: key_file.ok_or_else(|| missing("key_file"))?,
    })
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
        let more = "[[tls.certificates]]\ncertificate_file = \"c.pem\"\nkey_file = \"k.pem\"\n";
        assert_eq!(refusal(more), "`tls.certificate_file`: is missing");
        assert!(Config::default().tls.to_acceptor().expect("wants nothing").is_none());
    }
}
