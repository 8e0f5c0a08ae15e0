//! An HTTP client for the control socket.

use std::path::{Path, PathBuf};

use anyhow::Context;
use axum::body::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

/// Bytes of one event of a stream.
const EVENT_BYTES_MAX: usize = 1 << 20;

/// Comes in through the socket at a path, for each request anew.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    runtime: tokio::runtime::Runtime,
}

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
    pub fn get<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, Option<&str>)],
    ) -> anyhow::Result<T> {
        let target = target(path, query);
        self.runtime.block_on(async {
            let response = self.send(Method::GET, &target).await?;
            let body = response.into_body().collect().await?.to_bytes();
            Ok(serde_json::from_slice(&body)?)
        })
    }

    /// Has something done. What 422 says is an answer as well.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn post<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        self.runtime.block_on(async {
            let response = self.send(Method::POST, path).await?;
            let body = response.into_body().collect().await?.to_bytes();
            Ok(serde_json::from_slice(&body)?)
        })
    }

    /// Has `on_event` called with each event of a stream until it returns false or the daemon ends it.
    ///
    /// # Errors
    /// As [`get`](Self::get), and those of `on_event`.
    pub fn stream<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, Option<&str>)],
        mut on_event: impl FnMut(T) -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        let target = target(path, query);
        self.runtime.block_on(async {
            let mut body = self.send(Method::GET, &target).await?.into_body();
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

    async fn send(&self, method: Method, target: &str) -> anyhow::Result<Response<Incoming>> {
        let path = self.path.display();
        let stream = UnixStream::connect(&self.path).await.with_context(|| {
            format!("no daemon can be reached through {path}; say --socket PATH or --config FILE")
        })?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let request = Request::builder().method(method).uri(target).header("Host", "localhost");
        let response = sender.send_request(request.body(Empty::<Bytes>::new())?).await?;
        let status = response.status();
        if status.is_success() || status == hyper::StatusCode::UNPROCESSABLE_ENTITY {
            return Ok(response);
        }
        let body = response.into_body().collect().await?.to_bytes();
        match serde_json::from_slice(&body) {
            Ok(Said { message }) => anyhow::bail!("{message}"),
            Err(_) => anyhow::bail!("the daemon answers {status}"),
        }
    }
}

fn target(path: &str, query: &[(&str, Option<&str>)]) -> String {
    let mut target = path.to_owned();
    for (name, value) in query.iter().filter_map(|(name, value)| Some((name, (*value)?))) {
        target += if target.contains('?') { "&" } else { "?" };
        target += &format!("{name}={}", escape(value));
    }
    target
}

fn escape(text: &str) -> String {
    let escaped = text.bytes().map(|byte| match byte.is_ascii_alphanumeric() {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
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
