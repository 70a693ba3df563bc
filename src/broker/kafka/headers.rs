//! The headers of a fetched record, as librdkafka has them.

use super::events::Message;
use rdkafka::bindings::{rd_kafka_header_get_all, rd_kafka_message_headers};
use rdkafka::types::RDKafkaRespErr;
use std::borrow::Cow;
use std::ffi::CStr;
use std::{ptr, slice};

/// Calls `each` with name and value of each header. A name that is no UTF-8, or a value that is missing, comes from a
/// client that is none of ours: the name is shown as well as it can be, and the value is empty.
///
/// By hand, because the crate's own headers panic on such a name.
pub(super) fn each_header(message: &Message<'_>, each: &mut dyn FnMut(&str, &[u8])) {
    let mut headers = ptr::null_mut();
    // SAFETY: the message is borrowed, so it lives; its headers are its own, and are taken apart at most once.
    let found = unsafe { rd_kafka_message_headers(message.ptr(), &raw mut headers) };
    if found != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
        return;
    }
    for index in 0.. {
        let (mut name, mut value, mut size) = (ptr::null(), ptr::null(), 0);
        // SAFETY: the headers are those of the borrowed message; behind the last there is an error and no pointer.
        let found =
            unsafe { rd_kafka_header_get_all(headers, index, &raw mut name, &raw mut value, &raw mut size) };
        if found != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
            return;
        }
        // SAFETY: a name ends with a zero and lives as long as its message.
        let name = unsafe { CStr::from_ptr(name) };
        let name = name.to_str().map_or_else(|_| name.to_string_lossy(), Cow::Borrowed);
        let value = if value.is_null() {
            &[][..]
        } else {
            // SAFETY: so many bytes are there, and live as long as the message.
            unsafe { slice::from_raw_parts(value.cast::<u8>(), size) }
        };
        each(&name, value);
    }
}
