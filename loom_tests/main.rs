//! Models of the pool's protocols, run over the shipped types in every interleaving that loom's bound allows.
#![cfg(loom)]

mod capacity;
mod clock;
mod completion;
mod counters;
mod lane;
mod pool;
mod support;
mod waiting;
mod wake;
