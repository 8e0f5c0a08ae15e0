//! The one who publishes: a realtime connection of its own, or a byte for each message at the floor.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::thread;

use anyhow::{Context, ensure};
use bytes::Bytes;
use tungstenite::protocol::Role;
use tungstenite::{Message, WebSocket};

use super::BenchArgs;

/// See the module text.
pub(super) enum Publisher {
    Realtime { socket: Box<WebSocket<TcpStream>>, channel: String, size: usize },
    Floor { socket: TcpStream },
}

impl Publisher {
    pub fn connect(args: &BenchArgs) -> anyhow::Result<Publisher> {
        let mut address = SocketAddr::from(args.server);
        if args.floor {
            address.set_port(address.port() + 1);
            let socket = TcpStream::connect(address).context("the floor's control port")?;
            socket.set_nodelay(true)?;
            return Ok(Publisher::Floor { socket });
        }
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        let reader = stream.try_clone()?;
        let url = format!("ws://{address}/?v=6&format=json&key={}", args.key);
        let (mut socket, _) = tungstenite::client(url, stream)?;
        let first = socket.read()?.into_text()?;
        ensure!(first.starts_with("{\"action\":4,"), "not connected: {first}");
        // ACKs are read by a thread, so that the publisher never waits for them and the server's
        // buffer never fills; a NACK ends the run.
        thread::Builder::new().name("acks".into()).spawn(move || read_acks(reader))?;
        let socket = Box::new(socket);
        Ok(Publisher::Realtime { socket, channel: args.channel.clone(), size: args.size })
    }

    /// Publishes message `number`.
    pub fn publish(&mut self, number: u64) -> anyhow::Result<()> {
        match self {
            Publisher::Floor { socket } => socket.write_all(&[1])?,
            Publisher::Realtime { socket, channel, size } => {
                let data = format!("{number:010}{}", "x".repeat(*size - 10));
                let message = format!(
                    "{{\"action\":15,\"msgSerial\":{number},\"channel\":\"{channel}\",\
                     \"messages\":[{{\"data\":\"{data}\"}}]}}"
                );
                socket.send(Message::text(message))?;
            }
        }
        Ok(())
    }

    /// Publishes once more, so that parts which wait in the kernel look around and end.
    pub fn nudge(&mut self, number: u64) -> anyhow::Result<()> {
        self.publish(number)
    }
}

/// Reads until the connection ends. Exits the process when a publish was refused: no figure of such a
/// run means anything.
fn read_acks(stream: TcpStream) {
    let mut socket = WebSocket::from_raw_socket(stream, Role::Client, None);
    while let Ok(message) = socket.read() {
        if let Ok(text) = message.into_text()
            && text.starts_with("{\"action\":2,")
        {
            eprintln!("ringcast: a publish was refused: {text}");
            std::process::exit(1);
        }
    }
}

/// A masked text frame of a client; the mask is zero, which is a mask like any other.
pub(super) fn masked_text(payload: &[u8]) -> Bytes {
    let mut frame = vec![0x81];
    match u8::try_from(payload.len()) {
        Ok(len @ 0..126) => frame.push(0x80 | len),
        _ => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&(payload.len() as u16).to_be_bytes());
        }
    }
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(payload);
    frame.into()
}
