//! Compares table, topic, logs and PostgreSQL, and reports whether they agree.
//!
//! - table ↔ topic: the last record of each key equals the row, and each row has one;
//! - topic: each key in its partition and in the source's order, no change of an epoch twice;
//! - topic ↔ logs: each record in exactly one log, with the expected line; an unreadable record is a dead letter;
//! - table ↔ PostgreSQL: each row after the rules, and no other row.
//!
//! All four may be written to meanwhile: verify fixes a position of the source and compares up to it. It counts and
//! names the items that it could not compare, such as expired records; it reports that all agree only after it compared
//! everything.
//!
//! It compares each table that `tables` takes, one after the other. It knows no table: columns, key and types come from
//! the server and from the schema of the records. Its conversions are its own: it compares the server's text of a value
//! with the text of the value that `apache-avro` decodes, and shares no code with the producer's encoder or the consumers'
//! decoder, rules and lines.
//!
//! It only reads, and streams. It keeps hashes, 26 bytes a record, 90 to 180 a key and, with PostgreSQL, 45 to 95 a row,
//! in at most `verify.memory`: what needs more is compared in several passes (`pass.rs`).

mod arrival;
mod canonical;
mod compare;
mod contract;
mod cut;
mod elsewhere;
mod explain;
mod findings;
mod gaps;
mod letters;
mod line;
mod logs;
mod partitioner;
mod parts;
mod pass;
mod place;
mod postgres;
mod reading;
mod recent;
mod rechecks;
mod report;
mod rules;
mod run;
mod schemas;
mod source;
mod span;
mod status;
mod tables;
mod topic;
mod writer;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::{Arg, ArgAction, Command};
use model::error::{Error, Result};
use model::escape;
use runtime::program::Context;
use serde::Serialize;

use crate::report::{Report, Verdict};

const JSON: &str = "Print one JSON object instead of tables: verdict (agree, agree_as_far_as_compared, \
                    nothing_compared, behind, different), agree (true for the first only), topic, table, position, passes, \
                    not_compared [{what, count, why}], records, per_partition [{partition, records, \
                    last_offset, logs}], epochs, ops {r, c, u, d}, keys, logs {consumer_1: lines, …}, lines, dead_letters, \
                    filtered, expired_lines, later_lines, table_rows, postgres_rows, lost, doubled, out_of_order, torn, counts {check: \
                    number}, differences [{check, text, key, partition, offset, expected, found}], notes; for several tables: verdict \
                    (the worst), tables [such an object for each]";

/// The program's own flags.
pub fn command() -> Command {
    Command::new("verify")
        .about("Compares table, topic, logs and PostgreSQL; exits 0 when all that can be compared agrees, 1 when not")
        .arg(
            Arg::new("wait")
                .long("wait")
                .value_name("TIME")
                .value_parser(duration)
                .help("First wait until all that is in MySQL now has arrived in the logs, e.g. 60s at most"),
        )
        .arg(
            Arg::new("table")
                .long("table")
                .value_name("DB.TABLE")
                .help("Compare this table only, of those that tables takes"),
        )
        .arg(
            Arg::new("complete")
                .long("complete")
                .action(ArgAction::SetTrue)
                .help("Exit with 1 also when something could not be compared, as records that have expired"),
        )
        .arg(
            Arg::new("json")
                .long("json")
                .action(ArgAction::SetTrue)
                .help("Print one JSON object instead of tables")
                .long_help(JSON),
        )
}

fn stopped() -> Error {
    Error::transient("stopped before the comparison was done")
}

/// Compares, and prints the report. Sets `different` if the exit code must be 1.
///
/// # Errors
/// Errors of the servers and the settings; transient when it is stopped.
pub async fn execute(context: Context, different: &AtomicBool) -> Result<()> {
    let wait = context.arguments.get_one::<Duration>("wait").copied();
    let only = context.arguments.get_one::<String>("table").map(String::as_str);
    if let Some(wait) = wait {
        tokio::select! {
            waited = run::wait_for_tables(&context.settings, wait) => waited?,
            () = context.shutdown.cancelled() => return Err(stopped()),
        }
    }
    let tables = tokio::task::block_in_place(|| tables::taken(&context.settings))?;
    let mut parts = parts::Parts::of_tables(&context.settings, &tables)?;
    if let Some(only) = only {
        parts = vec![parts.swap_remove(tables::place(&tables, only)?)];
    }
    let (is_json, is_single) = (context.arguments.get_flag("json"), parts.len() == 1);
    let mut reports = Vec::new();
    for parts in parts {
        let (report, findings) = tokio::select! {
            result = run::run(parts, wait) => result?,
            () = context.shutdown.cancelled() => return Err(stopped()),
        };
        if !is_json {
            if !is_single {
                println!("== {}", escape::shown(&report.table));
            }
            print!("{}", report.render(&findings));
            if !is_single {
                println!();
            }
        }
        reports.push(report);
    }
    match reports.as_slice() {
        [report] if is_json => print_json(report)?,
        [_] => {}
        several if is_json => print_json(&Several { verdict: tables::worst(several), tables: several })?,
        several => println!("{}", escape::shown(&tables::summary(several))),
    }
    let complete = context.arguments.get_flag("complete");
    different.store(!reports.iter().all(|report| report.verdict.is_success(complete)), Ordering::Relaxed);
    Ok(())
}

/// The form of `--json` for several tables.
#[derive(Serialize)]
struct Several<'a> {
    verdict: Verdict,
    tables: &'a [Report],
}

fn print_json(value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string(value);
    let text = text.map_err(|e| Error::definite("the report can't be written as JSON").with_source(e))?;
    println!("{}", escape::escaped(&text));
    Ok(())
}

fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || "not a length of time such as 500ms, 60s or 2m".to_owned();
    let length: jiff::SignedDuration = text.parse().map_err(|_| wrong())?;
    length.try_into().map_err(|_| wrong())
}
