//! Bodies of REST requests and responses, in both formats (13).

use super::annotation::{read_annotation_drafts, write_annotations};
use super::inbound::read_drafts;
use super::json::JsonValue;
use super::message::write_messages;
use super::msgpack::MsgPackValue;
use super::outbound::write_serials;
use super::writer::{write_array, write_map, write_str};
use super::{
    AnnotationDraft, AnnotationsPublication, Draft, ErrorCode, ErrorInfo, Format, ListedChannel,
    Metrics, Publication, PublishResult,
};

/// Reads the body of a publish: one message or an array.
///
/// # Errors
/// 40001: not one value of the format, or not an object or an array of objects.
pub fn decode_publish(format: Format, body: &[u8]) -> Result<Vec<Draft>, ErrorInfo> {
    let drafts = match format {
        Format::Json => JsonValue::parse(body).map(read_drafts),
        Format::MsgPack => MsgPackValue::parse(body).map(read_drafts),
    };
    drafts.ok().flatten().ok_or_else(|| {
        ErrorInfo::new(ErrorCode::INVALID_BODY, "the body is no message and no array of messages")
    })
}

/// The body of `GET /time`.
pub fn encode_time(format: Format, unix_ms: u64) -> Vec<u8> {
    let mut out = Vec::new();
    write_array(format, &mut out, std::iter::once(unix_ms), |time, out| match format {
        Format::Json => out.extend_from_slice(itoa::Buffer::new().format(time).as_bytes()),
        Format::MsgPack => super::primitives::write_uint(out, time),
    });
    out
}

/// The body of a failed request.
pub fn encode_error(format: Format, error: &ErrorInfo) -> Vec<u8> {
    let mut out = Vec::new();
    write_map(format, &mut out, |map| map.map("error", |map| error.write(map)));
    out
}

/// The status of a channel: a ChannelDetails (CHD2).
pub fn encode_channel(format: Format, name: &str, metrics: &Metrics) -> Vec<u8> {
    let mut out = Vec::new();
    // Asking is enough to make it active.
    write_channel(format, name, true, metrics, &mut out);
    out
}

/// A list of channels: their names, or the status of each.
pub fn encode_channels(format: Format, channels: &[ListedChannel], with_status: bool) -> Vec<u8> {
    let mut out = Vec::new();
    write_array(format, &mut out, channels.iter(), |(name, metrics), out| match with_status {
        true => write_channel(format, name, true, metrics, out),
        false => write_str(format, out, name),
    });
    out
}

/// Appends a ChannelDetails (CHD2).
pub(super) fn write_channel(
    format: Format,
    name: &str,
    is_active: bool,
    metrics: &Metrics,
    out: &mut Vec<u8>,
) {
    write_map(format, out, |map| {
        map.str("channelId", name);
        map.str("name", name);
        map.map("status", |map| {
            map.json("isActive", if is_active { "true" } else { "false" });
            map.map("occupancy", |map| {
                map.map("metrics", |map| {
                    metrics.named().for_each(|(name, value)| map.uint(name, value.into()));
                });
            });
        });
    });
}

/// The body of a publish that succeeded.
pub fn encode_publish_result(format: Format, channel: &str, result: &PublishResult) -> Vec<u8> {
    let mut out = Vec::new();
    write_map(format, &mut out, |map| {
        map.str("channel", channel);
        map.str("messageId", &result.message_id);
        write_serials(map, format, result);
    });
    out
}

/// The body of a page of history.
pub fn encode_history<'a>(
    format: Format,
    messages: impl ExactSizeIterator<Item = (&'a Publication, usize)>,
) -> Vec<u8> {
    let mut out = Vec::new();
    write_messages(format, messages, &mut out);
    out
}

/// Reads the body that annotates a message: one annotation or an array.
///
/// # Errors
/// 40001: not one value of the format, or not an object or an array of objects.
pub fn decode_annotations(format: Format, body: &[u8]) -> Result<Vec<AnnotationDraft>, ErrorInfo> {
    let drafts = match format {
        Format::Json => JsonValue::parse(body).map(read_annotation_drafts),
        Format::MsgPack => MsgPackValue::parse(body).map(read_annotation_drafts),
    };
    drafts.ok().flatten().ok_or_else(|| {
        let text = "the body is no annotation and no array of annotations";
        ErrorInfo::new(ErrorCode::INVALID_BODY, text)
    })
}

/// The body of a page of annotations; each is given with its index in its publication.
pub fn encode_annotation_page<'a>(
    format: Format,
    annotations: impl ExactSizeIterator<Item = (&'a AnnotationsPublication, usize)>,
) -> Vec<u8> {
    let mut out = Vec::new();
    write_annotations(format, annotations, &mut out);
    out
}

/// The body of a change to a message that succeeded (UDR2); null: it was overtaken.
pub fn encode_version_result(format: Format, result: &PublishResult) -> Vec<u8> {
    let mut out = Vec::new();
    write_map(format, &mut out, |map| match result.serials.first() {
        Some(Some(serial)) => map.str("versionSerial", serial),
        Some(None) | None => map.json("versionSerial", "null"),
    });
    out
}

/// A body that is kept as JSON text.
pub fn encode_json(format: Format, text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    match format {
        Format::Json => out.extend_from_slice(text.as_bytes()),
        Format::MsgPack => JsonValue::of_validated(text).write_msgpack(&mut out),
    }
    out
}
