//! The other side of TLS: an authority that signs certificates, and a client's end of a connection.
#![allow(dead_code, reason = "each test uses a part of it")]

use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair,
};
use ringcast::tls::{Client, Trust};

/// An authority and what it signs.
pub struct Authority(pub CertifiedIssuer<'static, KeyPair>);

impl Authority {
    /// A new one, which nobody trusts yet.
    pub fn new() -> Authority {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "ringcast tests");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        Authority(CertifiedIssuer::self_signed(params, key).expect("signs itself"))
    }

    /// Certificate as PEM and DER, and its key.
    pub fn issue(&self, usage: ExtendedKeyUsagePurpose) -> (String, Vec<u8>, String) {
        self.issue_for(&["localhost", "127.0.0.1"], usage)
    }

    /// The same for a server or client of these names.
    pub fn issue_for(
        &self,
        names: &[&str],
        usage: ExtendedKeyUsagePurpose,
    ) -> (String, Vec<u8>, String) {
        let names: Vec<String> = names.iter().map(|name| (*name).into()).collect();
        let mut params = CertificateParams::new(names).expect("names");
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.0).expect("is signed");
        (certificate.pem(), certificate.der().to_vec(), key.serialize_pem())
    }

    /// For clients that trust it and nobody else.
    pub fn trust(&self) -> Trust {
        Trust::new(self.0.pem().as_bytes()).expect("an authority")
    }
}

/// Writes a new certificate and its key; returns the certificate.
pub fn write_pair(directory: &Path, authority: &Authority) -> Vec<u8> {
    let (certificate, der, key) = authority.issue(ExtendedKeyUsagePurpose::ServerAuth);
    fs::write(directory.join("cert.pem"), certificate).expect("writable");
    fs::write(directory.join("key.pem"), key).expect("writable");
    der
}

/// A client's end, once the handshake is over.
pub struct TlsStream {
    pub socket: TcpStream,
    pub client: Client,
    plaintext: Vec<u8>,
    has_ended: bool,
}

impl TlsStream {
    /// Shakes hands over `socket`.
    pub fn new(socket: TcpStream, trust: &Trust) -> io::Result<TlsStream> {
        let ip = socket.peer_addr().expect("is connected").ip();
        TlsStream::with_client(socket, Client::new(trust, ip))
    }

    /// Shakes hands as `client` over `socket`.
    pub fn with_client(socket: TcpStream, client: Client) -> io::Result<TlsStream> {
        let plaintext = Vec::new();
        let mut stream = TlsStream { socket, client, plaintext, has_ended: false };
        while stream.client.is_resumed().is_none() {
            stream.flush()?;
            stream.take_in()?;
        }
        stream.flush()?;
        Ok(stream)
    }

    /// Reads from the socket once.
    fn take_in(&mut self) -> io::Result<()> {
        let mut bytes = [0; 4096];
        let count = self.socket.read(&mut bytes)?;
        if count == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let ended = self.client.handle_bytes(&bytes[..count], &mut self.plaintext);
        self.has_ended = ended.map_err(io::Error::other)?;
        Ok(())
    }
}

impl Read for TlsStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.plaintext.is_empty() && !self.has_ended {
            self.take_in()?;
        }
        let count = buffer.len().min(self.plaintext.len());
        buffer[..count].copy_from_slice(&self.plaintext[..count]);
        self.plaintext.drain(..count);
        Ok(count)
    }
}

impl Write for TlsStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.client.send(bytes);
        self.flush()?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket.write_all(&self.client.take_outgoing())
    }
}
