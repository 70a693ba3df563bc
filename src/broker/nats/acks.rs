//! Which acknowledgements the server is known to have: a state machine without clocks or sockets.
//!
//! An acknowledgement is a message like any other, and is lost with its connection. The server handles those of one
//! connection in their order, so an answer to one of them says that it has all before it, too. Until then they are
//! kept, and sent again over the next connection.

use std::collections::VecDeque;

/// Acknowledgements that may be lost. `A` says where one is sent to.
#[derive(Debug)]
pub(super) struct Acks<A> {
    /// By number, rising by one.
    unconfirmed: VecDeque<A>,
    /// The number of the first of them.
    first: u64,
}

impl<A> Acks<A> {
    pub(super) fn new() -> Self {
        Self { unconfirmed: VecDeque::new(), first: 1 }
    }

    /// One is sent; its number.
    pub(super) fn push(&mut self, ack: A) -> u64 {
        self.unconfirmed.push_back(ack);
        self.last()
    }

    /// The number of the last one sent; 0: none was.
    pub(super) fn last(&self) -> u64 {
        self.first + self.unconfirmed.len() as u64 - 1
    }

    pub(super) fn len(&self) -> usize {
        self.unconfirmed.len()
    }

    /// Whether the server has all up to this number.
    pub(super) fn is_confirmed(&self, number: u64) -> bool {
        number < self.first
    }

    /// The server has answered to the one of this number.
    pub(super) fn confirm(&mut self, number: u64) {
        while self.first <= number && self.unconfirmed.pop_front().is_some() {
            self.first += 1;
        }
    }

    /// All that the server is not known to have, in their order.
    pub(super) fn unconfirmed(&self) -> impl ExactSizeIterator<Item = &A> {
        self.unconfirmed.iter()
    }

    pub(super) fn newest(&self) -> Option<&A> {
        self.unconfirmed.back()
    }
}

/// Acknowledgements, until the server's floor has passed them.
///
/// That an answer speaks for all before it holds for one leader of the consumer. What is sent while there is none goes to
/// nobody, and the next leader answers to what comes behind.
#[derive(Debug)]
pub(super) struct Believed<A> {
    kept: Vec<(u64, A)>,
}

impl<A: Clone> Believed<A> {
    pub(super) fn new() -> Self {
        Self { kept: Vec::new() }
    }

    pub(super) fn push(&mut self, sequence: u64, ack: A) {
        self.kept.push((sequence, ack));
    }

    pub(super) fn len(&self) -> usize {
        self.kept.len()
    }

    pub(super) fn clear(&mut self) {
        self.kept.clear();
    }

    /// What may be missing there: the server has all up to its floor, and here nothing below `pending` is without an
    /// acknowledgement that was answered for.
    pub(super) fn missing(&mut self, floor: u64, pending: u64) -> Vec<A> {
        self.kept.retain(|(sequence, _)| *sequence > floor);
        self.kept.iter().filter(|(sequence, _)| *sequence < pending).map(|(_, ack)| ack.clone()).collect()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Each record is in hand, acknowledged, or acknowledged to nobody.
        #[test]
        fn what_reached_nobody_is_found_as_soon_as_nothing_before_it_is_pending(
            records in prop::collection::vec(0..3_u8, 1..40)
        ) {
            let mut believed = Believed::new();
            let with = |kind: &dyn Fn(u8) -> bool| -> Vec<u64> {
                (1..).zip(&records).filter(|(_, record)| kind(**record)).map(|(sequence, _)| sequence).collect()
            };
            let acknowledged = with(&|record| record > 0);
            acknowledged.iter().for_each(|sequence| believed.push(*sequence, *sequence));
            let in_hand = with(&|record| record == 0).first().copied().unwrap_or(u64::MAX);
            let open_there = with(&|record| record != 1);
            let floor = open_there.first().map_or(records.len() as u64, |sequence| sequence - 1);
            let missing = believed.missing(floor, in_hand);
            let lost = with(&|record| record == 2);
            let to_find = lost.iter().copied().filter(|sequence| *sequence < in_hand);
            prop_assert!(to_find.clone().all(|sequence| missing.contains(&sequence)), "{missing:?}");
            prop_assert_eq!(missing.is_empty(), to_find.count() == 0, "nothing is sent again without need");
            prop_assert!(lost.iter().all(|sequence| believed.kept.contains(&(*sequence, *sequence))));
            prop_assert!(believed.kept.iter().all(|(sequence, _)| *sequence > floor));
        }
    }

    #[derive(Debug, Clone)]
    enum Op {
        Send,
        /// Answers to one of those sent, old answers among them.
        Confirm(u64),
    }

    proptest! {
        #[test]
        fn what_is_not_confirmed_is_kept_in_its_order(
            ops in prop::collection::vec(prop_oneof![Just(Op::Send), (0_u64..30).prop_map(Op::Confirm)], 0..60),
        ) {
            let (mut acks, mut sent, mut confirmed) = (Acks::new(), 0_u64, 0_u64);
            for op in ops {
                match op {
                    Op::Send => {
                        sent += 1;
                        prop_assert_eq!(acks.push(sent), sent);
                    }
                    Op::Confirm(number) => {
                        let number = number.min(sent);
                        acks.confirm(number);
                        confirmed = confirmed.max(number);
                    }
                }
                let kept: Vec<u64> = acks.unconfirmed().copied().collect();
                prop_assert_eq!(kept, (confirmed + 1..=sent).collect::<Vec<_>>());
                prop_assert_eq!(acks.last(), sent);
                prop_assert_eq!(acks.len() as u64, sent - confirmed);
                prop_assert_eq!(acks.newest().copied(), (sent > confirmed).then_some(sent));
                prop_assert!((1..=sent).all(|number| acks.is_confirmed(number) == (number <= confirmed)));
            }
        }
    }
}
