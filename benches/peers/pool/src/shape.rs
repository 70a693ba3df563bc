//! What is done with each message.

use clap::ValueEnum;
use std::fmt;

/// The shapes of the contest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum Shape {
    /// Each message has an answer that is waited for, the oldest first; a window of them is in flight.
    Complete,
    /// The same, handed over in batches.
    CompleteBatch,
    /// No answers: until all are handled.
    Forget,
    /// The same, handed over in batches.
    ForgetBatch,
    /// One message and its answer, one after the other.
    AskHot,
    /// The same with a pause before each message, in which workers fall asleep.
    AskIdle,
    /// Open loop: each message has a time at which it is due, and its latency counts from then.
    Rate,
}

impl Shape {
    pub(crate) const ALL: [Self; 7] = [
        Self::Complete,
        Self::CompleteBatch,
        Self::Forget,
        Self::ForgetBatch,
        Self::AskHot,
        Self::AskIdle,
        Self::Rate,
    ];
    /// Those that hand messages over one by one.
    pub(crate) const SINGLE: [Self; 5] =
        [Self::Complete, Self::Forget, Self::AskHot, Self::AskIdle, Self::Rate];
    pub(crate) const LATENCY: [Self; 3] = [Self::AskHot, Self::AskIdle, Self::Rate];

    /// Numbers of producers and of workers that the contest runs it with. An ask needs one worker; the second one of
    /// those that there may be is one more thread that looks for work.
    pub(crate) fn crews(self, quick: bool) -> &'static [(usize, usize)] {
        match self {
            Self::AskHot | Self::AskIdle => &[(1, 1), (1, 2)],
            Self::Rate => &[(1, 2)],
            _ if quick => &[(1, 2)],
            _ => &[(1, 1), (1, 2), (1, 8), (4, 2), (4, 8)],
        }
    }

    /// Whether single messages are timed, which several producers or many workers would only blur.
    pub(crate) fn has_latency(self) -> bool {
        Self::LATENCY.contains(&self)
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.to_possible_value().expect("no shape is skipped");
        f.write_str(value.get_name())
    }
}
