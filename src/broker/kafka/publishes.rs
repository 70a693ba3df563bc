//! The publishes that have no answer yet, in the order of the calls: a state machine without a client in it.
//!
//! What the client was given is a beginning of them, so what is given next never overtakes anything. When a client is
//! given up, all that has no answer is given to the next one again, in the same order: none of it may have been stored
//! behind something that was not, so the order per key holds, and what had been stored already is there twice.

use std::collections::BTreeMap;

/// A publish, in the order of the calls.
pub(super) type Number = usize;

/// What became of a publish that the client was given.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum DeliveryReport<A> {
    /// Stored, or refused for good.
    Answered(A),
    /// The client gave it up without an answer, because it is given up itself.
    Returned,
}

#[derive(Debug)]
pub(super) struct Publishes<T> {
    last: Number,
    unanswered: BTreeMap<Number, T>,
    /// The client has all below.
    next: Number,
    /// There is a client that takes publishes.
    is_open: bool,
}

impl<T> Publishes<T> {
    pub(super) fn new() -> Self {
        Self { last: 0, unanswered: BTreeMap::new(), next: 0, is_open: false }
    }

    /// Takes a publish into the line.
    pub(super) fn offer(&mut self, publish: T) {
        self.last += 1;
        self.unanswered.insert(self.last, publish);
    }

    /// What the client is to be given next, if there is a client.
    pub(super) fn next(&self) -> Option<(Number, &T)> {
        let (number, publish) = self.unanswered.range(self.next..).next().filter(|_| self.is_open)?;
        Some((*number, publish))
    }

    /// The client was given it.
    pub(super) fn given(&mut self, number: Number) {
        debug_assert!(self.next().is_some_and(|(next, _)| next == number), "given out of order");
        self.next = number + 1;
    }

    /// Takes out what is answered without a client.
    pub(super) fn remove(&mut self, number: Number) -> Option<T> {
        self.unanswered.remove(&number)
    }

    /// The client tells what became of a publish; the publish, if that is its answer.
    pub(super) fn ended<A>(&mut self, number: Number, report: DeliveryReport<A>) -> Option<(T, A)> {
        match report {
            DeliveryReport::Answered(answer) => Some((self.unanswered.remove(&number)?, answer)),
            // Whatever the reason is, nothing may pass it.
            DeliveryReport::Returned => {
                self.is_open = false;
                None
            }
        }
    }

    /// The client is given up: nothing is given to it any more.
    pub(super) fn close(&mut self) {
        self.is_open = false;
    }

    pub(super) fn is_open(&self) -> bool {
        self.is_open
    }

    /// There is a new client, and the one before has told of all that it had.
    pub(super) fn open(&mut self) {
        self.next = 0;
        self.is_open = true;
    }

    pub(super) fn len(&self) -> usize {
        self.unanswered.len()
    }

    /// Takes all of them out.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = T> + use<T> {
        std::mem::take(&mut self.unanswered).into_values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proptest::test_runner::{Config, TestRunner};
    use std::collections::VecDeque;

    #[derive(Debug, Clone)]
    enum Op {
        /// A key.
        Offer(u8),
        /// The client takes so many.
        Give(usize),
        /// The broker stores the first, and the answer comes.
        Store,
        /// The broker stores the first, and the answer is lost.
        StoreUnheard,
        /// The broker refuses the first.
        Refuse,
        /// The client is given up: what it had without an answer comes back, and there is a new one.
        Fail,
    }

    fn ops() -> impl Strategy<Value = Vec<Op>> {
        let op = prop_oneof![
            5 => (0..3_u8).prop_map(Op::Offer),
            4 => (1..4_usize).prop_map(Op::Give),
            3 => Just(Op::Store),
            1 => Just(Op::StoreUnheard),
            1 => Just(Op::Refuse),
            1 => Just(Op::Fail),
        ];
        prop::collection::vec(op, 1..80)
    }

    /// `is_faulty` plants a client that is replaced while one publish that came back is skipped once.
    fn run(ops: Vec<Op>, is_faulty: bool) -> Result<(), TestCaseError> {
        let mut publishes = Publishes::new();
        publishes.open();
        let (mut calls, mut client, mut log) =
            (0_usize, VecDeque::<(Number, (usize, u8))>::new(), Vec::new());
        // Behind the first one whose answer was lost, none is heard of.
        let (mut is_deaf, mut answered, mut skipped) = (false, Vec::new(), None);
        let end = [Op::Fail].into_iter().chain([Op::Give(1_000), Op::Store].into_iter().cycle().take(400));
        for op in ops.into_iter().chain(end) {
            match op {
                Op::Offer(key) => {
                    publishes.offer((calls, key));
                    calls += 1;
                }
                Op::Give(n) => {
                    for _ in 0..n {
                        let Some((number, publish)) = publishes.next() else { break };
                        let publish = *publish;
                        publishes.given(number);
                        if is_faulty && skipped.is_none() && publish.0 == 3 {
                            skipped = Some((number, publish));
                        } else {
                            client.push_back((number, publish));
                        }
                        client.extend(skipped.take_if(|(_, skipped)| skipped.0 + 3 < publish.0));
                    }
                }
                Op::Store | Op::Refuse | Op::StoreUnheard => {
                    if let Some((number, publish)) = client.pop_front() {
                        is_deaf |= matches!(op, Op::StoreUnheard);
                        if !matches!(op, Op::Refuse) {
                            log.push(publish);
                        }
                        if is_deaf {
                            client.push_back((number, publish));
                        } else if let Some((publish, ())) =
                            publishes.ended(number, DeliveryReport::Answered(()))
                        {
                            answered.push(publish.0);
                        }
                    }
                    if is_deaf {
                        // Its connection is gone, so it is given up.
                        fail(&mut publishes, &mut client, &mut is_deaf);
                    }
                }
                Op::Fail => fail(&mut publishes, &mut client, &mut is_deaf),
            }
        }
        prop_assert_eq!(publishes.len(), 0, "something has no answer");
        answered.sort_unstable();
        prop_assert_eq!(answered, (0..calls).collect::<Vec<_>>(), "each has one answer");
        // A first copy never stands behind the first copy of a later call of its key.
        for key in 0..3 {
            let mut newest = None;
            for &(call, _) in log.iter().filter(|(_, k)| *k == key) {
                let is_repeat = log.iter().filter(|(c, _)| *c == call).count() > 1;
                prop_assert!(is_repeat || newest.is_none_or(|newest| newest < call), "{:?}", log);
                newest = newest.max(Some(call));
            }
        }
        Ok(())
    }

    fn fail(
        publishes: &mut Publishes<(usize, u8)>,
        client: &mut VecDeque<(Number, (usize, u8))>,
        is_deaf: &mut bool,
    ) {
        publishes.close();
        for (number, _) in client.drain(..) {
            assert!(publishes.ended(number, DeliveryReport::<()>::Returned).is_none());
        }
        assert!(publishes.next().is_none(), "a client that is given up is given nothing");
        *is_deaf = false;
        publishes.open();
    }

    proptest! {
        #[test]
        fn each_key_is_stored_in_the_order_of_the_calls_through_failing_clients(ops in ops()) {
            run(ops, false)?;
        }
    }

    #[test]
    fn the_property_finds_a_publish_that_is_given_behind_a_later_one() {
        let config = Config { failure_persistence: None, max_shrink_iters: 0, ..Config::default() };
        assert!(TestRunner::new(config).run(&ops(), |ops| run(ops, true)).is_err());
    }
}
