//! What a consumer's client knows of a log without asking.

use super::events::Message;
use super::group_client::{GroupClient, GroupContext};
use rdkafka::bindings::rd_kafka_get_watermark_offsets;
use rdkafka::error::IsError as _;
use std::ffi::{CStr, CString};

/// The first offset of the log that the message is from, as the broker's last answer said.
pub(super) fn known_low<C: GroupContext>(client: &GroupClient<C>, message: &Message<'_>) -> Option<u64> {
    u64::try_from(known(client, message.topic(), message.partition())?.0).ok()
}

/// The end of the log, as the broker's last answer to a fetch said: also of what may not be read yet.
pub(super) fn known_end<C: GroupContext>(
    client: &GroupClient<C>,
    topic: &str,
    partition: i32,
) -> Option<u64> {
    u64::try_from(known(client, &CString::new(topic).ok()?, partition)?.1).ok()
}

/// First offset and end, each negative where it is not known.
///
/// By hand, since the crate has only the question to the broker.
fn known<C: GroupContext>(client: &GroupClient<C>, topic: &CStr, partition: i32) -> Option<(i64, i64)> {
    let (mut low, mut high) = (-1, -1);
    // SAFETY: client and topic live through the call, which writes the two offsets and keeps nothing.
    let code = unsafe {
        rd_kafka_get_watermark_offsets(
            client.native(),
            topic.as_ptr(),
            partition,
            &raw mut low,
            &raw mut high,
        )
    };
    (!code.is_error()).then_some((low, high))
}
