//! The program `pool`, counting allocations, which slows what it times.

#[global_allocator]
static ALLOCATOR: measure::Counting = measure::Counting;

fn main() {
    pool_contest::main();
}
