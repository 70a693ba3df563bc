//! An actor of actix for each worker, on a thread (an arbiter) of its own, chosen by the hash of the key.

use crate::drive::{Pool, Producer};
use crate::variant::{About, Setup, Variant};
use crate::work::Work;
use ::actix::prelude::{Actor, Addr, Arbiter, Context, Handler, Request, System};
use futures::FutureExt as _;
use measure::{CAPACITY, Message, worker_of};
use std::pin::Pin;
use std::sync::{Arc, mpsc};
use std::task::Waker;
use std::thread::JoinHandle;

pub(crate) const VARIANT: Variant = Variant::blocking::<Actors>(About {
    name: "actix",
    crates: &["actix"],
    settings: "an arbiter for each worker, 4,096 places in its mailbox, which do_send does not heed, so that forget \
               queues everything; a request is boxed, because it has to be pinned",
});

pub(crate) struct Worker(Arc<Work>);

impl Actor for Worker {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        context.set_mailbox_capacity(4 * CAPACITY);
    }
}

pub(crate) struct Handle(Message);

impl ::actix::Message for Handle {
    type Result = ();
}

impl Handler<Handle> for Worker {
    type Result = ();

    fn handle(&mut self, Handle(message): Handle, _: &mut Context<Self>) {
        self.0.handle(&message);
    }
}

pub(crate) struct Actors {
    addresses: Vec<Addr<Worker>>,
    work: Arc<Work>,
    sent: u64,
    system: System,
    thread: JoinHandle<()>,
}

pub(crate) struct Addresses(Vec<Addr<Worker>>);

impl Pool for Actors {
    type Producer = Addresses;

    fn start(setup: &Setup) -> Self {
        let (started, starting) = mpsc::channel();
        let (workers, work) = (setup.workers, setup.work.clone());
        let thread = std::thread::spawn(move || {
            let runner = System::new();
            runner.block_on(async {
                let start = |_| {
                    let work = work.clone();
                    Worker::start_in_arbiter(&Arbiter::new().handle(), move |_| Worker(work))
                };
                let addresses: Vec<_> = (0..workers).map(start).collect();
                started.send((addresses, System::current())).expect("the pool waits for it");
            });
            runner.run().expect("the system ends when it is stopped");
        });
        let (addresses, system) = starting.recv().expect("the system starts");
        Self { addresses, work: setup.work.clone(), sent: setup.n as u64, system, thread }
    }

    fn producer(&mut self, _: usize) -> Addresses {
        Addresses(self.addresses.clone())
    }

    fn finish(self) {
        self.work.wait_for(self.sent);
        self.system.stop();
        self.thread.join().expect("the system does not panic");
    }
}

impl Addresses {
    fn address_for(&self, message: &Message) -> &Addr<Worker> {
        &self.0[worker_of(message.key, self.0.len())]
    }
}

impl Producer for Addresses {
    type Answer = Pin<Box<Request<Worker, Handle>>>;

    fn submit(&mut self, message: Message) -> Self::Answer {
        Box::pin(self.address_for(&message).send(Handle(message)))
    }

    fn forget(&mut self, message: Message) {
        self.address_for(&message).do_send(Handle(message));
    }

    fn wait(&mut self, answer: Self::Answer) {
        futures::executor::block_on(answer).expect("every message is answered");
    }

    fn is_answered(&mut self, answer: &mut Self::Answer) -> bool {
        answer.poll_unpin(&mut std::task::Context::from_waker(Waker::noop())).is_ready()
    }
}
