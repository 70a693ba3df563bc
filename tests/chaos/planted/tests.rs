//! Each mistake is found, from the processes' logs to the verdict.

use super::{Mistake, Planted};
use crate::checker::{Verdict, check};
use crate::child::{Publisher, Role};
use crate::folder::Folder;
use crate::history::{Entry, History};
use crate::member::Member;
use crate::run::Plan;
use crate::target::{Kind, Target};
use crate::work::Work;
use std::collections::HashMap;
use std::thread;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);

/// A run by hand.
struct Bench {
    folder: Folder,
    target: Target,
    work: Work,
    members: u32,
}

impl Bench {
    /// A broker with so many records in it.
    fn new(kind: Kind, name: &str, records: u64, work: Work) -> Self {
        let folder = Folder::new(name);
        let target = Target::start(kind, &folder.name());
        let publisher = Publisher {
            config: target.config(""),
            topic: target.topic.clone(),
            work,
            seed: 1,
            rate: 100_000,
            count: Some(records),
            next: HashMap::new(),
        };
        let publisher = Member::start(folder.path(), 1, Role::Publisher(publisher));
        assert!(publisher.gone_within(LIMIT, &folder.faults).is_some(), "the records were not published");
        Self { folder, target, work, members: 1 }
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

    /// Waits until so many records were handled, by this member.
    fn wait_for(&self, member: &Member, done: usize) {
        let until = Instant::now() + LIMIT;
        while count(member, |entry| matches!(entry, Entry::Done(_))) < done {
            assert!(Instant::now() < until, "member {} did not handle {done} records", member.number);
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until nothing has been handled for a while; then the member leaves, and the run is judged.
    fn judge(self, last: Member) -> Verdict {
        let quiet = Duration::from_secs(3);
        let (mut lines, mut since) = (0, Instant::now());
        while since.elapsed() < quiet {
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
        check(&History::read(self.folder.path()), &limits)
    }
}

fn count(member: &Member, is_it: impl Fn(&Entry) -> bool) -> usize {
    member.lines().iter().filter(|line| is_it(&line.entry)).count()
}

#[test]
fn a_commit_past_a_pending_record_is_found() {
    let work = Work { failing: 20, ..Work::plain(30, Duration::from_micros(200)) };
    let mut bench = Bench::new(Kind::Kafka, "planted-commit", 1_000, work);
    let first = bench.start(Mistake::CommitPastPending { retry_after: LIMIT });
    bench.wait_for(&first, 500);
    assert!(count(&first, |entry| matches!(entry, Entry::Failed(_))) > 0, "some wait");
    first.kill(&bench.folder.faults);
    let second = bench.start(Mistake::CommitPastPending { retry_after: Duration::from_millis(10) });
    let verdict = bench.judge(second);
    assert!(verdict.lost > 0, "{verdict:#?}");
    assert!(verdict.handled > 500, "{verdict:#?}");
}

#[test]
fn a_drain_that_is_skipped_is_found() {
    let work = Work::plain(30, Duration::from_millis(100));
    let mut bench = Bench::new(Kind::Kafka, "planted-drain", 400, work);
    let first = bench.start(Mistake::SkippedDrain);
    bench.wait_for(&first, 20);
    let second = bench.start(Mistake::SkippedDrain);
    bench.wait_for(&second, 20);
    first.kill(&bench.folder.faults);
    let verdict = bench.judge(second);
    assert!(verdict.forbidden_overlaps > 0, "{verdict:#?}");
    assert!(verdict.unexplained > 0, "{verdict:#?}");
    assert_eq!(verdict.lost, 0, "{verdict:#?}");
}

#[test]
fn an_ack_before_the_handler_is_found() {
    let work = Work::plain(30, Duration::from_millis(2));
    let mut bench = Bench::new(Kind::Nats, "planted-ack", 1_000, work);
    let first = bench.start(Mistake::AckFirst);
    bench.wait_for(&first, 205);
    first.kill(&bench.folder.faults);
    let second = bench.start(Mistake::AckFirst);
    let verdict = bench.judge(second);
    assert!((1..=20).contains(&verdict.lost), "{verdict:#?}");
    assert!(verdict.out_of_order > 0, "what follows a lost record passes it: {verdict:#?}");
}
