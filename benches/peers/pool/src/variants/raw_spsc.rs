//! Bare: a ring for each pair of producer and worker, written by hand. A worker takes what is there at once and
//! publishes one number for it, so that an answer costs no write of its own. No answer has a result: a limit, no design.

use super::parker::Parker;
use crate::drive::{BatchProducer, Pool, Producer};
use crate::variant::{About, Setup, Variant};
use crossbeam_utils::CachePadded;
use measure::{CAPACITY, Message, worker_of};
use std::cell::UnsafeCell;
use std::collections::VecDeque;
use std::mem::MaybeUninit;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

pub(crate) const VARIANT: Variant = Variant::batching::<Rings>(About {
    name: "raw_spsc",
    crates: &["crossbeam-utils"],
    settings: "bare: a ring with 1,024 places for each producer and worker, one counter for the answers of a \
               turn; no result, no panics, no close under load, no cancel",
});

/// Messages that a worker takes from one ring in a turn.
const TURN: usize = 64;

struct Ring {
    /// Messages ever pushed; written by the producer.
    tail: CachePadded<AtomicUsize>,
    /// Messages ever handled; written by the worker.
    head: CachePadded<AtomicUsize>,
    places: Box<[UnsafeCell<MaybeUninit<Message>>]>,
}

// SAFETY: a place is written by the one producer before `tail` passes it, and read by the one worker after that and
// before `head` passes it, after which it is the producer's again.
unsafe impl Sync for Ring {}

impl Ring {
    fn new() -> Self {
        let places = (0..CAPACITY).map(|_| UnsafeCell::new(MaybeUninit::uninit())).collect();
        Self { tail: CachePadded::default(), head: CachePadded::default(), places }
    }

    fn handled(&self) -> usize {
        // ORDERING: Acquire pairs with the worker's Release: what it read out of the places may be overwritten.
        self.head.load(Ordering::Acquire)
    }

    fn has_messages(&self) -> bool {
        // ORDERING: Relaxed for the worker's own; Acquire pairs with the producer's Release.
        self.head.load(Ordering::Relaxed) != self.tail.load(Ordering::Acquire)
    }
}

struct Shared {
    /// By worker, then by producer.
    rings: Vec<Vec<Ring>>,
    workers: Vec<CachePadded<Parker>>,
    producers: Vec<CachePadded<Parker>>,
    is_closed: AtomicBool,
}

pub(crate) struct Rings {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// What the producer knows of one of its rings.
#[derive(Clone, Copy, Default)]
struct Side {
    tail: usize,
    /// As far as `tail` was made visible.
    published: usize,
    /// As far as the producer last saw.
    head: usize,
}

pub(crate) struct Pusher {
    number: usize,
    shared: Arc<Shared>,
    /// By worker.
    sides: Vec<Side>,
}

impl Pool for Rings {
    type Producer = Pusher;

    fn start(setup: &Setup) -> Self {
        let rings = |_| (0..setup.producers).map(|_| Ring::new()).collect();
        let shared = Arc::new(Shared {
            rings: (0..setup.workers).map(rings).collect(),
            workers: (0..setup.workers).map(|_| CachePadded::default()).collect(),
            producers: (0..setup.producers).map(|_| CachePadded::default()).collect(),
            is_closed: AtomicBool::new(false),
        });
        let start = |number| {
            let (shared, setup) = (shared.clone(), setup.clone());
            std::thread::spawn(move || work(&shared, number, &setup))
        };
        let threads = (0..setup.workers).map(start).collect();
        Self { shared, threads }
    }

    fn producer(&mut self, number: usize) -> Pusher {
        let sides = vec![Side::default(); self.shared.rings.len()];
        Pusher { number, shared: self.shared.clone(), sides }
    }

    fn finish(self) {
        // ORDERING: Release pairs with the worker's Acquire: it sees every push before it sees the end.
        self.shared.is_closed.store(true, Ordering::Release);
        self.shared.workers.iter().for_each(|worker| worker.wake());
        self.threads.into_iter().for_each(|thread| thread.join().expect("a worker does not panic"));
    }
}

/// The life of a worker.
fn work(shared: &Shared, number: usize, setup: &Setup) {
    let rings = &shared.rings[number];
    loop {
        let mut handled = 0;
        for (ring, producer) in rings.iter().zip(&shared.producers) {
            // ORDERING: Relaxed for the worker's own; Acquire pairs with the producer's Release.
            let (head, tail) = (ring.head.load(Ordering::Relaxed), ring.tail.load(Ordering::Acquire));
            let end = tail.min(head + TURN);
            for at in head..end {
                // SAFETY: between head and tail the places are filled and this worker's, each read once.
                let message = unsafe { (*ring.places[at % CAPACITY].get()).assume_init_read() };
                setup.work.handle(&message);
            }
            if head != end {
                // ORDERING: Release: the producer overwrites the places when it sees this, and takes it for answers.
                ring.head.store(end, Ordering::Release);
                producer.wake();
                handled += end - head;
            }
        }
        if handled == 0 {
            // ORDERING: Acquire pairs with the Release of `finish`.
            let is_closed = || shared.is_closed.load(Ordering::Acquire);
            let has_messages = || rings.iter().any(Ring::has_messages);
            if is_closed() && !has_messages() {
                return;
            }
            shared.workers[number].wait(|| has_messages() || is_closed());
        }
    }
}

impl Pusher {
    fn ring(&self, worker: usize) -> &Ring {
        &self.shared.rings[worker][self.number]
    }

    /// Waits until the worker has handled more than `at` messages of this producer.
    fn wait_until_handled(&mut self, worker: usize, at: usize) {
        let ring = &self.shared.rings[worker][self.number];
        self.shared.producers[self.number].wait(|| ring.handled() > at);
        self.sides[worker].head = ring.handled();
    }

    /// Writes a message, without telling the worker. Its number in its ring, and the worker.
    #[inline]
    fn write(&mut self, message: Message) -> (usize, usize) {
        let worker = worker_of(message.key, self.sides.len());
        let at = self.sides[worker].tail;
        if at - self.sides[worker].head == CAPACITY {
            self.sides[worker].head = self.ring(worker).handled();
            if at - self.sides[worker].head == CAPACITY {
                self.publish(worker);
                self.wait_until_handled(worker, at - CAPACITY);
            }
        }
        // SAFETY: head was seen within a capacity of this place, so the worker has read it, and tail has not passed it.
        unsafe { (*self.ring(worker).places[at % CAPACITY].get()).write(message) };
        self.sides[worker].tail = at + 1;
        (worker, at)
    }

    #[inline]
    fn publish(&mut self, worker: usize) {
        let tail = self.sides[worker].tail;
        // ORDERING: Release publishes the places to the worker's Acquire.
        self.ring(worker).tail.store(tail, Ordering::Release);
        self.sides[worker].published = tail;
        self.shared.workers[worker].wake();
    }

    fn publish_all(&mut self) {
        for worker in 0..self.sides.len() {
            if self.sides[worker].published != self.sides[worker].tail {
                self.publish(worker);
            }
        }
    }
}

impl Producer for Pusher {
    /// The worker, and the message's number in its ring.
    type Answer = (usize, usize);

    fn submit(&mut self, message: Message) -> Self::Answer {
        let answer = self.write(message);
        self.publish(answer.0);
        answer
    }

    fn forget(&mut self, message: Message) {
        self.submit(message);
    }

    fn wait(&mut self, (worker, at): Self::Answer) {
        if self.sides[worker].head <= at {
            self.wait_until_handled(worker, at);
        }
    }

    fn is_answered(&mut self, (worker, at): &mut Self::Answer) -> bool {
        self.sides[*worker].head = self.ring(*worker).handled();
        self.sides[*worker].head > *at
    }
}

impl BatchProducer for Pusher {
    fn submit_batch(&mut self, messages: &mut Vec<Message>, answers: &mut VecDeque<Self::Answer>) {
        answers.extend(messages.drain(..).map(|message| self.write(message)));
        self.publish_all();
    }

    fn forget_batch(&mut self, messages: &mut Vec<Message>) {
        for message in messages.drain(..) {
            self.write(message);
        }
        self.publish_all();
    }
}
