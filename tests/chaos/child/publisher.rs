//! Publishes numbered Envelopes, and writes down which of them the broker acknowledged.

use super::{Leave, Part, connect};
use crate::history::{Entry, Id, Log};
use crate::work::{Work, envelope};
use keylane::{Op, PublishError, Receipt};
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, VecDeque};
use std::thread;
use std::time::{Duration, Instant};

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Publisher {
    /// Of its bus, in TOML.
    pub config: String,
    pub topic: String,
    pub work: Work,
    pub seed: u64,
    /// For each second.
    pub rate: u32,
    /// It ends when it has published so many.
    pub count: Option<u64>,
    /// Where it goes on, by key: one behind what the publisher before it has receipts for.
    pub next: HashMap<u32, u32>,
}

type Pending = VecDeque<(Id, Op<Result<Receipt, PublishError>>)>;

impl Publisher {
    pub(super) fn run(&self, part: &Part) {
        let log = Log::open(&part.log);
        let (leave, _waiting) = Leave::watch();
        let Some(bus) = connect(&self.config, &leave) else { return };
        log.append(Entry::Ready);
        let mut random = fastrand::Rng::with_seed(self.seed ^ u64::from(part.member));
        let mut next = self.next.clone();
        let mut pending = Pending::new();
        let (started, mut published) = (Instant::now(), 0);
        let limit = self.count.unwrap_or(u64::MAX);
        while !leave.is_asked() && published < limit {
            let due = (started.elapsed().as_secs_f64() * f64::from(self.rate)) as u64;
            while published < due.min(limit) {
                let key = self.work.key(&mut random);
                let n = next.entry(key).or_default();
                let id = Id { key, producer: part.member, n: *n };
                *n += 1;
                published += 1;
                pending.push_back((id, bus.publish(&self.topic, envelope(id))));
                answered(&mut pending, &log, false);
                if leave.is_asked() {
                    break;
                }
            }
            answered(&mut pending, &log, false);
            thread::sleep(Duration::from_millis(2));
        }
        answered(&mut pending, &log, true);
        bus.close(Duration::from_secs(10)).wait();
    }
}

/// Writes down what has an answer, in the order of the calls; with `all` what has none yet, too, when it has.
fn answered(pending: &mut Pending, log: &Log, all: bool) {
    while all || pending.front().is_some_and(|(_, op)| op.is_done()) {
        let Some((id, op)) = pending.pop_front() else { return };
        match op.wait() {
            Ok(_) => log.append(Entry::Acked(id)),
            Err(error) => {
                tracing::error!(%error, %id, "a publish failed");
                log.append(Entry::Refused(id));
            }
        }
    }
}
