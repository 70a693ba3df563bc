//! What can be published.

use crate::config::names;
use crate::envelope::Envelope;
use crate::publisher::PublishError;
use crate::record::Record;

/// What can be published: an [`Envelope`], or a [`Record`] as it is.
///
/// ```
/// use keylane::{Envelope, Message, Record};
///
/// # let bus = keylane::connect("memory:?topics=orders").wait()?;
/// let paid = Envelope::new("order-42", "order.paid", 1, "995")?;
/// let messages = [Message::from(&paid), Message::from(paid), Message::from(Record::new("plain"))];
/// for message in messages {
///     bus.publish("orders", message).wait()?;
/// }
/// assert_eq!(bus.stats().published, 3);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Message {
    record: Record,
    /// Its key and headers are within what every broker takes: the rules of an Envelope are stricter.
    is_checked: bool,
}

impl Message {
    /// The record that is sent.
    ///
    /// # Errors
    /// When the topic's name, the key or a header is not valid.
    pub(super) fn checked(self, topic: &str) -> Result<Record, PublishError> {
        let Self { record, is_checked } = self;
        names::topic(topic)?;
        if is_checked {
            return Ok(record);
        }
        if let Some(key) = &record.key {
            names::key(key)?;
        }
        for (name, value) in record.headers.iter() {
            names::header_name(name)?;
            names::header_value(value)?;
        }
        Ok(record)
    }
}

impl From<Record> for Message {
    fn from(record: Record) -> Self {
        Self { record, is_checked: false }
    }
}

impl From<Envelope<'_>> for Message {
    fn from(envelope: Envelope<'_>) -> Self {
        Self::from(&envelope)
    }
}

impl From<&Envelope<'_>> for Message {
    fn from(envelope: &Envelope<'_>) -> Self {
        Self { record: envelope.into(), is_checked: true }
    }
}
