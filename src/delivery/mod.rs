//! What happens to a record between its delivery and its settling: which were delivered and are settled, what a
//! failure leads to, and what a dead letter says.
//!
//! Decisions only: values in, values out, with no thread, clock or socket.

pub(crate) mod assignment;
pub(crate) mod dead_letter;
pub(crate) mod lease;
pub(crate) mod ledger;
pub(crate) mod ownership;
pub(crate) mod partitions;
pub(crate) mod retry;

pub(crate) use assignment::{Assignment, Partition, Position};
pub(crate) use lease::Lease;
