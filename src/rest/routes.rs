//! The table of endpoints, and the way of a request to its own.

use std::borrow::Cow;

use super::reply::Reply;
use super::{
    Account, Call, Context, Outcome, apps, batch, channels, events, history, messages, presence,
    publish, service, stats, tokens, unserved,
};
use crate::ably::{ErrorCode, ErrorInfo};
use crate::base::Entropy;
use crate::http::Request;

type Endpoint = fn(&mut Call<'_>) -> Result<Outcome, ErrorInfo>;

/// Method, path and answerer (13.4). `{name}` stands for one segment, `*` for any that follow, and as a
/// method for each. GET includes HEAD; OPTIONS is answered for every path.
const ENDPOINTS: &[(&str, &str, Endpoint)] = &[
    ("POST", "/channels/{channel}/messages", publish::post),
    ("GET", "/channels/{channel}/messages", history::get),
    // ably-go asks for /history.
    ("GET", "/channels/{channel}/history", history::get),
    ("GET", "/channels/{channel}/messages/{serial}", messages::get),
    ("PATCH", "/channels/{channel}/messages/{serial}", messages::patch),
    ("GET", "/channels/{channel}/messages/{serial}/versions", messages::versions),
    ("GET", "/channels/{channel}/messages/{serial}/annotations", messages::annotations),
    ("POST", "/channels/{channel}/messages/{serial}/annotations", messages::annotate),
    ("GET", "/channels/{channel}/messages/{serial}/client-summary", messages::client_summary),
    ("GET", "/channels/{channel}/presence", presence::get),
    ("GET", "/channels/{channel}/presence/history", presence::history),
    ("GET", "/channels", channels::list),
    ("GET", "/channels/{channel}", channels::status),
    ("POST", "/messages", batch::publish),
    ("GET", "/presence", batch::presence),
    ("POST", "/keys/{key}/requestToken", tokens::request),
    ("*", "/keys/{key}/requestToken", unserved::other_method),
    ("POST", "/keys/{key}/revokeTokens", tokens::revoke),
    ("GET", "/stats", stats::get),
    ("GET", "/sse", events::server_sent),
    ("GET", "/event-stream", events::stream),
    ("POST", "/apps", apps::post),
    ("DELETE", "/apps/{app}", apps::delete),
    ("POST", "/stats", apps::post_stats),
    ("GET", "/time", service::time),
    ("GET", "/livez", service::live),
    ("GET", "/readyz", service::ready),
    ("*", "/push/*", unserved::push),
    ("*", "/channels/{channel}/objects", unserved::objects),
    ("*", "/channels/{channel}/objects/*", unserved::objects),
    ("*", "/comet/*", unserved::comet),
];

/// Answers `request`, or says what has to be done for it; and for whom it is counted.
pub(super) fn handle(
    context: &Context<'_>,
    entropy: &mut Entropy,
    request: &Request,
) -> (Option<Account>, Outcome) {
    let reply = Reply::new(request);
    // A preflight comes without credentials, whatever it asks for.
    if request.method() == "OPTIONS" {
        return (None, Outcome::Reply(reply.preflight()));
    }
    let Some(segments) = request.path_segments() else {
        let error = ErrorInfo::new(ErrorCode::BAD_REQUEST, "malformed path");
        return (None, Outcome::Reply(reply.error(&error)));
    };
    let mut account = None;
    let outcome = find(request.method(), &segments).and_then(|(pattern, endpoint)| {
        let reply = reply.clone();
        let mut call =
            Call { context, entropy, request, reply, pattern, segments: &segments, app_id: None };
        let outcome = endpoint(&mut call);
        let is_token_request = pattern.ends_with("/requestToken");
        account = call.app_id.map(|app_id| Account { app_id, is_token_request });
        outcome
    });
    (account, outcome.unwrap_or_else(|error| Outcome::Reply(reply.error(&error))))
}

/// The endpoint of `method` and path.
fn find(method: &str, segments: &[Cow<'_, str>]) -> Result<(&'static str, Endpoint), ErrorInfo> {
    let method = if method == "HEAD" { "GET" } else { method };
    let mut of_path = ENDPOINTS.iter().filter(|(_, path, _)| matches(path, segments)).peekable();
    if of_path.peek().is_none() {
        return Err(ErrorInfo::new(ErrorCode::NOT_FOUND, "no such resource"));
    }
    let found = of_path.find(|(of, _, _)| [method, "*"].contains(of));
    let (_, path, endpoint) =
        found.ok_or_else(|| ErrorInfo::new(ErrorCode::METHOD_NOT_ALLOWED, "method not allowed"))?;
    Ok((path, *endpoint))
}

fn matches(pattern: &str, segments: &[Cow<'_, str>]) -> bool {
    let mut parts = pattern.split('/').skip(1);
    let mut segments = segments.iter();
    loop {
        match (parts.next(), segments.next()) {
            (None, None) | (Some("*"), _) => return true,
            (Some(part), Some(segment)) if part.starts_with('{') || part == segment => {}
            _ => return false,
        }
    }
}
