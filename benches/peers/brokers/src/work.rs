//! What every handler of this contest does, whoever runs it, and what is seen of it.

use crate::book::Book;
use crate::record::{KEYS, Mark};
use measure::{Check, Concurrency, Measured, Meter, Running};
use std::cell::Cell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A run in which nothing ends for so long is over; what is missing is lost.
pub(crate) const STALLED: Duration = Duration::from_secs(15);
/// Joining a group may take longer.
pub(crate) const JOINING: Duration = Duration::from_mins(1);
/// When all records are handled, some that another process has handled may still be handled again.
const REPEATING: Duration = Duration::from_secs(1);
/// How often is looked whether a run is over.
const LOOK: Duration = Duration::from_millis(1);
/// A failing record fails so many times before it succeeds.
const FAILURES: u8 = 2;
/// One record in so many fails, where some do.
const FAILING: u64 = 100;
/// Counters of handled records, so that threads do not wait for each other's.
const STRIPES: usize = 64;

/// What handlers do with a record, and what is written down of it.
#[derive(Debug)]
pub(crate) struct Work {
    records: u64,
    /// How long a handler waits.
    takes: Duration,
    /// How often each record failed that is to fail; none where none is.
    failed: Option<Mutex<HashMap<u64, u8>>>,
    check: Check,
    concurrency: Concurrency,
    handled: [Stripe; STRIPES],
    has_begun: AtomicBool,
    meter: Mutex<Option<Meter>>,
    /// Where several processes share the records.
    book: Option<Arc<Book>>,
}

/// A count on a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Stripe(AtomicU64);

impl Stripe {
    /// The one of this thread.
    fn here() -> usize {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            // ORDERING: Relaxed; a number that nobody else gets.
            static HERE: Cell<usize> = Cell::new(NEXT.fetch_add(1, Ordering::Relaxed) % STRIPES);
        }
        HERE.get()
    }
}

/// A record whose handler was to fail, and did.
#[derive(Debug)]
pub(crate) struct Planted;

impl Work {
    pub(crate) fn new(records: u64, takes: Duration, is_failing: bool) -> Self {
        Self {
            records,
            takes,
            failed: is_failing.then(Mutex::default),
            check: Check::new(KEYS, |_| 0),
            concurrency: Concurrency::default(),
            handled: std::array::from_fn(|_| Stripe::default()),
            has_begun: AtomicBool::new(false),
            meter: Mutex::new(None),
            book: None,
        }
    }

    /// With what is handled written down, and counted together with what other processes have handled.
    pub(crate) fn written_in(self, book: Arc<Book>) -> Self {
        Self { book: Some(book), ..self }
    }

    pub(crate) fn records(&self) -> u64 {
        self.records
    }

    pub(crate) fn takes(&self) -> Duration {
        self.takes
    }

    /// A handler that waits for nothing.
    #[inline]
    pub(crate) fn at_once(&self, mark: Mark) -> Result<(), Planted> {
        self.begin();
        self.end(mark)
    }

    /// A handler that waits on the thread that it has for itself.
    pub(crate) fn blocking(&self, mark: Mark) -> Result<(), Planted> {
        if self.takes.is_zero() {
            return self.at_once(mark);
        }
        let _running = self.enter();
        std::thread::sleep(self.takes);
        self.end(mark)
    }

    /// A handler that waits by a timer of tokio's.
    pub(crate) async fn by_tokio(&self, mark: Mark) -> Result<(), Planted> {
        if self.takes.is_zero() {
            return self.at_once(mark);
        }
        let _running = self.enter();
        tokio::time::sleep(self.takes).await;
        self.end(mark)
    }

    fn enter(&self) -> Running<'_> {
        self.begin();
        self.concurrency.enter()
    }

    /// The first record that is handled starts the clock: joining a group takes as long as the broker wants.
    #[inline]
    fn begin(&self) {
        // ORDERING: Relaxed; who sees it too late takes the lock and finds the meter there.
        if !self.has_begun.load(Ordering::Relaxed) {
            self.start();
        }
    }

    #[cold]
    fn start(&self) {
        let mut meter = self.meter.lock().unwrap_or_else(PoisonError::into_inner);
        meter.get_or_insert_with(Meter::start);
        // ORDERING: Relaxed; as in `begin`.
        self.has_begun.store(true, Ordering::Relaxed);
    }

    #[inline]
    fn end(&self, mark: Mark) -> Result<(), Planted> {
        if let Some(failed) = &self.failed
            && mark.index.is_multiple_of(FAILING)
        {
            let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
            let times = failed.entry(mark.index).or_default();
            if *times < FAILURES {
                *times += 1;
                return Err(Planted);
            }
        }
        self.check.handled_concurrently(mark.key, mark.seq);
        // ORDERING: Relaxed; a count, read until it is complete.
        self.handled[Stripe::here()].0.fetch_add(1, Ordering::Relaxed);
        if let Some(book) = &self.book {
            book.handled(mark.index);
        }
        Ok(())
    }

    /// How many records were handled, also by others, and how often one was by this process.
    fn handled(&self) -> (u64, u64) {
        // ORDERING: Relaxed; a look at counters that others raise.
        let own = self.handled.iter().map(|stripe| stripe.0.load(Ordering::Relaxed)).sum();
        (self.book.as_ref().map_or(own, |book| book.records()), own)
    }

    /// Waits until all records are handled, and none of another process again, or nothing ends any more; says for how
    /// long nothing has ended then.
    pub(crate) fn wait(&self) -> Duration {
        let (mut before, mut since) = (self.handled(), Instant::now());
        loop {
            let handled = self.handled();
            let is_over = handled.0 >= self.records;
            if is_over && self.book.is_none() {
                return Duration::ZERO;
            }
            let patience = match handled {
                _ if is_over => REPEATING,
                (_, 0) => JOINING,
                _ => STALLED,
            };
            if handled != before {
                (before, since) = (handled, Instant::now());
            } else if since.elapsed() > patience {
                return since.elapsed();
            }
            std::thread::sleep(LOOK);
        }
    }

    /// What was found, once a run has ended that had waited so long in vain.
    ///
    /// # Errors
    /// If no record came at all: that says nothing of the variant. If the book of several processes can't be read.
    pub(crate) fn measured(&self, in_vain: Duration) -> Result<Measured, String> {
        let meter = self.meter.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut cost = meter.map(Meter::stop).ok_or("not a single record came")?;
        cost.seconds -= in_vain.as_secs_f64();
        let most = self.concurrency.most();
        let tally = match &self.book {
            None => self.check.tally(self.records),
            Some(book) => book.tally().map_err(|error| error.to_string())?,
        };
        Ok(Measured { cost, max_concurrency: (most > 0).then_some(most), tally, ..Measured::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Keys;

    #[test]
    fn one_record_in_a_hundred_fails_twice_and_retries_in_place_keep_order() {
        let work = Work::new(1_000, Duration::ZERO, true);
        let mut failures = 0;
        for mark in Keys::Uniform.marks(1_000) {
            while work.at_once(mark).is_err() {
                failures += 1;
            }
        }
        assert_eq!((failures, work.wait()), (20, Duration::ZERO));
        assert_eq!(work.measured(Duration::ZERO).expect("it ran").tally, measure::Tally::default());
    }

    #[test]
    fn a_retry_that_later_records_of_its_key_overtake_breaks_order() {
        let work = Work::new(1_000, Duration::ZERO, true);
        let late: Vec<Mark> =
            Keys::Uniform.marks(1_000).filter(|mark| work.at_once(*mark).is_err()).collect();
        for mark in late.iter().chain(&late) {
            let _ = work.at_once(*mark);
        }
        let tally = work.measured(Duration::ZERO).expect("it ran").tally;
        assert!(tally.out_of_order > 0 && tally.lost == 0, "{tally:?}");
    }
}
