//! Of keys of the configuration that only a real broker knows, that each changes what the bus does.

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

/// Proves the documented keys of a section, all of them and in their order.
pub fn prove(section: &str, effects: &[Effect]) {
    let documented: Vec<&str> = (include_str!("../../src/config/keys.md").lines().skip(2))
        .map(|row| row.split('`').nth(1).expect("a row begins with its key"))
        .filter(|key| key.starts_with(section))
        .collect();
    assert_eq!(effects.iter().map(|effect| effect.key).collect::<Vec<_>>(), documented);
    for Effect { key, value, besides, see, without, with } in effects {
        let (value, besides) = (value(), besides());
        assert_eq!(see(&besides), *without, "without `{key}`");
        assert_eq!(see(&format!("{besides}\n{key} = {value}")), *with, "with `{key} = {value}`");
    }
}
