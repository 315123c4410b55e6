//! `cargo xtask bench`: measurements on servers of its own.
#![allow(clippy::print_stdout, reason = "its output")]

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use bench::backlog::Backlog;
use bench::load::Load;
use bench::stand::Stand;
use clap::Parser;
use xtask::{cargo, interrupt};

/// Measure the pipeline on this machine
#[derive(Parser)]
#[command(bin_name = "cargo xtask bench", max_term_width = 100)]
struct Cli {
    /// Row changes in the backlog
    #[arg(long, default_value_t = 1_000_000)]
    changes: u64,
    /// Row changes in a transaction
    #[arg(long, default_value_t = 500)]
    per_transaction: u64,
    /// Runs of each program
    #[arg(long, default_value_t = 3)]
    runs: u32,
}

fn main() -> ExitCode {
    match interrupt::catch().and_then(|()| run(&Cli::parse())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<()> {
    let programs = std::env::var_os("PIPELINE_BIN_DIR").map_or_else(|| cargo::target().join("release"), PathBuf::from);
    let mut stand = Stand::start(cargo::target().join("bench-stack"), programs)?;
    let backlog = Backlog::make(&stand, Load { changes: cli.changes, per_transaction: cli.per_transaction })?;
    println!("{} changes in transactions of {}", backlog.changes, cli.per_transaction);
    for _ in 0..cli.runs {
        let run = backlog.ours(&mut stand)?;
        println!(
            "first {:.3} s, {:.0}/s (best second {:.0}), {:.0}/s from the start, {:.2} CPU-s per million, {:.1} MB at most",
            run.first_s,
            run.arrival.rate(),
            run.arrival.best_second(),
            run.rate_from_start(),
            run.cpu_per_million(),
            run.usage.peak_rss_mb
        );
    }
    stand.stack.kill()
}
