//! What one writes by hand over librdkafka for order by key: a task of tokio for each lane, and a ledger for commits.

use super::{BACKOFF, FETCHING, Place, raw};
use crate::Outcome;
use crate::record::Mark;
use crate::work::Work;
use measure::version_of;
use rdkafka::consumer::{CommitMode, Consumer as _, StreamConsumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message as _;
use rdkafka::{Offset, TopicPartitionList};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::runtime::Builder;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

const THREADS: usize = 2;
/// Tasks; a key is always handled by the same one. Twice the keys, so that few share one.
const LANES: u64 = 2_048;
const IN_FLIGHT: usize = 16_384;
const COMMITS_EVERY: Duration = Duration::from_secs(1);

/// A record on its way through a lane.
struct Job {
    mark: Mark,
    partition: i32,
    offset: i64,
    _in_flight: OwnedSemaphorePermit,
}

/// The records of a partition that are not over, and those behind them that are.
#[derive(Default)]
struct Ledger {
    /// Offset, and whether its record is over, in the order of delivery.
    delivered: VecDeque<(i64, bool)>,
    /// What to commit.
    watermark: Option<i64>,
}

impl Ledger {
    fn over(&mut self, offset: i64) {
        if let Ok(at) = self.delivered.binary_search_by_key(&offset, |(offset, _)| *offset) {
            self.delivered[at].1 = true;
        }
        while let Some((offset, true)) = self.delivered.front() {
            self.watermark = Some(offset + 1);
            self.delivered.pop_front();
        }
    }
}

type Ledgers = Arc<Mutex<HashMap<i32, Ledger>>>;

pub(super) fn run(place: &Place, work: Work) -> Result<Outcome, String> {
    let runtime = Builder::new_multi_thread().worker_threads(THREADS).enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let entered = runtime.enter();
    let work = Arc::new(work);
    let ledgers = Ledgers::default();
    let consumer: StreamConsumer = raw::client(place).create().map_err(|error| error.to_string())?;
    let consumer = Arc::new(consumer);
    consumer.subscribe(&[&place.topic]).map_err(|error| error.to_string())?;
    runtime.spawn(commit(consumer.clone(), place.topic.clone(), ledgers.clone()));
    runtime.spawn(deliver(consumer, work.clone(), ledgers));
    let in_vain = work.wait();
    let measured = work.measured(in_vain)?;
    drop(entered);
    runtime.shutdown_background();
    Ok(Outcome {
        measured,
        workers: THREADS,
        settings: format!(
            "StreamConsumer on tokio with {THREADS} threads, {LANES} tasks by hash of the key, {IN_FLIGHT} records in \
             flight, {FETCHING:?}; Envelope::parse and headers as keylane reads them, on the delivering task; a ledger \
             in a mutex, commits each second; a failed record is tried again in its lane after {:?}; no rebalance is \
             handled",
            BACKOFF.start
        ),
        version: version_of("rdkafka"),
    })
}

async fn deliver(consumer: Arc<StreamConsumer>, work: Arc<Work>, ledgers: Ledgers) -> Result<(), KafkaError> {
    let lanes: Vec<UnboundedSender<Job>> = (0..LANES)
        .map(|_| {
            let (lane, jobs) = unbounded_channel();
            tokio::spawn(handle(jobs, work.clone(), ledgers.clone()));
            lane
        })
        .collect();
    let in_flight = Arc::new(Semaphore::new(IN_FLIGHT));
    loop {
        let permit = in_flight.clone().acquire_owned().await.expect("it is never closed");
        let message = consumer.recv().await?;
        let (mark, partition, offset) = (raw::decode(&message), message.partition(), message.offset());
        let mut open = ledgers.lock().unwrap_or_else(PoisonError::into_inner);
        open.entry(partition).or_default().delivered.push_back((offset, false));
        drop(open);
        let lane = measure::worker_of(mark.key, LANES as usize);
        let job = Job { mark, partition, offset, _in_flight: permit };
        assert!(lanes[lane].send(job).is_ok(), "a lane ends after its sender");
    }
}

async fn handle(mut jobs: UnboundedReceiver<Job>, work: Arc<Work>, ledgers: Ledgers) {
    while let Some(job) = jobs.recv().await {
        while work.by_tokio(job.mark).await.is_err() {
            tokio::time::sleep(BACKOFF.start).await;
        }
        let mut ledgers = ledgers.lock().unwrap_or_else(PoisonError::into_inner);
        ledgers.entry(job.partition).or_default().over(job.offset);
    }
}

async fn commit(consumer: Arc<StreamConsumer>, topic: String, ledgers: Ledgers) -> Result<(), KafkaError> {
    loop {
        tokio::time::sleep(COMMITS_EVERY).await;
        let mut positions = TopicPartitionList::new();
        for (partition, ledger) in ledgers.lock().unwrap_or_else(PoisonError::into_inner).iter_mut() {
            if let Some(watermark) = ledger.watermark.take() {
                positions.add_partition_offset(&topic, *partition, Offset::Offset(watermark))?;
            }
        }
        if positions.count() > 0 {
            consumer.commit(&positions, CommitMode::Async)?;
        }
    }
}
