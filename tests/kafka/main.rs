//! What Kafka adds to the contract, on a real broker.

#![allow(unreachable_pub, reason = "the modules of a test program have no public face")]

mod basics;
mod cluster;
mod errors;
mod failures;
mod false_acks;
mod keys;
mod load;
mod logs;
mod ownership;
mod positions;
mod rebalance;
mod security;
#[path = "../support/mod.rs"]
mod support;
mod waiting;
