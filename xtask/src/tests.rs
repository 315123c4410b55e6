//! All tests on servers of their own, the fault harness, the benchmark, the count of instructions, and the check of libraries.

use std::process::{Command, ExitStatus};

use anyhow::Result;

use crate::machine::Need;
use crate::services::{Ports, Stack, StackOptions, needs};
use crate::{background, cargo, downloads, machine, progress};

/// Starts a fresh stack, runs `cargo test` with `arguments` on it and stops the stack.
///
/// # Errors
/// When the stack does not start or the programs don't compile. Failed tests are no error but a status.
pub fn run(arguments: &[String]) -> Result<ExitStatus> {
    machine::ensure(&[&[Need::Compiler, Need::Libraries], needs()?.as_slice()].concat())?;
    let dir = cargo::target().join("test-stack");
    background::clean(&dir)?;
    let mut stack = Stack::start(&StackOptions { dir, ports: Ports::default(), ..StackOptions::default() })?;
    progress::note("building the programs");
    let programs = cargo::build_programs(cargo::Build::Test)?;
    // One run tells of everything that is wrong.
    let mut command = cargo::cargo(&["test", "--no-fail-fast"]);
    if !arguments.iter().any(|argument| argument == "-p" || argument.starts_with("--package")) {
        command.arg("--workspace");
    }
    command.args(arguments).envs(stack.env()).env("PIPELINE_BIN_DIR", programs);
    // They wait for servers more than they compute.
    if std::env::var_os("RUST_TEST_THREADS").is_none() {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        command.env("RUST_TEST_THREADS", (cores + 2).to_string());
    }
    let status = cargo::run_through(&mut command)?;
    stack.kill()?;
    Ok(status)
}

/// Builds the fault harness and runs it; it starts servers of its own.
///
/// # Errors
/// When something needed is not there or the programs don't compile. A failed run is no error but a status.
pub fn chaos(arguments: &[String]) -> Result<ExitStatus> {
    machine::ensure(&[&[Need::Compiler, Need::Libraries], needs()?.as_slice()].concat())?;
    progress::note("building the programs");
    let programs = cargo::build_programs(cargo::Build::Test)?;
    let mut command = Command::new(programs.join("chaos"));
    cargo::run_through(command.args(arguments).env("PIPELINE_BIN_DIR", &programs))
}

/// Builds the programs as people use them, and the benchmark, and runs it; it starts servers of its own.
///
/// # Errors
/// When something needed is not there or the programs don't compile. A failed run is no error but a status.
pub fn bench(arguments: &[String]) -> Result<ExitStatus> {
    machine::ensure(&[&[Need::Compiler, Need::Libraries], needs()?.as_slice()].concat())?;
    progress::note("building the programs");
    // One after the other: together they would share the features of both.
    let programs = cargo::build_programs(cargo::Build::Release)?;
    let status = cargo::run_through(&mut cargo::cargo(&["build", "--release", "--quiet", "--package", "bench"]))?;
    if !status.success() {
        return Ok(status);
    }
    let mut command = Command::new(programs.join("bench"));
    cargo::run_through(command.args(arguments).env("PIPELINE_BIN_DIR", &programs))
}

/// Builds the program that counts instructions and runs it; it needs no servers.
///
/// Our libraries are compiled as in a release, and generic code of others with them; all else is what the tests have built already,
/// at `opt-level` 1. Of the hot paths that is how numbers become digits: a whole release takes 2 to 14 % fewer instructions, but seven
/// minutes of CPU time to build instead of one.
///
/// # Errors
/// When Valgrind is not there or the program does not compile. A difference is no error but a status.
pub fn instructions(arguments: &[String]) -> Result<ExitStatus> {
    machine::ensure(&[Need::Compiler, Need::Libraries, Need::Valgrind])?;
    progress::note("building the hot paths");
    // The selection of packages decides on the features of what they share.
    let mut command = cargo::cargo(&["build", "--quiet", "--workspace", "--exclude", "xtask", "--bin", "instructions"]);
    for package in ["pipeline", "cdc-producer", "bench"] {
        for setting in ["opt-level=3", "codegen-units=1", "debug-assertions=false", "overflow-checks=false"] {
            command.args(["--config", &format!("profile.dev.package.{package}.{setting}")]);
        }
    }
    let status = cargo::run_through(&mut command)?;
    if !status.success() {
        return Ok(status);
    }
    cargo::run_through(Command::new(cargo::target().join("debug/instructions")).args(arguments))
}

/// Checks licences and sources of all libraries by `deny.toml`. Uses the cargo-deny of the machine, or one that is built once
/// into the cache folder.
///
/// # Errors
/// When cargo-deny does not compile. What it finds is no error but a status.
pub fn deny() -> Result<ExitStatus> {
    let program = match machine::find_program("cargo-deny") {
        Some(installed) => installed,
        None => downloads::cargo_deny(&|what| progress::note(what))?.join("bin/cargo-deny"),
    };
    let checks = ["--locked", "check", "licenses", "bans", "sources"];
    cargo::run_through(Command::new(program).current_dir(background::root()).args(checks))
}
