//! The table: one line for each route. What shows messages or changes something stands among those for
//! operators. A handler takes [`Params`](reply::Params) and [`Body`](reply::Body), asks with
//! [`question::ask`] whoever knows, be it the monitor or another thread, and answers or returns a
//! [`Refusal`]. A family of routes has a file of its own.

use std::time::Duration;

use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use futures_lite::stream;

use super::Admin;
use super::doors::Client;
use super::hooks;
use super::question::{self, CHANGE_PATIENCE, Question};
use super::reply::{self, Refusal};
use super::status::{ReloadOutcome, Status};
use super::{access, inspect, rules};

/// Bytes of a request's body.
const BODY_BYTES_MAX: usize = 1 << 20;

/// Time from a request to the head of its answer.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(30);

/// The content type of the text format.
const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

const HTML: &str = "text/html; charset=utf-8";

const CSS: &str = "text/css; charset=utf-8";

const JAVASCRIPT: &str = "text/javascript; charset=utf-8";

pub(super) fn router(admin: Admin) -> Router {
    // Numbers. On a loopback address whoever is on this host may read them.
    let open = Router::new()
        .route("/metrics", get(metrics))
        .route("/status", get(status))
        .route("/status/stream", get(status_stream))
        .route("/login", get(access::login))
        .route("/session", post(access::open_session).delete(access::close_session))
        .route("/", get(|| file(HTML, include_str!("page/status.html"))))
        .route("/page/status.js", get(|| file(JAVASCRIPT, include_str!("page/status.js"))))
        .route("/page/style.css", get(|| file(CSS, include_str!("page/style.css"))));
    let for_operators = Router::new()
        .route("/reload", post(reload))
        .route("/hooks", get(|| file(HTML, include_str!("page/hooks.html"))))
        .route("/page/hooks.js", get(|| file(JAVASCRIPT, include_str!("page/hooks.js"))))
        .route("/hooks/rules", get(hooks::rules))
        .route("/hooks/attempts", get(hooks::attempts))
        .route("/hooks/attempts/stream", get(hooks::attempts_stream))
        .route("/hooks/events", get(hooks::events))
        .route("/hooks/dead", get(hooks::dead))
        .route("/hooks/replay", post(hooks::replay))
        .route("/hooks/test/{rule_id}", post(hooks::test))
        .route("/apps/{app_id}/rules", get(rules::list).post(rules::create))
        .route(
            "/apps/{app_id}/rules/{rule_id}",
            get(rules::get).patch(rules::patch).delete(rules::delete),
        )
        .route("/connections", get(inspect::connections))
        .route("/channels", get(inspect::channels))
        .route("/tail", get(inspect::tail))
        .route_layer(from_fn(access::require_operator));
    open.merge(for_operators)
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(from_fn_with_state(admin.clone(), access::judge))
        .layer(from_fn(bound_time))
        .with_state(admin)
}

async fn file(kind: &'static str, text: &'static str) -> Response {
    reply::page(kind, text)
}

async fn metrics(State(admin): State<Admin>) -> Result<Response, Refusal> {
    let mut text = admin.ask(Question::Metrics).await?;
    text += &crate::hooks::render_metrics(&admin.0.hooks.summary().await?);
    Ok(([(header::CONTENT_TYPE, TEXT_FORMAT)], text).into_response())
}

async fn status(State(admin): State<Admin>) -> Result<Json<Status>, Refusal> {
    Ok(Json(admin.ask(Question::Status).await?))
}

/// The status once a second; ends when the daemon does not answer any more.
async fn status_stream(
    State(admin): State<Admin>,
    Extension(client): Extension<Client>,
) -> Result<Response, Refusal> {
    let seconds = tokio::time::interval(Duration::from_secs(1));
    let statuses = stream::unfold((admin, seconds), |(admin, mut seconds)| async move {
        seconds.tick().await;
        let status = admin.ask(Question::Status).await.ok()?;
        Some((status, (admin, seconds)))
    });
    reply::stream(&client, statuses)
}

async fn reload(State(admin): State<Admin>) -> Result<(StatusCode, Json<ReloadOutcome>), Refusal> {
    let put = |reply| (admin.0.ask)(Question::Reload(reply));
    let outcome = question::ask(CHANGE_PATIENCE, put).await?;
    let status = match outcome.error {
        None => StatusCode::OK,
        Some(_) => StatusCode::UNPROCESSABLE_ENTITY,
    };
    Ok((status, Json(outcome)))
}

async fn not_found() -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, "no such resource")
}

async fn method_not_allowed() -> Refusal {
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "the resource does not have this method")
}

/// A route that hangs, or a body that never comes, holds its client's place for so long only.
async fn bound_time(request: Request, next: Next) -> Response {
    match tokio::time::timeout(REQUEST_TIME_MAX, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Refusal::new(StatusCode::GATEWAY_TIMEOUT, "it takes too long").into_response(),
    }
}
