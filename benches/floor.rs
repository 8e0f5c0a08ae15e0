//! Question: what does it cost the kernel alone to send one small frame to N sockets?
//! Unit: CPU-microseconds per delivery, as `ringcast bench --floor` reports them.
//!
//! A server without a protocol: it answers every upgrade with a fixed 101, and for each byte that
//! arrives at its control port (the port plus one) it sends the same prebuilt frame to all sockets.
//! `--mode ring` sends through the daemon's socket ring, `--mode send` calls send(2) for each.
//! With `--coalesce` frames that wait are sent together, as the daemon does.
#![allow(clippy::disallowed_methods, reason = "a program of its own")]

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use anyhow::{Context, bail};
use bytes::Bytes;
use clap::{Parser, ValueEnum};
use ringcast::sys::listener::{Listener, ListenerConfig};
use ringcast::sys::{Chunk, Door, Event, EventFd, SendBuf, Slot, SocketRing, SocketRingConfig};

const UPGRADED: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";

/// Most frames that one send carries.
const COALESCED_MAX: u64 = 64;

/// Completions taken and sends submitted between two looks at the other.
const BATCH: usize = 512;

#[derive(Parser)]
struct Args {
    #[arg(long, default_value = "127.0.0.1:18090")]
    listen: SocketAddr,
    /// Threads, each with a listener and a ring
    #[arg(long, default_value_t = 1)]
    shards: usize,
    /// Bytes of the frame, header counted, at least 130
    #[arg(long, default_value_t = 450)]
    frame_bytes: usize,
    #[arg(long, value_enum, default_value = "ring")]
    mode: Mode,
    /// Sends frames together that wait for one socket
    #[arg(long)]
    coalesce: bool,
    /// Given by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Mode {
    Ring,
    Send,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let mut control = args.listen;
    control.set_port(control.port() + 1);
    let control = TcpListener::bind(control).context("control port")?;
    let published = Arc::new(AtomicU64::new(0));
    let frames = Bytes::from(frame(args.frame_bytes).repeat(COALESCED_MAX as usize));
    let mut wakers = Vec::new();
    if args.mode == Mode::Ring {
        let config = ListenerConfig {
            send_buffer_bytes: 65_536,
            notsent_lowat_bytes: 16_384,
            backlog: 4096,
        };
        for _ in 0..args.shards {
            let listener = Listener::bind(args.listen, &config)?;
            let eventfd = EventFd::new()?;
            wakers.push(eventfd.reader::<File>()?);
            let (published, frames) = (Arc::clone(&published), frames.clone());
            let coalesced_max = if args.coalesce { COALESCED_MAX } else { 1 };
            thread::spawn(move || {
                let outcome = serve_ring(&listener, &eventfd, &published, &frames, coalesced_max);
                outcome.expect("the floor is measured on a host that has what it needs");
            });
        }
    }
    println!("listening on {} shards={}", args.listen, args.shards);
    if args.mode == Mode::Send {
        return serve_send(&args, &control, &frames);
    }
    let (mut publisher, _) = control.accept()?;
    let mut bytes = [0; 256];
    loop {
        match publisher.read(&mut bytes)? {
            0 => (publisher, _) = control.accept()?,
            count => {
                published.fetch_add(count as u64, Ordering::Release);
                for waker in &mut wakers {
                    waker.write_all(&1u64.to_ne_bytes())?;
                }
            }
        }
    }
}

/// A text frame of the server.
fn frame(frame_bytes: usize) -> Vec<u8> {
    let payload_bytes = frame_bytes - 4;
    let mut frame = vec![0x81, 126];
    frame.extend_from_slice(&(payload_bytes as u16).to_be_bytes());
    frame.resize(frame_bytes, b'x');
    frame
}

/// How far one socket is, and whether a send is in flight.
#[derive(Clone, Copy, Default)]
struct Socket {
    sent: u64,
    in_flight: u64,
    is_upgraded: bool,
}

fn serve_ring(
    listener: &Listener,
    eventfd: &EventFd,
    published: &AtomicU64,
    frames: &Bytes,
    coalesced_max: u64,
) -> anyhow::Result<()> {
    let mut ring = SocketRing::new(&SocketRingConfig {
        ring_entries: 4096,
        table_entries: 20_000,
        receive_buffers: 256,
        receive_buffer_bytes: 2048,
    })?;
    ring.register_eventfd(eventfd)?;
    let mut wakeups: File = eventfd.reader()?;
    let frame_bytes = frames.len() as u64 / COALESCED_MAX;
    let frames = Chunk::shared(frames.clone());
    let upgraded = Bytes::from_static(UPGRADED);
    let mut sockets: Vec<Socket> = Vec::new();
    let mut upgrades: Vec<Slot> = Vec::new();
    let mut accepted: Vec<Slot> = Vec::new();
    let mut done: Vec<u32> = Vec::new();
    let mut sent_all = 0;
    // Where the round of sends stands; it is over at the last socket.
    let mut round_at = 0;
    ring.start_accept(Door(0), listener.as_raw_fd(), false);
    loop {
        ring.submit_if_needed()?;
        let mut closed = false;
        let count = ring.reap(BATCH, |event| match event {
            Event::Accepted(slot, ..) => accepted.push(slot),
            Event::Received(slot, _) if !sockets[slot.0 as usize].is_upgraded => {
                upgrades.push(slot);
            }
            Event::Sent(slot, Ok(_)) => {
                let socket = &mut sockets[slot.0 as usize];
                socket.sent += socket.in_flight;
                socket.in_flight = 0;
                if socket.is_upgraded && socket.sent < sent_all {
                    done.push(slot.0);
                }
                socket.is_upgraded = true;
            }
            Event::ReceiveEnded(..) | Event::Sent(_, Err(_)) => closed = true,
            _ => {}
        });
        if closed {
            // A run has ended; the next one starts a floor of its own.
            std::process::exit(0);
        }
        for slot in accepted.drain(..) {
            if sockets.len() <= slot.0 as usize {
                let at_end = round_at == sockets.len();
                sockets.resize(slot.0 as usize + 1, Socket::default());
                if at_end {
                    round_at = sockets.len();
                }
            }
            ring.start_receive(slot);
        }
        for slot in upgrades.drain(..) {
            ring.send(slot, SendBuf::whole(upgraded.clone()));
            sockets[slot.0 as usize].sent = sent_all;
        }
        for slot in done.drain(..) {
            let socket = &mut sockets[slot as usize];
            let due = (sent_all - socket.sent).min(coalesced_max);
            socket.in_flight = due;
            ring.send(Slot(slot), SendBuf::new(&frames, 0, (due * frame_bytes) as u32));
        }
        let target = published.load(Ordering::Acquire);
        if round_at == sockets.len() && sent_all < target {
            sent_all = if coalesced_max > 1 { target } else { sent_all + 1 };
            round_at = 0;
        }
        let batch = sockets.len().min(round_at + BATCH);
        for (slot, socket) in sockets[..batch].iter_mut().enumerate().skip(round_at) {
            if socket.in_flight == 0 && socket.sent < sent_all {
                let due = (sent_all - socket.sent).min(coalesced_max);
                socket.in_flight = due;
                ring.send(Slot(slot as u32), SendBuf::new(&frames, 0, (due * frame_bytes) as u32));
            }
        }
        round_at = batch;
        ring.submit_if_needed()?;
        if count == 0 && !ring.has_work() && round_at == sockets.len() && sent_all == target {
            ring.arm_wakeup();
            if !ring.has_work() && published.load(Ordering::Acquire) == sent_all {
                wakeups.read_exact(&mut [0; 8])?;
            }
            ring.disarm_wakeup();
        }
    }
}

/// One thread, blocking sockets, one send(2) for each delivery.
fn serve_send(args: &Args, control: &TcpListener, frames: &Bytes) -> anyhow::Result<()> {
    let listener = TcpListener::bind(args.listen)?;
    let frame = &frames[..args.frame_bytes];
    listener.set_nonblocking(false)?;
    let sockets = Arc::new(std::sync::Mutex::new(Vec::<TcpStream>::new()));
    let accepted = Arc::clone(&sockets);
    thread::spawn(move || -> anyhow::Result<()> {
        loop {
            let (mut socket, _) = listener.accept()?;
            socket.set_nodelay(true)?;
            if socket.read(&mut [0; 2048])? == 0 {
                bail!("closed before its upgrade");
            }
            socket.write_all(UPGRADED)?;
            accepted.lock().expect("no thread panics").push(socket);
        }
    });
    let (mut publisher, _) = control.accept()?;
    let mut bytes = [0; 256];
    loop {
        match publisher.read(&mut bytes)? {
            0 => return Ok(()),
            count => {
                for _ in 0..count {
                    for socket in sockets.lock().expect("no thread panics").iter_mut() {
                        socket.write_all(frame)?;
                    }
                }
            }
        }
    }
}
