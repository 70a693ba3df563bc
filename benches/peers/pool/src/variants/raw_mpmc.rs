//! Bare: crossbeam's bounded queue for each worker, and a flag for each message in flight. The least that several
//! producers can share.

use super::parker::Parker;
use crate::drive::{Pool, Producer};
use crate::variant::{About, Setup, Variant};
use crossbeam_queue::ArrayQueue;
use crossbeam_utils::CachePadded;
use measure::{CAPACITY, Message, WINDOW, worker_of};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

pub(crate) const VARIANT: Variant = Variant::blocking::<Queues>(About {
    name: "raw_mpmc",
    crates: &["crossbeam-queue"],
    settings: "bare: ArrayQueue with 1,024 places for each worker; answers are flags without a result; no panics, \
               no close under load, no cancel",
});

/// Messages that a worker handles before it wakes those that wait for answers.
const TURN: usize = 32;

/// A message, and which flag is raised for it: producer and place in its window.
type Item = (Message, Option<(u32, u32)>);

struct Lane {
    queue: ArrayQueue<Item>,
    worker: CachePadded<Parker>,
    is_closed: AtomicBool,
}

/// The messages of one producer that are in flight.
struct Window {
    answers: Box<[AtomicBool]>,
    producer: CachePadded<Parker>,
}

struct Shared {
    lanes: Vec<CachePadded<Lane>>,
    windows: Vec<Window>,
}

pub(crate) struct Queues {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

pub(crate) struct Pusher {
    number: u32,
    next: u32,
    shared: Arc<Shared>,
}

impl Pool for Queues {
    type Producer = Pusher;

    fn start(setup: &Setup) -> Self {
        let lane = |_| {
            let queue = ArrayQueue::new(CAPACITY);
            CachePadded::new(Lane {
                queue,
                worker: CachePadded::default(),
                is_closed: AtomicBool::new(false),
            })
        };
        let window = |_| {
            let answers = (0..WINDOW).map(|_| AtomicBool::new(false)).collect();
            Window { answers, producer: CachePadded::default() }
        };
        let shared = Arc::new(Shared {
            lanes: (0..setup.workers).map(lane).collect(),
            windows: (0..setup.producers).map(window).collect(),
        });
        let start = |number| {
            let (shared, setup) = (shared.clone(), setup.clone());
            std::thread::spawn(move || work(&shared, number, &setup))
        };
        let threads = (0..setup.workers).map(start).collect();
        Self { shared, threads }
    }

    fn producer(&mut self, number: usize) -> Pusher {
        Pusher { number: number as u32, next: 0, shared: self.shared.clone() }
    }

    fn finish(self) {
        for lane in &self.shared.lanes {
            // ORDERING: Release pairs with the worker's Acquire: it sees every push before it sees the end.
            lane.is_closed.store(true, Ordering::Release);
            lane.worker.wake();
        }
        self.threads.into_iter().for_each(|thread| thread.join().expect("a worker does not panic"));
    }
}

/// The life of a worker.
fn work(shared: &Shared, number: usize, setup: &Setup) {
    let lane = &shared.lanes[number];
    loop {
        let mut handled = 0;
        let mut answered = 0_u64; // A bit for each producer.
        while handled < TURN
            && let Some((message, answer)) = lane.queue.pop()
        {
            handled += 1;
            setup.work.handle(&message);
            if let Some((producer, place)) = answer {
                let answers = &shared.windows[producer as usize].answers;
                // ORDERING: Release pairs with the Acquire of whoever waits for the answer.
                answers[place as usize].store(true, Ordering::Release);
                answered |= 1 << producer;
            }
        }
        while answered != 0 {
            shared.windows[answered.trailing_zeros() as usize].producer.wake();
            answered &= answered - 1;
        }
        if handled == 0 {
            // ORDERING: Acquire pairs with the Release of `finish`.
            let is_closed = || lane.is_closed.load(Ordering::Acquire);
            if is_closed() && lane.queue.is_empty() {
                return;
            }
            lane.worker.wait(|| !lane.queue.is_empty() || is_closed());
        }
    }
}

impl Pusher {
    #[inline]
    fn push(&self, message: Message, answer: Option<(u32, u32)>) {
        let lane = &self.shared.lanes[worker_of(message.key, self.shared.lanes.len())];
        let mut item = (message, answer);
        while let Err(refused) = lane.queue.push(item) {
            item = refused;
            lane.worker.wake();
            std::thread::yield_now();
        }
        lane.worker.wake();
    }

    fn is_done(&self, answer: u32) -> bool {
        // ORDERING: Acquire pairs with the Release of the worker.
        self.shared.windows[self.number as usize].answers[answer as usize].load(Ordering::Acquire)
    }
}

impl Producer for Pusher {
    /// A place in the window.
    type Answer = u32;

    fn submit(&mut self, message: Message) -> u32 {
        let answer = self.next;
        self.next = (answer + 1) % WINDOW as u32;
        let answers = &self.shared.windows[self.number as usize].answers;
        // ORDERING: Relaxed; the push publishes it.
        answers[answer as usize].store(false, Ordering::Relaxed);
        self.push(message, Some((self.number, answer)));
        answer
    }

    fn forget(&mut self, message: Message) {
        self.push(message, None);
    }

    fn wait(&mut self, answer: u32) {
        if !self.is_done(answer) {
            self.shared.windows[self.number as usize].producer.wait(|| self.is_done(answer));
        }
    }

    fn is_answered(&mut self, answer: &mut u32) -> bool {
        self.is_done(*answer)
    }
}
