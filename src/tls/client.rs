//! The other side, for those who load the daemon and for tests.

use std::io::{Read, Write};
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::ring;
use rustls::pki_types::{
    CertificateDer, DnsName, IpAddr, PrivateKeyDer, ServerName, pem::PemObject,
};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore};

/// Whom clients trust, and what they have in common; their tickets, too.
#[derive(Clone)]
pub struct Trust(Arc<ClientConfig>);

impl Trust {
    /// Trusts the authorities of a PEM text alone.
    ///
    /// # Errors
    /// There is no certificate in it that can be trusted.
    pub fn new(ca_pem: &[u8]) -> Result<Trust, String> {
        Trust::with_certificate(ca_pem, None)
    }

    /// The same, and clients show a certificate of their own: its text and that of its key.
    ///
    /// # Errors
    /// A text has nothing of what it should.
    pub fn with_certificate(ca_pem: &[u8], own: Option<(&[u8], &[u8])>) -> Result<Trust, String> {
        let certificates = |pem| -> Result<Vec<_>, _> {
            CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>()
        };
        let text = |error: rustls::pki_types::pem::Error| error.to_string();
        let mut roots = RootCertStore::empty();
        for certificate in certificates(ca_pem).map_err(text)? {
            roots.add(certificate).map_err(|error| error.to_string())?;
        }
        if roots.is_empty() {
            return Err("there is no certificate in it".into());
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider has suites of both versions")
            .with_root_certificates(roots);
        let config = match own {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let key = PrivateKeyDer::from_pem_slice(key).map_err(text)?;
                builder
                    .with_client_auth_cert(certificates(certificate).map_err(text)?, key)
                    .map_err(|error| error.to_string())?
            }
        };
        Ok(Trust(Arc::new(config)))
    }

    /// The same, but each session begins anew.
    #[must_use]
    pub fn without_tickets(self) -> Trust {
        let mut config = (*self.0).clone();
        config.resumption = Resumption::disabled();
        Trust(Arc::new(config))
    }
}

/// One client's session.
pub struct Client(ClientConnection);

impl Client {
    /// A session with the server at `ip`, which its certificate has to name. It has
    /// [something to send](Self::take_outgoing) at once.
    pub fn new(trust: &Trust, ip: std::net::IpAddr) -> Client {
        Client::of(trust, ServerName::IpAddress(IpAddr::from(ip)))
    }

    /// The same with the server called `name`, which is told whom is asked for.
    ///
    /// # Errors
    /// `name` is no name of a host.
    pub fn by_name(trust: &Trust, name: &str) -> Result<Client, String> {
        let name = DnsName::try_from(name.to_owned()).map_err(|error| error.to_string())?;
        Ok(Client::of(trust, ServerName::DnsName(name)))
    }

    fn of(trust: &Trust, server: ServerName<'static>) -> Client {
        let connection = ClientConnection::new(Arc::clone(&trust.0), server);
        let mut connection = connection.expect("fails for fragment sizes only");
        connection.set_buffer_limit(None);
        Client(connection)
    }

    /// Takes in what the server has sent, and appends what it says to `plaintext`. Returns whether the server
    /// has said that nothing follows.
    ///
    /// # Errors
    /// The session is over, and why.
    pub fn handle_bytes(
        &mut self,
        mut bytes: &[u8],
        plaintext: &mut Vec<u8>,
    ) -> Result<bool, String> {
        let mut has_ended = false;
        while !bytes.is_empty() && !has_ended {
            self.0.read_tls(&mut bytes).map_err(|error| error.to_string())?;
            let state = self.0.process_new_packets().map_err(|error| error.to_string())?;
            let start = plaintext.len();
            plaintext.resize(start + state.plaintext_bytes_to_read(), 0);
            let read = self.0.reader().read_exact(&mut plaintext[start..]);
            read.map_err(|error| error.to_string())?;
            has_ended = state.peer_has_closed();
        }
        Ok(has_ended)
    }

    /// Encrypts `plaintext`, once the handshake is over.
    pub fn send(&mut self, plaintext: &[u8]) {
        self.0.writer().write_all(plaintext).expect("writes into memory");
    }

    /// Tells the server that nothing follows.
    pub fn close(&mut self) {
        self.0.send_close_notify();
    }

    /// Whether there is something to send.
    pub fn has_outgoing(&self) -> bool {
        self.0.wants_write()
    }

    /// What is to be sent next.
    pub fn take_outgoing(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.0.wants_write() {
            self.0.write_tls(&mut bytes).expect("writes into memory");
        }
        bytes
    }

    /// Whether the handshake has gone on from a ticket; `None` while it is under way.
    pub fn is_resumed(&self) -> Option<bool> {
        let kind = self.0.handshake_kind().filter(|_| !self.0.is_handshaking())?;
        Some(kind == HandshakeKind::Resumed)
    }

    /// The certificate that the server has shown, as DER.
    pub fn server_certificate(&self) -> Option<&[u8]> {
        Some(self.0.peer_certificates()?.first()?)
    }
}
