//! Programs, drawn by a seed: processes of one group, what is published, and what happens to them.

use crate::history::Numbered;

/// A program: what its processes are, and what happens to them.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    pub(crate) seed: u64,
    pub(crate) mode: Mode,
    pub(crate) handler: Handler,
    pub(crate) kind: Kind,
    pub(crate) then: Then,
    pub(crate) partitions: u32,
    pub(crate) processes: u32,
    pub(crate) workers: usize,
    pub(crate) attempts: u32,
    pub(crate) in_flight: usize,
    pub(crate) watermark_distance: usize,
    /// How often an attempt fails, in percent.
    pub(crate) failing: u64,
    /// Handlers take up to so many milliseconds.
    pub(crate) slow: u64,
    /// How often threads are slow.
    pub(crate) slowness: f64,
    /// In the order of their times, in milliseconds.
    pub(crate) acts: Vec<(u64, Act)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Handler {
    Shared,
    Owned,
    Async,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Envelopes,
    Plain,
    AtMostOnce,
}

/// What a failure leads to when the attempts are used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    /// They never are.
    Forever,
    DeadLetter,
    Hold,
    Discard,
    Halt,
}

/// A limit of a close, in milliseconds, within which every handler ends that has started.
const AMPLE: u64 = 500;

/// What happens. Processes are numbered from 1; times are in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Act {
    /// So many records of one key, at once.
    Publish(u8, u32),
    Crash(u32),
    /// A process closes its bus with this limit, and comes back.
    Leave(u32, u64),
    /// The group takes this member for dead, which lives.
    Expel(usize),
    /// The broker reaches nobody.
    Outage(u64),
    FailPublishes(usize),
    LoseSettles(usize),
    FailSettles(usize),
    Pause(u32, u64),
    /// A process stands still.
    Freeze(u32, u64),
    /// The whole machine does: all of them.
    Suspend(u64),
    /// An operator has all held records tried again, or skips them.
    Retry,
    Skip,
    /// A process reaches no broker.
    Cut(u32, u64),
    /// The topic is deleted and made anew.
    MakeAnew,
    /// Each log loses its last records, as by an unclean election.
    Truncate(usize),
    /// Retention removes the first records of each log.
    Trim(usize),
    AddPartitions(u32),
    /// Nothing is read from where it begins until it ends.
    OpenTransaction(u64),
    /// Somebody else's text stands beside the group's offsets.
    WriteTexts,
}

impl Act {
    /// Explains that a record is handled again.
    pub(crate) fn repeats(self) -> bool {
        matches!(
            self,
            Self::Crash(_)
                | Self::Expel(_)
                | Self::LoseSettles(_)
                | Self::FailSettles(_)
                | Self::Outage(_)
                | Self::Leave(_, 0..AMPLE)
                | Self::Cut(..)
                | Self::Freeze(..)
                | Self::Suspend(_)
        ) || self.changes_logs()
    }

    /// A key may have another partition from here on.
    pub(crate) fn moves_keys(self) -> bool {
        matches!(self, Self::AddPartitions(_))
    }

    /// The log is not what it was.
    pub(crate) fn changes_logs(self) -> bool {
        matches!(self, Self::MakeAnew | Self::Truncate(_) | Self::Trim(_) | Self::WriteTexts)
    }
}

/// What a program runs on, and what may be drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// The bus in memory: all but members that are expelled while they live.
    Memory,
    /// Those too.
    Expelling,
    /// By Kafka's rules: processes that are killed, leave and are cut off for less than a session.
    #[cfg(feature = "kafka")]
    Kafka,
    /// For longer, too.
    #[cfg(feature = "kafka")]
    KafkaCut,
    /// Logs that are trimmed; partitions that are added; transactions; texts of others.
    #[cfg(feature = "kafka")]
    KafkaLog,
    /// Logs that are cut or made anew, and grow beyond what was handled before anybody looks.
    #[cfg(feature = "kafka")]
    KafkaAnew,
}

/// All of them.
#[cfg(not(feature = "kafka"))]
pub(crate) const MODES: [Mode; 2] = [Mode::Memory, Mode::Expelling];
#[cfg(feature = "kafka")]
pub(crate) const MODES: [Mode; 6] =
    [Mode::Memory, Mode::Expelling, Mode::Kafka, Mode::KafkaCut, Mode::KafkaLog, Mode::KafkaAnew];

impl Program {
    pub(crate) fn drawn(seed: u64, mode: Mode) -> Self {
        let mut random = fastrand::Rng::with_seed(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x9406_4A11);
        let processes = random.u32(1..=3);
        let keys = [1, 2, 3, 5, 8, 40, 200][random.usize(..7)];
        let span = [60, 400, 3_000][random.usize(..3)];
        let mut acts = Vec::new();
        for _ in 0..random.usize(2..30) {
            // A hot key has half of them.
            let key = if random.bool() { 0 } else { random.u8(..keys) };
            let count = if random.u8(..5) == 0 { random.u32(2..40) } else { 1 };
            acts.push((random.u64(..span), Act::Publish(key, count)));
        }
        let faults = if random.u8(..4) == 0 { 0 } else { random.usize(1..9) };
        for _ in 0..faults {
            acts.push((random.u64(..span), Self::fault(&mut random, mode, processes)));
        }
        acts.sort_by_key(|(at, _)| *at);
        let kind = match random.u8(..10) {
            0 => Kind::Plain,
            1 => Kind::AtMostOnce,
            _ => Kind::Envelopes,
        };
        Self {
            seed,
            mode,
            handler: [Handler::Shared, Handler::Owned, Handler::Async][random.usize(..3)],
            kind,
            then: [Then::Forever, Then::DeadLetter, Then::DeadLetter, Then::Hold, Then::Discard, Then::Halt]
                [random.usize(..6)],
            partitions: random.u32(1..=4),
            processes,
            workers: random.usize(0..=3),
            attempts: random.u32(1..=4),
            watermark_distance: [random.usize(2..10), 100_000][random.usize(..2)],
            in_flight: [random.usize(1..=3), random.usize(1..=64), 256][random.usize(..3)],
            failing: [0, 5, 20][random.usize(..3)],
            slow: [0, 2, 100][random.usize(..3)],
            slowness: [0.0, 0.02, 0.2][random.usize(..3)],
            acts,
        }
    }

    fn fault(random: &mut fastrand::Rng, mode: Mode, processes: u32) -> Act {
        let process = random.u32(1..=processes);
        let time = [20, 300, 2_000][random.usize(..3)];
        let time = random.u64(1..=time);
        #[cfg(feature = "kafka")]
        if matches!(mode, Mode::Kafka | Mode::KafkaCut | Mode::KafkaLog | Mode::KafkaAnew) {
            return match (mode, random.u8(..12)) {
                (Mode::KafkaCut, 0..5) => Act::Cut(process, random.u64(1_000..30_000)),
                (Mode::KafkaAnew, 0..3) => Act::MakeAnew,
                (Mode::KafkaAnew, 3 | 4) => Act::Truncate(random.usize(1..8)),
                (Mode::KafkaLog, 2 | 3) => Act::Trim(random.usize(1..8)),
                (Mode::KafkaLog, 4) => Act::AddPartitions(random.u32(1..3)),
                (Mode::KafkaLog, 5) => Act::OpenTransaction(random.u64(1..60_000)),
                (Mode::KafkaLog, 6) => Act::WriteTexts,
                (_, 0..3) => Act::Cut(process, random.u64(1..1_500)),
                (_, 3..7) => Act::Crash(process),
                (_, 7 | 8) => Act::Leave(process, time),
                (_, 9) => Act::Pause(process, time),
                (_, 10) => Act::Retry,
                _ => Act::Skip,
            };
        }
        match random.u8(..if mode == Mode::Expelling { 18 } else { 15 }) {
            0..3 => Act::Crash(process),
            3..6 => Act::Leave(process, random.u64(..=time)),
            6 => Act::Outage(if random.u8(..4) == 0 { 40_000 } else { time }),
            7 => Act::FailPublishes(random.usize(1..6)),
            8 => Act::LoseSettles(random.usize(1..4)),
            9 => Act::FailSettles(random.usize(1..4)),
            10 => Act::Pause(process, time),
            11 => Act::Freeze(process, time),
            12 => Act::Suspend(time),
            13 => Act::Retry,
            14 => Act::Skip,
            _ => Act::Expel(random.usize(..3)),
        }
    }

    pub(crate) fn has(&self, is_one: impl Fn(Act) -> bool) -> bool {
        self.acts.iter().any(|(_, act)| is_one(*act))
    }

    /// What becomes of an attempt, by the record and the attempt, and not by who asks.
    pub(crate) fn fate(&self, (key, number): Numbered, attempt: u32) -> Fate {
        let of = u64::from(key) << 40 ^ u64::from(number) << 8 ^ u64::from(attempt);
        let mut random = fastrand::Rng::with_seed(self.seed ^ of.wrapping_mul(0x2545_F491_4F6C_DD1D));
        let ends = match random.u64(..100) {
            drawn if drawn >= self.failing => End::Ok,
            drawn if drawn % 4 == 0 => End::Panic,
            // A terminal error skips the attempts that are left: for ever where nothing comes behind them.
            drawn if drawn % 4 == 1 && self.then != Then::Forever => End::Terminal,
            _ => End::Error,
        };
        let takes = if self.slow > 0 && random.u8(..3) == 0 { random.u64(..self.slow * 1_000) } else { 0 };
        Fate { ends, takes }
    }
}

/// What becomes of an attempt.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fate {
    pub(crate) ends: End,
    /// In microseconds.
    pub(crate) takes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Ok,
    Error,
    Terminal,
    Panic,
}
