//! Lists that come in pages: the parameters that choose one, and the links that lead to the others
//! (13.3).

use super::Call;
use crate::ably::{Direction, ErrorCode, ErrorInfo};
use crate::http::{Response, percent_encode};

const LIMIT_DEFAULT: usize = 100;
const LIMIT_MAX: usize = 1000;

/// The parameter that says where a page goes on; clients send it back as it came.
const CURSOR: &str = "cursor";

/// Parameters that no link repeats: secrets, and what differs from page to page.
const NOT_REPEATED: [&str; 4] = ["key", "accessToken", "access_token", CURSOR];

/// The parameters that lists have in common.
#[derive(Clone, Copy, Debug)]
pub(super) struct PageParams {
    /// Not before this time, in milliseconds since the Unix epoch.
    pub start_ms: Option<u64>,
    /// Not after this time.
    pub end_ms: Option<u64>,
    pub direction: Direction,
    /// Items per page, 1 to 1,000.
    pub limit: usize,
}

/// The error for a parameter that cannot be, with the text that some suites look for.
pub(super) fn invalid_param(name: &str) -> ErrorInfo {
    ErrorInfo::new(ErrorCode::INVALID_PARAMETER, format!("Invalid {name} param"))
}

impl PageParams {
    /// Reads what `call` says; `direction` is the one it has otherwise.
    ///
    /// # Errors
    /// 40003.
    pub fn parse(call: &Call<'_>, direction: Direction) -> Result<PageParams, ErrorInfo> {
        let time = |name| match call.request.query_param(name) {
            None => Ok(None),
            Some(text) => text.parse().map(Some).map_err(|_| invalid_param(name)),
        };
        let (start_ms, end_ms) = (time("start")?, time("end")?);
        if start_ms.zip(end_ms).is_some_and(|(start, end)| start > end) {
            return Err(invalid_param("start"));
        }
        let direction = parse_direction(call, direction)?;
        Ok(PageParams { start_ms, end_ms, direction, limit: parse_limit(call)? })
    }
}

/// Items per page.
pub(super) fn parse_limit(call: &Call<'_>) -> Result<usize, ErrorInfo> {
    match call.request.query_param("limit").map(|text| text.parse()) {
        None => Ok(LIMIT_DEFAULT),
        Some(Ok(limit @ 1..=LIMIT_MAX)) => Ok(limit),
        Some(_) => Err(invalid_param("limit")),
    }
}

/// In which order the list is read.
pub(super) fn parse_direction(call: &Call<'_>, default: Direction) -> Result<Direction, ErrorInfo> {
    match call.request.query_param("direction").as_deref() {
        None => Ok(default),
        Some("backwards") => Ok(Direction::Backwards),
        Some("forwards") => Ok(Direction::Forwards),
        Some(_) => Err(invalid_param("direction")),
    }
}

/// Where the page begins, if it is not the first.
///
/// # Errors
/// 40003: `read` makes nothing of it.
pub(super) fn parse_cursor<T>(
    call: &Call<'_>,
    read: impl FnOnce(&str) -> Option<T>,
) -> Result<Option<T>, ErrorInfo> {
    let cursor = call.request.query_param(CURSOR);
    cursor.map(|text| read(&text).ok_or_else(|| invalid_param(CURSOR))).transpose()
}

/// The links of one page.
#[derive(Clone, Debug)]
pub(super) struct Links {
    /// Of the first page. SDKs want it relative, with the last segment of the path only.
    first: String,
    /// Of the page at hand, percent-encoded.
    cursor: Option<String>,
}

impl Links {
    /// The links for the list that `call` asks for; `resolved` are parameters with what they mean
    /// when they are absent.
    pub fn new(call: &Call<'_>, resolved: &[(&str, &str)]) -> Links {
        let segment = call.request.path().rsplit('/').next().unwrap_or_default();
        let repeated = call.request.query_params().filter(|(name, _)| {
            !NOT_REPEATED.contains(&&**name) && !resolved.iter().any(|(known, _)| known == name)
        });
        let repeated: Vec<_> = repeated.collect();
        let resolved = resolved.iter().copied();
        let params = resolved.chain(repeated.iter().map(|(name, value)| (&**name, &**value)));
        let params: Vec<String> = params
            .map(|(name, value)| format!("{}={}", percent_encode(name), percent_encode(value)))
            .collect();
        let cursor = call.request.query_param(CURSOR).map(|cursor| percent_encode(&cursor));
        Links { first: format!("./{segment}?{}", params.join("&")), cursor }
    }

    /// The links for a list with the common parameters.
    pub fn of_page(call: &Call<'_>, direction: Direction, limit: usize) -> Links {
        let direction = match direction {
            Direction::Backwards => "backwards",
            Direction::Forwards => "forwards",
        };
        Links::new(call, &[("direction", direction), ("limit", &limit.to_string())])
    }

    /// Adds the `Link` headers: first, current and, unless it is the last page, next, which begins at
    /// the cursor `next`.
    pub fn add_to(&self, response: Response, next: Option<&str>) -> Response {
        let link = |response: Response, cursor: Option<&str>, rel: &str| {
            let cursor = cursor.map(|cursor| format!("&{CURSOR}={cursor}")).unwrap_or_default();
            response.header("Link", &format!("<{}{cursor}>; rel=\"{rel}\"", self.first))
        };
        let response = link(response, None, "first");
        let response = link(response, self.cursor.as_deref(), "current");
        match next {
            Some(next) => link(response, Some(&percent_encode(next)), "next"),
            None => response,
        }
    }
}
