//! The processes of a run: this program, started again with a part to play.

mod consumer;
mod publisher;

use crate::planted;
use serde::{Deserialize, Serialize};
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

pub use consumer::Consumer;
pub use publisher::Publisher;

/// The variable that the part is in.
pub const PART: &str = "KEYLANE_CHAOS_PART";

/// What a process does until its input ends.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Part {
    /// Its number in the run; no two have the same.
    pub member: u32,
    pub log: PathBuf,
    pub role: Role,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Role {
    Publisher(Publisher),
    Consumer(Consumer),
    /// A consumer that does not use the bus, and is wrong.
    Planted(planted::Planted),
}

/// Whether the members are to say all that they can: `CHAOS_DEBUG=1`.
pub fn is_debugged() -> bool {
    std::env::var_os("CHAOS_DEBUG").is_some()
}

/// Plays the part. A member does not outlive the run: it is killed with who started it.
pub fn play() {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
        .expect("Linux kills a child with its parent");
    let part =
        std::env::var(PART).unwrap_or_else(|_| panic!("{PART} is not set: a run of chaos starts this"));
    let part: Part = serde_json::from_str(&part).expect("a run writes its parts as JSON");
    let level = if is_debugged() { tracing::Level::DEBUG } else { tracing::Level::INFO };
    tracing_subscriber::fmt().with_max_level(level).with_ansi(false).init();
    match &part.role {
        Role::Publisher(publisher) => publisher.run(&part),
        Role::Consumer(consumer) => consumer.run(&part),
        Role::Planted(planted) => planted.run(&part),
    }
}

/// Whether this process was asked to leave: its input ended.
#[derive(Clone)]
pub struct Leave(Arc<AtomicBool>);

impl Leave {
    /// Watches the input. The receiver is disconnected when it ends.
    pub fn watch() -> (Self, Receiver<()>) {
        let (is_asked, (ended, waiting)) = (Arc::new(AtomicBool::new(false)), channel());
        let watched = is_asked.clone();
        thread::spawn(move || {
            let _ = std::io::stdin().read_to_end(&mut Vec::new());
            watched.store(true, Ordering::Release);
            drop(ended);
        });
        (Self(is_asked), waiting)
    }

    pub fn is_asked(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// Connects, also to a broker that is down at the moment; none if the process was asked to leave meanwhile.
fn connect(config: &str, leave: &Leave) -> Option<keylane::Bus> {
    let config = keylane::Config::from_toml(config).expect("the run's configuration is valid");
    while !leave.is_asked() {
        match keylane::connect_with(config.clone()).wait() {
            Ok(bus) => return Some(bus),
            Err(error) => tracing::warn!(%error, "trying to connect again"),
        }
        thread::sleep(std::time::Duration::from_millis(100));
    }
    None
}
