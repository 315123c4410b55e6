//! `stream`: see [`stream`].

use std::process::ExitCode;

// Keeps the commands of the programs as fast as in the programs themselves.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    stream::start()
}
