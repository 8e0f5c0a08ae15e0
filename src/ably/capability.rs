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

            /// As capabilities write it.
            pub fn name(self) -> &'static str {
                match self {
                    $(Operation::$variant => $name,)*
                }
            }
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

/// A set of operations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Operations {
    /// Those that are known here, as bits.
    bits: u32,
    /// Those that are not, in order; they permit nothing, but a key's are not forgotten.
    others: Vec<Box<str>>,
}

impl Operations {
    /// `*`: also what is not known yet. More bits than there are operations, so that a list of all of
    /// them is something else.
    const ALL: Operations = Operations { bits: u32::MAX, others: Vec::new() };

    fn contains(&self, operation: Operation) -> bool {
        self.bits & (1 << operation as u32) != 0
    }

    fn is_all(&self) -> bool {
        self.bits == u32::MAX
    }

    fn is_empty(&self) -> bool {
        self.bits == 0 && self.others.is_empty()
    }

    fn intersection(&self, other: &Operations) -> Operations {
        match (self.is_all(), other.is_all()) {
            (true, _) => other.clone(),
            (_, true) => self.clone(),
            _ => {
                let both = self.others.iter().filter(|name| other.others.contains(name));
                Operations { bits: self.bits & other.bits, others: both.cloned().collect() }
            }
        }
    }

    fn unite(&mut self, other: &Operations) {
        if self.is_all() || other.is_all() {
            *self = Operations::ALL;
            return;
        }
        self.bits |= other.bits;
        self.others.extend(other.others.iter().cloned());
        self.others.sort_unstable();
        self.others.dedup();
    }

    /// In alphabetical order.
    fn names(&self) -> Vec<&str> {
        if self.is_all() {
            return vec!["*"];
        }
        let known = Operation::ALL.iter().filter(|(_, operation)| self.contains(*operation));
        let mut names: Vec<&str> = known.map(|(name, _)| *name).collect();
        names.extend(self.others.iter().map(|name| &**name));
        names.sort_unstable();
        names
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

/// Operations by resource pattern. [`Display`](fmt::Display) writes the canonical form: JSON with
/// resources and operations in order and no spaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capability {
    /// In the order of the patterns.
    resources: Vec<(Box<str>, Operations)>,
}

impl Capability {
    /// Everything on every channel.
    pub fn all() -> Capability {
        Capability { resources: vec![("[*]*".into(), Operations::ALL)] }
    }

    /// Reads the JSON text of a capability that somebody asks for (12.5).
    ///
    /// # Errors
    /// See [`CapabilityError`].
    pub fn parse(text: &str) -> Result<Capability, CapabilityError> {
        Capability::read(text, false)
    }

    /// Reads the capability of a key: operations that are not known here are kept.
    ///
    /// # Errors
    /// See [`CapabilityError`].
    pub fn parse_lenient(text: &str) -> Result<Capability, CapabilityError> {
        Capability::read(text, true)
    }

    fn read(text: &str, is_lenient: bool) -> Result<Capability, CapabilityError> {
        let resources: BTreeMap<String, Vec<Value>> =
            serde_json::from_str(text).map_err(|_| CapabilityError::Malformed)?;
        let resources = resources.into_iter().map(|(resource, names)| {
            let names: Option<Vec<&str>> = names.iter().map(Value::as_str).collect();
            let names = names.ok_or(CapabilityError::Malformed)?;
            Ok((operations(&resource, &names, is_lenient)?, resource))
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

    /// What both permit (12.5); possibly nothing.
    pub fn intersection(&self, other: &Capability) -> Capability {
        let mut resources: BTreeMap<Box<str>, Operations> = BTreeMap::new();
        for (pattern, operations) in &self.resources {
            for (other_pattern, other_operations) in &other.resources {
                let both = operations.intersection(other_operations);
                if both.is_empty() {
                    continue;
                }
                if let Some(pattern) = intersect_patterns(pattern, other_pattern) {
                    resources.entry(pattern.into()).or_default().unite(&both);
                }
            }
        }
        Capability { resources: resources.into_iter().collect() }
    }

    /// Whether it permits nothing.
    pub fn is_empty(&self) -> bool {
        self.resources.is_empty()
    }

    /// The resources, as they were written.
    pub fn resources(&self) -> impl Iterator<Item = &str> {
        self.resources.iter().map(|(pattern, _)| &**pattern)
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let resources: BTreeMap<&str, Vec<&str>> =
            self.resources.iter().map(|(pattern, set)| (&**pattern, set.names())).collect();
        f.write_str(&serde_json::to_string(&resources).map_err(|_| fmt::Error)?)
    }
}

fn operations(
    resource: &str,
    names: &[&str],
    is_lenient: bool,
) -> Result<Operations, CapabilityError> {
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
            Some((_, operation)) => set.bits |= 1 << *operation as u32,
            None if is_lenient => set.others.push((*name).into()),
            None => return Err(CapabilityError::UnknownOperation { operation: (*name).into() }),
        }
    }
    set.others.sort_unstable();
    set.others.dedup();
    Ok(set)
}

/// What both patterns match, as a pattern; `None`: nothing.
fn intersect_patterns(one: &str, other: &str) -> Option<String> {
    let (one_qualifier, one) = qualifier(one);
    let (other_qualifier, other) = qualifier(other);
    let qualifier = match (one_qualifier, other_qualifier) {
        (Some("*"), qualifier) | (qualifier, Some("*")) => qualifier,
        (one, other) if one == other => one,
        _ => return None,
    };
    let (one, other): (Vec<&str>, Vec<&str>) =
        (one.split(':').collect(), other.split(':').collect());
    let mut segments = Vec::new();
    for at in 0.. {
        match (one.get(at), other.get(at)) {
            (None, None) => break,
            (None, _) | (_, None) => return None,
            // A last `*` is one or more segments, whatever they are in the other pattern.
            (Some(&"*"), Some(_)) if at + 1 == one.len() => {
                segments.extend_from_slice(&other[at..]);
                break;
            }
            (Some(_), Some(&"*")) if at + 1 == other.len() => {
                segments.extend_from_slice(&one[at..]);
                break;
            }
            (Some(&"*"), Some(&segment)) | (Some(&segment), Some(&"*")) => segments.push(segment),
            (Some(one), Some(other)) if one == other => segments.push(one),
            _ => return None,
        }
    }
    let base = segments.join(":");
    Some(qualifier.map_or_else(|| base.clone(), |qualifier| format!("[{qualifier}]{base}")))
}

/// Parts `[qualifier]name`; no brackets: no qualifier.
fn qualifier(name: &str) -> (Option<&str>, &str) {
    let parts = name.strip_prefix('[').and_then(|rest| rest.split_once(']'));
    parts.map_or((None, name), |(qualifier, base)| (Some(qualifier), base))
}

/// The table of 12.4: an inner `*` is one segment, a last one is one or more.
pub(super) fn matches(pattern: &str, name: &str) -> bool {
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

    #[test]
    fn patterns_intersect_as_the_section_says() {
        for (one, other, both) in [
            ("*", "cansubscribe", Some("cansubscribe")),
            ("*", "cansubscribe:*", Some("cansubscribe:*")),
            ("*", "*", Some("*")),
            ("canpublish:*", "canpublish:check", Some("canpublish:check")),
            ("foo:*", "foo", None),
            ("foo:*", "foo:bar:*", Some("foo:bar:*")),
            ("foo:*:baz", "foo:bar:*", Some("foo:bar:baz")),
            ("foo:*:baz", "foo:bar:qux", None),
            ("foo:*:baz", "foo:*", Some("foo:*:baz")),
            ("foo:*:baz", "*:bar:baz", Some("foo:bar:baz")),
            ("foo", "bar", None),
            ("a:b", "a:b:c", None),
            ("[*]*", "*", Some("*")),
            ("[*]*", "[meta]log", Some("[meta]log")),
            ("[*]*", "[*]foo", Some("[*]foo")),
            ("[meta]*", "*", None),
            ("[meta]*", "[queue]*", None),
            ("[meta]*", "[meta]log", Some("[meta]log")),
        ] {
            assert_eq!(intersect_patterns(one, other).as_deref(), both, "{one} and {other}");
            assert_eq!(intersect_patterns(other, one).as_deref(), both, "{other} and {one}");
        }
    }

    #[test]
    fn capabilities_intersect_by_resource_and_operation() {
        for (one, other, both) in [
            (r#"{"a":["publish"]}"#, r#"{"a":["subscribe"]}"#, "{}"),
            (r#"{"a":["publish"]}"#, r#"{"b":["publish"]}"#, "{}"),
            (
                r#"{"a":["*"]}"#,
                r#"{"a":["subscribe","publish"]}"#,
                r#"{"a":["publish","subscribe"]}"#,
            ),
            (r#"{"*":["*"]}"#, r#"{"a":["*"]}"#, r#"{"a":["*"]}"#),
            (
                r#"{"a":["*"]}"#,
                r#"{"*":["subscribe"],"a":["publish"]}"#,
                r#"{"a":["publish","subscribe"]}"#,
            ),
            (
                r#"{"p:*":["publish"],"p:x":["presence","publish"]}"#,
                r#"{"p:*":["publish"],"p:x":["presence","publish"]}"#,
                r#"{"p:*":["publish"],"p:x":["presence","publish"]}"#,
            ),
        ] {
            let parse = |text| Capability::parse(text).expect("valid");
            assert_eq!(parse(one).intersection(&parse(other)).to_string(), both, "{one} {other}");
            assert_eq!(parse(other).intersection(&parse(one)).to_string(), both, "{other} {one}");
        }
    }

    #[test]
    fn an_intersection_permits_what_both_permit() {
        let texts = [
            r#"{"*":["subscribe"],"a:*":["publish"],"a:b":["history"]}"#,
            r#"{"a:*:c":["*"],"[meta]*":["subscribe"],"b":["publish","subscribe"]}"#,
            r#"{"[*]*":["subscribe","history"]}"#,
            r#"{"a:b":["*"],"*:b":["publish"]}"#,
        ];
        let names = ["a", "b", "a:b", "a:b:c", "a:x:c", "x:b", "[meta]log", "[meta]a:b"];
        let capabilities = texts.map(|text| Capability::parse(text).expect("valid"));
        for one in &capabilities {
            for other in &capabilities {
                let both = one.intersection(other);
                for name in names {
                    for (_, operation) in Operation::ALL {
                        let expected =
                            one.allows(name, *operation) && other.allows(name, *operation);
                        assert_eq!(both.allows(name, *operation), expected, "{one} {other} {name}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_canonical_form_is_sorted_and_keeps_what_a_key_has() {
        let text = r#"{ "b":["subscribe","publish"], "a":["*"], "c":["zap","stats","zap"] }"#;
        let capability = Capability::parse_lenient(text).expect("lenient");
        let canonical = r#"{"a":["*"],"b":["publish","subscribe"],"c":["stats","zap"]}"#;
        assert_eq!(capability.to_string(), canonical);
        assert!(Capability::parse(text).is_err());
        let all = Capability::parse(r#"{"c":["*"]}"#).expect("valid");
        assert_eq!(all.intersection(&capability).to_string(), r#"{"c":["stats","zap"]}"#);
    }
}
