//! Runs all tests on fresh servers, the fault harness, the benchmark, the count of instructions, and the check of
//! libraries.

use std::process::{Command, ExitStatus};

use anyhow::Result;

use testbed::machine::Need;
use testbed::servers::{Ports, Stack, StackOptions, needs};
use testbed::{background, cargo, downloads, machine, progress, scratch};

/// Starts a fresh stack, runs `cargo test` with `arguments` on it and stops the stack.
///
/// # Errors
/// When the disk has too little room, the stack does not start or the programs don't compile. Failed tests are a status,
/// not an error.
pub(crate) fn run(arguments: &[String]) -> Result<ExitStatus> {
    machine::ensure(&[&[Need::Compiler, Need::Libraries, Need::Browser], needs()?.as_slice()].concat())?;
    let dir = cargo::target().join("test-stack");
    background::clean(&dir)?;
    scratch::clean()?;
    scratch::need_room(&dir)?;
    let mut stack = Stack::start(&StackOptions { dir, ports: Ports::default(), ..StackOptions::default() })?;
    progress::note("building the programs");
    let programs = cargo::build_programs(cargo::Build::Test)?;
    // One run reports every failure.
    let mut command = cargo::cargo(&["test", "--no-fail-fast"]);
    if !arguments.iter().any(|argument| argument == "-p" || argument.starts_with("--package")) {
        command.arg("--workspace");
    }
    command.args(arguments).envs(stack.env()).env("PIPELINE_BIN_DIR", programs);
    // The tests wait for servers more than they compute.
    if std::env::var_os("RUST_TEST_THREADS").is_none() {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        command.env("RUST_TEST_THREADS", (cores + 2).to_string());
    }
    let status = cargo::run_tests(&mut command)?;
    stack.kill()?;
    if status.success() {
        scratch::clean()?;
    }
    Ok(status)
}

/// Takes the pictures of the console and records a terminal, in docs/screenshots, and makes the pictures small.
///
/// # Errors
/// As [`run`]; when a picture can't be made small.
pub(crate) fn screenshots() -> Result<ExitStatus> {
    machine::ensure(&[Need::Pictures])?;
    let test = ["-p", "integration-tests", "--test", "pipeline", "--", "--ignored", "pictures::"];
    let status = run(&test.map(str::to_owned))?;
    let folder = cargo::root().join("docs/screenshots");
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "png") {
            continue;
        }
        machine::run(Command::new("pngquant").args(["--force", "--strip", "--ext", ".png"]).arg(&path))?;
    }
    Ok(status)
}

/// Builds the fault harness and runs it; it starts separate servers.
///
/// # Errors
/// When a requirement is missing or the programs don't compile. A failed run is a status, not an error.
pub(crate) fn chaos(arguments: &[String]) -> Result<ExitStatus> {
    machine::ensure(&[&[Need::Compiler, Need::Libraries], needs()?.as_slice()].concat())?;
    progress::note("building the programs");
    let programs = cargo::build_programs(cargo::Build::Test)?;
    let mut command = Command::new(programs.join("chaos"));
    cargo::run_through(command.args(arguments).env("PIPELINE_BIN_DIR", &programs))
}

/// Builds the release programs and the benchmark, and runs it; it starts separate servers.
///
/// # Errors
/// When a requirement is missing or the programs don't compile. A failed run is a status, not an error.
pub(crate) fn bench(arguments: &[String]) -> Result<ExitStatus> {
    machine::ensure(&[&[Need::Compiler, Need::Libraries], needs()?.as_slice()].concat())?;
    progress::note("building the programs");
    // Build them one after the other: together they would share the features of both.
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
/// Our libraries, and generic code of others in them, are compiled as in a release; everything else is the tests' build
/// at `opt-level` 1. Of the hot paths, this affects the formatting of numbers: a whole release takes 2 to 14 % fewer
/// instructions, but seven minutes of CPU time to build instead of one.
///
/// # Errors
/// When Valgrind is missing or the program does not compile. A difference is a status, not an error.
pub(crate) fn instructions(arguments: &[String]) -> Result<ExitStatus> {
    machine::ensure(&[Need::Compiler, Need::Libraries, Need::Valgrind])?;
    progress::note("building the hot paths");
    // The selection of packages determines the features of shared libraries.
    let mut command = cargo::cargo(&["build", "--quiet", "--workspace", "--exclude", "xtask", "--bin", "instructions"]);
    for package in ["avro", "kafka", "model", "mysql", "rules", "runtime", "cdc-producer", "bench"] {
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

/// Checks licences and sources of all libraries by `deny.toml`. Uses the machine's cargo-deny, or one that is built
/// once into the cache folder.
///
/// # Errors
/// When cargo-deny does not compile. A violation is a status, not an error.
pub(crate) fn deny() -> Result<ExitStatus> {
    let program = match machine::find_program("cargo-deny") {
        Some(installed) => installed,
        None => downloads::cargo_deny(&|what| progress::note(what))?.join("bin/cargo-deny"),
    };
    let checks = ["--locked", "check", "licenses", "bans", "sources"];
    cargo::run_through(Command::new(program).current_dir(cargo::root()).args(checks))
}
