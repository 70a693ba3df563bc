//! A record as it arrives from a broker.

use super::Partition;
use crate::record::{Headers, Record};
use crate::sync::Arc;
use bytes::Bytes;
use std::ops::Range;
use std::time::{Duration, SystemTime};

/// A record as it arrives.
#[derive(Debug, Clone)]
pub(crate) struct Fetched {
    pub(crate) partition: Partition,
    pub(crate) offset: u64,
    pub(crate) record: FetchedRecord,
    /// On NATS, in UTF-8.
    pub(crate) subject: Option<Bytes>,
    /// How often the broker handed it out before, as far as it knows.
    pub(crate) redeliveries: u32,
}

/// A record that its broker keeps too, or one that was made of what came over the network.
#[derive(Debug, Clone)]
pub(crate) enum FetchedRecord {
    Shared(Arc<Record>),
    #[cfg_attr(not(feature = "nats"), allow(dead_code, reason = "of NATS"))]
    Own(Record),
    #[cfg_attr(not(feature = "kafka"), allow(dead_code, reason = "of Kafka"))]
    Packed(Packed),
}

/// A record whose parts lie in bytes that it shares with those it was fetched with. All of them count their holders in
/// one place, which several threads change: so a record counts there once, and not for each of its parts.
#[derive(Debug, Clone)]
pub(crate) struct Packed {
    /// Of all bytes that are shared.
    headers: Headers,
    key: Option<Range<u32>>,
    value: Range<u32>,
    timestamp_ms: u64,
}

impl Packed {
    /// The ranges are those of the parts in `bytes`, which are at most 4 GiB; the headers as [`Headers::encode`] writes
    /// them.
    #[cfg(feature = "kafka")]
    pub(crate) fn new(
        bytes: Bytes,
        headers: Range<u32>,
        key: Option<Range<u32>>,
        value: Range<u32>,
        timestamp_ms: u64,
    ) -> Self {
        Self { headers: Headers::encoded_in(bytes, headers), key, value, timestamp_ms }
    }

    fn part(&self, part: &Range<u32>) -> &[u8] {
        &self.headers.around()[part.start as usize..part.end as usize]
    }

    fn part_bytes(&self, part: &Range<u32>) -> Bytes {
        self.headers.around().slice(part.start as usize..part.end as usize)
    }
}

impl FetchedRecord {
    pub(crate) fn key(&self) -> Option<&[u8]> {
        match self {
            Self::Shared(record) => record.key.as_deref(),
            Self::Own(record) => record.key.as_deref(),
            Self::Packed(packed) => packed.key.as_ref().map(|key| packed.part(key)),
        }
    }

    pub(crate) fn value(&self) -> &[u8] {
        match self {
            Self::Shared(record) => &record.value,
            Self::Own(record) => &record.value,
            Self::Packed(packed) => packed.part(&packed.value),
        }
    }

    pub(crate) fn headers(&self) -> &Headers {
        match self {
            Self::Shared(record) => &record.headers,
            Self::Own(record) => &record.headers,
            Self::Packed(packed) => &packed.headers,
        }
    }

    pub(crate) fn timestamp(&self) -> SystemTime {
        match self {
            Self::Shared(record) => record.timestamp,
            Self::Own(record) => record.timestamp,
            Self::Packed(packed) => SystemTime::UNIX_EPOCH + Duration::from_millis(packed.timestamp_ms),
        }
    }

    /// As [`Record::size`].
    pub(crate) fn size(&self) -> usize {
        self.key().map_or(0, <[u8]>::len) + self.value().len() + self.headers().size()
    }

    /// A record that shares what this one holds, with other headers.
    pub(crate) fn with_headers(&self, headers: Headers) -> Record {
        let (key, value) = match self {
            Self::Shared(record) => (record.key.clone(), record.value.clone()),
            Self::Own(record) => (record.key.clone(), record.value.clone()),
            Self::Packed(packed) => {
                let key = packed.key.as_ref().map(|key| packed.part_bytes(key));
                (key, packed.part_bytes(&packed.value))
            }
        };
        Record { key, value, headers, timestamp: self.timestamp() }
    }
}
