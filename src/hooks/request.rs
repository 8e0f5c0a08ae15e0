//! What is sent for a parcel, whatever takes it.

use bytes::Bytes;

use super::courier::Parcel;
use crate::ably::{ContentType, RequestShape, batch_body};

/// The version of the form of requests (15.3).
pub const VERSION: &str = "1.2";

/// The body of the request for a parcel, and what it is.
pub fn body(parcel: &Parcel) -> (ContentType, Bytes) {
    let first = &parcel.entries[0].event;
    match parcel.shape() {
        RequestShape::Batch => {
            let items = parcel.entries.iter().map(|entry| &entry.event.body[..]);
            batch_body(first.rule().format, items)
        }
        RequestShape::Enveloped | RequestShape::Bare => (first.content_type, first.body.clone()),
    }
}
