//! Where a group begins in the partitions that come to it.

use super::beginning::{Begin, begin};
use super::commits::TopicPartition;
use super::group::{Client, Group, LOOK};
use super::topics;
use crate::broker::Start;
use crate::foreign;
use rdkafka::error::KafkaResult;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::time::{Duration, Instant};

/// How long the brokers may take for one answer inside a rebalance, until they are asked again.
const ASK: Duration = Duration::from_secs(1);

impl Group {
    /// Where each partition begins, asked until it is known. None if it is not wanted any more.
    pub(super) fn positions(
        &self,
        client: &Client,
        list: &TopicPartitionList,
    ) -> Option<Vec<(TopicPartition, Begin)>> {
        let mut shown = false;
        loop {
            if self.is_closing() || client.assignment_lost() {
                return None;
            }
            match self.ask_positions(client, list) {
                Ok(positions) => {
                    if shown {
                        self.handoff.state.lock().problem = None;
                    }
                    return Some(positions);
                }
                Err(error) => {
                    let group = &self.spec().group;
                    let reason = format!("the positions of group `{group}` are not known yet: {error}");
                    shown = true;
                    self.handoff.state.lock().problem = Some(reason);
                    self.handoff.wake_subscription();
                    self.parker.park_until(Some(Instant::now() + LOOK));
                }
            }
        }
    }

    fn ask_positions(
        &self,
        client: &Client,
        list: &TopicPartitionList,
    ) -> KafkaResult<Vec<(TopicPartition, Begin)>> {
        if list.count() == 0 {
            return Ok(Vec::new());
        }
        let mut asked = list.clone();
        asked.set_all_offsets(Offset::Invalid)?;
        let committed = client.committed(asked, ASK)?;
        let (mut positions, mut begun) = (Vec::new(), TopicPartitionList::new());
        for element in committed.elements() {
            element.error()?;
            let (topic, partition) = (element.topic(), element.partition());
            let Some(place) = self.place(topic, partition) else { continue };
            let found = match element.offset() {
                Offset::Offset(offset) => Some((offset as u64, element.metadata())),
                _ => None,
            };
            let (low, end) = client.client().fetch_watermarks(topic, partition, ASK)?;
            let (low, mut high) = (low as u64, end as u64);
            if found.is_some_and(|(offset, _)| offset > high) {
                // A leader that was just elected may not know of all yet: it counts when it is said again.
                self.parker.park_until(Some(Instant::now() + ASK));
                high = topics::log_end(&self.properties, topic, partition, ASK)?;
            }
            let start = if self.own.lock().is_later(place) { Start::Earliest } else { self.spec().start };
            let begin = begin(found, (low, high), start);
            if let Some(text) = &begin.unread {
                let group = &*self.spec().group;
                foreign::warn!(
                    topic,
                    partition,
                    group,
                    offset = begin.position.watermark,
                    text,
                    "what stands beside the committed offset is not believed: records that were handled ahead of it may \
                     be handled again"
                );
            }
            if found.is_none() {
                begun.add_partition_offset(
                    topic,
                    partition,
                    Offset::Offset(begin.position.watermark.cast_signed()),
                )?;
            }
            positions.push((place, begin));
        }
        // From here on the group has a position: whatever comes later is not skipped after a crash.
        if self.spec().start == Start::Latest && begun.count() > 0 {
            client.commit(&begun)?;
        }
        Ok(positions)
    }
}
