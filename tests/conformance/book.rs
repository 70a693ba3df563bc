//! That the book which judges the order finds what it is for.

use crate::support::order::Book;

#[test]
fn two_handlers_of_a_key_at_once_are_a_violation() {
    let book = Book::default();
    book.begin("a", 0);
    book.begin("b", 0);
    assert!(book.verdict().is_ok());
    book.begin("a", 0);
    assert!(book.verdict().is_err());
}

#[test]
fn a_later_record_that_starts_early_is_a_violation_and_a_repeat_is_none() {
    let book = Book::default();
    for (n, is_over) in [(0, false), (0, true), (0, true), (1, true)] {
        book.begin("a", n);
        book.end("a", n, is_over);
    }
    assert_eq!((book.over(), book.repeats(), book.verdict()), (2, 1, Ok(())));
    book.begin("a", 3);
    assert!(book.verdict().is_err());
}

#[test]
fn an_effect_before_its_turn_is_a_violation() {
    let book = Book::default();
    book.effect("a", 0);
    book.effect("a", 0);
    assert!(book.verdict().is_ok());
    book.effect("a", 2);
    assert!(book.verdict().is_err());
}
