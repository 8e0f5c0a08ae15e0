//! Parts of Ably's API that are not served: each says so (16).

use super::{Call, Outcome};
use crate::ably::{ErrorCode, ErrorInfo};

/// Push notifications (16.2).
pub(super) fn push(_: &mut Call<'_>) -> Result<Outcome, ErrorInfo> {
    Err(ErrorInfo::new(ErrorCode::NOT_FOUND, "push notifications are not served here"))
}

/// A method that a path does not have is 405, except where the SDKs expect 404.
pub(super) fn other_method(_: &mut Call<'_>) -> Result<Outcome, ErrorInfo> {
    Err(ErrorInfo::new(ErrorCode::NOT_FOUND, "no such resource"))
}

/// LiveObjects (16.3).
pub(super) fn objects(_: &mut Call<'_>) -> Result<Outcome, ErrorInfo> {
    Err(ErrorInfo::new(ErrorCode::UNSUPPORTED_FEATURE, "LiveObjects are not served here"))
}

/// The transport of browsers without WebSockets (2.13).
pub(super) fn comet(_: &mut Call<'_>) -> Result<Outcome, ErrorInfo> {
    let text = "the comet transport is not served here, connect with a WebSocket";
    Err(ErrorInfo::new(ErrorCode::NOT_FOUND, text))
}
