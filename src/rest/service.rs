//! What is told without credentials: the time, and whether the daemon is well.

use super::{Call, Outcome};
use crate::ably::{self, ErrorInfo};

/// The time in milliseconds since the Unix epoch, in an array.
pub(super) fn time(call: &mut Call<'_>) -> Result<Outcome, ErrorInfo> {
    let time = ably::encode_time(call.reply.format(), call.context.now.unix_ms);
    Ok(Outcome::Reply(call.reply.ok(200, &time)))
}

/// Whether the daemon runs.
pub(super) fn live(call: &mut Call<'_>) -> Result<Outcome, ErrorInfo> {
    Ok(Outcome::Reply(call.reply.text(200, "live")))
}

/// Whether a load balancer may send clients here.
pub(super) fn ready(call: &mut Call<'_>) -> Result<Outcome, ErrorInfo> {
    Ok(Outcome::Reply(match call.context.is_ready {
        true => call.reply.text(200, "ready"),
        false => call.reply.text(503, "not ready"),
    }))
}
