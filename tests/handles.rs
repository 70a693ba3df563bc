//! What may be done with the public types from several threads, and how large the handles are. Fixed here, so that a
//! change of it is seen: a handle that loses `Send` breaks the programs of others, and one that grows is copied dearer.

use keylane::config::{BusUrl, Credentials, Host, Properties, Scheme, Secret};
use keylane::memory::{Faults, MemoryBroker, MemoryBrokerBuilder};
use keylane::pool::{
    Completion, Handler, Idle, JobError, Key, Pool, PoolBuilder, PoolError, Request, RequestPool, SendError,
    Sending, Submitting, TrySendError, Worker,
};
use keylane::{
    BrokerError, Bus, Cancellation, Cancelled, Clock, CloseReport, Config, ConfigError, ConnectError,
    DeadLetter, DrainReport, Envelope, EnvelopeError, Envelopes, Event, FailurePolicy, HandlerError, Headers,
    Health, Held, Jitter, Limits, ManualClock, Message, NameError, NextOutcome, Op, Outcome, Outcomes, Place,
    Plain, PolicyError, Problem, PublishError, Publishing, Receipt, Record, RecordView, Registration, Retry,
    Route, Start, Stats, Status, SubscribeError, Subscription, SubscriptionBuilder, Then, Timestamp,
    TimestampError, TopicError, TryPublishError, Unacknowledged, UrlError,
};
use std::cell::Cell;
use std::rc::Rc;

/// Whether a type is it: a constant of the type's own goes before one of a trait, where its bounds hold.
macro_rules! is {
    ($bound:ident: $type:ty) => {{
        struct Probe<T>(std::marker::PhantomData<T>);
        #[allow(dead_code, reason = "one of the two is looked at")]
        trait Otherwise {
            const IT: bool = false;
        }
        impl<T> Otherwise for Probe<T> {}
        #[allow(dead_code, reason = "one of the two is looked at")]
        impl<T: $bound> Probe<T> {
            const IT: bool = true;
        }
        Probe::<$type>::IT
    }};
}

/// Fails to compile unless each type is all of it.
macro_rules! assert_all {
    ([$($bound:ident),+]: $($type:ty),+ $(,)?) => {
        const _: () = {
            const fn is<T: $($bound +)+>() {}
            $(is::<$type>();)+
        };
    };
}

/// Fails to compile if a type is it.
macro_rules! assert_none {
    ($bound:ident: $($type:ty),+ $(,)?) => {
        $(const _: () = assert!(!is!($bound: $type), concat!(stringify!($type), " is ", stringify!($bound)));)+
    };
}

// What is shared by all threads of a program.
assert_all!([Clone, Send, Sync, Unpin]: Bus, MemoryBroker, Faults, Clock, ManualClock, Cancellation);
assert_all!([Send, Sync, Unpin]: Subscription, Registration, Pool<u64>, RequestPool<u64, u64>);
// A subscription ends with its handle, a registration with its own: they have one owner.
assert_none!(Clone: Subscription, Registration);
// Jobs are moved to their worker and never shared.
assert_all!([Send, Sync, Unpin]: Pool<Cell<u64>>, RequestPool<Cell<u64>, Cell<u64>>);

// What waits can wait on any thread, and be moved while it does.
assert_all!([Send, Sync, Unpin]: Op<u64>, Completion<u64, u64>, Sending<u64>, Outcomes, NextOutcome<'static>, Cancelled);
assert_all!([Send, Unpin]: Submitting<u64, u64>, Request<u64, u64>);
assert_none!(Clone: Op<u64>, Completion<u64, u64>, Sending<u64>, Submitting<u64, u64>, Outcomes);
// An answer is given to one.
assert_all!([Send, Sync]: Completion<u64, Cell<u64>>);
// They may hold what they wait for, and so are shared as that is.
assert_all!([Send]: Op<Cell<u64>>, Sending<Cell<u64>>, Submitting<Cell<u64>, Cell<u64>>);
assert_none!(Sync: Op<Cell<u64>>, Sending<Cell<u64>>);
assert_none!(Send: Op<Rc<u64>>, Completion<Rc<u64>, u64>, Completion<u64, Rc<u64>>);
// The side that answers is written to without a lock.
assert_none!(Sync: Submitting<u64, u64>, Request<u64, u64>);
// An Op may hold anything and is moved all the same: it is not pinned through.
assert_all!([Unpin]: Op<std::marker::PhantomPinned>);

// What handlers see goes to other threads and tasks.
assert_all!([Clone, Send, Sync, Unpin]: Event, Envelope<'static>, Record, Headers, RecordView<'static>, Receipt);

// What is built and read.
assert_all!([Clone, Send, Sync, Unpin]: Config, BusUrl, Credentials, Host, Properties, Scheme, Secret, FailurePolicy, Retry,
    Then, DeadLetter, Jitter, Route, Start, Limits, Timestamp, Health, Status, Problem, Place, Stats, Publishing,
    Unacknowledged, Key, Idle, MemoryBrokerBuilder);
assert_all!([Send, Sync, Unpin]: SubscriptionBuilder<Envelopes>, SubscriptionBuilder<Plain>, PoolBuilder, Message,
    Outcome, DrainReport, CloseReport, Held);

// Errors go up through any program.
assert_all!([Send, Sync, Unpin]: BrokerError, ConfigError, ConnectError, EnvelopeError, NameError, PolicyError, PublishError,
    SubscribeError, TimestampError, TopicError, TryPublishError, UrlError, JobError, PoolError, SendError<u64>,
    TrySendError<u64>, HandlerError);

/// A worker moves to another thread exactly if its handler may.
const fn _a_worker_moves_with_its_handler<H: Handler + Send>()
where
    H::Future: Send,
{
    const fn is_send<T: Send>() {}
    is_send::<Worker<H>>();
}

#[test]
fn what_a_type_is_and_what_it_is_not_are_told_apart() {
    assert!(is!(Send: u64) && is!(Sync: u64) && is!(Clone: Rc<u64>));
    assert!(!is!(Send: Rc<u64>) && !is!(Sync: Cell<u64>) && !is!(Clone: std::sync::Mutex<u64>));
}

#[test]
fn handles_are_as_small_as_they_are() {
    const POINTER: usize = size_of::<usize>();
    let sizes = [
        ("Bus", size_of::<Bus>(), POINTER),
        ("Subscription", size_of::<Subscription>(), POINTER),
        ("Outcomes", size_of::<Outcomes>(), 3 * POINTER),
        ("MemoryBroker", size_of::<MemoryBroker>(), POINTER),
        ("Faults", size_of::<Faults>(), POINTER),
        ("Clock", size_of::<Clock>(), POINTER),
        ("ManualClock", size_of::<ManualClock>(), POINTER),
        ("Registration", size_of::<Registration>(), 2 * POINTER),
        ("Cancellation", size_of::<Cancellation>(), POINTER),
        ("Pool", size_of::<Pool<u64>>(), POINTER),
        ("RequestPool", size_of::<RequestPool<u64, u64>>(), POINTER),
        ("Key", size_of::<Key>(), 8),
        ("Request", size_of::<Request<u64, u64>>(), 2 * POINTER),
        ("Completion", size_of::<Completion<u64, u64>>(), 2 * POINTER),
        ("Sending", size_of::<Sending<u64>>(), 6 * POINTER),
        ("Submitting", size_of::<Submitting<u64, u64>>(), 8 * POINTER),
        ("Op", size_of::<Op<()>>(), 3 * POINTER),
        ("Receipt", size_of::<Receipt>(), 4 * POINTER),
        ("Event", size_of::<Event>(), 6 * POINTER),
        ("Envelope", size_of::<Envelope>(), 184),
        ("EnvelopeError", size_of::<EnvelopeError>(), POINTER),
        ("HandlerError", size_of::<HandlerError>(), 3 * POINTER),
        ("Headers", size_of::<Headers>(), 5 * POINTER),
        ("Record", size_of::<Record>(), 15 * POINTER),
        ("Timestamp", size_of::<Timestamp>(), 16),
    ];
    let differing: Vec<_> = sizes.iter().filter(|(_, size, expected)| size != expected).collect();
    assert!(differing.is_empty(), "not as large as expected: {differing:?}");
}
