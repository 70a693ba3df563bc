//! What does not work says what, where, and what to do.

use crate::admin::{Admin, configured};
use crate::support::servers::{self, proxy::Protocol, proxy::Proxy};
use crate::support::{capture_log, eventually, logged, number, numbered, within};
use crate::{connect, connect_to, server};
use keylane::{
    BrokerError, Config, ConnectError, Envelope, Problem, PublishError, Record, Start, SubscribeError,
    TopicError, TryPublishError,
};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

fn connect_error(url: &str, tune: impl FnOnce(&mut Config)) -> ConnectError {
    let mut config = Config::default();
    url.clone_into(&mut config.url);
    config.nats.connect_timeout = Duration::from_millis(600);
    tune(&mut config);
    let Err(error) = keylane::connect_with(config).wait() else { panic!("{url} was connected to") };
    error
}

fn contains(text: &str, parts: &[&str]) {
    assert!(parts.iter().all(|part| text.contains(part)), "`{text}` lacks something of {parts:?}");
}

#[test]
fn where_nothing_answers_the_addresses_are_named() {
    let port = servers::free_port();
    let began = Instant::now();
    let error = connect_error(&format!("nats://127.0.0.1:{port}"), |_| {});
    assert!(matches!(error, ConnectError::Unreachable { .. }), "{error}");
    contains(&error.to_string(), &["nats", &format!("127.0.0.1:{port}"), "600ms"]);
    assert!(began.elapsed() < Duration::from_secs(30));
    // A port that takes connections and says nothing.
    let silent = servers::free_listener();
    let port = silent.local_addr().unwrap().port();
    let error = connect_error(&format!("nats://127.0.0.1:{port}"), |_| {});
    assert!(matches!(error, ConnectError::Unreachable { .. }), "{error}");
}

#[test]
fn a_server_without_jetstream_is_a_refusal_that_says_how_to_get_it() {
    let server = servers::nats_without_jetstream();
    let error = connect_error(&format!("nats://127.0.0.1:{}", server.port), |config| {
        config.nats.connect_timeout = Duration::from_secs(20);
    });
    assert!(matches!(error, ConnectError::Refused { .. }), "{error}");
    contains(&error.to_string(), &["JetStream", "-js", &server.port.to_string()]);
}

#[test]
fn a_topic_that_does_not_exist_is_not_created_unless_that_is_allowed() {
    let server = server(&[]);
    let bus = connect(&server, |_| {});
    let Err(PublishError::Refused { reason, .. }) = bus.publish("orders.new", Record::new("x")).wait() else {
        panic!("it was stored somewhere")
    };
    contains(&reason, &["`orders.new`", "`orders~new`", "create_topics"]);
    let subscribed = bus.subscribe("orders.new").group("billing").handle(|_| Ok(()));
    assert!(
        matches!(subscribed, Err(SubscribeError::Broker(BrokerError::NoSuchTopic { topic })) if topic == "orders.new")
    );
    let creating = connect(&server, |config| config.nats.create_topics = true);
    creating.publish("orders.new", Record::new("x")).wait().unwrap();
    bus.publish("orders.new", Record::new("x")).wait().expect("it is there now, and this bus sees it");
}

#[test]
fn a_stream_that_is_not_what_is_asked_for_is_an_error_with_both_sides() {
    let server = server(&["orders"]);
    let refusal = |tune: &dyn Fn(&mut Config)| {
        let bus = connect(&server, |config| tune(config));
        let Err(TopicError::Broker(BrokerError::Refused(text))) = bus.create_topic("orders").wait() else {
            panic!("it was taken for what it is not")
        };
        text
    };
    let text = refusal(&|config| config.nats.storage = keylane::config::Storage::Memory);
    contains(&text, &["`orders`", "storage file", "storage memory", "nats.storage"]);
    let text = refusal(&|config| config.nats.replicas = 3);
    contains(&text, &["1 replicas", "3 (", "nats.replicas"]);
    // One stream for all, which has not this topic's subjects.
    let shared = connect(&server, |config| config.nats.stream = "orders".to_owned());
    let Err(PublishError::Refused { reason, .. }) = shared.publish("payments", Record::new("x")).wait()
    else {
        panic!("it was stored somewhere")
    };
    contains(&reason, &["`orders`", "orders.*", "payments.*", "create_topics"]);
    // More replicas than there are servers.
    let three = connect(&server, |config| config.nats.replicas = 3);
    let Err(error) = three.create_topic("replicated").wait() else {
        panic!("one server has no three copies")
    };
    contains(&error.to_string(), &["`replicated`", "created", "10074"]);
}

#[test]
fn a_record_that_is_too_large_for_the_server_is_refused_before_it_is_sent() {
    let server = configured("payload", "max_payload: 10000\n");
    let bus = connect(&server, |config| config.nats.create_topics = true);
    let Err(PublishError::Refused { reason, .. }) =
        bus.publish("orders", Record::new(vec![b'x'; 10_000])).wait()
    else {
        panic!("it was stored")
    };
    contains(&reason, &["10000", "max_payload"]);
    bus.publish("orders", Record::new(vec![b'x'; 9_000])).wait().expect("with its headers it fits");
}

#[test]
fn a_full_stream_is_waited_for_and_drops_nothing() {
    let server = server(&["orders"]);
    let admin = Admin::of(&server);
    admin.limit_stream("orders", 10);
    let bus = connect(&server, |_| {});
    let publishes: Vec<_> =
        (0..15).map(|n| bus.publish("orders", numbered(&format!("key-{n}"), n))).collect();
    eventually("ten are stored", || publishes.iter().filter(|publish| publish.is_done()).count() == 10)
        .unwrap();
    eventually("the topic is known to be full", || {
        matches!(bus.try_publish("orders", numbered("more", 0)), Err(TryPublishError::Full(_)))
    })
    .unwrap();
    admin.purge("orders");
    for publish in publishes {
        publish.wait().expect("there is room again");
    }
}

#[test]
fn a_consumer_that_somebody_deletes_is_created_again_where_it_was() {
    capture_log();
    let server = server(&["orders"]);
    let bus = connect(&server, |_| {});
    let came = Arc::new(Mutex::new(Vec::new()));
    let kept = came.clone();
    let builder = bus.subscribe_envelopes("orders").group("deleted");
    let subscription = builder
        .handle(move |event| {
            kept.lock().unwrap().push(number(event));
            Ok(())
        })
        .unwrap();
    (0..50).for_each(|n| drop(bus.publish("orders", numbered("key", n)).wait().unwrap()));
    eventually("all is handled", || came.lock().unwrap().len() == 50).unwrap();
    Admin::of(&server).delete_consumer("orders", "deleted");
    (50..100).for_each(|n| drop(bus.publish("orders", numbered("key", n)).wait().unwrap()));
    eventually("it goes on", || came.lock().unwrap().len() >= 100).unwrap();
    assert_eq!(*came.lock().unwrap(), (0..100).collect::<Vec<_>>(), "nothing twice, nothing left out");
    assert!(logged(&["deleted by somebody", "deleted"]) > 0, "nobody said so");
    eventually("it is healthy", || subscription.health().is_healthy()).unwrap();
}

#[test]
fn a_stream_made_anew_is_handled_from_its_first_record_whatever_it_holds() {
    let server = server(&["orders"]);
    let admin = Admin::of(&server);
    let bus = connect(&server, |_| {});
    let came = Arc::new(Mutex::new(Vec::new()));
    let kept = came.clone();
    let builder = bus.subscribe("orders").group("anew").start(Start::Latest);
    let subscription = builder
        .handle(move |event| {
            let text = std::str::from_utf8(event.value())?;
            kept.lock().unwrap().push(text.parse::<u64>()?);
            Ok(())
        })
        .unwrap();
    subscription.ready().wait().unwrap();
    for n in 0..10 {
        bus.publish("orders", Record::new(n.to_string()).with_key("key")).wait().unwrap();
    }
    eventually("all is handled", || came.lock().unwrap().len() == 10).unwrap();
    for (time, records) in [(1, 50), (2, 10), (3, 3)] {
        let before = came.lock().unwrap().len();
        admin.make_anew("orders", records);
        within(Duration::from_secs(30), "the new stream is handled", || {
            came.lock().unwrap().len() == before + records as usize
        })
        .unwrap();
        assert_eq!(came.lock().unwrap()[before..], (0..records).collect::<Vec<_>>());
        let told = subscription.health().problems.into_iter().find_map(|problem| match problem {
            Problem::Lost { records, reason, .. } => Some((records, reason)),
            _ => None,
        });
        let (lost, reason) = told.expect("health tells of it");
        assert!(lost == 0 && reason.contains("made anew"), "{time}: {lost} {reason}");
        subscription.acknowledge_lost();
    }
    eventually("it is healthy", || subscription.health().is_healthy()).unwrap();
}

#[test]
fn cut_connections_cost_no_order_and_store_nothing_twice() {
    let server = server(&["orders"]);
    let proxy = Proxy::start(0, server.port, Protocol::Nats);
    let bus = connect_to(proxy.port(), |_| {});
    let came = Arc::new(Mutex::new(Vec::<(String, u64)>::new()));
    let kept = came.clone();
    let subscription = bus
        .subscribe("orders")
        .group("billing")
        .handle(move |event| {
            let key = event.aggregate_id().unwrap_or_default().to_owned();
            kept.lock().unwrap().push((key, number(event)));
            Ok(())
        })
        .unwrap();
    subscription.ready().wait().unwrap();
    let mut publishes = Vec::new();
    for n in 0..2_000_u64 {
        // Plain records, which have no id of their own.
        let record = Record::new((n / 10).to_string()).with_key(format!("key-{}", n % 10));
        publishes.push(bus.publish("orders", record));
        match n % 400 {
            100 => proxy.fail_next_publishes("orders", 4),
            300 => proxy.cut(),
            _ => std::thread::sleep(Duration::from_micros(200)),
        }
    }
    let offsets: Vec<u64> = publishes.into_iter().map(|publish| publish.wait().unwrap().offset()).collect();
    let mut sorted = offsets.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, (1..=2_000).collect::<Vec<_>>(), "each is stored once");
    eventually("all is handled", || came.lock().unwrap().len() >= 2_000).unwrap();
    let came = came.lock().unwrap();
    assert_eq!(came.len(), 2_000, "something was handled twice");
    for key in 0..10 {
        let of_key: Vec<u64> =
            came.iter().filter(|(k, _)| *k == format!("key-{key}")).map(|(_, n)| *n).collect();
        assert!(of_key.is_sorted() && of_key.len() == 200, "key-{key}: {of_key:?}");
    }
}

#[test]
fn a_server_that_is_away_shows_and_one_that_hangs_is_found_out() {
    let mut server = server(&["orders"]);
    let bus = connect(&server, |_| {});
    let handled = Arc::new(AtomicU64::new(0));
    let count = handled.clone();
    let subscription = bus
        .subscribe("orders")
        .group("billing")
        .handle(move |_| {
            count.fetch_add(1, Ordering::Relaxed);
            Ok(())
        })
        .unwrap();
    subscription.ready().wait().unwrap();
    server.kill();
    let is_away = |problem: &Problem| matches!(problem, Problem::Broker { error, .. } if error.contains("not connected"));
    eventually("it shows", || subscription.health().problems.iter().any(is_away)).unwrap();
    server.restart();
    bus.publish("orders", Record::new("a")).wait().unwrap();
    eventually("it goes on", || handled.load(Ordering::Relaxed) >= 1).unwrap();
    server.freeze(true);
    let publish = bus.publish("orders", Record::new("b"));
    let hangs = |problem: &Problem| matches!(problem, Problem::Broker { .. });
    eventually("it shows where records are handled", || subscription.health().problems.iter().any(hangs))
        .unwrap();
    eventually("it shows where they are published", || !bus.publishing().is_healthy()).unwrap();
    assert!(!publish.is_done(), "a server that hangs answers nothing");
    server.freeze(false);
    publish.wait().unwrap();
    eventually("it goes on", || handled.load(Ordering::Relaxed) >= 2).unwrap();
    eventually("it is healthy", || subscription.health().is_healthy()).unwrap();
}

#[test]
fn a_group_begins_with_what_is_stored_after_it_joined_if_it_says_so() {
    let server = server(&["orders"]);
    let bus = connect(&server, |_| {});
    bus.publish("orders", Envelope::new("a", "t", 1, "1").unwrap()).wait().unwrap();
    let came = Arc::new(Mutex::new(Vec::new()));
    let kept = came.clone();
    let builder = bus.subscribe_envelopes("orders").group("late").start(Start::Latest);
    let late = builder
        .handle(move |event| {
            kept.lock().unwrap().push(number(event));
            Ok(())
        })
        .unwrap();
    late.ready().wait().unwrap();
    bus.publish("orders", Envelope::new("a", "t", 1, "2").unwrap()).wait().unwrap();
    eventually("it came", || !came.lock().unwrap().is_empty()).unwrap();
    assert_eq!(*came.lock().unwrap(), [2]);
}
