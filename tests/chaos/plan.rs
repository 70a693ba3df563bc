//! What a run is to be.

use crate::checker::Limits;
use crate::child;
use crate::clock::nanos;
use crate::schedule::Weights;
use crate::target::Kind;
use crate::work::Work;
use std::time::Duration;

/// All of a run, drawn from its seed.
pub struct Plan {
    pub seed: u64,
    pub kind: Kind,
    pub lasts: Duration,
    pub work: Work,
    pub weights: Weights,
    /// Of the consumers' buses, in TOML.
    pub config: String,
    pub limits: Limits,
    /// In the beginning, and when nothing is under way.
    pub consumers: usize,
    /// Records that each publisher makes in a second.
    pub rate: u32,
}

/// How long consumers may drain.
pub const DRAIN: Duration = Duration::from_secs(4);

impl Plan {
    pub fn new(kind: Kind, seed: u64, lasts: Duration) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let weights = Weights {
            kill_consumer: 5,
            stop_consumer: 2,
            leave_consumer: 2,
            join_consumer: 1,
            stop_publisher: 1,
            kill_publisher: 2,
            kill_broker: 1,
        };
        let work = Work {
            keys: 60,
            handler: Duration::from_micros(random.u64(300..2_000)),
            slow_keys: 3,
            failing: 30,
            poisoned: 3,
            poison_keys: 1,
        };
        let second = Duration::from_secs(1);
        let (mut uncommitted, mut rests_with) = (Duration::from_millis(500), None);
        let (config, expiry) = match kind {
            Kind::Kafka => {
                let protocol =
                    *random.choice(&["cooperative-sticky", "range", "consumer"]).expect("there are three");
                let protocol = std::env::var("CHAOS_PROTOCOL").unwrap_or_else(|_| protocol.to_owned());
                let mut properties = Vec::new();
                // The broker says when a member of the new protocol is silent for too long.
                let expiry = if protocol == "consumer" {
                    5 * second
                } else {
                    properties.push("'session.timeout.ms' = '3000', 'heartbeat.interval.ms' = '500'");
                    2 * second
                };
                // No commit passes in a rebalance; a member that kept its partitions goes on for a second without, and
                // with what it has in flight then.
                let mut bound = "";
                if protocol == "cooperative-sticky" {
                    (uncommitted, rests_with) = (uncommitted + second, Some(256));
                    bound = "subscription.in_flight_records = 256\n";
                }
                if child::is_debugged() {
                    properties.push("debug = 'cgrp'");
                }
                let properties = properties.join(", ");
                (
                    format!(
                        "{bound}[kafka]\ngroup_protocol = '{protocol}'\nproperties = {{ {properties} }}\n"
                    ),
                    expiry,
                )
            }
            Kind::Nats => ("[nats]\nack_wait = '2s'\ntakeover_after = '2s'\n".to_owned(), second),
        };
        let config = format!("subscription.drain_timeout = '{}s'\n{config}", DRAIN.as_secs());
        let limits = Limits {
            expiry: nanos(expiry),
            notice: nanos(2 * second),
            drain: nanos(DRAIN),
            uncommitted: nanos(uncommitted),
            rests_with,
            forgotten: match kind {
                Kind::Kafka => 0,
                Kind::Nats => nanos(second),
            },
            recovery: nanos(2 * second),
            tick: nanos(Duration::from_millis(5)),
        };
        // Of a group on JetStream one is active: with more beside it few kills would meet it.
        let consumers = match kind {
            Kind::Kafka => 3,
            Kind::Nats => 2,
        };
        Self { seed, kind, lasts, work, weights, config, limits, consumers, rate: 150 }
    }
}
