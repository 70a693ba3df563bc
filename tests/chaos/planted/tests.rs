//! Each mistake is found, from the processes' logs to the verdict.

use super::{Mistake, Planted};
use crate::checker::{Verdict, check};
use crate::child::Role;
use crate::folder::Folder;
use crate::history::{Entry, History, Id};
use crate::member::Member;
use crate::plan::Plan;
use crate::target::{Kind, Target};
use crate::work::Work;
use std::collections::HashMap;
use std::thread;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);

/// A run by hand.
struct Trial {
    name: &'static str,
    folder: Folder,
    target: Target,
    work: Work,
    members: u32,
}

impl Trial {
    /// A broker with so many records in it.
    fn new(kind: Kind, name: &'static str, records: usize, work: Work) -> Self {
        let folder = Folder::new(name);
        let target = Target::start(kind, &folder.name());
        let mut random = fastrand::Rng::with_seed(1);
        let mut next: HashMap<u32, u32> = HashMap::new();
        let ids = (0..records).map(|_| {
            let key = work.key(&mut random);
            let n = next.entry(key).or_default();
            *n += 1;
            Id { key, producer: 1, n: *n - 1 }
        });
        target.load(ids);
        Self { name, folder, target, work, members: 1 }
    }

    fn start(&mut self, fault: Mistake) -> Member {
        let planted = Planted {
            address: self.target.address(),
            topic: self.target.topic.clone(),
            work: self.work,
            fault,
        };
        self.members += 1;
        Member::start(self.folder.path(), self.members, Role::Planted(planted))
    }

    /// Waits until nothing has been handled for a while; then the member leaves, and the run is judged.
    fn judge(self, last: Member) -> Verdict {
        let quiet = Duration::from_secs(3);
        let (mut lines, mut since, until) = (0, Instant::now(), Instant::now() + LIMIT);
        while since.elapsed() < quiet {
            assert!(Instant::now() < until, "member {} is still at it, or never began", last.number);
            let now = last.lines().len();
            // The group may first have to miss the one before.
            if now != lines || now == 0 {
                (lines, since) = (now, Instant::now());
            }
            thread::sleep(Duration::from_millis(50));
        }
        last.kill(&self.folder.faults);
        self.folder.write_stored(&self.target.stored());
        let limits = Plan::new(self.target.kind, 0, LIMIT).limits;
        let verdict = check(&History::read(self.folder.path()), &limits);
        println!(
            "{}: {} records, {} lost, {} out of order, {} overlaps beyond what is allowed, {} unexplained duplicates",
            self.name,
            verdict.records,
            verdict.lost,
            verdict.out_of_order,
            verdict.forbidden_overlaps,
            verdict.unexplained
        );
        verdict
    }
}

/// Waits until so many records were handled, by this member.
fn wait_for(member: &Member, done: usize) {
    let until = Instant::now() + LIMIT;
    while count(member, |entry| matches!(entry, Entry::Done(_))) < done {
        assert!(Instant::now() < until, "member {} did not handle {done} records", member.number);
        thread::sleep(Duration::from_millis(5));
    }
}

fn count(member: &Member, is_it: impl Fn(&Entry) -> bool) -> usize {
    member.lines().iter().filter(|line| is_it(&line.entry)).count()
}

#[test]
fn a_commit_past_a_pending_record_is_found() {
    let work = Work { failing: 20, ..Work::plain(30, Duration::from_micros(200)) };
    let mut trial = Trial::new(Kind::Kafka, "planted-commit", 1_000, work);
    let first = trial.start(Mistake::CommitPastPending { retry_after: LIMIT });
    wait_for(&first, 500);
    assert!(count(&first, |entry| matches!(entry, Entry::Failed(_))) > 0, "some wait");
    first.kill(&trial.folder.faults);
    let second = trial.start(Mistake::CommitPastPending { retry_after: Duration::from_millis(10) });
    let verdict = trial.judge(second);
    assert!(verdict.lost > 0, "{verdict:#?}");
    assert!(verdict.handled > 500, "{verdict:#?}");
}

#[test]
fn a_drain_that_is_skipped_is_found() {
    let work = Work::plain(30, Duration::from_millis(100));
    let mut trial = Trial::new(Kind::Kafka, "planted-drain", 400, work);
    let first = trial.start(Mistake::SkippedDrain);
    wait_for(&first, 20);
    let second = trial.start(Mistake::SkippedDrain);
    wait_for(&second, 20);
    first.kill(&trial.folder.faults);
    let verdict = trial.judge(second);
    assert!(verdict.forbidden_overlaps > 0 && !verdict.is_sound(), "{verdict:#?}");
    // How many of them the kill that follows would explain is a matter of moments.
    assert!(verdict.duplicates > 0, "{verdict:#?}");
    assert_eq!(verdict.lost, 0, "{verdict:#?}");
}

#[test]
fn an_ack_before_the_handler_is_found() {
    let work = Work::plain(30, Duration::from_millis(2));
    let mut trial = Trial::new(Kind::Nats, "planted-ack", 1_000, work);
    let first = trial.start(Mistake::AckFirst);
    wait_for(&first, 205);
    first.kill(&trial.folder.faults);
    let second = trial.start(Mistake::AckFirst);
    let verdict = trial.judge(second);
    assert!((1..=20).contains(&verdict.lost), "{verdict:#?}");
    assert!(verdict.out_of_order > 0, "what follows a lost record passes it: {verdict:#?}");
}
