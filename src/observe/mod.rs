//! What can be seen of a bus while it runs: counters, and what is wrong just now.

#[cfg(not(loom))]
pub(crate) mod health;
pub(crate) mod metrics;
#[cfg(not(loom))]
pub(crate) mod report;
