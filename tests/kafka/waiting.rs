//! Waiting where a partition ends with what is no record, and what the brokers can't be asked.

use crate::cluster::{connect, fresh, shared};
use keylane::{BrokerError, Record};
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);

#[test]
fn the_end_of_a_transaction_is_no_record_to_wait_for() {
    let (bus, topic) = (connect(1), fresh("transaction"));
    bus.create_topic(&topic).wait().unwrap();
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", format!("127.0.0.1:{}", shared().port))
        .set("transactional.id", &topic)
        .create()
        .unwrap();
    producer.init_transactions(SOON).unwrap();
    for is_kept in [true, false] {
        producer.begin_transaction().unwrap();
        producer.send(BaseRecord::<(), str>::to(&topic).payload("x")).map_err(|(error, _)| error).unwrap();
        if is_kept {
            producer.commit_transaction(SOON).unwrap();
        } else {
            producer.flush(SOON).unwrap();
            producer.abort_transaction(SOON).unwrap();
        }
    }
    let orders = bus.subscribe(&topic).group(&topic).handle(|_| Ok(())).unwrap();
    orders.caught_up().wait_timeout(SOON).expect("it ends").unwrap();
    assert_eq!(orders.stats().succeeded, 1);
    bus.close(SOON).wait();
}

#[test]
fn what_others_do_on_the_brokers_can_t_settle() {
    let (bus, topic) = (connect(1), fresh("settled"));
    bus.create_topic(&topic).wait().unwrap();
    bus.publish(&topic, Record::new("x")).wait().unwrap();
    let refused = bus.settled().wait().unwrap_err();
    assert!(
        matches!(&refused, BrokerError::Refused(why) if why.contains("kafka") && why.contains("caught_up")),
        "{refused}"
    );
    bus.close(SOON).wait();
}
