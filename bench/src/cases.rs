//! The cases: the runs, in turns, and the figures from them.

use std::time::Instant;

use anyhow::Result;

use crate::backlog::{Backlog, Run};
use crate::debezium::Format;
use crate::lab::Lab;
use crate::load::Load;
use crate::report::{Better, Figure, median};
use crate::size::Size;
use crate::snapshot::Table;
use crate::start::Start;
use crate::{busy_snapshot, commit, drain, drain_postgres, growth, latency, limits, memory, trace, updater};

/// A value of a run.
type Value = fn(&Run) -> f64;

/// A case by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Case {
    /// Changes that are in the binlog already, to Kafka, beside Debezium and beside the producer's own limits
    Backlog,
    /// A table that is there already, to Kafka, beside Debezium and beside a SELECT
    Snapshot,
    /// From the start of the process to the first record, beside Debezium
    Start,
    /// Five consumers that drain a topic into their logs, beside kcat
    Drain,
    /// From a commit in MySQL to a reader, the line in the log and the row in PostgreSQL, at fixed rates, beside
    /// Debezium and a replica
    Latency,
    /// CSV files into MySQL by product-updater, beside the mysql client
    Updater,
    /// A table that is written to meanwhile, to Kafka, beside Debezium
    BusySnapshot,
    /// Five consumers that drain a topic into their logs and PostgreSQL, beside one COPY
    DrainPostgres,
    /// Our producer's memory when it is idle and at one large transaction
    Memory,
    /// Ours with ever more changes, columns and partitions
    Growth,
    /// The Kafka client alone: the time of a transaction and the CPU of a record, beside librdkafka
    Commit,
    /// The pipeline while the console or `stream status --watch` looks at it, beside the same unobserved
    Look,
    /// `stream trace` in a long topic, by key, offset and transaction
    Trace,
}

impl Case {
    /// Runs the case; `say` gets a line for each run.
    ///
    /// # Errors
    /// When a program fails, makes no progress, or does not deliver everything exactly once.
    pub fn run(self, lab: &mut Lab, size: &Size, say: &dyn Fn(String)) -> Result<Vec<Figure>> {
        match self {
            Self::Backlog => {
                let mut figures = Vec::new();
                for rows in &size.per_transaction {
                    figures.extend(backlog(lab, size, &format!("Backlog, transactions of {rows}"), *rows, say)?);
                }
                if let Some(large) = size.larger().filter(|large| large.per_transaction.contains(&500)) {
                    let case = format!("Backlog of {} changes, transactions of 500", large.changes);
                    figures.extend(backlog(lab, &large, &case, 500, say)?);
                }
                Ok(figures)
            }
            Self::Snapshot => size.each(|size| snapshot(lab, size, say)),
            Self::Start => started(lab, size, say),
            Self::Drain => drained(lab, size, say),
            Self::Latency => latency::run(lab, size, say),
            Self::Look => latency::look::run(lab, size, say),
            Self::Trace => trace::case(lab, size, say),
            Self::Updater => updater::run(lab, size, say),
            Self::DrainPostgres => drain_postgres::case(lab, size, say),
            Self::BusySnapshot => size.each(|size| busy_snapshot::case(lab, size, say)),
            Self::Memory => memory::case(lab, size, say),
            Self::Growth => growth::case(lab, size, say),
            Self::Commit => commit::case(lab, size, say),
        }
    }
}

fn backlog(lab: &mut Lab, size: &Size, case: &str, rows: u64, say: &dyn Fn(String)) -> Result<Vec<Figure>> {
    say(format!("{case}: {} changes", size.changes));
    let load = Load { changes: size.changes, per_transaction: rows };
    let begun = Instant::now();
    let backlog = Backlog::make(lab, load, !size.alone)?;
    say(format!("  made in {:.0} s", begun.elapsed().as_secs_f64()));
    let (mut ours, mut theirs, mut reader, mut client) = (vec![], vec![], vec![], vec![]);
    for _ in 0..size.runs {
        let run = backlog.ours(lab)?;
        say(shown("ours", &run));
        reader.push(limits::reader(lab, &backlog)?);
        client.push(limits::client(lab, &run.topic)?);
        say(format!("  alone: reader {:.0}/s, client {:.0}/s", median(&reader), median(&client)));
        ours.push(run);
        if !size.alone {
            let run = backlog.debezium(lab, Format::Avro)?;
            say(shown("Debezium", &run));
            theirs.push(run);
        }
    }
    // Each alone has all cores; a program that does both on busy cores takes the sum of their times.
    let both = reader.iter().zip(&client).map(|(reader, client)| 1.0 / (1.0 / reader + 1.0 / client)).collect();
    let limit =
        if median(&reader) < median(&client) { ("our reader alone", reader) } else { ("the client alone", client) };
    let rates: Vec<f64> = ours.iter().map(|r| r.arrival.rate()).collect();
    let (beside_debezium, cpu) = if rows == 500 { ("≥ 26 ×", "≤ 1 s") } else { ("≥ 12 ×", "≤ 7 s") };
    let mut figures = vec![
        figure(
            [case, "rate, beside the best second of", "records/s", beside_debezium],
            Better::More,
            &ours,
            &theirs,
            (|r| r.arrival.rate(), |r| r.arrival.best_second()),
        ),
        Figure::new(
            [case, "rate, beside the lower limit", "records/s", limit.0, "≥ 0.8 ×"],
            Better::More,
            rates.clone(),
            limit.1,
        ),
        Figure::new(
            [case, "rate, beside both limits on the same cores", "records/s", "reader, then client", ""],
            Better::More,
            rates,
            both,
        ),
    ];
    figures.extend(process_figures(case, ["≥ 25 ×", cpu], &ours, &theirs));
    Ok(figures)
}

fn snapshot(lab: &mut Lab, size: &Size, say: &dyn Fn(String)) -> Result<Vec<Figure>> {
    let case = &format!("Snapshot of {} rows", size.changes);
    say(case.clone());
    let table = Table::make(lab, size.changes)?;
    let (mut ours, mut theirs, mut select) = (vec![], vec![], vec![]);
    for _ in 0..size.runs {
        ours.push(table.ours(lab)?);
        say(shown("ours", &ours[ours.len() - 1]));
        select.push(table.select(lab)?);
        say(format!("  SELECT alone {:.0}/s", median(&select)));
        if !size.alone {
            theirs.push(table.debezium(lab)?);
            say(shown("Debezium", &theirs[theirs.len() - 1]));
        }
    }
    let rates = ours.iter().map(|r| r.arrival.rate()).collect();
    let mut figures = vec![
        figure(
            [case, "rate", "records/s", "≥ 10 ×"],
            Better::More,
            &ours,
            &theirs,
            (|r| r.arrival.rate(), |r| r.arrival.rate()),
        ),
        Figure::new(
            [case, "rate, beside a SELECT", "rows/s", "mysql --quick to a pipe", "≥ 0.7 ×"],
            Better::More,
            rates,
            select,
        ),
    ];
    figures.extend(process_figures(case, ["≥ 10 ×", "≤ 7 s"], &ours, &theirs));
    Ok(figures)
}

fn started(lab: &mut Lab, size: &Size, say: &dyn Fn(String)) -> Result<Vec<Figure>> {
    let case = "Start";
    say(format!("{case}: one change was made while the program was stopped"));
    let mut start = Start::make(lab, !size.alone)?;
    let (mut ours, mut killed, mut theirs) = (vec![], vec![], vec![]);
    for _ in 0..size.runs {
        ours.push(start.ours(lab)?);
        killed.push(start.ours_after_a_kill(lab)?);
        if !size.alone {
            theirs.push(start.debezium(lab)?);
        }
        let beside = theirs.last().map_or(String::new(), |theirs| format!(", Debezium {theirs:.3} s"));
        let (last, after) = (ours[ours.len() - 1], killed[killed.len() - 1]);
        say(format!("  ours {last:.3} s, after a kill {after:.3} s{beside}"));
    }
    let names = [case, "start of the process to the first record seen", "s", "Debezium", "≤ 0.2 s"];
    let after = [case, "the same after a kill in mid-transaction", "s", "", "≤ 0.2 s"];
    Ok(vec![Figure::new(names, Better::Less, ours, theirs), Figure::new(after, Better::Less, killed, vec![])])
}

fn drained(lab: &mut Lab, size: &Size, say: &dyn Fn(String)) -> Result<Vec<Figure>> {
    let case = "Drain";
    say(format!("{case}: {} records", size.changes));
    let backlog = Backlog::make(lab, Load { changes: size.changes, per_transaction: 500 }, false)?;
    let filled = backlog.ours(lab)?;
    let (mut ours, mut kcat) = (vec![], vec![]);
    // A run takes a second. kcat's rate has one of two values, which differ by half: its fetch is delayed for a second
    // or not.
    for _ in 0..2 * size.runs {
        let run = drain::consumers(lab, &filled.topic, backlog.changes, "")?;
        say(format!("  {run:?}"));
        ours.push(run);
        let run = drain::kcat(lab, &filled.topic, backlog.changes)?;
        say(format!("  kcat {run:.0}/s"));
        kcat.push(run);
    }
    let of = |value: fn(&drain::Drained) -> f64| ours.iter().map(value).collect::<Vec<_>>();
    let alone = |measure, unit, goal, value: fn(&drain::Drained) -> f64| {
        Figure::new([case, measure, unit, "", goal], Better::Less, of(value), vec![])
    };
    Ok(vec![
        Figure::new(
            [case, "rate into five logs", "records/s", "kcat to a file", "≥ 0.8 ×"],
            Better::More,
            of(|d| d.rate),
            kcat,
        ),
        alone("CPU for a million records, five together", "s", "", |d| d.cpu_per_million),
        alone("most memory resident of a consumer", "MB", "≤ 48 MB", |d| d.peak_rss_mb),
        alone("start of the processes to the first line", "s", "", |d| d.first_s),
    ])
}

/// `goals` are those of the rate from the start and of the CPU.
fn process_figures(case: &str, goals: [&str; 2], ours: &[Run], theirs: &[Run]) -> Vec<Figure> {
    let same = |measure, unit, goal, better, value: fn(&Run) -> f64| {
        figure([case, measure, unit, goal], better, ours, theirs, (value, value))
    };
    vec![
        same("rate from the start of the process", "records/s", goals[0], Better::More, Run::rate_from_start),
        same("start of the process to the first record", "s", "≤ 0.2 s", Better::Less, |r| r.first_s),
        same("CPU for a million records", "s", goals[1], Better::Less, Run::cpu_per_million),
        same("most memory resident", "MB", "≤ 40 MB", Better::Less, |r| r.usage.peak_rss_mb),
    ]
}

/// `names` are case, measure, unit and goal.
fn figure(names: [&str; 4], better: Better, ours: &[Run], theirs: &[Run], values: (Value, Value)) -> Figure {
    let [case, measure, unit, goal] = names;
    let (mine, other) = (ours.iter().map(values.0).collect(), theirs.iter().map(values.1).collect());
    Figure::new([case, measure, unit, "Debezium", goal], better, mine, other)
}

fn shown(name: &str, run: &Run) -> String {
    format!(
        "  {name:8}  first {:7.3} s  {:8.0}/s  best second {:8.0}  from the start {:8.0}/s  {:7.2} CPU-s per million  {:7.1} MB",
        run.first_s,
        run.arrival.rate(),
        run.arrival.best_second(),
        run.rate_from_start(),
        run.cpu_per_million(),
        run.usage.peak_rss_mb
    )
}
