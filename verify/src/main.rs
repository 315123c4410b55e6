//! `verify`: see [`verify`].

use std::process::ExitCode;
use std::sync::atomic::AtomicBool;

use runtime::config::Program;
use runtime::program;

// Keeps less memory than the system's when large tables are freed after each pass, and needs less CPU time.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let different = AtomicBool::new(false);
    let code = program::start(Program::Verify, verify::command(), |context| verify::execute(context, &different));
    if different.into_inner() { ExitCode::FAILURE } else { code }
}
