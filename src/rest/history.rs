//! Parameters of a history request, and the links that lead from page to page (13.3, 13.6).

use crate::ably::{Direction, ErrorCode, ErrorInfo, HistoryQuery, Position};
use crate::http::{Request, percent_encode};

const LIMIT_DEFAULT: usize = 100;
const LIMIT_MAX: usize = 1000;

/// The parameter that carries a [`Position`]; clients send it back as it came.
const CURSOR: &str = "cursor";

/// Reads the parameters of `request`.
pub(super) fn parse(request: &Request) -> Result<HistoryQuery, ErrorInfo> {
    let invalid = |name| ErrorInfo::new(ErrorCode::INVALID_PARAMETER, invalid_param(name));
    let time = |name| match request.query_param(name) {
        None => Ok(None),
        Some(text) => text.parse().map(Some).map_err(|_| invalid(name)),
    };
    let (start_ms, end_ms) = (time("start")?, time("end")?);
    if start_ms.zip(end_ms).is_some_and(|(start, end)| start > end) {
        return Err(invalid("start"));
    }
    let direction = match request.query_param("direction").as_deref() {
        None | Some("backwards") => Direction::Backwards,
        Some("forwards") => Direction::Forwards,
        Some(_) => return Err(invalid("direction")),
    };
    let limit = match request.query_param("limit") {
        None => LIMIT_DEFAULT,
        Some(text) => match text.parse() {
            Ok(limit @ 1..=LIMIT_MAX) => limit,
            _ => return Err(invalid("limit")),
        },
    };
    // ably-js says `from_serial`, the specification `fromSerial` (RTL10b).
    let until =
        match request.query_param("from_serial").or_else(|| request.query_param("fromSerial")) {
            None => None,
            Some(text) => Some(text.parse().map_err(|_| {
                ErrorInfo::new(ErrorCode::UNKNOWN_ATTACH_POINT, "unknown attach point")
            })?),
        };
    let after = match request.query_param(CURSOR) {
        None => None,
        Some(text) => Some(parse_cursor(&text).ok_or_else(|| invalid(CURSOR))?),
    };
    Ok(HistoryQuery { start_ms, end_ms, direction, limit, until, after })
}

/// The text that the cloud uses too, and some suites look for.
fn invalid_param(name: &str) -> String {
    format!("Invalid {name} param")
}

fn parse_cursor(text: &str) -> Option<Position> {
    let (serial, index) = text.rsplit_once(':')?;
    Some(Position { serial: serial.parse().ok()?, index: index.parse().ok()? })
}

/// The values of the `Link` headers of a page: first, current and, unless it is the last, next.
/// `segment` is the last one of the request's path: SDKs want relative URLs.
pub(super) fn links(
    segment: &str,
    query: &HistoryQuery,
    next: Option<&Position>,
) -> impl Iterator<Item = String> {
    let direction = match query.direction {
        Direction::Backwards => "backwards",
        Direction::Forwards => "forwards",
    };
    let mut first = format!("./{segment}?direction={direction}&limit={}", query.limit);
    let mut append = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            first += &format!("&{name}={}", percent_encode(&value));
        }
    };
    append("start", query.start_ms.map(|ms| ms.to_string()));
    append("end", query.end_ms.map(|ms| ms.to_string()));
    append("from_serial", query.until.as_ref().map(ToString::to_string));
    let at = |position: &Position| {
        let cursor = percent_encode(&format!("{}:{}", position.serial, position.index));
        format!("{first}&{CURSOR}={cursor}")
    };
    let link = |url: &str, rel: &str| format!("<{url}>; rel=\"{rel}\"");
    let current = query.after.as_ref().map_or_else(|| first.clone(), at);
    [
        Some(link(&first, "first")),
        Some(link(&current, "current")),
        next.map(|next| link(&at(next), "next")),
    ]
    .into_iter()
    .flatten()
}
