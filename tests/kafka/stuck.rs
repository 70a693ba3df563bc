//! A partition that brings nothing: told with its cause, again while it lasts, and over when it goes on.

use crate::cluster::{config, connect, connect_to, fresh, noting, shared};
use crate::logs::{delete, make, options};
use crate::support::servers::{self, Listener};
use crate::support::{capture_log, eventually, logged, numbered, within};
use keylane::config::GroupProtocol;
use keylane::{Problem, Record, Subscription};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, NewTopic, TopicReplication};
use rdkafka::bindings as native;
use rdkafka::client::DefaultClientContext;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use std::ffi::CString;
use std::ptr;
use std::time::Duration;

/// What a person is promised.
const TOLD: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Stuck {
    topic: String,
    partition: Option<u32>,
    offset: Option<u64>,
    reason: String,
}

fn stuck(subscription: &Subscription) -> Vec<Stuck> {
    let problems = subscription.health().problems.into_iter();
    let stuck = problems.filter_map(|problem| match problem {
        Problem::Stuck { topic, partition, offset, reason, .. } => {
            Some(Stuck { topic, partition, offset, reason })
        }
        _ => None,
    });
    stuck.collect()
}

/// Waits until it is told of exactly this place, and again; gives the reason.
fn told(subscription: &Subscription, topic: &str, partition: Option<u32>, offset: Option<u64>) -> String {
    let is_it =
        |stuck: &Stuck| stuck.topic == topic && stuck.partition == partition && stuck.offset == offset;
    within(TOLD, "it is told", || stuck(subscription).iter().any(is_it))
        .unwrap_or_else(|error| panic!("{error}; {:?}", subscription.health()));
    let all = stuck(subscription);
    assert_eq!(all.len(), 1, "{all:?}");
    assert_eq!(subscription.stats().stuck_partitions, 1);
    let said = || logged(&["WARN", "stands still", topic]);
    let before = said();
    eventually("it is said again", || said() >= before + 2).unwrap();
    all[0].reason.clone()
}

fn is_over(subscription: &Subscription) {
    within(TOLD, "it is over", || {
        stuck(subscription).is_empty() && subscription.stats().stuck_partitions == 0
    })
    .unwrap_or_else(|error| panic!("{error}; {:?}", subscription.health()));
    assert!(subscription.health().is_healthy(), "{:?}", subscription.health());
}

#[test]
fn a_hanging_transaction_is_told_until_it_ends() {
    capture_log();
    let (bus, topic) = (connect(1), fresh("hanging"));
    bus.create_topic(&topic).wait().unwrap();
    let (orders, seen) = noting(bus.subscribe_envelopes(&topic).group(&topic));
    bus.publish(&topic, numbered("key", 0)).wait().unwrap();
    eventually("the first is handled", || seen.lock().unwrap().len() == 1).unwrap();
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", format!("127.0.0.1:{}", shared().port))
        .set("transactional.id", &topic)
        .set("transaction.timeout.ms", "600000")
        .create()
        .unwrap();
    producer.init_transactions(Duration::from_secs(30)).unwrap();
    producer.begin_transaction().unwrap();
    let record = Record::from(&numbered("other", 100));
    let record = BaseRecord::to(&topic).key("other").payload(&record.value[..]);
    producer.send(record).map_err(|(error, _)| error).unwrap();
    producer.flush(Duration::from_secs(30)).unwrap();
    for n in 1..50 {
        bus.publish(&topic, numbered("key", n)).wait().unwrap();
    }
    let reason = told(&orders, &topic, Some(0), Some(1));
    assert!(reason.contains("transaction is open since offset 1"), "{reason}");
    producer.abort_transaction(Duration::from_secs(30)).unwrap();
    eventually("the others are handled", || seen.lock().unwrap().len() == 50).unwrap();
    assert_eq!(*seen.lock().unwrap(), (0..50).collect::<Vec<_>>());
    is_over(&orders);
}

fn a_deleted_topic_is_told_and_the_other_goes_on(protocol: GroupProtocol) {
    capture_log();
    let (bus, topic) = (connect(1), fresh("kept"));
    let second = fresh("deleted");
    bus.create_topic(&topic).wait().unwrap();
    bus.create_topic(&second).wait().unwrap();
    let mut config = config(shared().port, 1);
    config.kafka.group_protocol = protocol;
    let other = keylane::connect_with(config).wait().unwrap();
    let (orders, seen) = noting(other.subscribe_envelopes(&topic).topic(&second).group(&topic));
    bus.publish(&topic, numbered("key", 0)).wait().unwrap();
    bus.publish(&second, numbered("key", 1)).wait().unwrap();
    eventually("both are handled", || seen.lock().unwrap().len() == 2).unwrap();
    delete(&second);
    let reason = told(&orders, &second, None, None);
    assert!(reason.contains("does not exist"), "{reason}");
    for n in 2..20 {
        bus.publish(&topic, numbered("key", n)).wait().unwrap();
    }
    within(Duration::from_secs(10), "the other topic goes on", || seen.lock().unwrap().len() == 20).unwrap();
    make(&second);
    is_over(&orders);
    let fresh = connect(1);
    fresh.publish(&second, numbered("key", 20)).wait().unwrap();
    within(Duration::from_secs(60), "it goes on", || seen.lock().unwrap().last() == Some(&20)).unwrap();
}

#[test]
fn a_deleted_topic_is_told_and_the_other_goes_on_in_a_classic_group() {
    a_deleted_topic_is_told_and_the_other_goes_on(GroupProtocol::CooperativeSticky);
}

#[test]
fn a_deleted_topic_is_told_and_the_other_goes_on_with_kip_848() {
    a_deleted_topic_is_told_and_the_other_goes_on(GroupProtocol::Consumer);
}

/// Lets `ann` read the topic, or see it alone. Where no rule is everything is allowed.
fn permit(admin: &AdminClient<DefaultClientContext>, topic: &str, may_read: bool) {
    use native::rd_kafka_AclOperation_t as Operation;
    use native::rd_kafka_AclPermissionType_t as Permission;
    let client = admin.inner().native_ptr();
    let [topic, user, host] = [topic, "User:ann", "*"].map(|text| CString::new(text).unwrap());
    let kind = native::rd_kafka_ResourceType_t::RD_KAFKA_RESOURCE_TOPIC;
    let pattern = native::rd_kafka_ResourcePatternType_t::RD_KAFKA_RESOURCE_PATTERN_LITERAL;
    let rules = [
        (Operation::RD_KAFKA_ACL_OPERATION_DESCRIBE, Permission::RD_KAFKA_ACL_PERMISSION_TYPE_ALLOW),
        (Operation::RD_KAFKA_ACL_OPERATION_READ, Permission::RD_KAFKA_ACL_PERMISSION_TYPE_DENY),
    ];
    // SAFETY: the client lives, names and rules live through the calls, which copy them, and all that is made is given back.
    unsafe {
        let queue = native::rd_kafka_queue_new(client);
        if may_read {
            let any = Operation::RD_KAFKA_ACL_OPERATION_ANY;
            let of_any = Permission::RD_KAFKA_ACL_PERMISSION_TYPE_ANY;
            let (none, text) = (ptr::null(), ptr::null_mut());
            let mut filter = native::rd_kafka_AclBindingFilter_new(
                kind,
                topic.as_ptr(),
                pattern,
                none,
                none,
                any,
                of_any,
                text,
                0,
            );
            native::rd_kafka_DeleteAcls(client, &raw mut filter, 1, ptr::null(), queue);
            native::rd_kafka_AclBinding_destroy(filter);
        } else {
            let mut bindings = rules.map(|(operation, permission)| {
                let (topic, user, host) = (topic.as_ptr(), user.as_ptr(), host.as_ptr());
                let text = ptr::null_mut();
                native::rd_kafka_AclBinding_new(
                    kind, topic, pattern, user, host, operation, permission, text, 0,
                )
            });
            native::rd_kafka_CreateAcls(client, bindings.as_mut_ptr(), bindings.len(), ptr::null(), queue);
            bindings.iter().for_each(|binding| native::rd_kafka_AclBinding_destroy(*binding));
        }
        let event = native::rd_kafka_queue_poll(queue, 30_000);
        assert!(!event.is_null(), "the broker does not answer");
        let code = native::rd_kafka_event_error(event);
        native::rd_kafka_event_destroy(event);
        native::rd_kafka_queue_destroy(queue);
        assert_eq!(code, native::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR);
    }
}

#[test]
fn a_permission_to_read_that_is_taken_away_is_told_until_it_is_given_back() {
    capture_log();
    let port = servers::free_port();
    let listeners = [Listener { name: "USERS", protocol: "SASL_PLAINTEXT", port, advertised: port }];
    let server = servers::kafka(
        &listeners,
        "listener.name.users.sasl.enabled.mechanisms=PLAIN\n\
         listener.name.users.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule \
         required user_ann=\"of-ann\";\n\
         authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer\n\
         super.users=User:ANONYMOUS\nallow.everyone.if.no.acl.found=true",
    );
    let (root, topic) = (connect_to(server.port, 1, |_| {}), fresh("denied"));
    root.create_topic(&topic).wait().unwrap();
    root.publish(&topic, numbered("key", 0)).wait().unwrap();
    let bus = connect_to(port, 1, |config| config.url = format!("kafka://ann:of-ann@127.0.0.1:{port}"));
    let (orders, seen) = noting(bus.subscribe_envelopes(&topic).group(&topic));
    eventually("the first is handled", || seen.lock().unwrap().len() == 1).unwrap();
    // What is committed without the permission fails, which is another trouble.
    std::thread::sleep(Duration::from_millis(500));
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", format!("127.0.0.1:{}", server.port)).create().unwrap();
    permit(&admin, &topic, false);
    for n in 1..10 {
        root.publish(&topic, numbered("key", n)).wait().unwrap();
    }
    let offset = seen.lock().unwrap().len() as u64;
    let reason = told(&orders, &topic, Some(0), Some(offset));
    assert!(reason.contains("may not read") && reason.contains("`Read`"), "{reason}");
    permit(&admin, &topic, true);
    within(TOLD, "the others are handled", || seen.lock().unwrap().len() == 10).unwrap();
    assert_eq!(*seen.lock().unwrap(), (0..10).collect::<Vec<_>>());
    is_over(&orders);
}

#[test]
fn a_partition_without_a_leader_is_told_and_the_other_goes_on() {
    capture_log();
    let away = "broker.session.timeout.ms=3000\nbroker.heartbeat.interval.ms=500";
    let first = servers::kafka(&[], away);
    let (bus, topic) = (connect_to(first.port, 2, |_| {}), fresh("leaderless"));
    // The first group of all, so that the positions are on the broker that stays.
    let early = fresh("early");
    bus.create_topic(&early).wait().unwrap();
    let group = bus.subscribe_envelopes(&early).group(&early).handle(|_| Ok(())).unwrap();
    group.ready().wait().unwrap();
    let mut second = servers::kafka_beside(&first, away);
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", format!("127.0.0.1:{}", first.port)).create().unwrap();
    // Each broker has one of the two.
    let places: [&[i32]; 2] = [&[1], &[2]];
    let new = [NewTopic::new(&topic, 2, TopicReplication::Variable(&places))];
    within(Duration::from_secs(60), "it is made", || {
        smol::block_on(admin.create_topics(&new, &options())).is_ok_and(|results| results[0].is_ok())
    })
    .unwrap();
    let (orders, seen) = noting(bus.subscribe_envelopes(&topic).group(&topic));
    let producer: BaseProducer =
        ClientConfig::new().set("bootstrap.servers", format!("127.0.0.1:{}", first.port)).create().unwrap();
    let publish = |partition: i32, n: u64| {
        let record = Record::from(&numbered("key", n));
        let record = BaseRecord::to(&topic).partition(partition).key("key").payload(&record.value[..]);
        producer.send(record).map_err(|(error, _)| error).unwrap();
        producer.flush(Duration::from_secs(30)).unwrap();
    };
    publish(0, 0);
    publish(1, 100);
    within(Duration::from_secs(60), "both are handled", || seen.lock().unwrap().len() == 2).unwrap();
    second.kill();
    let reason = told(&orders, &topic, Some(1), Some(1));
    assert!(reason.contains("no leader"), "{reason}");
    publish(0, 1);
    eventually("the other partition goes on", || seen.lock().unwrap().contains(&1)).unwrap();
    second.restart();
    is_over(&orders);
    publish(1, 101);
    within(Duration::from_secs(30), "it goes on", || seen.lock().unwrap().contains(&101)).unwrap();
}
