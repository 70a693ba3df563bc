//! One run of the bus contest: one variant, one shape. `bus --help` tells the rest.

fn main() {
    bus_contest::main();
}
