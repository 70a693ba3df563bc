//! How far the topics go and how far the group is in them, as the server knows it.

use super::api::{self, ApiFault, Context, ErrorCode};
use super::link::Link;
use crate::broker::{BrokerError, Mark};
use crate::sync::Arc;
use crate::wait::Op;
use tokio::runtime::Handle;
use tokio::sync::watch;

pub(super) type Marks = Result<Vec<Mark>, BrokerError>;

/// Where a topic and the group's consumer of it are.
pub(super) struct Place {
    pub(super) stream: String,
    /// Other topics are in the stream, too.
    pub(super) is_shared: bool,
    pub(super) subjects: String,
    pub(super) consumer: String,
}

#[derive(Debug, Clone, Copy)]
enum Question {
    Ends,
    Reached,
}

/// Asks the server, in tasks of their own.
pub(super) struct Asker {
    runtime: Handle,
    jetstream: Context,
    link: watch::Receiver<Link>,
    /// By topic.
    places: Arc<[Place]>,
}

impl Asker {
    pub(super) fn new(
        runtime: Handle,
        jetstream: Context,
        link: watch::Receiver<Link>,
        places: Vec<Place>,
    ) -> Self {
        Self { runtime, jetstream, link, places: places.into() }
    }

    /// Behind the last message of each topic; none of one that is empty.
    pub(super) fn ends(&self) -> Op<Marks> {
        self.ask(Question::Ends)
    }

    /// Behind what was acknowledged, or behind everything where nothing is left.
    pub(super) fn reached(&self) -> Op<Marks> {
        self.ask(Question::Reached)
    }

    fn ask(&self, question: Question) -> Op<Marks> {
        {
            let link = self.link.borrow();
            if !link.is_up {
                return Op::ready(Err(BrokerError::Transient(link.problem.clone())));
            }
        }
        let (promise, op) = Op::pending(|| Err(BrokerError::Closed));
        let (jetstream, places) = (self.jetstream.clone(), self.places.clone());
        self.runtime.spawn(async move { promise.complete(marks(&jetstream, &places, question).await) });
        op
    }
}

async fn marks(jetstream: &Context, places: &[Place], question: Question) -> Marks {
    let mut marks = Vec::new();
    for (topic, place) in (0..).zip(places) {
        let offset = match question {
            Question::Ends => end(jetstream, place).await,
            Question::Reached => reached(jetstream, place).await.map(Some),
        };
        match offset {
            Ok(offset) => marks.extend(offset.map(|offset| Mark { topic, partition: 0, offset })),
            Err(fault) => return Err(unknown(place, &fault)),
        }
    }
    Ok(marks)
}

async fn end(jetstream: &Context, place: &Place) -> Result<Option<u64>, ApiFault> {
    let last = if place.is_shared {
        api::last_of(jetstream, &place.stream, &place.subjects).await?
    } else {
        let state = api::stream_info(jetstream, &place.stream).await?.state;
        (state.messages > 0).then_some(state.last_sequence)
    };
    Ok(last.map(|last| last + 1))
}

async fn reached(jetstream: &Context, place: &Place) -> Result<u64, ApiFault> {
    let info = api::consumer_info(jetstream, &place.stream, &place.consumer).await?;
    // The floor passes what is of other topics, or was removed, only with the next message.
    let has_all = info.num_pending == 0 && info.num_ack_pending == 0;
    Ok(if has_all { u64::MAX } else { info.ack_floor.stream_sequence + 1 })
}

fn unknown(place: &Place, fault: &ApiFault) -> BrokerError {
    let Place { stream, consumer, .. } = place;
    let what = format!("it is not known how far consumer `{consumer}` of stream `{stream}` is: {fault}");
    // A consumer that was deleted is created again by its member.
    if fault.is_transient() || fault.code() == Some(ErrorCode::CONSUMER_NOT_FOUND) {
        BrokerError::Transient(what)
    } else {
        BrokerError::Refused(what)
    }
}
