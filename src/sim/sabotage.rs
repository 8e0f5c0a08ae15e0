//! What is done to a run on purpose, for tests of those who are to notice.

use super::{Disk, Random};
use crate::ably::Verdict;
use crate::shard::Mail;

/// Spoils mail between two shards: what it returns arrives in the place of what was sent. For tests of
/// those who are to notice.
pub type Tamper = Box<dyn FnMut(&mut Random, Mail) -> Vec<Mail>>;

/// Spoils a disk between two starts.
pub type Spoil = Box<dyn FnMut(&mut Random, &mut Disk)>;

/// Spoils what a shard is told that has asked a rule.
pub type Doubt = Box<dyn FnMut(&mut Random, Verdict) -> Verdict>;

/// How often a rule is told of an event.
pub type Retold = fn(&mut Random) -> usize;

/// What is done to a run, for tests of those who are to notice.
#[derive(Default)]
pub struct Sabotage {
    /// To mail between shards.
    pub tamper: Option<Tamper>,
    /// To what a start finds.
    pub disk: Option<Spoil>,
    /// To answers of rules.
    pub doubt: Option<Doubt>,
    /// To events for rules.
    pub retold: Option<Retold>,
}
