//! Ours: the producer alone to a reader of its topic, and with five consumers to the logs and PostgreSQL.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use model::change::{SOURCE_HEADER, Source};
use model::time::Micros;
use rdkafka::consumer::BaseConsumer;
use rdkafka::message::{BorrowedMessage, Message};
use serde::Deserialize;
use testbed::programs::{CONSUMERS, Program, Programs};
use testbed::servers::Postgres;

use super::measure::{Arrival, Latency, PATIENCE, at_reader, latencies, observe, prepare, reader, stretches};
use crate::lab::Lab;
use crate::pace::{Pace, Paced, Stretch};
use crate::{drain, postgres, topic};

/// The results of a run, by rate.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) paced: Vec<Paced>,
    pub(super) log: Vec<Latency>,
    pub(super) postgres: Vec<Latency>,
}

/// The committed lengths of each log, and when the reader has seen them, in microseconds since 1970.
#[derive(Debug, Default)]
pub(super) struct Read(BTreeMap<String, Vec<(u64, i64)>>);

impl Read {
    pub(super) fn note(&mut self, at: i64, message: &BorrowedMessage<'_>) -> Result<()> {
        let checkpoint: LogCheckpoint = serde_json::from_slice(message.payload().unwrap_or_default())?;
        self.0.entry(checkpoint.file).or_default().push((checkpoint.length, at));
        Ok(())
    }

    /// Whether the last log checkpoint of each of the five logs covers the whole log.
    pub(super) fn covers(&self, logs: &Path) -> Result<bool> {
        for (file, lengths) in &self.0 {
            let path = logs.join(file);
            let length = fs::metadata(&path).with_context(|| path.display().to_string())?.len();
            if lengths.last().is_none_or(|(covered, _)| *covered < length) {
                return Ok(false);
            }
        }
        Ok(self.0.len() == CONSUMERS)
    }

    /// When the line of each change was durable.
    pub(super) fn arrivals(&self, logs: &Path) -> Result<Vec<Arrival>> {
        let mut arrivals = Vec::new();
        for (file, lengths) in &self.0 {
            let mut end = 0;
            for line in fs::read(logs.join(file))?.split_inclusive(|byte| *byte == b'\n') {
                end += line.len() as u64;
                let Line { id, source_ts } = serde_json::from_slice(line)?;
                let committed = Micros::parse(&source_ts).context("a line's source_ts")?.0;
                let checkpoint = lengths.get(lengths.partition_point(|(length, _)| *length < end));
                let (_, arrived) =
                    checkpoint.with_context(|| format!("{file}: no log checkpoint covers product {id}"))?;
                arrivals.push(Arrival { id, committed, arrived: *arrived });
            }
        }
        Ok(arrivals)
    }
}

/// The producer alone, to a reader of its topic.
///
/// # Errors
/// When the producer fails, or a change does not arrive exactly once.
pub(super) fn producer_alone(lab: &mut Lab, measured: u64) -> Result<(Vec<Paced>, Vec<Latency>)> {
    let pace = prepare(lab)?;
    let name = lab.fresh_name("latency_topic");
    let topic = topic::settings(&lab.kafka(), &name)?;
    lab.runtime.block_on(topic::make_anew(&topic))?;
    let mut producer = lab.programs(&name).producer()?;
    let results = at_reader(lab, measured, pace, &topic, &mut || producer.check(), change)?;
    producer.stop()?;
    Ok(results)
}

/// The id and the commit time of a record of ours.
fn change(message: &BorrowedMessage<'_>) -> Result<(u64, i64)> {
    let source: Source<'_> = serde_json::from_slice(kafka::header(message, SOURCE_HEADER).context("no header")?)?;
    Ok((std::str::from_utf8(message.key().context("no key")?)?.parse()?, source.ts_us))
}

/// The whole pipeline once.
///
/// # Errors
/// When a program fails, or a change does not arrive exactly once.
pub(super) fn run(lab: &mut Lab, measured: u64) -> Result<Run> {
    let mut pace = prepare(lab)?;
    postgres::forget(lab)?;
    keep_commit_times(lab, true)?;
    let name = lab.fresh_name("latency");
    let logs = lab.stack.dir().join("runs").join(&name).join("consumer_logs");
    let mut running;
    (pace, running) = start(lab, pace, &lab.programs(&name), &logs)?;
    let reader = checkpoints(lab, &name)?;
    let read: RefCell<Read> = RefCell::default();
    let mut paced = Vec::new();
    for stretch in stretches(measured) {
        let note = |at: i64, message: &BorrowedMessage<'_>| read.borrow_mut().note(at, message);
        let part;
        (pace, part) = observe(lab, pace, stretch, &reader, note, |last_id| {
            running.iter_mut().try_for_each(Program::check)?;
            Ok(drain::lines(&logs)? >= last_id && read.borrow().covers(&logs)?)
        })?;
        paced.push(part);
    }
    paced.remove(0);
    running.iter_mut().rev().try_for_each(Program::stop)?;
    let in_log = read.into_inner().arrivals(&logs)?;
    let times: BTreeMap<u64, i64> = in_log.iter().map(|change| (change.id, change.committed)).collect();
    let mut rows = Vec::new();
    for (id, arrived) in commit_times(lab)? {
        let committed = *times.get(&id).with_context(|| format!("product {id} is in PostgreSQL and in no log"))?;
        rows.push(Arrival { id, committed, arrived });
    }
    keep_commit_times(lab, false)?;
    let all = pace.last_id;
    Ok(Run { log: latencies(in_log, all, &paced)?, postgres: latencies(rows, all, &paced)?, paced })
}

/// A reader of the log checkpoints of a topic's consumers.
pub(super) fn checkpoints(lab: &Lab, name: &str) -> Result<BaseConsumer> {
    let mut slots = topic::settings(&lab.kafka(), name)?;
    (slots.topic, slots.partitions) = (format!("{name}.slots"), SLOT_PARTITIONS);
    reader(&slots)
}

/// Starts the programs, and makes changes until the group is stable and each consumer has written something.
pub(super) fn start(lab: &Lab, mut pace: Pace, programs: &Programs, logs: &Path) -> Result<(Pace, Vec<Program>)> {
    let mut running = vec![programs.producer()?];
    for number in 1..=CONSUMERS {
        running.push(programs.consumer(number)?);
    }
    let begun = Instant::now();
    while !drain::each_has_lines(logs) {
        running.iter_mut().try_for_each(Program::check)?;
        ensure!(begun.elapsed() < PATIENCE, "not all consumers have written a line within {PATIENCE:?}");
        let stretch = Stretch { rate: 100, warm_up: 0, measured: 1 };
        (pace, _) = lab.runtime.block_on(pace.run(stretch))?;
    }
    Ok((pace, running))
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
}
