//! Counters of a subscription, and their snapshot.

use crate::sync::{AtomicU64, Ordering};
use crossbeam_utils::CachePadded;
use std::time::Duration;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What one worker counts in a turn, added to the subscription's counters at its end.
        #[derive(Debug, Default)]
        pub(crate) struct Tally { $(pub(crate) $name: u64,)* pub(crate) handling_ns: u64, pub(crate) handling_max_ns: u64 }

        #[derive(Debug, Default)]
        struct Sums {
            $($name: AtomicU64,)*
            handling_ns: AtomicU64,
            handling_max_ns: AtomicU64,
            in_flight: AtomicU64,
        }

        /// The counters of a subscription, or of all subscriptions of a bus, at one moment. Records unless said
        /// otherwise; each since the start.
        ///
        /// ```
        /// use keylane::Stats;
        ///
        /// fn line(stats: &Stats) -> String {
        ///     let mean = stats.handling_time / (stats.succeeded + stats.failed).max(1) as u32;
        ///     format!("{} handled in {mean:?} each, {} failed", stats.succeeded, stats.failed)
        /// }
        /// ```
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Stats {
            /// Published through this bus and acknowledged by the broker; 0 for a single subscription.
            pub published: u64,
            $($(#[$doc])* pub $name: u64,)*
            /// Keys that wait just now: for a retry, a dead letter, an operator, or a future.
            pub waiting_keys: u64,
            /// Delivered and neither settled nor returned just now. Where it is 0, the end of all that `consumed`
            /// counts is counted, too.
            pub in_flight: u64,
            /// The largest number of records that one worker has just now, queued, waiting and running.
            pub lane_depth: u64,
            /// Handlers and futures that have been running for `hung_after` or longer just now.
            pub hung_handlers: u64,
            /// Partitions, and topics as a whole, that bring nothing just now though they should.
            pub stuck_partitions: u64,
            /// Time spent in handlers, from the start of an attempt to its end, summed over workers.
            pub handling_time: Duration,
            /// The longest single attempt.
            pub handling_time_max: Duration,
        }

        impl Counters {
            /// Adds what a worker counted, and empties it.
            pub(crate) fn add(&self, tally: &mut Tally) {
                let Tally { $($name,)* handling_ns, handling_max_ns } = std::mem::take(tally);
                // ORDERING: Release pairs with the Acquire of `consumed` in `snapshot`: the intake sets its gauge before
                // it counts. Relaxed below; each of these stands for itself.
                $(if $name > 0 { self.0.$name.fetch_add($name, Ordering::Release); })*
                if handling_ns > 0 {
                    self.0.handling_ns.fetch_add(handling_ns, Ordering::Relaxed);
                    self.0.handling_max_ns.fetch_max(handling_max_ns, Ordering::Relaxed);
                }
            }

            /// What is in flight now. Set before what was delivered is counted, and lowered for those alone whose end
            /// is counted.
            pub(crate) fn set_in_flight(&self, records: u64) {
                // ORDERING: Release pairs with the Acquire in `snapshot`: who sees it lowered sees what the workers had
                // counted before they gave their verdicts, by the lock of which it came here.
                self.0.in_flight.store(records, Ordering::Release);
            }

            /// The counters and what is in flight now; the other gauges are left at 0.
            pub(crate) fn snapshot(&self) -> Stats {
                // First what was consumed, then what of it is in flight, then how the rest ended: with nothing in flight
                // the end of all that was consumed is counted.
                // ORDERING: Acquire, both; see `add` and `set_in_flight`. Relaxed below, for what goes on.
                let consumed = self.0.consumed.load(Ordering::Acquire);
                let in_flight = self.0.in_flight.load(Ordering::Acquire);
                let counted = Stats {
                    $($name: self.0.$name.load(Ordering::Relaxed),)*
                    handling_time: Duration::from_nanos(self.0.handling_ns.load(Ordering::Relaxed)),
                    handling_time_max: Duration::from_nanos(self.0.handling_max_ns.load(Ordering::Relaxed)),
                    ..Stats::default()
                };
                Stats { consumed, in_flight, ..counted }
            }
        }

        impl Stats {
            /// The sum of two: counters and gauges added, maxima kept.
            #[must_use]
            pub(crate) fn plus(self, other: Self) -> Self {
                Self {
                    published: self.published + other.published,
                    $($name: self.$name + other.$name,)*
                    waiting_keys: self.waiting_keys + other.waiting_keys,
                    in_flight: self.in_flight + other.in_flight,
                    lane_depth: self.lane_depth.max(other.lane_depth),
                    hung_handlers: self.hung_handlers + other.hung_handlers,
                    stuck_partitions: self.stuck_partitions + other.stuck_partitions,
                    handling_time: self.handling_time + other.handling_time,
                    handling_time_max: self.handling_time_max.max(other.handling_time_max),
                }
            }
        }
    };
}

counters! {
    /// Delivered by the broker, redeliveries included.
    consumed,
    /// Whose handler returned `Ok`.
    succeeded,
    /// Attempts that failed: errors, panics, missed deadlines, bytes that are no Envelope.
    failed,
    /// Attempts that were followed by another.
    retried,
    /// Attempts in which the handler panicked.
    panicked,
    /// Handlers with state of their own that were made anew after a panic.
    restarts,
    /// Written to the dead-letter topic and acknowledged there.
    dead_lettered,
    /// Settled without success by policy, by an operator's skip, or because they were plain records.
    discarded,
    /// Given back to the broker with a delay.
    redelivered,
    /// That had no aggregate id, no key and so no order.
    without_aggregate,
    /// That were gone from the log before a handler saw them.
    lost,
}

/// The counters of one subscription, and what it has in flight. On cache lines of their own: workers add to them while
/// the intake reads.
#[derive(Debug, Default)]
pub(crate) struct Counters(CachePadded<Sums>);

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn what_workers_count_adds_up_and_the_longest_attempt_is_kept() {
        let counters = Counters::default();
        let mut tally = Tally { succeeded: 2, handling_ns: 50, handling_max_ns: 40, ..Tally::default() };
        counters.add(&mut tally);
        assert_eq!(tally.succeeded, 0, "a tally is added once");
        counters.add(&mut Tally {
            succeeded: 1,
            failed: 1,
            handling_ns: 30,
            handling_max_ns: 30,
            ..Tally::default()
        });
        let stats = counters.snapshot();
        assert_eq!((stats.succeeded, stats.failed), (3, 1));
        assert_eq!(stats.handling_time, Duration::from_nanos(80));
        assert_eq!(stats.handling_time_max, Duration::from_nanos(40));
        assert_eq!(stats.plus(stats).succeeded, 6);
    }
}
