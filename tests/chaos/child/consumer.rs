//! Consumes through the bus; its handlers write down when they start and how they end.

use super::{Leave, Part, connect};
use crate::history::{Entry, Id, Log};
use crate::work::{Outcome, Work, id_of_event};
use keylane::{Bus, DeadLetter, Event, HandlerError, Retry, SubscribeError, Subscription};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Consumer {
    /// Of its bus, in TOML.
    pub config: String,
    pub topic: String,
    pub dead: String,
    pub group: String,
    pub work: Work,
    pub workers: usize,
    pub is_async: bool,
    /// How long it may drain when it is asked to leave.
    pub drain: Duration,
}

/// Writes what is missing when a future is dropped before its end.
struct Running<'a> {
    log: &'a Log,
    id: Id,
    has_ended: bool,
}

impl Running<'_> {
    fn start(log: &Log, id: Id, attempt: u32) -> Running<'_> {
        log.append(Entry::Start(id, attempt));
        Running { log, id, has_ended: false }
    }

    fn end(mut self, outcome: Outcome) -> Result<(), HandlerError> {
        self.has_ended = true;
        match outcome {
            Outcome::Succeeds => {
                self.log.append(Entry::Done(self.id));
                Ok(())
            }
            Outcome::Fails => {
                self.log.append(Entry::Failed(self.id));
                Err("it fails, as the run wants it".into())
            }
        }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if !self.has_ended {
            self.log.append(Entry::Dropped(self.id));
        }
    }
}

impl Consumer {
    pub(super) fn run(&self, part: &Part) {
        let log = Arc::new(Log::open(&part.log));
        let (leave, waiting) = Leave::watch();
        let Some(bus) = connect(&self.config, &leave) else { return };
        let Some(subscription) = self.subscribe(&bus, &log, &leave) else { return };
        let ready = subscription.ready();
        // Not the end of it: the process may be asked to leave before the group has taken it in.
        let watched = log.clone();
        thread::spawn(move || {
            if ready.wait().is_ok() {
                watched.append(Entry::Ready);
            }
        });
        let _ = waiting.recv();
        let report = subscription.drain(self.drain).wait();
        tracing::info!(unsettled = report.unsettled.len(), running = report.still_running.len(), "drained");
        bus.close(self.drain).wait();
    }

    /// Subscribes, also while the broker is away; none if the process was asked to leave meanwhile.
    fn subscribe(&self, bus: &Bus, log: &Arc<Log>, leave: &Leave) -> Option<Subscription> {
        while !leave.is_asked() {
            match self.try_subscribe(bus, log) {
                Ok(subscription) => return Some(subscription),
                Err(error) => tracing::warn!(%error, "trying to subscribe again"),
            }
            thread::sleep(Duration::from_millis(100));
        }
        None
    }

    fn try_subscribe(&self, bus: &Bus, log: &Arc<Log>) -> Result<Subscription, SubscribeError> {
        let (work, log) = (self.work, log.clone());
        let backoff = Duration::from_millis(5)..Duration::from_millis(100);
        let builder = bus
            .subscribe_envelopes(&self.topic)
            .group(&self.group)
            .workers(self.workers)
            .retry(Retry::exponential(backoff).attempts(Work::ATTEMPTS))
            .then(DeadLetter::to(&self.dead));
        if self.is_async {
            return builder.handle_async(move |event: Event| {
                let log = log.clone();
                async move {
                    let (id, attempt) = (id_of_event(&event), event.attempt());
                    let running = Running::start(&log, id, attempt);
                    smol::Timer::after(work.takes(id)).await;
                    running.end(work.outcome(id, attempt))
                }
            });
        }
        builder.handle(move |event| {
            let (id, attempt) = (id_of_event(event), event.attempt());
            let running = Running::start(&log, id, attempt);
            thread::sleep(work.takes(id));
            running.end(work.outcome(id, attempt))
        })
    }
}
