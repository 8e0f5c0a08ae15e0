//! TLS as clients meet it: requests and realtime over real sockets, those who should not come in, and a
//! certificate that is replaced while hundreds are connected.
#![allow(clippy::disallowed_methods, reason = "a test may read clocks and wait")]

mod daemon;
mod secure;

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use daemon::{Daemon, PATIENCE};
use rcgen::ExtendedKeyUsagePurpose;
use ringcast::tls::{Client, Trust};
use secure::{Authority, TlsStream, write_pair};
use serde_json::Value;
use tungstenite::{Message, WebSocket};

/// A daemon that serves TLS, and the files that it does so with.
struct Setup {
    daemon: Daemon,
    directory: PathBuf,
    authority: Authority,
    /// Of the certificate that it has started with.
    certificate: Vec<u8>,
}

impl Setup {
    /// `more` goes into the configuration, behind the section `[tls]`.
    fn start(name: &str, more: &str) -> Setup {
        Setup::prepared(name, more, |_, _| {})
    }

    /// The same; `prepare` writes what `more` names.
    fn prepared(name: &str, more: &str, prepare: impl FnOnce(&Path, &Authority)) -> Setup {
        let directory = format!("ringcast-tls-{name}-{}", std::process::id());
        let directory = std::env::temp_dir().join(directory);
        fs::create_dir_all(&directory).expect("the temporary directory can be written");
        let authority = Authority::new();
        fs::write(directory.join("ca.pem"), authority.0.pem()).expect("writable");
        let certificate = write_pair(&directory, &authority);
        prepare(&directory, &authority);
        let config = directory.join("ringcast.toml");
        let text = format!(
            "[[keys]]\nkey = \"app.key:hush\"\n[tls]\nlisten = \"127.0.0.1:0\"\n\
             certificate_file = \"cert.pem\"\nkey_file = \"key.pem\"\n{more}\n"
        );
        fs::write(&config, text).expect("writable");
        let log = File::create(directory.join("log")).expect("writable");
        let mut program = Command::new(env!("CARGO_BIN_EXE_ringcast"));
        program.args(["serve", "--shards", "3", "--config"]).arg(config);
        if !more.contains("[server]") {
            program.args(["--listen", "127.0.0.1:0"]);
        }
        let daemon = Daemon::spawn(program.stderr(Stdio::from(log)));
        Setup { daemon, directory, authority, certificate }
    }

    /// Where it speaks TLS.
    fn address(&self) -> SocketAddr {
        let line = self.daemon.greeting.lines().find_map(|line| line.strip_prefix("TLS on "));
        line.expect("`TLS on ADDR:PORT`").parse().expect("an address")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).expect("made above")
    }

    /// Waits for the log to have `text` `count` times.
    fn wait_for_log(&self, text: &str, count: usize) {
        let start = Instant::now();
        while self.log().matches(text).count() < count {
            assert!(start.elapsed() < PATIENCE, "{text} is not in\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address()).expect("the daemon accepts");
        stream.set_read_timeout(Some(PATIENCE)).expect("the timeout is not zero");
        stream
    }

    fn connect_tls(&self) -> TlsStream {
        TlsStream::new(self.connect(), &self.authority.trust()).expect("the daemon is trusted")
    }

    /// A realtime connection that is attached to `channel`.
    fn subscribe(&self, channel: &str) -> WebSocket<TlsStream> {
        let url = "ws://127.0.0.1/?v=6&format=json&key=app.key:hush&heartbeats=false";
        let (mut socket, _) = tungstenite::client(url, self.connect_tls()).expect("a WebSocket");
        let attach = format!("{{\"action\":10,\"channel\":\"{channel}\",\"flags\":262144}}");
        socket.send(Message::text(attach)).expect("the daemon reads");
        while next(&mut socket).expect("attaches")["action"] != 11 {}
        socket
    }

    fn publish(&self, channel: &str, data: &str) {
        let body = format!("{{\"data\":\"{data}\"}}");
        let response = self.daemon.exchange(&format!(
            "POST /channels/{channel}/messages?key=app.key:hush HTTP/1.1\r\nHost: x\r\n\
             Content-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ));
        assert!(response.starts_with("HTTP/1.1 201 "), "{response}");
    }
}

/// Of the files that [`write_named`] writes.
const CERTIFICATES_OF_NAMES: &str = "\
    [[tls.certificates]]\ncertificate_file = \"a.pem\"\nkey_file = \"a.key\"\n\
    [[tls.certificates]]\ncertificate_file = \"b.pem\"\nkey_file = \"b.key\"\n";

/// Writes certificates for `a.example` and `b.example`, and what is below them; returns them.
fn write_named(directory: &Path, authority: &Authority) -> [Vec<u8>; 2] {
    ["a", "b"].map(|name| {
        let (own, wildcard) = (format!("{name}.example"), format!("*.{name}.example"));
        let usage = ExtendedKeyUsagePurpose::ServerAuth;
        let (pem, der, key) = authority.issue_for(&[&own, &wildcard], usage);
        fs::write(directory.join(format!("{name}.pem")), pem).expect("writable");
        fs::write(directory.join(format!("{name}.key")), key).expect("writable");
        der
    })
}

impl Drop for Setup {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// The next protocol message.
fn next(socket: &mut WebSocket<TlsStream>) -> Result<Value, tungstenite::Error> {
    loop {
        if let Message::Text(text) = socket.read()? {
            return Ok(serde_json::from_str(&text).expect("is JSON"));
        }
    }
}

/// The data of the next message.
fn next_data(socket: &mut WebSocket<TlsStream>) -> Result<String, tungstenite::Error> {
    loop {
        let message = next(socket)?;
        if message["action"] == 15 {
            let messages = message["messages"].as_array().expect("has messages");
            assert_eq!(messages.len(), 1, "each was published by itself");
            return Ok(messages[0]["data"].as_str().expect("a string").to_owned());
        }
    }
}

#[test]
fn without_a_plain_listener_everybody_speaks_tls() {
    let setup = Setup::start("only", "[server]\nlisten = \"off\"");
    assert_eq!(setup.daemon.address, setup.address(), "`listening on` names the only one");
    let mut stream = setup.connect_tls();
    let request = b"GET /time HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
    stream.write_all(request).expect("the daemon reads");
    let mut response = String::new();
    stream.read_to_string(&mut response).expect("the daemon answers");
    assert!(response.starts_with("HTTP/1.1 200 "), "{response}");
    let config = setup.directory.join("ringcast.toml");
    let mut check = Command::new(env!("CARGO_BIN_EXE_ringcast"));
    let check = check.arg("check").arg("--config").arg(config);
    let said = String::from_utf8(check.output().expect("runs").stdout).expect("UTF-8");
    assert!(said.contains("listen 127.0.0.1:0 (TLS), ") && said.contains("bytes of TLS"), "{said}");
    // Who speaks plainly gets no answer in HTTP.
    let said = setup.daemon.exchange("GET /time HTTP/1.1\r\nHost: h\r\n\r\n");
    assert!(!said.contains("200"), "{said}");
}

#[test]
fn requests_are_answered_and_ended_in_order() {
    let setup = Setup::start("requests", "");
    let mut stream = setup.connect_tls();
    assert_eq!(stream.client.server_certificate(), Some(&setup.certificate[..]));
    for close in ["", "Connection: close\r\n"] {
        let request = format!("GET /time HTTP/1.1\r\nHost: x\r\n{close}\r\n");
        stream.write_all(request.as_bytes()).expect("the daemon reads");
    }
    let mut answers = String::new();
    // Ends with a close_notify: `read` returns 0 only for that.
    stream.read_to_string(&mut answers).expect("is closed in order");
    assert_eq!(answers.matches("HTTP/1.1 200 OK\r\n").count(), 2, "{answers}");
}

#[test]
fn a_second_session_goes_on_from_a_ticket_whichever_core_it_meets() {
    let setup = Setup::start("tickets", "");
    let trust = setup.authority.trust();
    let resumed: Vec<_> = (0..12)
        .map(|_| {
            let mut stream = TlsStream::new(setup.connect(), &trust).expect("is trusted");
            // Tickets come behind the handshake.
            stream
                .write_all(b"GET /time HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                .unwrap();
            stream.read_to_end(&mut Vec::new()).expect("is closed in order");
            stream.client.is_resumed().expect("the handshake is over")
        })
        .collect();
    assert!(!resumed[0]);
    assert!(resumed[1..].iter().all(|is_resumed| *is_resumed), "{resumed:?}");
}

#[test]
fn messages_larger_than_a_record_arrive_whole_and_in_order() {
    let setup = Setup::start("large", "");
    let mut socket = setup.subscribe("large");
    let data = |i: usize| format!("{i:06}{}", "x".repeat(i * 700));
    for i in 0..90 {
        setup.publish("large", &data(i));
        assert!(next_data(&mut socket).expect("is connected") == data(i), "message {i}");
    }
}

#[test]
fn who_does_not_speak_tls_or_not_to_the_end_is_let_go() {
    let setup = Setup::start("strangers", "[limits]\nhead_timeout = \"1s\"\n");
    let exchange = |bytes: &[u8]| {
        let mut stream = setup.connect();
        stream.write_all(bytes).expect("the daemon reads");
        let mut answer = Vec::new();
        let end = stream.read_to_end(&mut answer);
        let is_open = end.is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
        assert!(!is_open, "{bytes:?} leaves the connection open");
        answer
    };
    let answer = exchange(b"GET /time HTTP/1.1\r\nHost: x\r\n\r\n");
    let answer = String::from_utf8(answer).expect("text");
    assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{answer}");
    assert!(answer.ends_with("this port speaks TLS: use https:// or wss://\n"), "{answer}");
    assert_eq!(exchange(b"\x00\x01\x02\x03"), b"");
    let alert = exchange(&[22, 3, 1, 0, 4, 1, 0, 0, 0]);
    assert_eq!(alert[..3], [21, 3, 3], "an alert");
    // Silence, and a hello that stops half way, end with the time for a request head.
    assert_eq!(exchange(b""), b"");
    let hello = Client::new(&setup.authority.trust(), [127, 0, 0, 1].into()).take_outgoing();
    assert_eq!(exchange(&hello[..hello.len() / 2]), b"");
    // Everybody else is served as before.
    setup.connect_tls();
}

#[test]
fn a_client_that_does_not_read_is_cut_off_and_nobody_waits_for_it() {
    let setup = Setup::start("slow", "[socket]\nsend_buffer_bytes = \"16KiB\"\n");
    let mut slow = setup.subscribe("busy");
    let mut quick = setup.subscribe("busy");
    // More than the bound and what the kernel holds at both ends.
    let data = |i: usize| format!("{i:06}{}", "x".repeat(40_000));
    for i in 0..250 {
        setup.publish("busy", &data(i));
        assert!(next_data(&mut quick).expect("is connected") == data(i), "message {i}");
    }
    setup.wait_for_log("slow consumer disconnected", 1);
    // What it has been sent is in order; then it is told, or its socket ends.
    for i in 0.. {
        match next(&mut slow) {
            Ok(message) if message["action"] == 15 => {
                assert!(message["messages"][0]["data"] == data(i), "message {i}");
            }
            Ok(message) => {
                assert_eq!(message["error"]["code"], 80020, "{message}");
                break;
            }
            Err(_) => break,
        }
        assert!(i < 250);
    }
}

#[test]
fn clients_show_a_certificate_where_one_is_required() {
    let setup =
        Setup::start("clients", "client_auth = \"required\"\nclient_ca_file = \"ca.pem\"\n");
    let request = b"GET /time HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let outcome = |trust: &Trust| -> io::Result<String> {
        let mut stream = TlsStream::new(setup.connect(), trust)?;
        stream.write_all(request)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let refused = outcome(&setup.authority.trust()).expect_err("has no certificate");
    assert!(refused.to_string().contains("CertificateRequired"), "{refused}");
    let (certificate, _, key) = setup.authority.issue(ExtendedKeyUsagePurpose::ClientAuth);
    let own = Some((certificate.as_bytes(), key.as_bytes()));
    let trust = Trust::with_certificate(setup.authority.0.pem().as_bytes(), own).expect("texts");
    let answer = outcome(&trust).expect("comes in");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
}

#[test]
fn a_new_certificate_is_seen_by_new_clients_and_unnoticed_by_those_who_are_there() {
    const CLIENTS: usize = 300;
    let setup = Setup::start("reload", "");
    let mut sockets: Vec<_> = (0..CLIENTS).map(|_| setup.subscribe("news")).collect();
    let publish = |numbers: std::ops::Range<usize>| {
        numbers.for_each(|i| setup.publish("news", &i.to_string()));
    };
    publish(0..10);
    let renewed = write_pair(&setup.directory, &setup.authority);
    setup.daemon.signal("HUP");
    publish(10..20);
    setup.wait_for_log("configuration reloaded", 1);
    publish(20..30);
    let seen = setup.connect_tls();
    assert_eq!(seen.client.server_certificate(), Some(&renewed[..]));
    assert!(setup.log().contains("certificate replaced"), "{}", setup.log());

    // A key of another certificate: nothing changes, and the log names the file.
    let (_, _, stray) = setup.authority.issue(ExtendedKeyUsagePurpose::ServerAuth);
    fs::write(setup.directory.join("key.pem"), stray).expect("writable");
    setup.daemon.signal("HUP");
    setup.wait_for_log("configuration not reloaded", 1);
    let log = setup.log();
    assert!(log.contains("`tls.key_file`: ") && log.contains("not the key of the cert"), "{log}");
    let seen = setup.connect_tls();
    assert_eq!(seen.client.server_certificate(), Some(&renewed[..]));
    publish(30..40);

    for socket in &mut sockets {
        for i in 0..40 {
            assert_eq!(next_data(socket).expect("is connected"), i.to_string());
        }
        let seen = socket.get_ref().client.server_certificate();
        assert_eq!(seen, Some(&setup.certificate[..]));
    }
}

#[test]
fn each_name_has_its_certificate_and_all_are_replaced_together_or_none() {
    let more = format!("[admin]\nsocket = \"control.sock\"\n{CERTIFICATES_OF_NAMES}");
    let mut named = None;
    let setup = Setup::prepared("names", &more, |directory, authority| {
        named = Some(write_named(directory, authority));
    });
    let [a, b] = named.expect("was prepared");
    let directory = &setup.directory;
    let trust = setup.authority.trust();
    let shown = |name: &str| {
        let client = Client::by_name(&trust, name).expect("a name");
        let stream = TlsStream::with_client(setup.connect(), client).expect("is trusted");
        stream.client.server_certificate().expect("was shown").to_vec()
    };
    let all_are = |[a, b]: &[Vec<u8>; 2]| {
        assert_eq!(shown("localhost"), setup.certificate);
        assert_eq!(setup.connect_tls().client.server_certificate(), Some(&setup.certificate[..]));
        for name in ["a.example", "x.a.example"] {
            assert_eq!(&shown(name), a, "{name}");
        }
        for name in ["b.example", "x.b.example"] {
            assert_eq!(&shown(name), b, "{name}");
        }
    };
    all_are(&[a, b]);
    assert_eq!(setup.log().matches("certificate loaded").count(), 3, "{}", setup.log());
    let ringcast = |arguments: &[&str]| {
        let mut program = Command::new(env!("CARGO_BIN_EXE_ringcast"));
        let output = program.args(arguments).output().expect("runs");
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    let config = directory.join("ringcast.toml");
    let config = config.to_str().expect("a path in UTF-8");
    let socket = directory.join("control.sock");
    let socket = socket.to_str().expect("a path in UTF-8");
    let check = ringcast(&["check", "--config", config]);
    let status = ringcast(&["status", "--socket", socket]);
    for names in ["localhost, 127.0.0.1", "a.example, *.a.example", "b.example, *.b.example"] {
        assert!(check.contains(&format!("TLS certificate for {names}, until ")), "{check}");
        assert!(status.contains(&format!("certificate  {names}, until ")), "{status}");
    }

    // Two are renewed.
    let renewed = write_named(directory, &setup.authority);
    setup.daemon.signal("HUP");
    setup.wait_for_log("configuration reloaded", 1);
    all_are(&renewed);
    assert_eq!(setup.log().matches("certificate replaced").count(), 2, "{}", setup.log());

    // All are, but the key of one is another's.
    write_pair(directory, &setup.authority);
    write_named(directory, &setup.authority);
    fs::copy(directory.join("a.key"), directory.join("b.key")).expect("writable");
    setup.daemon.signal("HUP");
    setup.wait_for_log("configuration not reloaded", 1);
    let log = setup.log();
    let (key, why) =
        ("`tls.certificates.key_file`: ", "b.key: it is not the key of the certificate");
    assert!(log.contains(key) && log.contains(why), "{log}");
    all_are(&renewed);
}

/// Ably's SDK and a browser.
#[test]
#[ignore = "needs npm packages and Chromium: tests/run"]
fn ably_js_and_a_browser_over_tls() {
    let setup = Setup::start("sdk", "");
    let mut node = Command::new("node");
    node.args(["--test", "--test-timeout=300000", "tls.test.mjs"])
        .current_dir(daemon::repository().join("tests/sdk"))
        .env("RINGCAST_TLS_ADDRESS", setup.address().to_string())
        .env("RINGCAST_CERTIFICATE", setup.directory.join("cert.pem"))
        .env("NODE_EXTRA_CA_CERTS", setup.directory.join("ca.pem"));
    daemon::run(&mut node);
}

/// Ably's SDK for Python, whose certificates are checked by OpenSSL.
#[test]
#[ignore = "needs PyPI packages: tests/run"]
fn ably_python_over_tls() {
    let setup = Setup::start("python", "");
    let directory = daemon::repository().join("tests/sdk/python");
    let mut python = Command::new(directory.join(".venv/bin/python"));
    python
        .args(["-m", "unittest", "-v", "test_tls"])
        .current_dir(&directory)
        .env("RINGCAST_TLS_ADDRESS", setup.address().to_string())
        .env("RINGCAST_CA", setup.directory.join("ca.pem"));
    daemon::run(&mut python);
}

/// The other implementation that everybody has. Needs `openssl`.
#[test]
#[ignore = "needs openssl"]
fn openssl_agrees_on_versions_protocol_and_tickets() {
    let setup = Setup::prepared("openssl", CERTIFICATES_OF_NAMES, |directory, authority| {
        write_named(directory, authority);
    });
    let address = setup.address().to_string();
    let ca = setup.directory.join("ca.pem");
    let session = setup.directory.join("session");
    let s_client = |arguments: &[&str]| {
        let mut program = Command::new("openssl");
        program.args(["s_client", "-connect", &address, "-CAfile"]).arg(&ca).args(arguments);
        program.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = program.spawn().expect("openssl is installed");
        let request = b"GET /time HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        // It may have ended already.
        let mut stdin = process.stdin.take().expect("piped");
        let _ = stdin.write_all(request);
        // Its input stays open until the daemon has closed.
        let output = process.wait_with_output().expect("it is ours");
        drop(stdin);
        let text = [output.stdout, output.stderr].concat();
        String::from_utf8_lossy(&text).into_owned()
    };
    let session = session.to_str().expect("a path in UTF-8");
    for (flag, name) in [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")] {
        let first = s_client(&[flag, "-alpn", "h2,http/1.1", "-sess_out", session]);
        for wanted in [
            &format!("New, {name}"),
            "ALPN protocol: http/1.1",
            "HTTP/1.1 200",
            "return code: 0 (ok)",
        ] {
            assert!(first.contains(wanted), "{wanted} is not in\n{first}");
        }
        let second = s_client(&[flag, "-sess_in", session]);
        assert!(second.contains(&format!("Reused, {name}")), "{second}");
    }
    for (asked, shown) in
        [("a.example", "a.example"), ("x.b.example", "x.b.example"), ("c.example", "localhost")]
    {
        let said = s_client(&["-servername", asked, "-verify_hostname", shown]);
        assert!(said.contains("return code: 0 (ok)"), "{asked} is shown another:\n{said}");
    }
    let other = s_client(&["-alpn", "h2"]);
    assert!(other.contains("no application protocol"), "{other}");
    let old = s_client(&["-tls1_1"]);
    assert!(old.contains("alert"), "{old}");
}
