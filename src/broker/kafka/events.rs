//! What the client of a member finds in its queue: records, partitions that come and go, answers to commits, errors, lines
//! of its log.

use super::group_client::{GroupClient, GroupContext};
use super::session;
use crate::foreign;
use rdkafka::bindings::{
    RD_KAFKA_EVENT_DESCRIBECONFIGS_RESULT, RD_KAFKA_EVENT_ERROR, RD_KAFKA_EVENT_FETCH, RD_KAFKA_EVENT_LOG,
    RD_KAFKA_EVENT_OFFSET_COMMIT, RD_KAFKA_EVENT_REBALANCE, rd_kafka_event_destroy, rd_kafka_event_error,
    rd_kafka_event_error_is_fatal, rd_kafka_event_error_string, rd_kafka_event_log,
    rd_kafka_event_message_next, rd_kafka_event_t, rd_kafka_event_topic_partition_list, rd_kafka_event_type,
    rd_kafka_message_t, rd_kafka_message_timestamp, rd_kafka_queue_poll, rd_kafka_timestamp_type_t,
    rd_kafka_topic_name,
};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{IsError as _, KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka::types::RDKafkaRespErr;
use std::ffi::{CStr, c_char};
use std::marker::PhantomData;
use std::ptr::{self, NonNull};
use std::slice;

/// What one look at the queue found.
pub(super) enum Found<'a> {
    Nothing,
    /// No record; what it asked for is done.
    Served,
    Record(Message<'a>),
    /// The client is of no use any more.
    Failed(RDKafkaErrorCode, String),
}

impl<C: GroupContext> GroupClient<C> {
    /// Takes the next thing out of the queue, and does what it asks for. Blocks for as long as that takes.
    pub(super) fn look(&self) -> Found<'_> {
        self.look_for(0)
    }

    /// The same, where it may be waited for.
    pub(super) fn look_for(&self, limit_ms: i32) -> Found<'_> {
        // SAFETY: the queue lives, and what it gives is ours to destroy.
        let Some(event) = NonNull::new(unsafe { rd_kafka_queue_poll(self.queue(), limit_ms) }) else {
            return Found::Nothing;
        };
        let event = Event(event);
        // SAFETY: the event lives; so in all calls with one below.
        match unsafe { rd_kafka_event_type(event.ptr()) } {
            RD_KAFKA_EVENT_FETCH => return Message::of(event).map_or(Found::Served, Found::Record),
            RD_KAFKA_EVENT_ERROR => return self.failed(&event),
            RD_KAFKA_EVENT_REBALANCE => self.rebalance(&event),
            RD_KAFKA_EVENT_OFFSET_COMMIT => self.committed_as(&event),
            RD_KAFKA_EVENT_LOG => self.said(&event),
            RD_KAFKA_EVENT_DESCRIBECONFIGS_RESULT => {
                // SAFETY: it is the event of an answer to such a question.
                let answer = unsafe { session::answer(event.ptr()) };
                self.context().life().session_answered(answer);
            }
            _ => {}
        }
        Found::Served
    }

    fn failed(&self, event: &Event) -> Found<'_> {
        let (code, reason) = (event.code(), event.reason());
        self.context().error(KafkaError::Global(code.into()), &reason);
        // SAFETY: see `look_for`.
        if unsafe { rd_kafka_event_error_is_fatal(event.ptr()) } != 0 {
            let code = RDKafkaErrorCode::from(code);
            return Found::Failed(code, if reason.is_empty() { code.to_string() } else { reason });
        }
        foreign::debug!(?code, reason, group = self.context().group(), "the consumer says");
        Found::Served
    }

    fn rebalance(&self, event: &Event) {
        let mut list = TopicPartitionList::new();
        for (topic, partition, _) in event.partitions() {
            list.add_partition(&topic, partition);
        }
        if event.code() == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            self.context().came(self, &list);
        } else {
            self.context().go(self, &list);
        }
    }

    fn committed_as(&self, event: &Event) {
        let result = committed(event.code());
        let answers =
            event.partitions().map(|(topic, partition, code)| (topic, partition, committed(code))).collect();
        self.context().commit_answered(&result, answers);
    }

    fn said(&self, event: &Event) {
        let (mut facility, mut text, mut level) = (ptr::null(), ptr::null(), 0);
        // SAFETY: see `look_for`; the three are written, and live as long as the event.
        let is_none =
            unsafe { rd_kafka_event_log(event.ptr(), &raw mut facility, &raw mut text, &raw mut level) };
        if is_none == 0 {
            // SAFETY: as above.
            let (facility, text) = unsafe { (text_at(facility), text_at(text)) };
            self.context().log(log_level(level), facility.trim(), text.trim());
        }
    }
}

fn committed(code: RDKafkaRespErr) -> KafkaResult<()> {
    if code.is_error() { Err(KafkaError::ConsumerCommit(code.into())) } else { Ok(()) }
}

fn log_level(level: i32) -> RDKafkaLogLevel {
    use RDKafkaLogLevel as L;
    [L::Emerg, L::Alert, L::Critical, L::Error, L::Warning, L::Notice, L::Info]
        .into_iter()
        .nth(usize::try_from(level).unwrap_or(0))
        .unwrap_or(L::Debug)
}

/// # Safety
/// It is nothing, or a text that ends with a zero and lives for as long as the answer is not dropped.
unsafe fn text_at(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: as asked of the caller.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// One thing out of the queue.
struct Event(NonNull<rd_kafka_event_t>);

impl Event {
    fn ptr(&self) -> *mut rd_kafka_event_t {
        self.0.as_ptr()
    }

    fn code(&self) -> RDKafkaRespErr {
        // SAFETY: the event lives; so below.
        unsafe { rd_kafka_event_error(self.ptr()) }
    }

    fn reason(&self) -> String {
        // SAFETY: the text is the event's own, and copied.
        unsafe { text_at(rd_kafka_event_error_string(self.ptr())) }.trim().to_owned()
    }

    /// Topic, partition and code of each partition that the event is about.
    fn partitions(&self) -> impl Iterator<Item = (String, i32, RDKafkaRespErr)> {
        // SAFETY: the list is nothing, or the event's own.
        let list = unsafe { rd_kafka_event_topic_partition_list(self.ptr()).as_ref() };
        let elements = list.filter(|list| list.cnt > 0).map_or(&[][..], |list| {
            // SAFETY: so many are there.
            unsafe { slice::from_raw_parts(list.elems, list.cnt as usize) }
        });
        // SAFETY: a topic's name ends with a zero and is its element's own.
        elements.iter().map(|e| (unsafe { text_at(e.topic) }, e.partition, e.err))
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: it is ours, and nothing that was borrowed from it is left.
        unsafe { rd_kafka_event_destroy(self.ptr()) };
    }
}

/// A record that the client fetched, in the client's memory.
pub(super) struct Message<'a> {
    /// The event's own.
    native: NonNull<rd_kafka_message_t>,
    _event: Event,
    _client: PhantomData<&'a ()>,
}

impl Message<'_> {
    /// The record in the event, if it is one.
    fn of(event: Event) -> Option<Self> {
        // SAFETY: the event lives.
        let message = NonNull::new(unsafe { rd_kafka_event_message_next(event.ptr()) }.cast_mut())?;
        let message = Self { native: message, _event: event, _client: PhantomData };
        (!message.native().err.is_error()).then_some(message)
    }

    fn native(&self) -> &rd_kafka_message_t {
        // SAFETY: it lives as long as its event.
        unsafe { self.native.as_ref() }
    }

    pub(super) fn ptr(&self) -> *const rd_kafka_message_t {
        self.native.as_ptr()
    }

    pub(super) fn topic(&self) -> &CStr {
        // SAFETY: the topic lives as long as the message, and so does its name, which ends with a zero.
        unsafe { CStr::from_ptr(rd_kafka_topic_name(self.native().rkt)) }
    }

    pub(super) fn partition(&self) -> i32 {
        self.native().partition
    }

    pub(super) fn offset(&self) -> i64 {
        self.native().offset
    }

    pub(super) fn key(&self) -> Option<&[u8]> {
        // SAFETY: nothing, or so many bytes that live as long as the message.
        unsafe { bytes(self.native().key.cast::<u8>(), self.native().key_len) }
    }

    pub(super) fn payload(&self) -> Option<&[u8]> {
        // SAFETY: as in `key`.
        unsafe { bytes(self.native().payload.cast::<u8>(), self.native().len) }
    }

    /// 0 where it has none.
    pub(super) fn timestamp_ms(&self) -> u64 {
        let mut kind = rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        // SAFETY: the message lives, and the kind is written.
        let at = unsafe { rd_kafka_message_timestamp(self.ptr(), &raw mut kind) };
        u64::try_from(at).unwrap_or(0)
    }
}

/// # Safety
/// Nothing, or so many bytes that live as long as the answer.
unsafe fn bytes<'a>(begin: *const u8, length: usize) -> Option<&'a [u8]> {
    // SAFETY: as asked of the caller.
    (!begin.is_null()).then(|| unsafe { slice::from_raw_parts(begin, length) })
}
