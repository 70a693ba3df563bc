//! Leaving: what is settled is known to the server, and the rest goes on elsewhere at once.

use super::Member;
use crate::broker::nats::message::Delivery;
use crate::broker::nats::{durable, returned};
use crate::foreign;
use async_nats::Subject;
use std::time::Duration;

impl Member {
    /// Lets go: what is settled is confirmed, the rest goes back in its order, and somebody else is pinned.
    pub(super) async fn leave(&mut self) {
        self.is_leaving = true;
        if self.pin.is_none() || !self.is_up() {
            return;
        }
        let limit = self.setup.limit;
        let leaving = async {
            self.reset_inbox().await;
            self.confirm_before().await;
            let mut left: Vec<(u64, Subject)> = self.replies.drain().collect();
            left.sort_unstable_by_key(|(sequence, _)| *sequence);
            self.forgive(&left).await;
            for (_, reply) in left {
                self.give_back(reply, Duration::ZERO).await;
            }
            if self.timers.expired.is_some_and(|(_, is_lowered)| is_lowered) {
                self.check().await;
            }
            self.unpin().await;
        };
        let _ = tokio::time::timeout(limit, leaving).await;
    }

    /// Notes that what is given back was in the hands of a process that ended in an orderly way.
    async fn forgive(&mut self, left: &[(u64, Subject)]) {
        let times = |(sequence, reply): &(u64, Subject)| Some((*sequence, Delivery::of(reply)?.times));
        let note = returned::note(left.iter().filter_map(times));
        let (jetstream, stream) = (&self.setup.jetstream, &self.setup.stream.name);
        if left.is_empty() {
            return;
        }
        if let Err(fault) =
            durable::note(jetstream, stream, &self.setup.consumer, (returned::KEY, note)).await
        {
            foreign::warn!(
                topic = &*self.setup.topic.1,
                consumer = self.setup.wanted.name,
                %fault,
                "that records were given back in an orderly way could not be noted: it counts as an attempt of each"
            );
        }
    }
}
