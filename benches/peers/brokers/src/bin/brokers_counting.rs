//! The same, counting allocations (of Rust, not of librdkafka), which slows what is timed.

use std::process::ExitCode;

#[global_allocator]
static COUNTING: measure::Counting = measure::Counting;

fn main() -> ExitCode {
    brokers::main()
}
