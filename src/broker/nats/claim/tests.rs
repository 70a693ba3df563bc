//! Members with clocks of their own against a model of the record's stream: requests that are late or lost, members
//! that are frozen, cut off, killed and that leave, and a server that is away.

use super::*;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

const TAKEOVER: Duration = Duration::from_secs(5);
/// For the property: in as many steps more happens.
const BRIEF: Duration = Duration::from_millis(500);
/// The parts that a takeover's time passes in.
const PARTS: u64 = 200;

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// The one record, and what was written last.
#[derive(Debug, Default)]
struct Store {
    record: Option<Found>,
    last: u64,
    is_away: bool,
}

impl Store {
    fn handle(&mut self, ask: Ask, fault: Fault) -> Answer {
        match ask {
            Ask::Read => Answer::Read(self.record),
            Ask::Write { expected, content } => {
                let sequence = self.record.map_or(0, |record| record.sequence);
                if sequence != expected && fault != Fault::Unswapped {
                    return Answer::Refused;
                }
                self.last += 1;
                self.record = Some(Found { sequence: self.last, content: fault.written(content) });
                Answer::Stored(self.last)
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// The stream writes whatever it is sent.
    Unswapped,
    /// A write without an answer counts as stored.
    Guessed,
    /// The lease is counted from the answer to a write, not from when it was sent.
    FromAnswer,
    /// Others wait for half of the time.
    Impatient,
    /// What is vouched for stays so when the record is another's.
    Deaf,
}

impl Fault {
    fn written(self, content: Content) -> Content {
        match content {
            Content::Held { owner, takeover_after } if self == Self::Impatient => {
                Content::Held { owner, takeover_after: takeover_after / 2 }
            }
            content => content,
        }
    }
}

/// A request on its way to the server, or its answer on the way back.
#[derive(Debug, Clone, Copy)]
enum Flight {
    There(Ask),
    Back(Answer),
}

struct Member {
    claim: Claim,
    /// Its clock, and how many ms it goes on in 1,000 ms.
    clock: Instant,
    rate: u64,
    rest: u64,
    flight: Option<(Flight, Instant)>,
    is_frozen: bool,
    is_cut: bool,
    /// Until when it starts work, by its own clock.
    until: Option<Instant>,
}

impl Member {
    fn new(name: u128, offset: u64, rate: u64, takeover_after: Duration) -> Self {
        let clock = Instant::now() + Duration::from_secs(1_000) + ms(offset);
        let claim = Claim::new(name, takeover_after, clock);
        Self { claim, clock, rate, rest: 0, flight: None, is_frozen: false, is_cut: false, until: None }
    }

    fn pass(&mut self, time_ms: u64) {
        let all = time_ms * self.rate + self.rest;
        self.clock += ms(all / 1_000);
        self.rest = all % 1_000;
    }

    fn holds(&self) -> bool {
        self.until.is_some_and(|until| self.clock < until)
    }
}

#[derive(Debug, Clone)]
enum Op {
    /// So many parts of time pass.
    Pass(u64),
    /// What is under way of this one goes on, so many steps.
    Go(usize, usize),
    /// The request of this one, or its answer, is lost.
    Lose(usize),
    /// What of this one was given up and is still on its way arrives.
    Late,
    Freeze(usize, bool),
    Cut(usize, bool),
    Kill(usize),
    Leave(usize),
    Away(bool),
    /// An operator empties the stream.
    Purge,
}

fn op() -> impl Strategy<Value = Op> {
    let who = || 0_usize..3;
    prop_oneof![
        30 => (1_u64..8).prop_map(Op::Pass),
        40 => (who(), 1_usize..5).prop_map(|(who, steps)| Op::Go(who, steps)),
        2 => who().prop_map(Op::Lose),
        2 => Just(Op::Late),
        2 => (who(), prop::bool::weighted(0.4)).prop_map(|(who, is)| Op::Freeze(who, is)),
        2 => (who(), prop::bool::weighted(0.4)).prop_map(|(who, is)| Op::Cut(who, is)),
        1 => who().prop_map(Op::Kill),
        1 => who().prop_map(Op::Leave),
        1 => prop::bool::weighted(0.3).prop_map(Op::Away),
    ]
}

struct World {
    store: Store,
    members: Vec<Member>,
    /// Given up by those who sent them, and still on their way.
    late: Vec<Ask>,
    names: u128,
    /// How often a record was taken that had not been given back.
    taken_over: usize,
    fences: Vec<u64>,
    fault: Fault,
    takeover_after: Duration,
}

impl World {
    fn new(fault: Fault, takeover_after: Duration) -> Self {
        let member = |name, offset, rate| Member::new(name, offset, rate, takeover_after);
        let members = vec![member(1, 0, 1_000), member(2, 40_000, 970), member(3, 7, 1_030)];
        Self {
            store: Store::default(),
            members,
            late: Vec::new(),
            names: 3,
            taken_over: 0,
            fences: Vec::new(),
            fault,
            takeover_after,
        }
    }

    /// How long a part of the time is.
    fn tick_ms(&self) -> u64 {
        (self.takeover_after.as_millis() as u64 / PARTS).max(10)
    }

    fn step(&mut self, op: &Op) -> Result<(), TestCaseError> {
        match *op {
            Op::Pass(ticks) => {
                let tick_ms = self.tick_ms();
                for _ in 0..ticks {
                    for member in &mut self.members {
                        member.pass(tick_ms);
                    }
                    for who in 0..self.members.len() {
                        self.expire(who);
                        self.send(who);
                    }
                    self.judge()?;
                }
            }
            Op::Go(who, steps) => (0..steps).for_each(|_| self.go(who)),
            Op::Lose(who) => {
                if let Some((Flight::There(ask), sent)) = self.members[who].flight {
                    self.late.push(ask);
                    // The sender waits in vain.
                    self.members[who].flight = Some((Flight::Back(Answer::Nothing), sent));
                } else if let Some((flight, _)) = &mut self.members[who].flight {
                    *flight = Flight::Back(Answer::Nothing);
                }
            }
            Op::Late => {
                if !self.late.is_empty() && !self.store.is_away {
                    let ask = self.late.remove(0);
                    self.store.handle(ask, self.fault);
                }
            }
            Op::Freeze(who, is_frozen) => self.members[who].is_frozen = is_frozen,
            Op::Cut(who, is_cut) => self.members[who].is_cut = is_cut,
            Op::Kill(who) => {
                let member = &self.members[who];
                if let Some((Flight::There(ask), _)) = member.flight {
                    self.late.push(ask);
                }
                self.names += 1;
                let rate = member.rate;
                self.members[who] = Member::new(self.names, 3 * who as u64, rate, self.takeover_after);
            }
            Op::Leave(who) => {
                let member = &mut self.members[who];
                if !member.is_frozen {
                    let change = member.claim.release(member.clock);
                    self.follow(who, change);
                }
            }
            Op::Away(is_away) => self.store.is_away = is_away,
            Op::Purge => self.store.record = None,
        }
        self.judge()
    }

    fn send(&mut self, who: usize) {
        let member = &mut self.members[who];
        if member.is_frozen || member.flight.is_some() {
            return;
        }
        if let Some(ask) = member.claim.ask(member.clock) {
            member.flight = Some((Flight::There(ask), member.clock));
        }
    }

    /// A request reaches the server, or its answer the member.
    fn go(&mut self, who: usize) {
        let member = &mut self.members[who];
        match member.flight {
            Some((Flight::There(ask), sent)) if !member.is_cut && !self.store.is_away => {
                let answer = self.store.handle(ask, self.fault);
                member.flight = Some((Flight::Back(answer), sent));
            }
            Some((Flight::Back(answer), _))
                if answer != Answer::Nothing && !member.is_cut && !member.is_frozen =>
            {
                self.answered(who, answer);
            }
            _ => {}
        }
        self.send(who);
    }

    /// A member gives up what was not answered in time; what it had sent is on its way all the same.
    fn expire(&mut self, who: usize) {
        let member = &self.members[who];
        let Some((flight, sent)) = member.flight else { return };
        if member.is_frozen || member.clock < sent + member.claim.limit() {
            return;
        }
        if let Flight::There(ask) = flight {
            self.late.push(ask);
        }
        let guessed = match flight {
            Flight::There(Ask::Write { .. }) if self.fault == Fault::Guessed => {
                Answer::Stored(self.store.last + 1)
            }
            _ => Answer::Nothing,
        };
        self.answered(who, guessed);
    }

    fn answered(&mut self, who: usize, answer: Answer) {
        let member = &mut self.members[who];
        member.flight = None;
        let now = member.clock;
        let change = member.claim.answered(now, answer);
        let is_stored = matches!(answer, Answer::Stored(_));
        self.follow(who, change);
        let member = &mut self.members[who];
        if self.fault == Fault::FromAnswer && is_stored && member.until.is_some() {
            member.until = Some(now + self.takeover_after / 10 * 9);
        }
    }

    fn follow(&mut self, who: usize, change: Option<Change>) {
        let member = &mut self.members[who];
        let until = member.claim.until();
        member.until = match self.fault {
            Fault::Deaf if until.is_none() => member.until,
            Fault::FromAnswer if until.is_some() && member.until.is_some() => member.until,
            _ => until,
        };
        match change {
            Some(Change::Taken { fence, from_silent }) => {
                self.fences.push(fence);
                self.taken_over += usize::from(from_silent);
            }
            Some(Change::Released) => {
                // Another one joins in its place.
                self.names += 1;
                let rate = member.rate;
                self.members[who] = Member::new(self.names, 5 * who as u64, rate, self.takeover_after);
            }
            Some(Change::Regained | Change::Lost) | None => {}
        }
    }

    fn judge(&self) -> Result<(), TestCaseError> {
        let holding: Vec<usize> = (0..self.members.len()).filter(|who| self.members[*who].holds()).collect();
        prop_assert!(holding.len() <= 1, "{holding:?} own it at once");
        prop_assert!(
            self.fences.is_sorted_by(|a, b| a < b) || self.fault == Fault::Guessed,
            "a fence does not grow: {:?}",
            self.fences
        );
        Ok(())
    }

    /// Everything works, for so long.
    fn calm(&mut self, time: Duration) -> Result<(), TestCaseError> {
        self.store.is_away = false;
        for member in &mut self.members {
            (member.is_frozen, member.is_cut) = (false, false);
        }
        let parts = time.as_millis() as u64 / self.tick_ms();
        for _ in 0..parts {
            self.step(&Op::Pass(1))?;
            for who in 0..self.members.len() {
                // There, back, and the next one there.
                (0..3).for_each(|_| self.go(who));
            }
            self.judge()?;
        }
        Ok(())
    }

    fn owner(&self) -> Option<usize> {
        (0..self.members.len()).find(|who| self.members[*who].holds())
    }
}

fn run(ops: &[Op], fault: Fault) -> Result<(), TestCaseError> {
    let mut world = World::new(fault, BRIEF);
    for op in ops {
        world.step(op)?;
    }
    world.calm(3 * BRIEF)?;
    let before = world.taken_over;
    prop_assert!(world.owner().is_some(), "nobody owns it");
    world.calm(3 * BRIEF)?;
    prop_assert_eq!(world.taken_over, before, "a healthy owner was robbed");
    Ok(())
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    prop::collection::vec(op(), 1..400)
}

proptest! {
    #![proptest_config(Config::with_cases(600))]

    #[test]
    fn one_owns_it_at_a_time_and_somebody_does_in_the_end(ops in ops()) {
        run(&ops, Fault::None)?;
    }
}

#[test]
fn the_property_finds_a_planted_fault() {
    for fault in [Fault::Unswapped, Fault::Guessed, Fault::Impatient, Fault::Deaf] {
        let mut runner = TestRunner::new(Config {
            failure_persistence: None,
            max_shrink_iters: 0,
            ..Config::with_cases(3_000)
        });
        let found = runner.run(&ops(), |ops| run(&ops, fault));
        assert!(found.is_err(), "{fault:?} was not found");
    }
}

/// A world in which member 0 owns the record, and the others stand by.
fn owned(fault: Fault) -> World {
    let mut world = World::new(fault, TAKEOVER);
    world.members[0].clock += ms(1);
    (0..4).for_each(|_| world.go(0));
    world.calm(ms(500)).unwrap();
    assert_eq!(world.owner(), Some(0));
    world
}

/// A renewal is stored at once, and its answer comes late; from then on its sender is frozen.
fn answered_late(fault: Fault) -> Result<(), TestCaseError> {
    let mut world = owned(fault);
    let serve_others = |world: &mut World| (1..3).for_each(|who| (0..3).for_each(|_| world.go(who)));
    while world.members[0].flight.is_none() {
        world.step(&Op::Pass(1))?;
        serve_others(&mut world);
    }
    world.go(0);
    for _ in 0..36 {
        world.step(&Op::Pass(1))?;
        serve_others(&mut world);
    }
    world.go(0);
    assert!(
        world.members[0].flight.is_none_or(|(flight, _)| matches!(flight, Flight::There(_))),
        "it has its answer"
    );
    world.members[0].is_frozen = true;
    for _ in 0..300 {
        world.step(&Op::Pass(1))?;
        serve_others(&mut world);
    }
    assert!(world.owner().is_some_and(|owner| owner != 0), "another owns it in the end");
    Ok(())
}

#[test]
fn a_lease_counts_from_when_its_renewal_was_sent() {
    answered_late(Fault::None).expect("it is over when the next one begins");
    assert!(answered_late(Fault::FromAnswer).is_err(), "the model does not see a lease that is too long");
}

#[test]
fn what_is_given_back_is_taken_at_the_next_look() {
    let mut world = owned(Fault::None);
    let before = world.taken_over;
    world.step(&Op::Leave(0)).unwrap();
    assert_eq!(world.owner(), None, "from the moment on at which it leaves it starts nothing");
    world.calm(ms(400)).unwrap();
    assert!(world.owner().is_some(), "nobody has taken it within a look");
    assert_eq!(world.taken_over, before);
}

#[test]
fn one_that_is_frozen_has_lost_its_lease_when_another_takes_it() {
    let mut world = owned(Fault::None);
    world.members[0].is_frozen = true;
    let mut left = None;
    for tick in 0..400_u64 {
        world.step(&Op::Pass(1)).unwrap();
        (1..3).for_each(|who| (0..3).for_each(|_| world.go(who)));
        world.judge().unwrap();
        if world.owner().is_none() {
            left.get_or_insert(tick);
        }
        if world.owner().is_some_and(|owner| owner != 0) {
            let gap = ms((tick - left.expect("it had no owner before")) * world.tick_ms());
            assert!(gap < TAKEOVER / 4, "nobody owned it for {gap:?}");
            return;
        }
    }
    panic!("nobody took it over");
}

#[test]
fn silence_counts_only_while_the_own_requests_are_answered() {
    let mut world = owned(Fault::None);
    world.store.is_away = true;
    for _ in 0..20 {
        world.step(&Op::Pass(40)).unwrap();
    }
    assert_eq!(world.owner(), None, "who can't renew starts nothing");
    // The owner is the last to come back.
    world.store.is_away = false;
    for _ in 0..8 {
        world.step(&Op::Pass(1)).unwrap();
        (1..3).for_each(|who| (0..3).for_each(|_| world.go(who)));
    }
    assert_eq!(world.owner(), None, "it was taken for dead while nobody could know");
    world.calm(ms(500)).unwrap();
    assert_eq!(world.owner(), Some(0), "it goes on");
}

#[test]
fn a_record_that_was_removed_is_not_taken_before_its_owner_knows() {
    let mut world = owned(Fault::None);
    // Just renewed.
    world.calm(ms(25)).unwrap();
    world.members[0].is_cut = true;
    world.step(&Op::Purge).unwrap();
    for _ in 0..400 {
        world.step(&Op::Pass(1)).unwrap();
        (1..3).for_each(|who| (0..3).for_each(|_| world.go(who)));
        // Fails when two hold it.
        world.judge().unwrap();
    }
    assert!(world.owner().is_some_and(|owner| owner != 0), "it was taken in the end");
}

#[test]
fn a_lost_answer_is_resolved_by_reading() {
    let now = Instant::now();
    let mut claim = Claim::new(7, TAKEOVER, now);
    assert_eq!(claim.ask(now), Some(Ask::Read));
    assert_eq!(claim.answered(now, Answer::Read(None)), None);
    let mine = Content::Held { owner: 7, takeover_after: TAKEOVER };
    assert_eq!(claim.ask(now), Some(Ask::Write { expected: 0, content: mine }));
    assert_eq!(claim.answered(now + ms(200), Answer::Nothing), None);
    assert_eq!(claim.until(), None, "it is not known to own it");
    // Under the same number; it was stored the first time.
    assert_eq!(claim.ask(now + ms(200)), Some(Ask::Write { expected: 0, content: mine }));
    assert_eq!(claim.answered(now + ms(201), Answer::Refused), None);
    assert_eq!(claim.ask(now + ms(201)), Some(Ask::Read));
    let found = Some(Found { sequence: 31, content: mine });
    assert_eq!(claim.answered(now + ms(202), Answer::Read(found)), None);
    assert_eq!(claim.until(), None, "a read vouches for nothing");
    assert_eq!(claim.ask(now + ms(202)), Some(Ask::Write { expected: 31, content: mine }));
    let taken = Change::Taken { fence: 32, from_silent: false };
    assert_eq!(claim.answered(now + ms(209), Answer::Stored(32)), Some(taken));
    assert_eq!(claim.until(), Some(now + ms(202) + TAKEOVER / 10 * 9), "from when it was sent");
    // Somebody else's name in its place.
    let renew_at = claim.due().expect("it renews");
    assert_eq!(claim.ask(renew_at), Some(Ask::Write { expected: 32, content: mine }));
    assert_eq!(claim.answered(renew_at, Answer::Refused), None);
    assert_eq!(claim.ask(renew_at), Some(Ask::Read));
    let other = Content::Held { owner: 8, takeover_after: TAKEOVER };
    let found = Some(Found { sequence: 40, content: other });
    assert_eq!(claim.answered(renew_at, Answer::Read(found)), Some(Change::Lost));
    assert_eq!(claim.until(), None);
}

#[test]
fn an_owner_that_nobody_took_for_dead_goes_on() {
    let now = Instant::now();
    let mut claim = Claim::new(7, TAKEOVER, now);
    claim.ask(now);
    claim.answered(now, Answer::Read(None));
    claim.ask(now);
    claim.answered(now, Answer::Stored(1));
    let late = now + 3 * TAKEOVER;
    assert!(matches!(claim.ask(late), Some(Ask::Write { expected: 1, .. })));
    assert_eq!(claim.answered(late + ms(3), Answer::Stored(2)), Some(Change::Regained));
    assert!(claim.until().is_some_and(|until| until > late));
    // An answer that is as late as the lease is long vouches for nothing.
    let later = late + TAKEOVER;
    claim.ask(later);
    assert_eq!(claim.answered(later + TAKEOVER, Answer::Stored(3)), None);
    assert!(claim.until().is_some_and(|until| until < later + TAKEOVER));
}

#[test]
fn who_leaves_while_its_write_is_not_answered_looks_before_it_is_gone() {
    let now = Instant::now();
    let mut claim = Claim::new(7, TAKEOVER, now);
    claim.ask(now);
    claim.answered(now, Answer::Read(None));
    claim.ask(now);
    assert_eq!(claim.release(now), None);
    claim.answered(now + ms(900), Answer::Nothing);
    assert_eq!(claim.ask(now + ms(900)), Some(Ask::Read));
    let mine = Content::Held { owner: 7, takeover_after: TAKEOVER };
    claim.answered(now + ms(900), Answer::Read(Some(Found { sequence: 5, content: mine })));
    assert_eq!(claim.ask(now + ms(900)), Some(Ask::Write { expected: 5, content: Content::Free }));
    assert_eq!(claim.answered(now + ms(901), Answer::Stored(6)), Some(Change::Released));
    assert_eq!(claim.due(), None);
}
