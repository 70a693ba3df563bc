//! What can go wrong with one attempt to handle a record.

use std::error::Error;
use std::fmt;
use std::time::Duration;

type BoxedError = Box<dyn Error + Send + Sync>;

/// The error of a handler: worth another attempt, or not.
///
/// Whatever converts into a boxed error (any `std::error::Error`, `anyhow::Error`, a `String`) converts into this by
/// `?` and is *retriable*. [`HandlerError::terminal`] says that trying again is of no use: the remaining attempts are
/// skipped. To allow that conversion it does not implement [`Error`] itself; [`source`](Self::source) gives the
/// error within.
///
/// ```
/// use keylane::HandlerError;
///
/// fn handle(amount: &str) -> Result<i64, HandlerError> {
///     let amount: i64 = amount.parse()?;
///     if amount < 0 {
///         return Err(HandlerError::terminal("the amount is negative"));
///     }
///     Ok(amount)
/// }
/// assert!(!handle("many").unwrap_err().is_terminal());
/// assert!(handle("-1").unwrap_err().is_terminal());
/// ```
pub struct HandlerError {
    source: BoxedError,
    is_terminal: bool,
}

impl HandlerError {
    /// An error that another attempt may not meet again.
    pub fn retriable(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { source: error.into(), is_terminal: false }
    }

    /// An error that every other attempt would meet again; the remaining attempts are skipped.
    pub fn terminal(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { source: error.into(), is_terminal: true }
    }

    /// Whether the remaining attempts are skipped.
    pub fn is_terminal(&self) -> bool {
        self.is_terminal
    }

    /// The error that the handler met, to look at or downcast.
    pub fn source(&self) -> &(dyn Error + Send + Sync + 'static) {
        &*self.source
    }
}

impl<E: Into<Box<dyn Error + Send + Sync>>> From<E> for HandlerError {
    fn from(error: E) -> Self {
        Self::retriable(error)
    }
}

/// The message of the error; with `{:#}` also those of its causes, each behind a colon.
impl fmt::Display for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.source)?;
        if f.alternate() {
            let mut cause = self.source.source();
            while let Some(error) = cause {
                write!(f, ": {error}")?;
                cause = error.source();
            }
        }
        Ok(())
    }
}

impl fmt::Debug for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = if self.is_terminal { "Terminal" } else { "Retriable" };
        f.debug_tuple(name).field(&self.source).finish()
    }
}

/// What went wrong with one attempt.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The handler returned an error.
    Error(HandlerError),
    /// The handler panicked with this message. Worth another attempt: what it met may have passed.
    Panic(String),
    /// The handler did not end within the time that it has for one record.
    DeadlineExceeded(Duration),
    /// No handler may see the record. Where its bytes are no valid Envelope the message names the field, the rule and
    /// the byte. No attempt changes that.
    Undecodable(String),
    /// The broker handed the record out so often that all its attempts are used up, and was told of no end: it may be
    /// what ends the process each time.
    Unsurvived {
        /// How often it was handed out before.
        redeliveries: u32,
    },
}

impl Failure {
    /// Whether another attempt is of no use.
    pub(crate) fn is_terminal(&self) -> bool {
        match self {
            Self::Error(error) => error.is_terminal(),
            Self::Panic(_) | Self::DeadlineExceeded(_) => false,
            Self::Undecodable(_) | Self::Unsurvived { .. } => true,
        }
    }

    /// The short code of dead letters, logs and metrics. Stable: others match on it.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Error(_) => "error",
            Self::Panic(_) => "panic",
            Self::DeadlineExceeded(_) => "deadline",
            Self::Undecodable(_) => "undecodable",
            Self::Unsurvived { .. } => "unsurvived",
        }
    }
}

/// One line for a log; `{:#}` adds the causes of a handler's error.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Error(error) => fmt::Display::fmt(error, f),
            Self::Panic(message) => write!(f, "the handler panicked: {message}"),
            Self::DeadlineExceeded(limit) => write!(f, "the handler did not end within {limit:?}"),
            Self::Undecodable(message) => f.write_str(message),
            Self::Unsurvived { redeliveries } => write!(
                f,
                "it was handed out {redeliveries} times before and never came to an end, as if it ended its process"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[test]
    fn an_error_by_question_mark_is_retriable() {
        fn handle() -> Result<(), HandlerError> {
            Err(io::Error::other("the disk is away"))?;
            Ok(())
        }
        let error = handle().unwrap_err();
        assert!(!error.is_terminal());
        assert!(error.source().is::<io::Error>());
        assert_eq!(format!("{:?}", HandlerError::terminal("no")), "Terminal(\"no\")");
        assert_eq!(format!("{:?}", HandlerError::from("again")), "Retriable(\"again\")");
    }

    #[test]
    fn the_alternate_form_names_every_cause() {
        #[derive(Debug, thiserror::Error)]
        #[error("the order is not stored")]
        struct NotStored(#[source] io::Error);
        let error = HandlerError::from(NotStored(io::Error::other("the disk is away")));
        assert_eq!(error.to_string(), "the order is not stored");
        let failure = Failure::Error(error);
        assert_eq!(failure.to_string(), "the order is not stored");
        assert_eq!(format!("{failure:#}"), "the order is not stored: the disk is away");
    }

    #[test]
    fn only_terminal_errors_and_undecodable_bytes_are_terminal() {
        let failures = [
            (Failure::Error("x".into()), false, "error", "x"),
            (Failure::Error(HandlerError::terminal("x")), true, "error", "x"),
            (Failure::Panic("x".into()), false, "panic", "the handler panicked: x"),
            (
                Failure::DeadlineExceeded(Duration::from_secs(2)),
                false,
                "deadline",
                "the handler did not end within 2s",
            ),
            (
                Failure::Undecodable("no valid Envelope: x".into()),
                true,
                "undecodable",
                "no valid Envelope: x",
            ),
        ];
        for (failure, is_terminal, reason, text) in failures {
            assert_eq!(
                (failure.is_terminal(), failure.reason(), failure.to_string().as_str()),
                (is_terminal, reason, text)
            );
        }
    }
}
