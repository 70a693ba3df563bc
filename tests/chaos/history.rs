//! What happened in a run: the append-only logs of its processes, the faults, and what the broker holds in the end.

use crate::clock::{Nanos, now};
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::str::{FromStr, SplitWhitespace};

/// A record, as its publisher numbered it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id {
    pub key: u32,
    /// The process that published it: its member number.
    pub producer: u32,
    /// Counts on over the publishers of a key that follow each other.
    pub n: u32,
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.key, self.producer, self.n)
    }
}

/// A line of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// A handler starts; the attempt as the bus counts it.
    Start(Id, u32),
    /// A handler is about to return its success.
    Done(Id),
    /// A handler is about to return an error.
    Failed(Id),
    /// A future was dropped before its end.
    Dropped(Id),
    /// A publisher has the receipt.
    Acked(Id),
    /// A publisher was told that the record is not stored.
    Refused(Id),
    /// The member takes part.
    Ready,
    /// The broker holds the record.
    Stored(Id, Place),
    /// The broker holds the record's dead letter, since the time of the line.
    Dead(Id),
    Fault(Fault),
}

/// Where a record is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub partition: u32,
    pub offset: u64,
}

/// What befell a member, or the broker. The time is such that the state holds at least from there on, or up to there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// By SIGKILL; it is dead by now.
    Killed(u32),
    /// By SIGSTOP; it is about to be sent.
    Stopped(u32),
    /// By SIGCONT; it has been sent.
    Continued(u32),
    /// It was asked to drain and leave.
    Leaving(u32),
    /// It has ended by itself.
    Gone(u32),
    /// By SIGKILL, about to be sent.
    BrokerDown,
    /// It takes connections again.
    BrokerUp,
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start(id, attempt) => write!(f, "start {id} {attempt}"),
            Self::Done(id) => write!(f, "done {id}"),
            Self::Failed(id) => write!(f, "failed {id}"),
            Self::Dropped(id) => write!(f, "dropped {id}"),
            Self::Acked(id) => write!(f, "acked {id}"),
            Self::Refused(id) => write!(f, "refused {id}"),
            Self::Ready => f.write_str("ready"),
            Self::Stored(id, Place { partition, offset }) => write!(f, "stored {id} {partition} {offset}"),
            Self::Dead(id) => write!(f, "dead {id}"),
            Self::Fault(Fault::Killed(member)) => write!(f, "killed {member}"),
            Self::Fault(Fault::Stopped(member)) => write!(f, "stopped {member}"),
            Self::Fault(Fault::Continued(member)) => write!(f, "continued {member}"),
            Self::Fault(Fault::Leaving(member)) => write!(f, "leaving {member}"),
            Self::Fault(Fault::Gone(member)) => write!(f, "gone {member}"),
            Self::Fault(Fault::BrokerDown) => f.write_str("broker-down"),
            Self::Fault(Fault::BrokerUp) => f.write_str("broker-up"),
        }
    }
}

/// An entry and when it was written, or what it tells of happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line {
    pub time: Nanos,
    pub entry: Entry,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.time, self.entry)
    }
}

impl FromStr for Line {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        fn number<T: FromStr>(words: &mut SplitWhitespace<'_>) -> Option<T> {
            words.next()?.parse().ok()
        }
        fn id(words: &mut SplitWhitespace<'_>) -> Option<Id> {
            Some(Id { key: number(words)?, producer: number(words)?, n: number(words)? })
        }
        fn line(words: &mut SplitWhitespace<'_>) -> Option<Line> {
            let time = number(words)?;
            let entry = match words.next()? {
                "start" => Entry::Start(id(words)?, number(words)?),
                "done" => Entry::Done(id(words)?),
                "failed" => Entry::Failed(id(words)?),
                "dropped" => Entry::Dropped(id(words)?),
                "acked" => Entry::Acked(id(words)?),
                "refused" => Entry::Refused(id(words)?),
                "ready" => Entry::Ready,
                "stored" => {
                    Entry::Stored(id(words)?, Place { partition: number(words)?, offset: number(words)? })
                }
                "dead" => Entry::Dead(id(words)?),
                "killed" => Entry::Fault(Fault::Killed(number(words)?)),
                "stopped" => Entry::Fault(Fault::Stopped(number(words)?)),
                "continued" => Entry::Fault(Fault::Continued(number(words)?)),
                "leaving" => Entry::Fault(Fault::Leaving(number(words)?)),
                "gone" => Entry::Fault(Fault::Gone(number(words)?)),
                "broker-down" => Entry::Fault(Fault::BrokerDown),
                "broker-up" => Entry::Fault(Fault::BrokerUp),
                _ => return None,
            };
            Some(Line { time, entry })
        }
        let mut words = text.split_whitespace();
        line(&mut words)
            .filter(|_| words.next().is_none())
            .ok_or_else(|| format!("no line of a log: {text:?}"))
    }
}

/// The log that one process appends to. It outlives the process, whatever ends that.
pub struct Log(File);

impl Log {
    pub fn open(path: &Path) -> Self {
        let file = OpenOptions::new().create(true).append(true).open(path);
        Self(file.unwrap_or_else(|error| panic!("{} can't be written: {error}", path.display())))
    }

    /// Appends a line with one write, which a kill of the process leaves out or lets happen.
    pub fn append(&self, entry: Entry) {
        self.append_at(now(), entry);
    }

    pub fn append_at(&self, time: Nanos, entry: Entry) {
        let text = format!("{}\n", Line { time, entry });
        let written = (&self.0).write(text.as_bytes()).expect("the log can be written");
        assert_eq!(written, text.len(), "the log took a part of a line");
    }
}

/// What one member wrote, or what is known of the whole run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// Who wrote it; 0 for what is nobody's: the faults and what the broker holds.
    pub member: u32,
    pub line: Line,
}

/// All that is known of a run, in no order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History(pub Vec<Told>);

impl History {
    /// Reads the logs in a folder: `NAME-MEMBER.log`. What a process was killed over is left out.
    pub fn read(folder: &Path) -> Self {
        let mut told = Vec::new();
        for entry in std::fs::read_dir(folder).expect("the run's folder is there").flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some((_, member)) = name.strip_suffix(".log").and_then(|name| name.rsplit_once('-')) else {
                continue;
            };
            let member = member.parse().expect("a log is named after its member");
            let lines = whole_lines(&entry.path());
            told.extend(lines.into_iter().map(|line| Told { member, line }));
        }
        Self(told)
    }
}

/// The lines of a log, without a last one that has no end.
pub fn whole_lines(path: &Path) -> Vec<Line> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    lines.map(|line| line.parse().unwrap_or_else(|error| panic!("{}: {error}", path.display()))).collect()
}

#[test]
fn a_line_is_read_as_it_was_written() {
    let id = Id { key: 3, producer: 2, n: 17 };
    let entries = [
        Entry::Start(id, 4),
        Entry::Done(id),
        Entry::Failed(id),
        Entry::Dropped(id),
        Entry::Acked(id),
        Entry::Refused(id),
        Entry::Ready,
        Entry::Stored(id, Place { partition: 5, offset: 6 }),
        Entry::Dead(id),
        Entry::Fault(Fault::Killed(1)),
        Entry::Fault(Fault::Stopped(1)),
        Entry::Fault(Fault::Continued(1)),
        Entry::Fault(Fault::Leaving(1)),
        Entry::Fault(Fault::Gone(1)),
        Entry::Fault(Fault::BrokerDown),
        Entry::Fault(Fault::BrokerUp),
    ];
    for entry in entries {
        let line = Line { time: 42, entry };
        assert_eq!(line.to_string().parse(), Ok(line));
    }
    for wrong in ["", "42", "42 done 1 2", "42 done 1 2 3 4", "x ready", "42 read"] {
        assert!(wrong.parse::<Line>().is_err(), "{wrong}");
    }
}
