//! The promises, checked without being told: what must hold of every run, whatever the test asks.

use super::world::Process;
use crate::event::Event;
use crate::subscription::observed::Observer;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// Where a record of a group stands: topic, partition, offset.
pub(super) type Place = (String, u32, u64);

/// Partitions and offsets in them.
type Offsets = BTreeSet<(u32, u64)>;

/// What has its order: a key of a topic's partition, for a group.
type Ordered = (String, String, u32, Vec<u8>);

/// Which of the records that were handled are handled once more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Twice {
    None,
    All,
    Nth(u64),
}

/// Looks on while services run.
pub(super) struct Judge {
    /// Started and not settled.
    open: RefCell<BTreeMap<Ordered, BTreeSet<u64>>>,
    running: RefCell<BTreeMap<Ordered, Vec<(Process, u64)>>>,
    broken: RefCell<Vec<String>>,
    twice: Cell<Twice>,
    /// What is over, by group and topic.
    over: RefCell<BTreeMap<(String, String), Offsets>>,
    /// Handled once more and not settled since.
    repeated: RefCell<BTreeSet<(String, Place)>>,
    /// What was handled well, in its order.
    handled: RefCell<Vec<String>>,
    process: Box<dyn Fn() -> Process>,
    say: Box<dyn Fn(String)>,
}

impl Judge {
    pub(super) fn new(process: impl Fn() -> Process + 'static, say: impl Fn(String) + 'static) -> Rc<Self> {
        Rc::new(Self {
            open: RefCell::default(),
            running: RefCell::default(),
            broken: RefCell::default(),
            twice: Cell::new(Twice::None),
            over: RefCell::default(),
            repeated: RefCell::default(),
            handled: RefCell::default(),
            process: Box::new(process),
            say: Box::new(say),
        })
    }

    pub(super) fn set_twice(&self, twice: Twice) {
        self.twice.set(twice);
    }

    /// What was handled well, as a person would name it.
    pub(super) fn handled(&self) -> Vec<String> {
        self.handled.borrow().clone()
    }

    /// How many records of a topic are over for a group.
    pub(super) fn over(&self, group: &str, topic: &str) -> usize {
        self.over.borrow().get(&(group.to_owned(), topic.to_owned())).map_or(0, Offsets::len)
    }

    /// What of the promises was broken; told once.
    pub(super) fn broken(&self) -> Vec<String> {
        std::mem::take(&mut self.broken.borrow_mut())
    }

    /// A process was killed: nothing of it runs any more.
    pub(super) fn killed(&self, process: Process) {
        let mut running = self.running.borrow_mut();
        running.values_mut().for_each(|running| running.retain(|(of, _)| *of != process));
    }

    fn ordered(group: &str, event: &Event) -> Option<Ordered> {
        let key = event.aggregate_id().map(str::as_bytes).or_else(|| event.key())?;
        Some((group.to_owned(), event.topic().to_owned(), event.partition(), key.to_vec()))
    }

    fn breaks(&self, text: String) {
        (self.say)(format!("!! {text}"));
        self.broken.borrow_mut().push(text);
    }
}

fn name(event: &Event) -> String {
    let key = event.aggregate_id().or_else(|| std::str::from_utf8(event.key()?).ok());
    let key = key.map_or_else(String::new, |key| format!(" `{key}`"));
    format!("{}/{}@{}{key}", event.topic(), event.partition(), event.offset())
}

impl Observer for Judge {
    fn starts(&self, group: &str, event: &Event) {
        (self.say)(format!("  {group}: {} starts, attempt {}", name(event), event.attempt()));
        let Some(ordered) = Self::ordered(group, event) else { return };
        let (offset, process) = (event.offset(), (self.process)());
        let mut broken = Vec::new();
        let mut open = self.open.borrow_mut();
        let open = open.entry(ordered.clone()).or_default();
        if let Some(before) = open.range(..offset).next() {
            broken.push(format!("P1, order: {} started while offset {before} was not over", name(event)));
        }
        open.insert(offset);
        let mut running = self.running.borrow_mut();
        let running = running.entry(ordered).or_default();
        if let Some((_, other)) = running.first() {
            broken.push(format!(
                "P1, one at a time: {} started while offset {other} of its key ran",
                name(event)
            ));
        }
        running.push((process, offset));
        broken.into_iter().for_each(|broken| self.breaks(broken));
    }

    fn ends(&self, group: &str, event: &Event) {
        let Some(ordered) = Self::ordered(group, event) else { return };
        if let Some(running) = self.running.borrow_mut().get_mut(&ordered)
            && let Some(at) = running.iter().position(|(_, offset)| *offset == event.offset())
        {
            running.remove(at);
        }
    }

    fn repeats(&self, group: &str, event: &Event) -> bool {
        let place = (group.to_owned(), (event.topic().to_owned(), event.partition(), event.offset()));
        if self.repeated.borrow_mut().remove(&place) {
            return false;
        }
        let nth = self.handled.borrow().len() as u64;
        self.handled.borrow_mut().push(format!("{} by `{group}`", name(event)));
        let repeats = match self.twice.get() {
            Twice::None => false,
            Twice::All => true,
            Twice::Nth(wanted) => wanted == nth,
        };
        if repeats {
            self.repeated.borrow_mut().insert(place);
        }
        repeats
    }

    fn settles(&self, group: &str, event: &Event) {
        (self.say)(format!("  {group}: {} is over", name(event)));
        let of = (group.to_owned(), event.topic().to_owned());
        self.over.borrow_mut().entry(of).or_default().insert((event.partition(), event.offset()));
        let Some(ordered) = Self::ordered(group, event) else { return };
        if let Some(open) = self.open.borrow_mut().get_mut(&ordered) {
            open.remove(&event.offset());
        }
    }
}
