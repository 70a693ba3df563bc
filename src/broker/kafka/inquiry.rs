//! Questions to the brokers that nobody waits for: they are put on the client's own connections, where they may stand behind a
//! fetch that the broker holds, and their answers come to a queue that is looked at now and then.
//!
//! By hand, since the crate has neither of the two. One question is under way at a time.

use super::commits::TopicPartition;
use super::group::Client;
use crate::broker::LogId;
use crate::sync::Arc;
use rdkafka::bindings as native;
use rdkafka::error::{IsError as _, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::{RDKafkaAdminOp, RDKafkaEvent, RDKafkaRespErr};
use std::collections::{BTreeSet, HashMap};
use std::ffi::{CStr, CString};
use std::ptr::{self, NonNull};
use std::slice;
use std::time::Duration;

/// What the brokers say of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Described {
    There {
        id: Option<LogId>,
        /// Whether this user may fetch from it; also true where the broker does not say.
        is_readable: bool,
        /// Partitions that no broker leads.
        leaderless: BTreeSet<u32>,
    },
    /// It does not exist.
    Missing,
    /// They do not tell this user, and why.
    Refused(String),
}

pub(super) enum Answer {
    /// By topic, an index into those of the subscription; of a topic that could not be asked about there is none.
    Topics(HashMap<u32, Described>),
    /// Offsets of those partitions that could be asked about.
    Offsets(HashMap<TopicPartition, u64>),
    Failed(RDKafkaErrorCode, String),
}

/// Dropped before its client.
pub(super) struct Inquiry {
    queue: NonNull<native::rd_kafka_queue_t>,
    is_under_way: bool,
}

impl Inquiry {
    pub(super) fn new(client: &Client) -> Self {
        // SAFETY: the client lives. The queue is ours until it is given back, which is before the client ends.
        let queue = NonNull::new(unsafe { native::rd_kafka_queue_new(client.client().native_ptr()) });
        let queue = queue.expect("librdkafka ends the process where it has no memory");
        Self { queue, is_under_way: false }
    }

    pub(super) fn is_under_way(&self) -> bool {
        self.is_under_way
    }

    /// Asks about all topics at once, each named once: one request.
    pub(super) fn describe(&mut self, client: &Client, topics: &[Arc<str>], limit: Duration) {
        let names: BTreeSet<&str> = topics.iter().map(|topic| &**topic).collect();
        let names: Vec<CString> = names.into_iter().filter_map(|name| CString::new(name).ok()).collect();
        let mut names_at: Vec<_> = names.iter().map(|name| name.as_ptr()).collect();
        let options = Options::new(client, RDKafkaAdminOp::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS, limit);
        // SAFETY: client, options and queue live; the collection copies the names, and the question the collection, the
        // options too. An error of an option is given back; there may be none.
        unsafe {
            let error = native::rd_kafka_AdminOptions_set_include_authorized_operations(options.0, 1);
            native::rd_kafka_error_destroy(error);
            let collection =
                native::rd_kafka_TopicCollection_of_topic_names(names_at.as_mut_ptr(), names_at.len());
            let client = client.client().native_ptr();
            native::rd_kafka_DescribeTopics(client, collection, options.0, self.queue.as_ptr());
            native::rd_kafka_TopicCollection_destroy(collection);
        }
        self.is_under_way = true;
    }

    /// Asks for the end of what may be read, or for the beginning, of these partitions: one request to each broker that
    /// leads some of them. One without a leader holds the answer up for as long as the limit.
    pub(super) fn list(
        &mut self,
        client: &Client,
        mut list: TopicPartitionList,
        which: Offset,
        limit: Duration,
    ) {
        // Cannot fail: both are places that a list may have, and mean the same here.
        if list.set_all_offsets(which).is_err() || list.count() == 0 {
            return;
        }
        let options = Options::new(client, RDKafkaAdminOp::RD_KAFKA_ADMIN_OP_LISTOFFSETS, limit);
        let level = native::rd_kafka_IsolationLevel_t::RD_KAFKA_ISOLATION_LEVEL_READ_COMMITTED;
        // SAFETY: client, options, list and queue live; the question copies list and options. An error of an option is given
        // back; there may be none.
        unsafe {
            let error = native::rd_kafka_AdminOptions_set_isolation_level(options.0, level);
            native::rd_kafka_error_destroy(error);
            let client = client.client().native_ptr();
            native::rd_kafka_ListOffsets(client, list.ptr(), options.0, self.queue.as_ptr());
        }
        self.is_under_way = true;
    }

    /// The answer, if it has come or comes within the limit.
    pub(super) fn answer(&mut self, client: &Client, limit: Duration) -> Option<Answer> {
        if !self.is_under_way {
            return None;
        }
        let limit = i32::try_from(limit.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: the queue is ours.
        let event = NonNull::new(unsafe { native::rd_kafka_queue_poll(self.queue.as_ptr(), limit) })?;
        let event = Event(event);
        self.is_under_way = false;
        // SAFETY: the event lives until the end of this call, and its text as long.
        let (code, text, kind) = unsafe {
            let event = event.0.as_ptr();
            let text = native::rd_kafka_event_error_string(event);
            let text = if text.is_null() {
                String::new()
            } else {
                CStr::from_ptr(text).to_string_lossy().into_owned()
            };
            (native::rd_kafka_event_error(event), text, native::rd_kafka_event_type(event))
        };
        if code.is_error() {
            return Some(Answer::Failed(code.into(), text));
        }
        match kind {
            native::RD_KAFKA_EVENT_DESCRIBETOPICS_RESULT => Some(Answer::Topics(topics(&event, client))),
            native::RD_KAFKA_EVENT_LISTOFFSETS_RESULT => Some(Answer::Offsets(offsets(&event, client))),
            _ => None,
        }
    }
}

impl Drop for Inquiry {
    fn drop(&mut self) {
        // SAFETY: the queue is ours, and given back once.
        unsafe { native::rd_kafka_queue_destroy(self.queue.as_ptr()) };
    }
}

/// How one question is put.
struct Options(*mut native::rd_kafka_AdminOptions_t);

impl Options {
    fn new(client: &Client, question: RDKafkaAdminOp, limit: Duration) -> Self {
        let limit = i32::try_from(limit.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: the client lives, and the options are ours until they are dropped. Where there is no place for an error's
        // text none is written.
        unsafe {
            let options = native::rd_kafka_AdminOptions_new(client.client().native_ptr(), question);
            native::rd_kafka_AdminOptions_set_request_timeout(options, limit, ptr::null_mut(), 0);
            Self(options)
        }
    }
}

impl Drop for Options {
    fn drop(&mut self) {
        // SAFETY: they are ours, and given back once.
        unsafe { native::rd_kafka_AdminOptions_destroy(self.0) };
    }
}

struct Event(NonNull<RDKafkaEvent>);

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: the event is ours, and given back once.
        unsafe { native::rd_kafka_event_destroy(self.0.as_ptr()) };
    }
}

/// A list as librdkafka gives it: so many pointers at this place, which is none where there are none.
///
/// # Safety
/// They live for as long as is said by the caller.
unsafe fn list<'a, T>(at: *mut *const T, count: usize) -> &'a [*const T] {
    // SAFETY: as the caller says.
    if at.is_null() { &[] } else { unsafe { slice::from_raw_parts(at, count) } }
}

fn topics(event: &Event, client: &Client) -> HashMap<u32, Described> {
    let mut count = 0;
    // SAFETY: the event is an answer to this question, and what is in it lives as long as the event.
    let found = unsafe {
        let result = native::rd_kafka_event_DescribeTopics_result(event.0.as_ptr());
        list(native::rd_kafka_DescribeTopics_result_topics(result, &raw mut count), count)
    };
    let described = found.iter().filter_map(|topic| {
        // SAFETY: a topic's name is in the answer, as the topic is.
        let name = unsafe { CStr::from_ptr(native::rd_kafka_TopicDescription_name(*topic)) };
        let (index, _) = client.context().place(name.to_str().ok()?, 0)?;
        // SAFETY: the topic lives as long as the event.
        unsafe { describe(*topic) }.map(|described| (index, described))
    });
    described.collect()
}

/// What is said of one topic; none: it could not be found out.
///
/// # Safety
/// The topic lives.
unsafe fn describe(topic: *const native::rd_kafka_TopicDescription_t) -> Option<Described> {
    // SAFETY: the topic lives, and its error, if it has one, with it.
    let (code, text) = unsafe {
        let error = native::rd_kafka_TopicDescription_error(topic);
        let text = native::rd_kafka_error_string(error);
        let is_said = !error.is_null() && !text.is_null();
        (
            native::rd_kafka_error_code(error),
            is_said.then(|| CStr::from_ptr(text).to_string_lossy().into_owned()),
        )
    };
    match code {
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => {}
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART => return Some(Described::Missing),
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED => {
            return Some(Described::Refused(text.unwrap_or_default()));
        }
        _ => return None,
    }
    let (mut operations, mut partitions) = (0, 0);
    // SAFETY: the topic lives, and what is in it with it. Where nobody said what is allowed there is no list.
    unsafe {
        let id = native::rd_kafka_TopicDescription_topic_id(topic);
        let id = LogId::from_halves(
            native::rd_kafka_Uuid_most_significant_bits(id),
            native::rd_kafka_Uuid_least_significant_bits(id),
        );
        let allowed = native::rd_kafka_TopicDescription_authorized_operations(topic, &raw mut operations);
        let read = native::rd_kafka_AclOperation_t::RD_KAFKA_ACL_OPERATION_READ;
        let is_readable = allowed.is_null() || (0..operations).any(|at| *allowed.add(at) == read);
        let partitions =
            list(native::rd_kafka_TopicDescription_partitions(topic, &raw mut partitions), partitions);
        let leaderless = partitions.iter().filter(|partition| {
            let leader = native::rd_kafka_TopicPartitionInfo_leader(**partition);
            leader.is_null() || native::rd_kafka_Node_id(leader) < 0
        });
        let number =
            |partition: &*const _| native::rd_kafka_TopicPartitionInfo_partition(*partition).cast_unsigned();
        Some(Described::There { id, is_readable, leaderless: leaderless.map(number).collect() })
    }
}

fn offsets(event: &Event, client: &Client) -> HashMap<TopicPartition, u64> {
    let mut count = 0;
    // SAFETY: the event is an answer to this question, and what is in it lives as long as the event.
    let found = unsafe {
        let result = native::rd_kafka_event_ListOffsets_result(event.0.as_ptr());
        list(native::rd_kafka_ListOffsets_result_infos(result, &raw mut count), count)
    };
    let offsets = found.iter().filter_map(|info| {
        // SAFETY: the partition is in the answer, and its topic's name with it.
        let (partition, name) = unsafe {
            let partition = &*native::rd_kafka_ListOffsetsResultInfo_topic_partition(*info);
            (partition, CStr::from_ptr(partition.topic))
        };
        let place = client.context().place(name.to_str().ok()?, partition.partition)?;
        let offset = u64::try_from(partition.offset).ok().filter(|_| !partition.err.is_error())?;
        Some((place, offset))
    });
    offsets.collect()
}
