//! `cargo xtask bench`: measurements on servers of its own.
#![allow(clippy::print_stdout, reason = "its output")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use bench::backlog::{Backlog, Run};
use bench::debezium::Format;
use bench::limits;
use bench::load::Load;
use bench::report::{Better, Figure, Report};
use bench::stand::Stand;
use clap::Parser;
use xtask::{background, cargo, downloads, interrupt};

/// Measure the pipeline beside Debezium, on servers of its own: a backlog in the binlog, into Kafka as Avro
#[derive(Parser)]
#[command(bin_name = "cargo xtask bench", max_term_width = 100)]
struct Cli {
    /// Row changes in each backlog
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    changes: u64,
    /// Row changes in a transaction; may be given several times [default: 500, 10 and 1]
    #[arg(long, value_name = "N", default_values_t = [500, 10, 1], hide_default_value = true)]
    per_transaction: Vec<u64>,
    /// Runs of each program, in turns
    #[arg(long, value_name = "N", default_value_t = 3)]
    runs: u32,
    /// In about ten minutes: a backlog of 300,000 in transactions of 500
    #[arg(long)]
    quick: bool,
    /// Leave Debezium out
    #[arg(long)]
    alone: bool,
    /// Write docs/benchmarks.md, docs/benchmarks.json and the charts
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

fn run(mut cli: Cli) -> Result<()> {
    if cli.quick {
        (cli.changes, cli.per_transaction) = (300_000, vec![500]);
    }
    let programs = std::env::var_os("PIPELINE_BIN_DIR").map_or_else(|| cargo::target().join("release"), PathBuf::from);
    let mut stand = Stand::start(cargo::target().join("bench-stack"), programs)?;
    let mut report = Report { setting: setting(&stand), ..Report::default() };
    for per_transaction in cli.per_transaction.iter().copied() {
        let load = Load { changes: cli.changes, per_transaction };
        println!("{} changes in transactions of {per_transaction}:", cli.changes);
        let backlog = Backlog::make(&mut stand, load, !cli.alone)?;
        let (mut ours, mut theirs, mut reader, mut client) = (vec![], vec![], vec![], vec![]);
        for _ in 0..cli.runs {
            let run = backlog.ours(&mut stand)?;
            show("ours", &run);
            reader.push(limits::reader(&stand, &backlog)?);
            client.push(limits::client(&mut stand, &run.topic)?);
            println!("  alone: reader {:.0}/s, client {:.0}/s", reader[reader.len() - 1], client[client.len() - 1]);
            ours.push(run);
            if !cli.alone {
                let run = backlog.debezium(&mut stand, Format::Avro)?;
                show("Debezium", &run);
                theirs.push(run);
            }
        }
        report.figures.extend(figures(per_transaction, &ours, &theirs, reader, client));
    }
    stand.stack.kill()?;
    if cli.write {
        report.write(&background::root().join("docs"))?;
    }
    Ok(())
}

fn figures(rows: u64, ours: &[Run], theirs: &[Run], reader: Vec<f64>, client: Vec<f64>) -> Vec<Figure> {
    let case = &*format!("Backlog, transactions of {rows}");
    let figure = |measure, unit, goal, better, mine: fn(&Run) -> f64, other: fn(&Run) -> f64| {
        let names = [case, measure, unit, "Debezium", goal];
        Figure::new(names, better, ours.iter().map(mine).collect(), theirs.iter().map(other).collect())
    };
    let limit = if bench::report::median(&reader) < bench::report::median(&client) { reader } else { client };
    let rates = ours.iter().map(|r| r.arrival.rate()).collect();
    let best = |run: &Run| run.arrival.best_second();
    vec![
        figure(
            "rate while streaming, beside the best second of",
            "records/s",
            "≥ 12 ×",
            Better::More,
            |r| r.arrival.rate(),
            best,
        ),
        figure(
            "rate from the start of the process",
            "records/s",
            "≥ 25 ×",
            Better::More,
            Run::rate_from_start,
            Run::rate_from_start,
        ),
        figure("start of the process to the first record", "s", "≤ 0.2 s", Better::Less, |r| r.first_s, |r| r.first_s),
        figure("CPU for a million changes", "s", "≤ 7 s", Better::Less, Run::cpu_per_million, Run::cpu_per_million),
        figure("most memory resident", "MB", "≤ 64 MB", Better::Less, |r| r.usage.peak_rss_mb, |r| r.usage.peak_rss_mb),
        Figure::new(
            [case, "rate while streaming, beside the lower of", "records/s", "reader and client alone", "≥ 0.8 ×"],
            Better::More,
            rates,
            limit,
        ),
    ]
}

fn setting(stand: &Stand) -> BTreeMap<String, String> {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let settings = [
        ("Cores, for servers and programs together", cores.to_string()),
        ("MySQL", format!("{}; a load is made with sync_binlog=0 before it is measured", stand.stack.mysql.version)),
        ("Kafka", format!("{}, one broker, topics of 10 partitions", downloads::KAFKA)),
        ("Apicurio Registry", downloads::REGISTRY.to_owned()),
        (
            "Debezium",
            "3.6.1 in a standalone Connect, at least once, Avro, batches of 8,192, queue of 32,768, heap of 2 GB"
                .to_owned(),
        ),
        ("Load", "of ten row changes five update, four insert, one deletes; full row images".to_owned()),
    ];
    settings.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn show(name: &str, run: &Run) {
    println!(
        "  {name:8}  first {:7.3} s  {:8.0}/s  best second {:8.0}  from the start {:8.0}/s  {:7.2} CPU-s per million  {:7.1} MB",
        run.first_s,
        run.arrival.rate(),
        run.arrival.best_second(),
        run.rate_from_start(),
        run.cpu_per_million(),
        run.usage.peak_rss_mb
    );
}
