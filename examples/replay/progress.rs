//! The live view on stderr, while the replay runs.

use crate::consumer::{Consumer, Work};
use crate::report::grouped;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal as _;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

const INTERVAL: Duration = Duration::from_millis(100);

/// Two lines, each within 80 columns.
const LINES: &str = "{bar:30} {percent:>3}% of {human_len} rows, {elapsed}\n{msg}";

pub(crate) struct Progress {
    bar: ProgressBar,
    drawn: Instant,
    drawn_over: usize,
}

impl Progress {
    /// A view of so many rows; hidden unless it is wanted and stderr is a terminal.
    pub(crate) fn new(rows: usize, is_wanted: bool) -> Self {
        let is_shown = is_wanted && std::io::stderr().is_terminal();
        let target = if is_shown { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(rows as u64), target);
        bar.set_style(
            ProgressStyle::with_template(LINES).expect("the template is valid").progress_chars("=> "),
        );
        Self { bar, drawn: Instant::now(), drawn_over: 0 }
    }

    /// Draws what is going on now, at most ten times a second.
    pub(crate) fn update(&mut self, work: &Work, consumer: &Consumer, in_flight: u64) {
        let since = self.drawn.elapsed();
        if self.bar.is_hidden() || since < INTERVAL {
            return;
        }
        let over = work.ledger.over();
        let rate = (over - self.drawn_over) as f64 / since.as_secs_f64();
        self.bar.set_position(over as u64);
        self.bar.set_message(format!(
            "{}/s  in flight {}  retries {}  waiting keys {}  dead {}",
            grouped(rate as u64),
            grouped(in_flight),
            grouped(work.retries.load(Relaxed)),
            grouped(consumer.stats().waiting_keys),
            grouped(work.ledger.dead_lettered() as u64),
        ));
        (self.drawn, self.drawn_over) = (Instant::now(), over);
    }

    pub(crate) fn finish(self) {
        self.bar.finish_and_clear();
    }
}
