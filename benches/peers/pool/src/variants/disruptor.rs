//! A multi-producer ring of the crate `disruptor` for each worker. Answers are flags, one for each place of a
//! producer's window.

use crate::drive::{BatchProducer, Pool, Producer};
use crate::variant::{About, Setup, Variant};
use ::disruptor::wait_strategies::WaitStrategy;
use ::disruptor::{MultiProducer, Producer as _, Sequence, SingleConsumerBarrier, build_multi_producer};
use measure::{BATCH, CAPACITY, Message, WINDOW, worker_of};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub(crate) const VARIANT: Variant = Variant::batching::<Rings>(About {
    name: "disruptor",
    crates: &["disruptor"],
    settings: "1,024 places for each worker; its workers never sleep: the crate has no strategy that does, so they \
               yield the core while they wait; answers are flags without a result",
});

/// A pure spin would take the cores from whom it waits for.
#[derive(Clone, Copy)]
struct Yield;

impl WaitStrategy for Yield {
    fn wait_for(&self, _: Sequence) {
        std::thread::yield_now();
    }
}

/// A place of a ring.
#[derive(Default)]
struct Place {
    message: Option<Message>,
    /// Whose flag is to be raised: producer and place in its window.
    answer: Option<(u32, u32)>,
}

type Ring = MultiProducer<Place, SingleConsumerBarrier>;
/// Of each producer, one flag for each message in flight.
type Flags = Arc<Vec<Box<[AtomicBool]>>>;

pub(crate) struct Rings {
    rings: Vec<Ring>,
    flags: Flags,
}

pub(crate) struct Publisher {
    number: u32,
    next: u32,
    rings: Vec<Ring>,
    flags: Flags,
    by_worker: Vec<Vec<Place>>,
}

impl Pool for Rings {
    type Producer = Publisher;

    fn start(setup: &Setup) -> Self {
        let window = || (0..WINDOW).map(|_| AtomicBool::new(false)).collect();
        let flags: Flags = Arc::new((0..setup.producers).map(|_| window()).collect());
        let start = |_| {
            let (work, flags) = (setup.work.clone(), flags.clone());
            let handle = move |place: &Place, _: Sequence, _: bool| {
                work.handle(place.message.as_ref().expect("a published place is filled"));
                if let Some((producer, place)) = place.answer {
                    // ORDERING: Release pairs with the Acquire of whoever waits for the answer.
                    flags[producer as usize][place as usize].store(true, Ordering::Release);
                }
            };
            build_multi_producer(CAPACITY, Place::default, Yield).handle_events_with(handle).build()
        };
        Self { rings: (0..setup.workers).map(start).collect(), flags }
    }

    fn producer(&mut self, number: usize) -> Publisher {
        Publisher {
            number: number as u32,
            next: 0,
            by_worker: self.rings.iter().map(|_| Vec::with_capacity(BATCH)).collect(),
            rings: self.rings.clone(),
            flags: self.flags.clone(),
        }
    }

    fn finish(self) {
        drop(self.rings);
    }
}

impl Publisher {
    /// The next place of the window: its message of one window before was answered.
    fn next_answer(&mut self) -> u32 {
        let answer = self.next;
        self.next = (answer + 1) % WINDOW as u32;
        // ORDERING: Relaxed; published with the message.
        self.flags[self.number as usize][answer as usize].store(false, Ordering::Relaxed);
        answer
    }

    fn publish(&mut self, place: Place) {
        let worker = self.worker_for(&place);
        self.rings[worker].publish(|at| *at = place);
    }

    fn worker_for(&self, place: &Place) -> usize {
        worker_of(place.message.as_ref().expect("it was just made").key, self.rings.len())
    }

    fn sort(&mut self, place: Place) {
        let worker = self.worker_for(&place);
        self.by_worker[worker].push(place);
    }

    fn publish_sorted(&mut self) {
        for (ring, places) in self.rings.iter_mut().zip(&mut self.by_worker) {
            if !places.is_empty() {
                ring.batch_publish(places.len(), |at| {
                    at.zip(places.drain(..)).for_each(|(at, place)| *at = place);
                });
            }
        }
    }

    fn flag(&self, answer: u32) -> bool {
        // ORDERING: Acquire pairs with the Release of the worker.
        self.flags[self.number as usize][answer as usize].load(Ordering::Acquire)
    }
}

impl Producer for Publisher {
    type Answer = u32;

    fn submit(&mut self, message: Message) -> u32 {
        let answer = self.next_answer();
        self.publish(Place { message: Some(message), answer: Some((self.number, answer)) });
        answer
    }

    fn forget(&mut self, message: Message) {
        self.publish(Place { message: Some(message), answer: None });
    }

    fn wait(&mut self, answer: u32) {
        const SPINS: u32 = 64;
        let mut looks = 0;
        while !self.flag(answer) {
            looks += 1;
            if looks < SPINS { std::hint::spin_loop() } else { std::thread::yield_now() }
        }
    }

    fn is_answered(&mut self, answer: &mut u32) -> bool {
        self.flag(*answer)
    }
}

impl BatchProducer for Publisher {
    fn submit_batch(&mut self, messages: &mut Vec<Message>, answers: &mut VecDeque<u32>) {
        for message in messages.drain(..) {
            let answer = self.next_answer();
            self.sort(Place { message: Some(message), answer: Some((self.number, answer)) });
            answers.push_back(answer);
        }
        self.publish_sorted();
    }

    fn forget_batch(&mut self, messages: &mut Vec<Message>) {
        messages.drain(..).for_each(|message| self.sort(Place { message: Some(message), answer: None }));
        self.publish_sorted();
    }
}
