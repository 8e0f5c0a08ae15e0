//! Messages that change. Each change has its own place in the order; what a message is at some place follows
//! from the changes up to there, and is held against what anybody was shown of it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{Event, Oracle, Publish, Segment, channel_serial, publish_of};
use crate::sim::payload::Payload;

/// What is done to a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Its data is another.
    Update,
    /// It is marked as deleted, and keeps its data.
    Delete,
    /// Its data becomes longer.
    Append,
}

impl Action {
    /// Its number on the wire.
    pub fn number(self) -> u64 {
        match self {
            Action::Update => 1,
            Action::Delete => 2,
            Action::Append => 5,
        }
    }

    /// The operation that permits it, for everybody's messages or one's own.
    pub fn operations(self) -> [&'static str; 2] {
        match self {
            Action::Update | Action::Append => ["message-update-any", "message-update-own"],
            Action::Delete => ["message-delete-any", "message-delete-own"],
        }
    }
}

/// A change that a client has asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// What is done.
    pub action: Action,
    /// The serial of the message.
    pub target: String,
}

/// What somebody was shown of a message.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Shown {
    channel: String,
    /// The serial of the message.
    message: String,
    /// The channelSerial of the version.
    version: String,
    action: u64,
    /// What it begins with; none: it is an increment.
    base: Option<String>,
    /// What was appended to that.
    appended: Vec<String>,
}

impl Oracle {
    /// The tag of what was done last to a message that can change, as somebody was shown it.
    pub(super) fn read_version(
        &mut self,
        channel: &str,
        message: &Value,
        payload: Payload,
    ) -> String {
        let action = message["action"].as_u64().unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let version = text(&message["version"]["serial"]);
        let shown = Shown {
            channel: channel.to_owned(),
            message: text(&message["serial"]),
            version: channel_serial(&version).to_owned(),
            action,
            base: payload.tag.clone(),
            appended: payload.appended,
        };
        self.shown.insert(shown);
        match action {
            0 => payload.tag.unwrap_or_default(),
            _ => text(&message["version"]["description"]),
        }
    }

    /// The history of a channel at the end of a run, when everything is in it.
    pub fn show_latest(&mut self, channel: &str, history: &Value) {
        for message in history.as_array().into_iter().flatten() {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let version = channel_serial(&text(&message["version"]["serial"])).to_owned();
            self.latest.push((channel.to_owned(), text(&message["serial"]), version));
        }
    }

    /// The change that an event is, and where it lies.
    fn change_of(&self, tag: &str) -> Option<&Change> {
        self.publishes.get(publish_of(tag)?)?.change.as_ref()
    }

    /// Changes of a channel by message, in order: channelSerial, tag, what it does.
    fn changes(&self, channel: &str) -> BTreeMap<&str, Vec<(&str, &str, Action)>> {
        let mut changes: BTreeMap<&str, Vec<(&str, &str, Action)>> = BTreeMap::new();
        for (serial, event) in self.orders.get(channel).into_iter().flatten() {
            for tag in &event.tags {
                if let Some(change) = self.change_of(tag) {
                    let of_message = changes.entry(&change.target).or_default();
                    of_message.push((serial, tag, change.action));
                }
            }
        }
        changes
    }

    /// Whether an append came to an attachment with a later one: who comes back is sent a run of them as one. Of
    /// one that was cut off at `end` the later one may have been on its way.
    pub(super) fn is_collapsed(
        &self,
        segment: &Segment,
        end: &str,
        serial: &str,
        event: &Event,
    ) -> bool {
        let tag = event.tags.first();
        let Some(change) = tag.and_then(|tag| self.change_of(tag)) else { return false };
        if change.action != Action::Append {
            return false;
        }
        let Segment { channel, whole, complete_to, .. } = segment;
        let is_cut_off = complete_to.is_none();
        let changes = self.changes(channel);
        let of_message = changes.get(&*change.target).map_or(&[][..], Vec::as_slice);
        let behind = of_message.iter().filter(|(other, ..)| *other > serial);
        let mut run = behind.take_while(|(.., action)| *action == Action::Append);
        // Nobody was told of it.
        let is_another = |publish: &Publish| {
            publish.change.as_ref() == Some(change)
                && publish.tags != event.tags
                && publish.outcomes.is_empty()
        };
        run.any(|(other, ..)| whole.contains(*other) || is_cut_off && *other > end)
            || is_cut_off && self.publishes.iter().any(is_another)
    }

    /// Holds what was shown of messages against what was done to them.
    pub(super) fn judge_versions(&mut self) {
        let mut found = Vec::new();
        let channels: BTreeSet<&String> = self.shown.iter().map(|shown| &shown.channel).collect();
        for channel in channels {
            let changes = self.changes(channel);
            for shown in self.shown.iter().filter(|shown| shown.channel == *channel) {
                let of_message = changes.get(&*shown.message).map_or(&[][..], Vec::as_slice);
                found.extend(self.judge_shown(shown, of_message));
            }
            for (_, message, version) in self.latest.iter().filter(|(of, ..)| of == channel) {
                let of_message = changes.get(&**message).and_then(|of| of.last());
                if let Some((last, tag, _)) = of_message.filter(|(last, ..)| *last > &**version) {
                    let text = format!("{channel}: {message} is at {version}, not {last} {tag}");
                    found.push(text);
                }
            }
        }
        for text in found {
            self.find("versions", text);
        }
    }

    fn judge_shown(&self, shown: &Shown, changes: &[(&str, &str, Action)]) -> Option<String> {
        let Shown { message, version, action, base, appended, .. } = shown;
        let order = self.orders.get(&shown.channel)?;
        // What nobody was shown by itself, or was sent twice, may lie anywhere.
        let is_vague = |tag: &str| {
            let attempts = publish_of(tag).map_or(0, |number| self.publishes[number].attempts);
            attempts > 1 || changes.iter().all(|it| it.1 != tag)
        };
        let is_done = |tag: &str, action| {
            let is_that = |it: &Change| it.target == *message && it.action == action;
            self.change_of(tag).is_some_and(is_that)
        };
        let before = || changes.iter().filter(|it| it.0 <= &**version);
        let own = before().next_back().filter(|it| it.0 == version).map(|it| (it.1, it.2));
        let last_update = before().rfind(|it| it.2 == Action::Update);
        let first = order.get(channel_serial(message)).and_then(|event| event.tags.first());
        let since = last_update.map_or("", |it| it.0);
        let appends = before().filter(|it| it.2 == Action::Append && it.0 > since);
        let appends: Vec<&str> = appends.map(|it| it.1).filter(|tag| !is_vague(tag)).collect();
        let known = appended.iter().map(String::as_str).filter(|tag| !is_vague(tag));
        let known: Vec<&str> = known.collect();
        let is_right = match (base, own) {
            (None, Some((tag, Action::Append))) => *action == 5 && *appended == [tag],
            (None, _) => false,
            (Some(_), Some((_, Action::Delete))) if *action != 2 => false,
            (Some(_), Some((_, Action::Update | Action::Append))) if *action != 1 => false,
            _ if !appended.iter().all(|tag| is_done(tag, Action::Append)) => false,
            // It lies somewhere behind the last update whose place is known.
            (Some(base), _) if is_vague(base) && is_done(base, Action::Update) => {
                appends.ends_with(&known)
            }
            (Some(base), _) => {
                let known_base = last_update.map(|it| it.1).or(first.map(String::as_str));
                known_base.is_none_or(|known_base| known_base == base) && known == appends
            }
        };
        (!is_right).then(|| format!("{shown:?} is {first:?} {last_update:?} {appends:?}, {own:?}"))
    }
}
