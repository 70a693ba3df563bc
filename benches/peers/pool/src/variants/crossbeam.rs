//! A bounded channel of crossbeam-channel for each worker.

use super::channels::{Channel, Channels, Item};
use crate::variant::{About, Variant};
use crossbeam_channel::{Receiver, Sender};

pub(crate) const VARIANT: Variant = Variant::blocking::<Channels<Bounded>>(About {
    name: "crossbeam",
    crates: &["crossbeam-channel", "oneshot"],
    settings: "1,024 places for each worker; answers by oneshot",
});

pub(crate) struct Bounded;

impl Channel for Bounded {
    type Sender = Sender<Item>;
    type Receiver = Receiver<Item>;

    fn bounded(capacity: usize) -> (Sender<Item>, Receiver<Item>) {
        crossbeam_channel::bounded(capacity)
    }

    #[inline]
    fn send(sender: &Sender<Item>, item: Item) {
        assert!(sender.send(item).is_ok(), "the worker ends after the producers");
    }

    #[inline]
    fn receive(receiver: &Receiver<Item>) -> Option<Item> {
        receiver.recv().ok()
    }
}
