//! What a snapshot of a subscription's counters shows: `src/observe/metrics.rs`.

use keylane::loom_internals::Counters;
use loom::thread;
use std::sync::Arc;

/// If it fails: a snapshot shows a record as delivered, nothing in flight, and no end of the record.
#[test]
fn what_was_consumed_and_is_not_in_flight_has_its_end_counted() {
    loom::model(|| {
        let counters = Arc::new(Counters::default());
        let intake = {
            let counters = counters.clone();
            thread::spawn(move || {
                counters.set_in_flight(1);
                counters.consumed(1);
                let worker = {
                    let counters = counters.clone();
                    thread::spawn(move || counters.succeeded(1))
                };
                // As by the verdict, which the worker gives when it has counted.
                worker.join().unwrap();
                counters.set_in_flight(0);
            })
        };
        let [consumed, in_flight, succeeded] = counters.snapshot();
        assert!(consumed == 0 || in_flight == 1 || succeeded == 1);
        intake.join().unwrap();
        assert_eq!(counters.snapshot(), [1, 0, 1]);
    });
}
