//! `cdc-producer`: see [`cdc_producer`].

use std::process::ExitCode;

use cdc_producer::command::{command, execute};
use runtime::config::Program;

// librdkafka allocates for every record; using jemalloc, also for C code, saves a third of its CPU time.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    runtime::program::start(Program::CdcProducer, command(), execute)
}
