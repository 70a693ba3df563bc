//! The task that keeps a member's claim to its topic: it asks what the claim wants asked, and tells what comes of it.
//!
//! It is apart from the member's own task, which waits for answers about its consumer: a lease must not end for that.

use super::claim::{Answer, Ask, Change, Claim};
use super::leases::Record;
use super::link::Link;
use super::mailbox::Mailbox;
use crate::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot, watch};

/// What a member hears of its claim.
#[derive(Debug)]
pub(super) enum Told {
    Change(Change),
    /// Why its record can't be read or written; none: it can again.
    Problem(Option<String>),
}

pub(super) struct Keeper {
    claim: Claim,
    record: Record,
    link: watch::Receiver<Link>,
    mailbox: Arc<Mailbox>,
    topic: u32,
    takeover_after: Duration,
    /// Of the record that is this one's, when it was taken.
    fence: u64,
    tell: mpsc::UnboundedSender<Told>,
    leaving: oneshot::Receiver<()>,
    /// Since when nothing comes of what is asked, and whether that was told.
    failing: Option<(Instant, bool)>,
}

/// A member's side of its keeper.
pub(super) struct Tenure {
    pub(super) told: mpsc::UnboundedReceiver<Told>,
    leave: Option<oneshot::Sender<()>>,
}

impl Keeper {
    pub(super) fn new(
        record: Record,
        link: watch::Receiver<Link>,
        mailbox: Arc<Mailbox>,
        topic: u32,
    ) -> (Self, Tenure) {
        let (tell, told) = mpsc::unbounded_channel();
        let (leave, leaving) = oneshot::channel();
        let takeover_after = record.takeover_after;
        let claim = Claim::new(uuid::Uuid::now_v7().as_u128(), takeover_after, Instant::now());
        let keeper = Self {
            claim,
            record,
            link,
            mailbox,
            topic,
            takeover_after,
            fence: 0,
            tell,
            leaving,
            failing: None,
        };
        (keeper, Tenure { told, leave: Some(leave) })
    }

    /// Until the record is given back, or it would be another's by then anyway.
    pub(super) async fn run(mut self) {
        let mut left: Option<Instant> = None;
        while let Some(due) = self.claim.due() {
            tokio::select! {
                biased;
                // Also when the member has ended without a word.
                _ = &mut self.leaving, if left.is_none() => {
                    let now = Instant::now();
                    left = Some(now);
                    self.mailbox.left(self.topic);
                    let change = self.claim.release(now);
                    self.follow(change);
                }
                () = tokio::time::sleep_until(due.into()) => self.ask().await,
            }
            if left.is_some_and(|left| left.elapsed() > self.takeover_after) {
                return;
            }
        }
    }

    async fn ask(&mut self) {
        let Some(ask) = self.claim.ask(Instant::now()) else { return };
        let answer = self.answer(ask).await;
        let now = Instant::now();
        let answer = match answer {
            Ok(answer) => {
                if matches!(self.failing.take(), Some((_, true))) {
                    let _ = self.tell.send(Told::Problem(None));
                }
                answer
            }
            Err(reason) => {
                self.failed(now, reason);
                Answer::Nothing
            }
        };
        let change = self.claim.answered(now, answer);
        if let Some(Change::Taken { fence, .. }) = change {
            self.fence = fence;
        }
        if let Some(until) = self.claim.until() {
            self.mailbox.vouch(self.topic, self.fence, until);
        }
        self.follow(change);
    }

    async fn answer(&mut self, ask: Ask) -> Result<Answer, Option<String>> {
        let limit = self.claim.limit();
        self.link.mark_unchanged();
        if self.link.borrow().is_up {
            return self.record.ask(ask, limit).await.map_err(Some);
        }
        // Sent now it would wait in the client, and be stored when nobody expects it any more.
        let _ = tokio::time::timeout(limit, self.link.changed()).await;
        Err(None)
    }

    /// Without a reason there is no connection, which is told by others.
    fn failed(&mut self, now: Instant, reason: Option<String>) {
        let Some(reason) = reason else { return };
        let patience = (self.takeover_after / 5).min(Duration::from_secs(2));
        let (since, is_told) = self.failing.get_or_insert((now, false));
        if !*is_told && now.saturating_duration_since(*since) >= patience {
            *is_told = true;
            let subject = &self.record.subject;
            let text = format!("it can't be known who owns the topic (record `{subject}`): {reason}");
            let _ = self.tell.send(Told::Problem(Some(text)));
        }
    }

    fn follow(&mut self, change: Option<Change>) {
        let Some(change) = change else { return };
        if change == Change::Lost {
            self.mailbox.lost(self.topic);
        }
        // A member that has ended has nothing to do any more.
        let _ = self.tell.send(Told::Change(change));
    }
}

impl Tenure {
    /// Gives the record back, and waits until it is.
    pub(super) async fn leave(&mut self) {
        let Some(leave) = self.leave.take() else { return };
        let _ = leave.send(());
        while let Some(told) = self.told.recv().await {
            if matches!(told, Told::Change(Change::Released)) {
                return;
            }
        }
    }
}
