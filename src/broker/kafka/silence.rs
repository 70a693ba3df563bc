//! What is done about a partition of which nothing arrives, and about one whose log is not what it was.

use super::anew::begin_anew;
use super::broker_health::Kind;
use super::group::Client;
use super::handoff::Handoff;
use super::stall::Finding;
use super::topics::log_end;
use crate::broker::{Gone, Partition, Polled};
use crate::foreign;
use std::time::{Duration, Instant};

/// Asks about one partition that was quiet for long: fetches anew where there is more than arrived, and goes on with
/// what is there where the log is not what it was. The answer may take up to the limit. Partitions of which it is known why
/// nothing comes are not asked about.
pub(super) fn find_stalled(
    client: &Client,
    handoff: &Handoff,
    knows_why: impl Fn(Partition) -> bool,
    now: Instant,
    limit: Duration,
) {
    let group = client.context();
    let quiet = {
        let own = group.own.lock();
        let quiet = own.assigned.iter().find(|assigned| {
            !assigned.is_stopped && now >= assigned.watch.ask_at() && !knows_why(assigned.partition)
        });
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
                let reason = format!(
                    "the log ends at {end} and {next} was to come next: the log was cut, or its topic made anew; it is \
                     handled from its first record"
                );
                let gone = Gone { records: end..end, count: 0, reason };
                begin_anew(client, handoff, partition, low, None, gone);
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

/// What was removed from a log ahead of what had been fetched.
pub(crate) fn removed(next: u64, low: u64) -> Gone {
    let reason = "retention, or somebody, removed them before they were fetched".to_owned();
    Gone { records: next..low, count: low - next, reason }
}
