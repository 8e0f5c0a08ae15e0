//! What holds for ids and encodings, whatever is published with them.

use super::error::refuse;
use super::{ErrorCode, ErrorInfo};

/// Bytes of an id that a client chooses; those of SDKs have about 30. Ids do not count as data, and are
/// remembered longer than it.
pub(super) const CHOSEN_ID_BYTES_MAX: usize = 256;

/// Bytes of an encoding, which does not count as data either.
const ENCODING_BYTES_MAX: usize = 256;

/// Refuses an encoding that is no string, or longer than any that says how to decode. `encoding` is
/// in stored form.
pub(super) fn check_encoding(encoding: Option<&str>, is_no_string: bool) -> Result<(), ErrorInfo> {
    if is_no_string {
        return refuse(ErrorCode::INVALID_DATA, "the encoding is no string");
    }
    if encoding.is_some_and(|encoding| encoding.len() > ENCODING_BYTES_MAX) {
        return refuse(ErrorCode::INVALID_DATA, "the encoding is longer than 256 bytes");
    }
    Ok(())
}

/// Whether the client chose ids. In an array all of them are `<base>:<index>` or none is given (5.2).
pub(super) fn check_ids<'a>(
    ids: impl ExactSizeIterator<Item = Option<&'a str>> + Clone,
) -> Result<bool, ErrorInfo> {
    let Some(first) = ids.clone().next() else { return Ok(false) };
    if ids.len() == 1 {
        return Ok(first.is_some());
    }
    let base = first.map(|id| id.strip_suffix(":0"));
    let consistent = ids.enumerate().all(|(index, id)| {
        let parts = id.map(|id| id.rsplit_once(':'));
        match (base, parts) {
            (None, None) => true,
            (Some(Some(base)), Some(Some((own, at)))) => own == base && at == index.to_string(),
            _ => false,
        }
    });
    if !consistent {
        let text = "ids of an array have to be <base>:<index>, with one base, or all absent";
        return refuse(ErrorCode::INVALID_MESSAGE_IDS, text);
    }
    Ok(base.is_some())
}
