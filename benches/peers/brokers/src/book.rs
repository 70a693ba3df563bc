//! Which records were handled, written down so that a SIGKILL takes nothing of it back.

use crate::record::{KEYS, Keys};
use measure::{Check, Tally};
use rustix::process::{Signal, getpid, kill_process};
use std::fs::{File, OpenOptions};
use std::io::{Result, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Bytes of an entry, which is the number of a record in its topic.
const ENTRY: usize = size_of::<u64>();

/// A file that several processes append to, one after the other. What `write` took belongs to the system, whatever
/// becomes of the process; entries of eight bytes are whole, and in the order in which handlers ended.
#[derive(Debug)]
pub(crate) struct Book {
    file: File,
    keys: Keys,
    /// Of each record, whether any process has handled it.
    is_handled: Box<[AtomicBool]>,
    /// Records that were handled before this process opened the book.
    inherited: u64,
    /// Those that this process was the first to handle.
    new: AtomicU64,
    /// How often this process handled any.
    own: AtomicU64,
    dies_after: Option<u64>,
}

impl Book {
    /// Begins the book of a topic, for a process that kills itself after so many records, or opens it for the last one,
    /// which takes it along.
    ///
    /// # Errors
    /// If the file can't be written or read.
    pub(crate) fn open(path: &Path, keys: Keys, records: u64, dies_after: Option<u64>) -> Result<Self> {
        let file = OpenOptions::new().create(true).read(true).append(true).open(path)?;
        if dies_after.is_none() {
            std::fs::remove_file(path)?;
        }
        let is_handled: Box<[AtomicBool]> = (0..records).map(|_| AtomicBool::new(false)).collect();
        // ORDERING: Relaxed; nobody else has it yet.
        let is_first = |index: &u64| !is_handled[*index as usize].swap(true, Ordering::Relaxed);
        let inherited = entries(&file)?.into_iter().filter(is_first).count() as u64;
        let (new, own) = (AtomicU64::new(0), AtomicU64::new(0));
        Ok(Self { file, keys, is_handled, inherited, new, own, dies_after })
    }

    /// Writes down that the handler of a record has ended.
    ///
    /// # Panics
    /// If the file can't be written: then the run says nothing.
    pub(crate) fn handled(&self, index: u64) {
        (&self.file).write_all(&index.to_le_bytes()).expect("the book can be written");
        // ORDERING: Relaxed, all three; each is one word, which orders nothing else.
        if !self.is_handled[index as usize].swap(true, Ordering::Relaxed) {
            self.new.fetch_add(1, Ordering::Relaxed);
        }
        if Some(self.own.fetch_add(1, Ordering::Relaxed) + 1) == self.dies_after {
            kill_process(getpid(), Signal::KILL).expect("a process may kill itself");
        }
    }

    /// Records that any process has handled.
    pub(crate) fn records(&self) -> u64 {
        // ORDERING: Relaxed; a look at a counter that others raise.
        self.inherited + self.new.load(Ordering::Relaxed)
    }

    /// How often this process handled any.
    pub(crate) fn own(&self) -> u64 {
        // ORDERING: Relaxed; as above.
        self.own.load(Ordering::Relaxed)
    }

    /// What all processes together made of the topic.
    ///
    /// # Errors
    /// If the file can't be read.
    pub(crate) fn tally(&self) -> Result<Tally> {
        let marks: Vec<_> = self.keys.marks(self.is_handled.len() as u64).collect();
        let check = Check::new(KEYS, |_| 0);
        for index in entries(&self.file)? {
            let mark = marks[index as usize];
            check.handled_concurrently(mark.key, mark.seq);
        }
        Ok(check.tally(marks.len() as u64))
    }
}

fn entries(file: &File) -> Result<Vec<u64>> {
    let mut bytes = vec![0; file.metadata()?.len() as usize];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes.as_chunks::<ENTRY>().0.iter().map(|entry| u64::from_le_bytes(*entry)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tally of two processes that handle these records of ten, and what the second one knows at its end.
    fn two(name: &str, first: &[u64], second: &[u64]) -> (Tally, [u64; 3]) {
        let path = std::env::temp_dir().join(crate::unique(name));
        let open =
            |dies_after| Book::open(&path, Keys::Zipf, 10, dies_after).expect("the folder can be written");
        let died = open(Some(u64::MAX));
        first.iter().for_each(|index| died.handled(*index));
        drop(died);
        let lived = open(None);
        second.iter().for_each(|index| lived.handled(*index));
        let known = [lived.inherited, lived.records(), lived.own()];
        assert!(!path.exists(), "the last one takes the book along");
        (lived.tally().expect("it can be read"), known)
    }

    #[test]
    fn what_two_processes_have_handled_is_counted_as_such() {
        let (tally, known) = two("both", &[0, 1, 2, 3, 5], &[2, 3, 4, 6, 7, 8, 9]);
        assert_eq!((tally, known), (Tally { duplicated: 2, ..tally }, [5, 10, 7]));
        assert_eq!(tally.lost, 0);
    }

    #[test]
    fn what_none_of_them_has_handled_is_lost() {
        let (tally, known) = two("none", &[0, 1, 2], &[4, 5, 6, 7, 8, 9]);
        assert_eq!((tally.lost, tally.duplicated, known), (1, 0, [3, 9, 6]));
    }

    #[test]
    fn a_record_behind_a_later_one_of_its_key_is_out_of_order_also_across_processes() {
        let marks: Vec<_> = Keys::Zipf.marks(10).collect();
        let later = marks.iter().find(|mark| mark.seq == 2).expect("of ten, two have one key").index;
        let (first, rest): (Vec<u64>, Vec<u64>) = (0..10).partition(|index| *index == later);
        let (tally, _) = two("behind", &first, &rest);
        assert_eq!((tally.out_of_order, tally.lost, tally.duplicated), (1, 0, 0));
    }
}
