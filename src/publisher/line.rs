//! Which publishes may go to the broker now, and which wait: a state machine without threads, clocks or records in it.
//!
//! A publish is *waiting* for room, then *admitted*: sent, behind an earlier one of its key, or resting until it is
//! tried again. Records of one key are sent in the order in which they were offered, also when one is tried again.

use crate::broker::{PublishFault, Stored};
use crate::sync::Arc;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

/// A publish, in the order of the offers.
pub(crate) type Id = u64;

/// What may be admitted and not answered at a time. One record is always admitted, however large.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Room {
    pub(crate) records: usize,
    pub(crate) bytes: usize,
}

/// What is to be ordered, and how large it is.
#[derive(Debug, Clone)]
pub(crate) struct Offer {
    /// Topic and key; none for a record without a key, which has no order.
    pub(crate) order: Option<(Arc<str>, bytes::Bytes)>,
    pub(crate) bytes: usize,
    /// Its answer holds its place until it is [read](Line::read).
    pub(crate) keeps_place: bool,
}

/// What the shell does next, in this order.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Do {
    Send(Id),
    Complete(Id, Result<Stored, String>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Sent,
    Behind,
    RestsUntil(Instant),
    /// Its topic is full.
    RestsForRoom,
}

#[derive(Debug)]
struct Admitted {
    offer: Offer,
    stage: Stage,
    faults: u32,
}

#[derive(Debug)]
pub(crate) struct Line {
    room: Room,
    /// The broker stores what is in flight together in the order of the calls: nothing waits behind its key.
    is_ordered_by_broker: bool,
    last: Id,
    admitted: BTreeMap<Id, Admitted>,
    bytes: usize,
    /// Answers that hold a place.
    unread: usize,
    waiting: VecDeque<(Id, Offer)>,
    /// Per key the admitted publishes in their order; the first is the one under way.
    keys: HashMap<(Arc<str>, bytes::Bytes), VecDeque<Id>>,
    timers: BTreeSet<(Instant, Id)>,
}

impl Line {
    pub(crate) fn new(room: Room, is_ordered_by_broker: bool) -> Self {
        Self {
            room,
            is_ordered_by_broker,
            last: 0,
            admitted: BTreeMap::new(),
            bytes: 0,
            unread: 0,
            waiting: VecDeque::new(),
            keys: HashMap::new(),
            timers: BTreeSet::new(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.admitted.is_empty() && self.waiting.is_empty()
    }

    /// Whether nothing goes on without time or room: what is admitted rests, or is behind one that does. `has_room`: room
    /// came since those that wait for it were looked at.
    pub(crate) fn is_at_rest(&self, now: Instant, has_room: bool) -> bool {
        self.admitted.values().all(|admitted| match admitted.stage {
            Stage::Sent => false,
            Stage::Behind => true,
            Stage::RestsUntil(at) => at > now,
            Stage::RestsForRoom => !has_room,
        })
    }

    /// Publishes admitted and not answered.
    pub(crate) fn records(&self) -> usize {
        self.admitted.len()
    }

    /// Publishes that wait for room.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Whether an offer of this size would be admitted at once.
    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        self.waiting.is_empty() && self.fits(bytes)
    }

    fn fits(&self, bytes: usize) -> bool {
        let records = self.admitted.len() + self.unread;
        records == 0 || (records < self.room.records && self.bytes.saturating_add(bytes) <= self.room.bytes)
    }

    /// Takes a publish into the line.
    pub(crate) fn offer(&mut self, offer: Offer, out: &mut Vec<Do>) -> Id {
        self.last += 1;
        let id = self.last;
        if self.has_room(offer.bytes) {
            self.admit(id, offer, out);
        } else {
            self.waiting.push_back((id, offer));
        }
        id
    }

    fn admit(&mut self, id: Id, offer: Offer, out: &mut Vec<Do>) {
        self.bytes += offer.bytes;
        let mut stage = Stage::Sent;
        if let Some(order) = offer.order.clone().filter(|_| !self.is_ordered_by_broker) {
            let queue = self.keys.entry(order).or_default();
            queue.push_back(id);
            if queue.len() > 1 {
                stage = Stage::Behind;
            }
        }
        self.admitted.insert(id, Admitted { offer, stage, faults: 0 });
        if stage == Stage::Sent {
            out.push(Do::Send(id));
        }
    }

    /// The broker answered a publish that was sent; `unit` is a random number in [0, 1). Returns how often it has
    /// failed, if it is tried again.
    pub(crate) fn answered(
        &mut self,
        id: Id,
        answer: Result<Stored, PublishFault>,
        now: Instant,
        unit: f64,
        out: &mut Vec<Do>,
    ) -> Option<u32> {
        let publish = self.admitted.get_mut(&id)?;
        debug_assert_eq!(publish.stage, Stage::Sent, "only what was sent is answered");
        match answer {
            Ok(stored) => self.over(id, Ok(stored), out),
            Err(PublishFault::Permanent(reason)) => self.over(id, Err(reason), out),
            Err(PublishFault::Transient(_)) => {
                publish.faults = publish.faults.saturating_add(1);
                let until = now + backoff(publish.faults, unit);
                publish.stage = Stage::RestsUntil(until);
                self.timers.insert((until, id));
                return Some(publish.faults);
            }
            Err(PublishFault::Full) => publish.stage = Stage::RestsForRoom,
        }
        None
    }

    fn over(&mut self, id: Id, result: Result<Stored, String>, out: &mut Vec<Do>) {
        let publish = self.admitted.remove(&id).expect("the caller found it");
        self.bytes -= publish.offer.bytes;
        self.unread += usize::from(publish.offer.keeps_place);
        out.push(Do::Complete(id, result));
        if let Some(order) = publish.offer.order
            && let Some(queue) = self.keys.get_mut(&order)
        {
            let first = queue.pop_front();
            debug_assert_eq!(first, Some(id), "a key's publishes are answered in order");
            match queue.front() {
                None => drop(self.keys.remove(&order)),
                Some(next) => {
                    self.admitted.get_mut(next).expect("a queued publish is admitted").stage = Stage::Sent;
                    out.push(Do::Send(*next));
                }
            }
        }
        self.admit_waiting(out);
    }

    /// So many answers were read, and give their places back.
    pub(crate) fn read(&mut self, answers: usize, out: &mut Vec<Do>) {
        debug_assert!(answers <= self.unread, "an answer is read once");
        self.unread -= answers;
        self.admit_waiting(out);
    }

    fn admit_waiting(&mut self, out: &mut Vec<Do>) {
        while let Some((id, offer)) = self.waiting.pop_front() {
            if !self.fits(offer.bytes) {
                return self.waiting.push_front((id, offer));
            }
            self.admit(id, offer, out);
        }
    }

    /// When [`Line::due`] has something.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.timers.first().map(|(until, _)| *until)
    }

    /// Sends again what has rested long enough.
    pub(crate) fn due(&mut self, now: Instant, out: &mut Vec<Do>) {
        while let Some((until, id)) = self.timers.first().copied() {
            if until > now {
                return;
            }
            self.timers.pop_first();
            self.admitted.get_mut(&id).expect("a timer belongs to a publish").stage = Stage::Sent;
            out.push(Do::Send(id));
        }
    }

    /// Whether some topic was full.
    pub(crate) fn rests_for_room(&self) -> bool {
        self.resting_for_room().next().is_some()
    }

    /// The publishes whose topic was full.
    pub(crate) fn resting_for_room(&self) -> impl Iterator<Item = Id> {
        let rests = |publish: &Admitted| publish.stage == Stage::RestsForRoom;
        self.admitted.iter().filter(move |(_, publish)| rests(publish)).map(|(id, _)| *id)
    }

    /// Sends again what rested because its topic was full.
    pub(crate) fn room_came(&mut self, out: &mut Vec<Do>) {
        for (id, publish) in &mut self.admitted {
            if publish.stage == Stage::RestsForRoom {
                publish.stage = Stage::Sent;
                out.push(Do::Send(*id));
            }
        }
    }

    /// Takes out what waits for room and is not wanted any more.
    pub(crate) fn withdraw_where(&mut self, mut is_unwanted: impl FnMut(Id) -> bool) {
        self.waiting.retain(|(id, _)| !is_unwanted(*id));
    }
}

/// The first delay after a fault, and the longest.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(5));

/// Full jitter over a delay that doubles with each fault.
fn backoff(faults: u32, unit: f64) -> Duration {
    let (first, longest) = BACKOFF;
    let doublings = faults.saturating_sub(1).min(16);
    (first * 2_u32.pow(doublings)).min(longest).mul_f64(unit)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proptest::test_runner::{Config, TestRunner};

    #[derive(Debug, Clone)]
    enum Op {
        /// A key (0: none), a size, and whether the answer keeps the place.
        Offer(u8, usize, bool),
        Read,
        /// One of those in flight is answered: stored, transient, full, permanent.
        Answer(usize, u8),
        Pass(u64),
        RoomCame,
    }

    fn ops() -> impl Strategy<Value = Vec<Op>> {
        let op = prop_oneof![
            4 => (0..4_u8, 1..40_usize, any::<bool>()).prop_map(|(key, bytes, keeps)| Op::Offer(key, bytes, keeps)),
            2 => Just(Op::Read),
            5 => (any::<usize>(), 0..8_u8).prop_map(|(which, kind)| Op::Answer(which, kind)),
            1 => (0..20_000_u64).prop_map(Op::Pass),
            1 => Just(Op::RoomCame),
        ];
        prop::collection::vec(op, 1..150)
    }

    const ROOM: Room = Room { records: 5, bytes: 100 };

    /// Runs the ops against a broker that stores what it is sent when it says so, then lets everything succeed.
    /// `is_faulty` plants a line that sends a key's next publish while the first is still under way.
    fn run(ops: Vec<Op>, is_ordered_by_broker: bool, is_faulty: bool) -> Result<(), TestCaseError> {
        let mut line = Line::new(ROOM, is_ordered_by_broker || is_faulty);
        let mut now = Instant::now();
        let (mut out, mut in_flight, mut offers) = (Vec::new(), Vec::<Id>::new(), BTreeMap::new());
        let (mut stored, mut answered, mut admitted) =
            (HashMap::<u8, Vec<Id>>::new(), BTreeSet::new(), Vec::new());
        let settle =
            [Op::RoomCame, Op::Pass(10_000), Op::Answer(0, 0), Op::Read].into_iter().cycle().take(3_000);
        for op in ops.into_iter().chain(settle) {
            match op {
                Op::Read if line.unread > 0 => line.read(1, &mut out),
                Op::Offer(key, bytes, keeps_place) => {
                    let order = (key > 0).then(|| ("t".into(), bytes::Bytes::copy_from_slice(&[key])));
                    let id = line.offer(Offer { order, bytes, keeps_place }, &mut out);
                    offers.insert(id, (key, bytes));
                }
                Op::Answer(which, kind) if !in_flight.is_empty() => {
                    // A broker that orders by itself answers a key in order; one that does not has one of it.
                    let which = if is_ordered_by_broker { 0 } else { which % in_flight.len() };
                    let id = in_flight.remove(which);
                    let answer = match kind {
                        5 if !is_ordered_by_broker => Err(PublishFault::Transient("busy".into())),
                        6 if !is_ordered_by_broker => Err(PublishFault::Full),
                        7 => Err(PublishFault::Permanent("no".into())),
                        _ => {
                            stored.entry(offers[&id].0).or_default().push(id);
                            Ok(Stored { partition: 0, offset: id })
                        }
                    };
                    line.answered(id, answer, now, 0.5, &mut out);
                }
                Op::Answer(..) | Op::Read => {}
                Op::Pass(ms) => {
                    now += Duration::from_millis(ms);
                    line.due(now, &mut out);
                }
                Op::RoomCame => line.room_came(&mut out),
            }
            for command in out.drain(..) {
                match command {
                    Do::Send(id) => {
                        prop_assert!(!in_flight.contains(&id), "sent twice");
                        prop_assert!(!answered.contains(&id), "sent after its answer");
                        in_flight.push(id);
                        if !admitted.contains(&id) {
                            admitted.push(id);
                        }
                    }
                    Do::Complete(id, _) => prop_assert!(answered.insert(id), "answered twice"),
                }
            }
            let bytes: usize = line.admitted.keys().map(|id| offers[id].1).sum();
            prop_assert_eq!(bytes, line.bytes);
            prop_assert!(line.records() + line.unread <= ROOM.records, "more records than there is room for");
            prop_assert!(
                bytes <= ROOM.bytes || line.records() + line.unread == 1,
                "more bytes than there is room for"
            );
            if let (Some((first, _)), Some(newest)) = (line.waiting.front(), line.admitted.keys().next_back())
            {
                prop_assert!(newest < first, "somebody jumped the line");
            }
        }
        prop_assert_eq!(answered.len(), offers.len(), "something was never answered");
        prop_assert!(line.is_empty() && line.keys.is_empty() && line.timers.is_empty());
        for (key, ids) in stored {
            prop_assert!(key == 0 || ids.windows(2).all(|pair| pair[0] < pair[1]), "key {}: {:?}", key, ids);
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn each_key_is_stored_in_the_order_of_its_offers_within_the_bounds(ops in ops(), by_broker in any::<bool>()) {
            run(ops, by_broker, false)?;
        }
    }

    #[test]
    fn the_property_finds_a_line_that_lets_a_key_overtake_itself() {
        let config = Config { max_shrink_iters: 0, failure_persistence: None, ..Config::default() };
        let found = TestRunner::new(config).run(&ops(), |ops| run(ops, false, true));
        assert!(found.is_err());
    }

    #[test]
    fn delays_double_up_to_the_longest_and_never_overflow() {
        let delays = [1, 2, 3, 10, u32::MAX].map(|faults| backoff(faults, 0.999_999));
        assert!(delays.windows(2).all(|pair| pair[0] <= pair[1]) && delays[4] <= BACKOFF.1);
        assert_eq!(backoff(1, 0.0), Duration::ZERO);
    }

    #[test]
    fn what_waits_and_is_not_wanted_leaves_the_line() {
        let (mut line, mut out) = (Line::new(Room { records: 1, bytes: 9 }, false), Vec::new());
        let offer = || Offer { order: None, bytes: 1, keeps_place: false };
        let ids = [0; 3].map(|_| line.offer(offer(), &mut out));
        line.withdraw_where(|id| id == ids[1]);
        line.answered(ids[0], Ok(Stored { partition: 0, offset: 0 }), Instant::now(), 0.5, &mut out);
        assert!(out.contains(&Do::Send(ids[2])) && !out.contains(&Do::Send(ids[1])));
    }
}
