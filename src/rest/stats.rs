//! Statistics of an app (16.1).

use super::pages::{Links, invalid_param, parse_cursor, parse_direction, parse_limit};
use super::{Call, Outcome};
use crate::ably::{
    self, Answer, Direction, ErrorCode, ErrorInfo, IntervalTally, Operation, StatsQuery,
    StatsShape, StatsUnit, Survey,
};

/// Before this protocol version entries were objects in objects.
const FLAT_SINCE_VERSION: u32 = 3;

/// What was counted, interval by interval; the shards' parts are put together.
pub(super) fn get(call: &mut Call<'_>) -> Result<Outcome, ErrorInfo> {
    let principal = call.authenticate()?;
    if !principal.capability().allows("*", Operation::Stats) {
        let denied = "the capability does not permit stats";
        return Err(ErrorInfo::new(ErrorCode::CAPABILITY_DENIED, denied));
    }
    let query = parse(call)?;
    let direction = match query.direction {
        Direction::Backwards => "backwards",
        Direction::Forwards => "forwards",
    };
    let (unit, limit) = (query.unit.name(), query.limit.to_string());
    let links = Links::new(call, &[("unit", unit), ("direction", direction), ("limit", &limit)]);
    let shape = match call.version() {
        FLAT_SINCE_VERSION.. => StatsShape::Flat,
        _ => StatsShape::Nested,
    };
    let now_ms = call.context.now.unix_ms;
    let app_id = principal.app_id().to_owned();
    // What a test has added counts like a shard's part.
    let fixtures = call.context.directory.stats(&app_id).iter();
    let fixtures: Vec<IntervalTally> =
        fixtures.filter_map(|fixture| ably::read_stats_fixture(&fixture.json)).collect();
    let fixtures = ably::select_stats(&query, &fixtures);
    let survey = Survey::Stats(query.clone());
    Ok(call.ask_shards(principal.app_id(), survey, move |reply, answers| {
        let parts = answers.into_iter().map(|answer| match answer {
            Answer::Stats(part) => part,
            other => unreachable!("stats were asked for, not {other:?}"),
        });
        let (page, next) = ably::merge_stats(&query, parts.chain([fixtures]));
        let next = next.map(|start_ms| start_ms.to_string());
        let response = links.add_to(reply.begin(200), next.as_deref());
        let (format, unit) = (reply.format(), query.unit);
        reply.finish(response, &ably::encode_stats(format, shape, &app_id, unit, &page, now_ms))
    }))
}

fn parse(call: &Call<'_>) -> Result<StatsQuery, ErrorInfo> {
    let unit = ["unit", "by"].iter().find_map(|name| call.request.query_param(name));
    let unit = match unit {
        None => StatsUnit::Minute,
        Some(name) => StatsUnit::parse(&name).ok_or_else(|| invalid_param("unit"))?,
    };
    let number = |name| call.request.query_param(name)?.parse::<u64>().ok();
    if number("start").zip(number("end")).is_some_and(|(start, end)| start > end) {
        return Err(invalid_param("start"));
    }
    // Of a bound in the middle of an interval, the whole interval counts.
    let bound = |name: &str, absent| match call.request.query_param(name) {
        None => Ok(absent),
        Some(text) => {
            let ms = text.parse().ok().or_else(|| ably::parse_interval(&text));
            ms.map(|ms| unit.floor(ms)).ok_or_else(|| invalid_param(name))
        }
    };
    let (mut start_ms, mut end_ms) = (bound("start", 0)?, bound("end", u64::MAX)?);
    if start_ms > end_ms {
        return Err(invalid_param("start"));
    }
    let direction = parse_direction(call, Direction::Backwards)?;
    // A page goes on at the interval that its link names.
    if let Some(from_ms) = parse_cursor(call, |text| text.parse().ok())? {
        match direction {
            Direction::Forwards => start_ms = start_ms.max(from_ms),
            Direction::Backwards => end_ms = end_ms.min(from_ms),
        }
    }
    Ok(StatsQuery { unit, start_ms, end_ms, direction, limit: parse_limit(call)? })
}
