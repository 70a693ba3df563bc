//! Counts the records that were removed before anybody was handed them: a state machine without clocks or sockets.
//!
//! A server hands out what a stream has, in its order, and passes over what it has no more: a gap between one record
//! and the next is what was removed before it was delivered. What was delivered, lost on its way and removed before it
//! came again is a gap in what the gate hands out when it opens.

use std::ops::Range;

#[derive(Debug, Default)]
pub(super) struct Unseen {
    /// The first that is not accounted for; none: it has not begun.
    next: Option<u64>,
    /// From the first to the last that nobody was handed, and how many of these.
    gone: Option<(Range<u64>, u64)>,
}

impl Unseen {
    /// What comes behind this one is to be accounted for; what was before is the business of earlier owners.
    pub(super) fn begin(&mut self, behind: u64) {
        self.next.get_or_insert(behind + 1);
    }

    /// One is handed out.
    pub(super) fn handed_out(&mut self, sequence: u64) {
        self.passed(sequence);
        if let Some(next) = &mut self.next {
            *next = (*next).max(sequence + 1);
        }
    }

    /// Everything up to this one was handed out, or is not there any more.
    pub(super) fn reached(&mut self, sequence: u64) {
        self.passed(sequence + 1);
    }

    /// What comes before this one and was not handed out never will be.
    fn passed(&mut self, sequence: u64) {
        let Some(next) = &mut self.next else { return };
        if *next < sequence {
            let (range, count) = self.gone.get_or_insert((*next..*next, 0));
            range.end = sequence;
            *count += sequence - *next;
            *next = sequence;
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.gone.is_none()
    }

    /// What was found to be gone since it was asked for the last time.
    pub(super) fn take(&mut self) -> Option<(Range<u64>, u64)> {
        self.gone.take()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::Unseen;

    #[test]
    fn what_is_passed_over_is_counted_once() {
        let mut unseen = Unseen::default();
        unseen.handed_out(3);
        unseen.reached(9);
        assert!(unseen.is_empty(), "it has not begun");
        unseen.begin(10);
        unseen.begin(20);
        unseen.handed_out(11);
        assert!(unseen.is_empty());
        unseen.handed_out(14);
        unseen.handed_out(11);
        unseen.handed_out(15);
        unseen.handed_out(17);
        assert_eq!(unseen.take(), Some((12..17, 3)), "12, 13 and 16");
        unseen.reached(17);
        assert_eq!(unseen.take(), None);
        unseen.reached(20);
        unseen.handed_out(21);
        assert_eq!(unseen.take(), Some((18..21, 3)));
    }
}
