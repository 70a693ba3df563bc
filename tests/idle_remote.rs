//! What a close costs that waits for a broker which does not answer, in CPU time of the process itself. One test after the
//! other: each looks at the whole process.

#![allow(unreachable_pub, reason = "the modules of a test program have no public face")]

mod support;

use keylane::Config;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use support::servers::{self, Server};
use support::{least_cpu_share, numbered};

fn a_close_in_an_outage_costs_no_cpu(server: &Server, config: Config) {
    static ONE: Mutex<()> = Mutex::new(());
    let _alone = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let bus = keylane::connect_with(config).wait().unwrap();
    bus.publish("outage", numbered("a", 0)).wait().unwrap();
    server.freeze(true);
    let unanswered = bus.publish("outage", numbered("a", 1));
    let close = bus.close(Duration::from_secs(120));
    let share = least_cpu_share(Duration::from_secs(2), 0.05);
    let is_waiting = !close.is_done() && !unanswered.is_done();
    server.freeze(false);
    assert!(share < 0.05, "a close in an outage takes {:.2} % of a core", share * 100.0);
    assert!(is_waiting, "it was measured while the close waited");
    assert_eq!(close.wait().unacknowledged, 0);
    unanswered.wait().unwrap();
}

#[test]
fn a_close_waits_for_kafka_at_rest() {
    let (server, _) = servers::shared_kafka();
    let mut config = Config::default();
    config.url = format!("kafka://127.0.0.1:{}", server.port);
    config.kafka.create_topics = true;
    config.kafka.connect_timeout = Duration::from_secs(60);
    a_close_in_an_outage_costs_no_cpu(server, config);
}

#[test]
fn a_close_waits_for_jetstream_at_rest() {
    let server = servers::nats(&[]);
    let mut config = Config::default();
    config.url = format!("nats://127.0.0.1:{}", server.port);
    config.nats.create_topics = true;
    a_close_in_an_outage_costs_no_cpu(&server, config);
}
