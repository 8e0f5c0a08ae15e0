//! The shards that ship, under a clock, a network and a chance of the simulator's making. One seed and one
//! commit tell one story.

pub mod frame;
mod host;
mod random;

pub use self::host::{Client, Host, Tamper};
pub use self::random::Random;
