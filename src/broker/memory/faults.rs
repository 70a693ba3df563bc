//! Faults that a test plants in a memory broker.

use crate::record::Record;
use crate::sync::{Arc, AtomicBool, Mutex, Ordering};
use crate::wait::Listeners;
use std::collections::HashMap;
use std::fmt;

/// Makes a [`MemoryBroker`](super::MemoryBroker) fail in chosen ways, so that a program's own tests can see how it
/// copes; from [`MemoryBroker::faults`](super::MemoryBroker::faults).
///
/// Cloning shares the faults. They hold for everyone on the broker from the call on; a publish or a settle that runs
/// at the same moment may come before or after. Without a fault the broker pays one atomic load for them.
///
/// ```
/// use keylane::memory::MemoryBroker;
/// use keylane::{BrokerError, Record};
///
/// let broker = MemoryBroker::builder().topic("orders").build();
/// broker.faults().fail_next_publishes("orders", 1);
/// let first = broker.append("orders", Record::new("a"));
/// assert!(matches!(first, Err(BrokerError::Transient(_))));
/// assert!(broker.append("orders", Record::new("a")).is_ok());
/// ```
#[derive(Clone)]
pub struct Faults(Arc<Inner>);

struct Inner {
    /// Whether `plan` says anything at all: most brokers never see a fault.
    is_armed: AtomicBool,
    is_unreachable: AtomicBool,
    plan: Mutex<Plan>,
    /// Consumers and publishers, told when the broker is reachable again.
    members: Arc<Listeners>,
    space: Arc<Listeners>,
}

#[derive(Default)]
struct Plan {
    publishes: HashMap<String, usize>,
    publishes_when: Option<PublishPredicate>,
    lost_settles: usize,
    failed_settles: usize,
}

type PublishPredicate = Arc<dyn Fn(&str, &Record) -> bool + Send + Sync>;

/// What becomes of a settle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SettleFault {
    /// Answered as if it were kept.
    Lost,
    Failed,
}

impl Faults {
    pub(super) fn new(members: Arc<Listeners>, space: Arc<Listeners>) -> Self {
        Self(Arc::new(Inner {
            is_armed: AtomicBool::new(false),
            is_unreachable: AtomicBool::new(false),
            plan: Mutex::new(Plan::default()),
            members,
            space,
        }))
    }

    /// Answers the next `n` publishes into the topic with a transient error and stores nothing; 0 ends it. Replaces
    /// what was said for the topic before.
    ///
    /// ```
    /// use keylane::{Record, memory::MemoryBroker};
    ///
    /// let broker = MemoryBroker::builder().topic("orders").build();
    /// broker.faults().fail_next_publishes("orders", 2);
    /// let answers: Vec<_> = (0..3).map(|_| broker.append("orders", Record::new("paid")).is_ok()).collect();
    /// assert_eq!(answers, [false, false, true]);
    /// ```
    pub fn fail_next_publishes(&self, topic: &str, n: usize) {
        self.change(|plan| plan.publishes.insert(topic.to_owned(), n));
    }

    /// Answers every publish for which the function is true with a transient error and stores nothing. Replaces the
    /// function given before.
    ///
    /// The function is called on the publishing thread, without a lock held.
    ///
    /// ```
    /// use keylane::Record;
    /// use keylane::memory::MemoryBroker;
    ///
    /// let broker = MemoryBroker::builder().topic("orders").build();
    /// broker.faults().fail_publishes_when(|_, record| record.key.as_deref() == Some(&b"order-7"[..]));
    /// assert!(broker.append("orders", Record::new("a").with_key("order-7")).is_err());
    /// assert!(broker.append("orders", Record::new("a").with_key("order-8")).is_ok());
    /// ```
    pub fn fail_publishes_when(&self, is_failed: impl Fn(&str, &Record) -> bool + Send + Sync + 'static) {
        self.change(|plan| plan.publishes_when = Some(Arc::new(is_failed)));
    }

    /// Answers the next `n` settles as if they were kept, but does not keep them: what they settled comes again
    /// unless a later one settles it too. 0 ends it.
    ///
    /// A settle is one commit of a group's position in one partition, not one record.
    ///
    /// ```
    /// use keylane::{Config, Record, memory::MemoryBroker};
    /// # use std::time::Duration;
    ///
    /// let broker = MemoryBroker::builder().topic_with("orders", 1).build();
    /// broker.append("orders", Record::new("paid"))?;
    /// broker.faults().lose_next_settles(1);
    /// let bus = broker.connect(Config::default())?;
    /// let orders = bus.subscribe("orders").group("billing").handle(|_| Ok(()))?;
    /// orders.caught_up().wait()?;
    /// orders.drain(Duration::from_secs(10)).wait();
    /// assert_eq!(broker.watermarks("billing", "orders")?, Some(vec![0]), "the record comes again");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn lose_next_settles(&self, n: usize) {
        self.change(|plan| plan.lost_settles = n);
    }

    /// Answers the next `n` settles with a transient error and does not keep them; 0 ends it. Settles that are to be
    /// lost come first.
    ///
    /// ```
    /// use keylane::{Config, Record, memory::MemoryBroker};
    /// # use std::time::Duration;
    ///
    /// let broker = MemoryBroker::builder().topic_with("orders", 1).build();
    /// broker.append("orders", Record::new("paid"))?;
    /// broker.faults().fail_next_settles(1);
    /// let bus = broker.connect(Config::default())?;
    /// let orders = bus.subscribe("orders").group("billing").handle(|_| Ok(()))?;
    /// orders.caught_up().wait()?;
    /// orders.drain(Duration::from_secs(10)).wait();
    /// assert_eq!(broker.watermarks("billing", "orders")?, Some(vec![1]));
    /// assert_eq!(orders.stats().succeeded, 1, "settled at the second try, and handled once");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn fail_next_settles(&self, n: usize) {
        self.change(|plan| plan.failed_settles = n);
    }

    /// Makes the broker unreachable while `true`: publishes, polls and settles are answered with a transient error.
    /// With `false` it is reachable again, and who waits for it is woken.
    ///
    /// ```
    /// use keylane::Record;
    /// use keylane::memory::MemoryBroker;
    ///
    /// let broker = MemoryBroker::builder().topic("orders").build();
    /// broker.faults().pause_deliveries(true);
    /// assert!(broker.append("orders", Record::new("a")).is_err());
    /// broker.faults().pause_deliveries(false);
    /// assert!(broker.append("orders", Record::new("a")).is_ok());
    /// ```
    pub fn pause_deliveries(&self, is_paused: bool) {
        // ORDERING: Release pairs with the Acquire of `is_unreachable`; who is woken below sees the new value.
        self.0.is_unreachable.store(is_paused, Ordering::Release);
        // Consumers notice a connection that breaks, too.
        self.0.members.wake_all();
        if !is_paused {
            self.0.space.wake_all();
        }
    }

    /// Ends all faults.
    ///
    /// ```
    /// use keylane::Record;
    /// use keylane::memory::MemoryBroker;
    ///
    /// let broker = MemoryBroker::builder().topic("orders").build();
    /// broker.faults().fail_next_publishes("orders", 1_000);
    /// broker.faults().clear();
    /// assert!(broker.append("orders", Record::new("a")).is_ok());
    /// ```
    pub fn clear(&self) {
        self.change(|plan| *plan = Plan::default());
        self.pause_deliveries(false);
    }

    fn change<R>(&self, change: impl FnOnce(&mut Plan) -> R) {
        let mut plan = self.0.plan.lock();
        change(&mut plan);
        // ORDERING: Relaxed: the lock publishes the plan, this only says whether to look at it.
        self.0.is_armed.store(plan.says_anything(), Ordering::Relaxed);
    }

    pub(super) fn is_unreachable(&self) -> bool {
        // ORDERING: Acquire: see `pause_deliveries`.
        self.0.is_unreachable.load(Ordering::Acquire)
    }

    /// Whether this publish fails.
    pub(super) fn takes_publish(&self, topic: &str, record: &Record) -> bool {
        // ORDERING: Relaxed: see `change`.
        if !self.0.is_armed.load(Ordering::Relaxed) {
            return false;
        }
        let mut is_taken = false;
        let mut predicate = None;
        self.change(|plan| {
            is_taken = plan.publishes.get_mut(topic).is_some_and(take_one);
            predicate.clone_from(&plan.publishes_when);
        });
        is_taken || predicate.is_some_and(|is_failed| is_failed(topic, record))
    }

    pub(super) fn takes_settle(&self) -> Option<SettleFault> {
        // ORDERING: Relaxed: see `change`.
        if !self.0.is_armed.load(Ordering::Relaxed) {
            return None;
        }
        let mut fault = None;
        self.change(|plan| {
            if take_one(&mut plan.lost_settles) {
                fault = Some(SettleFault::Lost);
            } else if take_one(&mut plan.failed_settles) {
                fault = Some(SettleFault::Failed);
            }
        });
        fault
    }
}

impl Plan {
    fn says_anything(&self) -> bool {
        self.publishes_when.is_some()
            || self.lost_settles > 0
            || self.failed_settles > 0
            || self.publishes.values().any(|&n| n > 0)
    }
}

fn take_one(left: &mut usize) -> bool {
    let is_left = *left > 0;
    *left -= usize::from(is_left);
    is_left
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faults").field("is_unreachable", &self.is_unreachable()).finish_non_exhaustive()
    }
}
