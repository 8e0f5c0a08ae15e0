//! Answers: JSON, pages, streams of events, refusals. A refusal looks as those of Ably's Control API do.

use std::borrow::Cow;
use std::convert::Infallible;
use std::time::Duration;

use axum::Json;
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_lite::{Stream, StreamExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::doors::Client;

/// Silence on a stream of events, at most: a peer that has gone is noticed by then.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// What pages may load: what this server has, and nothing else.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      img-src 'self' data:; form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

/// Why a request is not answered as it wishes.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    code: u32,
    message: Cow<'static, str>,
    details: Option<Value>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RefusalBody<'a> {
    message: &'a str,
    code: u32,
    status_code: u16,
    href: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<&'a Value>,
}

impl Refusal {
    /// With the general code of `status`.
    pub(super) fn new(status: StatusCode, message: impl Into<Cow<'static, str>>) -> Refusal {
        let code = u32::from(status.as_u16()) * 100;
        Refusal { status, code, message: message.into(), details: None }
    }

    /// With another code of Ably's.
    pub(super) fn with_code(self, code: u32) -> Refusal {
        Refusal { code, ..self }
    }

    /// With more to say, field by field.
    pub(super) fn with_details(self, details: Option<Value>) -> Refusal {
        Refusal { details, ..self }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = RefusalBody {
            message: &self.message,
            code: self.code,
            status_code: self.status.as_u16(),
            href: format!("https://help.ably.io/error/{}", self.code),
            details: self.details.as_ref(),
        };
        let mut response = (self.status, Json(body)).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            let scheme = HeaderValue::from_static("Bearer realm=\"ringcast admin\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
        }
        response
    }
}

/// A request's body as JSON.
pub(super) struct Body<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Body<T>, Refusal> {
        match Json::from_request(request, state).await {
            Ok(Json(body)) => Ok(Body(body)),
            Err(error) => Err(Refusal::new(error.status(), error.body_text())),
        }
    }
}

/// A request's query.
pub(super) struct Params<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Params<T>, Refusal> {
        match Query::from_request_parts(parts, state).await {
            Ok(Query(params)) => Ok(Params(params)),
            Err(error) => Err(Refusal::new(error.status(), error.body_text())),
        }
    }
}

/// A file that the daemon has in itself.
pub(super) fn page(kind: &'static str, text: impl Into<Cow<'static, str>>) -> Response {
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        // Not `no-referrer`: forms would come from the origin `null` then.
        (header::REFERRER_POLICY, "same-origin"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, text.into()).into_response()
}

/// Server-sent events, each an object, for as long as the client stays. Takes one of its door's places
/// for streams.
pub(super) fn stream<T: Serialize>(
    client: &Client,
    events: impl Stream<Item = T> + Send + 'static,
) -> Result<Response, Refusal> {
    let Ok(place) = client.streams.clone().try_acquire_owned() else {
        let text = "too many streams are open; end one of them";
        return Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, text));
    };
    let events = events.map(move |event| {
        let _held = &place;
        // Our own values are maps with string keys; those can be written.
        Ok::<_, Infallible>(Event::default().json_data(event).expect("can be written"))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response())
}
