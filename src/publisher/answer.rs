//! How a publish ends.

use crate::broker::Stored;
use crate::error::NameError;
use crate::record::Record;
use crate::sync::Arc;

/// Where a published record is stored.
///
/// ```
/// use keylane::{Receipt, Record};
///
/// # let bus = keylane::connect("memory:?topics=orders").wait()?;
/// let receipt: Receipt = bus.publish("orders", Record::new("paid")).wait()?;
/// assert_eq!((receipt.topic(), receipt.offset()), ("orders", 0));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    pub(super) topic: Arc<str>,
    pub(super) stored: Stored,
}

impl Receipt {
    /// The topic.
    ///
    /// ```
    /// # let bus = keylane::connect("memory:?topics=orders,payments").wait()?;
    /// let receipt = bus.publish("payments", keylane::Record::new("paid")).wait()?;
    /// assert_eq!(receipt.topic(), "payments");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// The partition; 0 where the broker has none.
    ///
    /// ```
    /// # use keylane::Record;
    /// let bus = keylane::connect("memory:?topics=orders&partitions=8").wait()?;
    /// let placed = bus.publish("orders", Record::new("placed").with_key("order-42")).wait()?;
    /// let paid = bus.publish("orders", Record::new("paid").with_key("order-42")).wait()?;
    /// assert!(placed.partition() < 8);
    /// assert_eq!(paid.partition(), placed.partition(), "one key, one partition");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn partition(&self) -> u32 {
        self.stored.partition
    }

    /// The offset in the partition (on a stream, the sequence).
    ///
    /// ```
    /// # use keylane::Record;
    /// let bus = keylane::connect("memory:?topics=orders&partitions=1").wait()?;
    /// let placed = bus.publish("orders", Record::new("placed")).wait()?;
    /// let paid = bus.publish("orders", Record::new("paid")).wait()?;
    /// assert_eq!((placed.offset(), paid.offset()), (0, 1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn offset(&self) -> u64 {
        self.stored.offset
    }
}

/// Why a record was not published.
///
/// ```
/// use keylane::{PublishError, Record};
///
/// # let bus = keylane::connect("memory:?topics=orders").wait()?;
/// let refused = bus.publish("orders paid", Record::new("paid")).wait();
/// assert!(matches!(refused, Err(PublishError::Name(error)) if error.kind == "topic"));
/// let refused = bus.publish("orders", Record::new(vec![0; 2 << 20])).wait();
/// assert!(matches!(refused, Err(PublishError::TooLarge { limit: 1_048_576, .. })));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// The topic, the key or a header is not valid; nothing was sent.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The record is longer than `publisher.max_record_bytes`; nothing was sent.
    #[error("a record of {size} bytes for `{topic}` is too large; at most {limit} are published")]
    TooLarge {
        /// The topic.
        topic: String,
        /// Key, value and headers together.
        size: usize,
        /// What is accepted.
        limit: usize,
    },
    /// The broker refused it, and would again.
    #[error("the broker refused a record for `{topic}`: {reason}")]
    Refused {
        /// The topic.
        topic: String,
        /// What the broker said.
        reason: String,
    },
    /// The bus was closed before the broker had acknowledged the record; it may be stored all the same.
    #[error("the bus is closed")]
    Closed,
}

/// Why a record was not published at once.
///
/// ```
/// use keylane::{Record, TryPublishError};
///
/// # let bus = keylane::connect("memory:?topics=orders").wait()?;
/// let unsent = match bus.try_publish("orders paid", Record::new("paid")) {
///     Ok(publish) => publish.wait().err().map(TryPublishError::from),
///     Err(error) => Some(error),
/// };
/// assert!(matches!(unsent, Some(TryPublishError::Failed(error)) if error.to_string().contains("orders paid")));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TryPublishError {
    /// The publisher's bounds are reached, or the topic is full; the record is in here.
    #[error("there is no room to publish")]
    Full(Record),
    /// It can't be published at all.
    #[error(transparent)]
    Failed(#[from] PublishError),
}
