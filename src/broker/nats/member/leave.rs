//! Leaving: what is settled is known to the server, and the rest goes on elsewhere at once.

use super::Member;
use async_nats::Subject;

impl Member {
    /// Lets go: what is settled is confirmed, the rest goes back in its order, and then the topic is anybody's.
    pub(super) async fn leave(&mut self) {
        self.is_leaving = true;
        let limit = self.setup.limit;
        let leaving = async {
            if self.may_act() {
                self.reset_inbox().await;
                self.confirm_before().await;
                let mut left: Vec<(u64, Subject)> = self.replies.drain().collect();
                left.sort_unstable_by_key(|(sequence, _)| *sequence);
                self.give_back_all(left.into_iter().map(|(_, reply)| reply).collect()).await;
                if self.timers.expired.is_some_and(|(_, is_lowered)| is_lowered) {
                    self.check().await;
                }
            }
            self.setup.tenure.leave().await;
        };
        let _ = tokio::time::timeout(limit, leaving).await;
    }
}
