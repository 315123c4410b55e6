//! `cargo xtask chaos`: runs faults by the hundred on separate servers.
#![allow(clippy::print_stdout, reason = "its output")]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use clap::builder::RangedU64ValueParser;
use indicatif::{ProgressBar, ProgressStyle};
use rand::Rng;
use testbed::{cargo, interrupt};

use chaos::{Event, Options, Report};

/// Break the pipeline on purpose while it works, and prove that every change still arrives exactly once
#[derive(Parser)]
#[command(bin_name = "cargo xtask chaos", max_term_width = 100)]
struct Cli {
    /// Seed of all random decisions; a random one by default
    #[arg(long)]
    seed: Option<u64>,
    /// How many faults; 100 by default, as many as fit with --minutes
    #[arg(long, value_parser = RangedU64ValueParser::<usize>::new().range(1..))]
    faults: Option<usize>,
    /// Begin no fault after so many minutes
    #[arg(long)]
    minutes: Option<f64>,
    /// Only this fault; may be given several times
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Changes per second
    #[arg(long, default_value_t = 500)]
    rate: u32,
    /// Brokers: 1, or 3 with replication
    #[arg(long, default_value_t = 1, value_parser = brokers)]
    brokers: usize,
    /// Faults in a round; each round has a fresh topic and is judged at its end
    #[arg(long, default_value_t = 50)]
    round: usize,
    /// Write the report to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// List the faults: name, how often it is drawn, whether it is among the tests, what must happen
    #[arg(long)]
    list: bool,
    /// Merge reports into one: prints it as a page, and writes it to --json
    #[arg(long, value_name = "REPORT", num_args = 1..)]
    merge: Vec<PathBuf>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match interrupt::catch().and_then(|()| run(&cli)) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn brokers(text: &str) -> Result<usize, String> {
    match text {
        "1" => Ok(1),
        "3" => Ok(3),
        _ => Err("1 or 3".to_owned()),
    }
}

fn run(cli: &Cli) -> Result<ExitCode> {
    if cli.list {
        let line = |fault: &chaos::Fault| {
            let quick = if fault.quick { "quick" } else { "" };
            format!("{:32} {:>2} {quick:5} {}\n", fault.name, fault.weight, fault.expects)
        };
        print!("{}", chaos::all().map(line).collect::<String>());
        return Ok(ExitCode::SUCCESS);
    }
    let report = if cli.merge.is_empty() {
        match injected(cli)? {
            Some(report) => report,
            None => return Ok(ExitCode::FAILURE),
        }
    } else {
        let read = |path: &PathBuf| std::fs::read_to_string(path).with_context(|| path.display().to_string());
        Report::merge(&cli.merge.iter().map(read).collect::<Result<Vec<_>>>()?)?
    };
    print!("{}", if cli.merge.is_empty() { report.render() } else { report.page() });
    write(cli, &report)?;
    Ok(if interrupt::asked() { ExitCode::from(130) } else { ExitCode::SUCCESS })
}

fn write(cli: &Cli, report: &Report) -> Result<()> {
    let Some(path) = &cli.json else { return Ok(()) };
    let text = serde_json::to_string_pretty(report)? + "\n";
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// Returns the report of a run; `None` after a failure, whose error has been printed.
fn injected(cli: &Cli) -> Result<Option<Report>> {
    cli.only.iter().try_for_each(|name| chaos::named(name).map(drop))?;
    let seed = cli.seed.unwrap_or_else(|| u64::from(rand::rng().random::<u32>()));
    let folder = cargo::target().join("chaos").join(seed.to_string());
    if folder.exists() {
        std::fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    let options = Options {
        seed,
        faults: cli.faults.unwrap_or(if cli.minutes.is_some() { usize::MAX } else { 100 }),
        time: cli.minutes.map(|minutes| Duration::from_secs_f64(minutes * 60.0)),
        only: cli.only.clone(),
        rate: cli.rate,
        brokers: cli.brokers,
        round: cli.round,
        folder: folder.clone(),
    };
    eprintln!("seed {seed}; servers in {}", folder.display());
    let live = Live::new();
    let outcome = chaos::run(&options, &mut |event| live.show(&event))?;
    live.0.finish_and_clear();
    let failure = match outcome {
        Ok(mut report) => {
            report.runs.push(command(cli, seed, report.faults_done()));
            std::fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
            return Ok(Some(report));
        }
        Err(failure) => failure,
    };
    write(cli, &failure.report)?;
    eprintln!("FAILED: {}: {:#}", failure.doing, failure.error);
    eprintln!("programs' logs in {}, servers' in {}", failure.bed.display(), folder.display());
    eprintln!("again: {}", command(cli, failure.seed, failure.faults.max(1)));
    Ok(None)
}

/// The command that runs these faults again.
fn command(cli: &Cli, seed: u64, faults: usize) -> String {
    let only: String = cli.only.iter().map(|name| format!(" --only {name}")).collect();
    let Cli { round, rate, brokers, .. } = cli;
    format!("cargo xtask chaos --seed {seed} --faults {faults} --round {round} --rate {rate} --brokers {brokers}{only}")
}

/// A line that is updated in place; without a terminal, a line for each fault.
struct Live(ProgressBar);

impl Live {
    fn new() -> Self {
        let bar = ProgressBar::new_spinner();
        let style = ProgressStyle::with_template("{spinner} {prefix}{msg} ({elapsed})");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
        bar.enable_steady_tick(Duration::from_millis(120));
        Self(bar)
    }

    fn show(&self, event: &Event<'_>) {
        match event {
            Event::Starting => self.0.set_message("the servers start"),
            Event::Round(number, seed) => {
                self.0.set_prefix(format!("round {number} (seed {seed}) "));
                self.0.set_message("begins");
            }
            Event::Fault(number, name) => self.0.set_message(format!("fault {number} {name}")),
            Event::Recovered(name, [all, recovery], changes) => {
                let [all, recovery] = [all, recovery].map(Duration::as_secs_f64);
                if self.0.is_hidden() {
                    eprintln!("{name}: {all:.1} s in all, {recovery:.1} s after its end; {changes} changes");
                }
            }
            Event::Judging => self.0.set_message("settles and is judged"),
            Event::Judged(round) => {
                let faults: usize = round.recoveries.values().map(Vec::len).sum();
                let line = format!(
                    "seed {}: {faults} faults, {} changes in {} tables, {} records: each exactly once, in order",
                    round.seed,
                    round.changes.values().sum::<u64>(),
                    round.changes.len(),
                    round.records
                );
                if self.0.is_hidden() { eprintln!("{line}") } else { self.0.println(line) }
            }
        }
    }
}
