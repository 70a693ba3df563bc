//! What is done about a partition of which nothing arrives, and about one whose log is not what it was.

use super::broker_health::Kind;
use super::group::Client;
use super::handoff::Handoff;
use super::stall::Finding;
use super::topics::log_end;
use crate::broker::{Gone, Partition, Polled, Position};
use crate::foreign;
use std::time::{Duration, Instant};

/// Asks about one partition that was quiet for long: fetches anew where there is more than arrived, and goes on with
/// what is there where the log is not what it was. The answer may take up to the limit.
pub(super) fn find_stalled(client: &Client, handoff: &Handoff, now: Instant, limit: Duration) {
    let group = client.context();
    let quiet = {
        let own = group.own.lock();
        let quiet =
            own.assigned.iter().find(|assigned| !assigned.is_stopped && now >= assigned.watch.ask_at());
        quiet.map(|assigned| (assigned.partition, assigned.next))
    };
    let Some((partition, next)) = quiet else { return };
    let (topic, number) =
        (&*handoff.spec.topics[partition.topic as usize], partition.partition.cast_signed());
    let marks = client.client().fetch_watermarks(topic, number, limit);
    let (finding, low) = {
        let mut own = group.own.lock();
        let Some(assigned) = own.find(partition.topic as usize, number) else { return };
        match marks {
            Ok((low, end)) => {
                let (low, end) = (low as u64, end as u64);
                (assigned.watch.answered(next, (low, end), now), low)
            }
            Err(error) => {
                assigned.watch.is_alive(now);
                own.heard.push((Kind::Connection, error.to_string()));
                return;
            }
        }
    };
    let from = match finding {
        Finding::Nothing => return,
        Finding::Stalled => {
            foreign::warn!(
                topic,
                partition = number,
                offset = next,
                group = &*handoff.spec.group,
                "nothing has arrived for long though the broker has more: fetching it anew"
            );
            next
        }
        Finding::Gone => {
            if let Some(assigned) = group.own.lock().find(partition.topic as usize, number) {
                assigned.next = low;
            }
            handoff.state.lock().mailbox.push_event(Polled::Gone(partition, removed(next, low)));
            handoff.wake_subscription();
            low
        }
        Finding::Ended => match log_end(&group.properties, topic, number, limit) {
            Ok(end) if end < next => {
                begin_anew(client, handoff, partition, next, (low, end));
                low
            }
            // Behind an open transaction, or not known.
            Ok(_) | Err(_) => return,
        },
    };
    if let Err(error) = client.seek(topic, number, from) {
        foreign::warn!(%error, topic, partition = number, "it could not be fetched anew");
    }
}

/// The partition's log is another one: what is known of the one before means nothing in it.
fn begin_anew(client: &Client, handoff: &Handoff, before: Partition, next: u64, (low, end): (u64, u64)) {
    let reason = format!(
        "the log ends at {end} and {next} was to come next: the log was cut, or its topic made anew; it is handled \
         from its first record"
    );
    let gone = Gone { records: end..end, count: 0, reason };
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
        state.commits.forget((before.topic, before.partition))
    };
    handoff.wake_subscription();
    unheard
        .into_iter()
        .for_each(|waiter| waiter.complete(Err("the partition's log is another one".to_owned())));
}

/// What was removed from a log ahead of what had been fetched.
pub(super) fn removed(next: u64, low: u64) -> Gone {
    let reason = "retention, or somebody, removed them before they were fetched".to_owned();
    Gone { records: next..low, count: low - next, reason }
}
