//! Tells a thread that a producer's client has something for it.

use super::answers::Client;
use crate::sync::Arc;
use rdkafka::bindings::{
    rd_kafka_queue_cb_event_enable, rd_kafka_queue_destroy, rd_kafka_queue_get_main, rd_kafka_queue_length,
    rd_kafka_queue_t, rd_kafka_t,
};
use rdkafka::producer::Producer as _;
use std::ffi::c_void;
use std::ptr::{self, NonNull};
use std::task::Waker;

/// Wakes whenever the client's queue has something again, until it is dropped.
///
/// By hand, since the crate gives only consumers a callback for this, and its producer's blocking poll spends the last
/// millisecond of its time in a loop: 3 % of a core where nothing happens, measured with polls of 25 ms.
pub(super) struct QueueWaker {
    queue: NonNull<rd_kafka_queue_t>,
    /// In a place of its own, which the queue knows.
    _waker: Box<Waker>,
    /// The queue is the client's.
    _client: Arc<Client>,
}

unsafe extern "C" fn wake(_: *mut rd_kafka_t, waker: *mut c_void) {
    // SAFETY: it is the waker of one of these, which disables this callback before the waker goes.
    let waker = unsafe { &*waker.cast::<Waker>() };
    waker.wake_by_ref();
}

impl QueueWaker {
    pub(super) fn register(client: Arc<Client>, waker: Waker) -> Option<Self> {
        let waker = Box::new(waker);
        // SAFETY: the client lives, and the reference to its queue is given back when this is dropped.
        let queue = NonNull::new(unsafe { rd_kafka_queue_get_main(client.client().native_ptr()) })?;
        let place = ptr::from_ref::<Waker>(&waker).cast_mut().cast::<c_void>();
        // SAFETY: queue and waker live until this is dropped, which disables the callback first. A waker may be
        // woken from any thread.
        unsafe { rd_kafka_queue_cb_event_enable(queue.as_ptr(), Some(wake), place) };
        Some(Self { queue, _waker: waker, _client: client })
    }

    /// How much is waiting to be polled.
    pub(super) fn waiting(&self) -> usize {
        // SAFETY: the reference to the queue is ours.
        unsafe { rd_kafka_queue_length(self.queue.as_ptr()) }
    }
}

impl Drop for QueueWaker {
    fn drop(&mut self) {
        // SAFETY: the reference to the queue is ours, and given back last. Disabling takes the lock under which the
        // callback is called, so none is under way behind it.
        unsafe {
            rd_kafka_queue_cb_event_enable(self.queue.as_ptr(), None, ptr::null_mut());
            rd_kafka_queue_destroy(self.queue.as_ptr());
        }
    }
}
