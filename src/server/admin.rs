//! The admin listener: metrics for whoever is on this host. A thread of its own that answers one request
//! after another; it asks the monitor, and no shard hears of it.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{self, SyncSender};
use std::time::{Duration, Instant};

use super::orders::News;
use crate::http::{Progress, ReplyTo, Request, RequestParser, Response};

/// Time that one client has for its request and for taking the response.
const CLIENT_TIME_MAX: Duration = Duration::from_secs(2);

/// How long the monitor may take.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(5);

/// The content type of the text format.
const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Starts the thread that serves `listener`.
pub(super) fn spawn(listener: TcpListener, news: SyncSender<News>) -> io::Result<()> {
    std::thread::Builder::new().name("admin".into()).spawn(move || {
        for client in listener.incoming() {
            match client {
                // Whoever does not ask or read in time gets no answer; the next one does.
                Ok(client) => drop(serve(client, &news)),
                // Out of descriptors, say: it passes or it does not, but it must not spin.
                Err(_) => std::thread::sleep(Duration::from_millis(100)),
            }
        }
    })?;
    Ok(())
}

/// Whether `address` can be reached from this host alone.
pub(super) fn is_local(address: SocketAddr) -> bool {
    address.ip().is_loopback()
}

fn serve(mut client: TcpStream, news: &SyncSender<News>) -> io::Result<()> {
    let by = Instant::now() + CLIENT_TIME_MAX;
    client.set_write_timeout(Some(CLIENT_TIME_MAX))?;
    let mut parser = RequestParser::new(0);
    let mut bytes = [0; 4096];
    let response = loop {
        let left = by.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        client.set_read_timeout(Some(left))?;
        let len = client.read(&mut bytes)?;
        if len == 0 {
            return Ok(());
        }
        match parser.handle_bytes(&bytes[..len]).and_then(|()| parser.poll()) {
            Ok(Progress::Request(request)) => break answer(&request, news),
            Ok(Progress::NeedMore | Progress::Continue) => {}
            Err(error) => break Response::to_error(&error),
        }
    };
    client.write_all(&response)
}

fn answer(request: &Request, news: &SyncSender<News>) -> bytes::Bytes {
    let reply_to = ReplyTo::new(request).closing().without_origin();
    let text = |status: u16, text: &str| {
        Response::new(status)
            .header("Content-Type", "text/plain")
            .finish(&reply_to, text.as_bytes())
    };
    match (request.method(), request.path()) {
        ("GET" | "HEAD", "/metrics") => {
            let (sender, receiver) = mpsc::sync_channel(1);
            if news.try_send(News::Scrape(sender)).is_err() {
                return text(503, "the monitor is behind\n");
            }
            match receiver.recv_timeout(ANSWER_TIME_MAX) {
                Ok(metrics) => Response::new(200)
                    .header("Content-Type", TEXT_FORMAT)
                    .finish(&reply_to, metrics.as_bytes()),
                Err(_) => text(503, "the monitor is behind\n"),
            }
        }
        (_, "/metrics") => text(405, "metrics are to be read\n"),
        _ => text(404, "here is /metrics\n"),
    }
}
