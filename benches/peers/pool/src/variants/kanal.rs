//! A bounded channel of kanal for each worker, its blocking side.

use super::channels::{Channel, Channels, Item};
use crate::variant::{About, Variant};
use ::kanal::{Receiver, Sender};

pub(crate) const VARIANT: Variant = Variant::blocking::<Channels<Bounded>>(About {
    name: "kanal",
    crates: &["kanal", "oneshot"],
    settings: "1,024 places for each worker; answers by oneshot",
});

pub(crate) struct Bounded;

impl Channel for Bounded {
    type Sender = Sender<Item>;
    type Receiver = Receiver<Item>;

    fn bounded(capacity: usize) -> (Sender<Item>, Receiver<Item>) {
        ::kanal::bounded(capacity)
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
