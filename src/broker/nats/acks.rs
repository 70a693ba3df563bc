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

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
