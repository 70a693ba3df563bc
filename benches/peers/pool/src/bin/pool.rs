//! One run of the pool contest: one variant, one shape. `pool --help` tells the rest.

fn main() {
    pool_contest::main();
}
