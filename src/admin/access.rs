//! Who may do what. A process on this host that could open the control socket is an operator; over TCP an
//! operator shows the token, or the session that a browser got for it. Everybody else reads numbers, and
//! that on a loopback address only.
//!
//! A browser on this host carries requests of any site it visits to a loopback address. So requests of other
//! sites' pages are refused, and names that a site could have made point here are not answered.

use std::collections::VecDeque;
use std::fmt;
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use axum::Form;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Redirect, Response};
use axum::{Extension, http};
use data_encoding::HEXLOWER;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::Admin;
use super::doors::{Client, Door};
use super::reply::{self, Params, Refusal};

/// Characters of a token: fewer could be found by trying.
pub const TOKEN_BYTES_MIN: usize = 16;

/// How long a browser's session lasts.
const SESSION_TIME_MAX: Duration = Duration::from_secs(12 * 60 * 60);

/// Sessions; one more ends the oldest.
const SESSIONS_MAX: usize = 64;

/// The cookie that names a session.
const COOKIE: &str = "ringcast_admin";

/// Paths that a stranger needs to become an operator.
const FOR_STRANGERS: [&str; 3] = ["/login", "/session", "/page/style.css"];

/// What an operator shows.
#[derive(Clone)]
pub struct Token(Box<str>);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

impl Token {
    /// Takes the text of a token file.
    ///
    /// # Errors
    /// It is too short, or not one line of printable ASCII without spaces.
    pub fn parse(text: &str) -> Result<Token, String> {
        let token = text.trim();
        if token.len() < TOKEN_BYTES_MIN {
            return Err(format!("a token has {TOKEN_BYTES_MIN} characters or more"));
        }
        if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("a token is one line of printable ASCII without spaces".into());
        }
        Ok(Token(token.into()))
    }

    /// Takes the same time for every guess.
    fn is(&self, guess: &str) -> bool {
        digest(&self.0).ct_eq(&digest(guess)).into()
    }
}

fn digest(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

/// Browsers that have shown the token: digests of what they were given for it, and until when.
#[derive(Default)]
pub(super) struct Sessions(Mutex<VecDeque<([u8; 32], Instant)>>);

impl Sessions {
    fn open(&self, now: Instant) -> String {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).expect("the kernel has random bytes after boot");
        let id = HEXLOWER.encode(&bytes);
        let mut sessions = self.0.lock().expect("nobody panics with it");
        if sessions.len() >= SESSIONS_MAX {
            sessions.pop_front();
        }
        sessions.push_back((digest(&id), now + SESSION_TIME_MAX));
        id
    }

    fn has(&self, id: &str, now: Instant) -> bool {
        let mut sessions = self.0.lock().expect("nobody panics with it");
        sessions.retain(|(_, until)| *until > now);
        let id = digest(id);
        sessions.iter().any(|(known, _)| known.ct_eq(&id).into())
    }

    fn close(&self, id: &str) {
        let id = digest(id);
        self.0.lock().expect("nobody panics with it").retain(|(known, _)| *known != id);
    }
}

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Caller {
    Operator,
    /// Somebody on this host, as far as is known.
    Guest,
}

/// Finds out who asks, for all routes.
pub(super) async fn judge(
    State(admin): State<Admin>,
    Extension(client): Extension<Client>,
    mut request: Request,
    next: Next,
) -> Response {
    let caller = match caller(&admin, client.door, &request) {
        Ok(caller) => caller,
        Err(refusal) => return refusal.into_response(),
    };
    let is_open = client.door != Door::Remote || FOR_STRANGERS.contains(&request.uri().path());
    if caller == Caller::Guest && !is_open {
        return ask_for_token(&request);
    }
    request.extensions_mut().insert(caller);
    request.extensions_mut().insert(HasToken(admin.0.token.is_some()));
    next.run(request).await
}

fn caller(admin: &Admin, door: Door, request: &Request) -> Result<Caller, Refusal> {
    let forbidden = |text| Err(Refusal::new(StatusCode::FORBIDDEN, text));
    match door {
        Door::Control { is_ours: true } => return Ok(Caller::Operator),
        Door::Control { is_ours: false } => {
            return forbidden("the control socket is for root and for the daemon's own user");
        }
        Door::Local | Door::Remote => {}
    }
    let headers = request.headers();
    let is_navigation =
        request.method() == Method::GET && has(headers, "sec-fetch-mode", "navigate");
    if !is_navigation && is_of_other_site(headers) {
        return forbidden("pages of other sites have no business here");
    }
    if let Some(credentials) = text(headers, header::AUTHORIZATION) {
        let token = credentials.strip_prefix("Bearer ").map(str::trim);
        return match (&admin.0.token, token) {
            (Some(token), Some(guess)) if token.is(guess) => Ok(Caller::Operator),
            _ => Err(Refusal::new(StatusCode::UNAUTHORIZED, "this is not the token")),
        };
    }
    if session(headers).is_some_and(|id| admin.0.sessions.has(id, Instant::now())) {
        return Ok(Caller::Operator);
    }
    // Whoever comes from elsewhere has to show something that no other site has.
    if door == Door::Local && !is_name_of_this_host(headers) {
        return forbidden("without the token use the name localhost, or an address");
    }
    Ok(Caller::Guest)
}

/// Whether there is a token that could be shown.
#[derive(Clone, Copy)]
struct HasToken(bool);

/// Lets operators through, for the routes that are theirs.
pub(super) async fn require_operator(request: Request, next: Next) -> Response {
    match request.extensions().get() {
        Some(Caller::Operator) => next.run(request).await,
        Some(Caller::Guest) | None => ask_for_token(&request),
    }
}

/// A browser is sent where it can show the token, others are told.
fn ask_for_token(request: &Request) -> Response {
    let has_token = request.extensions().get().is_none_or(|HasToken(has_token)| *has_token);
    if !has_token {
        let text = "there is no `admin.token_file`, so this takes the control socket";
        return Refusal::new(StatusCode::FORBIDDEN, text).into_response();
    }
    let wants_page =
        text(request.headers(), header::ACCEPT).is_some_and(|a| a.contains("text/html"));
    if wants_page && request.method() == Method::GET {
        let to = request.uri().path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        return Redirect::to(&format!("/login?to={}", escape(to))).into_response();
    }
    Refusal::new(StatusCode::UNAUTHORIZED, "this takes the token").into_response()
}

/// For a value in a query.
fn escape(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_.".contains(&byte);
    let escaped = text.bytes().map(|byte| match plain(byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    });
    escaped.collect()
}

/// What a login is asked to do.
#[derive(Deserialize)]
pub(super) struct Intent {
    /// Where the browser wanted to go.
    #[serde(default)]
    to: String,
    /// There when the token was another one.
    wrong: Option<String>,
}

/// Where a browser shows the token.
pub(super) async fn login(Params(intent): Params<Intent>) -> Response {
    let note = if intent.wrong.is_some() { "This is not the token." } else { "" };
    let html = include_str!("page/login.html");
    let html = html.replace("{to}", own_path(&intent.to)).replace("{note}", note);
    reply::page("text/html; charset=utf-8", html)
}

#[derive(Deserialize)]
pub(super) struct Login {
    token: String,
}

/// Trades the token for a session.
pub(super) async fn open_session(
    State(admin): State<Admin>,
    Params(intent): Params<Intent>,
    Form(login): Form<Login>,
) -> Response {
    let Some(token) = &admin.0.token else {
        let text = "there is no `admin.token_file`";
        return Refusal::new(StatusCode::FORBIDDEN, text).into_response();
    };
    if !token.is(login.token.trim()) {
        let to = own_path(&intent.to);
        return Redirect::to(&format!("/login?wrong=1&to={to}")).into_response();
    }
    let id = admin.0.sessions.open(Instant::now());
    let seconds = SESSION_TIME_MAX.as_secs();
    let cookie = format!("{COOKIE}={id}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict");
    ([(header::SET_COOKIE, cookie)], Redirect::to(own_path(&intent.to))).into_response()
}

/// A path of this server; anything else is its root.
fn own_path(to: &str) -> &str {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_.".contains(&byte);
    let is_own = to.starts_with('/') && !to.starts_with("//") && to.bytes().all(is_plain);
    if is_own { to } else { "/" }
}

/// Ends the session of whoever asks.
pub(super) async fn close_session(State(admin): State<Admin>, headers: HeaderMap) -> Response {
    if let Some(id) = session(&headers) {
        admin.0.sessions.close(id);
    }
    let cookie = format!("{COOKIE}=; Path=/; Max-Age=0; HttpOnly; SameSite=Strict");
    (StatusCode::NO_CONTENT, [(header::SET_COOKIE, cookie)]).into_response()
}

fn text(headers: &HeaderMap, name: impl header::AsHeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

fn has(headers: &HeaderMap, name: &str, value: &str) -> bool {
    text(headers, name) == Some(value)
}

fn session(headers: &HeaderMap) -> Option<&str> {
    let cookies = text(headers, header::COOKIE)?.split(';');
    let pairs = cookies.filter_map(|cookie| cookie.trim().split_once('='));
    pairs.filter(|(name, _)| *name == COOKIE).map(|(_, id)| id).next()
}

/// What a browser says about the page behind a request; others say nothing.
fn is_of_other_site(headers: &HeaderMap) -> bool {
    let fetch = text(headers, "sec-fetch-site");
    if fetch.is_some_and(|site| site != "same-origin" && site != "none") {
        return true;
    }
    let Some(origin) = headers.get(header::ORIGIN) else { return false };
    let host = text(headers, header::HOST);
    let of = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
    of.map(|(_, authority)| authority) != host
}

/// Whether `Host` is an address or `localhost`: names could point here by another site's doing.
fn is_name_of_this_host(headers: &HeaderMap) -> bool {
    let Some(host) = text(headers, header::HOST) else { return false };
    let Ok(authority) = host.parse::<http::uri::Authority>() else { return false };
    let name = authority.host();
    let address = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(of: &[(&'static str, &str)]) -> HeaderMap {
        let header = |(name, value): &(&'static str, &str)| {
            (http::HeaderName::from_static(name), value.parse().expect("a value"))
        };
        of.iter().map(header).collect()
    }

    #[test]
    fn tokens_are_long_and_plain_and_not_shown() {
        let token = Token::parse("0123456789abcdef\n").expect("long enough");
        assert!(token.is("0123456789abcdef"));
        for guess in ["0123456789abcdeg", "0123456789abcde", "", "0123456789abcdef\n"] {
            assert!(!token.is(guess), "{guess:?}");
        }
        assert!(!format!("{token:?}").contains("0123"));
        for text in ["", "short", "0123456789 abcdef", "0123456789\nabcdef", "0123456789abcdé"] {
            assert!(Token::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn sessions_end_with_time_with_their_owner_and_with_too_many() {
        let sessions = Sessions::default();
        let now = Instant::now();
        let first = sessions.open(now);
        assert!(sessions.has(&first, now) && !sessions.has("other", now));
        assert!(!sessions.has(&first, now + SESSION_TIME_MAX));
        let second = sessions.open(now);
        sessions.close(&second);
        assert!(!sessions.has(&second, now));
        let third = sessions.open(now);
        (0..SESSIONS_MAX).for_each(|_| drop(sessions.open(now)));
        assert!(!sessions.has(&third, now));
    }

    #[test]
    fn pages_of_other_sites_are_told_from_our_own() {
        for (of, is_other) in [
            (vec![("host", "localhost:9100")], false),
            (vec![("host", "localhost:9100"), ("origin", "http://localhost:9100")], false),
            (vec![("host", "a.b"), ("origin", "https://a.b")], false),
            (vec![("host", "localhost:9100"), ("origin", "http://localhost:3000")], true),
            (vec![("host", "localhost:9100"), ("origin", "null")], true),
            (vec![("host", "localhost:9100"), ("sec-fetch-site", "cross-site")], true),
            (vec![("host", "localhost:9100"), ("sec-fetch-site", "same-site")], true),
            (vec![("host", "localhost:9100"), ("sec-fetch-site", "none")], false),
        ] {
            assert_eq!(is_of_other_site(&headers(&of)), is_other, "{of:?}");
        }
    }

    #[test]
    fn names_that_could_be_made_to_point_here_are_not_ours() {
        for (host, is_ours) in [
            ("localhost", true),
            ("LocalHost:9100", true),
            ("127.0.0.1:9100", true),
            ("[::1]:9100", true),
            ("evil.example:9100", false),
            ("localhost.evil.example", false),
            ("127.0.0.1.evil.example", false),
            ("", false),
        ] {
            assert_eq!(is_name_of_this_host(&headers(&[("host", host)])), is_ours, "{host}");
        }
        assert!(!is_name_of_this_host(&HeaderMap::new()));
    }

    #[test]
    fn a_login_leads_to_pages_of_our_own_only() {
        for (to, path) in [
            ("/hooks", "/hooks"),
            ("//evil.example", "/"),
            ("https://evil.example", "/"),
            ("/\\evil.example", "/"),
            ("", "/"),
        ] {
            assert_eq!(own_path(to), path);
        }
        assert_eq!(escape("/a b?c=d"), "/a%20b%3Fc%3Dd");
    }
}
