//! Latency from a commit in MySQL to a reader of the topic, to the durable line in the log and to the row in
//! PostgreSQL, compared with Debezium and with a replica of MySQL.
//!
//! All clocks are this machine's. A change begins with the commit time, in microseconds, that MySQL writes into its
//! GTID event on its way into the binlog: before the binlog is synced and before any client receives it, so each
//! client's whole delay counts. Our time comes from the log line's `source_ts`, Debezium's from `source.ts_us`. A
//! change ends
//!
//! - **at a reader** when a reader of committed records in this program has received it from the topic, our producer's
//!   or Debezium's, each without anything else;
//! - **in the log** when such a reader sees the log checkpoint whose length covers its line: the line is written, synced
//!   and committed with the group's offsets. The reader's own delay counts too;
//! - **in PostgreSQL** at the commit time that the server stores for its transaction (`track_commit_timestamp`), taken
//!   just before its WAL is synced;
//! - **in a replica** at the commit time that the replica writes into its own binlog, taken just before the binlog is
//!   synced.
//!
//! During a run, only that reader queries a server, and all changes are inserts, so that each has a separate row.

pub mod look;
mod measure;
mod ours;
mod peers;
mod replica;

use anyhow::Result;

use self::measure::{Latency, QUANTILES, RATES};
use crate::lab::Lab;
use crate::pace::Paced;
use crate::report::{Better, Figure};
use crate::size::Size;

const TO_READER: &str = "commit to a committed reader of the topic";
const TO_LOG: &str = "commit to the line in the log, durable";

/// The latencies of one way in each run, by rate.
type Runs = Vec<Vec<Latency>>;

/// The results of all runs.
#[derive(Debug, Default)]
struct Seen {
    reader: Runs,
    log: Runs,
    postgres: Runs,
    debezium: Runs,
    exactly_once: Runs,
    replica: Runs,
}

/// Runs the case.
///
/// # Errors
/// When a program fails or makes no progress, or a change does not arrive exactly once.
pub fn run(lab: &mut Lab, size: &Size, say: &dyn Fn(String)) -> Result<Vec<Figure>> {
    // A run takes a minute at any size.
    let (runs, measured) = if size.changes < 1_000_000 { (1, 10) } else { (size.runs, 25) };
    say(format!("Latency: single inserts at {RATES:?} a second, {measured} s each after a warm-up"));
    let mut seen = Seen::default();
    for _ in 0..runs {
        let (paced, latencies) = ours::producer_alone(lab, measured)?;
        tell(say, "to a reader", &paced, &latencies);
        seen.reader.push(latencies);
        let run = ours::run(lab, measured)?;
        let ways = [("to PostgreSQL", run.postgres, &mut seen.postgres), ("to the log", run.log, &mut seen.log)];
        for (what, latencies, all) in ways {
            tell(say, what, &run.paced, &latencies);
            all.push(latencies);
        }
        if size.alone {
            continue;
        }
        let (paced, latencies) = peers::at_least_once(lab, measured)?;
        tell(say, "Debezium", &paced, &latencies);
        seen.debezium.push(latencies);
        let (paced, latencies) = peers::exactly_once(lab, measured)?;
        tell(say, "exactly once", &paced, &latencies);
        seen.exactly_once.push(latencies);
        let (paced, latencies) = replica::run(lab, measured)?;
        tell(say, "a replica", &paced, &latencies);
        seen.replica.push(latencies);
    }
    Ok(RATES.iter().enumerate().flat_map(|(at, rate)| figures(*rate, at, &seen)).collect())
}

fn tell(say: &dyn Fn(String), what: &str, paced: &[Paced], latencies: &[Latency]) {
    for (paced, Latency { rate, quantiles: [p50, p99, p999] }) in paced.iter().zip(latencies) {
        say(format!(
            "  {what:13}  {:6}/s asked, {rate:7.0}/s made ({:6.1} ms late)  p50 {p50:7.1}  p99 {p99:7.1}  p99.9 {p999:7.1} ms",
            paced.rate, paced.late_p99_ms
        ));
    }
}

fn figures(rate: u64, at: usize, seen: &Seen) -> Vec<Figure> {
    let case = format!("Latency at {rate} changes a second");
    let rows = [
        (TO_READER, &seen.reader, "Debezium", &seen.debezium),
        (
            "commit to a committed reader, beside exactly once",
            &seen.reader,
            "Debezium, exactly once",
            &seen.exactly_once,
        ),
        (TO_LOG, &seen.log, "Debezium to a reader, nothing written", &seen.debezium),
        ("commit to the row in PostgreSQL", &seen.postgres, "a replica of MySQL", &seen.replica),
    ];
    let of = |runs: &Runs, value: &dyn Fn(&Latency) -> f64| runs.iter().map(|run| value(&run[at])).collect();
    let mut figures = Vec::new();
    for (q, (_, quantile)) in QUANTILES.iter().enumerate() {
        for (way, ours, peer, theirs) in rows {
            let measure = format!("{way}, {quantile}");
            let names = [&case, &measure, "ms", peer, goal(way, rate, quantile)];
            let value = |latency: &Latency| latency.quantiles[q];
            figures.push(Figure::new(names, Better::Less, of(ours, &value), of(theirs, &value)));
        }
    }
    let goal = if rate == 10_000 { "≥ 0.95 ×" } else { "" };
    let value = |latency: &Latency| latency.rate;
    for (measure, ours, goal) in [
        ("rate that MySQL reached beside the producer", &seen.reader, ""),
        ("rate that MySQL reached beside the pipeline", &seen.log, goal),
    ] {
        let names = [&case, measure, "commits/s", "beside Debezium", goal];
        figures.push(Figure::new(names, Better::More, of(ours, &value), of(&seen.debezium, &value)));
    }
    figures
}

fn goal(way: &str, rate: u64, quantile: &str) -> &'static str {
    match (way, rate, quantile) {
        (TO_READER, 1_000, "p50") => "≤ 10 ms, ≥ 1 ×",
        (TO_READER, 1_000, "p99") => "≤ 20 ms, ≥ 1 ×",
        (TO_LOG, 100, "p50") => "≤ 9 ms",
        (TO_LOG, 100, "p99") | (TO_LOG, 1_000, "p50") => "≤ 20 ms",
        (TO_LOG, 1_000, "p99") => "≤ 40 ms",
        _ => "",
    }
}
