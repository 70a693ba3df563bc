//! What is published arrives as it was, and how long it takes.

use crate::admin::Admin;
use crate::support::eventually;
use crate::{connect, server};
use keylane::{Envelope, Record, Route};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

#[test]
fn records_come_back_in_their_order_with_key_headers_and_time() {
    let server = server(&["orders"]);
    let bus = connect(&server, |_| {});
    let keys: [Option<&[u8]>; 6] = [
        Some(b"order-42"),
        Some(b"a.b:c/d"),
        Some(b"\x00\xff \r\n*>"),
        None,
        Some(b"%41"),
        Some(&[b'k'; 3000]),
    ];
    let mut sent = Vec::new();
    for (n, key) in keys.iter().enumerate() {
        let mut record =
            Record::new(format!("value {n}")).with_header("Via", "web").with_header("Account", &b"\xff"[..]);
        record.headers.push("Via", " again ");
        record.key = key.map(|key| key.to_vec().into());
        let receipt = bus.publish("orders", record.clone()).wait().expect("it is stored");
        assert_eq!((receipt.partition(), receipt.offset()), (0, n as u64 + 1));
        sent.push(record);
    }
    let came = Arc::new(Mutex::new(Vec::new()));
    let kept = came.clone();
    let subscription = bus
        .subscribe("orders")
        .group("billing")
        .workers(0)
        .handle(move |event| {
            kept.lock().unwrap().push((
                event.key().map(<[u8]>::to_vec),
                event.value().to_vec(),
                event.headers().clone(),
                event.timestamp(),
            ));
            Ok(())
        })
        .unwrap();
    subscription.ready().wait().unwrap();
    eventually("all came", || came.lock().unwrap().len() == sent.len()).unwrap();
    let ms = |time: std::time::SystemTime| time.duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
    for (came, sent) in came.lock().unwrap().iter().zip(&sent) {
        assert_eq!(came.0.as_deref(), sent.key.as_deref());
        assert_eq!((&came.1[..], &came.2), (&sent.value[..], &sent.headers));
        assert_eq!(ms(came.3), ms(sent.timestamp));
    }
    let report = bus.close(Duration::from_secs(60)).wait();
    assert!(report.subscriptions[0].unsettled.is_empty());
}

#[test]
fn a_record_of_somebody_else_is_routed_by_the_last_token_of_its_subject() {
    let server = server(&["orders"]);
    Admin::of(&server).publish("orders.order-42", "paid");
    let bus = connect(&server, |_| {});
    let (tell, told) = std::sync::mpsc::channel();
    let _subscription = bus
        .subscribe("orders")
        .group("billing")
        .route(Route::Subject(1))
        .handle(move |event| {
            tell.send((event.aggregate_id().map(str::to_owned), event.value().to_vec()))?;
            Ok(())
        })
        .unwrap();
    let came = told.recv_timeout(Duration::from_secs(60)).unwrap();
    assert_eq!(came, (Some("order-42".to_owned()), b"paid".to_vec()));
}

#[test]
fn many_envelopes_of_many_keys_are_handled_once_and_in_order() {
    let server = server(&["orders"]);
    let bus = connect(&server, |_| {});
    let began = Instant::now();
    let publishes: Vec<_> = (0..20_000_u64)
        .map(|n| {
            bus.publish("orders", Envelope::new(format!("key-{}", n % 100), "t", 1, n.to_string()).unwrap())
        })
        .collect();
    for publish in publishes {
        publish.wait().expect("it is stored");
    }
    eprintln!("published in {:?}", began.elapsed());
    let came = Arc::new(Mutex::new(Vec::<u64>::new()));
    let kept = came.clone();
    let began = Instant::now();
    let _subscription = bus
        .subscribe_envelopes("orders")
        .group("billing")
        .handle(move |event| {
            kept.lock().unwrap().push(crate::support::number(event));
            Ok(())
        })
        .unwrap();
    eventually("all came", || came.lock().unwrap().len() >= 20_000).unwrap();
    eprintln!("handled in {:?}", began.elapsed());
    let came = came.lock().unwrap();
    for key in 0..100 {
        let of_key: Vec<u64> = came.iter().copied().filter(|n| n % 100 == key).collect();
        assert!(of_key.is_sorted(), "key {key}: {of_key:?}");
        assert_eq!(of_key.len(), 200);
    }
}
