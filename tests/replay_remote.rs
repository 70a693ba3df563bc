//! The main job on real brokers: the program of `examples/replay`, with its bus changed and nothing else.

#![allow(unreachable_pub, reason = "the modules of a test program have no public face")]

mod support;

use serde_json::Value;
use std::path::PathBuf;
use std::process::Command;
use support::servers;

/// The example, which `cargo build --examples --features kafka,nats` builds.
fn program() -> PathBuf {
    let mut path = std::env::current_exe().expect("a test program has a path");
    path.pop();
    path.pop();
    path.push("examples/replay");
    assert!(path.exists(), "{} is missing: run cargo build --examples --features kafka,nats", path.display());
    path
}

/// Replays the month of departures and checks what the program's own book says, and no more than what it says of
/// itself by its exit code.
fn replay(bus: &str, topic: &str, options: &[&str]) -> Value {
    let output = Command::new(program())
        .args(["--json", "--bus", bus, "--topic", topic])
        .args(options)
        .output()
        .expect("the program runs");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{bus} {options:?}: {out}{err}");
    let report: Value = serde_json::from_str(out.trim()).expect("one line of JSON");
    for (field, expected) in [("records", 27_004), ("lost", 0), ("out_of_order", 0)] {
        assert_eq!(report[field], expected, "{bus} {options:?}: {report}");
    }
    report
}

fn replays_in_every_way(bus: &str) {
    let plain = replay(bus, "plain", &[]);
    assert_eq!((&plain["handled"], &plain["duplicated"]), (&27_004.into(), &0.into()), "{plain}");
    // Again through the same topics: what the first left there is not this one's.
    let again = replay(bus, "plain", &["--async"]);
    assert_eq!((&again["handled"], &again["duplicated"]), (&27_004.into(), &0.into()), "{again}");
    let failing = replay(bus, "failing", &["--fail", "0.05", "--panic", "0.01", "--poison", "5"]);
    assert_eq!((&failing["handled"], &failing["dead_lettered"]), (&26_999.into(), &5.into()), "{failing}");
    assert!(failing["retries"].as_u64() > Some(2_000), "{failing}");
    let crashed = replay(bus, "crashed", &["--crash-after", "5000"]);
    assert_eq!(crashed["handled"], 27_004, "{crashed}");
    assert!(crashed["duplicated"].as_u64() <= Some(8_192), "more came again than was in flight: {crashed}");
}

#[test]
fn the_departures_replay_on_kafka() {
    let (server, _) = servers::shared_kafka();
    replays_in_every_way(&format!("kafka://127.0.0.1:{}", server.port));
}

#[test]
fn the_departures_replay_on_jetstream() {
    let server = servers::nats(&[]);
    replays_in_every_way(&format!("nats://127.0.0.1:{}", server.port));
}
