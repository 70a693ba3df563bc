//! What happened in a program, as its handlers and its driver saw it, and what of it breaks a promise at once.

use crate::program::{Act, Kind, Program};
use keylane::sim;
use keylane::{Clock, Envelope, Event, Record};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

/// A record, as the program numbers it: its key, and how many of that key were published before.
pub(crate) type Numbered = (u8, u32);

#[derive(Debug, Default)]
pub(crate) struct Facts {
    /// What ended well, or was given up by a policy or an operator.
    pub(crate) over: BTreeSet<Numbered>,
    /// What was over, and has started again since: a crash repeats it.
    pub(crate) reopened: BTreeSet<Numbered>,
    pub(crate) started: BTreeMap<Numbered, u32>,
    /// By key: what runs, in which life of which process, and since when.
    running: HashMap<u8, Vec<(u32, u32, Instant)>>,
    /// When a member was expelled last.
    last_expelled: Option<Instant>,
    /// By life, partition and key: the last number that started.
    last: HashMap<(u32, u32, u8), u32>,
    /// Where a record stands: its partition and offset.
    pub(crate) places: HashMap<(u32, u64), Numbered>,
    /// Taken out of the log before they were over.
    pub(crate) removed: BTreeSet<Numbered>,
    /// Lives that reach no broker just now.
    pub(crate) cut: BTreeSet<u32>,
    /// Lives that were cut off at some time, or leave within a limit: a handler of theirs that runs can't be stopped.
    unowned: BTreeSet<u32>,
    /// By partition: in which life something started last.
    last_owner: HashMap<u32, u32>,
    /// An operator was about to skip them, or has.
    pub(crate) skipped: BTreeSet<Numbered>,
    pub(crate) starts: u64,
    /// Starts of what had ended well before.
    pub(crate) again: u64,
    pub(crate) violations: Vec<String>,
    pub(crate) story: Vec<String>,
}

/// Shared by the driver and all handlers.
#[derive(Debug, Clone)]
pub(crate) struct History {
    facts: Arc<Mutex<Facts>>,
    /// Logs change under the members: what was under way in the former one runs on.
    overlaps: bool,
    /// Keys move to partitions that are added, and between two partitions there is no order.
    has_order: bool,
    clock: Clock,
    kind: Kind,
    tells: bool,
}

impl History {
    pub(crate) fn new(program: &Program, clock: Clock, tells: bool) -> Self {
        let overlaps = program.has(|act| act.changes_logs() || act.moves_keys());
        let has_order = !program.has(Act::moves_keys);
        Self { facts: Arc::default(), overlaps, has_order, clock, kind: program.kind, tells }
    }

    pub(crate) fn facts(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(crate) fn say(&self, text: impl FnOnce() -> String) {
        if self.tells {
            self.facts().story.push(text());
        }
    }

    /// A process reaches no broker, or all again.
    pub(crate) fn cut(&self, life: u32, is_cut: bool) {
        let mut facts = self.facts();
        if is_cut {
            facts.cut.insert(life);
            facts.unowned.insert(life);
        } else {
            facts.cut.remove(&life);
        }
    }

    /// The group takes a member for dead.
    pub(crate) fn expelled(&self) {
        self.facts().last_expelled = Some(self.clock.now());
    }

    /// A process leaves, within a limit.
    pub(crate) fn leaves(&self, life: u32) {
        self.facts().unowned.insert(life);
    }

    /// A process is killed: nothing of it runs any more.
    pub(crate) fn killed(&self, life: u32) {
        self.facts().running.values_mut().for_each(|running| running.retain(|(_, of, _)| *of != life));
    }

    /// Somebody took these out of the log; what was over before is over.
    pub(crate) fn removed(&self, gone: impl Iterator<Item = Numbered>) {
        let mut facts = self.facts();
        let gone: Vec<_> = gone.filter(|numbered| !facts.over.contains(numbered)).collect();
        facts.removed.extend(gone);
    }

    pub(crate) fn breaks(&self, text: String) {
        self.say(|| format!("  !! {text}"));
        self.facts().violations.push(text);
    }

    /// A handler begins. `is_over` tells of a record whether its dead letter is stored.
    pub(crate) fn begin(&self, event: &Event, life: u32, is_dead: impl Fn(Numbered) -> bool) -> Attempt {
        let numbered = told(event).expect("the program publishes what it numbers");
        let (key, number) = numbered;
        self.say(|| format!("    life {life}: {key}/{number} starts, attempt {}", event.attempt()));
        let mut broken = Vec::new();
        let mut facts = self.facts();
        facts.starts += 1;
        if facts.over.contains(&numbered) {
            facts.again += 1;
            facts.reopened.insert(numbered);
        }
        // It was skipped, and its process killed before that was committed.
        facts.skipped.remove(&numbered);
        facts.places.insert((event.partition(), event.offset()), numbered);
        let starts = facts.started.entry(numbered).or_default();
        *starts += 1;
        let starts = *starts;
        // What waits must not be overtaken. Where a failure is the end of a record, or a crash loses it, its start
        // is enough.
        let is_over = |facts: &Facts, numbered| {
            facts.over.contains(&numbered)
                || self.kind == Kind::AtMostOnce
                || self.kind != Kind::Envelopes && facts.started.contains_key(&numbered)
                || facts.skipped.contains(&numbered)
                || facts.removed.contains(&numbered)
                || is_dead(numbered)
        };
        let open: Vec<_> = (0..number).filter(|before| !is_over(&facts, (key, *before))).collect();
        if self.has_order && !open.is_empty() {
            broken.push(format!("order: {key}/{number} started while {open:?} were not over"));
        }
        let beside = facts.running.get(&key).cloned().unwrap_or_default();
        // What runs when its member loses the partition can't be stopped.
        let explained = |(_, other, since): &(u32, u32, Instant)| {
            let is_unowned = facts.unowned.contains(other) && !facts.unowned.contains(&life);
            is_unowned || facts.last_expelled.is_some_and(|expelled| *since <= expelled)
        };
        if !self.overlaps && !beside.iter().all(explained) {
            broken.push(format!("overlap: {key}/{number} of life {life} started while {beside:?} ran"));
        }
        facts.running.entry(key).or_default().push((number, life, self.clock.now()));
        let owner = facts.last_owner.insert(event.partition(), life);
        if facts.cut.contains(&life) && owner.is_some_and(|owner| owner != life) {
            broken.push(format!(
                "stale: {key}/{number} of life {life}, cut off, started behind life {owner:?}"
            ));
        }
        let last = facts.last.insert((life, event.partition(), key), number);
        if last.is_some_and(|last| last > number) && !self.overlaps && !is_over(&facts, numbered) {
            broken.push(format!("back: {key}/{number} started behind {last:?} in one life"));
        }
        drop(facts);
        broken.into_iter().for_each(|broken| self.breaks(broken));
        Attempt { numbered, starts, life, is_over: false, history: self.clone() }
    }
}

/// An attempt under way; its drop is its end, however it comes.
pub(crate) struct Attempt {
    pub(crate) numbered: Numbered,
    /// How often the record has started, by whomever.
    pub(crate) starts: u32,
    life: u32,
    is_over: bool,
    history: History,
}

impl Attempt {
    /// It ends well, or in a way that settles the record.
    pub(crate) fn is_over(&mut self) {
        self.is_over = true;
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let ((key, number), life) = (self.numbered, self.life);
        // A process that is killed ends nothing.
        let is_over = self.is_over && !sim::is_crashing();
        self.history
            .say(|| format!("    life {life}: {key}/{number} ends{}", if is_over { ", over" } else { "" }));
        let mut facts = self.history.facts();
        facts.running.entry(key).or_default().retain(|(running, of, _)| (*running, *of) != (number, life));
        if is_over {
            facts.over.insert(self.numbered);
            facts.reopened.remove(&self.numbered);
        }
    }
}

fn numbered(payload: &str) -> Option<Numbered> {
    let (key, number) = payload.trim_matches('"').split_once('/')?;
    Some((key.parse().ok()?, number.parse().ok()?))
}

fn told(event: &Event) -> Option<Numbered> {
    numbered(event.envelope()?.payload())
}

/// What a stored record is.
pub(crate) fn stored(record: &Record) -> Option<Numbered> {
    numbered(Envelope::parse(&record.value).ok()?.payload())
}

pub(crate) fn envelope((key, number): Numbered) -> Envelope<'static> {
    Envelope::new(format!("order-{key}"), "order.changed", 1, format!("\"{key}/{number}\""))
        .expect("it is valid")
}
