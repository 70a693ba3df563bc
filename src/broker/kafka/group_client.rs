//! The client of one member of a group: what it is asked to do. What it finds is in [`events`](super::events).
//!
//! By hand over the crate's general client: its consumers take no interceptor, and without one nobody learns when the
//! group's coordinator was last heard of.

use super::client;
use super::life::Life;
use super::properties::Properties;
use crate::sync::Arc;
use rdkafka::ClientContext;
use rdkafka::bindings::{
    RD_KAFKA_EVENT_ERROR, RD_KAFKA_EVENT_OAUTHBEARER_TOKEN_REFRESH, RD_KAFKA_EVENT_OFFSET_COMMIT,
    RD_KAFKA_EVENT_REBALANCE, rd_kafka_assign, rd_kafka_assignment_lost, rd_kafka_commit,
    rd_kafka_commit_queue, rd_kafka_committed, rd_kafka_conf_set_events, rd_kafka_consumer_close_queue,
    rd_kafka_consumer_closed, rd_kafka_consumer_group_metadata, rd_kafka_consumer_group_metadata_destroy,
    rd_kafka_consumer_group_metadata_generation_id, rd_kafka_error_code, rd_kafka_error_destroy,
    rd_kafka_error_t, rd_kafka_incremental_assign, rd_kafka_incremental_unassign, rd_kafka_pause_partitions,
    rd_kafka_poll_set_consumer, rd_kafka_position, rd_kafka_queue_cb_event_enable, rd_kafka_queue_destroy,
    rd_kafka_queue_get_consumer, rd_kafka_queue_t, rd_kafka_rebalance_protocol, rd_kafka_resume_partitions,
    rd_kafka_seek_partitions, rd_kafka_subscribe, rd_kafka_t,
};
use rdkafka::client::Client;
use rdkafka::error::{IsError as _, KafkaError, KafkaResult};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::{RDKafkaRespErr, RDKafkaType};
use std::ffi::{CStr, c_void};
use std::ptr::{self, NonNull};
use std::task::Waker;
use std::time::Duration;

/// What comes by the queue, besides records and log lines.
const EVENTS: i32 = RD_KAFKA_EVENT_REBALANCE
    | RD_KAFKA_EVENT_OFFSET_COMMIT
    | RD_KAFKA_EVENT_ERROR
    | RD_KAFKA_EVENT_OAUTHBEARER_TOKEN_REFRESH;
/// How long one look lasts at a client that closes.
const CLOSING_MS: i32 = 100;

/// Who hears what the client of a member found, inside the look that found it.
pub(super) trait GroupContext: ClientContext + Sized {
    fn group(&self) -> &str;

    fn life(&self) -> &Arc<Life>;

    /// Partitions came; to be answered by [`GroupClient::assign`].
    fn came(&self, client: &GroupClient<Self>, list: &TopicPartitionList);

    /// Partitions go; to be answered by [`GroupClient::unassign`].
    fn go(&self, client: &GroupClient<Self>, list: &TopicPartitionList);

    /// A commit that was begun has an answer: as a whole, and by topic and partition.
    fn commit_answered(&self, result: &KafkaResult<()>, answers: Vec<(String, i32, KafkaResult<()>)>);
}

/// Owned by the thread of its member, which alone calls it. Dropping it leaves the group: it blocks for as long as that
/// takes.
pub(super) struct GroupClient<C: GroupContext> {
    client: Client<C>,
    queue: NonNull<rd_kafka_queue_t>,
    /// In a place of its own, which the queue knows.
    _waker: Box<Waker>,
    /// The client's threads know its place; dropped behind the client, which ends them.
    _life: Arc<Life>,
}

unsafe extern "C" fn wake(_: *mut rd_kafka_t, waker: *mut c_void) {
    // SAFETY: it is the waker of one of these, which disables this callback before the waker goes.
    let waker = unsafe { &*waker.cast::<Waker>() };
    waker.wake_by_ref();
}

impl<C: GroupContext> GroupClient<C> {
    /// `waker` is woken whenever [`look`](Self::look) may find something.
    pub(super) fn new(properties: &Properties, context: C, waker: Waker) -> KafkaResult<Self> {
        let configuration = client::configuration(properties);
        let native = configuration.create_native_config()?;
        // SAFETY: the configuration lives, and becomes the client's below.
        unsafe { rd_kafka_conf_set_events(native.ptr(), EVENTS) };
        let life = context.life().clone();
        life.watch(&native)?;
        let client = Client::new(&configuration, native, RDKafkaType::RD_KAFKA_CONSUMER, context)?;
        // SAFETY: the client lives. What comes by its main queue comes by that of the consumer from here on.
        checked(unsafe { rd_kafka_poll_set_consumer(client.native_ptr()) })?;
        // SAFETY: the client lives, and the reference to its queue is given back when this is dropped.
        let queue = NonNull::new(unsafe { rd_kafka_queue_get_consumer(client.native_ptr()) })
            .ok_or_else(|| KafkaError::ClientCreation("the consumer has no queue".to_owned()))?;
        let waker = Box::new(waker);
        let place = ptr::from_ref::<Waker>(&waker).cast_mut().cast::<c_void>();
        // SAFETY: queue and waker live until this is dropped, which disables the callback first. A waker may be woken from
        // any thread.
        unsafe { rd_kafka_queue_cb_event_enable(queue.as_ptr(), Some(wake), place) };
        Ok(Self { client, queue, _waker: waker, _life: life })
    }

    pub(super) fn client(&self) -> &Client<C> {
        &self.client
    }

    pub(super) fn context(&self) -> &C {
        self.client.context()
    }

    pub(super) fn native(&self) -> *mut rd_kafka_t {
        self.client.native_ptr()
    }

    pub(super) fn queue(&self) -> *mut rd_kafka_queue_t {
        self.queue.as_ptr()
    }

    pub(super) fn subscribe(&self, topics: &[&str]) -> KafkaResult<()> {
        let mut list = TopicPartitionList::new();
        for topic in topics {
            list.add_topic_unassigned(topic);
        }
        // SAFETY: client and list live through the call, which copies the list; so in all calls below.
        checked(unsafe { rd_kafka_subscribe(self.native(), list.ptr()) })
    }

    /// Answers an event by which partitions came.
    pub(super) fn assign(&self, list: &TopicPartitionList) -> KafkaResult<()> {
        if self.is_cooperative() {
            // SAFETY: see `subscribe`.
            said(unsafe { rd_kafka_incremental_assign(self.native(), list.ptr()) })
        } else {
            // SAFETY: see `subscribe`.
            checked(unsafe { rd_kafka_assign(self.native(), list.ptr()) })
        }
    }

    /// Answers an event by which partitions go.
    pub(super) fn unassign(&self, list: &TopicPartitionList) -> KafkaResult<()> {
        if self.is_cooperative() {
            // SAFETY: see `subscribe`.
            said(unsafe { rd_kafka_incremental_unassign(self.native(), list.ptr()) })
        } else {
            // SAFETY: the client lives; no list means all.
            checked(unsafe { rd_kafka_assign(self.native(), ptr::null()) })
        }
    }

    fn is_cooperative(&self) -> bool {
        self.protocol() == Some("COOPERATIVE")
    }

    /// Whether the group's protocol is known, which is when the member joins it. The client's main thread answers that.
    pub(super) fn is_joining(&self) -> bool {
        self.protocol().is_some_and(|protocol| protocol != "NONE")
    }

    fn protocol(&self) -> Option<&str> {
        // SAFETY: the client lives, and what it answers is nothing or a text that lives for ever.
        let protocol = unsafe { rd_kafka_rebalance_protocol(self.native()) };
        // SAFETY: as above.
        (!protocol.is_null()).then(|| unsafe { CStr::from_ptr(protocol) })?.to_str().ok()
    }

    /// The generation of the group that the member is in, or, by KIP-848, its own epoch: both grow with each change of who
    /// has what. The client's main thread answers that.
    pub(super) fn generation(&self) -> Option<u64> {
        // SAFETY: the client lives; what it answers is nothing, or ours to destroy.
        unsafe {
            let metadata = rd_kafka_consumer_group_metadata(self.native());
            if metadata.is_null() {
                return None;
            }
            let generation = rd_kafka_consumer_group_metadata_generation_id(metadata);
            rd_kafka_consumer_group_metadata_destroy(metadata);
            u64::try_from(generation).ok()
        }
    }

    /// Whether the partitions are somebody else's already.
    pub(super) fn assignment_lost(&self) -> bool {
        // SAFETY: the client lives.
        unsafe { rd_kafka_assignment_lost(self.native()) == 1 }
    }

    /// Commits, and waits for the answer.
    pub(super) fn commit(&self, list: &TopicPartitionList) -> KafkaResult<()> {
        // SAFETY: see `subscribe`.
        checked(unsafe { rd_kafka_commit(self.native(), list.ptr(), 0) })
    }

    /// Has the brokers asked to commit; the answer is found by a later look.
    pub(super) fn begin_commit(&self, list: &TopicPartitionList) -> KafkaResult<()> {
        // SAFETY: client, list and queue live through the call; the list is copied, and the request keeps a reference to the
        // queue of its own. Without a callback the answer is put into the queue as it is.
        checked(unsafe {
            rd_kafka_commit_queue(self.native(), list.ptr(), self.queue(), None, ptr::null_mut())
        })
    }

    /// What the group has committed of these, written into the list.
    pub(super) fn committed(
        &self,
        list: TopicPartitionList,
        limit: Duration,
    ) -> KafkaResult<TopicPartitionList> {
        // SAFETY: client and list live through the call, which writes over the list's offsets.
        checked(unsafe { rd_kafka_committed(self.native(), list.ptr(), limit.as_millis() as i32) })?;
        Ok(list)
    }

    /// The offset behind the last record that was handed over of each of these, written into the list.
    pub(super) fn position(&self, list: TopicPartitionList) -> KafkaResult<TopicPartitionList> {
        // SAFETY: as in `committed`.
        checked(unsafe { rd_kafka_position(self.native(), list.ptr()) })?;
        Ok(list)
    }

    /// Has the partition fetched from there; whether it can be is not said.
    pub(super) fn seek(&self, topic: &str, partition: i32, offset: u64) -> KafkaResult<()> {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Offset(offset.cast_signed()))?;
        // SAFETY: see `subscribe`. With no time to wait for it nothing is kept.
        said(unsafe { rd_kafka_seek_partitions(self.native(), list.ptr(), 0) })
    }

    pub(super) fn pause(&self, list: &TopicPartitionList) -> KafkaResult<()> {
        // SAFETY: see `subscribe`.
        checked(unsafe { rd_kafka_pause_partitions(self.native(), list.ptr()) })
    }

    pub(super) fn resume(&self, list: &TopicPartitionList) -> KafkaResult<()> {
        // SAFETY: see `subscribe`.
        checked(unsafe { rd_kafka_resume_partitions(self.native(), list.ptr()) })
    }
}

impl<C: GroupContext> Drop for GroupClient<C> {
    fn drop(&mut self) {
        // SAFETY: the queue is ours. Disabling takes the lock under which the callback is called, so none is under way
        // behind it.
        unsafe { rd_kafka_queue_cb_event_enable(self.queue(), None, ptr::null_mut()) };
        // SAFETY: client and queue live; what closing has to say comes by the queue, which is looked at until it is done.
        let closing = said(unsafe { rd_kafka_consumer_close_queue(self.native(), self.queue()) });
        if closing.is_ok() {
            // SAFETY: the client lives.
            while unsafe { rd_kafka_consumer_closed(self.native()) } != 1 {
                drop(self.look_for(CLOSING_MS));
            }
        }
        // SAFETY: the reference is ours, and nothing of ours uses it behind this.
        unsafe { rd_kafka_queue_destroy(self.queue()) };
    }
}

fn checked(code: RDKafkaRespErr) -> KafkaResult<()> {
    if code.is_error() { Err(KafkaError::Global(code.into())) } else { Ok(()) }
}

/// What a call said that answers with an object of its own.
fn said(error: *mut rd_kafka_error_t) -> KafkaResult<()> {
    if error.is_null() {
        return Ok(());
    }
    // SAFETY: it is there, and was given to us to be destroyed.
    let code = unsafe {
        let code = rd_kafka_error_code(error);
        rd_kafka_error_destroy(error);
        code
    };
    Err(KafkaError::Global(code.into()))
}
