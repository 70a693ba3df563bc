//! The contest over brokers, as it is timed.

use std::process::ExitCode;

fn main() -> ExitCode {
    brokers::main()
}
