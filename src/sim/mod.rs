//! The shards that ship, under a clock, a network and a chance of the simulator's making. One seed and one
//! commit tell one story.
//!
//! | file | what |
//! | --- | --- |
//! | `host.rs` | shards and the mesh, from start to end; unit tests of the shards use it too |
//! | `host/client.rs` | sockets and the network |
//! | `host/turn.rs` | a turn of a shard |
//! | `sabotage.rs` | what is done to a run on purpose |
//! | `disk.rs` | files that survive the process, and a disk that fails |
//! | `sdk/` | a client as Ably's SDKs are |
//! | `listener.rs` | a client that listens over HTTP |
//! | `rest.rs` | requests over HTTP |
//! | `revocations.rs` | tokens that were revoked, and what may not happen to them |
//! | `wire.rs` | JSON and MessagePack, as clients read and write them |
//! | `payload.rs` | what messages carry |
//! | `credentials.rs` | who clients are and what each may do |
//! | `members.rs` | who is present, as a client knows it |
//! | `repertoire.rs` | which of the later additions a run has |
//! | `rules.rs` | rules that a run has |
//! | `helper.rs` | who delivers what is for rules, and asks them |
//! | `world.rs` | what happens in a run |
//! | `world/wishes.rs` | what applications of clients want |
//! | `world/faults.rs` | what goes wrong |
//! | `world/end.rs` | how everybody comes to rest, and leaves |
//! | `world/additions.rs` | what happens in runs that can do more |
//! | `world/listeners.rs` | what happens to those who listen over HTTP |
//! | `world/rules.rs` | what rules are told and decide |
//! | `world/kills.rs` | ends of the process and the host, and starts behind them |
//! | `oracle.rs` | who judges it |
//! | `oracle/publishes.rs` | the same, of what clients have asked to be published |
//! | `oracle/continuities.rs` | the same, of what they were sent |
//! | `oracle/versions.rs` | the same, of messages that change |
//! | `oracle/starts.rs` | the same, across starts |
//! | `oracle/gates.rs` | the same, of rules that decide |
//! | `oracle/ephemeral.rs` | the same, of what is delivered and forgotten |

mod credentials;
mod disk;
pub mod frame;
mod helper;
mod host;
mod listener;
mod members;
mod oracle;
mod payload;
mod random;
mod repertoire;
mod report;
mod rest;
mod revocations;
mod rules;
mod sabotage;
mod sdk;
mod wire;
mod world;

pub use self::disk::{Disk, EIO, ENOSPC};
pub use self::helper::{Helper, News};
pub use self::host::{Client, Host};
pub use self::members::Members;
pub use self::oracle::Finding;
pub use self::random::Random;
pub use self::report::Report;
pub use self::sabotage::{Doubt, Retold, Sabotage, Spoil, Tamper};
pub use self::world::run;

#[cfg(test)]
mod tests;
