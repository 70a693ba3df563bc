//! The bus contest: the whole way of a record over a bus in memory (publish with its acknowledgement, route, handle,
//! settle), by keylane and by RustStream. The shapes are defined in `benches/README.md`.

mod command;
mod record;
mod variants;
mod work;

pub use command::main;
