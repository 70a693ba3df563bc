//! Models of the pool's protocols, run over the shipped types in every interleaving that loom's bound allows.
#![cfg(loom)]

mod blocks;
mod cancellation;
mod capacity;
mod clock;
mod completion;
mod counters;
mod idle;
mod lane;
mod pool;
mod submitting;
mod support;
mod two_workers;
mod waiting;
mod wake;
