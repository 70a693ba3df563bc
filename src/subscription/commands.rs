//! The way from the handle to the intake.

use crate::broker::BrokerError;
use crate::observe::report::DrainReport;
use crate::sync::Mutex;
use crate::wait::{Op, Promise};
use std::time::Duration;

/// What the handle asks of the intake.
pub(crate) enum Command {
    Pause(bool),
    /// End: what runs may finish for this long. The promise learns what was left.
    Drain(Duration, Option<Promise<DrainReport>>),
}

/// The way from the handle to the intake.
#[derive(Default)]
pub(crate) struct Commands(Mutex<Asked>);

#[derive(Default)]
struct Asked {
    commands: Vec<Command>,
    has_joined: bool,
    /// Who waits for the subscription to join its group.
    ready: Vec<Promise<Result<(), BrokerError>>>,
    /// Set when the intake has ended: nobody takes commands any more.
    ended: Option<DrainReport>,
}

impl Commands {
    /// Queues a command, or answers it when the intake has ended.
    pub(crate) fn push(&self, command: Command) {
        let mut asked = self.0.lock();
        match (&asked.ended, command) {
            (Some(report), Command::Drain(_, Some(promise))) => {
                let report = report.clone();
                drop(asked);
                promise.complete(report);
            }
            (Some(_), _) => {}
            (None, command) => asked.commands.push(command),
        }
    }

    /// Is over when the subscription has joined its group, or has ended without.
    pub(crate) fn ready(&self) -> Op<Result<(), BrokerError>> {
        let mut asked = self.0.lock();
        if asked.has_joined {
            return Op::ready(Ok(()));
        }
        if asked.ended.is_some() {
            return Op::ready(Err(BrokerError::Closed));
        }
        let (promise, op) = Op::pending(|| Err(BrokerError::Closed));
        asked.ready.push(promise);
        op
    }

    pub(super) fn joined(&self) {
        let mut asked = self.0.lock();
        asked.has_joined = true;
        let ready = std::mem::take(&mut asked.ready);
        drop(asked);
        ready.into_iter().for_each(|promise| promise.complete(Ok(())));
    }

    /// Whether the intake has ended, or is about to.
    pub(crate) fn has_ended(&self) -> bool {
        self.0.lock().ended.is_some()
    }

    pub(super) fn take(&self) -> Vec<Command> {
        std::mem::take(&mut self.0.lock().commands)
    }

    /// The intake has ended; what was asked in the last moment is returned.
    pub(super) fn end(&self, report: &DrainReport) -> Vec<Command> {
        let mut asked = self.0.lock();
        asked.ended = Some(report.clone());
        let (commands, ready) = (std::mem::take(&mut asked.commands), std::mem::take(&mut asked.ready));
        drop(asked);
        // Who still waits to be ready learns that it ended.
        drop(ready);
        commands
    }
}

/// A drain under way.
pub(super) struct Drain {
    pub(super) promises: Vec<Promise<DrainReport>>,
    pub(super) report: DrainReport,
    pub(super) halted: Option<String>,
}
