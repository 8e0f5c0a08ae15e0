//! Which channels are active (13.7).

use super::pages::{Links, invalid_param, parse_cursor, parse_limit};
use super::{Call, Outcome};
use crate::ably::{self, Answer, ChannelsQuery, ErrorCode, ErrorInfo, Operation, Survey};

/// Names of active channels, in their order. A name is its own cursor, so pages neither repeat nor
/// skip what stays active.
pub(super) fn list(call: &mut Call<'_>) -> Result<Outcome, ErrorInfo> {
    let principal = call.authenticate()?;
    // Whoever lists channels sees those of others, so no permission for some of them will do.
    if !principal.capability().allows("*", Operation::ChannelMetadata) {
        let denied = "the capability does not permit channel-metadata on all channels";
        return Err(ErrorInfo::new(ErrorCode::CAPABILITY_DENIED, denied));
    }
    match call.request.query_param("by").as_deref() {
        None | Some("id") => {}
        Some(_) => return Err(invalid_param("by")),
    }
    let query = ChannelsQuery {
        prefix: call.request.query_param("prefix").unwrap_or_default().into(),
        after: parse_cursor(call, |name| Some(name.into()))?,
        limit: parse_limit(call)?,
    };
    let links = Links::new(call, &[("limit", &query.limit.to_string())]);
    let survey = Survey::Channels(query.clone());
    Ok(call.ask_shards(principal.app_id(), survey, move |reply, answers| {
        let parts = answers.into_iter().map(|answer| match answer {
            Answer::Channels(names) => names,
            other => unreachable!("channels were asked for, not {other:?}"),
        });
        let (names, next) = ably::merge_channels(&query, parts);
        let response = links.add_to(reply.begin(200), next.as_deref());
        reply.finish(response, &ably::encode_names(reply.format(), &names))
    }))
}
