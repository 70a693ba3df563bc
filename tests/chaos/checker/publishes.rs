//! Publishes: what has a receipt is stored, and the records of a key are stored in the order of the calls, once each.

use super::{Store, Verdict, name};
use crate::history::{Entry, History, Id};
use std::collections::HashMap;

pub(super) fn check(history: &History, store: &Store, verdict: &mut Verdict) {
    for told in &history.0 {
        match told.line.entry {
            Entry::Acked(id) => {
                verdict.acknowledged += 1;
                if !store.places.contains_key(&id) {
                    verdict.lost += 1;
                    verdict.violation(|| format!("{} was acknowledged and is not stored", name(id)));
                }
            }
            Entry::Refused(id) => {
                verdict.violation(|| format!("{} was refused", name(id)));
            }
            _ => {}
        }
    }
    for &id in &store.twice {
        verdict.out_of_order += 1;
        verdict.violation(|| format!("{} is stored twice", name(id)));
    }
    for ids in store.keys.values() {
        let mut last: HashMap<u32, Id> = HashMap::new();
        let mut partition = None;
        for &id in ids {
            // What a killed publisher had under way ends somewhere, and has no gap up to there.
            if let Some(last) = last.insert(id.producer, id)
                && id.n != last.n + 1
            {
                verdict.out_of_order += 1;
                verdict.violation(|| format!("{} is stored next to number {}", name(id), last.n));
            }
            let place = store.places[&id];
            if partition.replace(place.partition).is_some_and(|before| before != place.partition) {
                verdict.out_of_order += 1;
                verdict.violation(|| {
                    format!("{} is in another partition, {}, than those before it", name(id), place.partition)
                });
            }
        }
    }
}
