//! Which of the ids that brokers say of a topic is the one that it has now.

use crate::broker::LogId;

/// How many former ids are kept: no broker is behind by so many makings of a topic.
const KEPT: usize = 16;

/// The ids of one topic.
///
/// A topic that is made anew has an id that was never heard of before. A former one that is heard of again comes from a broker
/// that does not know yet; and so may one that is new here alone, so that it is believed when it is said twice in a row.
#[derive(Debug, Default)]
pub(super) struct Ids {
    current: Option<LogId>,
    former: Vec<LogId>,
    doubted: Option<LogId>,
}

impl Ids {
    /// Takes note of what a broker says. True: it is to be asked again.
    pub(super) fn said(&mut self, id: LogId) -> bool {
        let is_doubted = self.doubted.take() == Some(id);
        match self.current {
            None => self.current = Some(id),
            Some(current) if current == id || self.former.contains(&id) => {}
            Some(current) if is_doubted => {
                if self.former.len() == KEPT {
                    self.former.remove(0);
                }
                self.former.push(current);
                self.current = Some(id);
            }
            Some(_) => {
                self.doubted = Some(id);
                return true;
            }
        }
        false
    }

    pub(super) fn current(&self) -> Option<LogId> {
        self.current
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: i64) -> LogId {
        LogId::from_halves(0, n).unwrap()
    }

    #[test]
    fn a_topic_that_is_made_anew_is_told_from_a_broker_that_does_not_know_yet() {
        let mut ids = Ids::default();
        assert_eq!(ids.current(), None);
        for (said, is_doubted, current) in [
            (1, false, 1),
            (1, false, 1),
            (2, true, 1),
            (1, false, 1),
            (2, true, 1),
            (2, false, 2),
            (1, false, 2),
            (1, false, 2),
            (3, true, 2),
            (3, false, 3),
            (2, false, 3),
            (2, false, 3),
        ] {
            assert_eq!((ids.said(id(said)), ids.current()), (is_doubted, Some(id(current))), "{said}");
        }
    }

    #[test]
    fn a_topic_that_is_made_anew_for_ever_takes_no_more_room() {
        let mut ids = Ids::default();
        for n in 1..100 {
            ids.said(id(n));
            ids.said(id(n));
        }
        assert_eq!((ids.former.len(), ids.current()), (KEPT, Some(id(99))));
    }
}
