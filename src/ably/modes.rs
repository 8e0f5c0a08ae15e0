//! Flags of ATTACH and ATTACHED, and the modes among them (3.3, 6.3).

use super::{Capability, Operation, Params};

/// Status bits of protocol messages.
pub mod flags {
    /// ATTACHED: a SYNC follows.
    pub const HAS_PRESENCE: u64 = 1;
    /// ATTACHED: replayed messages follow.
    pub const HAS_BACKLOG: u64 = 1 << 1;
    /// ATTACHED: nothing was lost since the last attach.
    pub const RESUMED: u64 = 1 << 2;
    /// ATTACH: the client was attached before, so that there is nothing to rewind.
    pub const ATTACH_RESUME: u64 = 1 << 5;
}

/// What an attachment may do: a subset of the mode bits, in their places on the wire. What its client
/// had asked for is remembered in the lower half, since another capability may grant more of that
/// (RTC8a1); it counts for nothing else.
#[derive(Clone, Copy, Debug, Default)]
pub struct Modes(u32);

/// Where the mode bits are; what was asked for is as far below.
const GRANTED: u32 = 0xffff_0000;

impl PartialEq for Modes {
    fn eq(&self, other: &Modes) -> bool {
        self.bits() == other.bits()
    }
}

impl Eq for Modes {}

/// Mode, its name in params, and the operation that grants it; in canonical order.
const TABLE: [(Modes, &str, Operation); 8] = [
    (Modes::PRESENCE, "presence", Operation::Presence),
    (Modes::PUBLISH, "publish", Operation::Publish),
    (Modes::SUBSCRIBE, "subscribe", Operation::Subscribe),
    (Modes::PRESENCE_SUBSCRIBE, "presence_subscribe", Operation::Subscribe),
    (Modes::ANNOTATION_PUBLISH, "annotation_publish", Operation::AnnotationPublish),
    (Modes::ANNOTATION_SUBSCRIBE, "annotation_subscribe", Operation::AnnotationSubscribe),
    (Modes::OBJECT_SUBSCRIBE, "object_subscribe", Operation::ObjectSubscribe),
    (Modes::OBJECT_PUBLISH, "object_publish", Operation::ObjectPublish),
];

/// Operations that change messages.
const CHANGES: [Operation; 4] = [
    Operation::MessageUpdateOwn,
    Operation::MessageUpdateAny,
    Operation::MessageDeleteOwn,
    Operation::MessageDeleteAny,
];

impl Modes {
    /// Enter presence.
    pub const PRESENCE: Modes = Modes(1 << 16);
    /// Publish messages.
    pub const PUBLISH: Modes = Modes(1 << 17);
    /// Receive messages.
    pub const SUBSCRIBE: Modes = Modes(1 << 18);
    /// Receive presence.
    pub const PRESENCE_SUBSCRIBE: Modes = Modes(1 << 19);
    /// Publish annotations.
    pub const ANNOTATION_PUBLISH: Modes = Modes(1 << 21);
    /// Receive raw annotations.
    pub const ANNOTATION_SUBSCRIBE: Modes = Modes(1 << 22);
    /// Receive LiveObjects.
    pub const OBJECT_SUBSCRIBE: Modes = Modes(1 << 24);
    /// Change LiveObjects.
    pub const OBJECT_PUBLISH: Modes = Modes(1 << 25);

    /// What an ATTACH gets that asks for nothing in particular.
    pub const DEFAULT: Modes = Modes(
        Modes::PRESENCE.0
            | Modes::PUBLISH.0
            | Modes::SUBSCRIBE.0
            | Modes::PRESENCE_SUBSCRIBE.0
            | Modes::ANNOTATION_PUBLISH.0,
    );

    /// What somebody does who listens over HTTP (14).
    pub const LISTENER: Modes = Modes(Modes::SUBSCRIBE.0 | Modes::PRESENCE_SUBSCRIBE.0);

    /// What an ATTACH asks for: by param, else by flags, else the default.
    pub fn requested(flags: u64, params: &Params) -> Modes {
        let every = TABLE.iter().fold(0, |bits, (mode, ..)| bits | mode.0);
        match (params.get("modes"), flags as u32 & every) {
            (Some(names), _) => {
                let named = |(_, name, _): &&(Modes, &str, Operation)| {
                    names.split(',').any(|wanted| wanted.trim().eq_ignore_ascii_case(name))
                };
                TABLE
                    .iter()
                    .filter(named)
                    .fold(Modes(0), |modes, (mode, ..)| Modes(modes.0 | mode.0))
            }
            (None, 0) => Modes::DEFAULT,
            (None, bits) => Modes(bits),
        }
    }

    /// Those that the capability permits on the channel `name`. LiveObjects are not served, so their
    /// modes are never granted: SDKs then refuse object calls by themselves (16.3).
    pub fn granted_by(self, capability: &Capability, name: &str) -> Modes {
        let asked = self.0 & GRANTED;
        let served = asked & !(Modes::OBJECT_SUBSCRIBE.0 | Modes::OBJECT_PUBLISH.0);
        // Whoever may change messages does so by publishing.
        let changes = || CHANGES.iter().any(|change| capability.allows(name, *change));
        let granted = |(mode, _, operation): &&(Modes, &str, Operation)| {
            let is_permitted =
                capability.allows(name, *operation) || (*mode == Modes::PUBLISH && changes());
            served & mode.0 != 0 && is_permitted
        };
        let none = Modes(asked >> GRANTED.trailing_zeros());
        TABLE.iter().filter(granted).fold(none, |modes, (mode, ..)| Modes(modes.0 | mode.0))
    }

    /// Those of what the client had asked for that another capability permits.
    pub fn regranted_by(self, capability: &Capability, name: &str) -> Modes {
        Modes(self.0 << GRANTED.trailing_zeros()).granted_by(capability, name)
    }

    /// Those that are among `modes` as well.
    pub fn only(self, modes: Modes) -> Modes {
        let bits = modes.0 & GRANTED;
        // What was asked for beyond them is not to be had later either.
        Modes(self.0 & (bits | bits >> GRANTED.trailing_zeros()))
    }

    /// The bits, for `flags`.
    pub fn bits(self) -> u64 {
        (self.0 & GRANTED).into()
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.bits() == 0
    }

    /// Whether all of `modes` are among these.
    pub fn contains(self, modes: Modes) -> bool {
        self.bits() & modes.bits() == modes.bits()
    }

    /// Names in canonical order, as the param `modes` wants them.
    pub fn names(self) -> String {
        let names =
            TABLE.iter().filter(|(mode, ..)| self.contains(*mode)).map(|(_, name, _)| *name);
        names.collect::<Vec<_>>().join(",")
    }
}

/// Which kinds of a channel's events an attachment is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Wants(u8);

impl Wants {
    /// MESSAGE.
    pub const MESSAGES: Wants = Wants(1);
    /// PRESENCE and SYNC.
    pub const PRESENCE: Wants = Wants(1 << 1);
    /// ANNOTATION.
    pub const ANNOTATIONS: Wants = Wants(1 << 2);

    /// What an attachment with `modes` is sent.
    pub fn of(modes: Modes) -> Wants {
        let kinds = [
            (Modes::SUBSCRIBE, Wants::MESSAGES),
            (Modes::PRESENCE_SUBSCRIBE, Wants::PRESENCE),
            (Modes::ANNOTATION_SUBSCRIBE, Wants::ANNOTATIONS),
        ];
        let wanted = kinds.iter().filter(|(mode, _)| modes.contains(*mode));
        wanted.fold(Wants(0), |wants, (_, kind)| Wants(wants.0 | kind.0))
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether all of `kinds` are among these.
    pub fn contains(self, kinds: Wants) -> bool {
        self.0 & kinds.0 == kinds.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn params_win_over_flags_and_flags_over_the_default() {
        let params: Params =
            [("modes".into(), "subscribe,publish,unknown".into())].into_iter().collect();
        let modes = Modes::requested(Modes::PRESENCE.bits(), &params);
        assert_eq!(modes.names(), "publish,subscribe");
        let none = Params::default();
        assert_eq!(Modes::requested(Modes::PRESENCE.bits() | 4, &none), Modes::PRESENCE);
        assert_eq!(Modes::requested(32, &none), Modes::DEFAULT);
    }

    #[test]
    fn a_capability_grants_what_it_permits() {
        let capability = Capability::parse(r#"{"room":["subscribe"]}"#).expect("valid");
        let granted = Modes::DEFAULT.granted_by(&capability, "room");
        assert_eq!(granted.names(), "subscribe,presence_subscribe");
        assert!(Modes::DEFAULT.granted_by(&capability, "other").is_empty());
    }

    #[test]
    fn another_capability_grants_what_was_asked_for_and_no_more() {
        let capability = |text| Capability::parse(text).expect("valid");
        let narrow = capability(r#"{"room":["subscribe"]}"#);
        let wide = capability(r#"{"room":["*"]}"#);
        let modes =
            Modes::requested((Modes::PUBLISH.bits()) | Modes::SUBSCRIBE.bits(), &Params::default());
        let granted = modes.granted_by(&narrow, "room");
        assert_eq!(granted, Modes::SUBSCRIBE);
        let regranted = granted.regranted_by(&wide, "room");
        assert_eq!(regranted.names(), "publish,subscribe");
        assert_eq!(regranted.regranted_by(&narrow, "room"), Modes::SUBSCRIBE);
        let only = granted.only(Modes::SUBSCRIBE);
        assert_eq!(only.regranted_by(&wide, "room"), Modes::SUBSCRIBE);
    }
}
