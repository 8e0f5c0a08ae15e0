//! What the clients of a run can do beyond what they could at first. It is drawn from a stream of its own, and
//! not at all below [`WIDER_FROM`]: seeds that were run before go on telling the story that they told.

use std::sync::Arc;

use super::credentials::{ALL_GRANTS_COUNT, GRANTS_COUNT};
use super::payload::Kind;
use super::wire::Wire;
use super::{Random, rules};
use crate::ably::Rule;
use crate::shard::ShardConfig;

/// Seeds from here on draw more than clients could do at first.
pub const WIDER_FROM: u64 = 2_000_000;

/// Seeds from here on have rules too, and subscribers of other kinds.
pub const WIDEST_FROM: u64 = 6_000_000;

/// Seeds from here on change rules while they are in use, and publish what is delivered and forgotten.
pub const LATEST_FROM: u64 = 7_000_000;

/// What tells this stream from that of the run.
const SALT: u64 = 0x5ca1_ab1e_0ddb_a11e;

/// See the module text.
#[derive(Debug)]
pub struct Repertoire {
    /// What everything is drawn from that belongs to it.
    pub random: Random,
    /// Some clients speak MessagePack, and some messages are bytes or objects.
    pub has_formats: bool,
    /// Tokens are revoked.
    pub has_revocations: bool,
    /// Messages of one channel change.
    pub has_changes: bool,
    /// Clients attach with deltas as well.
    pub has_deltas: bool,
    /// Rules are asked before a publish.
    pub has_gates: bool,
    /// Rules are told of publishes.
    pub has_told: bool,
    /// Some clients listen over HTTP.
    pub has_listeners: bool,
    /// Clients lose what the next delta starts from.
    pub has_lost_bases: bool,
    /// Rules change.
    pub has_rule_changes: bool,
    /// Some publishes are delivered and forgotten.
    pub has_ephemeral: bool,
}

impl Repertoire {
    /// That of `seed`.
    pub fn new(seed: u64) -> Repertoire {
        let mut random = Random::new(seed ^ SALT);
        let mut chance = |one_in| seed >= WIDER_FROM && random.chance(one_in);
        let has_formats = chance(2);
        let has_revocations = chance(3);
        let (has_changes, has_deltas) = (chance(3), chance(3));
        let mut chance = |one_in| seed >= WIDEST_FROM && random.chance(one_in);
        let (has_gates, has_told) = (chance(3), chance(3));
        let (has_listeners, has_lost_bases) = (chance(3), has_deltas && chance(2));
        let mut chance = |one_in| seed >= LATEST_FROM && random.chance(one_in);
        let has_rule_changes = chance(2) && (has_gates || has_told);
        let has_ephemeral = chance(2);
        Repertoire {
            random,
            has_formats,
            has_revocations,
            has_changes,
            has_deltas,
            has_gates,
            has_told,
            has_listeners,
            has_lost_bases,
            has_rule_changes,
            has_ephemeral,
        }
    }

    /// The rules of a run.
    pub fn rules(&mut self) -> Vec<Arc<Rule>> {
        let mut rules = Vec::new();
        if self.has_gates {
            rules.extend(rules::asked(&mut self.random));
        }
        if self.has_told {
            rules.extend(rules::told(&mut self.random));
        }
        rules
    }

    /// How many clients listen over HTTP.
    pub fn listeners(&mut self) -> usize {
        if self.has_listeners { 1 + self.random.below(3) } else { 0 }
    }

    /// Whether a client loses its base now.
    pub fn loses_base(&mut self) -> bool {
        self.has_lost_bases && self.random.chance(10)
    }

    /// Whether a publish is to be delivered and forgotten.
    pub fn is_ephemeral(&mut self) -> bool {
        self.has_ephemeral && self.random.chance(3)
    }

    /// Whether rules change now.
    pub fn changes_rules(&mut self) -> bool {
        self.has_rule_changes && self.random.chance(12)
    }

    /// How many publishes of a channel may wait for the answers of rules.
    pub fn line_max(&mut self, is_narrow: bool) -> usize {
        let wide = ShardConfig::default().line_max;
        if is_narrow && self.has_gates { *self.random.one_of(&[1, 3, wide]) } else { wide }
    }

    /// How many of the grants there are clients may have.
    pub fn grants_count(&self) -> usize {
        if self.has_changes { ALL_GRANTS_COUNT } else { GRANTS_COUNT }
    }

    /// How a client speaks.
    pub fn wire(&mut self) -> Wire {
        match self.has_formats && self.random.chance(2) {
            true => Wire::MsgPack,
            false => Wire::Json,
        }
    }

    /// What kind of data a publish has.
    pub fn kind(&mut self) -> Kind {
        match self.has_formats {
            true => *self.random.one_of(&[Kind::Text, Kind::Bytes, Kind::Object]),
            false => Kind::Text,
        }
    }
}
