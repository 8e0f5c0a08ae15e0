//! What all sessions of a listener share: certificates and their keys, who may come in, ticket keys.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{
    ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{InconsistentKeys, RootCertStore, ServerConfig};
use x509_cert::Certificate;
use x509_cert::der::Decode;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

/// The only protocol that is spoken inside (RFC 7301).
const ALPN: &[u8] = b"http/1.1";

/// Whether clients show certificates of their own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientAuth {
    /// They are not asked.
    #[default]
    Off,
    /// They are asked; one that has none comes in, one that has a bad one does not.
    Optional,
    /// Whoever has no good one does not come in.
    Required,
}

/// The oldest version that is spoken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MinVersion {
    /// TLS 1.2 and 1.3.
    #[default]
    Tls12,
    /// TLS 1.3 alone.
    Tls13,
}

/// A certificate and its key; the texts of PEM files.
#[derive(Clone, Copy)]
pub struct PemPair<'a> {
    /// The server's certificate, and those that lead from it to a root.
    pub certificate_pem: &'a [u8],
    /// Its private key: PKCS #8, SEC 1 or PKCS #1, not encrypted.
    pub key_pem: &'a [u8],
}

/// Who the daemon is, and whom it lets in.
#[derive(Clone, Copy)]
pub struct Identity<'a> {
    /// One at least. A client is shown that for the name it asks for, else the first.
    pub pairs: &'a [PemPair<'a>],
    /// Authorities whose clients come in, as PEM; ignored where clients are not asked.
    pub client_ca_pem: &'a [u8],
    /// Whether clients show certificates.
    pub client_auth: ClientAuth,
    /// The oldest version that is spoken.
    pub min_version: MinVersion,
}

/// Why an identity is of no use, by the file that is to blame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IdentityError {
    /// The certificate's file in the pair of this index.
    Certificate(usize, String),
    /// The key's file, which may be fine but of another certificate.
    Key(usize, String),
    /// The file of authorities.
    ClientCa(String),
}

impl fmt::Display for IdentityError {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let (IdentityError::Certificate(_, why)
        | IdentityError::Key(_, why)
        | IdentityError::ClientCa(why)) = self;
        f.write_str(why)
    }
}

impl std::error::Error for IdentityError {}

/// What a certificate says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFacts {
    /// What its authority calls it, in hexadecimal.
    pub serial: String,
    /// Host names and addresses that it is for.
    pub names: Vec<String>,
    /// First second of its validity, since 1970.
    pub not_before_s: u64,
    /// Last second of its validity, since 1970.
    pub not_after_s: u64,
    /// The same as a date.
    pub not_after: String,
}

impl CertificateFacts {
    pub(super) fn read(der: &[u8]) -> Result<CertificateFacts, String> {
        let certificate = Certificate::from_der(der).map_err(|error| error.to_string())?;
        let certificate = certificate.tbs_certificate();
        let names = match certificate.get_extension::<SubjectAltName>() {
            Ok(Some((_, SubjectAltName(names)))) => names.iter().filter_map(name).collect(),
            Ok(None) => Vec::new(),
            Err(error) => return Err(error.to_string()),
        };
        let validity = certificate.validity();
        let serial = certificate.serial_number().as_bytes();
        Ok(CertificateFacts {
            serial: data_encoding::HEXLOWER.encode(serial),
            names,
            not_before_s: validity.not_before.to_unix_duration().as_secs(),
            not_after_s: validity.not_after.to_unix_duration().as_secs(),
            not_after: validity.not_after.to_date_time().to_string(),
        })
    }

    /// What is to be said about its validity at `now_s` since 1970, if anything.
    pub fn warning(&self, now_s: u64) -> Option<String> {
        const DAY_S: u64 = 24 * 60 * 60;
        /// Renewal usually happens 30 days ahead: whoever is past half of that has missed it.
        const WARN_DAYS: u64 = 14;
        let until = &self.not_after;
        if now_s > self.not_after_s {
            return Some(format!("the certificate has expired on {until}"));
        }
        if now_s < self.not_before_s {
            return Some("the certificate is not valid yet".into());
        }
        let days = (self.not_after_s - now_s) / DAY_S;
        (days < WARN_DAYS).then(|| format!("the certificate expires in {days} days, on {until}"))
    }
}

fn name(name: &GeneralName) -> Option<String> {
    match name {
        GeneralName::DnsName(name) => Some(name.to_string()),
        GeneralName::IpAddress(octets) => match octets.as_bytes().len() {
            4 => <[u8; 4]>::try_from(octets.as_bytes()).ok().map(|ip| IpAddr::from(ip).to_string()),
            16 => {
                <[u8; 16]>::try_from(octets.as_bytes()).ok().map(|ip| IpAddr::from(ip).to_string())
            }
            _ => None,
        },
        _ => None,
    }
}

/// Which certificate a client is shown, by the name that it asks for (RFC 6066 §3). Names are in lower case.
#[derive(Debug)]
struct ByName {
    /// For whoever asks for no name, as by an address, or for one that no certificate has.
    first: Arc<CertifiedKey>,
    exact: HashMap<String, Arc<CertifiedKey>>,
    /// By what follows the star and its dot.
    wildcard: HashMap<String, Arc<CertifiedKey>>,
}

impl ByName {
    /// Of those that have the same name the earliest is shown.
    fn new(certificates: &[(Arc<CertifiedKey>, CertificateFacts)]) -> ByName {
        let (mut exact, mut wildcard) = (HashMap::new(), HashMap::new());
        for (key, facts) in certificates {
            for name in &facts.names {
                let name = name.to_ascii_lowercase();
                let place = match name.strip_prefix("*.") {
                    Some(domain) => wildcard.entry(domain.to_owned()),
                    None => exact.entry(name),
                };
                place.or_insert_with(|| Arc::clone(key));
            }
        }
        ByName { first: Arc::clone(&certificates[0].0), exact, wildcard }
    }

    /// A star stands for one label, the leftmost (RFC 9525 §6.3); a certificate for the name itself goes before.
    fn find(&self, name: &str) -> &Arc<CertifiedKey> {
        let name = name.to_ascii_lowercase();
        let by_domain = || self.wildcard.get(name.split_once('.')?.1);
        self.exact.get(&name).or_else(by_domain).unwrap_or(&self.first)
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let found = hello.server_name().map_or(&self.first, |name| self.find(name));
        Some(Arc::clone(found))
    }
}

/// See the module text. Cheap to clone; cores share one.
#[derive(Clone)]
pub struct Acceptor {
    config: Arc<ServerConfig>,
    /// By pair.
    facts: Arc<[CertificateFacts]>,
    /// Whom tickets were given to: a ticket opens the door again only where the door is the same.
    door: Arc<(ClientAuth, Vec<CertificateDer<'static>>)>,
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_struct("Acceptor").field("certificates", &self.facts).finish_non_exhaustive()
    }
}

impl Acceptor {
    /// An acceptor with ticket keys of its own, which change every six hours.
    ///
    /// # Errors
    /// A text has nothing of what it should, or a certificate and its key do not belong together.
    pub fn new(identity: &Identity<'_>) -> Result<Acceptor, IdentityError> {
        let provider = Arc::new(ring::default_provider());
        assert!(!identity.pairs.is_empty(), "who serves TLS has a certificate");
        let pairs = identity.pairs.iter().enumerate();
        let certified = pairs.map(|(index, pair)| certified_key(index, pair, &provider));
        let certified = certified.collect::<Result<Vec<_>, _>>()?;
        let authorities = match identity.client_auth {
            ClientAuth::Off => Vec::new(),
            ClientAuth::Optional | ClientAuth::Required => {
                certificates(identity.client_ca_pem).map_err(IdentityError::ClientCa)?
            }
        };
        let versions = match identity.min_version {
            MinVersion::Tls12 => &[&TLS13, &TLS12][..],
            MinVersion::Tls13 => &[&TLS13][..],
        };
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)
            .expect("the provider has suites of both versions");
        let builder = match identity.client_auth {
            ClientAuth::Off => builder.with_no_client_auth(),
            asked => {
                let client_ca = |error: String| IdentityError::ClientCa(error);
                let mut roots = RootCertStore::empty();
                for authority in &authorities {
                    roots.add(authority.clone()).map_err(|error| client_ca(error.to_string()))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
                let verifier = match asked {
                    ClientAuth::Optional => verifier.allow_unauthenticated(),
                    ClientAuth::Required | ClientAuth::Off => verifier,
                };
                let verifier = verifier.build().map_err(|error| client_ca(error.to_string()))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut config = builder.with_cert_resolver(Arc::new(ByName::new(&certified)));
        config.alpn_protocols = vec![ALPN.to_vec()];
        // Sessions are in the tickets, which any core can read; a cache would be a lock between cores.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = ring::Ticketer::new()
            .map_err(|_| IdentityError::Key(0, "the system has no random bytes".into()))?;
        Ok(Acceptor {
            config: Arc::new(config),
            facts: certified.into_iter().map(|(_, facts)| facts).collect(),
            door: Arc::new((identity.client_auth, authorities)),
        })
    }

    /// What its certificates say, by pair.
    pub fn facts(&self) -> &[CertificateFacts] {
        &self.facts
    }

    /// The same, but tickets of `before` are good here too, if who may come in has not changed.
    #[must_use]
    pub fn succeeding(self, before: &Acceptor) -> Acceptor {
        if self.door != before.door {
            return self;
        }
        let ticketer = Arc::clone(&before.config.ticketer);
        let mut config = (*self.config).clone();
        config.ticketer = ticketer;
        Acceptor { config: Arc::new(config), ..self }
    }

    pub(super) fn config(&self) -> &Arc<ServerConfig> {
        &self.config
    }
}

fn certified_key(
    index: usize,
    pair: &PemPair<'_>,
    provider: &CryptoProvider,
) -> Result<(Arc<CertifiedKey>, CertificateFacts), IdentityError> {
    let bad_certificate = |why| IdentityError::Certificate(index, why);
    let bad_key = |why| IdentityError::Key(index, why);
    let chain = certificates(pair.certificate_pem).map_err(bad_certificate)?;
    let facts = CertificateFacts::read(&chain[0]).map_err(bad_certificate)?;
    let key = PrivateKeyDer::from_pem_slice(pair.key_pem).map_err(|error| {
        let why = match error {
            rustls::pki_types::pem::Error::NoItemsFound => {
                "there is no private key in it (one that is encrypted cannot be read)".into()
            }
            other => other.to_string(),
        };
        bad_key(why)
    })?;
    let key = CertifiedKey::from_der(chain, key, provider).map_err(|error| match error {
        rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            bad_key("it is not the key of the certificate".into())
        }
        rustls::Error::InvalidCertificate(error) => bad_certificate(error.to_string()),
        other => bad_key(other.to_string()),
    })?;
    Ok((Arc::new(key), facts))
}

/// All certificates of a text, which has one at least.
fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match certificates {
        Ok(certificates) if certificates.is_empty() => Err("there is no certificate in it".into()),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(error.to_string()),
    }
}
