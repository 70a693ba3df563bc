//! Publishing and handling, positions, topics.

use crate::cluster::{committed, connect, fresh, shared};
use crate::support::{eventually, number, numbered};
use std::sync::{Arc, Mutex};
use std::time::Duration;

#[test]
fn what_is_published_is_handled_and_committed() {
    let (bus, topic) = (connect(3), fresh("basics"));
    let seen = Arc::new(Mutex::new(Vec::new()));
    let handled = seen.clone();
    let orders = bus
        .subscribe_envelopes(&topic)
        .group(&topic)
        .handle(move |event| {
            handled
                .lock()
                .unwrap()
                .push((event.aggregate_id().unwrap_or_default().to_owned(), number(event)));
            Ok(())
        })
        .unwrap();
    orders.ready().wait().unwrap();
    let receipts: Vec<_> =
        (0..300).map(|n| bus.publish(&topic, numbered(&format!("key-{}", n % 7), n))).collect();
    for receipt in receipts {
        assert!(receipt.wait().unwrap().partition() < 3);
    }
    eventually("all are handled", || seen.lock().unwrap().len() == 300).unwrap();
    let committed =
        || (0..3).filter_map(|p| committed(shared().port, &topic, &topic, p)).map(|(o, _)| o).sum::<i64>();
    eventually("all is committed", || committed() == 300).unwrap();
    let report = bus.close(Duration::from_secs(60)).wait();
    assert_eq!((report.unacknowledged, report.subscriptions[0].unsettled.len()), (0, 0));
    for key in 0..7 {
        let key = format!("key-{key}");
        let numbers: Vec<_> =
            seen.lock().unwrap().iter().filter(|(k, _)| *k == key).map(|(_, n)| *n).collect();
        assert!(numbers.is_sorted(), "{key}: {numbers:?}");
    }
}
