//! For how long a group of KIP-848 waits for a silent member, which is the brokers' to say.

use super::group_client::{GroupClient, GroupContext};
use super::life::{Answer, SETTING};
use rdkafka::bindings::{
    rd_kafka_ConfigEntry_name, rd_kafka_ConfigEntry_value, rd_kafka_ConfigResource_configs,
    rd_kafka_ConfigResource_destroy, rd_kafka_ConfigResource_error, rd_kafka_ConfigResource_new,
    rd_kafka_DescribeConfigs, rd_kafka_DescribeConfigs_result_resources, rd_kafka_ResourceType_t,
    rd_kafka_event_DescribeConfigs_result, rd_kafka_event_error, rd_kafka_event_t,
};
use rdkafka::error::{IsError as _, RDKafkaErrorCode};
use std::ffi::{CStr, CString};
use std::time::Duration;
use std::{ptr, slice};

/// Asks the brokers; the answer is found in the client's queue.
pub(super) fn ask<C: GroupContext>(client: &GroupClient<C>) {
    let Ok(group) = CString::new(client.context().group()) else { return };
    // SAFETY: the name lives through the call, which copies it.
    let mut resource = unsafe {
        rd_kafka_ConfigResource_new(rd_kafka_ResourceType_t::RD_KAFKA_RESOURCE_GROUP, group.as_ptr())
    };
    if resource.is_null() {
        return;
    }
    // SAFETY: client, queue and resource live through the call, which copies the resource and keeps a reference to the
    // queue; the resource is ours to destroy.
    unsafe {
        rd_kafka_DescribeConfigs(client.native(), &raw mut resource, 1, ptr::null(), client.queue());
        rd_kafka_ConfigResource_destroy(resource);
    }
}

/// What an answer says.
///
/// # Safety
/// The event is one of an answer to [`ask`], and lives.
pub(super) unsafe fn answer(event: *mut rd_kafka_event_t) -> Answer {
    // SAFETY: as asked of the caller; so below.
    if unsafe { rd_kafka_event_error(event) }.is_error() {
        return Answer::Unanswered;
    }
    let mut count = 0;
    // SAFETY: see above. The resources are the event's own, so many of them.
    let resources = unsafe {
        let result = rd_kafka_event_DescribeConfigs_result(event);
        slice_of(rd_kafka_DescribeConfigs_result_resources(result, &raw mut count), &count)
    };
    let Some(resource) = resources.first() else { return Answer::Unanswered };
    // SAFETY: see above.
    let code = unsafe { rd_kafka_ConfigResource_error(*resource) };
    if code.is_error() {
        return Answer::Refused(RDKafkaErrorCode::from(code).to_string());
    }
    // SAFETY: see above.
    let entries = unsafe { slice_of(rd_kafka_ConfigResource_configs(*resource, &raw mut count), &count) };
    let value = entries.iter().find_map(|entry| {
        // SAFETY: name and value are texts that end with a zero, or nothing, and are the event's own.
        unsafe {
            let (name, value) = (rd_kafka_ConfigEntry_name(*entry), rd_kafka_ConfigEntry_value(*entry));
            let is_it =
                !name.is_null() && !value.is_null() && CStr::from_ptr(name).to_bytes() == SETTING.as_bytes();
            is_it.then(|| CStr::from_ptr(value).to_string_lossy().into_owned())
        }
    });
    match value.as_ref().map(|value| value.parse()) {
        Some(Ok(ms)) => Answer::Session(Duration::from_millis(ms)),
        _ => Answer::Refused(format!("their answer has no `{SETTING}`")),
    }
}

/// # Safety
/// So many are there, or none, and live as long as the answer.
unsafe fn slice_of<'a, T>(begin: *const T, count: &usize) -> &'a [T] {
    if begin.is_null() {
        return &[];
    }
    // SAFETY: as asked of the caller.
    unsafe { slice::from_raw_parts(begin, *count) }
}
