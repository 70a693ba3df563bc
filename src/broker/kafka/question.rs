//! What a subscription asks of the brokers, by way of the client's thread.

use crate::broker::{BrokerError, Mark};
use crate::wait::Promise;

/// What is to be known of each partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Question {
    Ends,
    Reached,
}

pub(super) type Marks = Result<Vec<Mark>, BrokerError>;

/// A question that is on its way.
pub(super) type Asked = (Question, Promise<Marks>);

/// The answer where nobody can be asked now.
pub(super) fn unanswered(reason: &str) -> Marks {
    Err(BrokerError::Transient(reason.to_owned()))
}
