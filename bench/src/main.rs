//! `cargo xtask bench`: measurements on servers of its own.
#![allow(clippy::print_stdout, reason = "its output")]

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use bench::backlog::{Backlog, Run};
use bench::debezium::Format;
use bench::load::Load;
use bench::stand::Stand;
use clap::Parser;
use xtask::{cargo, interrupt};

/// Measure the pipeline beside Debezium: a backlog in the binlog, into Kafka as Avro
#[derive(Parser)]
#[command(bin_name = "cargo xtask bench", max_term_width = 100)]
struct Cli {
    /// Row changes in the backlog
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    changes: u64,
    /// Row changes in a transaction; may be given several times
    #[arg(long, value_name = "N", default_values_t = [500, 10, 1])]
    per_transaction: Vec<u64>,
    /// Runs of each program, in turns
    #[arg(long, value_name = "N", default_value_t = 3)]
    runs: u32,
    /// Leave Debezium out
    #[arg(long)]
    alone: bool,
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
    for per_transaction in cli.per_transaction.iter().copied() {
        let load = Load { changes: cli.changes, per_transaction };
        let backlog = Backlog::make(&mut stand, load, !cli.alone)?;
        println!("{} changes in transactions of {per_transaction}", backlog.changes);
        for _ in 0..cli.runs {
            show("ours", &backlog.ours(&mut stand)?);
            if !cli.alone {
                show("Debezium", &backlog.debezium(&mut stand, Format::Avro)?);
            }
        }
    }
    stand.stack.kill()
}

fn show(name: &str, run: &Run) {
    println!(
        "{name:10} first {:7.3} s, {:8.0}/s (best second {:8.0}), {:8.0}/s from the start, {:7.2} CPU-s per million, {:7.1} MB at most",
        run.first_s,
        run.arrival.rate(),
        run.arrival.best_second(),
        run.rate_from_start(),
        run.cpu_per_million(),
        run.usage.peak_rss_mb
    );
}
