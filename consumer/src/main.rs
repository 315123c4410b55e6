//! See [`consumer`].

use std::process::ExitCode;

// librdkafka uses it too, which saves a third of its CPU time.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    consumer::start()
}
