//! A commit whose answer comes by a poll.

use rdkafka::bindings::{rd_kafka_commit_queue, rd_kafka_queue_destroy, rd_kafka_queue_get_consumer};
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{IsError as _, KafkaError, KafkaResult};
use rdkafka::topic_partition_list::TopicPartitionList;
use std::ptr;

/// Has the brokers asked to commit; the commit callback is called by a later poll.
///
/// By hand: for the crate's own asynchronous commit librdkafka tells nobody how it ended, since the crate sets no
/// callback in its configuration and names no queue.
pub(super) fn begin_commit<C: ConsumerContext>(
    client: &BaseConsumer<C>,
    list: &TopicPartitionList,
) -> KafkaResult<()> {
    let native = client.client().native_ptr();
    // SAFETY: the client lives through the call.
    let queue = unsafe { rd_kafka_queue_get_consumer(native) };
    if queue.is_null() {
        return Err(KafkaError::ClientCreation("the consumer has no queue".to_owned()));
    }
    // SAFETY: client, list and queue live through the call; the list is copied, and the request keeps a reference to the
    // queue of its own. Without a callback the answer is put into the queue as it is.
    let result = unsafe { rd_kafka_commit_queue(native, list.ptr(), queue, None, ptr::null_mut()) };
    // SAFETY: it was given to us above, and nothing of ours uses it any more.
    unsafe { rd_kafka_queue_destroy(queue) };
    if result.is_error() { Err(KafkaError::ConsumerCommit(result.into())) } else { Ok(()) }
}
