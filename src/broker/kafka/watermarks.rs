//! What a consumer's client knows of a log without asking.

use super::events::Message;
use super::group_client::{GroupClient, GroupContext};
use rdkafka::bindings::rd_kafka_get_watermark_offsets;
use rdkafka::error::IsError as _;

/// The first offset of the log that the message is from, as the broker's last answer said.
///
/// By hand, since the crate has only the question to the broker.
pub(super) fn known_low<C: GroupContext>(client: &GroupClient<C>, message: &Message<'_>) -> Option<u64> {
    let (mut low, mut high) = (-1, -1);
    // SAFETY: client and topic live through the call, which writes the two offsets and keeps nothing.
    let code = unsafe {
        rd_kafka_get_watermark_offsets(
            client.native(),
            message.topic().as_ptr(),
            message.partition(),
            &raw mut low,
            &raw mut high,
        )
    };
    if code.is_error() { None } else { u64::try_from(low).ok() }
}
