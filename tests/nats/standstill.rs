//! What keeps a consumer from bringing anything shows within 30 s with its reason, or is refused where it is known.

use crate::admin::{Admin, configured};
use crate::support::servers::Server;
use crate::support::{capture_log, eventually, logged, numbered, within};
use crate::{connect, server};
use async_nats::jetstream::stream::{self, ConsumerLimits, RetentionPolicy, StorageType};
use keylane::{BrokerError, Bus, Config, Problem, PublishError, Start, SubscribeError, Subscription};
use std::time::{Duration, Instant};

/// P7's limit.
const SHOWN: Duration = Duration::from_secs(30);

fn reason_of(subscription: &Subscription) -> Option<String> {
    subscription.health().problems.into_iter().find_map(|problem| match problem {
        Problem::Stuck { topic, reason, .. } => {
            assert_eq!(topic, "orders");
            Some(reason)
        }
        _ => None,
    })
}

fn shows(subscription: &Subscription, parts: &[&str]) {
    within(SHOWN, "it shows why nothing comes", || reason_of(subscription).is_some()).unwrap();
    let reason = reason_of(subscription).expect("it lasts");
    assert!(parts.iter().all(|part| reason.contains(part)), "`{reason}` lacks something of {parts:?}");
    assert_eq!(subscription.stats().stuck_partitions, 1);
}

#[test]
fn a_consumer_that_an_operator_has_paused_shows_and_goes_on() {
    capture_log();
    let server = server(&["orders"]);
    let (admin, bus) = (Admin::of(&server), connect(&server, |_| {}));
    let builder = bus.subscribe_envelopes("orders").group("paused-by-somebody");
    let subscription = builder.handle(|_| Ok(())).unwrap();
    subscription.ready().wait().unwrap();
    bus.publish("orders", numbered("key", 0)).wait().unwrap();
    eventually("it is handled", || subscription.stats().succeeded == 1).unwrap();
    admin.pause("orders", "paused-by-somebody", true);
    bus.publish("orders", numbered("key", 1)).wait().unwrap();
    shows(&subscription, &["paused", "`paused-by-somebody`", "nats consumer resume"]);
    assert_eq!(subscription.stats().succeeded, 1, "it is paused");
    within(SHOWN, "it is said again while it lasts", || {
        logged(&["progress is held up", "paused-by-somebody"]) >= 2
    })
    .unwrap();
    admin.pause("orders", "paused-by-somebody", false);
    eventually("it goes on", || subscription.stats().succeeded == 2).unwrap();
    within(SHOWN, "it is healthy", || subscription.health().is_healthy()).unwrap();
    assert!(logged(&["it goes on again", "paused-by-somebody"]) > 0);
}

/// A server with a topic and a user who may do anything but publish to this; and the bus of that user.
fn without(name: &str, denied: &str) -> (Server, Bus) {
    let server = configured(
        name,
        &format!(
            "authorization {{ users = [ {{ user: root, password: pw }}, {{ user: ann, password: pw, permissions: {{ \
             publish: {{ deny: \"{denied}\" }} }} }} ] }}\n"
        ),
    );
    let connect = |user: &str| {
        let mut config = Config::default();
        config.url = format!("nats://{user}:pw@127.0.0.1:{}", server.port);
        config.nats.create_topics = user == "root";
        keylane::connect_with(config).wait().expect("the server takes this client")
    };
    let root = connect("root");
    root.create_topic("orders").wait().unwrap();
    root.publish("orders", numbered("key", 0)).wait().unwrap();
    let bus = connect("ann");
    (server, bus)
}

#[test]
fn pulls_that_are_not_permitted_show_with_what_to_permit() {
    let denied = "$JS.API.CONSUMER.MSG.NEXT.>";
    let (_server, bus) = without("without-pulls", denied);
    let subscription = bus.subscribe_envelopes("orders").group("billing").handle(|_| Ok(())).unwrap();
    shows(&subscription, &["may not publish to", "$JS.API.CONSUMER.MSG.NEXT.orders.billing", "permit"]);
    let until = Instant::now() + SHOWN;
    while Instant::now() < until {
        assert!(reason_of(&subscription).is_some(), "it lasts, and shows no more");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn acknowledgements_that_are_not_permitted_show_with_what_to_permit() {
    let (_server, bus) = without("without-acks", "$JS.ACK.>");
    let subscription = bus.subscribe_envelopes("orders").group("billing").handle(|_| Ok(())).unwrap();
    eventually("it is handled", || subscription.stats().succeeded == 1).unwrap();
    shows(&subscription, &["may not publish to", "permit it to publish to `$JS.ACK.orders.billing.>`"]);
}

#[test]
fn what_a_subscription_needs_and_may_not_do_is_refused_at_once() {
    for (name, denied) in [
        ("without-info", "$JS.API.STREAM.INFO.*"),
        ("without-create", "$JS.API.CONSUMER.CREATE.>"),
        ("without-consumers", "$JS.API.CONSUMER.INFO.>"),
    ] {
        let (_server, bus) = without(name, denied);
        let began = Instant::now();
        let refused = bus.subscribe_envelopes("orders").group("billing").handle(|_| Ok(())).unwrap_err();
        let text = refused.to_string();
        assert!(matches!(refused, SubscribeError::Broker(BrokerError::Refused(_))), "{refused:?}");
        assert!(text.contains("may not publish to `$JS.API.") && text.contains("orders"), "{text}");
        assert!(began.elapsed() < Duration::from_secs(5), "after {:?}", began.elapsed());
    }
}

#[test]
fn a_publish_that_is_not_permitted_is_refused_at_once() {
    let (_server, bus) = without("without-publishes", "orders.>");
    let began = Instant::now();
    let publishes: Vec<_> =
        (0..50).map(|n| bus.publish("orders", numbered(&format!("key-{n}"), n))).collect();
    for publish in publishes {
        let Err(PublishError::Refused { reason, .. }) = publish.wait() else { panic!("it was stored") };
        assert!(
            reason.contains("may not publish to `orders.key-") && reason.contains("`orders.*`"),
            "{reason}"
        );
    }
    assert!(began.elapsed() < Duration::from_secs(5), "after {:?}", began.elapsed());
}

fn refused(bus: &Bus, topic: &str, group: &str, start: Start, parts: &[&str]) {
    let builder = bus.subscribe_envelopes(topic).group(group).start(start);
    let Err(SubscribeError::Broker(BrokerError::Refused(text))) = builder.handle(|_| Ok(())) else {
        panic!("`{topic}` is read as if it could be")
    };
    assert!(parts.iter().all(|part| text.contains(part)), "`{text}` lacks something of {parts:?}");
}

fn stream(name: &str) -> stream::Config {
    stream::Config { name: name.to_owned(), subjects: vec![format!("{name}.*")], ..stream::Config::default() }
}

#[test]
fn a_stream_that_can_not_be_read_as_promised_is_refused_with_the_reason() {
    let server = server(&[]);
    let (admin, bus) = (Admin::of(&server), connect(&server, |_| {}));
    // Kept only for groups that are there.
    admin.create(stream::Config { retention: RetentionPolicy::Interest, ..stream("interest") });
    bus.publish("interest", numbered("key", 0)).wait().unwrap();
    refused(&bus, "interest", "one", Start::Earliest, &["`interest`", "Start::Latest", "limits"]);
    let late =
        bus.subscribe_envelopes("interest").group("one").start(Start::Latest).handle(|_| Ok(())).unwrap();
    late.ready().wait().unwrap();
    bus.publish("interest", numbered("key", 1)).wait().unwrap();
    eventually("it is handled", || late.stats().succeeded == 1).unwrap();
    late.drain(Duration::from_secs(10)).wait();
    bus.publish("interest", numbered("key", 2)).wait().unwrap();
    let again = bus.subscribe_envelopes("interest").group("one").handle(|_| Ok(())).unwrap();
    eventually("a group that was there has what was kept for it", || again.stats().succeeded == 1).unwrap();
    // Each record for one group.
    admin.create(stream::Config { retention: RetentionPolicy::WorkQueue, ..stream("work") });
    let _one = bus.subscribe_envelopes("work").group("one").handle(|_| Ok(())).unwrap();
    refused(&bus, "work", "two", Start::Earliest, &["work queue", "limits"]);
    // In memory.
    admin.create(stream::Config { storage: StorageType::Memory, ..stream("memory") });
    refused(&bus, "memory", "one", Start::Earliest, &["`memory`", "in memory", "nats.storage"]);
    let _plain =
        bus.subscribe("memory").group("plain").handle(|_| Ok(())).expect("what may be lost may be there");
    let allowed = connect(&server, |config| config.nats.storage = keylane::config::Storage::Memory);
    let _allowed =
        allowed.subscribe_envelopes("memory").group("one").handle(|_| Ok(())).expect("it is allowed");
}

#[test]
fn limits_mirrors_and_deeper_subjects_are_told_as_what_they_are() {
    capture_log();
    let server = server(&["old"]);
    let (admin, bus) = (Admin::of(&server), connect(&server, |_| {}));
    let limits = ConsumerLimits { max_ack_pending: 1_000, ..ConsumerLimits::default() };
    admin.create(stream::Config { consumer_limits: Some(limits), ..stream("limited") });
    refused(&bus, "limited", "one", Start::Earliest, &["max_ack_pending", "1000", "5120", "500 or less"]);
    let fits =
        bus.subscribe_envelopes("limited").group("one").in_flight_records(500).handle(|_| Ok(())).unwrap();
    fits.ready().wait().unwrap();
    let mirror = stream::Source { name: "old".to_owned(), ..stream::Source::default() };
    admin.create(stream::Config { subjects: Vec::new(), mirror: Some(mirror), ..stream("mirror") });
    let mirrored = connect(&server, |config| config.nats.stream = "mirror".to_owned());
    refused(&mirrored, "old", "one", Start::Earliest, &["mirror of stream `old`"]);
    admin.create(stream::Config { subjects: vec!["deep.>".to_owned()], ..stream("deep") });
    admin.publish("deep.a.b", "x");
    let _deep = bus.subscribe_envelopes("deep").group("one").handle(|_| Ok(())).unwrap();
    assert!(logged(&["more tokens", "deep.*.>"]) > 0, "nobody said so");
}
