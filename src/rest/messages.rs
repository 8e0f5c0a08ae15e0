//! One message: its latest version, its changes, its annotations (8, 9, 13.4).

use super::pages::{Links, PageParams, invalid_param, parse_cursor};
use super::publish::{ID_BYTES, body_format, read_drafts};
use super::{Ask, Call, Outcome};
use crate::ably::{
    self, Accepted, Answer, Direction, ErrorCode, ErrorInfo, Field, HistoryQuery, Operation,
    Params, Position, Publisher, Question,
};

const DENIED: &str = "the capability does not permit history of this channel";

/// What `action` is for a message that is updated.
const UPDATE: u64 = 1;

/// The message in the path. Serials are opaque to clients: one that cannot be read is of no message.
fn message(call: &Call<'_>) -> Result<Position, ErrorInfo> {
    call.path_param("serial").parse().map_err(|_| ably::no_such_message())
}

/// The latest version of a message.
pub(super) fn get(call: &mut Call<'_>) -> Result<Outcome, ErrorInfo> {
    let (principal, channel) = call.authorize(&[Operation::History], DENIED)?;
    let question = Question::Message(message(call)?);
    Ok(call.ask_home(principal.app_id(), &channel, question, |reply, answer| {
        let Answer::Message(item) = answer else { unreachable!("a message was asked for") };
        let mut body = Vec::new();
        ably::encode_message(reply.format(), &item.publication, item.index, &mut body);
        reply.ok(200, &body)
    }))
}

/// Updates, deletes or appends to a message.
pub(super) fn patch(call: &mut Call<'_>) -> Result<Outcome, ErrorInfo> {
    let principal = call.authenticate()?;
    let channel = call.channel()?;
    principal.enter(channel.base())?;
    let mut drafts = read_drafts(call.request)?;
    for draft in &mut drafts {
        let serial = call.path_param("serial");
        match &draft.serial {
            Some(Field::Text(named)) if **named == *serial => {}
            None => draft.serial = Some(Field::Text(serial.into())),
            Some(_) => {
                let text = "path and body name different messages";
                return Err(ErrorInfo::new(ErrorCode::INVALID_PARAMETER, text));
            }
        }
        if draft.action == 0 {
            draft.action = UPDATE;
        }
    }
    let params: Params =
        call.request.query_params().map(|(name, value)| (name.into(), value.into())).collect();
    let publisher = Publisher {
        id: call.fresh_id::<ID_BYTES>(),
        connection_id: None,
        identity: principal.identity(),
        capability: principal.capability(),
        has_mutable_messages: principal.app().namespace(channel.base()).mutable_messages,
    };
    let bytes_max = call.context.message_bytes_max.into();
    let accepted = ably::validate(channel.base(), Some(drafts), &params, &publisher, bytes_max)?;
    let ask = Ask::Publish { channel: channel.base().into(), accepted };
    Ok(call.ask(principal.app_id(), ask, |reply, answer| {
        let Answer::Published(result) = answer else { unreachable!("a change was asked for") };
        reply.ok(200, &ably::encode_version_result(reply.format(), &result))
    }))
}

/// What chooses a page of a message's versions or annotations, and the links of that page.
fn page(call: &Call<'_>) -> Result<(HistoryQuery, Links), ErrorInfo> {
    let PageParams { start_ms, end_ms, direction, limit } =
        PageParams::parse(call, Direction::Forwards)?;
    let after = parse_cursor(call, |text| text.parse().ok())?;
    let query = HistoryQuery { start_ms, end_ms, direction, limit, until: None, after };
    Ok((query, Links::of_page(call, direction, limit)))
}

/// The versions of a message.
pub(super) fn versions(call: &mut Call<'_>) -> Result<Outcome, ErrorInfo> {
    let (principal, channel) = call.authorize(&[Operation::History], DENIED)?;
    let (query, links) = page(call)?;
    let question = Question::Versions(message(call)?, query);
    Ok(call.ask_home(principal.app_id(), &channel, question, move |reply, answer| {
        let Answer::History(page) = answer else { unreachable!("versions were asked for") };
        let next = page.next.map(|next| next.to_string());
        let response = links.add_to(reply.begin(200), next.as_deref());
        let messages = page.items.iter().map(|item| (&*item.publication, item.index));
        reply.finish(response, &ably::encode_history(reply.format(), messages))
    }))
}

/// The annotations of a message.
pub(super) fn annotations(call: &mut Call<'_>) -> Result<Outcome, ErrorInfo> {
    let (principal, channel) = call.authorize(&[Operation::History], DENIED)?;
    let (query, links) = page(call)?;
    let question = Question::Annotations(message(call)?, query);
    Ok(call.ask_home(principal.app_id(), &channel, question, move |reply, answer| {
        let Answer::Annotations(page) = answer else { unreachable!("annotations were asked for") };
        let next = page.next.map(|next| next.to_string());
        let response = links.add_to(reply.begin(200), next.as_deref());
        let annotations = page.items.iter().map(|(publication, index)| (&**publication, *index));
        reply.finish(response, &ably::encode_annotation_page(reply.format(), annotations))
    }))
}

/// Annotates a message, or takes annotations back.
pub(super) fn annotate(call: &mut Call<'_>) -> Result<Outcome, ErrorInfo> {
    let principal = call.authenticate()?;
    let channel = call.channel()?;
    principal.enter(channel.base())?;
    let format = body_format(call.request)?;
    let drafts = ably::decode_annotations(format, call.request.body())?;
    let publisher = Publisher {
        id: call.fresh_id::<ID_BYTES>(),
        connection_id: None,
        identity: principal.identity(),
        capability: principal.capability(),
        has_mutable_messages: principal.app().namespace(channel.base()).mutable_messages,
    };
    let bytes_max = call.context.message_bytes_max.into();
    let message = Some(message(call)?);
    let annotations =
        ably::validate_annotations(channel.base(), Some(drafts), message, &publisher, bytes_max)?;
    let accepted = Accepted::Annotations(Box::new(annotations));
    // As it was asked for, with its qualifier.
    let asked_for = call.path_param("channel").to_owned();
    let ask = Ask::Publish { channel: channel.base().into(), accepted };
    Ok(call.ask(principal.app_id(), ask, move |reply, answer| {
        let Answer::Published(result) = answer else { unreachable!("a publish was asked for") };
        reply.ok(201, &ably::encode_publish_result(reply.format(), &asked_for, &result))
    }))
}

/// What one client has contributed to the summary of a message.
pub(super) fn client_summary(call: &mut Call<'_>) -> Result<Outcome, ErrorInfo> {
    let denied = "the capability does not permit subscribing to this channel";
    let (principal, channel) = call.authorize(&[Operation::Subscribe], denied)?;
    let client_id = call.request.query_param("forClientId");
    let Some(client_id) = client_id.filter(|client_id| !client_id.is_empty()) else {
        return Err(invalid_param("forClientId"));
    };
    let question = Question::ClientSummary(message(call)?, (&*client_id).into());
    Ok(call.ask_home(principal.app_id(), &channel, question, |reply, answer| {
        let Answer::Json(summary) = answer else { unreachable!("a summary was asked for") };
        reply.ok(200, &ably::encode_json(reply.format(), &summary))
    }))
}
