//! What is done where a partition's log is another one than before.

use super::group::Client;
use super::handoff::Handoff;
use super::inquiry::{Answer, Inquiry};
use crate::broker::{Gone, LogId, Partition, Polled, Position};
use crate::foreign;
use rdkafka::topic_partition_list::Offset;
use std::time::Duration;

/// The topic of these partitions was made anew: each is handled from its first record. What can't be asked about within the
/// limit stays as it is, and is found again.
pub(super) fn log_made_anew(
    client: &Client,
    handoff: &Handoff,
    partitions: &[Partition],
    log: LogId,
    limit: Duration,
) {
    let mut inquiry = Inquiry::new(client);
    let list = client.context().list(partitions.iter().copied());
    inquiry.list(client, list, Offset::Beginning, limit);
    let Some(Answer::Offsets(lows)) = inquiry.answer(client, limit) else { return };
    for partition in partitions {
        let place = (partition.topic, partition.partition);
        let Some(low) = lows.get(&place).copied() else { continue };
        let (topic, number) =
            (&*handoff.spec.topics[partition.topic as usize], partition.partition.cast_signed());
        // First, since it also drops what the client has of the log at its old place, which would come next.
        if let Err(error) = client.seek(topic, number, low) {
            foreign::warn!(%error, topic, partition = number, "a topic was made anew and can't be fetched from its begin yet");
            continue;
        }
        let before = handoff.state.lock().logs.get(&place).copied();
        let was = before.map(|before| format!(", and was {before}")).unwrap_or_default();
        let reason = format!(
            "the topic was deleted and made anew (its id is {log}{was}): it is handled from its first record"
        );
        begin_anew(client, handoff, *partition, low, Some(log), Gone { records: low..low, count: 0, reason });
    }
}

/// The partition's log is another one: what is known of the one before means nothing in it. With the id of the log, where
/// that is another one, too.
pub(super) fn begin_anew(
    client: &Client,
    handoff: &Handoff,
    before: Partition,
    low: u64,
    log: Option<LogId>,
    gone: Gone,
) {
    let unheard = {
        let mut own = client.context().own.lock();
        let mut state = handoff.state.lock();
        let Some(assigned) = own.find(before.topic as usize, before.partition.cast_signed()) else {
            return;
        };
        state.generations += 1;
        let partition = Partition { generation: state.generations, ..before };
        (assigned.partition, assigned.next) = (partition, low);
        state.mailbox.lose(before);
        state.mailbox.assign(partition, Position { watermark: low, ahead: Vec::new() });
        state.mailbox.push_event(Polled::Gone(partition, gone));
        if let Some(log) = log {
            state.logs.insert((before.topic, before.partition), log);
        }
        state.commits.forget((before.topic, before.partition))
    };
    handoff.wake_subscription();
    unheard
        .into_iter()
        .for_each(|waiter| waiter.complete(Err("the partition's log is another one".to_owned())));
}
