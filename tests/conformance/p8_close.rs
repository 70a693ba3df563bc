//! P8: close ends.

use crate::backend::Backend;
use crate::ensure;
use crate::support::{
    Behaviour, Checked, Gate, KINDS, Kind, eventually, number, numbered, patience, threads_named, within,
};
use keylane::{Envelope, Jitter, Retry, Status, Then};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A group whose threads are told from every other's: Linux keeps 15 characters of a thread's name.
fn own_group() -> String {
    static LAST: AtomicU64 = AtomicU64::new(0);
    format!("c{:03}", LAST.fetch_add(1, Ordering::Relaxed))
}

/// Within this what has a limit of 100 ms has ended, on the slowest machine; the handlers that it does not wait for take
/// longer.
const SLOWLY: Duration = Duration::from_secs(20);

fn no_thread_of(group: &str) -> Checked {
    // A thread that was joined may be listed for a moment.
    eventually(&format!("no thread of {group} is left"), || {
        threads_named(&format!("keylane-{group}")).is_empty()
    })
}

/// One record runs, one waits for its retry, one is held, the rest is behind them; a drain lets the running one end.
pub fn drain(backend: &dyn Backend) -> Checked {
    for kind in KINDS {
        let group = own_group();
        let cluster = backend.cluster(1);
        let bus = cluster.connect(&|_| {});
        let (gate, has_ended, late) = (Gate::default(), Arc::new(AtomicBool::new(false)), Gate::default());
        let (at, ended, started_late) = (gate.clone(), has_ended.clone(), late.clone());
        let running = Arc::new(AtomicU64::new(0));
        let runs = running.clone();
        let handler: Behaviour = Arc::new(move |event| {
            if ended.load(Ordering::Acquire) {
                started_late.open();
            }
            match event.aggregate_id() {
                Some("running") if number(event) == 0 => {
                    runs.fetch_add(1, Ordering::Relaxed);
                    at.pass();
                    Ok(())
                }
                Some("retried") => Err("planted".into()),
                Some("held") => Err(keylane::HandlerError::terminal("planted")),
                _ => Ok(()),
            }
        });
        let slowly =
            Retry::exponential(Duration::from_secs(60)..Duration::from_secs(61)).jitter(Jitter::None);
        let builder = bus
            .subscribe_envelopes(cluster.topic("orders"))
            .group(&group)
            .workers(1)
            .retry(slowly)
            .then(Then::Hold);
        let subscription = backend.start_envelopes(builder, kind, handler)?;
        for key in ["retried", "held"] {
            for n in 0..2 {
                backend.publish(&bus, &cluster.topic("orders"), numbered(key, n).into())()?;
            }
        }
        eventually("two keys wait", || subscription.stats().waiting_keys == 2)?;
        for n in 0..2 {
            backend.publish(&bus, &cluster.topic("orders"), numbered("running", n).into())()?;
        }
        eventually("one record runs and all are delivered", || {
            running.load(Ordering::Relaxed) == 1 && subscription.stats().in_flight == 6
        })?;
        let (opener, watched, limit) = (gate.clone(), bus.clone(), patience());
        let opening = std::thread::spawn(move || {
            let is_draining = || watched.health().iter().all(|health| health.status == Status::Draining);
            let began = within(limit, "the drain began", is_draining);
            opener.open();
            began
        });
        let report = backend.drain(subscription, SLOWLY);
        has_ended.store(true, Ordering::Release);
        opening.join().expect("it does not panic")?;
        let mut left: Vec<_> = report
            .unsettled
            .iter()
            .map(|place| (place.key.clone().unwrap_or_default(), place.offset - cluster.first_offset()))
            .collect();
        left.sort();
        let wanted = [("held", 2), ("held", 3), ("retried", 0), ("retried", 1), ("running", 5)];
        ensure!(
            left == wanted.map(|(key, offset)| (key.to_owned(), offset)),
            "{kind:?}: the drain left {left:?} unsettled"
        );
        ensure!(report.still_running.is_empty(), "handlers still run: {:?}", report.still_running);
        no_thread_of(&group)?;
        std::thread::sleep(Duration::from_millis(20));
        ensure!(!late.is_open(), "a handler started after the drain");
        // What was left comes again, in order, as first attempts; what was settled does not.
        let (again, first) = (Arc::new(Mutex::new(Vec::new())), cluster.first_offset());
        let noted = again.clone();
        let handler: Behaviour = Arc::new(move |event| {
            let key = event.aggregate_id().unwrap_or_default().to_owned();
            noted.lock().unwrap().push((key, event.offset() - first));
            if event.attempt() == 1 { Ok(()) } else { Err("a drain was counted as an attempt".into()) }
        });
        let next = backend.start_envelopes(
            bus.subscribe_envelopes(cluster.topic("orders")).group(&group).workers(1),
            Kind::Shared,
            handler,
        )?;
        eventually("what was left came again", || next.stats().succeeded == 5)?;
        let mut again = again.lock().unwrap().clone();
        again.sort();
        ensure!(again == left, "{again:?} came again");
    }
    Ok(())
}

pub fn limit(backend: &dyn Backend) -> Checked {
    // A future that never ends is dropped at the limit.
    let group = own_group();
    let cluster = backend.cluster(1);
    let bus = cluster.connect(&|_| {});
    let dropped = Gate::default();
    let tells = dropped.clone();
    let started = Gate::default();
    let starts = started.clone();
    let subscription = backend
        .envelopes(bus.subscribe_envelopes(cluster.topic("orders")).group(&group).workers(1))
        .handle_async(move |_| {
            struct Tells(Gate);
            impl Drop for Tells {
                fn drop(&mut self) {
                    self.0.open();
                }
            }
            let tells = Tells(tells.clone());
            starts.open();
            async move {
                std::future::pending::<()>().await;
                drop(tells);
                Ok(())
            }
        })
        .map_err(|error| error.to_string())?;
    backend.publish(&bus, &cluster.topic("orders"), numbered("a", 0).into())()?;
    eventually("the future runs", || started.is_open())?;
    let since = Instant::now();
    let report = backend.drain(subscription, Duration::from_millis(100));
    let took = since.elapsed();
    ensure!(dropped.is_open(), "the future was not dropped");
    ensure!(report.unsettled.len() == 1 && report.still_running.is_empty(), "the report says {report:?}");
    ensure!(took < SLOWLY, "a drain of 100 ms took {took:?}");
    no_thread_of(&group)?;

    // A blocking handler that hangs is told, reported and left behind.
    let group = own_group();
    let (gate, told, started) = (Gate::default(), Gate::default(), Gate::default());
    let (at, tells, starts) = (gate.clone(), told.clone(), started.clone());
    let builder = bus.subscribe_envelopes(cluster.topic("payments")).group(&group).workers(1);
    let handler: Behaviour = Arc::new(move |event| {
        starts.open();
        at.pass();
        if event.cancellation().is_cancelled() {
            tells.open();
        }
        Ok(())
    });
    let subscription = backend.start_envelopes(builder, Kind::Shared, handler)?;
    for n in 0..3 {
        backend.publish(&bus, &cluster.topic("payments"), numbered("a", n).into())()?;
    }
    eventually("the handler runs", || started.is_open() && subscription.stats().in_flight == 3)?;
    let since = Instant::now();
    let report = backend.drain(subscription, Duration::from_millis(100));
    let took = since.elapsed();
    gate.open();
    ensure!(report.still_running.len() == 1, "the report does not name the handler: {report:?}");
    ensure!(report.unsettled.len() == 3, "what was behind it is not reported: {report:?}");
    ensure!(took < SLOWLY, "a drain of 100 ms took {took:?}");
    eventually("the handler was told of the end", || told.is_open())?;
    no_thread_of(&group)?;
    // Its late verdict settled nothing: the records come again.
    let builder = bus.subscribe_envelopes(cluster.topic("payments")).group(&group).workers(1);
    let next = backend.start_envelopes(builder, Kind::Shared, Arc::new(|_| Ok(())))?;
    eventually("the records came again", || next.stats().succeeded == 3)
}

pub fn nothing_left(backend: &dyn Backend) -> Checked {
    let group = own_group();
    let cluster = backend.cluster(2);
    let bus = cluster.connect(&|_| {});
    let builder = bus.subscribe_envelopes(cluster.topic("orders")).group(&group).workers(3);
    let subscription = backend.start_envelopes(builder, Kind::Shared, Arc::new(|_| Ok(())))?;
    // A thread takes its name when it starts to run.
    eventually("the threads are named by their group", || {
        threads_named(&format!("keylane-{group}")).len() == 4
    })?;
    for n in 0..100 {
        backend.publish(&bus, &cluster.topic("orders"), numbered("a", n).into())()?;
    }
    backend.drain(subscription, SLOWLY);
    let report = backend.close(&bus, SLOWLY);
    ensure!(report.unacknowledged == 0, "publishes are left: {report:?}");
    no_thread_of(&group)?;
    // Work after close is refused at once.
    let refused =
        bus.publish(&cluster.topic("orders"), Envelope::new("a", "test.late", 1, "1").expect("valid"));
    ensure!(refused.is_done() && refused.wait().is_err(), "a closed bus published");
    let subscribe = bus.subscribe_envelopes(cluster.topic("orders")).group(&group).handle(|_| Ok(()));
    ensure!(subscribe.is_err(), "a closed bus subscribed");
    Ok(())
}
