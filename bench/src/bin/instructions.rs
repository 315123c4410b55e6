//! `cargo xtask instructions`: compares the instructions that a row costs on each hot path with
//! `bench/instructions.json`.
#![allow(clippy::print_stdout, reason = "its output")]

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use bench::hot_paths::{self, HotPath};
use bench::instructions::Counts;
use clap::Parser;
use testbed::cargo;

/// Count the instructions that a row costs on each hot path, and compare them with the baseline
#[derive(Parser)]
#[command(bin_name = "cargo xtask instructions", max_term_width = 100)]
struct Cli {
    /// Make what is counted now the baseline
    #[arg(long)]
    bless: bool,
    /// The baseline [default: bench/instructions.json]
    #[arg(long, value_name = "FILE")]
    baseline: Option<PathBuf>,
    /// Only pass the rows over this path, for a profiler
    path: Option<HotPath>,
    /// So many times
    #[arg(default_value_t = 1, requires = "path")]
    passes: usize,
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// `cargo xtask instructions` builds this program together with the tests, which enable the failpoints, and in release
/// mode, without debug assertions. A build without debug assertions must not have failpoints.
const _: () = assert!(cfg!(debug_assertions) || !runtime::failpoint::COMPILED);

fn run(cli: Cli) -> Result<ExitCode> {
    if let Some(path) = cli.path {
        hot_paths::run(path, cli.passes)?;
        return Ok(ExitCode::SUCCESS);
    }
    let file = cli.baseline.unwrap_or_else(|| cargo::root().join("bench/instructions.json"));
    let baseline = if cli.bless { None } else { Some(Counts::read(&file)?) };
    let counts = Counts::measure(&std::env::current_exe()?)?;
    let Some(baseline) = baseline else {
        counts.write(&file)?;
        println!("{}", counts.against(&counts).0);
        return Ok(ExitCode::SUCCESS);
    };
    let (table, wrong) = counts.against(&baseline);
    print!("{table}");
    for line in &wrong {
        eprintln!("error: {line}");
    }
    Ok(if wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
