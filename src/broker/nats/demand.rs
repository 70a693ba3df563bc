//! How many messages to ask a server for: a state machine without clocks or sockets.
//!
//! What is asked for comes without further question, so that it bounds what has to be kept here. The server says of
//! each request that ends how much of it did not come.

/// What is kept here at most before somebody takes it, and a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Amount {
    pub(super) records: usize,
    pub(super) bytes: usize,
}

#[derive(Debug)]
pub(super) struct Demand {
    limit: Amount,
    asked: Amount,
    /// Came and was not taken yet.
    waiting: Amount,
    /// The next message alone is larger than a request was.
    is_next_large: bool,
}

impl Demand {
    pub(super) fn new(limit: Amount) -> Self {
        Self { limit, asked: Amount::NONE, waiting: Amount::NONE, is_next_large: false }
    }

    /// What to ask for now, if anything: when half of the room is free, so that requests are few and something is
    /// always asked for while there is room. `extra` records may come although there is none.
    pub(super) fn next(&mut self, extra: usize) -> Option<Request> {
        let free =
            |limit: usize, asked: usize, waiting: usize| limit.saturating_sub(asked.saturating_add(waiting));
        let records = free(self.limit.records, self.asked.records, self.waiting.records);
        let bytes = free(self.limit.bytes, self.asked.bytes, self.waiting.bytes);
        if self.is_next_large {
            // Alone: with it there is more here than there may be, but something has to come.
            if self.asked.records > 0 || (self.waiting.records > 0 && extra == 0) {
                return None;
            }
            self.asked.records = 1;
            return Some(Request { records: 1, bytes: None });
        }
        let is_idle = self.asked.records == 0;
        let has_room = records > 0 && bytes > 0;
        if has_room && (is_idle || (records * 2 >= self.limit.records && bytes * 2 >= self.limit.bytes)) {
            self.asked.records += records;
            self.asked.bytes += bytes;
            return Some(Request { records, bytes: Some(bytes) });
        }
        if is_idle && extra > 0 {
            self.asked.records = extra;
            return Some(Request { records: extra, bytes: None });
        }
        None
    }

    /// A message came.
    pub(super) fn arrived(&mut self, bytes: usize) {
        self.asked.records = self.asked.records.saturating_sub(1);
        self.asked.bytes = if self.asked.records == 0 { 0 } else { self.asked.bytes.saturating_sub(bytes) };
        self.is_next_large = false;
    }

    /// A message that came is kept until it is taken.
    pub(super) fn waits(&mut self, bytes: usize) {
        self.waiting.records += 1;
        self.waiting.bytes += bytes;
    }

    /// So much of what waited was taken.
    pub(super) fn taken(&mut self, taken: Amount) {
        self.waiting.records = self.waiting.records.saturating_sub(taken.records);
        self.waiting.bytes = self.waiting.bytes.saturating_sub(taken.bytes);
    }

    /// A request has ended, and so much of it did not come.
    pub(super) fn ended(&mut self, missing: Amount, is_next_large: bool) {
        self.asked.records = self.asked.records.saturating_sub(missing.records);
        self.asked.bytes =
            if self.asked.records == 0 { 0 } else { self.asked.bytes.saturating_sub(missing.bytes) };
        self.is_next_large = is_next_large;
    }

    /// Nothing of what was asked for comes any more.
    pub(super) fn forget(&mut self) {
        self.asked = Amount::NONE;
    }

    pub(super) fn is_asking(&self) -> bool {
        self.asked.records > 0
    }
}

/// What to ask for; without a number of bytes of any size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) records: usize,
    pub(super) bytes: Option<usize>,
}

impl Amount {
    pub(super) const NONE: Self = Self { records: 0, bytes: 0 };
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    #[derive(Debug, Clone)]
    enum Op {
        Publish(usize),
        Deliver(usize),
        Take(usize),
        Expire,
        Reset,
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            4 => (1_usize..60).prop_map(Op::Publish),
            4 => (0_usize..8).prop_map(Op::Deliver),
            3 => (0_usize..8).prop_map(Op::Take),
            1 => Just(Op::Expire),
            1 => Just(Op::Reset),
        ]
    }

    const LIMIT: Amount = Amount { records: 6, bytes: 100 };

    proptest! {
        /// Against a server that fills requests in their order, as far as their bytes go.
        #[test]
        fn all_comes_and_no_more_than_there_is_room_for(ops in prop::collection::vec(op(), 0..80)) {
            let mut demand = Demand::new(LIMIT);
            let (mut stream, mut requests, mut here) = (VecDeque::new(), VecDeque::<Request>::new(), VecDeque::new());
            let (mut published, mut taken) = (0, 0);
            let settle = [Op::Deliver(8), Op::Take(8)].into_iter().cycle().take(400);
            for op in ops.into_iter().chain(settle) {
                match op {
                    Op::Publish(bytes) => {
                        published += 1;
                        // Now and then one that is larger than all that there is room for.
                        stream.push_back(if bytes > 55 { bytes * 3 } else { bytes });
                    }
                    Op::Deliver(n) => for _ in 0..n {
                        let (Some(request), Some(&bytes)) = (requests.front_mut(), stream.front()) else { break };
                        if request.bytes.is_some_and(|room| room < bytes) {
                            let missing = Amount { records: request.records, bytes: request.bytes.unwrap_or(0) };
                            requests.pop_front();
                            demand.ended(missing, true);
                            break;
                        }
                        stream.pop_front();
                        request.records -= 1;
                        request.bytes = request.bytes.map(|room| room - bytes);
                        if request.records == 0 { requests.pop_front(); }
                        here.push_back(bytes);
                        demand.arrived(bytes);
                        demand.waits(bytes);
                    },
                    Op::Take(n) => {
                        let came: Vec<usize> = here.drain(..n.min(here.len())).collect();
                        taken += came.len();
                        demand.taken(Amount { records: came.len(), bytes: came.iter().sum() });
                    }
                    Op::Expire => if let Some(Request { records, bytes }) = requests.pop_front() {
                        demand.ended(Amount { records, bytes: bytes.unwrap_or(0) }, false);
                    },
                    Op::Reset => {
                        requests.clear();
                        demand.forget();
                    }
                }
                while let Some(request) = demand.next(0) {
                    requests.push_back(request);
                    prop_assert!(requests.len() < 20, "it asks without end");
                }
                prop_assert!(here.len() <= LIMIT.records, "{} wait", here.len());
                let bytes: usize = here.iter().sum();
                prop_assert!(bytes <= LIMIT.bytes || here.len() == 1 || here.iter().rev().skip(1).sum::<usize>() <= LIMIT.bytes);
            }
            prop_assert_eq!(taken, published, "something never came");
        }
    }

    #[test]
    fn what_was_given_back_comes_although_there_is_no_room() {
        let mut demand = Demand::new(LIMIT);
        while demand.next(0).is_some() {}
        (0..LIMIT.records).for_each(|_| {
            demand.arrived(1);
            demand.waits(1);
        });
        assert_eq!(demand.next(0), None);
        assert_eq!(demand.next(2), Some(Request { records: 2, bytes: None }));
    }
}
