//! The publishes that have no answer yet, in the order of the calls: a state machine without a client in it.
//!
//! What the client was given is a beginning of them, so what is given next never overtakes anything. When a client is
//! given up, all that has no answer is given to the next one again, in the same order. What was stored already is there
//! twice then, also what was stored ahead of something that was not: the last copies of a key are in the order of the
//! calls.

use crate::broker::{PublishFault, Stored};
use std::collections::BTreeMap;

/// A publish, in the order of the calls.
pub(super) type Number = usize;

/// What became of a publish that the client was given.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum DeliveryReport {
    Stored(Stored),
    /// Refused for good.
    Refused(PublishFault),
    /// The client does not know, for this reason: it gave the publish up, or takes it for stored by what became of a
    /// later one. The client is given up.
    Returned(String),
}

#[derive(Debug)]
pub(super) struct Publishes<T> {
    last: Number,
    unanswered: BTreeMap<Number, T>,
    /// The client has all below.
    next: Number,
    /// There is a client that takes publishes.
    is_open: bool,
    /// The first that came back from this client, and why.
    returned: Option<(Number, String)>,
}

impl<T> Publishes<T> {
    pub(super) fn new() -> Self {
        Self { last: 0, unanswered: BTreeMap::new(), next: 0, is_open: false, returned: None }
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
    pub(super) fn ended(
        &mut self,
        number: Number,
        report: DeliveryReport,
    ) -> Option<(T, Result<Stored, PublishFault>)> {
        let answer = match report {
            DeliveryReport::Stored(stored) => {
                // It stands ahead of an earlier one that came back, so it is sent again behind that.
                let is_ahead = self.returned.as_ref().is_some_and(|(first, _)| *first < number);
                (!is_ahead).then_some(Ok(stored))?
            }
            DeliveryReport::Refused(fault) => Err(fault),
            // Whatever the reason is, nothing may pass it.
            DeliveryReport::Returned(reason) => {
                self.is_open = false;
                if self.returned.as_ref().is_none_or(|(first, _)| number < *first) {
                    self.returned = Some((number, reason));
                }
                return None;
            }
        };
        Some((self.unanswered.remove(&number)?, answer))
    }

    /// Why the first one came back that this client did.
    pub(super) fn reason(&self) -> Option<&str> {
        self.returned.as_ref().map(|(_, reason)| reason.as_str())
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
        self.returned = None;
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
        /// The broker refuses the first for now and stores the second, from which the client takes the first for stored.
        TakeForStored,
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
            1 => Just(Op::TakeForStored),
            1 => Just(Op::Fail),
        ];
        prop::collection::vec(op, 1..80)
    }

    /// What is planted.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Fault {
        None,
        /// A publish is given behind later ones.
        GivenLate,
        /// The client is believed where it takes a publish for stored.
        Believed,
    }

    const STORED: DeliveryReport = DeliveryReport::Stored(Stored { partition: 0, offset: 0 });

    fn run(ops: Vec<Op>, fault: Fault) -> Result<(), TestCaseError> {
        let mut publishes = Publishes::new();
        publishes.open();
        let (mut calls, mut client, mut log) =
            (0_usize, VecDeque::<(Number, (usize, u8))>::new(), Vec::new());
        // Behind the first one whose answer was lost, none is heard of.
        let (mut is_deaf, mut answered, mut skipped) = (false, Vec::new(), None);
        let mut told_stored = Vec::new();
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
                        if fault == Fault::GivenLate && skipped.is_none() && publish.0 == 3 {
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
                        let is_refused = matches!(op, Op::Refuse);
                        if !is_refused {
                            log.push(publish);
                        }
                        if is_deaf {
                            client.push_back((number, publish));
                        } else {
                            let refused = DeliveryReport::Refused(PublishFault::Permanent("no".to_owned()));
                            let report = if is_refused { refused } else { STORED };
                            let ended = publishes.ended(number, report);
                            answered.extend(ended.iter().map(|(publish, _)| publish.0));
                            told_stored.extend(
                                ended.filter(|(_, answer)| answer.is_ok()).map(|(publish, _)| publish),
                            );
                        }
                    }
                    if is_deaf {
                        // Its connection is gone, so it is given up.
                        fail(&mut publishes, &mut client, &mut is_deaf);
                    }
                }
                Op::TakeForStored if client.len() > 1 => {
                    let (first, second) = (client.pop_front().unwrap(), client.pop_front().unwrap());
                    log.push(second.1);
                    let unknown = DeliveryReport::Returned("without its place".to_owned());
                    let report = if fault == Fault::Believed { STORED } else { unknown };
                    for (number, report) in [(first.0, report), (second.0, STORED)] {
                        let ended = publishes.ended(number, report);
                        answered.extend(ended.iter().map(|(publish, _)| publish.0));
                        told_stored.extend(ended.map(|(publish, _)| publish));
                    }
                    if fault != Fault::Believed {
                        prop_assert_eq!(publishes.reason(), Some("without its place"));
                        fail(&mut publishes, &mut client, &mut is_deaf);
                    }
                }
                Op::TakeForStored => {}
                Op::Fail => fail(&mut publishes, &mut client, &mut is_deaf),
            }
        }
        prop_assert_eq!(publishes.len(), 0, "something has no answer");
        answered.sort_unstable();
        prop_assert_eq!(answered, (0..calls).collect::<Vec<_>>(), "each has one answer");
        // The last copies of what is told to be stored are, for each key, in the order of the calls.
        told_stored.sort_unstable();
        for key in 0..3 {
            let calls = told_stored.iter().filter(|(_, k)| *k == key);
            let last = |(call, _): &(usize, u8)| log.iter().rposition(|(stored, _)| stored == call);
            let places: Vec<_> = calls.map(last).collect();
            prop_assert!(
                places.iter().all(Option::is_some) && places.is_sorted(),
                "{:?} of {:?}",
                places,
                log
            );
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
            let returned = DeliveryReport::Returned("purged".to_owned());
            assert!(publishes.ended(number, returned).is_none());
        }
        assert!(publishes.next().is_none(), "a client that is given up is given nothing");
        *is_deaf = false;
        publishes.open();
    }

    proptest! {
        #[test]
        fn each_key_is_stored_in_the_order_of_the_calls_through_failing_clients(ops in ops()) {
            run(ops, Fault::None)?;
        }
    }

    #[test]
    fn the_property_finds_a_publish_that_is_given_late_and_one_that_is_believed() {
        for fault in [Fault::GivenLate, Fault::Believed] {
            let config = Config { failure_persistence: None, max_shrink_iters: 0, ..Config::default() };
            assert!(TestRunner::new(config).run(&ops(), |ops| run(ops, fault)).is_err(), "{fault:?}");
        }
    }
}
