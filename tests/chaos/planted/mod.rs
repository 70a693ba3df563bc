//! Consumers that are wrong on purpose, on the brokers' own client libraries: they show that a run finds what a wrong
//! bus does.

mod kafka;
mod nats;
#[cfg(test)]
mod tests;

use crate::child::{Leave, Part};
use crate::history::Log;
use crate::work::Work;
use serde::{Deserialize, Serialize};
use std::time::Duration;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Planted {
    pub address: String,
    pub topic: String,
    pub work: Work,
    pub fault: Mistake,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub enum Mistake {
    /// On Kafka: a record that failed waits in memory, its key with it, and the commits pass it.
    CommitPastPending { retry_after: Duration },
    /// On Kafka: when a partition is taken away, what runs and what waits goes on.
    SkippedDrain,
    /// On JetStream: what was fetched is acknowledged before it is handled.
    AckFirst,
}

impl Planted {
    pub fn run(&self, part: &Part) {
        let log = Log::open(&part.log);
        let (leave, _waiting) = Leave::watch();
        match self.fault {
            Mistake::CommitPastPending { retry_after } => {
                kafka::commit_past_pending(self, retry_after, &log, &leave);
            }
            Mistake::SkippedDrain => kafka::skip_the_drain(self, &log, &leave),
            Mistake::AckFirst => nats::ack_first(self, &log, &leave),
        }
    }
}
