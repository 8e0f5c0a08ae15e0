//! Question: would the kernel's own TLS (kTLS) carry a fan-out for less than rustls does?
//! Unit: CPU-microseconds of the sending thread per delivery, and bytes per session.
//!
//! One frame goes to N sockets: plainly, encrypted by a session of the daemon for each, and as plaintext that
//! the kernel encrypts. The three take turns, so that what the host does meanwhile meets all of them. Whoever
//! reads is not counted. It takes a kernel with TLS (`modprobe tls`), without which there is no third row, and
//! six files for each of the N sockets. Bytes of the kernel are those of all its slabs: let nothing else run.
//!
//!     cargo bench --profile quick --bench kernel_tls -- --sockets 1000
#![allow(clippy::disallowed_methods, reason = "a program of its own")]
#![allow(unsafe_code, reason = "no safe function sets up a socket's TLS")]

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

use bytes::Bytes;
use clap::Parser;
use rcgen::{CertificateParams, KeyPair};
use ringcast::tls::{Acceptor, Client, ClientAuth, Identity, MinVersion, PemPair, Session, Trust};

#[derive(Parser)]
struct Args {
    #[arg(long, default_value_t = 1000)]
    sockets: usize,
    #[arg(long, default_value_t = 100)]
    rounds: u32,
    /// Bytes of the frame
    #[arg(long, default_value_t = 250)]
    frame_bytes: usize,
    /// Given by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

/// One way to send to all of its sockets.
struct Way {
    name: &'static str,
    sockets: Vec<Socket>,
    /// CPU time of the sends.
    sent: Duration,
    /// Bytes for each socket, of this process and of the kernel.
    memory: [f64; 2],
}

struct Socket {
    stream: TcpStream,
    peer: TcpStream,
    session: Option<Session>,
}

fn main() -> std::io::Result<()> {
    let args = Args::parse();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let mut ways = Vec::new();
    for (name, arm) in [
        ("plain", (|_| Ok(None)) as fn(&TcpStream) -> std::io::Result<Option<Session>>),
        ("rustls", |_| Ok(Some(established()))),
        ("kernel", |stream| set_tls(stream, TLS_TX).map(|()| None)),
    ] {
        let before = memory()?;
        let mut sockets = Vec::with_capacity(args.sockets);
        for _ in 0..args.sockets {
            let peer = TcpStream::connect(listener.local_addr()?)?;
            let (stream, _) = listener.accept()?;
            stream.set_nodelay(true)?;
            peer.set_nonblocking(true)?;
            match arm(&stream) {
                Ok(session) => sockets.push(Socket { stream, peer, session }),
                Err(error) => {
                    println!("{name}: {error}");
                    break;
                }
            }
        }
        if sockets.len() == args.sockets {
            let after = memory()?;
            let per_socket = |i: usize| (after[i] - before[i]) / args.sockets as f64;
            let memory = [per_socket(0), per_socket(1)];
            ways.push(Way { name, sockets, sent: Duration::ZERO, memory });
        }
    }
    let frame = Bytes::from(vec![b'x'; args.frame_bytes]);
    for way in &mut ways {
        way.check(&frame)?;
        way.send(&frame)?;
        way.drain()?;
    }
    for _ in 0..args.rounds {
        for way in &mut ways {
            let before = cpu_time();
            way.send(&frame)?;
            way.sent += cpu_time() - before;
            way.drain()?;
        }
    }
    println!("way     us/delivery  user bytes/session  kernel bytes/session");
    let deliveries = f64::from(args.rounds) * args.sockets as f64;
    let plain = ways[0].memory;
    for Way { name, sent, memory, .. } in &ways {
        let us = sent.as_secs_f64() * 1e6 / deliveries;
        let [user, kernel] = [memory[0] - plain[0], memory[1] - plain[1]];
        println!("{name:7} {us:11.3} {user:19.0} {kernel:21.0}");
    }
    Ok(())
}

impl Way {
    fn send(&mut self, frame: &Bytes) -> std::io::Result<()> {
        for Socket { stream, session, .. } in &mut self.sockets {
            match session {
                None => stream.write_all(frame)?,
                Some(session) => {
                    let mut ciphertext = Vec::new();
                    session.encrypt(frame, &mut ciphertext).expect("is established");
                    stream.write_all(&Bytes::from(ciphertext))?;
                }
            }
        }
        Ok(())
    }

    fn drain(&mut self) -> std::io::Result<()> {
        let mut bytes = [0; 65536];
        for Socket { peer, .. } in &mut self.sockets {
            match peer.read(&mut bytes) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// What the kernel encrypts is what was written: it decrypts it itself, at the other end.
    fn check(&mut self, frame: &Bytes) -> std::io::Result<()> {
        let Socket { stream, peer, .. } = &mut self.sockets[0];
        if self.name == "kernel" {
            set_tls(peer, TLS_RX)?;
            stream.write_all(frame)?;
            peer.set_nonblocking(false)?;
            let mut read = vec![0; frame.len()];
            peer.read_exact(&mut read)?;
            peer.set_nonblocking(true)?;
            assert_eq!(read, frame[..]);
        }
        Ok(())
    }
}

/// A session after its handshake, with a client that is forgotten.
fn established() -> Session {
    thread_local! {
        static PARTIES: (Acceptor, Trust) = parties();
    }
    PARTIES.with(|(acceptor, trust)| {
        let mut client = Client::new(trust, Ipv4Addr::LOCALHOST.into());
        let mut session = Session::new(acceptor);
        loop {
            let mut sent = client.take_outgoing();
            let taken = session.handle_bytes(&mut sent, &mut Vec::new());
            taken.expect("they understand each other");
            let answer = session.take_outgoing();
            client.handle_bytes(&answer, &mut Vec::new()).expect("as above");
            if sent.is_empty() && answer.is_empty() {
                return session;
            }
        }
    })
}

fn parties() -> (Acceptor, Trust) {
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(["127.0.0.1".to_owned()]).expect("a name");
    let certificate = params.self_signed(&key).expect("signs itself").pem();
    let key_pem = key.serialize_pem();
    let pair = PemPair { certificate_pem: certificate.as_bytes(), key_pem: key_pem.as_bytes() };
    let identity = Identity {
        pairs: &[pair],
        client_ca_pem: b"",
        client_auth: ClientAuth::Off,
        min_version: MinVersion::Tls13,
    };
    let acceptor = Acceptor::new(&identity).expect("belong together");
    (acceptor, Trust::new(certificate.as_bytes()).expect("a certificate").without_tickets())
}

const SOL_TLS: i32 = 282;
const TLS_TX: i32 = 1;
const TLS_RX: i32 = 2;

/// `struct tls12_crypto_info_aes_gcm_256` of linux/tls.h, with TLS 1.3 for its version: what rustls' own client
/// and server agree on.
#[repr(C)]
struct CryptoInfo {
    version: u16,
    cipher: u16,
    iv: [u8; 8],
    key: [u8; 32],
    salt: [u8; 4],
    record_sequence: [u8; 8],
}

/// Has the kernel encrypt or decrypt, with a key that is as good as any to measure with.
fn set_tls(stream: &TcpStream, direction: i32) -> std::io::Result<()> {
    let info = CryptoInfo {
        version: 0x0304,
        cipher: 52,
        iv: [1; 8],
        key: [2; 32],
        salt: [3; 4],
        record_sequence: [0; 8],
    };
    set_option(stream, libc::IPPROTO_TCP, libc::TCP_ULP, &b"tls"[..])?;
    set_option(stream, SOL_TLS, direction, &info)
}

fn set_option<T: ?Sized>(
    stream: &TcpStream,
    level: i32,
    name: i32,
    value: &T,
) -> std::io::Result<()> {
    let len = size_of_val(value) as libc::socklen_t;
    // SAFETY: `value` outlives the call, and the kernel reads exactly `len` bytes of it.
    let rc = unsafe {
        libc::setsockopt(stream.as_raw_fd(), level, name, std::ptr::from_ref(value).cast(), len)
    };
    if rc == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// CPU that this thread has used, interrupts in its time included.
fn cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one `timespec`.
    let rc = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert_eq!(rc, 0, "every kernel has this clock");
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Bytes of this process, and of the kernel's own structures.
fn memory() -> std::io::Result<[f64; 2]> {
    let kib = |text: &str, name: &str| -> f64 {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let value = line.and_then(|rest| rest.split_whitespace().next());
        value.and_then(|value| value.parse().ok()).unwrap_or_default()
    };
    let own = kib(&fs::read_to_string("/proc/self/status")?, "RssAnon:");
    let all = fs::read_to_string("/proc/meminfo")?;
    Ok([own, kib(&all, "Slab:") + kib(&all, "Percpu:")].map(|kib| kib * 1024.0))
}
