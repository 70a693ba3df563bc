//! The checker finds nothing in histories that are right, and each kind of fault that is planted in them.

use super::{Limits, Verdict, check};
use crate::clock::Nanos;
use crate::history::{Entry, Fault, History, Id, Line, Place, Told};

const MS: Nanos = 1_000_000;

const LIMITS: Limits = Limits {
    expiry: 2_000 * MS,
    notice: 500 * MS,
    drain: 1_000 * MS,
    uncommitted: 300 * MS,
    rests_with: None,
    forgotten: 0,
    recovery: 400 * MS,
    tick: 0,
};

const fn id(n: u32) -> Id {
    Id { key: 1, producer: 100, n }
}

/// A history by hand: entries of members at milliseconds.
fn history(lines: &[(u32, Nanos, Entry)]) -> History {
    let told = |&(member, at, entry)| Told { member, line: Line { time: at * MS, entry } };
    History(lines.iter().map(told).collect())
}

/// Numbers of key 1, stored and acknowledged.
fn stored(numbers: std::ops::Range<u32>) -> Vec<(u32, Nanos, Entry)> {
    let mut lines = Vec::new();
    for n in numbers {
        lines.push((0, 0, Entry::Stored(id(n), Place { partition: 0, offset: n.into() })));
        lines.push((100, 0, Entry::Acked(id(n))));
    }
    lines
}

fn judge(numbers: std::ops::Range<u32>, lines: &[(u32, Nanos, Entry)]) -> Verdict {
    check(&history(&[&stored(numbers)[..], lines].concat()), &LIMITS)
}

#[track_caller]
fn assert_finds(verdict: &Verdict, text: &str) {
    assert!(verdict.violations.iter().any(|violation| violation.contains(text)), "{verdict:#?}");
}

#[test]
fn one_record_after_the_other_is_right() {
    let verdict = judge(
        0..3,
        &[
            (1, 10, Entry::Start(id(0), 1)),
            (1, 20, Entry::Failed(id(0))),
            (1, 30, Entry::Start(id(0), 2)),
            (1, 40, Entry::Done(id(0))),
            (1, 50, Entry::Start(id(1), 1)),
            (1, 60, Entry::Failed(id(1))),
            (0, 70, Entry::Dead(id(1))),
            (1, 80, Entry::Start(id(2), 1)),
            (1, 90, Entry::Done(id(2))),
        ],
    );
    let expected =
        Verdict { records: 3, acknowledged: 3, handled: 2, dead_lettered: 1, ..Verdict::default() };
    assert_eq!(verdict, expected);
}

#[test]
fn a_record_that_is_never_over_is_found_and_so_are_those_that_pass_it() {
    let verdict = judge(
        0..2,
        &[
            (1, 10, Entry::Start(id(0), 1)),
            (1, 20, Entry::Failed(id(0))),
            (1, 30, Entry::Start(id(1), 1)),
            (1, 40, Entry::Done(id(1))),
        ],
    );
    assert_eq!((verdict.lost, verdict.out_of_order), (1, 1));
    assert_finds(&verdict, "number 0 of key 1 by publisher 100 was neither handled nor dead-lettered");
}

#[test]
fn a_record_that_starts_before_the_one_before_is_over_is_found() {
    let verdict = judge(
        0..2,
        &[
            (1, 10, Entry::Start(id(0), 1)),
            (1, 20, Entry::Failed(id(0))),
            (1, 25, Entry::Start(id(1), 1)),
            (1, 28, Entry::Done(id(1))),
            (1, 30, Entry::Start(id(0), 2)),
            (1, 40, Entry::Done(id(0))),
        ],
    );
    assert_eq!((verdict.lost, verdict.out_of_order), (0, 1));
}

#[test]
fn a_record_that_starts_before_the_dead_letter_of_the_one_before_is_found() {
    let lines = |dead| {
        [
            (1, 10, Entry::Start(id(0), 1)),
            (1, 20, Entry::Failed(id(0))),
            (0, dead, Entry::Dead(id(0))),
            (1, 30, Entry::Start(id(1), 1)),
            (1, 40, Entry::Done(id(1))),
        ]
    };
    assert!(judge(0..2, &lines(29)).is_sound());
    assert_eq!(judge(0..2, &lines(31)).out_of_order, 1);
}

#[test]
fn an_acknowledged_publish_that_is_not_stored_is_found() {
    let verdict = judge(0..0, &[(100, 0, Entry::Acked(id(0)))]);
    assert_eq!(verdict.lost, 1);
    assert_finds(&verdict, "was acknowledged and is not stored");
}

#[test]
fn what_is_stored_twice_out_of_order_elsewhere_or_was_refused_is_found() {
    let handled = [(1, 10, Entry::Start(id(0), 1)), (1, 20, Entry::Done(id(0)))];
    let at = |offset, partition| Entry::Stored(id(0), Place { partition, offset });
    let verdict = judge(0..1, &[&handled[..], &[(0, 0, at(9, 0))]].concat());
    assert_finds(&verdict, "is stored twice");

    let gap = [
        (0, 0, at(0, 0)),
        (0, 0, Entry::Stored(id(2), Place { partition: 0, offset: 1 })),
        (1, 30, Entry::Start(id(2), 1)),
        (1, 40, Entry::Done(id(2))),
    ];
    let verdict = judge(0..0, &[&handled[..], &gap].concat());
    assert_eq!(verdict.out_of_order, 1);
    assert_finds(&verdict, "number 2 of key 1 by publisher 100 is stored next to number 0");

    let moved = [(1, 30, Entry::Start(id(1), 1)), (1, 40, Entry::Done(id(1)))];
    let elsewhere = [(0, 0, at(0, 0)), (0, 0, Entry::Stored(id(1), Place { partition: 1, offset: 0 }))];
    let verdict = judge(0..0, &[&handled[..], &moved, &elsewhere].concat());
    assert_finds(&verdict, "is in another partition");

    assert_finds(&judge(0..1, &[&handled[..], &[(100, 0, Entry::Refused(id(1)))]].concat()), "was refused");
}

#[test]
fn what_is_handled_and_not_stored_or_ends_without_a_start_is_found() {
    let verdict = judge(0..0, &[(1, 10, Entry::Start(id(0), 1)), (1, 20, Entry::Done(id(0)))]);
    assert_finds(&verdict, "was handled and is not stored");
    let verdict = judge(0..1, &[(1, 20, Entry::Done(id(0)))]);
    assert_finds(&verdict, "ended that did not start");
}

/// Member 1 runs from 100 to `end`, member 2 from 150 to 180.
fn two_at_once(end: Nanos, faults: &[(Nanos, Fault)]) -> Verdict {
    let mut lines = vec![
        (1, 100, Entry::Start(id(0), 1)),
        (1, end, Entry::Done(id(0))),
        (2, 150, Entry::Start(id(0), 1)),
        (2, 180, Entry::Done(id(0))),
    ];
    lines.extend(faults.iter().map(|&(at, fault)| (0, at, Entry::Fault(fault))));
    judge(0..1, &lines)
}

#[test]
fn two_handlers_at_once_are_found_unless_one_of_their_members_was_silent() {
    assert!(two_at_once(149, &[]).overlaps == 0);
    let verdict = two_at_once(160, &[]);
    assert_eq!((verdict.overlaps, verdict.forbidden_overlaps), (0, 1));
    assert_finds(
        &verdict,
        "with member 1 and number 0 of key 1 by publisher 100 with member 2, for 10.000 ms",
    );

    let frozen = |until, end| {
        let mut lines = vec![
            (1, 100, Entry::Start(id(0), 1)),
            (1, end, Entry::Done(id(0))),
            (2, 2_500, Entry::Start(id(0), 1)),
            (2, 9_000, Entry::Done(id(0))),
        ];
        lines.push((0, 110, Entry::Fault(Fault::Stopped(1))));
        lines.push((0, until, Entry::Fault(Fault::Continued(1))));
        let mut limits = LIMITS;
        limits.drain = 60_000 * MS;
        check(&history(&[&stored(0..1)[..], &lines].concat()), &limits)
    };
    let allowed = frozen(3_000, 3_400);
    assert_eq!((allowed.overlaps, allowed.longest_overlap), (1, 900 * MS));
    assert!(allowed.is_sound(), "{allowed:#?}");
    assert_eq!(frozen(3_000, 3_600).forbidden_overlaps, 1, "it should have noticed by then");
    assert_eq!(frozen(1_500, 2_600).forbidden_overlaps, 1, "it was not silent for that long");
}

#[test]
fn two_handlers_at_once_in_one_process_are_always_found() {
    let verdict = judge(
        0..2,
        &[
            (1, 100, Entry::Start(id(0), 1)),
            (1, 110, Entry::Start(id(1), 1)),
            (1, 120, Entry::Done(id(0))),
            (1, 130, Entry::Done(id(1))),
        ],
    );
    assert_eq!((verdict.forbidden_overlaps, verdict.out_of_order), (1, 1));
}

#[test]
fn a_handler_may_be_left_behind_when_it_had_its_time() {
    let left_behind = |start| {
        let lines = [
            (1, 100, Entry::Start(id(0), 1)),
            (1, 3_000, Entry::Done(id(0))),
            (2, start, Entry::Start(id(0), 1)),
            (2, 4_000, Entry::Done(id(0))),
        ];
        judge(0..1, &lines)
    };
    assert_eq!(left_behind(1_101).forbidden_overlaps, 0);
    assert_eq!(left_behind(1_099).forbidden_overlaps, 1);
}

/// Member 1 handles number 0 from 10 to 20; member 2 does so again at `again`.
fn again(again: Nanos, faults: &[(Nanos, Fault)]) -> Verdict {
    let mut lines = vec![
        (1, 10, Entry::Start(id(0), 1)),
        (1, 20, Entry::Done(id(0))),
        (2, again, Entry::Start(id(0), 1)),
        (2, again + 10, Entry::Done(id(0))),
    ];
    lines.extend(faults.iter().map(|&(at, fault)| (0, at, Entry::Fault(fault))));
    judge(0..1, &lines)
}

#[test]
fn what_is_handled_again_needs_a_reason() {
    let verdict = again(100, &[]);
    assert_eq!((verdict.duplicates, verdict.bound, verdict.unexplained), (1, 0, 1));
    assert_finds(&verdict, "for no reason");
    assert_finds(&verdict, "1 records were handled again, and 0 could be");

    let verdict = again(3_000, &[(50, Fault::Killed(1))]);
    assert_eq!((verdict.duplicates, verdict.bound), (1, 1));
    assert!(verdict.is_sound());
    assert_eq!(again(3_000, &[(400, Fault::Killed(1))]).unexplained, 1, "it had time to commit");
    assert_eq!(again(3_000, &[(50, Fault::Killed(2))]).unexplained, 1, "another was killed");
    assert_eq!(again(3_000, &[(50, Fault::Gone(1))]).unexplained, 1, "who leaves commits");
    let stopped = [(50, Fault::Stopped(1)), (2_900, Fault::Continued(1))];
    assert!(again(3_000, &stopped).is_sound());
    let stopped = [(50, Fault::Stopped(1)), (900, Fault::Continued(1))];
    assert_eq!(again(3_000, &stopped).unexplained, 1, "it kept what it had");
    let stopped_and_killed = [(50, Fault::Stopped(1)), (900, Fault::Killed(1))];
    assert!(again(3_000, &stopped_and_killed).is_sound(), "it had no time to commit");
    let stopped_when_the_broker_went = [
        (50, Fault::Stopped(1)),
        (600, Fault::BrokerDown),
        (700, Fault::Continued(1)),
        (750, Fault::Killed(1)),
        (2_000, Fault::BrokerUp),
    ];
    assert!(again(3_000, &stopped_when_the_broker_went).is_sound(), "it had no time to commit");
    let stale = [(5, Fault::Stopped(2)), (2_900, Fault::Continued(2))];
    assert!(again(3_000, &stale).is_sound(), "it does not know yet that another handled it");
    assert_eq!(again(3_500, &stale).unexplained, 1, "it should have noticed by then");
    let down = [(15, Fault::BrokerDown), (5_000, Fault::BrokerUp)];
    assert!(again(7_000, &down).is_sound());
    let down_before_a_kill = [(15, Fault::BrokerDown), (350, Fault::BrokerUp), (700, Fault::Killed(1))];
    assert!(again(7_000, &down_before_a_kill).is_sound());
}

#[test]
fn who_rests_because_no_commit_passes_repeats_what_it_had_in_flight() {
    let lines = [
        (1, 10, Entry::Start(id(0), 1)),
        (1, 20, Entry::Done(id(0))),
        (1, 1_010, Entry::Start(id(1), 1)),
        (1, 1_020, Entry::Done(id(1))),
        (0, 5_000, Entry::Fault(Fault::Killed(1))),
        (2, 9_000, Entry::Start(id(0), 1)),
        (2, 9_010, Entry::Done(id(0))),
    ];
    let history = history(&[&stored(0..2)[..], &lines].concat());
    assert_eq!(check(&history, &LIMITS).unexplained, 1);
    let resting = |in_flight| check(&history, &Limits { rests_with: Some(in_flight), ..LIMITS });
    assert_eq!(resting(0).unexplained, 1, "there was a commit between the two");
    assert!(resting(1).is_sound());
}

#[test]
fn what_was_running_at_a_kill_is_counted_and_what_goes_on_elsewhere_is_not() {
    let cut = [
        (1, 10, Entry::Start(id(0), 1)),
        (0, 15, Entry::Fault(Fault::Killed(1))),
        (2, 3_000, Entry::Start(id(0), 1)),
        (2, 3_010, Entry::Done(id(0))),
    ];
    let verdict = judge(0..1, &cut);
    assert_eq!((verdict.duplicates, verdict.bound, verdict.overlaps), (1, 1, 0));
    let elsewhere = [
        (1, 10, Entry::Start(id(0), 1)),
        (1, 15, Entry::Failed(id(0))),
        (2, 3_000, Entry::Start(id(0), 1)),
        (2, 3_010, Entry::Done(id(0))),
    ];
    let verdict = judge(0..1, &elsewhere);
    assert_eq!((verdict.duplicates, verdict.unexplained), (0, 0));
}

/// Keys, publishers and members with kills, as a bus that is right handles them.
struct Simulation {
    random: fastrand::Rng,
    told: Vec<Told>,
}

impl Simulation {
    fn tell(&mut self, member: u32, time: Nanos, entry: Entry) {
        self.told.push(Told { member, line: Line { time, entry } });
    }

    fn run(seed: u64) -> History {
        let mut simulation = Self { random: fastrand::Rng::with_seed(seed), told: Vec::new() };
        let kills: Vec<Nanos> = {
            let mut at = 0;
            let n = simulation.random.usize(1..5);
            (0..n)
                .map(|_| {
                    at += simulation.random.u64(50..4_000) * MS;
                    at
                })
                .collect()
        };
        // One member after the other; each kill moves all keys to the next.
        for (n, kill) in kills.iter().enumerate() {
            simulation.tell(0, *kill, Entry::Fault(Fault::Killed(n as u32 + 1)));
        }
        for key in 0..4 {
            let ids = simulation.publish(key);
            simulation.handle(&ids, &kills);
        }
        // No two times are equal, so the order of the lines says nothing.
        simulation.random.shuffle(&mut simulation.told);
        History(simulation.told)
    }

    fn publish(&mut self, key: u32) -> Vec<Id> {
        let (mut ids, mut next) = (Vec::new(), 0);
        for producer in [100, 101] {
            let acked = self.random.u32(5..40);
            let unknown = self.random.u32(0..4);
            for n in next..next + acked + unknown {
                let id = Id { key, producer, n };
                let place = Place { partition: key % 2, offset: u64::from(key) * 1_000 + ids.len() as u64 };
                self.tell(0, 0, Entry::Stored(id, place));
                if n < next + acked {
                    self.tell(producer, 0, Entry::Acked(id));
                }
                ids.push(id);
            }
            next += acked;
        }
        ids
    }

    fn handle(&mut self, ids: &[Id], kills: &[Nanos]) {
        let (mut member, mut time, mut position) = (1_u32, 0_u64, 0_usize);
        // When each record was over with the member that has the key now.
        let mut over: Vec<Nanos> = Vec::new();
        while position < ids.len() {
            let id = ids[position];
            let fails = if self.random.u32(..10) == 0 { self.random.u32(1..4) } else { 0 };
            let mut attempt = 0;
            let end: Result<Nanos, Nanos> = loop {
                attempt += 1;
                let start = time + self.random.u64(1..20 * MS);
                let end = start + self.random.u64(1..60 * MS);
                let killed = kills.get(member as usize - 1).copied().unwrap_or(Nanos::MAX);
                if end >= killed {
                    if start < killed {
                        self.tell(member, start, Entry::Start(id, attempt));
                    }
                    break Err(killed);
                }
                self.tell(member, start, Entry::Start(id, attempt));
                time = end;
                if attempt > fails {
                    self.tell(member, end, Entry::Done(id));
                    break Ok(end);
                }
                self.tell(member, end, Entry::Failed(id));
                if attempt == 3 {
                    let dead = end + self.random.u64(1..10 * MS);
                    if dead >= killed {
                        break Err(killed);
                    }
                    self.tell(0, dead, Entry::Dead(id));
                    time = dead;
                    break Ok(dead);
                }
            };
            match end {
                Ok(end) => {
                    over.push(end);
                    position += 1;
                }
                Err(killed) => {
                    let uncommitted = killed.saturating_sub(self.random.u64(0..200 * MS));
                    while over.last().is_some_and(|over| *over > uncommitted) {
                        over.pop();
                        position -= 1;
                    }
                    over.clear();
                    member += 1;
                    time = killed + LIMITS.expiry;
                }
            }
        }
    }
}

#[test]
fn histories_of_a_bus_that_is_right_are_right() {
    for seed in 0..500 {
        let verdict = check(&Simulation::run(seed), &LIMITS);
        assert!(verdict.is_sound(), "seed {seed}: {verdict:#?}");
    }
}

/// Plants a fault in each of many histories, where there is a place for it.
#[track_caller]
fn assert_found(plant: impl Fn(&mut History, &mut fastrand::Rng) -> bool) {
    let mut planted = 0;
    for seed in 0..300 {
        let mut history = Simulation::run(seed);
        if plant(&mut history, &mut fastrand::Rng::with_seed(seed)) {
            planted += 1;
            assert!(!check(&history, &LIMITS).is_sound(), "seed {seed}: not found");
        }
    }
    assert!(planted > 100, "there was a place in {planted} histories only");
}

fn any(
    history: &History,
    random: &mut fastrand::Rng,
    is_it: impl Fn(&Entry) -> bool,
) -> Option<(usize, Told)> {
    let all: Vec<usize> = (0..history.0.len()).filter(|n| is_it(&history.0[*n].line.entry)).collect();
    random.choice(all).map(|n| (n, history.0[n].clone()))
}

#[test]
fn a_record_that_is_taken_out_is_found() {
    assert_found(|history, random| {
        let Some((_, Told { line: Line { entry: Entry::Done(lost), .. }, .. })) =
            any(history, random, |entry| matches!(entry, Entry::Done(_)))
        else {
            return false;
        };
        history.0.retain(|told| {
            !matches!(told.line.entry, Entry::Start(id, _) | Entry::Done(id) | Entry::Failed(id) | Entry::Dead(id)
                if id == lost)
        });
        true
    });
}

#[test]
fn a_record_that_the_broker_lost_is_found() {
    assert_found(|history, random| {
        let taken = any(history, random, |entry| matches!(entry, Entry::Stored(..)));
        taken.is_some_and(|(n, _)| {
            history.0.swap_remove(n);
            true
        })
    });
}

#[test]
fn a_handler_that_runs_into_the_next_is_found() {
    assert_found(|history, random| {
        let Some((n, done)) = any(history, random, |entry| matches!(entry, Entry::Done(_))) else {
            return false;
        };
        let Entry::Done(id) = done.line.entry else { unreachable!("as asked for") };
        // To the middle of the run that comes next with this member.
        let later = |told: &&Told| told.member == done.member && told.line.time > done.line.time;
        let of_key = |told: &&Told| matches!(told.line.entry, Entry::Start(other, _) if other.key == id.key);
        let next = history.0.iter().filter(later).filter(of_key).map(|told| told.line.time).min();
        next.is_some_and(|next| {
            history.0[n].line.time = next + 1;
            true
        })
    });
}

#[test]
fn a_repetition_long_after_its_commit_is_found() {
    assert_found(|history, random| {
        let Some((_, done)) = any(history, random, |entry| matches!(entry, Entry::Done(_))) else {
            return false;
        };
        let Entry::Done(id) = done.line.entry else { unreachable!("as asked for") };
        let killed = history.0.iter().find_map(|told| match told.line.entry {
            Entry::Fault(Fault::Killed(member)) if member == done.member => Some(told.line.time),
            _ => None,
        });
        if killed.is_some_and(|killed| killed < done.line.time + 2 * LIMITS.uncommitted) {
            return false;
        }
        let end = history.0.iter().map(|told| told.line.time).max().expect("it is not empty");
        let again = [Entry::Start(id, 1), Entry::Done(id)].into_iter().zip([end + MS, end + 2 * MS]);
        history.0.extend(again.map(|(entry, time)| Told { member: 99, line: Line { time, entry } }));
        true
    });
}
