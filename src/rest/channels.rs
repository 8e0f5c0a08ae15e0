//! Which channels are active, and how many are there (13.7).

use super::pages::{Links, invalid_param, parse_cursor, parse_limit};
use super::{Call, Outcome};
use crate::ably::{self, Answer, ChannelsQuery, ErrorCode, ErrorInfo, Operation, Question, Survey};

/// Before this protocol version channels were listed with their status unless names were asked for.
const NAMES_SINCE_VERSION: u32 = 3;

/// The status of one channel; of one that was never used all numbers are zero.
pub(super) fn status(call: &mut Call<'_>) -> Result<Outcome, ErrorInfo> {
    let denied = "the capability does not permit channel-metadata of this channel";
    let (principal, channel) = call.authorize(&[Operation::ChannelMetadata], denied)?;
    let name = channel.base().to_owned();
    Ok(call.ask_home(principal.app_id(), &channel, Question::Status, move |reply, answer| {
        let Answer::Status(metrics) = answer else { unreachable!("the status was asked for") };
        reply.ok(200, &ably::encode_channel(reply.format(), &name, &metrics))
    }))
}

/// Active channels, in the order of their names. A name is its own cursor, so pages neither repeat nor
/// skip what stays active.
pub(super) fn list(call: &mut Call<'_>) -> Result<Outcome, ErrorInfo> {
    let principal = call.authenticate()?;
    // Whoever lists channels sees those of others, so no permission for some of them will do.
    if !principal.capability().allows("*", Operation::ChannelMetadata) {
        let denied = "the capability does not permit channel-metadata on all channels";
        return Err(ErrorInfo::new(ErrorCode::CAPABILITY_DENIED, denied));
    }
    let with_status = match call.request.query_param("by").as_deref() {
        None => call.version() < NAMES_SINCE_VERSION,
        Some("id") => false,
        Some("value") => true,
        Some(_) => return Err(invalid_param("by")),
    };
    let query = ChannelsQuery {
        prefix: call.request.query_param("prefix").unwrap_or_default().into(),
        after: parse_cursor(call, |name| Some(name.into()))?,
        limit: parse_limit(call)?,
    };
    let by = if with_status { "value" } else { "id" };
    let links = Links::new(call, &[("by", by), ("limit", &query.limit.to_string())]);
    let survey = Survey::Channels(query.clone());
    Ok(call.ask_shards(principal.app_id(), survey, move |reply, answers| {
        let parts = answers.into_iter().map(|answer| match answer {
            Answer::Channels(channels) => channels,
            other => unreachable!("channels were asked for, not {other:?}"),
        });
        let (channels, next) = ably::merge_channels(&query, parts);
        let response = links.add_to(reply.begin(200), next.as_deref());
        reply.finish(response, &ably::encode_channels(reply.format(), &channels, with_status))
    }))
}
