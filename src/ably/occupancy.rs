//! Occupancy (6.9): how many attachments of each kind a channel has.

use super::writer::write_map;
use super::{Action, Format, Modes};

/// One of the numbers; the order is that of [`Metrics`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Metric {
    /// Attachments of any kind.
    Connections,
    /// Attachments that may publish.
    Publishers,
    /// Attachments that receive messages.
    Subscribers,
    /// Attachments that may enter presence.
    PresenceConnections,
    /// Presence members.
    PresenceMembers,
    /// Attachments that receive presence.
    PresenceSubscribers,
    /// Attachments that may change LiveObjects.
    ObjectPublishers,
    /// Attachments that receive LiveObjects.
    ObjectSubscribers,
}

/// Metrics, their names on the wire (CHM2), and the mode that an attachment counts for.
const TABLE: [(Metric, &str, Option<Modes>); Metrics::COUNT] = [
    (Metric::Connections, "connections", None),
    (Metric::Publishers, "publishers", Some(Modes::PUBLISH)),
    (Metric::Subscribers, "subscribers", Some(Modes::SUBSCRIBE)),
    (Metric::PresenceConnections, "presenceConnections", Some(Modes::PRESENCE)),
    (Metric::PresenceMembers, "presenceMembers", None),
    (Metric::PresenceSubscribers, "presenceSubscribers", Some(Modes::PRESENCE_SUBSCRIBE)),
    (Metric::ObjectPublishers, "objectPublishers", Some(Modes::OBJECT_PUBLISH)),
    (Metric::ObjectSubscribers, "objectSubscribers", Some(Modes::OBJECT_SUBSCRIBE)),
];

/// Which of the numbers an attachment wants to hear of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Category {
    /// All of them.
    All,
    /// This one.
    One(Metric),
}

impl Category {
    /// Reads `metrics` or `metrics.<name>`; `None` for anything else.
    pub fn parse(text: &str) -> Option<Category> {
        let name = text.strip_prefix("metrics")?;
        if name.is_empty() {
            return Some(Category::All);
        }
        let name = name.strip_prefix('.')?;
        let known = TABLE.iter().find(|(_, known, _)| *known == name);
        known.map(|(metric, ..)| Category::One(*metric))
    }

    fn has(self, metric: Metric) -> bool {
        match self {
            Category::All => true,
            Category::One(only) => only == metric,
        }
    }
}

/// The numbers of one channel, or of one shard's part of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Metrics([u32; Metrics::COUNT]);

impl Metrics {
    const COUNT: usize = 8;

    /// What one attachment with `modes` adds.
    pub fn of_attachment(modes: Modes) -> Metrics {
        let mut metrics = Metrics::default();
        for (metric, _, mode) in TABLE {
            let counts = match mode {
                Some(mode) => modes.contains(mode),
                None => metric == Metric::Connections,
            };
            metrics.0[metric as usize] = counts.into();
        }
        metrics
    }

    /// One of the numbers.
    pub fn get(&self, metric: Metric) -> u32 {
        self.0[metric as usize]
    }

    /// Sets one of the numbers.
    pub fn set(&mut self, metric: Metric, value: u32) {
        self.0[metric as usize] = value;
    }

    /// Adds `other`, number by number.
    pub fn add(&mut self, other: &Metrics) {
        self.0.iter_mut().zip(other.0).for_each(|(own, other)| *own += other);
    }

    /// Takes away `other`, which was added before.
    pub fn subtract(&mut self, other: &Metrics) {
        for (own, other) in self.0.iter_mut().zip(other.0) {
            *own = own.checked_sub(other).expect("taken away is what was added");
        }
    }

    /// Every number with its name on the wire, in order.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, u32)> {
        TABLE.into_iter().zip(self.0).map(|((_, name, _), value)| (name, value))
    }

    /// Whether a number of `category` differs from that of `before`.
    pub fn differs(&self, before: &Metrics, category: Category) -> bool {
        let mut wanted = TABLE.iter().filter(|(metric, ..)| category.has(*metric));
        wanted.any(|(metric, ..)| self.get(*metric) != before.get(*metric))
    }

    /// Whether a number has become zero, or is no longer zero: such changes are told at once.
    pub fn crosses_zero(&self, before: &Metrics) -> bool {
        self.0.iter().zip(before.0).any(|(now, before)| (*now == 0) != (before == 0))
    }

    /// The JSON text that an occupancy event carries: `{"metrics":{..}}` with the numbers of `category`.
    pub fn to_json(&self, category: Category) -> String {
        let wanted = TABLE.iter().filter(|(metric, ..)| category.has(*metric));
        let entries = wanted.map(|(metric, name, _)| format!(r#""{name}":{}"#, self.get(*metric)));
        format!(r#"{{"metrics":{{{}}}}}"#, entries.collect::<Vec<_>>().join(","))
    }
}

/// Appends the MESSAGE that tells attachments to `channel` its occupancy: `metrics` is the JSON text of
/// [`Metrics::to_json`]. It has no place in the channel's order and so no channelSerial.
pub fn encode_occupancy(
    format: Format,
    channel: &str,
    id: &str,
    timestamp_ms: u64,
    metrics: &str,
    out: &mut Vec<u8>,
) {
    write_map(format, out, |map| {
        map.uint("action", Action::Message.number());
        map.str("id", id);
        map.str("channel", channel);
        map.uint("timestamp", timestamp_ms);
        map.array("messages", std::iter::once(()), |(), out| {
            write_map(format, out, |map| {
                map.str("id", &format!("{id}:0"));
                map.str("name", "[meta]occupancy");
                map.str("data", metrics);
                map.str("encoding", "json");
                map.uint("action", 0);
            });
        });
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_metrics() {
        for (index, (metric, name, _)) in TABLE.iter().enumerate() {
            assert_eq!(*metric as usize, index);
            assert_eq!(Category::parse(&format!("metrics.{name}")), Some(Category::One(*metric)));
        }
        assert_eq!(Category::parse("metrics"), Some(Category::All));
        for wrong in ["", "metric", "metrics.", "metrics.all", "metricsx"] {
            assert_eq!(Category::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn attachments_count_by_their_modes() {
        let mut metrics = Metrics::of_attachment(Modes::DEFAULT);
        metrics.add(&Metrics::of_attachment(Modes::SUBSCRIBE));
        assert_eq!(
            metrics.to_json(Category::All),
            r#"{"metrics":{"connections":2,"publishers":1,"subscribers":2,"presenceConnections":1,"presenceMembers":0,"presenceSubscribers":1,"objectPublishers":0,"objectSubscribers":0}}"#
        );
        metrics.subtract(&Metrics::of_attachment(Modes::DEFAULT));
        assert_eq!(metrics, Metrics::of_attachment(Modes::SUBSCRIBE));
        assert_eq!(
            metrics.to_json(Category::One(Metric::Publishers)),
            r#"{"metrics":{"publishers":0}}"#
        );
    }

    #[test]
    fn a_change_counts_in_its_category_and_at_once_when_it_touches_zero() {
        let one = Metrics::of_attachment(Modes::SUBSCRIBE);
        let mut two = one;
        two.add(&Metrics::of_attachment(Modes::SUBSCRIBE));
        assert!(two.differs(&one, Category::All));
        assert!(two.differs(&one, Category::One(Metric::Subscribers)));
        assert!(!two.differs(&one, Category::One(Metric::Publishers)));
        assert!(!two.crosses_zero(&one));
        assert!(one.crosses_zero(&Metrics::default()));
        assert!(Metrics::default().crosses_zero(&one));
    }
}
