//! Ably's protocol as pure functions: protocol messages, their JSON and MessagePack codecs, serials,
//! channel names, capabilities and error codes. Section numbers in comments (4.5) are those of
//! `PROTOCOL.md`; ids like `TM2a` are the features spec's.
//!
//! A payload is validated once and then walked in place ([`decode`]); what a message carries is kept
//! in one canonical form ([`Message`]) from which either format is written.

mod annotation;
mod batch;
mod capability;
mod change;
mod channel_name;
mod channel_params;
mod checks;
mod credentials;
mod delta;
mod directory;
mod error;
mod events;
mod extras;
mod filter;
mod gate;
mod history;
mod identity;
mod inbound;
mod json;
mod jwt;
mod lifecycle;
mod message;
mod modes;
mod msgpack;
mod occupancy;
mod outbound;
mod presence;
mod primitives;
mod principal;
mod publish;
mod question;
mod rest;
mod revision;
mod revocation;
mod rule;
mod sandbox;
mod serial;
mod since;
mod stats;
#[cfg(test)]
mod tests;
mod token;
mod value;
pub mod vcdiff;
mod writer;

pub use annotation::{
    Aggregation, Annotation, AnnotationAction, AnnotationDraft, AnnotationPage, Annotations,
    AnnotationsPublication, encode_annotations, validate_annotations,
};
pub use batch::{
    BATCH_CHANNELS_MAX, BATCH_PUBLISHES_MAX, BatchItem, BatchSpec, decode_batch,
    encode_batch_presence, encode_batch_publish, encode_legacy_batch_presence,
    encode_legacy_batch_publish,
};
pub use capability::{Capability, CapabilityError, Operation};
pub use change::Change;
pub use channel_name::{CHANNEL_NAME_BYTES_MAX, ChannelName};
pub use channel_params::{ChannelParams, REWIND_MESSAGES_MAX, Rewind};
pub use credentials::{ApiKey, decode_basic};
pub use delta::Delta;
pub use directory::{Ack, App, AppLimits, AppSpec, Directory, Key, KeySpec, Namespace};
pub use error::{ErrorCode, ErrorInfo};
pub use events::{EventFraming, EventShape};
pub use filter::{FILTER_BYTES_MAX, Filter, Subject};
pub use gate::{
    Answered, Gate, Inquiry, OnFailure, QuestionShape, Replacement, Verdict, read_verdict,
};
pub use history::{Direction, HistoryItem, HistoryPage, HistoryQuery, Position};
pub use identity::{Identity, Publisher};
pub use inbound::{Action, Draft, PARAMS_MAX, Params, ProtocolMessage, VersionDraft, decode};
pub use lifecycle::{Lifecycle, LifecycleEvent};
pub use message::{Data, Message, Publication, encode_message, encode_part, encode_publication};
pub use modes::{Modes, Wants, flags};
pub use occupancy::{Category, Metric, Metrics, encode_occupancy};
pub use outbound::{ConnectionDetails, Outbound, PublishResult, encode};
pub use presence::{
    MembersPage, MembersQuery, PresenceAction, PresenceChange, PresenceEvents, PresenceHistoryPage,
    PresenceMessage, PresenceRequest, encode_members, encode_presence, encode_presence_history,
    encode_sync,
};
pub use principal::{Principal, Token};
pub use publish::{Accepted, MESSAGES_MAX, Messages, validate};
pub use question::{Answer, ChannelsQuery, ListedChannel, Question, Survey, merge_channels};
pub use rest::{
    decode_annotations, decode_publish, encode_annotation_page, encode_channel, encode_channels,
    encode_error, encode_history, encode_json, encode_publish_result, encode_time,
    encode_version_result,
};
pub use revision::{MessageAction, Mutation, Revision, Version, no_such_message};
pub use revocation::{Revocation, Target};
pub use rule::{
    ChannelFilter, ContentType, RULE_FILTER_BYTES_MAX, RequestShape, Rule, RuleEvent, RuleSource,
    Rules, WhenFull, batch_body, lifecycle_event, message_events, occupancy_event, presence_events,
};
pub use sandbox::{
    FixtureChannel, FixtureMember, NewApp, STATS_MAX, StatsFixture, decode_new_app, decode_stats,
    encode_new_app,
};
pub use serial::{ChannelSerial, SerialClock, SerialError, SeriesId};
pub use since::Since;
pub use stats::{
    Counter, IntervalTally, StatsQuery, StatsShape, StatsUnit, Tally, encode_stats, merge_stats,
    parse_interval, read_stats_fixture, select_stats,
};
pub use token::{CLOCK_WINDOW_MS, TokenDetails, TokenGrant, TokenRequest};
pub use value::{DEPTH_MAX, DecodeError, Field};

/// How the frames of one transport, or one HTTP body, are encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// JSON, in text frames.
    Json,
    /// MessagePack with the JSON field names as keys, in binary frames.
    MsgPack,
}

impl Format {
    /// Both formats, for tables indexed by `format as usize`.
    pub const ALL: [Format; 2] = [Format::Json, Format::MsgPack];
}
