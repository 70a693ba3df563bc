//! What configuration and connecting can fail with.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

/// How many characters of an offending value an error shows.
const SHOWN: usize = 64;

/// A value as an error shows it: escaped, so that it stays on one line, and cut.
pub(crate) fn shown(value: &[u8]) -> String {
    let escaped: Cow<'_, str> = match std::str::from_utf8(value) {
        Ok(text) => text.chars().take(SHOWN + 1).flat_map(char::escape_debug).collect::<String>().into(),
        Err(_) => value[..value.len().min(SHOWN + 1)].escape_ascii().to_string().into(),
    };
    match escaped.char_indices().nth(SHOWN) {
        Some((cut, _)) => format!("{}\u{2026}", &escaped[..cut]),
        None => escaped.into_owned(),
    }
}

/// A path as an error shows it: whole, for the end of one says the most.
#[cfg(any(feature = "kafka", feature = "nats"))]
pub(crate) fn shown_path(path: &str) -> String {
    format!("\"{}\"", path.escape_debug())
}

/// A name, or a part of a record, that no broker would take as it is.
///
/// ```
/// let mut config = keylane::Config::default();
/// config.memory.topics = vec!["orders paid".to_owned()];
/// let error = config.validate().unwrap_err().to_string();
/// assert!(error.contains("topic `orders paid` breaks a rule at byte 6"), "{error}");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} `{value}` breaks a rule at byte {offset}: {rule}")]
#[non_exhaustive]
pub struct NameError {
    /// What was named: `topic`, `group`, `stream`, `header name`, `header value` or `key`.
    pub kind: &'static str,
    /// The value, escaped, and cut behind 64 characters.
    pub value: String,
    /// The first byte that breaks the rule, counted from 0 in the value as it was given; its length if it is too
    /// short.
    pub offset: usize,
    /// The rule, as a sentence.
    pub rule: &'static str,
}

/// Where a configuration value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origin {
    /// Set in the program, or combined out of several origins.
    Code,
    /// A TOML document.
    Toml,
    /// The environment variable of this name.
    Environment(String),
    /// An option behind the `?` of the bus URL.
    Url,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code => Ok(()),
            Self::Toml => f.write_str(" in TOML"),
            Self::Environment(variable) => write!(f, " by `{variable}`"),
            Self::Url => f.write_str(" in the bus URL"),
        }
    }
}

/// Why a configuration was refused. Nothing was connected yet.
///
/// No text, and no `Debug`, of it holds a password or a token.
///
/// ```
/// let error = keylane::Config::from_toml("[subscription]\nin_flight.recrods = 1").unwrap_err();
/// assert_eq!(
///     error.to_string(),
///     "unknown key `subscription.in_flight.recrods`; the nearest known key is `subscription.in_flight_records`"
/// );
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The text is not TOML.
    #[error("not TOML at line {line}, column {column}: {message}")]
    Syntax {
        /// Counted from 1.
        line: usize,
        /// In characters, counted from 1.
        column: usize,
        /// What the parser says. The line itself is not shown: it may hold a password.
        message: String,
    },
    /// An environment variable of keylane is no text.
    #[error("the value of `{variable}` is not UTF-8")]
    NotUtf8 {
        /// Its name. The value is not shown: it may hold a password.
        variable: String,
    },
    /// A key that does not exist.
    #[error("unknown key `{key}`; the nearest known key is `{nearest}`")]
    UnknownKey {
        /// The dotted path, or the name of the environment variable.
        key: String,
        /// The known key with the fewest edits to it, in the same notation.
        nearest: String,
    },
    /// A value that its key does not take.
    #[error("`{key}` = {value}{origin} {problem}; expected {expected}")]
    Value {
        /// The dotted path.
        key: &'static str,
        /// The value, escaped and cut.
        value: String,
        /// Where it came from.
        origin: Origin,
        /// What is wrong with it.
        problem: String,
        /// What the key takes.
        expected: String,
    },
    /// The bus URL is wrong.
    #[error("`url`{origin}: {error}")]
    Url {
        /// Where it came from.
        origin: Origin,
        /// The part that is wrong, and how.
        error: UrlError,
    },
}

/// Which part of a bus URL is wrong, and what was expected there.
///
/// No text, and no `Debug`, of it holds a password or a token.
///
/// ```
/// use keylane::{BusUrl, UrlError};
///
/// let error = BusUrl::parse("amqp://localhost").unwrap_err();
/// assert_eq!(error, UrlError::UnknownScheme { scheme: "amqp".to_owned() });
/// let error = BusUrl::parse("nats://ann:hunter2@localhost:0").unwrap_err();
/// assert!(!error.to_string().contains("hunter2"), "{error}");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UrlError {
    /// Nothing that could be a scheme stands in front of a colon.
    #[error("`{text}` has no scheme; expected `memory:`, `kafka://` or `nats://`")]
    MissingScheme {
        /// The text, with `***` for what could be credentials.
        text: String,
    },
    /// A scheme that no backend has.
    #[error("unknown scheme `{scheme}`; expected `memory:`, `kafka://` or `nats://`")]
    UnknownScheme {
        /// What stands before the first colon.
        scheme: String,
    },
    /// A part that does not have its form.
    #[error("{part} `{text}` is wrong; expected {expected}")]
    Part {
        /// `address`, `credentials`, `host`, `port`, `path`, `fragment` or `option`.
        part: &'static str,
        /// The part, with `***` for what is, or could be, a credential.
        text: String,
        /// The form that it should have.
        expected: &'static str,
    },
    /// An option that the scheme does not have.
    #[error("unknown option `{option}` of `{scheme}`; the nearest known option is `{nearest}`")]
    UnknownOption {
        /// The scheme that was asked.
        scheme: &'static str,
        /// The option, escaped and cut.
        option: String,
        /// The known option with the fewest edits to it.
        nearest: &'static str,
    },
    /// An option whose value is not a valid name.
    #[error("option `{option}`: {error}")]
    Name {
        /// The option.
        option: &'static str,
        /// What is wrong with its value.
        error: NameError,
    },
}

/// Why no bus came out of a URL or a configuration.
///
/// ```
/// use keylane::ConnectError;
///
/// match keylane::connect("memory:").wait() {
///     Ok(bus) => println!("connected: {bus:?}"),
///     Err(ConnectError::Unreachable { addresses, .. }) => eprintln!("is a broker running at {addresses}?"),
///     Err(error) => eprintln!("{error}"),
/// }
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The configuration was refused before any I/O.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The scheme is known, but its backend was not compiled in.
    #[error("cannot connect to `{scheme}`: feature `{feature}` is not enabled in this build of keylane")]
    FeatureDisabled {
        /// The scheme of the URL.
        scheme: &'static str,
        /// The Cargo feature that brings its backend.
        feature: &'static str,
    },
    /// No broker answered in time.
    #[error("no {system} broker answered within {within:?} at {addresses}: {reason}")]
    Unreachable {
        /// `kafka` or `nats`.
        system: &'static str,
        /// All that were tried.
        addresses: String,
        /// The connect timeout.
        within: Duration,
        /// What was seen last.
        reason: String,
    },
    /// A broker answered and refuses this client, or a setting is not one that it or its client library takes.
    #[error("cannot connect to {system} at {addresses}: {reason}")]
    Refused {
        /// `kafka` or `nats`.
        system: &'static str,
        /// All that were tried.
        addresses: String,
        /// What it said.
        reason: String,
    },
    /// The thread that connects could not be started.
    #[error("the thread that connects could not be started: {0}")]
    Thread(std::io::Error),
    /// The thread that connects ended without an answer, by a panic.
    #[error("connecting was given up by a panic")]
    Abandoned,
}
