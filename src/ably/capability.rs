//! Capabilities: which operations on which channels a credential permits (12.4 to 12.6).

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

macro_rules! operations {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// What a capability can permit (12.6).
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Operation {
            $($(#[$doc])* $variant,)*
        }

        impl Operation {
            const ALL: &[(&str, Operation)] = &[$(($name, Operation::$variant),)*];
        }
    };
}

operations! {
    /// Receive messages and presence.
    Subscribe = "subscribe",
    /// Publish messages.
    Publish = "publish",
    /// Enter presence.
    Presence = "presence",
    /// Read history.
    History = "history",
    /// Read statistics.
    Stats = "stats",
    /// Read a channel's status and occupancy.
    ChannelMetadata = "channel-metadata",
    /// Subscribe a device to push.
    PushSubscribe = "push-subscribe",
    /// Manage all devices.
    PushAdmin = "push-admin",
    /// Receive LiveObjects.
    ObjectSubscribe = "object-subscribe",
    /// Change LiveObjects.
    ObjectPublish = "object-publish",
    /// Receive raw annotations.
    AnnotationSubscribe = "annotation-subscribe",
    /// Publish annotations.
    AnnotationPublish = "annotation-publish",
    /// Update own messages.
    MessageUpdateOwn = "message-update-own",
    /// Update any message.
    MessageUpdateAny = "message-update-any",
    /// Delete own messages.
    MessageDeleteOwn = "message-delete-own",
    /// Delete any message.
    MessageDeleteAny = "message-delete-any",
    /// Set `extras.privileged`.
    PrivilegedHeaders = "privileged-headers",
}

/// A set of operations, as bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Operations(u32);

impl Operations {
    const ALL: Operations = Operations(u32::MAX);

    fn contains(self, operation: Operation) -> bool {
        self.0 & (1 << operation as u32) != 0
    }
}

/// Why a capability cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CapabilityError {
    /// Not JSON, or not an object of arrays of strings.
    Malformed,
    /// A resource with no operation.
    Empty {
        /// The resource.
        resource: String,
    },
    /// An operation that does not exist.
    UnknownOperation {
        /// Its name.
        operation: String,
    },
    /// `*` beside other operations.
    MixedWildcard {
        /// The resource.
        resource: String,
    },
}

impl fmt::Display for CapabilityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CapabilityError::Malformed => f.write_str("not an object of arrays of operations"),
            CapabilityError::Empty { resource } => write!(f, "no operation for {resource}"),
            CapabilityError::UnknownOperation { operation } => {
                write!(f, "unknown operation {operation}")
            }
            CapabilityError::MixedWildcard { resource } => {
                write!(f, "* beside other operations for {resource}")
            }
        }
    }
}

impl std::error::Error for CapabilityError {}

/// Operations by resource pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capability {
    resources: Vec<(Box<str>, Operations)>,
}

impl Capability {
    /// Everything on every channel.
    pub fn all() -> Capability {
        Capability { resources: vec![("[*]*".into(), Operations::ALL)] }
    }

    /// Reads the JSON text of a capability (12.5).
    pub fn parse(text: &str) -> Result<Capability, CapabilityError> {
        let resources: BTreeMap<String, Vec<Value>> =
            serde_json::from_str(text).map_err(|_| CapabilityError::Malformed)?;
        let resources = resources.into_iter().map(|(resource, names)| {
            let names: Option<Vec<&str>> = names.iter().map(Value::as_str).collect();
            Ok((operations(&resource, &names.ok_or(CapabilityError::Malformed)?)?, resource))
        });
        let resources: Result<Vec<_>, CapabilityError> = resources.collect();
        let resources = resources?.into_iter();
        Ok(Capability { resources: resources.map(|(set, name)| (name.into(), set)).collect() })
    }

    /// Whether `operation` is permitted on the channel `name`, which has no `[?params]`.
    pub fn allows(&self, name: &str, operation: Operation) -> bool {
        let permits = |(pattern, operations): &(Box<str>, Operations)| {
            operations.contains(operation) && matches(pattern, name)
        };
        self.resources.iter().any(permits)
    }
}

fn operations(resource: &str, names: &[&str]) -> Result<Operations, CapabilityError> {
    match names {
        [] => return Err(CapabilityError::Empty { resource: resource.into() }),
        ["*"] => return Ok(Operations::ALL),
        _ if names.contains(&"*") => {
            return Err(CapabilityError::MixedWildcard { resource: resource.into() });
        }
        _ => {}
    }
    let mut set = Operations::default();
    for name in names {
        match Operation::ALL.iter().find(|(known, _)| known == name) {
            Some((_, operation)) => set.0 |= 1 << *operation as u32,
            None => return Err(CapabilityError::UnknownOperation { operation: (*name).into() }),
        }
    }
    Ok(set)
}

/// Parts `[qualifier]name`; no brackets: no qualifier.
fn qualifier(name: &str) -> (Option<&str>, &str) {
    let parts = name.strip_prefix('[').and_then(|rest| rest.split_once(']'));
    parts.map_or((None, name), |(qualifier, base)| (Some(qualifier), base))
}

/// The table of 12.4: an inner `*` is one segment, a last one is one or more.
fn matches(pattern: &str, name: &str) -> bool {
    let (pattern_qualifier, pattern) = qualifier(pattern);
    let (name_qualifier, name) = qualifier(name);
    if pattern_qualifier != Some("*") && pattern_qualifier != name_qualifier {
        return false;
    }
    let mut patterns = pattern.split(':').peekable();
    let mut names = name.split(':');
    while let Some(segment) = patterns.next() {
        let Some(named) = names.next() else { return false };
        match segment {
            "*" if patterns.peek().is_none() => return true,
            "*" => {}
            _ if segment == named => {}
            _ => return false,
        }
    }
    names.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_the_table_says() {
        for (pattern, name, expected) in [
            ("*", "foo", true),
            ("*", "foo:bar", true),
            ("*", "[meta]log", false),
            ("foo:*", "foo:a", true),
            ("foo:*", "foo:a:b", true),
            ("foo:*", "foo", false),
            ("foo:*:baz", "foo:bar:baz", true),
            ("foo:*:baz", "foo:a:b:baz", false),
            ("foo*", "foo*", true),
            ("foo*", "foobar", false),
            ("[meta]*", "[meta]log", true),
            ("[meta]*", "log", false),
            ("[*]*", "[meta]log", true),
            ("[*]*", "foo:bar", true),
            ("[*]foo", "[meta]foo", true),
            ("[*]foo", "bar", false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn operations_are_permitted_where_they_are_listed() {
        let capability = Capability::parse(r#"{"a":["publish"],"b:*":["*"]}"#).expect("valid");
        assert!(capability.allows("a", Operation::Publish));
        assert!(!capability.allows("a", Operation::Subscribe));
        assert!(capability.allows("b:x", Operation::History));
        assert!(!capability.allows("c", Operation::Publish));
    }

    #[test]
    fn invalid_capabilities_are_refused() {
        for text in ["", "[]", r#"{"a":"publish"}"#, r#"{"a":[1]}"#] {
            assert_eq!(Capability::parse(text), Err(CapabilityError::Malformed), "{text}");
        }
        assert!(Capability::parse(r#"{"a":[]}"#).is_err());
        assert!(Capability::parse(r#"{"a":["publish_"]}"#).is_err());
        assert!(Capability::parse(r#"{"a":["*","publish"]}"#).is_err());
    }
}
