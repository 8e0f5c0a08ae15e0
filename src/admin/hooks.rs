//! Deliveries of rules: what waits, what was tried, what was given up; and what can be done about it.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::{Extension, Json};
use futures_lite::{StreamExt, stream};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Admin;
use super::doors::Client;
use super::reply::{self, Params, Refusal};
use crate::hooks::{Attempt, Followed, HookError, RuleSummary, Selection};

/// Entries of one answer.
const LIMIT_MAX: usize = 1000;
const LIMIT: usize = 100;

impl From<HookError> for Refusal {
    fn from(error: HookError) -> Refusal {
        let (status, text) = match error {
            HookError::NotFound(text) => (StatusCode::NOT_FOUND, text),
            HookError::Invalid(text) => (StatusCode::UNPROCESSABLE_ENTITY, text),
            HookError::Failed(text) => (StatusCode::INTERNAL_SERVER_ERROR, text),
            HookError::Ended => {
                (StatusCode::SERVICE_UNAVAILABLE, "deliveries have ended".to_owned())
            }
        };
        Refusal::new(status, text)
    }
}

/// Which entries are wanted.
#[derive(Deserialize)]
pub(super) struct Which {
    rule: Option<String>,
    limit: Option<usize>,
    #[serde(default)]
    after: u64,
}

impl Which {
    fn limit(&self) -> usize {
        self.limit.unwrap_or(LIMIT).clamp(1, LIMIT_MAX)
    }
}

pub(super) async fn rules(State(admin): State<Admin>) -> Result<Json<Vec<RuleSummary>>, Refusal> {
    Ok(Json(admin.0.hooks.summary().await?))
}

/// The newest attempts behind `after`, oldest first.
pub(super) async fn attempts(
    State(admin): State<Admin>,
    Params(which): Params<Which>,
) -> Result<Json<Vec<Attempt>>, Refusal> {
    let limit = which.limit();
    let attempts = admin.0.hooks.attempts(which.rule, which.after, limit).await?;
    Ok(Json(attempts.iter().map(|attempt| (**attempt).clone()).collect()))
}

/// Each attempt as it ends. Whoever is too slow is told how many were left out.
pub(super) async fn attempts_stream(
    State(admin): State<Admin>,
    Extension(client): Extension<Client>,
    Params(which): Params<Which>,
) -> Result<Response, Refusal> {
    let follower = admin.0.hooks.follow();
    let attempts =
        stream::unfold(
            follower,
            |mut follower| async move { Some((follower.next().await?, follower)) },
        );
    let rule = which.rule;
    let wanted = attempts.filter_map(move |followed| match followed {
        Followed::Attempt(attempt) => {
            let is_wanted = rule.as_ref().is_none_or(|rule| **rule == *attempt.rule);
            is_wanted.then(|| json!(*attempt))
        }
        Followed::Missed(count) => Some(json!({ "missed": count })),
    });
    reply::stream(&client, wanted)
}

/// Events that wait.
pub(super) async fn events(
    State(admin): State<Admin>,
    Params(which): Params<Which>,
) -> Result<Json<Vec<Value>>, Refusal> {
    let limit = which.limit();
    Ok(Json(admin.0.hooks.waiting(which.rule, which.after, limit).await?))
}

/// Events that were given up.
pub(super) async fn dead(
    State(admin): State<Admin>,
    Params(which): Params<Which>,
) -> Result<Json<Vec<Value>>, Refusal> {
    let limit = which.limit();
    Ok(Json(admin.0.hooks.dead(which.rule, which.after, limit).await?))
}

/// Which dead letters wait again; all without either.
#[derive(Deserialize)]
pub(super) struct Replay {
    id: Option<u64>,
    rule: Option<String>,
}

pub(super) async fn replay(
    State(admin): State<Admin>,
    Params(Replay { id, rule }): Params<Replay>,
) -> Result<Json<Value>, Refusal> {
    let count = admin.0.hooks.replay(Selection { id, rule }).await?;
    Ok(Json(json!({ "replayed": count })))
}

/// The channel that a trial is about.
#[derive(Deserialize)]
pub(super) struct Trial {
    channel: Option<String>,
}

pub(super) async fn test(
    State(admin): State<Admin>,
    Path(rule): Path<String>,
    Params(Trial { channel }): Params<Trial>,
) -> Result<Json<Attempt>, Refusal> {
    let channel = channel.unwrap_or_else(|| "ringcast-test".into());
    Ok(Json(admin.0.hooks.test(rule, channel).await?))
}
