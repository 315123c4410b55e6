//! Latency from a commit in MySQL to the durable line in the log and to the row in PostgreSQL, compared with Debezium
//! and a reader of committed records.
//!
//! All clocks are this machine's. A change begins with the commit time, in microseconds, that MySQL writes into its
//! GTID event on its way into the binlog: before the binlog is synced and before any client receives it, so each
//! client's whole delay counts. Our time comes from the log line's `source_ts`, Debezium's from `source.ts_us`. A
//! change ends
//!
//! - **in the log** when a reader of committed records sees the log checkpoint whose length covers its line: the line is
//!   written, synced and committed with the group's offsets. The reader's own delay counts too;
//! - **in PostgreSQL** at the commit time that the server stores for its transaction (`track_commit_timestamp`), taken
//!   just before its WAL is synced;
//! - **with Debezium** when a reader of committed records in this program has received it from the topic; nothing is
//!   written.
//!
//! During a run, only that reader queries a server, and all changes are inserts, so that each has a separate row.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs;
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use hdrhistogram::Histogram;
use model::time::Micros;
use rdkafka::consumer::BaseConsumer;
use rdkafka::message::{BorrowedMessage, Message};
use serde::Deserialize;
use testbed::programs::{CONSUMERS, Program};
use testbed::servers::Postgres;

use crate::backlog::options;
use crate::debezium::{Debezium, Format};
use crate::drain;
use crate::lab::Lab;
use crate::load;
use crate::pace::{Pace, Paced, Stretch};
use crate::postgres;
use crate::report::{Better, Figure};
use crate::size::Size;
use crate::start::tail;
use crate::topic;

const RATES: [u64; 3] = [100, 1_000, 10_000];
const QUANTILES: [(f64, &str); 3] = [(0.5, "p50"), (0.99, "p99"), (0.999, "p99.9")];
const PATIENCE: Duration = Duration::from_secs(60);
/// After so long without a record, check whether everything has arrived.
const SILENCE: Duration = Duration::from_millis(300);

/// The times from commit to arrival in one stretch, in milliseconds.
#[derive(Clone, Copy, Debug)]
struct Latency {
    /// Commits a second that MySQL reached.
    rate: f64,
    quantiles: [f64; 3],
}

/// One change: microseconds since 1970.
#[derive(Clone, Copy, Debug)]
struct Arrival {
    id: u64,
    committed: i64,
    arrived: i64,
}

/// The results of a run, by rate.
#[derive(Debug)]
struct Seen {
    paced: Vec<Paced>,
    /// To the record in the topic, not yet committed there; from the broker's clock, which has whole milliseconds.
    topic: Vec<Latency>,
    log: Vec<Latency>,
    postgres: Vec<Latency>,
}

/// Runs the case.
///
/// # Errors
/// When a program fails or makes no progress, or a change does not arrive exactly once.
pub fn run(lab: &mut Lab, size: &Size, say: &dyn Fn(String)) -> Result<Vec<Figure>> {
    // A run takes a minute at any size.
    let (runs, measured) = if size.changes < 1_000_000 { (1, 10) } else { (size.runs, 25) };
    say(format!("Latency: single inserts at {RATES:?} a second, {measured} s each after a warm-up"));
    let (mut seen, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        let run = ours(lab, measured)?;
        tell(say, "to the topic", &run.paced, &run.topic);
        tell(say, "to PostgreSQL", &run.paced, &run.postgres);
        tell(say, "to the log", &run.paced, &run.log);
        seen.push(run);
        if !size.alone {
            let (paced, latencies) = debezium(lab, measured)?;
            tell(say, "Debezium", &paced, &latencies);
            theirs.push(latencies);
        }
    }
    Ok(RATES.iter().enumerate().flat_map(|(at, rate)| figures(*rate, at, &seen, &theirs)).collect())
}

/// Whether the last log checkpoint of each of the five logs covers the whole log.
fn all_committed(logs: &Path, checkpoints: &BTreeMap<String, Vec<(u64, i64)>>) -> Result<bool> {
    for (file, lengths) in checkpoints {
        let path = logs.join(file);
        let length = fs::metadata(&path).with_context(|| path.display().to_string())?.len();
        if lengths.last().is_none_or(|(covered, _)| *covered < length) {
            return Ok(false);
        }
    }
    Ok(checkpoints.len() == CONSUMERS)
}

fn tell(say: &dyn Fn(String), what: &str, paced: &[Paced], latencies: &[Latency]) {
    for (paced, Latency { rate, quantiles: [p50, p99, p999] }) in paced.iter().zip(latencies) {
        say(format!(
            "  {what:13}  {:6}/s asked, {rate:7.0}/s made ({:6.1} ms late)  p50 {p50:7.1}  p99 {p99:7.1}  p99.9 {p999:7.1} ms",
            paced.rate, paced.late_p99_ms
        ));
    }
}

fn figures(rate: u64, at: usize, seen: &[Seen], theirs: &[Vec<Latency>]) -> Vec<Figure> {
    let case = format!("Latency at {rate} changes a second");
    let of = |runs: &mut dyn Iterator<Item = &Latency>, q: usize| runs.map(|l| l.quantiles[q]).collect::<Vec<_>>();
    let mut figures = Vec::new();
    for (q, (_, name)) in QUANTILES.iter().enumerate() {
        let is_goal = rate == 1_000 && *name == "p99";
        let debezium = of(&mut theirs.iter().map(|run| &run[at]), q);
        let log = of(&mut seen.iter().map(|run| &run.log[at]), q);
        let goal = if is_goal { "≤ 40 ms, ≥ 5 ×" } else { "" };
        let measure = format!("commit to the line in the log, durable, {name}");
        figures.push(Figure::new([&case, &measure, "ms", "Debezium to a reader", goal], Better::Less, log, debezium));
        let postgres = of(&mut seen.iter().map(|run| &run.postgres[at]), q);
        let measure = format!("commit to the row in PostgreSQL, {name}");
        figures.push(Figure::new([&case, &measure, "ms", "", ""], Better::Less, postgres, vec![]));
        let topic = of(&mut seen.iter().map(|run| &run.topic[at]), q);
        let measure = format!("of it to the record in the topic, {name}");
        figures.push(Figure::new([&case, &measure, "ms", "", ""], Better::Less, topic, vec![]));
    }
    let made = seen.iter().map(|run| run.log[at].rate).collect();
    let beside = theirs.iter().map(|run| run[at].rate).collect();
    let names = [&case, "rate that MySQL reached", "commits/s", "with Debezium", ""];
    figures.push(Figure::new(names, Better::More, made, beside));
    figures
}

/// The stretches, after one that only warms up.
fn stretches(measured: u64) -> impl Iterator<Item = Stretch> {
    let warming = Stretch { rate: 1_000, warm_up: 0, measured: 5 };
    let all = RATES.map(|rate| Stretch { rate, warm_up: 5, measured });
    std::iter::once(warming).chain(all)
}

fn prepare(lab: &Lab) -> Result<Pace> {
    lab.runtime.block_on(async {
        load::prepare_durable(&lab.stack.mysql).await?;
        Pace::new(&lab.stack.mysql).await
    })
}

fn ours(lab: &mut Lab, measured: u64) -> Result<Seen> {
    let mut pace = prepare(lab)?;
    postgres::forget(lab)?;
    keep_commit_times(lab, true)?;
    let name = lab.fresh_name("latency");
    let programs = lab.programs(&name);
    let logs = lab.stack.dir().join("runs").join(&name).join("consumer_logs");
    let mut running = vec![programs.producer()?];
    for number in 1..=CONSUMERS {
        running.push(programs.consumer(number)?);
    }
    // Wait until the group is stable and each of the five consumers has written something.
    let begun = Instant::now();
    while !drain::each_has_lines(&logs) {
        running.iter_mut().try_for_each(Program::check)?;
        ensure!(begun.elapsed() < PATIENCE, "not all consumers have written a line within {PATIENCE:?}");
        let stretch = Stretch { rate: 100, warm_up: 0, measured: 1 };
        (pace, _) = lab.runtime.block_on(pace.run(stretch))?;
    }
    let settings = topic::settings(&lab.kafka(), &name)?;
    let mut slots = settings.clone();
    (slots.topic, slots.partitions) = (format!("{name}.slots"), SLOT_PARTITIONS);
    let tail = tail(&slots)?;
    let checkpoints: RefCell<BTreeMap<String, Vec<(u64, i64)>>> = RefCell::default();
    let mut paced = Vec::new();
    for stretch in stretches(measured) {
        let note = |at: i64, message: &BorrowedMessage<'_>| {
            let checkpoint: LogCheckpoint = serde_json::from_slice(message.payload().unwrap_or_default())?;
            checkpoints.borrow_mut().entry(checkpoint.file).or_default().push((checkpoint.length, at));
            Ok(())
        };
        let part;
        (pace, part) = observe(lab, pace, stretch, &tail, note, |last_id| {
            running.iter_mut().try_for_each(Program::check)?;
            Ok(drain::lines(&logs)? >= last_id && all_committed(&logs, &checkpoints.borrow())?)
        })?;
        paced.push(part);
    }
    paced.remove(0);
    running.iter_mut().rev().try_for_each(Program::stop)?;
    let (mut log, mut appended) = (Vec::new(), Vec::new());
    let written = appended_at(&settings)?;
    for (file, lengths) in checkpoints.into_inner() {
        let mut end = 0;
        for line in fs::read(logs.join(&file))?.split_inclusive(|byte| *byte == b'\n') {
            end += line.len() as u64;
            let line: Line = serde_json::from_slice(line)?;
            let committed = Micros::parse(&line.source_ts).context("a line's source_ts")?.0;
            // Lines before the first log checkpoint that the run saw existed already; they are not measured.
            let checkpoint = lengths.get(lengths.partition_point(|(length, _)| *length < end));
            let (_, arrived) =
                *checkpoint.with_context(|| format!("{file}: no log checkpoint covers product {}", line.id))?;
            log.push(Arrival { id: line.id, committed, arrived });
            let at = written.get(&(line.partition, line.offset)).context("a line without a record")?;
            appended.push(Arrival { id: line.id, committed, arrived: *at });
        }
    }
    let times: BTreeMap<u64, i64> = log.iter().map(|change| (change.id, change.committed)).collect();
    let mut rows = Vec::new();
    for (id, arrived) in commit_times(lab)? {
        let committed = *times.get(&id).with_context(|| format!("product {id} is in PostgreSQL and in no log"))?;
        rows.push(Arrival { id, committed, arrived });
    }
    keep_commit_times(lab, false)?;
    let all = pace.last_id;
    Ok(Seen {
        topic: latencies(appended, all, &paced)?,
        log: latencies(log, all, &paced)?,
        postgres: latencies(rows, all, &paced)?,
        paced,
    })
}

fn debezium(lab: &mut Lab, measured: u64) -> Result<(Vec<Paced>, Vec<Latency>)> {
    let mut pace = prepare(lab)?;
    let name = lab.fresh_name("debezium_latency");
    let mut options = options(lab, lab.stack.dir().join("runs").join(&name), Format::Json);
    options.topic_prefix = name;
    let settings = topic::settings(&lab.kafka(), &options.topic())?;
    lab.runtime.block_on(topic::make_anew(&settings))?;
    Debezium::take_position(&options)?;
    let tail = tail(&settings)?;
    let mut debezium = Debezium::start(&options)?;
    let (mut arrivals, mut paced, count) = (Vec::new(), Vec::new(), Cell::new(0));
    let first = Stretch { rate: 100, warm_up: 0, measured: 1 };
    for stretch in std::iter::once(first).chain(stretches(measured)) {
        let mut messages = Vec::new();
        let note = |at: i64, message: &BorrowedMessage<'_>| {
            messages.push((at, message.payload().unwrap_or_default().to_vec()));
            count.set(count.get() + 1);
            Ok(())
        };
        let part;
        (pace, part) = observe(lab, pace, stretch, &tail, note, |last_id| {
            debezium.check()?;
            Ok(count.get() >= last_id)
        })?;
        for (arrived, payload) in messages {
            let change: Envelope = serde_json::from_slice(&payload)?;
            arrivals.push(Arrival { id: change.after.id, committed: change.source.ts_us, arrived });
        }
        paced.push(part);
    }
    debezium.stop()?;
    let paced = paced.split_off(2);
    let latencies = latencies(arrivals, pace.last_id, &paced)?;
    Ok((paced, latencies))
}

/// Makes the changes of a stretch while reading the tail, until `done` returns true; it is called when no record
/// arrives any more.
fn observe(
    lab: &Lab,
    pace: Pace,
    stretch: Stretch,
    tail: &BaseConsumer,
    mut note: impl FnMut(i64, &BorrowedMessage<'_>) -> Result<()>,
    mut done: impl FnMut(u64) -> Result<bool>,
) -> Result<(Pace, Paced)> {
    let last_id = pace.last_id + stretch.rate * (stretch.warm_up + stretch.measured);
    let load = lab.runtime.spawn(pace.run(stretch));
    let mut since = Instant::now();
    loop {
        testbed::interrupt::check()?;
        if let Some(message) = tail.poll(SILENCE) {
            note(Micros::now().0, &message?)?;
            since = Instant::now();
        } else if load.is_finished() {
            if done(last_id)? {
                break;
            }
            ensure!(since.elapsed() < PATIENCE, "nothing more comes, and not every change has arrived");
        }
    }
    lab.runtime.block_on(load).context("the load died")?
}

/// The latencies of each stretch; changes 1 to `all` must each occur exactly once.
fn latencies(mut arrivals: Vec<Arrival>, all: u64, paced: &[Paced]) -> Result<Vec<Latency>> {
    arrivals.sort_by_key(|arrival| arrival.id);
    if let Some((id, found)) = (1..).zip(&arrivals).find(|(id, found)| found.id != *id) {
        bail!("change {id} is missing or twice: after it comes {}", found.id);
    }
    ensure!(arrivals.len() as u64 == all, "{} of {all} changes have arrived", arrivals.len());
    paced.iter().map(|part| latency(&arrivals, &part.ids)).collect()
}

fn latency(arrivals: &[Arrival], ids: &RangeInclusive<u64>) -> Result<Latency> {
    let part = &arrivals[*ids.start() as usize - 1..*ids.end() as usize];
    let mut times = Histogram::<u64>::new(3)?;
    for Arrival { id, committed, arrived } in part {
        // The broker's clock has whole milliseconds, so the record may seem earlier than the commit by less than one.
        let time = arrived - committed;
        ensure!(time > -1_000, "change {id} arrived {} µs before its commit: was the clock set?", -time);
        times.record(time.max(0).unsigned_abs())?;
    }
    let commits = || part.iter().map(|change| change.committed);
    let span = commits().max().unwrap_or(0) - commits().min().unwrap_or(0);
    let quantiles = QUANTILES.map(|(q, _)| times.value_at_quantile(q) as f64 / 1e3);
    Ok(Latency { rate: part.len() as f64 / (span as f64 / 1e6), quantiles })
}

/// The time at which the broker appended each record of the topic, by partition and offset, in microseconds since 1970.
fn appended_at(settings: &runtime::config::KafkaSettings) -> Result<BTreeMap<(i32, i64), i64>> {
    let mut times = BTreeMap::new();
    kafka::scan(settings, &settings.topic, &mut |message| {
        let at = message.timestamp().to_millis().unwrap_or(0) * 1_000;
        times.insert((message.partition(), message.offset()), at);
        Ok(())
    })?;
    Ok(times)
}

/// Enables or disables PostgreSQL's commit times, which are off by default.
fn keep_commit_times(lab: &mut Lab, keep: bool) -> Result<()> {
    let server = maintenance(lab);
    let statement = format!("ALTER SYSTEM SET track_commit_timestamp = {keep}");
    lab.runtime.block_on(async {
        let client = testbed::postgres(&server).await?;
        anyhow::Ok(client.batch_execute(&statement).await?)
    })?;
    lab.stack.postgres.restart()
}

/// The time at which PostgreSQL committed each product's row, in microseconds since 1970.
fn commit_times(lab: &Lab) -> Result<Vec<(u64, i64)>> {
    let url = lab.stack.postgres.url();
    lab.runtime.block_on(async {
        let client = testbed::postgres(&url).await?;
        let query = "SELECT id, (extract(epoch FROM pg_xact_commit_timestamp(xmin)) * 1000000)::bigint FROM product";
        let rows = client.query(query, &[]).await.context("cannot read the commit times from PostgreSQL")?;
        Ok(rows.iter().map(|row| (row.get::<_, i64>(0) as u64, row.get(1))).collect())
    })
}

fn maintenance(lab: &Lab) -> String {
    let (user, password) = Postgres::SUPERUSER;
    format!("postgres://{user}:{password}@127.0.0.1:{}/postgres", lab.stack.postgres.port)
}

/// The consumers' default for the topic of their log checkpoints.
const SLOT_PARTITIONS: i32 = 16;

/// The committed length of a log.
#[derive(Deserialize)]
struct LogCheckpoint {
    file: String,
    length: u64,
}

#[derive(Deserialize)]
struct Line {
    id: u64,
    source_ts: String,
    partition: i32,
    offset: i64,
}

/// A change in Debezium's format.
#[derive(Deserialize)]
struct Envelope {
    after: After,
    source: Source,
}

#[derive(Deserialize)]
struct After {
    id: u64,
}

#[derive(Deserialize)]
struct Source {
    ts_us: i64,
}
