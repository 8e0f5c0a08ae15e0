//! Many channels in one request (13.8).

use super::pages::invalid_param;
use super::publish::{ID_BYTES, body_format};
use super::{Ask, Call, Inquiry, Outcome};
use crate::ably::{
    self, Accepted, Answer, BATCH_CHANNELS_MAX, BatchItem, ChannelName, ErrorCode, ErrorInfo,
    MembersPage, MembersQuery, Operation, Params, PublishResult, Publisher, Question,
};

/// Bytes of members, about, that the answer to a batch presence holds; channels beyond it fail.
const PRESENCE_BYTES_MAX: u64 = 8 << 20;

/// Before this protocol version the answer was one flat list.
const SPECS_SINCE_VERSION: u32 = 3;

/// Publishes each spec's messages on each of its channels; one may fail without the others.
pub(super) fn publish(call: &mut Call<'_>) -> Result<Outcome, ErrorInfo> {
    let principal = call.authenticate()?;
    let specs = ably::decode_batch(body_format(call.request)?, call.request.body())?;
    let params = Params::default();
    let bytes_max = call.context.message_bytes_max.into();
    let mut asks = Vec::new();
    // `None`: the home will say.
    let mut outcomes: Vec<Vec<(Box<str>, Option<ErrorInfo>)>> = Vec::new();
    for spec in specs {
        let mut items = Vec::with_capacity(spec.channels.len());
        for name in spec.channels {
            let publisher = Publisher {
                id: call.fresh_id::<ID_BYTES>(),
                connection_id: None,
                identity: principal.identity(),
                capability: principal.capability(),
                has_mutable_messages: principal.app().namespace(&name).mutable_messages,
            };
            let accept = || -> Result<(ChannelName, Accepted), ErrorInfo> {
                let channel = ChannelName::parse(&name)?.writable()?;
                principal.enter(channel.base())?;
                let drafts = spec.drafts.clone();
                let accepted =
                    ably::validate(channel.base(), drafts, &params, &publisher, bytes_max)?;
                let accepted = accepted.claimed(principal.user_claim(channel.base()));
                Ok((channel, accepted))
            };
            let error = match accept() {
                Ok((channel, accepted)) => {
                    asks.push(Ask::Publish { channel: channel.base().into(), accepted });
                    None
                }
                Err(error) => Some(error),
            };
            items.push((name, error));
        }
        outcomes.push(items);
    }
    let reply = call.reply.clone();
    let is_legacy = call.version() < SPECS_SINCE_VERSION;
    let then = move |answers: Vec<Result<Answer, ErrorInfo>>| {
        let mut answers = answers.into_iter();
        let mut result_of = |error: Option<ErrorInfo>| match error {
            Some(error) => Err(error),
            None => match answers.next().expect("one for each publish")? {
                Answer::Published(result) => Ok(result),
                other => unreachable!("a publish was asked for, not {other:?}"),
            },
        };
        let specs: Vec<Vec<BatchItem<PublishResult>>> = outcomes
            .into_iter()
            .map(|items| items.into_iter().map(|(name, error)| (name, result_of(error))).collect())
            .collect();
        let format = reply.format();
        Outcome::Reply(if is_legacy {
            match ably::encode_legacy_batch_publish(format, &specs) {
                (body, None) => reply.ok(201, &body),
                (body, Some(error)) => reply.finish(reply.begin_error(&error), &body),
            }
        } else {
            reply.ok(201, &ably::encode_batch_publish(format, &specs))
        })
    };
    Ok(Outcome::Ask(Inquiry { app_id: principal.app_id().to_owned(), asks, then: Box::new(then) }))
}

/// Tells who is present on each of several channels; one may fail without the others.
pub(super) fn presence(call: &mut Call<'_>) -> Result<Outcome, ErrorInfo> {
    let principal = call.authenticate()?;
    let names = call.request.query_param("channels").unwrap_or_default();
    let separator = call.request.query_param("separator").filter(|separator| !separator.is_empty());
    let names: Vec<Box<str>> =
        names.split(separator.as_deref().unwrap_or(",")).map(Box::from).collect();
    if names.iter().all(|name| name.is_empty()) {
        return Err(invalid_param("channels"));
    }
    if names.len() > BATCH_CHANNELS_MAX {
        let text = "more than 100 channels in one batch";
        return Err(ErrorInfo::new(ErrorCode::TOO_MANY_CHANNELS, text));
    }
    let mut asks = Vec::new();
    let permit = |name: &str| {
        let channel = ChannelName::parse(name)?;
        principal.enter(channel.base())?;
        let readers = [Operation::Subscribe, Operation::Presence];
        let capability = principal.capability();
        match readers.iter().any(|reader| capability.allows(channel.base(), *reader)) {
            true => Ok(channel),
            false => {
                let text = "the capability does not permit to see who is present on this channel";
                Err(ErrorInfo::new(ErrorCode::CAPABILITY_DENIED, text))
            }
        }
    };
    // `None`: the home will say.
    let outcomes = names.into_iter().map(|name| {
        let error = permit(&name).map(|channel| {
            let question = Question::Members(MembersQuery::all());
            asks.push(Ask::Home { channel: channel.base().into(), question });
        });
        (name, error.err())
    });
    let outcomes: Vec<_> = outcomes.collect();
    let reply = call.reply.clone();
    let is_legacy = call.version() < SPECS_SINCE_VERSION;
    let then = move |answers: Vec<Result<Answer, ErrorInfo>>| {
        let mut answers = answers.into_iter();
        let mut bytes = 0;
        let mut result_of = |error: Option<ErrorInfo>| {
            if let Some(error) = error {
                return Err(error);
            }
            let page = match answers.next().expect("one for each channel")? {
                Answer::Members(page) => page,
                other => unreachable!("members were asked for, not {other:?}"),
            };
            bytes += page.members.iter().map(|member| member.size_bytes()).sum::<u64>();
            if bytes > PRESENCE_BYTES_MAX {
                let text = "the batch has too many members, ask for fewer channels";
                return Err(ErrorInfo::new(ErrorCode::MESSAGE_TOO_LARGE, text));
            }
            Ok(page)
        };
        let items: Vec<BatchItem<MembersPage>> =
            outcomes.into_iter().map(|(name, error)| (name, result_of(error))).collect();
        let format = reply.format();
        Outcome::Reply(if is_legacy {
            match ably::encode_legacy_batch_presence(format, &items) {
                (body, None) => reply.ok(200, &body),
                (body, Some(error)) => reply.finish(reply.begin_error(&error), &body),
            }
        } else {
            reply.ok(200, &ably::encode_batch_presence(format, &items))
        })
    };
    Ok(Outcome::Ask(Inquiry { app_id: principal.app_id().to_owned(), asks, then: Box::new(then) }))
}
