//! keylane over its bus in memory.

use super::{Setup, Variant};
use crate::record::{EVENT_TYPE, Id, Source, TOPIC, Template, payload};
use ::keylane::{Bus, Envelope, HandlerError, Record, Retry, Route};
use measure::{Cost, Meter};
use std::time::Duration;

pub(crate) const DECODED: Variant = Variant {
    name: "keylane, decoded",
    crates: &["keylane"],
    settings: "Envelopes: validated, encoded and published with six headers and a key, 4 partitions; parsed and \
               validated for the handler; settled in order per partition; a failed one is tried again after 1 ms at \
               most, its key waiting",
    retries: true,
    run: decoded,
};

pub(crate) const BYTES: Variant = Variant {
    name: "keylane, bytes",
    crates: &["keylane"],
    settings: "plain records with a key and no headers, 4 partitions; the handler reads the id at its place in the \
               bytes",
    retries: false,
    run: bytes,
};

const GROUP: &str = "contest";

fn connect() -> Bus {
    ::keylane::connect(&format!("memory:?topics={TOPIC}")).wait().expect("a bus in memory connects")
}

fn decoded(setup: &Setup) -> Cost {
    let bus = connect();
    let work = setup.work.clone();
    let soon = Duration::from_millis(1);
    let subscription = bus
        .subscribe_envelopes(TOPIC)
        .group(GROUP)
        .workers(setup.workers)
        .retry(Retry::exponential(soon..soon))
        .handle(move |event| {
            let envelope = event.envelope().ok_or("not an Envelope")?;
            std::hint::black_box(envelope.payload());
            work.handle(Id::of_event_id(envelope.event_id()))
                .map_err(|_| HandlerError::from("one of a hundred fails"))
        })
        .expect("the topic is there");
    subscription.ready().wait().expect("joins");
    let (payload, mut event_id) = (payload(), String::new());
    let cost = publish_all(setup, |id| {
        id.event_id(&mut event_id);
        let envelope = Envelope::new(id.aggregate_id(), EVENT_TYPE, 1, payload.as_str()).expect("valid");
        let envelope = envelope.with_event_id(event_id.as_str()).expect("valid");
        bus.publish(TOPIC, &envelope).wait().expect("stored");
    });
    bus.close(Duration::from_secs(10)).wait();
    cost
}

fn bytes(setup: &Setup) -> Cost {
    let bus = connect();
    let work = setup.work.clone();
    let subscription = bus
        .subscribe(TOPIC)
        .group(GROUP)
        .route(Route::Key)
        .workers(setup.workers)
        .handle(move |event| {
            work.handle(Id::of_bytes(event.value())).map_err(|_| HandlerError::from("none fails here"))
        })
        .expect("the topic is there");
    subscription.ready().wait().expect("joins");
    let template = Template::new();
    let cost = publish_all(setup, |id| {
        let mut value = template.bytes().to_vec();
        id.put_into(&mut value);
        bus.publish(TOPIC, Record::new(value).with_key(id.aggregate_id())).wait().expect("stored");
    });
    bus.close(Duration::from_secs(10)).wait();
    cost
}

fn publish_all(setup: &Setup, mut publish: impl FnMut(Id)) -> Cost {
    let mut source = Source::new();
    let meter = Meter::start();
    for published in 0..setup.n {
        while !setup.work.has_room(published) {
            std::thread::yield_now();
        }
        publish(source.next_id());
    }
    setup.work.wait_for(setup.n, meter)
}
