//! RustStream over its broker in memory, with records spread by key over as many lanes as there are workers.

use super::{Setup, Variant};
use crate::record::{Decoded, Id, SIZE, Source, TOPIC, Template, payload, raw};
use crate::work::Work;
use ::ruststream::OutgoingMessage;
use ::ruststream::memory::prelude::*;
use ::ruststream::memory::{MemoryPublisher, PARTITION_KEY_HEADER};
use ::ruststream::runtime::{BrokerScope, Identity};
use bytes::{BufMut as _, BytesMut};
use measure::{Cost, Meter};
use std::convert::Infallible;
use std::num::NonZeroUsize;
use std::sync::Arc;

pub(crate) const WORKERS_DECODED: Variant = Variant {
    name: "ruststream workers, decoded",
    crates: &["ruststream", "tokio"],
    settings: "workers(n, by_key), tasks on a runtime with a thread per core; the same JSON by serde_json into a \
               struct that borrows, not validated; one header, the key; a failed one is queued again at once",
    retries: true,
    run: |setup| run::<Workers>(setup, Form::Decoded),
};

pub(crate) const THREADS_DECODED: Variant = Variant {
    name: "ruststream threads, decoded",
    crates: &["ruststream", "tokio"],
    settings: "threads(n, by_key), beside a runtime with a thread per core; the rest as with workers",
    retries: true,
    run: |setup| run::<Threads>(setup, Form::Decoded),
};

pub(crate) const WORKERS_BYTES: Variant = Variant {
    name: "ruststream workers, bytes",
    crates: &["ruststream", "tokio"],
    settings: "workers(n, by_key), tasks on a runtime with a thread per core; one header, the key; the handler reads \
               the id at its place in the bytes",
    retries: false,
    run: |setup| run::<Workers>(setup, Form::Bytes),
};

pub(crate) const THREADS_BYTES: Variant = Variant {
    name: "ruststream threads, bytes",
    crates: &["ruststream", "tokio"],
    settings: "threads(n, by_key), beside a runtime with a thread per core; one header, the key; the handler reads \
               the id at its place in the bytes",
    retries: false,
    run: |setup| run::<Threads>(setup, Form::Bytes),
};

/// What a handler makes of a record, and a producer of an id.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Decoded,
    Bytes,
}

/// What a handler knows.
struct State {
    work: Arc<Work>,
    form: Form,
}

/// The bytes of a delivery, borrowed from the broker.
#[derive(Deserialized)]
struct Frame<'a>(&'a [u8]);

#[subscriber("orders")]
async fn consume(frame: &Frame<'_>, context: &mut Context<'_, (), State>) -> HandlerOutcome {
    let State { work, form } = context.state();
    let id = match form {
        Form::Decoded => {
            let decoded: Decoded<'_> = serde_json::from_slice(frame.0).expect("was encoded here");
            std::hint::black_box(decoded.payload);
            Id::of_event_id(decoded.event_id)
        }
        Form::Bytes => Id::of_bytes(frame.0),
    };
    match work.handle(id) {
        Ok(()) => HandlerOutcome::ack(),
        Err(_) => HandlerOutcome::retry(),
    }
}

type Scope<'a> = &'a mut BrokerScope<MemoryBroker, Identity, (), State>;

/// How deliveries are spread.
trait Dispatch {
    fn mount(scope: Scope<'_>, lanes: NonZeroUsize);
}

struct Workers;
struct Threads;

impl Dispatch for Workers {
    fn mount(scope: Scope<'_>, lanes: NonZeroUsize) {
        scope.include(consume.workers_by_key(lanes));
    }
}

impl Dispatch for Threads {
    fn mount(scope: Scope<'_>, lanes: NonZeroUsize) {
        scope.include(consume.threads_by_key(lanes));
    }
}

fn run<D: Dispatch>(setup: &Setup, form: Form) -> Cost {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime starts");
    let lanes = NonZeroUsize::new(setup.workers).expect("there is a worker");
    let broker = MemoryBroker::new();
    let state = State { work: setup.work.clone(), form };
    let app = RustStream::new(AppInfo::new("contest", "0.0.0"))
        .on_startup(async move |()| Ok::<_, Infallible>(state))
        .with_broker(broker.clone(), |scope| D::mount(scope, lanes));
    runtime.block_on(async {
        let running = app.start().await.expect("the service starts");
        let publisher = broker.publisher();
        let cost = match form {
            Form::Decoded => {
                let (payload, mut event_id) = (raw(&payload()), String::new());
                publish_all(setup, &publisher, |id| {
                    id.event_id(&mut event_id);
                    let decoded = Decoded::new(&event_id, id.aggregate_id(), &payload);
                    let mut value = BytesMut::with_capacity(SIZE);
                    serde_json::to_writer((&mut value).writer(), &decoded).expect("is JSON");
                    value
                })
                .await
            }
            Form::Bytes => {
                let template = Template::new();
                publish_all(setup, &publisher, |id| {
                    let mut value = BytesMut::from(template.bytes());
                    id.put_into(&mut value);
                    value
                })
                .await
            }
        };
        running.shutdown().await.expect("the service stops");
        cost
    })
}

async fn publish_all(
    setup: &Setup,
    publisher: &MemoryPublisher,
    mut record: impl FnMut(Id) -> BytesMut,
) -> Cost {
    let mut source = Source::new();
    let meter = Meter::start();
    for published in 0..setup.n {
        while !setup.work.has_room(published) {
            tokio::task::yield_now().await;
        }
        let id = source.next_id();
        let mut headers = HeaderMap::new();
        headers.insert(PARTITION_KEY_HEADER, Str::from_static(id.aggregate_id()));
        let message = OutgoingMessage::produced(TOPIC, record(id)).with_headers(headers);
        publisher.publish(message, None).await.expect("stored");
    }
    // Blocks the thread of the producer, which is none of the runtime's.
    setup.work.wait_for(setup.n, meter)
}
