//! What goes along with a message beside its data: extras, an object kept as JSON text.

use super::error::refuse;
use super::identity::Publisher;
use super::json::JsonValue;
use super::value::{Node, Value};
use super::writer::write_map;
use super::{ErrorCode, ErrorInfo, Format, Operation};

/// In extras: what the maker of a token says of its holder (4.6).
pub(super) const USER_CLAIM: &str = "userClaim";

/// Whether the JSON text of an object has `key`, and its value.
pub(super) fn extras_entry<'a>(extras: &'a str, key: &str) -> Option<JsonValue<'a>> {
    let entries = JsonValue::of_validated(extras).entries();
    entries.into_iter().find(|(name, _)| name == key).map(|(_, value)| value)
}

/// `extras` with `claim`, which is JSON text, as its `userClaim` instead of what it has there.
pub(super) fn with_user_claim(extras: Option<Box<str>>, claim: Option<&str>) -> Option<Box<str>> {
    with_entry(extras, USER_CLAIM, claim)
}

/// `extras` with `value`, which is JSON text, as its entry `name` instead of what it has there.
pub(super) fn with_entry(
    extras: Option<Box<str>>,
    name: &str,
    value: Option<&str>,
) -> Option<Box<str>> {
    let is_right = |extras: &str| value.is_none() && extras_entry(extras, name).is_none();
    if extras.as_deref().map_or(value.is_none(), is_right) {
        return extras;
    }
    let given = JsonValue::of_validated(extras.as_deref().unwrap_or("{}")).entries();
    let mut out = Vec::new();
    write_map(Format::Json, &mut out, |map| {
        for (key, value) in given.filter(|(key, _)| key != name) {
            map.json(&key, &value.to_json());
        }
        if let Some(value) = value {
            map.json(name, value);
        }
    });
    Some(String::from_utf8(out).expect("JSON is text").into())
}

/// Whether a message is to be kept nowhere (5.5).
pub(super) fn is_ephemeral(extras: Option<&str>) -> bool {
    let flag = extras.and_then(|extras| extras_entry(extras, "ephemeral"));
    flag.is_some_and(|flag| flag.node() == Node::Bool(true))
}

/// Refuses what only the server may set, and what the capability does not permit.
pub(super) fn check_extras(
    name: &str,
    extras: &str,
    publisher: &Publisher<'_>,
) -> Result<(), ErrorInfo> {
    check_shape_of_extras(extras)?;
    if ["delta", USER_CLAIM].iter().any(|key| extras_entry(extras, key).is_some()) {
        let text = "extras.delta and extras.userClaim are set by the server only";
        return refuse(ErrorCode::INVALID_EXTRAS, text);
    }
    if extras_entry(extras, "privileged").is_some()
        && !publisher.capability.allows(name, Operation::PrivilegedHeaders)
    {
        return refuse(
            ErrorCode::CAPABILITY_DENIED,
            "the capability does not permit extras.privileged",
        );
    }
    Ok(())
}

/// Refuses extras that are no object, or whose headers are none or nest.
pub(super) fn check_shape_of_extras(extras: &str) -> Result<(), ErrorInfo> {
    let code = ErrorCode::INVALID_EXTRAS;
    if JsonValue::of_validated(extras).node() != Node::Map {
        return refuse(code, "extras is no object");
    }
    if let Some(headers) = extras_entry(extras, "headers") {
        let is_flat =
            headers.entries().all(|(_, value)| !matches!(value.node(), Node::Map | Node::Array));
        if headers.node() != Node::Map || !is_flat {
            return refuse(code, "extras.headers is no flat object");
        }
    }
    Ok(())
}
