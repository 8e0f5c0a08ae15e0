//! What was published on a channel (13.6).

use super::pages::{Links, PageParams, parse_cursor};
use super::{Call, Outcome};
use crate::ably::{
    self, Answer, Direction, ErrorCode, ErrorInfo, HistoryQuery, Operation, Question,
};

/// One page of a channel's history.
pub(super) fn get(call: &mut Call<'_>) -> Result<Outcome, ErrorInfo> {
    let denied = "the capability does not permit history of this channel";
    let (principal, channel) = call.authorize(&[Operation::History], denied)?;
    let query = parse(call)?;
    let links = Links::of_page(call, query.direction, query.limit);
    Ok(call.ask_home(
        principal.app_id(),
        &channel,
        Question::History(query),
        move |reply, answer| {
            let Answer::History(page) = answer else { unreachable!("history was asked for") };
            let next = page.next.map(|next| next.to_string());
            let response = links.add_to(reply.begin(200), next.as_deref());
            let messages = page.items.iter().map(|item| (&*item.publication, item.index));
            reply.finish(response, &ably::encode_history(reply.format(), messages))
        },
    ))
}

/// The parameters of a history request.
pub(super) fn parse(call: &Call<'_>) -> Result<HistoryQuery, ErrorInfo> {
    let PageParams { start_ms, end_ms, direction, limit } =
        PageParams::parse(call, Direction::Backwards)?;
    // ably-js says `from_serial`, the specification `fromSerial` (RTL10b).
    let until =
        ["from_serial", "fromSerial"].iter().find_map(|name| call.request.query_param(name));
    let until = until.map(|text| text.parse()).transpose();
    let until = until
        .map_err(|_| ErrorInfo::new(ErrorCode::UNKNOWN_ATTACH_POINT, "unknown attach point"))?;
    let after = parse_cursor(call, |text| text.parse().ok())?;
    Ok(HistoryQuery { start_ms, end_ms, direction, limit, until, after })
}
