//! What the metachannels tell of an app's channels and connections (6.11).

use super::rest::write_channel;
use super::writer::write_map;
use super::{Data, Format, Message, Metrics};

/// A metachannel that has events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifecycle {
    /// `[meta]channel.lifecycle`
    Channels,
    /// `[meta]connection.lifecycle`
    Connections,
}

impl Lifecycle {
    /// All of them; each at its place as a number.
    pub const ALL: [Lifecycle; 2] = [Lifecycle::Channels, Lifecycle::Connections];

    /// The name of the metachannel.
    pub fn channel_name(self) -> &'static str {
        match self {
            Lifecycle::Channels => "[meta]channel.lifecycle",
            Lifecycle::Connections => "[meta]connection.lifecycle",
        }
    }

    /// Which metachannel the channel `name` is, if it is one of them.
    pub fn of(name: &str) -> Option<Lifecycle> {
        Lifecycle::ALL.into_iter().find(|known| known.channel_name() == name)
    }
}

/// Something begins or ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LifecycleEvent {
    /// A channel becomes active, or is no longer.
    Channel {
        /// Its name.
        name: Box<str>,
        /// Which of the two.
        is_active: bool,
        /// How many are attached and present then.
        metrics: Metrics,
    },
    /// A connection is opened, or is gone for good; what is lost and may come back is neither.
    Connection {
        /// Its public id.
        id: Box<str>,
        /// Who it is, if that is known.
        client_id: Option<Box<str>>,
        /// Which of the two.
        is_open: bool,
    },
}

impl LifecycleEvent {
    /// Where it is told.
    pub fn kind(&self) -> Lifecycle {
        match self {
            LifecycleEvent::Channel { .. } => Lifecycle::Channels,
            LifecycleEvent::Connection { .. } => Lifecycle::Connections,
        }
    }

    /// The message that tells it; of a channel its data is a ChannelDetails (13.7).
    pub fn message(&self) -> Message {
        let mut data = Vec::new();
        let name = match self {
            LifecycleEvent::Channel { name, is_active, metrics } => {
                write_channel(Format::Json, name, *is_active, metrics, &mut data);
                if *is_active { "channel.opened" } else { "channel.closed" }
            }
            LifecycleEvent::Connection { id, client_id, is_open } => {
                write_map(Format::Json, &mut data, |map| {
                    map.str("connectionId", id);
                    map.opt_str("clientId", client_id.as_deref());
                });
                if *is_open { "connection.opened" } else { "connection.closed" }
            }
        };
        let data = String::from_utf8(data).expect("JSON is text");
        Message {
            name: Some(name.into()),
            data: Data::Text(data.into()),
            encoding: Some("json".into()),
            ..Message::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::ChannelName;
    use super::*;

    #[test]
    fn a_lifecycle_is_a_metachannel_that_can_be_attached_to() {
        for (at, kind) in Lifecycle::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, at);
            let name = ChannelName::parse(kind.channel_name()).expect("legal");
            assert_eq!((Lifecycle::of(name.base()), name.is_read_only()), (Some(kind), true));
        }
        assert_eq!(Lifecycle::of("[meta]log"), None);
        assert_eq!(Lifecycle::of("channel.lifecycle"), None);
    }

    #[test]
    fn an_event_has_a_name_and_json_data() {
        let text = |event: LifecycleEvent| match event.message() {
            Message {
                name: Some(name), data: Data::Text(data), encoding: Some(encoding), ..
            } => {
                assert_eq!(&*encoding, "json");
                (name.into_string(), data.into_string())
            }
            other => panic!("{other:?}"),
        };
        let metrics = Metrics::default();
        let (name, data) =
            text(LifecycleEvent::Channel { name: "a\"b".into(), is_active: false, metrics });
        assert_eq!(name, "channel.closed");
        assert!(data.starts_with(
            r#"{"channelId":"a\"b","name":"a\"b","status":{"isActive":false,"occupancy":{"metrics":{"connections":0,"#
        ));
        let connection =
            LifecycleEvent::Connection { id: "c".into(), client_id: None, is_open: true };
        let told = ("connection.opened".to_owned(), r#"{"connectionId":"c"}"#.to_owned());
        assert_eq!(text(connection), told);
    }
}
