//! Who is present on a channel, and who was (13.6).

use super::history::parse as parse_history;
use super::pages::{Links, parse_cursor, parse_limit};
use super::{Call, Outcome};
use crate::ably::{self, Answer, ErrorInfo, MembersQuery, Operation, PresenceMessage, Question};

/// One page of a channel's members.
pub(super) fn get(call: &mut Call<'_>) -> Result<Outcome, ErrorInfo> {
    let denied = "the capability does not permit to see who is present on this channel";
    let (principal, channel) =
        call.authorize(&[Operation::Subscribe, Operation::Presence], denied)?;
    let limit = parse_limit(call)?;
    let param = |name| call.request.query_param(name).map(Box::<str>::from);
    let query = MembersQuery {
        client_id: param("clientId"),
        connection_id: param("connectionId"),
        limit,
        after: parse_cursor(call, read_cursor)?,
    };
    let links = Links::new(call, &[("limit", &limit.to_string())]);
    let question = Question::Members(query);
    Ok(call.ask_home(principal.app_id(), &channel, question, move |reply, answer| {
        let Answer::Members(page) = answer else { unreachable!("members were asked for") };
        let last = page.members.last().filter(|_| page.has_more);
        let next = last.map(|last| write_cursor(last));
        let response = links.add_to(reply.begin(200), next.as_deref());
        let members = page.members.iter().map(|member| &**member);
        reply.finish(response, &ably::encode_members(reply.format(), members))
    }))
}

/// The cursor of the page behind `last`.
fn write_cursor(last: &PresenceMessage) -> String {
    format!("{}:{}", last.connection_id, last.client_id)
}

/// connectionId, which has no colon, and clientId.
fn read_cursor(text: &str) -> Option<(Box<str>, Box<str>)> {
    text.split_once(':').map(|(connection_id, client_id)| (connection_id.into(), client_id.into()))
}

/// One page of a channel's presence events.
pub(super) fn history(call: &mut Call<'_>) -> Result<Outcome, ErrorInfo> {
    let denied = "the capability does not permit history of this channel";
    let (principal, channel) = call.authorize(&[Operation::History], denied)?;
    let query = parse_history(call)?;
    let links = Links::of_page(call, query.direction, query.limit);
    let question = Question::PresenceHistory(query);
    Ok(call.ask_home(principal.app_id(), &channel, question, move |reply, answer| {
        let Answer::PresenceHistory(page) = answer else {
            unreachable!("presence history was asked for")
        };
        let next = page.next.map(|next| format!("{}:{}", next.serial, next.index));
        let response = links.add_to(reply.begin(200), next.as_deref());
        let events = page.events.iter().map(|event| &**event);
        reply.finish(response, &ably::encode_presence_history(reply.format(), events))
    }))
}
