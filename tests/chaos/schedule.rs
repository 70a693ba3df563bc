//! Which faults a run gets, and when: drawn from its seed alone.

use std::time::Duration;

/// What is done to the run. `which` picks one of those that are there at that time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blow {
    /// SIGKILL of a consumer; another takes its place after a while.
    KillConsumer { which: usize, replace_after: Duration },
    /// SIGSTOP, and SIGCONT after a while.
    StopConsumer { which: usize, continue_after: Duration },
    /// A consumer drains and leaves; another takes its place after a while.
    LeaveConsumer { which: usize, replace_after: Duration },
    /// One more consumer, up to a limit; at the limit one leaves.
    JoinConsumer { which: usize },
    /// SIGSTOP of a publisher, and SIGCONT after a while.
    StopPublisher { which: usize, continue_after: Duration },
    /// SIGKILL of a publisher; another goes on where it was.
    KillPublisher { which: usize, replace_after: Duration },
    /// SIGKILL of the broker; it is started again after a while.
    KillBroker { restart_after: Duration },
}

/// A fault and the time before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    pub after: Duration,
    pub blow: Blow,
}

/// How often each kind comes in one round of the schedule.
#[derive(Debug, Clone, Copy)]
pub struct Weights {
    pub kill_consumer: usize,
    pub stop_consumer: usize,
    pub leave_consumer: usize,
    pub join_consumer: usize,
    pub stop_publisher: usize,
    pub kill_publisher: usize,
    pub kill_broker: usize,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    KillConsumer,
    StopConsumer,
    LeaveConsumer,
    JoinConsumer,
    StopPublisher,
    KillPublisher,
    KillBroker,
}

/// Faults without an end: rounds in which every kind comes as often as its weight says, in an order of each round's
/// own.
pub struct Schedule {
    random: fastrand::Rng,
    weights: Weights,
    round: Vec<Kind>,
}

impl Schedule {
    pub fn new(seed: u64, weights: Weights) -> Self {
        Self { random: fastrand::Rng::with_seed(seed), weights, round: Vec::new() }
    }

    fn millis(&mut self, range: std::ops::Range<u64>) -> Duration {
        Duration::from_millis(self.random.u64(range))
    }

    fn new_round(&mut self) {
        let weights = self.weights;
        let kinds = [
            (Kind::KillConsumer, weights.kill_consumer),
            (Kind::StopConsumer, weights.stop_consumer),
            (Kind::LeaveConsumer, weights.leave_consumer),
            (Kind::JoinConsumer, weights.join_consumer),
            (Kind::StopPublisher, weights.stop_publisher),
            (Kind::KillPublisher, weights.kill_publisher),
            (Kind::KillBroker, weights.kill_broker),
        ];
        self.round = kinds.iter().flat_map(|&(kind, n)| std::iter::repeat_n(kind, n)).collect();
        self.random.shuffle(&mut self.round);
    }
}

impl Iterator for Schedule {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        if self.round.is_empty() {
            self.new_round();
        }
        let kind = self.round.pop()?;
        let after = self.millis(400..2_600);
        let which = self.random.usize(..);
        let blow = match kind {
            Kind::KillConsumer => Blow::KillConsumer { which, replace_after: self.millis(0..2_000) },
            // Some are noticed and some are not.
            Kind::StopConsumer => Blow::StopConsumer { which, continue_after: self.millis(300..6_000) },
            Kind::LeaveConsumer => Blow::LeaveConsumer { which, replace_after: self.millis(0..2_000) },
            Kind::JoinConsumer => Blow::JoinConsumer { which },
            Kind::StopPublisher => Blow::StopPublisher { which, continue_after: self.millis(300..6_000) },
            Kind::KillPublisher => Blow::KillPublisher { which, replace_after: self.millis(100..1_500) },
            Kind::KillBroker => Blow::KillBroker { restart_after: self.millis(0..3_000) },
        };
        Some(Step { after, blow })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEIGHTS: Weights = Weights {
        kill_consumer: 5,
        stop_consumer: 2,
        leave_consumer: 2,
        join_consumer: 1,
        stop_publisher: 1,
        kill_publisher: 2,
        kill_broker: 1,
    };

    #[test]
    fn a_seed_is_a_schedule() {
        let steps = |seed| Schedule::new(seed, WEIGHTS).take(100).collect::<Vec<_>>();
        assert_eq!(steps(1), steps(1));
        assert_ne!(steps(1), steps(2));
    }

    #[test]
    fn a_round_has_every_kind_as_often_as_it_should() {
        for seed in 0..100 {
            let round: Vec<Step> = Schedule::new(seed, WEIGHTS).take(14).collect();
            let count = |is: fn(&Blow) -> bool| round.iter().filter(|step| is(&step.blow)).count();
            assert_eq!(count(|blow| matches!(blow, Blow::KillConsumer { .. })), 5);
            assert_eq!(count(|blow| matches!(blow, Blow::StopConsumer { .. })), 2);
            assert_eq!(count(|blow| matches!(blow, Blow::KillBroker { .. })), 1);
        }
    }
}
