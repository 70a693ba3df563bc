//! Publishes the file, row by row.

use crate::consumer::{Topics, Work};
use crate::rows::{Row, Rows};
use keylane::{Bus, Envelope, Op, PublishError, Receipt, Record};
use std::collections::VecDeque;

/// How many publishes may be unanswered. The file can be of any size, so not all of their operations are kept.
const WINDOW: usize = 1024;

type Error = Box<dyn std::error::Error + Send + Sync>;

pub(crate) fn publish(bus: &Bus, topics: &Topics, rows: &Rows, work: &Work) -> Result<(), Error> {
    let mut unanswered: VecDeque<Op<Result<Receipt, PublishError>>> = VecDeque::with_capacity(WINDOW);
    rows.for_each(|number, row| {
        if unanswered.len() == WINDOW
            && let Some(oldest) = unanswered.pop_front()
        {
            oldest.wait()?;
        }
        unanswered.push_back(publish_row(bus, topics, work, number, row)?);
        Ok(())
    })?;
    for operation in unanswered {
        operation.wait()?;
    }
    Ok(())
}

fn publish_row(
    bus: &Bus,
    topics: &Topics,
    work: &Work,
    number: usize,
    row: Row,
) -> Result<Op<Result<Receipt, PublishError>>, Error> {
    let id = work.event_id(number);
    if let Some(aggregate_id) = row.aggregate_id {
        let envelope = Envelope::new(aggregate_id, "row.read", 1, row.json)?.with_event_id(id)?;
        work.ledger.publishes(number);
        Ok(bus.publish(&topics.keyed, envelope))
    } else {
        let record = Record::new(row.json).with_header(Envelope::EVENT_ID_HEADER, id);
        work.ledger.publishes(number);
        Ok(bus.publish(&topics.unkeyed, record))
    }
}
