//! Connections, channels and publications, gathered from the shards page by page. A shard that does not answer is
//! named, and the others' answers stand.

use std::cmp::Reverse;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use axum::{Extension, Json};
use futures_lite::stream;
use serde::{Deserialize, Serialize};

use super::Admin;
use super::doors::Client;
use super::question::{Question, Reply, ShardQuestion, Watcher, ask};
use super::reply::{self, Params, Refusal};
use crate::shard::{
    ChannelRow, ChannelsQuery, ConnectionOrder, ConnectionRow, ConnectionsQuery, TapFilter,
};

/// How long one page may take.
const PAGE_PATIENCE: Duration = Duration::from_secs(2);

/// Rows of one answer.
const LIMIT_MAX: usize = 10_000;

/// Events that wait for one watcher to read them.
const TAIL_ROOM: usize = 1024;

fn default_limit() -> usize {
    100
}

/// What is asked of connections.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ConnectionsParams {
    app: Option<Box<str>>,
    #[serde(default)]
    sort: ConnectionOrder,
    #[serde(default = "default_limit")]
    limit: usize,
}

/// Connections of all shards.
#[derive(Debug, Serialize, Deserialize)]
pub struct Connections {
    /// The first of them.
    pub connections: Vec<ConnectionRow>,
    /// How many were looked at; all there are, if they are sorted.
    pub count: u64,
    /// Whether there are more than are listed.
    pub has_more: bool,
    /// Shards that did not answer.
    pub unanswered: Vec<usize>,
}

/// What is asked of channels.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ChannelsParams {
    app: Option<Box<str>>,
    #[serde(default)]
    prefix: Box<str>,
    #[serde(default = "default_limit")]
    limit: usize,
}

/// Channels of all shards.
#[derive(Debug, Serialize, Deserialize)]
pub struct Channels {
    /// The first of them, by app and name.
    pub channels: Vec<ChannelRow>,
    /// Whether there are more.
    pub has_more: bool,
    /// Shards that did not answer.
    pub unanswered: Vec<usize>,
}

/// What is asked of publications.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TailParams {
    app: Option<Box<str>>,
    channel: Option<Box<str>>,
    #[serde(default)]
    data: bool,
}

impl Admin {
    async fn ask_shard<T>(
        &self,
        shard: usize,
        question: impl FnOnce(Reply<T>) -> ShardQuestion,
    ) -> Result<T, Refusal> {
        let put = |reply| (self.0.ask)(Question::OfShard(shard, question(reply)));
        ask(PAGE_PATIENCE, put).await
    }
}

fn check_limit(limit: usize) -> Result<(), Refusal> {
    match limit {
        1..=LIMIT_MAX => Ok(()),
        _ => {
            let text = format!("`limit` is from 1 to {LIMIT_MAX}");
            Err(Refusal::new(StatusCode::BAD_REQUEST, text))
        }
    }
}

/// Ids hold nothing that could be taken for the end of one.
fn check_app(app: Option<&str>) -> Result<(), Refusal> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    match app.is_none_or(|app| app.chars().all(is_plain)) {
        true => Ok(()),
        false => Err(Refusal::new(StatusCode::BAD_REQUEST, "`app` is no id of an app")),
    }
}

pub(super) async fn connections(
    State(admin): State<Admin>,
    Params(ConnectionsParams { app, sort, limit }): Params<ConnectionsParams>,
) -> Result<Json<Connections>, Refusal> {
    check_limit(limit)?;
    check_app(app.as_deref())?;
    let mut found =
        Connections { connections: Vec::new(), count: 0, has_more: false, unanswered: Vec::new() };
    for shard in 0..admin.0.shards {
        let mut from = Some(0);
        while let Some(at) = from {
            if sort == ConnectionOrder::None && found.connections.len() >= limit {
                found.has_more = true;
                break;
            }
            let query = ConnectionsQuery { app: app.clone(), order: sort, from: at };
            let page = admin.ask_shard(shard, |reply| ShardQuestion::Connections(query, reply));
            let Ok(page) = page.await else {
                found.unanswered.push(shard);
                break;
            };
            found.count += page.count;
            found.connections.extend(page.rows);
            if sort != ConnectionOrder::None {
                found.connections.sort_by_key(|row| Reverse(row.rank(sort)));
                found.connections.truncate(limit);
            }
            from = page.next;
        }
    }
    found.connections.truncate(limit);
    found.has_more |= found.count > found.connections.len() as u64;
    Ok(Json(found))
}

pub(super) async fn channels(
    State(admin): State<Admin>,
    Params(ChannelsParams { app, prefix, limit }): Params<ChannelsParams>,
) -> Result<Json<Channels>, Refusal> {
    check_limit(limit)?;
    check_app(app.as_deref())?;
    let mut found = Channels { channels: Vec::new(), has_more: false, unanswered: Vec::new() };
    for shard in 0..admin.0.shards {
        let (mut after, mut own) = (None, 0);
        loop {
            let query = ChannelsQuery { app: app.clone(), prefix: prefix.clone(), after };
            let page = admin.ask_shard(shard, |reply| ShardQuestion::Channels(query, reply)).await;
            let Ok(page) = page else {
                found.unanswered.push(shard);
                break;
            };
            own += page.rows.len();
            found.channels.extend(page.rows);
            after = page.next;
            if after.is_none() {
                break;
            }
            // Each shard lists in order: what comes now is behind what was asked for.
            if own >= limit {
                found.has_more = true;
                break;
            }
        }
    }
    found.channels.sort_by(|a, b| (&a.app, &a.channel).cmp(&(&b.app, &b.channel)));
    found.has_more |= found.channels.len() > limit;
    found.channels.truncate(limit);
    Ok(Json(found))
}

/// Publications as they happen, of all shards that answer.
pub(super) async fn tail(
    State(admin): State<Admin>,
    Extension(client): Extension<Client>,
    Params(TailParams { app, channel, data }): Params<TailParams>,
) -> Result<Response, Refusal> {
    let (watcher, receiver) = Watcher::new(TAIL_ROOM);
    for shard in 0..admin.0.shards {
        let filter = TapFilter { app: app.clone(), channel: channel.clone(), with_data: data };
        let watcher = watcher.clone();
        let question = |reply| ShardQuestion::Tail(filter, watcher, reply);
        // One that stands still has nothing to show.
        if let Ok(false) = admin.ask_shard(shard, question).await {
            let text = "as many watch as may; end one of them";
            return Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, text));
        }
    }
    let events = stream::unfold(receiver, |mut receiver| async move {
        let event = receiver.recv().await?;
        Some((event, receiver))
    });
    reply::stream(&client, events)
}
