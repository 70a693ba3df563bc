//! When a bus in memory has come to rest.
//!
//! Its parts are asked one after the other, and each answers when it is quiet, with a stamp that counts what has moved in
//! it. One round is not enough: a part that was quiet early may have been given something later by one that was not yet.
//! Two rounds with the same stamps are: what was quiet in the first, and has not moved until the second, was quiet all
//! together when the second began.

use super::connection::{Connection, Stamp};
use crate::broker::BrokerError;
use crate::wait::world::{self, Stepped};
use crate::wait::{Op, Promise, Step, spawn};
use std::task::Waker;
use std::time::Duration;

/// How often it is looked whether somebody still waits, while a part is not quiet.
const LOOK: Duration = Duration::from_millis(100);

type Stamps = (Vec<Stamp>, u64);

pub(super) fn settled(connection: Connection) -> Op<Result<(), BrokerError>> {
    let (promise, op) = Op::pending(|| Err(BrokerError::Closed));
    let clock = connection.clock().clone();
    let watch = move || {
        let mut before = None;
        while let Some(stamps) = round(&connection, &promise) {
            if before.as_ref() == Some(&stamps) {
                return promise.complete(Ok(()));
            }
            before = Some(stamps);
        }
    };
    if let Some(world) = world::of(&clock) {
        let mut watch = Some(watch);
        let ask = move |_: Waker| -> Stepped {
            Box::new(move || {
                watch.take().into_iter().for_each(|watch| watch());
                Step::Over
            })
        };
        world.adopt("keylane-settled".to_owned(), Box::new(ask));
        return op;
    }
    // Asking again takes a thread, and no caller can be made to lend one; it ends when the bus is quiet.
    match spawn("keylane-settled".to_owned(), watch) {
        Ok(_) => op,
        Err(error) => Op::ready(Err(BrokerError::Transient(error.to_string()))),
    }
}

/// The stamps of all parts, each when it was quiet. None: nobody waits any more.
fn round<T>(connection: &Connection, promise: &Promise<T>) -> Option<Stamps> {
    let subscriptions: Vec<_> = connection.kept().iter().map(|kept| kept.quiet()).collect();
    let publisher = connection.publisher().quiet();
    let stamps = subscriptions.into_iter().map(|quiet| answer(quiet, promise)).collect::<Option<_>>()?;
    Some((stamps, answer(publisher, promise)?))
}

fn answer<A, T>(mut quiet: Op<A>, promise: &Promise<T>) -> Option<A> {
    loop {
        match quiet.wait_timeout(LOOK) {
            Ok(answer) => return Some(answer),
            Err(_) if promise.is_detached() => return None,
            Err(pending) => quiet = pending,
        }
    }
}
