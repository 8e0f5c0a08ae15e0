//! A daemon's session and a client's, byte by byte, with certificates made on the spot.

use std::net::{IpAddr, Ipv4Addr};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
};

use super::*;

/// An authority and what it signs.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        Authority(CertifiedIssuer::self_signed(params, key).expect("signs itself"))
    }

    fn pem(&self) -> String {
        self.0.pem()
    }

    /// Certificate and key.
    fn issue(&self, usage: ExtendedKeyUsagePurpose) -> (String, String) {
        self.issue_for(&["localhost", "127.0.0.1"], usage)
    }

    fn issue_for(&self, names: &[&str], usage: ExtendedKeyUsagePurpose) -> (String, String) {
        let names: Vec<String> = names.iter().map(|name| (*name).into()).collect();
        let mut params = CertificateParams::new(names).expect("names");
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.0).expect("is signed");
        (certificate.pem(), key.serialize_pem())
    }

    fn acceptor(&self) -> Acceptor {
        self.acceptor_for(None)
    }

    fn acceptor_for(&self, clients: Option<(&Authority, ClientAuth)>) -> Acceptor {
        let (certificate, key) = self.issue(ExtendedKeyUsagePurpose::ServerAuth);
        let ca = clients.map(|(authority, _)| authority.pem()).unwrap_or_default();
        let pair = PemPair { certificate_pem: certificate.as_bytes(), key_pem: key.as_bytes() };
        let identity = Identity {
            pairs: &[pair],
            client_ca_pem: ca.as_bytes(),
            client_auth: clients.map(|(_, auth)| auth).unwrap_or_default(),
            min_version: MinVersion::Tls12,
        };
        Acceptor::new(&identity).expect("belong together")
    }

    fn trust(&self) -> Trust {
        Trust::new(self.pem().as_bytes()).expect("an authority")
    }
}

/// Both ends, what each has read, and how the daemon's went.
struct Pair {
    client: Client,
    session: Session,
    at_client: Vec<u8>,
    at_server: Vec<u8>,
    established: Option<bool>,
    has_ended: bool,
    failure: Option<Failure>,
    refused: Option<String>,
    /// Bytes that the daemon is given at a time.
    piece: usize,
}

impl Pair {
    fn new(acceptor: &Acceptor, trust: &Trust) -> Pair {
        Pair {
            client: Client::new(trust, IpAddr::from(Ipv4Addr::LOCALHOST)),
            session: Session::new(acceptor),
            at_client: Vec::new(),
            at_server: Vec::new(),
            established: None,
            has_ended: false,
            failure: None,
            refused: None,
            piece: usize::MAX,
        }
    }

    /// Carries bytes to and fro until nobody has anything to say.
    fn settle(&mut self) {
        loop {
            let mut sent = self.client.take_outgoing();
            for piece in sent.chunks_mut(self.piece) {
                match self.session.handle_bytes(piece, &mut self.at_server) {
                    Ok(news) => {
                        self.established = news.established.or(self.established);
                        self.has_ended |= news.has_ended;
                    }
                    Err(failure) => self.failure = Some(failure),
                }
            }
            let answer = self.session.take_outgoing();
            if sent.is_empty() && answer.is_empty() {
                return;
            }
            if let Err(error) = self.client.handle_bytes(&answer, &mut self.at_client) {
                self.refused = Some(error);
            }
        }
    }

    fn say(&mut self, plaintext: &[u8]) {
        let mut records = Vec::new();
        self.session.encrypt(plaintext, &mut records).expect("is established");
        self.client.handle_bytes(&records, &mut self.at_client).expect("sound records");
    }
}

#[test]
fn plaintext_goes_to_and_fro_however_the_bytes_are_cut() {
    let authority = Authority::new();
    let (acceptor, trust) = (authority.acceptor(), authority.trust());
    for piece in [1, 2, 3, 5, 7, 100, 1000, usize::MAX] {
        let mut pair = Pair::new(&acceptor, &trust);
        pair.piece = piece;
        pair.settle();
        assert!(pair.established.is_some(), "in pieces of {piece}");
        pair.client.send(b"GET / HTTP/1.1\r\n\r\n");
        pair.client.send(&[7; 40_000]);
        pair.settle();
        assert!(pair.at_server.starts_with(b"GET / HTTP/1.1\r\n\r\n\x07"));
        assert_eq!(pair.at_server.len(), 18 + 40_000);
        let frames: Vec<u8> = (0..50_000u32).map(|i| i as u8).collect();
        pair.say(&frames);
        pair.say(b"last");
        assert_eq!(pair.at_client[..50_000], frames);
        assert_eq!(pair.at_client[50_000..], *b"last");
    }
}

#[test]
fn an_idle_session_keeps_no_bytes_and_a_record_in_pieces_only_its_own() {
    let authority = Authority::new();
    let mut pair = Pair::new(&authority.acceptor(), &authority.trust());
    pair.settle();
    assert_eq!(pair.session.held_bytes(), 0);
    pair.client.send(&[1; 10_000]);
    let mut record = pair.client.take_outgoing();
    let (head, tail) = record.split_at_mut(9_000);
    pair.session.handle_bytes(head, &mut pair.at_server).expect("not complete yet");
    assert_eq!((pair.session.held_bytes(), pair.at_server.len()), (9_000, 0));
    // Meanwhile the daemon speaks.
    pair.say(b"frame");
    pair.session.handle_bytes(tail, &mut pair.at_server).expect("complete");
    assert_eq!((pair.session.held_bytes(), pair.at_server.len()), (0, 10_000));
    assert_eq!(pair.at_client, b"frame");
}

#[test]
fn both_sides_may_end_it() {
    let authority = Authority::new();
    let mut pair = Pair::new(&authority.acceptor(), &authority.trust());
    pair.settle();
    pair.client.close();
    pair.settle();
    assert!(pair.has_ended && pair.failure.is_none());
    // What it is owed is still told.
    pair.say(b"answer");
    pair.session.close_notify();
    let last = pair.session.take_outgoing();
    assert_eq!(pair.client.handle_bytes(&last, &mut pair.at_client), Ok(true));
    assert_eq!(pair.at_client, b"answer");
}

#[test]
fn a_ticket_of_one_session_shortens_the_next_on_any_core_and_across_a_reload() {
    let authority = Authority::new();
    let (acceptor, trust) = (authority.acceptor(), authority.trust());
    let meet = |acceptor: &Acceptor| {
        let mut pair = Pair::new(acceptor, &trust);
        pair.settle();
        assert_eq!(pair.client.is_resumed(), pair.established);
        pair.established.expect("trusted")
    };
    assert!(!meet(&acceptor));
    assert!(meet(&acceptor.clone()));
    let renewed = authority.acceptor().succeeding(&acceptor);
    assert!(meet(&renewed));
    // Keys of its own: the ticket is not understood, and that is all.
    assert!(!meet(&authority.acceptor()));
    assert!(!meet(&acceptor));
    let clients = Authority::new();
    let stricter = authority.acceptor_for(Some((&clients, ClientAuth::Optional)));
    assert!(!meet(&stricter.succeeding(&acceptor)), "who may come in has changed");
}

#[test]
fn clients_show_their_certificates_where_they_are_asked_to() {
    let (authority, clients, strangers) = (Authority::new(), Authority::new(), Authority::new());
    let outcome = |auth: ClientAuth, of: Option<&Authority>| {
        let acceptor = authority.acceptor_for(Some((&clients, auth)));
        let own = of.map(|of| of.issue(ExtendedKeyUsagePurpose::ClientAuth));
        let own = own.as_ref().map(|(pem, key)| (pem.as_bytes(), key.as_bytes()));
        let trust = Trust::with_certificate(authority.pem().as_bytes(), own).expect("texts");
        let mut pair = Pair::new(&acceptor, &trust);
        pair.settle();
        assert_eq!(pair.refused.is_some(), pair.failure.is_some(), "the client is told");
        pair.failure
    };
    let refused = Some(Failure::ClientCertificate);
    assert_eq!(outcome(ClientAuth::Required, Some(&clients)), None);
    assert_eq!(outcome(ClientAuth::Required, Some(&strangers)), refused);
    assert_eq!(outcome(ClientAuth::Required, None), refused);
    assert_eq!(outcome(ClientAuth::Optional, None), None);
    assert_eq!(outcome(ClientAuth::Optional, Some(&strangers)), refused);
    assert_eq!(outcome(ClientAuth::Off, Some(&strangers)), None);
}

#[test]
fn each_failure_has_its_name_and_ends_the_session() {
    let authority = Authority::new();
    let acceptor = authority.acceptor();
    let of = |bytes: &[u8]| {
        let mut session = Session::new(&acceptor);
        let mut plaintext = Vec::new();
        let failure = session.handle_bytes(&mut bytes.to_vec(), &mut plaintext);
        let answer = session.take_outgoing();
        assert_eq!(session.handle_bytes(&mut [22; 40], &mut plaintext), Ok(News::default()));
        assert!(plaintext.is_empty() && session.held_bytes() == 0);
        (failure.expect_err("is no hello"), answer)
    };
    let (failure, answer) = of(b"GET / HTTP/1.1\r\n\r\n");
    assert_eq!(failure, Failure::PlainHttp);
    assert!(answer.starts_with(b"HTTP/1.1 400 Bad Request\r\n"));
    assert_eq!(of(b"\x00\x01").0, Failure::NotTls);
    let (failure, answer) = of(&[22, 3, 1, 0, 4, 1, 0, 0, 0]);
    assert_eq!(failure, Failure::Protocol);
    assert_eq!(answer[0], 21, "an alert says so");
    // A record that is longer than records are.
    assert_eq!(of(&[22, 3, 1, 0xff, 0xff]).0, Failure::Protocol);

    let mut pair = Pair::new(&acceptor, &Authority::new().trust());
    pair.settle();
    assert_eq!(pair.failure, Some(Failure::Refused));

    let mut pair = Pair::new(&acceptor, &authority.trust());
    pair.settle();
    pair.client.send(b"changed on its way");
    let mut record = pair.client.take_outgoing();
    *record.last_mut().expect("not empty") ^= 1;
    let failure = pair.session.handle_bytes(&mut record, &mut pair.at_server);
    assert_eq!(failure, Err(Failure::Protocol));
    assert!(pair.session.has_outgoing() && pair.at_server.is_empty());
    assert!(pair.session.encrypt(b"nothing more", &mut Vec::new()).is_err());
}

#[test]
fn a_client_that_never_ends_its_hello_is_cut_off() {
    let acceptor = Authority::new().acceptor();
    let mut session = Session::new(&acceptor);
    // Records of a handshake message that says it has 64,000 bytes.
    let mut record = vec![22, 3, 1, 0x20, 0];
    record.resize(5 + 0x2000, 0);
    record[5..9].copy_from_slice(&[1, 0, 0xfa, 0]);
    let mut records = 0;
    while session.handle_bytes(&mut record.clone(), &mut Vec::new()).is_ok() {
        records += 1;
        assert!(session.held_bytes() <= INCOMING_BYTES_MAX);
    }
    assert!((2..=4).contains(&records), "{records}");
    let mut session = Session::new(&acceptor);
    let held = (0..100).take_while(|_| session.hold(&record)).count();
    assert_eq!(held, INCOMING_BYTES_MAX / record.len());
}

#[test]
fn no_noise_panics() {
    let authority = Authority::new();
    let (acceptor, trust) = (authority.acceptor(), authority.trust());
    let mut seed = 1u64;
    let mut random = move || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 33) as usize
    };
    for round in 0..200 {
        let mut pair = Pair::new(&acceptor, &trust);
        let mut hello = pair.client.take_outgoing();
        if round % 2 == 0 {
            for _ in 0..1 + random() % 4 {
                let at = random() % hello.len();
                hello[at] = random() as u8;
            }
        } else {
            hello.truncate(random() % hello.len());
        }
        let _ = pair.session.handle_bytes(&mut hello, &mut pair.at_server);
        let answer = pair.session.take_outgoing();
        let _ = pair.client.handle_bytes(&answer, &mut pair.at_client);
        let mut rest = pair.client.take_outgoing();
        if let Some(at) = random().checked_rem(rest.len()) {
            rest[at] ^= 1 << (random() % 8);
        }
        let _ = pair.session.handle_bytes(&mut rest, &mut pair.at_server);
    }
}

#[test]
fn an_identity_that_cannot_work_is_refused_by_the_file_to_blame() {
    let authority = Authority::new();
    let (certificate, key) = authority.issue(ExtendedKeyUsagePurpose::ServerAuth);
    let (_, other_key) = authority.issue(ExtendedKeyUsagePurpose::ServerAuth);
    let refusal = |certificate: &str, key: &str, ca: &str, client_auth: ClientAuth| {
        let pair = PemPair { certificate_pem: certificate.as_bytes(), key_pem: key.as_bytes() };
        let identity = Identity {
            pairs: &[pair],
            client_ca_pem: ca.as_bytes(),
            client_auth,
            min_version: MinVersion::Tls13,
        };
        Acceptor::new(&identity).err()
    };
    let off = ClientAuth::Off;
    assert_eq!(refusal(&certificate, &key, "", off), None);
    let certificate_error = |why: &str| Some(IdentityError::Certificate(0, why.into()));
    let key_error = |why: &str| Some(IdentityError::Key(0, why.into()));
    let none = "there is no certificate in it";
    assert_eq!(refusal("", &key, "", off), certificate_error(none));
    assert_eq!(refusal(&key, &key, "", off), certificate_error(none));
    let none = "there is no private key in it (one that is encrypted cannot be read)";
    assert_eq!(refusal(&certificate, &certificate, "", off), key_error(none));
    let why = "it is not the key of the certificate";
    assert_eq!(refusal(&certificate, &other_key, "", off), key_error(why));
    assert!(matches!(
        refusal(&certificate, &key, "", ClientAuth::Required),
        Some(IdentityError::ClientCa(_))
    ));
    let torn = certificate.replace("MII", "");
    assert!(matches!(refusal(&torn, &key, "", off), Some(IdentityError::Certificate(0, _))));
    // Of several, that which is to blame.
    let texts = [(&certificate, &key), (&certificate, &other_key)];
    let pair = |(certificate, key): (&String, &String)| {
        let (certificate_pem, key_pem) = (certificate.clone(), key.clone());
        (certificate_pem.into_bytes(), key_pem.into_bytes())
    };
    let texts = texts.map(pair);
    let pairs =
        texts.each_ref().map(|(certificate_pem, key_pem)| PemPair { certificate_pem, key_pem });
    let (client_auth, min_version) = (ClientAuth::Off, MinVersion::Tls12);
    let identity = Identity { pairs: &pairs, client_ca_pem: b"", client_auth, min_version };
    assert_eq!(Acceptor::new(&identity).err(), Some(IdentityError::Key(1, why.into())));
}

#[test]
fn who_asks_for_a_name_is_shown_the_certificate_that_has_it() {
    let authority = Authority::new();
    let usage = || ExtendedKeyUsagePurpose::ServerAuth;
    let of_names: [&[&str]; 4] = [
        &["localhost", "127.0.0.1"],
        &["A.example", "*.wild.example"],
        &["x.wild.example", "b.example"],
        &["a.example", "*.wild.example"],
    ];
    let texts = of_names.map(|names| authority.issue_for(names, usage()));
    let pairs: Vec<_> = texts
        .iter()
        .map(|(certificate, key)| PemPair {
            certificate_pem: certificate.as_bytes(),
            key_pem: key.as_bytes(),
        })
        .collect();
    let (client_auth, min_version) = (ClientAuth::Off, MinVersion::Tls12);
    let identity = Identity { pairs: &pairs, client_ca_pem: b"", client_auth, min_version };
    let acceptor = Acceptor::new(&identity).expect("belong together");
    let names: Vec<_> = acceptor.facts().iter().map(|facts| facts.names.clone()).collect();
    assert_eq!(names, of_names);
    let trust = authority.trust();
    let index = |der: &[u8]| {
        let facts = CertificateFacts::read(der).expect("is a certificate");
        acceptor.facts().iter().position(|of| *of == facts)
    };
    let shown = |client: Client| {
        let mut pair = Pair { client, ..Pair::new(&acceptor, &trust) };
        pair.settle();
        assert_eq!(pair.established.is_some(), pair.refused.is_none());
        pair.established.and_then(|_| index(pair.client.server_certificate().expect("was shown")))
    };
    let by_name = |name: &str| shown(Client::by_name(&trust, name).expect("is a name"));
    assert_eq!(shown(Client::new(&trust, Ipv4Addr::LOCALHOST.into())), Some(0));
    for (name, certificate) in [
        ("localhost", 0),
        ("a.example", 1),
        ("A.EXAMPLE", 1),
        ("y.wild.example", 1),
        ("x.wild.example", 2),
        ("b.example", 2),
    ] {
        assert_eq!(by_name(name), Some(certificate), "{name}");
    }
    // They are shown the first, which is not for them.
    for name in ["wild.example", "y.x.wild.example", "example", "c.example"] {
        assert_eq!(by_name(name), None, "{name}");
    }
}

#[test]
fn a_certificate_says_whom_it_is_for_and_warns_in_time() {
    const DAY_S: u64 = 86_400;
    let facts = Authority::new().acceptor().facts()[0].clone();
    assert_eq!(facts.names, ["localhost", "127.0.0.1"]);
    assert!(facts.not_after.starts_with("4096-01-01T"), "{}", facts.not_after);
    let end_s = facts.not_after_s;
    assert_eq!(facts.warning(end_s - 14 * DAY_S), None);
    let soon = facts.warning(end_s - 14 * DAY_S + 1).expect("is due");
    assert!(soon.starts_with("the certificate expires in 13 days, on 4096-01-01T"), "{soon}");
    assert!(facts.warning(end_s + 1).expect("is over").contains("has expired"));
    assert!(facts.warning(facts.not_before_s - 1).expect("too early").contains("not valid yet"));
}
