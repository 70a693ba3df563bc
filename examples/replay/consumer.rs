//! The subscriptions, and what their handlers do with a row.

use crate::faults::{ATTEMPTS, Fate, Faults, planted_error, planted_panic};
use crate::ledger::Ledger;
use crate::options::Options;
use keylane::{
    Bus, DeadLetter, Envelope, Event, HandlerError, Retry, Stats, SubscribeError, Subscription,
    SubscriptionBuilder,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime};

type Error = Box<dyn std::error::Error + Send + Sync>;

pub(crate) const GROUP: &str = "replay";

/// The three topics of a replay.
pub(crate) struct Topics {
    pub(crate) keyed: String,
    pub(crate) unkeyed: String,
    pub(crate) dead: String,
}

impl Topics {
    pub(crate) fn new(name: &str) -> Self {
        Self { keyed: name.to_owned(), unkeyed: format!("{name}.unkeyed"), dead: format!("{name}.dead") }
    }
}

/// What handles the rows. Dropping it is the crash of `--crash-after`: nothing is drained.
pub(crate) struct Consumer {
    keyed: Subscription,
    unkeyed: Subscription,
}

impl Consumer {
    pub(crate) fn start(
        bus: &Bus,
        topics: &Topics,
        options: &Options,
        work: &Arc<Work>,
    ) -> Result<Self, Error> {
        // Rows with a key are Envelopes: never lost, tried again, in order per key. The delays are short because the
        // planted failures heal by attempts, not by time.
        let keyed = bus
            .subscribe_envelopes(&topics.keyed)
            .group(GROUP)
            .retry(Retry::exponential(Duration::from_millis(1)..Duration::from_millis(20)).attempts(ATTEMPTS))
            .then(DeadLetter::to(&topics.dead));
        let keyed = match options.workers {
            Some(workers) => keyed.workers(workers),
            None => keyed,
        };
        // An Envelope has an aggregate id, so a row without a key is a plain record, on a topic of its own: to a
        // subscription to Envelopes it would be a fault. They are few, and one worker is enough.
        let unkeyed = bus.subscribe(&topics.unkeyed).group(GROUP).workers(1);
        let consumer =
            Self { keyed: handle(keyed, options, work)?, unkeyed: handle(unkeyed, options, work)? };
        // Joining a group on a real broker takes a moment, which is not what is measured.
        consumer.keyed.ready().wait()?;
        consumer.unkeyed.ready().wait()?;
        Ok(consumer)
    }

    pub(crate) fn in_flight(&self) -> u64 {
        self.keyed.stats().in_flight + self.unkeyed.stats().in_flight
    }

    pub(crate) fn stats(&self) -> Stats {
        self.keyed.stats()
    }
}

/// Finds the dead letters by reading their topic, as an operator would.
pub(crate) fn watch_dead_letters(
    bus: &Bus,
    topics: &Topics,
    work: &Arc<Work>,
) -> Result<Subscription, SubscribeError> {
    let work = work.clone();
    bus.subscribe(&topics.dead).group(GROUP).workers(1).handle(move |event| {
        if let Some(row) = work.row(event)? {
            work.ledger.is_dead_lettered(row);
        }
        Ok(())
    })
}

fn handle<Kind>(
    subscription: SubscriptionBuilder<Kind>,
    options: &Options,
    work: &Arc<Work>,
) -> Result<Subscription, SubscribeError> {
    let time = Duration::from_micros(options.handler_us);
    let work = work.clone();
    if options.is_async {
        subscription.handle_async(move |event| {
            let work = work.clone();
            async move {
                let Some(attempt) = work.start(&event)? else { return Ok(()) };
                if !time.is_zero() {
                    smol::Timer::after(time).await;
                }
                attempt.end()
            }
        })
    } else {
        subscription.handle(move |event| {
            let Some(attempt) = work.start(event)? else { return Ok(()) };
            block(time);
            attempt.end()
        })
    }
}

/// What all handlers share.
pub(crate) struct Work {
    pub(crate) ledger: Ledger,
    faults: Faults,
    /// What other replays through the same topics don't have.
    run: String,
    pub(crate) attempts: AtomicU64,
    pub(crate) retries: AtomicU64,
    pub(crate) panics: AtomicU64,
    pub(crate) running: AtomicU64,
}

impl Work {
    pub(crate) fn new(ledger: Ledger, faults: Faults) -> Self {
        let [attempts, retries, panics, running] = [const { AtomicU64::new(0) }; 4];
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let run = format!("{:x}", since_1970.as_nanos());
        Self { ledger, faults, run, attempts, retries, panics, running }
    }

    /// The id of the event about a row: the same row is the same event, however often it is published.
    pub(crate) fn event_id(&self, row: usize) -> String {
        format!("{}/{row}", self.run)
    }

    /// The number of the row that an event is about: it travels in the event's id, which dead letters keep. None: a
    /// replay before this one left it on the broker.
    fn row(&self, event: &Event) -> Result<Option<usize>, HandlerError> {
        let id = event.headers().get(Envelope::EVENT_ID_HEADER).ok_or("the record has no event id")?;
        let (run, row) = std::str::from_utf8(id)?.split_once('/').ok_or("the record is not of a replay")?;
        if run == self.run { Ok(Some(row.parse()?)) } else { Ok(None) }
    }

    fn start<'a>(&'a self, event: &'a Event) -> Result<Option<Attempt<'a>>, HandlerError> {
        let Some(row) = self.row(event)? else { return Ok(None) };
        self.running.fetch_add(1, Relaxed);
        self.attempts.fetch_add(1, Relaxed);
        if event.attempt() > 1 {
            self.retries.fetch_add(1, Relaxed);
        }
        self.ledger.starts(row);
        Ok(Some(Attempt { work: self, event, row }))
    }
}

/// One attempt to handle one row.
struct Attempt<'a> {
    work: &'a Work,
    event: &'a Event,
    row: usize,
}

impl Attempt<'_> {
    fn end(self) -> Result<(), HandlerError> {
        let Work { ledger, faults, panics, .. } = self.work;
        // Faults are planted in rows with a key only: a plain record is never tried again, so it would be lost by contract.
        let place = ledger.place(self.row);
        match place.map_or(Fate::Success, |place| faults.fate(self.event, self.row, place)) {
            Fate::Success => {
                ledger.succeeds(self.row);
                Ok(())
            }
            Fate::Panic => {
                panics.fetch_add(1, Relaxed);
                planted_panic()
            }
            Fate::Failure => {
                if self.event.attempt() == ATTEMPTS {
                    ledger.gives_up(self.row);
                }
                Err(planted_error())
            }
        }
    }
}

/// Also when the handler panics, or its future is dropped by a crash.
impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        self.work.running.fetch_sub(1, Relaxed);
    }
}

/// Takes this long. A sleep alone takes some 60 us more than it is told.
fn block(time: Duration) {
    let end = Instant::now() + time;
    if time > Duration::from_micros(200) {
        std::thread::sleep(time.saturating_sub(Duration::from_micros(100)));
    }
    while Instant::now() < end {
        std::hint::spin_loop();
    }
}
