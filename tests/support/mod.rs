//! What several test programs share.
#![allow(dead_code, reason = "each test program uses a part of it")]

pub mod draw;
pub mod effects;
pub mod order;
#[cfg(any(feature = "kafka", feature = "nats"))]
pub mod servers;

use keylane::{Envelope, Event, HandlerError, Subscription, SubscriptionBuilder};
use std::cell::Cell;
use std::fmt::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Once, OnceLock};
use std::task::Poll;
use std::time::{Duration, Instant};
use tracing_subscriber::layer::{Context, SubscriberExt};

/// What a check answers: the violation that it found, as a sentence.
pub type Checked = Result<(), String>;

/// Fails a check unless the condition holds.
#[macro_export]
macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err(format!($($message)+));
        }
    };
}

/// How long anything that should happen may take before a test says that it did not.
const SOON: Duration = Duration::from_secs(60);

thread_local! {
    static PATIENCE: Cell<Duration> = const { Cell::new(SOON) };
}

/// Waits less on this thread from now on: for a fault that shows as something that does not happen.
pub fn be_impatient() {
    PATIENCE.set(Duration::from_millis(1_500));
}

/// How long this thread waits for what should happen.
pub fn patience() -> Duration {
    PATIENCE.get()
}

/// Waits until the condition holds.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) -> Checked {
    within(PATIENCE.get(), what, &mut holds)
}

/// Waits until the condition holds, for as long as `limit`.
pub fn within(limit: Duration, what: &str, mut holds: impl FnMut() -> bool) -> Checked {
    let until = Instant::now() + limit;
    while !holds() {
        if Instant::now() > until {
            return Err(format!("it did not come to this within {limit:?}: {what}"));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Waits until a count has come to `goal`, for as long as it moves: it may be slow, but never stand still.
pub fn comes_to(goal: u64, what: &str, mut count: impl FnMut() -> u64) -> Checked {
    let (mut last, mut moved) = (count(), Instant::now());
    while last < goal {
        if moved.elapsed() > PATIENCE.get() {
            return Err(format!("it stands still at {last} of {goal}: {what}"));
        }
        std::thread::sleep(Duration::from_millis(1));
        let now = count();
        if now > last {
            (last, moved) = (now, Instant::now());
        }
    }
    Ok(())
}

/// A shared door: closed until it is opened.
#[derive(Clone, Default)]
pub struct Gate(Arc<AtomicBool>);

impl Gate {
    pub fn open(&self) {
        self.0.store(true, Ordering::Release);
    }

    pub fn is_open(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// Blocks until it is open, for as long as a test may take.
    pub fn pass(&self) {
        let until = Instant::now() + SOON;
        while !self.is_open() && Instant::now() < until {
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// The same for a future; it is polled again soon, whoever polls it.
    pub async fn passed(&self) {
        let until = Instant::now() + SOON;
        while !self.is_open() && Instant::now() < until {
            smol::Timer::after(Duration::from_micros(200)).await;
        }
    }
}

/// The ways to handle a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Shared,
    Owned,
    Async,
}

pub const KINDS: [Kind; 3] = [Kind::Shared, Kind::Owned, Kind::Async];

pub type Behaviour = Arc<dyn Fn(&Event) -> Result<(), HandlerError> + Send + Sync>;

/// Starts a subscription with a handler of this kind.
pub fn start<K>(
    builder: SubscriptionBuilder<K>,
    kind: Kind,
    handler: &Behaviour,
) -> Result<Subscription, String> {
    let handler = handler.clone();
    let started = match kind {
        Kind::Shared => builder.handle(move |event| handler(event)),
        Kind::Owned => builder.handle_owned(move || {
            let handler = handler.clone();
            move |event: &Event| handler(event)
        }),
        Kind::Async => builder.handle_async(move |event| {
            let handler = handler.clone();
            async move {
                pause_once().await;
                handler(&event)
            }
        }),
    };
    started.map_err(|error| format!("the subscription did not start: {error}"))
}

/// Is pending once, so that a future goes through its waker.
pub async fn pause_once() {
    let mut is_second = false;
    std::future::poll_fn(|cx| {
        if std::mem::replace(&mut is_second, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// An Envelope of this aggregate with a number as its payload.
pub fn numbered(key: &str, n: u64) -> Envelope<'static> {
    Envelope::new(key, "test.numbered", 1, n.to_string()).expect("valid").into_owned()
}

/// The number that [`numbered`] gave.
pub fn number(event: &Event) -> u64 {
    std::str::from_utf8(
        event.envelope().map_or_else(|| event.value().to_vec(), |e| e.payload().into()).as_slice(),
    )
    .ok()
    .and_then(|text| text.parse().ok())
    .expect("the payload is a number")
}

/// The threads of this process whose names begin with this.
pub fn threads_named(prefix: &str) -> Vec<String> {
    let tasks = std::fs::read_dir("/proc/self/task").expect("these tests count threads as Linux lists them");
    let names = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.map(|name| name.trim().to_owned()).filter(|name| name.starts_with(prefix)).collect()
}

/// The CPU time that this process has used.
pub fn cpu_time() -> Duration {
    thread_times(1)
}

/// The CPU time that this process would have used on a machine of its own: with what its threads waited for a core.
pub fn wanted_cpu_time() -> Duration {
    thread_times(2)
}

/// The share of one core that the process uses over this time: the least of a few looks, as soon as one is below
/// `limit`. Who takes CPU when there is nothing to do takes it in each; what had still to come to its rest on a busy
/// machine, and the machine's own work, does not.
pub fn least_cpu_share(over: Duration, limit: f64) -> f64 {
    let mut least = share_of(cpu_time, over);
    for _ in 1..5 {
        if least < limit {
            break;
        }
        least = least.min(share_of(cpu_time, over));
    }
    least
}

/// By how much this measure of the process grows in this time, as a share of it.
pub fn share_of(measure: fn() -> Duration, over: Duration) -> f64 {
    // What was going on comes to its rest first.
    std::thread::sleep(Duration::from_millis(300));
    let (before, since) = (measure(), Instant::now());
    std::thread::sleep(over);
    measure().saturating_sub(before).as_secs_f64() / since.elapsed().as_secs_f64()
}

/// The first fields of the threads' schedstat, summed: the time on a core, and the time that it waited for one.
fn thread_times(fields: usize) -> Duration {
    // Fields 14 and 15 of /proc/self/stat, in ticks of 10 ms; /proc/self/schedstat covers one thread only, so the
    // threads' are summed for a finer reading.
    let tasks = std::fs::read_dir("/proc/self/task").expect("these tests read CPU times as Linux gives them");
    let times = tasks.filter_map(|task| {
        let text = std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        text.split(' ').take(fields).map(|field| field.parse::<u64>().ok()).sum::<Option<u64>>()
    });
    Duration::from_nanos(times.sum())
}

/// Everything that was logged in this process, a line for each event with its fields.
pub fn logged(wanted: &[&str]) -> usize {
    let lines = LOG.get().expect("capture_log was called").lock().unwrap();
    lines.iter().filter(|line| wanted.iter().all(|text| line.contains(text))).count()
}

static LOG: OnceLock<Mutex<Vec<String>>> = OnceLock::new();

/// Starts to keep what is logged in this process. Tests share it: look for what is yours by topic or group.
pub fn capture_log() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        LOG.get_or_init(Mutex::default);
        tracing::subscriber::set_global_default(tracing_subscriber::registry().with(Capture))
            .expect("nobody else sets it");
    });
}

struct Capture;

impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Capture {
    fn enabled(&self, metadata: &tracing::Metadata<'_>, _: Context<'_, S>) -> bool {
        *metadata.level() <= tracing::Level::INFO
    }

    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        struct Line(String);
        impl tracing::field::Visit for Line {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                let _ = write!(self.0, " {field}={value:?}");
            }
        }
        let mut line = Line(event.metadata().level().to_string());
        event.record(&mut line);
        LOG.get().expect("set before the subscriber").lock().unwrap().push(line.0);
    }
}

/// Silences the panics that tests plant; others print as always.
pub fn quiet_planted_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let message = info.payload().downcast_ref::<&str>().map_or_else(
                || info.payload().downcast_ref::<String>().cloned().unwrap_or_default(),
                |text| (*text).to_owned(),
            );
            if !message.starts_with("planted") {
                usual(info);
            }
        }));
    });
}
