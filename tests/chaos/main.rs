//! Chaos, over real brokers: processes that publish and consume are killed, frozen, added and sent away, brokers are
//! killed and started again, handlers are slow and fail; then everything that was acknowledged has to be handled or
//! dead-lettered, in order.
//!
//! Each process appends what it does to a log of its own, which outlives it, and a checker outside of them all judges
//! the logs and what the broker holds.
//!
//! - `CHAOS_SEED=42` replays the schedule of a run; without it each run draws one, and prints it first.
//! - `CHAOS_SECONDS=600` makes the runs as long as that; they are short else.
//! - `CHAOS_PROTOCOL=range` has Kafka's consumers agree that way, which else the seed chooses.
//! - `CHAOS_DEBUG=1` has the members say all that they can.
//! - `CHAOS_CHECK=FOLDER`, with `--ignored a_run_that_was_kept`, judges such logs once more.
//! - `CHAOS_KEEP=1` keeps the logs of runs that found nothing, too; they are below `target/chaos`.

#![allow(unreachable_pub, reason = "the modules of a test program have no public face")]

#[path = "../support/mod.rs"]
mod support;

mod checker;
mod child;
mod clock;
mod folder;
mod history;
mod kill;
mod member;
mod plan;
mod planted;
mod report;
mod run;
mod schedule;
mod target;
mod work;

use std::str::FromStr;
use std::time::Duration;
use target::Kind;

/// What is not a test of its own: the processes of the runs begin here.
#[test]
#[ignore = "started by the runs, as a process of its own"]
fn a_member_of_a_run() {
    child::play();
}

fn option<T: FromStr>(name: &str) -> Option<T> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

fn survive(kind: Kind) {
    let seed = option("CHAOS_SEED").unwrap_or_else(|| fastrand::u64(..1_000_000));
    let lasts = Duration::from_secs(option("CHAOS_SECONDS").unwrap_or(40));
    let (report, verdict) = run::run(&plan::Plan::new(kind, seed, lasts));
    report.print(&verdict);
    assert!(
        verdict.is_sound(),
        "{} violations with seed {seed}; they are listed above",
        verdict.violations.len()
    );
    assert!(report.kills() > 0 && verdict.handled > 0 && verdict.dead_lettered > 0, "the run was no run");
}

#[test]
#[ignore = "judges the logs of a run that was kept once more: CHAOS_CHECK=target/chaos/kafka-42-…"]
fn a_run_that_was_kept_keeps_its_promises() {
    let folder: std::path::PathBuf = option("CHAOS_CHECK").expect("CHAOS_CHECK names its folder");
    let name = folder.file_name().expect("a folder").to_string_lossy().into_owned();
    let mut words = name.split('-');
    let kind = if words.next() == Some("kafka") { Kind::Kafka } else { Kind::Nats };
    let seed = words.next().and_then(|seed| seed.parse().ok()).expect("a folder is named after its run");
    let plan = plan::Plan::new(kind, seed, Duration::ZERO);
    let verdict = checker::check(&history::History::read(&folder), &plan.limits);
    assert!(verdict.is_sound(), "{verdict:#?}");
    println!("{verdict:#?}");
}

#[test]
fn kafka_keeps_its_promises_through_kills_freezes_and_rebalances() {
    survive(Kind::Kafka);
}

#[test]
fn jetstream_keeps_its_promises_through_kills_freezes_and_takeovers() {
    survive(Kind::Nats);
}

#[test]
fn after_one_kill_kafka_repeats_what_ran_and_one_commit_interval() {
    kill::one_kill(Kind::Kafka);
}

#[test]
fn after_one_kill_jetstream_repeats_what_ran_and_one_commit_interval() {
    kill::one_kill(Kind::Nats);
}
