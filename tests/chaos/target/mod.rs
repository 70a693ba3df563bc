//! The broker that a run is about: started, killed, started again, and read in the end, without the bus.

mod kafka;
mod nats;

pub use nats::STREAM;

use crate::clock::Nanos;
use crate::history::{Id, Place};
use crate::support::servers::{self, Server};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Kafka,
    Nats,
}

impl Kind {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kafka => "kafka",
            Self::Nats => "nats",
        }
    }
}

/// A record as the broker holds it.
pub struct Held {
    pub id: Id,
    pub place: Place,
    /// When the broker stored it.
    pub time: Nanos,
}

/// A broker of one run, with its two topics.
pub struct Target {
    pub kind: Kind,
    pub topic: String,
    pub dead: String,
    port: u16,
    state: State,
    /// One run at a time for each kind: they would wait for each other's processes.
    _turn: MutexGuard<'static, ()>,
}

enum State {
    Up(Server),
    Restarting(thread::JoinHandle<Server>),
    /// Between the two, and at the end.
    Away,
}

/// A Kafka broker takes seconds and half a gigabyte to start, so the runs of a program share one.
static KAFKA: Mutex<Option<Server>> = Mutex::new(None);
static TURNS: [Mutex<()>; 2] = [Mutex::new(()), Mutex::new(())];

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Target {
    /// Starts a broker, and creates topics of this run's own.
    pub fn start(kind: Kind, run: &str) -> Self {
        let turn = locked(&TURNS[kind as usize]);
        let server = match kind {
            Kind::Kafka => locked(&KAFKA).take().unwrap_or_else(|| servers::kafka(&[], "")),
            Kind::Nats => servers::nats(&[]),
        };
        let topic = format!("chaos-{run}");
        let dead = format!("{topic}-dead");
        let target = Self { kind, topic, dead, port: server.port, state: State::Up(server), _turn: turn };
        match kind {
            Kind::Kafka => kafka::create(&target.address(), &target.topic, &target.dead),
            Kind::Nats => nats::create(&target.address(), &target.topic, &target.dead),
        }
        target
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The configuration of a bus on it, in TOML, with this at its end.
    pub fn config(&self, more: &str) -> String {
        match self.kind {
            Kind::Kafka => format!("url = 'kafka://{}'\n{more}", self.address()),
            Kind::Nats => format!("url = 'nats://{}/?stream={}'\n{more}", self.address(), nats::STREAM),
        }
    }

    pub const fn is_up(&self) -> bool {
        matches!(self.state, State::Up(_))
    }

    /// Kills it with SIGKILL, and starts it again after a while, on the same files.
    pub fn kill(&mut self, restart_after: Duration) {
        let State::Up(mut server) = std::mem::replace(&mut self.state, State::Away) else {
            panic!("it is killed when it is up");
        };
        server.kill();
        self.state = State::Restarting(thread::spawn(move || {
            thread::sleep(restart_after);
            server.restart();
            server
        }));
    }

    /// True once, when it takes connections again.
    pub fn has_come_back(&mut self) -> bool {
        match std::mem::replace(&mut self.state, State::Away) {
            State::Restarting(restarting) if restarting.is_finished() => {
                self.state = State::Up(restarting.join().expect("the broker starts again"));
                true
            }
            other => {
                self.state = other;
                false
            }
        }
    }

    /// Stores these records, one after the other, without the bus.
    pub fn load(&self, ids: impl Iterator<Item = Id>) {
        match self.kind {
            Kind::Kafka => kafka::load(&self.address(), &self.topic, ids),
            Kind::Nats => nats::load(&self.address(), &self.topic, ids),
        }
    }

    /// All that it holds in the run's topic.
    pub fn stored(&self) -> Vec<Held> {
        self.read(&self.topic)
    }

    /// All that it holds in the topic of dead letters.
    pub fn dead(&self) -> Vec<Held> {
        self.read(&self.dead)
    }

    fn read(&self, topic: &str) -> Vec<Held> {
        match self.kind {
            Kind::Kafka => kafka::read(&self.address(), topic),
            Kind::Nats => nats::read(&self.address(), topic),
        }
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if self.kind == Kind::Kafka
            && !thread::panicking()
            && let State::Up(server) = std::mem::replace(&mut self.state, State::Away)
        {
            *locked(&KAFKA) = Some(server);
        }
    }
}
