//! Rules while the daemon runs, in the form of Ably's Control API.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::Value;

use super::Admin;
use super::question::{self, CHANGE_PATIENCE, Question};
use super::reply::{Body, Refusal};
use crate::hooks::{RuleError, RuleRequest};

impl From<RuleError> for Refusal {
    fn from(error: RuleError) -> Refusal {
        let RuleError { status, code, message, details } = error;
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let details = details.map(|faults| serde_json::json!(faults));
        Refusal::new(status, message).with_code(code).with_details(details)
    }
}

async fn ask(admin: &Admin, app_id: String, request: RuleRequest) -> Result<Value, Refusal> {
    let put = |reply| (admin.0.ask)(Question::Rules(app_id, request, reply));
    let answer = question::ask(CHANGE_PATIENCE, put).await?;
    Ok(answer?.unwrap_or_default())
}

pub(super) async fn list(
    State(admin): State<Admin>,
    Path(app_id): Path<String>,
) -> Result<Json<Value>, Refusal> {
    Ok(Json(ask(&admin, app_id, RuleRequest::List).await?))
}

pub(super) async fn create(
    State(admin): State<Admin>,
    Path(app_id): Path<String>,
    Body(spec): Body<Value>,
) -> Result<Response, Refusal> {
    let rule = ask(&admin, app_id, RuleRequest::Create(spec)).await?;
    Ok((StatusCode::CREATED, Json(rule)).into_response())
}

pub(super) async fn get(
    State(admin): State<Admin>,
    Path((app_id, id)): Path<(String, String)>,
) -> Result<Json<Value>, Refusal> {
    Ok(Json(ask(&admin, app_id, RuleRequest::Get(id)).await?))
}

pub(super) async fn patch(
    State(admin): State<Admin>,
    Path((app_id, id)): Path<(String, String)>,
    Body(change): Body<Value>,
) -> Result<Json<Value>, Refusal> {
    Ok(Json(ask(&admin, app_id, RuleRequest::Patch(id, change)).await?))
}

pub(super) async fn delete(
    State(admin): State<Admin>,
    Path((app_id, id)): Path<(String, String)>,
) -> Result<StatusCode, Refusal> {
    ask(&admin, app_id, RuleRequest::Delete(id)).await?;
    Ok(StatusCode::NO_CONTENT)
}
