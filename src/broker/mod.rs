//! What a backend gives a bus: one small trait to publish through and one to consume through.
//!
//! Nothing here waits. A [`Broker`] answers a publish through its [`Ticket`], at once or later from a thread of its
//! own; a [`Consumer`] hands over what is there and wakes its subscription through a `Waker` when there is more. The
//! decisions (which record may start, what a failure leads to, which position to commit) are made above, once, so
//! that every backend keeps the same promises.

mod fetched;
#[cfg(feature = "kafka")]
pub(crate) mod kafka;
#[cfg(any(feature = "kafka", test, fuzzing))]
mod log_id;
pub(crate) mod memory;
#[cfg(feature = "nats")]
pub(crate) mod nats;
#[cfg(any(feature = "kafka", test, fuzzing))]
pub(crate) mod position_text;

use crate::delivery::{Lease, Partition, Position};
use crate::record::Record;
use crate::sync::Arc;
use crate::wait::Clock;
use crate::wait::Op;
use crate::wait::Registration;
#[cfg(feature = "kafka")]
pub(crate) use fetched::Packed;
pub(crate) use fetched::{Fetched, FetchedRecord};
#[cfg(feature = "kafka")]
pub(crate) use log_id::LogId;
use std::ops::Range;
use std::task::Waker;
use std::time::{Duration, Instant};

/// What a backend can do beyond the contract, asked before a subscription or a publisher starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Capabilities {
    /// A record can be given back with a delay (`Then::Redeliver`). Without it such a policy is refused at subscribe.
    pub(crate) redeliver: bool,
    /// Publishes that are in flight together are stored in the order of the calls, also when one is tried again.
    /// Without it the publisher keeps at most one publish of a key in flight.
    pub(crate) orders_publishes: bool,
    /// The broker counts how often it handed a record out, and remembers that longer than any process lives: a record
    /// that was handed out more often than it may be tried is given up without another try, so that one which kills
    /// its process does not do so for ever.
    pub(crate) counts_deliveries: bool,
}

/// A connection to a broker, shared by all publishers and subscriptions of a bus.
pub(crate) trait Broker: Send + Sync + 'static {
    /// The value of `messaging.system` in spans and metrics, and the scheme of its URL.
    fn system(&self) -> &'static str;

    fn capabilities(&self) -> Capabilities;

    /// Where everything above reads the time.
    fn clock(&self) -> Clock {
        Clock::system()
    }

    /// Whether it is at the other end of a network, so that asking it waits for an answer, within a limit of its own.
    fn is_remote(&self) -> bool {
        false
    }

    /// How often positions are committed where nothing else is said. None: at each turn, where that is no round trip.
    fn commit_interval(&self) -> Option<Duration> {
        None
    }

    /// How many partitions the topic has.
    fn partitions(&self, topic: &str) -> Result<u32, BrokerError>;

    /// Creates the topic unless it is there.
    fn create_topic(&self, topic: &str) -> Result<(), BrokerError>;

    /// Stores a record and answers through the ticket, exactly once, from any thread. Never blocks.
    fn publish(&self, topic: &Arc<str>, record: Arc<Record>, ticket: Box<dyn Ticket>);

    /// Stores a record and answers in the call, where the backend can; what fails is not stored.
    fn append(&self, _topic: &Arc<str>, _record: &Arc<Record>) -> Option<Result<Stored, PublishFault>> {
        None
    }

    /// Has `wake` called whenever a publish that was answered [`PublishFault::Full`] is worth another try, until the
    /// registration is dropped. The wake may overtake the answer that it is for: a publish that is answered `Full`
    /// after a wake that came since its call is tried again at once.
    fn on_space(&self, wake: Waker) -> Registration;

    /// Joins the group. `wake` is called whenever [`Consumer::poll`] may have something new.
    fn subscribe(&self, spec: &ConsumerSpec, wake: Waker) -> Result<Box<dyn Consumer>, BrokerError>;

    /// Ends the connection of a bus that is closed, and its threads: nothing is published any more, and no consumer is
    /// left.
    fn close(&self) {}
}

/// Where the answer to a publish goes.
pub(crate) trait Ticket: Send {
    /// The same at each try of one record, and another for every other record of its publisher: a broker that is sent a
    /// record again, because its answer was lost, knows it by this.
    #[cfg_attr(not(feature = "nats"), expect(dead_code, reason = "the others know a record in other ways"))]
    fn id(&self) -> u64;

    fn answer(self: Box<Self>, result: Result<Stored, PublishFault>);
}

/// Where the broker put a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) partition: u32,
    pub(crate) offset: u64,
}

/// Why the broker did not store a record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PublishFault {
    /// Worth another try after a backoff.
    #[error("{0}")]
    Transient(String),
    /// The topic holds as much as it may; room comes when a group settles records, and a `wake` of the space
    /// listener tells.
    #[error("the topic is full")]
    Full,
    /// Another try gives the same answer.
    #[error("{0}")]
    Permanent(String),
}

/// What a subscription asks of a backend.
#[derive(Debug, Clone)]
pub(crate) struct ConsumerSpec {
    pub(crate) topics: Vec<Arc<str>>,
    pub(crate) group: Arc<str>,
    pub(crate) start: Start,
    /// To Envelopes, which are not to be lost.
    #[cfg_attr(
        not(feature = "nats"),
        expect(dead_code, reason = "no other backend keeps topics in several ways")
    )]
    pub(crate) takes_envelopes: bool,
    /// What is taken at most: records, and bytes.
    #[cfg_attr(
        not(any(feature = "kafka", feature = "nats")),
        expect(dead_code, reason = "memory needs none of it")
    )]
    pub(crate) budget: Budget,
    /// How long what runs may take when a partition is taken away.
    #[cfg_attr(
        not(feature = "kafka"),
        expect(dead_code, reason = "partitions are taken away on Kafka alone")
    )]
    pub(crate) drain_timeout: Duration,
}

#[cfg(test)]
impl ConsumerSpec {
    pub(crate) fn for_test(topic: &str, group: impl Into<Arc<str>>, start: Start) -> Self {
        let budget = Budget { records: 4096, bytes: 64 << 20 };
        let drain_timeout = Duration::from_secs(10);
        Self {
            topics: vec![topic.into()],
            group: group.into(),
            start,
            takes_envelopes: true,
            budget,
            drain_timeout,
        }
    }
}

/// Where a group that has no position yet begins.
///
/// ```
/// use keylane::Start;
///
/// let bus = keylane::connect("memory:?topics=orders").wait()?;
/// let alerts = bus.subscribe("orders").group("alerts").start(Start::Latest).handle(|event| {
///     println!("new: {event:?}");
///     Ok(())
/// })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Start {
    /// With the oldest record that is kept. The default.
    #[default]
    Earliest,
    /// With the first record stored after the subscription joined.
    Latest,
}

/// One member of a consumer group; owned by the thread of its subscription.
pub(crate) trait Consumer: Send {
    /// Appends what is there to `out`, at most `budget` of records, in order per partition. Never blocks.
    ///
    /// At least one record comes if one is there and `budget.records` is not 0, also when it is larger than
    /// `budget.bytes`. Only a poll that had room for a record and found none is followed by a wake when there is
    /// more; so is one that failed, when it is worth another try. What was not asked for (no room, paused) is not
    /// announced again: poll again when there is room or after resuming.
    fn poll(&mut self, budget: Budget, out: &mut Vec<Polled>) -> Result<(), BrokerError>;

    /// Whether the group has taken this member, so that what is stored from now on is not missed. A wake follows when
    /// that comes to be.
    fn has_joined(&self) -> bool {
        true
    }

    /// Until when the group vouches for what this member owns: one lease for all of it, and the same at each call. The
    /// backend extends and ends it, and wakes the subscription when it extends one that was over. It ends it before a poll
    /// can tell of a partition that is lost, so that nothing of that starts under a lease which came later.
    fn lease(&self) -> Lease {
        Lease::forever()
    }

    /// A number of the partition's ownership by which each owner has a greater one than those before it, in whichever
    /// process they were; none where there is no such number. Asked when the partition was assigned.
    fn fence(&self, _partition: Partition) -> Option<u64> {
        None
    }

    /// A record is over. Only for brokers that want to hear it of each; positions come by [`commit`](Self::commit).
    fn settled(&mut self, _partition: Partition, _offset: u64) {}

    /// Makes the position durable. A position of a generation that is gone is refused with `Fenced`.
    ///
    /// With [`Durability::Accepted`] it may be under way when this returns. If it fails later, the next polls say so
    /// with [`Polled::CommitFailed`], and commits of the partition give the error until one has passed.
    fn commit(
        &mut self,
        partition: Partition,
        position: &Position,
        durability: Durability,
    ) -> Result<Committed, BrokerError>;

    /// Gives one record back, to be delivered again after the delay. Only where `Capabilities::redeliver` is true.
    fn give_back(&mut self, partition: Partition, offset: u64, delay: Duration) -> Result<(), BrokerError>;

    /// When the next record that was given back is due: no wake tells of it, the subscription polls again by then.
    fn next_due(&self) -> Option<Instant>;

    /// Somebody waits until then for the end of this member: no wait for the broker, be it for a commit or for leaving
    /// the group, goes much beyond it.
    fn hurry(&mut self, _until: Instant) {}

    /// Answers [`Polled::Revoked`]: what started has ended and the position is committed; the partition may move.
    fn release(&mut self, partition: Partition);

    /// Asks for the end of each partition of the topics, whoever has it: the offset behind its last record. Where nothing
    /// is stored it may be left out. Never blocks.
    fn ends(&mut self) -> Op<Result<Vec<Mark>, BrokerError>>;

    /// Asks how far the group is in each partition of the topics: below the offset nothing is left to come, but for what
    /// this member was handed; of a partition that another member has all is settled there. Never blocks.
    ///
    /// A broker that is not remote wakes this member when its answer would be another one, or is worth another try.
    fn reached(&mut self) -> Op<Result<Vec<Mark>, BrokerError>>;

    /// Stops and resumes handing out new records of one partition; membership goes on. What was given back comes all
    /// the same: it may be what the partition was paused to wait for.
    fn set_paused(&mut self, partition: Partition, is_paused: bool);
}

/// An offset in a partition, and what it means by where it comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    /// Index into the topics of the subscription.
    pub(crate) topic: u32,
    pub(crate) partition: u32,
    pub(crate) offset: u64,
}

/// What a commit waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durability {
    /// For nothing: it may be under way.
    Accepted,
    /// For the broker's answer, or for a limit of the backend's, behind which it has failed.
    Confirmed,
}

/// How much of a position was committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Committed {
    All,
    /// The watermark, and as much of what is settled ahead of it as there is room for, which is all of it or almost.
    /// No record of the partition is fetched until a later position takes less room.
    Crowded,
}

/// How much a poll may hand out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Budget {
    pub(crate) records: usize,
    pub(crate) bytes: usize,
}

/// One thing that a poll found.
#[derive(Debug)]
pub(crate) enum Polled {
    /// Records of this partition follow from `position` on; what is settled ahead is not handed out again.
    Assigned(Partition, Position),
    /// The partition is wanted elsewhere: finish what started, commit, then [`Consumer::release`].
    Revoked(Partition),
    /// The partition is gone already; nothing may be committed.
    Lost(Partition),
    /// A commit that was accepted has failed, for this reason: the position is to be committed again.
    #[cfg_attr(
        not(feature = "kafka"),
        expect(dead_code, reason = "on Kafka alone a commit is under way when it was accepted")
    )]
    CommitFailed(Partition, String),
    /// The log is not what the group's position said of it.
    #[cfg_attr(
        not(any(feature = "kafka", feature = "nats")),
        expect(dead_code, reason = "a log in memory lives no longer than who reads it")
    )]
    Gone(Partition, Gone),
    /// It brings nothing though it should; none: it goes on again.
    #[cfg_attr(
        not(any(feature = "kafka", feature = "nats")),
        expect(dead_code, reason = "a log in memory always goes on")
    )]
    Stuck(Still, Option<Stuck>),
    Record(Fetched),
}

/// What stands still.
#[cfg_attr(
    not(any(feature = "kafka", feature = "nats")),
    expect(dead_code, reason = "a log in memory always goes on")
)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Still {
    /// Told of a partition that is assigned; over at the latest when it goes.
    Partition(Partition),
    /// The topic of this index as a whole: no partition of it may be here, since it was deleted, or may not be read.
    Topic(u32),
}

/// Why something stands still, in words for an operator: the cause as the client library knows it, and the next step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stuck {
    /// The offset that is waited for, where there is one.
    pub(crate) offset: Option<u64>,
    pub(crate) reason: String,
    pub(crate) since: Instant,
}

/// What a log has no more, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Gone {
    /// Records that no handler of the group has seen. Empty: nobody can say which they were.
    pub(crate) records: Range<u64>,
    /// How many of the range were not handled before.
    pub(crate) count: u64,
    pub(crate) reason: String,
}

/// What a broker refused, and why.
///
/// ```
/// use keylane::{BrokerError, Record, memory::MemoryBroker};
///
/// let broker = MemoryBroker::builder().build();
/// let refused = broker.append("orders", Record::new("paid")).unwrap_err();
/// assert_eq!(refused, BrokerError::NoSuchTopic { topic: "orders".to_owned() });
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BrokerError {
    /// The topic does not exist.
    #[error("topic `{topic}` does not exist; create it, or allow it with `create_topics`")]
    NoSuchTopic {
        /// The topic asked for.
        topic: String,
    },
    /// The partition has another owner by now.
    #[error(
        "partition {partition} of `{topic}` was assigned to another member; its position was not committed"
    )]
    Fenced {
        /// The topic.
        topic: String,
        /// The partition.
        partition: u32,
    },
    /// The broker could not be asked, or failed; worth another try.
    #[error("{0}")]
    Transient(String),
    /// The broker will not have it; another try gives the same answer.
    #[error("{0}")]
    Refused(String),
    /// The bus is closed.
    #[error("the bus is closed")]
    Closed,
}
