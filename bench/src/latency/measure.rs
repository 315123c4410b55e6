//! Makes changes at fixed rates, sees when each has arrived, and takes the quantiles.

use std::cell::RefCell;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use hdrhistogram::Histogram;
use model::time::Micros;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::BorrowedMessage;
use rdkafka::{Offset, TopicPartitionList};
use runtime::config::KafkaSettings;

use crate::lab::Lab;
use crate::load;
use crate::pace::{Pace, Paced, Stretch};
use crate::topic;

/// Changes a second of the stretches.
pub(super) const RATES: [u64; 3] = [100, 1_000, 10_000];
/// What a stretch is measured by.
pub(super) const QUANTILES: [(f64, &str); 3] = [(0.5, "p50"), (0.99, "p99"), (0.999, "p99.9")];
/// How long nothing may arrive.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
/// After so long without a record, check whether everything has arrived.
const SILENCE: Duration = Duration::from_millis(300);

/// The times from commit to arrival in one stretch, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Latency {
    /// Commits a second that MySQL reached.
    pub(super) rate: f64,
    pub(super) quantiles: [f64; 3],
}

/// One change: microseconds since 1970.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    pub(super) id: u64,
    pub(super) committed: i64,
    pub(super) arrived: i64,
}

/// The stretches, after one that only warms up.
pub(super) fn stretches(measured: u64) -> impl Iterator<Item = Stretch> {
    let warming = Stretch { rate: 1_000, warm_up: 0, measured: 5 };
    let all = RATES.map(|rate| Stretch { rate, warm_up: 5, measured });
    std::iter::once(warming).chain(all)
}

/// Empties the durable table, and connects the writers.
pub(super) fn prepare(lab: &Lab) -> Result<Pace> {
    lab.runtime.block_on(async {
        load::prepare_durable(&lab.stack.mysql).await?;
        Pace::new(&lab.stack.mysql).await
    })
}

/// A reader of committed records, from the beginning of the topic.
pub(super) fn reader(topic: &KafkaSettings) -> Result<BaseConsumer> {
    let mut partitions = TopicPartitionList::new();
    for partition in 0..topic.partitions {
        partitions.add_partition_offset(&topic.topic, partition, Offset::Beginning)?;
    }
    let reader = topic::reader(topic)?;
    reader.assign(&partitions)?;
    Ok(reader)
}

/// Measures what captures the changes into `topic`, until they are at a reader. `check` fails when it has died, and
/// `change` gives the id and the commit time of a record.
pub(super) fn at_reader(
    lab: &Lab,
    measured: u64,
    mut pace: Pace,
    topic: &KafkaSettings,
    check: &mut dyn FnMut() -> Result<()>,
    change: fn(&BorrowedMessage<'_>) -> Result<(u64, i64)>,
) -> Result<(Vec<Paced>, Vec<Latency>)> {
    let reader = reader(topic)?;
    let (arrivals, mut paced): (RefCell<Vec<Arrival>>, _) = (RefCell::default(), Vec::new());
    let first = Stretch { rate: 100, warm_up: 0, measured: 1 };
    for stretch in std::iter::once(first).chain(stretches(measured)) {
        let note = |arrived: i64, message: &BorrowedMessage<'_>| {
            let (id, committed) = change(message)?;
            arrivals.borrow_mut().push(Arrival { id, committed, arrived });
            Ok(())
        };
        let part;
        (pace, part) = observe(lab, pace, stretch, &reader, note, |last_id| {
            check()?;
            Ok(arrivals.borrow().len() as u64 >= last_id)
        })?;
        paced.push(part);
    }
    let paced = paced.split_off(2);
    let latencies = latencies(arrivals.into_inner(), pace.last_id, &paced)?;
    Ok((paced, latencies))
}

/// Makes the changes of a stretch while reading, until `done` returns true; it is called when no record arrives any
/// more.
pub(super) fn observe(
    lab: &Lab,
    pace: Pace,
    stretch: Stretch,
    reader: &BaseConsumer,
    mut note: impl FnMut(i64, &BorrowedMessage<'_>) -> Result<()>,
    mut done: impl FnMut(u64) -> Result<bool>,
) -> Result<(Pace, Paced)> {
    let last_id = pace.last_id + stretch.rate * (stretch.warm_up + stretch.measured);
    let load = lab.runtime.spawn(pace.run(stretch));
    let mut since = Instant::now();
    loop {
        testbed::interrupt::check()?;
        if let Some(message) = reader.poll(SILENCE) {
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
pub(super) fn latencies(mut arrivals: Vec<Arrival>, all: u64, paced: &[Paced]) -> Result<Vec<Latency>> {
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
        let time = u64::try_from(arrived - committed);
        times.record(time.with_context(|| format!("change {id} arrived before its commit: was the clock set?"))?)?;
    }
    let commits = || part.iter().map(|change| change.committed);
    let span = commits().max().unwrap_or(0) - commits().min().unwrap_or(0);
    let quantiles = QUANTILES.map(|(q, _)| times.value_at_quantile(q) as f64 / 1e3);
    Ok(Latency { rate: part.len() as f64 / (span as f64 / 1e6), quantiles })
}
