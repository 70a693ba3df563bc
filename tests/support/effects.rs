//! Of keys of the configuration, that each changes what the bus does.

use std::fmt::Debug;

/// What a key is said to change: the key, its value, what else is set under both, and what is seen.
pub struct Effect {
    pub key: &'static str,
    pub value: fn() -> String,
    pub besides: fn() -> String,
    /// What is seen without the key, and with it.
    pub see: fn(&str) -> String,
    pub without: &'static str,
    pub with: &'static str,
}

/// Nothing besides.
pub fn none() -> String {
    String::new()
}

pub fn text(value: impl Debug) -> String {
    format!("{value:?}")
}

/// What was seen, as soon as it is what is expected. A machine that is busy may make an observation by the clock come
/// out otherwise now and then, a key that does nothing always.
pub fn seen(expected: &str, see: impl Fn() -> String) -> String {
    let mut seen = see();
    for _ in 1..5 {
        if seen == expected {
            break;
        }
        seen = see();
    }
    seen
}

/// Proves the documented keys of a section, all of them and in their order.
pub fn prove(section: &str, effects: &[Effect]) {
    let documented: Vec<&str> = (include_str!("../../src/config/keys.md").lines().skip(2))
        .map(|row| row.split('`').nth(1).expect("a row begins with its key"))
        .filter(|key| key.starts_with(section))
        .collect();
    assert_eq!(effects.iter().map(|effect| effect.key).collect::<Vec<_>>(), documented);
    for Effect { key, value, besides, see, without, with } in effects {
        let (value, besides) = (value(), besides());
        assert_eq!(seen(without, || see(&besides)), *without, "without `{key}`");
        let set = format!("{besides}\n{key} = {value}");
        assert_eq!(seen(with, || see(&set)), *with, "with `{key} = {value}`");
    }
}
