//! One channel. On its home core: order, serials, history, who subscribes. On a core with
//! subscribers: the frame log that they read from.

pub mod log;
