//! Who handles what when, judged record by record.

use super::Checked;
use std::collections::HashMap;
use std::sync::Mutex;

/// The book that handlers write into: for each key the number that comes next, and who is at it.
#[derive(Default)]
pub struct Book(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    keys: HashMap<String, Page>,
    violation: Option<String>,
    repeats: u64,
    starts: u64,
}

#[derive(Default)]
struct Page {
    running: u32,
    next: u64,
}

impl Book {
    /// A handler starts.
    pub fn begin(&self, key: &str, n: u64) {
        let mut book = self.0.lock().unwrap();
        book.starts += 1;
        let page = book.keys.entry(key.to_owned()).or_default();
        page.running += 1;
        let (running, next) = (page.running, page.next);
        if running > 1 {
            book.violation.get_or_insert(format!("{running} handlers at once for key {key}, at number {n}"));
        }
        if n > next {
            book.violation.get_or_insert(format!("number {n} of {key} started before {next} was over"));
        }
        book.repeats += u64::from(n < next);
    }

    /// The handler has ended; with `is_over` the record will not be attempted again.
    pub fn end(&self, key: &str, n: u64, is_over: bool) {
        let mut book = self.0.lock().unwrap();
        let page = book.keys.get_mut(key).expect("it has begun");
        page.running -= 1;
        if is_over && n == page.next {
            page.next += 1;
        }
    }

    /// An effect that is complete at once, of a handler that may be left behind by a crash.
    pub fn effect(&self, key: &str, n: u64) {
        let mut book = self.0.lock().unwrap();
        let next = &mut book.keys.entry(key.to_owned()).or_default().next;
        let expected = *next;
        *next += u64::from(n == expected);
        book.repeats += u64::from(n < expected);
        if n > expected {
            book.violation.get_or_insert(format!("number {n} of {key} took effect before {expected}"));
        }
    }

    /// How many records are over.
    pub fn over(&self) -> u64 {
        self.0.lock().unwrap().keys.values().map(|page| page.next).sum()
    }

    pub fn starts(&self) -> u64 {
        self.0.lock().unwrap().starts
    }

    pub fn repeats(&self) -> u64 {
        self.0.lock().unwrap().repeats
    }

    pub fn has_violation(&self) -> bool {
        self.0.lock().unwrap().violation.is_some()
    }

    pub fn verdict(&self) -> Checked {
        self.0.lock().unwrap().violation.clone().map_or(Ok(()), Err)
    }
}
