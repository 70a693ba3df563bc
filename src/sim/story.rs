//! What happened in a run, line by line, as a person reads it: acts, records, and the log lines of the crate.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::rc::Rc;
use std::time::Duration;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Lines that are kept; the middle of a longer story is left out.
const LINES: usize = 400;

/// The lines of a run.
#[derive(Debug, Clone, Default)]
pub(super) struct Story(Rc<RefCell<Vec<String>>>);

impl Story {
    pub(super) fn say(&self, at: Duration, text: &str) {
        self.0.borrow_mut().push(format!("{:>12} {text}", format!("{at:.1?}")));
    }

    pub(super) fn lines(&self) -> Vec<String> {
        self.0.borrow().clone()
    }

    /// As much of it as a person reads.
    pub(super) fn text(&self) -> String {
        let lines = self.0.borrow();
        if lines.len() <= LINES {
            return lines.join("\n");
        }
        let half = LINES / 2;
        let left_out = lines.len() - LINES;
        format!(
            "{}\n… {left_out} lines …\n{}",
            lines[..half].join("\n"),
            lines[lines.len() - half..].join("\n")
        )
    }
}

/// Writes down a line.
pub(super) type Listener = dyn Fn(&str);

thread_local! {
    /// Who writes down the log lines of this thread.
    static LISTENER: RefCell<Option<Rc<Listener>>> = const { RefCell::new(None) };
}

/// Writes down this thread's warnings and errors by `listener` while `run` runs.
pub(super) fn with_log<R>(listener: Rc<Listener>, run: impl FnOnce() -> R) -> R {
    let before = LISTENER.replace(Some(listener));
    let result = tracing::subscriber::with_default(Log, run);
    drop(LISTENER.replace(before));
    result
}

/// Gives the log lines of a thread to its listener.
struct Log;

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() <= Level::WARN
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let Some(listener) = LISTENER.with(|listener| listener.borrow().clone()) else { return };
        let mut line = Line { message: String::new(), fields: String::new() };
        event.record(&mut line);
        listener(&format!("  {} {}{}", event.metadata().level(), line.message, line.fields));
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

struct Line {
    message: String,
    fields: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        // Writing to a string does not fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}
