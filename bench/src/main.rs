//! `cargo xtask bench`: measurements on separate servers.
#![allow(clippy::print_stdout, reason = "its output")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use bench::cases::Case;
use bench::lab::Lab;
use bench::report::Report;
use bench::size::Size;
use clap::{Parser, ValueEnum, value_parser};
use testbed::{cargo, downloads, interrupt};

// The limits are measured in this process, so it uses the programs' allocator.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Measure the pipeline beside Debezium and others, on separate servers
#[derive(Parser)]
#[command(bin_name = "cargo xtask bench", max_term_width = 100)]
struct Cli {
    /// The cases; all by default
    #[arg(value_name = "CASE")]
    cases: Vec<Case>,
    /// Row changes, rows or records in each case
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = value_parser!(u64).range(10_000..))]
    changes: u64,
    /// Row changes in a transaction of the backlog; may be given several times [default: 500, 10 and 1]
    #[arg(
        long,
        value_name = "N",
        default_values_t = [500, 10, 1],
        hide_default_value = true,
        value_parser = value_parser!(u64).range(1..)
    )]
    per_transaction: Vec<u64>,
    /// Runs of each program, in turns
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = value_parser!(u32).range(1..))]
    runs: u32,
    /// Row changes or rows of the backlog in transactions of 500 and of both snapshots once more, in a single run of
    /// each program; none when that is no more than in the others
    #[arg(long, value_name = "N", default_value_t = 5_000_000)]
    large: u64,
    /// Less: 300,000 changes, in transactions of 500 only, at most two runs of each program, one of the latency
    #[arg(long)]
    quick: bool,
    /// Leave Debezium, and the replica of the latency, out
    #[arg(long)]
    alone: bool,
    /// Write reports/benchmarks.md, reports/benchmarks.json and the charts
    #[arg(long)]
    write: bool,
}

fn main() -> ExitCode {
    match interrupt::catch().and_then(|()| run(Cli::parse())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    let Cli { changes, per_transaction, runs, large, alone, .. } = cli;
    let mut size = Size { changes, per_transaction, runs, large, alone };
    if cli.quick {
        (size.changes, size.per_transaction, size.runs, size.large) = (300_000, vec![500], runs.min(2), 0);
    }
    let all = cli.cases.is_empty();
    let cases = if all { Case::value_variants().to_vec() } else { cli.cases };
    let programs = std::env::var_os("PIPELINE_BIN_DIR").map_or_else(|| cargo::target().join("release"), PathBuf::from);
    for program in ["cdc-producer", "consumer", "product-updater", "verify", "stream"] {
        let path = programs.join(program);
        ensure!(path.is_file(), "there is no {}: `cargo xtask bench` builds it", path.display());
    }
    let mut lab = Lab::start(cargo::target().join("bench-stack"), programs)?;
    if all {
        check_room(lab.stack.dir(), &size)?;
    }
    let setting = setting(&lab);
    let mut report = Report { setting, commit: commit(), command: command(), ..Report::default() };
    for case in cases {
        let begun = Instant::now();
        report.figures.extend(case.run(&mut lab, &size, &|line| println!("{line}"))?);
        println!("{} took {:.0} s", name(case), begun.elapsed().as_secs_f64());
        // Write after each case, so that the results survive a failure of a later one.
        if cli.write {
            report.write(&cargo::root().join("reports"))?;
        }
    }
    lab.stack.kill()
}

/// With a million changes, all cases together leave 13 GB; the growth case, with ten times as many, leaves the most.
fn check_room(folder: &Path, size: &Size) -> Result<()> {
    let free = fs2::available_space(folder).with_context(|| folder.display().to_string())?;
    let needed = size.changes.max(size.large / 5).saturating_mul(12_000).saturating_add(2_000_000_000);
    let gb = |bytes: u64| bytes.div_ceil(1_000_000_000);
    ensure!(
        free >= needed,
        "the disk of {} has {} GB free, and all cases take {}: make room, or name some cases, or give fewer --changes",
        folder.display(),
        gb(free),
        gb(needed)
    );
    Ok(())
}

fn name(case: Case) -> String {
    case.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

/// The commit, with `-dirty` when files other than documents have been changed since; empty without git.
fn commit() -> String {
    let git = |arguments: &[&str]| {
        let git = Command::new("git").args(arguments).current_dir(cargo::root()).output();
        git.map(|git| String::from_utf8_lossy(&git.stdout).trim().to_owned()).unwrap_or_default()
    };
    let changed = git(&["status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs", ":!reports", ":!*.md"]);
    git(&["rev-parse", "--short", "HEAD"]) + if changed.is_empty() { "" } else { "-dirty" }
}

/// The command as the user typed it.
fn command() -> String {
    ["cargo xtask bench".to_owned()].into_iter().chain(std::env::args().skip(1)).collect::<Vec<_>>().join(" ")
}

/// The machine's cores and memory.
fn machine() -> String {
    let field = |file: &str, name: &str| {
        let text = fs::read_to_string(file).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_once(':').map_or_else(String::new, |(_, value)| value.trim().to_owned())
    };
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kib = field("/proc/meminfo", "MemTotal").trim_end_matches(" kB").parse().unwrap_or(0_u64);
    format!("{cores} cores ({}), {} GiB", field("/proc/cpuinfo", "model name"), kib.div_ceil(1 << 20))
}

fn setting(lab: &Lab) -> BTreeMap<String, String> {
    let settings = [
        ("Machine, for servers and programs together", machine()),
        (
            "MySQL",
            format!(
                "{}; as durable as by default where its commits are part of what is measured (latency with its \
                 replica, updater), else with sync_binlog=0 while a load is made",
                lab.stack.mysql.version
            ),
        ),
        (
            "Kafka",
            format!(
                "{}, one broker as its own script starts it, used for ten million records beforehand, topics of 10 \
                 partitions",
                downloads::kafka_version()
            ),
        ),
        ("Apicurio Registry", downloads::REGISTRY.to_owned()),
        (
            "Debezium",
            "3.6.1 in a standalone Connect, at least once, Avro (latency: JSON without schemas), batches of 8,192, queue of \
             32,768, heap of 2 GB; where exactly once is named, in a distributed Connect of one worker, a transaction \
             for each batch"
                .to_owned(),
        ),
        (
            "Load",
            "a million row changes, rows or records, or with --quick 300,000, where the case or its command names no other \
             number; of ten row changes five update, four insert, one deletes; full row images"
                .to_owned(),
        ),
    ];
    settings.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}
