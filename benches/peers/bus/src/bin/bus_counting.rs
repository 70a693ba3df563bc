//! The program `bus`, counting allocations, which slows what it times.

#[global_allocator]
static ALLOCATOR: measure::Counting = measure::Counting;

fn main() {
    bus_contest::main();
}
