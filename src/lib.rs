//! ringcast: one published message to very many WebSocket subscribers, in order, once.
//!
//! The layers, lowest first; `use crate::` points downwards only, and siblings do not know each other
//! (`tests/layering.rs` checks it). Layers 0 to 3 do no I/O: bytes and time come in as arguments,
//! bytes and deadlines go out as return values.
//!
//! | layer | module | what it is for |
//! | --- | --- | --- |
//! | 0 | [`sys`] | system calls, the socket ring, shared memory that the kernel reads; the only `unsafe` |
//! | 0 | [`base`] | time as a value, ids |
//! | 1 | [`ws`] | RFC 6455: headers, masks, UTF-8, close codes |
//! | 1 | [`http`] | HTTP/1.1: heads, bodies, responses |
//! | 1 | [`ably`] | protocol messages, their JSON and MessagePack codecs, errors, capabilities |
//! | 2 | [`channel`] | one channel: order, history; on a subscriber's core its frame log and cursors |
//! | 2 | [`connection`] | one client: protocol state, what it may do, what it is owed |
//! | 2 | [`journal`] | what outlives the process: segments, records, where each channel's events lie |
//! | 2 | [`rest`] | one HTTP request and its answer |
//! | 2 | [`tls`] | TLS records of one client, without I/O |
//! | 3 | [`shard`] | everything one core owns |
//! | 4 | [`sim`] | shards under a clock, a network and a chance of its own making; feature `sim`, and tests |
//! | 4 | [`hooks`] | delivery of events to endpoints, functions and queues, on a thread beside the cores |
//! | 5 | [`admin`] | what operators ask of a running daemon, over HTTP on a thread beside the cores |
//! | 6 | [`server`] | executors, socket rings, the mesh between cores: all that is async on a core |
//! | 7 | [`config`] | flags and file to the structs that the layers below define |
//! | 7 | [`bench`] | the load generator behind `ringcast bench` |
//! | 8 | [`doctor`] | what keeps a host from running the daemon, and what a configuration takes of it |

pub mod ably;
pub mod admin;
pub mod base;
pub mod bench;
pub mod channel;
pub mod config;
pub mod connection;
pub mod doctor;
pub mod hooks;
pub mod http;
pub mod journal;
pub mod rest;
pub mod server;
pub mod shard;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
pub mod sys;
pub mod tls;
pub mod ws;
