//! Where the time comes from: the system, or a test that moves it.

use super::listeners::{Listeners, Registration};
use crate::chance;
use crate::sync::{Arc, AtomicU64, Ordering};
use std::fmt;
use std::sync::LazyLock;
use std::task::Waker;
use std::time::{Duration, Instant, SystemTime};

/// 2020-01-01T00:00:00Z, where the wall time of every manual clock starts: fixed, so that what a test records is the
/// same in every run.
const MANUAL_EPOCH: Duration = Duration::from_secs(1_577_836_800);

/// Where the time comes from: the system, or a test.
///
/// Cloning shares the clock. Reading the system's costs what `Instant::now` does; a manual one is one atomic load.
///
/// Whatever waits for a time by the clock does two things, so that it works with both kinds: it
/// [registers](Clock::register) a waker, and with a [manual](Clock::is_manual) clock it sleeps until woken instead of
/// for a real duration.
///
/// ```
/// use keylane::Clock;
/// use std::time::Duration;
///
/// let (clock, time) = Clock::manual();
/// let before = clock.now();
/// time.advance(Duration::from_secs(3_600));
/// assert_eq!(clock.now() - before, Duration::from_secs(3_600));
/// ```
#[derive(Debug, Clone, Default)]
pub struct Clock(Option<Arc<Manual>>);

/// Moves the time of a manual [`Clock`]; made by [`Clock::manual`].
///
/// Cloning shares the clock.
///
/// ```
/// use keylane::{Clock, Envelope, Jitter, Retry, memory::MemoryBroker};
/// use std::time::Duration;
///
/// let (clock, time) = Clock::manual();
/// let broker = MemoryBroker::builder().topic("orders").clock(clock).build();
/// let bus = broker.connect(keylane::Config::default())?;
/// let hour = Duration::from_secs(3_600);
/// let hourly = Retry::exponential(hour..hour).jitter(Jitter::None);
/// let orders = bus.subscribe_envelopes("orders").group("billing").retry(hourly).handle(|event| {
///     if event.attempt() < 3 { Err("the bank is closed".into()) } else { Ok(()) }
/// })?;
/// bus.publish("orders", Envelope::new("order-42", "order.paid", 1, "995")?).wait()?;
/// for _ in 0..2 {
///     bus.settled().wait()?; // nothing is left to do before the next attempt is due
///     time.advance(hour);
/// }
/// bus.settled().wait()?;
/// assert_eq!((orders.stats().failed, orders.stats().succeeded), (2, 1));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct ManualClock(Arc<Manual>);

struct Manual {
    start: Instant,
    /// A simulation steps who sleeps when its time has come, so that an advance tells nobody.
    is_simulated: bool,
    advanced_ns: AtomicU64,
    sleepers: Arc<Listeners>,
}

impl Manual {
    fn advanced(&self) -> Duration {
        // ORDERING: Acquire pairs with the Release of `advance`: who sees the new time sees what happened before the
        // time was moved.
        Duration::from_nanos(self.advanced_ns.load(Ordering::Acquire))
    }
}

impl fmt::Debug for Manual {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Manual").field("advanced", &self.advanced()).finish_non_exhaustive()
    }
}

/// No time of any clock is before it.
pub(crate) fn epoch() -> Instant {
    static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);
    *EPOCH
}

impl Clock {
    /// The system's clocks: monotonic for [`now`](Clock::now), wall time for [`system_time`](Clock::system_time). The
    /// default.
    pub fn system() -> Self {
        Self(None)
    }

    /// A clock that stands still until its [`ManualClock`] advances it.
    ///
    /// Its wall time starts at 2020-01-01T00:00:00Z.
    pub fn manual() -> (Self, ManualClock) {
        Self::moved(false)
    }

    /// A clock of a simulation: what goes by it is no thread, but stepped by the world of the calling thread.
    #[cfg(feature = "sim")]
    pub(crate) fn simulated() -> (Self, ManualClock) {
        Self::moved(true)
    }

    fn moved(is_simulated: bool) -> (Self, ManualClock) {
        // Before its first time, so that none of its times is before that one.
        let _ = epoch();
        let manual = Arc::new(Manual {
            start: Instant::now(),
            is_simulated,
            advanced_ns: AtomicU64::new(0),
            sleepers: Arc::default(),
        });
        (Self(Some(manual.clone())), ManualClock(manual))
    }

    /// The time, for durations; never goes backwards.
    #[inline]
    pub fn now(&self) -> Instant {
        match &self.0 {
            None => Instant::now(),
            Some(manual) => manual.start + manual.advanced(),
        }
    }

    /// The wall time, for the timestamps of records.
    #[inline]
    pub fn system_time(&self) -> SystemTime {
        match &self.0 {
            None => chance::wall_time(),
            Some(manual) => SystemTime::UNIX_EPOCH + MANUAL_EPOCH + manual.advanced(),
        }
    }

    /// Whether a test moves the time, so that sleeping for a real duration would wait for the wrong thing.
    #[inline]
    pub fn is_manual(&self) -> bool {
        self.0.is_some()
    }

    /// Whether what goes by it is stepped by a simulation.
    pub(crate) fn is_simulated(&self) -> bool {
        cfg!(feature = "sim") && self.0.as_ref().is_some_and(|manual| manual.is_simulated)
    }

    /// Has the waker called each time that a manual clock is advanced, until the registration is dropped.
    ///
    /// With the system's clock this does nothing: time there passes without telling anyone.
    ///
    /// ```
    /// use keylane::Clock;
    /// use std::sync::atomic::{AtomicBool, Ordering};
    /// use std::{sync::Arc, task::{Wake, Waker}, time::Duration};
    ///
    /// struct Bell(AtomicBool);
    ///
    /// impl Wake for Bell {
    ///     fn wake(self: Arc<Self>) { self.0.store(true, Ordering::Relaxed); }
    /// }
    ///
    /// let (clock, time) = Clock::manual();
    /// let bell = Arc::new(Bell(AtomicBool::new(false)));
    /// let _registration = clock.register(Waker::from(bell.clone()));
    /// time.advance(Duration::from_secs(1));
    /// assert!(bell.0.load(Ordering::Relaxed));
    /// ```
    pub fn register(&self, waker: Waker) -> Registration {
        match &self.0 {
            Some(manual) if !manual.is_simulated => manual.sleepers.register(waker),
            _ => Registration::none(),
        }
    }
}

impl ManualClock {
    /// Moves the time on and wakes everyone that [registered](Clock::register), so that who sleeps until a time looks
    /// again.
    ///
    /// Wakers run on the calling thread, without a lock held. The clock ends at 584 years after its start, where
    /// further advances have no effect.
    pub fn advance(&self, by: Duration) {
        let by_ns = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        // ORDERING: Release pairs with the Acquire of `advanced`; the failed attempt decides nothing.
        let advanced = self
            .0
            .advanced_ns
            .fetch_update(Ordering::Release, Ordering::Relaxed, |ns| Some(ns.saturating_add(by_ns)));
        debug_assert!(advanced.is_ok(), "the update is unconditional");
        self.0.sleepers.wake_all();
    }
}

/// The end of a limit that begins now. One that the clock cannot express ends after 136 years.
pub(crate) fn after(now: Instant, limit: Duration) -> Instant {
    now.checked_add(limit).unwrap_or_else(|| now + Duration::from_secs(u64::from(u32::MAX)))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::sync::AtomicUsize;
    use std::task::Wake;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn counter() -> (Arc<Count>, Waker) {
        let count = Arc::new(Count::default());
        (count.clone(), Waker::from(count))
    }

    #[test]
    fn an_advance_wakes_who_is_registered_and_nobody_else() {
        let (clock, time) = Clock::manual();
        let ((stays, stays_waker), (goes, goes_waker)) = (counter(), counter());
        let _stays = clock.register(stays_waker);
        let goes_registration = clock.register(goes_waker);
        time.advance(Duration::from_secs(1));
        drop(goes_registration);
        time.advance(Duration::from_secs(1));
        assert_eq!(stays.0.load(Ordering::Relaxed), 2);
        assert_eq!(goes.0.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_woken_sleeper_sees_the_new_time() {
        struct Looks(Clock, Instant, AtomicUsize);
        impl Wake for Looks {
            fn wake(self: Arc<Self>) {
                self.2.fetch_add(usize::from(self.0.now() >= self.1), Ordering::Relaxed);
            }
        }
        let (clock, time) = Clock::manual();
        let looks = Arc::new(Looks(clock.clone(), clock.now() + Duration::from_secs(1), AtomicUsize::new(0)));
        let _registration = clock.register(Waker::from(looks.clone()));
        time.advance(Duration::from_secs(1));
        assert_eq!(looks.2.load(Ordering::Relaxed), 1, "woken before the time had moved");
    }

    #[test]
    fn a_waker_that_panics_keeps_nobody_asleep() {
        struct Panics;
        impl Wake for Panics {
            fn wake(self: Arc<Self>) {
                panic!("a foreign waker");
            }
        }
        let (clock, time) = Clock::manual();
        let (count, waker) = counter();
        let _panics = clock.register(Waker::from(Arc::new(Panics)));
        let _counts = clock.register(waker);
        time.advance(Duration::from_secs(1));
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_manual_clock_stops_at_its_end_instead_of_wrapping() {
        let (clock, time) = Clock::manual();
        time.advance(Duration::MAX);
        let end = clock.now();
        time.advance(Duration::from_secs(1));
        assert_eq!(clock.now(), end);
    }
}
