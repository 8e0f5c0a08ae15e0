//! The daemon's control socket, for commands: an HTTP client that comes in through it.

use std::path::{Path, PathBuf};

use anyhow::Context;
use axum::body::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

/// Bytes of one answer.
const ANSWER_BYTES_MAX: usize = 256 << 20;

/// Bytes of one event of a stream.
const EVENT_BYTES_MAX: usize = 1 << 20;

/// Comes in through the socket at a path, for each request anew.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    runtime: tokio::runtime::Runtime,
}

/// Parameters of a request; one without a value is left out.
pub type Query<'q> = [(&'q str, Option<&'q str>)];

/// What a refusal says.
#[derive(Deserialize)]
struct Said {
    message: String,
}

impl Client {
    /// For the socket at `path`; connects with the first request.
    ///
    /// # Errors
    /// This process can have no event loop.
    pub fn new(path: &Path) -> anyhow::Result<Client> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Client { path: path.into(), runtime })
    }

    /// Asks for something.
    ///
    /// # Errors
    /// The daemon cannot be reached, or refuses.
    pub fn get<T: DeserializeOwned>(&self, path: &str, query: &Query<'_>) -> anyhow::Result<T> {
        self.ask(Method::GET, &target(path, query), StatusCode::is_success)
    }

    /// Has something done.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn post<T: DeserializeOwned>(&self, path: &str, query: &Query<'_>) -> anyhow::Result<T> {
        self.ask(Method::POST, &target(path, query), StatusCode::is_success)
    }

    /// Has something done that the daemon may look at and find wanting, which is an answer as well (422).
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn try_post<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        self.ask(Method::POST, path, |status| {
            status.is_success() || *status == StatusCode::UNPROCESSABLE_ENTITY
        })
    }

    fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        target: &str,
        is_answer: impl Fn(&StatusCode) -> bool,
    ) -> anyhow::Result<T> {
        self.runtime.block_on(async {
            let response = self.send(method, target, is_answer).await?;
            let body = collect(response).await?;
            serde_json::from_slice(&body).context("the daemon's answer cannot be read")
        })
    }

    /// Has `on_event` called with each event of a stream until it returns false or the daemon ends it.
    ///
    /// # Errors
    /// As [`get`](Self::get), and those of `on_event`.
    pub fn stream<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &Query<'_>,
        mut on_event: impl FnMut(T) -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        let target = target(path, query);
        self.runtime.block_on(async {
            let response = self.send(Method::GET, &target, StatusCode::is_success).await?;
            let mut body = response.into_body();
            let mut text = Vec::new();
            while let Some(frame) = body.frame().await {
                text.extend_from_slice(frame?.data_ref().map_or(&[], |bytes| &bytes[..]));
                while let Some(end) = text.windows(2).position(|pair| pair == b"\n\n") {
                    let event: Vec<u8> = text.drain(..end + 2).collect();
                    // Comments keep the connection alive.
                    let Some(data) = event.strip_prefix(b"data: ") else { continue };
                    if !on_event(serde_json::from_slice(data)?)? {
                        return Ok(());
                    }
                }
                anyhow::ensure!(text.len() <= EVENT_BYTES_MAX, "an event without an end");
            }
            anyhow::bail!("the daemon has ended the stream")
        })
    }

    async fn send(
        &self,
        method: Method,
        target: &str,
        is_answer: impl Fn(&StatusCode) -> bool,
    ) -> anyhow::Result<Response<Incoming>> {
        let path = self.path.display();
        let stream = UnixStream::connect(&self.path).await.with_context(|| {
            format!("no daemon can be reached through {path}; say --socket PATH or --config FILE")
        })?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let request = Request::builder().method(method).uri(target).header("Host", "localhost");
        let response = sender.send_request(request.body(Empty::<Bytes>::new())?).await?;
        let status = response.status();
        if is_answer(&status) {
            return Ok(response);
        }
        match serde_json::from_slice(&collect(response).await?) {
            Ok(Said { message }) => anyhow::bail!("{message}"),
            Err(_) => anyhow::bail!("the daemon answers {status}"),
        }
    }
}

/// The whole of an answer.
async fn collect(response: Response<Incoming>) -> anyhow::Result<Bytes> {
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
    Ok(body.map_err(|error| anyhow::anyhow!(error))?.to_bytes())
}

fn target(path: &str, query: &Query<'_>) -> String {
    let mut target = path.to_owned();
    for (name, value) in query.iter().filter_map(|(name, value)| Some((name, (*value)?))) {
        target += if target.contains('?') { "&" } else { "?" };
        target += &format!("{name}={}", escape(value));
    }
    target
}

/// For one segment of a path, or a value of a query.
pub fn escape(text: &str) -> String {
    let escaped = text.bytes().map(|byte| match byte {
        b if b.is_ascii_alphanumeric() || b"-_.~".contains(&b) => char::from(b).to_string(),
        b => format!("%{b:02X}"),
    });
    escaped.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_is_escaped() {
        let query = [("app", None), ("prefix", Some("a b&c=é")), ("limit", Some("5"))];
        assert_eq!(target("/channels", &query), "/channels?prefix=a%20b%26c%3D%C3%A9&limit=5");
        assert_eq!(target("/status", &[]), "/status");
    }
}
