//! What happens to a record when its turn comes.

use crate::sync::Arc;

/// What happens to a record when its turn comes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Next {
    /// It is parsed, and attempted if it may be.
    Parse,
    Attempt,
    /// No handler may see it, for this reason: its bytes are no valid Envelope, or it is too long.
    Unhandleable(Box<str>),
    /// It is given up without another attempt: it was handed out so often before.
    GiveUp {
        redeliveries: u32,
    },
    /// Its dead letter is written to this topic; so many tries have failed.
    DeadLetter {
        topic: Arc<str>,
        tries: u32,
    },
    /// An operator gave it up.
    Skip,
}
