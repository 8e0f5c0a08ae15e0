//! Many channels in one request (13.8).

use super::publish::{ID_BYTES, body_format};
use super::{Ask, Call, Inquiry, Outcome};
use crate::ably::{
    self, Accepted, Answer, BatchItem, ChannelName, ErrorInfo, Params, PublishResult, Publisher,
};

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
