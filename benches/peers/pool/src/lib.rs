//! The pool contest: keyed dispatch to worker threads, with per-key order, by keylane and by what a user could build
//! instead. One file for each variant; one process for each run. The shapes are defined in `benches/README.md`.

mod command;
mod drive;
mod shape;
mod variant;
mod variants;
mod work;

pub use command::main;
