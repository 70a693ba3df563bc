//! The positions that are to be committed, and the one commit that is under way: a state machine without a client or a
//! clock in it.
//!
//! Of each partition the newest position waits, and one commit at a time carries all that wait, so an answer belongs to
//! it and to nothing else.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Topic and partition.
pub(super) type TopicPartition = (u32, u32);

/// How long commits rest at most behind one that took long.
const LONGEST_PAUSE: Duration = Duration::from_millis(200);
/// How long a commit rests that the group could not take just now.
const REST: Duration = Duration::from_millis(50);
/// For how long that is no failure.
const PATIENCE: Duration = Duration::from_secs(3);

/// What the broker said of one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    Committed,
    /// The group is being rebalanced: worth another try at once.
    NotNow(String),
    Failed(String),
}

/// A position on its way.
#[derive(Debug)]
pub(super) struct Commit<W> {
    pub(super) offset: u64,
    pub(super) metadata: String,
    /// Who waits for the answer.
    waiters: Vec<W>,
    /// Since when it has been tried.
    since: Instant,
}

#[derive(Debug)]
pub(super) struct Commits<W> {
    wanted: BTreeMap<TopicPartition, Commit<W>>,
    under_way: Option<BTreeMap<TopicPartition, Commit<W>>>,
    /// When what is under way was begun.
    begun: Option<Instant>,
    /// Until then none is begun that nobody waits for: commits are under way for half of the time at most, so that a
    /// coordinator with much to do is asked less. With a twentieth, the rest behind a slow first answer repeated all
    /// that a crash met in it: most of a log's first 10,000 records.
    pause_until: Option<Instant>,
    /// Answers that are still to come and that nobody needs.
    overtaken: u32,
    failing: BTreeMap<TopicPartition, String>,
    /// Since when a position is wanted committed and none has been.
    uncommitted: BTreeMap<TopicPartition, Instant>,
    rest_until: Option<Instant>,
}

/// What an answer leads to.
#[derive(Debug)]
pub(super) struct CommitReport<W> {
    /// To be told, each with its result.
    pub(super) told: Vec<(W, Result<(), String>)>,
    /// Partitions whose commit has failed, and why.
    pub(super) failed: Vec<(TopicPartition, String)>,
    pub(super) has_committed: bool,
}

impl<W> Commits<W> {
    pub(super) fn new() -> Self {
        Self {
            wanted: BTreeMap::new(),
            under_way: None,
            begun: None,
            pause_until: None,
            overtaken: 0,
            failing: BTreeMap::new(),
            uncommitted: BTreeMap::new(),
            rest_until: None,
        }
    }

    /// Wants a position committed; the one of this partition that waits is replaced. Tells why the last commit failed,
    /// if none has passed since.
    pub(super) fn want(
        &mut self,
        place: TopicPartition,
        offset: u64,
        metadata: String,
        waiter: Option<W>,
        now: Instant,
    ) -> Option<&str> {
        self.uncommitted.entry(place).or_insert(now);
        let before = self.wanted.remove(&place);
        let since = before.as_ref().map_or(now, |before| before.since);
        let mut waiters = before.map_or_else(Vec::new, |before| before.waiters);
        waiters.extend(waiter);
        self.wanted.insert(place, Commit { offset, metadata, waiters, since });
        self.failing.get(&place).map(String::as_str)
    }

    /// For how long the oldest position has not been committed that is wanted so, whatever was answered meanwhile.
    pub(super) fn behind(&self, now: Instant) -> Duration {
        let oldest = self.uncommitted.values().min();
        oldest.map_or(Duration::ZERO, |since| now.saturating_duration_since(*since))
    }

    /// Whether a position of this partition waits to be committed, or is on its way.
    pub(super) fn wants(&self, place: TopicPartition) -> bool {
        self.wanted.contains_key(&place)
            || self.under_way.as_ref().is_some_and(|under_way| under_way.contains_key(&place))
    }

    /// Partitions whose commit has had no answer for so long that it counts as failed, each told once; it may pass yet.
    pub(super) fn overdue(&mut self, now: Instant) -> Vec<(TopicPartition, String)> {
        let mut overdue = Vec::new();
        for place in self.under_way.iter().flat_map(BTreeMap::keys) {
            let since = self.uncommitted.get(place).filter(|_| !self.failing.contains_key(place));
            if since.is_some_and(|since| now.saturating_duration_since(*since) >= PATIENCE) {
                overdue.push((*place, format!("a commit has had no answer for {PATIENCE:?}: the group is being rebalanced, or its coordinator does not answer")));
            }
        }
        self.failing.extend(overdue.iter().cloned());
        overdue
    }

    /// When there is something to commit.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        let is_wanted = !self.wanted.is_empty() && self.under_way.is_none();
        let is_awaited = || self.wanted.values().any(|commit| !commit.waiters.is_empty());
        is_wanted.then(|| {
            let pause_until = self.pause_until.filter(|until| *until > now && !is_awaited());
            [self.rest_until, pause_until].into_iter().flatten().fold(now, Instant::max)
        })
    }

    /// Whether all that was wanted has its answer.
    pub(super) fn is_idle(&self) -> bool {
        self.wanted.is_empty() && self.under_way.is_none()
    }

    /// What is to be committed now; it is under way from here on.
    pub(super) fn begin(&mut self, now: Instant) -> Option<&BTreeMap<TopicPartition, Commit<W>>> {
        self.due(now).filter(|due| *due <= now)?;
        self.rest_until = None;
        self.begun = Some(now);
        self.under_way = Some(std::mem::take(&mut self.wanted));
        self.under_way.as_ref()
    }

    /// The answer to what is under way can't come now: all of it is to be committed in another way, and the answer is
    /// ignored when it comes.
    pub(super) fn overtake(&mut self) {
        let Some(under_way) = self.under_way.take() else { return };
        self.overtaken += 1;
        self.take_back(under_way);
    }

    fn take_back(&mut self, commits: BTreeMap<TopicPartition, Commit<W>>) {
        for (place, mut commit) in commits {
            match self.wanted.get_mut(&place) {
                None => drop(self.wanted.insert(place, commit)),
                Some(newer) => {
                    newer.since = commit.since;
                    newer.waiters.append(&mut commit.waiters);
                }
            }
        }
    }

    /// An answer that comes by itself: whether it is to the commit that is under way.
    pub(super) fn is_expected(&mut self) -> bool {
        if self.overtaken == 0 {
            return self.under_way.is_some();
        }
        self.overtaken -= 1;
        false
    }

    /// The broker answered what is under way.
    pub(super) fn answered(
        &mut self,
        answer: impl Fn(TopicPartition) -> Answer,
        now: Instant,
    ) -> CommitReport<W> {
        let mut report = CommitReport { told: Vec::new(), failed: Vec::new(), has_committed: false };
        let mut again = BTreeMap::new();
        let took = self.begun.take().map_or(Duration::ZERO, |begun| now.saturating_duration_since(begun));
        self.pause_until = Some(now + took.min(LONGEST_PAUSE));
        for (place, commit) in self.under_way.take().unwrap_or_default() {
            match answer(place) {
                Answer::Committed => {
                    self.failing.remove(&place);
                    self.uncommitted.remove(&place);
                    if let Some(newer) = self.wanted.get(&place) {
                        self.uncommitted.insert(place, newer.since);
                    }
                    report.has_committed = true;
                    report.told.extend(commit.waiters.into_iter().map(|waiter| (waiter, Ok(()))));
                }
                Answer::NotNow(_) if now.saturating_duration_since(commit.since) < PATIENCE => {
                    again.insert(place, commit);
                }
                Answer::NotNow(reason) | Answer::Failed(reason) => {
                    self.failing.insert(place, reason.clone());
                    report
                        .told
                        .extend(commit.waiters.into_iter().map(|waiter| (waiter, Err(reason.clone()))));
                    report.failed.push((place, reason));
                }
            }
        }
        if !again.is_empty() {
            self.rest_until = Some(now + REST);
            self.take_back(again);
        }
        report
    }

    /// The partition is not ours any more: who waits for its commit is to be told that.
    pub(super) fn forget(&mut self, place: TopicPartition) -> Vec<W> {
        self.failing.remove(&place);
        self.uncommitted.remove(&place);
        let under_way = self.under_way.as_mut().and_then(|commits| commits.remove(&place));
        [self.wanted.remove(&place), under_way]
            .into_iter()
            .flatten()
            .flat_map(|commit| commit.waiters)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proptest::test_runner::{Config, TestRunner};

    #[derive(Debug, Clone)]
    enum Op {
        Want(u32, bool),
        Begin,
        /// The answer to what is under way, which has failed for some.
        Answer(u32, bool),
        /// The answer does not come where it is waited for: it is committed in another way, and comes later.
        Overtake,
        LateAnswer,
        Forget(u32),
        Pass(u64),
    }

    fn ops() -> impl Strategy<Value = Vec<Op>> {
        let op = prop_oneof![
            5 => (0..3_u32, any::<bool>()).prop_map(|(partition, waits)| Op::Want(partition, waits)),
            5 => Just(Op::Begin),
            4 => (0..8_u32, any::<bool>()).prop_map(|(failing, now)| Op::Answer(failing, now)),
            1 => Just(Op::Overtake),
            1 => Just(Op::LateAnswer),
            1 => (0..3_u32).prop_map(Op::Forget),
            1 => (0..5_000_u64).prop_map(Op::Pass),
        ];
        prop::collection::vec(op, 1..120)
    }

    /// Against a broker that stores what is begun when it answers well. `is_faulty` plants one that says so of a commit
    /// that it did not store.
    fn run(ops: Vec<Op>, is_faulty: bool) -> Result<(), TestCaseError> {
        let (mut commits, mut now) = (Commits::new(), Instant::now());
        let (mut offset, mut waiting, mut late) = (0_u64, BTreeMap::<u64, TopicPartition>::new(), 0);
        let mut stored = BTreeMap::<TopicPartition, u64>::new();
        let end = [Op::Pass(10_000), Op::Begin, Op::Answer(0, false)].into_iter().cycle().take(12);
        for op in ops.into_iter().chain(end) {
            match op {
                Op::Want(partition, waits) => {
                    offset += 1;
                    if waits {
                        waiting.insert(offset, (0, partition));
                    }
                    commits.want((0, partition), offset, String::new(), waits.then_some(offset), now);
                }
                Op::Begin => {
                    let is_busy = commits.under_way.is_some();
                    prop_assert!(commits.begin(now).is_none() || !is_busy, "two commits at once");
                }
                Op::Answer(failing, is_not_now) => {
                    let answer = |(_, partition): TopicPartition| match (failing >> partition & 1, is_not_now)
                    {
                        (0, _) => Answer::Committed,
                        (_, true) => Answer::NotNow("rebalancing".into()),
                        (_, false) => Answer::Failed("planted".into()),
                    };
                    for (place, commit) in commits.under_way.iter().flatten() {
                        let is_lost = is_faulty && commit.offset == 3;
                        if answer(*place) == Answer::Committed && !is_lost {
                            stored.insert(*place, commit.offset);
                        }
                    }
                    let report = commits.answered(answer, now);
                    for (waiter, result) in report.told {
                        let place = waiting.remove(&waiter).expect("told once");
                        if result.is_ok() {
                            prop_assert!(stored[&place] >= waiter, "told of a commit that is not stored");
                        }
                    }
                }
                Op::Overtake => {
                    late += u32::from(commits.under_way.is_some());
                    commits.overtake();
                }
                Op::LateAnswer if late > 0 => {
                    late -= 1;
                    prop_assert!(!commits.is_expected(), "an answer to something else was taken");
                }
                Op::LateAnswer => {}
                Op::Forget(partition) => {
                    for waiter in commits.forget((0, partition)) {
                        prop_assert!(waiting.remove(&waiter).is_some(), "told twice");
                    }
                }
                Op::Pass(ms) => now += Duration::from_millis(ms),
            }
        }
        prop_assert!(waiting.is_empty(), "{:?} were never told", waiting);
        Ok(())
    }

    proptest! {
        #[test]
        fn who_waits_is_told_once_and_the_truth(ops in ops()) {
            run(ops, false)?;
        }
    }

    #[test]
    fn the_property_finds_a_commit_that_was_not_stored() {
        let config = Config { failure_persistence: None, max_shrink_iters: 0, ..Config::default() };
        assert!(TestRunner::new(config).run(&ops(), |ops| run(ops, true)).is_err());
    }

    #[test]
    fn the_oldest_position_that_is_not_committed_tells_how_far_behind_it_is() {
        let (mut commits, now, second) = (Commits::<()>::new(), Instant::now(), Duration::from_secs(1));
        assert_eq!(commits.behind(now), Duration::ZERO);
        commits.want((0, 1), 5, String::new(), None, now);
        commits.begin(now);
        commits.want((0, 1), 6, String::new(), None, now + second);
        assert_eq!(commits.behind(now + 2 * second), 2 * second);
        assert!(commits.answered(|_| Answer::Committed, now + 2 * second).has_committed);
        assert_eq!(commits.behind(now + 2 * second), second);
        commits.begin(now + 2 * second);
        commits.answered(|_| Answer::Failed("no".into()), now + 2 * second);
        commits.want((0, 1), 6, String::new(), None, now + 3 * second);
        assert_eq!(commits.behind(now + 3 * second), 2 * second, "a failure does not count as progress");
        commits.begin(now + 3 * second);
        assert!(commits.answered(|_| Answer::Committed, now + 3 * second).has_committed);
        assert_eq!(commits.behind(now + 9 * second), Duration::ZERO);
        commits.want((0, 1), 7, String::new(), None, now);
        commits.forget((0, 1));
        assert_eq!(commits.behind(now + 9 * second), Duration::ZERO, "it is another member's affair");
    }

    #[test]
    fn a_commit_without_an_answer_is_told_once_and_may_pass_yet() {
        let (mut commits, now) = (Commits::<()>::new(), Instant::now());
        commits.want((0, 1), 5, String::new(), None, now);
        assert!(commits.overdue(now + PATIENCE).is_empty(), "it is not under way");
        commits.begin(now);
        assert!(commits.overdue(now).is_empty());
        assert_eq!(commits.overdue(now + PATIENCE).len(), 1);
        assert!(commits.overdue(now + PATIENCE).is_empty());
        assert!(commits.want((0, 1), 6, String::new(), None, now + PATIENCE).is_some());
        assert!(commits.answered(|_| Answer::Committed, now + PATIENCE).has_committed);
        assert!(commits.wants((0, 1)));
        assert_eq!(commits.want((0, 1), 7, String::new(), None, now + PATIENCE), None);
        commits.begin(now + PATIENCE + LONGEST_PAUSE);
        assert!(commits.wants((0, 1)));
        commits.answered(|_| Answer::Committed, now + PATIENCE + LONGEST_PAUSE);
        assert!(!commits.wants((0, 1)));
    }

    #[test]
    fn a_coordinator_that_takes_long_is_asked_less_unless_somebody_waits() {
        let (mut commits, now, ms) = (Commits::new(), Instant::now(), Duration::from_millis(1));
        commits.want((0, 1), 5, String::new(), None, now);
        commits.begin(now);
        commits.answered(|_| Answer::Committed, now + 10 * ms);
        commits.want((0, 1), 6, String::new(), None, now + 10 * ms);
        assert_eq!(commits.due(now + 10 * ms), Some(now + 20 * ms));
        assert!(commits.begin(now + 19 * ms).is_none() && commits.begin(now + 20 * ms).is_some());
        let long = now + Duration::from_secs(1);
        commits.answered(|_| Answer::Committed, long);
        commits.want((0, 1), 7, String::new(), None, long);
        assert_eq!(commits.due(long), Some(long + LONGEST_PAUSE));
        commits.want((0, 1), 8, String::new(), Some(()), long);
        assert_eq!(commits.due(long), Some(long));
    }

    #[test]
    fn a_failure_is_told_until_a_commit_has_passed() {
        let (mut commits, now) = (Commits::<()>::new(), Instant::now());
        assert_eq!(commits.want((0, 1), 5, String::new(), None, now), None);
        commits.begin(now);
        assert_eq!(
            commits.answered(|_| Answer::Failed("no".into()), now).failed,
            [((0, 1), "no".to_owned())]
        );
        assert_eq!(commits.want((0, 1), 6, String::new(), None, now), Some("no"));
        commits.begin(now);
        assert!(commits.answered(|_| Answer::Committed, now).has_committed);
        assert_eq!(commits.want((0, 1), 7, String::new(), None, now), None);
    }

    #[test]
    fn what_the_group_can_not_take_now_is_tried_again_and_fails_in_the_end() {
        let (mut commits, now) = (Commits::<()>::new(), Instant::now());
        let not_now = |_| Answer::NotNow("rebalancing".into());
        commits.want((0, 1), 5, String::new(), None, now);
        commits.begin(now);
        assert!(commits.answered(not_now, now).failed.is_empty());
        assert!(commits.begin(now).is_none(), "it rests");
        assert!(commits.begin(now + REST).is_some());
        assert_eq!(commits.answered(not_now, now + PATIENCE).failed.len(), 1);
    }
}
